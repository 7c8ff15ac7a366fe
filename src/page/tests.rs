//! The room against recorded traces, against its slow twin, and in its corners.

use super::{CACHE_PAGES, PageAllocator, PageCache, Taken};
use crate::base::{CHUNK_PAGES, ChunkId, PageId, Pages};
use crate::os::System;
use crate::os::testing::books;
use crate::stats::Books;

/// An allocator with books of its own.
struct Bench {
    pages: PageAllocator,
    books: Box<Books>,
}

impl Bench {
    fn new(system: System, capacity_chunks: usize) -> Bench {
        let books = books();
        let capacity = Pages(capacity_chunks * CHUNK_PAGES);
        let pages = PageAllocator::new(system, capacity, books.shared().ledger()).unwrap();
        Bench { pages, books }
    }

    /// With these chunks, all free and released.
    fn with(chunks: &[usize]) -> Bench {
        let mut bench = Bench::new(System::Linux, chunks.last().unwrap() + 1);
        for &chunk in chunks {
            bench.grow(chunk, 1);
        }
        bench
    }

    fn grow(&mut self, first: usize, chunks: usize) {
        self.pages.grow(ChunkId(first), chunks, self.books.shared().ledger()).unwrap();
    }

    fn take(&mut self, n: usize) -> Option<usize> {
        self.pages.allocate(Pages(n)).map(|taken| taken.page.0)
    }

    fn put(&mut self, page: usize, n: usize) {
        self.pages.free(PageId(page), Pages(n));
    }

    fn check(&self) {
        self.pages.check().unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: the test is over.
        unsafe { self.pages.destroy() };
    }
}

mod traces {
    use super::*;

    fn number(word: &str) -> usize {
        word.parse().unwrap()
    }

    fn bits(word: &str) -> u64 {
        u64::from_str_radix(word, 16).unwrap()
    }

    /// The state of a trace: all pages kept, except where it says that they are released.
    fn begin(lines: &[&str]) -> Bench {
        let chunks: Vec<usize> = lines[0].split(' ').skip(1).map(number).collect();
        let mut bench = Bench::with(&chunks);
        for &chunk in &chunks {
            let all = (PageId(chunk * CHUNK_PAGES), Pages(CHUNK_PAGES));
            bench.pages.allocate_at(all.0, all.1).unwrap();
            bench.pages.free(all.0, all.1);
        }
        for line in lines.iter().filter(|line| line.starts_with("scavenged")) {
            let words: Vec<_> = line.split(' ').collect();
            let (page, pages) = (PageId(number(words[1])), Pages(number(words[2])));
            bench.pages.allocate_at(page, pages).unwrap();
            bench.pages.free_released(page, pages);
        }
        bench.check();
        bench
    }

    fn answer(words: &[&str]) -> Option<(usize, usize)> {
        (words[0] != "-").then(|| (number(words[0]), number(words[1])))
    }

    fn told(taken: Option<Taken>) -> Option<(usize, usize)> {
        taken.map(|taken| (taken.page.0, taken.released.0))
    }

    fn replay(trace: &str) {
        let lines: Vec<&str> = trace.lines().filter(|line| !line.is_empty()).collect();
        let mut bench = begin(&lines);
        let mut caches: Vec<PageCache> = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let at = at + 1;
            let words: Vec<_> = line.split(' ').collect();
            match words[0] {
                "chunks" | "scavenged" => {}
                "a" => {
                    let taken = bench.pages.allocate(Pages(number(words[1])));
                    assert_eq!(told(taken), answer(&words[3..]), "line {at}: {line}");
                }
                "f" => bench.put(number(words[1]), number(words[2])),
                "c" => {
                    let cache = bench.pages.fill_cache();
                    let expected = if words[2] == "-" {
                        PageCache::EMPTY
                    } else {
                        PageCache::new(PageId(number(words[2])), bits(words[3]), bits(words[4]))
                    };
                    assert_eq!(cache, expected, "line {at}: {line}");
                    if !cache.is_empty() {
                        caches.push(cache);
                    }
                }
                "p" => {
                    let taken = caches[number(words[1])].allocate(Pages(number(words[2])));
                    assert_eq!(told(taken), answer(&words[4..]), "line {at}: {line}");
                }
                "u" => bench.pages.return_cache(&mut caches.remove(number(words[1]))),
                _ => panic!("line {at}: {line}"),
            }
            if at.is_multiple_of(64) {
                bench.check();
            }
        }
        bench.check();
    }

    macro_rules! traces {
        ($($name:ident $file:literal)*) => { $(
            #[test]
            fn $name() {
                replay(include_str!(concat!("../../tests/traces/", $file, ".trace")));
            }
        )* };
    }

    traces! {
        plain_small "plain-small"
        plain_large "plain-large"
        holes "holes"
        far "far"
        exhausted "exhausted"
        scavenged "scavenged"
    }
}

/// The fuzz body, driven by random programs that shrink.
#[path = "../../fuzz/src/page.rs"]
#[allow(unreachable_pub)]
mod fuzz;

mod against_the_model {
    use super::fuzz::fuzz;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 16 } else { 2000 }))]

        #[test]
        fn random_programs_give_the_same_answers(program in prop::collection::vec(any::<u8>(), 0..1000)) {
            fuzz(&program);
        }
    }
}
