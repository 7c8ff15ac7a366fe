//! A snapshot: all that the heap knows about its memory at one instant, as plain data.
//!
//! It has three sources. The *figures* are one reading of the ledger, consistent in themselves. The *purpose
//! books* come from the registry of purposes, which keeps what a ledger cannot: names, peaks and limits. What is
//! *resident* comes from the kernel, a moment later, when asked for. Everything else here is computed from those.
//!
//! Amounts are signed. None is negative in books that balance, and in books that do not it should be seen and not
//! be wrapped or clamped away.
//!
//! A snapshot is some 30 KiB: it belongs into mapped memory, not on a small stack.

use super::account::{ACCOUNTS, Account, METADATA_KINDS, all_purposes};
use super::ledger::{Books, CLASS_ROWS, ClassEvent, Figures, StackFigure, Whole};
use crate::base::class::{CLASSES, TABLE};
use crate::base::purpose::{BUILT_IN, GoWord, MAX_PURPOSES, StackKind};
use crate::base::{Bytes, PurposeId, PurposeName};
use core::fmt;

/// What the registry of purposes adds to a purpose's figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PurposeBook {
    /// The purpose's name.
    pub name: PurposeName,
    /// The most bytes that it ever had in use.
    pub peak: Bytes,
    /// Bytes that are promised to reservations and not in use yet.
    pub reserved: Bytes,
    /// Bytes at which the program is told.
    pub soft_limit: Option<Bytes>,
    /// Bytes that it does not get beyond.
    pub limit: Option<Bytes>,
    /// Requests that were refused: by the limit, by the heap's, or for want of memory.
    pub refused: u64,
    /// How often the soft limit was passed.
    pub soft_events: u64,
    /// For a purpose of stacks, which of them it is.
    pub stacks: Option<StackKind>,
    /// Whether it was declared, and has collected objects.
    pub objects: bool,
}

/// What is known of the stacks of a purpose. Bytes are those of the stacks alone, without guards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackFigures {
    /// Bytes of stacks in somebody's hands.
    pub inuse: i64,
    /// Bytes of stacks in the caches of mutators.
    pub cached: i64,
    /// Bytes of stacks freed while the collector marked, which wait for the end of its cycle.
    pub parked: i64,
    /// Bytes of stacks that are free for everyone.
    pub free: i64,
    /// Stacks ever handed out.
    pub allocated: i64,
    /// Stacks ever given back.
    pub freed: i64,
}

/// All that is known of one purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PurposeFigures {
    /// The purpose.
    pub id: PurposeId,
    /// What the registry says.
    pub book: PurposeBook,
    /// Bytes of its spans now.
    pub inuse: i64,
    /// Its spans now.
    pub spans: i64,
    /// Bytes of spans ever allocated for it.
    pub allocated: i64,
    /// Bytes of spans ever freed from it.
    pub freed: i64,
    /// Its stacks, if it is a purpose of stacks.
    pub stacks: Option<StackFigures>,
}

/// Events of one size class, of blocks or of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassFigures {
    /// Bytes of a block or a slot; `None` for what has a span to itself.
    pub size: Option<u32>,
    /// Handed out.
    pub allocated: i64,
    /// Given back, or swept.
    pub freed: i64,
}

/// What the events of size classes are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// Explicitly freed blocks.
    Blocks,
    /// Collected objects.
    Objects,
}

impl ClassFigures {
    /// How often an event happened.
    pub fn of(&self, event: ClassEvent) -> i64 {
        match event {
            ClassEvent::Allocated => self.allocated,
            ClassEvent::Freed => self.freed,
        }
    }
}

/// What has gone back to the system so far, and what that took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReleaseFigures {
    /// Bytes given back by the scavenger.
    pub in_background: u64,
    /// Bytes given back by threads that met the heap's limit.
    pub at_limit: u64,
    /// Bytes given back because the program asked.
    pub on_request: u64,
    /// Bytes inside spans in use that the system has now.
    pub holes: u64,
    /// How often the scavenger's thread woke; it serves all heaps of the process.
    pub wakeups: u64,
    /// Nanoseconds of processor time that the scavenger's thread has had.
    pub processor: u64,
}

impl ReleaseFigures {
    /// Nothing has gone back.
    pub const fn zero() -> ReleaseFigures {
        ReleaseFigures { in_background: 0, at_limit: 0, on_request: 0, holes: 0, wakeups: 0, processor: 0 }
    }
}

/// Bytes that the kernel says have memory behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// By account, at [`Account::index`].
    pub by_account: [Bytes; ACCOUNTS],
    /// All of the heap's pages: released, free, cached and in spans.
    pub heap: Bytes,
    /// The heap's own tables.
    pub metadata: Bytes,
    /// The whole process, with everything that is not the heap's.
    pub process: Bytes,
    /// Committed bytes that the heap knows nobody has touched, and which so cannot be resident.
    pub untouched: Bytes,
}

/// One instant of a heap.
#[derive(Clone)]
pub struct Snapshot {
    /// One reading of the ledger.
    pub figures: Figures,
    /// The purposes' books; those from `count` on mean nothing.
    pub purposes: [PurposeBook; MAX_PURPOSES],
    /// How many purposes exist: the built-in ones, and the declared ones after them.
    pub count: usize,
    /// The most bytes that the heap may have committed.
    pub heap_limit: Option<Bytes>,
    /// What has gone back to the system so far.
    pub released: ReleaseFigures,
    /// What the kernel says, if it was asked.
    pub resident: Option<Resident>,
}

/// An account's full name: `span/NAME` for the spans of a purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccountName {
    account: Account,
    purpose: PurposeName,
}

impl PurposeBook {
    /// The book of a purpose that nothing happened to yet and nothing limits.
    pub const fn new(name: PurposeName) -> PurposeBook {
        PurposeBook {
            name,
            peak: Bytes::ZERO,
            reserved: Bytes::ZERO,
            soft_limit: None,
            limit: None,
            refused: 0,
            soft_events: 0,
            stacks: None,
            objects: false,
        }
    }
}

impl PurposeFigures {
    /// Whether the purpose ever had a span, was refused one, or is limited: whether it is worth a line.
    pub fn is_used(&self) -> bool {
        let PurposeBook { soft_limit, limit, refused, .. } = self.book;
        self.allocated != 0 || self.inuse != 0 || refused != 0 || soft_limit.or(limit).is_some()
    }
}

impl ClassFigures {
    /// Whether anything ever happened in the class.
    pub fn is_used(&self) -> bool {
        self.allocated != 0 || self.freed != 0
    }
}

impl Resident {
    /// Nothing resident.
    pub const fn zero() -> Resident {
        Resident {
            by_account: [Bytes::ZERO; ACCOUNTS],
            heap: Bytes::ZERO,
            metadata: Bytes::ZERO,
            process: Bytes::ZERO,
            untouched: Bytes::ZERO,
        }
    }

    /// Books resident bytes of an account, in its own cell and in the sum that it belongs to.
    pub fn add(&mut self, account: Account, bytes: Bytes) {
        self.by_account[account.index()] += bytes;
        match account {
            Account::Metadata(_) => self.metadata += bytes,
            _ => self.heap += bytes,
        }
    }
}

impl Snapshot {
    /// Nothing booked, no purposes, nothing known of the kernel.
    pub const fn zero() -> Snapshot {
        let nameless = PurposeName::built_in(PurposeId(BUILT_IN.len() as u8));
        Snapshot {
            figures: Figures::zero(),
            purposes: [PurposeBook::new(nameless); MAX_PURPOSES],
            count: 0,
            heap_limit: None,
            released: ReleaseFigures::zero(),
            resident: None,
        }
    }

    /// Reads the books, and then each purpose's own, which `book` gives for the ones that exist. What is resident
    /// is forgotten.
    ///
    /// The order matters while others allocate, so that a peak is never below the bytes in use beside it. Whoever
    /// takes a span adds it to the registry's count, and raises the peak to that, before booking the span; whoever
    /// frees one books that before taking it off the count. So the count is never behind the books, and a peak
    /// only rises and is read last.
    pub fn read(&mut self, books: &Books, mut book: impl FnMut(PurposeId) -> Option<PurposeBook>) {
        books.read(&mut self.figures);
        self.count = 0;
        for id in all_purposes() {
            let Some(book) = book(id) else { break };
            self.purposes[id.index()] = book;
            self.count += 1;
        }
        self.resident = None;
    }

    /// An account's balance in bytes.
    pub fn balance(&self, account: Account) -> i64 {
        self.figures.balance(account)
    }

    /// The accounts that exist: the fixed ones, and one for each purpose.
    pub fn accounts(&self) -> impl Iterator<Item = Account> + use<> {
        Account::fixed().chain(all_purposes().take(self.count).map(Account::Span))
    }

    /// An account's full name.
    pub fn account_name(&self, account: Account) -> AccountName {
        let purpose = match account {
            Account::Span(id) => self.purposes[id.index()].name,
            _ => PurposeName::built_in(PurposeId(BUILT_IN.len() as u8)),
        };
        AccountName { account, purpose }
    }

    /// All that is known of a purpose.
    pub fn purpose(&self, id: PurposeId) -> PurposeFigures {
        PurposeFigures {
            id,
            book: self.purposes[id.index()],
            inuse: self.balance(Account::Span(id)),
            spans: self.figures.spans(id),
            allocated: self.figures.allocated(id),
            freed: self.figures.freed(id),
            stacks: self.purposes[id.index()].stacks.map(|kind| self.stacks(kind)),
        }
    }

    fn stacks(&self, kind: StackKind) -> StackFigures {
        let figure = |what| self.figures.stacks(kind, what);
        StackFigures {
            inuse: figure(StackFigure::InUse),
            cached: figure(StackFigure::Cached),
            parked: figure(StackFigure::Parked),
            free: figure(StackFigure::Free),
            allocated: figure(StackFigure::Allocated),
            freed: figure(StackFigure::Freed),
        }
    }

    /// Where a purpose's spans stand in Go's words.
    pub fn go_word(&self, id: PurposeId) -> GoWord {
        match self.purposes[id.index()].stacks {
            Some(_) => GoWord::Stack,
            None if self.purposes[id.index()].objects => GoWord::Heap,
            None => id.row().go,
        }
    }

    /// The purposes that exist, by number.
    pub fn purposes(&self) -> impl Iterator<Item = PurposeFigures> + '_ {
        all_purposes().take(self.count).map(|id| self.purpose(id))
    }

    /// The size classes of blocks by size, and the large blocks after them.
    pub fn classes(&self) -> impl Iterator<Item = ClassFigures> + '_ {
        self.classes_of(Counted::Blocks)
    }

    /// How often a block was handed out or given back, over all classes.
    pub fn blocks(&self, event: ClassEvent) -> i64 {
        (0..CLASS_ROWS).map(|row| self.figures.class(row, event)).sum()
    }

    /// Bytes of the blocks in use that share a span with others.
    pub fn small_block_bytes(&self) -> i64 {
        let bytes = |c: ClassFigures| c.size.map_or(0, |size| i64::from(size) * (c.allocated - c.freed));
        self.classes().map(bytes).sum()
    }

    /// The size classes of blocks, or of collected objects, by size, and the large ones after them.
    pub fn classes_of(&self, what: Counted) -> impl Iterator<Item = ClassFigures> + '_ {
        let figure = move |row, event| match what {
            Counted::Blocks => self.figures.class(row, event),
            Counted::Objects => self.figures.objects(row, event),
        };
        (0..CLASS_ROWS).map(move |row| ClassFigures {
            size: (row < CLASSES).then(|| TABLE[row].size),
            allocated: figure(row, ClassEvent::Allocated),
            freed: figure(row, ClassEvent::Freed),
        })
    }

    /// How many objects were allocated or swept, over all classes. Crumbs are not objects.
    pub fn objects(&self, event: ClassEvent) -> i64 {
        (0..CLASS_ROWS).map(|row| self.figures.objects(row, event)).sum()
    }

    /// Bytes of objects that were allocated or swept, as large as their slots.
    pub fn object_bytes(&self, event: ClassEvent) -> i64 {
        let small = (0..CLASSES).map(|row| i64::from(TABLE[row].size) * self.figures.objects(row, event));
        small.sum::<i64>() + self.figures.large_object_bytes(event)
    }

    /// Bytes of spans that are one thing: of large blocks, or of spans that the program holds as such.
    pub fn whole(&self, what: Whole) -> i64 {
        self.figures.whole(what)
    }

    /// Bytes with memory behind them, as far as the heap knows: free, cached, in spans, and metadata.
    pub fn committed(&self) -> i64 {
        self.sum(Account::is_committed)
    }

    /// Bytes that are free and whose memory is kept.
    pub fn free(&self) -> i64 {
        self.balance(Account::Free) + self.balance(Account::Cached)
    }

    /// Bytes that are free, with memory or without.
    pub fn idle(&self) -> i64 {
        self.free() + self.balance(Account::Released)
    }

    /// Bytes in spans of any purpose.
    pub fn in_spans(&self) -> i64 {
        self.sum(|account| matches!(account, Account::Span(_)))
    }

    /// Bytes in spans that stand under one of Go's words.
    pub fn in_spans_of(&self, word: GoWord) -> i64 {
        self.sum(|account| matches!(account, Account::Span(id) if self.go_word(id) == word))
    }

    /// Bytes of the heap's own tables.
    pub fn metadata(&self) -> i64 {
        METADATA_KINDS.into_iter().map(|kind| self.balance(Account::Metadata(kind))).sum()
    }

    /// All that the heap can use: every account but `system` and `reserved`.
    pub fn total(&self) -> i64 {
        self.sum(|account| !matches!(account, Account::System | Account::Reserved))
    }

    /// What the books say is resident: committed, less what nobody has touched. `None` if the kernel was not
    /// asked, since only then does the heap look for untouched bytes.
    pub fn expected_resident(&self) -> Option<i64> {
        self.resident.map(|resident| self.committed() - resident.untouched.0 as i64)
    }

    /// The sum over accounts; those of purposes that do not exist are looked at too.
    pub(super) fn sum(&self, of: impl Fn(Account) -> bool) -> i64 {
        let every = Account::fixed().chain(all_purposes().map(Account::Span));
        every.filter(|&account| of(account)).map(|account| self.balance(account)).sum()
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.account.name())?;
        match self.account {
            Account::Span(_) => write!(f, "/{}", self.purpose.as_str()),
            _ => Ok(()),
        }
    }
}
