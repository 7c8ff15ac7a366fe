//! Blocks of C's `malloc`, remembered outside of the allocator.
//!
//! # Safety
//! A block is in the list from the call that made it to the call that frees it; nobody else has its address. The
//! list lies in an anonymous mapping with room for all of it.

use std::ptr;

/// Where a block is, and how long.
#[derive(Clone, Copy)]
struct Place {
    at: *mut u8,
    size: usize,
}

/// The blocks of one thread.
pub(crate) struct Blocks {
    places: *mut Place,
    room: usize,
    count: usize,
    most: usize,
    bytes: usize,
}

// SAFETY: the blocks and the list belong to the value alone, and any thread may free a block.
unsafe impl Send for Blocks {}

impl Blocks {
    /// No blocks, and room for so many.
    pub(crate) fn with_room(room: usize) -> Blocks {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel chooses a place where nothing is mapped.
        let at = unsafe { libc::mmap(ptr::null_mut(), room * size_of::<Place>(), access, flags, -1, 0) };
        assert!(at != libc::MAP_FAILED, "no room for {room} blocks");
        Blocks { places: at.cast(), room, count: 0, most: 0, bytes: 0 }
    }

    /// Allocates a block and fills it.
    pub(crate) fn push(&mut self, size: usize) {
        assert!(self.try_push(size), "malloc({size}) failed");
    }

    /// As [`Blocks::push`]; `false` when there is no memory.
    pub(crate) fn try_push(&mut self, size: usize) -> bool {
        assert!(self.count < self.room, "room for {} blocks was not enough", self.room);
        // SAFETY: malloc takes any size; what it returns has that many bytes, and the list has room.
        unsafe {
            let at = libc::malloc(size).cast::<u8>();
            if at.is_null() {
                return false;
            }
            at.write_bytes(size as u8, size);
            self.places.add(self.count).write(Place { at, size });
        }
        self.count += 1;
        self.most = self.most.max(self.count);
        self.bytes += size;
        true
    }

    /// Frees a block; the last one takes its place in the list.
    pub(crate) fn free(&mut self, index: usize) {
        assert!(index < self.count);
        // SAFETY: the list's first `count` places were written, and the block is live.
        unsafe {
            let Place { at, size } = self.places.add(index).read();
            let (first, last) = (at.read(), at.add(size - 1).read());
            assert!(first == size as u8 && last == size as u8, "{size} bytes at {at:?} were overwritten");
            libc::free(at.cast());
            self.count -= 1;
            self.bytes -= size;
            self.places.add(index).write(self.places.add(self.count).read());
        }
    }

    /// Frees the blocks that `keep` does not keep, in the order of their making as far as that is left.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let (count, mut kept) = (self.count, 0);
        for index in 0..count {
            // SAFETY: the first `count` places were written; a place is read before anything lands on it.
            unsafe {
                let place = self.places.add(index).read();
                if keep(index) {
                    self.places.add(kept).write(place);
                    kept += 1;
                    continue;
                }
                let (first, last) = (place.at.read(), place.at.add(place.size - 1).read());
                let byte = place.size as u8;
                assert!(
                    first == byte && last == byte,
                    "{} bytes at {:?} were overwritten",
                    place.size,
                    place.at
                );
                libc::free(place.at.cast());
                self.bytes -= place.size;
            }
        }
        self.count = kept;
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Bytes asked for by those that there are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that the list itself has touched.
    pub(crate) fn own(&self) -> usize {
        self.most * size_of::<Place>()
    }
}
