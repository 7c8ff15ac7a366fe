//! The life of objects of every kind, one thing after the other.

use super::{PLAIN, WORDS, World, class};
use crate::base::class::{MAX_SMALL, SizeClass};
use crate::base::purpose::OBJECTS;
use crate::base::{Address, Bytes, PAGE_SIZE, Pages};
use crate::object::testing::Bench;
use crate::object::{Attachments, Condemned, NoAttachments, ShapeId, SpanClass, SpanKind, Take};
use std::collections::BTreeSet;

/// What the test attached, to whom, and what it saw.
#[derive(Default)]
struct Attached {
    to: BTreeSet<usize>,
    died: Vec<usize>,
    /// Each of these comes back to life once.
    revives: bool,
}

impl Attachments for Attached {
    fn sweep(&mut self, span: &Condemned<'_>) -> bool {
        let mut left = false;
        for object in span.objects() {
            if self.to.contains(&object.start.0) && !span.is_alive(&object) {
                self.to.remove(&object.start.0);
                self.died.push(object.start.0);
                if self.revives {
                    span.revive(&object);
                }
            }
            left |= self.to.contains(&object.start.0);
        }
        left
    }
}

fn cycle(bench: &Bench, hand: &mut super::Hand, attached: &mut Attached, keep: &[*mut u8]) {
    bench.begin_marking([&mut *hand]);
    let mut marked = Bytes::ZERO;
    for pointer in keep {
        let object = bench.objects.find(Address::of(*pointer)).unwrap();
        if bench.objects.mark(&object) {
            marked += object.size;
        }
    }
    bench.end_marking([&mut *hand], marked);
    bench.sweep_all(hand, attached);
    bench.check(std::iter::once(&*hand));
}

#[test]
fn the_dead_are_announced_and_may_come_back() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let pointers: Vec<_> =
        [24, 24, 600, 5000].map(|n| bench.allocate(&mut hand, class(PLAIN, n)).unwrap()).into();
    let mut attached = Attached { revives: true, ..Attached::default() };
    for pointer in &pointers[..3] {
        let object = bench.objects.find(Address::of(*pointer)).unwrap();
        bench.objects.set_attached(&object);
        attached.to.insert(pointer.addr());
    }
    // The first one is kept; the second and third come back; the fourth has nothing attached.
    cycle(&bench, &mut hand, &mut attached, &pointers[..1]);
    assert_eq!(attached.died, [pointers[1].addr(), pointers[2].addr()]);
    let alive = |pointer: *mut u8| bench.objects.find(Address::of(pointer)).is_some();
    assert_eq!(pointers.iter().map(|&p| alive(p)).collect::<Vec<_>>(), [true, true, true, false]);
    // Nobody asks about those that came back a second time.
    cycle(&bench, &mut hand, &mut attached, &pointers[..1]);
    assert_eq!(attached.died.len(), 2);
    assert_eq!(pointers.iter().map(|&p| alive(p)).collect::<Vec<_>>(), [true, false, false, false]);
    cycle(&bench, &mut hand, &mut attached, &[]);
    assert_eq!(attached.died.len(), 3);
    assert!(alive(pointers[0]) && attached.to.is_empty());
}

#[test]
fn crumbs_share_a_block_that_any_of_them_keeps() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let crumbs: Vec<_> = [(1, 1), (2, 2), (4, 4), (8, 8)]
        .map(|(size, align)| bench.allocate_crumb(&mut hand, size, align).unwrap())
        .into();
    let block = crumbs[0].addr();
    assert_eq!(crumbs.iter().map(|c| c.addr() - block).collect::<Vec<_>>(), [0, 2, 4, 8]);
    // SAFETY: a crumb of two bytes.
    unsafe { crumbs[1].cast::<u16>().write(7) };
    // 15 bytes have no room, and leave less than the old block does not have either.
    let big = bench.allocate_crumb(&mut hand, 15, 1).unwrap();
    assert_ne!(big.addr() & !15, block);
    let last = bench.allocate_crumb(&mut hand, 1, 1).unwrap();
    assert_eq!(last.addr(), big.addr() + 15);
    let mut none = Attached::default();
    cycle(&bench, &mut hand, &mut none, &crumbs[2..3]);
    assert_eq!(bench.objects.find(Address(block + 15)).map(|object| object.start.0), Some(block));
    assert_eq!(bench.objects.find(Address::of(big)), None);
    // SAFETY: it lives on with its block.
    assert_eq!(unsafe { crumbs[1].cast::<u16>().read() }, 7);
    let words = World::new(bench, 0).snapshot().mem_stats();
    assert_eq!((words.mallocs, words.frees, words.heap_objects), (2 + 4, 1 + 4, 1));
}

#[test]
fn a_block_that_is_filled_while_marking_lives_on() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let early = bench.allocate_crumb(&mut hand, 4, 4).unwrap();
    bench.begin_marking([&mut hand]);
    let late = bench.allocate_crumb(&mut hand, 4, 4).unwrap();
    assert_eq!(late.addr(), early.addr() + 4);
    bench.end_marking([&mut hand], Bytes::ZERO);
    bench.sweep_all(&mut hand, &mut NoAttachments);
    assert!(bench.objects.find(Address::of(late)).is_some());
    // Nobody fills it further: it could die while its neighbours do not know.
    assert_ne!(bench.allocate_crumb(&mut hand, 4, 4).unwrap().addr() & !15, early.addr());
    bench.check(std::iter::once(&hand));
}

#[test]
fn crumbs_are_aligned_and_do_not_overlap() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let mut bytes = BTreeSet::new();
    for i in 0..5000_usize {
        let (size, align) = (1 + i * 7 % 15, 1 << (i % 5));
        let crumb = bench.allocate_crumb(&mut hand, size, align).unwrap();
        assert!(crumb.addr().is_multiple_of(align), "{crumb:?} is not aligned to {align}");
        assert_eq!(crumb.addr() & !15, (crumb.addr() + size - 1) & !15, "in two blocks");
        assert!((0..size).all(|at| bytes.insert(crumb.addr() + at)), "{crumb:?} overlaps");
        // SAFETY: the crumb's bytes.
        unsafe {
            assert!((0..size).all(|at| crumb.add(at).read() == 0));
            crumb.write_bytes(0xff, size);
        }
    }
    bench.check(std::iter::once(&hand));
}

#[test]
fn a_large_object_is_plain_until_it_is_finished() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let size = Bytes(700 << 10);
    // Dirt, from an object of the same pages.
    let dirt = bench.allocate_large(&mut hand, size.0, ShapeId::PLAIN).unwrap();
    // SAFETY: its bytes.
    unsafe { dirt.write_bytes(0xee, size.0) };
    cycle(&bench, &mut hand, &mut Attached::default(), &[]);
    let mut work = bench.work(&mut hand);
    let mut large =
        bench.objects.allocate_large(&mut work, OBJECTS, size, (SpanKind::Headed, ShapeId(9))).unwrap();
    let address = large.object().start;
    assert_eq!(address, Address::of(dirt), "the test wants dirty memory");
    let find = || bench.objects.find(Address(address.0 + 500_000)).unwrap();
    let mut pieces = 1;
    while bench.objects.clear_piece(&mut large) {
        assert_eq!((find().kind, bench.objects.shape_of(&find())), (SpanKind::Plain, Some(ShapeId::PLAIN)));
        pieces += 1;
    }
    assert_eq!(pieces, 3);
    let pointer = bench.objects.finish_large(large);
    assert_eq!((find().kind, bench.objects.shape_of(&find())), (SpanKind::Headed, Some(ShapeId(9))));
    // SAFETY: its bytes.
    assert!((0..size.0).all(|at| unsafe { pointer.add(at).read() } == 0));
    bench.check(std::iter::once(&hand));
}

#[test]
fn what_is_allocated_while_marking_is_marked_and_done_with() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    bench.begin_marking([&mut hand]);
    let mut bytes = 0;
    for class in SpanClass::all() {
        let object = bench.objects.find(Address::of(bench.allocate(&mut hand, class).unwrap())).unwrap();
        let meta = bench.objects.meta(object.first_page).unwrap();
        assert!(bench.objects.is_marked(&object) && !bench.objects.mark(&object));
        assert!(meta.scans.has(object.index as usize, crate::base::sync::Ordering::Relaxed));
        bytes += object.size.0;
    }
    let large = bench.allocate_large(&mut hand, MAX_SMALL + 1, ShapeId::WORDS).unwrap();
    let object = bench.objects.find(Address::of(large)).unwrap();
    assert!(bench.objects.is_marked(&object));
    bytes += object.size.0;
    bench.check(std::iter::once(&hand));
    bench.end_marking([&mut hand], Bytes::ZERO);
    assert_eq!((bench.objects.black().0, bench.objects.live().0), (bytes, bytes));
    bench.check(std::iter::once(&hand));
    assert_eq!(bench.sweep_all(&mut hand, &mut NoAttachments).live.0, bytes);
    assert_eq!(bench.objects.swept_live().0, bytes);
}

#[test]
fn spans_that_wait_are_offered_before_fresh_ones() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let class = class(WORDS, 64);
    let slots = class.row().slots as usize;
    let pointers: Vec<_> = (0..10 * slots).map(|_| bench.allocate(&mut hand, class).unwrap()).collect();
    bench.begin_marking([&mut hand]);
    for pointer in pointers.iter().step_by(2) {
        assert!(bench.objects.mark(&bench.objects.find(Address::of(*pointer)).unwrap()));
    }
    bench.end_marking([&mut hand], Bytes::ZERO);
    let spans = |bench: &Bench| bench.heap.spans().count();
    let before = spans(&bench);
    let (mut work, cache) = bench.split(&mut hand);
    assert_eq!(bench.objects.refill(cache, &mut work, class), Ok(Take::Unswept));
    assert_eq!(spans(&bench), before);
    assert_eq!(bench.objects.refill_fresh(cache, &mut work, class), Ok(Take::Ready));
    assert_eq!(spans(&bench), before + 1);
    bench.sweep_all(&mut hand, &mut NoAttachments);
    // Five spans' worth of slots, and those of the fresh one.
    let again: BTreeSet<_> =
        (0..6 * slots).map(|_| bench.allocate(&mut hand, class).unwrap().addr()).collect();
    assert_eq!(spans(&bench), before + 1);
    assert!(pointers.iter().step_by(2).all(|pointer| !again.contains(&pointer.addr())));
    bench.check(std::iter::once(&hand));
}

#[test]
fn reclaiming_frees_dead_spans_and_sweeps_no_others() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let class = class(PLAIN, 128);
    let slots = class.row().slots as usize;
    let pointers: Vec<_> = (0..300 * slots).map(|_| bench.allocate(&mut hand, class).unwrap()).collect();
    bench.begin_marking([&mut hand]);
    // One object in each third span.
    for pointer in pointers.iter().step_by(3 * slots) {
        assert!(bench.objects.mark(&bench.objects.find(Address::of(*pointer)).unwrap()));
    }
    bench.end_marking([&mut hand], Bytes::ZERO);
    let mut freed = Pages(0);
    while let Some(swept) = bench.objects.reclaim_chunk(&mut bench.work(&mut hand), &mut NoAttachments) {
        assert_eq!((swept.spans, swept.live), (swept.pages.0, Bytes::ZERO));
        freed += swept.pages;
    }
    assert_eq!(freed, Pages(200));
    assert!(!bench.objects.is_swept());
    let rest = bench.sweep_all(&mut hand, &mut NoAttachments);
    assert_eq!((rest.spans, rest.pages), (100, Pages(0)));
    assert_eq!(rest.live, Bytes(100 * 128));
    bench.check(std::iter::once(&hand));
}

#[test]
fn one_span_can_be_swept_by_itself() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let class = SpanClass::new(PLAIN, SizeClass::of_small(PAGE_SIZE));
    let pointers = [(); 3].map(|()| bench.allocate(&mut hand, class).unwrap());
    bench.begin_marking([&mut hand]);
    let objects = pointers.map(|pointer| bench.objects.find(Address::of(pointer)).unwrap());
    assert!(bench.objects.mark(&objects[1]));
    bench.end_marking([&mut hand], Bytes(PAGE_SIZE));
    assert!(!bench.objects.is_condemned(&objects[1]) && bench.objects.is_condemned(&objects[2]));
    let mut work = bench.work(&mut hand);
    (0..2).for_each(|_| bench.objects.ensure_swept(objects[1].first_page, &mut work, &mut NoAttachments));
    assert_eq!(bench.objects.swept_live(), Bytes(PAGE_SIZE));
    assert!(!bench.objects.is_marked(&objects[1]) && !bench.objects.is_condemned(&objects[1]));
    assert_eq!(bench.sweep_all(&mut hand, &mut NoAttachments).spans, 2);
    bench.check(std::iter::once(&hand));
}
