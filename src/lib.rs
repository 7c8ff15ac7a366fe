//! One heap of typed spans: explicitly freed blocks, execution stacks, collected objects and the collector's own
//! memory, with exact books by purpose.

pub mod base;
pub mod block;
#[cfg(all(not(loom), any(feature = "metrics", feature = "prometheus-client")))]
pub mod export;
#[cfg(not(loom))]
pub mod front;
pub mod gc;
pub mod object;
pub mod os;
pub mod page;
pub mod span;
#[cfg(not(loom))]
pub mod stack;
pub mod stats;

pub use base::{Bytes, Exhausted, Pages, Scarce};
#[cfg(not(loom))]
pub use front::collect::{self, Array, Edge, Gc, Root, Trace, Weak, WeakMap};
#[cfg(not(loom))]
pub use front::stacks::describe_overflow;
#[cfg(not(loom))]
pub use front::{
    CheckError, Collected, Config, Fault, Heap, HeapProfile, ManualSpan, Metrics, Misuse, ProfileSite,
    Purpose, RawStack, Reservation, SpanHeap, Stack, Stacks,
};
#[cfg(not(loom))]
pub use stack::{Activity, Guard, StackError};
pub use stats::Snapshot;

#[cfg(feature = "derive")]
pub use spanheap_derive::Trace;

/// The front page's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct FrontPage;

/// Fuzz bodies, which know the crate by its name, are tests of the rooms as well.
#[cfg(all(test, not(loom)))]
extern crate self as spanheap;
