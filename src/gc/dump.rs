//! A heap, written down: its objects, what they refer to, its roots and attachments.
//!
//! The format (`docs/heap-dump.md`) is a row of records, each a byte and
//! some numbers. Whoever dumps gives a callback that takes bytes, in pieces of up to 4 KiB; its first error ends the
//! dump and is returned.
//!
//! ```text
//!   new ─▶ objects ─▶ root … ─▶ attachments ─▶ finish        any order, any number; finish once
//! ```
//!
//! 1. Addresses in a dump are those of objects' first bytes, as distances from the region's base; each object is
//!    dumped once, and what an edge leads to is one of them.
//!
//! # Safety
//! Words are read in objects that are allocated, while the world stands still and everything is swept.

use super::attach::{Attachment, AttachmentTable, Length};
use crate::base::{Address, Bytes, PAGE_SIZE};
use crate::object::shape::{MASK_WORDS, WORD};
use crate::object::{Object, Objects, PointerMap, Shapes, SpanKind};
use crate::os::Region;

#[cfg(test)]
mod tests;

/// What a dump begins with.
pub const MAGIC: &[u8] = b"spanheap heap dump 1\n";

/// Records, by the byte that they begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Tag {
    End = 0,
    Heap = 1,
    Object = 2,
    Bytes = 3,
    Root = 4,
    Attachment = 5,
}

/// How much is said about an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Where it refers to.
    Edges,
    /// Also all its bytes.
    Bytes,
}

/// What kind of root an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RootKind {
    /// A handle.
    Handle = 0,
    /// A registered range.
    Range = 1,
    /// A stack, or the registers of a thread.
    Stack = 2,
    /// What a provider of roots said.
    Provider = 3,
}

/// A dump that is being written. See the [file's head](self).
pub struct HeapDump<'a, E> {
    objects: &'a Objects,
    shapes: &'a Shapes,
    region: &'a Region,
    out: &'a mut dyn FnMut(&[u8]) -> Result<(), E>,
    buffer: [u8; 4096],
    used: usize,
    /// The callback's first error; nothing is written after it.
    failed: Option<E>,
    records: u64,
}

impl<'a, E> HeapDump<'a, E> {
    /// Begins a dump of a heap's objects.
    ///
    /// # Safety
    /// Until the dump is finished the world stands still, everything is swept, and no cache holds free slots.
    pub unsafe fn new(
        (objects, shapes): (&'a Objects, &'a Shapes),
        region: &'a Region,
        out: &'a mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> HeapDump<'a, E> {
        let buffer = [0; 4096];
        let mut dump = HeapDump { objects, shapes, region, out, buffer, used: 0, failed: None, records: 0 };
        dump.bytes(MAGIC);
        dump.record(Tag::Heap, &[region.base().0 as u64, region.size().0 as u64, WORD as u64]);
        dump
    }

    /// Writes all objects down.
    pub fn objects(&mut self, detail: Detail) {
        let objects = self.objects;
        objects.for_each_object(|object| {
            if self.failed.is_none() {
                self.object(&object, detail);
            }
        });
    }

    /// Writes down that a root refers to the object that holds an address, if there is one.
    pub fn root(&mut self, kind: RootKind, address: Address) {
        if let Some(object) = self.objects.find(address) {
            let place = self.place(object.start);
            self.record(Tag::Root, &[kind as u64, place]);
        }
    }

    /// Writes down what is attached to objects.
    pub fn attachments(&mut self, table: &AttachmentTable) {
        table.for_each(&mut |object, attachment| {
            let (kind, a, b) = match attachment {
                Attachment::Finalizer(finalizer, is_due) => {
                    (u64::from(is_due), finalizer.function as u64, finalizer.data as u64)
                }
                Attachment::Destructor(destructor, is_due) => {
                    (6 + u64::from(is_due), destructor.function as u64, destructor.data as u64)
                }
                Attachment::Weak(Length::Short, holders) => (2, holders.into(), 0),
                Attachment::Weak(Length::Long, holders) => (3, holders.into(), 0),
                Attachment::Ephemeron(map, value) => (4, map.0.into(), self.place(value)),
                Attachment::Pin(pins) => (5, pins.into(), 0),
            };
            let place = self.place(object);
            self.record(Tag::Attachment, &[kind, place, a, b]);
        });
    }

    /// Ends the dump. Returns how many records it has, the last one included.
    ///
    /// # Errors
    /// The callback's first one; what was written before it is a dump without its end.
    pub fn finish(mut self) -> Result<u64, E> {
        let before = self.records;
        self.record(Tag::End, &[before]);
        self.flush();
        self.failed.map_or(Ok(self.records), Err)
    }

    /// An object, its edges, and its bytes if those are wanted.
    fn object(&mut self, object: &Object, detail: Detail) {
        let shape = self.objects.shape_of(object);
        let map = self.map(object);
        let (mut edges, mut last) = (0, 0);
        self.edges(object, &map, &mut |_, _, _| edges += 1);
        let place = self.place(object.start);
        let shape = shape.map_or(0, |shape| u64::from(shape.0) + 1);
        self.record(Tag::Object, &[place, object.size.0 as u64, object.kind as u64, shape, edges]);
        self.edges(object, &map, &mut |dump, word, target| {
            let target = dump.place(target);
            dump.number((word - last) as u64);
            dump.number(target);
            last = word;
        });
        if detail == Detail::Bytes {
            self.record(Tag::Bytes, &[object.size.0 as u64]);
            for word in 0..object.size.0 / WORD {
                let word = self.word(object, word);
                self.bytes(&word.to_le_bytes());
            }
        }
    }

    /// Which words of an object may be pointers.
    fn map(&self, object: &Object) -> Map<'a> {
        let all = Map::Shape(PointerMap::all(object.size.0 / WORD));
        match object.kind {
            SpanKind::Plain => Map::Shape(PointerMap::all(0)),
            SpanKind::Words => all,
            SpanKind::Mapped => {
                let page = self.objects.page_map(object.first_page).expect("mapped objects have a map");
                let first = (object.start.0 - self.region.base().0) % PAGE_SIZE / WORD;
                debug_assert!(object.size.0 <= MASK_WORDS * WORD, "{object:?} is mapped");
                Map::Mask(page.get(first, object.size.0 / WORD))
            }
            SpanKind::Headed => {
                let shape = self.objects.shape_of(object);
                shape.and_then(|shape| self.shapes.map(shape, object.size)).map_or(all, Map::Shape)
            }
        }
    }

    /// Visits the words that refer to objects, in order, with the objects' first bytes.
    fn edges(
        &mut self,
        object: &Object,
        map: &Map<'a>,
        visit: &mut dyn FnMut(&mut HeapDump<'a, E>, usize, Address),
    ) {
        let mut look = |first: usize, mut mask: u64| {
            while mask != 0 {
                let word = first + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                if let Some(target) = self.objects.find(Address(self.word(object, word) as usize)) {
                    visit(self, word, target.start);
                }
            }
        };
        match map {
            Map::Mask(mask) => look(0, *mask),
            Map::Shape(map) => map.masks(0, object.size.0 / WORD).for_each(|(at, mask)| look(at, mask)),
        }
    }

    fn word(&self, object: &Object, word: usize) -> u64 {
        let at = self.region.pointer(Address(object.start.0 + word * WORD));
        // SAFETY: a word of an object; nobody writes, since the world stands still.
        unsafe { at.cast::<u64>().read_volatile() }
    }

    /// An address, as it stands in a dump.
    fn place(&self, address: Address) -> u64 {
        (address.0 - self.region.base().0) as u64
    }

    fn record(&mut self, tag: Tag, numbers: &[u64]) {
        self.bytes(&[tag as u8]);
        numbers.iter().for_each(|&number| self.number(number));
        self.records += 1;
    }

    /// Seven bits a byte, the low ones first.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes(&[number as u8 | 0x80]);
            number >>= 7;
        }
        self.bytes(&[number as u8]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.used == self.buffer.len() {
                self.flush();
            }
            self.buffer[self.used] = byte;
            self.used += 1;
        }
    }

    /// Hands on what the buffer has.
    fn flush(&mut self) {
        let bytes = Bytes(core::mem::take(&mut self.used));
        if self.failed.is_none() {
            self.failed = (self.out)(&self.buffer[..bytes.0]).err();
        }
    }
}

/// Where an object's pointers are.
enum Map<'a> {
    Mask(u64),
    Shape(PointerMap<'a>),
}
