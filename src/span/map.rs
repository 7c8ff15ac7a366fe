//! From addresses to spans.
//!
//! One entry of four bytes for every page of the region: the number of the span that holds it. A look-up is a
//! shift and a load. Entries of freed pages keep what they had; [`record`](super::record) says why that does no
//! harm. (Go: `heapArena.spans`.)
//!
//! # Safety
//! Entries are read without a check only below one that is known to be there.
//!
//! # Safety
//! The entries are lent out for hot paths as a pointer; nobody follows it once the heap goes.

use super::record::SpanId;
use crate::base::{PageId, Pages};
use crate::os::{System, SystemError, Table};
use crate::stats::{Ledger, MetadataKind};
// The machine's own, for the model checker as well: its atomics cannot lie in a table, where all zeros is a value. It
// looks at publication with a map of its own.
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// The map.
pub struct SpanMap {
    entries: Table<AtomicU32>,
}

impl SpanMap {
    /// A map for a region of `pages`, none of them grown yet.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn reserve(system: System, pages: Pages, ledger: Ledger<'_>) -> Result<SpanMap, SystemError> {
        let entries = Table::reserve(system, MetadataKind::SpanMap, pages.0, c"spanheap: span map", ledger)?;
        Ok(SpanMap { entries })
    }

    /// Makes entries for pages that the heap grows by.
    ///
    /// # Errors
    /// When the system refuses the memory; nothing has changed then.
    pub fn cover(&self, page: PageId, pages: Pages, ledger: Ledger<'_>) -> Result<(), SystemError> {
        self.entries.ensure(page.0..page.0 + pages.0, ledger)
    }

    /// The span that held the page last, if any ever did.
    #[inline]
    pub fn get(&self, page: PageId) -> Option<SpanId> {
        SpanId(self.entries.get(page.0)?.load(Ordering::Acquire)).some()
    }

    /// Notes that a published span holds these pages.
    #[inline]
    pub(super) fn set(&self, page: PageId, pages: Pages, span: SpanId) {
        let end = page.0 + pages.0;
        assert!(self.entries.get(end - 1).is_some(), "pages up to {end} are not covered by the map");
        // One fence orders all entries after the span's state.
        fence(Ordering::Release);
        for page in page.0..end {
            // SAFETY: the heap grows from its beginning, and so does the map: what lies below a covered page
            // is covered.
            unsafe { self.entries.get_unchecked(page) }.store(span.0, Ordering::Relaxed);
        }
    }

    /// The entries, for the hot paths of rooms that have checked the page themselves.
    pub fn as_ptr(&self) -> *const AtomicU32 {
        self.entries.as_ptr()
    }

    /// Bytes committed for the map.
    pub fn committed(&self) -> usize {
        self.entries.committed_bytes().0
    }

    /// Where the memory behind it lies.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (crate::base::Address, crate::base::Bytes)> {
        self.entries.committed_ranges()
    }

    /// The addresses that are reserved for the map.
    pub fn reservation(&self) -> (crate::base::Address, crate::base::Bytes) {
        self.entries.reservation()
    }

    /// Unmaps the map.
    ///
    /// # Safety
    /// Nobody looks anything up any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.entries.destroy() }
    }
}
