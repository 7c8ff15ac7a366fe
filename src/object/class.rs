//! Size classes of collected objects.
//!
//! The sizes are those of blocks ([`base::class`](crate::base::class)), so that one table of figures serves both. What
//! differs is the span: an object span is as short as can be, since a span goes back to the page heap only when all its
//! objects are dead.
//!
//! - Up to [`MAX_ONE_PAGE`] a span is one page, whatever is left over at its end.
//! - Above, it is the shortest that leaves at most an eighth.
//!
//! No span has more than [`MAX_SLOTS`] slots, so that its bits fit into one line of its page's metadata.
//!
//! A slot's index follows from the distance `d` from the span's start without a division: `d * magic >> 32`, with
//! `magic = ceil(2^32 / size)` (Granlund, Montgomery: "Division by invariant integers using multiplication", 1994). It
//! is exact for every `d` inside a span; a test tries them all.

use crate::base::PAGE_SIZE;
use crate::base::class::{CLASSES, SizeClass, TABLE as SIZES};

/// Objects up to so many bytes have spans of one page.
pub const MAX_ONE_PAGE: usize = 512;
/// The most slots of a span.
pub const MAX_SLOTS: usize = 512;

/// What follows from a class.
#[derive(Clone, Copy, Debug)]
pub struct ObjectRow {
    /// Bytes of a slot.
    pub size: u32,
    /// `ceil(2^32 / size)`: see the head of this file.
    pub magic: u32,
    /// Pages of a span.
    pub pages: u16,
    /// Slots of a span.
    pub slots: u16,
}

/// The classes by number.
pub const TABLE: [ObjectRow; CLASSES] = {
    let mut table = [ObjectRow { size: 0, magic: 0, pages: 0, slots: 0 }; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let size = SIZES[class].size;
        let magic = (1u64 << 32).div_ceil(size as u64) as u32;
        let mut pages = 1;
        while size as usize > MAX_ONE_PAGE
            && (pages * PAGE_SIZE < size as usize
                || pages * PAGE_SIZE % size as usize * 8 > pages * PAGE_SIZE)
        {
            pages += 1;
        }
        let slots = (pages * PAGE_SIZE / size as usize) as u16;
        table[class] = ObjectRow { size, magic, pages: pages as u16, slots };
        class += 1;
    }
    table
};

/// What follows from a class.
#[inline]
pub const fn row(class: SizeClass) -> &'static ObjectRow {
    const ROWS: &[ObjectRow; CLASSES] = &TABLE;
    &ROWS[class.0 as usize]
}

/// The index of the slot that lies `distance` bytes from the start of a span, by a class's `magic`. Behind the last
/// slot it is the number of slots.
#[inline(always)]
pub const fn index(distance: usize, magic: u32) -> usize {
    ((distance as u64 * magic as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distance_in_every_span_has_the_quotient_as_its_index() {
        for row in &TABLE {
            for distance in 0..row.pages as usize * PAGE_SIZE {
                let wanted = distance / row.size as usize;
                assert_eq!(index(distance, row.magic), wanted, "{distance} in slots of {}", row.size);
            }
        }
    }

    #[test]
    fn spans_are_the_shortest_that_waste_little() {
        for row in &TABLE {
            let wastes_little = |pages: usize| pages * PAGE_SIZE % row.size as usize * 8 <= pages * PAGE_SIZE;
            let (size, pages) = (row.size as usize, row.pages as usize);
            assert_eq!(row.slots as usize, pages * PAGE_SIZE / size);
            assert!((1..=MAX_SLOTS).contains(&(row.slots as usize)), "{row:?}");
            assert!(wastes_little(pages), "{row:?}");
            assert!((1..pages).all(|fewer| fewer * PAGE_SIZE < size || !wastes_little(fewer)), "{row:?}");
            assert!(size > MAX_ONE_PAGE || pages == 1, "{row:?}");
        }
    }

    #[test]
    fn the_smallest_objects_fill_a_page_and_its_bits() {
        assert_eq!((TABLE[0].size, TABLE[0].slots as usize), (16, MAX_SLOTS));
    }
}
