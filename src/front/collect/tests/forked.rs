//! A process that forks: its child allocates and collects.

use super::*;
use std::io::Write;
use std::sync::atomic::AtomicBool;

mod library {
    unsafe extern "C" {
        pub(super) fn fork() -> i32;
        pub(super) fn alarm(seconds: u32) -> u32;
        pub(super) fn waitpid(child: i32, status: *mut i32, options: i32) -> i32;
        pub(super) fn _exit(status: i32) -> !;
    }
}

/// Forks as the doors do, and has the child do something. How it ended; zero if all went well.
fn in_a_child(heap: &Heap, what: impl FnOnce()) -> i32 {
    heap.core().begin_fork(Some(heap.mutator()));
    heap.core().before_fork();
    // SAFETY: the locks are held around the fork, and the child ends without running what is the parent's to run.
    unsafe {
        let child = library::fork();
        if child != 0 {
            heap.core().after_fork();
            assert!(child > 0);
            let mut status = -1;
            assert_eq!(library::waitpid(child, &raw mut status, 0), child);
            return status;
        }
        library::alarm(30);
        let all = std::panic::AssertUnwindSafe(|| {
            let mine = core::ptr::from_ref(heap.mutator());
            heap.core().after_fork_in_child(mine);
            heap.bury_collected(mine.as_ref());
            what();
        });
        let fell = std::panic::catch_unwind(all).err();
        if let Some(why) = &fell {
            // What the child prints in the usual way goes to a test that is not there.
            let why = why.downcast_ref::<String>().map_or("a panic", String::as_str);
            let _ = writeln!(std::io::stderr(), "the child: {why}");
        }
        library::_exit(i32::from(fell.is_some()))
    }
}

/// Makes garbage until a cycle has come by itself.
fn until_a_cycle(heap: &Heap, mutator: &mut Mutator<'_>) {
    let before = heap.collector_statistics().cycles;
    while heap.collector_statistics().cycles == before {
        mutator.run(|cx| (0..1000).for_each(|at| waste(cx, at)));
    }
}

/// # Safety
/// Nobody else uses it meanwhile, in this process.
unsafe fn again<'a, 'h>(mutator: *mut Mutator<'h>) -> &'a mut Mutator<'h> {
    // SAFETY: the caller's promise.
    unsafe { &mut *mutator }
}

#[test]
fn a_child_allocates_and_collects() {
    for workers in [0, 2] {
        let heap =
            heap(CollectConfig { workers, least: Bytes::kib(256), verify: true, ..CollectConfig::default() });
        let mut mutator = heap.enter().unwrap();
        let root = mutator.run(|cx| cx.root(node(cx, 7)).unwrap());
        // By now the collector's own threads have been started.
        until_a_cycle(&heap, &mut mutator);
        let (done, begun) = (AtomicBool::new(false), Barrier::new(2));
        let (pointer, root) = (&raw mut mutator, &root);
        let in_the_child = || {
            let collection = heap.core().collection().unwrap();
            collection.come_in(collection.member(0));
            // SAFETY: the child has a copy, which is in again.
            let mutator = unsafe { again(pointer) };
            mutator.collect().unwrap();
            // The other thread's handle keeps what it had.
            assert_eq!(live(&heap), 64);
            until_a_cycle(&heap, mutator);
            mutator.run(|cx| assert_eq!(root.get(cx).number.load(Ordering::Relaxed), 7));
            let other = || drop(heap.enter().unwrap());
            mutator.outside(|| threads::scope(|scope| scope.spawn(other).join().unwrap()));
            in_order(&heap);
        };
        // Another thread is at work while this one forks.
        let fork = || {
            threads::scope(|scope| {
                scope.spawn(|| {
                    let mut mutator = heap.enter().unwrap();
                    let root = mutator.run(|cx| cx.root(node(cx, 8)).unwrap());
                    begun.wait();
                    while !done.load(Ordering::Relaxed) {
                        mutator.run(|cx| (0..100).for_each(|at| waste(cx, at)));
                    }
                    drop(root);
                });
                begun.wait();
                let ended = in_a_child(&heap, in_the_child);
                done.store(true, Ordering::Relaxed);
                ended
            })
        };
        // SAFETY: nobody else uses it meanwhile, in this process.
        let ended = unsafe { again(pointer) }.outside(fork);
        assert_eq!(ended, 0, "{workers} workers: how the child ended");
        drop((root, mutator));
        in_order(&heap);
    }
}

/// A thread that cannot wait for a cycle forks all the same. Its child goes on without one.
#[test]
fn a_child_of_half_a_cycle_allocates() {
    let heap = heap(CollectConfig { workers: 0, ..CollectConfig::default() });
    let mut mutator = heap.enter().unwrap();
    let turn = Barrier::new(2);
    let ended = threads::scope(|scope| {
        scope.spawn(|| {
            let _driver = heap.core().collection().unwrap().cycle.lock();
            turn.wait();
            turn.wait();
        });
        turn.wait();
        let ended = fork_in_a_run(&heap, &mut mutator);
        turn.wait();
        ended
    });
    assert_eq!(ended, 0, "how the child ended");
    mutator.collect().unwrap();
    drop(mutator);
    in_order(&heap);
}

fn fork_in_a_run(heap: &Heap, mutator: &mut Mutator<'_>) -> i32 {
    mutator.run(|cx| {
        in_a_child(heap, || {
            let kept = node(cx, 3);
            (0..100_000).for_each(|at| waste(cx, at));
            assert_eq!(kept.number.load(Ordering::Relaxed), 3);
            let collection = heap.core().collection().unwrap();
            assert_eq!(collection.collect_now(heap), Err(CollectError::Forked));
            heap.check().unwrap();
        })
    })
}
