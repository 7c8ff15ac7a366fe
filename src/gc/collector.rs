//! What the markers of a heap share: the phase, the lists of work, the roots, and the counts.
//!
//! # Safety
//! What is destroyed is the collector's own.

use super::kernel::Kernel;
use super::mark::Progress;
use super::roots::Roots;
use super::terminate::Census;
use super::work::{Supply, WorkBuffers};
use crate::base::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::os::{System, SystemError};
use crate::span::{Ground, SpanCache};
use crate::stats::Ledger;

/// What the collector is doing, as far as barriers and markers are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// No marking. Objects may be swept.
    Off = 0,
    /// Marking: barriers are on, slots are handed out black, no object span goes away.
    Mark = 1,
}

/// The shared half of marking. See the [room's essay](super).
pub struct Collector {
    phase: AtomicU8,
    kernel: Kernel,
    pub(super) buffers: WorkBuffers,
    /// Registered ranges.
    pub roots: Roots,
    pub(super) census: Census,
    /// Markers that wait for work.
    pub(super) idle: AtomicU32,
    /// Whether an entry was dropped for want of memory.
    pub(super) lost: AtomicBool,
    /// Bytes that were scanned in the background and that no mutator has been let off yet.
    credit: AtomicU64,
    totals: Totals,
}

/// What all markers have reported in this cycle.
#[derive(Default)]
#[repr(align(64))]
struct Totals {
    marked_bytes: AtomicU64,
    marked_objects: AtomicU64,
    scanned: [AtomicU64; 3],
}

impl Collector {
    /// A collector that has nothing to do.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn reserve(system: System, ledger: Ledger<'_>) -> Result<Collector, SystemError> {
        Ok(Collector {
            phase: AtomicU8::new(Phase::Off as u8),
            kernel: Kernel::best(),
            buffers: WorkBuffers::new(),
            roots: Roots::reserve(system, ledger)?,
            census: Census::new(),
            idle: AtomicU32::new(0),
            lost: AtomicBool::new(false),
            credit: AtomicU64::new(0),
            totals: Totals::default(),
        })
    }

    /// The phase.
    #[inline]
    pub fn phase(&self) -> Phase {
        if self.phase.load(Ordering::Relaxed) == Phase::Off as u8 { Phase::Off } else { Phase::Mark }
    }

    /// How words are read.
    #[inline]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Reads words in another way, one that the processor knows: to compare.
    ///
    /// # Panics
    /// When the processor cannot run it.
    pub fn set_kernel(&mut self, kernel: Kernel) {
        assert!(kernel.runs_here(), "{kernel:?} does not run on this processor");
        self.kernel = kernel;
    }

    /// The work buffers, to make a [`Supply`] of.
    pub fn buffers(&self) -> &WorkBuffers {
        &self.buffers
    }

    /// What a marker needs to get and give buffers.
    pub fn supply<'a>(&'a self, ground: Ground<'a>, spans: &'a mut SpanCache) -> Supply<'a> {
        Supply { buffers: &self.buffers, ground, spans }
    }

    /// Begins a cycle: forgets the counts of the last one, and divides the roots into jobs. The world stands still;
    /// everything is swept; the caller turns the barriers on and has the mutators' caches made black.
    pub fn begin(&self) {
        debug_assert_eq!(self.phase(), Phase::Off, "marking began twice");
        self.lost.store(false, Ordering::Relaxed);
        self.credit.store(0, Ordering::Relaxed);
        self.totals.all().for_each(|total| total.store(0, Ordering::Relaxed));
        self.roots.divide();
        self.phase.store(Phase::Mark as u8, Ordering::Release);
    }

    /// Ends a cycle: all work buffers can go back from here on. The world stands still, every mutator has emptied its
    /// barrier buffer, every worker has left, and the collector is quiet. Returns what all came to.
    pub fn end(&self, ground: &Ground<'_>) -> Progress {
        debug_assert!(self.is_quiet() && self.phase() == Phase::Mark, "marking ended early");
        self.phase.store(Phase::Off as u8, Ordering::Release);
        // SAFETY: nobody marks, and the world stands still.
        unsafe { self.buffers.retire(ground) };
        self.progress()
    }

    /// Gives up to `most` spans of work buffers back. Returns whether some are left.
    ///
    /// # Safety
    /// Nobody marks, nor begins to before this returns.
    pub unsafe fn give_back_buffers(&self, ground: &Ground<'_>, spans: &mut SpanCache, most: usize) -> bool {
        debug_assert_eq!(self.phase(), Phase::Off);
        // SAFETY: the caller's promise; `end` has retired the buffers.
        unsafe { self.buffers.give_back(ground, spans, most) }
    }

    /// So many bytes were scanned in the background: mutators need not do as much themselves.
    pub fn earn(&self, bytes: u64) {
        self.credit.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes up to `wanted` bytes of what was earned; returns how many.
    pub fn spend(&self, wanted: u64) -> u64 {
        let take = |credit: u64| (credit > 0).then(|| credit - credit.min(wanted));
        let before = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_or(0, |credit| credit.min(wanted))
    }

    /// Whether there is work that a marker could take.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.buffers.are_idle() || !self.roots.are_taken() || self.lost.load(Ordering::Relaxed)
    }

    /// Whether some marker waits for work.
    #[inline]
    pub fn is_somebody_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed) != 0
    }

    /// Whether there was no work at one moment during the call, with no marker and on no list: then there is none until
    /// a mutator brings some from its barrier buffer, or adds a root.
    pub fn is_quiet(&self) -> bool {
        self.census.is_quiet(|| {
            self.buffers.are_idle() && self.roots.are_taken() && !self.lost.load(Ordering::Acquire)
        })
    }

    /// Grows whenever somebody has put work where others find it. Unchanged while every mutator emptied its barrier
    /// buffer: nothing came of it.
    pub fn brought(&self) -> usize {
        self.buffers.shared() + usize::from(self.lost.load(Ordering::Acquire))
    }

    /// What markers have reported in this cycle, or in the last one.
    pub fn progress(&self) -> Progress {
        Progress {
            marked_bytes: self.totals.marked_bytes.load(Ordering::Relaxed),
            marked_objects: self.totals.marked_objects.load(Ordering::Relaxed),
            scanned: core::array::from_fn(|source| self.totals.scanned[source].load(Ordering::Relaxed)),
        }
    }

    pub(super) fn add(&self, progress: &Progress) {
        let Progress { marked_bytes, marked_objects, scanned } = *progress;
        let figures = [marked_bytes, marked_objects].into_iter().chain(scanned);
        for (total, figure) in self.totals.all().zip(figures).filter(|(_, figure)| *figure != 0) {
            total.fetch_add(figure, Ordering::Relaxed);
        }
    }

    /// Gives the memory of the tables back; work buffers go with the page heap.
    ///
    /// # Safety
    /// Nobody uses the collector any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.roots.destroy() }
    }
}

impl Totals {
    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        [&self.marked_bytes, &self.marked_objects].into_iter().chain(&self.scanned)
    }
}
