//! Whatever is broken on purpose, the walk finds it.
//!
//! # Safety
//! As for the tests of the whole room; what is broken is not used any more.

use super::spans::{allocate, free, heap, span_of};
use crate::base::sync::Ordering;
use crate::block::body::{BlockSpan, FreeBlock, Phase, mark};
use crate::front::{CheckError, Heap};
use crate::span::Span;
use std::ptr::NonNull;

/// A heap on which some blocks of a class were allocated and some freed, so that the span has free blocks, blocks in
/// use and blocks that were never carved; and one block in use.
struct Broken {
    heap: Heap,
    block: NonNull<u8>,
}

impl Broken {
    fn new() -> Broken {
        let heap = heap();
        let purpose = heap.declare("one").unwrap();
        let blocks: Vec<_> = (0..10).map(|_| allocate(purpose, 512)).collect();
        // Of another class and another purpose.
        allocate(purpose, 100);
        allocate(heap.blocks(), 512);
        blocks.iter().skip(1).step_by(2).for_each(|&block| free(&heap, block));
        heap.check().unwrap();
        Broken { block: blocks[0], heap }
    }

    fn span(&self) -> &Span {
        span_of(&self.heap, self.block)
    }

    /// The span's body.
    #[allow(clippy::mut_from_ref)]
    fn body(&self) -> &mut BlockSpan {
        // SAFETY: nobody else uses the heap, and each test asks once.
        unsafe { &mut *self.span().body::<BlockSpan>() }
    }

    /// The number of the invariant that is found broken; the heap is of no more use.
    fn found(self) -> u8 {
        let error = self.heap.check().expect_err("nothing was found");
        std::mem::forget(self.heap);
        match error {
            CheckError::Broken(broken) => {
                assert_eq!(broken.invariant.0, "block", "{broken}");
                broken.invariant.1
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_span_in_the_wrong_cache_is_found() {
    let broken = Broken::new();
    broken.body().cache = broken.heap.core().mutator(1).caches().next().unwrap_or(std::ptr::null_mut());
    assert_eq!(broken.found(), 1);
}

#[test]
fn owners_that_nobody_knows_are_found() {
    for owner in [0, 99, u32::MAX] {
        let broken = Broken::new();
        broken.body().owner = crate::base::sync::AtomicU32::new(owner);
        assert_eq!(broken.found(), 2, "owner {owner}");
    }
    let broken = Broken::new();
    broken.body().phase = Phase::None;
    assert_eq!(broken.found(), 2);
}

#[test]
fn more_waiting_blocks_than_blocks_in_use_are_found() {
    let broken = Broken::new();
    let memory = broken.heap.core().pages.region().page_pointer(broken.span().page());
    // One block waits behind itself, and is counted six times.
    let (at, five) = (broken.block.as_ptr().cast::<FreeBlock>(), broken.body().used());
    let place = (at.addr() - memory.addr()) as u64 / 16;
    // SAFETY: the block is the test's.
    unsafe { at.write(FreeBlock { next: at, mark: mark(broken.heap.core().key(), at) }) };
    broken.span().word().store(u64::from(five + 1) | place << 16 | place << 32, Ordering::Relaxed);
    assert_eq!(broken.found(), 3);
}

#[test]
fn a_span_in_an_inbox_without_waiting_blocks_is_found() {
    let broken = Broken::new();
    let core = broken.heap.core();
    let (id, _) = core.pages.find(crate::base::Address::of(broken.block.as_ptr())).unwrap();
    core.central.inbox(1).push(id, core.pages.links());
    assert_eq!(broken.found(), 3);
}

#[test]
fn a_free_block_without_its_mark_is_found() {
    let broken = Broken::new();
    // SAFETY: a free block of the span.
    unsafe { (*broken.body().free).mark ^= 1 };
    assert_eq!(broken.found(), 4);
}

#[test]
fn wrong_counts_and_lists_are_found() {
    type Break = fn(&mut BlockSpan);
    let breaks: [(&str, Break); 11] = [
        ("too many in use", |body| body.trip += 1),
        // SAFETY: a free block of the span.
        ("a lost block", |body| body.free = unsafe { (*body.free).next }),
        // SAFETY: as above.
        ("a list that turns in a circle", |body| unsafe { (*body.free).next = body.free }),
        ("a list that leaves the span", |body| body.free = std::ptr::dangling_mut()),
        ("a list that meets no block", |body| body.free = body.free.wrapping_byte_add(16)),
        ("blocks that are not carved", |body| {
            let at = body.free.addr() & !8191;
            body.free =
                std::ptr::with_exposed_provenance_mut::<FreeBlock>(at + body.carved as usize * body.size());
        }),
        ("another class", |body| body.class.0 += 1),
        ("another number of blocks", |body| body.blocks -= 1),
        ("another divisor", |body| *body.magic.get_mut() += 1),
        ("another place", |body| body.start += 8192),
        ("more carved than there are", |body| body.carved = body.blocks + 1),
    ];
    for (what, do_break) in breaks {
        let broken = Broken::new();
        let _ = broken.body().free.expose_provenance();
        do_break(broken.body());
        assert_eq!(broken.found(), 5, "{what}");
    }
}

#[test]
fn dirt_behind_the_carved_blocks_is_found() {
    let heap = heap();
    // Blocks of which a system page is no multiple, so that the last page that was touched has a rest.
    let block = allocate(heap.blocks(), 3000);
    let broken = Broken { heap, block };
    let end = broken.body().carved as usize * broken.body().size();
    assert!(broken.body().fresh && !end.is_multiple_of(4096));
    broken.heap.check().unwrap();
    // SAFETY: the span's own memory, which nobody has.
    unsafe { broken.heap.core().pages.region().page_pointer(broken.span().page()).add(end).write(1) };
    assert_eq!(broken.found(), 5);
}

#[test]
fn spans_that_are_not_where_their_phase_says_are_found() {
    let broken = Broken::new();
    broken.body().phase = Phase::Listed;
    assert_eq!(broken.found(), 6);
    let broken = Broken::new();
    let cache = broken.body().cache;
    // SAFETY: nobody else uses the cache.
    unsafe { (*cache).direct[7] = (*cache).direct[32] };
    assert_eq!(broken.found(), 6);
    let broken = Broken::new();
    let cache = broken.body().cache;
    // SAFETY: nobody else uses the cache.
    unsafe {
        let class = broken.body().class.0 as usize;
        (*cache).bins[class].current = crate::block::cache::empty_span();
        (*cache).direct.iter_mut().filter(|at| **at == std::ptr::from_mut(broken.body())).for_each(|at| {
            *at = crate::block::cache::empty_span();
        });
    }
    assert_eq!(broken.found(), 6);
}

#[test]
fn a_cache_that_has_lost_count_of_its_spans_is_found() {
    let broken = Broken::new();
    let (cache, class) = (broken.body().cache, broken.body().class.0 as usize);
    // SAFETY: nobody else uses the cache.
    unsafe { (*cache).bins[class].spans += 1 };
    assert_eq!(broken.found(), 6);
}
