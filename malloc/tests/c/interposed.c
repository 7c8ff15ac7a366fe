/* Which library each name of the allocator comes from, one a line. */
#include "check.h"
#include <dlfcn.h>

int main(void) {
    static const char *const names[] = {
        "malloc",   "free",     "calloc",       "realloc",            "reallocarray", "aligned_alloc",
        "memalign", "valloc",   "pvalloc",      "posix_memalign",     "cfree",        "malloc_usable_size",
        "mallinfo", "mallinfo2", "malloc_info", "malloc_trim",        "malloc_stats", "mallopt",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Dl_info info;
        void *address = dlsym(RTLD_DEFAULT, names[i]);
        const char *file = address && dladdr(address, &info) ? info.dli_fname : "nowhere";
        const char *slash = strrchr(file, '/');
        printf("%s %s\n", names[i], slash ? slash + 1 : file);
    }
    void (*cfree)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    if (cfree) cfree(malloc(100));
    return 0;
}
