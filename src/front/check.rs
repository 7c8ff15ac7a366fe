//! `Heap::check`: the walk over everything that proves every numbered invariant of the rooms.
//!
//! It takes the locks in their order, as before a `fork`, so that everything stands still but the fast paths of
//! other threads. Then it asks each room: the page allocator and the spans (1 to 5), the blocks (1 to 7), the stacks (1 to 5), the books
//! (their identities), and itself:
//!
//! 1. The metadata accounts are what the heap's tables have committed, kind by kind.
//! 2. A mutator in the list of the parked ones is parked, has no pages, and its caches allocate from no span.
//! 3. A cache belongs to one mutator and to one purpose, and says so; all that were made are there.
//! 4. Between two collections no span is there for work buffers or for unrolled pointer maps.
//!
//! Collected objects are walked as well, with their world stopped: each thread that has entered the heap comes to a
//! safepoint first, or is outside. A thread that is inside of a run itself, while another one collects or checks, cannot
//! wait for that; there the objects are left out.
//!
//! What fast paths change without a lock, the free lists and counts of block spans, is looked at only for quiet
//! owners: those without a thread, and the calling thread. When other threads are not at work, nothing of the
//! calling thread's view is missing but the free lists in *their* spans; a thread that has ended is quiet.
//!
//! After a `fork` of a process whose other threads were at work, the child's check may find a block lost where one
//! of them stood in the middle of a fast path (blocks 5), and is right.
//!
//! # Safety
//! All locks are held while the walk runs; the guard gives them back, also when it panics.

use crate::base::purpose::{POINTER_MAPS, WORK_BUFFERS};
use crate::base::{Broken, Bytes, Invariant};
use crate::block::BlockCache;
use crate::block::check::Walk;
use crate::block::remote::Inbox;
use crate::front::collect::Still;
use crate::front::core::{HeapCore, SHARED};
use crate::front::heap::Heap;
use crate::front::mutator::{Local, Mutator};
use crate::front::report;
use crate::os::SystemError;
use crate::page::PageError;
use crate::span::HeapError;
use crate::stats::account::METADATA_KINDS;
use crate::stats::{Account, Figures, Imbalance, Snapshot};
use core::{fmt, ptr};

const OF_METADATA: Invariant = Invariant("front", 1);
const OF_PARKED: Invariant = Invariant("front", 2);
const OF_CACHES: Invariant = Invariant("front", 3);
const OF_REST: Invariant = Invariant("front", 4);

/// What does not hold in a heap: a bug of ours, or memory that the program has overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckError {
    /// Which pages are free.
    Pages(PageError),
    /// An invariant of spans, blocks, or mutators.
    Broken(Broken),
    /// An identity of the books.
    Books(Imbalance),
    /// Nothing was proved: the system refused the memory for a snapshot.
    Refused(SystemError),
}

/// The heap with all locks held.
struct Stopped<'a>(&'a HeapCore);

impl<'a> Stopped<'a> {
    fn new(core: &'a HeapCore) -> Stopped<'a> {
        core.stop();
        Stopped(core)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // SAFETY: the value stands for one `stop` of this thread.
        unsafe { self.0.go_on() }
    }
}

impl Heap {
    /// Walks everything and proves every numbered invariant of the rooms, and the identities of the books. Other
    /// threads wait meanwhile, where they need more than their caches have.
    ///
    /// # Errors
    /// [`CheckError`]: the first invariant that does not hold, with both values.
    ///
    /// ```
    /// use spanheap::{Bytes, Config, Heap};
    ///
    /// let heap = Heap::new(Config::default())?;
    /// let span = heap.declare("index")?.allocate_span(Bytes::kib(10))?;
    /// heap.check()?;
    /// # drop(span);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self) -> Result<(), CheckError> {
        let mine = self.mutator().number;
        let check = |still: Option<Still<'_>>| {
            if let Some(still) = &still {
                // First, since threads that are outside let go of weak references meanwhile: that takes locks of its own.
                if let Err(broken) = still.check_attachments() {
                    return Ok(Err(broken.into()));
                }
            }
            report::with_blank(|snapshot| Stopped::new(self.core()).check(mine, snapshot, still.as_ref()))
        };
        let checked = match self.core().collection() {
            Some(collection) => collection.while_still(self, check),
            None => check(None),
        };
        checked.map_err(CheckError::Refused)?
    }
}

impl Stopped<'_> {
    /// Proves everything. `mine` is the number of the calling thread's mutator.
    fn check(&self, mine: u32, snapshot: &mut Snapshot, still: Option<&Still<'_>>) -> Result<(), CheckError> {
        let core = self.0;
        core.read_books(snapshot);
        snapshot.check().map_err(CheckError::Books)?;
        let spans = self.mutators().map(|mutator| &self.local(mutator).spans);
        // SAFETY: all locks are held, and the books were read since.
        unsafe { core.pages.check(&core.meters, &snapshot.figures, spans) }?;
        let caches = self.mutators().map(|mutator| &self.local(mutator).stacks);
        // SAFETY: as above.
        unsafe { core.stacks.check(&core.pages, &core.meters, &snapshot.figures, caches) }?;
        self.check_metadata(&snapshot.figures)?;
        self.check_parked()?;
        self.check_caches()?;
        self.check_blocks(mine)?;
        if let Some(still) = still {
            // SAFETY: nobody touches objects, and the books were read since.
            unsafe { still.check(core, &snapshot.figures) }?;
            for purpose in [WORK_BUFFERS, POINTER_MAPS] {
                let bytes = snapshot.balance(Account::Span(purpose)) as usize;
                OF_REST.equal("bytes = none", ("purpose", purpose.0 as usize), bytes, 0)?;
            }
        }
        Ok(())
    }

    fn next(&self) -> u32 {
        // SAFETY: the roster's lock is held, and no other reference to it lives beyond this line.
        unsafe { self.0.roster.held_mut() }.next
    }

    fn mutators(&self) -> impl Iterator<Item = &Mutator> {
        (SHARED..self.next()).map(|number| self.0.mutator(number))
    }

    fn local<'m>(&self, mutator: &'m Mutator) -> &'m Local {
        // SAFETY: the lock is held, and only shared references to its value are made while it is.
        unsafe { mutator.local.held_mut() }
    }

    fn check_metadata(&self, figures: &Figures) -> Result<(), Broken> {
        let mut found = [Bytes::ZERO; METADATA_KINDS.len()];
        // SAFETY: all locks are held.
        unsafe { self.0.table_bytes(|kind, bytes| found[kind as usize] += bytes) };
        for kind in METADATA_KINDS {
            let (found, booked) = (found[kind as usize].0, figures.balance(Account::Metadata(kind)) as usize);
            let subject = ("metadata kind", kind as usize);
            OF_METADATA.equal("what the tables have is what the books say", subject, found, booked)?;
        }
        Ok(())
    }

    fn check_parked(&self) -> Result<(), Broken> {
        // SAFETY: the roster's lock is held, and no other reference to it lives beyond this line.
        let mut at = unsafe { self.0.roster.held_mut() }.parked;
        let mut count = 0;
        while at != 0 {
            let (subject, mutator) = (("mutator", at as usize), self.0.mutator(at));
            OF_PARKED.equal("who is listed as parked is", subject, mutator.is_parked().into(), 1)?;
            let pages = self.local(mutator).spans.pages().0;
            OF_PARKED.equal("a parked mutator keeps no pages", subject, pages, 0)?;
            // SAFETY: all locks are held.
            let current = mutator.caches().filter(|&cache| unsafe { (*cache).has_current() }).count();
            OF_PARKED.equal("a parked mutator allocates from no span", subject, current, 0)?;
            count += 1;
            OF_PARKED.at_most("the list of the parked ends", subject, count, self.next() as usize)?;
            at = mutator.next_parked.get();
        }
        Ok(())
    }

    fn check_caches(&self) -> Result<(), Broken> {
        let mut count = 0;
        for mutator in self.mutators() {
            for (purpose, cache) in mutator.caches_by_purpose() {
                let subject = ("mutator", mutator.number as usize);
                // SAFETY: all locks are held, and neither field ever changes.
                let (owner, of) = unsafe { ((*cache).owner(), (*cache).purpose()) };
                OF_CACHES.equal("a cache names its mutator", subject, owner as usize, subject.1)?;
                OF_CACHES.equal("a cache names its purpose", subject, of.index(), purpose.index())?;
                count += 1;
            }
        }
        // SAFETY: the lock is held, and no other reference to its value lives.
        let made = *unsafe { self.0.next_cache.held_mut() };
        OF_CACHES.equal("all caches that were made are some mutator's", ("heap", 0), count, made)
    }

    fn check_blocks(&self, mine: u32) -> Result<(), Broken> {
        let core = self.0;
        let walk = Walk {
            heap: &core.pages,
            key: core.key(),
            owners: self.next(),
            // The shared mutator has no thread: whoever works through it holds its lock.
            is_quiet: |owner| owner == mine || owner == SHARED || core.mutator(owner).is_parked(),
            cache_of: |owner, purpose| {
                core.mutator(owner).cache(purpose).map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
            },
        };
        let caches =
            self.mutators().flat_map(Mutator::caches).map(|cache: *mut BlockCache| cache.cast_const());
        let inboxes =
            self.mutators().map(|of| -> (u32, &Inbox) { (of.number, core.central.inbox(of.number)) });
        // SAFETY: all locks are held; a quiet owner has no thread, or it is this one, which is here.
        unsafe { walk.check(caches, inboxes) }
    }
}

impl From<Broken> for CheckError {
    fn from(broken: Broken) -> CheckError {
        CheckError::Broken(broken)
    }
}

impl From<HeapError> for CheckError {
    fn from(error: HeapError) -> CheckError {
        match error {
            HeapError::Pages(error) => CheckError::Pages(error),
            HeapError::Spans(broken) => CheckError::Broken(broken),
        }
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckError::Pages(error) => write!(f, "page {}: {error}", error.number()),
            CheckError::Broken(broken) => broken.fmt(f),
            CheckError::Books(imbalance) => write!(f, "stats: {imbalance}"),
            CheckError::Refused(error) => write!(f, "nothing was checked: {error}"),
        }
    }
}

impl core::error::Error for CheckError {}
