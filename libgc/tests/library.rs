//! The library in the place of Debian's: small C programs for every family of calls, compiled against Debian's headers,
//! run on both with equal results; and the table of symbols in the documentation against what the library exports.
//!
//! The library that is tested is built in the profile of the test: with its assertions in debug. Where there is no
//! compiler, no header or no library to compare with, the test says so and passes.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Where Debian's headers are.
const HEADER: &str = "/usr/include/gc/gc.h";

/// A directory that holds the library under the name that programs ask for. Built once.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // target/<profile>/deps/<this test>
        let test = env::current_exe().expect("the test's own path");
        let built = test.ancestors().nth(2).expect("target/<profile>");
        let profile = match built.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(name) => name,
            None => "dev",
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "spanheap-libgc", "--profile", profile, "--target-dir"])
            .arg(built.parent().expect("target"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("CARGO_BUILD_TARGET")
            .status();
        assert!(status.expect("cargo runs").success(), "the library is built");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libgc");
        fs::create_dir_all(&directory).expect("a directory for the link");
        let link = directory.join("libgc.so.1");
        let _ = fs::remove_file(&link);
        symlink(built.join("libspanheap_gc.so"), &link).expect("a link to the library");
        directory
    })
}

fn runs(command: &mut Command) -> Option<Output> {
    command.output().ok().filter(|output| output.status.success())
}

/// Compiles a program of `c/`; `None` where that is not possible here, which is said.
fn compile(source: &str) -> Option<PathBuf> {
    let compiler = if source.ends_with(".c") { "gcc" } else { "g++" };
    if runs(Command::new(compiler).arg("--version")).is_none() || !Path::new(HEADER).exists() {
        eprintln!("skipped: {source} needs {compiler} and {HEADER} (apt-get install gcc g++ libgc-dev)");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.replace('.', "-"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(source);
    let done = Command::new(compiler)
        .args(["-O1", "-o"])
        .arg(&program)
        .arg(path)
        .args(["-lgc", "-lpthread"])
        .output();
    let done = done.expect("the compiler runs");
    assert!(done.status.success(), "{source}: {}", String::from_utf8_lossy(&done.stderr));
    Some(program)
}

/// Runs a program on a library; what it wrote.
fn run(program: &Path, library: Option<&Path>, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new("timeout");
    command.arg("60").arg(program).envs(variables.iter().copied()).env_remove("LD_LIBRARY_PATH");
    if let Some(library) = library {
        command.env("LD_LIBRARY_PATH", library);
    }
    let output = command.output().expect("timeout runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {}\n{text}{errors}", program.display(), output.status);
    text.into_owned()
}

/// The same results on Debian's library and on ours, also with many more collections.
fn compare(source: &str) {
    let Some(program) = compile(source) else { return };
    let theirs = run(&program, None, &[]);
    assert_eq!(run(&program, Some(directory()), &[]), theirs, "{source}");
    let stress = [("SPANHEAP_GC_STRESS", "500"), ("GC_MARKERS", "3")];
    assert_eq!(run(&program, Some(directory()), &stress), theirs, "{source} with many collections");
}

#[test]
fn objects_are_what_c_expects() {
    compare("objects.c");
}

#[test]
fn what_is_reachable_stays() {
    compare("reach.c");
}

#[test]
fn finalizers_and_links_are_decided_alike() {
    compare("finalizers.c");
}

#[test]
fn threads_and_forks_go_on() {
    compare("threads.c");
}

#[test]
fn programs_mark_their_own_kinds() {
    compare("kinds.c");
}

#[test]
fn programs_push_roots() {
    compare("pushing.c");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "in debug builds nothing is thrown through functions of Rust's")]
fn no_memory_can_be_an_exception() {
    compare("toomuch.cpp");
}

/// The names in the first column of the documentation's tables.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/libgc.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `GC_"));
    let cells = rows.map(|row| row.split(" | ").next().unwrap_or(""));
    cells
        .flat_map(|cell| {
            cell.split(", ").map(|name| name.trim_matches('`').trim_end_matches(" |").to_owned())
        })
        .map(|name| name.trim_start_matches("GC_").trim_end_matches('`').to_owned())
        .collect()
}

#[test]
fn the_documentation_has_every_symbol_and_no_other() {
    let library = directory().join("libgc.so.1");
    let Some(output) = runs(Command::new("nm").args(["--dynamic", "--defined-only"]).arg(library)) else {
        eprintln!("skipped: nm does not run (apt-get install binutils)");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let exported: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.strip_prefix("GC_"))
        .map(str::to_owned)
        .collect();
    let documented = documented();
    assert!(exported.len() > 100, "{exported:?}");
    let (missing, extra): (Vec<_>, Vec<_>) =
        (exported.difference(&documented).collect(), documented.difference(&exported).collect());
    assert!(
        missing.is_empty() && extra.is_empty(),
        "not in docs/libgc.md: {missing:?}; only there: {extra:?}"
    );
}
