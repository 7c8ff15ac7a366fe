//! A heap as a value: spans of a declared purpose, their limits, and the books.
//!
//! Nothing here is a global allocator. The program makes a heap, takes whole spans from it, and drops it; everything goes
//! back to the system then.
//!
//!     cargo run --release --example spans

use spanheap::stats::Account;
use spanheap::{Bytes, Config, Heap, ManualSpan, Scarce};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // 64 GiB of address space cost nothing; at most 64 MiB of memory.
    let heap = Heap::new(Config { reserve: Bytes::gib(64), limit: Some(Bytes::mib(64)), ..Config::new() })?;
    let buffers = heap.declare("buffers")?;
    let pages = heap.declare("page-cache")?;
    pages.set_limit(Some(Bytes::mib(1)));

    // A span is a run of 8 KiB pages. It belongs to its holder, knows its purpose, and frees itself.
    let mut buffer = buffers.allocate_span(Bytes::kib(100))?;
    println!("{buffer:?}");
    buffer.zero()[..5].copy_from_slice(b"hello");

    // The purpose's limit says no, and says why.
    let mut kept: Vec<ManualSpan<'_>> = Vec::new();
    let refused = loop {
        match pages.allocate_span(Bytes::kib(64)) {
            Ok(span) => kept.push(span),
            Err(refused) => break refused,
        }
    };
    println!("{} spans of page-cache, then: {refused}", kept.len());
    assert_eq!((kept.len(), refused.scarce), (16, Scarce::PurposeLimit));

    // One instant of the books: the sum over all accounts is zero.
    let snapshot = heap.snapshot();
    snapshot.check()?;
    for account in [Account::Span(buffers.id()), Account::Span(pages.id()), Account::Free, Account::Cached] {
        println!("{:>12} bytes in {account:?}", snapshot.balance(account));
    }

    // What is free goes back to the system when it is asked for.
    drop((buffer, kept));
    println!("{} given back; peak of page-cache {}", heap.release_all(), pages.peak());
    heap.check()?;
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
