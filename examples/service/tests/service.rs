//! The service over real HTTP: one part after the other is filled until it is refused, while the others go on.

use spanheap_service::{HEAP, LARGEST_BODY, ingest, router};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;

/// Starts the service, hands its address to `with`, and stops it: no thread of it is left.
fn with_service(with: impl FnOnce(&Client)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_io().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let client = Client(listener.local_addr().unwrap());
    runtime.spawn(async { axum::serve(listener, router()).await });
    with(&client);
    drop(runtime);
}

/// A client of one request a connection.
struct Client(SocketAddr);

impl Client {
    /// The status and the body of an answer.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// A figure of the endpoint for Prometheus.
    fn metric(&self, name: &str) -> i64 {
        let (status, text) = self.ask("GET", "/metrics", b"");
        assert_eq!(status, 200);
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        line.trim().parse().unwrap()
    }

    fn of_purpose(&self, figure: &str, purpose: &str) -> i64 {
        self.metric(&format!("spanheap_memory_purpose_{figure}{{purpose=\"{purpose}\"}}"))
    }
}

#[test]
fn one_part_is_refused_while_the_others_go_on() {
    with_service(|client| {
        // The cache is filled until it says no.
        let value = vec![b'v'; 256 << 10];
        let mut kept = 0;
        let refusal = loop {
            match client.ask("PUT", &format!("/cache/{kept}"), &value) {
                (204, _) => kept += 1,
                (status, body) => break (status, body),
            }
            assert!(kept < 32, "8 MiB hold 32 values and more");
        };
        assert_eq!(refusal, (503, "no memory for cache: wanted 256 KiB, limit of this purpose 8 MiB".into()));
        assert!(kept >= 24, "only {kept} values");
        assert!(client.of_purpose("refused_requests_total", "cache") > 0);
        assert!(client.of_purpose("inuse_bytes", "cache") <= 8 << 20);

        // What it has, it keeps; and there is room again for what is taken away.
        assert_eq!(client.ask("GET", "/cache/0", b""), (200, "v".repeat(256 << 10)));
        assert_eq!(client.ask("DELETE", "/cache/0", b"").0, 204);
        assert_eq!(client.ask("PUT", "/cache/again", &value).0, 204);
        assert_eq!(client.ask("PUT", "/cache/more", &value).0, 503);

        // Queries do not notice, until one wants more than all may have; the next one runs.
        assert_eq!(client.ask("GET", "/query/200000", b""), (200, "200000".into()));
        let (status, body) = client.ask("GET", "/query/2000000", b"");
        assert_eq!(status, 503);
        assert!(body.starts_with("no memory for query: wanted 61."), "{body}");
        assert_eq!(client.ask("GET", "/query/200000", b""), (200, "200000".into()));
        assert_eq!(client.ask("GET", "/query/many", b"").0, 400);

        // Nor does ingest, which lets its oldest go and is never refused.
        let batch = "a line of some length, so that it has a block of its own\n".repeat(8_000);
        let lines = |client: &Client| client.ask("GET", "/ingest", b"").1.parse::<usize>().unwrap();
        for _ in 0..20 {
            assert_eq!(client.ask("POST", "/ingest", batch.as_bytes()).0, 202);
        }
        assert!((8_000..80_000).contains(&lines(client)), "{}", lines(client));
        assert!(ingest::PASSED.load(Ordering::Relaxed) > 0);
        assert!(client.of_purpose("inuse_bytes", "ingest") <= 5 << 20);
        assert_eq!(client.of_purpose("refused_requests_total", "ingest"), 0);
        assert_eq!(client.ask("POST", "/ingest", &vec![b'x'; LARGEST_BODY + 1]).0, 413);

        // Everything goes again.
        for key in (1..kept).map(|key| key.to_string()).chain(["again".into()]) {
            assert_eq!(client.ask("DELETE", &format!("/cache/{key}"), b"").0, 204);
        }
        assert_eq!(client.ask("DELETE", "/ingest", b"").0, 204);
        assert_eq!(lines(client), 0);
    });
    let heap = HEAP.heap();
    heap.release_all();
    let metrics = heap.metrics();
    let inuse = |purpose: &str| metrics.number(&format!("/memory/purpose/{purpose}/inuse:bytes")).unwrap();
    assert_eq!(inuse("query"), 0, "queries leave nothing behind");
    assert!(inuse("cache") <= 64 << 10, "but the empty table, nothing of the cache: {}", inuse("cache"));
    assert!(inuse("ingest") <= 64 << 10, "nothing of the batches: {}", inuse("ingest"));
    heap.check().unwrap();
    metrics.snapshot().check().unwrap();
}
