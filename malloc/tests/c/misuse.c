/* One misuse a run. The program prints the address, misuses it, and should not
 * come back.
 *
 * usage: misuse CASE */
#include "check.h"
#include <signal.h>

static char static_bytes[64] __attribute__((aligned(16)));

static void *in_thread(void *block) {
    free(block);
    return NULL;
}

static void free_elsewhere(void *block) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_thread, block) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* Blocks of the same size around the one in question. */
static void *among(size_t size) {
    void *middle = NULL;
    for (int i = 0; i < 10; i++) {
        void *block = malloc(size);
        CHECK(block);
        memset(block, 1, size);
        if (i == 5) middle = block;
    }
    return middle;
}

static void tell(const void *address) {
    printf("%p\n", address);
    fflush(stdout);
}

static void come_back(int number) { (void)number; }

int main(int count, char **arguments) {
    CHECK(count == 2);
    const char *wanted = arguments[1];
#define CASE(name) if (strcmp(wanted, name) == 0)
    CASE("double-small") {
        void *block = among(100);
        tell(block);
        free(block);
        free(block);
    }
    CASE("double-only") { /* the only block of its span */
        void *block = malloc(3000);
        tell(block);
        free(block);
        free(block);
    }
    CASE("double-later") {
        void *blocks[50];
        for (int i = 0; i < 50; i++) blocks[i] = malloc(200);
        tell(blocks[20]);
        for (int i = 0; i < 50; i += 2) free(blocks[i]);
        free(blocks[20]);
    }
    CASE("double-remote") { /* another thread freed it, then its owner does */
        void *block = among(100);
        tell(block);
        free_elsewhere(block);
        free(block);
    }
    CASE("double-both-remote") {
        void *block = among(100);
        tell(block);
        free_elsewhere(block);
        free_elsewhere(block);
    }
    CASE("double-then-remote") { /* its owner freed it, then another thread */
        void *block = among(100);
        tell(block);
        free(block);
        free_elsewhere(block);
    }
    CASE("double-large") {
        void *block = malloc(3 << 20);
        tell(block);
        free(block);
        free(block);
    }
    CASE("double-aligned") {
        void *block = memalign(8192, 500);
        tell(block);
        free(block);
        free(block);
    }
    CASE("interior-small") {
        char *block = among(200);
        tell(block + 16);
        free(block + 16);
    }
    CASE("interior-large") {
        char *block = malloc(3 << 20);
        tell(block + (1 << 20));
        free(block + (1 << 20));
    }
    CASE("interior-page") { /* on a page's border within a large block */
        char *block = malloc(3 << 20);
        tell(block + 8192);
        free(block + 8192);
    }
    CASE("misaligned") {
        char *block = among(200);
        tell(block + 3);
        free(block + 3);
    }
    CASE("stack") {
        char bytes[64] __attribute__((aligned(16)));
        free(malloc(10));
        tell(bytes);
        free(bytes);
    }
    CASE("static") {
        free(malloc(10));
        tell(static_bytes);
        free(static_bytes);
    }
    CASE("first-call") { /* before the heap was ever used by the program */
        tell(static_bytes);
        free(static_bytes);
    }
    CASE("wild") { /* likely within the heap's reservation, never allocated */
        char *block = (char *)(((uintptr_t)malloc(100) & ~(uintptr_t)0xfffff) + ((size_t)8 << 30));
        tell(block);
        free(block);
    }
    CASE("low") {
        tell((void *)0x10);
        free((void *)0x10);
    }
    CASE("non-canonical") {
        tell((void *)0xdead00beefdead10);
        free((void *)0xdead00beefdead10);
    }
    CASE("realloc-freed") {
        void *block = among(100);
        tell(block);
        free(block);
        block = realloc(block, 5000);
    }
    CASE("realloc-freed-large") {
        void *block = malloc(3 << 20);
        tell(block);
        free(block);
        block = realloc(block, 5 << 20);
    }
    CASE("realloc-foreign") {
        tell(static_bytes);
        char *block = realloc(static_bytes, 100);
        CHECK(block);
    }
    CASE("realloc-interior") {
        char *block = among(200);
        tell(block + 32);
        block = realloc(block + 32, 1000);
    }
    CASE("handler-returns") { /* a handler for SIGABRT does not save it */
        signal(SIGABRT, come_back);
        void *block = among(100);
        tell(block);
        free(block);
        free(block);
    }
    CASE("blocked") { /* nor does blocking the signal */
        sigset_t set;
        sigfillset(&set);
        sigprocmask(SIG_BLOCK, &set, NULL);
        void *block = among(100);
        tell(block);
        free(block);
        free(block);
    }
    CASE("closed") { /* nobody hears the message */
        void *block = among(100);
        tell(block);
        close(2);
        free(block);
        free(block);
    }
    puts("survived");
    return 3;
}
