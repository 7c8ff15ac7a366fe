/* Memory that goes back by itself, by a thread that nobody started; that it is
 * gone in a child, and comes back there when it is needed.
 *
 * usage: scavenger eager   a process and its child
 *        scavenger off     nothing goes back but what is asked for */
#include "check.h"
#include <dirent.h>

enum { BLOCKS = 160, SIZE = 100000, ALL = BLOCKS * SIZE };

/* How many threads of this process are called so; all, without a name. */
static int threads(const char *name) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks);
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300], comm[32] = {0};
        if (task->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(file >= 0 && read(file, comm, sizeof comm - 1) > 0);
        close(file);
        comm[strcspn(comm, "\n")] = 0;
        count += !name || strcmp(comm, name) == 0;
    }
    closedir(tasks);
    return count;
}

/* Takes memory, touches it, and frees it; `before` was resident without it. */
static void burst(size_t before) {
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((blocks[i] = malloc(SIZE)));
        memset(blocks[i], i | 1, SIZE);
    }
    CHECK(resident() > before + ALL / 4 * 3);
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
}

/* Memory takes its time. */
static void comes_back(size_t before) {
    for (int i = 0; resident() > before + ALL / 3; i++) {
        CHECK(i < 6000);
        usleep(20 * 1000);
    }
}

/* A new thread does not have its name at once. */
static void has_begun(void) {
    for (int i = 0; threads("spanheap") != 1; i++) {
        CHECK(i < 6000);
        usleep(20 * 1000);
    }
}

static void parent_and_child(void) {
    size_t before = resident();
    burst(before);
    has_begun();
    pid_t child = fork();
    if (child == 0) {
        CHECK(threads(NULL) == 1);
        /* The parent's memory may have gone back already, and for little nobody begins. */
        burst(before);
        has_begun();
        comes_back(before);
        _exit(5);
    }
    comes_back(before);
    CHECK(reap(child) == 5);
    CHECK(threads("spanheap") == 1);
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    if (strcmp(arguments[1], "eager") == 0) {
        parent_and_child();
        puts("parent and child");
    } else {
        size_t before = resident();
        burst(before);
        CHECK(threads(NULL) == 1 && resident() > before + ALL / 2);
        CHECK(malloc_trim(0) == 1 && resident() < before + ALL / 3);
        CHECK(malloc_trim(0) == 0);
        puts("only what is asked for");
    }
    return 0;
}
