/* Threads that allocate, hand blocks to each other through a shared table and
 * free what they find there. Every block carries what it should hold.
 *
 * usage: threads COUNT */
#include "check.h"
#include <stdatomic.h>

enum { SLOTS = 512, STEPS = 600000 };

struct parcel {
    size_t size;
    uint64_t tag;
    unsigned char body[];
};

static _Atomic(struct parcel *) table[SLOTS];
static int threads;

static size_t body(const struct parcel *parcel) { return parcel->size - sizeof *parcel; }

/* Only both ends of a large body are written and checked. */
static void seal(struct parcel *parcel, size_t size, uint64_t tag) {
    parcel->size = size;
    parcel->tag = tag;
    size_t length = body(parcel), end = length < 256 ? length : 256;
    fill(parcel->body, 0, end, tag);
    fill(parcel->body, length - end, length, tag);
}

static void unseal(const struct parcel *parcel) {
    size_t length = body(parcel), end = length < 256 ? length : 256;
    CHECK(filled(parcel->body, 0, end, parcel->tag));
    CHECK(filled(parcel->body, length - end, length, parcel->tag));
}

static struct parcel *obtain(uint64_t *random) {
    uint64_t kind = draw(random) >> 40;
    size_t size = sizeof(struct parcel) + draw_size(random, kind % 200 == 0 ? 19 : kind % 10 == 0 ? 13 : 8);
    struct parcel *parcel;
    if (kind % 5 == 0) {
        parcel = calloc(1, size);
        CHECK(parcel && all_zero(parcel, size));
    } else if (kind % 17 == 0) {
        size_t alignment = (size_t)16 << (kind >> 8) % 9;
        parcel = aligned_alloc(alignment, size);
        CHECK(parcel && aligned(parcel, alignment));
    } else {
        parcel = malloc(size);
        CHECK(parcel && aligned(parcel, 16));
    }
    seal(parcel, size, draw(random));
    return parcel;
}

static void *work(void *argument) {
    uint64_t random = (uint64_t)(uintptr_t)argument * 77777 + 1;
    for (int step = 0; step < STEPS / threads; step++) {
        struct parcel *parcel = obtain(&random);
        parcel = atomic_exchange(&table[draw(&random) % SLOTS], parcel);
        if (!parcel) continue;
        unseal(parcel);
        if (step % 16 == 0) {
            size_t size = sizeof *parcel + draw_size(&random, 14);
            size_t shared = body(parcel) < 256 ? body(parcel) : 256;
            uint64_t tag = parcel->tag;
            parcel = realloc(parcel, size);
            CHECK(parcel);
            if (shared > size - sizeof *parcel) shared = size - sizeof *parcel;
            CHECK(parcel->tag == tag && filled(parcel->body, 0, shared, tag));
            seal(parcel, size, tag);
            parcel = atomic_exchange(&table[draw(&random) % SLOTS], parcel);
            if (parcel) unseal(parcel);
        }
        free(parcel);
    }
    return NULL;
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    threads = atoi(arguments[1]);
    pthread_t all[64];
    CHECK(threads >= 1 && threads <= 64);
    for (int i = 0; i < threads; i++) CHECK(pthread_create(&all[i], NULL, work, (void *)(uintptr_t)(i + 1)) == 0);
    for (int i = 0; i < threads; i++) CHECK(pthread_join(all[i], NULL) == 0);
    for (int i = 0; i < SLOTS; i++) {
        if (table[i]) unseal(table[i]);
        free(table[i]);
    }
    printf("%d threads, every block intact\n", threads);
    return 0;
}
