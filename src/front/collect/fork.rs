//! What becomes of collected objects when the process forks.
//!
//! The child has one thread, the one that called `fork`. Before the fork that thread takes what guards the collection,
//! so that a cycle is either not begun or over; in the child it gives up the places of all other threads, and forgets
//! the collector's threads: the next wish for a cycle starts new ones. Handles of threads that are not there any more
//! go on keeping objects alive. What others do on their fast paths meanwhile can lose an object that nobody has seen.
//!
//! A thread that forks in the midst of a run cannot wait for a cycle, which waits for it. If it meets one, the child is
//! left with half a marking: it allocates, and collects no more ([`CollectError::Forked`]). So whoever wants a
//! child that collects forks [outside](super::Mutator::outside), as every call that takes long should be.
//!
//! Locks that are only ever held together with a mutator's own are not taken: the heap takes those of all mutators.
//!
//! # Safety
//! The functions are called in pairs around a `fork`, by one thread.

use super::{CollectError, Collection};
use crate::base::sync::Ordering;
use crate::front::heap::Heap;
use crate::front::mutator::Mutator;
use core::mem;

impl Collection {
    /// Takes the locks that come before those of the heap. `mine` is the calling thread's mutator, if it has one of its
    /// own.
    pub(crate) fn begin_fork(&self, mine: Option<&Mutator>) {
        let made = self.roster.lock().made;
        let is_running = (0..made)
            .map(|number| self.member(number))
            .any(|member| member.station.is_running() && mine.is_some_and(|mine| member.is_of(mine)));
        if is_running {
            match self.cycle.try_lock() {
                Some(cycle) => mem::forget(cycle),
                None => return self.amid.store(true, Ordering::Relaxed),
            }
        } else {
            self.cycle.acquire_equal();
        }
        self.roster.acquire();
    }

    /// Takes the locks that come after those of the heap.
    pub(crate) fn go_on_fork(&self) {
        self.attachments.acquire_for_fork();
        self.collector.roots.acquire_for_fork();
        self.providers.lock().acquire_equal();
        self.statistics.acquire_equal();
        self.pacing.lock().acquire_equal();
        self.background.acquire_for_fork();
    }

    /// Gives the locks back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`Collection::begin_fork`] and [`Collection::go_on_fork`], or is the only one left of a process
    /// that had.
    pub(crate) unsafe fn end_fork(&self) {
        // SAFETY: the caller's promise is the contract of all of them.
        unsafe {
            self.background.release_after_fork();
            self.pacing.lock().release();
            self.statistics.release();
            self.providers.lock().release();
            self.collector.roots.release_after_fork();
            self.attachments.release_after_fork();
            if !self.amid.swap(false, Ordering::Relaxed) {
                self.roster.release();
                self.cycle.release();
            }
        }
    }

    /// Makes the child's collection out of the parent's. Called before [`Collection::end_fork`].
    ///
    /// # Safety
    /// This is the child of a fork before which the calling thread, now its only one, took all locks.
    pub(crate) unsafe fn begin_child(&self) {
        if self.amid.load(Ordering::Relaxed) {
            self.orphaned.store(true, Ordering::Relaxed);
            // SAFETY: whoever had them is not here.
            unsafe {
                self.roster.abandon();
                self.cycle.abandon();
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.background.forget() };
        self.pacing.wanted.store(false, Ordering::Relaxed);
    }

    /// Gives up the places of all threads that are not there.
    ///
    /// # Safety
    /// This is the child of a fork, the calling thread is its only one and has the mutator `mine`, and all locks were
    /// given back.
    pub(crate) unsafe fn bury(&self, heap: &Heap, mine: Option<&Mutator>) {
        let made = self.roster.lock().made;
        let members = || (0..made).map(|number| self.member(number));
        self.world.go_on(members().map(|member| &member.station));
        members().for_each(|member| member.station.done(u32::MAX));
        // The shared mutator stands for any number of threads, so it says nothing about this one.
        let mine = mine.unwrap_or(heap.core().shared_mutator());
        for member in members().filter(|member| member.is_taken() && !member.is_of(mine)) {
            member.stack.forget();
            member.station.abandon();
            // SAFETY: the member's thread does not exist here.
            unsafe { self.give_up(heap, heap.mutator(), member) };
            self.vacate(member);
        }
    }

    /// Whether cycles can be made.
    ///
    /// # Errors
    /// [`CollectError::Forked`], in a child that was left with half of one.
    pub(super) fn is_whole(&self) -> Result<(), CollectError> {
        if self.orphaned.load(Ordering::Relaxed) { Err(CollectError::Forked) } else { Ok(()) }
    }
}
