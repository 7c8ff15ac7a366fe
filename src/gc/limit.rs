//! The limiter of the collector's processor time.
//!
//! Near a memory limit that is too small the pacer would collect all the time. The limiter lets it take no more than
//! half of the processors in the long run: a leaky bucket that time spent on collecting fills and time spent on the
//! program drains, nanosecond for nanosecond. When it is full, mutators stop assisting, and the heap may grow beyond
//! the limit (or to an error, where the limit is hard).
//!
//! ```text
//!            collecting: + dt            program: − dt
//!        ─────────────────────▶ bucket ─────────────────▶
//!                                 │ 1 s a processor
//!                                 ▼ full: limiting, until anything drains
//! ```
//!
//! Nanoseconds are processor time: a stretch of `t` on `n` processors is `n · t`. Of a stretch of marking, 25 % count
//! as collecting, whatever background workers did, and all that mutators assisted; a stopped world is collecting as
//! a whole. Idle processors count as neither.
//!
//! 1. `fill` ≤ `capacity`.
//! 2. It limits from the moment when the bucket is full until the first stretch that drains it.
//!
//! Pure: it is told what time it is, and who calls it holds a lock or is the only one. (Go: `mgclimit.go`.)

use super::pace::BACKGROUND_UTILISATION;

#[cfg(all(test, not(loom)))]
mod tests;

/// What the bucket holds for each processor, in nanoseconds.
pub const CAPACITY: u64 = 1_000_000_000;
/// How often to [update](Limiter::update), in nanoseconds.
pub const PERIOD: u64 = 10_000_000;

/// The bucket. See the [file's head](self).
#[derive(Clone, Debug)]
pub struct Limiter {
    processors: u64,
    capacity: u64,
    fill: u64,
    /// What did not fit in, ever.
    overflow: u64,
    limiting: bool,
    marking: bool,
    /// The world is stopped.
    stopped: bool,
    /// The time of the last update.
    last: u64,
    /// Processor time that was not taken into account yet.
    assists: u64,
    idle: u64,
}

impl Limiter {
    /// An empty bucket at the time `now`.
    pub fn new(now: u64, processors: usize) -> Limiter {
        Limiter {
            processors: processors as u64,
            capacity: processors as u64 * CAPACITY,
            fill: 0,
            overflow: 0,
            limiting: false,
            marking: false,
            stopped: false,
            last: now,
            assists: 0,
            idle: 0,
        }
    }

    /// Whether mutators should not assist.
    pub fn is_limiting(&self) -> bool {
        self.limiting
    }

    /// Nanoseconds of processor time in the bucket.
    pub fn fill(&self) -> u64 {
        self.fill
    }

    /// Nanoseconds of processor time that it holds.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Nanoseconds of processor time that did not fit in, ever.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// A mutator has assisted for so many nanoseconds.
    pub fn add_assist(&mut self, time: u64) {
        self.assists += time;
    }

    /// A processor was idle, or did what nobody else wanted, for so many nanoseconds.
    pub fn add_idle(&mut self, time: u64) {
        self.idle += time;
    }

    /// Takes the time since the last update into account. A clock that goes backwards is ignored.
    pub fn update(&mut self, now: u64) {
        let Some(time) = now.checked_sub(self.last) else { return };
        self.last = now;
        let window = time * self.processors;
        let (assists, idle) = (core::mem::take(&mut self.assists), core::mem::take(&mut self.idle));
        let background = if self.marking { (window as f64 * BACKGROUND_UTILISATION) as u64 } else { 0 };
        let collecting = (assists + background) as i64;
        self.accumulate((window as i64).saturating_sub(idle as i64) - collecting, collecting);
    }

    /// The world is about to stop, and marking to begin or to end.
    ///
    /// # Panics
    /// In debug builds, when that is so already.
    pub fn stop(&mut self, marking: bool, now: u64) {
        debug_assert!(marking != self.marking, "marking: {marking} twice");
        self.update(now);
        self.marking = marking;
        self.stopped = true;
    }

    /// The world stands still, but there is more to mark: marking goes on when the world does.
    pub fn resume_marking(&mut self) {
        debug_assert!(self.stopped && !self.marking, "marking was not about to end");
        self.marking = true;
    }

    /// The world goes on. All of the time in between counts as collecting.
    ///
    /// # Panics
    /// In debug builds, when it was not stopped.
    pub fn go_on(&mut self, now: u64) {
        debug_assert!(self.stopped, "the world goes on, but it was not stopped");
        if let Some(time) = now.checked_sub(self.last) {
            self.accumulate(0, (time * self.processors) as i64);
        }
        self.last = now;
        self.stopped = false;
    }

    /// The number of processors has changed.
    pub fn set_processors(&mut self, processors: usize, now: u64) {
        self.update(now);
        self.processors = processors as u64;
        self.capacity = self.processors * CAPACITY;
        if self.fill != self.capacity {
            self.limiting = self.fill > self.capacity;
        }
        self.fill = self.fill.min(self.capacity);
    }

    /// Drains the program's time and fills in the collector's.
    fn accumulate(&mut self, program: i64, collecting: i64) {
        let room = self.capacity - self.fill;
        let change = collecting - program;
        let amount = change.unsigned_abs();
        if change > 0 && room <= amount {
            self.overflow += amount - room;
            self.fill = self.capacity;
            self.limiting = true;
            return;
        }
        self.fill = if change > 0 { self.fill + amount } else { self.fill.saturating_sub(amount) };
        if change != 0 && room == 0 {
            self.limiting = false;
        }
    }
}
