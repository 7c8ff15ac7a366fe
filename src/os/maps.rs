//! What the kernel has mapped for this process, and the process's own memory, read so that nothing can go wrong.
//!
//! Memory that belongs to somebody else may be gone by the time that it is read: a library is unloaded, a stack is
//! unmapped. Reading it through `/proc/self/mem` is a system call that fails then, where a load would end the process.

use super::proc;
use super::system::SystemError;
use core::cell::RefCell;
use core::ffi::CStr;
use rustix::fs::OFlags;
use rustix::io::retry_on_intr;

/// The longest name of a mapping that is kept; a longer one is cut.
pub const LONGEST_NAME: usize = 256;
/// The longest line that is read: addresses, rights, and a name.
const LONGEST_LINE: usize = LONGEST_NAME + 128;

/// One line of `/proc/self/maps`.
#[derive(Clone, Copy, Debug)]
pub struct Mapping<'a> {
    /// Its first byte.
    pub start: usize,
    /// The first byte behind it.
    pub end: usize,
    /// Where it begins in its file.
    pub offset: usize,
    /// Whether it may be read.
    pub readable: bool,
    /// Whether it holds code.
    pub executable: bool,
    /// The path of its file, or what the kernel calls it; empty for nameless memory.
    pub name: &'a [u8],
}

/// Visits what is mapped, by address.
///
/// # Errors
/// `/proc` is not there.
pub fn mappings(mut visit: impl FnMut(Mapping<'_>)) -> Result<(), SystemError> {
    let (mut line, mut length) = ([0; LONGEST_LINE], 0);
    proc::read_through(c"/proc/self/maps", |bytes| {
        for &byte in bytes {
            if byte == b'\n' {
                if let Some(mapping) = parse(&line[..length]) {
                    visit(mapping);
                }
                length = 0;
            } else if let Some(at) = line.get_mut(length) {
                *at = byte;
                length += 1;
            }
        }
    })
}

/// A line such as `7f0-7f1 r-xp 00001000 fe:00 42   /usr/lib/libc.so.6`.
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line;
    let mut field = || {
        let from = rest.iter().position(|&byte| byte != b' ')?;
        let to = rest[from..].iter().position(|&byte| byte == b' ').map_or(rest.len(), |at| from + at);
        let field = &rest[from..to];
        rest = &rest[to..];
        Some(field)
    };
    let (range, rights, offset) = (field()?, field()?, field()?);
    let (_device, _file) = (field()?, field()?);
    let name = rest.iter().position(|&byte| byte != b' ').map_or(&[][..], |at| &rest[at..]);
    let middle = range.iter().position(|&byte| byte == b'-')?;
    Some(Mapping {
        start: hexadecimal(&range[..middle])?,
        end: hexadecimal(&range[middle + 1..])?,
        offset: hexadecimal(offset)?,
        readable: rights.first() == Some(&b'r'),
        executable: rights.get(2) == Some(&b'x'),
        name: &name[..name.len().min(LONGEST_NAME)],
    })
}

fn hexadecimal(text: &[u8]) -> Option<usize> {
    usize::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()
}

/// The process's own memory, read by the kernel.
///
/// Small reads that lie close together are answered from one block that was read before: tables are searched in that
/// way, and a system call takes longer than the whole rest. What is read so must not change while the value lives.
pub struct OwnMemory {
    file: proc::OwnedFd,
    block: RefCell<Block>,
}

/// A part of memory, copied. Blocks are aligned, so none reaches into a page that its first byte is not in.
struct Block {
    /// Where it is; 1 where there is none.
    at: usize,
    bytes: [u8; BLOCK],
}

/// Bytes of a block: a power of two, and no more than a page.
const BLOCK: usize = 1024;

impl OwnMemory {
    /// Opens it.
    ///
    /// # Errors
    /// `/proc` is not there, or the process may not.
    pub fn open() -> Result<OwnMemory, SystemError> {
        const MEMORY: &CStr = c"/proc/self/mem";
        let block = RefCell::new(Block { at: 1, bytes: [0; BLOCK] });
        proc::open(MEMORY, OFlags::RDONLY).map(|file| OwnMemory { file, block })
    }

    /// Reads what is at an address. Returns how many bytes could be read, from the first on.
    pub fn read(&self, at: usize, buffer: &mut [u8]) -> usize {
        let (start, within) = (at & !(BLOCK - 1), at & (BLOCK - 1));
        let mut block = self.block.borrow_mut();
        if within + buffer.len() > BLOCK {
            return self.fetch(at, buffer);
        }
        if block.at != start {
            // Until all of it is there, there is none.
            block.at = 1;
            if self.fetch(start, &mut block.bytes) < BLOCK {
                return self.fetch(at, buffer);
            }
            block.at = start;
        }
        buffer.copy_from_slice(&block.bytes[within..within + buffer.len()]);
        buffer.len()
    }

    fn fetch(&self, at: usize, buffer: &mut [u8]) -> usize {
        retry_on_intr(|| rustix::io::pread(&self.file, &mut *buffer, at as u64)).unwrap_or(0)
    }

    /// Reads exactly so many bytes.
    pub fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.read(at, &mut bytes) == N).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = b"7f00-7fff r-xp 00001000 fe:00 4242     /usr/lib/a name";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f00, 0x7fff, 0x1000));
        assert!(mapping.readable && mapping.executable);
        assert_eq!(mapping.name, b"/usr/lib/a name");
        let nameless = parse(b"7f00-7fff -w-p 00000000 00:00 0 ").unwrap();
        assert!(!nameless.readable && !nameless.executable && nameless.name.is_empty());
        for wrong in [&b""[..], b"7f00", b"7f00-7fff r-xp", b"x-y r-xp 0 0 0"] {
            assert!(parse(wrong).is_none());
        }
    }

    #[test]
    fn this_code_and_this_stack_are_mapped() {
        let local = 0u8;
        let (code, stack) = (lines_are_taken_apart as *const () as usize, (&raw const local).addr());
        let (mut found_code, mut found_stack, mut last) = (false, false, 0);
        mappings(|mapping| {
            assert!(last <= mapping.start && mapping.start < mapping.end);
            last = mapping.end;
            found_code |= mapping.executable && (mapping.start..mapping.end).contains(&code);
            found_stack |= mapping.readable && (mapping.start..mapping.end).contains(&stack);
        })
        .unwrap();
        assert!(found_code && found_stack);
    }

    #[test]
    fn memory_that_is_not_there_is_no_error_of_ours() {
        let memory = OwnMemory::open().unwrap();
        let value = 0x1234_5678_u32;
        assert_eq!(memory.array(core::ptr::from_ref(&value).addr()), Some(value.to_ne_bytes()));
        assert_eq!(memory.array::<4>(16), None);
    }

    #[test]
    fn reads_close_together_are_as_reads_one_by_one() {
        let bytes: Vec<u8> = (0..3 * BLOCK).map(|at| (at * 7 % 251) as u8).collect();
        let memory = OwnMemory::open().unwrap();
        // Back and forth, within blocks and across their ends.
        for (step, size) in [(1, 1), (63, 8), (BLOCK - 1, 16), (5, 2 * BLOCK), (777, BLOCK)] {
            let mut at = 0;
            for _ in 0..500 {
                let mut found = vec![0; size];
                assert_eq!(memory.read(bytes.as_ptr().addr() + at, &mut found), size);
                assert_eq!(found, bytes[at..at + size], "{size} at {at}");
                at = (at + step) % (bytes.len() - size);
            }
        }
    }
}
