//! The bridges publish what the heap says: the same names, labels and values, whoever asks.
#![cfg(all(not(loom), feature = "metrics", feature = "prometheus-client"))]

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use prometheus_client::{encoding::text::encode, registry::Registry};
use spanheap::export::prometheus::HeapCollector;
use spanheap::stats::names::Kind;
use spanheap::{Bytes, Config, Heap, export};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What the heap itself says, spelled as a scrape spells it: name and labels, and the value.
fn wanted(heap: &Heap) -> BTreeMap<String, i64> {
    let metrics = heap.metrics();
    let spell = |figure: spanheap::stats::MetricValue<'_>| {
        let name = figure.metric.prometheus_name();
        let total = if figure.metric.kind == Kind::Cumulative { "_total" } else { "" };
        let labels = figure.metric.label().map(|key| format!("{{{key}=\"{}\"}}", figure.label()));
        Some((format!("{}{total}{}", name.as_str(), labels.unwrap_or_default()), figure.value.number()?))
    };
    metrics.iter().filter_map(spell).collect()
}

/// A heap where something has happened.
fn heap() -> Heap {
    let heap = Heap::new(Config::default()).unwrap();
    let cache = heap.declare("cache").unwrap();
    cache.set_limit(Some(Bytes::mib(1)));
    cache.allocate_span(Bytes::mib(2)).unwrap_err();
    let mut held: Vec<_> =
        (0..3).map(|_| heap.allocate(std::alloc::Layout::new::<[u64; 5]>()).unwrap()).collect();
    // SAFETY: allocated above with this layout, and not used.
    unsafe { heap.deallocate(held.pop().unwrap(), std::alloc::Layout::new::<[u64; 5]>()) };
    heap
}

#[test]
fn a_scrape_has_every_figure_once() {
    let heap = Arc::new(heap());
    let mut registry = Registry::default();
    registry.register_collector(Box::new(HeapCollector::new(heap.clone())));
    let wanted = wanted(&heap);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let scraped: Vec<(String, i64)> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(scraped.len(), wanted.len());
    assert_eq!(scraped.into_iter().collect::<BTreeMap<_, _>>(), wanted);
    assert_eq!(wanted["spanheap_memory_purpose_refused_requests_total{purpose=\"cache\"}"], 1);
    assert_eq!(wanted["spanheap_blocks_inuse_blocks"], 2);
    assert!(text.ends_with("# EOF\n"));
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

/// A recorder that keeps what it is told.
#[derive(Default)]
struct Kept {
    values: Arc<Mutex<BTreeMap<String, i64>>>,
    described: Mutex<BTreeMap<String, Option<Unit>>>,
}

/// Where the values of one key go.
struct Cell(Arc<Mutex<BTreeMap<String, i64>>>, String);

impl CounterFn for Cell {
    fn increment(&self, _: u64) {
        unreachable!("the heap knows its totals");
    }
    fn absolute(&self, value: u64) {
        self.0.lock().unwrap().insert(format!("{}_total{}", name(&self.1), labels(&self.1)), value as i64);
    }
}

impl GaugeFn for Cell {
    fn increment(&self, _: f64) {
        unreachable!("the heap knows its values");
    }
    fn decrement(&self, _: f64) {
        unreachable!("the heap knows its values");
    }
    fn set(&self, value: f64) {
        self.0.lock().unwrap().insert(self.1.clone(), value as i64);
    }
}

fn name(key: &str) -> &str {
    key.split('{').next().unwrap()
}

fn labels(key: &str) -> &str {
    &key[name(key).len()..]
}

impl Kept {
    fn cell(&self, key: &Key) -> Arc<Cell> {
        let labels = key.labels().map(|label| format!("{{{}=\"{}\"}}", label.key(), label.value()));
        Arc::new(Cell(self.values.clone(), format!("{}{}", key.name(), labels.collect::<String>())))
    }
}

impl metrics::Recorder for Kept {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().insert(key.as_str().to_owned(), unit);
    }
    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, about: SharedString) {
        self.describe_counter(key, unit, about);
    }
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        unreachable!("histograms are published as counters");
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        unreachable!("histograms are published as counters");
    }
}

#[test]
fn a_recorder_is_told_every_figure_and_what_it_is() {
    let (heap, recorder) = (heap(), Kept::default());
    export::metrics::describe(&recorder);
    export::metrics::publish(&heap, &recorder);
    export::metrics::publish(&heap, &recorder);
    let values = recorder.values.lock().unwrap().clone();
    assert_eq!(values, wanted(&heap));
    let described = recorder.described.lock().unwrap();
    assert_eq!(described["spanheap_memory_spans_bytes"], Some(Unit::Bytes));
    for key in values.keys() {
        let name = name(key);
        let known = described.contains_key(name.strip_suffix("_total").unwrap_or(name));
        assert!(known, "{name} is not described");
    }
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}
