/* The calls that `GC_DEBUG` makes of the usual ones. Their objects may have a header, so sizes are not looked at. */
#define GC_DEBUG
#include "say.h"
#include <gc/gc_mark.h>

static int finalized;
static void finalize(void *object, void *data) {
    (void)object;
    finalized += (int)(long)data;
}

static __attribute__((noinline)) void make(void) {
    for (long i = 0; i < 64; i++) GC_REGISTER_FINALIZER_NO_ORDER(GC_MALLOC(40), finalize, (void *)1, NULL, NULL);
}

int main(void) {
    GC_INIT();
    long *object = GC_MALLOC(80);
    SAY(object[9]);
    SAY((char *)GC_base(object) + GC_get_debug_header_size() == (char *)object);
    object = GC_REALLOC(object, 160);
    SAY(object[19]);
    puts(GC_STRDUP("a string"));
    puts(GC_STRNDUP("a string", 4));
    GC_FREE(object);
    GC_FREE(GC_MALLOC_ATOMIC(9));
    GC_FREE(GC_MALLOC_UNCOLLECTABLE(9));
    GC_FREE(GC_MALLOC_ATOMIC_UNCOLLECTABLE(9));
    SAY(GC_MALLOC_IGNORE_OFF_PAGE(100000) != NULL);
    SAY(GC_MALLOC_ATOMIC_IGNORE_OFF_PAGE(100000) != NULL);
    long **place = GC_MALLOC(16);
    GC_PTR_STORE_AND_DIRTY(place, place);
    SAY(*place == (long *)place);
    GC_REGISTER_DISPLACEMENT(8);
    make();
    collect();
    SAY(finalized >= 60);
    return 0;
}
