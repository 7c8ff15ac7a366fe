//! Portions: how allocations are counted exactly, on fast paths that know nothing of it.
//!
//! A heap profile looks at one allocation in many, chosen by chance, and the fast path must stop at just that one. It
//! has no counter, and gets none. It only takes blocks from a free list until the list is empty; so it is given lists that
//! are short enough. While a cache is *counted*, what its fast path takes from is not the current span but the
//! *front* of its class's portion, which looks like one:
//!
//! ```text
//!   direct[size/16] ─┐                  deal: free blocks, a few dozen at most,
//!   bins[class]: current ──▶ front      and fewer than allocations until the sample
//!                             ▲
//!                             └──── free ──── the current span ◀── frees of the owner go here
//! ```
//!
//! Blocks that are freed go to their span, as always, and so never into the front: what the front has was dealt, and
//! how many of them were taken says the front's `trip`. When it is empty, the owner counts what was taken and deals again
//! ([`BlockCache::allocate_counted`]), for which it needs no lock: it is what a fast path may do, in more instructions.
//! Where the current span has nothing to deal, the slow path finds another. If exactly one allocation is left until the
//! sample, that is the present one, and the slow path's as well.
//!
//! Blocks that were dealt count as in use in their span (`trip`), and carry the mark of free ones. A cache that is not
//! counted has no portions, and nothing is different for it.
//!
//! The room does not know what becomes of a sample.
//!
//! # Safety
//! Portions belong to their cache, and are touched by whoever may touch that.

use super::body::{BlockSpan, FreeBlock};
use super::cache::{BlockCache, empty_span, pop};
use crate::base::class::{CLASSES, MAX_SMALL, SizeClass};
use crate::base::random::Random;
use crate::base::sampling;
use crate::os::Zeroed;
use core::ptr;

/// The most blocks of a portion. What is freed meanwhile waits behind it, and leaves the first cache the sooner the longer
/// the portion is; but each deal takes as long as some allocations.
const MOST_DEALT: u64 = 32;

/// What the fast path of one class takes from.
#[repr(C)]
pub struct Portion {
    /// Only `free` and `trip` mean anything: blocks that were dealt, and how many of them were taken.
    front: BlockSpan,
    /// The class's current span, or the empty one.
    span: *mut BlockSpan,
    /// Blocks that were dealt, those that were taken included.
    dealt: u32,
    /// Allocations up to the next sample, when `dealt` was last looked at.
    until: u64,
}

/// The portions of a cache, and how samples are chosen.
#[repr(C, align(64))]
pub struct Portions {
    /// Bytes between samples, on average.
    mean: f64,
    random: Random,
    /// Bytes up to the next sample among the blocks that have a span to themselves.
    large: f64,
    by_class: [Portion; CLASSES],
}

// SAFETY: zeros are not portions, but memory for them: `BlockCache::count_from` fills it before use.
unsafe impl Zeroed for Portions {}

impl Portion {
    /// Blocks that were dealt and not taken. A `fork` may have caught the owner while it was dealing: then the counts of the
    /// child disagree, and rather too few are left than too many.
    fn left(&self) -> u32 {
        self.dealt.saturating_sub(self.front.trip)
    }

    /// Counts what the fast path has taken.
    fn settle(&mut self) {
        let taken = core::mem::take(&mut self.front.trip);
        debug_assert!(u64::from(taken) < self.until, "{taken} taken, {} until the sample", self.until);
        self.dealt = self.dealt.saturating_sub(taken);
        self.until = self.until.saturating_sub(u64::from(taken));
    }
}

impl BlockCache {
    /// Bytes between samples, if the cache is counted.
    pub fn counted(&self) -> Option<f64> {
        // SAFETY: portions live as long as the cache uses them, and the caller may touch the cache.
        unsafe { self.portions.as_ref() }.map(|portions| portions.mean)
    }

    /// The span that blocks of a class are taken from, or the empty one.
    pub(super) fn current(&self, class: SizeClass) -> *mut BlockSpan {
        // SAFETY: as above.
        match unsafe { self.portions.as_ref() } {
            Some(portions) => portions.by_class[class.0 as usize].span,
            None => self.bins[class.0 as usize].current,
        }
    }

    /// Begins to count, with a sample after `mean` bytes on average. `portions` is kept until [`BlockCache::count_no_more`].
    ///
    /// # Safety
    /// As for every function of a cache; `portions` is memory that nobody uses, and the cache is not counted.
    pub unsafe fn count_from(this: *mut BlockCache, portions: *mut Portions, mean: f64, random: Random) {
        // SAFETY: the caller's promise; all of the memory is written before it is used.
        unsafe {
            debug_assert!((*this).portions.is_null());
            (*portions).mean = mean;
            (&raw mut (*portions).random).write(random);
            (*portions).large = sampling::distance(&mut (*portions).random, mean);
            for class in SizeClass::all() {
                let until = sampling::allocations(&mut (*portions).random, mean, class.size());
                let span = (*this).bins[class.0 as usize].current;
                let portion = &raw mut (*portions).by_class[class.0 as usize];
                portion.write(Portion { front: BlockSpan::empty(), span, dealt: 0, until });
                (*this).lead(class, &raw mut (*portion).front);
            }
            (*this).portions = portions;
        }
    }

    /// Counts no more. Returns the memory of the portions, if there were any.
    ///
    /// # Safety
    /// As for every function of a cache.
    pub unsafe fn count_no_more(this: *mut BlockCache) -> Option<ptr::NonNull<Portions>> {
        // SAFETY: the caller may touch the cache.
        unsafe {
            let portions = ptr::NonNull::new((*this).portions)?;
            for class in SizeClass::all() {
                BlockCache::undeal(this, class);
                let span = (*this).current(class);
                (*this).lead(class, span);
            }
            (*this).portions = ptr::null_mut();
            Some(portions)
        }
    }

    /// Makes `span` the current one of a counted cache. Returns whether the cache is counted.
    pub(super) fn set_counted(&mut self, class: SizeClass, span: *mut BlockSpan) -> bool {
        // SAFETY: the cache has its portions to itself, and it is borrowed.
        let Some(portions) = (unsafe { self.portions.as_mut() }) else { return false };
        let portion = &mut portions.by_class[class.0 as usize];
        debug_assert_eq!(portion.left(), 0, "blocks of another span are dealt");
        portion.span = span;
        true
    }

    /// Whether the allocation that is being made is the one to be sampled. Then the next one has been chosen. To be
    /// asked once for each allocation that comes here, before [`BlockCache::take`].
    ///
    /// # Safety
    /// As for every function of a cache.
    pub unsafe fn is_due(this: *mut BlockCache, class: SizeClass) -> bool {
        // SAFETY: the caller may touch the cache, and so its portions.
        unsafe {
            let Some(portions) = (*this).portions.as_mut() else { return false };
            let portion = &mut portions.by_class[class.0 as usize];
            portion.settle();
            if portion.until > 1 {
                return false;
            }
            debug_assert_eq!(portion.left(), 0, "dealt beyond the sample");
            portion.until = sampling::allocations(&mut portions.random, portions.mean, class.size());
            true
        }
    }

    /// The same for a block of `size` bytes that has a span to itself.
    ///
    /// # Safety
    /// As for every function of a cache.
    pub unsafe fn is_large_due(this: *mut BlockCache, size: usize) -> bool {
        // SAFETY: the caller may touch the cache, and so its portions.
        let Some(portions) = (unsafe { (*this).portions.as_mut() }) else { return false };
        if size as f64 <= portions.large {
            portions.large -= size as f64;
            return false;
        }
        portions.large = sampling::distance(&mut portions.random, portions.mean);
        true
    }

    /// Takes a block of at least `size` bytes where the fast path found none, if only the front of a counted cache was
    /// empty: deals again from the current span. Null where the cache is not counted, the sample is due, or the span has
    /// nothing to deal: the slow path is next.
    ///
    /// # Safety
    /// As for the fast path, [`BlockCache::allocate`].
    #[inline]
    pub unsafe fn allocate_counted(this: *mut BlockCache, size: usize) -> *mut u8 {
        // SAFETY: the owner's thread uses its own cache, portions and current span.
        unsafe {
            if (*this).portions.is_null() || size > MAX_SMALL {
                return ptr::null_mut();
            }
            let class = SizeClass::of_small(size);
            let dealt = BlockCache::take_dealt(this, class);
            if !dealt.is_null() {
                return dealt.cast();
            }
            let portion = &mut (*(*this).portions).by_class[class.0 as usize];
            portion.settle();
            if portion.until <= 1 {
                return ptr::null_mut();
            }
            let block = pop(portion.span);
            if !block.is_null() {
                BlockCache::deal(this, class);
            }
            block.cast()
        }
    }

    /// Takes a block that was dealt, if there is one.
    pub(super) unsafe fn take_dealt(this: *mut BlockCache, class: SizeClass) -> *mut FreeBlock {
        // SAFETY: the caller may touch the cache, and so its portions.
        unsafe {
            match (*this).portions.as_mut() {
                Some(portions) => pop(&raw mut portions.by_class[class.0 as usize].front),
                None => ptr::null_mut(),
            }
        }
    }

    /// Counts a block that was taken from the current span past the front, and deals the free ones of that, short of
    /// the next sample.
    pub(super) unsafe fn deal(this: *mut BlockCache, class: SizeClass) {
        // SAFETY: the caller may touch the cache, its portions and its current span; the blocks of a free list are free,
        // and as many as the counts say.
        unsafe {
            let Some(portions) = (*this).portions.as_mut() else { return };
            let portion = &mut portions.by_class[class.0 as usize];
            debug_assert_eq!(portion.left(), 0, "dealt before all was taken");
            portion.settle();
            portion.until = (portion.until - 1).max(1);
            let span = portion.span;
            let free = (*span).carved - (*span).trip;
            let count = u64::from(free).min(portion.until - 1).min(MOST_DEALT) as u32;
            if count == 0 {
                return;
            }
            // The span gives its blocks up before the front has them, so that no two have one.
            let first = (*span).free;
            if count == free {
                (*span).free = ptr::null_mut();
            } else {
                let mut last = first;
                for _ in 1..count {
                    last = (*last).next;
                }
                (*span).free = (*last).next;
                (*last).next = ptr::null_mut();
            }
            (*span).trip += count;
            portion.front.free = first;
            portion.dealt += count;
        }
    }

    /// Puts what was dealt and not taken back into the current span.
    pub(super) unsafe fn undeal(this: *mut BlockCache, class: SizeClass) {
        // SAFETY: the caller may touch the cache, its portions and its current span, whose blocks these are.
        unsafe {
            let Some(portions) = (*this).portions.as_mut() else { return };
            let portion = &mut portions.by_class[class.0 as usize];
            portion.settle();
            let first = core::mem::replace(&mut portion.front.free, ptr::null_mut());
            if first.is_null() {
                return;
            }
            let mut last = first;
            while !(*last).next.is_null() {
                last = (*last).next;
            }
            (*last).next = (*portion.span).free;
            (*portion.span).free = first;
            (*portion.span).trip -= core::mem::take(&mut portion.dealt);
        }
    }

    /// Blocks of a span that are dealt and not taken: they count as in use there, and are not.
    pub(super) fn dealt_of(&self, span: *const BlockSpan, class: SizeClass) -> u32 {
        // SAFETY: the caller may touch the cache, and so its portions.
        let Some(portions) = (unsafe { self.portions.as_ref() }) else { return 0 };
        let portion = &portions.by_class[class.0 as usize];
        if ptr::eq(portion.span, span) { portion.left() } else { 0 }
    }

    /// What a class's portion has: the first block that was dealt, and how many there should be; and whether the next
    /// sample lies behind all of them.
    #[cfg(not(loom))]
    pub(super) fn dealt(&self, class: SizeClass) -> (*const FreeBlock, u32, bool) {
        // SAFETY: the caller may touch the cache, and so its portions.
        let Some(portions) = (unsafe { self.portions.as_ref() }) else { return (ptr::null(), 0, true) };
        let portion = &portions.by_class[class.0 as usize];
        (portion.front.free, portion.left(), u64::from(portion.dealt) < portion.until)
    }

    /// The address that the fast path of a class should find, if the cache is counted.
    #[cfg(not(loom))]
    pub(super) fn front_of(&self, class: SizeClass) -> *const BlockSpan {
        // SAFETY: the caller may touch the cache, and so its portions.
        match unsafe { self.portions.as_ref() } {
            Some(portions) => &raw const portions.by_class[class.0 as usize].front,
            None => self.bins[class.0 as usize].current,
        }
    }

    /// Whether a span is there to take from.
    pub(super) fn is_current(&self, class: SizeClass) -> bool {
        self.current(class) != empty_span()
    }
}
