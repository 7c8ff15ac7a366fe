/* Threads that come and go while others collect; blocked ones; fork. */
#define GC_THREADS
#include <gc/gc.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

struct tree {
    struct tree *left, *right;
};
static struct tree *make(int depth) {
    struct tree *t = GC_MALLOC(sizeof *t);
    if (depth) t->left = make(depth - 1), t->right = make(depth - 1);
    return t;
}
static long count(struct tree *t) { return t ? 1 + count(t->left) + count(t->right) : 0; }

static void *work(void *depth) {
    struct tree *kept = make((int)(long)depth);
    long sum = 0;
    for (int i = 0; i < 60; i++) sum += count(make(8));
    return (void *)(sum + count(kept));
}

static int wake[2];
static void *block(void *unused) {
    char byte;
    (void)unused;
    return (void *)(long)read(wake[0], &byte, 1);
}
static void *blocked(void *unused) {
    struct tree *kept = make(10);
    GC_do_blocking(block, unused);
    return (void *)count(kept);
}

int main(void) {
    GC_INIT();
    GC_allow_register_threads();
    if (pipe(wake)) return 1;
    pthread_t sleeper, threads[8];
    pthread_create(&sleeper, 0, blocked, 0);
    for (int round = 0; round < 3; round++) {
        long sum = 0;
        void *result;
        for (long i = 0; i < 8; i++) pthread_create(&threads[i], 0, work, (void *)(i + 3));
        GC_gcollect();
        for (int i = 0; i < 8; i++) pthread_join(threads[i], &result), sum += (long)result;
        printf("%ld\n", sum);
    }
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        long sum = count(make(12));
        GC_gcollect();
        _exit(sum == 8191 && GC_size(make(0)) >= 16 ? 7 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
    if (write(wake[1], "x", 1) != 1) return 1;
    void *result;
    pthread_join(sleeper, &result);
    printf("%ld\n", (long)result);
    return 0;
}
