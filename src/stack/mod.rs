//! Execution stacks: for fibers, coroutines and threads, cut from spans of their own purposes.
//!
//! A *stack* belongs to a *slab*, a span cut into stacks of one class: sixteen small ones of 2 to 32 KiB, or a single
//! large one. A mutator keeps some small stacks for itself; the pool has the rest:
//!
//! ```text
//!   a mutator's StackCache            StackPool, one a heap                   the page heap
//!   ┌────────────────────┐  a batch  ┌──────────────────────────────┐  a slab  ┌───────────┐
//!   │ kind × class: list │ ◀───────▶ │ kind × class: partial, empty │ ◀──────▶ │ a span of │
//!   └────────────────────┘           │ parked: until the cycle ends │          │ a purpose │
//!        no lock, no call            └──────────────────────────────┘          └───────────┘
//! ```
//!
//! ## States of a stack
//!
//! ```text
//!                take                      allocate
//!     Free ─────────────────▶ Cached ─────────────────▶ InUse
//!      ▲ ▲                     │  ▲                       │ │
//!      │ └─────────────────────┘  └───────────────────────┘ │
//!      │      give back, flush            free              │
//!      └─────────────────────────── Parked ◀────────────────┘
//!            free_parked: the cycle ends      free, while the collector marks
//! ```
//!
//! Large stacks go between Free and InUse directly. What *runs* on a stack in use is its holder's to say
//! ([`Activity`]): the collector scans those whose holder says so, from the saved stack pointer up.
//!
//! ## Guards
//!
//! Below a guarded stack lies memory that faults. A slab's guards are set when the slab is made and stay until it goes,
//! however often its stacks come and go. Kernels from 6.13 on keep them as marks in the page table; older ones need a
//! mapping for each, and a process may have 65,530 mappings. Where the system has no more guards, a slab has fewer
//! stacks, and where there is not one, the error says so ([`StackError::Guard`]). (Why: decision 0024.)
//!
//! ## Rules and invariants
//!
//! A record's lists and bits change under the pool's lock, or while the stack or slab is in one hand: a stack's link and phase
//! are its cache's or its holder's. `dirty` alone is changed by several at once, atomically. While the collector marks, no
//! stack that is freed is handed out, and no slab goes back to the page heap: a property test shows it. And these are
//! proved by [`check`]:
//!
//! 1. A slab is a span of its kind's purpose, and names it; the span's word names the slab.
//! 2. A stack is in exactly one place: free in its slab, in one mutator's cache, parked, or in use; its phase says which.
//! 3. A slab with free stacks is in one list, among the empty ones of its class exactly if nobody has a stack of it, else
//!    among the partial ones. A kind's `idle` is the bytes of its empty slabs.
//! 4. For each kind the figures in the books are the bytes of its stacks in each phase.
//! 5. Each stack of a guarded class has a guard, and the pool's count of guards is exact.
//!
//! The room does not know threads, what runs on a stack, or blocks and objects.
//! (Go: `stack.go`; there stacks freed while marking may be used again at once, and only their spans wait.)

pub(crate) mod cache;
pub mod check;
pub mod class;
mod look;
pub mod pool;
pub mod slab;

pub use cache::{StackCache, StackWork};
pub use class::{Guard, StackClass};
pub use look::{StackPlace, StackView};
pub use pool::StackPool;
pub use slab::{Activity, Phase, StackId};

use crate::base::{Exhausted, PurposeName};
use crate::os::{Guarding, SystemError};
use core::fmt;

/// Why there is no stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackError {
    /// Memory was refused.
    Exhausted(Exhausted),
    /// The system refused a guard.
    Guard {
        /// The purpose of the stack.
        purpose: PurposeName,
        /// What the system said.
        error: SystemError,
        /// How this system guards.
        how: Guarding,
        /// Guards that the heap has in place.
        installed: usize,
    },
}

impl From<Exhausted> for StackError {
    fn from(refused: Exhausted) -> StackError {
        StackError::Exhausted(refused)
    }
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StackError::Exhausted(refused) => refused.fmt(f),
            StackError::Guard { purpose, error, how, installed } => {
                write!(f, "no guard for a stack of {purpose}: {error}; {installed} are installed")?;
                match how {
                    Guarding::Markers => Ok(()),
                    Guarding::Mappings => write!(
                        f,
                        ", and on this kernel each takes two of the mappings that vm.max_map_count allows a process"
                    ),
                }
            }
        }
    }
}

impl core::error::Error for StackError {}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
