/* realloc keeps what is in the block, whatever the way from size to size. */
#include "check.h"

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static void random_walk(void) {
    enum { SLOTS = 64, STEPS = 12000 };
    static struct { unsigned char *block; size_t size; } slots[SLOTS];
    uint64_t random = 7;
    for (int step = 0; step < STEPS; step++) {
        uint64_t at = draw(&random) % SLOTS;
        size_t old = slots[at].size, size = 1 + draw_size(&random, 19);
        unsigned char *block = realloc(slots[at].block, size);
        CHECK(block && aligned(block, 16) && malloc_usable_size(block) >= size);
        CHECK(filled(block, 0, least(old, size), at));
        fill(block, least(old, size), size, at);
        slots[at].block = block;
        slots[at].size = size;
    }
    for (uint64_t at = 0; at < SLOTS; at++) {
        CHECK(filled(slots[at].block, 0, slots[at].size, at));
        free(slots[at].block);
    }
    puts("random walk");
}

/* A vector that grows by one, as many programs do. */
static void by_one(void) {
    unsigned char *block = NULL;
    for (size_t size = 1; size <= 70000; size++) {
        block = realloc(block, size);
        CHECK(block);
        block[size - 1] = pattern(3, size - 1);
    }
    CHECK(filled(block, 0, 70000, 3));
    for (size_t size = 70000; size >= 1; size -= 13) {
        block = realloc(block, size);
        CHECK(block && block[size - 1] == pattern(3, size - 1));
        if (size < 14) break;
    }
    free(block);
    puts("byte by byte");
}

/* One mark a page is enough for the large ones. */
static void large(void) {
    const size_t mib = (size_t)1 << 20;
    unsigned char *block = NULL;
    for (size_t size = mib; size <= 160 * mib; size += 3 * mib) {
        block = realloc(block, size);
        CHECK(block);
        for (size_t at = size < 3 * mib ? 0 : size - 3 * mib; at < size; at += 4096) block[at] = pattern(size / mib % 3, at);
        for (size_t at = 0; at < size; at += 64 * 4096) CHECK(block[at] == pattern(1, at));
    }
    for (size_t size = 158 * mib; size > 4 * mib; size -= 7 * mib) {
        block = realloc(block, size - 100);
        CHECK(block);
        for (size_t at = 0; at < size - 100; at += 64 * 4096) CHECK(block[at] == pattern(1, at));
    }
    block = realloc(block, 100);
    CHECK(block && block[0] == pattern(1, 0));
    free(block);
    CHECK(resident_falls_to(64 * mib));
    puts("large");
}

/* Two neighbours that both want to grow: no growth over the other. */
static void neighbours(void) {
    unsigned char *left = malloc(1 << 20), *right = malloc(1 << 20);
    size_t size = 1 << 20;
    fill(left, 0, size, 1);
    fill(right, 0, size, 2);
    for (int i = 0; i < 10; i++) {
        left = realloc(left, size + 300000);
        right = realloc(right, size + 300000);
        CHECK(left && right);
        CHECK(filled(left, 0, size, 1) && filled(right, 0, size, 2));
        fill(left, size, size + 300000, 1);
        fill(right, size, size + 300000, 2);
        size += 300000;
    }
    free(left);
    CHECK(filled(right, 0, size, 2));
    free(right);
    puts("neighbours");
}

int main(void) {
    random_walk();
    by_one();
    large();
    neighbours();
    return 0;
}
