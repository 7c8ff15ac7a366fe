//! What is loaded: the files whose code is mapped, and what their headers say in memory.
//!
//! Nothing is believed and nothing is touched: everything is read by the kernel, and a file that is gone or says
//! nonsense is left out.
//!
//! # Safety
//! What lies in a table is numbers and bytes, of which zeros are some.

use super::growing::Growing;
use crate::os::maps::{self, LONGEST_NAME, OwnMemory};
use crate::os::{SystemError, Zeroed};
use crate::stats::Ledger;

/// The most files that are known at once.
pub(super) const MOST: usize = 4096;
/// The longest build id that is kept.
pub(super) const LONGEST_ID: usize = 32;

/// A mapping of a file's code.
#[derive(Clone, Copy)]
pub(super) struct Module {
    /// The first byte of the code.
    pub(super) start: usize,
    /// The first byte behind it.
    pub(super) end: usize,
    /// Where the code begins in its file.
    pub(super) offset: usize,
    /// Where the file's own header is in memory, or 0.
    base: usize,
    /// Where the table for unwinding is; 0 if that was not looked up yet, [`NO_TABLE`] if there is none.
    table: usize,
    name: [u8; LONGEST_NAME],
    length: u16,
}

// SAFETY: numbers and bytes.
unsafe impl Zeroed for Module {}

const NO_TABLE: usize = 1;

/// A part of a file that the loader looks at.
#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    /// Where it is in memory.
    at: usize,
    size: usize,
}

const LOAD: u32 = 1;
const NOTE: u32 = 4;
const EH_FRAME_HDR: u32 = 0x6474_e550;

impl Module {
    /// The file's path, or what the kernel calls it.
    pub(super) fn name(&self) -> &[u8] {
        &self.name[..self.length.into()]
    }

    /// Where the module's table for unwinding is.
    pub(super) fn table(&mut self, memory: &OwnMemory) -> Option<usize> {
        if self.table == 0 {
            let mut found = NO_TABLE;
            let _ = self.segments(memory, |segment| {
                if segment.kind == EH_FRAME_HDR {
                    found = segment.at;
                }
            });
            self.table = found;
        }
        (self.table != NO_TABLE).then_some(self.table)
    }

    /// The build id, as hexadecimal text.
    pub(super) fn build_id<'b>(&self, memory: &OwnMemory, text: &'b mut [u8; 2 * LONGEST_ID]) -> &'b [u8] {
        let mut id = ([0; LONGEST_ID], 0);
        let _ = self.segments(memory, |segment| {
            if segment.kind == NOTE
                && id.1 == 0
                && let Some(found) = build_id_in(memory, segment)
            {
                id = found;
            }
        });
        for (byte, text) in id.0[..id.1].iter().zip(text.chunks_exact_mut(2)) {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            text.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        &text[..2 * id.1]
    }

    /// Visits the file's segments, as its header in memory has them.
    fn segments(&self, memory: &OwnMemory, mut visit: impl FnMut(Segment)) -> Option<()> {
        const HEADER: usize = 56;
        const MOST_SEGMENTS: usize = 64;
        let header: [u8; 64] = memory.array(self.base).filter(|_| self.base != 0)?;
        // A 64-bit file of the machine's own byte order.
        if header[..6] != [0x7f, b'E', b'L', b'F', 2, 1] {
            return None;
        }
        let (first, count) = (word(&header, 32)?, usize::from(half(&header, 56)?));
        let each = |visit: &mut dyn FnMut(u32, usize, usize, usize)| {
            for number in 0..count.min(MOST_SEGMENTS) {
                let at = self.base.wrapping_add(first).wrapping_add(number * HEADER);
                let entry: [u8; HEADER] = memory.array(at)?;
                let kind = u32::from_le_bytes(*entry.first_chunk()?);
                visit(kind, word(&entry, 8)?, word(&entry, 16)?, word(&entry, 40)?);
            }
            Some(())
        };
        let mut bias = None;
        each(&mut |kind, offset, address, _| {
            if kind == LOAD && offset == 0 {
                bias = Some(self.base.wrapping_sub(address));
            }
        })?;
        let bias = bias?;
        each(&mut |kind, _, address, size| visit(Segment { kind, at: bias.wrapping_add(address), size }))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes) as usize)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// The build id among a segment's notes: name sizes, sizes, kinds, names and values, each padded to four bytes.
fn build_id_in(memory: &OwnMemory, notes: Segment) -> Option<([u8; LONGEST_ID], usize)> {
    const GNU_BUILD_ID: u32 = 3;
    const MOST_NOTES: usize = 16;
    let mut at = notes.at;
    for _ in 0..MOST_NOTES {
        if at >= notes.at + notes.size {
            return None;
        }
        let head: [u8; 16] = memory.array(at)?;
        let number = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().unwrap_or(&[0; 4]));
        let (name, value) = (number(0) as usize, number(4) as usize);
        if number(8) == GNU_BUILD_ID && &head[12..] == b"GNU\0" && value <= LONGEST_ID {
            let mut id = [0; LONGEST_ID];
            return (memory.read(at + 16, &mut id[..value]) == value).then_some((id, value));
        }
        at += 12 + name.next_multiple_of(4) + value.next_multiple_of(4);
    }
    None
}

/// Every file whose code is mapped, by address.
pub(super) struct Modules {
    pub(super) table: Growing<Module>,
    count: usize,
    /// Whether the numbers must stay as they are.
    held: bool,
}

impl Modules {
    /// None yet.
    pub(super) const fn new() -> Modules {
        Modules { table: Growing::new(), count: 0, held: false }
    }

    /// Keeps the numbers as they are, or no longer.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Reads anew what is mapped, unless the numbers are held. What does not fit is left out.
    ///
    /// # Errors
    /// `/proc` is not there; then nothing has changed.
    pub(super) fn refresh(&mut self, ledger: Ledger<'_>) -> Result<(), SystemError> {
        if self.held {
            return Ok(());
        }
        let mut count = 0;
        // The mapping in which the file's header is, which comes before its code.
        let (mut base, mut file, mut length) = (0, [0; LONGEST_NAME], 0);
        maps::mappings(|mapping| {
            if mapping.offset == 0 && mapping.readable && !mapping.name.is_empty() {
                (base, length) = (mapping.start, mapping.name.len());
                file[..length].copy_from_slice(mapping.name);
            }
            let loaded = mapping.name.starts_with(b"/") || mapping.name == b"[vdso]";
            if !mapping.executable || !loaded || count == MOST {
                return;
            }
            let grown = self.table.ensure(count..count + 1, ledger);
            let Some(module) = grown.and_then(|()| self.table.get_mut(count)) else { return };
            let same = file[..length] == *mapping.name;
            *module = Module {
                start: mapping.start,
                end: mapping.end,
                offset: mapping.offset,
                base: if same { base } else { 0 },
                table: 0,
                name: [0; LONGEST_NAME],
                length: mapping.name.len() as u16,
            };
            module.name[..mapping.name.len()].copy_from_slice(mapping.name);
            count += 1;
        })?;
        self.count = count;
        Ok(())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// One of them.
    pub(super) fn get(&self, number: usize) -> Option<&Module> {
        self.table.get(number).filter(|_| number < self.count)
    }

    /// The number of the one that an address lies in.
    pub(super) fn find(&self, address: usize) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let module = self.get(middle)?;
            if address < module.start {
                high = middle;
            } else if address >= module.end {
                low = middle + 1;
            } else {
                return Some(middle);
            }
        }
        None
    }

    /// The one that an address lies in, to look up its table.
    pub(super) fn find_mut(&mut self, address: usize) -> Option<&mut Module> {
        let number = self.find(address)?;
        self.table.get_mut(number)
    }
}
