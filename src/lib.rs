//! One heap of typed spans: explicitly freed blocks, execution stacks, collected objects and the collector's own
//! memory, with exact books by purpose.

pub mod base;
pub mod os;
pub mod page;
pub mod stats;

/// Fuzz bodies, which know the crate by its name, are tests of the rooms as well.
#[cfg(test)]
extern crate self as spanheap;
