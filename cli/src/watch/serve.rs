//! `spanheap serve`: a live page for the browser, JSON and OpenMetrics, for one process.
//!
//! ```text
//!   GET /             the page, and its script and style: all from here, nothing from elsewhere
//!   GET /memory.json  books, resident memory, waterfall
//!   GET /metrics      OpenMetrics: Go's names and ours
//!   POST /release     orders free memory to be released; there only with --control
//! ```
//!
//! Who may ask:
//!
//! 1. The server listens on a loopback address, unless it was told to allow others.
//! 2. A request must name its host as an address or as `localhost`: a name that somebody points at this machine (DNS
//!    rebinding) does not get an answer. Where others are allowed, names are answered, but never orders.
//! 3. An order is a POST with a header of its own, which a page from elsewhere cannot send without asking first.
//!
//! However many browsers ask, the process is read at most so often: an answer serves all that ask within its age.

use super::openmetrics;
use super::show::{self, Which};
use super::target::{Target, Unwatchable};
use super::waterfall::{self, Waterfall};
use crate::run::say;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How old an answer about the books may be.
const FRESH: Duration = Duration::from_millis(100);
/// How old a waterfall may be: the kernel looks at every page of the process for one.
const FRESH_FALL: Duration = Duration::from_secs(5);

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) which: Which,
    pub(crate) listen: SocketAddr,
    /// Others than this machine may ask.
    pub(crate) allow_remote: bool,
    /// Orders are taken.
    pub(crate) control: bool,
}

/// The process, and what was read of it last.
struct Watched {
    target: Target,
    sample: Option<(Instant, Value)>,
    fall: Option<(Instant, Value)>,
}

struct Shared {
    watched: Mutex<Watched>,
    allow_remote: bool,
    control: bool,
}

/// `spanheap serve`. Returns the exit status; does not return while it serves.
pub(crate) fn serve(options: Options) -> i32 {
    if !options.listen.ip().is_loopback() && !options.allow_remote {
        say(format_args!(
            "{} is not a loopback address; everyone who reaches it could see the process's figures. Add \
             --allow-remote if that is meant",
            options.listen.ip()
        ));
        return 2;
    }
    let target = match options.which.open() {
        Ok(target) => target,
        Err(why) => return show::refuse(why),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(run(options, target)));
    match served {
        Ok(()) => 0,
        Err(error) => {
            say(format_args!("cannot serve at {}: {error}", options.listen));
            1
        }
    }
}

async fn run(options: Options, target: Target) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    say(format_args!("process {} is shown at http://{}/", target.pid(), listener.local_addr()?));
    axum::serve(listener, router(options, target)).await
}

/// The routes for one process.
fn router(options: Options, target: Target) -> Router {
    let shared = Arc::new(Shared {
        watched: Mutex::new(Watched { target, sample: None, fall: None }),
        allow_remote: options.allow_remote,
        control: options.control,
    });
    let file = |kind: &'static str, text: &'static str| get(move || async move { with_type(kind, text) });
    let mut router = Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/memory.json", get(memory))
        .route("/metrics", get(metrics));
    if options.control {
        router = router.route("/release", post(release));
    }
    router.layer(from_fn_with_state(shared.clone(), guard)).with_state(shared)
}

fn with_type(kind: &'static str, text: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Turns away who may not ask, and says to browsers what the answers may not be used for.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let known = is_address(request.headers());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = match (known, reads && shared.allow_remote) {
        (true, _) | (_, true) => next.run(request).await,
        (false, false) => {
            let why = "ask for this page by an address or as localhost, not by another name\n";
            (StatusCode::MISDIRECTED_REQUEST, why).into_response()
        }
    };
    const HEADERS: [(HeaderName, &str); 7] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a request names its host as an address or as `localhost`: not as a name that anybody could make up.
fn is_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || inside.unwrap_or(name).parse::<IpAddr>().is_ok()
}

async fn memory(State(shared): State<Arc<Shared>>) -> Response {
    let mut watched = shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
    match watched.sample(shared.control) {
        Ok(sample) => with_type("application/json", sample.to_string()),
        Err(why) => refusal(&why),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut watched = shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
    let process = waterfall::resident(watched.target.pid()).unwrap_or(0);
    match watched.target.read() {
        Ok(snapshot) => with_type(openmetrics::TYPE, openmetrics::text(snapshot, process)),
        Err(why) => refusal(&why),
    }
}

async fn release(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if headers.get("x-spanheap").is_none_or(|value| value != "release") {
        return (StatusCode::FORBIDDEN, "the header X-Spanheap: release is missing\n").into_response();
    }
    let mut watched = shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
    match watched.target.release() {
        Ok(()) => (StatusCode::ACCEPTED, "the order is given\n").into_response(),
        Err(why) => refusal(&why),
    }
}

/// A process that cannot be read: gone for good, or in trouble for now.
fn refusal(why: &Unwatchable) -> Response {
    let status = match why {
        Unwatchable::Gone(_) => StatusCode::GONE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{why}\n")).into_response()
}

impl Watched {
    /// All that the page shows.
    fn sample(&mut self, control: bool) -> Result<&Value, Unwatchable> {
        if !is_fresh(&self.sample, FRESH) {
            if !is_fresh(&self.fall, FRESH_FALL) {
                self.fall = Some((Instant::now(), Waterfall::take(&mut self.target)?.json()));
            }
            let pid = self.target.pid();
            let books: Value = serde_json::from_str(&show::json(&mut self.target)?).unwrap_or_default();
            let released = self.target.released()?;
            let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
            let sample = json!({
                "time": time,
                "books": books,
                "process": waterfall::resident(pid).map_err(|error| Unwatchable::from_io(pid, error))?,
                "waterfall": self.fall.as_ref().map(|fall| &fall.1),
                "control": control,
                "released": {"done": released.done, "sum": released.sum},
            });
            self.sample = Some((Instant::now(), sample));
        }
        Ok(self.sample.as_ref().map_or(&Value::Null, |sample| &sample.1))
    }
}

fn is_fresh(kept: &Option<(Instant, Value)>, age: Duration) -> bool {
    kept.as_ref().is_some_and(|kept| kept.0.elapsed() < age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_localhost() {
        let with = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            is_address(&headers)
        };
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "[::1]", "192.168.1.7"] {
            assert!(with(host), "{host}");
        }
        for host in ["example.org", "example.org:8080", "127.0.0.1.example.org", "", "localhost.example.org"]
        {
            assert!(!with(host), "{host}");
        }
        assert!(!is_address(&HeaderMap::new()));
    }
}
