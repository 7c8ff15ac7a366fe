/* A graph that changes all the time, against a copy that the collector does not see: every object that can be reached
 * has its number, and leads where the copy says. Pointers move between objects, large arrays, roots, registers, objects
 * that live until they are freed, and typed ones. */
#include "say.h"
#include <gc/gc_typed.h>
#include <pthread.h>
#include <stdlib.h>

enum { NODES = 3000, WIDE = 4, STEPS = 60000, THREADS = 2, BIG = 20000 };

struct node { size_t number; struct node *to[WIDE]; char text[40]; };
struct hidden { size_t number; int to[WIDE]; };

/* What leads to a node: nothing else in memory does. */
struct world {
    struct node **array; /* one large object */
    struct hidden *copy; /* of malloc: what it should lead to */
    unsigned long seed;
};

static size_t below(struct world *w, size_t limit) {
    w->seed = w->seed * 6364136223846793005ul + 1442695040888963407ul;
    return (w->seed >> 33) % limit;
}

static void check(struct node *node, size_t number) {
    if (!node || node->number != number || node->text[number % 40] != (char)number) {
        printf("an object is lost: %zu\n", number);
        exit(1);
    }
}

static GC_descr shape;
static size_t numbers;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct node *make(struct world *w) {
    struct node *node;
    switch (below(w, 8)) {
    case 0: node = GC_malloc_explicitly_typed(sizeof *node, shape); break;
    case 1: node = GC_malloc(600); break;
    default: node = GC_malloc(sizeof *node);
    }
    pthread_mutex_lock(&lock);
    node->number = ++numbers;
    pthread_mutex_unlock(&lock);
    node->text[node->number % 40] = (char)node->number;
    return node;
}

/* A place holds a node, and nodes hold what lies in other places: so each is reached by several ways, or by one. */
static void step(struct world *w) {
    size_t a = below(w, NODES), b = below(w, NODES), k = below(w, WIDE);
    struct node *x = w->array[a], *y = w->array[b];
    check(x, w->copy[a].number);
    check(y, w->copy[b].number);
    switch (below(w, 6)) {
    case 0: /* a new one, which holds the old one */
        w->array[a] = make(w);
        w->array[a]->to[k] = y;
        w->copy[a].number = w->array[a]->number;
        memset(w->copy[a].to, 0, sizeof w->copy[a].to);
        memset(x->to, 0, sizeof x->to); /* what is past leads nowhere */
        w->copy[a].to[k] = (int)y->number;
        break;
    case 1: /* only the other object leads to it, for a while */
        if (a != b && x != y) {
            struct node *kept = y->to[k];
            y->to[k] = x;
            w->array[a] = 0;
            GC_free(GC_malloc(48));
            for (int i = 0; i < 20; i++) (void)GC_malloc(64);
            w->array[a] = y->to[k];
            y->to[k] = kept;
        }
        break;
    case 2: { /* only the stack leads to it, for a while */
        struct node *volatile held = x;
        w->array[a] = 0;
        for (int i = 0; i < 20; i++) (void)GC_malloc(32);
        w->array[a] = held;
        break;
    }
    case 3: { /* what it leads to is whole */
        struct node *to = x->to[k];
        if (to) check(to, w->copy[a].to[k]);
        break;
    }
    case 4: { /* an object that lives until it is freed */
        struct node **box = GC_malloc_uncollectable(64);
        box[3] = x;
        w->array[a] = 0;
        for (int i = 0; i < 10; i++) (void)GC_malloc(100);
        w->array[a] = box[3];
        GC_free(box);
        break;
    }
    default: /* it leads elsewhere */
        x->to[k] = y;
        w->copy[a].to[k] = (int)y->number;
    }
}

static void *work(void *arg) {
    struct world w = {.seed = (unsigned long)(size_t)arg};
    w.array = GC_malloc(BIG * sizeof *w.array);
    w.copy = calloc(NODES, sizeof *w.copy);
    for (int i = 0; i < NODES; i++) {
        w.array[i] = make(&w);
        w.copy[i].number = w.array[i]->number;
    }
    /* Long enough for some collections, wherever this runs. */
    for (int i = 0; i < STEPS || (i < 10 * STEPS && GC_get_gc_no() < 4); i++) step(&w);
    for (int i = 0; i < NODES; i++) {
        check(w.array[i], w.copy[i].number);
        for (int k = 0; k < WIDE; k++)
            if (w.array[i]->to[k]) check(w.array[i]->to[k], w.copy[i].to[k]);
    }
    free(w.copy);
    return 0;
}

int main(void) {
    GC_INIT();
    GC_word bits = 0;
    for (size_t i = 1; i <= WIDE; i++) bits |= (GC_word)1 << i;
    shape = GC_make_descriptor(&bits, 1 + WIDE);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, work, (void *)(size_t)(i + 1));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
    printf("every object was where it should be\n");
    return 0;
}
