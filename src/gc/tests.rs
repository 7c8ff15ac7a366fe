//! Tests of the room, on a bench: a page heap, room for objects, and a collector, without threads or a clock of their
//! own.
//!
//! # Safety
//! Spans, buffers and objects are the tests' own.

use super::{Collector, Marking, Reached, Unmarked, Verifier, Worker};
use crate::base::class::{MAX_SMALL, SizeClass};
use crate::base::{Address, Bytes, PAGE_SIZE};
use crate::object::testing::{Bench, Hand};
use crate::object::{Shape, ShapeId, Shapes, SpanClass, SpanKind};
use crate::os::System;
use crate::os::testing::shard;
use crate::span::Ground;
use std::sync::atomic::{AtomicUsize, Ordering};

mod again;
mod graph;
mod lists;
mod mutation;

/// A bench with a collector and some shapes.
struct World {
    bench: Bench,
    collector: Collector,
    shapes: Shapes,
}

impl World {
    fn new() -> World {
        World::of(Bytes::mib(64))
    }

    fn of(size: Bytes) -> World {
        let bench = Bench::on(System::Linux, size);
        let ledger = bench.books.ledger(shard(&bench.books));
        let collector = Collector::reserve(System::Linux, ledger).unwrap();
        let shapes = Shapes::reserve(System::Linux, ledger).unwrap();
        World { bench, collector, shapes }
    }

    fn ground(&self, hand: &Hand) -> Ground<'_> {
        let ledger = self.bench.books.ledger(hand.shard);
        Ground { heap: &self.bench.heap, meters: &self.bench.meters, ledger }
    }

    fn marking<'a>(&'a self, hand: &'a mut Hand) -> Marking<'a> {
        let ground = self.ground(hand);
        Marking {
            collector: &self.collector,
            objects: &self.bench.objects,
            shapes: &self.shapes,
            supply: self.collector.supply(ground, &mut hand.spans),
        }
    }

    fn register(&self, shape: &Shape<'_>, hand: &Hand) -> ShapeId {
        self.shapes.register(shape, self.bench.books.ledger(hand.shard)).unwrap()
    }

    /// An object of a shape, all zeros.
    fn allocate(&self, hand: &mut Hand, shape: ShapeId, size: usize) -> Address {
        if size > MAX_SMALL {
            return Address::of(self.bench.allocate_large(hand, size, shape).unwrap());
        }
        let class = SizeClass::of(size).unwrap();
        let size = Bytes(class.size());
        let kind = self.shapes.kind(shape, size);
        let start = Address::of(self.bench.allocate(hand, SpanClass::new(kind, class)).unwrap());
        let object = self.bench.objects.find(start).unwrap();
        match kind {
            SpanKind::Mapped => {
                let word = (start.0 - self.bench.objects.base().0) % PAGE_SIZE / 8;
                let map = self.bench.objects.page_map(object.first_page).unwrap();
                map.set(word, size.0 / 8, self.shapes.mask(shape, size));
            }
            SpanKind::Headed => {
                self.bench.objects.set_shape_at(object.first_page, object.index as usize, shape);
            }
            SpanKind::Plain | SpanKind::Words => {}
        }
        start
    }

    /// A word of an object, as mutators reach it.
    fn word(&self, object: Address, word: usize) -> &AtomicUsize {
        let at = self.bench.heap.region().pointer(Address(object.0 + 8 * word));
        // SAFETY: tests name words of objects that are alive; those are only ever reached atomically, or by kernels.
        unsafe { &*at.cast() }
    }

    /// Drains with so many threads until there is no work.
    fn drain(&self, threads: usize) {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let (mut hand, mut worker) = (self.bench.hand(), Box::new(Worker::new()));
                    worker.drain_with_others(&mut self.marking(&mut hand), |_| false);
                    assert!(worker.is_empty());
                    self.ground(&hand).flush(&mut hand.spans);
                });
            }
        });
        assert!(self.collector.is_quiet());
    }

    /// Walks through everything from some addresses, while the world stands still.
    fn verify(&self, hand: &mut Hand, roots: &[usize]) -> Result<Reached, Unmarked> {
        let (ground, objects) = (self.ground(hand), (&self.bench.objects, &self.shapes));
        // SAFETY: nobody else does anything meanwhile.
        let mut verifier = unsafe { Verifier::new(ground, &mut hand.spans, objects) }.unwrap();
        for &root in roots {
            verifier.root(Address(root)).unwrap();
        }
        for range in self.collector.roots.all() {
            // SAFETY: tests register what they have.
            unsafe { verifier.range(&range) }.unwrap();
        }
        verifier.finish()
    }

    /// Gives all work buffers back, and proves that the collector rests.
    fn rest(&self, hand: &mut Hand) {
        let ground = self.ground(hand);
        // SAFETY: nobody marks.
        unsafe {
            while self.collector.give_back_buffers(&ground, &mut hand.spans, 1) {}
            self.shapes.roll_up(ground, &mut hand.spans);
        }
        self.collector.check(&self.bench.heap).unwrap();
        assert_eq!(self.collector.buffers().bytes(), Bytes::ZERO);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: the test is done with it.
        unsafe {
            self.collector.destroy();
            self.shapes.destroy();
        }
    }
}

/// So that the tests read alike, whatever they do with words.
fn load(word: &AtomicUsize) -> usize {
    word.load(Ordering::Relaxed)
}
