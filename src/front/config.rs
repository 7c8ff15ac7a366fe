//! Configuration: what a heap is made with, and how a program's environment says it.
//!
//! `SPANHEAP_CONF=key:value,…`, `SPANHEAP_MEMORY_LIMIT=512MiB|off` and `SPANHEAP_GC_PERCENT=100|off`. A key or value that is not understood costs
//! one line on standard error, which names it and what would be right; the default holds then. Nothing
//! here ever stops somebody's program.

use crate::base::Bytes;
use crate::front::collect::CollectConfig;
use crate::front::environment;
use crate::front::profile::DEFAULT_MEAN;
use crate::os::{Nanoseconds, cgroup};
use core::fmt;

/// What a heap is made with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Address space to reserve. Where the system refuses, half of it is tried, and so on.
    pub reserve: Bytes,
    /// The least address space to be content with.
    pub least: Bytes,
    /// The most memory that the heap may commit, metadata included.
    pub limit: Option<Bytes>,
    /// Bytes between the samples of the heap profile, on average; `None` takes none.
    pub profile: Option<Bytes>,
    /// The file for the heap profile at exit, with `%p` for the process's number. Only the C door looks at it.
    pub profile_file: ProfileFile,
    /// Whether other processes can read the heap's figures, as far as the system lets them look at the process.
    pub page: bool,
    /// What to do about pointers that are not what they should be. Only the C door and the global allocator
    /// look at it: elsewhere misuse is returned or panics.
    pub misuse: OnMisuse,
    /// Whether free memory goes back to the system by itself.
    pub scavenger: Scavenger,
    /// Whether the C door lets threads run on stacks of the heap, where the program brings none of its own.
    pub thread_stacks: bool,
    /// What to say on standard error.
    pub log: Log,
    /// How the collector works, where the program does not say it by
    /// [`Heap::configure_collector`](crate::Heap::configure_collector).
    pub collect: CollectConfig,
    /// Whether doors whose programs have no barrier mark while those run.
    pub concurrent: Concurrent,
    /// The longest stop that is fine by the program: where marking would take longer, [`Concurrent::Auto`] marks while
    /// the program runs.
    pub pause: Nanoseconds,
}

/// Whether to mark while a program runs that has no barrier: the kernel tells which pages were written meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Concurrent {
    /// Where a stop would take longer than [`Config::pause`].
    Auto = 0,
    /// At every collection that begins by itself.
    On = 1,
    /// Never.
    Off = 2,
}

/// What a heap says on standard error while it works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Log {
    /// Nothing.
    Off,
    /// A line for each soft limit that was passed, and each purpose that was refused something for its hard one.
    Limits,
}

/// When free memory goes back to the system by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Scavenger {
    /// Never: only when the program asks, or the heap meets its limit.
    Off = 0,
    /// In the background, at a hundredth of a processor's time: what is above a tenth of what is in use, and, when nobody
    /// has used the heap for a while, everything.
    On = 1,
    /// In the background, everything, as soon as it is free.
    Eager = 2,
}

/// A path in a configuration; empty for none.
#[derive(Clone, Copy)]
pub struct ProfileFile {
    text: [u8; LONGEST_PROFILE_FILE],
    length: u16,
}

/// The longest path that a profile can go to.
const LONGEST_PROFILE_FILE: usize = 512;

/// What a door does about misuse, once it has said so on standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnMisuse {
    /// Stops the program: its memory is not what it believes.
    Abort,
    /// Goes on as if the call had not been made.
    Report,
}

/// What was not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigError<'a> {
    /// The variable.
    pub variable: &'static str,
    /// The part of it that was not understood.
    pub text: &'a str,
    /// What would have been.
    pub valid: &'static str,
}

/// The variable with options.
pub const CONF: &str = "SPANHEAP_CONF";
/// The variable with the limit on committed memory.
pub const MEMORY_LIMIT: &str = "SPANHEAP_MEMORY_LIMIT";
/// The variable with the growth between collections.
pub const GC_PERCENT: &str = "SPANHEAP_GC_PERCENT";
/// The longest stop that is fine where nobody says otherwise.
const DEFAULT_PAUSE: Nanoseconds = Nanoseconds(5_000_000);
/// The least address space that makes a heap.
pub const LEAST_RESERVE: Bytes = Bytes::mib(64);

const KEYS: &str = "keys: reserve:SIZE, limit:SIZE|auto|off, misuse:abort|report, \
                    scavenger:off|on|eager, log:off|limits, profile:SIZE|on|off, profile_file:PATH, \
                    page:on|off, thread_stacks:on|off, gc_percent:N|off, gc_least:SIZE, gc_workers:N, \
                    gc_trace:on|off, gc_verify:on|off, gc_poison:on|off, gc_stress:N|off, \
                    concurrent:auto|on|off, pause:TIME";
const SIZES: &str = "a size: a number and B, KiB, MiB, GiB or TiB";
const TIMES: &str = "a time: a number and us, ms or s";
const PERCENT: &str = "a number of percent, such as 100, or off";
const LIMITS: &str = "a limit: a number and B, KiB, MiB, GiB or TiB, or auto, or off";

impl Config {
    /// The defaults: 1 TiB of address space, no limit, no profile, stop on misuse.
    pub const fn new() -> Config {
        Config {
            reserve: Bytes::gib(1024),
            least: LEAST_RESERVE,
            limit: None,
            profile: None,
            profile_file: ProfileFile::NONE,
            page: true,
            misuse: OnMisuse::Abort,
            scavenger: Scavenger::On,
            log: Log::Off,
            thread_stacks: false,
            collect: CollectConfig::new(),
            concurrent: Concurrent::Off,
            pause: DEFAULT_PAUSE,
        }
    }

    /// The defaults, and what the environment of this process says: for programs that make a heap of their own and let
    /// their users say how it works. What is not understood costs a line on standard error. Paths for statistics and
    /// profiles are the C door's.
    ///
    /// ```
    /// use spanheap::{Config, Heap};
    ///
    /// let heap = Heap::new(Config::from_environment())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_environment() -> Config {
        let mut config = Config::new();
        environment::read(&mut config);
        config
    }

    /// 90 % of what the tightest control group around this process may have; `None` where there is no such group, or
    /// none with a limit.
    pub fn automatic_limit() -> Option<Bytes> {
        cgroup::tightest(cgroup::read).map(|Bytes(limit)| Bytes((limit as u128 * 9 / 10) as usize))
    }

    /// Takes in what `SPANHEAP_CONF` says; `complain` hears of what was not understood.
    pub fn read_conf<'a>(&mut self, text: &'a str, mut complain: impl FnMut(ConfigError<'a>)) {
        for text in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if let Err(valid) = self.set(text) {
                complain(ConfigError { variable: CONF, text, valid });
            }
        }
    }

    /// Takes in what `SPANHEAP_MEMORY_LIMIT` says; `complain` hears if it was not understood.
    pub fn read_limit<'a>(&mut self, text: &'a str, mut complain: impl FnMut(ConfigError<'a>)) {
        match limit(text) {
            Ok(limit) => self.limit = limit,
            Err(valid) => complain(ConfigError { variable: MEMORY_LIMIT, text, valid }),
        }
    }

    /// Takes in what `SPANHEAP_GC_PERCENT` says; `complain` hears if it was not understood.
    pub fn read_percent<'a>(&mut self, text: &'a str, mut complain: impl FnMut(ConfigError<'a>)) {
        match percent(text) {
            Ok(percent) => self.collect.percent = percent,
            Err(valid) => complain(ConfigError { variable: GC_PERCENT, text, valid }),
        }
    }

    fn set(&mut self, option: &str) -> Result<(), &'static str> {
        let (key, value) = option.split_once(':').ok_or(KEYS)?;
        match (key.trim(), value.trim()) {
            ("reserve", value) => {
                let reserve = size(value).ok_or(SIZES)?;
                if reserve < LEAST_RESERVE {
                    return Err("reserve: at least 64MiB");
                }
                self.reserve = reserve;
            }
            ("limit", value) => self.limit = limit(value)?,
            ("misuse", "abort") => self.misuse = OnMisuse::Abort,
            ("misuse", "report") => self.misuse = OnMisuse::Report,
            ("page", "on") => self.page = true,
            ("page", "off") => self.page = false,
            ("page", _) => return Err("page:on or page:off"),
            ("misuse", _) => return Err("misuse:abort or misuse:report"),
            ("log", "off") => self.log = Log::Off,
            ("log", "limits") => self.log = Log::Limits,
            ("log", _) => return Err("log:off or log:limits"),
            ("thread_stacks", "on") => self.thread_stacks = true,
            ("thread_stacks", "off") => self.thread_stacks = false,
            ("thread_stacks", _) => return Err("thread_stacks:on or thread_stacks:off"),
            ("scavenger", "off") => self.scavenger = Scavenger::Off,
            ("scavenger", "on") => self.scavenger = Scavenger::On,
            ("scavenger", "eager") => self.scavenger = Scavenger::Eager,
            ("scavenger", _) => return Err("scavenger:off, scavenger:on or scavenger:eager"),
            ("profile", value) => self.profile = profile(value)?,
            ("profile_file", path) => {
                self.profile_file =
                    ProfileFile::new(path).ok_or("profile_file: a path of at most 512 bytes")?;
            }
            (key, value) => return self.set_collector(key, value),
        }
        Ok(())
    }

    /// As [`Config::set`], for the keys of the collector.
    fn set_collector(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        let collect = &mut self.collect;
        match key {
            "gc_percent" => collect.percent = percent(value)?,
            "gc_least" => collect.least = size(value).ok_or(SIZES)?,
            "gc_workers" => collect.workers = value.parse().map_err(|_| "gc_workers: a number of threads")?,
            "gc_trace" => collect.trace = switch(value).ok_or("gc_trace:on or gc_trace:off")?,
            "gc_verify" => collect.verify = switch(value).ok_or("gc_verify:on or gc_verify:off")?,
            "gc_poison" => collect.poison = switch(value).ok_or("gc_poison:on or gc_poison:off")?,
            "gc_stress" if value == "off" => collect.stress = None,
            "gc_stress" => {
                let every = value.parse().ok().filter(|&every| every > 0);
                collect.stress = Some(every.ok_or("gc_stress: every how many slow allocations, or off")?);
            }
            "concurrent" => {
                self.concurrent = match value {
                    "auto" => Concurrent::Auto,
                    "on" => Concurrent::On,
                    "off" => Concurrent::Off,
                    _ => return Err("concurrent:auto, concurrent:on or concurrent:off"),
                }
            }
            "pause" => self.pause = time(value).ok_or(TIMES)?,
            _ => return Err(KEYS),
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::new()
    }
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn percent(text: &str) -> Result<Option<u32>, &'static str> {
    match text.trim() {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|_| PERCENT),
    }
}

fn profile(text: &str) -> Result<Option<Bytes>, &'static str> {
    match text {
        "off" => Ok(None),
        "on" => Ok(Some(DEFAULT_MEAN)),
        text => size(text)
            .filter(|mean| mean.0 > 0)
            .map(Some)
            .ok_or("profile:SIZE (bytes between samples), on, or off"),
    }
}

impl ProfileFile {
    /// No path.
    pub const NONE: ProfileFile = ProfileFile { text: [0; LONGEST_PROFILE_FILE], length: 0 };

    /// A path, unless it is too long.
    pub fn new(path: &str) -> Option<ProfileFile> {
        let mut file = ProfileFile::NONE;
        file.text.get_mut(..path.len())?.copy_from_slice(path.as_bytes());
        file.length = path.len() as u16;
        Some(file)
    }

    /// The path, if there is one.
    pub fn path(&self) -> Option<&str> {
        let path = core::str::from_utf8(&self.text[..self.length.into()]).ok()?;
        (!path.is_empty()).then_some(path)
    }
}

impl fmt::Debug for ProfileFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().fmt(f)
    }
}

fn limit(text: &str) -> Result<Option<Bytes>, &'static str> {
    // Go takes an empty limit for none.
    if matches!(text.trim(), "" | "off") {
        return Ok(None);
    }
    if text.trim() == "auto" {
        return Ok(Config::automatic_limit());
    }
    size(text).map(Some).ok_or(LIMITS)
}

/// A size in Go's grammar: a number, and `B`, `KiB`, `MiB`, `GiB` or `TiB`. `None` for anything else, and where
/// the size is more than an address can say.
pub fn size(text: &str) -> Option<Bytes> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift).map(Bytes)
}

/// A time: a number, and `us`, `ms` or `s`.
fn time(text: &str) -> Option<Nanoseconds> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let nanoseconds = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(nanoseconds).map(Nanoseconds)
}

impl fmt::Display for ConfigError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} is not understood; {}", self.variable, self.text, self.valid)
    }
}

impl core::error::Error for ConfigError<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_gos_grammar() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("17B", 17), ("3KiB", 3 << 10), ("512MiB", 512 << 20), ("2TiB", 2 << 40)]
        {
            assert_eq!(size(text), Some(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "12MB", "12mib", "-1", "1.5GiB", "99999999999TiB", "1 MiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_and_the_default_holds() {
        let mut config = Config::new();
        let mut heard = Vec::new();
        config
            .read_conf("reserve:1GiB, colour:red,misuse:maybe,,limit:1MiB,page:off,page:maybe,x", |error| {
                heard.push(error.text)
            });
        assert_eq!(heard, ["colour:red", "misuse:maybe", "page:maybe", "x"]);
        assert_eq!((config.reserve, config.limit), (Bytes::gib(1), Some(Bytes::mib(1))));
        assert_eq!((config.misuse, config.page), (OnMisuse::Abort, false));
        config.read_conf("profile:64KiB,profile_file:/tmp/heap.%p.pb.gz", |error| panic!("{error}"));
        assert_eq!(config.profile, Some(Bytes::kib(64)));
        assert_eq!(config.profile_file.path(), Some("/tmp/heap.%p.pb.gz"));
        config.read_conf("profile:0,profile:often", |error| heard.push(error.text));
        assert_eq!(heard.split_off(4), ["profile:0", "profile:often"]);
        config.read_conf("profile:on", |error| panic!("{error}"));
        assert_eq!(config.profile, Some(DEFAULT_MEAN));
        config.read_conf("profile:off,profile_file:", |error| panic!("{error}"));
        assert_eq!((config.profile, config.profile_file.path()), (None, None));
        config.read_limit("off", |_| panic!("off is a limit"));
        assert_eq!(config.limit, None);
        config.read_limit("12 apples", |error| heard.push(error.text));
        assert_eq!(heard.last(), Some(&"12 apples"));
    }

    #[test]
    fn the_collector_is_set_by_its_keys() {
        let mut config = Config::new();
        let mut heard = Vec::new();
        let text =
            "gc_percent:40,gc_least:1MiB,gc_workers:3,gc_trace:on,gc_verify:on,gc_poison:on,gc_stress:7";
        config.read_conf(text, |error| panic!("{error}"));
        let CollectConfig { percent, least, workers, stress, verify, poison, trace } = config.collect;
        assert_eq!((percent, least, workers, stress), (Some(40), Bytes::mib(1), 3, Some(7)));
        assert!(verify && poison && trace);
        config.read_percent("a lot", |error| heard.push(error.to_string()));
        let expected =
            r#"SPANHEAP_GC_PERCENT: "a lot" is not understood; a number of percent, such as 100, or off"#;
        assert_eq!(heard, [expected]);
        assert_eq!(config.collect.percent, Some(40), "what held before goes on");
        let text = "gc_percent:-1,gc_workers:x,gc_trace:maybe,gc_stress:0,gc_colour:red,gc_least:little";
        let mut heard = Vec::new();
        config.read_conf(text, |error| heard.push(error.text));
        assert_eq!(heard, text.split(',').collect::<Vec<_>>());
        config.read_percent(" off", |error| panic!("{error}"));
        config.read_conf("gc_stress:off,gc_trace:off", |error| panic!("{error}"));
        for (text, pause) in [("250us", 250_000), ("3ms", 3_000_000), ("1s", 1_000_000_000)] {
            config.read_conf(&format!("concurrent:on, pause:{text}"), |error| panic!("{error}"));
            assert_eq!((config.concurrent, config.pause.0), (Concurrent::On, pause));
        }
        let mut heard = Vec::new();
        config.read_conf("concurrent:maybe,pause:3,pause:ms,pause:1h", |error| heard.push(error.text));
        assert_eq!(heard, ["concurrent:maybe", "pause:3", "pause:ms", "pause:1h"]);
        assert_eq!((config.collect.percent, config.collect.stress), (None, None));
        assert!(!config.collect.trace);
    }
}
