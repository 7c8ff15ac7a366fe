/* The process ends by returning from main while threads allocate as hard as
 * they can, and while handlers at exit and destructors allocate and free. */
#include "check.h"
#include <stdatomic.h>

static _Atomic(void *) table[64];
static void *kept[3];

static void *hammer(void *argument) {
    uint64_t random = (uintptr_t)argument + 3;
    for (;;) {
        size_t size = draw_size(&random, 17);
        free(atomic_exchange(&table[draw(&random) % 64], malloc(size)));
    }
    return NULL;
}

static void at_exit(void) {
    free(kept[0]);
    for (size_t i = 0; i < 1000; i++) free(malloc(i * 37));
    kept[0] = malloc(100);
}

static void __attribute__((destructor)) finish(void) {
    free(kept[1]);
    kept[1] = malloc(100000);
}

static void __attribute__((destructor(101))) finish_last(void) {
    free(kept[0]);
    free(kept[1]);
    free(kept[2]);
    free(malloc(1000));
}

int main(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) CHECK((kept[i] = malloc(1000)));
    CHECK(atexit(at_exit) == 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&thread, NULL, hammer, (void *)(uintptr_t)i) == 0);
    usleep(100 * 1000);
    puts("left running");
    return 0;
}
