//! Tests of the room: the walk finds what is broken, spans of every kind come and go as the books say, and the meters
//! and the records keep their promises.
//!
//! # Safety
//! Spans are freed by the test that allocated them. What is broken on purpose is not used any more.

use super::HeapError;
use super::heap::{Ground, NewSpan, PageHeap, Request, SpanCache};
use super::meter::{DeclareError, Meters, SoftLimitCallback};
use super::record::{Span, SpanId};
use super::registry::{RecordCache, Registry};
use super::release::Release;
use crate::base::sync::Ordering;
use crate::base::{Bytes, PageId, Pages, PurposeId, Scarce, purpose};
use crate::os::System;
use crate::os::testing::{balance, books, read, shard, simulated};
use crate::stats::{Account, BookShard, Books, MetadataKind};
use proptest::prelude::*;

const ONE: PurposeId = PurposeId(5);
const TWO: PurposeId = PurposeId(6);

fn meters() -> Box<Meters> {
    let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
    // SAFETY: zeroed memory of our own, filled before use.
    unsafe {
        Meters::init(meters);
        Box::from_raw(meters)
    }
}

/// A page heap with books and meters, and one mutator.
struct World {
    heap: PageHeap,
    meters: Box<Meters>,
    books: Box<Books>,
    shard: &'static BookShard,
    local: SpanCache,
}

impl World {
    fn on(system: System) -> World {
        let (books, meters) = (books(), meters());
        let shard = shard(&books);
        assert_eq!((meters.declare("one"), meters.declare("two")), (Ok(ONE), Ok(TWO)));
        let heap = PageHeap::reserve(system, Bytes::mib(64), Bytes::mib(64), books.ledger(shard)).unwrap();
        World { heap, meters, books, shard, local: SpanCache::default() }
    }

    /// A heap with spans of both purposes, some freed again, cached and free pages and dead records.
    fn new() -> World {
        let mut world = World::on(System::Linux);
        let spans: Vec<_> =
            (0..40).map(|i| world.take(if i % 2 == 0 { ONE } else { TWO }, 1 + i % 20)).collect();
        for id in spans.into_iter().skip(3).step_by(3) {
            world.free(id);
        }
        world.check().unwrap();
        world
    }

    fn ground(&self) -> Ground<'_> {
        Ground { heap: &self.heap, meters: &self.meters, ledger: self.books.ledger(self.shard) }
    }

    /// Runs `work` with the ground and the mutator's caches.
    fn with<T>(&mut self, work: impl FnOnce(Ground<'_>, &mut SpanCache) -> T) -> T {
        let mut local = std::mem::take(&mut self.local);
        let done = work(self.ground(), &mut local);
        self.local = local;
        done
    }

    fn take(&mut self, purpose: PurposeId, pages: usize) -> SpanId {
        self.with(|ground, local| ground.allocate(local, Request::new(purpose, Pages(pages))).unwrap().id)
    }

    fn free(&mut self, id: SpanId) {
        // SAFETY: the test's own span; all of it counts as touched.
        self.with(|ground, local| unsafe { ground.free(local, id, ground.heap.span(id).unwrap().pages()) });
    }

    fn check(&self) -> Result<(), HeapError> {
        let figures = read(&self.books);
        self.heap.acquire_for_fork();
        // SAFETY: the locks were just taken, and the caches are this test's.
        unsafe {
            let checked = self.heap.check(&self.meters, &figures, std::iter::once(&self.local));
            self.heap.release_after_fork();
            checked
        }
    }

    /// The invariant that is found broken.
    fn broken(&self) -> u8 {
        match self.check() {
            Err(HeapError::Spans(broken)) => {
                assert_eq!(broken.invariant.0, "span");
                assert!(
                    broken.to_string().starts_with(&format!("span {}: ", broken.invariant.1)),
                    "{broken}"
                );
                broken.invariant.1
            }
            other => panic!("{other:?}"),
        }
    }

    fn any_span(&self) -> (SpanId, &Span) {
        self.heap.spans().find(|(_, span)| span.pages() > Pages(1)).unwrap()
    }

    /// A page in the mutator's page cache.
    fn cached_page(&self) -> PageId {
        let (base, free, _) = self.local.pages.parts();
        assert_ne!(free, 0);
        PageId(base.0 + free.trailing_zeros() as usize)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: the world goes, and nobody uses its heap any more.
        unsafe { self.heap.destroy() }
    }
}

#[test]
fn an_entry_that_names_another_span_is_found() {
    let world = World::new();
    let (id, span) = world.any_span();
    world.heap.map.set(span.page().plus(Pages(1)), Pages(1), SpanId(id.0 + 1));
    assert_eq!(world.broken(), 1);
}

#[test]
fn a_page_of_a_span_that_is_free_is_found() {
    let world = World::new();
    let page = world.any_span().1.page();
    world.heap.pages.lock().allocator.free(page, Pages(1));
    assert_eq!(world.broken(), 1);
}

#[test]
fn a_page_of_a_span_that_is_cached_is_found() {
    let mut world = World::new();
    let (base, ..) = world.local.pages.parts();
    let inside = |span: &Span| (base.0..base.0 + 64).contains(&span.page().0);
    let page = world.heap.spans().find(|(_, span)| inside(span)).unwrap().1.page();
    assert!(world.local.pages.free(page, Pages(1)));
    assert_eq!(world.broken(), 1);
}

#[test]
fn a_purpose_that_does_not_exist_is_found() {
    let mut world = World::new();
    world.take(PurposeId(7), 1);
    assert_eq!(world.broken(), 2);
}

#[test]
fn bytes_that_meters_or_books_do_not_know_are_found() {
    let world = World::new();
    world.meters.discharge(ONE, Bytes(1));
    assert_eq!(world.broken(), 3);
    let world = World::new();
    world.ground().ledger.transfer(Account::Span(ONE), Account::Span(TWO), Bytes(1));
    assert_eq!(world.broken(), 3);
}

#[test]
fn records_that_are_lost_or_both_dead_and_alive_are_found() {
    let mut world = World::new();
    let id = world.any_span().0;
    world.heap.registry.give(&mut world.local.records, id);
    assert_eq!(world.broken(), 4);
    let mut world = World::new();
    world.local.records = RecordCache::new();
    assert_eq!(world.broken(), 4);
}

#[test]
fn pages_that_are_lost_or_in_two_places_are_found() {
    let world = World::new();
    world.heap.pages.lock().allocator.free(world.cached_page(), Pages(1));
    assert_eq!(world.broken(), 5);
    let world = World::new();
    world.heap.pages.lock().allocator.allocate(Pages(1)).unwrap();
    assert_eq!(world.broken(), 5);
}

#[test]
fn accounts_and_counts_that_are_wrong_are_found() {
    for (from, to) in [
        (Account::Free, Account::Reserved),
        (Account::Cached, Account::Reserved),
        (Account::Released, Account::Reserved),
    ] {
        let mut world = World::new();
        // So that there is something in every account.
        let id = world.take(ONE, 100);
        world.free(id);
        world.check().unwrap();
        world.ground().ledger.transfer(from, to, Bytes(1));
        assert_eq!(world.broken(), 5, "{from:?}");
    }
    let world = World::new();
    world.heap.committed.fetch_add(1, Ordering::Relaxed);
    assert_eq!(world.broken(), 5);
}

/// One step of the property below.
#[derive(Clone, Debug)]
enum Step {
    Take { pages: usize, align: usize, second: bool },
    Free { which: usize, touched: usize },
    Grow { which: usize, more: usize },
    Shrink { which: usize, fewer: usize },
    Release,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let pages = prop_oneof![4 => 1usize..20, 1 => 20usize..200, 1 => 500usize..700];
    prop_oneof![
        6 => (pages, 0u32..11, any::<bool>()).prop_map(|(pages, align, second)| {
            Step::Take { pages, align: if align < 6 { 1 } else { 1 << align }, second }
        }),
        4 => (any::<usize>(), any::<usize>()).prop_map(|(which, touched)| Step::Free { which, touched }),
        1 => (any::<usize>(), 1usize..50).prop_map(|(which, more)| Step::Grow { which, more }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(which, fewer)| Step::Shrink { which, fewer }),
        1 => Just(Step::Release),
        1 => Just(Step::Flush),
    ]
}

/// A span that the test holds: it writes to its first `touched` pages.
struct Held {
    id: SpanId,
    touched: usize,
}

impl World {
    fn page_bytes(&self, page: PageId) -> &'static mut [u8] {
        // SAFETY: a page of a span that the test holds.
        unsafe { std::slice::from_raw_parts_mut(self.heap.region().page_pointer(page), Pages(1).bytes().0) }
    }

    /// Proves that what is said to be clean reads as zeros, and dirties a part.
    fn hold(&self, id: SpanId, fresh: bool) -> Held {
        let span = self.heap.span(id).unwrap();
        let pages = span.pages().0;
        for n in 0..pages {
            if fresh || span.was_clean(Pages(n)) {
                assert!(
                    self.page_bytes(span.page().plus(Pages(n))).iter().all(|&byte| byte == 0),
                    "page {n}"
                );
            }
        }
        let touched = pages.div_ceil(2);
        (0..touched).for_each(|n| self.page_bytes(span.page().plus(Pages(n))).fill(0xab));
        Held { id, touched }
    }

    fn run(&mut self, held: &mut Vec<Held>, step: Step) {
        match step {
            Step::Take { pages, align, second } => {
                let purpose = if second { TWO } else { ONE };
                let request = Request { purpose, pages: Pages(pages), align: Pages(align) };
                let taken = self.with(|ground, local| {
                    ground.allocate(local, request).map(|NewSpan { id, page, fresh, .. }| (id, page, fresh))
                });
                if let Ok((id, page, fresh)) = taken {
                    assert!(self.heap.region().address(page).is_aligned(align * Pages(1).bytes().0));
                    held.push(self.hold(id, fresh));
                }
            }
            Step::Free { which, touched } if !held.is_empty() => {
                let Held { id, touched: least } = held.swap_remove(which % held.len());
                let pages = self.heap.span(id).unwrap().pages().0;
                let touched = least + touched % (pages - least + 1);
                // SAFETY: the test's own span, of which no more was touched.
                self.with(|ground, local| unsafe { ground.free(local, id, Pages(touched)) });
            }
            Step::Grow { which, more } if !held.is_empty() => {
                let at = which % held.len();
                // SAFETY: the test's own span. All that it had counts as touched, so that what is new is behind it.
                if unsafe { self.ground().grow_in_place(held[at].id, Pages(more)) }.is_some() {
                    held[at].touched = self.heap.span(held[at].id).unwrap().pages().0;
                }
            }
            Step::Shrink { which, fewer } if !held.is_empty() => {
                let at = which % held.len();
                let pages = self.heap.span(held[at].id).unwrap().pages().0;
                if pages > 1 {
                    // SAFETY: the test's own span.
                    unsafe { self.ground().shrink_in_place(held[at].id, Pages(1 + fewer % (pages - 1))) };
                    held[at].touched = held[at].touched.min(self.heap.span(held[at].id).unwrap().pages().0);
                }
            }
            Step::Release => {
                self.ground().release(Bytes(usize::MAX), Release::OnRequest);
            }
            Step::Flush => self.with(|ground, local| ground.flush(local)),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 30 } else { 300 }))]

    /// On a system with little memory that poisons what it gets back: after every step the walk finds nothing, what is
    /// said to be zero is, and in the end nothing is left.
    #[test]
    fn spans_come_and_go(steps in prop::collection::vec(step(), 1..120), memory in 2usize..64) {
        let (simulated, system) = simulated();
        let mut world = World::on(system);
        simulated.set_memory(Bytes(simulated.ready_bytes().0 + Bytes::mib(memory).0));
        let mut held = Vec::new();
        for step in steps {
            world.run(&mut held, step);
            prop_assert_eq!(world.check(), Ok(()));
        }
        for Held { id, touched } in held {
            // SAFETY: the test's own spans.
            world.with(|ground, local| unsafe { ground.free(local, id, Pages(touched)) });
        }
        world.with(|ground, local| {
            ground.flush(local);
            ground.release(Bytes(usize::MAX), Release::OnRequest);
        });
        prop_assert_eq!(world.check(), Ok(()));
        for account in [Account::Free, Account::Cached, Account::Span(ONE), Account::Span(TWO)] {
            prop_assert_eq!(balance(&world.books, account), 0);
        }
    }
}

#[test]
fn a_span_of_the_impossible_is_refused_and_nothing_changes() {
    let mut world = World::new();
    for (pages, align, scarce) in [
        (usize::MAX >> 14, 1, Scarce::Size),
        (8192, 1, Scarce::AddressSpace),
        (1, 1 << 30, Scarce::AddressSpace),
    ] {
        let request = Request { purpose: ONE, pages: Pages(pages), align: Pages(align) };
        let refused = world.with(|ground, local| ground.allocate(local, request).err().unwrap());
        assert_eq!((refused.scarce, refused.purpose.as_str()), (scarce, "one"));
        world.check().unwrap();
    }
}

#[test]
fn giving_memory_back_goes_on_where_the_system_refuses() {
    let (simulated, system) = simulated();
    let mut world = World::on(system);
    let spans: Vec<_> = (0..6).map(|_| world.take(ONE, 500)).collect();
    spans.into_iter().for_each(|id| world.free(id));
    world.with(|ground, local| ground.flush(local));
    let free = world.heap.free_pages().bytes();
    simulated.refuse(0, usize::MAX / 2);
    assert_eq!(world.ground().release(Bytes(usize::MAX), Release::OnRequest), Bytes::ZERO);
    simulated.refuse(1, 1);
    let given = world.ground().release(Bytes(usize::MAX), Release::OnRequest);
    assert!(given > Bytes::ZERO && given < free);
    world.check().unwrap();
    simulated.refuse_nothing();
    assert_eq!(world.ground().release(Bytes(usize::MAX), Release::OnRequest), free - given);
    world.check().unwrap();
}

// ---- meters ----

#[test]
fn a_meter_charges_up_to_its_limit_and_no_further() {
    let meters = meters();
    let id = meters.declare("one").unwrap();
    let meter = meters.get(id);
    meter.set_hard_limit(Some(Bytes(100)));
    assert!(meters.charge(id, Bytes(100)).is_ok());
    let refused = meters.charge(id, Bytes(1)).unwrap_err();
    assert_eq!((refused.scarce, refused.wanted, refused.limit), (Scarce::PurposeLimit, Bytes(1), Bytes(100)));
    assert!(meters.charge(id, Bytes(usize::MAX)).is_err(), "the sum does not wrap");
    assert_eq!((meter.inuse(), meter.refused()), (Bytes(100), 2));
    assert_eq!(meter.peak(), Bytes::ZERO, "what is only charged is no peak yet");
    meters.confirm(id);
    meters.discharge(id, Bytes(60));
    assert_eq!((meter.inuse(), meter.peak(), meter.hard_limit()), (Bytes(40), Bytes(100), Some(Bytes(100))));
    meters.charge(id, Bytes(60)).unwrap();
    meters.refuse(id, Bytes(60));
    assert_eq!((meter.inuse(), meter.refused()), (Bytes(40), 3));
}

#[test]
fn a_soft_limit_is_news_once_for_each_time_that_it_is_passed() {
    fn called(data: usize, event: &super::SoftLimitEvent) {
        // SAFETY: the test hands its own cell.
        let cell = unsafe { &*(data as *const std::cell::Cell<(usize, Bytes)>) };
        cell.set((cell.get().0 + 1, event.inuse));
    }
    let (meters, cell) = (meters(), std::cell::Cell::new((0, Bytes::ZERO)));
    let id = meters.declare("one").unwrap();
    let data = std::ptr::from_ref(&cell) as usize;
    meters.set_callback(id, Some(SoftLimitCallback { call: called, data }));
    meters.get(id).set_soft_limit(Some(Bytes(10)));
    for (charge, told) in [(10, 0), (1, 1), (5, 1)] {
        meters.charge(id, Bytes(charge)).unwrap();
        assert_eq!(meters.has_news(), told > cell.get().0);
        meters.tell(|_| ());
        assert_eq!(cell.get().0, told);
    }
    assert_eq!(cell.get().1, Bytes(11));
    meters.discharge(id, Bytes(10));
    meters.charge(id, Bytes(10)).unwrap();
    meters.tell(|_| ());
    assert_eq!((cell.get(), meters.get(id).soft_events()), ((2, Bytes(16)), 2));
}

#[test]
fn names_are_found_and_kept_apart() {
    let meters = meters();
    assert_eq!(meters.count(), purpose::BUILT_IN.len());
    for i in 0..purpose::MAX_DECLARED {
        let id = meters.declare(&format!("p{i}")).unwrap();
        assert_eq!(meters.find(&format!("p{i}")), Some(id));
        assert_eq!(meters.name(id).as_str(), format!("p{i}"));
    }
    assert_eq!(meters.declare("more"), Err(DeclareError::TooMany));
    assert!(matches!(meters.declare("p7"), Err(DeclareError::Duplicate(_))));
    assert!(matches!(meters.declare(""), Err(DeclareError::BadName(_))));
}

// ---- records ----

#[test]
fn records_go_round_and_none_is_given_twice() {
    let (simulated, system) = simulated();
    let books = books();
    let ledger = books.ledger(shard(&books));
    let registry = Registry::reserve(system, 1000, ledger).unwrap();
    let mut caches: Vec<_> = (0..3).map(|_| RecordCache::new()).collect();
    let mut random = crate::base::random::Random::new(1);
    let mut held = std::collections::BTreeSet::new();
    for _ in 0..20_000 {
        let cache = &mut caches[random.below(3)];
        if random.below(1000) >= held.len() {
            if let Ok(id) = registry.take(cache, ledger) {
                assert!(id != SpanId::NONE && held.insert(id), "{id:?} was given twice");
                assert!(registry.get(id).is_some());
            }
        } else {
            let id = *held.iter().nth(random.below(held.len())).unwrap();
            held.remove(&id);
            registry.give(cache, id);
        }
    }
    let at_hand: usize = caches.iter().map(|cache| cache.at_hand().len()).sum();
    let given = *registry.fresh_lock().lock() as usize - 1;
    assert_eq!(held.len() + at_hand + registry.dead().count(), given);
    let committed = balance(&books, Account::Metadata(MetadataKind::SpanRecords));
    assert_eq!(committed, registry.committed() as i64);
    // When the system refuses, those that are there still go round.
    simulated.refuse(0, usize::MAX / 2);
    let mut cache = RecordCache::new();
    let dead = registry.dead().count();
    let mut more = 0;
    while registry.take(&mut cache, ledger).is_ok() {
        more += 1;
    }
    assert!(more >= dead);
    // SAFETY: the test's own, and done with.
    unsafe { registry.destroy() };
}
