//! The slow twin of the page allocator: a map of the free pages, searched from the start each time. It shows that the
//! replay itself is right, and that a trace can be.

use crate::replay::Target;
use crate::trace::{CACHE_PAGES, Filled, Run, Taken, Trace};
use spanheap::base::units::CHUNK_PAGES;
use std::collections::BTreeMap;

/// A page allocator with nothing clever about it.
pub(crate) struct Model {
    /// The free pages, each with whether it is released.
    free: BTreeMap<usize, bool>,
    /// What the open caches own, in the same form.
    caches: Vec<BTreeMap<usize, bool>>,
}

impl Model {
    pub(crate) fn new(trace: &Trace) -> Model {
        let pages = trace.chunks.iter().flat_map(|chunk| chunk * CHUNK_PAGES..(chunk + 1) * CHUNK_PAGES);
        let mut free: BTreeMap<_, _> = pages.map(|page| (page, false)).collect();
        for run in &trace.released {
            free.extend((run.first..run.first + run.pages).map(|page| (page, true)));
        }
        Model { free, caches: Vec::new() }
    }
}

/// Takes the first run of `pages` neighbours from a map of free pages.
fn first_fit(free: &mut BTreeMap<usize, bool>, pages: usize) -> Option<Taken> {
    let mut length = 0;
    let mut next = 0;
    let last = *free.keys().find(|&&page| {
        length = if page == next { length + 1 } else { 1 };
        next = page + 1;
        length == pages
    })?;
    let first = last + 1 - pages;
    let released = (first..=last).filter(|page| free.remove(page) == Some(true)).count();
    Some(Taken { first, released })
}

impl Target for Model {
    fn allocate(&mut self, pages: usize) -> Option<Taken> {
        first_fit(&mut self.free, pages)
    }

    fn free(&mut self, run: Run) {
        for page in run.first..run.first + run.pages {
            assert_eq!(self.free.insert(page, false), None, "page {page} was free");
        }
    }

    fn fill_cache(&mut self) -> Option<Filled> {
        let (&lowest, _) = self.free.first_key_value()?;
        let base = lowest - lowest % CACHE_PAGES;
        let mut filled = Filled { base, free: 0, released: 0 };
        let mut cache = BTreeMap::new();
        for page in base..base + CACHE_PAGES {
            if let Some(released) = self.free.remove(&page) {
                cache.insert(page, released);
                filled.free |= 1 << (page - base);
                filled.released |= u64::from(released) << (page - base);
            }
        }
        self.caches.push(cache);
        Some(filled)
    }

    fn take_cached(&mut self, cache: usize, pages: usize) -> Option<Taken> {
        first_fit(&mut self.caches[cache], pages)
    }

    fn return_cache(&mut self, cache: usize) {
        self.free.append(&mut self.caches.remove(cache));
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The recorded traces, which the model must answer as recorded.
#[test]
fn the_model_agrees_with_every_recorded_trace() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/traces");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "trace") {
            continue;
        }
        let trace = Trace::parse(&std::fs::read(&path).unwrap()).unwrap();
        let outcome = crate::replay::replay(&trace, &mut Model::new(&trace)).unwrap();
        assert_eq!(outcome.difference, None, "{}", path.display());
        assert!(outcome.agreed > 0);
        files += 1;
    }
    assert!(files >= 6, "the recorded traces are missing");
}
