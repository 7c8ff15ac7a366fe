//! What comes in and waits to be processed: plain collections of the standard library, filled in a scope.
//!
//! Such code cannot be told no, so it gets no hard limit. It has a soft one: the heap says when it is passed, and
//! while there is too much the part lets go of its oldest batches.

use crate::{Parts, Purpose};
use axum::extract::State;
use axum::http::StatusCode;
use spanheap::Bytes;
use spanheap::span::{SoftLimitCallback, SoftLimitEvent};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Batches of lines.
pub struct Ingest {
    purpose: Purpose,
    soft: Bytes,
    batches: Mutex<VecDeque<Vec<String>>>,
}

/// How often the soft limit was passed.
pub static PASSED: AtomicUsize = AtomicUsize::new(0);

/// Called by the thread that passed the limit, when its allocation is complete.
fn passed(_: usize, _: &SoftLimitEvent) {
    PASSED.fetch_add(1, Ordering::Relaxed);
}

impl Ingest {
    /// A part that should have at most `soft`.
    pub fn new(purpose: Purpose, soft: Bytes) -> Ingest {
        purpose.set_soft_limit(Some(soft), Some(SoftLimitCallback { call: passed, data: 0 }));
        Ingest { purpose, soft, batches: Mutex::new(VecDeque::new()) }
    }

    fn batches(&self) -> std::sync::MutexGuard<'_, VecDeque<Vec<String>>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a batch, and lets go of the oldest ones while there is too much.
    fn take_in(&self, text: &str) {
        let mut batches = self.batches();
        // All that is allocated in the scope is booked on the purpose, whatever library does it. There is no `await`
        // in a scope.
        self.purpose.scope(|| batches.push_back(text.lines().map(String::from).collect()));
        while self.purpose.inuse() > self.soft && batches.len() > 1 {
            batches.pop_front();
        }
    }
}

/// `POST /ingest`
pub async fn post(State(parts): State<&'static Parts>, text: String) -> StatusCode {
    parts.ingest.take_in(&text);
    StatusCode::ACCEPTED
}

/// `GET /ingest`: how many lines wait.
pub async fn get(State(parts): State<&'static Parts>) -> String {
    parts.ingest.batches().iter().map(Vec::len).sum::<usize>().to_string()
}

/// `DELETE /ingest`: all have been processed.
pub async fn delete(State(parts): State<&'static Parts>) -> StatusCode {
    *parts.ingest.batches() = VecDeque::new();
    StatusCode::NO_CONTENT
}
