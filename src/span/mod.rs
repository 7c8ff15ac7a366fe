//! Runs of pages with a declared purpose.
//!
//! A [`Span`] is a run of pages that somebody holds for a [purpose](crate::base::purpose). The [`PageHeap`] takes
//! pages from the page allocator, gives them a record and a place in the map, charges the purpose's
//! [meter] and makes the entries in the books:
//!
//! ```text
//!            meters        page cache / allocator      record, map        books
//!   wanted ──charge──▶ ───────────take───────────▶ ──────publish──────▶ ──post──▶ span
//!   span   ──retire──▶ ──post──▶ ──let the pages go──▶ discharge
//! ```
//!
//! Spans up to 15 pages cost no lock while the mutator's page cache and its cache of records last, neither to
//! allocate nor, where the pages belong to that cache's block, to free.
//!
//! 1. A page in use belongs to exactly one span, and all its pages' map entries name that span.
//! 2. The purpose of a span never changes; freeing takes it from the span, so it cannot name a wrong one.
//! 3. For every purpose, the bytes of its spans are its balance in the books, and what its meter was charged.
//! 4. Every record that was ever given out is in use, in the set of dead ones, or at hand with one mutator, and
//!    only one of these.
//! 5. Every page of the heap is in a span, in one mutator's page cache, or free; the accounts *free*, *cached* and
//!    *released* say the same, and so does the heap's count of committed bytes.
//!
//! [`PageHeap::check`] proves them.
//!
//! The room does not know what spans hold. (Go: `mheap.go`, `mspanset.go`; there the map hangs on arenas, and
//! records of spans are a linked free list under the heap's lock.)

mod check;
mod clean;
pub mod heap;
pub mod map;
pub mod meter;
mod places;
pub mod record;
pub mod registry;
pub mod release;
pub mod set;
mod stash;

pub use check::HeapError;
pub use heap::{Ground, NewSpan, PageHeap, Request, SpanCache, Zeroed};
pub use map::SpanMap;
pub use meter::{DeclareError, Meter, Meters, SoftLimitCallback, SoftLimitEvent};
pub use record::{Span, SpanId};
pub use registry::Registry;
pub use release::{Release, Released};
pub use set::SpanSet;

#[cfg(all(test, not(loom)))]
mod tests;
