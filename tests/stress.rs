//! A million random operations on eight threads that come and go, with frees across threads and a purpose for each
//! kind of data; the books are read all the while.
#![cfg(not(loom))]

mod churn;

use churn::{Sizes, World};
use spanheap::stats::Account;
use spanheap::{Bytes, Config, Heap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const THREADS: u64 = 8;
/// Threads that follow each other in one place.
const LIVES: u64 = 10;
const OPERATIONS: usize = 1_000_000;
const SIZES: Sizes = Sizes { small: 600, large_every: 60, large: 200_000, held: 400 };

#[test]
fn a_million_operations_on_threads_that_come_and_go() {
    let heap = Heap::new(Config::default()).unwrap();
    let world = World::new(&heap, 8);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let places: Vec<_> = (0..THREADS)
            .map(|place| {
                scope.spawn({
                    let world = &world;
                    move || live(world, place)
                })
            })
            .collect();
        let reader = scope.spawn(|| read(&heap, &done));
        places.into_iter().for_each(|place| place.join().unwrap());
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 10, "the books were hardly read");
    });
    heap.check().unwrap();
    world.rest().into_iter().for_each(|one| world.give_back(one));
    heap.release_all();
    heap.check().unwrap();
    nothing_is_left(&heap);
}

/// The lives of the threads in one place, one after the other. Each leaves half of what it holds to others.
fn live(world: &World<'_>, place: u64) {
    for life in 0..LIVES {
        thread::scope(|scope| {
            let life = scope.spawn(|| {
                let seed = place * LIVES + life;
                let mut held = world.churn(seed, OPERATIONS / (THREADS * LIVES) as usize, SIZES);
                let left = held.split_off(held.len() / 2);
                held.into_iter().for_each(|one| world.give_back(one));
                world.passed_on.lock().unwrap().extend(left);
            });
            // A scope alone does not wait for what a thread does when it ends.
            life.join().unwrap();
        });
    }
}

/// Takes snapshots until the work is done, and proves each of them. Returns how many there were.
fn read(heap: &Heap, done: &AtomicBool) -> usize {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        heap.snapshot().check().unwrap();
        if count % 16 == 0 {
            heap.check().unwrap();
        }
        count += 1;
        thread::yield_now();
    }
    count
}

/// After everything was freed, no purpose has anything, and nothing free is kept.
fn nothing_is_left(heap: &Heap) {
    let snapshot = heap.snapshot();
    snapshot.check().unwrap();
    assert_eq!(snapshot.accounts().map(|account| snapshot.balance(account)).sum::<i64>(), 0);
    for purpose in snapshot.purposes() {
        assert_eq!((purpose.inuse, purpose.spans), (0, 0), "{} has something left", purpose.book.name);
    }
    assert_eq!(snapshot.balance(Account::Cached), 0);
    assert_eq!(snapshot.balance(Account::Free), 0, "of {} all can go", Bytes(snapshot.total() as usize));
    for class in snapshot.classes() {
        assert_eq!(class.allocated, class.freed, "blocks of {:?}", class.size);
    }
}
