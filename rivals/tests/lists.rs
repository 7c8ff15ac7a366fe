//! The two programs of this member agree on the classic benchmarks, and every one of them runs.

use std::process::Command;

fn classic(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_classic")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn names_agree() {
    let listed = Command::new(env!("CARGO_BIN_EXE_rivals")).arg("list").output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let names: Vec<_> = listed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let offered = classic(&["--list"]);
    let offered: Vec<_> = offered.lines().collect();
    assert!(names.ends_with(&offered), "{names:?} does not end with {offered:?}");
}

#[test]
fn every_benchmark_is_explained() {
    let text = include_str!("../../docs/benchmarks.md");
    let listed = Command::new(env!("CARGO_BIN_EXE_rivals")).arg("list").output().unwrap().stdout;
    for line in String::from_utf8(listed).unwrap().lines() {
        let name = line.split(' ').next().unwrap();
        assert!(text.contains(&format!("| `{name}` |")), "docs/benchmarks.md does not explain {name}");
    }
}

#[test]
fn every_benchmark_runs() {
    for name in classic(&["--list"]).lines() {
        let line = classic(&[name, "100"]);
        assert!(line.starts_with(&format!("{name}: ")), "{line}");
    }
}
