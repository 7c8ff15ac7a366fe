//! Marking: a marker's local half, and what it does with a pointer.
//!
//! To *shade* an address is to see to it that the object which holds it will be scanned. The way of an address:
//!
//! ```text
//!   offset ─▶ code of its page ─▶ slot ─▶ marked? ──yes──▶ done
//!                │ none                      │ no
//!                ▼                           ▼
//!               done                     allocated? ──no──▶ done
//!                                            │ yes
//!                                            ▼
//!                     set the mark; who sets it counts the object's bytes
//!                      │ no pointers      │ up to 512 bytes             │ larger
//!                      ▼                  ▼                             ▼
//!                     done      its page is queued, if nobody      the object goes
//!                               looks after it yet                 onto the stack
//! ```
//!
//! Most pointers lead to objects that are marked already; for those, two lines of memory are read, one of which holds
//! the codes of 64 pages. The other one comes from far away, and so do those that are needed for a new mark. So
//! candidates wait while memory is fetched, in two short [lines](super::grey) that go on from one scan to the next:
//!
//! ```text
//!   candidate ──fetch marks──▶ │ 16 wait │ ──not marked: fetch the rest──▶ │ 8 wait │ ──▶ mark
//! ```
//!
//! To *scan* is to shade what an object's words lead to. Objects of a page are scanned together ([`queue`]); larger
//! ones one by one, and beyond [`PIECE`] in pieces, which others may take. Roots are scanned in the same way.
//!
//! Objects that were allocated together point to each other, so many pointers of a page stay on it. Those take a shorter
//! way: they are gathered, a bit each, marked group by group, and scanned in the next *round* of the same visit, while
//! the page is at hand. It is left when a round finds nothing more there.
//!
//! If there is no memory for an entry, the entry is dropped, and the collector notes that something is *lost*. What was
//! to be scanned is still known, though not where: objects that are marked and whose scan bit is not set. So when all
//! other work is done, somebody searches the spans for those. Marking needs no memory to be right.
//!
//! # Safety
//! Codes are read below [`Objects::covered`], metadata and words of objects of pages whose code says that they are
//! there. While marking, no object span goes away. Words are read by the [kernels](super::kernel), whatever mutators
//! do meanwhile.

use super::Collector;
use super::grey::{Grey, fetch};
use super::kernel::{BLOCK, Candidates, Kernel, MOST_BLOCKS, MOST_WORDS, Window};
use super::queue::{self, Entry};
use super::roots::PIECE;
use super::work::Supply;
use crate::base::sync::{Backoff, Ordering};
use crate::base::{Address, Bytes, PAGE_SHIFT, PAGE_SIZE, PageId};
use crate::object::class::{self, MAX_ONE_PAGE};
use crate::object::kind::{ROWS, SpanRow};
use crate::object::meta::{GROUP, GROUPS};
use crate::object::{Object, Objects, PageMeta, ShapeId, Shapes, SpanClass, SpanKind};
use crate::os::Zeroed;
use core::sync::atomic::AtomicU8;

/// Where the scan bits stand.
const SCANS: usize = core::mem::offset_of!(PageMeta, scans);
/// Pages that are fetched ahead.
const PAGES_AHEAD: usize = 2;
/// Objects of the next page that are fetched ahead.
const OBJECTS_AHEAD: usize = 24;
/// Bytes that a background marker scans before it tells the others.
const STEP: u64 = 256 << 10;

/// Where words were scanned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In objects.
    Heap,
    /// In registered ranges and other roots.
    Roots,
    /// In stacks.
    Stacks,
}

/// What marking has come to: of one marker since it reported last, or of all.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes of objects that were marked.
    pub marked_bytes: u64,
    /// Objects that were marked.
    pub marked_objects: u64,
    /// Bytes of words that were scanned, by [`Source`].
    pub scanned: [u64; 3],
}

/// Why draining ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// The budget was used up; the marker still has work.
    Budget,
    /// The marker has no work, and found none on the shared lists. It has left.
    Dry,
}

/// What a marker works on.
pub struct Marking<'a> {
    /// What markers share.
    pub collector: &'a Collector,
    /// What is marked.
    pub objects: &'a Objects,
    /// Where its pointers are.
    pub shapes: &'a Shapes,
    /// Where work buffers come from.
    pub supply: Supply<'a>,
}

/// The local half of a marker: of a background worker, or of a mutator, which assists and shades through its barrier
/// buffer. Zeroed memory is a worker without work.
#[repr(C)]
pub struct Worker {
    grey: Grey,
    progress: Progress,
    /// Bytes of words that were scanned and reported, ever.
    scanned: u64,
    /// Whether the census counts this worker.
    is_inside: bool,
    candidates: Candidates,
}

// SAFETY: null pointers, numbers, and `false`.
unsafe impl Zeroed for Worker {}
// SAFETY: a worker's buffers belong to it alone, wherever it goes.
unsafe impl Send for Worker {}

impl Progress {
    /// Bytes scanned, wherever.
    pub fn work(&self) -> u64 {
        self.scanned.iter().sum()
    }
}

impl Marking<'_> {
    fn kernel(&self) -> Kernel {
        self.collector.kernel()
    }

    fn window(&self) -> Window {
        Window { base: self.objects.base().0, size: self.objects.covered().0 }
    }

    #[inline(always)]
    pub(super) fn row(&self, code: SpanClass) -> &'static SpanRow {
        &ROWS[code.0 as usize]
    }

    #[inline(always)]
    pub(super) fn meta(&self, page: usize) -> *const PageMeta {
        self.objects.meta_ptr().wrapping_add(page)
    }

    #[inline(always)]
    pub(super) fn code(&self, page: usize) -> SpanClass {
        let kinds: *const AtomicU8 = self.objects.kinds_ptr();
        // SAFETY: candidates lie below `covered`, up to which there are codes.
        SpanClass(unsafe { (*kinds.add(page)).load(core::sync::atomic::Ordering::Acquire) })
    }

    fn words_at(&self, offset: usize) -> *const u64 {
        self.supply.ground.heap.region().pointer(Address(self.objects.base().0 + offset)).cast()
    }

    /// Notes that an entry was dropped for want of memory.
    #[cold]
    pub(super) fn lose(&self) {
        self.collector.lost.store(true, Ordering::Release);
    }
}

impl Worker {
    /// A worker without work.
    pub const fn new() -> Worker {
        Worker {
            grey: Grey::new(),
            progress: Progress { marked_bytes: 0, marked_objects: 0, scanned: [0; 3] },
            scanned: 0,
            is_inside: false,
            candidates: Candidates::new(),
        }
    }

    /// Whether it has nothing to scan.
    pub fn is_empty(&self) -> bool {
        self.grey.stack.is_empty() && self.grey.queue.is_empty() && !self.grey.has_waiting()
    }

    /// Shades the object that holds an address, if there is one; any bit pattern is fine. It is marked on return.
    pub fn shade(&mut self, address: Address, marking: &mut Marking<'_>) {
        let offset = address.0.wrapping_sub(marking.objects.base().0);
        if offset < marking.objects.covered().0 {
            self.grey.mark_at_once(offset, marking, &mut self.progress);
        }
    }

    /// Shades what a range of words leads to, each of which may be a pointer or not. Words that are not wholly in the
    /// range do not count.
    ///
    /// # Safety
    /// The range is readable.
    pub unsafe fn scan_words(&mut self, range: (Address, Bytes), source: Source, marking: &mut Marking<'_>) {
        let (Address(start), Bytes(size)) = range;
        let first = start.next_multiple_of(8);
        let count = (start + size).saturating_sub(first) / 8;
        // SAFETY: the caller's promise.
        unsafe { self.scan_run(core::ptr::with_exposed_provenance(first), count, marking) };
        self.progress.scanned[source as usize] += count as u64 * 8;
    }

    /// Shades what words lead to that a mutator has noted. That is no work which a cycle has to do anyway, so it does
    /// not count.
    pub(super) fn shade_all(&mut self, words: &[usize], marking: &mut Marking<'_>) {
        words.as_ptr().expose_provenance();
        // SAFETY: the words are there.
        unsafe { self.scan_run(words.as_ptr().cast(), words.len(), marking) };
    }

    /// Shades what those words of a range lead to whose bits are set: word `i` has bit `i % 64` of `bits[i / 64]`.
    ///
    /// # Safety
    /// `words` is a multiple of eight; words whose bits are set are readable.
    pub unsafe fn scan_mapped(
        &mut self,
        words: *const u64,
        bits: &[u64],
        source: Source,
        marking: &mut Marking<'_>,
    ) {
        for (at, bits) in bits.chunks(MOST_BLOCKS).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.scan_masked(words.wrapping_add(at * MOST_WORDS), bits, marking) };
        }
        self.progress.scanned[source as usize] += (bits.len() * BLOCK * 8) as u64;
    }

    /// Shades what an object holds, but not the object.
    pub fn scan_contents(&mut self, object: &Object, marking: &mut Marking<'_>) {
        if object.kind == SpanKind::Mapped {
            let (offset, words) = (object.start.0 - marking.objects.base().0, object.size.0 / 8);
            let map = marking.objects.page_map(object.first_page).expect("mapped objects have a map");
            let mask = map.get(offset % PAGE_SIZE / 8, words);
            // SAFETY: the words are the object's.
            unsafe { self.scan_masked(marking.words_at(offset), &[mask], marking) };
            self.progress.scanned[Source::Heap as usize] += object.size.0 as u64;
        } else if object.kind != SpanKind::Plain {
            (0..object.size.0).step_by(PIECE).for_each(|from| self.scan_piece(object, from, marking));
        }
    }

    /// # Safety
    /// `count` words from `words` on are readable.
    unsafe fn scan_run(&mut self, words: *const u64, count: usize, marking: &mut Marking<'_>) {
        let mut at = 0;
        while at < count {
            let now = (count - at).min(MOST_WORDS);
            let mut masks = [u64::MAX; MOST_BLOCKS];
            if !now.is_multiple_of(BLOCK) {
                masks[now / BLOCK] = (1 << (now % BLOCK)) - 1;
            }
            // SAFETY: the masks stand for words of the range.
            unsafe { self.scan_masked(words.wrapping_add(at), &masks[..now.div_ceil(BLOCK)], marking) };
            at += now;
        }
    }

    /// Picks the candidates and shades them.
    ///
    /// # Safety
    /// As for [`Kernel::pick`], of a kernel that runs here.
    #[inline]
    unsafe fn scan_masked(&mut self, words: *const u64, masks: &[u64], marking: &mut Marking<'_>) {
        let window = marking.window();
        // SAFETY: the caller's promise; the collector chose a kernel that runs here.
        let count = unsafe { marking.kernel().pick(words, masks, window, &mut self.candidates) };
        self.grey.mark_all(&self.candidates.0[..count], marking, &mut self.progress);
    }

    /// Scans until `budget` more bytes have been looked at, or there is no work left here nor on the shared lists.
    pub fn drain(&mut self, budget: u64, marking: &mut Marking<'_>) -> Drained {
        self.enter(marking);
        let until = self.progress.work().saturating_add(budget);
        loop {
            while let Some(()) = self.scan_next(marking) {
                self.feed(marking);
                if self.progress.work() >= until {
                    self.report(marking);
                    return Drained::Budget;
                }
            }
            if !self.find_work(marking) {
                self.leave(marking);
                return Drained::Dry;
            }
        }
    }

    /// Drains, and waits for others who may still find work, until there is none anywhere (see
    /// [`Collector::is_quiet`]) or `stop` says so, which is asked now and then: with `true` when something has been
    /// scanned since, with `false` while waiting. What is done here counts for those who would have to help.
    pub fn drain_with_others(&mut self, marking: &mut Marking<'_>, mut stop: impl FnMut(bool) -> bool) {
        loop {
            loop {
                let before = self.scanned;
                let drained = self.drain(STEP, marking);
                marking.collector.earn(self.scanned - before);
                if drained == Drained::Dry {
                    break;
                }
                if stop(true) {
                    return self.leave(marking);
                }
            }
            marking.collector.idle.fetch_add(1, Ordering::Relaxed);
            let (mut backoff, mut is_over) = (Backoff::new(), false);
            while !marking.collector.has_work() && !is_over {
                is_over = stop(false) || marking.collector.is_quiet();
                backoff.step();
            }
            marking.collector.idle.fetch_sub(1, Ordering::Relaxed);
            if is_over {
                return;
            }
        }
    }

    /// Scans what comes next of the worker's own.
    #[inline]
    fn scan_next(&mut self, marking: &mut Marking<'_>) -> Option<()> {
        if let Some(offset) = self.grey.stack.pop() {
            self.scan_object(offset as usize, marking);
            return Some(());
        }
        let Some(entry) = self.grey.queue.get(&mut marking.supply) else {
            return self.grey.has_waiting().then(|| self.grey.settle(marking, &mut self.progress));
        };
        if let Some(later) = self.grey.queue.peek(PAGES_AHEAD) {
            fetch_page(marking, later);
        }
        if let Some(next) = self.grey.queue.peek(0) {
            fetch_objects(marking, next);
        }
        self.scan_page(entry, marking);
        Some(())
    }

    /// Scans the objects of a page that are marked and have not been scanned.
    fn scan_page(&mut self, entry: Entry, marking: &mut Marking<'_>) {
        // SAFETY: entries are of pages with objects, which do not go away while marking.
        let meta = unsafe { &*marking.meta(entry.page()) };
        let only = queue::let_go(&meta.owned).then_some(entry.index());
        let round = match only {
            Some(index) => Round::of_one(meta, index),
            None => Round::of_all(meta),
        };
        self.scan_rounds(entry.page(), meta, round, marking);
    }

    /// Scans objects of a page, and those that they lead to on the same page.
    pub(super) fn scan_rounds(
        &mut self,
        page: usize,
        meta: &PageMeta,
        mut round: Round,
        marking: &mut Marking<'_>,
    ) {
        let row = marking.row(marking.code(page));
        while round.count > 0 {
            let mut here = Here { page, row, found: [0; GROUPS] };
            match round.single() {
                Some(index) => self.scan_one_of(&mut here, index, marking),
                None => self.scan_round(&mut here, &round.objects, marking),
            }
            self.progress.scanned[Source::Heap as usize] += round.count * u64::from(row.size);
            round = self.next_round(meta, &here);
        }
    }

    /// Scans one object of a page.
    #[inline]
    fn scan_one_of(&mut self, here: &mut Here, index: usize, marking: &mut Marking<'_>) {
        let (size, words) = (here.row.size as usize, here.row.size as usize / 8);
        let mut mask = u64::MAX >> (BLOCK - words);
        if here.row.kind == SpanKind::Mapped {
            mask &=
                marking.objects.page_map(PageId(here.page)).map_or(0, |map| map.get(index * words, words));
        }
        let at = marking.words_at((here.page << PAGE_SHIFT) + index * size);
        // SAFETY: the words are the object's.
        unsafe { self.scan_here(here, at, &[mask], marking) };
    }

    /// Scans several objects of a page.
    #[inline]
    fn scan_round(&mut self, here: &mut Here, objects: &[u64; GROUPS], marking: &mut Marking<'_>) {
        let mut masks = [0; MOST_BLOCKS];
        // SAFETY: the collector chose a kernel that runs here.
        unsafe { marking.kernel().expand(objects, here.row.size as usize / 8, &mut masks) };
        if here.row.kind == SpanKind::Mapped
            && let Some(map) = marking.objects.page_map(PageId(here.page))
        {
            let bits = map.bits().iter();
            masks.iter_mut().zip(bits).for_each(|(mask, bits)| {
                *mask &= bits.load(core::sync::atomic::Ordering::Relaxed);
            });
        }
        let at = marking.words_at(here.page << PAGE_SHIFT);
        // SAFETY: the words are those of objects of the page.
        unsafe { self.scan_here(here, at, &masks, marking) };
    }

    /// As [`Worker::scan_masked`], of words on a page: what leads to the page is found, and shaded in its next round.
    ///
    /// # Safety
    /// As for [`Worker::scan_masked`].
    #[inline]
    unsafe fn scan_here(
        &mut self,
        here: &mut Here,
        words: *const u64,
        masks: &[u64],
        marking: &mut Marking<'_>,
    ) {
        let window = marking.window();
        // SAFETY: the caller's promise; the collector chose a kernel that runs here.
        let count = unsafe { marking.kernel().pick(words, masks, window, &mut self.candidates) };
        for &offset in &self.candidates.0[..count] {
            if offset as usize >> PAGE_SHIFT == here.page {
                here.find(offset as usize & (PAGE_SIZE - 1));
            } else {
                self.grey.mark_soon(offset, marking, &mut self.progress);
            }
        }
    }

    /// Marks the objects that a round has found on its own page, and takes those that nobody else has marked or scanned.
    /// They need no entry in a queue, nor the page an owner: who marked them is about to scan them.
    #[inline]
    fn next_round(&mut self, meta: &PageMeta, here: &Here) -> Round {
        let mut round = Round { objects: [0; GROUPS], count: 0 };
        for (group, &found) in here.found.iter().enumerate() {
            let (marks, scans) = (&meta.marks.0[group], &meta.scans.0[group]);
            let mut new = found & !marks.load(Ordering::Relaxed);
            if new == 0 {
                continue;
            }
            new &= meta.allocs.0[group].load(Ordering::Acquire);
            new &= !marks.fetch_or(new, Ordering::SeqCst);
            let count = u64::from(new.count_ones());
            self.progress.marked_objects += count;
            self.progress.marked_bytes += count * u64::from(here.row.size);
            round.objects[group] = new & !scans.fetch_or(new, Ordering::AcqRel);
            round.count += u64::from(round.objects[group].count_ones());
        }
        round
    }

    /// Scans an object that came from the stack, or a piece of one.
    fn scan_object(&mut self, offset: usize, marking: &mut Marking<'_>) {
        let address = Address(marking.objects.base().0 + offset);
        let Some(object) = marking.objects.find(address) else { return };
        let from = address.0 - object.start.0;
        if from == 0 {
            // SAFETY: the object's span begins there.
            let meta = unsafe { &*marking.meta(object.first_page.0) };
            if !meta.scans.set(object.index as usize) {
                return;
            }
            self.push_pieces(&object, offset, marking);
        }
        self.scan_piece(&object, from, marking);
    }

    /// Puts the later pieces of a long object onto the stack, where others may get them. A piece has no bit by which it
    /// could be found again, so one that there is no room for is scanned at once.
    fn push_pieces(&mut self, object: &Object, offset: usize, marking: &mut Marking<'_>) {
        for from in (PIECE..object.size.0).step_by(PIECE).rev() {
            if self.grey.stack.push((offset + from) as u64, &mut marking.supply).is_err() {
                self.scan_piece(object, from, marking);
            }
        }
    }

    /// Scans a piece of an object, or the whole of a short one.
    fn scan_piece(&mut self, object: &Object, from: usize, marking: &mut Marking<'_>) {
        let size = (object.size.0 - from).min(PIECE);
        self.progress.scanned[Source::Heap as usize] += size as u64;
        let words = marking.words_at(object.start.0 - marking.objects.base().0);
        let (first, end) = (from / 8, (from + size) / 8);
        let shape = marking.objects.shape_of(object).filter(|&shape| shape != ShapeId::WORDS);
        let map = shape.and_then(|shape| {
            let Supply { ground, spans, .. } = &mut marking.supply;
            // Without memory for the bitmap every word is looked at, which finds no less.
            let _ = marking.shapes.unroll(shape, *ground, spans);
            marking.shapes.map(shape, object.size)
        });
        let Some(map) = map else {
            // SAFETY: the words are the object's.
            return unsafe { self.scan_run(words.wrapping_add(first), end - first, marking) };
        };
        for (at, mask) in map.masks(first, end) {
            // SAFETY: as above.
            unsafe { self.scan_masked(words.wrapping_add(at), &[mask], marking) };
        }
    }

    /// Looks for work elsewhere: full buffers of others, roots that nobody has scanned yet, and what was lost.
    fn find_work(&mut self, marking: &mut Marking<'_>) -> bool {
        if self.grey.stack.refill(&mut marking.supply) || self.grey.queue.refill(&mut marking.supply) {
            return true;
        }
        if let Some(job) = marking.collector.roots.next_job() {
            self.scan_root(&job, marking);
            return true;
        }
        if marking.collector.lost.swap(false, Ordering::AcqRel) {
            self.search(marking);
            return true;
        }
        false
    }

    /// Searches all spans for objects that are marked and not scanned, and scans them.
    #[cold]
    fn search(&mut self, marking: &mut Marking<'_>) {
        for page in 0..marking.objects.covered().0 / PAGE_SIZE {
            let code = marking.code(page);
            let row = marking.row(code);
            if !code.is_first() || row.kind == SpanKind::Plain {
                continue;
            }
            // SAFETY: the code is that of a first page.
            let meta = unsafe { &*marking.meta(page) };
            if is_queued(code, row) {
                queue::let_go(&meta.owned);
                self.scan_rounds(page, meta, Round::of_all(meta), marking);
                continue;
            }
            for index in meta.marks.iter().filter(|&index| !meta.scans.has(index, Ordering::Relaxed)) {
                self.scan_object((page << PAGE_SHIFT) + index * row.size as usize, marking);
            }
        }
    }

    /// Sees to it that those find something who come to help: what is more than a buffer's worth, and where somebody
    /// waits, half of what there is.
    #[inline]
    fn feed(&mut self, marking: &mut Marking<'_>) {
        let somebody_waits = marking.collector.is_somebody_idle();
        if (somebody_waits || self.grey.queue.is_long()) && marking.supply.buffers.are_idle() {
            self.share(marking);
        }
    }

    #[cold]
    fn share(&mut self, marking: &mut Marking<'_>) {
        if !self.grey.queue.split(&mut marking.supply) {
            self.grey.stack.split(&mut marking.supply);
        }
    }

    fn enter(&mut self, marking: &Marking<'_>) {
        if !self.is_inside {
            marking.collector.census.enter();
            self.is_inside = true;
        }
    }

    /// Puts all that there is to scan where others find it, and reports. Whoever shades outside of [`Worker::drain`]
    /// calls this before others may believe that there is no work left.
    pub fn leave(&mut self, marking: &mut Marking<'_>) {
        self.grey.settle(marking, &mut self.progress);
        self.report(marking);
        if !self.is_inside && self.is_empty() && !self.grey.has_buffers() {
            return;
        }
        self.enter(marking);
        self.grey.stack.put_away(&mut marking.supply);
        self.grey.queue.put_away(&mut marking.supply);
        self.is_inside = false;
        marking.collector.census.leave();
    }

    /// Adds what the worker has done to the collector's counts.
    pub fn report(&mut self, marking: &Marking<'_>) {
        self.scanned += self.progress.work();
        marking.collector.add(&core::mem::take(&mut self.progress));
    }
}

impl Default for Worker {
    fn default() -> Worker {
        Worker::new()
    }
}

/// Whether objects of a span class are scanned page by page.
pub(super) fn is_queued(code: SpanClass, row: &SpanRow) -> bool {
    code.is_small() && row.size as usize <= MAX_ONE_PAGE
}

/// Objects of a page that this marker alone is about to scan.
pub(super) struct Round {
    pub(super) objects: [u64; GROUPS],
    pub(super) count: u64,
}

impl Round {
    /// The objects of a page that are marked and that nobody has scanned.
    #[inline]
    fn of_all(meta: &PageMeta) -> Round {
        let mut round = Round { objects: [0; GROUPS], count: 0 };
        for (group, taken) in round.objects.iter_mut().enumerate() {
            let scans = &meta.scans.0[group];
            let wanted = meta.marks.0[group].load(Ordering::SeqCst) & !scans.load(Ordering::Relaxed);
            if wanted != 0 {
                *taken = wanted & !scans.fetch_or(wanted, Ordering::AcqRel);
                round.count += u64::from(taken.count_ones());
            }
        }
        round
    }

    /// One object, unless somebody has scanned it.
    #[inline]
    fn of_one(meta: &PageMeta, index: usize) -> Round {
        let (mut objects, is_ours) = ([0; GROUPS], meta.scans.set(index));
        objects[index / GROUP] = u64::from(is_ours) << (index % GROUP);
        Round { objects, count: is_ours.into() }
    }

    /// The index of the only object, if there is one and no more.
    #[inline]
    fn single(&self) -> Option<usize> {
        let group = self.objects.iter().position(|&bits| bits != 0).filter(|_| self.count == 1)?;
        Some(group * GROUP + self.objects[group].trailing_zeros() as usize)
    }
}

/// What a round of scanning finds on the page that it is about.
struct Here {
    page: usize,
    row: &'static SpanRow,
    /// Slots that something leads to.
    found: [u64; GROUPS],
}

impl Here {
    /// Notes the slot at an offset into the page, if there is one.
    #[inline(always)]
    fn find(&mut self, offset: usize) {
        let index = class::index(offset, self.row.magic);
        if index < self.row.slots as usize {
            self.found[index / GROUP % GROUPS] |= 1 << (index % GROUP);
        }
    }
}

/// Has the processor fetch what scanning a page begins with.
#[inline(always)]
fn fetch_page(marking: &Marking<'_>, entry: Entry) {
    let meta = marking.meta(entry.page()).cast::<u8>();
    fetch(meta);
    fetch(meta.wrapping_add(SCANS));
}

/// Has the processor fetch objects of a page that is scanned soon: the first of those that are marked by now.
#[inline(always)]
fn fetch_objects(marking: &Marking<'_>, entry: Entry) {
    // SAFETY: entries are of pages with objects.
    let meta = unsafe { &*marking.meta(entry.page()) };
    let size = marking.row(marking.code(entry.page())).size as usize;
    let (words, mut left) = (marking.words_at(entry.page() << PAGE_SHIFT).cast::<u8>(), OBJECTS_AHEAD);
    for group in 0..GROUPS {
        let (marks, scans) = (&meta.marks.0[group], &meta.scans.0[group]);
        let mut rest = marks.load(Ordering::Relaxed) & !scans.load(Ordering::Relaxed);
        while rest != 0 {
            fetch(words.wrapping_add((group * GROUP + rest.trailing_zeros() as usize) * size));
            rest &= rest - 1;
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}
