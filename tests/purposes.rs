//! Purposes as programs use them: names, limits, scopes, spans on other threads, and several heaps at once.
#![cfg(not(loom))]

use spanheap::base::purpose::{MAX_DECLARED, MAX_NAME};
use spanheap::span::{SoftLimitCallback, SoftLimitEvent};
use spanheap::{Bytes, Config, Heap, Purpose, Scarce};
use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Barrier, Mutex};
use std::thread;

fn heap() -> Heap {
    Heap::new(Config { reserve: Bytes::gib(1), ..Config::default() }).unwrap()
}

fn in_order(heap: &Heap) {
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

/// Runs `work` on a thread of its own, and waits until that has wholly ended: a scope alone does not wait for what
/// a thread does when it ends.
fn on_a_thread(work: impl FnOnce() + Send) {
    thread::scope(|scope| scope.spawn(work).join().unwrap());
}

/// A block that goes to another thread.
struct Sent(NonNull<u8>, Layout);

// SAFETY: who has the value has the block.
unsafe impl Send for Sent {}

impl Sent {
    fn free(self, heap: &Heap) {
        // SAFETY: the block is ours.
        unsafe { heap.deallocate(self.0, self.1) }
    }
}

fn block(heap: &Heap, size: usize) -> Sent {
    let layout = Layout::from_size_align(size, 16).unwrap();
    Sent(heap.allocate(layout).unwrap(), layout)
}

#[test]
fn as_many_as_there_is_room_for() {
    let heap = heap();
    for i in 0..MAX_DECLARED {
        let purpose = heap.declare(&format!("purpose-{i}")).unwrap();
        drop(purpose.allocate_span(Bytes(1)).unwrap());
        let again = heap.declare(&format!("purpose-{i}")).unwrap_err();
        assert_eq!(again.to_string(), format!("a purpose named purpose-{i} exists already"));
    }
    let full = heap.declare("one-more").unwrap_err().to_string();
    assert_eq!(full, "a heap has at most 200 declared purposes");
    assert_eq!(heap.snapshot().count, 205);
    in_order(&heap);
}

#[test]
fn bad_names_are_refused() {
    let heap = heap();
    let long = "x".repeat(MAX_NAME + 1);
    for (name, why) in [
        ("", "a purpose needs a name"),
        ("two words", "' ' cannot stand in a purpose's name (a-z A-Z 0-9 - _ . /)"),
        ("naïve", "'ï' cannot stand in a purpose's name (a-z A-Z 0-9 - _ . /)"),
        (&long, "a purpose's name has at most 47 bytes"),
        ("blocks", "a purpose named blocks exists already"),
        ("objects", "a purpose named objects exists already"),
    ] {
        assert_eq!(heap.declare(name).unwrap_err().to_string(), why);
    }
    assert_eq!(heap.declare(&long[1..]).unwrap().name().as_str(), &long[1..]);
    in_order(&heap);
}

#[test]
fn a_hard_limit_refuses_and_says_why() {
    let heap = heap();
    let index = heap.declare("index").unwrap();
    index.set_limit(Some(Bytes::kib(64)));
    let held = index.allocate_span(Bytes::kib(40)).unwrap();
    let refused = index.allocate_span(Bytes::kib(32)).unwrap_err();
    assert_eq!(refused.to_string(), "no memory for index: wanted 32 KiB, limit of this purpose 64 KiB");
    assert_eq!((refused.scarce, refused.purpose.as_str()), (Scarce::PurposeLimit, "index"));
    let refused = index.allocate(Layout::from_size_align(30_000, 8).unwrap());
    assert!(refused.is_err() && index.refused() == 2);
    assert_eq!((index.inuse(), index.peak()), (Bytes::kib(40), Bytes::kib(40)));
    // Others are not limited by it, and what is freed can be had again.
    drop(heap.blocks().allocate_span(Bytes::mib(1)).unwrap());
    drop(held);
    let whole = index.allocate_span(Bytes::kib(64)).unwrap();
    // A limit below what is there refuses, and takes nothing away.
    index.set_limit(Some(Bytes::kib(8)));
    assert!(index.allocate_span(Bytes(1)).is_err());
    assert_eq!(index.inuse(), Bytes::kib(64));
    drop(whole);
    index.set_limit(None);
    drop(index.allocate_span(Bytes::mib(10)).unwrap());
    in_order(&heap);
}

/// Eight threads take what there is: never more than the limit, and together all of it.
#[test]
fn a_hard_limit_is_exact_under_a_race() {
    const THREADS: usize = 8;
    const SPAN: Bytes = Bytes::kib(24);
    let heap = heap();
    let scarce = heap.declare("scarce").unwrap();
    scarce.set_limit(Some(Bytes(SPAN.0 * 50)));
    let held = AtomicUsize::new(0);
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (held, barrier) = (&held, &barrier);
            scope.spawn(move || {
                for round in 0..200 {
                    let mut mine = Vec::new();
                    while mine.len() < (round + thread) % 30
                        && let Ok(span) = scarce.allocate_span(SPAN)
                    {
                        assert!(held.fetch_add(1, SeqCst) < 50, "more than the limit");
                        mine.push(span);
                    }
                    held.fetch_sub(mine.len(), SeqCst);
                }
                // Now all keep what they get: together they get everything.
                barrier.wait();
                let mut mine = Vec::new();
                while let Ok(span) = scarce.allocate_span(SPAN) {
                    mine.push(span);
                }
                barrier.wait();
                assert_eq!(scarce.inuse(), Bytes(SPAN.0 * 50));
                barrier.wait();
            });
        }
    });
    assert_eq!((scarce.inuse(), scarce.peak()), (Bytes::ZERO, Bytes(SPAN.0 * 50)));
    assert!(scarce.refused() >= THREADS as u64);
    in_order(&heap);
}

#[test]
fn a_soft_limit_tells_a_callback_that_may_allocate() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    fn called(data: usize, event: &SoftLimitEvent) {
        CALLS.fetch_add(1, SeqCst);
        assert_eq!((event.purpose.as_str(), event.limit), ("cache", Bytes::kib(64)));
        assert!(event.inuse > event.limit);
        // SAFETY: the test hands its heap, which outlives the callback.
        let heap = unsafe { &*(data as *const Heap) };
        block(heap, 100).free(heap);
        block(heap, 100_000).free(heap);
        heap.check().unwrap();
    }
    let heap = heap();
    let cache = heap.declare("cache").unwrap();
    let data = std::ptr::from_ref(&heap) as usize;
    cache.set_soft_limit(Some(Bytes::kib(64)), Some(SoftLimitCallback { call: called, data }));
    assert_eq!(cache.soft_limit(), Some(Bytes::kib(64)));
    let small = cache.allocate_span(Bytes::kib(64)).unwrap();
    assert_eq!(CALLS.load(SeqCst), 0, "at the limit is not above it");
    for times in 1..=3 {
        let over = cache.allocate_span(Bytes(1)).unwrap();
        // Further up is no news.
        drop(cache.allocate_span(Bytes::kib(100)).unwrap());
        assert_eq!((CALLS.load(SeqCst), cache.soft_events()), (times, times as u64));
        drop(over);
    }
    cache.set_soft_limit(None, None);
    drop(cache.allocate_span(Bytes::mib(1)).unwrap());
    assert_eq!(cache.soft_events(), 3);
    drop(small);
    in_order(&heap);
}

/// Which purpose's bytes grow when the heap is asked for a large block.
fn booked<'h>(heap: &'h Heap, purposes: &[Purpose<'h>]) -> Option<usize> {
    let before: Vec<_> = purposes.iter().map(Purpose::inuse).collect();
    let block = block(heap, 100_000);
    let grown = purposes.iter().zip(before).position(|(purpose, before)| purpose.inuse() > before);
    block.free(heap);
    grown
}

#[test]
fn scopes_nest_and_end_with_a_panic() {
    let heap = heap();
    let [a, b] = ["a", "b"].map(|name| heap.declare(name).unwrap());
    let all = [heap.blocks(), a, b];
    assert_eq!(booked(&heap, &all), Some(0));
    a.scope(|| {
        assert_eq!(booked(&heap, &all), Some(1));
        b.scope(|| {
            assert_eq!(booked(&heap, &all), Some(2));
            a.scope(|| assert_eq!(booked(&heap, &all), Some(1)));
            assert_eq!(booked(&heap, &all), Some(2));
            // Another thread is in no scope.
            on_a_thread(|| assert_eq!(booked(&heap, &all), Some(0)));
        });
        assert_eq!(booked(&heap, &all), Some(1));
        let panicked = catch_unwind(AssertUnwindSafe(|| b.scope(|| panic!("on purpose"))));
        assert!(panicked.is_err());
        assert_eq!(booked(&heap, &all), Some(1));
    });
    assert_eq!(booked(&heap, &all), Some(0));
    // A block for a purpose of its own does not ask for the scope.
    let own = b.scope(|| a.allocate(Layout::new::<u64>()).unwrap());
    assert_eq!((a.inuse() > Bytes::ZERO, b.inuse() > Bytes::ZERO), (true, false));
    Sent(own, Layout::new::<u64>()).free(&heap);
    in_order(&heap);
}

#[test]
fn what_other_threads_free_is_booked_where_it_was_allocated() {
    let heap = heap();
    let purposes = ["red", "green", "blue"].map(|name| heap.declare(name).unwrap());
    let (send, receive) = channel();
    thread::scope(|scope| {
        let makers: Vec<_> = purposes
            .into_iter()
            .map(|purpose| {
                let (send, heap) = (send.clone(), &heap);
                scope.spawn(move || {
                    purpose.scope(|| (0..3000).for_each(|i| send.send(block(heap, i * 7 % 5000)).unwrap()));
                    send.send(block(heap, 100_000)).unwrap();
                })
            })
            .collect();
        drop(send);
        let (white, heap) = (heap.declare("white").unwrap(), &heap);
        let taker =
            scope.spawn(move || white.scope(|| receive.into_iter().for_each(|block| block.free(heap))));
        makers.into_iter().for_each(|maker| maker.join().unwrap());
        taker.join().unwrap();
        assert_eq!(white.peak(), Bytes::ZERO, "freeing in a scope books nothing on it");
    });
    heap.release_all();
    for purpose in purposes {
        assert_eq!(purpose.inuse(), Bytes::ZERO, "{purpose:?}");
        assert!(purpose.peak() > Bytes::mib(1), "{purpose:?} had {}", purpose.peak());
    }
    in_order(&heap);
}

#[test]
fn a_span_is_dropped_by_another_thread() {
    let heap = heap();
    let spans = heap.declare("spans").unwrap();
    let made: Vec<_> =
        [1, 15, 16, 100, 1000].map(|pages| spans.allocate_span(Bytes::kib(8 * pages)).unwrap()).into();
    assert_eq!(spans.inuse(), Bytes::kib(8 * 1132));
    on_a_thread(move || {
        for mut span in made {
            assert_eq!(span.purpose().as_str(), "spans");
            assert!(span.zero().iter().all(|&byte| byte == 0));
            span.zero().fill(1);
        }
    });
    assert_eq!(spans.inuse(), Bytes::ZERO);
    // What was dirty comes back clean, and what was never touched was not kept.
    assert!(spans.allocate_span(Bytes::kib(8 * 1132)).unwrap().zero().iter().all(|&byte| byte == 0));
    in_order(&heap);
}

#[test]
fn a_heaps_limit_refuses_and_recovers() {
    let limit = Bytes::mib(8);
    let heap = Heap::new(Config { reserve: Bytes::gib(1), limit: Some(limit), ..Config::default() }).unwrap();
    assert_eq!(heap.limit(), Some(limit));
    let [one, two] = ["one", "two"].map(|name| heap.declare(name).unwrap());
    for _ in 0..3 {
        let mut held = Vec::new();
        let refused = loop {
            match one.allocate_span(Bytes::kib(520)) {
                Ok(mut span) => {
                    span.zero().fill(1);
                    held.push(span);
                }
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.to_string(), "no memory for one: wanted 520 KiB, limit of the heap 8 MiB");
        assert!(held.len() >= 14, "{} spans of 520 KiB fit into 8 MiB", held.len());
        in_order(&heap);
        // Small blocks run into it as well, and what one purpose frees another can have.
        let mut blocks = Vec::new();
        while let Ok(block) = two.allocate(Layout::new::<[u8; 4000]>()) {
            blocks.push(Sent(block, Layout::new::<[u8; 4000]>()));
            assert!(blocks.len() < 3000, "there is no limit");
        }
        drop(held);
        assert!(two.allocate_span(Bytes::mib(4)).is_ok());
        blocks.into_iter().for_each(|block| block.free(&heap));
        in_order(&heap);
    }
    heap.set_limit(None);
    drop(one.allocate_span(Bytes::mib(100)).unwrap());
    in_order(&heap);
}

#[test]
fn two_heaps_on_the_same_threads_do_not_mix() {
    const THREADS: usize = 3;
    let heaps = [heap(), heap()];
    let purposes = heaps.each_ref().map(|heap| heap.declare("same-name").unwrap());
    // What is booked where is seen by one thread at a time, while the others rest.
    let (ready, seen, alone) = (Barrier::new(THREADS), Barrier::new(THREADS), Mutex::new(()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let blocks =
                    heaps.each_ref().map(|heap| (0..500).map(|i| block(heap, i * 10)).collect::<Vec<_>>());
                ready.wait();
                let guard = alone.lock().unwrap();
                purposes[0].scope(|| {
                    assert_eq!(booked(&heaps[1], &[heaps[1].blocks(), purposes[1]]), Some(0));
                    purposes[1].scope(|| {
                        assert_eq!(booked(&heaps[0], &[heaps[0].blocks(), purposes[0]]), Some(1));
                        assert_eq!(booked(&heaps[1], &[heaps[1].blocks(), purposes[1]]), Some(1));
                    });
                });
                drop(guard);
                seen.wait();
                // SAFETY: the block is the other heap's, which this one refuses.
                let misuse = unsafe { heaps[0].free(blocks[1][3].0) }.unwrap_err();
                assert!(misuse.to_string().contains("is not in this heap"), "{misuse}");
                for (heap, blocks) in heaps.iter().zip(blocks) {
                    blocks.into_iter().for_each(|block| block.free(heap));
                }
            });
        }
    });
    heaps.iter().for_each(in_order);
}

#[test]
fn a_heap_goes_before_the_threads_that_used_it() {
    let (to_threads, from_main): (Vec<_>, Vec<_>) = (0..4).map(|_| channel::<()>()).unzip();
    let (to_main, from_threads) = channel();
    let first = std::sync::Arc::new(heap());
    let second = std::sync::Arc::new(heap());
    let threads: Vec<_> = from_main
        .into_iter()
        .map(|wait| {
            let (first, second, done) = (first.clone(), second.clone(), to_main.clone());
            thread::spawn(move || {
                block(&first, 100).free(&first);
                block(&second, 100).free(&second);
                drop(first);
                done.send(()).unwrap();
                wait.recv().unwrap();
                // The first heap is gone; its place in this thread's list is taken by a third one.
                block(&second, 200).free(&second);
                let third = heap();
                block(&third, 300).free(&third);
                in_order(&third);
            })
        })
        .collect();
    threads.iter().for_each(|_| from_threads.recv().unwrap());
    drop(std::sync::Arc::into_inner(first).expect("all threads have let go of it"));
    to_threads.iter().for_each(|thread| thread.send(()).unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    in_order(&second);
}

/// A thread has a mutator of its own in 16 heaps; in others it works through the shared one, and all the same.
#[test]
fn more_heaps_than_a_thread_has_places_for() {
    for _ in 0..2 {
        let heaps: Vec<_> = (0..40).map(|_| heap()).collect();
        let blocks: Vec<_> =
            heaps.iter().flat_map(|heap| (0..50).map(move |i| (heap, block(heap, i * 900)))).collect();
        on_a_thread(|| {
            for (heap, block) in blocks {
                self::block(heap, 10).free(heap);
                block.free(heap);
            }
        });
        for heap in &heaps {
            heap.release_all();
            in_order(heap);
            assert_eq!(heap.blocks().inuse(), Bytes::ZERO);
        }
    }
}

#[test]
fn hundreds_of_heaps_at_once() {
    let small = Config { reserve: Bytes::mib(64), ..Config::default() };
    let heaps: Vec<_> = (0..300).map(|_| Heap::new(small).unwrap()).collect();
    for _ in 0..3 {
        on_a_thread(|| {
            for heap in &heaps {
                let span = heap.blocks().allocate_span(Bytes(1)).unwrap();
                block(heap, 1000).free(heap);
                drop(span);
            }
        });
    }
    for heap in &heaps {
        heap.release_all();
        assert_eq!(heap.blocks().inuse(), Bytes::ZERO);
        in_order(heap);
    }
}

#[test]
fn a_reservation_charges_before_the_work() {
    let heap = Heap::new(Config::default()).unwrap();
    let queries = heap.declare("queries").unwrap();
    queries.set_limit(Some(Bytes::mib(1)));
    let first = queries.reserve(Bytes::kib(600)).unwrap();
    assert!(queries.reserve(Bytes::kib(600)).is_err());
    assert!(queries.allocate_span(Bytes::kib(600)).is_err(), "the rest is promised to somebody");
    assert_eq!((queries.inuse(), queries.reserved(), queries.refused()), (Bytes::ZERO, Bytes::kib(600), 2));
    let other = queries.allocate_span(Bytes::kib(424)).unwrap();
    let mine = first.allocate_span(Bytes::kib(400)).unwrap();
    assert_eq!((first.left(), queries.reserved()), (Bytes::kib(200), Bytes::kib(200)));
    assert!(queries.allocate_span(Bytes::kib(8)).is_err());
    assert!(first.allocate_span(Bytes::kib(208)).is_err(), "more than is left of the promise");
    assert!(first.grow(Bytes::kib(8)).is_err());
    let second = first.split(Bytes::kib(136)).unwrap();
    assert!(first.split(Bytes::kib(65)).is_none());
    assert_eq!(first.shrink(Bytes::kib(100)), Bytes::kib(64));
    second.grow(Bytes::kib(64)).unwrap();
    let layout = Layout::from_size_align(1000, 16).unwrap();
    let block = second.allocate(layout).unwrap();
    assert!(second.left() < Bytes::kib(200), "the block's span was drawn");
    drop((first, second));
    assert_eq!(queries.reserved(), Bytes::ZERO);
    heap.check().unwrap();
    drop((other, mine));
    // SAFETY: the test's own block.
    unsafe { heap.deallocate(block, layout) };
    heap.release_all();
    assert_eq!(queries.inuse(), Bytes::ZERO);
    let snapshot = heap.snapshot();
    snapshot.check().unwrap();
    assert!(snapshot.released.on_request > 0);
    heap.check().unwrap();
}

#[test]
fn promises_and_charges_never_pass_the_limit_together() {
    let heap = Heap::new(Config::default()).unwrap();
    let purpose = heap.declare("crowded").unwrap();
    let limit = Bytes::mib(2);
    purpose.set_limit(Some(limit));
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            scope.spawn(move || {
                for turn in 0..300 {
                    let wanted = Bytes::kib(8 * (1 + (turn * 7 + thread) % 60));
                    if thread % 2 == 0 {
                        let span = purpose.allocate_span(wanted);
                        assert!(purpose.inuse().0 <= limit.0);
                        drop(span);
                    } else if let Ok(promise) = purpose.reserve(wanted) {
                        let span = promise.allocate_span(wanted).expect("what was promised is had");
                        assert!(purpose.inuse().0 <= limit.0);
                        drop(span);
                    }
                }
            });
        }
    });
    assert_eq!((purpose.inuse(), purpose.reserved()), (Bytes::ZERO, Bytes::ZERO));
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

#[test]
fn a_refusal_for_the_hard_limit_is_an_event() {
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    fn called(_: usize, event: &SoftLimitEvent) {
        assert!(event.refused && event.limit == Bytes::kib(64) && event.purpose.as_str() == "bounded");
        REFUSED.fetch_add(1, SeqCst);
    }
    let heap = Heap::new(Config::default()).unwrap();
    let bounded = heap.declare("bounded").unwrap();
    bounded.set_limit(Some(Bytes::kib(64)));
    bounded.set_soft_limit(None, Some(SoftLimitCallback { call: called, data: 0 }));
    assert!(bounded.allocate_span(Bytes::kib(65)).is_err());
    assert!(bounded.reserve(Bytes::kib(65)).is_err());
    assert!(bounded.allocate(Layout::from_size_align(70_000, 16).unwrap()).is_err());
    assert_eq!((REFUSED.load(SeqCst), bounded.refused()), (3, 3));
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}
