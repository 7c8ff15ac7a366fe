//! What an entry of the tree says about its pages: how many are free at their beginning, in the longest run, and
//! at their end.
//!
//! Three numbers of 21 bits share a word. An entry of the root covers 2²¹ pages; that all of them are free does
//! not fit, and has a word of its own: the top bit alone. (Go: `pallocSum`.)

use super::tree::FAN_OUT;

const FIELD: u32 = 21;
const MASK: u64 = (1 << FIELD) - 1;
/// Most pages that one summary covers.
pub(super) const MOST: usize = 1 << FIELD;
const ALL_OF_ROOT: u64 = 1 << 63;

/// Free pages at the beginning, in the longest run and at the end of a stretch of pages.
///
/// Zero is a stretch without a free page; so is one that the heap never grew into.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Summary(u64);

impl Summary {
    /// No page is free.
    pub(super) const NONE: Summary = Summary(0);

    /// Packs the three numbers.
    #[inline]
    pub(super) const fn new(start: usize, longest: usize, end: usize) -> Summary {
        debug_assert!(start <= longest && end <= longest && longest <= MOST);
        if longest == MOST {
            return Summary(ALL_OF_ROOT);
        }
        Summary(start as u64 | (longest as u64) << FIELD | (end as u64) << (2 * FIELD))
    }

    #[inline]
    const fn field(self, number: u32) -> usize {
        if self.0 == ALL_OF_ROOT { MOST } else { (self.0 >> (number * FIELD) & MASK) as usize }
    }

    /// Free pages at the beginning.
    #[inline]
    pub(super) const fn start(self) -> usize {
        self.field(0)
    }

    /// The longest run of free pages.
    #[inline]
    pub(super) const fn longest(self) -> usize {
        self.field(1)
    }

    /// Free pages at the end.
    #[inline]
    pub(super) const fn end(self) -> usize {
        self.field(2)
    }

    /// The summary of neighbours that cover `pages` pages each; they are no entries of the root.
    #[inline]
    pub(super) fn merge(parts: &[Summary; FAN_OUT], pages: usize) -> Summary {
        let (mut start, mut longest, mut run) = (0, 0, 0);
        for (index, &Summary(word)) in parts.iter().enumerate() {
            debug_assert!(word != ALL_OF_ROOT);
            let at_start = (word & MASK) as usize;
            // The beginning goes on only while everything before it is free.
            start += if start == index * pages { at_start } else { 0 };
            // The run from below ends in this part, or goes through all of it.
            longest = longest.max(run + at_start).max((word >> FIELD & MASK) as usize);
            run = if at_start == pages { run + pages } else { (word >> (2 * FIELD)) as usize };
        }
        Summary::new(start, longest, run)
    }
}

impl core::fmt::Debug for Summary {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}/{}", self.start(), self.longest(), self.end())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_page(free: &[bool]) -> Summary {
        let longest = free.split(|free| !free).map(<[bool]>::len).max().unwrap_or(0);
        let start = free.iter().take_while(|free| **free).count();
        let end = free.iter().rev().take_while(|free| **free).count();
        Summary::new(start, longest, end)
    }

    #[test]
    fn all_of_a_root_entry_free_has_a_word_of_its_own() {
        let full = Summary::new(MOST, MOST, MOST);
        assert_eq!((full.start(), full.longest(), full.end()), (MOST, MOST, MOST));
        assert_ne!(full, Summary::NONE);
        let almost = Summary::new(MOST - 1, MOST - 1, 0);
        assert_eq!((almost.start(), almost.longest(), almost.end()), (MOST - 1, MOST - 1, 0));
        let eighth = Summary::new(MOST / 8, MOST / 8, MOST / 8);
        assert_eq!(Summary::merge(&[eighth; FAN_OUT], MOST / 8), full);
    }

    /// Parts of four pages: 2³² of them would be all there are.
    #[test]
    fn merging_is_as_by_looking_at_each_page() {
        proptest!(ProptestConfig::with_cases(4000), |(bits: u32, full in any::<u8>())| {
            // Whole free parts are where merging goes wrong; make them common.
            let filled = (0..8).filter(|part| full >> part & 1 == 1).fold(bits, |b, part| b | 0xf << (4 * part));
            for bits in [bits, filled] {
                let pages: Vec<bool> = (0..32).map(|page| bits >> page & 1 == 1).collect();
                let parts = std::array::from_fn(|part| by_page(&pages[4 * part..4 * part + 4]));
                prop_assert_eq!(Summary::merge(&parts, 4), by_page(&pages));
            }
        });
    }
}
