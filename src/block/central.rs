//! What the owners share: the remote lists, by owner's number.
//!
//! # Safety
//! Blocks in a remote list belong to the list: a pusher gives up a block that it had the right to free, and
//! whoever takes the list has the right to put its blocks back.

use super::body::FreeBlock;
use crate::base::sync::{AtomicPtr, AtomicU32, Ordering};
use crate::os::{System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};
use core::ptr;

/// Blocks of one owner's spans that others have freed.
///
/// A stack without a single pop: it is taken whole, so no ABA can happen. A thread that stops between writing
/// the link and the exchange holds up nobody, and a `fork` at that point loses one block of the child.
#[repr(C, align(64))]
pub struct RemoteList {
    head: AtomicPtr<FreeBlock>,
    /// Whether the owner is without a thread, so that nobody will drain the list unasked.
    parked: AtomicU32,
}

// SAFETY: zeros are the empty list of an owner that has a thread.
unsafe impl Zeroed for RemoteList {}

impl RemoteList {
    /// The empty list.
    pub fn new() -> RemoteList {
        RemoteList { head: AtomicPtr::new(ptr::null_mut()), parked: AtomicU32::new(0) }
    }

    /// Gives a block to the owner. Returns whether the owner is parked.
    ///
    /// # Safety
    /// The caller has the right to free the block, and gives it up.
    #[inline]
    pub unsafe fn push(&self, block: *mut FreeBlock) -> bool {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the block is this thread's until the exchange succeeds.
            unsafe { (*block).next = head };
            match self.head.compare_exchange_weak(head, block, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return self.parked.load(Ordering::Relaxed) != 0,
                Err(now) => head = now,
            }
        }
    }

    /// Whether there was nothing a moment ago.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes all blocks, linked by `next`.
    #[inline]
    pub fn take(&self) -> *mut FreeBlock {
        if self.is_empty() {
            return ptr::null_mut();
        }
        self.head.swap(ptr::null_mut(), Ordering::Acquire)
    }

    /// Says whether the owner has a thread.
    pub fn set_parked(&self, parked: bool) {
        self.parked.store(parked.into(), Ordering::Release);
    }
}

impl Default for RemoteList {
    fn default() -> RemoteList {
        RemoteList::new()
    }
}

/// Every owner's remote list.
pub struct BlockCentral {
    lists: Table<RemoteList>,
}

impl BlockCentral {
    /// Lists for owners below `owners`.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn reserve(system: System, owners: usize, ledger: Ledger<'_>) -> Result<BlockCentral, SystemError> {
        let kind = MetadataKind::Mutators;
        let lists = Table::reserve(system, kind, owners, c"spanheap: remote lists", ledger)?;
        Ok(BlockCentral { lists })
    }

    /// Makes the list of a new owner.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub fn add_owner(&self, owner: u32, ledger: Ledger<'_>) -> Result<(), SystemError> {
        self.lists.ensure(owner as usize..owner as usize + 1, ledger)
    }

    /// The list of an owner that was added.
    #[inline]
    pub fn list(&self, owner: u32) -> &RemoteList {
        self.lists.get(owner as usize).expect("block spans have known owners")
    }

    /// Where the memory behind it lies.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (crate::base::Address, crate::base::Bytes)> {
        self.lists.committed_ranges()
    }

    /// Unmaps the lists.
    ///
    /// # Safety
    /// Nobody frees a block any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.lists.destroy() }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    fn block() -> *mut FreeBlock {
        Box::into_raw(Box::new(FreeBlock { next: ptr::null_mut(), key: 0 }))
    }

    fn drain(mut at: *mut FreeBlock) -> usize {
        let mut count = 0;
        while !at.is_null() {
            // SAFETY: taken from the list, so ours; made by `block`.
            at = unsafe { Box::from_raw(at) }.next;
            count += 1;
        }
        count
    }

    #[test]
    fn loom_remote_frees_all_arrive() {
        loom::model(|| {
            let list = Arc::new(RemoteList::new());
            let pushers: Vec<_> = (0..2)
                .map(|_| {
                    let list = list.clone();
                    loom::thread::spawn(move || {
                        // SAFETY: a block of our own.
                        unsafe { list.push(block()) };
                    })
                })
                .collect();
            let early = drain(list.take());
            pushers.into_iter().for_each(|p| p.join().unwrap());
            assert_eq!(early + drain(list.take()), 2);
        });
    }
}
