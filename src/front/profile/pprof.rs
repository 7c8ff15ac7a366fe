//! A profile as `pprof` reads it: a gzipped protocol buffer (`profile.proto`), written piece by piece.
//!
//! Addresses stay addresses: whoever reads the profile looks up names, in the files that the mappings name. Every message
//! is put together in a buffer of its own, since its length comes first; the whole never is.
//!
//! The last value of a sample is *memory*: the bytes of the slots that the blocks are in. What is not in blocks has
//! samples of its own, at places that are no code and have a name in brackets, so that the sum over all is what the
//! kernel says is resident:
//!
//! ```text
//!   memory = blocks + [free in spans] of each purpose          bytes in spans
//!          + [free pages] + [cached pages] + [metadata/…]      committed
//!          − [committed, not resident]                         resident, of ours
//!          + [not the heap's]                                  resident, of the process
//! ```
//!
//! Blocks are an estimate, and so is what is free in spans; the sum is exact. The heap's pages and the process's are
//! counted one after the other, so what is given back or taken in between shows in the last line.

use super::elf::{LONGEST_ID, Module};
use super::gzip::Gzip;
use super::recorder::{Recorder, Site};
use super::unwind::DEEPEST;
use crate::base::purpose::MAX_PURPOSES;
use crate::base::{Lock, PurposeId};
use crate::os::SystemError;
use crate::os::maps::OwnMemory;
use crate::stats::account::METADATA_KINDS;
use crate::stats::{Account, Snapshot};

/// The longest message that is put together: a sample of the deepest stack.
const LONGEST: usize = 1024;
/// Places that are no code have numbers from here on.
const PSEUDO: u64 = 1 << 40;

/// Values of a sample.
const VALUES: usize = 5;
/// Types and units of the values, as numbers of strings.
const TYPES: [(u64, u64); VALUES] = [(1, 2), (3, 4), (5, 2), (6, 4), (7, 4)];
/// The strings that every profile has; the first is always empty.
const STRINGS: [&str; 11] = [
    "",
    "alloc_objects",
    "count",
    "alloc_space",
    "bytes",
    "inuse_objects",
    "inuse_space",
    "memory",
    "space",
    "purpose",
    // The calls between the program and the profile, innermost first: readers take them off.
    "spanheap::.*|<spanheap::.*|__rust_alloc.*|__rustc::.*|__rust_realloc|malloc_rest|malloc|calloc|realloc|\
     reallocarray|aligned_alloc|posix_memalign|memalign|valloc|pvalloc|.*::__rust_alloc.*",
];
const COUNT: u64 = 2;
const BYTES: u64 = 4;
const INUSE_SPACE: u64 = 6;
const SPACE: u64 = 8;
const PURPOSE: u64 = 9;
const DROPPED: u64 = 10;
const _: () = assert!(COUNT < BYTES && TYPES[3].0 == INUSE_SPACE);

/// What is not in blocks, beside metadata.
const PLACES: [&str; 5] =
    ["[free in spans]", "[free pages]", "[cached pages]", "[committed, not resident]", "[not the heap's]"];
const FREE_IN_SPANS: u64 = 0;
const FREE: u64 = 1;
const CACHED: u64 = 2;
const NOT_RESIDENT: u64 = 3;
const NOT_OURS: u64 = 4;
const FIRST_METADATA: u64 = PLACES.len() as u64;

/// Where the strings of a kind begin.
const FIRST_PLACE: u64 = STRINGS.len() as u64;
const FIRST_PURPOSE: u64 = FIRST_PLACE + FIRST_METADATA + METADATA_KINDS.len() as u64;
const FIRST_FILE: u64 = FIRST_PURPOSE + MAX_PURPOSES as u64;

/// A message on its way. What does not fit is an error of ours.
struct Message {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Message {
    fn new() -> Message {
        Message { bytes: [0; LONGEST], length: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.push(&[value as u8]);
    }

    /// A field that is a number; zero is left out.
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.varint(field << 3);
            self.varint(value);
        }
    }

    /// A field that is a row of bytes: a text, a message, or packed numbers.
    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.push(bytes);
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What every profile is written from.
pub(super) struct Contents<'c> {
    pub(super) snapshot: &'c Snapshot,
    /// Bytes between samples, on average.
    pub(super) mean: f64,
    /// When it is taken: nanoseconds since 1970.
    pub(super) time: u64,
}

/// The profile that is being written.
struct Writer<'w, 'o, 'c> {
    out: &'w mut Gzip<'o>,
    contents: &'c Contents<'c>,
    /// The estimate of the slots in use, by purpose.
    slots: [i64; MAX_PURPOSES],
}

impl Writer<'_, '_, '_> {
    /// A field of the profile itself.
    fn field(&mut self, field: u64, message: &Message) -> Result<(), SystemError> {
        self.text(field, message.written())
    }

    fn text(&mut self, field: u64, bytes: &[u8]) -> Result<(), SystemError> {
        let mut head = Message::new();
        head.varint(field << 3 | 2);
        head.varint(bytes.len() as u64);
        self.out.write(head.written())?;
        self.out.write(bytes)
    }

    /// What the values are, how they were taken, and all strings but those of files.
    fn head(&mut self) -> Result<(), SystemError> {
        let value = |(kind, unit)| {
            let mut value = Message::new();
            value.number(1, kind);
            value.number(2, unit);
            value
        };
        for of in TYPES {
            self.field(1, &value(of))?;
        }
        for string in STRINGS.into_iter().chain(PLACES) {
            self.text(6, string.as_bytes())?;
        }
        for kind in METADATA_KINDS {
            let mut name = Message::new();
            ["[", kind.name(), "]"].into_iter().for_each(|part| name.push(part.as_bytes()));
            self.field(6, &name)?;
        }
        for number in 0..MAX_PURPOSES {
            let snapshot = self.contents.snapshot;
            let exists = number < snapshot.count;
            self.text(6, if exists { snapshot.purposes[number].name.as_str().as_bytes() } else { b"" })?;
        }
        let mut rest = Message::new();
        rest.number(7, DROPPED);
        rest.number(9, self.contents.time);
        rest.bytes(11, value((SPACE, BYTES)).written());
        rest.number(12, self.contents.mean as u64);
        rest.number(14, INUSE_SPACE);
        self.out.write(rest.written())
    }

    /// A sample: places, values, and the purpose.
    fn sample(
        &mut self,
        places: impl Iterator<Item = u64>,
        values: [i64; VALUES],
        purpose: Option<PurposeId>,
    ) -> Result<(), SystemError> {
        let (mut sample, mut packed) = (Message::new(), Message::new());
        places.for_each(|place| packed.varint(place));
        sample.bytes(1, packed.written());
        packed = Message::new();
        values.into_iter().for_each(|value| packed.varint(value as u64));
        sample.bytes(2, packed.written());
        if let Some(purpose) = purpose {
            packed = Message::new();
            packed.number(1, PURPOSE);
            packed.number(2, FIRST_PURPOSE + purpose.index() as u64);
            sample.bytes(3, packed.written());
        }
        self.field(2, &sample)
    }

    /// What was allocated at a site.
    fn site(&mut self, site: &Site, places: &[u32]) -> Result<(), SystemError> {
        let memory = round(site.inuse.slots);
        self.slots[usize::from(site.purpose)] += memory;
        let (all, now) = (site.allocated, site.inuse);
        let values = [all.objects, all.bytes, now.objects, now.bytes].map(round);
        let values = [values[0], values[1], values[2], values[3], memory];
        self.sample(places.iter().copied().map(u64::from), values, Some(PurposeId(site.purpose)))
    }

    /// A place in the code, in the module of that number.
    fn place(&mut self, number: usize, address: usize, module: Option<usize>) -> Result<(), SystemError> {
        let mut location = Message::new();
        location.number(1, number as u64);
        location.number(2, module.map_or(0, |module| module as u64 + 1));
        location.number(3, address as u64);
        self.field(4, &location)
    }

    /// A file that code is in, with its name.
    fn module(
        &mut self,
        number: usize,
        module: &Module,
        memory: Option<&OwnMemory>,
    ) -> Result<(), SystemError> {
        let mut text = [0; 2 * LONGEST_ID];
        let id = memory.map_or(&[][..], |memory| module.build_id(memory, &mut text));
        let name = FIRST_FILE + 2 * number as u64;
        let mut mapping = Message::new();
        mapping.number(1, number as u64 + 1);
        mapping.number(2, module.start as u64);
        mapping.number(3, module.end as u64);
        mapping.number(4, module.offset as u64);
        mapping.number(5, name);
        mapping.number(6, name + 1);
        self.field(3, &mapping)?;
        self.text(6, module.name())?;
        self.text(6, id)
    }

    /// What is not in blocks: the rest of every resident byte.
    fn rest(&mut self) -> Result<(), SystemError> {
        let snapshot = self.contents.snapshot;
        for purpose in snapshot.purposes() {
            let free = purpose.inuse - self.slots[purpose.id.index()];
            self.pseudo(FREE_IN_SPANS, free, Some(purpose.id))?;
        }
        self.pseudo(FREE, snapshot.balance(Account::Free), None)?;
        self.pseudo(CACHED, snapshot.balance(Account::Cached), None)?;
        for (number, kind) in METADATA_KINDS.into_iter().enumerate() {
            self.pseudo(FIRST_METADATA + number as u64, snapshot.balance(Account::Metadata(kind)), None)?;
        }
        let Some(resident) = &snapshot.resident else { return self.functions() };
        let ours = (resident.heap + resident.metadata).0 as i64;
        self.pseudo(NOT_RESIDENT, ours - snapshot.committed(), None)?;
        self.pseudo(NOT_OURS, resident.process.0 as i64 - ours, None)?;
        self.functions()
    }

    fn pseudo(&mut self, place: u64, memory: i64, purpose: Option<PurposeId>) -> Result<(), SystemError> {
        if memory == 0 {
            return Ok(());
        }
        self.sample([PSEUDO + place].into_iter(), [0, 0, 0, 0, memory], purpose)
    }

    /// The names of places that are no code.
    fn functions(&mut self) -> Result<(), SystemError> {
        for place in 0..FIRST_METADATA + METADATA_KINDS.len() as u64 {
            let (mut function, mut location, mut line) = (Message::new(), Message::new(), Message::new());
            function.number(1, place + 1);
            function.number(2, FIRST_PLACE + place);
            function.number(3, FIRST_PLACE + place);
            line.number(1, place + 1);
            location.number(1, PSEUDO + place);
            location.bytes(4, line.written());
            self.field(5, &function)?;
            self.field(4, &location)?;
        }
        Ok(())
    }
}

/// Writes a profile: what the samples say, the places, the files that they are in, and the rest. The recorder is not
/// held while bytes are written.
///
/// # Errors
/// Those of `out`.
pub(super) fn write(
    out: &mut Gzip<'_>,
    contents: &Contents<'_>,
    recorder: &Lock<Recorder>,
) -> Result<(), SystemError> {
    let mut writer = Writer { out, contents, slots: [0; MAX_PURPOSES] };
    writer.head()?;
    let (sites, places, files) = {
        let mut recorder = recorder.lock();
        recorder.add_up();
        (recorder.sites(), recorder.places(), recorder.modules().count())
    };
    let memory = OwnMemory::open();
    for number in 0..files {
        let module = recorder.lock().modules().get(number).copied();
        if let Some(module) = module {
            writer.module(number, &module, memory.as_ref().ok())?;
        }
    }
    for number in 1..sites {
        let (mut frames, mut count) = ([0; DEEPEST], 0);
        let site = {
            let recorder = recorder.lock();
            let Some(site) = recorder.site_of(number).copied() else { break };
            for (to, from) in frames.iter_mut().zip(recorder.frames_of(&site)) {
                *to = from;
                count += 1;
            }
            site
        };
        writer.site(&site, &frames[..count])?;
    }
    for number in 1..places {
        let (address, module) = {
            let mut recorder = recorder.lock();
            let Some(address) = recorder.address_of(number) else { break };
            (address, recorder.modules().find(address))
        };
        writer.place(number, address, module)?;
    }
    writer.rest()
}

fn round(value: f64) -> i64 {
    // Below 2^53 such a sum is exact enough; `as` cuts, so half is added.
    (value + 0.5) as i64
}
