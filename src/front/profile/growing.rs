//! A table that is not there before it is needed: a heap without a profile has none of a profile's.
//!
//! # Safety
//! A table is given back when nobody uses it any more, which the heap's owner promises.

use crate::base::{Address, Bytes};
use crate::os::{System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};
use core::ops::Range;

/// A table of the profile's, or the place for one.
pub(super) struct Growing<T>(Option<Table<T>>);

impl<T: Zeroed> Growing<T> {
    /// No table.
    pub(super) const fn new() -> Growing<T> {
        Growing(None)
    }

    /// Makes the table, with room for `capacity` elements, unless it is there.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    pub(super) fn open(
        &mut self,
        system: System,
        capacity: usize,
        ledger: Ledger<'_>,
    ) -> Result<(), SystemError> {
        if self.0.is_none() {
            let name = c"spanheap: profile";
            self.0 = Some(Table::reserve(system, MetadataKind::Profile, capacity, name, ledger)?);
        }
        Ok(())
    }

    /// Sees to it that there is memory for some elements. `None` where there is no table, the table has no room, or
    /// the system refused.
    pub(super) fn ensure(&self, range: Range<usize>, ledger: Ledger<'_>) -> Option<()> {
        let table = self.0.as_ref().filter(|table| range.end <= table.capacity())?;
        table.ensure(range, ledger).ok()
    }

    /// An element that has memory.
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        self.0.as_ref()?.get(index)
    }

    /// An element that has memory.
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.0.as_mut()?.get_mut(index)
    }

    /// Where an element is that has memory.
    pub(super) fn pointer(&mut self, index: usize) -> Option<*mut T> {
        self.get_mut(index).map(core::ptr::from_mut)
    }

    /// Bytes of the table that have memory.
    pub(super) fn committed(&self) -> Bytes {
        self.0.as_ref().map_or(Bytes::ZERO, Table::committed_bytes)
    }

    /// Where that memory is.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.0.iter().flat_map(Table::committed_ranges)
    }

    /// Gives the table back to the system.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(super) unsafe fn destroy(&self) {
        if let Some(table) = &self.0 {
            // SAFETY: the caller's promise.
            unsafe { table.destroy() }
        }
    }
}
