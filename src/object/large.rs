//! Large objects: one that is larger than all size classes has a span to itself.
//!
//! Clearing one takes long, and the world must be able to stand still meanwhile. So it is published first, as an object
//! without pointers, then cleared piece by piece, and gets its shape at the end:
//!
//! ```text
//!             allocate_large              clear_piece ...            finish_large
//!   (nothing) ──────────────▶ plain, holds anything ──────▶ plain, zero ──────▶ may be looked into
//! ```
//!
//! Between the pieces the caller may stop for the collector. Nobody points to the object yet, so the caller keeps it as
//! a root until it is finished.
//!
//! # Safety
//! The memory belongs to whoever allocates it until it is finished; a collector does not look into an object without a
//! shape.

use super::central::ObjectWork;
use super::kind::{SpanClass, SpanKind};
use super::{Object, Objects, ShapeId};
use crate::base::class::MAX_SMALL;
use crate::base::sync::Ordering;
use crate::base::{Bytes, Exhausted, PurposeId};
use crate::stats::ClassEvent;

/// Bytes that are cleared without a stop.
const PIECE: usize = 256 << 10;

/// A large object that is being made.
#[must_use = "an object that is not finished is never looked into"]
pub struct Large {
    object: Object,
    shape: ShapeId,
    pointer: *mut u8,
    /// Bytes from here on are still to be cleared.
    cleared: usize,
}

impl Large {
    /// The object, as an address that may be shaded or kept as a root.
    pub fn object(&self) -> &Object {
        &self.object
    }
}

impl Objects {
    /// Allocates an object of `size` bytes, more than fit into a shared span, of a shape and the kind that goes with it
    /// ([`Shapes::kind`](super::Shapes::kind)). It is not finished.
    ///
    /// # Errors
    /// As for spans.
    pub fn allocate_large(
        &self,
        work: &mut ObjectWork<'_, '_>,
        purpose: PurposeId,
        size: Bytes,
        (kind, shape): (SpanKind, ShapeId),
    ) -> Result<Large, Exhausted> {
        debug_assert!(size.0 > MAX_SMALL);
        debug_assert_eq!(kind == SpanKind::Plain, shape == ShapeId::PLAIN);
        let pages = size.pages_ceil();
        let code = SpanClass::large(kind);
        let new = self.open(work, purpose, code, pages)?;
        let bytes = pages.bytes();
        let meta = self.meta(new.page).expect("the span is open");
        if self.is_marking() {
            meta.scans.set(0);
            meta.marks.set(0);
            self.add_black(bytes);
        }
        meta.allocs.set(0);
        self.add_live(bytes);
        work.ground.ledger.post(|entry| entry.large_objects(ClassEvent::Allocated, 1, bytes));
        Ok(Large {
            object: self.object(new.page, code, 0, meta),
            shape,
            pointer: work.ground.heap.region().page_pointer(new.page),
            cleared: if new.fresh { bytes.0 } else { 0 },
        })
    }

    /// Clears a piece of an object that is being made. Returns whether there is more to clear.
    pub fn clear_piece(&self, large: &mut Large) -> bool {
        let piece = (large.object.size.0 - large.cleared).min(PIECE);
        // SAFETY: the object's memory, which is nobody else's until it is finished.
        unsafe { large.pointer.add(large.cleared).write_bytes(0, piece) };
        large.cleared += piece;
        large.cleared < large.object.size.0
    }

    /// Finishes an object: clears what is left, and lets the collector look into it. All its bytes are zero.
    pub fn finish_large(&self, mut large: Large) -> *mut u8 {
        while large.cleared < large.object.size.0 {
            self.clear_piece(&mut large);
        }
        let meta = self.meta(large.object.first_page).expect("objects have metadata");
        meta.shape.store(large.shape.0, Ordering::Release);
        large.pointer
    }
}
