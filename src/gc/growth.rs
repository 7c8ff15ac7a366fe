//! What is expected of the next cycle when the heap grows, and what counts as live after one.
//!
//! The [pacer](super::pace) expects of a cycle what the last one was like. Two kinds of bytes are missing from that:
//!
//! - What a heap has grown by since. Mutators would begin to help only when more has been found than expected, and by
//!   then the goal is behind.
//! - Bytes that were allocated while marking. They are *black*: nobody has looked at them, so all are kept until the next cycle.
//!   If all counted as live, a program that allocates fast would be given the garbage among them twice over in its
//!   next goal, and the more, the longer marking takes.
//!
//! For both, the last cycles are the guide: by how much more they *reached*, in parts of what was *younger* than the cycle before
//! (the largest possible growth).
//!
//! ```text
//!   last cycle ends       this cycle begins           ends
//!        │ reached before ─────────────────────────────▶ │ reached now  ┐ growth = reached now − reached before
//!        │      ┌── younger ──┐ ┌──────── black ───────┐ │              ┘ grown  = growth / younger
//! ```
//!
//! A heap that does not grow loses as much as it keeps, whichever objects these are; so what is kept of black bytes is no guess
//! about single objects.
//!
//! 1. Expected growth ≤ what is younger; kept ≤ black.

/// Cycles that are remembered: many programs build something up, drop it, and build it up again.
const REMEMBERED: usize = 4;

/// How a heap has grown. Figures are bytes of objects.
#[derive(Clone, Debug)]
pub struct Growth {
    /// What the last cycle reached.
    reached: u64,
    /// What there was when the cycle that runs began.
    began_with: u64,
    grown: [f64; REMEMBERED],
}

impl Growth {
    /// Before the first cycle: all that is there may be reached.
    pub const fn new() -> Growth {
        Growth { reached: 0, began_with: 0, grown: [1.0; REMEMBERED] }
    }

    /// A cycle begins with `live` bytes. Returns by how much more it is likely to reach than the last one did.
    pub fn start(&mut self, live: u64) -> u64 {
        self.began_with = live;
        let part = self.grown.into_iter().fold(0.0, f64::max);
        ((part * self.younger() as f64) as u64).min(self.younger())
    }

    /// A cycle ends that has reached `reached` bytes; `black` bytes were allocated meanwhile. Returns how many of these count as
    /// live: all, as long as a goal of `percent` has them within the `room` that objects have without more memory
    /// from the system, since then garbage among them costs nothing; beyond that, as large a part as the heap has grown by.
    pub fn finish(&mut self, reached: u64, black: u64, percent: Option<u32>, room: u64) -> u64 {
        let growth = reached.saturating_sub(self.reached);
        let grown = (growth as f64 / self.younger().max(1) as f64).min(1.0);
        self.grown.rotate_left(1);
        self.grown[REMEMBERED - 1] = grown;
        self.reached = reached;
        let goal = (reached as u128 + black as u128) * (100 + u128::from(percent.unwrap_or(0))) / 100;
        if goal <= room as u128 { black } else { ((grown * black as f64) as u64).min(black) }
    }

    /// What there was when the cycle began, and not yet when the last one did, at the most.
    fn younger(&self) -> u64 {
        self.began_with.saturating_sub(self.reached)
    }
}

impl Default for Growth {
    fn default() -> Growth {
        Growth::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERCENT: Option<u32> = Some(100);

    /// A heap that keeps all it allocates: all is expected, and black bytes count whatever the room.
    #[test]
    fn a_heap_that_grows() {
        let mut growth = Growth::new();
        assert_eq!(growth.start(100), 100);
        assert_eq!(growth.finish(100, 20, PERCENT, 0), 20);
        assert_eq!(growth.start(220), 120);
        assert_eq!(growth.finish(220, 30, PERCENT, 0), 30);
    }

    /// One that is as large as before: nothing is expected in the end, and black bytes count while there is room for them.
    #[test]
    fn a_heap_that_stays() {
        let mut growth = Growth::new();
        growth.start(100);
        growth.finish(100, 0, PERCENT, 0);
        for _ in 0..REMEMBERED {
            growth.start(180);
            assert_eq!(growth.finish(100, 20, PERCENT, 239), 0);
        }
        assert_eq!(growth.start(180), 0);
        assert_eq!(growth.finish(100, 20, PERCENT, 240), 20);
    }

    /// One that half of what is new survives in, and then shrinks: the growth is remembered for some cycles.
    #[test]
    fn a_heap_that_comes_and_goes() {
        let mut growth = Growth::new();
        for _ in 0..REMEMBERED {
            growth.start(0);
            growth.finish(0, 0, PERCENT, 0);
        }
        growth.start(100);
        assert_eq!(growth.finish(50, 40, PERCENT, 0), 20);
        assert_eq!(growth.start(150), 50);
        for _ in 1..REMEMBERED {
            assert_eq!(growth.finish(10, 40, PERCENT, 0), 0);
            assert_eq!(growth.start(110), 50);
        }
        assert_eq!(growth.finish(10, 40, PERCENT, 0), 0);
        assert_eq!(growth.start(110), 0);
    }

    proptest! {
        #[test]
        fn figures_stay_within_bounds(
            cycles in prop::collection::vec((any::<[u64; 4]>(), prop::option::of(any::<u32>())), 1..20)
        ) {
            let (mut growth, mut before) = (Growth::new(), 0_u64);
            for ([live, reached, black, room], percent) in cycles {
                prop_assert!(growth.start(live) <= live.saturating_sub(before));
                prop_assert!(growth.finish(reached, black, percent, room) <= black);
                before = reached;
            }
        }
    }
}
