//! Mutator utilisation: the part of a span of time in which a thread did not wait for the collector.
//!
//! Of all windows of a length the worst begins where a wait begins, or ends where one ends: a window between two such
//! places can be moved to one of them without losing any waiting. So only those are looked at.

use std::time::Duration;

/// The length of a window: what a frame or a short request has.
pub(crate) const WINDOW: Duration = Duration::from_millis(10);

/// A wait, from the thread's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) start: Duration,
    pub(crate) length: Duration,
}

/// What was left to a thread, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Utilisation {
    /// Of its whole time.
    pub(crate) whole: f64,
    /// Of the worst window.
    pub(crate) worst: f64,
}

impl Default for Utilisation {
    fn default() -> Utilisation {
        Utilisation { whole: 1.0, worst: 1.0 }
    }
}

impl Utilisation {
    /// The utilisation of a thread that lived for `time` and waited so. The waits are in order and do not overlap.
    pub(crate) fn of(waits: &[Wait], time: Duration) -> Utilisation {
        let waited: Duration = waits.iter().map(|wait| wait.length).sum();
        let part = |of: Duration, whole: Duration| 1.0 - of.as_secs_f64() / whole.as_secs_f64().max(1e-9);
        let most = waits.iter().flat_map(|wait| {
            let before = (wait.start + wait.length).saturating_sub(WINDOW);
            [waited_from(waits, wait.start), waited_from(waits, before)]
        });
        let most = most.max().unwrap_or(Duration::ZERO);
        Utilisation { whole: part(waited, time), worst: part(most, WINDOW) }
    }

    /// The worse of two threads.
    pub(crate) fn with(self, other: Utilisation) -> Utilisation {
        Utilisation { whole: self.whole.min(other.whole), worst: self.worst.min(other.worst) }
    }
}

/// How long was waited in the window that begins at `start`.
fn waited_from(waits: &[Wait], start: Duration) -> Duration {
    let end = start + WINDOW;
    let first = waits.partition_point(|wait| wait.start + wait.length <= start);
    let inside = |wait: &Wait| (wait.start + wait.length).min(end) - wait.start.max(start);
    waits[first..].iter().take_while(|wait| wait.start < end).map(inside).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(start: u64, length: u64) -> Wait {
        Wait { start: Duration::from_millis(start), length: Duration::from_millis(length) }
    }

    fn worst(waits: &[Wait]) -> f64 {
        Utilisation::of(waits, Duration::from_millis(100)).worst
    }

    #[test]
    fn the_worst_window_is_found_wherever_it_lies() {
        assert_eq!(Utilisation::of(&[], Duration::from_secs(1)), Utilisation::default());
        assert!((worst(&[wait(40, 2)]) - 0.8).abs() < 1e-9);
        // Two waits in one window, the first of which begins it, or the second of which ends it.
        assert!((worst(&[wait(40, 2), wait(47, 2)]) - 0.6).abs() < 1e-9);
        assert!((worst(&[wait(40, 4), wait(47, 6)]) - 0.3).abs() < 1e-9);
        // One that is longer than a window, and one that has begun before the first could end.
        assert!(worst(&[wait(40, 30)]).abs() < 1e-9);
        assert!((worst(&[wait(1, 3)]) - 0.7).abs() < 1e-9);
    }

    #[test]
    fn the_worst_window_is_no_better_than_any_of_a_fine_grid() {
        let waits = [wait(3, 1), wait(5, 2), wait(9, 4), wait(20, 1), wait(31, 3), wait(36, 5)];
        let grid = (0..100_u64).map(|start| {
            let left = (0..10).filter(|at| {
                let at = Duration::from_millis(start + at);
                !waits.iter().any(|wait| wait.start <= at && at < wait.start + wait.length)
            });
            left.count() as f64 / 10.0
        });
        assert!((worst(&waits) - grid.fold(1.0, f64::min)).abs() < 1e-9);
    }

    #[test]
    fn of_two_threads_the_worse_counts() {
        let (one, other) = (Utilisation { whole: 0.9, worst: 0.5 }, Utilisation { whole: 0.8, worst: 0.7 });
        assert_eq!(one.with(other), Utilisation { whole: 0.8, worst: 0.5 });
    }
}
