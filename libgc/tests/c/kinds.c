/* Kinds with mark procedures, typed objects, chains that the program owns. */
#include <gc/gc.h>
#include <gc/gc_inline.h>
#include <gc/gc_mark.h>
#include <gc/gc_typed.h>
#include <stdio.h>

struct odd {
    size_t tag, hidden;
};
static int marked;
static struct GC_ms_entry *mark(GC_word *at, struct GC_ms_entry *top, struct GC_ms_entry *limit, GC_word env) {
    struct odd *o = (struct odd *)at;
    (void)env;
    if (!o->tag) return top;
    marked++;
    void *p = (void *)~o->hidden;
    return GC_MARK_AND_PUSH(p, top, limit, 0);
}

static void __attribute__((noinline)) fill(struct odd **all, int kind) {
    for (int i = 0; i < 50; i++) {
        struct odd *o = GC_generic_malloc(sizeof *o, kind);
        long *value = GC_MALLOC_ATOMIC(32);
        *value = i;
        o->hidden = ~(size_t)value;
        o->tag = 1;
        all[i] = o;
    }
}

int main(void) {
    GC_INIT();
    int kind = GC_new_kind(GC_new_free_list(), GC_MAKE_PROC(GC_new_proc(mark), 0), 0, 1);
    struct odd **all = GC_MALLOC(50 * sizeof *all);
    fill(all, kind);
    for (int i = 0; i < 100000; i++) *(long *)GC_MALLOC_ATOMIC(32) = -1;
    GC_gcollect();
    for (int i = 0; i < 100000; i++) *(long *)GC_MALLOC_ATOMIC(32) = -1;
    long sum = 0;
    for (int i = 0; i < 50; i++) sum += *(long *)~all[i]->hidden;
    printf("%ld %d\n", sum, marked >= 50);

    GC_word bits[1] = {5};
    GC_descr described = GC_make_descriptor(bits, 3);
    void ***typed = GC_malloc_explicitly_typed(3 * sizeof *typed, described);
    typed[0] = GC_MALLOC(64);
    typed[2] = GC_MALLOC(64);
    typed[0][7] = typed;
    typed[2][7] = typed;
    GC_gcollect();
    for (int i = 0; i < 100000; i++) GC_MALLOC(64);
    printf("%d %d\n", typed[0][7] == typed, typed[2][7] == typed);

    void *chain;
    GC_generic_malloc_many(48, 1, &chain);
    int before = 0, after = 0;
    for (void *at = chain; at; at = GC_NEXT(at)) before++;
    GC_gcollect();
    for (int i = 0; i < 100000; i++) GC_MALLOC(48);
    for (void *at = chain; at; at = GC_NEXT(at)) after++;
    printf("%d\n", before == after);
    return 0;
}
