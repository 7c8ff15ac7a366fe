//! Tables and JSON from samples.
//!
//! A figure is the median of its samples; a ratio is an allocator's median over the baseline's, so less is
//! better; a mean of ratios is geometric. An allocator that once failed a workload has no figure there.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::allocators::{Allocator, BASELINE, OURS};
use crate::measure::Cost;
use crate::workload::{Family, Workload};

/// What Spanheap must reach against the baseline: mean and worst of time, mean of peak memory.
const TIME_MEAN: f64 = 1.15;
const TIME_WORST: f64 = 1.5;
const PEAK_MEAN: f64 = 1.0;

/// The samples of one workload, by the allocator's index.
pub(crate) struct Row {
    name: &'static str,
    family: Family,
    /// One list an allocator; empty when it failed.
    pub(crate) samples: Vec<Vec<Cost>>,
    /// What went wrong, in words.
    pub(crate) errors: Vec<String>,
    failed: Vec<bool>,
}

impl Row {
    /// A row without samples.
    pub(crate) fn new(workload: &Workload, allocators: usize) -> Row {
        let (name, family) = (workload.name, workload.family);
        Row {
            name,
            family,
            samples: vec![vec![]; allocators],
            errors: vec![],
            failed: vec![false; allocators],
        }
    }

    /// Notes a failure of allocator `index`. Only its first is kept in words.
    pub(crate) fn fail(&mut self, index: usize, error: String) {
        if !std::mem::replace(&mut self.failed[index], true) {
            self.errors.push(error);
        }
        self.samples[index].clear();
    }

    fn median(&self, index: usize, figure: Figure) -> Option<f64> {
        if self.failed[index] { None } else { median(self.samples[index].iter().map(figure.of).collect()) }
    }

    fn ratio(&self, index: usize, baseline: usize, figure: Figure) -> Option<f64> {
        Some(self.median(index, figure)? / self.median(baseline, figure)?)
    }
}

/// One of the three figures of a run.
#[derive(Clone, Copy)]
struct Figure {
    title: &'static str,
    unit: &'static str,
    scale: f64,
    of: fn(&Cost) -> f64,
}

const WALL: Figure = Figure { title: "Wall time", unit: "s", scale: 1.0, of: |cost| cost.wall };
const PROCESSOR: Figure =
    Figure { title: "Processor time (user + system)", unit: "s", scale: 1.0, of: |cost| cost.processor };
const PEAK: Figure = Figure {
    title: "Peak resident set of the largest process",
    unit: "MiB",
    scale: 1.0 / (1024.0 * 1024.0),
    of: |cost| cost.peak,
};

/// All rows of a run.
pub(crate) struct Report {
    allocators: Vec<&'static str>,
    baseline: usize,
    rounds: usize,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report. The baseline is mimalloc, or the last allocator where mimalloc is not compared.
    pub(crate) fn new(allocators: &[Allocator], rounds: usize) -> Report {
        let allocators: Vec<_> = allocators.iter().map(|allocator| allocator.name).collect();
        let baseline = allocators.iter().position(|name| *name == BASELINE);
        let baseline = baseline.unwrap_or(allocators.len().saturating_sub(1));
        Report { allocators, baseline, rounds, rows: Vec::new() }
    }

    /// Adds a workload's samples.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Whether every run of every allocator did what it does under glibc.
    pub(crate) fn all_right(&self) -> bool {
        self.rows.iter().all(|row| row.errors.is_empty())
    }

    /// Every sample, and the medians.
    pub(crate) fn json(&self) -> String {
        let sample = |cost: &Cost| json!({ "wall_s": cost.wall, "processor_s": cost.processor, "peak_bytes": cost.peak });
        let rows = self.rows.iter().map(|row| {
            let runs = self.allocators.iter().zip(&row.samples);
            let runs: serde_json::Map<_, _> = runs
                .map(|(name, samples)| (name.to_string(), samples.iter().map(sample).collect()))
                .collect();
            json!({ "workload": row.name, "family": family(row.family), "errors": row.errors, "samples": runs })
        });
        let rows: Vec<Value> = rows.collect();
        let report = json!({ "rounds": self.rounds, "baseline": self.allocators.get(self.baseline), "workloads": rows });
        serde_json::to_string_pretty(&report).expect("plain values can be written")
    }

    fn table(&self, figure: Figure) -> Table {
        let baseline = self.allocators[self.baseline];
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        let mut head = vec!["workload".to_string(), format!("{baseline}, {}", figure.unit)];
        head.extend(self.others().map(|index| self.allocators[index].to_string()));
        table.set_header(head);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in &self.rows {
            let absolute = row.median(self.baseline, figure).map(|value| value * figure.scale);
            let ratios = self.others().map(|index| row.ratio(index, self.baseline, figure));
            let cells = std::iter::once(absolute).chain(ratios).map(|cell| number(cell, row));
            table.add_row(std::iter::once(row.name.to_string()).chain(cells));
        }
        for (name, kept) in
            [("programs", Some(Family::Program)), ("classic", Some(Family::Classic)), ("all", None)]
        {
            let means =
                self.others().map(|index| mean(self.ratios(index, kept, figure).map(|(_, ratio)| ratio)));
            let means = means.map(|mean| mean.map_or("-".into(), |mean| format!("**{mean:.2}**")));
            let head = [format!("**geometric mean, {name}**"), String::new()];
            table.add_row(head.into_iter().chain(means));
        }
        let worst = self.others().map(|index| {
            let worst = self.ratios(index, None, figure).max_by(|a, b| a.1.total_cmp(&b.1));
            worst.map_or("-".into(), |(name, ratio)| format!("{ratio:.2} {name}"))
        });
        table.add_row(["worst".to_string(), String::new()].into_iter().chain(worst));
        table
    }

    /// The allocators beside the baseline.
    fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.allocators.len()).filter(|index| *index != self.baseline)
    }

    fn ratios(
        &self,
        index: usize,
        kept: Option<Family>,
        figure: Figure,
    ) -> impl Iterator<Item = (&'static str, f64)> {
        let rows = self.rows.iter().filter(move |row| kept.is_none_or(|kept| kept == row.family));
        rows.filter_map(move |row| Some((row.name, row.ratio(index, self.baseline, figure)?)))
    }

    /// One line a goal: what Spanheap reached and what it must.
    fn goals(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Some(ours) = self.allocators.iter().position(|name| *name == OURS) else { return Ok(()) };
        if self.allocators[self.baseline] != BASELINE {
            return Ok(());
        }
        let mut line = |what: &str, reached: Option<f64>, goal: f64| match reached {
            Some(reached) => {
                let verdict = if reached <= goal { "reached" } else { "**not reached**" };
                writeln!(f, "- {what}: {reached:.3}, must be at most {goal:.2}: {verdict}")
            }
            None => Ok(()),
        };
        let all = |figure| self.ratios(ours, None, figure).map(|(_, ratio)| ratio);
        line("wall time, geometric mean", mean(all(WALL)), TIME_MEAN)?;
        line("wall time, worst", all(WALL).max_by(f64::total_cmp), TIME_WORST)?;
        line("processor time, geometric mean", mean(all(PROCESSOR)), TIME_MEAN)?;
        line("processor time, worst", all(PROCESSOR).max_by(f64::total_cmp), TIME_WORST)?;
        line("peak resident set, geometric mean", mean(all(PEAK)), PEAK_MEAN)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.allocators.is_empty() || self.rows.is_empty() {
            return write!(f, "nothing was measured");
        }
        let baseline = self.allocators[self.baseline];
        writeln!(f, "Medians of {} rounds, as ratios to {baseline}; less is better.\n", self.rounds)?;
        for figure in [WALL, PROCESSOR, PEAK] {
            writeln!(f, "### {}\n\n{}\n", figure.title, self.table(figure))?;
        }
        for error in self.rows.iter().flat_map(|row| &row.errors) {
            writeln!(f, "- ERROR: {error}")?;
        }
        self.goals(f)
    }
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Program => "program",
        Family::Classic => "classic",
    }
}

fn number(value: Option<f64>, row: &Row) -> String {
    match value {
        Some(value) => format!("{value:.2}"),
        None if row.errors.is_empty() => "-".into(),
        None => "ERROR".into(),
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The geometric mean, if there is anything.
pub(crate) fn mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = ratios.fold((0.0, 0), |(sum, count), ratio| (sum + ratio.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_takes_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn mean_is_geometric() {
        assert_eq!(mean([].into_iter()), None);
        let found = mean([0.5, 2.0, 8.0].into_iter()).unwrap();
        assert!((found - 2.0).abs() < 1e-12, "{found}");
    }

    #[test]
    fn a_failure_removes_the_figure() {
        let workload = crate::classic::list().next().unwrap();
        let mut row = Row::new(&workload, 2);
        let cost = Cost { wall: 2.0, processor: 1.0, peak: 4096.0 };
        row.samples[0].push(cost);
        row.samples[1].push(Cost { wall: 1.0, ..cost });
        assert_eq!(row.ratio(0, 1, WALL), Some(2.0));
        row.fail(0, "once".into());
        row.fail(0, "twice".into());
        row.samples[0].push(cost);
        assert_eq!(row.ratio(0, 1, WALL), None);
        assert_eq!(row.errors, ["once"]);
    }
}
