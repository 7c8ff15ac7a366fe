//! `spanheap run`: an unmodified program on Spanheap, and its books when it has ended.
//!
//! ```text
//! find program and library ── inspect, warn ── start with LD_PRELOAD, SPANHEAP_STATS ── wait, pass signals on
//!                                                       │                                      │
//!                                      the library writes DIR/<pid>.json at exit ───────── read, print, copy
//! ```
//!
//! The library writes its books when the program's exit handlers run. It replaces `%p` by the process's number, so that
//! every process that the program starts writes its own file, and the one of the program itself is known by its number.
//! The directory is ours and goes when we go.
//!
//! Nothing of ours reaches standard output, except the JSON that `--stats -` asks for. Standard streams, exit status and
//! signals pass through; see [`crate::signals`] for the last.

use crate::books::Books;
use crate::inspect::{self, CannotRun, Finding, Report};
use crate::preload;
use crate::signals::{self, Forwarder};
use crate::size::Limit;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{env, fs};

/// The exit status for failures of our own, as `env`, `nohup` and `timeout` have it.
pub(crate) const OUR_FAILURE: i32 = 125;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where the books go as JSON: a file (`%p` = number of the process) or `-`.
    pub(crate) stats: Option<OsString>,
    /// The program's memory limit.
    pub(crate) limit: Option<Limit>,
    /// Print neither books nor warnings.
    pub(crate) quiet: bool,
    /// The program and its arguments, at least one.
    pub(crate) program: Vec<OsString>,
}

/// Runs the program and returns the exit status for this process. Does not return when a signal ended the program:
/// this process ends by the same one.
pub(crate) fn run(options: &Options) -> i32 {
    let name = &options.program[0];
    let ended = inspect::resolve(name)
        .and_then(|path| run_file(options, &path))
        .map_err(|CannotRun { status, why }| (status, format!("cannot run {}: {why}", name.display())));
    match ended {
        Ok(status) => match status.signal() {
            Some(signal) => signals::die_of(signal),
            None => status.code().unwrap_or(OUR_FAILURE),
        },
        Err((status, message)) => {
            say(message);
            status
        }
    }
}

/// Runs the file at `path`, shows the books, and returns how the program ended.
fn run_file(options: &Options, path: &Path) -> Result<ExitStatus, CannotRun> {
    let report = inspect::inspect(path);
    // A program that was built for the Boehm collector runs on collected objects; its blocks stay where they were.
    let assignments = match report.links(preload::COLLECTOR_NAME) {
        true => preload::collector_assignments(),
        false => preload::assignments(),
    };
    let assignments = assignments.map_err(ours)?;
    if !options.quiet {
        warn(path, &report);
    }
    let shelf = Shelf::new().map_err(|e| ours(format!("no temporary directory for the books: {e}")))?;
    let mut command = Command::new(path);
    command.arg0(&options.program[0]).args(&options.program[1..]).envs(assignments);
    command.env("SPANHEAP_STATS", shelf.pattern());
    if let Some(limit) = options.limit {
        command.env("SPANHEAP_MEMORY_LIMIT", limit.to_string());
    }
    let forwarder = Forwarder::new().map_err(|e| ours(format!("cannot catch signals: {e}")))?;
    let mut child = command.spawn().map_err(|e| CannotRun {
        status: if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 },
        why: e.to_string(),
    })?;
    forwarder.pass_to(&child).map_err(|e| ours(format!("cannot pass signals on: {e}")))?;
    let status = child.wait().map_err(|e| ours(format!("lost sight of the program: {e}")))?;
    present(options, &shelf, child.id(), status, &report);
    Ok(status)
}

/// A failure that is not the program's.
fn ours(why: String) -> CannotRun {
    CannotRun { status: OUR_FAILURE, why }
}

/// One line on standard error. A closed standard error is no reason to fail.
pub(crate) fn say(message: impl Display) {
    let _ = writeln!(io::stderr(), "spanheap: {message}");
}

/// Says what the user should know about the program before its books.
fn warn(path: &Path, report: &Report) {
    if report.is_script {
        say(format_args!(
            "note: {} is a script; the books are of its interpreter {}",
            path.display(),
            report.runs.display()
        ));
    }
    for finding in &report.findings {
        let kind = if finding.defeats_the_preload() { "warning" } else { "note" };
        say(format_args!("{kind}: {} {}", report.runs.display(), finding.sentence()));
    }
}

/// Prints the books of the ended program and writes them where `--stats` says, or says why there are none.
fn present(options: &Options, shelf: &Shelf, pid: u32, status: ExitStatus, report: &Report) {
    let file = shelf.file(pid);
    if !file.exists() {
        if !options.quiet || options.stats.is_some() {
            say(format_args!("no books: {}", why_no_books(status, report)));
        }
        return;
    }
    match Books::read(&file) {
        Ok(books) if !options.quiet => {
            let _ = write!(io::stderr(), "spanheap: books of {} at exit\n{}", books.owner(), books.tables());
        }
        Ok(_) => {}
        Err(e) => return say(e),
    }
    if let Some(target) = &options.stats
        && let Err(e) = copy_books(&file, target, pid)
    {
        say(format_args!("cannot write the books to {}: {e}", target.display()));
    }
}

/// Why a program that has ended left no books.
fn why_no_books(status: ExitStatus, report: &Report) -> String {
    let program = report.runs.display();
    let defeat = report.findings.iter().find(|finding| finding.defeats_the_preload());
    match (status.signal(), defeat) {
        (_, Some(finding @ (Finding::Static | Finding::Foreign | Finding::Privileged(_)))) => {
            format!("{program} {}", finding.sentence())
        }
        (Some(signal), _) => {
            format!("{program} was killed by {} before it could write them", signals::name(signal))
        }
        (None, Some(finding)) => format!("{program} {}", finding.sentence()),
        (None, None) => format!(
            "{program} ended without running its exit handlers (`_exit`, or it executed a program that the \
             preload does not reach), or was not allowed to write them"
        ),
    }
}

/// Copies the JSON at `file` to the place the user named.
fn copy_books(file: &Path, target: &OsStr, pid: u32) -> io::Result<()> {
    let mut text = fs::read(file)?;
    if text.last() != Some(&b'\n') {
        text.push(b'\n');
    }
    if target == "-" {
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        return out.flush();
    }
    fs::write(with_pid(target, pid), text)
}

/// `pattern` with every `%p` replaced by the number of a process.
fn with_pid(pattern: &OsStr, pid: u32) -> PathBuf {
    let number = pid.to_string();
    let mut result = Vec::new();
    let mut rest = pattern.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"%p") {
            result.extend_from_slice(number.as_bytes());
            rest = after;
        } else {
            result.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(result).into()
}

/// A directory for the books of the program and of all it starts; removed on drop.
struct Shelf {
    directory: PathBuf,
}

impl Shelf {
    /// Makes a directory that only this user may enter.
    fn new() -> io::Result<Shelf> {
        let mut refusal = io::ErrorKind::NotFound.into();
        for parent in [env::temp_dir(), "/dev/shm".into()] {
            for attempt in 0..100 {
                let directory = parent.join(format!("spanheap-{}-{attempt}", std::process::id()));
                match fs::DirBuilder::new().mode(0o700).create(&directory) {
                    // The program may change its working directory, so the path must not depend on it.
                    Ok(()) => return Ok(Shelf { directory: directory.canonicalize()? }),
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(e) => refusal = e,
                }
                break;
            }
        }
        Err(refusal)
    }

    /// What the library shall take for the name of its file.
    fn pattern(&self) -> PathBuf {
        self.directory.join("%p.json")
    }

    /// The file of one process.
    fn file(&self, pid: u32) -> PathBuf {
        self.directory.join(format!("{pid}.json"))
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_replaces_every_mark() {
        assert_eq!(with_pid(OsStr::new("a-%p/%p.json"), 17), Path::new("a-17/17.json"));
        assert_eq!(with_pid(OsStr::new("100%"), 17), Path::new("100%"));
        assert_eq!(with_pid(OsStr::new("%%p"), 17), Path::new("%17"));
    }

    #[test]
    fn a_shelf_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt;
        let shelf = Shelf::new().unwrap();
        let directory = shelf.directory.clone();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(shelf.file(3), "{}").unwrap();
        drop(shelf);
        assert!(!directory.exists());
    }
}
