//! The walk finds what is broken, whatever it is.
//!
//! # Safety
//! What is broken on purpose is not used any more.

use super::{PLAIN, World, class};
use crate::base::sync::Ordering::Relaxed;
use crate::base::{Address, Broken, PageId};
use crate::object::testing::Bench;
use crate::object::{Objects, PageMeta, SpanClass};
use crate::os::testing::read;
use crate::stats::ClassEvent;

/// A bench with a span in a cache, one in a set, a full one, and a large object; and two first pages: that of the span in
/// the set, and that of the long span.
fn world() -> (World, PageId, PageId) {
    let mut world = World::new(Bench::new(), 1);
    let slots = class(PLAIN, 1000).row().slots as usize;
    (0..slots + 3).for_each(|_| world.allocate(0, PLAIN, 1000));
    let last = world.model.objects().last().unwrap().pointer;
    world.bench.flush(&mut world.hands[0]);
    (0..5).for_each(|_| world.allocate(0, PLAIN, 48));
    world.allocate(0, PLAIN, 100_000);
    let mut long = None;
    world.bench.objects.for_each_span(|first, code, _| long = long.or(code.is_large().then_some(first)));
    let in_set = world.bench.objects.find(Address::of(last)).unwrap().first_page;
    world.check();
    (world, in_set, long.unwrap())
}

fn result(world: &World) -> Result<(), Broken> {
    let figures = read(&world.bench.books);
    // SAFETY: nothing runs.
    unsafe {
        let caches = world.hands.iter().map(|hand| &*hand.cache);
        world.bench.objects.check(&world.bench.heap, &figures, caches)
    }
}

/// The invariant that is found broken.
fn broken(breaking: impl FnOnce(&World, PageId, PageId)) -> u8 {
    let (world, in_set, long) = world();
    breaking(&world, in_set, long);
    let broken = result(&world).expect_err("the walk saw nothing");
    assert_eq!(broken.invariant.0, "object");
    broken.invariant.1
}

fn meta(objects: &Objects, page: PageId) -> &PageMeta {
    objects.meta(page).unwrap()
}

#[test]
fn codes_that_lie_are_found() {
    let code = |page: fn(PageId, PageId) -> PageId, code: SpanClass| {
        broken(move |world, in_set, long| {
            let page = page(in_set, long);
            world.bench.objects.kinds.get(page.0).unwrap().store(code.0, Relaxed);
        })
    };
    let first_of_long = |_: PageId, long: PageId| long;
    let later_of_long = |_: PageId, long: PageId| PageId(long.0 + 3);
    let nowhere = |_: PageId, _: PageId| PageId(400);
    assert_eq!(code(first_of_long, SpanClass::LATER), 1);
    assert_eq!(code(first_of_long, class(PLAIN, 16)), 1);
    assert_eq!(code(later_of_long, SpanClass::NONE), 1);
    assert_eq!(code(later_of_long, class(PLAIN, 16)), 1);
    assert_eq!(code(nowhere, class(PLAIN, 16)), 1);
    let number = broken(|world, in_set, _| meta(&world.bench.objects, in_set).span.store(77, Relaxed));
    let pages = broken(|world, _, long| meta(&world.bench.objects, long).pages.store(2, Relaxed));
    assert_eq!((number, pages), (1, 1));
}

#[test]
fn stray_bits_are_found() {
    let set = |which: fn(&PageMeta) -> &crate::object::meta::Bits, index: usize| {
        broken(move |world, in_set, _| {
            assert!(which(meta(&world.bench.objects, in_set)).set(index));
        })
    };
    assert_eq!(set(|meta| &meta.allocs, 60), 2, "no such slot");
    assert_eq!(set(|meta| &meta.marks, 6), 2, "not allocated");
    assert_eq!(set(|meta| &meta.scans, 0), 2, "not marked");
    assert_eq!(set(|meta| &meta.marks, 0), 3, "nobody marks");
}

#[test]
fn generations_that_are_out_of_order_are_found() {
    let swept = |by: u32| {
        broken(move |world, in_set, _| {
            let swept = &meta(&world.bench.objects, in_set).swept;
            swept.store(swept.load(Relaxed).wrapping_sub(by), Relaxed);
        })
    };
    assert_eq!([swept(1), swept(2), swept(4), swept(u32::MAX)], [3; 4]);
}

#[test]
fn spans_that_are_nowhere_or_twice_are_found() {
    let (world_code, of) = (class(PLAIN, 1000), crate::base::purpose::OBJECTS);
    let nowhere = broken(|world, _, _| world.bench.objects.partial(of, world_code).clear());
    let full = broken(|world, in_set, _| {
        let (objects, links) = (&world.bench.objects, world.bench.heap.links());
        let full = world.model.objects().next().unwrap().pointer;
        let full = objects.find(Address::of(full)).unwrap().first_page;
        assert_ne!(full, in_set);
        objects.partial(of, world_code).push(meta(objects, full).span(), links);
    });
    let wrong = broken(|world, in_set, _| {
        let (objects, links) = (&world.bench.objects, world.bench.heap.links());
        let span = objects.partial(of, world_code).pop(links).unwrap();
        assert_eq!(span, meta(objects, in_set).span());
        objects.partial(of, class(PLAIN, 3000)).push(span, links);
    });
    assert_eq!([nowhere, full, wrong], [4; 3]);
}

#[test]
fn caches_that_hold_what_they_should_not_are_found() {
    let bin = |breaking: fn(&Objects, PageId)| {
        broken(move |world, _, _| {
            let (_, bin) = world.hands[0].cache.bins().next().unwrap();
            breaking(&world.bench.objects, bin.page());
        })
    };
    let unsaid = bin(|objects, page| {
        let word = &meta(objects, page).allocs.0[0];
        word.store(word.load(Relaxed) & 31, Relaxed);
    });
    let other = bin(|objects, page| {
        objects
            .kinds
            .get(page.0)
            .unwrap()
            .store(SpanClass::new(super::WORDS, class(PLAIN, 48).row().class).0, Relaxed);
    });
    assert_eq!([unsaid, other], [5; 2]);
    // Marking begins, and a cache is forgotten.
    let unmarked = broken(|world, _, _| world.bench.objects.set_marking(true));
    assert_eq!(unmarked, 5);
}

#[test]
fn dirt_in_clean_slots_is_found() {
    let dirt = broken(|world, _, _| {
        let last = world.model.objects().find(|held| held.size == 1024).unwrap();
        let object = world.bench.objects.find(Address::of(last.pointer)).unwrap();
        let slots = object.class.row().slots as usize;
        let other = world.bench.objects.meta(PageId(object.first_page.0 + 1)).unwrap();
        assert!(other.allocs.count() < slots && other.dirty.load(Relaxed) == 0);
        let free = world.bench.heap.region().page_pointer(PageId(object.first_page.0 + 2)).wrapping_sub(1024);
        // SAFETY: the last slot of the second span, which is free.
        unsafe { free.add(100).write(1) };
    });
    assert_eq!(dirt, 6);
}

#[test]
fn objects_that_are_not_in_the_books_are_found() {
    let lost = broken(|world, _, _| {
        let ledger = world.bench.books.ledger(world.hands[0].shard);
        ledger.post(|entry| entry.objects(7, ClassEvent::Allocated, 1));
    });
    let large = broken(|world, _, _| {
        let ledger = world.bench.books.ledger(world.hands[0].shard);
        ledger.post(|entry| entry.large_objects(ClassEvent::Allocated, 0, crate::base::Bytes(1)));
    });
    assert_eq!([lost, large], [7; 2]);
}
