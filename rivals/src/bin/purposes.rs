//! What accounting by purpose costs a program whose global allocator is the heap.
//!
//! Two threads do *requests*. A request allocates [`PER_REQUEST`] blocks of 16 B to 4 KiB into random places of
//! its SLOTS, in place of blocks that some earlier request left there, and fills a few growing vectors. Its first half is
//! for one purpose, its second for another, whose scope is inside the first's. Every [`HANDOVER`] requests the thread
//! leaves some of its blocks for the other to free. So blocks are freed under another purpose than their own, and
//! often by another thread. The work is the same, number for number, in three *modes*:
//!
//! ```text
//!   one      no scopes: everything is for `blocks`          what the other two are compared with
//!   entered  the scopes, all of one purpose                 what entering and leaving costs
//!   eight    the scopes, of eight purposes                  that, and eight sets of spans instead of one
//! ```
//!
//! The modes run alternately, and each round prints a line. While the blocks of a round are still there, the
//! program's own count by purpose is compared with the books; at the end, everything is free and checked.
//!
//! `purposes [ROUNDS [SLOTS [REQUESTS [MODE]]]]` (one mode alone is for a profiler) prints
//! `purposes mode=one processor=0.5 wall=0.3` (seconds of both threads together, and from start to end) and
//! `scope ns=4.2`.
//!
//! # Safety
//! The only unsafe call reads a clock.

use std::hint::black_box;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Instant;

use spanheap::base::random::Random;
use spanheap::{Bytes, Purpose, SpanHeap};

#[global_allocator]
static HEAP: SpanHeap = SpanHeap::new();

const PURPOSES: usize = 8;
const THREADS: usize = 2;
const PER_REQUEST: usize = 48;
/// Requests between two handovers, and the blocks that each hands over.
const HANDOVER: usize = 16;
const HANDED: usize = 64;

/// How a round's scopes go.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    One,
    Entered,
    Eight,
}

const MODES: [Mode; 3] = [Mode::One, Mode::Entered, Mode::Eight];

/// The declared purposes.
type Purposes = [Purpose<'static>; PURPOSES];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::One => "one",
            Mode::Entered => "entered",
            Mode::Eight => "eight",
        }
    }

    /// Runs `work` in the scope that this mode has for purpose `index`.
    #[inline(always)]
    fn within<T>(self, purposes: &Purposes, index: usize, work: impl FnOnce() -> T) -> T {
        match self {
            Mode::One => work(),
            Mode::Entered => purposes[0].scope(work),
            Mode::Eight => purposes[index].scope(work),
        }
    }
}

/// A block of the program's, and the purpose it was made for.
struct Held {
    bytes: Vec<u8>,
    purpose: usize,
}

/// Bytes asked for, by purpose.
type Sums = [usize; PURPOSES];

/// One thread's part of a round.
struct Worker<'a> {
    mode: Mode,
    purposes: &'a Purposes,
    random: Random,
    slots: Vec<Held>,
    /// What the other thread left, and what this one leaves.
    mailboxes: [&'a Mutex<Vec<Held>>; 2],
}

impl Worker<'_> {
    fn request(&mut self) {
        let [outer, inner] = [0; 2].map(|_| self.random.below(PURPOSES));
        let (mode, purposes) = (self.mode, self.purposes);
        mode.within(purposes, outer, || {
            self.replace(outer, PER_REQUEST / 2);
            mode.within(purposes, inner, || self.replace(inner, PER_REQUEST / 2));
            self.grow();
        });
    }

    /// Blocks for `purpose` in place of others.
    fn replace(&mut self, purpose: usize, count: usize) {
        for _ in 0..count {
            let slot = self.random.below(self.slots.len());
            let shift = 4 + self.random.below(8);
            let size = (1 << shift) + self.random.below(1 << shift);
            let mut bytes = Vec::with_capacity(size);
            // What a program does with a block, at the least.
            bytes.extend_from_slice(&[purpose as u8; 16]);
            self.slots[slot] = Held { bytes, purpose };
        }
    }

    /// Vectors that grow one by one, and are gone again.
    fn grow(&mut self) {
        let mut vectors: [Vec<u64>; 3] = Default::default();
        for number in 0..40 {
            vectors[number % 3].push(number as u64);
        }
        black_box(&vectors);
    }

    /// Leaves blocks for the other thread, and frees what that has left.
    fn hand_over(&mut self) {
        let mut leaving = Vec::with_capacity(HANDED);
        for _ in 0..HANDED {
            let slot = self.random.below(self.slots.len());
            leaving.push(std::mem::replace(&mut self.slots[slot], Held { bytes: Vec::new(), purpose: 0 }));
        }
        self.mailboxes[1].lock().unwrap().append(&mut leaving);
        let found = std::mem::take(&mut *self.mailboxes[0].lock().unwrap());
        drop(found);
    }

    fn live(&self) -> Sums {
        let mut sums = [0; PURPOSES];
        self.slots.iter().for_each(|held| sums[held.purpose] += held.bytes.capacity());
        sums
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |usual| arguments.next().map_or(usual, |text| text.parse().expect("a number"));
    let (rounds, slots, requests) = (number(3), number(8_000), number(40_000));
    let only = arguments.next();
    let purposes: Purposes =
        std::array::from_fn(|index| HEAP.heap().declare(&format!("part-{index}")).expect("names are fresh"));
    // The first round of each mode makes the heap as large as it gets, and is not printed.
    for round in 0..=rounds {
        for turn in 0..MODES.len() {
            let mode = MODES[(round + turn) % MODES.len()];
            if only.as_ref().is_some_and(|only| only != mode.name()) {
                continue;
            }
            let (processor, wall) = work(mode, &purposes, slots, requests);
            if round > 0 {
                println!("purposes mode={} processor={processor:.5} wall={wall:.5}", mode.name());
            }
        }
    }
    println!("scope ns={:.2}", scope_cost(&purposes));
    everything_is_free(&purposes);
}

/// One round: its processor time and its wall time, in seconds.
fn work(mode: Mode, purposes: &Purposes, slots: usize, requests: usize) -> (f64, f64) {
    let mailboxes = [Mutex::default(), Mutex::default()];
    let sums = Mutex::new([0; PURPOSES]);
    let done = Barrier::new(THREADS + 1);
    let start = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|index| {
                let (mailboxes, sums, done) = (&mailboxes, &sums, &done);
                scope.spawn(move || {
                    let slots = (0..slots).map(|_| Held { bytes: Vec::new(), purpose: 0 }).collect();
                    let random = Random::new(index as u64 + 1);
                    let mailboxes = [&mailboxes[index], &mailboxes[1 - index]];
                    let mut worker = Worker { mode, purposes, random, slots, mailboxes };
                    for request in 0..requests {
                        worker.request();
                        if request % HANDOVER == 0 {
                            worker.hand_over();
                        }
                    }
                    let time = processor_time();
                    let live = worker.live();
                    sums.lock().unwrap().iter_mut().zip(live).for_each(|(sum, own)| *sum += own);
                    done.wait();
                    // Meanwhile the books are compared.
                    done.wait();
                    time
                })
            })
            .collect();
        done.wait();
        let wall = start.elapsed().as_secs_f64();
        if mode == Mode::Eight {
            compare(purposes, &sums.lock().unwrap());
        }
        done.wait();
        let times = workers.into_iter().map(|worker| worker.join().expect("a worker panicked"));
        (times.sum(), wall)
    })
}

/// Every purpose must have at least what the program holds for it.
fn compare(purposes: &Purposes, sums: &Sums) {
    for (purpose, sum) in purposes.iter().zip(sums) {
        let Bytes(booked) = purpose.inuse();
        assert!(booked >= *sum, "{} has {booked} B in the books and {sum} B live", purpose.name());
    }
}

/// Nanoseconds to enter and leave a scope, on one thread: the median of many loops.
fn scope_cost(purposes: &Purposes) -> f64 {
    const LOOPS: usize = 101;
    const PAIRS: usize = 20_000;
    // A purpose that this thread allocates for has a cache to switch to.
    purposes.iter().for_each(|purpose| purpose.scope(|| drop(black_box(vec![0u8; 100]))));
    let mut times: Vec<f64> = (0..LOOPS)
        .map(|_| {
            let start = Instant::now();
            (0..PAIRS).for_each(|pair| purposes[pair % PURPOSES].scope(|| black_box(())));
            start.elapsed().as_secs_f64() * 1e9 / PAIRS as f64
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[LOOPS / 2]
}

/// All blocks are free: no purpose may have anything, and every figure must be right.
fn everything_is_free(purposes: &Purposes) {
    let heap = HEAP.heap();
    heap.check().expect("the heap is as it should be");
    heap.release_all();
    heap.check().expect("the heap is as it should be");
    for purpose in purposes {
        assert_eq!(purpose.inuse(), Bytes::ZERO, "{} has something left", purpose.name());
    }
    let snapshot = heap.snapshot();
    snapshot.check().expect("the books agree with themselves");
    let sum: i64 = snapshot.accounts().map(|account| snapshot.balance(account)).sum();
    assert_eq!(sum, 0, "the accounts do not add up to zero");
    println!("books ok");
}

/// Seconds of processor time of the calling thread.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is a local of the right type.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "threads have a clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
