/* What the programs of this directory share. They print what both libraries must agree on, and nothing else. */
#include <stdio.h>
#include <string.h>

#define GC_THREADS
#include <gc.h>

/* A line for one fact. */
#define SAY(what) printf("%s: %ld\n", #what, (long)(what))

/* Calls a function where its frame is gone afterwards, and overwrites what it left on the stack. */
static __attribute__((noinline, unused)) void wipe(void) {
    volatile char below[16384];
    memset((void *)below, 0, sizeof below);
}

/* Collects until nothing changes any more, whatever is left in registers. */
static __attribute__((unused)) void collect(void) {
    for (int i = 0; i < 4; i++) {
        wipe();
        GC_gcollect();
        GC_invoke_finalizers();
    }
}
