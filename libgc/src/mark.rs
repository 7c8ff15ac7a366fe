//! Who marks, and what programs can push while the collector marks.
//!
//! The thread that collects *drives*: it has a worker of the core's room `gc`, and so has each helper. Helpers are threads
//! of the C library's that sleep until there is something to mark and never touch objects otherwise. They are started by
//! the first collection that has enough to do for two, and again after a `fork`. Procedures of the program's run on the
//! driver alone, whatever helps.
//!
//! Programs push roots and references through functions of the collector; those find the driver here.
//!
//! - What is pushed as a stack counts wherever it points into an object, and one past its end.
//! - All else counts wherever it points into an object.
//!
//! Programs should not allocate in such functions. Some do, and get away with it as long as their thread has objects at
//! hand. So there is a way for them, past the locks that the driver holds: what they get is marked, and looked into when
//! the function has returned.
//!
//! # Safety
//! The driver's worker and marking are used by the driver's thread, while the world stands still. A helper's worker is
//! its own.

use crate::threads::{Record, Side};
use crate::{concurrent, heap, settings, verify};
use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use spanheap::base::class::MAX_SMALL;
use spanheap::base::purpose::OBJECTS;
use spanheap::base::sync::{self, Backoff};
use spanheap::base::{Address, Bytes, SizeClass};
use spanheap::gc::{Marking, Source, Supply, Worker};
use spanheap::object::{Object, ObjectWork, ShapeId, SpanClass, SpanKind};
use spanheap::os::Region;

/// The most helpers.
const MOST: usize = 31;
/// Below so many live bytes nobody helps: waking a thread takes as long as marking that.
const WORTHWHILE: usize = 4 << 20;

/// What the thread that collects has.
pub(crate) struct Driver<'a, 'b> {
    pub(crate) worker: &'a mut Worker,
    pub(crate) marking: &'a mut Marking<'b>,
    /// The thread itself.
    pub(crate) me: &'static Record,
}

/// The driver, while the program may push.
static DRIVER: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

struct Workers([UnsafeCell<Worker>; MOST + 1]);
// SAFETY: the head of this file.
unsafe impl Sync for Workers {}

static WORKERS: Workers = Workers([const { UnsafeCell::new(Worker::new()) }; MOST + 1]);

/// The round of helping: odd while there is something to mark.
static ROUND: AtomicU32 = AtomicU32::new(0);
/// Helpers that are at work.
static ACTIVE: AtomicU32 = AtomicU32::new(0);
/// Helpers that were started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The driver's worker.
pub(crate) fn drivers_worker() -> &'static mut Worker {
    // SAFETY: the head of this file.
    unsafe { &mut *WORKERS.0[0].get() }
}

/// Starts helpers, if there is enough to do for them. The lock is held, and the world is not stopped.
pub(crate) fn start_helpers(live: usize) {
    let wanted = (settings::markers() - 1).min(MOST) as u32;
    if live < WORTHWHILE {
        return;
    }
    while STARTED.load(Ordering::Relaxed) < wanted {
        let number = STARTED.fetch_add(1, Ordering::Relaxed) + 1;
        if !start(number) {
            // Without it the others have more to do.
            break;
        }
    }
}

fn start(number: u32) -> bool {
    start_thread(help, ptr::without_provenance_mut(number as usize))
}

/// Starts a thread of the library's own. Returns whether there is one.
pub(crate) fn start_thread(run: extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void) -> bool {
    // SAFETY: the thread runs a function of this library; all signals are blocked before it begins, so that it handles
    // none of the program's.
    unsafe {
        let (mut all, mut before) = (core::mem::zeroed(), core::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let mut thread = 0;
        let failed = libc::pthread_create(&mut thread, ptr::null(), run, argument);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if failed == 0 {
            libc::pthread_detach(thread);
        }
        failed == 0
    }
}

/// In the child of a `fork`: the helpers are not there.
pub(crate) fn forget_helpers() {
    STARTED.store(0, Ordering::Relaxed);
    ACTIVE.store(0, Ordering::Relaxed);
    ROUND.store(0, Ordering::Relaxed);
}

extern "C" fn help(number: *mut c_void) -> *mut c_void {
    // SAFETY: the head of this file; every helper has a number of its own.
    let worker = unsafe { &mut *WORKERS.0[number.addr()].get() };
    let parts = heap::gc().parts;
    let mut seen = 0;
    loop {
        let round = ROUND.load(Ordering::Acquire);
        if round == seen || round.is_multiple_of(2) {
            sync::wait(&ROUND, round);
            continue;
        }
        ACTIVE.fetch_add(1, Ordering::SeqCst);
        if ROUND.load(Ordering::SeqCst) == round {
            let is_over = |_: bool| ROUND.load(Ordering::Acquire) != round;
            parts.with_marking(|marking| {
                worker.drain_with_others(marking, is_over);
                worker.leave(marking);
            });
        }
        seen = round;
        ACTIVE.fetch_sub(1, Ordering::Release);
    }
}

/// Lets the helpers mark.
pub(crate) fn let_help(live: usize) {
    if STARTED.load(Ordering::Relaxed) > 0 && live >= WORTHWHILE {
        ROUND.fetch_add(1, Ordering::SeqCst);
        sync::wake_all(&ROUND);
    }
}

/// Ends that, and waits until they have left.
pub(crate) fn end_help() {
    if !ROUND.load(Ordering::Relaxed).is_multiple_of(2) {
        ROUND.fetch_add(1, Ordering::SeqCst);
    }
    let mut backoff = Backoff::new();
    while ACTIVE.load(Ordering::SeqCst) != 0 {
        backoff.step();
    }
}

/// Marks whatever can be reached from what was pushed, with those who help.
pub(crate) fn drain(driver: &mut Driver<'_, '_>) {
    driver.worker.drain_with_others(driver.marking, |_| false);
}

impl Driver<'_, '_> {
    /// Shades the object that holds an address.
    pub(crate) fn shade(&mut self, address: usize) {
        self.worker.shade(Address(address), self.marking);
        verify::note(address, self.marking);
    }

    /// Shades what the words of a range lead to.
    pub(crate) fn scan(&mut self, start: usize, end: usize, source: Source) {
        if start < end {
            // SAFETY: callers hand in ranges that are readable while the world stands still.
            unsafe {
                self.worker.scan_words((Address(start), Bytes(end - start)), source, self.marking);
            }
            verify::note_words((start, end), self.marking);
        }
    }

    /// The same for a stack: a word that points one past the end of an object counts as well.
    pub(crate) fn scan_stack(&mut self, start: usize, end: usize) {
        self.scan(start, end, Source::Stacks);
        let objects = heap::gc().parts.objects();
        let (base, size) = (objects.base().0, objects.covered().0);
        for at in (start.next_multiple_of(8)..end & !7).step_by(8) {
            // SAFETY: a word of the range.
            let word = unsafe { ptr::with_exposed_provenance::<usize>(at).read_volatile() };
            let is_near = word.is_multiple_of(16) && word.wrapping_sub(base) <= size;
            if is_near && objects.find_ending_at(Address(word)).is_some() {
                self.shade(word - 1);
            }
        }
    }

    /// Runs `work`, during which the program may push.
    pub(crate) fn lending<T>(&mut self, work: impl FnOnce() -> T) -> T {
        DRIVER.store((&raw mut *self).cast(), Ordering::Release);
        let done = work();
        DRIVER.store(ptr::null_mut(), Ordering::Release);
        self.scan_fresh();
        done
    }

    /// Shades what objects lead to that the program allocated meanwhile.
    fn scan_fresh(&mut self) {
        // SAFETY: the head of this file.
        let fresh = unsafe { &mut *FRESH.0.get() };
        for object in fresh.objects[..core::mem::take(&mut fresh.count)].iter().flatten() {
            self.worker.scan_contents(object, self.marking);
        }
    }
}

/// The most objects that programs can allocate in one of their functions before they are looked into.
const MOST_FRESH: usize = 64;

/// What programs' functions allocate while the collector marks: they should not, and some do.
pub(crate) struct Fresh {
    side: Side,
    objects: [Option<Object>; MOST_FRESH],
    count: usize,
}

struct Driving(UnsafeCell<Fresh>);
// SAFETY: the head of this file.
unsafe impl Sync for Driving {}

static FRESH: Driving = Driving(UnsafeCell::new(Fresh {
    // SAFETY: zeros are an empty side, of the purpose of common objects.
    side: unsafe { core::mem::zeroed() },
    objects: [None; MOST_FRESH],
    count: 0,
}));

/// Whether the program may push just now: then the heap's locks are held, and this is the driver's thread.
#[inline]
pub(crate) fn is_driving() -> bool {
    !DRIVER.load(Ordering::Relaxed).is_null()
}

/// Allocates for a function of the program's that is called while the collector marks. The object is marked; what it
/// leads to is when the function has returned.
pub(crate) fn allocate_driving(size: usize, kind: SpanKind) -> Option<*mut u8> {
    // SAFETY: the head of this file.
    let fresh = unsafe { &mut *FRESH.0.get() };
    with_driver(|driver| {
        let objects = heap::gc().parts.objects();
        if fresh.count == MOST_FRESH {
            driver.scan_fresh();
        }
        let Supply { ground, ref mut spans, .. } = driver.marking.supply;
        let work = &mut ObjectWork { ground, spans };
        let object = if size > MAX_SMALL {
            let shape = if kind == SpanKind::Plain { ShapeId::PLAIN } else { ShapeId::WORDS };
            objects.finish_large(objects.allocate_large(work, OBJECTS, Bytes(size), (kind, shape)).ok()?)
        } else {
            let code = SpanClass::new(kind, SizeClass::of_small(size));
            let cache = &mut fresh.side.cache;
            match cache.allocate_fast(code) {
                object if object.is_null() => {
                    objects.refill_fresh(cache, work, code).ok()?;
                    cache.allocate_fast(code)
                }
                object => object,
            }
        };
        fresh.objects[fresh.count] = objects.find(Address(object.addr()));
        fresh.count += 1;
        Some(object)
    })
    .flatten()
}

/// Gives back what was taken for such objects. Marking has ended.
pub(crate) fn end_driving(work: &mut ObjectWork<'_, '_>) {
    // SAFETY: the head of this file.
    let fresh = unsafe { &mut *FRESH.0.get() };
    heap::gc().parts.objects().flush(&mut fresh.side.cache, work);
}

/// Runs `work` with the driver, if the program may push just now.
pub(crate) fn with_driver<T>(work: impl FnOnce(&mut Driver<'_, '_>) -> T) -> Option<T> {
    let driver = DRIVER.load(Ordering::Acquire).cast::<Driver<'_, '_>>();
    // SAFETY: the driver waits for the program's function, which runs on its thread, and does not touch it meanwhile.
    unsafe { driver.as_mut() }.map(work)
}

/// Shades what the words of a range lead to.
#[unsafe(no_mangle)]
pub extern "C" fn GC_push_all(start: *mut c_void, end: *mut c_void) {
    with_driver(|driver| driver.scan(start.addr(), end.addr(), Source::Roots));
}

/// The same, whatever the second argument says: what has changed is not known.
#[unsafe(no_mangle)]
pub extern "C" fn GC_push_conditional(start: *mut c_void, end: *mut c_void, _all: c_int) {
    GC_push_all(start, end);
}

/// The same for a stack, at once.
#[unsafe(no_mangle)]
pub extern "C" fn GC_push_all_eager(start: *mut c_void, end: *mut c_void) {
    with_driver(|driver| driver.scan_stack(start.addr(), end.addr()));
}

/// Marks an object, and not what it leads to.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_mark_bit(object: *const c_void) {
    // In the first stop of two that would last until the next one, where the program may not say it again.
    if concurrent::phase() == concurrent::Phase::Ready {
        return;
    }
    let objects = heap::gc().parts.objects();
    if let Some(found) = objects.find(Address(object.addr())) {
        objects.mark(&found);
        if let Some(meta) = objects.meta(found.first_page) {
            // Done with: else its words would be looked at with those of its neighbours.
            meta.scans.set(found.index as usize);
        }
        with_driver(|driver| verify::close(found.start.0, driver.marking));
    }
}

/// Whether an object is marked.
#[unsafe(no_mangle)]
pub extern "C" fn GC_is_marked(object: *const c_void) -> c_int {
    let objects = heap::gc().parts.objects();
    objects.find(Address(object.addr())).is_some_and(|found| objects.is_marked(&found)).into()
}

/// The roots that no table knows: the threads' stacks. What programs put in its place calls it.
extern "C" fn push_stacks() {
    with_driver(|driver| {
        let me: *const Record = driver.me;
        for record in crate::threads::alive() {
            record.for_each_range(|start, end| {
                let is_mine = ptr::eq(record, me);
                debug_assert!(is_mine || start <= end);
                driver.scan_stack(start, end);
            });
        }
    });
}

/// Asked for roots at each collection, on the thread that collects. Programs put their own in its place.
#[unsafe(no_mangle)]
pub static mut GC_push_other_roots: extern "C" fn() = push_stacks;

/// Whether the program pushes roots of its own.
pub(crate) fn has_own_roots() -> bool {
    // SAFETY: a word.
    !ptr::fn_addr_eq(unsafe { GC_push_other_roots }, push_stacks as extern "C" fn())
}

/// Sets who is asked for roots.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_push_other_roots(ask: extern "C" fn()) {
    // SAFETY: a word, changed while nothing is collected.
    unsafe { GC_push_other_roots = ask }
}

/// Who is asked for roots.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_push_other_roots() -> extern "C" fn() {
    // SAFETY: a word.
    unsafe { GC_push_other_roots }
}

/// Says where objects can be: in the reservation, which does not grow.
pub(crate) fn set_bounds(region: &Region) {
    let (base, size) = (region.base().0, region.size().0);
    // SAFETY: words, while the heap is made.
    unsafe {
        GC_least_plausible_heap_addr = ptr::without_provenance_mut(base);
        GC_greatest_plausible_heap_addr = ptr::without_provenance_mut(base + size);
    }
}

/// Bounds of what may be an object's address. Until the heap is made, nothing is.
#[unsafe(no_mangle)]
pub static mut GC_least_plausible_heap_addr: *mut c_char = ptr::without_provenance_mut(usize::MAX);
/// See [`GC_least_plausible_heap_addr`].
#[unsafe(no_mangle)]
pub static mut GC_greatest_plausible_heap_addr: *mut c_char = ptr::null_mut();
