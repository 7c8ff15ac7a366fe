//! Marking a graph that nobody changes, against a plain search that knows it by its own lists.

use super::{World, load};
use crate::base::purpose::{POINTER_MAPS, WORK_BUFFERS};
use crate::base::random::Random;
use crate::base::{Address, Bytes};
use crate::gc::kernel::Kernel;
use crate::gc::roots::PIECE;
use crate::gc::{RootRange, Worker};
use crate::object::encode::encode_bitmap;
use crate::object::shape::SMALL_MAP;
use crate::object::testing::Hand;
use crate::object::{NoAttachments, Shape, ShapeId};
use crate::os::testing::balance;
use crate::stats::Account;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// What the twin knows of an object: its size, and which words count.
struct Node {
    size: usize,
    counts: Box<dyn Fn(usize) -> bool>,
}

/// A graph, by address.
struct Graph {
    world: World,
    hand: Hand,
    nodes: BTreeMap<usize, Node>,
    roots: Vec<usize>,
}

/// Whether a word counts, of an object of so many words.
type Counts = fn(usize, usize) -> bool;

/// The shapes that nodes have: how they are registered, and how the twin knows them.
fn shapes(world: &World, hand: &Hand) -> Vec<(ShapeId, Counts)> {
    let register = |shape: Shape<'_>| world.register(&shape, hand);
    let mask = register(Shape::Mask { words: 5, mask: 0b10110 });
    let long = register(Shape::Bitmap { words: 90, bits: &[0x5555_0000_1111_ffff, 1 << 20] });
    vec![
        (ShapeId::PLAIN, |_, _| false),
        (ShapeId::WORDS, |_, _| true),
        (mask.repeated(), |word, words| word / 5 < words / 5 && 0b10110 >> (word % 5) & 1 == 1),
        (long, |word, _| match word / 64 {
            0 => 0x5555_0000_1111_ffff_u64 >> word & 1 == 1,
            at => at == 1 && word % 64 == 20,
        }),
    ]
}

impl Graph {
    /// A graph of so many objects, whose words are pointers, pointers into the middle, and nonsense.
    fn random(seed: u64, count: usize, most: usize) -> Graph {
        let world = World::new();
        let mut hand = world.bench.hand();
        let (mut random, shapes) = (Random::new(seed), shapes(&world, &hand));
        let mut nodes = BTreeMap::new();
        for _ in 0..count {
            let (shape, counts) = shapes[random.below(shapes.len())];
            let least = if shape == shapes[3].0 { 720 } else { 16 };
            let wanted = least + (random.below(most) >> random.below(12));
            let start = world.allocate(&mut hand, shape, wanted);
            let size = world.bench.objects.find(start).unwrap().size.0;
            let counts = Box::new(move |word| counts(word, size / 8));
            nodes.insert(start.0, Node { size, counts });
        }
        let all: Vec<usize> = nodes.keys().copied().collect();
        let base = world.bench.objects.base().0;
        for (&start, node) in &nodes {
            for word in 0..node.size / 8 {
                let target = all[random.below(count)];
                let value = match random.below(40) {
                    // Long objects would lead everywhere.
                    0 if word < 64 || random.below(64) == 0 => target,
                    1 if word < 64 => target + random.below(nodes[&target].size),
                    2 => random.bits() as usize,
                    3 => target + nodes[&target].size,
                    4 if random.below(50) == 0 => base + random.below(64 << 20),
                    _ => continue,
                };
                world.word(Address(start), word).store(value, Ordering::Relaxed);
            }
        }
        let roots = (0..1 + random.below(6)).map(|_| all[random.below(count)] + random.below(16)).collect();
        Graph { world, hand, nodes, roots }
    }

    fn holder(&self, word: usize) -> Option<usize> {
        let (&start, node) = self.nodes.range(..=word).next_back()?;
        (word - start < node.size).then_some(start)
    }

    /// The plain search.
    fn reachable(&self) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut grey: Vec<usize> = self.roots.iter().filter_map(|&root| self.holder(root)).collect();
        while let Some(start) = grey.pop() {
            if !reached.insert(start) {
                continue;
            }
            let node = &self.nodes[&start];
            let words = (0..node.size / 8).filter(|&word| (node.counts)(word));
            let values = words.map(|word| load(self.world.word(Address(start), word)));
            grey.extend(values.filter_map(|value| self.holder(value)));
        }
        reached
    }

    /// A whole cycle with so many threads; compares, sweeps, and proves what can be proved.
    fn collect(&mut self, threads: usize) {
        let expected = self.reachable();
        let Graph { world, hand, nodes, roots } = self;
        world.bench.begin_marking([&mut *hand]);
        world.collector.begin();
        let mut worker = Worker::new();
        let mut marking = world.marking(hand);
        roots.iter().for_each(|&root| worker.shade(Address(root), &mut marking));
        worker.leave(&mut marking);
        world.drain(threads);
        let progress = world.collector.end(&world.ground(hand));
        let bytes: usize = expected.iter().map(|start| nodes[start].size).sum();
        assert_eq!(progress.marked_objects as usize, expected.len());
        assert_eq!(progress.marked_bytes as usize, bytes);
        for &start in nodes.keys() {
            let object = world.bench.objects.find(Address(start)).unwrap();
            assert_eq!(world.bench.objects.is_marked(&object), expected.contains(&start), "{object:?}");
        }
        world.collector.check_marks(&world.bench.objects).unwrap();
        // Until then, slots that a cache holds look like objects.
        world.bench.flush(hand);
        let reached = world.verify(hand, roots).unwrap();
        assert_eq!((reached.objects, reached.bytes), (expected.len(), Bytes(bytes)));
        world.bench.end_marking([&mut *hand], Bytes(bytes));
        world.bench.sweep_all(hand, &mut NoAttachments);
        assert_eq!(world.bench.objects.swept_live(), Bytes(bytes));
        nodes.retain(|start, _| expected.contains(start));
        world.rest(hand);
        assert_eq!(balance(&world.bench.books, Account::Span(WORK_BUFFERS)), 0);
        world.bench.check([&*hand].into_iter());
    }
}

/// Few where every check is compiled in.
const CASES: u32 = if cfg!(debug_assertions) { 12 } else { 200 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn marking_is_a_plain_search(seed: u64, count in 1..1500_usize, threads in 1..=4_usize, kernel in 0..3_usize) {
        let mut graph = Graph::random(seed, count, 40_000);
        let kernel = [Kernel::Plain, Kernel::Avx2, Kernel::Avx512][kernel];
        if kernel.runs_here() {
            graph.world.collector.set_kernel(kernel);
        }
        graph.collect(threads);
        graph.roots.truncate(1);
        graph.collect(threads);
    }

    /// Entries are dropped for want of memory, most of them or all, and nothing is lost.
    #[test]
    fn marking_needs_no_memory(seed: u64, count in 1..600_usize, threads in 1..=2_usize, room in 0..3_usize) {
        let mut graph = Graph::random(seed, count, 4000);
        let expected = graph.reachable();
        graph.world.bench.meters.get(WORK_BUFFERS).set_hard_limit(Some(Bytes::kib(32 * room)));
        let Graph { world, hand, roots, .. } = &mut graph;
        world.bench.begin_marking([&mut *hand]);
        world.collector.begin();
        let mut worker = Worker::new();
        let mut marking = world.marking(hand);
        roots.iter().for_each(|&root| worker.shade(Address(root), &mut marking));
        worker.leave(&mut marking);
        world.drain(threads);
        let progress = world.collector.end(&world.ground(hand));
        assert_eq!(progress.marked_objects as usize, expected.len());
        world.collector.check_marks(&world.bench.objects).unwrap();
        world.bench.end_marking([&mut *hand], Bytes(progress.marked_bytes as usize));
        world.bench.sweep_all(hand, &mut NoAttachments);
        world.rest(hand);
    }
}

#[test]
fn ranges_are_roots_and_long_objects_come_in_pieces() {
    let world = World::new();
    let mut hand = world.bench.hand();
    let long = world.allocate(&mut hand, ShapeId::WORDS, 5 * PIECE);
    let program = world.register(
        &Shape::Array {
            element: world.register(&Shape::Mask { words: 3, mask: 0b100 }, &hand),
            count: 30_000,
        },
        &hand,
    );
    let shaped = world.allocate(&mut hand, program, 30_000 * 24);
    let targets: Vec<_> = (0..8).map(|_| world.allocate(&mut hand, ShapeId::PLAIN, 48)).collect();
    let set = |object, word, value: Address| world.word(object, word).store(value.0, Ordering::Relaxed);
    set(long, 0, shaped);
    set(long, 5 * PIECE / 8 - 1, targets[0]);
    set(long, 3 * PIECE / 8, targets[1]);
    set(shaped, 3 * 29_999 + 2, targets[2]);
    set(shaped, 3 * 20_000 + 1, targets[3]);
    // A conservative range with a target at its end, and one with a bitmap that leaves a target out.
    let mut words = vec![0_usize; PIECE / 8 + 100];
    *words.last_mut().unwrap() = targets[4].0 + 47;
    words[7] = long.0;
    let mapped = [targets[5].0, targets[6].0, 0, targets[7].0 + 1];
    let bits = [0b1001_u64];
    let ledger = world.bench.books.ledger(hand.shard);
    let all = RootRange {
        start: Address::of(words.as_ptr()),
        size: Bytes(words.len() * 8),
        bits: std::ptr::null(),
    };
    let some = RootRange { start: Address::of(mapped.as_ptr()), size: Bytes(32), bits: bits.as_ptr() };
    words.as_ptr().expose_provenance();
    mapped.as_ptr().expose_provenance();
    // SAFETY: the ranges outlive the world's use of them.
    let ids = unsafe { [all, some].map(|range| world.collector.roots.add(range, ledger).unwrap()) };
    for (roots, expected) in [(2, &[0, 1, 2, 4, 5, 7][..]), (1, &[5, 7]), (0, &[])] {
        world.bench.begin_marking([&mut hand]);
        world.collector.begin();
        world.drain(2);
        let progress = world.collector.end(&world.ground(&hand));
        let marked: Vec<_> = (0..8)
            .filter(|&at| {
                let found = world.bench.objects.find(targets[at]);
                found.is_some_and(|object| world.bench.objects.is_marked(&object))
            })
            .collect();
        assert_eq!(marked, expected, "with {roots} ranges");
        assert_eq!(progress.scanned[1], [0, 64 * 8, 64 * 8 + words.len() as u64 * 8][roots]);
        world.verify(&mut hand, &[]).unwrap();
        world.bench.end_marking([&mut hand], Bytes(progress.marked_bytes as usize));
        world.bench.sweep_all(&mut hand, &mut NoAttachments);
        world.rest(&mut hand);
        if roots > 0 {
            assert_eq!(world.collector.roots.remove(ids[2 - roots]), Some([all, some][2 - roots]));
        }
    }
}

#[test]
fn a_lost_mark_is_found_with_its_parent() {
    let world = World::new();
    let mut hand = world.bench.hand();
    let [a, b, c] =
        [ShapeId::WORDS, ShapeId::WORDS, ShapeId::PLAIN].map(|shape| world.allocate(&mut hand, shape, 32));
    world.word(a, 1).store(b.0, Ordering::Relaxed);
    world.word(b, 3).store(c.0, Ordering::Relaxed);
    world.bench.begin_marking([&mut hand]);
    let find = |address| world.bench.objects.find(address).unwrap();
    assert_eq!(world.verify(&mut hand, &[a.0]).unwrap_err().parent, None);
    assert!(world.bench.objects.mark(&find(a)) && world.bench.objects.mark(&find(b)));
    let unmarked = world.verify(&mut hand, &[a.0]).unwrap_err();
    assert_eq!((unmarked.object, unmarked.parent), (find(c), Some(find(b))));
    assert!(world.bench.objects.mark(&find(c)));
    assert_eq!(world.verify(&mut hand, &[a.0]).unwrap().objects, 3);
    let broken = world.collector.check_marks(&world.bench.objects).unwrap_err();
    assert_eq!(broken.invariant, ("gc", 1));
    world.bench.end_marking([&mut hand], Bytes(96));
    world.bench.sweep_all(&mut hand, &mut NoAttachments);
    world.rest(&mut hand);
}

/// An object that was made while marking is black, and no marker asks where its pointers are. A number in it that looks
/// like a pointer is none for the second marking either.
#[test]
fn the_second_marking_asks_programs_that_no_marker_has_asked() {
    const WORDS: usize = 2 * SMALL_MAP;
    let world = World::new();
    let mut hand = world.bench.hand();
    let (mut bits, mut code) = ([0; WORDS / 64], [0; WORDS]);
    bits[WORDS / 64 - 1] = 1 << 63;
    let length = encode_bitmap(&bits, WORDS, &mut code).unwrap();
    let program = world.register(&Shape::Program { words: WORDS, code: &code[..length] }, &hand);
    let [lost, kept] = [(); 2].map(|()| world.allocate(&mut hand, ShapeId::PLAIN, 32));
    world.bench.begin_marking([&mut hand]);
    world.collector.begin();
    let black = world.allocate(&mut hand, program, 8 * WORDS);
    world.word(black, 0).store(lost.0, Ordering::Relaxed);
    world.word(black, WORDS - 1).store(kept.0, Ordering::Relaxed);
    let unmarked = world.verify(&mut hand, &[black.0]).unwrap_err();
    assert_eq!(unmarked.object.start, kept);
    let mut worker = Worker::new();
    let mut marking = world.marking(&mut hand);
    worker.shade(kept, &mut marking);
    worker.leave(&mut marking);
    world.drain(1);
    let progress = world.collector.end(&world.ground(&hand));
    assert_eq!(world.verify(&mut hand, &[black.0]).unwrap().objects, 2);
    world.bench.end_marking([&mut hand], Bytes(progress.marked_bytes as usize));
    world.bench.sweep_all(&mut hand, &mut NoAttachments);
    assert_eq!(world.bench.objects.find(lost), None);
    world.rest(&mut hand);
    assert_eq!(balance(&world.bench.books, Account::Span(POINTER_MAPS)), 0);
}
