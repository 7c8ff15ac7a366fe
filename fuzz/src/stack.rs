//! Stacks of two mutators on a simulated system, against a table of who has which.
//!
//! The input says who allocates, who frees whose stack, when a collector marks, when caches are flushed and memory is
//! given back, and which calls the system refuses. Of every stack the table knows what its holder wrote and how deep, and
//! what the holder says that runs there. So it knows what a stack must hold, its watermark, which stacks a collector sees,
//! and which stack an address belongs to. After every few operations the room proves its invariants, and the books say
//! what the table says.
//!
//! # Safety
//! Everything is on one thread; a stack is touched only while the table has it, and freed once.

use super::input::Input;
use super::stack_model::Model;
use spanheap::base::purpose::{STACKS, StackKind};
use spanheap::base::{Address, Bytes, PurposeId};
use spanheap::os::{Simulated, System};
use spanheap::span::{Ground, Meters, PageHeap, SpanCache};
use spanheap::stack::{
    Activity, Guard, Phase, StackCache, StackError, StackId, StackPool, StackView, StackWork,
};
use spanheap::stats::{Account, BookShard, Books, Figures, StackFigure};
use spanheap::{Exhausted, Scarce};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;

const MUTATORS: usize = 2;
const WORD: usize = size_of::<usize>();
/// The limit that a program may set and lift.
const LIMIT: Bytes = Bytes::mib(2);

/// What a mutator has.
struct Mutator {
    spans: SpanCache,
    stacks: StackCache,
    shard: Box<BookShard>,
}

/// What a holder did with a stack.
struct Use {
    /// How far below the base it wrote words.
    depths: BTreeSet<usize>,
    activity: Activity,
}

/// The room and its twin.
struct Pair<'s> {
    heap: PageHeap,
    pool: StackPool,
    meters: Box<Meters>,
    books: Box<Books>,
    mutators: Vec<Mutator>,
    purposes: [(PurposeId, StackKind); 2],
    marking: bool,
    simulated: &'s Simulated,
    model: Model,
    uses: BTreeMap<StackId, Use>,
}

impl<'s> Pair<'s> {
    fn new(system: System, simulated: &'s Simulated) -> Pair<'s> {
        let books = Box::new(Books::new());
        let mutators: Vec<_> = (0..MUTATORS)
            .map(|_| Mutator {
                spans: SpanCache::default(),
                stacks: StackCache::new(),
                shard: Box::default(),
            })
            .collect();
        let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
        // SAFETY: what a box holds does not move; the meters' memory is zeroed and ours.
        let meters = unsafe {
            books.open();
            mutators.iter().for_each(|mutator| books.link(&raw const *mutator.shard));
            Meters::init(meters);
            Box::from_raw(meters)
        };
        let ledger = books.ledger(&mutators[0].shard);
        let heap = PageHeap::reserve(system, Bytes::mib(256), Bytes::mib(64), ledger).unwrap();
        let pool = StackPool::reserve(system, 1 << 15, ledger).unwrap();
        let own = meters.declare_stacks("fibers").unwrap();
        let purposes = [(STACKS, StackKind::BUILT_IN), own];
        let (model, uses) = (Model::default(), BTreeMap::new());
        Pair { heap, pool, meters, books, mutators, purposes, marking: false, simulated, model, uses }
    }

    fn with<T>(&mut self, mutator: usize, work: impl FnOnce(&mut StackWork<'_>) -> T) -> T {
        let Mutator { spans, stacks, shard } = &mut self.mutators[mutator % MUTATORS];
        let ground = Ground { heap: &self.heap, meters: &self.meters, ledger: self.books.ledger(shard) };
        let (pool, cache, marking) = (&self.pool, stacks, self.marking);
        work(&mut StackWork { ground, spans, pool, cache, marking, made: false })
    }

    fn view(&self, stack: StackId) -> StackView {
        self.pool.view(&self.heap, stack)
    }

    /// The word so many bytes below a stack's base.
    fn word(&self, stack: StackId, depth: usize) -> *mut usize {
        self.heap.region().pointer(Address(self.view(stack).place.base().0 - depth)).cast()
    }

    fn watermark(&self, stack: StackId) -> usize {
        // SAFETY: the table has the stack.
        unsafe { self.pool.watermark(&self.heap, stack) }.0
    }

    /// One of the stacks in use.
    fn pick(&self, input: &mut Input<'_>) -> Option<StackId> {
        let nth = input.below(65_536) % self.uses.len().max(1);
        self.uses.keys().nth(nth).copied()
    }

    fn allocate(&mut self, input: &mut Input<'_>) {
        let mutator = input.byte();
        let (purpose, kind) = self.purposes[input.byte() % 2];
        let size = match input.byte() {
            order @ 0..180 => 1 << (11 + order % 5),
            some @ 180..235 => (some - 179) * 600 + input.byte(),
            most => (most - 234) * 16_000,
        };
        let guard = if input.byte() < 128 { Guard::Yes } else { Guard::No };
        let refusals = self.simulated.refusals();
        match self.with(mutator, |work| work.allocate(purpose, kind, Bytes(size), guard)) {
            Ok(stack) => self.begin(stack, kind, size, guard),
            Err(StackError::Exhausted(Exhausted { scarce: Scarce::PurposeLimit, limit, .. })) => {
                assert_eq!(self.meters.get(purpose).hard_limit(), Some(limit));
            }
            Err(error) => assert!(self.simulated.refusals() > refusals, "{error}, and nothing was refused"),
        }
    }

    /// Takes in a stack, and clears what its holders before have left.
    fn begin(&mut self, stack: StackId, kind: StackKind, size: usize, guard: Guard) {
        let view = self.view(stack);
        assert_eq!((view.kind, view.activity), (kind, Activity::Unregistered));
        assert_eq!(view.place.guard > Bytes::ZERO, guard == Guard::Yes);
        self.model.allocated(view, Bytes(size)).unwrap();
        let used = self.watermark(stack);
        // SAFETY: the stack was just handed out, and the bytes lie below its base.
        unsafe { self.word(stack, used).write_bytes(0, used / WORD) };
        assert_eq!(self.watermark(stack), 0);
        self.uses.insert(stack, Use { depths: BTreeSet::new(), activity: Activity::Unregistered });
    }

    fn write(&mut self, stack: StackId, input: &mut Input<'_>) {
        let words = self.view(stack).place.size.0 / WORD;
        // Large stacks are used at their top, at times to the end.
        let reach = if input.byte() < 200 { words.min(1 << 12) } else { words };
        let depth = (1 + input.below(reach)) * WORD;
        // SAFETY: inside a stack of the table's.
        unsafe { self.word(stack, depth).write(depth) };
        self.uses.get_mut(&stack).unwrap().depths.insert(depth);
        self.verify(stack);
    }

    /// A stack holds what its holder wrote, and tells how deep that was.
    fn verify(&self, stack: StackId) {
        let depths = &self.uses[&stack].depths;
        // SAFETY: as above.
        assert!(depths.iter().all(|&depth| unsafe { self.word(stack, depth).read() } == depth));
        assert_eq!(self.watermark(stack), depths.last().copied().unwrap_or(0), "{:?}", self.view(stack));
    }

    fn free(&mut self, mutator: usize, stack: StackId) {
        self.verify(stack);
        self.uses.remove(&stack);
        // SAFETY: the table had it, and has it no more.
        self.with(mutator, |work| unsafe { work.free(stack) });
        self.model.freed(stack, self.marking);
    }

    fn end_cycle(&mut self, mutator: usize) {
        self.marking = false;
        self.model.cycle_ended();
        self.with(mutator, |work| work.free_parked());
    }

    /// Gives back what lies deep in a stack.
    fn renew(&mut self, stack: StackId, input: &mut Input<'_>) {
        let (place, refusals) = (self.view(stack).place, self.simulated.refusals());
        let keep = input.below(place.size.0 + 1);
        // SAFETY: the table has the stack, and needs nothing beyond what it keeps.
        let Ok(bytes) = (unsafe { self.pool.renew(&self.heap, stack, Bytes(keep)) }) else {
            return assert!(self.simulated.refusals() > refusals, "nothing was refused");
        };
        assert!(bytes.0 <= place.size.0 - keep && place.size.0 - keep - bytes.0 < 2 * 4096);
        let low = place.base().0 - (place.limit.0.next_multiple_of(4096) + bytes.0);
        if bytes > Bytes::ZERO {
            self.uses.get_mut(&stack).unwrap().depths.retain(|&depth| depth <= low);
        }
        self.verify(stack);
    }

    fn set_activity(&mut self, stack: StackId, input: &mut Input<'_>) {
        let place = self.view(stack).place;
        let activity = match input.byte() % 4 {
            0 => Activity::Unregistered,
            1 => Activity::Running,
            2 => Activity::Finished,
            _ => Activity::Parked(Address(place.base().0 - input.below(place.size.0 / WORD) * WORD)),
        };
        self.pool.set_activity(stack, activity);
        self.uses.get_mut(&stack).unwrap().activity = activity;
    }

    /// Any bit pattern leads to the stack that it lies in, or to none.
    fn find(&self, stack: Option<StackId>, input: &mut Input<'_>) {
        let offset = input.below(65_536);
        let (address, expected) = match stack {
            Some(stack) => {
                let place = self.view(stack).place;
                let offset = offset % (place.size + place.guard).0;
                (Address(place.limit.0 - place.guard.0 + offset), Some(stack))
            }
            None => {
                (Address(self.heap.region().address(spanheap::base::PageId(offset)).0 + offset % 8192), None)
            }
        };
        let found = self.pool.find(&self.heap, address).map(|(view, _)| view);
        if let Some(stack) = expected {
            assert_eq!(found.map(|view| view.id), Some(stack));
        }
        if let Some(view) = found {
            let low = view.place.limit.0 - view.place.guard.0;
            assert!((low..view.place.base().0).contains(&address.0), "{address} is not in {view:?}");
            assert_eq!(view.phase == Phase::InUse, self.uses.contains_key(&view.id));
        }
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 32 {
            0..=10 => (0..1 + input.byte() % 8).for_each(|_| self.allocate(input)),
            11 => self.marking = true,
            12 => self.end_cycle(input.byte()),
            13 => self.with(input.byte(), |work| work.flush()),
            14 => {
                self.with(input.byte(), |work| work.release());
            }
            15 => self.simulated.refuse(input.byte() % 40, 1 + input.byte() % 4),
            16 => {
                let meter = self.meters.get(self.purposes[1].0);
                meter.set_hard_limit(meter.hard_limit().is_none().then_some(LIMIT));
            }
            17 => self.find(None, input),
            operation => {
                let Some(stack) = self.pick(input) else { return };
                match operation {
                    18..=21 => self.write(stack, input),
                    22 => self.renew(stack, input),
                    23 | 24 => self.set_activity(stack, input),
                    25 => self.find(Some(stack), input),
                    _ => self.free(input.byte(), stack),
                }
            }
        }
    }

    /// Invariants, books, and what a collector sees.
    fn audit(&self) {
        let mut figures = Box::new(Figures::zero());
        self.books.read(&mut figures);
        self.pool.acquire_for_fork();
        self.heap.acquire_for_fork();
        // SAFETY: the locks were just taken, and the caches are all there are.
        unsafe {
            let caches = self.mutators.iter().map(|mutator| &mutator.stacks);
            self.pool.check(&self.heap, &self.meters, &figures, caches).unwrap();
            let spans = self.mutators.iter().map(|mutator| &mutator.spans);
            self.heap.check(&self.meters, &figures, spans).unwrap();
            self.heap.release_after_fork();
            self.pool.release_after_fork();
        }
        for (_, kind) in self.purposes {
            for (phase, figure) in [(Phase::InUse, StackFigure::InUse), (Phase::Parked, StackFigure::Parked)]
            {
                assert_eq!(
                    figures.stacks(kind, figure),
                    self.model.bytes(kind, phase),
                    "{kind:?}, {phase:?}"
                );
            }
            let events = [StackFigure::Allocated, StackFigure::Freed].map(|what| figures.stacks(kind, what));
            assert_eq!(events, <[i64; 2]>::from(self.model.events(kind)));
        }
        let seen: BTreeMap<_, _> =
            self.pool.registered(&self.heap).map(|view| (view.id, view.activity)).collect();
        let said = self.uses.iter().map(|(&stack, of)| (stack, of.activity));
        assert_eq!(seen, said.filter(|&(_, activity)| activity != Activity::Unregistered).collect());
    }

    /// Frees everything; then nothing may be left of any purpose.
    fn finish(&mut self) {
        self.simulated.refuse_nothing();
        assert_eq!(self.model.live().count(), self.uses.len());
        while let Some((&stack, _)) = self.uses.first_key_value() {
            self.free(stack.number() as usize, stack);
        }
        self.end_cycle(0);
        for mutator in 0..MUTATORS {
            self.with(mutator, |work| work.release());
        }
        self.audit();
        assert_eq!((self.pool.guards(), self.heap.spans().count()), (0, 0), "guards, spans");
        let mut figures = Box::new(Figures::zero());
        self.books.read(&mut figures);
        for (purpose, _) in self.purposes {
            assert_eq!(self.meters.get(purpose).inuse(), Bytes::ZERO);
            assert_eq!(figures.balance(Account::Span(purpose)), 0);
        }
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody uses a stack any more.
        unsafe {
            self.pool.destroy();
            self.heap.destroy();
        }
    }
}

/// Runs a program.
///
/// # Panics
/// When a stack is not what the table says, or an invariant does not hold.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let at = NonNull::from(Box::leak(Box::new(Simulated::new())));
    // SAFETY: leaked until the end of this function, after the pair has gone.
    let simulated = unsafe { &*at.as_ptr() };
    simulated.set_guards_by_mappings(input.byte() % 2 == 1);
    let mut pair = Pair::new(System::Simulated(simulated), simulated);
    let mut steps = 0;
    while let Some(operation) = input.operation() {
        pair.step(operation, &mut input);
        steps += 1;
        if steps % 4 == 0 {
            pair.audit();
        }
    }
    pair.finish();
    drop(pair);
    assert_eq!(simulated.ready_bytes(), Bytes::ZERO);
    // SAFETY: leaked above, and nobody uses it any more.
    drop(unsafe { Box::from_raw(at.as_ptr()) });
}
