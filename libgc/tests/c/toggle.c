/* References of which the program says whether they hold their object. */
#include "say.h"

#define COUNT 64
static void **hidden;
static GC_ToggleRefStatus answer = GC_TOGGLE_REF_STRONG;

static int asked;

static GC_ToggleRefStatus ask(void *object) {
    asked += object != NULL;
    return answer;
}

static __attribute__((noinline)) void make(void) {
    for (int i = 0; i < COUNT; i++) {
        void *object = GC_MALLOC(40);
        hidden[i] = (void *)GC_HIDE_POINTER(object);
        GC_general_register_disappearing_link(&hidden[i], object);
        if (GC_toggleref_add(object, 1) != GC_SUCCESS) puts("refused");
    }
}

static int gone(void) {
    int sum = 0;
    for (int i = 0; i < COUNT; i++) sum += hidden[i] == NULL;
    return sum;
}

int main(void) {
    GC_INIT();
    hidden = GC_MALLOC_ATOMIC_UNCOLLECTABLE(COUNT * sizeof *hidden);
    GC_set_toggleref_func(ask);
    SAY(GC_get_toggleref_func() == ask);
    make();
    collect();
    SAY(gone());
    /* When what was dropped goes differs: the other library's own table may still lead to it. */
    answer = GC_TOGGLE_REF_DROP;
    collect();
    int before = asked;
    SAY(before >= COUNT);
    collect();
    SAY(asked - before);
    return 0;
}
