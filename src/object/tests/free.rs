//! Objects that are freed by hand.

use super::{PLAIN, WORDS, class};
use crate::base::class::MAX_SMALL;
use crate::base::{Address, Bytes};
use crate::object::testing::{Bench, Hand};
use crate::object::{NoAttachments, ShapeId};

/// Takes back `freed`, marks `kept`, and sweeps.
fn cycle(bench: &Bench, hand: &mut Hand, freed: &[*mut u8], kept: &[*mut u8]) {
    bench.flush(hand);
    for &pointer in freed {
        let object = bench.objects.find(Address::of(pointer)).unwrap();
        // SAFETY: nothing was swept yet, the cache is empty, and marking follows.
        unsafe { bench.objects.take_back(&object, &bench.work(hand)) };
        assert_eq!(bench.objects.find(Address::of(pointer)), None);
    }
    bench.begin_marking([&mut *hand]);
    let mut marked = Bytes::ZERO;
    for &pointer in kept {
        let object = bench.objects.find(Address::of(pointer)).unwrap();
        assert!(bench.objects.mark(&object));
        marked += object.size;
    }
    bench.end_marking([&mut *hand], marked);
    bench.sweep_all(hand, &mut NoAttachments);
    bench.check(std::iter::once(&*hand));
}

#[test]
fn slots_that_were_taken_back_are_free_and_zero_after_the_sweep() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let all: Vec<_> = (0..1000).map(|_| bench.allocate(&mut hand, class(WORDS, 48)).unwrap()).collect();
    for &pointer in &all {
        // SAFETY: the test's own objects.
        unsafe { pointer.write_bytes(0xa5, 48) };
    }
    let (freed, kept): (Vec<_>, Vec<_>) = all.iter().partition(|pointer| pointer.addr() / 48 % 3 == 0);
    let live = bench.objects.live();
    cycle(&bench, &mut hand, &freed, &kept);
    assert_eq!(live.0 - bench.objects.live().0, freed.len() * 48 + live.0 - 1000 * 48);
    for _ in 0..freed.len() {
        let pointer = bench.allocate(&mut hand, class(WORDS, 48)).unwrap();
        assert!(!kept.contains(&pointer), "an object in use was handed out again");
        // SAFETY: a fresh object.
        assert!((0..48).all(|at| unsafe { pointer.add(at).read() } == 0));
    }
    bench.check(std::iter::once(&hand));
}

#[test]
fn a_large_object_is_gone_at_once_unless_it_waits_to_be_swept() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let pointer = bench.allocate_large(&mut hand, MAX_SMALL + 1, ShapeId::WORDS).unwrap();
    let object = bench.objects.find(Address::of(pointer)).unwrap();
    // SAFETY: the test's own, and not used again.
    assert!(unsafe { bench.objects.free_large(&object, &mut bench.work(&mut hand)) });
    assert_eq!(bench.objects.find(Address::of(pointer)), None);
    bench.check(std::iter::once(&hand));
    let small = bench.allocate(&mut hand, class(PLAIN, 16)).unwrap();
    let pointer = bench.allocate_large(&mut hand, MAX_SMALL + 1, ShapeId::PLAIN).unwrap();
    let object = bench.objects.find(Address::of(pointer)).unwrap();
    bench.flush(&mut hand);
    bench.begin_marking([&mut hand]);
    bench.objects.mark(&bench.objects.find(Address::of(small)).unwrap());
    bench.end_marking([&mut hand], Bytes(16));
    // SAFETY: as above; the sweeper has it.
    assert!(!unsafe { bench.objects.free_large(&object, &mut bench.work(&mut hand)) });
    bench.sweep_all(&mut hand, &mut NoAttachments);
    assert_eq!(bench.objects.live(), Bytes(16));
    bench.check(std::iter::once(&hand));
}
