//! Go's words for the same memory: the fields of `runtime.MemStats`, and the classes of `runtime/metrics`.
//!
//! Both are views: nothing is counted for them. Which of Go's words a byte stands under follows from its account:
//!
//! | account | MemStats | /memory/classes/ |
//! |---|---|---|
//! | reserved | (none: Go's reserved address space is not in `Sys` either) | |
//! | released | HeapReleased, HeapIdle | heap/released |
//! | free, cached | HeapIdle | heap/free |
//! | spans of a purpose | the purpose's [`GoWord`]: HeapInuse, StackInuse, GCSys or OtherSys | heap/objects + heap/unused, heap/stacks, metadata/other, other |
//! | span records | MSpanSys | metadata/mspan/inuse |
//! | mutators | MCacheSys | metadata/mcache/inuse |
//! | span map, bitmaps, summaries, marks, pointer bits | GCSys | metadata/other |
//! | profile | BuckHashSys | profiling/buckets |
//! | stack records, permanent | OtherSys | other |
//!
//! **Manual memory does not count as heap.** `Heap…`, `Alloc`, `Mallocs` and their kin speak of collected objects,
//! as in Go. Blocks and everything that a program takes under purposes of its own stand in `OtherSys`, for which
//! Go has no finer word; ours are the purposes and the `/blocks/` metrics.
//!
//! Objects are counted by size class: allocated ones when a cache posts them, dead ones when they are swept, until
//! when they count as allocated. What is in spans of objects and is no object is *unused*.
//!
//! The two views are computed apart from each other, so that comparing them proves something.

use super::account::{Account, MetadataKind, all_purposes};
use super::ledger::ClassEvent;
use super::snapshot::{ClassFigures, Counted, Snapshot};
use crate::base::purpose::GoWord;

/// A field of [`MemStats`] in Go's spelling.
#[derive(Clone, Copy)]
pub struct Field {
    /// The name that Go gives it.
    pub name: &'static str,
    /// What it is here.
    pub about: &'static str,
    get: fn(&MemStats) -> i64,
}

macro_rules! mem_stats {
    ($($field:ident, $name:literal, $about:literal;)*) => {
        /// What Go's `runtime.MemStats` would say. Bytes, unless the field counts objects.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct MemStats {
            $(#[doc = $about] pub $field: i64,)*
        }

        /// The fields of [`MemStats`], in Go's order.
        pub const FIELDS: &[Field] = &[
            $(Field { name: $name, about: $about, get: |words| words.$field },)*
        ];
    };
}

mem_stats! {
    alloc,         "Alloc",        "the same as HeapAlloc";
    total_alloc,   "TotalAlloc",   "bytes of collected objects ever allocated";
    sys,           "Sys",          "all that the heap can use: every account but system and reserved";
    mallocs,       "Mallocs",      "collected objects ever allocated, and crumbs that share one";
    frees,         "Frees",        "collected objects ever swept, and all crumbs";
    heap_alloc,    "HeapAlloc",    "bytes of collected objects, as large as their slots, until they are swept";
    heap_sys,      "HeapSys",      "HeapInuse + HeapIdle";
    heap_idle,     "HeapIdle",     "free pages, with memory or without: free, cached, released";
    heap_inuse,    "HeapInuse",    "bytes in spans of collected objects";
    heap_released, "HeapReleased", "free pages whose memory the system has back";
    heap_objects,  "HeapObjects",  "Mallocs - Frees";
    stack_inuse,   "StackInuse",   "bytes in spans of execution stacks";
    stack_sys,     "StackSys",     "the same: no stacks are taken from the system directly";
    mspan_inuse,   "MSpanInuse",   "the same as MSpanSys: the table of span records is booked as a whole";
    mspan_sys,     "MSpanSys",     "bytes of span records";
    mcache_inuse,  "MCacheInuse",  "the same as MCacheSys: mutators are booked as a whole";
    mcache_sys,    "MCacheSys",    "bytes of mutators, with their caches and shards of the books";
    buck_hash_sys, "BuckHashSys",  "bytes of the heap profile's tables";
    gc_sys,        "GCSys",        "spans of the collector's own, and the page heap's tables";
    other_sys,     "OtherSys",     "manual memory (blocks, declared purposes), and what is never freed";
    next_gc,       "NextGC",       "heap size at which a collection starts: zero, there is no goal";
}

impl Field {
    /// The field's value.
    pub fn of(&self, words: &MemStats) -> i64 {
        (self.get)(words)
    }
}

/// What `runtime/metrics` would say under `/memory/classes/`: every usable byte in exactly one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryClasses {
    /// Collected objects, as large as their slots, until they are swept.
    pub heap_objects: i64,
    /// What is in spans of collected objects and is not counted as an object.
    pub heap_unused: i64,
    /// Free pages whose memory is kept.
    pub heap_free: i64,
    /// Free pages whose memory the system has back.
    pub heap_released: i64,
    /// Execution stacks.
    pub heap_stacks: i64,
    /// Span records.
    pub mspan_inuse: i64,
    /// Mutators.
    pub mcache_inuse: i64,
    /// The collector's own spans, and the page heap's tables.
    pub metadata_other: i64,
    /// The heap profile's tables.
    pub profiling: i64,
    /// Manual memory, and what is never freed.
    pub other: i64,
    /// All of them: what the system gave, less what is only reserved.
    pub total: i64,
}

impl MemoryClasses {
    /// The sum over all classes.
    pub fn parts(&self) -> i64 {
        self.heap_objects
            + self.heap_unused
            + self.heap_free
            + self.heap_released
            + self.heap_stacks
            + self.mspan_inuse
            + self.mcache_inuse
            + self.metadata_other
            + self.profiling
            + self.other
    }
}

/// Where an account stands in `MemStats`.
#[derive(Clone, Copy)]
enum Word {
    HeapInuse,
    HeapKept,
    HeapReleased,
    Stack,
    MSpan,
    MCache,
    Profile,
    Gc,
    Other,
}

const WORDS: usize = Word::Other as usize + 1;

/// The word of an account; `None` for the two that are not in `Sys`.
fn word(snapshot: &Snapshot, account: Account) -> Option<Word> {
    Some(match account {
        Account::System | Account::Reserved => return None,
        Account::Released => Word::HeapReleased,
        Account::Free | Account::Cached => Word::HeapKept,
        Account::Span(id) => match snapshot.go_word(id) {
            GoWord::Heap => Word::HeapInuse,
            GoWord::Stack => Word::Stack,
            GoWord::Collector => Word::Gc,
            GoWord::Other => Word::Other,
        },
        Account::Metadata(kind) => match kind {
            MetadataKind::SpanRecords => Word::MSpan,
            MetadataKind::Mutators => Word::MCache,
            MetadataKind::SpanMap
            | MetadataKind::PageBitmaps
            | MetadataKind::PageSummaries
            | MetadataKind::ObjectMarks
            | MetadataKind::PointerBits
            | MetadataKind::Roots
            | MetadataKind::Shapes
            | MetadataKind::Attachments => Word::Gc,
            MetadataKind::Profile => Word::Profile,
            MetadataKind::Stacks | MetadataKind::Permanent => Word::Other,
        },
    })
}

impl Snapshot {
    /// The snapshot in the words of `MemStats`: each account goes to its word.
    pub fn mem_stats(&self) -> MemStats {
        let mut sums = [0; WORDS];
        for account in Account::fixed().chain(all_purposes().map(Account::Span)) {
            if let Some(word) = word(self, account) {
                sums[word as usize] += self.balance(account);
            }
        }
        let of = |word: Word| sums[word as usize];
        let (allocated, freed) =
            (self.object_bytes(ClassEvent::Allocated), self.object_bytes(ClassEvent::Freed));
        let crumbs = self.figures.crumbs();
        let mallocs = self.objects(ClassEvent::Allocated) + crumbs;
        let frees = self.objects(ClassEvent::Freed) + crumbs;
        let heap_idle = of(Word::HeapKept) + of(Word::HeapReleased);
        MemStats {
            alloc: allocated - freed,
            total_alloc: allocated,
            sys: sums.iter().sum(),
            mallocs,
            frees,
            heap_alloc: allocated - freed,
            heap_sys: of(Word::HeapInuse) + heap_idle,
            heap_idle,
            heap_inuse: of(Word::HeapInuse),
            heap_released: of(Word::HeapReleased),
            heap_objects: mallocs - frees,
            stack_inuse: of(Word::Stack),
            stack_sys: of(Word::Stack),
            mspan_inuse: of(Word::MSpan),
            mspan_sys: of(Word::MSpan),
            mcache_inuse: of(Word::MCache),
            mcache_sys: of(Word::MCache),
            buck_hash_sys: of(Word::Profile),
            gc_sys: of(Word::Gc),
            other_sys: of(Word::Other),
            next_gc: 0,
        }
    }

    /// The snapshot in classes: each class asks the accounts that it is made of.
    pub fn memory_classes(&self) -> MemoryClasses {
        let metadata = |kind| self.balance(Account::Metadata(kind));
        let bytes = |of: ClassFigures| i64::from(of.size.unwrap_or(0)) * (of.allocated - of.freed);
        let large = self.figures.large_object_bytes(ClassEvent::Allocated)
            - self.figures.large_object_bytes(ClassEvent::Freed);
        let heap_objects = self.classes_of(Counted::Objects).map(bytes).sum::<i64>() + large;
        let (mspan_inuse, mcache_inuse) =
            (metadata(MetadataKind::SpanRecords), metadata(MetadataKind::Mutators));
        let permanent = metadata(MetadataKind::Permanent);
        let profiling = metadata(MetadataKind::Profile);
        let stacks = metadata(MetadataKind::Stacks);
        let tables = self.metadata() - mspan_inuse - mcache_inuse - stacks - profiling - permanent;
        MemoryClasses {
            heap_objects,
            heap_unused: self.in_spans_of(GoWord::Heap) - heap_objects,
            heap_free: self.free(),
            heap_released: self.balance(Account::Released),
            heap_stacks: self.in_spans_of(GoWord::Stack),
            mspan_inuse,
            mcache_inuse,
            metadata_other: self.in_spans_of(GoWord::Collector) + tables,
            profiling,
            other: self.in_spans_of(GoWord::Other) + stacks + permanent,
            total: -self.balance(Account::System) - self.balance(Account::Reserved),
        }
    }
}
