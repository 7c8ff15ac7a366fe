//! How much memory goes back, and how fast: numbers in, numbers out.
//!
//! *How much* ([`View::excess`]) follows from two goals. By percent: of what is in use, a tenth more may stay for the next
//! allocations; the longer nobody uses the heap, the less: each idle second halves it. By the limit: what is committed
//! shall stay below 95 % of it, so that growth seldom has to wait for memory to be given back first.
//!
//! *How fast* ([`Pacer`]): a hundredth of one processor's time. After each piece of work the thread rests so long that
//! its share comes out, as a PI controller learns from what the last pieces and rests really took. When
//! nobody has used any heap for a second, nobody is there to be disturbed, and a quarter is fair.
//!
//! The file knows no clock and no heap. (Go: `mgcscavenge.go`, `scavengerState`, `piController`; the controller's answers
//! are those recorded there, bit for bit. In Go the goal by percent follows from the collector's goal; here there is
//! no cycle, and the peak of the last generation stands for it.)

use crate::base::Bytes;
use crate::os::Nanoseconds;

/// Of what is in use, one part in so many stays free for the next allocations.
const RETAINED: usize = 10;
/// What is committed shall stay below so many percent of the limit.
const OF_LIMIT: u128 = 95;
/// After so many idle seconds nothing is retained.
const RETAINED_SECONDS: u32 = 8;
/// Less than this is not worth a system call, unless nobody uses the heap.
const WORTHWHILE: Bytes = Bytes::kib(64);

/// The share of a processor that the background may have.
const SHARE: f64 = 0.01;
/// The share of its own time that it works when nobody uses any heap.
const IDLE_SHARE: f64 = 0.25;
/// Less work than this counts as this much: nobody can sleep more precisely.
pub(super) const LEAST_WORK: Nanoseconds = Nanoseconds(1_000_000);
/// Work against rest, before anything is known and after the controller has lost its way.
const FIRST_RATIO: f64 = 0.001;
/// How long the first ratio holds after the controller has lost its way.
const COOLDOWN: Nanoseconds = Nanoseconds(5_000_000_000);
/// The longest rest: goals change meanwhile.
const LONGEST_REST: Nanoseconds = Nanoseconds(1_000_000_000);

/// A heap as far as it matters for how much should go back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct View {
    /// Bytes in spans, or held for them by mutators.
    pub(crate) in_use: Bytes,
    /// The most that `in_use` was in this generation and the one before.
    pub(crate) peak: Bytes,
    /// Free bytes that the heap keeps.
    pub(crate) free: Bytes,
    /// All that is committed, metadata included.
    pub(crate) committed: Bytes,
    /// The most that may be committed.
    pub(crate) limit: Option<Bytes>,
    /// Whole seconds since anybody used the heap.
    pub(crate) idle: u32,
    /// Whether to give back all there is, at once.
    pub(crate) eager: bool,
}

/// What should go back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Excess {
    /// How much.
    pub(crate) bytes: Bytes,
    /// Also from chunks that are nearly full.
    pub(crate) everywhere: bool,
}

impl View {
    /// What should go back to the system now.
    pub(crate) fn excess(&self) -> Excess {
        if self.eager {
            return Excess { bytes: self.free, everywhere: true };
        }
        let base = if self.idle == 0 { self.peak.max(self.in_use) } else { self.in_use };
        let retained = match self.idle {
            0..RETAINED_SECONDS => (base.0 / RETAINED) >> self.idle,
            _ => 0,
        };
        let by_percent = Bytes((self.in_use + self.free).0.saturating_sub(base.0 + retained));
        let by_limit = self.limit.map_or(Bytes::ZERO, |limit| {
            let goal = (limit.0 as u128 * OF_LIMIT / 100) as usize;
            Bytes(self.committed.0.saturating_sub(goal))
        });
        let bytes = by_percent.max(by_limit).min(self.free);
        let idle = self.idle > 0;
        if bytes < WORTHWHILE && !idle {
            return Excess::default();
        }
        Excess { bytes, everywhere: idle || by_limit > by_percent }
    }
}

/// A PI controller with a clamped output, and an integral that does not run away while it is clamped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controller {
    integral: f64,
}

impl Controller {
    const PROPORTIONAL: f64 = 0.3375;
    /// Nanoseconds.
    const INTEGRAL_TIME: f64 = 3.2e6;
    /// Nanoseconds.
    const RESET_TIME: f64 = 1e9;
    const LEAST: f64 = 0.001;
    const MOST: f64 = 1000.0;

    /// A controller that has learnt nothing.
    pub(crate) const fn new() -> Controller {
        Controller { integral: 0.0 }
    }

    /// The next output, `period` nanoseconds after the last; `None` when the numbers have run away, and then it has
    /// forgotten everything.
    pub(crate) fn next(&mut self, input: f64, wanted: f64, period: f64) -> Option<f64> {
        let raw = Self::PROPORTIONAL * (wanted - input) + self.integral;
        if !raw.is_finite() {
            *self = Controller::new();
            return None;
        }
        let output = raw.clamp(Self::LEAST, Self::MOST);
        self.integral += (Self::PROPORTIONAL * period / Self::INTEGRAL_TIME) * (wanted - input)
            + (period / Self::RESET_TIME) * (output - raw);
        if !self.integral.is_finite() {
            *self = Controller::new();
            return None;
        }
        Some(output)
    }
}

/// How long to rest after work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    controller: Controller,
    /// Work against rest.
    ratio: f64,
    cooldown: Nanoseconds,
}

impl Pacer {
    /// A pacer that has learnt nothing.
    pub(crate) const fn new() -> Pacer {
        Pacer { controller: Controller::new(), ratio: FIRST_RATIO, cooldown: Nanoseconds(0) }
    }

    /// How long to rest after so much work; `idle` says that nobody uses any heap.
    pub(crate) fn rest(&self, worked: Nanoseconds, idle: bool) -> Nanoseconds {
        let worked = worked.max(LEAST_WORK).0 as f64;
        let ratio = if idle { IDLE_SHARE / (1.0 - IDLE_SHARE) } else { self.ratio };
        Nanoseconds((worked / ratio) as u64).min(LONGEST_REST)
    }

    /// Learns from a piece of work and the rest after it.
    pub(crate) fn learn(&mut self, worked: Nanoseconds, rested: Nanoseconds) {
        let worked = worked.max(LEAST_WORK);
        let period = worked.0 + rested.0;
        if self.cooldown.0 > 0 {
            self.cooldown.0 = self.cooldown.0.saturating_sub(period);
            return;
        }
        let share = worked.0 as f64 / period as f64;
        match self.controller.next(share, SHARE, period as f64) {
            Some(ratio) => self.ratio = ratio,
            None => (self.ratio, self.cooldown) = (FIRST_RATIO, COOLDOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A hexadecimal floating-point number: `0x1.8p-03`.
    fn hex(text: &str) -> f64 {
        let (sign, text) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
        let (digits, exponent) = text.strip_prefix("0x").unwrap().split_once('p').unwrap();
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let bits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap();
        let exponent = exponent.parse::<i32>().unwrap() - 4 * fraction.len() as i32;
        sign * bits as f64 * 2f64.powi(exponent)
    }

    #[test]
    fn the_controller_gives_the_recorded_answers() {
        let mut controller = Controller::new();
        let records = include_str!("../../tests/traces/pi-controller.txt");
        let mut count = 0;
        for record in records.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = record.split_whitespace().collect();
            let [input, wanted, period, "->", output, ok] = words[..] else { panic!("{record}") };
            let next = controller.next(hex(input), hex(wanted), hex(period));
            assert_eq!(next.is_some(), ok == "true", "{record}");
            assert_eq!(next.unwrap_or(Controller::LEAST).to_bits(), hex(output).to_bits(), "{record}");
            count += 1;
        }
        assert!(count > 100, "only {count} records");
    }

    #[test]
    fn numbers_that_run_away_are_forgotten() {
        let mut controller = Controller::new();
        assert_eq!(controller.next(f64::INFINITY, 0.01, 1e6), None);
        assert_eq!(controller.next(0.0, 0.01, f64::INFINITY), None);
        assert!(controller.next(0.01, 0.01, 1e6).is_some());
        let mut pacer = Pacer::new();
        pacer.cooldown = Nanoseconds(3_000_000);
        pacer.learn(LEAST_WORK, Nanoseconds(1_000_000));
        assert_eq!(pacer.cooldown, Nanoseconds(1_000_000));
        assert_eq!(pacer.ratio, FIRST_RATIO);
    }

    /// On a machine where each piece takes `work` and each rest so many percent too long, the share comes out.
    fn share_after(pieces: usize, work: u64, late: u64) -> f64 {
        let mut pacer = Pacer::new();
        let (mut worked, mut time) = (0, 0);
        for piece in 0..pieces {
            let rest = pacer.rest(Nanoseconds(work), false).0 * (100 + late) / 100;
            pacer.learn(Nanoseconds(work), Nanoseconds(rest));
            if piece >= pieces / 2 {
                worked += work;
                time += work + rest;
            }
        }
        worked as f64 / time as f64
    }

    proptest! {
        #[test]
        fn the_share_comes_out(work in 1_000_000u64..5_000_000, late in 0u64..50) {
            let share = share_after(2000, work, late);
            prop_assert!((0.005..0.02).contains(&share), "{}", share);
        }

        /// The twin of `excess`: it takes pages away one by one until both goals are met.
        #[test]
        fn what_goes_back_is_what_the_goals_ask_for(
            in_use in 0usize..2000, above in 0usize..400, free in 0usize..2000, metadata in 0usize..50,
            limit in prop::option::of(1usize..4000), idle in 0u32..12,
        ) {
            const UNIT: usize = 1 << 17;
            let view = View {
                in_use: Bytes(in_use * UNIT),
                peak: Bytes((in_use + above) * UNIT),
                free: Bytes(free * UNIT),
                committed: Bytes((in_use + free + metadata) * UNIT),
                limit: limit.map(|limit| Bytes(limit * UNIT)),
                idle,
                eager: false,
            };
            let excess = view.excess();
            let met = |left: usize| {
                let base = if idle == 0 { in_use + above } else { in_use } * UNIT;
                let tenth = if idle < 8 { base / 10 / (1 << idle) } else { 0 };
                let limit = limit.map_or(usize::MAX, |limit| (limit * UNIT) as u128 as usize / 100 * 95);
                in_use * UNIT + left <= base + tenth && (in_use + metadata) * UNIT + left <= limit
            };
            let left = (free * UNIT) - excess.bytes.0;
            // Within the rounding of the limit's percent, and what is not worth a call.
            let slack = 128 + if idle == 0 { WORTHWHILE.0 } else { 0 };
            prop_assert!(left == 0 || met(left.saturating_sub(slack)), "too much stays: {excess:?}");
            prop_assert!(excess.bytes.0 <= slack || !met(left + slack), "too much goes: {excess:?}");
            prop_assert_eq!(View { eager: true, ..view }.excess().bytes, view.free);
        }
    }
}
