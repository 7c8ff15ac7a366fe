//! Tests of shapes: however a type is described, its pointers are the same; equal types have equal numbers; programs are
//! unrolled into the books and out of them.
//!
//! # Safety
//! Programs are rolled up when no map is used any more.

use super::{Shape, ShapeError, ShapeId, Shapes, SpanKind, WORD};
use crate::base::purpose::POINTER_MAPS;
use crate::base::{Bytes, Pages};
use crate::object::PointerMap;
use crate::object::encode::{Layout, encode, encode_bitmap};
use crate::object::program::model::{pack, unpack};
use crate::object::program::tests::types;
use crate::os::testing::{balance, books, shard, simulated};
use crate::os::{System, SystemError};
use crate::span::{Ground, Meters, PageHeap, SpanCache};
use crate::stats::{Account, BookShard, Books, MetadataKind};
use proptest::prelude::*;

/// Shapes, and ground to unroll them on.
struct World {
    shapes: Shapes,
    heap: PageHeap,
    meters: Box<Meters>,
    books: Box<Books>,
    shard: &'static BookShard,
}

impl World {
    fn on(system: System) -> World {
        let books = books();
        let shard = shard(&books);
        let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
        // SAFETY: zeroed memory of our own, filled before use.
        let meters = unsafe {
            Meters::init(meters);
            Box::from_raw(meters)
        };
        let heap = PageHeap::reserve(system, Bytes::mib(64), Bytes::mib(64), books.ledger(shard)).unwrap();
        let shapes = Shapes::reserve(system, books.ledger(shard)).unwrap();
        World { shapes, heap, meters, books, shard }
    }

    fn ground(&self) -> Ground<'_> {
        Ground { heap: &self.heap, meters: &self.meters, ledger: self.books.ledger(self.shard) }
    }

    fn register(&self, shape: &Shape<'_>) -> ShapeId {
        self.shapes.register(shape, self.books.ledger(self.shard)).unwrap()
    }

    fn refused(&self, shape: &Shape<'_>) -> ShapeError {
        self.shapes.register(shape, self.books.ledger(self.shard)).unwrap_err()
    }

    /// The pointer bits of an object of so many words.
    fn bits(&self, id: ShapeId, words: usize) -> Vec<bool> {
        self.bits_between(id, words, 0, words)
    }

    /// The pointer bits of an object of so many words, from one word to another; the others are clear.
    fn bits_between(&self, id: ShapeId, words: usize, first: usize, last: usize) -> Vec<bool> {
        let mut spans = SpanCache::default();
        self.shapes.unroll(id, self.ground(), &mut spans).unwrap();
        let map = self.shapes.map(id, Bytes(words * WORD)).expect("unrolled");
        let bits = collect(&map, 0, words, words);
        let part = collect(&map, first, last, words);
        let end = bits.iter().rposition(|&bit| bit).map_or(0, |i| i + 1);
        assert_eq!(map.prefix(), Bytes(end * WORD));
        if words <= 64 {
            assert_eq!(unpack(&[self.shapes.mask(id, Bytes(words * WORD))], words), bits);
        }
        // SAFETY: the map is not used any more.
        unsafe { self.shapes.roll_up(self.ground(), &mut spans) };
        self.ground().flush(&mut spans);
        part
    }

    /// Nothing is left but what is registered, and the books know it.
    fn close(self) {
        assert_eq!(balance(&self.books, Account::Span(POINTER_MAPS)), 0);
        let booked = balance(&self.books, Account::Metadata(MetadataKind::Shapes));
        assert_eq!(booked, self.shapes.committed_bytes().0 as i64);
        let ranges: usize = self.shapes.committed_ranges().map(|(_, size)| size.0).sum();
        assert_eq!(booked, ranges as i64);
        // SAFETY: the test's own, and done with.
        unsafe {
            self.shapes.destroy();
            self.heap.destroy();
        }
    }
}

/// The bits from one word to another, as masks have them.
fn collect(map: &PointerMap<'_>, first: usize, end: usize, words: usize) -> Vec<bool> {
    let mut bits = vec![false; words];
    let mut last = first;
    for (at, mask) in map.masks(first, end) {
        assert!(at >= last && mask != 0, "masks go up and are not empty");
        for i in (0..64).filter(|i| mask >> i & 1 != 0) {
            bits[at + i] = true;
            last = at + i;
        }
    }
    bits
}

/// A type of random bits, repeated.
fn pieces() -> impl Strategy<Value = (Vec<bool>, usize)> {
    let lengths = prop_oneof![1usize..10, 20usize..70, 100usize..300];
    lengths.prop_flat_map(|n| {
        let bits = prop_oneof![
            proptest::collection::vec(any::<bool>(), n),
            proptest::collection::vec(prop::bool::weighted(0.03), n),
            Just(vec![true; n]),
        ];
        (bits, prop_oneof![1usize..4, 4usize..30])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A type by a mask, a bitmap, arrays of arrays and a program: the same pointers, from every word on.
    #[test]
    fn every_form_says_the_same((element, count) in pieces(), outer in 1usize..4, from in 0.0f64..1.0, to in 0.0f64..1.1) {
        let world = World::on(System::Linux);
        let bits = element.repeat(count * outer);
        let words = bits.len();
        let map = pack(&bits);
        let mut code = vec![0; words / 4 + 64];
        let n = encode_bitmap(&map, words, &mut code).unwrap();
        let one = world.register(&Shape::Bitmap { words: element.len(), bits: &pack(&element) });
        let row = world.register(&Shape::Array { element: one, count });
        let mut ids = vec![
            world.register(&Shape::Bitmap { words, bits: &map }),
            world.register(&Shape::Array { element: row, count: outer }),
            world.register(&Shape::Program { words, code: &code[..n] }),
            one.repeated(),
        ];
        if words <= 64 {
            ids.push(world.register(&Shape::Mask { words, mask: map[0] }));
            prop_assert!(ids.iter().filter(|id| !id.is_repeated()).all(|id| *id == ids[0]), "all are masks");
        }
        if element.len() <= 64 {
            prop_assert_eq!(one, world.register(&Shape::Mask { words: element.len(), mask: pack(&element)[0] }));
        }
        for &id in &ids {
            prop_assert_eq!(world.bits(id, words), &bits[..], "{:?}", id);
            prop_assert!(words > super::SMALL_MAP || world.shapes.program(id).is_none());
            let (first, end) = ((words as f64 * from) as usize, (words as f64 * to) as usize);
            let mut expected = bits.clone();
            expected[..first].fill(false);
            expected[end.clamp(first, words)..].fill(false);
            prop_assert_eq!(world.bits_between(id, words, first, end.max(first)), expected);
        }
        world.close();
    }

    /// Types too large for a bitmap of their own: the program is unrolled, and every description agrees.
    #[test]
    fn large_programs_are_unrolled(t in types(), count in 2usize..5) {
        let world = World::on(System::Linux);
        let mut element = t.bits();
        element.truncate(40_000);
        element.extend(vec![false; super::SMALL_MAP]);
        element.push(true);
        let words = element.len();
        let mut code = vec![0; words];
        let n = encode_bitmap(&pack(&element), words, &mut code).unwrap();
        let id = world.register(&Shape::Program { words, code: &code[..n] });
        prop_assert_eq!(world.shapes.program(id), Some(&code[..n]));
        prop_assert!(world.shapes.map(id, Bytes(words * WORD)).is_none());
        prop_assert_eq!(id, world.register(&Shape::Program { words, code: &code[..n] }));
        prop_assert_eq!(world.bits(id, words), &element[..]);
        let array = world.register(&Shape::Array { element: id, count });
        prop_assert_eq!(array, world.register(&Shape::Array { element: id, count }));
        prop_assert_eq!(world.bits(array, words * count), element.repeat(count));
        prop_assert_eq!(world.bits(id.repeated(), words * count), element.repeat(count));
        world.close();
    }
}

#[test]
fn the_two_that_are_always_there() {
    let world = World::on(System::Linux);
    assert_eq!(world.bits(ShapeId::PLAIN, 100), [false; 100]);
    assert_eq!(world.bits(ShapeId::WORDS, 100), [true; 100]);
    assert_eq!(world.register(&Shape::Plain), ShapeId::PLAIN);
    assert_eq!(world.register(&Shape::Words), ShapeId::WORDS);
    assert_eq!((world.shapes.size(ShapeId::PLAIN), world.shapes.size(ShapeId::WORDS)), (None, None));
    // Whatever has no pointers is plain.
    for shape in [
        Shape::Mask { words: 9, mask: 0 },
        Shape::Bitmap { words: 900, bits: &[0, 0] },
        Shape::Program { words: 900, code: &[1, 0, 0x81, 9, 0] },
        Shape::Array { element: ShapeId::PLAIN, count: 8 },
        Shape::Array { element: world.register(&Shape::Mask { words: 3, mask: 1 }), count: 0 },
    ] {
        assert_eq!(world.register(&shape), ShapeId::PLAIN, "{shape:?}");
    }
    assert_eq!(world.shapes.count(), 3);
    world.close();
}

#[test]
fn kinds_follow_from_shape_and_size() {
    let world = World::on(System::Linux);
    let pair = world.register(&Shape::Mask { words: 3, mask: 0b101 });
    let pointers = world.register(&Shape::Mask { words: 3, mask: 0b111 });
    let kind = |id, bytes| world.shapes.kind(id, Bytes(bytes));
    assert_eq!(kind(ShapeId::PLAIN, 100), SpanKind::Plain);
    assert_eq!(kind(ShapeId::WORDS, 100), SpanKind::Words);
    assert_eq!(kind(pointers, 24), SpanKind::Words);
    assert_eq!(kind(pointers.repeated(), 24_000), SpanKind::Words);
    assert_eq!((kind(pair, 24), kind(pair.repeated(), 512)), (SpanKind::Mapped, SpanKind::Mapped));
    assert_eq!(kind(pair.repeated(), 520), SpanKind::Headed);
    let bits = [u64::MAX, u64::MAX, 0xff];
    assert_eq!(kind(world.register(&Shape::Bitmap { words: 136, bits: &bits }), 1088), SpanKind::Words);
    assert_eq!(kind(world.register(&Shape::Bitmap { words: 137, bits: &bits }), 1096), SpanKind::Headed);
    assert_eq!(world.shapes.size(pair), Some(Bytes(24)));
    assert_eq!(world.shapes.prefix(pair, Bytes(32)), Bytes(24));
    let head = world.register(&Shape::Mask { words: 60, mask: 0b11 });
    assert_eq!(world.shapes.prefix(head, Bytes(480)), Bytes(16), "the tail is not looked at");
    assert_eq!(world.shapes.prefix(head.repeated(), Bytes(4800)), Bytes(9 * 480 + 16));
    world.close();
}

#[test]
fn wrong_descriptions_are_named() {
    let world = World::on(System::Linux);
    let check = |shape: Shape<'_>, error: ShapeError, text: &str| {
        let refused = world.refused(&shape);
        assert_eq!((refused, refused.to_string().as_str()), (error, text));
    };
    let size = ShapeError::Size { words: 65, most: 64 };
    check(Shape::Mask { words: 65, mask: 1 }, size, "a shape of 65 words; expected at most 64");
    let beyond = "word 5 is said to be a pointer; expected words below 5 only";
    check(Shape::Mask { words: 5, mask: 32 }, ShapeError::Beyond { words: 5, pointer: 5 }, beyond);
    let beyond = "word 128 is said to be a pointer; expected words below 100 only";
    let bits = &[0, 0, 1];
    check(Shape::Bitmap { words: 100, bits }, ShapeError::Beyond { words: 100, pointer: 128 }, beyond);
    let pair = world.register(&Shape::Mask { words: 3, mask: 0b101 });
    for element in [ShapeId::WORDS, ShapeId(77), pair.repeated()] {
        let text =
            format!("an array of shape {:#x}; expected a registered one with a size of its own", element.0);
        check(Shape::Array { element, count: 2 }, ShapeError::Element(element), &text);
        check(Shape::Array { element, count: 1 }, ShapeError::Element(element), &text);
    }
    let most = super::MAX_WORDS;
    let error = ShapeError::Size { words: usize::MAX, most };
    let text = format!("a shape of {} words; expected at most {most}", usize::MAX);
    check(Shape::Array { element: pair, count: usize::MAX }, error, &text);
    let text = "pointer program, at byte 2: emits more than the 10 bits that were expected";
    let shape = Shape::Program { words: 10, code: &[1, 1, 0x81, 99, 0] };
    assert_eq!(world.refused(&shape).to_string(), text);
    world.close();
}

#[test]
fn refused_memory_changes_nothing() {
    let (simulated, system) = simulated();
    let world = World::on(system);
    let ledger = world.books.ledger(world.shard);
    let mut refusals = 0;
    for i in 0..600 {
        let bits: Vec<u64> = (1..=200).map(|word| word * i).collect();
        let shape = Shape::Bitmap { words: 12_800, bits: &bits };
        simulated.refuse(0, 1);
        let first = world.shapes.register(&shape, ledger);
        simulated.refuse_nothing();
        let id = world.register(&shape);
        match first {
            Ok(same) => assert_eq!(same, id),
            Err(error) => {
                assert_eq!(error, ShapeError::Memory(SystemError::NO_MEMORY));
                refusals += 1;
            }
        }
        assert_eq!(world.shapes.prefix(id, Bytes(12_800 * WORD)).0 / WORD > 12_700, i > 0);
    }
    assert!(refusals > 5, "{refusals}");
    // A program that cannot be unrolled stays one, and nothing is left behind.
    let layout = Layout::Repeat(&Layout::Sequence(&[Layout::Pointers(1), Layout::Scalars(2)]), 400_000);
    let mut code = [0; 64];
    let n = encode(&layout, &mut code).unwrap();
    let id = world.register(&Shape::Program { words: 1_200_000, code: &code[..n] });
    let mut spans = SpanCache::default();
    simulated.refuse(0, usize::MAX);
    world.shapes.unroll(id, world.ground(), &mut spans).unwrap_err();
    simulated.refuse_nothing();
    assert!(world.shapes.map(id, Bytes(1_200_000 * WORD)).is_none());
    assert_eq!(world.bits(id, 1_200_000).iter().filter(|&&bit| bit).count(), 400_000);
    world.close();
}

#[test]
fn threads_get_the_same_numbers_and_bits() {
    let world = World::on(System::Linux);
    let layout = Layout::Repeat(&Layout::Sequence(&[Layout::Pointers(1), Layout::Scalars(2)]), 20_000);
    let mut code = [0; 64];
    let n = encode(&layout, &mut code).unwrap();
    let words = layout.words().unwrap();
    let code = &code[..n];
    let numbers: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (world, shard) = (&world, shard(&world.books));
                scope.spawn(move || {
                    let ledger = world.books.ledger(shard);
                    let ground = Ground { ledger, ..world.ground() };
                    let mut spans = SpanCache::default();
                    let id = world.shapes.register(&Shape::Program { words, code }, ledger).unwrap();
                    world.shapes.unroll(id, ground, &mut spans).unwrap();
                    let map = world.shapes.map(id, Bytes(words * WORD)).unwrap();
                    assert_eq!(map.masks(0, words).map(|(_, mask)| mask.count_ones()).sum::<u32>(), 20_000);
                    ground.flush(&mut spans);
                    let masks = (1..=300).map(|mask| Shape::Mask { words: 9, mask });
                    masks.map(|shape| world.shapes.register(&shape, ledger).unwrap().0).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(numbers.iter().all(|row| *row == numbers[0]));
    assert_eq!(world.shapes.count(), 2 + 1 + 300);
    let mut spans = SpanCache::default();
    // SAFETY: the threads are gone.
    let freed = unsafe { world.shapes.roll_up(world.ground(), &mut spans) };
    assert_eq!(freed, Bytes(words.div_ceil(64) * 8).pages_ceil());
    // SAFETY: as above.
    assert_eq!(unsafe { world.shapes.roll_up(world.ground(), &mut spans) }, Pages(0));
    world.close();
}
