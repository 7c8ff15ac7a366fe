//! Eight threads with collected objects by both faces, blocks under declared purposes, and parked fibers, while cycles
//! run, are verified, and dead objects are overwritten. The books are read all the while.
#![cfg(not(loom))]

use spanheap::Trace;
use spanheap::base::purpose::{OBJECTS, POINTER_MAPS, WORK_BUFFERS};
use spanheap::collect::raw::{CensusRow, RawMutator, Recipe};
use spanheap::collect::{CollectConfig, Edge};
use spanheap::object::{Shape, ShapeId};
use spanheap::stats::Account;
use spanheap::{Activity, Bytes, Config, Guard, Heap, Purpose, Stack};
use std::alloc::Layout;
use std::cell::Cell;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread;

const RAW: usize = 6;
const SAFE: usize = 2;
const OPERATIONS: usize = 900;
/// Places that all threads of the raw face share.
const PLACES: usize = 300;
/// Fibers of a thread.
const FIBERS: usize = 8;

/// An object of the raw face: its own address as a check, and two references where all shapes have them.
#[repr(C)]
struct Thing {
    check: usize,
    next: AtomicPtr<Thing>,
    other: AtomicPtr<Thing>,
}

impl Thing {
    fn check(&self) -> &Thing {
        assert_eq!(self.check, !std::ptr::from_ref(self).addr(), "an object died while it was in use");
        self
    }
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

struct World<'h> {
    heap: &'h Heap,
    table: Box<[AtomicPtr<Thing>]>,
    /// Of a program, so that it is unrolled in each cycle that meets one.
    program: ShapeId,
    /// How often the books were read while others worked.
    reads: AtomicUsize,
}

impl World<'_> {
    /// Whether a thread that has done so many operations goes on: all do their part, and some more if that was over
    /// before there were many cycles to disturb it, and many to look at the books.
    fn goes_on(&self, operations: usize) -> bool {
        operations < OPERATIONS
            || self.heap.collector_statistics().cycles <= 5
            || self.reads.load(Ordering::Relaxed) <= 10
    }
}

/// What one thread of the raw face has.
struct Runtime<'a, 'h> {
    world: &'a World<'h>,
    mutator: &'a RawMutator<'h>,
    recipes: Vec<Recipe>,
    fibers: Vec<Stack<&'h Heap>>,
    dice: Dice,
}

fn shapes(mutator: &RawMutator<'_>, program: ShapeId) -> Vec<Recipe> {
    let three = Shape::Mask { words: 3, mask: 0b110 };
    let small = mutator.register_shape(&three).unwrap();
    let medium = mutator.register_shape(&Shape::Bitmap { words: 200, bits: &[6, 0, 0, 1] }).unwrap();
    let kinds = [(24, small), (100, small), (1600, medium), (40, ShapeId::WORDS), (2000, ShapeId::WORDS)];
    let large = [(60_000, medium), (48_000, program)];
    kinds.into_iter().chain(large).map(|(size, shape)| mutator.recipe(size, shape)).collect()
}

impl<'h> Runtime<'_, 'h> {
    fn allocate(&mut self, next: *mut Thing, other: *mut Thing) -> *mut Thing {
        let which = match self.dice.roll(300) {
            0 => 6,
            1 | 2 => 5,
            roll => roll % 5,
        };
        // SAFETY: references are on the stack, which is scanned; the object is filled at once.
        unsafe {
            let thing = self.mutator.allocate_as(self.recipes[which]).unwrap().cast::<Thing>();
            assert!(thing.cast::<[usize; 3]>().read() == [0; 3]);
            thing.write(Thing { check: !thing.addr().get(), next: next.into(), other: other.into() });
            thing.as_ptr()
        }
    }

    fn load(&self, place: &AtomicPtr<Thing>) -> Option<&Thing> {
        // SAFETY: what stands in a place is alive.
        Some(unsafe { place.load(Ordering::Acquire).as_ref()? }.check())
    }

    fn store(&self, place: &AtomicPtr<Thing>, thing: *mut Thing) {
        // SAFETY: the place is one of an object that is alive, or of the table.
        unsafe { self.mutator.write(NonNull::from(place).cast(), thing) };
    }

    /// Follows references for a while.
    fn walk(&mut self, from: &AtomicPtr<Thing>) -> *mut Thing {
        let mut at = from.load(Ordering::Acquire);
        for _ in 0..self.dice.roll(20) {
            // SAFETY: on this thread's stack, so alive.
            let Some(thing) = (unsafe { at.as_ref() }) else { break };
            let next = if self.dice.roll(2) == 0 { &thing.check().next } else { &thing.other };
            at = next.load(Ordering::Acquire);
        }
        at
    }

    fn step(&mut self) {
        let world = self.world;
        let place = &world.table[self.dice.roll(PLACES)];
        let other = &world.table[self.dice.roll(PLACES)];
        match self.dice.roll(40) {
            0..24 => {
                let next = if self.dice.roll(6) == 0 { std::ptr::null_mut() } else { self.walk(other) };
                let thing = self.allocate(next, std::ptr::null_mut());
                self.store(place, thing);
            }
            24..30 => {
                let to = self.walk(other);
                if let Some(thing) = self.load(place) {
                    self.store(&thing.other, to);
                }
            }
            30..33 => self.store(place, std::ptr::null_mut()),
            33..39 => self.use_fiber(place),
            _ => self.rarely(),
        }
    }

    /// Resumes a fiber, looks at what it had, and has it take something else.
    fn use_fiber(&mut self, place: &AtomicPtr<Thing>) {
        let which = self.dice.roll(FIBERS);
        let held = self.fibers[which].base().cast::<*mut Thing>();
        // SAFETY: the word is the stack's, and holds what was put there.
        unsafe {
            let held = held.sub(5);
            if let Activity::Parked(_) = self.fibers[which].activity() {
                if let Some(thing) = held.read().as_ref() {
                    self.store(place, std::ptr::from_ref(thing.check()).cast_mut());
                }
                if self.dice.roll(3) == 0 {
                    self.fibers[which].set_activity(Activity::Finished);
                    self.fibers[which] = fiber(self.world.heap);
                    return;
                }
            }
            let next = self.walk_from(place);
            let thing = self.allocate(next, std::ptr::null_mut());
            held.write(thing);
            let from = spanheap::base::Address::of(held.as_ptr());
            self.fibers[which].set_activity(Activity::Parked(from));
        }
    }

    fn walk_from(&mut self, place: &AtomicPtr<Thing>) -> *mut Thing {
        if self.dice.roll(3) == 0 { std::ptr::null_mut() } else { self.walk(place) }
    }

    fn rarely(&mut self) {
        match self.dice.roll(16) {
            0 => self.mutator.collect().unwrap(),
            1 => self.mutator.outside(thread::yield_now),
            2 => {
                let mut rows = [CensusRow::EMPTY; 16];
                let census = self.mutator.census(&mut rows);
                assert!(census.rows > 0 && census.objects > 0);
            }
            3..10 => {
                // A range that comes and goes, perhaps while the collector marks.
                let kept = Cell::new(!self.allocate(std::ptr::null_mut(), std::ptr::null_mut()).addr());
                let word = Box::new(AtomicUsize::new(!kept.get()));
                // SAFETY: the word outlives the range.
                let range = unsafe {
                    self.mutator.add_root_range(NonNull::from(&*word).cast(), Bytes(8), None).unwrap()
                };
                self.mutator.safepoint();
                let thing: *const Thing = std::ptr::with_exposed_provenance(word.load(Ordering::Relaxed));
                // SAFETY: the range keeps it.
                unsafe { (*thing).check() };
                assert!(self.mutator.remove_root_range(range).is_some());
            }
            _ => self.mutator.safepoint(),
        }
    }
}

fn fiber(heap: &Heap) -> Stack<&Heap> {
    heap.stacks().allocate(Bytes::kib(8), Guard::Yes).unwrap()
}

fn raw(world: &World<'_>, seed: usize, purpose: &Purpose<'_>) {
    let mutator = world.heap.enter_raw().unwrap();
    let dice = Dice(0x9E37_79B9 * (seed as u64 + 1));
    let recipes = shapes(&mutator, world.program);
    let mut blocks = Vec::new();
    mutator.with_stack(|mutator| {
        let fibers = (0..FIBERS).map(|_| fiber(world.heap)).collect();
        let mut runtime = Runtime { world, mutator, recipes, fibers, dice };
        for _ in (0..).take_while(|&operations| world.goes_on(operations)) {
            black_box(&mut runtime).step();
            churn(purpose, &mut blocks, &mut runtime.dice);
        }
        // What a stack holds is said by threads that run.
        runtime.fibers.clear();
    });
    drop(mutator);
    give_back(world.heap, blocks);
}

type Blocks = Vec<(NonNull<u8>, Layout)>;

/// Blocks of a declared purpose come and go beside the objects.
fn churn(purpose: &Purpose<'_>, blocks: &mut Blocks, dice: &mut Dice) {
    if blocks.len() < 50 {
        let layout = Layout::from_size_align(1 + dice.roll(3000), 8).unwrap();
        blocks.push((purpose.allocate(layout).unwrap(), layout));
    } else {
        let (block, layout) = blocks.swap_remove(dice.roll(50));
        // SAFETY: it was allocated so, and is not used any more.
        unsafe { purpose.heap().deallocate(block, layout) };
    }
}

fn give_back(heap: &Heap, blocks: Blocks) {
    // SAFETY: as above.
    blocks.into_iter().for_each(|(block, layout)| unsafe { heap.deallocate(block, layout) });
}

#[derive(Default, Trace)]
struct Node {
    number: u64,
    left: Edge<Node>,
    right: Edge<Node>,
}

/// Trees by the safe face, some of which are kept.
fn safe(world: &World<'_>, seed: usize, purpose: &Purpose<'_>) {
    let mut mutator = world.heap.enter().unwrap();
    let mut dice = Dice(0x51_7CC1 * (seed as u64 + 1));
    let (mut roots, mut blocks) = (Vec::new(), Vec::new());
    for round in (0..).take_while(|&rounds| world.goes_on(rounds * 60)) {
        let root = mutator.run(|cx| {
            let top = cx.allocate(Node { number: round as u64, ..Node::default() }).unwrap();
            let mut at = top;
            for depth in 0..60 {
                let node = cx.allocate(Node { number: depth, ..Node::default() }).unwrap();
                let edge = if dice.roll(2) == 0 { &at.left } else { &at.right };
                edge.set(cx, Some(node));
                at = node;
            }
            cx.root(top).unwrap()
        });
        roots.push((round as u64, root));
        if roots.len() > 20 {
            roots.swap_remove(dice.roll(20));
        }
        mutator.run(|cx| {
            let (number, root) = &roots[dice.roll(roots.len())];
            let mut at = root.get(cx);
            assert_eq!(at.number, *number);
            for depth in 0..60 {
                at = at.left.get(cx).or(at.right.get(cx)).expect("a list of sixty");
                assert_eq!(at.number, depth);
            }
        });
        churn(purpose, &mut blocks, &mut dice);
    }
    drop(roots);
    drop(mutator);
    give_back(world.heap, blocks);
}

/// Takes snapshots until the work is done, and proves each of them.
fn read(world: &World<'_>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        world.heap.snapshot().check().unwrap();
        if world.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
            world.heap.check().unwrap();
        }
        thread::yield_now();
    }
}

fn program(mutator: &RawMutator<'_>) -> ShapeId {
    use spanheap::object::encode::{self, Layout};
    let element = Layout::Sequence(&[Layout::Scalars(1), Layout::Pointers(2)]);
    let mut code = [0; 64];
    let length = encode::encode(&Layout::Repeat(&element, 2000), &mut code).unwrap();
    mutator.register_shape(&Shape::Program { words: 6000, code: &code[..length] }).unwrap()
}

#[test]
fn threads_fibers_blocks_and_objects_while_cycles_are_verified() {
    let heap = Heap::new(Config::default()).unwrap();
    let config = CollectConfig {
        least: Bytes::kib(256),
        workers: 2,
        verify: true,
        poison: true,
        ..CollectConfig::default()
    };
    heap.configure_collector(config).unwrap();
    let purposes: Vec<_> = (0..4).map(|at| heap.declare(&format!("part-{at}")).unwrap()).collect();
    let first = heap.enter_raw().unwrap();
    let table = (0..PLACES).map(|_| AtomicPtr::default()).collect();
    let world = World { heap: &heap, table, program: program(&first), reads: AtomicUsize::new(0) };
    // SAFETY: the table outlives the range, and is written with the barrier.
    let range = unsafe {
        first.add_root_range(NonNull::from(&world.table[0]).cast(), Bytes(PLACES * 8), None).unwrap()
    };
    let done = AtomicBool::new(false);
    first.outside(|| {
        thread::scope(|scope| {
            let (world, purposes, done) = (&world, &purposes, &done);
            let threads: Vec<_> = (0..RAW + SAFE)
                .map(|at| {
                    let work = if at < RAW { raw } else { safe };
                    scope.spawn(move || work(world, at, &purposes[at % purposes.len()]))
                })
                .collect();
            let reader = scope.spawn(|| read(world, done));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    });
    assert!(first.remove_root_range(range).is_some());
    first.collect().unwrap();
    assert_eq!(heap.collector_statistics().live, Bytes::ZERO);
    drop(first);
    heap.check().unwrap();
    let snapshot = heap.snapshot();
    snapshot.check().unwrap();
    for purpose in [OBJECTS, WORK_BUFFERS, POINTER_MAPS] {
        assert_eq!(snapshot.balance(Account::Span(purpose)), 0, "bytes of {purpose:?} between cycles");
    }
}
