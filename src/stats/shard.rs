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
//! A third party may look on: another process, which reads this memory and can neither move the generation nor wait
//! for anybody. For it, `readings` is odd while a reader works, so that it can tell whether nothing at all has moved
//! between two looks; then the three copies of all shards add up to a reading. Where something always moves, it asks,
//! and the reader's work is done by a thread of this process into a [`Published`] copy.
//!
//! 1. Nobody but the shard's writer and the one reader changes a figure, and never the same copy at once.
//! 2. A writer does not sleep, allocate or take a lock between begin and end: a reader waits for it.
//! 3. While no sequence number and not `readings` is odd, the copies of a figure, over all shards, add up to its sum.
//!
//! This file does not know what the figures mean.
//!
//! # Safety
//! The only unsafe step is `Shard::link`'s list of shards: a shard that has been linked lives as long as the
//! books.

use crate::base::sync::{self, AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use crate::base::{Guard, Lock, Rank, sync::Backoff};
use core::ptr;

/// How often a shard holds each figure.
pub const COPIES: usize = 3;

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
    /// Odd while the reader moves figures between copies. Written under its lock.
    readings: AtomicUsize,
    first: AtomicPtr<Shard<N>>,
    reader: Lock<()>,
}

/// Sums that were read for somebody who cannot: valid while `sequence` is even and stays as it is.
#[repr(C)]
pub struct Published<const N: usize> {
    sequence: AtomicU64,
    /// What was asked last before the sums were read.
    answered: AtomicU64,
    figures: [AtomicI64; N],
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

/// Where the parts of a shard stand, for who reads another process's memory.
#[cfg(not(loom))]
impl<const N: usize> Shard<N> {
    /// The sequence number.
    pub const SEQUENCE: usize = core::mem::offset_of!(Shard<N>, sequence);
    /// The address of the next shard, or zero.
    pub const NEXT: usize = core::mem::offset_of!(Shard<N>, next);
    /// The first figure of the first copy.
    pub const COPIES: usize = core::mem::offset_of!(Shard<N>, copies);
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
            readings: AtomicUsize::new(0),
            first: AtomicPtr::new(ptr::null_mut()),
            reader: Lock::new(Rank::Books, ()),
        }
    }

    /// No shards yet.
    #[cfg(loom)]
    pub fn new() -> Shards<N> {
        Shards {
            generation: AtomicUsize::new(0),
            readings: AtomicUsize::new(0),
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
        let reader = self.reader.lock();
        sums.fill(0);
        self.turn(&reader, || N, |figure, amount| sums[figure] = sums[figure].wrapping_add(amount));
    }

    /// Reads at one instant into a copy that another process looks at, as the answer to `question`. The first `live()`
    /// figures are read, and no other was ever touched; that is asked when all that is to be read has been written.
    pub fn publish(&self, into: &Published<N>, question: u64, live: impl FnOnce() -> usize) {
        let reader = self.reader.lock();
        let sequence = into.sequence.load(Ordering::Relaxed);
        // A process that was copied in the middle of this begins with an odd number.
        let odd = sequence.wrapping_add(1) | 1;
        into.sequence.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        into.figures.iter().for_each(|cell| {
            // Not touching what is zero already keeps the pages of purposes that nobody declared untouched.
            if cell.load(Ordering::Relaxed) != 0 {
                cell.store(0, Ordering::Relaxed);
            }
        });
        self.turn(&reader, live, |figure, amount| {
            let cell = &into.figures[figure];
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        });
        into.answered.store(question, Ordering::Relaxed);
        into.sequence.store(odd.wrapping_add(1), Ordering::Release);
    }

    /// Moves the generation on and adds up the first `live()` figures of the copies left behind.
    fn turn(&self, _reader: &Guard<'_, ()>, live: impl FnOnce() -> usize, mut add: impl FnMut(usize, i64)) {
        let readings = self.readings.load(Ordering::Relaxed);
        self.readings.store(readings.wrapping_add(1) | 1, Ordering::Relaxed);
        let current = self.generation.load(Ordering::Relaxed);
        let (before, next) = ((current + COPIES - 1) % COPIES, (current + 1) % COPIES);
        // Orders the odd number before all that follows, too.
        sync::store_before_loads(&self.generation, next);
        for shard in self.iter() {
            shard.wait_until_idle();
        }
        let live = live();
        for shard in self.iter() {
            for figure in 0..live {
                let old = shard.copies[before][figure].load(Ordering::Relaxed);
                let cell = &shard.copies[current][figure];
                let total = cell.load(Ordering::Relaxed).wrapping_add(old);
                // Most figures of most shards stay zero: not writing them keeps their pages untouched.
                if old != 0 {
                    cell.store(total, Ordering::Relaxed);
                    shard.copies[before][figure].store(0, Ordering::Relaxed);
                }
                if total != 0 {
                    add(figure, total);
                }
            }
        }
        self.readings.store((readings.wrapping_add(1) | 1).wrapping_add(1), Ordering::Release);
    }

    /// Where another process finds the first shard, and the count of readings.
    pub fn addresses(&self) -> (u64, u64) {
        (ptr::from_ref(&self.first).addr() as u64, ptr::from_ref(&self.readings).addr() as u64)
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

impl<const N: usize> Published<N> {
    /// Nothing was published yet; equal to zeroed memory.
    pub fn new() -> Published<N> {
        Published {
            sequence: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            figures: core::array::from_fn(|_| AtomicI64::new(0)),
        }
    }

    /// Copies the sums out and says what they answer; `None` if they were being written.
    ///
    /// This is what another process does by reading memory; here it is the twin that tests look through.
    pub fn copy(&self, sums: &mut [i64; N]) -> Option<u64> {
        let before = self.sequence.load(Ordering::Acquire);
        if !before.is_multiple_of(2) {
            return None;
        }
        for (sum, cell) in sums.iter_mut().zip(&self.figures) {
            *sum = cell.load(Ordering::Relaxed);
        }
        let answered = self.answered.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then_some(answered)
    }
}

impl<const N: usize> Default for Published<N> {
    fn default() -> Published<N> {
        Published::new()
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

#[cfg(all(test, loom))]
mod loom_published {
    use super::*;
    use loom::sync::Arc;

    /// Whoever copies published sums gets those of one publication, or none.
    #[test]
    fn loom_published_sums_are_whole() {
        loom::model(|| {
            let shards = Arc::new(Shards::<2>::new());
            let shard: &'static Shard<2> = Box::leak(Box::new(Shard::new()));
            // SAFETY: leaked, so it outlives the books.
            unsafe { shards.link(shard) };
            let published = Arc::new(Published::<2>::new());
            let publisher = {
                let (shards, published) = (shards.clone(), published.clone());
                loom::thread::spawn(move || {
                    let mut t = shard.begin(&shards);
                    t.add(0, -5);
                    t.add(1, 5);
                    drop(t);
                    shards.publish(&published, 7, || 2);
                })
            };
            let mut sums = [0; 2];
            match published.copy(&mut sums) {
                Some(7) => assert_eq!(sums, [-5, 5]),
                Some(_) => assert_eq!(sums, [0, 0]),
                None => {}
            }
            publisher.join().unwrap();
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
        let published = Published::new();
        SHARDS.publish(&published, 9, || 3);
        assert_eq!((published.copy(&mut again), again), (Some(9), once));
    }
}
