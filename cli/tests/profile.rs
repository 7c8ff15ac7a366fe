//! Heap profiles of real programs: written by the heap, decoded by somebody else's library, named by the command.

#[path = "../src/profile/proto.rs"]
#[allow(dead_code, reason = "the messages of the command, of which the test needs some")]
mod proto;
mod support;

use prost::Message;
use proto::{Profile, Sample};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{end, library, scratch, spanheap, start_script};

/// What `leaks` keeps: 4000 blocks of 10,000 bytes and 64,000 of 100.
const KEPT: [(&str, f64); 2] = [("keeps_large", 4000.0 * 10_000.0), ("keeps_small", 64_000.0 * 100.0)];

/// A program that keeps blocks from two functions, frees those of a third on another thread, and forks.
const LEAKS: &str = r#"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *kept[80000];
static int count;

__attribute__((noinline)) void keeps_large(void) {
    for (int i = 0; i < 4000; i++) memset(kept[count++] = malloc(10000), 1, 10000);
}
__attribute__((noinline)) void keeps_small(void) {
    for (int i = 0; i < 64000; i++) memset(kept[count++] = malloc(100), 1, 100);
}
static void *passed[20000];
__attribute__((noinline)) void passes_on(void) {
    for (int i = 0; i < 20000; i++) passed[i] = malloc(3000);
}
static void *frees(void *none) {
    for (int i = 0; i < 20000; i++) free(passed[i]);
    return none;
}
int main(void) {
    pthread_t thread;
    keeps_large();
    keeps_small();
    passes_on();
    pthread_create(&thread, 0, frees, 0);
    pthread_join(thread, 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < count; i++) free(kept[i]);
        return 0;
    }
    int status;
    waitpid(child, &status, 0);
    return status;
}
"#;

/// Runs a program under the real door with a profile, and returns the profiles that it and its children wrote.
fn profiles_of(name: &str, program: &[&str], environment: &[(&str, &str)]) -> Vec<PathBuf> {
    let folder = scratch().join(format!("profiles-of-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    // What the scavenger gives back between two readings would be missing in the second.
    let conf = format!("scavenger:off,profile:32KiB,profile_file:{}/%p.pb.gz", folder.display());
    let mut command = spanheap();
    command.env("SPANHEAP_LIB", library()).env("SPANHEAP_CONF", conf).envs(environment.iter().copied());
    let ended = end(command.args(["run", "--quiet", "--"]).args(program));
    assert!(ended.status.success(), "{}", ended.stderr);
    let mut found: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The parent ends last.
    found.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    found
}

fn leaks() -> PathBuf {
    let (source, program) = (scratch().join("leaks.c"), scratch().join("leaks"));
    std::fs::write(&source, LEAKS).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-g", "-fomit-frame-pointer", "-pthread", "-o"]).arg(&program).arg(&source);
    assert!(compiler.status().unwrap().success());
    program
}

fn decode(path: &Path) -> Profile {
    let file = std::fs::File::open(path).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    Profile::decode(&*bytes).unwrap()
}

fn text(profile: &Profile, number: i64) -> &str {
    &profile.string_table[usize::try_from(number).unwrap()]
}

/// The names of every place, innermost first.
struct Names<'p>(HashMap<u64, Vec<&'p str>>);

impl<'p> Names<'p> {
    fn of(profile: &'p Profile) -> Names<'p> {
        let functions: HashMap<u64, &str> =
            profile.function.iter().map(|of| (of.id, text(profile, of.name))).collect();
        let names = |lines: &[proto::Line]| lines.iter().map(|line| functions[&line.function_id]).collect();
        Names(profile.location.iter().map(|at| (at.id, names(&at.line))).collect())
    }

    /// The names of a sample's calls.
    fn calls(&self, sample: &Sample) -> Vec<&'p str> {
        sample.location_id.iter().flat_map(|id| self.0[id].iter().copied()).collect()
    }
}

fn value(profile: &Profile, name: &str) -> usize {
    profile.sample_type.iter().position(|of| text(profile, of.kind) == name).unwrap()
}

#[test]
fn a_program_without_frame_pointers_is_told_who_keeps_what() {
    let program = leaks();
    let written = profiles_of("leaks", &[program.to_str().unwrap()], &[]);
    assert_eq!(written.len(), 2, "the child's and the parent's");
    let (child, parent) = (decode(&written[0]), decode(&written[1]));
    let inuse = value(&parent, "inuse_space");
    let sum = |profile: &Profile| profile.sample.iter().map(|sample| sample.value[inuse]).sum::<i64>() as f64;
    assert!(sum(&child) < 0.01 * sum(&parent), "the child has freed everything: {}", sum(&child));

    // Addresses only, and each in a file that is named with its build id.
    assert!(parent.location.iter().filter(|location| location.address != 0).all(|at| at.line.is_empty()));
    let of_program = parent.mapping.iter().find(|at| text(&parent, at.filename) == program.to_str().unwrap());
    assert_eq!(text(&parent, of_program.unwrap().build_id).len(), 40);

    let named = scratch().join("named.pb.gz");
    let mut command = spanheap();
    let ended = end(command.arg("profile").arg(&written[1]).arg("--output").arg(&named));
    assert!(ended.status.success(), "{}", ended.stderr);
    let named_profile = decode(&named);
    let names = Names::of(&named_profile);
    for (function, bytes) in KEPT {
        let of = named_profile.sample.iter().filter(|of| names.calls(of).contains(&function));
        let found: i64 = of.map(|sample| sample.value[inuse]).sum();
        // So many samples are off by more than a fifth once in a million runs.
        assert!((found as f64 / bytes - 1.0).abs() < 0.4, "{function}: {found} of {bytes}");
    }
    let passed = named_profile.sample.iter().filter(|of| names.calls(of).contains(&"passes_on"));
    let (found, allocated) = passed.fold((0, 0), |(now, all), sample| {
        (now + sample.value[inuse], all + sample.value[value(&named_profile, "alloc_space")])
    });
    assert_eq!(found, 0, "another thread has freed them");
    assert!((allocated as f64 / 60e6 - 1.0).abs() < 0.2, "{allocated}");

    let ended = end(spanheap().arg("profile").arg(&written[1]));
    let first = ended.stdout.lines().next().unwrap();
    assert!(first.contains("keeps_large < main"), "{}", ended.stdout);
    assert!(first.contains(" blocks "), "{}", ended.stdout);

    if let Ok(output) =
        Command::new("go").args(["tool", "pprof", "-top", "-sample_index=inuse_space"]).arg(&named).output()
    {
        let top = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(top.contains("keeps_large") && top.contains("keeps_small"), "{top}");
    }
}

/// The value `memory` adds up to what the kernel says that the process has.
#[test]
fn memory_adds_up_to_what_the_process_has() {
    let script = "keep = [str(n) * 9 for n in range(100000)]";
    let environment = [("PYTHONMALLOC", "malloc")];
    let written = profiles_of("python", &["/usr/bin/python3", "-c", script], &environment);
    assert_eq!(written.len(), 1);
    let profile = decode(written.last().unwrap());
    let memory = value(&profile, "memory");
    let total: i64 = profile.sample.iter().map(|sample| sample.value[memory]).sum();
    assert!((5 << 20..2 << 30).contains(&total), "{total}");
    let names = Names::of(&profile);
    let of = |place: &str| {
        let here = profile.sample.iter().filter(|sample| names.calls(sample) == [place]);
        here.map(|sample| sample.value[memory]).sum::<i64>()
    };
    // Python's own files are resident as well; what the heap does not know of is not negative.
    assert!(of("[not the heap's]") > 1 << 20);
    assert!(of("[metadata/profile]") > 0);
    assert!(of("[committed, not resident]") <= 0);
    let deep = profile.sample.iter().filter(|sample| sample.location_id.len() > 8).count();
    assert!(deep * 2 > profile.sample.len(), "{deep} of {} stacks reach far", profile.sample.len());
}

#[test]
fn what_is_no_profile_is_refused() {
    let file = scratch().join("nonsense");
    for (contents, says) in [
        (&b"not a profile"[..], "not a profile"),
        (b"\x1f\x8b\x08\x00", "not a whole gzip file"),
        (b"", "not a profile"),
    ] {
        std::fs::write(&file, contents).unwrap();
        let ended = end(spanheap().arg("profile").arg(&file));
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    let ended = end(spanheap().args(["profile", "/nowhere/at/all"]));
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("/nowhere/at/all"), "{}", ended.stderr);
}

/// A program that has run for a while is told to take samples, and hands them out; the shell that runs the loop knows nothing of it.
#[test]
fn a_running_program_is_asked() {
    let program = start_script(
        "echo ready; while :; do x=$(printf 'y%.0s' {1..2000}); a+=(\"$x\"); ((${#a[@]} > 2000)) && a=(); done",
        "",
    );
    let of_program = |more: &[&str]| end(spanheap().args(["profile", &program.pid()]).args(more));
    let ended = of_program(&[]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("has no profile; `spanheap profile"), "{}", ended.stderr);
    let ended = of_program(&["--start=16KiB"]);
    assert_eq!(ended.stdout, format!("process {} takes a sample every 16.0 KiB\n", program.pid()));

    let named = scratch().join("handed.pb.gz");
    let inuse = loop {
        let ended = of_program(&["--output", named.to_str().unwrap()]);
        assert!(ended.status.success(), "{}", ended.stderr);
        let profile = decode(&named);
        let names = Names::of(&profile);
        let space = value(&profile, "inuse_space");
        let of = profile.sample.iter().filter(|sample| names.calls(sample).contains(&"xmalloc"));
        match of.map(|sample| sample.value[space]).sum::<i64>() {
            0 => std::thread::yield_now(),
            some => break some,
        }
    };
    assert!(inuse < 64 << 20, "{inuse} bytes of some two thousand strings");
    // What is in use may be gone by now; what was allocated stays.
    let ended = of_program(&["--value", "alloc_space"]);
    assert!(ended.stdout.contains("xmalloc"), "{}", ended.stdout);
    let ended = of_program(&["--stop"]);
    assert_eq!(ended.stdout, format!("process {} takes no samples\n", program.pid()));
    let ended = end(spanheap().args(["profile", "no-such-file", "--stop"]));
    assert_eq!(ended.status.code(), Some(2));
}
