//! A reader of dumps, and what it finds in dumps of heaps that the test knows.
//!
//! # Safety
//! Words are written in objects of the test's own; nothing else runs.

use super::{Detail, HeapDump, MAGIC, RootKind};
use crate::base::class::SizeClass;
use crate::base::{Address, PAGE_SIZE, Pages};
use crate::gc::attach::{Access, AttachmentTable, Finalizer, Length};
use crate::object::testing::{Bench, Hand};
use crate::object::{Object, Shape, ShapeId, Shapes, SpanClass, SpanKind};
use crate::os::System;
use crate::os::testing::shard;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// An object as a reader sees it.
#[derive(Default, PartialEq, Eq, Debug)]
struct Seen {
    size: u64,
    kind: u64,
    shape: u64,
    /// Word and target.
    edges: Vec<(u64, u64)>,
    bytes: Vec<u8>,
}

/// A dump, read.
#[derive(Default, PartialEq, Eq, Debug)]
struct Dump {
    heap: [u64; 3],
    objects: BTreeMap<u64, Seen>,
    roots: Vec<(u64, u64)>,
    attachments: Vec<[u64; 4]>,
}

/// Takes bytes apart as docs/heap-dump.md says. `None`: the dump is cut short, or wrong.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return Some(number);
            }
        }
    }

    fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.number()?;
        }
        Some(numbers)
    }

    fn object(&mut self) -> Option<(u64, Seen)> {
        let [place, size, kind, shape, count] = self.numbers()?;
        let (mut edges, mut word) = (Vec::new(), 0);
        for _ in 0..count {
            let [step, target] = self.numbers()?;
            word += step;
            edges.push((word, target));
        }
        Some((place, Seen { size, kind, shape, edges, bytes: Vec::new() }))
    }

    fn read(bytes: &[u8]) -> Option<Dump> {
        let mut reader = Reader(bytes.strip_prefix(MAGIC)?);
        let (mut dump, mut records, mut last) = (Dump::default(), 0, 0);
        loop {
            match reader.byte()? {
                0 => {
                    let is_complete = reader.number()? == records && reader.0.is_empty();
                    return is_complete.then_some(dump);
                }
                1 => dump.heap = reader.numbers()?,
                2 => {
                    let (place, seen) = reader.object()?;
                    assert!(dump.objects.insert(place, seen).is_none(), "object {place} twice");
                    assert!(place >= last, "objects in order");
                    last = place;
                }
                3 => {
                    let count = reader.number()? as usize;
                    let (bytes, rest) = reader.0.split_at_checked(count)?;
                    dump.objects.get_mut(&last)?.bytes = bytes.to_vec();
                    reader.0 = rest;
                }
                4 => dump.roots.push(reader.numbers::<2>().map(|[kind, place]| (kind, place))?),
                5 => dump.attachments.push(reader.numbers()?),
                _ => return None,
            }
            records += 1;
        }
    }
}

/// A heap with objects of every kind, and a graph that the test knows.
struct World {
    bench: Bench,
    hand: Hand,
    shapes: Shapes,
    table: AttachmentTable,
    objects: Vec<Object>,
}

impl World {
    fn new() -> World {
        let bench = Bench::new();
        let hand = bench.hand();
        let ledger = bench.books.ledger(shard(&bench.books));
        let pages = Pages(bench.heap.region().size().0 / PAGE_SIZE);
        let table = AttachmentTable::reserve(System::Linux, pages, ledger).unwrap();
        let shapes = Shapes::reserve(System::Linux, ledger).unwrap();
        World { bench, hand, shapes, table, objects: Vec::new() }
    }

    /// An object in which word 2 may be a pointer, and others if its kind does not know better.
    fn allocate(&mut self, kind: usize) {
        let ledger = self.bench.books.ledger(self.hand.shard);
        let second = |words| Shape::Bitmap { words, bits: &[0b100] };
        let (hand, bench) = (&mut self.hand, &self.bench);
        let small = |kind, size| SpanClass::new(kind, SizeClass::of_small(size));
        let address = match kind % 5 {
            0 => bench.allocate(hand, small(SpanKind::Plain, 48)),
            1 => bench.allocate(hand, small(SpanKind::Words, 48)),
            2 => bench.allocate(hand, small(SpanKind::Mapped, 64)),
            3 => bench.allocate(hand, small(SpanKind::Headed, 1024)),
            _ => {
                let shape = self.shapes.register(&second(9000), ledger).unwrap();
                bench.allocate_large(hand, 72_000, shape)
            }
        };
        let object = self.bench.objects.find(Address::of(address.unwrap())).unwrap();
        if object.kind == SpanKind::Mapped {
            let word = (object.start.0 - self.bench.objects.base().0) % PAGE_SIZE / 8;
            self.bench.objects.page_map(object.first_page).unwrap().set(word, 8, 0b100);
        }
        if object.kind == SpanKind::Headed && !object.class.is_large() {
            let shape = self.shapes.register(&second(128), ledger).unwrap();
            self.bench.objects.set_shape_at(object.first_page, object.index as usize, shape);
        }
        self.objects.push(object);
    }

    fn place(&self, object: usize) -> u64 {
        (self.objects[object].start.0 - self.bench.objects.base().0) as u64
    }

    fn set(&self, object: usize, word: usize, value: usize) {
        let at = Address(self.objects[object].start.0 + word * 8);
        // SAFETY: a word of an object of the test's.
        unsafe { self.bench.heap.region().pointer(at).cast::<usize>().write(value) };
    }

    /// A dump with some roots, and how many records it says it has.
    fn dump(&mut self, detail: Detail, roots: &[usize]) -> (Vec<u8>, u64) {
        self.bench.flush(&mut self.hand);
        let mut bytes = Vec::new();
        let mut out = |piece: &[u8]| -> Result<(), Infallible> {
            assert!(piece.len() <= 4096);
            bytes.extend_from_slice(piece);
            Ok(())
        };
        let heap = (&self.bench.objects, &self.shapes);
        // SAFETY: nothing runs, nothing waits to be swept, and the cache was flushed.
        let mut dump = unsafe { HeapDump::new(heap, self.bench.heap.region(), &mut out) };
        dump.objects(detail);
        for &root in roots {
            // Interior addresses are as good.
            dump.root(RootKind::Stack, Address(self.objects[root].start.0 + 9));
        }
        dump.root(RootKind::Handle, Address(17));
        dump.attachments(&self.table);
        let Ok(records) = dump.finish();
        (bytes, records)
    }

    fn close(mut self) {
        self.bench.flush(&mut self.hand);
        self.bench.check([&self.hand].into_iter());
        // SAFETY: the test is done with both.
        unsafe {
            self.table.destroy();
            self.shapes.destroy();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_reader_finds_the_graph(
        kinds in proptest::collection::vec(0usize..5, 1..40),
        edges in proptest::collection::vec((any::<usize>(), any::<usize>(), 0usize..6), 0..60),
        roots in proptest::collection::vec(any::<usize>(), 0..5),
        detail in prop_oneof![Just(Detail::Edges), Just(Detail::Bytes)],
    ) {
        let mut world = World::new();
        kinds.iter().for_each(|&kind| world.allocate(kind));
        let count = kinds.len();
        let mut expected: BTreeMap<u64, BTreeMap<u64, u64>> =
            (0..count).map(|at| (world.place(at), BTreeMap::new())).collect();
        for (from, to, word) in edges {
            let (from, to) = (from % count, to % count);
            // Into the middle of the object.
            world.set(from, word, world.objects[to].start.0 + 5 * word);
            let may_point = match world.objects[from].kind {
                SpanKind::Plain => false,
                SpanKind::Words => true,
                SpanKind::Mapped | SpanKind::Headed => word == 2,
            };
            if may_point {
                expected.get_mut(&world.place(from)).unwrap().insert(word as u64, world.place(to));
            }
        }
        let roots: Vec<usize> = roots.into_iter().map(|root| root % count).collect();
        let (bytes, records) = world.dump(detail, &roots);
        let dump = Reader::read(&bytes).expect("a complete dump");
        let with_bytes = if detail == Detail::Bytes { 2 } else { 1 };
        prop_assert_eq!(records as usize, 2 + count * with_bytes + roots.len());
        prop_assert_eq!(dump.heap[0] as usize, world.bench.objects.base().0);
        let found = dump.objects.iter().map(|(&place, seen)| (place, seen.edges.iter().copied().collect()));
        prop_assert_eq!(found.collect::<BTreeMap<u64, BTreeMap<u64, u64>>>(), expected);
        prop_assert_eq!(dump.roots, roots.iter().map(|&root| (2, world.place(root))).collect::<Vec<_>>());
        for (at, object) in world.objects.iter().enumerate() {
            let seen = &dump.objects[&world.place(at)];
            prop_assert_eq!((seen.size as usize, seen.kind as u8), (object.size.0, object.kind as u8));
            let shape = world.bench.objects.shape_of(object).map_or(0, |ShapeId(number)| number + 1);
            prop_assert_eq!(seen.shape as u32, shape);
            // SAFETY: an object of the test's.
            let memory = unsafe {
                std::slice::from_raw_parts(world.bench.heap.region().pointer(object.start), object.size.0)
            };
            prop_assert_eq!(&seen.bytes[..], if with_bytes == 2 { memory } else { &[] });
        }
        for cut in [0, 1, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            prop_assert_eq!(Reader::read(&bytes[..cut]), None, "cut at {}", cut);
        }
        world.close();
    }
}

#[test]
fn attachments_are_dumped() {
    let mut world = World::new();
    (0..3).for_each(|_| world.allocate(1));
    let (bench, table) = (&world.bench, &world.table);
    let mut work = bench.work(&mut world.hand);
    let map = table.new_map(work.ground.ledger).unwrap();
    let mut shade = |_| panic!("nobody marks");
    let mut access = Access { objects: &bench.objects, work: &mut work, shade: &mut shade };
    let [a, b, c] = &world.objects[..] else { unreachable!() };
    let finalizer = Finalizer { function: 77, data: 88, is_traced: false };
    table.set_finalizer(a, finalizer, &mut access).unwrap();
    table.weak(a, Length::Long, &mut access).unwrap();
    table.insert(map, b, c.start, &mut access).unwrap();
    table.pin(c, &mut access).unwrap();
    table.pin(c, &mut access).unwrap();
    let [a, b, c] = [0, 1, 2].map(|at| world.place(at));
    let (bytes, _) = world.dump(Detail::Edges, &[]);
    let dump = Reader::read(&bytes).unwrap();
    let map = u64::from(map.0);
    assert_eq!(dump.attachments, [[0, a, 77, 88], [3, a, 1, 0], [4, b, map, c], [5, c, 2, 0]]);
    world.close();
}

/// The first error ends the dump, and is what the dumper gets.
#[test]
fn a_full_disk_ends_a_dump() {
    let mut world = World::new();
    (0..400).for_each(|_| world.allocate(1));
    world.bench.flush(&mut world.hand);
    let mut pieces = 0;
    let mut out = |_: &[u8]| {
        pieces += 1;
        if pieces == 2 { Err("full") } else { Ok(()) }
    };
    let heap = (&world.bench.objects, &world.shapes);
    // SAFETY: nothing runs, nothing waits to be swept, and the cache was flushed.
    let mut dump = unsafe { HeapDump::new(heap, world.bench.heap.region(), &mut out) };
    dump.objects(Detail::Bytes);
    assert_eq!(dump.finish(), Err("full"));
    assert_eq!(pieces, 2);
    world.close();
}
