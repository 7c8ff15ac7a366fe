//! Which words of one object may be pointers, as masks of 64 words, from any word on.
//!
//! A map is a row of equal elements (see [`shape`](super::shape)), of which only the first is written down. A marker
//! asks for the masks of a stretch: large objects are scanned in pieces. Elements without pointers in them are walked
//! over word by word of bits, the tails of elements and of the object in one step.
//!
//! 1. The masks of a stretch have exactly the bits that the shape has there, in ascending order.
//! 2. No word behind the object's last pointer is ever named.

use super::program::{low, read_bits};
use super::shape::{MASK_WORDS, WORD};
use crate::base::Bytes;

/// The pointer bits of one object: a row of elements, cut off at the object's prefix.
#[derive(Clone, Copy, Debug)]
pub struct PointerMap<'a> {
    /// The bits of an element, up to its prefix at least.
    pub(super) bits: &'a [u64],
    /// Words of an element up to its last pointer.
    pub(super) prefix: usize,
    /// Words from one element to the next.
    pub(super) period: usize,
    /// Words of the object up to its last pointer.
    pub(super) end: usize,
}

/// The words of a stretch of an object that may be pointers: masks of at most 64 words.
#[derive(Clone, Debug)]
pub struct Masks<'a> {
    map: PointerMap<'a>,
    /// The word to be looked at next, in the object and in its element.
    at: usize,
    inside: usize,
}

impl<'a> PointerMap<'a> {
    /// The map of `words` words, each of which may be a pointer.
    pub fn all(words: usize) -> PointerMap<'a> {
        PointerMap { bits: &[u64::MAX], prefix: 64, period: 64, end: words }
    }

    /// Bytes up to the last pointer.
    pub fn prefix(&self) -> Bytes {
        Bytes(self.end * WORD)
    }

    /// The words from `first` that may be pointers, below word `end`.
    #[inline]
    pub fn masks(&self, first: usize, end: usize) -> Masks<'a> {
        let map = PointerMap { end: end.min(self.end), ..*self };
        Masks { map, at: first, inside: first % self.period }
    }

    /// The mask of an object of at most 64 words.
    pub(super) fn small_mask(&self) -> u64 {
        self.masks(0, MASK_WORDS).fold(0, |mask, (at, bits)| mask | bits << at)
    }
}

impl Iterator for Masks<'_> {
    /// A word of the object, and which of the 64 words from there may be pointers: at least one.
    type Item = (usize, u64);

    #[inline]
    fn next(&mut self) -> Option<(usize, u64)> {
        loop {
            if self.at >= self.map.end {
                return None;
            }
            if self.inside >= self.map.prefix {
                self.at += self.map.period - self.inside;
                self.inside = 0;
                continue;
            }
            let n = (self.map.prefix - self.inside).min(64);
            let mask = read_bits(self.map.bits, self.inside, n) & low(self.map.end - self.at);
            let at = self.at;
            self.at += n;
            self.inside += n;
            if mask != 0 {
                return Some((at, mask));
            }
        }
    }
}
