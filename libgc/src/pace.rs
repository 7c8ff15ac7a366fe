//! When to collect.
//!
//! The policy is the pacer's ([`spanheap::gc::pace`]); since marking happens while the world stands, the trigger is the
//! goal itself, and nobody assists. What programs can set is put into its terms:
//!
//! - `GC_free_space_divisor` says how large a part of the heap is allocated between two collections. Boehm's heap has
//!   room for about `live / divisor` more, with objects that are up to twice as large; ours lets `300 / divisor` percent
//!   of what is live be allocated: 100 for the default, 3.
//! - An initial heap size and `GC_expand_hp` are room in which nothing is collected.
//! - A maximum heap size is the heap's limit; the goal keeps below.
//!
//! No collection begins below 4 MiB of objects.

use crate::{concurrent, heap, hints, settings};
use core::sync::atomic::{AtomicUsize, Ordering};
use spanheap::base::{Bytes, Lock, Rank};
use spanheap::gc::pace::{Cycle, DEFAULT_MINIMUM, Footprint, Pacer, Progress, Settings, Work};

/// The percent that the default divisor stands for, times that.
const PERCENT: usize = 300;

/// Live bytes at which to collect.
static GOAL: AtomicUsize = AtomicUsize::new(DEFAULT_MINIMUM.0);
/// Live bytes at which those who allocate look what is due: the goal, or earlier where the program is marked while it runs.
static DUE: AtomicUsize = AtomicUsize::new(DEFAULT_MINIMUM.0);
/// No collection below so many.
static ROOM: AtomicUsize = AtomicUsize::new(0);

static PACER: Lock<Option<Pacer>> = Lock::new(Rank::Leaf, None);

fn settings_now() -> Settings {
    let divisor = settings::free_space_divisor().max(1);
    let percent = (PERCENT / divisor).max(1) as u32;
    Settings {
        percent: Some(percent),
        limit: None,
        minimum: Bytes(DEFAULT_MINIMUM.0 * 100 / percent as usize),
    }
}

/// Begins, with what the environment says.
pub(crate) fn begin() {
    *PACER.lock() = Some(Pacer::new(settings_now()));
    ROOM.store(settings::initial_heap_size(), Ordering::Relaxed);
    settle(0, 0, 0);
}

/// After a collection: `marked` bytes are alive, `stacks` and `roots` bytes were scanned beside them.
pub(crate) fn settle(marked: usize, stacks: usize, roots: usize) {
    let mut pacer = PACER.lock();
    let Some(pacer) = pacer.as_mut() else { return };
    pacer.set(settings_now(), marked as u64, true);
    pacer.start(marked as u64, stacks as u64, roots as u64);
    let done = Work { heap: marked as u64, stacks: stacks as u64, roots: roots as u64 };
    let progress = Progress { live: marked as u64, scannable: marked as u64, done };
    let footprint = Footprint::default();
    let cycle =
        Cycle { progress, duration: 1, assist_time: 0, idle_time: 0, processors: 1, marked: marked as u64 };
    pacer.finish(&cycle, &footprint);
    pacer.commit(marked as u64, true);
    let goal = usize::try_from(pacer.goal(&footprint)).unwrap_or(usize::MAX);
    let least = marked.saturating_add(hints::GC_get_min_bytes_allocd());
    GOAL.store(goal.max(least).max(ROOM.load(Ordering::Relaxed)), Ordering::Relaxed);
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
