//! Blocks that have a span to themselves: those above 64 KiB, and those that want more alignment than a page.
//!
//! Anyone may free one, at once: it belongs to no owner. The word that names the owner elsewhere says
//! [`LARGE`] here, and whoever exchanges it for zero has freed the block; a second thread that
//! tries finds it gone.
//!
//! # Safety
//! A large block's body is written by whoever allocates it, before anyone else knows the pointer; afterwards
//! only `owner` changes, atomically.

use super::body::{BlockSpan, FreeBlock, LARGE, Phase};
use super::cache::{Block, Work};
use crate::base::class::CLASSES;
use crate::base::sync::{AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Exhausted, PAGE_SIZE, Pages, PurposeId};
use crate::span::{PageHeap, Request, Span, SpanId};
use crate::stats::{ClassEvent, Whole};

/// Blocks of so many pages and more begin at even places. Programs touch large blocks in regular steps and not everywhere;
/// where one block follows another at the same places, it meets memory that is there already.
const EVEN_FROM: Pages = Pages(64);
/// What even places are multiples of.
const EVEN: Pages = Pages(8);

/// Why a large block was not freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LargeFault {
    /// The pointer is inside the block.
    Interior,
    /// Somebody else has freed it.
    Double,
}

/// Allocates a block of `size` bytes at a multiple of `align`, a power of two. If it is to be `zero`, memory of which
/// the system has a good part is given back whole: clearing it would bring all of it in. It is charged to
/// `promise` as far as that is enough.
///
/// # Errors
/// As for the span.
pub fn allocate(
    work: &mut Work<'_>,
    purpose: PurposeId,
    size: usize,
    align: usize,
    zero: bool,
    promise: Option<&AtomicUsize>,
) -> Result<Block, Exhausted> {
    let pages = Bytes(size).pages_ceil().max(Pages(1));
    let even = if pages >= EVEN_FROM { EVEN } else { Pages(1) };
    let request = Request { purpose, pages, align: Pages(align / PAGE_SIZE).max(even) };
    let new = work.ground.allocate_against(work.spans, request, promise)?;
    let body = new.span.body::<BlockSpan>();
    // SAFETY: the span is this thread's, and nobody has its address yet.
    unsafe {
        (*body).phase = Phase::Large;
        (*body).owner.store(LARGE, Ordering::Release);
    }
    let pointer = work.ground.heap.region().page_pointer(new.page);
    let mut fresh = new.fresh;
    if zero && !fresh && new.released.0 * 4 >= new.span.pages().0 {
        fresh = work.ground.renew(work.spans, &new, request)?;
    }
    if !fresh {
        // A free block that began here before may have left its mark behind.
        // SAFETY: the memory is this thread's.
        unsafe { (*pointer.cast::<FreeBlock>()).mark = 0 };
    }
    work.ground.ledger.post(|entry| {
        entry.class(CLASSES, ClassEvent::Allocated, 1);
        entry.whole(Whole::LargeBlock, pages.bytes().0 as i64);
    });
    Ok(Block { pointer, zero: fresh })
}

/// Frees the large block of a span. Returns the number of the block's sample, or 0.
///
/// # Errors
/// [`LargeFault`] when the pointer is not the block's, or somebody else was faster.
///
/// # Safety
/// The caller gives the block up if the pointer is the block's.
pub unsafe fn free(
    work: &mut Work<'_>,
    id: SpanId,
    span: &Span,
    pointer: *mut u8,
) -> Result<u32, LargeFault> {
    if work.ground.heap.region().page_pointer(span.page()) != pointer {
        return Err(LargeFault::Interior);
    }
    let body = span.body::<BlockSpan>();
    // SAFETY: `owner` is atomic, and the record stays a record.
    let claim = unsafe { (*body).owner.compare_exchange(LARGE, 0, Ordering::AcqRel, Ordering::Relaxed) };
    if claim.is_err() {
        return Err(LargeFault::Double);
    }
    // SAFETY: whoever has claimed the block is the only one to look.
    let sample = unsafe { (*body).posted };
    work.ground.ledger.post(|entry| {
        entry.class(CLASSES, ClassEvent::Freed, 1);
        entry.whole(Whole::LargeBlock, -(span.pages().bytes().0 as i64));
    });
    // SAFETY: this thread alone has claimed the block, and its holder gave it up. Which of its pages were
    // touched is not known, so all count as such.
    unsafe { work.ground.free(work.spans, id, span.pages()) };
    Ok(sample)
}

/// Notes that a large block is a sample of the heap profile, with a number; 0 says that it is none.
///
/// # Safety
/// The caller holds the block.
pub unsafe fn set_sample(heap: &PageHeap, pointer: *mut u8, sample: u32) {
    if let Some((_, span)) = heap.find(Address::of(pointer)) {
        // SAFETY: the caller holds the block, and so the span's body.
        unsafe { (*span.body::<BlockSpan>()).posted = sample };
    }
}

/// Makes a large block as long as `size` bytes need, where it stands. Returns whether it could.
///
/// # Safety
/// The caller holds the block, and gives up what lies behind `size`.
pub unsafe fn resize(work: &mut Work<'_>, id: SpanId, span: &Span, size: usize) -> bool {
    let (now, wanted) = (span.pages(), Bytes(size).pages_ceil().max(Pages(1)));
    // SAFETY: the caller holds the block and so the span.
    let done = unsafe {
        if wanted > now {
            work.ground.grow_in_place(id, wanted - now).is_some()
        } else {
            if wanted < now {
                work.ground.shrink_in_place(id, now - wanted);
            }
            true
        }
    };
    if done && wanted != now {
        let more = wanted.bytes().0 as i64 - now.bytes().0 as i64;
        work.ground.ledger.post(|entry| entry.whole(Whole::LargeBlock, more));
    }
    done
}
