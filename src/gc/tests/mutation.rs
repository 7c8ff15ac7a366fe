//! Marking while mutators change the graph, through the barrier.
//!
//! To stop the world is to take the lock of every mutator; a safepoint is where a mutator lets go of his. Mutators keep
//! objects in registers, which no barrier sees; those are scanned once in a cycle, some time after it has begun.

use super::World;
use crate::base::random::Random;
use crate::base::{Address, Bytes};
use crate::gc::{BarrierBuffer, Phase, Source, Worker};
use crate::object::testing::Hand;
use crate::object::{NoAttachments, ShapeId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

const REGISTERS: usize = 12;

struct Mutator {
    hand: Hand,
    worker: Box<Worker>,
    barrier: BarrierBuffer,
    registers: [usize; REGISTERS],
    is_scanned: bool,
    random: Random,
}

impl Mutator {
    fn new(world: &World, seed: u64) -> Mutex<Mutator> {
        Mutex::new(Mutator {
            hand: world.bench.hand(),
            worker: Box::new(Worker::new()),
            barrier: BarrierBuffer::new(),
            registers: [0; REGISTERS],
            is_scanned: false,
            random: Random::new(seed),
        })
    }

    /// One step of a program: loads, stores, drops, or makes an object.
    fn step(&mut self, world: &World) {
        let [a, b] = [(); 2].map(|()| self.random.below(REGISTERS));
        match self.random.below(16) {
            0..7 => {
                if let Some(word) = self.pick(world, b) {
                    self.registers[a] = word.load(Ordering::Relaxed);
                }
            }
            7..12 => {
                if let Some(word) = self.pick(world, b) {
                    let new = self.registers[a];
                    if world.collector.phase() == Phase::Mark {
                        let is_full = self.barrier.push(word.load(Ordering::Relaxed), new);
                        word.store(new, Ordering::Relaxed);
                        if is_full {
                            self.barrier.flush(&mut self.worker, &mut world.marking(&mut self.hand));
                        }
                    } else {
                        word.store(new, Ordering::Relaxed);
                    }
                }
            }
            12 => self.registers[a] = 0,
            _ => {
                let size = 16 << self.random.below(7);
                self.registers[a] = world.allocate(&mut self.hand, ShapeId::WORDS, size).0;
            }
        }
    }

    /// A word of the object in a register, which must be one still.
    fn pick<'a>(&mut self, world: &'a World, register: usize) -> Option<&'a std::sync::atomic::AtomicUsize> {
        let start = self.registers[register];
        if start == 0 {
            return None;
        }
        let object = world.bench.objects.find(Address(start)).expect("what is reachable is alive");
        assert!(object.start.0 == start && !world.bench.objects.is_condemned(&object));
        Some(world.word(object.start, self.random.below(object.size.0 / 8)))
    }

    /// What the collector asks of a mutator at a safepoint.
    fn hand_over(&mut self, world: &World) {
        let marking = &mut world.marking(&mut self.hand);
        self.barrier.flush(&mut self.worker, marking);
        if !self.is_scanned {
            let range = (Address::of(self.registers.as_ptr()), Bytes(8 * REGISTERS));
            self.registers.as_ptr().expose_provenance();
            // SAFETY: the registers are this mutator's, and it stands still.
            unsafe { self.worker.scan_words(range, Source::Stacks, marking) };
            self.is_scanned = true;
        }
        self.worker.leave(marking);
    }
}

fn stop<'a>(mutators: &'a [Mutex<Mutator>]) -> Vec<MutexGuard<'a, Mutator>> {
    mutators.iter().map(|mutator| mutator.lock().unwrap()).collect()
}

/// One cycle, with so many workers beside the mutators.
fn collect(world: &World, mutators: &[Mutex<Mutator>], own: &mut Hand, workers: usize) {
    let mut stopped = stop(mutators);
    world.bench.begin_marking(stopped.iter_mut().map(|mutator| &mut mutator.hand));
    stopped.iter_mut().for_each(|mutator| mutator.is_scanned = false);
    world.collector.begin();
    drop(stopped);
    let is_over = AtomicBool::new(false);
    let stopped = std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let (mut hand, mut worker) = (world.bench.hand(), Box::new(Worker::new()));
                let over = |_| is_over.load(Ordering::Relaxed);
                while !over(false) {
                    worker.drain_with_others(&mut world.marking(&mut hand), over);
                    std::thread::yield_now();
                }
                worker.leave(&mut world.marking(&mut hand));
                world.ground(&hand).flush(&mut hand.spans);
            });
        }
        loop {
            let before = world.collector.brought();
            mutators.iter().for_each(|mutator| mutator.lock().unwrap().hand_over(world));
            if !world.collector.is_quiet() || world.collector.brought() != before {
                std::thread::yield_now();
                continue;
            }
            let mut stopped = stop(mutators);
            stopped.iter_mut().for_each(|mutator| mutator.hand_over(world));
            if world.collector.is_quiet() {
                // The workers go first, as whoever ends marking must see to: one that only looks for work is inside.
                is_over.store(true, Ordering::Relaxed);
                break stopped;
            }
        }
    });
    finish(world, stopped, own);
    world.bench.sweep_all(own, &mut NoAttachments);
    while !world.bench.objects.is_swept() {
        std::thread::yield_now();
    }
    world.rest(own);
}

/// Ends marking, while the world stands still, and compares.
fn finish(world: &World, mut stopped: Vec<MutexGuard<'_, Mutator>>, own: &mut Hand) {
    let progress = world.collector.end(&world.ground(own));
    world.collector.check_marks(&world.bench.objects).unwrap();
    let roots: Vec<_> = stopped.iter().flat_map(|mutator| mutator.registers).collect();
    let reached = world.verify(own, &roots).unwrap();
    let marked = Bytes(progress.marked_bytes as usize);
    assert!(stopped.iter().all(|mutator| mutator.barrier.is_empty()));
    let hands = stopped.iter_mut().map(|mutator| &mut mutator.hand).chain([&mut *own]);
    world.bench.end_marking(hands, marked);
    // All that was made black in advance has been told only now, when the caches are empty.
    assert!(reached.bytes <= marked + world.bench.objects.black());
}

/// Mutators run through some cycles; whatever they can reach stays alive.
fn run(mutators: u64, workers: usize, cycles: usize) {
    let (world, is_over) = (World::new(), AtomicBool::new(false));
    let mutators: Vec<_> = (0..mutators).map(|seed| Mutator::new(&world, seed)).collect();
    // A graph that all have a way into.
    {
        let mut all = stop(&mutators);
        let first = world.allocate(&mut all[0].hand, ShapeId::WORDS, 512);
        all.iter_mut().for_each(|mutator| mutator.registers[0] = first.0);
    }
    let mut own = world.bench.hand();
    std::thread::scope(|scope| {
        for mutator in &mutators {
            let (world, is_over) = (&world, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let mut mutator = mutator.lock().unwrap();
                    (0..100).for_each(|_| mutator.step(world));
                    drop(mutator);
                    std::thread::yield_now();
                }
            });
        }
        (0..cycles).for_each(|_| collect(&world, &mutators, &mut own, workers));
        is_over.store(true, Ordering::Relaxed);
    });
    let mut hands: Vec<_> = mutators.into_iter().map(|mutator| mutator.into_inner().unwrap().hand).collect();
    hands.iter_mut().for_each(|hand| world.bench.flush(hand));
    hands.push(own);
    world.bench.check(hands.iter());
}

/// Few where every check is compiled in.
const CYCLES: usize = if cfg!(debug_assertions) { 10 } else { 200 };

#[test]
fn one_mutator_and_one_worker() {
    run(1, 1, CYCLES);
}

#[test]
fn three_mutators_and_two_workers() {
    run(3, 2, CYCLES);
}
