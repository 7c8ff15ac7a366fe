//! The heap's figures for a program that publishes them.

use crate::front::heap::Heap;
use crate::stats::{MetricValue, MetricValues, Snapshot};

/// Every figure of a heap at one instant, under Go's names and ours.
///
/// All come from one snapshot, so they fit together: the classes add up to the total, the accounts to zero. Nothing is
/// allocated. The value has some 30 KiB.
///
/// ```
/// use spanheap::stats::{Value, names::Kind};
/// use spanheap::{Bytes, Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let cache = heap.declare("cache")?;
/// let _span = cache.allocate_span(Bytes::kib(64))?;
///
/// let metrics = heap.metrics();
/// assert_eq!(metrics.number("/memory/purpose/cache/inuse:bytes"), Some(64 << 10));
/// for figure in &metrics {
///     match figure.value {
///         Value::Number(value) if figure.metric.kind == Kind::Gauge => println!("{} {value}", figure.name()),
///         Value::Number(value) => println!("{} {value} so far", figure.name()),
///         Value::Histogram(sizes) => println!("{} {} in all", figure.name(), sizes.count()),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Metrics {
    snapshot: Snapshot,
}

impl Heap {
    /// Reads every figure that the heap has, at one instant and without stopping anyone. The kernel is not asked, so
    /// the metrics of residency are left out.
    pub fn metrics(&self) -> Metrics {
        Metrics { snapshot: self.snapshot() }
    }

    /// As [`Heap::metrics`], with what the kernel says is resident. It reads the page map of the process, which takes
    /// milliseconds where the heap has gigabytes.
    pub fn metrics_with_residency(&self) -> Metrics {
        let mut metrics = self.metrics();
        metrics.snapshot.resident = Some(self.resident());
        metrics
    }
}

impl Metrics {
    /// The figures, row by row.
    pub fn iter(&self) -> MetricValues<'_> {
        MetricValues::of(&self.snapshot)
    }

    /// The figure of a name, if it exists and is a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.iter().find(|figure| figure.name() == name)?.value.number()
    }

    /// What all figures come from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl<'m> IntoIterator for &'m Metrics {
    type Item = MetricValue<'m>;
    type IntoIter = MetricValues<'m>;

    fn into_iter(self) -> MetricValues<'m> {
        self.iter()
    }
}
