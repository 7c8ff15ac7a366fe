//! Which calls led here: a walk over the running thread's stack that allocates nothing and cannot fault.
//!
//! From frame to frame a [rule](super::rules) says where the caller's begins; where there is none, the chain of frame
//! pointers is followed. Either way only memory between the stack pointer and the end of the stack's mapping is
//! read, and each frame lies above the one before, so nonsense ends the walk and does nothing else.
//!
//! Where the stack ends says `/proc/self/maps`. That takes too long to ask every time; it is kept for the stacks that
//! last as long as their threads: the main thread's, and those that hold their thread's own block (the C library
//! puts it at the stack's end). A coroutine's stack may be gone at any time, and is looked up anew.
//!
//! # Safety
//! What is read of the stack lies in a mapping that the kernel says is readable, above the stack pointer of the running
//! thread, whose frames keep it from going away.

use super::elf::{MOST, Modules};
use super::rules::{KEPT, Rule, Rules};
use crate::os::{System, SystemError, maps};
use crate::stats::Ledger;
use core::arch::asm;
use core::ops::Range;

/// The most frames of a stack that are told apart; those further out are left out.
pub(super) const DEEPEST: usize = 96;
/// Stacks whose ends are kept: a power of two.
const STACKS: usize = 64;
/// The files are read anew for unknown code, but not more often than this, in nanoseconds.
const REFRESH: u64 = 100_000_000;

/// Where a thread is.
#[derive(Clone, Copy)]
pub(super) struct Registers {
    instruction: usize,
    stack: usize,
    frame: usize,
    /// The thread's own block.
    thread: usize,
}

impl Registers {
    /// Those of the function that calls this.
    #[inline(always)]
    pub(super) fn here() -> Registers {
        let (instruction, stack, frame, thread): (usize, usize, usize, usize);
        // SAFETY: registers are read, and the first word of the thread's own block, which points to itself.
        unsafe {
            asm!(
                "lea {instruction}, [rip]",
                "mov {stack}, rsp",
                "mov {frame}, rbp",
                "mov {thread}, qword ptr fs:[0]",
                instruction = out(reg) instruction,
                stack = out(reg) stack,
                frame = out(reg) frame,
                thread = out(reg) thread,
                options(readonly, nostack, preserves_flags),
            );
        }
        Registers { instruction, stack, frame, thread }
    }
}

impl Registers {
    /// Where in the code that is.
    pub(super) fn place(self) -> usize {
        self.instruction
    }
}

/// A stack of which it is known how far it reaches.
#[derive(Clone, Copy)]
struct KnownStack {
    thread: usize,
    start: usize,
    end: usize,
}

/// What walks need.
pub(super) struct Unwinder {
    pub(super) modules: Modules,
    pub(super) rules: Rules,
    refreshed: u64,
    stacks: [KnownStack; STACKS],
}

impl Unwinder {
    /// Knows nothing yet.
    pub(super) const fn new() -> Unwinder {
        let none = KnownStack { thread: 0, start: 0, end: 0 };
        Unwinder { modules: Modules::new(), rules: Rules::new(), refreshed: 0, stacks: [none; STACKS] }
    }

    /// Makes the tables.
    ///
    /// # Errors
    /// The system refused; what is there already stays.
    pub(super) fn open(&mut self, system: System, ledger: Ledger<'_>) -> Result<(), SystemError> {
        self.modules.table.open(system, MOST, ledger)?;
        self.rules.0.open(system, KEPT, ledger)?;
        self.rules.0.ensure(0..KEPT, ledger).ok_or(SystemError::NO_MEMORY)
    }

    /// Walks the running thread's stack. Puts the places of the calls into `calls`, innermost first, the function that
    /// `registers` are of left out; returns how many there are.
    pub(super) fn walk(
        &mut self,
        registers: Registers,
        calls: &mut [usize; DEEPEST],
        ledger: Ledger<'_>,
    ) -> usize {
        let Registers { mut instruction, mut stack, mut frame, .. } = registers;
        let Some(bounds) = self.bounds(registers) else { return 0 };
        let mut count = 0;
        while count < DEEPEST {
            let rule = match self.rules.kept(instruction) {
                Some(rule) => rule,
                None => self.look_up(instruction, ledger),
            };
            let step = match rule {
                Rule::FromStack(offset, saved) => Some((stack.wrapping_add_signed(offset as isize), saved)),
                Rule::FromFrame(offset, saved) => Some((frame.wrapping_add_signed(offset as isize), saved)),
                Rule::Unknown => Some((frame.wrapping_add(16), Some(-16))),
                Rule::Outermost => None,
            };
            let Some((base, saved)) = step.filter(|&(base, _)| base > stack) else { break };
            let Some(back) = read(&bounds, base.wrapping_sub(8)) else { break };
            if let Some(saved) = saved {
                let Some(outer) = read(&bounds, base.wrapping_add_signed(saved.into())) else { break };
                frame = outer;
            }
            if back == 0 {
                break;
            }
            // The call is just before the place that it returns to.
            instruction = back - 1;
            stack = base;
            calls[count] = instruction;
            count += 1;
        }
        count
    }

    fn look_up(&mut self, place: usize, ledger: Ledger<'_>) -> Rule {
        if self.modules.find(place).is_none() {
            let now = System::Linux.now().0;
            if self.refreshed == 0 || now.saturating_sub(self.refreshed) > REFRESH {
                self.refreshed = now.max(1);
                // Without `/proc` there are frame pointers.
                let _ = self.modules.refresh(ledger);
            }
        }
        self.rules.look_up(place, &mut self.modules)
    }

    /// From the stack pointer to where the stack ends.
    fn bounds(&mut self, registers: Registers) -> Option<Range<usize>> {
        let Registers { stack, thread, .. } = registers;
        let known = &mut self.stacks[(thread >> 12) % STACKS];
        if known.thread == thread && (known.start..known.end).contains(&stack) {
            return Some(stack..known.end);
        }
        let mut end = None;
        maps::mappings(|mapping| {
            let range = mapping.start..mapping.end;
            if mapping.readable && range.contains(&stack) {
                end = Some(mapping.end);
                if range.contains(&thread) || mapping.name == b"[stack]" {
                    *known = KnownStack { thread, start: mapping.start, end: mapping.end };
                }
            }
        })
        .ok()?;
        Some(stack..end?)
    }
}

/// A word of the stack.
fn read(bounds: &Range<usize>, at: usize) -> Option<usize> {
    if at < bounds.start || at > bounds.end.wrapping_sub(8) || !at.is_multiple_of(8) {
        return None;
    }
    // SAFETY: between the running thread's stack pointer and the end of its stack's mapping, which is readable. The
    // words are the thread's own, and nobody else writes those of frames that are live.
    Some(unsafe { core::ptr::with_exposed_provenance::<usize>(at).read_volatile() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Books;
    use core::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn _Unwind_Backtrace(
            visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
            data: *mut c_void,
        ) -> c_int;
        fn _Unwind_GetIP(context: *mut c_void) -> usize;
    }

    extern "C" fn note(context: *mut c_void, data: *mut c_void) -> c_int {
        // SAFETY: called by the unwinder with its context and the vector handed to it.
        unsafe { (*data.cast::<Vec<usize>>()).push(_Unwind_GetIP(context).wrapping_sub(1)) };
        0
    }

    /// The walk of the C library's unwinder, which uses the same tables in its own way.
    #[inline(never)]
    fn twin() -> Vec<usize> {
        let mut calls = Vec::new();
        // SAFETY: the vector outlives the call.
        unsafe { _Unwind_Backtrace(note, (&raw mut calls).cast()) };
        calls
    }

    #[inline(never)]
    fn ours(unwinder: &mut Unwinder, ledger: Ledger<'_>) -> Vec<usize> {
        let mut calls = [0; DEEPEST];
        let count = unwinder.walk(Registers::here(), &mut calls, ledger);
        calls[..count].to_vec()
    }

    #[inline(never)]
    fn both(unwinder: &mut Unwinder, ledger: Ledger<'_>, depth: usize) -> (Vec<usize>, Vec<usize>) {
        if depth > 0 {
            // A frame of another size each time.
            let mut room = vec![depth; depth];
            let found = both(unwinder, ledger, depth - 1);
            room[depth - 1] = found.0.len();
            assert_eq!(std::hint::black_box(room).len(), depth);
            return found;
        }
        (twin(), ours(unwinder, ledger))
    }

    fn with_unwinder(with: impl FnOnce(&mut Unwinder, Ledger<'_>)) {
        let books = Books::new();
        // SAFETY: opened once, and the books do not move before they are dropped.
        unsafe { books.open() };
        let shared = books.shared();
        let mut unwinder = Unwinder::new();
        unwinder.open(System::Linux, shared.ledger()).unwrap();
        with(&mut unwinder, shared.ledger());
        // SAFETY: nobody uses them any more.
        unsafe {
            unwinder.modules.table.destroy();
            unwinder.rules.0.destroy();
        }
    }

    fn compare(unwinder: &mut Unwinder, ledger: Ledger<'_>) {
        for depth in [0, 1, 7, 30] {
            let (twin, ours) = both(unwinder, ledger, depth);
            // The innermost call is each walk's own; the last place may be the outermost frame, which has no caller.
            assert!(ours.len() > depth + 3, "{} frames", ours.len());
            let known: Vec<_> = twin.iter().skip(2).collect();
            let same = ours.iter().skip(1).zip(&known).take_while(|(ours, twin)| ours == *twin).count();
            assert!(same + 2 >= known.len().min(ours.len() - 1), "{same} of {twin:x?} and {ours:x?}");
        }
    }

    #[test]
    fn walks_are_those_of_the_c_library() {
        with_unwinder(|unwinder, ledger| {
            compare(unwinder, ledger);
            // With rules that are kept.
            compare(unwinder, ledger);
        });
    }

    #[test]
    fn nonsense_ends_a_walk() {
        with_unwinder(|unwinder, ledger| {
            let here = Registers::here();
            let mut calls = [0; DEEPEST];
            for frame in
                [0, 1, 8, usize::MAX - 7, here.stack, here.stack + 8, here.stack + 1, here.instruction]
            {
                for instruction in [0, 42, usize::MAX, here.stack] {
                    let wrong = Registers { instruction, frame, ..here };
                    assert!(unwinder.walk(wrong, &mut calls, ledger) <= DEEPEST);
                }
            }
            let nowhere = Registers { stack: 64, ..here };
            assert_eq!(unwinder.walk(nowhere, &mut calls, ledger), 0);
        });
    }
}
