//! The accounts: every byte of address space that a heap holds stands in exactly one of them.

use crate::base::PurposeId;
use crate::base::purpose::{BUILT_IN, MAX_PURPOSES};

/// Where a byte stands.
///
/// ```text
///            reserve              commit                 take                 take
///   System ──────────▶ Reserved ──────────▶ Released ◀────────── Free ◀──────────▶ Cached
///                         │                    │       release    │                  │
///                         │ commit             └────────────┬─────┴──────────────────┘
///                         ▼                                 ▼ allocate, free
///                      Metadata                           Span
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Account {
    /// What the system gave, with a minus: the other side of the first entry. Its balance is minus the sum
    /// of all others.
    System,
    /// Address space without memory behind it: touching it is a fault.
    Reserved,
    /// Usable, but the system has the memory: reads as zero, resident only after the first touch.
    Released,
    /// Free, and the memory is kept.
    Free,
    /// Free, the memory is kept, and one mutator's page cache holds it.
    Cached,
    /// The heap's own tables.
    Metadata(MetadataKind),
    /// In a span of this purpose.
    Span(PurposeId),
}

/// Kinds of metadata, each an account of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MetadataKind {
    /// The records of spans.
    SpanRecords,
    /// The map from addresses to spans.
    SpanMap,
    /// Bitmaps of pages in use and of released pages.
    PageBitmaps,
    /// Summaries of the bitmaps.
    PageSummaries,
    /// Mutators: their caches, and their shards of the books.
    Mutators,
    /// What is known of collected objects: which are reached, which slots are free.
    ObjectMarks,
    /// Where the pointers of collected objects are.
    PointerBits,
    /// Which ranges of memory the collector reads as roots.
    Roots,
    /// The records of stacks.
    Stacks,
    /// The heap itself, and what is never freed before it.
    Permanent,
    /// What collected objects look like.
    Shapes,
    /// What hangs on collected objects: finalizers, weak references, ephemerons, pins.
    Attachments,
    /// The heap profile: its samples, stacks and counters. Nothing, until a profile is begun.
    Profile,
}

/// All kinds of metadata, by number.
pub const METADATA_KINDS: [MetadataKind; 13] = [
    MetadataKind::SpanRecords,
    MetadataKind::SpanMap,
    MetadataKind::PageBitmaps,
    MetadataKind::PageSummaries,
    MetadataKind::Mutators,
    MetadataKind::ObjectMarks,
    MetadataKind::PointerBits,
    MetadataKind::Roots,
    MetadataKind::Stacks,
    MetadataKind::Permanent,
    MetadataKind::Shapes,
    MetadataKind::Attachments,
    MetadataKind::Profile,
];

/// Accounts that exist whatever purposes there are.
pub const FIXED_ACCOUNTS: usize = 5 + METADATA_KINDS.len();
/// Accounts that a heap can have: the fixed ones, and one for the spans of each purpose.
pub const ACCOUNTS: usize = FIXED_ACCOUNTS + MAX_PURPOSES;

impl MetadataKind {
    /// The kind's name in the books.
    pub const fn name(self) -> &'static str {
        match self {
            MetadataKind::SpanRecords => "metadata/span-records",
            MetadataKind::SpanMap => "metadata/span-map",
            MetadataKind::PageBitmaps => "metadata/page-bitmaps",
            MetadataKind::PageSummaries => "metadata/page-summaries",
            MetadataKind::Mutators => "metadata/mutators",
            MetadataKind::ObjectMarks => "metadata/object-marks",
            MetadataKind::PointerBits => "metadata/pointer-bits",
            MetadataKind::Roots => "metadata/roots",
            MetadataKind::Stacks => "metadata/stacks",
            MetadataKind::Permanent => "metadata/permanent",
            MetadataKind::Shapes => "metadata/shapes",
            MetadataKind::Attachments => "metadata/attachments",
            MetadataKind::Profile => "metadata/profile",
        }
    }
}

impl Account {
    /// The account's name in the books; for spans only their common prefix, since the heap keeps the names of
    /// the purposes.
    pub const fn name(self) -> &'static str {
        match self {
            Account::System => "system",
            Account::Reserved => "reserved",
            Account::Released => "released",
            Account::Free => "free",
            Account::Cached => "cached",
            Account::Metadata(kind) => kind.name(),
            Account::Span(_) => "span",
        }
    }

    /// The account's place in tables of [`ACCOUNTS`]; the fixed ones come first.
    pub const fn index(self) -> usize {
        match self {
            Account::System => 0,
            Account::Reserved => 1,
            Account::Released => 2,
            Account::Free => 3,
            Account::Cached => 4,
            Account::Metadata(kind) => 5 + kind as usize,
            Account::Span(purpose) => FIXED_ACCOUNTS + purpose.index(),
        }
    }

    /// The accounts that exist whatever purposes there are.
    pub fn fixed() -> impl Iterator<Item = Account> {
        [Account::System, Account::Reserved, Account::Released, Account::Free, Account::Cached]
            .into_iter()
            .chain(METADATA_KINDS.into_iter().map(Account::Metadata))
    }

    /// Whether memory stands behind the account's bytes, as far as the heap knows.
    pub const fn is_committed(self) -> bool {
        !matches!(self, Account::System | Account::Reserved | Account::Released)
    }
}

/// Every purpose that a heap can have.
pub fn all_purposes() -> impl Iterator<Item = PurposeId> {
    const { assert!(MAX_PURPOSES <= 256 && BUILT_IN.len() <= MAX_PURPOSES) };
    (0..MAX_PURPOSES as u8).map(PurposeId)
}
