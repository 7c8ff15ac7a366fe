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

/// Addresses, the last one on top: in pieces that are spans of the purpose *work-buffers*, each of which knows the one
/// below. Whoever has a pile with something in it clears it.
#[derive(Default)]
pub struct Pile {
    top: Option<SpanId>,
    /// Addresses in the top piece.
    count: usize,
}

/// A verification under way.
pub struct Verifier<'a, 'b> {
    ground: Ground<'a>,
    spans: &'b mut SpanCache,
    objects: &'a Objects,
    shapes: &'a Shapes,
    seen: SpanId,
    pile: Pile,
    reached: Reached,
    unmarked: Option<Unmarked>,
}

impl RootRange {
    /// Visits what the words of the range hold that may be pointers, one at a time.
    ///
    /// # Safety
    /// The bitmap is readable, and so are the words whose bits are set; the memory's provenance is exposed.
    pub unsafe fn for_each_word(&self, visit: &mut dyn FnMut(Address)) {
        let first = self.start.0.next_multiple_of(8);
        let words = (self.start.0 + self.size.0).saturating_sub(first) / 8;
        for at in 0..words {
            // SAFETY: the caller's promise.
            let word = unsafe {
                if !self.bits.is_null() && *self.bits.add(at / 64) >> (at % 64) & 1 == 0 {
                    continue;
                }
                core::ptr::with_exposed_provenance::<usize>(first + at * 8).read_volatile()
            };
            visit(Address(word));
        }
    }
}

impl<'a, 'b> Verifier<'a, 'b> {
    /// Begins a verification.
    ///
    /// # Errors
    /// There is no memory for the bitmap, which has a bit for every 16 bytes that objects can lie in.
    ///
    /// # Safety
    /// The world stands still until [`Verifier::finish`]; marking has ended, and nothing is swept yet. What the mutators'
    /// caches still hold is black and zero.
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
        Ok(Verifier { ground, spans, objects, shapes, seen, pile: Pile::default(), reached, unmarked: None })
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
        let mut walked = Ok(());
        // SAFETY: the caller's promise.
        unsafe {
            range.for_each_word(&mut |word| {
                if walked.is_ok() {
                    walked = self.root(word);
                }
            });
        }
        walked
    }

    /// Walks through everything that is reachable from the addresses on a pile, and takes them from there.
    ///
    /// # Errors
    /// As [`Verifier::root`].
    pub fn all(&mut self, pile: &mut Pile) -> Result<(), Exhausted> {
        while let Some(address) = pile.pop(self.ground, self.spans) {
            self.root(address)?;
        }
        Ok(())
    }

    /// Takes the objects on a pile for some that lead nowhere, whatever their words are; before anything has led there.
    pub fn close_all(&mut self, pile: &mut Pile) {
        while let Some(address) = pile.pop(self.ground, self.spans) {
            self.see(address, None);
        }
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// The first object that was reached and has no mark.
    pub fn finish(mut self) -> Result<Reached, Unmarked> {
        self.pile.clear(self.ground, self.spans);
        let pages = record(&self.ground, self.seen).pages();
        // SAFETY: the bitmap's span is ours, and nobody looks there any more.
        unsafe { self.ground.free(self.spans, self.seen, pages) };
        self.unmarked.map_or(Ok(self.reached), Err)
    }

    /// Looks at one word; what it leads to for the first time goes onto the stack.
    fn visit(&mut self, address: Address, parent: Option<Object>) -> Result<(), Exhausted> {
        let Some(object) = self.see(address, parent).filter(|object| object.kind != SpanKind::Plain) else {
            return Ok(());
        };
        if let (SpanKind::Headed, Some(shape)) = (object.kind, self.objects.shape_of(&object)) {
            // What is black from its birth no marker has looked at, so its program may never have been needed. Where there
            // is no memory for its bits, all words count.
            let _ = self.shapes.unroll(shape, self.ground, self.spans);
        }
        self.pile.push(object.start, self.ground, self.spans)
    }

    /// The object that an address leads to, if it was not seen yet.
    fn see(&mut self, address: Address, parent: Option<Object>) -> Option<Object> {
        let object = self.objects.find(address)?;
        let granule = (object.start.0 - self.objects.base().0) / GRANULE;
        // SAFETY: the bitmap has a bit for it, and is ours.
        let word = unsafe { &mut *self.words(self.seen).add(granule / 64) };
        if *word >> (granule % 64) & 1 == 1 {
            return None;
        }
        *word |= 1 << (granule % 64);
        self.reached.objects += 1;
        self.reached.bytes += object.size;
        if self.unmarked.is_none() && !self.objects.is_marked(&object) {
            self.unmarked = Some(Unmarked { object, parent });
        }
        Some(object)
    }

    /// Visits what the words of all objects on the stack lead to.
    fn walk(&mut self) -> Result<(), Exhausted> {
        while let Some(address) = self.pile.pop(self.ground, self.spans) {
            let object = self.objects.find(address).expect("objects stay while the world stands still");
            for word in 0..object.size.0 / 8 {
                self.look(&object, word)?;
            }
        }
        Ok(())
    }

    /// Visits what a word of an object leads to, if it may be a pointer.
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

    /// The memory of a span of ours.
    fn words(&self, span: SpanId) -> *mut u64 {
        words(&self.ground, span)
    }
}

impl Pile {
    /// An empty one.
    pub const fn new() -> Pile {
        Pile { top: None, count: 0 }
    }

    /// Puts an address on top.
    ///
    /// # Errors
    /// There is no memory; the pile is as it was.
    pub fn push(
        &mut self,
        address: Address,
        ground: Ground<'_>,
        spans: &mut SpanCache,
    ) -> Result<(), Exhausted> {
        let piece = match self.top {
            Some(piece) if self.count < IN_PIECE => piece,
            below => {
                let new = ground.allocate(spans, Request::new(purpose::WORK_BUFFERS, PIECE))?;
                // SAFETY: the piece was just taken for this pile.
                unsafe { words(&ground, new.id).write(below.map_or(0, |SpanId(number)| u64::from(number))) };
                (self.top, self.count) = (Some(new.id), 0);
                new.id
            }
        };
        self.count += 1;
        // SAFETY: there is room in the piece, which is ours.
        unsafe { words(&ground, piece).add(self.count).write(address.0 as u64) };
        Ok(())
    }

    /// Takes the address from the top.
    pub fn pop(&mut self, ground: Ground<'_>, spans: &mut SpanCache) -> Option<Address> {
        let mut piece = self.top?;
        if self.count == 0 {
            self.drop_piece(piece, ground, spans);
            piece = self.top?;
        }
        self.count -= 1;
        // SAFETY: that many addresses and one more are in the piece, which is ours.
        Some(Address(unsafe { words(&ground, piece).add(self.count + 1).read() } as usize))
    }

    /// Drops all addresses, and gives the memory back.
    pub fn clear(&mut self, ground: Ground<'_>, spans: &mut SpanCache) {
        while let Some(piece) = self.top {
            self.drop_piece(piece, ground, spans);
        }
    }

    /// Gives the top piece back; the one below it is full.
    fn drop_piece(&mut self, piece: SpanId, ground: Ground<'_>, spans: &mut SpanCache) {
        // SAFETY: the piece is ours, and its first word says what is below.
        unsafe {
            self.top = SpanId(words(&ground, piece).read() as u32).some();
            ground.free(spans, piece, PIECE);
        }
        self.count = IN_PIECE;
    }
}

/// The memory of a span that somebody holds.
fn words(ground: &Ground<'_>, span: SpanId) -> *mut u64 {
    ground.heap.region().page_pointer(record(ground, span).page()).cast()
}

fn record<'a>(ground: &Ground<'a>, span: SpanId) -> &'a Span {
    ground.heap.span(span).expect("a span that is held has a record")
}
