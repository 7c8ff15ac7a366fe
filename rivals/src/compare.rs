//! The rounds: every workload under every allocator, alternately.

use std::io;
use std::path::PathBuf;

use clap::Args;

use crate::allocators::{self, Allocator, REFERENCE};
use crate::measure::Cost;
use crate::report::{Report, Row};
use crate::workload::{self, Outcome, Place, Workload};
use crate::{Verdict, packages};

/// Options of the comparison.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Rounds: runs of each workload under each allocator
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these workloads, `programs` or `classic` (comma-separated; `rivals list` names them)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these allocators (comma-separated): ours (or spanheap), mimalloc, jemalloc, tcmalloc, glibc
    #[arg(long, value_delimiter = ',')]
    allocators: Vec<String>,
    /// One round, a tenth of each classic benchmark: a look, not a measurement
    #[arg(long)]
    quick: bool,
    /// Writes every sample to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Installs nothing; says what is missing
    #[arg(long)]
    no_install: bool,
}

/// Runs the comparison and prints the tables. The verdict is whether every output was right.
pub(crate) fn run(options: &Options) -> Verdict {
    let allocators = allocators::gather(&options.allocators, !options.no_install)?;
    let workloads = choose(options)?;
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    let mut report = Report::new(&allocators, rounds);
    let base = std::env::temp_dir().join(format!("rivals-{}", std::process::id()));
    for workload in &workloads {
        let folder = base.join(workload.name);
        std::fs::create_dir_all(&folder)?;
        eprint!("{:<16}", workload.name);
        let divisor = if options.quick { 10 } else { 1 };
        let place = Place { folder: &folder, library: None, configuration: "", divisor };
        let row =
            rounds_of(workload, &allocators, &place, rounds).map_err(|e| format!("{}: {e}", workload.name));
        eprintln!();
        std::fs::remove_dir_all(&folder)?;
        report.add(row?);
    }
    std::fs::remove_dir_all(&base)?;
    println!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, report.json())?;
    }
    Ok(report.all_right())
}

/// The workloads the options name, without those whose programs are missing.
fn choose(options: &Options) -> Result<Vec<Workload>, String> {
    let mut chosen = workload::all();
    for name in &options.only {
        if !["programs", "classic"].contains(&name.as_str()) && !chosen.iter().any(|w| w.name == name) {
            return Err(format!("no workload is called {name}; `rivals list` names them"));
        }
    }
    let family = |w: &Workload| match w.family {
        workload::Family::Program => "programs",
        workload::Family::Classic => "classic",
    };
    chosen.retain(|w| options.only.is_empty() || options.only.iter().any(|o| o == w.name || o == family(w)));
    let mut missing: Vec<&str> = chosen.iter().flat_map(Workload::missing).collect();
    missing.sort_unstable();
    missing.dedup();
    packages::install(&missing, !options.no_install);
    chosen.retain(|w| {
        let missing = w.missing();
        if !missing.is_empty() {
            eprintln!("{} is left out: it needs {}", w.name, missing.join(" "));
        }
        missing.is_empty()
    });
    Ok(chosen)
}

/// All runs of one workload. The first, under glibc, is not counted: it warms the caches of the system and says
/// what the output must be. Each round starts with another allocator.
fn rounds_of(workload: &Workload, allocators: &[Allocator], place: &Place, rounds: usize) -> io::Result<Row> {
    prepared(workload, place)?;
    let right = workload.run(place)?.0;
    let mut row = Row::new(workload, allocators.len());
    if right.status != "exit status: 0" {
        row.errors.push(format!("{} fails by itself: {}", workload.name, right.status));
    }
    for round in 0..rounds {
        for turn in 0..allocators.len() {
            let index = (round + turn) % allocators.len();
            let allocator = &allocators[index];
            let (outcome, cost) = workload.run(&Place { library: Some(&allocator.library), ..*place })?;
            match differs(&right, &outcome) {
                Some(difference) => {
                    row.fail(index, format!("{} under {}: {difference}", workload.name, allocator.name))
                }
                None => row.samples[index].push(cost),
            }
            eprint!("{}", progress(allocator, &row.samples[index]));
        }
    }
    Ok(row)
}

/// Lets a process of its own make the inputs.
pub(crate) fn prepared(workload: &Workload, place: &Place) -> io::Result<()> {
    let status = place.command(&std::env::current_exe()?).args(["prepare", workload.name]).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("its inputs could not be made: {status}")))
    }
}

/// What differs from the outcome that is right, in words.
fn differs(right: &Outcome, found: &Outcome) -> Option<String> {
    if right.status != found.status {
        return Some(format!("{}, with {REFERENCE} {}", found.status, right.status));
    }
    (right.output != found.output).then(|| format!("other output than with {REFERENCE}"))
}

fn progress(allocator: &Allocator, samples: &[Cost]) -> String {
    let initial = &allocator.name[..1];
    samples.last().map_or_else(|| format!(" {initial}:ERROR"), |cost| format!(" {initial}:{:.2}", cost.wall))
}
