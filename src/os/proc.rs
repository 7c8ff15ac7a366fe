//! What the kernel says about this process, and text that goes to a file, both without allocation.
//!
//! The books say what the heap believes; `/proc` says what is. [`resident`] counts the pages of a range that the
//! kernel keeps memory behind, so that the two can be compared. [`FdWriter`] is for messages and statistics from
//! inside somebody else's program: a buffer on the stack, and a system call when it is full.
//!
//! The file does not know the heap: ranges are addresses, text is text.
//!
//! # Safety
//! The only unsafe step is borrowing standard error by its number.

use super::system::{System, SystemError};
use crate::base::{Address, Bytes};
use core::ffi::CStr;
use core::fmt;
use rustix::event::{PollFd, PollFlags, poll};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

/// Open files, borrowed and owned. Which types these are depends on how `rustix` was built, hence the names here.
pub use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of the page map that are read at once.
const PAGE_MAP_BUFFER: usize = 4096;
/// Bytes of an entry of the page map.
const ENTRY: usize = 8;
/// The bit of an entry that says that memory is behind the page.
const PRESENT: u64 = 1 << 63;

/// Counts the bytes in the system pages of a range that have memory behind them, and shows each such page to `visit`.
/// Pages that were swapped out are not counted. The range is rounded outwards to system pages.
///
/// # Errors
/// The page map cannot be read, for instance because the process gave up its privileges.
pub fn resident(at: Address, size: Bytes, mut visit: impl FnMut(Address)) -> Result<Bytes, SystemError> {
    let page = System::Linux.page_size().0;
    let map = open(c"/proc/self/pagemap", OFlags::RDONLY)?;
    let (mut next, end) = (at.0 / page, (at.0 + size.0).div_ceil(page));
    let mut present = 0;
    let mut buffer = [0u8; PAGE_MAP_BUFFER];
    while next < end {
        let wanted = (end - next).min(PAGE_MAP_BUFFER / ENTRY) * ENTRY;
        let from = (next * ENTRY) as u64;
        let got = retry_on_intr(|| rustix::io::pread(&map, &mut buffer[..wanted], from))?;
        if got < ENTRY {
            break;
        }
        for (entry, number) in buffer[..got].chunks_exact(ENTRY).zip(next..) {
            if entry.first_chunk().is_some_and(|bytes| u64::from_ne_bytes(*bytes) & PRESENT != 0) {
                present += 1;
                visit(Address(number * page));
            }
        }
        next += got / ENTRY;
    }
    Ok(Bytes(present * page))
}

/// Bytes of memory that the whole process has, as the kernel's running count says. The kernel keeps parts of that
/// count by processor, so it may be off by some dozens of pages.
///
/// # Errors
/// `/proc` is not there or says something else than expected.
pub fn process_resident() -> Result<Bytes, SystemError> {
    let mut buffer = [0; 128];
    let text = core::str::from_utf8(read_file(c"/proc/self/statm", &mut buffer)?).unwrap_or("");
    let pages: Option<usize> = text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok());
    match pages {
        Some(pages) => Ok(Bytes(pages * System::Linux.page_size().0)),
        None => Err(Errno::INVAL.into()),
    }
}

/// Reads a file from its start, at most as much as the buffer holds.
///
/// # Errors
/// The file cannot be opened or read.
pub fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8], SystemError> {
    let file = open(path, OFlags::RDONLY)?;
    let mut length = 0;
    while length < buffer.len() {
        match retry_on_intr(|| rustix::io::read(&file, &mut buffer[length..]))? {
            0 => break,
            got => length += got,
        }
    }
    Ok(&buffer[..length])
}

/// Opens a file to write it anew; creates it where there is none. Closed when dropped.
///
/// # Errors
/// What the system says.
pub fn open_for_writing(path: &CStr) -> Result<OwnedFd, SystemError> {
    open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
}

/// Reads a file from its beginning to its end, piece by piece.
///
/// # Errors
/// What the system answered.
pub fn read_through(path: &CStr, mut visit: impl FnMut(&[u8])) -> Result<(), SystemError> {
    let file = open(path, OFlags::RDONLY)?;
    let mut buffer = [0; 1024];
    loop {
        match retry_on_intr(|| rustix::io::read(&file, &mut buffer[..]))? {
            0 => return Ok(()),
            got => visit(&buffer[..got]),
        }
    }
}

pub(super) fn open(path: &CStr, flags: OFlags) -> Result<OwnedFd, SystemError> {
    let mode = Mode::from_raw_mode(0o666);
    Ok(retry_on_intr(|| rustix::fs::open(path, flags | OFlags::CLOEXEC, mode))?)
}

/// Names the calling thread, as debuggers and `top` show it.
pub fn name_thread(name: &CStr) {
    // Only a name.
    let _ = rustix::thread::set_name(name);
}

/// The time of day: nanoseconds since 1970.
pub fn wall_clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + now.tv_nsec as u64
}

/// Standard error.
pub fn standard_error() -> BorrowedFd<'static> {
    // SAFETY: the number is a constant. Should the program have closed it, a write fails; should it have opened
    // something else there, that is where it wants its errors.
    unsafe { BorrowedFd::borrow_raw(2) }
}

/// Writes all of `bytes`. Waits where the other side is slow, also if the file is set not to block.
///
/// # Errors
/// What the system says; a part may have been written.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), SystemError> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut wait = [PollFd::new(&fd, PollFlags::OUT)];
                retry_on_intr(|| poll(&mut wait, None))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Text on its way to a file: `N` bytes are collected before they are written.
///
/// The first error is kept and ends the writing; [`FdWriter::finish`] tells. Dropping it writes what is left.
pub struct FdWriter<'fd, const N: usize = 512> {
    fd: BorrowedFd<'fd>,
    buffer: [u8; N],
    used: usize,
    outcome: Result<(), SystemError>,
}

impl<'fd> FdWriter<'fd> {
    /// A writer with a buffer of 512 bytes.
    pub fn new(fd: BorrowedFd<'fd>) -> FdWriter<'fd> {
        FdWriter::sized(fd)
    }
}

impl<'fd, const N: usize> FdWriter<'fd, N> {
    /// A writer with a buffer of `N` bytes.
    pub fn sized(fd: BorrowedFd<'fd>) -> FdWriter<'fd, N> {
        const { assert!(N > 0) };
        FdWriter { fd, buffer: [0; N], used: 0, outcome: Ok(()) }
    }

    /// Writes what has been collected.
    ///
    /// # Errors
    /// The first error of this writer.
    pub fn flush(&mut self) -> Result<(), SystemError> {
        let used = core::mem::take(&mut self.used);
        if self.outcome.is_ok() {
            self.outcome = write_all(self.fd, &self.buffer[..used]);
        }
        self.outcome
    }

    /// Writes what is left and says whether everything arrived.
    ///
    /// # Errors
    /// The first error of this writer.
    pub fn finish(mut self) -> Result<(), SystemError> {
        self.flush()
    }
}

impl<const N: usize> fmt::Write for FdWriter<'_, N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            if self.used == N && self.flush().is_err() {
                return Err(fmt::Error);
            }
            let (now, later) = rest.split_at(rest.len().min(N - self.used));
            self.buffer[self.used..self.used + now.len()].copy_from_slice(now);
            self.used += now.len();
            rest = later;
        }
        self.outcome.map_err(|_| fmt::Error)
    }
}

impl<const N: usize> Drop for FdWriter<'_, N> {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::fmt::Write;
    use std::io::Read;
    use std::os::fd::AsRawFd;

    #[test]
    fn touched_pages_are_resident_and_no_others() {
        let page = System::Linux.page_size();
        let size = Bytes(page.0 * 1500);
        let at = System::Linux.reserve(size, page).unwrap();
        // SAFETY: reserved for this test.
        unsafe {
            System::Linux.commit(at, size).unwrap();
            System::Linux.hint(at, size, super::super::Hint::NoHugePages);
        }
        let touched = [0, 1, 511, 512, 700, 1499];
        // SAFETY: committed above.
        touched.iter().for_each(|i| unsafe { at.add(i * page.0).write(1) });
        let mut seen = Vec::new();
        let sum =
            resident(Address::of(at), size, |address| seen.push((address.0 - at.addr()) / page.0)).unwrap();
        assert_eq!(seen, touched);
        assert_eq!(sum, Bytes(touched.len() * page.0));
        // SAFETY: the test's own; the page's contents are not needed.
        unsafe { System::Linux.release(at.add(511 * page.0), page).unwrap() };
        let less = resident(Address::of(at), size, |_| ()).unwrap();
        assert_eq!(less, sum - page);
        // SAFETY: the test's own, and done with.
        unsafe { System::Linux.unmap(at, size) };
    }

    #[test]
    fn the_process_has_memory() {
        assert!(process_resident().unwrap() > Bytes::kib(100));
    }

    #[test]
    fn files_are_read_to_the_end_or_to_the_buffers() {
        let mut buffer = [0; 4096];
        let all = read_file(c"/proc/self/status", &mut buffer).unwrap();
        assert!(all.starts_with(b"Name:"));
        let mut little = [0; 5];
        assert_eq!(read_file(c"/proc/self/status", &mut little), Ok(&b"Name:"[..]));
        assert_eq!(read_file(c"/proc/self/nothing", &mut little), Err(SystemError(2)));
    }

    /// The standard library's pipe as a file of `rustix`'s.
    fn borrowed(writer: &std::io::PipeWriter) -> BorrowedFd<'_> {
        // SAFETY: borrowed as long as its owner is.
        unsafe { BorrowedFd::borrow_raw(writer.as_raw_fd()) }
    }

    fn through_a_pipe<const N: usize>(pieces: &[&str]) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut text = FdWriter::<N>::sized(borrowed(&writer));
        pieces.iter().for_each(|piece| text.write_str(piece).unwrap());
        text.finish().unwrap();
        drop(writer);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    }

    #[test]
    fn text_arrives_whole_whatever_the_buffer() {
        let pieces = ["", "a", "bcdefg", "", "hijklmnopqrstuvwxyz", "äöü"];
        assert_eq!(through_a_pipe::<1>(&pieces), pieces.concat());
        assert_eq!(through_a_pipe::<7>(&pieces), pieces.concat());
        assert_eq!(through_a_pipe::<512>(&pieces), pieces.concat());
    }

    #[test]
    fn a_reader_who_is_slow_is_waited_for() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(borrowed(&writer), OFlags::NONBLOCK).unwrap();
        let much = vec![b'x'; 1 << 20];
        let sent = std::thread::spawn(move || write_all(borrowed(&writer), &much));
        std::thread::sleep(core::time::Duration::from_millis(20));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!((sent.join().unwrap(), all.len()), (Ok(()), 1 << 20));
    }

    #[test]
    fn the_first_error_is_kept() {
        let full = open(c"/dev/full", OFlags::WRONLY).unwrap();
        let mut text = FdWriter::<4>::sized(full.as_fd());
        assert!(text.write_str("more than four").is_err());
        assert!(text.write_str("x").is_err());
        assert_eq!(text.finish(), Err(SystemError(28)));
    }

    #[test]
    fn files_are_written_anew() {
        let path = std::env::temp_dir().join(format!("spanheap-proc-{}", std::process::id()));
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        for text in ["a long first text", "short"] {
            let file = open_for_writing(&name).unwrap();
            write!(FdWriter::new(file.as_fd()), "{text}").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::remove_file(path).unwrap();
    }
}
