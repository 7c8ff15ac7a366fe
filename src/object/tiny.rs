//! Crumbs: things without pointers, smaller than 16 bytes, several of which share one object of 16.
//!
//! A cache fills one block after the other. Any pointer into a block keeps the whole of it alive, and its neighbours
//! with it: that is the price. So a crumb cannot have attachments of its own.
//!
//! A block that is filled further while the collector marks was not handed out marked, so it is marked when marking
//! begins. It is dropped when the cache is flushed: from then on it lives as long as somebody points to it.
//!
//! # Safety
//! The block is a slot that the cache allocated; crumbs lie in it one behind the other.

use super::cache::ObjectCache;
use super::kind::{SpanClass, SpanKind};
use crate::base::sync::Ordering;
use crate::base::{Address, SizeClass};

/// Bytes that crumbs share.
pub const BLOCK: usize = 16;
/// What blocks are.
pub const BLOCK_CLASS: SpanClass = SpanClass::new(SpanKind::Plain, SizeClass(0));

/// The block that is being filled.
#[repr(C)]
pub(super) struct Crumbs {
    block: *mut u8,
    /// Bytes at its end that nobody has.
    left: usize,
    /// Crumbs that found room in a block that was there, and are not in the books.
    count: u64,
}

impl Crumbs {
    /// Crumbs since this was asked last.
    pub(super) fn uncounted(&mut self) -> u64 {
        core::mem::take(&mut self.count)
    }

    /// Lets go of the block.
    pub(super) fn drop_rest(&mut self) {
        self.left = 0;
    }
}

impl ObjectCache {
    /// So many zero bytes without pointers, at least one and less than 16, at a multiple of `align`, a power of two up to
    /// 16. Null when the cache has no slot of [`BLOCK_CLASS`]: then [`Objects::refill`](super::Objects::refill).
    #[inline]
    pub fn allocate_crumb(&mut self, size: usize, align: usize) -> *mut u8 {
        debug_assert!((1..BLOCK).contains(&size) && align.is_power_of_two() && align <= BLOCK);
        let at = (BLOCK - self.crumbs.left).next_multiple_of(align);
        if at + size <= BLOCK {
            self.crumbs.left = BLOCK - at - size;
            self.crumbs.count += 1;
            // SAFETY: the block has room for it.
            return unsafe { self.crumbs.block.add(at) };
        }
        let block = self.allocate_fast(BLOCK_CLASS);
        // The one with more room stays.
        if !block.is_null() && BLOCK - size > self.crumbs.left {
            self.crumbs.block = block;
            self.crumbs.left = BLOCK - size;
        }
        block
    }
}

impl super::Objects {
    /// Marks the block that a cache fills further. Returns how many bytes this marked.
    pub(super) fn blacken_crumbs(&self, cache: &ObjectCache) -> usize {
        if cache.crumbs.left == 0 {
            return 0;
        }
        let slot = self.slot_at(Address::of(cache.crumbs.block)).expect("a block is an object");
        let meta = self.meta(slot.first).expect("objects have metadata");
        meta.scans.set(slot.index);
        debug_assert!(meta.allocs.has(slot.index, Ordering::Relaxed));
        if meta.marks.set(slot.index) { BLOCK } else { 0 }
    }
}
