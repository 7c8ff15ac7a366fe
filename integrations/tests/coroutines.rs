//! A hundred thousand coroutines at once, each on a guarded stack of its own.

use corosensei::{Coroutine, CoroutineResult};
use spanheap::{Bytes, Config, Heap};
use spanheap_integrations::coroutines::CoroutineStack;
use std::hint::black_box;
use std::sync::Arc;

const COUNT: usize = 100_000;

/// Uses a few frames of stack, and adds up what it finds there.
fn deep(depth: usize, seed: usize) -> usize {
    let frame = black_box([seed; 40]);
    if depth == 0 { frame[seed % 40] } else { deep(depth - 1, seed + 1) + black_box(frame[depth % 40]) }
}

#[test]
fn a_hundred_thousand_coroutines() {
    let heap = Arc::new(Heap::new(Config::default()).unwrap());
    let fibers = heap.declare_stacks("coroutines").unwrap();
    let mut all: Vec<_> = (0..COUNT)
        .map(|number| {
            let stack = CoroutineStack::new(&heap, fibers, Bytes::kib(16)).unwrap();
            Coroutine::with_stack(stack, move |yielder, mut input: usize| {
                for _ in 0..2 {
                    assert_eq!(deep(10, number), (0..=10).map(|i| number + i).sum::<usize>());
                    input += yielder.suspend(input + number);
                }
                input
            })
        })
        .collect();
    for round in 0..2 {
        for (number, coroutine) in all.iter_mut().enumerate() {
            assert_eq!(coroutine.resume(1), CoroutineResult::Yield(1 + round + number));
        }
    }
    let books = heap.snapshot();
    let of = books.purpose(fibers.id());
    let stacks = of.stacks.unwrap();
    assert_eq!((stacks.inuse, stacks.allocated), ((COUNT << 14) as i64, COUNT as i64));
    heap.check().unwrap();
    // Half of them end, the others are dropped where they stand; some on another thread.
    for coroutine in all.iter_mut().step_by(2) {
        assert_eq!(coroutine.resume(1), CoroutineResult::Return(3));
    }
    let before = heap.resident();
    drop(all);
    // Most slabs were empty before, and are free pages by now.
    fibers.release();
    heap.release_all();
    heap.check().unwrap();
    assert_eq!(fibers.inuse(), Bytes::ZERO);
    let after = heap.resident();
    assert!(after.heap.0 * 20 <= before.heap.0, "{:?} of {:?} are left", after.heap, before.heap);
    let books = heap.snapshot();
    books.check().unwrap();
    assert!(fibers.peak().0 as i64 >= stacks.inuse);
}

#[test]
fn coroutines_end_on_other_threads() {
    let heap = Arc::new(Heap::new(Config::default()).unwrap());
    let fibers = heap.stacks();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let all: Vec<_> =
                (0..500).map(|_| CoroutineStack::new(&heap, fibers, Bytes::kib(8)).unwrap()).collect();
            scope.spawn(move || {
                for stack in all {
                    let mut coroutine = Coroutine::<(), (), usize, _>::with_stack(stack, |_, ()| deep(3, 5));
                    assert_eq!(coroutine.resume(()), CoroutineResult::Return(5 + 6 + 7 + 8));
                }
            });
        }
    });
    heap.check().unwrap();
    assert_eq!(heap.snapshot().purpose(fibers.id()).stacks.unwrap().inuse, 0);
}
