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
    pub fn clear(&self) {
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
    /// Whether the span is not swept in this generation.
    #[inline]
    pub(super) fn is_unswept(&self, generation: u32) -> bool {
        self.swept.load(Ordering::Acquire) != generation
    }

    /// Whether a slot's object is dead and waits to be swept.
    pub(super) fn is_condemned(&self, index: usize, generation: u32) -> bool {
        // Marks go after the span counts as swept: who finds none there, and the span still unswept, has seen them.
        self.is_unswept(generation)
            && !self.marks.has(index, Ordering::Acquire)
            && self.is_unswept(generation)
    }

    /// Makes this thread the one who sweeps the span. It fails if the span is swept, or another thread is at it.
    pub(super) fn claim(&self, generation: u32) -> bool {
        let (waits, being_swept) = (generation.wrapping_sub(2), generation.wrapping_sub(1));
        self.swept.compare_exchange(waits, being_swept, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends the sweeping of a span whose `allocs` are its marks by now.
    pub(super) fn settle(&self, generation: u32) {
        self.swept.store(generation, Ordering::Release);
        self.marks.clear();
        self.scans.clear();
    }

    /// Makes slots of a group allocated; while marking, marked and done with before.
    pub(super) fn hand_out(&self, group: usize, bits: u64, marking: bool) {
        if marking {
            self.scans.0[group].fetch_or(bits, Ordering::Relaxed);
            self.marks.0[group].fetch_or(bits, Ordering::Release);
        }
        self.allocs.0[group].fetch_or(bits, Ordering::Release);
    }

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

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    fn fresh(swept: u32) -> PageMeta {
        let bits = || Bits(std::array::from_fn(|_| AtomicU64::new(0)));
        PageMeta {
            owned: AtomicU32::new(0),
            swept: AtomicU32::new(swept),
            span: AtomicU32::new(0),
            pages: AtomicU32::new(1),
            shape: AtomicU32::new(0),
            attached: AtomicU8::new(0),
            dirty: AtomicU8::new(0),
            marks: bits(),
            scans: bits(),
            allocs: bits(),
        }
    }

    /// Two threads want to sweep a span, one does; and a third never thinks that a marked object is dead.
    #[test]
    fn loom_one_sweeps_and_what_is_marked_is_never_condemned() {
        loom::model(|| {
            let meta = Arc::new(fresh(2));
            meta.allocs.0[0].store(0b11, Ordering::Relaxed);
            meta.marks.0[0].store(0b01, Ordering::Relaxed);
            let sweep = |meta: &PageMeta| {
                let claimed = meta.claim(4);
                if claimed {
                    meta.allocs.0[0].store(meta.marks.0[0].load(Ordering::Relaxed), Ordering::Relaxed);
                    meta.settle(4);
                }
                claimed
            };
            let other = {
                let meta = meta.clone();
                loom::thread::spawn(move || sweep(&meta))
            };
            let reader = {
                let meta = meta.clone();
                loom::thread::spawn(move || {
                    assert!(!meta.is_condemned(0, 4), "a marked object was condemned")
                })
            };
            let mine = sweep(&meta);
            assert_ne!(mine, other.join().unwrap());
            reader.join().unwrap();
            assert_eq!(meta.allocs.0[0].load(Ordering::Relaxed), 0b01);
            assert!(!meta.is_unswept(4));
        });
    }

    /// While marking, whoever sees that a slot is allocated sees that it is marked, and done with.
    #[test]
    fn loom_what_is_handed_out_is_seen_marked() {
        loom::model(|| {
            let meta = Arc::new(fresh(2));
            let mutator = {
                let meta = meta.clone();
                loom::thread::spawn(move || meta.hand_out(0, 0b110, true))
            };
            if meta.allocs.has(1, Ordering::Acquire) {
                assert!(!meta.marks.set(1), "a slot was handed out before it was marked");
                assert!(meta.scans.has(1, Ordering::Relaxed), "marked before it was done with");
            }
            mutator.join().unwrap();
        });
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
