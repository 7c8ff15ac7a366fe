/* A second library to preload beside the allocator: its constructor allocates
 * and has threads, its destructor frees. */
#include "check.h"

static void *blocks[50];

static void *work(void *argument) {
    for (size_t i = 0; i < 2000; i++) free(malloc(i * 5));
    return argument;
}

static void __attribute__((constructor)) load(void) {
    pthread_t thread;
    for (size_t i = 0; i < 50; i++) CHECK((blocks[i] = malloc(i * 3000)));
    CHECK(pthread_create(&thread, NULL, work, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void __attribute__((destructor)) unload(void) {
    for (size_t i = 0; i < 50; i++) free(blocks[i]);
    free(malloc(100));
}
