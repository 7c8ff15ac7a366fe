//! Collected objects beside the blocks: a graph that all threads change, with faults looked for at every turn.
//!
//! A table of places, in buckets that roots hold, leads to nodes; those lead to each other, to arrays of all sizes, and own
//! blocks, which are freed when a node has died. Each node carries a number and marks made from it, which are looked at
//! wherever a thread comes by. Threads keep weak references, which must lead to what they led to, or nowhere; and some
//! of them keep long rows of references whose shape is a program, by the face for runtimes.
//!
//! Each collection is compared with a second one, and dead objects are overwritten.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{OnceLock, RwLock};

use spanheap::base::random::Random;
use spanheap::collect::raw::RawMutator;
use spanheap::collect::{CollectConfig, Context, Edge, Gc, Mutator, Plain, Root, Weak};
use spanheap::object::encode::{self, Layout};
use spanheap::object::{Shape, ShapeId};
use spanheap::{Array, Bytes, Exhausted, Heap, Trace};

use crate::Held;

/// Places of a bucket, and buckets.
const BUCKET: usize = 64;
const BUCKETS: usize = 64;
/// Weak references that a thread keeps.
const WEAK: usize = 200;
/// References of a row, between numbers: so many that its shape is a program, and it a large object.
const ROW: usize = 3000;
/// Rows that a thread keeps.
const ROWS: usize = 4;

/// Blocks that were made for nodes, and those of them that were freed.
static OWNERS: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

/// How the collector works meanwhile.
pub(crate) fn config() -> CollectConfig {
    let least = Bytes::mib(1);
    CollectConfig { least, workers: 2, verify: true, poison: true, ..CollectConfig::default() }
}

/// Where the graph begins.
pub(crate) struct Graph {
    buckets: RwLock<Vec<Root<'static, Bucket>>>,
    numbers: AtomicU64,
    row: OnceLock<ShapeId>,
}

#[derive(Trace)]
struct Bucket {
    places: [Edge<Node>; BUCKET],
}

#[derive(Trace)]
pub(crate) struct Node {
    number: u64,
    next: Edge<Node>,
    other: Edge<Node>,
    row: Edge<Array<Edge<Node>>>,
    crumbs: Edge<Array<u64>>,
    mark: u64,
    owned: Plain<Option<Owned>>,
}

/// A block of a node's.
struct Owned {
    /// Freed with the node.
    _block: Held,
}

impl Owned {
    fn new(block: Held) -> Owned {
        OWNERS.fetch_add(1, Ordering::Relaxed);
        Owned { _block: block }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        FREED.fetch_add(1, Ordering::Relaxed);
    }
}

/// A long object of the face for runtimes.
#[repr(C)]
struct Row {
    items: [(u64, AtomicPtr<Row>); ROW],
}

fn mark_of(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number.rotate_left(17)
}

impl Node {
    fn verify(&self, cx: &Context<'_, '_>) {
        let number = self.number;
        assert_eq!(self.mark, mark_of(number), "node {number} died while it was in use");
        if let Some(crumbs) = self.crumbs.get(cx) {
            assert!(crumbs.items().iter().all(|&crumb| crumb == number), "crumbs of node {number}");
        }
    }
}

impl Graph {
    pub(crate) fn new() -> Graph {
        Graph { buckets: RwLock::default(), numbers: AtomicU64::new(1), row: OnceLock::new() }
    }

    /// Makes the table.
    pub(crate) fn fill(&self, heap: &'static Heap) {
        let mut mutator = heap.enter().expect("a place in the heap");
        let mut buckets = self.buckets.write().expect("nobody panicked");
        for _ in 0..BUCKETS {
            let empty = || Bucket { places: std::array::from_fn(|_| Edge::null()) };
            let bucket = mutator.run(|cx| cx.root(cx.allocate(empty())?));
            buckets.push(bucket.expect("memory for a table"));
        }
    }

    /// Drops the table: all that is left dies.
    pub(crate) fn end(&self, heap: &'static Heap) {
        self.buckets.write().expect("nobody panicked").clear();
        let mut mutator = heap.enter().expect("a place in the heap");
        // What destructors need dies one collection later.
        for _ in 0..2 {
            mutator.collect().expect("memory to collect");
            mutator.run_finalizers();
        }
        mutator.collect().expect("memory to collect");
        drop(mutator);
        let [owners, freed] = [&OWNERS, &FREED].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(owners, freed, "blocks of nodes that have died");
        assert_eq!(heap.collector_statistics().live, Bytes::ZERO, "objects that nobody keeps");
        println!(
            "{} collections, each verified; {owners} blocks of objects",
            heap.collector_statistics().cycles
        );
    }

    /// One thing among many; `block` makes a block to own.
    pub(crate) fn operate<'h>(
        &self,
        mutator: &mut Mutator<'h>,
        weak: &mut Vec<(u64, Weak<'h, Node>)>,
        random: &mut Random,
        block: impl FnOnce(&mut Random) -> Held,
    ) {
        let buckets = self.buckets.read().expect("nobody panicked");
        // It is made and freed by the way, which must not wait for a collection: so before the run begins.
        let owned = (random.below(8) == 0).then(|| Owned::new(block(random)));
        let done = mutator.run(|cx| {
            let place = &buckets[random.below(BUCKETS)].get(cx).get().places[random.below(BUCKET)];
            let other =
                walk(cx, &buckets[random.below(BUCKETS)].get(cx).get().places[random.below(BUCKET)], random);
            match random.below(12) {
                0..6 => {
                    let node = self.make(cx, owned, random)?;
                    node.next.set(cx, if random.below(4) == 0 { None } else { other });
                    place.set(cx, Some(node));
                    if weak.len() < WEAK {
                        weak.push((node.number, cx.weak(node)?));
                    }
                }
                6..9 => {
                    if let Some(node) = place.get(cx) {
                        node.other.set(cx, other);
                        node.next.set(cx, None);
                    }
                }
                9 => place.set(cx, None),
                _ if !weak.is_empty() => {
                    let (number, reference) = weak.swap_remove(random.below(weak.len()));
                    if let Some(node) = reference.upgrade(cx) {
                        assert_eq!(node.number, number, "a weak reference to something else");
                        node.verify(cx);
                    }
                }
                _ => {}
            }
            Ok::<(), Exhausted>(())
        });
        done.expect("memory for objects");
        if random.below(20_000) == 0 {
            mutator.collect().expect("memory to collect");
        }
    }

    /// A node, with an array of numbers or of references.
    fn make<'g>(
        &self,
        cx: &Context<'g, '_>,
        owned: Option<Owned>,
        random: &mut Random,
    ) -> Result<Gc<'g, Node>, Exhausted> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let node = cx.allocate(Node {
            number,
            next: Edge::null(),
            other: Edge::null(),
            row: Edge::null(),
            crumbs: Edge::null(),
            mark: mark_of(number),
            owned: Plain(owned),
        })?;
        // Mostly short; one in a hundred is a large object.
        let length = if random.below(100) == 0 { 8_000 } else { random.below(40) };
        if random.below(2) == 0 {
            node.crumbs.set(cx, Some(cx.allocate_array(length, |_| number)?));
        } else {
            let row = cx.allocate_array(length, |_| Edge::null())?;
            row.items().iter().step_by(7).for_each(|edge: &Edge<Node>| edge.set(cx, Some(node)));
            node.row.set(cx, Some(row));
        }
        Ok(node)
    }

    /// What a thread of the face for runtimes does in its life: rows that lead to each other, by a range of roots.
    pub(crate) fn keep_rows(&self, heap: &'static Heap, random: &mut Random) {
        let mutator = heap.enter_raw().expect("a place in the heap");
        let shape = *self.row.get_or_init(|| row(&mutator));
        let recipe = mutator.recipe(size_of::<Row>(), shape);
        let kept: [AtomicPtr<Row>; ROWS] = std::array::from_fn(|_| AtomicPtr::default());
        // SAFETY: the range is removed before what it covers goes, and written with the barrier.
        let range =
            unsafe { mutator.add_root_range(NonNull::from(&kept).cast(), Bytes(size_of_val(&kept)), None) };
        let range = range.expect("memory for a range of roots");
        for _ in 0..50 {
            // SAFETY: no stack is scanned, so an allocation is no safepoint: what is reached here stays until the next
            // one. Memory is zeros, which is a row.
            unsafe {
                let new: *mut Row = mutator.allocate_as(recipe).expect("memory for a row").cast().as_ptr();
                let place = &kept[random.below(ROWS)];
                let old = place.load(Ordering::Relaxed);
                let number = random.bits();
                let at = random.below(ROW);
                (&raw mut (*new).items[at].0).write(number);
                // The last of a row's items says where its first number is, so that rows can be looked at.
                (&raw mut (*new).items[ROW - 1].0).write(at as u64);
                mutator.write(NonNull::from(&(*new).items[at].1).cast(), cut(&mutator, old));
                mutator.write(NonNull::from(place).cast(), new);
            }
            mutator.safepoint();
            kept.iter().filter_map(|row| NonNull::new(row.load(Ordering::Relaxed))).for_each(look);
        }
        assert!(mutator.remove_root_range(range).is_some());
    }
}

/// A row that leads to no other any more.
///
/// # Safety
/// The row is alive, or null; the thread is between safepoints.
unsafe fn cut(mutator: &RawMutator<'_>, row: *mut Row) -> *mut Row {
    // SAFETY: the caller's promise.
    if let Some(row) = unsafe { row.as_ref() } {
        for (_, next) in &row.items {
            if !next.load(Ordering::Relaxed).is_null() {
                // SAFETY: a place in an object that is alive.
                unsafe { mutator.write(NonNull::from(next).cast(), std::ptr::null_mut::<Row>()) };
            }
        }
    }
    row
}

/// Looks at a row and at the one that it leads to.
fn look(row: NonNull<Row>) {
    // SAFETY: it is kept by a range of roots, and the thread has been at no safepoint since it was read from there.
    let row = unsafe { row.as_ref() };
    let at = row.items[ROW - 1].0 as usize;
    assert!(at < ROW, "a row died while it was in use");
    // SAFETY: what a row leads to is kept by it.
    if let Some(next) = unsafe { row.items[at].1.load(Ordering::Relaxed).as_ref() } {
        assert!(next.items[ROW - 1].0 < ROW as u64, "a row died while another led to it");
    }
}

/// The shape of a row.
fn row(mutator: &RawMutator<'_>) -> ShapeId {
    let item = Layout::Sequence(&[Layout::Scalars(1), Layout::Pointers(1)]);
    let mut code = [0; 64];
    let length = encode::encode(&Layout::Repeat(&item, ROW), &mut code).expect("room for a short program");
    let shape = Shape::Program { words: 2 * ROW, code: &code[..length] };
    mutator.register_shape(&shape).expect("memory for a shape")
}

/// Follows references for a while, and looks at what is on the way.
fn walk<'g>(cx: &Context<'g, '_>, from: &'g Edge<Node>, random: &mut Random) -> Option<Gc<'g, Node>> {
    let mut at = from.get(cx)?;
    for _ in 0..random.below(12) {
        at.get().verify(cx);
        let row = || at.row.get(cx)?.items().first()?.get(cx);
        let Some(next) = at.next.get(cx).or_else(|| at.other.get(cx)).or_else(row) else { break };
        at = next;
    }
    Some(at)
}
