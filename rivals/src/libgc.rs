//! Programs that live on a garbage collector, on our `libgc.so.1` and on Debian's (bdwgc 8.2.2).
//!
//! Both libraries take turns, round after round: ours is found by `LD_LIBRARY_PATH`, Debian's where it is installed. A
//! program's output must be the same in all runs. Figures are medians, and ratios ours by Debian's.
//!
//! Collections and the longest stop come from a run of its own with each library, with its log on (`GC_PRINT_STATS`), so
//! that writing the log is in nobody's time. Both lines say how long the world stood still.
//!
//! Programs' sources are in `programs/libgc`; what is made of them lies in a temporary folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::measure::{self, Cost};
use crate::report::{mean, median};
use crate::{Verdict, allocators, inputs, packages};

/// Options of `rivals libgc`.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each program
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these programs
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Sizes that take a tenth of the time
    #[arg(long)]
    small: bool,
    /// Do not install what is missing
    #[arg(long)]
    no_install: bool,
}

/// Parts of Debian's figures that ours must not exceed.
const WALL_MEAN: f64 = 0.8;
const WALL_WORST: f64 = 1.0;
const WALL_TWO_THREADS: f64 = 0.5;
const PEAK_MEAN: f64 = 0.8;
const PEAK_WORST: f64 = 1.1;

/// The program that the goal for two threads is about.
const TWO_THREADS: &str = "trees-2";

/// A program and what it is given to do.
struct Workload {
    name: &'static str,
    /// Commands and the packages that have them.
    needs: &'static [(&'static str, &'static str)],
    /// Files that it needs: names and contents.
    sources: &'static [(&'static str, &'static str)],
    /// What is made of them, by a shell.
    build: &'static str,
    /// The command; `SIZE` stands for the size, which is in the environment as well.
    line: &'static str,
    /// The size, and the small one.
    sizes: [u32; 2],
}

macro_rules! source {
    ($name:literal) => {
        ($name, include_str!(concat!("../programs/libgc/", $name)))
    };
}

const C_TREES: Workload = Workload {
    name: "trees",
    needs: &[("gcc", "gcc"), ("../include/gc/gc.h", "libgc-dev")],
    sources: &[source!("trees.c")],
    build: "gcc -O2 -o trees trees.c -lgc -lpthread",
    line: "./trees SIZE 1",
    sizes: [20, 17],
};

const LIST: [Workload; 11] = [
    C_TREES,
    Workload { name: TWO_THREADS, line: "./trees SIZE 2", ..C_TREES },
    Workload {
        name: "guile",
        needs: &[("guile", "guile-3.0")],
        sources: &[source!("trees.scm")],
        // Compiles it, into a cache in the folder.
        build: "guile trees.scm 4 2>errors",
        line: "guile trees.scm SIZE",
        sizes: [18, 15],
    },
    Workload {
        name: "nix",
        needs: &[("nix-instantiate", "nix-bin")],
        sources: &[source!("sets.nix")],
        build: "",
        line: "nix-instantiate --eval --strict --store dummy:// sets.nix --argstr count SIZE",
        sizes: [300_000, 60_000],
    },
    Workload {
        name: "crystal",
        needs: &[("crystal", "crystal")],
        sources: &[source!("trees.cr")],
        build: "crystal build --release trees.cr -o trees_cr",
        line: "./trees_cr SIZE",
        sizes: [20, 17],
    },
    Workload {
        name: "crystal-build",
        needs: &[("crystal", "crystal")],
        sources: &[source!("library.cr")],
        build: "",
        line: "crystal build --no-codegen library.cr",
        sizes: [1, 1],
    },
    Workload {
        name: "ecl",
        needs: &[("ecl", "ecl")],
        sources: &[source!("lists.lisp")],
        build: "",
        line: "ecl --norc --shell lists.lisp",
        sizes: [400, 40],
    },
    Workload {
        name: "neko",
        needs: &[("neko", "neko")],
        sources: &[source!("trees.neko")],
        build: "nekoc trees.neko",
        line: "neko trees.n SIZE",
        sizes: [18, 15],
    },
    Workload {
        name: "asymptote",
        needs: &[("asy", "asymptote")],
        sources: &[source!("trees.asy")],
        build: "",
        line: "asy -noV -u depth=SIZE; trees.asy",
        sizes: [15, 11],
    },
    Workload {
        name: "poke",
        needs: &[("poke", "poke")],
        sources: &[source!("structs.pk")],
        build: "",
        line: "poke -q --no-init-file -L structs.pk",
        sizes: [200_000, 50_000],
    },
    Workload {
        name: "w3m",
        needs: &[("w3m", "w3m")],
        sources: &[],
        build: "",
        line: "w3m -dump page.html",
        sizes: [48_000, 16_000],
    },
];

/// The figures of a program with both libraries, ours first.
struct Row {
    name: &'static str,
    costs: [Vec<Cost>; 2],
    logs: [Log; 2],
}

/// What a library's log says.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Log {
    collections: usize,
    /// Milliseconds.
    longest: f64,
}

/// Runs all programs and prints tables. The verdict is whether all goals are reached.
pub(crate) fn run(options: &Options) -> Verdict {
    if let Some(stranger) =
        options.only.iter().find(|name| LIST.iter().all(|workload| workload.name != **name))
    {
        let known: Vec<_> = LIST.iter().map(|workload| workload.name).collect();
        return Err(format!("no program is called {stranger}; there are {}", known.join(", ")).into());
    }
    let wanted: Vec<_> = LIST
        .iter()
        .filter(|workload| options.only.is_empty() || options.only.iter().any(|name| name == workload.name))
        .collect();
    let mut missing: Vec<_> = wanted.iter().flat_map(|workload| workload.missing()).collect();
    missing.dedup();
    packages::install(&missing, !options.no_install);
    let folder = std::env::temp_dir().join(format!("rivals-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let ours = library(&folder)?;
    let mut rows = Vec::new();
    for workload in wanted {
        if !workload.missing().is_empty() {
            eprintln!("{} is left out: {} is missing", workload.name, workload.missing().join(", "));
            continue;
        }
        let size = workload.sizes[usize::from(options.small)];
        workload.prepare(&folder, size)?;
        rows.push(workload.race(&Place { folder: &folder, ours: &ours, size }, options.rounds.max(1))?);
        eprintln!("{} is done", workload.name);
    }
    fs::remove_dir_all(&folder)?;
    println!("{}\n", table(&rows));
    Ok(goals(&rows))
}

/// Builds our library, under the name that programs ask for. Returns its folder.
fn library(folder: &Path) -> Result<PathBuf, String> {
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "-q", "-p", "spanheap-libgc"]).current_dir(allocators::root());
    let status = build.status().map_err(|error| format!("cargo does not start: {error}"))?;
    let (made, beside) = (allocators::target().join("release/libspanheap_gc.so"), folder.join("ours"));
    if !status.success() || !made.exists() {
        return Err(format!("{build:?}: {status}, and no {}", made.display()));
    }
    let link = |target: &Path| std::os::unix::fs::symlink(target, beside.join("libgc.so.1"));
    fs::create_dir_all(&beside)
        .and_then(|()| link(&fs::canonicalize(&made)?))
        .map_err(|error| format!("{}: {error}", beside.display()))?;
    Ok(beside)
}

/// Where a program runs.
struct Place<'a> {
    folder: &'a Path,
    /// The folder with our library.
    ours: &'a Path,
    size: u32,
}

impl Workload {
    fn missing(&self) -> Vec<&'static str> {
        let needs = self.needs.iter().filter(|(command, _)| packages::find(command).is_none());
        needs.map(|need| need.1).collect()
    }

    fn prepare(&self, folder: &Path, size: u32) -> Result<(), String> {
        for (name, text) in self.sources {
            fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))?;
        }
        if self.name == "w3m" {
            inputs::page(folder, size.into()).map_err(|error| format!("page.html: {error}"))?;
        }
        let mut shell = Command::new("/bin/sh");
        let status =
            environment(shell.args(["-ec", self.build]), folder, size).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("`{}`: {other:?}", self.build)),
        }
    }

    /// Runs it with both libraries in turn.
    fn race(&self, place: &Place<'_>, rounds: usize) -> Result<Row, String> {
        let mut row = Row { name: self.name, costs: [vec![], vec![]], logs: [Log::default(); 2] };
        // Warms the system's caches, and says what must be printed.
        let expected = self.start(place, false, None)?.0;
        for round in 0..rounds {
            for turn in 0..2 {
                let is_ours = (round + turn).is_multiple_of(2);
                let (printed, cost) = self.start(place, is_ours, None)?;
                self.compare(&expected, &printed)?;
                row.costs[usize::from(!is_ours)].push(cost);
            }
        }
        for is_ours in [true, false] {
            let log = place.folder.join("log");
            let (printed, _) = self.start(place, is_ours, Some(&log))?;
            self.compare(&expected, &printed)?;
            let text = fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
            row.logs[usize::from(!is_ours)] = Log::read(&String::from_utf8_lossy(&text));
            fs::remove_file(&log).map_err(|error| error.to_string())?;
        }
        Ok(row)
    }

    fn compare(&self, expected: &[u8], printed: &[u8]) -> Result<(), String> {
        match expected == printed {
            true => Ok(()),
            false => Err(format!("{} printed something else than before", self.name)),
        }
    }

    /// One run. Returns what it printed and what it cost.
    fn start(&self, place: &Place<'_>, is_ours: bool, log: Option<&Path>) -> Result<(Vec<u8>, Cost), String> {
        let line = self.line.replace("SIZE", &place.size.to_string());
        let mut words = line.split(' ');
        let program = words.next().expect("a line has a word");
        let program = packages::find(program).unwrap_or_else(|| place.folder.join(program));
        let mut command = Command::new(program);
        environment(command.args(words), place.folder, place.size);
        if is_ours {
            command.env("LD_LIBRARY_PATH", place.ours);
        }
        if let Some(log) = log {
            command.env("GC_PRINT_STATS", "1").env("GC_LOG_FILE", log);
        }
        let [output, errors] = ["output", "errors"].map(|name| place.folder.join(name));
        let create = |path: &Path| File::create(path).map_err(|error| error.to_string());
        command.stdout(create(&output)?).stderr(create(&errors)?);
        let measured = measure::run(&mut command).map_err(|error| format!("{command:?}: {error}"))?;
        let read = |path: &Path| fs::read(path).map_err(|error| error.to_string());
        match measured {
            (status, cost) if status.success() => Ok((read(&output)?, cost)),
            (status, _) => {
                let errors = String::from_utf8_lossy(&read(&errors)?).into_owned();
                Err(format!("{command:?}: {status}\n{errors}"))
            }
        }
    }
}

/// An environment that is the same everywhere, and leads programs that keep something to the folder.
fn environment<'a>(command: &'a mut Command, folder: &Path, size: u32) -> &'a mut Command {
    command.env_clear().current_dir(folder).stdin(Stdio::null());
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let kept = ["HOME", "XDG_CACHE_HOME", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_CONF_DIR"];
    command.envs(kept.map(|name| (name, folder))).env("NIX_STORE_DIR", folder.join("store"));
    command.env("LC_ALL", "C.UTF-8").env("SIZE", size.to_string())
}

impl Log {
    fn read(text: &str) -> Log {
        let stops = text.lines().filter_map(stop);
        stops.fold(Log::default(), |log, stop| Log {
            collections: log.collections + 1,
            longest: log.longest.max(stop),
        })
    }
}

/// How many milliseconds the world stood still, by a line of either log.
fn stop(line: &str) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if let Some((_, micros)) = line.split_once(", stopped ") {
        return Some(number(micros.strip_suffix(" us")?)? / 1e3);
    }
    let taken = line.strip_prefix("World-stopped marking took ")?;
    let (millis, rest) = taken.split_once(" ms")?;
    let nanos = rest.split_once(" ns").map_or(Some(0.0), |(nanos, _)| number(nanos))?;
    Some(number(millis)? + nanos / 1e6)
}

/// A figure of a run, in the unit of its column.
type Figure = fn(&Cost) -> f64;

const WALL: Figure = |cost| cost.wall;
const PROCESSOR: Figure = |cost| cost.processor;
const PEAK: Figure = |cost| cost.peak / 1048576.0;

impl Row {
    fn median(&self, library: usize, figure: Figure) -> f64 {
        median(self.costs[library].iter().map(figure).collect()).expect("there is a round")
    }

    fn ratio(&self, figure: Figure) -> f64 {
        self.median(0, figure) / self.median(1, figure)
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let figures: [(&str, Figure); 3] = [("wall, s", WALL), ("processor, s", PROCESSOR), ("peak, MiB", PEAK)];
    let head = figures.iter().flat_map(|(title, _)| [title.to_string(), "libgc".into(), "ratio".into()]);
    let log = ["collections", "libgc", "longest stop, ms", "libgc"].map(String::from);
    table.set_header(["program".to_string()].into_iter().chain(head).chain(log));
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for row in rows {
        let costs = figures.iter().flat_map(|&(_, figure)| {
            let medians = [0, 1].map(|library| format!("{:.2}", row.median(library, figure)));
            medians.into_iter().chain([format!("{:.2}", row.ratio(figure))])
        });
        let [ours, theirs] = row.logs;
        let counts = [ours, theirs].map(|log| log.collections.to_string());
        let stops = [ours, theirs].map(|log| format!("{:.1}", log.longest));
        let cells = [row.name.to_string()].into_iter().chain(costs).chain(counts).chain(stops);
        table.add_row(cells);
    }
    table
}

/// Prints what was to be reached. Returns whether all was.
fn goals(rows: &[Row]) -> bool {
    let mut all_reached = true;
    let mut line = |what: &str, found: Option<f64>, goal: f64| {
        let Some(found) = found else { return };
        let reached = found <= goal;
        all_reached &= reached;
        let verdict = if reached { "reached" } else { "**not reached**" };
        println!("- {what}: {found:.2}, must be at most {goal:.2}: {verdict}");
    };
    // The goals in the mean are about one program each; that with two threads has its own.
    let ratios = |figure| rows.iter().filter(|row| row.name != TWO_THREADS).map(move |row| row.ratio(figure));
    let worst = |figure| rows.iter().map(|row| row.ratio(figure)).max_by(f64::total_cmp);
    let of_two = rows.iter().find(|row| row.name == TWO_THREADS).map(|row| row.ratio(WALL));
    line("wall time, geometric mean", mean(ratios(WALL)), WALL_MEAN);
    line("wall time, worst", worst(WALL), WALL_WORST);
    line("processor time, geometric mean", mean(ratios(PROCESSOR)), WALL_MEAN);
    line("wall time, trees with two threads", of_two, WALL_TWO_THREADS);
    line("peak resident set, geometric mean", mean(ratios(PEAK)), PEAK_MEAN);
    line("peak resident set, worst", worst(PEAK), PEAK_WORST);
    all_reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_read_from_either_log() {
        let ours = "spanheap gc 1: 9 -> 2 KiB, goal 4096 KiB, stopped 2500 us\nspanheap gc 2: 1 -> 1 KiB, \
            goal 4096 KiB, stopped 40 us\n";
        assert_eq!(Log::read(ours), Log { collections: 2, longest: 2.5 });
        let theirs = "GC #1 freed 0 bytes\nWorld-stopped marking took 3 ms 250000 ns (0 ms in average)\n\
            Complete collection took 4 ms 0 ns\n";
        assert_eq!(Log::read(theirs), Log { collections: 1, longest: 3.25 });
    }

    #[test]
    fn goals_are_held_against_the_figures() {
        let cost = |wall| Cost { wall, processor: wall, peak: 4096.0 };
        let row = |wall| Row {
            name: "trees",
            costs: [vec![cost(wall)], vec![cost(1.0)]],
            logs: [Log::default(); 2],
        };
        assert!(!goals(&[row(0.9)]), "the peak is the same, which is too much");
        let mut good = row(0.7);
        good.costs[0][0].peak = 2048.0;
        assert!(goals(&[good]));
    }
}
