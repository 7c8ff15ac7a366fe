//! What the doors take from the process's environment, and what they say on standard error.
//!
//! The environment is read once, as early as can be: programs clear it, and write their title over it. The C door is
//! given it by the loader; a heap that is made before that, or in a program without that door, reads the kernel's copy.
//! Nothing here allocates.

use crate::base::{Lock, Rank};
use crate::front::config::{self, Config, ConfigError};
use crate::os::proc::{self, FdWriter};
use core::ffi::CStr;
use core::fmt::{self, Write};

/// The variable that names the file for the statistics at exit; `%p` in it stands for the process's number.
pub const STATS: &str = "SPANHEAP_STATS";
/// The longest path that the statistics can go to.
const LONGEST_PATH: usize = 1024;
/// The longest value of a variable of ours that is read.
const LONGEST: usize = LONGEST_PATH + 64;

/// Where the statistics go at exit, as the environment had it.
struct StatsPath {
    text: [u8; LONGEST_PATH],
    length: usize,
}

static STATS_PATH: Lock<StatsPath> = Lock::new(Rank::Leaf, StatsPath { text: [0; LONGEST_PATH], length: 0 });

/// Takes in what the kernel's copy of the environment says about the process heap. Returns whether there is one.
pub(crate) fn read(config: &mut Config) -> bool {
    let mut entry = Entry { text: [0; LONGEST], length: 0 };
    let mut visit = |name: &str, value: &str| take_in(config, name, value);
    let read = proc::read_through(c"/proc/self/environ", |bytes| {
        for &byte in bytes {
            match byte {
                0 => entry.end(&mut visit),
                byte => entry.push(byte),
            }
        }
    });
    entry.end(&mut visit);
    read.is_ok()
}

/// Takes in what the environment says, entry by entry, as `NAME=value`.
pub(crate) fn read_entries<'a>(config: &mut Config, entries: impl Iterator<Item = &'a CStr>) {
    for entry in entries {
        if let Some((name, value)) = entry.to_str().ok().and_then(|text| text.split_once('=')) {
            take_in(config, name, value);
        }
    }
}

fn take_in(config: &mut Config, name: &str, value: &str) {
    let complain = |error: ConfigError<'_>| say(format_args!("{error}"));
    match name {
        config::CONF => config.read_conf(value, complain),
        config::MEMORY_LIMIT => config.read_limit(value, complain),
        config::GC_PERCENT => config.read_percent(value, complain),
        STATS if value.len() <= LONGEST_PATH => {
            let mut path = STATS_PATH.lock();
            path.text[..value.len()].copy_from_slice(value.as_bytes());
            path.length = value.len();
        }
        STATS => {
            say(format_args!("{STATS}: a path of more than {LONGEST_PATH} bytes; no statistics at exit"))
        }
        _ => {}
    }
}

/// The variable that is being read.
struct Entry {
    text: [u8; LONGEST],
    length: usize,
}

impl Entry {
    fn push(&mut self, byte: u8) {
        if let Some(at) = self.text.get_mut(self.length) {
            *at = byte;
            self.length += 1;
        }
    }

    fn end(&mut self, visit: &mut impl FnMut(&str, &str)) {
        let text = core::str::from_utf8(&self.text[..self.length]).unwrap_or("");
        if let Some((name, value)) = text.split_once('=')
            && name.starts_with("SPANHEAP_")
        {
            visit(name, value);
        }
        self.length = 0;
    }
}

/// Gives the path for the statistics of this process to `with`, if the environment named one.
pub(crate) fn with_stats_path(with: impl FnOnce(&CStr)) {
    // A copy, since `with` writes files.
    let (mut text, mut length) = ([0; LONGEST_PATH], 0);
    {
        let pattern = STATS_PATH.lock();
        text.copy_from_slice(&pattern.text);
        length += pattern.length;
    }
    if length != 0 {
        with_path(core::str::from_utf8(&text[..length]).unwrap_or(""), with);
    }
}

/// Gives a path to `with`, with the process's number for each `%p` in `pattern`. `None` if that is too long to be one.
pub(crate) fn with_path<T>(pattern: &str, with: impl FnOnce(&CStr) -> T) -> Option<T> {
    let mut path = Path { text: [0; LONGEST_PATH + 32], length: 0 };
    let mut parts = pattern.split("%p");
    path.write_str(parts.next().unwrap_or("")).ok()?;
    for part in parts {
        write!(path, "{}{part}", process_number()).ok()?;
    }
    CStr::from_bytes_until_nul(&path.text).ok().map(with)
}

struct Path {
    text: [u8; LONGEST_PATH + 32],
    length: usize,
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays zero: the end of the path.
        let end = self.length + text.len();
        if end >= self.text.len() {
            return Err(fmt::Error);
        }
        self.text[self.length..end].copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// The process's number.
pub fn process_number() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

/// Writes one line to standard error.
pub fn say(line: fmt::Arguments<'_>) {
    let mut out = FdWriter::<'_, 512>::sized(proc::standard_error());
    // A program may have closed it. Then there is nobody to tell.
    let _ = writeln!(out, "spanheap: {line}");
    let _ = out.finish();
}

/// Stops the process at once, with the signal that says that a program found itself broken.
pub(crate) fn abort() -> ! {
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_split_and_overlong_ones_cut() {
        let mut entry = Entry { text: [0; LONGEST], length: 0 };
        let mut heard = Vec::new();
        let text = format!("PATH=x\0SPANHEAP_A=1=2\0SPANHEAP_B={}\0SPANHEAP_C", "y".repeat(2 * LONGEST));
        for byte in text.bytes() {
            match byte {
                0 => entry.end(&mut |name, value| heard.push((name.to_owned(), value.len()))),
                byte => entry.push(byte),
            }
        }
        entry.end(&mut |name, value| heard.push((name.to_owned(), value.len())));
        let cut = LONGEST - "SPANHEAP_B=".len();
        assert_eq!(heard, [("SPANHEAP_A".to_owned(), 3), ("SPANHEAP_B".to_owned(), cut)]);
    }
}
