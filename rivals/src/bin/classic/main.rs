//! Classic allocator benchmarks: programs that do little but allocate and free.
//!
//! Every benchmark calls C's `malloc` family directly, so whichever allocator is preloaded serves it. The
//! work is fixed: the same calls in the same order for every allocator (threads interleave as they like),
//! so time and peak memory may be compared. Each block carries a tag that is checked when it is freed; an
//! allocator that hands out the same bytes twice fails instead of winning.
//!
//! `classic NAME` runs one benchmark and prints one line; `classic --list` prints the names. A second
//! argument divides the work: `classic NAME 10` does a tenth of it.
//!
//! What it does not know: allocators, time and memory. The program `rivals` measures from outside.

mod block;
mod large;
mod random;
mod single;
mod threaded;

use std::process::ExitCode;

/// One benchmark: its name, what it does, and the function that does `1 / divisor` of the work and returns
/// how many blocks it allocated.
struct Benchmark {
    name: &'static str,
    run: fn(divisor: usize) -> u64,
}

/// Every benchmark. `docs/benchmarks.md` explains each under the same name.
const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "churn-1", run: |divisor| threaded::churn(1, divisor) },
    Benchmark { name: "churn-2", run: |divisor| threaded::churn(2, divisor) },
    Benchmark { name: "random-sizes", run: single::random_sizes },
    Benchmark { name: "trees", run: single::trees },
    Benchmark { name: "batch-lifo", run: |divisor| single::batches(single::Order::LastFirst, divisor) },
    Benchmark { name: "batch-fifo", run: |divisor| single::batches(single::Order::FirstFirst, divisor) },
    Benchmark { name: "fragment", run: single::fragment },
    Benchmark { name: "calloc", run: single::zeroed },
    Benchmark { name: "aligned", run: single::aligned },
    Benchmark { name: "handoff", run: threaded::handoff },
    Benchmark { name: "exchange", run: threaded::exchange },
    Benchmark { name: "server", run: threaded::server },
    Benchmark { name: "scratch", run: threaded::scratch },
    Benchmark { name: "short-threads", run: threaded::short_threads },
    Benchmark { name: "realloc", run: large::growth },
    Benchmark { name: "large-sparse", run: |divisor| large::large(large::Touch::Sparse, divisor) },
    Benchmark { name: "large-full", run: |divisor| large::large(large::Touch::Full, divisor) },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("--list", String::as_str);
    if name == "--list" {
        for benchmark in BENCHMARKS {
            println!("{}", benchmark.name);
        }
        return ExitCode::SUCCESS;
    }
    let divisor = arguments.get(1).map_or(Ok(1), |text| text.parse::<usize>());
    let (Some(benchmark), Ok(divisor @ 1..)) = (BENCHMARKS.iter().find(|b| b.name == name), divisor) else {
        eprintln!("usage: classic NAME [DIVISOR] | classic --list");
        return ExitCode::from(2);
    };
    println!("{name}: {} blocks", (benchmark.run)(divisor));
    ExitCode::SUCCESS
}
