//! What the kernel says is resident is what the books say, after a churn like that of `stress`, with every block
//! that is held written from end to end.
//!
//! The expectation is `Snapshot::expected_resident`: what is committed, less what the heap knows nobody has touched.
//! What it does not know is small change: the untouched half of a page of 8 KiB whose first half was used, and the
//! rest of a table's unit of 16 KiB. That is some two KiB for each span, so the heap that is looked at should not be
//! a small one.
#![cfg(not(loom))]

mod churn;

use churn::{Held, Sizes, World};
use spanheap::stats::Account;
use spanheap::{Config, Heap, Snapshot};
use std::thread;

const THREADS: u64 = 8;
const OPERATIONS: usize = 1_000_000;
const SIZES: Sizes = Sizes { small: 1_000, large_every: 30, large: 100_000, held: usize::MAX };

/// A snapshot with what the kernel says beside it.
fn look(heap: &Heap) -> Snapshot {
    let mut snapshot = heap.snapshot();
    snapshot.resident = Some(heap.resident());
    snapshot.check().unwrap();
    snapshot
}

/// The difference between what is resident and what should be, in parts of a thousand. Says by account where it
/// comes from, when it is too large.
fn difference(snapshot: &Snapshot) -> i64 {
    let resident = snapshot.resident.unwrap();
    let (found, expected) =
        ((resident.heap + resident.metadata).0 as i64, snapshot.expected_resident().unwrap());
    let thousandths = (found - expected) * 1000 / expected;
    println!("resident {found}, expected {expected}, untouched {}", resident.untouched.0);
    for account in snapshot.accounts() {
        let (booked, kernel) = (snapshot.balance(account), resident.by_account[account.index()].0);
        if (booked != 0 || kernel != 0) && !matches!(account, Account::System | Account::Reserved) {
            println!(
                "  {:28} {booked:>12} {kernel:>12} {:>+12}",
                snapshot.account_name(account).to_string(),
                kernel as i64 - booked
            );
        }
    }
    thousandths
}

/// Runs a churn and keeps what is held at its end, all of it written.
fn churn<'h>(world: &World<'h>) -> Vec<Held<'h>> {
    let threads = |seed| {
        thread::scope(|scope| {
            let run = |thread| {
                move || world.churn(seed * THREADS + thread, OPERATIONS / 2 / THREADS as usize, SIZES)
            };
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(run(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        })
    };
    let mut held = threads(0);
    held.extend(threads(1));
    held.extend(world.rest());
    for one in &mut held {
        one.fill(world.heap);
    }
    held
}

#[test]
fn resident_bytes_are_those_of_the_books() {
    let heap = Heap::new(Config::default()).unwrap();
    let world = World::new(&heap, 8);
    let held = churn(&world);
    let after_churn = difference(&look(&heap));
    heap.release_all();
    let after_release = difference(&look(&heap));
    heap.check().unwrap();
    held.into_iter().for_each(|one| world.give_back(one));
    heap.check().unwrap();
    assert!(after_churn.abs() < 10, "{after_churn} ‰");
    assert!(after_release.abs() < 10, "{after_release} ‰");
}
