//! How much of what is resident of a process `spanheap explain` cannot attribute: redis and python under the preloaded
//! library, and the example service, which is linked with the heap. Each has been put to use before it is asked about.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Goal, MIB, built, table};
use crate::allocators::Allocator;
use crate::packages;
use crate::redis::Server;
use crate::workload::Place;

/// Of what is resident, in percent.
const GOAL: f64 = 1.0;

/// What Python does before it waits for its end.
const SCRIPT: &str = "\
import sys
kept = {i: [str(i) * 3, (i, i + 1)] for i in range(60000)}
text = 'x' * 3_000_000
for key in list(kept)[::2]:
    del kept[key]
print('ready', flush=True)
sys.stdin.read()
";

/// Takes the three waterfalls and prints the table.
pub(super) fn run(ours: &Allocator, folder: &Path) -> Result<Vec<Goal>, String> {
    let cli = built("spanheap-cli", "spanheap")?;
    let service = built("spanheap-service", "spanheap-service")?;
    let falls = [
        ("redis", redis(ours, folder, &cli)?),
        ("python", python(ours, &cli)?),
        ("service", of_service(&service, &cli)?),
    ];
    let mut table = table(["", "in spans", "committed", "heap resident", "process", "unattributed, %"]);
    let mut goals = Vec::new();
    for (name, fall) in &falls {
        let of = |key: &str| fall[key].as_f64().ok_or_else(|| format!("{name}: explain does not say {key}"));
        let share = of("unattributed")?.abs() / of("process")? * 100.0;
        let mib = |bytes: f64| format!("{:.1}", bytes / MIB);
        table.add_row([
            name.to_string(),
            mib(of("in_spans")?),
            mib(of("committed")?),
            mib(of("resident")?),
            mib(of("process")?),
            format!("{share:.2}"),
        ]);
        goals.push(Goal::at_most(&format!("resident of {name} and not attributed, %"), share, GOAL, 2));
    }
    println!("`spanheap explain`, MiB\n\n{table}\n");
    Ok(goals)
}

fn explain(cli: &Path, process: u32) -> Result<Value, String> {
    let mut command = Command::new(cli);
    let output = command.args(["explain", "--json", &process.to_string()]).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{command:?}: {error}\n{said}"))
}

fn redis(ours: &Allocator, folder: &Path, cli: &Path) -> Result<Value, String> {
    let failed = |error: io::Error| format!("redis: {error}");
    let place = Place { folder, library: Some(&ours.library), configuration: "", divisor: 1 };
    let mut server = Server::start(&place, &[]).map_err(failed)?;
    if !server.answers().map_err(failed)? {
        return Err("redis does not answer".into());
    }
    let work = ["-q", "-n", "50000", "-r", "50000", "-d", "100", "-P", "8", "-t", "set,sadd,hset,spop"];
    server.client("redis-benchmark", &work).and_then(|mut client| client.output()).map_err(failed)?;
    let fall = explain(cli, server.process());
    server.stop().map_err(failed)?;
    fall
}

fn python(ours: &Allocator, cli: &Path) -> Result<Value, String> {
    let program = packages::find("python3").ok_or("python3 is missing")?;
    let mut command = Command::new(program);
    command.args(["-c", SCRIPT]).env("LD_PRELOAD", &ours.library).env("PYTHONMALLOC", "malloc");
    Started::new(command.stdin(Stdio::piped()), "ready")?.explained(cli)
}

/// The service, with something in its cache, after some batches and queries.
fn of_service(service: &Path, cli: &Path) -> Result<Value, String> {
    let started = Started::new(Command::new(service).arg("127.0.0.1:0"), "listening on ")?;
    let address = started.said.trim();
    let ask = |method: &str, path: &str, length: usize| {
        ask(address, method, path, length).map_err(|error| format!("service: {method} {path}: {error}"))
    };
    for key in 0..20 {
        ask("PUT", &format!("/cache/{key}"), 256 << 10)?;
        ask("POST", "/ingest", 200_000)?;
        ask("GET", "/query/100000", 0)?;
    }
    started.explained(cli)
}

fn ask(address: &str, method: &str, path: &str, length: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\n\r\n"
    )?;
    let line = b"a line that is kept for itself\n";
    let body: Vec<u8> = line.iter().copied().cycle().take(length).collect();
    stream.write_all(&body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.starts_with(b"HTTP/1.1 20") {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
    }
}

/// A program that has said that it is ready; it is ended with the value.
struct Started {
    child: Child,
    /// What it said behind the word that was waited for.
    said: String,
}

impl Started {
    fn new(command: &mut Command, word: &str) -> Result<Started, String> {
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let output = child.stdout.take().expect("the output is a pipe");
        let mut started = Started { child, said: String::new() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map_err(|error| format!("{command:?}: {error}"))?;
        let said = line.strip_prefix(word).ok_or_else(|| format!("{command:?} said {line:?}"))?;
        started.said = said.to_string();
        Ok(started)
    }

    fn explained(self, cli: &Path) -> Result<Value, String> {
        explain(cli, self.child.id())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
