/* Finalizers in their orders, what they return of the one before, short and long links. */
#include <gc/gc.h>
#include <stdio.h>

#define HIDE(p) (~(size_t)(p))
static int ran[4];
static void count(void *object, void *which) {
    (void)object;
    ran[(size_t)which]++;
}

static void *links[2];
struct pair {
    void *first, *second;
};

static void __attribute__((noinline)) make(void) {
    for (int i = 0; i < 100; i++) {
        struct pair *a = GC_MALLOC(sizeof *a), *b = GC_MALLOC(sizeof *b);
        a->first = b;
        GC_REGISTER_FINALIZER(a, count, (void *)0, 0, 0);
        GC_REGISTER_FINALIZER(b, count, (void *)1, 0, 0);
        struct pair *self = GC_MALLOC(sizeof *self);
        self->first = self;
        GC_REGISTER_FINALIZER_IGNORE_SELF(self, count, (void *)2, 0, 0);
        struct pair *loose = GC_MALLOC(sizeof *loose);
        loose->first = loose;
        GC_REGISTER_FINALIZER_NO_ORDER(loose, count, (void *)3, 0, 0);
        links[0] = loose;
        links[1] = loose;
        if (i == 99) {
            GC_general_register_disappearing_link(&links[0], loose);
            GC_register_long_link(&links[1], loose);
        }
    }
    size_t hidden[2] = {HIDE(links[0]), HIDE(links[1])};
    links[0] = (void *)0;
    links[1] = (void *)0;
    (void)hidden;
}

static void __attribute__((noinline)) clear_stack(void) {
    volatile char room[20000];
    for (unsigned i = 0; i < sizeof room; i++) room[i] = 0;
}

int main(void) {
    GC_INIT();
    make();
    clear_stack();
    GC_gcollect();
    GC_invoke_finalizers();
    int first = ran[0], second = ran[1];
    printf("outer first: %d %d\n", first > 90, second < 10);
    GC_gcollect();
    GC_invoke_finalizers();
    GC_gcollect();
    GC_invoke_finalizers();
    printf("%d %d %d %d\n", ran[0] > 90, ran[1] > 90, ran[2] > 90, ran[3] > 90);
    void *p = GC_MALLOC(16), *data;
    GC_finalization_proc old;
    GC_REGISTER_FINALIZER(p, count, (void *)2, &old, &data);
    printf("%d\n", old == 0);
    GC_REGISTER_FINALIZER(p, 0, 0, &old, &data);
    printf("%d %d\n", old == count, data == (void *)2);
    static void *link;
    link = p;
    printf("%d\n", GC_general_register_disappearing_link(&link, p));
    printf("%d\n", GC_general_register_disappearing_link(&link, p));
    printf("%d %d\n", GC_unregister_disappearing_link(&link), GC_unregister_disappearing_link(&link));
    static void *to;
    GC_general_register_disappearing_link(&link, p);
    printf("%d %d\n", GC_move_disappearing_link(&link, &to), GC_move_disappearing_link(&link, &to));
    return p == 0;
}
