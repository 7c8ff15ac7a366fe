//! Objects of two purposes, of two mutators, on a simulated system, against a map of all objects.
//!
//! The input says who allocates what, when a cycle begins and ends and what it reaches, when caches are flushed, what is
//! swept, which limits hold and which calls the system refuses. The map knows of each object what its holder wrote there,
//! and which die in a cycle. So it knows what every address leads to, that no two objects overlap, that what is new is
//! zero, and what the books must say. After every few operations the room proves its invariants.
//!
//! # Safety
//! Everything is on one thread; objects are touched only while the map has them.

use super::collected::{Bench, Hand};
use super::input::Input;
use super::object_model::{Held, Model};
use spanheap::Bytes;
use spanheap::base::class::{MAX_SMALL, SizeClass};
use spanheap::base::{Address, PAGE_SIZE};
use spanheap::object::class::MAX_ONE_PAGE;
use spanheap::object::{NoAttachments, ShapeId, SpanClass, SpanKind};
use std::collections::BTreeMap;

const MUTATORS: usize = 2;
/// The limit that a program may set and lift.
const LIMIT: Bytes = Bytes::mib(1);

/// The room and its twin.
struct Pair {
    bench: Bench,
    hands: Vec<Hand>,
    model: Model,
    /// Bytes marked in this cycle.
    marked: usize,
}

impl Pair {
    fn new() -> Pair {
        let (bench, hands) = Bench::new(MUTATORS);
        Pair { bench, hands, model: Model::default(), marked: 0 }
    }

    fn allocate(&mut self, input: &mut Input<'_>) {
        let (who, of, kind) = (input.byte() % MUTATORS, input.byte() % 2, input.byte() % 3);
        let size = 1 + input.size() % 400_000;
        let refusals = self.bench.simulated.refusals();
        let hand = &mut self.hands[who];
        let (made, size) = if size > MAX_SMALL {
            let how = match kind {
                0 => (SpanKind::Plain, ShapeId::PLAIN),
                1 => (SpanKind::Words, ShapeId::WORDS),
                _ => (SpanKind::Headed, ShapeId::WORDS.repeated()),
            };
            (self.bench.allocate_large(hand, of, size, how), size.next_multiple_of(PAGE_SIZE))
        } else {
            let class = SizeClass::of_small(size);
            let kind = match kind {
                0 => SpanKind::Plain,
                1 => SpanKind::Words,
                _ if class.size() <= MAX_ONE_PAGE => SpanKind::Mapped,
                _ => SpanKind::Headed,
            };
            (self.bench.allocate(hand, of, SpanClass::new(kind, class)), class.size())
        };
        match made {
            Ok(pointer) => {
                self.model.allocated(pointer, size);
                let purpose = self.bench.objects.purpose(&self.bench.object(pointer.addr()));
                assert_eq!(purpose, self.bench.purposes[of]);
            }
            Err(error) => self.bench.assert_refused(error, refusals),
        }
    }

    fn begin_marking(&mut self) {
        self.bench.sweep_all(&mut self.hands[0]);
        self.bench.begin_marking(&mut self.hands);
        self.model.marking = true;
        self.marked = 0;
    }

    /// The cycle reaches an object, from a place inside it.
    fn reach(&mut self, input: &mut Input<'_>) {
        let (place, inside) = (input.below(65_536), input.below(65_536));
        let Some(held) = self.model.reach(place) else { return };
        let object = self.bench.object(held.pointer.addr() + inside % held.size);
        assert_eq!((object.start.0, object.size.0), (held.pointer.addr(), held.size));
        if self.bench.objects.mark(&object) {
            self.marked += held.size;
        }
        assert!(!self.bench.objects.mark(&object) && self.bench.objects.is_marked(&object));
    }

    fn end_marking(&mut self) {
        self.bench.end_marking(&mut self.hands, Bytes(self.marked));
        let dead = self.model.end_cycle();
        let objects = &self.bench.objects;
        assert_eq!(objects.live().0, self.model.bytes(), "what is marked is what lives on");
        let condemned = |held: &Held| objects.is_condemned(&self.bench.object(held.pointer.addr()));
        assert!(dead.iter().all(condemned));
        assert!(!self.model.objects().any(|held| condemned(&held)));
    }

    /// Has the span of one object swept by itself.
    fn sweep_one(&mut self, input: &mut Input<'_>) {
        let nth = input.below(65_536) % self.model.count().max(1);
        let Some(held) = self.model.objects().nth(nth) else { return };
        let first = self.bench.object(held.pointer.addr()).first_page;
        let objects = &self.bench.objects;
        self.bench.with(&mut self.hands[0], |_, work| objects.ensure_swept(first, work, &mut NoAttachments));
        assert!(!objects.is_marked(&self.bench.object(held.pointer.addr())));
    }

    /// Any bit pattern leads to the object that it lies in, or to none that the map has.
    fn find(&self, input: &mut Input<'_>) {
        let region = self.bench.heap.region();
        let offset = input.below(65_536) * region.size().0 / 65_536 / (1 + input.byte()) + input.byte();
        let address = Address(region.base().0 + offset);
        let holds = |held: &Held| {
            let start = held.pointer.addr();
            (start..start + held.size).contains(&address.0)
        };
        let known = self.model.objects().find(holds);
        let found = self.bench.objects.find(address);
        if let Some(held) = known {
            assert_eq!(found.map(|object| object.start.0), Some(held.pointer.addr()));
            let end = Address(held.pointer.addr() + held.size);
            let last = self.bench.objects.find_ending_at(end);
            assert_eq!(last.map(|object| object.start.0), Some(held.pointer.addr()));
        }
        assert!(found.is_none_or(|object| address.0 - object.start.0 < object.size.0));
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let marking = self.model.marking;
        match operation % 32 {
            0..=15 => (0..1 + input.byte() % 24).for_each(|_| self.allocate(input)),
            16 | 17 if !marking => self.begin_marking(),
            16..=21 if marking => (0..1 + input.byte() % 32).for_each(|_| self.reach(input)),
            22 | 23 if marking => self.end_marking(),
            22 | 23 => drop(self.bench.sweep(&mut self.hands[0], input.byte().is_multiple_of(2))),
            24 if !marking => self.sweep_one(input),
            25 => {
                let hand = input.byte() % MUTATORS;
                self.bench.flush(&mut self.hands[hand]);
            }
            26 => self.bench.simulated.refuse(input.byte() % 16, 1 + input.byte() % 4),
            27 => {
                let meter = self.bench.meters.get(self.bench.purposes[1]);
                meter.set_hard_limit(meter.hard_limit().is_none().then_some(LIMIT));
            }
            _ => self.find(input),
        }
    }

    /// When nothing waits and no cache has anything, the heap has exactly the objects that the map has.
    fn compare(&mut self) {
        self.bench.sweep_all(&mut self.hands[0]);
        self.hands.iter_mut().for_each(|hand| self.bench.flush(hand));
        let mut found = BTreeMap::new();
        self.bench.objects.for_each_object(|object| {
            found.insert(object.start.0, object.size.0);
        });
        assert!(found.into_iter().eq(self.model.objects().map(|held| (held.pointer.addr(), held.size))));
        self.audit();
    }

    fn audit(&self) {
        self.bench.check(&self.hands);
        self.model.verify();
    }

    /// Reaches nothing; then nothing may be left of any purpose.
    fn finish(&mut self) {
        self.bench.simulated.refuse_nothing();
        if self.model.marking {
            self.end_marking();
        }
        self.compare();
        self.begin_marking();
        self.end_marking();
        assert_eq!(self.model.count(), 0);
        self.compare();
        for purpose in self.bench.purposes {
            assert_eq!(self.bench.meters.get(purpose).inuse(), Bytes::ZERO);
        }
    }
}

/// Runs a program.
///
/// # Panics
/// When an object is not what the map says, or an invariant does not hold.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new();
    pair.bench.objects.set_poison(input.byte() % 4 == 1);
    let mut steps = 0;
    while let Some(operation) = input.operation() {
        pair.step(operation, &mut input);
        steps += 1;
        if steps % 8 == 0 {
            pair.audit();
        }
    }
    pair.finish();
}
