//! Memory that goes back, limits that hold: what is resident, beside what other allocators hold.
//!
//! Four parts, each with goals of its own; the command prints whether they are reached.
//!
//! - [`idle`]: what is left of a spike, and of a churn, ten seconds after the last allocation.
//! - [`steady`]: what the scavenger costs a redis server that is never idle: the server is run without it and with
//!   it, alternately.
//! - [`limit`]: what is resident of a program that churns near the heap's limit, given as a number, and found in a
//!   control group.
//! - [`waterfall`]: how much of what is resident of a process `spanheap explain` cannot attribute.
//!
//! The programs are `memory` (`src/bin/memory`), redis, python and the example service.

mod idle;
mod limit;
mod steady;
mod waterfall;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};

use crate::allocators::{self, Allocator, OURS};
use crate::{Verdict, packages};

/// Bytes of a mebibyte.
const MIB: f64 = 1024.0 * 1024.0;

/// Options of `rivals memory`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these parts (comma-separated)
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Runs of a spike or churn under each allocator, and pairs of runs of the redis server; by default 1 and 12
    #[arg(long)]
    rounds: Option<usize>,
    /// How long the program near its limit runs
    #[arg(long, default_value_t = 20)]
    seconds: usize,
    /// Installs nothing; says what is missing
    #[arg(long)]
    no_install: bool,
}

/// What can be asked for alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// A spike, and then nothing
    Spike,
    /// Many blocks, one in 20 kept, and then nothing
    Churn,
    /// The scavenger's cost on a busy redis server
    Scavenger,
    /// A program near the heap's limit
    Limit,
    /// The same, with the limit found in a control group
    Cgroup,
    /// What of a process cannot be attributed
    Waterfall,
}

/// A goal, what was measured for it, and whether that is enough.
pub(super) struct Goal {
    text: String,
    reached: bool,
}

impl Goal {
    /// `what` must be at most `goal`, both with so many digits.
    fn at_most(what: &str, reached: f64, goal: f64, digits: usize) -> Goal {
        let text = format!("{what}: {reached:.digits$}, must be at most {goal:.digits$}");
        Goal { text, reached: reached <= goal }
    }

    /// `what` must be at least `goal`.
    fn at_least(what: &str, reached: f64, goal: f64, digits: usize) -> Goal {
        let text = format!("{what}: {reached:.digits$}, must be at least {goal:.digits$}");
        Goal { text, reached: reached >= goal }
    }
}

/// A folder of the benchmark's own, gone when it is.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("rivals-memory-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over there is in nobody's way.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the parts and prints their tables and goals. The verdict is whether all goals are reached.
pub(crate) fn run(options: &Options) -> Verdict {
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut install = vec![];
    if (wanted(Part::Scavenger) || wanted(Part::Waterfall)) && packages::find("redis-benchmark").is_none() {
        install.extend(["redis-server", "redis-tools"]);
    }
    packages::install(&install, !options.no_install);
    let names: Vec<String> = ["ours", "mimalloc", "jemalloc"].map(String::from).into();
    let needed = if wanted(Part::Spike) || wanted(Part::Churn) { &names[..] } else { &names[..1] };
    let allocators = allocators::gather(needed, !options.no_install)?;
    let ours = allocators.iter().find(|allocator| allocator.name == OURS);
    let ours = ours.ok_or("there is nothing to measure without our library")?;
    let folder = Folder::new()?;
    let mut goals = Vec::new();
    for part in Part::value_variants().iter().copied().filter(|part| wanted(*part)) {
        eprintln!("{part:?} …");
        goals.extend(match part {
            Part::Spike => idle::spike(&allocators, options.rounds.unwrap_or(1))?,
            Part::Churn => idle::churn(&allocators, options.rounds.unwrap_or(1))?,
            Part::Scavenger => steady::run(ours, &folder.0, options.rounds.unwrap_or(12))?,
            Part::Limit => limit::plain(ours, options.seconds)?,
            Part::Cgroup => limit::in_a_group(ours, options.seconds)?,
            Part::Waterfall => waterfall::run(ours, &folder.0)?,
        });
    }
    for goal in &goals {
        println!("- {}: {}", goal.text, if goal.reached { "reached" } else { "**not reached**" });
    }
    Ok(goals.iter().all(|goal| goal.reached))
}

/// The program `memory`, under an allocator.
fn program(allocator: &Allocator) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("memory"));
    command.env_clear().env("LD_PRELOAD", &allocator.library);
    Ok(command)
}

/// The number behind `name=` in what a program printed.
fn figure(text: &str, name: &str) -> Result<f64, String> {
    let words = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    let found = words.into_iter().find(|word| word.0 == name).and_then(|word| word.1.parse().ok());
    found.ok_or_else(|| format!("the program did not say {name}: {text:?}"))
}

/// A table with these heads, whose first column holds words.
fn table<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(heads);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// A program of the workspace's, built with optimisation.
fn built(package: &str, name: &str) -> Result<PathBuf, String> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "-q", "-p", package]).current_dir(allocators::root());
    let status = command.status().map_err(|error| format!("cargo does not start: {error}"))?;
    let path = allocators::target().join("release").join(name);
    match status.success() && path.exists() {
        true => Ok(path),
        false => Err(format!("cargo build --release -p {package} made no {}", path.display())),
    }
}

/// Writes text to a file that is there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_name() {
        let text = "peak=10 freed=9\nidle=2.5\n";
        assert_eq!((figure(text, "peak"), figure(text, "idle")), (Ok(10.0), Ok(2.5)));
        assert!(figure(text, "reed").is_err() && figure("peak=x", "peak").is_err());
    }

    #[test]
    fn goals_have_two_sides() {
        assert!(Goal::at_most("x", 1.0, 1.0, 2).reached && !Goal::at_most("x", 1.1, 1.0, 2).reached);
        assert!(Goal::at_least("x", 1.0, 1.0, 2).reached && !Goal::at_least("x", 0.9, 1.0, 2).reached);
        assert_eq!(Goal::at_most("x", 0.5, 1.0, 1).text, "x: 0.5, must be at most 1.0");
    }
}
