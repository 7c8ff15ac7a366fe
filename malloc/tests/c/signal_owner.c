/* Signals sent to the process are for the program's threads only: a thread of
 * the allocator's own must keep them all blocked. Here the program blocks a
 * signal everywhere and waits for it, as servers do; and lets one thread have
 * another. Delivered elsewhere, the first would end the process and the second
 * would run in a thread that the program does not know. */
#include "check.h"
#include <signal.h>
#include <stdatomic.h>

static atomic_int stop, taken, foreign;
static __thread int is_owner;

static void on_signal(int number) {
    (void)number;
    atomic_fetch_add(is_owner ? &taken : &foreign, 1);
}

static void *owner(void *argument) {
    sigset_t set;
    is_owner = 1;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
    while (!atomic_load(&stop)) free(malloc(3000));
    return argument;
}

/* Gives an allocator that works in the background a reason to. */
static void burst(void) {
    for (int round = 0; round < 5; round++) {
        static void *blocks[2000];
        for (int i = 0; i < 2000; i++) {
            CHECK((blocks[i] = malloc(20000)));
            memset(blocks[i], 1, 20000);
        }
        for (int i = 0; i < 2000; i++) free(blocks[i]);
        usleep(10000);
    }
}

int main(void) {
    free(malloc(100));
    burst(); /* before the program blocks anything */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    burst();
    sigset_t waited = set;
    sigdelset(&waited, SIGUSR2);
    for (int i = 0; i < 300; i++) {
        int number = 0;
        CHECK(kill(getpid(), i % 2 ? SIGTERM : SIGUSR1) == 0);
        CHECK(sigwait(&waited, &number) == 0);
        CHECK(number == (i % 2 ? SIGTERM : SIGUSR1));
    }
    puts("300 waited for");

    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, owner, NULL) == 0);
    for (int i = 0; i < 300; i++) {
        CHECK(kill(getpid(), SIGUSR2) == 0);
        if (i % 10 == 0) free(malloc(1 << 20));
        for (int wait = 0; atomic_load(&taken) + atomic_load(&foreign) <= i && wait < 5000; wait++) usleep(1000);
    }
    atomic_store(&stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(atomic_load(&foreign) == 0);
    printf("%d taken by their owner\n", atomic_load(&taken));
    return 0;
}
