//! Several mutators allocate while one thread marks, others sweep and reclaim, and one looks up whatever it likes.

use super::{PLAIN, WORDS, class};
use crate::base::class::MAX_SMALL;
use crate::base::random::Random;
use crate::base::{Address, Bytes, PAGE_SIZE};
use crate::object::testing::{Bench, Hand};
use crate::object::{NoAttachments, ShapeId};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

const MUTATORS: usize = 3;
const CYCLES: usize = if cfg!(debug_assertions) { 12 } else { 40 };
/// Objects that a mutator keeps at most.
const KEPT: usize = 300;
/// Rounds that mutators do in a cycle, of so many steps each: half of them while it marks.
const ROUNDS: usize = 120;
const STEPS: usize = 50;

/// A mutator: what it allocates with, and the objects that it would be sad to lose.
struct Mutator {
    hand: Hand,
    kept: Vec<(usize, usize)>,
    random: Random,
}

/// What all threads share. Who works on the heap holds `world` to read; who stops the world holds it to write.
struct Shared {
    bench: Bench,
    world: RwLock<()>,
    mutators: [Mutex<Mutator>; MUTATORS],
    /// Rounds that mutators may still do: however they are scheduled, each cycle sees the same amount of work.
    left: AtomicUsize,
    done: AtomicBool,
}

impl Mutator {
    /// Allocates an object, fills it, and keeps it or not; forgets another one.
    fn step(&mut self, bench: &Bench) {
        let kind = if self.random.below(2) == 0 { PLAIN } else { WORDS };
        let (pointer, size) = match self.random.below(200) {
            0 => {
                let size = MAX_SMALL + 1 + self.random.below(100_000);
                let pointer = bench.allocate_large(&mut self.hand, size, ShapeId::WORDS).unwrap();
                (pointer, size.next_multiple_of(PAGE_SIZE))
            }
            most => {
                let class = class(kind, 1 + self.random.below(if most < 20 { 9000 } else { 300 }));
                (bench.allocate(&mut self.hand, class).unwrap(), class.row().size as usize)
            }
        };
        for at in (0..size / 8).step_by(1 + size / 512) {
            // SAFETY: the object is this thread's.
            unsafe {
                let word = pointer.cast::<u64>().add(at);
                assert_eq!(word.read(), 0, "{word:?} of a new object is not zero");
                word.write(pointer.addr() as u64);
            }
        }
        if self.random.below(4) == 0 {
            self.kept.push((pointer.expose_provenance(), size));
        }
        if self.kept.len() > KEPT {
            let place = self.random.below(self.kept.len());
            let (address, size) = self.kept.swap_remove(place);
            verify(bench, address, size);
        }
    }
}

/// An object that somebody kept is still there, and what it was.
fn verify(bench: &Bench, address: usize, size: usize) {
    let object = bench.objects.find(Address(address + size / 2)).expect("kept objects stay");
    assert_eq!((object.start, object.size), (Address(address), Bytes(size)));
    assert!(!bench.objects.is_condemned(&object), "{object:?} was reached");
    let pointer = std::ptr::with_exposed_provenance::<u64>(address);
    for at in (0..size / 8).step_by(1 + size / 512) {
        // SAFETY: the object is the calling thread's, or the world stands still.
        assert_eq!(unsafe { pointer.add(at).read() }, address as u64, "{object:?} was overwritten");
    }
}

impl Shared {
    fn mutate(&self, number: usize) {
        while !self.done.load(Ordering::Relaxed) {
            let less = |left: usize| left.checked_sub(1);
            if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
                std::thread::yield_now();
                continue;
            }
            let _running = self.world.read().unwrap();
            let mut mutator = self.mutators[number].lock().unwrap();
            for _ in 0..STEPS {
                mutator.step(&self.bench);
            }
        }
    }

    /// Waits until mutators have begun all but so many of a cycle's rounds.
    fn wait(&self, left: usize) {
        while self.left.load(Ordering::Relaxed) > left {
            std::thread::yield_now();
        }
    }

    /// Sweeps and reclaims whenever there is something.
    fn sweep(&self, mut hand: Hand) -> Hand {
        while !self.done.load(Ordering::Relaxed) {
            let _running = self.world.read().unwrap();
            let (objects, mut work) = (&self.bench.objects, self.bench.work(&mut hand));
            objects.reclaim_chunk(&mut work, &mut NoAttachments);
            objects.sweep_chunk(&mut work, &mut NoAttachments);
            std::thread::yield_now();
        }
        hand
    }

    /// Looks up any address, whatever the others do.
    fn look(&self) {
        let (base, mut random) = (self.bench.heap.region().base().0, Random::new(5));
        let mut found = 0;
        while !self.done.load(Ordering::Relaxed) {
            for _ in 0..100 {
                let address = base + random.below(self.bench.heap.region().size().0);
                let Some(object) = self.bench.objects.find(Address(address)) else { continue };
                assert!(object.start.0 <= address && address - object.start.0 < object.size.0);
                self.bench.objects.shape_of(&object);
                self.bench.objects.is_condemned(&object);
                found += 1;
            }
            std::thread::yield_now();
        }
        assert!(found > 0, "the look-ups tried nothing");
    }

    /// Stops the world, with all mutators.
    fn stop<T>(&self, with: impl FnOnce(&Bench, &mut [std::sync::MutexGuard<'_, Mutator>]) -> T) -> T {
        let _stopped = self.world.write().unwrap();
        let mut all: Vec<_> = self.mutators.iter().map(|mutator| mutator.lock().unwrap()).collect();
        with(&self.bench, &mut all)
    }

    fn cycle(&self) {
        let roots = self.stop(|bench, all| {
            bench.sweep_all(&mut all[0].hand, &mut NoAttachments);
            assert!(bench.objects.is_swept());
            let roots: Vec<usize> = all.iter().flat_map(|mutator| &mutator.kept).map(|kept| kept.0).collect();
            bench.begin_marking(all.iter_mut().map(|mutator| &mut mutator.hand));
            bench.check_objects(all.iter().map(|mutator| &mutator.hand));
            roots
        });
        self.left.store(ROUNDS, Ordering::Relaxed);
        let mut marked = Bytes::ZERO;
        for root in roots {
            let object = self.bench.objects.find(Address(root)).expect("roots are objects");
            if self.bench.objects.mark(&object) {
                marked += object.size;
            }
        }
        self.wait(ROUNDS / 2);
        self.stop(|bench, all| {
            bench.end_marking(all.iter_mut().map(|mutator| &mut mutator.hand), marked);
            bench.check_objects(all.iter().map(|mutator| &mutator.hand));
        });
        self.wait(0);
    }
}

#[test]
fn nothing_that_is_kept_is_lost() {
    let bench = Bench::new();
    let mutator = |seed| Mutator { hand: bench.hand(), kept: Vec::new(), random: Random::new(seed) };
    let mutators = std::array::from_fn(|seed| Mutex::new(mutator(seed as u64)));
    let sweeper = bench.hand();
    let (world, left, done) = (RwLock::new(()), AtomicUsize::new(0), AtomicBool::new(false));
    let shared = Shared { bench, world, mutators, left, done };
    let mut sweeper = std::thread::scope(|scope| {
        (0..MUTATORS).for_each(|number| {
            drop(scope.spawn({
                let shared = &shared;
                move || shared.mutate(number)
            }))
        });
        let sweeping = scope.spawn(|| shared.sweep(sweeper));
        scope.spawn(|| shared.look());
        (0..CYCLES).for_each(|_| shared.cycle());
        shared.done.store(true, Ordering::Relaxed);
        sweeping.join().unwrap()
    });
    shared.stop(|bench, all| {
        bench.sweep_all(&mut sweeper, &mut NoAttachments);
        for mutator in all.iter_mut() {
            bench.flush(&mut mutator.hand);
            mutator.kept.iter().for_each(|&(address, size)| verify(bench, address, size));
        }
        bench.check(all.iter().map(|mutator| &mutator.hand).chain([&sweeper]));
    });
}
