//! The live page in a headless Chromium, driven through chromedriver: what a person sees at two widths and in both
//! colour schemes. Without Chromium the test says so and passes; `./test` installs it where it may.
//!
//! The pictures stay in the test's directory, for people to look at.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Started, scratch, spanheap, start_script};

/// Works in two ways by turns, so that there is something to see.
const PROGRAM: &str =
    "echo ready; while :; do for i in {1..400}; do a+=(\"$(printf 'y%.0s' {1..3000})\"); done; a=(); done";

/// A driver, and the session that it has open.
struct Browser {
    _driver: Started,
    port: u16,
    session: String,
}

/// Sends a command of the WebDriver protocol and returns its value.
fn send(port: u16, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    let body = body.to_string();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    // The driver keeps connections open whatever it is asked, so the length says where the answer ends.
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).map_err(|error| error.to_string())?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    match answer["value"].get("error") {
        Some(_) => Err(answer["value"].to_string()),
        None => Ok(answer["value"].clone()),
    }
}

impl Browser {
    /// Starts the browser, or says why there is none.
    fn start() -> Result<Browser, String> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().map_err(|error| format!("no chromedriver ({error})"))?;
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let driver = Started(driver);
        let port = loop {
            let line = lines.next().and_then(Result::ok).ok_or("chromedriver ended")?;
            if let Some(port) = line.split("successfully on port ").nth(1) {
                break port.trim_end_matches('.').parse().map_err(|_| line.clone())?;
            }
        };
        let profile = scratch().join(format!("profile-{}", std::process::id()));
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ];
        let mut arguments: Vec<String> = arguments.map(String::from).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = send(port, "POST", "/session", &wanted)?;
        let session = session["sessionId"].as_str().ok_or("no session")?.to_string();
        Ok(Browser { _driver: driver, port, session })
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        send(self.port, "POST", &format!("/session/{}/{path}", self.session), body).unwrap()
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Runs a script in the page.
    fn run(&self, script: &str) -> Value {
        self.command("execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression in the page is true.
    fn until(&self, expression: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.run(&format!("return !!({expression})")) != true {
            assert!(
                Instant::now() < end,
                "never: {expression}; the page says {}",
                self.run("return document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A picture of the whole page.
    fn picture(&self, name: &str) -> PathBuf {
        let taken =
            self.devtools("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let file = scratch().join(name);
        std::fs::write(&file, decode(taken["data"].as_str().unwrap())).unwrap();
        file
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = send(self.port, "DELETE", &format!("/session/{}", self.session), &json!({}));
    }
}

/// Base64 without line breaks, as the protocol has it.
fn decode(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').collect();
    let group = |four: &[u8]| {
        let bits = four.iter().fold(0u32, |bits, byte| bits << 6 | u32::from(value(*byte)))
            << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// What would disturb a person, as sentences; none if all is well.
const FAULTS: &str = include_str!("support/faults.js");

#[test]
fn a_person_can_read_the_page() {
    let browser = match Browser::start() {
        Ok(browser) => browser,
        Err(why) => return eprintln!("skipped: {why}; Debian: apt-get install chromium chromium-driver"),
    };
    let program = start_script(PROGRAM, "");
    let mut command = spanheap();
    command.args(["serve", &program.pid(), "--listen", "127.0.0.1:0", "--control"]).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let _server = Started(server);
    let address = line.trim().split("shown at ").nth(1).unwrap();
    browser.command("url", &json!({"url": address}));
    browser.until("history.length >= 6");
    for scheme in ["light", "dark"] {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", feature);
        for width in [1280, 400] {
            let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == 400});
            browser.devtools("Emulation.setDeviceMetricsOverride", size);
            browser.run("const before = history.length; window.before = before;");
            browser.until("history.length > window.before + 1");
            let picture = browser.picture(&format!("page-{scheme}-{width}.png"));
            assert_eq!(browser.run(FAULTS), json!([]), "{scheme}, {width} wide: see {}", picture.display());
        }
    }
    let text = browser.run("return document.body.innerText").as_str().unwrap().to_string();
    for wanted in ["bash", "books balanced", "requested", "resident", "the heap's pages", "blocks"] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    browser.run("document.getElementById('release').click()");
    browser.until("document.getElementById('released').textContent.includes('released on request')");
    drop(program);
    browser.until("document.getElementById('state').textContent === 'the process has ended'");
    let log = send(
        browser.port,
        "POST",
        &format!("/session/{}/se/log", browser.session),
        &json!({"type": "browser"}),
    );
    let log = log.unwrap();
    // The end of the process is an answer of its own, which the browser notes as a failure to load.
    let others: Vec<_> = log.as_array().unwrap().iter().filter(|e| !e.to_string().contains("410")).collect();
    assert!(others.is_empty(), "the browser complains: {others:?}");
}
