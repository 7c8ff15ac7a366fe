//! The collected heap beside Go's: binary trees, and a large graph that changes.
//!
//! The programs are `spanheap demo trees` and `demo graph`, and their twins in Go (`go/trees`, `go/graph`), which do the
//! same work and print the same check lines. They run alternately, round after round, with the same percentage of growth
//! between collections (`GOGC`). The trees run in Go twice: with as many processors (`GOMAXPROCS`) as there are threads
//! that allocate, where its collector takes its time from theirs, and with all of them. Ours always has its own threads
//! beside the mutators; its processor time is in the figure. The graph, where pauses are looked at, runs in pairs: both
//! bound to one processor, and both with all of them. Figures are medians.
//!
//! Before them, a heap with a million objects is dropped, with nobody beside it.
//!
//! Throughput is bytes of live objects that were marked, by processor time, over three collections that are asked for
//! when nothing changes any more: the time is that of the whole process, the system's figure, so marking, sweeping and
//! all else that a collection does are in it, in both. Go's own account of marking time does not do: it counts a worker
//! that the system has put aside as working.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::measure::{self, Cost};
use crate::report::median;
use crate::{Verdict, allocators, gospans};

/// Options of `rivals collect`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    toolchain: gospans::Toolchain,
    /// Rounds of each program
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only this program
    #[arg(long, value_enum)]
    only: Option<Program>,
    /// Depth of the trees
    #[arg(long, default_value_t = 20)]
    depth: u32,
    /// Threads that grow trees, one table each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<u32>,
    /// Nodes of the graph
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// Mebibytes that live in the graph
    #[arg(long, default_value_t = 1024)]
    live_mib: u64,
    /// Seconds for which the graph changes
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Growth between two collections of the graph, in percent of what is live
    #[arg(long, default_value_t = 25)]
    percent: u32,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Program {
    Trees,
    Graph,
    Drop,
}

/// Growth between two collections of the trees, in percent of what is live: what either has by itself.
const TREES_PERCENT: u32 = 100;
/// Threads of our collector.
const WORKERS: &str = "2";

/// Objects of a heap that is dropped, how often it is, and how long that may take.
const DROPPED: usize = 1_000_000;
const DROPS: usize = 9;
const DROP_MS: f64 = 10.0;

/// Parts of Go's figures that ours must not exceed, or must reach.
const TREES_WALL: f64 = 0.5;
const TREES_PEAK: f64 = 1.0;
const PAUSE_NS: f64 = 1e6;
const THROUGHPUT: f64 = 1.2;

/// What a run came to: figures by name.
type Figures = BTreeMap<&'static str, f64>;

/// One of the programs that take turns.
struct Contender {
    name: String,
    runs: Vec<Figures>,
    start: Box<dyn Fn() -> Command>,
    read: fn(&Outputs) -> Option<Figures>,
}

/// What a run printed.
struct Outputs {
    stdout: String,
    stderr: String,
}

/// Runs both programs and prints a table for each. The verdict is whether all goals are reached.
pub(crate) fn run(options: &Options) -> Verdict {
    let mut goals = Goals::default();
    let wanted = |program| options.only.is_none_or(|only| only == program);
    if wanted(Program::Drop) {
        let times = (0..DROPS).map(|_| dropped()).collect::<Result<Vec<_>, _>>()?;
        let what = format!("dropping a heap with {DROPPED} objects, ms, median of {DROPS}");
        goals.at_most(&what, median(times), DROP_MS);
    }
    if options.only == Some(Program::Drop) {
        return Ok(goals.reached);
    }
    let go = gospans::toolchain(&options.toolchain)?;
    let folder = std::env::temp_dir().join(format!("rivals-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let ours = build_ours()?;
    if wanted(Program::Trees) {
        let twin = build_twin(&go, "trees", &folder)?;
        for threads in &options.threads {
            let contenders = race(trees(options, *threads, &ours, &twin), options.rounds, &folder)?;
            let columns = ["wall, s", "processor, s", "peak, MiB", "collections", "pause, ms"];
            let title = format!("trees of depth {}, {threads} thread(s)", options.depth);
            print(&title, &columns, &contenders);
            for (figure, goal) in [("wall, s", TREES_WALL), ("peak, MiB", TREES_PEAK)] {
                let found = ratio(&contenders[0], &contenders[1], figure);
                goals.at_most(&format!("{title}, {figure}, beside Go"), found, goal);
            }
        }
    }
    if wanted(Program::Graph) {
        let twin = build_twin(&go, "graph", &folder)?;
        let contenders = race(graph(options, &ours, &twin)?, options.rounds, &folder)?;
        let columns = [
            "operations/s",
            "peak, MiB",
            "collections",
            "pause, ms",
            "collected, MiB/s",
            "utilisation",
            "worst 10 ms",
        ];
        let title = format!("graph, {} MiB live in {} nodes", options.live_mib, options.objects);
        print(&title, &columns, &contenders);
        for [ours, go] in contenders.as_chunks().0 {
            let title = format!("graph, {} beside {}", ours.name, go.name);
            let pause = ours.median("pause, ms").map(|pause| pause * 1e6);
            goals.at_most(&format!("{title}, our pause in ns"), pause, PAUSE_NS);
            goals.at_most(&format!("{title}, pause"), ratio(ours, go, "pause, ms"), 1.0);
            let slowness = ratio(go, ours, "collected, MiB/s");
            goals.at_most(&format!("{title}, processor time a live byte"), slowness, 1.0 / THROUGHPUT);
        }
    }
    fs::remove_dir_all(&folder)?;
    Ok(goals.reached)
}

/// Milliseconds that it takes to drop a heap.
fn dropped() -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("objects");
    let mut command = Command::new(program);
    let output = command.args(["drop".to_string(), DROPPED.to_string()]).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    let nanoseconds = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>();
    nanoseconds.map(|time| time / 1e6).map_err(|_| format!("{command:?}: {output:?}"))
}

/// Builds `spanheap` and returns its path.
fn build_ours() -> Result<PathBuf, String> {
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "-q", "-p", "spanheap-cli"]).current_dir(allocators::root());
    succeed(&mut build)?;
    Ok(allocators::target().join("release/spanheap"))
}

/// Builds a twin and returns its path.
fn build_twin(go: &Path, name: &str, folder: &Path) -> Result<PathBuf, String> {
    let root = go.parent().and_then(Path::parent).ok_or("the go command lies in no toolchain")?;
    let twin = folder.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(name).join("main.go");
    succeed(gospans::command(go, root).args(["build", "-o"]).arg(&twin).arg(source))?;
    Ok(twin)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

/// Ours first, then Go with as many processors as threads, then with all, if those are more.
fn with_go(
    threads: u32,
    ours: Contender,
    go: impl Fn(u32) -> Box<dyn Fn() -> Command>,
    read: fn(&Outputs) -> Option<Figures>,
) -> Vec<Contender> {
    let all = std::thread::available_parallelism().map_or(threads, |all| all.get() as u32);
    let mut contenders = vec![ours];
    let mut processors = vec![threads, all];
    processors.dedup();
    for processors in processors {
        let name = format!("Go, {processors} processor(s)");
        contenders.push(Contender { name, runs: Vec::new(), start: go(processors), read });
    }
    contenders
}

fn trees(options: &Options, threads: u32, ours: &Path, twin: &Path) -> Vec<Contender> {
    let (ours, twin, depth) = (ours.to_path_buf(), twin.to_path_buf(), options.depth.to_string());
    let threads_text = threads.to_string();
    let arguments = [depth.clone(), threads_text.clone()];
    let start = move || {
        let mut command = Command::new(&ours);
        command.args(["demo", "trees", "--json", "--depth", &depth, "--threads", &threads_text]);
        command.args(["--percent", &TREES_PERCENT.to_string(), "--workers", WORKERS]);
        command
    };
    let ours =
        Contender { name: "spanheap".into(), runs: Vec::new(), start: Box::new(start), read: our_trees };
    let go = |processors| go_command(&twin, &arguments, (processors, None), TREES_PERCENT);
    with_go(threads, ours, go, go_trees)
}

/// Pairs of ours and Go's, with one processor and with all.
fn graph(options: &Options, ours: &Path, twin: &Path) -> Result<Vec<Contender>, String> {
    let live = options.live_mib << 20;
    let arguments = [options.objects, live, 1, options.seconds].map(|number| number.to_string());
    let all = std::thread::available_parallelism().map_or(1, |all| all.get() as u32);
    let first = first_processor()?;
    let mut contenders = Vec::new();
    for processors in if all > 1 { vec![1, all] } else { vec![1] } {
        let bound = (processors == 1).then(|| first.clone());
        let [objects, live, _, seconds] = arguments.clone();
        let (program, percent, on) = (ours.to_path_buf(), options.percent.to_string(), bound.clone());
        let start = move || {
            let mut command = bound_to(on.as_deref(), &program);
            command.args(["demo", "graph", "--json", "--objects", &objects, "--live", &live]);
            command.args(["--seconds", &seconds, "--percent", &percent, "--workers", WORKERS]);
            command
        };
        let mut add = |name: &str, start: Box<dyn Fn() -> Command>, read| {
            let name = format!("{name}, {processors} processor(s)");
            contenders.push(Contender { name, runs: Vec::new(), start, read });
        };
        add("spanheap", Box::new(start), our_graph);
        add("Go", go_command(twin, &arguments, (processors, bound), options.percent), go_graph);
    }
    Ok(contenders)
}

/// The first processor that this program may run on.
fn first_processor() -> Result<String, String> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let list = word_after(&status, "Cpus_allowed_list:").ok_or(format!("{path} names no processors"))?;
    Ok(list.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(list).to_string())
}

/// A program that runs on one processor only, or on any.
fn bound_to(processor: Option<&str>, program: &Path) -> Command {
    let Some(processor) = processor else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["-c", processor]).arg(program);
    command
}

fn go_command(
    twin: &Path,
    arguments: &[String],
    (processors, bound): (u32, Option<String>),
    percent: u32,
) -> Box<dyn Fn() -> Command> {
    let (twin, arguments) = (twin.to_path_buf(), arguments.to_vec());
    Box::new(move || {
        let mut command = bound_to(bound.as_deref(), &twin);
        command.args(&arguments).env("GOMAXPROCS", processors.to_string());
        command.env("GOGC", percent.to_string()).env_remove("GOMEMLIMIT").env_remove("GODEBUG");
        command
    })
}

/// Runs all in turn, and compares their check lines.
fn race(mut contenders: Vec<Contender>, rounds: usize, folder: &Path) -> Result<Vec<Contender>, String> {
    let mut lines: Option<Vec<String>> = None;
    for _ in 0..rounds.max(1) {
        for contender in &mut contenders {
            let mut command = (contender.start)();
            let (outputs, cost) =
                measured(&mut command, folder).map_err(|error| format!("{command:?}: {error}"))?;
            let found = check_lines(&outputs.stdout);
            let expected = lines.get_or_insert_with(|| found.clone());
            if *expected != found {
                return Err(format!("{command:?} printed {found:?}, expected {expected:?}"));
            }
            let figures = (contender.read)(&outputs);
            let mut figures =
                figures.ok_or_else(|| format!("{command:?} printed no figures: {}", outputs.stdout))?;
            figures.extend([
                ("wall, s", cost.wall),
                ("processor, s", cost.processor),
                ("peak, MiB", cost.peak / 1048576.0),
            ]);
            contender.runs.push(figures);
        }
    }
    Ok(contenders)
}

fn measured(command: &mut Command, folder: &Path) -> Result<(Outputs, Cost), String> {
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| folder.join(name));
    let create = |path: &Path| File::create(path).map_err(|error| error.to_string());
    command.stdin(Stdio::null()).stdout(create(&stdout)?).stderr(create(&stderr)?);
    let (status, cost) = measure::run(command).map_err(|error| error.to_string())?;
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| error.to_string());
    let outputs = Outputs { stdout: read(&stdout)?, stderr: read(&stderr)? };
    if status.success() { Ok((outputs, cost)) } else { Err(format!("{status}: {}", outputs.stderr)) }
}

/// The lines with the counts of nodes: as they stand in the text, or made of ours in JSON.
fn check_lines(text: &str) -> Vec<String> {
    let Ok(json) = serde_json::from_str::<Value>(text) else {
        return text.lines().filter(|line| line.contains("check: ")).map(str::to_string).collect();
    };
    let line =
        |row: &Value, head: String| format!("{head} of depth {}\t check: {}", row["depth"], row["check"]);
    let rows = json["rows"].as_array().into_iter().flatten();
    let Some(stretch) = json.get("stretch") else { return Vec::new() };
    [line(stretch, "stretch tree".into())]
        .into_iter()
        .chain(rows.map(|row| line(row, format!("{}\t trees", row["trees"]))))
        .chain([line(&json["long_lived"], "long lived tree".into())])
        .collect()
}

fn our_trees(outputs: &Outputs) -> Option<Figures> {
    let json: Value = serde_json::from_str(&outputs.stdout).ok()?;
    Some(Figures::from([
        ("collections", json["collections"].as_f64()?),
        ("pause, ms", json["longest_pause_ns"].as_f64()? / 1e6),
    ]))
}

fn our_graph(outputs: &Outputs) -> Option<Figures> {
    let json: Value = serde_json::from_str(&outputs.stdout).ok()?;
    let number = |name: &str| json[name].as_f64();
    Some(Figures::from([
        ("operations/s", number("operations")? / number("seconds")?),
        ("collections", number("collections")?),
        ("pause, ms", number("longest_pause_ns")? / 1e6),
        ("collected, MiB/s", throughput(number("forced_marked_bytes")?, number("forced_cpu_ns")?)),
        ("utilisation", number("utilisation")?),
        ("worst 10 ms", number("worst_utilisation")?),
    ]))
}

fn go_trees(outputs: &Outputs) -> Option<Figures> {
    let number = |name| number_after(&outputs.stderr, name);
    Some(Figures::from([
        ("collections", number("collections")?),
        ("pause, ms", number("longest_pause_ns")? / 1e6),
    ]))
}

fn go_graph(outputs: &Outputs) -> Option<Figures> {
    let number = |name| number_after(&outputs.stdout, name);
    Some(Figures::from([
        ("operations/s", number("operations_per_second")?),
        ("collections", number("collections")?),
        ("pause, ms", number("longest_pause_ns")? / 1e6),
        ("collected, MiB/s", throughput(number("forced_marked_bytes")?, number("forced_cpu_ns")?)),
    ]))
}

/// Mebibytes a second.
fn throughput(bytes: f64, nanoseconds: f64) -> f64 {
    bytes / 1048576.0 / (nanoseconds / 1e9)
}

/// The number after a name, in a line of names and numbers.
fn number_after(text: &str, name: &str) -> Option<f64> {
    word_after(text, name)?.parse().ok()
}

fn word_after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_whitespace().skip_while(|word| *word != name).nth(1)
}

impl Contender {
    fn median(&self, figure: &str) -> Option<f64> {
        median(self.runs.iter().filter_map(|run| run.get(figure).copied()).collect())
    }
}

/// A figure of one by that of another.
fn ratio(one: &Contender, other: &Contender, figure: &str) -> Option<f64> {
    Some(one.median(figure)? / other.median(figure)?)
}

fn print(title: &str, columns: &[&str], contenders: &[Contender]) {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([title].iter().chain(columns));
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for contender in contenders {
        let cells = columns.iter().map(|column| contender.median(column).map_or("-".into(), digits));
        table.add_row([contender.name.clone()].into_iter().chain(cells));
    }
    println!("{table}\n");
}

/// Three digits that count.
fn digits(value: f64) -> String {
    let places = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        3
    };
    format!("{value:.places$}")
}

/// What was to be reached, and whether it was.
struct Goals {
    reached: bool,
}

impl Default for Goals {
    fn default() -> Goals {
        Goals { reached: true }
    }
}

impl Goals {
    fn at_most(&mut self, what: &str, found: Option<f64>, goal: f64) {
        let reached = found.is_some_and(|found| found <= goal);
        let verdict = if reached { "reached" } else { "**not reached**" };
        let found = found.map_or("nothing".into(), digits);
        println!("- {what}: {found}, must be at most {}: {verdict}\n", digits(goal));
        self.reached &= reached;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_lines_of_both_are_the_same() {
        let ours = r#"{ "stretch": { "trees": 1, "depth": 7, "check": 255 },
            "rows": [{ "trees": 64, "depth": 4, "check": 1984 }],
            "long_lived": { "trees": 1, "depth": 6, "check": 127 }, "seconds": 0.1 }"#;
        let go = "stretch tree of depth 7\t check: 255\n64\t trees of depth 4\t check: 1984\n\
            long lived tree of depth 6\t check: 127\nnot a check\n";
        assert_eq!(check_lines(ours), check_lines(go));
        assert_eq!(check_lines(ours).len(), 3);
        assert!(check_lines(r#"{ "operations": 5 }"#).is_empty());
    }

    #[test]
    fn figures_of_the_twins_are_read() {
        let line = "operations_per_second 100 collections 4 longest_pause_ns 20000 \
            forced_cpu_ns 500000000 forced_marked_bytes 4194304 all_collections 9 procs 1";
        let outputs = Outputs { stdout: line.into(), stderr: String::new() };
        let figures = go_graph(&outputs).unwrap();
        assert_eq!((figures["collected, MiB/s"], figures["pause, ms"]), (8.0, 0.02));
        assert!(go_trees(&outputs).is_none());
    }

    #[test]
    fn a_missing_figure_reaches_no_goal() {
        let mut goals = Goals::default();
        goals.at_most("time", Some(0.5), 0.5);
        assert!(goals.reached);
        goals.at_most("time", None, 0.5);
        assert!(!goals.reached);
    }
}
