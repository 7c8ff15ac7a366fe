//! A collection.
//!
//! ```text
//!   lock ─▶ tell the program ─▶ segments ─▶ sweep what is left ─▶ stop the world
//!                                                                    │ caches give back what they have
//!                                                                    │ roots, stacks, what the program pushes
//!                                                                    │ mark, with helpers; procedures
//!                                                                    │ links and finalizers
//!                                                                    ▼ all spans wait to be swept
//!   finalizers run ◀─ unlock ◀─ the world goes on ◀──────────────────┘
//! ```
//!
//! All marking is done while the world stands. Sweeping is left to those who allocate.
//!
//! # Safety
//! While the world stands, the threads' caches are the collector's.

use crate::events::Event;
use crate::mark::Driver;
use crate::threads::{self, Record, Side};
use crate::{
    events, finalize, heap, hints, kinds, links, mark, pace, roots, settings, stop, tls, toggle, verify,
};
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spanheap::base::sync::Backoff;
use spanheap::base::{Address, Bytes};
use spanheap::object::NoAttachments;

/// Collections that have ended.
static NUMBER: AtomicUsize = AtomicUsize::new(0);
/// Nanoseconds: of the longest stop, of all stops, and of the last one.
static LONGEST: AtomicU64 = AtomicU64::new(0);
static ALL: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
/// Bytes alive after the last collection.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Bytes allocated before the last collection.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Figures of the collections so far.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) number: usize,
    pub(crate) longest: u64,
    pub(crate) all: u64,
    pub(crate) live: usize,
    /// Bytes allocated up to the last collection.
    pub(crate) allocated: usize,
}

pub(crate) fn figures() -> Figures {
    Figures {
        number: NUMBER.load(Ordering::Relaxed),
        longest: LONGEST.load(Ordering::Relaxed),
        all: ALL.load(Ordering::Relaxed),
        live: LIVE.load(Ordering::Relaxed),
        allocated: ALLOCATED.load(Ordering::Relaxed),
    }
}

/// Bytes allocated since the last collection.
pub(crate) fn since() -> usize {
    heap::gc().parts.objects().live().0.saturating_sub(LIVE.load(Ordering::Relaxed))
}

/// Why there is a collection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is time for one.
    Due,
    /// Somebody wants one.
    Asked,
}

/// Collects, and does what is to be done afterwards. Returns whether something was collected.
pub(crate) fn collect(why: Why) -> bool {
    if !settings::may_collect() || why == Why::Due && events::are_unwanted() {
        return false;
    }
    heap::gc();
    let record = tls::words().known();
    heap::lock();
    let wanted = why == Why::Asked || pace::is_due();
    if wanted {
        threads::with_registers(collect_locked, ptr::from_ref(record).cast_mut().cast(), ptr::null_mut());
    }
    heap::unlock();
    if wanted {
        finalize::after_collection();
    }
    wanted
}

extern "C" fn collect_locked(record: *mut c_void, _: *mut c_void, pointer: usize) -> *mut c_void {
    // SAFETY: the caller's own record.
    let record = unsafe { &*record.cast::<Record>() };
    let before = record.pointer.replace(pointer);
    if let Some(tell) = settings::GC_get_start_callback() {
        tell();
    }
    events::tell(Event::Start);
    toggle::ask();
    let parts = heap::gc().parts;
    roots::refresh();
    finalize::prepare();
    mark::start_helpers(parts.objects().live().0);
    sweep_all();
    let began = now();
    events::tell(Event::BeforeStop);
    stop::stop_world();
    events::tell(Event::AfterStop);
    let had = parts.objects().live();
    gather();
    events::tell(Event::MarkStart);
    let marked = mark_all(record);
    events::tell(Event::MarkEnd);
    events::tell(Event::BeforeGoingOn);
    stop::go_on();
    events::tell(Event::AfterGoingOn);
    let lasted = now() - began;
    // SAFETY: nobody marks: the lock is held.
    parts.with_work(|work| unsafe { parts.shapes().roll_up(work.ground, work.spans) });
    // SAFETY: as above.
    while parts.with_work(|work| unsafe { parts.collector().give_back_buffers(&work.ground, work.spans, 8) })
    {
    }
    record.pointer.set(before);
    note(had, marked, lasted);
    events::tell(Event::End);
    ptr::null_mut()
}

/// Sweeps what the last collection left.
pub(crate) fn sweep_all() {
    let parts = heap::gc().parts;
    let _inside = tls::Inside::enter();
    while parts.with_work(|work| parts.objects().sweep_chunk(work, &mut NoAttachments)).is_some() {}
    let mut backoff = Backoff::new();
    while !parts.objects().is_swept() {
        backoff.step();
    }
}

/// Takes back what all caches have and was never handed out. The world stands still.
pub(crate) fn flush() {
    let parts = heap::gc().parts;
    parts.with_work(|work| {
        for Side { cache, .. } in threads::all().flat_map(Record::sides) {
            parts.objects().flush(cache, work);
        }
    });
}

/// Takes back what all caches have, and what threads have freed. Marking follows.
fn gather() {
    flush();
    let parts = heap::gc().parts;
    let objects = parts.objects();
    parts.with_work(|work| {
        // Before what was freed is subtracted.
        ALLOCATED.fetch_add(since(), Ordering::Relaxed);
        for Side { freed, .. } in threads::all().flat_map(Record::sides) {
            for list in freed {
                let mut at = core::mem::replace(list, ptr::null_mut());
                while let Some(object) = objects.find(Address(at.addr())) {
                    // SAFETY: a slot in the list, whose first word leads to the next; nobody else has it.
                    unsafe {
                        at = at.cast::<*mut u8>().read();
                        objects.take_back(&object, work);
                    }
                }
            }
        }
    });
}

/// Marks, settles what depends on it, and lets everything wait to be swept. Returns the bytes that are alive.
fn mark_all(me: &'static Record) -> Bytes {
    let parts = heap::gc().parts;
    let collector = parts.collector();
    parts.objects().set_marking(true);
    collector.begin();
    let live = parts.objects().live().0;
    parts.with_marking(|marking| {
        let driver = &mut Driver { worker: mark::drivers_worker(), marking, me };
        mark::let_help(live);
        // SAFETY: a word of the program's.
        let push = unsafe { mark::GC_push_other_roots };
        driver.lending(|| push());
        kinds::push_uncollectable(driver);
        finalize::push(driver);
        toggle::push(driver);
        settle(driver);
        mark::end_help();
        finalize::decide(driver);
        settle(driver);
        links::clear_long();
        toggle::forget_dead();
        driver.worker.leave(driver.marking);
    });
    verify::compare();
    let progress = parts.with_work(|work| {
        mark::end_driving(work);
        collector.end(&work.ground)
    });
    parts.objects().set_marking(false);
    let marked = Bytes(progress.marked_bytes as usize) + parts.objects().black();
    parts.objects().begin_sweep(marked);
    let [_, of_roots, of_stacks] = progress.scanned;
    pace::settle(marked.0, of_stacks as usize, of_roots as usize);
    marked
}

/// Marks until nothing is left, procedures included.
pub(crate) fn settle(driver: &mut Driver<'_, '_>) {
    loop {
        mark::drain(driver);
        if !kinds::trace(driver) {
            return;
        }
    }
}

fn note(had: Bytes, marked: Bytes, lasted: u64) {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    LONGEST.fetch_max(lasted, Ordering::Relaxed);
    ALL.fetch_add(lasted, Ordering::Relaxed);
    LAST.store(lasted, Ordering::Relaxed);
    LIVE.store(marked.0, Ordering::Relaxed);
    // SAFETY: a word that programs only read, under the lock.
    unsafe { settings::GC_gc_no = number };
    if settings::prints() {
        settings::log(format_args!(
            "spanheap gc {number}: {} -> {} KiB, goal {} KiB, stopped {} us",
            had.0 >> 10,
            marked.0 >> 10,
            pace::goal() >> 10,
            lasted / 1000,
        ));
    }
}

pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to the place that is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Collects because the program asks for it. `unmap`: gives free memory back to the system. Returns whether it was done.
fn asked(unmap: bool) -> bool {
    let was_done = collect(Why::Asked);
    if unmap {
        if was_done {
            sweep_all();
        }
        let _inside = tls::Inside::enter();
        heap::gc().parts.heap().release_all();
    }
    was_done
}

/// Collects, unless the program's function says that it should not be done.
#[unsafe(no_mangle)]
pub extern "C" fn GC_gcollect() {
    if !events::are_unwanted() {
        asked(hints::unmap());
    }
}

/// Collects, and gives free memory back to the system.
#[unsafe(no_mangle)]
pub extern "C" fn GC_gcollect_and_unmap() {
    asked(true);
}

/// Collects if it is time for that. Returns whether more is to be done: never.
#[unsafe(no_mangle)]
pub extern "C" fn GC_collect_a_little() -> c_int {
    heap::gc();
    if pace::is_due() {
        collect(Why::Due);
    }
    0
}

/// Collects. `stop` may say in advance that it should not be done. Returns whether it was.
#[unsafe(no_mangle)]
pub extern "C" fn GC_try_to_collect(stop: extern "C" fn() -> c_int) -> c_int {
    if stop() != 0 {
        return 0;
    }
    asked(hints::unmap()).into()
}
