//! Limits: of memory, of the collector's share of the processors, and of what one heap has to do with another.

use super::*;
use crate::base::purpose;
use crate::front::collect::raw::{RawMutator, Shader};
use crate::gc::trace::Reason;
use crate::os::simulated::Simulated;
use crate::os::{Nanoseconds, System};
use crate::stats::{Account, Snapshot};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Replaces an object of a table by a new one; twice if there is no memory at first.
fn replace(
    mutator: &mut Mutator<'_>,
    table: &Root<'_, Array<Edge<Node>>>,
    place: usize,
) -> Result<(), Exhausted> {
    let put = |cx: &Context<'_, '_>| {
        let node = cx.allocate(Node::default())?;
        table.get(cx).items()[place].set(cx, Some(node));
        Ok(())
    };
    mutator.run(put).or_else(|_: Exhausted| {
        mutator.collect().unwrap();
        mutator.run(put)
    })
}

/// A tenth more than what lives is enough to go on, and never passed; less than what is wanted is a clear error.
#[test]
fn a_limit_a_tenth_above_what_lives_holds() {
    const LIVE: usize = 16_000;
    let heap = heap(CollectConfig { workers: 1, least: Bytes::kib(64), ..CollectConfig::default() });
    heap.set_scavenger(crate::front::config::Scavenger::Off);
    let mut mutator = heap.enter().unwrap();
    let table =
        mutator.run(|cx| cx.root(cx.allocate_array(LIVE, |_| Edge::<Node>::null()).unwrap()).unwrap());
    (0..LIVE).for_each(|place| replace(&mut mutator, &table, place).unwrap());
    mutator.collect().unwrap();
    // What was needed to get there is free now, and goes first.
    heap.release_all();
    let committed = || heap.snapshot().committed() as usize;
    // As the kernel says it of the heap's own addresses; nothing, where it does not tell.
    let resident = || {
        let resident = heap.resident();
        (resident.heap + resident.metadata).0
    };
    let limit = Bytes(committed() + live(&heap) / 10);
    // Tables grow with the spans that they stand for, and are seen then.
    let most = limit.0 + limit.0 / 50;
    heap.set_limit(Some(limit));
    let before = heap.collector_statistics().cycles;
    let mut random = Random::new(5);
    for at in 0..8_000 {
        replace(&mut mutator, &table, random.below(LIVE)).unwrap();
        if at % 1000 == 0 {
            assert!(committed() <= most, "{} committed, at most {limit}", committed());
            assert!(resident() <= most, "{} resident, at most {limit}", resident());
        }
    }
    assert!(heap.collector_statistics().cycles > before, "it was never collected");
    let refused = mutator.run(|cx| cx.allocate_array(limit.0, |_| 0_u8).map(|_| ())).unwrap_err();
    assert_eq!((refused.scarce, refused.limit), (Scarce::HeapLimit, limit));
    assert!(refused.to_string().contains("objects"), "{refused}");
    assert!(committed() <= most);
    drop((table, mutator));
    in_order(&heap);
}

/// Collections that take all the time there is are held up until the program had its half.
#[test]
fn the_collector_takes_no_more_than_its_half() {
    /// A pause that lasts as long as the word says, in seconds.
    fn slow(word: usize, _: &mut Shader<'_, '_>) {
        // SAFETY: the test's own, which lives longer than the provider.
        let (system, seconds) =
            unsafe { &*core::ptr::with_exposed_provenance::<(&Simulated, AtomicU64)>(word) };
        system.advance(Nanoseconds(seconds.load(Ordering::Relaxed) * 1_000_000_000));
    }
    let simulated: &'static Simulated = Box::leak(Box::new(Simulated::new()));
    let heap =
        Heap::on(System::Simulated(simulated), Config { reserve: Bytes::mib(64), ..Config::default() });
    let heap = heap.unwrap();
    let config = CollectConfig { workers: 0, least: Bytes::kib(256), ..CollectConfig::default() };
    heap.configure_collector(config).unwrap();
    let world: &'static (&Simulated, AtomicU64) = Box::leak(Box::new((simulated, AtomicU64::new(0))));
    let mutator = heap.enter_raw().unwrap();
    // SAFETY: the provider shades nothing, and what its word leads to stays.
    let provider =
        unsafe { mutator.add_root_provider(slow, core::ptr::from_ref(world).expose_provenance()) }.unwrap();
    let churn = || {
        for _ in 0..30_000 {
            // SAFETY: nobody uses the object.
            unsafe { mutator.allocate(64, crate::object::ShapeId::PLAIN) }.unwrap();
            mutator.safepoint();
        }
    };
    let figures = || (heap.collector_statistics().cycles, heap.collector_statistics().excess);
    churn();
    let (many, excess) = figures();
    assert!(many > 1 && excess == Nanoseconds(0), "{many} cycles, {excess:?}");
    // One pause takes more than the collector may ever have ahead: two processors stood still for three seconds.
    world.1.store(3, Ordering::Relaxed);
    mutator.collect().unwrap();
    world.1.store(0, Ordering::Relaxed);
    let (before, excess) = figures();
    assert_eq!(excess, Nanoseconds(4_000_000_000));
    churn();
    assert_eq!(figures(), (before, excess), "a cycle began although the half was used up");
    simulated.advance(Nanoseconds(500_000_000));
    churn();
    assert!(figures().0 > before, "the program had its share, and no cycle began");
    assert!(mutator.remove_root_provider(provider));
    drop(mutator);
    in_order(&heap);
}

/// What was allocated since the last collection is collected after two minutes, once.
#[test]
fn a_heap_where_nothing_happens_is_collected_after_two_minutes() {
    const SECOND: u64 = 1_000_000_000;
    let simulated: &'static Simulated = Box::leak(Box::new(Simulated::new()));
    let config = Config { reserve: Bytes::mib(64), collect: by_hand_in_time(), ..Config::default() };
    let heap = Heap::on(System::Simulated(simulated), config).unwrap();
    let mut mutator = heap.enter().unwrap();
    let kept = mutator.run(|cx| {
        (0..1000).for_each(|number| waste(cx, number));
        cx.root(node(cx, 7)).unwrap()
    });
    let collection = heap.collection().unwrap();
    let cycles = || heap.collector_statistics().cycles;
    // What the collector's own thread does when it has slept for long.
    let wake_after = |mutator: &mut Mutator<'_>, seconds: u64| {
        simulated.advance(Nanoseconds(seconds * SECOND));
        mutator.outside(|| collection.collect_if_idle(&heap));
        cycles()
    };
    assert_eq!(wake_after(&mut mutator, 119), 0);
    assert_eq!(wake_after(&mut mutator, 1), 1, "two minutes have passed");
    assert_eq!(live(&heap), size_of::<Node>().next_multiple_of(16), "only what is kept");
    assert_eq!(wake_after(&mut mutator, 1000), 1, "nothing was allocated since");
    mutator.run(|cx| (0..1000).for_each(|number| waste(cx, number)));
    assert_eq!(wake_after(&mut mutator, 0), 2);
    drop((kept, mutator));
    in_order(&heap);
}

/// Who allocates sweeps, also where it finds room without that, so that all is swept before it is time for the next cycle.
#[test]
fn those_who_allocate_sweep_in_proportion() {
    const LIVE: usize = 20_000;
    let heap = heap(CollectConfig { percent: Some(100), least: Bytes::mib(1), ..by_hand() });
    let mut mutator = heap.enter().unwrap();
    let table =
        mutator.run(|cx| cx.root(cx.allocate_array(LIVE, |_| Edge::<Node>::null()).unwrap()).unwrap());
    (0..LIVE).for_each(|place| replace(&mut mutator, &table, place).unwrap());
    mutator.collect().unwrap();
    let collection = heap.collection().unwrap();
    // A cycle whose driver is put aside before it sweeps.
    mutator.outside(|| collection.run_cycle(&heap, &mut collection.cycle.lock(), Reason::Forced));
    let unswept = || collection.objects.unswept().0;
    let before = unswept();
    assert!(before > 0);
    let mut seen = before;
    while unswept() > 0 {
        // Large objects have spans of their own, for which nothing has to be swept.
        mutator.run(|cx| {
            cx.allocate_array(5_000, |at| at as u64).unwrap();
        });
        assert!(
            !collection.pacing.is_due(&collection.objects),
            "{} of {before} pages are not swept",
            unswept()
        );
        assert!(unswept() <= seen);
        seen = unswept();
    }
    drop((table, mutator));
    in_order(&heap);
}

/// No cycle but those that the test asks for, and those that time does.
fn by_hand_in_time() -> CollectConfig {
    CollectConfig { percent: Some(100), least: Bytes::mib(32), ..by_hand() }
}

/// What a heap's threads do while another heap's world stands still, with all its locks held.
fn stand_still(word: usize, _: &mut Shader<'_, '_>) {
    type Ends = (Sender<()>, Lock<Receiver<()>>);
    // SAFETY: the test's own, which lives longer than the provider.
    let (begun, over) = unsafe { &*core::ptr::with_exposed_provenance::<Ends>(word) };
    begun.send(()).unwrap();
    over.lock().recv().unwrap();
}

fn work(heap: &Heap, seed: u64) {
    let mut mutator = heap.enter().unwrap();
    let table = mutator.run(|cx| cx.root(cx.allocate_array(64, |_| Edge::<Node>::null()).unwrap()).unwrap());
    let mut random = Random::new(seed);
    for round in 0..20 {
        mutator.run(|cx| (0..100).for_each(|_| change(cx, table.get(cx).items(), &mut random)));
        if round % 10 == 0 {
            mutator.collect().unwrap();
        }
    }
}

fn balances(snapshot: &Snapshot) -> Vec<i64> {
    let kept = |account: &Account| !matches!(account, Account::System | Account::Reserved);
    snapshot.accounts().filter(kept).map(|account| snapshot.balance(account)).collect()
}

/// While one heap stands still in the midst of a cycle, and a thread of a third one is in a long run, another heap's
/// threads come, work, collect and go; and nobody's books know of it.
#[test]
fn heaps_have_nothing_to_do_with_each_other() {
    let [still, long, busy] = [0, 0, 2].map(|workers| heap(CollectConfig { workers, ..by_hand() }));
    let (begun, has_begun) = channel::<()>();
    let (end, over) = channel();
    let ends = Box::new((begun, Lock::new(Rank::Leaf, over)));
    let word = core::ptr::from_ref(&*ends).expose_provenance();
    let add = |mutator: &RawMutator<'_>| {
        // SAFETY: the ends outlive the provider.
        unsafe { mutator.add_root_provider(stand_still, word) }.unwrap()
    };
    let raw = still.enter_raw().unwrap();
    let provider = add(&raw);
    let mut running = long.enter().unwrap();
    raw.outside(|| {
        threads::scope(|scope| {
            scope.spawn(|| {
                let raw = still.enter_raw().unwrap();
                raw.collect().unwrap();
            });
            has_begun.recv().unwrap();
            running.run(|cx| {
                waste(cx, 1);
                let before = balances(&long.snapshot());
                threads::scope(|scope| {
                    (0..2).for_each(|seed| {
                        drop({
                            let busy = &busy;
                            scope.spawn(move || work(busy, seed + 1))
                        })
                    });
                });
                assert!(busy.collector_statistics().cycles >= 2);
                assert_eq!(balances(&long.snapshot()), before);
                in_order(&busy);
            });
            // The second time is the second marking's.
            end.send(()).unwrap();
            has_begun.recv().unwrap();
            end.send(()).unwrap();
        });
    });
    assert_eq!([&still, &long].map(|heap| heap.collector_statistics().cycles), [1, 0]);
    assert_eq!(still.snapshot().balance(Account::Span(purpose::OBJECTS)), 0);
    assert!(raw.remove_root_provider(provider));
    drop((raw, running));
    [&still, &long, &busy].into_iter().for_each(in_order);
}
