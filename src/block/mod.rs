//! Explicitly freed blocks, cut from manual spans of any purpose; freed from any thread.
//!
//! A *block span* holds blocks of one size class and belongs to one *owner*, a mutator. Only the owner takes
//! blocks from it and puts blocks back, so neither needs an atomic operation:
//!
//! ```text
//!   owner's BlockCache, one a purpose           a block span
//!   ┌───────────────────────────────┐           ┌──────────────────────────────┐
//!   │ direct[size/16] ─┐            │   ┌──────▶│ free ─▶ block ─▶ block ─▶ ∅  │
//!   │ bins[class]: current ─────────┼───┘       │ carved: blocks below are cut │
//!   │              listed ─▶ span ─▶ span       │ trip: frees until attention  │
//!   └───────────────────────────────┘           └──────────────────────────────┘
//! ```
//!
//! A block that anyone else frees waits in its span, put there with one compare-and-swap, until the owner runs out
//! of blocks and looks ([`remote`]), or, where it does not, until all blocks of the span wait or are free ([`idle`]).
//!
//! ## States of a block span
//!
//! ```text
//!                 blocks run out               an eighth came back
//!   Current ───────────────────────▶ Full ─────────────────────────▶ Listed
//!      ▲                                                               │ │
//!      └───────────────────────────────────────────────────────────────┘ └──▶ freed, when its last
//!                           is next in line                                   block comes back
//! ```
//!
//! `trip` counts down with every free and up with every allocation, and a free that brings it to zero looks at
//! the state. In `Current` and `Listed` it is the number of blocks in use, so zero means empty. In `Full` it is
//! set to an eighth of the blocks, sixteen at most: a full span is not worth listing for one free block, since the next
//! allocation would take that and find the span full again. That costs at most an eighth of its memory.
//!
//! 1. Only the owner touches `free`, `trip`, `carved` and the lists; a parked mutator's spans are touched by
//!    whoever holds that mutator's lock. Of an idle owner's, who holds its lock may close the listed spans, and then
//!    touch their `free` ([`holes`]); and it may free those that wait with nothing in use ([`idle`]).
//! 2. `owner` changes only under the lock of the mutator that it names. Whoever reads an old owner puts the span
//!    into that one's inbox, and who empties that inbox hands the span on: no block is lost.
//! 3. A block that waits counts as in use, so its span is neither empty nor freed.
//! 4. Every free block carries its mark in its second word, and no block in use does: a second free finds it there.
//! 5. Each block of a span is in `free`, in use, or not carved yet, and what lies behind the carved blocks of a
//!    `fresh` span is zero.
//!    A listed span may have *holes*, system pages without a block in use that the system has back; blocks that they touch
//!    are free and in no list ([`holes`]).
//! 6. A span that is `Listed` is in its cache's line of its class and in no other; one that is `Current` is what its
//!    cache allocates from, and there the table of small sizes leads; one that is `Full` is in neither place. A
//!    cache counts its spans, class by class.
//! 7. While a cache is counted, its fast paths take from portions. What a class's portion has are free blocks of the
//!    class's current span, as many as it says, and fewer than the allocations up to the next sample ([`portion`]).
//!
//! [`check`] proves as much of them as a walk can.
//!
//! A block larger than [`MAX_SMALL`](crate::base::class::MAX_SMALL) has a span to itself.
//!
//! The room does not know threads, nor where a mutator keeps its caches: the slow path's loop, which drains,
//! adopts and asks for spans, stands in `front`.
//! (The free list a span is Leijen's, "Mimalloc: free list sharding in action", 2019. Go has no
//! counterpart.)

pub mod body;
pub mod cache;
pub mod central;
#[cfg(not(loom))]
pub mod check;
pub mod holes;
pub mod idle;
pub mod large;
pub mod portion;
pub mod remote;

pub use body::{BlockSpan, FreeBlock};
pub use cache::{BlockCache, Work};
pub use central::BlockCentral;
pub use large::LargeFault;
pub use portion::Portions;
pub use remote::Inbox;

#[cfg(all(test, not(loom)))]
#[allow(unreachable_pub)]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
