//! Scanning what was scanned before.
//!
//! The cycle of this room has a barrier and scans an object once. A door for programs without a barrier marks while they
//! run all the same, where it can find out which memory was written meanwhile: what is black there is scanned again.
//! What is grey there need not be: it will be scanned in any case, later than it was written to.
//!
//! Objects that were allocated black in advance are scanned here for the first time.
//!
//! # Safety
//! As [`mark`](super::mark): codes are read below [`Objects::covered`](crate::object::Objects::covered), metadata and words of objects of pages whose code
//! says that they are there. Spans do not go away while marking.

use super::mark::{Marking, Round, Source, Worker, is_queued};
use super::roots::Job;
use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, PAGE_SHIFT, PAGE_SIZE, PageId};
use crate::object::meta::{GROUP, GROUPS, valid};
use crate::object::{PageMeta, ShapeId, SpanClass, SpanKind};
use core::ops::Range;

impl Worker {
    /// Scans the black objects once more that have a byte in a range of offsets from the region's base. Of objects all of
    /// whose words may be pointers, and that do not share a page with others, only what lies in the range.
    pub fn scan_again(&mut self, range: Range<usize>, marking: &mut Marking<'_>) {
        let end = range.end.min(marking.objects.covered().0);
        let mut at = range.start;
        while at < end {
            let page = PageId(at >> PAGE_SHIFT);
            at = match first_page(page, marking) {
                Some(first) => {
                    // SAFETY: a code says that a span begins there.
                    let meta = unsafe { &*marking.meta(first.0) };
                    let behind = first.offset() + meta.pages().bytes().0;
                    let until = behind.min(end);
                    self.scan_span_again(first, meta, at..until, marking);
                    until.max(page.offset() + PAGE_SIZE)
                }
                None => page.offset() + PAGE_SIZE,
            };
        }
    }

    fn scan_span_again(
        &mut self,
        first: PageId,
        meta: &PageMeta,
        range: Range<usize>,
        marking: &mut Marking<'_>,
    ) {
        let code = marking.code(first.0);
        let row = marking.row(code);
        if row.kind == SpanKind::Plain || range.is_empty() {
            return;
        }
        let size = if code.is_large() { meta.pages().bytes().0 } else { row.size as usize };
        let from = (range.start - first.offset()) / size;
        let until = (range.end - first.offset()).div_ceil(size).min(row.slots as usize);
        let black = |group: usize| {
            let wanted = valid(group, until) & !valid(group, from);
            // Whoever scans an object says so first: what is not scanned yet will see what was written.
            wanted & meta.marks.0[group].load(Ordering::Acquire) & meta.scans.0[group].load(Ordering::SeqCst)
        };
        if is_queued(code, row) {
            let mut round = Round { objects: [0; GROUPS], count: 0 };
            for (group, objects) in round.objects.iter_mut().enumerate() {
                *objects = black(group);
                round.count += u64::from(objects.count_ones());
            }
            return self.scan_rounds(first.0, meta, round, marking);
        }
        for index in from..until {
            if black(index / GROUP) >> (index % GROUP) & 1 == 1 {
                self.scan_object_again(first.offset() + index * size, &range, marking);
            }
        }
    }

    /// Scans what an object has in a range, or all of it where its pointers are known more closely than that.
    fn scan_object_again(&mut self, start: usize, range: &Range<usize>, marking: &mut Marking<'_>) {
        let base = marking.objects.base().0;
        let Some(object) = marking.objects.find(Address(base + start)) else { return };
        if marking.objects.shape_of(&object) != Some(ShapeId::WORDS) {
            return self.scan_contents(&object, marking);
        }
        let (from, until) = (start.max(range.start), (start + object.size.0).min(range.end));
        // SAFETY: a part of the object.
        unsafe { self.scan_words((Address(base + from), Bytes(until - from)), Source::Heap, marking) };
    }

    /// Scans a piece of a registered range.
    pub(super) fn scan_root(&mut self, job: &Job<'_>, marking: &mut Marking<'_>) {
        let Some(piece) = job.piece() else { return };
        // SAFETY: who registered a range promised that it is readable until it is removed, which waits for this job.
        unsafe {
            match piece.bits {
                None => self.scan_words((piece.start, piece.size), Source::Roots, marking),
                Some(bits) => {
                    let words = core::ptr::with_exposed_provenance(piece.start.0);
                    self.scan_mapped(words, bits, Source::Roots, marking);
                }
            }
        }
    }

    /// Scans the registered ranges that nobody has taken yet, on this marker alone.
    pub fn scan_roots(&mut self, marking: &mut Marking<'_>) {
        while let Some(job) = marking.collector.roots.next_job() {
            self.scan_root(&job, marking);
        }
    }
}

/// The first page of the object span that a page belongs to.
fn first_page(page: PageId, marking: &Marking<'_>) -> Option<PageId> {
    let first = match marking.code(page.0) {
        SpanClass::LATER => marking.objects.first_page(page)?,
        _ => page,
    };
    marking.code(first.0).is_first().then_some(first)
}
