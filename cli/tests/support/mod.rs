//! What the tests of the command share.
#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The command under test, with none of the caller's settings.
pub(crate) fn spanheap() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spanheap"));
    for name in
        ["SPANHEAP_STATS", "SPANHEAP_MEMORY_LIMIT", "SPANHEAP_GC_PERCENT", "SPANHEAP_CONF", "LD_PRELOAD"]
    {
        command.env_remove(name);
    }
    command
}

/// A directory of this test binary's own.
pub(crate) fn scratch() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Runs the compiler and returns the path of what it made.
pub(crate) fn compile(source: &Path, name: &str, options: &[&str]) -> PathBuf {
    let output = scratch().join(name);
    let compiler = option_env!("RUSTC").unwrap_or("rustc");
    let result = Command::new(compiler).arg(source).arg("-o").arg(&output).args(options).output().unwrap();
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    output
}

/// Compiles a program given as text.
pub(crate) fn compile_text(text: &str, name: &str, options: &[&str]) -> PathBuf {
    let source = scratch().join(format!("{name}.rs"));
    std::fs::write(&source, text).unwrap();
    compile(&source, name, options)
}

/// The stand-in for the malloc door.
pub(crate) fn door() -> &'static Path {
    static DOOR: OnceLock<PathBuf> = OnceLock::new();
    DOOR.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/door.rs");
        compile(&source, "libdoor.so", &["--crate-type=cdylib", "--edition=2024", "-Cpanic=abort"])
    })
}

/// The real malloc door, built beside the command under test.
pub(crate) fn library() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let built = LIBRARY.get_or_init(|| {
        let directory = PathBuf::from(env!("CARGO_BIN_EXE_spanheap")).parent().unwrap().to_path_buf();
        // The directory has the name of the profile, but for the one that is called after what it is for.
        let profile = match directory.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--package", "spanheap-malloc", "--profile", profile]);
        build.arg("--target-dir").arg(directory.parent().unwrap());
        let result = build.output().unwrap();
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        directory.join("libspanheap_malloc.so")
    });
    built.clone()
}

/// `spanheap run` with the stand-in and these arguments.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = spanheap();
    command.env("SPANHEAP_LIB", door()).arg("run").args(arguments);
    command
}

/// How a command ended, as text.
pub(crate) struct Ended {
    pub(crate) status: std::process::ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) fn end(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { status, stdout: text(stdout), stderr: text(stderr) }
}

/// A program that ends with the test.
pub(crate) struct Started(pub(crate) std::process::Child);

impl Started {
    /// The process's number.
    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a shell script on the real library, with these options for the heap, and waits until it has said `ready`.
pub(crate) fn start_script(script: &str, options: &str) -> Started {
    use std::io::{BufRead, BufReader};
    let mut command = Command::new("bash");
    command.args(["-c", script]).env("LD_PRELOAD", library()).env("SPANHEAP_CONF", options);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Started(child)
}
