//! What all families share: the parts of the process heap, and the allocation lock.
//!
//! The library works on the process heap, so the program's objects stand in its books, its scavenger gives free pages
//! back, and `spanheap top` sees them. It is made by the first call that needs it.
//!
//! # Safety
//! The parts are written once, under the lock, before the state says that they are there.

use crate::{fork, mark, pace, roots, settings, stop, threads, verify};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};
use spanheap::base::purpose::OBJECTS;
use spanheap::base::{Lock, PurposeId, Rank};
use spanheap::collect::door::Parts;
use spanheap::front::process;

/// Pools that a thread allocates from: purposes of their own, so that the books and the collector can tell them apart.
pub(crate) const POOLS: usize = 20;
/// Collected objects of the common kinds.
pub(crate) const COMMON: usize = 0;
/// Objects that live until they are freed.
pub(crate) const UNCOLLECTABLE: usize = 1;
/// The first pool of objects that the program's own procedures mark.
pub(crate) const FIRST_TRACED: usize = 2;

/// The heap, as far as this library uses it.
pub(crate) struct Gc {
    pub(crate) parts: Parts<'static>,
    /// The purposes of the pools; those that are not there yet are that of the common one.
    pools: [AtomicU8; POOLS],
}

struct Made {
    state: AtomicU8,
    gc: UnsafeCell<MaybeUninit<Gc>>,
}

// SAFETY: the head of this file.
unsafe impl Sync for Made {}

static MADE: Made = Made { state: AtomicU8::new(0), gc: UnsafeCell::new(MaybeUninit::uninit()) };

/// The allocation lock: whoever has it collects, or keeps others from collecting. It is also the program's
/// (`GC_call_with_alloc_lock`).
static LOCK: Lock<()> = Lock::new(Rank::Door, ());

/// Takes the allocation lock. It is not taken by those who have it.
pub(crate) fn lock() {
    LOCK.acquire();
}

/// Takes the allocation lock if it is free.
pub(crate) fn try_lock() -> bool {
    LOCK.try_lock().map(core::mem::forget).is_some()
}

/// Gives it back.
pub(crate) fn unlock() {
    // SAFETY: whoever unlocks has locked; the header's rule for programs as well.
    unsafe { LOCK.release() }
}

/// Runs `work` with the lock held. `work` does not call the program.
pub(crate) fn locked<T>(work: impl FnOnce() -> T) -> T {
    let _held = LOCK.lock();
    work()
}

/// The heap, if it was made.
#[inline]
pub(crate) fn existing() -> Option<&'static Gc> {
    // SAFETY: the head of this file.
    (MADE.state.load(Ordering::Acquire) == 1).then(|| unsafe { (*MADE.gc.get()).assume_init_ref() })
}

/// The heap, made if need be.
#[inline]
pub(crate) fn gc() -> &'static Gc {
    existing().unwrap_or_else(make)
}

#[cold]
fn make() -> &'static Gc {
    {
        let _making = LOCK.lock();
        if existing().is_none() {
            let made = Gc::new();
            // SAFETY: the lock is held, and nobody reads before the state says so.
            unsafe { (*MADE.gc.get()).write(made) };
            MADE.state.store(1, Ordering::Release);
        }
    }
    settings::read_environment();
    verify::begin();
    stop::install();
    fork::install();
    threads::register_here();
    roots::learn_main();
    pace::begin();
    existing().expect("it was just made")
}

impl Gc {
    fn new() -> Gc {
        let heap = process::heap().unwrap_or_else(|| settings::fatal(c"no address space for the heap\n"));
        let Ok(parts) = heap.collected_parts() else {
            settings::fatal(c"no memory for the collector's tables\n")
        };
        let pools = core::array::from_fn(|_| AtomicU8::new(OBJECTS.0));
        let gc = Gc { parts, pools };
        gc.add_pool(UNCOLLECTABLE, "uncollectable");
        parts.with_work(|work| mark::set_bounds(work.ground.heap.region()));
        gc
    }

    /// Gives a pool a purpose of its own. Returns whether there was room for one.
    pub(crate) fn add_pool(&self, pool: usize, name: &str) -> bool {
        let Ok(declared) = self.parts.heap().declare(name) else { return false };
        let id = declared.id();
        if self.parts.add_purpose(id).is_err() {
            return false;
        }
        self.pools[pool].store(id.0, Ordering::Release);
        true
    }

    /// The purpose of a pool.
    pub(crate) fn purpose(&self, pool: usize) -> PurposeId {
        PurposeId(self.pools[pool].load(Ordering::Acquire))
    }
}

/// Makes the heap ready for use, once; called by programs before all else, or by their first allocation.
#[unsafe(no_mangle)]
pub extern "C" fn GC_init() {
    gc();
}

/// Whether that was done.
#[unsafe(no_mangle)]
pub extern "C" fn GC_is_init_called() -> core::ffi::c_int {
    existing().is_some().into()
}
