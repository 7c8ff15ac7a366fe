//! A heap's figures on a recorder of the [`metrics`] crate.
//!
//! ```
//! use metrics::NoopRecorder;
//! use spanheap::{Config, Heap, export};
//!
//! let heap = Heap::new(Config::default())?;
//! let recorder = NoopRecorder; // the program's own
//! export::metrics::describe(&recorder);
//! // As often as somebody looks, every ten seconds for example:
//! export::metrics::publish(&heap, &recorder);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::front::Heap;
use crate::stats::names::{Kind, METRICS, Metric};
use ::metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit};

/// Tells the recorder what each figure is, with its unit. Once is enough.
pub fn describe(recorder: &dyn Recorder) {
    for metric in METRICS {
        let (name, unit) = (key_name(metric), unit(metric));
        match metric.kind {
            Kind::Gauge => recorder.describe_gauge(name, unit, metric.about.into()),
            Kind::Cumulative => recorder.describe_counter(name, unit, metric.about.into()),
            Kind::Histogram => {}
        }
    }
}

/// Sets every figure of the heap on the recorder, all from one instant. To be called again and again: a recorder keeps
/// what it was last told.
pub fn publish(heap: &Heap, recorder: &dyn Recorder) {
    let metadata = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
    for figure in &heap.metrics() {
        let Some(value) = figure.value.number() else { continue };
        let label = figure.metric.label().map(|key| Label::new(key, figure.label().to_owned()));
        let key = Key::from_parts(key_name(figure.metric), label.into_iter().collect::<Vec<_>>());
        match figure.metric.kind {
            Kind::Gauge => recorder.register_gauge(&key, &metadata).set(value as f64),
            Kind::Cumulative => {
                recorder.register_counter(&key, &metadata).absolute(u64::try_from(value).unwrap_or(0));
            }
            Kind::Histogram => {}
        }
    }
}

fn key_name(metric: &Metric) -> KeyName {
    KeyName::from(metric.prometheus_name().as_str().to_owned())
}

/// The unit, if the library has a word for it.
fn unit(metric: &Metric) -> Option<Unit> {
    match metric.unit() {
        "bytes" => Some(Unit::Bytes),
        "percent" => Some(Unit::Percent),
        "seconds" | "cpu-seconds" => Some(Unit::Seconds),
        _ => Some(Unit::Count),
    }
}
