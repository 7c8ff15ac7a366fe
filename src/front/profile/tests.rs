//! Tests of the profile through heaps: what the samples say is near what happened, whoever frees, and whatever is
//! turned on and off meanwhile.
//!
//! # Safety
//! Blocks are the tests' own, freed once, with the layout that they were allocated with.

use crate::Bytes;
use crate::base::random::Random;
use crate::base::sampling;
use crate::front::config::Config;
use crate::front::heap::Heap;
use crate::front::purpose::Purpose;
use core::alloc::Layout;
use core::ptr::NonNull;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::hint::black_box;

/// What really happened, and how far off an estimate may be.
#[derive(Default, Clone, Copy, Debug)]
struct Truth {
    objects: f64,
    bytes: f64,
    /// Variance of the estimates.
    of_objects: f64,
    of_bytes: f64,
}

impl Truth {
    fn add(&mut self, size: usize, slot: usize, mean: usize) {
        let chance = sampling::chance(slot, mean as f64);
        let size = size as f64;
        self.objects += 1.0;
        self.bytes += size;
        self.of_objects += (1.0 - chance) / chance;
        self.of_bytes += size * size * (1.0 - chance) / chance;
    }

    /// Whether estimates are within five standard deviations.
    fn assert_near(&self, objects: u64, bytes: u64, what: &str) {
        let off = (objects as f64 - self.objects).abs();
        assert!(off <= 5.0 * self.of_objects.sqrt() + 2.0, "{what}: {objects} objects for {self:?}");
        let off = (bytes as f64 - self.bytes).abs();
        assert!(off <= 5.0 * self.of_bytes.sqrt() + 2.0, "{what}: {bytes} bytes for {self:?}");
    }
}

/// Estimates by purpose: allocated objects and bytes, objects and bytes in use.
fn estimates(heap: &Heap) -> BTreeMap<String, [u64; 4]> {
    let mut sums = BTreeMap::new();
    heap.profile().for_each_site(|site| {
        let sum: &mut [u64; 4] = sums.entry(site.purpose.as_str().to_owned()).or_default();
        let found = [site.allocated_objects, site.allocated_bytes, site.inuse_objects, site.inuse_bytes];
        sum.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    });
    sums
}

fn check(heap: &Heap) {
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

fn slot(size: usize) -> usize {
    match crate::base::SizeClass::of(size) {
        Some(class) => class.size(),
        None => Bytes(size).pages_ceil().bytes().0,
    }
}

fn free(heap: &Heap, block: NonNull<u8>, size: usize) {
    // SAFETY: the head of this file.
    unsafe { heap.deallocate(block, layout(size)) }
}

fn heap() -> Heap {
    Heap::new(Config::default()).unwrap()
}

/// Blocks that are freed at once come from the same few places again and again; others are kept. Each size is sampled
/// as often as it should be, whatever the free lists do.
#[test]
fn samples_are_unbiased_at_every_size_and_in_every_pattern() {
    const MEAN: usize = 16 << 10;
    for (number, size) in [16, 48, 200, 1024, 5000, 32 << 10, 80_000, 300_000].into_iter().enumerate() {
        let heap = heap();
        heap.profile().start_seeded(Bytes(MEAN), 42 + number as u64).unwrap();
        let (loops, kept) = (heap.declare("loops").unwrap(), heap.declare("kept").unwrap());
        let rounds = (48 << 20) / size.max(512);
        let (mut in_loops, mut in_kept, mut blocks) = (Truth::default(), Truth::default(), Vec::new());
        for round in 0..rounds {
            free(&heap, loops.allocate(layout(size)).unwrap(), size);
            in_loops.add(size, slot(size), MEAN);
            if round % 4 == 0 {
                blocks.push(kept.allocate(layout(size)).unwrap());
                in_kept.add(size, slot(size), MEAN);
            }
        }
        let found = estimates(&heap);
        let [objects, bytes, inuse_objects, inuse_bytes] = found["loops"];
        in_loops.assert_near(objects, bytes, &format!("loops of {size}"));
        assert_eq!((inuse_objects, inuse_bytes), (0, 0));
        let [objects, bytes, inuse_objects, inuse_bytes] = found["kept"];
        in_kept.assert_near(objects, bytes, &format!("kept of {size}"));
        in_kept.assert_near(inuse_objects, inuse_bytes, &format!("in use of {size}"));
        check(&heap);
        blocks.into_iter().for_each(|block| free(&heap, block, size));
        assert_eq!(estimates(&heap)["kept"][2..], [0, 0]);
        check(&heap);
    }
}

/// Threads allocate for each other, and free what others have allocated, on heaps of any order of events.
#[test]
fn frees_by_others_are_noticed() {
    const MEAN: usize = 4 << 10;
    let heap = heap();
    heap.profile().start_seeded(Bytes(MEAN), 7).unwrap();
    let purposes = [heap.declare("one").unwrap(), heap.declare("two").unwrap()];
    let make = |purpose: Purpose<'_>, seed: u64| {
        let mut random = Random::new(seed);
        let sizes = (0..20_000).map(|_| 1 + random.below(700));
        sizes.map(|size| (purpose.allocate(layout(size)).unwrap().addr().get(), size)).collect::<Vec<_>>()
    };
    let made: Vec<Vec<(usize, usize)>> = std::thread::scope(|threads| {
        let makers =
            purposes.iter().zip(1..).map(|(&purpose, seed)| threads.spawn(move || make(purpose, seed)));
        makers.collect::<Vec<_>>().into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    for (purpose, blocks) in ["one", "two"].into_iter().zip(&made) {
        let mut truth = Truth::default();
        blocks.iter().for_each(|&(_, size)| truth.add(size, slot(size), MEAN));
        let [objects, bytes, inuse_objects, inuse_bytes] = estimates(&heap)[purpose];
        truth.assert_near(objects, bytes, purpose);
        truth.assert_near(inuse_objects, inuse_bytes, purpose);
    }
    let heap = &heap;
    std::thread::scope(|threads| {
        // Each thread frees half of what each of the others has made.
        for half in 0..2 {
            let made = &made;
            threads.spawn(move || {
                let blocks = made.iter().flat_map(|blocks| blocks.iter().skip(half).step_by(2));
                blocks.for_each(|&(at, size)| {
                    free(heap, NonNull::new(core::ptr::with_exposed_provenance_mut(at)).unwrap(), size);
                });
            });
        }
    });
    assert!(estimates(heap).values().all(|sums| sums[2..] == [0, 0]));
    assert_eq!(heap.profile().lost(), 0);
    check(heap);
}

/// A block that grows where it stands is sampled by its new size.
#[test]
fn blocks_that_grow_in_place_are_seen_growing() {
    let heap = heap();
    let mean = Bytes::kib(64);
    heap.profile().start_seeded(mean, 3).unwrap();
    let mut now = 32 << 20;
    let block = heap.allocate(layout(now)).unwrap();
    while now > 128 << 10 {
        now /= 2;
        // SAFETY: the head of this file.
        assert!(unsafe { heap.resize(block, now) }.unwrap());
    }
    // SAFETY: the head of this file.
    while now < 32 << 20 && unsafe { heap.resize(block, 2 * now) }.unwrap() {
        now *= 2;
    }
    assert!(now >= 20 * mean.0, "grown to {now} only");
    // So large a block is sampled for certain.
    let [_, _, objects, bytes] = estimates(&heap)["blocks"];
    assert_eq!((objects, bytes), (1, now as u64));
    // SAFETY: the head of this file.
    assert!(unsafe { heap.resize(block, 80 << 10) }.unwrap());
    let [_, _, objects, _] = estimates(&heap)["blocks"];
    assert!(objects <= 2);
    free(&heap, block, 80 << 10);
    assert_eq!(estimates(&heap)["blocks"][2..], [0, 0]);
    check(&heap);
}

unsafe extern "C" {
    /// Where the function begins that a place is in, as its unwinding tables say.
    fn _Unwind_FindEnclosingFunction(place: usize) -> usize;
}

/// Every call has a thread to itself: whatever a compiler makes of the loops that begin them, each thread's stack is the
/// same from its first frame on, so that calls of one function are one site.
#[test]
fn stacks_tell_callers_apart() {
    const SIZES: [usize; 2] = [64 << 10, 96 << 10];
    type Caller = fn(Purpose<'_>) -> usize;
    #[inline(never)]
    fn here(purpose: Purpose<'_>) -> usize {
        black_box(purpose.allocate(layout(SIZES[0])).unwrap()).addr().get()
    }
    #[inline(never)]
    fn there(purpose: Purpose<'_>) -> usize {
        black_box(purpose.allocate(layout(SIZES[1])).unwrap()).addr().get()
    }
    let heap = heap();
    heap.profile().start_seeded(Bytes(1), 1).unwrap();
    let purpose = heap.declare("callers").unwrap();
    let callers: [Caller; 2] = black_box([here, there]);
    let mut blocks = Vec::new();
    for (which, times) in [(0, 10), (1, 5)] {
        for _ in 0..times {
            let call = || callers[which](purpose);
            let block = std::thread::scope(|threads| threads.spawn(call).join().unwrap());
            blocks.push((NonNull::new(core::ptr::with_exposed_provenance_mut(block)).unwrap(), SIZES[which]));
        }
    }
    let mut seen = Vec::new();
    heap.profile().for_each_site(|site| {
        assert_eq!(site.purpose.as_str(), "callers");
        seen.push((site.inuse_objects, site.calls.to_vec()));
    });
    let counts: Vec<u64> = seen.iter().map(|(count, _)| *count).collect();
    assert_eq!(counts, [10, 5], "each caller is one site");
    // SAFETY: it looks places up, whatever they are.
    let function = |place: &usize| unsafe { _Unwind_FindEnclosingFunction(*place) };
    for ((_, calls), caller) in seen.iter().zip(callers) {
        assert!(calls.len() > 6, "{calls:x?}");
        let found = calls.iter().filter(|call| callers.map(|of| of as usize).contains(&function(call)));
        assert_eq!(found.map(function).collect::<Vec<_>>(), [caller as usize], "{calls:x?}");
    }
    blocks.into_iter().for_each(|(block, size)| free(&heap, block, size));
    check(&heap);
}

#[test]
fn without_memory_nothing_is_sampled_and_all_goes_on() {
    let heap = heap();
    heap.profile().start_seeded(Bytes(64), 9).unwrap();
    let purpose = heap.declare("little").unwrap();
    purpose.set_limit(Some(Bytes::kib(512)));
    // A sample takes a page; when there are no more, blocks are blocks like others.
    let mut blocks = Vec::new();
    while let Ok(block) = purpose.allocate(layout(64)) {
        blocks.push(block);
    }
    assert!(blocks.len() >= 60, "{}", blocks.len());
    check(&heap);
    blocks.into_iter().for_each(|block| free(&heap, block, 64));
    assert!(estimates(&heap).values().all(|sums| sums[2..] == [0, 0]));
    check(&heap);
}

/// A heap that never had a profile has nothing of one.
#[test]
fn no_profile_costs_nothing() {
    let heap = heap();
    (0..1000).for_each(|size| free(&heap, heap.allocate(layout(size)).unwrap(), size));
    let metrics = heap.metrics();
    assert_eq!(metrics.number("/memory/classes/profiling/buckets:bytes"), Some(0));
    assert_eq!(metrics.number("/memory/accounts/metadata/profile:bytes"), Some(0));
    assert!(estimates(&heap).is_empty());
    heap.profile().start(Bytes::kib(512)).unwrap();
    assert!(heap.metrics().number("/memory/classes/profiling/buckets:bytes") > Some(0));
    heap.profile().stop();
    assert_eq!(heap.profile().mean(), None);
    check(&heap);
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, scope: bool },
    Aligned { size: usize, align: u32 },
    Zeroed { size: usize },
    Free(usize),
    Resize(usize, usize),
    Start(usize),
    Stop,
    Flush,
    Check,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![8 => 1usize..400, 2 => 400usize..40_000, 1 => 40_000usize..200_000];
    let step = prop_oneof![
        20 => (size.clone(), any::<bool>()).prop_map(|(size, scope)| Step::Allocate { size, scope }),
        2 => (1usize..3000, 5u32..15).prop_map(|(size, align)| Step::Aligned { size, align }),
        3 => size.clone().prop_map(|size| Step::Zeroed { size }),
        18 => any::<usize>().prop_map(Step::Free),
        2 => (any::<usize>(), size).prop_map(|(which, size)| Step::Resize(which, size)),
        1 => (100usize..5000).prop_map(Step::Start),
        1 => Just(Step::Stop),
        1 => Just(Step::Flush),
        1 => Just(Step::Check),
    ];
    prop::collection::vec(step, 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 24 } else { 400 }))]

    /// Whatever is done while profiles begin and end: blocks do not overlap and keep what is written into them, zeroed
    /// ones are zero, every invariant holds, and in the end nothing is in use.
    #[test]
    fn profiles_disturb_nobody(steps in steps()) {
        let heap = heap();
        let scoped = heap.declare("scoped").unwrap();
        let mut blocks: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
        let mut tag = 0u8;
        let mut take = |blocks: &mut Vec<_>, block: NonNull<u8>, layout: Layout| {
            tag = tag.wrapping_add(1);
            // SAFETY: the block is the test's, and as long as its layout.
            unsafe { block.write_bytes(tag, layout.size()) };
            blocks.push((block, layout, tag));
        };
        let verify = |(block, layout, tag): (NonNull<u8>, Layout, u8)| {
            // SAFETY: as above.
            let bytes = unsafe { core::slice::from_raw_parts(block.as_ptr(), layout.size()) };
            assert!(bytes.iter().all(|&byte| byte == tag), "somebody wrote into {block:?}");
        };
        for step in steps {
            match step {
                Step::Allocate { size, scope: false } => take(&mut blocks, heap.allocate(layout(size)).unwrap(), layout(size)),
                Step::Allocate { size, scope: true } => take(&mut blocks, scoped.allocate(layout(size)).unwrap(), layout(size)),
                Step::Aligned { size, align } => {
                    let layout = Layout::from_size_align(size, 1 << align).unwrap();
                    let block = heap.allocate(layout).unwrap();
                    assert!(block.addr().get().is_multiple_of(1 << align));
                    take(&mut blocks, block, layout);
                }
                Step::Zeroed { size } => {
                    let block = scoped.allocate_zeroed(layout(size)).unwrap();
                    // SAFETY: the block is the test's, and as long as its layout.
                    let bytes = unsafe { core::slice::from_raw_parts(block.as_ptr(), size) };
                    assert!(bytes.iter().all(|&byte| byte == 0));
                    take(&mut blocks, block, layout(size));
                }
                Step::Free(which) if !blocks.is_empty() => {
                    let held = blocks.swap_remove(which % blocks.len());
                    verify(held);
                    // SAFETY: the head of this file.
                    unsafe { heap.deallocate(held.0, held.1) };
                }
                Step::Resize(which, size) if !blocks.is_empty() => {
                    let at = which % blocks.len();
                    let (block, old, tag) = blocks[at];
                    // SAFETY: the head of this file.
                    if unsafe { heap.resize(block, size) }.unwrap() {
                        verify((block, layout(size.min(old.size())), tag));
                        blocks.swap_remove(at);
                        take(&mut blocks, block, Layout::from_size_align(size, old.align()).unwrap());
                    }
                }
                Step::Start(mean) => heap.profile().start_seeded(Bytes(mean), mean as u64).unwrap(),
                Step::Stop => heap.profile().stop(),
                Step::Flush => { heap.release_all(); }
                Step::Check => check(&heap),
                Step::Free(_) | Step::Resize(..) => {}
            }
        }
        check(&heap);
        for held in blocks {
            verify(held);
            // SAFETY: the head of this file.
            unsafe { heap.deallocate(held.0, held.1) };
        }
        assert!(estimates(&heap).values().all(|sums| sums[2..] == [0, 0]));
        heap.release_all();
        check(&heap);
        let small = |name: &str| heap.metrics().number(name).unwrap();
        assert_eq!(small("/blocks/inuse:blocks"), 0);
        assert_eq!(small("/memory/purpose/scoped/inuse:bytes"), 0);
    }
}
