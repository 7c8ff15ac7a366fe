/* One way traffic: some threads only allocate, others only free. What is freed
 * from afar must be used again by the allocating side, or memory grows. */
#include "check.h"
#include <sched.h>
#include <stdatomic.h>

enum { PAIRS = 2, RING = 1024, STEPS = 400000 };

struct ring {
    _Atomic(void *) slots[RING];
};
static struct ring rings[PAIRS];

static void *produce(void *argument) {
    struct ring *ring = argument;
    uint64_t random = 5;
    for (int step = 0; step < STEPS; step++) {
        size_t size = 8 + draw(&random) % 2000;
        unsigned char *block = malloc(size);
        CHECK(block);
        block[0] = block[size - 1] = (unsigned char)size;
        memcpy(block + 1, &size, 4);
        while (atomic_load(&ring->slots[step % RING])) sched_yield();
        atomic_store(&ring->slots[step % RING], block);
    }
    return NULL;
}

static void *consume(void *argument) {
    struct ring *ring = argument;
    for (int step = 0; step < STEPS; step++) {
        unsigned char *block;
        while (!(block = atomic_load(&ring->slots[step % RING]))) sched_yield();
        unsigned size;
        memcpy(&size, block + 1, 4);
        CHECK(block[0] == (unsigned char)size && block[size - 1] == (unsigned char)size);
        free(block);
        atomic_store(&ring->slots[step % RING], NULL);
    }
    return NULL;
}

int main(void) {
    pthread_t makers[PAIRS], takers[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        CHECK(pthread_create(&makers[i], NULL, produce, &rings[i]) == 0);
        CHECK(pthread_create(&takers[i], NULL, consume, &rings[i]) == 0);
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK(pthread_join(makers[i], NULL) == 0);
        CHECK(pthread_join(takers[i], NULL) == 0);
    }
    CHECK(resident() < (48u << 20)); /* 800 MB passed through; at most 2 MB were live */
    puts("handed over, memory bounded");
    return 0;
}
