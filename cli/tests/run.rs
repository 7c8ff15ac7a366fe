//! `spanheap run` and `spanheap env`, with a stand-in for the library (`support/door.rs`). The shell is bash: a plain `sh` may
//! leave by `_exit`, without books.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use support::{compile_text, door, end, run, scratch, spanheap};

#[test]
fn books_go_to_standard_error_and_the_streams_pass_through() {
    let mut command = run(&["--", "bash", "-c", "read line; echo \"out $line\"; echo err >&2; exit 7"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out in\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("err\nspanheap: books of pid "), "{stderr}");
    assert!(stderr.contains("(stand-in) at exit\n") && stderr.contains("blocks"), "{stderr}");
    assert!(stderr.ends_with("check: ok\n"), "{stderr}");
}

#[test]
fn quiet_prints_nothing() {
    let ended = end(&mut run(&["--quiet", "--", "bash", "-c", "exit 3"]));
    assert_eq!((ended.status.code(), ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "", ""));
    // Not even the reasons why there are no books.
    let ended = end(&mut run(&["--quiet", "--", "bash", "-c", "kill -9 $$"]));
    assert_eq!((ended.status.signal(), ended.stderr.as_str()), (Some(9), ""));
}

#[test]
fn the_programs_options_are_its_own() {
    let ended = end(&mut run(&["-q", "--", "echo", "--quiet", "--", "-x", "--help"]));
    assert_eq!(ended.stdout, "--quiet -- -x --help\n");
    let ended = end(&mut run(&["-q", "echo", "--stats", "x"]));
    assert_eq!(ended.stdout, "--stats x\n");
}

#[test]
fn stats_are_json_in_a_file_named_after_the_program() {
    let pattern = scratch().join("stats-%p.json");
    let mut command =
        run(&["--stats", pattern.to_str().unwrap(), "--limit", "512MiB", "--", "bash", "-c", "echo $$"]);
    let ended = end(&mut command);
    let pid = ended.stdout.trim();
    let file = scratch().join(format!("stats-{pid}.json"));
    let books: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(books["pid"].to_string(), pid);
    assert_eq!(books["check"], "ok");
    assert_eq!(books["purposes"]["blocks"]["limit"], 512 << 20);
}

#[test]
fn stats_on_standard_output_come_after_the_programs_own() {
    let ended = end(&mut run(&["--quiet", "--stats", "-", "--", "echo", "first"]));
    let (first, rest) = ended.stdout.split_once('\n').unwrap();
    assert_eq!(first, "first");
    assert_eq!(serde_json::from_str::<serde_json::Value>(rest).unwrap()["version"], 1);
    assert_eq!(ended.stderr, "");
}

#[test]
fn the_callers_variable_names_the_file_where_the_option_does_not() {
    let file = scratch().join("by-variable.json");
    let ended = end(run(&["-q", "--", "true"]).env("SPANHEAP_STATS", &file));
    assert!(ended.status.success());
    assert!(fs::read_to_string(file).unwrap().contains("stand-in"));
}

#[test]
fn stats_that_cannot_be_written_are_told_and_the_status_stays() {
    let ended = end(&mut run(&["-q", "--stats", "/no/such/place", "--", "bash", "-c", "exit 5"]));
    assert_eq!(ended.status.code(), Some(5));
    assert!(ended.stderr.contains("cannot write the books to /no/such/place"), "{}", ended.stderr);
}

#[test]
fn an_existing_preload_stays() {
    let ended = end(run(&["-q", "--", "bash", "-c", "echo $LD_PRELOAD"]).env("LD_PRELOAD", door()));
    assert_eq!(ended.stdout.trim(), door().to_str().unwrap());
    let other = scratch().join("libother.so");
    fs::copy(door(), &other).unwrap();
    let ended = end(run(&["-q", "--", "bash", "-c", "echo $LD_PRELOAD"]).env("LD_PRELOAD", &other));
    assert_eq!(ended.stdout.trim(), format!("{}:{}", door().display(), other.display()));
}

#[test]
fn a_program_that_cannot_run_has_the_statuses_of_a_shell() {
    let ended = end(&mut run(&["--", "no-such-program"]));
    assert_eq!(ended.status.code(), Some(127));
    assert_eq!(ended.stderr, "spanheap: cannot run no-such-program: not found along PATH\n");
    let ended = end(&mut run(&["--", "/no/such/program"]));
    assert_eq!(ended.status.code(), Some(127));
    let ended = end(&mut run(&["--", "/etc/passwd"]));
    assert_eq!(ended.status.code(), Some(126));
    assert!(ended.stderr.contains("not executable"), "{}", ended.stderr);
    let ended = end(&mut run(&["--", "/tmp"]));
    assert_eq!(ended.status.code(), Some(126));
    assert!(ended.stderr.contains("is a directory"), "{}", ended.stderr);
    assert_eq!(end(&mut run(&["--"])).status.code(), Some(2));
}

#[test]
fn a_script_whose_interpreter_is_missing_cannot_run() {
    let script = scratch().join("orphan");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(end(&mut run(&[script])).status.code(), Some(127));
}

#[test]
fn a_bad_limit_is_refused() {
    let ended = end(&mut run(&["--limit", "512M", "--", "true"]));
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("512MiB"), "{}", ended.stderr);
}

#[test]
fn a_missing_library_is_told() {
    let ended = end(spanheap().env("SPANHEAP_LIB", "/no/library.so").args(["run", "--", "true"]));
    assert_eq!(ended.status.code(), Some(125));
    assert!(ended.stderr.contains("no library at /no/library.so"), "{}", ended.stderr);
    let lonely = scratch().join("lonely-spanheap");
    fs::copy(env!("CARGO_BIN_EXE_spanheap"), &lonely).unwrap();
    let ended =
        end(std::process::Command::new(lonely).env_remove("SPANHEAP_LIB").args(["run", "--", "true"]));
    assert_eq!(ended.status.code(), Some(125));
    assert!(ended.stderr.contains("cargo build --release -p spanheap-malloc"), "{}", ended.stderr);
}

#[test]
fn a_program_killed_by_a_signal_is_reported_and_so_are_we() {
    let ended = end(&mut run(&["--", "bash", "-c", "kill -SEGV $$"]));
    assert_eq!(ended.status.signal(), Some(11));
    assert!(
        ended.stderr.contains("no books") && ended.stderr.contains("killed by SIGSEGV"),
        "{}",
        ended.stderr
    );
    let ended = end(&mut run(&["--", "bash", "-c", "kill -KILL $$"]));
    assert_eq!(ended.status.signal(), Some(9));
    // A signal without a name cannot be raised by name; the status is a shell's.
    let ended = end(&mut run(&["-q", "--", "bash", "-c", "kill -40 $$"]));
    assert_eq!(ended.status.code(), Some(168));
}

#[test]
fn signals_sent_to_us_reach_the_program_and_do_not_kill_us() {
    for (signal, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15), ("USR1", 10), ("USR2", 12)] {
        if is_ignored(number) {
            continue;
        }
        let script = format!("trap 'echo got; exit 4' {signal}; echo ready; while :; do sleep 0.05; done");
        let mut command = run(&["--", "bash", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let kill =
            std::process::Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(kill.unwrap().success());
        assert_eq!(lines.next().unwrap().unwrap(), "got", "{signal}");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{signal}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("check: ok"), "{signal}");
    }
}

/// Whether whoever started the tests has this signal ignored, as `nohup` does: then no shell can trap it.
fn is_ignored(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() >> (number - 1) & 1 == 1
}

#[test]
fn a_signal_the_caller_ignores_stays_ignored() {
    let inner = format!(
        "trap '' HUP; exec env SPANHEAP_LIB={} {} run -q -- sh -c 'kill -HUP $PPID; kill -HUP $$; echo alive'",
        door().display(),
        env!("CARGO_BIN_EXE_spanheap")
    );
    let ended = end(std::process::Command::new("bash").args(["-c", &inner]));
    assert_eq!((ended.stdout.as_str(), ended.status.code()), ("alive\n", Some(0)));
}

#[test]
fn a_static_program_is_told_before_and_after() {
    let program = compile_text("fn main() {}", "static-program", &["-Ctarget-feature=+crt-static"]);
    let ended = end(&mut run(&[program]));
    assert!(ended.status.success());
    assert!(
        ended.stderr.contains("warning: ") && ended.stderr.contains("statically linked"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("no books: "), "{}", ended.stderr);
}

#[test]
fn a_program_with_its_own_malloc_is_told() {
    let text = r#"
        #[unsafe(no_mangle)]
        pub extern "C" fn malloc(_: usize) -> *mut u8 { std::ptr::null_mut() }
        fn main() {}"#;
    let program = compile_text(
        text,
        "own-malloc",
        &["--edition=2024", "-Clink-arg=-Wl,--export-dynamic-symbol=malloc"],
    );
    let report = end(run(&[program]).stdin(Stdio::null())).stderr;
    assert!(report.contains("exports its own `malloc`"), "{report}");
}

#[test]
fn a_script_is_known_by_its_interpreter() {
    let script = scratch().join("script");
    fs::write(&script, "#!/usr/bin/env -S bash -e\necho from script\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let ended = end(&mut run(&[&script]));
    assert_eq!(ended.stdout, "from script\n");
    let note = format!("{} is a script; the books are of its interpreter /", script.display());
    assert!(ended.stderr.contains(&note), "{}", ended.stderr);
    assert!(ended.stderr.contains("check: ok"), "{}", ended.stderr);
}

#[test]
fn a_program_that_skips_its_exit_handlers_has_no_books() {
    let program = compile_text(
        "unsafe extern \"C\" { fn _exit(status: i32) -> !; } fn main() { unsafe { _exit(6) } }",
        "abrupt",
        &["--edition=2024"],
    );
    let ended = end(&mut run(&[program]));
    assert_eq!(ended.status.code(), Some(6));
    assert!(ended.stderr.contains("without running its exit handlers"), "{}", ended.stderr);
}

#[test]
fn no_directory_of_ours_stays_behind() {
    let temporary = scratch().join("temporary");
    fs::create_dir_all(&temporary).unwrap();
    end(run(&["--", "true"]).env("TMPDIR", &temporary));
    end(run(&["--", "bash", "-c", "kill -TERM $$"]).env("TMPDIR", &temporary));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn env_prints_the_assignments_of_a_door() {
    let ended = end(spanheap().env("SPANHEAP_LIB", door()).args(["env", "malloc"]));
    assert_eq!(ended.stdout, format!("LD_PRELOAD={}\n", door().display()));
    let ended = end(spanheap().args(["env", "jemalloc"]));
    assert_eq!(ended.status.code(), Some(2));
    assert_eq!(
        ended.stderr,
        "spanheap: there is no door `jemalloc` in this version; the doors are: malloc, libgc\n"
    );
}
