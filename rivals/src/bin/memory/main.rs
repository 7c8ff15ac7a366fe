//! Programs whose resident memory is what is measured: `memory NAME ARGUMENTS`.
//!
//! - `spike MIB KEEP SECONDS SIZES`: eight threads each allocate MIB of blocks of 32 bytes to 4 KiB (SIZES is `even` for
//!   all sizes alike, `log` for all doublings alike), free all but one in KEEP, and then do nothing for SECONDS, nor
//!   does anybody else.
//! - `churn SECONDS`: 150,000 blocks of 512 bytes, 100,000 of 1 KiB and 50,000 of 2 KiB in one mixture; one in 20 is kept.
//!   Then nothing happens for SECONDS.
//! - `limit MIB SECONDS`: two threads hold MIB in blocks of 16 bytes to 64 KiB and replace them at random for SECONDS.
//!
//! Each prints `name=value` pairs; bytes are those of the kernel's `smaps_rollup`. What the program itself
//! needs to remember its blocks lies in mappings that it makes before anything else and counts apart (`own`), so it
//! neither allocates nor frees while it waits. `whole` are bytes in system pages that freed blocks touched and no
//! live one does, `returned` those of them that are resident no more.
//!
//! # Safety
//! Blocks are plain memory of one holder each; the first word of each carries its number, and is looked at before it
//! is freed.

#[path = "../classic/random.rs"]
#[allow(dead_code, reason = "the other benchmarks use the rest")]
mod random;

mod blocks;

use blocks::{Blocks, whole_pages};
use random::Random;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const SPIKE_THREADS: usize = 8;
const LIMIT_THREADS: usize = 2;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let number = |at: usize, usual: usize| {
        rest.get(at).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")))
    };
    match name.as_str() {
        "spike" => {
            let sizes = match rest.get(3).map(String::as_str) {
                None | Some("even") => |random: &mut Random| random.between(32, 4096),
                Some("log") => |random: &mut Random| random.logarithmic(5, 12),
                Some(other) => panic!("sizes are even or log, not {other:?}"),
            };
            spike(number(0, 160), number(1, 16), number(2, 10), sizes);
        }
        "churn" => churn(number(0, 10)),
        "limit" => limit(number(0, 400), number(1, 20)),
        _ => panic!("memory spike|churn|limit; see the head of its source"),
    }
}

fn spike(mib: usize, keep: usize, seconds: usize, size: fn(&mut Random) -> usize) {
    // The mean size is at least a fifth of the largest.
    let room = (mib << 20) / 400;
    let all: Vec<_> = (0..SPIKE_THREADS).map(|_| Mutex::new(Blocks::with_room(room))).collect();
    let barrier = Barrier::new(SPIKE_THREADS + 1);
    thread::scope(|scope| {
        for (index, blocks) in all.iter().enumerate() {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut random = Random::new(index as u64 + 1);
                let mut blocks = blocks.lock().expect("nobody panics");
                while blocks.bytes() < mib << 20 {
                    blocks.push(size(&mut random));
                }
                barrier.wait();
                // Here the peak is read.
                barrier.wait();
                blocks.retain(|| random.below(keep) == 0);
                drop(blocks);
                barrier.wait();
                // The thread lives, and does nothing.
                barrier.wait();
            });
        }
        barrier.wait();
        let peak = resident();
        barrier.wait();
        barrier.wait();
        wait_and_see(peak, seconds);
        let mut all: Vec<_> = all.iter().map(|blocks| blocks.lock().expect("nobody panics")).collect();
        finish(&mut all.iter_mut().map(|blocks| &mut **blocks).collect::<Vec<_>>());
        drop(all);
        barrier.wait();
    });
}

/// Does nothing for a while, and says what is resident before and after it.
fn wait_and_see(peak: usize, seconds: usize) {
    let (freed, time) = (resident(), processor_time());
    thread::sleep(Duration::from_secs(seconds as u64));
    let (idle, time) = (resident(), processor_time() - time);
    println!("peak={peak} freed={freed} idle={idle} idle_processor={time:.4}");
}

/// Says what is left and what has become of the rest, and frees all.
fn finish(all: &mut [&mut Blocks]) {
    let whole = whole_pages(all);
    let kept: usize = all.iter().map(|blocks| blocks.bytes()).sum();
    let count: usize = all.iter().map(|blocks| blocks.len()).sum();
    let own: usize = all.iter().map(|blocks| blocks.own()).sum();
    println!("kept={kept} blocks={count} own={own} whole={} returned={}", whole.bytes, whole.returned);
    all.iter_mut().for_each(|blocks| blocks.retain(|| false));
}

fn churn(seconds: usize) {
    let mut blocks = Blocks::with_room(300_000);
    let mut random = Random::new(7);
    let mut left = [(512, 150_000usize), (1024, 100_000), (2048, 50_000)];
    while left.iter().any(|kind| kind.1 > 0) {
        let at = random.below(left.iter().map(|kind| kind.1).sum());
        let before = |kind: usize| left[..kind].iter().map(|kind| kind.1).sum::<usize>();
        let kind = (0..left.len()).rev().find(|&kind| at >= before(kind)).unwrap_or(0);
        left[kind].1 -= 1;
        blocks.push(left[kind].0);
    }
    let peak = resident();
    blocks.retain(|| random.below(20) == 0);
    wait_and_see(peak, seconds);
    finish(&mut [&mut blocks]);
}

fn limit(mib: usize, seconds: usize) {
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    let each = (mib << 20) / LIMIT_THREADS;
    let mut peak = 0;
    let mut totals = (0, 0, 0);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..LIMIT_THREADS)
            .map(|index| {
                scope.spawn(move || {
                    let mut random = Random::new(index as u64 + 1);
                    let mut blocks = Blocks::with_room(each / 64);
                    let (mut replaced, mut refused) = (0usize, 0usize);
                    while Instant::now() < end {
                        let size = random.logarithmic(4, 16);
                        while blocks.bytes() + size > each {
                            let at = random.below(blocks.len());
                            blocks.free(at);
                            replaced += 1;
                        }
                        refused += usize::from(!blocks.try_push(size));
                    }
                    let own = blocks.own();
                    blocks.retain(|| false);
                    (replaced, refused, own)
                })
            })
            .collect();
        while Instant::now() < end {
            peak = peak.max(resident());
            thread::sleep(Duration::from_millis(20));
        }
        for thread in threads {
            let (replaced, refused, own) = thread.join().expect("a thread panicked");
            totals = (totals.0 + replaced, totals.1 + refused, totals.2 + own);
        }
    });
    println!("peak={peak} replaced={} refused={} own={}", totals.0, totals.1, totals.2);
}

/// Resident bytes of the process, exactly: the running count of `statm` may be off by some dozens of pages.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel says what is resident");
    let line = text.lines().find(|line| line.starts_with("Rss:")).expect("a line on what is resident");
    let kib: usize = line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib << 10
}

/// Seconds of processor time of the whole process.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is a local of the right type.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "processes have a clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
