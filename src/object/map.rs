//! Where pointers are, of the objects of a page: beside the objects, not in them.
//!
//! Pages whose objects have shapes have 128 bytes here, used in one of two ways:
//!
//! - [`SpanKind::Mapped`](super::SpanKind::Mapped), sizes up to 512: a bit for each word of the page, set where a pointer
//!   may be. An object's bits are written when it is allocated. A group of 64 slots has whole words of bits, so
//!   whoever has a span in his cache writes its bits without an atomic operation.
//! - [`SpanKind::Headed`](super::SpanKind::Headed), larger sizes: the numbers of the objects' shapes, by slot, 32 a page. A page
//!   has at most 14 such objects, so they fit. Elsewhere such a number stands in front of the object and makes a
//!   kibibyte take more than a kibibyte.
//!
//! The collector reads what it finds here only for objects that it has marked and that were not allocated since it
//! began. The world stood still in between, so relaxed loads and stores do.
//!
//! # Safety
//! The memory is looked at as words of bits or as numbers of half a word, both atomic; zeros are both.

use super::ShapeId;
use crate::base::{PAGE_SIZE, PageId};
use crate::os::Zeroed;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Words of a page.
pub const PAGE_WORDS: usize = PAGE_SIZE / 8;
/// Shape numbers that a page has room for.
const SHAPES: usize = PAGE_WORDS / 32;

/// Where pointers are, of the objects of one page.
#[repr(C, align(128))]
pub struct PageMap([AtomicU64; PAGE_WORDS / 64]);

// SAFETY: numbers that threads share.
unsafe impl Zeroed for PageMap {}

const _: () = assert!(size_of::<PageMap>() == 128);

impl PageMap {
    /// The bits, one a word of the page.
    #[inline]
    pub fn bits(&self) -> &[AtomicU64; PAGE_WORDS / 64] {
        &self.0
    }

    /// The bits of up to 64 words from `word` on; those behind `count` are zero.
    #[inline]
    pub fn get(&self, word: usize, count: usize) -> u64 {
        debug_assert!((1..=64).contains(&count) && word + count <= PAGE_WORDS);
        let (at, shift) = (word / 64, word % 64);
        let mut bits = self.0[at].load(Ordering::Relaxed) >> shift;
        if shift + count > 64 {
            bits |= self.0[at + 1].load(Ordering::Relaxed) << (64 - shift);
        }
        bits & mask(count)
    }

    /// Sets the bits of up to 64 words from `word` on. Nobody else writes those of the same span meanwhile.
    #[inline]
    pub fn set(&self, word: usize, count: usize, bits: u64) {
        debug_assert!((1..=64).contains(&count) && word + count <= PAGE_WORDS);
        debug_assert_eq!(bits & !mask(count), 0, "bits behind the {count} that are set");
        let (at, shift) = (word / 64, word % 64);
        let replace = |at: usize, mask: u64, bits: u64| {
            let cell = &self.0[at];
            cell.store(cell.load(Ordering::Relaxed) & !mask | bits, Ordering::Relaxed);
        };
        replace(at, mask(count) << shift, bits << shift);
        if shift + count > 64 {
            replace(at + 1, mask(count) >> (64 - shift), bits >> (64 - shift));
        }
    }

    /// The place of a shape's number.
    #[inline]
    fn shape(&self, slot: usize) -> &AtomicU32 {
        let cell = &self.0[slot / 2 % (SHAPES / 2)];
        // SAFETY: half of a word of this map, aligned as such, and only ever looked at atomically.
        unsafe { &*core::ptr::from_ref(cell).cast::<AtomicU32>().add(slot % 2) }
    }
}

/// So many low bits.
#[inline]
const fn mask(count: usize) -> u64 {
    u64::MAX >> (64 - count)
}

impl super::Objects {
    /// The pointer bits or shape numbers of a page; `None` where no objects with shapes ever were.
    #[inline]
    pub fn page_map(&self, page: PageId) -> Option<&PageMap> {
        self.maps.get(page.0)
    }

    /// The shape of a slot of a headed span.
    #[inline]
    pub fn shape_at(&self, first: PageId, slot: usize) -> ShapeId {
        let map = self.maps.get(first.0 + slot / SHAPES);
        map.map_or(ShapeId::PLAIN, |map| ShapeId(map.shape(slot).load(Ordering::Relaxed)))
    }

    /// Notes the shape of a slot of a headed span, which the caller has in his cache.
    ///
    /// # Panics
    /// When no headed span is there.
    #[inline]
    pub fn set_shape_at(&self, first: PageId, slot: usize, shape: ShapeId) {
        let map = self.maps.get(first.0 + slot / SHAPES).expect("headed spans have maps");
        map.shape(slot).store(shape.0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::class::CLASSES;
    use crate::object::class::{MAX_ONE_PAGE, TABLE};
    use proptest::prelude::*;

    fn empty() -> PageMap {
        PageMap(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    proptest! {
        #[test]
        fn bits_are_what_was_set_last(
            sets in prop::collection::vec((0..PAGE_WORDS, 1..=64usize, any::<u64>()), 0..40),
            gets in prop::collection::vec((0..PAGE_WORDS, 1..=64usize), 10),
        ) {
            let (map, mut twin) = (empty(), [false; PAGE_WORDS]);
            for (word, count, bits) in sets {
                let count = count.min(PAGE_WORDS - word);
                let bits = bits & mask(count);
                map.set(word, count, bits);
                (0..count).for_each(|i| twin[word + i] = bits >> i & 1 == 1);
            }
            for (word, count) in gets {
                let count = count.min(PAGE_WORDS - word);
                let wanted = (0..count).map(|i| u64::from(twin[word + i]) << i).sum::<u64>();
                prop_assert_eq!(map.get(word, count), wanted);
            }
        }
    }

    #[test]
    fn every_headed_slot_has_a_place_of_its_own() {
        for row in TABLE.iter().take(CLASSES).filter(|row| row.size as usize > MAX_ONE_PAGE) {
            assert!(row.slots as usize <= row.pages as usize * SHAPES, "{row:?}");
        }
        let map = empty();
        (0..SHAPES).for_each(|slot| map.shape(slot).store(slot as u32 + 1, Ordering::Relaxed));
        assert!((0..SHAPES).all(|slot| map.shape(slot).load(Ordering::Relaxed) == slot as u32 + 1));
    }

    #[test]
    fn groups_of_mapped_slots_share_no_word() {
        for row in TABLE.iter().filter(|row| row.size as usize <= MAX_ONE_PAGE) {
            assert_eq!(crate::object::meta::GROUP * (row.size as usize / 8) % 64, 0);
        }
    }
}
