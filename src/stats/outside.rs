//! Reading the books of another process.
//!
//! The reader sees bytes through [`Memory`] and believes none of them: a number is checked before it is used, a list
//! has an end whatever it says, and what does not make sense is [`ReadError::Nonsense`], never a panic.
//!
//! A reading is one instant of the heap, by one of two ways:
//!
//! ```text
//!   look:  readings even ─▶ each shard: sequence even, then its copies ─▶ all sequences and readings again
//!             nothing moved in between?  then all that was read stood so at the moment between the two rounds
//!   ask:   ring the bell ─▶ a slow path of the heap publishes ─▶ copy, between two equal even sequence numbers
//! ```
//!
//! Looking leaves no trace in the other process, and works also where it is stopped. Asking needs the right to write,
//! and a heap that works; but where a heap does not, looking succeeds. So one of the two always comes to an end.
//!
//! Rows of the purposes are read after the figures, so that a peak is never behind what is in use
//! ([`Snapshot::read`] says why).
//!
//! The file does not know how the bytes are got at, nor which process they are of.

use super::ledger::{FIGURES, live_figures};
use super::snapshot::{ClassFigures, Counted, PurposeBook, ReleaseFigures, Snapshot};
use super::window::{
    BELL_AT, COUNT_AT, HEAD, Handed, MAGIC, MOST_RANGES, PROFILE_AT, PUBLISHED_AT, ProfileOrder, RANGE_BYTES,
    RELEASE_AT, ROW_BYTES, ROW_LAYOUT, Shape, VERSION, offset_of_word as at,
};
use super::{MetadataKind, account::METADATA_KINDS, shard::COPIES};
use crate::base::purpose::{MAX_NAME, MAX_PURPOSES, STACK_KINDS, StackKind};
use crate::base::{Address, Bytes, PurposeName};
use core::fmt;

/// Another process's memory.
pub trait Memory {
    /// Fills `into` from the bytes at an address.
    ///
    /// # Errors
    /// The system's number for why not.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), i32>;

    /// Writes a word.
    ///
    /// # Errors
    /// The system's number for why not.
    fn write(&self, at: u64, word: u64) -> Result<(), i32>;
}

/// Why another process's books cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// The system does not let us read the memory at this address.
    Refused {
        /// The address.
        at: u64,
        /// The system's number.
        errno: i32,
    },
    /// There is no page at this address.
    NoPage,
    /// The page is of another version.
    Version {
        /// The page's.
        found: u32,
    },
    /// The page has this version and other numbers: it is of a build of another kind.
    Shape {
        /// Which number.
        word: &'static str,
        /// The page's.
        found: u32,
        /// This build's.
        expected: u32,
    },
    /// The page is switched off.
    Closed,
    /// What stands there cannot be.
    Nonsense(&'static str),
    /// Something always moved, and nobody answered.
    Restless,
}

/// How a reading was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By looking.
    Looked,
    /// By asking.
    Asked,
}

/// Addresses that a heap has reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The first.
    pub from: u64,
    /// How many.
    pub bytes: u64,
    /// What kind of table; none for the pages that the heap hands out.
    pub kind: Option<MetadataKind>,
}

/// What has become of an order to release memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// What was ordered last.
    pub wanted: u64,
    /// What was carried out last.
    pub done: u64,
    /// Bytes released by all orders together.
    pub sum: u64,
}

/// A heap in another process, and a place for a shard's copies.
pub struct Outside {
    at: u64,
    serial: u64,
    next: u64,
    first_shard: u64,
    readings: u64,
    rows: u64,
    row_count: u64,
    limit: u64,
    given: u64,
    scavenger: u64,
    row: usize,
    ranges: [Reserved; MOST_RANGES],
    range_count: usize,
    copies: [u8; COPIES * FIGURES * 8],
}

/// Rounds of looking before the heap is asked, and between two looks at whether it has answered.
const LOOKS: usize = 3;
/// More shards than a heap can have.
const MOST_SHARDS: usize = 1 << 17;
/// No heap holds so many bytes, and none hands out so many blocks of a class. Sums of such amounts do not overflow.
const IMPOSSIBLE: i64 = 1 << 54;
/// No heap ever allocates so many bytes for a purpose, or in blocks.
const IMPOSSIBLE_EVER: i64 = 1 << 61;
/// No heap holds so many spans.
const IMPOSSIBLE_SPANS: i64 = 1 << 40;

const NO_LIMIT: u64 = u64::MAX;

fn word_in(bytes: &[u8], offset: usize) -> u64 {
    let word = bytes.get(offset..offset + 8).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u64::from_ne_bytes(*word))
}

fn half_in(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes.get(offset..offset + 4).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u32::from_ne_bytes(*word))
}

fn fill(memory: &impl Memory, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
    memory.read(at, into).map_err(|errno| ReadError::Refused { at, errno })
}

fn word(memory: &impl Memory, at: u64) -> Result<u64, ReadError> {
    let mut bytes = [0; 8];
    fill(memory, at, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

impl Outside {
    /// Finds out whether a statistics page is at an address, and what it says about where things are.
    ///
    /// # Errors
    /// [`ReadError`]: all but `Restless`.
    pub fn open(memory: &impl Memory, address: u64) -> Result<Outside, ReadError> {
        let mut head = [0; HEAD];
        // What never changes first: a window of another version may be shorter.
        let first = at("serial");
        fill(memory, address, &mut head[..first])?;
        if head[..MAGIC.len()] != MAGIC || word_in(&head, at("at")) != address {
            return Err(ReadError::NoPage);
        }
        let found = half_in(&head, at("version"));
        if found != VERSION {
            return Err(ReadError::Version { found });
        }
        fill(memory, address.wrapping_add(first as u64), &mut head[first..])?;
        let row = half_in(&head, at("shape.row"));
        check_shape(&head, row)?;
        if half_in(&head, at("open")) == 0 {
            return Err(ReadError::Closed);
        }
        let mut outside = Outside {
            at: address,
            serial: word_in(&head, at("serial")),
            next: word_in(&head, at("next")),
            first_shard: word_in(&head, at("first-shard")),
            readings: word_in(&head, at("readings")),
            rows: word_in(&head, at("rows")),
            row_count: word_in(&head, at("row-count")),
            limit: word_in(&head, at("limit")),
            given: word_in(&head, at("given")),
            scavenger: word_in(&head, at("scavenger")),
            row: row as usize,
            ranges: [Reserved { from: 0, bytes: 0, kind: None }; MOST_RANGES],
            range_count: (half_in(&head, at("ranges")) as usize).min(MOST_RANGES),
            copies: [0; COPIES * FIGURES * 8],
        };
        for (i, range) in outside.ranges.iter_mut().enumerate().take(outside.range_count) {
            let place = i * RANGE_BYTES;
            *range = Reserved {
                from: word_in(&head, at("range.from") + place),
                bytes: word_in(&head, at("range.bytes") + place),
                kind: kind_of(word_in(&head, at("range.kind") + place))?,
            };
        }
        Ok(outside)
    }

    /// The heap's number in its process.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Where another heap's page is, as of when this one was opened.
    pub fn next(&self) -> Option<u64> {
        (self.next != 0).then_some(self.next)
    }

    /// What the heap has reserved.
    pub fn ranges(&self) -> &[Reserved] {
        &self.ranges[..self.range_count]
    }

    /// Reads the books into a snapshot, by looking or by asking. `question` is a number that nobody else asks with;
    /// `wait` is called between rounds, and says when to give up by returning false.
    ///
    /// # Errors
    /// [`ReadError::Restless`] when `wait` gave up; else those of reading.
    pub fn read(
        &mut self,
        memory: &impl Memory,
        snapshot: &mut Snapshot,
        question: u64,
        mut wait: impl FnMut() -> bool,
    ) -> Result<Way, ReadError> {
        let mut asked = None;
        loop {
            for _ in 0..LOOKS {
                if self.look(memory, snapshot)? {
                    return Ok(Way::Looked);
                }
            }
            match asked {
                // Without the right to write, looking is all that is left.
                None => asked = Some(self.ask(memory, question).ok()),
                Some(Some(after)) if self.answer(memory, snapshot, question, after)? => {
                    return Ok(Way::Asked);
                }
                _ => {}
            }
            if !wait() {
                return Err(ReadError::Restless);
            }
        }
    }

    /// Looks once. Returns whether nothing moved meanwhile: then the snapshot is one instant.
    ///
    /// # Errors
    /// Those of reading.
    pub fn look(&mut self, memory: &impl Memory, snapshot: &mut Snapshot) -> Result<bool, ReadError> {
        let count = self.count(memory)?;
        let readings = word(memory, self.readings)?;
        if !readings.is_multiple_of(2) {
            return Ok(false);
        }
        // Sequence numbers only rise, so their sum stays only if each of them does.
        let (first, mut sequences) = (word(memory, self.first_shard)?, 0u64);
        snapshot.figures.raw().fill(0);
        let shards = self.each_shard(memory, first, |outside, shard, sequence| {
            sequences = sequences.wrapping_add(sequence);
            match sequence.is_multiple_of(2) {
                true => outside.add_shard(memory, shard, count, snapshot).map(|()| true),
                false => Ok(false),
            }
        })?;
        if !shards {
            return Ok(false);
        }
        let mut again = 0u64;
        self.each_shard(memory, first, |_, _, sequence| {
            again = again.wrapping_add(sequence);
            Ok(true)
        })?;
        let still = again == sequences
            && word(memory, self.first_shard)? == first
            && word(memory, self.readings)? == readings
            && self.count(memory)? == count;
        if still {
            self.finish(memory, snapshot)?;
        }
        Ok(still)
    }

    /// Rings the bell. Returns the number that the sums' sequence must reach to be younger than this call.
    ///
    /// # Errors
    /// The system does not let us write, or read.
    pub fn ask(&self, memory: &impl Memory, question: u64) -> Result<u64, ReadError> {
        let bell = self.place(BELL_AT);
        memory.write(bell, question).map_err(|errno| ReadError::Refused { at: bell, errno })?;
        let sequence = word(memory, self.place(PUBLISHED_AT))?;
        // One that is under way may have begun before the question.
        Ok(sequence.wrapping_add(if sequence.is_multiple_of(2) { 2 } else { 3 }))
    }

    /// Copies the published sums, if they answer the question or are younger than it. Returns whether they did.
    ///
    /// # Errors
    /// Those of reading.
    pub fn answer(
        &mut self,
        memory: &impl Memory,
        snapshot: &mut Snapshot,
        question: u64,
        after: u64,
    ) -> Result<bool, ReadError> {
        let place = self.place(PUBLISHED_AT);
        let before = word(memory, place)?;
        let young =
            word(memory, self.place(PUBLISHED_AT + 8))? == question || before.wrapping_sub(after) as i64 >= 0;
        if !young || !before.is_multiple_of(2) {
            return Ok(false);
        }
        let figures = self.place(PUBLISHED_AT + 16);
        let bytes = &mut self.copies[..8 * FIGURES];
        fill(memory, figures, bytes)?;
        if word(memory, place)? != before {
            return Ok(false);
        }
        for (figure, chunk) in snapshot.figures.raw().iter_mut().zip(bytes.chunks_exact(8)) {
            *figure = word_in(chunk, 0) as i64;
        }
        self.finish(memory, snapshot)?;
        Ok(true)
    }

    /// Orders free memory to be released: the heap does it on the next slow path of any thread. `order` is a number
    /// unlike the last one.
    ///
    /// # Errors
    /// The system does not let us write.
    pub fn order_release(&self, memory: &impl Memory, order: u64) -> Result<(), ReadError> {
        self.give(memory, RELEASE_AT, order)
    }

    fn give(&self, memory: &impl Memory, place: usize, order: u64) -> Result<(), ReadError> {
        for at in [place, BELL_AT].map(|place| self.place(place)) {
            memory.write(at, order).map_err(|errno| ReadError::Refused { at, errno })?;
        }
        Ok(())
    }

    /// Orders events of blocks to be entered in the books, those of the thread that answers. `order` as above.
    ///
    /// # Errors
    /// The system does not let us write.
    pub fn order_count(&self, memory: &impl Memory, order: u64) -> Result<(), ReadError> {
        self.give(memory, COUNT_AT, order)
    }

    /// The last order to enter events that was carried out.
    ///
    /// # Errors
    /// Those of reading.
    pub fn counted(&self, memory: &impl Memory) -> Result<u64, ReadError> {
        word(memory, self.place(COUNT_AT + 8))
    }

    /// What has become of orders to release.
    ///
    /// # Errors
    /// Those of reading.
    pub fn released(&self, memory: &impl Memory) -> Result<Released, ReadError> {
        let mut order = [0; 24];
        fill(memory, self.place(RELEASE_AT), &mut order)?;
        Ok(Released { wanted: word_in(&order, 0), done: word_in(&order, 8), sum: word_in(&order, 16) })
    }

    /// Orders something about the heap profile. `order` as above.
    ///
    /// # Errors
    /// The system does not let us write.
    pub fn order_profile(
        &self,
        memory: &impl Memory,
        what: ProfileOrder,
        order: u64,
    ) -> Result<(), ReadError> {
        let at = self.place(PROFILE_AT + 8);
        memory.write(at, what.word()).map_err(|errno| ReadError::Refused { at, errno })?;
        self.give(memory, PROFILE_AT, order)
    }

    /// What came of the order `order` about the profile; nothing yet, or no more.
    ///
    /// # Errors
    /// Those of reading.
    pub fn handed(&self, memory: &impl Memory, order: u64) -> Result<Option<Handed>, ReadError> {
        // What stands behind it is written before `done`, and so read after it.
        if word(memory, self.place(PROFILE_AT + 16))? != order {
            return Ok(None);
        }
        let mut words = [0; 24];
        fill(memory, self.place(PROFILE_AT + 24), &mut words)?;
        Ok(Some(Handed { mean: word_in(&words, 0), from: word_in(&words, 8), bytes: word_in(&words, 16) }))
    }

    /// Copies a profile that was handed out.
    ///
    /// # Errors
    /// Those of reading: it may have been taken back.
    pub fn profile(&self, memory: &impl Memory, handed: Handed, into: &mut [u8]) -> Result<(), ReadError> {
        fill(memory, handed.from, into)
    }

    /// The address of a word of the page.
    fn place(&self, offset: usize) -> u64 {
        self.at.wrapping_add(offset as u64)
    }

    /// How many purposes there are.
    fn count(&self, memory: &impl Memory) -> Result<usize, ReadError> {
        match word(memory, self.row_count)? as usize {
            count @ 1..=MAX_PURPOSES => Ok(count),
            _ => Err(ReadError::Nonsense("the number of purposes")),
        }
    }

    /// Visits the shards with their sequence numbers. Returns whether `visit` always wished to go on.
    fn each_shard(
        &mut self,
        memory: &impl Memory,
        first: u64,
        mut visit: impl FnMut(&mut Outside, u64, u64) -> Result<bool, ReadError>,
    ) -> Result<bool, ReadError> {
        let mut shard = first;
        for _ in 0..MOST_SHARDS {
            if shard == 0 {
                return Ok(true);
            }
            let mut head = [0; 16];
            fill(memory, shard, &mut head)?;
            let next = word_in(&head, SHARD_NEXT);
            if !visit(self, shard, word_in(&head, SHARD_SEQUENCE))? {
                return Ok(false);
            }
            shard = next;
        }
        Err(ReadError::Nonsense("a list of shards without an end"))
    }

    /// Adds the copies of one shard.
    fn add_shard(
        &mut self,
        memory: &impl Memory,
        shard: u64,
        count: usize,
        snapshot: &mut Snapshot,
    ) -> Result<(), ReadError> {
        let live = live_figures(count);
        for copy in 0..COPIES {
            let bytes = &mut self.copies[..8 * live];
            fill(memory, shard.wrapping_add((SHARD_COPIES + copy * 8 * FIGURES) as u64), bytes)?;
            for (figure, chunk) in snapshot.figures.raw().iter_mut().zip(bytes.chunks_exact(8)) {
                *figure = figure.wrapping_add(word_in(chunk, 0) as i64);
            }
        }
        Ok(())
    }

    /// Reads what belongs to the figures: the purposes' rows and the limit.
    fn finish(&mut self, memory: &impl Memory, snapshot: &mut Snapshot) -> Result<(), ReadError> {
        let count = self.count(memory)?;
        snapshot.count = 0;
        for id in 0..count {
            let mut row = [0; ROW_BYTES];
            fill(memory, self.rows.wrapping_add((id * self.row) as u64), &mut row)?;
            snapshot.purposes[id] = purpose(&row)?;
            snapshot.count += 1;
        }
        check_figures(snapshot)?;
        snapshot.heap_limit = limit(word(memory, self.limit)?)?;
        let mut given = [0; 32];
        fill(memory, self.given, &mut given)?;
        let mut work = [0; 16];
        fill(memory, self.scavenger, &mut work)?;
        // Words that only count bytes and time: whatever they say can be shown.
        let count = |bytes: &[u8], which: usize| word_in(bytes, 8 * which).min(IMPOSSIBLE_EVER as u64);
        snapshot.released = ReleaseFigures {
            in_background: count(&given, 0),
            at_limit: count(&given, 1),
            on_request: count(&given, 2),
            holes: count(&given, 3),
            wakeups: count(&work, 0),
            processor: count(&work, 1),
        };
        snapshot.resident = None;
        Ok(())
    }
}

/// Makes sure that whatever is computed of the figures can be computed.
fn check_figures(snapshot: &mut Snapshot) -> Result<(), ReadError> {
    let (purposes_from, of_purpose) = super::ledger::SHAPE;
    for (place, figure) in snapshot.figures.raw().iter().enumerate() {
        let is_balance = place < purposes_from || (place - purposes_from).is_multiple_of(of_purpose);
        let bound = if is_balance { IMPOSSIBLE } else { IMPOSSIBLE_EVER };
        if !(-bound..bound).contains(figure) {
            return Err(ReadError::Nonsense("a figure"));
        }
    }
    let spans = super::account::all_purposes().map(|id| snapshot.figures.spans(id));
    if spans.into_iter().any(|number| number.abs() > IMPOSSIBLE_SPANS) {
        return Err(ReadError::Nonsense("a number of spans"));
    }
    for what in [Counted::Blocks, Counted::Objects] {
        let bytes = |class: ClassFigures| {
            let events = i128::from(class.allocated).abs() + i128::from(class.freed).abs();
            i128::from(class.size.unwrap_or(1)) * events
        };
        if snapshot.classes_of(what).map(bytes).sum::<i128>() > i128::from(IMPOSSIBLE_EVER) {
            return Err(ReadError::Nonsense("a number of blocks or objects"));
        }
    }
    Ok(())
}

const SHARD_SEQUENCE: usize = super::BookShard::SEQUENCE;
const SHARD_NEXT: usize = super::BookShard::NEXT;
const SHARD_COPIES: usize = super::BookShard::COPIES;
const _: () = assert!(SHARD_SEQUENCE < 16 && SHARD_NEXT < 16);

/// Compares the numbers of the page's shape with this build's.
fn check_shape(head: &[u8], row: u32) -> Result<(), ReadError> {
    if !(ROW_BYTES as u32..=4096).contains(&row) || !row.is_multiple_of(8) {
        return Err(ReadError::Nonsense("the distance of the purposes' rows"));
    }
    let Shape {
        page,
        figures,
        copies,
        fixed_accounts,
        class_rows,
        purposes_from,
        of_purpose,
        purposes,
        shard_sequence,
        shard_next,
        shard_copies,
        row: _,
    } = Shape::new(row as usize);
    for (word, expected) in [
        ("shape.page", page),
        ("shape.figures", figures),
        ("shape.copies", copies),
        ("shape.fixed-accounts", fixed_accounts),
        ("shape.class-rows", class_rows),
        ("shape.purposes-from", purposes_from),
        ("shape.of-purpose", of_purpose),
        ("shape.purposes", purposes),
        ("shape.shard-sequence", shard_sequence),
        ("shape.shard-next", shard_next),
        ("shape.shard-copies", shard_copies),
    ] {
        let found = half_in(head, at(word));
        if found != expected {
            return Err(ReadError::Shape { word, found, expected });
        }
    }
    Ok(())
}

fn kind_of(number: u64) -> Result<Option<MetadataKind>, ReadError> {
    match number {
        0 => Ok(None),
        n => METADATA_KINDS
            .get((n - 1) as usize)
            .map(|kind| Some(*kind))
            .ok_or(ReadError::Nonsense("the kind of a range")),
    }
}

/// A limit as it stands in memory.
fn limit(word: u64) -> Result<Option<Bytes>, ReadError> {
    match word {
        NO_LIMIT => Ok(None),
        bytes if bytes < IMPOSSIBLE as u64 => Ok(Some(Bytes(bytes as usize))),
        // More than can be had is no limit, and programs do set such.
        _ => Ok(None),
    }
}

/// A purpose's row.
fn purpose(row: &[u8; ROW_BYTES]) -> Result<PurposeBook, ReadError> {
    let [_, reserved, peak, soft, hard, refused, soft_events] = core::array::from_fn(|i| word_in(row, 8 * i));
    const {
        assert!(
            ROW_LAYOUT[6].offset == 48
                && ROW_LAYOUT[7].offset == 56
                && ROW_LAYOUT[9].offset == 104
                && ROW_LAYOUT[10].offset == 105
        )
    };
    let length = row[56] as usize;
    if length > MAX_NAME {
        return Err(ReadError::Nonsense("the length of a purpose's name"));
    }
    let name = core::str::from_utf8(&row[57..57 + length]).ok().and_then(|name| PurposeName::new(name).ok());
    let name = name.ok_or(ReadError::Nonsense("a purpose's name"))?;
    let stacks = row[104].checked_sub(1).map(StackKind);
    if stacks.is_some_and(|kind| kind.index() >= STACK_KINDS) {
        return Err(ReadError::Nonsense("a kind of stacks"));
    }
    if row[105] > 1 {
        return Err(ReadError::Nonsense("whether a purpose has objects"));
    }
    if peak.max(reserved) >= IMPOSSIBLE as u64
        || refused >= IMPOSSIBLE as u64
        || soft_events >= IMPOSSIBLE as u64
    {
        return Err(ReadError::Nonsense("a figure of a purpose"));
    }
    let [peak, reserved] = [peak, reserved].map(|bytes| Bytes(bytes as usize));
    let (soft_limit, limit) = (limit(soft)?, limit(hard)?);
    Ok(PurposeBook {
        name,
        peak,
        reserved,
        soft_limit,
        limit,
        refused,
        soft_events,
        stacks,
        objects: row[105] == 1,
    })
}

/// The windows that a beacon names, process heap first; `None` if these bytes are no beacon.
pub fn beacon(bytes: &[u8]) -> Option<[Option<Address>; 2]> {
    if !bytes.starts_with(&super::window::BEACON) {
        return None;
    }
    let named = |offset| Some(Address(word_in(bytes, offset) as usize)).filter(|at| at.0 != 0);
    Some([named(16), named(24)])
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ReadError::Refused { at, errno } => {
                write!(f, "the memory at {at:#x} cannot be read (errno {errno})")
            }
            ReadError::NoPage => write!(f, "there is no statistics page"),
            ReadError::Version { found } => {
                write!(f, "its statistics page has version {found}, and this program reads version {VERSION}")
            }
            ReadError::Shape { word, found, expected } => write!(
                f,
                "its statistics page is of another build: {word} is {found} there and {expected} here"
            ),
            ReadError::Closed => write!(f, "its statistics page is switched off (SPANHEAP_CONF=page:off)"),
            ReadError::Nonsense(what) => write!(f, "its statistics page is damaged: {what} makes no sense"),
            ReadError::Restless => write!(f, "its books never stood still, and it did not answer"),
        }
    }
}

impl core::error::Error for ReadError {}
