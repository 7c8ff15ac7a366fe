//! What is run under each allocator, and how one run goes.
//!
//! A run has three parts: `before` (a shell line, not measured, on glibc) puts the folder back to where every
//! run starts; the measured job, under the allocator; `after` (a shell line, not measured, on glibc) prints what
//! else counts as output, such as the checksum of a file. The *outcome* is the exit status and a hash over the
//! job's standard output and all that `after` printed: it must not depend on the allocator.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::measure::{self, Cost};
use crate::{classic, packages, programs, redis};

/// Which table's mean a workload counts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// A program people run.
    Program,
    /// A benchmark of `classic`.
    Classic,
}

/// How a workload's measured part is run.
#[derive(Clone, Copy)]
pub(crate) enum Job {
    /// One command: program and arguments, the program found by [`packages::find`]; `input` is its standard input.
    Command { line: &'static [&'static str], input: Option<&'static str> },
    /// A benchmark of `classic`, by the workload's name.
    Classic,
    /// A Redis server under its own benchmark.
    Redis,
}

/// A workload: everything about it is known at compile time.
#[derive(Clone, Copy)]
pub(crate) struct Workload {
    /// Row and JSON key.
    pub(crate) name: &'static str,
    /// What it does, in one line.
    pub(crate) about: &'static str,
    /// The mean it counts in.
    pub(crate) family: Family,
    /// Commands it needs and the packages that bring them.
    pub(crate) needs: &'static [(&'static str, &'static str)],
    /// Makes the inputs in the given folder; called once.
    pub(crate) prepare: fn(&Path) -> io::Result<()>,
    /// Shell line before every run.
    pub(crate) before: &'static str,
    /// The measured part.
    pub(crate) job: Job,
    /// Its variables beside the common ones.
    pub(crate) variables: &'static [(&'static str, &'static str)],
    /// Shell line after every run; what it prints is part of the outcome.
    pub(crate) after: &'static str,
}

/// Where and how a workload is run.
pub(crate) struct Place<'a> {
    /// The workload's own folder.
    pub(crate) folder: &'a Path,
    /// The allocator's library, or nothing for what is not measured.
    pub(crate) library: Option<&'a Path>,
    /// What `SPANHEAP_CONF` says; only our own library reads that.
    pub(crate) configuration: &'static str,
    /// The classic benchmarks do one part in this many.
    pub(crate) divisor: usize,
}

/// How a run ended, as far as it must not depend on the allocator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Exit code or signal, in words.
    pub(crate) status: String,
    /// Hash of all output.
    pub(crate) output: u64,
}

/// Every workload, programs first.
pub(crate) fn all() -> Vec<Workload> {
    programs::LIST.iter().copied().chain([redis::WORKLOAD]).chain(classic::list()).collect()
}

/// Makes the inputs of the workload called `name` in the current folder.
pub(crate) fn prepare(name: &str) -> io::Result<()> {
    let workload = all().into_iter().find(|workload| workload.name == name);
    workload
        .map_or_else(|| Err(io::Error::other("no such workload")), |found| (found.prepare)(Path::new(".")))
}

impl Workload {
    /// The commands that are not installed, as packages.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.needs
            .iter()
            .filter(|(command, _)| packages::find(command).is_none())
            .map(|need| need.1)
            .collect()
    }

    /// One run.
    ///
    /// # Errors
    ///
    /// The system's, if a process could not be started. A program that fails is an [`Outcome`].
    pub(crate) fn run(&self, place: &Place) -> io::Result<(Outcome, Cost)> {
        let bare = Place { library: None, ..*place };
        shell(self.before, &bare, Stdio::null())?;
        let output = place.folder.join("output");
        let (status, cost) = match self.job {
            Job::Command { line, input } => {
                let mut command = self.command(line, place);
                if let Some(input) = input {
                    command.stdin(File::open(place.folder.join(input))?);
                }
                let errors = File::create(place.folder.join("errors"))?;
                measure::run(command.stdout(File::create(&output)?).stderr(errors))?
            }
            Job::Classic => {
                let divisor = place.divisor.to_string();
                let mut command = place.command(&classic::program());
                measure::run(command.args([self.name, &divisor]).stdout(File::create(&output)?))?
            }
            Job::Redis => redis::run(place, File::create(&output)?)?,
        };
        let checks = place.folder.join("checks");
        shell(self.after, &bare, File::create(&checks)?.into())?;
        let outcome = Outcome { status: status.to_string(), output: hash(&[output, checks])? };
        Ok((outcome, cost))
    }

    fn command(&self, line: &[&str], place: &Place) -> Command {
        let program = packages::find(line[0]).unwrap_or_else(|| PathBuf::from(line[0]));
        let mut command = place.command(&program);
        command.args(&line[1..]).envs(self.variables.iter().copied());
        command
    }
}

impl Place<'_> {
    /// `program` in the workload's folder under its allocator, with an environment that is the same everywhere.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.folder).stdin(Stdio::null());
        for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.envs([("LC_ALL", "C.UTF-8"), ("TMPDIR", "/tmp"), ("GIT_CONFIG_GLOBAL", "/dev/null")]);
        command.envs(self.library.map(|library| ("LD_PRELOAD", library)));
        if !self.configuration.is_empty() {
            command.env("SPANHEAP_CONF", self.configuration);
        }
        command
    }
}

fn shell(line: &str, place: &Place, output: Stdio) -> io::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    let status = place.command(Path::new("/bin/sh")).args(["-ec", line]).stdout(output).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("`{line}` in {}: {status}", place.folder.display()))),
    }
}

fn hash(files: &[PathBuf]) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut piece = [0; 1 << 14];
    for path in files.iter().filter(|path| path.exists()) {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut piece)? {
                0 => break,
                length => hasher.write(&piece[..length]),
            }
        }
    }
    Ok(hasher.finish())
}
