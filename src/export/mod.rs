//! Bridges from a heap's figures to the libraries by which programs publish theirs. Each is a cargo feature, off by
//! default.
//!
//! | feature | what it gives |
//! |---|---|
//! | `metrics` | [`metrics::describe`] and [`metrics::publish`] for a recorder of the `metrics` crate |
//! | `prometheus-client` | [`prometheus::HeapCollector`] for a registry of the `prometheus-client` crate |
//!
//! Both spell names as [`Metric::prometheus_name`](crate::stats::names::Metric::prometheus_name) does, and give what
//! stands for `NAME` or `SIZE` as a label. Histograms are published as one counter for each size: the heap does not
//! know the sum of the sizes that were asked for, without which neither library knows histograms.
//!
//! This is not a room of the heap but a user of it like any other: it uses the standard library and allocates, and
//! nothing in the rooms knows it.

#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "prometheus-client")]
pub mod prometheus;
