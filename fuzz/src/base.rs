//! Words: classes, units, names and numbers that look random, each against what it means.

use super::input::Input;
use spanheap::base::class::{CLASSES, MAX_SMALL, TABLE};
use spanheap::base::purpose::MAX_NAME;
use spanheap::base::random::Random;
use spanheap::base::{Bytes, PAGE_SIZE, PurposeName, SizeClass};

/// The smallest class that will do, found by looking at all of them.
fn class_of(size: usize, align: usize) -> Option<usize> {
    TABLE.iter().position(|row| row.size as usize >= size && (row.size as usize).is_multiple_of(align))
}

fn classes(input: &mut Input<'_>) {
    let (size, align) = (input.below(80_000), 16 << (input.byte() % 10));
    assert_eq!(SizeClass::of(size).map(|class| class.0 as usize), class_of(size, 1), "{size}");
    let aligned = SizeClass::of_aligned(size, align).map(|class| class.0 as usize);
    assert_eq!(aligned, class_of(size.max(align), align), "{size} at {align}");
    assert_eq!(SizeClass::of(size).is_some(), size <= MAX_SMALL);
    let row = &TABLE[input.byte() % CLASSES];
    let offset = input.below(row.pages as usize * PAGE_SIZE) as u32;
    let passes = u64::from(offset).wrapping_mul(row.magic) < row.magic;
    assert_eq!(passes, offset.is_multiple_of(row.size), "{offset} in blocks of {}", row.size);
}

fn bytes(input: &mut Input<'_>) {
    let mut number = || (0..8).fold(0, |n, _| n << 8 | input.byte());
    let bytes = Bytes(number() >> (number() % 64));
    let unit = Bytes(1 << (number() % 40));
    match bytes.round_up(unit) {
        Some(up) => assert!(up >= bytes && up.0 - bytes.0 < unit.0 && up.0.is_multiple_of(unit.0)),
        None => assert!(bytes.0 > usize::MAX - unit.0 + 1),
    }
    let pages = bytes.pages_ceil();
    assert!(
        pages.0.is_multiple_of(1)
            && pages.0 == bytes.0 / PAGE_SIZE + usize::from(!bytes.0.is_multiple_of(PAGE_SIZE))
    );
    let text = bytes.to_string();
    let (amount, unit) = text.split_once(' ').expect("a number and a unit");
    assert!(amount.parse::<f64>().is_ok_and(|amount| amount < 1024.0 || unit == "PiB"), "{text}");
}

fn names(input: &mut Input<'_>) {
    let bytes: Vec<u8> = (0..input.byte() % 60).map(|_| input.byte() as u8).collect();
    let text = String::from_utf8_lossy(&bytes);
    let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let expected = !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(good);
    match PurposeName::new(&text) {
        Ok(name) => assert!(expected && name.as_str() == text),
        Err(why) => assert!(!expected && !why.to_string().is_empty(), "{text:?}: {why}"),
    }
}

fn random(input: &mut Input<'_>) {
    let bound = 1 + input.below(65_536);
    let (mut one, mut other) = (Random::new(bound as u64), Random::new(bound as u64));
    for _ in 0..4 {
        let number = one.below(bound);
        assert!(number < bound);
        assert_eq!(number, other.below(bound), "the same seed, other numbers");
    }
}

/// Runs a program.
///
/// # Panics
/// When a word does not mean what it says.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    while let Some(operation) = input.operation() {
        match operation % 4 {
            0 => classes(&mut input),
            1 => bytes(&mut input),
            2 => names(&mut input),
            _ => random(&mut input),
        }
    }
}
