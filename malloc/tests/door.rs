//! The C door under C and C++ programs, one program a family of promises.
//!
//! Each program in `c/` prints what it found and checks itself. It is run twice,
//! on the C library's own allocator and on ours, and must print the same lines
//! and return 0 both times: a program that asks for too much fails on the C
//! library, and is the one to be mended. Under ours the books of every process
//! must balance as well ([`kit`]).
//!
//! Misuse, limits and configuration are ours alone; those tests say what they
//! expect.

mod kit;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use kit::{Door, Ran, Run, door, same};

/// Where the programs' sources are.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name)
}

/// Compiles a source of `c/` into a program, or with `-shared` into a library; once.
fn compiled_with(name: &'static str, flags: &[&str]) -> PathBuf {
    static PROGRAMS: Mutex<BTreeMap<&str, Arc<OnceLock<PathBuf>>>> = Mutex::new(BTreeMap::new());
    let program = PROGRAMS.lock().expect("no test panics here").entry(name).or_default().clone();
    program.get_or_init(|| compile(name, flags)).clone()
}

/// Compiles it under a name of this process's own and then renames it, as another process may do the same.
fn compile(name: &str, flags: &[&str]) -> PathBuf {
    let compiler = if name.ends_with(".cc") { "g++" } else { "gcc" };
    let (stem, _) = name.split_once('.').expect("a source's name");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    fs::create_dir_all(&dir).expect("a directory under target/tmp");
    let (program, unfinished) = (dir.join(stem), dir.join(format!("{stem}.{}", std::process::id())));
    let output = Command::new(compiler)
        .args(["-O1", "-g", "-fno-builtin", "-pthread", "-Wall", "-Wextra", "-Werror"])
        .args(flags)
        .arg("-o")
        .arg(&unfinished)
        .arg(source(name))
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}; the tests need `apt-get install gcc g++`"));
    assert!(output.status.success(), "{name}:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, &program).expect("the program's name");
    program
}

fn compiled(name: &'static str) -> PathBuf {
    compiled_with(name, &[])
}

fn library(name: &'static str) -> PathBuf {
    compiled_with(name, &["-shared", "-fPIC", "-fno-gnu-unique"])
}

/// Runs the program with and without the door; it must do the same and succeed.
fn both(program: &Path, arguments: &[&str]) {
    let what = format!("{} {}", program.file_name().expect("a name").display(), arguments.join(" "));
    let plain = Run::new(program).args(arguments).run().succeeded(&format!("{what}, without the door"));
    let Some(door) = door() else { return };
    let under = Run::new(program).args(arguments).through(door).run();
    same(&what, &plain, &under);
    under.succeeded(&what).kept_books(&what, door).done();
    plain.done();
}

/// Declares one test for each run of a program that is the same with and
/// without the door.
macro_rules! same_with_and_without {
    ($($(#[$about:meta])* $test:ident: $source:literal $($argument:literal)*;)*) => {
        $($(#[$about])*
        #[test]
        fn $test() {
            both(&compiled($source), &[$($argument),*]);
        })*
    };
}

same_with_and_without! {
    contract: "contract.c";
    alignment: "alignment.c";
    zero: "zero.c";
    contents: "contents.c";
    stale: "stale.c";
    report: "report.c";
    threads_1: "threads.c" "1";
    threads_2: "threads.c" "2";
    threads_8: "threads.c" "8";
    threads_64: "threads.c" "64";
    handover: "handover.c";
    thread_end: "thread_end.c";
    thread_local: "thread_local.cc";
    many_threads: "many_threads.c";
    orphans: "orphans.c";
    small_stack: "small_stack.c";
    thread_stacks_off: "thread_stacks.c";
    main_ends: "main_ends.c";
    exit_busy: "exit_busy.c";
    fork_single: "fork.c" "single";
    fork_threads: "fork.c" "threads";
    fork_handlers: "fork.c" "handlers";
    fork_spawn: "fork.c" "spawn";
    early: "early.c";
    signals: "signals.c";
    signal_owner: "signal_owner.c";
    cxx: "cxx.cc";
    address_space_runs_out: "limit.c" "process";
    cleared_environment: "surroundings.c" "clearenv";
    closed_descriptors: "surroundings.c" "closed";
    descriptors_used_up: "surroundings.c" "busy-descriptors";
    locked_memory: "surroundings.c" "locked";
}

#[test]
fn dlopen() {
    let (plugin, deep) = (library("plugin.cc"), library("plugin_deep.c"));
    let paths = [&plugin, &deep].map(|path| path.to_str().expect("a UTF-8 path"));
    both(&compiled("dlopen.c"), &paths);
}

/// A second preloaded library that allocates in its constructor, once before
/// the door in the list and once after it.
#[test]
fn early_beside_another_library() {
    let (program, other) = (compiled("early.c"), library("early_library.c"));
    let plain = Run::new(&program).preload(&other).run().succeeded("early, without the door");
    let Some(door) = door() else { return };
    let before = Run::new(&program).through(door).preload(&other).run();
    same("another library before the door", &plain, &before);
    before.kept_books("another library before the door", door).done();
    let after = Run::new(&program).preload(&other).through(door).run();
    same("another library after the door", &plain, &after);
    after.kept_books("another library after the door", door).done();
    plain.done();
}

/// What dead threads left goes back to the system once it is freed.
#[test]
fn orphans_memory_returns() {
    let program = compiled("orphans.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    let ran = Run::new(&program).args(["returned"]).through(door).run();
    ran.succeeded("orphans returned").kept_books("orphans returned", door).done();
}

/// Where no file can be opened there are no books, and nothing else is amiss.
#[test]
fn empty_root() {
    let program = compiled("surroundings.c");
    let plain = Run::new(&program).args(["chroot"]).run().succeeded("chroot, without the door");
    let Some(door) = door() else { return };
    let under = Run::new(&program).args(["chroot"]).through(door).run();
    same("chroot", &plain, &under);
    under.done();
}

/// Every name of glibc's set is ours, so that no block of one allocator comes
/// to the other.
#[test]
fn every_name_is_exported() {
    let Some(door @ Door::Ours(_)) = door() else { return };
    let ran = Run::new(compiled("interposed.c")).through(door).run().succeeded("interposed");
    for line in ran.shown_stdout().lines() {
        let (name, from) = line.split_once(' ').expect("name and library");
        assert_eq!(from, "libspanheap_malloc.so", "{name}");
    }
    assert_eq!(ran.shown_stdout().lines().count(), 18);
    ran.done();
}

// --- Misuse ----------------------------------------------------------------

/// Runs one case of `misuse.c`; it must print its address and be aborted.
fn misused(program: &Path, case: &str, door: Door) -> (String, Ran) {
    let ran = Run::new(program).args([case]).through(door).run();
    assert_eq!(ran.status.signal(), Some(6), "misuse {case}: {}\n{}", ran.shown_stdout(), ran.stderr);
    let address = ran.shown_stdout().trim().to_owned();
    assert!(address.starts_with("0x"), "misuse {case}: {address}");
    (address, ran)
}

/// The misuse must be told with the address and all of `words`, in one message.
fn reported(cases: &[&str], words: &[&str]) {
    let program = compiled("misuse.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    for case in cases {
        let (address, ran) = misused(&program, case, door);
        let message = ran.stderr.to_lowercase();
        assert!(message.contains(&address), "misuse {case}: {address} in {:?}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "misuse {case}: {:?}", ran.stderr);
        for word in words {
            assert!(message.contains(word), "misuse {case}: {word:?} in {:?}", ran.stderr);
        }
        ran.done();
    }
}

#[test]
fn misuse_double_free() {
    let small = ["double-small", "double-only", "double-later", "double-aligned"];
    reported(&small, &["double free", "span", "purpose"]);
    // The span of a large block may be gone by the second free.
    reported(&["double-large"], &["free"]);
}

#[test]
fn misuse_double_free_across_threads() {
    let cases = ["double-remote", "double-both-remote", "double-then-remote"];
    reported(&cases, &["double free", "span", "purpose"]);
}

#[test]
fn misuse_interior() {
    let cases = ["interior-small", "interior-large", "interior-page", "misaligned"];
    reported(&cases, &["span", "purpose"]);
}

#[test]
fn misuse_foreign() {
    reported(&["stack", "static", "first-call", "wild", "low", "non-canonical"], &["free"]);
}

#[test]
fn misuse_by_realloc() {
    reported(&["realloc-freed", "realloc-interior"], &["span", "purpose"]);
    reported(&["realloc-freed-large", "realloc-foreign"], &["realloc"]);
}

#[test]
fn misuse_ends_the_process_whatever_it_does_about_it() {
    reported(&["handler-returns", "blocked"], &["double free"]);
    let Some(door @ Door::Ours(_)) = door() else { return };
    misused(&compiled("misuse.c"), "closed", door).1.done();
}

// --- Configuration ---------------------------------------------------------

#[test]
fn limit_from_the_environment() {
    let program = compiled("limit.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    for (limit, mib) in [("64MiB", "64"), ("200MiB", "200"), ("134217728", "128")] {
        let what = format!("a limit of {limit}");
        let run = Run::new(&program).args(["heap", mib]).through(door).env("SPANHEAP_MEMORY_LIMIT", limit);
        let ran = run.run().succeeded(&what).kept_books(&what, door);
        assert_eq!(ran.stderr, "", "{what}");
        ran.done();
    }
}

/// The scavenger's thread comes by itself, is gone in a child, and comes again there.
#[test]
fn memory_goes_back_in_parent_and_child() {
    let program = compiled("scavenger.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    for mode in ["eager", "off"] {
        let what = format!("scavenger:{mode}");
        let run = Run::new(&program).args([mode]).through(door).env("SPANHEAP_CONF", &what);
        run.run().succeeded(&what).kept_books(&what, door).done();
    }
}

/// Threads of every sort, on stacks of the heap.
#[test]
fn thread_stacks_on() {
    let Some(door) = door() else { return };
    let program = compiled("thread_stacks.c");
    let plain = Run::new(&program).run().succeeded("thread_stacks, without the door");
    for _ in 0..3 {
        let run = Run::new(&program).through(door).env("SPANHEAP_CONF", "thread_stacks:on");
        let ran = run.run().succeeded("thread_stacks:on");
        same("thread_stacks:on", &plain, &ran);
        let of_threads = |books: &serde_json::Value| {
            let metric = |what| books["metrics"][format!("/stacks/threads/{what}")].as_i64();
            (metric("allocs:stacks").unwrap_or(0), metric("frees:stacks").unwrap_or(0))
        };
        if door.is_ours() {
            let (made, freed) = ran.books.values().map(of_threads).max().expect("the program kept books");
            // All but those with stacks of their own or large guards; the last detached ones may not be gone yet.
            assert!(made > 1_500 && freed > made - 100, "{made} stacks were handed out, {freed} came back");
        }
        ran.kept_books("thread_stacks:on", door).done();
    }
    plain.done();
}

/// Runs a program that is known to work with `variable` set to `value`, and
/// returns what was said on standard error.
fn said(program: &Path, variable: &str, value: &str, door: Door) -> String {
    let what = format!("{variable}={value}");
    let ran = Run::new(program).through(door).env(variable, value).run().succeeded(&what);
    assert_eq!(ran.shown_stdout(), "preinit, constructors, main\n", "{what}");
    let said = ran.stderr.clone();
    ran.kept_books(&what, door).done();
    said
}

#[test]
fn configuration_that_is_not_understood() {
    let program = compiled("early.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    for (variable, value, culprit) in [
        ("SPANHEAP_CONF", "no_such_key:5", "no_such_key"),
        ("SPANHEAP_CONF", "just-a-word", "just-a-word"),
        ("SPANHEAP_CONF", ":::,,:", "SPANHEAP_CONF"),
        ("SPANHEAP_MEMORY_LIMIT", "a lot", "a lot"),
        ("SPANHEAP_MEMORY_LIMIT", "-5MiB", "-5MiB"),
        ("SPANHEAP_MEMORY_LIMIT", "99999999999999999999999", "99999999999999999999999"),
    ] {
        let said = said(&program, variable, value, door);
        assert!(said.contains(culprit), "{variable}={value}: {said:?}");
        assert!(said.lines().all(|line| line.contains(variable)), "{variable}={value}: {said:?}");
        // One line a fault; the third value has two that are not empty.
        assert!(said.lines().count() <= 1 + usize::from(value == ":::,,:"), "{variable}={value}: {said:?}");
    }
}

#[test]
fn configuration_that_is_understood() {
    let program = compiled("early.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    for (variable, value) in [
        ("SPANHEAP_CONF", ""),
        ("SPANHEAP_MEMORY_LIMIT", "off"),
        ("SPANHEAP_MEMORY_LIMIT", "1GiB"),
        ("SPANHEAP_MEMORY_LIMIT", ""),
    ] {
        assert_eq!(said(&program, variable, value, door), "", "{variable}={value}");
    }
}

/// A value too long for any buffer, and one that is not text.
#[test]
fn configuration_that_is_absurd() {
    let program = compiled("early.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    let long = "key:value,".repeat(9000);
    assert!(said(&program, "SPANHEAP_CONF", &long, door).len() < 100_000);
    let what = "SPANHEAP_CONF that is not UTF-8";
    let bytes: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff, b':', 0xfe, b',']);
    Run::new(&program).through(door).env("SPANHEAP_CONF", bytes).run().succeeded(what).done();
}

/// Books that cannot be written: one line at most, and the program's own end.
#[test]
fn books_that_cannot_be_written() {
    let program = compiled("early.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    let long = format!("/tmp/{}", "x".repeat(6000));
    for path in ["/nowhere/at/all/books", "/", "/dev/full", &long] {
        let run = Run::new(&program).through(door).env("SPANHEAP_STATS", path);
        let ran = run.run().succeeded(path);
        assert_eq!(ran.shown_stdout(), "preinit, constructors, main\n", "SPANHEAP_STATS={path}");
        assert!(ran.stderr.lines().count() <= 1, "SPANHEAP_STATS={path}: {}", ran.stderr);
        ran.done();
    }
}

/// Both spellings of the books' path: with the process's number and without,
/// and a relative one, which is relative to where the process started.
#[test]
fn books_go_where_they_are_told() {
    let program = compiled("contract.c");
    let Some(door @ Door::Ours(_)) = door() else { return };
    for (path, file) in [("plain.json", "plain.json"), ("%p-%p.json", "%-%.json"), ("100%.json", "100%.json")]
    {
        let ran = Run::new(&program).through(door).env("SPANHEAP_STATS", path).run().succeeded(path);
        let file = ran.dir.join(match path.contains("%p") {
            true => file.replace('%', &ran.process.to_string()),
            false => file.to_owned(),
        });
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text.contains("\"check\""), "{path}: {text}");
        ran.done();
    }
}

/// The door costs a process nothing it can feel at start: not time, not memory.
#[test]
fn starting_is_cheap() {
    let Some(door) = door() else { return };
    let start = std::time::Instant::now();
    for _ in 0..20 {
        Run::new("/bin/true").through(door).limit(Duration::from_secs(10)).run().succeeded("true").done();
    }
    assert!(start.elapsed() < Duration::from_secs(5), "20 processes took {:?}", start.elapsed());
}
