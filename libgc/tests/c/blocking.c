/* Threads that allocate, block, and are stopped; the lock; fork. */
#include "say.h"
#include <gc/gc_mark.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static void *inner(void *data) {
    GC_gcollect();
    return data;
}
static void *blocked(void *data) { return GC_call_with_gc_active(inner, data); }
static void *locked(void *data) { return data; }
static void *with_base(struct GC_stack_base *base, void *data) {
    return base->mem_base != NULL ? data : NULL;
}

static void *work(void *argument) {
    long sum = 0;
    void **list = NULL;
    for (int i = 0; i < 20000; i++) {
        void **cell = GC_MALLOC(32);
        cell[0] = i % 100 ? (void *)list : NULL;
        cell[1] = argument;
        list = cell;
        sum += cell[3] == NULL;
    }
    GC_do_blocking(blocked, list);
    for (; list; list = *list) sum += list[1] == argument;
    return (void *)sum;
}

int main(void) {
    GC_set_handle_fork(1);
    GC_INIT();
    GC_allow_register_threads();
    SAY(GC_thread_is_registered());
    pthread_t threads[4];
    for (long i = 0; i < 4; i++) GC_pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < 4; i++) {
        void *sum = NULL;
        GC_pthread_join(threads[i], &sum);
        SAY(sum);
    }
    struct GC_stack_base base;
    SAY(GC_get_stack_base(&base));
    SAY(GC_register_my_thread(&base) == GC_DUPLICATE);
    int data;
    SAY(GC_do_blocking(blocked, &data) == &data);
    SAY(GC_call_with_alloc_lock(locked, &data) == &data);
    SAY(GC_call_with_stack_base(with_base, &data) == &data);
    SAY(GC_get_my_stackbottom(&base) != NULL);
    GC_stop_world_external();
    GC_start_world_external();
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        work(&data);
        GC_gcollect();
        _exit(7);
    }
    int status = 0;
    waitpid(child, &status, 0);
    SAY(WEXITSTATUS(status));
    return 0;
}
