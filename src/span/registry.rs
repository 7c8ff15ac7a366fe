//! The records of spans, by number.
//!
//! Records are taken from three places, the nearest first: a mutator's own cache, the set of dead records, and
//! the part of the table that was never used. Only the last needs a lock, and only one mutator in sixteen
//! takes it.
//!
//! # Safety
//! All-zero memory is a dead record, and memory of a record stays one (the record's first invariant).

use super::record::{Span, SpanId};
use super::set::{LinkOf, SpanSet};
use crate::base::sync::AtomicU32;
use crate::base::{Lock, Rank};
use crate::os::{System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};

/// Dead records that a mutator keeps at hand.
const AT_HAND: usize = 30;
/// Records that a mutator takes at once when it has none.
const BATCH: usize = 16;

// SAFETY: all-zero bytes are a dead record that lies in no set and no list.
unsafe impl Zeroed for Span {}

/// All records.
pub struct Registry {
    records: Table<Span>,
    dead: SpanSet,
    /// The lowest number that was never given out.
    fresh: Lock<u32>,
}

/// A mutator's dead records.
pub struct RecordCache {
    count: usize,
    records: [SpanId; AT_HAND],
}

impl LinkOf for Registry {
    fn link_of(&self, span: SpanId) -> &AtomicU32 {
        self.get(span).expect("a set links known spans").link()
    }
}

impl RecordCache {
    /// No records; equal to zeroed memory.
    pub const fn new() -> RecordCache {
        RecordCache { count: 0, records: [SpanId::NONE; AT_HAND] }
    }
}

impl RecordCache {
    /// The records at hand.
    pub(super) fn at_hand(&self) -> &[SpanId] {
        &self.records[..self.count]
    }
}

impl Default for RecordCache {
    fn default() -> RecordCache {
        RecordCache::new()
    }
}

impl Registry {
    /// A registry for at most `capacity` spans at once.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn reserve(system: System, capacity: usize, ledger: Ledger<'_>) -> Result<Registry, SystemError> {
        let kind = MetadataKind::SpanRecords;
        let records = Table::reserve(system, kind, capacity + 1, c"spanheap: span records", ledger)?;
        // Map entries of pages that never were in a span lead to record 0, which is there and always dead.
        // SAFETY: the table was made here, and nobody has seen it.
        records.ensure(0..1, ledger).inspect_err(|_| unsafe { records.destroy() })?;
        Ok(Registry { records, dead: SpanSet::new(), fresh: Lock::new(Rank::Metadata, 1) })
    }

    /// The record with this number, if there ever was one.
    #[inline]
    pub fn get(&self, span: SpanId) -> Option<&Span> {
        self.records.get(span.0 as usize)
    }

    /// The records, for the hot paths of rooms that have the number from the span map.
    pub fn as_ptr(&self) -> *const Span {
        self.records.as_ptr()
    }

    /// Takes a dead record.
    ///
    /// # Errors
    /// When the system refuses memory for more records.
    pub fn take(&self, local: &mut RecordCache, ledger: Ledger<'_>) -> Result<SpanId, SystemError> {
        if local.count == 0 {
            self.refill(local, ledger)?;
        }
        local.count -= 1;
        Ok(local.records[local.count])
    }

    /// Gives a dead record back.
    pub fn give(&self, local: &mut RecordCache, span: SpanId) {
        if local.count == AT_HAND {
            local.count -= BATCH;
            for &record in &local.records[local.count..] {
                self.dead.push(record, self);
            }
        }
        local.records[local.count] = span;
        local.count += 1;
    }

    #[cold]
    fn refill(&self, local: &mut RecordCache, ledger: Ledger<'_>) -> Result<(), SystemError> {
        while local.count < BATCH
            && let Some(record) = self.dead.pop(self)
        {
            local.records[local.count] = record;
            local.count += 1;
        }
        if local.count > 0 {
            return Ok(());
        }
        let mut fresh = self.fresh.lock();
        let from = *fresh as usize;
        let to = (from + BATCH).min(self.records.capacity());
        if from == to {
            return Err(SystemError::NO_MEMORY);
        }
        self.records.ensure(from..to, ledger)?;
        *fresh = to as u32;
        for number in (from..to).rev() {
            local.records[local.count] = SpanId(number as u32);
            local.count += 1;
        }
        Ok(())
    }

    /// Every span in use. Spans that are allocated or freed meanwhile may or may not be among them.
    pub fn in_use(&self) -> impl Iterator<Item = (SpanId, &Span)> {
        (1..u32::MAX)
            .map_while(|number| self.get(SpanId(number)).map(|span| (SpanId(number), span)))
            .filter(|(_, span)| span.is_in_use())
    }

    /// The dead records in the set, while nobody changes it.
    pub(super) fn dead(&self) -> impl Iterator<Item = SpanId> {
        self.dead.iter(self)
    }

    /// Bytes committed for records.
    pub fn committed(&self) -> usize {
        self.records.committed_bytes().0
    }

    /// The lock of the never used part, for `fork`.
    pub fn fresh_lock(&self) -> &Lock<u32> {
        &self.fresh
    }

    /// Where the memory behind it lies.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (crate::base::Address, crate::base::Bytes)> {
        self.records.committed_ranges()
    }

    /// The addresses that are reserved for records.
    pub fn reservation(&self) -> (crate::base::Address, crate::base::Bytes) {
        self.records.reservation()
    }

    /// Unmaps all records.
    ///
    /// # Safety
    /// Nobody uses a record any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.records.destroy() }
    }
}
