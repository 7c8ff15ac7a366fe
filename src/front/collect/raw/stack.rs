//! Stacks as roots: a thread's own, and those of fibers.
//!
//! A thread that wants its stack scanned says so once. Whenever it stops or goes outside, it first puts its registers
//! onto its stack and notes how deep that is; at the beginning of a cycle, while the world stands, the collector looks at
//! every word from there up to the base. That is enough: what a thread gets hold of later, the barrier keeps.
//!
//! ```text
//!              thread's stack                         a fiber's Stack         another one
//!   base ─▶ ┌───────────────┐                       ┌──────────────┐       ┌──────────────┐
//!           │ frames        │                       │ frames       │       │ frames       │
//!           │ on_stack ─────│─ a note: as deep ───▶ │ safepoint    │       ├──────────────┤ ◀─ Parked(here)
//!           └───────────────┘   as this is alive    └──────────────┘       └──────────────┘
//!              a dormant part                         where it runs          parked: no thread's
//! ```
//!
//! - A thread that goes onto another stack does so inside of [`RawMutator::on_stack`], which notes what stays behind.
//! - Where the thread runs, the stack pointer tells: in one of the heap's [`Stack`](crate::Stack)s or on its own.
//! - A stack whose holder says that it is [parked](crate::Activity::Parked) is scanned from the saved stack pointer;
//!   one that is running is scanned as its thread's; one that is finished, or of which nothing is said, is not.
//!
//! The stacks are read in the pause at the beginning, so it lasts as long as there is to read.
//!
//! # Safety
//! A stack is read while its thread stands still or is outside, from a stack pointer that the thread noted and above
//! which it has frames that it does not leave before it runs again. Of parked stacks the holder promises the same.

use super::RawMutator;
use crate::base::{Address, Bytes};
use crate::front::collect::{Collection, member::Member};
use crate::front::core::HeapCore;
use crate::front::heap::Heap;
use crate::gc::{Marking, Source, Worker};
use core::arch::asm;
use core::cell::Cell;
use core::hint::black_box;
use core::ptr;

/// Registers that a called function keeps.
const KEPT: usize = 6;

/// What the collector knows of the stack that a thread runs on. Zeros: it is not to be scanned.
#[derive(Default)]
pub(in crate::front::collect) struct ThreadStack {
    /// Where the thread's own stack begins, as far as it is to be scanned; 0 if not at all.
    base: Cell<usize>,
    /// How deep the thread was when it stopped or went outside.
    from: Cell<usize>,
    /// What the thread has left behind on other stacks.
    dormant: Cell<*const Dormant>,
}

/// A part of a stack to which the thread comes back later.
struct Dormant {
    from: usize,
    below: *const Dormant,
}

impl ThreadStack {
    /// Whether the stack is scanned.
    #[inline]
    pub(in crate::front::collect) fn is_scanned(&self) -> bool {
        self.base.get() != 0
    }

    /// The stack is not scanned any more.
    pub(in crate::front::collect) fn forget(&self) {
        self.base.set(0);
        self.dormant.set(ptr::null());
    }

    /// Runs `work`, which stops the thread or goes outside, with registers and depth noted.
    pub(super) fn noted<R>(&self, work: impl FnOnce() -> R) -> R {
        if !self.is_scanned() {
            return work();
        }
        deep(|from| {
            let before = self.from.replace(from);
            let done = work();
            self.from.set(before);
            done
        })
    }
}

/// Runs `work` with the depth of the stack, above which are all registers that the callers may have something in: those
/// that a called function keeps are put there, the others are the callers' to save.
#[inline(never)]
fn deep<R>(work: impl FnOnce(usize) -> R) -> R {
    let mut registers = [0_usize; KEPT];
    let from: usize;
    // SAFETY: the registers go into the array, which is as long; nothing else changes.
    unsafe {
        asm!(
            "mov [{to}], rbx",
            "mov [{to} + 8], rbp",
            "mov [{to} + 16], r12",
            "mov [{to} + 24], r13",
            "mov [{to} + 32], r14",
            "mov [{to} + 40], r15",
            "mov {from}, rsp",
            to = in(reg) registers.as_mut_ptr(),
            from = lateout(reg) from,
            options(nostack, preserves_flags),
        );
    }
    let done = work(from);
    black_box(&registers);
    done
}

/// Calls `work` in a frame of its own, which is also where it has what it brought along.
#[inline(never)]
fn apart<R>(work: impl FnOnce() -> R) -> R {
    let work = black_box(work);
    black_box(work())
}

impl RawMutator<'_> {
    /// Has this thread's stack scanned while `work` runs, as far as `work` uses it: any word on it that points into an
    /// object keeps that, and so do registers. What the callers of this function have on the stack is not looked at, also
    /// where `work` borrows it.
    pub fn with_stack<R>(&self, work: impl FnOnce(&Self) -> R) -> R {
        deep(|base| {
            // SAFETY: frames of `work` lie below, on the stack of this thread, until it returns.
            let before = unsafe { self.set_stack_base(base) };
            /// Goes back to what was, also when `work` panics.
            struct Back<'a>(&'a ThreadStack, usize);
            impl Drop for Back<'_> {
                fn drop(&mut self) {
                    self.0.base.set(self.1);
                }
            }
            let _back = Back(&self.member.stack, before);
            apart(|| work(self))
        })
    }

    /// Has this thread's stack scanned from here on up to an address, or not any more, by zero. Returns what it was.
    ///
    /// # Safety
    /// The address is one past memory of the stack that the thread was started on, above all frames that have references,
    /// and readable as long as the thread has its place. If the thread runs on other stacks, they are
    /// [`Stack`](crate::Stack)s of this heap, and it goes there inside of [`RawMutator::on_stack`].
    pub unsafe fn set_stack_base(&self, base: usize) -> usize {
        self.member.stack.base.replace(base)
    }

    /// Calls `work`, which goes on on another stack and comes back: what is on this one stays alive meanwhile. Calls
    /// may be nested, and each returns on the thread and the stack that it was called on.
    ///
    /// # Safety
    /// The other stack is a [`Stack`](crate::Stack) of this heap, and its holder says what runs on it
    /// ([`Stack::set_activity`](crate::Stack::set_activity)): running before the thread goes there, and parked or finished
    /// when it comes back. It says so, and drops the stack, on threads that are not outside.
    pub unsafe fn on_stack<R>(&self, work: impl FnOnce() -> R) -> R {
        deep(|from| {
            let stack = &self.member.stack;
            let dormant = Dormant { from, below: stack.dormant.get() };
            stack.dormant.set(&raw const dormant);
            /// Takes the note away, also when `work` panics.
            struct Back<'a>(&'a ThreadStack, *const Dormant);
            impl Drop for Back<'_> {
                fn drop(&mut self) {
                    self.0.dormant.set(self.1);
                }
            }
            let _back = Back(stack, dormant.below);
            work()
        })
    }
}

impl Collection {
    /// Shades what the stacks hold. The world stands still.
    pub(in crate::front::collect) fn scan_stacks<'a>(
        &self,
        heap: &Heap,
        members: impl Iterator<Item = &'a Member>,
        worker: &mut Worker,
        marking: &mut Marking<'_>,
    ) {
        self.for_each_stack(heap, members, |start, size| {
            // SAFETY: the file's head.
            unsafe { worker.scan_words((start, size), Source::Stacks, marking) };
        });
    }

    /// Visits every part of a stack that holds frames somebody comes back to. The world stands still.
    pub(in crate::front::collect) fn for_each_stack<'a>(
        &self,
        heap: &Heap,
        members: impl Iterator<Item = &'a Member>,
        mut visit: impl FnMut(Address, Bytes),
    ) {
        let core = heap.core();
        let mut visit = |from: usize, to: usize| visit(Address(from), Bytes(to.saturating_sub(from)));
        for stack in members.map(|member| &member.stack).filter(|stack| stack.is_scanned()) {
            visit(stack.from.get(), stack.end(core, stack.from.get()));
            let mut dormant = stack.dormant.get();
            // SAFETY: the notes stand in frames that their thread comes back to.
            while let Some(part) = unsafe { dormant.as_ref() } {
                visit(part.from, stack.end(core, part.from));
                dormant = part.below;
            }
        }
        for view in core.stacks.registered(&core.pages) {
            if let Some(from) = view.live_from() {
                visit(from.0, view.place.base().0);
            }
        }
    }
}

impl ThreadStack {
    /// Where the stack ends that a stack pointer leads to.
    fn end(&self, core: &HeapCore, from: usize) -> usize {
        let of_fiber = core.stacks.find(&core.pages, Address(from)).map(|(view, _)| view.place);
        match of_fiber {
            // The thread's own stack may be one of the heap's, too.
            Some(place) if !(from..place.base().0).contains(&self.base.get()) => place.base().0,
            _ => self.base.get(),
        }
    }
}
