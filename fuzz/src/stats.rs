//! The books against one plain map.
//!
//! Several shards take lawful entries: no account but the system's is overdrawn, and spans come and go whole. Whatever
//! is read agrees with the map, and every identity holds.
//!
//! # Safety
//! Books and shards are the body's own, and stay where they are until nobody uses them.

use super::input::Input;
use spanheap::Snapshot;
use spanheap::base::class::CLASSES;
use spanheap::base::purpose::BUILT_IN;
use spanheap::base::{Bytes, PAGE_SIZE, Pages, PurposeId, PurposeName};
use spanheap::stats::account::METADATA_KINDS;
use spanheap::stats::{Account, BookShard, Books, ClassEvent, Ledger, PurposeBook};
use std::collections::HashMap;

const SHARDS: usize = 3;

/// The books and their twin.
struct Pair {
    books: Box<Books>,
    shards: Vec<Box<BookShard>>,
    balances: HashMap<usize, i64>,
    /// Spans in use: their purpose and length.
    spans: Vec<(PurposeId, Bytes)>,
    peaks: HashMap<PurposeId, i64>,
    /// Blocks allocated and freed, by row.
    blocks: HashMap<usize, [i64; 2]>,
    snapshot: Box<Snapshot>,
}

impl Pair {
    fn new() -> Pair {
        let (books, shards) = (Box::new(Books::new()), (0..SHARDS).map(|_| Box::default()));
        let shards: Vec<Box<BookShard>> = shards.collect();
        // SAFETY: what a box holds does not move, and all of them go together.
        unsafe {
            books.open();
            shards.iter().for_each(|shard| books.link(&raw const **shard));
        }
        Pair {
            books,
            shards,
            balances: HashMap::new(),
            spans: Vec::new(),
            peaks: HashMap::new(),
            blocks: HashMap::new(),
            snapshot: Box::new(Snapshot::zero()),
        }
    }

    fn balance(&self, account: Account) -> i64 {
        self.balances.get(&account.index()).copied().unwrap_or(0)
    }

    fn book(&self, shard: usize, with: impl FnOnce(Ledger<'_>)) {
        match self.shards.get(shard) {
            Some(shard) => with(self.books.ledger(shard)),
            None => with(self.books.shared().ledger()),
        }
    }

    /// Notes a transfer of what is wanted, or of what there is.
    fn note(&mut self, from: Account, to: Account, wanted: Bytes) -> Bytes {
        let there = if from == Account::System { i64::MAX } else { self.balance(from) };
        let bytes = Bytes((wanted.0 as i64).min(there) as usize);
        *self.balances.entry(from.index()).or_default() -= bytes.0 as i64;
        *self.balances.entry(to.index()).or_default() += bytes.0 as i64;
        bytes
    }

    fn raise_peak(&mut self, purpose: PurposeId) {
        let now = self.balance(Account::Span(purpose));
        let peak = self.peaks.entry(purpose).or_default();
        *peak = now.max(*peak);
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        use Account::{Cached, Free, Metadata, Released, Reserved, System};
        let shard = input.byte() % (SHARDS + 1);
        let bytes = Pages(1 + input.byte()).bytes();
        let kind = METADATA_KINDS[input.byte() % METADATA_KINDS.len()];
        let home = [Released, Free, Cached][input.byte() % 3];
        match operation % 12 {
            0 | 1 => self.transfer(shard, System, Reserved, Bytes(bytes.0 * 16)),
            2 | 3 => self.transfer(shard, Reserved, home, bytes),
            4 => self.transfer(shard, Reserved, Metadata(kind), bytes),
            5 => self.transfer(shard, Free, home, bytes),
            6 | 7 => self.take_span(shard, home, PurposeId((input.byte() % BUILT_IN.len()) as u8), bytes),
            8 => self.free_span(shard, home, input.below(65_536)),
            9 => self.grow_span(shard, input.below(65_536), bytes),
            10 => self.handle_blocks(shard, input.byte() % (CLASSES + 1), input.byte() as i64),
            _ => self.compare(),
        }
    }

    fn transfer(&mut self, shard: usize, from: Account, to: Account, bytes: Bytes) {
        let bytes = self.note(from, to, bytes);
        self.book(shard, |ledger| ledger.transfer(from, to, bytes));
    }

    fn take_span(&mut self, shard: usize, home: Account, purpose: PurposeId, bytes: Bytes) {
        let bytes = self.note(home, Account::Span(purpose), bytes);
        if bytes < Bytes(PAGE_SIZE) {
            return self.book(shard, |ledger| {
                self.note_back(ledger, home, purpose, bytes);
            });
        }
        self.spans.push((purpose, bytes));
        self.raise_peak(purpose);
        self.book(shard, |ledger| {
            ledger.post(|entry| {
                entry.transfer(home, Account::Span(purpose), bytes);
                entry.span_allocated(purpose, bytes);
            });
        });
    }

    /// Nothing was there to make a span of: an entry of nothing changes nothing.
    fn note_back(&self, ledger: Ledger<'_>, home: Account, purpose: PurposeId, bytes: Bytes) {
        assert_eq!(bytes, Bytes::ZERO, "all amounts are whole pages");
        ledger.transfer(home, Account::Span(purpose), bytes);
    }

    fn free_span(&mut self, shard: usize, home: Account, which: usize) {
        if self.spans.is_empty() {
            return;
        }
        let (purpose, bytes) = self.spans.swap_remove(which % self.spans.len());
        self.note(Account::Span(purpose), home, bytes);
        self.book(shard, |ledger| {
            ledger.post(|entry| {
                entry.transfer(Account::Span(purpose), home, bytes);
                entry.span_freed(purpose, bytes);
            });
        });
    }

    fn grow_span(&mut self, shard: usize, which: usize, bytes: Bytes) {
        if self.spans.is_empty() {
            return;
        }
        let which = which % self.spans.len();
        let purpose = self.spans[which].0;
        let grown = self.note(Account::Free, Account::Span(purpose), bytes);
        self.spans[which].1 += grown;
        self.raise_peak(purpose);
        self.book(shard, |ledger| {
            ledger.post(|entry| {
                entry.transfer(Account::Free, Account::Span(purpose), grown);
                entry.span_resized(purpose, grown, Bytes::ZERO);
            });
        });
    }

    fn handle_blocks(&mut self, shard: usize, row: usize, times: i64) {
        let held = self.blocks.entry(row).or_default();
        let freed = (held[0] - held[1]).min(times / 2);
        *held = [held[0] + times, held[1] + freed];
        self.book(shard, |ledger| {
            ledger.post(|entry| {
                entry.class(row, ClassEvent::Allocated, times as u64);
                entry.class(row, ClassEvent::Freed, freed as u64);
            });
        });
    }

    fn compare(&mut self) {
        let peaks = &self.peaks;
        self.snapshot.read(&self.books, |id| {
            let peak = Bytes(peaks.get(&id).copied().unwrap_or(0) as usize);
            id.is_built_in().then(|| PurposeBook { peak, ..PurposeBook::new(PurposeName::built_in(id)) })
        });
        assert_eq!(self.snapshot.check(), Ok(()));
        for account in self.snapshot.accounts() {
            assert_eq!(self.snapshot.balance(account), self.balance(account), "{account:?}");
        }
        for of in self.snapshot.purposes() {
            assert_eq!(of.spans, self.spans.iter().filter(|span| span.0 == of.id).count() as i64);
        }
        for (row, class) in self.snapshot.classes().enumerate() {
            let held = self.blocks.get(&row).copied().unwrap_or_default();
            assert_eq!([class.allocated, class.freed], held, "row {row}");
        }
    }
}

/// Runs a program.
///
/// # Panics
/// When the books and the map differ, or an identity does not hold.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new();
    while let Some(operation) = input.operation() {
        pair.step(operation, &mut input);
    }
    pair.compare();
}
