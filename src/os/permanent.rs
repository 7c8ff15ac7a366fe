//! Permanent memory: bytes that are never given back before the heap goes.
//!
//! A mark that only moves up, over a [`Table`] of bytes. Memory comes in steps of 64 KiB, the first at creation, so
//! that what the heap needs to exist is there or its creation fails.
//!
//! ```text
//!    │ handed out │ gap │ handed out │   ready   │        reserved          │
//!    └────────────┴─────┴────────────┼───────────┼──────────────────────────┘
//!                                   used     committed
//! ```
//!
//! 1. Pieces do not overlap; each is aligned as it was asked for, reads as zero, and stays where it is.
//! 2. `used` ≤ `committed` ≤ capacity; what is committed stands in the books as metadata of one kind.
//!
//! It does not know what it holds, and there is no way to give a piece back: things that come and go belong in
//! a [`Pool`](super::Pool). (Go: `persistentalloc`.)
//!
//! # Safety
//! Nothing is dereferenced here. Pieces are pointers, and it is their taker who makes something of them; `destroy`
//! and the calls around `fork` hand their contracts on.

use super::system::{System, SystemError};
use super::table::Table;
use crate::base::{Address, Bytes, Lock, Rank};
use crate::stats::{Ledger, MetadataKind};
use core::ffi::CStr;
use core::ptr::NonNull;

/// What permanent memory grows by.
pub const STEP: Bytes = Bytes::kib(64);

/// Memory that is handed out once. See the [file's head](self).
pub struct Permanent {
    bytes: Table<u8>,
    marks: Lock<Marks>,
}

struct Marks {
    /// Bytes from the start that are handed out, gaps included.
    used: usize,
    /// Bytes from the start that are known to be committed.
    committed: usize,
}

impl Permanent {
    /// Reserves `capacity` bytes and commits the first step.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    pub fn reserve(
        system: System,
        kind: MetadataKind,
        capacity: Bytes,
        name: &'static CStr,
        ledger: Ledger<'_>,
    ) -> Result<Permanent, SystemError> {
        let bytes = Table::with_first(system, kind, capacity.0, STEP, name, ledger)?;
        let committed = bytes.first_elements();
        Ok(Permanent { bytes, marks: Lock::new(Rank::Metadata, Marks { used: 0, committed }) })
    }

    /// Hands out `size` bytes at a multiple of `align`, a power of two. They are zero.
    ///
    /// # Errors
    /// The system refused, or the capacity is used up; nothing has changed.
    pub fn allocate(
        &self,
        size: Bytes,
        align: usize,
        ledger: Ledger<'_>,
    ) -> Result<NonNull<u8>, SystemError> {
        debug_assert!(align.is_power_of_two(), "alignment {align}");
        let base = self.bytes.as_ptr();
        let mut marks = self.marks.lock();
        let start = (base.addr() + marks.used).next_multiple_of(align) - base.addr();
        let end = start.checked_add(size.0).filter(|&end| end <= self.bytes.capacity());
        let end = end.ok_or(SystemError::NO_MEMORY)?;
        if end > marks.committed {
            let step = end.next_multiple_of(STEP.0).min(self.bytes.capacity());
            self.bytes.ensure(marks.committed..step, ledger)?;
            marks.committed = step;
        }
        marks.used = end;
        NonNull::new(base.wrapping_add(start)).ok_or(SystemError::NO_MEMORY)
    }

    /// Bytes handed out, gaps included.
    pub fn used(&self) -> Bytes {
        Bytes(self.marks.lock().used)
    }

    /// Bytes that are committed, and in the books as metadata.
    pub fn committed_bytes(&self) -> Bytes {
        self.bytes.committed_bytes()
    }

    /// The committed ranges, as addresses.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.bytes.committed_ranges()
    }

    /// Takes the lock, before a `fork`.
    pub fn acquire_for_fork(&self) {
        self.marks.acquire();
    }

    /// Gives the lock back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`Permanent::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise is the lock's contract.
        unsafe { self.marks.release() }
    }

    /// Gives everything back to the system. The books go with the heap; nothing is posted.
    ///
    /// # Safety
    /// Called once, and nobody looks at the memory any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: handed on.
        unsafe { self.bytes.destroy() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::testing::{balance, books, fixed_balances, shard, simulated};
    use super::*;
    use crate::stats::Account;
    use proptest::prelude::*;

    const KIND: MetadataKind = MetadataKind::Permanent;
    const NAME: &CStr = c"spanheap: test";

    #[test]
    fn the_first_step_is_there_from_the_start() {
        let (simulated, system) = simulated();
        let books = books();
        let ledger = books.ledger(shard(&books));
        let permanent = Permanent::reserve(system, KIND, Bytes::mib(1), NAME, ledger).unwrap();
        assert_eq!(balance(&books, Account::Metadata(KIND)), STEP.0 as i64);
        simulated.refuse(0, usize::MAX);
        let calls = simulated.calls();
        let piece = permanent.allocate(Bytes::kib(60), 64, ledger).unwrap();
        assert_eq!((piece.addr().get() % 64, simulated.calls()), (0, calls));
        assert_eq!(permanent.allocate(Bytes::kib(8), 64, ledger), Err(SystemError::NO_MEMORY));
        assert_eq!(permanent.used(), Bytes::kib(60));
        simulated.refuse_nothing();
        permanent.allocate(Bytes::kib(8), 64, ledger).unwrap();
        assert_eq!(balance(&books, Account::Metadata(KIND)), permanent.committed_bytes().0 as i64);
        // SAFETY: the test's own, and done with.
        unsafe { permanent.destroy() };
    }

    #[test]
    fn creation_can_be_refused_at_every_call() {
        let (simulated, system) = simulated();
        let books = books();
        let before = fixed_balances(&books);
        for nth in 0..3 {
            simulated.refuse(nth, 1);
            let ledger = books.ledger(shard(&books));
            let refused = Permanent::reserve(system, KIND, Bytes::mib(1), NAME, ledger);
            assert_eq!(refused.err(), Some(SystemError::NO_MEMORY), "call {nth}");
            assert_eq!(fixed_balances(&books), before);
            assert_eq!(simulated.reserved_bytes(), Bytes::ZERO);
        }
    }

    proptest! {
        /// The slow twin is the list of pieces. None overlaps another, all are aligned, zero and keep what is
        /// written to them; a refused piece costs nothing; the capacity is kept.
        #[test]
        fn pieces_are_apart(
            pieces in proptest::collection::vec((0usize..20_000, 0u32..13, 0u8..8), 1..60),
        ) {
            let (simulated, system) = simulated();
            let books = books();
            let ledger = books.ledger(shard(&books));
            let capacity = Bytes::kib(300);
            let permanent = Permanent::reserve(system, KIND, capacity, NAME, ledger).unwrap();
            let mut taken: Vec<(NonNull<u8>, usize, u8)> = Vec::new();
            for (i, (size, align, refuse)) in pieces.into_iter().enumerate() {
                let (align, before) = (1 << align, permanent.used());
                if refuse < 2 {
                    simulated.refuse(refuse as usize, 1);
                }
                let piece = permanent.allocate(Bytes(size), align, ledger);
                simulated.refuse_nothing();
                prop_assert_eq!(balance(&books, Account::Metadata(KIND)), permanent.committed_bytes().0 as i64);
                let Ok(piece) = piece else {
                    let full = before.0 + size + align > capacity.0;
                    prop_assert!(full || refuse < 2, "no reason to refuse {size} after {before:?}");
                    prop_assert_eq!(permanent.used(), before);
                    continue;
                };
                let start = piece.addr().get();
                prop_assert_eq!(start % align, 0);
                for &(other, length, _) in &taken {
                    let other = other.addr().get();
                    prop_assert!(start + size <= other || other + length <= start);
                }
                // SAFETY: the piece is this test's.
                let bytes = unsafe { core::slice::from_raw_parts_mut(piece.as_ptr(), size) };
                prop_assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(i as u8);
                taken.push((piece, size, i as u8));
            }
            prop_assert!(permanent.used() <= capacity);
            for (piece, size, byte) in taken {
                // SAFETY: the piece is still this test's.
                let bytes = unsafe { core::slice::from_raw_parts(piece.as_ptr(), size) };
                prop_assert!(bytes.iter().all(|&b| b == byte));
            }
            // SAFETY: the test's own, and done with.
            unsafe { permanent.destroy() };
        }
    }
}
