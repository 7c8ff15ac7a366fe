//! A chunk's bitmaps: which of its 512 pages are free, and which free ones the system has.
//!
//! A set bit says *free*. (Go: `pallocData`, whose set bits say *in use*.) A table that was never written reads
//! as zeros, so a chunk that the heap never grew into has nothing to give, without anybody having to look.
//!
//! # Safety
//! The bitmaps are plain words, for which zero is a value.

use super::summary::Summary;
use crate::base::CHUNK_PAGES;
use crate::os::Zeroed;

/// Words in a bitmap of one chunk.
pub(super) const WORDS: usize = CHUNK_PAGES / 64;

/// One bit for each page of a chunk; bit 0 of word 0 is the lowest page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(super) struct Bits(pub(super) [u64; WORDS]);

/// The bitmaps of a chunk. Released pages are free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub(super) struct Chunk {
    /// Pages that may be handed out.
    pub(super) free: Bits,
    /// Those of them whose memory the system has.
    pub(super) released: Bits,
}

// SAFETY: plain words; all zero is a chunk without a free page.
unsafe impl Zeroed for Chunk {}

/// The words that the bits `from..from + n` lie in, each with a mask of those bits.
#[inline]
fn masks(from: usize, n: usize) -> impl Iterator<Item = (usize, u64)> {
    debug_assert!(n > 0 && from + n <= CHUNK_PAGES, "{n} pages from {from} are no part of a chunk");
    let last = from + n - 1;
    (from / 64..=last / 64).map(move |word| {
        let low = if word == from / 64 { u64::MAX << (from % 64) } else { u64::MAX };
        let high = if word == last / 64 { u64::MAX >> (63 - last % 64) } else { u64::MAX };
        (word, low & high)
    })
}

/// The places in `word` where `n` set bits begin, 1 to 64 of them.
#[inline]
pub(super) fn runs_in_word(word: u64, n: usize) -> u64 {
    debug_assert!((1..=64).contains(&n));
    // A bit of `starts` says that `have` bits from there on are set. Two such runs that meet or overlap make a
    // longer one, so the length at least doubles with each step until the last.
    let (mut starts, mut have) = (word, 1);
    while have < n {
        let step = have.min(n - have);
        starts &= starts >> step;
        have += step;
    }
    starts
}

impl Bits {
    /// All bits clear.
    pub(super) const NONE: Bits = Bits([0; WORDS]);
    /// All bits set.
    pub(super) const ALL: Bits = Bits([u64::MAX; WORDS]);

    /// Whether a page's bit is set.
    #[inline]
    pub(super) fn has(&self, page: usize) -> bool {
        self.0[page / 64] >> (page % 64) & 1 != 0
    }

    /// The bits `from..from + n`, at most 64 of them, from the lowest on.
    pub(super) fn window(&self, from: usize, n: usize) -> u64 {
        let (word, shift) = (from / 64, from % 64);
        let above = if shift + n > 64 { self.0[word + 1] << (64 - shift) } else { 0 };
        (self.0[word] >> shift | above) & (u64::MAX >> (64 - n))
    }

    /// How many bits are set.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether all of `from..from + n` are set.
    #[inline]
    pub(super) fn has_all(&self, from: usize, n: usize) -> bool {
        masks(from, n).all(|(word, mask)| self.0[word] & mask == mask)
    }

    /// Whether none of `from..from + n` is set.
    #[inline]
    pub(super) fn has_none(&self, from: usize, n: usize) -> bool {
        masks(from, n).all(|(word, mask)| self.0[word] & mask == 0)
    }

    /// The first set bit at or above `from`.
    #[inline]
    pub(super) fn first(&self, from: usize) -> Option<usize> {
        let mut word = self.0[from / 64] & (u64::MAX << (from % 64));
        for index in from / 64..WORDS {
            if word != 0 {
                return Some(index * 64 + word.trailing_zeros() as usize);
            }
            word = *self.0.get(index + 1)?;
        }
        None
    }

    /// The lowest place at or above `from` where `n` set bits begin.
    #[inline]
    pub(super) fn find_run(&self, n: usize, from: usize) -> Option<usize> {
        let mut word = self.0[from / 64] & (u64::MAX << (from % 64));
        // Set bits at the top of the words so far: a run that the next word may go on with.
        let mut run = 0;
        for index in from / 64..WORDS {
            if word == u64::MAX {
                run += 64;
            } else {
                if run + word.trailing_ones() as usize >= n {
                    return Some(index * 64 - run);
                }
                if n < 64 {
                    let starts = runs_in_word(word, n);
                    if starts != 0 {
                        return Some(index * 64 + starts.trailing_zeros() as usize);
                    }
                }
                run = word.leading_ones() as usize;
            }
            if run >= n {
                return Some((index + 1) * 64 - run);
            }
            word = *self.0.get(index + 1)?;
        }
        None
    }

    /// Set bits at the beginning, the longest run of them, and those at the end.
    #[inline]
    pub(super) fn summary(&self) -> Summary {
        let (mut start, mut longest, mut run) = (None, 0, 0);
        for &word in &self.0 {
            if word == u64::MAX {
                run += 64;
                continue;
            }
            // A clear bit ends the run that came up from below.
            run += word.trailing_ones() as usize;
            start.get_or_insert(run);
            longest = longest.max(run);
            run = word.leading_ones() as usize;
        }
        let Some(start) = start else { return Summary::new(CHUNK_PAGES, CHUNK_PAGES, CHUNK_PAGES) };
        Summary::new(start, self.longest_inside(longest.max(run)), run)
    }

    /// The longest run, where `longest` is the longest of those that touch a border between words.
    #[inline]
    fn longest_inside(&self, mut longest: usize) -> usize {
        for &word in &self.0 {
            // Clear bits on both sides leave 62 for a run inside a word.
            if longest >= 62 {
                break;
            }
            // What begins a run longer than the longest so far; mostly nothing does.
            let mut longer = runs_in_word(word, longest + 1);
            while longer != 0 {
                longest += 1;
                longer &= longer >> 1;
            }
        }
        longest
    }
}

impl Chunk {
    /// A chunk that the heap has just grown into: nobody has used it, and the system has all of it.
    pub(super) const FRESH: Chunk = Chunk { free: Bits::ALL, released: Bits::ALL };

    /// Takes free pages into use; says how many of them were released.
    #[inline]
    pub(super) fn take(&mut self, from: usize, n: usize) -> usize {
        debug_assert!(self.free.has_all(from, n), "{n} pages from {from} of a chunk are not all free");
        let mut released = 0;
        for (word, mask) in masks(from, n) {
            self.free.0[word] &= !mask;
            released += (self.released.0[word] & mask).count_ones() as usize;
            self.released.0[word] &= !mask;
        }
        released
    }

    /// Makes pages in use free; `released` says whether the system has their memory.
    #[inline]
    pub(super) fn put(&mut self, from: usize, n: usize, released: bool) {
        debug_assert!(self.free.has_none(from, n), "{n} pages from {from} of a chunk are not all in use");
        for (word, mask) in masks(from, n) {
            self.free.0[word] |= mask;
            if released {
                self.released.0[word] |= mask;
            }
        }
    }

    /// Takes all free pages of a word: which, and which of them were released.
    #[inline]
    pub(super) fn take_word(&mut self, word: usize) -> (u64, u64) {
        (core::mem::take(&mut self.free.0[word]), core::mem::take(&mut self.released.0[word]))
    }

    /// Makes pages of a word free.
    #[inline]
    pub(super) fn put_word(&mut self, word: usize, free: u64, released: u64) {
        debug_assert!(self.free.0[word] & free == 0 && released & !free == 0);
        self.free.0[word] |= free;
        self.released.0[word] |= released;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bits as they come in heaps: words that are full, empty, or anything between.
    pub(super) fn any_bits() -> impl Strategy<Value = Bits> {
        let sparse = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b);
        let word =
            prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), sparse.clone(), sparse.prop_map(|x| !x)];
        prop::array::uniform8(word).prop_map(Bits)
    }

    fn any_run() -> impl Strategy<Value = (usize, usize)> {
        (0..CHUNK_PAGES).prop_flat_map(|from| (Just(from), 1..=CHUNK_PAGES - from))
    }

    fn first_run_by_page(bits: &Bits, n: usize, from: usize) -> Option<usize> {
        (from..=CHUNK_PAGES.checked_sub(n)?).find(|&at| (at..at + n).all(|page| bits.has(page)))
    }

    proptest! {
        #[test]
        fn runs_are_found_as_by_looking_at_each_page(
            bits in any_bits(), n in 1..=CHUNK_PAGES, few in 1..70usize, from in 0..CHUNK_PAGES
        ) {
            for n in [n, few, 1, 63, 64, 65] {
                prop_assert_eq!(bits.find_run(n, from), first_run_by_page(&bits, n, from), "{} from {}", n, from);
            }
            prop_assert_eq!(bits.first(from), first_run_by_page(&bits, 1, from));
        }

        #[test]
        fn a_long_run_anywhere_is_found((from, n) in any_run(), search in 0..CHUNK_PAGES) {
            let mut chunk = Chunk { free: Bits::NONE, released: Bits::NONE };
            chunk.put(from, n, false);
            prop_assert_eq!(chunk.free.find_run(n, 0), Some(from));
            prop_assert_eq!(chunk.free.find_run(n, search), (search <= from).then_some(from));
            prop_assert_eq!(chunk.free.find_run(n + 1, 0), None);
            let (start, end) = (if from == 0 { n } else { 0 }, if from + n == CHUNK_PAGES { n } else { 0 });
            prop_assert_eq!(chunk.free.summary(), Summary::new(start, n, end));
        }

        #[test]
        fn summaries_are_as_by_looking_at_each_page(bits in any_bits()) {
            prop_assert_eq!(bits.summary(), super::super::check::summary_by_page(&bits));
        }

        #[test]
        fn a_run_of_pages_changes_and_nothing_else(free in any_bits(), dirty in any_bits(), (from, n) in any_run()) {
            let inside = |page| (from..from + n).contains(&page);
            let mut chunk = Chunk { free, released: free };
            for (word, dirty) in chunk.released.0.iter_mut().zip(dirty.0) {
                *word &= !dirty;
            }
            prop_assert_eq!(free.has_all(from, n), (from..from + n).all(|page| free.has(page)));
            prop_assert_eq!(free.has_none(from, n), !(from..from + n).any(|page| free.has(page)));
            // Free the whole run, so that it can be taken.
            masks(from, n).for_each(|(word, mask)| chunk.free.0[word] |= mask);
            let before = chunk;
            let released = chunk.take(from, n);
            prop_assert_eq!(released, (from..from + n).filter(|&page| before.released.has(page)).count());
            for page in 0..CHUNK_PAGES {
                prop_assert_eq!(chunk.free.has(page), before.free.has(page) && !inside(page));
                prop_assert_eq!(chunk.released.has(page), before.released.has(page) && !inside(page));
            }
            chunk.put(from, n, true);
            prop_assert_eq!(chunk.free, before.free);
            prop_assert!(chunk.released.has_all(from, n));
        }

        #[test]
        fn runs_in_a_word_begin_where_they_should(word: u64, n in 1..=64usize) {
            for at in 0..64 {
                let begins = at + n <= 64 && (at..at + n).all(|bit| word >> bit & 1 == 1);
                prop_assert_eq!(runs_in_word(word, n) >> at & 1 == 1, begins);
            }
        }
    }
}
