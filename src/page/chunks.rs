//! All chunks of the region: their bitmaps, and two marks for each, in sparse tables.
//!
//! The mark *grown* says that the heap has the chunk. The mark *releasable* says that the chunk may have free
//! pages that the system does not have: it is set when such pages come, and cleared when a search finds none.
//! So giving memory back does not search what was given back long ago. (Go: `pageAlloc.inUse`, `scavengeIndex`.)
//!
//! # Safety
//! The marks are plain words, for which zero is a value. Giving the tables back is left to whoever takes the heap
//! down.

use super::chunk::Chunk;
use crate::base::{Address, Bytes, ChunkId};
use crate::os::{System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};
use core::ops::Range;

/// Marks of 64 neighbouring chunks.
#[derive(Clone, Copy)]
#[repr(C)]
struct Marks {
    grown: u64,
    releasable: u64,
}

// SAFETY: plain words; all zero is chunks that the heap does not have.
unsafe impl Zeroed for Marks {}

/// The bitmaps and marks of all chunks.
pub(super) struct Chunks {
    bitmaps: Table<Chunk>,
    marks: Table<Marks>,
    /// Every grown chunk is in here; not every one in here is grown.
    span: Range<usize>,
}

impl Chunks {
    /// Room for `capacity` chunks, none of them grown.
    pub(super) fn new(system: System, capacity: usize, ledger: Ledger) -> Result<Chunks, SystemError> {
        let kind = MetadataKind::PageBitmaps;
        let bitmaps: Table<Chunk> =
            Table::reserve(system, kind, capacity, c"spanheap: page bitmaps", ledger)?;
        match Table::reserve(system, kind, capacity.div_ceil(64), c"spanheap: chunk marks", ledger) {
            Ok(marks) => Ok(Chunks { bitmaps, marks, span: 0..0 }),
            Err(error) => {
                // SAFETY: nobody has seen the table yet.
                unsafe { bitmaps.destroy() };
                Err(error)
            }
        }
    }

    /// Where the memory behind it lies.
    pub(super) fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.bitmaps.committed_ranges().chain(self.marks.committed_ranges())
    }

    /// Gives the tables back to the system.
    ///
    /// # Safety
    /// Called once, and the chunks are not used afterwards.
    pub(super) unsafe fn destroy(&self) {
        // SAFETY: handed on, for both.
        unsafe {
            self.bitmaps.destroy();
            self.marks.destroy();
        }
    }

    /// Chunks that there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.bitmaps.capacity()
    }

    /// From the lowest grown chunk to the highest; empty when there is none.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Makes room for the bitmaps and marks of `chunks`. On an error everything is as it was.
    pub(super) fn ensure(&mut self, chunks: Range<usize>, ledger: Ledger) -> Result<(), SystemError> {
        self.marks.ensure(chunks.start / 64..(chunks.end - 1) / 64 + 1, ledger)?;
        self.bitmaps.ensure(chunks, ledger)
    }

    /// Opens a chunk whose room is there.
    pub(super) fn open(&mut self, chunk: ChunkId) {
        let marks = self.marks.get_mut(chunk.0 / 64).expect("room was made for the chunk");
        marks.grown |= 1 << (chunk.0 % 64);
        *self.at_mut(chunk) = Chunk::FRESH;
        self.span = if self.span.is_empty() {
            chunk.0..chunk.0 + 1
        } else {
            self.span.start.min(chunk.0)..self.span.end.max(chunk.0 + 1)
        };
    }

    /// Whether the heap has the chunk.
    pub(super) fn is_grown(&self, chunk: ChunkId) -> bool {
        self.marks.get(chunk.0 / 64).is_some_and(|marks| marks.grown >> (chunk.0 % 64) & 1 != 0)
    }

    /// The bitmaps of a chunk, if any near it is grown.
    #[inline]
    pub(super) fn get(&self, chunk: ChunkId) -> Option<&Chunk> {
        self.bitmaps.get(chunk.0)
    }

    /// The bitmaps of a grown chunk.
    #[inline]
    pub(super) fn at(&self, chunk: ChunkId) -> &Chunk {
        self.bitmaps.get(chunk.0).expect("grown chunks have bitmaps")
    }

    /// The bitmaps of a grown chunk.
    #[inline]
    pub(super) fn at_mut(&mut self, chunk: ChunkId) -> &mut Chunk {
        self.bitmaps.get_mut(chunk.0).expect("grown chunks have bitmaps")
    }

    /// Sets the mark *releasable*.
    ///
    /// # Panics
    /// When the heap does not have the chunk.
    #[inline]
    pub(super) fn mark_releasable(&mut self, chunk: ChunkId) {
        let bit = 1 << (chunk.0 % 64);
        match self.marks.get_mut(chunk.0 / 64) {
            Some(marks) if marks.grown & bit != 0 => marks.releasable |= bit,
            _ => panic!("pages of {chunk:?} are freed, which the heap does not have"),
        }
    }

    /// Clears the mark *releasable* of a grown chunk.
    pub(super) fn clear_releasable(&mut self, chunk: ChunkId) {
        if let Some(marks) = self.marks.get_mut(chunk.0 / 64) {
            marks.releasable &= !(1 << (chunk.0 % 64));
        }
    }

    /// Whether the mark *releasable* is set.
    pub(super) fn is_releasable(&self, chunk: ChunkId) -> bool {
        self.marks.get(chunk.0 / 64).is_some_and(|marks| marks.releasable >> (chunk.0 % 64) & 1 != 0)
    }

    /// The highest chunk marked *releasable*, `from` or below.
    pub(super) fn last_releasable(&self, from: ChunkId) -> Option<ChunkId> {
        let from = from.0.min(self.span.end.checked_sub(1)?);
        let mut below = u64::MAX >> (63 - from % 64);
        for word in (self.span.start / 64..=from / 64).rev() {
            let set = self.marks.get(word).map_or(0, |marks| marks.releasable & below);
            if set != 0 {
                return Some(ChunkId(word * 64 + set.ilog2() as usize));
            }
            below = u64::MAX;
        }
        None
    }

    /// The lowest grown chunk, `from` or above.
    pub(super) fn next_grown(&self, from: ChunkId) -> Option<ChunkId> {
        let from = from.0.max(self.span.start);
        let mut above = u64::MAX << (from % 64);
        for word in from / 64..self.span.end.div_ceil(64) {
            let set = self.marks.get(word).map_or(0, |marks| marks.grown & above);
            if set != 0 {
                return Some(ChunkId(word * 64 + set.trailing_zeros() as usize));
            }
            above = u64::MAX;
        }
        None
    }

    /// All grown chunks, from low to high.
    pub(super) fn grown(&self) -> impl Iterator<Item = ChunkId> {
        core::iter::successors(self.next_grown(ChunkId(0)), |last| self.next_grown(ChunkId(last.0 + 1)))
    }
}
