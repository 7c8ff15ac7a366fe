//! The slow paths: everything that the caches cannot do by themselves, as one readable loop each.
//!
//! # Safety
//! A function that takes a [`Mutator`] is called by that mutator's thread, or with the shared mutator by anyone. It
//! takes the mutator's lock; the fast paths of the thread itself do not run meanwhile, because it is here.

use crate::base::class::SizeClass;
use crate::base::purpose::BLOCKS;
use crate::base::sync::{AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Exhausted, PAGE_SIZE, PurposeId, Scarce};
use crate::block::body::{BlockSpan, FreeBlock, LARGE, Phase, mark};
use crate::block::cache::Block;
use crate::block::{BlockCache, LargeFault, Work, holes, large, remote};
use crate::front::core::{HeapCore, SHARED};
use crate::front::misuse::{Fault, Misuse, SpanPlace};
use crate::front::mutator::{Local, Mutator};
use crate::front::profile::Chosen;
use crate::span::{Request, Span, SpanId};

/// The alignment that every block has.
pub(crate) const NATURAL: usize = crate::base::class::GRANULE;
/// What no request reaches: sizes are differences of pointers.
const TOO_LARGE: usize = isize::MAX as usize;

/// What somebody asks for.
#[derive(Clone, Copy)]
struct Wanted<'p> {
    size: usize,
    align: usize,
    zero: bool,
    promise: Option<&'p AtomicUsize>,
}

/// A block that the heap knows, found by its address.
struct Found<'a> {
    id: SpanId,
    span: &'a Span,
    body: *mut BlockSpan,
    owner: u32,
}

impl HeapCore {
    /// Allocates a block of a purpose; `zero` says that the caller will clear it unless it reads as zeros.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    #[cold]
    #[inline(never)]
    pub(crate) fn allocate(
        &self,
        mutator: &Mutator,
        purpose: PurposeId,
        size: usize,
        align: usize,
        zero: bool,
    ) -> Result<Block, Exhausted> {
        let block = self.allocate_against(mutator, purpose, (size, align, zero), None);
        let block = match block {
            Err(refused) if self.reclaim(mutator, &refused) => {
                self.allocate_against(mutator, purpose, (size, align, zero), None)
            }
            block => block,
        };
        self.tell();
        self.heed(mutator);
        block
    }

    /// Takes what other mutators keep for their threads, if that may be what is missing. Returns whether it may be worth
    /// another attempt.
    #[cold]
    pub(crate) fn reclaim(&self, mutator: &Mutator, refused: &Exhausted) -> bool {
        if !matches!(refused.scarce, Scarce::HeapLimit | Scarce::System(_)) {
            return false;
        }
        let others = self.all_mutators().filter(|other| other.number != mutator.number);
        others.fold(false, |any, other| self.tend(other) | any)
    }

    /// As [`HeapCore::allocate`], charged to a promise as far as it is enough; tells nobody, and does not try again.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn allocate_against(
        &self,
        mutator: &Mutator,
        purpose: PurposeId,
        (size, align, zero): (usize, usize, bool),
        promise: Option<&AtomicUsize>,
    ) -> Result<Block, Exhausted> {
        debug_assert!(align.is_power_of_two());
        let mut local = mutator.local.lock();
        let mut work = self.work(mutator, &mut local);
        let class = if align <= NATURAL {
            SizeClass::of(size)
        } else if align <= PAGE_SIZE {
            SizeClass::of_aligned(size, align)
        } else {
            None
        };
        let wanted = Wanted { size, align, zero, promise };
        match class {
            _ if size > TOO_LARGE || align > TOO_LARGE => Err(self.too_large(purpose, size)),
            Some(class) => self.allocate_small(mutator, &mut work, purpose, class, wanted),
            None => self.allocate_large(mutator, &mut work, purpose, wanted),
        }
    }

    /// The loop: what the cache has, what others gave back, what parked mutators have, a fresh span.
    fn allocate_small(
        &self,
        mutator: &Mutator,
        work: &mut Work<'_>,
        purpose: PurposeId,
        class: SizeClass,
        wanted: Wanted<'_>,
    ) -> Result<Block, Exhausted> {
        let cache = self.cache_of(mutator, purpose, work.ground).map_err(|error| Exhausted {
            scarce: Scarce::System(error.0),
            purpose: self.meters.name(purpose),
            wanted: Bytes(class.size()),
            limit: Bytes::ZERO,
        })?;
        // SAFETY: the mutator's lock is held, and its thread is this one or there is none.
        unsafe {
            self.arrange(cache, work.ground.ledger);
            if BlockCache::is_due(cache, class) {
                // A span for the block alone, so that its free comes by the slow path; no promise is used up for that.
                // Where there is none, the block is one like others.
                let Wanted { size, align, zero, .. } = wanted;
                if let Ok(block) = large::allocate(work, purpose, size, align, zero, None) {
                    self.sample(work, Chosen { purpose, requested: size, slot: class.size() }, block);
                    return Ok(block);
                }
            }
            loop {
                if let Some(block) = BlockCache::take(cache, work, class) {
                    (*cache).refresh(work.ground);
                    return Ok(block);
                }
                let remote = self.central.inbox(mutator.number).take();
                if !remote.is_empty() {
                    BlockCache::put_back(work, mutator.number, remote);
                    continue;
                }
                if self.adopt_listed(work, cache, class) {
                    continue;
                }
                let request = Request::new(purpose, (*cache).next_span(class));
                let new = work.ground.allocate_against(work.spans, request, wanted.promise)?;
                BlockCache::install(cache, &new, class);
            }
        }
    }

    /// A block that has a span to itself.
    fn allocate_large(
        &self,
        mutator: &Mutator,
        work: &mut Work<'_>,
        purpose: PurposeId,
        Wanted { size, align, zero, promise }: Wanted<'_>,
    ) -> Result<Block, Exhausted> {
        let block = large::allocate(work, purpose, size, align, zero, promise)?;
        if self.profile.mean().is_some() {
            self.consider_large(mutator, work, purpose, size, block);
        }
        Ok(block)
    }

    /// Takes over a span with blocks to give from a parked mutator.
    unsafe fn adopt_listed(&self, work: &mut Work<'_>, cache: *mut BlockCache, class: SizeClass) -> bool {
        // SAFETY: the caller holds the cache's mutator; the parked one's lock is taken here.
        unsafe {
            for parked in self.some_parked() {
                let Some(_theirs) = parked.local.try_lock() else { continue };
                if !parked.is_parked() {
                    continue;
                }
                let Some(source) = parked.cache((*cache).purpose()) else { continue };
                if let Some(span) = BlockCache::surrender_listed(source.as_ptr(), class) {
                    BlockCache::adopt(cache, work, span);
                    return true;
                }
            }
        }
        false
    }

    /// Frees a block that the fast path could not, or says what is wrong with the pointer.
    ///
    /// # Errors
    /// [`Misuse`]; nothing has changed then.
    ///
    /// # Safety
    /// If the pointer is a block's, the caller gives that block up.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn free(&self, mutator: &Mutator, pointer: *mut u8) -> Result<(), Misuse> {
        let found = self.find_block(pointer)?;
        let block = pointer.cast::<FreeBlock>();
        // SAFETY: the pointer is a block's, and the caller gives it up.
        unsafe {
            if found.owner == LARGE {
                let mut local = mutator.local.lock();
                let mut work = self.work(mutator, &mut local);
                let freed = large::free(&mut work, found.id, found.span, pointer);
                drop(local);
                self.nudge();
                return freed.map(|sample| self.profile.freed(sample)).map_err(|fault| match fault {
                    LargeFault::Interior => self.misuse(pointer, Fault::Interior),
                    LargeFault::Double => self.misuse(pointer, Fault::DoubleFree),
                });
            }
            self.prepare(mutator);
            (*block).mark = mark(self.key(), block);
            let memory = self.pages.region().page_pointer(found.span.page());
            let place = (pointer.addr() - memory.addr()) / NATURAL;
            if remote::wait(found.span.word(), memory, place as u16) {
                self.send(mutator, found.id, found.owner);
            }
        }
        Ok(())
    }

    /// Sees to it that the mutator's thread has a cache to free with, and that it knows how far the heap reaches.
    fn prepare(&self, mutator: &Mutator) {
        let mut local = mutator.local.lock();
        let work = self.work(mutator, &mut local);
        // Without memory for a cache, the next free comes here again.
        let _ = self.cache_of(mutator, BLOCKS, work.ground);
        for cache in mutator.caches() {
            // SAFETY: the mutator's lock is held, and its thread is this one or there is none.
            unsafe { (*cache).refresh(work.ground) };
        }
    }

    /// Puts a span in which a first block waits into its owner's inbox. If nobody will look there, we do.
    ///
    /// # Safety
    /// As for every function here; a block was made to wait in the span, which had none waiting.
    #[inline(never)]
    pub(crate) unsafe fn send(&self, mutator: &Mutator, span: SpanId, owner: u32) {
        let parked = self.central.inbox(owner).push(span, self.pages.links());
        if parked || owner == mutator.number {
            // SAFETY: handed on.
            unsafe { self.collect(mutator, owner) };
        }
        self.nudge();
    }

    /// Looks after a span that a free of the fast path tripped.
    ///
    /// # Safety
    /// The span belonged to this mutator, whose thread this is, when it tripped.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn attend(&self, mutator: &Mutator, span: *mut BlockSpan) {
        // The commonest case by far, and there is nothing to do: the last block of a span that stays current. Its
        // phase is its owner's, so no lock is needed to see it.
        // SAFETY: the caller's promise.
        if unsafe { (*span).phase } == Phase::Current {
            return;
        }
        let mut local = mutator.local.lock();
        let mut work = self.work(mutator, &mut local);
        // SAFETY: the caller's promise, and what the lock guards.
        unsafe {
            if BlockSpan::wants_attention(span, mutator.number) {
                BlockCache::attend(&mut work, span);
            }
        }
        drop(local);
        self.nudge();
        self.heed(mutator);
    }

    /// Empties the inbox of `owner`: our own, or that of a parked mutator, whose spans we then adopt.
    unsafe fn collect(&self, mutator: &Mutator, owner: u32) {
        let mut local = mutator.local.lock();
        let mut work = self.work(mutator, &mut local);
        // SAFETY: our own lock is held, and the other's is taken before anything of its is touched.
        unsafe {
            if owner == mutator.number {
                let spans = self.central.inbox(owner).take();
                return BlockCache::put_back(&mut work, owner, spans);
            }
            let (theirs, inbox) = (self.mutator(owner), self.central.inbox(owner));
            // Who comes while we hold the lock gives up at once, so there may be more in the end.
            while !inbox.is_empty_now() {
                let Some(_lock) = theirs.local.try_lock() else { return };
                if !theirs.is_parked() || !self.adopt_freed(mutator, &mut work, owner) {
                    return;
                }
            }
        }
    }

    /// Empties a parked mutator's inbox, adopting the spans in it. Returns whether it could have them all.
    unsafe fn adopt_freed(&self, mutator: &Mutator, work: &mut Work<'_>, owner: u32) -> bool {
        let (inbox, links) = (self.central.inbox(owner), self.pages.links());
        let (mut spans, mut all) = (inbox.take(), true);
        while let Some(id) = spans.next(links) {
            let span = self.pages.span(id).expect("spans in inboxes have records");
            let body = span.body::<BlockSpan>();
            // SAFETY: both locks are held; a span in an inbox has blocks in use, so it is there.
            unsafe {
                let now = (*body).owner.load(Ordering::Relaxed);
                if now != owner {
                    self.central.inbox(now).push(id, links);
                    continue;
                }
                match self.cache_of(mutator, span.purpose(), work.ground) {
                    Ok(cache) => {
                        BlockCache::surrender(work, body);
                        BlockCache::adopt(cache, work, body);
                        BlockCache::absorb(work, span, body);
                    }
                    // No memory for a cache: the span waits where it was.
                    Err(_) => {
                        all = false;
                        inbox.push(id, links);
                    }
                }
            }
        }
        all
    }

    /// Bytes that a block's holder may use.
    ///
    /// # Errors
    /// [`Misuse`], when the pointer is not a block's.
    pub(crate) fn usable_size(&self, pointer: *const u8) -> Result<usize, Misuse> {
        let found = self.find_block(pointer)?;
        if found.owner == LARGE {
            return Ok(found.span.pages().bytes().0);
        }
        // SAFETY: constant while blocks of the span are in use, and the pointer is such a block's.
        Ok(unsafe { (*found.body).size() })
    }

    /// Changes the size of a block where it stands. Returns whether it could.
    ///
    /// # Errors
    /// [`Misuse`], when the pointer is not a block's.
    ///
    /// # Safety
    /// The caller holds the block, and gives up what lies behind `size`.
    pub(crate) unsafe fn resize(
        &self,
        mutator: &Mutator,
        pointer: *mut u8,
        size: usize,
    ) -> Result<bool, Misuse> {
        let found = self.find_block(pointer)?;
        if found.owner != LARGE {
            // SAFETY: as in `usable_size`.
            let usable = unsafe { (*found.body).size() };
            return Ok(size <= usable && (size >= usable / 2 || usable <= 128));
        }
        if size <= crate::base::class::MAX_SMALL || size > TOO_LARGE {
            return Ok(false);
        }
        let mut local = mutator.local.lock();
        let mut work = self.work(mutator, &mut local);
        let before = found.span.pages();
        // SAFETY: the caller holds the block.
        let done = unsafe { large::resize(&mut work, found.id, found.span, size) };
        if done && found.span.pages() != before {
            self.sample_again(mutator, &work, &found, Block { pointer, zero: false }, size);
        }
        Ok(done)
    }

    /// A block that was resized where it stands is to the profile one that was freed, and another that was allocated.
    fn sample_again(&self, mutator: &Mutator, work: &Work<'_>, found: &Found<'_>, block: Block, size: usize) {
        // SAFETY: the caller of `resize` holds the block, and so the span's body.
        let sample = unsafe { core::mem::take(&mut (*found.body).posted) };
        self.profile.freed(sample);
        if self.profile.mean().is_some() {
            self.consider_large(mutator, work, found.span.purpose(), size, block);
        }
    }

    /// The block that begins at a pointer and is in use.
    fn find_block(&self, pointer: *const u8) -> Result<Found<'_>, Misuse> {
        let address = Address::of(pointer);
        let Some((id, span)) = self.pages.find(address) else {
            return Err(self.misuse(pointer, Fault::Foreign));
        };
        let body = span.body::<BlockSpan>();
        let offset = address.0 - self.pages.region().base().0;
        // SAFETY: the span is in use and stays so while the block is; what is read of the body is constant
        // then, but for `carved`, which only grows. If the pointer is no block's, nothing is decided by it but
        // which fault is named.
        unsafe {
            let owner = (*body).owner.load(Ordering::Acquire);
            let within = offset - span.page().offset();
            let fault = if owner == 0 {
                Some(Fault::NotABlock)
            } else if owner == LARGE {
                (self.pages.region().page_pointer(span.page()).addr() != address.0).then_some(Fault::Interior)
            } else if !(*body).would_begin_block(offset) {
                Some(Fault::Interior)
            } else if !(*body).is_carved(offset) {
                Some(Fault::NeverAllocated)
            } else if holes::touch(self.system.page_size(), span, &*body, within)
                || (*pointer.cast::<FreeBlock>()).mark == mark(self.key(), pointer.cast())
            {
                Some(Fault::DoubleFree)
            } else {
                None
            };
            match fault {
                Some(fault) => Err(self.misuse(pointer, fault)),
                None => Ok(Found { id, span, body, owner }),
            }
        }
    }

    /// Describes a pointer that is not what it should be.
    fn misuse(&self, pointer: *const u8, fault: Fault) -> Misuse {
        let address = Address::of(pointer);
        let place = self.pages.find(address).map(|(_, span)| {
            let from = self.pages.region().address(span.page());
            let body = span.body::<BlockSpan>();
            // SAFETY: read for a message only.
            let block = unsafe {
                matches!((*body).phase, Phase::Current | Phase::Listed | Phase::Full).then(|| (*body).size())
            };
            SpanPlace {
                from,
                to: Address(from.0 + span.pages().bytes().0),
                purpose: self.meters.name(span.purpose()),
                block,
            }
        });
        let ours = self.pages.region().contains(address);
        let fault = match fault {
            Fault::Foreign if ours => Fault::NoSpan,
            fault => fault,
        };
        Misuse { address, fault, span: place }
    }

    fn too_large(&self, purpose: PurposeId, size: usize) -> Exhausted {
        let purpose = self.meters.name(purpose);
        Exhausted { scarce: Scarce::Size, purpose, wanted: Bytes(size), limit: Bytes(TOO_LARGE) }
    }

    /// Puts back what others freed, frees empty spans, and gives the page cache back.
    ///
    /// # Safety
    /// The calling thread is the mutator's, or it is the shared one.
    pub(crate) unsafe fn flush(&self, mutator: &Mutator) {
        let mut local = mutator.local.lock();
        // SAFETY: the lock is held and the thread is here, not on its fast paths.
        unsafe { self.flush_locked(mutator, &mut local) }
    }

    /// Does the same for every mutator without a thread, the shared one included.
    pub(crate) fn flush_parked(&self) {
        for mutator in self.all_mutators() {
            // Looked at before the lock as a hint, and again under it.
            let is_free = || mutator.number == SHARED || mutator.is_parked();
            if !is_free() {
                continue;
            }
            let mut local = mutator.local.lock();
            if is_free() {
                // SAFETY: the lock is held, and there is no thread with fast paths.
                unsafe { self.flush_locked(mutator, &mut local) };
            }
        }
    }

    /// Gives cached stacks back, puts back what others freed, frees empty spans, and gives the page cache back, under
    /// the mutator's lock.
    ///
    /// # Safety
    /// The lock is held, and the mutator's thread is this one, or there is none.
    pub(super) unsafe fn flush_locked(&self, mutator: &Mutator, local: &mut crate::base::Guard<'_, Local>) {
        self.stack_work(mutator, local).flush();
        let mut work = self.quiet_work(mutator, local);
        // SAFETY: the caller's promise.
        unsafe {
            BlockCache::put_back(&mut work, mutator.number, self.central.inbox(mutator.number).take());
            for cache in mutator.caches() {
                BlockCache::retire_current(cache, &mut work);
            }
        }
        work.ground.flush(work.spans);
    }
}
