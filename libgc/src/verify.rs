//! Looking for faults: a second marking at the end of each collection, and a proof of the whole heap at exit.
//!
//! `SPANHEAP_CONF=gc_verify:on` has whatever should be marked looked for again, by the core's [`Verifier`], which shares
//! no code with the first marking. The first object that was missed stops the program.
//!
//! The program cannot be asked for its roots twice in a collection: its functions take locks and change what they look at.
//! So everything that it pushes is *noted* as it comes, and so is what stacks, finalizers and references lead to. The
//! registered ranges are read again. What was marked without its contents (`GC_set_mark_bit`) is *closed*: nothing is asked
//! of what it leads to.
//!
//! At exit the caches give back what they have, all is swept, and the books and all invariants of the rooms are
//! proved.
//!
//! # Safety
//! The notes are used by the thread that drives a collection.

use crate::{concurrent, cycle, heap, settings, stop};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use spanheap::base::{Address, Bytes, Exhausted};
use spanheap::gc::{Marking, Pile, RootRange, Supply, Unmarked, Verifier};

static IS_ON: AtomicBool = AtomicBool::new(false);

/// What the second marking begins with.
struct Notes {
    reached: Pile,
    closed: Pile,
    /// There was no memory to note everything: less is compared.
    is_short: bool,
}

struct Guarded(UnsafeCell<Notes>);
// SAFETY: the head of this file.
unsafe impl Sync for Guarded {}

static NOTES: Guarded =
    Guarded(UnsafeCell::new(Notes { reached: Pile::new(), closed: Pile::new(), is_short: false }));

/// The notes; the calling thread drives a collection.
fn notes() -> &'static mut Notes {
    // SAFETY: the head of this file.
    unsafe { &mut *NOTES.0.get() }
}

/// Begins to note, if the configuration says so.
pub(crate) fn begin() {
    IS_ON.store(heap::gc().parts.config().verify, Ordering::Relaxed);
}

fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Notes an address that was shaded.
pub(crate) fn note(address: usize, marking: &mut Marking<'_>) {
    if is_on() {
        put(&mut notes().reached, address, marking);
    }
}

/// Notes what the words of a range lead to, which were scanned.
pub(crate) fn note_words((start, end): (usize, usize), marking: &mut Marking<'_>) {
    if is_on() {
        let range = RootRange { start: Address(start), size: Bytes(end - start), bits: ptr::null() };
        // SAFETY: the range was just scanned.
        unsafe { range.for_each_word(&mut |word| put(&mut notes().reached, word.0, marking)) };
    }
}

/// Notes an object whose contents are not asked for.
pub(crate) fn close(address: usize, marking: &mut Marking<'_>) {
    if is_on() {
        put(&mut notes().closed, address, marking);
    }
}

fn put(pile: &mut Pile, address: usize, marking: &mut Marking<'_>) {
    let address = Address(address);
    if marking.objects.find(address).is_some() {
        let Supply { ground, ref mut spans, .. } = marking.supply;
        notes().is_short |= pile.push(address, ground, spans).is_err();
    }
}

/// Stops the program if an object was missed. The world stands still, marking has ended, and nothing is swept.
pub(crate) fn compare() {
    if !is_on() {
        return;
    }
    let parts = heap::gc().parts;
    if let Err(broken) = parts.collector().check_marks(parts.objects()) {
        fail(format_args!("{broken:?}"));
    }
    let Notes { reached, closed, is_short } = notes();
    let found = parts.with_work(|work| {
        // SAFETY: the caller's promise.
        let verifier = unsafe { Verifier::new(work.ground, work.spans, (parts.objects(), parts.shapes())) };
        let found = verifier.map(|mut verifier| {
            let walked = match *is_short {
                true => Ok(()),
                false => walk(&mut verifier, reached, closed),
            };
            let finished = verifier.finish();
            walked.map(|()| finished)
        });
        reached.clear(work.ground, work.spans);
        closed.clear(work.ground, work.spans);
        found
    });
    *is_short = false;
    if let Ok(Ok(Err(Unmarked { object, parent }))) = found {
        fail(format_args!("the collector missed {object:?}, which {parent:?} leads to"));
    }
}

fn walk(verifier: &mut Verifier<'_, '_>, reached: &mut Pile, closed: &mut Pile) -> Result<(), Exhausted> {
    verifier.close_all(closed);
    for range in heap::gc().parts.collector().roots.all() {
        // SAFETY: ranges are removed by threads that run.
        unsafe { verifier.range(&range) }?;
    }
    verifier.all(reached)
}

/// Says what does not hold, and stops the program.
fn fail(what: core::fmt::Arguments<'_>) -> ! {
    settings::log(format_args!("spanheap gc: {what}"));
    settings::fatal(c"spanheap gc: a check has failed\n")
}

/// Stops the program if something does not hold as it exits.
pub(crate) fn at_exit() {
    if heap::existing().is_none() || !is_on() {
        return;
    }
    if !cycle::lock_between() {
        return;
    }
    cycle::sweep_all();
    stop::stop_world();
    // Slots that threads have freed count as objects until a collection takes them back.
    cycle::flush();
    let heap = heap::gc().parts.heap();
    let checked = heap.check();
    stop::go_on();
    concurrent::unpark();
    heap::unlock();
    if let Err(error) = checked {
        fail(format_args!("{error}"));
    }
}
