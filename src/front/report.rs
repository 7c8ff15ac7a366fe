//! The books of the process heap, written out: at exit, and when a program asks.
//!
//! A snapshot is too large for the stack of a small thread, so it stands in memory of its own while it is written.
//!
//! # Safety
//! The snapshot's memory is mapped and unmapped here, and lent out in between.

use crate::base::Bytes;
use crate::front::environment;
use crate::front::heap::Heap;
use crate::os::proc::{self, AsFd, FdWriter};
use crate::os::{System, SystemError};
use crate::stats::Snapshot;
use core::fmt::{self, Write};

/// What the system says when a file's directory is not there (`ENOENT`).
const NO_DIRECTORY: SystemError = SystemError(2);

static ZERO: Snapshot = Snapshot::zero();

/// Reads a heap's books, with what the kernel says beside them, and hands them to `with`.
///
/// # Errors
/// When the system refuses the memory for the snapshot.
pub fn with_snapshot<T>(heap: &Heap, with: impl FnOnce(&mut Snapshot) -> T) -> Result<T, SystemError> {
    with_books(heap, |snapshot| {
        snapshot.resident = Some(heap.resident());
        with(snapshot)
    })
}

/// Reads a heap's books and hands them to `with`.
///
/// # Errors
/// When the system refuses the memory for the snapshot.
pub fn with_books<T>(heap: &Heap, with: impl FnOnce(&mut Snapshot) -> T) -> Result<T, SystemError> {
    with_blank(|snapshot| {
        heap.snapshot_into(snapshot);
        with(snapshot)
    })
}

/// Hands an empty snapshot to `with`.
///
/// # Errors
/// When the system refuses the memory for it.
pub(crate) fn with_blank<T>(with: impl FnOnce(&mut Snapshot) -> T) -> Result<T, SystemError> {
    let system = System::Linux;
    let size = Bytes(size_of::<Snapshot>()).round_up(system.page_size()).expect("a snapshot is small");
    let at = system.reserve(size, system.page_size())?;
    // SAFETY: memory of our own, aligned to a page, unmapped when nobody uses it any more.
    unsafe {
        if let Err(error) = system.commit(at, size) {
            system.unmap(at, size);
            return Err(error);
        }
        let snapshot = at.cast::<Snapshot>();
        core::ptr::copy_nonoverlapping(&raw const ZERO, snapshot, 1);
        let done = with(&mut *snapshot);
        system.unmap(at, size);
        Ok(done)
    }
}

/// Writes the statistics and the profile of the process heap where the environment says, if it does.
pub fn write_at_exit() {
    let Some(heap) = super::process::existing() else { return };
    match heap.profile().write_configured() {
        Ok(_) | Err(NO_DIRECTORY) => {}
        Err(error) => environment::say(format_args!("the profile could not be written: {error}")),
    }
    environment::with_stats_path(|path| {
        let file = match proc::open_for_writing(path) {
            Ok(file) => file,
            // `spanheap run` takes its directory away when the program has ended. What the program started may live
            // longer; nobody waits for its books, and nobody wants a line about them.
            Err(NO_DIRECTORY) => return,
            Err(_) => {
                environment::say(format_args!("{}: cannot write {path:?}", environment::STATS));
                return;
            }
        };
        let mut command = [0; 1024];
        let command = proc::read_file(c"/proc/self/cmdline", &mut command).unwrap_or(&[]);
        let _ = with_snapshot(heap, |snapshot| {
            let mut out = FdWriter::<'_, 4096>::sized(file.as_fd());
            let written =
                snapshot.write_json(&mut out, Command(command).text(), environment::process_number());
            if written.is_err() || out.finish().is_err() {
                environment::say(format_args!("{}: {path:?} is not complete", environment::STATS));
            }
        });
    });
}

/// Writes the table of the process heap's books to standard error.
pub fn write_table() {
    let Some(heap) = super::process::existing() else { return };
    let _ = with_snapshot(heap, |snapshot| {
        let mut out = FdWriter::<'_, 1024>::sized(proc::standard_error());
        let _ = snapshot.write_table(&mut out);
        out.finish()
    });
}

/// Writes the process heap's books as XML.
///
/// # Errors
/// When `out` refuses, or there is no heap.
pub fn write_xml(out: &mut impl Write) -> fmt::Result {
    let heap = super::process::existing().ok_or(fmt::Error)?;
    with_snapshot(heap, |snapshot| snapshot.write_xml(out)).map_err(|_| fmt::Error)?
}

/// A command line as the kernel has it: arguments that end with zeros.
struct Command<'a>(&'a [u8]);

impl Command<'_> {
    /// The program's name, which is all that is valid text for certain.
    fn text(&self) -> &str {
        let name = self.0.split(|&byte| byte == 0).next().unwrap_or(&[]);
        core::str::from_utf8(name).unwrap_or("?")
    }
}
