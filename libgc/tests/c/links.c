/* Disappearing links, short and long, and finalizers in their orders. */
#include "say.h"

#define COUNT 64

static void **shorts, **longs;
static int normal, no_order, ignore_self, unreachable;

static void count(void *object, void *counter) {
    (void)object;
    ++*(int *)counter;
}

static __attribute__((noinline)) void make(void) {
    for (int i = 0; i < COUNT; i++) {
        void **object = GC_MALLOC(48);
        shorts[i] = (void *)GC_HIDE_POINTER(object);
        longs[i] = (void *)GC_HIDE_POINTER(object);
        GC_general_register_disappearing_link(&shorts[i], object);
        GC_register_long_link(&longs[i], object);
        /* It leads to itself: only those for whom that does not count are finalized. */
        void **ring = GC_MALLOC(48);
        *ring = ring;
        GC_REGISTER_FINALIZER_IGNORE_SELF(ring, count, &ignore_self, NULL, NULL);
        GC_REGISTER_FINALIZER_NO_ORDER(object, count, &no_order, NULL, NULL);
        GC_REGISTER_FINALIZER(GC_MALLOC(48), count, &normal, NULL, NULL);
        GC_REGISTER_FINALIZER_UNREACHABLE(GC_MALLOC(48), count, &unreachable, NULL, NULL);
    }
}

static int gone(void **links) {
    int sum = 0;
    for (int i = 0; i < COUNT; i++) sum += links[i] == NULL;
    return sum;
}

int main(void) {
    GC_INIT();
    shorts = GC_MALLOC_ATOMIC_UNCOLLECTABLE(COUNT * sizeof *shorts);
    longs = GC_MALLOC_ATOMIC_UNCOLLECTABLE(COUNT * sizeof *longs);
    void *kept = GC_MALLOC(16), *link = (void *)GC_HIDE_POINTER(kept), *other = NULL;
    SAY(GC_general_register_disappearing_link(&link, kept));
    SAY(GC_general_register_disappearing_link(&link, kept));
    SAY(GC_move_disappearing_link(&link, &other));
    SAY(GC_move_disappearing_link(&link, &other));
    SAY(GC_unregister_disappearing_link(&link));
    SAY(GC_unregister_disappearing_link(&other));
    SAY(GC_register_long_link(&link, kept));
    SAY(GC_move_long_link(&link, &other));
    SAY(GC_unregister_long_link(&other));
    GC_finalization_proc old = NULL;
    void *data = NULL;
    GC_REGISTER_FINALIZER(kept, count, &normal, &old, &data);
    SAY(old == NULL);
    GC_REGISTER_FINALIZER(kept, NULL, NULL, &old, &data);
    SAY(old == count && data == &normal);
    make();
    collect();
    SAY(gone(shorts) >= COUNT - 4);
    SAY(gone(longs) >= COUNT - 4);
    SAY(normal >= COUNT - 4 && normal <= COUNT);
    SAY(no_order >= COUNT - 4 && no_order <= COUNT);
    SAY(ignore_self >= COUNT - 4 && ignore_self <= COUNT);
    SAY(unreachable >= COUNT - 4 && unreachable <= COUNT);
    SAY(GC_should_invoke_finalizers());
    GC_reachable_here(kept);
    return 0;
}
