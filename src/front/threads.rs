//! Which mutators a thread has of heaps that are values, and what happens to them when the thread ends.
//!
//! A thread keeps a short list of (heap, mutator). When it ends, each mutator is parked, if its heap still exists:
//! living heaps are listed here, and the lock of that list is held meanwhile. A thread with more heaps than its
//! list holds, or one that is past its end, works through the heaps' shared mutators; there, scopes have no effect.
//!
//! # Safety
//! A place in a thread's list is believed only while its heap is known to live: by a caller who holds the heap, or
//! because it is listed and the list is locked.

use crate::base::sync::Ordering;
use crate::base::{Lock, Rank};
use crate::front::core::HeapCore;
use crate::front::mutator::Mutator;
use core::cell::{Cell, UnsafeCell};
use core::ptr;

/// Heaps that a thread can have a mutator of its own in, at once.
const MOST: usize = 16;

/// A thread's place in a heap.
#[derive(Clone, Copy)]
struct Place {
    serial: u64,
    core: *const HeapCore,
    mutator: *const Mutator,
}

const NOWHERE: Place = Place { serial: 0, core: ptr::null(), mutator: ptr::null() };

struct Places(UnsafeCell<[Place; MOST]>, Cell<usize>);

thread_local! {
    static PLACES: Places = const { Places(UnsafeCell::new([NOWHERE; MOST]), Cell::new(0)) };
}

/// The living heaps that are values, linked through this list's own nodes in their cores.
struct Living([(u64, usize); 256], usize);

static LIVING: Lock<Living> = Lock::new(Rank::Heaps, Living([(0, 0); 256], 0));

/// Notes that a heap exists, in the list and in the heap. In a process with more heaps than the list holds, the
/// threads work through the shared mutators of those beyond it, for nobody could park others there.
pub(crate) fn announce(core: &HeapCore) {
    let mut living = LIVING.lock();
    let count = living.1;
    if count < living.0.len() {
        living.0[count] = (core.serial, ptr::from_ref(core).addr());
        living.1 += 1;
        core.listed.store(true, Ordering::Relaxed);
    }
}

/// Notes that a heap is about to go.
pub(crate) fn withdraw(core: &HeapCore) {
    let mut living = LIVING.lock();
    let count = living.1;
    if let Some(at) = living.0[..count].iter().position(|&(serial, _)| serial == core.serial) {
        living.0[at] = living.0[count - 1];
        living.1 -= 1;
    }
}

/// The calling thread's mutator in a heap, or the shared one.
pub(crate) fn mutator(core: &HeapCore) -> &Mutator {
    if !core.listed.load(Ordering::Relaxed) {
        return core.shared_mutator();
    }
    PLACES
        .try_with(|places| {
            // SAFETY: the list is this thread's, and nothing below comes back here.
            let list = unsafe { &mut *places.0.get() };
            let count = places.1.get();
            if let Some(place) = list[..count].iter().find(|place| place.serial == core.serial) {
                // SAFETY: the serial is the living heap's, so its mutators live.
                return Some(unsafe { &*place.mutator });
            }
            let slot = if count < MOST { count } else { dead_place(list)? };
            let mutator = core.attach().ok()?;
            list[slot] = Place { serial: core.serial, core, mutator };
            places.1.set(count.max(slot + 1));
            Some(mutator)
        })
        .ok()
        .flatten()
        .unwrap_or_else(|| core.shared_mutator())
}

/// A place whose heap is gone.
fn dead_place(list: &[Place; MOST]) -> Option<usize> {
    let living = LIVING.lock();
    list.iter().position(|place| !living.0[..living.1].iter().any(|&(serial, _)| serial == place.serial))
}

impl Drop for Places {
    fn drop(&mut self) {
        let living = LIVING.lock();
        for place in &self.0.get_mut()[..self.1.get()] {
            if living.0[..living.1].iter().any(|&(serial, _)| serial == place.serial) {
                // SAFETY: the heap is listed and cannot go while the list is locked; this thread ends and does
                // not use its mutator again.
                unsafe { (*place.core).park(&*place.mutator) };
            }
        }
    }
}
