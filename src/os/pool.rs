//! A pool: objects of one type that come and go, under numbers that stay.
//!
//! Objects stand in a [`Table`] and are never moved or unmapped before the heap goes, so a reference by number
//! outlives the object safely: who looks it up late finds an object of the same type, though perhaps another one.
//! For that reason the pool does not write into the objects either: the links of its free list stand beside them.
//!
//! ```text
//!   number    0         1         2         3
//!        │ – │ T │ │ 3 │ T │ │ – │ T │ │ ∎ │ T │ never taken yet ...
//!        └───────┘ └─▲─────┘ └───────┘ └───────┘
//!          taken     │ free    taken     free
//!                  first
//! ```
//!
//! 1. An object is taken, or on the free list once, or was never taken; the three counts add up to the capacity.
//! 2. Only objects below `fresh` were ever taken; they, and no others, are known to have memory.
//! 3. An object taken for the first time is all zero bytes. One that is taken again is as it was given back.
//!
//! The pool does not know what its objects mean, and does not clean up after them. (Go: `fixalloc`.)
//!
//! # Safety
//! [`Pool::get_unchecked`] and `destroy` hand the table's contracts on. Exclusive access to an object is its taker's,
//! by pointer; the pool itself only hands out shared references.

use super::system::{System, SystemError};
use super::table::{Table, Zeroed};
use crate::base::{Address, Bytes, Lock, Rank};
use crate::stats::{Ledger, MetadataKind};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, Ordering};

/// Objects of one type. See the [file's head](self).
pub struct Pool<T> {
    slots: Table<Slot<T>>,
    state: Lock<State>,
}

/// An object and its link. The link is only followed and changed under the pool's lock.
#[repr(C)]
struct Slot<T> {
    /// [`TAKEN`] (or never taken), [`LAST`], or the number of the next free object above [`OFFSET`].
    link: AtomicU32,
    object: T,
}

// SAFETY: zero is a link (`TAKEN`) and an object.
unsafe impl<T: Zeroed> Zeroed for Slot<T> {}

const TAKEN: u32 = 0;
const LAST: u32 = 1;
const OFFSET: u32 = 2;
/// The most objects that a pool may have room for.
pub const MAX_OBJECTS: usize = (u32::MAX - OFFSET) as usize;

struct State {
    /// The link to the first free object.
    first: u32,
    /// Objects that were ever taken: those with smaller numbers.
    fresh: u32,
    /// Objects that are taken now.
    taken: u32,
}

/// An object that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Its number.
    pub number: u32,
    /// Whether this is the first time, so that it is all zero bytes.
    pub fresh: bool,
}

impl<T: Zeroed> Pool<T> {
    /// Reserves room for `capacity` objects.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    ///
    /// # Panics
    /// When `capacity` is above [`MAX_OBJECTS`].
    pub fn reserve(
        system: System,
        kind: MetadataKind,
        capacity: usize,
        name: &'static CStr,
        ledger: Ledger<'_>,
    ) -> Result<Pool<T>, SystemError> {
        assert!(capacity <= MAX_OBJECTS, "a pool of {capacity}");
        let slots = Table::reserve(system, kind, capacity, name, ledger)?;
        let state = State { first: LAST, fresh: 0, taken: 0 };
        Ok(Pool { slots, state: Lock::new(Rank::Metadata, state) })
    }

    /// Takes an object: the one given back last, or else a new one.
    ///
    /// # Errors
    /// The system refused, or the capacity is used up; nothing has changed.
    pub fn take(&self, ledger: Ledger<'_>) -> Result<Taken, SystemError> {
        let mut state = self.state.lock();
        let taken = if state.first == LAST {
            let number = state.fresh;
            if number as usize == self.slots.capacity() {
                return Err(SystemError::NO_MEMORY);
            }
            self.slots.ensure(number as usize..number as usize + 1, ledger)?;
            state.fresh += 1;
            Taken { number, fresh: true }
        } else {
            let number = state.first - OFFSET;
            state.first = self.link(number).swap(TAKEN, Ordering::Relaxed);
            Taken { number, fresh: false }
        };
        state.taken += 1;
        Ok(taken)
    }

    /// Gives an object back. What it holds stays until somebody takes it again.
    ///
    /// # Panics
    /// When the object is not taken.
    pub fn give(&self, number: u32) {
        let mut state = self.state.lock();
        let taken = number < state.fresh && self.link(number).load(Ordering::Relaxed) == TAKEN;
        assert!(taken, "object {number} of a pool is given back, but it is not taken");
        self.link(number).store(state.first, Ordering::Relaxed);
        state.first = number + OFFSET;
        state.taken -= 1;
    }

    /// An object, whether taken or free; `None` where no memory is.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&T> {
        self.slots.get(number as usize).map(|slot| &slot.object)
    }

    /// An object that is known to be there.
    ///
    /// # Safety
    /// [`Pool::take`] has returned this number, and this thread knows so from an acquiring read.
    #[inline]
    pub unsafe fn get_unchecked(&self, number: u32) -> &T {
        // SAFETY: what was ever taken is there.
        unsafe { &self.slots.get_unchecked(number as usize).object }
    }

    /// A pointer to an object, whether or not memory is behind it.
    #[inline]
    pub fn pointer(&self, number: u32) -> *mut T {
        debug_assert!((number as usize) < self.slots.capacity(), "object {number}");
        let slot = self.slots.as_ptr().wrapping_add(number as usize);
        slot.wrapping_byte_add(core::mem::offset_of!(Slot<T>, object)).cast()
    }

    /// The number of the object at an address, if one starts there.
    pub fn number_of(&self, object: Address) -> Option<u32> {
        let offset = object.0.checked_sub(self.pointer(0).addr())?;
        let number = offset / size_of::<Slot<T>>();
        (offset % size_of::<Slot<T>>() == 0 && number < self.slots.capacity()).then_some(number as u32)
    }

    /// Objects that are taken now.
    pub fn taken(&self) -> usize {
        self.state.lock().taken as usize
    }

    /// One more than the greatest number that was ever taken.
    pub fn fresh(&self) -> u32 {
        self.state.lock().fresh
    }

    /// Walks the free list and proves that every object is where it should be.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let state = self.state.lock();
        let (mut link, mut free) = (state.first, 0);
        while link != LAST {
            if link == TAKEN || link - OFFSET >= state.fresh {
                return Err("a pool's free list leads to an object that is not free");
            }
            free += 1;
            if free > state.fresh {
                return Err("a pool's free list leads in a circle");
            }
            link = self.link(link - OFFSET).load(Ordering::Relaxed);
        }
        if free + state.taken != state.fresh {
            return Err("a pool's taken and free objects do not add up");
        }
        Ok(())
    }

    /// The link of an object that was taken before.
    fn link(&self, number: u32) -> &AtomicU32 {
        &self.slots.get(number as usize).expect("what was ever taken is there").link
    }
}

impl<T> Pool<T> {
    /// Bytes that are committed, and in the books as metadata.
    pub fn committed_bytes(&self) -> Bytes {
        self.slots.committed_bytes()
    }

    /// The committed ranges, as addresses.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.slots.committed_ranges()
    }

    /// Takes the lock, before a `fork`.
    pub fn acquire_for_fork(&self) {
        // A heap has several pools, and nobody holds more than one of them but here.
        self.state.acquire_equal();
    }

    /// Gives the lock back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`Pool::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise is the lock's contract.
        unsafe { self.state.release() }
    }

    /// Gives everything back to the system. The books go with the heap; nothing is posted.
    ///
    /// # Safety
    /// Called once, and nobody looks at an object any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: handed on.
        unsafe { self.slots.destroy() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::testing::{balance, books, fixed_balances, shard, simulated};
    use super::*;
    use crate::stats::Account;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const KIND: MetadataKind = MetadataKind::Mutators;
    const NAME: &CStr = c"spanheap: test";

    type Object = [core::sync::atomic::AtomicU64; 50];

    #[test]
    #[should_panic(expected = "object 0 of a pool is given back, but it is not taken")]
    fn giving_back_twice_is_noticed() {
        let books = books();
        let ledger = books.ledger(shard(&books));
        let pool: Pool<Object> = Pool::reserve(System::Linux, KIND, 10, NAME, ledger).unwrap();
        pool.give(pool.take(ledger).unwrap().number);
        pool.give(0);
    }

    #[test]
    fn pointers_and_numbers_correspond() {
        let books = books();
        let ledger = books.ledger(shard(&books));
        let pool: Pool<Object> = Pool::reserve(System::Linux, KIND, 1000, NAME, ledger).unwrap();
        for number in 0..1000 {
            assert_eq!(pool.take(ledger), Ok(Taken { number, fresh: true }));
            let object = Address::of(pool.pointer(number));
            assert_eq!(Address::of(pool.get(number).unwrap()), object);
            assert_eq!(pool.number_of(object), Some(number));
            assert_eq!(pool.number_of(Address(object.0 + 8)), None);
        }
        assert_eq!(pool.take(ledger), Err(SystemError::NO_MEMORY));
        assert_eq!(pool.number_of(Address::of(pool.pointer(0).wrapping_sub(1))), None);
        // SAFETY: the test's own, and done with.
        unsafe { pool.destroy() };
    }

    #[test]
    fn threads_never_share_an_object() {
        let books = books();
        let ledger = books.ledger(shard(&books));
        let pool: Pool<Object> = Pool::reserve(System::Linux, KIND, 500, NAME, ledger).unwrap();
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let ledger = books.ledger(shard(&books));
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let mine: Vec<u32> = (0..20).map(|_| pool.take(ledger).unwrap().number).collect();
                        for &number in &mine {
                            let word = &pool.get(number).unwrap()[7];
                            assert_eq!(word.swap(thread, Ordering::Relaxed), 0, "two have object {number}");
                        }
                        for number in mine {
                            pool.get(number).unwrap()[7].store(0, Ordering::Relaxed);
                            pool.give(number);
                        }
                    }
                });
            }
        });
        assert_eq!((pool.taken(), pool.check()), (0, Ok(())));
        assert!(pool.fresh() <= 80);
        // SAFETY: the test's own, and done with.
        unsafe { pool.destroy() };
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The slow twin is a map of taken numbers, with a stack of free ones. `None` takes, `Some` gives back.
        #[test]
        fn it_does_what_the_twin_does(
            steps in proptest::collection::vec((proptest::option::of(any::<u16>()), 0u8..10), 1..200),
        ) {
            const CAPACITY: usize = 60;
            let (simulated, system) = simulated();
            let books = books();
            let ledger = books.ledger(shard(&books));
            let pool: Pool<Object> = Pool::reserve(system, KIND, CAPACITY, NAME, ledger).unwrap();
            let (mut taken, mut free, mut fresh) = (BTreeMap::new(), Vec::<(u32, u64)>::new(), 0);
            for (step, (give, refuse)) in (1u64..).zip(steps) {
                if let Some(which) = give {
                    let Some(&number) = taken.keys().nth(which as usize % taken.len().max(1)) else { continue };
                    pool.give(number);
                    free.push((number, taken.remove(&number).unwrap()));
                } else {
                    if refuse < 2 {
                        simulated.refuse(refuse as usize, 1);
                    }
                    let (calls, before) = (simulated.refusals(), fixed_balances(&books));
                    let got = pool.take(ledger);
                    let refused = simulated.refusals() > calls;
                    simulated.refuse_nothing();
                    let (expected, holds) = match free.last() {
                        Some(&(number, holds)) => (Ok(Taken { number, fresh: false }), holds),
                        None if refused || fresh as usize == CAPACITY => (Err(SystemError::NO_MEMORY), 0),
                        None => (Ok(Taken { number: fresh, fresh: true }), 0),
                    };
                    prop_assert_eq!(got, expected);
                    let Ok(Taken { number, fresh: first }) = got else {
                        prop_assert_eq!(fixed_balances(&books), before);
                        continue;
                    };
                    match first {
                        true => fresh += 1,
                        false => drop(free.pop()),
                    }
                    let word = &pool.get(number).unwrap()[49];
                    prop_assert_eq!(word.swap(step, Ordering::Relaxed), holds, "it holds what it held");
                    taken.insert(number, step);
                }
                prop_assert_eq!(pool.check(), Ok(()));
                prop_assert_eq!((pool.taken(), pool.fresh()), (taken.len(), fresh));
                prop_assert_eq!(balance(&books, Account::Metadata(KIND)), pool.committed_bytes().0 as i64);
            }
            // SAFETY: the test's own, and done with.
            unsafe { pool.destroy() };
        }
    }
}
