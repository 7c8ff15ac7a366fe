//! Holes: system pages inside partly used spans that the system has back.
//!
//! Survivors pin spans: where one block in sixteen is kept, hardly a span becomes empty, but most of their system pages
//! hold no block in use. Such pages are *punched* out of spans whose owner is idle. The blocks that a hole touches are
//! free, but not in the free list, since that runs through the blocks themselves; they are *withheld*. A span with holes
//! is *closed*: its divisibility constant is zero, so no fast path frees into it, and the slow path does, under a lock. When
//! it is next in line to allocate from, its holes are *filled*: made ready, cut into free blocks again; and it opens.
//!
//! ```text
//!                 close, barrier, verify            punch
//!   open, Listed ───────────────────────▶ closed ──────────▶ closed with holes
//!        ▲                                   │                   │
//!        └───────────────────────────────────┴───────────────────┘
//!              nothing to punch: open          next in line: fill, open
//! ```
//!
//! A span's owner frees into it without a lock, so whoever punches, holding the owner's `local` but not its thread, must
//! know that no free is under way. That costs the fast path nothing, because of the order of its steps:
//!
//! ```text
//!   owner, freeing a block                    who closes the span
//!   1  trip −= 1        (announces)           1  magic = 0
//!   2  look at magic                          2  a memory barrier in every thread of the process
//!   3  put the block into the list            3  count: free + in use = carved?
//! ```
//!
//! 1. An announcement that comes before the barrier is seen in step 3: either the block has arrived in the list
//!    too, or the count is one short, and then the span is opened again and left alone. One that comes after the barrier sees a
//!    magic of zero, and its free takes it back and goes the slow way, where it waits for the lock.
//!    The countdown stays the owner's alone: it may be announced and taken back at any time, so nobody else writes it.
//! 2. A span that is current is never closed, so allocations need no such order.
//! 3. Blocks that a hole touches are in no list and in nobody's use; all others are as ever.
//!
//! Holes stand in the books as what they are part of: bytes of their span. What they save is known beside them.
//!
//! # Safety
//! Whoever calls holds the `local` of the spans' owner. Pages are punched only where all blocks are known to be free.

use super::body::{BlockSpan, FreeBlock, Phase, mark};
use super::remote;
use crate::base::class::{GRANULE, LONG_SPAN, TABLE};
use crate::base::sync::Ordering;
use crate::base::{Bytes, PAGE_SIZE, Pages};
use crate::span::{Ground, PageHeap, Span};
use core::ops::Range;
use core::sync::atomic::AtomicPtr;

/// Blocks of a span at most.
const MOST_BLOCKS: usize = LONG_SPAN.0 * PAGE_SIZE / GRANULE;

/// A bit for each block of a span.
type Blocks = [u64; MOST_BLOCKS / 64];

/// What a span looks like from here: how long its blocks and the system's pages are.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    memory: *mut u8,
    bytes: usize,
    page: usize,
    size: usize,
    carved: usize,
}

impl Shape {
    /// # Safety
    /// The body is that of the span, which is one of blocks.
    pub(super) unsafe fn of(heap: &PageHeap, span: &Span, body: *const BlockSpan) -> Shape {
        // SAFETY: the caller's promise; what is read changes only under the owner's lock.
        let (size, carved) = unsafe { ((*body).size(), (*body).carved as usize) };
        Shape {
            memory: heap.region().page_pointer(span.page()),
            bytes: span.pages().bytes().0,
            page: heap.system().page_size().0,
            size,
            carved,
        }
    }

    /// The system pages that a range of bytes touches, as bits.
    fn pages(&self, bytes: Range<usize>) -> u64 {
        if self.bytes > 64 * self.page {
            // So long a span never has holes.
            return 0;
        }
        let (from, to) = (bytes.start / self.page, bytes.end.div_ceil(self.page));
        (u64::MAX >> (64 - (to - from))) << from
    }

    /// The system pages that a block touches.
    pub(super) fn pages_of(&self, block: usize) -> u64 {
        self.pages(block * self.size..(block + 1) * self.size)
    }

    /// How many blocks the holes touch.
    pub(super) fn withheld(&self, holes: u64) -> usize {
        if holes == 0 {
            return 0;
        }
        (0..self.carved).filter(|&block| self.pages_of(block) & holes != 0).count()
    }

    /// The system pages behind the last carved block that were clean when the span was made: the system has them, and the
    /// heap knows that already.
    fn untouched(&self, span: &Span) -> u64 {
        let carved = (self.carved * self.size).next_multiple_of(self.page);
        let clean = (carved / PAGE_SIZE..self.bytes / PAGE_SIZE).filter(|&page| span.was_clean(Pages(page)));
        clean.fold(0, |pages, page| {
            let (from, to) = (carved.max(page * PAGE_SIZE), (page + 1) * PAGE_SIZE);
            pages | if from < to { self.pages(from..to) } else { 0 }
        })
    }

    fn block(&self, block: usize) -> *mut FreeBlock {
        self.memory.wrapping_add(block * self.size).cast()
    }
}

/// The record that a body is part of.
///
/// # Safety
/// The body is part of one.
pub(super) unsafe fn record_of<'a>(body: *mut BlockSpan) -> &'a Span {
    // SAFETY: a body is the first field of its record, and records live as long as the heap.
    unsafe { &*body.cast::<Span>() }
}

/// Whether one of the holes touches the block that begins so many bytes behind the span's first.
pub fn touch(ground_page: Bytes, span: &Span, body: &BlockSpan, within: usize) -> bool {
    let pages = within / ground_page.0..(within + body.size()).div_ceil(ground_page.0);
    pages.into_iter().any(|page| page < 64 && of(span) >> page & 1 == 1)
}

/// Where the holes of a span are: a bit for each system page.
pub(super) fn of(span: &Span) -> u64 {
    span.note().load(Ordering::Relaxed)
}

/// Closes a span, unless it is current. After a barrier, [`punch`] may look at it.
///
/// # Safety
/// See the head of this file.
pub(super) unsafe fn close(body: *const BlockSpan) {
    // SAFETY: the owner's lock is held, so the phase stands still.
    unsafe {
        if (*body).phase != Phase::Current {
            (*body).magic.store(0, Ordering::Relaxed);
        }
    }
}

/// Opens a span that has no holes.
///
/// # Safety
/// See the head of this file.
pub(super) unsafe fn open(span: &Span, body: *const BlockSpan) {
    // SAFETY: the owner's lock is held.
    unsafe {
        if of(span) == 0 {
            (*body).magic.store(TABLE[(*body).class.0 as usize].magic, Ordering::Relaxed);
        }
    }
}

/// Which blocks of a closed span are in its free list, and how many are in use; `None`, if its owner is just freeing one.
///
/// # Safety
/// See the head of this file; a barrier has passed since the span was closed.
unsafe fn verify(shape: &Shape, span: &Span, body: *const BlockSpan) -> Option<(Blocks, u32)> {
    let (mut free, mut count): (Blocks, usize) = ([0; MOST_BLOCKS / 64], 0);
    // SAFETY: the owner's lock is held; what its thread may still be writing are the list's head and the counts, one word each,
    // and a block is complete before the head leads to it.
    unsafe {
        let used = BlockSpan::used_meanwhile(body);
        let mut at = AtomicPtr::from_ptr((&raw const (*body).free).cast_mut()).load(Ordering::Acquire);
        while !at.is_null() {
            let offset = at.addr().wrapping_sub(shape.memory.addr());
            let block = offset / shape.size;
            if !offset.is_multiple_of(shape.size) || block >= shape.carved || count == shape.carved {
                return None;
            }
            free[block / 64] |= 1 << (block % 64);
            count += 1;
            at = (*at).next;
        }
        (count + used as usize + shape.withheld(of(span)) == shape.carved).then_some((free, used))
    }
}

/// Whether all blocks of a closed span are free, the last of them waiting: then nobody has one, and its owner cannot be
/// freeing any. `false` also where the owner is about to look after the span itself.
///
/// # Safety
/// See the head of this file; a barrier has passed since the span was closed.
pub(super) unsafe fn is_returned(ground: Ground<'_>, span: &Span, body: *const BlockSpan) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let Some((_, used)) = verify(&Shape::of(ground.heap, span, body), span, body) else { return false };
        // Counted before it is looked how many wait: a block that comes meanwhile was in use before.
        let tripped = match (*body).phase {
            Phase::Full => (*body).blocks - (*body).full_trip(),
            _ => 0,
        };
        used != tripped && used == u32::from(remote::look(span.word()).count)
    }
}

/// Has the system take the pages of a closed span that hold no block in use.
///
/// # Safety
/// See the head of this file; a barrier has passed since the span was closed.
pub(super) unsafe fn punch(ground: Ground<'_>, span: &Span, body: *mut BlockSpan) {
    // SAFETY: the owner's lock is held, and once it is verified that no free is under way, all of the span is ours:
    // frees of its owner wait for the lock, and others touch only blocks in use.
    unsafe {
        let shape = Shape::of(ground.heap, span, body);
        if shape.bytes > 64 * shape.page {
            return;
        }
        let Some((free, _)) = verify(&shape, span, body) else { return };
        let holes = of(span);
        let is_free = |block: usize| free[block / 64] >> (block % 64) & 1 == 1;
        let mut keep = holes;
        for block in (0..shape.carved).filter(|&block| !is_free(block)) {
            let pages = shape.pages_of(block);
            keep |= if pages & holes == 0 { pages } else { 0 };
        }
        keep |= shape.untouched(span);
        let new = give(ground, &shape, shape.pages(0..shape.bytes) & !keep);
        if new == 0 {
            return;
        }
        // What the holes touch leaves the list, which is linked anew through the others.
        let mut list = core::ptr::null_mut();
        for block in (0..shape.carved).rev() {
            if is_free(block) && shape.pages_of(block) & new == 0 {
                (*shape.block(block)).next = list;
                list = shape.block(block);
            }
        }
        (*body).free = list;
        span.note().store(holes | new, Ordering::Relaxed);
        ground.heap.count_holes(Bytes(new.count_ones() as usize * shape.page), true);
    }
}

/// Has the system take the pages whose bits are set. Returns those that it took.
///
/// # Safety
/// Nobody needs what they hold.
unsafe fn give(ground: Ground<'_>, shape: &Shape, pages: u64) -> u64 {
    let (mut given, mut left) = (0, pages);
    while left != 0 {
        let from = left.trailing_zeros() as usize;
        let length = (left >> from).trailing_ones() as usize;
        let run = (u64::MAX >> (64 - length)) << from;
        left &= !run;
        // SAFETY: the caller's promise.
        let taken = unsafe {
            let at = shape.memory.add(from * shape.page);
            ground.heap.system().release(at, Bytes(length * shape.page))
        };
        given |= if taken.is_ok() { run } else { 0 };
    }
    given
}

/// Fills the holes of a span, and opens it. Returns whether the system gave the memory; if not, the span is as it was.
///
/// # Safety
/// See the head of this file.
pub(super) unsafe fn fill(ground: Ground<'_>, span: &Span, body: *mut BlockSpan, key: usize) -> bool {
    let holes = of(span);
    if holes == 0 {
        return true;
    }
    // SAFETY: the owner's lock is held, and the span is closed; the blocks that holes touch are nobody's.
    unsafe {
        let shape = Shape::of(ground.heap, span, body);
        if !ready(ground, &shape, holes) {
            return false;
        }
        for block in (0..shape.carved).rev().filter(|&block| shape.pages_of(block) & holes != 0) {
            let at = shape.block(block);
            at.write(FreeBlock { next: (*body).free, mark: mark(key, at) });
            (*body).free = at;
        }
        forget(ground, span);
        open(span, body);
    }
    true
}

unsafe fn ready(ground: Ground<'_>, shape: &Shape, holes: u64) -> bool {
    (0..64).filter(|page| holes >> page & 1 == 1).all(|page| {
        // SAFETY: a page of the span's, which nobody uses.
        unsafe { ground.heap.system().ready(shape.memory.add(page * shape.page), Bytes(shape.page)) }.is_ok()
    })
}

fn forget(ground: Ground<'_>, span: &Span) {
    let holes = span.note().swap(0, Ordering::Relaxed);
    let page = ground.heap.system().page_size().0;
    ground.heap.count_holes(Bytes(holes.count_ones() as usize * page), false);
}

/// Prepares a span with holes, which has no block in use, for being freed: the system takes all of it, so that every page
/// goes back as its own. Returns whether it did; if not, the holes are ready again.
///
/// # Safety
/// See the head of this file.
pub(super) unsafe fn dissolve(ground: Ground<'_>, span: &Span, body: *mut BlockSpan) -> bool {
    // SAFETY: nobody has a block of the span.
    unsafe {
        let given = ground.give_contents(span);
        if !given {
            // On Linux this cannot fail. A simulated system that refuses both has pages that count as ready and are not,
            // which nobody relies on: what is in them is undefined.
            ready(ground, &Shape::of(ground.heap, span, body), of(span));
        }
        forget(ground, span);
        given
    }
}

#[cfg(all(test, loom))]
mod loom_closing {
    use crate::base::sync::{AtomicU32, AtomicU64, Ordering, fence};
    use crate::base::{Lock, Rank};
    use loom::sync::Arc;

    const CARVED: u32 = 3;
    const MAGIC: u64 = 5;

    /// The words of a span that its owner's frees and whoever closes it have in common: a model, step for step, since
    /// the owner's are plain instructions, and no model checker knows of a barrier in every thread of a process.
    ///
    /// Such a barrier falls somewhere among the steps of a free. The fence between its first and second does what
    /// one there would do: in the order of all fences it comes before the closer's, whose look then sees the announcement,
    /// or after it, and then the magic is seen to be zero, as where the barrier came before the first step.
    struct Model {
        trip: AtomicU32,
        magic: AtomicU64,
        /// How many blocks the list has.
        list: AtomicU32,
        /// How many that others have freed wait.
        waiting: AtomicU32,
        local: Lock<Guarded>,
    }

    /// What the owner's `local` guards.
    #[derive(Default)]
    struct Guarded {
        withheld: u32,
        /// How often the span was freed.
        freed: u32,
    }

    impl Model {
        /// A span with so many blocks in use, and the others in its list.
        fn new(used: u32) -> Arc<Model> {
            Arc::new(Model {
                trip: AtomicU32::new(used),
                magic: AtomicU64::new(MAGIC),
                list: AtomicU32::new(CARVED - used),
                waiting: AtomicU32::new(0),
                local: Lock::new(Rank::Leaf, Guarded::default()),
            })
        }

        fn change(word: &AtomicU32, by: i32) {
            word.store(word.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
        }

        /// The owner frees a block.
        fn free(&self) {
            Model::change(&self.trip, -1);
            fence(Ordering::SeqCst);
            if self.magic.load(Ordering::Relaxed) == 0 {
                Model::change(&self.trip, 1);
                let _local = self.local.lock();
                Model::change(&self.list, 1);
                Model::change(&self.trip, -1);
                return;
            }
            Model::change(&self.list, 1);
            if self.trip.load(Ordering::Relaxed) == 0 {
                self.attend();
            }
        }

        /// The owner looks after the span, which seems to be empty, unless it is gone.
        fn attend(&self) {
            let mut local = self.local.lock();
            if local.freed == 0 && self.trip.load(Ordering::Relaxed) == 0 {
                local.freed += 1;
            }
        }

        /// Closes the span. Returns how many blocks are in use and how many in the list, if no free is under way.
        fn close(&self, local: &Guarded, barrier: bool) -> Option<(u32, u32)> {
            self.magic.store(0, Ordering::Relaxed);
            if barrier {
                fence(Ordering::SeqCst);
            }
            let used = self.trip.load(Ordering::Relaxed);
            let free = self.list.load(Ordering::Relaxed);
            (free + used + local.withheld == CARVED).then_some((used, free))
        }

        fn open(&self) {
            self.magic.store(MAGIC, Ordering::Relaxed);
        }

        /// Somebody else withholds what is free.
        fn punch(&self, barrier: bool) {
            let mut local = self.local.lock();
            match self.close(&local, barrier) {
                Some((_, free)) if free > 0 => {
                    local.withheld += free;
                    self.list.store(0, Ordering::Relaxed);
                }
                _ => self.open(),
            }
        }

        /// Somebody else frees the span, if all its blocks have come back.
        fn free_returned(&self) {
            let mut local = self.local.lock();
            match self.close(&local, true) {
                // Another span may be in its place at once.
                Some((used, _)) if used > 0 && used == self.waiting.load(Ordering::Acquire) => {
                    local.freed += 1;
                    self.trip.store(0, Ordering::Relaxed);
                }
                _ => self.open(),
            }
        }
    }

    /// The owner frees two blocks while the span, which has one free block, is tended: none is lost.
    fn two_frees_beside_a_tender(barrier: bool) {
        loom::model(move || {
            let model = Model::new(CARVED - 1);
            let owner = {
                let model = model.clone();
                loom::thread::spawn(move || {
                    model.free();
                    model.free();
                })
            };
            model.punch(barrier);
            owner.join().unwrap();
            let (used, listed) = (model.trip.load(Ordering::Relaxed), model.list.load(Ordering::Relaxed));
            assert_eq!((used, listed + model.local.lock().withheld), (0, CARVED), "a block was lost");
        });
    }

    #[test]
    fn loom_no_free_is_lost_in_a_span_that_is_closed() {
        two_frees_beside_a_tender(true);
    }

    #[test]
    #[should_panic(expected = "a block was lost")]
    fn loom_without_the_barrier_one_is() {
        two_frees_beside_a_tender(false);
    }

    /// Of two blocks in use the owner frees one and another thread the other one, while the span is tended: it is freed
    /// at most once, and only when both are.
    #[test]
    fn loom_a_span_that_came_back_is_freed_once() {
        loom::model(|| {
            let model = Model::new(2);
            let owner = {
                let model = model.clone();
                loom::thread::spawn(move || model.free())
            };
            let other = {
                let model = model.clone();
                loom::thread::spawn(move || model.waiting.fetch_add(1, Ordering::Release))
            };
            model.free_returned();
            owner.join().unwrap();
            other.join().unwrap();
            model.free_returned();
            let freed = model.local.lock().freed;
            assert_eq!(freed, 1, "both blocks are free");
        });
    }
}
