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
//! page always has its block below it, and a merge never reads beyond what exists.
//!
//! A leaf may be *stale*: newer than what stands above it. There is one at most. The entries above it are brought
//! up to date when another leaf changes, or when a search has to leave its chunk; so a row of allocations from one
//! chunk does not climb the tree each time. (Go, `pageAlloc.summary`, always climbs.)
//!
//! # Safety
//! Blocks are plain words, for which zero is a value. Giving the table back is left to whoever takes the heap down.

use super::summary::Summary;
use crate::base::{Address, Bytes, CHUNK_PAGES, ChunkId, PageId, Pages};
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
    /// The chunk whose leaf is newer than what stands above it, if any.
    stale: Option<ChunkId>,
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
        let tree = Tree { blocks: table, first_block, root_end: 0, stale: None };
        if let Err(error) = tree.blocks.ensure(0..root_blocks, ledger) {
            // SAFETY: nobody has seen the tree yet.
            unsafe { tree.destroy() };
            return Err(error);
        }
        Ok(tree)
    }

    /// Where the memory behind it lies.
    pub(super) fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.blocks.committed_ranges()
    }

    /// The addresses that are reserved for it.
    pub(super) fn reservation(&self) -> (Address, Bytes) {
        self.blocks.reservation()
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

    /// Writes a grown chunk's summary.
    #[inline]
    pub(super) fn set_leaf(&mut self, chunk: ChunkId, summary: Summary) {
        if self.stale != Some(chunk) {
            self.settle();
            self.stale = Some(chunk);
        }
        self.set(LEAF, chunk.0, summary);
    }

    /// Brings the entries above the stale leaf up to date.
    fn settle(&mut self) {
        let Some(ChunkId(mut index)) = self.stale.take() else { return };
        for level in (0..LEAF).rev() {
            index /= FAN_OUT;
            let below = self.block(level + 1, index * FAN_OUT).expect("grown chunks have blocks");
            let merged = Summary::merge(below, pages_under(level + 1));
            // What is further up follows from this level alone.
            if !self.set(level, index, merged) {
                return;
            }
        }
    }

    /// The lowest run of `pages` free pages that begins above `after`, or in the last `run` pages of that chunk,
    /// which are free and too few. `after` is grown.
    ///
    /// The walk goes along a block, up where the block ends, and down where an entry promises a run inside.
    pub(super) fn find(&mut self, after: ChunkId, mut run: usize, pages: Pages) -> Option<Found> {
        debug_assert!(run < pages.0, "{run} pages of {after:?} are enough for {pages:?}");
        self.settle();
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
    /// Entries without a committed block are zero, and those above the stale leaf may be anything. The chunks looked
    /// at are `chunks`.
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
                let is_stale = level != LEAF && self.stale.is_some_and(|stale| stale.0 / under == index);
                if is != should && !is_stale {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::os::testing::books;
    use proptest::prelude::*;

    /// Chunks that the test grows into: blocks of every level end inside, and there are holes.
    const GROWN: [Range<usize>; 4] = [3..30, 60..70, 509..515, 4090..4100];

    /// What is free at a chunk's start, in its longest run and at its end: mostly all or nothing.
    fn any_leaf() -> impl Strategy<Value = Summary> {
        let some = (1..400usize, 0..100usize, 0..100usize);
        prop_oneof![
            3 => Just(Summary::NONE),
            3 => Just(Summary::new(CHUNK_PAGES, CHUNK_PAGES, CHUNK_PAGES)),
            2 => some.prop_map(|(longest, start, end)| Summary::new(start.min(longest), longest, end.min(longest))),
        ]
    }

    /// The lowest run, found by looking at every leaf.
    fn find_by_leaf(leaves: &[Summary], after: usize, mut run: usize, pages: usize) -> Option<Found> {
        for (chunk, leaf) in leaves.iter().enumerate().skip(after + 1) {
            if run + leaf.start() >= pages {
                return Some(Found::At(PageId(chunk * CHUNK_PAGES - run)));
            }
            if leaf.longest() >= pages {
                return Some(Found::Inside(ChunkId(chunk)));
            }
            run = if leaf.start() == CHUNK_PAGES { run + CHUNK_PAGES } else { leaf.end() };
        }
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn runs_are_found_as_by_looking_at_each_leaf(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any_leaf()), 1..120),
            searches in prop::collection::vec((any::<prop::sample::Index>(), 1..4000usize), 1..12),
        ) {
            let books = books();
            let mut tree = Tree::new(System::Linux, 5000, books.shared().ledger()).unwrap();
            let mut leaves = vec![Summary::NONE; 4100];
            for range in GROWN {
                tree.ensure(range, books.shared().ledger()).unwrap();
            }
            let grown: Vec<usize> = GROWN.into_iter().flatten().collect();
            for (at, leaf) in changes {
                let chunk = *at.get(&grown);
                leaves[chunk] = leaf;
                tree.set_leaf(ChunkId(chunk), leaf);
                prop_assert_eq!(tree.leaf(ChunkId(chunk)), leaf);
            }
            let wrong = tree.first_wrong(0..4100, |chunk| leaves[chunk.0]);
            prop_assert_eq!(wrong, None);
            for (at, pages) in searches {
                let after = *at.get(&grown);
                for pages in [1, pages % 512 + 1, pages] {
                    let run = leaves[after].end().min(pages - 1);
                    let found = tree.find(ChunkId(after), run, Pages(pages));
                    prop_assert_eq!(found, find_by_leaf(&leaves, after, run, pages), "{} after {}", pages, after);
                }
                prop_assert_eq!(tree.stale, None);
            }
            prop_assert_eq!(tree.first_wrong(0..4100, |chunk| leaves[chunk.0]), None);
            // SAFETY: the test is over.
            unsafe { tree.destroy() };
        }
    }
}
