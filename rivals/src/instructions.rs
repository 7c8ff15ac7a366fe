//! Instructions of a cached `malloc` and `free`, counted by callgrind, and of an object from the cache.
//!
//! A small C program (`c/pair.c`) that calls both through its PLT, as C programs do, runs twice with different
//! numbers of pairs. The difference of the two counts, divided by the difference of the pairs, has no start-up and
//! no warming in it. The same under an allocator of three instructions (`c/nothing.c`) tells what the driver's loop
//! costs by itself; that is taken off. So a figure is: both functions and the two jumps of the PLT, per pair.
//!
//! An object from the collected heap's cache is counted as well: the program `objects` allocates a few and a few more of
//! what the cache has, and counts the instructions of the loop around that itself, by single steps; the difference is
//! divided likewise. The loop's own step is in the figure.
//!
//! Counts do not depend on the machine's load, so they can be *golden*: `--golden FILE` compares ours with the file
//! and fails if one has grown; `--bless` writes the file. Where the fast paths are all that runs, half an instruction
//! is too much; where slower ones have a part, they are allowed a little.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::allocators::{self, BASELINE, OURS};
use crate::{Verdict, packages};

/// Options of `rivals instructions`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these allocators (comma-separated): ours (or spanheap), mimalloc, jemalloc, tcmalloc, glibc
    #[arg(long, value_delimiter = ',')]
    allocators: Vec<String>,
    /// Compares our counts with this file and fails if one has grown
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// Writes the golden file instead
    #[arg(long, requires = "golden")]
    bless: bool,
    /// Instructions by which a count may exceed the golden one
    #[arg(long, default_value_t = 0.5)]
    tolerance: f64,
    /// Installs nothing; says what is missing
    #[arg(long)]
    no_install: bool,
}

const SIZES: [usize; 4] = [16, 64, 256, 1024];

/// Patterns of calls; the first letter is what the driver is told. `kept` is the one the goal is about.
const PATTERNS: [(&str, &str); 4] = [
    ("kept", "eight blocks of the size are live; malloc, free"),
    ("alone", "nothing else is live; malloc, free"),
    ("batch", "64 times malloc, 64 times free in the same order"),
    ("ring", "256 blocks are live; free the oldest, malloc"),
];

/// Pairs of the two runs: multiples of the batch and of the ring.
const PAIRS: [u64; 2] = [64_000, 192_000];

/// Patterns in which some blocks come through slower paths, and by what part such a count may exceed the golden one.
const MIXED: [&str; 2] = ["batch", "ring"];
const MIXED_TOLERANCE: f64 = 0.05;

/// What `c/nothing.c` spends on a pair, and the jumps of the PLT: in the driver's figure, and not the driver's.
const NOTHING: f64 = 3.0;
const JUMPS: f64 = 2.0;

/// Objects of this size, in bytes, of these kinds, as the program `objects` calls them; and how many in the two runs.
const OBJECT: usize = 32;
const OBJECTS: [(&str, &str); 3] =
    [("plain", "without references"), ("references", "of references"), ("mapped", "with some references")];
const FEW_AND_MANY: [u64; 2] = [8, 56];

/// What an object without a map may cost.
const OBJECT_GOAL: f64 = 25.0;

/// Our counts: by pattern and size.
type Counts = BTreeMap<(String, usize), f64>;

/// Counts, prints the tables, compares with the golden file.
pub(crate) fn run(options: &Options) -> Verdict {
    let missing =
        [("valgrind", "valgrind"), ("cc", "gcc")].into_iter().filter(|need| packages::find(need.0).is_none());
    packages::install(&missing.map(|need| need.1).collect::<Vec<_>>(), !options.no_install);
    let allocators = allocators::gather(&options.allocators, !options.no_install)?;
    let folder = std::env::temp_dir().join(format!("rivals-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let driver = Driver::build(&folder)?;
    let mut ours = Counts::new();
    for (pattern, about) in PATTERNS {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(
            std::iter::once("allocator".to_string()).chain(SIZES.map(|size| format!("{size} B"))),
        );
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let mut baseline = [0.0; SIZES.len()];
        for allocator in &allocators {
            let mut counts = [0.0; SIZES.len()];
            for (count, size) in counts.iter_mut().zip(SIZES) {
                *count = driver.pair(&allocator.library, pattern, size)?;
            }
            table.add_row(
                std::iter::once(allocator.name.into()).chain(counts.map(|count| format!("{count:.1}"))),
            );
            match allocator.name {
                OURS => ours
                    .extend(SIZES.iter().zip(counts).map(|(size, count)| ((pattern.into(), *size), count))),
                BASELINE => baseline = counts,
                _ => {}
            }
        }
        if let Some(ratios) = ratios(&ours, pattern, baseline) {
            table.add_row(std::iter::once(format!("{OURS} / {BASELINE}")).chain(ratios));
        }
        println!("`{pattern}`: {about}\n\n{table}\n");
    }
    std::fs::remove_dir_all(&folder)?;
    let mut good = true;
    if allocators.iter().any(|allocator| allocator.name == OURS) {
        let (table, counts) = objects()?;
        println!("an object of {OBJECT} bytes, with room in the cache\n\n{table}\n");
        good = counts.iter().all(|((kind, _), count)| kind.ends_with("mapped") || *count <= OBJECT_GOAL);
        ours.extend(counts);
    }
    match &options.golden {
        Some(path) if options.bless => Ok(std::fs::write(path, written(&ours)).map(|()| good)?),
        Some(path) => Ok(compare(&read(&std::fs::read_to_string(path)?)?, &ours, options.tolerance) && good),
        None => Ok(good),
    }
}

/// The table of objects, and their counts.
fn objects() -> io::Result<(Table, Counts)> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["object", "instructions"]);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let program = std::env::current_exe()?.with_file_name("objects");
    let mut counts = Counts::new();
    for (kind, about) in OBJECTS {
        let [few, many] = FEW_AND_MANY.map(|objects| {
            let output = Command::new(&program).args([kind.to_string(), objects.to_string()]).output()?;
            let steps = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>();
            steps.map_err(|_| io::Error::other(format!("objects {kind} {objects}: {output:?}")))
        });
        let count = (many? - few?) / (FEW_AND_MANY[1] - FEW_AND_MANY[0]) as f64;
        table.add_row([about.to_string(), format!("{count:.1}")]);
        counts.insert((format!("object-{kind}"), OBJECT), count);
    }
    Ok((table, counts))
}

fn ratios(ours: &Counts, pattern: &str, baseline: [f64; SIZES.len()]) -> Option<Vec<String>> {
    let ratio = |(size, count): (&usize, f64)| {
        let own = ours.get(&(pattern.to_string(), *size))?;
        (count > 0.0).then(|| format!("{:.2}", own / count))
    };
    SIZES.iter().zip(baseline).map(ratio).collect()
}

/// The compiled driver, and the same linked with the allocator of three instructions. That one cannot be
/// preloaded: `valgrind` starts as a shell script, which would have to live on it.
struct Driver {
    program: PathBuf,
    bare: PathBuf,
}

impl Driver {
    fn build(folder: &Path) -> io::Result<Driver> {
        let driver = Driver { program: folder.join("pair"), bare: folder.join("bare") };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
        let nothing = folder.join("nothing.so");
        compile(&[&source.join("pair.c")], &driver.program, &["-Wl,-z,lazy"])?;
        compile(&[&source.join("nothing.c")], &nothing, &["-shared", "-fPIC"])?;
        compile(&[&source.join("pair.c"), &nothing], &driver.bare, &["-Wl,-z,lazy"])?;
        Ok(driver)
    }

    /// Instructions per pair under `library`, without the driver's.
    fn pair(&self, library: &Path, pattern: &str, size: usize) -> io::Result<f64> {
        let own = difference(&self.bare, None, pattern, size)? - NOTHING - JUMPS;
        Ok(difference(&self.program, Some(library), pattern, size)? - own)
    }
}

/// Instructions per pair of `program`, its loop included.
fn difference(program: &Path, library: Option<&Path>, pattern: &str, size: usize) -> io::Result<f64> {
    let few = count(program, library, pattern, size, PAIRS[0])?;
    let many = count(program, library, pattern, size, PAIRS[1])?;
    Ok((many - few) / (PAIRS[1] - PAIRS[0]) as f64)
}

/// All instructions of one run.
fn count(program: &Path, library: Option<&Path>, pattern: &str, size: usize, pairs: u64) -> io::Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.args([size.to_string(), pairs.to_string(), pattern.to_string()]);
    command.envs(library.map(|library| ("LD_PRELOAD", library)));
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match (output.status.success(), count) {
        (true, Some(count)) => Ok(count),
        _ => Err(io::Error::other(format!("{command:?} ({}):\n{text}", output.status))),
    }
}

fn compile(sources: &[&Path], target: &Path, flags: &[&str]) -> io::Result<()> {
    let mut command = Command::new("cc");
    command.args(["-O2", "-fno-builtin", "-fcf-protection=none", "-fno-stack-protector"]).args(flags);
    let status = command.args(sources).arg("-o").arg(target).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cc for {}: {status}", target.display())))
    }
}

fn written(counts: &Counts) -> String {
    let head = "# Instructions of a cached malloc and free, and of an object from the cache: pattern, size in bytes, count.\n".to_string();
    counts
        .iter()
        .fold(head, |text, ((pattern, size), count)| text + &format!("{pattern} {size} {count:.1}\n"))
}

fn read(text: &str) -> Result<Counts, String> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let key = (words.next()?.to_string(), words.next()?.parse().ok()?);
        Some((key, words.next()?.parse().ok()?))
    };
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| entry(line).ok_or_else(|| format!("golden file: cannot read `{line}`"))).collect()
}

/// Whether no count exceeds its golden one by more than `tolerance`, or what mixed patterns are allowed. Says which do, and which have sunk, so that
/// the file can follow.
fn compare(golden: &Counts, found: &Counts, tolerance: f64) -> bool {
    let mut good = true;
    for ((pattern, size), bound) in golden {
        let Some(count) = found.get(&(pattern.clone(), *size)) else {
            eprintln!("{pattern} {size}: {OURS} was not counted");
            good = false;
            continue;
        };
        let tolerance = match MIXED.contains(&pattern.as_str()) {
            true => tolerance.max(bound * MIXED_TOLERANCE),
            false => tolerance,
        };
        if *count > bound + tolerance {
            eprintln!("{pattern} {size}: {count:.1} instructions, golden are {bound:.1}");
            good = false;
        } else if *count < bound - tolerance {
            eprintln!(
                "{pattern} {size}: only {count:.1} instructions, golden are {bound:.1}; --bless keeps that"
            );
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: f64) -> Counts {
        [(("kept".to_string(), 16), of)].into()
    }

    #[test]
    fn golden_counts_come_back_as_written() {
        assert_eq!(read(&written(&counts(44.5))).unwrap(), counts(44.5));
        assert!(read("kept sixteen 44").is_err());
    }

    #[test]
    fn only_growth_fails() {
        assert!(compare(&counts(40.0), &counts(40.5), 0.5));
        assert!(compare(&counts(40.0), &counts(30.0), 0.5));
        assert!(!compare(&counts(40.0), &counts(41.0), 0.5));
        assert!(!compare(&counts(40.0), &Counts::new(), 0.5));
        let mixed = |of| Counts::from([(("ring".to_string(), 16), of)]);
        assert!(compare(&mixed(100.0), &mixed(104.0), 0.5));
        assert!(!compare(&mixed(100.0), &mixed(106.0), 0.5));
    }
}
