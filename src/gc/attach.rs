//! What hangs on objects: finalizers, weak references, ephemerons, pins.
//!
//! An attachment is a record in a pool, on a list with those of neighbouring objects: eight lists for each page where
//! object spans begin. So what hangs on an object is found by its address, and what hangs on a span when that is
//! swept, and objects without attachments cost nothing.
//!
//! ```text
//!   page ─▶ 8 heads ─▶ record ─▶ record ─▶ record        by the slot's number, modulo 8
//!                      │ object, kind, what else
//!                      └─▶ other records of the same weak map
//! ```
//!
//! | kind | while marking | at the sweep of a dead object |
//! |---|---|---|
//! | finalizer | what the object holds is marked, not itself | the object lives on; the finalizer is due |
//! | finalizer that is due or runs | the object is a root | |
//! | destructor | | the object's memory stays; the destructor is due |
//! | destructor that is due or runs | the object is a root | |
//! | weak reference, short | | cleared |
//! | weak reference, long | | cleared, unless a finalizer becomes due |
//! | ephemeron | the value is marked once the key is | taken out of its map |
//! | pin | the object is a root | |
//!
//! # Order
//!
//! When an object is found dead, short weak references to it are cleared and ephemerons with it as their key vanish;
//! then, if it has a finalizer, it is revived, the finalizer is due, and long weak references stay. Otherwise long weak
//! references are cleared as well, and the object is free. So nobody gets at an object between its death and its
//! finalizer but by long references. A finalizer runs once, outside the collector, when whoever runs finalizers takes it;
//! it gets the object as it was, and may store it anywhere. To be finalized again the object needs a new finalizer. What
//! an object with a finalizer holds lives longer than it: of two such objects, one of which holds the other, the holder is
//! finalized first; objects that hold themselves in a circle never are.
//!
//! A destructor is a finalizer that looks at no other object, and leaves none behind: it ends the value in place, and
//! whatever the object led to may be gone by then. So nothing is kept for its sake, objects in circles get theirs, and all
//! weak references are cleared first. It comes after the object's finalizer, when the object is dead again; the memory is
//! free when an object is found dead whose destructor has run. Until then the collector may follow what the object still
//! holds, which is no promise to anybody; any words will do for that.
//!
//! # While marking
//!
//! Mutators attach and detach at any time. The barrier's promise is that what a mutator holds is reached: it was
//! reachable when marking began, or is new. So an attachment made while marking needs no care but for what it hands
//! out: the target of a weak reference, an ephemeron's value, an object whose finalizer is due. These are shaded when they
//! are handed out, and what comes in is shaded as well, which costs little and does not depend on that argument.
//!
//! Ephemerons are resolved when the other work is done ([`AttachmentTable::resolve`]): the values of all those whose key is
//! marked are shaded, which gives new work, until a pass finds none. A pass holds as long as nothing is marked
//! after it began; so if the world is stopped then and nothing turns up, no further pass is needed in the pause.
//!
//! 1. A record that is attached is on the list of its object's head, once; its object is allocated.
//! 2. An object has at most one finalizer, one destructor, one weak reference of each length, one pin, and one ephemeron of each map.
//! 3. An ephemeron is on its map's list, once, and the map counts them.
//! 4. Every record that is taken is attached, due, a map, or a weak reference that was cleared and is still held.
//!
//! Attaching first has the object's span swept, so that the sweeper does not take what is new for what was there.
//! (Go: `mheap.go`'s specials, `mfinal.go`, `mcleanup.go`, `weak`; Boehm's disappearing links are weak references here.)
//!
//! # Safety
//! Records are numbers, which zero bytes are. `destroy` and the calls around `fork` hand their contracts on.

use super::mark::{Marking, Worker};
use crate::base::{Address, Bytes, Lock, PageId, Pages, Rank};
use crate::object::{Object, ObjectWork, Objects};
use crate::os::{Pool, System, SystemError, Table, Zeroed};
use crate::stats::{Ledger, MetadataKind};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

mod check;
mod list;
mod map;
mod sweep;
#[cfg(test)]
mod tests;

pub use list::Attachment;
pub use map::MapId;
pub use sweep::Sweeping;

/// Lists for each page.
const HEADS: usize = 8;
/// Locks for the lists.
const STRIPES: usize = 32;
/// Attachments that a heap can have for each page of its region, and the most in all.
const PER_PAGE: usize = 64;
const MOST: usize = 1 << 28;

/// A finalizer, as whoever runs it understands it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finalizer {
    /// What to do: a function's address, a number.
    pub function: usize,
    /// What to give it beside the object.
    pub data: usize,
    /// Whether `data` is a pointer that keeps an object alive.
    pub is_traced: bool,
}

/// A finalizer, or a destructor, whose object has died. It is a root until it is [done](AttachmentTable::done).
#[derive(PartialEq, Eq, Debug)]
pub struct Due {
    number: u32,
    /// The object.
    pub object: Address,
    /// What to do with it.
    pub finalizer: Finalizer,
    /// Whether it is a destructor.
    pub is_destructor: bool,
}

/// Until when a weak reference leads to its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// Until the object is found dead.
    Short,
    /// Until it is free: its finalizer may run meanwhile.
    Long,
}

/// A weak reference's number. It is held until it is [dropped](AttachmentTable::drop_weak).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WeakId(pub u32);

/// What attachments keep alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachedRoot {
    /// The object that holds this address.
    Object(Address),
    /// What the object at this address holds, but not itself.
    Contents(Address),
}

/// What an operation needs of the heap and of the calling mutator.
pub struct Access<'a, 'b, 'c> {
    /// The objects.
    pub objects: &'c Objects,
    /// To sweep the span of an object first.
    pub work: &'c mut ObjectWork<'a, 'b>,
    /// Shades an address, by the mutator's barrier buffer; called while marking only.
    pub shade: &'c mut dyn FnMut(Address),
}

/// What a record is. Zero: not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Free = 0,
    Finalizer,
    /// A finalizer that waits to be run, or runs.
    Due,
    Short,
    Long,
    Ephemeron,
    Pin,
    Map,
    Destructor,
    /// A destructor that waits to be run, or runs.
    Doomed,
}

const KINDS: [Kind; 10] = [
    Kind::Free,
    Kind::Finalizer,
    Kind::Due,
    Kind::Short,
    Kind::Long,
    Kind::Ephemeron,
    Kind::Pin,
    Kind::Map,
    Kind::Destructor,
    Kind::Doomed,
];

impl Kind {
    /// Whether its object has died, and it is yet to be run or runs.
    fn is_due(self) -> bool {
        matches!(self, Kind::Due | Kind::Doomed)
    }
}

/// An attachment. Links are numbers plus one, so that zero is none.
#[repr(C)]
struct Record {
    /// The object's first byte; zero for a map and for a weak reference that was cleared.
    object: AtomicUsize,
    /// A finalizer's function; an ephemeron's value.
    value: AtomicUsize,
    /// A finalizer's data.
    data: AtomicUsize,
    kind: AtomicU8,
    /// Whether a finalizer's data is traced.
    traced: AtomicU8,
    /// Holders of a weak reference, pins of an object, entries of a map.
    uses: AtomicU32,
    /// The next one on the list of the head, or among those that are due.
    next: AtomicU32,
    /// An ephemeron's map; a map's first entry.
    map: AtomicU32,
    /// Neighbours on the list of a map.
    before: AtomicU32,
    after: AtomicU32,
    /// The next ephemeron that is not resolved.
    open: AtomicU32,
    /// The list of the object.
    place: AtomicU32,
}

// SAFETY: numbers, and zero is the kind "free".
unsafe impl Zeroed for Record {}

/// Finalizers that wait to be run, the oldest first.
#[derive(Default)]
struct Queue {
    first: u32,
    last: u32,
}

/// The attachments of a heap. See the [file's head](self).
pub struct AttachmentTable {
    heads: Table<AtomicU32>,
    records: Pool<Record>,
    /// Guard the lists of heads.
    stripes: [Lock<()>; STRIPES],
    /// Guards the lists of maps.
    maps: Lock<()>,
    /// Guards the growth of the heads.
    growth: Lock<()>,
    due: Lock<Queue>,
    /// Those in the queue.
    waiting: AtomicUsize,
    /// The first ephemeron that is not resolved; [`UNKNOWN`] before the first pass of a cycle.
    open: AtomicU32,
}

/// Nobody has looked for ephemerons in this cycle.
const UNKNOWN: u32 = u32::MAX;

impl Record {
    fn kind(&self) -> Kind {
        KINDS[self.kind.load(Ordering::Acquire) as usize]
    }

    /// Published last, so that whoever sees the kind sees the rest, or what comes later.
    fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Release);
    }

    fn object(&self) -> Address {
        Address(self.object.load(Ordering::Acquire))
    }

    fn is(&self, kind: Kind, object: Address) -> bool {
        self.kind() == kind && self.object() == object
    }

    fn finalizer(&self) -> Finalizer {
        Finalizer {
            function: self.value.load(Ordering::Relaxed),
            data: self.data.load(Ordering::Relaxed),
            is_traced: self.traced.load(Ordering::Relaxed) != 0,
        }
    }

    fn set_finalizer(&self, finalizer: Finalizer) {
        self.value.store(finalizer.function, Ordering::Relaxed);
        self.data.store(finalizer.data, Ordering::Relaxed);
        self.traced.store(finalizer.is_traced.into(), Ordering::Relaxed);
    }
}

impl Access<'_, '_, '_> {
    fn ledger(&self) -> Ledger<'_> {
        self.work.ground.ledger
    }

    /// Shades what goes in or out, while marking.
    fn keep(&mut self, address: usize) {
        if self.objects.is_marking() {
            (self.shade)(Address(address));
        }
    }

    /// Shades what a finalizer is given beside its object.
    fn keep_data(&mut self, finalizer: &Finalizer) {
        if finalizer.is_traced {
            self.keep(finalizer.data);
        }
    }

    /// Has the span of an object swept. While marking, all are.
    fn settle(&mut self, table: &AttachmentTable, first: PageId) {
        if !self.objects.is_marking() {
            self.objects.ensure_swept(first, self.work, &mut table.sweeping(self.objects));
        }
    }
}

impl AttachmentTable {
    /// Room for the attachments of a heap whose region has so many pages.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    pub fn reserve(system: System, pages: Pages, ledger: Ledger<'_>) -> Result<AttachmentTable, SystemError> {
        let kind = MetadataKind::Attachments;
        let heads = Table::reserve(system, kind, pages.0 * HEADS, c"spanheap: attachment lists", ledger)?;
        let records =
            Pool::reserve(system, kind, MOST.min(pages.0 * PER_PAGE), c"spanheap: attachments", ledger)
                // SAFETY: it was made here, and nobody has seen it.
                .inspect_err(|_| unsafe { heads.destroy() })?;
        Ok(AttachmentTable {
            heads,
            records,
            stripes: core::array::from_fn(|_| Lock::new(Rank::Attachments, ())),
            maps: Lock::new(Rank::Metadata, ()),
            growth: Lock::new(Rank::Metadata, ()),
            due: Lock::new(Rank::Metadata, Queue::default()),
            waiting: AtomicUsize::new(0),
            open: AtomicU32::new(UNKNOWN),
        })
    }

    /// Attaches a finalizer to an object, instead of the one that it has, which is returned.
    ///
    /// # Errors
    /// The system refused memory; nothing has changed.
    pub fn set_finalizer(
        &self,
        object: &Object,
        finalizer: Finalizer,
        access: &mut Access<'_, '_, '_>,
    ) -> Result<Option<Finalizer>, SystemError> {
        access.settle(self, object.first_page);
        access.keep(object.start.0);
        access.keep_data(&finalizer);
        let list = self.list(object, access.ledger())?;
        let locked = list.lock();
        if let Some((_, record)) = self.on(list.head).find(|(_, r)| r.is(Kind::Finalizer, object.start)) {
            let old = record.finalizer();
            record.set_finalizer(finalizer);
            drop(locked);
            access.keep_data(&old);
            return Ok(Some(old));
        }
        let number = self.attach(&list, object, access)?;
        self.record(number).set_finalizer(finalizer);
        self.record(number).set_kind(Kind::Finalizer);
        Ok(None)
    }

    /// Detaches an object's finalizer, unless it is due already.
    pub fn take_finalizer(&self, object: &Object, access: &mut Access<'_, '_, '_>) -> Option<Finalizer> {
        access.settle(self, object.first_page);
        let list = self.known_list(object)?;
        let locked = list.lock();
        let (number, record) = self.on(list.head).find(|(_, r)| r.is(Kind::Finalizer, object.start))?;
        let finalizer = record.finalizer();
        self.detach(list.head, number);
        self.give(number);
        drop(locked);
        access.keep_data(&finalizer);
        Some(finalizer)
    }

    /// Attaches a destructor to an object that has none.
    ///
    /// # Errors
    /// The system refused memory; nothing has changed.
    pub fn set_destructor(
        &self,
        object: &Object,
        destructor: Finalizer,
        access: &mut Access<'_, '_, '_>,
    ) -> Result<(), SystemError> {
        debug_assert!(!destructor.is_traced, "a destructor keeps nothing alive");
        access.settle(self, object.first_page);
        let list = self.list(object, access.ledger())?;
        let _locked = list.lock();
        let number = self.attach(&list, object, access)?;
        self.record(number).set_finalizer(destructor);
        self.record(number).set_kind(Kind::Destructor);
        Ok(())
    }

    /// Visits every object whose destructor has not begun to run, with that. Nobody attaches or sweeps meanwhile.
    pub fn for_each_destructor(&self, visit: &mut dyn FnMut(Address, Finalizer)) {
        for record in (0..self.numbers()).map(|number| self.record(number)) {
            if matches!(record.kind(), Kind::Destructor | Kind::Doomed) {
                visit(record.object(), record.finalizer());
            }
        }
    }

    /// The finalizer that has been due for longest. Its object and data are roots until it is [done](Self::done).
    pub fn next_due(&self) -> Option<Due> {
        let mut queue = self.due.lock();
        let number = queue.first.checked_sub(1)?;
        let record = self.record(number);
        queue.first = record.next.load(Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if queue.first == 0 {
            queue.last = 0;
        }
        let is_destructor = record.kind() == Kind::Doomed;
        Some(Due { number, object: record.object(), finalizer: record.finalizer(), is_destructor })
    }

    /// A finalizer has run; its object is kept by others from now on, or dies.
    pub fn done(&self, due: Due, access: &mut Access<'_, '_, '_>) {
        access.keep(due.object.0);
        access.keep_data(&due.finalizer);
        self.give(due.number);
    }

    /// Finalizers that wait to be run.
    pub fn due(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A weak reference to an object; all of one length share one. The caller holds it.
    ///
    /// # Errors
    /// The system refused memory; nothing has changed.
    pub fn weak(
        &self,
        object: &Object,
        length: Length,
        access: &mut Access<'_, '_, '_>,
    ) -> Result<WeakId, SystemError> {
        let kind = if length == Length::Short { Kind::Short } else { Kind::Long };
        access.settle(self, object.first_page);
        self.count_up(object, kind, access).map(WeakId)
    }

    /// Holds a weak reference once more.
    pub fn share_weak(&self, id: WeakId) {
        self.record(id.0).uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Holds a weak reference once less.
    pub fn drop_weak(&self, id: WeakId) {
        let record = self.record(id.0);
        let drop_one = || record.uses.fetch_sub(1, Ordering::AcqRel) == 1;
        // Who comes by the object holds the lock; so does who clears the reference.
        let list = self.list_of(record);
        let _locked = list.lock();
        if drop_one() {
            if record.object() != Address(0) {
                self.detach(list.head, id.0);
            }
            self.give(id.0);
        }
    }

    /// The object of a weak reference, if it is alive. It stays so at least until the caller's next safepoint.
    pub fn upgrade(&self, id: WeakId, access: &mut Access<'_, '_, '_>) -> Option<Address> {
        let record = self.record(id.0);
        let object = Some(record.object()).filter(|&object| object != Address(0))?;
        access.keep(object.0);
        // Before its span is swept, whether it is dead is not decided. It may be freed and be another's meanwhile, which
        // does no harm: then the reference was cleared before.
        if let Some(found) = access.objects.find(object) {
            access.settle(self, found.first_page);
        }
        Some(record.object()).filter(|&now| now == object)
    }

    /// Makes an object a root, once more.
    ///
    /// # Errors
    /// The system refused memory; nothing has changed.
    pub fn pin(&self, object: &Object, access: &mut Access<'_, '_, '_>) -> Result<(), SystemError> {
        access.settle(self, object.first_page);
        self.count_up(object, Kind::Pin, access).map(drop)
    }

    /// Takes one pin of an object back. Returns whether there was one.
    pub fn unpin(&self, object: &Object, access: &mut Access<'_, '_, '_>) -> bool {
        access.settle(self, object.first_page);
        access.keep(object.start.0);
        let Some(list) = self.known_list(object) else { return false };
        let _locked = list.lock();
        let Some((number, record)) = self.on(list.head).find(|(_, r)| r.is(Kind::Pin, object.start)) else {
            return false;
        };
        if record.uses.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.detach(list.head, number);
            self.give(number);
        }
        true
    }

    /// Counts up the one attachment of a kind that an object has, or makes it.
    fn count_up(
        &self,
        object: &Object,
        kind: Kind,
        access: &mut Access<'_, '_, '_>,
    ) -> Result<u32, SystemError> {
        access.keep(object.start.0);
        let list = self.list(object, access.ledger())?;
        let _locked = list.lock();
        if let Some((number, record)) = self.on(list.head).find(|(_, r)| r.is(kind, object.start)) {
            record.uses.fetch_add(1, Ordering::Relaxed);
            return Ok(number);
        }
        let number = self.attach(&list, object, access)?;
        self.record(number).uses.store(1, Ordering::Relaxed);
        self.record(number).set_kind(kind);
        Ok(number)
    }

    /// One more than the greatest number of an attachment: what [`AttachmentTable::roots`] divides.
    pub fn numbers(&self) -> u32 {
        self.records.fresh()
    }

    /// Says what the attachments with these numbers keep alive. Numbers may be shared out among markers; an attachment
    /// made meanwhile has shaded what it keeps.
    pub fn roots(&self, numbers: core::ops::Range<u32>, visit: &mut dyn FnMut(AttachedRoot)) {
        for record in numbers.filter_map(|number| self.records.get(number)) {
            let object = record.object();
            match record.kind() {
                Kind::Finalizer => visit(AttachedRoot::Contents(object)),
                kind if kind.is_due() || kind == Kind::Pin => visit(AttachedRoot::Object(object)),
                _ => continue,
            }
            let finalizer = record.finalizer();
            if finalizer.is_traced {
                visit(AttachedRoot::Object(Address(finalizer.data)));
            }
        }
    }

    /// Shades what the attachments with these numbers keep alive: a job for a marker.
    pub fn scan_roots(&self, numbers: core::ops::Range<u32>, worker: &mut Worker, marking: &mut Marking<'_>) {
        self.roots(numbers, &mut |root| match root {
            AttachedRoot::Object(address) => worker.shade(address, marking),
            AttachedRoot::Contents(address) => {
                if let Some(object) = marking.objects.find(address) {
                    worker.scan_contents(&object, marking);
                }
            }
        });
    }

    /// What looks after attachments when spans are swept.
    pub fn sweeping<'a>(&'a self, objects: &'a Objects) -> Sweeping<'a> {
        Sweeping::new(self, objects)
    }

    /// Bytes that are committed, and in the books as [`MetadataKind::Attachments`].
    pub fn committed_bytes(&self) -> Bytes {
        self.heads.committed_bytes() + self.records.committed_bytes()
    }

    /// The committed ranges, as addresses.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.heads.committed_ranges().chain(self.records.committed_ranges())
    }

    /// Takes all locks, before a `fork`.
    pub fn acquire_for_fork(&self) {
        self.stripes.iter().for_each(Lock::acquire_equal);
        self.records.acquire_for_fork();
        self.growth.acquire_equal();
        self.maps.acquire_equal();
        self.due.acquire_equal();
    }

    /// Gives them back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`AttachmentTable::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise is the contract of all of them.
        unsafe {
            self.due.release();
            self.maps.release();
            self.growth.release();
            self.records.release_after_fork();
            self.stripes.iter().for_each(|stripe| stripe.release());
        }
    }

    /// Gives everything back to the system. The books go with the heap; nothing is posted.
    ///
    /// # Safety
    /// Called once, and nobody looks at an attachment any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: handed on.
        unsafe {
            self.heads.destroy();
            self.records.destroy();
        }
    }
}

/// A list of records, and its lock.
struct List<'a> {
    place: usize,
    head: &'a AtomicU32,
    stripe: &'a Lock<()>,
}

impl<'a> List<'a> {
    fn lock(&self) -> crate::base::Guard<'a, ()> {
        self.stripe.lock()
    }
}

impl AttachmentTable {
    /// The place of an object's list.
    fn place(&self, object: &Object) -> usize {
        object.first_page.0 * HEADS + object.index as usize % HEADS
    }

    /// The list of an object, with memory for its head.
    fn list(&self, object: &Object, ledger: Ledger<'_>) -> Result<List<'_>, SystemError> {
        let place = self.place(object);
        if self.heads.get(place).is_none() {
            let _growing = self.growth.lock();
            self.heads.ensure(place..place + 1, ledger)?;
        }
        Ok(self.list_at(place).expect("there is memory for it"))
    }

    /// The list of an object, if there is memory for its head: otherwise nothing is attached to it.
    fn known_list(&self, object: &Object) -> Option<List<'_>> {
        self.list_at(self.place(object))
    }

    /// The list that a record is on, if it is on one.
    fn list_of(&self, record: &Record) -> List<'_> {
        let place = record.place.load(Ordering::Relaxed) as usize;
        self.list_at(place).expect("what was attached has a list")
    }

    fn list_at(&self, place: usize) -> Option<List<'_>> {
        let (head, stripe) = (self.heads.get(place)?, &self.stripes[place % STRIPES]);
        Some(List { place, head, stripe })
    }

    fn record(&self, number: u32) -> &Record {
        self.records.get(number).expect("an attachment's number was taken")
    }

    /// The records on a list, whose lock the caller holds.
    fn on(&self, head: &AtomicU32) -> impl Iterator<Item = (u32, &Record)> {
        let mut link = head.load(Ordering::Relaxed);
        core::iter::from_fn(move || {
            let number = link.checked_sub(1)?;
            let record = self.record(number);
            link = record.next.load(Ordering::Relaxed);
            Some((number, record))
        })
    }

    /// Takes a record and puts it on a list, whose lock the caller holds, without a kind yet.
    fn attach(
        &self,
        list: &List<'_>,
        object: &Object,
        access: &Access<'_, '_, '_>,
    ) -> Result<u32, SystemError> {
        let number = self.records.take(access.ledger())?.number;
        let record = self.record(number);
        record.object.store(object.start.0, Ordering::Relaxed);
        record.place.store(list.place as u32, Ordering::Relaxed);
        record.traced.store(0, Ordering::Relaxed);
        record.next.store(list.head.load(Ordering::Relaxed), Ordering::Relaxed);
        list.head.store(number + 1, Ordering::Relaxed);
        access.objects.set_attached(object);
        Ok(number)
    }

    /// Takes a record off its list, whose lock the caller holds.
    fn detach(&self, head: &AtomicU32, number: u32) {
        let after = self.record(number).next.load(Ordering::Relaxed);
        let before = self.on(head).find(|(_, record)| record.next.load(Ordering::Relaxed) == number + 1);
        let link = before.map_or(head, |(_, record)| &record.next);
        debug_assert_eq!(link.load(Ordering::Relaxed), number + 1, "attachment {number} is not on its list");
        link.store(after, Ordering::Relaxed);
    }

    /// Gives a record back that is on no list.
    fn give(&self, number: u32) {
        self.record(number).set_kind(Kind::Free);
        self.records.give(number);
    }
}
