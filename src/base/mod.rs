//! Words: units, addresses, purposes, classes, locks. No memory, no state.
//!
//! Everything to the right stands on this room. It does not know what a heap is, and it makes no system call
//! but the two that let a lock sleep ([`sync`]).

pub mod address;
pub mod class;
pub mod error;
pub mod purpose;
pub mod random;
pub mod rank;
pub mod sampling;
pub mod sync;
pub mod units;

pub use address::{Address, ChunkId, PageId};
pub use class::SizeClass;
pub use error::{Broken, Exhausted, Invariant, Scarce};
pub use purpose::{PurposeId, PurposeName};
pub use rank::{Guard, Lock, Rank};
pub use units::{Bytes, CHUNK_PAGES, CHUNK_SIZE, PAGE_SHIFT, PAGE_SIZE, Pages};
