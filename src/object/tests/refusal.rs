//! The system refuses each call in turn: nothing breaks, and what was refused can be had later.

use super::{PLAIN, WORDS, World};
use crate::base::class::{MAX_SMALL, SizeClass};
use crate::base::purpose::OBJECTS;
use crate::base::{Bytes, Scarce};
use crate::object::testing::Bench;
use crate::object::{NoAttachments, Objects, SpanClass, SpanKind};
use crate::os::testing::{books, fixed_balances, shard, simulated};
use crate::span::PageHeap;

/// Objects of all sizes, and a cycle that half of them survive.
fn life(world: &mut World) {
    for size in [16, 100, 500, 600, 3000, MAX_SMALL] {
        (0..10).for_each(|at| world.allocate(at, if at % 2 == 0 { PLAIN } else { WORDS }, size));
    }
    (0..5).for_each(|at| world.allocate(at, WORDS, MAX_SMALL + 1 + at * 1_000_000));
    world.begin_marking();
    (0..world.model.count()).step_by(2).for_each(|place| world.mark(place, 7));
    world.allocate(0, PLAIN, 32);
    world.end_marking();
    world.compare();
}

#[test]
fn each_call_of_the_system_can_be_refused() {
    let (simulated, system) = simulated();
    let mut world = World::new(Bench::on(system, Bytes::mib(64)), 2);
    let before = simulated.calls();
    life(&mut world);
    let calls = simulated.calls() - before;
    assert!(calls > 10, "{calls} calls: the test refuses too little");
    for call in 0..calls {
        for count in [1, usize::MAX / 2] {
            let mut world = World::new(Bench::on(system, Bytes::mib(64)), 2);
            simulated.refuse(call, count);
            life(&mut world);
            assert!(simulated.refusals() > 0);
            simulated.refuse_nothing();
            life(&mut world);
            assert!(world.model.count() > 30);
        }
    }
}

#[test]
fn reserving_can_be_refused() {
    let (simulated, system) = simulated();
    let books = books();
    let ledger = books.ledger(shard(&books));
    let heap = PageHeap::reserve(system, Bytes::mib(64), Bytes::mib(64), ledger).unwrap();
    let (reserved, balances) = (simulated.reserved_bytes(), fixed_balances(&books));
    let before = simulated.calls();
    let objects = Objects::reserve(&heap, ledger).unwrap();
    let calls = simulated.calls() - before;
    // SAFETY: nobody uses it.
    unsafe { objects.give_back(ledger) };
    for call in 0..calls {
        simulated.refuse(call, usize::MAX / 2);
        assert!(Objects::reserve(&heap, ledger).is_err(), "call {call} of {calls}");
        simulated.refuse_nothing();
        assert_eq!(simulated.reserved_bytes(), reserved, "call {call} of {calls} leaves something behind");
        assert_eq!(fixed_balances(&books), balances, "call {call} of {calls} leaves something in the books");
    }
    let objects = Objects::reserve(&heap, ledger).unwrap();
    simulated.refuse(0, usize::MAX / 2);
    assert!(objects.add_purpose(OBJECTS, ledger).is_err());
    simulated.refuse_nothing();
    objects.add_purpose(OBJECTS, ledger).unwrap();
    // SAFETY: as above.
    unsafe {
        objects.destroy();
        heap.destroy();
    }
}

#[test]
fn a_limit_says_what_was_wanted() {
    const LIMIT: Bytes = Bytes(2 * MAX_SMALL + MAX_SMALL / 2);
    let bench = Bench::new();
    let mut hand = bench.hand();
    bench.meters.get(OBJECTS).set_hard_limit(Some(LIMIT));
    let class = SpanClass::new(SpanKind::Headed, SizeClass::of_small(MAX_SMALL));
    let kept: Vec<_> = (0..2).map(|_| bench.allocate(&mut hand, class).unwrap()).collect();
    let refused = bench.allocate(&mut hand, class).unwrap_err();
    assert_eq!((refused.scarce, refused.wanted), (Scarce::PurposeLimit, Bytes(MAX_SMALL)));
    assert_eq!((refused.purpose.as_str(), refused.limit), ("objects", LIMIT));
    bench.check(std::iter::once(&hand));
    // What dies makes room.
    bench.begin_marking([&mut hand]);
    bench.end_marking([&mut hand], Bytes::ZERO);
    bench.sweep_all(&mut hand, &mut NoAttachments);
    let again = bench.allocate(&mut hand, class).unwrap();
    assert!(kept.contains(&again));
    bench.check(std::iter::once(&hand));
}
