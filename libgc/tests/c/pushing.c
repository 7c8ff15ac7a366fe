/* Roots that the program pushes, callbacks, the allocation lock. */
#include <gc/gc.h>
#include <gc/gc_mark.h>
#include <stdio.h>
#include <stdlib.h>

static void **elsewhere;
static int begun, pushed;
static GC_push_other_roots_proc before;
static void begin(void) { begun++; }
static void push(void) {
    pushed++;
    GC_push_all_eager(elsewhere, elsewhere + 1);
    before();
}
static void *locked(void *p) { return GC_base(p); }

int main(void) {
    GC_INIT();
    elsewhere = malloc(sizeof *elsewhere);
    before = GC_get_push_other_roots();
    GC_set_push_other_roots(push);
    GC_set_start_callback(begin);
    long *object = GC_MALLOC_ATOMIC(64);
    *object = 77;
    *elsewhere = (char *)object + 8;
    object = 0;
    for (int i = 0; i < 3; i++) {
        GC_gcollect();
        for (int k = 0; k < 50000; k++) *(long *)GC_MALLOC_ATOMIC(64) = 1;
    }
    printf("%ld %d %d\n", ((long *)*elsewhere)[-1], begun == pushed, begun >= 3);
    char *p = GC_MALLOC(100);
    printf("%d\n", GC_call_with_alloc_lock(locked, p + 50) == p);
    size_t heap, total;
    GC_get_heap_usage_safe(&heap, 0, 0, 0, &total);
    printf("%d %d\n", heap > 0, total >= 3 * 50000 * 64 - (64 << 10));
    return 0;
}
