/* A library to be opened with RTLD_DEEPBIND: its malloc may be the C library's
 * own and not the program's. It frees what it allocates itself. */
#include <stdlib.h>
#include <string.h>

static void *kept;

static void __attribute__((constructor)) load(void) {
    kept = malloc(50000);
    memset(kept, 1, 50000);
}

static void __attribute__((destructor)) unload(void) { free(kept); }

int plugin_churn(int rounds) {
    int good = 0;
    for (int i = 1; i <= rounds; i++) {
        char *block = malloc((size_t)i * 17);
        if (!block) return -1;
        memset(block, i, (size_t)i * 17);
        block = realloc(block, (size_t)i * 40);
        good += block && block[i * 17 - 1] == (char)i;
        free(block);
    }
    return good;
}
