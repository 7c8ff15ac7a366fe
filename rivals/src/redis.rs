//! Redis: the server is what is measured, the clients run on glibc.
//!
//! Wall time is that of `redis-benchmark` (start and shutdown of the server are not in it); processor time and
//! peak are the server's. The benchmark's keys are random, so what is compared is what comes after it: the
//! digest of a data set of 60,000 keys that a fixed script makes.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
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
    "-s",
    SOCKET,
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

/// One run: server up, benchmark, script, digest to `output`, server down.
pub(crate) fn run(place: &Place, mut output: File) -> io::Result<(std::process::ExitStatus, Cost)> {
    let bare = Place { library: None, ..*place };
    let program =
        |name: &str| packages::find(name).ok_or_else(|| io::Error::other(format!("{name} is missing")));
    let mut server = place.command(&program("redis-server")?);
    server.args(SERVER).stdout(File::create(place.folder.join("errors"))?);
    let start = Instant::now();
    let mut child = std::os::unix::process::CommandExt::process_group(&mut server, 0).spawn()?;
    let cli = program("redis-cli")?;
    let client = |arguments: &[&str]| {
        let mut command = bare.command(&cli);
        command.args(["-s", SOCKET]).args(arguments).stderr(Stdio::null());
        command
    };
    while !client(&["ping"]).stdout(Stdio::null()).status()?.success() {
        if child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(20) {
            // The server's own status says why; nothing has been measured.
            return measure::finish(child, start);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let begin = Instant::now();
    quiet(bare.command(&program("redis-benchmark")?).args(BENCHMARK))?;
    let wall = begin.elapsed().as_secs_f64();
    quiet(&mut client(&["flushall"]))?;
    quiet(client(&["--pipe"]).stdin(File::open(place.folder.join("commands"))?))?;
    for question in [&["dbsize"][..], &["debug", "digest"]] {
        output.write_all(&client(question).output()?.stdout)?;
    }
    client(&["shutdown", "nosave"]).stdout(Stdio::null()).status()?;
    let (status, cost) = measure::finish(child, start)?;
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
