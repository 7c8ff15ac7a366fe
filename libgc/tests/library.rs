//! The library in the place of Debian's: small C programs for every family of calls, compiled against Debian's headers,
//! run on both with equal results; and the tables of symbols in docs/libgc.md against what the library exports and what
//! the headers declare.
//!
//! The library that is tested is built in the profile of the test: with its assertions in debug. Where there is no
//! compiler, no header or no library to compare with, the test says so and passes.

use std::collections::{BTreeMap, BTreeSet};
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

/// Whether a file of `c/` can be compiled here; says so if not.
fn can_compile(compiler: &str, source: &str) -> bool {
    let can = runs(Command::new(compiler).arg("--version")).is_some() && Path::new(HEADER).exists();
    if !can {
        eprintln!("skipped: {source} needs {compiler} and {HEADER} (apt-get install gcc g++ libgc-dev)");
    }
    can
}

/// A file of `c/`.
fn path(source: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(source)
}

/// Compiles a program of `c/`; `None` where that is not possible here.
fn compile(source: &str) -> Option<PathBuf> {
    let compiler = if source.ends_with(".c") { "gcc" } else { "g++" };
    if !can_compile(compiler, source) {
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.replace('.', "-"));
    let done = Command::new(compiler)
        .args(["-O1", "-Wall", "-Werror", "-Wno-deprecated-declarations", "-o"])
        .arg(&program)
        .arg(path(source))
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

/// The same results on Debian's library and on ours, also with many more collections, each of which is verified, with
/// dead objects overwritten and the heap proved at exit.
fn compare(source: &str) {
    compare_with_collections(source, 1000);
}

/// The same, for programs that allocate much: with a collection at every so many allocations.
fn compare_with_collections(source: &str, every: usize) {
    let Some(program) = compile(source) else { return };
    let theirs = run(&program, None, &[]);
    assert!(!theirs.is_empty(), "{source} says something");
    assert_eq!(run(&program, Some(directory()), &[]), theirs, "{source}");
    let every = every.to_string();
    let stress = [
        ("SPANHEAP_GC_STRESS", every.as_str()),
        ("GC_MARKERS", "3"),
        ("SPANHEAP_CONF", "gc_verify:on,gc_poison:on"),
    ];
    assert_eq!(run(&program, Some(directory()), &stress), theirs, "{source} with many collections");
}

#[test]
fn objects_are_what_c_expects() {
    compare("objects.c");
}

#[test]
fn what_is_reachable_stays() {
    compare_with_collections("reach.c", 20_000);
}

#[test]
fn finalizers_and_links_are_decided_alike() {
    compare("finalizers.c");
}

#[test]
fn threads_and_forks_go_on() {
    compare_with_collections("threads.c", 20_000);
}

#[test]
fn programs_mark_their_own_kinds() {
    compare_with_collections("kinds.c", 5_000);
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

#[test]
fn allocation_of_every_form() {
    compare("families.c");
}

#[test]
fn calls_for_debugging_do_what_the_others_do() {
    compare("debug.c");
}

#[test]
fn settings_are_kept_and_begin_alike() {
    compare("settings.c");
}

#[test]
fn figures_fit_each_other() {
    compare("statistics.c");
}

#[test]
fn links_and_finalizers_of_every_order() {
    compare("links.c");
}

#[test]
fn references_toggle() {
    compare("toggle.c");
}

#[test]
fn programs_are_told_of_collections_and_refuse_them() {
    compare("events.c");
}

#[test]
fn typed_objects_hold_what_their_descriptors_say() {
    compare("typed.c");
}

#[test]
fn blocked_threads_are_called_back() {
    compare("blocking.c");
}

#[test]
fn roots_by_hand_and_kinds() {
    compare("roots.c");
}

/// The table's rows: each symbol, and whether it is there.
fn table() -> BTreeMap<String, bool> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/libgc.md");
    let text = fs::read_to_string(file).expect("docs/libgc.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (symbol, rest) = row.split_once("` | ").expect("| `symbol` | state | what it does |");
        let state = rest.split(" | ").next().expect("a state");
        assert!(["done", "hint", "left out"].contains(&state), "{symbol}: {state}");
        (symbol.into(), state != "left out")
    })
    .collect()
}

#[test]
fn the_table_says_what_is_exported() {
    let library = directory().join("libgc.so.1");
    let Some(output) = runs(Command::new("nm").args(["--dynamic", "--defined-only"]).arg(library)) else {
        eprintln!("skipped: nm does not run (apt-get install binutils)");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.split_whitespace().last());
    let exported: BTreeSet<&str> = names.filter(|name| name.starts_with("GC_")).collect();
    let table = table();
    let promised: BTreeSet<&str> =
        table.iter().filter_map(|(name, is_there)| is_there.then_some(name.as_str())).collect();
    let missing: Vec<_> = exported.difference(&promised).collect();
    let extra: Vec<_> = promised.difference(&exported).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "not in docs/libgc.md: {missing:?}; only there: {extra:?}"
    );
}

#[test]
fn the_table_has_all_that_the_headers_declare() {
    if !can_compile("gcc", "headers.h") {
        return;
    }
    let read = Command::new("gcc").args(["-E", "-P"]).arg(path("headers.h")).output().expect("gcc runs");
    assert!(read.status.success(), "headers.h: {}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).expect("headers are text");
    let table = table();
    let mut missing = Vec::new();
    // A declaration begins with `extern`; the first name of the collector's that no other one follows without `(` is it.
    for declaration in text.split(';').filter(|text| text.trim_start().starts_with("extern")) {
        let declared = symbol_of(declaration);
        missing.extend(declared.filter(|name| !table.contains_key(*name)));
    }
    assert_eq!(missing, Vec::<&str>::new(), "declared, and not in docs/libgc.md");
    assert!(table.len() > 250, "the table is read");
}

/// The symbol that a declaration declares, if it is the collector's: types end in `_proc`, `_func` and the like and stand
/// before it, so it is the last name before its parameters.
fn symbol_of(declaration: &str) -> Option<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = declaration.match_indices("GC_").filter(|(at, _)| !declaration[..*at].ends_with(is_name));
    let names = words.map(|(at, _)| {
        let text = &declaration[at..];
        let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
        (&text[..end], text[end..].trim_start())
    });
    let mut last = None;
    for (name, rest) in names {
        last = Some(name);
        // A function, an array or the end: what follows are parameters.
        if rest.starts_with(['(', ')', '[']) || rest.is_empty() {
            break;
        }
    }
    last
}

/// Marks while the program runs, at every chance, and looks whether nothing was missed.
const BESIDE: (&str, &str) = ("SPANHEAP_CONF", "concurrent:on,gc_verify:on,gc_poison:on");

/// A file for the library's log; it is not there yet.
fn log_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    path.to_str().expect("a path of letters").to_owned()
}

#[test]
fn no_object_is_lost_while_the_program_runs() {
    let Some(program) = compile("mutate.c") else { return };
    let theirs = run(&program, None, &[]);
    let log = log_file("mutate.log");
    let prints = [BESIDE, ("GC_PRINT_STATS", "1"), ("GC_LOG_FILE", log.as_str())];
    assert_eq!(run(&program, Some(directory()), &prints), theirs);
    let said = fs::read_to_string(log).expect("the log is written");
    let is_refused = said.contains("cannot be watched");
    assert!(is_refused || said.contains("marked beside the program"), "{said}");
    assert_eq!(run(&program, Some(directory()), &[BESIDE, ("SPANHEAP_GC_STRESS", "2000")]), theirs);
}

#[test]
fn where_nothing_can_be_watched_the_world_is_stopped() {
    let Some(program) = compile("refused.c") else { return };
    let log = log_file("refused.log");
    let said = run(&program, Some(directory()), &[BESIDE, ("GC_LOG_FILE", log.as_str())]);
    assert_eq!(said, run(&program, None, &[]));
    let said = fs::read_to_string(log).expect("the log is written");
    assert_eq!(said.lines().count(), 1, "it is said once: {said}");
    assert!(said.contains("written pages cannot be watched here"), "{said}");
}

#[test]
fn kinds_roots_and_forks_beside_the_program() {
    for source in ["kinds.c", "pushing.c", "threads.c", "typed.c", "reach.c"] {
        let Some(program) = compile(source) else { return };
        let theirs = run(&program, None, &[]);
        let stress = ("SPANHEAP_GC_STRESS", "2000");
        assert_eq!(run(&program, Some(directory()), &[BESIDE, stress]), theirs, "{source}");
    }
}
