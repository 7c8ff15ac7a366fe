//! The pacer: when a collection starts, how much mutators must help, and how fast to sweep.
//!
//! Numbers in, numbers out: it knows no heap, no thread and no clock, so recorded cycles can be played to it. The policy
//! is that of Go since 1.19; the recorded cycles of its simulation come out to the byte.
//!
//! ```text
//!   bytes
//!    ▲                                              ── hard goal
//!    │                                   ╭─ live ── goal
//!    │                              ╭────╯ marking
//!    │                    ╭─────────╯ trigger
//!    │        ╭───────────╯ sweeping, allocating
//!    │ marked ╯                                  marked
//!    └────────────────────────────────────────────────▶ time
//!      commit               start               finish, commit
//! ```
//!
//! Figures are bytes unless another unit is given. *Live* is what counts for the goal: bytes of objects, and the
//! *external* bytes that objects keep alive elsewhere. External bytes are never scanned, so they are in no figure of
//! work. *Work* is bytes to look at for pointers: of objects up to their last pointer, of stacks, and of other roots.
//!
//! # Formulas
//!
//! - Goal by percent: `marked + (marked + stacks + roots) · percent / 100`, and at least `minimum · percent / 100`, where
//!   *marked* is what the last cycle left, *stacks* what it scanned of stacks, and *roots* the size of other roots.
//! - Goal by the memory limit: `limit − other − overage − headroom`, where *other* is what is in use but not live, *overage*
//!   what is in use above the limit, and *headroom* 3 % of the goal, at least 1 MiB. At least `marked`: below that
//!   no collection can come. The smaller of the two goals holds.
//! - Runway: `cons/mark · (1 − u) / u · (last work)`: the bytes allocated while marking, if collecting takes the share
//!   `u` = 25 % of the processors. *Cons/mark* is bytes allocated per byte of work, each per processor time; the largest of
//!   the last five cycles counts.
//! - Trigger: `goal − runway`, kept within 45/64 and 61/64 (or 4 MiB below the goal, if that is later) of the way from
//!   `marked` to the goal.
//! - Assist ratio: `(work left) / (goal − live)`: bytes of work per byte allocated. As much work is expected as last
//!   time, and what the caller knows of growth ([`Pacer::expect_growth`]; nothing, in Go). If there is more, the goal is stretched
//!   in proportion, up to the *hard goal* `goal · (1 + percent / 100)`; beyond the goal it is 10 % more than the goal.
//! - Sweep ratio: `(pages not swept) / (trigger − live − 1 MiB)`: pages per byte allocated.
//!
//! 1. `marked` ≤ trigger ≤ goal, whatever the figures.
//! 2. Ratios are positive and finite, or zero where there is nothing to do.
//!
//! (Go: `mgcpacer.go`, `mgcsweep.go`.)

use crate::base::{Bytes, Pages};

#[cfg(all(test, not(loom)))]
mod tests;

/// The share of the processors that marking takes without help: its goal, and what background work gets.
pub const BACKGROUND_UTILISATION: f64 = 0.25;
/// The least goal at 100 percent.
pub const DEFAULT_MINIMUM: Bytes = Bytes::mib(4);
/// After so many nanoseconds without a collection one starts if anything was allocated.
pub const IDLE_PERIOD: u64 = 120_000_000_000;
/// Work that an assist does at least, in bytes: one that comes is worth its while, and the surplus is credit.
pub const LEAST_ASSIST: u64 = Bytes::kib(64).0 as u64;
/// A background worker's work becomes credit for assists in steps of so many bytes.
pub const CREDIT_STEP: u64 = 2000;

/// The least bytes that a trigger and the goal, or two collections, lie apart.
const LEAST_RUNWAY: u64 = Bytes::kib(64).0 as u64;
/// Room for sweeping: the trigger keeps so far from what is live while sweeping is not complete.
const SWEEP_DISTANCE: u64 = Bytes::mib(1).0 as u64;
/// The bounds of the trigger between marked and goal, in parts of `PARTS`.
const PARTS: u64 = 64;
const LEAST_TRIGGER: u64 = 45;
const MOST_TRIGGER: u64 = 61;
/// The percent that is reckoned with for assists when collections have no percent.
const NO_PERCENT: u64 = 100_000;
/// Cycles whose cons/mark ratio is remembered beside the last one's.
const HISTORY: usize = 4;
/// The least work that counts as left, in bytes: an estimate is never exact.
const LEAST_WORK: i64 = 1000;
/// How far assists stretch a goal that is passed.
const OVERSHOOT: f64 = 1.1;
/// What the memory limit's goal keeps free of it.
const HEADROOM: u64 = Bytes::mib(1).0 as u64;
const HEADROOM_PERCENT: u64 = 3;

/// What a program chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How much may be allocated between collections, in percent of what is live after one; `None`: any amount.
    pub percent: Option<u32>,
    /// The most that the heap should keep from the system; `None`: any amount.
    pub limit: Option<Bytes>,
    /// The least goal at 100 percent; it grows and shrinks with the percent.
    pub minimum: Bytes,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { percent: Some(100), limit: None, minimum: DEFAULT_MINIMUM }
    }
}

/// What memory is in use: for the goal that the memory limit allows. Torn readings are fine.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Footprint {
    /// All bytes that count against the limit: what the heap keeps from the system, and external bytes that it does not
    /// keep itself.
    pub used: Bytes,
    /// Of those, free pages.
    pub free: Bytes,
    /// Of those, objects that are not swept away yet, and external bytes.
    pub allocated: Bytes,
}

/// Bytes of work, by where they come from.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Work {
    /// Objects.
    pub heap: u64,
    /// Execution stacks.
    pub stacks: u64,
    /// Other roots.
    pub roots: u64,
}

impl Work {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.heap + self.stacks + self.roots
    }
}

/// How far a cycle is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes that are live, with what was allocated since the cycle began.
    pub live: u64,
    /// Of those, bytes of objects that may have to be looked at.
    pub scannable: u64,
    /// Work that is done.
    pub done: Work,
}

/// What a cycle was like, at its end.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cycle {
    /// Figures at the end of marking.
    pub progress: Progress,
    /// Nanoseconds from the start of marking to its end.
    pub duration: u64,
    /// Processor time that mutators spent on assists, in nanoseconds.
    pub assist_time: u64,
    /// Processor time that workers spent on marking that nobody else wanted, in nanoseconds.
    pub idle_time: u64,
    /// Processors.
    pub processors: usize,
    /// Bytes that count as live from here on: what is marked, and external bytes.
    pub marked: u64,
}

/// When to start, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// Live bytes at which a collection starts.
    pub trigger: u64,
    /// Live bytes that it should be complete by.
    pub goal: u64,
}

/// How much help is wanted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Assist {
    /// Bytes of work for each byte allocated.
    pub work_per_byte: f64,
    /// Bytes that a byte of work allows to be allocated.
    pub bytes_per_work: f64,
}

/// The state that lasts from cycle to cycle. See the [file's head](self).
#[derive(Clone, Debug)]
pub struct Pacer {
    settings: Settings,
    /// Bytes marked in the last cycle.
    marked: u64,
    /// Live bytes when the cycle that runs began.
    triggered: Option<u64>,
    /// Work of the last cycle.
    last: Work,
    /// The size of the roots that are no stacks, and the most that scanning the stacks may take.
    roots: u64,
    stacks: u64,
    /// Work of the cycle that runs, beyond the last one's.
    growth: u64,
    cons_mark: f64,
    history: [f64; HISTORY],
    /// The goal by percent; `None`: no bound.
    percent_goal: Option<u64>,
    /// No trigger below this while sweeping may not be complete.
    sweep_trigger: u64,
    runway: u64,
    /// The goal of the last complete cycle.
    last_goal: u64,
}

impl Pacer {
    /// A pacer before the first collection.
    pub fn new(settings: Settings) -> Pacer {
        let mut pacer = Pacer {
            settings,
            marked: 0,
            triggered: None,
            last: Work::default(),
            roots: 0,
            stacks: 0,
            growth: 0,
            cons_mark: 0.0,
            history: [0.0; HISTORY],
            percent_goal: None,
            sweep_trigger: 0,
            runway: 0,
            last_goal: 0,
        };
        pacer.commit(0, true);
        pacer
    }

    /// What was chosen.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Changes what was chosen. `live` bytes are live; `swept`: sweeping is complete.
    pub fn set(&mut self, settings: Settings, live: u64, swept: bool) {
        self.settings = settings;
        self.commit(live, swept);
    }

    /// Bytes that the last cycle marked.
    pub fn marked(&self) -> u64 {
        self.marked
    }

    /// Live bytes when the cycle that runs began.
    pub fn triggered(&self) -> Option<u64> {
        self.triggered
    }

    /// The goal of the last complete cycle; zero before the first one.
    pub fn last_goal(&self) -> u64 {
        self.last_goal
    }

    /// Works out goal and runway from what the last cycle left, when sweeping begins or is complete, or a setting has
    /// changed.
    pub fn commit(&mut self, live: u64, swept: bool) {
        self.sweep_trigger = if swept { 0 } else { live + SWEEP_DISTANCE };
        self.percent_goal = self.settings.percent.map(|percent| {
            let base = self.marked + self.last.stacks + self.roots;
            let goal = self.marked.saturating_add(part(base, percent as u64, 100));
            goal.max(part(self.settings.minimum.0 as u64, percent as u64, 100))
        });
        let u = BACKGROUND_UTILISATION;
        let work = self.last.heap + self.last.stacks + self.roots;
        self.runway = (self.cons_mark * (1.0 - u) / u * work as f64) as u64;
    }

    /// The goal, with the least trigger that goes with it.
    fn goal_and_least(&self, footprint: &Footprint) -> (u64, u64) {
        let goal = self.percent_goal.unwrap_or(u64::MAX);
        if let Some(limited) = self.limited_goal(footprint).filter(|&limited| limited < goal) {
            // The limit comes before room for sweeping.
            return (limited, 0);
        }
        let mut goal = goal.max(self.sweep_trigger);
        if let Some(triggered) = self.triggered {
            goal = goal.max(triggered.saturating_add(LEAST_RUNWAY));
        }
        (goal, self.sweep_trigger)
    }

    /// The goal that the memory limit allows, if there is one.
    fn limited_goal(&self, footprint: &Footprint) -> Option<u64> {
        let limit = self.settings.limit?.0 as u64;
        let Footprint { used, free, allocated } = *footprint;
        let (used, known) = (used.0 as u64, free.0 as u64 + allocated.0 as u64);
        // What stands in the way of objects: stacks, blocks, tables, and what is lost between objects. Overage counts as
        // well, since nobody knows when it will be given back.
        let other = used.saturating_sub(known) + used.saturating_sub(limit);
        if other >= limit {
            return Some(self.marked);
        }
        let goal = limit - other;
        let headroom = (goal / 100 * HEADROOM_PERCENT).max(HEADROOM);
        let goal = if goal < headroom || goal - headroom < headroom { headroom } else { goal - headroom };
        Some(goal.max(self.marked))
    }

    /// Live bytes that the cycle which runs, or the next one, should be complete by.
    pub fn goal(&self, footprint: &Footprint) -> u64 {
        self.goal_and_least(footprint).0
    }

    /// When the next cycle should start.
    pub fn trigger(&self, footprint: &Footprint) -> Trigger {
        let (goal, least) = self.goal_and_least(footprint);
        if self.marked >= goal {
            return Trigger { trigger: goal, goal };
        }
        let way = |parts| (goal - self.marked) / PARTS * parts + self.marked;
        // Too early a trigger means collecting all the time; too late a one, assists that stop the program.
        let least = least.max(self.marked).max(way(LEAST_TRIGGER));
        let most = way(MOST_TRIGGER).max(goal.saturating_sub(DEFAULT_MINIMUM.0 as u64)).max(least);
        let trigger = goal.checked_sub(self.runway).unwrap_or(least).clamp(least, most);
        Trigger { trigger: trigger.min(goal), goal }
    }

    /// Whether to start although the trigger is far: nothing was collected for `since` nanoseconds. Without a percent
    /// nothing is collected for its own sake.
    pub fn is_idle(&self, since: u64) -> bool {
        self.settings.percent.is_some() && since >= IDLE_PERIOD
    }

    /// A cycle begins. `live` bytes are live; scanning the stacks may take up to `stacks` bytes of work, and the other
    /// roots have `roots` bytes.
    pub fn start(&mut self, live: u64, stacks: u64, roots: u64) {
        (self.triggered, self.stacks, self.roots, self.growth) = (Some(live), stacks, roots, 0);
    }

    /// The cycle that has begun is likely to find `growth` bytes more in objects than the last one. Without that, what a heap grows
    /// by comes as a surprise: mutators begin to help when it has gone far beyond the goal already.
    pub fn expect_growth(&mut self, growth: u64) {
        self.growth = growth;
    }

    /// How much help is wanted while marking.
    ///
    /// # Panics
    /// When no cycle runs.
    pub fn assist(&self, progress: &Progress, footprint: &Footprint) -> Assist {
        let triggered = to_signed(self.triggered.expect("a cycle runs"));
        let sum = |parts: [u64; 3]| to_signed(parts.into_iter().fold(0, u64::saturating_add));
        let Work { heap, stacks, roots } = progress.done;
        let (live, work) = (to_signed(progress.live), sum([heap, stacks, roots]));
        let mut goal = to_signed(self.goal(footprint));
        let mut expected = sum([self.last.heap.saturating_add(self.growth), self.last.stacks, self.roots]);
        let most = sum([progress.scannable, self.stacks, self.roots]);
        if work > expected {
            // More than last time, so it may be all. As if the goal had been set for that from the start.
            let stretched = (goal - triggered) as f64 / expected as f64 * most as f64;
            let percent = self.settings.percent.map_or(NO_PERCENT, u64::from);
            let hard = ((1.0 + percent as f64 / 100.0) * goal as f64) as i64;
            goal = (stretched as i64).saturating_add(triggered).min(hard);
            expected = most;
        }
        if live > goal {
            goal = (goal as f64 * OVERSHOOT) as i64;
            expected = most;
        }
        // The goal may be anything, if nothing was expected last time.
        let (work, bytes) = (expected.saturating_sub(work), goal.saturating_sub(live));
        let (work, bytes) = (work.max(LEAST_WORK) as f64, bytes.max(1) as f64);
        Assist { work_per_byte: work / bytes, bytes_per_work: bytes / work }
    }

    /// A cycle ends. Returns the share of the processors that it took, idle ones aside. The caller [commits](Pacer::commit)
    /// when sweeping has begun.
    ///
    /// # Panics
    /// When no cycle runs.
    pub fn finish(&mut self, cycle: &Cycle, footprint: &Footprint) -> f64 {
        let triggered = self.triggered.expect("a cycle runs");
        self.last_goal = self.goal(footprint);
        let capacity = cycle.duration as f64 * cycle.processors as f64;
        let share = |time: u64| if capacity > 0.0 { time as f64 / capacity } else { 0.0 };
        let utilisation = BACKGROUND_UTILISATION + share(cycle.assist_time);
        let Progress { live, done, .. } = cycle.progress;
        // Nothing was allocated, or everything stood still: that says nothing about the next cycle.
        if live > triggered && done.total() > 0 && utilisation < 1.0 {
            let busy = utilisation + share(cycle.idle_time);
            self.note((live - triggered) as f64 * busy / (done.total() as f64 * (1.0 - utilisation)));
        }
        self.marked = cycle.marked;
        self.last = done;
        self.triggered = None;
        utilisation
    }

    /// Takes in a cycle's cons/mark ratio: the largest of the last ones counts, so that one quiet cycle does not leave
    /// too short a runway for the next.
    fn note(&mut self, cons_mark: f64) {
        self.cons_mark = self.history.into_iter().fold(cons_mark, f64::max);
        self.history.rotate_left(1);
        self.history[HISTORY - 1] = cons_mark;
    }

    /// Bytes allocated per byte of work, each per processor time: the estimate that the runway stands on.
    pub fn cons_mark(&self) -> f64 {
        self.cons_mark
    }
}

impl Assist {
    /// The work that pays for a debt of `bytes`, and the bytes that it pays for, which may be more.
    pub fn work_for(&self, bytes: u64) -> (u64, u64) {
        let work = (self.work_per_byte * bytes as f64) as u64;
        if work >= LEAST_ASSIST {
            return (work, bytes);
        }
        (LEAST_ASSIST, ((self.bytes_per_work * LEAST_ASSIST as f64) as u64).max(bytes))
    }

    /// The bytes that `work` pays for.
    pub fn bytes_for(&self, work: u64) -> u64 {
        (self.bytes_per_work * work as f64) as u64
    }
}

/// How fast to sweep, so that sweeping is complete when the next cycle starts.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct SweepPace {
    /// Pages for each byte allocated.
    pages_per_byte: f64,
    /// Live bytes when the pace was set.
    live: u64,
    /// Pages that had been swept then.
    swept: Pages,
}

impl SweepPace {
    /// The pace at which the pages of object spans that are not swept will be when `trigger` live bytes are there.
    pub fn new(trigger: u64, live: u64, unswept: Pages, swept: Pages) -> SweepPace {
        let distance = trigger.saturating_sub(live).saturating_sub(SWEEP_DISTANCE);
        let distance = distance.max(Pages(1).bytes().0 as u64);
        SweepPace { pages_per_byte: unswept.0 as f64 / distance as f64, live, swept }
    }

    /// Pages to sweep before `bytes` are allocated, when `live` bytes are live and `swept` pages are swept.
    pub fn owed(&self, live: u64, bytes: u64, swept: Pages) -> Pages {
        let since = live.saturating_sub(self.live) + bytes;
        let target = (self.pages_per_byte * since as f64) as usize;
        Pages(target.saturating_sub(swept.0.saturating_sub(self.swept.0)))
    }
}

/// Processor time of a stretch of marking, in nanoseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Window {
    /// How long it was.
    pub elapsed: u64,
    /// What background workers took of it.
    pub background: u64,
    /// What the whole process took of it, background workers included.
    pub process: u64,
}

impl Window {
    /// Whether background workers may go on: they have had less than their share of `processors`, or processors are
    /// idle as far as the process can tell. Mutators that want all processors get all but the share.
    pub fn grants(&self, processors: usize) -> bool {
        let capacity = self.elapsed as f64 * processors as f64;
        (self.background as f64) < capacity * BACKGROUND_UTILISATION || (self.process as f64) < capacity
    }

    /// What background workers took beyond their share, for [`Cycle::idle_time`]: nobody else wanted it.
    pub fn idle(&self, processors: usize) -> u64 {
        let share = self.elapsed as f64 * processors as f64 * BACKGROUND_UTILISATION;
        self.background.saturating_sub(share as u64)
    }
}

/// `n · numerator / denominator`, without overflow in between.
fn part(n: u64, numerator: u64, denominator: u64) -> u64 {
    u64::try_from(n as u128 * numerator as u128 / denominator as u128).unwrap_or(u64::MAX)
}

/// A number of bytes that may be "no bound".
fn to_signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
