//! A hundred thousand coroutines at once, each on a guarded stack of its own.

use corosensei::{Coroutine, CoroutineResult};
use spanheap::collect::CollectConfig;
use spanheap::collect::raw::RawMutator;
use spanheap::object::ShapeId;
use spanheap::{Bytes, Config, Heap};
use spanheap_integrations::coroutines::{CollectedCoroutine, CoroutineStack};
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

/// An object, and the next of a list.
#[repr(C)]
struct Link {
    number: usize,
    next: *const Link,
}

fn link(mutator: &RawMutator<'_>, number: usize, next: *const Link) -> *const Link {
    // SAFETY: references are on stacks that are scanned; a fresh object is filled without a barrier.
    unsafe {
        let link = mutator.allocate(size_of::<Link>(), ShapeId::WORDS).unwrap().cast::<Link>();
        link.write(Link { number, next });
        link.as_ptr()
    }
}

/// The numbers in a list.
fn numbers(mut at: *const Link) -> Vec<usize> {
    let mut numbers = Vec::new();
    // SAFETY: the list is alive, or its objects are overwritten and the numbers wrong.
    while let Some(link) = unsafe { at.as_ref() } {
        numbers.push(link.number);
        at = link.next;
    }
    numbers
}

/// Coroutines hold lists by plain pointers on their stacks, and nowhere else. Dead objects are overwritten, and every cycle
/// is verified by a second marking.
#[test]
fn what_suspended_coroutines_hold_is_alive() {
    const COUNT: usize = 64;
    const ROUNDS: usize = 6;
    let heap = Arc::new(Heap::new(Config::default()).unwrap());
    let config = CollectConfig { percent: None, verify: true, poison: true, ..CollectConfig::default() };
    heap.configure_collector(config).unwrap();
    let stacks = heap.declare_stacks("coroutines").unwrap();
    let mutator = heap.enter_raw().unwrap();
    let live = || heap.collector_statistics().live.0;
    mutator.with_stack(|mutator| {
        let hold = |number: usize| {
            let stack = CoroutineStack::new(&heap, stacks, Bytes::kib(64)).unwrap();
            // A reference that is there before the coroutine has begun.
            let first = link(mutator, number, std::ptr::null());
            let main = move |yielder: &corosensei::Yielder<(), usize>, ()| {
                let mut list = first;
                for round in 1..=ROUNDS {
                    link(mutator, usize::MAX, list);
                    list = link(mutator, number + round, list);
                    black_box(&list);
                    yielder.suspend(round);
                    assert!(numbers(list).into_iter().rev().eq(number..=number + round), "an object died");
                }
            };
            // SAFETY: what it borrows outlives it, and nothing that is dropped with it touches objects.
            unsafe { CollectedCoroutine::new(stack, main) }
        };
        let mut all: Vec<_> = (0..COUNT).map(hold).collect();
        mutator.collect().unwrap();
        for round in 1..=ROUNDS {
            all.iter_mut().for_each(|coroutine| {
                assert_eq!(coroutine.resume(mutator, ()), CoroutineResult::Yield(round))
            });
            mutator.collect().unwrap();
            heap.snapshot().check().unwrap();
        }
        let held = live();
        assert!(held >= COUNT * (ROUNDS + 1) * size_of::<Link>());
        assert_eq!(heap.registered_stacks().count(), COUNT);
        // Half of them end.
        for coroutine in all.iter_mut().step_by(2) {
            assert_eq!(coroutine.resume(mutator, ()), CoroutineResult::Return(()));
            assert!(coroutine.is_done());
        }
        mutator.collect().unwrap();
        assert!(live() <= held * 3 / 4 && live() >= held / 3, "{} of {held} bytes are alive", live());
        drop(all);
    });
    mutator.collect().unwrap();
    assert_eq!(live(), 0);
    drop(mutator);
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
    assert_eq!(heap.snapshot().purpose(stacks.id()).stacks.unwrap().inuse, 0);
}
