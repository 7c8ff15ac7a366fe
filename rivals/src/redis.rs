//! Redis: the server is what is measured, the clients run on glibc.
//!
//! Wall time is that of `redis-benchmark` (start and shutdown of the server are not in it); processor time and
//! peak are the server's. The benchmark's keys are random, so what is compared is what comes after it: the
//! digest of a data set of 60,000 keys that a fixed script makes.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{self, Cost};
use crate::packages;
use crate::workload::{Family, Job, Place, Workload};

/// The workload.
pub(crate) const WORKLOAD: Workload = Workload {
    name: "redis",
    about: "redis-server under redis-benchmark: strings, lists, sets, hashes, sorted sets",
    family: Family::Program,
    needs: &[
        ("redis-server", "redis-server"),
        ("redis-benchmark", "redis-tools"),
        ("redis-cli", "redis-tools"),
    ],
    prepare: commands,
    before: "rm -f redis.socket",
    job: Job::Redis,
    variables: &[],
    after: "",
};

const SOCKET: &str = "redis.socket";
const SERVER: &[&str] = &[
    "--port",
    "0",
    "--unixsocket",
    SOCKET,
    "--save",
    "",
    "--appendonly",
    "no",
    "--enable-debug-command",
    "yes",
    "--loglevel",
    "warning",
];
const BENCHMARK: &[&str] = &[
    "-q",
    "-n",
    "25000",
    "-r",
    "50000",
    "-d",
    "100",
    "-P",
    "8",
    "-t",
    "set,get,incr,lpush,rpop,sadd,hset,spop,zadd,zpopmin,mset",
];

/// A server on a socket in a folder, under the allocator of its place.
pub(crate) struct Server<'a> {
    bare: Place<'a>,
    child: Child,
    start: Instant,
}

impl<'a> Server<'a> {
    /// Starts a server with these variables in its environment.
    pub(crate) fn start(place: &Place<'a>, variables: &[(&str, &str)]) -> io::Result<Server<'a>> {
        let mut command = place.command(&program("redis-server")?);
        command.args(SERVER).envs(variables.iter().copied());
        command.stdout(File::create(place.folder.join("errors"))?).process_group(0);
        let start = Instant::now();
        Ok(Server { bare: Place { library: None, ..*place }, child: command.spawn()?, start })
    }

    /// Waits until the server answers. `false`: it has ended, or never answers.
    pub(crate) fn answers(&mut self) -> io::Result<bool> {
        while !self.client("redis-cli", &["ping"])?.stdout(Stdio::null()).status()?.success() {
            if self.child.try_wait()?.is_some() || self.start.elapsed() > Duration::from_secs(20) {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// A client of it, on glibc.
    pub(crate) fn client(&self, name: &str, arguments: &[&str]) -> io::Result<Command> {
        let mut command = self.bare.command(&program(name)?);
        command.args(["-s", SOCKET]).args(arguments).stderr(Stdio::null());
        Ok(command)
    }

    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Has it shut down, and says how it ended and what it cost.
    pub(crate) fn stop(self) -> io::Result<(ExitStatus, Cost)> {
        self.client("redis-cli", &["shutdown", "nosave"])?.stdout(Stdio::null()).status()?;
        self.finish()
    }

    /// Waits for its end.
    fn finish(self) -> io::Result<(ExitStatus, Cost)> {
        measure::finish(self.child, self.start)
    }
}

fn program(name: &str) -> io::Result<PathBuf> {
    packages::find(name).ok_or_else(|| io::Error::other(format!("{name} is missing")))
}

/// One run: server up, benchmark, script, digest to `output`, server down.
pub(crate) fn run(place: &Place, mut output: File) -> io::Result<(ExitStatus, Cost)> {
    let mut server = Server::start(place, &[])?;
    if !server.answers()? {
        // The server's own status says why; nothing has been measured.
        return server.finish();
    }
    let begin = Instant::now();
    quiet(&mut server.client("redis-benchmark", BENCHMARK)?)?;
    let wall = begin.elapsed().as_secs_f64();
    quiet(&mut server.client("redis-cli", &["flushall"])?)?;
    let script = File::open(place.folder.join("commands"))?;
    quiet(server.client("redis-cli", &["--pipe"])?.stdin(script))?;
    for question in [&["dbsize"][..], &["debug", "digest"]] {
        output.write_all(&server.client("redis-cli", question)?.output()?.stdout)?;
    }
    let (status, cost) = server.stop()?;
    Ok((status, Cost { wall, ..cost }))
}

/// Runs a client whose output nobody reads.
fn quiet(command: &mut Command) -> io::Result<()> {
    // A failure here means that the server is gone: its status and the missing digest say so.
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
}

/// The fixed script, in Redis' inline form.
fn commands(folder: &Path) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(folder.join("commands"))?);
    for key in 0..60_000u64 {
        let value = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match key % 4 {
            0 => writeln!(file, "SET s{key} {value:0width$}", width = (value % 300) as usize)?,
            1 => writeln!(file, "RPUSH l{} {value}", key % 500)?,
            2 => writeln!(file, "HSET h{} f{key} {value}", key % 900)?,
            _ => writeln!(file, "ZADD z{} {key} {value}", key % 300)?,
        }
    }
    file.flush()
}
