//! The cycle: from one collection to the next, driven by one thread.
//!
//! ```text
//!   sweep      finish what the last cycle left                                       everybody runs
//!   begin      stop the world; barriers on, caches black; roots become jobs          a pause
//!   mark       drain; helpers and assisting mutators do the same                     everybody runs
//!   ask        each mutator hands over what its barrier noted, at a safepoint        everybody runs
//!   end        stop the world, ask again; if something came of it: back to `mark`    a pause
//!              else settle attachments, flush caches, turn over to sweeping
//!   sweep      chunk by chunk, also by those who allocate                            everybody runs
//! ```
//!
//! The pauses have work in proportion to the threads, not to the heap.
//!
//! # Safety
//! The world stands still where a comment says so: nobody is running, and nobody comes in.

use super::member::Member;
use super::pacing::Settled;
use super::{CollectError, Collection};
use crate::base::sync::{Backoff, Ordering};
use crate::base::{Broken, Bytes};
use crate::front::core::HeapCore;
use crate::front::environment;
use crate::front::heap::Heap;
use crate::gc::trace::{CycleTrace, Reason};
use crate::gc::world::{Answer, FINALIZE, HAND_OVER, Station, World};
use crate::gc::{Marking, Pile, Progress, Source, Worker};
use crate::os::Nanoseconds;
use crate::stats::Figures;

/// How the collector works.
#[derive(Clone, Copy, Debug)]
pub struct CollectConfig {
    /// How much may be allocated before the next collection ends, in percent of what was live after the last one. `None`
    /// collects only when asked, or at the memory limit.
    pub percent: Option<u32>,
    /// Bytes of objects below which no collection begins by itself.
    pub least: Bytes,
    /// Threads that mark beside the mutators; 0 leaves all work to the threads that allocate or ask.
    pub workers: u32,
    /// Collects at every so many slow allocations: to find faults.
    pub stress: Option<u32>,
    /// Marks a second time in another way at the end of each cycle, and stops at the first difference: to find faults.
    pub verify: bool,
    /// Overwrites dead objects: to find faults.
    pub poison: bool,
    /// Writes a line for each cycle to standard error.
    pub trace: bool,
}

impl CollectConfig {
    /// The defaults: 100 percent, one thread beside the mutators, and nothing to find faults.
    pub const fn new() -> CollectConfig {
        CollectConfig {
            percent: Some(100),
            least: Bytes::mib(4),
            workers: 1,
            stress: None,
            verify: false,
            poison: false,
            trace: false,
        }
    }
}

impl Default for CollectConfig {
    fn default() -> CollectConfig {
        CollectConfig::new()
    }
}

/// What the collector has done so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// Cycles that have ended.
    pub cycles: u64,
    /// Bytes of objects that were reached in the last cycle.
    pub live: Bytes,
    /// The longest time that the world stood still.
    pub longest_pause: Nanoseconds,
    /// All such times together.
    pub pauses: Nanoseconds,
    /// The most processor time that the collector took while the world stood still: what of a pause is work, and not
    /// waiting for threads to come to a safepoint or for the system to let one run.
    pub longest_pause_work: Nanoseconds,
    /// Processor time of the threads that mark, while marking.
    pub mark_cpu: Nanoseconds,
    /// Bytes of objects that were marked, in all cycles.
    pub marked: Bytes,
    /// Processor time that collecting took beyond its half, in the long run: none, unless the memory limit is so close to
    /// what lives that one cycle would follow the other. While it is used up no cycle begins by itself, and nobody who
    /// allocates helps.
    pub excess: Nanoseconds,
}

/// What the driver has: guarded by the lock of the cycle.
pub(super) struct Cycle {
    worker: Worker,
    /// What the stacks led to when marking began, where cycles are verified.
    noted: Pile,
    /// Objects known to be marked when ephemerons were last resolved.
    resolved: u64,
    /// When the last one ended.
    ended: Nanoseconds,
    /// Processor time that all of them took, as far as it is known.
    spent: u64,
}

impl Cycle {
    pub(super) fn new(now: Nanoseconds) -> Cycle {
        Cycle { worker: Worker::new(), noted: Pile::default(), resolved: 0, ended: now, spent: 0 }
    }
}

impl Collection {
    /// Makes a whole collection that begins after this call did. The calling thread is not running.
    pub(super) fn collect_now(&self, heap: &Heap) -> Result<(), CollectError> {
        self.is_whole()?;
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut cycle = self.cycle.lock();
        if self.begun.load(Ordering::SeqCst) < wanted {
            self.run_cycle(heap, &mut cycle, Reason::Forced);
        }
        self.sweep_all(heap);
        Ok(())
    }

    /// Makes a collection if it is still time for one. The calling thread is not running.
    pub(super) fn collect_if_due(&self, heap: &Heap) {
        let mut cycle = self.cycle.lock();
        if self.pacing.wanted.load(Ordering::Acquire) {
            self.run_cycle(heap, &mut cycle, Reason::Goal);
            self.sweep_all(heap);
        }
    }

    /// As [`Collection::collect_if_due`], on a thread of the program's: what it does there counts as help.
    pub(super) fn drive_if_due(&self, heap: &Heap) {
        let began = heap.core().system.now();
        self.collect_if_due(heap);
        let now = heap.core().system.now();
        self.pacing.add_driving(Nanoseconds(now.0 - began.0), now);
    }

    /// Makes a collection if there was none for long, although objects were allocated since.
    pub(super) fn collect_if_idle(&self, heap: &Heap) {
        let mut cycle = self.cycle.lock();
        let since = Nanoseconds(heap.core().system.now().0.saturating_sub(cycle.ended.0));
        if self.pacing.is_idle(since) && self.objects.live() > self.statistics.lock().live {
            self.run_cycle(heap, &mut cycle, Reason::Idle);
            self.sweep_all(heap);
        }
    }

    /// One cycle, up to the sweeping.
    pub(super) fn run_cycle(&self, heap: &Heap, cycle: &mut Cycle, reason: Reason) {
        let system = heap.core().system;
        self.sweep_all(heap);
        let began = system.now();
        let first = self.begin(heap, cycle);
        let marking = system.now();
        self.scan_root_cells(heap, cycle);
        let (settled, progress, marked, last) = loop {
            self.background.let_help();
            self.mark(heap, cycle);
            if self.ask_all(heap) {
                continue;
            }
            self.background.end_help();
            if let (Some((settled, progress, marked)), pause) = self.end(heap, cycle, marking) {
                break (settled, progress, marked, pause);
            }
        };
        cycle.ended = system.now();
        let number = {
            let mut statistics = self.statistics.lock();
            statistics.cycles += 1;
            statistics.live = marked;
            statistics.marked += Bytes(progress.marked_bytes as usize);
            statistics.cycles
        };
        self.give_dropped_roots();
        // SAFETY: nobody marks: the next cycle begins after this one, under the same lock.
        self.with_work(heap, heap.mutator(), |work| unsafe { self.shapes.roll_up(work.ground, work.spans) });
        // SAFETY: as above.
        while self.with_work(heap, heap.mutator(), |work| unsafe {
            self.collector.give_back_buffers(&work.ground, work.spans, 8)
        }) {}
        if self.config.trace {
            let mark = cycle.ended.0.saturating_sub(marking.0 + last.0);
            let spent = first.0 + mark / 4 + last.0 + settled.assist_time;
            cycle.spent += spent;
            let alive = cycle.ended.0.saturating_sub(self.made.0).max(1);
            let line = CycleTrace {
                cycle: number,
                at: began.0.saturating_sub(self.made.0),
                percent: (cycle.spent * 100 / alive).min(100) as u32,
                clock: [first.0, mark, last.0],
                marking: [settled.assist_time, mark, 0],
                heap: [settled.began_with, settled.ended_with, marked.0 as u64],
                goal: settled.goal,
                stacks: progress.scanned[Source::Stacks as usize],
                roots: progress.scanned[Source::Roots as usize],
                external: self.pacing.external().0 as u64,
                processors: self.pacing.processors() as u32,
                reason,
            };
            environment::say(format_args!("{line}"));
        }
    }

    /// Sweeps what is left to sweep, and waits for others who do.
    fn sweep_all(&self, heap: &Heap) {
        let mutator = heap.mutator();
        while self
            .with_sweeping(heap, mutator, |objects, work, sweeping| objects.sweep_chunk(work, sweeping))
            .is_some()
        {}
        let mut backoff = Backoff::new();
        while !self.objects.is_swept() {
            backoff.step();
        }
        self.pacing.commit(heap.core(), &self.objects, &self.config, true);
        if self.attachments.due() > 0 {
            let made = self.roster.lock().made;
            self.members(made).for_each(|member| member.station.ask(FINALIZE));
        }
    }

    /// The pause at the beginning.
    fn begin(&self, heap: &Heap, cycle: &mut Cycle) -> Nanoseconds {
        let begin = |members: Members<'_>| {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let cells: Bytes = self.roots.committed_ranges().map(|(_, size)| size).sum();
            self.pacing.begin(heap.core(), &self.objects, self.collector.roots.bytes() + cells);
            self.objects.set_marking(true);
            heap.core().begin_marking();
            self.collector.begin();
            self.attachments.begin_marking();
            for member in members.clone() {
                member.set_marking(true);
                member.credit.set(0);
                // SAFETY: the world stands still.
                self.objects.blacken(unsafe { &mut *member.cache() });
            }
            self.with_marking(heap, heap.mutator(), |marking| {
                self.scan_stacks(heap, members.clone(), &mut cycle.worker, marking);
                self.ask_providers(&mut cycle.worker, marking);
                if self.config.verify {
                    cycle.worker.leave(marking);
                }
            });
            if self.config.verify {
                self.verify_stacks(heap, members, &mut cycle.noted);
            }
        };
        self.paused(heap, true, begin).1
    }

    /// Shades what the roots hold.
    fn scan_root_cells(&self, heap: &Heap, cycle: &mut Cycle) {
        self.with_marking_clocked(heap, heap.mutator(), |marking| {
            for range in self.roots.committed_ranges() {
                // SAFETY: the range is committed; what is no root there are small numbers.
                unsafe { cycle.worker.scan_words(range, Source::Roots, marking) };
            }
            self.attachments.scan_roots(0..self.attachments.numbers(), &mut cycle.worker, marking);
        });
    }

    /// Marks until there is no work anywhere.
    fn mark(&self, heap: &Heap, cycle: &mut Cycle) {
        self.with_marking_clocked(heap, heap.mutator(), |marking| {
            loop {
                cycle.worker.drain_with_others(marking, |has_scanned| {
                    if has_scanned {
                        self.pacing.revise(heap.core(), &self.objects, &self.collector.progress());
                    }
                    false
                });
                if !self.resolve(cycle, marking) {
                    break;
                }
            }
        });
    }

    /// Shades the values of ephemerons whose keys are marked. Returns whether there were any.
    fn resolve(&self, cycle: &mut Cycle, marking: &mut Marking<'_>) -> bool {
        cycle.resolved = self.collector.progress().marked_objects;
        let worker = &mut cycle.worker;
        self.attachments.resolve(&self.objects, &mut |value| worker.shade(value, marking)) > 0
    }

    /// Has every mutator hand over what it noted, while all run. Returns whether work came of it.
    fn ask_all(&self, heap: &Heap) -> bool {
        let before = self.collector.brought();
        let made = self.roster.lock().made;
        self.members(made).for_each(|member| member.station.ask(HAND_OVER));
        for member in self.members(made) {
            if member.station.wait_for(HAND_OVER) == Answer::Held {
                // SAFETY: the thread is outside and held there.
                self.with_marking(heap, heap.mutator(), |marking| unsafe { self.empty(member, marking) });
                member.station.done(HAND_OVER);
                member.station.let_go();
            }
        }
        self.collector.brought() != before || !self.collector.is_quiet()
    }

    /// The pause at the end: what marking came to, if it has ended.
    fn end(
        &self,
        heap: &Heap,
        cycle: &mut Cycle,
        marking: Nanoseconds,
    ) -> (Option<(Settled, Progress, Bytes)>, Nanoseconds) {
        let ended = self.paused(heap, false, |members| {
            self.with_marking(heap, heap.mutator(), |marking| {
                // SAFETY: the world stands still.
                members.clone().for_each(|member| unsafe { self.empty(member, marking) });
                // What was marked since the last pass may be keys, also where nothing follows from them.
                while self.collector.progress().marked_objects != cycle.resolved {
                    self.resolve(cycle, marking);
                    cycle.worker.leave(marking);
                }
            });
            if !self.collector.is_quiet() {
                self.pacing.resume_marking();
                return None;
            }
            if self.config.verify {
                self.verify(heap, &mut cycle.noted);
            }
            let progress = self.with_work(heap, heap.mutator(), |work| {
                let progress = self.collector.end(&work.ground);
                // SAFETY: the world stands still, and no helper marks.
                unsafe { self.shapes.roll_up(work.ground, work.spans) };
                for member in members {
                    member.set_marking(false);
                    // SAFETY: the world stands still.
                    self.objects.flush(unsafe { &mut *member.cache() }, work);
                }
                progress
            });
            self.objects.set_marking(false);
            let parts = [Bytes(progress.marked_bytes as usize), self.objects.black()];
            let marked = parts[0] + parts[1];
            let core = heap.core();
            let duration = Nanoseconds(core.system.now().0.saturating_sub(marking.0));
            let settled = self.pacing.end(core, &self.objects, &progress, parts, duration);
            self.objects.begin_sweep(marked);
            self.pacing.commit(core, &self.objects, &self.config, false);
            Some((settled, progress, marked))
        });
        if ended.0.is_some() {
            heap.core().end_marking(heap.mutator());
        }
        ended
    }

    /// The members up to a number, which the roster tells.
    fn members(&self, made: u32) -> Members<'_> {
        Members { collection: self, next: 0, made }
    }

    /// Runs `work` while no thread but the calling one can touch objects. If the calling thread is running it
    /// cannot wait for others who drive the cycle; then nothing is stopped, and `work` is told so.
    pub(crate) fn while_still<T>(&self, heap: &Heap, work: impl FnOnce(Option<Still<'_>>) -> T) -> T {
        let mine = heap.mutator();
        let is_mine = |member: &Member| member.station.is_running() && member.is_of(mine);
        let made = self.roster.lock().made;
        let cycle =
            if self.members(made).any(is_mine) { self.cycle.try_lock() } else { Some(self.cycle.lock()) };
        let cycle = cycle.filter(|_| self.is_whole().is_ok());
        let Some(_cycle) = cycle else { return work(None) };
        let roster = self.roster.lock();
        let members = self.members(roster.made);
        let others = members.clone().filter(|member| !is_mine(member)).map(|member| &member.station);
        self.world.stop(others.clone());
        let _standing = Standing { world: &self.world, stations: others };
        work(Some(Still(members)))
    }

    /// Runs `work` while the world stands still, all is swept, and no cache has anything. The calling thread is not
    /// running.
    pub(super) fn while_swept<T>(&self, heap: &Heap, work: impl FnOnce() -> T) -> T {
        let _cycle = self.cycle.lock();
        self.sweep_all(heap);
        let roster = self.roster.lock();
        let members = self.members(roster.made);
        let stations = members.clone().map(|member| &member.station);
        self.world.stop(stations.clone());
        let _standing = Standing { world: &self.world, stations };
        self.with_work(heap, heap.mutator(), |objects| {
            // SAFETY: the world stands still.
            members.for_each(|member| self.objects.flush(unsafe { &mut *member.cache() }, objects));
        });
        work()
    }

    /// Stops the world for `work`, and lets it go on; also how long that took. Marking is on afterwards, or off.
    fn paused<T>(&self, heap: &Heap, marking: bool, work: impl FnOnce(Members<'_>) -> T) -> (T, Nanoseconds) {
        let system = heap.core().system;
        let roster = self.roster.lock();
        let members = self.members(roster.made);
        let began = system.now();
        self.world.stop(members.clone().map(|member| &member.station));
        let worked_before = system.thread_time();
        self.pacing.stop(marking, began);
        let done = work(members.clone());
        let worked = system.thread_time().0 - worked_before.0;
        let now = system.now();
        self.pacing.go_on(now);
        self.world.go_on(members.map(|member| &member.station));
        let pause = Nanoseconds(now.0 - began.0);
        let mut statistics = self.statistics.lock();
        statistics.longest_pause.0 = statistics.longest_pause.0.max(pause.0);
        statistics.pauses.0 += pause.0;
        statistics.longest_pause_work.0 = statistics.longest_pause_work.0.max(worked);
        (done, pause)
    }
}

/// The members of a world that stands still.
#[derive(Clone)]
pub(super) struct Members<'a> {
    collection: &'a Collection,
    next: u32,
    made: u32,
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a Member;

    fn next(&mut self) -> Option<&'a Member> {
        let at = self.next;
        self.next += 1;
        (at < self.made).then(|| self.collection.member(at))
    }
}

/// A collection that nobody changes just now.
pub(crate) struct Still<'a>(Members<'a>);

/// Lets the world go on, also when what was done meanwhile panicked.
struct Standing<'a, S: Iterator<Item = &'a Station> + Clone> {
    world: &'a World,
    stations: S,
}

impl<'a, S: Iterator<Item = &'a Station> + Clone> Drop for Standing<'a, S> {
    fn drop(&mut self) {
        self.world.go_on(self.stations.clone());
    }
}

impl Still<'_> {
    /// Takes back what the threads' caches hold and was not allocated: then slots that count as allocated are objects.
    /// The calling thread is not running.
    pub(super) fn flush(&self, heap: &Heap) {
        let collection = self.0.collection;
        collection.with_work(heap, heap.mutator(), |work| {
            // SAFETY: nobody is running.
            self.0.clone().for_each(|member| collection.objects.flush(unsafe { &mut *member.cache() }, work));
        });
    }

    /// Proves the invariants of objects and of the collector.
    ///
    /// # Errors
    /// The first one that does not hold.
    ///
    /// # Safety
    /// The figures were read since the world stood still.
    pub(crate) unsafe fn check(&self, core: &HeapCore, figures: &Figures) -> Result<(), Broken> {
        let collection = self.0.collection;
        // SAFETY: nobody is running, and nobody drives the cycle.
        let caches = self.0.clone().map(|member| unsafe { &*member.cache() });
        // SAFETY: as above; the caller's promise.
        unsafe { collection.objects.check(&core.pages, figures, caches) }?;
        collection.collector.check(&core.pages)
    }

    /// Proves the invariants of what hangs on objects. No lock of the heap's is held but those that keep it still.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub(crate) fn check_attachments(&self) -> Result<(), Broken> {
        let collection = self.0.collection;
        collection.attachments.check(&collection.objects, collection.running.load(Ordering::Relaxed))
    }
}
