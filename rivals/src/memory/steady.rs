//! What the scavenger costs a redis server that is never idle.
//!
//! The server is run with `scavenger:off` and with `scavenger:on`, alternately, and each pair begins with the other one. A
//! run fills the server first; then the commands are measured one after the other, so that keys come and go, lists and sets
//! grow and shrink, and there is always something to give back. Figures are ratios within a pair: of the time that
//! all commands took, of the server's processor time (all threads, start and end included, so it is not
//! stretched by what else runs on the machine), and of the 99.9th percentile of a command's latency.

use std::path::Path;
use std::process::Command;

use super::{Goal, table};
use crate::allocators::Allocator;
use crate::redis::Server;
use crate::report::median;
use crate::workload::Place;

/// The most that a run with the scavenger may take of the time of one without.
const TIME: f64 = 1.015;
/// The same for the latency.
const LATENCY: f64 = 1.1;

const REQUESTS: &str = "60000";
const COMMON: &[&str] = &["-r", "50000", "-d", "100", "-P", "8", "-c", "16"];
const FILL: &str = "set,sadd,hset,zadd,lpush";
const MEASURED: &str = "set,get,lpush,rpop,sadd,hset,spop,zadd,zpopmin,mset";

/// One run of the server.
struct Run {
    seconds: f64,
    processor: f64,
    /// A figure for each command, in milliseconds.
    latencies: Vec<f64>,
}

/// Runs the pairs and prints the table.
pub(super) fn run(ours: &Allocator, folder: &Path, pairs: usize) -> Result<Vec<Goal>, String> {
    let mut runs = [Vec::new(), Vec::new()];
    for pair in 0..pairs {
        for which in [pair % 2, 1 - pair % 2] {
            let conf = ["scavenger:off", "scavenger:on"][which];
            runs[which].push(once(ours, folder, conf)?);
        }
    }
    let [off, on] = &runs;
    let ratio = |of: fn(&Run) -> f64| {
        median(off.iter().zip(on).map(|(off, on)| of(on) / of(off)).collect()).unwrap_or(f64::NAN)
    };
    let (time, processor) = (ratio(|run| run.seconds), ratio(|run| run.processor));
    let latency = latency(off, on);
    let mut table = table(["scavenger", "time, s", "processor, s", "99.9 % of requests, ms"]);
    for (name, runs) in [("off", off), ("on", on)] {
        let of = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect()).unwrap_or(f64::NAN);
        table.add_row([
            name.to_string(),
            format!("{:.3}", of(|run| run.seconds)),
            format!("{:.3}", of(|run| run.processor)),
            format!("{:.2}", of(|run| geometric(&run.latencies))),
        ]);
    }
    table.add_row([
        "on / off".to_string(),
        format!("{time:.3}"),
        format!("{processor:.3}"),
        format!("{latency:.3}"),
    ]);
    println!("redis-server, medians of {pairs} pairs\n\n{table}\n");
    Ok(vec![
        Goal::at_most("redis with the scavenger, time", time, TIME, 3),
        Goal::at_most("redis with the scavenger, processor time", processor, TIME, 3),
        Goal::at_most("redis with the scavenger, 99.9th percentile", latency, LATENCY, 3),
    ])
}

/// The geometric mean, over the commands, of the medians' ratios.
fn latency(off: &[Run], on: &[Run]) -> f64 {
    let commands = off.first().map_or(0, |run| run.latencies.len());
    let of = |runs: &[Run], command: usize| median(runs.iter().map(|run| run.latencies[command]).collect());
    let ratios = (0..commands).filter_map(|command| Some(of(on, command)? / of(off, command)?));
    geometric(&ratios.collect::<Vec<_>>())
}

fn geometric(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// A server, filled and measured.
fn once(ours: &Allocator, folder: &Path, conf: &str) -> Result<Run, String> {
    let failed = |error: std::io::Error| format!("redis with {conf}: {error}");
    let place = Place { folder, library: Some(&ours.library), configuration: "", divisor: 1 };
    let mut server = Server::start(&place, &[("SPANHEAP_CONF", conf)]).map_err(failed)?;
    if !server.answers().map_err(failed)? {
        return Err(format!("redis with {conf} does not answer"));
    }
    let benchmark = |tests: &str| -> std::io::Result<Command> {
        let mut command = server.client("redis-benchmark", COMMON)?;
        command.args(["-n", REQUESTS, "-t", tests]);
        Ok(command)
    };
    benchmark(FILL).and_then(|mut command| command.output()).map_err(failed)?;
    let output = benchmark(MEASURED).and_then(|mut command| command.output()).map_err(failed)?;
    let (status, cost) = server.stop().map_err(failed)?;
    let commands = read(&String::from_utf8_lossy(&output.stdout));
    if !status.success() || !output.status.success() || commands.len() != MEASURED.split(',').count() {
        return Err(format!("redis with {conf}: {status}, {} commands were measured", commands.len()));
    }
    let requests: f64 = REQUESTS.parse().expect("a number");
    Ok(Run {
        seconds: commands.iter().map(|command| requests / command.0).sum(),
        processor: cost.processor,
        latencies: commands.iter().map(|command| command.1).collect(),
    })
}

/// What `redis-benchmark` says about each command: requests a second, and the latency that 99.9 % do not exceed.
fn read(text: &str) -> Vec<(f64, f64)> {
    // `====== NAME ======` stands before each command.
    text.split("======").filter_map(|part| Some((rate(part)?, percentile(part)?))).collect()
}

fn rate(part: &str) -> Option<f64> {
    part.split_once("throughput summary: ")?.1.split_once(' ')?.0.parse().ok()
}

/// The first line of `99.902% <= 13.359 milliseconds (…)` whose share is as large.
fn percentile(part: &str) -> Option<f64> {
    part.lines().find_map(|line| {
        let (share, rest) = line.split_once("% <= ")?;
        let share: f64 = share.trim().parse().ok()?;
        (share >= 99.9).then(|| rest.split_once(' ')?.0.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_benchmark_says_is_read() {
        let text = " SET: rps=0.0\r    ====== SET ======\n  50000 requests completed in 0.25 seconds\n\n\
            Latency by percentile distribution:\n50.000% <= 0.367 milliseconds (cumulative count 25208)\n\
            99.805% <= 13.311 milliseconds (cumulative count 49904)\n\
            99.902% <= 13.359 milliseconds (cumulative count 49960)\n\
            100.000% <= 13.439 milliseconds (cumulative count 50000)\n\n\
            Summary:\n  throughput summary: 200803.22 requests per second\n";
        assert_eq!(read(&text.repeat(2)), [(200803.22, 13.359); 2]);
        assert_eq!(read("nothing"), []);
    }

    #[test]
    fn a_percentile_is_compared_command_by_command() {
        let run = |latencies: &[f64]| Run { seconds: 1.0, processor: 1.0, latencies: latencies.to_vec() };
        let found = latency(&[run(&[1.0, 10.0])], &[run(&[2.0, 5.0])]);
        assert!((found - 1.0).abs() < 1e-12, "{found}");
    }
}
