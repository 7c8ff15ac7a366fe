//! The proof of the books: every numbered identity, on any snapshot, in any build.
//!
//! The numbers and texts are those of the chapter's head ([`crate::stats`]). What is derived is checked against
//! another way to the same number, so that an account which someone forgets to place shows up as a difference.

use super::account::{Account, METADATA_KINDS, all_purposes};
use super::memstats::{MemStats, MemoryClasses};
use super::snapshot::{AccountName, ClassFigures, Counted, Snapshot, StackFigures};
use crate::base::{Bytes, PAGE_SIZE, PurposeId, PurposeName};
use core::fmt;

/// The identities by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
#[rustfmt::skip]
#[expect(missing_docs, reason = "their meaning is their text")]
pub enum Identity {
    ZeroSum = 1, NoDebt, InUse, ClassEvents, PurposeEvents, SpansHaveBytes, PagesForSpans, Peak, NoStrangers,
    SysByWords, SysByAccounts, HeapSys, HeapReleased, HeapAlloc, HeapObjects, InuseOfSys, ClassesTotal, SameWords,
    ResidentSums, StackBytes, StackEvents,
}

/// An identity that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Imbalance {
    /// Which one.
    pub identity: Identity,
    /// For whom.
    pub subject: Subject,
    /// What stands on the left of the relation that fails.
    pub left: i64,
    /// What stands on its right.
    pub right: i64,
}

/// What an identity speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The whole books.
    Books,
    /// One account.
    Account(AccountName),
    /// One purpose that exists.
    Purpose(PurposeName),
    /// The number of one that does not.
    Stranger(PurposeId),
    /// One size class; `None` is that of large blocks.
    Class(Option<u32>),
    /// A size class of collected objects, in bytes; `None` is that of large objects.
    ObjectClass(Option<u32>),
    /// A field of `MemStats`, a metric, or a sum of resident bytes.
    Word(&'static str),
}

use Identity::*;

impl Identity {
    /// All, in order.
    #[rustfmt::skip]
    pub const ALL: [Identity; 21] = [
        ZeroSum, NoDebt, InUse, ClassEvents, PurposeEvents, SpansHaveBytes, PagesForSpans, Peak, NoStrangers,
        SysByWords, SysByAccounts, HeapSys, HeapReleased, HeapAlloc, HeapObjects, InuseOfSys, ClassesTotal, SameWords,
        ResidentSums, StackBytes, StackEvents,
    ];

    /// The number that names it everywhere.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What it says.
    #[rustfmt::skip]
    pub const fn text(self) -> &'static str {
        match self {
            ZeroSum        => "The sum over all accounts is zero",
            NoDebt         => "No account but `system` is below zero",
            InUse          => "For every purpose: bytes in use = bytes allocated − bytes freed",
            ClassEvents    => "For every size class, of blocks and of objects: 0 ≤ freed ≤ allocated",
            PurposeEvents  => "For every purpose: 0 ≤ bytes freed ≤ bytes allocated",
            SpansHaveBytes => "For every purpose: spans are there exactly when bytes are in use",
            PagesForSpans  => "For every purpose: at least a page is in use for each span",
            Peak           => "For every purpose: bytes in use ≤ peak",
            NoStrangers    => "A purpose that does not exist has no figures",
            SysByWords     => "Sys = HeapSys + StackSys + MSpanSys + MCacheSys + BuckHashSys + GCSys + OtherSys",
            SysByAccounts  => "Sys = the sum over all accounts but `system` and `reserved`",
            HeapSys        => "HeapSys = HeapInuse + HeapIdle",
            HeapReleased   => "HeapReleased ≤ HeapIdle",
            HeapAlloc      => "Alloc = HeapAlloc ≤ HeapInuse, and HeapAlloc ≤ TotalAlloc",
            HeapObjects    => "HeapObjects = Mallocs − Frees",
            InuseOfSys     => "StackInuse ≤ StackSys, MSpanInuse ≤ MSpanSys, MCacheInuse ≤ MCacheSys",
            ClassesTotal   => "/memory/classes/total:bytes = the sum of all other /memory/classes/ metrics",
            SameWords      => "The /memory/classes/ metrics say the same as Go's MemStats",
            ResidentSums   => "Resident bytes of heap and metadata = the sums of their accounts' resident bytes",
            StackBytes     => "For every purpose of stacks: stacks in use, cached, parked and free ≤ bytes in use, and none is below zero",
            StackEvents    => "For every purpose of stacks: 0 ≤ stacks freed ≤ stacks allocated",
        }
    }

    fn equal(self, subject: Subject, left: i64, right: i64) -> Result<(), Imbalance> {
        self.require(left == right, subject, left, right)
    }

    fn at_most(self, subject: Subject, left: i64, right: i64) -> Result<(), Imbalance> {
        self.require(left <= right, subject, left, right)
    }

    fn require(self, holds: bool, subject: Subject, left: i64, right: i64) -> Result<(), Imbalance> {
        if holds { Ok(()) } else { Err(Imbalance { identity: self, subject, left, right }) }
    }
}

impl Snapshot {
    /// Proves every identity.
    ///
    /// # Errors
    /// The first one that fails, by number within its group, with both sides.
    pub fn check(&self) -> Result<(), Imbalance> {
        self.check_accounts()?;
        self.check_purposes()?;
        self.classes().try_for_each(|of| check_class(Subject::Class(of.size), of))?;
        self.classes_of(Counted::Objects)
            .try_for_each(|of| check_class(Subject::ObjectClass(of.size), of))?;
        let (words, classes) = (self.mem_stats(), self.memory_classes());
        words.check(self.total())?;
        classes.check(&words)?;
        self.check_resident()
    }

    fn check_accounts(&self) -> Result<(), Imbalance> {
        ZeroSum.equal(Subject::Books, self.sum(|_| true), 0)?;
        for account in self.accounts().filter(|&account| account != Account::System) {
            NoDebt.at_most(Subject::Account(self.account_name(account)), 0, self.balance(account))?;
        }
        Ok(())
    }

    fn check_purposes(&self) -> Result<(), Imbalance> {
        for of in self.purposes() {
            let subject = Subject::Purpose(of.book.name);
            InUse.equal(subject, of.inuse, of.allocated - of.freed)?;
            PurposeEvents.at_most(subject, 0, of.freed)?;
            PurposeEvents.at_most(subject, of.freed, of.allocated)?;
            SpansHaveBytes.require(of.spans.signum() == of.inuse.signum(), subject, of.spans, of.inuse)?;
            PagesForSpans.at_most(subject, of.spans * PAGE_SIZE as i64, of.inuse)?;
            Peak.at_most(subject, of.inuse, of.book.peak.0 as i64)?;
            if let Some(stacks) = of.stacks {
                check_stacks(stacks, subject, of.inuse)?;
            }
        }
        for id in all_purposes().skip(self.count) {
            let of = self.purpose(id);
            for figure in [of.inuse, of.allocated, of.freed, of.spans] {
                NoStrangers.equal(Subject::Stranger(id), figure, 0)?;
            }
        }
        Ok(())
    }

    fn check_resident(&self) -> Result<(), Imbalance> {
        let Some(resident) = self.resident else { return Ok(()) };
        let metadata = METADATA_KINDS.map(|kind| resident.by_account[Account::Metadata(kind).index()]);
        let metadata: Bytes = metadata.into_iter().sum();
        let heap = resident.by_account.into_iter().sum::<Bytes>() - metadata;
        ResidentSums.equal(Subject::Word("heap"), resident.heap.0 as i64, heap.0 as i64)?;
        ResidentSums.equal(Subject::Word("metadata"), resident.metadata.0 as i64, metadata.0 as i64)
    }
}

fn check_stacks(of: StackFigures, subject: Subject, inuse: i64) -> Result<(), Imbalance> {
    for bytes in [of.inuse, of.cached, of.parked, of.free] {
        StackBytes.at_most(subject, 0, bytes)?;
    }
    StackBytes.at_most(subject, of.inuse + of.cached + of.parked + of.free, inuse)?;
    StackEvents.at_most(subject, 0, of.freed)?;
    StackEvents.at_most(subject, of.freed, of.allocated)
}

fn check_class(subject: Subject, of: ClassFigures) -> Result<(), Imbalance> {
    ClassEvents.at_most(subject, 0, of.freed)?;
    ClassEvents.at_most(subject, of.freed, of.allocated)
}

impl MemStats {
    /// Proves the identities among Go's words. `total` is what the accounts say that `Sys` is.
    pub(super) fn check(&self, total: i64) -> Result<(), Imbalance> {
        let word = Subject::Word;
        let parts = self.heap_sys
            + self.stack_sys
            + self.mspan_sys
            + self.mcache_sys
            + self.buck_hash_sys
            + self.gc_sys
            + self.other_sys;
        SysByWords.equal(word("Sys"), self.sys, parts)?;
        SysByAccounts.equal(word("Sys"), self.sys, total)?;
        Identity::HeapSys.equal(word("HeapSys"), self.heap_sys, self.heap_inuse + self.heap_idle)?;
        Identity::HeapReleased.at_most(word("HeapReleased"), self.heap_released, self.heap_idle)?;
        Identity::HeapAlloc.equal(word("Alloc"), self.alloc, self.heap_alloc)?;
        Identity::HeapAlloc.at_most(word("HeapAlloc"), self.heap_alloc, self.heap_inuse)?;
        Identity::HeapAlloc.at_most(word("TotalAlloc"), self.heap_alloc, self.total_alloc)?;
        Identity::HeapObjects.equal(word("HeapObjects"), self.heap_objects, self.mallocs - self.frees)?;
        InuseOfSys.at_most(word("StackInuse"), self.stack_inuse, self.stack_sys)?;
        InuseOfSys.at_most(word("MSpanInuse"), self.mspan_inuse, self.mspan_sys)?;
        InuseOfSys.at_most(word("MCacheInuse"), self.mcache_inuse, self.mcache_sys)
    }
}

impl MemoryClasses {
    /// Proves that the classes add up, and that they agree with Go's other words for the same.
    pub(super) fn check(&self, words: &MemStats) -> Result<(), Imbalance> {
        ClassesTotal.equal(Subject::Word("total"), self.total, self.parts())?;
        for (word, class, go) in [
            ("Sys", self.total, words.sys),
            ("HeapAlloc", self.heap_objects, words.heap_alloc),
            ("HeapInuse", self.heap_objects + self.heap_unused, words.heap_inuse),
            ("HeapReleased", self.heap_released, words.heap_released),
            ("HeapIdle", self.heap_free + self.heap_released, words.heap_idle),
            ("StackInuse", self.heap_stacks, words.stack_inuse),
            ("MSpanSys", self.mspan_inuse, words.mspan_sys),
            ("MCacheSys", self.mcache_inuse, words.mcache_sys),
            ("GCSys", self.metadata_other, words.gc_sys),
            ("BuckHashSys", self.profiling, words.buck_hash_sys),
            ("OtherSys", self.other, words.other_sys),
        ] {
            SameWords.equal(Subject::Word(word), class, go)?;
        }
        Ok(())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Books => write!(f, "the books"),
            Subject::Account(name) => write!(f, "account {name}"),
            Subject::Purpose(name) => write!(f, "purpose {name}"),
            Subject::Stranger(id) => write!(f, "purpose number {}", id.0),
            Subject::Class(Some(size)) => write!(f, "blocks of {size} B"),
            Subject::Class(None) => write!(f, "large blocks"),
            Subject::ObjectClass(Some(size)) => write!(f, "objects of {size} B"),
            Subject::ObjectClass(None) => write!(f, "large objects"),
            Subject::Word(word) => f.write_str(word),
        }
    }
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Imbalance { identity, subject, left, right } = self;
        let (number, text) = (identity.number(), identity.text());
        write!(f, "identity {number} fails for {subject}: {left} against {right} ({text})")
    }
}

impl core::error::Error for Imbalance {}
