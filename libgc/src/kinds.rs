//! What the collector must know of an object's inside: kinds, and procedures of the program's.
//!
//! | kind | pool | pointers |
//! |---|---|---|
//! | 0 `PTRFREE` | common | none |
//! | 1 `NORMAL` | common | every word may be one |
//! | 2 uncollectable | uncollectable | every word; a root |
//! | 3 uncollectable, pointer-free | uncollectable | none; lives until it is freed |
//! | made with a length descriptor | common | every word |
//! | made with a procedure | one of its own | what the procedure pushes |
//!
//! Objects of a procedure are allocated as if they had no pointers, so the markers mark them and go on; between rounds
//! the driver looks for those that are marked and not done with, and calls the procedure for each, on its own thread. So a
//! procedure runs while the world stands still, never twice at once, and once for an object in a cycle.
//!
//! # Safety
//! Kinds are made under the allocation lock and never change. Metadata is looked at while the world stands still.

use crate::heap::{self, COMMON, FIRST_TRACED, POOLS, UNCOLLECTABLE};
use crate::mark::{self, Driver};
use crate::settings;
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use spanheap::base::{Address, PurposeId};
use spanheap::object::{PageMeta, SpanClass, SpanKind};
use spanheap::span::PageHeap;

/// A descriptor: its low two bits say what the others are.
type Descriptor = usize;
const TAG: usize = 3;
const LENGTH: usize = 0;
const PROCEDURE: usize = 2;
/// Bits of a procedure's number, behind the tag.
const PROCEDURE_BITS: u32 = 6;

/// A mark procedure: pushes what an object leads to, by [`GC_mark_and_push`].
type Procedure = extern "C" fn(*mut usize, *mut c_void, *mut c_void, usize) -> *mut c_void;

/// The most kinds, and the most procedures, as in the headers.
const MOST_KINDS: usize = 16;
const MOST_PROCEDURES: usize = 1 << PROCEDURE_BITS;

/// A kind.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// What its objects are allocated from.
    pub(crate) pool: usize,
    pub(crate) kind: SpanKind,
    /// The procedure and its word, for a pool that has one.
    procedure: Option<(Procedure, usize)>,
}

impl Kind {
    /// A kind whose pointers are where the core's own says.
    pub(crate) const fn plain(pool: usize, kind: SpanKind) -> Kind {
        Kind { pool, kind, procedure: None }
    }
}

/// Objects without pointers.
pub(crate) const PLAIN: Kind = Kind::plain(COMMON, SpanKind::Plain);
/// Objects all of whose words may be pointers.
pub(crate) const WORDS: Kind = Kind::plain(COMMON, SpanKind::Words);
/// Roots.
pub(crate) const ROOTS: Kind = Kind::plain(UNCOLLECTABLE, SpanKind::Words);
/// Objects without pointers that live until they are freed.
pub(crate) const KEPT: Kind = Kind::plain(UNCOLLECTABLE, SpanKind::Plain);

struct State {
    kinds: [Kind; MOST_KINDS],
    procedures: [Option<Procedure>; MOST_PROCEDURES],
    procedure_count: usize,
    pools: usize,
}

struct Guarded(UnsafeCell<State>);
// SAFETY: the head of this file.
unsafe impl Sync for Guarded {}

static STATE: Guarded = Guarded(UnsafeCell::new(State {
    kinds: [PLAIN; MOST_KINDS],
    procedures: [None; MOST_PROCEDURES],
    procedure_count: 0,
    pools: FIRST_TRACED,
}));
/// Kinds that there are; what stands in the table is whole before this goes on.
static COUNT: AtomicUsize = AtomicUsize::new(4);

/// The tables; the lock is held, or only what is whole is read.
fn state() -> &'static mut State {
    // SAFETY: the head of this file.
    unsafe { &mut *STATE.0.get() }
}

/// A kind by number.
#[inline]
pub(crate) fn kind(number: c_int) -> Option<Kind> {
    match number {
        0 => Some(PLAIN),
        1 => Some(WORDS),
        2 => Some(ROOTS),
        3 => Some(KEPT),
        other => {
            let number = usize::try_from(other).ok()?;
            (number < COUNT.load(Ordering::Acquire)).then(|| state().kinds[number])
        }
    }
}

/// The number of the kind that an object of a pool has, as far as that says it.
pub(crate) fn number_of(pool: usize, kind: SpanKind) -> c_int {
    match (pool, kind) {
        (COMMON, SpanKind::Plain) => 0,
        (COMMON, _) => 1,
        (UNCOLLECTABLE, SpanKind::Plain) => 3,
        (UNCOLLECTABLE, _) => 2,
        (other, _) => {
            let made = &state().kinds[..COUNT.load(Ordering::Acquire)];
            made.iter().skip(4).position(|kind| kind.pool == other).map_or(0, |at| at as c_int + 4)
        }
    }
}

/// A list of free objects: a handle that [`GC_new_kind`] takes. Our threads have lists of their own.
#[unsafe(no_mangle)]
pub extern "C" fn GC_new_free_list() -> *mut *mut c_void {
    ptr::without_provenance_mut(16)
}

/// Makes a procedure known. Returns its number.
#[unsafe(no_mangle)]
pub extern "C" fn GC_new_proc(procedure: Procedure) -> c_uint {
    heap::gc();
    heap::locked(|| {
        let state = state();
        if state.procedure_count == MOST_PROCEDURES {
            settings::fatal(c"too many mark procedures\n");
        }
        state.procedures[state.procedure_count] = Some(procedure);
        state.procedure_count += 1;
        state.procedure_count as c_uint - 1
    })
}

/// Makes a kind. Returns its number.
#[unsafe(no_mangle)]
pub extern "C" fn GC_new_kind(
    _list: *mut *mut c_void,
    descriptor: Descriptor,
    _adjust: c_int,
    _clear: c_int,
) -> c_uint {
    heap::gc();
    heap::locked(|| {
        let number = COUNT.load(Ordering::Relaxed);
        if number == MOST_KINDS {
            settings::fatal(c"too many kinds of objects\n");
        }
        state().kinds[number] = read(descriptor).unwrap_or_else(|| {
            settings::fatal(c"GC_new_kind: a descriptor that this library does not know\n")
        });
        COUNT.store(number + 1, Ordering::Release);
        number as c_uint
    })
}

/// What a descriptor says of all objects of a kind. The lock is held.
fn read(descriptor: Descriptor) -> Option<Kind> {
    match descriptor & TAG {
        // A length, which is that of the object where it is to be adjusted: what lies behind is looked at as well.
        LENGTH => Some(WORDS),
        PROCEDURE => {
            let number = descriptor >> 2 & (MOST_PROCEDURES - 1);
            let procedure = state().procedures[number]?;
            let pool = state().pools;
            if pool == POOLS || !heap::gc().add_pool(pool, NAMES[pool - FIRST_TRACED]) {
                return None;
            }
            state().pools += 1;
            let word = descriptor >> (2 + PROCEDURE_BITS);
            Some(Kind { pool, kind: SpanKind::Plain, procedure: Some((procedure, word)) })
        }
        // One word describes the first 62 words of every object; looking at all of them finds no less.
        1 => Some(WORDS),
        _ => None,
    }
}

/// The purposes of objects that procedures mark.
const NAMES: [&str; POOLS - FIRST_TRACED] = [
    "traced-0",
    "traced-1",
    "traced-2",
    "traced-3",
    "traced-4",
    "traced-5",
    "traced-6",
    "traced-7",
    "traced-8",
    "traced-9",
    "traced-10",
    "traced-11",
    "traced-12",
    "traced-13",
    "traced-14",
    "traced-15",
    "traced-16",
    "traced-17",
];

/// Shades what a word leads to, from inside of a procedure. Returns the handle that it was given.
#[unsafe(no_mangle)]
pub extern "C" fn GC_mark_and_push(
    object: *mut c_void,
    handle: *mut c_void,
    _limit: *mut c_void,
    _source: *mut *mut c_void,
) -> *mut c_void {
    mark::with_driver(|driver| driver.shade(object.addr()));
    handle
}

/// Calls the procedures for objects that are marked and not done with. Returns whether there were any.
pub(crate) fn trace(driver: &mut Driver<'_, '_>) -> bool {
    let mut any = false;
    for number in 4..COUNT.load(Ordering::Acquire) {
        let Kind { pool, procedure: Some((procedure, word)), .. } = state().kinds[number] else { continue };
        for_each_slot(
            heap::gc().purpose(pool),
            driver,
            |marks, _| marks,
            |driver, start| {
                any = true;
                let at = ptr::with_exposed_provenance_mut(start);
                driver.lending(|| procedure(at, HANDLE, HANDLE, word));
            },
        );
    }
    any
}

/// What procedures are given for a stack of marks: it is never looked at.
const HANDLE: *mut c_void = ptr::without_provenance_mut(16);

/// Shades the objects that live until they are freed.
pub(crate) fn push_uncollectable(driver: &mut Driver<'_, '_>) {
    for_each_uncollectable(driver.marking.supply.ground.heap, |address| driver.shade(address.0));
}

/// Calls `visit` with the address of every object that lives until it is freed. Those that come meanwhile may be left out.
pub(crate) fn for_each_uncollectable(heap: &PageHeap, mut visit: impl FnMut(Address)) {
    for_each_span(heap, heap::gc().purpose(UNCOLLECTABLE), |base, code, meta| {
        meta.allocs.iter().for_each(|index| visit(Address(base + index * code.row().size as usize)));
    });
}

/// Has the procedures called once more for objects that are done with: in this cycle they were called in its first stop,
/// or not at all for what is new.
pub(crate) fn forget_traced(driver: &mut Driver<'_, '_>) {
    let heap = driver.marking.supply.ground.heap;
    for kind in made().iter().filter(|kind| kind.procedure.is_some()) {
        for_each_span(heap, heap::gc().purpose(kind.pool), |_, _, meta| meta.scans.clear());
    }
}

/// The kinds that programs have made.
fn made() -> &'static [Kind] {
    &state().kinds[4..COUNT.load(Ordering::Acquire)]
}

/// Calls `visit` for every slot of a purpose's spans that is wanted and not done with, and marks it as done with.
fn for_each_slot(
    purpose: PurposeId,
    driver: &mut Driver<'_, '_>,
    wanted: impl Fn(u64, SpanClass) -> u64,
    mut visit: impl FnMut(&mut Driver<'_, '_>, usize),
) {
    for_each_span(driver.marking.supply.ground.heap, purpose, |base, code, meta| {
        for (group, marks) in meta.marks.0.iter().enumerate() {
            let scans = &meta.scans.0[group];
            let mut left = wanted(marks.load(Ordering::Acquire), code) & !scans.load(Ordering::Relaxed);
            scans.fetch_or(left, Ordering::Relaxed);
            while left != 0 {
                let index = group * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                visit(driver, base + index * code.row().size as usize);
            }
        }
    });
}

/// Calls `visit` for every object span of a purpose, with where its slots begin, its class and its metadata.
fn for_each_span(heap: &PageHeap, purpose: PurposeId, mut visit: impl FnMut(usize, SpanClass, &PageMeta)) {
    let objects = heap::gc().parts.objects();
    for (_, span) in heap.spans().filter(|(_, span)| span.purpose() == purpose) {
        let first = span.page();
        let (code, Some(meta)) = (objects.code(first), objects.meta(first)) else { continue };
        if code.is_first() {
            visit(objects.base().0 + first.offset(), code, meta);
        }
    }
}
