//! What a span of blocks goes through, step by step.
//!
//! # Safety
//! As for the tests of the whole room.

use crate::base::class::{SizeClass, TABLE};
use crate::base::sync::Ordering;
use crate::base::{Address, PAGE_SIZE};
use crate::block::BlockSpan;
use crate::block::body::Phase;
use crate::front::{Config, Heap, Purpose};
use crate::os::simulated::Call;
use crate::os::testing::simulated;
use crate::span::Span;
use crate::stats::Account;
use crate::{Bytes, Fault, Pages};
use std::alloc::Layout;
use std::ptr::NonNull;

/// A size with some dozens of blocks in a span.
const SIZE: usize = 512;

pub(super) fn heap() -> Heap {
    Heap::new(Config { reserve: Bytes::gib(4), ..Config::default() }).unwrap()
}

pub(super) fn allocate(purpose: Purpose<'_>, size: usize) -> NonNull<u8> {
    purpose.allocate(Layout::from_size_align(size, 16).unwrap()).unwrap()
}

pub(super) fn free(heap: &Heap, block: NonNull<u8>) {
    // SAFETY: the tests free what they allocated, once.
    assert_eq!(unsafe { heap.free(block) }, Ok(()));
}

pub(super) fn span_of(heap: &Heap, block: NonNull<u8>) -> &Span {
    heap.core().pages.find(Address::of(block.as_ptr())).expect("a block in use lies in a span").1
}

/// Where the span of a block stands, and its countdown.
fn state(heap: &Heap, block: NonNull<u8>) -> (Phase, u32) {
    let body = span_of(heap, block).body::<BlockSpan>();
    // SAFETY: nobody else uses the heap.
    unsafe { ((*body).phase, (*body).trip) }
}

pub(super) fn owner_of(heap: &Heap, block: NonNull<u8>) -> u32 {
    let body = span_of(heap, block).body::<BlockSpan>();
    // SAFETY: as above, and the owner is atomic.
    unsafe { (*body).owner.load(Ordering::Relaxed) }
}

/// Blocks in a span of a size.
fn capacity(size: usize) -> usize {
    SizeClass::of(size).unwrap().row().blocks as usize
}

/// As many blocks as fill a span, all of one span.
fn fill(purpose: Purpose<'_>, size: usize) -> Vec<NonNull<u8>> {
    let blocks: Vec<_> = (0..capacity(size)).map(|_| allocate(purpose, size)).collect();
    let page = span_of(purpose.heap(), blocks[0]).page();
    assert!(blocks.iter().all(|&block| span_of(purpose.heap(), block).page() == page));
    blocks
}

#[test]
fn a_span_goes_from_current_to_full_to_listed_and_back_to_the_pages() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    let span_bytes = SizeClass::of(SIZE).unwrap().pages(0).bytes();
    let (blocks, n) = (fill(purpose, SIZE), capacity(SIZE) as u32);
    assert_eq!(state(&heap, blocks[0]), (Phase::Current, n));
    let next = allocate(purpose, SIZE);
    let eighth = n / 8;
    assert_eq!(state(&heap, blocks[0]), (Phase::Full, eighth));
    assert_eq!(state(&heap, next), (Phase::Current, 1));
    for (freed, pair) in blocks.windows(2).enumerate() {
        let before = state(&heap, pair[1]);
        free(&heap, pair[0]);
        let freed = freed as u32 + 1;
        let expected =
            if freed < eighth { (Phase::Full, eighth - freed) } else { (Phase::Listed, n - freed) };
        assert_eq!(state(&heap, pair[1]), expected, "after {freed} of {n} blocks; before {before:?}");
        assert_eq!(heap.check(), Ok(()));
    }
    assert_eq!(purpose.inuse(), span_bytes + span_bytes);
    free(&heap, blocks[blocks.len() - 1]);
    assert_eq!(purpose.inuse(), span_bytes, "an empty span is given back whole, at once");
    free(&heap, next);
    assert_eq!(purpose.inuse(), span_bytes, "but not the one that is allocated from");
    heap.release_all();
    assert_eq!(purpose.inuse(), Bytes::ZERO);
    assert_eq!(heap.check(), Ok(()));
}

#[test]
fn spans_of_every_class_become_empty() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    for row in &TABLE {
        let size = row.size as usize;
        let full: Vec<_> = (0..2).flat_map(|_| fill(purpose, size)).collect();
        let spans = purpose.inuse();
        assert_eq!(spans, Bytes(2 * row.pages as usize * PAGE_SIZE), "{row:?}");
        full.into_iter().for_each(|block| free(&heap, block));
        // The last one is still allocated from.
        assert_eq!(purpose.inuse(), Bytes(row.pages as usize * PAGE_SIZE), "{row:?}");
        heap.release_all();
        assert_eq!(purpose.inuse(), Bytes::ZERO, "{row:?}");
    }
    assert_eq!(heap.check(), Ok(()));
}

#[test]
fn a_listed_span_is_allocated_from_before_a_fresh_one_is_taken() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    let (first, second) = (fill(purpose, SIZE), fill(purpose, SIZE));
    let inuse = purpose.inuse();
    let eighth = capacity(SIZE) / 8;
    first[..eighth].iter().for_each(|&block| free(&heap, block));
    assert_eq!(state(&heap, first[eighth]).0, Phase::Listed);
    let page = span_of(&heap, first[eighth]).page();
    let again: Vec<_> = (0..eighth).map(|_| allocate(purpose, SIZE)).collect();
    assert!(again.iter().all(|&block| span_of(&heap, block).page() == page));
    assert_eq!(purpose.inuse(), inuse);
    again.iter().chain(&first[eighth..]).chain(&second).for_each(|&block| free(&heap, block));
    heap.release_all();
    assert_eq!(purpose.inuse(), Bytes::ZERO);
}

#[test]
fn a_span_that_was_touched_a_little_gives_the_rest_back_untouched() {
    let (simulated, system) = simulated();
    let heap = Heap::on(system, Config { reserve: Bytes::mib(64), ..Config::default() }).unwrap();
    let purpose = heap.declare("one").unwrap();
    // So that the heap has grown, and this thread has what it needs.
    free(&heap, allocate(purpose, 16));
    heap.release_all();
    for size in [1024, 9000, 20 << 10] {
        let released = heap.snapshot().balance(Account::Released);
        let calls = simulated.calls_of(Call::Release);
        let block = allocate(purpose, size);
        let span = purpose.inuse();
        free(&heap, block);
        // SAFETY: the mutator is this thread's.
        unsafe { heap.core().flush(heap.mutator()) };
        let snapshot = heap.snapshot();
        let touched = Bytes(size).pages_ceil().bytes();
        assert!(span > touched, "a span has more pages than one block touches");
        assert_eq!(snapshot.balance(Account::Free), touched.0 as i64, "blocks of {size}");
        assert_eq!(released - snapshot.balance(Account::Released), touched.0 as i64);
        assert_eq!(simulated.calls_of(Call::Release), calls, "untouched pages need no call");
        heap.release_all();
    }
    assert_eq!(heap.check(), Ok(()));
}

#[test]
fn large_blocks_grow_and_shrink_where_they_stand() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    let resize = |block, size| {
        // SAFETY: the block is the test's.
        unsafe { heap.resize(block, size) }.unwrap()
    };
    let block = allocate(purpose, 20 * PAGE_SIZE);
    let wall = allocate(purpose, 20 * PAGE_SIZE);
    let apart = wall.as_ptr().addr().wrapping_sub(block.as_ptr().addr()) / PAGE_SIZE;
    assert_eq!(apart, 20, "first fit puts them side by side");
    assert!(!resize(block, 21 * PAGE_SIZE), "what follows is in use");
    assert_eq!(heap.usable_size(block), Ok(20 * PAGE_SIZE));
    assert!(resize(block, 16 * PAGE_SIZE + 1));
    assert_eq!(heap.usable_size(block), Ok(17 * PAGE_SIZE));
    assert_eq!(purpose.inuse(), Pages(37).bytes(), "the rest is given back");
    assert_eq!(heap.check(), Ok(()));
    assert!(resize(block, 20 * PAGE_SIZE), "and taken again");
    free(&heap, wall);
    heap.release_all();
    assert!(resize(block, 200 * PAGE_SIZE), "nothing is in the way any more");
    assert_eq!(purpose.inuse(), Pages(200).bytes());
    assert!(!resize(block, 100), "a small block would be in the wrong place");
    assert!(!resize(block, usize::MAX), "no heap is as large");
    purpose.set_limit(Some(Pages(201).bytes()));
    assert!(!resize(block, 202 * PAGE_SIZE), "limits hold in place as well");
    assert!(resize(block, 201 * PAGE_SIZE));
    assert_eq!(heap.check(), Ok(()));
    free(&heap, block);
    assert_eq!(purpose.inuse(), Bytes::ZERO);
}

#[test]
fn blocks_are_aligned_to_whatever_is_asked() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    // Something in between, so that nothing is aligned by chance.
    let mut blocks = vec![allocate(purpose, 80 << 10)];
    for shift in 0..=27 {
        for size in [1, 100, 5000, 80_000, 3 << 20] {
            let layout = Layout::from_size_align(size, 1 << shift).unwrap();
            let block = purpose.allocate(layout).unwrap();
            assert!(block.as_ptr().addr().is_multiple_of(1 << shift), "{layout:?} at {block:?}");
            assert!(heap.usable_size(block).unwrap() >= size);
            blocks.push(block);
            blocks.push(allocate(purpose, 80 << 10));
        }
    }
    assert_eq!(heap.check(), Ok(()));
    blocks.into_iter().for_each(|block| free(&heap, block));
    heap.release_all();
    assert_eq!(purpose.inuse(), Bytes::ZERO);
}

#[test]
fn fresh_memory_is_known_to_be_zero() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    let layout = Layout::from_size_align(64 << 20, 16).unwrap();
    for round in 0..2 {
        let block = purpose.allocate_zeroed(layout).unwrap();
        let resident = heap.resident().by_account[Account::Span(purpose.id()).index()];
        assert!(resident < Bytes::mib(1), "round {round}: {resident} were touched to clear what was clear");
        // SAFETY: the block is ours, of this size.
        unsafe {
            block.as_ptr().add(12_345_678).write(7);
            free(&heap, block);
            assert_eq!(heap.check(), Ok(()));
        }
        // Given back to the system, it is zero again, and known to be.
        heap.release_all();
    }
    // Not given back, it must be cleared.
    let dirty = allocate(purpose, 1 << 20);
    // SAFETY: the blocks are ours, of these sizes.
    unsafe {
        dirty.as_ptr().write_bytes(7, 1 << 20);
        free(&heap, dirty);
        let layout = Layout::from_size_align(1 << 20, 16).unwrap();
        let again = purpose.allocate_zeroed(layout).unwrap();
        assert_eq!(again, dirty, "first fit");
        assert!(std::slice::from_raw_parts(again.as_ptr(), 1 << 20).iter().all(|&byte| byte == 0));
        free(&heap, again);
    }
}

#[test]
fn pages_that_came_back_to_the_system_do_not_pass_for_the_blocks_they_held() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    let size = 1024;
    // Short spans of the smallest blocks, every second one a wall: when the spans have died, their pages are a gap too short for spans
    // of larger blocks. Those will have the records, with the same owner and at a distance of whole pages.
    let small: Vec<_> = (0..8).map(|i| fill(heap.declare(&format!("small-{i}")).unwrap(), 16)).collect();
    let gap = span_of(&heap, small[0][0]).pages();
    assert!(gap < SizeClass::of(size).unwrap().pages(0), "the gap is short");
    let stale: Vec<_> = small.iter().step_by(2).map(|blocks| blocks[0]).collect();
    small.iter().step_by(2).flatten().for_each(|&block| free(&heap, block));
    heap.release_all();
    let large: Vec<_> = (0..8).flat_map(|_| fill(purpose, size)).collect();
    let inuse = purpose.inuse();
    for (block, at) in stale.into_iter().flat_map(|block| (0..8).map(move |at| (block, at))) {
        let pointer = NonNull::new(block.as_ptr().wrapping_add(at * size)).unwrap();
        assert!(heap.core().pages.find(Address::of(pointer.as_ptr())).is_none(), "first fit closed the gap");
        // SAFETY: nobody has a block there, so nothing is given up.
        assert_eq!(unsafe { heap.free(pointer) }.unwrap_err().fault, Fault::NoSpan);
    }
    assert_eq!(purpose.inuse(), inuse);
    assert_eq!(heap.check(), Ok(()));
    small.iter().skip(1).step_by(2).flatten().chain(&large).for_each(|&block| free(&heap, block));
}
