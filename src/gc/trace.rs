//! The line that a cycle leaves behind.
//!
//! ```text
//! gc 7 @2.104s 3%: 0.012+4.1+0.029 ms clock, 0.025+0.51/2.0/0.30+0.058 ms cpu, 30->34->17 MB, 32 MB goal, 1 MB stacks, 0 MB globals, 5 MB external, 2 P (forced)
//! ```
//!
//! It is the line that Go's `GODEBUG=gctrace=1` prints, with one field more, so that what reads those reads these:
//!
//! | field | is |
//! |---|---|
//! | `gc 7` | the cycle, counted from 1 |
//! | `@2.104s` | seconds since the heap was made, at the cycle's begin |
//! | `3%` | the share of processor time that collecting took since then |
//! | `0.012+4.1+0.029 ms clock` | the pause to begin, marking beside the program, the pause to end |
//! | `0.025+0.51/2.0/0.30+0.058 ms cpu` | processor time of these: of marking by assists, by background work within its share, and by idle processors. A pause counts for every processor |
//! | `30->34->17 MB` | live when marking began, live when it ended, marked |
//! | `32 MB goal` | live bytes that the cycle should have been complete by |
//! | `1 MB stacks`, `0 MB globals` | work for stacks, and for other roots |
//! | `5 MB external` | of the marked bytes, those outside of objects |
//! | `2 P` | processors |
//! | ` (forced)`, ` (idle)` | who wanted it, unless the goal did |
//!
//! MB are 2²⁰ bytes, rounded down. Milliseconds have two digits, down to a microsecond, and none behind the point
//! from ten on.

use core::fmt;

/// Why a cycle began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The trigger was reached.
    Goal,
    /// Somebody asked for it.
    Forced,
    /// There had been none for long.
    Idle,
}

/// What there is to tell about a cycle. Times are nanoseconds, sizes bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CycleTrace {
    /// Its number, from 1.
    pub cycle: u64,
    /// Since the heap was made.
    pub at: u64,
    /// Collecting, in percent of the processor time since then.
    pub percent: u32,
    /// The pause to begin, marking, and the pause to end.
    pub clock: [u64; 3],
    /// Processor time of assists, of background work within its share, and of background work on idle processors.
    pub marking: [u64; 3],
    /// Live at the begin, live at the end of marking, marked.
    pub heap: [u64; 3],
    /// Live bytes that it should have been complete by.
    pub goal: u64,
    /// Work for stacks.
    pub stacks: u64,
    /// Work for other roots.
    pub roots: u64,
    /// External bytes that objects keep.
    pub external: u64,
    /// Processors.
    pub processors: u32,
    /// Why it began.
    pub reason: Reason,
}

/// Nanoseconds as milliseconds.
struct Milliseconds(u64);

/// Bytes as whole mebibytes.
struct Mebibytes(u64);

impl fmt::Display for CycleTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CycleTrace { cycle, at, percent, processors, .. } = *self;
        let [begin, mark, end] = self.clock.map(Milliseconds);
        let [assists, background, idle] = self.marking.map(Milliseconds);
        let of_all = |time: u64| Milliseconds(time.saturating_mul(processors.into()));
        let (begin_cpu, end_cpu) = (of_all(self.clock[0]), of_all(self.clock[2]));
        let [before, peak, marked] = self.heap.map(Mebibytes);
        let [goal, stacks, roots, external] =
            [self.goal, self.stacks, self.roots, self.external].map(Mebibytes);
        let milliseconds = at / 1_000_000;
        write!(f, "gc {cycle} @{}.{:03}s {percent}%: ", milliseconds / 1000, milliseconds % 1000)?;
        write!(f, "{begin}+{mark}+{end} ms clock, ")?;
        write!(f, "{begin_cpu}+{assists}/{background}/{idle}+{end_cpu} ms cpu, ")?;
        write!(f, "{before}->{peak}->{marked} MB, {goal} MB goal, {stacks} MB stacks, {roots} MB globals, ")?;
        write!(f, "{external} MB external, {processors} P")?;
        f.write_str(match self.reason {
            Reason::Goal => "",
            Reason::Forced => " (forced)",
            Reason::Idle => " (idle)",
        })
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = self.0 / 1000;
        if digits >= 10_000 {
            return write!(f, "{}", digits / 1000);
        }
        let mut decimals = 3;
        while digits >= 100 {
            digits /= 10;
            decimals -= 1;
        }
        let unit = 10u64.pow(decimals as u32);
        match digits {
            0 => write!(f, "0"),
            _ => write!(f, "{}.{:0decimals$}", digits / unit, digits % unit),
        }
    }
}

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 >> 20)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trace() -> CycleTrace {
        CycleTrace {
            cycle: 7,
            at: 2_104_900_000,
            percent: 3,
            clock: [12_500, 4_199_000, 29_000],
            marking: [519_000, 2_000_000, 305_000],
            heap: [30 << 20, 34 << 20, (18 << 20) - 1],
            goal: 32 << 20,
            stacks: 1 << 20,
            roots: 5,
            external: 5 << 20,
            processors: 2,
            reason: Reason::Forced,
        }
    }

    #[test]
    fn a_line_is_as_documented() {
        let documented = include_str!("trace.rs").lines().find_map(|line| line.strip_prefix("//! gc 7 "));
        assert_eq!(Some(trace().to_string().strip_prefix("gc 7 ").unwrap()), documented);
        assert!(CycleTrace { reason: Reason::Goal, ..trace() }.to_string().ends_with(", 2 P"));
        assert!(CycleTrace { reason: Reason::Idle, ..trace() }.to_string().ends_with(", 2 P (idle)"));
    }

    #[test]
    fn milliseconds_have_two_digits() {
        let cases = [(0, "0"), (999, "0"), (1000, "0.001"), (12_345, "0.012"), (123_456, "0.12")];
        let more = [
            (999_999, "0.99"),
            (1_234_567, "1.2"),
            (9_999_999, "9.9"),
            (10_000_000, "10"),
            (1_234_567_890, "1234"),
        ];
        for (time, text) in cases.into_iter().chain(more) {
            assert_eq!(Milliseconds(time).to_string(), text);
        }
    }

    /// All numbers of a line, in order.
    fn numbers(line: &str) -> Vec<f64> {
        let parts = line.split(|c: char| !c.is_ascii_digit() && c != '.');
        parts.filter_map(|part| part.parse().ok()).collect()
    }

    proptest! {
        /// Who reads the numbers back gets what went in, as exactly as is promised.
        #[test]
        fn a_line_can_be_read_back(
            clock in any::<[u32; 3]>(), marking in any::<[u32; 3]>(), heap in any::<[u64; 3]>(),
            cycle in any::<u64>(), at in 0u64..1 << 50, percent in 0u32..101, processors in 1u32..300,
        ) {
            let cycle = cycle >> 12;
            let (clock, marking) = (clock.map(u64::from), marking.map(u64::from));
            let trace = CycleTrace { clock, marking, heap, cycle, at, percent, processors, ..trace() };
            let line = trace.to_string();
            let read = numbers(&line);
            prop_assert_eq!(read.len(), 19, "{}", line);
            prop_assert_eq!((read[0] as u64, read[2] as u32, read[18] as u32), (cycle, percent, processors));
            prop_assert!((read[1] - at as f64 / 1e9).abs() < 0.002);
            let n = u64::from(processors);
            let times = [clock[0], clock[1], clock[2], clock[0] * n, marking[0], marking[1], marking[2], clock[2] * n];
            for (read, time) in read[3..11].iter().zip(times) {
                let exact = time as f64 / 1e6;
                prop_assert!(*read <= exact + 1e-9 && exact - read < (0.11 * exact).max(0.001), "{} for {}", read, exact);
            }
            for (read, bytes) in read[11..14].iter().zip(heap) {
                prop_assert_eq!(*read as u64, bytes >> 20);
            }
        }
    }
}
