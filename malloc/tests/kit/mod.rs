//! What the tests of the C door share: the library under test, runs of
//! programs with and without it, and the books they leave behind.
//!
//! A run has a directory of its own, a time limit and a clean environment. With
//! the door, every process of the run writes its books there
//! (`SPANHEAP_STATS`), and [`Run::books`] hands them back checked: the process
//! found all its identities to hold, and its accounts add up to zero.
//!
//! `SPANHEAP_DOOR_LIBRARY=/path/to/another/malloc.so` puts another allocator in
//! the door's place. Then only the programs' behaviour is compared; it shows
//! whether a test asks for something that only we, or only glibc, would do.
//! `SPANHEAP_DOOR_PROFILE=dev` tests the unoptimised library, with its
//! assertions.

#![allow(dead_code, reason = "compiled into each test, and neither uses all of it")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use serde_json::Value;

/// What is preloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// Our library.
    Ours(&'static Path),
    /// Another allocator, to see whether the tests are fair.
    Other(&'static Path),
}

impl Door {
    pub(crate) fn path(self) -> &'static Path {
        match self {
            Door::Ours(path) | Door::Other(path) => path,
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Door::Ours(_))
    }
}

/// The library under test, built at the first call. None, said on standard
/// error, while our library has no `malloc` to put under a program.
pub(crate) fn door() -> Option<Door> {
    static DOOR: OnceLock<Option<Door>> = OnceLock::new();
    *DOOR.get_or_init(|| {
        if let Some(path) = env::var_os("SPANHEAP_DOOR_LIBRARY") {
            return Some(Door::Other(PathBuf::from(path).leak()));
        }
        let library: &Path = build().leak();
        if exports_malloc(library) {
            return Some(Door::Ours(library));
        }
        eprintln!("skipped under the door: {} does not export malloc", library.display());
        None
    })
}

fn exports_malloc(library: &Path) -> bool {
    let output = Command::new("nm").args(["--dynamic", "--defined-only"]).arg(library).output();
    let output = output.expect("nm runs; it comes with `apt-get install binutils`");
    String::from_utf8_lossy(&output.stdout).lines().any(|line| line.ends_with(" T malloc"))
}

/// Builds our library into the target directory that this test came from, and
/// returns where cargo says it put it.
fn build() -> PathBuf {
    let profile = env::var("SPANHEAP_DOOR_PROFILE").unwrap_or_else(|_| "release".into());
    // target/<profile>/deps/<this test>; or target/<triple>/<profile>/deps/…, and
    // then the library gets a target directory within that.
    let test = env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(3).expect("target/<profile>/deps/<test>");
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--message-format=json",
            "--package",
            "spanheap-malloc",
            "--profile",
            &profile,
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("CARGO_BUILD_TARGET")
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo build of the door: {}", output.status);
    let messages = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["target"]["name"] == "spanheap_malloc")
        .find_map(|message| message["filenames"][0].as_str().map(PathBuf::from))
        .expect("cargo names the library it built")
}

/// A fresh directory for one run, named after it.
fn fresh_dir(name: &str) -> PathBuf {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{name}-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("door").join(unique);
    fs::create_dir_all(&dir).expect("a directory under target/tmp");
    dir
}

/// A program about to be run.
pub(crate) struct Run {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(String, OsString)>,
    preload: Vec<PathBuf>,
    books: bool,
    dir: PathBuf,
    input: Option<PathBuf>,
    limit: Duration,
}

/// What a program did.
pub(crate) struct Ran {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
    /// The books of each process of the run that ended in the ordinary way.
    pub(crate) books: BTreeMap<u32, Value>,
    pub(crate) process: u32,
    pub(crate) dir: PathBuf,
}

impl Run {
    pub(crate) fn new(program: impl Into<PathBuf>) -> Run {
        let program = program.into();
        let name = program.file_name().expect("a program's name").to_string_lossy().into_owned();
        Run {
            program,
            arguments: Vec::new(),
            variables: Vec::new(),
            preload: Vec::new(),
            books: false,
            dir: fresh_dir(&name),
            input: None,
            limit: Duration::from_secs(60),
        }
    }

    pub(crate) fn args<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Run {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Run {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Preloads `library`, before what is preloaded already.
    pub(crate) fn preload(mut self, library: &Path) -> Run {
        self.preload.insert(0, library.into());
        self
    }

    /// Preloads the door; ours is asked for its books.
    pub(crate) fn through(mut self, door: Door) -> Run {
        self.books = door.is_ours();
        self.preload(door.path())
    }

    /// Through the door, or not: for runs that are to be compared.
    pub(crate) fn maybe_through(self, door: Option<Door>) -> Run {
        match door {
            Some(door) => self.through(door),
            None => self,
        }
    }

    pub(crate) fn input(mut self, file: &Path) -> Run {
        self.input = Some(file.into());
        self
    }

    /// The directory that the program runs in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.dir).process_group(0);
        for (name, _) in env::vars_os() {
            let shown = name.to_string_lossy();
            if shown.starts_with("SPANHEAP_") || shown.starts_with("LD_") || shown.starts_with("MALLOC_") {
                command.env_remove(&name);
            }
        }
        if !self.preload.is_empty() {
            let all: Vec<_> = self.preload.iter().map(|path| path.to_str().expect("a UTF-8 path")).collect();
            command.env("LD_PRELOAD", all.join(":"));
        }
        if self.books {
            command.env("SPANHEAP_STATS", self.dir.join("books.%p.json"));
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// If it does not end in time, or if books it left do not balance.
    pub(crate) fn run(self) -> Ran {
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        let mut command = self.command();
        command.stdout(File::create(&out).expect("stdout")).stderr(File::create(&err).expect("stderr"));
        command.stdin(match &self.input {
            Some(file) => Stdio::from(File::open(file).expect("the input")),
            None => Stdio::null(),
        });
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait") {
                break status;
            }
            if start.elapsed() > self.limit {
                kill_group(child.id());
                let _ = child.wait();
                panic!("{}: not done after {:?}\n{}", self.shown(), self.limit, read_lossy(&err));
            }
            thread::sleep(Duration::from_millis(if start.elapsed().as_millis() < 200 { 2 } else { 20 }));
        };
        let stderr = read_lossy(&err);
        let books = read_books(&self.dir, &self.shown(), &stderr);
        let stdout = fs::read(&out).expect("stdout");
        Ran { stdout, stderr, status, books, process: child.id(), dir: self.dir }
    }

    /// For messages: the program, its arguments and what is preloaded.
    fn shown(&self) -> String {
        format!("{} {:?} under {:?}", self.program.display(), self.arguments, self.preload)
    }
}

/// Ends the process group that a run was started as.
fn kill_group(leader: u32) {
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{leader}")]).status();
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("a file of the run")).into_owned()
}

fn read_books(dir: &Path, program: &str, stderr: &str) -> BTreeMap<u32, Value> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("the directory of the run") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        let Some(process) = name.strip_prefix("books.").and_then(|rest| rest.strip_suffix(".json")) else {
            continue;
        };
        let process = process.parse().unwrap_or_else(|_| panic!("{program}: %p became {process:?}"));
        let text = fs::read_to_string(&path).expect("the books");
        let books = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{program}: books of {process}: {error}\n{text}\n{stderr}"));
        check_books(&books, &format!("{program}: books of {process}"));
        found.insert(process, books);
    }
    found
}

/// Panics unless the books are whole and balance.
fn check_books(books: &Value, whose: &str) {
    assert_eq!(books["check"], "ok", "{whose}:\n{books:#}");
    for part in ["accounts", "purposes", "go", "resident"] {
        assert!(!books[part].is_null(), "{whose}: no {part}\n{books:#}");
    }
    let accounts = books["accounts"].as_object().unwrap_or_else(|| panic!("{whose}: accounts\n{books:#}"));
    let bytes = |(name, value): (&String, &Value)| {
        i128::from(value.as_i64().unwrap_or_else(|| panic!("{whose}: account {name} is {value}")))
    };
    assert_eq!(
        accounts.iter().map(bytes).sum::<i128>(),
        0,
        "{whose}: accounts do not add up to zero\n{books:#}"
    );
}

impl Ran {
    /// Removes what the run left on disk; kept after a failure, to be looked at.
    pub(crate) fn done(self) {
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Panics unless the program returned 0.
    pub(crate) fn succeeded(self, what: &str) -> Ran {
        assert!(self.status.success(), "{what}: {}\n{}\n{}", self.end(), self.stderr, self.shown_stdout());
        self
    }

    /// Panics unless the run's first process left its books, where it was to.
    pub(crate) fn kept_books(self, what: &str, door: Door) -> Ran {
        let kept = self.books.contains_key(&self.process);
        assert!(kept || !door.is_ours(), "{what}: no books of process {}\n{}", self.process, self.stderr);
        self
    }

    /// How the program ended, for messages.
    pub(crate) fn end(&self) -> String {
        match self.status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => format!("{} (files in {})", self.status, self.dir.display()),
        }
    }

    pub(crate) fn shown_stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Panics unless both runs printed the same and ended the same way.
pub(crate) fn same(what: &str, plain: &Ran, under: &Ran) {
    assert_eq!(under.end_kind(), plain.end_kind(), "{what}: {}\n{}", under.end(), under.stderr);
    if under.stdout != plain.stdout {
        let (ours, theirs) = (under.shown_stdout(), plain.shown_stdout());
        let line = ours.lines().zip(theirs.lines()).position(|(a, b)| a != b);
        let line = line.unwrap_or(ours.lines().count().min(theirs.lines().count()));
        panic!(
            "{what}: standard output differs at line {}\nwith the door: {:?}\nwithout:       {:?}\n{}",
            line + 1,
            ours.lines().nth(line),
            theirs.lines().nth(line),
            under.stderr
        );
    }
}

impl Ran {
    /// Exit code and signal.
    fn end_kind(&self) -> (Option<i32>, Option<i32>) {
        (self.status.code(), self.status.signal())
    }
}
