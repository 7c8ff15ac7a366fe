/* 20,000 threads, one after another, leave nothing behind. */
#include "check.h"

static void *work(void *argument) {
    uint64_t random = (uintptr_t)argument + 1;
    void *blocks[40];
    for (int i = 0; i < 40; i++) {
        blocks[i] = malloc(1 + draw_size(&random, i == 0 ? 17 : 11));
        CHECK(blocks[i]);
        memset(blocks[i], 1, malloc_usable_size(blocks[i]));
    }
    for (int i = 0; i < 40; i++) free(blocks[i]);
    return NULL;
}

int main(void) {
    size_t early = 0;
    for (int i = 0; i < 20000; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, work, (void *)(uintptr_t)(i % 500)) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        if (i == 2000) early = resident();
    }
    CHECK(resident() < early + (4u << 20));
    puts("20000 threads, memory bounded");
    return 0;
}
