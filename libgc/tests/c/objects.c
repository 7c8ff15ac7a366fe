/* Allocation: zeros, sizes, kinds kept by realloc, strings, base and size of interior pointers. */
#include <gc/gc.h>
#include <stdio.h>
#include <string.h>

static int zero(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return 0;
    return 1;
}

int main(void) {
    GC_INIT();
    const size_t sizes[] = {0, 1, 8, 16, 24, 100, 512, 513, 4000, 30000, 100000, 3000000};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i];
        char *p = GC_MALLOC(n), *q = GC_MALLOC_UNCOLLECTABLE(n);
        printf("%zu: zero %d %d, fits %d, aligned %d\n", n, zero(p, n), zero(q, n), GC_size(p) >= n,
               ((size_t)p & 15) == 0);
        if (n) printf("  base %d %d\n", GC_base(p + n / 2) == p, GC_base(q + n - 1) == q);
        memset(p, 1, n);
        GC_FREE(p);
        GC_FREE(q);
    }
    char *p = GC_MALLOC(40);
    memset(p, 'x', 40);
    for (size_t n = 50; n < 300000; n = n * 3 / 2) {
        p = GC_REALLOC(p, n);
        printf("%d", p[0] == 'x' && p[39] == 'x');
    }
    printf("\n");
    p = GC_REALLOC(p, 30);
    printf("%d %d\n", p[29] == 'x', GC_base(p) == p);
    printf("%s %s\n", GC_STRDUP("a string"), GC_STRNDUP("a string", 3));
    printf("%d\n", GC_REALLOC(GC_MALLOC(9), 0) == 0);
    int local;
    printf("%d %d\n", GC_base(&local) == 0, GC_is_heap_ptr(&local));
    void *many = GC_malloc_many(32);
    int chained = 0;
    for (void *at = many; at; at = GC_NEXT(at)) chained++;
    printf("%d\n", chained >= 1);
    return 0;
}
