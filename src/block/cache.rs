//! One owner's blocks of one purpose: the fast paths, and the steps of the slow ones.
//!
//! # Safety
//! A cache is used through a raw pointer by its owner's thread alone, or, while its owner is parked, by
//! whoever holds the owner's lock. The same holds for the block spans whose `cache` it is. Functions here
//! are unsafe for that reason and add their own where there is more. What fast paths do not touch, the lines of listed
//! spans and the counts beside them, changes under the owner's lock alone; so whoever holds that may take a span away that
//! is not current and of which nobody has a block ([`super::idle`]).

use super::body::{BlockSpan, FreeBlock, LARGE, Phase, id_of, mark};
use super::central::BlockCentral;
use super::holes;
use super::portion::Portions;
use super::remote::{self, Taken, Waiting};
use crate::base::class::{CLASSES, GRANULE, MAX_DIRECT, MAX_SMALL, SizeClass};
use crate::base::{Bytes, PAGE_SHIFT, Pages, PurposeId};
use crate::os::Zeroed;
use crate::span::{Ground, NewSpan, Span, SpanCache, SpanId};
use crate::stats::ClassEvent;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Entries of the table of small sizes, in steps of 16 bytes from 0 to [`MAX_DIRECT`].
const DIRECT: usize = MAX_DIRECT / 16 + 1;

/// A class's spans that have blocks to give.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Bin {
    /// The span that is allocated from, or the empty one.
    pub(super) current: *mut BlockSpan,
    /// The first of those in line.
    pub(super) first: SpanId,
    /// Spans of the class, in whatever phase.
    pub(super) spans: u32,
    /// Blocks given since the last entry in the books.
    given: u64,
    /// Blocks that came back since then.
    back: u64,
}

/// Events of a class that are entered in the books at once: an entry costs more than a block.
const EVENTS: u64 = 1024;

/// The cache. What every fast path reads comes first, in one cache line.
#[repr(C, align(64))]
pub struct BlockCache {
    /// The region's base.
    region: usize,
    /// Bytes of the region that existed when this was last looked at.
    limit: usize,
    map: *const AtomicU32,
    records: *const Span,
    pub(super) key: usize,
    owner: u32,
    purpose: PurposeId,
    pub(super) direct: [*mut BlockSpan; DIRECT],
    pub(super) bins: [Bin; CLASSES],
    /// How allocations are counted, or null.
    pub(super) portions: *mut Portions,
}

// SAFETY: zeros are not a cache, but memory for one: `init` comes before use.
unsafe impl Zeroed for BlockCache {}
// SAFETY: the empty cache is never written, and others are used as the head of this file says.
unsafe impl Sync for BlockCache {}

/// What the slow path works with: the ground, the owner's spans, and the other owners.
pub struct Work<'a> {
    /// Spans, meters and books.
    pub ground: Ground<'a>,
    /// The owner's pages and records.
    pub spans: &'a mut SpanCache,
    /// Everyone's inboxes.
    pub central: &'a BlockCentral,
}

/// A block that was just taken.
#[derive(Clone, Copy)]
pub struct Block {
    /// Its first byte.
    pub pointer: *mut u8,
    /// Whether it reads as zeros.
    pub zero: bool,
}

/// What became of a pointer handed to [`BlockCache::free`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freed {
    /// It is free.
    Done,
    /// It is free, and the span wants [`BlockCache::attend`].
    Tripped(*mut BlockSpan),
    /// Not a block of this owner's that is in use: the slow path finds out what it is.
    Other,
}

/// What became of a pointer handed to [`BlockCache::free_remote`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remote {
    /// It waits in its span, which is on its way to its owner.
    Done,
    /// It is the first that waits in this span: the span must go into the inbox of this owner.
    First(SpanId, u32),
    /// Not a block of another owner's that is in use: the slow path finds out what it is.
    Other,
}

impl Bin {
    const fn new(empty: *mut BlockSpan) -> Bin {
        Bin { current: empty, first: SpanId::NONE, spans: 0, given: 0, back: 0 }
    }

    /// Enters the class's events in the books.
    fn post(&mut self, work: &Work<'_>, class: SizeClass) {
        if self.given == 0 && self.back == 0 {
            return;
        }
        work.ground.ledger.post(|entry| {
            entry.class(class.0 as usize, ClassEvent::Allocated, self.given);
            entry.class(class.0 as usize, ClassEvent::Freed, self.back);
        });
        (self.given, self.back) = (0, 0);
    }
}

struct Shared(BlockSpan);
// SAFETY: the empty span is never written: no block of it can be taken or freed.
unsafe impl Sync for Shared {}
#[cfg(not(loom))]
static EMPTY: Shared = Shared(BlockSpan::empty());

pub(super) fn empty_span() -> *mut BlockSpan {
    #[cfg(not(loom))]
    return (&raw const EMPTY.0).cast_mut();
    #[cfg(loom)]
    unreachable!("caches are not modelled")
}

impl BlockCache {
    /// The cache of nobody: every allocation and every free takes the slow path. A thread starts with it.
    #[cfg(not(loom))]
    pub const fn empty() -> BlockCache {
        let empty = (&raw const EMPTY.0).cast_mut();
        BlockCache {
            region: 0,
            limit: 0,
            map: ptr::null(),
            records: ptr::null(),
            key: 0,
            owner: 0,
            purpose: PurposeId(0),
            direct: [empty; DIRECT],
            bins: [Bin::new(empty); CLASSES],
            portions: ptr::null_mut(),
        }
    }

    /// Makes a cache in zeroed memory.
    ///
    /// # Safety
    /// `at` is memory for a cache that nobody uses.
    pub unsafe fn init(at: *mut BlockCache, ground: Ground<'_>, owner: u32, purpose: PurposeId, key: usize) {
        let heap = ground.heap;
        // SAFETY: the memory is ours alone.
        unsafe {
            (*at).region = heap.region().base().0;
            (*at).limit = heap.region().committed().0;
            (*at).map = heap.map().as_ptr();
            (*at).records = heap.records();
            (*at).key = key;
            (*at).owner = owner;
            (*at).purpose = purpose;
            (*at).direct = [empty_span(); DIRECT];
            (*at).bins = [Bin::new(empty_span()); CLASSES];
            (*at).portions = ptr::null_mut();
        }
    }

    /// The owner's number; 0 for the empty cache.
    #[inline(always)]
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// What the cache's blocks are for.
    #[inline(always)]
    pub fn purpose(&self) -> PurposeId {
        self.purpose
    }

    /// Whether there is a class with a span to allocate from.
    pub fn has_current(&self) -> bool {
        SizeClass::all().any(|class| self.is_current(class))
    }

    /// Looks again how far the region reaches.
    pub fn refresh(&mut self, ground: Ground<'_>) {
        self.limit = ground.heap.region().committed().0;
    }

    /// Takes a block of at least `size` bytes, or null when [`BlockCache::allocate_medium`] or the slow path must.
    ///
    /// # Safety
    /// See the head of this file.
    #[inline(always)]
    pub unsafe fn allocate(this: *mut BlockCache, size: usize) -> *mut u8 {
        if size > MAX_DIRECT {
            return ptr::null_mut();
        }
        // SAFETY: the owner's thread uses its own cache and spans; the table covers all sizes up to here.
        unsafe { pop(*(*this).direct.get_unchecked((size + 15) >> 4)).cast() }
    }

    /// As [`BlockCache::allocate`], for sizes beyond the table: their class is computed.
    ///
    /// # Safety
    /// See the head of this file.
    #[inline]
    pub unsafe fn allocate_medium(this: *mut BlockCache, size: usize) -> *mut u8 {
        if size <= MAX_DIRECT || size > MAX_SMALL {
            return ptr::null_mut();
        }
        // SAFETY: the owner's thread uses its own cache and spans.
        unsafe { pop((*this).bins[SizeClass::of_small(size).0 as usize].current).cast() }
    }

    /// Frees a block, if it is in use and of this owner's; the pointer may be anything.
    ///
    /// # Safety
    /// See the head of this file. If the pointer is a block's, the caller gives that block up.
    #[inline(always)]
    pub unsafe fn free(this: *mut BlockCache, pointer: *mut u8) -> Freed {
        // SAFETY: a page below `limit` has a map entry, and whatever number that holds has a record; only if
        // the record names this owner is anything else of it touched, and then the owner's thread is us.
        unsafe {
            let offset = pointer.addr().wrapping_sub((*this).region);
            if offset >= (*this).limit {
                return Freed::Other;
            }
            let id = (*(*this).map.add(offset >> PAGE_SHIFT)).load(Ordering::Relaxed);
            let span = (*this).records.add(id as usize).cast::<BlockSpan>().cast_mut();
            if (*span).owner.load(Ordering::Relaxed) != (*this).owner {
                return Freed::Other;
            }
            // The entry may be an old one, of a page that is nobody's now: then the record's present span is
            // elsewhere, and nothing but the distance says so.
            let Some(distance) = (*span).own_distance(offset) else { return Freed::Other };
            // Announced before it is looked whether the span is open, for whoever may be closing it: see `holes`.
            BlockSpan::announce(span);
            let block = pointer.cast::<FreeBlock>();
            let mark = mark((*this).key, block);
            if !(*span).divides(distance) || (*block).mark == mark {
                BlockSpan::take_back(span);
                return Freed::Other;
            }
            (*block).mark = mark;
            push(span, block);
            if BlockSpan::is_tripped(span) { Freed::Tripped(span) } else { Freed::Done }
        }
    }

    /// Frees a block of another owner's; the pointer may be anything. Where [`BlockCache::free`] says
    /// [`Freed::Other`], this is asked next.
    ///
    /// # Safety
    /// If the pointer is a block's, the caller gives that block up.
    #[inline]
    pub unsafe fn free_remote(this: *mut BlockCache, pointer: *mut u8) -> Remote {
        // SAFETY: a page below `limit` has a map entry, and that a record. What is read of the body is constant
        // while a block of the span is in use, or atomic; should the pointer be no block's, the tests fail or the
        // caller has broken its promise.
        unsafe {
            let offset = pointer.addr().wrapping_sub((*this).region);
            if offset >= (*this).limit {
                return Remote::Other;
            }
            let id = (*(*this).map.add(offset >> PAGE_SHIFT)).load(Ordering::Acquire);
            let span = &*(*this).records.add(id as usize);
            let body = span.body::<BlockSpan>();
            let owner = (*body).owner.load(Ordering::Relaxed);
            let block = pointer.cast::<FreeBlock>();
            let mark = mark((*this).key, block);
            // Zero and `LARGE` are the two ends of the numbers: one comparison leaves both out.
            if owner.wrapping_sub(1) >= LARGE - 1
                || owner == (*this).owner
                || !(*body).is_carved(offset)
                || !(*body).begins_block(offset)
                || (*block).mark == mark
            {
                return Remote::Other;
            }
            (*block).mark = mark;
            let within = (offset as u32).wrapping_sub((*body).start) as usize;
            if remote::wait(span.word(), pointer.sub(within), (within / GRANULE) as u16) {
                Remote::First(SpanId(id), owner)
            } else {
                Remote::Done
            }
        }
    }

    /// Takes a block where [`BlockCache::allocate`] found none: carves, or goes on to the next span in line.
    /// `None` when the cache has no more: the caller then drains, adopts or installs a span.
    ///
    /// # Safety
    /// See the head of this file.
    pub unsafe fn take(this: *mut BlockCache, work: &mut Work<'_>, class: SizeClass) -> Option<Block> {
        // SAFETY: the owner's thread uses its own cache and spans.
        unsafe {
            let dealt = BlockCache::take_dealt(this, class);
            if !dealt.is_null() {
                return Some(Block { pointer: dealt.cast(), zero: false });
            }
            loop {
                let span = (*this).current(class);
                let block = pop(span);
                if !block.is_null() {
                    BlockCache::deal(this, class);
                    return Some(Block { pointer: block.cast(), zero: false });
                }
                if (*span).carved < (*span).blocks {
                    let block = (*this).carve(work, span);
                    BlockCache::deal(this, class);
                    return Some(block);
                }
                if (*span).phase == Phase::Current {
                    (*this).count(work, span);
                    (*span).phase = Phase::Full;
                    (*span).trip = (*span).full_trip();
                }
                let mut next = (*this).unlist_first(class);
                if next != empty_span()
                    && !holes::fill(work.ground, holes::record_of(next), next, (*this).key)
                {
                    // The system has no memory for the holes: the span waits where it was.
                    (*this).list(work, next);
                    next = empty_span();
                }
                (*this).set_current(class, next);
                if next == empty_span() {
                    return None;
                }
                (*next).phase = Phase::Current;
            }
        }
    }

    unsafe fn carve(&mut self, work: &Work<'_>, span: *mut BlockSpan) -> Block {
        // SAFETY: the span is the owner's current one and has untouched blocks left.
        unsafe {
            let record = &*span.cast::<Span>();
            let memory = work.ground.heap.region().page_pointer(record.page());
            let block = (*span).carve(memory, self.key);
            (*span).trip += 1;
            Block { pointer: block.cast(), zero: (*span).fresh }
        }
    }

    /// How long the next span of a class is to be.
    pub fn next_span(&self, class: SizeClass) -> Pages {
        class.pages(self.bins[class.0 as usize].spans)
    }

    /// Makes a fresh span the current one. There is none to give way.
    ///
    /// # Safety
    /// See the head of this file; the caller holds the span and gives it to the cache.
    pub unsafe fn install(this: *mut BlockCache, new: &NewSpan<'_>, class: SizeClass) {
        // SAFETY: the span is handed over, and the cache is the owner's.
        unsafe {
            let span = BlockSpan::open(new, class, (*this).owner, this);
            (*this).bins[class.0 as usize].spans += 1;
            (*this).set_current(class, span);
        }
    }

    /// Gives a tripped span its due: a full one is listed again, an empty one is freed unless it is current.
    ///
    /// # Safety
    /// See the head of this file; the span belongs to a cache of the same owner.
    pub unsafe fn attend(work: &mut Work<'_>, span: *mut BlockSpan) {
        // SAFETY: the owner's thread uses its own spans.
        unsafe {
            debug_assert_eq!((*span).trip, 0);
            let cache = &mut *(*span).cache;
            match (*span).phase {
                Phase::Full => cache.relist(work, span, 0),
                Phase::Listed => {
                    cache.unlist(work, span);
                    cache.discard(work, span);
                }
                Phase::Current => {}
                Phase::None | Phase::Large => debug_assert!(false, "a span without blocks tripped"),
            }
        }
    }

    /// Puts back what others have freed, and hands on spans that belong to somebody else by now.
    ///
    /// # Safety
    /// See the head of this file; `spans` was taken from the inbox of the owner `owner`.
    pub unsafe fn put_back(work: &mut Work<'_>, owner: u32, mut spans: Taken) {
        let heap = work.ground.heap;
        while let Some(id) = spans.next(heap.links()) {
            let span = heap.span(id).expect("spans in inboxes have records");
            let body = span.body::<BlockSpan>();
            // SAFETY: a span in an inbox has blocks in use, so it is there; if it names this owner, it is ours.
            unsafe {
                let now = (*body).owner.load(Ordering::Relaxed);
                if now == owner {
                    BlockCache::absorb(work, span, body);
                } else {
                    work.central.inbox(now).push(id, heap.links());
                }
            }
        }
    }

    /// Takes the blocks that wait in a span into its free list, all at once.
    ///
    /// # Safety
    /// See the head of this file; the span is the owner's and was taken from an inbox.
    pub unsafe fn absorb(work: &mut Work<'_>, span: &Span, body: *mut BlockSpan) {
        let waiting = remote::take(span.word());
        let memory = work.ground.heap.region().page_pointer(span.page());
        // SAFETY: the blocks waited in the span, so they are its own and in nobody's use.
        unsafe {
            (*Waiting::block(memory, waiting.first)).next = (*body).free;
            (*body).free = Waiting::block(memory, waiting.last);
            (*body).frees += u64::from(waiting.count);
            let count = u32::from(waiting.count);
            if (*body).phase == Phase::Full && count >= (*body).trip {
                // More came back than the span waited for; what is beyond counts as in `Listed`.
                let beyond = count - (*body).trip;
                (*body).trip = 0;
                (*(*body).cache).relist(work, body, beyond);
            } else {
                (*body).trip -= count;
                if (*body).trip == 0 {
                    BlockCache::attend(work, body);
                }
            }
        }
    }

    /// Lists a full span that tripped, less `beyond` blocks that came back with the last that it waited for.
    unsafe fn relist(&mut self, work: &mut Work<'_>, span: *mut BlockSpan, beyond: u32) {
        // SAFETY: the span is the owner's and in no list.
        unsafe {
            (*span).trip = (*span).blocks - (*span).full_trip() - beyond;
            (*span).phase = Phase::Listed;
            self.list(work, span);
            if (*span).trip == 0 {
                BlockCache::attend(work, span);
            }
        }
    }

    /// Takes a span with blocks to give away from this cache, for another owner. Those behind it stay.
    ///
    /// # Safety
    /// See the head of this file; this cache's owner is parked and the caller holds its lock.
    pub unsafe fn surrender_listed(this: *mut BlockCache, class: SizeClass) -> Option<*mut BlockSpan> {
        // SAFETY: the lock of the parked owner is held.
        let span = unsafe { (*this).unlist_first(class) };
        if span == empty_span() {
            return None;
        }
        // SAFETY: as above.
        unsafe { (*this).bins[class.0 as usize].spans -= 1 };
        Some(span)
    }

    /// Takes a given span away from its cache, for another owner, whatever its phase.
    ///
    /// # Safety
    /// See the head of this file; the span's owner is parked and the caller holds its lock.
    pub unsafe fn surrender(work: &Work<'_>, span: *mut BlockSpan) {
        // SAFETY: the lock of the parked owner is held.
        unsafe {
            debug_assert_ne!((*span).phase, Phase::Current, "a parked cache has no current span");
            if (*span).phase == Phase::Listed {
                (*(*span).cache).unlist(work, span);
            }
            (*(*span).cache).bins[(*span).class.0 as usize].spans -= 1;
        }
    }

    /// Takes in a span that its owner surrendered.
    ///
    /// # Safety
    /// See the head of this file; the span is in no list, and the caller holds its former owner's lock.
    pub unsafe fn adopt(this: *mut BlockCache, work: &Work<'_>, span: *mut BlockSpan) {
        // SAFETY: the span is handed over; from the store on, frees by others go to the new owner.
        unsafe {
            (*span).cache = this;
            (*this).bins[(*span).class.0 as usize].spans += 1;
            (*span).owner.store((*this).owner, Ordering::Release);
            if (*span).phase != Phase::Full {
                (*span).phase = Phase::Listed;
                (*this).list(work, span);
            }
        }
    }

    /// Makes all entries in the books that are due, and leaves no span current: those without blocks in use
    /// are freed, the others listed. Called when the owner's thread ends, or to give memory back.
    ///
    /// # Safety
    /// See the head of this file.
    pub unsafe fn retire_current(this: *mut BlockCache, work: &mut Work<'_>) {
        for class in SizeClass::all() {
            // SAFETY: the owner's thread uses its own cache and spans.
            unsafe {
                BlockCache::undeal(this, class);
                let span = (*this).current(class);
                if span != empty_span() {
                    (*this).set_current(class, empty_span());
                    if (*span).trip == 0 {
                        (*this).discard(work, span);
                    } else {
                        (*this).count(work, span);
                        (*span).phase = Phase::Listed;
                        (*this).list(work, span);
                    }
                }
                (*this).bins[class.0 as usize].post(work, class);
            }
        }
    }

    /// Makes the entries in the books that are due for the spans that have blocks to give.
    ///
    /// # Safety
    /// See the head of this file.
    pub unsafe fn post_events(this: *mut BlockCache, work: &Work<'_>) {
        for class in SizeClass::all() {
            // SAFETY: the owner's thread uses its own cache and spans.
            unsafe {
                let current = (*this).current(class);
                if current != empty_span() {
                    (*this).count(work, current);
                }
                let mut at = (*this).bins[class.0 as usize].first;
                while let Some(id) = at.some() {
                    let span = work.ground.heap.span(id).expect("listed spans have records");
                    (*this).count(work, span.body());
                    at = SpanId(span.links().after);
                }
                (*this).bins[class.0 as usize].post(work, class);
            }
        }
    }

    /// Counts what happened to a span's blocks since the last time, and makes an entry when it is worth one.
    unsafe fn count(&mut self, work: &Work<'_>, span: *mut BlockSpan) {
        // SAFETY: the span is the owner's.
        unsafe {
            let (class, back) = ((*span).class, (*span).frees);
            let used = (*span).used() - self.dealt_of(span, class);
            let bin = &mut self.bins[class.0 as usize];
            // Blocks given are those in use now, and those that came back, less those that were in use before.
            bin.given += u64::from(used) + back - u64::from((*span).posted);
            bin.back += back;
            ((*span).posted, (*span).frees) = (used, 0);
            if bin.given + bin.back >= EVENTS {
                bin.post(work, class);
            }
        }
    }

    fn set_current(&mut self, class: SizeClass, span: *mut BlockSpan) {
        if !self.set_counted(class, span) {
            self.lead(class, span);
        }
    }

    /// Leads the fast paths of a class to `span`.
    pub(super) fn lead(&mut self, class: SizeClass, span: *mut BlockSpan) {
        self.bins[class.0 as usize].current = span;
        // Every small size whose class this is: the table is indexed by granules, rounded up.
        let largest = class.size() / 16;
        let smallest = if class.0 == 0 { 0 } else { SizeClass(class.0 - 1).size() / 16 + 1 };
        if smallest < DIRECT {
            self.direct[smallest..=largest.min(DIRECT - 1)].fill(span);
        }
    }

    /// Frees an empty span that is in no list and not current.
    unsafe fn discard(&mut self, work: &mut Work<'_>, span: *mut BlockSpan) {
        // SAFETY: the span is the owner's, has no block in use, and nobody else knows it.
        unsafe {
            self.count(work, span);
            self.bins[(*span).class.0 as usize].spans -= 1;
            let record = holes::record_of(span);
            let touched = if holes::of(record) != 0 && holes::dissolve(work.ground, record, span) {
                Pages(0)
            } else {
                Bytes((*span).carved as usize * (*span).size()).pages_ceil()
            };
            let id = id_of(span, self.records);
            work.ground.free(work.spans, id, touched);
        }
    }

    /// Puts a span at the head of its class's line. The spans there have just had an eighth of their blocks
    /// back; those further behind had time to become empty.
    unsafe fn list(&mut self, work: &Work<'_>, span: *mut BlockSpan) {
        // SAFETY: the class is constant while the span is the owner's.
        let bin = &mut self.bins[unsafe { (*span).class.0 } as usize];
        // SAFETY: the list belongs to this cache, and the span is in none.
        unsafe {
            let id = id_of(span, self.records);
            let links = (*span.cast::<Span>()).links();
            (links.before, links.after) = (0, bin.first.0);
            if let Some(after) = bin.first.some() {
                links_of(work, after).before = id.0;
            }
            bin.first = id;
        }
    }

    unsafe fn unlist(&mut self, work: &Work<'_>, span: *mut BlockSpan) {
        // SAFETY: the class is constant while the span is the owner's.
        let bin = &mut self.bins[unsafe { (*span).class.0 } as usize];
        // SAFETY: the list belongs to this cache, and the span is in it.
        unsafe {
            let links = *(*span.cast::<Span>()).links();
            match SpanId(links.before).some() {
                Some(before) => links_of(work, before).after = links.after,
                None => bin.first = SpanId(links.after),
            }
            if let Some(after) = SpanId(links.after).some() {
                links_of(work, after).before = links.before;
            }
        }
    }

    unsafe fn unlist_first(&mut self, class: SizeClass) -> *mut BlockSpan {
        let bin = &mut self.bins[class.0 as usize];
        let Some(first) = bin.first.some() else { return empty_span() };
        // SAFETY: the list belongs to this cache; its spans have records.
        unsafe {
            let record = &*self.records.add(first.0 as usize);
            bin.first = SpanId(record.links().after);
            if let Some(next) = bin.first.some() {
                (*self.records.add(next.0 as usize)).links().before = 0;
            }
            record.body()
        }
    }
}

#[inline(always)]
pub(super) unsafe fn pop(span: *mut BlockSpan) -> *mut FreeBlock {
    // SAFETY: the caller is the span's owner, or the span is the empty one, which has no block and is not
    // written.
    unsafe {
        let block = (*span).free;
        if !block.is_null() {
            (*span).free = (*block).next;
            (*span).trip += 1;
            (*block).mark = 0;
        }
        block
    }
}

/// Puts a block back that carries its mark, and was announced.
#[inline(always)]
unsafe fn push(span: *mut BlockSpan, block: *mut FreeBlock) {
    // SAFETY: the caller is the span's owner and has the right to free the block. The head is stored last: whoever finds
    // the block there finds it complete.
    unsafe {
        (*block).next = (*span).free;
        (*span).frees += 1;
        AtomicPtr::from_ptr(&raw mut (*span).free).store(block, Ordering::Release);
    }
}

#[allow(clippy::mut_from_ref)]
unsafe fn links_of<'a>(work: &'a Work<'_>, id: SpanId) -> &'a mut crate::span::record::Links {
    // SAFETY: the caller holds the list that the span is in.
    unsafe { work.ground.heap.span(id).expect("listed spans have records").links() }
}
