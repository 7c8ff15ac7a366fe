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

    /// The summary of neighbours that cover `pages` pages each.
    #[inline]
    pub(super) fn merge(parts: &[Summary; FAN_OUT], pages: usize) -> Summary {
        let (mut start, mut longest, mut run) = (0, 0, 0);
        for (index, part) in parts.iter().enumerate() {
            let at_start = part.start();
            // The beginning goes on only while everything before it is free.
            if start == index * pages {
                start += at_start;
            }
            // The run from below ends in this part, or goes through all of it.
            longest = longest.max(run + at_start).max(part.longest());
            run = if at_start == pages { run + pages } else { part.end() };
        }
        Summary::new(start, longest, run)
    }
}

impl core::fmt::Debug for Summary {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}/{}", self.start(), self.longest(), self.end())
    }
}
