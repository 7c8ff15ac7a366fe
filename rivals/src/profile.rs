//! What the heap profile costs at its usual rate: each workload with and without it, alternately.
//!
//! A round runs a workload four times, in the order without, with, with, without, and compares the sums of the processor
//! time: what drifts steadily hits both alike. The figure of a workload is the median over the rounds. Sampling costs by the
//! bytes that are allocated, so programs show it as users would see it; of the classic benchmarks, which do nothing else than
//! allocate, those with large blocks show the worst.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::allocators::{self, OURS};
use crate::compare::prepared;
use crate::report::median;
use crate::workload::{self, Place, Workload};
use crate::{Verdict, packages};

/// Options of `rivals profile`.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each workload
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// These workloads (comma-separated; `rivals list` names them)
    #[arg(long, value_delimiter = ',', default_value = "redis,python-malloc,python,sqlite,jq,perl,lua,gcc")]
    only: Vec<String>,
    /// Installs nothing; says what is missing
    #[arg(long)]
    no_install: bool,
}

/// How a program is told to take samples at the usual rate.
const ON: &str = "profile:on";

/// What sampling may take, in the geometric mean over the workloads.
const GOAL: f64 = 1.02;

/// Runs the workloads and prints the table. The verdict is whether the goal is reached.
pub(crate) fn run(options: &Options) -> Verdict {
    let ours = allocators::gather(&["ours".to_string()], !options.no_install)?;
    let library = &ours.first().ok_or(format!("{OURS} could not be built"))?.library;
    let all = workload::all();
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["workload", "without, s", "with / without", "least round", "largest round"]);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let mut ratios = Vec::new();
    for name in &options.only {
        let workload =
            all.iter().find(|workload| workload.name == name).ok_or(format!("no workload {name}"))?;
        packages::install(&workload.missing(), !options.no_install);
        if !workload.missing().is_empty() {
            eprintln!("{name} is left out: it needs {}", workload.missing().join(" "));
            continue;
        }
        let folder = std::env::temp_dir().join(format!("rivals-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let place = Place { folder: &folder, library: Some(library), configuration: "", divisor: 1 };
        let rounds = rounds_of(workload, &place, options.rounds.max(1));
        std::fs::remove_dir_all(&folder)?;
        let rounds = rounds?;
        let mut found: Vec<f64> = rounds.iter().map(|[without, with]| with / without).collect();
        let without = median(rounds.iter().map(|[without, _]| without / 2.0).collect());
        found.sort_unstable_by(f64::total_cmp);
        let ratio = median(found.clone()).ok_or("no rounds")?;
        let figure = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
        let row = [without, Some(ratio), found.first().copied(), found.last().copied()].map(figure);
        table.add_row(std::iter::once(name.clone()).chain(row));
        ratios.push(ratio);
    }
    let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len().max(1) as f64).exp();
    println!("{table}\n");
    let verdict = if mean <= GOAL { "reached" } else { "**not reached**" };
    println!("- with samples by without, geometric mean: {mean:.3}, must be at most {GOAL:.2}: {verdict}");
    Ok(mean <= GOAL)
}

/// Processor seconds of the rounds, without and with samples: two runs each.
fn rounds_of(
    workload: &Workload,
    place: &Place,
    rounds: usize,
) -> Result<Vec<[f64; 2]>, Box<dyn std::error::Error>> {
    prepared(workload, &Place { library: None, ..*place })?;
    // Warms the system's caches, and says what the output must be.
    let right = workload.run(place)?.0;
    let once = |configuration| {
        let (outcome, cost) = workload.run(&Place { configuration, ..*place })?;
        if outcome != right {
            return Err(format!(
                "{}: {}, or other output, with {configuration:?}",
                workload.name, outcome.status
            )
            .into());
        }
        Ok::<f64, Box<dyn std::error::Error>>(cost.processor)
    };
    (0..rounds)
        .map(|_| {
            let [first, second, third, fourth] = [once("")?, once(ON)?, once(ON)?, once("")?];
            Ok([first + fourth, second + third])
        })
        .collect()
}
