/* Allocation, sizes, strings, alignments, kinds. */
#include "say.h"
#include <errno.h>
#include <gc/gc_inline.h>
#include <gc/gc_mark.h>

static int zeros(const char *object, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (object[i]) return 0;
    return 1;
}

int main(void) {
    GC_INIT();
    for (size_t size = 0; size < 300000; size = size * 3 / 2 + 7) {
        char *object = GC_MALLOC(size);
        if (!zeros(object, size) || GC_base(object) != object || GC_size(object) < size) return 1;
        if (size && GC_base(object + size - 1) != object) return 2;
        memset(object, 1, size);
        char *atomic = GC_MALLOC_ATOMIC(size), *kept = GC_MALLOC_UNCOLLECTABLE(size);
        if (!zeros(kept, size)) return 3;
        memset(atomic, 2, size);
        memset(kept, 3, size);
        object = GC_REALLOC(object, size * 2 + 1);
        for (size_t i = 0; i < size; i++)
            if (object[i] != 1) return 4;
        if (!zeros(object + size, size + 1)) return 5;
        GC_FREE(object);
        GC_FREE(kept);
    }
    SAY(GC_base(&errno) == NULL);
    SAY(GC_is_heap_ptr(GC_MALLOC(5)));
    SAY(GC_is_heap_ptr(&errno));
    puts(GC_STRDUP("a string"));
    puts(GC_STRNDUP("a string", 3));
    SAY(GC_strdup(NULL) == NULL);
    SAY(GC_REALLOC(GC_MALLOC(8), 0) == NULL);
    for (size_t align = 1; align <= 4096; align *= 2)
        if ((size_t)GC_memalign(align, 100) % align) return 6;
    void *place = NULL;
    SAY(GC_posix_memalign(&place, 3, 10) == EINVAL);
    SAY(GC_posix_memalign(&place, 256, 10));
    SAY((size_t)place % 256);
    size_t size = 0;
    SAY(GC_get_kind_and_size(GC_MALLOC_ATOMIC(16), &size) == GC_I_PTRFREE);
    SAY(GC_get_kind_and_size(GC_MALLOC(16), &size) == GC_I_NORMAL);
    SAY(size >= 16);
    void **chain = GC_malloc_many(32);
    int count = 0;
    for (; chain; chain = *chain) count++;
    SAY(count >= 1);
    SAY(GC_get_size_map_at(-1) == (size_t)-1);
    SAY(GC_generic_malloc(24, GC_I_NORMAL) != NULL);
    SAY(GC_generic_malloc_uncollectable(24, GC_I_NORMAL) != NULL);
    return 0;
}
