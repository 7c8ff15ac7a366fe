//! The proof, by looking at everything, that the room's invariants hold.
//!
//! The numbers are those of the room's list. The free list and the counts of a span belong to the fast paths of its
//! owner, which take no lock. So a span is proved in full only while its owner is *quiet*: it has no thread, or its
//! thread is the one that walks. Of the others, the walk looks only at what changes under locks: states, lines,
//! owners, and how far they are carved.
//!
//! What no walk can prove: that nobody but the owner touches a span (1), that a change of owners was made under
//! the right lock (2), and that no block in use carries the key (4).
//!
//! # Safety
//! The walk reads what the locks of the mutators guard, so its caller holds all of them, and nobody but quiet owners
//! is read further than that.

use super::body::{BlockSpan, FreeBlock, LARGE, Phase, mark};
use super::cache::BlockCache;
use super::holes;
use super::remote::{self, Inbox, Waiting};
use crate::base::class::{CLASSES, MAX_DIRECT, SizeClass, TABLE};
use crate::base::sync::Ordering;
use crate::base::{Address, Broken, Invariant, PAGE_SIZE, PurposeId};
use crate::span::{PageHeap, Span, SpanId};

const OF_CACHE: Invariant = Invariant("block", 1);
const OF_OWNER: Invariant = Invariant("block", 2);
const OF_WAITING: Invariant = Invariant("block", 3);
const OF_KEY: Invariant = Invariant("block", 4);
const OF_BLOCKS: Invariant = Invariant("block", 5);
const OF_PHASE: Invariant = Invariant("block", 6);
const OF_PORTION: Invariant = Invariant("block", 7);

/// Memory comes in system pages of at least this size; what follows in one that was touched can be read at no cost.
const SYSTEM_PAGE: usize = 4096;

/// What the walk knows about the heap.
pub struct Walk<'a, Q, C> {
    /// The spans.
    pub heap: &'a PageHeap,
    /// What free blocks carry.
    pub key: usize,
    /// Owners have numbers below this one.
    pub owners: u32,
    /// Whether an owner has no thread, or the calling one.
    pub is_quiet: Q,
    /// An owner's cache of a purpose.
    pub cache_of: C,
}

/// How many spans are in a phase.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// In their cache's lines.
    pub listed: usize,
    /// Those that caches allocate from.
    pub current: usize,
    /// Those in which blocks wait.
    pub waiting: usize,
    /// All of them.
    pub all: usize,
}

/// What of a block span changes under locks alone.
struct Shape {
    class: SizeClass,
    blocks: usize,
    magic: u64,
    start: u32,
    carved: usize,
    fresh: bool,
}

impl Shape {
    /// # Safety
    /// The body is a block span's, and the locks of all mutators are held.
    unsafe fn of(body: *const BlockSpan) -> Shape {
        // SAFETY: the caller's promise; field by field, since others may write the rest meanwhile.
        unsafe {
            Shape {
                class: (*body).class,
                blocks: (*body).blocks as usize,
                magic: (*body).magic.load(Ordering::Relaxed),
                start: (*body).start,
                carved: (*body).carved as usize,
                fresh: (*body).fresh,
            }
        }
    }
}

impl<Q: Fn(u32) -> bool, C: Fn(u32, PurposeId) -> *mut BlockCache> Walk<'_, Q, C> {
    /// Proves 1 to 7 for everything: every span, the given caches, which are all there are, and the given inboxes,
    /// which are those of all owners.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    ///
    /// # Safety
    /// See the head of this file.
    pub unsafe fn check<'b>(
        &self,
        caches: impl Iterator<Item = *const BlockCache>,
        inboxes: impl Iterator<Item = (u32, &'b Inbox)>,
    ) -> Result<(), Broken> {
        let (mut by_spans, mut by_caches, mut in_inboxes) = (Counts::default(), Counts::default(), 0);
        // SAFETY: the caller's promise. Inboxes come first: what is put into one later has words that count.
        unsafe {
            for (owner, inbox) in inboxes {
                in_inboxes += self.check_inbox(owner, inbox)?;
            }
            for (id, span) in self.heap.spans() {
                match self.check_span(id, span)? {
                    Phase::Listed => by_spans.listed += 1,
                    Phase::Current => by_spans.current += 1,
                    Phase::Full => {}
                    Phase::None | Phase::Large => continue,
                }
                by_spans.waiting += usize::from(remote::look(span.word()).count > 0);
                by_spans.all += 1;
            }
            for cache in caches {
                let found = self.check_cache(&*cache)?;
                by_caches.listed += found.listed;
                by_caches.current += found.current;
                by_caches.all += found.all;
            }
        }
        let heap = ("heap", 0);
        OF_WAITING.at_most("a span is in one inbox", heap, in_inboxes, by_spans.waiting)?;
        OF_PHASE.equal("every listed span is in a line", heap, by_spans.listed, by_caches.listed)?;
        OF_PHASE.equal("every span is counted by its cache", heap, by_spans.all, by_caches.all)?;
        OF_PHASE.equal("every current span is some cache's", heap, by_spans.current, by_caches.current)
    }

    unsafe fn check_span(&self, id: SpanId, span: &Span) -> Result<Phase, Broken> {
        let subject = ("span", id.0 as usize);
        // SAFETY: all locks are held, and what fast paths change is read for quiet owners alone.
        unsafe {
            let body = span.body::<BlockSpan>();
            let (phase, owner) = ((*body).phase, (*body).owner.load(Ordering::Acquire));
            match phase {
                Phase::None => {
                    OF_OWNER.equal("a span without blocks has no owner", subject, owner as usize, 0)?
                }
                Phase::Large => {
                    let text = "a large block belongs to nobody";
                    OF_OWNER.equal(text, subject, owner as usize, LARGE as usize)?;
                }
                Phase::Current | Phase::Listed | Phase::Full => {
                    OF_OWNER.at_most(
                        "an owner is known",
                        subject,
                        owner as usize,
                        self.owners as usize - 1,
                    )?;
                    OF_OWNER.at_most("a block span has an owner", subject, 1, owner as usize)?;
                    let cache = (self.cache_of)(owner, span.purpose());
                    let text = "a span's cache is its owner's, of its purpose";
                    OF_CACHE.equal(text, subject, (*body).cache.addr(), cache.addr())?;
                    let shape = Shape::of(body);
                    self.check_shape(subject, span, &shape)?;
                    let waiting = self.check_waiting(subject, span, &shape)?;
                    if (self.is_quiet)(owner) {
                        self.check_blocks(subject, span, &shape, &*body)?;
                        let (waiting, used) = (waiting.into(), (*body).used() as usize);
                        OF_WAITING.at_most("a block that waits counts as in use", subject, waiting, used)?;
                    }
                }
            }
            Ok(phase)
        }
    }

    /// 5, as far as it changes under locks.
    fn check_shape(&self, subject: (&'static str, usize), span: &Span, shape: &Shape) -> Result<(), Broken> {
        OF_BLOCKS.at_most("a class exists", subject, shape.class.0 as usize, CLASSES - 1)?;
        let row = &TABLE[shape.class.0 as usize];
        for (text, found, wanted) in [
            ("a span is some short ones long", span.pages().0 % row.pages as usize, 0),
            ("there are as many blocks as fit", shape.blocks, span.pages().bytes().0 / row.size as usize),
            (
                "the divisibility constant is the class's, or none in a span with holes",
                shape.magic as usize,
                if holes::of(span) == 0 { row.magic as usize } else { 0 },
            ),
            ("a span knows where it begins", shape.start as usize, span.page().offset() & u32::MAX as usize),
        ] {
            OF_BLOCKS.equal(text, subject, found, wanted)?;
        }
        OF_BLOCKS.at_most("no more blocks are carved than there are", subject, shape.carved, shape.blocks)?;
        let from = shape.carved * row.size as usize;
        let page = self.heap.system().page_size();
        if shape.fresh && (page.0 > SYSTEM_PAGE || holes::of(span) >> (from / page.0).min(63) & 1 == 0) {
            let memory = self.heap.region().page_pointer(span.page());
            let to = from.next_multiple_of(SYSTEM_PAGE);
            // SAFETY: the span's own memory, which nobody holds: its blocks end at `from`.
            let dirty = (from..to).filter(|&at| unsafe { memory.add(at).read() } != 0).count();
            OF_BLOCKS.equal("what lies behind the carved blocks is zero", subject, dirty, 0)?;
        }
        Ok(())
    }

    /// 4 and 5, for a quiet owner.
    fn check_blocks(
        &self,
        subject: (&'static str, usize),
        span: &Span,
        shape: &Shape,
        body: &BlockSpan,
    ) -> Result<(), Broken> {
        let most = if body.phase == Phase::Full { body.full_trip() } else { body.blocks };
        let text = "a span waits for no more frees than it has blocks";
        OF_BLOCKS.at_most(text, subject, body.trip as usize, most as usize)?;
        let (mut free, mut at) = (0, body.free.cast_const());
        while !at.is_null() {
            self.check_free_block(span, shape, at)?;
            free += 1;
            OF_BLOCKS.at_most("a free list ends", subject, free, shape.blocks)?;
            // SAFETY: the block was just proved to be one of the span's, and free.
            at = unsafe { (*at).next };
        }
        let used = body.used() as usize;
        // SAFETY: the body is the span's.
        let withheld = unsafe { holes::Shape::of(self.heap, span, body) }.withheld(holes::of(span));
        let text = "free blocks, those that holes touch, and blocks in use are all that were carved";
        OF_BLOCKS.equal(text, subject, free + withheld + used, shape.carved)?;
        let text = "no more is in the books than happened";
        OF_BLOCKS.at_most(text, subject, body.posted as usize, used + body.frees as usize)
    }

    /// 4 and 5, for one block that claims to be free.
    fn check_free_block(&self, span: &Span, shape: &Shape, at: *const FreeBlock) -> Result<(), Broken> {
        let subject = ("block at", at.addr());
        let ours = self.heap.region().page_of(Address::of(at)).is_some_and(|page| span.holds(page));
        OF_BLOCKS.equal("a free block lies in its span", subject, ours.into(), 1)?;
        let offset = at.addr() - self.heap.region().address(span.page()).0;
        OF_BLOCKS.equal("a free block begins a block", subject, offset % shape.class.size(), 0)?;
        OF_BLOCKS.at_most(
            "a free block was carved",
            subject,
            offset / shape.class.size() + 1,
            shape.carved,
        )?;
        let within = (at.addr() - self.heap.region().address(span.page()).0) / shape.class.size();
        // SAFETY: the body is the span's.
        let pages = unsafe { holes::Shape::of(self.heap, span, span.body()) }.pages_of(within);
        let text = "no hole touches a block in a list";
        OF_BLOCKS.equal(text, subject, (pages & holes::of(span)) as usize, 0)?;
        // SAFETY: it lies in a span of the heap, at a block's beginning, and nobody has that block.
        let found = unsafe { (*at).mark };
        OF_KEY.equal("a free block carries its mark", subject, found, mark(self.key, at))
    }

    unsafe fn check_cache(&self, cache: &BlockCache) -> Result<Counts, Broken> {
        let mut counts = Counts::default();
        for class in SizeClass::all() {
            let bin = &cache.bins[class.0 as usize];
            counts.all += bin.spans as usize;
            let current = cache.current(class);
            if cache.is_current(class) {
                // SAFETY: all locks are held.
                unsafe { self.check_member(cache, class, current, Phase::Current)? };
                counts.current += 1;
            }
            let text = "a counted cache takes from its portions";
            let (found, front) = (bin.current.addr(), cache.front_of(class).addr());
            OF_PORTION.equal(text, ("class", class.0.into()), found, front)?;
            if (self.is_quiet)(cache.owner()) {
                self.check_portion(cache, class, current)?;
            }
            let (mut before, mut at) = (0, bin.first);
            while let Some(id) = at.some() {
                let subject = ("span", id.0 as usize);
                let span = self.heap.span(id).filter(|span| span.is_in_use());
                OF_PHASE.equal("a span in a line is in use", subject, span.is_some().into(), 1)?;
                let Some(span) = span else { break };
                // SAFETY: all locks are held, those of the lines included.
                let links = unsafe {
                    self.check_member(cache, class, span.body(), Phase::Listed)?;
                    *span.links()
                };
                let text = "a span in a line names the one before it";
                OF_PHASE.equal(text, subject, links.before as usize, before as usize)?;
                (before, at) = (id.0, SpanId(links.after));
                counts.listed += 1;
            }
        }
        for (granules, &direct) in cache.direct.iter().enumerate() {
            let class = SizeClass::of_small((granules * 16).min(MAX_DIRECT));
            let current = cache.bins[class.0 as usize].current;
            let text = "the table of small sizes leads to the current span";
            OF_PHASE.equal(text, ("granules", granules), direct.addr(), current.addr())?;
        }
        Ok(counts)
    }

    /// 7, for a quiet owner.
    fn check_portion(
        &self,
        cache: &BlockCache,
        class: SizeClass,
        current: *const BlockSpan,
    ) -> Result<(), Broken> {
        let subject = ("class", class.0.into());
        let (mut at, count, before_sample) = cache.dealt(class);
        OF_PORTION.equal("a portion ends before the sample", subject, before_sample.into(), 1)?;
        let mut found = 0;
        while !at.is_null() {
            // SAFETY: blocks are dealt from the current span, and only if there is one; locks as above.
            unsafe {
                self.check_free_block(&*current.cast::<Span>(), &Shape::of(current), at)?;
                at = (*at).next;
            }
            found += 1;
            OF_PORTION.at_most("a portion ends", subject, found, count as usize)?;
        }
        OF_PORTION.equal("a portion has what it counts", subject, found, count as usize)
    }

    /// 6, for a span that a cache has in one of its places.
    unsafe fn check_member(
        &self,
        cache: &BlockCache,
        class: SizeClass,
        body: *const BlockSpan,
        phase: Phase,
    ) -> Result<(), Broken> {
        // SAFETY: all locks are held; none of these fields changes on a fast path.
        let (found, of, at) = unsafe { ((*body).phase, (*body).class, (*body).cache) };
        let subject = ("body at", body.addr());
        OF_PHASE.equal("a span is where its phase says", subject, found as usize, phase as usize)?;
        OF_PHASE.equal("a span is where its class says", subject, of.0.into(), class.0.into())?;
        OF_PHASE.equal(
            "a span is where its cache says",
            subject,
            at.addr(),
            core::ptr::from_ref(cache).addr(),
        )
    }

    /// 3 to 5, for the blocks that wait in a span.
    fn check_waiting(
        &self,
        subject: (&'static str, usize),
        span: &Span,
        shape: &Shape,
    ) -> Result<u16, Broken> {
        let waiting = remote::look(span.word());
        let memory = self.heap.region().page_pointer(span.page());
        let mut at = Waiting::block(memory, waiting.last).cast_const();
        for block in 1..=waiting.count {
            self.check_free_block(span, shape, at)?;
            if block == waiting.count {
                let first = Waiting::block(memory, waiting.first).addr();
                OF_WAITING.equal(
                    "the list of those that wait ends with the first",
                    subject,
                    at.addr(),
                    first,
                )?;
            }
            // SAFETY: the block was just proved to be one of the span's, and nobody has it.
            at = unsafe { (*at).next };
        }
        Ok(waiting.count)
    }

    /// 2 and 3, for the inbox of one owner. Returns how many spans are in it.
    unsafe fn check_inbox(&self, owner: u32, inbox: &Inbox) -> Result<usize, Broken> {
        let most = self.heap.region().committed().0 / PAGE_SIZE;
        let mut count = 0;
        for id in inbox.iter(self.heap.links()) {
            let subject = ("span", id.0 as usize);
            let span = self.heap.span(id).filter(|span| span.is_in_use());
            OF_WAITING.equal("a span in an inbox is in use", subject, span.is_some().into(), 1)?;
            let Some(span) = span else { break };
            // SAFETY: all locks are held; the phase does not change on a fast path.
            let phase = unsafe { (*span.body::<BlockSpan>()).phase };
            let small = matches!(phase, Phase::Current | Phase::Listed | Phase::Full);
            OF_WAITING.equal("a span in an inbox is one of blocks", subject, small.into(), 1)?;
            let waiting = remote::look(span.word()).count;
            OF_WAITING.at_most("blocks wait in a span that is in an inbox", subject, 1, waiting.into())?;
            count += 1;
            OF_WAITING.at_most("an inbox ends", ("mutator", owner as usize), count, most)?;
        }
        Ok(count)
    }
}
