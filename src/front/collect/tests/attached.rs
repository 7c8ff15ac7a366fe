//! What hangs on objects, as a program uses it.

use super::{by_hand, heap, in_order, live, waste};
use crate::Trace;
use crate::base::random::Random;
use crate::front::collect::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread as threads;

/// Counts how often each number is dropped.
struct Counts(Vec<AtomicUsize>);

impl Counts {
    fn new(count: usize) -> Arc<Counts> {
        Arc::new(Counts((0..count).map(|_| AtomicUsize::new(0)).collect()))
    }

    fn all(&self) -> Vec<usize> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    fn token(self: &Arc<Counts>, number: usize) -> Plain<Token> {
        Plain(Token { number, counts: self.clone() })
    }
}

/// Counted when it is dropped.
struct Token {
    number: usize,
    counts: Arc<Counts>,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.counts.0[self.number].fetch_add(1, Ordering::Relaxed);
    }
}

/// An object with a value that is dropped, and edges: in circles, often.
#[derive(Trace)]
struct Owner {
    token: Plain<Token>,
    next: Edge<Owner>,
    back: Edge<Owner>,
}

fn owner<'g>(cx: &Context<'g, '_>, token: Plain<Token>) -> Gc<'g, Owner> {
    cx.allocate(Owner { token, next: Edge::null(), back: Edge::null() }).unwrap()
}

#[test]
fn values_are_dropped_once_also_in_circles_and_with_the_heap() {
    let counts = Counts::new(200);
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    let root = mutator.run(|cx| {
        // A ring of a hundred, which dies; and a hundred that stay.
        let first = owner(cx, counts.token(0));
        let last = (1..100).fold(first, |before, number| {
            let next = owner(cx, counts.token(number));
            before.next.set(cx, Some(next));
            next.back.set(cx, Some(before));
            next
        });
        last.next.set(cx, Some(first));
        let kept = cx.allocate_array(100, |at| counts.token(100 + at)).unwrap();
        cx.root(kept).unwrap()
    });
    mutator.collect().unwrap();
    heap.check().unwrap();
    assert_eq!(counts.all().iter().sum::<usize>(), 0, "nothing is dropped but at safepoints");
    assert_eq!(mutator.run_finalizers(), 100);
    assert_eq!(mutator.run_finalizers(), 0);
    assert!(counts.all()[..100].iter().all(|&count| count == 1));
    mutator.collect().unwrap();
    let kept = mutator.run(|cx| 8 + size_of_val(root.get(cx).items()));
    assert!(
        (kept..kept + kept / 8).contains(&live(&heap)),
        "{kept} bytes are kept, and {} live",
        live(&heap)
    );
    drop((root, mutator));
    in_order(&heap);
    assert!(counts.all()[100..].iter().all(|&count| count == 0));
    drop(heap);
    assert!(counts.all().iter().all(|&count| count == 1));
}

#[test]
fn an_array_whose_making_panics_drops_what_there_is() {
    let counts = Counts::new(10);
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    let run = || {
        mutator.run(|cx| {
            let item = |at| if at < 7 { counts.token(at) } else { panic!("enough") };
            cx.allocate_array(10, item).map(drop)
        })
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    mutator.collect().unwrap();
    mutator.safepoint();
    assert_eq!(counts.all(), [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn a_panic_in_a_destructor_comes_out_of_the_safepoint_and_the_rest_goes_on() {
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let counts = Counts::new(1);
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    mutator.run(|cx| {
        cx.allocate(Plain(Loud)).map(drop).unwrap();
        cx.allocate(counts.token(0)).map(drop).unwrap();
    });
    mutator.collect().unwrap();
    let run = || mutator.run_finalizers();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    heap.check().unwrap();
    mutator.run_finalizers();
    assert_eq!(counts.all(), [1]);
    mutator.collect().unwrap();
    mutator.collect().unwrap();
    assert_eq!(live(&heap), 0);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn external_bytes_come_and_go_with_their_object() {
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    let external = || heap.collection().unwrap().pacing.external();
    mutator.run(|cx| cx.allocate_with_external(1_u64, Bytes::mib(3)).map(drop).unwrap());
    assert_eq!(external(), Bytes::mib(3));
    mutator.collect().unwrap();
    mutator.safepoint();
    assert_eq!(external(), Bytes::ZERO);
    drop(mutator);
    in_order(&heap);
}

static REVIVED: AtomicU64 = AtomicU64::new(0);

#[derive(Trace)]
struct Phoenix {
    number: u64,
    nest: Edge<Nest>,
    held: Edge<u64>,
}

#[derive(Default, Trace)]
struct Nest {
    bird: Edge<Phoenix>,
}

#[test]
fn a_finalizer_may_bring_its_object_back_and_weak_references_tell() {
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    let (nest, short, long) = mutator.run(|cx| {
        let nest = cx.allocate(Nest::default()).unwrap();
        let bird = cx.allocate(Phoenix { number: 5, nest: Edge::null(), held: Edge::null() }).unwrap();
        bird.nest.set(cx, Some(nest));
        bird.held.set(cx, Some(cx.allocate(6).unwrap()));
        cx.on_death(bird, |cx, bird| {
            REVIVED.fetch_add(bird.number + *bird.held.get(cx).unwrap(), Ordering::Relaxed);
            bird.nest.get(cx).unwrap().bird.set(cx, Some(bird));
        })
        .unwrap();
        (cx.root(nest).unwrap(), cx.weak(bird).unwrap(), cx.long_weak(bird).unwrap())
    });
    mutator.collect().unwrap();
    mutator.run(|cx| {
        assert_eq!(REVIVED.load(Ordering::Relaxed), 11, "it runs before anything else does");
        assert!(short.upgrade(cx).is_none());
        let bird = nest.get(cx).bird.get(cx).unwrap();
        assert!(Gc::ptr_eq(long.upgrade(cx).unwrap(), bird));
        assert_eq!(*bird.held.get(cx).unwrap(), 6);
    });
    for round in 0..2 {
        mutator.collect().unwrap();
        mutator.run(|cx| {
            assert_eq!(long.upgrade(cx).is_some(), round == 0);
            nest.get(cx).bird.set(cx, None);
        });
    }
    assert_eq!(REVIVED.load(Ordering::Relaxed), 11, "once");
    let again = long.clone();
    drop((nest, short, long, again, mutator));
    in_order(&heap);
}

#[test]
fn stress_collects_often_and_poison_shows_no_user_of_the_dead() {
    let config = CollectConfig { stress: Some(1), poison: true, ..by_hand() };
    let heap = heap(config);
    let mut mutator = heap.enter().unwrap();
    for round in 0..100 {
        mutator.run(|cx| (0..500).for_each(|at| waste(cx, round * at)));
    }
    assert!(heap.collector_statistics().cycles > 50, "{}", heap.collector_statistics().cycles);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn a_dump_tells_objects_roots_and_attachments() {
    let counts = Counts::new(1);
    let heap = heap(by_hand());
    let mut mutator = heap.enter().unwrap();
    let (root, _weak) = mutator.run(|cx| {
        let kept = owner(cx, counts.token(0));
        (cx.root(kept).unwrap(), cx.weak(kept).unwrap())
    });
    let mut dump = Vec::new();
    let mut write = |bytes: &[u8]| {
        dump.extend_from_slice(bytes);
        Ok::<(), &str>(())
    };
    // The heap, the object, its root, its weak reference, its destructor, the end.
    assert_eq!(mutator.dump(false, &mut write), Ok(6));
    assert!(dump.starts_with(crate::gc::dump::MAGIC));
    assert_eq!(mutator.dump(true, |_| Err("full")), Err("full"));
    drop(root);
    drop((_weak, mutator));
    in_order(&heap);
}

/// Threads that make, look up and drop everything there is, while the collector works all the time.
#[test]
fn threads_attach_and_detach_while_it_is_collected() {
    const THREADS: usize = 3;
    const EACH: usize = 1500;
    let counts = Counts::new(THREADS * EACH);
    let config = CollectConfig { workers: 2, stress: Some(20), poison: true, verify: true, ..by_hand() };
    let heap = heap(config);
    let mut mutator = heap.enter().unwrap();
    let map = mutator.run(|cx| cx.weak_map::<Owner, Array<u64>>().unwrap());
    mutator.outside(|| {
        threads::scope(|scope| {
            for thread in 0..THREADS {
                let (heap, map, counts) = (&heap, &map, &counts);
                scope.spawn(move || {
                    let mut random = Random::new(thread as u64 + 1);
                    let mut mutator = heap.enter().unwrap();
                    let mut roots = BTreeMap::new();
                    let mut weaks = Vec::new();
                    for number in thread * EACH..(thread + 1) * EACH {
                        mutator.run(|cx| {
                            let kept = owner(cx, counts.token(number));
                            let value = cx.allocate_array(3, |_| number as u64).unwrap();
                            assert!(map.insert(cx, kept, value).unwrap().is_none());
                            weaks.push((number, cx.weak(kept).unwrap()));
                            roots.insert(number % 20, (number, cx.root(kept).unwrap()));
                            for (number, root) in roots.values() {
                                assert_eq!(map.get(cx, root.get(cx)).unwrap().items(), [*number as u64; 3]);
                            }
                            for (number, weak) in &weaks {
                                if let Some(kept) = weak.upgrade(cx) {
                                    assert_eq!(kept.token.0.number, *number);
                                    assert_eq!(map.get(cx, kept).unwrap().items(), [*number as u64; 3]);
                                }
                            }
                            (0..20).for_each(|at| waste(cx, at));
                        });
                        if weaks.len() > 40 {
                            weaks.swap_remove(random.below(40));
                        }
                        if random.below(300) == 0 {
                            mutator.collect().unwrap();
                        }
                    }
                });
            }
        });
    });
    assert!(heap.collector_statistics().cycles > 3);
    mutator.collect().unwrap();
    mutator.run_finalizers();
    mutator.collect().unwrap();
    assert_eq!((live(&heap), map.len()), (0, 0));
    drop((map, mutator));
    in_order(&heap);
    assert!(counts.all().iter().all(|&count| count == 1));
}

const PLACES: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    New(usize),
    Link(usize, usize),
    Clear(usize),
    Weak(usize),
    Upgrade(usize, usize),
    Insert(usize, usize),
    Remove(usize),
    Forget(usize),
    Collect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0..PLACES;
    let step = prop_oneof![
        5 => at().prop_map(Step::New),
        4 => (at(), at()).prop_map(|(a, b)| Step::Link(a, b)),
        3 => at().prop_map(Step::Clear),
        3 => at().prop_map(Step::Weak),
        2 => (any::<usize>(), at()).prop_map(|(a, b)| Step::Upgrade(a, b)),
        4 => (at(), at()).prop_map(|(a, b)| Step::Insert(a, b)),
        1 => at().prop_map(Step::Remove),
        1 => any::<usize>().prop_map(Step::Forget),
        2 => Just(Step::Collect),
    ];
    prop::collection::vec(step, 1..80)
}

/// Who is alive, by number: edges and ephemerons.
#[derive(Default)]
struct Model {
    edges: BTreeMap<usize, Option<usize>>,
    places: [Option<usize>; PLACES],
    entries: BTreeMap<usize, usize>,
}

impl Model {
    fn reachable(&self) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<usize> = self.places.iter().flatten().copied().collect();
        while let Some(number) = todo.pop() {
            if seen.insert(number) {
                todo.extend(self.edges[&number].iter().chain(self.entries.get(&number)));
            }
        }
        seen
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Against a graph of numbers: values are dropped, weak references cleared and entries gone for exactly those that
    /// cannot be reached.
    #[test]
    fn exactly_the_unreachable_are_found_dead(steps in steps()) {
        let counts = Counts::new(steps.len());
        let heap = heap(CollectConfig { poison: true, ..by_hand() });
        let mut mutator = heap.enter().unwrap();
        let mut model = Model::default();
        let (table, map) = mutator.run(|cx| {
            let table = cx.allocate_array(PLACES, |_| Edge::<Owner>::null()).unwrap();
            (cx.root(table).unwrap(), cx.weak_map::<Owner, Owner>().unwrap())
        });
        let mut weaks: Vec<(usize, Weak<'_, Owner>)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            mutator.run(|cx| {
                let table = table.get(cx).items();
                let at = |place: usize| table[place].get(cx);
                match step {
                    Step::New(place) => {
                        table[place].set(cx, Some(owner(cx, counts.token(number))));
                        model.places[place] = Some(number);
                        model.edges.insert(number, None);
                    }
                    Step::Link(a, b) => if let Some(from) = at(a) {
                        from.next.set(cx, at(b));
                        model.edges.insert(model.places[a].unwrap(), model.places[b]);
                    },
                    Step::Clear(place) => {
                        table[place].set(cx, None);
                        model.places[place] = None;
                    }
                    Step::Weak(place) => if let Some(target) = at(place) {
                        weaks.push((model.places[place].unwrap(), cx.weak(target).unwrap()));
                    },
                    Step::Upgrade(which, place) => {
                        let Some((target, weak)) = weaks.get(which % weaks.len().max(1)) else { return };
                        let got = weak.upgrade(cx);
                        assert_eq!(got.map(|got| got.token.0.number), model.edges.contains_key(target).then_some(*target));
                        if let Some(got) = got {
                            table[place].set(cx, Some(got));
                            model.places[place] = Some(*target);
                        }
                    }
                    Step::Insert(a, b) => if let (Some(key), Some(value)) = (at(a), at(b)) {
                        let old = map.insert(cx, key, value).unwrap();
                        let known = model.entries.insert(model.places[a].unwrap(), model.places[b].unwrap());
                        assert_eq!(old.map(|old| old.token.0.number), known);
                    },
                    Step::Remove(a) => if let Some(key) = at(a) {
                        let known = model.entries.remove(&model.places[a].unwrap());
                        assert_eq!(map.get(cx, key).map(|value| value.token.0.number), known);
                        assert_eq!(map.remove(cx, key).map(|value| value.token.0.number), known);
                    },
                    Step::Forget(which) => if !weaks.is_empty() {
                        weaks.swap_remove(which % weaks.len());
                    },
                    Step::Collect => {}
                }
            });
            if matches!(step, Step::Collect) {
                mutator.collect().unwrap();
                heap.check().unwrap();
                let reachable = model.reachable();
                let dead = model.edges.keys().filter(|number| !reachable.contains(number)).count();
                prop_assert_eq!(mutator.run_finalizers(), dead);
                model.edges.retain(|number, _| reachable.contains(number));
                model.entries.retain(|number, _| reachable.contains(number));
                prop_assert_eq!(map.len(), model.entries.len());
                for (number, &count) in counts.all().iter().enumerate() {
                    prop_assert!(count == 0 || count == 1 && !model.edges.contains_key(&number));
                }
            }
        }
        let dropped: usize = counts.all().iter().sum();
        let alive = model.edges.len();
        drop((weaks, map, table, mutator));
        heap.check().unwrap();
        heap.snapshot().check().unwrap();
        drop(heap);
        prop_assert_eq!(counts.all().iter().sum::<usize>(), dropped + alive);
        prop_assert!(counts.all().iter().all(|&count| count <= 1));
    }
}
