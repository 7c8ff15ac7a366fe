//! `docs/statistics.md` says what the code does: every name in one is in the other, in the same order, and the
//! identities have the same words in both. And whatever prints a snapshot allocates nothing.
#![cfg(not(loom))]

use spanheap::base::purpose::{BUILT_IN, GoWord};
use spanheap::base::{Bytes, PurposeId, PurposeName};
use spanheap::stats::memstats::FIELDS;
use spanheap::stats::names::{self, Kind, METRICS};
use spanheap::stats::{
    Account, Books, ClassEvent, Identity, MetricValues, PurposeBook, Resident, Snapshot, Value,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt;

const DOC: &str = include_str!("../docs/statistics.md");
const ROOM: &str = include_str!("../src/stats/mod.rs");

/// The rows of the tables under a heading, without the tables' heads: the cells, without their backquotes.
fn tables(heading: &str) -> Vec<Vec<Vec<&'static str>>> {
    let start = DOC.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = &DOC[start + 4..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let blocks = section.split("\n\n").filter(|block| block.starts_with('|'));
    blocks.map(|block| block.lines().skip(2).map(cells).collect()).collect()
}

fn cells(row: &'static str) -> Vec<&'static str> {
    let row = row.trim().trim_matches('|');
    row.split('|').map(|cell| cell.trim()).collect()
}

/// A column of one table under a heading. The first column's cells are names and must be in backquotes.
fn column(heading: &str, table: usize, column: usize) -> Vec<&'static str> {
    let rows = tables(heading).swap_remove(table);
    rows.iter().map(|row| row[column]).map(|cell| if column == 0 { name(cell) } else { cell }).collect()
}

fn name(cell: &'static str) -> &'static str {
    let inside = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
    inside.unwrap_or_else(|| panic!("{cell} is not in backquotes"))
}

#[test]
fn accounts_are_those_of_the_code() {
    let mut wanted: Vec<(String, &str)> = Account::fixed().map(|a| (a.name().into(), committed(a))).collect();
    let span = Account::Span(PurposeId(0));
    wanted.push((format!("{}/NAME", span.name()), committed(span)));
    let found = column("Accounts", 0, 0).into_iter().map(String::from).zip(column("Accounts", 0, 1));
    assert_eq!(found.collect::<Vec<_>>(), wanted);
}

fn committed(account: Account) -> &'static str {
    if account.is_committed() { "yes" } else { "no" }
}

#[test]
fn purposes_are_those_of_the_table() {
    let word = |go| match go {
        GoWord::Heap => "HeapInuse",
        GoWord::Stack => "StackInuse",
        GoWord::Collector => "GCSys",
        GoWord::Other => "OtherSys",
    };
    let wanted: Vec<_> = BUILT_IN.iter().map(|row| (row.name, word(row.go))).collect();
    let found = column("Purposes", 0, 0).into_iter().zip(column("Purposes", 0, 1));
    assert_eq!(found.collect::<Vec<_>>(), wanted);
}

#[test]
fn gos_words_are_those_of_the_code() {
    let wanted: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
    assert_eq!(column("Go's words", 0, 0), wanted);
}

#[test]
fn metrics_are_those_of_the_code() {
    let wanted: Vec<_> = METRICS.iter().map(|metric| (metric.name, metric.kind.name())).collect();
    let found = column("Metrics", 0, 0).into_iter().zip(column("Metrics", 0, 1));
    assert_eq!(found.collect::<Vec<_>>(), wanted);
}

#[test]
fn identities_have_one_wording() {
    let wanted: Vec<_> = Identity::ALL.map(|id| (id.number().to_string(), id.text().to_string())).to_vec();
    let rows = tables("Identities").swap_remove(0);
    let in_doc: Vec<_> = rows.iter().map(|row| (row[0].to_string(), row[1].to_string())).collect();
    assert_eq!(in_doc, wanted);
    let numbered = |line: &str| {
        let (number, text) = line.strip_prefix("//! ")?.split_once(". ")?;
        number.parse::<u8>().ok()?;
        Some((number.to_string(), text.strip_suffix('.')?.to_string()))
    };
    assert_eq!(ROOM.lines().filter_map(numbered).collect::<Vec<_>>(), wanted);
    assert!(Identity::ALL.iter().zip(1..).all(|(id, number)| id.number() == number));
}

#[test]
fn json_keys_are_those_of_the_code() {
    let mut text = String::new();
    snapshot().write_json(&mut text, "program", 1).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (heading, table, of) in [
        ("The JSON", 0, &json),
        ("Purposes", 1, &json["purposes"]["blocks"]),
        ("Size classes", 0, &json["classes"][0]),
        ("Residency", 0, &json["resident"]),
    ] {
        let mut documented = column(heading, table, 0);
        documented.sort_unstable();
        // The parser sorts an object's keys.
        let written: Vec<_> = of.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented, written, "{heading}");
    }
}

/// The iterator and the visitor tell the same; histograms agree with the rows of their sizes; each value is of its row's
/// kind.
#[test]
fn metrics_come_one_after_the_other() {
    let snapshot = snapshot();
    let mut visited = Vec::new();
    let visit = |sample: names::Sample<'_>| {
        visited.push((sample.name.to_owned(), sample.label.to_owned(), sample.value));
        Ok(())
    };
    names::visit(&snapshot, visit).unwrap();
    let mut walked = Vec::new();
    for figure in MetricValues::of(&snapshot) {
        match figure.value {
            Value::Number(value) => {
                walked.push((figure.name().to_owned(), figure.label().to_owned(), value));
                assert_ne!(figure.metric.kind, Kind::Histogram);
                assert_eq!(figure.label().is_empty(), figure.metric.label().is_none(), "{}", figure.name());
            }
            Value::Histogram(sizes) => {
                assert_eq!((figure.metric.kind, figure.metric.unit()), (Kind::Histogram, "bytes"));
                let rows = figure.name().replace(":bytes", "/");
                let row = |size: Option<u32>| {
                    let size = size.map_or("large".to_owned(), |size| size.to_string());
                    let row = visited.iter().find(|(name, ..)| *name == format!("{rows}{size}:blocks"));
                    row.map_or(0, |(_, _, value)| *value)
                };
                sizes.buckets().for_each(|(size, count)| assert_eq!(count, row(size), "{rows}{size:?}"));
                assert_eq!(sizes.count(), sizes.buckets().map(|(_, count)| count).sum::<i64>());
                let bounds: Vec<_> = sizes.buckets().map(|(size, _)| size.unwrap_or(u32::MAX)).collect();
                assert!(bounds.is_sorted() && bounds.last() == Some(&u32::MAX));
            }
        }
    }
    assert_eq!(walked, visited);
    let total: i64 =
        walked.iter().filter(|(name, ..)| name.starts_with("/memory/accounts/")).map(|v| v.2).sum();
    assert_eq!(total, 0);
}

/// The spelling for Prometheus: letters, digits and underscores, and no two rows share a name.
#[test]
fn prometheus_names_are_valid_and_unlike() {
    let mut names: Vec<_> =
        METRICS.iter().map(|metric| metric.prometheus_name().as_str().to_owned()).collect();
    assert!(names.contains(&"spanheap_memory_purpose_soft_limit_events".to_owned()));
    assert!(names.contains(&"spanheap_memory_classes_heap_free_bytes".to_owned()));
    for name in &names {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Every backquoted metric in the prose, too, is one that exists.
#[test]
fn prose_names_no_metric_that_does_not_exist() {
    let quoted = DOC.split('`').skip(1).step_by(2);
    for metric in quoted.filter(|text| text.starts_with('/') && text.contains(':')) {
        assert!(METRICS.iter().any(|m| m.name == metric), "{metric}");
    }
}

fn snapshot() -> Box<Snapshot> {
    let books = Books::new();
    // SAFETY: opened once, and the books do not move before they are dropped.
    unsafe { books.open() };
    let blocks = spanheap::base::purpose::BLOCKS;
    books.shared().ledger().post(|entry| {
        entry.transfer(Account::System, Account::Free, Bytes::mib(1));
        entry.transfer(Account::Free, Account::Span(blocks), Bytes::kib(16));
        entry.span_allocated(blocks, Bytes::kib(16));
        entry.class(0, ClassEvent::Allocated, 3);
    });
    let mut snapshot = Box::new(Snapshot::zero());
    snapshot.read(&books, |id| {
        let book = PurposeBook { peak: Bytes::kib(16), ..PurposeBook::new(PurposeName::built_in(id)) };
        id.is_built_in().then_some(book)
    });
    snapshot.resident = Some(Resident::zero());
    assert_eq!(snapshot.check(), Ok(()));
    snapshot
}

/// The system's allocator, counting what this thread asks of it.
struct Counting;

thread_local! {
    static REQUESTS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        REQUESTS.set(REQUESTS.get() + 1);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts what is written and keeps nothing.
struct Sink(usize);

impl fmt::Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

#[test]
fn checking_visiting_and_printing_allocate_nothing() {
    let mut snapshot = snapshot();
    let before = REQUESTS.get();
    assert!(before > 0, "the counter does not count");
    let mut sink = Sink(0);
    for _ in 0..2 {
        assert_eq!(snapshot.check().is_ok(), sink.0 == 0);
        snapshot.write_json(&mut sink, "a \"program\"", 7).unwrap();
        snapshot.write_table(&mut sink).unwrap();
        snapshot.write_xml(&mut sink).unwrap();
        names::visit(&snapshot, |sample| fmt::Write::write_str(&mut sink, sample.name)).unwrap();
        MetricValues::of(&snapshot).for_each(|figure| sink.0 += figure.name().len());
        // Once more with books that do not balance.
        snapshot.purposes[spanheap::base::purpose::BLOCKS.index()].peak = Bytes::ZERO;
    }
    assert!(sink.0 > 1000);
    assert_eq!(REQUESTS.get(), before);
}
