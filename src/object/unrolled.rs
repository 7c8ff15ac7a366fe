//! Programs as bitmaps, for a while.
//!
//! A marker that meets an object whose pointers are known to a [program](super::program) only needs the bitmap, from
//! any place in it. So the program is run into a span of purpose `pointer-maps` when the first such object is met,
//! and all such spans are freed when marking has ended: between cycles their bytes are zero.
//!
//! ```text
//!              unroll: the first one wins                 roll_up: nobody marks
//!   program ──────────────────────────────▶ span of bits ───────────────────────▶ program
//! ```
//!
//! Any number of markers may unroll the same program at once: each does it in a span of its own, one publishes, and
//! the others free theirs. So there is no lock, and a marker that was stopped in the middle holds up nobody.
//!
//! 1. A published bitmap is complete (release), and stays until nobody marks.
//! 2. A shape stands on the list of unrolled ones exactly if its bitmap is published, or is about to be put there by
//!    whoever published it.
//! 3. Memory that is refused changes nothing. The object is then scanned word by word, which is slower and keeps
//!    more alive, but loses nothing.
//!
//! # Safety
//! The span is the unroller's until it is published, and nobody's but the readers' after that. Rolling up is unsafe:
//! the caller knows that nobody reads.

use super::program::run_prefix;
use super::shape::{ShapeId, Shapes};
use crate::base::purpose::POINTER_MAPS;
use crate::base::{Address, Bytes, Exhausted, Pages};
use crate::span::{Ground, Request, SpanCache};
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Where a record's program is unrolled.
pub(super) struct Unrolled {
    /// The bits, or null.
    bits: AtomicPtr<u64>,
    /// The next shape on the list.
    next: AtomicU32,
}

impl Unrolled {
    pub(super) const fn new() -> Unrolled {
        Unrolled { bits: AtomicPtr::new(ptr::null_mut()), next: AtomicU32::new(0) }
    }

    /// The bits, so many that a prefix of `words` words is covered, if the program is unrolled.
    #[inline]
    pub(super) fn get(&self, words: usize) -> Option<&[u64]> {
        let bits = self.bits.load(Ordering::Acquire);
        // SAFETY: what is published is as long as the prefix (the caller's record says how long), and stays while
        // anybody may read it.
        (!bits.is_null()).then(|| unsafe { slice::from_raw_parts(bits, words.div_ceil(64)) })
    }
}

impl Shapes {
    /// Makes sure that [`Shapes::map`] knows the pointers of a shape's objects. Does nothing unless a program does.
    ///
    /// # Errors
    /// No memory for the bitmap; nothing has changed. Objects of the shape can be scanned as if they were
    /// [`ShapeId::WORDS`].
    ///
    /// # Panics
    /// When the shape is not registered.
    pub fn unroll(&self, id: ShapeId, ground: Ground<'_>, spans: &mut SpanCache) -> Result<(), Exhausted> {
        let record = self.record(id).expect("a registered shape");
        if !record.is_program() {
            return Ok(());
        }
        let number = record.base();
        let record = self.base(record);
        let words = record.map_words();
        if record.unrolled.get(words).is_some() {
            return Ok(());
        }
        let pages = Bytes(words.div_ceil(64) * size_of::<u64>()).pages_ceil();
        let new = ground.allocate(spans, Request::new(POINTER_MAPS, pages))?;
        let bits: *mut u64 = ground.heap.region().page_pointer(new.page).cast();
        // SAFETY: the span is ours alone, and so long.
        let sink = unsafe { slice::from_raw_parts_mut(bits, words.div_ceil(64)) };
        run_prefix(record.code(), words, sink).expect("a registered program is right");
        match record.unrolled.bits.compare_exchange(
            ptr::null_mut(),
            bits,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => self.note_unrolled(number, &record.unrolled),
            // SAFETY: somebody else's bits are published, and nobody has seen ours.
            Err(_) => unsafe { ground.free(spans, new.id, pages) },
        }
        Ok(())
    }

    /// Puts a shape whose bits this thread has published on the list.
    fn note_unrolled(&self, number: u32, unrolled: &Unrolled) {
        let mut first = self.unrolled.load(Ordering::Relaxed);
        loop {
            unrolled.next.store(first, Ordering::Relaxed);
            match self.unrolled.compare_exchange_weak(first, number, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Frees the bitmaps of all programs. Returns the pages that they took.
    ///
    /// # Safety
    /// Nobody unrolls, nobody holds a [`PointerMap`](super::PointerMap), and what others did before happened
    /// before this call: as at the end of marking, when the markers have stopped.
    pub unsafe fn roll_up(&self, ground: Ground<'_>, spans: &mut SpanCache) -> Pages {
        let mut number = self.unrolled.swap(0, Ordering::Acquire);
        let mut freed = Pages(0);
        while number != 0 {
            let unrolled = &self.record(ShapeId(number)).expect("the list leads to shapes").unrolled;
            let bits = unrolled.bits.swap(ptr::null_mut(), Ordering::Acquire);
            let (id, span) = ground.heap.find(Address::of(bits)).expect("published bits are in a span");
            let pages = span.pages();
            // SAFETY: the bits were the shape's, and the caller knows that nobody reads them.
            unsafe { ground.free(spans, id, pages) };
            freed += pages;
            number = unrolled.next.load(Ordering::Relaxed);
        }
        freed
    }
}
