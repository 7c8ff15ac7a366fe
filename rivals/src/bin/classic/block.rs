//! A block from C's `malloc`, tagged while it lives.
//!
//! States: *live* (the tag stands in its first word, its size's low byte in its last byte) and *freed* (the
//! value is gone: `free` takes it). A block that is dropped without `free` is a mistake of the benchmark and
//! leaks, as it would in C.
//!
//! # Safety
//!
//! `at` is what one call of the `malloc` family returned for `size` bytes and nobody else holds it, so reads
//! and writes within `size` are in bounds. Only `free` and `resize` give it back, and both consume the value or
//! replace its address.

use std::hint::black_box;
use std::ptr;

/// The smallest block: one tag.
pub(crate) const SMALLEST: usize = 8;

/// A live block of at least [`SMALLEST`] bytes.
pub(crate) struct Block {
    at: *mut u8,
    size: usize,
}

// SAFETY: a block is plain memory owned by this value alone, and the malloc family may free it on any thread.
unsafe impl Send for Block {}

impl Block {
    /// `malloc(size)`.
    pub(crate) fn new(size: usize) -> Block {
        // SAFETY: `malloc` takes any size.
        Block::tagged(unsafe { libc::malloc(size) }, size)
    }

    /// `calloc(1, size)`, and looks at one byte in 512, and the last, for a byte that is not zero.
    pub(crate) fn zeroed(size: usize) -> Block {
        // SAFETY: `calloc` takes any size.
        let at = unsafe { libc::calloc(1, size) };
        assert!(!at.is_null(), "calloc of {size} bytes failed");
        for offset in (0..size).step_by(512).chain([size - 1]) {
            // SAFETY: the offset is below the size that calloc granted.
            let byte = unsafe { at.cast::<u8>().add(offset).read_volatile() };
            assert!(byte == 0, "calloc of {size} bytes: byte {offset} is {byte}");
        }
        Block::tagged(at, size)
    }

    /// `posix_memalign` of `size` bytes at a multiple of `alignment`.
    pub(crate) fn aligned(alignment: usize, size: usize) -> Block {
        let mut at = ptr::null_mut();
        // SAFETY: the address is written to a local; the alignments of the benchmarks are powers of two.
        let refused = unsafe { libc::posix_memalign(&mut at, alignment, size) };
        assert!(
            refused == 0 && (at as usize).is_multiple_of(alignment),
            "posix_memalign({alignment}, {size}): {at:?}"
        );
        Block::tagged(at, size)
    }

    /// `realloc(self, size)`; the tag must have come along.
    pub(crate) fn resize(&mut self, size: usize) {
        let tag = self.tag();
        self.check(tag);
        // SAFETY: the block is live and ours; its old address is not used again.
        let at = unsafe { libc::realloc(self.at.cast(), size) }.cast::<u8>();
        assert!(!at.is_null(), "realloc to {size} bytes failed");
        // SAFETY: realloc keeps the first word, and both sizes are at least one word.
        let found = unsafe { at.cast::<u64>().read_unaligned() };
        assert!(found == tag, "realloc to {size} bytes lost the contents at {at:?}");
        *self = Block::tagged(at.cast(), size);
    }

    /// Checks the tag and frees the block.
    #[inline]
    pub(crate) fn free(self) {
        self.check(self.tag());
        // SAFETY: the block is live and `self` ends here, so nobody uses the address afterwards.
        unsafe { libc::free(self.at.cast()) }
    }

    /// Writes one byte in every `step` bytes behind the tag and before the last byte.
    pub(crate) fn touch(&mut self, step: usize) {
        for offset in (SMALLEST..self.size - 1).step_by(step) {
            // SAFETY: the offset is below the size.
            unsafe { self.at.add(offset).write_volatile(offset as u8) };
        }
    }

    /// Overwrites every byte between the tag and the last byte.
    pub(crate) fn fill(&mut self, byte: u8) {
        // SAFETY: the range starts behind the tag and ends before the last byte of the block.
        unsafe { ptr::write_bytes(self.at.add(SMALLEST), byte, self.size - SMALLEST - 1) };
        black_box(self.at);
    }

    /// The block's address as a number, to store in another block.
    pub(crate) fn into_link(self) -> (usize, usize) {
        (self.at.expose_provenance(), self.size)
    }

    /// The block behind what [`into_link`](Block::into_link) returned.
    ///
    /// # Safety
    ///
    /// The pair came from `into_link` and has not been turned back before.
    pub(crate) unsafe fn from_link(link: (usize, usize)) -> Block {
        Block { at: ptr::with_exposed_provenance_mut(link.0), size: link.1 }
    }

    /// Word `index` behind the tag.
    pub(crate) fn word(&self, index: usize) -> usize {
        assert!((index + 2) * 8 < self.size);
        // SAFETY: the word lies before the last byte, as just checked.
        unsafe { self.at.cast::<usize>().add(index + 1).read() }
    }

    /// Writes word `index` behind the tag.
    pub(crate) fn set_word(&mut self, index: usize, value: usize) {
        assert!((index + 2) * 8 < self.size);
        // SAFETY: the word lies before the last byte, as just checked.
        unsafe { self.at.cast::<usize>().add(index + 1).write(value) }
    }

    #[inline]
    fn tagged(at: *mut libc::c_void, size: usize) -> Block {
        assert!(!at.is_null() && size >= SMALLEST, "no block of {size} bytes");
        // The compiler knows malloc and could drop a pair whose block it can see through.
        let block = Block { at: black_box(at.cast()), size };
        // SAFETY: both writes lie within the size that was just granted. The last byte goes first: in a block
        // of one word the tag covers it.
        unsafe {
            block.at.add(size - 1).write(size as u8);
            block.at.cast::<u64>().write_unaligned(block.tag());
        }
        block
    }

    /// What the first word of the block must be: every live block has its own.
    #[inline]
    fn tag(&self) -> u64 {
        (self.at as u64).rotate_left(16) ^ self.size as u64
    }

    #[inline]
    fn check(&self, tag: u64) {
        // SAFETY: the first word and the last byte are in bounds and were written when the block was made.
        let (word, last) =
            unsafe { (self.at.cast::<u64>().read_unaligned(), self.at.add(self.size - 1).read()) };
        let intact = word == tag && (self.size < 2 * SMALLEST || last == self.size as u8);
        assert!(intact, "the block of {} bytes at {:?} was overwritten", self.size, self.at);
    }
}
