//! The ledger: the only way to change a number.
//!
//! [`Entry::transfer`] moves bytes from one account to another, so the sum over all accounts is zero by
//! construction. Beside it stand events that only ever grow (the *tally*). Entries made in one
//! [`Ledger::post`] are in a snapshot together or not at all.
//!
//! # Safety
//! Shards are linked by address: a caller promises that they stay where they are. The shared shard is a part of
//! the books.

use super::account::{Account, FIXED_ACCOUNTS};
use super::shard::{Published, Shard, Shards, Transaction};
use crate::base::class::CLASSES;
use crate::base::purpose::{MAX_PURPOSES, STACK_KINDS, StackKind};
use crate::base::{Bytes, Guard, Lock, PurposeId, Rank};

/// Events of one size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClassEvent {
    /// Blocks or objects handed out.
    Allocated,
    /// Blocks given back, or dead objects swept.
    Freed,
}

/// Spans that are not cut into pieces: all of it is one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Whole {
    /// A block that has a span to itself.
    LargeBlock,
    /// A span that the program holds as such.
    ManualSpan,
}

/// Figures of one purpose, in the order in which they stand.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum OfPurpose {
    Inuse,
    Allocated,
    Freed,
    SpansAllocated,
    SpansFreed,
}

/// Figures of one purpose of stacks, in the order in which they stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StackFigure {
    /// Bytes of stacks in somebody's hands.
    InUse,
    /// Bytes of stacks in the caches of mutators.
    Cached,
    /// Bytes of stacks that were freed while the collector marked, and wait for the end of the cycle.
    Parked,
    /// Bytes of stacks that are free for everyone.
    Free,
    /// Stacks ever handed out.
    Allocated,
    /// Stacks ever given back.
    Freed,
}

const OF_STACKS: usize = 6;
const OF_PURPOSE: usize = 5;
/// Rows of class events: one a class, and one for what has a span to itself. Blocks and collected objects have rows of
/// their own; their sizes are the same.
pub const CLASS_ROWS: usize = CLASSES + 1;
const CLASSES_FROM: usize = FIXED_ACCOUNTS;
const OBJECTS_FROM: usize = CLASSES_FROM + 2 * CLASS_ROWS;
/// Bytes of large objects: the row of the others says how large they are.
const LARGE_BYTES_FROM: usize = OBJECTS_FROM + 2 * CLASS_ROWS;
/// Crumbs that share an object.
const CRUMBS: usize = LARGE_BYTES_FROM + 2;
const WHOLES_FROM: usize = CRUMBS + 1;
const STACKS_FROM: usize = WHOLES_FROM + 2;
// The purposes come last, so that the figures of those that do not exist are all at the end.
const PURPOSES_FROM: usize = STACKS_FROM + OF_STACKS * STACK_KINDS;
/// Figures in a shard.
pub const FIGURES: usize = PURPOSES_FROM + OF_PURPOSE * MAX_PURPOSES;

/// A shard of a heap's books.
pub type BookShard = Shard<FIGURES>;

/// Sums for another process.
pub type PublishedBooks = Published<FIGURES>;

/// How many figures stand before those of the purposes, and how many each purpose has.
pub const SHAPE: (usize, usize) = (PURPOSES_FROM, OF_PURPOSE);

/// One reading of all figures.
#[derive(Clone)]
pub struct Figures(pub(super) [i64; FIGURES]);

pub(super) fn account_figure(account: Account) -> usize {
    match account {
        Account::Span(purpose) => purpose_figure(purpose, OfPurpose::Inuse),
        fixed => fixed.index(),
    }
}

pub(super) fn purpose_figure(purpose: PurposeId, what: OfPurpose) -> usize {
    PURPOSES_FROM + OF_PURPOSE * purpose.index() + what as usize
}

pub(super) fn class_figure(row: usize, event: ClassEvent) -> usize {
    CLASSES_FROM + 2 * row + event as usize
}

pub(super) fn object_figure(row: usize, event: ClassEvent) -> usize {
    OBJECTS_FROM + 2 * row + event as usize
}

pub(super) fn large_bytes_figure(event: ClassEvent) -> usize {
    LARGE_BYTES_FROM + event as usize
}

pub(super) fn stack_figure(kind: StackKind, what: StackFigure) -> usize {
    STACKS_FROM + OF_STACKS * kind.index() + what as usize
}

/// Figures that can be other than zero where there are so many purposes: they are the first ones.
pub fn live_figures(purposes: usize) -> usize {
    PURPOSES_FROM + OF_PURPOSE * purposes.min(MAX_PURPOSES)
}

impl Figures {
    /// All at zero.
    pub const fn zero() -> Figures {
        Figures([0; FIGURES])
    }

    /// The figures as they stand in a shard.
    pub fn raw(&mut self) -> &mut [i64; FIGURES] {
        &mut self.0
    }

    /// An account's balance in bytes.
    pub fn balance(&self, account: Account) -> i64 {
        self.0[account_figure(account)]
    }

    /// How often `event` happened in a row of the size classes; row [`CLASSES`] is that of large blocks.
    pub fn class(&self, row: usize, event: ClassEvent) -> i64 {
        self.0[class_figure(row, event)]
    }

    /// How often `event` happened to collected objects of a row; row [`CLASSES`] is that of large ones.
    pub fn objects(&self, row: usize, event: ClassEvent) -> i64 {
        self.0[object_figure(row, event)]
    }

    /// Bytes of the large objects that `event` happened to.
    pub fn large_object_bytes(&self, event: ClassEvent) -> i64 {
        self.0[large_bytes_figure(event)]
    }

    /// Allocations that were served from an object that was there already.
    pub fn crumbs(&self) -> i64 {
        self.0[CRUMBS]
    }

    /// Bytes of spans that are one thing.
    pub fn whole(&self, what: Whole) -> i64 {
        self.0[WHOLES_FROM + what as usize]
    }

    /// Bytes of spans ever allocated for a purpose.
    pub fn allocated(&self, purpose: PurposeId) -> i64 {
        self.0[purpose_figure(purpose, OfPurpose::Allocated)]
    }

    /// Bytes of spans ever freed from a purpose.
    pub fn freed(&self, purpose: PurposeId) -> i64 {
        self.0[purpose_figure(purpose, OfPurpose::Freed)]
    }

    /// A figure of a purpose of stacks.
    pub fn stacks(&self, kind: StackKind, what: StackFigure) -> i64 {
        self.0[stack_figure(kind, what)]
    }

    /// Spans that the purpose has now.
    pub fn spans(&self, purpose: PurposeId) -> i64 {
        self.0[purpose_figure(purpose, OfPurpose::SpansAllocated)]
            - self.0[purpose_figure(purpose, OfPurpose::SpansFreed)]
    }
}

/// A heap's books: every shard, and one shard for work that no mutator does.
pub struct Books {
    shards: Shards<FIGURES>,
    shared: Lock<BookShard>,
}

/// The right to make entries in one shard.
///
/// Whoever holds it is the shard's only writer: a mutator inside its slow path, or the holder of the shared
/// shard's lock.
#[derive(Clone, Copy)]
pub struct Ledger<'a> {
    books: &'a Books,
    shard: &'a BookShard,
}

/// The shared shard's ledger, and its lock.
pub struct SharedLedger<'a> {
    books: &'a Books,
    shard: Guard<'a, BookShard>,
}

/// Entries that belong together.
pub struct Entry<'a>(Transaction<'a, FIGURES>);

impl Books {
    /// Empty books. Call [`Books::open`] once they stand where they will stay.
    pub fn new() -> Books {
        Books { shards: Shards::new(), shared: Lock::new(Rank::SharedShard, Shard::new()) }
    }

    /// Makes books in zeroed memory, open: they are too large for a stack.
    ///
    /// # Safety
    /// `at` is zeroed memory for books that nobody else sees yet, where they stay.
    pub unsafe fn init(at: *mut Books) {
        // SAFETY: the memory is ours alone, and zeros are a valid shard.
        unsafe {
            (&raw mut (*at).shards).write(Shards::new());
            Lock::init(&raw mut (*at).shared, Rank::SharedShard);
            (*at).open();
        }
    }

    /// Links the shared shard.
    ///
    /// # Safety
    /// Called once, and the books do not move afterwards.
    pub unsafe fn open(&self) {
        // Not held across `link`, whose lock comes before this one in the order.
        let shard = core::ptr::from_ref::<BookShard>(&self.shared.lock());
        // SAFETY: the shard is a part of the books and so lives as long as they do.
        unsafe { self.shards.link(shard) }
    }

    /// Adds a mutator's shard.
    ///
    /// # Safety
    /// `shard` is not linked yet and lives, unmoved, as long as these books.
    pub unsafe fn link(&self, shard: *const BookShard) {
        // SAFETY: handed on.
        unsafe { self.shards.link(shard) }
    }

    /// The ledger of a linked shard, for the shard's only writer.
    pub fn ledger<'a>(&'a self, shard: &'a BookShard) -> Ledger<'a> {
        Ledger { books: self, shard }
    }

    /// The shared shard, for work that no mutator does. Held for a few entries, never across a system call.
    pub fn shared(&self) -> SharedLedger<'_> {
        SharedLedger { books: self, shard: self.shared.lock() }
    }

    /// Reads all figures at one instant, without stopping a writer.
    pub fn read(&self, figures: &mut Figures) {
        self.shards.read(&mut figures.0);
    }

    /// Reads all figures at one instant into a copy that another process looks at, as the answer to `question`.
    /// `purposes` says how many there are, so that the figures of others need not be looked at.
    pub fn publish(&self, into: &PublishedBooks, question: u64, purposes: impl FnOnce() -> usize) {
        self.shards.publish(into, question, || live_figures(purposes()));
    }

    /// Where another process finds the first shard, and the count of readings.
    pub fn addresses(&self) -> (u64, u64) {
        self.shards.addresses()
    }

    /// Takes the books' own locks, before a `fork`.
    pub fn acquire_for_fork(&self) {
        self.shards.reader_lock().acquire();
        self.shared.acquire();
    }

    /// Gives them back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`Books::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise is the contract of both.
        unsafe {
            self.shared.release();
            self.shards.reader_lock().release();
        }
    }
}

impl Default for Books {
    fn default() -> Books {
        Books::new()
    }
}

impl SharedLedger<'_> {
    /// The ledger to make entries with.
    pub fn ledger(&self) -> Ledger<'_> {
        Ledger { books: self.books, shard: &self.shard }
    }
}

impl Ledger<'_> {
    /// Makes the entries that `write` makes, as one transaction.
    #[inline]
    pub fn post(&self, write: impl FnOnce(&mut Entry<'_>)) {
        write(&mut Entry(self.shard.begin(&self.books.shards)));
    }

    /// Moves bytes from one account to another, as a transaction of its own.
    #[inline]
    pub fn transfer(&self, from: Account, to: Account, bytes: Bytes) {
        self.post(|entry| entry.transfer(from, to, bytes));
    }
}

impl Entry<'_> {
    /// Moves bytes from one account to another.
    #[inline]
    pub fn transfer(&mut self, from: Account, to: Account, bytes: Bytes) {
        if bytes == Bytes::ZERO {
            return;
        }
        self.0.add(account_figure(from), -(bytes.0 as i64));
        self.0.add(account_figure(to), bytes.0 as i64);
    }

    /// Notes that a span was allocated for a purpose.
    #[inline]
    pub fn span_allocated(&mut self, purpose: PurposeId, bytes: Bytes) {
        self.0.add(purpose_figure(purpose, OfPurpose::Allocated), bytes.0 as i64);
        self.0.add(purpose_figure(purpose, OfPurpose::SpansAllocated), 1);
    }

    /// Notes that a span of a purpose was freed.
    #[inline]
    pub fn span_freed(&mut self, purpose: PurposeId, bytes: Bytes) {
        self.0.add(purpose_figure(purpose, OfPurpose::Freed), bytes.0 as i64);
        self.0.add(purpose_figure(purpose, OfPurpose::SpansFreed), 1);
    }

    /// Notes that a span grew or shrank where it stands.
    #[inline]
    pub fn span_resized(&mut self, purpose: PurposeId, grown: Bytes, shrunk: Bytes) {
        self.0.add(purpose_figure(purpose, OfPurpose::Allocated), grown.0 as i64);
        self.0.add(purpose_figure(purpose, OfPurpose::Freed), shrunk.0 as i64);
    }

    /// Moves bytes of stacks from one of their figures to another; `None` is the rest of their spans.
    #[inline]
    pub fn stacks(
        &mut self,
        kind: StackKind,
        from: Option<StackFigure>,
        to: Option<StackFigure>,
        bytes: Bytes,
    ) {
        if let Some(from) = from {
            self.0.add(stack_figure(kind, from), -(bytes.0 as i64));
        }
        if let Some(to) = to {
            self.0.add(stack_figure(kind, to), bytes.0 as i64);
        }
    }

    /// Counts a stack that was handed out or given back.
    #[inline]
    pub fn stack_event(&mut self, kind: StackKind, event: StackFigure) {
        self.0.add(stack_figure(kind, event), 1);
    }

    /// Counts events of a row of the size classes; row [`CLASSES`] is that of large blocks.
    #[inline]
    pub fn class(&mut self, row: usize, event: ClassEvent, times: u64) {
        self.0.add(class_figure(row, event), times as i64);
    }

    /// Counts events of collected objects of a row of the size classes.
    #[inline]
    pub fn objects(&mut self, row: usize, event: ClassEvent, times: u64) {
        self.0.add(object_figure(row, event), times as i64);
    }

    /// Counts events of large objects, which have so many bytes together.
    #[inline]
    pub fn large_objects(&mut self, event: ClassEvent, times: u64, bytes: Bytes) {
        self.0.add(object_figure(CLASSES, event), times as i64);
        self.0.add(large_bytes_figure(event), bytes.0 as i64);
    }

    /// Counts allocations that were served from an object that was there already.
    #[inline]
    pub fn crumbs(&mut self, times: u64) {
        self.0.add(CRUMBS, times as i64);
    }

    /// Counts bytes of spans that are one thing, more or fewer.
    #[inline]
    pub fn whole(&mut self, what: Whole, bytes: i64) {
        self.0.add(WHOLES_FROM + what as usize, bytes);
    }
}
