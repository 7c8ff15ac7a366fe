//! A process that has a statistics page.
//!
//! The page is found by the beacon in the data of the program or of a library, and read through `/proc/PID/mem`.
//! `docs/statistics-page.md` says how; [`spanheap::stats::outside`] does the reading. The process takes no part.

use super::maps::{self, Mapping};
use spanheap::stats::Snapshot;
use spanheap::stats::outside::{self, Memory, Outside, ReadError, Released, Reserved};
use spanheap::stats::window::{BEACON_ALIGN, BEACON_BYTES, Handed, ProfileOrder};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a heap may take to stand still or to answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an order may take that can wait.
const MOMENT: Duration = Duration::from_millis(50);
/// How long a program may take to hand its profile out.
const PROFILE_PATIENCE: Duration = Duration::from_secs(5);
/// A longer profile is none.
const LONGEST_PROFILE: u64 = 1 << 30;
/// The pause between two rounds.
const PAUSE: Duration = Duration::from_micros(50);
/// Data of a file that is read at once, in search of a beacon.
const PIECE: usize = 1 << 20;

/// Why a process cannot be watched. Prints as a sentence about it.
#[derive(Debug)]
pub(crate) enum Unwatchable {
    /// There is no such process.
    Gone(u32),
    /// The system does not let us look.
    Forbidden(u32, io::Error),
    /// It has no heap of ours, as far as can be seen.
    NoHeap(u32),
    /// It has no heap of this number.
    NoSuchHeap(u32, u64, Vec<u64>),
    /// Its page cannot be read.
    Page(u32, ReadError),
    /// It has not done what was ordered.
    Silent(u32),
    /// It has no profile, or none that it can hand out; and whether it takes samples.
    NoProfile(u32, bool),
}

/// The memory of a process.
struct Mem {
    file: File,
    writable: bool,
}

/// A heap of a process, under watch.
pub(crate) struct Target {
    pid: u32,
    mem: Mem,
    page: Box<Outside>,
    snapshot: Box<Snapshot>,
    question: u64,
}

impl Memory for Mem {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), i32> {
        self.file.read_exact_at(into, at).map_err(|e| e.raw_os_error().unwrap_or(0))
    }

    fn write(&self, at: u64, word: u64) -> Result<(), i32> {
        if !self.writable {
            return Err(rustix::io::Errno::ACCESS.raw_os_error());
        }
        self.file.write_all_at(&word.to_ne_bytes(), at).map_err(|e| e.raw_os_error().unwrap_or(0))
    }
}

impl Mem {
    /// Opens a process's memory: to read and to write the page's own words, or to read alone.
    fn open(pid: u32) -> Result<Mem, Unwatchable> {
        let path = format!("/proc/{pid}/mem");
        let (file, writable) = match File::options().read(true).write(true).open(&path) {
            Ok(file) => (Ok(file), true),
            Err(_) => (File::open(&path), false),
        };
        let file = file.map_err(|error| Unwatchable::from_io(pid, error))?;
        Ok(Mem { file, writable })
    }
}

impl Unwatchable {
    pub(super) fn from_io(pid: u32, error: io::Error) -> Unwatchable {
        let is_there = fs::exists(format!("/proc/{pid}")).unwrap_or(true);
        match error.kind() {
            _ if !is_there => Unwatchable::Gone(pid),
            io::ErrorKind::PermissionDenied => Unwatchable::Forbidden(pid, error),
            _ => Unwatchable::Gone(pid),
        }
    }
}

impl fmt::Display for Unwatchable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unwatchable::Gone(pid) => write!(f, "there is no process {pid}"),
            Unwatchable::Forbidden(pid, error) => {
                write!(f, "process {pid} may not be looked at ({error}); its user may, unless ")?;
                write!(f, "kernel.yama.ptrace_scope or the program forbids it, and root may")
            }
            Unwatchable::NoHeap(pid) => write!(
                f,
                "process {pid} ({}) does not run on Spanheap; start it with `spanheap run -- PROGRAM`",
                command(*pid)
            ),
            Unwatchable::NoSuchHeap(pid, wanted, there) => {
                let there: Vec<String> = there.iter().map(u64::to_string).collect();
                write!(f, "process {pid} has no heap {wanted}; it has {}", there.join(", "))
            }
            Unwatchable::Page(pid, error) => write!(f, "process {pid} ({}): {error}", command(*pid)),
            Unwatchable::Silent(pid) => write!(
                f,
                "process {pid} ({}) has not answered: it does when it next needs memory from its heap",
                command(*pid)
            ),
            Unwatchable::NoProfile(pid, false) => {
                write!(f, "process {pid} has no profile; `spanheap profile {pid} --start` begins one")
            }
            Unwatchable::NoProfile(pid, true) => {
                write!(f, "process {pid} could not hand its profile out: the system refused it memory")
            }
        }
    }
}

impl Target {
    /// Finds the heaps of a process and takes one under watch: the one with this number, or else the process heap, or
    /// else the first.
    pub(crate) fn open(pid: u32, heap: Option<u64>) -> Result<Target, Unwatchable> {
        let mem = Mem::open(pid)?;
        let maps = maps::read(pid).map_err(|error| Unwatchable::from_io(pid, error))?;
        let (mut pages, mut trouble) = (Vec::new(), None);
        for start in beacons(&mem, &maps, |_| true).into_iter().flatten() {
            let mut at = Some(start.0 as u64);
            // More than a process can list is a circle.
            for _ in 0..1 << 16 {
                let Some(address) = at else { break };
                match Outside::open(&mem, address).map(Box::new) {
                    Ok(page) => {
                        at = page.next();
                        pages.push(page);
                    }
                    Err(error) => {
                        trouble = Some(error);
                        break;
                    }
                }
            }
        }
        let serials: Vec<u64> = pages.iter().map(|page| page.serial()).collect();
        let page = match heap {
            None => pages.into_iter().next(),
            Some(wanted) => pages.into_iter().find(|page| page.serial() == wanted),
        };
        let Some(page) = page else {
            return Err(match (trouble, heap) {
                (_, Some(wanted)) if !serials.is_empty() => Unwatchable::NoSuchHeap(pid, wanted, serials),
                (Some(error), _) => Unwatchable::Page(pid, error),
                (None, _) => Unwatchable::NoHeap(pid),
            });
        };
        // Programs that watch have different numbers, and a word of this one's own counts on from there.
        let question = u64::from(std::process::id()) << 32 | unique();
        Ok(Target { pid, mem, page, snapshot: Box::new(Snapshot::zero()), question })
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Reads the books at one instant.
    pub(crate) fn read(&mut self) -> Result<&Snapshot, Unwatchable> {
        self.question += 1;
        let end = Instant::now() + PATIENCE;
        let wait = || {
            std::thread::sleep(PAUSE);
            Instant::now() < end
        };
        match self.page.read(&self.mem, &mut self.snapshot, self.question, wait) {
            Ok(_) => Ok(&self.snapshot),
            // Reading where a process was finds nothing.
            Err(ReadError::Refused { .. }) if !is_alive(self.pid) => Err(Unwatchable::Gone(self.pid)),
            Err(error) => Err(Unwatchable::Page(self.pid, error)),
        }
    }

    /// What the heap has reserved.
    pub(crate) fn ranges(&self) -> &[Reserved] {
        self.page.ranges()
    }

    /// Asks the program to enter the blocks that the answering thread holds, and gives it a moment for that. A program
    /// that does not work has nothing new to enter.
    pub(crate) fn count(&mut self) {
        self.question += 1;
        let end = Instant::now() + MOMENT;
        if self.page.order_count(&self.mem, self.question).is_ok() {
            while Instant::now() < end && self.page.counted(&self.mem).is_ok_and(|done| done != self.question)
            {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Orders free memory to be released and waits a moment. Returns the bytes that went back, if it was done.
    pub(crate) fn release_and_wait(&mut self) -> Result<Option<u64>, Unwatchable> {
        let before = self.released()?.sum;
        self.release()?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let now = self.released()?;
            if now.done == self.question {
                return Ok(Some(now.sum.saturating_sub(before)));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// Orders something about the heap profile, and waits until it is done.
    pub(crate) fn order_profile(&mut self, order: ProfileOrder) -> Result<Handed, Unwatchable> {
        self.question += 1;
        let failed = |error| Unwatchable::Page(self.pid, error);
        self.page.order_profile(&self.mem, order, self.question).map_err(failed)?;
        let end = Instant::now() + PROFILE_PATIENCE;
        while Instant::now() < end {
            if let Some(handed) = self.page.handed(&self.mem, self.question).map_err(failed)? {
                return Ok(handed);
            }
            std::thread::sleep(PAUSE);
        }
        Err(Unwatchable::Silent(self.pid))
    }

    /// Has the profile handed out, and copies it.
    pub(crate) fn profile(&mut self) -> Result<Vec<u8>, Unwatchable> {
        let handed = self.order_profile(ProfileOrder::HandOut)?;
        if handed.bytes == 0 || handed.bytes > LONGEST_PROFILE {
            return Err(Unwatchable::NoProfile(self.pid, handed.mean > 0));
        }
        let mut bytes = vec![0; handed.bytes as usize];
        let failed = |error| Unwatchable::Page(self.pid, error);
        self.page.profile(&self.mem, handed, &mut bytes).map_err(failed)?;
        // It takes it back when it comes by; nobody waits for that.
        self.question += 1;
        self.page.order_profile(&self.mem, ProfileOrder::TakeBack, self.question).map_err(failed)?;
        Ok(bytes)
    }

    /// Orders free memory to be released.
    pub(crate) fn release(&mut self) -> Result<(), Unwatchable> {
        self.question += 1;
        self.page.order_release(&self.mem, self.question).map_err(|error| Unwatchable::Page(self.pid, error))
    }

    /// What has become of orders to release.
    pub(crate) fn released(&self) -> Result<Released, Unwatchable> {
        self.page.released(&self.mem).map_err(|error| Unwatchable::Page(self.pid, error))
    }
}

/// A number that this process has not had before.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1 << 20, Ordering::Relaxed)
}

/// Whether the process runs: one that has ended and that nobody waited for does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

/// The name of the program that a process runs.
pub(crate) fn command(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A process names itself, and not always with what a terminal should see.
    let text = String::from_utf8_lossy(&name);
    text.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The starts of all lists of windows: what the beacons name in the data of those files that `of` chooses.
fn beacons(mem: &Mem, maps: &[Mapping], of: impl Fn(&str) -> bool) -> Vec<Option<spanheap::base::Address>> {
    let mut found = Vec::new();
    let data = maps.iter().filter(|map| map.is_private_data() && of(&map.name));
    for map in data {
        let mut at = map.from;
        while at < map.to {
            let mut bytes = vec![0; PIECE.min((map.to - at) as usize)];
            // The end of a file may lie before the end of its mapping.
            if mem.read(at, &mut bytes).is_ok() {
                let marks = bytes.chunks(BEACON_ALIGN).filter(|chunk| chunk.len() >= BEACON_BYTES);
                found.extend(marks.filter_map(outside::beacon));
            }
            at += bytes.len() as u64;
        }
    }
    // The process heap is what most people mean, so it comes first.
    let (process, others): (Vec<_>, Vec<_>) = found.into_iter().map(|[one, two]| (one, two)).unzip();
    process.into_iter().chain(others).collect()
}

/// Processes that have a statistics page and may be looked at.
pub(crate) fn list() -> Vec<u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = numbers.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.retain(|&pid| has_page(pid));
    pids
}

/// Whether a process has a page, by a quicker look: the program's own data, and libraries that are named after us.
fn has_page(pid: u32) -> bool {
    let Ok(mem) = Mem::open(pid) else { return false };
    let Ok(maps) = maps::read(pid) else { return false };
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let program = program.to_string_lossy();
    let likely = |name: &str| name == program || name.contains("spanheap");
    let starts = beacons(&mem, &maps, likely);
    starts.into_iter().flatten().any(|start| Outside::open(&mem, start.0 as u64).map(Box::new).is_ok())
}
