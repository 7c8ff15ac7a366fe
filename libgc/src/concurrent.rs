//! Marking while the program runs.
//!
//! Programs that were built for Boehm's collector have no write barrier. But the kernel can tell which pages were written
//! since a moment ([`Watch`]), so a cycle can go like this:
//!
//! ```text
//!            due early          ready         a short stop        all is marked        a short stop
//!   Idle ───────────▶ Prepare ───────▶ Ready ─────────────▶ Mark ───────────────▶ Done ───────────────▶ Lift ──▶ Idle
//!                     sweep what               read roots   mark; scan what was        roots again; what was
//!                     is left;                 and stacks   written meanwhile, until   written since; mark what
//!                     protect pages                         that is little             they lead to; as ever
//! ```
//!
//! What stands between two stops is done by a thread of the library's own, the *conductor*, in steps of a millisecond or
//! less. What needs the world to stand is done by a thread of the program that allocates, as in a cycle that marks in
//! one stop ([`cycle`]): so the program's functions are called where they always are, and a program with one thread is stopped by
//! nobody but itself. If the program allocates faster than the conductor marks, those who allocate mark as well, a
//! little each time ([`assist`]). Nothing depends on how far marking has come: whatever is left is done in the last stop.
//!
//! ## Why no object is lost
//!
//! 1. While marking, nothing that was alive at the beginning goes away: spans are swept before, none is freed
//!    before the end, and a slot that the program frees is used again by its thread alone.
//! 2. What is allocated while marking is black in advance.
//! 3. A page is protected, or counts as written, from before the beginning until the last stop has asked about it. So
//!    does a page on which a span was opened since: it was never protected.
//! 4. Before a page that was written is protected again and left, what is black on it is scanned again, after
//!    it was protected.
//! 5. In the last stop every root is read, and what is black on a written page is scanned. Objects with procedures of the
//!    program's are looked into in the two stops and in no other place.
//! 6. Where the kernel does not answer, every page counts as written.
//!
//! *Claim.* When the last stop has drained what it found, every object that can be reached is marked. Let x be reachable, by a
//! path from a root whose first unmarked object is y. What leads to y is a root, and then the last stop has read it and
//! marked y (5). Or it is a word w of an object z, which is marked and, since nothing is grey any more, black. Who made it
//! black read w at some time, or handed z out (2) before w was stored. If w has not changed since that reading, y was
//! marked then. So the last store to w came after the last reading of it, or z was never read. Then its page was written
//! after it was protected last, or was never protected (3): had it been protected after that store, z would have been
//! scanned after that (4), or had not been black yet and was scanned later, both times with w in it. So the last stop found
//! the page written, and scanned z with w in it: y is marked. ∎
//!
//! A pointer that stands in a register, on a stack, in a data segment or in a thread's variables only is a root's. One that
//! the program has hidden (a disappearing link) does not count, and comes back by a register.
//!
//! What died since the beginning may live until the next cycle. A program that asks for a collection (`GC_gcollect`) gets a
//! whole one, in one stop, after what was begun is ended.
//!
//! ## Who may touch what
//!
//! 7. The phase is changed by the conductor in Prepare, Mark and Lift, and by the holder of the allocation lock otherwise, or
//!    while the conductor is parked.
//! 8. The conductor takes neither the allocation lock nor any that a stopped thread may hold; it is parked before the last
//!    stop and before a `fork`, and keeps no lock between its steps.
//!
//! In a child of a `fork` there is no watch: a cycle that had begun is ended there as if all had been written.
//!
//! # Safety
//! [`State`] belongs to the conductor during a step, and to the holder of the allocation lock while it is parked.

use crate::cycle::{Why, now};
use crate::{heap, kinds, mark, pace, settings};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use spanheap::base::sync::{self, Backoff};
use spanheap::base::{Address, Bytes, PAGE_SIZE, PageId};
use spanheap::collect::door::Parts;
use spanheap::front::config::Concurrent;
use spanheap::gc::{Drained, Marking, Worker};
use spanheap::object::{NoAttachments, SpanClass, SpanKind};
use spanheap::os::{SystemError, Watch, Written};

/// Where a cycle is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Phase {
    /// Nowhere.
    Idle = 0,
    /// The conductor sweeps and protects.
    Prepare = 1,
    /// Marking can begin.
    Ready = 2,
    /// The conductor marks.
    Mark = 3,
    /// It has done what it can.
    Done = 4,
    /// It takes protection away.
    Lift = 5,
}

/// What is to be done by a thread that found that something is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing: others are at it.
    Nothing,
    /// A collection in one stop.
    Whole,
    /// The first of two stops.
    Begin,
    /// The last one.
    Finish,
    /// The last one, and a collection in one stop after it.
    FinishAndWhole,
}

/// Bytes of words that are scanned in one step of the conductor's, and for an allocation that assists.
const STEP: u64 = 128 << 10;
/// Bytes that are protected by one call.
const PROTECT: usize = 32 << 20;
/// Bytes about which the kernel is asked at once while the program runs.
const ASK: usize = 1 << 20;
/// Runs of written pages that one answer has room for.
const RUNS: usize = 128;
/// Pages without pointers between two with them that are protected as well, to save calls.
const GAP: usize = 16;
/// Fewer written pages than these are left to the last stop.
const FEW: usize = 64;
/// The most times that written pages are scanned before the last stop.
const PASSES: u32 = 6;
/// Chunks that are swept in one step.
const CHUNKS: usize = 4;

/// What the conductor has.
struct State {
    watch: Option<Watch>,
    worker: Worker,
    /// Where it is: an offset into the region.
    cursor: usize,
    /// Where this pass ends: what comes behind is new, and left to the next one.
    end: usize,
    /// How often it has gone through all pages since marking began.
    pass: u32,
    /// Written pages in this pass, and in the last one.
    written: usize,
    before: usize,
    /// Whether it is not known what was written.
    is_lost: bool,
    /// Whether the objects that live until they are freed have been shaded.
    has_roots: bool,
    list: [Written; RUNS],
}

struct Guarded(UnsafeCell<State>);
// SAFETY: the head of this file.
unsafe impl Sync for Guarded {}

static STATE: Guarded = Guarded(UnsafeCell::new(State {
    watch: None,
    worker: Worker::new(),
    cursor: 0,
    end: 0,
    pass: 0,
    written: 0,
    before: 0,
    is_lost: false,
    has_roots: false,
    list: [Written::NONE; RUNS],
}));

static PHASE: AtomicU32 = AtomicU32::new(Phase::Idle as u32);
/// Grows whenever there may be something to do for the conductor.
static BELL: AtomicU32 = AtomicU32::new(0);
/// Whether the conductor is in a step.
static IN_STEP: AtomicU32 = AtomicU32::new(0);
/// Those who want it to stay out of one.
static PARKERS: AtomicU32 = AtomicU32::new(0);
static IS_STARTED: AtomicBool = AtomicBool::new(false);
/// Whether the kernel has refused, or there is no thread.
static IS_REFUSED: AtomicBool = AtomicBool::new(false);

/// When the phase Prepare or Mark began, and how long the two took in the last cycle, in nanoseconds.
static SINCE: AtomicU64 = AtomicU64::new(0);
static PREPARED_IN: AtomicU64 = AtomicU64::new(0);
static MARKED_IN: AtomicU64 = AtomicU64::new(0);
/// Picoseconds for which the world would stand, for a byte that is alive.
static STOP_COST: AtomicU64 = AtomicU64::new(500);
/// Live bytes and the time when the last cycle ended; bytes allocated in a millisecond since then.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);
static ALLOCATES: AtomicUsize = AtomicUsize::new(0);

/// Where the cycle is.
pub(crate) fn phase() -> Phase {
    match PHASE.load(Ordering::Acquire) {
        0 => Phase::Idle,
        1 => Phase::Prepare,
        2 => Phase::Ready,
        3 => Phase::Mark,
        4 => Phase::Done,
        _ => Phase::Lift,
    }
}

/// Goes on to another phase.
fn enter(phase: Phase) {
    PHASE.store(phase as u32, Ordering::Release);
    draw_line();
    if matches!(phase, Phase::Prepare | Phase::Mark | Phase::Lift) {
        ring();
    }
}

fn ring() {
    BELL.fetch_add(1, Ordering::SeqCst);
    sync::wake_all(&BELL);
}

/// Whether a cycle has had its first stop and not its last one.
pub(crate) fn is_marking() -> bool {
    matches!(phase(), Phase::Mark | Phase::Done)
}

/// Says to those who allocate from how many live bytes on something is due.
pub(crate) fn draw_line() {
    let goal = pace::goal();
    let line = match phase() {
        Phase::Idle if is_wanted() => trigger(goal),
        Phase::Idle | Phase::Mark => goal,
        // What is not ready by then is not waited for.
        Phase::Prepare | Phase::Lift => goal.saturating_add(goal / 4),
        Phase::Ready | Phase::Done => 0,
    };
    pace::set_due(line);
}

/// Live bytes at which to begin, so that marking ends when the goal is reached.
fn trigger(goal: usize) -> usize {
    let time = PREPARED_IN.load(Ordering::Relaxed) + MARKED_IN.load(Ordering::Relaxed);
    let meanwhile = (time / 1000).saturating_mul(ALLOCATES.load(Ordering::Relaxed) as u64) / 1000;
    let live = LIVE.load(Ordering::Relaxed).min(goal);
    let earliest = live + (goal - live) / 4;
    goal.saturating_sub(meanwhile as usize).clamp(earliest, goal - (goal - live) / 16)
}

/// Whether the next cycle should mark while the program runs.
fn is_wanted() -> bool {
    let (wish, pause) = heap::gc().parts.concurrency();
    if IS_REFUSED.load(Ordering::Relaxed) {
        return false;
    }
    match wish {
        Concurrent::On => true,
        Concurrent::Off => false,
        Concurrent::Auto => {
            let live = LIVE.load(Ordering::Relaxed) as u64;
            let stop = live.saturating_mul(STOP_COST.load(Ordering::Relaxed)) / 1000;
            settings::markers() > 1 && stop > pause.0
        }
    }
}

/// What a thread is to do that holds the allocation lock. The conductor is parked if that is to end a cycle: the caller
/// [ends](end) it.
pub(crate) fn next(why: Why) -> Step {
    let is_late = why == Why::Due && is_late();
    match (phase(), why) {
        (Phase::Idle, Why::Asked) => Step::Whole,
        (Phase::Idle, _) if is_wanted() && start() => {
            SINCE.store(now(), Ordering::Relaxed);
            state_while_idle().cursor = 0;
            enter(Phase::Prepare);
            Step::Nothing
        }
        (Phase::Idle, _) => Step::Whole,
        (Phase::Prepare | Phase::Ready, Why::Asked) => give_up(),
        (Phase::Prepare, _) if is_late => give_up(),
        (Phase::Ready, _) => Step::Begin,
        (Phase::Mark | Phase::Done, Why::Asked) => {
            park();
            Step::FinishAndWhole
        }
        (Phase::Done, _) => {
            park();
            Step::Finish
        }
        (Phase::Lift, Why::Asked) => Step::Whole,
        (Phase::Lift, _) if is_late => Step::Whole,
        (Phase::Prepare | Phase::Mark | Phase::Lift, _) => Step::Nothing,
    }
}

/// Whether much more has been allocated than the goal allows.
fn is_late() -> bool {
    heap::gc().parts.objects().live().0 > pace::goal() + pace::goal() / 4
}

/// Does without what was prepared.
fn give_up() -> Step {
    park();
    state().cursor = 0;
    enter(Phase::Lift);
    unpark();
    Step::Whole
}

/// The conductor's, while it is parked, or this thread is it.
#[allow(clippy::mut_from_ref, reason = "the head of this file says who has it")]
fn state() -> &'static mut State {
    // SAFETY: the head of this file.
    unsafe { &mut *STATE.0.get() }
}

/// The same in the phase Idle, in which the conductor does nothing.
fn state_while_idle() -> &'static mut State {
    debug_assert_eq!(phase(), Phase::Idle);
    state()
}

/// Keeps the conductor from working, and waits until it has left its step.
pub(crate) fn park() {
    PARKERS.fetch_add(1, Ordering::SeqCst);
    let mut backoff = Backoff::new();
    while IN_STEP.load(Ordering::SeqCst) != 0 {
        backoff.step();
    }
}

/// Takes that back.
pub(crate) fn unpark() {
    PARKERS.fetch_sub(1, Ordering::SeqCst);
    ring();
}

/// In the child of a `fork`, where there is no conductor, and nothing is watched. It was parked.
pub(crate) fn forget() {
    PARKERS.store(0, Ordering::Relaxed);
    IS_STARTED.store(false, Ordering::Relaxed);
    let state = state();
    state.watch = None;
    if heap::existing().is_none() {
        return;
    }
    match phase() {
        Phase::Mark | Phase::Done => {
            state.is_lost = true;
            enter(Phase::Done);
        }
        _ => enter(Phase::Idle),
    }
}

/// Has a conductor and a watch. Returns whether there are both.
fn start() -> bool {
    if !has_watch() || !has_thread() {
        IS_REFUSED.store(true, Ordering::Relaxed);
        draw_line();
        return false;
    }
    true
}

fn has_watch() -> bool {
    let state = state_while_idle();
    if state.watch.is_some() {
        return true;
    }
    let opened = heap::gc().parts.with_work(|work| {
        let heap = work.ground.heap;
        // SAFETY: the region is one reservation, and stays as long as the process.
        unsafe { Watch::open(heap.system(), heap.region().base(), heap.region().size()) }
    });
    match opened {
        Ok(watch) => state.watch = Some(watch),
        Err(error) => say_refused(error),
    }
    state.watch.is_some()
}

fn say_refused(SystemError(number): SystemError) {
    if settings::prints() || heap::gc().parts.concurrency().0 == Concurrent::On {
        settings::log(format_args!(
            "spanheap gc: written pages cannot be watched here (errno {number}); collections stop the world"
        ));
    }
}

fn has_thread() -> bool {
    IS_STARTED.swap(true, Ordering::Relaxed) || {
        let is_there = mark::start_thread(conduct, ptr::null_mut());
        IS_STARTED.store(is_there, Ordering::Relaxed);
        is_there
    }
}

extern "C" fn conduct(_: *mut c_void) -> *mut c_void {
    loop {
        let bell = BELL.load(Ordering::SeqCst);
        IN_STEP.store(1, Ordering::SeqCst);
        let has_worked = PARKERS.load(Ordering::SeqCst) == 0 && step();
        IN_STEP.store(0, Ordering::SeqCst);
        if !has_worked {
            sync::wait(&BELL, bell);
        }
    }
}

/// Does a little. Returns whether there was something to do.
fn step() -> bool {
    let (parts, state) = (heap::gc().parts, state());
    match phase() {
        Phase::Prepare => prepare(parts, state),
        Phase::Mark => mark_on(parts, state),
        Phase::Lift => lift(parts, state),
        _ => return false,
    }
    true
}

fn prepare(parts: Parts<'_>, state: &mut State) {
    let sweep =
        |_: &usize| parts.with_work(|work| parts.objects().sweep_chunk(work, &mut NoAttachments)).is_some();
    if (0..CHUNKS).take_while(sweep).count() > 0 {
        return;
    }
    if !parts.objects().is_swept() {
        return sync::yield_now();
    }
    let Some(run) = next_run(&parts, state.cursor, PROTECT) else {
        PREPARED_IN.store(now() - SINCE.load(Ordering::Relaxed), Ordering::Relaxed);
        return enter(Phase::Ready);
    };
    let watch = state.watch.as_ref().expect("nothing is prepared without a watch");
    if let Err(error) = watch.protect(address(&parts, run.start), Bytes(run.len())) {
        // It has let us open the watch: what it lacks now may be memory. A collection in one stop needs none.
        say_refused(error);
        IS_REFUSED.store(true, Ordering::Relaxed);
        state.cursor = 0;
        return enter(Phase::Lift);
    }
    state.cursor = run.end;
}

/// Marks a little; when all is marked, scans a part of what was written meanwhile.
fn mark_on(parts: Parts<'_>, state: &mut State) {
    if !state.has_roots {
        parts.with_marking(|marking| shade_uncollectable(&mut state.worker, marking));
        state.has_roots = true;
    }
    let drained = parts.with_marking(|marking| state.worker.drain(STEP, marking));
    if drained == Drained::Budget {
        return;
    }
    if !parts.collector().is_quiet() {
        // Somebody assists.
        return sync::yield_now();
    }
    if is_late() {
        // The program writes faster than this is scanned. It stands still for the rest.
        return finish_marking();
    }
    let run = next_run(&parts, state.cursor, ASK).filter(|run| run.start < state.end);
    let Some(run) = run else { return end_pass(state, parts.objects().covered()) };
    match scan_written(&parts, state, run, true) {
        Some(until) => state.cursor = until,
        None => finish_marking(),
    }
}

/// Asks which pages of a run were written, and scans them again. Returns how far the answer goes; `None` if there is none.
fn scan_written(parts: &Parts<'_>, state: &mut State, run: Range<usize>, protect: bool) -> Option<usize> {
    let State { watch, worker, list, written, is_lost, .. } = state;
    let base = parts.objects().base().0;
    let answer = watch
        .as_ref()
        .and_then(|watch| watch.written(Address(base + run.start), Bytes(run.len()), protect, list).ok());
    let Some(answer) = answer else {
        *is_lost = true;
        return None;
    };
    parts.with_marking(|marking| {
        for run in &list[..answer.count] {
            let from = run.start().0 - base;
            worker.scan_again(from..from + run.size().0, marking);
            *written += run.size().0 / 4096;
        }
    });
    Some(answer.until.0 - base)
}

/// Whether to go through the pages once more.
fn end_pass(state: &mut State, covered: Bytes) {
    state.pass += 1;
    let is_worth_it = state.pass == 1 || state.written < state.before / 4 * 3;
    if state.written <= FEW || state.pass >= PASSES || !is_worth_it {
        return finish_marking();
    }
    (state.before, state.written, state.cursor, state.end) = (state.written, 0, 0, covered.0);
}

fn finish_marking() {
    MARKED_IN.store(now() - SINCE.load(Ordering::Relaxed), Ordering::Relaxed);
    enter(Phase::Done);
}

fn lift(parts: Parts<'_>, state: &mut State) {
    let run = next_run(&parts, state.cursor, PROTECT);
    let (Some(run), Some(watch)) = (run, &state.watch) else { return enter(Phase::Idle) };
    // Where that is refused, the pages' first writes are noted for nobody.
    let _ = watch.lift(address(&parts, run.start), Bytes(run.len()));
    state.cursor = run.end;
}

fn address(parts: &Parts<'_>, offset: usize) -> Address {
    Address(parts.objects().base().0 + offset)
}

/// The next pages from an offset on that hold objects with pointers, of `most` bytes at most, with what lies between
/// them. Spans may come meanwhile: what is not seen is not protected, and counts as written.
fn next_run(parts: &Parts<'_>, from: usize, most: usize) -> Option<Range<usize>> {
    let objects = parts.objects();
    let end = objects.covered().0 / PAGE_SIZE;
    let mut run: Option<Range<usize>> = None;
    let mut has_pointers = true;
    for page in from / PAGE_SIZE..end {
        let code = objects.code(PageId(page));
        if code != SpanClass::LATER {
            has_pointers = code.is_first() && code.row().kind != SpanKind::Plain;
        }
        match &mut run {
            None if has_pointers => run = Some(page..page + 1),
            Some(run) if has_pointers => run.end = page + 1,
            Some(run) if page - run.end >= GAP => break,
            _ => {}
        }
        if run.as_ref().is_some_and(|run| run.len() >= most / PAGE_SIZE) {
            break;
        }
    }
    run.map(|run| run.start * PAGE_SIZE..run.end * PAGE_SIZE)
}

/// Shades the objects that live until they are freed.
fn shade_uncollectable(worker: &mut Worker, marking: &mut Marking<'_>) {
    let heap = marking.supply.ground.heap;
    kinds::for_each_uncollectable(heap, |address| worker.shade(address, marking));
}

/// Marking begins: the world stands still.
pub(crate) fn begin_marking() {
    let state = state();
    (state.cursor, state.pass, state.written, state.before) = (0, 0, 0, 0);
    (state.is_lost, state.has_roots) = (false, false);
    state.end = heap::gc().parts.objects().covered().0;
    let live = heap::gc().parts.objects().live().0;
    let time = (now() - ENDED.load(Ordering::Relaxed)) / 1_000_000;
    let allocated = live.saturating_sub(LIVE.load(Ordering::Relaxed));
    ALLOCATES.store(allocated / time.max(1) as usize, Ordering::Relaxed);
    SINCE.store(now(), Ordering::Relaxed);
}

/// After the first stop.
pub(crate) fn go_on() {
    enter(Phase::Mark);
}

/// In the last stop: scans what was written. The conductor is parked. Returns whether much was left.
pub(crate) fn scan_what_was_written(worker: &mut Worker) {
    let (parts, state) = (heap::gc().parts, state());
    let parts = &parts;
    parts.with_marking(|marking| {
        state.worker.leave(marking);
        if !state.has_roots {
            shade_uncollectable(worker, marking);
        }
    });
    let mut cursor = 0;
    while !state.is_lost
        && let Some(run) = next_run(parts, cursor, usize::MAX)
    {
        let mut from = run.start;
        while from < run.end && !state.is_lost {
            from = scan_written(parts, state, from..run.end, false).unwrap_or(run.end);
        }
        cursor = run.end;
    }
    parts.with_marking(|marking| {
        if state.is_lost {
            worker.scan_again(0..parts.objects().covered().0, marking);
        }
        state.worker.leave(marking);
    });
}

/// The cycle has ended, with so many bytes alive. The conductor is let go on.
pub(crate) fn end(live: usize) {
    let cost = MARKED_IN.load(Ordering::Relaxed) / settings::markers() as u64;
    learn(live, cost);
    state().cursor = 0;
    enter(Phase::Lift);
    unpark();
}

/// A collection in one stop has ended, which took so long.
pub(crate) fn note_whole(live: usize, stopped: u64) {
    learn(live, stopped);
    draw_line();
}

fn learn(live: usize, cost: u64) {
    STOP_COST.store(cost.saturating_mul(1000) / live.max(1) as u64, Ordering::Relaxed);
    LIVE.store(live, Ordering::Relaxed);
    ENDED.store(now(), Ordering::Relaxed);
}

/// Marks a little on a thread that allocates, if nobody else does just now and the conductor is behind.
pub(crate) fn assist() {
    // Whoever comes and goes without need keeps the conductor from seeing that there is no work.
    if !heap::gc().parts.collector().has_work() || !heap::try_lock() {
        return;
    }
    if phase() == Phase::Mark {
        heap::gc().parts.with_marking(|marking| {
            let worker = mark::drivers_worker();
            worker.drain(STEP, marking);
            worker.leave(marking);
        });
    }
    heap::unlock();
}
