//! Sizes of stacks.
//!
//! A class is a size and whether there is a guard. Small stacks are powers of two from 2 to 32 KiB, sixteen of which
//! share a slab; larger ones come in four steps a doubling, each in a slab of its own, so at most a fifth of the
//! address space is more than was asked for. Memory comes with the first touch, so that fifth costs nothing else.
//!
//! A guard lies below the stack and is not part of its size. It is a system page, since a slab of small stacks would
//! otherwise be half guards; a large stack has a whole page. A stack of 2 KiB cannot have one, because a guard begins
//! and ends with a system page: it gets 4 KiB instead.
//!
//! (Go: `fixedStack`, `_NumStackOrders`; large stacks are powers of two there.)

use crate::base::{Bytes, PAGE_SIZE, Pages};

/// Whether a stack has a guard below it: memory that nobody can touch, so that an overflow is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// An overflow is a fault.
    Yes,
    /// An overflow writes into whatever lies below.
    No,
}

/// Bytes of the smallest stack.
pub const LEAST: Bytes = Bytes::kib(2);
/// Bytes of the largest stack that shares a slab with others.
pub const MAX_SMALL: Bytes = Bytes::kib(32);
/// Bytes of the largest stack.
pub const MOST: Bytes = Bytes::gib(1);
/// Stacks in a slab of small ones.
pub const IN_SLAB: usize = 16;
/// Bytes of the guard of a small stack: a system page.
pub const SMALL_GUARD: Bytes = Bytes::kib(4);
/// Bytes of the guard of a large stack.
pub const LARGE_GUARD: Bytes = Bytes(PAGE_SIZE);

/// Sizes of small stacks.
const ORDERS: usize = (MAX_SMALL.0 / LEAST.0).ilog2() as usize + 1;
/// Sizes in a doubling, for large stacks.
const STEPS: usize = 4;
const SIZES: usize = ORDERS + STEPS * (MOST.0 / MAX_SMALL.0).ilog2() as usize;
/// Classes: each size, without a guard and with one.
pub const CLASSES: usize = 2 * SIZES;
/// Classes of small stacks; they come first.
pub const SMALL_CLASSES: usize = 2 * ORDERS;

/// A size of stack, and whether it has a guard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StackClass(u8);

impl StackClass {
    /// The smallest class with at least `size` bytes; `None` above [`MOST`].
    pub fn of(size: Bytes, guard: Guard) -> Option<StackClass> {
        let least = match guard {
            Guard::Yes => SMALL_GUARD,
            Guard::No => LEAST,
        };
        let size = size.max(least).0;
        let row = match size {
            _ if size > MOST.0 => return None,
            _ if size <= MAX_SMALL.0 => size.next_power_of_two().ilog2() - LEAST.0.ilog2(),
            _ => {
                // The doubling that holds the size, and how many steps of it are needed.
                let shift = (size - 1).ilog2() - MAX_SMALL.0.ilog2();
                let steps = (size - (MAX_SMALL.0 << shift)).div_ceil(step(shift));
                (ORDERS + STEPS * shift as usize + steps - 1) as u32
            }
        };
        Some(StackClass((2 * row) as u8 + u8::from(guard == Guard::Yes)))
    }

    /// Every class.
    pub fn all() -> impl Iterator<Item = StackClass> {
        // A guarded stack is never of the smallest size.
        (0..CLASSES as u8).filter(|&number| number != 1).map(StackClass)
    }

    /// The class with a number that [`StackClass::index`] gave.
    pub(super) fn numbered(number: u8) -> StackClass {
        debug_assert!((number as usize) < CLASSES);
        StackClass(number)
    }

    /// The class's place in tables of [`CLASSES`].
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether such stacks share slabs.
    #[inline]
    pub fn is_small(self) -> bool {
        self.index() < SMALL_CLASSES
    }

    /// Whether there is a guard.
    pub fn guard(self) -> Guard {
        if self.0 & 1 == 1 { Guard::Yes } else { Guard::No }
    }

    /// Bytes of a stack, without its guard.
    #[inline]
    pub fn size(self) -> Bytes {
        let row = self.index() / 2;
        if row < ORDERS {
            return Bytes(LEAST.0 << row);
        }
        let (shift, steps) = ((row - ORDERS) / STEPS, (row - ORDERS) % STEPS + 1);
        Bytes((MAX_SMALL.0 << shift) + steps * step(shift as u32))
    }

    /// Bytes of a stack's guard.
    pub fn guard_size(self) -> Bytes {
        match (self.guard(), self.is_small()) {
            (Guard::No, _) => Bytes::ZERO,
            (Guard::Yes, true) => SMALL_GUARD,
            (Guard::Yes, false) => LARGE_GUARD,
        }
    }

    /// Bytes from one stack of a slab to the next.
    pub fn stride(self) -> Bytes {
        self.size() + self.guard_size()
    }

    /// Stacks in a slab.
    pub fn in_slab(self) -> usize {
        if self.is_small() { IN_SLAB } else { 1 }
    }

    /// The length of a slab.
    pub fn pages(self) -> Pages {
        Bytes(self.stride().0 * self.in_slab()).pages_ceil()
    }
}

/// Bytes from one size to the next in a doubling.
fn step(shift: u32) -> usize {
    (MAX_SMALL.0 / STEPS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_rise_and_slabs_have_no_waste() {
        let of = |guard: Guard| StackClass::all().filter(move |class| class.guard() == guard);
        for guard in [Guard::Yes, Guard::No] {
            assert!(of(guard).map(StackClass::size).is_sorted_by(|a, b| a < b));
            assert_eq!(of(guard).last().unwrap().size(), MOST);
        }
        for class in StackClass::all() {
            assert_eq!(class.pages().bytes().0, class.stride().0 * class.in_slab(), "{class:?}");
            assert_eq!(StackClass::of(class.size(), class.guard()), Some(class));
            assert_eq!(class.is_small(), class.size() <= MAX_SMALL);
            assert_eq!(StackClass::numbered(class.index() as u8), class);
            if class.guard() == Guard::Yes {
                assert!(class.stride().0.is_multiple_of(SMALL_GUARD.0), "{class:?}");
            }
        }
    }

    proptest! {
        /// The twin looks through all classes.
        #[test]
        fn the_smallest_that_fits(size in prop_oneof![0usize..100_000, 0usize..(1 << 30) + 10_000], guarded: bool) {
            let guard = if guarded { Guard::Yes } else { Guard::No };
            let class = StackClass::of(Bytes(size), guard);
            let twin = StackClass::all().find(|class| class.guard() == guard && class.size().0 >= size);
            prop_assert_eq!(class, twin);
            if let Some(class) = class.filter(|class| !class.is_small()) {
                prop_assert!((class.size().0 - size) * 5 <= class.size().0, "{} for {}", class.size().0, size);
            }
        }
    }
}
