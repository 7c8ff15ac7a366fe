//! A service whose three parts cannot take each other's memory.
//!
//! ```text
//!   PUT /cache/KEY ──▶ cache    hard limit: a value that does not fit is refused, the others stay
//!   POST /ingest   ──▶ ingest   soft limit: the oldest batches go when it is passed
//!   GET /query/N   ──▶ query    hard limit: a request that wants too much is refused, the next one runs
//!   GET /metrics   ──▶ every figure of the heap, for Prometheus
//! ```
//!
//! What there is to copy:
//!
//! 1. The heap is the program's global allocator ([`HEAP`]), and each part declares a purpose with a limit
//!    ([`Parts`]). What nobody declares anything for is booked on `blocks`.
//! 2. Where a refusal must be an answer and not the end of the program, collections carry their purpose with them and
//!    are grown with `try_reserve`: see [`cache`] and [`query`]. (A plain `Vec` calls `handle_alloc_error` when it gets
//!    no memory, and that aborts.) The refused request gets [503 and the heap's own words](refused::Refused).
//! 3. Where code of others allocates plain collections, it runs in a purpose's *scope*, and a *soft* limit tells the
//!    program to let go of something: see [`ingest`].
//! 4. A scope belongs to a thread and ends before the next `await`: the next poll may run on another thread, and other
//!    tasks run on this one meanwhile. Frees need no scope: blocks remember their purpose.

pub mod cache;
pub mod ingest;
pub mod query;
pub mod refused;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::routing::{get, post, put};
use prometheus_client::{encoding::text, registry::Registry};
use spanheap::export::prometheus::HeapCollector;
use spanheap::{Bytes, SpanHeap};
use std::sync::{Arc, LazyLock};

/// Every allocation of the program comes from here.
#[global_allocator]
pub static HEAP: SpanHeap = SpanHeap::new();

/// The right to allocate for one part of the program. It is a number and a pointer, and may be copied.
pub type Purpose = spanheap::Purpose<'static>;

/// The most that one request may carry.
pub const LARGEST_BODY: usize = 1 << 20;

/// The parts of the service: one purpose each.
pub struct Parts {
    /// What clients keep here.
    pub cache: cache::Cache,
    /// What comes in and is not processed yet.
    pub ingest: ingest::Ingest,
    /// What queries need while they run.
    pub query: query::Query,
}

/// A purpose has one name and is declared once in a process.
static PARTS: LazyLock<Parts> = LazyLock::new(|| {
    let declare = |name| HEAP.heap().declare(name).expect("the names are valid, unlike and few");
    Parts {
        cache: cache::Cache::new(declare("cache"), Bytes::mib(8)),
        ingest: ingest::Ingest::new(declare("ingest"), Bytes::mib(4)),
        query: query::Query::new(declare("query"), Bytes::mib(16)),
    }
});

/// The service.
pub fn router() -> Router {
    let parts: &'static Parts = &PARTS;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(HeapCollector::new(HEAP.heap())));
    Router::new()
        .route("/cache/{key}", put(cache::put).get(cache::get).delete(cache::delete))
        .route("/ingest", post(ingest::post).get(ingest::get).delete(ingest::delete))
        .route("/query/{rows}", get(query::get))
        .with_state(parts)
        .route("/metrics", get(metrics).with_state(Arc::new(registry)))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// Every figure of the heap, in the text format of OpenMetrics.
async fn metrics(
    State(registry): State<Arc<Registry>>,
) -> Result<([(header::HeaderName, &'static str); 1], String), StatusCode> {
    let mut body = String::new();
    // Only the writer could fail, and a `String` does not.
    text::encode(&mut body, &registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], body))
}
