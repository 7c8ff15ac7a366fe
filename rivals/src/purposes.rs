//! What accounting by purpose costs: the program `purposes`, run several times.
//!
//! It does the same work with everything for one purpose and for eight, alternately, and prints a line a round.
//! A ratio is the median over the rounds of eight's time by one's in the same round; the time is the processor's,
//! for other work on the machine disturbs that least. A small heap and a larger one are looked at: eight purposes are
//! eight sets of spans, most of them partly filled, and that weighs more where there is little in them.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::Verdict;
use crate::report::median;

/// Options of `rivals purposes`.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each mode, divided among three processes
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

/// Processes, each with its own luck in the placing of memory.
const PROCESSES: usize = 3;

/// Live blocks of each of two threads, and the size of that in words.
const HEAPS: [(usize, &str); 2] = [(8_000, "11 MiB live"), (60_000, "80 MiB live")];

/// What eight purposes may take of one's time.
const GOAL: f64 = 1.02;

/// Processor seconds of the rounds, by mode.
type Samples = BTreeMap<String, Vec<f64>>;

/// Runs the program and prints the table. The verdict is whether the goal is reached.
pub(crate) fn run(options: &Options) -> Verdict {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["heap", "one purpose, s", "scopes of one / one", "eight / one", "scope, ns"]);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let mut goals = Vec::new();
    for (slots, words) in HEAPS {
        let (mut samples, mut scope) = (Samples::new(), Vec::new());
        for _ in 0..PROCESSES {
            let text = output(options.rounds.div_ceil(PROCESSES), slots)?;
            scope.extend(collect(&text, &mut samples));
        }
        let [entered, eight] = ["entered", "eight"].map(|mode| ratio(&samples, mode));
        let seconds = samples.remove("one").and_then(median);
        let figure =
            |value: Option<f64>, digits| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        table.add_row([
            words.to_string(),
            figure(seconds, 3),
            figure(entered, 3),
            figure(eight, 3),
            figure(median(scope), 1),
        ]);
        goals.push((words, eight.ok_or("the program printed no rounds")?));
    }
    println!("{table}\n");
    for (words, eight) in &goals {
        let verdict = if *eight <= GOAL { "reached" } else { "**not reached**" };
        println!("- eight purposes against one, {words}: {eight:.3}, must be at most {GOAL:.2}: {verdict}");
    }
    Ok(goals.iter().all(|(_, eight)| *eight <= GOAL))
}

/// What the program prints; it ends with the books checked.
fn output(rounds: usize, slots: usize) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("purposes");
    let mut command = Command::new(program);
    command.args([rounds.to_string(), slots.to_string()]).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() && text.ends_with("books ok\n") {
        true => Ok(text),
        false => Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

/// Reads `purposes mode=one processor=0.5 wall=0.3` into `samples`; returns what follows `scope ns=`.
fn collect(text: &str, samples: &mut Samples) -> Option<f64> {
    for line in text.lines() {
        let mut words = line.split(' ').filter_map(|word| word.split_once('='));
        if let (Some(("mode", mode)), Some(("processor", time))) = (words.next(), words.next())
            && let Ok(time) = time.parse()
        {
            samples.entry(mode.to_string()).or_default().push(time);
        }
    }
    text.lines().find_map(|line| line.strip_prefix("scope ns=")?.parse().ok())
}

/// The median over the rounds of `mode`'s time by that of `one`.
fn ratio(samples: &Samples, mode: &str) -> Option<f64> {
    let (one, other) = (samples.get("one")?, samples.get(mode)?);
    median(other.iter().zip(one).map(|(other, one)| other / one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut samples = Samples::new();
        let text = "purposes mode=one processor=1.0 wall=1\npurposes mode=eight processor=2.0 wall=9\n\
                    purposes mode=eight processor=5.0 wall=9\npurposes mode=one processor=5.0 wall=1\nscope ns=4.5\n";
        assert_eq!(collect(text, &mut samples), Some(4.5));
        assert_eq!(ratio(&samples, "eight"), Some(1.5));
        assert_eq!(ratio(&samples, "entered"), None);
    }
}
