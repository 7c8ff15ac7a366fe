/* Calls from before there is anything: the executable's preinit array runs
 * before the constructors of any library, the allocator's among them. */
#include "check.h"

static unsigned char *blocks[3][100];

static void make(int which) {
    for (size_t i = 0; i < 100; i++) {
        size_t size = 1 + i * i * 31;
        blocks[which][i] = i % 2 ? calloc(1, size) : malloc(size);
        CHECK(blocks[which][i]);
        CHECK(i % 2 == 0 || all_zero(blocks[which][i], size));
        fill(blocks[which][i], 0, size, i);
    }
    for (size_t i = 0; i < 100; i += 3) CHECK((blocks[which][i] = realloc(blocks[which][i], 1 + i * i * 62)));
    free(memalign(4096, 5000));
    free(malloc(40 << 20));
}

static void preinit(int count, char **arguments, char **environment) {
    (void)count, (void)arguments, (void)environment;
    make(0);
}
__attribute__((section(".preinit_array"), used)) static void (*preinit_entry)(int, char **, char **) = preinit;

static void __attribute__((constructor(101))) first(void) { make(1); }
static void __attribute__((constructor)) later(void) { make(2); }

int main(void) {
    for (int which = 0; which < 3; which++)
        for (size_t i = 0; i < 100; i++) {
            CHECK(filled(blocks[which][i], 0, 1 + i * i * 31, i));
            free(blocks[which][i]);
        }
    puts("preinit, constructors, main");
    return 0;
}
