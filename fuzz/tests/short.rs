//! The first of the two drivers: a short run of every body, the same in every run. Inputs that fail shrink.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Runs a body on `cases` inputs of up to `longest` bytes.
fn run(cases: u32, longest: usize, body: fn(&[u8])) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let inputs = proptest::collection::vec(any::<u8>(), 0..longest);
    runner
        .run(&inputs, |input| {
            body(&input);
            Ok(())
        })
        .unwrap();
}

#[test]
fn base() {
    run(200, 400, spanheap_fuzz::base::fuzz);
}

#[test]
fn stats() {
    run(60, 1000, spanheap_fuzz::stats::fuzz);
}

#[test]
fn os() {
    run(60, 400, spanheap_fuzz::os::fuzz);
}

#[test]
fn page() {
    run(20, 400, spanheap_fuzz::page::fuzz);
}

#[test]
fn program() {
    run(2000, 60, spanheap_fuzz::program::fuzz);
}

#[test]
fn span() {
    run(60, 800, spanheap_fuzz::span::fuzz);
}

#[test]
fn block() {
    run(40, 1200, spanheap_fuzz::block::fuzz);
}

#[test]
fn stack() {
    run(40, 800, spanheap_fuzz::stack::fuzz);
}

#[test]
fn object() {
    run(40, 800, spanheap_fuzz::object::fuzz);
}

#[test]
fn gc() {
    run(25, 1500, spanheap_fuzz::gc::fuzz);
}

#[test]
fn front() {
    run(40, 800, spanheap_fuzz::front::fuzz);
}

#[test]
fn configuration() {
    run(300, 60, spanheap_fuzz::front::configuration);
}
