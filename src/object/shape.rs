//! Shapes: which words of an object may hold pointers.
//!
//! A [`Shape`] describes a type. Registering it gives a number, [`ShapeId`], by which objects are allocated and
//! scanned; equal shapes get equal numbers. Two are there from the start: [`ShapeId::PLAIN`], an object without
//! pointers, and [`ShapeId::WORDS`], one of which every word may be a pointer. Both fit objects of any size.
//!
//! A set bit says that a word *may* be a pointer: whatever it holds, looking it up is safe. So enums and unions
//! set the bits of all their variants.
//!
//! However it is described, a registered shape is a row of equal elements, and each element a bitmap with a
//! *prefix*: the words up to the last one with a pointer. What lies behind is never looked at.
//!
//! ```text
//!   element 0            element 1            element 2
//!   │ 1 0 1 1 │ 0 0 0 0 │ 1 0 1 1 │ 0 0 0 0 │ 1 0 1 1 │ 0 0 0 0 │
//!   └─ prefix ┘  tail   └─ prefix ┘  tail   └─ prefix ┘  tail
//!   └──────────── the object's prefix ────────────────┘
//! ```
//!
//! | form | element | where its bits are |
//! |---|---|---|
//! | mask | up to 64 words | in the record |
//! | bitmap | any | beside the records, for good |
//! | program | large | nowhere, until they are [unrolled](super::unrolled) into a span |
//!
//! [`ShapeId::repeated`] makes of a shape that of a row whose length is the object's: as many elements as fit.
//!
//! 1. A number, once given, means the same shape as long as the heap lives.
//! 2. Shapes that say the same in the same form get one number. No pointers at all is `PLAIN`, whatever the form.
//! 3. A record is complete before the count includes it or a chain leads to it (release), and is not changed later,
//!    but for the word that says where its program is unrolled. Looking up takes no lock.
//! 4. An element of up to 64 words is a mask; a program whose bitmap is no longer than [`SMALL_MAP`] is a bitmap. So
//!    only large objects have shapes that must be unrolled.
//!
//! The room keeps no objects here and does not know which shapes are in use. (Go: `type.go`, `mbitmap.go`.)
//!
//! # Safety
//! Records and the bytes beside them are written before they are published and live as long as the table. References
//! to them are handed out for as long as `Shapes` is borrowed, and `destroy` is unsafe.

use super::kind::SpanKind;
use super::pointers::PointerMap;
use super::program::{ProgramError, low};
use super::record::{Data, Draft, Form, Record};
use crate::base::{Address, Bytes, Lock, Rank};
use crate::os::{Permanent, System, SystemError, Table};
use crate::stats::{Ledger, MetadataKind};
use core::fmt;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};

#[cfg(all(test, not(loom)))]
mod tests;

/// Bytes in a word: what a bit of a shape stands for.
pub const WORD: usize = 8;
/// Words that a mask can describe.
pub const MASK_WORDS: usize = 64;
/// Bits of the longest bitmap that a program is run into at once, for good: those of an object of 32 KiB.
pub const SMALL_MAP: usize = Bytes::kib(32).0 / WORD;
/// The most words of an element: 32 GiB.
pub const MAX_WORDS: usize = u32::MAX as usize;

/// Shapes that a heap can have.
const MAX_SHAPES: usize = 1 << 20;
/// Chains of records with equal hashes; a power of two.
const BUCKETS: usize = 2048;
/// Room for bitmaps and programs.
const DATA: Bytes = Bytes::mib(256);
/// The bit of a [`ShapeId`] that says "repeated".
const REPEATED: u32 = 1 << 31;

/// A description of a type. Sizes are in words of 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape<'a> {
    /// No pointers.
    Plain,
    /// Every word may be a pointer.
    Words,
    /// Up to 64 words; bit `i` stands for word `i`.
    Mask {
        /// The words of the type.
        words: usize,
        /// Which of them may be pointers.
        mask: u64,
    },
    /// Any number of words; bit `i` of word `j` stands for word `64 j + i`. What the bits do not reach has no pointers.
    Bitmap {
        /// The words of the type.
        words: usize,
        /// Which of them may be pointers.
        bits: &'a [u64],
    },
    /// Elements of a registered shape, one after the other.
    Array {
        /// What an element looks like.
        element: ShapeId,
        /// How many there are.
        count: usize,
    },
    /// A [program](super::program) that emits a bit for each word. What it does not reach has no pointers.
    Program {
        /// The words of the type.
        words: usize,
        /// The program.
        code: &'a [u8],
    },
}

/// A registered shape's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct ShapeId(pub u32);

/// A shape that was not registered, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShapeError {
    /// A mask of more than 64 words, or a type of more than [`MAX_WORDS`].
    Size {
        /// Words of the description.
        words: usize,
        /// The most there may be.
        most: usize,
    },
    /// A pointer behind the end of the type.
    Beyond {
        /// Words of the type.
        words: usize,
        /// The word that is said to be a pointer.
        pointer: usize,
    },
    /// An array of a shape that is not registered, or that has no size of its own.
    Element(ShapeId),
    /// The program is wrong.
    Program(ProgramError),
    /// The system refused memory, or there are too many shapes.
    Memory(SystemError),
}

/// The shapes of a heap. See the [file's head](self).
pub struct Shapes {
    records: Table<Record>,
    chains: Table<AtomicU32>,
    data: Permanent,
    /// Records that are published.
    count: AtomicU32,
    /// The first shape whose program is unrolled, or 0.
    pub(super) unrolled: AtomicU32,
    growth: Lock<()>,
}

impl ShapeId {
    /// An object without pointers.
    pub const PLAIN: ShapeId = ShapeId(0);
    /// An object of which every word may be a pointer.
    pub const WORDS: ShapeId = ShapeId(1);

    /// The shape of objects that are rows of this one, as many as fit.
    pub const fn repeated(self) -> ShapeId {
        ShapeId(self.0 | REPEATED)
    }

    /// Whether objects are rows of the shape.
    pub const fn is_repeated(self) -> bool {
        self.0 & REPEATED != 0
    }

    /// The number of the record.
    const fn record(self) -> usize {
        (self.0 & !REPEATED) as usize
    }
}

impl Shapes {
    /// Reserves room for the shapes of a heap, and registers the two that are always there.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    pub fn reserve(system: System, ledger: Ledger<'_>) -> Result<Shapes, SystemError> {
        const KIND: MetadataKind = MetadataKind::Shapes;
        let records: Table<Record> = Table::reserve(system, KIND, MAX_SHAPES, c"spanheap: shapes", ledger)?;
        // SAFETY: what is destroyed here was made here, and nobody has seen it.
        let chains = Table::reserve(system, KIND, BUCKETS, c"spanheap: shape chains", ledger)
            .inspect_err(|_| unsafe { records.destroy() })?;
        let data = records.ensure(0..2, ledger).and_then(|()| chains.ensure(0..BUCKETS, ledger));
        let data = data
            .and_then(|()| Permanent::reserve(system, KIND, DATA, c"spanheap: shape bits", ledger))
            // SAFETY: as above.
            .inspect_err(|_| unsafe {
                records.destroy();
                chains.destroy();
            })?;
        let words = Record { form: Form::Words, dense: true, count: 1, base: 1, ..Record::zeroed() };
        // SAFETY: the element is there, and nobody else sees the table yet.
        unsafe { records.as_ptr().add(1).write(words) };
        let growth = Lock::new(Rank::Shapes, ());
        Ok(Shapes { records, chains, data, count: AtomicU32::new(2), unrolled: AtomicU32::new(0), growth })
    }

    /// Registers a shape, or finds its number again.
    ///
    /// # Errors
    /// [`ShapeError`] says what is wrong with the description, or that memory was refused.
    pub fn register(&self, shape: &Shape<'_>, ledger: Ledger<'_>) -> Result<ShapeId, ShapeError> {
        let mut small = [0; SMALL_MAP / 64];
        let Draft { mut record, bits, code } = match *shape {
            Shape::Plain => return Ok(ShapeId::PLAIN),
            Shape::Words => return Ok(ShapeId::WORDS),
            Shape::Array { element, count: 1 } if self.is_element(element) => return Ok(element),
            Shape::Mask { words, mask } => Draft::mask(words, mask)?,
            Shape::Bitmap { words, bits } => Draft::bitmap(words, bits)?,
            Shape::Program { words, code } => Draft::program(words, code, &mut small)?,
            Shape::Array { element, count } => self.array(element, count)?,
        };
        if record.prefix == 0 {
            return Ok(ShapeId::PLAIN);
        }
        let data = Data { words: bits, bytes: code };
        record.hash = record.hash(data);
        if let Some(id) = self.find(&record, data) {
            return Ok(id);
        }
        let _growing = self.growth.lock();
        // Somebody may have been faster.
        self.find(&record, data).map_or_else(|| self.append(record, data, ledger), Ok)
    }

    /// An array's record, which shares its bits with the element's.
    fn array(&self, element: ShapeId, count: usize) -> Result<Draft<'_>, ShapeError> {
        if element == ShapeId::PLAIN || count == 0 {
            return Ok(Draft::of(Record::zeroed()));
        }
        let inner = self.record(element).filter(|_| self.is_element(element));
        let inner = inner.ok_or(ShapeError::Element(element))?;
        let total = count.saturating_mul(inner.count as usize);
        let words = total.saturating_mul(inner.words as usize);
        if words > MAX_WORDS {
            return Err(ShapeError::Size { words, most: MAX_WORDS });
        }
        if inner.form == Form::Mask && words <= MASK_WORDS {
            let map = inner.map_of(slice::from_ref(&inner.tile), words, true);
            return Draft::mask(words, map.small_mask());
        }
        let &Record { form, dense, words, prefix, tile, tile_words, length, data, base, .. } = inner;
        let count = total as u32;
        let copy = Record {
            form,
            dense,
            words,
            prefix,
            count,
            tile,
            tile_words,
            length,
            data,
            base,
            ..Record::zeroed()
        };
        Ok(Draft { record: copy, bits: &[], code: &[] })
    }

    /// Whether arrays may have such elements, and they have pointers.
    fn is_element(&self, id: ShapeId) -> bool {
        !id.is_repeated() && self.size(id).is_some()
    }

    /// The number of an equal shape.
    fn find(&self, wanted: &Record, data: Data<'_>) -> Option<ShapeId> {
        let mut number = self.chain(wanted.hash).load(Ordering::Acquire);
        while number != 0 {
            let record = self.records.get(number as usize).expect("a chain leads to records");
            if record.hash == wanted.hash && record.says(number, wanted, data) {
                return Some(ShapeId(number));
            }
            number = record.next;
        }
        None
    }

    fn chain(&self, hash: u32) -> &AtomicU32 {
        self.chains.get(hash as usize % BUCKETS).expect("all chains are there")
    }

    /// Makes a new record; the caller holds the lock.
    fn append(&self, mut record: Record, data: Data<'_>, ledger: Ledger<'_>) -> Result<ShapeId, ShapeError> {
        let number = self.count.load(Ordering::Relaxed);
        if number as usize == MAX_SHAPES {
            return Err(ShapeError::Memory(SystemError::NO_MEMORY));
        }
        let place = number as usize..number as usize + 1;
        self.records.ensure(place, ledger).map_err(ShapeError::Memory)?;
        if data.length() > 0 {
            let at = self.data.allocate(Bytes(data.length()), WORD, ledger).map_err(ShapeError::Memory)?;
            // SAFETY: fresh memory of this length, aligned for words.
            unsafe { data.copy_to(at.as_ptr()) };
            (record.data, record.length) = (at.as_ptr().cast(), data.length() as u32);
        }
        if record.base == 0 {
            record.base = number;
        }
        let chain = self.chain(record.hash);
        record.next = chain.load(Ordering::Relaxed);
        // SAFETY: the element is there, and the lock's holder alone writes behind the count.
        unsafe { self.records.as_ptr().add(number as usize).write(record) };
        self.count.store(number + 1, Ordering::Release);
        chain.store(number, Ordering::Release);
        Ok(ShapeId(number))
    }

    /// The record of a registered shape.
    #[inline]
    pub(super) fn record(&self, id: ShapeId) -> Option<&Record> {
        if id.record() >= self.count.load(Ordering::Acquire) as usize {
            return None;
        }
        // SAFETY: records below the count are there.
        Some(unsafe { self.records.get_unchecked(id.record()) })
    }

    /// The record whose program a shape's bits come from.
    pub(super) fn base(&self, record: &Record) -> &Record {
        self.record(ShapeId(record.base)).expect("the element of a shape is registered")
    }

    /// Whether the number was given out.
    pub fn is_registered(&self, id: ShapeId) -> bool {
        self.record(id).is_some()
    }

    /// The bytes of an object of a shape; of a [repeated](ShapeId::repeated) one, the bytes of an element.
    /// `None` for the two shapes without a size of their own, and for numbers that were not given out.
    pub fn size(&self, id: ShapeId) -> Option<Bytes> {
        let record = self.record(id).filter(|record| record.words > 0)?;
        Some(Bytes(record.words as usize * record.count as usize * WORD))
    }

    /// The bytes of an object up to its last pointer, in an object of `size` bytes.
    ///
    /// # Panics
    /// When the shape is not registered.
    pub fn prefix(&self, id: ShapeId, size: Bytes) -> Bytes {
        let record = self.record(id).expect("a registered shape");
        Bytes(record.end(size.0 / WORD, id.is_repeated()) * WORD)
    }

    /// The kind of span that objects of a shape and of `size` bytes take.
    ///
    /// # Panics
    /// When the shape is not registered.
    #[inline]
    pub fn kind(&self, id: ShapeId, size: Bytes) -> SpanKind {
        let record = self.record(id).expect("a registered shape");
        match record.form {
            Form::Plain => SpanKind::Plain,
            _ if record.dense => SpanKind::Words,
            _ if size.0 <= MASK_WORDS * WORD => SpanKind::Mapped,
            _ => SpanKind::Headed,
        }
    }

    /// Which words of an object of a shape and of `size` bytes may be pointers. `None` if that is known to a program
    /// only, which is not [unrolled](Shapes::unroll).
    ///
    /// # Panics
    /// When the shape is not registered.
    #[inline]
    pub fn map(&self, id: ShapeId, size: Bytes) -> Option<PointerMap<'_>> {
        let record = self.record(id).expect("a registered shape");
        let bits = match record.form {
            Form::Plain => &[],
            Form::Words => return Some(PointerMap::all(size.0 / WORD)),
            Form::Mask => slice::from_ref(&record.tile),
            Form::Bitmap => record.bits(),
            Form::Program => self.base(record).unrolled.get(record.map_words())?,
        };
        Some(record.map_of(bits, size.0 / WORD, id.is_repeated()))
    }

    /// The mask of an object of at most 512 bytes.
    ///
    /// # Panics
    /// When the shape is not registered, or the object is larger.
    #[inline]
    pub fn mask(&self, id: ShapeId, size: Bytes) -> u64 {
        assert!(size.0 <= MASK_WORDS * WORD, "a mask for {size}");
        // Elements of which one fits are masks; larger shapes do not fit, and then their first words count.
        self.map(id, size).map_or(low(size.0 / WORD), |map| map.small_mask())
    }

    /// The program of a shape, if it is one.
    pub fn program(&self, id: ShapeId) -> Option<&[u8]> {
        let record = self.record(id)?;
        (record.form == Form::Program).then(|| record.code())
    }

    /// Shapes that are registered, the two that always are included.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire) as usize
    }

    /// The committed ranges, as addresses.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.records
            .committed_ranges()
            .chain(self.chains.committed_ranges())
            .chain(self.data.committed_ranges())
    }

    /// Bytes that are committed, and in the books as [`MetadataKind::Shapes`].
    pub fn committed_bytes(&self) -> Bytes {
        self.records.committed_bytes() + self.chains.committed_bytes() + self.data.committed_bytes()
    }

    /// Takes the locks, before a `fork`.
    pub fn acquire_for_fork(&self) {
        self.growth.acquire();
        self.data.acquire_for_fork();
    }

    /// Gives the locks back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`Shapes::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise is the contract of both.
        unsafe {
            self.data.release_after_fork();
            self.growth.release();
        }
    }

    /// Gives everything back to the system. The books go with the heap; nothing is posted.
    ///
    /// # Safety
    /// Called once, and nobody looks at a shape any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: handed on.
        unsafe {
            self.records.destroy();
            self.chains.destroy();
            self.data.destroy();
        }
    }
}

impl From<ProgramError> for ShapeError {
    fn from(error: ProgramError) -> ShapeError {
        ShapeError::Program(error)
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShapeError::Size { words, most } => {
                write!(f, "a shape of {words} words; expected at most {most}")
            }
            ShapeError::Beyond { words, pointer } => {
                write!(f, "word {pointer} is said to be a pointer; expected words below {words} only")
            }
            ShapeError::Element(id) => {
                write!(f, "an array of shape {:#x}; expected a registered one with a size of its own", id.0)
            }
            ShapeError::Program(error) => write!(f, "pointer program, at byte {error}"),
            ShapeError::Memory(error) => write!(f, "no memory for a shape: {error}"),
        }
    }
}

impl core::error::Error for ShapeError {}
