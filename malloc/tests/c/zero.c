/* calloc returns zeroes, above all where dirty blocks of the same size were
 * freed just before; and it does not touch fresh memory to do so. */
#include "check.h"

static void once(size_t size) {
    void *dirty[3], *clean[3];
    for (int i = 0; i < 3; i++) {
        dirty[i] = malloc(size);
        CHECK(dirty[i]);
        memset(dirty[i], 0xa5, malloc_usable_size(dirty[i]));
    }
    for (int i = 0; i < 3; i++) free(dirty[i]);
    for (int i = 0; i < 3; i++) {
        clean[i] = i % 2 ? calloc(1, size) : calloc(size, 1);
        CHECK(clean[i] && aligned(clean[i], 16) && all_zero(clean[i], size));
        memset(clean[i], 0x5a, size);
    }
    for (int i = 0; i < 3; i++) free(clean[i]);
}

/* Dirty memory that went back to the system and came again, in odd pieces. */
static void after_release(void) {
    uint64_t random = 99;
    for (int round = 0; round < 12; round++) {
        enum { PIECES = 40 };
        void *pieces[PIECES];
        for (int i = 0; i < PIECES; i++) {
            size_t size = 1 + draw_size(&random, 20);
            pieces[i] = calloc(1, size);
            CHECK(pieces[i] && all_zero(pieces[i], size));
            memset(pieces[i], 0xee, malloc_usable_size(pieces[i]));
        }
        for (int i = 0; i < PIECES; i++) free(pieces[(i * 7) % PIECES]);
        if (round % 3 == 0) malloc_trim(0);
    }
}

static void fresh_is_not_touched(void) {
    size_t before = resident(), size = (size_t)1 << 30;
    unsigned char *block = calloc(1, size);
    CHECK(block && block[0] == 0 && block[size / 2] == 0 && block[size - 1] == 0);
    CHECK(resident() < before + (32u << 20));
    free(block);
}

int main(void) {
    for (size_t size = 1; size <= 4200; size++) once(size);
    puts("every size to 4200");
    for (size_t size = 4200; size <= 200000; size += 131) once(size);
    for (size_t page = 4096; page <= 200 * 1024; page += 4096)
        for (size_t size = page - 16; size <= page + 16; size += 16) once(size);
    for (size_t size = 256 * 1024; size <= (8u << 20); size *= 2) once(size);
    puts("sizes to 8 MiB");
    after_release();
    puts("released and taken again");
    fresh_is_not_touched();
    puts("fresh memory untouched");
    return 0;
}
