//! The collected heap as programs see it, and the cycle that keeps it.
//!
//! ```text
//!   safe:  Mutator ─ run ─▶ Context ─ allocate ─▶ Gc      Edge, Array inside of objects; Root outside
//!   raw:   RawMutator ─ allocate, write, roots, stacks    for runtimes with an object model of their own
//!             │
//!             ▼
//!   Collection: Objects (room object) · Collector (room gc) · World · Members · Roots
//!             ▲
//!             │ cycle: sweep what is left ▸ stop, begin ▸ mark ▸ ask all ▸ stop, end ▸ sweep
//!   whoever asks for a collection, or the collector's own thread
//! ```
//!
//! A heap has at most one [`Collection`], made when the first thread joins. It lives in memory of its own as the
//! heap's core does. Threads that join are *members*.
//!
//! 1. One thread at a time drives the cycle: the holder of `cycle`. It is no member that is running.
//! 2. Members join and part under the roster, which the driver holds while the world stands.
//! 3. Between cycles no member's barrier is on, and its buffer is empty.
//!
//! What the faces promise stands with them: [`refs`], [`mutator`], [`root`], [`raw`].
//!
//! # Safety
//! The collection is made in place and goes with its heap, when no thread uses either.

pub mod array;
mod background;
mod cycle;
pub mod door;
mod dump;
pub mod finalize;
mod fork;
pub mod member;
pub mod mutator;
mod pacing;
pub mod raw;
pub mod refs;
pub mod root;
mod slow;
pub mod trace;
mod verify;
pub mod weak;

pub use array::Array;
pub(crate) use cycle::Still;
pub use cycle::{CollectConfig, Statistics};
pub use mutator::{Context, Mutator};
pub use refs::{Edge, Gc};
pub use root::Root;
pub use trace::{Map, Plain, Trace};
pub use weak::{Weak, WeakMap};

#[cfg(test)]
mod tests;

use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Exhausted, Guard, Lock, PAGE_SIZE, Pages, Rank, Scarce, purpose};
use crate::block::Work;
use crate::front::core::HeapCore;
use crate::front::heap::Heap;
use crate::front::mutator as thread;
use crate::gc::attach::{Access, AttachmentTable, Sweeping};
use crate::gc::world::{CYCLE, FINALIZE, HAND_OVER, STOP, World};
use crate::gc::{Collector, Marking};
use crate::object::{ObjectWork, Objects, Shapes};
use crate::os::{Nanoseconds, Pool, System, SystemError, Table};
use crate::stats::{Account, Ledger, MetadataKind};
use core::fmt;
use core::ptr::NonNull;
use member::Member;

/// The most threads that can join.
const MOST_MEMBERS: usize = 4096;
/// The most roots.
const MOST_ROOTS: usize = 1 << 26;
/// The most addresses that one operation on attachments hands out or takes in.
const MOST_NOTED: usize = 8;

/// What a heap has for its collected objects.
pub(crate) struct Collection {
    pub(super) objects: Objects,
    pub(super) shapes: Shapes,
    pub(super) collector: Collector,
    pub(crate) attachments: AttachmentTable,
    pub(super) world: World,
    members: Table<Member>,
    pub(super) roster: Lock<Roster>,
    roots: Pool<root::Cell>,
    providers: raw::roots::Providers,
    cycle: Lock<cycle::Cycle>,
    pacing: pacing::Pacing,
    /// Cycles that have begun.
    begun: AtomicU64,
    /// Slow allocations, where [`CollectConfig::stress`] counts them.
    slow: AtomicU32,
    /// Finalizers that were taken to be run and are not done.
    running: AtomicUsize,
    /// Whether a thread forks that could not wait for the cycle.
    amid: AtomicBool,
    /// Whether this is the child of such a fork: the cycle's driver is not here.
    orphaned: AtomicBool,
    /// When the collection was made.
    made: Nanoseconds,
    pub(super) config: CollectConfig,
    statistics: Lock<Statistics>,
    background: background::Background,
}

/// Who has joined.
#[derive(Default)]
pub(super) struct Roster {
    /// Members that were ever made.
    pub(super) made: u32,
    /// One more than the number of the first that nobody has, or 0.
    free: u32,
}

/// Why a thread cannot join, or a collection cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CollectError {
    /// The system refuses memory for the collector's own tables.
    System(SystemError),
    /// There is no memory for lists of objects still to be scanned.
    Exhausted(Exhausted),
    /// More threads than a heap has places for.
    Crowded,
    /// The thread has a place already: at a stop each of the two would wait for the other.
    Entered,
    /// More providers of roots than a heap has places for.
    Providers,
    /// This process was forked from the midst of a cycle, which nobody can end.
    Forked,
    /// The collector works already; how it is to work is said before the first thread joins.
    TooLate,
}

impl fmt::Display for CollectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CollectError::System(error) => write!(f, "no memory for the collector: {error}"),
            CollectError::Exhausted(error) => write!(f, "no memory to collect with: {error}"),
            CollectError::Crowded => write!(f, "a collected heap has at most {MOST_MEMBERS} threads at once"),
            CollectError::Providers => {
                write!(f, "a collected heap has at most {} providers of roots", raw::roots::MOST_PROVIDERS)
            }
            CollectError::Entered => {
                f.write_str("this thread has entered the heap already; a thread enters once")
            }
            CollectError::Forked => f.write_str(
                "this process was forked in the midst of a collection, by a thread that was not outside",
            ),
            CollectError::TooLate => {
                f.write_str("the collector is set up before the first thread enters the heap")
            }
        }
    }
}

impl core::error::Error for CollectError {}

impl From<SystemError> for CollectError {
    fn from(error: SystemError) -> CollectError {
        CollectError::System(error)
    }
}

impl From<Exhausted> for CollectError {
    fn from(error: Exhausted) -> CollectError {
        CollectError::Exhausted(error)
    }
}

/// A collection's tables while they are made.
#[derive(Default)]
struct Tables {
    objects: Option<Objects>,
    shapes: Option<Shapes>,
    collector: Option<Collector>,
    attachments: Option<AttachmentTable>,
    members: Option<Table<Member>>,
    roots: Option<Pool<root::Cell>>,
}

impl Tables {
    fn reserve(&mut self, core: &HeapCore, ledger: Ledger<'_>) -> Result<(), SystemError> {
        let system = core.system;
        let objects = self.objects.insert(Objects::reserve(&core.pages, ledger)?);
        objects.add_purpose(purpose::OBJECTS, ledger)?;
        self.shapes = Some(Shapes::reserve(system, ledger)?);
        self.collector = Some(Collector::reserve(system, ledger)?);
        let pages = Pages(core.pages.region().size().0 / PAGE_SIZE);
        self.attachments = Some(AttachmentTable::reserve(system, pages, ledger)?);
        let (of_members, of_roots) = (c"spanheap: members", c"spanheap: roots");
        let kind = MetadataKind::Mutators;
        self.members = Some(Table::reserve(system, kind, MOST_MEMBERS, of_members, ledger)?);
        self.roots = Some(Pool::reserve(system, MetadataKind::Roots, MOST_ROOTS, of_roots, ledger)?);
        Ok(())
    }

    /// # Safety
    /// Nobody uses them.
    unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.objects.iter().for_each(|objects| objects.destroy());
            self.shapes.iter().for_each(|shapes| shapes.destroy());
            self.collector.iter().for_each(|collector| collector.destroy());
            self.attachments.iter().for_each(|attachments| attachments.destroy());
            self.members.iter().for_each(|members| members.destroy());
            self.roots.iter().for_each(|roots| roots.destroy());
        }
    }
}

impl Heap {
    /// Says how the collector is to work; otherwise [`Config::collect`](crate::Config::collect) does.
    ///
    /// # Errors
    /// [`CollectError::TooLate`] when it works already; or when there is no memory for it.
    pub fn configure_collector(&self, config: CollectConfig) -> Result<(), CollectError> {
        let _making = self.core().collecting.lock();
        if self.core().collection().is_some() {
            return Err(CollectError::TooLate);
        }
        self.make_collection(config).map(|_| ())
    }

    /// What the collector has done so far; zeros if no thread ever entered.
    pub fn collector_statistics(&self) -> Statistics {
        self.core().collection().map_or_else(Statistics::default, |collection| {
            let statistics = *collection.statistics.lock();
            Statistics { excess: collection.pacing.excess(), ..statistics }
        })
    }

    pub(super) fn collection(&self) -> Result<&Collection, CollectError> {
        if let Some(collection) = self.core().collection() {
            return Ok(collection);
        }
        let _making = self.core().collecting.lock();
        match self.core().collection() {
            Some(collection) => Ok(collection),
            None => self.make_collection(self.core().config.collect),
        }
    }

    /// Gives up the places of threads that are not there.
    ///
    /// # Safety
    /// This is the child of a `fork`: the calling thread is its only one, has the mutator `mine`, and has given all locks
    /// back.
    pub(crate) unsafe fn bury_collected(&self, mine: Option<&thread::Mutator>) {
        if let Some(collection) = self.core().collection() {
            // SAFETY: the caller's promise.
            unsafe { collection.bury(self, mine) };
        }
    }

    fn make_collection(&self, config: CollectConfig) -> Result<&Collection, CollectError> {
        let core = self.core();
        let collection =
            self.with_local(|core, mutator, _| Collection::create(core, config, core.ledger(mutator)))?;
        core.collection.store(collection.as_ptr(), Ordering::Release);
        core.note_metadata();
        // SAFETY: whole, and as long-lived as the heap.
        Ok(unsafe { collection.as_ref() })
    }

    /// Says that objects keep so many more bytes alive elsewhere, or fewer: a buffer that a finalizer frees, say. They
    /// count for the next collection as if they were objects.
    ///
    /// # Errors
    /// [`CollectError`], when there is no collector yet and no memory for one.
    pub fn add_external_bytes(&self, bytes: isize) -> Result<(), CollectError> {
        self.collection()?.pacing.add_external(bytes as i64);
        Ok(())
    }
}

impl Collection {
    /// Makes a collection in memory of its own.
    ///
    /// # Errors
    /// When the system refuses memory. Nothing is left behind.
    pub(super) fn create(
        core: &HeapCore,
        config: CollectConfig,
        ledger: Ledger<'_>,
    ) -> Result<NonNull<Collection>, SystemError> {
        let (system, size) = (core.system, Collection::mapping(core.system));
        let at = system.reserve(size, system.page_size())?;
        // SAFETY: fresh memory of our own, which goes again if something fails; it is filled before anyone sees it.
        unsafe {
            let made = system
                .commit(at, size)
                .and_then(|()| system.ready(at, size))
                .and_then(|()| Collection::new(core, config, ledger));
            match made {
                Ok(collection) => at.cast::<Collection>().write(collection),
                Err(error) => {
                    system.unmap(at, size);
                    return Err(error);
                }
            }
            system.name(at, size, c"spanheap: collector");
        }
        ledger.post(|entry| {
            entry.transfer(Account::System, Account::Reserved, size);
            entry.transfer(Account::Reserved, Account::Metadata(MetadataKind::Permanent), size);
        });
        Ok(NonNull::new(at.cast()).expect("a mapping is not at zero"))
    }

    pub(crate) fn mapping(system: System) -> Bytes {
        Bytes(size_of::<Collection>()).round_up(system.page_size()).expect("a collection is small")
    }

    fn new(core: &HeapCore, config: CollectConfig, ledger: Ledger<'_>) -> Result<Collection, SystemError> {
        let mut tables = Tables::default();
        if let Err(error) = tables.reserve(core, ledger) {
            // SAFETY: nobody has seen them.
            unsafe { tables.destroy() };
            return Err(error);
        }
        let Tables { objects, shapes, collector, attachments, members, roots } = tables;
        let made = "every table was made";
        let objects = objects.expect(made);
        objects.set_poison(config.poison);
        Ok(Collection {
            objects,
            shapes: shapes.expect(made),
            collector: collector.expect(made),
            attachments: attachments.expect(made),
            world: World::new(core.system.processors()),
            members: members.expect(made),
            roster: Lock::new(Rank::Members, Roster::default()),
            roots: roots.expect(made),
            providers: raw::roots::Providers::new(),
            cycle: Lock::new(Rank::Cycle, cycle::Cycle::new(core.system.now())),
            pacing: pacing::Pacing::new(core, &config),
            begun: AtomicU64::new(0),
            slow: AtomicU32::new(0),
            running: AtomicUsize::new(0),
            amid: AtomicBool::new(false),
            orphaned: AtomicBool::new(false),
            made: core.system.now(),
            config,
            statistics: Lock::new(Rank::Leaf, Statistics::default()),
            background: background::Background::new(),
        })
    }

    /// Takes the collection's tables down; its own memory is the caller's.
    ///
    /// # Safety
    /// Nobody uses the collection any more.
    pub(crate) unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.objects.destroy();
            self.shapes.destroy();
            self.collector.destroy();
            self.attachments.destroy();
            self.members.destroy();
            self.roots.destroy();
        }
    }

    /// Visits the memory of every table, and the collection's own.
    pub(crate) fn for_each_table(&self, system: System, mut visit: impl FnMut(MetadataKind, Address, Bytes)) {
        visit(MetadataKind::Permanent, Address::of(self), Collection::mapping(system));
        self.objects.for_each_table(&mut visit);
        self.shapes.committed_ranges().for_each(|(at, size)| visit(MetadataKind::Shapes, at, size));
        let roots = self.roots.committed_ranges().chain(self.collector.roots.committed_ranges());
        roots.for_each(|(at, size)| visit(MetadataKind::Roots, at, size));
        let attachments = self.attachments.committed_ranges();
        attachments.for_each(|(at, size)| visit(MetadataKind::Attachments, at, size));
        self.members.committed_ranges().for_each(|(at, size)| visit(MetadataKind::Mutators, at, size));
    }

    /// Bytes committed for all of that. Slow paths ask, so the tables are not walked.
    pub(crate) fn committed(&self, system: System) -> Bytes {
        let roots = self.roots.committed_bytes() + self.collector.roots.committed_bytes();
        let tables = self.objects.committed() + self.shapes.committed_bytes() + roots;
        let others = self.attachments.committed_bytes() + self.members.committed_bytes();
        Collection::mapping(system) + tables + others
    }

    pub(super) fn member(&self, number: u32) -> &Member {
        self.members.get(number as usize).expect("members that were made are there")
    }

    /// Takes every place for left: the heap goes. The roster is not asked, since whoever stops the world holds it while
    /// it waits; places that nobody ever had are left anyway.
    fn abandon_members(&self) {
        (0..MOST_MEMBERS)
            .map_while(|number| self.members.get(number))
            .for_each(|member| member.station.abandon());
    }

    /// A place for the calling thread, which is running from here on.
    fn join(&self, heap: &Heap) -> Result<&Member, CollectError> {
        let member = {
            let mut roster = self.roster.lock();
            let mutator = heap.mutator();
            // The shared mutator stands for any number of threads, so it says nothing about this one.
            let is_here = |number| self.member(number).is_of(mutator);
            if !heap.is_shared(mutator) && (0..roster.made).any(is_here) {
                return Err(CollectError::Entered);
            }
            let member = self.free_member(heap, &mut roster)?;
            member.set_mutator(Some(mutator));
            member
        };
        self.come_in(member);
        Ok(member)
    }

    fn free_member(&self, heap: &Heap, roster: &mut Guard<'_, Roster>) -> Result<&Member, CollectError> {
        if let Some(number) = roster.free.checked_sub(1) {
            let member = self.members.get(number as usize).expect("members that were made are there");
            roster.free = member.next.get();
            return Ok(member);
        }
        let number = roster.made as usize;
        if number == MOST_MEMBERS {
            return Err(CollectError::Crowded);
        }
        let core = heap.core();
        let region = core.pages.region();
        self.members.ensure(number..number + 1, core.books.shared().ledger())?;
        // SAFETY: the element is committed and zeroed, and nobody knows it before the roster says so.
        let member = unsafe {
            let at = self.members.as_ptr().add(number);
            Member::init(at, number as u32, region.base(), region.size());
            &*at
        };
        member.set_marking(self.is_marking());
        roster.made += 1;
        core.note_metadata();
        Ok(member)
    }

    /// The calling thread gives its place up. While the collector marks, what its cache holds stays there: it is taken
    /// back with that of all others when marking ends, or goes to the next thread that joins.
    fn part(&self, heap: &Heap, member: &Member) {
        // SAFETY: the member is this thread's, and running.
        unsafe { self.give_up(heap, member.mutator(), member) };
        member.station.done(HAND_OVER);
        member.station.leave();
        self.vacate(member);
    }

    /// Takes what a member has noted and holds, through a mutator of the heap.
    ///
    /// # Safety
    /// The caller may touch the member's parts: see the head of [`member`].
    unsafe fn give_up(&self, heap: &Heap, mutator: &thread::Mutator, member: &Member) {
        self.with_marking(heap, mutator, |marking| {
            // SAFETY: the caller's promise.
            unsafe { self.empty(member, marking) };
        });
        if !member.is_marking() {
            self.with_work(heap, mutator, |work| {
                // SAFETY: the caller's promise.
                self.objects.flush(unsafe { &mut *member.cache() }, work)
            });
        }
    }

    /// Nobody has a member any more.
    fn vacate(&self, member: &Member) {
        let mut roster = self.roster.lock();
        member.set_mutator(None);
        member.next.set(roster.free);
        roster.free = member.number + 1;
    }

    /// The calling thread begins to touch objects.
    fn come_in(&self, member: &Member) {
        member.station.enter(&self.world);
    }

    /// The calling thread touches no objects for a while. What it noted is handed over first, so that nobody has to
    /// wait for it or to do it in its place.
    fn go_out(&self, heap: &Heap, member: &Member) {
        if member.is_marking() {
            self.hand_over(heap, member);
        }
        member.station.leave();
    }

    /// Does what the collector asks of a thread, at a safepoint.
    #[cold]
    #[inline(never)]
    fn answer(&self, heap: &Heap, member: &Member) {
        loop {
            let asked = member.station.asked_now();
            if asked & HAND_OVER != 0 {
                self.hand_over(heap, member);
                member.station.done(HAND_OVER);
            } else if asked & STOP != 0 {
                member.station.stop_here(&self.world);
            } else if asked & CYCLE != 0 {
                member.station.done(CYCLE);
                self.go_out(heap, member);
                self.drive_if_due(heap);
                self.come_in(member);
            } else if asked & FINALIZE != 0 {
                member.station.done(FINALIZE);
                self.run_due(heap, member);
            } else {
                return;
            }
        }
    }

    fn hand_over(&self, heap: &Heap, member: &Member) {
        self.with_marking(heap, member.mutator(), |marking| {
            // SAFETY: the member is this thread's, and running.
            unsafe { self.empty(member, marking) };
        });
    }

    /// Shades what a member has noted, and lets others find the work.
    ///
    /// # Safety
    /// The caller may touch the member's parts: see the head of [`member`].
    pub(super) unsafe fn empty(&self, member: &Member, marking: &mut Marking<'_>) {
        // SAFETY: the caller's promise.
        let (barrier, worker) = unsafe { (&mut *member.barrier(), &mut *member.worker()) };
        if !barrier.is_empty() {
            barrier.flush(worker, marking);
        }
        worker.leave(marking);
    }

    /// As [`Collection::with_marking`]; also the processor time that it took, which counts as that of marking.
    pub(super) fn with_marking_clocked<T>(
        &self,
        heap: &Heap,
        mutator: &thread::Mutator,
        work: impl FnOnce(&mut Marking<'_>) -> T,
    ) -> (T, Nanoseconds) {
        let system = heap.core().system;
        let began = system.thread_time();
        let done = self.with_marking(heap, mutator, work);
        let time = Nanoseconds(system.thread_time().0 - began.0);
        self.statistics.lock().mark_cpu.0 += time.0;
        (done, time)
    }

    /// Runs `work` with what a marker needs, through a mutator of the heap, whose lock is held meanwhile.
    pub(super) fn with_marking<T>(
        &self,
        heap: &Heap,
        mutator: &thread::Mutator,
        work: impl FnOnce(&mut Marking<'_>) -> T,
    ) -> T {
        let core = heap.core();
        let mut local = mutator.local.lock();
        let Work { ground, spans, .. } = core.work(mutator, &mut local);
        let supply = self.collector.supply(ground, spans);
        let (collector, objects, shapes) = (&self.collector, &self.objects, &self.shapes);
        work(&mut Marking { collector, objects, shapes, supply })
    }

    /// Runs `work` with what allocation and sweeping need.
    pub(super) fn with_work<T>(
        &self,
        heap: &Heap,
        mutator: &thread::Mutator,
        work: impl FnOnce(&mut ObjectWork<'_, '_>) -> T,
    ) -> T {
        let core = heap.core();
        let mut local = mutator.local.lock();
        let Work { ground, spans, .. } = core.work(mutator, &mut local);
        work(&mut ObjectWork { ground, spans })
    }

    /// Runs `work` with what it takes to sweep, and to look after what hangs on objects.
    pub(super) fn with_sweeping<T>(
        &self,
        heap: &Heap,
        mutator: &thread::Mutator,
        work: impl FnOnce(&Objects, &mut ObjectWork<'_, '_>, &mut Sweeping<'_>) -> T,
    ) -> T {
        let sweeping = &mut self.attachments.sweeping(&self.objects);
        self.with_work(heap, mutator, |objects| work(&self.objects, objects, sweeping))
    }

    /// Runs `work` with the table of attachments. What it hands out or takes in while the collector marks is noted before
    /// the thread gets to its next safepoint.
    fn with_attachments<T>(
        &self,
        heap: &Heap,
        member: &Member,
        work: impl FnOnce(&AttachmentTable, &mut Access<'_, '_, '_>) -> T,
    ) -> T {
        let (mut noted, mut count) = ([0; MOST_NOTED], 0);
        let done = self.with_work(heap, member.mutator(), |objects| {
            let shade = &mut |address: Address| {
                noted[count] = address.0;
                count += 1;
            };
            work(&self.attachments, &mut Access { objects: &self.objects, work: objects, shade })
        });
        noted[..count].iter().for_each(|&address| self.note(heap, member, address, 0));
        done
    }

    /// Notes a store, while marking.
    fn note(&self, heap: &Heap, member: &Member, old: usize, new: usize) {
        // SAFETY: the member is the calling thread's, and running.
        let full = unsafe { (*member.barrier()).push(old, new) };
        if full {
            self.hand_over(heap, member);
        }
    }

    /// A cell that holds an object's address.
    fn new_root(&self, heap: &Heap, object: usize) -> Result<u32, Exhausted> {
        let taken = heap.with_local(|core, mutator, _| self.roots.take(core.ledger(mutator)));
        match taken {
            Ok(taken) => {
                let cell = self.roots.get(taken.number).expect("a cell that was taken is there");
                cell.0.store(object, Ordering::Release);
                Ok(taken.number)
            }
            Err(error) => Err(self.refused(heap, error, Bytes(size_of::<root::Cell>()))),
        }
    }

    /// The answer when the system refuses memory for one of the collection's tables.
    fn refused(&self, heap: &Heap, error: SystemError, wanted: Bytes) -> Exhausted {
        let purpose = heap.core().meters.name(purpose::OBJECTS);
        Exhausted { scarce: Scarce::System(error.0), purpose, wanted, limit: Bytes::ZERO }
    }

    fn too_large(&self, heap: &Heap, size: Bytes) -> Exhausted {
        let purpose = heap.core().meters.name(purpose::OBJECTS);
        Exhausted { scarce: Scarce::AddressSpace, purpose, wanted: size, limit: Bytes(isize::MAX as usize) }
    }

    /// Whether the collector marks.
    pub(super) fn is_marking(&self) -> bool {
        self.objects.is_marking()
    }
}
