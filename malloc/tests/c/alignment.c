/* aligned_alloc, posix_memalign, memalign, valloc and pvalloc, for alignments
 * from 8 bytes to 8 MiB, and what they say to alignments that are none. */
#include "check.h"

enum { HELD = 12 };

static void *obtain(int how, size_t alignment, size_t size) {
    void *block = NULL;
    if (how == 0) block = aligned_alloc(alignment, size);
    if (how == 1) CHECK(posix_memalign(&block, alignment, size) == 0);
    if (how == 2) block = memalign(alignment, size);
    return block;
}

/* Marks both ends of a block; a large one is not filled, to stay quick. */
static void mark(unsigned char *block, size_t size, unsigned char tag) {
    size_t end = size < 64 ? size : 64;
    memset(block, tag, end);
    memset(block + size - end, tag, end);
}

static int marked(const unsigned char *block, size_t size, unsigned char tag) {
    return size == 0 || (block[0] == tag && block[size - 1] == tag && block[(size < 64 ? size : 64) - 1] == tag);
}

static void one_alignment(size_t alignment) {
    size_t sizes[] = {0, 1, 7, 24, 1000, alignment - 1, alignment, alignment + 1, alignment * 3 / 2, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *held[HELD];
        for (int j = 0; j < HELD; j++) {
            held[j] = obtain(j % 3, alignment, sizes[i]);
            CHECK(held[j] && aligned(held[j], alignment));
            CHECK(malloc_usable_size(held[j]) >= sizes[i]);
            mark(held[j], malloc_usable_size(held[j]), (unsigned char)(j + 1));
        }
        for (int j = 0; j < HELD; j++) CHECK(marked(held[j], malloc_usable_size(held[j]), (unsigned char)(j + 1)));
        for (int j = 0; j < HELD; j++) {
            size_t size = sizes[i];
            if (j % 2) { /* realloc keeps the bytes, though not the alignment */
                held[j] = realloc(held[j], size + 5000);
                CHECK(held[j] && aligned(held[j], 16));
                CHECK(size == 0 || held[j][0] == j + 1);
                CHECK(size == 0 || held[j][(size < 64 ? size : 64) - 1] == j + 1);
            }
            free(held[j]);
        }
    }
}

static void not_alignments(void) {
    const size_t bad[] = {0, 1, 2, 4, 3, 12, 24, 4095, 4097, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        void *kept = &kept;
        CHECK(posix_memalign(&kept, bad[i], 100) == EINVAL && kept == &kept);
    }
    /* Of aligned_alloc and memalign only this is promised. */
    for (size_t odd = 3; odd < 5000; odd = odd * 2 + 1) {
        void *block = aligned_alloc(odd, odd * 2);
        CHECK(block || errno == EINVAL);
        free(block);
        block = memalign(odd, 10);
        CHECK(block || errno == EINVAL);
        free(block);
    }
    errno = 0;
    CHECK(memalign(((size_t)1 << 63) + 1, 8) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(memalign((size_t)1 << 62, 8) == NULL && errno == ENOMEM);
}

static void whole_pages(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t size = 0; size < 5 * page; size += 123) {
        void *one = valloc(size), *two = pvalloc(size);
        CHECK(one && two && aligned(one, page) && aligned(two, page));
        CHECK(malloc_usable_size(one) >= size);
        CHECK(malloc_usable_size(two) >= (size + page - 1) / page * page);
        memset(one, 1, malloc_usable_size(one));
        memset(two, 2, malloc_usable_size(two));
        free(one);
        free(two);
    }
}

int main(void) {
    for (size_t alignment = 8; alignment <= (8u << 20); alignment *= 2) one_alignment(alignment);
    puts("alignments 8 to 8 MiB");
    not_alignments();
    puts("bad alignments");
    whole_pages();
    puts("whole pages");
    return 0;
}
