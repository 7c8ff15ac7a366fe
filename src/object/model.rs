//! The slow twin of the collected heap: every object in one map, with what it was filled with.
//!
//! It proves, of whatever is done to a heap beside it, that
//! 1. no object overlaps another one;
//! 2. what is new is zero, and aligned to 16 bytes;
//! 3. an object's contents change only when its holder writes;
//! 4. exactly those objects die in a cycle that were there when it began and were not reached.
//!
//! For tests and fuzzing, which use it from outside the crate: so it names nothing of the crate.
//!
//! # Safety
//! Objects are written and read through the pointers that the heap under test gave out. If it gave out nonsense, that is
//! what the test is there to find.

use std::collections::BTreeMap;

/// Bytes of objects above which only some words carry the pattern.
const ALL_WORDS_UP_TO: usize = 8 << 10;
/// The distance between the words of larger objects that do, in words.
const STRIDE: usize = 61;

/// An object.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its first byte.
    pub pointer: *mut u8,
    /// Bytes of its slot.
    pub size: usize,
    /// Whether it lives on in the cycle that runs.
    pub reached: bool,
    /// What its pattern follows from.
    seed: u64,
}

/// Every object that is alive.
#[derive(Default, Debug)]
pub struct Model {
    objects: BTreeMap<usize, Held>,
    made: u64,
    /// Whether what is new lives on in the cycle that runs.
    pub marking: bool,
}

// SAFETY: the pointers are the addresses of objects, which any thread may hold.
unsafe impl Send for Model {}

impl Held {
    /// The words that carry the pattern, and what each must hold.
    fn words(&self) -> impl Iterator<Item = (*mut u64, u64)> {
        let (pointer, seed, count) = (self.pointer.cast::<u64>(), self.seed, self.size / 8);
        let stride = if self.size <= ALL_WORDS_UP_TO { 1 } else { STRIDE };
        let last = count.checked_sub(1).filter(move |_| stride > 1);
        (0..count)
            .step_by(stride)
            .chain(last)
            .map(move |at| (pointer.wrapping_add(at), (seed ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    fn verify(&self) {
        for (at, word) in self.words() {
            // SAFETY: the words lie in the object, which is alive.
            let found = unsafe { at.read() };
            assert_eq!(found, word, "contents changed at {at:?} of {self:?}");
        }
    }
}

impl Model {
    /// Takes note of an object that was just handed out, and fills it.
    pub fn allocated(&mut self, pointer: *mut u8, size: usize) {
        self.made += 1;
        let held = Held { pointer, size, reached: self.marking, seed: self.made };
        assert!(!pointer.is_null() && pointer.addr().is_multiple_of(16), "{held:?}");
        self.assert_free(&held);
        // SAFETY: the words lie in the object, which is the test's.
        (0..size / 8).for_each(|at| unsafe {
            assert_eq!(pointer.cast::<u64>().add(at).read(), 0, "word {at} of {held:?} is not zero");
        });
        // SAFETY: as above.
        held.words().for_each(|(at, word)| unsafe { at.write(word) });
        self.objects.insert(pointer.addr(), held);
    }

    fn assert_free(&self, held: &Held) {
        let at = held.pointer.addr();
        if let Some((_, before)) = self.objects.range(..=at).next_back() {
            assert!(before.pointer.addr() + before.size <= at, "{held:?} overlaps {before:?}");
        }
        if let Some((&next, after)) = self.objects.range(at..).next() {
            assert!(at + held.size <= next, "{held:?} overlaps {after:?}");
        }
    }

    /// The cycle reaches an object: that at a place in the order of addresses. Returns it.
    pub fn reach(&mut self, place: usize) -> Option<Held> {
        let count = self.objects.len().max(1);
        let held = self.objects.values_mut().nth(place % count)?;
        held.reached = true;
        Some(*held)
    }

    /// The cycle ends: what was not reached is dead. Returns the dead.
    pub fn end_cycle(&mut self) -> Vec<Held> {
        self.marking = false;
        let dead = self.objects.extract_if(.., |_, held| !core::mem::take(&mut held.reached));
        let dead: Vec<_> = dead.map(|(_, held)| held).collect();
        dead.iter().for_each(Held::verify);
        dead
    }

    /// Every object.
    pub fn objects(&self) -> impl Iterator<Item = Held> {
        self.objects.values().copied()
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> usize {
        self.objects.values().map(|held| held.size).sum()
    }

    /// Looks at the contents of every object.
    pub fn verify(&self) {
        self.objects.values().for_each(Held::verify);
    }
}
