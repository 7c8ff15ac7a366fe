//! GC programs: any bytes are a program or are refused, exactly as the slow twin says; and what a program emits is found
//! again by the encoder, from the bitmap.

use crate::program_model::{emit, unpack};
use spanheap::object::encode::{EncodeError, encode_bitmap};
use spanheap::object::program::{ProgramError, dump, measure, run, run_prefix};

/// The most bits that a program may emit here.
const LIMIT: usize = 1 << 16;

/// Reads the input as a program.
///
/// # Panics
/// When program and twin differ.
pub fn fuzz(code: &[u8]) {
    let mut sink = vec![u64::MAX; LIMIT / 64];
    let ran = run(code, &mut sink);
    let measured = measure(code, LIMIT);
    assert_eq!(ran, measured.map(|extent| extent.bits), "running and measuring");
    let mut text = String::new();
    dump(code, &mut text).expect("a string takes everything");
    let Some(bits) = emit(code, LIMIT) else {
        let ProgramError { offset, .. } = ran.expect_err("a program that the twin refuses");
        assert!(offset <= code.len(), "a fault at byte {offset} of {}", code.len());
        return;
    };
    let extent = measured.expect("a program that the twin takes");
    assert_eq!(extent.bits, bits.len());
    assert_eq!(extent.prefix, bits.iter().rposition(|&bit| bit).map_or(0, |i| i + 1));
    assert!(unpack(&sink, LIMIT)[..bits.len()] == bits, "the bits");
    assert!(unpack(&sink, LIMIT)[bits.len()..].iter().all(|bit| !bit), "the rest is zero");
    encode_again(&sink, bits.len());
}

/// Encodes a bitmap and runs what comes out, as a whole and in part; a buffer that is too short says so.
fn encode_again(bitmap: &[u64], bits: usize) {
    let mut buffer = vec![0; bits / 4 + 64];
    let n = encode_bitmap(bitmap, bits, &mut buffer).expect("the buffer is long enough");
    let mut again = vec![u64::MAX; bitmap.len()];
    assert_eq!(run(&buffer[..n], &mut again), Ok(bits));
    assert!(again == bitmap, "encoded and run again");
    let half = bits / 2;
    assert_eq!(run_prefix(&buffer[..n], half, &mut again), Ok(half));
    assert!(unpack(&again, half) == unpack(bitmap, half), "half of it");
    let short = encode_bitmap(bitmap, bits, &mut buffer[..n - 1]);
    assert_eq!(short, Err(EncodeError::Room { needed: n }));
}
