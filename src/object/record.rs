//! A registered shape's record: an element's bits, and how many elements there are.
//!
//! Descriptions become records in one way ([`Draft`]), so that equal types become equal records: an element of up to 64
//! words is a mask, a program whose bitmap is short is a bitmap, and words behind the last pointer do not count.
//!
//! # Safety
//! A record with a bitmap or a program points to it, and says how long it is; whoever publishes the record has
//! put it there for good.

use super::pointers::PointerMap;
use super::program::{self, low, read_bits};
use super::shape::{MASK_WORDS, MAX_WORDS, SMALL_MAP, ShapeError, WORD};
use super::unrolled::Unrolled;
use crate::os::Zeroed;
use core::slice;

/// What a record's element is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Form {
    /// No pointers. Zero: the form of a record that was never written.
    Plain,
    /// Any number of words, all of which may be pointers.
    Words,
    /// `tile` holds the bits.
    Mask,
    /// `data` holds the bits.
    Bitmap,
    /// `data` holds a program; the record `base` knows where it is unrolled.
    Program,
}

/// A registered shape.
#[repr(C)]
pub(super) struct Record {
    pub(super) form: Form,
    /// Every word of every element may be a pointer.
    pub(super) dense: bool,
    /// Words of an element.
    pub(super) words: u32,
    /// Words of an element up to the last pointer.
    pub(super) prefix: u32,
    /// Elements.
    pub(super) count: u32,
    /// The element's bits, as often as they fit into a word, and the words that they then stand for.
    pub(super) tile: u64,
    pub(super) tile_words: u32,
    /// Bytes at `data`.
    pub(super) length: u32,
    pub(super) data: *const u64,
    pub(super) hash: u32,
    /// The record of the element, which may be this one.
    pub(super) base: u32,
    /// The next record in the chain, or 0.
    pub(super) next: u32,
    /// Where the program is unrolled.
    pub(super) unrolled: Unrolled,
}

// SAFETY: zeros are a plain shape.
unsafe impl Zeroed for Record {}
// SAFETY: a published record is not changed but for an atomic word, and what it points to is never changed.
unsafe impl Send for Record {}
// SAFETY: as above.
unsafe impl Sync for Record {}

/// A record to be, and what is to stand beside it.
pub(super) struct Draft<'a> {
    pub(super) record: Record,
    pub(super) bits: &'a [u64],
    pub(super) code: &'a [u8],
}

/// What stands beside a record: a bitmap, or a program. One of the two is empty.
#[derive(Clone, Copy)]
pub(super) struct Data<'a> {
    pub(super) words: &'a [u64],
    pub(super) bytes: &'a [u8],
}

impl<'a> Draft<'a> {
    pub(super) fn of(record: Record) -> Draft<'a> {
        Draft { record, bits: &[], code: &[] }
    }

    pub(super) fn mask(words: usize, mask: u64) -> Result<Draft<'a>, ShapeError> {
        if words > MASK_WORDS {
            return Err(ShapeError::Size { words, most: MASK_WORDS });
        }
        let prefix = MASK_WORDS - mask.leading_zeros() as usize;
        if prefix > words {
            return Err(ShapeError::Beyond { words, pointer: prefix - 1 });
        }
        let dense = words > 0 && mask == low(words);
        let mut record = Record::sized(Form::Mask, words, prefix, dense);
        (record.tile, record.tile_words) = (mask, words as u32);
        while record.tile_words > 0 && record.tile_words as usize + words <= MASK_WORDS {
            record.tile |= mask << record.tile_words;
            record.tile_words += words as u32;
        }
        Ok(Draft::of(record))
    }

    pub(super) fn bitmap(words: usize, bits: &'a [u64]) -> Result<Draft<'a>, ShapeError> {
        if words > MAX_WORDS {
            return Err(ShapeError::Size { words, most: MAX_WORDS });
        }
        let last = bits.iter().rposition(|&word| word != 0);
        let prefix = last.map_or(0, |i| 64 * i + 64 - bits[i].leading_zeros() as usize);
        if prefix > words {
            return Err(ShapeError::Beyond { words, pointer: prefix - 1 });
        }
        if words <= MASK_WORDS {
            return Draft::mask(words, bits.first().copied().unwrap_or(0));
        }
        let bits = &bits[..prefix.div_ceil(64)];
        let dense = prefix == words
            && (0..words).step_by(64).all(|at| {
                let n = (words - at).min(64);
                read_bits(bits, at, n) == low(n)
            });
        Ok(Draft { record: Record::sized(Form::Bitmap, words, prefix, dense), bits, code: &[] })
    }

    pub(super) fn program(
        words: usize,
        code: &'a [u8],
        small: &'a mut [u64],
    ) -> Result<Draft<'a>, ShapeError> {
        if words > MAX_WORDS || code.len() > u32::MAX as usize {
            return Err(ShapeError::Size { words: words.max(code.len()), most: MAX_WORDS });
        }
        let extent = program::measure(code, words).map_err(ShapeError::Program)?;
        if extent.prefix <= SMALL_MAP {
            program::run_prefix(code, extent.prefix, small).map_err(ShapeError::Program)?;
            return Draft::bitmap(words, small);
        }
        let record = Record::sized(Form::Program, words, extent.prefix, false);
        Ok(Draft { record, bits: &[], code })
    }
}

impl Record {
    pub(super) fn zeroed() -> Record {
        Record {
            form: Form::Plain,
            dense: false,
            words: 0,
            prefix: 0,
            count: 0,
            tile: 0,
            tile_words: 0,
            length: 0,
            data: core::ptr::null(),
            hash: 0,
            base: 0,
            next: 0,
            unrolled: Unrolled::new(),
        }
    }

    /// A record of one element.
    pub(super) fn sized(form: Form, words: usize, prefix: usize, dense: bool) -> Record {
        let (words, prefix) = (words as u32, prefix as u32);
        Record { form, dense, words, prefix, count: 1, ..Record::zeroed() }
    }

    /// Words of the element's prefix: the bits of its map.
    pub(super) fn map_words(&self) -> usize {
        self.prefix as usize
    }

    /// The number of the record that the bits are with.
    pub(super) fn base(&self) -> u32 {
        self.base
    }

    /// Whether the bits come from a program.
    pub(super) fn is_program(&self) -> bool {
        self.form == Form::Program
    }

    /// The bits beside a bitmap's record.
    pub(super) fn bits(&self) -> &[u64] {
        debug_assert_eq!(self.form, Form::Bitmap);
        // SAFETY: a bitmap's record has so many bytes of words beside it.
        unsafe { slice::from_raw_parts(self.data, self.length as usize / WORD) }
    }

    /// The code beside a program's record.
    pub(super) fn code(&self) -> &[u8] {
        debug_assert_eq!(self.form, Form::Program);
        // SAFETY: a program's record has so many bytes beside it.
        unsafe { slice::from_raw_parts(self.data.cast(), self.length as usize) }
    }

    /// Words up to the last pointer of an object of `words` words.
    #[inline]
    pub(super) fn end(&self, words: usize, repeated: bool) -> usize {
        let (element, prefix) = (self.words as usize, self.prefix as usize);
        match self.form {
            Form::Plain => 0,
            Form::Words => words,
            _ if repeated => {
                // What does not fit as a whole is no element.
                (words / element).checked_sub(1).map_or(0, |last| last * element + prefix)
            }
            _ => ((self.count as usize - 1) * element + prefix).min(words),
        }
    }

    /// The map of an object of `words` words, by the bits of an element.
    #[inline]
    pub(super) fn map_of<'a>(&self, bits: &'a [u64], words: usize, repeated: bool) -> PointerMap<'a> {
        let end = self.end(words, repeated);
        if self.form != Form::Mask {
            let (prefix, period) = (self.prefix as usize, self.words as usize);
            return PointerMap { bits, prefix, period: period.max(1), end };
        }
        // A tile is several elements; its prefix ends with that of the last one.
        let period = self.tile_words as usize;
        PointerMap { bits, prefix: period - (self.words - self.prefix) as usize, period, end }
    }

    /// A hash of what the record says.
    pub(super) fn hash(&self, data: Data<'_>) -> u32 {
        let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let fields = [self.form as u64, self.words as u64, self.count as u64, self.tile, self.base as u64];
        let hash = fields.into_iter().chain(data.words.iter().copied()).fold(0, mix);
        let hash = data.bytes.iter().fold(hash, |hash, &byte| mix(hash, byte as u64));
        (hash >> 32) as u32
    }

    /// Whether this record, with its number, says the same as one to be.
    pub(super) fn says(&self, number: u32, wanted: &Record, data: Data<'_>) -> bool {
        let own = |r: &Record| (r.form, r.words, r.prefix, r.count, r.tile);
        if own(self) != own(wanted) {
            return false;
        }
        if wanted.base != 0 {
            return self.base == wanted.base;
        }
        self.base == number
            && match self.form {
                Form::Bitmap => self.bits() == data.words,
                Form::Program => self.code() == data.bytes,
                _ => true,
            }
    }
}

impl Data<'_> {
    pub(super) fn length(&self) -> usize {
        size_of_val(self.words) + self.bytes.len()
    }

    /// Copies the data.
    ///
    /// # Safety
    /// There is room for [`Data::length`] bytes at `to`.
    pub(super) unsafe fn copy_to(&self, to: *mut u8) {
        // SAFETY: the caller's promise; one of the two is empty.
        unsafe {
            to.copy_from_nonoverlapping(self.words.as_ptr().cast(), size_of_val(self.words));
            to.copy_from_nonoverlapping(self.bytes.as_ptr(), self.bytes.len());
        }
    }
}
