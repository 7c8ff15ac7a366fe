//! What of the page heap stands where, for other processes that look at it.

use super::heap::PageHeap;
use crate::base::{Address, Bytes};
use crate::stats::MetadataKind;

impl PageHeap {
    /// Where the limit on committed bytes stands; all ones there are no limit.
    pub fn limit_address(&self) -> Address {
        Address::of(&self.limit)
    }

    /// Where three words stand that say what was given back: by the scavenger, at the limit, on request.
    pub fn given_address(&self) -> Address {
        Address::of(&self.given)
    }

    /// Visits what is reserved for the heap's tables: their kind, where it begins and how long it is.
    pub fn for_each_reservation(&self, mut visit: impl FnMut(MetadataKind, Address, Bytes)) {
        let (at, size) = self.map().reservation();
        visit(MetadataKind::SpanMap, at, size);
        let (at, size) = self.links().reservation();
        visit(MetadataKind::SpanRecords, at, size);
        self.pages.lock().allocator.for_each_reservation(visit);
    }
}
