//! Writes [programs](super::program): from a description of a type, or from its bitmap.
//!
//! A description says itself what repeats. In a bitmap repeats are searched for: where the next 32 bits were seen
//! before, as far back as the place is still in a small table, the distance is tried as a period. The longest
//! repetition wins if it saves bytes; otherwise the bit goes into a literal. That takes time linear in the bitmap
//! and the program's repetitions, and 8 KiB of stack.
//!
//! 1. What is written runs without a fault and emits exactly the description's, or the bitmap's, bits.
//! 2. If the buffer is too short, nothing but the buffer's contents is lost: the error says how long it must be.

use super::program::{low, read_bits};
use core::fmt;

/// What a type looks like, word by word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout<'a> {
    /// So many words without pointers.
    Scalars(usize),
    /// So many pointers.
    Pointers(usize),
    /// One after the other.
    Sequence(&'a [Layout<'a>]),
    /// The same, so many times.
    Repeat(&'a Layout<'a>, usize),
}

impl Layout<'_> {
    /// The words that it describes; `None` when they cannot be counted.
    pub fn words(&self) -> Option<usize> {
        match self {
            Layout::Scalars(n) | Layout::Pointers(n) => Some(*n),
            Layout::Sequence(parts) => {
                parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.words()?))
            }
            Layout::Repeat(part, times) => part.words()?.checked_mul(*times),
        }
    }
}

/// A program could not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EncodeError {
    /// The buffer is too short for the program.
    Room {
        /// Bytes that it takes.
        needed: usize,
    },
    /// The type has more words than there are addresses.
    Size,
}

/// Repetitions of fewer bits than this are written out: an instruction is no shorter.
const WORTHWHILE: usize = 32;
/// Places in the table of what was seen, a power of two, and how many places each set of them holds.
const SETS: usize = 512;
const WAYS: usize = 4;
/// Bits that are looked up in the table.
const WINDOW: usize = 32;

/// Writes the program of a description into `buffer`; returns its length.
///
/// # Errors
/// [`EncodeError`].
pub fn encode(layout: &Layout<'_>, buffer: &mut [u8]) -> Result<usize, EncodeError> {
    layout.words().ok_or(EncodeError::Size)?;
    let mut writer = Writer::new(buffer);
    writer.layout(layout);
    writer.stop()
}

/// Writes a program that emits the first `bits` bits of a bitmap into `buffer`; returns its length.
///
/// # Errors
/// [`EncodeError::Room`].
///
/// # Panics
/// When the bitmap has fewer bits.
pub fn encode_bitmap(bitmap: &[u64], bits: usize, buffer: &mut [u8]) -> Result<usize, EncodeError> {
    assert!(bits <= bitmap.len() * 64, "{bits} bits of {} words", bitmap.len());
    let mut writer = Writer::new(buffer);
    let mut seen = Seen::new();
    let mut at = 0;
    while at < bits {
        let (period, times) = seen.best(bitmap, at, bits);
        if period * times >= WORTHWHILE {
            writer.repeat(period, times);
            at += period * times;
        } else {
            writer.literal(read_bits(bitmap, at, 1), 1);
            at += 1;
        }
    }
    writer.stop()
}

/// Where bits were seen lately.
struct Seen {
    /// Places plus one, the latest first.
    sets: [[usize; WAYS]; SETS],
}

impl Seen {
    fn new() -> Seen {
        Seen { sets: [[0; WAYS]; SETS] }
    }

    /// The period and the number of repetitions that say most about the bits from `at`, or a product of zero. Notes
    /// that these bits were seen here.
    fn best(&mut self, bitmap: &[u64], at: usize, bits: usize) -> (usize, usize) {
        if at + WINDOW > bits {
            return (1, 0);
        }
        let window = read_bits(bitmap, at, WINDOW);
        let set = &mut self.sets[(window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SETS];
        let mut best = (1, 0);
        for place in set.iter().filter(|&&place| place > 0) {
            let period = at - (place - 1);
            let times = matching(bitmap, at, period, bits) / period;
            if period * times > best.0 * best.1 {
                best = (period, times);
            }
        }
        set.rotate_right(1);
        set[0] = at + 1;
        best
    }
}

/// How many bits from `at` equal those `period` before.
fn matching(bitmap: &[u64], at: usize, period: usize, bits: usize) -> usize {
    let mut length = 0;
    while at + length < bits {
        let n = (bits - at - length).min(64);
        let now = read_bits(bitmap, at + length, n);
        let then = read_bits(bitmap, at + length - period, n);
        if now != then {
            return length + (now ^ then).trailing_zeros() as usize;
        }
        length += n;
    }
    length
}

/// Puts instructions into a buffer, and counts on when it is full.
struct Writer<'b> {
    buffer: &'b mut [u8],
    length: usize,
    /// Bits of a literal that is not written yet, at most 127.
    literal: u128,
    pending: usize,
}

impl Writer<'_> {
    fn new(buffer: &mut [u8]) -> Writer<'_> {
        Writer { buffer, length: 0, literal: 0, pending: 0 }
    }

    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.buffer.get_mut(self.length) {
            *place = byte;
        }
        self.length += 1;
    }

    fn number(&mut self, mut number: usize) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// Emits the low `n` of `bits`, at most 64.
    fn literal(&mut self, bits: u64, n: usize) {
        let now = n.min(127 - self.pending);
        self.literal |= ((bits & low(now)) as u128) << self.pending;
        self.pending += now;
        if self.pending == 127 {
            self.flush();
        }
        if now < n {
            self.literal(bits >> now, n - now);
        }
    }

    /// Writes the literal that waits.
    fn flush(&mut self) {
        if self.pending == 0 {
            return;
        }
        self.byte(self.pending as u8);
        for i in 0..self.pending.div_ceil(8) {
            self.byte((self.literal >> (8 * i)) as u8);
        }
        (self.literal, self.pending) = (0, 0);
    }

    /// Emits the last `n` bits `times` times more.
    fn repeat(&mut self, n: usize, times: usize) {
        if n == 0 || times == 0 {
            return;
        }
        self.flush();
        if n < 0x80 {
            self.byte(0x80 | n as u8);
        } else {
            self.byte(0x80);
            self.number(n);
        }
        self.number(times);
    }

    fn layout(&mut self, layout: &Layout<'_>) {
        match *layout {
            Layout::Scalars(n) => self.row(0, n),
            Layout::Pointers(n) => self.row(u64::MAX, n),
            Layout::Sequence(parts) => parts.iter().for_each(|part| self.layout(part)),
            Layout::Repeat(part, times) => {
                let n = part.words().unwrap_or(0);
                if n * times > WORTHWHILE {
                    self.layout(part);
                    self.repeat(n, times - 1);
                } else if n > 0 {
                    (0..times).for_each(|_| self.layout(part));
                }
            }
        }
    }

    /// `n` times the same bit.
    fn row(&mut self, bits: u64, n: usize) {
        if n <= WORTHWHILE {
            self.literal(bits, n);
        } else {
            self.literal(bits, 1);
            self.repeat(1, n - 1);
        }
    }

    fn stop(mut self) -> Result<usize, EncodeError> {
        self.flush();
        self.byte(0);
        let needed = self.length;
        if needed <= self.buffer.len() { Ok(needed) } else { Err(EncodeError::Room { needed }) }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Room { needed } => write!(f, "no room for the program: it takes {needed} bytes"),
            EncodeError::Size => write!(f, "the type has more words than there are addresses"),
        }
    }
}

impl core::error::Error for EncodeError {}
