//! `spanheap profile`: puts names to the addresses of a heap profile, and shows or writes it.
//!
//! The heap writes addresses, since looking up names takes more memory than most programs have to spare. The names are
//! in the files that the profile's mappings name; a file that is not the one that ran (its build id differs) is not
//! looked at, and its addresses stay.

pub(crate) mod proto;
mod symbols;
mod top;

use crate::run::say;
use crate::size::human;
use crate::watch::show::{Which, refuse};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use prost::Message;
use proto::Profile;
use spanheap::stats::window::ProfileOrder;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Where a profile comes from.
pub(crate) enum Source {
    /// A heap has written it.
    File(PathBuf),
    /// A running program hands it out.
    Process(Which),
}

/// What is to be done.
pub(crate) struct Options {
    /// Where the profile comes from.
    pub(crate) source: Source,
    /// Where it goes with names; nowhere, and a table is printed.
    pub(crate) output: Option<PathBuf>,
    /// The value that the table is about.
    pub(crate) value: String,
    /// Rows of the table.
    pub(crate) rows: usize,
}

/// Runs the command. Returns the exit status.
pub(crate) fn profile(options: &Options) -> i32 {
    match try_profile(options) {
        Ok(()) => 0,
        Err(message) => {
            say(message);
            1
        }
    }
}

/// Begins to take samples in a running program, or ends it. Returns the exit status.
pub(crate) fn switch(which: Which, order: ProfileOrder) -> i32 {
    match which.open().and_then(|mut target| target.order_profile(order)) {
        Ok(handed) if handed.mean > 0 => {
            let every = human(handed.mean.into());
            let _ = writeln!(std::io::stdout(), "process {} takes a sample every {every}", which.pid);
            0
        }
        Ok(_) if order == ProfileOrder::Stop => {
            let _ = writeln!(std::io::stdout(), "process {} takes no samples", which.pid);
            0
        }
        Ok(_) => {
            say(format_args!("process {} takes no samples: the system refused it memory", which.pid));
            1
        }
        Err(why) => refuse(why),
    }
}

fn try_profile(options: &Options) -> Result<(), String> {
    let mut profile = match &options.source {
        Source::File(path) => read(path)?,
        Source::Process(which) => {
            let mut target = which.open().map_err(|why| why.to_string())?;
            let bytes = target.profile().map_err(|why| why.to_string())?;
            decode(bytes, &format_args!("process {}", which.pid))?
        }
    };
    for warning in symbols::name_all(&mut profile) {
        say(format_args!("{warning}"));
    }
    match &options.output {
        Some(output) => write(&profile, output),
        None => {
            let table = top::table(&profile, &options.value, options.rows)?;
            // A reader that closed the pipe has what it wanted.
            let _ = std::io::stdout().write_all(table.as_bytes());
            Ok(())
        }
    }
}

/// Reads a profile, compressed or not.
fn read(path: &Path) -> Result<Profile, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    decode(bytes, &path.display())
}

fn decode(bytes: Vec<u8>, from: &dyn std::fmt::Display) -> Result<Profile, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{from}: {error}");
    let mut plain = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut decoder = MultiGzDecoder::new(&*bytes);
        decoder
            .read_to_end(&mut plain)
            .map_err(|error| failed(&format_args!("not a whole gzip file: {error}")))?;
    } else {
        plain = bytes;
    }
    let profile =
        Profile::decode(&*plain).map_err(|error| failed(&format_args!("not a profile: {error}")))?;
    if profile.sample_type.is_empty() || profile.string_table.first().is_none_or(|first| !first.is_empty()) {
        return Err(failed(&"not a profile"));
    }
    Ok(profile)
}

fn write(profile: &Profile, path: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", path.display());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&profile.encode_to_vec()).map_err(failed)?;
    std::fs::write(path, encoder.finish().map_err(failed)?).map_err(failed)
}

impl Profile {
    /// A string of the profile's table.
    pub(crate) fn string(&self, number: i64) -> &str {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.string_table.get(number))
            .map_or("", String::as_str)
    }
}
