//! The tree of summaries: where in a large heap a run of free pages is, without looking at every chunk.
//!
//! ```text
//!   level 0 (root)   every entry covers 4096 chunks, 16 GiB; as many entries as the capacity needs
//!   level 1                             512 chunks, 2 GiB
//!   level 2                              64 chunks, 256 MiB
//!   level 3                               8 chunks, 32 MiB
//!   level 4 (leaf)                        1 chunk, 4 MiB
//! ```
//!
//! Eight neighbours make a *block*, one cache line; an entry above the leaves is the merge of the block below it.
//! All levels lie behind each other in one sparse table, root first. The root is committed from the beginning,
//! a block of another level when the heap grows into it; blocks are committed whole, so an entry with a free
//! page always has its block below it, and a merge never reads beyond what exists. (Go: `pageAlloc.summary`.)
//!
//! # Safety
//! Blocks are plain words, for which zero is a value. Giving the table back is left to whoever takes the heap down.

use super::summary::Summary;
use crate::base::{CHUNK_PAGES, ChunkId, PageId, Pages};
use crate::os::{System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};
use core::ops::Range;

/// Levels, root and leaves included.
pub(super) const LEVELS: usize = 5;
/// The level whose entries are chunks.
const LEAF: usize = LEVELS - 1;
/// Entries that an entry of the next higher level covers.
pub(super) const FAN_OUT: usize = 8;

/// Neighbouring entries of one level.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Block([Summary; FAN_OUT]);

// SAFETY: plain words; all zero is a block without a free page.
unsafe impl Zeroed for Block {}

/// The tree. Its leaves are chunks.
pub(super) struct Tree {
    blocks: Table<Block>,
    /// The first block of each level.
    first_block: [usize; LEVELS],
    /// One past the last entry of the root that has a grown chunk.
    root_end: usize,
}

/// Where the lowest run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It begins with this page.
    At(PageId),
    /// It lies inside this chunk.
    Inside(ChunkId),
}

/// Chunks under an entry.
const fn chunks_under(level: usize) -> usize {
    FAN_OUT.pow((LEAF - level) as u32)
}

/// Pages under an entry.
const fn pages_under(level: usize) -> usize {
    chunks_under(level) * CHUNK_PAGES
}

impl Tree {
    /// An empty tree over `chunks` chunks. Commits the root.
    pub(super) fn new(system: System, chunks: usize, ledger: Ledger) -> Result<Tree, SystemError> {
        let root_blocks = chunks.div_ceil(chunks_under(0)).div_ceil(FAN_OUT);
        let mut first_block = [0; LEVELS];
        let mut blocks = root_blocks;
        for (level, first) in first_block.iter_mut().enumerate().skip(1) {
            *first = blocks;
            blocks += root_blocks * FAN_OUT.pow(level as u32);
        }
        let kind = MetadataKind::PageSummaries;
        let table = Table::reserve(system, kind, blocks, c"spanheap: page summaries", ledger)?;
        let tree = Tree { blocks: table, first_block, root_end: 0 };
        if let Err(error) = tree.blocks.ensure(0..root_blocks, ledger) {
            // SAFETY: nobody has seen the tree yet.
            unsafe { tree.destroy() };
            return Err(error);
        }
        Ok(tree)
    }

    /// Gives the table back to the system.
    ///
    /// # Safety
    /// Called once, and the tree is not used afterwards.
    pub(super) unsafe fn destroy(&self) {
        // SAFETY: handed on.
        unsafe { self.blocks.destroy() }
    }

    /// Makes room for the summaries of `chunks`. On an error the tree is as it was.
    pub(super) fn ensure(&mut self, chunks: Range<usize>, ledger: Ledger) -> Result<(), SystemError> {
        for level in 1..LEVELS {
            let block = |chunk: usize| self.first_block[level] + chunk / chunks_under(level) / FAN_OUT;
            self.blocks.ensure(block(chunks.start)..block(chunks.end - 1) + 1, ledger)?;
        }
        self.root_end = self.root_end.max((chunks.end - 1) / chunks_under(0) + 1);
        Ok(())
    }

    /// The block that holds entry `index` of a level; `None` where the heap never grew near.
    #[inline]
    fn block(&self, level: usize, index: usize) -> Option<&[Summary; FAN_OUT]> {
        self.blocks.get(self.first_block[level] + index / FAN_OUT).map(|block| &block.0)
    }

    /// The entry `index` of a level, which has grown chunks in its block.
    #[inline]
    fn at(&self, level: usize, index: usize) -> Summary {
        self.block(level, index).expect("blocks with grown chunks are committed")[index % FAN_OUT]
    }

    /// Writes an entry; says whether it changed.
    #[inline]
    fn set(&mut self, level: usize, index: usize, summary: Summary) -> bool {
        let block = self.blocks.get_mut(self.first_block[level] + index / FAN_OUT);
        let entry = &mut block.expect("blocks with grown chunks are committed").0[index % FAN_OUT];
        let changed = *entry != summary;
        *entry = summary;
        changed
    }

    /// A grown chunk's summary.
    #[inline]
    pub(super) fn leaf(&self, chunk: ChunkId) -> Summary {
        self.at(LEAF, chunk.0)
    }

    /// Writes a grown chunk's summary; says whether it changed. If so, [`Tree::update`] must follow.
    #[inline]
    pub(super) fn set_leaf(&mut self, chunk: ChunkId, summary: Summary) -> bool {
        self.set(LEAF, chunk.0, summary)
    }

    /// Carries changes of the leaves `first` to `last`, all grown, up to the root.
    #[inline]
    pub(super) fn update(&mut self, first: ChunkId, last: ChunkId) {
        let (mut first, mut last) = (first.0, last.0);
        for level in (0..LEAF).rev() {
            first /= FAN_OUT;
            last /= FAN_OUT;
            let mut changed = false;
            for index in first..=last {
                let below = self.block(level + 1, index * FAN_OUT).expect("grown chunks have blocks");
                let merged = Summary::merge(below, pages_under(level + 1));
                changed |= self.set(level, index, merged);
            }
            // What is further up follows from this level alone.
            if !changed {
                return;
            }
        }
    }

    /// The lowest run of `pages` free pages that begins above `after`, or in the last `run` pages of that chunk,
    /// which are free. `after` is grown.
    ///
    /// The walk goes along a block, up where the block ends, and down where an entry promises a run inside.
    #[inline]
    pub(super) fn find(&self, after: ChunkId, mut run: usize, pages: Pages) -> Option<Found> {
        let (mut level, mut index) = Tree::up(LEAF, after.0 + 1);
        loop {
            let end = if level == 0 { self.root_end } else { (index | (FAN_OUT - 1)) + 1 };
            let inside = loop {
                if index >= end {
                    break false;
                }
                let summary = self.at(level, index);
                let start = summary.start();
                if run + start >= pages.0 {
                    return Some(Found::At(PageId(index * pages_under(level) - run)));
                }
                if summary.longest() >= pages.0 {
                    break true;
                }
                run = if start == pages_under(level) { run + start } else { summary.end() };
                index += 1;
            };
            (level, index) = match (inside, level) {
                (true, LEAF) => return Some(Found::Inside(ChunkId(index))),
                (true, _) => (level + 1, index * FAN_OUT),
                (false, 0) => return None,
                (false, _) => Tree::up(level, index),
            };
        }
    }

    /// The highest entry that begins where entry `index` of a level does.
    ///
    /// Coming from a grown chunk, its block is committed: either it is the root, or the entry before it is in it.
    #[inline]
    fn up(mut level: usize, mut index: usize) -> (usize, usize) {
        while level > 0 && index.is_multiple_of(FAN_OUT) {
            level -= 1;
            index /= FAN_OUT;
        }
        (level, index)
    }

    /// The first entry whose summary does not follow from the level below; `leaf` says what a leaf should be.
    /// Entries without a committed block are zero. The chunks looked at are `chunks`.
    pub(super) fn first_wrong(
        &self,
        chunks: Range<usize>,
        leaf: impl Fn(ChunkId) -> Summary,
    ) -> Option<WrongSummary> {
        if chunks.is_empty() {
            return None;
        }
        for level in (0..LEVELS).rev() {
            let under = chunks_under(level);
            for index in chunks.start / under..=(chunks.end - 1) / under {
                let is = self.block(level, index).map_or(Summary::NONE, |block| block[index % FAN_OUT]);
                let should = if level == LEAF {
                    leaf(ChunkId(index))
                } else {
                    let below = self.block(level + 1, index * FAN_OUT);
                    below.map_or(Summary::NONE, |below| Summary::merge(below, pages_under(level + 1)))
                };
                if is != should {
                    return Some(WrongSummary { level, first: ChunkId(index * under) });
                }
            }
        }
        None
    }
}

/// A summary that does not follow from what it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WrongSummary {
    pub(super) level: usize,
    /// The first chunk that the entry covers.
    pub(super) first: ChunkId,
}
