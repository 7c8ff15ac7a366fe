//! A heap as a value, from outside: layouts, misuse, growth in place, zeros, and the books at the end of each.
#![cfg(not(loom))]

use spanheap::stats::Account;
use spanheap::{Bytes, Config, Fault, Heap, Scarce};
use std::alloc::Layout;
use std::ptr::NonNull;

fn heap() -> Heap {
    Heap::new(Config::default()).unwrap()
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn free(heap: &Heap, block: NonNull<u8>, of: Layout) {
    // SAFETY: the tests free what they allocated, once.
    unsafe { heap.deallocate(block, of) }
}

/// All is freed: the books balance and nothing is left.
fn in_order(heap: &Heap) {
    heap.check().unwrap();
    heap.release_all();
    heap.check().unwrap();
    let snapshot = heap.snapshot();
    snapshot.check().unwrap();
    assert_eq!((snapshot.in_spans(), snapshot.free()), (0, 0));
}

#[test]
fn every_size_and_alignment() {
    let heap = heap();
    let sizes = (0..2_000).chain((2_000..80_000).step_by(377)).chain([1 << 20, (4 << 20) + 1]);
    let mut held = Vec::new();
    for (i, size) in sizes.enumerate() {
        let of = layout(size, 1 << (i % 14));
        let block = heap.allocate(of).unwrap();
        assert!(block.addr().get().is_multiple_of(of.align()), "{of:?} at {block:?}");
        let usable = heap.usable_size(block).unwrap();
        assert!(usable >= size, "{of:?} has {usable}");
        if of.align() <= 16 && size > 128 && size <= 64 << 10 {
            assert!(usable <= size + size / 8 + 16, "{of:?} has {usable}");
        }
        // SAFETY: the block is ours.
        unsafe { block.write_bytes(i as u8, usable) };
        held.push((block, of, i as u8));
    }
    for &(block, of, byte) in &held {
        // SAFETY: the block is ours.
        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), of.size()) };
        assert!(bytes.iter().all(|&b| b == byte), "{of:?} was overwritten");
    }
    heap.check().unwrap();
    held.into_iter().for_each(|(block, of, _)| free(&heap, block, of));
    in_order(&heap);
}

/// Alignments up to a chunk, and beyond what the heap itself is aligned to.
#[test]
fn large_alignments() {
    let heap = heap();
    let mut held = Vec::new();
    for shift in 12..=30 {
        for size in [1, 5_000, 100_000, 1 << 23] {
            let of = layout(size, 1 << shift);
            let block = heap.allocate(of).unwrap();
            assert!(block.addr().get().is_multiple_of(1 << shift), "{of:?} at {block:?}");
            // SAFETY: the block is ours.
            unsafe {
                block.write(1);
                block.add(size - 1).write(2);
            }
            held.push((block, of));
        }
    }
    heap.check().unwrap();
    held.into_iter().for_each(|(block, of)| free(&heap, block, of));
    in_order(&heap);
    // Nothing is aligned to more than there are addresses.
    let refused = heap.allocate(layout(1, 1 << 62)).unwrap_err();
    assert_eq!(refused.scarce, Scarce::AddressSpace);
    in_order(&heap);
}

#[test]
fn requests_that_no_heap_can_meet() {
    let heap = heap();
    let refused = heap.allocate(layout(isize::MAX as usize - 8192, 1)).unwrap_err();
    assert_eq!(refused.scarce, Scarce::Size);
    assert!(refused.to_string().starts_with("no memory for blocks: wanted "), "{refused}");
    let refused = heap.allocate(layout(2 << 40, 1)).unwrap_err();
    assert!(matches!(refused.scarce, Scarce::Size | Scarce::AddressSpace), "{refused}");
    in_order(&heap);
}

#[test]
fn the_address_space_runs_out_and_comes_back() {
    let heap = Heap::new(Config { reserve: Bytes::mib(64), ..Config::default() }).unwrap();
    for size in [10_000_000, 100_000, 1_000] {
        for _ in 0..2 {
            let of = layout(size, 16);
            let mut held = Vec::new();
            let refused = loop {
                match heap.allocate(of) {
                    Ok(block) => held.push(block),
                    Err(refused) => break refused,
                }
            };
            assert_eq!(refused.scarce, Scarce::AddressSpace);
            assert_eq!(refused.limit, Bytes::mib(64));
            assert!(held.len() * size > 48 << 20, "{} blocks of {size}", held.len());
            heap.check().unwrap();
            held.into_iter().for_each(|block| free(&heap, block, of));
            heap.check().unwrap();
        }
    }
    in_order(&heap);
}

#[test]
fn misuse_is_named_and_changes_nothing() {
    let heap = heap();
    let purpose = heap.declare("victim").unwrap();
    let of = layout(100, 16);
    let (small, large) = (purpose.allocate(of).unwrap(), purpose.allocate(layout(100_000, 16)).unwrap());
    let span = purpose.allocate_span(Bytes(1)).unwrap();
    let mut local = 0_u64;
    let fault = |pointer: *mut u8| {
        // SAFETY: none of these is a block in use.
        let misuse = unsafe { heap.free(NonNull::new(pointer).unwrap()) }.unwrap_err();
        assert_eq!(heap.usable_size(NonNull::new(pointer).unwrap()).unwrap_err().fault, misuse.fault);
        let text = misuse.to_string();
        assert!(text.contains(&format!("{:x}", pointer.addr())), "{text}");
        assert_eq!(misuse.span.is_some(), text.contains("purpose victim"), "{text}");
        heap.check().unwrap();
        misuse.fault
    };
    assert_eq!(fault((&raw mut local).cast()), Fault::Foreign);
    assert_eq!(fault(small.as_ptr().wrapping_add(16)), Fault::Interior);
    assert_eq!(fault(large.as_ptr().wrapping_add(8192)), Fault::Interior);
    assert_eq!(fault(span.as_ptr().as_ptr()), Fault::NotABlock);
    assert_eq!(fault(small.as_ptr().wrapping_add(112 * 60)), Fault::NeverAllocated);
    let second = purpose.allocate(of).unwrap();
    free(&heap, second, of);
    assert_eq!(fault(second.as_ptr()), Fault::DoubleFree);
    free(&heap, large, layout(100_000, 16));
    assert_eq!(fault(large.as_ptr()), Fault::NoSpan);
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| free(&heap, second, of)));
    assert!(again.is_err(), "a second free panics");
    free(&heap, small, of);
    drop(span);
    in_order(&heap);
}

#[test]
fn a_double_free_by_another_thread_is_named() {
    let heap = heap();
    let of = layout(64, 16);
    let (block, keep) = (heap.allocate(of).unwrap(), heap.allocate(of).unwrap());
    let address = block.addr();
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let block = NonNull::new(std::ptr::with_exposed_provenance_mut(address.get())).unwrap();
                free(&heap, block, of);
                // SAFETY: the block is free, which is what is to be found out.
                assert_eq!(unsafe { heap.free(block) }.unwrap_err().fault, Fault::DoubleFree);
            })
            .join()
            .unwrap();
    });
    // SAFETY: as above.
    assert_eq!(unsafe { heap.free(block) }.unwrap_err().fault, Fault::DoubleFree);
    free(&heap, keep, of);
    in_order(&heap);
}

#[test]
fn large_blocks_grow_and_shrink_where_they_stand() {
    let heap = heap();
    // Shorter ones come from a page cache, whose pages are in use as far as a growth is concerned.
    let block = heap.allocate(layout(200_000, 16)).unwrap();
    // SAFETY: the block is ours.
    let resize = |size| unsafe { heap.resize(block, size) }.unwrap();
    let mut in_use = 200_000;
    for size in [250_000, 1 << 20, 3 << 20, 1 << 20, 70_000, 500_000] {
        assert!(resize(size), "nothing stands behind it: {size}");
        let usable = heap.usable_size(block).unwrap();
        assert!((size..size + 8192).contains(&usable));
        // SAFETY: the block is ours, and what it had before it grew.
        unsafe {
            assert!(
                (0..size.min(in_use)).step_by(4096).all(|at| in_use == 200_000 || block.add(at).read() == 7)
            );
            block.write_bytes(7, size);
        }
        in_use = size;
        heap.check().unwrap();
    }
    assert!(!resize(100), "a small block is of another kind");
    // Another block behind it stands in the way.
    let wall: Vec<_> = (0..64).map(|_| heap.allocate(layout(600_000, 16)).unwrap()).collect();
    assert!(!resize(100 << 20));
    assert!(heap.usable_size(block).unwrap() >= 500_000);
    wall.into_iter().for_each(|other| free(&heap, other, layout(600_000, 16)));
    free(&heap, block, layout(500_000, 16));
    // Small ones stay while they fit their class.
    let small = heap.allocate(layout(1000, 16)).unwrap();
    // SAFETY: the block is ours.
    unsafe {
        let usable = heap.usable_size(small).unwrap();
        assert!(heap.resize(small, usable).unwrap() && heap.resize(small, usable / 2).unwrap());
        assert!(!heap.resize(small, usable + 1).unwrap() && !heap.resize(small, 10).unwrap());
    }
    free(&heap, small, layout(1000, 16));
    in_order(&heap);
}

/// Zeroed memory is zero, also where it was dirty before, and a span that was written through its pointer as well.
#[test]
fn zeros_are_zeros() {
    let heap = heap();
    let purpose = heap.declare("zeros").unwrap();
    for round in 0..4 {
        let mut held = Vec::new();
        for size in (1..3000).step_by(211).chain([20_000, 70_000, 3_000_000]) {
            let of = layout(size, 16);
            let block = purpose.allocate_zeroed(of).unwrap();
            // SAFETY: the block is ours.
            unsafe {
                let bytes = std::slice::from_raw_parts(block.as_ptr(), size);
                assert!(bytes.iter().all(|&byte| byte == 0), "{size} in round {round}");
                block.write_bytes(0xff, heap.usable_size(block).unwrap());
            }
            held.push((block, of));
        }
        held.into_iter().for_each(|(block, of)| free(&heap, block, of));
        for pages in [1, 5, 20, 300] {
            let mut span = purpose.allocate_span(Bytes::kib(8 * pages)).unwrap();
            assert!(span.zero().iter().all(|&byte| byte == 0));
            drop(span);
            let mut span = purpose.allocate_span(Bytes::kib(8 * pages)).unwrap();
            // SAFETY: the span is ours.
            unsafe { span.as_ptr().write_bytes(0xff, span.len().0) };
            if round % 2 == 0 {
                assert!(span.zero().iter().all(|&byte| byte == 0), "written through the pointer");
            }
        }
        if round == 2 {
            heap.release_all();
        }
    }
    in_order(&heap);
}

/// A span that nobody was let into costs no memory, before and after.
#[test]
fn untouched_spans_stay_with_the_system() {
    let heap = heap();
    let before = heap.snapshot().committed();
    drop(heap.blocks().allocate_span(Bytes::mib(20)).unwrap());
    drop(heap.blocks().allocate_span(Bytes::kib(24)).unwrap());
    let snapshot = heap.snapshot();
    assert_eq!((snapshot.balance(Account::Free), snapshot.balance(Account::Cached)), (0, 0));
    assert!(snapshot.committed() - before < 1 << 20, "only tables");
    in_order(&heap);
}

#[test]
fn an_allocator_for_collections() {
    let heap = heap();
    let rows = heap.declare("rows").unwrap();
    let mut numbers = allocator_api2::vec::Vec::new_in(rows);
    (0..100_000_u64).for_each(|n| numbers.push(n));
    assert!(rows.inuse() >= Bytes(800_000) && heap.blocks().inuse() == Bytes::ZERO);
    assert!(numbers.iter().copied().eq(0..100_000));
    heap.check().unwrap();
    drop(numbers);
    in_order(&heap);
}
