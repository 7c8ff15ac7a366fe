//! What allocation does when a cache has nothing left: helps to mark and to sweep, and gets more.
//!
//! # Safety
//! The member is the calling thread's, which is running: its cache and worker are its own.

use super::Collection;
use super::member::Member;
use super::mutator::Plan;
use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, Exhausted, PAGE_SIZE, PageId, Scarce, purpose};
use crate::front::heap::Heap;
use crate::gc::world::CYCLE;
use crate::object::{ShapeId, SpanClass, SpanKind, Take};
use core::ptr::NonNull;

/// Chunks that are swept, at most, before a fresh span is taken.
const CHUNKS: usize = 8;

impl Collection {
    /// The slow path of allocation.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    #[cold]
    #[inline(never)]
    pub(super) fn allocate_slow(
        &self,
        heap: &Heap,
        member: &Member,
        plan: Plan,
        size: usize,
    ) -> Result<NonNull<u8>, Exhausted> {
        let pointer = if plan.code == SpanClass::NONE {
            self.pace(heap, member, Bytes(size));
            self.allocate_large(heap, member, plan.shape, size)?
        } else {
            self.refill(heap, member, plan.code)?
        };
        // Tables have grown with the spans; near a limit that counts at once.
        if heap.core().pages.limit().is_some() {
            heap.core().note_metadata();
        }
        let object = NonNull::new(pointer).expect("a cache that was filled has something to give");
        if plan.mask != 0 {
            self.set_map(object, plan);
        }
        Ok(object)
    }

    /// Says where the references of a fresh object are.
    #[inline]
    pub(super) fn set_map(&self, object: NonNull<u8>, plan: Plan) {
        let offset = object.as_ptr().addr() - self.objects.base().0;
        let map =
            self.objects.page_map(PageId(offset / PAGE_SIZE)).expect("pages of mapped objects have maps");
        map.set(offset % PAGE_SIZE / 8, plan.code.row().size as usize / 8, plan.mask);
    }

    /// Whether the collector looks at a word: the long way.
    #[cold]
    pub(super) fn is_traced(&self, word: Address) -> bool {
        self.objects.find(word).is_some_and(|object| match object.kind {
            SpanKind::Plain | SpanKind::Headed => false,
            SpanKind::Words => true,
            SpanKind::Mapped => {
                let offset = word.0 - self.objects.base().0;
                let map = self.objects.page_map(PageId(offset / PAGE_SIZE));
                map.is_some_and(|map| map.get(offset % PAGE_SIZE / 8, 1) == 1)
            }
        })
    }

    fn refill(&self, heap: &Heap, member: &Member, code: SpanClass) -> Result<*mut u8, Exhausted> {
        // SAFETY: the file's head.
        let cache = unsafe { &mut *member.cache() };
        let mutator = member.mutator();
        let mut chunks = 0;
        loop {
            let taken = self.with_work(heap, mutator, |work| {
                if chunks < CHUNKS {
                    self.objects.refill(cache, work, code)
                } else {
                    self.objects.refill_fresh(cache, work, code)
                }
            });
            match taken {
                Ok(Take::Ready) => {
                    self.pace(heap, member, cache.rest(code));
                    return Ok(cache.allocate_fast(code));
                }
                Ok(Take::Unswept) => {
                    chunks += 1;
                    if !self.sweep_some(heap, member) {
                        chunks = CHUNKS;
                    }
                }
                // What is dead and not swept yet may be all that it takes.
                Err(_) if self.sweep_some(heap, member) => chunks = 0,
                Err(exhausted) => return Err(exhausted),
            }
        }
    }

    fn allocate_large(
        &self,
        heap: &Heap,
        member: &Member,
        shape: ShapeId,
        size: usize,
    ) -> Result<*mut u8, Exhausted> {
        let kind = self.shapes.kind(shape, Bytes(size));
        let mutator = member.mutator();
        let wanted = Bytes(size);
        if size > isize::MAX as usize - PAGE_SIZE {
            let purpose = heap.core().meters.name(purpose::OBJECTS);
            return Err(Exhausted { scarce: Scarce::Size, purpose, wanted, limit: Bytes::ZERO });
        }
        // Whole dead spans first, so that the heap need not grow for what is free already.
        let mut pages = wanted.pages_ceil().0;
        while pages > 0 {
            let reclaimed = self.with_sweeping(heap, mutator, |objects, work, sweeping| {
                objects.reclaim_chunk(work, sweeping)
            });
            let Some(reclaimed) = reclaimed else { break };
            pages = pages.saturating_sub(reclaimed.pages.0);
        }
        loop {
            let made = self.with_work(heap, mutator, |work| {
                self.objects.allocate_large(work, purpose::OBJECTS, wanted, (kind, shape))
            });
            match made {
                Ok(mut large) => {
                    while self.objects.clear_piece(&mut large) {}
                    return Ok(self.objects.finish_large(large));
                }
                Err(_) if self.sweep_some(heap, member) => {}
                Err(exhausted) => return Err(exhausted),
            }
        }
    }

    /// Sweeps a chunk. Returns whether there was one.
    fn sweep_some(&self, heap: &Heap, member: &Member) -> bool {
        let mutator = member.mutator();
        self.with_sweeping(heap, mutator, |objects, work, sweeping| objects.sweep_chunk(work, sweeping))
            .is_some()
    }

    /// What a thread owes the collector for allocating: it asks for a cycle when it is time for one, and marks in
    /// proportion while one runs; it sweeps in proportion after one.
    fn pace(&self, heap: &Heap, member: &Member, bytes: Bytes) {
        if member.is_marking() {
            let credit = member.credit.get() - bytes.0 as i64;
            member.credit.set(credit);
            if credit < 0 {
                self.assist(heap, member);
            }
            return;
        }
        while self.pacing.owes_sweeping(&self.objects, bytes) && self.sweep_some(heap, member) {}
        if self.is_due(heap) || self.is_stressed() {
            self.request(heap, member);
        }
    }

    /// Whether it is time for a cycle, and the collector's share allows one.
    fn is_due(&self, heap: &Heap) -> bool {
        self.pacing.is_due(&self.objects) && self.pacing.has_share(heap.core().system)
    }

    /// Whether it is time for a cycle because somebody looks for faults.
    fn is_stressed(&self) -> bool {
        let every = |every| self.slow.fetch_add(1, Ordering::Relaxed).is_multiple_of(u32::max(every, 1));
        self.config.stress.is_some_and(every)
    }

    /// Asks for a cycle, once.
    #[cold]
    fn request(&self, heap: &Heap, member: &Member) {
        if self.is_whole().is_err() || self.pacing.wanted.swap(true, Ordering::AcqRel) {
            return;
        }
        if !self.want_cycle(heap, self.config.workers) {
            member.station.ask(CYCLE);
        }
    }

    /// Pays the thread's debt: with what was marked in the background, as far as that goes, and else by marking. Where
    /// there is nothing to mark that others would give away, marking is about to end, and the debt is forgiven.
    fn assist(&self, heap: &Heap, member: &Member) {
        let Some(assist) = self.pacing.assist() else { return };
        let (work, paid) = assist.work_for(member.credit.get().unsigned_abs());
        member.credit.set(member.credit.get().saturating_add_unsigned(paid));
        let rest = work - self.collector.spend(work);
        if rest == 0 {
            return;
        }
        let ((), time) = self.with_marking_clocked(heap, member.mutator(), |marking| {
            // SAFETY: the file's head.
            let worker = unsafe { &mut *member.worker() };
            worker.drain(rest, marking);
            worker.leave(marking);
        });
        self.pacing.add_assist(time, heap.core().system.now());
    }
}
