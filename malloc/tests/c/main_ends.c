/* The main thread ends by pthread_exit; another goes on, uses and frees what
 * main left, and ends the process. */
#include "check.h"

static void *blocks[500];
static pthread_t first;

static void *rest(void *argument) {
    (void)argument;
    CHECK(pthread_join(first, NULL) == 0);
    for (size_t i = 0; i < 500; i++) {
        CHECK(filled(blocks[i], 0, i * 50, i));
        free(blocks[i]);
    }
    for (int i = 0; i < 1000; i++) free(malloc((size_t)i * 100));
    puts("main thread gone, its blocks freed");
    exit(0);
}

int main(void) {
    pthread_t thread;
    first = pthread_self();
    for (size_t i = 0; i < 500; i++) {
        CHECK((blocks[i] = malloc(i * 50)));
        fill(blocks[i], 0, i * 50, i);
    }
    CHECK(pthread_create(&thread, NULL, rest, NULL) == 0);
    pthread_exit(NULL);
}
