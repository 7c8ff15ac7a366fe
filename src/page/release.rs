//! Giving memory back, from the highest address down.
//!
//! The system call is slow and must not be made under the heap's lock. So it comes in three steps:
//!
//! 1. Under the lock, [`PageAllocator::take_releasable`] finds free pages that are not released and marks them in use:
//!    nobody else can get at them.
//! 2. Without it, the caller has the system take their memory.
//! 3. Under the lock again, [`PageAllocator::free_released`] makes them free and released. Where the system refused,
//!    [`PageAllocator::free`] makes them free as they were.
//!
//! Who wants memory back at all costs takes it from any chunk. Who has time leaves alone the chunks that are full,
//! or were when the generation began ([`PageAllocator::take_worthwhile`]): the little that is free in them is wanted
//! again soon, and each hole costs a huge page.
//!
//! A search goes down from a place that its caller remembers. The index is no structure of its own: a mark a chunk says
//! whether to look at it, its bitmap how full it is. All that is under the same lock as the pages themselves, so nothing
//! can be freed between a search and the lowering of its place; Go reads its index without the lock, and needs
//! marked cursors for that.
//!
//! Pages go back in units of the system's page where that is larger than ours, and a free huge page is never cut
//! in two: when a piece would come from one, all of it goes. (Go: `scavengeOne`, `findScavengeCandidate`.)

use super::PageAllocator;
use super::chunk::{Chunk, WORDS};
use super::chunks::Chunks;
use crate::base::{CHUNK_PAGES, ChunkId, PAGE_SIZE, PageId, Pages};
use crate::os::System;

/// The units that memory goes back in, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grain {
    /// The least that the system takes, a power of two up to 64.
    least: usize,
    /// A huge page, if the system has any that fit into a chunk.
    huge: Option<usize>,
}

impl Grain {
    /// # Panics
    /// When `least` is no power of two up to 64, or `huge` none up to a chunk.
    pub(super) fn new(least: usize, huge: Option<usize>) -> Grain {
        assert!(least.is_power_of_two() && least <= 64, "system pages of {least} pages");
        assert!(huge.is_none_or(|huge| huge.is_power_of_two() && huge <= CHUNK_PAGES));
        Grain { least, huge }
    }

    /// What `system` says.
    pub(super) fn of(system: System) -> Grain {
        let huge = system.huge_page_size().map(|size| size.0 / PAGE_SIZE);
        let fits = |huge: &usize| huge.is_power_of_two() && (2..=CHUNK_PAGES).contains(huge);
        Grain::new((system.page_size().0 / PAGE_SIZE).max(1), huge.filter(fits))
    }

    /// The highest run of a chunk's pages to give back, as its first page and its length: in the word of `from`
    /// or below, `most` pages or a little more.
    pub(super) fn candidate(self, chunk: &Chunk, from: usize, most: usize) -> Option<(usize, usize)> {
        let idle = |word: usize| whole_groups(chunk.free.0[word] & !chunk.released.0[word], self.least);
        let top = (0..=from / 64).rev().find(|&word| idle(word) != 0)?;
        let end = (top + 1) * 64 - idle(top).leading_zeros() as usize;
        // How far down the run goes, over word borders as well.
        let mut run = (idle(top) << idle(top).leading_zeros()).leading_ones() as usize;
        let mut begin = end - run;
        while begin > 0 && begin.is_multiple_of(64) {
            run = idle(begin / 64 - 1).leading_ones() as usize;
            begin -= run;
            if run == 0 {
                break;
            }
        }
        let wanted = most.clamp(1, WORDS * 64).next_multiple_of(self.least);
        let start = end - wanted.min(end - begin);
        Some(self.unbroken(begin, start, end)).map(|start| (start, end - start))
    }

    /// `start`, or the beginning of the free huge page that it would cut in two. `begin..end` is the whole run.
    fn unbroken(self, begin: usize, start: usize, end: usize) -> usize {
        match self.huge {
            Some(huge) if start.next_multiple_of(huge) <= end && start / huge * huge >= begin => {
                start / huge * huge
            }
            _ => start,
        }
    }
}

/// The bits of `word` whose whole aligned group of `group` bits is set.
fn whole_groups(word: u64, group: usize) -> u64 {
    debug_assert!(group.is_power_of_two() && group <= 64);
    let first_of_groups = if group == 64 { 1 } else { u64::MAX / ((1 << group) - 1) };
    let mut whole = super::chunk::runs_in_word(word, group) & first_of_groups;
    let mut step = 1;
    while step < group {
        whole |= whole << step;
        step *= 2;
    }
    whole
}

impl PageAllocator {
    /// Finds the highest run of free pages, in the 64 pages around `from` or below, that the system does not have,
    /// and marks it in use: see the head of this file. `most` is what the caller wants, at least one page; it is
    /// exceeded to keep to the system's pages and not to split a huge page.
    ///
    /// `None`: there is nothing to give back at `from` or below. The page returned is the next call's `from`.
    pub fn take_releasable(&mut self, from: PageId, most: Pages) -> Option<(PageId, Pages)> {
        self.take_from(from, most, |_, _| true)
    }

    /// As [`PageAllocator::take_releasable`], but leaves dense chunks alone.
    pub fn take_worthwhile(&mut self, from: PageId, most: Pages) -> Option<(PageId, Pages)> {
        self.take_from(from, most, |chunks, id| !chunks.is_dense(id))
    }

    /// Begins the next generation: chunks that are not full from here on are worth releasing from.
    pub fn next_generation(&mut self) {
        self.chunks.next_generation();
    }

    fn take_from(
        &mut self,
        from: PageId,
        most: Pages,
        worthwhile: impl Fn(&Chunks, ChunkId) -> bool,
    ) -> Option<(PageId, Pages)> {
        let mut from = from;
        loop {
            let id = self.chunks.last_releasable(from.chunk())?;
            let top = if id == from.chunk() { from.in_chunk() } else { CHUNK_PAGES - 1 };
            if worthwhile(&self.chunks, id) {
                if let Some((first, n)) = self.grain.candidate(self.chunks.at(id), top, most.0) {
                    let (page, pages) = (PageId(id.first_page().0 + first), Pages(n));
                    self.take(page, pages);
                    return Some((page, pages));
                }
                if top / 64 == WORDS - 1 {
                    self.chunks.clear_releasable(id);
                }
            }
            from = PageId(ChunkId(id.0.checked_sub(1)?).first_page().0 + CHUNK_PAGES - 1);
        }
    }

    /// Free pages that the system does not have. Not all of them can be given back where its pages are larger.
    pub fn releasable_pages(&self) -> Pages {
        self.free - self.released
    }

    /// The highest page of the heap's highest chunk: where giving back begins. `None` while there is no chunk.
    pub fn top(&self) -> Option<PageId> {
        self.chunks.span().end.checked_sub(1).map(|last| PageId(last * CHUNK_PAGES + CHUNK_PAGES - 1))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::chunk::Bits;
    use super::*;

    fn words(text: &str) -> Bits {
        let words: Vec<u64> =
            text.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap()).collect();
        Bits(words.try_into().unwrap())
    }

    /// Recorded answers, for system pages of up to 64 of ours and huge pages up to a chunk.
    #[test]
    fn candidates_are_those_recorded() {
        let records = include_str!("../../tests/traces/release-candidates.txt");
        for record in records.lines().filter(|line| !line.starts_with('#')) {
            let parts: Vec<&str> = record.split('|').collect();
            let numbers = |part: &str| -> Vec<usize> {
                part.split_whitespace().map(|word| word.parse().unwrap()).collect()
            };
            let [huge, from, least, most] = numbers(parts[0])[..] else { panic!("{record}") };
            let mut free = words(parts[1]);
            free.0.iter_mut().for_each(|word| *word = !*word);
            let chunk = Chunk { free, released: words(parts[2]) };
            let grain = Grain::new(least, (huge > 0).then_some(huge / PAGE_SIZE));
            let [start, size] = numbers(parts[3])[..] else { panic!("{record}") };
            let expected = (size > 0).then_some((start, size));
            assert_eq!(grain.candidate(&chunk, from, most), expected, "{record}");
        }
    }

    #[test]
    fn whole_groups_are_kept() {
        assert_eq!(whole_groups(0b1101_1110, 1), 0b1101_1110);
        assert_eq!(whole_groups(0b1101_1110, 2), 0b1100_1100);
        assert_eq!(whole_groups(0b1111_1110, 4), 0b1111_0000);
        assert_eq!(whole_groups(u64::MAX, 64), u64::MAX);
        assert_eq!(whole_groups(u64::MAX - 1, 64), 0);
    }
}
