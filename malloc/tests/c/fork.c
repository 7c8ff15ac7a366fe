/* Children, from a parent with one thread and from one whose other threads are
 * in the middle of allocating.
 *
 * usage: fork single | threads | handlers | spawn | child */
#include "check.h"
#include <spawn.h>
#include <stdatomic.h>

extern char **environ;
static const char *self;

enum { LEFT = 400 };
static void *left[LEFT]; /* made before the fork, by several threads */

static size_t left_size(size_t i) { return 10 + (i * i * 7) % 9000; }

static void make_left(size_t from, size_t step) {
    for (size_t i = from; i < LEFT; i += step) {
        CHECK((left[i] = malloc(left_size(i))));
        fill(left[i], 0, left_size(i), i);
    }
}

static void free_left(void) {
    for (size_t i = 0; i < LEFT; i++) {
        CHECK(filled(left[i], 0, left_size(i), i));
        free(left[i]);
        left[i] = NULL;
    }
}

static void churn(uint64_t random, int steps) {
    void *held[32] = {0};
    for (int step = 0; step < steps; step++) {
        size_t at = draw(&random) % 32, size = draw_size(&random, 16);
        free(held[at]);
        CHECK((held[at] = step % 3 ? malloc(size) : calloc(1, size)));
        if (size) *(char *)held[at] = 1;
    }
    for (int i = 0; i < 32; i++) free(held[i]);
}

static void *churn_thread(void *argument) {
    churn((uintptr_t)argument + 1, 500);
    return NULL;
}

/* What a child does: frees what the parent's threads made, has threads and a
 * child of its own, ends in one of three ways. */
static void child(int i) {
    churn((uint64_t)i + 1, 300);
    free_left();
    if (i % 4 == 0) {
        pthread_t threads[2];
        for (int j = 0; j < 2; j++) CHECK(pthread_create(&threads[j], NULL, churn_thread, (void *)(uintptr_t)j) == 0);
        for (int j = 0; j < 2; j++) CHECK(pthread_join(threads[j], NULL) == 0);
    }
    if (i % 8 == 1) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            churn(5, 300);
            _exit(7);
        }
        CHECK(reap(grandchild) == 7);
    }
    if (i % 10 == 2) exit(3);
    if (i % 10 == 3) {
        execl(self, self, "child", (char *)NULL);
        _exit(98);
    }
    _exit(3);
}

static void many(int times) {
    for (int i = 0; i < times; i++) {
        pid_t pid = fork();
        if (pid == 0) child(i);
        CHECK(reap(pid) == 3);
        churn((uint64_t)i + 9, 50);
    }
}

/* A line of children, each the child of the one before. */
static void line_of(int depth) {
    churn((uint64_t)depth + 1, 100);
    if (depth == 0) return;
    pid_t pid = fork();
    if (pid == 0) {
        line_of(depth - 1);
        _exit(5);
    }
    CHECK(reap(pid) == 5);
}

static void single(void) {
    make_left(0, 1);
    many(200);
    line_of(30);
    free_left();
    puts("200 children of one thread, and a line of 30");
}

static atomic_int stop, making;
static _Atomic(void *) table[128];

static void *hammer(void *argument) {
    uint64_t random = (uintptr_t)argument + 1;
    make_left((uintptr_t)argument, 6);
    atomic_fetch_add(&making, 1);
    while (!atomic_load(&stop)) {
        size_t size = draw_size(&random, draw(&random) % 50 == 0 ? 21 : 12);
        void *block = malloc(size);
        CHECK(block);
        if (size) *(char *)block = 1;
        free(atomic_exchange(&table[draw(&random) % 128], block));
    }
    return NULL;
}

static void threads(void (*meanwhile)(void)) {
    pthread_t all[6];
    for (size_t i = 0; i < 6; i++) CHECK(pthread_create(&all[i], NULL, hammer, (void *)i) == 0);
    while (atomic_load(&making) < 6) usleep(100);
    meanwhile();
    atomic_store(&stop, 1);
    for (int i = 0; i < 6; i++) CHECK(pthread_join(all[i], NULL) == 0);
    for (int i = 0; i < 128; i++) free(table[i]);
    free_left();
}

static void two_hundred(void) {
    many(200);
    puts("200 children of seven threads");
}

/* Handlers of the program's own, which allocate around the fork. */
static void *carried;
static int handlers_ran;
static void before(void) {
    CHECK((carried = malloc(3000)));
    free(malloc(300000));
}
static void after(void) {
    free(carried);
    free(malloc(100));
    handlers_ran++;
}

static void with_handlers(void) {
    CHECK(pthread_atfork(before, after, after) == 0);
    CHECK(pthread_atfork(before, NULL, NULL) == 0);
    many(60);
    CHECK(handlers_ran == 60);
    puts("handlers around fork allocate");
}

static void spawn_each(void) {
    char line[100];
    FILE *pipe = popen("echo one two", "r");
    CHECK(pipe && fgets(line, sizeof line, pipe) && strcmp(line, "one two\n") == 0);
    CHECK(pclose(pipe) == 0);
    int status = system("exit 9");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);

    pid_t pid;
    char *arguments[] = {(char *)self, (char *)"child", NULL};
    CHECK(posix_spawn(&pid, self, NULL, NULL, arguments, environ) == 0);
    CHECK(reap(pid) == 3);

    pid = vfork();
    if (pid == 0) {
        execl(self, self, "child", (char *)NULL);
        _exit(98);
    }
    CHECK(reap(pid) == 3);
    pid = vfork();
    if (pid == 0) {
        execl("/nowhere/at/all", "x", (char *)NULL);
        _exit(42);
    }
    CHECK(reap(pid) == 42);
}

static void spawn(void) {
    for (int i = 0; i < 15; i++) spawn_each();
    puts("popen, system, posix_spawn, vfork");
}

int main(int count, char **arguments) {
    self = "/proc/self/exe";
    CHECK(count == 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *what = arguments[1];
    if (strcmp(what, "single") == 0) single();
    if (strcmp(what, "threads") == 0) threads(two_hundred);
    if (strcmp(what, "handlers") == 0) threads(with_handlers);
    if (strcmp(what, "spawn") == 0) threads(spawn);
    if (strcmp(what, "child") == 0) {
        churn(1, 100);
        return 3;
    }
    return 0;
}
