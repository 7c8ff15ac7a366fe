//! Allocates small objects on the collected heap while its cache has room: what `rivals instructions` counts.
//!
//! The arguments are a kind (`plain`, `references`, `mapped`) and how many objects to allocate; printed is how many
//! instructions the loop around the allocations took. One object is allocated before it, which fetches a group of 64
//! slots of 32 bytes, and the objects come from that.
//!
//! The processor counts: with its trap flag set it stops after each instruction, and the signal's handler adds one.
//! Valgrind cannot run this program: it hides the page from which the system's clock is read.
//!
//! With the kind `drop` the objects are kept by a root, and what is printed is how many nanoseconds it takes to drop the
//! heap that they live on, which gives everything back to the system.
//!
//! # Safety
//! The handler does nothing but add to an atomic number. The flag is changed by pushing, changing and popping the flags
//! register, as one block of assembly that may use the stack.

use spanheap::collect::Context;
use spanheap::{Config, Edge, Exhausted, Heap, Trace};
use std::arch::asm;
use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

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
    if kind == "drop" {
        return end_heap(count);
    }
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
        trap()?;
        step(true);
        let allocated = objects_from_the_cache::<T>(cx, count);
        step(false);
        if allocated { Ok::<_, Box<dyn Error>>(()) } else { Err("no memory for objects".into()) }
    })?;
    heap.check()?;
    println!("{}", STEPS.load(Ordering::Relaxed));
    Ok(())
}

/// Fills a heap, and drops it.
fn end_heap(count: usize) -> Result<(), Box<dyn Error>> {
    let heap = Heap::new(Config::default())?;
    let mut mutator = heap.enter()?;
    let kept = mutator.run(|cx| cx.root(cx.allocate_array(count, |_| Edge::<Mapped>::null())?))?;
    for place in 0..count {
        mutator.run(|cx| {
            kept.get(cx).items()[place].set(cx, Some(cx.allocate(Mapped::default())?));
            Ok::<_, Exhausted>(())
        })?;
    }
    mutator.collect()?;
    let live = heap.collector_statistics().live.0;
    if live < count * size_of::<Mapped>() {
        return Err(format!("of {count} objects only {live} bytes are alive").into());
    }
    heap.check()?;
    drop((kept, mutator));
    let began = Instant::now();
    drop(heap);
    println!("{}", began.elapsed().as_nanos());
    Ok(())
}

/// Instructions that were counted.
static STEPS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_step(_: libc::c_int) {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

/// Has each step counted.
fn trap() -> Result<(), std::io::Error> {
    // SAFETY: an action is numbers, for which zeros are a value; the handler is of the right type.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_step as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Sets or clears the trap flag.
#[inline(never)]
fn step(on: bool) {
    const TRAP: u64 = 1 << 8;
    let bit = if on { TRAP } else { 0 };
    // SAFETY: the file's head.
    unsafe {
        asm!("pushfq", "and qword ptr [rsp], {others}", "or qword ptr [rsp], {bit}", "popfq",
            others = const !TRAP as i32, bit = in(reg) bit)
    };
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
