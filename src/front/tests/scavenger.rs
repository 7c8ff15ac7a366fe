//! Rounds of the scavenger on a simulated system, whose time is the test's.
//!
//! # Safety
//! Blocks are freed once, by who has them.

use crate::base::{Bytes, PurposeId};
use crate::front::config::{Config, Scavenger};
use crate::front::heap::Heap;
use crate::front::misuse::Fault;
use crate::front::pacing::Pacer;
use crate::front::scavenger::{self, Next};
use crate::front::stacks::{RawStack, Stack};
use crate::os::simulated::{Call, Simulated};
use crate::os::testing::simulated;
use crate::os::{Nanoseconds, System};
use crate::stack::Guard;
use crate::stats::Account;
use proptest::prelude::*;
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::mpsc::channel;

const SECOND: Nanoseconds = Nanoseconds(1_000_000_000);

struct World {
    simulated: &'static Simulated,
    system: System,
    heap: Heap,
    pacer: Pacer,
}

/// A block of the test's.
struct Held(NonNull<u8>, Layout);

// SAFETY: the block is the holder's alone.
unsafe impl Send for Held {}

impl World {
    fn new(config: Config) -> World {
        let (simulated, system) = simulated();
        let config = Config { reserve: Bytes::gib(4), ..config };
        World { simulated, system, heap: Heap::on(system, config).unwrap(), pacer: Pacer::new() }
    }

    fn take(&self, size: usize) -> Held {
        let layout = Layout::from_size_align(size, 16).unwrap();
        Held(self.heap.allocate(layout).unwrap(), layout)
    }

    fn free(&self, Held(block, layout): Held) {
        // SAFETY: the test's own block.
        unsafe { self.heap.deallocate(block, layout) };
    }

    fn round(&mut self) -> Next {
        let next = scavenger::round(&self.pacer, self.system, |visit| visit(self.heap.core()));
        self.heap.check().unwrap();
        next
    }

    /// Rounds, with the time that they ask for in between, until there is nothing to do. Returns how many.
    fn settle(&mut self) -> usize {
        for rounds in 1..10_000 {
            match self.round() {
                Next::Rest { worked, rest } => {
                    self.simulated.advance(rest);
                    self.pacer.learn(worked, rest);
                }
                Next::Nap(time) => self.simulated.advance(time),
                Next::Sleep => return rounds,
            }
        }
        panic!("the scavenger never sleeps");
    }

    fn balance(&self, account: Account) -> usize {
        let snapshot = self.heap.snapshot();
        snapshot.check().unwrap();
        snapshot.balance(account) as usize
    }

    fn kept(&self) -> usize {
        self.balance(Account::Free) + self.balance(Account::Cached)
    }
}

#[test]
fn an_idle_heap_gives_everything_back_and_then_nobody_wakes() {
    let mut world = World::new(Config::default());
    let blocks: Vec<_> = (0..200).map(|i| world.take(100_000 + i)).collect();
    blocks.into_iter().for_each(|block| world.free(block));
    assert!(world.kept() > 19 << 20);
    assert!(world.settle() > 1);
    assert_eq!(world.kept(), 0, "free or cached");
    assert_eq!(world.round(), Next::Sleep);
    let released = world.heap.core().pages.released();
    assert!(released.in_background > 19 << 20 && released.at_limit == 0 && released.on_request == 0);
}

#[test]
fn a_heap_in_use_keeps_a_tenth() {
    let mut world = World::new(Config::default());
    let mut blocks: Vec<_> = (0..200).map(|_| world.take(500_000)).collect();
    blocks.drain(100..).for_each(|block| world.free(block));
    // Somebody is always there.
    for _ in 0..400 {
        let block = world.take(40_000);
        world.free(block);
        match world.round() {
            Next::Rest { worked, rest } => {
                world.simulated.advance(rest);
                world.pacer.learn(worked, rest);
            }
            Next::Nap(time) => world.simulated.advance(Nanoseconds(time.0 / 4)),
            Next::Sleep => panic!("somebody uses the heap"),
        }
    }
    let (free, in_use) = (world.balance(Account::Free), 100 * 500_000);
    assert!(free > in_use / 20 && free < in_use / 8, "{free} bytes stay free");
    blocks.into_iter().for_each(|block| world.free(block));
}

#[test]
fn what_a_thread_keeps_comes_back_without_its_help() {
    let mut world = World::new(Config::default());
    let (done, wait) = channel::<()>();
    let (ready, is_ready) = channel();
    let heap: &'static Heap = Box::leak(Box::new(std::mem::replace(
        &mut world.heap,
        Heap::new(Config { reserve: Bytes::gib(1), ..Config::default() }).unwrap(),
    )));
    let system = world.system;
    let thread = std::thread::spawn(move || {
        let layout = Layout::from_size_align(100_000, 16).unwrap();
        let blocks: Vec<_> = (0..4).map(|_| heap.allocate(layout).unwrap()).collect();
        // SAFETY: the thread's own blocks.
        blocks.into_iter().for_each(|block| unsafe { heap.deallocate(block, layout) });
        ready.send(()).unwrap();
        wait.recv().unwrap();
    });
    is_ready.recv().unwrap();
    let cached = |heap: &Heap| heap.snapshot().balance(Account::Cached);
    assert!(cached(heap) > 400_000);
    let round = || scavenger::round(&Pacer::new(), system, |visit| visit(heap.core()));
    round();
    assert!(cached(heap) > 400_000, "it was here a moment ago");
    world.simulated.advance(SECOND);
    round();
    assert_eq!(cached(heap), 0);
    heap.check().unwrap();
    done.send(()).unwrap();
    thread.join().unwrap();
    heap.check().unwrap();
}

#[test]
fn off_means_never_and_eager_at_once() {
    for (mode, rounds) in [(Scavenger::Off, 1), (Scavenger::Eager, 1)] {
        let mut world = World::new(Config { scavenger: mode, ..Config::default() });
        let blocks: Vec<_> = (0..50).map(|_| world.take(1_000_000)).collect();
        blocks.into_iter().for_each(|block| world.free(block));
        for _ in 0..rounds {
            world.round();
        }
        let kept = world.kept();
        match mode {
            Scavenger::Off => {
                assert!(kept > 40 << 20);
                assert_eq!(world.round(), Next::Sleep);
                assert_eq!(world.simulated.calls_of(Call::Release), 0);
            }
            _ => {
                world.settle();
                assert_eq!(world.kept(), 0);
            }
        }
    }
}

#[test]
fn near_the_limit_more_goes_back() {
    let limit = Bytes::mib(64);
    let mut world = World::new(Config { limit: Some(limit), ..Config::default() });
    let mut blocks: Vec<_> = (0..60).map(|_| world.take(1 << 20)).collect();
    blocks.drain(..5).for_each(|block| world.free(block));
    // One round of work is enough here: time stands still, so it goes on until nothing is left to do.
    for _ in 0..8 {
        if let Next::Rest { rest, .. } = world.round() {
            world.simulated.advance(rest);
        }
    }
    let committed = world.heap.core().pages.committed();
    assert!(committed.0 <= limit.0 / 100 * 95 + (1 << 16), "{committed} of {limit}");
    blocks.into_iter().for_each(|block| world.free(block));
}

#[test]
fn what_the_system_does_not_take_is_tried_again_later() {
    let mut world = World::new(Config::default());
    let blocks: Vec<_> = (0..20).map(|_| world.take(1 << 20)).collect();
    blocks.into_iter().for_each(|block| world.free(block));
    world.simulated.refuse(0, usize::MAX / 2);
    world.settle();
    assert!(world.kept() > 19 << 20);
    world.simulated.refuse_nothing();
    let block = world.take(100_000);
    world.free(block);
    world.settle();
    assert_eq!(world.kept(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 12 } else { 100 }))]

    /// Whatever a program does between rounds, the books and the walk agree, and a heap at rest keeps nothing.
    #[test]
    fn rounds_between_any_work(steps in prop::collection::vec((0usize..3, 1usize..300_000, 0u64..3000), 1..60)) {
        let mut world = World::new(Config::default());
        let mut held: Vec<Held> = Vec::new();
        for (step, size, milliseconds) in steps {
            match step {
                0 => held.push(world.take(size)),
                1 if !held.is_empty() => {
                    let block = held.swap_remove(size % held.len());
                    world.free(block);
                }
                _ => {
                    world.simulated.advance(Nanoseconds(milliseconds * 1_000_000));
                    world.round();
                }
            }
        }
        held.into_iter().for_each(|block| world.free(block));
        world.settle();
        prop_assert_eq!(world.kept(), 0);
    }
}

impl World {
    /// Guarded stacks, each written to so many bytes deep.
    fn stacks(&self, purpose: PurposeId, count: usize, depth: usize) -> Vec<RawStack> {
        let stack = |_| Stack::allocate(&self.heap, purpose, Bytes::kib(16), Guard::Yes).unwrap();
        let all: Vec<_> = (0..count).map(stack).collect();
        for stack in &all {
            // SAFETY: the stack's own memory, and nothing runs there.
            unsafe { stack.base().as_ptr().sub(depth).write_bytes(0xaa, depth) };
        }
        self.heap.check().unwrap();
        all.into_iter().map(Stack::into_raw).collect()
    }

    fn drop_stack(&self, raw: RawStack) {
        // SAFETY: made of a stack of this heap, and once.
        drop(unsafe { Stack::from_raw(&self.heap, raw) });
    }

    /// How many of a stack's bytes read as zero.
    fn zeros(raw: &RawStack) -> usize {
        // SAFETY: the memory stays mapped, and nobody writes there.
        let bytes = unsafe { std::slice::from_raw_parts(raw.limit().as_ptr(), raw.size().0) };
        bytes.iter().filter(|&&byte| byte == 0).count()
    }
}

#[test]
fn stacks_of_fibers_that_are_gone_go_back() {
    const DEPTH: usize = 4 << 10;
    let mut world = World::new(Config::default());
    let fibers = world.heap.declare_stacks("fibers").unwrap().id();
    let inuse = |world: &World| world.heap.core().meters.get(fibers).inuse();
    let stacks = world.stacks(fibers, 400, DEPTH);
    let slabs = inuse(&world);
    assert!(slabs >= Bytes::kib(400 * 20), "{slabs}");
    // One in each slab of sixteen stays, and most slabs with it.
    let (stay, gone): (Vec<_>, Vec<_>) = stacks.into_iter().enumerate().partition(|(n, _)| n % 16 == 0);
    gone.iter().for_each(|(_, raw)| world.drop_stack(*raw));
    world.round();
    assert!(gone.iter().any(|(_, raw)| World::zeros(raw) < raw.size().0), "somebody was here a moment ago");
    world.settle();
    assert_eq!(inuse(&world), slabs);
    assert!(gone.iter().all(|(_, raw)| World::zeros(raw) == raw.size().0), "a free stack keeps memory");
    assert!(stay.iter().all(|(_, raw)| World::zeros(raw) == raw.size().0 - DEPTH));
    stay.iter().for_each(|(_, raw)| world.drop_stack(*raw));
    world.settle();
    assert_eq!((inuse(&world), world.kept()), (Bytes::ZERO, 0));
    assert_eq!(world.round(), Next::Sleep);
    let released = world.heap.core().pages.released();
    assert!(released.in_background >= slabs.0 as u64 && released.on_request == 0 && released.at_limit == 0);
}

#[test]
fn stacks_freed_while_marking_go_back_when_that_is_over() {
    let mut world = World::new(Config::default());
    let fibers = world.heap.declare_stacks("fibers").unwrap().id();
    let stacks = world.stacks(fibers, 100, 1000);
    let of_fibers = |world: &World| world.heap.snapshot().purpose(fibers).stacks.unwrap();
    world.heap.core().begin_marking();
    stacks.iter().for_each(|raw| world.drop_stack(*raw));
    for _ in 0..20 {
        // Something may be left to do as long as a collector marks.
        assert_ne!(world.round(), Next::Sleep);
        world.simulated.advance(SECOND);
    }
    assert_eq!(of_fibers(&world).parked, 100 << 14);
    assert!(stacks.iter().all(|raw| World::zeros(raw) == raw.size().0 - 1000), "nobody looks after them now");
    world.heap.core().end_marking(world.heap.core().shared_mutator());
    world.settle();
    assert_eq!((of_fibers(&world).parked, of_fibers(&world).free, world.kept()), (0, 0, 0));
    assert_eq!(world.heap.core().meters.get(fibers).inuse(), Bytes::ZERO);
}

/// A block whose bytes say which one it is.
fn fill(Held(block, layout): &Held, tag: u8) {
    // SAFETY: the test's own block.
    unsafe { block.as_ptr().write_bytes(tag, layout.size()) };
}

fn is_filled(Held(block, layout): &Held, tag: u8) -> bool {
    // SAFETY: the test's own block, which was filled.
    unsafe { std::slice::from_raw_parts(block.as_ptr(), layout.size()) }.iter().all(|&byte| byte == tag)
}

#[test]
fn survivors_do_not_keep_their_neighbours_memory() {
    let mut world = World::new(Config::default());
    let blocks: Vec<_> = (0..20_000).map(|i| world.take(64 + i * 37 % 2000)).collect();
    let mut kept = Vec::new();
    let mut gone = Vec::new();
    for (i, block) in blocks.into_iter().enumerate() {
        fill(&block, i as u8);
        if i % 16 == 0 {
            kept.push((block, i as u8));
        } else {
            gone.push(block.0);
            world.free(block);
        }
    }
    let before = world.simulated.ready_bytes();
    world.settle();
    let (after, holes) = (world.simulated.ready_bytes(), world.heap.core().pages.holes());
    assert!(after.0 < before.0 / 3, "{after} of {before}");
    assert!(holes > Bytes::mib(5), "{holes}");
    assert!(kept.iter().all(|(block, tag)| is_filled(block, *tag)));
    // Whatever became of a free block, it is known to be free.
    for block in gone {
        // SAFETY: that it is in nobody's use is what is to be found.
        let misuse = unsafe { world.heap.free(block) }.unwrap_err();
        assert!(
            matches!(misuse.fault, Fault::DoubleFree | Fault::NoSpan | Fault::NeverAllocated),
            "{misuse}"
        );
    }
    world.heap.check().unwrap();
    // What comes next fills the holes.
    let again: Vec<_> = (0..20_000).map(|i| world.take(64 + i * 37 % 2000)).collect();
    again.iter().for_each(|block| fill(block, 0xee));
    assert!(kept.iter().all(|(block, tag)| is_filled(block, *tag)));
    world.heap.check().unwrap();
    assert!(world.heap.core().pages.holes() < Bytes::mib(1));
    again.into_iter().for_each(|block| world.free(block));
    kept.into_iter().for_each(|(block, _)| world.free(block));
    world.settle();
    assert_eq!(world.kept(), 0);
}

#[test]
fn a_system_without_memory_leaves_holes_as_they_are() {
    let mut world = World::new(Config::default());
    let mut blocks: Vec<_> = (0..4000).map(|_| Some(world.take(1000))).collect();
    for (i, block) in blocks.iter_mut().enumerate() {
        if i % 16 != 0 {
            world.free(block.take().unwrap());
        }
    }
    world.settle();
    let holes = world.heap.core().pages.holes();
    assert!(holes > Bytes::mib(1));
    world.simulated.set_memory(world.simulated.ready_bytes());
    let layout = Layout::from_size_align(1000, 16).unwrap();
    let mut more = Vec::new();
    let refused = loop {
        match world.heap.allocate(layout) {
            Ok(block) => more.push(Held(block, layout)),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused.scarce, crate::Scarce::System(_)), "{refused}");
    world.heap.check().unwrap();
    assert!(world.heap.core().pages.holes() > Bytes::mib(1), "they cannot be filled");
    world.simulated.set_memory(Bytes::gib(1));
    more.extend((0..2000).map(|_| world.take(1000)));
    world.heap.check().unwrap();
    more.into_iter().chain(blocks.into_iter().flatten()).for_each(|block| world.free(block));
    world.settle();
    assert_eq!(world.kept(), 0);
}

/// A thread makes blocks and then does nothing; others free them: no block is its to look after any more.
#[test]
fn what_others_free_comes_back_without_its_owner() {
    let mut world = World::new(Config::default());
    let heap: &'static Heap = Box::leak(Box::new(std::mem::replace(
        &mut world.heap,
        Heap::new(Config { reserve: Bytes::gib(1), ..Config::default() }).unwrap(),
    )));
    let system = world.system;
    let (hand, take) = channel();
    let (go_on, wait) = channel::<()>();
    let thread = std::thread::spawn(move || {
        let make = |size: usize| {
            let layout = Layout::from_size_align(size, 16).unwrap();
            let held = Held(heap.allocate(layout).unwrap(), layout);
            fill(&held, size as u8);
            held
        };
        let blocks: Vec<Held> = (0..6000).map(|i| make(16 + i * 7 % 3000)).collect();
        hand.send(blocks).unwrap();
        wait.recv().unwrap();
        // It wakes, and has what it needs.
        let more: Vec<Held> = (0..1000).map(|i| make(16 + i * 5 % 3000)).collect();
        assert!(more.iter().all(|held| is_filled(held, held.1.size() as u8)));
        // SAFETY: the thread's own blocks.
        more.into_iter().for_each(|Held(block, layout)| unsafe { heap.deallocate(block, layout) });
    });
    let mut left: Vec<Held> = take.recv().unwrap();
    let in_spans = || heap.snapshot().in_spans() as usize;
    let before = in_spans();
    // SAFETY: the blocks were handed over.
    let free = |Held(block, layout): Held| unsafe { heap.deallocate(block, layout) };
    let round = || {
        scavenger::round(&Pacer::new(), system, |visit| visit(heap.core()));
        heap.check().unwrap();
    };
    // Tended once while nothing has come back, and once while every span has blocks in use.
    round();
    world.simulated.advance(SECOND);
    round();
    // Of the later ones nothing is left, of the earlier ones seven in eight.
    left.drain(3000..).for_each(free);
    let (gone, kept): (Vec<_>, Vec<_>) = left.into_iter().enumerate().partition(|(i, _)| i % 8 == 0);
    gone.into_iter().for_each(|(_, held)| free(held));
    let left: Vec<Held> = kept.into_iter().map(|(_, held)| held).collect();
    round();
    world.simulated.advance(SECOND);
    round();
    assert!(in_spans() < before / 4 * 3, "{} of {before}", in_spans());
    assert!(left.iter().all(|held| is_filled(held, held.1.size() as u8)));
    left.into_iter().for_each(free);
    world.simulated.advance(SECOND);
    round();
    // What is left are the spans that it would allocate from next.
    assert!(in_spans() < before / 5, "{} of {before}", in_spans());
    go_on.send(()).unwrap();
    thread.join().unwrap();
    heap.release_all();
    heap.check().unwrap();
    assert_eq!(in_spans(), 0);
}

/// Owners work on their fast paths, and free each other's blocks, while another thread tends them without end.
#[test]
fn who_is_tended_does_not_notice() {
    const ROUNDS: usize = if cfg!(debug_assertions) { 40 } else { 400 };
    let heap = &Heap::new(Config { reserve: Bytes::gib(4), ..Config::default() }).unwrap();
    let done = &std::sync::atomic::AtomicBool::new(false);
    let pool = &std::sync::Mutex::new(Vec::<(Held, u8)>::new());
    std::thread::scope(|scope| {
        let tender = scope.spawn(move || {
            let mut turns = 0u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                heap.core().all_mutators().for_each(|mutator| {
                    heap.core().tend_all_of(mutator);
                });
                turns += 1;
            }
            turns
        });
        let owners: Vec<_> = (0..3u64)
            .map(|thread| {
                scope.spawn(move || {
                    let mut random = crate::base::random::Random::new(thread + 1);
                    let mut held: Vec<(Held, u8)> = Vec::new();
                    for round in 0..ROUNDS {
                        for _ in 0..500 {
                            let size = 16 + random.below(if round % 2 == 0 { 300 } else { 3000 });
                            let layout = Layout::from_size_align(size, 16).unwrap();
                            let block = Held(heap.allocate(layout).unwrap(), layout);
                            let tag = random.below(256) as u8;
                            fill(&block, tag);
                            held.push((block, tag));
                        }
                        {
                            let mut pool = pool.lock().unwrap();
                            pool.extend(held.drain(..250));
                            let others = pool.len() / 2;
                            held.extend(pool.drain(..others));
                        }
                        while held.len() > 200 {
                            let (block, tag) = held.swap_remove(random.below(held.len()));
                            assert!(is_filled(&block, tag), "a block was overwritten");
                            // SAFETY: the thread's own block.
                            unsafe { heap.deallocate(block.0, block.1) };
                        }
                    }
                    for (block, tag) in held {
                        assert!(is_filled(&block, tag), "a block was overwritten");
                        // SAFETY: the thread's own block.
                        unsafe { heap.deallocate(block.0, block.1) };
                    }
                })
            })
            .collect();
        owners.into_iter().for_each(|owner| owner.join().unwrap());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(tender.join().unwrap() > 0);
    });
    for (block, tag) in pool.lock().unwrap().drain(..) {
        assert!(is_filled(&block, tag), "a block was overwritten");
        // SAFETY: nobody else has what is in the pool.
        unsafe { heap.deallocate(block.0, block.1) };
    }
    heap.check().unwrap();
    heap.release_all();
    heap.check().unwrap();
    let snapshot = heap.snapshot();
    snapshot.check().unwrap();
    assert_eq!(snapshot.in_spans(), 0, "a block was lost");
    assert_eq!(heap.core().pages.holes(), Bytes::ZERO);
}
