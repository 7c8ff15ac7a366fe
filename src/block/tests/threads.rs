//! Blocks that are freed by others, and the spans of threads that have ended.
//!
//! # Safety
//! As for the tests of the whole room; blocks go from thread to thread with the right to free them.

use super::spans::{allocate, free, heap, owner_of, span_of};
use crate::base::class::SizeClass;
use crate::base::random::Random;
use crate::base::sync::Ordering;
use crate::block::BlockSpan;
use crate::block::model::{Asked, Held, Model};
use crate::block::remote;
use crate::front::{Heap, Purpose};
use crate::{Bytes, Fault};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::thread;

/// Blocks on their way from thread to thread.
struct Blocks(Vec<NonNull<u8>>);
// SAFETY: who has a block may be on any thread.
unsafe impl Send for Blocks {}

/// Runs `work` on a thread that ends, and returns what it leaves.
fn elsewhere(work: impl FnOnce() -> Vec<NonNull<u8>> + Send) -> Vec<NonNull<u8>> {
    thread::scope(|scope| scope.spawn(|| Blocks(work())).join().unwrap().0)
}

/// Does the same and leaves nothing.
fn aside(blocks: &[NonNull<u8>], work: impl FnOnce(Vec<NonNull<u8>>) + Send) {
    let blocks = Blocks(blocks.to_vec());
    thread::scope(|scope| {
        scope.spawn(move || {
            let Blocks(blocks) = { blocks };
            work(blocks);
        });
    });
}

fn mine(heap: &Heap) -> u32 {
    heap.mutator().number
}

#[test]
fn what_others_free_waits_until_the_owner_runs_out() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    let blocks: Vec<_> = (0..40).map(|_| allocate(purpose, 100)).collect();
    let span = span_of(&heap, blocks[0]);
    assert_eq!(span_of(&heap, blocks[39]).page(), span.page());
    let body = span.body::<BlockSpan>();
    // SAFETY: no other thread uses the span just now.
    let used = || unsafe { (*body).used() };
    aside(&blocks[..30], |blocks| blocks.into_iter().for_each(|block| free(&heap, block)));
    assert_eq!(used(), 40, "blocks that wait count as in use");
    assert_eq!(span.word().load(Ordering::Relaxed) as u16, 30);
    assert!(!heap.core().central.inbox(mine(&heap)).is_empty());
    // SAFETY: nobody has the block, so nothing is given up.
    assert_eq!(unsafe { heap.free(blocks[7]) }.unwrap_err().fault, Fault::DoubleFree);
    assert_eq!(heap.check(), Ok(()));
    let inuse = purpose.inuse();
    let waits = || span.word().load(Ordering::Relaxed) != 0;
    let more: Vec<_> = (0..10_000).map_while(|_| waits().then(|| allocate(purpose, 100))).collect();
    assert!(!waits(), "the owner never looked");
    assert_eq!(purpose.inuse(), inuse, "it looked before it took a fresh span");
    assert_eq!(used() as usize, 10 + more.len());
    assert_eq!(heap.check(), Ok(()));
    more.iter().chain(&blocks[30..]).for_each(|&block| free(&heap, block));
}

#[test]
fn who_frees_a_block_of_a_thread_that_ended_adopts_its_span() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    // So that this thread has a mutator, and the other does not leave it one.
    free(&heap, allocate(purpose, 16));
    let blocks = elsewhere(|| (0..5000).map(|i| allocate(purpose, 16 + i % 800)).collect());
    assert!(blocks.iter().all(|&block| owner_of(&heap, block) != mine(&heap)));
    let mut left = blocks;
    while let Some(block) = left.pop() {
        let page = span_of(&heap, block).page();
        free(&heap, block);
        if let Some(&neighbour) = left.iter().find(|&&other| span_of(&heap, other).page() == page) {
            assert_eq!(owner_of(&heap, neighbour), mine(&heap));
        }
        if left.len() % 1000 == 0 {
            assert_eq!(heap.check(), Ok(()));
        }
    }
    heap.release_all();
    assert_eq!(purpose.inuse(), Bytes::ZERO);
}

#[test]
fn who_allocates_takes_the_spans_of_threads_that_ended() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    free(&heap, allocate(purpose, 16));
    let size = 256;
    let many = 20 * SizeClass::of(size).unwrap().row().blocks as usize;
    // Every second block is freed, so every span has blocks to give.
    let kept = elsewhere(|| {
        let all: Vec<_> = (0..many).map(|_| allocate(purpose, size)).collect();
        all.iter().step_by(2).for_each(|&block| free(&heap, block));
        all.into_iter().skip(1).step_by(2).collect()
    });
    let inuse = purpose.inuse();
    let again: Vec<_> = (0..many / 2).map(|_| allocate(purpose, size)).collect();
    assert_eq!(purpose.inuse(), inuse, "fresh spans were taken beside half-empty ones");
    assert!(again.iter().all(|&block| owner_of(&heap, block) == mine(&heap)));
    assert_eq!(heap.check(), Ok(()));
    kept.into_iter().chain(again).for_each(|block| free(&heap, block));
    heap.release_all();
    assert_eq!(purpose.inuse(), Bytes::ZERO);
}

#[test]
fn a_thousand_threads_leave_no_more_than_ten() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    let committed = |threads: usize| {
        let mut handed: Vec<NonNull<u8>> = Vec::new();
        for seed in 0..threads {
            let mut random = Random::new(seed as u64);
            let blocks = elsewhere(|| {
                let all: Vec<_> = (0..200).map(|_| allocate(purpose, random.below(3000))).collect();
                let (keep, drop) = all.split_at(10);
                drop.iter().for_each(|&block| free(&heap, block));
                keep.to_vec()
            });
            // What one thread leaves is freed while the next one is at work.
            handed.drain(..).for_each(|block| free(&heap, block));
            handed = blocks;
        }
        handed.into_iter().for_each(|block| free(&heap, block));
        assert_eq!(heap.check(), Ok(()));
        heap.snapshot().committed()
    };
    let few = committed(10);
    let many = committed(1000);
    assert!(many <= few + (1 << 20), "{few} bytes after 10 threads, {many} after 1,000");
    assert!(heap.core().all_mutators().count() <= 4, "mutators are taken over");
    heap.release_all();
    assert_eq!(purpose.inuse(), Bytes::ZERO);
}

#[test]
fn a_span_that_nobody_was_told_of_is_found_when_all_is_released() {
    let heap = heap();
    let purpose = heap.declare("one").unwrap();
    free(&heap, allocate(purpose, 16));
    let blocks = elsewhere(|| vec![allocate(purpose, 100)]);
    // What a free does whose thread read that the owner is at work, just before it ended: the span is in the
    // inbox, and nobody looks.
    let (id, span) = heap.core().pages.find(crate::base::Address::of(blocks[0].as_ptr())).unwrap();
    let memory = heap.core().pages.region().page_pointer(span.page());
    let owner = owner_of(&heap, blocks[0]);
    // SAFETY: the block is ours, and given up.
    unsafe {
        let block = blocks[0].as_ptr().cast::<crate::block::FreeBlock>();
        (*block).mark = crate::block::body::mark(heap.core().key(), block);
        let place = (blocks[0].as_ptr().addr() - memory.addr()) / 16;
        assert!(remote::wait(span.word(), memory, place as u16));
    }
    heap.core().central.inbox(owner).push(id, heap.core().pages.links());
    assert_ne!(purpose.inuse(), Bytes::ZERO);
    heap.release_all();
    assert_eq!(purpose.inuse(), Bytes::ZERO);
    assert_eq!(heap.check(), Ok(()));
}

/// A thread's part of the stress: blocks of its own, and a heap of blocks that lie about for anyone.
struct Worker<'a> {
    heap: &'a Heap,
    purposes: &'a [Purpose<'a>],
    /// Blocks that lie about.
    about: &'a Mutex<Model>,
    own: Model,
    random: Random,
}

impl Worker<'_> {
    fn size(&mut self) -> usize {
        match self.random.below(100) {
            0 => 30_000 + self.random.below(100_000),
            1..=9 => self.random.below(30_000),
            10..=39 => self.random.below(2000),
            _ => self.random.below(300),
        }
    }

    fn allocate(&mut self) {
        let (size, shift, zeroed) = (self.size(), self.random.below(200), self.random.below(4) == 0);
        let align = 1 << if shift < 14 { shift } else { 4 };
        let layout = Layout::from_size_align(size, align).unwrap();
        let which = self.random.below(self.purposes.len());
        let purpose = self.purposes[which];
        let block = if zeroed { purpose.allocate_zeroed(layout) } else { purpose.allocate(layout) }.unwrap();
        let usable = self.heap.usable_size(block).unwrap();
        self.own.allocated(block.as_ptr(), Asked { size, align, zeroed, tag: which as u64 }, usable);
    }

    fn free(&mut self, held: Held) {
        self.own.freed(held.pointer);
        free(self.heap, NonNull::new(held.pointer).unwrap());
    }

    fn step(&mut self) {
        let n = self.random.below(1 << 20);
        let picked = self.own.pick(n);
        match (self.random.below(100), picked) {
            (0..=44, _) | (_, None) => self.allocate(),
            (45..=69, Some(held)) => self.free(held),
            (70..=79, Some(held)) => {
                let held = self.own.freed(held.pointer);
                self.about.lock().unwrap().take(held);
            }
            (80..=91, _) => {
                let mut about = self.about.lock().unwrap();
                let Some(held) = about.pick(n) else { return };
                let held = about.freed(held.pointer);
                drop(about);
                self.own.take(held);
                self.free(held);
            }
            (92..=95, Some(held)) => {
                let size = self.size();
                let block = NonNull::new(held.pointer).unwrap();
                // SAFETY: the block is this thread's.
                if unsafe { self.heap.resize(block, size) }.unwrap() {
                    self.own.resized(held.pointer, size, self.heap.usable_size(block).unwrap());
                }
            }
            (_, Some(held)) => {
                let inside = NonNull::new(held.pointer.wrapping_add(1 + n % (held.usable - 1))).unwrap();
                // SAFETY: no block begins there.
                assert_eq!(unsafe { self.heap.free(inside) }.unwrap_err().fault, Fault::Interior);
            }
        }
    }
}

/// Threads come, work, hand blocks to each other, and go while others are at work. The blocks they leave are freed
/// by those who follow.
#[test]
fn threads_hand_blocks_to_each_other_and_go() {
    const STEPS: usize = if cfg!(debug_assertions) { 2000 } else { 40_000 };
    let heap = heap();
    let purposes = ["one", "two", "three"].map(|name| heap.declare(name).unwrap());
    let about = Mutex::new(Model::default());
    for generation in 0..4 {
        thread::scope(|scope| {
            for seed in 0..6 {
                let (heap, purposes, about) = (&heap, &purposes, &about);
                scope.spawn(move || {
                    let random = Random::new(generation * 100 + seed);
                    let mut worker = Worker { heap, purposes, about, own: Model::default(), random };
                    // Some end early, so that others work beside parked mutators.
                    (0..STEPS >> (seed % 3)).for_each(|_| worker.step());
                    while let Some(held) = worker.own.pick(0) {
                        let held = worker.own.freed(held.pointer);
                        about.lock().unwrap().take(held);
                    }
                });
            }
        });
        about.lock().unwrap().verify();
        assert_eq!(heap.check(), Ok(()), "generation {generation}");
    }
    let mut about = about.into_inner().unwrap();
    while let Some(held) = about.pick(about.len() / 2) {
        about.freed(held.pointer);
        free(&heap, NonNull::new(held.pointer).unwrap());
    }
    heap.release_all();
    for purpose in purposes {
        assert_eq!(purpose.inuse(), Bytes::ZERO, "{purpose:?}");
    }
    assert_eq!(heap.check(), Ok(()));
    for class in heap.snapshot().classes() {
        assert_eq!(class.allocated, class.freed, "blocks of {:?}", class.size);
    }
}
