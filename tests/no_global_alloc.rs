//! The core takes nothing from the global allocator: here that one ends the process when it is called in a section
//! that should not.
#![cfg(not(loom))]

mod churn;

use churn::{Sizes, World};
use spanheap::{Bytes, Config, Heap};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::{self, Write};
use std::process::abort;
use std::thread;

struct Guarded;

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

fn note(call: &str) {
    if FORBIDDEN.try_with(Cell::get).unwrap_or(false) {
        FORBIDDEN.set(false);
        eprintln!(
            "the core called the global allocator: {call}\n{}",
            std::backtrace::Backtrace::force_capture()
        );
        abort();
    }
}

// SAFETY: all calls go on to the system's allocator.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note("alloc");
        // SAFETY: handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note("dealloc");
        // SAFETY: handed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note("realloc");
        // SAFETY: handed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Guarded = Guarded;

/// Without a scavenger: in debug builds its thread is one of the standard library's, which does take from the global
/// allocator.
fn quiet() -> Config {
    Config { scavenger: spanheap::front::config::Scavenger::Off, ..Config::default() }
}

/// Runs `work` with the global allocator forbidden to this thread.
fn alone<T>(work: impl FnOnce() -> T) -> T {
    FORBIDDEN.set(true);
    let done = work();
    FORBIDDEN.set(false);
    done
}

/// Text that goes nowhere.
struct Nowhere(usize);

impl Write for Nowhere {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// Blocks of all kinds, filled and freed in another order.
fn blocks(heap: &Heap) {
    let purpose = heap.blocks();
    let mut held = [None; 256];
    for round in 0..20 {
        for (i, place) in held.iter_mut().enumerate() {
            let size = if i % 50 == 0 { 70_000 + i * 100 } else { i * 17 };
            let layout = Layout::from_size_align(size, 1 << (i % 14)).unwrap();
            let block = match i % 3 {
                0 => purpose.allocate_zeroed(layout),
                1 => heap.allocate(layout),
                _ => purpose.scope(|| heap.allocate(layout)),
            };
            *place = Some((block.unwrap(), layout));
        }
        for i in 0..held.len() {
            let (block, layout) = held[(i * 37 + round) % 256].take().unwrap();
            // SAFETY: the block is ours.
            unsafe {
                block.write_bytes(1, layout.size());
                let _ = heap.resize(block, layout.size() / 2).unwrap();
                heap.deallocate(block, layout);
            }
        }
    }
}

#[test]
fn a_whole_life_takes_nothing() {
    alone(|| {
        let heap = Heap::new(quiet()).unwrap();
        let mine = heap.declare("mine").unwrap();
        assert!(heap.declare("mine").is_err() && heap.declare("no spaces").is_err());
        mine.set_limit(Some(Bytes::mib(1)));
        assert!(mine.allocate_span(Bytes::mib(2)).is_err());
        mine.allocate_span(Bytes::kib(100)).unwrap().zero().fill(1);
        blocks(&heap);
        heap.release_all();
        heap.check().unwrap();
        let mut snapshot = heap.snapshot();
        snapshot.resident = Some(heap.resident());
        snapshot.check().unwrap();
        let mut out = Nowhere(0);
        snapshot.write_json(&mut out, "test", 1).unwrap();
        snapshot.write_table(&mut out).unwrap();
        assert!(out.0 > 1000);
        // SAFETY: a pointer that is nobody's.
        let misuse = unsafe { heap.free(std::ptr::NonNull::dangling()) }.unwrap_err();
        write!(out, "{misuse}").unwrap();
    });
}

#[test]
fn threads_that_come_and_go_take_nothing() {
    let heap = Heap::new(quiet()).unwrap();
    for _ in 0..3 {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| alone(|| blocks(&heap)))).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
    heap.check().unwrap();
}

#[test]
fn a_churn_itself_may_allocate_and_is_no_trouble() {
    let heap = Heap::new(quiet()).unwrap();
    let world = World::new(&heap, 3);
    let held = world.churn(1, 2_000, Sizes { small: 300, large_every: 50, large: 100_000, held: 100 });
    held.into_iter().for_each(|one| world.give_back(one));
    world.rest().into_iter().for_each(|one| world.give_back(one));
    heap.check().unwrap();
}
