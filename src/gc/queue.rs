//! The queue of pages, and who looks after a page.
//!
//! Small objects are not queued one by one. What is queued is their *page*, once, and marks gather there while it
//! waits; then all its marked objects are scanned in one go, in the order of their addresses. So the queue is first
//! in, first out, as long as possible, and a page stays in it as long as possible. (The idea is Go's, of 1.26, called
//! Green Tea.)
//!
//! ## Who looks after a page
//!
//! A page in the queue is *owned*. Whoever sets a mark there and finds the page without an owner queues it:
//!
//! ```text
//!             first mark               another mark
//!   NOBODY ───────────────▶ ONE ─────────────────────▶ MANY
//!      ▲    page is queued   │    nothing to queue      │
//!      └─────────────────────┴──────── let go ──────────┘
//! ```
//!
//! Who scans lets go *first*, and reads the marks *then*. A mark that it does not see was set by somebody who finds the
//! page without an owner and queues it again; in the other order, a mark between the two would be nobody's. Dekker's
//! pattern: mark, then look at the owner; let go, then look at the marks. One of the two sees the other.
//!
//! A page that got a single mark while it waited need not have its marks looked at: the entry knows which object.
//!
//! 1. A page with an owner is in one queue, or with the marker that is about to let it go.
//! 2. A mark without its scan is on an owned page, or with a marker that is about to scan it or to queue the page,
//!    unless an entry was lost for want of memory (then the collector knows that it has to search).
//! 3. Of two scanners of one page, the bits that each sets in *scans* decide who scans an object: exactly one.
//!
//! ## The queue
//!
//! A chain of [work buffers](super::work): pages go in at the tail and come out at the head. A marker gives the oldest
//! to others when they have nothing to do.
//!
//! # Safety
//! The buffers of the chain are the queue's own.

use super::work::{Of, Supply, WorkBuffer};
use crate::base::Exhausted;
use crate::base::sync::{AtomicU32, Ordering};
use core::ptr;

/// A page that got its first mark since somebody let it go: its number, and which object that was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(pub(super) u64);

impl Entry {
    /// An entry for a page, and the index of the object that was marked.
    #[inline]
    pub const fn new(page: usize, index: usize) -> Entry {
        Entry((page as u64) << 16 | index as u64)
    }

    /// The page.
    #[inline]
    pub const fn page(self) -> usize {
        (self.0 >> 16) as usize
    }

    /// The object that was marked first.
    #[inline]
    pub const fn index(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

const NOBODY: u32 = 0;
const ONE: u32 = 1;
const MANY: u32 = 2;

/// The side of Dekker's pattern that has written and is about to look. The operations on both sides are sequentially
/// consistent, which costs nothing beside the exchanges that they are; loom knows only fences to be so.
#[inline(always)]
fn written() {
    #[cfg(loom)]
    crate::base::sync::fence(Ordering::SeqCst);
}

/// After setting a mark on a page: whether the caller has to queue it.
#[inline]
pub fn acquire(owned: &AtomicU32) -> bool {
    written();
    match owned.load(Ordering::SeqCst) {
        NOBODY => owned.fetch_or(ONE, Ordering::SeqCst) == NOBODY || is_first_of_many(owned),
        ONE => is_first_of_many(owned),
        _ => false,
    }
}

/// Notes a second mark. The page may have been let go meanwhile.
#[inline]
fn is_first_of_many(owned: &AtomicU32) -> bool {
    owned.fetch_or(MANY, Ordering::SeqCst) == NOBODY
}

/// Before the marks of a page are read. Returns whether the page got a single mark since it was queued.
#[inline]
pub fn let_go(owned: &AtomicU32) -> bool {
    let was_one = owned.swap(NOBODY, Ordering::SeqCst) == ONE;
    written();
    was_one
}

/// A marker's queue. Zeroed memory is an empty one.
pub struct Queue {
    head: *mut WorkBuffer,
    tail: *mut WorkBuffer,
    /// An empty buffer at hand.
    spare: *mut WorkBuffer,
}

impl Queue {
    /// An empty queue, without buffers.
    pub const fn new() -> Queue {
        Queue { head: ptr::null_mut(), tail: ptr::null_mut(), spare: ptr::null_mut() }
    }

    /// Whether there is nothing in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Buffers of the chain have entries, but for one that is alone.
        // SAFETY: the queue's own.
        self.head.is_null() || unsafe { (*self.head).is_empty() }
    }

    /// Whether it has buffers at hand, be they empty.
    pub fn has_buffers(&self) -> bool {
        !self.head.is_null() || !self.spare.is_null()
    }

    /// Whether it has more than one buffer, so that it can give one away whole.
    #[inline]
    pub fn is_long(&self) -> bool {
        self.head != self.tail
    }

    /// Puts a page in, at the tail.
    ///
    /// # Errors
    /// There is no memory for it; nothing has changed.
    #[inline]
    pub fn put(&mut self, entry: Entry, supply: &mut Supply<'_>) -> Result<(), Exhausted> {
        // SAFETY: the queue's own.
        if !self.tail.is_null() && unsafe { (*self.tail).push(entry.0) } {
            return Ok(());
        }
        self.put_slowly(entry, supply)
    }

    #[cold]
    fn put_slowly(&mut self, entry: Entry, supply: &mut Supply<'_>) -> Result<(), Exhausted> {
        let buffer = match core::mem::replace(&mut self.spare, ptr::null_mut()) {
            spare if spare.is_null() => supply.take()?,
            spare => spare,
        };
        // SAFETY: taken for this queue, and empty.
        unsafe { (*buffer).push(entry.0) };
        self.append(buffer, supply);
        Ok(())
    }

    /// Puts a buffer with entries behind all others.
    fn append(&mut self, buffer: *mut WorkBuffer, supply: &Supply<'_>) {
        supply.chain(buffer, ptr::null_mut());
        if self.head.is_null() {
            self.head = buffer;
        } else {
            supply.chain(self.tail, buffer);
        }
        self.tail = buffer;
    }

    /// Takes the page that waits longest.
    #[inline]
    pub fn get(&mut self, supply: &mut Supply<'_>) -> Option<Entry> {
        if self.head.is_null() {
            return None;
        }
        // SAFETY: the queue's own.
        let entry = unsafe { (*self.head).pop_first()? };
        // SAFETY: as above.
        if self.head != self.tail && unsafe { (*self.head).is_empty() } {
            self.drop_head(supply);
        }
        Some(Entry(entry))
    }

    #[cold]
    fn drop_head(&mut self, supply: &mut Supply<'_>) {
        let next = supply.next(self.head);
        let emptied = core::mem::replace(&mut self.head, next);
        if self.spare.is_null() {
            self.spare = emptied;
        } else {
            // SAFETY: the queue's own, and empty.
            unsafe { supply.give(emptied) };
        }
    }

    /// The page that will come out `ahead` places after the next one, if that can be told at once.
    #[inline]
    pub fn peek(&self, ahead: usize) -> Option<Entry> {
        if self.head.is_null() {
            return None;
        }
        // SAFETY: the queue's own.
        unsafe { (*self.head).peek(ahead).map(Entry) }
    }

    /// Takes a full buffer from the others, when the queue is empty. Returns whether there was one.
    pub fn refill(&mut self, supply: &mut Supply<'_>) -> bool {
        debug_assert!(self.is_empty());
        let Some(buffer) = supply.take_full(Of::Pages) else { return false };
        let empty = core::mem::replace(&mut self.head, ptr::null_mut());
        self.tail = ptr::null_mut();
        // SAFETY: the queue's own, and empty.
        unsafe { supply.put_away(Of::Pages, empty) };
        self.append(buffer, supply);
        true
    }

    /// Lets others have a part: the oldest buffer of several, else half of the only one. Returns whether it had
    /// enough for two.
    pub fn split(&mut self, supply: &mut Supply<'_>) -> bool {
        if self.head.is_null() {
            return false;
        }
        // SAFETY: the queue's own.
        unsafe {
            if self.head != self.tail {
                let next = supply.next(self.head);
                let oldest = core::mem::replace(&mut self.head, next);
                supply.share(Of::Pages, oldest);
                return true;
            }
            if (*self.head).len() < 2 {
                return false;
            }
            let Ok(half) = supply.take() else { return false };
            (*self.head).split(&mut *half);
            supply.share(Of::Pages, half);
            true
        }
    }

    /// Puts everything where others find it.
    pub fn put_away(&mut self, supply: &mut Supply<'_>) {
        while !self.head.is_null() {
            let next = if self.head == self.tail { ptr::null_mut() } else { supply.next(self.head) };
            // SAFETY: the queue's own.
            unsafe { supply.put_away(Of::Pages, core::mem::replace(&mut self.head, next)) };
        }
        self.tail = ptr::null_mut();
        // SAFETY: the queue's own, and empty.
        unsafe { supply.put_away(Of::Pages, core::mem::replace(&mut self.spare, ptr::null_mut())) };
    }
}

impl Default for Queue {
    fn default() -> Queue {
        Queue::new()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::sync::AtomicU64;
    use loom::sync::Arc;

    /// A page of some objects. The queue is a count: an entry that is put in is one more to come out.
    struct Page {
        owned: AtomicU32,
        marks: AtomicU64,
        scans: AtomicU64,
        queued: AtomicU64,
        scanned: AtomicU64,
    }

    impl Page {
        fn new() -> Arc<Page> {
            let zero = || AtomicU64::new(0);
            let owned = AtomicU32::new(NOBODY);
            Arc::new(Page { owned, marks: zero(), scans: zero(), queued: zero(), scanned: zero() })
        }

        fn mark(&self, object: u32) {
            if self.marks.fetch_or(1 << object, Ordering::SeqCst) >> object & 1 == 0 && acquire(&self.owned) {
                // The entry: which object it was, above a bit that says that there is one.
                let before = self.queued.swap(u64::from(object) << 1 | 1, Ordering::AcqRel);
                assert_eq!(before, 0, "a page is in the queue twice");
            }
        }

        fn scan(&self) {
            let entry = self.queued.swap(0, Ordering::AcqRel);
            if entry == 0 {
                return;
            }
            let wanted =
                if let_go(&self.owned) { 1 << (entry >> 1) } else { self.marks.load(Ordering::SeqCst) };
            let mine = wanted & !self.scans.fetch_or(wanted, Ordering::AcqRel);
            let before = self.scanned.fetch_add(mine, Ordering::AcqRel);
            assert_eq!(before & mine, 0, "an object was scanned twice");
        }
    }

    #[test]
    fn loom_every_mark_is_scanned_once() {
        loom::model(|| {
            let page = Page::new();
            page.mark(0);
            let marker = {
                let page = page.clone();
                loom::thread::spawn(move || page.mark(1))
            };
            let scanner = {
                let page = page.clone();
                loom::thread::spawn(move || page.scan())
            };
            page.mark(2);
            marker.join().unwrap();
            scanner.join().unwrap();
            page.scan();
            assert_eq!(page.scanned.load(Ordering::Acquire), 0b111, "a mark was lost");
            assert_eq!(page.owned.load(Ordering::Acquire), NOBODY);
        });
    }

    #[test]
    fn loom_two_scanners_share_out_a_page() {
        loom::model(|| {
            let page = Page::new();
            page.mark(0);
            let others: Vec<_> = (0..2)
                .map(|at| {
                    let page = page.clone();
                    loom::thread::spawn(move || {
                        page.scan();
                        page.mark(1 + at);
                    })
                })
                .collect();
            others.into_iter().for_each(|other| other.join().unwrap());
            page.scan();
            assert_eq!(page.scanned.load(Ordering::Acquire), 0b111, "a mark was lost");
        });
    }
}
