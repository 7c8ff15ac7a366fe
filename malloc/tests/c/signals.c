/* A thousand timer signals a second and a storm of others interrupt threads
 * that allocate. The handlers do not allocate and do not restart calls. */
#include "check.h"
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>

enum { WORKERS = 3 };
static atomic_long alarms, storms;
static atomic_int stop;
static pthread_t workers[WORKERS];

static void on_alarm(int number) {
    (void)number;
    atomic_fetch_add(&alarms, 1);
}

static void on_storm(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    volatile char deep[4000];
    for (int i = 0; i < 4000; i += 64) deep[i] = 1;
    atomic_fetch_add(&storms, deep[0]);
}

static void *work(void *argument) {
    uint64_t random = (uintptr_t)argument + 1;
    static __thread struct { unsigned char *block; size_t size; } held[100];
    while (!atomic_load(&stop)) {
        uint64_t at = draw(&random) % 100;
        size_t size = draw_size(&random, draw(&random) % 40 == 0 ? 22 : 12);
        size_t end = held[at].size < 300 ? held[at].size : 300;
        CHECK(filled(held[at].block, 0, end, at));
        if (at % 3 == 0) {
            held[at].block = realloc(held[at].block, size + 1);
            CHECK(held[at].block && filled(held[at].block, 0, end < size + 1 ? end : size + 1, at));
        } else {
            free(held[at].block);
            held[at].block = at % 3 == 1 ? malloc(size + 1) : calloc(size + 1, 1);
            CHECK(held[at].block);
            if (at % 3 == 2) CHECK(all_zero(held[at].block, size + 1));
        }
        held[at].size = size + 1;
        fill(held[at].block, 0, size + 1 < 300 ? size + 1 : 300, at);
    }
    for (int i = 0; i < 100; i++) free(held[i].block);
    return NULL;
}

static void *storm(void *argument) {
    (void)argument;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (!atomic_load(&stop)) {
        for (int i = 0; i < WORKERS; i++) pthread_kill(workers[i], SIGUSR1);
        for (volatile int wait = 0; wait < 3000; wait++) {}
    }
    return NULL;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct sigaction other = {.sa_sigaction = on_storm, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGUSR1, &other, NULL) == 0);
    struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    pthread_t stormer;
    for (int i = 0; i < WORKERS; i++) CHECK(pthread_create(&workers[i], NULL, work, (void *)(uintptr_t)i) == 0);
    CHECK(pthread_create(&stormer, NULL, storm, NULL) == 0);
    struct timespec from, now;
    clock_gettime(CLOCK_MONOTONIC, &from);
    long passed, enough;
    do {
        free(malloc(1000));
        clock_gettime(CLOCK_MONOTONIC, &now);
        passed = (now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000;
        enough = atomic_load(&alarms) > 100 && atomic_load(&storms) > 100;
        /* A busy machine may need longer than a second and a half for that many. */
    } while (passed < 1500 || (!enough && passed < 30000));
    atomic_store(&stop, 1);
    CHECK(pthread_join(stormer, NULL) == 0);
    for (int i = 0; i < WORKERS; i++) CHECK(pthread_join(workers[i], NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(atomic_load(&alarms) > 100 && atomic_load(&storms) > 100);
    puts("interrupted, every block intact");
    return 0;
}
