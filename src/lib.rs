//! One heap of typed spans: explicitly freed blocks, execution stacks, collected objects and the collector's own
//! memory, with exact books by purpose.

pub mod base;
pub mod os;
pub mod stats;
