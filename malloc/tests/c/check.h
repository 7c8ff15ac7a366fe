/* What every program here shares: checks that do not themselves allocate, a
 * small random generator, patterns that a block can be filled with and later
 * be checked against, and the process's own resident size.
 *
 * A program prints the same lines under any correct allocator and returns 0.
 * A failed check names its line on standard error and ends the process at
 * once with status 99, from whatever thread or child it happens in. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

static UNUSED void fail(const char *file, int line, const char *what) {
    char text[512];
    int length = snprintf(text, sizeof text, "%s:%d: not so: %s (errno %d)\n", file, line, what, errno);
    if (write(2, text, (size_t)length) < 0) { /* the status says it as well */ }
    _exit(99);
}

#define CHECK(condition) \
    do { \
        if (!(condition)) fail(__FILE__, __LINE__, #condition); \
    } while (0)

/* xorshift64*: the same numbers in every run. The state must not be zero. */
static UNUSED uint64_t draw(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ull;
}

/* A size below `1 << bits`, each power of two as likely as the next. */
static UNUSED size_t draw_size(uint64_t *state, unsigned bits) {
    unsigned width = (unsigned)(draw(state) >> 32) % bits + 1;
    return (size_t)(draw(state) >> 8) & (((size_t)1 << width) - 1);
}

/* Byte `i` of the pattern called `tag`. */
static inline unsigned char pattern(uint64_t tag, size_t i) {
    return (unsigned char)((tag * 31 + i * 7 + (i >> 8)) | 1);
}

static UNUSED void fill(void *block, size_t from, size_t to, uint64_t tag) {
    unsigned char *bytes = (unsigned char *)block;
    for (size_t i = from; i < to; i++) bytes[i] = pattern(tag, i);
}

static UNUSED int filled(const void *block, size_t from, size_t to, uint64_t tag) {
    const unsigned char *bytes = (const unsigned char *)block;
    for (size_t i = from; i < to; i++)
        if (bytes[i] != pattern(tag, i)) return 0;
    return 1;
}

static UNUSED int all_zero(const void *block, size_t size) {
    const unsigned char *bytes = (const unsigned char *)block;
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static UNUSED int aligned(const void *block, size_t alignment) {
    return ((uintptr_t)block & (alignment - 1)) == 0;
}

/* Bytes of this process that are resident now, read without allocating. */
static UNUSED size_t resident(void) {
    char text[128] = {0};
    unsigned long total = 0, pages = 0;
    int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    CHECK(read(file, text, sizeof text - 1) > 0);
    close(file);
    CHECK(sscanf(text, "%lu %lu", &total, &pages) == 2);
    return (size_t)pages * 4096;
}

/* Waits until `resident()` is at most `bound`, for at most five seconds: an
 * allocator may give memory back at its own pace. */
static UNUSED int resident_falls_to(size_t bound) {
    for (int i = 0; i < 100; i++) {
        if (resident() <= bound) return 1;
        malloc_trim(0);
        usleep(50 * 1000);
    }
    return 0;
}

/* Waits for `child` and returns its exit status, or 256 + the signal. */
static UNUSED int reap(pid_t child) {
    int status = 0;
    CHECK(child > 0);
    while (waitpid(child, &status, 0) != child) CHECK(errno == EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

#endif
