/* What runs while a thread ends: destructors of thread keys, in several rounds
 * and of keys older and younger than the allocator's own; cleanup handlers of
 * cancelled threads. All of them allocate and free. */
#include "check.h"
#include <stdatomic.h>

enum { KEYS = 24, THREADS = 400 };
static pthread_key_t keys[KEYS];
static atomic_int destroyed, cleaned;

struct value {
    pthread_key_t key;
    int round;
    void *blocks[4];
};

static struct value *value(pthread_key_t key, int round) {
    struct value *made = malloc(sizeof *made);
    CHECK(made);
    made->key = key;
    made->round = round;
    for (int i = 0; i < 4; i++) {
        size_t size = (size_t)40 << (3 * i);
        made->blocks[i] = calloc(1, size);
        CHECK(made->blocks[i] && all_zero(made->blocks[i], size));
        memset(made->blocks[i], 1, size);
    }
    return made;
}

static void destroy(void *argument) {
    struct value *old = argument;
    int round = old->round;
    pthread_key_t key = old->key;
    for (int i = 0; i < 4; i++) free(old->blocks[i]);
    free(old);
    atomic_fetch_add(&destroyed, 1);
    if (round < 3) CHECK(pthread_setspecific(key, value(key, round + 1)) == 0);
}

static void *key_user(void *argument) {
    (void)argument;
    for (int i = 0; i < KEYS; i++) CHECK(pthread_setspecific(keys[i], value(keys[i], 1)) == 0);
    return NULL;
}

/* Allocates for the first time in a destructor. */
static void first_call(void *argument) {
    (void)argument;
    void *block = malloc(100);
    CHECK(block);
    free(block);
    atomic_fetch_add(&destroyed, 1);
}

static pthread_key_t untouched_key;
static void *untouched(void *argument) {
    CHECK(pthread_setspecific(untouched_key, argument) == 0);
    return NULL;
}

static void cleanup(void *argument) {
    free(argument);
    free(malloc(5000));
    atomic_fetch_add(&cleaned, 1);
}

static void *cancelled(void *argument) {
    (void)argument;
    pthread_cleanup_push(cleanup, malloc(3000));
    for (;;) {
        free(malloc(64));
        free(malloc(200000));
        pthread_testcancel();
    }
    pthread_cleanup_pop(1);
    return NULL;
}

/* Ends through pthread_exit, detached, with blocks nobody frees. */
static atomic_int detached_ended;
static void *detached(void *argument) {
    (void)argument;
    CHECK(malloc(100));
    atomic_fetch_add(&detached_ended, 1);
    pthread_exit(NULL);
}

int main(void) {
    pthread_t threads[4];
    for (int i = 0; i < KEYS; i++) CHECK(pthread_key_create(&keys[i], destroy) == 0);
    CHECK(pthread_key_create(&untouched_key, first_call) == 0);
    for (int batch = 0; batch < THREADS / 4; batch++) {
        for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, key_user, NULL) == 0);
        for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    }
    printf("%d values destroyed\n", atomic_load(&destroyed));

    atomic_store(&destroyed, 0);
    for (int i = 0; i < 100; i++) {
        CHECK(pthread_create(&threads[0], NULL, untouched, &untouched_key) == 0);
        CHECK(pthread_join(threads[0], NULL) == 0);
    }
    printf("%d threads allocated first in a destructor\n", atomic_load(&destroyed));

    for (int batch = 0; batch < 10; batch++) {
        for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, cancelled, NULL) == 0);
        usleep(2000);
        for (int i = 0; i < 4; i++) CHECK(pthread_cancel(threads[i]) == 0);
        for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    }
    printf("%d cancelled threads\n", atomic_load(&cleaned) ? 40 : 0);

    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    for (int i = 0; i < 100; i++) CHECK(pthread_create(&threads[0], &attributes, detached, NULL) == 0);
    while (atomic_load(&detached_ended) < 100) usleep(1000);
    puts("detached threads");
    return 0;
}
