//! Which mutators a thread has of heaps that are values, and what happens to them when the thread ends.
//!
//! A thread keeps a short list of (heap, mutator). When it ends, each mutator is parked, if its heap still exists:
//! living heaps are listed here, and the lock of that list is held meanwhile. A thread with more heaps than its
//! list holds, or one that is past its end, works through the heaps' shared mutators; there, scopes have no effect.
//!
//! # Safety
//! A place in a thread's list is believed only while its heap is known to live: by a caller who holds the heap, or
//! because it is listed and the list is locked.

use crate::base::purpose::BLOCKS;
use crate::base::sync::Ordering;
use crate::base::{Lock, PurposeId, Rank};
use crate::front::core::HeapCore;
use crate::front::mutator::Mutator;
use crate::front::process;
use core::cell::{Cell, UnsafeCell};
use core::ptr;

/// Heaps that a thread can have a mutator of its own in, at once.
const MOST: usize = 16;

/// A thread's place in a heap.
#[derive(Clone, Copy)]
struct Place {
    serial: u64,
    core: *const HeapCore,
    /// Null until the thread has attached itself, which the system may refuse for a while.
    mutator: *const Mutator,
    /// The purpose of the scope that the thread is in.
    purpose: PurposeId,
}

const NOWHERE: Place = Place { serial: 0, core: ptr::null(), mutator: ptr::null(), purpose: BLOCKS };

struct Places(UnsafeCell<[Place; MOST]>, Cell<usize>);

thread_local! {
    static PLACES: Places = const { Places(UnsafeCell::new([NOWHERE; MOST]), Cell::new(0)) };
}

/// The first of the living heaps that are values; each names the next in its core.
struct Living(*const HeapCore);

// SAFETY: heaps are shared by threads, and the list is walked under its lock only.
unsafe impl Send for Living {}

static LIVING: Lock<Living> = Lock::new(Rank::Heaps, Living(ptr::null()));

impl Living {
    /// The heaps in the list.
    fn iter(&self) -> impl Iterator<Item = &HeapCore> {
        let mut at = self.0;
        core::iter::from_fn(move || {
            // SAFETY: a heap is taken out of the list before it goes, and the list is locked.
            let core = unsafe { at.as_ref() }?;
            at = core.next_living.load(Ordering::Relaxed);
            Some(core)
        })
    }

    fn has(&self, serial: u64) -> bool {
        self.iter().any(|core| core.serial == serial)
    }
}

/// Notes that a heap exists.
pub(crate) fn announce(core: &HeapCore) {
    let mut living = LIVING.lock();
    core.set_next_living(living.0);
    living.0 = core;
    process::BEACON.set_others(living.0.addr() as u64);
}

/// Notes that a heap is about to go.
pub(crate) fn withdraw(core: &HeapCore) {
    let mut living = LIVING.lock();
    let next = core.next_living.load(Ordering::Relaxed);
    if ptr::eq(living.0, core) {
        living.0 = next;
        process::BEACON.set_others(living.0.addr() as u64);
    } else if let Some(before) =
        living.iter().find(|before| ptr::eq(before.next_living.load(Ordering::Relaxed), core))
    {
        before.set_next_living(next);
    }
}

/// Visits the living heaps that are values; none of them goes meanwhile.
pub(crate) fn for_each_living(visit: impl FnMut(&HeapCore)) {
    LIVING.lock().iter().for_each(visit);
}

/// Whether something holds of any of them, as far as that can be found without waiting: for a handler of signals.
pub(crate) fn try_any_living(holds: impl FnMut(&HeapCore) -> bool) -> bool {
    LIVING.try_lock().is_some_and(|living| living.iter().any(holds))
}

/// The calling thread's mutator in a heap, or the shared one.
pub(crate) fn mutator(core: &HeapCore) -> &Mutator {
    with_place(core, |place| {
        if place.mutator.is_null() {
            place.mutator = core.attach().ok()?;
        }
        // SAFETY: the place is the living heap's, so its mutators live.
        Some(unsafe { &*place.mutator })
    })
    .flatten()
    .unwrap_or_else(|| core.shared_mutator())
}

/// The purpose of the scope that the calling thread is in.
pub(crate) fn purpose(core: &HeapCore) -> PurposeId {
    with_place(core, |place| place.purpose).unwrap_or(BLOCKS)
}

/// Enters or leaves a scope. Returns the purpose of the one before.
pub(crate) fn set_purpose(core: &HeapCore, purpose: PurposeId) -> PurposeId {
    with_place(core, |place| core::mem::replace(&mut place.purpose, purpose)).unwrap_or(BLOCKS)
}

/// Hands out the calling thread's place in a heap, if it has one or there is room for one.
fn with_place<T>(core: &HeapCore, work: impl FnOnce(&mut Place) -> T) -> Option<T> {
    let place = |places: &Places| {
        // SAFETY: the list is this thread's, and nothing below comes back here.
        let list = unsafe { &mut *places.0.get() };
        let count = places.1.get();
        let slot = match list[..count].iter().position(|place| place.serial == core.serial) {
            Some(slot) => slot,
            None => {
                let slot = if count < MOST { count } else { dead_place(list)? };
                list[slot] = Place { serial: core.serial, core, ..NOWHERE };
                places.1.set(count.max(slot + 1));
                slot
            }
        };
        Some(work(&mut list[slot]))
    };
    PLACES.try_with(place).ok().flatten()
}

/// A place whose heap is gone.
fn dead_place(list: &[Place; MOST]) -> Option<usize> {
    let living = LIVING.lock();
    list.iter().position(|place| !living.has(place.serial))
}

impl Drop for Places {
    fn drop(&mut self) {
        let living = LIVING.lock();
        for place in &self.0.get_mut()[..self.1.get()] {
            if living.has(place.serial) && !place.mutator.is_null() {
                // SAFETY: the heap is listed and cannot go while the list is locked; this thread ends and does
                // not use its mutator again.
                unsafe { (*place.core).park(&*place.mutator) };
            }
        }
    }
}
