//! A table: an array with room for as many elements as there can ever be, and memory for those that are needed.
//!
//! The heap's metadata is indexed, not pointed to: by page, by chunk, by span number. A table reserves the address
//! range of the whole array, which costs nothing, and commits units of 16 KiB of it when elements in them are
//! first needed. Elements never move, so readers need no lock. Needed ranges may lie far apart.
//!
//! ```text
//!   base      first element
//!    │ which units are committed │ T │ T │ T │ T │ ...                               │
//!    ├────── unit 0 ──────┼────── unit 1 ──────┼────── unit 2 ──────┼── ... ─────────┤
//! ```
//!
//! Its own bitmap of committed units stands in front of the elements, in the same reservation; the units that
//! hold it are committed at the start.
//!
//! 1. A unit is committed, ready and booked as metadata of the table's kind exactly if its bit is set.
//! 2. Bits are only ever set, by the one who holds the lock that guards growth; reading needs no lock.
//! 3. An element is readable exactly if all units that it lies in are committed; a fresh one is all zero bytes.
//!
//! The table does not know what its elements mean, nor which of them are in use.
//!
//! # Safety
//! The elements are `T` because zero bytes are a `T` ([`Zeroed`]) and committed memory is zero. References to them
//! live no longer than the table is borrowed, and `destroy` is unsafe. Bits are set after the memory is there, with
//! release order, and read with acquire order.

use super::system::{System, SystemError};
use crate::base::Bytes;
use crate::stats::{Account, Ledger, MetadataKind};
use core::ffi::CStr;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a table grows by, unless the system's pages are larger.
pub const UNIT: Bytes = Bytes::kib(16);

/// Types that a row of zero bytes is a value of.
///
/// # Safety
/// All-zero memory of the type's size and alignment is a valid value. The type needs no drop.
pub unsafe trait Zeroed {}

macro_rules! zeroed {
    ($($type:ty),*) => { $(
        // SAFETY: a number, or a number that threads share: zero is one.
        unsafe impl Zeroed for $type {}
    )* };
}

zeroed!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);
zeroed!(core::sync::atomic::AtomicU8, core::sync::atomic::AtomicU16, core::sync::atomic::AtomicU32);
zeroed!(AtomicU64, AtomicUsize, core::sync::atomic::AtomicI64, core::sync::atomic::AtomicBool);

// SAFETY: zero elements, one after the other.
unsafe impl<T: Zeroed, const N: usize> Zeroed for [T; N] {}
// SAFETY: a null pointer.
unsafe impl<T> Zeroed for core::sync::atomic::AtomicPtr<T> {}
// SAFETY: a cell is laid out like what it holds.
unsafe impl<T: Zeroed> Zeroed for core::cell::UnsafeCell<T> {}

/// A reserved array of `T`. See the [file's head](self).
#[derive(Debug)]
pub struct Table<T> {
    system: System,
    kind: MetadataKind,
    name: &'static CStr,
    base: *mut u8,
    /// Bytes before the first element.
    header: usize,
    capacity: usize,
    reserved: Bytes,
    /// Binary logarithm of the bytes in a unit.
    unit_shift: u32,
    committed: AtomicUsize,
    elements: PhantomData<T>,
}

// SAFETY: a table owns its elements, which may move between threads.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: a shared table hands out shared elements, and its own state is atomic.
unsafe impl<T: Send + Sync> Sync for Table<T> {}

impl<T: Zeroed> Table<T> {
    /// Reserves room for `capacity` elements and commits none but those that share a unit with the table's own
    /// bitmap. `name` shows in `/proc/PID/maps`.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    ///
    /// # Panics
    /// When `capacity` elements are more than fit into an address space.
    pub fn reserve(
        system: System,
        kind: MetadataKind,
        capacity: usize,
        name: &'static CStr,
        ledger: Ledger<'_>,
    ) -> Result<Table<T>, SystemError> {
        Table::with_first(system, kind, capacity, Bytes::ZERO, name, ledger)
    }

    /// As [`Table::reserve`], with the first `first` bytes committed, the table's own bitmap included.
    pub(super) fn with_first(
        system: System,
        kind: MetadataKind,
        capacity: usize,
        first: Bytes,
        name: &'static CStr,
        ledger: Ledger<'_>,
    ) -> Result<Table<T>, SystemError> {
        let page = system.page_size();
        let unit_shift = UNIT.max(page).0.ilog2();
        let plan = Plan::new::<T>(capacity, unit_shift).expect("a table fits into an address space");
        let base = system.reserve(plan.reserved, page.max(Bytes(align_of::<T>())))?;
        let table = Table {
            system,
            kind,
            name,
            base,
            header: plan.header,
            capacity,
            reserved: plan.reserved,
            unit_shift,
            committed: AtomicUsize::new(0),
            elements: PhantomData,
        };
        let first = first.min(plan.reserved).max(Bytes(plan.header));
        let units = 0..first.0.div_ceil(1 << unit_shift);
        // The bitmap lies in these units itself, so they can be marked only when they are there.
        if let Err(error) = table.make_ready(units.clone()) {
            // SAFETY: nobody has seen the table yet.
            unsafe { table.destroy() };
            return Err(error);
        }
        units.for_each(|unit| table.mark(unit));
        ledger.post(|entry| {
            entry.transfer(Account::System, Account::Reserved, plan.reserved);
            entry.transfer(Account::Reserved, Account::Metadata(kind), table.committed_bytes());
        });
        Ok(table)
    }

    /// Whole elements that were committed at creation.
    pub(super) fn first_elements(&self) -> usize {
        ((self.committed_bytes().0 - self.header) / size_of::<T>()).min(self.capacity)
    }

    /// Makes the elements of a range readable and writable, and books the units that this takes as metadata of
    /// the table's kind. What is there already stays as it is. The caller holds the lock that guards growth.
    ///
    /// # Errors
    /// The system refused. What lies before the refused piece may have been committed (and booked); nothing is lost,
    /// and the call can be repeated.
    ///
    /// # Panics
    /// When the range reaches beyond the capacity.
    pub fn ensure(&self, range: Range<usize>, ledger: Ledger<'_>) -> Result<(), SystemError> {
        assert!(range.end <= self.capacity, "elements {range:?} of a table of {}", self.capacity);
        if range.is_empty() {
            return Ok(());
        }
        let units = self.units_of(range);
        let mut unit = units.start;
        while unit < units.end {
            if self.is_committed(unit) {
                unit += 1;
                continue;
            }
            let missing = unit..(unit..units.end).find(|&u| self.is_committed(u)).unwrap_or(units.end);
            unit = missing.end;
            self.commit(missing, ledger)?;
        }
        Ok(())
    }

    /// Commits a run of units, none of which is committed.
    fn commit(&self, units: Range<usize>, ledger: Ledger<'_>) -> Result<(), SystemError> {
        self.make_ready(units.clone())?;
        let size = Bytes(units.len() << self.unit_shift);
        ledger.transfer(Account::Reserved, Account::Metadata(self.kind), size);
        units.for_each(|unit| self.mark(unit));
        Ok(())
    }

    /// An element; `None` where no memory is, be it not yet or never.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        if index >= self.capacity || !self.units_of(index..index + 1).all(|unit| self.is_committed(unit)) {
            return None;
        }
        // SAFETY: the element's units are committed.
        Some(unsafe { self.get_unchecked(index) })
    }

    /// An element that is known to be there.
    ///
    /// # Safety
    /// A call of [`Table::ensure`] for it has succeeded, and this thread knows so from an acquiring read.
    #[inline]
    pub unsafe fn get_unchecked(&self, index: usize) -> &T {
        debug_assert!(self.units_of(index..index + 1).all(|unit| self.is_committed(unit)), "element {index}");
        // SAFETY: the caller knows that the memory is there; zero bytes are a `T`.
        unsafe { &*self.as_ptr().add(index) }
    }

    /// An element, exclusively.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.get(index)?;
        // SAFETY: the element is there, and the table is borrowed exclusively.
        Some(unsafe { &mut *self.as_ptr().add(index) })
    }

    /// A pointer to the first element, whether or not memory is behind it.
    #[inline]
    pub fn as_ptr(&self) -> *mut T {
        self.base.wrapping_add(self.header).cast()
    }

    /// Elements that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The units that a non-empty range of elements lies in.
    #[inline]
    fn units_of(&self, range: Range<usize>) -> Range<usize> {
        let first = self.header + range.start * size_of::<T>();
        let last = self.header + range.end * size_of::<T>() - 1;
        first >> self.unit_shift..(last >> self.unit_shift) + 1
    }
}

impl<T> Table<T> {
    /// Bytes that are committed, the bitmap's included.
    pub fn committed_bytes(&self) -> Bytes {
        Bytes(self.committed.load(Ordering::Relaxed))
    }

    /// Bytes that are reserved, committed or not.
    pub fn reserved_bytes(&self) -> Bytes {
        self.reserved
    }

    /// The committed ranges, from the bottom up, as addresses.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (crate::base::Address, Bytes)> {
        let units = self.reserved.0 >> self.unit_shift;
        let mut unit = 0;
        core::iter::from_fn(move || {
            let first = self.next_unit(unit, true);
            if first == units {
                return None;
            }
            unit = self.next_unit(first, false);
            let at = crate::base::Address(self.base.addr() + (first << self.unit_shift));
            Some((at, Bytes((unit - first) << self.unit_shift)))
        })
    }

    /// All addresses that are the table's, with memory or without.
    pub fn reservation(&self) -> (crate::base::Address, Bytes) {
        (crate::base::Address::of(self.base), self.reserved)
    }

    /// Gives the whole table back to the system. The books go with the heap; nothing is posted.
    ///
    /// # Safety
    /// Called once, and nobody looks at the table any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the reservation is ours, whole, and the caller promises that it is done with.
        unsafe { self.system.unmap(self.base, self.reserved) }
    }

    /// Reserved → Ready for a run of units, none of which is marked as committed.
    fn make_ready(&self, units: Range<usize>) -> Result<(), SystemError> {
        let at = self.base.wrapping_add(units.start << self.unit_shift);
        let size = Bytes(units.len() << self.unit_shift);
        // SAFETY: units of our reservation that nobody touches as long as their bits are not set.
        unsafe {
            self.system.commit(at, size)?;
            self.system.name(at, size, self.name);
            self.system.ready(at, size)
        }
    }

    fn word(&self, unit: usize) -> &AtomicU64 {
        // SAFETY: the bitmap has a bit for each unit, stands at the head and was committed before anything else.
        unsafe { &*self.base.cast::<AtomicU64>().add(unit / 64) }
    }

    #[inline]
    fn is_committed(&self, unit: usize) -> bool {
        self.word(unit).load(Ordering::Acquire) >> (unit % 64) & 1 == 1
    }

    /// The first unit from one on that is committed, or is not; the number of units if there is none. Looks at 64 at once:
    /// tables are reserved for heaps much larger than most.
    fn next_unit(&self, from: usize, committed: bool) -> usize {
        let units = self.reserved.0 >> self.unit_shift;
        let mut unit = from;
        while unit < units {
            let word = self.word(unit).load(Ordering::Acquire);
            let wanted = (if committed { word } else { !word }) >> (unit % 64);
            if wanted != 0 {
                return units.min(unit + wanted.trailing_zeros() as usize);
            }
            unit = (unit / 64 + 1) * 64;
        }
        units
    }

    fn mark(&self, unit: usize) {
        self.word(unit).fetch_or(1 << (unit % 64), Ordering::Release);
        self.committed.fetch_add(1 << self.unit_shift, Ordering::Relaxed);
    }
}

/// How a table is laid out.
struct Plan {
    /// Bytes before the first element: the bitmap, rounded up so that elements are aligned.
    header: usize,
    reserved: Bytes,
}

impl Plan {
    fn new<T>(capacity: usize, unit_shift: u32) -> Option<Plan> {
        let unit = Bytes(1 << unit_shift);
        let elements = capacity.checked_mul(size_of::<T>())?;
        // A cache line at least, so that the bitmap shares none with an element.
        let align = align_of::<T>().max(64);
        // The bitmap covers itself, so its size depends on itself: one round more than enough is no loss.
        let units = Bytes(elements).round_up(unit)?.0 >> unit_shift;
        let header = (units / 8 + units / 8 / 1024 + 64).checked_next_multiple_of(align)?;
        let reserved = Bytes(header.checked_add(elements)?).round_up(unit)?;
        debug_assert!(reserved.0 >> unit_shift <= header * 8);
        Some(Plan { header, reserved })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::testing::{balance, books, fixed_balances, simulated};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const KIND: MetadataKind = MetadataKind::SpanMap;

    fn table<T: Zeroed>(system: System, capacity: usize, books: &crate::stats::Books) -> Table<T> {
        Table::reserve(system, KIND, capacity, c"spanheap: test", books.shared().ledger()).unwrap()
    }

    #[test]
    fn elements_come_as_zero_and_stay() {
        let books = books();
        let mut table: Table<u64> = table(System::Linux, 1 << 32, &books);
        let far = (1 << 32) - 1;
        assert_eq!(table.get(far), None);
        assert_eq!(table.get(far + 1), None);
        table.ensure(far..far + 1, books.shared().ledger()).unwrap();
        assert_eq!(table.get(far), Some(&0));
        *table.get_mut(far).unwrap() = 9;
        table.ensure(far - 10_000..far + 1, books.shared().ledger()).unwrap();
        assert_eq!(table.get(far), Some(&9));
        assert_eq!(table.get(far - 10_000), Some(&0));
        assert_eq!(table.get(1 << 31), None);
        assert_eq!(balance(&books, Account::Metadata(KIND)), table.committed_bytes().0 as i64);
        let ranges: Vec<_> = table.committed_ranges().collect();
        assert_eq!(ranges.len(), 2, "{ranges:?}");
        assert_eq!(ranges.iter().map(|range| range.1).sum::<Bytes>(), table.committed_bytes());
        // SAFETY: the test's own, and done with.
        unsafe { table.destroy() };
    }

    #[test]
    fn the_bitmap_covers_every_unit() {
        for shift in [14, 16] {
            for size in [0, 1, 100, 16 << 10, 1 << 20, (1 << 30) + 1, 1 << 40, 1 << 46] {
                let plan = Plan::new::<u8>(size, shift).unwrap();
                let units = plan.reserved.0 >> shift;
                assert!(units.div_ceil(64) * 8 <= plan.header, "{size} bytes, units of 1 << {shift}");
                assert!(plan.header + size <= plan.reserved.0);
            }
        }
        assert!(Plan::new::<u64>(usize::MAX / 4, 14).is_none());
        assert!(Plan::new::<u8>(usize::MAX - 100, 14).is_none());
    }

    #[test]
    fn creation_can_be_refused_at_every_call() {
        let (simulated, system) = simulated();
        for nth in 0..3 {
            let books = books();
            let before = fixed_balances(&books);
            simulated.refuse(nth, 1);
            let refused =
                Table::<u64>::reserve(system, KIND, 1000, c"spanheap: test", books.shared().ledger());
            assert_eq!(refused.map(|_| ()), Err(SystemError::NO_MEMORY), "call {nth}");
            assert_eq!(fixed_balances(&books), before);
            assert_eq!(simulated.reserved_bytes(), Bytes::ZERO);
        }
    }

    #[test]
    #[should_panic(expected = "elements 5..11 of a table of 10")]
    fn there_is_nothing_beyond_the_capacity() {
        let books = books();
        let table: Table<u8> = table(System::Linux, 10, &books);
        let _ = table.ensure(5..11, books.shared().ledger());
    }

    /// An element that straddles units: neither its size nor its distance from the start divides a unit.
    type Odd = [u64; 37];
    const CAPACITY: usize = 4000;

    /// The slow twin: which units have been needed, by looking at both ends of every element.
    #[derive(Default)]
    struct Twin {
        units: BTreeSet<usize>,
    }

    impl Twin {
        fn needed(table: &Table<Odd>, range: Range<usize>) -> BTreeSet<usize> {
            let unit = |byte: usize| (table.header + byte) / UNIT.0;
            range
                .map(|at| at * size_of::<Odd>())
                .flat_map(|at| [unit(at), unit(at + size_of::<Odd>() - 1)])
                .collect()
        }
    }

    fn range() -> impl Strategy<Value = Range<usize>> {
        (0..CAPACITY, 0usize..200).prop_map(|(at, length)| at..(at + length).min(CAPACITY))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever is needed in whatever order, and whichever calls are refused: exactly the needed units are
        /// committed, readable and in the books.
        #[test]
        fn exactly_what_is_needed_is_committed(
            steps in proptest::collection::vec((range(), proptest::option::weighted(0.3, 0usize..4)), 1..25),
        ) {
            let (simulated, system) = simulated();
            let books = books();
            let table: Table<Odd> = table(system, CAPACITY, &books);
            let mut twin = Twin { units: (0..table.header.div_ceil(UNIT.0)).collect() };
            for (range, refuse) in steps {
                let needed = Twin::needed(&table, range.clone());
                if let Some(nth) = refuse {
                    simulated.refuse(nth, 1);
                }
                let done = table.ensure(range.clone(), books.shared().ledger());
                simulated.refuse_nothing();
                if done.is_err() {
                    let committed = |unit: &usize| table.is_committed(*unit);
                    prop_assert!(!needed.iter().all(committed), "refused, but everything is there");
                    twin.units.extend(needed.into_iter().filter(committed));
                } else {
                    twin.units.extend(needed);
                }
                let bytes = twin.units.len() * UNIT.0;
                prop_assert_eq!(balance(&books, Account::Metadata(KIND)), bytes as i64);
                prop_assert_eq!(table.committed_bytes(), Bytes(bytes));
                prop_assert_eq!(simulated.ready_bytes(), Bytes(bytes));
                for element in 0..CAPACITY {
                    let there = Twin::needed(&table, element..element + 1).is_subset(&twin.units);
                    prop_assert_eq!(table.get(element), there.then_some(&[0; 37]), "element {}", element);
                }
            }
            // SAFETY: the test's own, and done with.
            unsafe { table.destroy() };
        }
    }
}
