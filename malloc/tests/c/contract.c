/* The letter of the contract: what malloc, calloc, realloc, reallocarray, free
 * and malloc_usable_size promise for ordinary, zero, and impossible sizes. */
#include "check.h"

static const size_t impossible[] = {
    (size_t)PTRDIFF_MAX + 1, (size_t)PTRDIFF_MAX,  SIZE_MAX,        SIZE_MAX - 15, SIZE_MAX - 4096,
    SIZE_MAX - 8192,         SIZE_MAX - (4 << 20), (size_t)1 << 62, (size_t)1 << 48,
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void alignment_and_room(void) {
    for (size_t size = 0; size <= 5000; size++) {
        void *block = malloc(size);
        CHECK(block && aligned(block, 16));
        CHECK(malloc_usable_size(block) >= size);
        memset(block, 0xff, malloc_usable_size(block));
        free(block);
    }
    for (size_t size = 4096; size <= (64u << 20); size *= 2) {
        for (int off = -1; off <= 1; off++) {
            size_t wanted = size + (size_t)off;
            unsigned char *block = malloc(wanted);
            CHECK(block && aligned(block, 16));
            size_t usable = malloc_usable_size(block);
            CHECK(usable >= wanted);
            block[0] = block[wanted / 2] = block[usable - 1] = 1;
            free(block);
        }
    }
    CHECK(malloc_usable_size(NULL) == 0);
    puts("alignment 16, all of the usable size writable");
}

/* Many live blocks at once, each wholly its own. */
static void separate(void) {
    enum { BLOCKS = 3000 };
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc((size_t)i);
        CHECK(blocks[i]);
        fill(blocks[i], 0, malloc_usable_size(blocks[i]), (uint64_t)i);
    }
    for (int i = 0; i < BLOCKS; i++) CHECK(filled(blocks[i], 0, malloc_usable_size(blocks[i]), (uint64_t)i));
    for (int i = 0; i < BLOCKS; i += 2) free(blocks[i]);
    for (int i = 1; i < BLOCKS; i += 2) CHECK(filled(blocks[i], 0, (size_t)i, (uint64_t)i));
    for (int i = 1; i < BLOCKS; i += 2) free(blocks[i]);
    puts("live blocks do not overlap");
}

static void nothing(void) {
    void *blocks[64];
    for (int i = 0; i < 64; i++) {
        blocks[i] = i % 4 == 0   ? malloc(0)
                    : i % 4 == 1 ? calloc(0, 8)
                    : i % 4 == 2 ? calloc(8, 0)
                                 : realloc(NULL, 0);
        CHECK(blocks[i]);
        for (int j = 0; j < i; j++) CHECK(blocks[i] != blocks[j]);
    }
    for (int i = 0; i < 64; i++) free(blocks[i]);
    free(NULL);
    puts("blocks of no bytes are distinct and can be freed");
}

static void impossible_sizes(void) {
    unsigned char *kept = malloc(100);
    fill(kept, 0, 100, 5);
    for (size_t i = 0; i < COUNT(impossible); i++) {
        size_t size = impossible[i];
        errno = 0;
        CHECK(malloc(size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(calloc(1, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(calloc(size, 1) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(realloc(NULL, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(realloc(kept, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(reallocarray(kept, size, 1) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(aligned_alloc(64, size & ~(size_t)63) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(memalign(1 << 20, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(valloc(size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(pvalloc(size) == NULL && errno == ENOMEM);
        void *untouched = kept;
        CHECK(posix_memalign(&untouched, 64, size) == ENOMEM && untouched == kept);
        CHECK(filled(kept, 0, 100, 5));
    }
    free(kept);
    puts("impossible sizes: NULL, ENOMEM, old block untouched");
}

static void overflow(void) {
    const size_t pairs[][2] = {
        {SIZE_MAX / 2, 3}, {3, SIZE_MAX / 2}, {(size_t)1 << 32, (size_t)1 << 32}, {SIZE_MAX, SIZE_MAX},
        {SIZE_MAX / 16 + 1, 16}, {((size_t)1 << 33) + 1, ((size_t)1 << 31)},
    };
    unsigned char *kept = malloc(50);
    fill(kept, 0, 50, 9);
    for (size_t i = 0; i < COUNT(pairs); i++) {
        errno = 0;
        CHECK(calloc(pairs[i][0], pairs[i][1]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(reallocarray(kept, pairs[i][0], pairs[i][1]) == NULL && errno == ENOMEM);
        CHECK(filled(kept, 0, 50, 9));
    }
    kept = reallocarray(kept, 1000, 50);
    CHECK(kept && filled(kept, 0, 50, 9) && malloc_usable_size(kept) >= 50000);
    free(kept);
    puts("products that overflow: NULL, ENOMEM");
}

/* glibc frees the block and returns NULL, and programs rely on it. */
static void realloc_to_nothing(void) {
    size_t sizes[] = {1, 100, 5000, 100000, 5 << 20};
    for (int round = 0; round < 2000; round++) {
        void *block = malloc(sizes[round % 5]);
        CHECK(block);
        CHECK(realloc(block, 0) == NULL);
    }
    CHECK(resident() < (64u << 20));
    puts("realloc to nothing frees");
}

static void errno_after_free(void) {
    for (size_t size = 1; size <= (128u << 20); size *= 2) {
        void *block = malloc(size), *aside = memalign(4096, size);
        CHECK(block && aside);
        errno = 4321;
        free(block);
        CHECK(errno == 4321);
        free(aside);
        CHECK(errno == 4321);
        free(NULL);
        CHECK(errno == 4321);
    }
    puts("free leaves errno alone");
}

int main(void) {
    alignment_and_room();
    separate();
    nothing();
    impossible_sizes();
    overflow();
    realloc_to_nothing();
    errno_after_free();
    return 0;
}
