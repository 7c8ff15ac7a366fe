//! The collector's own threads: one that drives cycles when it is time for one, and helpers that mark with it.
//!
//! ```text
//!   driver    sleeps on `wanted` ──▶ drives a cycle, sweeps in the background ──▶ sleeps
//!   helper    sleeps on `turn` ──▶ enters the gate ──▶ marks until there is no work ──▶ leaves ──▶ sleeps
//! ```
//!
//! The threads are started when a cycle is wanted for the first time, and end with the heap. They are the standard
//! library's, which takes what it needs for a thread from the global allocator: the one place where the collector does.
//! Where the system refuses a thread, the next mutator that comes to a safepoint drives the cycle itself.
//!
//! 1. A helper marks only inside of the gate. The driver closes it before marking ends, and waits until all have left.
//!
//! # Safety
//! The threads reach the heap by a pointer. It lives until they have ended: `Heap` joins them before it goes.

use super::Collection;
use crate::base::sync::{self, AtomicBool, AtomicU32, Backoff, Ordering};
use crate::base::{Lock, Rank};
use crate::front::heap::Heap;
use crate::gc::Worker;
use crate::gc::pace::IDLE_PERIOD;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use std::thread::{Builder, JoinHandle};

/// The most threads of one heap's collector.
const MOST: usize = 16;

/// What driver, helpers and mutators tell each other.
pub(super) struct Background {
    threads: Lock<[Option<JoinHandle<()>>; MOST]>,
    /// Whether threads were started, or refused.
    started: AtomicBool,
    /// Whether the driver runs; otherwise mutators drive.
    driven: AtomicBool,
    /// Grows with every wish for a cycle.
    wanted: AtomicU32,
    /// Grows with every round of marking.
    turn: AtomicU32,
    gate: Gate,
    ending: AtomicBool,
}

/// Who may be inside: nobody unless it is open.
#[derive(Default)]
struct Gate(AtomicU32);

const OPEN: u32 = 1 << 31;

impl Gate {
    fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::AcqRel);
    }

    /// Lets nobody in any more, and waits until all have left.
    fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut backoff = Backoff::new();
        while self.0.load(Ordering::Acquire) != 0 {
            backoff.step();
        }
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) & OPEN != 0
    }

    fn enter(&self) -> bool {
        let more = |word: u32| (word & OPEN != 0).then_some(word + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A heap's address, on its way to a thread.
struct Sent(NonNull<crate::front::core::HeapCore>);

// SAFETY: heaps are shared by threads.
unsafe impl Send for Sent {}

impl Background {
    pub(super) fn new() -> Background {
        Background {
            threads: Lock::new(Rank::Leaf, [const { None }; MOST]),
            started: AtomicBool::new(false),
            driven: AtomicBool::new(false),
            wanted: AtomicU32::new(0),
            turn: AtomicU32::new(0),
            gate: Gate::default(),
            ending: AtomicBool::new(false),
        }
    }

    /// Helpers may mark from here on, and are woken.
    pub(super) fn let_help(&self) {
        self.gate.open();
        self.turn.fetch_add(1, Ordering::AcqRel);
        sync::wake_all(&self.turn);
    }

    /// Takes the lock, before a `fork`.
    pub(super) fn acquire_for_fork(&self) {
        self.threads.acquire_equal();
    }

    /// Gives it back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`Background::acquire_for_fork`], or is the only one left of a process that had.
    pub(super) unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.threads.release() }
    }

    /// None of the threads is there: they are started again when a cycle is wanted.
    ///
    /// # Safety
    /// This is the child of a `fork`, before which its only thread called [`Background::acquire_for_fork`].
    pub(super) unsafe fn forget(&self) {
        // SAFETY: the lock is held. What the library knows of the threads is about another process.
        let threads = unsafe { self.threads.held_mut() };
        threads.iter_mut().filter_map(Option::take).for_each(core::mem::forget);
        self.started.store(false, Ordering::Relaxed);
        self.driven.store(false, Ordering::Relaxed);
        self.gate.0.store(0, Ordering::Relaxed);
    }

    /// No helper marks when this returns.
    pub(super) fn end_help(&self) {
        self.gate.close();
    }
}

impl Collection {
    /// Asks for a cycle. Returns whether a thread of the collector's will drive it; if not, the caller does, at its next
    /// safepoint.
    pub(super) fn want_cycle(&self, heap: &Heap, workers: u32) -> bool {
        if workers == 0 {
            return false;
        }
        if !self.background.started.swap(true, Ordering::AcqRel) {
            self.start_threads(heap, workers);
        }
        if !self.background.driven.load(Ordering::Acquire) {
            return false;
        }
        self.background.wanted.fetch_add(1, Ordering::AcqRel);
        sync::wake_all(&self.background.wanted);
        true
    }

    fn start_threads(&self, heap: &Heap, workers: u32) {
        let start = |name: &str, work: fn(&Heap, &Collection)| {
            let core = Sent(NonNull::from(heap.core()));
            let body = move || {
                let core = core;
                // SAFETY: the file's head. The copy is not the heap's owner.
                let heap = unsafe { ManuallyDrop::new(Heap::borrowed(core.0)) };
                let collection = heap.core().collection().expect("a collection has started this thread");
                work(&heap, collection);
            };
            Builder::new().name(name.into()).spawn(body).ok()
        };
        let driver = start("spanheap gc", drive);
        self.background.driven.store(driver.is_some(), Ordering::Release);
        let helpers = (workers.min(MOST as u32) - 1) * u32::from(driver.is_some());
        let started = core::iter::once(driver).chain((0..helpers).map(|_| start("spanheap mark", help)));
        for (at, thread) in started.enumerate() {
            self.background.threads.lock()[at] = thread;
        }
    }

    /// Ends the collector's threads, and waits until they have gone. Nobody uses the heap any more, though a thread may have
    /// forgotten its place there: whoever waits for that one to stop shall not wait for ever.
    pub(crate) fn end_threads(&self) {
        self.background.ending.store(true, Ordering::Release);
        self.abandon_members();
        for word in [&self.background.wanted, &self.background.turn] {
            word.fetch_add(1, Ordering::AcqRel);
            sync::wake_all(word);
        }
        for at in 0..MOST {
            let thread = self.background.threads.lock()[at].take();
            if let Some(thread) = thread {
                // A thread that panicked has said so.
                let _ = thread.join();
            }
        }
    }

    fn is_ending(&self) -> bool {
        self.background.ending.load(Ordering::Acquire)
    }
}

/// The driver's life.
fn drive(heap: &Heap, collection: &Collection) {
    let background = &collection.background;
    let mut seen = 0;
    while !collection.is_ending() {
        let wanted = background.wanted.load(Ordering::Acquire);
        if wanted == seen {
            sync::wait_for(&background.wanted, wanted, IDLE_PERIOD);
            collection.collect_if_idle(heap);
            continue;
        }
        seen = wanted;
        collection.collect_if_due(heap);
    }
}

/// A helper's life.
fn help(heap: &Heap, collection: &Collection) {
    let background = &collection.background;
    let mut worker = Worker::new();
    let mut seen = 0;
    while !collection.is_ending() {
        let turn = background.turn.load(Ordering::Acquire);
        if turn == seen {
            sync::wait(&background.turn, turn);
            continue;
        }
        seen = turn;
        if background.gate.enter() {
            collection.with_marking_clocked(heap, heap.mutator(), |marking| {
                worker.drain_with_others(marking, |_| !background.gate.is_open());
            });
            background.gate.leave();
        }
    }
}
