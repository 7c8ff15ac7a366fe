//! What programs ask about the heap: views of the books, and of the collections so far.
//!
//! # Safety
//! Programs hand in places for figures, or null.

use crate::{cycle, heap, pace, settings};
use core::ffi::{c_ulong, c_void};
use spanheap::stats::Account;

/// What the books say of the heap, in the words of the headers.
#[derive(Clone, Copy, Default)]
struct Usage {
    /// Bytes for objects: those that the system has given, and that were not given back.
    heap: usize,
    /// Of those, free.
    free: usize,
    /// Given back to the system.
    unmapped: usize,
}

fn usage() -> Usage {
    let parts = heap::gc().parts;
    let _inside = crate::tls::Inside::enter();
    let live = parts.objects().live().0;
    let read = spanheap::front::report::with_books(parts.heap(), |snapshot| {
        let size = |bytes: i64| bytes.max(0) as usize;
        let free = size(snapshot.balance(Account::Free)) + size(snapshot.balance(Account::Cached));
        let in_objects: usize = (0..heap::POOLS)
            .map(|pool| heap::gc().purpose(pool))
            .fold((0, [false; 256]), |(sum, mut seen), id| {
                let is_new = !core::mem::replace(&mut seen[id.index()], true);
                (sum + if is_new { size(snapshot.balance(Account::Span(id))) } else { 0 }, seen)
            })
            .0;
        let free_slots = in_objects.saturating_sub(live);
        let unmapped = size(snapshot.balance(Account::Released));
        Usage { heap: in_objects + free + unmapped, free: free + free_slots, unmapped }
    });
    read.unwrap_or_default()
}

/// Bytes of the heap that are not given back.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_heap_size() -> usize {
    let Usage { heap, unmapped, .. } = usage();
    heap - unmapped
}

/// Bytes that are free.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_free_bytes() -> usize {
    usage().free
}

/// Bytes that were given back to the system.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_unmapped_bytes() -> usize {
    usage().unmapped
}

/// Bytes allocated since the last collection.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_bytes_since_gc() -> usize {
    cycle::since()
}

/// Bytes allocated since the program began.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_total_bytes() -> usize {
    cycle::figures().allocated + cycle::since()
}

/// Collections that have ended.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_gc_no() -> c_ulong {
    cycle::figures().number as c_ulong
}

/// Milliseconds that the world stood still.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_full_gc_total_time() -> c_ulong {
    (cycle::figures().all / 1_000_000) as c_ulong
}

/// Times are always measured.
#[unsafe(no_mangle)]
pub extern "C" fn GC_start_performance_measurement() {}

/// Bytes that the collector itself has, its tables apart from the objects.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_obtained_from_os_bytes() -> usize {
    usage().heap
}

/// All of the above at once; a null place is not filled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_get_heap_usage_safe(
    heap: *mut usize,
    free: *mut usize,
    unmapped: *mut usize,
    since: *mut usize,
    total: *mut usize,
) {
    let usage = usage();
    let figures = [
        (heap, usage.heap - usage.unmapped),
        (free, usage.free),
        (unmapped, usage.unmapped),
        (since, cycle::since()),
        (total, GC_get_total_bytes()),
    ];
    for (place, figure) in figures {
        // SAFETY: the header's promise: null, or a place.
        if let Some(place) = unsafe { place.as_mut() } {
            *place = figure;
        }
    }
}

/// Lets so many bytes more be allocated before the next collection. Returns 1.
#[unsafe(no_mangle)]
pub extern "C" fn GC_expand_hp(bytes: usize) -> core::ffi::c_int {
    heap::gc();
    pace::expand(bytes);
    1
}

/// Writes what the heap is like to the log.
#[unsafe(no_mangle)]
pub extern "C" fn GC_dump() {
    let usage = usage();
    let cycle::Figures { number, longest, all, live, .. } = cycle::figures();
    settings::log(format_args!(
        "spanheap gc: {number} collections, {} KiB alive, {} KiB in the heap, {} KiB free",
        live >> 10,
        (usage.heap - usage.unmapped) >> 10,
        usage.free >> 10,
    ));
    settings::log(format_args!(
        "spanheap gc: stopped {} us in all, {} us at most",
        all / 1000,
        longest / 1000
    ));
}

/// Calls `work(data)` with the allocation lock held: nothing is collected, and no link disappears meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn GC_call_with_alloc_lock(
    work: extern "C" fn(*mut c_void) -> *mut c_void,
    data: *mut c_void,
) -> *mut c_void {
    heap::gc();
    heap::lock();
    let done = work(data);
    heap::unlock();
    done
}

/// Takes the allocation lock.
#[unsafe(no_mangle)]
pub extern "C" fn GC_alloc_lock() {
    heap::gc();
    heap::lock();
}

/// Gives it back.
#[unsafe(no_mangle)]
pub extern "C" fn GC_alloc_unlock() {
    heap::unlock();
}
