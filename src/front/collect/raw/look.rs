//! Looking at objects: one by its address, all of them, and how many there are of each sort.
//!
//! To see all objects the world stands still: what is seen is then one moment. Objects that nothing leads to any more
//! are among them until a cycle has found that out.

use super::RawMutator;
use crate::base::{Address, Bytes, PAGE_SIZE};
use crate::front::collect::Collection;
use crate::object::{Object, ShapeId, SpanKind};

/// Where an object's pointers are, as far as the heap knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pointers {
    /// It has none.
    None,
    /// Any word may be one.
    Words,
    /// Bit `i` says whether word `i` may be one: of objects up to 512 bytes the heap keeps the bits, not the shape.
    Mask(u64),
    /// Where this shape says.
    Shape(ShapeId),
}

/// An object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its first byte.
    pub start: Address,
    /// Its bytes: at least what was asked for.
    pub size: Bytes,
    /// Where its pointers are.
    pub pointers: Pointers,
}

/// The objects of one sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CensusRow {
    /// Where their pointers are.
    pub pointers: Pointers,
    /// Bytes of one of them.
    pub size: Bytes,
    /// How many there are; 0 in a row that is not used.
    pub objects: usize,
}

/// What a census came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Census {
    /// Rows that were filled, from the first on, those with most bytes first.
    pub rows: usize,
    /// All objects, also those that found no row.
    pub objects: usize,
    /// Their bytes.
    pub bytes: Bytes,
}

impl CensusRow {
    /// A row that is not used.
    pub const EMPTY: CensusRow = CensusRow { pointers: Pointers::None, size: Bytes::ZERO, objects: 0 };

    /// Bytes of the row's objects.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.size.0 * self.objects)
    }
}

impl Collection {
    fn describe(&self, object: Object) -> Found {
        let pointers = match self.objects.shape_of(&object) {
            Some(ShapeId::PLAIN) => Pointers::None,
            Some(ShapeId::WORDS) => Pointers::Words,
            Some(shape) => Pointers::Shape(shape),
            None => {
                let word = (object.start.0 - self.objects.base().0) % PAGE_SIZE / 8;
                let map = self.objects.page_map(object.first_page);
                Pointers::Mask(map.map_or(0, |map| map.get(word, object.size.0 / 8)))
            }
        };
        debug_assert!(object.kind != SpanKind::Plain || pointers == Pointers::None);
        Found { start: object.start, size: object.size, pointers }
    }
}

impl RawMutator<'_> {
    /// The object that an address leads to, be it its first byte or another one; any bit pattern is fine. Memory that
    /// some thread has at hand for its next objects counts as objects. Crumbs are found as the 16 bytes that they share.
    pub fn find(&self, address: usize) -> Option<Found> {
        self.collection.objects.find(Address(address)).map(|object| self.collection.describe(object))
    }

    /// Visits every object, in the order of addresses, while the world stands still. `visit` calls nothing of the heap. A
    /// safepoint.
    ///
    /// # Panics
    /// When the thread is [outside](RawMutator::outside), or has another place in this heap where it is not.
    pub fn for_each_object(&self, mut visit: impl FnMut(Found)) {
        self.outside(|| {
            self.collection.while_still(self.heap, |still| {
                let still = still.expect("a thread has one place where it is not outside");
                still.flush(self.heap);
                self.collection.objects.for_each_object(|object| visit(self.collection.describe(object)));
            });
        });
    }

    /// Counts all objects by what the heap knows of their shape, and by size, into as many rows as there are. A
    /// safepoint.
    ///
    /// # Panics
    /// As [`RawMutator::for_each_object`].
    pub fn census(&self, rows: &mut [CensusRow]) -> Census {
        rows.fill(CensusRow::EMPTY);
        let mut census = Census::default();
        self.for_each_object(|found| {
            census.objects += 1;
            census.bytes += found.size;
            let used = &mut rows[..census.rows];
            let same = |row: &&mut CensusRow| (row.pointers, row.size) == (found.pointers, found.size);
            if let Some(row) = used.iter_mut().find(same) {
                row.objects += 1;
            } else if census.rows < rows.len() {
                rows[census.rows] = CensusRow { pointers: found.pointers, size: found.size, objects: 1 };
                census.rows += 1;
            }
        });
        rows[..census.rows].sort_unstable_by_key(|row| core::cmp::Reverse(row.bytes()));
        census
    }
}
