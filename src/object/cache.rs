//! The local half: what one mutator allocates from.
//!
//! A cache has a *bin* for each span class. A bin has a span, which is in nobody else's hands, and of that one *group*
//! of up to 64 free slots, as a word of bits. To allocate is to take the lowest bit:
//!
//! ```text
//!   bits  ...0010 1100    allocate: slot 2    bits  ...0010 1000
//!   base ─▶ slot 0        = base + 2 × size
//! ```
//!
//! All else is done for a whole group when it is taken ([`Objects::refill`]), so that the fast path needs no test for it:
//!
//! - its free slots are cleared, unless they are known to be zero. A group is taken in pieces of [`BATCH`], so what is
//!   cleared is still in the processor's cache when it is used;
//! - the slots count as allocated: their bits are set in `allocs`;
//! - while marking they are marked and done with: what is allocated while marking is black in advance;
//! - their bytes count as alive.
//!
//! What a cache holds without having allocated it is taken back by [`Objects::flush`], when marking ends, and when the
//! mutator goes; when marking begins, it is marked by [`Objects::blacken`].
//!
//! # Safety
//! A slot whose bit a cache holds is memory of a span that the cache holds, and nobody else uses it. The page heap,
//! which is the ground of every operation here, lends the memory.

use super::central::ObjectWork;
use super::kind::SpanClass;
use super::meta::{GROUP, PageMeta, ones, valid};
use super::{Objects, tiny::Crumbs};
use crate::base::sync::Ordering;
use crate::base::{Bytes, Exhausted, PageId, Pages, PurposeId};
use crate::os::Zeroed;
use crate::stats::ClassEvent;

/// Bytes of slots that are taken at once, where slots are smaller than that.
const BATCH: usize = 8 << 10;
/// Bytes that a cache takes before it tells the others.
const TELL: usize = 16 << 10;

/// Where a cache allocates objects of one span class.
#[repr(C)]
pub(super) struct Bin {
    /// Slot 0 of the group.
    base: *mut u8,
    /// The group's slots that can be given.
    bits: u64,
    /// Bytes of a slot.
    size: u32,
    /// The span's first page.
    page: u32,
    /// The group's number in the span.
    group: u8,
    /// Groups of the span; 0 if there is no span.
    groups: u8,
    /// Slots of the span.
    slots: u16,
    /// Slots taken and not in the books.
    taken: u32,
}

/// Where a mutator allocates objects of one purpose. Zeroed memory is an empty cache for
/// [`OBJECTS`](crate::base::purpose::OBJECTS). It does not move while it holds anything.
#[repr(C)]
pub struct ObjectCache {
    bins: [Bin; 256],
    pub(super) crumbs: Crumbs,
    /// A bit for each bin that may hold a span.
    used: [u64; 4],
    /// Bytes taken that nobody was told of.
    untold: usize,
    /// Of those, bytes that were marked in advance.
    untold_black: usize,
    purpose: PurposeId,
}

// SAFETY: bins without bits and without spans, and no crumbs.
unsafe impl Zeroed for ObjectCache {}
// SAFETY: a cache and the memory that it points to belong to whoever has it.
unsafe impl Send for ObjectCache {}

/// What came of a wish for slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// The cache has some.
    Ready,
    /// It has none, but there are spans that wait to be swept and may have some. Sweep, and ask again; or ask for a fresh
    /// span.
    Unswept,
}

impl ObjectCache {
    /// Makes an empty cache that of a purpose, which has been [added](Objects::add_purpose).
    pub fn open(&mut self, purpose: PurposeId) {
        debug_assert!(self.used == [0; 4]);
        self.purpose = purpose;
    }

    /// The purpose of the cache's objects.
    pub fn purpose(&self) -> PurposeId {
        self.purpose
    }

    /// A slot of a span class, all zeros; null when the cache has none: then [`Objects::refill`].
    #[inline(always)]
    pub fn allocate_fast(&mut self, class: SpanClass) -> *mut u8 {
        let bin = &mut self.bins[class.0 as usize];
        let bits = bin.bits;
        if bits == 0 {
            return core::ptr::null_mut();
        }
        bin.bits = bits & (bits - 1);
        // SAFETY: the slot of a bit lies in the span that begins or goes on at `base`.
        unsafe { bin.base.add(bits.trailing_zeros() as usize * bin.size as usize) }
    }

    /// Bytes that [`ObjectCache::allocate_fast`] can give of a span class.
    pub fn rest(&self, class: SpanClass) -> Bytes {
        Bytes(self.bins[class.0 as usize].rest_bytes())
    }

    /// The bins that may hold a span.
    pub(super) fn bins(&self) -> impl Iterator<Item = (SpanClass, &Bin)> {
        let used = self.used.iter().enumerate();
        let codes = used.flat_map(|(at, &word)| ones(word).map(move |bit| SpanClass((at * 64 + bit) as u8)));
        codes.map(|code| (code, &self.bins[code.0 as usize])).filter(|(_, bin)| bin.groups > 0)
    }

    /// The codes of the bins that may hold a span, each of which then counts as holding none.
    fn drain(&mut self) -> impl Iterator<Item = SpanClass> + use<> {
        let used = core::mem::take(&mut self.used).into_iter().enumerate();
        used.flat_map(|(at, word)| ones(word).map(move |bit| SpanClass((at * 64 + bit) as u8)))
    }
}

impl Bin {
    /// The span's first page.
    pub(super) fn page(&self) -> PageId {
        PageId(self.page as usize)
    }

    /// The group that the bits belong to, and the bits.
    pub(super) fn rest(&self) -> (usize, u64) {
        (self.group as usize, self.bits)
    }

    /// Slots taken and not in the books.
    #[cfg(not(loom))]
    pub(super) fn taken(&self) -> usize {
        self.taken as usize
    }

    /// Bytes of the slots that were taken and can still be given.
    fn rest_bytes(&self) -> usize {
        self.bits.count_ones() as usize * self.size as usize
    }

    /// The lowest free slots of a group, as many as make a batch.
    fn batch(&self, free: u64) -> u64 {
        let most = (BATCH / self.size as usize).max(1);
        if (free.count_ones() as usize) <= most {
            return free;
        }
        let beyond = (0..most).fold(free, |rest, _| rest & (rest - 1));
        free & !beyond
    }
}

impl Objects {
    /// Gets slots of a span class into a cache whose bin for it is empty: the next ones of its span, else those of a
    /// swept span with free slots, else, if nothing waits to be swept, those of a fresh span.
    ///
    /// # Errors
    /// As for spans; nothing has changed then.
    pub fn refill(
        &self,
        cache: &mut ObjectCache,
        work: &mut ObjectWork<'_, '_>,
        class: SpanClass,
    ) -> Result<Take, Exhausted> {
        debug_assert!(class.is_small(), "{class:?} has no bin");
        if self.next_group(cache, work, class) {
            return Ok(Take::Ready);
        }
        self.post(cache, work, class);
        cache.bins[class.0 as usize].groups = 0;
        let links = work.ground.heap.links();
        if let Some(span) = self.partial(cache.purpose, class).pop(links) {
            let first = work.ground.heap.span(span).expect("spans in sets have records").page();
            self.adopt(cache, class, first);
            let has_slots = self.next_group(cache, work, class);
            debug_assert!(has_slots, "{span:?} was in the set of spans with free slots");
            return Ok(Take::Ready);
        }
        if !self.is_swept() {
            return Ok(Take::Unswept);
        }
        self.refill_fresh(cache, work, class)
    }

    /// As [`Objects::refill`], from a fresh span if the bin's has no more slots, whatever waits to be swept.
    ///
    /// # Errors
    /// As for spans; nothing has changed then.
    pub fn refill_fresh(
        &self,
        cache: &mut ObjectCache,
        work: &mut ObjectWork<'_, '_>,
        class: SpanClass,
    ) -> Result<Take, Exhausted> {
        if self.next_group(cache, work, class) {
            return Ok(Take::Ready);
        }
        self.post(cache, work, class);
        cache.bins[class.0 as usize].groups = 0;
        let pages = Pages(class.row().pages as usize);
        let first = self.open(work, cache.purpose, class, pages)?.page;
        self.adopt(cache, class, first);
        let has_slots = self.next_group(cache, work, class);
        debug_assert!(has_slots, "a fresh span has slots");
        Ok(Take::Ready)
    }

    /// Gives a bin a span that is in nobody's hands.
    fn adopt(&self, cache: &mut ObjectCache, class: SpanClass, first: PageId) {
        let row = class.row();
        let bin = &mut cache.bins[class.0 as usize];
        debug_assert!(bin.bits == 0 && bin.groups == 0 && bin.taken == 0);
        bin.size = row.size;
        bin.page = first.0 as u32;
        bin.slots = row.slots;
        bin.group = 0;
        bin.groups = (row.slots as usize).div_ceil(GROUP) as u8;
        cache.used[class.0 as usize / 64] |= 1 << (class.0 % 64);
    }

    /// Takes the next free slots of a bin's span. Returns whether there were any.
    fn next_group(&self, cache: &mut ObjectCache, work: &ObjectWork<'_, '_>, class: SpanClass) -> bool {
        let bin = &mut cache.bins[class.0 as usize];
        debug_assert_eq!(bin.bits, 0, "slots of {class:?} are left");
        if bin.groups == 0 {
            return false;
        }
        let meta = self.meta(bin.page()).expect("a span in a cache has metadata");
        while bin.group < bin.groups {
            let group = bin.group as usize;
            let free = valid(group, bin.slots as usize) & !meta.allocs.0[group].load(Ordering::Relaxed);
            if free == 0 {
                bin.group += 1;
                continue;
            }
            let bits = bin.batch(free);
            let memory = work.ground.heap.region().page_pointer(bin.page());
            bin.base = memory.wrapping_add(group * GROUP * bin.size as usize);
            self.take(bin, meta, group, bits);
            let bytes = bin.rest_bytes();
            cache.untold += bytes;
            if self.is_marking() {
                cache.untold_black += bytes;
            }
            if cache.untold >= TELL {
                self.tell(cache);
            }
            return true;
        }
        false
    }

    /// Makes free slots of a group the bin's: in the order that `find` relies on.
    fn take(&self, bin: &mut Bin, meta: &PageMeta, group: usize, bits: u64) {
        if meta.dirty.load(Ordering::Relaxed) >> group & 1 == 1 {
            // SAFETY: free slots of the cache's span.
            unsafe { clear(bin.base, bin.size as usize, bits) };
        }
        meta.hand_out(group, bits, self.is_marking());
        bin.bits = bits;
        bin.taken += bits.count_ones();
    }

    /// Enters in the books what was taken of a bin's span.
    fn post(&self, cache: &mut ObjectCache, work: &ObjectWork<'_, '_>, class: SpanClass) {
        let taken = u64::from(core::mem::take(&mut cache.bins[class.0 as usize].taken));
        let crumbs = cache.crumbs.uncounted();
        if taken == 0 && crumbs == 0 {
            return;
        }
        work.ground.ledger.post(|entry| {
            entry.objects(class.row().class.0 as usize, ClassEvent::Allocated, taken);
            entry.crumbs(crumbs);
        });
    }

    /// Adds what a cache has taken to what counts as alive.
    fn tell(&self, cache: &mut ObjectCache) {
        self.add_live(Bytes(core::mem::take(&mut cache.untold)));
        self.add_black(Bytes(core::mem::take(&mut cache.untold_black)));
    }

    /// Marks in advance what a cache holds, as marking begins. The world stands still, and
    /// [`is_marking`](Objects::is_marking) says so already.
    pub fn blacken(&self, cache: &mut ObjectCache) {
        debug_assert!(self.is_marking());
        let mut black = 0;
        for (_, bin) in cache.bins() {
            let meta = self.meta(bin.page()).expect("a span in a cache has metadata");
            let (group, bits) = bin.rest();
            if bits != 0 {
                meta.hand_out(group, bits, true);
                black += bin.rest_bytes();
            }
        }
        black += self.blacken_crumbs(cache);
        self.add_black(Bytes(black));
    }

    /// Takes back all that a cache holds: it is empty then, and all it allocated is in the books. While it marks, the
    /// world stands still.
    pub fn flush(&self, cache: &mut ObjectCache, work: &mut ObjectWork<'_, '_>) {
        cache.crumbs.drop_rest();
        self.tell(cache);
        for class in cache.drain() {
            let bin = &mut cache.bins[class.0 as usize];
            if bin.groups == 0 {
                continue;
            }
            let (group, rest) = bin.rest();
            let (bytes, count) = (Bytes(bin.rest_bytes()), rest.count_ones());
            let first = bin.page();
            (bin.bits, bin.groups, bin.taken) = (0, 0, bin.taken - count);
            let meta = self.meta(first).expect("a span in a cache has metadata");
            if rest != 0 {
                meta.allocs.0[group].fetch_and(!rest, Ordering::Relaxed);
                self.untake(bytes);
            }
            if rest != 0 && self.is_marking() {
                meta.marks.0[group].fetch_and(!rest, Ordering::Relaxed);
                meta.scans.0[group].fetch_and(!rest, Ordering::Relaxed);
            }
            self.post(cache, work, class);
            self.shelve(cache.purpose, class, meta, work);
        }
        let crumbs = cache.crumbs.uncounted();
        if crumbs > 0 {
            work.ground.ledger.post(|entry| entry.crumbs(crumbs));
        }
    }

    /// Puts a swept span that is in nobody's hands into its set, if it has free slots.
    pub(super) fn shelve(
        &self,
        purpose: PurposeId,
        class: SpanClass,
        meta: &PageMeta,
        work: &ObjectWork<'_, '_>,
    ) {
        if meta.allocs.count() < class.row().slots as usize {
            self.partial(purpose, class).push(meta.span(), work.ground.heap.links());
        }
    }
}

/// Clears the slots of a group, neighbours at once.
///
/// # Safety
/// The memory of those slots is the caller's.
unsafe fn clear(base: *mut u8, size: usize, mut bits: u64) {
    while bits != 0 {
        let from = bits.trailing_zeros();
        let run = (bits >> from).trailing_ones();
        // SAFETY: the slots from `from` on, as many as have their bits set in a row.
        unsafe { base.add(from as usize * size).write_bytes(0, run as usize * size) };
        bits &= u64::MAX.checked_shl(from + run).unwrap_or(0);
    }
}
