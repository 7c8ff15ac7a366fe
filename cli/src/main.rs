//! The `spanheap` command: runs programs on Spanheap, replays page traces, shows the books.
//!
//! One file a subcommand, and beside them what they share:
//!
//! - [`run`]: a program under the preload ([`preload`] finds the library, [`inspect`] knows which programs escape it,
//!   [`signals`] passes signals through);
//! - [`replay`]: page traces ([`trace`] reads them) against the real page allocator ([`target`]);
//! - [`watch`]: the heaps of other processes, while they run;
//! - [`demos`]: [`demo`], a churn of blocks; [`fibers`] on guarded stacks; [`trees`] and a [`graph`] on the collected heap;
//! - [`profile`]: names for the addresses of heap profiles;
//! - [`books`] prints tables of the books, [`size`] reads and writes sizes.
//!
//! Results go to standard output; books, warnings and errors go to standard error.

mod books;
mod demo;
mod demos;
mod fibers;
mod graph;
mod inspect;
#[cfg(test)]
mod model;
mod preload;
mod profile;
mod replay;
mod run;
mod signals;
mod size;
mod target;
mod trace;
mod trees;
mod utilisation;
mod watch;

use clap::{Args, Parser, Subcommand};
use size::Limit;
use spanheap::Bytes;
use spanheap::stats::window::ProfileOrder;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::exit;
#[cfg(feature = "top")]
use std::time::Duration;

/// Runs programs on Spanheap, a heap of typed spans with exact books by purpose.
#[derive(Parser)]
#[command(
    name = "spanheap",
    version,
    after_help = "\
Examples:
  spanheap run -- redis-server --port 7777    a program on Spanheap, its books at exit
  spanheap run --stats books.json -- sqlite3  the books as JSON, too
  env $(spanheap env malloc) program          the same preload without a parent process"
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    Run(RunArgs),
    Env(EnvArgs),
    Stats(StatsArgs),
    Explain(ExplainArgs),
    Release(ReleaseArgs),
    Profile(ProfileArgs),
    #[cfg(feature = "top")]
    Top(TopArgs),
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    Replay(ReplayArgs),
    Demo(demos::DemoArgs),
}

/// Run an unmodified program with Spanheap as its allocator, and print its books when it has ended
///
/// The program's standard streams, exit status and signals pass through. The books are printed on standard error: what
/// every purpose holds, held at most, and was given and gave back in all; every account; what of it is resident; and
/// whether all of it adds up.
#[derive(Args)]
#[command(after_help = "\
Examples:
  spanheap run -- redis-server --port 7777
  spanheap run --stats 'books-%p.json' --limit 512MiB -- ./server
  spanheap run --quiet --stats - -- true | jq .purposes

Exit status: the program's own; 128 + N when signal N killed it; 126 when it cannot be executed, 127 when
it is not found, 125 when Spanheap itself fails.

Environment:
  SPANHEAP_LIB   the library to preload, or its directory (default: beside this executable, or ../lib)
  SPANHEAP_CONF  the heap's options, key:value,...")]
struct RunArgs {
    /// Write the books as JSON to FILE; `%p` stands for the program's process number, `-` for standard output
    #[arg(long, value_name = "FILE", env = "SPANHEAP_STATS")]
    stats: Option<OsString>,
    /// Limit the program's memory: a whole number with B, KiB, MiB, GiB or TiB, or `off`
    #[arg(long, value_name = "SIZE", value_parser = Limit::parse)]
    limit: Option<Limit>,
    /// Print neither books nor warnings
    #[arg(long, short)]
    quiet: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Print the environment assignments that `spanheap run` makes, one a line
///
/// Something already in LD_PRELOAD stays, behind Spanheap's library.
#[derive(Args)]
#[command(after_help = "Example:\n  env $(spanheap env malloc) program")]
struct EnvArgs {
    /// The door to use: `malloc`, or `libgc` for programs that were built for the Boehm collector
    door: String,
}

/// Which heap to look at.
#[derive(Args)]
struct HeapArgs {
    /// The process's number
    #[arg(value_name = "PID")]
    pid: u32,
    /// The heap's number, where a process has several (default: the one that serves its `malloc`, or the first)
    #[arg(long, value_name = "N")]
    heap: Option<u64>,
}

impl HeapArgs {
    fn which(&self) -> watch::show::Which {
        watch::show::Which { pid: self.pid, heap: self.heap }
    }
}

/// Print the books of a running program, as they are at this instant
///
/// Without PID: the processes that can be looked at. The program takes no part in it and does not notice. It must run on Spanheap, and belong to the same user, or this
/// command be run by root. docs/statistics.md explains every figure; blocks that the program's threads hold in their
/// caches are not counted yet.
#[derive(Args)]
#[command(after_help = "\
Examples:
  spanheap stats 4711
  spanheap stats --json 4711 | jq .purposes

Exit status: 0; 1 when the process cannot be looked at, or its books do not balance.")]
struct StatsArgs {
    /// The process's number
    #[arg(value_name = "PID")]
    pid: Option<u32>,
    /// The heap's number, where a process has several (default: the one that serves its `malloc`, or the first)
    #[arg(long, value_name = "N", requires = "pid")]
    heap: Option<u64>,
    /// Print JSON, as `spanheap run --stats` does
    #[arg(long, requires = "pid")]
    json: bool,
}

/// Show where a process's memory is: from what the program asked for to what the process has
///
/// The first steps are the heap's books, the last ones the kernel's: what of the heap is resident, and whose the rest
/// of the process is. How much the program asked for lies between two bounds, since nobody counts it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  spanheap explain 4711
  spanheap explain --json 4711 | jq .parts

Exit status: 0; 1 when the process cannot be looked at.")]
struct ExplainArgs {
    #[command(flatten)]
    heap: HeapArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Order a running program to give its free memory back to the system
///
/// The program does it when one of its threads next needs memory from the heap; this command waits half a second for
/// that and says how much it was. Prints nothing else, and needs the same user or root.
#[derive(Args)]
struct ReleaseArgs {
    #[command(flatten)]
    heap: HeapArgs,
}

/// Show which code holds most memory, of a running program or of a profile that one has written
///
/// A program hands its profile out when it next needs memory from its heap, and writes it at exit or when its code says
/// so; with addresses only. The names are looked up here, in the files that it ran.
#[derive(Args)]
#[command(after_help = "\
Examples:
  spanheap profile 4711 --start                                begin to take samples
  spanheap profile 4711                                        who holds most now
  SPANHEAP_CONF='profile:on,profile_file:heap.%p.pb.gz' spanheap run -- ./server
  spanheap profile heap.4711.pb.gz                             who holds most
  spanheap profile --value memory heap.4711.pb.gz              where all resident memory is
  spanheap profile heap.4711.pb.gz --output named.pb.gz        for go tool pprof -http=: named.pb.gz

Exit status: 0; 1 when the profile cannot be had or written.")]
struct ProfileArgs {
    /// A process's number, or the profile that one has written
    #[arg(value_name = "PID|FILE")]
    source: PathBuf,
    /// The heap's number, where a process has several
    #[arg(long, value_name = "N")]
    heap: Option<u64>,
    /// Have the process take samples, one in SIZE on average, and show nothing
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "512KiB", value_parser = demos::bytes, conflicts_with_all = ["stop", "output"])]
    start: Option<Bytes>,
    /// Have the process take no more samples, and show nothing
    #[arg(long, conflicts_with = "output")]
    stop: bool,
    /// Write the profile with its names to FILE instead of printing a table
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the table is about: inuse_space, inuse_objects, alloc_space, alloc_objects, or memory
    #[arg(long, value_name = "NAME", default_value = "inuse_space")]
    value: String,
    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = 20)]
    rows: usize,
}

/// Watch a running program's memory in the terminal
///
/// Purposes, accounts, rates and the last minutes; without PID the processes that can be watched. Keys: `s` sorts by the
/// next column, `r` orders free memory to be released, `q` ends.
#[cfg(feature = "top")]
#[derive(Args)]
struct TopArgs {
    /// The process's number
    #[arg(value_name = "PID")]
    pid: Option<u32>,
    /// The heap's number, where a process has several
    #[arg(long, value_name = "N", requires = "pid")]
    heap: Option<u64>,
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value = "1", value_parser = demos::seconds)]
    interval: Duration,
}

/// Show a running program's memory as a live page for the browser, and as metrics for scrapers
///
/// `/` is the page, `/memory.json` what it shows, `/metrics` the same in OpenMetrics. Only this machine may ask unless
/// --allow-remote is given, and nothing can be changed unless --control is given.
#[cfg(feature = "serve")]
#[derive(Args)]
#[command(after_help = "\
Examples:
  spanheap serve 4711
  spanheap serve 4711 --listen 127.0.0.1:0 --control

Exit status: 1 when the process cannot be looked at or the address is taken, 2 when the address is refused.")]
struct ServeArgs {
    #[command(flatten)]
    heap: HeapArgs,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    listen: std::net::SocketAddr,
    /// Listen on an address that other machines reach
    #[arg(long)]
    allow_remote: bool,
    /// Take orders to release memory
    #[arg(long)]
    control: bool,
}

/// Replay page traces against the page allocator, and compare the answers
///
/// Prints for each file how many answers agree, and the first that does not.
#[derive(Args)]
#[command(after_help = "\
Example:
  spanheap replay tests/traces/*.trace

Exit status: 0 when all answers agree, 1 when some differ, 2 when a file is missing or malformed.")]
struct ReplayArgs {
    /// The traces
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// The doors that `spanheap env` knows.
const DOORS: [&str; 2] = ["malloc", "libgc"];

fn main() {
    let status = match Cli::parse().command {
        Task::Run(args) => run::run(&run::Options {
            stats: args.stats.filter(|file| !file.is_empty()),
            limit: args.limit,
            quiet: args.quiet,
            program: args.program,
        }),
        Task::Stats(StatsArgs { pid: None, .. }) => watch::show::list(),
        Task::Stats(StatsArgs { pid: Some(pid), heap, json }) => {
            watch::show::stats(watch::show::Which { pid, heap }, json)
        }
        Task::Explain(args) => watch::show::explain(args.heap.which(), args.json),
        #[cfg(feature = "top")]
        Task::Top(TopArgs { pid: None, .. }) => watch::show::list(),
        #[cfg(feature = "top")]
        Task::Top(TopArgs { pid: Some(pid), heap, interval }) => {
            watch::top::top(watch::show::Which { pid, heap }, interval)
        }
        #[cfg(feature = "serve")]
        Task::Serve(args) => watch::serve::serve(watch::serve::Options {
            which: args.heap.which(),
            listen: args.listen,
            allow_remote: args.allow_remote,
            control: args.control,
        }),
        Task::Release(args) => watch::show::release(args.heap.which()),
        Task::Profile(args) => args.run(),
        Task::Env(args) => print_environment(&args.door),
        Task::Replay(args) => replay::replay_files(&args.files),
        Task::Demo(args) => args.run(),
    };
    exit(status);
}

impl ProfileArgs {
    /// `spanheap profile`. Returns the exit status.
    fn run(self) -> i32 {
        let ProfileArgs { source, heap, start, stop, output, value, rows } = self;
        // A number is a process, unless a file is called so.
        let number = source.to_str().and_then(|text| text.parse().ok()).filter(|_| !source.exists());
        let order = match (start, stop) {
            (Some(mean), _) => Some(ProfileOrder::Start(mean)),
            (None, true) => Some(ProfileOrder::Stop),
            (None, false) => None,
        };
        let source = match (number, order) {
            (Some(pid), Some(order)) => return profile::switch(watch::show::Which { pid, heap }, order),
            (None, Some(_)) => {
                run::say(format_args!(
                    "{}: samples are taken by a process; give its number",
                    source.display()
                ));
                return 2;
            }
            (Some(pid), None) => profile::Source::Process(watch::show::Which { pid, heap }),
            (None, None) => profile::Source::File(source),
        };
        profile::profile(&profile::Options { source, output, value, rows })
    }
}

/// `spanheap env`. Returns the exit status.
fn print_environment(door: &str) -> i32 {
    if !DOORS.contains(&door) {
        run::say(format_args!(
            "there is no door `{door}` in this version; the doors are: {}",
            DOORS.join(", ")
        ));
        return 2;
    }
    let assignments = if door == "libgc" { preload::collector_assignments() } else { preload::assignments() };
    match assignments {
        Ok(assignments) => {
            for (name, value) in assignments {
                // A reader that closed the pipe has what it wanted.
                let _ = writeln!(std::io::stdout(), "{name}={}", value.display());
            }
            0
        }
        Err(message) => {
            run::say(message);
            run::OUR_FAILURE
        }
    }
}
