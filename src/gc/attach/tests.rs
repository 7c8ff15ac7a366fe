//! Attachments against a model: a graph of objects of which anybody can say who is reachable.
//!
//! # Safety
//! Words are written in objects that the model knows to be alive.

use super::{Access, AttachmentTable, Due, Finalizer, Length, MapId, WeakId};
use crate::base::class::SizeClass;
use crate::base::random::Random;
use crate::base::{Address, Bytes, PAGE_SIZE, Pages};
use crate::gc::{Collector, Drained, Marking, Worker};
use crate::object::testing::{Bench, Hand};
use crate::object::{Object, ObjectWork, Shapes, SpanClass, SpanKind};
use crate::os::System;
use crate::os::testing::{balance, shard};
use crate::span::Ground;
use crate::stats::{Account, MetadataKind};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SIZES: [usize; 3] = [16, 64, 1000];
const ROOTS: usize = 6;

/// What the model knows of an object.
#[derive(Clone, Default, Debug)]
struct Known {
    address: usize,
    edges: [Option<usize>; 2],
    /// The function, and the object that is its data.
    finalizer: Option<(usize, Option<usize>)>,
    pins: usize,
    /// Values by map.
    entries: BTreeMap<u32, usize>,
    is_dead: bool,
}

#[derive(Debug)]
struct Weak {
    id: WeakId,
    target: Option<usize>,
    length: Length,
}

/// The table, and the model.
struct World {
    bench: Bench,
    hand: Hand,
    /// What the worker has.
    marker: Hand,
    table: AttachmentTable,
    collector: Collector,
    shapes: Shapes,
    worker: Box<Worker>,
    maps: [MapId; 2],
    objects: Vec<Known>,
    roots: [Option<usize>; ROOTS],
    weaks: Vec<Weak>,
    /// Objects whose finalizers are due, with those.
    due: Vec<(usize, (usize, Option<usize>))>,
    running: Vec<(Due, usize, Option<usize>)>,
    functions: usize,
    /// Passes over ephemerons in the last cycle.
    passes: usize,
}

impl World {
    fn new() -> World {
        let bench = Bench::new();
        let (hand, marker) = (bench.hand(), bench.hand());
        let ledger = bench.books.ledger(shard(&bench.books));
        let pages = Pages(bench.heap.region().size().0 / PAGE_SIZE);
        let table = AttachmentTable::reserve(System::Linux, pages, ledger).unwrap();
        let collector = Collector::reserve(System::Linux, ledger).unwrap();
        let shapes = Shapes::reserve(System::Linux, ledger).unwrap();
        let maps = [table.new_map(ledger).unwrap(), table.new_map(ledger).unwrap()];
        World {
            bench,
            hand,
            marker,
            table,
            collector,
            shapes,
            worker: Box::new(Worker::new()),
            maps,
            objects: Vec::new(),
            roots: [None; ROOTS],
            weaks: Vec::new(),
            due: Vec::new(),
            running: Vec::new(),
            functions: 0,
            passes: 0,
        }
    }

    /// Does something with the table; what it shades, the worker marks.
    fn with<T>(&mut self, work: impl FnOnce(&AttachmentTable, &mut Access<'_, '_, '_>) -> T) -> T {
        let World { bench, hand, marker, table, collector, shapes, worker, .. } = self;
        let ledger = bench.books.ledger(hand.shard);
        let ground = Ground { heap: &bench.heap, meters: &bench.meters, ledger };
        let supply = collector.supply(ground, &mut marker.spans);
        let mut marking = Marking { collector, objects: &bench.objects, shapes, supply };
        let mut object_work = ObjectWork { ground, spans: &mut hand.spans };
        let mut shade = |address| worker.shade(address, &mut marking);
        let mut access = Access { objects: &bench.objects, work: &mut object_work, shade: &mut shade };
        work(table, &mut access)
    }

    fn found(&self, object: usize) -> Object {
        self.bench.objects.find(Address(self.objects[object].address)).expect("alive in the model")
    }

    /// An object that a mutator can get at: from a root, along some edges.
    fn held(&self, path: usize) -> Option<usize> {
        let mut at = self.roots[path % ROOTS]?;
        for step in 0..path / ROOTS % 4 {
            at = self.objects[at].edges[step % 2].unwrap_or(at);
        }
        Some(at)
    }

    fn allocate(&mut self, root: usize, size: usize) {
        self.sweep();
        let class = SpanClass::new(SpanKind::Words, SizeClass::of_small(SIZES[size % SIZES.len()]));
        let address = self.bench.allocate(&mut self.hand, class).unwrap().expose_provenance();
        self.roots[root % ROOTS] = Some(self.objects.len());
        self.objects.push(Known { address, ..Known::default() });
    }

    fn set_edge(&mut self, from: usize, edge: usize, to: Option<usize>) {
        let word = to.map_or(0, |to| self.objects[to].address);
        let at = Address(self.objects[from].address + edge * 8);
        // SAFETY: a word of an object that is alive.
        unsafe { self.bench.heap.region().pointer(at).cast::<usize>().write(word) };
        self.objects[from].edges[edge] = to;
    }

    fn sweep(&mut self) {
        let World { bench, hand, table, .. } = self;
        bench.sweep_all(hand, &mut table.sweeping(&bench.objects));
    }

    /// Marking, from beginning to end, by the collector's own worker.
    fn mark(&mut self) -> Bytes {
        self.sweep();
        let World { bench, hand, table, collector, shapes, worker, .. } = self;
        bench.begin_marking([&mut *hand]);
        table.begin_marking();
        collector.begin();
        self.passes = 0;
        let ledger = bench.books.ledger(hand.shard);
        let ground = Ground { heap: &bench.heap, meters: &bench.meters, ledger };
        let mut marking = Marking {
            collector,
            objects: &bench.objects,
            shapes,
            supply: collector.supply(ground, &mut hand.spans),
        };
        for root in self.roots.iter().flatten() {
            worker.shade(Address(self.objects[*root].address), &mut marking);
        }
        // In pieces, as workers would take them.
        for first in (0..table.numbers()).step_by(3) {
            table.scan_roots(first..(first + 3).min(table.numbers()), worker, &mut marking);
        }
        loop {
            assert_eq!(worker.drain(u64::MAX, &mut marking), Drained::Dry);
            self.passes += 1;
            if table.resolve(&bench.objects, &mut |value| worker.shade(value, &mut marking)) == 0 {
                break;
            }
        }
        worker.leave(&mut marking);
        worker.report(&marking);
        let progress = collector.end(&ground);
        // SAFETY: marking has ended.
        while unsafe { collector.give_back_buffers(&ground, &mut hand.spans, 9) } {}
        Bytes(progress.marked_bytes as usize)
    }

    /// What the model says is reached.
    fn reached(&self) -> BTreeSet<usize> {
        let mut todo: Vec<usize> = self.roots.iter().flatten().copied().collect();
        let alive = self.objects.iter().enumerate().filter(|(_, object)| !object.is_dead);
        for (at, object) in alive.clone() {
            if object.pins > 0 {
                todo.push(at);
            }
            if let Some((_, data)) = object.finalizer {
                todo.extend(object.edges.iter().flatten().copied().chain(data));
            }
        }
        let unfinished = self.running.iter().map(|(_, object, data)| (*object, *data));
        for (object, data) in self.due.iter().map(|&(object, (_, data))| (object, data)).chain(unfinished) {
            todo.extend([Some(object), data].into_iter().flatten());
        }
        let mut reached = BTreeSet::new();
        loop {
            while let Some(at) = todo.pop() {
                if reached.insert(at) {
                    todo.extend(self.objects[at].edges.iter().flatten());
                }
            }
            let values = reached.iter().flat_map(|&key| self.objects[key].entries.values());
            todo.extend(values.copied().filter(|value| !reached.contains(value)));
            if todo.is_empty() {
                return reached;
            }
        }
    }

    /// A collection: the model decides who dies, and the collector must agree.
    fn collect(&mut self) {
        let marked = self.mark();
        let reached = self.reached();
        for at in 0..self.objects.len() {
            if self.objects[at].is_dead {
                continue;
            }
            let object = self.found(at);
            assert_eq!(self.bench.objects.is_marked(&object), reached.contains(&at), "object {at}");
            if reached.contains(&at) {
                continue;
            }
            let known = &mut self.objects[at];
            known.entries.clear();
            let finalizer = known.finalizer.take();
            known.is_dead = finalizer.is_none();
            self.due.extend(finalizer.map(|finalizer| (at, finalizer)));
            for weak in self.weaks.iter_mut().filter(|weak| weak.target == Some(at)) {
                if finalizer.is_none() || weak.length == Length::Short {
                    weak.target = None;
                }
            }
        }
        self.bench.end_marking([&mut self.hand], marked);
    }

    fn upgrade(&mut self, which: usize, root: usize) {
        let Some(weak) = self.weaks.get(which % self.weaks.len().max(1)) else { return };
        let (id, target) = (weak.id, weak.target);
        let got = self.with(|table, access| table.upgrade(id, access));
        assert_eq!(got, target.map(|at| Address(self.objects[at].address)), "weak reference {which}");
        if target.is_some() {
            self.roots[root % ROOTS] = target;
        }
    }

    fn finalize(&mut self, root: usize) {
        self.sweep();
        assert_eq!(self.table.due(), self.due.len());
        let Some(due) = self.table.next_due() else { return };
        let at = self.due.iter().position(|&(object, (function, data))| {
            let data = data.map_or(0, |data| self.objects[data].address);
            let known = Finalizer { function, data, is_traced: data != 0 };
            (Address(self.objects[object].address), known) == (due.object, due.finalizer)
        });
        let (object, (_, data)) = self.due.remove(at.expect("it is due in the model"));
        if root.is_multiple_of(2) {
            self.roots[root % ROOTS] = Some(object);
        }
        self.running.push((due, object, data));
    }

    fn done(&mut self) {
        if let Some((due, ..)) = self.running.pop() {
            self.with(|table, access| table.done(due, access));
        }
    }

    fn set_finalizer(&mut self, object: usize, data: Option<usize>) {
        self.functions += 1;
        let address = |data: Option<usize>| data.map_or(0, |data| self.objects[data].address);
        let finalizer =
            Finalizer { function: self.functions, data: address(data), is_traced: data.is_some() };
        let old = self.objects[object].finalizer;
        let expected = old.map(|(function, data)| (function, address(data)));
        let found = self.found(object);
        let got = self.with(|table, access| table.set_finalizer(&found, finalizer, access)).unwrap();
        assert_eq!(got.map(|old| (old.function, old.data)), expected);
        self.objects[object].finalizer = Some((self.functions, data));
    }

    fn map_operation(&mut self, map: usize, key: usize, value: usize, operation: usize) {
        let (id, found) = (self.maps[map % 2], self.found(key));
        let address = Address(self.objects[value].address);
        let old = self.objects[key].entries.get(&id.0).map(|&old| Address(self.objects[old].address));
        let got = match operation % 4 {
            0 => self.with(|table, access| table.remove(id, &found, access)),
            1 => self.with(|table, access| table.get(id, &found, access)),
            _ => self.with(|table, access| table.insert(id, &found, address, access)).unwrap(),
        };
        assert_eq!(got, old, "map {map}, key {key}");
        match operation % 4 {
            0 => drop(self.objects[key].entries.remove(&id.0)),
            1 => {}
            _ => drop(self.objects[key].entries.insert(id.0, value)),
        }
    }

    fn step(&mut self, operation: u8, a: usize, b: usize) {
        let pair = self.held(a).zip(self.held(b));
        match (operation % 20, pair) {
            (0 | 1, _) => self.allocate(a, b),
            (2, _) => self.roots[a % ROOTS] = None,
            (3 | 4, Some((from, to))) => self.set_edge(from, b % 2, Some(to)),
            (5, Some((from, _))) => self.set_edge(from, b % 2, None),
            (6, Some((object, data))) => self.set_finalizer(object, b.is_multiple_of(3).then_some(data)),
            (7, Some((object, _))) if b.is_multiple_of(3) => {
                let found = self.found(object);
                let got = self.with(|table, access| table.take_finalizer(&found, access));
                let old = self.objects[object].finalizer.take();
                assert_eq!(got.map(|old| old.function), old.map(|(function, _)| function));
            }
            (8, Some((object, _))) => {
                let length = if b.is_multiple_of(2) { Length::Short } else { Length::Long };
                let found = self.found(object);
                let id = self.with(|table, access| table.weak(&found, length, access)).unwrap();
                self.weaks.push(Weak { id, target: Some(object), length });
            }
            (9 | 10, _) => self.upgrade(a, b),
            (11, _) if !self.weaks.is_empty() => {
                let weak = self.weaks.swap_remove(a % self.weaks.len());
                self.table.drop_weak(weak.id);
            }
            (12, Some((object, _))) => {
                let found = self.found(object);
                self.with(|table, access| table.pin(&found, access)).unwrap();
                self.objects[object].pins += 1;
            }
            (13, Some((object, _))) => {
                let found = self.found(object);
                let was = self.with(|table, access| table.unpin(&found, access));
                assert_eq!(was, self.objects[object].pins > 0);
                self.objects[object].pins -= usize::from(was);
            }
            (14 | 15, Some((key, value))) => self.map_operation(a, key, value, b),
            (16, _) => self.collect(),
            (17, _) => self.finalize(a),
            (18, _) => self.done(),
            (19, _) => self.sweep(),
            _ => {}
        }
    }

    /// Nothing is left behind, and everything proves itself.
    fn close(mut self) {
        self.sweep();
        self.table.check(&self.bench.objects, self.running.len()).unwrap();
        for map in self.maps {
            let entries = self.objects.iter().filter(|object| object.entries.contains_key(&map.0)).count();
            assert_eq!(self.table.entries(map), entries);
            self.table.drop_map(map);
        }
        self.objects.iter_mut().for_each(|object| object.entries.clear());
        while let Some(weak) = self.weaks.pop() {
            self.table.drop_weak(weak.id);
        }
        self.table.check(&self.bench.objects, self.running.len()).unwrap();
        let booked = balance(&self.bench.books, Account::Metadata(MetadataKind::Attachments));
        assert_eq!(booked, self.table.committed_bytes().0 as i64);
        self.bench.flush(&mut self.hand);
        self.bench.check([&self.hand, &self.marker].into_iter());
        // SAFETY: the test is done with them.
        unsafe {
            self.table.destroy();
            self.collector.destroy();
            self.shapes.destroy();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_does_what_the_model_does(
        steps in proptest::collection::vec((any::<u8>(), 0usize..1000, 0usize..1000), 1..250),
    ) {
        let mut world = World::new();
        for (operation, a, b) in steps {
            world.step(operation, a, b);
        }
        world.collect();
        world.close();
    }
}

/// Keys and values that lead from one to the next, written in the worst order for the first pass: few passes do.
#[test]
fn a_chain_of_ephemerons_is_resolved_in_few_passes() {
    let mut world = World::new();
    world.allocate(0, 0);
    for _ in 0..400 {
        world.allocate(1, 0);
    }
    for value in 1..401 {
        // Later entries lead to earlier ones.
        let (key, value) = (401 - value, if value == 400 { 0 } else { 400 - value });
        world.map_operation(0, key, value, 2);
    }
    world.roots[0] = None;
    world.roots[1] = Some(400);
    let numbers = world.table.numbers();
    world.collect();
    assert_eq!((world.reached().len(), world.table.numbers()), (401, numbers));
    assert!(world.passes <= 3, "{} passes", world.passes);
    world.roots[1] = None;
    world.collect();
    world.sweep();
    assert_eq!(world.table.entries(world.maps[0]), 0);
    world.close();
}

/// What is attached, taken and handed out while marking counts in the cycle that runs.
#[test]
fn attachments_are_made_and_used_while_marking() {
    let mut world = World::new();
    // 0: reached by a weak reference only; 1: a key, rooted; 2: a value, reached by nothing else.
    (0..3).for_each(|root| world.allocate(root, 1));
    let found: Vec<Object> = (0..3).map(|at| world.found(at)).collect();
    let map = world.maps[0];
    let weak = world.with(|table, access| table.weak(&found[0], Length::Short, access)).unwrap();
    let value = found[2].start;
    world.with(|table, access| table.insert(map, &found[1], value, access)).unwrap();
    world.bench.begin_marking([&mut world.hand]);
    world.table.begin_marking();
    world.collector.begin();
    assert_eq!(world.with(|table, access| table.upgrade(weak, access)), Some(found[0].start));
    assert!(world.bench.objects.is_marked(&found[0]), "handed out, so it is shaded");
    assert!(!world.bench.objects.is_marked(&found[2]));
    assert_eq!(world.with(|table, access| table.remove(map, &found[1], access)), Some(value));
    assert!(world.bench.objects.is_marked(&found[2]), "the map kept it, and does so no more");
    let finalizer = Finalizer { function: 7, data: 0, is_traced: false };
    world.with(|table, access| table.set_finalizer(&found[1], finalizer, access)).unwrap();
    assert!(world.bench.objects.is_marked(&found[1]));
    world.table.drop_weak(weak);
    {
        let World { bench, hand, collector, shapes, worker, .. } = &mut world;
        let ledger = bench.books.ledger(hand.shard);
        let ground = Ground { heap: &bench.heap, meters: &bench.meters, ledger };
        let supply = collector.supply(ground, &mut hand.spans);
        let mut marking = Marking { collector, objects: &bench.objects, shapes, supply };
        assert_eq!(worker.drain(u64::MAX, &mut marking), Drained::Dry);
        worker.leave(&mut marking);
        worker.report(&marking);
        let marked = collector.end(&ground).marked_bytes;
        // SAFETY: marking has ended.
        while unsafe { collector.give_back_buffers(&ground, &mut hand.spans, 9) } {}
        bench.end_marking([hand], Bytes(marked as usize));
    }
    world.sweep();
    world.objects[1].finalizer = Some((7, None));
    world.table.check(&world.bench.objects, 0).unwrap();
    world.collect();
    world.finalize(0);
    world.close();
}

/// Threads attach to the same objects and detach again; nothing is lost, and nothing is left.
#[test]
fn threads_share_objects() {
    let mut world = World::new();
    for root in 0..64 {
        world.allocate(root, 0);
    }
    let found: Vec<Object> = (0..64).map(|at| world.found(at)).collect();
    let (bench, table, maps) = (&world.bench, &world.table, world.maps);
    let hands: Vec<Hand> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let found = &found;
                scope.spawn(move || {
                    let mut hand = bench.hand();
                    let mut work = bench.work(&mut hand);
                    let mut shade = |_| panic!("nobody marks");
                    let mut access = Access { objects: &bench.objects, work: &mut work, shade: &mut shade };
                    let mut random = Random::new(seed);
                    let mut held = Vec::new();
                    for _ in 0..3000 {
                        let object = &found[random.below(found.len())];
                        match random.below(5) {
                            0 => {
                                let id = table.weak(object, Length::Short, &mut access).unwrap();
                                held.push((id, object.start));
                            }
                            1 if !held.is_empty() => {
                                let (id, start) = held.swap_remove(random.below(held.len()));
                                assert_eq!(table.upgrade(id, &mut access), Some(start));
                                table.drop_weak(id);
                            }
                            2 => {
                                table.pin(object, &mut access).unwrap();
                                assert!(table.unpin(object, &mut access));
                            }
                            3 => {
                                let old = table.insert(maps[0], object, object.start, &mut access).unwrap();
                                assert!(old.is_none_or(|old| old == object.start));
                            }
                            _ => {
                                let old = table.remove(maps[0], object, &mut access);
                                assert!(old.is_none_or(|old| old == object.start));
                            }
                        }
                    }
                    held.into_iter().for_each(|(id, _)| table.drop_weak(id));
                    hand
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    table.check(&bench.objects, 0).unwrap();
    maps.into_iter().for_each(|map| table.drop_map(map));
    assert_eq!(table.records.taken(), 0);
    bench.flush(&mut world.hand);
    bench.check([&world.hand, &world.marker].into_iter().chain(&hands));
    // SAFETY: the test is done with them.
    unsafe {
        world.table.destroy();
        world.collector.destroy();
        world.shapes.destroy();
    }
}
