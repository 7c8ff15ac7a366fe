//! What everyone reads to know when to collect and how much to help; the policy itself is [`pace`](crate::gc::pace) and
//! [`limit`](crate::gc::limit).
//!
//! Those who allocate read three words: the trigger, and the two halves of the assist ratio. They are set when a cycle
//! begins, ends, and is swept, and the ratio also now and then while the cycle's driver marks.

use super::cycle::CollectConfig;
use crate::base::sync::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use crate::base::{Bytes, Lock, Pages, PurposeId, Rank};
use crate::front::core::HeapCore;
use crate::gc::growth::Growth;
use crate::gc::limit::Limiter;
use crate::gc::pace::{
    Assist, BACKGROUND_UTILISATION, Cycle, Footprint, Pacer, Progress, Settings, SweepPace, Work,
};
use crate::gc::{self, Source};
use crate::object::Objects;
use crate::os::{Nanoseconds, System};

/// When to collect and how much to help.
pub(super) struct Pacing {
    /// Live bytes at which the next cycle begins.
    trigger: AtomicU64,
    /// Whether somebody has asked for a cycle that has not begun.
    pub(super) wanted: AtomicBool,
    work_per_byte: AtomicU64,
    bytes_per_work: AtomicU64,
    /// Nanoseconds that mutators have helped in this cycle.
    assist_time: AtomicU64,
    /// Bytes elsewhere that objects keep alive.
    external: AtomicI64,
    /// Whether collecting has had its half of the processors, so that nobody helps for a while, and no cycle begins by
    /// itself.
    limiting: AtomicBool,
    /// Whether spans wait to be swept, so that those who allocate may owe some of that.
    sweeping: AtomicBool,
    policy: Lock<Policy>,
    processors: usize,
}

struct Policy {
    pacer: Pacer,
    limiter: Limiter,
    growth: Growth,
    /// How fast to sweep, since the last cycle.
    sweep: SweepPace,
    /// Pages that waited to be swept then.
    unswept: Pages,
    /// Live bytes when marking began.
    began_with: u64,
}

impl Policy {
    fn new(pacer: Pacer, limiter: Limiter) -> Policy {
        let (sweep, unswept) = (SweepPace::default(), Pages(0));
        Policy { pacer, limiter, growth: Growth::new(), sweep, unswept, began_with: 0 }
    }
}

/// What a cycle's begin and end were like, in live bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Settled {
    pub(super) began_with: u64,
    pub(super) ended_with: u64,
    pub(super) goal: u64,
    pub(super) assist_time: u64,
}

impl Pacing {
    pub(super) fn new(core: &HeapCore, config: &CollectConfig) -> Pacing {
        let processors = core.system.processors();
        let settings = Settings { percent: config.percent, limit: core.pages.limit(), minimum: config.least };
        let mut pacer = Pacer::new(settings);
        pacer.commit(0, true);
        let limiter = Limiter::new(core.system.now().0, processors);
        let trigger = pacer.trigger(&Footprint::default()).trigger;
        Pacing {
            trigger: AtomicU64::new(trigger),
            wanted: AtomicBool::new(false),
            work_per_byte: AtomicU64::new(0),
            bytes_per_work: AtomicU64::new(0),
            assist_time: AtomicU64::new(0),
            external: AtomicI64::new(0),
            limiting: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            policy: Lock::new(Rank::Leaf, Policy::new(pacer, limiter)),
            processors,
        }
    }

    /// The lock of what is decided, for `fork`.
    pub(super) fn lock(&self) -> &Lock<impl Sized + use<>> {
        &self.policy
    }

    /// What counts for the goal: objects, and what they keep elsewhere.
    pub(super) fn live(&self, objects: &Objects) -> u64 {
        objects.live().0 as u64 + self.external().0 as u64
    }

    pub(super) fn external(&self) -> Bytes {
        Bytes(self.external.load(Ordering::Relaxed).max(0) as usize)
    }

    pub(super) fn add_external(&self, bytes: i64) {
        self.external.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether it is time for a cycle.
    #[inline]
    pub(super) fn is_due(&self, objects: &Objects) -> bool {
        self.live(objects) >= self.trigger.load(Ordering::Relaxed)
    }

    /// Whether nothing was collected for so long that it is time anyway.
    pub(super) fn is_idle(&self, since: Nanoseconds) -> bool {
        self.policy.lock().pacer.is_idle(since.0)
    }

    /// How much help is wanted for what is allocated; `None` if none is just now.
    pub(super) fn assist(&self) -> Option<Assist> {
        let [work_per_byte, bytes_per_work] = [&self.work_per_byte, &self.bytes_per_work]
            .map(|word| f64::from_bits(word.load(Ordering::Relaxed)));
        (work_per_byte > 0.0 && !self.limiting.load(Ordering::Relaxed))
            .then_some(Assist { work_per_byte, bytes_per_work })
    }

    /// Somebody has helped for so long.
    pub(super) fn add_assist(&self, time: Nanoseconds, now: Nanoseconds) {
        self.assist_time.fetch_add(time.0, Ordering::Relaxed);
        if let Some(mut policy) = self.policy.try_lock() {
            policy.limiter.add_assist(time.0);
            self.update(&mut policy, now);
        }
    }

    /// Somebody who allocates has driven a cycle for so long. Of that the limiter counts a part by itself, as work in the
    /// background.
    pub(super) fn add_driving(&self, time: Nanoseconds, now: Nanoseconds) {
        let background = (time.0 as f64 * self.processors as f64 * BACKGROUND_UTILISATION) as u64;
        let mut policy = self.policy.lock();
        policy.limiter.add_assist(time.0.saturating_sub(background));
        self.update(&mut policy, now);
    }

    /// Whether the collector's share of the processors allows another cycle.
    pub(super) fn has_share(&self, system: System) -> bool {
        // Nobody else may look at the clock for long, since no cycle begins.
        if self.limiting.load(Ordering::Relaxed)
            && let Some(mut policy) = self.policy.try_lock()
        {
            self.update(&mut policy, system.now());
        }
        !self.limiting.load(Ordering::Relaxed)
    }

    /// Processor time that collecting took beyond its half.
    pub(super) fn excess(&self) -> Nanoseconds {
        Nanoseconds(self.policy.lock().limiter.overflow())
    }

    fn update(&self, policy: &mut Policy, now: Nanoseconds) {
        policy.limiter.update(now.0);
        self.limiting.store(policy.limiter.is_limiting(), Ordering::Relaxed);
    }

    /// The world stops, and marking goes on or is off afterwards.
    pub(super) fn stop(&self, marking: bool, now: Nanoseconds) {
        self.policy.lock().limiter.stop(marking, now.0);
    }

    /// The world has stopped for the end of marking, but there is more to mark.
    pub(super) fn resume_marking(&self) {
        self.policy.lock().limiter.resume_marking();
    }

    /// The world goes on.
    pub(super) fn go_on(&self, now: Nanoseconds) {
        let mut policy = self.policy.lock();
        policy.limiter.go_on(now.0);
        self.limiting.store(policy.limiter.is_limiting(), Ordering::Relaxed);
    }

    /// A cycle begins; the other roots have so many bytes. The world stands still.
    pub(super) fn begin(&self, core: &HeapCore, objects: &Objects, roots: Bytes) {
        let live = self.live(objects);
        let footprint = self.footprint(core, objects);
        let mut policy = self.policy.lock();
        policy.began_with = live;
        policy.pacer.start(live, 0, roots.0 as u64);
        let growth = policy.growth.start(objects.live().0 as u64);
        policy.pacer.expect_growth(growth);
        let progress = Progress { live, scannable: live, done: Work::default() };
        self.set_assist(policy.pacer.assist(&progress, &footprint));
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Sets how much help is wanted, by how far marking is.
    pub(super) fn revise(&self, core: &HeapCore, objects: &Objects, done: &gc::Progress) {
        let Some(policy) = self.policy.try_lock() else { return };
        let live = self.live(objects);
        let progress = Progress { live, scannable: live, done: work_of(done) };
        self.set_assist(policy.pacer.assist(&progress, &self.footprint(core, objects)));
    }

    fn set_assist(&self, Assist { work_per_byte, bytes_per_work }: Assist) {
        self.work_per_byte.store(work_per_byte.to_bits(), Ordering::Relaxed);
        self.bytes_per_work.store(bytes_per_work.to_bits(), Ordering::Relaxed);
    }

    /// A cycle's marking has ended. It reached objects of so many bytes; others have been black since they were allocated. The
    /// world stands still.
    pub(super) fn end(
        &self,
        core: &HeapCore,
        objects: &Objects,
        done: &gc::Progress,
        [reached, black]: [Bytes; 2],
        duration: Nanoseconds,
    ) -> Settled {
        let footprint = self.footprint(core, objects);
        let live = self.live(objects);
        let assist_time = self.assist_time.swap(0, Ordering::Relaxed);
        let done = work_of(done);
        let mut policy = self.policy.lock();
        let goal = policy.pacer.goal(&footprint);
        let (percent, room) = (policy.pacer.settings().percent, footprint.free + footprint.allocated);
        let kept = policy.growth.finish(reached.0 as u64, black.0 as u64, percent, room.0 as u64);
        let cycle = Cycle {
            progress: Progress { live, scannable: live, done },
            duration: duration.0,
            assist_time,
            idle_time: 0,
            processors: self.processors,
            marked: (reached + self.external()).0 as u64 + kept,
        };
        policy.pacer.finish(&cycle, &footprint);
        self.work_per_byte.store(0, Ordering::Relaxed);
        Settled { began_with: policy.began_with, ended_with: live, goal, assist_time }
    }

    /// Sets the next trigger: when sweeping has begun, and when it is complete.
    pub(super) fn commit(&self, core: &HeapCore, objects: &Objects, config: &CollectConfig, swept: bool) {
        let footprint = self.footprint(core, objects);
        let mut policy = self.policy.lock();
        let live = self.live(objects);
        let settings = Settings { percent: config.percent, limit: core.pages.limit(), minimum: config.least };
        policy.pacer.set(settings, live, swept);
        let trigger = policy.pacer.trigger(&footprint).trigger;
        self.trigger.store(trigger, Ordering::Relaxed);
        if !swept {
            policy.unswept = objects.unswept();
            policy.sweep = SweepPace::new(trigger, live, policy.unswept, Pages(0));
        }
        self.sweeping.store(!swept, Ordering::Relaxed);
    }

    /// Whether somebody who allocates so many bytes has to sweep some more first, so that all is swept when the next cycle
    /// begins. Whoever does not get to know it just now need not.
    pub(super) fn owes_sweeping(&self, objects: &Objects, bytes: Bytes) -> bool {
        if !self.sweeping.load(Ordering::Relaxed) {
            return false;
        }
        let Some(policy) = self.policy.try_lock() else { return false };
        let swept = Pages(policy.unswept.0.saturating_sub(objects.unswept().0));
        policy.sweep.owed(self.live(objects), bytes.0 as u64, swept) > Pages(0)
    }

    fn footprint(&self, core: &HeapCore, objects: &Objects) -> Footprint {
        let external = self.external();
        let purposes = (0..core.meters.count()).map(|at| core.meters.get(PurposeId(at as u8)).inuse().0);
        let free = core.pages.page_bytes().0.saturating_sub(purposes.sum());
        Footprint {
            used: core.pages.committed() + external,
            free: Bytes(free),
            allocated: objects.live() + external,
        }
    }

    pub(super) fn processors(&self) -> usize {
        self.processors
    }
}

/// What marking has scanned.
fn work_of(done: &gc::Progress) -> Work {
    let work = |source: Source| done.scanned[source as usize];
    Work { heap: work(Source::Heap), stacks: work(Source::Stacks), roots: work(Source::Roots) }
}
