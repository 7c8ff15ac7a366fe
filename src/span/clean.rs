//! Which pages of a run are clean: the system has them, so they cost nothing and read as zeros.
//!
//! The page allocator knows that page by page while pages are free. A span's record keeps what was known when the span
//! was allocated, in one word: a bit for each page where there are no more than 64, and for longer runs only
//! whether all were clean. With the number of pages that its holder may have touched since, from the first
//! on, that says exactly which pages go back clean when the span is freed.

use crate::base::Pages;

/// Pages that one word has bits for.
const BITS: usize = 64;

/// The clean pages of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Clean {
    pages: usize,
    /// Pages from the first on that are not clean whatever the word says.
    touched: usize,
    word: u64,
}

impl Clean {
    /// The word for a run of `pages`, of which `released` are clean: `which` says which, where they are few.
    pub(super) fn word(pages: Pages, released: Pages, which: u64) -> u64 {
        match pages {
            Pages(0..=BITS) => which,
            _ if released == pages => u64::MAX,
            _ => 0,
        }
    }

    /// What is clean of a run of `pages` with this word, the first `touched` pages of which may have been touched.
    pub(super) fn new(pages: Pages, word: u64, touched: Pages) -> Clean {
        debug_assert!(touched <= pages && pages > Pages(0));
        // A run that became shorter has bits of pages that it lost.
        let own = if pages.0 <= BITS { u64::MAX >> (BITS - pages.0) } else { u64::MAX };
        Clean { pages: pages.0, touched: touched.0, word: word & own }
    }

    /// Whether the page at a place is clean.
    pub(super) fn has(self, place: usize) -> bool {
        let word = if self.pages <= BITS { self.word >> place & 1 != 0 } else { self.word != 0 };
        (self.touched..self.pages).contains(&place) && word
    }

    /// How many pages are clean.
    pub(super) fn count(self) -> Pages {
        if self.touched == self.pages {
            return Pages(0);
        }
        match self.pages {
            0..=BITS => Pages((self.word >> self.touched).count_ones() as usize),
            _ if self.word != 0 => Pages(self.pages - self.touched),
            _ => Pages(0),
        }
    }

    /// The run in pieces, from the first page on: where each begins, how long it is, and whether it is clean.
    pub(super) fn pieces(self) -> impl Iterator<Item = (Pages, Pages, bool)> {
        let mut at = 0;
        core::iter::from_fn(move || {
            if at == self.pages {
                return None;
            }
            let (from, clean) = (at, self.has(at));
            at = match self.pages {
                0..=BITS => (from..self.pages).find(|&page| self.has(page) != clean).unwrap_or(self.pages),
                _ if from < self.touched => self.touched,
                _ => self.pages,
            };
            Some((Pages(from), Pages(at - from), clean))
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The twin asks page by page.
        #[test]
        fn pieces_and_count_follow_from_the_pages(
            pages in prop_oneof![1usize..=64, 60usize..70, 65usize..1000], word: u64, part in 0usize..=100,
        ) {
            let word = if pages <= 64 { word } else { [0, u64::MAX][word as usize % 2] };
            let touched = pages * part / 100;
            let clean = Clean::new(Pages(pages), word, Pages(touched));
            let twin = |page: usize| page >= touched && if pages <= 64 { word >> page & 1 == 1 } else { word != 0 };
            let mut next = 0;
            let mut last = None;
            for (from, length, is_clean) in clean.pieces() {
                prop_assert_eq!(from.0, next);
                prop_assert!(length.0 > 0);
                if pages <= 64 {
                    prop_assert_ne!(last, Some(is_clean), "two pieces that are one");
                }
                (next, last) = (from.0 + length.0, Some(is_clean));
                prop_assert!((from.0..next).all(|page| twin(page) == is_clean && clean.has(page) == is_clean));
            }
            prop_assert_eq!(next, pages);
            prop_assert_eq!(clean.count().0, (0..pages).filter(|&page| twin(page)).count());
        }
    }
}
