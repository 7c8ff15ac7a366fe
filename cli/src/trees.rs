//! `spanheap demo trees`: binary trees on the collected heap, after the benchmarks game's program.
//!
//! A stretch tree of depth N + 1 is grown and dropped, a long-lived one of depth N stays; then, for d = 4, 6, … N,
//! 2^(N − d + 4) trees of depth d are grown, counted and dropped, shared out among the threads. Every node is an object
//! of two references.
//!
//! Between two safepoints nothing is collected, so large trees are grown in pieces: below [`PIECE`] levels a tree is
//! grown in one go, above it is put together from roots. That is what a program does that wants short pauses.

use crate::run::{OUR_FAILURE, say};
use serde_json::{Value, json};
use spanheap::collect::{Context, Mutator};
use spanheap::{Config, Edge, Gc, Heap, Root, Trace};
use std::error::Error;
use std::thread;
use std::time::Instant;

/// Levels of a tree that are grown between two safepoints.
const PIECE: u32 = 12;
/// The least depth.
pub(crate) const LEAST_DEPTH: u32 = 6;
/// Depth of the smallest trees.
const SMALLEST: u32 = 4;

/// How the demonstration shall run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Depth of the long-lived tree.
    pub(crate) depth: u32,
    /// Threads that grow trees.
    pub(crate) threads: u32,
    /// Print JSON instead of lines.
    pub(crate) json: bool,
    /// What the heap is made with.
    pub(crate) config: Config,
}

/// A node.
#[derive(Default, Trace)]
struct Tree {
    left: Edge<Tree>,
    right: Edge<Tree>,
}

/// What one size of trees came to.
struct Row {
    trees: u64,
    depth: u32,
    nodes: u64,
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Grows the trees; the exit code.
pub(crate) fn run(options: &Options) -> i32 {
    match trees(options) {
        Ok(()) => 0,
        Err(error) => {
            say(format!("demo trees: {error}"));
            OUR_FAILURE
        }
    }
}

fn trees(options: &Options) -> Outcome<()> {
    let began = Instant::now();
    let heap = Heap::new(options.config)?;
    let mut mutator = heap.enter()?;
    let depth = options.depth.max(LEAST_DEPTH);
    let stretch = {
        let tree = grow(&mut mutator, depth + 1)?;
        Row { trees: 1, depth: depth + 1, nodes: count(&mut mutator, &tree, depth + 1)? }
    };
    let long = grow(&mut mutator, depth)?;
    let rows = mutator.outside(|| {
        (SMALLEST..=depth)
            .step_by(2)
            .map(|d| many(&heap, depth, d, options.threads))
            .collect::<Outcome<Vec<_>>>()
    })?;
    let kept = Row { trees: 1, depth, nodes: count(&mut mutator, &long, depth)? };
    let seconds = began.elapsed().as_secs_f64();
    let statistics = heap.collector_statistics();
    if options.json {
        let row = |row: &Row| json!({ "trees": row.trees, "depth": row.depth, "check": row.nodes });
        let all: Vec<Value> = rows.iter().map(row).collect();
        let text = json!({
            "stretch": row(&stretch), "rows": all, "long_lived": row(&kept), "seconds": seconds,
            "collections": statistics.cycles, "longest_pause_ns": statistics.longest_pause.0,
            "longest_pause_work_ns": statistics.longest_pause_work.0,
        });
        println!("{text:#}");
    } else {
        println!("stretch tree of depth {}\t check: {}", stretch.depth, stretch.nodes);
        for row in &rows {
            println!("{}\t trees of depth {}\t check: {}", row.trees, row.depth, row.nodes);
        }
        println!("long lived tree of depth {}\t check: {}", kept.depth, kept.nodes);
    }
    drop(long);
    drop(mutator);
    heap.check()?;
    heap.snapshot().check()?;
    Ok(())
}

/// Grows, counts and drops all trees of one depth, on several threads.
fn many(heap: &Heap, most: u32, depth: u32, threads: u32) -> Outcome<Row> {
    let trees = 1_u64 << (most - depth + SMALLEST);
    let threads = u64::from(threads.max(1));
    let share = |at: u64| trees * (at + 1) / threads - trees * at / threads;
    let nodes = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|at| {
                scope.spawn(move || -> Outcome<u64> {
                    let mut mutator = heap.enter()?;
                    (0..share(at)).map(|_| grown_and_counted(&mut mutator, depth)).sum()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a thread that grows trees"))
            .sum::<Outcome<u64>>()
    })?;
    Ok(Row { trees, depth, nodes })
}

/// One tree that is needed no more once it is counted.
fn grown_and_counted(mutator: &mut Mutator<'_>, depth: u32) -> Outcome<u64> {
    if depth <= PIECE {
        return mutator.run(|cx| Ok(count_here(cx, grow_here(cx, depth)?)));
    }
    let tree = grow(mutator, depth)?;
    count(mutator, &tree, depth)
}

/// Grows a tree, with safepoints in between.
fn grow<'h>(mutator: &mut Mutator<'h>, depth: u32) -> Outcome<Root<'h, Tree>> {
    if depth <= PIECE {
        return mutator.run(|cx| Ok(cx.root(grow_here(cx, depth)?)?));
    }
    let [left, right] = [grow(mutator, depth - 1)?, grow(mutator, depth - 1)?];
    mutator.run(|cx| {
        let tree = cx.allocate(Tree::default())?;
        tree.left.set(cx, Some(left.get(cx)));
        tree.right.set(cx, Some(right.get(cx)));
        Ok(cx.root(tree)?)
    })
}

/// Grows a tree in one go.
fn grow_here<'g>(cx: &Context<'g, '_>, depth: u32) -> Outcome<Gc<'g, Tree>> {
    let tree = cx.allocate(Tree::default())?;
    if depth > 0 {
        tree.left.set(cx, Some(grow_here(cx, depth - 1)?));
        tree.right.set(cx, Some(grow_here(cx, depth - 1)?));
    }
    Ok(tree)
}

/// Counts a tree's nodes, with safepoints in between.
fn count<'h>(mutator: &mut Mutator<'h>, tree: &Root<'h, Tree>, depth: u32) -> Outcome<u64> {
    if depth <= PIECE {
        return Ok(mutator.run(|cx| count_here(cx, tree.get(cx))));
    }
    let children = mutator.run(|cx| -> Outcome<_> {
        let tree = tree.get(cx);
        let mut roots = Vec::new();
        for edge in [&tree.left, &tree.right] {
            let child = edge.get(cx).ok_or("a tree lacks a branch")?;
            roots.push(cx.root(child)?);
        }
        Ok(roots)
    })?;
    let mut nodes = 1;
    for child in &children {
        nodes += count(mutator, child, depth - 1)?;
    }
    Ok(nodes)
}

/// Counts a tree's nodes in one go.
fn count_here<'g>(cx: &Context<'g, '_>, tree: Gc<'g, Tree>) -> u64 {
    let below = |edge: &Edge<Tree>| edge.get(cx).map_or(0, |tree| count_here(cx, tree));
    1 + below(&tree.left) + below(&tree.right)
}
