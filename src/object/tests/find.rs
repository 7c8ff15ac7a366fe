//! Finding objects.

use crate::base::class::SizeClass;
use crate::base::purpose::{BLOCKS, OBJECTS};
use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, PAGE_SIZE, PageId, Pages};
use crate::object::testing::{Bench, Hand};
use crate::object::{Object, SpanClass, SpanKind, class};
use crate::span::Request;

/// Opens a span in which every other slot is allocated.
fn open(bench: &Bench, hand: &mut Hand, code: SpanClass, pages: Pages) -> PageId {
    let page = bench.objects.open(&mut bench.work(hand), OBJECTS, code, pages).unwrap().page;
    let meta = bench.objects.meta(page).unwrap();
    (0..code.row().slots as usize).step_by(2).for_each(|index| assert!(meta.allocs.set(index)));
    page
}

fn at(bench: &Bench, page: PageId, distance: usize) -> Option<Object> {
    bench.objects.find(Address(bench.heap.region().address(page).0 + distance))
}

#[test]
fn every_byte_of_every_class_leads_to_its_object() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    for code in SpanClass::all() {
        let row = code.row();
        let page = open(&bench, &mut hand, code, Pages(row.pages as usize));
        let size = row.size as usize;
        for distance in (0..row.pages as usize * PAGE_SIZE).step_by(7) {
            let index = distance / size;
            let wanted = index < row.slots as usize && index.is_multiple_of(2);
            let found = at(&bench, page, distance);
            assert_eq!(found.is_some(), wanted, "{distance} in {row:?}");
            let Some(object) = found else { continue };
            let start = Address(bench.heap.region().address(page).0 + index * size);
            assert_eq!((object.first_page, object.index as usize), (page, index));
            assert_eq!((object.start, object.size, object.kind), (start, Bytes(size), row.kind));
            assert_eq!(bench.objects.find_ending_at(Address(start.0 + size)), Some(object));
            assert_eq!(bench.objects.find_ending_at(Address(start.0 + size - 1)), None);
        }
    }
}

#[test]
fn large_objects_are_found_from_any_of_their_pages() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    for (kind, pages) in [(SpanKind::Plain, 5), (SpanKind::Words, 700), (SpanKind::Headed, 1)] {
        let code = SpanClass::large(kind);
        let page = open(&bench, &mut hand, code, Pages(pages));
        for later in 0..pages {
            let object = at(&bench, page, later * PAGE_SIZE + 5).unwrap();
            assert_eq!((object.first_page, object.index, object.class), (page, 0, code));
            assert_eq!(object.size, Pages(pages).bytes());
            assert_eq!(object.kind, SpanKind::Plain, "its memory is not ready");
        }
        bench.objects.meta(page).unwrap().shape.store(1, Ordering::Release);
        assert_eq!(at(&bench, page, 0).unwrap().kind, kind);
    }
}

#[test]
fn what_is_no_object_is_not_found() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let base = bench.heap.region().base();
    for address in [0, 1, base.0, base.0 - 1, usize::MAX, 1 << 63, base.0 + (60 << 20)] {
        assert_eq!(bench.objects.find(Address(address)), None);
        assert_eq!(bench.objects.find_ending_at(Address(address)), None);
    }
    let code = SpanClass::new(SpanKind::Plain, SizeClass::of_small(3000));
    let page = open(&bench, &mut hand, code, Pages(code.row().pages as usize));
    assert!(at(&bench, page, 0).is_some());
    let pages = bench.objects.meta(page).unwrap().pages();
    bench.objects.close(page, pages);
    assert!((0..pages.0).all(|later| at(&bench, page, later * PAGE_SIZE).is_none()));
    let work = bench.work(&mut hand);
    // A span of blocks beside objects.
    let blocks = work.ground.allocate(work.spans, Request::new(BLOCKS, Pages(3))).unwrap().page;
    assert!((0..3).all(|later| at(&bench, blocks, later * PAGE_SIZE).is_none()));
}

#[test]
fn marking_tells_who_was_first() {
    let bench = Bench::new();
    let mut hand = bench.hand();
    let code = SpanClass::new(SpanKind::Words, SizeClass::of_small(32));
    let page = open(&bench, &mut hand, code, Pages(1));
    let object = at(&bench, page, 64).unwrap();
    assert!(!bench.objects.is_marked(&object));
    assert!(bench.objects.mark(&object));
    assert!(!bench.objects.mark(&object));
    assert!(bench.objects.is_marked(&object));
    assert!(!bench.objects.is_marked(&at(&bench, page, 0).unwrap()));
    assert_eq!(bench.objects.meta(page).unwrap().marks.count(), 1);
    assert_eq!(class::index(64, code.row().magic), object.index as usize);
}
