//! Rounds of the scavenger on a simulated system, whose time is the test's.
//!
//! # Safety
//! Blocks are freed once, by who has them.

use crate::base::Bytes;
use crate::front::config::{Config, Scavenger};
use crate::front::heap::Heap;
use crate::front::pacing::Pacer;
use crate::front::scavenger::{self, Next};
use crate::os::simulated::{Call, Simulated};
use crate::os::testing::simulated;
use crate::os::{Nanoseconds, System};
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
