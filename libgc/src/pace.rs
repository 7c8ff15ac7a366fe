//! When to collect.
//!
//! All is marked while the world stands, so the policy is the core's for that ([`spanheap::gc::patience`]). What programs can
//! set is put into its terms:
//!
//! - `GC_free_space_divisor` is the policy's. (Boehm's heap grows by `2 / divisor` of what is live, and an eighth of that for
//!   objects without pointers, when nothing is free.)
//! - An initial heap size and `GC_expand_hp` are room in which nothing is collected.
//! - A maximum heap size is the heap's limit; the goal keeps below.
//!
//! No collection begins below 4 MiB of objects.

use crate::{concurrent, heap, hints, settings};
use core::sync::atomic::{AtomicUsize, Ordering};
use spanheap::base::{Bytes, Lock, Rank};
use spanheap::gc::patience::{Found, Patience};

/// Live bytes of the first collection.
const MINIMUM: Bytes = Bytes::mib(4);

/// Live bytes at which to collect.
static GOAL: AtomicUsize = AtomicUsize::new(MINIMUM.0);
/// Live bytes at which those who allocate look what is due: the goal, or earlier where the program is marked while it runs.
static DUE: AtomicUsize = AtomicUsize::new(MINIMUM.0);
/// No collection below so many.
static ROOM: AtomicUsize = AtomicUsize::new(0);

static PATIENCE: Lock<Patience> = Lock::new(Rank::Leaf, Patience::new(MINIMUM));

/// Begins, with what the environment says.
pub(crate) fn begin() {
    ROOM.store(settings::initial_heap_size(), Ordering::Relaxed);
    settle(&Found::default());
}

/// After a collection: sets the next goal.
pub(crate) fn settle(found: &Found) {
    let committed = heap::gc().parts.with_work(|work| work.ground.heap.committed());
    let goal = PATIENCE.lock().settle(found, committed, settings::free_space_divisor());
    let least = found.marked.0.saturating_add(hints::GC_get_min_bytes_allocd());
    GOAL.store(goal.0.max(least).max(ROOM.load(Ordering::Relaxed)), Ordering::Relaxed);
    concurrent::draw_line();
}

/// Says at how many live bytes something is due.
pub(crate) fn set_due(live: usize) {
    DUE.store(live, Ordering::Relaxed);
}

/// Whether it is time for a collection, or for the next step of one.
#[inline]
pub(crate) fn is_due() -> bool {
    let live = heap::gc().parts.objects().live().0;
    live >= DUE.load(Ordering::Relaxed) && settings::may_collect() && hints::are_automatic()
}

/// Lets so many bytes more be allocated before the next collection.
pub(crate) fn expand(bytes: usize) {
    let live = heap::gc().parts.objects().live().0;
    let room = live.saturating_add(bytes);
    ROOM.fetch_max(room, Ordering::Relaxed);
    GOAL.fetch_max(room, Ordering::Relaxed);
    concurrent::draw_line();
}

/// Live bytes at which the next collection begins.
pub(crate) fn goal() -> usize {
    GOAL.load(Ordering::Relaxed)
}
