//! A heap's figures in a registry of the [`prometheus_client`] crate.

use crate::front::Heap;
use crate::stats::MetricValue;
use crate::stats::names::{Kind, METRICS};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::ops::Deref;

/// Gives a registry every figure of a heap at each scrape, all from one instant.
///
/// The heap may be `&'static Heap`, as that of [`SpanHeap`](crate::SpanHeap) is, or an `Arc<Heap>`.
///
/// ```
/// use prometheus_client::{encoding::text::encode, registry::Registry};
/// use spanheap::{Config, Heap, export::prometheus::HeapCollector};
/// use std::sync::Arc;
///
/// let heap = Arc::new(Heap::new(Config::default())?);
/// let mut registry = Registry::default();
/// registry.register_collector(Box::new(HeapCollector::new(heap)));
///
/// let mut text = String::new();
/// encode(&mut text, &registry)?;
/// assert!(text.contains("spanheap_memory_purpose_inuse_bytes{purpose=\"blocks\"} 0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct HeapCollector<H>(H);

impl<H: Deref<Target = Heap> + Send + Sync + 'static> HeapCollector<H> {
    /// A collector for a heap.
    pub fn new(heap: H) -> HeapCollector<H> {
        HeapCollector(heap)
    }
}

impl<H> fmt::Debug for HeapCollector<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeapCollector")
    }
}

impl<H: Deref<Target = Heap> + Send + Sync + 'static> Collector for HeapCollector<H> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.0.metrics();
        let mut figures = metrics.iter().peekable();
        for metric in METRICS {
            let mut next = || figures.next_if(|figure| std::ptr::eq(figure.metric, metric));
            let kind = match metric.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Cumulative => MetricType::Counter,
                Kind::Histogram => {
                    next();
                    continue;
                }
            };
            let Some(first) = next() else { continue };
            let name = metric.prometheus_name();
            let mut metric_encoder = encoder.encode_descriptor(name.as_str(), metric.about, None, kind)?;
            for figure in std::iter::once(first).chain(std::iter::from_fn(next)) {
                encode(&mut metric_encoder, &figure)?;
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, figure: &MetricValue<'_>) -> fmt::Result {
    match figure.metric.label() {
        None => encode_value(encoder, figure),
        Some(key) => encode_value(&mut encoder.encode_family(&[(key, figure.label())])?, figure),
    }
}

fn encode_value(encoder: &mut MetricEncoder<'_>, figure: &MetricValue<'_>) -> fmt::Result {
    let value = figure.value.number().ok_or(fmt::Error)?;
    match figure.metric.kind {
        Kind::Cumulative => {
            let value = u64::try_from(value).unwrap_or(0);
            encoder.encode_counter::<[(&str, &str); 0], u64, f64>(&value, None)
        }
        Kind::Gauge | Kind::Histogram => encoder.encode_gauge(&value),
    }
}
