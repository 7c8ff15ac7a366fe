//! Real programs, whole, on the door: the same output and exit code as without
//! it, and balanced books in every process that ended in the ordinary way.
//!
//! A scenario is a shell script in `scripts/` that says the same whenever it is
//! run, in a directory of its own. Everything it starts is preloaded too.
//! `redis-server` and Python need more than a script and have tests of their own.
//!
//! A program that is missing is installed with `apt-get` where the test runs as
//! root; otherwise the test fails and names the package.

mod kit;

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use kit::{Door, Ran, Run, door, same};

/// Where the shell finds `program`, or None.
fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// The program's path, after installing `package` if it is missing.
fn need(program: &str, package: &str) -> PathBuf {
    find(program).unwrap_or_else(|| {
        install(package);
        find(program).unwrap_or_else(|| panic!("{program} is missing: `apt-get install {package}`"))
    })
}

/// Installs a Debian package, as far as we may. One at a time.
fn install(package: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if fs::metadata("/proc/self").map(|process| process.uid()).ok() != Some(0) {
        return;
    }
    let apt = |arguments: &[&str]| {
        let command =
            Command::new("apt-get").args(["-qq", "-o", "DPkg::Lock::Timeout=120"]).args(arguments).output();
        command.is_ok_and(|output| output.status.success())
    };
    eprintln!("installing {package}");
    let wanted = ["install", "-y", "--no-install-recommends", package];
    let _ = apt(&wanted) || (apt(&["update"]) && apt(&wanted));
}

/// Runs a script of `scripts/` with and without the door.
fn scenario(script: &str, needs: &[(&str, &str)]) {
    for (program, package) in needs {
        need(program, package);
    }
    let script_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(script);
    let run = |door: Option<Door>| {
        let run = Run::new("/bin/sh").args([script_path.as_os_str()]).maybe_through(door);
        let home = run.dir().to_owned();
        run.env("HOME", home)
            .env("LC_ALL", "C")
            .env("CARGO", env!("CARGO"))
            .limit(Duration::from_secs(120))
            .run()
    };
    let plain = run(None).succeeded(&format!("{script}, without the door"));
    assert!(!plain.stdout.is_empty(), "{script} says nothing");
    let Some(door) = door() else { return };
    let under = run(Some(door));
    same(script, &plain, &under);
    assert!(!under.books.is_empty() || !door.is_ours(), "{script}: no process left books\n{}", under.stderr);
    plain.done();
    under.done();
}

#[test]
fn sqlite() {
    scenario("sqlite.sh", &[("sqlite3", "sqlite3")]);
}

#[test]
fn git() {
    scenario("git.sh", &[("git", "git"), ("tar", "tar")]);
}

#[test]
fn gcc() {
    scenario("gcc.sh", &[("gcc", "gcc"), ("g++", "g++")]);
}

#[test]
fn cargo() {
    scenario("cargo.sh", &[("cc", "gcc")]);
}

#[test]
fn perl() {
    scenario("perl.sh", &[("perl", "perl")]);
}

#[test]
fn lua() {
    scenario("lua.sh", &[("lua5.4", "lua5.4")]);
}

#[test]
fn jq() {
    scenario("jq.sh", &[("jq", "jq")]);
}

#[test]
fn files() {
    scenario("files.sh", &[("xz", "xz-utils"), ("tar", "tar"), ("bash", "bash"), ("gzip", "gzip")]);
}

// --- redis -----------------------------------------------------------------

/// A port that is free now.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    listener.local_addr().expect("its address").port().to_string()
}

/// Talks to the server until it answers.
fn wait_for_redis(cli: &Path, port: &str) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        let output = Command::new(cli).args(["-p", port, "PING"]).output().expect("redis-cli runs");
        if output.stdout == b"PONG\n" {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("redis-server does not answer on port {port}");
}

/// Writes and reads of every kind of value, a save (which forks), and keys that
/// expire; all answers are the same in every run.
const REDIS_COMMANDS: &str = r#"
SET greeting "hello"
GET greeting
APPEND greeting " and a longer text"
EVAL "for i = 1, 5000 do redis.call('SET', 'key:' .. i, string.rep('v', i % 700)) end return redis.call('DBSIZE')" 0
EVAL "for i = 1, 5000 do redis.call('RPUSH', 'list', i); redis.call('HSET', 'hash', 'f' .. i, i * 3); redis.call('ZADD', 'sorted', i * 7 % 1000, 'm' .. i) end return 1" 0
LRANGE list 100 110
HGET hash f777
HLEN hash
ZRANGE sorted 10 15 WITHSCORES
SORT list LIMIT 0 3 DESC
EVAL "for i = 1, 5000, 2 do redis.call('DEL', 'key:' .. i) end return redis.call('EXISTS', 'key:2')" 0
STRLEN key:650
SAVE
DEBUG RELOAD
LLEN list
ZSCORE sorted m4321
MEMORY PURGE
FLUSHALL
DBSIZE
"#;

/// One life of a server. Returns what the client printed, and the server's end.
fn redis_life(door: Option<Door>) -> (Ran, Ran) {
    let server = need("redis-server", "redis-server");
    let [cli, benchmark] = ["redis-cli", "redis-benchmark"].map(|program| need(program, "redis-tools"));
    let port = free_port();
    let options = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes"];
    let life = Run::new(server).args(options).maybe_through(door).limit(Duration::from_secs(120));
    let life = thread::spawn(move || life.run());
    wait_for_redis(&cli, &port);

    let load =
        ["-p", &port, "-q", "-n", "20000", "-c", "10", "-t", "set,get,incr,lpush,rpop,sadd,hset,lrange_100"];
    Run::new(benchmark).args(load).maybe_through(door).run().succeeded("redis-benchmark").done();
    Run::new(&cli).args(["-p", &port, "FLUSHALL"]).maybe_through(door).run().succeeded("FLUSHALL").done();
    let talk = Run::new(&cli).args(["-p", &port]).maybe_through(door);
    let commands = talk.dir().join("commands");
    fs::write(&commands, REDIS_COMMANDS).expect("the commands");
    let said = talk.input(&commands).run().succeeded("redis-cli");
    Run::new(&cli).args(["-p", &port, "SHUTDOWN", "NOSAVE"]).maybe_through(door).run().done();
    (said, life.join().expect("the server's thread"))
}

#[test]
fn redis() {
    let (plain, plain_end) = redis_life(None);
    assert!(plain.shown_stdout().contains("hello") && !plain.shown_stdout().contains("ERR"));
    let plain_end = plain_end.succeeded("redis-server, without the door");
    let Some(door) = door() else { return };
    let (under, under_end) = redis_life(Some(door));
    same("redis-cli", &plain, &under);
    under_end.succeeded("redis-server").kept_books("redis-server", door).done();
    for ran in [plain, plain_end, under] {
        ran.done();
    }
}

// --- Python ----------------------------------------------------------------

/// A part of Python's own test suite whose outcomes are the same in every run.
const PYTHON_TESTS: [&str; 16] = [
    "test_dict",
    "test_list",
    "test_set",
    "test_json",
    "test_bytes",
    "test_re",
    "test_deque",
    "test_ordered_dict",
    "test_struct",
    "test_thread",
    "test_gc",
    "test_memoryview",
    "test_array",
    "test_popen",
    "test_threading_local",
    "test_unicode",
];

/// A Python that has its own tests at hand.
fn python() -> PathBuf {
    let usable = |path: &Path| {
        let output =
            Command::new(path).args(["-c", "import sys, test.test_dict; print(sys.executable)"]).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    let debian = Path::new("/usr/bin/python3");
    let any = || usable(debian).or_else(|| find("python3").and_then(|path| usable(&path)));
    any().unwrap_or_else(|| {
        install("python3");
        install("libpython3-testsuite");
        any().expect("Python's test suite is missing: `apt-get install python3 libpython3-testsuite`")
    })
}

/// Each test with its outcome, in the order of names.
fn outcomes(ran: &Ran) -> Vec<String> {
    let mut lines: Vec<_> =
        ran.stderr.lines().filter(|line| line.contains(" ... ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn python_test_suite() {
    let python = python();
    // All of Python's memory through malloc, not only what its own pools ask for.
    let run = |door| {
        let tests = PYTHON_TESTS.map(|test| format!("test.{test}"));
        let run = Run::new(&python).args(["-m", "unittest", "-v"]).args(tests).maybe_through(door);
        run.env("PYTHONMALLOC", "malloc").env("PYTHONHASHSEED", "1").limit(Duration::from_secs(150)).run()
    };
    let plain = run(None);
    assert!(outcomes(&plain).len() > 500, "{} {}", plain.end(), plain.stderr);
    let Some(door) = door() else { return };
    let under = run(Some(door));
    let (with, without) = (outcomes(&under), outcomes(&plain));
    let differ: Vec<_> = with.iter().filter(|line| !without.contains(line)).collect();
    assert!(differ.is_empty() && with.len() == without.len(), "Python: {differ:#?}\n{}", under.stderr);
    // What the tests print on standard output is in the order of their threads.
    assert_eq!(under.status, plain.status, "Python: {}", under.end());
    under.kept_books("Python", door).done();
    plain.done();
}

/// Python on its own pools, which take whole arenas, with threads and processes.
#[test]
fn python_at_work() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/work.py");
    let python = python();
    let run = |door| Run::new(&python).args([script.as_os_str()]).maybe_through(door).run();
    let plain = run(None).succeeded("work.py, without the door");
    let Some(door) = door() else { return };
    let under = run(Some(door));
    same("work.py", &plain, &under);
    under.kept_books("work.py", door).done();
    plain.done();
}

/// At the heap's limit Python sees what it expects where memory runs out, and goes on.
#[test]
fn python_at_the_limit() {
    const SCRIPT: &str = "\
kept = []
try:
    while True:
        kept.append(bytes(100_000))
except MemoryError:
    count = len(kept)
    kept.clear()
    print('MemoryError', 300 < count < 1350)
try:
    'x' * (1 << 30)
except MemoryError:
    print('MemoryError')
print(sum(len([i] * 1000) for i in range(1000)))
";
    let Some(door @ Door::Ours(_)) = door() else { return };
    let run = Run::new(python()).args(["-c", SCRIPT]).through(door).env("SPANHEAP_MEMORY_LIMIT", "128MiB");
    let ran = run.run().succeeded("Python at the limit").kept_books("Python at the limit", door);
    assert_eq!(ran.shown_stdout(), "MemoryError True\nMemoryError\n1000000\n", "{}", ran.stderr);
    assert_eq!(ran.stderr, "");
    ran.done();
}
