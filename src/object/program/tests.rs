//! Tests of programs and their encoders: they say what the twins say, and malformed programs are named.

use super::model::{Type, emit, pack, unpack};
use super::{Extent, Fault, ProgramError, dump, measure, run, run_prefix};
use crate::object::encode::{EncodeError, Layout, encode, encode_bitmap};
use proptest::collection::vec;
use proptest::prelude::*;

/// Random types of up to some ten thousand words.
pub(crate) fn types() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        vec(any::<bool>(), 0..12),
        (any::<bool>(), 0usize..200).prop_map(|(bit, n)| vec![bit; n]),
        vec(any::<bool>(), 100..150),
    ];
    leaf.prop_map(Type::Words).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Type::Record),
            (inner, prop_oneof![0usize..4, 2usize..40]).prop_map(|(t, n)| Type::Array(Box::new(t), n)),
        ]
    })
}

/// Encodes a type by its description.
fn describe(t: &Type, buffer: &mut [u8]) -> Result<usize, EncodeError> {
    fn layout(t: &Type) -> Layout<'static> {
        match t {
            Type::Words(bits) => {
                let parts =
                    bits.iter().map(|&bit| if bit { Layout::Pointers(1) } else { Layout::Scalars(1) });
                match bits.first() {
                    Some(true) if bits.iter().all(|&bit| bit) => Layout::Pointers(bits.len()),
                    Some(false) if bits.iter().all(|&bit| !bit) => Layout::Scalars(bits.len()),
                    _ => Layout::Sequence(Vec::leak(parts.collect())),
                }
            }
            Type::Record(parts) => Layout::Sequence(Vec::leak(parts.iter().map(layout).collect())),
            Type::Array(element, n) => Layout::Repeat(Box::leak(Box::new(layout(element))), *n),
        }
    }
    encode(&layout(t), buffer)
}

/// Runs a program into a sink that was full of ones.
fn bits_of(code: &[u8], length: usize) -> Vec<bool> {
    let mut sink = vec![u64::MAX; length.div_ceil(64) + 2];
    assert_eq!(run(code, &mut sink), Ok(length));
    assert!(unpack(&sink, sink.len() * 64)[length..].iter().all(|bit| !bit), "the rest is cleared");
    unpack(&sink, length)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn programs_emit_the_type(t in types()) {
        let bits = t.bits();
        prop_assume!(bits.len() < 200_000);
        let mut buffer = vec![0; bits.len() / 4 + 100];
        let prefix = bits.iter().rposition(|&bit| bit).map_or(0, |i| i + 1);
        let n = describe(&t, &mut buffer).unwrap();
        prop_assert_eq!(bits_of(&buffer[..n], bits.len()), &bits[..]);
        prop_assert_eq!(measure(&buffer[..n], bits.len()), Ok(Extent { bits: bits.len(), prefix }));
        let n = encode_bitmap(&pack(&bits), bits.len(), &mut buffer).unwrap();
        prop_assert_eq!(bits_of(&buffer[..n], bits.len()), &bits[..]);
        prop_assert_eq!(measure(&buffer[..n], bits.len()), Ok(Extent { bits: bits.len(), prefix }));
    }

    #[test]
    fn a_prefix_is_where_the_whole_begins(t in types(), cut in 0.0f64..1.2) {
        let bits = t.bits();
        prop_assume!(bits.len() < 200_000);
        let mut buffer = vec![0; bits.len() / 4 + 100];
        let n = describe(&t, &mut buffer).unwrap();
        let wanted = (bits.len() as f64 * cut) as usize;
        let mut sink = vec![u64::MAX; wanted.div_ceil(64) + 1];
        let got = run_prefix(&buffer[..n], wanted, &mut sink).unwrap();
        prop_assert_eq!(got, wanted.min(bits.len()));
        prop_assert_eq!(unpack(&sink, got), &bits[..got]);
        prop_assert!(unpack(&sink, sink.len() * 64)[got..].iter().all(|bit| !bit));
    }

    /// Any bytes: both readers take them, or neither does.
    #[test]
    fn anything_is_read_as_the_twin_reads_it(code in vec(prop_oneof![any::<u8>(), 0u8..4, 128u8..132], 0..40)) {
        const LIMIT: usize = 10_000;
        let expected = emit(&code, LIMIT);
        let mut sink = [0; LIMIT / 64 + 1];
        let ran = run_prefix(&code, LIMIT, &mut sink);
        match (&expected, measure(&code, LIMIT)) {
            (Some(bits), Ok(extent)) => {
                prop_assert_eq!(extent.bits, bits.len());
                prop_assert_eq!(extent.prefix, bits.iter().rposition(|&bit| bit).map_or(0, |i| i + 1));
                prop_assert_eq!(ran, Ok(bits.len()));
                prop_assert_eq!(&unpack(&sink, bits.len()), bits);
            }
            (None, Err(error)) => {
                prop_assert!(error.offset <= code.len());
                prop_assert_eq!(run(&code, &mut sink[..LIMIT / 64]).is_err(), true);
            }
            (expected, measured) => prop_assert!(false, "{expected:?} against {measured:?}"),
        }
        let mut text = String::new();
        dump(&code, &mut text).unwrap();
        prop_assert_eq!(text.contains("stop after"), measure(&code, usize::MAX).is_ok());
    }
}

/// Types of a kind that programs are for take a few bytes, from a description and from a bitmap.
#[test]
fn repetitive_types_are_short() {
    let node = [Layout::Pointers(2), Layout::Scalars(5), Layout::Pointers(1)];
    let row = [Layout::Repeat(&Layout::Sequence(&node), 1000), Layout::Scalars(3), Layout::Pointers(90)];
    let matrix = Layout::Repeat(&Layout::Sequence(&row), 200);
    let mut buffer = [0; 64];
    let n = encode(&matrix, &mut buffer).unwrap();
    assert!(n <= 24, "{n} bytes for {matrix:?}");
    let mut bitmap = vec![0; matrix.words().unwrap().div_ceil(64)];
    let bits = run(&buffer[..n], &mut bitmap).unwrap();
    assert_eq!(bits, 200 * (8000 + 93));
    let mut again = [0; 64];
    let m = encode_bitmap(&bitmap, bits, &mut again).unwrap();
    assert!(m <= 40, "{m} bytes found in the bitmap");
    let mut copy = vec![0; bitmap.len()];
    assert_eq!(run(&again[..m], &mut copy), Ok(bits));
    assert!(copy == bitmap);
}

#[test]
fn a_short_buffer_is_an_error_that_says_how_much_is_missing() {
    let layout = Layout::Sequence(&[Layout::Pointers(1), Layout::Scalars(500), Layout::Pointers(20)]);
    let mut buffer = [0xaa; 64];
    let n = encode(&layout, &mut buffer).unwrap();
    for short in 0..n {
        let error = encode(&layout, &mut buffer[..short]).unwrap_err();
        assert_eq!(error, EncodeError::Room { needed: n });
    }
    assert_eq!(
        EncodeError::Room { needed: n }.to_string(),
        format!("no room for the program: it takes {n} bytes")
    );
    let endless = Layout::Repeat(&Layout::Scalars(usize::MAX), 2);
    assert_eq!(encode(&endless, &mut buffer), Err(EncodeError::Size));
    // Nothing, however often, is nothing.
    let nothing = Layout::Repeat(&Layout::Repeat(&Layout::Pointers(5), 0), usize::MAX);
    assert_eq!((nothing.words(), encode(&nothing, &mut buffer)), (Some(0), Ok(1)));
}

#[test]
fn faults_are_named_with_their_place() {
    let check = |code: &[u8], offset, fault, text: &str| {
        let error = ProgramError { offset, fault };
        assert_eq!(measure(code, 1000), Err(error));
        assert_eq!(
            run(code, &mut [0; 1000 / 64]),
            Err(match error.fault {
                Fault::Long { .. } => ProgramError { fault: Fault::Long { limit: 960 }, ..error },
                _ => error,
            })
        );
        assert_eq!(error.to_string(), text);
        let mut dumped = String::new();
        dump(code, &mut dumped).unwrap();
        if !matches!(fault, Fault::Long { .. }) {
            assert_eq!(dumped.lines().last(), Some(text));
        }
    };
    check(
        &[],
        0,
        Fault::Ended { expected: "an instruction" },
        "0: the program ends where an instruction should be",
    );
    let bits = Fault::Ended { expected: "the bits of a literal" };
    check(&[9, 0xff], 0, bits, "0: the program ends where the bits of a literal should be");
    let times = Fault::Ended { expected: "how often to repeat" };
    check(&[1, 1, 0x81], 2, times, "2: the program ends where how often to repeat should be");
    let n = Fault::Ended { expected: "bits to repeat" };
    check(&[1, 1, 0x80, 0x80], 2, n, "2: the program ends where bits to repeat should be");
    let numbers = [&[1, 1, 0x81][..], &[0xff; 9], &[2, 0]].concat();
    check(&numbers, 2, Fault::Number, "2: a number of more than 64 bits");
    let none = Fault::Repeat { wanted: 0, emitted: 1 };
    check(&[1, 1, 0x80, 0, 3, 0], 2, none, "2: repeats no bits; expected at least 1");
    let early = Fault::Repeat { wanted: 3, emitted: 2 };
    check(&[2, 1, 0x83, 1, 0], 2, early, "2: repeats 3 bits; expected at most the 2 emitted so far");
    let long = Fault::Long { limit: 1000 };
    check(&[1, 1, 0x81, 0xe8, 7, 0], 2, long, "2: emits more than the 1000 bits that were expected");
    let trailing = Fault::Trailing { bytes: 2 };
    check(&[1, 1, 0, 0, 5], 2, trailing, "2: 2 bytes follow the stop; expected none");
}
