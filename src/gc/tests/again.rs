//! Marking while a mutator without a barrier changes the graph: what it wrote is scanned again.

use super::World;
use crate::base::random::Random;
use crate::base::{Address, Bytes, PAGE_SIZE};
use crate::gc::Worker;
use crate::object::{NoAttachments, ShapeId};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

const REGISTERS: usize = 8;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is stored while marking, and in whatever pieces the written pages are scanned: all that the registers
    /// lead to in the end is marked.
    #[test]
    fn what_was_written_is_found(seed in any::<u64>(), rounds in 1..5usize, budget in 64..5000u64) {
        let world = World::new();
        let (mut hand, mut worker) = (world.bench.hand(), Box::new(Worker::new()));
        let mut random = Random::new(seed);
        let mut registers = [0_usize; REGISTERS];
        let mut written = std::collections::BTreeSet::new();
        let base = world.bench.objects.base().0;
        let mut step = |hand: &mut _, registers: &mut [usize; REGISTERS], written: &mut std::collections::BTreeSet<usize>| {
            let [a, b] = [(); 2].map(|()| random.below(REGISTERS));
            let word = |registers: &[usize; REGISTERS], word: usize| {
                let object = world.bench.objects.find(Address(registers[b]))?;
                Some((object.start, word % (object.size.0 / 8)))
            };
            let at = random.below(1 << 20);
            match (random.below(4), word(registers, at)) {
                (0, Some((start, at))) => registers[a] = world.word(start, at).load(Ordering::Relaxed),
                (1, Some((start, at))) => {
                    world.word(start, at).store(registers[a], Ordering::Relaxed);
                    written.insert((start.0 - base + 8 * at) / PAGE_SIZE);
                }
                (2, _) => {
                    let sizes = [16, 48, 600, 9000, 40 << 10, 300 << 10];
                    let size = sizes[random.below(sizes.len())];
                    registers[a] = world.allocate(hand, ShapeId::WORDS, size).0;
                    // Fresh memory was never protected.
                    let first = (registers[a] - base) / PAGE_SIZE;
                    written.extend(first..first + size.div_ceil(PAGE_SIZE) + 1);
                }
                _ => {}
            }
        };
        (0..400).for_each(|_| step(&mut hand, &mut registers, &mut written));
        written.clear();
        world.bench.begin_marking([&mut hand].into_iter());
        world.collector.begin();
        registers.iter().for_each(|&word| worker.shade(Address(word), &mut world.marking(&mut hand)));
        for _ in 0..rounds {
            (0..100).for_each(|_| step(&mut hand, &mut registers, &mut written));
            worker.drain(budget, &mut world.marking(&mut hand));
            for page in core::mem::take(&mut written) {
                let from = page * PAGE_SIZE;
                worker.scan_again(from..from + PAGE_SIZE / 2, &mut world.marking(&mut hand));
                worker.scan_again(from + PAGE_SIZE / 2..from + PAGE_SIZE, &mut world.marking(&mut hand));
            }
        }
        (0..100).for_each(|_| step(&mut hand, &mut registers, &mut written));
        for page in core::mem::take(&mut written) {
            worker.scan_again(page * PAGE_SIZE..(page + 1) * PAGE_SIZE, &mut world.marking(&mut hand));
        }
        registers.iter().for_each(|&word| worker.shade(Address(word), &mut world.marking(&mut hand)));
        worker.drain_with_others(&mut world.marking(&mut hand), |_| false);
        worker.leave(&mut world.marking(&mut hand));
        prop_assert!(world.verify(&mut hand, &registers).is_ok(), "something reachable is not marked");
        world.collector.end(&world.ground(&hand));
        let marked = Bytes(world.collector.progress().marked_bytes as usize);
        world.bench.end_marking([&mut hand].into_iter(), marked);
        world.bench.sweep_all(&mut hand, &mut NoAttachments);
        world.rest(&mut hand);
    }
}
