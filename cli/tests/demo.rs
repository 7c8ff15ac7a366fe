//! `spanheap demo`: the churn ends with books that balance.

mod support;

use serde_json::Value;
use support::{end, spanheap};

#[test]
fn the_tables_end_the_demonstration() {
    let ended = end(spanheap().args(["demo", "--threads", "3", "--operations", "20000"]));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stderr, "", "progress is for terminals only");
    assert!(ended.stdout.starts_with("20000 operations on 3 threads in "), "{}", ended.stdout);
    for name in ["sessions", "messages", "query-results", "cache", "span/cache"] {
        assert!(ended.stdout.contains(&format!("\n {name} ")), "{name}: {}", ended.stdout);
    }
    assert!(ended.stdout.contains("\ncheck: ok\n"), "{}", ended.stdout);
}

#[test]
fn the_books_as_json_add_up() {
    let ended = end(spanheap().args(["demo", "--threads", "2", "--seconds", "0.2", "--json"]));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let books: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(books["check"], "ok");
    let sum: i64 = books["accounts"].as_object().unwrap().values().map(|bytes| bytes.as_i64().unwrap()).sum();
    assert_eq!(sum, 0);
    for name in ["sessions", "messages", "query-results", "cache"] {
        let purpose = &books["purposes"][name];
        let [inuse, allocated, freed] =
            ["inuse", "allocated", "freed"].map(|key| purpose[key].as_u64().unwrap());
        assert!(allocated > 0, "{name}");
        assert_eq!(inuse, allocated - freed, "{name}");
    }
    let cache = &books["purposes"]["cache"];
    assert!(cache["peak"].as_u64() <= cache["limit"].as_u64(), "{cache}");
}

#[test]
fn one_thread_and_no_operations_are_enough() {
    let ended = end(spanheap().args(["demo", "--threads", "1", "--operations", "0"]));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let ended = end(spanheap().args(["demo", "--threads", "1", "--operations", "5000"]));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}

#[test]
fn senseless_options_are_refused() {
    for arguments in [["--threads", "0"], ["--seconds", "-1"], ["--seconds", "NaN"], ["--operations", "many"]]
    {
        assert_eq!(end(spanheap().arg("demo").args(arguments)).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn fibers_are_shown_with_their_stacks() {
    let ended = end(spanheap().args(["demo", "fibers", "--count", "2000"]));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("2000 fibers, each on 16.0 KiB of guarded stack"), "{}", ended.stdout);
    for name in ["fibers", "fiber-blocks", "span/fibers", "span/objects"] {
        assert!(ended.stdout.contains(&format!("\n {name} ")), "{name}: {}", ended.stdout);
    }
    assert!(ended.stdout.contains("given back at the end: "), "{}", ended.stdout);
    assert_eq!(end(spanheap().args(["demo", "fibers", "--count", "0"])).status.code(), Some(2));
}

/// A figure of a demonstration that prints JSON.
fn figures(arguments: &[&str]) -> Value {
    let ended = end(spanheap().arg("demo").args(arguments).arg("--json"));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn trees_are_counted() {
    let ended = end(spanheap().args(["demo", "trees", "--depth", "6", "--threads", "2", "--verify"]));
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
    let expected = "stretch tree of depth 7\t check: 255\n64\t trees of depth 4\t check: 1984\n\
                    16\t trees of depth 6\t check: 2032\nlong lived tree of depth 6\t check: 127\n";
    assert_eq!(ended.stdout, expected);
    let trees = figures(&["trees", "--depth", "6"]);
    assert_eq!(trees["rows"][1]["check"], 2032);
}

#[test]
fn a_graph_keeps_what_it_is_asked_to() {
    const LIVE: f64 = 8.0 * 1048576.0;
    let graph =
        figures(&["graph", "--objects", "8000", "--live", "8MiB", "--seconds", "0.3", "--threads", "2"]);
    assert!(graph["operations"].as_u64() > Some(0), "{graph}");
    let live = graph["live_bytes"].as_f64().unwrap();
    assert!((LIVE * 0.85..LIVE * 1.15).contains(&live), "{live} bytes live");
    let ended =
        end(spanheap().args(["demo", "graph", "--objects", "1000", "--live", "1MiB", "--seconds", "0"]));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    for text in ["\nwaits at safepoints:\n", " longest pause ", "\nutilisation: "] {
        assert!(ended.stdout.contains(text), "{}", ended.stdout);
    }
}

#[test]
fn a_graph_stays_below_its_limit_or_says_that_it_does_not_fit() {
    const LIMIT: u64 = 12 << 20;
    let graph = ["graph", "--objects", "8000", "--live", "8MiB", "--seconds", "0.2"];
    let held = figures(&[&graph[..], &["--limit", "12MiB"]].concat());
    assert!(held["committed_bytes"].as_u64() <= Some(LIMIT), "{held}");
    assert!(held["resident_bytes"].as_u64() <= Some(LIMIT + LIMIT / 50), "{held}");
    // Once more, by the environment.
    let mut command = spanheap();
    command.arg("demo").args(graph).env("SPANHEAP_MEMORY_LIMIT", "4MiB");
    let ended = end(&mut command);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(125), ""), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("spanheap: demo graph: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("limit of the heap 4 MiB"), "{}", ended.stderr);
}

#[test]
fn the_environment_says_how_the_collector_works_and_arguments_say_it_better() {
    let trees = |options: &str, arguments: &[&str]| {
        let mut command = spanheap();
        command.args(["demo", "trees", "--depth", "12"]).args(arguments).env("SPANHEAP_CONF", options);
        let ended = end(&mut command);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        ended
            .stderr
            .lines()
            .filter(|line| line.starts_with("spanheap: gc "))
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    assert!(trees("gc_trace:on,gc_least:256KiB", &[]).len() > 1);
    assert!(trees("gc_trace:on,gc_least:256KiB,gc_percent:off", &[]).is_empty());
    assert!(trees("gc_least:256KiB,gc_percent:off,gc_workers:0", &["--percent", "50", "--trace"]).len() > 1);
}

#[test]
fn senseless_trees_and_graphs_are_refused() {
    for arguments in [
        ["trees", "--depth", "3"],
        ["trees", "--threads", "0"],
        ["trees", "--percent", "0"],
        ["trees", "--workers", "17"],
        ["graph", "--objects", "0"],
        ["graph", "--live", "much"],
        ["graph", "--limit", "off"],
        ["graph", "--seconds", "NaN"],
    ] {
        let ended = end(spanheap().arg("demo").args(arguments));
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
        assert!(ended.stderr.contains(arguments[1]), "{}", ended.stderr);
    }
}
