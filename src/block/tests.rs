//! Tests of the room, through a heap of its own: a cache is nothing without spans.
//!
//! # Safety
//! Blocks and spans are the tests' own: what is looked at belongs to heaps that nobody else uses meanwhile.

use crate::base::class::SizeClass;
use crate::block::body::{BlockSpan, FreeBlock, mark};

mod check;
mod spans;
mod threads;

// The fuzz bodies, driven by random programs that shrink. They find these two where they find them at home.
use super::model as block_model;
#[path = "../../fuzz/src/block.rs"]
#[allow(unreachable_pub)]
mod fuzz_block;
#[path = "../../fuzz/src/front.rs"]
#[allow(unreachable_pub)]
mod fuzz_front;
#[path = "../../fuzz/src/input.rs"]
#[allow(unreachable_pub)]
mod input;

mod random_programs {
    use proptest::prelude::*;

    /// Few where every check is compiled in, many in a release.
    const CASES: u32 = if cfg!(debug_assertions) { 24 } else { 1000 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(CASES))]

        #[test]
        fn of_several_owners_lose_no_block(program in prop::collection::vec(any::<u8>(), 0..1500)) {
            super::fuzz_block::fuzz(&program);
        }

        #[test]
        fn on_a_heap_get_what_they_ask_for(program in prop::collection::vec(any::<u8>(), 0..1000)) {
            super::fuzz_front::fuzz(&program);
        }

        #[test]
        fn in_the_environment_do_no_harm(text in prop::collection::vec(any::<u8>(), 0..60)) {
            super::fuzz_front::configuration(&text);
        }
    }
}

#[test]
fn carving_hands_out_every_block_once_and_clears_the_key() {
    for class in SizeClass::all() {
        let row = class.row();
        let bytes = row.pages as usize * crate::base::PAGE_SIZE;
        let mut memory = vec![0xaa_u64; bytes / 8];
        let mut span = BlockSpan::empty();
        (span.class, span.blocks, span.magic) = (class, row.blocks, row.magic.into());
        let mut seen = Vec::new();
        while span.carved < span.blocks {
            // SAFETY: the memory is as long as a span of the class.
            unsafe {
                let memory = memory.as_mut_ptr().cast::<u8>();
                let next = memory.add(span.carved as usize * span.size()).cast::<FreeBlock>();
                (*next).mark = mark(0xaaaa, next);
                let first = span.carve(memory, 0xaaaa);
                assert_eq!(first, next);
                assert_ne!((*first).mark, mark(0xaaaa, first), "a block in use looks free");
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
