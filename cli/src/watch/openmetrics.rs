//! A snapshot as OpenMetrics text.
//!
//! Each row of the table of metrics is a family under our name; those that Go has (`/memory/classes/…`, `/gc/heap/…`)
//! come a second time under the name that Go's client gives them. Names of purposes, accounts and sizes are labels.
//! Histograms are left out: the counters by size say the same.

use spanheap::Snapshot;
use spanheap::stats::names::{self, Kind, METRICS, Metric};
use std::fmt::Write;

/// What the text is.
pub(crate) const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The prefixes of rows that Go has as well.
const GOS: [&str; 2] = ["/memory/classes/", "/gc/heap/"];

/// The whole text, up to its end mark. `process` is the resident memory of the process.
pub(crate) fn text(snapshot: &Snapshot, process: i64) -> String {
    let mut text = String::new();
    let mut samples: Vec<(&'static Metric, String, i64)> = Vec::new();
    let visited = names::visit(snapshot, |sample| {
        samples.push((sample.metric, sample.label.to_string(), sample.value));
        Ok(())
    });
    debug_assert!(visited.is_ok());
    for metric in METRICS.iter().filter(|metric| metric.kind != Kind::Histogram) {
        let of_row: Vec<(&str, i64)> = samples
            .iter()
            .filter(|(row, ..)| std::ptr::eq(*row, metric))
            .map(|(_, label, value)| (label.as_str(), *value))
            .collect();
        let ours = metric.prometheus_name();
        family(&mut text, ours.as_str(), metric, &of_row);
        if GOS.iter().any(|start| metric.name.starts_with(start))
            && let Some(name) = ours.as_str().strip_prefix("spanheap_")
        {
            family(&mut text, &format!("go_{name}"), metric, &of_row);
        }
    }
    let _ = writeln!(
        text,
        "# TYPE process_resident_memory_bytes gauge\n# UNIT process_resident_memory_bytes bytes"
    );
    let _ = writeln!(text, "# HELP process_resident_memory_bytes resident bytes of the whole process");
    let _ = writeln!(text, "process_resident_memory_bytes {process}\n# EOF");
    text
}

/// A family: what it is, and its samples.
fn family(text: &mut String, name: &str, metric: &Metric, samples: &[(&str, i64)]) {
    if samples.is_empty() {
        return;
    }
    let (kind, suffix) = match metric.kind {
        Kind::Cumulative => ("counter", "_total"),
        _ => ("gauge", ""),
    };
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if name.ends_with(&format!("_{}", metric.unit())) {
        let _ = writeln!(text, "# UNIT {name} {}", metric.unit());
    }
    let _ = writeln!(text, "# HELP {name} {}", metric.about);
    for (label, value) in samples {
        // Names of purposes have no characters that want escapes.
        let _ = match metric.label() {
            Some(key) => writeln!(text, "{name}{suffix}{{{key}=\"{label}\"}} {value}"),
            None => writeln!(text, "{name}{suffix} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The grammar, as far as this text uses it.
    #[test]
    fn the_text_is_as_the_format_wants_it() {
        let snapshot = Box::new(Snapshot::zero());
        let heap = spanheap::Heap::new(spanheap::Config::default()).unwrap();
        let purpose = heap.declare("sessions").unwrap();
        let span = purpose.allocate_span(spanheap::Bytes::kib(8)).unwrap();
        let mut snapshot = snapshot;
        heap.snapshot_into(&mut snapshot);
        let text = text(&snapshot, 4096);
        let (mut family, mut kind, mut seen) = ("", "", HashSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                (family, kind) = rest.split_once(' ').unwrap();
                assert!(seen.insert(family), "{family} comes twice");
                assert!(
                    family.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                    "{family}"
                );
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').unwrap();
                assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
            } else if !line.starts_with("# ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let name = name.split('{').next().unwrap();
                let suffix = if kind == "counter" { "_total" } else { "" };
                assert_eq!(name, format!("{family}{suffix}"), "{line}");
                value.parse::<i64>().unwrap();
            }
        }
        assert!(text.ends_with("\n# EOF\n"));
        for line in [
            "spanheap_memory_purpose_inuse_bytes{purpose=\"sessions\"} 8192",
            "go_memory_classes_heap_stacks_bytes 0",
            "process_resident_memory_bytes 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        drop(span);
        heap.check().unwrap();
    }
}
