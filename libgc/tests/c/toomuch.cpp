// The heap has a limit; the program's answer to that is an exception.
#include <cstdio>
#include <gc/gc.h>
#include <new>

static void *refuse(size_t) { throw std::bad_alloc(); }

int main() {
    GC_INIT();
    GC_set_max_heap_size(64 << 20);
    GC_set_oom_fn(refuse);
    void **list = nullptr;
    for (int caught = 0; caught < 3; caught++) {
        try {
            for (;;) {
                void **more = static_cast<void **>(GC_MALLOC(1 << 20));
                *more = list;
                list = more;
            }
        } catch (std::bad_alloc &) {
            std::puts("caught");
            list = nullptr;
        }
    }
}
