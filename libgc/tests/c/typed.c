/* Objects whose pointers a descriptor knows, displacements, and arithmetic that is checked. */
#include "say.h"
#include <gc/gc_gcj.h>
#include <gc/gc_mark.h>
#include <gc/gc_typed.h>

#define COUNT 64
static void **seen, **unseen;
static void **holders;

static __attribute__((noinline)) void make(GC_descr descriptor) {
    for (int i = 0; i < COUNT; i++) {
        void **holder = GC_malloc_explicitly_typed(4 * sizeof *holder, descriptor);
        holder[1] = GC_MALLOC(32);
        holder[2] = GC_MALLOC(32);
        seen[i] = (void *)GC_HIDE_POINTER(holder[1]);
        unseen[i] = (void *)GC_HIDE_POINTER(holder[2]);
        GC_general_register_disappearing_link(&seen[i], holder[1]);
        GC_general_register_disappearing_link(&unseen[i], holder[2]);
        holders[i] = holder;
    }
}

static int gone(void **links) {
    int sum = 0;
    for (int i = 0; i < COUNT; i++) sum += links[i] == NULL;
    return sum;
}

int main(void) {
    GC_INIT();
    seen = GC_MALLOC_ATOMIC_UNCOLLECTABLE(COUNT * sizeof *seen);
    unseen = GC_MALLOC_ATOMIC_UNCOLLECTABLE(COUNT * sizeof *unseen);
    holders = GC_MALLOC_UNCOLLECTABLE(COUNT * sizeof *holders);
    GC_word bits[GC_BITMAP_SIZE(void *[4])] = {0};
    GC_set_bit(bits, 1);
    make(GC_make_descriptor(bits, 4));
    collect();
    SAY(gone(seen));
    SAY(gone(unseen) >= COUNT - 4);
    SAY(GC_calloc_explicitly_typed(10, 32, GC_make_descriptor(bits, 4)) != NULL);
    char *object = GC_MALLOC(64), *at = object;
    SAY(GC_same_obj(object, object + 63) == object);
    SAY((char *)GC_pre_incr((void **)&at, 16) - object);
    SAY((char *)GC_post_incr((void **)&at, 16) - object);
    SAY(at - object);
    SAY(GC_is_valid_displacement(object) == object);
    SAY(GC_is_visible(&seen) == &seen);
    static struct {
        void *first;
        GC_word descriptor;
    } table = {NULL, 16};
    GC_init_gcj_malloc(0, NULL);
    void **typed = GC_GCJ_MALLOC(16, &table);
    SAY(*typed == &table);
    SAY(typed[1] == NULL);
    return 0;
}
