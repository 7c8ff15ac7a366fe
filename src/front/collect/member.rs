//! A thread's part of a collected heap, as the collector sees it.
//!
//! Members stand in a table and never move. One whose thread has left is kept for the next thread that joins.
//!
//! # Safety
//! Cache, buffer and worker belong to the member's thread while its station is running, and to the holder of the cycle
//! while the thread is stopped or held. A member is made in place, in memory that nobody else knows yet.

use super::raw::stack::ThreadStack;
use crate::base::{Address, Bytes};
use crate::front::mutator;
use crate::gc::world::Station;
use crate::gc::{BarrierBuffer, Worker};
use crate::object::ObjectCache;
use crate::os::Zeroed;
use core::cell::{Cell, UnsafeCell};
use core::ptr;

/// What one thread has of a collected heap.
#[repr(C)]
pub(crate) struct Member {
    pub(super) station: Station,
    base: Address,
    size: Bytes,
    marking: Cell<bool>,
    /// The next of those that no thread has.
    pub(super) next: Cell<u32>,
    pub(super) number: u32,
    /// The thread's mutator of the heap, which spans come through.
    mutator: Cell<*const mutator::Mutator>,
    /// Bytes that the thread may still allocate before it has to help.
    pub(super) credit: Cell<i64>,
    /// The thread's stack, if it is to be scanned.
    pub(super) stack: ThreadStack,
    cache: UnsafeCell<ObjectCache>,
    barrier: UnsafeCell<BarrierBuffer>,
    worker: UnsafeCell<Worker>,
}

// SAFETY: zeros are memory for a member; `init` comes before use.
unsafe impl Zeroed for Member {}
// SAFETY: the file's head says who touches what when.
unsafe impl Sync for Member {}

impl Member {
    /// Makes a member in zeroed memory, joined by nobody.
    ///
    /// # Safety
    /// `at` is zeroed memory for a member that nobody knows yet.
    pub(super) unsafe fn init(at: *mut Member, number: u32, base: Address, size: Bytes) {
        // SAFETY: the memory is ours alone; what is not written is valid as zeros.
        unsafe {
            (&raw mut (*at).number).write(number);
            (&raw mut (*at).base).write(base);
            (&raw mut (*at).size).write(size);
        }
    }

    /// The heap's first byte.
    #[inline(always)]
    pub(super) fn base(&self) -> usize {
        self.base.0
    }

    /// The heap's bytes.
    #[inline(always)]
    pub(super) fn size(&self) -> usize {
        self.size.0
    }

    /// Whether the barrier is on.
    #[inline(always)]
    pub(super) fn is_marking(&self) -> bool {
        self.marking.get()
    }

    /// The world stands still, or nobody has joined.
    pub(super) fn set_marking(&self, marking: bool) {
        self.marking.set(marking);
    }

    /// A thread has the member from here on, with its own mutator; or nobody has, with none. The roster is locked.
    pub(super) fn set_mutator(&self, mutator: Option<&mutator::Mutator>) {
        self.mutator.set(mutator.map_or(ptr::null(), ptr::from_ref));
    }

    /// Whether the thread with this mutator has joined here.
    pub(super) fn is_of(&self, mutator: &mutator::Mutator) -> bool {
        ptr::eq(self.mutator.get(), mutator)
    }

    /// Whether a thread has joined here.
    pub(super) fn is_taken(&self) -> bool {
        !self.mutator.get().is_null()
    }

    /// The mutator of the thread that has joined.
    pub(super) fn mutator(&self) -> &mutator::Mutator {
        // SAFETY: mutators live as long as the heap; a member that is used has been joined.
        unsafe { self.mutator.get().as_ref() }.expect("a member that is used has a thread")
    }

    /// The cache, for whom the file's head allows it.
    #[inline(always)]
    pub(super) fn cache(&self) -> *mut ObjectCache {
        self.cache.get()
    }

    /// The barrier's buffer, for whom the file's head allows it.
    pub(super) fn barrier(&self) -> *mut BarrierBuffer {
        self.barrier.get()
    }

    /// The worker, for whom the file's head allows it.
    pub(super) fn worker(&self) -> *mut Worker {
        self.worker.get()
    }
}
