//! Random work for as long as one likes, and then the question whether all is right.
//!
//! Eight *places* work at once; in each, threads follow one another. A thread makes blocks under random purposes,
//! frees, grows and shrinks them, leaves some for others to free, and ends with half of what it has left behind. Now and
//! then the heap gives back what it can. Every block is filled with its own byte, which is looked at when it is
//! freed. All of it goes through the global allocator. In between the threads work with [collected objects](objects) of
//! the same heap.
//!
//! One thread reads the books all the while, also while the collector marks, proves them, and now and then has `check` walk
//! the whole heap between two collections. When time is up, `check` walks it three times more: with the objects and blocks
//! of the end still there, without the objects, and with nothing left. In between, what the kernel says is resident is
//! compared with what the books say; all blocks are written, so the two should agree.
//!
//! `stress [SECONDS]`; ends with a panic when something is wrong.

mod objects;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use objects::Graph;
use spanheap::base::PAGE_SIZE;
use spanheap::base::purpose::{OBJECTS, POINTER_MAPS, WORK_BUFFERS};
use spanheap::base::random::Random;
use spanheap::stats::Account;
use spanheap::{Bytes, Purpose, Snapshot, SpanHeap};

#[global_allocator]
static HEAP: SpanHeap = SpanHeap::new();

const PLACES: u64 = 8;
const PURPOSES: usize = 8;
/// Operations of one thread's life.
const LIFE: usize = 40_000;
/// Blocks that a thread has at the most.
const MOST: usize = 3_000;
/// Blocks that wait for somebody to free them, at the most.
const LEFT: usize = 20_000;
/// One operation in so many is one on objects.
const OBJECTS_EVERY: usize = 4;
/// Every so many readings of the books, the whole heap is walked.
const WALK_EVERY: u64 = 256;

/// A block, all of whose bytes are `tag`.
struct Held {
    bytes: Vec<u8>,
    tag: u8,
}

/// What the places share.
struct World {
    purposes: [Purpose<'static>; PURPOSES],
    left: Mutex<Vec<Held>>,
    end: Instant,
    graph: Graph,
    operations: AtomicU64,
    lives: AtomicU64,
    readings: AtomicU64,
}

impl Held {
    fn new(size: usize, tag: u8) -> Held {
        Held { bytes: vec![tag; size], tag }
    }

    fn resize(&mut self, size: usize) {
        self.verify();
        self.bytes.reserve_exact(size.saturating_sub(self.bytes.len()));
        self.bytes.resize(size, self.tag);
        self.bytes.shrink_to_fit();
    }

    fn verify(&self) {
        let intact = self.bytes.iter().all(|&byte| byte == self.tag);
        assert!(intact, "{} bytes at {:?} were overwritten", self.bytes.len(), self.bytes.as_ptr());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.verify();
    }
}

impl World {
    /// A thread's life.
    fn live(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut held = Vec::new();
        if random.below(4) == 0 {
            self.graph.keep_rows(HEAP.heap(), &mut random);
        }
        let (mut mutator, mut weak) = (HEAP.heap().enter().expect("a place in the heap"), Vec::new());
        for _ in 0..LIFE {
            if random.below(OBJECTS_EVERY) == 0 {
                self.graph.operate(&mut mutator, &mut weak, &mut random, |random| self.make(random));
            } else {
                // Nobody waits for a lock of ours inside, where everybody would have to wait for that.
                mutator.outside(|| self.operate(&mut random, &mut held));
            }
        }
        drop((weak, mutator));
        held.truncate(held.len() / 2);
        self.leave(held);
        self.operations.fetch_add(LIFE as u64, Ordering::Relaxed);
        self.lives.fetch_add(1, Ordering::Relaxed);
    }

    fn operate(&self, random: &mut Random, held: &mut Vec<Held>) {
        let any = |random: &mut Random, held: &Vec<Held>| random.below(held.len().max(1));
        match random.below(100) {
            0..45 if held.len() < MOST => held.push(self.make(random)),
            0..75 if !held.is_empty() => drop(held.swap_remove(any(random, held))),
            75..88 if !held.is_empty() => {
                let at = any(random, held);
                let size = size(random);
                held[at].resize(size);
            }
            88..94 if !held.is_empty() => self.leave(vec![held.swap_remove(any(random, held))]),
            94.. => drop(self.find(random)),
            _ => held.push(self.make(random)),
        }
        if random.below(100_000) == 0 {
            HEAP.heap().release_all();
        }
    }

    /// A block of a purpose, made in a scope inside another's.
    fn make(&self, random: &mut Random) -> Held {
        let [outer, inner] = [0; 2].map(|_| self.purposes[random.below(PURPOSES)]);
        let (size, tag) = (size(random), random.bits() as u8);
        outer.scope(|| match random.below(2) {
            0 => Held::new(size, tag),
            _ => inner.scope(|| Held::new(size, tag)),
        })
    }

    /// Leaves blocks for others, or frees them where too many wait.
    fn leave(&self, mut held: Vec<Held>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() < LEFT {
            left.append(&mut held);
        }
    }

    /// A block that somebody has left.
    fn find(&self, random: &mut Random) -> Option<Held> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let count = left.len();
        (count > 0).then(|| left.swap_remove(random.below(count)))
    }

    /// The threads of a place, one after the other.
    fn place(&'static self, place: u64) {
        for life in 0.. {
            if Instant::now() > self.end {
                return;
            }
            let seed = life * PLACES + place;
            thread::spawn(move || self.live(seed)).join().expect("a thread found something wrong");
        }
    }
}

/// Reads the books until time is up, and proves them.
fn read(world: &World) {
    for reading in 0.. {
        if Instant::now() > world.end {
            return;
        }
        books().check().expect("the books agree with themselves");
        world.readings.fetch_add(1, Ordering::Relaxed);
        if reading % WALK_EVERY == WALK_EVERY - 1 {
            HEAP.heap().check().expect("the heap is as it should be");
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// Mostly small; one in 200 up to 256 KiB, in whole pages, so that every page of a block is written.
fn size(random: &mut Random) -> usize {
    if random.below(200) == 0 {
        let doubling = random.below(6);
        return PAGE_SIZE * (1 + random.below(1 << doubling));
    }
    let shift = 3 + random.below(9);
    (1 << shift) + random.below(1 << shift)
}

fn main() {
    let seconds = std::env::args().nth(1).map_or(5.0, |text| text.parse().expect("seconds"));
    HEAP.heap().configure_collector(objects::config()).expect("nobody has entered");
    let declare = |index| HEAP.heap().declare(&format!("part-{index}")).expect("names are fresh");
    let world: &World = Box::leak(Box::new(World {
        purposes: std::array::from_fn(declare),
        left: Mutex::default(),
        end: Instant::now() + Duration::from_secs_f64(seconds),
        graph: Graph::new(),
        operations: AtomicU64::new(0),
        lives: AtomicU64::new(0),
        readings: AtomicU64::new(0),
    }));
    world.graph.fill(HEAP.heap());
    let reader = thread::spawn(|| read(world));
    let places: Vec<_> = (0..PLACES).map(|place| thread::spawn(move || world.place(place))).collect();
    places.into_iter().for_each(|place| place.join().expect("a place found something wrong"));
    let (operations, lives) = (world.operations.load(Ordering::Relaxed), world.lives.load(Ordering::Relaxed));
    reader.join().expect("the reader found something wrong");
    let readings = world.readings.load(Ordering::Relaxed);
    println!(
        "{operations} operations of {lives} threads, {PLACES} at once; books read {readings} times meanwhile"
    );
    proven("with blocks and objects left");
    world.graph.end(HEAP.heap());
    proven("with blocks left");
    nothing_of_collections();
    resident();
    drop(std::mem::take(&mut *world.left.lock().unwrap_or_else(PoisonError::into_inner)));
    HEAP.heap().release_all();
    proven("with none left");
    for purpose in world.purposes {
        assert_eq!(purpose.inuse(), Bytes::ZERO, "{} has something left", purpose.name());
    }
    println!("books ok");
}

/// Walks the heap, and adds up the books.
fn proven(when: &str) {
    HEAP.heap().check().expect("the heap is as it should be");
    let books = books();
    books.check().expect("the books agree with themselves");
    let sum: i64 = books.accounts().map(|account| books.balance(account)).sum();
    assert_eq!(sum, 0, "the accounts do not add up to zero");
    println!("{when}: the heap is as it should be, the accounts add up to zero");
}

/// Between two collections nothing is left of what they work with; and no objects are there any more.
fn nothing_of_collections() {
    let books = books();
    for purpose in [OBJECTS, WORK_BUFFERS, POINTER_MAPS] {
        assert_eq!(books.balance(Account::Span(purpose)), 0, "bytes of {purpose:?} between collections");
    }
}

/// Compares what is resident with what the books say.
fn resident() {
    let mut books = books();
    let found = HEAP.heap().resident();
    books.resident = Some(found);
    let expected = books.expected_resident().expect("the kernel was asked") as f64;
    let found = (found.heap + found.metadata).0 as f64;
    let off = (found - expected) / expected;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "resident: {:.1} MiB, by the books {:.1} MiB, off by {:+.2} %",
        mib(found),
        mib(expected),
        off * 100.0
    );
}

fn books() -> Box<Snapshot> {
    Box::new(HEAP.heap().snapshot())
}
