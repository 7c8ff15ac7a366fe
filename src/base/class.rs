//! Size classes of blocks, computed at compile time.
//!
//! Blocks up to 128 bytes come in steps of 16; above, every doubling is cut into eight equal steps, so that a
//! block is never more than 12.5 % larger than what was asked for. Each class has a shortest span; who has many spans of a
//! class gets longer ones. Blocks up to 64 KiB have classes although only two of the largest fit into a span: a place in a
//! span that is there costs far less than a span to itself.
//! The classes of collected objects are another table: they serve another trade-off.
//!
//! A class's `magic` proves without a division that an offset is a multiple of the class's size
//! (Lemire, Kaser, Kurz: "Faster remainder by direct computation", 2019): with `m = ceil(2^64 / size)`,
//! `size` divides `n` exactly when `n * m mod 2^64 < m`, for every `n` inside a span. (32 bits would do for spans of
//! small blocks, but not where `n` and `size` together have more.)

use super::units::{PAGE_SIZE, Pages};

/// The largest block that is cut from a span shared with others; larger ones have a span to themselves.
pub const MAX_SMALL: usize = 64 << 10;
/// Sizes up to here find their class by one table look-up.
pub const MAX_DIRECT: usize = 1024;
/// Bytes between two classes up to 128 bytes, and the alignment that every block has.
pub const GRANULE: usize = 16;
/// Number of classes.
pub const CLASSES: usize = 8 + 8 * 9;

/// A class's number, from 0 for 16 bytes to [`CLASSES`] − 1 for [`MAX_SMALL`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SizeClass(pub u8);

/// What follows from a class.
#[derive(Clone, Copy, Debug)]
pub struct ClassRow {
    /// Bytes of a block.
    pub size: u32,
    /// Pages of the shortest span of the class.
    pub pages: u32,
    /// Blocks in such a span.
    pub blocks: u32,
    /// `ceil(2^64 / size)`: see the head of this file.
    pub magic: u64,
}

/// The shortest span is so long that it holds this many blocks, as far as `LONG_SPAN` allows.
const BLOCKS_WANTED: usize = 32;
/// Spans of classes that need no more for four blocks grow up to here.
pub const LONG_SPAN: Pages = Pages(8);
/// The least number of blocks in a span, even where that takes a longer span, as long as they fit into `LEAST_IN`.
const BLOCKS_LEAST: usize = 4;
/// Bytes that a span may have for its least number of blocks' sake.
const LEAST_IN: usize = 128 << 10;

/// The classes by number.
pub const TABLE: [ClassRow; CLASSES] = {
    let mut table = [ClassRow { size: 0, pages: 0, blocks: 0, magic: 0 }; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let size = if class < 8 {
            (class + 1) * GRANULE
        } else {
            let doubling = (class - 8) / 8;
            (128 << doubling) + ((class - 8) % 8 + 1) * (16 << doubling)
        };
        let least = if size * BLOCKS_LEAST > LEAST_IN { LEAST_IN / size } else { BLOCKS_LEAST };
        let mut pages = 1;
        // Long enough, and with at most a sixteenth left over at the end.
        while pages * PAGE_SIZE / size < least
            || (pages * PAGE_SIZE / size < BLOCKS_WANTED && pages < LONG_SPAN.0 / 2)
            || (pages * PAGE_SIZE % size) * 16 > pages * PAGE_SIZE
        {
            pages += 1;
        }
        table[class] = ClassRow {
            size: size as u32,
            pages: pages as u32,
            blocks: (pages * PAGE_SIZE / size) as u32,
            magic: ((1u128 << 64).div_ceil(size as u128)) as u64,
        };
        class += 1;
    }
    table
};

impl SizeClass {
    /// The class of the smallest blocks that hold `size` bytes; `None` above [`MAX_SMALL`].
    #[inline]
    pub const fn of(size: usize) -> Option<SizeClass> {
        if size > MAX_SMALL {
            return None;
        }
        Some(SizeClass::of_small(size))
    }

    /// As [`SizeClass::of`], for sizes known to be at most [`MAX_SMALL`].
    #[inline]
    pub const fn of_small(size: usize) -> SizeClass {
        debug_assert!(size <= MAX_SMALL);
        if size <= 128 {
            let granules = size.div_ceil(GRANULE);
            return SizeClass(if granules == 0 { 0 } else { granules as u8 - 1 });
        }
        // The highest bit of size − 1 names the doubling, the next three bits the step inside it.
        let below = size - 1;
        let top = below.ilog2();
        let step = (below >> (top - 3)) & 7;
        SizeClass((8 + (top as usize - 7) * 8 + step) as u8)
    }

    /// The class of the smallest blocks that hold `size` bytes at a multiple of `align`, a power of two no
    /// larger than a page; `None` where none does.
    pub const fn of_aligned(size: usize, align: usize) -> Option<SizeClass> {
        let wanted = if size < align { align } else { size };
        let Some(SizeClass(mut class)) = SizeClass::of(wanted) else { return None };
        while (class as usize) < CLASSES {
            if (TABLE[class as usize].size as usize).is_multiple_of(align) {
                return Some(SizeClass(class));
            }
            class += 1;
        }
        None
    }

    /// What follows from the class.
    #[inline]
    pub const fn row(self) -> &'static ClassRow {
        const ROWS: &[ClassRow; CLASSES] = &TABLE;
        &ROWS[self.0 as usize]
    }

    /// Bytes of a block.
    #[inline]
    pub const fn size(self) -> usize {
        self.row().size as usize
    }

    /// Pages of the next span of a cache that has so many of the class: they double as often as their number
    /// does. Who has few blocks of a class has a short span, which is soon free again; who has many takes them from
    /// long ones, which have to be looked after less often.
    pub fn pages(self, spans: u32) -> Pages {
        let shortest = self.row().pages as usize;
        let longest = LONG_SPAN.0.max(shortest);
        Pages((shortest << (spans / 2 + 1).ilog2().min(8)).min(longest - longest % shortest))
    }

    /// All classes in order.
    pub fn all() -> impl Iterator<Item = SizeClass> {
        (0..CLASSES as u8).map(SizeClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_rise_and_waste_at_most_an_eighth() {
        assert_eq!(TABLE[CLASSES - 1].size as usize, MAX_SMALL);
        for size in 0..=MAX_SMALL {
            let class = SizeClass::of(size).unwrap();
            assert!(class.size() >= size, "{size} in a block of {}", class.size());
            let smaller = class.0.checked_sub(1).map_or(0, |c| TABLE[c as usize].size as usize);
            assert!(smaller < size.max(1), "{size} would fit {smaller}");
            if size > 128 {
                assert!((class.size() - size) * 8 <= class.size(), "{size} wastes too much");
            }
        }
        assert_eq!(SizeClass::of(MAX_SMALL + 1), None);
    }

    #[test]
    fn every_multiple_and_nothing_else_passes_the_magic_test() {
        for row in &TABLE {
            for offset in 0..row.pages.max(LONG_SPAN.0 as u32) * PAGE_SIZE as u32 {
                let passes = u64::from(offset).wrapping_mul(row.magic) < row.magic;
                assert_eq!(passes, offset.is_multiple_of(row.size), "{offset} in blocks of {}", row.size);
            }
        }
    }

    #[test]
    fn spans_are_short_and_full() {
        for row in &TABLE {
            let bytes = row.pages as usize * PAGE_SIZE;
            let least = BLOCKS_LEAST.min(LEAST_IN / row.size as usize);
            assert!(least >= 2 && row.blocks as usize >= least, "{row:?}");
            assert!((bytes - (row.blocks * row.size) as usize) * 16 <= bytes, "{row:?}");
            assert!(bytes <= LEAST_IN + LEAST_IN / 4, "{row:?}");
        }
    }

    #[test]
    fn spans_grow_by_whole_short_ones() {
        for class in SizeClass::all() {
            let row = class.row();
            assert_eq!(class.pages(0).0, row.pages as usize);
            for spans in 0..100 {
                let (now, next) = (class.pages(spans), class.pages(spans + 1));
                assert!(now <= next && now <= LONG_SPAN.max(Pages(row.pages as usize)));
                assert_eq!(now.0 % row.pages as usize, 0, "{row:?}");
            }
        }
    }

    #[test]
    fn aligned_classes_are_multiples() {
        for shift in 4..=13 {
            let align = 1 << shift;
            for size in (1..=MAX_SMALL).step_by(61) {
                let class = SizeClass::of_aligned(size, align).unwrap();
                assert!(class.size() >= size && class.size().is_multiple_of(align));
            }
        }
    }
}
