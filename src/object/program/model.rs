//! The slow twins: types that are written out bit by bit, and programs that are read bit by bit.
#![allow(missing_docs, unreachable_pub)]

/// A type, as a tree.
#[derive(Clone, Debug)]
pub enum Type {
    /// Words, one by one: whether each may be a pointer.
    Words(Vec<bool>),
    /// One after the other.
    Record(Vec<Type>),
    /// The same, so many times.
    Array(Box<Type>, usize),
}

impl Type {
    /// Whether each word may be a pointer.
    pub fn bits(&self) -> Vec<bool> {
        match self {
            Type::Words(bits) => bits.clone(),
            Type::Record(parts) => parts.iter().flat_map(Type::bits).collect(),
            Type::Array(element, count) => element.bits().repeat(*count),
        }
    }
}

/// Bits as words, 64 a word.
pub fn pack(bits: &[bool]) -> Vec<u64> {
    bits.chunks(64).map(|chunk| chunk.iter().rev().fold(0, |word, &bit| word << 1 | bit as u64)).collect()
}

/// Words as bits, so many.
pub fn unpack(words: &[u64], length: usize) -> Vec<bool> {
    (0..length).map(|i| words[i / 64] >> (i % 64) & 1 != 0).collect()
}

/// The bits that a program emits, if it is right and they are no more than `limit`.
pub fn emit(code: &[u8], limit: usize) -> Option<Vec<bool>> {
    let (mut bits, mut at) = (Vec::new(), 0);
    loop {
        let byte = *code.get(at)?;
        at += 1;
        let mut n = (byte & 0x7f) as u128;
        if byte == 0 {
            return (at == code.len()).then_some(bits);
        }
        if byte & 0x80 == 0 {
            for i in 0..n as usize {
                bits.push(code.get(at + i / 8)? >> (i % 8) & 1 != 0);
            }
            at += (n as usize).div_ceil(8);
            code.get(..at)?;
        } else {
            if n == 0 {
                n = number(code, &mut at)?;
            }
            let times = number(code, &mut at)?;
            if n == 0 || n > bits.len() as u128 || n * times > (limit - bits.len()) as u128 {
                return None;
            }
            for _ in 0..n * times {
                bits.push(bits[bits.len() - n as usize]);
            }
        }
        if bits.len() > limit {
            return None;
        }
    }
}

/// A number of at most 64 bits.
fn number(code: &[u8], at: &mut usize) -> Option<u128> {
    let mut number = 0u128;
    for place in 0..10 {
        let byte = *code.get(*at)?;
        *at += 1;
        number |= ((byte & 0x7f) as u128) << (7 * place);
        if byte & 0x80 == 0 {
            return (number <= u64::MAX as u128).then_some(number);
        }
    }
    None
}
