//! A heap with objects and nothing around it: what tests of this room and of the collector's need again and again.
//!
//! # Safety
//! Meters and caches are made in zeroed memory of their own.

use super::{
    Attachments, NoAttachments, ObjectCache, ObjectWork, Objects, ShapeId, SpanClass, SpanKind, Swept, Take,
};
use crate::base::purpose::OBJECTS;
use crate::base::{Bytes, Exhausted};
use crate::os::System;
use crate::os::testing::{books, read, shard};
use crate::span::{Ground, Meters, PageHeap, SpanCache};
use crate::stats::{BookShard, Books};

/// A page heap, its books and meters, and room for objects.
pub(crate) struct Bench {
    pub(crate) heap: PageHeap,
    pub(crate) objects: Objects,
    pub(crate) meters: Box<Meters>,
    pub(crate) books: Box<Books>,
}

/// What one mutator has of a bench.
pub(crate) struct Hand {
    pub(crate) shard: &'static BookShard,
    pub(crate) spans: SpanCache,
    pub(crate) cache: Box<ObjectCache>,
}

impl Bench {
    /// A bench on the machine.
    pub(crate) fn new() -> Bench {
        Bench::on(System::Linux, Bytes::mib(64))
    }

    /// A bench with a region of `size` bytes.
    pub(crate) fn on(system: System, size: Bytes) -> Bench {
        let books = books();
        let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
        // SAFETY: zeroed memory of our own, filled before use.
        let meters = unsafe {
            Meters::init(meters);
            Box::from_raw(meters)
        };
        let ledger = books.ledger(shard(&books));
        let heap = PageHeap::reserve(system, size, size, ledger).unwrap();
        let objects = Objects::reserve(&heap, ledger).unwrap();
        objects.add_purpose(OBJECTS, ledger).unwrap();
        Bench { heap, objects, meters, books }
    }

    /// What a new mutator has.
    pub(crate) fn hand(&self) -> Hand {
        // SAFETY: zeroed memory is an empty cache.
        let cache = unsafe { Box::<ObjectCache>::new_zeroed().assume_init() };
        Hand { shard: shard(&self.books), spans: SpanCache::default(), cache }
    }

    /// What operations need of the bench and of a mutator.
    pub(crate) fn work<'a, 'b>(&'a self, hand: &'b mut Hand) -> ObjectWork<'a, 'b> {
        self.split(hand).0
    }

    /// That, and the mutator's cache.
    pub(crate) fn split<'a, 'b>(&'a self, hand: &'b mut Hand) -> (ObjectWork<'a, 'b>, &'b mut ObjectCache) {
        let ledger = self.books.ledger(hand.shard);
        let ground = Ground { heap: &self.heap, meters: &self.meters, ledger };
        (ObjectWork { ground, spans: &mut hand.spans }, &mut hand.cache)
    }

    /// An object, as a mutator allocates one: from its cache; else it sweeps a chunk, and tries again.
    pub(crate) fn allocate(&self, hand: &mut Hand, class: SpanClass) -> Result<*mut u8, Exhausted> {
        loop {
            let pointer = hand.cache.allocate_fast(class);
            if !pointer.is_null() {
                return Ok(pointer);
            }
            self.refill(hand, class)?;
        }
    }

    fn refill(&self, hand: &mut Hand, class: SpanClass) -> Result<(), Exhausted> {
        let (mut work, cache) = self.split(hand);
        if self.objects.refill(cache, &mut work, class)? == Take::Unswept
            && self.objects.sweep_chunk(&mut work, &mut NoAttachments).is_none()
        {
            // Others sweep the last chunks.
            self.objects.refill_fresh(cache, &mut work, class)?;
        }
        Ok(())
    }

    /// A crumb.
    pub(crate) fn allocate_crumb(
        &self,
        hand: &mut Hand,
        size: usize,
        align: usize,
    ) -> Result<*mut u8, Exhausted> {
        loop {
            let pointer = hand.cache.allocate_crumb(size, align);
            if !pointer.is_null() {
                return Ok(pointer);
            }
            self.refill(hand, super::tiny::BLOCK_CLASS)?;
        }
    }

    /// A large object, finished.
    pub(crate) fn allocate_large(
        &self,
        hand: &mut Hand,
        size: usize,
        shape: ShapeId,
    ) -> Result<*mut u8, Exhausted> {
        let kind = match shape {
            ShapeId::PLAIN => SpanKind::Plain,
            ShapeId::WORDS => SpanKind::Words,
            _ => SpanKind::Headed,
        };
        let mut work = self.work(hand);
        let large = self.objects.allocate_large(&mut work, OBJECTS, Bytes(size), (kind, shape))?;
        Ok(self.objects.finish_large(large))
    }

    /// Marking begins: what the mutators hold is marked.
    pub(crate) fn begin_marking<'a>(&self, hands: impl IntoIterator<Item = &'a mut Hand>) {
        self.objects.set_marking(true);
        hands.into_iter().for_each(|hand| self.objects.blacken(&mut hand.cache));
    }

    /// Marking ends, with `marked` bytes marked beside those that were marked in advance.
    pub(crate) fn end_marking<'a>(&self, hands: impl IntoIterator<Item = &'a mut Hand>, marked: Bytes) {
        hands.into_iter().for_each(|hand| self.flush(hand));
        self.objects.set_marking(false);
        self.objects.begin_sweep(marked + self.objects.black());
    }

    /// Takes back what a mutator's cache holds.
    pub(crate) fn flush(&self, hand: &mut Hand) {
        let (mut work, cache) = self.split(hand);
        self.objects.flush(cache, &mut work);
    }

    /// Sweeps all that is left.
    pub(crate) fn sweep_all(&self, hand: &mut Hand, attachments: &mut dyn Attachments) -> Swept {
        let mut all = Swept::default();
        while let Some(swept) = self.objects.sweep_chunk(&mut self.work(hand), attachments) {
            all.add(swept);
        }
        all
    }

    /// Proves the room's invariants, of a bench at rest and all its mutators.
    pub(crate) fn check_objects<'a>(&self, hands: impl Iterator<Item = &'a Hand> + Clone) {
        let figures = read(&self.books);
        // SAFETY: nothing runs; the caller gives all mutators.
        unsafe { self.objects.check(&self.heap, &figures, hands.map(|hand| &*hand.cache)) }.unwrap();
    }

    /// That, and the invariants of the page heap.
    pub(crate) fn check<'a>(&self, hands: impl Iterator<Item = &'a Hand> + Clone) {
        self.check_objects(hands.clone());
        let figures = read(&self.books);
        self.heap.acquire_for_fork();
        // SAFETY: the locks were just taken.
        let checked = unsafe {
            let checked = self.heap.check(&self.meters, &figures, hands.map(|hand| &hand.spans));
            self.heap.release_after_fork();
            checked
        };
        checked.unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: the test is done with it.
        unsafe {
            self.objects.destroy();
            self.heap.destroy();
        }
    }
}
