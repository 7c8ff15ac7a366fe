//! The scavenger: memory that nobody uses goes back to the system by itself.
//!
//! One thread in the [background](super::background) serves all heaps of the process. It is started by the first heap that
//! frees something and is large enough to be worth it, and works in *rounds*:
//!
//! ```text
//!            each heap                       bytes above the goals            nothing above, somebody active
//!   round ──▶ tend idle mutators ──▶ view ──▶ release for a millisecond ──▶ rest as the pacer says ──▶ round
//!                                      │                                    nap for a second ────────▶ round
//!                                      └──▶ nobody active, nothing left: sleep until somebody frees something
//! ```
//!
//! *Tending* takes from a mutator what it keeps for a thread that has not needed more than its fast paths for a
//! while: its page cache, its stash of runs, its stacks, spans whose blocks others gave back to it. Its thread need not help, and is not
//! stopped:
//!
//! 1. A mutator's `local` guards all that is taken from it, and the fast paths touch none of that: not the pages and
//!    records in `local`, not the inbox. Who tends has the lock by trying, so no thread waits for the scavenger longer than
//!    for any other slow path.
//! 2. A mutator's shard of the books is written by who holds its `local`: entries for what was taken are made there.
//! 3. `visits` counts the slow paths of a mutator, under `local`. A mutator is idle while the number stands still.
//!
//! *Activity* is what the visits say, so a thread that lives on its fast paths alone counts as idle: what tending takes
//! from it, it did not need. A thread that comes back finds its page cache empty and fills it, once.
//!
//! The order of locks: the scavenger's own of a heap comes before all others of the heap, so that a `fork`, which takes it
//! first, never finds the scavenger in the middle of something.
//!
//! The file does not know how much should go back, nor how fast ([`super::pacing`]). Time is the system's: a test
//! runs rounds on a simulated one.
//!
//! # Safety
//! The thread's code uses no thread-local value: it reaches heaps by their lists, and works through their shared mutators
//! and through those whose lock it has.
//!
//! (Go: `bgscavenge`; there, idle Ps' page caches are flushed by the collector.)

use crate::base::sync::{AtomicU8, AtomicU64, Ordering};
use crate::base::{Address, Bytes, Lock, PageId, Rank};
use crate::block::idle;
use crate::front::background::Background;
use crate::front::config::Scavenger as Mode;
use crate::front::core::{HeapCore, SHARED};
use crate::front::mutator::Mutator;
use crate::front::pacing::{Excess, LEAST_WORK, Pacer, View};
use crate::front::{process, threads};
use crate::os::{Nanoseconds, System};
use crate::span::{Ground, Release, SpanId};

/// A heap that has committed less than this does not start the thread.
const WORTH_A_THREAD: Bytes = Bytes::mib(8);
/// How long a mutator must be idle before it is tended, and between two looks at an active heap.
const PATIENCE: Nanoseconds = Nanoseconds(1_000_000_000);
/// After so many idle seconds a heap has nothing left to decide.
const SETTLED: u32 = 9;
/// Bytes between two looks at the clock.
const QUANTUM: Bytes = Bytes::kib(64);
/// The same, when nobody is disturbed.
const IDLE_QUANTUM: Bytes = Bytes::mib(1);

// SAFETY: the entry uses no thread-local value: it reaches heaps by their lists, and works through their shared
// mutators.
static BACKGROUND: Background = unsafe { Background::new(run) };

/// What the thread has done. Other processes read it where it stands.
#[repr(C)]
struct Counts {
    /// How often it was asked to do something, or woke by itself.
    wakeups: AtomicU64,
    /// The processor time that it has had, in nanoseconds.
    processor: AtomicU64,
}

static COUNTS: Counts = Counts { wakeups: AtomicU64::new(0), processor: AtomicU64::new(0) };

/// What the scavenger knows of a heap.
pub(crate) struct Scavenging {
    mode: AtomicU8,
    pub(super) looks: Lock<Looks>,
}

/// What it has seen so far.
pub(super) struct Looks {
    /// The visits of all mutators, and when they last changed.
    visits: u64,
    active: Nanoseconds,
    /// What the visits were when stacks were given back.
    stacks: u64,
    /// When the present generation began, and the most that was in use in it and in the one before.
    generation: Nanoseconds,
    peaks: [Bytes; 2],
    /// Where to go on giving back; above it there was nothing to give in this generation.
    below: PageId,
    /// Whether there is nothing below either, until the next generation.
    barren: bool,
    /// What the last look found above the goals.
    excess: Excess,
}

/// What the scavenger has done for this process so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// How often its thread was woken, or woke by itself.
    pub wakeups: u64,
    /// Nanoseconds of processor time that its thread has had.
    pub processor: u64,
}

/// What to do after a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// There is more to do; rest from what was done.
    Rest {
        /// How long that took.
        worked: Nanoseconds,
        /// How long to rest.
        rest: Nanoseconds,
    },
    /// Nothing to do now: look again after this time.
    Nap(Nanoseconds),
    /// Nothing to do until somebody asks.
    Sleep,
}

/// What a look at a heap found.
#[derive(Clone, Copy, Debug)]
struct Outlook {
    excess: Bytes,
    /// Whether nobody has used the heap for a second.
    idle: bool,
    /// When to look again, if nobody asks.
    again: Option<Nanoseconds>,
}

impl Scavenging {
    /// Nothing seen yet.
    pub(crate) fn new(mode: Mode, now: Nanoseconds) -> Scavenging {
        let looks = Looks {
            visits: 0,
            stacks: 0,
            active: now,
            generation: now,
            peaks: [Bytes::ZERO; 2],
            below: PageId(usize::MAX),
            barren: false,
            excess: Excess::default(),
        };
        Scavenging { mode: AtomicU8::new(mode as u8), looks: Lock::new(Rank::Scavenger, looks) }
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            0 => Mode::Off,
            1 => Mode::On,
            _ => Mode::Eager,
        }
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}

impl Looks {
    /// Begins at the top of the heap again.
    fn begin(&mut self) {
        (self.below, self.barren) = (PageId(usize::MAX), false);
    }
}

impl HeapCore {
    /// Sees to it that the scavenger knows of a heap where something was freed. No lock may be held.
    #[inline]
    pub(crate) fn nudge(&self) {
        if BACKGROUND.is_wanted() {
            self.ask();
        }
    }

    #[cold]
    fn ask(&self) {
        let serves = matches!(self.system, System::Linux) && self.scavenging.mode() != Mode::Off;
        if serves && (BACKGROUND.exists() || self.pages.committed() >= WORTH_A_THREAD) {
            BACKGROUND.ask();
        }
    }

    /// Looks at the heap: does what other processes ask for, tends idle mutators, and finds what is above the goals.
    fn look(&self, now: Nanoseconds) -> Outlook {
        self.heed(self.shared_mutator());
        let mode = self.scavenging.mode();
        if mode == Mode::Off {
            return Outlook { excess: Bytes::ZERO, idle: true, again: None };
        }
        let mut looks = self.scavenging.looks.lock();
        let patience = if mode == Mode::Eager { Nanoseconds(0) } else { PATIENCE };
        let (visits, waiting) = self.tend_idle(now, patience);
        if visits != looks.visits {
            (looks.visits, looks.active) = (visits, now);
        }
        if !waiting && looks.stacks != visits && self.release_idle_stacks() {
            looks.stacks = visits;
        }
        let waiting = waiting || looks.stacks != visits;
        let idle = ((now.0 - looks.active.0) / 1_000_000_000) as u32;
        let view = self.view(&mut looks, now, idle, mode == Mode::Eager);
        let excess = view.excess();
        if excess.everywhere && !looks.excess.everywhere {
            looks.begin();
        }
        looks.excess = if looks.barren { Excess { bytes: Bytes::ZERO, ..excess } } else { excess };
        let settled = idle >= SETTLED || view.free == Bytes::ZERO;
        let again = (waiting || idle == 0 || !settled).then_some(PATIENCE);
        Outlook { excess: looks.excess.bytes, idle: idle > 0, again }
    }

    fn view(&self, looks: &mut Looks, now: Nanoseconds, idle: u32, eager: bool) -> View {
        let free = self.pages.free_pages().bytes();
        let in_use = Bytes(self.pages.page_bytes().0.saturating_sub(free.0));
        looks.peaks[0] = looks.peaks[0].max(in_use);
        let peak = looks.peaks[0].max(looks.peaks[1]);
        if now.0 - looks.generation.0 >= PATIENCE.0 {
            looks.generation = now;
            looks.peaks = [in_use, looks.peaks[0]];
            looks.begin();
            self.pages.next_generation();
        }
        let (committed, limit) = (self.pages.committed(), self.pages.limit());
        View { in_use, peak, free, committed, limit, idle, eager }
    }

    /// Tends every mutator that has been idle for so long. Returns the sum of all visits, and whether some mutator
    /// is still to be tended.
    fn tend_idle(&self, now: Nanoseconds, patience: Nanoseconds) -> (u64, bool) {
        let (mut sum, mut waiting) = (0u64, false);
        for mutator in self.all_mutators() {
            let visits = mutator.visits();
            sum += u64::from(visits);
            if mutator.seen.get() != visits {
                mutator.seen.set(visits);
                mutator.since.set(now);
            }
            if mutator.tended.get() == visits {
                waiting |= self.tend_again(mutator);
                continue;
            }
            let idle = now.0 - mutator.since.get().0;
            if idle >= patience.0 && self.tend_all_of(mutator) {
                mutator.tended.set(visits);
                mutator.returns.set(0);
                waiting |= self.await_more(mutator);
            } else {
                waiting = true;
            }
        }
        (sum, waiting)
    }

    /// Tends a mutator that has been idle since the last time, if others have freed blocks of it meanwhile. Returns whether
    /// more may come.
    fn tend_again(&self, mutator: &Mutator) -> bool {
        let inbox = self.central.inbox(mutator.number);
        if inbox.is_empty() {
            return false;
        }
        if inbox.first() != mutator.returned.get() {
            mutator.returns.set(0);
        }
        if !self.tend_all_of(mutator) {
            return true;
        }
        self.await_more(mutator)
    }

    /// Whether more blocks may come back soon to the spans that wait for an idle mutator. Those that free them say so
    /// only with the first of each span, so the rest is waited for, but not for ever.
    fn await_more(&self, mutator: &Mutator) -> bool {
        let first = self.central.inbox(mutator.number).first();
        mutator.returned.set(first);
        mutator.returns.set(mutator.returns.get() + 1);
        first != SpanId::NONE && mutator.returns.get() <= SETTLED
    }

    /// Gives back what stacks hold that nobody uses, once all mutators have been idle for a while. Returns whether it did:
    /// while a collector marks, stacks that were freed wait for the end of that.
    fn release_idle_stacks(&self) -> bool {
        let shared = self.shared_mutator();
        let mut local = shared.local.lock();
        let mut work = self.stack_work(shared, &mut local);
        if !work.marking {
            work.release();
            // Slabs went through the shared mutator's pages.
            work.ground.flush(work.spans);
        }
        !work.marking
    }

    /// Takes what a mutator keeps and its fast paths do not need. Returns whether it could have its lock.
    pub(crate) fn tend(&self, mutator: &Mutator) -> bool {
        let Some(mut local) = mutator.local.try_lock() else { return false };
        self.stack_work(mutator, &mut local).flush();
        let ground = Ground { heap: &self.pages, meters: &self.meters, ledger: self.ledger(mutator) };
        ground.flush(&mut local.spans);
        true
    }

    /// As [`HeapCore::tend`], and frees its spans whose blocks have all come back, and punches holes into others. The rest of
    /// what others have freed is taken in only if there is no thread that might be freeing something itself.
    pub(crate) fn tend_all_of(&self, mutator: &Mutator) -> bool {
        let Some(mut local) = mutator.local.try_lock() else { return false };
        let threadless = mutator.number == SHARED || mutator.is_parked();
        if threadless {
            // SAFETY: the lock is held, and there is no thread with fast paths.
            unsafe { self.flush_locked(mutator, &mut local) };
        }
        self.stack_work(mutator, &mut local).flush();
        let mut work = self.quiet_work(mutator, &mut local);
        if !threadless {
            // SAFETY: the lock is held, and the mutator is not parked.
            unsafe { idle::free_returned(&mut work, mutator.number) };
        }
        work.ground.flush(work.spans);
        // SAFETY: the lock is held, and the caches are all that the mutator has.
        unsafe { idle::tend(work.ground, mutator.caches()) };
        true
    }

    /// Gives back some of what the last look found above the goals.
    fn release_some(&self, most: Bytes) -> Bytes {
        let mut looks = self.scavenging.looks.lock();
        let why = if looks.excess.everywhere { Release::Everywhere } else { Release::InBackground };
        let most = most.min(looks.excess.bytes);
        if most == Bytes::ZERO {
            return most;
        }
        let shared = self.shared_mutator();
        let _local = shared.local.lock();
        let ground = Ground { heap: &self.pages, meters: &self.meters, ledger: self.ledger(shared) };
        let done = ground.release_below(&mut looks.below, most, why);
        looks.barren = done < most;
        looks.excess.bytes = Bytes(looks.excess.bytes.0.saturating_sub(done.0));
        done
    }
}

/// A round: looks at every heap, and works for a millisecond or so where there is something to do. `each` shows
/// every heap to its argument, and keeps it alive meanwhile.
pub(super) fn round(pacer: &Pacer, system: System, mut each: impl FnMut(&mut dyn FnMut(&HeapCore))) -> Next {
    let start = system.now();
    let (mut excess, mut idle, mut again) = (false, true, None::<Nanoseconds>);
    each(&mut |heap| {
        let outlook = heap.look(start);
        excess |= outlook.excess > Bytes::ZERO;
        idle &= outlook.idle;
        again = again.into_iter().chain(outlook.again).min();
    });
    if !excess {
        return again.map_or(Next::Sleep, Next::Nap);
    }
    let quantum = if idle { IDLE_QUANTUM } else { QUANTUM };
    let worked = |system: System| Nanoseconds(system.now().0 - start.0);
    loop {
        let mut done = Bytes::ZERO;
        each(&mut |heap| done += heap.release_some(quantum));
        if done == Bytes::ZERO || worked(system) >= LEAST_WORK {
            let worked = worked(system);
            return Next::Rest { worked, rest: pacer.rest(worked, idle) };
        }
    }
}

/// Shows every heap of the process to `visit`. Heaps that are values cannot go meanwhile.
fn every_heap(visit: &mut dyn FnMut(&HeapCore)) {
    if let Some(heap) = process::existing() {
        visit(heap.core());
    }
    threads::for_each_living(|core| {
        if matches!(core.system, System::Linux) {
            visit(core);
        }
    });
}

/// What the thread runs.
unsafe extern "C" fn run() -> ! {
    crate::os::proc::name_thread(c"spanheap");
    let mut pacer = Pacer::new();
    loop {
        COUNTS.wakeups.fetch_add(1, Ordering::Relaxed);
        let next = round(&pacer, System::Linux, every_heap);
        COUNTS.processor.store(System::Linux.thread_time().0, Ordering::Relaxed);
        match next {
            Next::Rest { worked, rest } => {
                let start = System::Linux.now();
                BACKGROUND.nap(rest);
                pacer.learn(worked, Nanoseconds(System::Linux.now().0 - start.0));
            }
            Next::Nap(time) => BACKGROUND.nap(time),
            Next::Sleep => {
                BACKGROUND.sleep(|| round(&pacer, System::Linux, every_heap) == Next::Sleep);
            }
        }
    }
}

/// Where two words stand that say what the scavenger has done: wake-ups, and nanoseconds of processor time.
pub(super) fn counts_address() -> Address {
    Address::of(&COUNTS)
}

/// What the scavenger has done for this process so far.
pub fn work() -> Work {
    Work {
        wakeups: COUNTS.wakeups.load(Ordering::Relaxed),
        processor: COUNTS.processor.load(Ordering::Relaxed),
    }
}

/// Says that the thread is not there: this is the child of a `fork`.
pub(crate) fn forget() {
    BACKGROUND.forget();
    COUNTS.wakeups.store(0, Ordering::Relaxed);
    COUNTS.processor.store(0, Ordering::Relaxed);
}
