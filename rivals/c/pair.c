/* Calls malloc and free as a C program does, through its PLT, in one of four patterns; the program `rivals` counts
   the instructions. pair SIZE PAIRS PATTERN */
#include <stdlib.h>

static void *slots[256];

/* Pairs of malloc and free: one block at a time. */
__attribute__((noinline)) static void pairs(size_t size, long count) {
    for (long i = 0; i < count; i++) {
        void *block = malloc(size);
        *(volatile char *)block = 1;
        free(block);
    }
}

/* 64 blocks, then 64 frees in the same order. */
__attribute__((noinline)) static void batches(size_t size, long count) {
    for (long i = 0; i < count; i += 64) {
        for (int k = 0; k < 64; k++) {
            slots[k] = malloc(size);
            *(volatile char *)slots[k] = 1;
        }
        for (int k = 0; k < 64; k++) free(slots[k]);
    }
}

/* 256 live blocks, the oldest replaced. */
__attribute__((noinline)) static void ring(size_t size, long count) {
    for (long i = 0; i < count; i++) {
        void **slot = &slots[i & 255];
        free(*slot);
        *slot = malloc(size);
        *(volatile char *)*slot = 1;
    }
}

int main(int argc, char **argv) {
    static void *kept[8];
    if (argc != 4) return 2;
    size_t size = atol(argv[1]);
    long count = atol(argv[2]);
    switch (*argv[3]) {
    case 'k': /* kept: eight blocks of the size stay live */
        for (int k = 0; k < 8; k++) kept[k] = malloc(size);
        /* fall through */
    case 'a': /* alone: nothing else is live */
        pairs(size, count);
        return 0;
    case 'b': /* batch */
        batches(size, count);
        return 0;
    case 'r': /* ring */
        ring(size, count);
        return 0;
    }
    return 2;
}
