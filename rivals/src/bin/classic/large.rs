//! Benchmarks of blocks that grow and of blocks above 64 KiB.

use crate::block::Block;
use crate::random::Random;

/// A thousand vectors that grow by a half each to 8 KiB and start again, and beside them one that grows to
/// 256 MiB by an eighth each time and is written as it grows.
pub(crate) fn growth(divisor: usize) -> u64 {
    let mut random = Random::new(17);
    let mut vectors: Vec<(Block, usize)> = (0..1_000).map(|_| (Block::new(16), 16)).collect();
    let (mut huge, mut huge_size) = (Block::new(1 << 20), 1usize << 20);
    let steps = 4_000_000 / divisor;
    for step in 0..steps {
        let slot = random.below(vectors.len());
        let (block, size) = &mut vectors[slot];
        *size = if *size > 8 << 10 { 16 } else { *size + *size / 2 };
        block.resize(*size);
        if step % (steps / 50).max(1) == 0 && huge_size < 256 << 20 {
            huge_size += huge_size / 8;
            huge.resize(huge_size);
            huge.touch(4096);
        }
    }
    huge.free();
    vectors.into_iter().for_each(|(block, _)| block.free());
    steps as u64
}

/// How much of a large block its owner writes.
#[derive(Clone, Copy)]
pub(crate) enum Touch {
    /// One byte in 64 KiB: most pages are never used.
    Sparse,
    /// Everything.
    Full,
}

/// Random replacement among 24 blocks of 64 KiB to 16 MiB, each power of two as likely as the next.
pub(crate) fn large(touch: Touch, divisor: usize) -> u64 {
    let mut random = Random::new(19);
    let block = |random: &mut Random| {
        let mut block = Block::new(random.logarithmic(16, 24));
        match touch {
            Touch::Sparse => block.touch(64 << 10),
            Touch::Full => block.fill(0x5a),
        }
        block
    };
    let mut slots: Vec<Block> = (0..24).map(|_| block(&mut random)).collect();
    let steps = match touch {
        Touch::Sparse => 30_000,
        Touch::Full => 900,
    } / divisor;
    for _ in 0..steps {
        let slot = random.below(slots.len());
        let young = block(&mut random);
        std::mem::replace(&mut slots[slot], young).free();
    }
    slots.into_iter().for_each(Block::free);
    steps as u64 + 24
}
