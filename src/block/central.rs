//! What the owners share: their inboxes, by owner's number.
//!
//! # Safety
//! Inboxes are elements of a table: zeros are an empty one, and they never move.

use super::remote::Inbox;
use crate::os::{System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};

// SAFETY: zeros are the empty inbox of an owner that has a thread.
unsafe impl Zeroed for Inbox {}

/// Every owner's inbox.
pub struct BlockCentral {
    inboxes: Table<Inbox>,
}

impl BlockCentral {
    /// Inboxes for owners below `owners`.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn reserve(system: System, owners: usize, ledger: Ledger<'_>) -> Result<BlockCentral, SystemError> {
        let kind = MetadataKind::Mutators;
        let inboxes = Table::reserve(system, kind, owners, c"spanheap: inboxes", ledger)?;
        Ok(BlockCentral { inboxes })
    }

    /// Makes the inbox of a new owner.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub fn add_owner(&self, owner: u32, ledger: Ledger<'_>) -> Result<(), SystemError> {
        self.inboxes.ensure(owner as usize..owner as usize + 1, ledger)
    }

    /// The inbox of an owner that was added.
    #[inline]
    pub fn inbox(&self, owner: u32) -> &Inbox {
        self.inboxes.get(owner as usize).expect("block spans have known owners")
    }

    /// Bytes committed for the inboxes.
    pub fn committed(&self) -> crate::base::Bytes {
        self.inboxes.committed_bytes()
    }

    /// Where the memory behind the inboxes lies.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (crate::base::Address, crate::base::Bytes)> {
        self.inboxes.committed_ranges()
    }

    /// The addresses that are reserved for the inboxes.
    pub fn reservation(&self) -> (crate::base::Address, crate::base::Bytes) {
        self.inboxes.reservation()
    }

    /// Unmaps the inboxes.
    ///
    /// # Safety
    /// Nobody frees a block any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.inboxes.destroy() }
    }
}
