//! Giving free pages back to the system.
//!
//! Pages go from the top of the heap down, a *batch* of runs at a time: under the lock of pages the allocator hands out
//! some runs, as if somebody used them; without it the system takes their memory; under it again they become
//! free and released. So the lock is taken twice a batch, and never held across a system call. What the system refuses
//! (a program may have locked its memory) becomes free again as it was.
//!
//! Who gives how much, and when, is not decided here. Who asked is counted, for the statistics.
//!
//! # Safety
//! System calls are made on pages that the allocator holds for this thread alone.

use super::heap::{Ground, PageHeap};
use super::record::Span;
use crate::base::sync::{AtomicU64, Ordering};
use crate::base::{Bytes, PageId, Pages};
use crate::page::CACHE_PAGES;
use crate::stats::Account;

/// Runs that are given back between two holds of the lock.
const BATCH: usize = 16;

/// Why memory is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// In the background, from chunks where it is worth while.
    InBackground,
    /// In the background, from everywhere: nobody uses the heap, or it nears its limit.
    Everywhere,
    /// By a thread that grows the heap at its limit.
    AtLimit,
    /// Because the program asked.
    OnRequest,
}

/// Bytes that were ever given back, by who asked.
#[derive(Default)]
#[repr(C)]
pub(super) struct Given {
    background: AtomicU64,
    at_limit: AtomicU64,
    on_request: AtomicU64,
    /// Bytes inside spans in use that the system has now: see [`PageHeap::count_holes`].
    holes: AtomicU64,
}

/// Bytes that a heap has given back so far, by who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Released {
    /// The scavenger.
    pub in_background: u64,
    /// Threads that met the heap's limit.
    pub at_limit: u64,
    /// The program.
    pub on_request: u64,
}

impl Given {
    fn count(&self, why: Release, bytes: Bytes) {
        let word = match why {
            Release::InBackground | Release::Everywhere => &self.background,
            Release::AtLimit => &self.at_limit,
            Release::OnRequest => &self.on_request,
        };
        word.fetch_add(bytes.0 as u64, Ordering::Relaxed);
    }
}

impl PageHeap {
    /// Bytes given back so far.
    pub fn released(&self) -> Released {
        Released {
            in_background: self.given.background.load(Ordering::Relaxed),
            at_limit: self.given.at_limit.load(Ordering::Relaxed),
            on_request: self.given.on_request.load(Ordering::Relaxed),
        }
    }

    /// Free pages that the heap keeps, without those in page caches.
    pub fn free_pages(&self) -> Pages {
        self.pages.lock().allocator.releasable_pages()
    }

    /// Bytes inside spans in use that their holders have given back to the system. They stand in the books as bytes
    /// of their spans.
    pub fn holes(&self) -> Bytes {
        Bytes(self.given.holes.load(Ordering::Relaxed) as usize)
    }

    /// Notes that a holder has given bytes of its span back to the system, or is about to use such bytes.
    pub fn count_holes(&self, bytes: Bytes, more: bool) {
        if more {
            self.given.holes.fetch_add(bytes.0 as u64, Ordering::Relaxed);
            self.given.count(Release::InBackground, bytes);
        } else {
            self.given.holes.fetch_sub(bytes.0 as u64, Ordering::Relaxed);
        }
    }

    /// Begins the next generation: see [`crate::page`].
    pub fn next_generation(&self) {
        self.pages.lock().allocator.next_generation();
    }

    /// The highest page there is: where giving back begins. `None` while there is none.
    pub fn top(&self) -> Option<PageId> {
        self.pages.lock().allocator.top()
    }
}

impl Ground<'_> {
    /// Gives up to `most` free bytes back to the system, from the top of the heap down. Returns how many it gave: a
    /// little more where a huge page would have been cut in two.
    pub fn release(&self, most: Bytes, why: Release) -> Bytes {
        let mut below = PageId(usize::MAX);
        self.release_below(&mut below, most, why)
    }

    /// As [`Ground::release`], beginning at or below `below`, which is moved down to where the next call goes on.
    pub fn release_below(&self, below: &mut PageId, most: Bytes, why: Release) -> Bytes {
        let mut done = Bytes::ZERO;
        while done < most {
            let mut batch = Batch::EMPTY;
            self.fill(&mut batch, below, (most - done).pages_ceil(), why);
            if batch.count == 0 {
                break;
            }
            let refused;
            (done, refused) = self.give(&mut batch, done);
            // The allocator looks at whole words of its bitmap, and would find the same pages again.
            match refused.map(|page| (page.0 / CACHE_PAGES * CACHE_PAGES).checked_sub(1)) {
                Some(Some(next)) => *below = (*below).min(PageId(next)),
                Some(None) => break,
                None => {}
            }
        }
        self.heap.given.count(why, done);
        done
    }

    /// Has the system take the contents of a span in use, all of whose pages are clean then. Returns whether it did.
    ///
    /// # Safety
    /// The caller holds the span, and nobody needs what it holds.
    pub unsafe fn give_contents(&self, span: &Span) -> bool {
        // SAFETY: the caller's promise.
        let given = unsafe { self.heap.region.release(span.page(), span.pages()) }.is_ok();
        if given {
            span.set_all_clean();
        }
        given
    }

    /// Takes runs of pages from the allocator.
    fn fill(&self, batch: &mut Batch, below: &mut PageId, most: Pages, why: Release) {
        let mut state = self.heap.pages.lock();
        let mut pages = Pages(0);
        while batch.count < BATCH && pages < most {
            let wanted = most - pages;
            let taken = match why {
                Release::InBackground => state.allocator.take_worthwhile(*below, wanted),
                Release::Everywhere | Release::AtLimit | Release::OnRequest => {
                    state.allocator.take_releasable(*below, wanted)
                }
            };
            let Some((page, run)) = taken else { break };
            *below = page;
            batch.runs[batch.count] = (page, run, false);
            batch.count += 1;
            pages += run;
        }
    }

    /// Has the system take the memory of a batch, and gives its pages back to the allocator. Returns `before` and what
    /// was given, and the lowest page that the system refused.
    fn give(&self, batch: &mut Batch, before: Bytes) -> (Bytes, Option<PageId>) {
        let (mut done, mut refused) = (Bytes::ZERO, None);
        for (page, pages, given) in &mut batch.runs[..batch.count] {
            // SAFETY: the allocator holds these pages for us: they are neither free for others nor in a span.
            *given = unsafe { self.heap.region.release(*page, *pages) }.is_ok();
            if *given {
                done += pages.bytes();
            }
        }
        // The entry comes before the pages are free for others.
        self.ledger.transfer(Account::Free, Account::Released, done);
        self.heap.committed.fetch_sub(done.0, Ordering::Relaxed);
        let mut state = self.heap.pages.lock();
        for &(page, pages, given) in &batch.runs[..batch.count] {
            if given {
                state.allocator.free_released(page, pages);
            } else {
                state.allocator.free(page, pages);
                refused = Some(page);
            }
        }
        (before + done, refused)
    }
}

/// Runs that the allocator holds for us: where, how long, and whether the system has taken them.
struct Batch {
    runs: [(PageId, Pages, bool); BATCH],
    count: usize,
}

impl Batch {
    const EMPTY: Batch = Batch { runs: [(PageId(0), Pages(0), false); BATCH], count: 0 };
}
