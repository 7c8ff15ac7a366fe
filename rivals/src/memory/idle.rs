//! What is resident of a process that has stopped allocating: the programs `spike` and `churn` of `memory`.
//!
//! Each is run under every allocator in turn; figures are medians over the rounds. jemalloc is looked at twice: with
//! its default settings its memory decays only while somebody allocates, with background threads it does so by
//! itself. *Returned* is of the bytes in system pages that blocks had touched and no live one touches any more.

use std::process::Stdio;

use super::{Goal, MIB, figure, program, table};
use crate::allocators::{Allocator, BASELINE, OURS};
use crate::report::median;

/// Against mimalloc, and jemalloc with default settings.
const SPIKE: f64 = 0.35;
/// Against jemalloc with background threads.
const SPIKE_BACKGROUND: f64 = 0.60;
/// Of the bytes in wholly free pages, in percent.
const RETURNED: f64 = 97.0;
/// Bytes, in millions.
const CHURN: f64 = 75.0;

/// jemalloc's row with background threads.
const BACKGROUND: &str = "jemalloc, background threads";

/// The figures of one run.
struct Sample {
    peak: f64,
    freed: f64,
    idle: f64,
    processor: f64,
    kept: f64,
    returned: f64,
}

/// The rows of a table: an allocator, its settings, and what was seen.
struct Row<'a> {
    name: &'a str,
    allocator: &'a Allocator,
    variables: &'static [(&'static str, &'static str)],
    samples: Vec<Sample>,
}

impl Row<'_> {
    fn median(&self, of: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of).collect()).unwrap_or(f64::NAN)
    }
}

/// Eight threads, 160 MiB each, one block in 16 kept.
pub(super) fn spike(allocators: &[Allocator], rounds: usize) -> Result<Vec<Goal>, String> {
    let rows = measure(allocators, &["spike", "160", "16", "10"], rounds)?;
    let idle =
        |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.median(|sample| sample.idle));
    let ours = idle(OURS).ok_or("our library was not measured")?;
    let rivals = [(BASELINE, SPIKE), ("jemalloc", SPIKE), (BACKGROUND, SPIKE_BACKGROUND)];
    let against = rivals.into_iter().filter_map(|(name, goal)| {
        let what = format!("resident after a spike, against {name}");
        Some(Goal::at_most(&what, ours / idle(name)?, goal, 2))
    });
    let goals = against.chain(returned(&rows, "spike")).collect();
    Ok(goals)
}

/// 300,000 blocks of three sizes, one in 20 kept.
pub(super) fn churn(allocators: &[Allocator], rounds: usize) -> Result<Vec<Goal>, String> {
    let rows = measure(allocators, &["churn", "10"], rounds)?;
    let ours = rows.iter().filter(|row| row.name == OURS);
    let resident = ours.map(|row| {
        Goal::at_most("resident after churn, MB", row.median(|sample| sample.idle) / 1e6, CHURN, 1)
    });
    Ok(resident.chain(returned(&rows, "churn")).collect())
}

fn returned(rows: &[Row], what: &str) -> Option<Goal> {
    let ours = rows.iter().find(|row| row.name == OURS)?;
    let what = format!("of wholly free pages returned after {what}, %");
    Some(Goal::at_least(&what, ours.median(|sample| sample.returned), RETURNED, 1))
}

/// Runs the program under each allocator, round after round, and prints the table.
fn measure<'a>(allocators: &'a [Allocator], words: &[&str], rounds: usize) -> Result<Vec<Row<'a>>, String> {
    let row = |name, allocator, variables| Row { name, allocator, variables, samples: vec![] };
    let mut rows: Vec<Row> = Vec::new();
    for allocator in allocators {
        rows.push(row(allocator.name, allocator, &[]));
        if allocator.name == "jemalloc" {
            rows.push(row(BACKGROUND, allocator, &[("MALLOC_CONF", "background_thread:true")]));
        }
    }
    for _ in 0..rounds {
        for row in &mut rows {
            row.samples.push(sample(row.allocator, row.variables, words)?);
        }
    }
    print(words[0], rounds, &rows);
    Ok(rows)
}

fn sample(allocator: &Allocator, variables: &[(&str, &str)], words: &[&str]) -> Result<Sample, String> {
    let mut command = program(allocator).map_err(|error| error.to_string())?;
    command.args(words).envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let of = |name| figure(&text, name);
    Ok(Sample {
        // What the program needs to remember its blocks is not the allocator's.
        peak: of("peak")? - of("own")?,
        freed: of("freed")? - of("own")?,
        idle: of("idle")? - of("own")?,
        processor: of("idle_processor")?,
        kept: of("kept")?,
        returned: of("returned")? / of("whole")? * 100.0,
    })
}

fn print(name: &str, rounds: usize, rows: &[Row]) {
    let heads = ["", "kept", "peak", "freed", "after 10 s", "returned, %", "processor meanwhile, ms"];
    let mut table = table(heads);
    for row in rows {
        let mib = |of| format!("{:.0}", row.median(of) / MIB);
        let figures = [
            mib(|sample| sample.kept),
            mib(|sample| sample.peak),
            mib(|sample| sample.freed),
            mib(|sample| sample.idle),
            format!("{:.1}", row.median(|sample| sample.returned)),
            format!("{:.0}", row.median(|sample| sample.processor) * 1e3),
        ];
        table.add_row(std::iter::once(row.name.to_string()).chain(figures));
    }
    println!("`{name}`, MiB resident, medians of {rounds}\n\n{table}\n");
}
