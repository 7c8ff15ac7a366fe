/* A program that takes away what an allocator might have counted on.
 *
 * usage: surroundings clearenv | closed | locked | chroot | busy-descriptors */
#include "check.h"
#include <sys/mman.h>
#include <sys/resource.h>

extern char **environ;

static void *work(void *argument) {
    uint64_t random = (uintptr_t)argument + 1;
    void *held[64] = {0};
    for (int i = 0; i < 20000; i++) {
        size_t at = draw(&random) % 64, size = draw_size(&random, 15);
        free(held[at]);
        CHECK((held[at] = calloc(1, size)));
        CHECK(all_zero(held[at], size));
        memset(held[at], 0xff, size);
    }
    for (int i = 0; i < 64; i++) free(held[i]);
    return NULL;
}

static void go_on(void) {
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (size_t i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    malloc_trim(0);
}

/* The environment is overwritten as well: no pointer into it may be kept. */
static void without_environment(void) {
    for (char **each = environ; *each; each++) memset(*each, 'x', strlen(*each));
    CHECK(clearenv() == 0);
    go_on();
    CHECK(setenv("LATER", "value", 1) == 0);
    puts("no environment");
}

static void without_descriptors(void) {
    go_on();
    puts("no descriptors");
    fflush(stdout);
    for (int i = 0; i < 1024; i++) close(i);
    go_on();
}

/* Not one descriptor can be opened until the very end. */
static void descriptors_used_up(void) {
    struct rlimit limit = {16, 1024};
    int opened[16], count = 0;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 16;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    while (count < 16 && (opened[count] = open("/dev/null", O_RDONLY)) >= 0) count++;
    CHECK(count > 0 && errno == EMFILE);
    go_on();
    for (int i = 0; i < count; i++) close(opened[i]);
    puts("descriptors used up");
}

/* Locked memory refuses to be released: what was dirty stays dirty, and must
 * be cleared by hand. (MCL_ONFAULT, so that nothing untouched is filled in.) */
static void locked(void) {
    void *early = malloc(10 << 20);
    memset(early, 1, 10 << 20);
    int refused = mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
    free(early);
    for (int round = 0; round < 20; round++) {
        size_t size = (size_t)(round % 7 + 1) << 18;
        void *dirty[8];
        for (int i = 0; i < 8; i++) {
            CHECK((dirty[i] = calloc(1, size)));
            CHECK(all_zero(dirty[i], size));
            memset(dirty[i], 0xff, size);
        }
        for (int i = 0; i < 8; i++) free(dirty[i]);
        malloc_trim(0);
        usleep(20000);
    }
    go_on();
    if (!refused) munlockall();
    puts("locked");
}

/* An empty root: nothing of /proc or /sys is there. */
static void without_files(void) {
    if (chroot("/proc/self/fdinfo") == 0) CHECK(chdir("/") == 0);
    go_on();
    puts("no files");
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    if (strcmp(arguments[1], "clearenv") == 0) without_environment();
    if (strcmp(arguments[1], "closed") == 0) without_descriptors();
    if (strcmp(arguments[1], "busy-descriptors") == 0) descriptors_used_up();
    if (strcmp(arguments[1], "locked") == 0) locked();
    if (strcmp(arguments[1], "chroot") == 0) without_files();
    return 0;
}
