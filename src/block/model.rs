//! The slow twin of a heap of blocks: a map from addresses to what was asked for.
//!
//! It looks at nothing but what a program sees. Of every block that is handed out it checks that
//!
//! 1. it overlaps no other block, and begins at a multiple of the alignment asked for;
//! 2. all of its usable bytes are the holder's: they are filled with a pattern of the block's own, which must still be
//!    there when the block is freed, resized or looked at;
//! 3. it is as large as asked for, and wastes little: less than 16 bytes up to 128, an eighth up to 64 KiB, less than a
//!    page above;
//! 4. it reads as zeros, if zeros were asked for.
//!
//! For tests and fuzzing, which use it from outside the crate: so it names nothing of the crate.
//!
//! # Safety
//! Blocks are written and read through the pointers that the heap under test gave out. If it gave out nonsense,
//! that is what the test is there to find.

use std::collections::BTreeMap;

/// Bytes of blocks above which only some words carry the pattern.
const ALL_WORDS_UP_TO: usize = 64 << 10;
/// The distance between the words of larger blocks that do, in words.
const STRIDE: usize = 61;
/// The largest block that shares a span.
const MAX_SMALL: usize = 64 << 10;
/// Bytes of a page.
const PAGE: usize = 8 << 10;

/// A block in somebody's hands.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its first byte.
    pub pointer: *mut u8,
    /// Bytes that were asked for.
    pub asked: usize,
    /// Bytes that its holder may use.
    pub usable: usize,
    /// What the caller wants to remember with it.
    pub tag: u64,
    /// What its pattern follows from.
    seed: u64,
}

/// A request for a block.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// How many bytes.
    pub size: usize,
    /// The alignment, a power of two.
    pub align: usize,
    /// Whether they are to be zero.
    pub zeroed: bool,
    /// What to remember with the block.
    pub tag: u64,
}

/// Every block in use.
#[derive(Default, Debug)]
pub struct Model {
    blocks: BTreeMap<usize, Held>,
    made: u64,
}

// SAFETY: the pointers are the addresses of blocks, which any thread may hold.
unsafe impl Send for Model {}

impl Held {
    /// The words that carry the pattern, and what each must hold.
    fn words(&self) -> impl Iterator<Item = (*mut u64, u64)> {
        let (pointer, seed, count) = (self.pointer.cast::<u64>(), self.seed, self.usable / 8);
        let stride = if self.usable <= ALL_WORDS_UP_TO { 1 } else { STRIDE };
        let last = count.checked_sub(1).filter(move |_| stride > 1);
        (0..count).step_by(stride).chain(last).map(move |at| {
            let word = (seed ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (pointer.wrapping_add(at), word)
        })
    }

    fn fill(&self) {
        // SAFETY: the words lie in the block, which is aligned to 16 bytes and in use.
        self.words().for_each(|(at, word)| unsafe { at.write(word) });
    }

    /// Checks that the block holds what it was filled with, as far as its first `bytes` are concerned.
    fn verify(&self, bytes: usize) {
        let end = self.pointer.addr() + bytes;
        for (at, word) in self.words().take_while(|(at, _)| at.addr() + 8 <= end) {
            // SAFETY: as above.
            let found = unsafe { at.read() };
            assert_eq!(found, word, "contents changed at {at:?} of {self:?}");
        }
    }

    fn assert_zero(&self) {
        let bytes = self.asked.next_multiple_of(8).min(self.usable);
        for at in 0..bytes / 8 {
            // SAFETY: the words lie in the block.
            let found = unsafe { self.pointer.cast::<u64>().add(at).read() };
            let wanted = u64::MAX >> (64 - 8 * (self.asked - 8 * at).min(8));
            assert_eq!(found & wanted, 0, "word {at} of {self:?} is not zero");
        }
    }

    fn assert_size(&self, natural: bool) {
        let Held { asked, usable, .. } = *self;
        assert!(usable >= asked.max(1), "{self:?} is too small");
        assert!(usable.is_multiple_of(16), "{self:?}");
        let wasted = usable - asked;
        match asked {
            _ if asked > MAX_SMALL => assert!(wasted < PAGE, "{self:?} wastes a page"),
            _ if !natural => {}
            0 => assert_eq!(usable, 16),
            1..=128 => assert!(wasted < 16, "{self:?} is not of the smallest class"),
            _ => assert!(wasted * 8 <= usable, "{self:?} wastes more than an eighth"),
        }
    }
}

impl Model {
    /// Takes note of a block that was just handed out, and fills it.
    pub fn allocated(&mut self, pointer: *mut u8, asked: Asked, usable: usize) {
        self.made += 1;
        let seed = self.made ^ asked.tag.rotate_left(32);
        let held = Held { pointer, asked: asked.size, usable, tag: asked.tag, seed };
        let at = pointer.addr();
        assert!(at.is_multiple_of(asked.align.max(16)), "{held:?} is not aligned to {}", asked.align);
        held.assert_size(asked.align <= 16);
        self.assert_free(&held);
        if asked.zeroed {
            held.assert_zero();
        }
        held.fill();
        self.blocks.insert(at, held);
    }

    fn assert_free(&self, held: &Held) {
        let at = held.pointer.addr();
        if let Some((_, before)) = self.blocks.range(..=at).next_back() {
            assert!(before.pointer.addr() + before.usable <= at, "{held:?} overlaps {before:?}");
        }
        if let Some((&next, after)) = self.blocks.range(at..).next() {
            assert!(at + held.usable <= next, "{held:?} overlaps {after:?}");
        }
    }

    /// Gives up a block that is about to be freed: its contents are as they were.
    pub fn freed(&mut self, pointer: *mut u8) -> Held {
        let held = self.blocks.remove(&pointer.addr()).expect("only blocks in use are freed");
        held.verify(held.usable);
        held
    }

    /// Takes in a block that another model gave up.
    pub fn take(&mut self, held: Held) {
        self.assert_free(&held);
        held.verify(held.usable);
        self.blocks.insert(held.pointer.addr(), held);
    }

    /// Notes that a block was resized where it stands: what both sizes cover is as it was.
    pub fn resized(&mut self, pointer: *mut u8, asked: usize, usable: usize) {
        let held = self.blocks.remove(&pointer.addr()).expect("only blocks in use are resized");
        held.verify(held.usable.min(usable));
        let held = Held { asked, usable, ..held };
        assert!(usable >= asked, "{held:?} is too small");
        self.assert_free(&held);
        held.fill();
        self.blocks.insert(pointer.addr(), held);
    }

    /// The `n`-th block in use, counted around.
    pub fn pick(&self, n: usize) -> Option<Held> {
        let count = self.blocks.len().max(1);
        self.blocks.values().nth(n % count).copied()
    }

    /// Whether a block in use begins at an address.
    pub fn begins(&self, address: usize) -> bool {
        self.blocks.contains_key(&address)
    }

    /// How many blocks are in use.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether no block is in use.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Every block in use.
    pub fn blocks(&self) -> impl Iterator<Item = Held> {
        self.blocks.values().copied()
    }

    /// Looks at the contents of every block.
    pub fn verify(&self) {
        self.blocks.values().for_each(|held| held.verify(held.usable));
    }
}
