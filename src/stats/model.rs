//! The slow twin of the books: random but lawful work, booked in a ledger and beside it in one plain map of
//! balances. For tests.

use super::account::METADATA_KINDS;
use super::{Account, BookShard, Books, ClassEvent, Ledger, PurposeBook, Resident, Snapshot};
use crate::base::class::{CLASSES, TABLE};
use crate::base::purpose::{BLOCKS, BUILT_IN, MAX_PURPOSES, OBJECTS};
use crate::base::random::Random;
use crate::base::{Bytes, PAGE_SIZE, Pages, PurposeId, PurposeName};
use std::collections::BTreeMap;

/// The purposes declared beside the built-in ones.
const DECLARED: [&str; 3] = ["query-results", "net/buffers", "x"];
/// Bytes of every large object.
const LARGE_OBJECT: i64 = 5 * PAGE_SIZE as i64;
/// The purposes that exist.
pub(super) const COUNT: usize = BUILT_IN.len() + DECLARED.len();

fn name_of(id: PurposeId) -> PurposeName {
    match id.index().checked_sub(BUILT_IN.len()) {
        None => PurposeName::built_in(id),
        Some(declared) => PurposeName::new(DECLARED[declared]).unwrap(),
    }
}

/// Books under random work, and beside them the same accounts kept the obvious way.
pub(super) struct World {
    books: Box<Books>,
    shards: Vec<Box<BookShard>>,
    accounts: BTreeMap<usize, i64>,
    pub(super) spans: Vec<(PurposeId, usize)>,
    peaks: [usize; MAX_PURPOSES],
    pub(super) held: [[i64; 2]; CLASSES + 1],
    pub(super) objects: [[i64; 2]; CLASSES + 1],
    /// Bytes of objects allocated, and swept.
    pub(super) object_bytes: [i64; 2],
}

/// One step of work: what, by which shard, and two numbers to choose with.
pub(super) type Step = (u8, usize, usize, usize);

impl World {
    pub(super) fn new() -> World {
        let world = World {
            books: Box::new(Books::new()),
            shards: (0..3).map(|_| Box::default()).collect(),
            accounts: BTreeMap::new(),
            spans: Vec::new(),
            peaks: [0; MAX_PURPOSES],
            held: [[0; 2]; CLASSES + 1],
            objects: [[0; 2]; CLASSES + 1],
            object_bytes: [0; 2],
        };
        // SAFETY: books and shards are boxed and dropped together; neither moves before.
        unsafe {
            world.books.open();
            world.shards.iter().for_each(|shard| world.books.link(&raw const **shard));
        }
        world
    }

    pub(super) fn balance(&self, account: Account) -> i64 {
        self.accounts.get(&account.index()).copied().unwrap_or(0)
    }

    /// Moves at most `pages` from one account to the other, and tells how many bytes.
    fn shift(&mut self, shard: usize, from: Account, to: Account, pages: usize) -> Bytes {
        let bytes = self.note(from, to, Pages(pages).bytes());
        self.ledger(shard, |ledger| ledger.transfer(from, to, bytes));
        bytes
    }

    fn note(&mut self, from: Account, to: Account, wanted: Bytes) -> Bytes {
        let bytes = match from {
            Account::System => wanted,
            _ => wanted.min(Bytes(self.balance(from) as usize)),
        };
        *self.accounts.entry(from.index()).or_default() -= bytes.0 as i64;
        *self.accounts.entry(to.index()).or_default() += bytes.0 as i64;
        bytes
    }

    fn ledger(&self, shard: usize, with: impl FnOnce(Ledger<'_>)) {
        match self.shards.get(shard) {
            Some(shard) => with(self.books.ledger(shard)),
            None => with(self.books.shared().ledger()),
        }
    }

    pub(super) fn step(&mut self, (what, shard, a, b): Step) {
        use Account::*;
        let kind = METADATA_KINDS[a % METADATA_KINDS.len()];
        let home = [Released, Free, Cached][a % 3];
        match what {
            0 => drop(self.shift(shard, System, Reserved, b * 100)),
            1 => drop(self.shift(shard, Reserved, Released, b * 10)),
            2 => drop(self.shift(shard, Reserved, Metadata(kind), b)),
            3 => drop(self.shift(shard, Free, Released, b)),
            4 => drop(self.shift(shard, Free, Cached, b)),
            5 => drop(self.shift(shard, Cached, Free, b)),
            6 | 7 => self.take_span(shard, home, PurposeId((a % COUNT) as u8), b),
            8 => self.free_span(shard, a),
            9 => self.resize_span(shard, a, b),
            10 => self.handle_blocks(shard, a % (CLASSES + 1), b as i64),
            _ => self.handle_objects(shard, a % (CLASSES + 1), b as i64),
        }
    }

    fn take_span(&mut self, shard: usize, home: Account, id: PurposeId, pages: usize) {
        let bytes = self.note(home, Account::Span(id), Pages(pages).bytes());
        if bytes == Bytes::ZERO {
            return;
        }
        self.spans.push((id, bytes.0));
        self.raise_peak(id);
        self.ledger(shard, |ledger| {
            ledger.post(|entry| {
                entry.transfer(home, Account::Span(id), bytes);
                entry.span_allocated(id, bytes);
            });
        });
    }

    fn free_span(&mut self, shard: usize, which: usize) {
        if self.spans.is_empty() {
            return;
        }
        let which = which % self.spans.len();
        let (id, bytes) = self.spans[which];
        if !self.can_lose(id, bytes) {
            return;
        }
        self.spans.swap_remove(which);
        let bytes = self.note(Account::Span(id), Account::Free, Bytes(bytes));
        self.ledger(shard, |ledger| {
            ledger.post(|entry| {
                entry.transfer(Account::Span(id), Account::Free, bytes);
                entry.span_freed(id, bytes);
            });
        });
    }

    /// Lets a span grow by free pages, or by none, and shrink by all but one of its own or by none.
    fn resize_span(&mut self, shard: usize, which: usize, pages: usize) {
        if self.spans.is_empty() {
            return;
        }
        let which = which % self.spans.len();
        let (id, old) = self.spans[which];
        let span = Account::Span(id);
        let grown = self.note(Account::Free, span, Pages(pages / 2).bytes());
        self.raise_peak(id);
        let shrinks = !pages.is_multiple_of(2) && self.can_lose(id, old - PAGE_SIZE);
        let shrunk = if shrinks { Bytes(old - PAGE_SIZE) } else { Bytes::ZERO };
        self.note(span, Account::Free, shrunk);
        self.spans[which].1 = old + grown.0 - shrunk.0;
        self.ledger(shard, |ledger| {
            ledger.post(|entry| {
                entry.transfer(Account::Free, span, grown);
                entry.transfer(span, Account::Free, shrunk);
                entry.span_resized(id, grown, shrunk);
            });
        });
    }

    fn handle_blocks(&mut self, shard: usize, row: usize, times: i64) {
        let freed = times.min(self.held[row][0] - self.held[row][1]) / 2;
        self.held[row][0] += times;
        self.held[row][1] += freed;
        self.ledger(shard, |ledger| {
            ledger.post(|entry| {
                entry.class(row, ClassEvent::Allocated, times as u64);
                entry.class(row, ClassEvent::Freed, freed as u64);
            });
        });
    }

    /// Whether the objects in the spans of a purpose leave it so many bytes that it can give up.
    fn can_lose(&self, id: PurposeId, bytes: usize) -> bool {
        let objects = self.object_bytes[0] - self.object_bytes[1];
        id != OBJECTS || self.balance(Account::Span(id)) - bytes as i64 >= objects
    }

    /// Allocates as many objects as there is room for in spans, and sweeps half of those that are there.
    fn handle_objects(&mut self, shard: usize, row: usize, times: i64) {
        let size = TABLE.get(row).map_or(LARGE_OBJECT, |row| i64::from(row.size));
        let objects = self.object_bytes[0] - self.object_bytes[1];
        let times = times.min((self.balance(Account::Span(OBJECTS)) - objects) / size);
        self.objects[row][0] += times;
        let freed = (self.objects[row][0] - self.objects[row][1]) / 2;
        self.objects[row][1] += freed;
        self.object_bytes = [self.object_bytes[0] + times * size, self.object_bytes[1] + freed * size];
        self.ledger(shard, |ledger| {
            ledger.post(|entry| {
                for (event, times) in [(ClassEvent::Allocated, times), (ClassEvent::Freed, freed)] {
                    match row {
                        CLASSES => entry.large_objects(event, times as u64, Bytes((times * size) as usize)),
                        _ => entry.objects(row, event, times as u64),
                    }
                }
                entry.crumbs(times as u64);
            });
        });
    }

    fn raise_peak(&mut self, id: PurposeId) {
        let now = self.balance(Account::Span(id)) as usize;
        self.peaks[id.index()] = self.peaks[id.index()].max(now);
    }

    pub(super) fn snapshot(&self) -> Box<Snapshot> {
        let mut snapshot = Box::new(Snapshot::zero());
        snapshot.read(&self.books, |id| {
            let peak = Bytes(*self.peaks.get(id.index())?);
            (id.index() < COUNT).then(|| PurposeBook { peak, ..PurposeBook::new(name_of(id)) })
        });
        snapshot
    }
}

/// A snapshot with something in every account, purpose and class.
pub(super) fn full() -> Box<Snapshot> {
    use Account::*;
    let mut world = World::new();
    let mut random = Random::new(7);
    (0..4).for_each(|shard| world.step((0, shard, 0, 1000)));
    for _ in 0..1000 {
        let step = (1 + random.below(11) as u8, random.below(4), random.below(1000), 1 + random.below(20));
        world.step(step);
    }
    for kind in METADATA_KINDS {
        world.shift(0, Reserved, Metadata(kind), 3);
    }
    world.shift(0, Reserved, Released, 1000);
    (0..COUNT).for_each(|id| world.take_span(0, Released, PurposeId(id as u8), 2));
    (0..=CLASSES).for_each(|row| (0..2).for_each(|_| world.handle_blocks(0, row, 9)));
    world.take_span(0, Released, OBJECTS, 600);
    (0..=CLASSES).for_each(|row| (0..2).for_each(|_| world.handle_objects(0, row, 2)));
    world.shift(0, Reserved, Free, 20);
    world.shift(0, Free, Cached, 10);
    let mut snapshot = world.snapshot();
    let mut resident = Resident::zero();
    for account in snapshot.accounts().filter(|a| a.is_committed()) {
        resident.add(account, Bytes(snapshot.balance(account) as usize));
    }
    resident.untouched = Bytes(3 * PAGE_SIZE);
    resident.process = Bytes::gib(1);
    snapshot.resident = Some(resident);
    snapshot.heap_limit = Some(Bytes::gib(2));
    snapshot.purposes[BLOCKS.index()].limit = Some(Bytes::mib(5));
    snapshot.purposes[BLOCKS.index()].reserved = Bytes::mib(1);
    snapshot.purposes[BLOCKS.index()].soft_limit = Some(Bytes::mib(4));
    snapshot.purposes[BLOCKS.index()].refused = 17;
    snapshot.purposes[BLOCKS.index()].soft_events = 3;
    snapshot
}
