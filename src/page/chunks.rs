//! All chunks of the region: their bitmaps, and two marks for each, in sparse tables.
//!
//! The mark *grown* says that the heap has the chunk. The mark *releasable* says that the chunk may have free
//! pages that the system does not have: it is set when such pages come, and cleared when a search finds none.
//! So giving memory back does not search what was given back long ago. (Go: `pageAlloc.inUse`, `scavengeIndex`.)
//!
//! Beside that stands each chunk's *past*: how full it was when the present *generation* began. What has just come
//! free in a chunk that was full a moment ago will be wanted again; such a chunk is left alone until it has been less
//! than full for a whole generation, so that its huge pages stay whole. (Go: `scavChunkData`. There the chunk's word also
//! counts its pages in use and is read without the lock; here whoever searches holds the lock, and the bitmap says
//! how full a chunk is now.)
//!
//! # Safety
//! The marks are plain words, for which zero is a value. Giving the tables back is left to whoever takes the heap
//! down.

use super::chunk::Chunk;
use crate::base::{Address, Bytes, CHUNK_PAGES, ChunkId};
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

/// How full a chunk was.
#[derive(Clone, Copy)]
#[repr(C)]
struct Past {
    /// The generation in which the chunk last changed; generations begin with 1.
    generation: u32,
    /// Its pages in use before the first change of that generation.
    in_use: u32,
}

// SAFETY: plain words; all zero is a chunk that has not changed yet, and was empty.
unsafe impl Zeroed for Past {}

/// A chunk with so many pages in use is full, or as good as: 31 of 32.
pub(super) const FULL: usize = CHUNK_PAGES / 32 * 31;

/// The bitmaps, marks and pasts of all chunks.
pub(super) struct Chunks {
    bitmaps: Table<Chunk>,
    marks: Table<Marks>,
    pasts: Table<Past>,
    generation: u32,
    /// Every grown chunk is in here; not every one in here is grown.
    span: Range<usize>,
}

impl Chunks {
    /// Room for `capacity` chunks, none of them grown.
    pub(super) fn new(system: System, capacity: usize, ledger: Ledger) -> Result<Chunks, SystemError> {
        let kind = MetadataKind::PageBitmaps;
        let bitmaps: Table<Chunk> =
            Table::reserve(system, kind, capacity, c"spanheap: page bitmaps", ledger)?;
        let others = || -> Result<_, SystemError> {
            let marks =
                Table::reserve(system, kind, capacity.div_ceil(64), c"spanheap: chunk marks", ledger)?;
            match Table::reserve(system, kind, capacity, c"spanheap: chunk pasts", ledger) {
                Ok(pasts) => Ok((marks, pasts)),
                Err(error) => {
                    // SAFETY: nobody has seen the table yet.
                    unsafe { marks.destroy() };
                    Err(error)
                }
            }
        };
        match others() {
            Ok((marks, pasts)) => Ok(Chunks { bitmaps, marks, pasts, generation: 1, span: 0..0 }),
            Err(error) => {
                // SAFETY: nobody has seen the table yet.
                unsafe { bitmaps.destroy() };
                Err(error)
            }
        }
    }

    /// Where the memory behind it lies.
    pub(super) fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        let marks = self.marks.committed_ranges().chain(self.pasts.committed_ranges());
        self.bitmaps.committed_ranges().chain(marks)
    }

    /// The addresses that are reserved for it.
    pub(super) fn reservations(&self) -> [(Address, Bytes); 2] {
        [self.bitmaps.reservation(), self.marks.reservation()]
    }

    /// Gives the tables back to the system.
    ///
    /// # Safety
    /// Called once, and the chunks are not used afterwards.
    pub(super) unsafe fn destroy(&self) {
        // SAFETY: handed on, for each.
        unsafe {
            self.bitmaps.destroy();
            self.marks.destroy();
            self.pasts.destroy();
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

    /// Makes room for all that is kept of `chunks`. On an error everything is as it was.
    pub(super) fn ensure(&mut self, chunks: Range<usize>, ledger: Ledger) -> Result<(), SystemError> {
        self.marks.ensure(chunks.start / 64..(chunks.end - 1) / 64 + 1, ledger)?;
        self.pasts.ensure(chunks.clone(), ledger)?;
        self.bitmaps.ensure(chunks, ledger)
    }

    /// Opens a chunk whose room is there.
    pub(super) fn open(&mut self, chunk: ChunkId) {
        let marks = self.marks.get_mut(chunk.0 / 64).expect("room was made for the chunk");
        marks.grown |= 1 << (chunk.0 % 64);
        *self.bitmaps.get_mut(chunk.0).expect("room was made for the chunk") = Chunk::FRESH;
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

    /// The bitmaps of a grown chunk, which are about to change.
    #[inline]
    pub(super) fn at_mut(&mut self, chunk: ChunkId) -> &mut Chunk {
        let past = self.pasts.get_mut(chunk.0).expect("grown chunks have a past");
        let bitmaps = self.bitmaps.get_mut(chunk.0).expect("grown chunks have bitmaps");
        if past.generation != self.generation {
            *past = Past { generation: self.generation, in_use: (CHUNK_PAGES - bitmaps.free.count()) as u32 };
        }
        bitmaps
    }

    /// Begins the next generation.
    pub(super) fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1).max(1);
    }

    /// Whether a grown chunk is full, or was when the generation began.
    pub(super) fn is_dense(&self, chunk: ChunkId) -> bool {
        let now = CHUNK_PAGES - self.at(chunk).free.count();
        let was = self.pasts.get(chunk.0).filter(|past| past.generation == self.generation);
        now.max(was.map_or(0, |past| past.in_use as usize)) >= FULL
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
