//! Objects under the collector: where they lie, which of them are reached, and how dead ones become free.
//!
//! An *object span* holds objects of one *span class*: a size class and a kind, which says where pointers are. What is
//! known of objects lies apart from them, in tables by page:
//!
//! ```text
//!   page               kinds: 1 byte        meta: 256 bytes                       maps: 128 bytes
//!   ┌──┬──┬──┬──┐      what is here?        head                                  where pointers are,
//!   │  │  │▓▓│  │  ◀── and how large   ──▶  marks   reached                  ──▶  where there are some
//!   └──┴──┴──┴──┘      are its slots?       scans   reached and done with         and not everywhere
//!    slots, and                             allocs  allocated
//!    nothing else
//! ```
//!
//! What an object looks like, its [`shape`] says: which of its words may be pointers. A shape is registered once and known
//! by its number from then on. Of large and repetitive types the pointers are what a [`program`] emits:
//!
//! ```text
//!   description ──register──▶ ShapeId ──map──▶ masks of the words to be looked at
//!   (mask, bitmap, array,                       ▲
//!    program)                  program ──unroll─┘ (a span of bits, while marking)
//! ```
//!
//! 1. A page's code is that of a first page exactly if an object span begins there; its metadata is there then. The codes
//!    of the span's other pages are [`SpanClass::LATER`].
//! 2. A slot that is marked is allocated.
//!
//! The room does not know who marks, nor when it is time to. It takes no thread and knows no clock.
//! (Go: `mspan`, `mcentral`, `mcache`, `malloc`, `mgcsweep`.)

mod central;
pub mod class;
pub mod encode;
pub mod find;
pub mod kind;
pub mod map;
pub mod meta;
pub mod pointers;
pub mod program;
mod record;
pub mod shape;
mod unrolled;

pub use central::{ObjectWork, Objects};
pub use encode::Layout;
pub use find::Object;
pub use kind::{SpanClass, SpanKind};
pub use map::PageMap;
pub use meta::PageMeta;
pub use pointers::{Masks, PointerMap};
pub use shape::{Shape, ShapeError, ShapeId, Shapes};

#[cfg(all(test, not(loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;
