//! A mutator: what one thread has of a heap, so that it seldom needs anyone else.
//!
//! ```text
//!            attach                       thread ends
//!   (new) ──────────▶ Attached ──────────────────────────▶ Parked
//!                        ▲                                   │
//!                        └───────────────────────────────────┘
//!                                 attach: a thread takes it over whole
//! ```
//!
//! Mutators are never destroyed before their heap. One whose thread has ended is *parked*: its spans stay its
//! own, and the next thread takes it over with all it has. Until then others help themselves: who frees a block
//! of a parked mutator adopts the block's span, and who needs a span looks there before it asks for pages.
//!
//! 1. An attached mutator's fast paths belong to its thread; everything else to whoever holds `local`.
//! 2. `state` changes under `local`, except before anyone else knows the mutator.
//! 3. The mutator's shard of the books is written by the holder of its own `local` alone.
//!
//! # Safety
//! A mutator is made in place, in memory that nobody else knows yet. Its cells are touched as invariant 1 says, so
//! sharing it between threads does no harm.

use crate::base::purpose::MAX_PURPOSES;
use crate::base::sync::{AtomicU32, Ordering};
use crate::base::{Lock, PurposeId, Rank};
use crate::block::BlockCache;
use crate::front::core::HeapCore;
use crate::os::{Nanoseconds, Zeroed};
use crate::span::{SpanCache, SpanId};
use crate::stack::StackCache;
use crate::stats::BookShard;
use core::cell::Cell;
use core::ptr;

/// Where a mutator stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum State {
    Attached = 1,
    Parked = 2,
}

/// A thread's part of a heap.
#[repr(C)]
pub(crate) struct Mutator {
    pub(crate) core: *const HeapCore,
    pub(crate) number: u32,
    state: AtomicU32,
    /// Slow paths so far: see [`Mutator::visit`].
    visits: AtomicU32,
    /// The visits that the scavenger saw last, since when, and those of the last time that it came by; guarded by its
    /// lock of the heap.
    pub(crate) seen: Cell<u32>,
    pub(crate) since: Cell<Nanoseconds>,
    pub(crate) tended: Cell<u32>,
    /// What the inbox began with when the scavenger last came by, and how often it has come by for that alone.
    pub(crate) returned: Cell<SpanId>,
    pub(crate) returns: Cell<u32>,
    /// The next parked mutator; guarded by the roster.
    pub(crate) next_parked: Cell<u32>,
    /// The caches by purpose. Written under `local`; read by the thread without it.
    caches: [Cell<*mut BlockCache>; MAX_PURPOSES],
    pub(crate) local: Lock<Local>,
    pub(crate) shard: BookShard,
}

/// What the lock guards, beside the caches.
#[derive(Default)]
pub(crate) struct Local {
    pub(crate) spans: SpanCache,
    pub(crate) stacks: StackCache,
}

// SAFETY: zeros are memory for a mutator; `init` comes before use.
unsafe impl Zeroed for Mutator {}

impl Mutator {
    /// Makes a mutator in zeroed memory, attached.
    ///
    /// # Safety
    /// `at` is zeroed memory for a mutator that nobody knows yet.
    pub(crate) unsafe fn init(at: *mut Mutator, core: *const HeapCore, number: u32) {
        // SAFETY: the memory is ours alone; what is not written is valid as zeros.
        unsafe {
            (&raw mut (*at).core).write(core);
            (&raw mut (*at).number).write(number);
            (&raw mut (*at).state).write(AtomicU32::new(State::Attached as u32));
            (&raw mut (*at).local).write(Lock::new(Rank::Mutator, Local::default()));
        }
    }

    /// Counts a slow path; the caller holds `local`.
    #[inline]
    pub(crate) fn visit(&self) {
        self.visits.store(self.visits.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Slow paths so far: while the number stands still, nobody needs what `local` guards.
    pub(crate) fn visits(&self) -> u32 {
        self.visits.load(Ordering::Relaxed)
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.state.load(Ordering::Relaxed) == State::Parked as u32
    }

    /// The caller holds `local`, or nobody else knows the mutator.
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    /// The cache of a purpose, if there is one; the caller is the mutator's thread, or holds `local`.
    #[inline]
    pub(crate) fn cache(&self, purpose: PurposeId) -> Option<ptr::NonNull<BlockCache>> {
        ptr::NonNull::new(self.caches[purpose.index()].get())
    }

    /// The caller holds `local`.
    pub(crate) fn set_cache(&self, purpose: PurposeId, cache: *mut BlockCache) {
        self.caches[purpose.index()].set(cache);
    }

    /// Every cache that exists, by its purpose; the caller holds `local`.
    pub(crate) fn caches_by_purpose(&self) -> impl Iterator<Item = (PurposeId, *mut BlockCache)> {
        let all = self.caches.iter().enumerate();
        all.map(|(purpose, cache)| (PurposeId(purpose as u8), cache.get()))
            .filter(|(_, cache)| !cache.is_null())
    }

    /// Every cache that exists; the caller holds `local`.
    pub(crate) fn caches(&self) -> impl Iterator<Item = *mut BlockCache> + Clone {
        self.caches.iter().map(Cell::get).filter(|cache| !cache.is_null())
    }
}
