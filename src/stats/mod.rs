//! The books: what the heap knows about its memory, exactly.
//!
//! Every byte of a heap's address space stands in one [`Account`]; [`Entry::transfer`] is the only way to move
//! it to another. Each mutator writes a shard of its own ([`shard`]), and a [`Snapshot`] is one instant of all
//! of them, taken without stopping anyone. Everything that is printed or exported is derived from a snapshot:
//!
//! ```text
//!   shards ── Books::read ──▶ Figures ┐
//!   purposes: peaks, limits ──────────┼─▶ Snapshot ─┬─▶ check: the identities below
//!   the kernel's page map ────────────┘             ├─▶ MemStats, MemoryClasses: Go's words
//!                                                   ├─▶ names, values: the metrics
//!                                                   └─▶ print: JSON, table, XML
//! ```
//!
//! Another process gets the same snapshot: a [`Window`] says where the shards and the purposes' books are, and
//! [`outside`] reads them there.
//!
//! The identities, each proved by [`Snapshot::check`]:
//!
//! 1. The sum over all accounts is zero.
//! 2. No account but `system` is below zero.
//! 3. For every purpose: bytes in use = bytes allocated − bytes freed.
//! 4. For every size class, of blocks and of objects: 0 ≤ freed ≤ allocated.
//! 5. For every purpose: 0 ≤ bytes freed ≤ bytes allocated.
//! 6. For every purpose: spans are there exactly when bytes are in use.
//! 7. For every purpose: at least a page is in use for each span.
//! 8. For every purpose: bytes in use ≤ peak.
//! 9. A purpose that does not exist has no figures.
//! 10. Sys = HeapSys + StackSys + MSpanSys + MCacheSys + BuckHashSys + GCSys + OtherSys.
//! 11. Sys = the sum over all accounts but `system` and `reserved`.
//! 12. HeapSys = HeapInuse + HeapIdle.
//! 13. HeapReleased ≤ HeapIdle.
//! 14. Alloc = HeapAlloc ≤ HeapInuse, and HeapAlloc ≤ TotalAlloc.
//! 15. HeapObjects = Mallocs − Frees.
//! 16. StackInuse ≤ StackSys, MSpanInuse ≤ MSpanSys, MCacheInuse ≤ MCacheSys.
//! 17. /memory/classes/total:bytes = the sum of all other /memory/classes/ metrics.
//! 18. The /memory/classes/ metrics say the same as Go's MemStats.
//! 19. Resident bytes of heap and metadata = the sums of their accounts' resident bytes.
//! 20. For every purpose of stacks: stacks in use, cached, parked and free ≤ bytes in use, and none is below zero.
//! 21. For every purpose of stacks: 0 ≤ stacks freed ≤ stacks allocated.
//!
//! The first nine speak of what was booked, the others of what is derived from it. `docs/statistics.md` explains
//! every figure; a test compares it with this room.
//!
//! The room does not know why bytes move, nor what a page or a span is.
//! (Go: `mstats.go`, `consistentHeapStats`, `metrics.go`.)

pub mod account;
pub mod check;
pub mod ledger;
pub mod memstats;
#[cfg(all(test, not(loom)))]
mod model;
pub mod names;
#[cfg(not(loom))]
pub mod outside;
mod print;
pub mod shard;
pub mod snapshot;
pub mod values;
#[cfg(not(loom))]
pub mod window;

#[cfg(all(test, not(loom)))]
mod tests;

pub use account::{Account, MetadataKind};
pub use check::{Identity, Imbalance};
pub use ledger::{
    BookShard, Books, ClassEvent, Entry, Figures, Ledger, PublishedBooks, SharedLedger, StackFigure, Whole,
};
pub use memstats::{MemStats, MemoryClasses};
pub use snapshot::{Counted, PurposeBook, PurposeFigures, ReleaseFigures, Resident, Snapshot, StackFigures};
pub use values::{Histogram, MetricValue, MetricValues, Value};
#[cfg(not(loom))]
pub use window::Window;
