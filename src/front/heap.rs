//! A heap as a value.
//!
//! # Safety
//! A handle owns its core: the core is there as long as the handle is, and what comes from the heap borrows it.
//! The caches of the calling thread's mutator are the thread's own; the shared mutator's are never used from here.

use crate::base::{Address, Bytes, Exhausted, Guard, PurposeId, purpose};
use crate::block::BlockCache;
use crate::block::cache::Block;
use crate::block::cache::Freed;
use crate::front::config::{Config, Scavenger};
use crate::front::core::HeapCore;
use crate::front::misuse::Misuse;
use crate::front::mutator::{Local, Mutator};
use crate::front::purpose::{Collected, Purpose};
use crate::front::stacks::Stacks;
use crate::front::{process, threads};
use crate::os::{ReserveError, System};
use crate::span::DeclareError;
use crate::stats::Snapshot;
use core::alloc::Layout;
use core::ptr::NonNull;

/// A heap: one reservation of address space, its books, and the purposes that share it.
///
/// A process can have several; each gives everything back when it is dropped. Threads attach themselves when they
/// first use a heap, and what they held is taken over by others when they end.
///
/// ```
/// use core::alloc::Layout;
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let block = heap.allocate(Layout::new::<[u64; 4]>())?;
/// // SAFETY: the block came from this heap with this layout, and is not used any more.
/// unsafe { heap.deallocate(block, Layout::new::<[u64; 4]>()) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Nothing from a heap can outlive it:
///
/// ```compile_fail,E0505
/// use spanheap::{Bytes, Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// let span = heap.declare("index").unwrap().allocate_span(Bytes::kib(8)).unwrap();
/// drop(heap); // the span still borrows it
/// drop(span);
/// ```
pub struct Heap {
    core: NonNull<HeapCore>,
}

// SAFETY: a heap is shared by threads; each works through a mutator of its own, or under a lock.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

/// A block that was just allocated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocated {
    pointer: NonNull<u8>,
    zero: bool,
}

impl Allocated {
    fn new(block: Block) -> Allocated {
        let pointer = NonNull::new(block.pointer).expect("a region is not at zero");
        Allocated { pointer, zero: block.zero }
    }

    pub(crate) fn pointer(self) -> NonNull<u8> {
        self.pointer
    }

    /// Clears the first `size` bytes, unless they are known to be zero.
    ///
    /// # Safety
    /// The block has so many bytes, and is the caller's alone.
    pub(crate) unsafe fn zeroed(self, size: usize) {
        if !self.zero {
            // SAFETY: the caller's promise.
            unsafe { self.pointer.as_ptr().write_bytes(0, size) };
        }
    }
}

impl Heap {
    /// Makes a heap.
    ///
    /// # Errors
    /// [`ReserveError`], when the system refuses the address space.
    pub fn new(config: Config) -> Result<Heap, ReserveError> {
        Heap::on(System::Linux, config)
    }

    /// Makes a heap on a given system: a simulated one refuses, runs out and poisons on demand.
    ///
    /// # Errors
    /// [`ReserveError`], when the system refuses the address space.
    pub fn on(system: System, config: Config) -> Result<Heap, ReserveError> {
        let core = HeapCore::create(system, config)?;
        let heap = Heap { core: NonNull::new(core).expect("a mapping is not at zero") };
        threads::announce(heap.core());
        heap.start_configured_profile();
        Ok(heap)
    }

    /// The process heap: made by the doors, never dropped, and not announced to the lists of value heaps.
    pub(crate) fn for_process(config: Config) -> Result<Heap, ReserveError> {
        let core = HeapCore::create(System::Linux, config)?;
        let heap = Heap { core: NonNull::new(core).expect("a mapping is not at zero") };
        heap.start_configured_profile();
        Ok(heap)
    }

    /// A handle beside the one that owns the heap: it must not be dropped.
    ///
    /// # Safety
    /// The heap lives as long as the handle is used.
    pub(crate) unsafe fn borrowed(core: NonNull<HeapCore>) -> Heap {
        Heap { core }
    }

    pub(crate) fn core(&self) -> &HeapCore {
        // SAFETY: the core lives as long as this handle.
        unsafe { self.core.as_ref() }
    }

    /// Declares a purpose of the program's own.
    ///
    /// # Errors
    /// [`DeclareError`], when the name is not one, or taken, or there are 200 already.
    ///
    /// ```
    /// use spanheap::{Config, Heap};
    ///
    /// let heap = Heap::new(Config::default())?;
    /// let sessions = heap.declare("sessions")?;
    /// let again = heap.declare("sessions").unwrap_err();
    /// assert_eq!(again.to_string(), "a purpose named sessions exists already");
    /// # drop(sessions);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn declare(&self, name: &str) -> Result<Purpose<'_>, DeclareError> {
        Ok(Purpose::new(self, self.core().meters.declare(name)?))
    }

    /// The purpose of blocks that nobody declared another for.
    pub fn blocks(&self) -> Purpose<'_> {
        Purpose::new(self, purpose::BLOCKS)
    }

    /// Stacks of the built-in purpose.
    pub fn stacks(&self) -> Stacks<'_> {
        Stacks::new(self, purpose::STACKS)
    }

    /// Declares a purpose of the program's own for stacks of some sort.
    ///
    /// # Errors
    /// [`DeclareError`], as for [`Heap::declare`], and when there are 15 such already.
    pub fn declare_stacks(&self, name: &str) -> Result<Stacks<'_>, DeclareError> {
        Ok(Stacks::new(self, self.core().meters.declare_stacks(name)?.0))
    }

    /// The purpose of objects under the collector.
    pub fn objects(&self) -> Collected<'_> {
        Collected::new(self, purpose::OBJECTS)
    }

    /// Allocates a block for the purpose whose [scope](Purpose::scope) this thread is in, or for `blocks`.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, Exhausted> {
        self.allocate_for(process::purpose_of(self), layout, false).map(Allocated::pointer)
    }

    pub(crate) fn allocate_for(
        &self,
        purpose: PurposeId,
        layout: Layout,
        zero: bool,
    ) -> Result<Allocated, Exhausted> {
        let mutator = self.mutator();
        let natural = layout.align() <= crate::front::slow::NATURAL;
        if natural
            && !self.is_shared(mutator)
            && let Some(cache) = mutator.cache(purpose)
        {
            // SAFETY: the cache is this thread's own.
            let block = unsafe {
                let block = BlockCache::allocate(cache.as_ptr(), layout.size());
                match block.is_null() {
                    true => BlockCache::allocate_counted(cache.as_ptr(), layout.size()),
                    false => block,
                }
            };
            if let Some(pointer) = NonNull::new(block) {
                return Ok(Allocated { pointer, zero: false });
            }
        }
        self.core().allocate(mutator, purpose, layout.size(), layout.align(), zero).map(Allocated::new)
    }

    /// Frees a block of this heap, whatever its purpose; on any thread.
    ///
    /// # Panics
    /// When the pointer is not a block of this heap that is in use. The message names the address, its span
    /// and its purpose.
    ///
    /// # Safety
    /// The block was allocated from this heap with this layout, and is not used any more.
    pub unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let _ = layout;
        // SAFETY: the caller gives the block up.
        if let Err(misuse) = unsafe { self.free(block) } {
            panic!("{misuse}");
        }
    }

    /// Frees a block of this heap, if the pointer is one.
    ///
    /// # Errors
    /// [`Misuse`] says what the pointer is instead; nothing has changed then.
    ///
    /// # Safety
    /// If the pointer is a block's, it is not used any more.
    pub unsafe fn free(&self, block: NonNull<u8>) -> Result<(), Misuse> {
        let mutator = self.mutator();
        let core = self.core();
        // SAFETY: the caller gives the block up; the caches are this thread's own.
        unsafe {
            if !self.is_shared(mutator)
                && let Some(cache) = mutator.caches().next()
            {
                match BlockCache::free(cache, block.as_ptr()) {
                    Freed::Done => return Ok(()),
                    Freed::Tripped(span) => {
                        core.attend(mutator, span);
                        return Ok(());
                    }
                    Freed::Other => {}
                }
            }
            core.free(mutator, block.as_ptr())
        }
    }

    /// Bytes of a block that its holder may use: at least what was asked for.
    ///
    /// # Errors
    /// [`Misuse`], when the pointer is not a block of this heap that is in use.
    pub fn usable_size(&self, block: NonNull<u8>) -> Result<usize, Misuse> {
        self.core().usable_size(block.as_ptr())
    }

    /// Changes the size of a block where it stands. Returns whether it could: small blocks within their class, large
    /// ones by pages, and for growing only if what follows is free.
    ///
    /// # Errors
    /// [`Misuse`], when the pointer is not a block of this heap that is in use.
    ///
    /// # Safety
    /// The block is the caller's; what lies behind `size` is not used any more.
    pub unsafe fn resize(&self, block: NonNull<u8>, size: usize) -> Result<bool, Misuse> {
        // SAFETY: the caller's promise.
        unsafe { self.core().resize(self.mutator(), block.as_ptr(), size) }
    }

    /// Gives all free memory back to the system that can be had without the help of other threads: what this
    /// thread's caches hold, what parked mutators were given, and all free pages. Returns the bytes given back.
    pub fn release_all(&self) -> Bytes {
        // SAFETY: the mutator is this thread's, or the shared one.
        unsafe { self.core().release_all(self.mutator()) }
    }

    /// Where the statistics page stands, for other processes; see [`stats::outside`](crate::stats::outside).
    pub fn page_address(&self) -> Address {
        Address::of(&self.core().window)
    }

    /// Lets other processes read the heap's figures, or does not. They can unless the configuration says `page:off`.
    pub fn set_page(&self, open: bool) {
        self.core().window.set_open(open);
    }

    /// The most memory that the heap may commit, metadata included.
    pub fn limit(&self) -> Option<Bytes> {
        self.core().pages.limit()
    }

    /// Sets or lifts the limit on committed memory. What is above it already stays.
    pub fn set_limit(&self, limit: Option<Bytes>) {
        self.core().pages.set_limit(limit);
    }

    /// When free memory goes back to the system by itself.
    pub fn scavenger(&self) -> Scavenger {
        self.core().scavenging.mode()
    }

    /// Says when free memory goes back to the system by itself.
    pub fn set_scavenger(&self, mode: Scavenger) {
        self.core().scavenging.set_mode(mode);
        self.core().nudge();
    }

    /// Reads the books at one instant, without stopping anyone.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::zero();
        self.snapshot_into(&mut snapshot);
        snapshot
    }

    /// As [`Heap::snapshot`], for callers with little stack.
    pub fn snapshot_into(&self, snapshot: &mut Snapshot) {
        let core = self.core();
        core.post_events(self.mutator());
        core.read_books(snapshot);
    }

    /// The calling thread's mutator, or the shared one where it has none.
    pub(crate) fn mutator(&self) -> &Mutator {
        if process::is(self) { process::mutator(self) } else { threads::mutator(self.core()) }
    }

    pub(crate) fn is_shared(&self, mutator: &Mutator) -> bool {
        mutator.number == crate::front::core::SHARED
    }

    /// Runs `work` with the calling thread's mutator, or the shared one, and its lock.
    pub(crate) fn with_local<T>(
        &self,
        work: impl FnOnce(&HeapCore, &Mutator, &mut Guard<'_, Local>) -> T,
    ) -> T {
        let mutator = self.mutator();
        let mut local = mutator.local.lock();
        work(self.core(), mutator, &mut local)
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if let Some(collection) = self.core().collection() {
            collection.end_threads();
        }
        /// Takes the heap down, also when a destructor panics.
        struct Rest(NonNull<HeapCore>);
        impl Drop for Rest {
            fn drop(&mut self) {
                // SAFETY: the heap's own core, at the end of the heap; see below.
                unsafe {
                    threads::withdraw(self.0.as_ref());
                    HeapCore::destroy(self.0.as_ptr());
                }
            }
        }
        // Everything that came from the heap borrows it, so nothing of it is used any more; no thread that still lists it
        // will look at it, because it is withdrawn.
        let _rest = Rest(self.core);
        if let Some(collection) = self.core().collection() {
            collection.drop_values(self);
        }
    }
}
