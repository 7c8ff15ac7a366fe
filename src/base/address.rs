//! Places in the heap's address space, as numbers that cannot be dereferenced.
//!
//! One door, [`Region::pointer`](crate::os::Region::pointer), leads from a number back to a pointer.

use super::units::{CHUNK_PAGES, PAGE_SHIFT, Pages};
use core::fmt;

/// An absolute address of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address(pub usize);

/// A page of a region, counted from the region's base.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PageId(pub usize);

/// A chunk of a region, counted from the region's base. Chunk `c` holds the pages `512 c` to `512 c + 511`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ChunkId(pub usize);

impl Address {
    /// The address that `pointer` holds.
    pub fn of<T>(pointer: *const T) -> Address {
        Address(pointer.addr())
    }

    /// Whether the address is a multiple of `unit`, a power of two.
    pub const fn is_aligned(self, unit: usize) -> bool {
        self.0 & (unit - 1) == 0
    }
}

impl PageId {
    /// The chunk that holds this page.
    pub const fn chunk(self) -> ChunkId {
        ChunkId(self.0 / CHUNK_PAGES)
    }

    /// The page's place in its chunk, 0 to 511.
    pub const fn in_chunk(self) -> usize {
        self.0 % CHUNK_PAGES
    }

    /// The page `n` further up.
    pub const fn plus(self, n: Pages) -> PageId {
        PageId(self.0 + n.0)
    }

    /// Bytes from the region's base to the page.
    pub const fn offset(self) -> usize {
        self.0 << PAGE_SHIFT
    }
}

impl ChunkId {
    /// The chunk's first page.
    pub const fn first_page(self) -> PageId {
        PageId(self.0 * CHUNK_PAGES)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {}", self.0)
    }
}
