//! The doors: a heap as a value, purposes as capabilities, the global allocator, and the slow paths that join the
//! rooms below.
//!
//! ```text
//!   Heap ── Purpose ── ManualSpan        SpanHeap (global allocator)      malloc/ (C)
//!     │                                       │                              │
//!     │ threads: a mutator a heap             └──────────── process ─────────┘
//!     ▼                                                        │ tls: a thread's words
//!   HeapCore ── roster of Mutators ── Local ── SpanCache       ▼
//!     │                          └─── BlockCache, one a purpose ◀── fast paths
//!     ▼
//!   PageHeap · Meters · Books
//! ```
//!
//! The only statics of the crate are here: the process heap, the list of living heaps, and a thread's words.
//! The slow path of allocation is one loop (`slow`): rooms below say what they lack and never call up.

mod background;
mod check;
pub mod collect;
pub mod config;
pub(crate) mod core;
pub mod environment;
pub mod global;
pub mod heap;
pub mod manual;
pub mod metrics;
pub mod misuse;
pub(crate) mod mutator;
mod pacing;
pub mod process;
pub mod profile;
pub mod purpose;
pub mod report;
pub mod reservation;
mod residency;
pub mod scavenger;
pub(crate) mod slow;
pub mod stacks;
pub(crate) mod threads;
pub(crate) mod tls;

pub use check::CheckError;
pub use config::Config;
pub use global::SpanHeap;
pub use heap::Heap;
pub use manual::ManualSpan;
pub use metrics::Metrics;
pub use misuse::{Fault, Misuse};
pub use profile::{HeapProfile, ProfileSite};
pub use purpose::{Collected, Purpose};
pub use reservation::Reservation;
pub use stacks::{RawStack, Stack, Stacks};

#[cfg(test)]
mod tests;
