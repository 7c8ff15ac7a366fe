//! Our half of `rivals gospans`: time to allocate and free a span, on one thread.
//!
//! Two doors are timed. `heap` is [`Ground`], what corresponds to Go's `allocManual` and `freeManual`: the books,
//! the limits, the record and the map are in it. `front` is [`Purpose::allocate_span`](spanheap::Purpose) and the
//! drop of what it gives: what a program that uses the crate calls. Lines are those of the Go half.
//!
//! # Safety
//!
//! Books and meters are made in zeroed memory that is leaked, so they stand still and live as long as the process.
//! A span is freed once, by the loop that allocated it, and its memory is never touched.

use std::alloc::{Layout, alloc_zeroed};
use std::error::Error;
use std::time::Instant;

use spanheap::base::purpose::WORK_BUFFERS;
use spanheap::os::System;
use spanheap::span::meter::Meters;
use spanheap::span::{Ground, PageHeap, Request, SpanCache, SpanId};
use spanheap::stats::{BookShard, Books};
use spanheap::{Bytes, Config, Heap, ManualSpan, Pages};

/// As in `go/spans_test.go`.
const ROUNDS: usize = 201;
const PAIRS: usize = 6400;
const HELD: [usize; 2] = [1, 16];
const PAGES: [usize; 4] = [1, 2, 4, 8];

fn main() -> Result<(), Box<dyn Error>> {
    let books: &Books = leaked(|at| {
        // SAFETY: the memory is zeroed, fresh and never moves.
        unsafe { Books::init(at) }
    });
    let meters: &Meters = leaked(|at| {
        // SAFETY: the memory is zeroed and fresh.
        unsafe { Meters::init(at) }
    });
    let shard: &BookShard = Box::leak(Box::new(BookShard::new()));
    // SAFETY: the shard was just made and lives for ever.
    unsafe { books.link(shard) };
    let ledger = books.ledger(shard);
    let heap = PageHeap::reserve(System::Linux, Bytes::mib(1024), Bytes::mib(64), ledger)
        .map_err(|error| format!("{error:?}"))?;
    let ground = Ground { heap: &heap, meters, ledger };
    report("heap", |pages, held| of_heap(ground, pages, held));

    let heap = Heap::new(Config::new()).map_err(|error| format!("{error:?}"))?;
    report("front", |pages, held| of_front(&heap, pages, held));
    Ok(())
}

/// Zeroed memory for ever, and what `init` makes of it.
fn leaked<T>(init: impl FnOnce(*mut T)) -> &'static T {
    // SAFETY: none of the types made here is empty.
    let at = unsafe { alloc_zeroed(Layout::new::<T>()) }.cast::<T>();
    assert!(!at.is_null(), "no memory");
    init(at);
    // SAFETY: `init` has made a value there, and nobody frees it.
    unsafe { &*at }
}

/// Prints a line for each case: median and best of the rounds.
fn report(door: &str, run: impl Fn(Pages, usize)) {
    for (held, pages) in HELD.into_iter().flat_map(|held| PAGES.map(|pages| (held, pages))) {
        let time = |_| {
            let start = Instant::now();
            run(Pages(pages), held);
            start.elapsed().as_secs_f64() * 1e9 / PAIRS as f64
        };
        let mut times: Vec<f64> = (0..ROUNDS).map(time).collect();
        times.sort_unstable_by(f64::total_cmp);
        println!(
            "span-pair of={door} pages={pages} held={held} ns={:.1} best={:.1}",
            times[ROUNDS / 2],
            times[0]
        );
    }
}

/// [`PAIRS`] spans of `pages`, `held` at once, from the page heap.
fn of_heap(ground: Ground, pages: Pages, held: usize) {
    let mut cache = SpanCache::default();
    let mut spans: Vec<SpanId> = Vec::with_capacity(held);
    for _ in 0..PAIRS / held {
        for _ in 0..held {
            let span = ground.allocate(&mut cache, Request::new(WORK_BUFFERS, pages));
            spans.push(span.expect("nothing limits this heap").id);
        }
        for id in spans.drain(..) {
            // SAFETY: the span is ours and nobody else has seen it. Its pages count as touched, as Go's do.
            unsafe { ground.free(&mut cache, id, pages) };
        }
    }
    ground.flush(&mut cache);
}

/// The same through the crate's front door.
fn of_front(heap: &Heap, pages: Pages, held: usize) {
    let purpose = heap.blocks();
    let mut spans: Vec<ManualSpan> = Vec::with_capacity(held);
    for _ in 0..PAIRS / held {
        for _ in 0..held {
            spans.push(purpose.allocate_span(pages.bytes()).expect("nothing limits this heap"));
        }
        spans.drain(..).for_each(drop);
    }
}
