//! `spanheap run` with the real library: that the two keep the same contract.

mod support;

use serde_json::Value;
use support::{Ended, end, library, spanheap};

fn run(arguments: &[&str]) -> Ended {
    end(spanheap().env("SPANHEAP_LIB", library()).arg("run").args(arguments))
}

#[test]
fn the_books_of_a_program_are_complete_and_balance() {
    let ended = run(&["--quiet", "--stats", "-", "--", "bash", "-c", "exit 3"]);
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(3), ""));
    let books: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(books["check"], "ok");
    let accounts = books["accounts"].as_object().unwrap();
    assert_eq!(accounts.values().map(|bytes| bytes.as_i64().unwrap()).sum::<i64>(), 0);
    let blocks = &books["purposes"]["blocks"];
    for key in ["inuse", "spans", "peak", "allocated"] {
        assert!(blocks[key].as_u64().unwrap() > 0, "{key}");
    }
    assert!(blocks["limit"].is_null());
    assert!(books["go"]["Sys"].as_u64().unwrap() > 0);
    assert!(books["resident"]["heap"].as_u64().unwrap() > 0);
    for name in books["resident"]["by_account"].as_object().unwrap().keys() {
        assert!(accounts.contains_key(name), "{name} is resident and no account");
    }
}

#[test]
fn the_table_shows_the_books_of_the_program() {
    let ended = run(&["--", "bash", "-c", "echo $BASHPID"]);
    let heading = format!("spanheap: books of pid {} (bash) at exit\n", ended.stdout.trim());
    assert!(ended.stderr.starts_with(&heading), "{}", ended.stderr);
    assert!(ended.stderr.contains("\n blocks ") && ended.stderr.ends_with("check: ok\n"), "{}", ended.stderr);
}

#[test]
fn the_limit_reaches_the_library() {
    let script = "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let ended = run(&["--quiet", "--", "bash", "-c", script]);
    assert_eq!(ended.stdout, "30000000\n", "{}", ended.stderr);
    let ended = run(&["--quiet", "--limit", "16MiB", "--", "bash", "-c", script]);
    assert_eq!(ended.stdout, "", "{}", ended.stderr);
    assert_ne!(ended.status.code(), Some(0));
}

#[test]
fn what_the_program_started_may_outlive_it_in_silence() {
    // The pipe keeps our end open until the last process that writes to it is gone.
    let ended = run(&["--quiet", "--", "bash", "-c", "bash -c 'sleep 0.5; exit 0' & exit 0"]);
    assert_eq!((ended.status.code(), ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "", ""));
}
