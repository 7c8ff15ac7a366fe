//! Slabs: what the heap knows of stacks, by number.
//!
//! A slab is a span cut into stacks of one class, each above its guard. Its record stands in a table and not in the
//! span, so nothing here touches a stack's memory, and what a stack overwrites harms nobody else:
//!
//! ```text
//!   span   │ guard │ stack 0 │ guard │ stack 1 │ ...                   the low end is on the left
//!   record │ free: a bit a stack │ dirty │ neighbours in its list │ 16 × { holder's word, activity, link, phase }
//! ```
//!
//! A stack's number is its slab's number and its place. A slab's number is in its span's word, plus nothing: zero is no
//! slab, so an address leads to its stack without a lock, in a signal handler too.
//!
//! All fields are atomics, so that a reader who comes at any time sees some value of each; who may write them, and what
//! belongs together, stands in the room's essay.
//!
//! # Safety
//! All-zero memory is a record that nobody uses.

use super::class::{IN_SLAB, StackClass};
use crate::base::purpose::StackKind;
use crate::base::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering::Relaxed};
use crate::base::{Address, PageId};
use crate::os::{Guarding, Zeroed};
use crate::span::SpanId;

/// A stack's number. 0 is no stack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct StackId(pub(super) u32);

/// Where a stack stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// In its slab, for whoever needs one.
    Free = 0,
    /// In a mutator's cache.
    Cached,
    /// In its holder's hands.
    InUse,
    /// Freed while the collector marked: nobody's until the cycle ends.
    Parked,
}

/// What runs on a stack, as its holder says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// The holder does not say: the collector does not look there.
    Unregistered,
    /// Some thread runs on it at this moment: the stack pointer is that thread's.
    Running,
    /// Nobody runs on it, and what runs there later goes on from this stack pointer: what lies above it is alive.
    Parked(Address),
    /// What ran on it has ended: nothing there is alive.
    Finished,
}

const UNREGISTERED: usize = 0;
const RUNNING: usize = 1;
const FINISHED: usize = 2;
const PARKED: usize = 3;

impl StackId {
    /// The number that no stack has.
    pub const NONE: StackId = StackId(0);

    pub(super) fn new(slab: u32, place: usize) -> StackId {
        StackId(slab * IN_SLAB as u32 + place as u32)
    }

    pub(super) fn slab(self) -> u32 {
        self.0 / IN_SLAB as u32
    }

    pub(super) fn place(self) -> usize {
        self.0 as usize % IN_SLAB
    }

    /// The number, for messages and books.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// One stack's part of its slab's record.
pub(super) struct StackRecord {
    /// [`Activity`] in one word, so that a scan sees state and stack pointer together.
    activity: AtomicUsize,
    /// A word of the holder's.
    pub(super) word: AtomicUsize,
    /// The next stack in the list that this one lies in.
    pub(super) next: AtomicU32,
    phase: AtomicU8,
}

/// A slab's record.
pub(super) struct Slab {
    /// The slab's span; 0 in a record that nobody uses.
    pub(super) span: AtomicU32,
    page: AtomicU32,
    /// Stacks that nobody has, by place.
    pub(super) free: AtomicU16,
    /// Stacks that were handed out since their memory was last given back.
    pub(super) dirty: AtomicU16,
    kind: AtomicU8,
    class: AtomicU8,
    guarding: AtomicU8,
    /// Stacks in the slab: fewer than its class says where the system had no more guards.
    count: AtomicU8,
    /// Stacks that were ever handed out, from the first on: those behind were never touched.
    pub(super) carved: AtomicU8,
    /// The slab's neighbours in its list, or the next unused record.
    pub(super) before: AtomicU32,
    pub(super) after: AtomicU32,
    pub(super) stacks: [StackRecord; IN_SLAB],
}

// SAFETY: zeros are a record that nobody uses.
unsafe impl Zeroed for Slab {}

impl StackRecord {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            1 => Phase::Cached,
            2 => Phase::InUse,
            3 => Phase::Parked,
            _ => Phase::Free,
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn activity(&self) -> Activity {
        let word = self.activity.load(Relaxed);
        match word & PARKED {
            UNREGISTERED => Activity::Unregistered,
            RUNNING => Activity::Running,
            FINISHED => Activity::Finished,
            _ => Activity::Parked(Address(word & !PARKED)),
        }
    }

    pub(super) fn set_activity(&self, activity: Activity) {
        let word = match activity {
            Activity::Unregistered => UNREGISTERED,
            Activity::Running => RUNNING,
            Activity::Finished => FINISHED,
            // What lies below the next multiple of a word is looked at as well: it costs nothing.
            Activity::Parked(at) => at.0 & !PARKED | PARKED,
        };
        // Whoever sees the new state sees what was put on the stack before.
        self.activity.store(word, crate::base::sync::Ordering::Release);
    }
}

impl Slab {
    /// Fills a record. The caller is the only one who knows it.
    pub(super) fn open(
        &self,
        span: SpanId,
        page: PageId,
        kind: StackKind,
        class: StackClass,
        guards: Guards,
    ) {
        self.page.store(page.0 as u32, Relaxed);
        self.kind.store(kind.0, Relaxed);
        self.class.store(class.index() as u8, Relaxed);
        self.guarding.store(guards.how as u8, Relaxed);
        self.count.store(guards.stacks as u8, Relaxed);
        self.free.store(((1u32 << guards.stacks) - 1) as u16, Relaxed);
        self.dirty.store(0, Relaxed);
        self.carved.store(0, Relaxed);
        self.span.store(span.0, Relaxed);
    }

    pub(super) fn close(&self) {
        self.span.store(0, Relaxed);
        self.free.store(0, Relaxed);
        self.count.store(0, Relaxed);
    }

    pub(super) fn page(&self) -> PageId {
        PageId(self.page.load(Relaxed) as usize)
    }

    pub(super) fn kind(&self) -> StackKind {
        StackKind(self.kind.load(Relaxed))
    }

    pub(super) fn class(&self) -> StackClass {
        StackClass::numbered(self.class.load(Relaxed))
    }

    pub(super) fn guarding(&self) -> Guarding {
        match self.guarding.load(Relaxed) {
            0 => Guarding::Markers,
            _ => Guarding::Mappings,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed) as usize
    }

    /// The bits of all stacks.
    pub(super) fn all(&self) -> u16 {
        ((1u32 << self.count()) - 1) as u16
    }

    /// Bytes from the slab's beginning to a stack's low end.
    pub(super) fn offset_of(&self, place: usize) -> usize {
        let class = self.class();
        place * class.stride().0 + class.guard_size().0
    }

    /// Notes that a stack leaves its slab.
    pub(super) fn take(&self, place: usize) {
        self.free.store(self.free.load(Relaxed) & !(1 << place), Relaxed);
        self.carved.store(self.carved.load(Relaxed).max(place as u8 + 1), Relaxed);
    }

    /// Notes that a stack is back.
    pub(super) fn put(&self, place: usize) {
        self.stacks[place].set_phase(Phase::Free);
        self.free.store(self.free.load(Relaxed) | 1 << place, Relaxed);
    }
}

/// The guards of a slab.
#[derive(Clone, Copy)]
pub(super) struct Guards {
    pub(super) how: Guarding,
    /// Stacks that the slab has.
    pub(super) stacks: usize,
}
