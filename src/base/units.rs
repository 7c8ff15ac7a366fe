//! Quantities of memory. Bytes and pages are different types, so that they do not add.

use core::fmt;
use core::iter::Sum;
use core::ops::{Add, AddAssign, Sub, SubAssign};

/// Binary logarithm of the size of a page.
pub const PAGE_SHIFT: u32 = 13;
/// Bytes in a page: the runtime's page, 8 KiB, whatever the system's own page size is.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// Pages in a chunk, the unit that the page allocator's bitmaps and the growth of the heap come in.
pub const CHUNK_PAGES: usize = 512;
/// Bytes in a chunk: 4 MiB.
pub const CHUNK_SIZE: usize = CHUNK_PAGES * PAGE_SIZE;

/// A number of bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Bytes(pub usize);

/// A number of runtime pages of [`PAGE_SIZE`] bytes each.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pages(pub usize);

impl Bytes {
    /// No bytes at all.
    pub const ZERO: Bytes = Bytes(0);

    /// So many KiB.
    pub const fn kib(n: usize) -> Bytes {
        Bytes(n << 10)
    }

    /// So many MiB.
    pub const fn mib(n: usize) -> Bytes {
        Bytes(n << 20)
    }

    /// So many GiB.
    pub const fn gib(n: usize) -> Bytes {
        Bytes(n << 30)
    }

    /// The pages needed to hold this many bytes.
    pub const fn pages_ceil(self) -> Pages {
        Pages(self.0.div_ceil(PAGE_SIZE))
    }

    /// This number rounded up to a multiple of `unit`, which must be a power of two; `None` on overflow.
    pub const fn round_up(self, unit: Bytes) -> Option<Bytes> {
        debug_assert!(unit.0.is_power_of_two());
        match self.0.checked_add(unit.0 - 1) {
            Some(n) => Some(Bytes(n & !(unit.0 - 1))),
            None => None,
        }
    }
}

impl Pages {
    /// The bytes in this many pages.
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0 << PAGE_SHIFT)
    }
}

macro_rules! arithmetic {
    ($unit:ident) => {
        impl Add for $unit {
            type Output = $unit;
            #[inline]
            fn add(self, other: $unit) -> $unit {
                $unit(self.0 + other.0)
            }
        }
        impl Sub for $unit {
            type Output = $unit;
            #[inline]
            fn sub(self, other: $unit) -> $unit {
                $unit(self.0 - other.0)
            }
        }
        impl AddAssign for $unit {
            #[inline]
            fn add_assign(&mut self, other: $unit) {
                self.0 += other.0;
            }
        }
        impl SubAssign for $unit {
            #[inline]
            fn sub_assign(&mut self, other: $unit) {
                self.0 -= other.0;
            }
        }
        impl Sum for $unit {
            fn sum<I: Iterator<Item = $unit>>(all: I) -> $unit {
                $unit(all.map(|one| one.0).sum())
            }
        }
    };
}

arithmetic!(Bytes);
arithmetic!(Pages);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

/// Prints with a binary unit and at most two digits after the point, as `1.25 MiB`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let step = ((self.0.ilog2() / 10) as usize).min(UNITS.len());
        let unit = 1usize << (10 * step);
        let hundredths = ((self.0 % unit) as u128 * 100 / unit as u128) as usize;
        let whole = self.0 / unit;
        match hundredths {
            0 => write!(f, "{whole} {}", UNITS[step - 1]),
            _ => write!(f, "{whole}.{hundredths:02} {}", UNITS[step - 1]),
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_print_with_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 20) + (1 << 18), "1.25 MiB"),
            (3 << 40, "3 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn rounding_up_notices_overflow() {
        assert_eq!(Bytes(1).round_up(Bytes(4096)), Some(Bytes(4096)));
        assert_eq!(Bytes(4096).round_up(Bytes(4096)), Some(Bytes(4096)));
        assert_eq!(Bytes(usize::MAX).round_up(Bytes(4096)), None);
    }
}
