//! The ground: the only room that asks the system for memory.
//!
//! A byte of address space is in one of four states, and this room owns the arrows between them:
//!
//! ```text
//!            reserve              commit               ready
//!     None ──────────▶ Reserved ──────────▶ Released ──────────▶ Ready
//!      ▲                  │                    │    ◀──────────    │
//!      │                  │                    │      release      │
//!      └──────────────────┴────────────────────┴───────────────────┘
//!                                 unmap
//! ```
//!
//! - **None**: not ours. The first state of everything, and the last.
//! - **Reserved**: an address range that nobody else gets. Touching it is a fault; it costs nothing but a place
//!   in the system's list of mappings.
//! - **Released**: may be touched, once it has been made ready. The system keeps no memory behind it. On Linux
//!   it reads as zero; under the [simulated] system it reads as poison once it has been released.
//! - **Ready**: in use. Memory comes with the first touch. Fresh from `ready` it reads as zero.
//!
//! On Linux, `ready` does nothing: the first touch finds a zeroed page. It is a call all the same, because it is
//! the place where memory can run out, and the simulated system refuses there.
//!
//! Ready memory can be *guarded*: touching it is a fault, until the guard is taken away again. It counts as ready all
//! the while, and what it held is lost. And it can be *renewed*: then it stays ready, reads as zero, and the system has the
//! memory until the next touch.
//!
//! What stands on it, from the bottom up:
//!
//! - [`System`]: Linux, or a [`Simulated`] system that refuses, runs out and poisons on demand.
//! - [`Region`]: the heap's one contiguous reservation. It grows at its end and is the one door from an
//!   [`Address`](crate::base::Address), which is a number, back to a pointer.
//! - [`Table`]: an array reserved for as many elements as there can ever be, with memory behind those that are needed.
//! - [`Pool`]: objects of one type, taken and given back by number, over a table.
//! - [`Permanent`]: bytes that are never given back before the heap goes, over a table.
//! - [`Watch`]: which pages of a reservation were written, as far as the system says so.
//! - [`proc`]: what the kernel says about this process, and text to a file, without allocation.
//!
//! 1. No other room makes a system call about memory. (`base::sync` lets a lock sleep; that is all.)
//! 2. A refused call changes nothing: neither the state of a byte nor a number in the books.
//! 3. A change of state is posted in the books by the one who knows the account. Tables, pools, permanent memory
//!    and the region's growth post themselves, right after the system agreed, with the ledger they are given.
//!    [`Region::ready`] and [`Region::release`] do not: their caller knows the purpose.
//! 4. Inside a reservation nothing is ever unmapped, and commits are contiguous where they can be: a heap needs
//!    a few dozen mappings however large it grows (the kernel allows 65,530).
//! 5. Nothing here is undone by `Drop`. A heap takes itself down, in its own order, with `destroy`.
//! 6. Nothing here allocates or touches `errno`: it works underneath `malloc`.
//!
//! The room does not know what a page is used for, which pages are free, or why somebody grows.
//! (Go: `mem.go`, `mem_linux.go`, `malloc.go`'s `persistentalloc`, `mfixalloc.go`.)

pub mod cgroup;
mod linux;
pub mod maps;
pub mod permanent;
pub mod pool;
pub mod proc;
mod raw;
pub mod region;
pub mod simulated;
pub mod system;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;
pub mod watch;

pub use permanent::Permanent;
pub use pool::{Pool, Taken};
pub use region::{DEFAULT_REGION, GrowError, LEAST_REGION, Region, ReserveError};
pub use simulated::Simulated;
pub use system::{Guarding, Hint, Nanoseconds, System, SystemError};
pub use table::{Table, Zeroed};
pub use watch::{Watch, Written};
