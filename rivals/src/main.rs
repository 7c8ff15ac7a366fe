//! `rivals`: Spanheap's `malloc` library beside mimalloc, jemalloc, tcmalloc and glibc.
//!
//! One run goes through a list of *workloads* (real programs and the classic allocator benchmarks of the
//! program `classic`). Each is run under every *allocator* in turn, round after round, so that a busy moment of
//! the machine hits all of them; the table shows medians as ratios to mimalloc. A workload's output and exit
//! code must be what they are under glibc; anything else is an error in the table, not a time.
//!
//! ```text
//! inputs ──> programs ─┐
//!            redis     ├─> workload ──> compare ──> report
//!            classic  ─┘      │            │
//!                          measure     allocators
//! instructions: counts of the cached malloc+free pair     gospans: Go's page heap
//! purposes: eight beside one                              stress: random work, and the books
//! collect: collected objects beside Go's                   memory: what is resident, and limits
//! profile: what sampling costs                            libgc: programs on Boehm's collector, and on ours
//! ```
//!
//! - [`allocators`] finds the libraries to preload and installs or builds what is missing.
//! - [`workload`] is what one measured run is; [`programs`], [`redis`] and [`classic`] are the list.
//! - [`measure`] runs a process and returns its wall time, its processor time and its peak resident set.
//! - [`compare`] does the rounds; [`report`] turns samples into tables and JSON.
//! - [`instructions`], [`gospans`], [`collect`], [`purposes`], [`profile`], [`memory`],
//!   [`libgc`] and [`stress`] are commands of their own.
//!
//! What this program does not know: anything about Spanheap's inside. It preloads a library, like the others; those
//! that link the crate are programs of their own, `spans`, `purposes` and `stress`.

mod allocators;
mod classic;
mod collect;
mod compare;
mod gospans;
mod inputs;
mod instructions;
mod libgc;
mod measure;
mod memory;
mod packages;
mod profile;
mod programs;
mod purposes;
mod redis;
mod report;
mod stress;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Either the comparison with its options, or one of the other commands.
#[derive(Parser)]
#[command(
    name = "rivals",
    about = "Spanheap and its rivals side by side",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: compare::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Time and peak memory of every workload under every allocator (the default)
    Compare(compare::Options),
    /// Instructions of a cached malloc+free pair, counted by callgrind
    Instructions(instructions::Options),
    /// Our spans beside Go's page heap: allocating and freeing 1 to 8 pages
    Gospans(gospans::Options),
    /// Collected objects beside Go's: binary trees, and a large graph that changes
    Collect(collect::Options),
    /// What accounting by purpose costs: eight purposes beside one
    Purposes(purposes::Options),
    /// Memory that goes back, and limits that hold: what is resident, and what that costs
    Memory(memory::Options),
    /// What the heap profile costs at its usual rate: programs with and without it
    Profile(profile::Options),
    /// Programs that live on Boehm's collector, on our library beside Debian's
    Libgc(libgc::Options),
    /// Random work on eight threads that come and go, and then whether the books are right
    Stress(stress::Options),
    /// The names of all workloads
    List,
    /// Makes a workload's inputs in the current folder; the comparison runs this in a process of its own, so
    /// that its own memory stays small (see `measure`)
    #[command(hide = true)]
    Prepare { name: String },
}

/// What every command ends with: `Ok(true)` when all is well, `Ok(false)` when a check failed (and was printed).
type Verdict = Result<bool, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let verdict = match arguments.command.unwrap_or(Command::Compare(arguments.compare)) {
        Command::Compare(options) => compare::run(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Gospans(options) => gospans::run(&options),
        Command::Collect(options) => collect::run(&options),
        Command::Purposes(options) => purposes::run(&options),
        Command::Memory(options) => memory::run(&options),
        Command::Profile(options) => profile::run(&options),
        Command::Libgc(options) => libgc::run(&options),
        Command::Stress(options) => stress::run(&options),
        Command::List => {
            workload::all().iter().for_each(|workload| println!("{:<16} {}", workload.name, workload.about));
            Ok(true)
        }
        Command::Prepare { name } => workload::prepare(&name).map(|()| true).map_err(Into::into),
    };
    match verdict {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rivals: {error}");
            ExitCode::from(2)
        }
    }
}
