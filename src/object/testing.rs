//! A heap with objects and nothing around it: what tests of this room and of the collector's need again and again.
//!
//! # Safety
//! The meters are made in zeroed memory of their own.

use super::{ObjectWork, Objects};
use crate::base::Bytes;
use crate::base::purpose::OBJECTS;
use crate::os::System;
use crate::os::testing::{books, shard};
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
        Hand { shard: shard(&self.books), spans: SpanCache::default() }
    }

    /// What operations need of the bench and of a mutator.
    pub(crate) fn work<'a, 'b>(&'a self, hand: &'b mut Hand) -> ObjectWork<'a, 'b> {
        let ledger = self.books.ledger(hand.shard);
        let ground = Ground { heap: &self.heap, meters: &self.meters, ledger };
        ObjectWork { ground, spans: &mut hand.spans }
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
