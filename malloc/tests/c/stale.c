/* What an allocator wrote into free blocks may turn up in memory it hands out
 * later, and a program may copy it without looking: a structure with gaps, the
 * unused end of a buffer that realloc moves. That must never look like misuse. */
#include "check.h"

enum { SMALL = 20000, LARGE = 256 * 1024 };
static void *small[SMALL];

/* Leaves memory full of what free blocks of one size contain. */
static void litter(size_t size) {
    for (int i = 0; i < SMALL; i++) CHECK((small[i] = malloc(size)));
    for (int i = 0; i < SMALL; i++) free(small[(i * 7919) % SMALL]);
}

/* Copies that, unread, into new blocks at every offset it can have. */
static void spread(size_t size) {
    enum { SOURCES = 8 };
    unsigned char *sources[SOURCES];
    for (int i = 0; i < SOURCES; i++) CHECK((sources[i] = malloc(LARGE)));
    for (int i = 0; i < SOURCES; i++)
        for (size_t from = 0; from + size <= LARGE; from += 16 * 37) {
            void *copy = malloc(size);
            CHECK(copy);
            memcpy(copy, sources[i] + from, size);
            CHECK(malloc_usable_size(copy) >= size);
            if (from % 32) CHECK((copy = realloc(copy, size * 2)));
            free(copy);
        }
    for (int i = 0; i < SOURCES; i++) {
        CHECK((sources[i] = realloc(sources[i], LARGE / 16)));
        CHECK(malloc_usable_size(sources[i]) >= LARGE / 16);
        free(sources[i]);
    }
}

static void *in_thread(void *argument) {
    spread(48);
    return argument;
}

int main(void) {
    for (size_t size = 16; size <= 4096; size = size * 5 / 2) {
        litter(size);
        spread(size);
        spread(64);
    }
    pthread_t thread;
    litter(32);
    CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    puts("no false alarm");
    return 0;
}
