//! Stacks through the front door: from any thread, in the books, without calls, and when the system refuses.
#![cfg(not(loom))]

use spanheap::os::{Simulated, System};
use spanheap::{Activity, Bytes, Config, Exhausted, Guard, Heap, Scarce, Stack, StackError};
use std::sync::Arc;
use std::sync::mpsc::channel;

fn heap() -> Heap {
    Heap::new(Config::default()).unwrap()
}

/// Writes to a stack's whole memory and back.
fn use_up(stack: &mut Stack<&Heap>, with: u8) {
    // SAFETY: nothing runs on the stack, and nobody else has it.
    unsafe {
        let bytes = std::slice::from_raw_parts_mut(stack.limit().as_ptr(), stack.size().0);
        bytes.fill(with);
        assert!(bytes.iter().all(|&byte| byte == with));
    }
}

#[test]
fn stacks_are_dropped_on_other_threads() {
    let heap = heap();
    let fibers = heap.declare_stacks("fibers").unwrap();
    std::thread::scope(|scope| {
        let (sender, receiver) = channel::<Stack<&Heap>>();
        let mut threads = Vec::new();
        for seed in 0..3 {
            let sender = sender.clone();
            threads.push(scope.spawn(move || {
                for i in 0..2_000usize {
                    let mut stack = fibers.allocate(Bytes::kib(1 << (i % 7)), Guard::Yes).unwrap();
                    use_up(&mut stack, (seed + i) as u8);
                    sender.send(stack).unwrap();
                }
            }));
        }
        drop(sender);
        threads.push(scope.spawn(move || receiver.into_iter().for_each(drop)));
        // A scope waits for the closures and not for the ends of their threads, where caches are flushed.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    heap.check().unwrap();
    let books = heap.snapshot();
    books.check().unwrap();
    let of = books.purpose(fibers.id()).stacks.unwrap();
    assert_eq!((of.inuse, of.parked, of.allocated, of.freed), (0, 0, 6_000, 6_000));
    fibers.release();
    assert_eq!(fibers.inuse(), Bytes::ZERO);
    heap.check().unwrap();
}

#[test]
fn the_books_know_stacks_by_purpose() {
    let heap = heap();
    let (plain, own) = (heap.stacks(), heap.declare_stacks("coroutines").unwrap());
    let stacks: Vec<_> = (0..10).map(|_| plain.allocate(Bytes::kib(16), Guard::No).unwrap()).collect();
    let others: Vec<_> = (0..10).map(|_| own.allocate(Bytes::kib(16), Guard::Yes).unwrap()).collect();
    let books = heap.snapshot();
    let of = |books: &spanheap::Snapshot, id| books.purpose(id).stacks.unwrap();
    assert_eq!(of(&books, plain.id()).inuse, 160 << 10);
    assert_eq!(of(&books, own.id()).inuse, 160 << 10);
    let words = books.mem_stats();
    assert_eq!(words.stack_inuse, (plain.inuse() + own.inuse()).0 as i64);
    assert_eq!(words.stack_inuse, words.stack_sys);
    assert_eq!(own.inuse(), Bytes::kib(320), "sixteen stacks and their guards");
    books.check().unwrap();
    drop((stacks, others));
    let books = heap.snapshot();
    assert_eq!(of(&books, own.id()).inuse, 0);
    assert!(of(&books, own.id()).cached > 0 && of(&books, own.id()).free > 0);
    assert_eq!(own.peak(), Bytes::kib(320));
    own.set_limit(Some(Bytes::kib(8)));
    let refused = own.allocate(Bytes::mib(1), Guard::Yes).unwrap_err();
    assert_eq!(refused.to_string(), "no memory for coroutines: wanted 1 MiB, limit of this purpose 8 KiB");
    heap.check().unwrap();
}

#[test]
fn a_heap_by_another_handle() {
    let heap = Arc::new(heap());
    let stack = Stack::allocate(heap.clone(), heap.stacks().id(), Bytes::kib(16), Guard::Yes).unwrap();
    assert_eq!(Arc::strong_count(&heap), 2);
    let raw = stack.into_raw();
    assert_eq!(Arc::strong_count(&heap), 1);
    // SAFETY: the stack was let go of just now.
    let stack = unsafe { Stack::from_raw(heap.clone(), raw) };
    std::thread::spawn(move || drop(stack)).join().unwrap();
    heap.check().unwrap();
    let books = heap.snapshot();
    assert_eq!(books.purpose(heap.stacks().id()).stacks.unwrap().inuse, 0);
}

#[test]
fn holders_say_what_runs_there() {
    let heap = heap();
    let stacks = heap.stacks();
    let (one, two) =
        (stacks.allocate(Bytes::kib(16), Guard::Yes), stacks.allocate(Bytes::kib(16), Guard::Yes));
    let (one, two) = (one.unwrap(), two.unwrap());
    one.set_word(7);
    let at = spanheap::base::Address(one.base().addr().get() - 512);
    // SAFETY: inside the stack, and nothing runs there.
    unsafe { one.set_activity(Activity::Parked(at)) };
    let seen: Vec<_> = heap.registered_stacks().collect();
    assert_eq!((seen.len(), seen[0].live_from(), one.word(), two.word()), (1, Some(at), 7, 0));
    assert_eq!(heap.find_stack(at).unwrap().id, seen[0].id);
    drop(one);
    assert_eq!(heap.registered_stacks().count(), 0);
    assert_eq!(two.activity(), Activity::Unregistered);
    heap.check().unwrap();
}

#[test]
fn a_stack_tells_how_deep_it_was_used_and_gives_the_rest_back() {
    let heap = heap();
    let mut stack = heap.stacks().allocate(Bytes::mib(1), Guard::Yes).unwrap();
    assert_eq!(stack.watermark(), Bytes::ZERO);
    // SAFETY: inside the stack.
    unsafe { stack.base().as_ptr().sub(300_000).cast::<usize>().write(1) };
    assert_eq!(stack.watermark(), Bytes(300_000));
    stack.clear();
    assert_eq!(stack.watermark(), Bytes::ZERO);
    use_up(&mut stack, 1);
    assert_eq!(stack.release(Bytes::kib(64)).unwrap(), stack.size() - Bytes::kib(64));
    // Looking for the watermark would bring in the page that all untouched pages share.
    let resident = heap.resident().heap;
    assert!(resident < Bytes::kib(256), "{resident}");
    assert_eq!(stack.watermark(), Bytes::kib(64));
    heap.check().unwrap();
}

/// A life of stacks on a system that may refuse; errors are those that refusal explains.
fn workload(heap: &Heap, own: spanheap::Stacks<'_>) -> usize {
    let mut errors = 0;
    let mut note = |stack: Result<Stack<&'_ Heap>, StackError>| match stack {
        Ok(stack) => Some(stack.into_raw()),
        Err(
            StackError::Guard { .. } | StackError::Exhausted(Exhausted { scarce: Scarce::System(_), .. }),
        ) => {
            errors += 1;
            None
        }
        Err(error) => panic!("{error}"),
    };
    let mut held = Vec::new();
    for round in 0..3 {
        for i in 0..20usize {
            let guard = if i % 2 == 0 { Guard::Yes } else { Guard::No };
            let stacks = if i % 3 == 0 { own } else { heap.stacks() };
            held.extend(note(stacks.allocate(Bytes::kib(1 << (i % 8)), guard)));
        }
        for _ in 0..held.len() * (round + 1) / 3 {
            // SAFETY: made of a stack of this heap, and once.
            let mut stack = unsafe { Stack::from_raw(heap, held.swap_remove(held.len() / 2)) };
            use_up(&mut stack, round as u8);
        }
        own.release();
    }
    // SAFETY: as above.
    held.into_iter().for_each(|raw| drop(unsafe { Stack::from_raw(heap, raw) }));
    errors
}

#[test]
fn every_single_call_can_be_refused() {
    let (mut calls, mut with_errors) = (0, 0);
    loop {
        let simulated: &'static Simulated = Box::leak(Box::new(Simulated::new()));
        simulated.set_guards_by_mappings(calls % 2 == 0);
        let config = Config { reserve: Bytes::mib(256), ..Config::default() };
        let heap = Heap::on(System::Simulated(simulated), config).unwrap();
        let own = heap.declare_stacks("fibers").unwrap();
        simulated.refuse(calls, 1);
        with_errors += usize::from(workload(&heap, own) > 0);
        heap.check().unwrap();
        let refused = simulated.refusals();
        simulated.refuse_nothing();
        assert_eq!(workload(&heap, own), 0, "what was refused is there now");
        heap.release_all();
        heap.check().unwrap();
        let books = heap.snapshot();
        books.check().unwrap();
        assert_eq!(books.mem_stats().stack_inuse, 0);
        assert!(books.committed() as usize <= simulated.ready_bytes().0);
        drop(heap);
        assert_eq!(simulated.ready_bytes(), Bytes::ZERO);
        if refused == 0 {
            break;
        }
        calls += 1;
    }
    assert!(calls > 50 && with_errors > 10, "{calls} {with_errors}");
}

#[test]
fn a_cached_stack_costs_no_call() {
    let simulated: &'static Simulated = Box::leak(Box::new(Simulated::new()));
    let heap = Heap::on(System::Simulated(simulated), Config::default()).unwrap();
    let allocate = || heap.stacks().allocate(Bytes::kib(16), Guard::Yes).unwrap();
    drop(allocate());
    let calls = simulated.calls();
    for count in (0..8).cycle().take(1_000) {
        let mut stacks: Vec<_> = (0..count).map(|_| allocate()).collect();
        stacks.iter_mut().for_each(|stack| use_up(stack, 7));
    }
    assert_eq!(simulated.calls(), calls);
    heap.check().unwrap();
}

#[test]
fn two_hundred_thousand_guarded_stacks_at_once() {
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    if System::Linux.guarding() != spanheap::os::Guarding::Markers {
        eprintln!("skipped: this kernel has no guards but mappings, of which a process may have 65,530");
        return;
    }
    let heap = heap();
    let before = maps();
    let stacks: Vec<_> =
        (0..200_000).map(|_| heap.stacks().allocate(Bytes::kib(16), Guard::Yes).unwrap()).collect();
    // Other tests of this process make mappings of their own; a mapping for each guard would be 400,000.
    assert!(maps() < before + 2_000, "{} mappings", maps());
    assert!(stacks.iter().all(|stack| stack.guard() > Bytes::ZERO));
    drop(stacks);
    assert!(heap.stacks().inuse() < Bytes::mib(64));
    heap.stacks().release();
    assert_eq!(heap.stacks().inuse(), Bytes::ZERO);
}
