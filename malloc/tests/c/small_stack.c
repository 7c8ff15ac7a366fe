/* Threads with the smallest stack there is, on every path of the allocator,
 * each time as the first thing a fresh thread does. */
#define _GNU_SOURCE
#include "check.h"
#include <limits.h>

static void *path(void *argument) {
    size_t which = (uintptr_t)argument;
    size_t size = (size_t)1 << (which % 27);
    unsigned char *block = NULL;
    switch (which / 27) {
    case 0: block = malloc(size); break;
    case 1: block = calloc(1, size); break;
    case 2: block = memalign(size < 16 ? 16 : size, size + 1); break;
    case 3: block = realloc(malloc(size), size * 3); break;
    case 4: block = realloc(malloc(size * 3), size); break;
    case 5: block = valloc(size); malloc_trim(0); break;
    }
    CHECK(block);
    block[0] = block[size - 1] = 1;
    CHECK(malloc_usable_size(block) >= size);
    return block;
}

/* Refills, drains and gives back whole spans of each class in one thread. */
static void *sweep(void *argument) {
    enum { HELD = 700 };
    static __thread void *held[HELD];
    (void)argument;
    for (size_t size = 16; size <= 40000; size = size * 3 / 2) {
        for (int i = 0; i < HELD; i++) CHECK((held[i] = malloc(size)));
        for (int i = 0; i < HELD; i++) free(held[(i * 11) % HELD]);
    }
    return NULL;
}

int main(void) {
    pthread_attr_t attributes;
    long stack = sysconf(_SC_THREAD_STACK_MIN);
    CHECK(pthread_attr_init(&attributes) == 0);
    /* The thread-local blocks of the libraries take their part of the stack. */
    CHECK(pthread_attr_setstacksize(&attributes, (size_t)(stack > 16384 ? stack : 16384) + 8192) == 0);
    for (size_t which = 0; which < 6 * 27; which++) {
        pthread_t thread;
        void *block;
        CHECK(pthread_create(&thread, &attributes, path, (void *)(uintptr_t)which) == 0);
        CHECK(pthread_join(thread, &block) == 0);
        free(block);
    }
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, &attributes, sweep, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    puts("every path on the smallest stack");
    return 0;
}
