//! The books: what the heap knows about its memory, exactly.
//!
//! Every byte of a heap's address space stands in one [`Account`]; [`Entry::transfer`] is the only way to move
//! it to another. Each mutator writes a shard of its own ([`shard`]), and a [`Snapshot`] is one instant of all
//! of them, taken without stopping anyone. Everything that is printed or exported is derived from a snapshot.
//!
//! 1. The sum over all accounts is zero, in every snapshot.
//! 2. No account but `system` is below zero, in every snapshot.
//! 3. For every purpose: bytes in use = bytes allocated − bytes freed.
//! 4. For every size class: blocks freed ≤ blocks allocated.
//!
//! The room does not know why bytes move, nor what a page or a span is.
//! (Go: `mstats.go`, `consistentHeapStats`.)

pub mod account;
pub mod ledger;
pub mod shard;

pub use account::{Account, MetadataKind};
pub use ledger::{BookShard, Books, ClassEvent, Entry, Figures, Ledger, SharedLedger};
