//! A program that knows, and bounds, what each of its parts holds.
//!
//! The heap is the program's global allocator. Three parts have a purpose each: what a thread allocates inside a purpose's
//! scope belongs to that purpose, wherever it is freed. In the end the books are printed.
//!
//!     cargo run --release --example subsystems

use spanheap::{Bytes, Purpose, SpanHeap};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

#[global_allocator]
static HEAP: SpanHeap = SpanHeap::new();

/// How often the index has passed its soft limit.
static WARNINGS: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let declare = |name| HEAP.heap().declare(name).expect("each part declares its own name, once");
    let (sessions, index, results) = (declare("sessions"), declare("index"), declare("query-results"));

    // A soft limit is told to the program; a hard one refuses memory.
    index.set_soft_limit(
        Some(Bytes::mib(2)),
        Some(spanheap::span::SoftLimitCallback {
            call: |_, event| {
                WARNINGS.fetch_add(1, Ordering::Relaxed);
                println!("{} passed {}: it has {} now", event.purpose, event.limit, event.inuse);
            },
            data: 0,
        }),
    );
    results.set_limit(Some(Bytes::mib(4)));

    let users: HashMap<u32, String> =
        sessions.scope(|| (0..10_000).map(|user| (user, format!("session of user {user}"))).collect());
    let words = index.scope(build_index);

    // Results are made on other threads and dropped on this one: they are booked on their purpose all the same.
    let answers: Vec<Vec<u8>> = thread::scope(|threads| {
        let workers: Vec<_> = (0..4).map(|n| threads.spawn(move || answer(results, n))).collect();
        workers.into_iter().map(|worker| worker.join().expect("workers do not panic")).collect()
    });
    println!(
        "{} users, {} words, {} answers; query-results: {}",
        users.len(),
        words.len(),
        answers.len(),
        results.inuse()
    );

    // Beyond the limit `try_reserve` says no, and the program goes on.
    let mut large = Vec::<u8>::new();
    let refused = results.scope(|| large.try_reserve(8 << 20)).is_err();
    assert!(refused && results.refused() > 0, "8 MiB do not fit into 4");

    // A collection can carry its purpose with it instead.
    let mut row = allocator_api2::vec::Vec::new_in(&sessions);
    row.extend_from_slice(b"a vector of the sessions, outside of any scope");

    drop(answers);
    let snapshot = HEAP.heap().snapshot();
    let mut table = String::new();
    snapshot.write_table(&mut table).expect("a string takes everything");
    println!("\n{table}");
    snapshot.check().expect("the books balance");
    assert_eq!(WARNINGS.load(Ordering::Relaxed), 1, "the index passed its soft limit once");
}

/// A few megabytes of words and where they stand.
fn build_index() -> Vec<(String, Vec<u32>)> {
    (0..20_000).map(|n| (format!("word-{n}"), (0..n % 40).collect())).collect()
}

/// A result of half a megabyte.
fn answer(results: Purpose<'_>, n: u8) -> Vec<u8> {
    results.scope(|| vec![n; 512 << 10])
}

#[test]
fn runs() {
    main();
}
