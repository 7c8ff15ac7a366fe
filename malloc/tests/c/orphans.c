/* Blocks outlive the threads that made them. Others use, grow and free them,
 * and generations of threads do not pile memory up.
 *
 * usage: orphans [returned]   with the word, the memory must go back as well,
 *                             which the C library's allocator does not promise */
#include "check.h"

enum { THREADS = 200, BLOCKS = 600 };
static void *blocks[THREADS][BLOCKS];

static size_t size_of(size_t thread, size_t block) { return 16 + (thread * 7 + block * 13) % 3000; }

static void *make(void *argument) {
    size_t thread = (uintptr_t)argument;
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[thread][i] = malloc(size_of(thread, i));
        CHECK(blocks[thread][i]);
        memset(blocks[thread][i], (int)thread, size_of(thread, i));
    }
    return NULL;
}

static void take_over(size_t thread) {
    for (size_t i = 0; i < BLOCKS; i++) {
        unsigned char *block = blocks[thread][i];
        size_t size = size_of(thread, i);
        CHECK(block[0] == (unsigned char)thread && block[size - 1] == (unsigned char)thread);
        if (i % 5 == 0) {
            block = realloc(block, size * 2);
            CHECK(block && block[0] == (unsigned char)thread && block[size - 1] == (unsigned char)thread);
        }
        free(block);
    }
}

static void one(size_t i) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, make, (void *)(uintptr_t)i) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* A thread that frees what its forerunner left, and leaves its own. */
static void *inherit(void *argument) {
    size_t i = (uintptr_t)argument;
    if (i > 0) take_over(i - 1);
    return make(argument);
}

int main(int count, char **arguments) {
    int returned = count == 2 && strcmp(arguments[1], "returned") == 0;
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, make, (void *)(uintptr_t)i) == 0);
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    size_t peak = resident();
    CHECK(peak > (size_t)THREADS * BLOCKS * 1400);
    for (size_t i = 0; i < THREADS; i++) take_over(i);
    CHECK(!returned || resident_falls_to(peak / 6));
    puts("orphans freed");

    size_t base = resident();
    for (size_t generation = 0; generation < 400; generation++) {
        one(generation % THREADS);
        take_over(generation % THREADS);
    }
    CHECK(resident() < base + (32u << 20));
    for (size_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, inherit, (void *)(uintptr_t)i) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    take_over(THREADS - 1);
    CHECK(resident() < base + (32u << 20));
    puts("generations, memory bounded");
    return 0;
}
