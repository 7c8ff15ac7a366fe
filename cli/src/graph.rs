//! `spanheap demo graph`: a large graph on the collected heap that changes all the time, with the pauses it sees.
//!
//! A table of places, in buckets, holds the nodes. A node has three edges to other nodes, an edge to a payload without
//! references, a number, and a mark made from the number. Each operation picks a place at random, cuts the edges of
//! the node there, to its payload as well, and puts a new node in, which leads to three others. So as many nodes live
//! as there are places, and about as many that were cut and that others lead to still ([`CUT`]): payloads are sized so
//! that all of that together takes what was asked for. Every look at a node checks its mark.
//!
//! Between two operations is a safepoint, and each thread notes how long it waited there: the histogram is what a request
//! would have seen, and the [utilisation](crate::utilisation) is what was left of each 10 ms.

use crate::run::{OUR_FAILURE, say};
use crate::size::human;
use crate::utilisation::{Utilisation, WINDOW, Wait};
use serde_json::json;
use spanheap::base::random::Random;
use spanheap::collect::{Context, Mutator, Statistics};
use spanheap::{Bytes, Config, Edge, Exhausted, Gc, Heap, Root, Trace};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Places of a bucket.
const BUCKET: usize = 500;
/// Edges from a node to others.
const EDGES: usize = 3;
/// Collections at the end, when nothing changes any more.
const FORCED: u64 = 3;
/// Waits below this are those of a safepoint where nobody asked for anything.
const WORTH_NOTING: Duration = Duration::from_micros(1);
/// Bytes of a node without its payload.
const NODE: u64 = size_of::<Node>() as u64;
/// Nodes that were cut and are led to still, for each one that was not, once every node was replaced several times.
///
/// Let a node's life be 1 on average. Edges to it begin at a rate of [`EDGES`], as long as it is there, and end as the
/// lives of others do. So a node that was there for t and has been cut for s is led to by so many that have the Poisson
/// distribution around 3 (1 - e^-t) e^-s; the chance that it is not zero, over all t and s, comes to 1.006.
const CUT: u64 = 1;

/// How the demonstration shall run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Nodes that live.
    pub(crate) objects: u64,
    /// Bytes that live.
    pub(crate) live: u64,
    /// Threads that change the graph.
    pub(crate) threads: u32,
    /// How long they do.
    pub(crate) time: Duration,
    /// Print JSON instead of a table.
    pub(crate) json: bool,
    /// What the heap is made with.
    pub(crate) config: Config,
}

/// Places for nodes.
#[derive(Trace)]
struct Bucket {
    places: [Edge<Node>; BUCKET],
}

/// A node of the graph.
#[derive(Trace)]
struct Node {
    edges: [Edge<Node>; EDGES],
    payload: Edge<spanheap::Array<u64>>,
    number: u64,
    mark: u64,
}

/// What one thread saw.
#[derive(Default)]
struct Seen {
    operations: u64,
    looks: u64,
    /// Times that there was no memory before the dead were collected.
    refused: u64,
    /// Waits at safepoints by the power of two of their microseconds.
    waits: [u64; 32],
    longest: Duration,
    utilisation: Utilisation,
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Buckets<'h> = Vec<Root<'h, Bucket>>;

/// Changes the graph; the exit code.
pub(crate) fn run(options: &Options) -> i32 {
    match graph(options) {
        Ok(()) => 0,
        Err(error) => {
            say(format!("demo graph: {error}"));
            OUR_FAILURE
        }
    }
}

fn graph(options: &Options) -> Outcome<()> {
    let heap = Heap::new(options.config)?;
    let payload = payload(options);
    let mut mutator = heap.enter()?;
    let buckets = fill(&mut mutator, options.objects, payload)?;
    let (stop, numbers) = (AtomicBool::new(false), AtomicU64::new(options.objects));
    let began = Instant::now();
    let before = heap.collector_statistics();
    let seen = mutator.outside(|| {
        thread::scope(|scope| {
            let changers: Vec<_> = (0..options.threads.max(1))
                .map(|at| {
                    let (heap, buckets, stop, numbers) = (&heap, &buckets, &stop, &numbers);
                    scope.spawn(move || change(heap, buckets, payload, u64::from(at) + 1, stop, numbers))
                })
                .collect();
            thread::sleep(options.time);
            stop.store(true, Ordering::Relaxed);
            changers
                .into_iter()
                .map(|thread| thread.join().expect("a thread that changes the graph"))
                .collect()
        })
    });
    let seen: Outcome<Vec<Seen>> = seen;
    let seconds = began.elapsed().as_secs_f64();
    let all = seen?.into_iter().fold(Seen::default(), Seen::with);
    let forced = force(&heap, &mut mutator)?;
    let statistics = heap.collector_statistics();
    let memory = Memory::of(&heap);
    print(options, memory, &all, (seconds, forced), (&before, &statistics));
    drop(buckets);
    drop(mutator);
    heap.check()?;
    heap.snapshot().check()?;
    Ok(())
}

/// Words of a payload, so that as much lives as is asked for; size classes round that.
fn payload(options: &Options) -> usize {
    let place = size_of::<Edge<Node>>() as u64 + (1 + CUT) * NODE;
    let words = (options.live / options.objects.max(1)).saturating_sub(place) / 8;
    // An array says how long it is.
    words.saturating_sub(1) as usize
}

/// What the heap has of the system's memory at the end.
#[derive(Clone, Copy)]
struct Memory {
    committed: Bytes,
    /// What the kernel says is resident of the heap's own addresses.
    resident: Bytes,
}

impl Memory {
    fn of(heap: &Heap) -> Memory {
        let resident = heap.resident();
        let committed = Bytes(heap.snapshot().committed().max(0) as usize);
        Memory { committed, resident: resident.heap + resident.metadata }
    }
}

/// What collections cost when nothing changes.
struct Forced {
    processor: Duration,
    marked: usize,
}

/// Collects several times: the processor time of the whole process is the collector's alone then.
fn force(heap: &Heap, mutator: &mut Mutator<'_>) -> Outcome<Forced> {
    let (before, began) = (heap.collector_statistics(), processor_time());
    for _ in 0..FORCED {
        mutator.collect()?;
    }
    let processor = processor_time() - began;
    Ok(Forced { processor, marked: heap.collector_statistics().marked.0 - before.marked.0 })
}

/// The processor time that this process has had.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn mark_of(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// Makes the buckets, and a node for each place.
fn fill<'h>(mutator: &mut Mutator<'h>, objects: u64, payload: usize) -> Outcome<Buckets<'h>> {
    let mut buckets: Buckets<'h> = Vec::new();
    let mut random = Random::new(7);
    for number in 0..objects {
        let place = number as usize % BUCKET;
        if place == 0 {
            let empty = || Bucket { places: std::array::from_fn(|_| Edge::null()) };
            buckets.push(with_memory(mutator, |cx| cx.root(cx.allocate(empty())?))?);
        }
        with_memory(mutator, |cx| put(cx, &buckets, number as usize, number, payload, &mut random))?;
    }
    Ok(buckets)
}

/// Does something that may be refused memory: then what is dead is collected, and it is tried once more.
fn with_memory<'h, T>(
    mutator: &mut Mutator<'h>,
    mut work: impl FnMut(&Context<'_, 'h>) -> Result<T, Exhausted>,
) -> Outcome<T> {
    match mutator.run(&mut work) {
        Err(_) => {
            mutator.collect()?;
            Ok(mutator.run(work)?)
        }
        done => Ok(done?),
    }
}

/// Puts a new node into a place. It leads to nodes elsewhere, where there are some.
fn put(
    cx: &Context<'_, '_>,
    buckets: &Buckets<'_>,
    place: usize,
    number: u64,
    payload: usize,
    random: &mut Random,
) -> Result<(), Exhausted> {
    let node = cx.allocate(Node {
        edges: std::array::from_fn(|_| Edge::null()),
        payload: Edge::null(),
        number,
        mark: mark_of(number),
    })?;
    if payload > 0 {
        node.payload.set(cx, Some(cx.allocate_array(payload, |_| number)?));
    }
    for edge in &node.edges {
        let other = random.below(buckets.len() * BUCKET);
        edge.set(cx, node_at(cx, buckets, other));
    }
    let bucket = buckets[place / BUCKET].get(cx);
    bucket.places[place % BUCKET].set(cx, Some(node));
    Ok(())
}

fn node_at<'g>(cx: &Context<'g, '_>, buckets: &Buckets<'_>, place: usize) -> Option<Gc<'g, Node>> {
    buckets[place / BUCKET].get(cx).get().places[place % BUCKET].get(cx)
}

/// One thread's part of the changes.
fn change(
    heap: &Heap,
    buckets: &Buckets<'_>,
    payload: usize,
    seed: u64,
    stop: &AtomicBool,
    numbers: &AtomicU64,
) -> Outcome<Seen> {
    let mut mutator = heap.enter()?;
    let (mut random, mut seen) = (Random::new(seed), Seen::default());
    let places = buckets.len() * BUCKET;
    let (began, mut waits, mut refused) = (Instant::now(), Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let at = Instant::now();
        mutator.safepoint();
        let waited = at.elapsed();
        seen.wait(waited);
        if waited >= WORTH_NOTING {
            waits.push(Wait { start: at - began, length: waited });
        }
        mutator.run(|cx| {
            let place = random.below(places);
            let Some(old) = node_at(cx, buckets, place) else { return Ok(()) };
            seen.looks += look(cx, old)?;
            old.edges.iter().for_each(|edge| edge.set(cx, None));
            old.payload.set(cx, None);
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            match put(cx, buckets, place, number, payload, &mut random) {
                Ok(()) => (seen.operations, refused) = (seen.operations + 1, 0),
                // Once more, after the dead are collected.
                Err(_) if refused == 0 => refused = 1,
                Err(error) => return Err(error.into()),
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        })?;
        if refused > 0 {
            seen.refused += 1;
            mutator.collect()?;
        }
    }
    seen.utilisation = Utilisation::of(&waits, began.elapsed());
    Ok(seen)
}

/// Checks a node and those that it leads to.
fn look<'g>(cx: &Context<'g, '_>, node: Gc<'g, Node>) -> Outcome<u64> {
    let mut looks = 0;
    for node in node.edges.iter().filter_map(|edge| edge.get(cx)).chain([node]) {
        let payload = node.payload.get(cx);
        let wrong = payload.is_some_and(|payload| payload.items().last() != Some(&node.number));
        if node.mark != mark_of(node.number) || wrong {
            return Err(format!("node {} carries the wrong mark {:#x}", node.number, node.mark).into());
        }
        looks += 1;
    }
    Ok(looks)
}

impl Seen {
    fn wait(&mut self, time: Duration) {
        self.longest = self.longest.max(time);
        let bin = time.as_micros().checked_ilog2().map_or(0, |power| power as usize + 1);
        self.waits[bin.min(self.waits.len() - 1)] += 1;
    }

    fn with(mut self, other: Seen) -> Seen {
        self.operations += other.operations;
        self.looks += other.looks;
        self.refused += other.refused;
        self.longest = self.longest.max(other.longest);
        self.utilisation = self.utilisation.with(other.utilisation);
        self.waits.iter_mut().zip(other.waits).for_each(|(sum, count)| *sum += count);
        self
    }
}

fn print(
    options: &Options,
    memory: Memory,
    seen: &Seen,
    (seconds, forced): (f64, Forced),
    (before, statistics): (&Statistics, &Statistics),
) {
    let cycles = statistics.cycles - before.cycles - FORCED;
    if options.json {
        let waits: Vec<_> = seen.waits.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        let text = json!({
            "seconds": seconds, "operations": seen.operations, "looks": seen.looks, "collections": cycles,
            "live_bytes": statistics.live.0, "longest_pause_ns": statistics.longest_pause.0,
            "longest_pause_work_ns": statistics.longest_pause_work.0,
            "longest_wait_ns": seen.longest.as_nanos() as u64, "waits_by_power_of_two_us": waits,
            "mark_cpu_ns": statistics.mark_cpu.0 - before.mark_cpu.0,
            "marked_bytes": statistics.marked.0 - before.marked.0,
            "forced_cpu_ns": forced.processor.as_nanos() as u64, "forced_marked_bytes": forced.marked,
            "all_collections": statistics.cycles, "window_ns": WINDOW.as_nanos() as u64,
            "refused": seen.refused, "excess_ns": statistics.excess.0, "committed_bytes": memory.committed.0,
            "resident_bytes": memory.resident.0,
            "utilisation": seen.utilisation.whole, "worst_utilisation": seen.utilisation.worst,
        });
        println!("{text:#}");
        return;
    }
    let rate = seen.operations as f64 / seconds;
    println!(
        "{} operations on {} threads, {rate:.0} a second; {} looks",
        seen.operations, options.threads, seen.looks
    );
    println!(
        "{cycles} collections, {} live, longest pause {}, of which work at most {}",
        human(statistics.live.0 as i128),
        time(statistics.longest_pause.0),
        time(statistics.longest_pause_work.0)
    );
    println!(
        "{} committed, {} resident; {} times no memory until the dead were collected",
        human(memory.committed.0 as i128),
        human(memory.resident.0 as i128),
        seen.refused
    );
    let rate = forced.marked as f64 / forced.processor.as_secs_f64().max(1e-9);
    println!("when nothing changed: {} of live objects a processor second", human(rate as i128));
    println!("waits at safepoints:");
    for (bin, count) in seen.waits.iter().enumerate().filter(|(_, count)| **count > 0) {
        println!("  below {:>10}  {count}", time(1000 << bin));
    }
    println!("  longest    {:>10}", time(seen.longest.as_nanos() as u64));
    let Utilisation { whole, worst } = seen.utilisation;
    println!(
        "utilisation: {:.3} % of the time, {:.1} % of the worst {}",
        whole * 100.0,
        worst * 100.0,
        time(WINDOW.as_nanos() as u64)
    );
}

/// A time for people.
fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.2} s", nanoseconds as f64 / 1e9),
    }
}
