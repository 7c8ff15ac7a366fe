//! Benchmarks of one thread with blocks up to 64 KiB.

use crate::block::Block;
use crate::random::Random;

/// Random replacement among 4,000 blocks of 8 B to 64 KiB, each power of two as likely as the next.
pub(crate) fn random_sizes(divisor: usize) -> u64 {
    let mut random = Random::new(3);
    let mut slots: Vec<Block> = (0..4_000).map(|_| Block::new(random.logarithmic(3, 16))).collect();
    let steps = 5_000_000 / divisor;
    for _ in 0..steps {
        let slot = random.below(slots.len());
        std::mem::replace(&mut slots[slot], Block::new(random.logarithmic(3, 16))).free();
    }
    let total = (steps + slots.len()) as u64;
    slots.into_iter().for_each(Block::free);
    total
}

/// A long-lived binary tree, and short-lived ones of growing depth built and taken down beside it.
pub(crate) fn trees(divisor: usize) -> u64 {
    let mut made = 0;
    let lasting = tree(19, &mut made);
    for depth in (4..=18).step_by(2) {
        for _ in 0..((1usize << (21 - depth)) / divisor).max(1) {
            let short = tree(depth, &mut made);
            cut(short);
        }
    }
    cut(lasting);
    made
}

/// The size of a node: tag, two links (address and size in one word: the size is this one), last byte.
const NODE: usize = 32;

fn tree(depth: usize, made: &mut u64) -> Block {
    let mut node = Block::new(NODE);
    *made += 1;
    for side in 0..2 {
        let link = if depth == 0 { 0 } else { tree(depth - 1, made).into_link().0 };
        node.set_word(side, link);
    }
    node
}

fn cut(node: Block) {
    for side in 0..2 {
        let link = node.word(side);
        if link != 0 {
            // SAFETY: `tree` made the link from a node and stored it once; the node that held it ends here.
            cut(unsafe { Block::from_link((link, NODE)) });
        }
    }
    node.free();
}

/// In which order a batch is freed.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// The youngest block first.
    LastFirst,
    /// The oldest block first.
    FirstFirst,
}

/// Batches of 2,000 blocks of 8 to 1,000 bytes, runs of one size, all freed before the next batch but for one
/// in 64 that stays for eight batches: survivors hold pages down.
pub(crate) fn batches(order: Order, divisor: usize) -> u64 {
    let mut random = Random::new(5);
    let mut survivors: [Vec<Block>; 8] = Default::default();
    let mut batch: Vec<Block> = Vec::new();
    let mut made = 0;
    for round in 0..10_000 / divisor {
        while batch.len() < 2_000 {
            let size = random.between(8, 1_000);
            batch.extend((0..random.between(1, 16)).map(|_| Block::new(size)));
        }
        made += batch.len() as u64;
        let staying = &mut survivors[round % 8];
        staying.drain(..).for_each(Block::free);
        let mut release = |index: usize, block: Block| match index % 64 {
            0 => staying.push(block),
            _ => block.free(),
        };
        match order {
            Order::LastFirst => batch.drain(..).rev().enumerate().for_each(|(i, block)| release(i, block)),
            Order::FirstFirst => batch.drain(..).enumerate().for_each(|(i, block)| release(i, block)),
        }
    }
    survivors.into_iter().flatten().for_each(Block::free);
    made
}

/// Phases that do not fit each other: each fills 48 MiB with blocks of its own sizes and then frees nine in ten
/// at random, so that the next phase finds memory everywhere and room nowhere. Peak memory is what this asks.
pub(crate) fn fragment(divisor: usize) -> u64 {
    const PHASES: [(usize, usize); 6] =
        [(16, 64), (100, 300), (24, 48), (1_000, 4_000), (64, 128), (5_000, 30_000)];
    let mut random = Random::new(7);
    let mut lasting: Vec<Block> = Vec::new();
    let mut made = 0;
    for (low, high) in PHASES.iter().cycle().take((12 / divisor).max(1)) {
        let mut phase = Vec::new();
        let mut held = 0;
        while held < 48 << 20 {
            let size = random.between(*low, *high);
            held += size;
            phase.push(Block::new(size));
        }
        made += phase.len() as u64;
        for block in phase {
            if random.below(10) == 0 { lasting.push(block) } else { block.free() }
        }
        // Some of what lasted goes as well: the oldest phases thin out.
        for _ in 0..lasting.len() / 3 {
            let index = random.below(lasting.len());
            lasting.swap_remove(index).free();
        }
    }
    lasting.into_iter().for_each(Block::free);
    made
}

/// `calloc` of mixed sizes with random replacement: nine in ten 16 B to 1 KiB, the rest up to 256 KiB.
pub(crate) fn zeroed(divisor: usize) -> u64 {
    let mut random = Random::new(11);
    let size = |random: &mut Random| match random.below(10) {
        0 => random.logarithmic(10, 18),
        _ => random.logarithmic(4, 10),
    };
    let mut slots: Vec<Block> = (0..1_000).map(|_| Block::zeroed(size(&mut random))).collect();
    let steps = 1_000_000 / divisor;
    for _ in 0..steps {
        let slot = random.below(slots.len());
        // Dirt, so that recycled memory is not zero by chance.
        slots[slot].touch(64);
        std::mem::replace(&mut slots[slot], Block::zeroed(size(&mut random))).free();
    }
    slots.into_iter().for_each(Block::free);
    steps as u64 + 1_000
}

/// `posix_memalign` at 16 B to 64 KiB (small alignments far more often) of 8 B to 8 KiB, random replacement.
/// Sizes that are themselves powers of two are left out above 8: mimalloc 2.0.9 answers some of them, such as
/// 512 bytes at 512, with a block that is not aligned, and there would be nothing to compare with.
pub(crate) fn aligned(divisor: usize) -> u64 {
    let mut random = Random::new(13);
    let block = |random: &mut Random| {
        let shift = 4 + (random.next() | 1 << 12).trailing_zeros();
        Block::aligned(1 << shift, random.logarithmic(3, 13) | 8)
    };
    let mut slots: Vec<Block> = (0..4_000).map(|_| block(&mut random)).collect();
    let steps = 5_000_000 / divisor;
    for _ in 0..steps {
        let slot = random.below(slots.len());
        std::mem::replace(&mut slots[slot], block(&mut random)).free();
    }
    slots.into_iter().for_each(Block::free);
    steps as u64 + 4_000
}
