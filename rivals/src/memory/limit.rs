//! A program near the heap's limit: it holds 400 MiB, replaces blocks without end, and its resident set is watched.
//!
//! The limit is on what the heap has committed, metadata included. What is resident beside that is the program itself,
//! its libraries and stacks, and the list of its blocks.
//!
//! The limit is given as a number, or `auto`: nine tenths of the tightest control group's. For the latter
//! a group is made around the program, inside our own, in whichever version of control groups has the controller of
//! memory; where none can be made, the part says so and judges nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Goal, MIB, figure, program, table, write};
use crate::allocators::Allocator;

/// The heap's limit.
const LIMIT: usize = 512 << 20;
/// What the program holds, in MiB.
const HELD: usize = 400;
/// The most that may be resident, in MiB.
const RESIDENT: f64 = 522.0;

/// The limit as a number.
pub(super) fn plain(ours: &Allocator, seconds: usize) -> Result<Vec<Goal>, String> {
    let command = limited(ours, "512MiB", seconds).map_err(|error| error.to_string())?;
    watch("a limit of 512 MiB", command, seconds)
}

/// The limit of a control group.
pub(super) fn in_a_group(ours: &Allocator, seconds: usize) -> Result<Vec<Goal>, String> {
    let group = match Group::make(LIMIT.div_ceil(9) * 10) {
        Ok(group) => group,
        Err(error) => {
            println!("no control group with a limit can be made here: {error}\n");
            return Ok(vec![]);
        }
    };
    let mut command = limited(ours, "auto", seconds).map_err(|error| error.to_string())?;
    group.enter(&mut command).map_err(|error| error.to_string())?;
    let goals = watch("the limit of a control group", command, seconds);
    let peak = fs::read_to_string(group.path.join(group.version.peak));
    if let Some(bytes) = peak.ok().and_then(|text| text.trim().parse::<f64>().ok()) {
        println!("{}: {:.1} MiB at most, by its own count\n", group.path.display(), bytes / MIB);
    }
    goals
}

fn limited(ours: &Allocator, limit: &str, seconds: usize) -> io::Result<Command> {
    let mut command = program(ours)?;
    command.env("SPANHEAP_MEMORY_LIMIT", limit).stdin(Stdio::null());
    command.args(["limit".to_string(), HELD.to_string(), seconds.to_string()]);
    Ok(command)
}

fn watch(what: &str, mut command: Command, seconds: usize) -> Result<Vec<Goal>, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let of = |name| figure(&text, name);
    let (peak, own, replaced, refused) = (of("peak")?, of("own")?, of("replaced")?, of("refused")?);
    let mut table = table([what, "held, MiB", "replaced, millions", "refused", "resident at most, MiB"]);
    table.add_row([
        format!("{seconds} s"),
        HELD.to_string(),
        format!("{:.1}", replaced / 1e6),
        refused.to_string(),
        format!("{:.1}", (peak - own) / MIB),
    ]);
    println!("{table}\n");
    Ok(vec![
        Goal::at_most(&format!("resident under {what}, MiB"), (peak - own) / MIB, RESIDENT, 1),
        Goal::at_most(&format!("refused under {what}"), refused, 0.0, 0),
    ])
}

/// The files of a version of control groups.
struct Version {
    /// Where groups are, and which line of `/proc/self/cgroup` says in which we are.
    root: &'static str,
    line: &'static str,
    limit: &'static str,
    peak: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version { root: "/sys/fs/cgroup", line: "0::", limit: "memory.max", peak: "memory.peak" },
    Version {
        root: "/sys/fs/cgroup/memory",
        line: "memory:",
        limit: "memory.limit_in_bytes",
        peak: "memory.max_usage_in_bytes",
    },
];

/// A control group of ours, gone with the value.
struct Group {
    path: PathBuf,
    version: &'static Version,
}

impl Group {
    /// A group below our own that may have so many bytes.
    fn make(bytes: usize) -> io::Result<Group> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let mut why = io::Error::other("no controller of memory");
        for version in &VERSIONS {
            let own = groups.lines().find_map(|line| line.split_once(version.line));
            let Some((_, own)) = own else { continue };
            match Group::within(version, own, bytes) {
                Ok(group) => return Ok(group),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn within(version: &'static Version, own: &str, bytes: usize) -> io::Result<Group> {
        let path = PathBuf::from(format!("{}{own}", version.root)).join("spanheap-bench");
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        fs::create_dir(&path).map_err(named)?;
        // From here on it goes when this goes. Where no groups are mounted the folder is a plain one, without files.
        let group = Group { path, version };
        write(&group.path.join(version.limit), &bytes.to_string())?;
        Ok(group)
    }

    /// Has `command` be in the group from its first instruction on.
    fn enter(&self, command: &mut Command) -> io::Result<()> {
        let mut members = OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))?;
        // SAFETY: between fork and exec nothing but a system call is made: "0" is whoever writes it.
        unsafe { command.pre_exec(move || members.write_all(b"0")) };
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}
