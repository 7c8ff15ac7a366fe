//! When there is nothing left to mark: the count of those who may still have work.
//!
//! Markers come and go: background workers, and mutators that assist or empty a barrier buffer. Each *enters* before
//! it takes work or brings some, and *leaves* when it has put everything it had onto the shared lists. So work is on a
//! list, or with somebody inside.
//!
//! ```text
//!             enter                        leave
//!   outside ─────────▶ inside (has work) ─────────▶ outside
//!           entries + 1, inside + 1         inside - 1
//! ```
//!
//! Two looks that fail, each taken alone: "nobody is inside" says nothing about the lists, and "the lists are empty"
//! nothing about those inside; and between two looks, work can move from where the second looks to where the first
//! did. So the word counts the entries as well. [`Census::is_quiet`] finds nobody inside, finds the lists empty, and
//! finds the word *unchanged*: then nobody was inside at any moment between, the lists were empty at one, and only
//! those inside fill them. The answer stays true until somebody enters who *brings* work.
//!
//! 1. Only somebody inside takes work from the shared lists or puts work there.
//! 2. Who is inside has work, or the lists may hold some; who is outside has none.
//! 3. After a quiet answer no work exists until somebody enters with work from outside: from a barrier buffer or
//!    a new root.
//!
//! The file does not know what work is. (Go: `work.nwait` and `work.nproc`, which need to know how many markers there
//! can be.)

use crate::base::sync::{AtomicU64, Ordering, fence};

/// Who may have work. Zeroed memory is an empty census.
pub struct Census {
    /// Markers inside in the low half, entries ever made in the high half. 2^32 entries between two loads of one
    /// [`Census::is_quiet`] would be needed to be mistaken.
    word: AtomicU64,
}

const INSIDE: u64 = 1;
const ENTRY: u64 = 1 << 32;

impl Census {
    /// Nobody inside.
    pub fn new() -> Census {
        Census { word: AtomicU64::new(0) }
    }

    /// Comes in, before taking or bringing work.
    #[inline]
    pub fn enter(&self) {
        self.word.fetch_add(ENTRY + INSIDE, Ordering::AcqRel);
        // The entry is seen before whatever is taken from a list.
        fence(Ordering::SeqCst);
    }

    /// Goes out, with no work left in hand.
    #[inline]
    pub fn leave(&self) {
        let before = self.word.fetch_sub(INSIDE, Ordering::AcqRel);
        debug_assert!(before as u32 > 0, "somebody left who had not entered");
    }

    /// How many are inside.
    #[inline]
    pub fn inside(&self) -> u32 {
        self.word.load(Ordering::Relaxed) as u32
    }

    /// Whether there was no work anywhere at one moment during the call. `is_empty` looks at the shared lists.
    pub fn is_quiet(&self, is_empty: impl FnOnce() -> bool) -> bool {
        let before = self.word.load(Ordering::Acquire);
        if before as u32 != 0 || !is_empty() {
            return false;
        }
        fence(Ordering::SeqCst);
        self.word.load(Ordering::Acquire) == before
    }
}

impl Default for Census {
    fn default() -> Census {
        Census::new()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::sync::AtomicU32;
    use loom::sync::Arc;

    /// A list that only counts: who takes one unit may put back two smaller ones.
    struct World {
        census: Census,
        list: AtomicU32,
        done: AtomicU32,
    }

    impl World {
        fn new(work: u32) -> Arc<World> {
            Arc::new(World { census: Census::new(), list: AtomicU32::new(work), done: AtomicU32::new(0) })
        }

        fn take(&self) -> bool {
            let less = |n: u32| n.checked_sub(1);
            self.list.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
        }

        /// Takes a unit and does it; one that is told to puts another unit back first.
        fn mark(&self, more: bool) {
            self.census.enter();
            if self.take() {
                if more {
                    self.list.fetch_add(1, Ordering::Release);
                }
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            self.census.leave();
        }

        fn is_quiet(&self) -> bool {
            self.census.is_quiet(|| self.list.load(Ordering::Acquire) == 0)
        }
    }

    #[test]
    fn loom_quiet_means_that_all_is_done() {
        loom::model(|| {
            let world = World::new(1);
            let marker = {
                let world = world.clone();
                loom::thread::spawn(move || {
                    world.mark(true);
                    world.mark(false);
                })
            };
            if world.is_quiet() {
                assert_eq!(world.list.load(Ordering::Acquire), 0);
                assert_eq!(world.done.load(Ordering::Acquire), 2, "quiet, and work is left");
            }
            marker.join().unwrap();
            assert!(world.is_quiet());
        });
    }

    #[test]
    fn loom_an_assist_may_come_at_any_time() {
        // Three threads: all interleavings with up to three switches that nobody has to make.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let world = World::new(1);
            let markers: Vec<_> = [true, false]
                .into_iter()
                .map(|more| {
                    let world = world.clone();
                    loom::thread::spawn(move || world.mark(more))
                })
                .collect();
            if world.is_quiet() {
                let done = world.done.load(Ordering::Acquire);
                let left = world.list.load(Ordering::Acquire);
                assert!(left == 0 && (1..=2).contains(&done), "quiet with {left} left and {done} done");
            }
            markers.into_iter().for_each(|marker| marker.join().unwrap());
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64 as Count;

    /// Real threads share out a tree of work through one list; whoever finds it quiet finds all of it done.
    #[test]
    fn nobody_stops_early() {
        const DEPTH: u32 = 12;
        for _ in 0..20 {
            let (census, list, done) = (Census::new(), Mutex::new(vec![DEPTH]), Count::new(0));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !census.is_quiet(|| list.lock().unwrap().is_empty()) {
                            census.enter();
                            loop {
                                let Some(work) = list.lock().unwrap().pop() else { break };
                                done.fetch_add(1, Ordering::Relaxed);
                                if work > 0 {
                                    list.lock().unwrap().extend([work - 1, work - 1]);
                                }
                            }
                            census.leave();
                        }
                        assert_eq!(done.load(Ordering::Relaxed), (2 << DEPTH) - 1);
                    });
                }
            });
            assert_eq!(census.inside(), 0);
        }
    }

    #[test]
    fn who_is_inside_is_counted() {
        let census = Census::default();
        assert!(census.is_quiet(|| true) && !census.is_quiet(|| false));
        census.enter();
        census.enter();
        assert_eq!(census.inside(), 2);
        assert!(!census.is_quiet(|| true));
        census.leave();
        census.leave();
        assert!(census.is_quiet(|| true));
        assert!(!census.is_quiet(|| {
            census.enter();
            census.leave();
            true
        }));
    }
}
