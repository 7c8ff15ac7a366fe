//! Work buffers and what is made of them, against plain lists.

use crate::base::Bytes;
use crate::base::purpose::WORK_BUFFERS;
use crate::gc::queue::{Entry, Queue};
use crate::gc::work::{BUFFER, ENTRIES, Of, Pair, Supply, WorkBuffers};
use crate::object::testing::{Bench, Hand};
use crate::os::testing::balance;
use crate::span::Ground;
use crate::stats::Account;
use proptest::prelude::*;
use std::collections::VecDeque;

fn ground<'a>(bench: &'a Bench, hand: &Hand) -> Ground<'a> {
    Ground { heap: &bench.heap, meters: &bench.meters, ledger: bench.books.ledger(hand.shard) }
}

fn supply<'a>(bench: &'a Bench, buffers: &'a WorkBuffers, hand: &'a mut Hand) -> Supply<'a> {
    Supply { buffers, ground: ground(bench, hand), spans: &mut hand.spans }
}

/// Ends a cycle, and proves that everything is given back.
fn finish(bench: &Bench, buffers: &WorkBuffers, hand: &mut Hand) {
    let ground = ground(bench, hand);
    let spans = buffers.bytes();
    assert_eq!(balance(&bench.books, Account::Span(WORK_BUFFERS)), spans.0 as i64);
    // SAFETY: nobody marks, and all buffers are back.
    unsafe {
        buffers.retire(&ground);
        while buffers.give_back(&ground, &mut hand.spans, 1) {
            assert!(buffers.bytes() > Bytes::ZERO);
        }
    }
    assert_eq!(buffers.bytes(), Bytes::ZERO);
    assert_eq!(balance(&bench.books, Account::Span(WORK_BUFFERS)), 0);
}

/// Programs with long runs of one operation: short ones never fill a buffer.
fn program() -> impl Strategy<Value = Vec<(u8, usize)>> {
    prop::collection::vec((0..4_u8, 1..3 * ENTRIES), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 32 } else { 256 }))]

    #[test]
    fn a_pair_is_a_stack_that_shares_its_lower_half(program in program()) {
        let (bench, buffers) = (Bench::new(), WorkBuffers::new());
        let mut hand = bench.hand();
        let mut supply = supply(&bench, &buffers, &mut hand);
        let (mut pair, mut twin, mut next) = (Pair::new(), Vec::new(), 0);
        for (operation, times) in program {
            for _ in 0..times {
                match operation {
                    0 | 1 => {
                        pair.push(next, &mut supply).unwrap();
                        twin.push(next);
                        next += 1;
                    }
                    2 => match pair.pop() {
                        Some(entry) => {
                            let at = twin.iter().rposition(|&one| one == entry).unwrap();
                            twin.remove(at);
                        }
                        None => {
                            prop_assert!(pair.is_empty());
                            prop_assert_eq!(pair.refill(&mut supply), !twin.is_empty());
                        }
                    },
                    _ => {
                        pair.split(&mut supply);
                        break;
                    }
                }
            }
        }
        pair.put_away(&mut supply);
        prop_assert!(pair.is_empty() && !pair.has_buffers());
        while pair.refill(&mut supply) {
            while let Some(entry) = pair.pop() {
                let at = twin.iter().position(|&one| one == entry);
                twin.swap_remove(at.expect("an entry came out that was not in it"));
            }
        }
        prop_assert!(twin.is_empty(), "entries were lost: {twin:?}");
        pair.put_away(&mut supply);
        finish(&bench, &buffers, &mut hand);
    }

    #[test]
    fn a_queue_is_a_queue_whose_oldest_go_to_others(program in program()) {
        let (bench, buffers) = (Bench::new(), WorkBuffers::new());
        let mut hand = bench.hand();
        let mut supply = supply(&bench, &buffers, &mut hand);
        let (mut queue, mut twin, mut next) = (Queue::new(), VecDeque::new(), 0);
        let mut shared = Vec::new();
        for (operation, times) in program {
            for _ in 0..times {
                match operation {
                    0 | 1 => {
                        queue.put(Entry::new(next, next % 512), &mut supply).unwrap();
                        twin.push_back(next);
                        next += 1;
                    }
                    2 => {
                        let ahead = queue.peek(1);
                        prop_assert!(ahead.is_none() || ahead.map(Entry::page) == twin.get(1).copied());
                        let entry = queue.get(&mut supply);
                        prop_assert_eq!(entry.map(Entry::page), twin.pop_front());
                        prop_assert!(entry.is_none_or(|entry| entry.index() == entry.page() % 512));
                    }
                    _ => {
                        if queue.split(&mut supply) {
                            let buffer = supply.take_full(Of::Pages).unwrap();
                            // SAFETY: just taken.
                            while let Some(entry) = unsafe { (*buffer).pop_first() } {
                                let page = (entry >> 16) as usize;
                                let at = twin.iter().position(|&one| one == page).unwrap();
                                twin.remove(at);
                                shared.push(page);
                            }
                            // SAFETY: ours, and empty.
                            unsafe { supply.give(buffer) };
                        }
                        break;
                    }
                }
            }
        }
        prop_assert_eq!(queue.is_empty(), twin.is_empty());
        queue.put_away(&mut supply);
        prop_assert!(queue.is_empty() && !queue.has_buffers());
        while queue.refill(&mut supply) {
            shared.extend(std::iter::from_fn(|| queue.get(&mut supply)).map(Entry::page));
        }
        queue.put_away(&mut supply);
        twin.iter().for_each(|page| assert!(shared.contains(page), "page {page} was lost"));
        finish(&bench, &buffers, &mut hand);
    }
}

#[test]
fn threads_lose_no_entry() {
    const EACH: u64 = 20_000;
    let (bench, buffers) = (Bench::new(), WorkBuffers::new());
    let mut all: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (bench, buffers) = (&bench, &buffers);
                scope.spawn(move || {
                    let mut hand = bench.hand();
                    let mut supply = supply(bench, buffers, &mut hand);
                    let (mut pair, mut mine) = (Pair::new(), Vec::new());
                    for entry in thread * EACH..(thread + 1) * EACH {
                        pair.push(entry, &mut supply).unwrap();
                        if entry % 3 == 0 {
                            mine.extend(pair.pop());
                        }
                        if entry % 1000 == 0 {
                            pair.split(&mut supply);
                        }
                    }
                    pair.put_away(&mut supply);
                    while pair.refill(&mut supply) {
                        mine.extend(std::iter::from_fn(|| pair.pop()));
                    }
                    pair.put_away(&mut supply);
                    mine
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert!(all.into_iter().eq(0..4 * EACH));
    finish(&bench, &buffers, &mut bench.hand());
}

#[test]
fn without_memory_nothing_changes() {
    let (bench, buffers) = (Bench::new(), WorkBuffers::new());
    let mut hand = bench.hand();
    bench.meters.get(WORK_BUFFERS).set_hard_limit(Some(Bytes::kib(32)));
    let mut supply = supply(&bench, &buffers, &mut hand);
    let mut pair = Pair::new();
    let pushed = (0..).find(|&entry| pair.push(entry, &mut supply).is_err()).unwrap();
    assert_eq!(pushed as usize, Bytes::kib(32).0 / BUFFER * ENTRIES, "room for as many as fit");
    assert!(pair.push(0, &mut supply).is_err());
    let mut queue = Queue::new();
    assert!(queue.put(Entry::new(1, 1), &mut supply).is_err() && queue.is_empty());
    let mut count = 0;
    loop {
        count += std::iter::from_fn(|| pair.pop()).count() as u64;
        if !pair.refill(&mut supply) {
            break;
        }
    }
    assert_eq!(count, pushed);
    pair.put_away(&mut supply);
    assert!(queue.put(Entry::new(1, 1), &mut supply).is_ok());
    assert_eq!(queue.get(&mut supply), Some(Entry::new(1, 1)));
    queue.put_away(&mut supply);
    finish(&bench, &buffers, &mut hand);
}
