//! The statistics page: what another process finds in a heap's memory, and where.
//!
//! A heap's own memory begins with a [`Window`]. It costs the heap nothing: no file, no descriptor, no mapping of its
//! own, no thread. Whoever may read the process's memory (`/proc/PID/mem`: the same user, or root) reads it there; the
//! kernel decides who that is, so nothing here does. A forked child has a copy that is its own from the start, with the
//! same addresses in it.
//!
//! ```text
//!   Beacon ──▶ Window: identity, shape, addresses ──┬──▶ first shard ──▶ next … (each with a sequence number)
//!                │                                  ├──▶ count of readings: odd while figures move between copies
//!                │                                  └──▶ the purposes' rows, their number, the heap's limit
//!                ├── bell ◀── rung by a reader        (the only words that others write)
//!                ├── orders ◀── what it wants done
//!                └── published sums: the answer where shards never stand still
//! ```
//!
//! A reader first looks by itself: nothing in the heap notices. Only where the shards of a busy heap never stand still
//! long enough does it ring, and the next slow path of any thread publishes the sums. [`outside`](super::outside) is
//! that reader. `docs/statistics-page.md` documents every word; a test compares it with this file.
//!
//! 1. `magic`, `version`, `size` and `at` never change their place or meaning in any version.
//! 2. Everything else may change with `version`; a reader of another one goes no further.
//! 3. What stands in the addresses was written before the beacon named the window.
//! 4. The heap writes no word that others write, and decides nothing by them but whether to publish and which orders
//!    to carry out.
//!
//! The file does not know how a purpose's row is kept, nor who carries out an order.
//!
//! # Safety
//! The only unsafe step is [`Window::init`], which fills memory that nobody else has seen.

use super::account::FIXED_ACCOUNTS;
use super::ledger::{BookShard, Books, CLASS_ROWS, FIGURES, PublishedBooks, SHAPE};
use super::shard::COPIES;
use crate::base::purpose::MAX_PURPOSES;
use crate::base::sync::{AtomicU32, AtomicU64, Ordering};
use crate::base::{Address, Bytes, PAGE_SIZE};
use core::mem::offset_of;

/// What a window begins with.
pub const MAGIC: [u8; 16] = *b"spanheap figures";
/// The version of the layout.
pub const VERSION: u32 = 2;
/// The most ranges of addresses that a window lists.
pub const MOST_RANGES: usize = 32;

/// A heap's statistics page. See the [file's head](self).
#[repr(C, align(64))]
pub struct Window {
    magic: [u8; 16],
    version: u32,
    size: u32,
    at: AtomicU64,
    serial: AtomicU64,
    /// The window of another heap of this process, or zero.
    next: AtomicU64,
    /// 1 while others may look; 0 where the configuration says `page:off`.
    open: AtomicU32,
    range_count: AtomicU32,
    shape: Shape,
    places: Words,
    ranges: [Range; MOST_RANGES],
    talk: Talk,
    published: PublishedBooks,
}

/// The numbers that the meaning of figures depends on. A reader goes no further unless they are its own.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Bytes of the heap's page.
    pub page: u32,
    /// Figures in a copy.
    pub figures: u32,
    /// Copies in a shard.
    pub copies: u32,
    /// Accounts that stand before the rest.
    pub fixed_accounts: u32,
    /// Rows of class events, two figures each, that follow them.
    pub class_rows: u32,
    /// Where the figures of the first purpose stand.
    pub purposes_from: u32,
    /// Figures of a purpose.
    pub of_purpose: u32,
    /// Purposes that there can be.
    pub purposes: u32,
    /// Where in a shard its sequence number stands.
    pub shard_sequence: u32,
    /// Where in a shard the address of the next one stands.
    pub shard_next: u32,
    /// Where in a shard the first copy begins.
    pub shard_copies: u32,
    /// Bytes from one purpose's row to the next.
    pub row: u32,
}

/// Where a heap's parts stand that a reader wants beside the books.
pub struct Places {
    /// The first purpose's row.
    pub rows: Address,
    /// How many purposes there are.
    pub row_count: Address,
    /// The heap's limit.
    pub limit: Address,
    /// Four words: bytes given back in the background, at the limit, and on request, and those inside spans in use that
    /// the system has now.
    pub given: Address,
    /// Two words: how often the scavenger woke, and its nanoseconds of processor time.
    pub scavenger: Address,
}

/// Addresses of what stands elsewhere in the heap's memory.
#[repr(C)]
#[derive(Default)]
struct Words {
    /// The address of the first shard.
    first_shard: AtomicU64,
    /// The count of readings.
    readings: AtomicU64,
    /// The first purpose's row.
    rows: AtomicU64,
    /// How many purposes there are.
    row_count: AtomicU64,
    /// The heap's limit; all ones if there is none.
    limit: AtomicU64,
    /// Bytes given back: in the background, at the limit, on request.
    given: AtomicU64,
    /// What the scavenger did: wake-ups, nanoseconds.
    scavenger: AtomicU64,
}

/// Addresses that the heap has reserved, and what for. What of them is resident says the kernel.
#[repr(C)]
#[derive(Default)]
pub struct Range {
    from: AtomicU64,
    bytes: AtomicU64,
    /// 0 for the pages that the heap hands out; for tables the number of their kind of metadata and one.
    kind: AtomicU64,
}

/// The words that other processes write, and the heap's answers.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Talk {
    /// Any new value asks the heap to look here.
    bell: AtomicU64,
    /// The last value of the bell that somebody took up.
    heard: AtomicU64,
    /// A new value asks for free memory to be released.
    release: Order,
    /// A new value asks for events of blocks to be entered in the books: those of the thread that answers.
    count: Order,
    /// What somebody wants of the heap profile.
    profile: Handout,
}

/// Something to be done: wanted when a new value is written, done when the heap has written the same.
#[repr(C)]
#[derive(Default)]
pub struct Order {
    wanted: AtomicU64,
    done: AtomicU64,
    /// Bytes, in all.
    sum: AtomicU64,
}

/// Something wanted of the heap profile, and what came of it.
#[repr(C)]
#[derive(Default)]
pub struct Handout {
    wanted: AtomicU64,
    /// A [`ProfileOrder`] as a number.
    order: AtomicU64,
    done: AtomicU64,
    /// Bytes between samples; 0 while none are taken.
    mean: AtomicU64,
    /// Where the profile that was handed out begins, and how long it is; 0 where there is none.
    from: AtomicU64,
    bytes: AtomicU64,
}

/// What can be wanted of the heap profile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProfileOrder {
    /// To take back what was handed out, which every other order does as well.
    TakeBack,
    /// To hand the profile out.
    HandOut,
    /// To take no more samples.
    Stop,
    /// To begin to take samples, so many bytes apart; 0 says as many as is usual.
    Start(Bytes),
}

/// What came of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handed {
    /// Bytes between samples; 0 while none are taken.
    pub mean: u64,
    /// Where the profile stands, a gzipped file of `pprof`'s.
    pub from: u64,
    /// How long it is; 0 if none was handed out.
    pub bytes: u64,
}

/// A purpose's row as it stands in memory, for whoever reads it from outside: the words of its meter that come first.
#[repr(C)]
pub struct Row {
    /// Bytes charged.
    pub charged: u64,
    /// Bytes promised to reservations.
    pub reserved: u64,
    /// The most that ever were.
    pub peak: u64,
    /// The soft limit; all ones if there is none.
    pub soft: u64,
    /// The limit; all ones if there is none.
    pub hard: u64,
    /// Requests refused.
    pub refused: u64,
    /// How often the soft limit was passed.
    pub soft_events: u64,
    /// The length of the name.
    pub name_length: u8,
    /// The name.
    pub name: [u8; crate::base::purpose::MAX_NAME],
    /// For a purpose of stacks its kind, and one; else 0.
    pub stacks: u8,
    /// 1 for a declared purpose of collected objects, else 0.
    pub objects: u8,
}

/// What a heap does when the bell was rung.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// What the bell says.
    pub question: u64,
    /// Somebody wants free memory to be released; hand it to [`Window::released`].
    pub release: Option<u64>,
    /// Somebody wants events of blocks to be entered; hand it to [`Window::counted`].
    pub count: Option<u64>,
    /// Somebody wants something of the heap profile; hand what came of it to [`Window::handed`].
    pub profile: Option<(u64, ProfileOrder)>,
}

impl Shape {
    /// This build's.
    pub const fn new(row: usize) -> Shape {
        Shape {
            page: PAGE_SIZE as u32,
            figures: FIGURES as u32,
            copies: COPIES as u32,
            fixed_accounts: FIXED_ACCOUNTS as u32,
            class_rows: CLASS_ROWS as u32,
            purposes_from: SHAPE.0 as u32,
            of_purpose: SHAPE.1 as u32,
            purposes: MAX_PURPOSES as u32,
            shard_sequence: BookShard::SEQUENCE as u32,
            shard_next: BookShard::NEXT as u32,
            shard_copies: BookShard::COPIES as u32,
            row: row as u32,
        }
    }
}

impl Window {
    /// Makes a window in zeroed memory, closed. `row` is how far the purposes' rows are apart, in bytes.
    ///
    /// # Safety
    /// `at` is zeroed memory for a window that nobody else sees yet, where it stays.
    pub unsafe fn init(at: *mut Window, serial: u64, row: usize) {
        // SAFETY: the memory is ours alone, and zeros are valid for all that is not written.
        unsafe {
            (&raw mut (*at).magic).write(MAGIC);
            (&raw mut (*at).version).write(VERSION);
            (&raw mut (*at).size).write(size_of::<Window>() as u32);
            (&raw mut (*at).shape).write(Shape::new(row));
            (*at).at.store(at.addr() as u64, Ordering::Relaxed);
            (*at).serial.store(serial, Ordering::Relaxed);
        }
    }

    /// Says where everything is.
    pub fn set_places(&self, books: &Books, places: Places) {
        let (first_shard, readings) = books.addresses();
        let words = &self.places;
        words.first_shard.store(first_shard, Ordering::Relaxed);
        words.readings.store(readings, Ordering::Relaxed);
        for (word, place) in [
            (&words.rows, places.rows),
            (&words.row_count, places.row_count),
            (&words.limit, places.limit),
            (&words.given, places.given),
            (&words.scavenger, places.scavenger),
        ] {
            word.store(place.0 as u64, Ordering::Relaxed);
        }
    }

    /// Adds addresses that the heap has reserved; `kind` is that of a table, or none for the pages handed out. Those
    /// that find no room are left out: then some of the heap's memory is not known to be the heap's.
    pub fn add_range(&self, kind: Option<super::MetadataKind>, from: Address, bytes: Bytes) {
        let number = self.range_count.load(Ordering::Relaxed);
        if let Some(range) = self.ranges.get(number as usize) {
            range.from.store(from.0 as u64, Ordering::Relaxed);
            range.bytes.store(bytes.0 as u64, Ordering::Relaxed);
            range.kind.store(kind.map_or(0, |kind| kind as u64 + 1), Ordering::Relaxed);
            self.range_count.store(number + 1, Ordering::Relaxed);
        }
    }

    /// Opens or closes the window.
    pub fn set_open(&self, open: bool) {
        self.open.store(open.into(), Ordering::Release);
    }

    /// Says which heap's window is next.
    pub fn set_next(&self, address: u64) {
        self.next.store(address, Ordering::Relaxed);
    }

    /// Whether the bell was rung since somebody listened.
    #[inline]
    pub fn rings(&self) -> bool {
        self.talk.bell.load(Ordering::Relaxed) != self.talk.heard.load(Ordering::Relaxed)
    }

    /// Takes up what is wanted, for one thread out of all that heard the bell; `None` for the others, and where the
    /// window is closed.
    pub fn answer(&self) -> Option<Call> {
        let (heard, question) =
            (self.talk.heard.load(Ordering::Relaxed), self.talk.bell.load(Ordering::Acquire));
        let mine = heard != question
            && self.talk.heard.compare_exchange(heard, question, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !mine || self.open.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let (release, count) = (self.talk.release.open(), self.talk.count.open());
        let profile = self.talk.profile.open();
        Some(Call { question, release, count, profile })
    }

    /// Publishes the sums as the answer to a question.
    pub fn publish(&self, books: &Books, question: u64, purposes: impl FnOnce() -> usize) {
        books.publish(&self.published, question, purposes);
    }

    /// Notes that an order to release was carried out, and how many bytes that gave.
    pub fn released(&self, order: u64, bytes: Bytes) {
        self.talk.release.sum.fetch_add(bytes.0 as u64, Ordering::Relaxed);
        self.talk.release.done.store(order, Ordering::Release);
    }

    /// Notes what came of an order about the profile.
    pub fn handed(&self, order: u64, handed: Handed) {
        let words = &self.talk.profile;
        words.mean.store(handed.mean, Ordering::Relaxed);
        words.from.store(handed.from, Ordering::Relaxed);
        words.bytes.store(handed.bytes, Ordering::Relaxed);
        words.done.store(order, Ordering::Release);
    }

    /// Notes that an order to enter events was carried out.
    pub fn counted(&self, order: u64) {
        self.talk.count.done.store(order, Ordering::Release);
    }
}

impl ProfileOrder {
    const START: u64 = 3;

    /// The order as the page has it: 0, 1, 2, or from 3 on the mean and 3.
    pub const fn word(self) -> u64 {
        match self {
            ProfileOrder::TakeBack => 0,
            ProfileOrder::HandOut => 1,
            ProfileOrder::Stop => 2,
            ProfileOrder::Start(mean) => (mean.0 as u64).saturating_add(ProfileOrder::START),
        }
    }

    /// The order that a word means.
    pub const fn of_word(word: u64) -> ProfileOrder {
        match word {
            0 => ProfileOrder::TakeBack,
            1 => ProfileOrder::HandOut,
            2 => ProfileOrder::Stop,
            more => ProfileOrder::Start(Bytes((more - ProfileOrder::START) as usize)),
        }
    }
}

impl Handout {
    /// What is wanted and not done.
    fn open(&self) -> Option<(u64, ProfileOrder)> {
        let wanted = self.wanted.load(Ordering::Acquire);
        (wanted != self.done.load(Ordering::Relaxed))
            .then(|| (wanted, ProfileOrder::of_word(self.order.load(Ordering::Relaxed))))
    }
}

impl Order {
    /// What is wanted and not done.
    fn open(&self) -> Option<u64> {
        let wanted = self.wanted.load(Ordering::Acquire);
        (wanted != self.done.load(Ordering::Relaxed)).then_some(wanted)
    }
}

/// Where a word of the page stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// Its name in the documentation.
    pub name: &'static str,
    /// Bytes from the window's begin.
    pub offset: usize,
    /// Bytes that it takes.
    pub bytes: usize,
}

macro_rules! layout {
    ($($name:literal, $offset:expr, $bytes:expr;)*) => {
        /// Every word of the page, by place. A reader goes by this table and the documentation shows it.
        pub const LAYOUT: &[Word] = &[$(Word { name: $name, offset: $offset, bytes: $bytes },)*];
    };
}

const SHAPE_AT: usize = offset_of!(Window, shape);
const PLACES_AT: usize = offset_of!(Window, places);
const RANGES_AT: usize = offset_of!(Window, ranges);
pub(super) const RANGE_BYTES: usize = size_of::<Range>();
pub(super) const BELL_AT: usize = offset_of!(Window, talk) + offset_of!(Talk, bell);
pub(super) const RELEASE_AT: usize = offset_of!(Window, talk) + offset_of!(Talk, release);
pub(super) const COUNT_AT: usize = offset_of!(Window, talk) + offset_of!(Talk, count);
pub(super) const PROFILE_AT: usize = offset_of!(Window, talk) + offset_of!(Talk, profile);
pub(super) const PUBLISHED_AT: usize = offset_of!(Window, published);
/// Bytes of all that comes before the words that others write: what a reader needs to find the rest.
pub(super) const HEAD: usize = offset_of!(Window, talk);

layout! {
    "magic",                offset_of!(Window, magic), 16;
    "version",              offset_of!(Window, version), 4;
    "size",                 offset_of!(Window, size), 4;
    "at",                   offset_of!(Window, at), 8;
    "serial",               offset_of!(Window, serial), 8;
    "next",                 offset_of!(Window, next), 8;
    "open",                 offset_of!(Window, open), 4;
    "ranges",               offset_of!(Window, range_count), 4;
    "shape.page",           SHAPE_AT + offset_of!(Shape, page), 4;
    "shape.figures",        SHAPE_AT + offset_of!(Shape, figures), 4;
    "shape.copies",         SHAPE_AT + offset_of!(Shape, copies), 4;
    "shape.fixed-accounts", SHAPE_AT + offset_of!(Shape, fixed_accounts), 4;
    "shape.class-rows",     SHAPE_AT + offset_of!(Shape, class_rows), 4;
    "shape.purposes-from",  SHAPE_AT + offset_of!(Shape, purposes_from), 4;
    "shape.of-purpose",     SHAPE_AT + offset_of!(Shape, of_purpose), 4;
    "shape.purposes",       SHAPE_AT + offset_of!(Shape, purposes), 4;
    "shape.shard-sequence", SHAPE_AT + offset_of!(Shape, shard_sequence), 4;
    "shape.shard-next",     SHAPE_AT + offset_of!(Shape, shard_next), 4;
    "shape.shard-copies",   SHAPE_AT + offset_of!(Shape, shard_copies), 4;
    "shape.row",            SHAPE_AT + offset_of!(Shape, row), 4;
    "first-shard",          PLACES_AT + offset_of!(Words, first_shard), 8;
    "readings",             PLACES_AT + offset_of!(Words, readings), 8;
    "rows",                 PLACES_AT + offset_of!(Words, rows), 8;
    "row-count",            PLACES_AT + offset_of!(Words, row_count), 8;
    "limit",                PLACES_AT + offset_of!(Words, limit), 8;
    "given",                PLACES_AT + offset_of!(Words, given), 8;
    "scavenger",            PLACES_AT + offset_of!(Words, scavenger), 8;
    "range.from",           RANGES_AT + offset_of!(Range, from), 8;
    "range.bytes",          RANGES_AT + offset_of!(Range, bytes), 8;
    "range.kind",           RANGES_AT + offset_of!(Range, kind), 8;
    "bell",                 BELL_AT, 8;
    "heard",                offset_of!(Window, talk) + offset_of!(Talk, heard), 8;
    "release.wanted",       RELEASE_AT + offset_of!(Order, wanted), 8;
    "release.done",         RELEASE_AT + offset_of!(Order, done), 8;
    "release.sum",          RELEASE_AT + offset_of!(Order, sum), 8;
    "count.wanted",         COUNT_AT + offset_of!(Order, wanted), 8;
    "count.done",           COUNT_AT + offset_of!(Order, done), 8;
    "profile.wanted",       PROFILE_AT + offset_of!(Handout, wanted), 8;
    "profile.order",        PROFILE_AT + offset_of!(Handout, order), 8;
    "profile.done",         PROFILE_AT + offset_of!(Handout, done), 8;
    "profile.mean",         PROFILE_AT + offset_of!(Handout, mean), 8;
    "profile.from",         PROFILE_AT + offset_of!(Handout, from), 8;
    "profile.bytes",        PROFILE_AT + offset_of!(Handout, bytes), 8;
    "published.sequence",   PUBLISHED_AT, 8;
    "published.answered",   PUBLISHED_AT + 8, 8;
    "published.figures",    PUBLISHED_AT + 16, 8;
}

/// The words of a purpose's row, by place.
pub const ROW_LAYOUT: &[Word] = &[
    Word { name: "charged", offset: offset_of!(Row, charged), bytes: 8 },
    Word { name: "reserved", offset: offset_of!(Row, reserved), bytes: 8 },
    Word { name: "peak", offset: offset_of!(Row, peak), bytes: 8 },
    Word { name: "soft", offset: offset_of!(Row, soft), bytes: 8 },
    Word { name: "hard", offset: offset_of!(Row, hard), bytes: 8 },
    Word { name: "refused", offset: offset_of!(Row, refused), bytes: 8 },
    Word { name: "soft-events", offset: offset_of!(Row, soft_events), bytes: 8 },
    Word { name: "name-length", offset: offset_of!(Row, name_length), bytes: 1 },
    Word { name: "name", offset: offset_of!(Row, name), bytes: crate::base::purpose::MAX_NAME },
    Word { name: "stacks", offset: offset_of!(Row, stacks), bytes: 1 },
    Word { name: "objects", offset: offset_of!(Row, objects), bytes: 1 },
];

/// Bytes of a row that readers know.
pub const ROW_BYTES: usize = 112;

/// A word of the page by its name.
pub const fn offset_of_word(name: &str) -> usize {
    let mut i = 0;
    while i < LAYOUT.len() {
        if same(LAYOUT[i].name.as_bytes(), name.as_bytes()) {
            return LAYOUT[i].offset;
        }
        i += 1;
    }
    panic!("no such word")
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut i = 0;
    while i < one.len() {
        if one[i] != other[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// What leads another process to the heaps: a mark in the data of whatever program or library the crate is part of.
///
/// Data of files is a small part of a process, and its mappings bear the file's name on every kernel; so a reader
/// searches that, and no more.
#[repr(C, align(64))]
pub struct Beacon {
    magic: [u8; 16],
    /// The process heap's window, or zero.
    process: AtomicU64,
    /// The window of the first of the other heaps, or zero; it names the next.
    others: AtomicU64,
}

/// What a beacon begins with.
pub const BEACON: [u8; 16] = *b"spanheap beacon!";
/// A beacon's address is a multiple of this.
pub const BEACON_ALIGN: usize = align_of::<Beacon>();
/// Bytes of a beacon.
pub const BEACON_BYTES: usize = 32;

impl Beacon {
    /// No heaps yet.
    pub const fn new() -> Beacon {
        Beacon { magic: BEACON, process: AtomicU64::new(0), others: AtomicU64::new(0) }
    }

    /// Names the process heap's window.
    pub fn set_process(&self, window: &Window) {
        self.process.store(Address::of(window).0 as u64, Ordering::Release);
    }

    /// Names the window of the first of the other heaps, or zero.
    pub fn set_others(&self, address: u64) {
        self.others.store(address, Ordering::Release);
    }
}

impl Default for Beacon {
    fn default() -> Beacon {
        Beacon::new()
    }
}

const _: () = {
    assert!(offset_of!(Window, magic) == 0 && offset_of!(Window, at) == 24);
    assert!(offset_of!(Beacon, process) == 16 && offset_of!(Beacon, others) == 24);
    assert!(BELL_AT.is_multiple_of(64) && size_of::<Row>() == ROW_BYTES);
};
