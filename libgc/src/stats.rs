//! What programs ask about the heap: views of the books, and of the collections so far.
//!
//! # Safety
//! Programs hand in places for figures, or null.

use crate::{cycle, heap, pace, settings};
use core::ffi::{CStr, c_char, c_ulong, c_void};
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
    /// In spans of objects.
    used: usize,
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
        Usage { heap: in_objects + free + unmapped, free: free + free_slots, unmapped, used: in_objects }
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

/// Bytes of spans that have objects.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_memory_use() -> usize {
    usage().used
}

/// Figures as the headers have them. Those that are not counted here are all ones, as are those that a newer header adds.
#[repr(C)]
struct Profile {
    heap: usize,
    free: usize,
    unmapped: usize,
    since: usize,
    allocated_before: usize,
    not_collected: usize,
    collections: usize,
    helpers: usize,
    reclaimed_since: usize,
    reclaimed_before: usize,
    freed_since: usize,
    from_system: usize,
}

/// What is not counted.
const UNKNOWN: usize = usize::MAX;

/// Fills in figures, as far as `size` bytes reach. Returns how many were.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_get_prof_stats(place: *mut c_void, size: usize) -> usize {
    let usage = usage();
    let cycle::Figures { number, allocated, .. } = cycle::figures();
    let figures = Profile {
        heap: usage.heap,
        free: usage.free,
        unmapped: usage.unmapped,
        since: cycle::since(),
        allocated_before: allocated,
        not_collected: settings::GC_get_non_gc_bytes(),
        collections: number,
        helpers: settings::GC_get_parallel().max(0) as usize,
        reclaimed_since: UNKNOWN,
        reclaimed_before: UNKNOWN,
        freed_since: UNKNOWN,
        from_system: usage.heap,
    };
    let known = size.min(size_of::<Profile>());
    let place = place.cast::<u8>();
    // SAFETY: the header's promise: a place of so many bytes.
    unsafe {
        place.copy_from_nonoverlapping((&raw const figures).cast(), known);
        place.add(known).write_bytes(0xff, size - known);
    }
    known
}

/// The same: figures are read without the allocation lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_get_prof_stats_unsafe(place: *mut c_void, size: usize) -> usize {
    // SAFETY: the caller's place.
    unsafe { GC_get_prof_stats(place, size) }
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

/// Writes a line with a name, and what the heap is like, to the log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_dump_named(name: *const c_char) {
    if !name.is_null() {
        // SAFETY: the header's promise: a string.
        let name = unsafe { CStr::from_ptr(name) };
        settings::log(format_args!("spanheap gc: {}", name.to_str().unwrap_or("a name that is no text")));
    }
    GC_dump();
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
