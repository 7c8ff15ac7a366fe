//! What a mutator does with stacks: take, free, flush, release.
//!
//! A cache has a list for each kind of stacks and each small class. Taking from it and freeing into it costs neither the
//! pool's lock nor a system call. An empty list takes a batch from the pool; one that has grown too long gives a
//! batch back. Large stacks go to the pool directly: they are rare, and each may hold much memory.
//!
//! The newest stack is taken first, since its memory is there already.
//!
//! # Safety
//! Memory of a stack is given back to the system, and guards are set and taken away, only while this room holds the
//! stack: in a slab that nobody knows yet, or taken out of its slab.

use super::StackError;
use super::class::{Guard, MOST, SMALL_CLASSES, StackClass};
use super::pool::{MOST_IDLE, StackPool};
use super::slab::{Activity, Guards, Phase, Slab, StackId};
use crate::base::purpose::{STACK_KINDS, StackKind};
use crate::base::sync::Ordering::Relaxed;
use crate::base::{Bytes, Exhausted, Pages, PurposeId, Scarce};
use crate::os::{Guarding, SystemError};
use crate::span::{Ground, NewSpan, Request, SpanCache, SpanId};
use crate::stats::StackFigure;

/// Bytes of stacks of one class that a mutator keeps, unless that is less than [`LEAST_KEPT`] stacks.
const KEPT: Bytes = Bytes::kib(128);
/// Stacks of one class that a mutator keeps at least.
const LEAST_KEPT: usize = 4;
/// Stacks of one class that a mutator keeps at most.
const MOST_KEPT: usize = 16;

/// A mutator's stacks.
pub struct StackCache {
    bins: [[Bin; SMALL_CLASSES]; STACK_KINDS],
}

/// The stacks of one kind and class, linked through their records.
#[derive(Clone, Copy, Default)]
pub(super) struct Bin {
    first: u32,
    count: u32,
}

impl StackCache {
    /// No stacks.
    pub const fn new() -> StackCache {
        StackCache { bins: [[Bin { first: 0, count: 0 }; SMALL_CLASSES]; STACK_KINDS] }
    }

    /// The lists, with whose stacks they are.
    pub(super) fn bins(&self) -> impl Iterator<Item = (StackKind, StackClass, StackId, usize)> {
        StackKind::all().flat_map(move |kind| {
            StackClass::all().filter(|class| class.is_small()).map(move |class| {
                let bin = self.bins[kind.index()][class.index()];
                (kind, class, StackId(bin.first), bin.count as usize)
            })
        })
    }
}

impl Default for StackCache {
    fn default() -> StackCache {
        StackCache::new()
    }
}

impl Bin {
    fn push(&mut self, pool: &StackPool, stack: StackId) {
        let record = pool.record(stack);
        record.set_phase(Phase::Cached);
        record.next.store(self.first, Relaxed);
        self.first = stack.0;
        self.count += 1;
    }

    fn pop(&mut self, pool: &StackPool) -> Option<StackId> {
        let stack = StackId(self.first);
        if stack == StackId::NONE {
            return None;
        }
        self.first = pool.record(stack).next.load(Relaxed);
        self.count -= 1;
        Some(stack)
    }
}

/// Stacks of a class that a cache keeps at most; it takes and gives half as many at once.
pub(super) fn kept(class: StackClass) -> usize {
    (KEPT.0 / class.size().0).clamp(LEAST_KEPT, MOST_KEPT)
}

/// What a mutator works with, under its lock.
pub struct StackWork<'a> {
    /// Pages, limits and books.
    pub ground: Ground<'a>,
    /// The mutator's pages.
    pub spans: &'a mut SpanCache,
    /// The heap's stacks.
    pub pool: &'a StackPool,
    /// The mutator's stacks.
    pub cache: &'a mut StackCache,
    /// The collector marks: what is freed now is used by nobody before it is done, neither as a stack nor as a span.
    pub marking: bool,
    /// Slabs were made, so records may have grown.
    pub made: bool,
}

impl<'a> StackWork<'a> {
    /// Hands out a stack of a purpose, of at least `size` bytes. What it holds is undefined.
    ///
    /// # Errors
    /// [`StackError`] says what stood in the way; nothing has changed then.
    pub fn allocate(
        &mut self,
        purpose: PurposeId,
        kind: StackKind,
        size: Bytes,
        guard: Guard,
    ) -> Result<StackId, StackError> {
        let Some(class) = StackClass::of(size, guard) else {
            let limit = MOST;
            let purpose = self.ground.meters.name(purpose);
            return Err(Exhausted { scarce: Scarce::Size, purpose, wanted: size, limit }.into());
        };
        let (stack, from) = self.take(purpose, kind, class)?;
        let (slab, record) = (self.pool.slab(stack.slab()), self.pool.record(stack));
        record.set_phase(Phase::InUse);
        // Others of the same slab may be handed out at the same time.
        slab.dirty.fetch_or(1 << stack.place(), Relaxed);
        self.ground.ledger.post(|entry| {
            entry.stacks(kind, Some(from), Some(StackFigure::InUse), class.size());
            entry.stack_event(kind, StackFigure::Allocated);
        });
        Ok(stack)
    }

    /// Takes a stack from the cache, from the pool, or from a new slab, and says where it stood in the books.
    fn take(
        &mut self,
        purpose: PurposeId,
        kind: StackKind,
        class: StackClass,
    ) -> Result<(StackId, StackFigure), StackError> {
        loop {
            if class.is_small() {
                let bin = &mut self.cache.bins[kind.index()][class.index()];
                if let Some(stack) = bin.pop(self.pool) {
                    return Ok((stack, StackFigure::Cached));
                }
                let taken = self.pool.take(kind, class, kept(class) / 2, |stack| bin.push(self.pool, stack));
                let bytes = Bytes(taken * class.size().0);
                self.ground.ledger.post(|entry| {
                    entry.stacks(kind, Some(StackFigure::Free), Some(StackFigure::Cached), bytes);
                });
                if taken > 0 {
                    continue;
                }
            } else {
                let mut found = StackId::NONE;
                self.pool.take(kind, class, 1, |stack| found = stack);
                if found != StackId::NONE {
                    return Ok((found, StackFigure::Free));
                }
            }
            self.make_slab(purpose, kind, class)?;
        }
    }

    /// Takes back a stack. Nothing runs on it, and nothing will.
    ///
    /// # Safety
    /// The caller gives the stack up.
    pub unsafe fn free(&mut self, stack: StackId) {
        let (slab, record) = (self.pool.slab(stack.slab()), self.pool.record(stack));
        let (kind, class) = (slab.kind(), slab.class());
        debug_assert_eq!(record.phase(), Phase::InUse, "stack {} freed twice", stack.0);
        record.set_activity(Activity::Unregistered);
        record.word.store(0, Relaxed);
        let to = match (self.marking, class.is_small()) {
            (true, _) => StackFigure::Parked,
            (false, true) => StackFigure::Cached,
            (false, false) => StackFigure::Free,
        };
        self.ground.ledger.post(|entry| {
            entry.stacks(kind, Some(StackFigure::InUse), Some(to), class.size());
            entry.stack_event(kind, StackFigure::Freed);
        });
        match to {
            StackFigure::Parked => self.pool.park(kind, stack),
            StackFigure::Cached => {
                let bin = &mut self.cache.bins[kind.index()][class.index()];
                bin.push(self.pool, stack);
                let count = bin.count as usize;
                if count > kept(class) {
                    self.give_back(kind, class, count - kept(class) / 2);
                }
            }
            _ => {
                self.pool.put(core::iter::once(stack));
                self.trim(kind, MOST_IDLE);
            }
        }
    }

    /// Gives stacks of the cache back to the pool.
    fn give_back(&mut self, kind: StackKind, class: StackClass, count: usize) {
        let bytes = Bytes(count * class.size().0);
        self.ground.ledger.post(|entry| {
            entry.stacks(kind, Some(StackFigure::Cached), Some(StackFigure::Free), bytes);
        });
        let (pool, bin) = (self.pool, &mut self.cache.bins[kind.index()][class.index()]);
        pool.put((0..count).map_while(|_| bin.pop(pool)));
        self.trim(kind, MOST_IDLE);
    }

    /// Gives all stacks of the cache back to the pool.
    pub fn flush(&mut self) {
        for kind in StackKind::all() {
            for class in StackClass::all().filter(|class| class.is_small()) {
                let count = self.cache.bins[kind.index()][class.index()].count as usize;
                if count > 0 {
                    self.give_back(kind, class, count);
                }
            }
        }
    }

    /// Makes the stacks available again that were freed while the collector marked. Called when its cycle has ended.
    pub fn free_parked(&mut self) {
        for kind in StackKind::all() {
            let first = self.pool.take_parked(kind);
            let bytes =
                self.pool.stacks_from(first).map(|stack| self.pool.slab(stack.slab()).class().size()).sum();
            self.ground.ledger.post(|entry| {
                entry.stacks(kind, Some(StackFigure::Parked), Some(StackFigure::Free), bytes);
            });
            self.pool.put(self.pool.stacks_from(first));
            self.trim(kind, MOST_IDLE);
        }
    }

    /// Gives back what the stacks that nobody uses hold: empty slabs to the page heap, the memory of the others to the
    /// system. Returns the bytes of the slabs, which are free pages now, and the bytes that the system has.
    pub fn release(&mut self) -> (Bytes, Bytes) {
        self.flush();
        let slabs = StackKind::all().map(|kind| self.trim(kind, Bytes::ZERO)).sum();
        let pool = self.pool;
        let renewed = pool.live().map(|(number, slab)| self.renew(number, slab)).sum();
        (slabs, renewed)
    }

    /// Has the system take the memory of a slab's free stacks.
    fn renew(&self, number: u32, slab: &Slab) -> Bytes {
        if slab.class().size() < self.ground.heap.system().page_size() {
            // Two stacks share a page; such slabs are small and go as a whole.
            return Bytes::ZERO;
        }
        let taken = self.pool.take_dirty(number);
        let (mut clean, mut left) = (0, taken);
        let mut bytes = Bytes::ZERO;
        while left != 0 {
            // Neighbours go in one call: the guards between them stay, and hold nothing.
            let first = left.trailing_zeros();
            let length = (left >> first).trailing_ones();
            let run = (((1u32 << length) - 1) << first) as u16;
            left &= !run;
            if self.renew_run(slab, first as usize, length as usize).is_ok() {
                clean |= run;
                bytes += Bytes(length as usize * slab.class().size().0);
            }
        }
        if taken != 0 {
            self.pool.put_cleaned(number, taken, clean);
        }
        bytes
    }

    fn renew_run(&self, slab: &Slab, first: usize, length: usize) -> Result<(), SystemError> {
        let from = slab.offset_of(first);
        let to = slab.offset_of(first + length - 1) + slab.class().size().0;
        let at = self.ground.heap.region().page_pointer(slab.page()).wrapping_add(from);
        // SAFETY: the stacks were taken out of their slab, so nobody uses them, and between them are guards.
        unsafe { self.ground.heap.system().renew(at, Bytes(to - from)) }
    }

    /// Gives empty slabs of a kind back to the page heap until it keeps no more than `keep`. Returns the bytes. While
    /// the collector marks, none goes: a stale pointer into it could mark what comes after it.
    fn trim(&mut self, kind: StackKind, keep: Bytes) -> Bytes {
        let (mut after, mut bytes) = (0, Bytes::ZERO);
        while !self.marking
            && let Some(number) = self.pool.take_idle(kind, keep, after)
        {
            // Numbers only rise, so a slab whose guards the system does not take away is tried once.
            match self.unmake_slab(number) {
                Some(freed) => bytes += freed,
                None => after = number,
            }
        }
        bytes
    }

    /// Makes a slab and brings it into the pool.
    #[cold]
    fn make_slab(
        &mut self,
        purpose: PurposeId,
        kind: StackKind,
        class: StackClass,
    ) -> Result<(), StackError> {
        let record = self.pool.take_record(kind, self.ground.ledger);
        let number = record.map_err(|error| self.refused(purpose, class, error))?;
        let pool = self.pool;
        let new = self.make_span(purpose, kind, class).inspect_err(|_| pool.give_record(number))?;
        let guards = match self.guard(&new, class) {
            Ok(guards) => guards,
            Err(error) => {
                self.pool.give_record(number);
                // SAFETY: the span was just allocated; no guard is in it, and nobody touched it.
                unsafe { self.ground.free(self.spans, new.id, Pages(0)) };
                return Err(self.no_guard(purpose, error));
            }
        };
        self.ground.ledger.post(|entry| {
            let bytes = Bytes(guards.stacks * class.size().0);
            entry.stacks(kind, None, Some(StackFigure::Free), bytes);
        });
        new.span.word().store(u64::from(number), crate::base::sync::Ordering::Release);
        self.made = true;
        self.pool.open(number, new.id, new.page, kind, class, guards);
        Ok(())
    }

    /// Allocates a slab's span. If there is no memory, idle stacks of the kind may be what is missing.
    fn make_span(
        &mut self,
        purpose: PurposeId,
        kind: StackKind,
        class: StackClass,
    ) -> Result<NewSpan<'a>, StackError> {
        let request = Request::new(purpose, class.pages());
        let ground = self.ground;
        let new = ground.allocate(self.spans, request).or_else(|refused| {
            self.flush();
            match self.trim(kind, Bytes::ZERO) {
                Bytes::ZERO => Err(refused),
                _ => ground.allocate(self.spans, request),
            }
        });
        Ok(new?)
    }

    /// Guards the stacks of a new slab. Where the system has no more guards than some, the slab has as many stacks.
    ///
    /// # Errors
    /// When there is not one.
    fn guard(&self, new: &NewSpan<'_>, class: StackClass) -> Result<Guards, SystemError> {
        let system = self.ground.heap.system();
        let mut guards = Guards { how: system.guarding(), stacks: 0 };
        if class.guard() == Guard::No {
            return Ok(Guards { stacks: class.in_slab(), ..guards });
        }
        let at = self.ground.heap.region().page_pointer(new.page);
        while guards.stacks < class.in_slab() {
            let low = at.wrapping_add(guards.stacks * class.stride().0);
            // SAFETY: the span was just allocated, and nobody uses it.
            let done = unsafe { system.guard(low, class.guard_size(), guards.how) };
            match done {
                Ok(()) => guards.stacks += 1,
                // Memory that the program locked takes no marks.
                Err(_) if guards.stacks == 0 && guards.how == Guarding::Markers => {
                    guards.how = Guarding::Mappings;
                }
                Err(error) if guards.stacks == 0 => return Err(error),
                Err(_) => break,
            }
        }
        self.pool.guards.fetch_add(guards.stacks, Relaxed);
        Ok(guards)
    }

    /// Takes an empty slab apart that was taken out of the pool. Returns its bytes, or puts it back if the system does
    /// not take its guards away.
    fn unmake_slab(&mut self, number: u32) -> Option<Bytes> {
        let slab = self.pool.slab(number);
        let (class, kind, count) = (slab.class(), slab.kind(), slab.count());
        let (pages, region) = (class.pages(), self.ground.heap.region());
        if class.guard() == Guard::Yes {
            let at = region.page_pointer(slab.page());
            // SAFETY: nobody has a stack of the slab, and it was taken out of the pool.
            let done = unsafe { self.ground.heap.system().unguard(at, pages.bytes(), slab.guarding()) };
            if done.is_err() {
                self.pool.relist(number);
                return None;
            }
            self.pool.guards.fetch_sub(count, Relaxed);
        }
        let span = SpanId(slab.span.load(Relaxed));
        let touched = Bytes(slab.carved.load(Relaxed) as usize * class.stride().0).pages_ceil();
        self.ground.ledger.post(|entry| {
            let bytes = Bytes(count * class.size().0);
            entry.stacks(kind, Some(StackFigure::Free), None, bytes);
        });
        self.pool.give_record(number);
        // SAFETY: the slab's span, which nobody uses; what was never handed out was never touched.
        unsafe { self.ground.free(self.spans, span, touched) };
        Some(pages.bytes())
    }

    fn refused(&self, purpose: PurposeId, class: StackClass, SystemError(errno): SystemError) -> StackError {
        let purpose = self.ground.meters.name(purpose);
        let (wanted, limit) = (class.pages().bytes(), Bytes::ZERO);
        Exhausted { scarce: Scarce::System(errno), purpose, wanted, limit }.into()
    }

    fn no_guard(&self, purpose: PurposeId, error: SystemError) -> StackError {
        StackError::Guard {
            purpose: self.ground.meters.name(purpose),
            error,
            how: self.ground.heap.system().guarding(),
            installed: self.pool.guards(),
        }
    }
}
