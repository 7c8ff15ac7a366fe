/* What is a root by hand, what the program pushes, and kinds with procedures. */
#include "say.h"
#include <gc/gc_mark.h>
#include <sys/mman.h>

#define COUNT 64
static void **links;
static void **apart; /* memory that the collector does not know */

static __attribute__((noinline)) void make(void) {
    for (int i = 0; i < COUNT; i++) {
        apart[i] = GC_MALLOC(40);
        links[i] = (void *)GC_HIDE_POINTER(apart[i]);
        GC_general_register_disappearing_link(&links[i], apart[i]);
    }
}

static int gone(void) {
    int sum = 0;
    for (int i = 0; i < COUNT; i++) sum += links[i] == NULL;
    return sum;
}

static GC_push_other_roots_proc before;
static int pushed;
static void push(void) {
    GC_push_all_eager(apart, apart + COUNT);
    pushed++;
    before();
}

static int marked;
static struct GC_ms_entry *mark(GC_word *object, struct GC_ms_entry *stack, struct GC_ms_entry *limit, GC_word word) {
    (void)word;
    /* Objects that are free or fresh have a zero here. */
    if (object[0]) marked++;
    return GC_MARK_AND_PUSH((void *)object[1], stack, limit, (void **)&object[1]);
}

int main(void) {
    GC_INIT();
    links = GC_MALLOC_ATOMIC_UNCOLLECTABLE(COUNT * sizeof *links);
    apart = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    GC_add_roots(apart, apart + COUNT);
    make();
    collect();
    SAY(gone());
    GC_remove_roots(apart, apart + COUNT);
    before = GC_get_push_other_roots();
    GC_set_push_other_roots(push);
    collect();
    SAY(gone());
    SAY(pushed >= 4);
    GC_set_push_other_roots(before);
    collect();
    SAY(gone() >= COUNT - 4);
    unsigned kind = GC_new_kind(GC_new_free_list(), GC_MAKE_PROC(GC_new_proc(mark), 0), 0, 1);
    GC_word *volatile held = GC_generic_malloc(32, (int)kind);
    held[0] = 1;
    held[1] = (GC_word)GC_MALLOC(32);
    *(long *)held[1] = 42;
    collect();
    SAY(marked >= 1);
    SAY(*(long *)held[1]);
    return 0;
}
