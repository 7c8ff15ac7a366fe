//! Runs of pages that a mutator has just freed, kept whole for its next request of the same length.
//!
//! A program that frees a run of some length often wants one of that length again soon, most of all where blocks have
//! a span to themselves. Such a run costs no lock and no search, and the pages that come back are those that
//! were touched last. The stash is short and small: the run that was put in first makes room for a new one.
//!
//! Stashed pages are in use as far as the page allocator knows, and stand in the account of cached ones.

use crate::base::{PageId, Pages};

/// Runs in a stash.
const RUNS: usize = 16;
/// The longest run that is stashed.
const LONGEST: Pages = Pages(64);
/// Pages in a stash at most.
const MOST: Pages = Pages(128);

/// A run of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Run {
    page: u32,
    pages: u32,
}

impl Run {
    pub(super) fn page(self) -> PageId {
        PageId(self.page as usize)
    }

    pub(super) fn pages(self) -> Pages {
        Pages(self.pages as usize)
    }
}

/// A mutator's stash, in the order in which the runs came.
#[derive(Default)]
pub(super) struct Stash {
    runs: [Run; RUNS],
    count: usize,
    total: Pages,
}

impl Stash {
    /// Whether a run of this length may come in.
    pub(super) fn takes(&self, pages: Pages) -> bool {
        pages <= LONGEST
    }

    /// Puts a run in that it takes. First the runs that must make room come out, one a call: call again while
    /// one does.
    pub(super) fn put(&mut self, page: PageId, pages: Pages) -> Option<Run> {
        debug_assert!(self.takes(pages));
        if self.count == RUNS || self.total + pages > MOST {
            return self.pop_oldest();
        }
        self.runs[self.count] = Run { page: page.0 as u32, pages: pages.0 as u32 };
        self.count += 1;
        self.total += pages;
        None
    }

    /// Takes out the youngest run of exactly this length.
    pub(super) fn take(&mut self, pages: Pages) -> Option<Run> {
        let at = self.runs[..self.count].iter().rposition(|run| run.pages() == pages)?;
        Some(self.remove(at))
    }

    /// Takes out the run that was put in first.
    pub(super) fn pop_oldest(&mut self) -> Option<Run> {
        (self.count > 0).then(|| self.remove(0))
    }

    fn remove(&mut self, at: usize) -> Run {
        let run = self.runs[at];
        self.runs.copy_within(at + 1..self.count, at);
        self.count -= 1;
        self.total -= run.pages();
        run
    }

    /// Pages of all runs together.
    pub(super) fn total(&self) -> Pages {
        self.total
    }

    /// The runs.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// The twin is a queue that is searched from its young end.
        #[test]
        fn keeps_the_youngest_runs(steps in proptest::collection::vec((any::<bool>(), 1usize..=64), 1..200)) {
            let (mut stash, mut twin, mut page) = (Stash::default(), VecDeque::new(), 0);
            for (put, pages) in steps {
                if put {
                    while let Some(out) = stash.put(PageId(page), Pages(pages)) {
                        prop_assert_eq!(Some((out.page().0, out.pages().0)), twin.pop_front());
                    }
                    twin.push_back((page, pages));
                    page += 100;
                } else {
                    let at = twin.iter().rposition(|&(_, length)| length == pages);
                    let expected = at.and_then(|at| twin.remove(at));
                    let got = stash.take(Pages(pages)).map(|run| (run.page().0, run.pages().0));
                    prop_assert_eq!(got, expected);
                }
                prop_assert!(twin.len() <= RUNS);
                prop_assert_eq!(stash.total().0, twin.iter().map(|run| run.1).sum::<usize>());
                prop_assert!(stash.total() <= MOST);
                prop_assert_eq!(stash.runs().len(), twin.len());
            }
        }
    }
}
