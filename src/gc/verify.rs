//! A second marking, to compare: a plain search in depth that shares no code with the first one.
//!
//! It looks words up one at a time with [`Objects::find`], keeps a bitmap of its own of what it has seen, and a stack
//! of objects still to be looked at. Both lie in spans of the purpose *work-buffers*, which it gives back. The first
//! object that it reaches and that has no mark is reported, with the one whose word led there.
//!
//! Slow, and simple enough to be believed. (Go: `mcheckmark.go`.)
//!
//! # Safety
//! The world stands still, so words do not change; the spans of bitmap and stack are the verifier's own.

use super::roots::RootRange;
use crate::base::{Address, Bytes, Exhausted, PAGE_SIZE, Pages, purpose};
use crate::object::{Object, Objects, Shapes, SpanKind};
use crate::span::{Ground, Request, Span, SpanCache, SpanId};

/// The bitmap has a bit for each place where an object can begin.
const GRANULE: usize = 16;
/// Pages of a piece of the stack.
const PIECE: Pages = Pages(8);
/// Addresses in a piece of the stack; its first word says which piece is below.
const IN_PIECE: usize = PIECE.bytes().0 / 8 - 1;

/// A reachable object without a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmarked {
    /// The object.
    pub object: Object,
    /// The object with the word that leads there; `None` for a root.
    pub parent: Option<Object>,
}

/// What a verification came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Reached {
    /// Objects.
    pub objects: usize,
    /// Bytes of them.
    pub bytes: Bytes,
}

/// A verification under way.
pub struct Verifier<'a, 'b> {
    ground: Ground<'a>,
    spans: &'b mut SpanCache,
    objects: &'a Objects,
    shapes: &'a Shapes,
    seen: SpanId,
    /// The top piece of the stack, and the addresses in it.
    top: Option<SpanId>,
    count: usize,
    reached: Reached,
    unmarked: Option<Unmarked>,
}

impl<'a, 'b> Verifier<'a, 'b> {
    /// Begins a verification.
    ///
    /// # Errors
    /// There is no memory for the bitmap, which has a bit for every 16 bytes that objects can lie in.
    ///
    /// # Safety
    /// The world stands still until [`Verifier::finish`]; marking has ended, the mutators' caches are flushed, and nothing is
    /// swept yet.
    pub unsafe fn new(
        ground: Ground<'a>,
        spans: &'b mut SpanCache,
        (objects, shapes): (&'a Objects, &'a Shapes),
    ) -> Result<Verifier<'a, 'b>, Exhausted> {
        let bytes = Bytes(objects.covered().0.div_ceil(GRANULE * 64).max(1) * 8);
        let new = ground.allocate(spans, Request::new(purpose::WORK_BUFFERS, bytes.pages_ceil()))?;
        // SAFETY: the span is ours, and as long.
        unsafe { ground.heap.region().page_pointer(new.page).write_bytes(0, bytes.0) };
        let (seen, reached) = (new.id, Reached::default());
        Ok(Verifier { ground, spans, objects, shapes, seen, top: None, count: 0, reached, unmarked: None })
    }

    /// Walks through everything that is reachable from an address.
    ///
    /// # Errors
    /// There is no memory for the stack. The verification cannot go on, and is to be finished.
    pub fn root(&mut self, address: Address) -> Result<(), Exhausted> {
        self.visit(address, None)?;
        self.walk()
    }

    /// Walks through everything that is reachable from a range.
    ///
    /// # Errors
    /// As [`Verifier::root`].
    ///
    /// # Safety
    /// The range and its bitmap are readable.
    pub unsafe fn range(&mut self, range: &RootRange) -> Result<(), Exhausted> {
        let first = range.start.0.next_multiple_of(8);
        let words = (range.start.0 + range.size.0).saturating_sub(first) / 8;
        for at in 0..words {
            // SAFETY: the caller's promise.
            let word = unsafe {
                if !range.bits.is_null() && *range.bits.add(at / 64) >> (at % 64) & 1 == 0 {
                    continue;
                }
                core::ptr::with_exposed_provenance::<usize>(first + at * 8).read_volatile()
            };
            self.root(Address(word))?;
        }
        Ok(())
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// The first object that was reached and has no mark.
    pub fn finish(mut self) -> Result<Reached, Unmarked> {
        while let Some(piece) = self.top {
            self.drop_piece(piece);
        }
        let pages = self.record(self.seen).pages();
        // SAFETY: the bitmap's span is ours, and nobody looks there any more.
        unsafe { self.ground.free(self.spans, self.seen, pages) };
        self.unmarked.map_or(Ok(self.reached), Err)
    }

    /// Looks at one word; what it leads to for the first time goes onto the stack.
    fn visit(&mut self, address: Address, parent: Option<Object>) -> Result<(), Exhausted> {
        let Some(object) = self.objects.find(address) else { return Ok(()) };
        let granule = (object.start.0 - self.objects.base().0) / GRANULE;
        // SAFETY: the bitmap has a bit for it, and is ours.
        let word = unsafe { &mut *self.words(self.seen).add(granule / 64) };
        if *word >> (granule % 64) & 1 == 1 {
            return Ok(());
        }
        *word |= 1 << (granule % 64);
        self.reached.objects += 1;
        self.reached.bytes += object.size;
        if self.unmarked.is_none() && !self.objects.is_marked(&object) {
            self.unmarked = Some(Unmarked { object, parent });
        }
        if object.kind == SpanKind::Plain { Ok(()) } else { self.push(object.start) }
    }

    /// Visits what the words of all objects on the stack lead to.
    fn walk(&mut self) -> Result<(), Exhausted> {
        while let Some(address) = self.pop() {
            let object = self.objects.find(address).expect("objects stay while the world stands still");
            for word in 0..object.size.0 / 8 {
                self.look(&object, word)?;
            }
        }
        Ok(())
    }

    /// Visits what a word of an object leads to, if it may be a pointer. What only a program knows is not known here, so
    /// such an object's words all may be.
    fn look(&mut self, object: &Object, word: usize) -> Result<(), Exhausted> {
        let may_point = match self.objects.shape_of(object) {
            Some(shape) => {
                let map = self.shapes.map(shape, object.size);
                map.is_none_or(|map| map.masks(word, word + 1).next().is_some())
            }
            None => {
                let in_page = (object.start.0 - self.objects.base().0) % PAGE_SIZE / 8 + word;
                self.objects.page_map(object.first_page).is_some_and(|map| map.get(in_page, 1) == 1)
            }
        };
        if !may_point {
            return Ok(());
        }
        let at = self.ground.heap.region().pointer(Address(object.start.0 + word * 8)).cast::<usize>();
        // SAFETY: a word of an object.
        let value = unsafe { at.read_volatile() };
        self.visit(Address(value), Some(*object))
    }

    fn push(&mut self, address: Address) -> Result<(), Exhausted> {
        let piece = match self.top {
            Some(piece) if self.count < IN_PIECE => piece,
            below => {
                let new = self.ground.allocate(self.spans, Request::new(purpose::WORK_BUFFERS, PIECE))?;
                // SAFETY: the piece was just taken for this stack.
                unsafe { self.words(new.id).write(below.map_or(0, |SpanId(number)| u64::from(number))) };
                (self.top, self.count) = (Some(new.id), 0);
                new.id
            }
        };
        self.count += 1;
        // SAFETY: there is room in the piece, which is ours.
        unsafe { self.words(piece).add(self.count).write(address.0 as u64) };
        Ok(())
    }

    fn pop(&mut self) -> Option<Address> {
        let mut piece = self.top?;
        if self.count == 0 {
            self.drop_piece(piece);
            piece = self.top?;
        }
        self.count -= 1;
        // SAFETY: that many addresses and one more are in the piece, which is ours.
        Some(Address(unsafe { self.words(piece).add(self.count + 1).read() } as usize))
    }

    /// Gives the top piece back; the one below it is full.
    fn drop_piece(&mut self, piece: SpanId) {
        // SAFETY: the piece is ours, and its first word says what is below.
        unsafe {
            self.top = SpanId(self.words(piece).read() as u32).some();
            self.ground.free(self.spans, piece, PIECE);
        }
        self.count = IN_PIECE;
    }

    /// The memory of a span of ours.
    fn words(&self, span: SpanId) -> *mut u64 {
        self.ground.heap.region().page_pointer(self.record(span).page()).cast()
    }

    fn record(&self, span: SpanId) -> &'a Span {
        self.ground.heap.span(span).expect("a span that is held has a record")
    }
}
