/* What the allocator says of itself: mallinfo, mallinfo2, malloc_info,
 * malloc_stats, malloc_trim, mallopt. Only what glibc's manual promises. */
#define _GNU_SOURCE
#include "check.h"

static size_t in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static void figures(void) {
    enum { BLOCKS = 500, SIZE = 20000 };
    static void *blocks[BLOCKS];
    size_t before = in_use();
    for (int i = 0; i < BLOCKS; i++) CHECK((blocks[i] = malloc(SIZE)));
    size_t during = in_use();
    void *large = malloc(32 << 20);
    size_t with_large = in_use();
    CHECK(during >= before + BLOCKS * SIZE && during < before + 2 * BLOCKS * SIZE);
    CHECK(with_large >= during + (32 << 20));
    struct mallinfo2 info = mallinfo2();
    CHECK(info.arena + info.hblkhd >= (size_t)BLOCKS * SIZE + (32 << 20));
    free(large);
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    CHECK(in_use() < before + BLOCKS * SIZE / 2);
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo old = mallinfo();
    CHECK(old.uordblks >= 0);
    puts("mallinfo2");
}

static void xml(FILE *stream, char *text, size_t size) {
    CHECK(malloc_info(0, stream) == 0);
    CHECK(fflush(stream) == 0);
    rewind(stream);
    memset(text, 0, size);
    size_t length = fread(text, 1, size - 1, stream);
    CHECK(length > 0 && strncmp(text, "<malloc version=\"", 17) == 0);
    CHECK(strstr(text, "</malloc>"));
}

static void info(void) {
    static char text[1 << 20];
    FILE *file = tmpfile();
    CHECK(file);
    xml(file, text, sizeof text);
    fclose(file);
    /* A stream that allocates while it is written to. */
    char *grown = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&grown, &length);
    CHECK(memory && malloc_info(0, memory) == 0);
    fclose(memory);
    CHECK(length > 17 && strstr(grown, "</malloc>"));
    free(grown);
    CHECK(malloc_info(1, stdout) != 0);
    puts("malloc_info");
}

static void stats(void) {
    FILE *file = tmpfile();
    int kept = dup(2);
    CHECK(file && kept >= 0);
    CHECK(dup2(fileno(file), 2) == 2);
    malloc_stats();
    CHECK(dup2(kept, 2) == 2);
    close(kept);
    CHECK(lseek(fileno(file), 0, SEEK_END) > 20);
    fclose(file);
    puts("malloc_stats");
}

static void trim(void) {
    void *block = malloc(50 << 20);
    memset(block, 1, 50 << 20);
    free(block);
    int said = malloc_trim(0);
    CHECK(said == 0 || said == 1);
    said = malloc_trim(1 << 20);
    CHECK(said == 0 || said == 1);
    CHECK(resident_falls_to(24 << 20));
    said = mallopt(M_TRIM_THRESHOLD, 1 << 20);
    CHECK(said == 0 || said == 1);
    said = mallopt(M_ARENA_MAX, 2);
    CHECK(said == 0 || said == 1);
    puts("malloc_trim, mallopt");
}

int main(void) {
    figures();
    info();
    stats();
    trim();
    return 0;
}
