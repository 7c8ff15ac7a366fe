/* A process that may open no more files: what has to be opened to mark while it runs is refused. */
#include "say.h"
#include <sys/resource.h>

int main(void) {
    GC_INIT();
    struct rlimit none = {3, 3};
    setrlimit(RLIMIT_NOFILE, &none);
    /* Where the log is open, it is the last file. */
    void **kept = 0;
    for (int i = 0; i < 400000; i++) {
        void **one = GC_malloc(64);
        if (i % 100 == 0) {
            *one = kept;
            kept = one;
        }
    }
    int count = 0;
    for (; kept; kept = *kept) count++;
    SAY(count);
    return 0;
}
