//! What happens when the system refuses: any single call, every call from some point on, and memory itself.
#![cfg(not(loom))]

mod churn;

use churn::{Sizes, World};
use spanheap::os::{Simulated, System};
use spanheap::{Bytes, Config, Heap, Purpose, Scarce};
use std::alloc::Layout;

fn simulated() -> &'static Simulated {
    Box::leak(Box::new(Simulated::new()))
}

fn config() -> Config {
    Config { reserve: Bytes::mib(256), ..Config::default() }
}

/// What a workload met.
#[derive(Default)]
struct Seen {
    done: usize,
    errors: usize,
}

impl Seen {
    /// Notes how a step ended. Errors are those that the system's refusal explains.
    fn note<T>(&mut self, step: Result<T, spanheap::Exhausted>) -> Option<T> {
        match step {
            Ok(value) => {
                self.done += 1;
                Some(value)
            }
            Err(error) => {
                assert!(matches!(error.scarce, Scarce::System(_)), "{error}");
                self.errors += 1;
                None
            }
        }
    }
}

/// A whole life of a heap: purposes, spans, blocks of all kinds, growth in place, a second thread, giving
/// memory back. Nothing in it is large, so that it can be run once for each call that it makes.
fn workload(heap: &Heap) -> Seen {
    let mut seen = Seen::default();
    let one = heap.declare("one").unwrap();
    let two = heap.declare("two").unwrap();
    let spans: Vec<_> =
        [1, 3, 15, 16, 64, 600].map(|pages| (pages, one.allocate_span(Bytes::kib(8 * pages)))).into();
    let mut spans: Vec<_> = spans.into_iter().filter_map(|(_, span)| seen.note(span)).collect();
    assert!(spans.iter_mut().all(|span| span.zero().iter().all(|&byte| byte == 0)));
    let blocks = blocks(heap, two, &mut seen);
    grow(heap, one, &mut seen);
    heap.release_all();
    drop(spans.drain(..spans.len() / 2));
    heap.release_all();
    std::thread::scope(|scope| {
        // The other thread frees what this one allocated, and leaves behind what it allocates itself.
        let other = scope.spawn(move || {
            blocks.into_iter().for_each(|block| block.free(heap));
            two.scope(|| heap.allocate(Layout::new::<[u64; 3]>()))
                .map(|at| Block { at, layout: Layout::new::<[u64; 3]>() })
        });
        if let Some(block) = seen.note(other.join().unwrap()) {
            block.free(heap);
        }
    });
    drop(spans);
    seen
}

struct Block {
    at: std::ptr::NonNull<u8>,
    layout: Layout,
}

// SAFETY: who has the value has the block.
unsafe impl Send for Block {}

impl Block {
    fn free(self, heap: &Heap) {
        // SAFETY: the block is ours.
        unsafe { heap.deallocate(self.at, self.layout) }
    }
}

/// Blocks of many sizes and alignments, every other one cleared; all are written to.
fn blocks(heap: &Heap, purpose: Purpose<'_>, seen: &mut Seen) -> Vec<Block> {
    let mut held = Vec::new();
    for (i, size) in
        [1, 16, 100, 1000, 5000, 65_536, 65_537, 100_000, 1 << 20].into_iter().cycle().take(60).enumerate()
    {
        let layout = Layout::from_size_align(size, 1 << (i % 16)).unwrap();
        let block = match i % 2 {
            0 => purpose.allocate_zeroed(layout),
            _ => purpose.allocate(layout),
        };
        let Some(at) = seen.note(block) else { continue };
        // SAFETY: the block is ours.
        unsafe {
            let bytes = std::slice::from_raw_parts_mut(at.as_ptr(), size);
            assert!(i % 2 != 0 || bytes.iter().all(|&byte| byte == 0), "block {i} of {size} is not zero");
            bytes.fill(0xcc);
            held.push(Block { at, layout });
            if i % 5 == 0 {
                held.swap_remove(held.len() / 2).free(heap);
            }
        }
    }
    held
}

/// A large block that grows and shrinks where it stands, as far as it can.
fn grow(heap: &Heap, purpose: Purpose<'_>, seen: &mut Seen) {
    let layout = Layout::from_size_align(100_000, 16).unwrap();
    let Some(at) = seen.note(purpose.allocate(layout)) else { return };
    for size in [300_000, 1 << 20, 200_000, 70_000, 5 << 20] {
        // SAFETY: the block is ours; it is written as far as it reaches.
        unsafe {
            if heap.resize(at, size).unwrap() {
                at.write_bytes(0xdd, size);
            }
        }
    }
    Block { at, layout }.free(heap);
}

/// All is freed: nothing is booked, and nothing is ready that the books do not know.
fn in_order(heap: &Heap, simulated: &Simulated) {
    heap.check().unwrap();
    heap.release_all();
    heap.check().unwrap();
    let snapshot = heap.snapshot();
    snapshot.check().unwrap();
    for purpose in snapshot.purposes() {
        assert_eq!((purpose.inuse, purpose.spans), (0, 0), "{} has something left", purpose.book.name);
    }
    assert!(snapshot.committed() as usize <= simulated.ready_bytes().0);
}

/// Runs the workload on a system that is made scarce by `scarce`. Returns what was seen, if there could be a
/// heap at all.
fn run(scarce: impl Fn(&Simulated)) -> (Option<Seen>, &'static Simulated) {
    let simulated = simulated();
    scarce(simulated);
    let seen = Heap::on(System::Simulated(simulated), config()).ok().map(|heap| {
        let seen = workload(&heap);
        heap.check().unwrap();
        simulated.refuse_nothing();
        simulated.set_memory(Bytes(usize::MAX));
        in_order(&heap, simulated);
        // What was refused is there now.
        let mut again = Seen::default();
        blocks(&heap, heap.blocks(), &mut again).into_iter().for_each(|block| block.free(&heap));
        assert_eq!(again.errors, 0);
        in_order(&heap, simulated);
        seen
    });
    assert_eq!((simulated.reserved_bytes(), simulated.ready_bytes()), (Bytes::ZERO, Bytes::ZERO));
    (seen, simulated)
}

#[test]
fn every_single_call_can_be_refused() {
    let (seen, simulated) = run(|_| ());
    assert_eq!(seen.map(|seen| (seen.errors, seen.done > 60)), Some((0, true)));
    let (mut without_heap, mut with_errors, mut calls) = (0, 0, 0);
    // Refusals change what is called afterwards, so the last call is found by going on until it is passed.
    while calls < simulated.calls() {
        let (seen, simulated) = run(|simulated| simulated.refuse(calls, 1));
        calls += 1;
        if simulated.refusals() == 0 {
            break;
        }
        match seen {
            None => without_heap += 1,
            Some(seen) => with_errors += usize::from(seen.errors > 0),
        }
        // What is refused once is mostly had by asking again; a system that goes on refusing is not got over.
        let (seen, _) = run(|simulated| simulated.refuse(calls, 6));
        with_errors += usize::from(seen.is_some_and(|seen| seen.errors > 0));
    }
    // Some refusals end in an error, most are got over: less is reserved, memory is kept, a mutator is shared.
    assert!(calls > 50 && without_heap > 5 && with_errors > 0, "{calls} {without_heap} {with_errors}");
}

/// From too little for a heap to enough for everything.
#[test]
fn every_amount_of_memory_will_do() {
    let (_, simulated) = run(|_| ());
    let enough = simulated.most_ready_bytes();
    let (mut without_heap, mut least_errors) = (0, usize::MAX);
    for part in 0..=100 {
        let memory = Bytes(enough.0 / 100 * part + part);
        match run(|simulated| simulated.set_memory(memory)) {
            (None, _) => without_heap += 1,
            (Some(seen), simulated) => {
                assert!(simulated.refusals() > 0 || seen.errors == 0);
                least_errors = seen.errors.min(least_errors);
            }
        }
    }
    assert!(without_heap >= 1 && least_errors == 0, "{without_heap} {least_errors}");
}

/// A heap on little memory refuses, and goes on once something was freed. What is read as zero is zero, although
/// the system fills what it gets back with poison.
#[test]
fn memory_runs_out_and_comes_back() {
    const SIZES: Sizes = Sizes { small: 2_000, large_every: 20, large: 300_000, held: 400 };
    let simulated = simulated();
    let heap = Heap::on(System::Simulated(simulated), config()).unwrap();
    let world = World::new(&heap, 4);
    for seed in 0..6 {
        simulated.set_memory(Bytes(simulated.ready_bytes().0 + Bytes::mib(1 + seed).0));
        let held = world.churn(seed as u64, 3_000, SIZES);
        heap.check().unwrap();
        heap.snapshot().check().unwrap();
        held.into_iter().for_each(|one| world.give_back(one));
        world.rest().into_iter().for_each(|one| world.give_back(one));
        in_order(&heap, simulated);
    }
    assert!(simulated.refusals() > 100, "memory hardly ran out: {}", simulated.refusals());
    drop(world);
    drop(heap);
    assert_eq!((simulated.reserved_bytes(), simulated.ready_bytes()), (Bytes::ZERO, Bytes::ZERO));
}

#[test]
fn poison_shows_that_memory_was_given_back() {
    let heap = Heap::on(System::Simulated(simulated()), config()).unwrap();
    let purpose = heap.declare("poisoned").unwrap();
    let mut span = purpose.allocate_span(Bytes::mib(1)).unwrap();
    span.zero().fill(7);
    let at = span.as_ptr();
    drop(span);
    assert!(heap.release_all() >= Bytes::mib(1));
    // SAFETY: the memory is still mapped, and nobody else has it.
    assert_eq!(unsafe { at.read() }, spanheap::os::simulated::POISON);
    let mut again = purpose.allocate_span(Bytes::mib(1)).unwrap();
    assert_eq!(again.as_ptr(), at);
    assert!(again.zero().iter().all(|&byte| byte == 0));
    heap.check().unwrap();
}
