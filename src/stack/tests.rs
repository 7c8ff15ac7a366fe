//! Tests of the room by itself: two mutators, a page heap and books, beside the slow twin.
//!
//! # Safety
//! A stack is written to between being handed out and being freed, and freed once.

use super::cache::{StackCache, StackWork, kept};
use super::class::{Guard, IN_SLAB, StackClass};
use super::model::Model;
use super::pool::MOST_IDLE;
use super::{Activity, Phase, StackError, StackId, StackPool, StackView};
use crate::base::purpose::{STACKS, StackKind};
use crate::base::sync::Ordering::Relaxed;
use crate::base::{Address, Broken, Bytes, PurposeId, Scarce};
use crate::os::testing::{balance, books, read, shard, simulated};
use crate::os::{Guarding, Simulated, System};
use crate::span::{Ground, Meters, PageHeap, SpanCache};
use crate::stats::{Account, BookShard, Books, StackFigure};
use proptest::prelude::*;
use std::collections::BTreeSet;

const KIB: fn(usize) -> Bytes = Bytes::kib;
const OWN: StackKind = StackKind(1);

struct Mutator {
    spans: SpanCache,
    stacks: StackCache,
    shard: &'static BookShard,
}

struct World {
    heap: PageHeap,
    pool: StackPool,
    meters: Box<Meters>,
    books: Box<Books>,
    own: PurposeId,
    mutators: Vec<Mutator>,
    marking: bool,
}

impl World {
    fn on(system: System) -> World {
        let (books, meters) = (books(), Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>());
        // SAFETY: zeroed memory of our own, filled before use.
        let meters = unsafe {
            Meters::init(meters);
            Box::from_raw(meters)
        };
        let (own, kind) = meters.declare_stacks("fibers").unwrap();
        assert_eq!(kind, OWN);
        let mutators: Vec<_> = (0..2)
            .map(|_| Mutator { spans: SpanCache::default(), stacks: StackCache::new(), shard: shard(&books) })
            .collect();
        let ledger = books.ledger(mutators[0].shard);
        let heap = PageHeap::reserve(system, Bytes::mib(256), Bytes::mib(64), ledger).unwrap();
        let pool = StackPool::reserve(system, 1 << 15, ledger).unwrap();
        World { heap, pool, meters, books, own, mutators, marking: false }
    }

    fn with<T>(&mut self, mutator: usize, work: impl FnOnce(&mut StackWork<'_>) -> T) -> T {
        let World { heap, pool, meters, books, mutators, marking, .. } = self;
        let Mutator { spans, stacks, shard } = &mut mutators[mutator];
        let ground = Ground { heap, meters, ledger: books.ledger(shard) };
        work(&mut StackWork { ground, spans, pool, cache: stacks, marking: *marking, made: false })
    }

    fn allocate(&mut self, size: Bytes, guard: Guard) -> StackId {
        self.try_allocate(0, StackKind::BUILT_IN, size, guard).unwrap()
    }

    fn try_allocate(
        &mut self,
        mutator: usize,
        kind: StackKind,
        size: Bytes,
        guard: Guard,
    ) -> Result<StackId, StackError> {
        let purpose = if kind == OWN { self.own } else { STACKS };
        self.with(mutator, |work| work.allocate(purpose, kind, size, guard))
    }

    fn free(&mut self, mutator: usize, stack: StackId) {
        // SAFETY: the test's own stack, which nothing runs on.
        self.with(mutator, |work| unsafe { work.free(stack) });
    }

    fn view(&self, stack: StackId) -> StackView {
        self.pool.view(&self.heap, stack)
    }

    /// The stack's lowest and highest words.
    fn ends(&self, stack: StackId) -> [*mut usize; 2] {
        let place = self.view(stack).place;
        let at = |address| self.heap.region().pointer(Address(address)).cast();
        [at(place.limit.0), at(place.base().0 - 8)]
    }

    fn figure(&self, kind: StackKind, what: StackFigure) -> i64 {
        read(&self.books).stacks(kind, what)
    }

    fn check(&self) -> Result<(), Broken> {
        let figures = read(&self.books);
        self.pool.acquire_for_fork();
        self.heap.acquire_for_fork();
        // SAFETY: the locks were just taken, and the caches are this test's.
        unsafe {
            let caches = self.mutators.iter().map(|mutator| &mutator.stacks);
            let checked = self.pool.check(&self.heap, &self.meters, &figures, caches);
            let spans = self.mutators.iter().map(|mutator| &mutator.spans);
            self.heap.check(&self.meters, &figures, spans).unwrap();
            self.heap.release_after_fork();
            self.pool.release_after_fork();
            checked
        }
    }

    /// Gives everything back that nobody has.
    fn release(&mut self) {
        for mutator in 0..2 {
            self.with(mutator, |work| work.release());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: the test's own, and done with.
        unsafe {
            self.pool.destroy();
            self.heap.destroy();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { mutator: usize, own: bool, size: usize, guarded: bool },
    Free { mutator: usize, which: usize },
    Mark,
    EndCycle,
    Flush(usize),
    Release(usize),
    Refuse(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![5 => 1usize..33_000, 1 => 33_000usize..300_000, 1 => Just(2048usize), 1 => Just(16_384usize)];
    prop_oneof![
        12 => (0usize..2, any::<bool>(), size, any::<bool>())
            .prop_map(|(mutator, own, size, guarded)| Step::Allocate { mutator, own, size, guarded }),
        9 => (0usize..2, any::<usize>()).prop_map(|(mutator, which)| Step::Free { mutator, which }),
        1 => Just(Step::Mark),
        1 => Just(Step::EndCycle),
        1 => (0usize..2).prop_map(Step::Flush),
        1 => (0usize..2).prop_map(Step::Release),
        1 => (0usize..12).prop_map(Step::Refuse),
    ]
}

/// One step on the world and on its twin.
fn run(world: &mut World, twin: &mut Model, simulated: &Simulated, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Allocate { mutator, own, size, guarded } => {
            let kind = if own { OWN } else { StackKind::BUILT_IN };
            let guard = if guarded { Guard::Yes } else { Guard::No };
            match world.try_allocate(mutator, kind, Bytes(size), guard) {
                Ok(stack) => {
                    let view = world.view(stack);
                    prop_assert_eq!(view.kind, kind);
                    prop_assert_eq!(view.place.guard != Bytes::ZERO, guarded);
                    prop_assert_eq!(twin.allocated(view, Bytes(size)), Ok(()));
                    // SAFETY: the test's own stack.
                    world.ends(stack).into_iter().for_each(|word| unsafe { word.write(stack.0 as usize) });
                }
                Err(_) => prop_assert!(simulated.refusals() > 0),
            }
        }
        Step::Free { mutator, which } => {
            let live: Vec<_> = twin.live().map(|known| known.view.id).collect();
            if let Some(&stack) = live.get(which % live.len().max(1)) {
                // SAFETY: the test's own stack.
                let words = world.ends(stack).map(|word| unsafe { word.read() });
                prop_assert_eq!(words, [stack.0 as usize; 2], "somebody else wrote there");
                world.free(mutator, stack);
                twin.freed(stack, world.marking);
            }
        }
        Step::Mark => world.marking = true,
        Step::EndCycle => {
            world.marking = false;
            twin.cycle_ended();
            world.with(0, |work| work.free_parked());
        }
        Step::Flush(mutator) => world.with(mutator, |work| work.flush()),
        Step::Release(mutator) => {
            world.with(mutator, |work| work.release());
        }
        Step::Refuse(after) => simulated.refuse(after, 1),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is done in whatever order, by two mutators, while marking or not, and whichever calls are refused:
    /// nobody is given what somebody has or what is parked, what was written stays, the invariants hold, and the books
    /// say what the twin says.
    #[test]
    fn stacks_come_and_go_as_the_model_says(
        mappings: bool, steps in proptest::collection::vec(step(), 1..120),
    ) {
        let (simulated, system) = simulated();
        simulated.set_guards_by_mappings(mappings);
        let (mut world, mut twin) = (World::on(system), Model::default());
        for step in steps {
            run(&mut world, &mut twin, simulated, step)?;
            for kind in [StackKind::BUILT_IN, OWN] {
                for (phase, figure) in
                    [(Phase::InUse, StackFigure::InUse), (Phase::Parked, StackFigure::Parked)]
                {
                    prop_assert_eq!(world.figure(kind, figure), twin.bytes(kind, phase));
                }
                let events = [StackFigure::Allocated, StackFigure::Freed].map(|what| world.figure(kind, what));
                prop_assert_eq!(events, <[i64; 2]>::from(twin.events(kind)));
            }
            prop_assert_eq!(world.check(), Ok(()));
        }
        simulated.refuse_nothing();
        let live: Vec<_> = twin.live().map(|known| known.view.id).collect();
        live.into_iter().for_each(|stack| world.free(1, stack));
        world.marking = false;
        world.with(0, |work| work.free_parked());
        world.release();
        prop_assert_eq!(world.check(), Ok(()));
        prop_assert_eq!((world.pool.guards(), world.pool.live().count()), (0, 0));
        for purpose in [STACKS, world.own] {
            prop_assert_eq!(balance(&world.books, Account::Span(purpose)), 0);
        }
    }
}

#[test]
fn cached_stacks_cost_no_call() {
    let (simulated, system) = simulated();
    let mut world = World::on(system);
    let stack = world.allocate(KIB(16), Guard::Yes);
    world.free(0, stack);
    let calls = simulated.calls();
    for _ in 0..1000 {
        let stacks = [(); 4].map(|()| world.allocate(KIB(16), Guard::Yes));
        stacks.into_iter().for_each(|stack| world.free(0, stack));
    }
    assert_eq!(simulated.calls(), calls);
    // The one that was freed last comes first.
    let stack = world.allocate(KIB(16), Guard::Yes);
    world.free(0, stack);
    assert_eq!(world.allocate(KIB(10), Guard::Yes), stack);
    world.check().unwrap();
}

#[test]
fn what_is_freed_while_marking_waits() {
    let (_, system) = simulated();
    let mut world = World::on(system);
    for size in [KIB(16), KIB(256)] {
        let before: BTreeSet<_> = (0..40).map(|_| world.allocate(size, Guard::Yes)).collect();
        world.marking = true;
        before.iter().for_each(|&stack| world.free(0, stack));
        assert!(before.iter().all(|&stack| world.view(stack).phase == Phase::Parked));
        let during: BTreeSet<_> = (0..40).map(|_| world.allocate(size, Guard::Yes)).collect();
        assert!(during.is_disjoint(&before));
        world.check().unwrap();
        let slabs = world.pool.live().count();
        during.iter().for_each(|&stack| world.free(0, stack));
        world.release();
        assert_eq!(world.pool.live().count(), slabs, "a slab went away while marking");
        world.marking = false;
        world.with(0, |work| work.free_parked());
        assert_eq!(world.figure(StackKind::BUILT_IN, StackFigure::Parked), 0);
        world.check().unwrap();
        world.release();
        assert_eq!(world.pool.live().count(), 0);
    }
}

#[test]
fn empty_slabs_are_kept_within_bounds() {
    let mut world = World::on(System::Linux);
    let stacks: Vec<_> = (0..4000).map(|_| world.allocate(KIB(16), Guard::Yes)).collect();
    stacks.into_iter().for_each(|stack| world.free(0, stack));
    let kept = world.pool.live().map(|(_, slab)| slab.class().pages().bytes().0).sum::<usize>();
    assert!(kept >= MOST_IDLE.0 / 2 && kept <= MOST_IDLE.0 + Bytes::mib(1).0, "{kept}");
    world.check().unwrap();
    world.release();
    assert_eq!((world.pool.live().count(), world.pool.guards()), (0, 0));
    world.check().unwrap();
}

#[test]
fn memory_of_free_stacks_goes_back_around_those_in_use() {
    let (_, system) = simulated();
    let mut world = World::on(system);
    let stacks: Vec<_> = (0..IN_SLAB).map(|_| world.allocate(KIB(32), Guard::Yes)).collect();
    // SAFETY: the test's own stacks.
    stacks.iter().for_each(|&stack| world.ends(stack).into_iter().for_each(|word| unsafe { word.write(1) }));
    let (gone, stays): (Vec<_>, Vec<_>) = stacks.iter().partition(|stack| stack.place() % 4 != 0);
    gone.iter().for_each(|&stack| world.free(0, stack));
    let (slabs, renewed) = world.with(0, |work| work.release());
    assert_eq!((slabs, renewed), (Bytes::ZERO, Bytes(gone.len() * KIB(32).0)));
    assert_eq!(world.with(0, |work| work.release()), (Bytes::ZERO, Bytes::ZERO), "given back twice");
    // SAFETY: the memory is mapped.
    let sums = |stacks: &[StackId]| unsafe {
        stacks.iter().flat_map(|&stack| world.ends(stack)).map(|word| word.read()).sum::<usize>()
    };
    assert_eq!((sums(&gone), sums(&stays)), (0, 2 * stays.len()));
    world.check().unwrap();
}

#[test]
fn refused_guards_leave_fewer_stacks_or_an_error() {
    let (simulated, system) = simulated();
    simulated.set_guards_by_mappings(true);
    let mut world = World::on(system);
    // What a first slab wants beside its guards: records, bitmaps, the region.
    world.allocate(KIB(64), Guard::No);
    // A slab's memory, and five guards.
    simulated.refuse(1 + 5, 1);
    let stacks: Vec<_> = (0..5).map(|_| world.allocate(KIB(16), Guard::Yes)).collect();
    assert_eq!((world.pool.guards(), simulated.refusals()), (5, 1));
    assert_eq!(stacks.iter().map(|stack| stack.slab()).collect::<BTreeSet<_>>().len(), 1);
    world.check().unwrap();
    simulated.refuse(1, 1);
    let error = world.try_allocate(0, StackKind::BUILT_IN, KIB(16), Guard::Yes).unwrap_err();
    assert!(matches!(error, StackError::Guard { how: Guarding::Mappings, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "no guard for a stack of stacks: the system refused it (errno 12); 5 are installed, and on this kernel each \
         takes two of the mappings that vm.max_map_count allows a process"
    );
    world.check().unwrap();
    simulated.refuse_nothing();
    world.allocate(KIB(16), Guard::Yes);
    world.check().unwrap();
}

#[test]
fn a_limit_takes_idle_stacks_first() {
    let mut world = World::on(System::Linux);
    world.meters.get(world.own).set_hard_limit(Some(Bytes::mib(1)));
    let allocate = |world: &mut World, size| world.try_allocate(0, OWN, size, Guard::No);
    let stacks: Vec<_> = (0..64).map(|_| allocate(&mut world, KIB(16)).unwrap()).collect();
    let refused = allocate(&mut world, KIB(16)).unwrap_err();
    let StackError::Exhausted(refused) = refused else { panic!("{refused}") };
    assert_eq!(refused.scarce, Scarce::PurposeLimit);
    stacks.into_iter().for_each(|stack| world.free(0, stack));
    // All that was freed is idle, and of another class.
    allocate(&mut world, KIB(1024)).unwrap();
    world.check().unwrap();
    let error = allocate(&mut world, Bytes::gib(2)).unwrap_err();
    assert_eq!(error.to_string(), "no memory for fibers: wanted 2 GiB, more than any heap can hold");
}

#[test]
fn addresses_lead_to_stacks() {
    let mut world = World::on(System::Linux);
    for (size, guard) in [(KIB(2), Guard::No), (KIB(16), Guard::Yes), (KIB(100), Guard::Yes)] {
        let stacks: Vec<_> = (0..20).map(|_| world.allocate(size, guard)).collect();
        for &stack in &stacks {
            let place = world.view(stack).place;
            let found = |address| world.pool.find(&world.heap, Address(address)).map(|(view, _)| view.id);
            assert_eq!(found(place.limit.0), Some(stack));
            assert_eq!(found(place.base().0 - 1), Some(stack));
            assert_ne!(found(place.base().0), Some(stack));
            let below = place.limit.0 - 1;
            assert_eq!(found(below) == Some(stack), guard == Guard::Yes);
            assert_eq!(place.is_in_guard(Address(below)), guard == Guard::Yes);
            assert!(!place.is_in_guard(place.limit) && !place.is_in_guard(Address(below - place.guard.0)));
        }
        stacks.into_iter().for_each(|stack| world.free(0, stack));
    }
    world.release();
    assert_eq!(world.pool.find(&world.heap, world.heap.region().base()), None);
    assert_eq!(world.pool.find(&world.heap, Address(usize::MAX)), None);
}

#[test]
fn the_watermark_is_the_deepest_word_that_was_used() {
    let (_, system) = simulated();
    let mut world = World::on(system);
    for size in [KIB(8), KIB(32), KIB(200)] {
        let stack = world.allocate(size, Guard::Yes);
        let place = world.view(stack).place;
        // SAFETY: the test's own stack, as in what follows.
        let mark = |world: &World| unsafe { world.pool.watermark(&world.heap, stack) };
        assert_eq!(mark(&world), Bytes::ZERO);
        for depth in [8, 1000, 4096 - 8] {
            let at = world.heap.region().pointer(Address(place.base().0 - depth));
            // SAFETY: inside the stack.
            unsafe { at.cast::<usize>().write(1) };
            assert_eq!(mark(&world), Bytes(depth));
        }
        // SAFETY: inside the stack.
        unsafe { world.ends(stack)[0].write(1) };
        assert_eq!(mark(&world), place.size);
        // SAFETY: nobody needs what is there.
        let renewed = unsafe { world.pool.renew(&world.heap, stack, KIB(4)) }.unwrap();
        assert_eq!(renewed, place.size - KIB(4));
        assert_eq!(mark(&world), Bytes(4096 - 8));
    }
    world.check().unwrap();
}

#[test]
fn registered_stacks_are_seen_with_what_runs_on_them() {
    let mut world = World::on(System::Linux);
    let mut stacks: Vec<_> = (0..4).map(|_| world.allocate(KIB(16), Guard::Yes)).collect();
    stacks.sort();
    let inside = Address(world.view(stacks[1]).place.limit.0 + 1000);
    for (&stack, activity) in
        stacks.iter().zip([Activity::Running, Activity::Parked(inside), Activity::Finished])
    {
        world.pool.set_activity(stack, activity);
        assert_eq!(world.view(stack).activity, activity);
    }
    let seen: Vec<_> = world.pool.registered(&world.heap).map(|view| (view.id, view.live_from())).collect();
    assert_eq!(seen, [(stacks[0], None), (stacks[1], Some(inside)), (stacks[2], None)]);
    // Who says nothing, and who is gone, is not there.
    world.free(0, stacks[1]);
    assert_eq!(world.pool.registered(&world.heap).count(), 2);
    assert_eq!(world.view(stacks[1]).activity, Activity::Unregistered);
}

/// The walk finds what is broken, under its number.
#[test]
fn the_walk_finds_what_is_broken() {
    type Break = fn(&World, StackId);
    let breaks: [(u8, Break); 6] = [
        (1, |world, stack| world.pool.slab(stack.slab()).span.store(1 << 20, Relaxed)),
        (2, |world, stack| world.pool.record(stack).set_phase(Phase::Free)),
        (2, |world, stack| world.pool.record(stack).set_phase(Phase::Cached)),
        (3, |world, stack| {
            let slab = world.pool.slab(stack.slab());
            world.pool.kind(slab.kind()).unwrap().partial[slab.class().index()].store(0, Relaxed);
        }),
        (4, |world, stack| world.pool.record(stack).set_phase(Phase::Parked)),
        (5, |world, _| {
            world.pool.guards.fetch_add(1, Relaxed);
        }),
    ];
    for (number, break_it) in breaks {
        let mut world = World::on(System::Linux);
        let stack = world.allocate(KIB(32), Guard::Yes);
        world.check().unwrap();
        break_it(&world, stack);
        let broken = world.check().unwrap_err();
        assert_eq!(broken.invariant, ("stack", number), "{broken}");
    }
}

#[test]
fn caches_keep_a_few() {
    let most =
        StackClass::all().filter(|class| class.is_small()).map(|class| kept(class) * class.size().0).max();
    assert!(most.unwrap() <= KIB(128).0);
    assert!(StackClass::all().all(|class| kept(class) >= 4));
}
