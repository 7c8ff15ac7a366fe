//! The proof, by looking at everything, that the room's invariants hold.
//!
//! The numbers are those of the room's list.
//!
//! # Safety
//! The walk reads what the pool's lock guards, so its caller holds it.

use super::StackPool;
use super::cache::{StackCache, kept};
use super::class::Guard;
use super::pool::Kind;
use super::slab::{Phase, Slab, StackId};
use crate::base::purpose::{STACK_KINDS, StackKind};
use crate::base::sync::Ordering::Relaxed;
use crate::base::{Broken, Invariant};
use crate::span::{Meters, PageHeap, SpanId};
use crate::stats::{Figures, StackFigure};

const OF_SLABS: Invariant = Invariant("stack", 1);
const OF_STACKS: Invariant = Invariant("stack", 2);
const OF_LISTS: Invariant = Invariant("stack", 3);
const OF_BOOKS: Invariant = Invariant("stack", 4);
const OF_GUARDS: Invariant = Invariant("stack", 5);

const PHASES: usize = 4;

/// What the slabs of a kind add up to.
#[derive(Clone, Copy, Default)]
struct Totals {
    /// Bytes of stacks, by phase.
    bytes: [usize; PHASES],
    /// Stacks, by phase.
    stacks: [usize; PHASES],
    /// Slabs with some free stacks and some others.
    partial: usize,
    /// Slabs with free stacks alone.
    empty: usize,
    /// Bytes of those.
    idle: usize,
}

impl StackPool {
    /// Walks everything and proves the room's invariants. `figures` is a reading of the books, and `caches` are those of
    /// all mutators.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    ///
    /// # Safety
    /// This thread called [`StackPool::acquire_for_fork`] and holds the locks of all mutators; `figures` was read since.
    pub unsafe fn check<'a>(
        &self,
        heap: &PageHeap,
        meters: &Meters,
        figures: &Figures,
        caches: impl Iterator<Item = &'a StackCache>,
    ) -> Result<(), Broken> {
        let mut kinds = [Totals::default(); STACK_KINDS];
        let (mut slabs, mut guards) = (0, 0);
        for (number, slab) in self.live() {
            slabs += 1;
            self.check_slab(heap, meters, number, slab)?;
            add(&mut kinds[slab.kind().index()], number, slab)?;
            if slab.class().guard() == Guard::Yes {
                guards += slab.count();
            }
        }
        OF_GUARDS.equal("guards in place are those of the slabs", ("heap", 0), guards, self.guards())?;
        self.check_records(slabs)?;
        let mut cached = [0; STACK_KINDS];
        for cache in caches {
            self.check_cache(cache, &mut cached)?;
        }
        for kind in StackKind::all() {
            let (subject, totals) = (("kind of stacks", kind.index()), &kinds[kind.index()]);
            let text = "stacks in the caches are those that say so";
            OF_STACKS.equal(text, subject, cached[kind.index()], totals.stacks[Phase::Cached as usize])?;
            check_books(kind, totals, figures)?;
            if let Some(lists) = self.kind(kind) {
                self.check_lists(kind, lists, totals)?;
            }
        }
        Ok(())
    }

    /// 1.
    fn check_slab(&self, heap: &PageHeap, meters: &Meters, number: u32, slab: &Slab) -> Result<(), Broken> {
        let subject = ("slab", number as usize);
        let Some(span) = heap.span(SpanId(slab.span.load(Relaxed))).filter(|span| span.is_in_use()) else {
            return OF_SLABS.equal("a slab's span is in use", subject, 0, 1);
        };
        let word = span.word().load(Relaxed) as usize;
        OF_SLABS.equal("a slab's span names it", subject, word, number as usize)?;
        OF_SLABS.equal("a slab lies where its span lies", subject, slab.page().0, span.page().0)?;
        let (pages, wanted) = (span.pages().0, slab.class().pages().0);
        OF_SLABS.equal("a slab is as long as its class says", subject, pages, wanted)?;
        let kind = meters.stack_kind(span.purpose()).map_or(STACK_KINDS, StackKind::index);
        OF_SLABS.equal("a slab's purpose is that of its kind", subject, kind, slab.kind().index())?;
        OF_SLABS.at_most("a slab has stacks", subject, 1, slab.count())?;
        OF_SLABS.at_most("a slab has no more than fit", subject, slab.count(), slab.class().in_slab())
    }

    /// Every record that was given out has a slab, or waits for one.
    fn check_records(&self, slabs: usize) -> Result<(), Broken> {
        // SAFETY: this thread holds the lock, and nobody else has a reference to what it guards.
        let (fresh, unused) = unsafe { (self.state.held_mut().fresh, self.state.held_mut().unused) };
        let mut count = 0;
        for number in self.chain(unused) {
            count += 1;
            let span = self.slab(number).span.load(Relaxed) as usize;
            OF_SLABS.equal("an unused record has no span", ("slab", number as usize), span, 0)?;
            OF_SLABS.at_most(
                "the list of unused records ends",
                ("slab", number as usize),
                count,
                fresh as usize,
            )?;
        }
        OF_SLABS.equal("slabs and unused records are all", ("heap", 0), slabs + count, fresh as usize - 1)
    }

    /// 2, for what a cache holds.
    fn check_cache(&self, cache: &StackCache, cached: &mut [usize; STACK_KINDS]) -> Result<(), Broken> {
        for (kind, class, first, count) in cache.bins() {
            let mut found = 0;
            for stack in self.stacks_from(first) {
                let (subject, slab) = (("stack", stack.0 as usize), self.slab(stack.slab()));
                let phase = self.record(stack).phase() as usize;
                OF_STACKS.equal("a stack in a cache says so", subject, phase, Phase::Cached as usize)?;
                let of = (slab.class().index(), slab.kind().index());
                OF_STACKS.equal("it is of the list's class", subject, of.0, class.index())?;
                OF_STACKS.equal("it is of the list's kind", subject, of.1, kind.index())?;
                found += 1;
                OF_STACKS.at_most("a cache keeps no more than it may", subject, found, kept(class))?;
            }
            OF_STACKS.equal("a cache counts its stacks", ("class of stacks", class.index()), found, count)?;
            cached[kind.index()] += found;
        }
        Ok(())
    }

    /// 3, and 2 for what is parked.
    fn check_lists(&self, kind: StackKind, lists: &Kind, totals: &Totals) -> Result<(), Broken> {
        let subject = ("kind of stacks", kind.index());
        let mut found = [0, 0];
        for (which, heads) in [&lists.partial, &lists.empty].into_iter().enumerate() {
            for (class, head) in heads.iter().enumerate() {
                let mut before = 0;
                for number in self.chain(head.load(Relaxed)) {
                    let (subject, slab) = (("slab", number as usize), self.slab(number));
                    let is_empty = usize::from(slab.free.load(Relaxed) == slab.all());
                    OF_LISTS.equal("a slab is among its like", subject, is_empty, which)?;
                    OF_LISTS.equal("a slab is in its class's list", subject, slab.class().index(), class)?;
                    OF_LISTS.equal(
                        "a slab is in its kind's list",
                        subject,
                        slab.kind().index(),
                        kind.index(),
                    )?;
                    let back = slab.before.load(Relaxed);
                    OF_LISTS.equal("links lead back", subject, back as usize, before as usize)?;
                    before = number;
                    found[which] += 1;
                    OF_LISTS.at_most("lists end", subject, found[which], totals.partial + totals.empty)?;
                }
            }
        }
        OF_LISTS.equal("slabs with some free stacks are listed", subject, found[0], totals.partial)?;
        OF_LISTS.equal("empty slabs are listed", subject, found[1], totals.empty)?;
        OF_LISTS.equal("empty slabs are counted", subject, lists.idle.load(Relaxed), totals.idle)?;
        let parked = self.stacks_from(StackId(lists.parked.load(Relaxed)));
        let all = totals.stacks[Phase::Parked as usize];
        let count = parked.take(all + 1).filter(|&stack| self.record(stack).phase() == Phase::Parked).count();
        OF_STACKS.equal("parked stacks are in the list", subject, count, all)
    }
}

/// Adds a slab to its kind's totals; 2 for its stacks.
fn add(totals: &mut Totals, number: u32, slab: &Slab) -> Result<(), Broken> {
    let free = slab.free.load(Relaxed);
    for (place, stack) in slab.stacks.iter().take(slab.count()).enumerate() {
        let phase = stack.phase();
        let subject = ("stack", StackId::new(number, place).0 as usize);
        let is_free = usize::from(phase == Phase::Free);
        OF_STACKS.equal("a free stack's bit says so", subject, usize::from(free >> place & 1), is_free)?;
        totals.stacks[phase as usize] += 1;
        totals.bytes[phase as usize] += slab.class().size().0;
    }
    OF_STACKS.equal(
        "no bit stands beyond the stacks",
        ("slab", number as usize),
        (free & !slab.all()).into(),
        0,
    )?;
    if free == slab.all() {
        totals.empty += 1;
        totals.idle += slab.class().pages().bytes().0;
    } else if free != 0 {
        totals.partial += 1;
    }
    Ok(())
}

/// 4.
fn check_books(kind: StackKind, totals: &Totals, figures: &Figures) -> Result<(), Broken> {
    for (phase, figure) in [
        (Phase::Free, StackFigure::Free),
        (Phase::Cached, StackFigure::Cached),
        (Phase::InUse, StackFigure::InUse),
        (Phase::Parked, StackFigure::Parked),
    ] {
        let (found, booked) = (totals.bytes[phase as usize], figures.stacks(kind, figure) as usize);
        OF_BOOKS.equal("bytes of stacks are booked", ("kind of stacks", kind.index()), found, booked)?;
    }
    let handed = figures.stacks(kind, StackFigure::Allocated) - figures.stacks(kind, StackFigure::Freed);
    let found = totals.stacks[Phase::InUse as usize];
    OF_BOOKS.equal("stacks in use are booked", ("kind of stacks", kind.index()), found, handed as usize)
}
