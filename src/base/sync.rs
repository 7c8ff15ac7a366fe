//! Atomics, and the two things that a lock needs of the machine: a pause and a place to sleep.
//!
//! Under `--cfg loom` the same names are loom's, so that the model checker runs the very code that ships.
//! [`wait`] and [`wake`] are the only system calls outside the room `os`: a lock that sleeps must be at hand
//! in every room, and `os` is built on locks itself.

#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Tells the processor (and loom's scheduler) that this thread waits for another one.
#[inline]
pub fn pause() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    core::hint::spin_loop();
}

/// Gives the rest of this thread's time slice away.
pub fn yield_now() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    rustix::thread::sched_yield();
}

/// Stores a value so that no load of this thread that follows is made before others can see it.
///
/// Whoever does the same with the word that those loads read will find that at least one of the two threads sees
/// the other's value (Dekker). One exchange costs half of a store and a fence; loom's order of exchanges is weaker
/// than the language's, so there it is a fence.
#[inline]
pub fn store_before_loads(word: &AtomicUsize, value: usize) {
    #[cfg(not(loom))]
    word.swap(value, Ordering::SeqCst);
    #[cfg(loom)]
    {
        word.store(value, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

/// Sleeps while `word` is `expected`; may wake for no reason.
#[cfg(not(loom))]
pub fn wait(word: &AtomicU32, expected: u32) {
    // An interrupted or refused wait is a wake-up for no reason: the caller looks again.
    let _ = rustix::thread::futex::wait(word, rustix::thread::futex::Flags::PRIVATE, expected, None);
}

/// As [`wait`], for so many nanoseconds at most.
#[cfg(not(loom))]
pub fn wait_for(word: &AtomicU32, expected: u32, nanoseconds: u64) {
    let time = rustix::thread::futex::Timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    };
    let _ = rustix::thread::futex::wait(word, rustix::thread::futex::Flags::PRIVATE, expected, Some(&time));
}

/// Wakes one thread that sleeps on `word`.
#[cfg(not(loom))]
pub fn wake(word: &AtomicU32) {
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::PRIVATE, 1);
}

/// Wakes every thread that sleeps on `word`.
#[cfg(not(loom))]
pub fn wake_all(word: &AtomicU32) {
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::PRIVATE, i32::MAX as u32);
}

/// Loom has no futex: a waiter spins.
#[cfg(loom)]
pub fn wait(_word: &AtomicU32, _expected: u32) {
    loom::thread::yield_now();
}

/// Loom has no futex: nobody sleeps.
#[cfg(loom)]
pub fn wake(_word: &AtomicU32) {}

/// Loom has no futex: nobody sleeps.
#[cfg(loom)]
pub fn wake_all(_word: &AtomicU32) {}

/// Waits in ever longer steps: first by spinning, then by giving the time slice away.
///
/// For waits that end as soon as another thread leaves a few instructions.
pub struct Backoff(u32);

impl Backoff {
    /// A fresh wait.
    pub const fn new() -> Backoff {
        Backoff(0)
    }

    /// Waits one step.
    pub fn step(&mut self) {
        if self.0 < 6 {
            for _ in 0..1 << self.0 {
                pause();
            }
            self.0 += 1;
        } else {
            yield_now();
        }
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}
