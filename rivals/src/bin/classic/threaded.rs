//! Benchmarks of threads: each on its own, blocks freed elsewhere than they were made, threads that end.

use std::sync::mpsc::sync_channel;
use std::sync::{Barrier, Mutex};
use std::thread;

use crate::block::Block;
use crate::random::Random;

/// Random replacement among 10,000 blocks of 8 to 512 bytes on each of `threads` threads.
pub(crate) fn churn(threads: usize, divisor: usize) -> u64 {
    let steps = 24_000_000 / threads / divisor;
    thread::scope(|scope| {
        for seed in 0..threads {
            scope.spawn(move || {
                let mut random = Random::new(seed as u64);
                let mut slots: Vec<Block> = (0..10_000).map(|_| Block::new(random.between(8, 512))).collect();
                replace(&mut slots, &mut random, 8, 512, steps);
                slots.into_iter().for_each(Block::free);
            });
        }
    });
    (threads * (steps + 10_000)) as u64
}

fn replace(slots: &mut [Block], random: &mut Random, low: usize, high: usize, steps: usize) {
    for _ in 0..steps {
        let slot = random.below(slots.len());
        std::mem::replace(&mut slots[slot], Block::new(random.between(low, high))).free();
    }
}

/// One thread makes blocks of 16 to 512 bytes, another frees them: batches of 256 through a channel of 64.
pub(crate) fn handoff(divisor: usize) -> u64 {
    let batches = 60_000 / divisor;
    let (sender, receiver) = sync_channel::<Vec<Block>>(64);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut random = Random::new(23);
            for _ in 0..batches {
                let batch = (0..256).map(|_| Block::new(random.between(16, 512))).collect();
                sender.send(batch).expect("the consumer lives until the producer hangs up");
            }
        });
        scope.spawn(move || receiver.into_iter().flatten().for_each(Block::free));
    });
    batches as u64 * 256
}

/// Four threads that each make a batch, leave it in a common pool and free the oldest batch there: whose it is,
/// nobody knows.
pub(crate) fn exchange(divisor: usize) -> u64 {
    const THREADS: usize = 4;
    let rounds = 30_000 / divisor;
    let pool = Mutex::new(std::collections::VecDeque::<Vec<Block>>::new());
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = Random::new(seed as u64);
                for _ in 0..rounds {
                    let batch = (0..120).map(|_| Block::new(random.logarithmic(3, 10))).collect();
                    let oldest = {
                        let mut pool = pool.lock().expect("no thread panics with the pool");
                        pool.push_back(batch);
                        if pool.len() > 16 { pool.pop_front() } else { None }
                    };
                    oldest.into_iter().flatten().for_each(Block::free);
                }
            });
        }
    });
    pool.into_inner().expect("no thread panics with the pool").into_iter().flatten().for_each(Block::free);
    (THREADS * rounds * 120) as u64
}

/// A server after Larson: two lines of workers, each worker inherits an array of 1,000 requests of 10 to 500
/// bytes, replaces them at random 20,000 times and leaves the array to its successor, a new thread.
pub(crate) fn server(divisor: usize) -> u64 {
    const LINES: usize = 2;
    let generations = 400 / divisor;
    thread::scope(|scope| {
        for line in 0..LINES {
            scope.spawn(move || {
                let mut random = Random::new(line as u64);
                let mut slots: Vec<Block> = (0..1_000).map(|_| Block::new(random.between(10, 500))).collect();
                for generation in 0..generations {
                    let worker = thread::spawn(move || {
                        let mut random = Random::new((line * 1_000 + generation) as u64);
                        replace(&mut slots, &mut random, 10, 500, 20_000);
                        slots
                    });
                    slots = worker.join().expect("a worker panicked");
                }
                slots.into_iter().for_each(Block::free);
            });
        }
    });
    (LINES * (generations * 20_000 + 1_000)) as u64
}

/// Passive and active false sharing: the main thread makes neighbouring small blocks for four threads, which
/// free them, take their own of the same size and write them over and over.
pub(crate) fn scratch(divisor: usize) -> u64 {
    const THREADS: usize = 4;
    let rounds = 7_000 / divisor;
    let start = Barrier::new(THREADS);
    let gifts: Vec<Block> = (0..THREADS).map(|_| Block::new(24)).collect();
    thread::scope(|scope| {
        for gift in gifts {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                gift.free();
                for _ in 0..rounds {
                    let mut own = Block::new(24);
                    for value in 0..20_000 {
                        own.set_word(0, std::hint::black_box(value));
                    }
                    own.free();
                }
            });
        }
    });
    (THREADS * (rounds + 1)) as u64
}

/// 4,000 threads, four at a time, that each make 300 blocks of 16 B to 4 KiB, free half of them and end; the
/// main thread frees the rest afterwards, when the threads are gone.
pub(crate) fn short_threads(divisor: usize) -> u64 {
    let rounds = 1_000 / divisor;
    for round in 0..rounds {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                thread::spawn(move || {
                    let mut random = Random::new((round * 4 + worker) as u64);
                    let mut blocks: Vec<Block> =
                        (0..300).map(|_| Block::new(random.logarithmic(4, 12))).collect();
                    blocks.drain(..150).for_each(Block::free);
                    blocks
                })
            })
            .collect();
        let left: Vec<_> =
            workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).collect();
        left.into_iter().flatten().for_each(Block::free);
    }
    rounds as u64 * 4 * 300
}
