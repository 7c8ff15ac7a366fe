//! The barrier's buffer: what a mutator has to shade, a little later.
//!
//! While marking, a mutator notes for every store of a pointer into an object or a root what the place held and what it
//! will hold, before it stores. (The room's essay says why both.) Here the two go into a short line, which is shaded
//! all at once: when it is full, and at the mutator's next safepoint if the collector asks. Until then they are as good
//! as shaded, since marking cannot end without asking every mutator.
//!
//! The buffer does not know whether marking is on: who does not call [`BarrierBuffer::push`] has no barrier.
//!
//! # Safety
//! Zeroed memory is an empty line.

use super::mark::{Marking, Worker};
use crate::os::Zeroed;

/// Words that a buffer holds.
pub const LENGTH: usize = 256;

/// A mutator's line of words to be shaded. Zeroed memory is an empty one.
#[repr(C)]
pub struct BarrierBuffer {
    count: usize,
    words: [usize; LENGTH],
}

// SAFETY: numbers.
unsafe impl Zeroed for BarrierBuffer {}

impl BarrierBuffer {
    /// An empty line.
    pub const fn new() -> BarrierBuffer {
        BarrierBuffer { count: 0, words: [0; LENGTH] }
    }

    /// Notes a store before it is made: what the place holds, and what it will hold. Any bit patterns are fine. Returns
    /// whether the line must be [flushed](BarrierBuffer::flush) before the next one.
    #[inline]
    #[must_use]
    pub fn push(&mut self, old: usize, new: usize) -> bool {
        for word in [old, new] {
            self.words[self.count % LENGTH] = word;
            // Nulls are common, and lead nowhere.
            self.count += usize::from(word != 0);
        }
        self.count > LENGTH - 2
    }

    /// Whether nothing is noted.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Shades what was noted.
    pub fn flush(&mut self, worker: &mut Worker, marking: &mut Marking<'_>) {
        worker.shade_all(&self.words[..self.count], marking);
        self.count = 0;
    }

    /// Forgets what was noted, when marking is over.
    pub fn clear(&mut self) {
        self.count = 0;
    }
}

impl Default for BarrierBuffer {
    fn default() -> BarrierBuffer {
        BarrierBuffer::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn nulls_take_no_room_and_a_full_line_says_so() {
        let mut buffer = BarrierBuffer::default();
        assert!((0..1000).all(|_| !buffer.push(0, 0)) && buffer.is_empty());
        let pushes = (1..).find(|&n| buffer.push(n, n)).unwrap();
        assert_eq!((pushes, buffer.count), (LENGTH / 2, LENGTH));
        buffer.clear();
        let pushes = (1..).find(|&n| buffer.push(0, n)).unwrap();
        assert_eq!((pushes, buffer.count), (LENGTH - 1, LENGTH - 1));
        assert!(buffer.words[..buffer.count].iter().copied().eq(1..LENGTH));
    }
}
