//! The collector's marking: which objects are reached, found out while mutators run.
//!
//! ```text
//!             begin, world stopped              quiet, asked everyone, world stopped
//!   Off ──────────────────────────────▶ Mark ───────────────────────────────────────▶ Off
//!    │   divide the roots into jobs       │   workers drain; mutators assist,          │
//!    │   barriers on, caches black        │   their barriers bring work                ▼
//!    ▲                                                                          sweep (room `object`)
//!    └───────────────────────────── nothing is left to sweep ◀─────────────────────────┘
//! ```
//!
//! ## Colours
//!
//! An object is *white* without its mark, *grey* with its mark and without its scan bit, *black* with both. To shade is
//! to make white grey, to scan is to make grey black and shade what its words lead to. A word may be a pointer or not:
//! whatever it is, looking it up is safe, and interior pointers count. Grey objects are found through entries of
//! [queues](queue) and [stacks](work), but the bits decide: an entry too many does no harm, and an entry that there was
//! no memory for is found again by a search.
//!
//! ## Why the barrier is right
//!
//! A mutator, while marking, shades what a place held and what it will hold, before it stores a pointer into an object
//! or a root (Yuasa's deletion barrier and Dijkstra's insertion barrier at once, as in Go since 1.8). It allocates
//! black. Its own stack, registers and handles have no barrier; they are scanned once, while it stands at a safepoint.
//! Let *the snapshot* be what is reachable when the world starts again after the beginning. To be proved: when marking
//! ends, everything that is in the snapshot or was allocated since, and is reachable then, is black.
//!
//! *Claim.* At any time, for every white object x that is reachable, there is a path to x along pointers that stand in
//! memory now, which begins at a grey object, or at a root or a stack not yet scanned, and goes on through white ones.
//! At the beginning that is what reachable means: there is no black object but new ones, which hold nothing. A step of
//! a marker keeps it: when the first object of the path is scanned, the next one is grey. A step of a mutator:
//!
//! - It *overwrites* a pointer on the path. The old value is shaded first: the rest of the path begins there, grey.
//! - It *stores* a pointer. More paths do not matter; but x may be reachable by this store alone. Then the value, which
//!   it shades, is the grey beginning of what follows.
//! - It *loads* a pointer to x into its stack, which has been scanned. x was reachable through memory, so the claim
//!   holds for x by the path in memory, and the two cases above keep it from there on.
//! - It *drops* a pointer from a stack that has not been scanned, having stored it elsewhere: the second case shaded it.
//!   Not having stored it elsewhere: then it is no longer reachable by that.
//! - It *allocates*: black, and with nothing but nulls in it, so no path leads through it to a white object but by a
//!   store, which shades.
//!
//! At the end no object is grey and no root unscanned, so no path begins, and no white object is reachable. Barrier
//! buffers hold words that count as shaded; they are emptied before the end is believed: each mutator empties its own at
//! a safepoint (the others run on), and once nothing came of that, the world is stopped and the same is asked again.
//! No stack is scanned a second time. ∎
//!
//! A mutator shades through a buffer, so some time after its store. That changes nothing of the above, since marking
//! does not end before: read "grey" as "grey, or in a buffer".
//!
//! ## Who has what
//!
//! [`Collector`] is what markers share, [`Worker`] what one has, be it a background worker or a mutator that helps.
//! Nobody here has a thread or a clock: `front` drives. When to end, [`terminate`] knows.
//!
//! 1. When marking has ended, an object that is marked and has pointers is scanned, unless its memory may not be looked
//!    at yet.
//! 2. When marking has ended, no page has an owner.
//! 3. Between cycles nobody is inside the census, no list has work, nothing is lost, and no work buffer is cut.
//! 4. The spans of work buffers are as many as the lists count, and so are their bytes.
//!
//! [`Collector::check`] and [`Collector::check_marks`] prove them. What all this is for, that everything reachable is
//! marked when marking has ended, is found out by [`verify`], which walks through everything in another way.
//!
//! ## When, and how fast
//!
//! What is decided by numbers alone stands apart from what is done: [`pace`] says when to begin, how much mutators help
//! and how fast to sweep; [`growth`] what it may expect of a heap that grows; [`patience`] when to begin where the
//! world stands meanwhile; [`limit`] keeps the collector from taking the
//! processors for itself.
//!
//! The room does not know what a stack is, nor who sweeps.
//! (Go: `mgc.go`, `mgcmark.go`, `mgcwork.go`, `mgcmark_greenteagc.go`, `mwbbuf.go`, `mbarrier.go`, `mcheckmark.go`.)

#[cfg(not(loom))]
mod again;
#[cfg(not(loom))]
pub mod attach;
#[cfg(not(loom))]
pub mod barrier;
#[cfg(not(loom))]
mod check;
#[cfg(not(loom))]
mod collector;
#[cfg(not(loom))]
pub mod dump;
#[cfg(not(loom))]
mod grey;
pub mod growth;
pub mod kernel;
pub mod limit;
#[cfg(not(loom))]
pub mod mark;
pub mod pace;
pub mod patience;
pub mod queue;
pub mod roots;
pub mod terminate;
pub mod trace;
#[cfg(not(loom))]
pub mod verify;
pub mod work;
pub mod world;

#[cfg(not(loom))]
pub use barrier::BarrierBuffer;
#[cfg(not(loom))]
pub use collector::{Collector, Phase};
#[cfg(not(loom))]
pub use mark::{Drained, Marking, Progress, Source, Worker};
pub use roots::{RangeId, RootRange, Roots};
#[cfg(not(loom))]
pub use verify::{Pile, Reached, Unmarked, Verifier};
pub use work::{Supply, WorkBuffers};

#[cfg(all(test, not(loom)))]
mod tests;
