//! Registered roots: ranges of memory outside the collected heap that the collector reads.
//!
//! A range is scanned conservatively, every word of it, or by a bitmap with a bit for each word. When marking begins,
//! all ranges are divided into *jobs* of 128 KiB, numbered through; markers take numbers from a counter.
//!
//! ```text
//!   range 0            range 1   range 2 (free)   range 3
//!   │ 0 │ 1 │ 2 │ 3 │  │ 4 │                      │ 5 │ 6 │       jobs
//!   from 0             from 4    from 5           from 5          where each range's jobs begin: found by halving
//! ```
//!
//! Ranges may come and go while the collector marks. One that comes gets no jobs: whoever adds it scans it. One that
//! goes may be the only place that a pointer stood in when marking began, and jobs of it may not be done yet: whoever
//! removes it scans it first. To remove it is to say that it is dead, and then to wait until nobody reads it; to do a
//! job is to say that one reads, and then to look whether the range is alive (Dekker).
//!
//! 1. A range is read only between the two marks of a job that found it alive, or by whoever adds or removes it.
//! 2. While marking, every job that was numbered at the beginning is taken once.
//!
//! (Go: `markroot` in `mgcmark.go`, where data segments are cut up in the same way.)
//!
//! # Safety
//! Who adds a range promises that it is readable until it was removed.

use crate::base::sync::{AtomicPtr, AtomicU32, AtomicUsize, Backoff, Ordering};
use crate::base::{Address, Bytes, Lock, Rank};
use crate::os::{System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};

/// Roots and large objects are scanned in pieces of so many bytes.
pub const PIECE: usize = 128 << 10;
/// The most ranges that there can be at once.
const MOST: usize = 1 << 20;
/// Words of a job's bitmap.
const PIECE_BITS: usize = PIECE / 8 / 64;

/// A registered range, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RangeId(u32);

/// A range of memory that holds pointers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootRange {
    /// The first byte.
    pub start: Address,
    /// How long it is.
    pub size: Bytes,
    /// A bit for each word, as words of 64 bits, for as many words as lie in the range; null where every word may be a
    /// pointer. Bits behind the last word are zero.
    pub bits: *const u64,
}

/// What is scanned at once.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The first byte.
    pub start: Address,
    /// How long it is.
    pub size: Bytes,
    /// The bits of its words; `None` where every word may be a pointer.
    pub bits: Option<&'a [u64]>,
}

/// The place of a range. Zeroed memory is a free one.
struct Place {
    start: AtomicUsize,
    size: AtomicUsize,
    bits: AtomicPtr<u64>,
    /// The number of its first job in this cycle.
    from: AtomicUsize,
    is_alive: AtomicU32,
    /// Jobs that may be reading it.
    readers: AtomicU32,
    /// The next free place, counted from 1.
    next: AtomicU32,
}

// SAFETY: numbers that threads share, and a null pointer.
unsafe impl Zeroed for Place {}

/// What adding and removing takes turns at.
struct Places {
    /// Places that were ever used.
    used: usize,
    /// A free one among them, counted from 1.
    free: u32,
}

/// All registered ranges, and the jobs of the cycle.
pub struct Roots {
    places: Table<Place>,
    state: Lock<Places>,
    /// Places that have jobs.
    divided: AtomicUsize,
    jobs: AtomicUsize,
    next: AtomicUsize,
}

/// A job that was taken: the right to read a piece of a range while this value lives.
pub struct Job<'a> {
    place: &'a Place,
    /// Which piece of the range.
    number: usize,
}

impl Roots {
    /// No ranges.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn reserve(system: System, ledger: Ledger<'_>) -> Result<Roots, SystemError> {
        let places = Table::reserve(system, MetadataKind::Roots, MOST, c"spanheap: roots", ledger)?;
        Ok(Roots {
            places,
            state: Lock::new(Rank::Metadata, Places { used: 0, free: 0 }),
            divided: AtomicUsize::new(0),
            jobs: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        })
    }

    /// Adds a range. While marking, the caller has it scanned as well.
    ///
    /// # Errors
    /// When there is no room, or the system refuses memory; nothing has changed.
    ///
    /// # Panics
    /// When a range with a bitmap does not begin at a multiple of eight.
    ///
    /// # Safety
    /// Range and bitmap are readable until [`Roots::remove`] has returned.
    pub unsafe fn add(&self, range: RootRange, ledger: Ledger<'_>) -> Result<RangeId, SystemError> {
        assert!(range.bits.is_null() || range.start.is_aligned(8), "words at {}", range.start);
        let mut state = self.state.lock();
        let index = match state.free {
            0 if state.used == MOST => return Err(SystemError::NO_MEMORY),
            0 => {
                self.places.ensure(state.used..state.used + 1, ledger)?;
                state.used += 1;
                state.used - 1
            }
            free => {
                state.free = self.place(free as usize - 1).next.load(Ordering::Relaxed);
                free as usize - 1
            }
        };
        self.place(index).open(range);
        Ok(RangeId(index as u32))
    }

    /// Removes a range, and waits until nobody reads it any more. While marking, the caller has had it scanned. Returns
    /// the range; `None` if there is none with this number.
    pub fn remove(&self, id: RangeId) -> Option<RootRange> {
        let place = self.places.get(id.0 as usize)?;
        if !place.close() {
            return None;
        }
        let range = place.range();
        let mut state = self.state.lock();
        place.next.store(state.free, Ordering::Relaxed);
        state.free = id.0 + 1;
        Some(range)
    }

    /// The range with this number.
    pub fn get(&self, id: RangeId) -> Option<RootRange> {
        let place = self.places.get(id.0 as usize)?;
        (place.is_alive.load(Ordering::Acquire) == 1).then(|| place.range())
    }

    /// Every range. Those that come or go meanwhile may or may not be among them.
    pub fn all(&self) -> impl Iterator<Item = RootRange> + '_ {
        let used = self.state.lock().used;
        (0..used as u32).filter_map(|index| self.get(RangeId(index)))
    }

    /// Divides all ranges into jobs that nobody has taken. The world stands still.
    pub fn divide(&self) {
        let used = self.state.lock().used;
        let mut jobs = 0;
        for index in 0..used {
            let place = self.place(index);
            place.from.store(jobs, Ordering::Relaxed);
            if place.is_alive.load(Ordering::Relaxed) == 1 {
                jobs += place.size.load(Ordering::Relaxed).div_ceil(PIECE);
            }
        }
        self.divided.store(used, Ordering::Relaxed);
        self.jobs.store(jobs, Ordering::Relaxed);
        self.next.store(0, Ordering::Release);
    }

    /// Bytes of all ranges.
    pub fn bytes(&self) -> Bytes {
        self.all().map(|range| range.size).sum()
    }

    /// Whether every job has been taken.
    #[inline]
    pub fn are_taken(&self) -> bool {
        self.next.load(Ordering::Acquire) >= self.jobs.load(Ordering::Relaxed)
    }

    /// Takes a job.
    pub fn next_job(&self) -> Option<Job<'_>> {
        if self.are_taken() {
            return None;
        }
        let job = self.next.fetch_add(1, Ordering::AcqRel);
        if job >= self.jobs.load(Ordering::Relaxed) {
            return None;
        }
        // The last place whose jobs begin at or before this one; those without jobs begin where the next one does.
        let (mut low, mut high) = (0, self.divided.load(Ordering::Relaxed));
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if self.place(middle).from.load(Ordering::Relaxed) <= job { low = middle } else { high = middle }
        }
        let place = self.place(low);
        Some(place.read(job - place.from.load(Ordering::Relaxed)))
    }

    fn place(&self, index: usize) -> &Place {
        self.places.get(index).expect("places below `used` are there")
    }

    /// Bytes committed for the places.
    pub fn committed_bytes(&self) -> Bytes {
        self.places.committed_bytes()
    }

    /// Where the memory behind it lies.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.places.committed_ranges()
    }

    /// The lock, for `fork`.
    pub fn acquire_for_fork(&self) {
        self.state.acquire_equal();
    }

    /// Gives it back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`Roots::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.state.release() }
    }

    /// Gives the memory back.
    ///
    /// # Safety
    /// Nobody uses the roots any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.places.destroy() }
    }
}

/// The side of Dekker's pattern that has written and is about to look: see [`queue`](super::queue).
#[inline(always)]
fn written() {
    #[cfg(loom)]
    crate::base::sync::fence(Ordering::SeqCst);
}

impl Place {
    fn open(&self, range: RootRange) {
        self.start.store(range.start.0, Ordering::Relaxed);
        self.size.store(range.size.0, Ordering::Relaxed);
        self.bits.store(range.bits.cast_mut(), Ordering::Relaxed);
        self.is_alive.store(1, Ordering::Release);
    }

    /// Says that the range is dead, and waits for its readers. Returns whether it was alive.
    fn close(&self) -> bool {
        if self.is_alive.swap(0, Ordering::SeqCst) == 0 {
            return false;
        }
        written();
        let mut backoff = Backoff::new();
        while self.readers.load(Ordering::SeqCst) != 0 {
            backoff.step();
        }
        true
    }

    fn read(&self, number: usize) -> Job<'_> {
        self.readers.fetch_add(1, Ordering::SeqCst);
        written();
        Job { place: self, number }
    }

    fn range(&self) -> RootRange {
        RootRange {
            start: Address(self.start.load(Ordering::Relaxed)),
            size: Bytes(self.size.load(Ordering::Relaxed)),
            bits: self.bits.load(Ordering::Relaxed),
        }
    }
}

impl Job<'_> {
    /// What is to be scanned, unless the range was removed.
    pub fn piece(&self) -> Option<Piece<'_>> {
        if self.place.is_alive.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let range = self.place.range();
        let from = self.number * PIECE;
        // The place may have gone to a shorter range meanwhile, which its owner has scanned.
        let size = Bytes(range.size.0.checked_sub(from)?.min(PIECE));
        let bits = (!range.bits.is_null()).then(|| {
            // SAFETY: a bitmap is as long as its range, and readable as long as this job says that it reads.
            unsafe {
                let first = range.bits.add(self.number * PIECE_BITS);
                core::slice::from_raw_parts(first, (size.0 / 8).div_ceil(64))
            }
        });
        Some(Piece { start: Address(range.start.0 + from), size, bits })
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        self.place.readers.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    /// Who removes a range takes its memory away at once: a job that still reads it then would be a fault.
    #[test]
    fn loom_nobody_reads_a_removed_range() {
        loom::model(|| {
            let place = Place {
                start: AtomicUsize::new(64),
                size: AtomicUsize::new(64),
                bits: AtomicPtr::new(core::ptr::null_mut()),
                from: AtomicUsize::new(0),
                is_alive: AtomicU32::new(1),
                readers: AtomicU32::new(0),
                next: AtomicU32::new(0),
            };
            let world = Arc::new((place, loom::cell::UnsafeCell::new(7)));
            let reader = {
                let world = world.clone();
                loom::thread::spawn(move || {
                    let job = world.0.read(0);
                    if job.piece().is_some() {
                        // SAFETY: loom finds out whether somebody writes meanwhile.
                        world.1.with(|memory| assert_eq!(unsafe { *memory }, 7));
                    }
                })
            };
            assert!(world.0.close());
            // SAFETY: as above.
            world.1.with_mut(|memory| unsafe { *memory = 0 });
            reader.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::os::testing::{balance, books, shard, simulated};
    use crate::stats::Account;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn range(start: usize, size: usize) -> RootRange {
        RootRange { start: Address(start), size: Bytes(size), bits: core::ptr::null() }
    }

    proptest! {
        /// Against a list: every byte of every range is in one job.
        #[test]
        fn jobs_cover_all_ranges_once(program in prop::collection::vec((any::<bool>(), 0..3 * PIECE), 0..40)) {
            let (_, system) = simulated();
            let books = books();
            let ledger = books.ledger(shard(&books));
            let roots = Roots::reserve(system, ledger).unwrap();
            let mut twin = BTreeMap::new();
            for (number, (remove, size)) in program.into_iter().enumerate() {
                if remove && let Some((id, size)) = twin.pop_first() {
                    prop_assert_eq!(roots.remove(id).map(|range| range.size.0), Some(size));
                    prop_assert_eq!(roots.remove(id), None);
                    continue;
                }
                // SAFETY: nobody reads it.
                let id = unsafe { roots.add(range((number + 1) << 30, size), ledger) }.unwrap();
                prop_assert_eq!(roots.get(id).unwrap().size.0, size);
                twin.insert(id, size);
            }
            prop_assert_eq!(roots.bytes().0, twin.values().sum::<usize>());
            roots.divide();
            let mut pieces = Vec::new();
            while let Some(job) = roots.next_job() {
                let piece = job.piece().unwrap();
                pieces.push((piece.start.0, piece.size.0));
            }
            prop_assert!(roots.are_taken());
            pieces.sort_unstable();
            let mut expected: Vec<_> = roots.all().flat_map(|range| {
                let (start, size) = (range.start.0, range.size.0);
                (0..size).step_by(PIECE).map(move |from| (start + from, (size - from).min(PIECE)))
            }).collect();
            expected.sort_unstable();
            prop_assert_eq!(pieces, expected);
            let booked = balance(&books, Account::Metadata(MetadataKind::Roots));
            prop_assert_eq!(booked, roots.committed_ranges().map(|(_, size)| size.0 as i64).sum::<i64>());
            // SAFETY: the test's own, and done with.
            unsafe { roots.destroy() };
        }
    }

    #[test]
    fn bitmaps_are_cut_as_their_ranges_are() {
        let (_, system) = simulated();
        let books = books();
        let ledger = books.ledger(shard(&books));
        let roots = Roots::reserve(system, ledger).unwrap();
        let bits: Vec<u64> = (0..PIECE_BITS as u64 + 2).collect();
        let size = Bytes(PIECE + 65 * 8);
        let range = RootRange { start: Address(1 << 20), size, bits: bits.as_ptr() };
        // SAFETY: nobody reads the range, and the bitmap outlives it.
        unsafe { roots.add(range, ledger) }.unwrap();
        roots.divide();
        let one = roots.next_job().unwrap();
        assert_eq!(one.piece().unwrap().bits.unwrap(), &bits[..PIECE_BITS]);
        let two = roots.next_job().unwrap();
        assert_eq!(two.piece().unwrap().bits.unwrap(), &bits[PIECE_BITS..]);
        assert!(roots.next_job().is_none());
        drop((one, two));
        // SAFETY: the test's own, and done with.
        unsafe { roots.destroy() };
    }
}
