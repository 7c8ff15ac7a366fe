//! Wasm functions that wait for the host, each on a stack of a heap's.

use spanheap::{Bytes, Config, Heap};
use spanheap_integrations::wasm::FiberStacks;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmtime::{Caller, Engine, Linker, Module, Store};

const MODULE: &str = r#"
(module
  (import "host" "wait" (func $wait (param i32) (result i32)))
  (func $sum (export "sum") (param $n i32) (result i32)
    (if (result i32) (i32.eqz (local.get $n))
      (then (call $wait (i32.const 0)))
      (else (i32.add (call $wait (local.get $n)) (call $sum (i32.sub (local.get $n) (i32.const 1))))))))
"#;

fn engine(heap: &Arc<Heap>) -> Engine {
    let mut config = wasmtime::Config::new();
    config.async_stack_size(256 << 10).max_wasm_stack(128 << 10);
    config.async_stack_zeroing(true);
    config.with_host_stack(Arc::new(FiberStacks::new(heap, heap.declare_stacks("wasm").unwrap())));
    Engine::new(&config).unwrap()
}

/// Returns its argument when it is asked for the second time.
fn wait<'a>(_: Caller<'a, ()>, (n,): (i32,)) -> Box<dyn Future<Output = i32> + Send + 'a> {
    let mut asked = false;
    Box::new(poll_fn(
        move |_| if std::mem::replace(&mut asked, true) { Poll::Ready(n) } else { Poll::Pending },
    ))
}

async fn sum(engine: &Engine, module: &Module, linker: &Linker<()>, n: i32) -> i32 {
    let mut store = Store::new(engine, ());
    let instance = linker.instantiate_async(&mut store, module).await.unwrap();
    let sum = instance.get_typed_func::<i32, i32>(&mut store, "sum").unwrap();
    sum.call_async(&mut store, n).await.unwrap()
}

#[test]
fn functions_wait_on_our_stacks() {
    let heap = Arc::new(Heap::new(Config::default()).unwrap());
    let engine = engine(&heap);
    let module = Module::new(&engine, MODULE).unwrap();
    let mut linker = Linker::new(&engine);
    linker.func_wrap_async("host", "wait", wait).unwrap();
    let mut calls: Vec<Pin<Box<dyn Future<Output = i32>>>> =
        (0..50).map(|n| Box::pin(sum(&engine, &module, &linker, n)) as _).collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut sums = vec![None; calls.len()];
    let (mut rounds, mut most) = (0, 0);
    while sums.iter().any(Option::is_none) {
        for (call, sum) in calls.iter_mut().zip(&mut sums).filter(|(_, sum)| sum.is_none()) {
            if let Poll::Ready(done) = call.as_mut().poll(&mut context) {
                *sum = Some(done);
            }
        }
        rounds += 1;
        let books = heap.snapshot();
        let of = books.purposes().find(|of| of.book.name.as_str() == "wasm").unwrap();
        most = most.max(of.stacks.unwrap().inuse);
    }
    assert_eq!(sums, (0..50).map(|n| Some(n * (n + 1) / 2)).collect::<Vec<_>>());
    assert!(rounds >= 50, "nobody waited");
    assert!(most >= 49 * (256 << 10), "the stacks are others: {most}");
    drop(calls);
    drop((linker, module, engine));
    assert_eq!(heap.find_stack(spanheap::base::Address::of(&rounds)), None);
    heap.check().unwrap();
    let of = heap.snapshot();
    of.check().unwrap();
    assert_eq!(of.purposes().find(|of| of.book.name.as_str() == "wasm").unwrap().stacks.unwrap().inuse, 0);
}

#[test]
fn a_stack_that_is_too_deep_is_a_trap_and_no_memory_an_error() {
    let heap = Arc::new(Heap::new(Config::default()).unwrap());
    let engine = engine(&heap);
    let module = Module::new(&engine, MODULE).unwrap();
    let mut linker = Linker::new(&engine);
    linker
        .func_wrap_async("host", "wait", |_: Caller<'_, ()>, (n,): (i32,)| Box::new(async move { n }))
        .unwrap();
    let run = |n| {
        let mut store = Store::new(&engine, ());
        let mut call = pin!(async {
            let instance = linker.instantiate_async(&mut store, &module).await?;
            instance.get_typed_func::<i32, i32>(&mut store, "sum")?.call_async(&mut store, n).await
        });
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("nobody waits here"),
        }
    };
    assert_eq!(run(100).unwrap(), 5050);
    let error = run(1_000_000).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::StackOverflow), "{error:?}");
    heap.set_limit(Some(Bytes::kib(1)));
    heap.release_all();
    let error = run(1).unwrap_err();
    assert!(error.downcast_ref::<spanheap::StackError>().is_some(), "{error:?}");
    heap.set_limit(None);
    assert_eq!(run(1).unwrap(), 1);
    heap.check().unwrap();
}
