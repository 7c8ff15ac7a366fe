//! What is known of an object span: 256 bytes at its first page, apart from the objects.
//!
//! ```text
//!   head    who owns the page's marking, sweep generation, span, length, shape       1 line
//!   marks   reached in this cycle                                                    1 line
//!   scans   reached, and its pointers were followed or need not be                   1 line
//!   allocs  allocated, or handed to a mutator's cache                                1 line
//! ```
//!
//! A bit stands for a slot, by index. 64 slots are a *group*. Nothing here lies on the pages of the objects, so looking
//! for dead objects does not touch them.
//!
//! The memory is metadata of this room alone and stays so. Whoever finds it by an outdated way reads an old value or a
//! new one, and no other room's data.
//!
//! # Safety
//! All fields are atomic numbers, for which zeros are a value.

use super::class::MAX_SLOTS;
use crate::base::Pages;
use crate::base::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::os::Zeroed;
use crate::span::SpanId;

/// Slots in a group: those of a word of bits.
pub const GROUP: usize = 64;
/// Groups of the span with the most slots.
pub const GROUPS: usize = MAX_SLOTS / GROUP;

/// A bit for each slot of a span.
#[repr(C, align(64))]
pub struct Bits(pub [AtomicU64; GROUPS]);

/// What is known of an object span.
#[repr(C, align(256))]
pub struct PageMeta {
    /// For the collector: who looks after the page's marks while marking.
    pub owned: AtomicU32,
    /// The sweep generation in which the span was swept last; see [`sweep`](super::sweep).
    pub(super) swept: AtomicU32,
    /// The span's number.
    pub(super) span: AtomicU32,
    /// The span's pages.
    pub(super) pages: AtomicU32,
    /// Of a large object: its shape, as soon as its memory may be looked at; 0 before.
    pub(super) shape: AtomicU32,
    /// Whether something is attached to an object of the span.
    pub(super) attached: AtomicU8,
    /// A bit for each group: its free slots may hold something other than zeros. The span's holder writes it.
    pub(super) dirty: AtomicU8,
    /// Reached.
    pub marks: Bits,
    /// Reached, and done with.
    pub scans: Bits,
    /// Allocated, or handed to a mutator's cache.
    pub allocs: Bits,
}

// SAFETY: numbers that threads share: zeros are a span that nobody has opened.
unsafe impl Zeroed for PageMeta {}

#[cfg(not(loom))]
const _: () = assert!(size_of::<PageMeta>() == 256);

/// The bits of a group that stand for slots, of a span of `slots`.
#[inline]
pub const fn valid(group: usize, slots: usize) -> u64 {
    match slots.saturating_sub(group * GROUP) {
        GROUP.. => u64::MAX,
        rest => (1 << rest) - 1,
    }
}

impl Bits {
    /// Whether a slot's bit is set.
    #[inline]
    pub fn has(&self, index: usize, order: Ordering) -> bool {
        self.0[index / GROUP].load(order) >> (index % GROUP) & 1 == 1
    }

    /// Sets a slot's bit. Returns whether this call did.
    #[inline]
    pub fn set(&self, index: usize) -> bool {
        let (word, bit) = (&self.0[index / GROUP], 1 << (index % GROUP));
        // Most pointers lead to what is marked already, and a load leaves the line shared.
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// How many bits are set.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Whether no bit is set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// The indices of the bits that are set, from the lowest.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0
            .iter()
            .enumerate()
            .flat_map(|(group, word)| ones(word.load(Ordering::Acquire)).map(move |bit| group * GROUP + bit))
    }

    /// Sets all words to zero, with release. Nobody else changes them meanwhile.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Release));
    }
}

/// The numbers of the bits that are set, from the lowest.
pub fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

impl PageMeta {
    /// The span's number.
    #[inline]
    pub fn span(&self) -> SpanId {
        SpanId(self.span.load(Ordering::Relaxed))
    }

    /// The span's pages.
    #[inline]
    pub fn pages(&self) -> Pages {
        Pages(self.pages.load(Ordering::Relaxed) as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn empty() -> Bits {
        Bits(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    #[test]
    fn valid_bits_are_as_many_as_slots() {
        for slots in 0..=MAX_SLOTS {
            let ones: u32 = (0..GROUPS).map(|group| valid(group, slots).count_ones()).sum();
            assert_eq!(ones as usize, slots);
            assert!((0..slots).all(|index| valid(index / GROUP, slots) >> (index % GROUP) & 1 == 1));
        }
    }

    proptest! {
        #[test]
        fn bits_are_a_set(indices in proptest::collection::vec(0..MAX_SLOTS, 0..100)) {
            let (bits, mut twin) = (empty(), BTreeSet::new());
            for index in indices {
                prop_assert_eq!(bits.set(index), twin.insert(index));
            }
            prop_assert_eq!(bits.count(), twin.len());
            prop_assert_eq!(bits.is_empty(), twin.is_empty());
            prop_assert!(bits.iter().eq(twin.iter().copied()));
            prop_assert!((0..MAX_SLOTS).all(|i| bits.has(i, Ordering::Relaxed) == twin.contains(&i)));
            bits.clear();
            prop_assert!(bits.is_empty());
        }
    }
}
