/* What a program is told of a collection, and when none is wanted. */
#include "say.h"
#include <gc/gc_mark.h>

static int seen[16], order_kept = 1, last = -1, started, unwanted;

/* The numbers of the events in the order in which they come, as far as both libraries have them. */
static const int order[] = {0, 6, 7, 8, 9, 5};

static void event(GC_EventType type) {
    seen[type]++;
    for (int i = 0; i < (int)(sizeof order / sizeof *order); i++)
        if (order[i] == (int)type) {
            if (i != (last + 1) % 6) order_kept = 0;
            last = i;
        }
}
static void start(void) { started++; }
static int stop(void) { return unwanted; }

int main(void) {
    GC_INIT();
    GC_set_on_collection_event(event);
    GC_set_start_callback(start);
    GC_gcollect();
    GC_gcollect();
    SAY(order_kept);
    SAY(started);
    SAY(seen[GC_EVENT_START]);
    SAY(seen[GC_EVENT_MARK_START]);
    SAY(seen[GC_EVENT_MARK_END]);
    SAY(seen[GC_EVENT_PRE_STOP_WORLD]);
    SAY(seen[GC_EVENT_POST_START_WORLD]);
    SAY(seen[GC_EVENT_END]);
    SAY(GC_try_to_collect(stop));
    unwanted = 1;
    SAY(GC_try_to_collect(stop));
    GC_set_disable_automatic_collection(1);
    GC_word before = GC_get_gc_no();
    for (int i = 0; i < 200000; i++) *(void **)GC_MALLOC(100) = NULL;
    SAY(GC_get_gc_no() - before);
    GC_disable();
    GC_gcollect();
    SAY(GC_get_gc_no() - before);
    GC_enable();
    GC_gcollect();
    SAY(GC_get_gc_no() - before);
    GC_set_stop_func(stop);
    GC_gcollect();
    SAY(GC_get_gc_no() - before);
    unwanted = 0;
    GC_gcollect();
    SAY(GC_get_gc_no() - before);
    return 0;
}
