//! The room against recorded traces, against its slow twin, and in its corners.

use super::{PageAllocator, PageCache, Taken};
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

mod corners {
    use super::*;
    use crate::base::Bytes;
    use crate::os::testing::{balance, simulated};
    use crate::page::PageError;
    use crate::page::summary::Summary;
    use crate::stats::{Account, MetadataKind};

    #[test]
    fn nothing_comes_from_a_heap_without_chunks() {
        let mut bench = Bench::new(System::Linux, 64);
        assert_eq!(bench.take(1), None);
        assert_eq!(bench.pages.allocate_aligned(Pages(1), Pages(8)), None);
        assert_eq!(bench.pages.allocate_at(PageId(0), Pages(1)), None);
        assert!(bench.pages.fill_cache().is_empty());
        assert_eq!(bench.pages.take_releasable(PageId(1000), Pages(1)), None);
        assert_eq!(bench.pages.top(), None);
        assert!(!bench.pages.is_free(PageId(0)));
        bench.check();
    }

    #[test]
    fn first_fit_is_by_address() {
        let mut bench = Bench::with(&[0]);
        assert_eq!((0..5).map(|_| bench.take(10).unwrap()).collect::<Vec<_>>(), [0, 10, 20, 30, 40]);
        bench.put(10, 10);
        bench.put(30, 5);
        assert_eq!(bench.take(5), Some(10));
        assert_eq!(bench.take(6), Some(50));
        assert_eq!(bench.take(5), Some(15));
        assert_eq!(bench.take(5), Some(30));
        bench.check();
    }

    #[test]
    fn a_failed_large_search_hides_no_small_run() {
        let mut bench = Bench::with(&[0]);
        assert_eq!(bench.take(512), Some(0));
        bench.put(100, 3);
        assert_eq!(bench.take(4), None);
        assert_eq!(bench.take(3), Some(100));
        assert_eq!(bench.take(1), None);
        bench.put(511, 1);
        assert_eq!(bench.take(1), Some(511));
        bench.check();
    }

    #[test]
    fn the_hint_survives_holes_behind_the_last_page_of_a_chunk() {
        // What follows chunk 7 was never grown, in the same block of the tree and in the next one.
        for next in [9, 63, 64, 600, 5000] {
            let mut bench = Bench::with(&[7, next]);
            assert_eq!(bench.take(512), Some(7 * 512));
            bench.check();
            assert_eq!(bench.take(1), Some(next * 512));
            bench.put(7 * 512 + 500, 12);
            let mut cache = bench.pages.fill_cache();
            assert_eq!(cache.pages(), Pages(12));
            bench.check();
            assert_eq!(bench.take(2), Some(next * 512 + 1));
            bench.pages.return_cache(&mut cache);
            assert_eq!(bench.take(13), Some(next * 512 + 3));
            assert_eq!(bench.take(12), Some(7 * 512 + 500));
            bench.check();
        }
    }

    #[test]
    fn runs_join_over_chunks_and_blocks_of_every_level_but_not_over_holes() {
        for border in [1, 8, 64, 512, 4096] {
            let mut bench = Bench::with(&[border - 1, border]);
            assert_eq!(bench.take(1025), None);
            assert_eq!(bench.take(300), Some((border - 1) * 512));
            assert_eq!(bench.take(600), Some((border - 1) * 512 + 300));
            bench.check();
        }
        let mut bench = Bench::with(&[7, 9]);
        assert_eq!(bench.take(513), None);
    }

    #[test]
    fn an_entry_of_the_root_can_be_wholly_free() {
        let mut bench = Bench::new(System::Linux, 3 * 4096);
        bench.grow(0, 3 * 4096);
        bench.check();
        assert_eq!(bench.pages.free_pages(), Pages(3 << 21));
        assert_eq!(bench.take((3 << 21) + 1), None);
        assert_eq!(bench.take(1), Some(0));
        assert_eq!(bench.take(2 << 21), Some(1));
        assert_eq!(bench.take(1 << 21), None);
        assert_eq!(bench.take((1 << 21) - 1), Some((2 << 21) + 1));
        bench.put(1, 2 << 21);
        bench.check();
        assert_eq!(bench.take(2 << 21), Some(1));
    }

    #[test]
    fn a_middle_that_changes_between_ends_that_do_not_is_summed_up() {
        let mut bench = Bench::with(&[0, 1, 2, 3]);
        // First and last chunk lose one page in the middle of what is used: their summaries stay as they were.
        bench.pages.allocate_at(PageId(0), Pages(2048)).unwrap();
        bench.put(0, 2048);
        assert_eq!(bench.take(2048), Some(0));
        bench.put(511, 1026);
        bench.check();
        assert_eq!(bench.take(1026), Some(511));
        bench.check();
    }

    #[test]
    fn aligned_runs_lose_no_pages() {
        let mut bench = Bench::with(&[0, 1, 2, 3, 6, 7, 8, 9]);
        assert_eq!(bench.take(1), Some(0));
        let aligned = |bench: &mut Bench, pages, align| {
            bench.pages.allocate_aligned(Pages(pages), Pages(align)).map(|taken| taken.page.0)
        };
        assert_eq!(aligned(&mut bench, 1, 512), Some(512));
        assert_eq!(aligned(&mut bench, 3, 2), Some(2));
        assert_eq!(aligned(&mut bench, 600, 1024), Some(1024));
        // The next multiple of 4096 pages lies in the second piece, after a hole.
        assert_eq!(aligned(&mut bench, 1000, 4096), Some(4096));
        assert_eq!(aligned(&mut bench, 1, 8192), None);
        assert_eq!(aligned(&mut bench, 1, 1 << 40), None);
        assert_eq!(bench.take(1), Some(1));
        assert_eq!(bench.take(507), Some(5));
        bench.check();
        assert_eq!(bench.pages.free_pages(), Pages(8 * 512 - 1 - 1 - 3 - 600 - 1000 - 1 - 507));
    }

    #[test]
    fn growth_in_place_takes_exactly_what_is_there() {
        let mut bench = Bench::with(&[0, 1, 3]);
        assert_eq!(bench.take(10), Some(0));
        let at = |bench: &mut Bench, page, pages| bench.pages.allocate_at(PageId(page), Pages(pages));
        assert_eq!(at(&mut bench, 5, 10), None);
        assert_eq!(at(&mut bench, 10, 600).map(|taken| taken.released), Some(Pages(600)));
        assert_eq!(at(&mut bench, 610, 415), None, "reaches into a hole");
        assert_eq!(at(&mut bench, 1536, 513), None, "reaches beyond the end");
        assert_eq!(at(&mut bench, usize::MAX, 2), None);
        assert_eq!(at(&mut bench, 610, usize::MAX - 2), None);
        assert_eq!(at(&mut bench, 610, 414).map(|taken| taken.page), Some(PageId(610)));
        bench.check();
    }

    #[test]
    fn a_cache_takes_in_what_was_handed_out_before_it() {
        let mut bench = Bench::with(&[0]);
        assert_eq!(bench.take(10), Some(0));
        let mut cache = bench.pages.fill_cache();
        assert_eq!(cache, PageCache::new(PageId(0), u64::MAX << 10, u64::MAX << 10));
        assert!(cache.free(PageId(0), Pages(4)));
        assert_eq!(cache.allocate(Pages(2)).unwrap().page, PageId(0));
        assert_eq!(bench.take(1), Some(64));
        assert_eq!(bench.pages.free_pages(), Pages(512 - 65), "pages in a cache are not free");
        bench.pages.return_cache(&mut cache);
        assert_eq!(cache, PageCache::EMPTY);
        bench.check();
        assert_eq!(bench.pages.free_pages(), Pages(512 - 65 + 56));
        assert_eq!(bench.pages.released_pages(), Pages(512 - 65 + 54));
        assert_eq!(bench.take(3), Some(10));
        assert_eq!(bench.take(2), Some(2));
    }

    #[test]
    fn released_pages_are_known_through_a_cache() {
        let mut bench = Bench::with(&[0]);
        bench.pages.allocate_at(PageId(0), Pages(8)).unwrap();
        bench.put(0, 8);
        let mut cache = bench.pages.fill_cache();
        assert_eq!(cache.released(), Pages(56));
        assert_eq!(bench.pages.released_pages(), Pages(448));
        assert_eq!(cache.allocate(Pages(10)).unwrap().released, Pages(2));
        bench.pages.return_cache(&mut cache);
        assert_eq!(bench.pages.released_pages(), Pages(502));
        assert_eq!(bench.pages.releasable_pages(), Pages(0));
        bench.check();
    }

    #[test]
    fn memory_goes_back_from_the_top_and_once() {
        let mut bench = Bench::with(&[0, 1, 70]);
        for chunk in [0, 1, 70] {
            bench.pages.allocate_at(PageId(chunk * 512), Pages(512)).unwrap();
        }
        bench.put(10, 5);
        bench.put(70 * 512 + 100, 20);
        let top = bench.pages.top().unwrap();
        let (page, pages) = bench.pages.take_releasable(top, Pages(4)).unwrap();
        assert_eq!((page, pages), (PageId(70 * 512 + 116), Pages(4)));
        assert!(!bench.pages.is_free(page), "nobody gets it while the system takes it");
        bench.check();
        bench.pages.free_released(page, pages);
        let rest = bench.pages.take_releasable(top, Pages(512)).unwrap();
        assert_eq!(rest, (PageId(70 * 512 + 100), Pages(16)));
        // The system refused these; they are as before, and found again.
        bench.pages.free(rest.0, rest.1);
        assert_eq!(bench.pages.take_releasable(top, Pages(512)), Some(rest));
        bench.pages.free_released(rest.0, rest.1);
        assert_eq!(bench.pages.take_releasable(top, Pages(512)), Some((PageId(10), Pages(5))));
        bench.pages.free_released(PageId(10), Pages(5));
        assert_eq!(bench.pages.take_releasable(top, Pages(512)), None);
        assert_eq!(bench.pages.released_pages(), Pages(25));
        assert_eq!(bench.pages.releasable_pages(), Pages(0));
        bench.check();
    }

    #[test]
    fn growth_refused_at_any_call_changes_no_page() {
        for far in [1, 7, 5000] {
            let mut refusals = 0;
            loop {
                let (system, handle) = simulated();
                let mut bench = Bench::new(handle, 8192);
                bench.grow(0, 1);
                system.refuse(refusals, 1);
                let result = bench.pages.grow(ChunkId(far), 300, bench.books.shared().ledger());
                bench.check();
                if result.is_ok() {
                    assert_eq!(bench.pages.free_pages(), Pages(301 * 512));
                    break;
                }
                refusals += 1;
                assert_eq!(bench.pages.free_pages(), Pages(512));
                assert_eq!(bench.pages.chunks().count(), 1);
                assert_eq!(bench.take(513), None);
                // The next attempt goes on where this one stopped.
                bench.grow(far, 300);
                bench.check();
                assert_eq!(bench.pages.released_pages(), Pages(301 * 512));
            }
            assert!(refusals > 0 || far == 1, "growing to chunk {far} asked for nothing");
        }
    }

    #[test]
    fn creation_refused_at_any_call_leaves_nothing_reserved() {
        for after in 0.. {
            let (system, handle) = simulated();
            let books = books();
            system.refuse(after, 1);
            let made = PageAllocator::new(handle, Pages(1 << 27), books.shared().ledger());
            if let Ok(pages) = made {
                assert!(after > 2);
                // SAFETY: nobody uses it.
                unsafe { pages.destroy() };
                assert_eq!(system.reserved_bytes(), Bytes::ZERO);
                return;
            }
            assert_eq!(system.reserved_bytes(), Bytes::ZERO, "refused at call {after}");
        }
    }

    #[test]
    fn metadata_stands_in_the_books_and_is_small() {
        let mut bench = Bench::new(System::Linux, 1 << 18);
        let metadata = |bench: &Bench| {
            balance(&bench.books, Account::Metadata(MetadataKind::PageBitmaps))
                + balance(&bench.books, Account::Metadata(MetadataKind::PageSummaries))
        };
        assert!(metadata(&bench) <= 128 << 10, "{} bytes for nothing", metadata(&bench));
        bench.grow(0, 256);
        assert!(metadata(&bench) <= 256 << 10, "{} bytes for a heap of 1 GiB", metadata(&bench));
    }

    #[test]
    fn chunks_are_seen_from_low_to_high() {
        let mut bench = Bench::with(&[2, 64, 700]);
        bench.pages.allocate_at(PageId(64 * 512 + 100), Pages(12)).unwrap();
        bench.put(64 * 512 + 100, 6);
        let seen: Vec<_> =
            bench.pages.chunks().map(|c| (c.chunk.0, c.free.0, c.released.0, c.longest.0)).collect();
        assert_eq!(seen, [(2, 512, 512, 512), (64, 506, 500, 400), (700, 512, 512, 512)]);
    }

    #[test]
    #[should_panic(expected = "which the heap does not have")]
    fn freeing_what_the_heap_does_not_have_panics() {
        Bench::with(&[0, 2]).put(600, 1);
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "checked in debug builds")]
    #[should_panic(expected = "are not all in use")]
    fn a_second_free_is_noticed() {
        let mut bench = Bench::with(&[0]);
        bench.take(4).unwrap();
        bench.put(0, 4);
        bench.put(3, 1);
    }

    /// Breaks each invariant in turn: the check names it.
    #[test]
    fn the_check_finds_what_is_wrong() {
        let broken = |harm: fn(&mut PageAllocator)| {
            let mut bench = Bench::with(&[0, 1, 9]);
            bench.take(100).unwrap();
            bench.put(10, 20);
            bench.check();
            harm(&mut bench.pages);
            bench.pages.check().unwrap_err()
        };
        let chunk = ChunkId(0);
        assert_eq!(
            broken(|p| p.chunks.at_mut(ChunkId(0)).released.0[0] |= 1),
            PageError::ReleasedInUse(chunk)
        );
        assert_eq!(broken(|p| p.chunks.at_mut(ChunkId(5)).free.0[0] = 1), PageError::NotGrown(ChunkId(5)));
        assert_eq!(broken(|p| p.chunks.clear_releasable(ChunkId(0))), PageError::Unmarked(chunk));
        assert!(matches!(broken(|p| p.free += Pages(1)), PageError::FreeCount { .. }));
        assert!(matches!(broken(|p| p.released += Pages(1)), PageError::ReleasedCount { .. }));
        assert_eq!(broken(|p| p.hint = Some(PageId(50))), PageError::BelowHint(PageId(10)));
        assert_eq!(broken(|p| p.hint = None), PageError::BelowHint(PageId(10)));
        assert_eq!(broken(|p| p.hint = Some(PageId(5 * 512))), PageError::HintOutside(PageId(5 * 512)));
        let wrong = PageError::Summary { level: 4, first: ChunkId(9) };
        assert_eq!(broken(|p| p.tree.set_leaf(ChunkId(9), Summary::NONE)), wrong);
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
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 16 } else { 400 }))]

        #[test]
        fn random_programs_give_the_same_answers(program in prop::collection::vec(any::<u8>(), 0..1000)) {
            fuzz(&program);
        }
    }
}
