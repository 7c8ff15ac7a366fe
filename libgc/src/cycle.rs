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
//! All marking is done while the world stands, unless that would take too long: then a cycle begins with a short stop,
//! marks while the program runs, and ends with the stop above for what is left ([`concurrent`]). Sweeping is left to
//! those who allocate.
//!
//! # Safety
//! While the world stands, the threads' caches are the collector's.

use crate::concurrent::Step;
use crate::events::Event;
use crate::mark::Driver;
use crate::threads::{self, Record, Side};
use crate::{
    concurrent, events, finalize, heap, hints, kinds, links, mark, pace, roots, settings, stop, tls, toggle,
    verify,
};
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spanheap::base::sync::Backoff;
use spanheap::base::{Address, Bytes};
use spanheap::gc::patience::Found;
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
    /// Somebody looks for faults: as if it were time.
    Stressed,
}

/// Collects, or does the next step of a collection, and what is to be done afterwards. Returns whether something was
/// collected.
pub(crate) fn collect(why: Why) -> bool {
    if !settings::may_collect() || why == Why::Due && events::are_unwanted() {
        return false;
    }
    heap::gc();
    if why == Why::Due && concurrent::phase() == concurrent::Phase::Mark {
        concurrent::assist();
        return false;
    }
    let record = ptr::from_ref(tls::words().known()).cast_mut().cast();
    let run = |work| threads::with_registers(work, record, ptr::null_mut());
    heap::lock();
    let step = if why == Why::Due && !pace::is_due() { Step::Nothing } else { concurrent::next(why) };
    if step == Step::Begin {
        run(begin_locked);
    }
    if matches!(step, Step::Finish | Step::FinishAndWhole) {
        run(finish_locked);
    }
    if matches!(step, Step::Whole | Step::FinishAndWhole) {
        run(collect_locked);
    }
    heap::unlock();
    let has_ended = !matches!(step, Step::Nothing | Step::Begin);
    if has_ended {
        finalize::after_collection();
    }
    has_ended
}

/// A collection in one stop.
extern "C" fn collect_locked(record: *mut c_void, _: *mut c_void, pointer: usize) -> *mut c_void {
    // SAFETY: the caller's own record.
    let record = unsafe { &*record.cast::<Record>() };
    let before = record.pointer.replace(pointer);
    get_ready();
    sweep_all();
    let began = stop();
    let had = heap::gc().parts.objects().live();
    gather(true);
    events::tell(Event::MarkStart);
    let marked = mark_all(record);
    let lasted = go_on(began);
    give_back();
    record.pointer.set(before);
    concurrent::note_whole(marked.0, lasted);
    note(had, marked, lasted, "");
    events::tell(Event::End);
    ptr::null_mut()
}

/// The first stop of a collection that marks while the program runs.
extern "C" fn begin_locked(record: *mut c_void, _: *mut c_void, pointer: usize) -> *mut c_void {
    // SAFETY: the caller's own record.
    let record = unsafe { &*record.cast::<Record>() };
    let before = record.pointer.replace(pointer);
    // A program that pushes roots of its own may prepare for it.
    if mark::has_own_roots()
        && let Some(tell) = settings::GC_get_start_callback()
    {
        tell();
    }
    roots::refresh();
    let began = now();
    stop::stop_world();
    gather(false);
    let parts = heap::gc().parts;
    parts.objects().set_marking(true);
    parts.collector().begin();
    concurrent::begin_marking();
    parts.with_marking(|marking| {
        let driver = &mut Driver { worker: mark::drivers_worker(), marking, me: record };
        driver.worker.scan_roots(driver.marking);
        push_roots(driver);
        kinds::trace(driver);
        driver.worker.leave(driver.marking);
    });
    stop::go_on();
    note_stop(now() - began);
    concurrent::go_on();
    record.pointer.set(before);
    ptr::null_mut()
}

/// The last stop of such a collection. The conductor is parked.
extern "C" fn finish_locked(record: *mut c_void, _: *mut c_void, pointer: usize) -> *mut c_void {
    // SAFETY: the caller's own record.
    let record = unsafe { &*record.cast::<Record>() };
    let before = record.pointer.replace(pointer);
    let is_early = concurrent::phase() != concurrent::Phase::Done;
    get_ready();
    let began = stop();
    let had = heap::gc().parts.objects().live();
    let taken = gather(true);
    events::tell(Event::MarkStart);
    let marked = mark_rest(record, taken, is_early);
    let lasted = go_on(began);
    give_back();
    record.pointer.set(before);
    concurrent::end(marked.0);
    note(had, marked, lasted, ", marked beside the program");
    events::tell(Event::End);
    ptr::null_mut()
}

/// What is done before the world is stopped.
fn get_ready() {
    if let Some(tell) = settings::GC_get_start_callback() {
        tell();
    }
    events::tell(Event::Start);
    toggle::ask();
    roots::refresh();
    finalize::prepare();
    mark::start_helpers(heap::gc().parts.objects().live().0);
}

/// Stops the world. Returns when that began.
fn stop() -> u64 {
    let began = now();
    events::tell(Event::BeforeStop);
    stop::stop_world();
    events::tell(Event::AfterStop);
    began
}

/// Lets the world go on. Returns how long it stood.
fn go_on(began: u64) -> u64 {
    events::tell(Event::MarkEnd);
    events::tell(Event::BeforeGoingOn);
    stop::go_on();
    events::tell(Event::AfterGoingOn);
    let lasted = now() - began;
    note_stop(lasted);
    lasted
}

/// Gives back what only marking needs.
fn give_back() {
    let parts = heap::gc().parts;
    // SAFETY: nobody marks: the lock is held.
    parts.with_work(|work| unsafe { parts.shapes().roll_up(work.ground, work.spans) });
    // SAFETY: as above.
    while parts.with_work(|work| unsafe { parts.collector().give_back_buffers(&work.ground, work.spans, 8) })
    {
    }
}

/// Takes the allocation lock where no collection has begun, and parks the conductor. Returns whether that could be: a program
/// that has disabled collections keeps one that has begun.
pub(crate) fn lock_between() -> bool {
    loop {
        heap::lock();
        if !concurrent::is_marking() {
            concurrent::park();
            return true;
        }
        heap::unlock();
        if !collect(Why::Asked) {
            return false;
        }
    }
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

/// Takes back what all caches have, and what threads have freed. `ends`: the cycle ends with this stop. Returns the bytes
/// that were marked of what had been freed.
fn gather(ends: bool) -> Bytes {
    flush();
    let parts = heap::gc().parts;
    let objects = parts.objects();
    let mut marked = Bytes::ZERO;
    parts.with_work(|work| {
        if ends {
            // Before what was freed is subtracted.
            ALLOCATED.fetch_add(since(), Ordering::Relaxed);
        }
        for Side { freed, .. } in threads::all().flat_map(Record::sides) {
            for list in freed {
                let mut at = core::mem::replace(list, ptr::null_mut());
                while let Some(object) = objects.find(Address(at.addr())) {
                    // SAFETY: a slot in the list, whose first word leads to the next; nobody else has it.
                    unsafe {
                        at = at.cast::<*mut u8>().read();
                        marked += objects.take_back(&object, work);
                    }
                }
            }
        }
    });
    marked
}

/// Marks, settles what depends on it, and lets everything wait to be swept. Returns the bytes that are alive.
fn mark_all(me: &'static Record) -> Bytes {
    let parts = heap::gc().parts;
    parts.objects().set_marking(true);
    parts.collector().begin();
    parts.with_marking(|marking| {
        let driver = &mut Driver { worker: mark::drivers_worker(), marking, me };
        mark::let_help(driver.marking.objects.live().0);
        push_roots(driver);
        kinds::push_uncollectable(driver);
        decide(driver);
    });
    conclude(Bytes::ZERO)
}

/// The same after marking beside the program: what it wrote, and its roots once more. `taken` bytes were marked and are
/// free by now.
fn mark_rest(me: &'static Record, taken: Bytes, is_early: bool) -> Bytes {
    let parts = heap::gc().parts;
    concurrent::scan_what_was_written(mark::drivers_worker());
    parts.collector().roots.divide();
    parts.with_marking(|marking| {
        let driver = &mut Driver { worker: mark::drivers_worker(), marking, me };
        if is_early {
            mark::let_help(driver.marking.objects.live().0);
        }
        kinds::forget_traced(driver);
        push_roots(driver);
        decide(driver);
    });
    conclude(taken)
}

/// Shades what no table of roots has.
fn push_roots(driver: &mut Driver<'_, '_>) {
    // SAFETY: a word of the program's.
    let push = unsafe { mark::GC_push_other_roots };
    driver.lending(|| push());
    finalize::push(driver);
    toggle::push(driver);
}

/// Marks what is left, and settles what depends on it.
fn decide(driver: &mut Driver<'_, '_>) {
    settle(driver);
    mark::end_help();
    finalize::decide(driver);
    settle(driver);
    links::clear_long();
    toggle::forget_dead();
    driver.worker.leave(driver.marking);
}

/// Ends marking. Returns the bytes that are alive; `taken` are not, though they were marked.
fn conclude(taken: Bytes) -> Bytes {
    verify::compare();
    let parts = heap::gc().parts;
    let had = parts.objects().live();
    let progress = parts.with_work(|work| {
        mark::end_driving(work);
        parts.collector().end(&work.ground)
    });
    parts.objects().set_marking(false);
    let marked = Bytes(progress.marked_bytes as usize) + parts.objects().black() - taken;
    parts.objects().begin_sweep(marked);
    let [scanned, of_roots, of_stacks] = progress.scanned.map(|bytes| Bytes(bytes as usize));
    pace::settle(&Found { had, marked, scanned, roots: of_roots + of_stacks });
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

fn note(had: Bytes, marked: Bytes, lasted: u64, how: &str) {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    LAST.store(lasted, Ordering::Relaxed);
    LIVE.store(marked.0, Ordering::Relaxed);
    // SAFETY: a word that programs only read, under the lock.
    unsafe { settings::GC_gc_no = number };
    if settings::prints() {
        settings::log(format_args!(
            "spanheap gc {number}: {} -> {} KiB, goal {} KiB, stopped {} us, longest {} us{how}",
            had.0 >> 10,
            marked.0 >> 10,
            pace::goal() >> 10,
            lasted / 1000,
            LONGEST.load(Ordering::Relaxed) / 1000,
        ));
    }
}

/// The world stood so long.
fn note_stop(lasted: u64) {
    LONGEST.fetch_max(lasted, Ordering::Relaxed);
    ALL.fetch_add(lasted, Ordering::Relaxed);
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
