//! `spanheap stats`, `explain`, `release` and `serve` on programs that run.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use support::{Started, end, spanheap, start_script};

/// Something that works all the time: strings that grow and go.
const BUSY: &str =
    "echo ready; while :; do x=$(printf 'y%.0s' {1..2000}); a+=(\"$x\"); ((${#a[@]} > 500)) && a=(); done";
/// Something that waits.
const IDLE: &str = "x=$(printf 'y%.0s' {1..9000}); echo ready; while :; do read -t 100 <> <(:); done";

fn json(arguments: &[&str]) -> Value {
    let ended = end(spanheap().args(arguments));
    assert!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

fn balanced(books: &Value) {
    assert_eq!(books["check"], "ok");
    let accounts = books["accounts"].as_object().unwrap();
    assert_eq!(accounts.values().map(|bytes| bytes.as_i64().unwrap()).sum::<i64>(), 0);
}

#[test]
fn books_of_busy_and_of_idle_programs_balance() {
    for script in [BUSY, IDLE] {
        let program = start_script(script, "");
        for _ in 0..10 {
            let books = json(&["stats", "--json", &program.pid()]);
            balanced(&books);
            assert_eq!((books["pid"].to_string(), &books["command"]), (program.pid(), &Value::from("bash")));
            assert!(books["purposes"]["blocks"]["inuse"].as_u64().unwrap() > 0);
        }
        let ended = end(spanheap().args(["stats", &program.pid()]));
        assert!(ended.stdout.contains("blocks") && ended.stdout.ends_with("check: ok\n"), "{}", ended.stdout);
        let ended = end(spanheap().arg("stats"));
        let listed = ended.stdout.lines().any(|line| line.split_whitespace().next() == Some(&program.pid()));
        assert!(listed, "{} is not in\n{}", program.pid(), ended.stdout);
    }
}

#[test]
fn a_child_has_a_page_of_its_own() {
    // The child is a copy of the shell that goes on by itself.
    let script = "(x=$(printf 'y%.0s' {1..90000}); echo ready; echo $BASHPID > $0; while :; do a+=(x); unset a; done) & wait";
    let file = support::scratch().join("child");
    // That of an earlier run would name a process that is gone.
    let _ = std::fs::remove_file(&file);
    let parent = start_script(&script.replace("$0", file.to_str().unwrap()), "");
    let child = loop {
        match std::fs::read_to_string(&file) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_string(),
            _ => std::thread::yield_now(),
        }
    };
    // It would go on without its parent.
    let _child = Orphan(child.clone());
    let [ours, theirs] = [&parent.pid(), &child].map(|pid| json(&["stats", "--json", pid]));
    balanced(&ours);
    balanced(&theirs);
    let allocated = |books: &Value| books["purposes"]["blocks"]["allocated"].as_u64().unwrap();
    assert!(allocated(&theirs) > allocated(&ours), "it has gone on from where its parent waits");
}

/// A process that somebody else started; ended with the test.
struct Orphan(String);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").arg(&self.0).status();
    }
}

#[test]
fn what_cannot_be_watched_is_said() {
    let refused = |pid: &str| {
        let ended = end(spanheap().args(["stats", pid]));
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""));
        ended.stderr
    };
    let closed = start_script(IDLE, "page:off");
    let text = refused(&closed.pid());
    assert!(text.contains("its statistics page is switched off (SPANHEAP_CONF=page:off)"), "{text}");
    let stranger = Started(std::process::Command::new("sleep").arg("100").spawn().unwrap());
    let text = refused(&stranger.pid());
    assert!(text.contains("(sleep) does not run on Spanheap; start it with `spanheap run"), "{text}");
    // Numbers of processes end long before this one.
    let text = refused("4194305");
    assert_eq!(text, "spanheap: there is no process 4194305\n");
    let program = start_script(IDLE, "");
    let ended = end(spanheap().args(["stats", "--heap", "99", &program.pid()]));
    assert!(ended.stderr.contains("has no heap 99; it has 1"), "{}", ended.stderr);
}

#[test]
fn an_explanation_accounts_for_the_whole_process() {
    for script in [BUSY, IDLE] {
        let program = start_script(script, "");
        let fall = json(&["explain", "--json", &program.pid()]);
        let of = |key: &str| fall[key].as_i64().unwrap();
        assert!(of("process") > 1 << 20);
        let parts = fall["parts"].as_array().unwrap();
        let sum: i64 = parts.iter().map(|part| part["resident"].as_i64().unwrap()).sum();
        assert_eq!(sum + of("unattributed"), of("process"));
        let owner = |name: &str| parts.iter().any(|part| part["owner"] == name);
        assert!(
            owner("the heap's pages") && owner("the program's file") && owner("library libc.so.6"),
            "{fall}"
        );
        let (least, most) =
            (fall["requested"]["least"].as_i64().unwrap(), fall["requested"]["most"].as_i64().unwrap());
        assert!(
            0 <= least && least <= most && most <= of("in_spans") && of("in_spans") <= of("committed"),
            "{fall}"
        );
        let ended = end(spanheap().args(["explain", &program.pid()]));
        assert!(
            ended.stdout.contains("the heap's pages") && ended.stdout.contains("unattributed"),
            "{}",
            ended.stdout
        );
    }
}

#[test]
fn an_order_to_release_is_carried_out_by_a_busy_program() {
    let program = start_script(BUSY, "scavenger:off");
    let ended = end(spanheap().args(["release", &program.pid()]));
    assert!(
        ended.status.success() && ended.stdout.starts_with("released "),
        "{} {}",
        ended.stdout,
        ended.stderr
    );
    balanced(&json(&["stats", "--json", &program.pid()]));
}

/// A server for a program, and where it listens.
struct Server {
    _process: Started,
    address: String,
}

fn serve(program: &Started, options: &[&str]) -> Server {
    let mut command = spanheap();
    command.args(["serve", &program.pid(), "--listen", "127.0.0.1:0"]).args(options);
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit("http://").next().unwrap().trim_end_matches('/').to_string();
    Server { _process: Started(process), address }
}

impl Server {
    /// The status, the head and the body of an answer.
    fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host =
            if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_string())
    }
}

#[test]
fn the_server_shows_books_metrics_and_page() {
    let program = start_script(BUSY, "");
    let server = serve(&program, &[]);
    let (status, head, page) = server.ask("GET", "/", "");
    assert_eq!(status, 200);
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
    assert!(
        head.contains("x-content-type-options: nosniff") && head.contains("x-frame-options: deny"),
        "{head}"
    );
    for file in ["page.js", "page.css"] {
        assert!(page.contains(file) && server.ask("GET", &format!("/{file}"), "").0 == 200);
    }
    let (status, head, sample) = server.ask("GET", "/memory.json", "");
    assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
    let sample: Value = serde_json::from_str(&sample).unwrap();
    balanced(&sample["books"]);
    assert!(sample["process"].as_i64() > Some(0) && sample["waterfall"]["process"].as_i64() > Some(0));
    assert_eq!(sample["control"], false);
    let (status, head, text) = server.ask("GET", "/metrics", "");
    assert!(status == 200 && head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(
        text.contains("spanheap_memory_purpose_inuse_bytes{purpose=\"blocks\"} ")
            && text.ends_with("# EOF\n")
    );
    assert_eq!(server.ask("GET", "/nothing", "").0, 404);
    drop(program);
    // An answer may be a tenth of a second old.
    while server.ask("GET", "/memory.json", "").0 == 200 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(server.ask("GET", "/memory.json", "").0, 410);
}

#[test]
fn orders_are_taken_only_where_they_are_allowed_and_from_nobody_else() {
    let program = start_script(BUSY, "");
    assert_eq!(serve(&program, &[]).ask("POST", "/release", "X-Spanheap: release\r\n").0, 404);
    let server = serve(&program, &["--control"]);
    assert_eq!(server.ask("POST", "/release", "").0, 403, "a page from elsewhere can send this");
    assert_eq!(server.ask("GET", "/release", "X-Spanheap: release\r\n").0, 405);
    for path in ["/", "/memory.json", "/metrics"] {
        assert_eq!(server.ask("GET", path, "Host: rebound.example\r\n").0, 421);
    }
    let rebound = "Host: rebound.example:7070\r\nX-Spanheap: release\r\n";
    assert_eq!(server.ask("POST", "/release", rebound).0, 421);
    assert_eq!(server.ask("POST", "/release", "X-Spanheap: release\r\n").0, 202);
}

#[test]
fn addresses_that_others_reach_are_refused_unless_asked_for() {
    let program = start_script(IDLE, "");
    let ended = end(spanheap().args(["serve", &program.pid(), "--listen", "0.0.0.0:0"]));
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        ended.stderr.contains("0.0.0.0 is not a loopback address") && ended.stderr.contains("--allow-remote")
    );
    // With it, names are answered, and orders by name are not.
    let server = serve(&program, &["--allow-remote", "--control"]);
    assert_eq!(server.ask("GET", "/", "Host: somewhere.example\r\n").0, 200);
    let by_name = "Host: somewhere.example\r\nX-Spanheap: release\r\n";
    assert_eq!(server.ask("POST", "/release", by_name).0, 421);
}

#[test]
fn top_wants_a_terminal() {
    let program = start_script(IDLE, "");
    let ended = end(spanheap().args(["top", &program.pid()]).stdin(Stdio::null()));
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("wants a terminal"), "{}", ended.stderr);
}
