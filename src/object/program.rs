//! GC programs: pointer bitmaps as byte code.
//!
//! A large type of a repetitive kind, such as an array of a million records, has a pointer bitmap of a million
//! times the same few bits. A *program* says the same in a few bytes. Running it emits the bitmap, bit 0 first, one
//! bit a word of the object; 1 means "may be a pointer":
//!
//! ```text
//!   00             stop
//!   0nnnnnnn B…    emit the n bits (1 to 127) in the next ⌈n/8⌉ bytes, low bits first
//!   1nnnnnnn C     emit the last n bits (1 to 127) C times more
//!   80 N C         the same, with any n
//! ```
//!
//! `N` and `C` are numbers of seven bits a byte, the low ones first; every byte but the last has its high bit set.
//! The encoding is that of Go up to version 1.23.
//!
//! 1. A program that [`measure`] accepts can be run: it stops, repeats only what it has emitted, and emits no more
//!    bits than were allowed.
//! 2. What a program emits up to a point does not depend on where its reader stops.
//!
//! Programs may come from anywhere; each fault is found and named with its offset. The file does not know where
//! programs are kept or when they are run: see [`shape`](super::shape). [`encode`](super::encode) writes them.

use core::fmt;

#[cfg(all(test, not(loom)))]
pub(crate) mod model;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;

/// What a program is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Instruction<'a> {
    Stop,
    /// So many bits, in these bytes.
    Literal(usize, &'a [u8]),
    /// The last so many bits, so many times more.
    Repeat(usize, usize),
}

/// What is wrong with a program, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgramError {
    /// The byte at which the instruction in question begins.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It ends before it has stopped, or in the middle of an instruction.
    Ended {
        /// What should have followed.
        expected: &'static str,
    },
    /// A number does not fit into 64 bits.
    Number,
    /// It repeats more bits than it has emitted, or none.
    Repeat {
        /// Bits to be repeated.
        wanted: usize,
        /// Bits that there are.
        emitted: usize,
    },
    /// It emits too many bits.
    Long {
        /// The most that were expected.
        limit: usize,
    },
    /// Bytes follow the stop.
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// How far a program reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bits that it emits: words of the type.
    pub bits: usize,
    /// Bits up to the last one that is set. The words behind it hold no pointers.
    pub prefix: usize,
}

/// Reads instructions one after the other.
#[derive(Clone)]
struct Decoder<'a> {
    code: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn new(code: &'a [u8]) -> Decoder<'a> {
        Decoder { code, at: 0 }
    }

    /// The next instruction, and where it begins.
    fn next(&mut self) -> Result<(usize, Instruction<'a>), ProgramError> {
        let offset = self.at;
        let fault = |fault| ProgramError { offset, fault };
        let byte = self.byte("an instruction").map_err(fault)?;
        let instruction = match (byte & 0x80 != 0, (byte & 0x7f) as usize) {
            (false, 0) => Instruction::Stop,
            (false, n) => Instruction::Literal(n, self.bytes(n.div_ceil(8)).map_err(fault)?),
            (true, n) => {
                let n = if n == 0 { self.number("bits to repeat").map_err(fault)? } else { n };
                Instruction::Repeat(n, self.number("how often to repeat").map_err(fault)?)
            }
        };
        Ok((offset, instruction))
    }

    fn byte(&mut self, expected: &'static str) -> Result<u8, Fault> {
        let byte = *self.code.get(self.at).ok_or(Fault::Ended { expected })?;
        self.at += 1;
        Ok(byte)
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let bytes = self.code.get(self.at..self.at + n);
        self.at += n;
        bytes.ok_or(Fault::Ended { expected: "the bits of a literal" })
    }

    fn number(&mut self, expected: &'static str) -> Result<usize, Fault> {
        let mut number = 0usize;
        for place in 0..10 {
            let byte = self.byte(expected)?;
            let bits = (byte & 0x7f) as usize;
            if place == 9 && bits > 1 {
                break;
            }
            number |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Fault::Number)
    }
}

/// Checks a program that may emit `limit` bits, and says how far it reaches, without running it.
///
/// # Errors
/// [`ProgramError`]: the first instruction that is wrong.
pub fn measure(code: &[u8], limit: usize) -> Result<Extent, ProgramError> {
    let mut decoder = Decoder::new(code);
    let mut extent = Extent { bits: 0, prefix: 0 };
    loop {
        let (offset, instruction) = decoder.next()?;
        let fault = |fault| Err(ProgramError { offset, fault });
        let Extent { bits, prefix } = extent;
        let (more, last) = match instruction {
            Instruction::Stop => {
                let bytes = code.len() - decoder.at;
                return if bytes == 0 { Ok(extent) } else { fault(Fault::Trailing { bytes }) };
            }
            Instruction::Literal(n, bytes) => (Some(n), last_set(n, bytes).map_or(prefix, |i| bits + i + 1)),
            Instruction::Repeat(n, _) if n == 0 || n > bits => {
                return fault(Fault::Repeat { wanted: n, emitted: bits });
            }
            Instruction::Repeat(n, times) => {
                // What is repeated has a pointer in it exactly if the last one so far is among the last n.
                let more = n.checked_mul(times);
                (more, if prefix > bits - n { prefix + more.unwrap_or(0) } else { prefix })
            }
        };
        match more.filter(|&more| more <= limit - bits) {
            Some(more) => extent = Extent { bits: bits + more, prefix: last },
            None => return fault(Fault::Long { limit }),
        }
    }
}

/// The last bit that is set among the first `n`.
fn last_set(n: usize, bytes: &[u8]) -> Option<usize> {
    (0..n).rev().find(|&i| bytes[i / 8] >> (i % 8) & 1 != 0)
}

/// Runs a program: its bits go into `sink`, 64 a word, and the rest of `sink` becomes zero. Returns how many bits it
/// emitted.
///
/// # Errors
/// [`ProgramError`]; then `sink` holds anything. A program that emits more than `sink` takes is
/// [`Long`](Fault::Long).
pub fn run(code: &[u8], sink: &mut [u64]) -> Result<usize, ProgramError> {
    let limit = sink.len() * 64;
    emit(code, Sink { words: sink, length: 0, limit }, false)
}

/// Runs a program until it has emitted `bits` bits, or has stopped. Returns how many bits it emitted; the rest of
/// `sink` becomes zero.
///
/// # Errors
/// [`ProgramError`], if the program is wrong before it has come so far.
///
/// # Panics
/// When `sink` has no room for so many bits.
pub fn run_prefix(code: &[u8], bits: usize, sink: &mut [u64]) -> Result<usize, ProgramError> {
    assert!(bits <= sink.len() * 64, "{bits} bits into {} words", sink.len());
    emit(code, Sink { words: sink, length: 0, limit: bits }, true)
}

/// Runs a program into `sink`; whether it may be `cut` off at the limit.
fn emit(code: &[u8], mut sink: Sink<'_>, cut: bool) -> Result<usize, ProgramError> {
    let mut decoder = Decoder::new(code);
    while !cut || sink.length < sink.limit {
        let (offset, instruction) = decoder.next()?;
        let fault = |fault| Err(ProgramError { offset, fault });
        let room = sink.limit - sink.length;
        let wanted = match instruction {
            Instruction::Stop => match code.len() - decoder.at {
                0 => break,
                bytes => return fault(Fault::Trailing { bytes }),
            },
            Instruction::Literal(n, _) => n,
            Instruction::Repeat(n, _) if n == 0 || n > sink.length => {
                return fault(Fault::Repeat { wanted: n, emitted: sink.length });
            }
            Instruction::Repeat(n, times) => n.saturating_mul(times),
        };
        if wanted > room && !cut {
            return fault(Fault::Long { limit: sink.limit });
        }
        let bits = wanted.min(room);
        match instruction {
            Instruction::Literal(_, bytes) => sink.literal(bytes, bits),
            Instruction::Repeat(n, _) => sink.repeat(n, bits),
            Instruction::Stop => {}
        }
    }
    Ok(sink.finish())
}

/// Bits, one after the other, in words. Words from the one that the end lies in are not written yet.
struct Sink<'a> {
    words: &'a mut [u64],
    length: usize,
    /// The most bits that may come.
    limit: usize,
}

impl Sink<'_> {
    /// Appends the low `n` of `bits`, at most 64; there is room, and those above are zero.
    #[inline]
    fn push(&mut self, bits: u64, n: usize) {
        let (word, shift) = (self.length / 64, self.length % 64);
        if shift == 0 {
            self.words[word] = bits;
        } else {
            self.words[word] |= bits << shift;
            if shift + n > 64 {
                self.words[word + 1] = bits >> (64 - shift);
            }
        }
        self.length += n;
    }

    /// Appends the first `n` bits in `bytes`.
    fn literal(&mut self, bytes: &[u8], n: usize) {
        let mut left = n;
        for &byte in bytes {
            let take = left.min(8);
            if take == 0 {
                break;
            }
            self.push(byte as u64 & low(take), take);
            left -= take;
        }
    }

    /// Appends `total` bits of an endless repetition of the last `n`.
    fn repeat(&mut self, n: usize, mut total: usize) {
        let start = self.length - n;
        if n >= 64 {
            let mut from = start;
            while total > 0 {
                let take = total.min(64);
                self.push(read_bits(self.words, from, take), take);
                from += take;
                total -= take;
            }
            return;
        }
        let mut pattern = read_bits(self.words, start, n);
        let mut length = n;
        while length * 2 <= 64 {
            pattern |= pattern << length;
            length *= 2;
        }
        while total > 0 {
            let take = total.min(length);
            self.push(pattern & low(take), take);
            total -= take;
        }
    }

    /// Clears what was not written, and says how many bits were.
    fn finish(self) -> usize {
        let written = self.length.div_ceil(64);
        self.words[written..].fill(0);
        self.length
    }
}

/// A word whose low `n` bits are set, 64 at most.
#[inline]
pub(super) fn low(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// The `n` bits (1 to 64) of a bitmap from bit `from`, low ones first. All of them lie in the bitmap.
#[inline]
pub(super) fn read_bits(words: &[u64], from: usize, n: usize) -> u64 {
    let (word, shift) = (from / 64, from % 64);
    let mut bits = words[word] >> shift;
    if shift + n > 64 {
        bits |= words[word + 1] << (64 - shift);
    }
    bits & low(n)
}

/// Writes a program as text, an instruction a line: where it begins, and what it does. A fault is the last line.
///
/// ```
/// use spanheap::object::program::dump;
///
/// let mut text = String::new();
/// dump(&[3, 0b101, 0x83, 9, 0], &mut text)?;
/// assert_eq!(text, "0: literal 101\n2: repeat 3 bits, times 9\n4: stop after 30 bits, the last pointer is 29\n");
/// # Ok::<(), std::fmt::Error>(())
/// ```
///
/// # Errors
/// The writer's.
pub fn dump(code: &[u8], out: &mut dyn fmt::Write) -> fmt::Result {
    let fault = measure(code, usize::MAX).err();
    let mut decoder = Decoder::new(code);
    while let Ok((offset, instruction)) = decoder.next() {
        if let Some(fault) = fault.filter(|fault| fault.offset == offset) {
            return writeln!(out, "{fault}");
        }
        match instruction {
            Instruction::Stop => break,
            Instruction::Literal(n, bytes) => {
                write!(out, "{offset}: literal ")?;
                (0..n).try_for_each(|i| write!(out, "{}", bytes[i / 8] >> (i % 8) & 1))?;
                writeln!(out)?;
            }
            Instruction::Repeat(n, times) => {
                let plural = if n == 1 { "" } else { "s" };
                writeln!(out, "{offset}: repeat {n} bit{plural}, times {times}")?;
            }
        }
    }
    match measure(code, usize::MAX) {
        Err(fault) => writeln!(out, "{fault}"),
        Ok(Extent { bits, prefix }) => {
            write!(out, "{}: stop after {bits} bits, ", code.len() - 1)?;
            match prefix {
                0 => writeln!(out, "no pointers"),
                _ => writeln!(out, "the last pointer is {}", prefix - 1),
            }
        }
    }
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.offset)?;
        match self.fault {
            Fault::Ended { expected } => write!(f, "the program ends where {expected} should be"),
            Fault::Number => write!(f, "a number of more than 64 bits"),
            Fault::Repeat { wanted: 0, .. } => write!(f, "repeats no bits; expected at least 1"),
            Fault::Repeat { wanted, emitted } => {
                write!(f, "repeats {wanted} bits; expected at most the {emitted} emitted so far")
            }
            Fault::Long { limit } => write!(f, "emits more than the {limit} bits that were expected"),
            Fault::Trailing { bytes } => write!(f, "{bytes} bytes follow the stop; expected none"),
        }
    }
}

impl core::error::Error for ProgramError {}
