/* Figures: what must hold between them, whatever they are. */
#include "say.h"

int main(void) {
    GC_INIT();
    GC_word before = GC_get_gc_no();
    GC_gcollect();
    SAY(GC_get_gc_no() - before);
    size_t total = GC_get_total_bytes();
    for (int i = 0; i < 1000; i++) *(void **)GC_MALLOC(64) = NULL;
    SAY(GC_get_total_bytes() >= total);
    SAY(GC_get_heap_size() >= GC_get_free_bytes());
    SAY(GC_get_memory_use() <= GC_get_heap_size());
    GC_word heap = 0, free = 0, unmapped = 1, since = 0, all = 0;
    GC_get_heap_usage_safe(&heap, &free, &unmapped, &since, &all);
    SAY(heap >= free);
    GC_get_heap_usage_safe(NULL, NULL, NULL, NULL, NULL);
    struct GC_prof_stats_s figures;
    SAY(GC_get_prof_stats(&figures, sizeof figures) == sizeof figures);
    SAY(figures.gc_no == GC_get_gc_no());
    SAY(figures.heapsize_full >= figures.free_bytes_full);
    struct {
        struct GC_prof_stats_s known;
        GC_word newer;
    } more;
    SAY(GC_get_prof_stats((void *)&more, sizeof more) == sizeof more.known);
    SAY(more.newer == (GC_word)-1);
    SAY(GC_get_prof_stats(&figures, 16));
    SAY(GC_expand_hp(1 << 20));
    SAY(GC_get_obtained_from_os_bytes() >= GC_get_heap_size());
    GC_start_performance_measurement();
    GC_gcollect();
    SAY(GC_get_full_gc_total_time() < 10000);
    for (int i = 0; i < 16; i++) *(void **)GC_MALLOC(1 << 20) = NULL;
    GC_word given_back = GC_get_unmapped_bytes();
    GC_set_force_unmap_on_gcollect(1);
    collect();
    SAY(GC_get_unmapped_bytes() >= given_back + (4 << 20));
    return 0;
}
