//! Where a type keeps its references: known when the program is compiled.
//!
//! A [`Map`] has a bit for every word of a type; the collector looks only at words whose bit is set. A set bit means
//! *may be* a reference: looking at a word that is none does no harm, so enums are easy. `#[derive(Trace)]` makes maps.
//!
//! # Safety
//! What a map leaves out is never looked at: a reference there would not keep its object alive. So the trait is unsafe
//! to implement, and the derivation puts maps together from those of the fields.

use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::num::NonZero;
use core::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
    AtomicU64, AtomicUsize,
};

/// Bytes of a word.
const WORD: usize = size_of::<usize>();
/// The longest type with references, in words: a bit for each.
const MOST_WORDS: usize = 64 * 64;

/// Which words of a type may be references. The longest type with a reference has 32 KiB; longer ones are slices.
#[derive(Clone, Copy)]
pub struct Map {
    bits: [u64; MOST_WORDS / 64],
    /// Words up to the last one that counts.
    length: usize,
}

impl Map {
    /// No references.
    pub const NONE: Map = Map { bits: [0; MOST_WORDS / 64], length: 0 };

    /// Every word of `T`.
    ///
    /// # Panics
    /// When `T` is longer than 32 KiB, or does not consist of words. In constants that is an error of the compiler's.
    pub const fn every_word_of<T>() -> Map {
        assert!(align_of::<T>() >= WORD, "a type with references is aligned to words");
        let mut map = Map::NONE;
        let mut at = 0;
        while at < size_of::<T>() / WORD {
            map.set(at);
            at += 1;
        }
        map
    }

    /// This map, with that of a field at `offset` bytes.
    ///
    /// # Panics
    /// When a reference would not lie on a word, or beyond 32 KiB. In constants that is an error of the compiler's.
    #[must_use]
    pub const fn with(mut self, offset: usize, field: &Map) -> Map {
        let mut at = 0;
        while at < field.length {
            if field.has(at) {
                assert!(offset.is_multiple_of(WORD), "a reference that does not lie on a word");
                self.set(offset / WORD + at);
            }
            at += 1;
        }
        self
    }

    const fn set(&mut self, word: usize) {
        assert!(word < MOST_WORDS, "a type with references has at most 32 KiB");
        self.bits[word / 64] |= 1 << (word % 64);
        if word >= self.length {
            self.length = word + 1;
        }
    }

    /// Whether the word may be a reference.
    pub const fn has(&self, word: usize) -> bool {
        word < self.length && self.bits[word / 64] >> (word % 64) & 1 == 1
    }

    /// Whether any word may be one.
    pub const fn has_any(&self) -> bool {
        self.length != 0
    }

    /// Words up to the last one that may be a reference.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether each of the first `words` words may be a reference.
    pub const fn is_full(&self, words: usize) -> bool {
        let mut at = 0;
        while at < words {
            if !self.has(at) {
                return false;
            }
            at += 1;
        }
        true
    }

    /// The bits, 64 words each, first word lowest.
    pub const fn bits(&self) -> &[u64] {
        self.bits.split_at(self.length.div_ceil(64)).0
    }
}

/// A type that can live on a collected heap.
///
/// ```
/// use spanheap::{Edge, Trace};
///
/// #[derive(Trace)]
/// struct Node {
///     key: u64,
///     left: Edge<Node>,
///     right: Edge<Node>,
/// }
///
/// assert!(!Node::MAP.has(0) && Node::MAP.has(1) && Node::MAP.has(2));
/// ```
///
/// Objects are shared by all threads of a heap, so a type must allow that:
///
/// ```compile_fail,E0277
/// #[derive(spanheap::Trace)]
/// struct Counter {
///     count: std::cell::Cell<u32>, // not for more than one thread
/// }
/// ```
///
/// A destructor of its own it cannot have, since the objects that it refers to may be gone before; fields that are
/// [`Plain`] are dropped with it:
///
/// ```compile_fail,E0119
/// #[derive(spanheap::Trace)]
/// struct Last {
///     next: spanheap::Edge<Last>,
/// }
///
/// impl Drop for Last {
///     fn drop(&mut self) {}
/// }
/// ```
///
/// # Safety
/// `MAP` names every word that may hold a reference to a collected object. The type's destructor looks at no reference.
pub unsafe trait Trace: Send + Sync + 'static {
    /// Where its references are.
    const MAP: Map;
}

/// Data without references, of a type that does not implement [`Trace`] itself.
///
/// No reference to a collected object can be in there: [`Gc`](super::Gc) is bound to a context, and `Plain` holds only
/// what is bound to nothing. An [`Edge`](super::Edge) in there refuses to be set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

macro_rules! without_references {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: no references.
            unsafe impl Trace for $type {
                const MAP: Map = Map::NONE;
            }
        )*
    };
}

without_references! {
    (), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64,
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, AtomicI8, AtomicI16, AtomicI32, AtomicI64,
    AtomicIsize, &'static str, &'static [u8], NonZero<u32>, NonZero<u64>, NonZero<usize>,
}

// SAFETY: what is bound to nothing has no references that may be followed; edges inside refuse to be set.
unsafe impl<T: Send + Sync + 'static> Trace for Plain<T> {
    const MAP: Map = Map::NONE;
}

// SAFETY: nothing is there.
unsafe impl<T: Send + Sync + 'static> Trace for PhantomData<T> {
    const MAP: Map = Map::NONE;
}

// SAFETY: the elements stand one after the other.
unsafe impl<T: Trace, const N: usize> Trace for [T; N] {
    const MAP: Map = {
        let mut map = Map::NONE;
        let mut at = 0;
        while at < N && T::MAP.has_any() {
            map = map.with(at * size_of::<T>(), &T::MAP);
            at += 1;
        }
        map
    };
}

// SAFETY: with references inside, every word counts, wherever the value and its tag lie.
unsafe impl<T: Trace> Trace for Option<T> {
    const MAP: Map = if T::MAP.has_any() { Map::every_word_of::<Self>() } else { Map::NONE };
}

macro_rules! tuples {
    ($($name:ident $place:tt),+) => {
        // SAFETY: each field's map at its place.
        unsafe impl<$($name: Trace),+> Trace for ($($name,)+) {
            const MAP: Map = Map::NONE$(.with(core::mem::offset_of!(Self, $place), &$name::MAP))+;
        }
    };
}

tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
