//! Threads on stacks of a heap: what they return, what becomes of their stacks, and what happens when one overflows.

use spanheap::{Bytes, Config, Guard, Heap};
use spanheap_thread::{Builder, overflow, reap};
use std::env;
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

fn heap() -> Arc<Heap> {
    Arc::new(Heap::new(Config::default()).unwrap())
}

fn inuse(heap: &Heap) -> i64 {
    heap.snapshot().purpose(heap.stacks().id()).stacks.unwrap().inuse
}

#[test]
fn threads_return_panic_and_have_names() {
    let heap = heap();
    let builder = Builder::new(&heap, heap.stacks()).stack_size(Bytes::kib(64)).name("a worker with a name");
    let text = String::from("moved in");
    let thread = builder.clone().spawn(move || {
        let local = 5;
        let stack = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        (text, stack, std::ptr::from_ref(&local).addr())
    });
    let (text, name, at) = thread.unwrap().join().unwrap();
    assert_eq!((text.as_str(), name.trim_end()), ("moved in", "a worker with a"));
    assert!(heap.find_stack(spanheap::base::Address(at)).is_some(), "it ran on another stack");
    let payload =
        builder.spawn(|| std::panic::resume_unwind(Box::new("enough"))).unwrap().join().unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"enough"));
    assert_eq!(inuse(&heap), 0);
    heap.check().unwrap();
}

#[test]
fn stacks_are_used_again_when_their_threads_are_gone() {
    let heap = heap();
    let builder = Builder::new(&heap, heap.stacks()).stack_size(Bytes::kib(128));
    for round in 0..200u64 {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                builder.clone().spawn(move || (0..100).fold(round + i, |sum, n| black_box(sum + n))).unwrap()
            })
            .collect();
        for (i, thread) in threads.into_iter().enumerate() {
            // Every other one is left alone.
            if i % 2 == 0 {
                assert_eq!(thread.join().unwrap(), round + i as u64 + 4950);
            }
        }
    }
    let start = Instant::now();
    while inuse(&heap) != 0 && start.elapsed() < Duration::from_secs(30) {
        reap();
        std::thread::yield_now();
    }
    assert_eq!(inuse(&heap), 0);
    assert!(heap.stacks().peak() < Bytes::mib(16), "{}", heap.stacks().peak());
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

#[test]
fn a_thread_that_runs_keeps_its_stack_and_tells_how_deep_it_went() {
    let heap = heap();
    let (go, wait) = channel::<()>();
    let (tell, told) = channel();
    let thread = Builder::new(&heap, heap.stacks()).spawn(move || {
        let large = black_box([1u8; 100_000]);
        tell.send(large[99_999]).unwrap();
        wait.recv()
    });
    let thread = thread.unwrap();
    told.recv().unwrap();
    assert!(!thread.is_finished());
    assert!(
        thread.watermark() > Bytes(100_000) && thread.watermark() < Bytes::kib(600),
        "{}",
        thread.watermark()
    );
    assert!(inuse(&heap) >= 2 << 20);
    drop(go);
    assert!(thread.join().unwrap().is_err());
    heap.check().unwrap();
}

#[test]
fn no_stack_is_an_error() {
    let heap = heap();
    heap.stacks().set_limit(Some(Bytes::kib(8)));
    let error = Builder::new(&heap, heap.stacks()).spawn(|| ()).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
    let (wanted, limit) = (Bytes::mib(2) + Bytes::kib(8), Bytes::kib(8));
    assert_eq!(
        error.to_string(),
        format!("no memory for stacks: wanted {wanted}, limit of this purpose {limit}"),
        "the stack and its guard"
    );
}

const WHICH: &str = "SPANHEAP_TEST_OVERFLOW";

fn dive(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { dive(depth + 1) + black_box(frame[7]) }
}

/// In a child process: a stack overflows in one of several ways.
fn overflow_in_child(which: &str) {
    let heap: &'static Heap = Box::leak(Box::new(Heap::new(Config::default()).unwrap()));
    overflow::install().unwrap();
    match which {
        "thread" => {
            let stacks = heap.declare_stacks("divers").unwrap();
            let thread = Builder::new(&heap, stacks).stack_size(Bytes::kib(64)).spawn(|| dive(0));
            thread.unwrap().join().unwrap();
        }
        "touch" => {
            let stack = heap.stacks().allocate(Bytes::kib(16), Guard::Yes).unwrap();
            // SAFETY: not at all: the guard is there so that this is a fault.
            unsafe { stack.limit().as_ptr().sub(8).write_volatile(1) };
        }
        "elsewhere" => {
            // SAFETY: as above.
            unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) };
        }
        _ => {}
    }
}

fn overflown(which: &str) -> (String, Option<i32>) {
    let run = Command::new(env::current_exe().unwrap())
        .args(["--exact", "an_overflow_names_the_stack", "--nocapture"])
        .env(WHICH, which)
        .output()
        .unwrap();
    (String::from_utf8_lossy(&run.stderr).into_owned(), run.status.signal())
}

#[test]
fn an_overflow_names_the_stack() {
    if let Ok(which) = env::var(WHICH) {
        return overflow_in_child(&which);
    }
    const SEGMENTATION_FAULT: i32 = 11;
    let (text, signal) = overflown("thread");
    assert!(
        text.contains("spanheap: stack overflow: stack ") && text.contains(" of divers, 64 KiB at 0x"),
        "{text}"
    );
    assert_eq!(signal, Some(SEGMENTATION_FAULT), "{text}");
    let (text, signal) = overflown("touch");
    assert!(text.contains(" of stacks, 16 KiB at 0x") && text.contains(", in its guard"), "{text}");
    assert_eq!(signal, Some(SEGMENTATION_FAULT));
    // What is no overflow is left to whoever handled it before.
    let (text, signal) = overflown("elsewhere");
    assert!(!text.contains("stack overflow"), "{text}");
    assert_eq!(signal, Some(SEGMENTATION_FAULT));
    assert_eq!(overflown("nothing").1, None);
}
