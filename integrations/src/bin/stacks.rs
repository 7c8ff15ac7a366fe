//! What a stack costs: ours beside corosensei's default stack (`mmap` and `munmap`) and the pool of wasmtime.
//!
//! Each figure is the processor time of one stack that is allocated and freed, user and system together, as the median of
//! many short rounds that alternate between the candidates.
//!
//! wasmtime hands out no stack without a call that runs on it: its pool, and the trait behind which it stands, are private
//! to the crate, and a store keeps its stack until it is dropped. So there the same call in a new store is made three
//! times: on a stack of its pool, on one of ours, and on one that is always the same. The last is what the call costs
//! without a stack, and is taken off the others. It holds the box in which wasmtime wants a stack that is not its own: so a
//! little more is taken off the pool than should be, which makes the pool look better.
//!
//! # Safety
//! Stacks are written to while they are this thread's, and the one that is always the same is used by one call at a time.

use corosensei::stack::DefaultStack;
use spanheap::{Bytes, Config, Guard, Heap};
use spanheap_integrations::wasm::FiberStacks;
use std::future::Future;
use std::hint::black_box;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use wasmtime::{Engine, Func, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime::{StackCreator, StackMemory};

const SIZE: usize = 16 << 10;
const ROUNDS: usize = 1_001;
/// Stacks in a round.
const TIMES: usize = 100;

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is this function's own.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0, "the system has no clock for threads");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds of one `work` in each round, for each candidate. What else the machine does changes slowly, so rounds are
/// short and go by turns.
fn measure<const N: usize>(mut candidates: [&mut dyn FnMut(); N]) -> [Vec<f64>; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (work, times) in candidates.iter_mut().zip(&mut times) {
            let start = processor_time();
            (0..TIMES).for_each(|_| work());
            times.push((processor_time() - start).as_nanos() as f64 / TIMES as f64);
        }
    }
    times
}

fn median(times: impl IntoIterator<Item = f64>) -> f64 {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// What is left when the rounds of another candidate are taken off, each from its neighbour.
fn beyond(times: &[f64], others: &[f64]) -> f64 {
    median(times.iter().zip(others).map(|(time, other)| time - other))
}

/// Writes a word at the top of a stack, as the first frame does.
fn touch(base: usize) {
    // SAFETY: the word lies in a stack that this thread has just been given.
    unsafe { std::ptr::with_exposed_provenance_mut::<usize>(base - 16).write_volatile(1) };
}

/// A stack that is handed out again and again.
struct Same(Arc<spanheap::Stack<&'static Heap>>);

// SAFETY: one call at a time runs on it: the next begins when the one before has ended.
unsafe impl StackCreator for Same {
    fn new_stack(&self, _: usize, _: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        Ok(Box::new(Same(self.0.clone())))
    }
}

// SAFETY: a guarded stack of its own, and used as above.
unsafe impl StackMemory for Same {
    fn top(&self) -> *mut u8 {
        self.0.base().as_ptr()
    }

    fn range(&self) -> Range<usize> {
        self.0.limit().addr().get()..self.0.base().addr().get()
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let limit = self.0.limit().as_ptr();
        limit.wrapping_sub(self.0.guard().0)..limit
    }
}

fn engine(creator: Option<Arc<dyn StackCreator>>) -> Engine {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_stacks(100).total_memories(1).total_tables(1).total_core_instances(1);
    let mut config = wasmtime::Config::new();
    config.async_stack_size(SIZE).max_wasm_stack(SIZE / 4);
    match creator {
        Some(creator) => config.with_host_stack(creator),
        // Its pool has stacks of its own, and no ear for others.
        None => config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)),
    };
    Engine::new(&config).expect("an engine")
}

/// Calls a function that does nothing, on a stack of its own.
fn call(engine: &Engine) {
    let mut store = Store::new(engine, ());
    // Only a function that may wait is called on a stack of its own.
    let function = Func::wrap_async(&mut store, |_: wasmtime::Caller<'_, ()>, (): ()| Box::new(async {}));
    let function = function.typed::<(), ()>(&store).expect("it has no arguments");
    let called = pin!(function.call_async(&mut store, ())).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(black_box(called), Poll::Ready(Ok(()))));
}

fn main() {
    let heap: &'static Heap = Box::leak(Box::new(Heap::new(Config::default()).expect("a heap")));
    let stacks = heap.stacks();
    let ours = || stacks.allocate(Bytes(SIZE), Guard::Yes).expect("a stack");
    let theirs = || DefaultStack::new(SIZE).expect("a stack");
    let base = |stack: &DefaultStack| corosensei::stack::Stack::base(stack).get();
    let plain = measure([&mut || drop(black_box(ours())), &mut || drop(black_box(theirs()))]);
    let touched =
        measure([&mut || touch(ours().base().as_ptr().expose_provenance()), &mut || touch(base(&theirs()))]);
    let same = Arc::new(stacks.allocate(Bytes(SIZE), Guard::Yes).expect("a stack"));
    let engines =
        [None, Some(Arc::new(FiberStacks::new(&heap, stacks)) as _), Some(Arc::new(Same(same)) as _)]
            .map(engine);
    let [pool, through, none, direct] = measure([
        &mut || call(&engines[0]),
        &mut || call(&engines[1]),
        &mut || call(&engines[2]),
        &mut || drop(black_box(ours())),
    ]);
    let row = |what: &str, ours: f64, rival: f64| {
        println!("| {what} | {ours:.0} | {rival:.0} | {:.3} |", ours / rival);
    };
    println!("| allocate and free | ours, ns | rival, ns | ratio |\n|---|---|---|---|");
    let [plain, touched] = [plain, touched].map(|times| times.map(median));
    row("16 KiB, beside corosensei's DefaultStack", plain[0], plain[1]);
    row("16 KiB and its first word written", touched[0], touched[1]);
    let of_pool = beyond(&pool, &none);
    row("16 KiB, beside wasmtime's pool", median(direct), of_pool);
    row("16 KiB handed to wasmtime, beside its pool", beyond(&through, &none), of_pool);
    println!("\nthe call beside the stack: {:.0} ns", median(none));
}
