//! The metrics of a snapshot, one after the other: rows of the table of names, with their values.
//!
//! All values come from one snapshot, so the identities hold between them. The iterator allocates nothing: a row that
//! stands for several metrics is asked for one after the other, and a name is built where the value is.

use super::ledger::ClassEvent;
use super::memstats::MemoryClasses;
use super::names::{METRICS, Metric, MetricName, Values};
use super::snapshot::{Counted, Snapshot};
use core::fmt::{self, Display, Write};

/// What a metric says.
#[derive(Clone, Copy)]
pub enum Value<'s> {
    /// A number, in the unit that the name ends with.
    Number(i64),
    /// How often each size occurred.
    Histogram(Histogram<'s>),
}

/// How often each size occurred: a view of a snapshot.
#[derive(Clone, Copy)]
pub struct Histogram<'s> {
    snapshot: &'s Snapshot,
    of: Counted,
    event: ClassEvent,
}

/// One metric of one snapshot.
#[derive(Clone, Copy)]
pub struct MetricValue<'s> {
    /// Its row.
    pub metric: &'static Metric,
    /// What it says.
    pub value: Value<'s>,
    name: MetricName,
    label: (usize, usize),
}

/// Every metric that a snapshot has a value for, row by row.
#[derive(Clone)]
pub struct MetricValues<'s> {
    snapshot: &'s Snapshot,
    classes: MemoryClasses,
    /// The row that is next, and the place in it.
    row: usize,
    place: usize,
}

/// What a row has at a place.
enum At<'s> {
    /// Nothing there, and nothing behind it.
    End,
    /// Nothing there: the value is not known, or not worth a line.
    Nothing,
    /// A metric.
    Here(MetricValue<'s>),
}

impl<'s> Value<'s> {
    /// The number, if it is one.
    pub fn number(self) -> Option<i64> {
        match self {
            Value::Number(value) => Some(value),
            Value::Histogram(_) => None,
        }
    }
}

impl<'s> Histogram<'s> {
    /// The buckets from small to large: the largest size that counts, in bytes, and how often one did. The last bucket
    /// has no largest size.
    pub fn buckets(self) -> impl Iterator<Item = (Option<u32>, i64)> + 's {
        self.snapshot.classes_of(self.of).map(move |class| (class.size, class.of(self.event)))
    }

    /// How often any size occurred.
    pub fn count(self) -> i64 {
        self.snapshot.classes_of(self.of).map(|class| class.of(self.event)).sum()
    }
}

impl<'s> MetricValue<'s> {
    fn single(metric: &'static Metric, value: Value<'s>) -> MetricValue<'s> {
        MetricValue { metric, value, name: named(format_args!("{}", metric.name)), label: (0, 0) }
    }

    /// The name with a label in its place.
    fn labelled(metric: &'static Metric, label: impl Display, value: i64) -> MetricValue<'s> {
        let place = metric.name.find("NAME").or(metric.name.find("SIZE")).unwrap_or(metric.name.len());
        let mut name = named(format_args!("{}{label}", &metric.name[..place]));
        let end = name.as_str().len();
        // Both placeholders have four letters.
        let written = name.write_str(metric.name.get(place + 4..).unwrap_or(""));
        debug_assert!(written.is_ok(), "{} does not fit", metric.name);
        MetricValue { metric, value: Value::Number(value), name, label: (place, end) }
    }

    /// The whole name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// What stands for `NAME` or `SIZE`; empty where the row is a single metric.
    pub fn label(&self) -> &str {
        let (start, end) = self.label;
        self.name().get(start..end).unwrap_or("")
    }
}

fn named(text: fmt::Arguments<'_>) -> MetricName {
    let mut name = MetricName::new();
    let written = name.write_fmt(text);
    debug_assert!(written.is_ok(), "{text} does not fit");
    name
}

impl<'s> MetricValues<'s> {
    /// The metrics of a snapshot.
    pub fn of(snapshot: &'s Snapshot) -> MetricValues<'s> {
        MetricValues { snapshot, classes: snapshot.memory_classes(), row: 0, place: 0 }
    }

    fn at(&self, metric: &'static Metric) -> At<'s> {
        let (snapshot, place) = (self.snapshot, self.place);
        let single = |value: Option<Value<'s>>| match (place, value) {
            (0, Some(value)) => At::Here(MetricValue::single(metric, value)),
            _ => At::End,
        };
        match &metric.values {
            Values::One(value) => single(value(snapshot).map(Value::Number)),
            Values::Class(value) => single(Some(Value::Number(value(&self.classes)))),
            Values::Sizes(of, event) => {
                single(Some(Value::Histogram(Histogram { snapshot, of: *of, event: *event })))
            }
            Values::EachAccount(value) => snapshot.accounts().nth(place).map_or(At::End, |account| {
                let name = snapshot.account_name(account);
                value(snapshot, account)
                    .map_or(At::Nothing, |value| At::Here(MetricValue::labelled(metric, name, value)))
            }),
            Values::EachPurpose(value) => snapshot.purposes().nth(place).map_or(At::End, |purpose| {
                value(&purpose).map_or(At::Nothing, |value| {
                    At::Here(MetricValue::labelled(metric, purpose.book.name, value))
                })
            }),
            Values::EachSize(of, event) => {
                snapshot.classes_of(*of).nth(place).map_or(At::End, |class| match class.size {
                    _ if !class.is_used() => At::Nothing,
                    Some(size) => At::Here(MetricValue::labelled(metric, size, class.of(*event))),
                    None => At::Here(MetricValue::labelled(metric, "large", class.of(*event))),
                })
            }
        }
    }
}

impl<'s> Iterator for MetricValues<'s> {
    type Item = MetricValue<'s>;

    fn next(&mut self) -> Option<MetricValue<'s>> {
        loop {
            let found = self.at(METRICS.get(self.row)?);
            self.place += 1;
            match found {
                At::Here(found) => return Some(found),
                At::Nothing => {}
                At::End => (self.row, self.place) = (self.row + 1, 0),
            }
        }
    }
}
