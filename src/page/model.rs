//! The obviously right slow twin: a state for every page, and searches that look at each of them.
//!
//! Plain numbers only, so that the fuzz body can use this very file.

use std::collections::BTreeMap;

/// A page's state. Pages that are not in the heap have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Page {
    InUse,
    /// Free, memory kept.
    Kept,
    /// Free, and the system has the memory.
    Released,
}

/// All pages of the heap.
#[derive(Default)]
pub(crate) struct Model {
    pages: BTreeMap<usize, Page>,
    /// Pages in use by chunk, when the generation began.
    before: BTreeMap<usize, usize>,
}

/// A cache: the pages that it holds, none of them in use.
#[derive(Default)]
pub(crate) struct ModelCache {
    pub(crate) base: usize,
    pub(crate) pages: BTreeMap<usize, Page>,
}

/// The lowest run of `n` free pages at a multiple of `align`.
fn lowest(pages: &BTreeMap<usize, Page>, n: usize, align: usize) -> Option<usize> {
    let (mut run, mut last) = (0, None);
    for (&page, &state) in pages {
        if state == Page::InUse {
            run = 0;
        } else if last == Some(page.wrapping_sub(1)) {
            run += 1;
        } else {
            run = 1;
        }
        last = Some(page);
        if run >= n && (page + 1 - n).is_multiple_of(align) {
            return Some(page + 1 - n);
        }
    }
    None
}

impl Model {
    /// Adds free pages; they are released.
    pub(crate) fn grow(&mut self, first: usize, n: usize) {
        for page in first..first + n {
            assert!(self.pages.insert(page, Page::Released).is_none());
        }
    }

    pub(crate) fn state(&self, page: usize) -> Option<Page> {
        self.pages.get(&page).copied()
    }

    pub(crate) fn count(&self, state: Page) -> usize {
        self.pages.values().filter(|&&page| page == state).count()
    }

    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, Page)> {
        self.pages.iter().map(|(&page, &state)| (page, state))
    }

    /// The first page taken, and how many of the pages were released.
    pub(crate) fn allocate(&mut self, n: usize, align: usize) -> Option<(usize, usize)> {
        let page = lowest(&self.pages, n, align)?;
        self.allocate_at(page, n)
    }

    pub(crate) fn allocate_at(&mut self, page: usize, n: usize) -> Option<(usize, usize)> {
        let end = page.checked_add(n)?;
        if n > self.pages.len()
            || (page..end).any(|page| matches!(self.state(page), None | Some(Page::InUse)))
        {
            return None;
        }
        let old = (page..end).map(|page| self.pages.insert(page, Page::InUse));
        Some((page, old.filter(|&state| state == Some(Page::Released)).count()))
    }

    pub(crate) fn free(&mut self, page: usize, n: usize, state: Page) {
        for page in page..page + n {
            assert_eq!(self.pages.insert(page, state), Some(Page::InUse));
        }
    }

    pub(crate) fn fill_cache(&mut self) -> ModelCache {
        let Some(page) = lowest(&self.pages, 1, 1) else { return ModelCache::default() };
        let base = page / 64 * 64;
        let mut cache = ModelCache { base, pages: BTreeMap::new() };
        for (&page, state) in self.pages.range_mut(base..base + 64) {
            if *state != Page::InUse {
                cache.pages.insert(page, std::mem::replace(state, Page::InUse));
            }
        }
        cache
    }

    pub(crate) fn return_cache(&mut self, cache: &mut ModelCache) {
        for (page, state) in std::mem::take(cache).pages {
            self.free(page, 1, state);
        }
    }

    /// The highest run of kept pages of one chunk, in the word of `from` or below. `huge` pages are not split.
    pub(crate) fn take_releasable(
        &mut self,
        from: usize,
        most: usize,
        huge: Option<usize>,
    ) -> Option<(usize, usize)> {
        self.take_from(from, most, huge, |_| true)
    }

    /// As [`Model::take_releasable`], in chunks that are not full, nor were when the generation began.
    pub(crate) fn take_worthwhile(
        &mut self,
        from: usize,
        most: usize,
        huge: Option<usize>,
    ) -> Option<(usize, usize)> {
        let in_use = self.in_use();
        let full = |chunk: &usize| [&in_use, &self.before].iter().any(|by| by.get(chunk) >= Some(&496));
        let dense: Vec<usize> = in_use.keys().copied().filter(full).collect();
        self.take_from(from, most, huge, |chunk| !dense.contains(&chunk))
    }

    pub(crate) fn next_generation(&mut self) {
        self.before = self.in_use();
    }

    /// Pages in use by chunk.
    fn in_use(&self) -> BTreeMap<usize, usize> {
        let mut by_chunk = BTreeMap::new();
        for (page, state) in &self.pages {
            *by_chunk.entry(page / 512).or_default() += usize::from(*state == Page::InUse);
        }
        by_chunk
    }

    fn take_from(
        &mut self,
        from: usize,
        most: usize,
        huge: Option<usize>,
        worthwhile: impl Fn(usize) -> bool,
    ) -> Option<(usize, usize)> {
        let kept = |page: usize| self.state(page) == Some(Page::Kept);
        let may = |entry: &(&usize, &Page)| *entry.1 == Page::Kept && worthwhile(entry.0 / 512);
        let top = self.pages.range(..=from | 63).rev().find(may)?;
        let (last, chunk) = (*top.0, *top.0 / 512 * 512);
        let begin = (chunk..=last).rev().take_while(|&page| kept(page)).last()?;
        let mut start = begin.max((last + 1).saturating_sub(most));
        if let Some(huge) = huge {
            let uncut = start / huge * huge;
            if start.next_multiple_of(huge) <= last + 1 && uncut >= begin {
                start = uncut;
            }
        }
        self.allocate_at(start, last + 1 - start)?;
        Some((start, last + 1 - start))
    }
}

impl ModelCache {
    pub(crate) fn allocate(&mut self, n: usize) -> Option<(usize, usize)> {
        let page = lowest(&self.pages, n, 1)?;
        let old = (page..page + n).map(|page| self.pages.remove(&page));
        Some((page, old.filter(|&state| state == Some(Page::Released)).count()))
    }

    pub(crate) fn free(&mut self, page: usize, n: usize, state: Page) -> bool {
        if page < self.base || page + n > self.base + 64 {
            return false;
        }
        for page in page..page + n {
            assert!(self.pages.insert(page, state).is_none());
        }
        true
    }
}
