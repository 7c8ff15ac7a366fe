//! The order of locks, and the lock that checks it.
//!
//! A thread takes locks in the order of [`Rank`] only: while it holds one, it may take those further down the
//! list and no others. Debug builds keep the set of held ranks for each thread and stop at the first breach;
//! release builds do not know it.
//!
//! The lock is a word: 0 free, 1 held, 2 held and somebody may sleep on it. It spins a little, since what it
//! guards takes well under a microsecond, and then sleeps in the kernel. It allocates nothing and touches no
//! errno, so it works underneath `malloc`.
//!
//! For `fork` a lock can be taken without a guard ([`Lock::acquire`]) and given back by whoever is then
//! the only thread ([`Lock::release`]).
//!
//! # Safety
//! The value is reached by whoever holds the word: through a guard, or, after `acquire`, by a promise to be the
//! only one to look.

use super::sync::{self, AtomicU32, Ordering};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

/// Every lock's place in the order. A lock further down may be taken while one further up is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// A door's own: who may collect, where the door drives collections.
    Door,
    /// A heap's collection cycle: who drives it.
    Cycle,
    /// The threads that touch a heap's collected objects: held while they stand still.
    Members,
    /// The doors' list of living heaps.
    Heaps,
    /// What the scavenger has seen of a heap; held while it works there.
    Scavenger,
    /// A heap's list of mutators: who is attached, who is parked.
    Mutators,
    /// One mutator's slow path. A second one's is taken only by trying ([`Lock::try_lock`]).
    Mutator,
    /// The names and limits of the declared purposes.
    Purposes,
    /// The registration of shapes of objects.
    Shapes,
    /// Which stacks are free.
    Stacks,
    /// The heap profile: samples and stacks.
    Profile,
    /// The page heap: which pages are free.
    Pages,
    /// The lists of what hangs on objects. One at a time, but for `fork`.
    Attachments,
    /// Metadata that is handed out piece by piece: pools and permanent memory.
    Metadata,
    /// The books' reader side.
    Books,
    /// The shard of the books for work that no mutator does.
    SharedShard,
    /// A leaf: nothing is taken below it.
    Leaf,
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const SLEEPERS: u32 = 2;
/// Rounds of spinning before a thread goes to sleep.
const SPINS: u32 = 100;

/// A value that one thread at a time may touch.
pub struct Lock<T: ?Sized> {
    word: AtomicU32,
    rank: Rank,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out the value to one thread at a time; the value itself may move between threads.
unsafe impl<T: ?Sized + Send> Send for Lock<T> {}
// SAFETY: as above: shared access to the lock is exclusive access to the value.
unsafe impl<T: ?Sized + Send> Sync for Lock<T> {}

/// The right to touch the value, until it is dropped.
pub struct Guard<'a, T: ?Sized> {
    lock: &'a Lock<T>,
}

impl<T> Lock<T> {
    /// A free lock around `value`, at `rank` in the order.
    #[cfg(not(loom))]
    pub const fn new(rank: Rank, value: T) -> Lock<T> {
        Lock { word: AtomicU32::new(FREE), rank, value: UnsafeCell::new(value) }
    }

    /// A free lock around `value`, at `rank` in the order.
    #[cfg(loom)]
    pub fn new(rank: Rank, value: T) -> Lock<T> {
        Lock { word: AtomicU32::new(FREE), rank, value: UnsafeCell::new(value) }
    }
}

impl<T> Lock<T> {
    /// Makes a free lock in memory where the value is already, for values too large to be moved.
    ///
    /// # Safety
    /// `at` is valid for writes, holds a valid value in its place, and nobody else sees it yet.
    pub unsafe fn init(at: *mut Lock<T>, rank: Rank) {
        // SAFETY: the caller's promise; the value is left alone.
        unsafe {
            (&raw mut (*at).word).write(AtomicU32::new(FREE));
            (&raw mut (*at).rank).write(rank);
        }
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits until the lock is free and takes it.
    ///
    /// # Panics
    /// In debug builds, when this thread already holds a lock of this rank or of one further down the order.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard { lock: self }
    }

    /// Takes the lock if it is free. Trying cannot deadlock, so it may break the order.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        match self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {
                held::note_tried(self.rank);
                Some(Guard { lock: self })
            }
            Err(_) => None,
        }
    }

    /// Takes the lock without a guard, as `fork` must: whoever holds it calls [`Lock::release`].
    #[inline]
    pub fn acquire(&self) {
        held::note(self.rank);
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slowly();
        }
    }

    /// As [`Lock::acquire`], for several locks of one rank at once: `fork` takes those of all mutators. That
    /// cannot deadlock, since their holders never wait for another of them.
    pub fn acquire_equal(&self) {
        held::note_tried(self.rank);
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slowly();
        }
    }

    #[cold]
    fn acquire_slowly(&self) {
        for _ in 0..SPINS {
            if self.word.load(Ordering::Relaxed) == FREE
                && self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            sync::pause();
        }
        // From here on the word says that there may be sleepers, so whoever frees it wakes one.
        while self.word.swap(SLEEPERS, Ordering::Acquire) != FREE {
            sync::wait(&self.word, SLEEPERS);
        }
    }

    /// Frees a lock that was taken with [`Lock::acquire`].
    ///
    /// # Safety
    /// This thread holds the lock by [`Lock::acquire`], or is the only thread left of a forked process whose
    /// parent held it that way.
    #[inline]
    pub unsafe fn release(&self) {
        held::forget(self.rank);
        if self.word.swap(FREE, Ordering::Release) == SLEEPERS {
            sync::wake(&self.word);
        }
    }

    /// Frees a lock whose holder does not exist.
    ///
    /// # Safety
    /// This is the child of a `fork`, and its only thread does not hold the lock.
    pub unsafe fn abandon(&self) {
        self.word.store(FREE, Ordering::Release);
    }

    /// The value, without the lock.
    ///
    /// # Safety
    /// This thread holds the lock by [`Lock::acquire`] and has no other reference to the value.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn held_mut(&self) -> &mut T {
        // SAFETY: the caller holds the lock and has no other reference.
        unsafe { &mut *self.value.get() }
    }

    /// Whether somebody holds the lock at this moment. A hint only.
    pub fn is_held(&self) -> bool {
        self.word.load(Ordering::Relaxed) != FREE
    }
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while this thread holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists only while this thread holds the lock, and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the guard stands for one `acquire` of this thread.
        unsafe { self.lock.release() }
    }
}

/// The ranks that this thread holds, in debug builds.
#[cfg(all(debug_assertions, not(loom)))]
mod held {
    use super::Rank;
    use core::cell::Cell;

    thread_local! {
        static HELD: Cell<[u8; 17]> = const { Cell::new([0; 17]) };
    }

    fn change(rank: Rank, check: bool, by: i8) {
        // A thread that is being torn down has no set any more, and nothing left to check.
        let _ = HELD.try_with(|held| {
            let mut counts = held.get();
            if check {
                for (other, &count) in counts.iter().enumerate().skip(rank as usize) {
                    assert!(count == 0, "lock order: {rank:?} taken while rank number {other} is held");
                }
            }
            counts[rank as usize] = counts[rank as usize].wrapping_add_signed(by);
            held.set(counts);
        });
    }

    pub(super) fn note(rank: Rank) {
        change(rank, true, 1);
    }

    pub(super) fn note_tried(rank: Rank) {
        change(rank, false, 1);
    }

    pub(super) fn forget(rank: Rank) {
        change(rank, false, -1);
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
mod held {
    use super::Rank;

    #[inline(always)]
    pub(super) fn note(_: Rank) {}
    #[inline(always)]
    pub(super) fn note_tried(_: Rank) {}
    #[inline(always)]
    pub(super) fn forget(_: Rank) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn one_thread_at_a_time() {
        let total = Arc::new(Lock::new(Rank::Leaf, 0u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let total = total.clone();
                std::thread::spawn(move || (0..20_000).for_each(|_| *total.lock() += 1))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*total.lock(), 80_000);
    }

    #[test]
    fn trying_a_held_lock_fails() {
        let lock = Lock::new(Rank::Leaf, ());
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "ranks are checked in debug builds")]
    #[should_panic(expected = "lock order: Pages taken while rank number")]
    fn the_order_is_checked() {
        let (pages, books) = (Lock::new(Rank::Pages, ()), Lock::new(Rank::Books, ()));
        let _books = books.lock();
        let _pages = pages.lock();
    }
}
