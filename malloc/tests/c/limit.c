/* Memory that runs out: NULL and ENOMEM, nothing torn, and once memory is
 * freed the program goes on.
 *
 * usage: limit process   an address space of 512 MiB, set here, then again
 *                        after exec so that it holds from the first call
 *        limit heap MIB  a limit of MIB that the environment set */
#include "check.h"
#include <sys/resource.h>

enum { BLOCKS = 8192, MIB = 1 << 20 };
static char *blocks[BLOCKS];

/* Blocks of `size` until there is no more, each touched. */
static int take_all(size_t size) {
    int count = 0;
    while (count < BLOCKS) {
        errno = 0;
        blocks[count] = count % 2 ? malloc(size) : calloc(1, size);
        if (!blocks[count]) {
            CHECK(errno == ENOMEM);
            return count;
        }
        fill(blocks[count], 0, 64, (uint64_t)count);
        for (size_t at = 4096; at < size; at += 4096) blocks[count][at] = 1;
        count++;
    }
    CHECK(!"memory never ran out");
    return 0;
}

static void at_the_end(void) {
    void *block = NULL;
    errno = 0;
    CHECK(malloc(64 * MIB) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(realloc(blocks[0], 600ul * MIB) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calloc(64, MIB) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(aligned_alloc(1 << 16, 64 * MIB) == NULL && errno == ENOMEM);
    CHECK(posix_memalign(&block, 1 << 16, 64 * MIB) == ENOMEM);
}

static void give_all(int count) {
    for (int i = 0; i < count; i++) {
        CHECK(filled(blocks[i], 0, 64, (uint64_t)i));
        free(blocks[i]);
    }
}

static void *work(void *argument) {
    for (size_t i = 0; i < 3000; i++) {
        void *block = malloc(i * 7);
        CHECK(block);
        free(block);
    }
    return argument;
}

static void goes_on(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, work, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    char *block = malloc(16 * MIB);
    CHECK(block);
    memset(block, 1, 16 * MIB);
    free(block);
}

static void rounds(int least, int most) {
    static const size_t sizes[] = {MIB, 300000, 100000, MIB};
    for (int i = 0; i < 4; i++) {
        int count = take_all(sizes[i]);
        if (sizes[i] == MIB) CHECK(count >= least && count <= most);
        at_the_end();
        give_all(count);
        goes_on();
    }
}

/* Small blocks to the very end, as a list through the blocks themselves. */
static void small_ones(void) {
    void **list = NULL, **block;
    size_t count = 0;
    while ((block = malloc(4000))) {
        *block = list;
        list = block;
        count++;
    }
    CHECK(errno == ENOMEM && count > 1000);
    for (int i = 0; i < 100; i++) CHECK(malloc(4000) == NULL);
    while (list) {
        block = *list;
        free(list);
        list = block;
    }
    goes_on();
}

int main(int count, char **arguments) {
    CHECK(count >= 2);
    if (strcmp(arguments[1], "process") == 0) {
        struct rlimit limit = {512ul * MIB, 512ul * MIB};
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        execl("/proc/self/exe", "limit", "within", (char *)NULL);
        CHECK(!"exec");
    } else if (strcmp(arguments[1], "within") == 0) {
        rounds(64, 512);
        small_ones();
        puts("512 MiB of address space");
    } else {
        int limit = atoi(arguments[2]);
        rounds(limit / 2, limit);
        small_ones();
        puts("a limit of the heap's own");
    }
    return 0;
}
