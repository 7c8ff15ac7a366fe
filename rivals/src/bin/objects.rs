//! Allocates small objects on the collected heap while its cache has room: what `rivals instructions` counts.
//!
//! The arguments are a kind (`plain`, `references`, `mapped`) and how many objects to allocate. Counted is the function
//! `objects_from_the_cache` alone, so nothing of the start is in the figure; one object is allocated before it, which
//! fetches a group of 64 slots of 32 bytes, and the objects come from that.

use spanheap::collect::Context;
use spanheap::{Config, Edge, Heap, Trace};
use std::error::Error;
use std::hint::black_box;

/// Objects that a fresh group has beyond the one that fetched it.
const ROOM: usize = 63;

/// 32 bytes without references.
#[derive(Default, Trace)]
struct Plain([u64; 4]);

/// 32 bytes of references.
#[derive(Default, Trace)]
struct References {
    edges: [Edge<References>; 4],
}

/// 32 bytes, two references among them.
#[derive(Default, Trace)]
struct Mapped {
    edges: [Edge<Mapped>; 2],
    numbers: [u64; 2],
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let count: usize = arguments.next().ok_or("a kind and a number of objects are wanted")?.parse()?;
    if count > ROOM {
        return Err(format!("there is room for {ROOM} objects").into());
    }
    match kind.as_str() {
        "plain" => allocate::<Plain>(count),
        "references" => allocate::<References>(count),
        "mapped" => allocate::<Mapped>(count),
        other => Err(format!("no kind is called {other:?}").into()),
    }
}

fn allocate<T: Trace + Default>(count: usize) -> Result<(), Box<dyn Error>> {
    let heap = Heap::new(Config::default())?;
    heap.enter()?.run(|cx| {
        black_box(cx.allocate(T::default())?);
        if !objects_from_the_cache::<T>(cx, count) {
            return Err("no memory for objects".into());
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    heap.check()?;
    Ok(())
}

/// The loop that is counted: an allocation, and one step and one test of its own.
#[inline(never)]
fn objects_from_the_cache<T: Trace + Default>(cx: &Context<'_, '_>, count: usize) -> bool {
    for _ in 0..count {
        let Ok(object) = cx.allocate(T::default()) else { return false };
        black_box(object);
    }
    true
}
