//! Sums that many threads add to and anyone can read at one instant, without stopping a writer.
//!
//! A shard belongs to one writer. It holds every figure three times, and the books hold a *generation* that
//! says which of the three is written now:
//!
//! - a writer makes its sequence number odd, looks at the generation, adds to that copy as many figures as
//!   belong together (a *transaction*), and makes the number even again;
//! - a reader (one at a time) moves the generation on, waits for every writer whose number is odd, and then
//!   owns the copy that was written until now. Into it go the sums of all readings before (the third copy, which
//!   is cleared for the next turn), and it is copied out.
//!
//! A transaction is thus in a reading wholly or not at all. And if it is in, so is every transaction that came
//! before it: one that ended before this one began either began before the generation moved, or saw it moved,
//! and then this one sees that too. (Go: `consistentHeapStats`; there all processors share three copies, here
//! each writer has its own and needs no atomic additions.)
//!
//! 1. Nobody but the shard's writer and the one reader changes a figure, and never the same copy at once.
//! 2. A writer does not sleep, allocate or take a lock between begin and end: a reader waits for it.
//!
//! This file does not know what the figures mean.
//!
//! # Safety
//! The only unsafe step is `Shard::link`'s list of shards: a shard that has been linked lives as long as the
//! books.

use crate::base::sync::{self, AtomicI64, AtomicPtr, AtomicUsize, Ordering};
use crate::base::{Lock, Rank, sync::Backoff};
use core::ptr;

const COPIES: usize = 3;

/// One writer's copy of `N` figures.
#[repr(C, align(64))]
pub struct Shard<const N: usize> {
    /// Odd while the writer is inside a transaction.
    sequence: AtomicUsize,
    /// The next shard of the same books.
    next: AtomicPtr<Shard<N>>,
    copies: [[AtomicI64; N]; COPIES],
}

/// The reader's side: which copy is being written, and whose shards there are.
pub struct Shards<const N: usize> {
    generation: AtomicUsize,
    first: AtomicPtr<Shard<N>>,
    reader: Lock<()>,
}

/// The right to add to a shard: its writer is inside a transaction.
pub struct Transaction<'a, const N: usize> {
    shard: &'a Shard<N>,
    copy: &'a [AtomicI64; N],
}

impl<const N: usize> Shard<N> {
    /// A shard with all figures at zero, equal to zeroed memory.
    pub fn new() -> Shard<N> {
        Shard {
            sequence: AtomicUsize::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            copies: core::array::from_fn(|_| core::array::from_fn(|_| AtomicI64::new(0))),
        }
    }

    /// Begins a transaction. Only the shard's writer may, and only one at a time.
    #[inline]
    pub fn begin<'a>(&'a self, shards: &Shards<N>) -> Transaction<'a, N> {
        let sequence = self.sequence.load(Ordering::Relaxed);
        debug_assert!(sequence.is_multiple_of(2), "a transaction inside a transaction");
        // Either the reader sees the odd number, or this thread sees the new generation: each writes its own
        // word before it reads the other's.
        sync::store_before_loads(&self.sequence, sequence.wrapping_add(1));
        let generation = shards.generation.load(Ordering::SeqCst);
        Transaction { shard: self, copy: &self.copies[generation] }
    }
}

impl<const N: usize> Default for Shard<N> {
    fn default() -> Shard<N> {
        Shard::new()
    }
}

impl<const N: usize> Transaction<'_, N> {
    /// Adds to one figure.
    #[inline]
    pub fn add(&mut self, figure: usize, amount: i64) {
        // This thread alone writes this copy now, so a load and a store do.
        let cell = &self.copy[figure];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }
}

impl<const N: usize> Drop for Transaction<'_, N> {
    #[inline]
    fn drop(&mut self) {
        let sequence = self.shard.sequence.load(Ordering::Relaxed);
        self.shard.sequence.store(sequence.wrapping_add(1), Ordering::Release);
    }
}

impl<const N: usize> Shards<N> {
    /// No shards yet.
    #[cfg(not(loom))]
    pub const fn new() -> Shards<N> {
        Shards {
            generation: AtomicUsize::new(0),
            first: AtomicPtr::new(ptr::null_mut()),
            reader: Lock::new(Rank::Books, ()),
        }
    }

    /// No shards yet.
    #[cfg(loom)]
    pub fn new() -> Shards<N> {
        Shards {
            generation: AtomicUsize::new(0),
            first: AtomicPtr::new(ptr::null_mut()),
            reader: Lock::new(Rank::Books, ()),
        }
    }

    /// Adds a fresh shard. There is no way to take it out again: a mutator that ends leaves its shard to the
    /// next one.
    ///
    /// # Safety
    /// `shard` is not linked yet and lives, unmoved, as long as these books.
    pub unsafe fn link(&self, shard: *const Shard<N>) {
        // A reading in progress has already chosen its list; it will not miss what this shard never held.
        let _reader = self.reader.lock();
        // SAFETY: the caller promises that the shard lives; only this thread, under the lock, links it.
        unsafe { &*shard }.next.store(self.first.load(Ordering::Relaxed), Ordering::Relaxed);
        self.first.store(shard.cast_mut(), Ordering::Release);
    }

    /// Reads every figure at one instant into `sums`.
    pub fn read(&self, sums: &mut [i64; N]) {
        let _reader = self.reader.lock();
        let current = self.generation.load(Ordering::Relaxed);
        let (before, next) = ((current + COPIES - 1) % COPIES, (current + 1) % COPIES);
        sync::store_before_loads(&self.generation, next);
        sums.fill(0);
        for shard in self.iter() {
            shard.wait_until_idle();
        }
        for shard in self.iter() {
            for (figure, sum) in sums.iter_mut().enumerate() {
                let old = shard.copies[before][figure].load(Ordering::Relaxed);
                let cell = &shard.copies[current][figure];
                let total = cell.load(Ordering::Relaxed).wrapping_add(old);
                // Most figures of most shards stay zero: not writing them keeps their pages untouched.
                if old != 0 {
                    cell.store(total, Ordering::Relaxed);
                    shard.copies[before][figure].store(0, Ordering::Relaxed);
                }
                *sum = sum.wrapping_add(total);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Shard<N>> {
        let mut at = self.first.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            // SAFETY: linked shards live as long as the books, by the contract of `link`.
            let shard = unsafe { at.as_ref() }?;
            at = shard.next.load(Ordering::Relaxed);
            Some(shard)
        })
    }

    /// The reader's lock, for `fork`: while it is held, nobody reads and no shard is added.
    pub fn reader_lock(&self) -> &Lock<()> {
        &self.reader
    }
}

impl<const N: usize> Default for Shards<N> {
    fn default() -> Shards<N> {
        Shards::new()
    }
}

impl<const N: usize> Shard<N> {
    /// Waits for the transaction that the writer may be in. One that begins later writes the next copy.
    fn wait_until_idle(&self) {
        let mut backoff = Backoff::new();
        let seen = self.sequence.load(Ordering::SeqCst);
        if !seen.is_multiple_of(2) {
            while self.sequence.load(Ordering::Acquire) == seen {
                backoff.step();
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    /// Two writers move amounts between two figures, the second what the first has brought; every reading
    /// sums to zero, and none sees the second move without the first.
    #[test]
    fn loom_readings_are_whole_and_in_order() {
        loom::model(|| {
            let shards = Arc::new(Shards::<2>::new());
            let one: &'static Shard<2> = Box::leak(Box::new(Shard::new()));
            let two: &'static Shard<2> = Box::leak(Box::new(Shard::new()));
            // SAFETY: leaked, so they outlive the books.
            unsafe {
                shards.link(one);
                shards.link(two);
            }
            let brought = Arc::new(loom::sync::atomic::AtomicBool::new(false));
            let writer = {
                let (shards, brought) = (shards.clone(), brought.clone());
                loom::thread::spawn(move || {
                    let mut t = one.begin(&shards);
                    t.add(0, -5);
                    t.add(1, 5);
                    drop(t);
                    brought.store(true, Ordering::Release);
                })
            };
            let taker = {
                let (shards, brought) = (shards.clone(), brought.clone());
                loom::thread::spawn(move || {
                    if brought.load(Ordering::Acquire) {
                        let mut t = two.begin(&shards);
                        t.add(1, -5);
                        t.add(0, 5);
                    }
                })
            };
            let mut sums = [0; 2];
            shards.read(&mut sums);
            assert_eq!(sums[0] + sums[1], 0, "half a transaction was read");
            assert!(sums[1] >= 0, "an effect was read without its cause");
            writer.join().unwrap();
            taker.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn readings_add_up_while_writers_run() {
        static SHARDS: Shards<3> = Shards::new();
        let writers: Vec<_> = (0..4)
            .map(|seed| {
                let shard: &'static Shard<3> = Box::leak(Box::new(Shard::new()));
                // SAFETY: leaked, so it outlives the books.
                unsafe { SHARDS.link(shard) };
                std::thread::spawn(move || {
                    let mut random = crate::base::random::Random::new(seed);
                    for _ in 0..20_000 {
                        let amount = random.below(100) as i64;
                        let mut t = shard.begin(&SHARDS);
                        t.add(0, -amount);
                        t.add(1 + random.below(2), amount);
                        drop(t);
                    }
                })
            })
            .collect();
        let mut last = 0;
        for _ in 0..200 {
            let mut sums = [0; 3];
            SHARDS.read(&mut sums);
            assert_eq!(sums.iter().sum::<i64>(), 0);
            assert!(sums[0] <= last, "a sum went back");
            last = sums[0];
        }
        writers.into_iter().for_each(|w| w.join().unwrap());
        let (mut once, mut again) = ([0; 3], [0; 3]);
        SHARDS.read(&mut once);
        SHARDS.read(&mut again);
        assert_eq!(once, again, "a reading changed the sums");
    }
}
