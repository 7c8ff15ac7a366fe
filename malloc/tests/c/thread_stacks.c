/* Threads of every sort, in numbers: joined in four ways, detached in two, on stacks that the program brings, with large
   guards and without, ended by return, by pthread_exit and by being cancelled. Each fills a part of its stack, and looks
   whether it stays as it was. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int ended;
static __thread int mine;

static void use_stack(int depth, unsigned char mark) {
    volatile unsigned char frame[512];
    memset((void *)frame, mark, sizeof frame);
    if (depth > 0) use_stack(depth - 1, mark + 1);
    for (size_t i = 0; i < sizeof frame; i++) CHECK(frame[i] == mark);
}

static void *work(void *argument) {
    int number = (int)(intptr_t)argument;
    CHECK(mine == 0);
    mine = number + 1;
    use_stack(10, (unsigned char)number);
    free(malloc(100 + number % 1000));
    CHECK(mine == number + 1);
    atomic_fetch_add(&ended, 1);
    if (number % 3 == 0) pthread_exit(argument);
    return argument;
}

static void *create_many(void *argument) {
    int seed = (int)(intptr_t)argument, detached = 0;
    for (int round = 0; round < 60; round++) {
        pthread_t threads[8];
        for (int i = 0; i < 8; i++) {
            pthread_attr_t attributes;
            CHECK(pthread_attr_init(&attributes) == 0);
            int number = seed * 1000 + round * 8 + i;
            if (i % 2) CHECK(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN + 65536 * i) == 0);
            if (i == 3) CHECK(pthread_attr_setguardsize(&attributes, 65536) == 0);
            if (i == 5) CHECK(pthread_attr_setguardsize(&attributes, 0) == 0);
            if (i == 6) CHECK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
            CHECK(pthread_create(&threads[i], i == 0 ? NULL : &attributes, work, (void *)(intptr_t)number) == 0);
            CHECK(pthread_attr_destroy(&attributes) == 0);
        }
        for (int i = 0; i < 8; i++) {
            void *result = NULL, *expected = (void *)(intptr_t)(seed * 1000 + round * 8 + i);
            if (i == 6) { detached++; continue; }
            if (i == 7) { CHECK(pthread_detach(threads[i]) == 0); detached++; continue; }
            if (i % 3 == 0) {
                CHECK(pthread_join(threads[i], &result) == 0);
            } else if (i % 3 == 1) {
                int error;
                while ((error = pthread_tryjoin_np(threads[i], &result)) == EBUSY) sched_yield();
                CHECK(error == 0);
            } else {
                struct timespec until;
                clock_gettime(CLOCK_REALTIME, &until);
                until.tv_sec += 60;
                CHECK(pthread_timedjoin_np(threads[i], &result, &until) == 0);
            }
            CHECK(result == expected);
        }
    }
    return (void *)(intptr_t)detached;
}

static void *sleep_long(void *argument) {
    sem_post(argument);
    for (;;) pause();
    return NULL;
}

static atomic_int cleaned;
static void clean(void *argument) { (void)argument; atomic_fetch_add(&cleaned, 1); }

/* Waits for another thread until it is cancelled. */
static void *join_for_ever(void *argument) {
    pthread_cleanup_push(clean, NULL);
    pthread_join(*(pthread_t *)argument, NULL);
    pthread_cleanup_pop(0);
    return NULL;
}

static void cancel(void) {
    sem_t sleeping;
    pthread_t sleeper, waiter;
    void *result;
    CHECK(sem_init(&sleeping, 0, 0) == 0);
    CHECK(pthread_create(&sleeper, NULL, sleep_long, &sleeping) == 0);
    CHECK(sem_wait(&sleeping) == 0);
    CHECK(pthread_create(&waiter, NULL, join_for_ever, &sleeper) == 0);
    usleep(20000);
    CHECK(pthread_cancel(waiter) == 0);
    CHECK(pthread_join(waiter, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(atomic_load(&cleaned) == 1);
    CHECK(pthread_cancel(sleeper) == 0);
    CHECK(pthread_join(sleeper, &result) == 0 && result == PTHREAD_CANCELED);
    printf("cancelled while joining\n");
}

static void own_stack(void) {
    size_t size = 1 << 20;
    void *memory = NULL, *at, *result;
    size_t found;
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK(posix_memalign(&memory, 65536, size) == 0);
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, memory, size) == 0);
    CHECK(pthread_create(&thread, &attributes, work, (void *)5) == 0);
    CHECK(pthread_attr_getstack(&attributes, &at, &found) == 0 && at == memory && found == size);
    CHECK(pthread_join(thread, &result) == 0 && result == (void *)5);
    free(memory);
    printf("own stack\n");
}

static void forked(void) {
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        pthread_t thread;
        void *result;
        for (int i = 0; i < 20; i++) {
            CHECK(pthread_create(&thread, NULL, work, (void *)(intptr_t)i) == 0);
            CHECK(pthread_join(thread, &result) == 0 && result == (void *)(intptr_t)i);
        }
        exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    printf("forked\n");
}

int main(void) {
    pthread_t creators[4];
    int detached = 0;
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&creators[i], NULL, create_many, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        CHECK(pthread_join(creators[i], &result) == 0);
        detached += (int)(intptr_t)result;
    }
    for (int i = 0; i < 6000 && atomic_load(&ended) < 4 * 60 * 8; i++) usleep(10000);
    printf("%d threads, %d detached\n", atomic_load(&ended), detached);
    own_stack();
    cancel();
    forked();
    return 0;
}
