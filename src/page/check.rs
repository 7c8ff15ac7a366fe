//! The proof, by looking at everything, that the room's invariants hold.

use super::PageAllocator;
use super::chunk::{Bits, Chunk, WORDS};
use super::summary::Summary;
use crate::base::{CHUNK_PAGES, ChunkId, PageId, Pages};
use core::fmt;

/// An invariant that does not hold, and where. The numbers are those of the room's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageError {
    /// 1: a released page is not free.
    ReleasedInUse(ChunkId),
    /// 2: a chunk that the heap does not have has free pages.
    NotGrown(ChunkId),
    /// 3: an entry of the tree does not follow from what is below it.
    Summary {
        /// The entry's level, 0 for the root.
        level: usize,
        /// The first chunk that it covers.
        first: ChunkId,
    },
    /// 4: the count of free pages is not the number of set bits.
    FreeCount {
        /// The number of set bits.
        counted: Pages,
        /// The count.
        kept: Pages,
    },
    /// 4: the count of released pages is not the number of set bits.
    ReleasedCount {
        /// The number of set bits.
        counted: Pages,
        /// The count.
        kept: Pages,
    },
    /// 5: a page is free below the hint.
    BelowHint(PageId),
    /// 5: the hint is not in the heap.
    HintOutside(PageId),
    /// 6: a chunk has pages to give back and is not marked so.
    Unmarked(ChunkId),
}

impl PageError {
    /// The invariant's number in the room's list.
    pub fn number(&self) -> u8 {
        match self {
            PageError::ReleasedInUse(_) => 1,
            PageError::NotGrown(_) => 2,
            PageError::Summary { .. } => 3,
            PageError::FreeCount { .. } | PageError::ReleasedCount { .. } => 4,
            PageError::BelowHint(_) | PageError::HintOutside(_) => 5,
            PageError::Unmarked(_) => 6,
        }
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageError::ReleasedInUse(chunk) => write!(f, "{chunk:?}: released pages in use"),
            PageError::NotGrown(chunk) => write!(f, "{chunk:?} is not in the heap and has free pages"),
            PageError::Summary { level, first } => {
                write!(f, "summary of level {level} at {first:?} does not follow from what is below")
            }
            PageError::FreeCount { counted, kept } => write!(f, "{counted:?} free, the count says {kept:?}"),
            PageError::ReleasedCount { counted, kept } => {
                write!(f, "{counted:?} released, the count says {kept:?}")
            }
            PageError::BelowHint(page) => write!(f, "{page:?} is free below the search hint"),
            PageError::HintOutside(page) => write!(f, "the search hint, {page:?}, is not in the heap"),
            PageError::Unmarked(chunk) => write!(f, "{chunk:?} can be given back and is not marked so"),
        }
    }
}

impl core::error::Error for PageError {}

impl PageAllocator {
    /// Walks everything and proves the room's invariants.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), PageError> {
        let (mut free, mut released) = (Pages(0), Pages(0));
        for id in self.chunks.span().map(ChunkId) {
            let Some(chunk) = self.chunks.get(id) else { continue };
            self.check_chunk(id, chunk)?;
            free += Pages(chunk.free.count());
            released += Pages(chunk.released.count());
        }
        if free != self.free {
            return Err(PageError::FreeCount { counted: free, kept: self.free });
        }
        if released != self.released {
            return Err(PageError::ReleasedCount { counted: released, kept: self.released });
        }
        self.check_hint()?;
        let leaf = |id| self.chunks.get(id).map_or(Summary::NONE, |chunk| summary_by_page(&chunk.free));
        match self.tree.first_wrong(self.chunks.span(), leaf) {
            Some(wrong) => Err(PageError::Summary { level: wrong.level, first: wrong.first }),
            None => Ok(()),
        }
    }

    fn check_chunk(&self, id: ChunkId, chunk: &Chunk) -> Result<(), PageError> {
        if (0..WORDS).any(|word| chunk.released.0[word] & !chunk.free.0[word] != 0) {
            return Err(PageError::ReleasedInUse(id));
        }
        if !self.chunks.is_grown(id) && chunk.free != Bits::NONE {
            return Err(PageError::NotGrown(id));
        }
        let candidate = self.grain.candidate(chunk, CHUNK_PAGES - 1, 1);
        if candidate.is_some() && !self.chunks.is_releasable(id) {
            return Err(PageError::Unmarked(id));
        }
        Ok(())
    }

    fn check_hint(&self) -> Result<(), PageError> {
        if let Some(hint) = self.hint
            && !self.chunks.is_grown(hint.chunk())
        {
            return Err(PageError::HintOutside(hint));
        }
        let lowest = self.chunks.grown().find_map(|id| {
            let bit = self.chunks.at(id).free.first(0)?;
            Some(PageId(id.first_page().0 + bit))
        });
        match lowest {
            Some(lowest) if self.hint.is_none_or(|hint| lowest < hint) => Err(PageError::BelowHint(lowest)),
            _ => Ok(()),
        }
    }
}

/// A chunk's summary, taken page by page: [`Bits::summary`] is what is checked with it.
pub(super) fn summary_by_page(bits: &Bits) -> Summary {
    let (mut start, mut longest, mut run) = (0, 0, 0);
    for page in 0..CHUNK_PAGES {
        run = if bits.has(page) { run + 1 } else { 0 };
        longest = run.max(longest);
        if run == page + 1 {
            start = run;
        }
    }
    Summary::new(start, longest, run)
}
