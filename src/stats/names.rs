//! THE table of metrics: every figure that leaves the heap under a name.
//!
//! Names are spelled as in Go's `runtime/metrics`: a path, a colon, the unit. Where Go has a name for the figure it
//! is Go's; ours have the same shape. A row may stand for several metrics, one for each purpose, account or size
//! class: `NAME` or `SIZE` in its name is then replaced.
//!
//! [`MetricValues`] gives every metric of a snapshot with its value. Nothing is allocated: a name is built
//! in a buffer of its own. [`visit`] does the same for those whose value is one number.

use super::account::Account;
use super::ledger::{ClassEvent, Whole};
use super::memstats::MemoryClasses;
use super::snapshot::{Counted, PurposeFigures, Resident, Snapshot};
use super::values::{MetricValues, Value};
use crate::base::Bytes;
use crate::base::purpose::{GoWord, MAX_NAME};
use core::fmt::{self, Write};

/// What sort of value a figure has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A number that rises and falls.
    Gauge,
    /// A number that only rises.
    Cumulative,
    /// How often each size occurred; each count only rises.
    Histogram,
}

impl Kind {
    /// The kind's name, as the documentation has it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Cumulative => "cumulative",
            Kind::Histogram => "histogram",
        }
    }
}

/// A row of the table.
pub struct Metric {
    /// The name, with `NAME` or `SIZE` where the row stands for several.
    pub name: &'static str,
    /// Whether the value may fall.
    pub kind: Kind,
    /// What it is, in one line.
    pub about: &'static str,
    pub(super) values: Values,
}

/// How a row's values follow from a snapshot. A value of `None` is not known, and the metric is left out.
pub(super) enum Values {
    One(fn(&Snapshot) -> Option<i64>),
    Class(fn(&MemoryClasses) -> i64),
    EachAccount(fn(&Snapshot, Account) -> Option<i64>),
    EachPurpose(fn(&PurposeFigures) -> Option<i64>),
    EachSize(Counted, ClassEvent),
    Sizes(Counted, ClassEvent),
}

/// One metric of one snapshot.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    /// Its row.
    pub metric: &'static Metric,
    /// Its whole name.
    pub name: &'a str,
    /// What stands for `NAME` or `SIZE`; empty where the row is a single metric.
    pub label: &'a str,
    /// The value, in the unit that the name ends with.
    pub value: i64,
}

/// The longest name of a metric, in bytes.
pub const MAX_METRIC_NAME: usize = MAX_NAME + 48;

/// What every name begins with where it is spelled for Prometheus.
const PREFIX: &str = "spanheap";

use ClassEvent::{Allocated, Freed};
use Counted::{Blocks, Objects};
use Kind::{Cumulative, Gauge, Histogram};
use Values::{Class, EachAccount, EachPurpose, EachSize, One, Sizes};

const fn metric(name: &'static str, kind: Kind, values: Values, about: &'static str) -> Metric {
    Metric { name, kind, about, values }
}

/// All rows.
#[rustfmt::skip]
pub static METRICS: &[Metric] = &[
    metric("/memory/classes/heap/objects:bytes",          Gauge, Class(|c| c.heap_objects),   "collected objects, until they are swept"),
    metric("/memory/classes/heap/unused:bytes",           Gauge, Class(|c| c.heap_unused),    "in spans of collected objects, but no object"),
    metric("/memory/classes/heap/free:bytes",             Gauge, Class(|c| c.heap_free),      "free pages whose memory is kept"),
    metric("/memory/classes/heap/released:bytes",         Gauge, Class(|c| c.heap_released),  "free pages whose memory the system has back"),
    metric("/memory/classes/heap/stacks:bytes",           Gauge, Class(|c| c.heap_stacks),    "execution stacks"),
    metric("/memory/classes/metadata/mspan/inuse:bytes",  Gauge, Class(|c| c.mspan_inuse),    "records of spans"),
    metric("/memory/classes/metadata/mcache/inuse:bytes", Gauge, Class(|c| c.mcache_inuse),   "mutators: their caches and shards of the books"),
    metric("/memory/classes/metadata/other:bytes",        Gauge, Class(|c| c.metadata_other), "the collector's own spans, and the page heap's tables"),
    metric("/memory/classes/profiling/buckets:bytes",     Gauge, Class(|c| c.profiling),      "the heap profile's tables"),
    metric("/memory/classes/other:bytes",                 Gauge, Class(|c| c.other),          "manual memory, and what is never freed"),
    metric("/memory/classes/total:bytes",                 Gauge, Class(|c| c.total),          "all classes: what the system gave, less what is only reserved"),

    metric("/memory/committed:bytes",       Gauge, One(|s| Some(s.committed())), "with memory behind it: free, cached, in spans, metadata"),
    metric("/memory/spans:bytes",           Gauge, One(|s| Some(s.in_spans())),  "in spans of any purpose"),
    metric("/memory/manual:bytes",          Gauge, One(|s| Some(s.in_spans_of(GoWord::Other))), "in spans of manual memory: blocks and declared purposes"),
    metric("/memory/manual-spans:bytes",    Gauge, One(|s| Some(s.whole(Whole::ManualSpan))), "in spans that the program holds as such, not cut into blocks"),
    metric("/memory/metadata:bytes",        Gauge, One(|s| Some(s.metadata())),  "the heap's own tables"),
    metric("/memory/limit:bytes",           Gauge, One(|s| bytes(s.heap_limit)), "the heap's limit on committed memory, if there is one"),
    metric("/memory/released/background:bytes", Cumulative, One(|s| Some(s.released.in_background as i64)), "given back to the system by the scavenger"),
    metric("/memory/released/limit:bytes",  Cumulative, One(|s| Some(s.released.at_limit as i64)), "given back by threads that met the heap's limit"),
    metric("/memory/released/request:bytes", Cumulative, One(|s| Some(s.released.on_request as i64)), "given back because the program asked"),
    metric("/memory/released/holes:bytes", Gauge, One(|s| Some(s.released.holes as i64)), "inside spans in use, where the system has the memory"),
    metric("/scavenger/wakeups:events",     Cumulative, One(|s| Some(s.released.wakeups as i64)), "times that the scavenger's thread woke"),
    metric("/scavenger/processor:nanoseconds", Cumulative, One(|s| Some(s.released.processor as i64)), "processor time of the scavenger's thread"),
    metric("/memory/accounts/NAME:bytes",   Gauge, EachAccount(|s, account| Some(s.balance(account))), "balance of an account; the sum over all is zero"),

    metric("/memory/resident/heap:bytes",     Gauge, One(|s| resident(s, |r| r.heap)),     "resident pages of the heap, as the kernel says"),
    metric("/memory/resident/metadata:bytes", Gauge, One(|s| resident(s, |r| r.metadata)), "resident bytes of the heap's own tables"),
    metric("/memory/resident/process:bytes",  Gauge, One(|s| resident(s, |r| r.process)),  "resident bytes of the whole process"),
    metric("/memory/resident/expected:bytes", Gauge, One(Snapshot::expected_resident),     "what the books say is resident of heap and metadata"),
    metric("/memory/resident/accounts/NAME:bytes", Gauge, EachAccount(resident_account),   "resident bytes of an account"),

    metric("/memory/purpose/NAME/inuse:bytes",             Gauge,      EachPurpose(|p| Some(p.inuse)),                     "bytes of the purpose's spans"),
    metric("/memory/purpose/NAME/spans:spans",             Gauge,      EachPurpose(|p| Some(p.spans)),                     "the purpose's spans"),
    metric("/memory/purpose/NAME/peak:bytes",              Gauge,      EachPurpose(|p| Some(p.book.peak.0 as i64)),        "the most bytes that it ever had in use"),
    metric("/memory/purpose/NAME/allocated:bytes",         Cumulative, EachPurpose(|p| Some(p.allocated)),                 "bytes of spans ever allocated for it"),
    metric("/memory/purpose/NAME/freed:bytes",             Cumulative, EachPurpose(|p| Some(p.freed)),                     "bytes of spans ever freed from it"),
    metric("/memory/purpose/NAME/reserved:bytes",          Gauge,      EachPurpose(|p| Some(p.book.reserved.0 as i64)),    "bytes promised to reservations, not in use yet"),
    metric("/memory/purpose/NAME/soft-limit:bytes",        Gauge,      EachPurpose(|p| bytes(p.book.soft_limit)),          "bytes at which the program is told, if there is a soft limit"),
    metric("/memory/purpose/NAME/soft-limit-events:events", Cumulative, EachPurpose(|p| Some(p.book.soft_events as i64)),  "how often its soft limit was passed"),
    metric("/memory/purpose/NAME/limit:bytes",             Gauge,      EachPurpose(|p| bytes(p.book.limit)),               "bytes that it does not get beyond, if there is a limit"),
    metric("/memory/purpose/NAME/refused:requests",        Cumulative, EachPurpose(|p| Some(p.book.refused as i64)),       "requests that were refused"),

    metric("/stacks/NAME/inuse:bytes",   Gauge,      EachPurpose(|p| p.stacks.map(|s| s.inuse)),     "bytes of the purpose's stacks in somebody's hands"),
    metric("/stacks/NAME/cached:bytes",  Gauge,      EachPurpose(|p| p.stacks.map(|s| s.cached)),    "bytes of its stacks in the caches of mutators"),
    metric("/stacks/NAME/parked:bytes",  Gauge,      EachPurpose(|p| p.stacks.map(|s| s.parked)),    "bytes of its stacks freed while the collector marked"),
    metric("/stacks/NAME/free:bytes",    Gauge,      EachPurpose(|p| p.stacks.map(|s| s.free)),      "bytes of its stacks that are free for everyone"),
    metric("/stacks/NAME/allocs:stacks", Cumulative, EachPurpose(|p| p.stacks.map(|s| s.allocated)), "its stacks handed out"),
    metric("/stacks/NAME/frees:stacks",  Cumulative, EachPurpose(|p| p.stacks.map(|s| s.freed)),     "its stacks given back"),

    metric("/gc/heap/allocs:objects",              Cumulative, One(|s| Some(s.objects(Allocated))),      "collected objects allocated, without crumbs"),
    metric("/gc/heap/allocs:bytes",                Cumulative, One(|s| Some(s.object_bytes(Allocated))), "bytes of them, as large as their slots"),
    metric("/gc/heap/frees:objects",               Cumulative, One(|s| Some(s.objects(Freed))),          "collected objects found dead and swept"),
    metric("/gc/heap/frees:bytes",                 Cumulative, One(|s| Some(s.object_bytes(Freed))),     "bytes of them"),
    metric("/gc/heap/objects:objects",             Gauge,      One(|s| Some(s.objects(Allocated) - s.objects(Freed))), "collected objects that are not swept"),
    metric("/gc/heap/tiny/allocs:objects",         Cumulative, One(|s| Some(s.figures.crumbs())),        "crumbs: allocations that share an object"),
    metric("/gc/heap/allocs-by-size/SIZE:objects", Cumulative, EachSize(Objects, Allocated),             "objects of a size allocated; `large` have a span to themselves"),
    metric("/gc/heap/frees-by-size/SIZE:objects",  Cumulative, EachSize(Objects, Freed),                 "objects of a size swept"),
    metric("/gc/heap/allocs-by-size:bytes",        Histogram,  Sizes(Objects, Allocated),                "sizes of the objects allocated, by size class"),
    metric("/gc/heap/frees-by-size:bytes",         Histogram,  Sizes(Objects, Freed),                    "sizes of the objects swept"),

    metric("/blocks/allocs:blocks",              Cumulative, One(|s| Some(s.blocks(Allocated))), "blocks handed out, of any size"),
    metric("/blocks/frees:blocks",               Cumulative, One(|s| Some(s.blocks(Freed))),     "blocks given back, of any size"),
    metric("/blocks/inuse:blocks",               Gauge,      One(|s| Some(s.blocks(Allocated) - s.blocks(Freed))), "blocks handed out and not given back"),
    metric("/blocks/small/inuse:bytes",          Gauge,      One(|s| Some(s.small_block_bytes())),           "bytes of the blocks in use that share a span with others"),
    metric("/blocks/large/inuse:bytes",          Gauge,      One(|s| Some(s.whole(Whole::LargeBlock))),      "bytes of the blocks in use that have a span to themselves"),
    metric("/blocks/allocs-by-size/SIZE:blocks", Cumulative, EachSize(Blocks, Allocated),                      "blocks of a size handed out; `large` have a span to themselves"),
    metric("/blocks/frees-by-size/SIZE:blocks",  Cumulative, EachSize(Blocks, Freed),                          "blocks of a size given back"),
    metric("/blocks/allocs-by-size:bytes",       Histogram,  Sizes(Blocks, Allocated),                   "sizes of the blocks handed out, by size class"),
    metric("/blocks/frees-by-size:bytes",        Histogram,  Sizes(Blocks, Freed),                       "sizes of the blocks given back, by size class"),
];

fn bytes(amount: Option<Bytes>) -> Option<i64> {
    amount.map(|bytes| bytes.0 as i64)
}

fn resident(snapshot: &Snapshot, of: fn(&Resident) -> Bytes) -> Option<i64> {
    bytes(snapshot.resident.as_ref().map(of))
}

fn resident_account(snapshot: &Snapshot, account: Account) -> Option<i64> {
    let has_pages = !matches!(account, Account::System | Account::Reserved);
    let resident = snapshot.resident.as_ref().filter(|_| has_pages)?;
    Some(resident.by_account[account.index()].0 as i64)
}

impl Metric {
    /// The unit: what stands after the name's colon.
    pub fn unit(&self) -> &'static str {
        self.name.split_once(':').map_or("", |(_, unit)| unit)
    }

    /// What the placeholder in the name stands for, if it has one.
    pub fn label(&self) -> Option<&'static str> {
        match self.values {
            One(_) | Class(_) | Sizes(..) => None,
            EachAccount(_) => Some("account"),
            EachPurpose(_) => Some("purpose"),
            EachSize(..) => Some("size"),
        }
    }

    /// The name as Prometheus spells it: `spanheap_memory_purpose_inuse_bytes`. What stands for the placeholder
    /// becomes a label under the name that [`Metric::label`] says. A unit that the name says already is not repeated.
    pub fn prometheus_name(&self) -> MetricName {
        let (path, unit) = self.name.split_once(':').unwrap_or((self.name, ""));
        let unit = if path.ends_with(unit) { "" } else { unit };
        let parts = path.split('/').chain([unit]).filter(|part| !matches!(*part, "" | "NAME" | "SIZE"));
        let mut name = MetricName::new();
        let written = name.write_str(PREFIX).and_then(|()| {
            let mut words = parts.flat_map(|part| part.split('-'));
            words.try_for_each(|word| write!(name, "_{word}"))
        });
        debug_assert!(written.is_ok(), "{} does not fit", self.name);
        name
    }
}

/// Visits every metric that the snapshot has one number for, row by row. What a histogram holds is visited as the rows
/// of its sizes.
///
/// # Errors
/// The first that `with` returns; the visit ends there.
pub fn visit(snapshot: &Snapshot, mut with: impl FnMut(Sample<'_>) -> fmt::Result) -> fmt::Result {
    MetricValues::of(snapshot).try_for_each(|of| match of.value {
        Value::Number(value) => with(Sample { metric: of.metric, name: of.name(), label: of.label(), value }),
        Value::Histogram(_) => Ok(()),
    })
}

/// A metric's name, or a part of it.
pub type MetricName = Text<MAX_METRIC_NAME>;

/// Text in a buffer of its own. What does not fit is an error.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    length: usize,
    text: [u8; N],
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const fn new() -> Text<N> {
        Text { length: 0, text: [0; N] }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.text[..self.length]).unwrap_or("")
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Text<N> {
        Text::new()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let free = self.text.get_mut(self.length..self.length + more.len()).ok_or(fmt::Error)?;
        free.copy_from_slice(more.as_bytes());
        self.length += more.len();
        Ok(())
    }
}
