/* Every setter and its getter, and what is there before one is called. */
#include "say.h"
#include <gc/gc_mark.h>

#define BOTH(name, value) (GC_set_##name(value), GC_get_##name() == (value))

static void *none(size_t size) {
    (void)size;
    return NULL;
}
static void nothing(void) {}
static int never(void) { return 0; }
static void event(GC_EventType type) { (void)type; }
static void warn(char *format, GC_word word) {
    (void)format;
    (void)word;
}
static void stopped(const char *why) { (void)why; }

int main(void) {
    SAY(GC_get_all_interior_pointers());
    SAY(GC_is_init_called());
    GC_INIT();
    SAY(GC_is_init_called());
    SAY(GC_get_version() == (8 << 16 | 2 << 8 | 2));
    SAY(GC_get_free_space_divisor());
    SAY(GC_get_full_freq());
    SAY(GC_get_finalize_on_demand());
    SAY(GC_get_java_finalization());
    SAY(GC_get_dont_expand());
    SAY(GC_get_no_dls());
    SAY(GC_get_non_gc_bytes());
    SAY(GC_get_max_retries());
    SAY(GC_get_rate());
    SAY(GC_get_max_prior_attempts());
    SAY(GC_get_min_bytes_allocd());
    SAY(GC_get_allocd_bytes_per_finalizer());
    SAY(GC_get_find_leak());
    SAY(GC_get_force_unmap_on_gcollect());
    SAY(GC_get_pages_executable());
    SAY(GC_get_disable_automatic_collection());
    SAY(GC_get_manual_vdb_allowed());
    SAY(GC_is_incremental_mode());
    SAY(GC_get_suspend_signal());
    SAY(GC_get_thr_restart_signal());
    SAY(GC_get_on_collection_event() == NULL);
    SAY(GC_get_start_callback() == NULL);
    SAY(GC_get_toggleref_func() == NULL);
    SAY(BOTH(free_space_divisor, 2));
    SAY(BOTH(full_freq, 7));
    SAY(BOTH(finalize_on_demand, 1));
    SAY(BOTH(java_finalization, 1));
    SAY(BOTH(dont_expand, 1));
    SAY(BOTH(no_dls, 1));
    SAY(BOTH(non_gc_bytes, 4096));
    SAY(BOTH(max_retries, 2));
    SAY(BOTH(rate, 5));
    SAY(BOTH(max_prior_attempts, 3));
    SAY(BOTH(min_bytes_allocd, 1000));
    SAY(BOTH(allocd_bytes_per_finalizer, 100));
    SAY(BOTH(force_unmap_on_gcollect, 1));
    SAY(BOTH(disable_automatic_collection, 1));
    SAY(BOTH(time_limit, 20));
    SAY(BOTH(oom_fn, none));
    SAY(BOTH(warn_proc, warn));
    SAY(BOTH(abort_func, stopped));
    SAY(BOTH(finalizer_notifier, nothing));
    SAY(BOTH(start_callback, nothing));
    SAY(BOTH(stop_func, never));
    SAY(BOTH(on_collection_event, event));
    struct GC_timeval_s limit = {30, 500};
    GC_set_time_limit_tv(limit);
    SAY(GC_get_time_limit_tv().tv_ms);
    SAY(GC_get_time_limit_tv().tv_nsec);
    SAY(GC_is_disabled());
    GC_disable();
    GC_disable();
    GC_enable();
    SAY(GC_is_disabled());
    GC_enable();
    SAY(GC_is_disabled());
    return 0;
}
