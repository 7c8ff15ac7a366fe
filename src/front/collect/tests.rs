//! The collected heap as a program uses it.

mod attached;
mod forked;
mod limits;

use super::*;
use crate::Config;
use crate::Trace;
use crate::base::random::Random;
use crate::front::heap::Heap;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread as threads;

#[derive(Default, Trace)]
struct Node {
    number: AtomicU64,
    left: Edge<Node>,
    right: Edge<Node>,
}

pub(super) fn heap(config: CollectConfig) -> Heap {
    let heap = Heap::new(Config { reserve: Bytes::gib(4), ..Config::default() }).unwrap();
    heap.configure_collector(config).unwrap();
    heap
}

/// No cycle but those that the test asks for.
pub(super) fn by_hand() -> CollectConfig {
    CollectConfig { percent: None, workers: 0, verify: true, ..CollectConfig::default() }
}

pub(super) fn in_order(heap: &Heap) {
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

pub(super) fn live(heap: &Heap) -> usize {
    heap.collector_statistics().live.0
}

fn node<'g>(cx: &Context<'g, '_>, number: u64) -> Gc<'g, Node> {
    let node = cx.allocate(Node::default()).unwrap();
    node.number.store(number, Ordering::Relaxed);
    node
}

/// Garbage.
pub(super) fn waste(cx: &Context<'_, '_>, number: u64) {
    let _ = node(cx, number);
}

#[test]
fn what_a_root_leads_to_stays_and_the_rest_goes() {
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    let root = mutator.run(|cx| {
        let top = node(cx, 1);
        top.left.set(cx, Some(node(cx, 2)));
        (0..10_000).for_each(|at| waste(cx, at));
        cx.root(top).unwrap()
    });
    mutator.collect().unwrap();
    assert_eq!(live(&heap), 2 * 32);
    mutator.run(|cx| {
        let top = root.get(cx);
        assert_eq!(top.number.load(Ordering::Relaxed), 1);
        assert_eq!(top.left.get(cx).unwrap().number.load(Ordering::Relaxed), 2);
        assert!(top.right.get(cx).is_none());
        top.left.set(cx, None);
    });
    mutator.collect().unwrap();
    assert_eq!(live(&heap), 32);
    drop(root);
    mutator.collect().unwrap();
    assert_eq!(live(&heap), 0);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn objects_of_all_sizes_and_kinds_live_and_die() {
    #[derive(Trace)]
    struct Wide {
        words: [u64; 40],
        edge: Edge<Node>,
        more: [u64; 40],
    }
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    let sizes = [1_usize, 15, 16, 17, 100, 511, 512, 513, 5000, 32_000, 40_000, 3 << 20];
    let roots: Vec<_> = mutator.run(|cx| {
        let arrays =
            sizes.iter().map(|&size| cx.root(cx.allocate_array(size, |at| at as u8).unwrap()).unwrap());
        arrays.collect()
    });
    let wide = mutator.run(|cx| {
        let wide = cx.allocate(Wide { words: [7; 40], edge: Edge::null(), more: [8; 40] }).unwrap();
        wide.edge.set(cx, Some(node(cx, 9)));
        cx.root(wide).unwrap()
    });
    let edges = mutator.run(|cx| {
        let edges = cx.allocate_array(10_000, |_| Edge::<Node>::null()).unwrap();
        (0..10_000).for_each(|at| edges.items()[at].set(cx, Some(node(cx, at as u64))));
        cx.root(edges).unwrap()
    });
    for _ in 0..3 {
        mutator.collect().unwrap();
        mutator.run(|cx| {
            for (root, &size) in roots.iter().zip(&sizes) {
                let items = root.get(cx).items();
                assert!(items.len() == size && items.iter().enumerate().all(|(at, &byte)| byte == at as u8));
            }
            let wide = wide.get(cx);
            assert_eq!((wide.words, wide.more), ([7; 40], [8; 40]));
            assert_eq!(wide.edge.get(cx).unwrap().number.load(Ordering::Relaxed), 9);
            for (at, edge) in edges.get(cx).items().iter().enumerate() {
                assert_eq!(edge.get(cx).unwrap().number.load(Ordering::Relaxed), at as u64);
            }
            (0..1000)
                .for_each(|at| assert_eq!(cx.allocate_array(at * 50, |_| 0xFF_u8).unwrap().len(), at * 50));
        });
    }
    drop((roots, wide, edges));
    mutator.collect().unwrap();
    assert_eq!(live(&heap), 0);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn an_edge_that_nobody_would_look_at_refuses_to_be_set() {
    let heap = heap(by_hand());
    let refused = |what: &dyn Fn(&Context<'_, '_>)| {
        let mut mutator = heap.enter().unwrap();
        let run = || mutator.run(|cx| what(cx));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    };
    let on_the_stack = Edge::null();
    assert!(refused(&|cx| {
        let node = node(cx, 1);
        let outside: &Edge<Node> = &on_the_stack;
        // The brand is another one each time, so the compiler cannot be asked; the heap is.
        outside.set(cx, Some(node));
    }));
    assert!(refused(&|cx| {
        let hidden = cx.allocate(Plain(Node::default())).unwrap();
        hidden.0.left.set(cx, Some(node(cx, 1)));
    }));
    let other = self::heap(by_hand());
    assert!(refused(&|cx| {
        let mut there = other.enter().unwrap();
        let foreign = there.run(|there| there.root(node(there, 1)).unwrap());
        let _ = foreign.get(cx);
    }));
    let mut mutator = heap.enter().unwrap();
    mutator.collect().unwrap();
    assert_eq!(live(&heap), 0);
    drop(mutator);
    in_order(&heap);
    in_order(&other);
}

#[test]
fn a_thread_enters_a_heap_once() {
    let heaps = [heap(by_hand()), heap(by_hand())];
    let mutators = heaps.each_ref().map(|heap| heap.enter().unwrap());
    let again = heaps[0].enter().err().unwrap();
    assert_eq!(again.to_string(), "this thread has entered the heap already; a thread enters once");
    assert!(matches!(heaps[0].enter_raw().err(), Some(CollectError::Entered)));
    threads::scope(|scope| scope.spawn(|| drop(heaps[0].enter().unwrap())).join().unwrap());
    drop(mutators);
    drop(heaps[0].enter().unwrap());
    heaps.iter().for_each(in_order);
}

/// A heap goes although a thread has forgotten its place there, while a cycle is wanted.
#[test]
fn a_forgotten_mutator_keeps_nobody() {
    for _ in 0..5 {
        let heap = heap(CollectConfig { workers: 2, ..CollectConfig::default() });
        let mut mutator = heap.enter().unwrap();
        mutator.run(|cx| (0..200_000).for_each(|at| waste(cx, at)));
        std::mem::forget(mutator);
        drop(heap);
    }
}

#[test]
fn one_collector_a_heap_and_set_up_in_time() {
    let heap = heap(by_hand());
    let late = heap.configure_collector(by_hand()).unwrap_err();
    assert_eq!(late.to_string(), "the collector is set up before the first thread enters the heap");
    let fresh = Heap::new(Config::default()).unwrap();
    drop(fresh.enter().unwrap());
    assert_eq!(fresh.configure_collector(by_hand()), Err(CollectError::TooLate));
    in_order(&fresh);
}

#[test]
fn collections_come_by_themselves_and_memory_stays_small() {
    for workers in [0, 1, 3] {
        let heap = heap(CollectConfig { workers, verify: true, ..CollectConfig::default() });
        let mut mutator = heap.enter().unwrap();
        for round in 0..3000 {
            mutator.run(|cx| (0..1000).for_each(|at| waste(cx, round * at)));
        }
        let statistics = heap.collector_statistics();
        assert!(statistics.cycles > 0, "{workers} workers: no collection for 96 MB");
        assert!(heap.objects().inuse() < Bytes::mib(64), "{workers} workers: {}", heap.objects().inuse());
        drop(mutator);
        in_order(&heap);
    }
}

/// Threads that change one graph while the collector works all the time, with a second marking at the end of each cycle.
#[test]
fn many_threads_change_a_graph_while_it_is_collected() {
    const THREADS: u64 = 4;
    const PLACES: usize = 300;
    let heap =
        heap(CollectConfig { workers: 2, verify: true, least: Bytes::kib(256), ..CollectConfig::default() });
    let mut mutator = heap.enter().unwrap();
    let table =
        mutator.run(|cx| cx.root(cx.allocate_array(PLACES, |_| Edge::<Node>::null()).unwrap()).unwrap());
    let begin = Barrier::new(THREADS as usize);
    mutator.outside(|| {
        threads::scope(|scope| {
            for seed in 0..THREADS {
                let (heap, table, begin) = (&heap, &table, &begin);
                scope.spawn(move || {
                    let mut random = Random::new(seed + 1);
                    begin.wait();
                    for round in 0..400 {
                        // Threads come and go as well.
                        let mut mutator = heap.enter().unwrap();
                        let kept = mutator.run(|cx| cx.root(node(cx, seed << 32 | round)).unwrap());
                        for _ in 0..5 {
                            mutator.run(|cx| change(cx, table.get(cx).items(), &mut random));
                        }
                        mutator.run(|cx| {
                            assert_eq!(kept.get(cx).number.load(Ordering::Relaxed), seed << 32 | round);
                        });
                        if round % 100 == 0 {
                            mutator.collect().unwrap();
                        }
                    }
                });
            }
        });
    });
    assert!(heap.collector_statistics().cycles > 10);
    mutator.run(|cx| {
        table.get(cx).items().iter().for_each(|edge| {
            assert!(look(cx, edge).is_none_or(|node| node.number.load(Ordering::Relaxed) != 0))
        })
    });
    drop(table);
    mutator.collect().unwrap();
    mutator.collect().unwrap();
    assert_eq!(live(&heap), 0);
    drop(mutator);
    in_order(&heap);
}

const MARK: u64 = 0x5EED_0000_0000_0000;

fn look<'g>(cx: &Context<'g, '_>, edge: &Edge<Node>) -> Option<Gc<'g, Node>> {
    let node = edge.get(cx)?;
    let number = node.number.load(Ordering::Relaxed);
    assert_eq!(number & MARK, MARK, "a node was overwritten: {number:#x}");
    Some(node)
}

/// Some random changes: new nodes, moved edges, cut edges.
fn change(cx: &Context<'_, '_>, table: &[Edge<Node>], random: &mut Random) {
    for _ in 0..50 {
        let fresh = node(cx, MARK | random.bits() >> 32);
        let [a, b, c] = [(); 3].map(|()| &table[random.below(table.len())]);
        match random.below(4) {
            0 => {
                fresh.left.set(cx, look(cx, a));
                b.set(cx, Some(fresh));
            }
            1 => {
                if let Some(node) = look(cx, a) {
                    let moved = look(cx, &node.left);
                    node.left.set(cx, None);
                    node.right.set(cx, look(cx, b));
                    c.set(cx, moved);
                }
            }
            2 => a.set(cx, look(cx, b)),
            _ => {
                if let Some(node) = look(cx, a) {
                    node.left.set(cx, Some(fresh));
                    node.right.set(cx, None);
                }
            }
        }
    }
}

/// A thread that is outside keeps nobody waiting, whatever it does there.
#[test]
fn nobody_waits_for_a_thread_that_is_outside() {
    let heap = heap(by_hand());
    let done = AtomicBool::new(false);
    threads::scope(|scope| {
        let (heap, done) = (&heap, &done);
        scope.spawn(move || {
            let mut sleeper = heap.enter().unwrap();
            sleeper.outside(|| {
                while !done.load(Ordering::Acquire) {
                    threads::yield_now();
                }
            });
            drop(sleeper.run(|cx| cx.root(node(cx, 1)).unwrap()));
        });
        let mut mutator = heap.enter().unwrap();
        (0..10).for_each(|_| mutator.collect().unwrap());
        done.store(true, Ordering::Release);
    });
    assert_eq!(heap.collector_statistics().cycles, 10);
    in_order(&heap);
}

#[test]
fn two_heaps_are_collected_apart() {
    let heaps = [heap(by_hand()), heap(by_hand())];
    threads::scope(|scope| {
        for heap in &heaps {
            for seed in 0..2 {
                scope.spawn(move || {
                    let mut mutator = heap.enter().unwrap();
                    let mut random = Random::new(seed);
                    let table = mutator
                        .run(|cx| cx.root(cx.allocate_array(50, |_| Edge::<Node>::null()).unwrap()).unwrap());
                    for _ in 0..20 {
                        mutator.run(|cx| change(cx, table.get(cx).items(), &mut random));
                        mutator.collect().unwrap();
                    }
                });
            }
        }
    });
    heaps.iter().for_each(in_order);
}

#[derive(Clone, Debug)]
enum Step {
    New(usize),
    Link(usize, usize, bool),
    Cut(usize, bool),
    Root(usize),
    Drop(usize),
    Collect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..16_usize).prop_map(Step::New),
        6 => (0..16_usize, 0..16_usize, any::<bool>()).prop_map(|(a, b, left)| Step::Link(a, b, left)),
        2 => (0..16_usize, any::<bool>()).prop_map(|(a, left)| Step::Cut(a, left)),
        2 => (0..16_usize).prop_map(Step::Root),
        2 => (0..16_usize).prop_map(Step::Drop),
        1 => Just(Step::Collect),
    ];
    prop::collection::vec(step, 1..120)
}

/// The model: what leads to what, by number.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<u64, [Option<u64>; 2]>,
    places: BTreeMap<usize, u64>,
    roots: BTreeMap<usize, u64>,
}

impl Model {
    fn reachable(&self) -> usize {
        let mut seen = std::collections::BTreeSet::new();
        let mut stack: Vec<u64> = self.roots.values().chain(self.places.values()).copied().collect();
        while let Some(number) = stack.pop() {
            if seen.insert(number) {
                stack.extend(self.nodes[&number].into_iter().flatten());
            }
        }
        seen.len()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Against a graph of numbers: after a collection exactly what is reachable lives.
    #[test]
    fn a_collection_leaves_what_is_reachable(steps in steps()) {
        let heap = heap(by_hand());
        let mut mutator = heap.enter().unwrap();
        let mut model = Model::default();
        let table =
            mutator.run(|cx| cx.root(cx.allocate_array(16, |_| Edge::<Node>::null()).unwrap()).unwrap());
        let table_bytes = 144;
        let mut roots = BTreeMap::new();
        let mut next = 0;
        for step in steps {
            let run = |cx: &Context<'_, '_>, model: &mut Model, next: &mut u64| {
                let table = table.get(cx).items();
                match step {
                    Step::New(at) => {
                        *next += 1;
                        table[at].set(cx, Some(node(cx, *next)));
                        model.nodes.insert(*next, [None; 2]);
                        model.places.insert(at, *next);
                    }
                    Step::Link(a, b, left) => {
                        if let (Some(from), to) = (table[a].get(cx), table[b].get(cx)) {
                            if left { from.left.set(cx, to) } else { from.right.set(cx, to) }
                            let to = model.places.get(&b).copied();
                            let from = model.places[&a];
                            model.nodes.get_mut(&from).unwrap()[usize::from(!left)] = to;
                        }
                    }
                    Step::Cut(a, left) => {
                        // A place goes to one of its node's edges, or empties.
                        let to = table[a].get(cx).and_then(|node| {
                            if left { node.left.get(cx) } else { node.right.get(cx) }
                        });
                        table[a].set(cx, to);
                        let number = model.places.remove(&a).and_then(|n| model.nodes[&n][usize::from(!left)]);
                        number.map(|number| model.places.insert(a, number));
                    }
                    _ => {}
                }
            };
            mutator.run(|cx| run(cx, &mut model, &mut next));
            match step {
                Step::Root(at) => {
                    let root = mutator.run(|cx| Some(cx.root(table.get(cx).items()[at].get(cx)?).unwrap()));
                    if let Some(root) = root {
                        roots.insert(at, root);
                        model.roots.insert(at, model.places[&at]);
                    }
                }
                Step::Drop(at) => {
                    roots.remove(&at);
                    model.roots.remove(&at);
                }
                Step::Collect => {
                    mutator.collect().unwrap();
                    prop_assert_eq!(live(&heap) - table_bytes, model.reachable() * 32);
                }
                _ => {}
            }
        }
        mutator.collect().unwrap();
        prop_assert_eq!(live(&heap) - table_bytes, model.reachable() * 32);
        drop((roots, table, mutator));
        heap.check().unwrap();
        heap.snapshot().check().unwrap();
    }
}
