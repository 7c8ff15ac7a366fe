//! The heap's own memory, and who works on it.
//!
//! A heap lives in memory that it took from the system itself, so it can be made before anything else works, and
//! it does not move. Everything shared hangs on the [`HeapCore`]: the page heap, meters, books, the mutators and
//! their caches.
//!
//! The *roster* knows every mutator: which number is next, and which mutators are parked. Mutator 1 is nobody's
//! own. Threads that have no mutator (because theirs has ended, or none could be made) work through it, always
//! under its lock and never on its fast paths; so every call works on every thread.
//!
//! # Safety
//! The core is made in place in zeroed memory and torn down by whoever owns the heap, when no thread uses it any
//! more. Mutators and caches are elements of tables and never move.

use crate::base::sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::base::{Address, Bytes, Guard, Lock, PurposeId, Rank};
use crate::block::{BlockCache, BlockCentral, Work};
use crate::front::collect::Collection;
use crate::front::config::{Config, Log};
use crate::front::environment;
use crate::front::mutator::{Local, Mutator, State};
use crate::front::profile::Profile;
use crate::front::scavenger::{self, Scavenging};
use crate::os::{ReserveError, System, SystemError, Table};
use crate::span::{Ground, Meter, Meters, PageHeap, Release};
use crate::stack::{StackPool, StackWork};
use crate::stats::window::Places;
use crate::stats::{Account, Books, Ledger, MetadataKind, PurposeBook, ReleaseFigures, Snapshot, Window};

/// The mutator of those who have none.
pub(crate) const SHARED: u32 = 1;
/// The largest number of mutators.
const MOST_MUTATORS: usize = 1 << 16;

/// A heap's own memory. It begins with the statistics page, where other processes find it.
#[repr(C)]
pub(crate) struct HeapCore {
    pub(crate) window: Window,
    /// Unlike that of any other heap of this process, ever.
    pub(crate) serial: u64,
    /// The next of the living heaps; guarded by their list.
    pub(crate) next_living: AtomicPtr<HeapCore>,
    pub(crate) system: System,
    pub(crate) pages: PageHeap,
    pub(crate) central: BlockCentral,
    pub(crate) stacks: StackPool,
    /// Collections that mark: stacks that are freed meanwhile wait. Who has just looked counts as one who came before.
    marking: AtomicU32,
    pub(crate) config: Config,
    /// What free blocks carry.
    key: usize,
    mutators: Table<Mutator>,
    caches: Table<BlockCache>,
    pub(super) next_cache: Lock<usize>,
    pub(super) roster: Lock<Roster>,
    pub(crate) books: Books,
    pub(crate) meters: Meters,
    pub(crate) scavenging: Scavenging,
    pub(crate) profile: Profile,
    /// What there is for collected objects, once a thread has entered.
    pub(crate) collection: AtomicPtr<Collection>,
    /// Guards the making of that.
    pub(crate) collecting: Lock<()>,
    /// Whether the collection's locks are taken for a `fork`.
    forking: AtomicBool,
}

/// Every mutator.
pub(super) struct Roster {
    /// The lowest number that no mutator has.
    pub(super) next: u32,
    /// The mutator that was parked last, or 0.
    pub(super) parked: u32,
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

impl HeapCore {
    /// Makes a heap.
    ///
    /// # Errors
    /// When the system refuses the address space, or memory for the heap's own tables. Nothing is left behind.
    pub(crate) fn create(system: System, config: Config) -> Result<*mut HeapCore, ReserveError> {
        let refused = |error| ReserveError { wanted: config.reserve, least: config.least, error };
        let size = HeapCore::mapping(system);
        let at = system.reserve(size, system.page_size()).map_err(refused)?.cast::<HeapCore>();
        // SAFETY: fresh memory of our own; it is filled before anyone else sees it. On failure all that was
        // made goes again.
        unsafe {
            let made = system
                .commit(at.cast(), size)
                .and_then(|()| system.ready(at.cast(), size))
                .map_err(refused)
                .and_then(|()| HeapCore::fill(at, system, config, size));
            if let Err(error) = made {
                system.unmap(at.cast(), size);
                return Err(error);
            }
            system.name(at.cast(), size, c"spanheap: heap");
        }
        Ok(at)
    }

    fn mapping(system: System) -> Bytes {
        Bytes(size_of::<HeapCore>()).round_up(system.page_size()).expect("a core is small")
    }

    /// Fills the core's memory, step by step; each step that fails takes down those before it.
    unsafe fn fill(
        at: *mut HeapCore,
        system: System,
        config: Config,
        size: Bytes,
    ) -> Result<(), ReserveError> {
        let refused = |error| ReserveError { wanted: config.reserve, least: config.least, error };
        // SAFETY: `at` is zeroed memory of our own; fields are written before they are used.
        unsafe {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            (&raw mut (*at).serial).write(serial);
            Window::init(&raw mut (*at).window, serial, size_of::<Meter>());
            (&raw mut (*at).system).write(system);
            (&raw mut (*at).config).write(config);
            (&raw mut (*at).key).write(system.random() as usize | 1);
            (&raw mut (*at).next_cache).write(Lock::new(Rank::Metadata, 0));
            (&raw mut (*at).roster).write(Lock::new(Rank::Mutators, Roster { next: SHARED, parked: 0 }));
            (&raw mut (*at).scavenging).write(Scavenging::new(config.scavenger, system.now()));
            (&raw mut (*at).collecting).write(Lock::new(Rank::Cycle, ()));
            (&raw mut (*at).forking).write(AtomicBool::new(false));
            Books::init(&raw mut (*at).books);
            Meters::init(&raw mut (*at).meters);
            (&raw mut (*at).profile).write(Profile::new());
            let shared = (*at).books.shared();
            let ledger = shared.ledger();
            ledger.post(|entry| {
                entry.transfer(Account::System, Account::Reserved, size);
                entry.transfer(Account::Reserved, Account::Metadata(MetadataKind::Permanent), size);
            });
            let pages = PageHeap::reserve(system, config.reserve, config.least, ledger)?;
            pages.set_limit(config.limit);
            let mutators = (pages.region().size().0 >> 19).clamp(64, MOST_MUTATORS);
            let tables = || -> Result<_, SystemError> {
                let kind = MetadataKind::Mutators;
                let central = BlockCentral::reserve(system, mutators, ledger)?;
                let of_mutators = Table::reserve(system, kind, mutators, c"spanheap: mutators", ledger)
                    .inspect_err(|_| central.destroy())?;
                let caches = Table::reserve(system, kind, 8 * mutators, c"spanheap: caches", ledger)
                    .inspect_err(|_| {
                        central.destroy();
                        of_mutators.destroy();
                    })?;
                let all_pages = pages.region().size().pages_ceil().0;
                let stacks = StackPool::reserve(system, all_pages, ledger).inspect_err(|_| {
                    central.destroy();
                    of_mutators.destroy();
                    caches.destroy();
                })?;
                Ok((central, of_mutators, caches, stacks))
            };
            let made = tables();
            // Taking down takes the lock of the pages, which comes before this one.
            drop(shared);
            let (central, of_mutators, caches, stacks) =
                made.inspect_err(|_| pages.destroy()).map_err(refused)?;
            (&raw mut (*at).pages).write(pages);
            (&raw mut (*at).central).write(central);
            (&raw mut (*at).mutators).write(of_mutators);
            (&raw mut (*at).caches).write(caches);
            (&raw mut (*at).stacks).write(stacks);
            (&raw mut (*at).marking).write(AtomicU32::new(0));
            let core = &*at;
            core.furnish_window();
            core.new_mutator().map(|_| ()).inspect_err(|_| core.destroy_tables()).map_err(refused)
        }
    }

    /// Names the next of the living heaps, in the list and in the statistics page. The list's lock is held.
    pub(crate) fn set_next_living(&self, next: *const HeapCore) {
        self.next_living.store(next.cast_mut(), Ordering::Relaxed);
        self.window.set_next(next.addr() as u64);
    }

    /// Says in the statistics page where everything is.
    fn furnish_window(&self) {
        let (rows, row_count) = self.meters.addresses();
        let (limit, given) = (self.pages.limit_address(), self.pages.given_address());
        let scavenger = scavenger::counts_address();
        self.window.set_places(&self.books, Places { rows, row_count, limit, given, scavenger });
        let region = self.pages.region();
        self.window.add_range(None, region.base(), region.size());
        let add = |kind, (at, size)| self.window.add_range(Some(kind), at, size);
        add(MetadataKind::Permanent, (Address::of(self), HeapCore::mapping(self.system)));
        add(MetadataKind::Mutators, self.central.reservation());
        add(MetadataKind::Mutators, self.mutators.reservation());
        add(MetadataKind::Mutators, self.caches.reservation());
        self.stacks.reservations().into_iter().for_each(|range| add(MetadataKind::Stacks, range));
        self.pages.for_each_reservation(|kind, at, size| add(kind, (at, size)));
        self.window.set_open(self.config.page);
    }

    unsafe fn destroy_tables(&self) {
        // SAFETY: the caller's promise: nobody uses the heap.
        unsafe {
            if let Some(collection) = self.collection() {
                collection.destroy();
                self.system.unmap(
                    core::ptr::from_ref(collection).cast_mut().cast(),
                    Collection::mapping(self.system),
                );
            }
            self.pages.destroy();
            self.central.destroy();
            self.mutators.destroy();
            self.caches.destroy();
            self.stacks.destroy();
            self.profile.destroy();
        }
    }

    /// What there is for collected objects, once a thread has entered.
    pub(crate) fn collection(&self) -> Option<&Collection> {
        // SAFETY: a collection is stored when it is whole, and lives as long as the heap.
        unsafe { self.collection.load(Ordering::Acquire).as_ref() }
    }

    /// Takes the heap down: all its memory goes back to the system.
    ///
    /// # Safety
    /// No thread uses the heap or memory from it any more.
    pub(crate) unsafe fn destroy(this: *mut HeapCore) {
        // SAFETY: the caller's promise; the core's own memory goes last.
        unsafe {
            (*this).destroy_tables();
            let (system, size) = ((*this).system, HeapCore::mapping((*this).system));
            system.unmap(this.cast(), size);
        }
    }

    /// A mutator by number.
    #[inline]
    pub(crate) fn mutator(&self, number: u32) -> &Mutator {
        self.mutators.get(number as usize).expect("owners are known mutators")
    }

    /// The mutator of those who have none.
    #[inline]
    pub(crate) fn shared_mutator(&self) -> &Mutator {
        self.mutator(SHARED)
    }

    /// Every mutator, the shared one first.
    pub(crate) fn all_mutators(&self) -> impl Iterator<Item = &Mutator> {
        let next = self.roster.lock().next;
        (SHARED..next).map(|number| self.mutator(number))
    }

    /// A mutator for the calling thread: a parked one with all it has, or a new one.
    ///
    /// # Errors
    /// When the system refuses memory for a new one, or there are too many.
    pub(crate) fn attach(&self) -> Result<&Mutator, SystemError> {
        let parked = {
            let mut roster = self.roster.lock();
            let number = roster.parked;
            if number != 0 {
                roster.parked = self.mutator(number).next_parked.get();
            }
            number
        };
        if parked == 0 {
            return self.new_mutator();
        }
        let mutator = self.mutator(parked);
        let _local = mutator.local.lock();
        mutator.set_state(State::Attached);
        self.central.inbox(parked).set_parked(false);
        Ok(mutator)
    }

    fn new_mutator(&self) -> Result<&Mutator, SystemError> {
        let mut roster = self.roster.lock();
        let number = roster.next;
        if number as usize >= self.mutators.capacity() {
            return Err(SystemError::NO_MEMORY);
        }
        {
            let shared = self.books.shared();
            self.central.add_owner(number, shared.ledger())?;
            self.mutators.ensure(number as usize..number as usize + 1, shared.ledger())?;
        }
        // SAFETY: the element is committed, zeroed, and nobody knows it before the roster's number moves on.
        let mutator = unsafe {
            let at = self.mutators.as_ptr().add(number as usize);
            Mutator::init(at, self, number);
            self.books.link(&raw const (*at).shard);
            &*at
        };
        roster.next += 1;
        self.note_metadata();
        Ok(mutator)
    }

    /// Tells the page heap how much memory the tables here have: it counts for the limit.
    pub(crate) fn note_metadata(&self) {
        let of_mutators =
            self.mutators.committed_bytes() + self.caches.committed_bytes() + self.central.committed();
        let mut tables = of_mutators + self.stacks.committed() + self.profile.committed();
        if let Some(collection) = self.collection() {
            tables += collection.committed(self.system);
        }
        self.pages.set_other_metadata(HeapCore::mapping(self.system) + tables);
    }

    /// Takes a mutator from its thread: what can be given back is given back, the rest waits for the next.
    ///
    /// # Safety
    /// The caller is the mutator's thread and does not use it again, or the thread is gone.
    pub(crate) unsafe fn park(&self, mutator: &Mutator) {
        let inbox = self.central.inbox(mutator.number);
        // Who frees a block of ours from here on looks after it, unless we hold the lock just then. What came
        // before and what comes meanwhile is put back here: either they see that we are parked, or we see their block.
        loop {
            let mut local = mutator.local.lock();
            mutator.set_state(State::Parked);
            inbox.set_parked(true);
            // SAFETY: the thread has given its fast paths up, so `local` guards everything.
            unsafe { self.flush_locked(mutator, &mut local) };
            drop(local);
            if inbox.is_empty_now() {
                break;
            }
        }
        let mut roster = self.roster.lock();
        mutator.next_parked.set(roster.parked);
        roster.parked = mutator.number;
    }

    /// The first of the parked mutators, and how to go on from one: a hint, read without waiting. Empty
    /// when the roster is in use.
    pub(crate) fn some_parked(&self) -> impl Iterator<Item = &Mutator> {
        const MOST: usize = 4;
        let roster = self.roster.try_lock();
        let mut next = roster.as_ref().map_or(0, |roster| roster.parked);
        core::iter::from_fn(move || {
            // The list stands still while the guard lives, which this closure keeps.
            let _roster = roster.as_ref()?;
            let mutator = (next != 0).then(|| self.mutator(next))?;
            next = mutator.next_parked.get();
            Some(mutator)
        })
        .take(MOST)
    }

    /// The ledger of a mutator; the caller holds its `local`.
    pub(crate) fn ledger<'a>(&'a self, mutator: &'a Mutator) -> Ledger<'a> {
        self.books.ledger(&mutator.shard)
    }

    /// What the slow path of a mutator works with.
    pub(crate) fn work<'a>(&'a self, mutator: &'a Mutator, local: &'a mut Guard<'_, Local>) -> Work<'a> {
        mutator.visit();
        self.quiet_work(mutator, local)
    }

    /// The same, for work that nobody needs: a mutator is as idle as before.
    pub(crate) fn quiet_work<'a>(
        &'a self,
        mutator: &'a Mutator,
        local: &'a mut Guard<'_, Local>,
    ) -> Work<'a> {
        let ground = Ground { heap: &self.pages, meters: &self.meters, ledger: self.ledger(mutator) };
        Work { ground, spans: &mut local.spans, central: &self.central }
    }

    /// Notes that a collection begins to mark.
    pub(crate) fn begin_marking(&self) {
        self.marking.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that it has ended, and gives the stacks back that waited for that.
    pub(crate) fn end_marking(&self, mutator: &Mutator) {
        if self.marking.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stack_work(mutator, &mut mutator.local.lock()).free_parked();
        }
    }

    /// What a mutator works with on stacks.
    pub(crate) fn stack_work<'a>(
        &'a self,
        mutator: &'a Mutator,
        local: &'a mut Guard<'_, Local>,
    ) -> StackWork<'a> {
        let ground = Ground { heap: &self.pages, meters: &self.meters, ledger: self.ledger(mutator) };
        let Local { spans, stacks } = &mut **local;
        let marking = self.marking.load(Ordering::Acquire) > 0;
        StackWork { ground, spans, pool: &self.stacks, cache: stacks, marking, made: false }
    }

    /// The mutator's cache of a purpose, made when there is none; the caller holds the mutator's `local`.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub(crate) fn cache_of(
        &self,
        mutator: &Mutator,
        purpose: PurposeId,
        ground: Ground<'_>,
    ) -> Result<*mut BlockCache, SystemError> {
        if let Some(cache) = mutator.cache(purpose) {
            return Ok(cache.as_ptr());
        }
        let mut next = self.next_cache.lock();
        if *next == self.caches.capacity() {
            return Err(SystemError::NO_MEMORY);
        }
        self.caches.ensure(*next..*next + 1, ground.ledger)?;
        // SAFETY: the element is committed and zeroed, and nobody knows it.
        let cache = unsafe {
            let cache = self.caches.as_ptr().add(*next);
            BlockCache::init(cache, ground, mutator.number, purpose, self.key);
            cache
        };
        *next += 1;
        mutator.set_cache(purpose, cache);
        self.note_metadata();
        Ok(cache)
    }

    /// A cache's number, unlike that of any other, and below [`HeapCore::most_caches`].
    pub(super) fn number_of(&self, cache: *const BlockCache) -> usize {
        (cache.addr() - self.caches.as_ptr().addr()) / size_of::<BlockCache>()
    }

    /// How many caches there can be.
    pub(super) fn most_caches(&self) -> usize {
        self.caches.capacity()
    }

    /// Reads the books into a snapshot.
    pub(crate) fn read_books(&self, snapshot: &mut Snapshot) {
        let meters = &self.meters;
        snapshot.read(&self.books, |id| {
            // Asked after the figures were read, so that a purpose that has some is known.
            (id.index() < meters.count()).then(|| {
                let meter = meters.get(id);
                PurposeBook {
                    name: meters.name(id),
                    peak: meter.peak(),
                    reserved: meter.reserved(),
                    soft_limit: meter.soft_limit(),
                    limit: meter.hard_limit(),
                    refused: meter.refused(),
                    soft_events: meter.soft_events(),
                    stacks: meters.stack_kind(id),
                    objects: meters.has_objects(id),
                }
            })
        });
        snapshot.heap_limit = self.pages.limit();
        let (given, work) = (self.pages.released(), scavenger::work());
        snapshot.released = ReleaseFigures {
            in_background: given.in_background,
            at_limit: given.at_limit,
            on_request: given.on_request,
            holes: self.pages.holes().0 as u64,
            wakeups: work.wakeups,
            processor: work.processor,
        };
    }

    /// Visits the memory of every table: its kind, where it begins and how long it is.
    pub(crate) fn for_each_table(&self, mut visit: impl FnMut(MetadataKind, Address, Bytes)) {
        visit(MetadataKind::Permanent, Address::of(self), HeapCore::mapping(self.system));
        let kind = MetadataKind::Mutators;
        self.central.committed_ranges().for_each(|(at, size)| visit(kind, at, size));
        self.mutators.committed_ranges().for_each(|(at, size)| visit(kind, at, size));
        self.caches.committed_ranges().for_each(|(at, size)| visit(kind, at, size));
        self.stacks.committed_ranges().for_each(|(at, size)| visit(MetadataKind::Stacks, at, size));
        self.profile.for_each_range(&mut |at, size| visit(MetadataKind::Profile, at, size));
        if let Some(collection) = self.collection() {
            collection.for_each_table(self.system, &mut visit);
        }
        self.pages.for_each_table(visit);
    }

    /// Bytes of the heap's own tables that have memory, by kind.
    ///
    /// # Safety
    /// This thread called [`HeapCore::stop`].
    pub(super) unsafe fn table_bytes(&self, mut visit: impl FnMut(MetadataKind, Bytes)) {
        visit(MetadataKind::Permanent, HeapCore::mapping(self.system));
        let tables = self.mutators.committed_bytes() + self.caches.committed_bytes();
        visit(MetadataKind::Mutators, tables + self.central.committed());
        visit(MetadataKind::Stacks, self.stacks.committed());
        visit(MetadataKind::Profile, self.profile.committed());
        if let Some(collection) = self.collection() {
            collection.for_each_table(self.system, |kind, _, size| visit(kind, size));
        }
        // SAFETY: the caller's promise.
        unsafe { self.pages.table_bytes(visit) }
    }

    /// What free blocks carry in their second word.
    pub(crate) fn key(&self) -> usize {
        self.key
    }

    /// Tells of soft limits that were passed. No lock may be held.
    pub(crate) fn tell(&self) {
        if self.meters.has_news() {
            self.meters.tell(|event| {
                if self.config.log == Log::Limits {
                    environment::say(format_args!("{event}"));
                }
            });
        }
    }

    /// Does what other processes ask for, if they do. No lock may be held; the mutator is this thread's, or the
    /// shared one.
    #[inline]
    pub(crate) fn heed(&self, mutator: &Mutator) {
        if self.window.rings() {
            self.answer(mutator);
        }
    }

    /// Does what another process asks for: publishes the books, releases memory, hands the profile out.
    #[cold]
    fn answer(&self, mutator: &Mutator) {
        let Some(call) = self.window.answer() else { return };
        if let Some(order) = call.release {
            // SAFETY: `heed` is called by the mutator's own thread, or with the shared mutator.
            let bytes = unsafe { self.release_all(mutator) };
            self.window.released(order, bytes);
        }
        if let Some(order) = call.count {
            self.post_events(mutator);
            self.window.counted(order);
        }
        if let Some((order, wanted)) = call.profile {
            self.window.handed(order, self.hand_out(wanted));
        }
        self.window.publish(&self.books, call.question, || self.meters.count());
    }

    /// Enters the events of a mutator's blocks in the books. The mutator is this thread's, or the shared one.
    pub(crate) fn post_events(&self, mutator: &Mutator) {
        let mut local = mutator.local.lock();
        let work = self.quiet_work(mutator, &mut local);
        for cache in mutator.caches() {
            // SAFETY: the mutator's lock is held, and its thread is this one or there is none.
            unsafe { BlockCache::post_events(cache, &work) };
        }
    }

    /// Gives all free memory back to the system that can be had without the help of other threads.
    ///
    /// # Safety
    /// The calling thread is the mutator's, or it is the shared one.
    pub(crate) unsafe fn release_all(&self, mutator: &Mutator) -> Bytes {
        // SAFETY: the caller's promise.
        unsafe { self.flush(mutator) };
        self.flush_parked();
        {
            let mut local = mutator.local.lock();
            self.stack_work(mutator, &mut local).release();
        }
        self.all_mutators().for_each(|mutator| {
            self.tend_all_of(mutator);
        });
        let mut local = mutator.local.lock();
        self.work(mutator, &mut local).ground.release(Bytes(usize::MAX), Release::OnRequest)
    }

    /// Takes every lock of the heap but those of the books: what is guarded stands still until
    /// [`HeapCore::go_on`]. Fast paths of other threads do not stop.
    pub(crate) fn stop(&self) {
        self.scavenging.looks.acquire();
        self.roster.acquire();
        // SAFETY: the roster's lock was just taken, and its only other reference is that of its holder.
        let next = unsafe { self.roster.held_mut() }.next;
        for number in SHARED..next {
            self.mutator(number).local.acquire_equal();
        }
        self.meters.declaring_lock().acquire();
        self.stacks.acquire_for_fork();
        self.profile.acquire();
        self.pages.acquire_for_fork();
        // Beside the lock of records, which has the same rank; nobody holds both but here.
        self.next_cache.acquire_equal();
    }

    /// Gives the locks back.
    ///
    /// # Safety
    /// This thread called [`HeapCore::stop`], or is the only one left of a process that had.
    pub(crate) unsafe fn go_on(&self) {
        // SAFETY: the caller's promise is the contract of each.
        unsafe {
            self.next_cache.release();
            self.pages.release_after_fork();
            self.profile.release();
            self.stacks.release_after_fork();
            self.meters.declaring_lock().release();
            let next = self.roster.held_mut().next;
            for number in SHARED..next {
                self.mutator(number).local.release();
            }
            self.roster.release();
            self.scavenging.looks.release();
        }
    }

    /// Takes the locks that come before all others, before a `fork`: those of the collected objects. `mine` is the calling
    /// thread's mutator, if it has one.
    pub(crate) fn begin_fork(&self, mine: Option<&Mutator>) {
        self.collecting.acquire();
        self.forking.store(true, Ordering::Relaxed);
        if let Some(collection) = self.collection() {
            collection.begin_fork(mine);
        }
    }

    /// Takes every lock of the heap, so that a `fork` copies it between two steps and not within one. What other
    /// threads do on their fast paths meanwhile can lose a block of the child, and nothing else.
    pub(crate) fn before_fork(&self) {
        self.stop();
        self.books.acquire_for_fork();
        if self.forking.load(Ordering::Relaxed)
            && let Some(collection) = self.collection()
        {
            collection.go_on_fork();
        }
    }

    /// Gives all locks back, in the parent.
    ///
    /// # Safety
    /// This thread called [`HeapCore::before_fork`], or is the only one left of a process that had.
    pub(crate) unsafe fn after_fork(&self) {
        // SAFETY: the caller's promise is the contract of each.
        unsafe {
            let forking = self.forking.swap(false, Ordering::Relaxed);
            if let Some(collection) = self.collection().filter(|_| forking) {
                collection.end_fork();
            }
            self.books.release_after_fork();
            self.go_on();
            if forking {
                self.collecting.release();
            }
        }
    }

    /// Gives all locks back in the child, and parks the mutators of the threads that the child does not have.
    ///
    /// # Safety
    /// The calling thread is the only one, its mutator is `mine`, and it called [`HeapCore::before_fork`].
    pub(crate) unsafe fn after_fork_in_child(&self, mine: *const Mutator) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(collection) = self.collection().filter(|_| self.forking.load(Ordering::Relaxed)) {
                collection.begin_child();
            }
            self.after_fork();
        }
        for mutator in self.all_mutators() {
            if mutator.number != SHARED && !core::ptr::eq(mutator, mine) && !mutator.is_parked() {
                // SAFETY: the mutator's thread does not exist here.
                unsafe { self.park(mutator) };
            }
        }
    }
}
