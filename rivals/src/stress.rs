//! The program `stress`, built with optimisation and given time.
//!
//! It ends in a panic when a block was overwritten, the books do not agree or `check` finds something; how far what
//! is resident is off from the books it only prints. That is judged here.

use std::process::{Command, Stdio};

use clap::Args;

use crate::Verdict;

/// Options of `rivals stress`.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds of work
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
}

/// By how much of a hundred what is resident may differ from what the books say.
const GOAL: f64 = 1.0;

/// Runs the program, shows what it prints, and judges the rest.
pub(crate) fn run(options: &Options) -> Verdict {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("stress"));
    command.arg(options.seconds.to_string()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().for_each(|line| println!("{line}"));
    if !output.status.success() {
        return Err(format!("stress: {}", output.status).into());
    }
    let off = off(&text).ok_or("the program did not say what is resident")?;
    let reached = off.abs() < GOAL;
    let verdict = if reached { "reached" } else { "**not reached**" };
    println!("- resident against the books: {off:+.2} %, must be within {GOAL} %: {verdict}");
    Ok(reached)
}

/// What follows `off by`, in percent.
fn off(text: &str) -> Option<f64> {
    text.split_once("off by ")?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_difference_is_read() {
        assert_eq!(super::off("resident: 9 MiB, by the books 10 MiB, off by -10.00 %\n"), Some(-10.0));
        assert_eq!(super::off("books ok"), None);
    }
}
