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
