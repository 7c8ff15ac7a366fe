//! When to collect, where marking happens while the world stands.
//!
//! Then no goal has to be reached in time, so this is simpler than the [pacer](super::pace): one figure, the live bytes at which
//! the next collection begins. Beyond what is alive it leaves
//!
//! ```text
//!   extra  = weight · (30 % + 30 % · patience)
//!   weight = bytes looked at, of objects and roots + half of the objects without pointers
//! ```
//!
//! since what a collection costs are words to be looked at. Two things keep the peak low where that costs little time:
//!
//! - *Patience grows.* A program that builds something up, or ends soon, marks its heap a few times in all, however little is
//!   left over: with 30 %, all collections on the way to a size together mark four times that much. One that goes on for long
//!   would pay so much again and again. So patience is 0 until the heap's largest weight was marked [`FEW`] times, and 1
//!   when it was marked [`MANY`] times. What counts is bytes, not time: a run is paced like the one before.
//! - *What was taken is used.* A heap that was larger before collects when it is as large again, as far as memory was not given
//!   back since: collecting sooner would save nothing.
//!
//! 1. The goal is at least what is alive and at least the minimum.
//! 2. The more often the same is marked, the more is left over.

use crate::base::Bytes;

/// The divisor at which the extra is that of this file's head; it is that much larger or smaller for others.
pub const DIVISOR: usize = 3;

/// Parts of the weight, in percent: without patience and with all of it.
const LEAST: u64 = 30;
const MOST: u64 = 60;
/// How often a heap is marked until patience grows, and until it grows no more.
const FEW: u64 = 8;
const MANY: u64 = 24;

/// What a collection found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Live bytes when marking ended.
    pub had: Bytes,
    /// Bytes that are alive.
    pub marked: Bytes,
    /// Of those, bytes that were looked at.
    pub scanned: Bytes,
    /// Bytes of stacks and other roots that were looked at.
    pub roots: Bytes,
}

/// What all collections so far found.
#[derive(Clone, Debug)]
pub struct Patience {
    /// The goal's lower bound.
    minimum: Bytes,
    /// The weights of all collections together, and the largest one.
    weights: u64,
    largest: u64,
    /// The most live bytes that there were and that there still is memory for.
    had: Bytes,
}

impl Patience {
    /// Before the first collection.
    pub const fn new(minimum: Bytes) -> Patience {
        Patience { minimum, weights: 0, largest: 0, had: Bytes::ZERO }
    }

    /// After a collection, with so many bytes of memory that were not given back: the live bytes at which the next one
    /// begins. Of a larger `divisor` follows less room, see [`DIVISOR`].
    pub fn settle(&mut self, found: &Found, committed: Bytes, divisor: usize) -> Bytes {
        let plain = found.marked.0.saturating_sub(found.scanned.0);
        let weight = (found.scanned + found.roots).0 as u64 + plain as u64 / 2;
        self.weights = self.weights.saturating_add(weight);
        self.largest = self.largest.max(weight);
        self.had = self.had.max(found.had).min(committed);
        let extra = u128::from(self.extra(weight)) * DIVISOR as u128 / divisor.max(1) as u128;
        let extra = usize::try_from(extra).unwrap_or(usize::MAX);
        Bytes(found.marked.0.saturating_add(extra)).max(self.had).max(self.minimum)
    }

    /// What may be allocated beside what is live.
    fn extra(&self, weight: u64) -> u64 {
        let times = self.weights / self.largest.max(1);
        let patience = times.clamp(FEW, MANY) - FEW;
        weight / 100 * (LEAST + (MOST - LEAST) * patience / (MANY - FEW))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINIMUM: Bytes = Bytes::mib(4);
    const MUCH: Bytes = Bytes::mib(1 << 20);

    /// A collection of so many bytes, all of which are words, that left so many.
    fn words(had: usize, marked: usize) -> Found {
        Found { had: Bytes(had), marked: Bytes(marked), scanned: Bytes(marked), roots: Bytes::ZERO }
    }

    fn first(found: &Found, divisor: usize) -> usize {
        Patience::new(MINIMUM).settle(found, MUCH, divisor).0
    }

    #[test]
    fn a_heap_that_is_built_up_has_little_room_and_is_marked_few_times() {
        let mut patience = Patience::new(MINIMUM);
        let mut goal = MINIMUM.0;
        while goal < Bytes::mib(1000).0 {
            let next = patience.settle(&words(goal, goal), MUCH, DIVISOR).0;
            assert_eq!(next, goal + goal / 100 * LEAST as usize);
            goal = next;
        }
        assert!(patience.weights < 5 * patience.largest);
    }

    #[test]
    fn a_heap_that_is_marked_again_and_again_gets_more_room_up_to_a_bound() {
        let mut patience = Patience::new(MINIMUM);
        let goals: Vec<_> =
            (0..100).map(|_| patience.settle(&words(0, 100_000_000), MUCH, DIVISOR).0).collect();
        assert!(goals.is_sorted());
        assert_eq!(goals[..FEW as usize], [130_000_000; FEW as usize]);
        assert_eq!(goals[MANY as usize..], [160_000_000; 100 - MANY as usize]);
    }

    #[test]
    fn objects_without_pointers_earn_half_and_roots_as_much() {
        let plain = Found { scanned: Bytes::ZERO, ..words(0, 100_000_000) };
        assert_eq!(first(&plain, DIVISOR), 115_000_000);
        let with_roots = Found { roots: Bytes(10_000_000), ..words(0, 100_000_000) };
        assert_eq!(first(&with_roots, DIVISOR), 133_000_000);
    }

    #[test]
    fn a_larger_divisor_leaves_less_room() {
        assert_eq!(first(&words(0, 100_000_000), 1), 190_000_000);
        assert_eq!(first(&words(0, 100_000_000), 9), 110_000_000);
    }

    #[test]
    fn memory_that_was_taken_is_used_until_it_goes_back() {
        let mut patience = Patience::new(MINIMUM);
        let mut goal = |had: usize, marked: usize, committed| {
            patience.settle(&words(had << 20, marked << 20), Bytes::mib(committed), DIVISOR)
        };
        assert_eq!(goal(200, 50, 1000), Bytes::mib(200));
        assert_eq!(goal(200, 10, 1000), Bytes::mib(200));
        assert_eq!(goal(100, 10, 80), Bytes::mib(80));
        assert_eq!(goal(70, 10, 1000), Bytes::mib(80));
    }

    proptest! {
        #[test]
        fn the_goal_is_never_below_what_is_alive(
            collections in prop::collection::vec((0..u64::MAX / 4, 0..u64::MAX / 4, 0..1usize << 40), 1..20),
            divisor in 0..100usize,
        ) {
            let mut patience = Patience::new(MINIMUM);
            for (scanned, plain, committed) in collections {
                let marked = Bytes((scanned + plain) as usize);
                let found = Found { scanned: Bytes(scanned as usize), ..words(marked.0, marked.0) };
                let goal = patience.settle(&found, Bytes(committed), divisor);
                prop_assert!(goal >= marked && goal >= MINIMUM);
            }
        }
    }
}
