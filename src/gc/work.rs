//! Work buffers: where the collector writes down what is still to be scanned.
//!
//! A buffer is [`BUFFER`] bytes, cut from spans of the purpose *work-buffers*. It holds entries of one word. Full
//! ones go round through shared lists that take no lock; a marker keeps two at hand ([`Pair`]), so that it pushes or
//! pops a whole buffer's worth before it touches a list again.
//!
//! ```text
//!   page heap ──take──▶ blank span ──cut──▶ empty ──▶ in a marker's hands ──▶ full
//!       ▲                   ▲                 ▲               │  ▲              │
//!       │                   │                 └───────────────┘  └──────────────┘
//!       └────give back──────┴── retire: after marking, all buffers at once become their spans again
//! ```
//!
//! Full buffers of *objects* and of *pages* are kept apart. Buffers are numbered by their place in the region, so a
//! list's head is one word, with a count of changes above the number. That is what a [`SpanSet`] is, whatever the
//! numbers stand for, as long as each has a place for its link.
//!
//! Spans are given back in small steps, each of which leaves everything in order, so whoever does it may stop at any
//! time; the next cycle takes what is left. Only while nobody marks: then nobody looks at the link of a buffer, and
//! there is no marker that read a head long ago.
//!
//! 1. A buffer that was cut is on the empty list, on one of the full lists, or in one marker's hands.
//! 2. Every span of work buffers is *cut* (its buffers go round) or *blank* (nobody knows of its buffers).
//! 3. Spans become blank all at once, when every buffer is on the empty list; only blank spans are given back, and
//!    only while nobody marks.
//! 4. A buffer on a full list has an entry at least, one on the empty list has none.
//!
//! (Go: `mgcwork.go`.)
//!
//! # Safety
//! A buffer belongs to whoever took it from a list, until it is put back. Links are atomic; they are read of buffers
//! that were cut in this cycle, whose memory stays.

use crate::base::sync::{AtomicU32, AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Exhausted, Pages, purpose};
use crate::os::Region;
use crate::span::set::LinkOf;
use crate::span::{Ground, PageHeap, Request, SpanCache, SpanId, SpanSet};
use core::ptr;

/// Bytes of a buffer.
pub const BUFFER: usize = 2048;
/// Entries in a buffer.
pub const ENTRIES: usize = BUFFER / 8 - 1;
/// Pages of a span of buffers.
const SPAN: Pages = Pages(4);
/// Buffers in such a span.
const IN_SPAN: usize = SPAN.bytes().0 / BUFFER;

/// A buffer: a piece of a queue, whose entries stand from `first` to `end`.
#[repr(C, align(64))]
pub struct WorkBuffer {
    /// The next buffer of the list that this one is in.
    next: AtomicU32,
    first: u16,
    end: u16,
    entries: [u64; ENTRIES],
}

const _: () = assert!(size_of::<WorkBuffer>() == BUFFER || cfg!(loom));

impl WorkBuffer {
    /// Entries in it.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.end - self.first)
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Whether there is no room for one behind the last.
    #[inline]
    pub fn is_full(&self) -> bool {
        usize::from(self.end) == ENTRIES
    }

    /// Puts an entry behind the last, if there is room.
    #[inline]
    pub fn push(&mut self, entry: u64) -> bool {
        let Some(slot) = self.entries.get_mut(usize::from(self.end)) else { return false };
        *slot = entry;
        self.end += 1;
        true
    }

    /// Takes the last entry.
    #[inline]
    pub fn pop_last(&mut self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        self.end -= 1;
        let entry = self.entries[usize::from(self.end)];
        self.rewind();
        Some(entry)
    }

    /// Takes the first entry.
    #[inline]
    pub fn pop_first(&mut self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let entry = self.entries[usize::from(self.first)];
        self.first += 1;
        self.rewind();
        Some(entry)
    }

    /// The entry that stands `ahead` places behind the first.
    #[inline]
    pub fn peek(&self, ahead: usize) -> Option<u64> {
        self.entries[usize::from(self.first)..usize::from(self.end)].get(ahead).copied()
    }

    /// Moves the later half of the entries to another, empty buffer.
    pub fn split(&mut self, other: &mut WorkBuffer) {
        debug_assert!(other.is_empty());
        let half = self.len() / 2;
        let from = usize::from(self.end) - half;
        other.entries[..half].copy_from_slice(&self.entries[from..from + half]);
        (other.first, other.end) = (0, half as u16);
        self.end -= half as u16;
        self.rewind();
    }

    /// An empty buffer has all its room.
    #[inline]
    fn rewind(&mut self) {
        if self.first == self.end {
            (self.first, self.end) = (0, 0);
        }
    }
}

/// What the entries of a full buffer stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Of {
    /// Objects, or pieces of them.
    Objects,
    /// Pages with objects that are marked and not scanned.
    Pages,
}

/// A shared list of buffers, by number.
struct List(SpanSet);

impl List {
    fn put(&self, buffer: u32, links: &impl LinkOf) {
        self.0.push(SpanId(buffer), links);
    }

    fn take(&self, links: &impl LinkOf) -> Option<u32> {
        self.0.pop(links).map(|SpanId(buffer)| buffer)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The buffers of a region, by number: 1 for the piece of memory at its base, and so on.
#[derive(Clone, Copy)]
struct Numbers<'a>(&'a Region);

impl Numbers<'_> {
    fn of(self, buffer: *mut WorkBuffer) -> u32 {
        ((buffer.addr() - self.0.base().0) / BUFFER + 1) as u32
    }

    fn pointer(self, number: u32) -> *mut WorkBuffer {
        self.0.pointer(Address(self.0.base().0 + (number as usize - 1) * BUFFER)).cast()
    }
}

impl LinkOf for Numbers<'_> {
    fn link_of(&self, SpanId(number): SpanId) -> &AtomicU32 {
        // SAFETY: numbers on lists are of buffers that were cut in this cycle, whose memory stays until it ends; the
        // link is atomic, and lives as long as the region that is borrowed.
        unsafe { &(*self.pointer(number)).next }
    }
}

/// Where buffers come from, and where they go.
pub struct Supply<'a> {
    /// The shared lists.
    pub buffers: &'a WorkBuffers,
    /// Where spans come from.
    pub ground: Ground<'a>,
    /// The caller's own spans.
    pub spans: &'a mut SpanCache,
}

/// The shared half: all buffers that no marker has. Zeroed memory has none.
pub struct WorkBuffers {
    full: [List; 2],
    empty: List,
    cut: SpanSet,
    blank: SpanSet,
    /// Spans of both kinds.
    spans: AtomicUsize,
    /// Buffers that went onto a full list, ever.
    shared: AtomicUsize,
}

impl WorkBuffers {
    /// No buffers.
    pub fn new() -> WorkBuffers {
        let list = || List(SpanSet::new());
        WorkBuffers {
            full: [list(), list()],
            empty: list(),
            cut: SpanSet::new(),
            blank: SpanSet::new(),
            spans: AtomicUsize::new(0),
            shared: AtomicUsize::new(0),
        }
    }

    /// Whether no full buffer waits.
    #[inline]
    pub fn are_idle(&self) -> bool {
        self.full.iter().all(List::is_empty)
    }

    /// Whether no full buffer of a kind waits.
    #[inline]
    pub fn has_none(&self, of: Of) -> bool {
        self.full[of as usize].is_empty()
    }

    /// How many buffers ever went onto a full list: grows whenever somebody has brought work.
    pub fn shared(&self) -> usize {
        self.shared.load(Ordering::Acquire)
    }

    /// Spans whose buffers go round, while nobody marks.
    pub(super) fn cut_spans(&self, heap: &PageHeap) -> usize {
        self.cut.iter(heap.links()).count()
    }

    /// Spans whose buffers nobody knows of, while nobody marks.
    pub(super) fn blank_spans(&self, heap: &PageHeap) -> usize {
        self.blank.iter(heap.links()).count()
    }

    /// Bytes of the spans that buffers are cut from.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.spans.load(Ordering::Relaxed) * SPAN.bytes().0)
    }

    /// After a cycle: all spans become blank. Every buffer is on the empty list; markers have given theirs back.
    ///
    /// # Safety
    /// Nobody marks, nor begins to before this returns.
    pub unsafe fn retire(&self, ground: &Ground<'_>) {
        debug_assert!(self.are_idle(), "marking ended with work left");
        self.empty.0.clear();
        while let Some(span) = self.cut.pop(ground.heap.links()) {
            self.blank.push(span, ground.heap.links());
        }
    }

    /// Gives up to `most` blank spans back. Returns whether some are left.
    ///
    /// # Safety
    /// Nobody marks, nor begins to before this returns; [`WorkBuffers::retire`] came after the last cycle.
    pub unsafe fn give_back(&self, ground: &Ground<'_>, spans: &mut SpanCache, most: usize) -> bool {
        for _ in 0..most {
            let Some(span) = self.blank.pop(ground.heap.links()) else { return false };
            self.spans.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: a blank span is the lists' alone, and nobody marks.
            unsafe { ground.free(spans, span, SPAN) };
        }
        !self.blank.is_empty()
    }
}

impl Default for WorkBuffers {
    fn default() -> WorkBuffers {
        WorkBuffers::new()
    }
}

impl Supply<'_> {
    fn numbers(&self) -> Numbers<'_> {
        Numbers(self.ground.heap.region())
    }

    /// Takes an empty buffer.
    ///
    /// # Errors
    /// No buffer is left, and there is no memory for more; nothing has changed.
    pub fn take(&mut self) -> Result<*mut WorkBuffer, Exhausted> {
        let number = self.buffers.empty.take(&self.numbers());
        match number {
            Some(number) => Ok(self.numbers().pointer(number)),
            None => self.cut(),
        }
    }

    /// Cuts a span into buffers; returns the first, the others are on the empty list.
    #[cold]
    fn cut(&mut self) -> Result<*mut WorkBuffer, Exhausted> {
        let links = self.ground.heap.links();
        let span = match self.buffers.blank.pop(links) {
            Some(span) => span,
            None => {
                let span = self.ground.allocate(self.spans, Request::new(purpose::WORK_BUFFERS, SPAN))?;
                self.buffers.spans.fetch_add(1, Ordering::Relaxed);
                span.id
            }
        };
        self.buffers.cut.push(span, links);
        let page = self.ground.heap.span(span).expect("a span that is held has a record").page();
        let memory = self.ground.heap.region().page_pointer(page).cast::<WorkBuffer>();
        let numbers = self.numbers();
        for i in (0..IN_SPAN).rev() {
            // SAFETY: the span is the lists' own, `IN_SPAN` buffers long, and nobody knows of its buffers yet.
            unsafe {
                let buffer = memory.add(i);
                (&raw mut (*buffer).next).write(AtomicU32::new(0));
                ((*buffer).first, (*buffer).end) = (0, 0);
                if i > 0 {
                    self.buffers.empty.put(numbers.of(buffer), &numbers);
                }
            }
        }
        Ok(memory)
    }

    /// Puts an empty buffer back.
    ///
    /// # Safety
    /// The buffer is the caller's, and empty.
    pub unsafe fn give(&self, buffer: *mut WorkBuffer) {
        // SAFETY: the caller's own.
        debug_assert!(unsafe { (*buffer).is_empty() });
        self.buffers.empty.put(self.numbers().of(buffer), &self.numbers());
    }

    /// Puts a buffer with entries where others find it.
    ///
    /// # Safety
    /// The buffer is the caller's, and has entries.
    pub unsafe fn share(&self, of: Of, buffer: *mut WorkBuffer) {
        // SAFETY: the caller's own.
        debug_assert!(unsafe { !(*buffer).is_empty() });
        self.buffers.full[of as usize].put(self.numbers().of(buffer), &self.numbers());
        self.buffers.shared.fetch_add(1, Ordering::Release);
    }

    /// Puts a buffer of the caller's back where it belongs, be it empty or not. Null is no buffer.
    ///
    /// # Safety
    /// The buffer is the caller's.
    pub unsafe fn put_away(&self, of: Of, buffer: *mut WorkBuffer) {
        if buffer.is_null() {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { if (*buffer).is_empty() { self.give(buffer) } else { self.share(of, buffer) } }
    }

    /// Takes a buffer with entries, if one waits.
    pub fn take_full(&self, of: Of) -> Option<*mut WorkBuffer> {
        let number = self.buffers.full[of as usize].take(&self.numbers())?;
        Some(self.numbers().pointer(number))
    }

    /// The buffer behind another one in a chain of the caller's own; null behind the last.
    pub(super) fn next(&self, buffer: *mut WorkBuffer) -> *mut WorkBuffer {
        // SAFETY: the caller's own buffer.
        match unsafe { (*buffer).next.load(Ordering::Relaxed) } {
            0 => ptr::null_mut(),
            number => self.numbers().pointer(number),
        }
    }

    /// Chains one of the caller's own buffers behind another; null ends the chain.
    pub(super) fn chain(&self, buffer: *mut WorkBuffer, next: *mut WorkBuffer) {
        let number = if next.is_null() { 0 } else { self.numbers().of(next) };
        // SAFETY: the caller's own buffer.
        unsafe { (*buffer).next.store(number, Ordering::Relaxed) };
    }
}

/// A marker's stack of entries: two buffers, so that pushing and popping around a full one does not go to the lists
/// each time. Zeroed memory is an empty stack.
pub struct Pair {
    top: *mut WorkBuffer,
    below: *mut WorkBuffer,
}

impl Pair {
    /// An empty stack, without buffers.
    pub const fn new() -> Pair {
        Pair { top: ptr::null_mut(), below: ptr::null_mut() }
    }

    /// Whether it has no entries.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // SAFETY: buffers in hand are this stack's own.
        [self.top, self.below].into_iter().all(|buffer| buffer.is_null() || unsafe { (*buffer).is_empty() })
    }

    /// Whether it has buffers at hand, be they empty.
    pub fn has_buffers(&self) -> bool {
        !self.top.is_null() || !self.below.is_null()
    }

    /// Puts an entry on top. When two buffers are full, the lower one goes where others find it.
    ///
    /// # Errors
    /// There is no room and no memory for more; nothing has changed.
    #[inline]
    pub fn push(&mut self, entry: u64, supply: &mut Supply<'_>) -> Result<(), Exhausted> {
        // SAFETY: buffers in hand are this stack's own.
        if !self.top.is_null() && unsafe { (*self.top).push(entry) } {
            return Ok(());
        }
        self.push_slowly(entry, supply)
    }

    #[cold]
    fn push_slowly(&mut self, entry: u64, supply: &mut Supply<'_>) -> Result<(), Exhausted> {
        core::mem::swap(&mut self.top, &mut self.below);
        // SAFETY: buffers in hand are this stack's own.
        unsafe {
            if self.top.is_null() || (*self.top).is_full() {
                let fresh = supply.take().inspect_err(|_| core::mem::swap(&mut self.top, &mut self.below))?;
                let full = core::mem::replace(&mut self.top, fresh);
                if !full.is_null() {
                    supply.share(Of::Objects, full);
                }
            }
            (*self.top).push(entry);
        }
        Ok(())
    }

    /// Takes the entry on top.
    #[inline]
    pub fn pop(&mut self) -> Option<u64> {
        // SAFETY: buffers in hand are this stack's own.
        unsafe {
            if !self.top.is_null()
                && let Some(entry) = (*self.top).pop_last()
            {
                return Some(entry);
            }
            if self.below.is_null() || (*self.below).is_empty() {
                return None;
            }
            core::mem::swap(&mut self.top, &mut self.below);
            (*self.top).pop_last()
        }
    }

    /// Takes a full buffer from the others, when the stack is empty. Returns whether there was one.
    pub fn refill(&mut self, supply: &mut Supply<'_>) -> bool {
        debug_assert!(self.is_empty());
        let Some(buffer) = supply.take_full(Of::Objects) else { return false };
        let empty = core::mem::replace(&mut self.top, buffer);
        // SAFETY: this stack's own, and empty.
        unsafe { supply.put_away(Of::Objects, empty) };
        true
    }

    /// Lets others have a part: the lower buffer if that has entries, else half of the upper one. Returns whether it
    /// had enough for two.
    pub fn split(&mut self, supply: &mut Supply<'_>) -> bool {
        // SAFETY: buffers in hand are this stack's own.
        unsafe {
            if !self.below.is_null() && !(*self.below).is_empty() {
                supply.share(Of::Objects, core::mem::replace(&mut self.below, ptr::null_mut()));
                return true;
            }
            if self.top.is_null() || (*self.top).len() < 2 {
                return false;
            }
            let Ok(half) = supply.take() else { return false };
            (*self.top).split(&mut *half);
            supply.share(Of::Objects, half);
            true
        }
    }

    /// Puts both buffers back.
    pub fn put_away(&mut self, supply: &mut Supply<'_>) {
        for buffer in [&mut self.top, &mut self.below] {
            // SAFETY: buffers in hand are this stack's own.
            unsafe { supply.put_away(Of::Objects, core::mem::replace(buffer, ptr::null_mut())) };
        }
    }
}

impl Default for Pair {
    fn default() -> Pair {
        Pair::new()
    }
}
