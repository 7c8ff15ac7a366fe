//! What the walk says about the room's own invariants, and about the books.
//!
//! # Safety
//! What is broken on purpose is not used any more.

mod scavenger;

use super::{CheckError, Config, Heap};
use crate::base::Bytes;
use crate::base::purpose::{BLOCKS, OBJECTS};
use crate::front::mutator::State;
use crate::stats::{Account, MetadataKind};
use std::alloc::Layout;

fn found(heap: Heap) -> (&'static str, u8) {
    let error = heap.check().expect_err("nothing was found");
    std::mem::forget(heap);
    match error {
        CheckError::Broken(broken) => broken.invariant,
        CheckError::Books(imbalance) => ("stats", imbalance.identity.number()),
        other => panic!("{other}"),
    }
}

/// A heap with a block of this thread's and one of a thread that has ended.
fn used_heap() -> Heap {
    let heap = Heap::new(Config { reserve: Bytes::gib(1), ..Config::default() }).unwrap();
    heap.allocate(Layout::new::<u64>()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| heap.allocate(Layout::new::<[u64; 9]>()).map(drop).unwrap()).join().unwrap();
    });
    heap.check().unwrap();
    heap
}

fn transfer(heap: &Heap, from: Account, to: Account) {
    heap.with_local(|core, mutator, _| core.ledger(mutator).transfer(from, to, Bytes::kib(8)));
}

#[test]
fn metadata_that_the_tables_do_not_have_is_found() {
    let heap = used_heap();
    transfer(&heap, Account::Reserved, Account::Metadata(MetadataKind::SpanMap));
    assert_eq!(found(heap), ("front", 1));
}

#[test]
fn a_mutator_that_is_listed_as_parked_and_is_not_is_found() {
    let heap = used_heap();
    let core = heap.core();
    let parked = core.all_mutators().find(|mutator| mutator.is_parked()).expect("its thread has ended");
    parked.set_state(State::Attached);
    assert_eq!(found(heap), ("front", 2));
}

#[test]
fn a_cache_that_is_nobodys_is_found() {
    let heap = used_heap();
    *heap.core().next_cache.lock() += 1;
    assert_eq!(found(heap), ("front", 3));
    let heap = used_heap();
    let mutator = heap.mutator();
    mutator.set_cache(OBJECTS, mutator.cache(BLOCKS).unwrap().as_ptr());
    assert_eq!(found(heap), ("front", 3));
}

#[test]
fn books_that_do_not_balance_are_found() {
    let heap = used_heap();
    transfer(&heap, Account::Span(OBJECTS), Account::Reserved);
    assert_eq!(found(heap), ("stats", 2));
}

#[test]
fn errors_say_which_invariant_and_both_values() {
    let heap = used_heap();
    heap.core().meters.discharge(BLOCKS, Bytes::kib(8));
    let text = heap.check().unwrap_err().to_string();
    assert!(
        text.starts_with("span 3: bytes of a purpose's spans are its meter's charge; fails for purpose 4: "),
        "{text}"
    );
    std::mem::forget(heap);
    let page = CheckError::Pages(crate::page::PageError::BelowHint(crate::base::PageId(3)));
    assert!(page.to_string().starts_with("page 5: "), "{page}");
}

/// A fork's locks are taken in the order of their ranks, which debug builds check, and given back.
#[test]
fn locks_are_taken_and_given_back_around_a_fork() {
    let heap = used_heap();
    heap.core().before_fork();
    // SAFETY: the locks were just taken.
    unsafe { heap.core().after_fork() };
    heap.check().unwrap();
    heap.allocate(Layout::new::<u64>()).unwrap();
}

#[test]
fn what_counts_for_the_limit_is_what_the_books_call_committed() {
    let heap = Heap::new(Config::default()).unwrap();
    let purpose = heap.declare("one").unwrap();
    let blocks: Vec<_> =
        (0..100).map(|i| purpose.allocate(Layout::from_size_align(1 << (i % 20), 16).unwrap())).collect();
    assert_eq!(heap.core().pages.committed().0 as i64, heap.snapshot().committed());
    for (i, block) in blocks.into_iter().enumerate() {
        // SAFETY: allocated above with this layout, and not used any more.
        unsafe { heap.deallocate(block.unwrap(), Layout::from_size_align(1 << (i % 20), 16).unwrap()) };
    }
    heap.release_all();
    assert_eq!(heap.core().pages.committed().0 as i64, heap.snapshot().committed());
    assert_eq!(heap.check(), Ok(()));
}

/// Slow paths add up what the tables say of themselves; who walks the tables finds as much.
#[test]
fn a_collections_memory_is_that_of_its_tables() {
    let heap = Heap::new(Config::default()).unwrap();
    let mut mutator = heap.enter().unwrap();
    let roots: Vec<_> =
        (0..2_000u64).map(|n| mutator.run(|cx| cx.root(cx.allocate(n).unwrap())).unwrap()).collect();
    let core = heap.core();
    let mut walked = Bytes::ZERO;
    core.collection().unwrap().for_each_table(core.system, |_, _, size| walked += size);
    assert_eq!(core.collection().unwrap().committed(core.system), walked);
    drop((roots, mutator));
    assert_eq!(heap.check(), Ok(()));
}
