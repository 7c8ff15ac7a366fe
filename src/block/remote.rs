//! Frees by others: a word in every span, and an inbox for every owner.
//!
//! A thread that frees a block of somebody else's links it to the blocks that wait in the block's own span. A word of
//! the span's record says which block was freed last, which first, and how many wait; one compare-and-swap
//! puts the next one in. Who finds none waiting puts the span into its owner's *inbox*, a list of spans:
//!
//! ```text
//!   owner's inbox ──▶ span ──▶ span ──▶ ∅          (linked through the records)
//!                      │ word: last, first, count
//!                      ▼
//!                    block ──▶ block ──▶ block       (linked through the blocks)
//! ```
//!
//! The owner takes the inbox with one exchange, and of each span all blocks at once: it writes one link, in the
//! block that was freed first, and touches no other. Blocks stay with their neighbours that way, and a block that
//! another processor has just written is fetched only when it is allocated again.
//!
//! 1. A span whose word counts blocks is in one inbox, or in the hands of who took it from one, or its first
//!    freer is about to put it there. So a word is emptied only by who has the span from an inbox, and a span is
//!    never in two.
//! 2. Both lists are only ever taken whole, so no exchange can mistake an old head for a new one.
//!
//! A thread that stops between the two steps holds up the blocks of one span; a `fork` at that point loses them
//! to the child. (Words a span: Leijen's `xthread_free`, 2019.)
//!
//! # Safety
//! Blocks in a word's list belong to the list: who pushes one gives it up, who takes the list may put its blocks back.

use super::body::FreeBlock;
use crate::base::class::GRANULE;
use crate::base::sync::{AtomicU32, AtomicU64, Ordering};
use crate::span::SpanId;
use crate::span::set::LinkOf;
use core::ptr;

/// What waits in a span, as its word says: places in granules from the span's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waiting {
    /// The block that was freed last: the head of the list.
    pub last: u16,
    /// The block that was freed first: the end of the list.
    pub first: u16,
    /// How many wait; the places mean nothing while none do.
    pub count: u16,
}

impl Waiting {
    fn unpack(word: u64) -> Waiting {
        Waiting { last: (word >> 16) as u16, first: (word >> 32) as u16, count: word as u16 }
    }

    fn pack(self) -> u64 {
        u64::from(self.count) | u64::from(self.last) << 16 | u64::from(self.first) << 32
    }

    /// The block at a place.
    pub fn block(memory: *mut u8, place: u16) -> *mut FreeBlock {
        memory.wrapping_add(place as usize * GRANULE).cast()
    }
}

/// Lets a block wait in its span, whose first byte is `memory`. Returns whether it is the first: then the caller
/// puts the span into its owner's inbox.
///
/// # Safety
/// The block is the span's, at `place`, and the caller has the right to free it and gives it up.
#[inline]
pub unsafe fn wait(word: &AtomicU64, memory: *mut u8, place: u16) -> bool {
    let block = Waiting::block(memory, place);
    let mut now = word.load(Ordering::Relaxed);
    loop {
        let before = Waiting::unpack(now);
        let (next, first) = match before.count {
            0 => (ptr::null_mut(), place),
            _ => (Waiting::block(memory, before.last), before.first),
        };
        // SAFETY: the block is this thread's until the exchange succeeds.
        unsafe { (*block).next = next };
        let after = Waiting { last: place, first, count: before.count + 1 };
        match word.compare_exchange_weak(now, after.pack(), Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return before.count == 0,
            Err(other) => now = other,
        }
    }
}

/// What waits in a span, which nobody takes meanwhile.
pub(super) fn look(word: &AtomicU64) -> Waiting {
    Waiting::unpack(word.load(Ordering::Acquire))
}

/// Takes all blocks that wait in a span; the caller has the span from an inbox.
pub fn take(word: &AtomicU64) -> Waiting {
    Waiting::unpack(word.swap(0, Ordering::Acquire))
}

/// One owner's spans in which blocks wait.
#[repr(C, align(64))]
pub struct Inbox {
    first: AtomicU32,
    /// Whether the owner is without a thread, so that nobody will look here unasked.
    parked: AtomicU32,
}

impl Inbox {
    /// The empty inbox, equal to zeroed memory.
    pub fn new() -> Inbox {
        Inbox { first: AtomicU32::new(0), parked: AtomicU32::new(0) }
    }

    /// Puts a span in, in which a first block waits. Returns whether the owner is parked.
    pub fn push(&self, span: SpanId, links: &impl LinkOf) -> bool {
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            links.link_of(span).store(first, Ordering::Relaxed);
            // In one order with the parking of an owner, so that either sees the other.
            match self.first.compare_exchange_weak(first, span.0, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return self.parked.load(Ordering::SeqCst) != 0,
                Err(now) => first = now,
            }
        }
    }

    /// Whether nothing was in a moment ago.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.load(Ordering::Relaxed) == 0
    }

    /// The span that was put in last, of those that are in.
    pub fn first(&self) -> SpanId {
        SpanId(self.first.load(Ordering::Relaxed))
    }

    /// Whether nothing is in. Unlike [`Inbox::is_empty`] this takes part in the order of the pushes: who pushes later
    /// sees all that this thread did before, and what was pushed earlier is seen here.
    pub fn is_empty_now(&self) -> bool {
        self.first.fetch_or(0, Ordering::AcqRel) == 0
    }

    /// Takes all spans.
    pub fn take(&self) -> Taken {
        if self.is_empty() {
            return Taken(SpanId::NONE);
        }
        Taken(SpanId(self.first.swap(0, Ordering::Acquire)))
    }

    /// The spans in an inbox that nobody takes meanwhile. What is put in meanwhile is not among them.
    #[cfg(not(loom))]
    pub(super) fn iter<'a>(&self, links: &'a impl LinkOf) -> impl Iterator<Item = SpanId> + 'a {
        let mut spans = Taken(SpanId(self.first.load(Ordering::Acquire)));
        core::iter::from_fn(move || spans.next(links))
    }

    /// Says whether the owner has a thread.
    pub fn set_parked(&self, parked: bool) {
        self.parked.store(parked.into(), Ordering::Release);
    }
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox::new()
    }
}

/// Spans that were taken from an inbox.
#[must_use = "spans that are dropped here are never emptied"]
pub struct Taken(SpanId);

impl Taken {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0 == SpanId::NONE
    }

    /// The next one. Its link is read here, before its word is emptied: from then on others may put the span
    /// into an inbox again, and write the link.
    pub fn next(&mut self, links: &impl LinkOf) -> Option<SpanId> {
        let span = self.0.some()?;
        self.0 = SpanId(links.link_of(span).load(Ordering::Relaxed));
        Some(span)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use std::cell::UnsafeCell;

    /// A span of three blocks, its word and link, and the inboxes of two owners.
    struct World {
        memory: UnsafeCell<[u64; 6]>,
        word: AtomicU64,
        link: [AtomicU32; 2],
        owner: AtomicU32,
        inboxes: [Inbox; 2],
    }

    // SAFETY: blocks are touched by who has them, as in the real thing.
    unsafe impl Sync for World {}
    // SAFETY: as above.
    unsafe impl Send for World {}

    impl LinkOf for World {
        fn link_of(&self, span: SpanId) -> &AtomicU32 {
            &self.link[span.0 as usize]
        }
    }

    impl World {
        fn new() -> World {
            World {
                memory: UnsafeCell::new([0; 6]),
                word: AtomicU64::new(0),
                link: [AtomicU32::new(0), AtomicU32::new(0)],
                owner: AtomicU32::new(0),
                inboxes: [Inbox::new(), Inbox::new()],
            }
        }

        fn memory(&self) -> *mut u8 {
            self.memory.get().cast()
        }

        fn free(&self, place: u16) {
            let owner = self.owner.load(Ordering::Acquire) as usize;
            // SAFETY: each test frees each place once.
            if unsafe { wait(&self.word, self.memory(), place) } {
                self.inboxes[owner].push(SpanId(1), self);
            }
        }

        /// What the owner `me` does: takes its inbox, and hands on a span that is not its own any more.
        fn drain(&self, me: usize) -> usize {
            let mut taken = self.inboxes[me].take();
            let mut count = 0;
            while let Some(span) = taken.next(self) {
                let now = self.owner.load(Ordering::Acquire) as usize;
                if now != me {
                    self.inboxes[now].push(span, self);
                    continue;
                }
                let waiting = take(&self.word);
                assert_ne!(waiting.count, 0, "a span without waiting blocks was in an inbox");
                let mut at = Waiting::block(self.memory(), waiting.last);
                for _ in 1..waiting.count {
                    // SAFETY: taken, so ours.
                    at = unsafe { (*at).next };
                }
                assert_eq!(at, Waiting::block(self.memory(), waiting.first), "the list ends elsewhere");
                count += waiting.count as usize;
            }
            count
        }
    }

    #[test]
    fn loom_remote_frees_all_arrive() {
        loom::model(|| {
            let world = Arc::new(World::new());
            let threads: Vec<_> = [0, 1]
                .into_iter()
                .map(|place| {
                    let world = world.clone();
                    loom::thread::spawn(move || world.free(place))
                })
                .collect();
            let early = world.drain(0);
            threads.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!(early + world.drain(0), 2);
        });
    }

    /// The span changes hands while a block is freed: the block reaches the new owner all the same.
    #[test]
    fn loom_blocks_follow_a_span_to_its_new_owner() {
        loom::model(|| {
            let world = Arc::new(World::new());
            let freer = {
                let world = world.clone();
                loom::thread::spawn(move || world.free(2))
            };
            world.owner.store(1, Ordering::Release);
            let early = world.drain(1);
            freer.join().unwrap();
            // Whoever looks after the former owner's inbox hands on what is there.
            assert_eq!(world.drain(0), 0);
            assert_eq!(early + world.drain(1), 1);
        });
    }
}

#[cfg(all(test, loom))]
mod loom_parking {
    use super::*;
    use crate::base::{Lock, Rank};
    use loom::sync::Arc;

    /// A span with one block, its owner who is about to end, and the owner's lock: how `front` parks a mutator, and
    /// how it looks after the inbox of one that is parked.
    struct World {
        memory: std::cell::UnsafeCell<[u64; 2]>,
        word: AtomicU64,
        link: AtomicU32,
        inbox: Inbox,
        /// Whether the owner is parked, and how many blocks came back.
        local: Lock<(bool, usize)>,
    }

    // SAFETY: the block is touched by who has it.
    unsafe impl Sync for World {}
    // SAFETY: as above.
    unsafe impl Send for World {}

    impl LinkOf for World {
        fn link_of(&self, _: SpanId) -> &AtomicU32 {
            &self.link
        }
    }

    impl World {
        fn drain(&self) -> usize {
            let mut taken = self.inbox.take();
            let mut count = 0;
            while taken.next(self).is_some() {
                count += take(&self.word).count as usize;
            }
            count
        }

        fn park(&self) {
            loop {
                let mut local = self.local.lock();
                local.0 = true;
                self.inbox.set_parked(true);
                local.1 += self.drain();
                drop(local);
                if self.inbox.is_empty_now() {
                    break;
                }
            }
        }

        fn free(&self) {
            // SAFETY: the block is freed once.
            if !unsafe { wait(&self.word, self.memory.get().cast(), 0) } {
                return;
            }
            if self.inbox.push(SpanId(1), self) {
                while !self.inbox.is_empty_now() {
                    let Some(mut local) = self.local.try_lock() else { return };
                    if !local.0 {
                        return;
                    }
                    local.1 += self.drain();
                }
            }
        }
    }

    /// A block that is freed while its owner parks is put back by one of the two: nobody has to come by later.
    #[test]
    fn loom_no_block_is_left_behind_when_its_owner_parks() {
        loom::model(|| {
            let world = Arc::new(World {
                memory: std::cell::UnsafeCell::new([0; 2]),
                word: AtomicU64::new(0),
                link: AtomicU32::new(0),
                inbox: Inbox::new(),
                local: Lock::new(Rank::Mutator, (false, 0)),
            });
            let freer = {
                let world = world.clone();
                loom::thread::spawn(move || world.free())
            };
            world.park();
            freer.join().unwrap();
            let (parked, back) = *world.local.lock();
            assert!(parked && back == 1, "{back} blocks came back");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn waiting_packs_into_a_word() {
        for waiting in [
            Waiting::default(),
            Waiting { last: 1, first: 2, count: 3 },
            Waiting { last: u16::MAX, first: 10_239, count: 2_048 },
        ] {
            assert_eq!(Waiting::unpack(waiting.pack()), waiting);
        }
    }
}
