//! `spanheap replay` against the real page allocator.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use support::{Ended, end, scratch, spanheap};

fn replay(files: &[&Path]) -> Ended {
    end(spanheap().arg("replay").args(files))
}

/// A recorded trace of the repository.
fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces").join(name)
}

/// A trace with this text.
fn written(name: &str, text: &str) -> PathBuf {
    let file = scratch().join(name);
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn every_recorded_answer_agrees() {
    for name in ["exhausted", "far", "holes", "plain-large", "plain-small", "scavenged"] {
        let file = recorded(&format!("{name}.trace"));
        let answers = fs::read_to_string(&file).unwrap().matches('=').count();
        let ended = replay(&[&file]);
        assert_eq!(ended.status.code(), Some(0), "{name}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.stdout, format!("{}: {answers} of {answers} answers agree\n", file.display()));
    }
}

#[test]
fn a_changed_answer_is_found_with_its_line() {
    let text = fs::read_to_string(recorded("plain-small.trace")).unwrap();
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    let changed = lines.iter().position(|line| line.starts_with("a 24 = 20 21")).unwrap();
    lines[changed] = "a 24 = 21 21".into();
    let file = written("changed.trace", &lines.join("\n"));
    let ended = replay(&[&file]);
    assert_eq!(ended.status.code(), Some(1));
    let expected = format!("line {}, `a 24`: expected 21 21, got 20 21", changed + 1);
    assert!(ended.stdout.contains(&expected), "{}", ended.stdout);
    assert!(ended.stdout.contains("answers agree"), "{}", ended.stdout);
}

#[test]
fn differences_of_every_kind_of_request_are_found() {
    let cases = [
        ("a 1 = -", "expected -, got 0 0"),
        ("a 513 = 0 0", "expected 0 0, got -"),
        ("c = 0 ffffffffffffffff 1", "expected 0 ffffffffffffffff 1, got 0 ffffffffffffffff 0"),
        ("c = 0 ffffffffffffffff 0\np 0 2 = 1 0", "line 3, `p 0 2`: expected 1 0, got 0 0"),
        ("c = -", "expected -, got 0 ffffffffffffffff 0"),
    ];
    for (operation, expected) in cases {
        let ended = replay(&[&written("different.trace", &format!("chunks 0\n{operation}\n"))]);
        assert_eq!(ended.status.code(), Some(1), "{operation}");
        assert!(ended.stdout.contains(expected), "{operation}: {}", ended.stdout);
    }
}

#[test]
fn a_missing_or_malformed_file_is_told_with_its_line() {
    let ended = replay(&[Path::new("/no/such.trace")]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(2), ""));
    assert!(ended.stderr.contains("/no/such.trace"), "{}", ended.stderr);
    let cases = [
        ("chunks 0\na 1 = 0 0\nfrobnicate\n", "line 3: unknown operation `frobnicate`"),
        ("chunks 0\na 1 = 0 0\nf 0 2\n", "line 3: `f 0 2` frees page 1, which is not in use"),
        ("chunks 0\nf 600 2\n", "line 2: the pages 600 to 601 lie outside the chunks"),
        ("", "line 1: the trace ends without a `chunks` line"),
    ];
    for (text, expected) in cases {
        let ended = replay(&[&written("malformed.trace", text)]);
        assert_eq!(ended.status.code(), Some(2), "{text:?}");
        assert!(ended.stderr.contains(expected), "{text:?}: {}", ended.stderr);
    }
    assert_eq!(replay(&[]).status.code(), Some(2));
}

#[test]
fn one_bad_file_does_not_keep_the_others_from_being_replayed() {
    let (good, bad) = (recorded("plain-small.trace"), written("bad.trace", "nonsense\n"));
    let ended = replay(&[&bad, &good]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stdout.contains("plain-small.trace: "), "{}", ended.stdout);
}

#[test]
fn a_far_chunk_and_the_largest_request_are_no_trouble() {
    let text =
        "chunks 0 4194303\na 18446744073709551615 = -\na 512 = 0 0\na 512 = 2147483136 0\nc = -\na 1 = -\n";
    let ended = replay(&[&written("far-away.trace", text)]);
    assert_eq!(ended.status.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
}
