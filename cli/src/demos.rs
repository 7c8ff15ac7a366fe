//! The arguments of `spanheap demo` and its kinds.

use crate::{demo, fibers, graph, size, trees};
use clap::{Args, Subcommand};
use spanheap::collect::CollectConfig;
use spanheap::{Bytes, Config};
use std::time::Duration;

/// Churn blocks under several purposes on several threads, and show the books
///
/// Fails when the books do not balance, or when a block is not as it was written.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  spanheap demo --threads 8 --seconds 10
  spanheap demo --operations 1000000 --json | jq .purposes
  spanheap demo trees --depth 18 --threads 2
  spanheap demo graph --objects 1000000 --live 100MiB
  spanheap demo fibers --count 100000"
)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    kind: Option<Kind>,
    #[command(flatten)]
    churn: ChurnArgs,
}

#[derive(Args)]
struct ChurnArgs {
    /// How many threads work (default: as many as there are processors, and at least 2)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// How long they work, in seconds
    #[arg(long, value_name = "S", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// How many operations they do together, instead of working for a time
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    operations: Option<u64>,
    /// Print the books as JSON
    #[arg(long)]
    json: bool,
}

/// What the collected heap can show, and stacks.
#[derive(Subcommand)]
enum Kind {
    /// Grow binary trees on the collected heap
    Trees(TreesArgs),
    /// Change a large graph on the collected heap, and show the pauses
    Graph(GraphArgs),
    /// Make many fibers on guarded stacks, each with blocks and objects of its own, and switch between them
    Fibers(FibersArgs),
}

#[derive(Args)]
struct FibersArgs {
    /// How many fibers
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Gives nothing back when all have ended, but waits so many seconds: what the heap does by itself is shown
    #[arg(long, value_name = "S", value_parser = seconds)]
    wait: Option<Duration>,
}

#[derive(Args)]
struct TreesArgs {
    /// Depth of the long-lived tree
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(4..=26))]
    depth: u32,
    /// How many threads grow trees
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    collector: CollectorArgs,
}

#[derive(Args)]
struct GraphArgs {
    /// How many nodes live
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    objects: u64,
    /// Bytes that they have together, such as 1GiB
    #[arg(long, value_name = "SIZE", default_value = "100MiB", value_parser = bytes)]
    live: Bytes,
    /// How many threads change the graph
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: u32,
    /// How long they do, in seconds
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// The most memory that the heap may commit, such as 1100MiB (default: what the environment says). Where the
    /// graph does not fit, that is said
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    limit: Option<Bytes>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    collector: CollectorArgs,
}

/// How the collector works.
#[derive(Args)]
struct CollectorArgs {
    /// How much is allocated between two collections, in percent of what lives (default: what the environment
    /// says, or 100)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    percent: Option<u32>,
    /// Threads of the collector (default: what the environment says, or 1); 0: the threads that allocate do all the
    /// work
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16))]
    workers: Option<u32>,
    /// Mark a second time in another way in each cycle
    #[arg(long)]
    verify: bool,
    /// A line for each cycle on standard error
    #[arg(long)]
    trace: bool,
}

impl CollectorArgs {
    /// What the environment says of a heap, but for what the arguments say.
    fn config(&self) -> Config {
        let config = Config::from_environment();
        let said = config.collect;
        let collect = CollectConfig {
            percent: self.percent.or(said.percent),
            workers: self.workers.unwrap_or(said.workers),
            verify: self.verify || said.verify,
            trace: self.trace || said.trace,
            ..said
        };
        Config { collect, ..config }
    }
}

impl DemoArgs {
    /// Shows it. Returns the exit status.
    pub(crate) fn run(&self) -> i32 {
        match &self.kind {
            Some(Kind::Fibers(args)) => fibers::fibers(args.count as usize, args.wait),
            None => demo::demo(&self.churn.options()),
            Some(Kind::Trees(args)) => trees::run(&trees::Options {
                depth: args.depth,
                threads: args.threads,
                json: args.json,
                config: args.collector.config(),
            }),
            Some(Kind::Graph(args)) => graph::run(&args.options()),
        }
    }
}

impl GraphArgs {
    fn options(&self) -> graph::Options {
        let config = self.collector.config();
        graph::Options {
            objects: self.objects,
            live: self.live.0 as u64,
            threads: self.threads,
            time: self.seconds,
            config: Config { limit: self.limit.or(config.limit), ..config },
            json: self.json,
        }
    }
}

impl ChurnArgs {
    fn options(&self) -> demo::Options {
        let processors = || std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
        demo::Options {
            threads: self.threads.map_or_else(processors, usize::from),
            end: self.operations.map_or(demo::End::After(self.seconds), demo::End::Operations),
            json: self.json,
        }
    }
}

/// Reads a time in seconds, at most a year.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=365.0 * 86400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("a number of seconds, such as 2.5".into())
}

/// Reads a size.
pub(crate) fn bytes(text: &str) -> Result<Bytes, String> {
    match size::Limit::parse(text)? {
        size::Limit::Bytes(bytes) => Ok(Bytes(bytes as usize)),
        size::Limit::Off | size::Limit::Auto => Err("a size, such as 512MiB".into()),
    }
}
