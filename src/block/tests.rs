//! Tests of the room, through a heap of its own: a cache is nothing without spans.

use crate::base::class::{SizeClass, TABLE};
use crate::block::body::{BlockSpan, FreeBlock};

#[test]
fn carving_hands_out_every_block_once_and_clears_the_key() {
    for row in &TABLE {
        let bytes = row.pages as usize * crate::base::PAGE_SIZE;
        let mut memory = vec![0xaa_u64; bytes / 8];
        let mut span = BlockSpan::empty();
        (span.size, span.blocks, span.magic) = (row.size, row.blocks, row.magic);
        let mut seen = Vec::new();
        while span.carved < span.blocks {
            // SAFETY: the memory is as long as a span of the class.
            unsafe {
                let first = span.carve(memory.as_mut_ptr().cast(), 0xaaaa_aaaa_aaaa_aaaa);
                assert_ne!((*first).key, 0xaaaa_aaaa_aaaa_aaaa, "a block in use carries the key");
                seen.push(first.addr());
                let mut at = std::mem::replace(&mut span.free, std::ptr::null_mut::<FreeBlock>());
                while !at.is_null() {
                    seen.push(at.addr());
                    at = (*at).next;
                }
            }
        }
        let base = memory.as_ptr().addr();
        assert!(seen.iter().copied().eq((0..row.blocks as usize).map(|i| base + i * row.size as usize)));
    }
}

#[test]
fn a_full_span_is_listed_after_an_eighth() {
    for class in SizeClass::all() {
        let mut span = BlockSpan::empty();
        span.blocks = class.row().blocks;
        assert!(span.full_trip() >= 1 && span.full_trip() <= span.blocks.div_ceil(8));
    }
}
