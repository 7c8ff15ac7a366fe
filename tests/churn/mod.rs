//! A churn of memory: random operations on a heap by many threads, which hand their blocks to each other.
//!
//! Every piece of memory carries its own tag at both ends, so that two holders of one byte are found out, and
//! memory that should be zero is looked at.

use spanheap::base::random::Random;
use spanheap::{Bytes, Heap, ManualSpan, Purpose};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;

/// What a churn works on: the heap, its purposes, and what its threads hand to each other.
pub(crate) struct World<'h> {
    pub(crate) heap: &'h Heap,
    pub(crate) purposes: Vec<Purpose<'h>>,
    pub(crate) passed_on: Mutex<Vec<Held<'h>>>,
}

/// Something that a thread holds.
pub(crate) enum Held<'h> {
    Block(Block),
    Span(ManualSpan<'h>),
}

/// A block, and what stands in it.
pub(crate) struct Block {
    at: NonNull<u8>,
    layout: Layout,
    tag: u8,
}

// SAFETY: whoever has the value has the block.
unsafe impl Send for Block {}

/// How large blocks are.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Small ones are smaller than this.
    pub(crate) small: usize,
    /// One in so many is large ...
    pub(crate) large_every: usize,
    /// ... and smaller than this.
    pub(crate) large: usize,
    /// A thread that holds more than so many gives half of that back.
    pub(crate) held: usize,
}

impl Held<'_> {
    /// Writes to every byte that can be used, and leaves the tags as they are.
    #[allow(dead_code, reason = "not every test that churns fills")]
    pub(crate) fn fill(&mut self, heap: &Heap) {
        match self {
            Held::Block(block) => {
                // SAFETY: the block is ours.
                unsafe { block.at.write_bytes(0x5c, heap.usable_size(block.at).unwrap()) };
                block.sign();
            }
            // SAFETY: the span is ours.
            Held::Span(span) => unsafe { span.as_ptr().write_bytes(0x5c, span.len().0) },
        }
    }
}

impl Block {
    /// Notes in the block whose it is, at both ends.
    fn sign(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: the block is ours.
            unsafe {
                self.at.write(self.tag);
                self.at.add(self.layout.size() - 1).write(self.tag);
            }
        }
    }

    /// Looks whether the block is still as it was signed.
    fn verify(&self) {
        if self.layout.size() > 0 {
            // SAFETY: the block is ours.
            let ends = unsafe { (self.at.read(), self.at.add(self.layout.size() - 1).read()) };
            assert_eq!(ends, (self.tag, self.tag), "{:?} of {:?} was overwritten", self.at, self.layout);
        }
    }

    /// The block's bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the block is ours, and was written when it was taken.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.layout.size()) }
    }

    pub(crate) fn give_back(self, heap: &Heap) {
        self.verify();
        // SAFETY: the block is ours and is not used again.
        unsafe { heap.deallocate(self.at, self.layout) }
    }
}

impl<'h> World<'h> {
    pub(crate) fn new(heap: &'h Heap, purposes: usize) -> World<'h> {
        let declare = |i| heap.declare(&format!("churn-{i}")).unwrap();
        World { heap, purposes: (0..purposes).map(declare).collect(), passed_on: Mutex::default() }
    }

    /// Makes `operations` random operations, and returns what is held at the end.
    pub(crate) fn churn(&self, seed: u64, operations: usize, sizes: Sizes) -> Vec<Held<'h>> {
        let mut random = Random::new(seed);
        let mut held = Vec::new();
        for _ in 0..operations {
            match random.below(16) {
                0..=6 => held.extend(self.take(&mut random, sizes)),
                7..=10 if !held.is_empty() => {
                    let at = random.below(held.len());
                    self.give_back(held.swap_remove(at));
                }
                11 if !held.is_empty() => {
                    let at = random.below(held.len());
                    self.passed_on.lock().unwrap().push(held.swap_remove(at));
                }
                12 | 13 => {
                    let other = self.passed_on.lock().unwrap().pop();
                    other.into_iter().for_each(|one| self.give_back(one));
                }
                14 if !held.is_empty() => {
                    let at = random.below(held.len());
                    self.resize(&mut held[at], &mut random);
                }
                _ if random.below(500) == 0 => {
                    self.heap.release_all();
                }
                _ => {}
            }
            if held.len() > sizes.held {
                held.drain(..sizes.held / 2).for_each(|one| self.give_back(one));
            }
        }
        held
    }

    fn take(&self, random: &mut Random, sizes: Sizes) -> Option<Held<'h>> {
        let purpose = self.purposes[random.below(self.purposes.len())];
        if random.below(100) == 0 {
            let mut span = purpose.allocate_span(Bytes(random.below(100_000))).ok()?;
            match random.below(3) {
                0 => {}
                1 => assert!(span.zero().iter().all(|&byte| byte == 0), "a zeroed span is not zero"),
                _ => span.as_uninit().iter_mut().for_each(|byte| {
                    byte.write(0xee);
                }),
            }
            return Some(Held::Span(span));
        }
        let size = match random.below(sizes.large_every) {
            0 => random.below(sizes.large),
            _ => random.below(sizes.small),
        };
        let align = if random.below(20) == 0 { 1 << random.below(15) } else { 8 };
        let layout = Layout::from_size_align(size, align).unwrap();
        let tag = random.bits() as u8 | 1;
        let at = match random.below(4) {
            0 => {
                let at = purpose.allocate_zeroed(layout).ok()?;
                // SAFETY: the block is ours.
                let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), size) };
                assert!(bytes.iter().all(|&byte| byte == 0), "a zeroed block of {size} is not zero");
                at
            }
            1 => purpose.scope(|| self.heap.allocate(layout)).ok()?,
            _ => purpose.allocate(layout).ok()?,
        };
        assert!(at.addr().get().is_multiple_of(align), "{at:?} is no multiple of {align}");
        assert!(self.heap.usable_size(at).unwrap() >= size);
        // SAFETY: the block is ours.
        unsafe { at.write_bytes(0xaa, size) };
        let mut block = Block { at, layout, tag };
        block.sign();
        Some(Held::Block(block))
    }

    fn resize(&self, held: &mut Held<'h>, random: &mut Random) {
        let Held::Block(block) = held else { return };
        block.verify();
        let size = random.below(2 * block.layout.size() + 2);
        // SAFETY: the block is ours.
        if unsafe { self.heap.resize(block.at, size) }.unwrap() {
            let before = block.layout.size();
            block.layout = Layout::from_size_align(size, block.layout.align()).unwrap();
            block.bytes().iter_mut().skip(before).for_each(|byte| *byte = 0xab);
            block.sign();
        }
    }

    pub(crate) fn give_back(&self, one: Held<'h>) {
        match one {
            Held::Block(block) => block.give_back(self.heap),
            Held::Span(span) => drop(span),
        }
    }

    /// Whatever was passed on and fetched by nobody.
    pub(crate) fn rest(&self) -> Vec<Held<'h>> {
        std::mem::take(&mut *self.passed_on.lock().unwrap())
    }
}
