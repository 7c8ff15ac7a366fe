/* What keeps an object alive: the stack, static data, roots, uncollectable objects, interior pointers. */
#include <gc/gc.h>
#include <stdio.h>
#include <stdlib.h>

struct list {
    struct list *next;
    long n;
};
static struct list *in_data;

static struct list *make(int n) {
    struct list *l = 0;
    for (int i = 0; i < n; i++) {
        struct list *m = GC_MALLOC(sizeof *m);
        m->next = l;
        m->n = i;
        l = m;
    }
    return l;
}

static long sum(struct list *l) {
    long s = 0;
    for (; l; l = l->next) s += l->n;
    return s;
}

int main(void) {
    GC_INIT();
    struct list *on_stack = make(1000);
    in_data = make(2000);
    struct list **in_root = malloc(sizeof *in_root);
    *in_root = make(3000);
    GC_add_roots(in_root, in_root + 1);
    struct list **kept = GC_MALLOC_UNCOLLECTABLE(sizeof *kept);
    *kept = make(4000);
    char *inside = (char *)GC_MALLOC(20000) + 12345;
    *inside = 'y';
    char *end = (char *)GC_MALLOC_ATOMIC(48) + 48;
    end[-1] = 'z';
    for (int i = 0; i < 200000; i++) GC_MALLOC(64);
    GC_gcollect();
    for (int i = 0; i < 200000; i++) ((char *)GC_MALLOC(48))[47] = 1;
    printf("%ld %ld %ld %ld %c %c\n", sum(on_stack), sum(in_data), sum(*in_root), sum(*kept), *inside, end[-1]);
    printf("%d\n", GC_get_gc_no() > 0);
    GC_disable();
    unsigned long before = GC_get_gc_no();
    GC_gcollect();
    printf("%d %d\n", GC_get_gc_no() == before, GC_is_disabled());
    GC_enable();
    GC_gcollect();
    printf("%d\n", GC_get_gc_no() > before);
    return 0;
}
