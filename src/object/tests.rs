//! Tests of the room, on a bench of its own.

use super::kind::{SpanClass, SpanKind};
use super::model::Model;
use super::testing::{Bench, Hand};
use super::{NoAttachments, ShapeId};
use crate::base::class::{MAX_SMALL, SizeClass};
use crate::base::{Address, Bytes, PAGE_SIZE};
use crate::stats::{PurposeBook, Snapshot};
use proptest::prelude::*;

mod check;
mod find;
mod free;
mod life;
mod refusal;
mod threads;

const PLAIN: SpanKind = SpanKind::Plain;
const WORDS: SpanKind = SpanKind::Words;

fn class(kind: SpanKind, size: usize) -> SpanClass {
    SpanClass::new(kind, SizeClass::of_small(size))
}

/// A bench, its mutators, and the twin.
struct World {
    bench: Bench,
    hands: Vec<Hand>,
    model: Model,
    /// Bytes that the test has marked in this cycle.
    marked: usize,
}

impl World {
    fn new(bench: Bench, mutators: usize) -> World {
        let hands = (0..mutators).map(|_| bench.hand()).collect();
        World { bench, hands, model: Model::default(), marked: 0 }
    }

    fn allocate(&mut self, who: usize, kind: SpanKind, size: usize) {
        let who = who % self.hands.len();
        let hand = &mut self.hands[who];
        if size > MAX_SMALL {
            let shape = if kind == PLAIN { ShapeId::PLAIN } else { ShapeId::WORDS };
            let Ok(pointer) = self.bench.allocate_large(hand, size, shape) else { return };
            self.model.allocated(pointer, size.next_multiple_of(PAGE_SIZE));
            return;
        }
        let class = class(kind, size);
        let Ok(pointer) = self.bench.allocate(hand, class) else { return };
        self.model.allocated(pointer, class.row().size as usize);
    }

    fn begin_marking(&mut self) {
        self.sweep();
        self.bench.begin_marking(&mut self.hands);
        self.model.marking = true;
        self.marked = 0;
    }

    /// Marks an object, found from a place inside it.
    fn mark(&mut self, place: usize, inside: usize) {
        let Some(held) = self.model.reach(place) else { return };
        let objects = &self.bench.objects;
        let object = objects.find(Address(held.pointer.addr() + inside % held.size)).unwrap();
        assert_eq!((object.start.0, object.size.0), (held.pointer.addr(), held.size));
        if objects.mark(&object) {
            self.marked += held.size;
        }
        assert!(objects.is_marked(&object));
    }

    fn end_marking(&mut self) {
        self.bench.end_marking(&mut self.hands, Bytes(self.marked));
        let dead = self.model.end_cycle();
        let objects = &self.bench.objects;
        assert_eq!(objects.live().0, self.model.bytes(), "what is marked is what lives on");
        for held in dead {
            let object = objects.find(Address(held.pointer.addr())).unwrap();
            assert!(objects.is_condemned(&object));
        }
        let condemned = |address| objects.is_condemned(&objects.find(Address(address)).unwrap());
        assert!(self.model.objects().all(|held| !condemned(held.pointer.addr())));
    }

    /// Sweeps all that is left.
    fn sweep(&mut self) {
        self.bench.sweep_all(&mut self.hands[0], &mut NoAttachments);
        assert!(self.bench.objects.is_swept());
    }

    fn check(&mut self) {
        self.bench.check(self.hands.iter());
        self.model.verify();
        self.snapshot().check().unwrap();
    }

    fn snapshot(&self) -> Box<Snapshot> {
        let mut snapshot = Box::new(Snapshot::zero());
        snapshot.read(&self.bench.books, |id| {
            let meters = &self.bench.meters;
            (id.index() < meters.count()).then(|| {
                let peak = meters.get(id).peak();
                PurposeBook { peak, ..PurposeBook::new(meters.name(id)) }
            })
        });
        snapshot
    }

    /// When nothing waits and no cache holds anything, the heap knows exactly the objects that the twin knows.
    fn compare(&mut self) {
        self.sweep();
        self.hands.iter_mut().for_each(|hand| self.bench.flush(hand));
        let mut found = Vec::new();
        self.bench.objects.for_each_object(|object| found.push((object.start.0, object.size.0)));
        found.sort_unstable();
        assert!(found.into_iter().eq(self.model.objects().map(|held| (held.pointer.addr(), held.size))));
        let words = self.snapshot().mem_stats();
        assert_eq!(words.heap_alloc as usize, self.model.bytes());
        assert_eq!(words.heap_objects as usize, self.model.count());
        self.check();
    }
}

type Step = (u8, usize, usize, usize);

fn run(bench: Bench, steps: &[Step]) {
    let mut world = World::new(bench, 2);
    for &(what, who, a, b) in steps {
        match what {
            0..=11 => {
                let kind = if a % 2 == 0 { PLAIN } else { WORDS };
                let size = match what {
                    0..=7 => 1 + a % 700,
                    8..=10 => 1 + a % MAX_SMALL,
                    _ => MAX_SMALL + 1 + (a << 6) % 1_000_000,
                };
                (0..1 + b % 40).for_each(|_| world.allocate(who, kind, size));
            }
            12 if !world.model.marking => world.begin_marking(),
            12 | 13 if world.model.marking => (0..b).for_each(|i| world.mark(a + i * 7, b)),
            14 if world.model.marking => world.end_marking(),
            15 => {
                let hand = who % world.hands.len();
                world.bench.flush(&mut world.hands[hand]);
            }
            16 if !world.model.marking => {
                let mut work = world.bench.work(&mut world.hands[0]);
                match a % 2 {
                    0 => world.bench.objects.sweep_chunk(&mut work, &mut NoAttachments),
                    _ => world.bench.objects.reclaim_chunk(&mut work, &mut NoAttachments),
                };
            }
            _ => world.check(),
        }
    }
    if world.model.marking {
        world.end_marking();
    }
    world.compare();
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u8..18, 0usize..2, 0usize..100_000, 0usize..100), 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 12 } else { 300 }))]

    #[test]
    fn exactly_what_is_not_reached_dies(steps in steps()) {
        run(Bench::new(), &steps);
    }

    #[test]
    fn dead_objects_can_be_poisoned(steps in steps()) {
        let bench = Bench::new();
        bench.objects.set_poison(true);
        run(bench, &steps);
    }
}
