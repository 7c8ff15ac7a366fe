//! What a marker has still to scan, and how an object becomes a part of that: by being shaded.
//!
//! Candidates are looked up here, marked, and put into the queue or onto the stack. In between they wait, in two short
//! [lines](Line), while the processor fetches what is known of their pages; see [`mark`](super::mark).
//!
//! # Safety
//! Candidates lie below [`Objects::covered`](crate::object::Objects::covered)(crate::object::Objects::covered), up to which there are codes; metadata is
//! read where a code says that a span begins.

use super::mark::{Marking, Progress};
use super::queue::{self, Entry, Queue};
use super::work::Pair;
use crate::base::sync::Ordering;
use crate::base::{Address, PAGE_SHIFT, PAGE_SIZE};
use crate::object::class::{self, MAX_ONE_PAGE};
use crate::object::meta::{GROUP, GROUPS};
use crate::object::{PageMeta, SpanClass, SpanKind};

/// Candidates that wait for the marks of their pages.
const CANDIDATES: usize = 16;
/// Objects without a mark that wait for what else is known of their pages.
const UNMARKED: usize = 8;
/// Where the marks stand in a page's metadata.
const MARKS: usize = core::mem::offset_of!(PageMeta, marks);

/// What a worker has still to scan.
pub(super) struct Grey {
    /// Objects, or pieces of them, as offsets from the region's base.
    pub(super) stack: Pair,
    /// Pages.
    pub(super) queue: Queue,
    /// Offsets from the region's base.
    candidates: Line<CANDIDATES>,
    /// [Entries](Entry) of objects.
    unmarked: Line<UNMARKED>,
}

/// Where words wait while memory is fetched: first in, first out, and never longer than `N`.
#[derive(Clone, Copy)]
struct Line<const N: usize> {
    words: [u64; N],
    /// Where the oldest stands, when the line is full.
    first: usize,
    count: usize,
}

impl<const N: usize> Line<N> {
    const fn new() -> Line<N> {
        Line { words: [0; N], first: 0, count: 0 }
    }

    /// Puts a word in. If the line is full, the oldest comes out.
    #[inline(always)]
    fn push(&mut self, word: u64) -> Option<u64> {
        if self.count < N {
            self.words[self.count] = word;
            self.count += 1;
            return None;
        }
        let oldest = core::mem::replace(&mut self.words[self.first % N], word);
        self.first = (self.first + 1) % N;
        Some(oldest)
    }

    /// Takes everything out, the oldest first.
    fn drain(&mut self) -> impl Iterator<Item = u64> + use<N> {
        let Line { words, first, count } = core::mem::replace(self, Line::new());
        (0..count).map(move |at| words[(first + at) % N])
    }
}

impl Grey {
    pub(super) const fn new() -> Grey {
        let (stack, queue) = (Pair::new(), Queue::new());
        Grey { stack, queue, candidates: Line::new(), unmarked: Line::new() }
    }

    pub(super) fn has_buffers(&self) -> bool {
        self.stack.has_buffers() || self.queue.has_buffers()
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.candidates.count + self.unmarked.count > 0
    }

    /// Shades what candidates lead to: offsets from the region's base, below [`Objects::covered`](crate::object::Objects::covered).
    #[inline]
    pub(super) fn mark_all(
        &mut self,
        candidates: &[u64],
        marking: &mut Marking<'_>,
        progress: &mut Progress,
    ) {
        candidates.iter().for_each(|&offset| self.mark_soon(offset, marking, progress));
    }

    /// Shades what a candidate leads to, when its page's marks have been fetched.
    #[inline(always)]
    pub(super) fn mark_soon(&mut self, offset: u64, marking: &mut Marking<'_>, progress: &mut Progress) {
        fetch(marking.meta(offset as usize >> PAGE_SHIFT).cast::<u8>().wrapping_add(MARKS));
        if let Some(oldest) = self.candidates.push(offset) {
            self.look(oldest as usize, marking, progress);
        }
    }

    /// Shades what is waiting.
    pub(super) fn settle(&mut self, marking: &mut Marking<'_>, progress: &mut Progress) {
        self.candidates.drain().for_each(|offset| self.look(offset as usize, marking, progress));
        self.unmarked.drain().for_each(|entry| self.mark(Entry(entry), marking, progress));
    }

    /// Shades the object at an offset without letting it wait.
    pub(super) fn mark_at_once(&mut self, offset: usize, marking: &mut Marking<'_>, progress: &mut Progress) {
        if let Some(entry) = self.place(offset, marking, progress) {
            self.mark(entry, marking, progress);
        }
    }

    /// Looks whether there is an object at an offset that is not marked yet, as far as its page tells at once.
    #[inline(always)]
    fn look(&mut self, offset: usize, marking: &mut Marking<'_>, progress: &mut Progress) {
        let Some(entry) = self.place(offset, marking, progress) else { return };
        // SAFETY: the page has a place, so it has metadata.
        let meta = unsafe { &*marking.meta(entry.page()) };
        if meta.marks.has(entry.index(), Ordering::Relaxed) {
            return;
        }
        fetch(core::ptr::from_ref(meta).cast());
        fetch(core::ptr::from_ref(&meta.allocs).cast());
        if let Some(oldest) = self.unmarked.push(entry.0) {
            self.mark(Entry(oldest), marking, progress);
        }
    }

    /// The slot at an offset, if objects of one page are there. What else is there is shaded.
    #[inline(always)]
    fn place(&mut self, offset: usize, marking: &mut Marking<'_>, progress: &mut Progress) -> Option<Entry> {
        let page = offset >> PAGE_SHIFT;
        let code = marking.code(page);
        let row = marking.row(code);
        // Codes that do not tell sizes have none, and wrap around.
        if (row.size as usize).wrapping_sub(1) >= MAX_ONE_PAGE {
            self.mark_elsewhere(offset, code, marking, progress);
            return None;
        }
        let index = class::index(offset & (PAGE_SIZE - 1), row.magic);
        (index < row.slots as usize).then_some(Entry::new(page, index))
    }

    /// Marks an object of a page, if it is one. (Of two equal candidates in the line, the first does it.)
    #[inline(always)]
    fn mark(&mut self, entry: Entry, marking: &mut Marking<'_>, progress: &mut Progress) {
        let row = marking.row(marking.code(entry.page()));
        // SAFETY: somebody looked at the code before this entry was made.
        let meta = unsafe { &*marking.meta(entry.page()) };
        if !set_mark(meta, entry.index()) {
            return;
        }
        progress.marked_objects += 1;
        progress.marked_bytes += u64::from(row.size);
        if row.kind != SpanKind::Plain && queue::acquire(&meta.owned) {
            self.put(meta, entry, marking);
        }
    }

    #[inline]
    fn put(&mut self, meta: &PageMeta, entry: Entry, marking: &mut Marking<'_>) {
        if self.queue.put(entry, &mut marking.supply).is_err() {
            queue::let_go(&meta.owned);
            marking.lose();
        }
    }

    /// Shades an object that is not on one page with others of its size, or nothing.
    #[cold]
    #[inline(never)]
    fn mark_elsewhere(
        &mut self,
        offset: usize,
        code: SpanClass,
        marking: &mut Marking<'_>,
        progress: &mut Progress,
    ) {
        if code == SpanClass::NONE {
            return;
        }
        let Some(object) = marking.objects.find(Address(marking.objects.base().0 + offset)) else { return };
        // SAFETY: an object's span has metadata.
        let meta = unsafe { &*marking.meta(object.first_page.0) };
        if !meta.marks.set(object.index as usize) {
            return;
        }
        progress.marked_objects += 1;
        progress.marked_bytes += object.size.0 as u64;
        if object.kind == SpanKind::Plain {
            return;
        }
        let start = (object.start.0 - marking.objects.base().0) as u64;
        if self.stack.push(start, &mut marking.supply).is_err() {
            marking.lose();
        }
    }
}

/// Sets the mark of a slot, if it is allocated. Returns whether this call did.
#[inline(always)]
fn set_mark(meta: &PageMeta, index: usize) -> bool {
    let (group, bit) = (index / GROUP % GROUPS, 1 << (index % GROUP));
    let marks = &meta.marks.0[group];
    marks.load(Ordering::Relaxed) & bit == 0
        && meta.allocs.0[group].load(Ordering::Acquire) & bit != 0
        && marks.fetch_or(bit, Ordering::SeqCst) & bit == 0
}

/// Has the processor fetch a line of memory. Wherever that is, nothing happens that a program sees.
#[inline(always)]
pub(super) fn fetch(at: *const u8) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: fetching has no effect that a program sees, wherever it is.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}
