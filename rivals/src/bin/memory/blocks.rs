//! Blocks of C's `malloc`, remembered outside of the allocator, also after they were freed.
//!
//! # Safety
//! A block is live from the call that made it to the call that frees it; nobody else has its address. The lists lie
//! in anonymous mappings with room for all of them, and nothing but their first `count` places is read.

use std::ptr;

const PAGE: usize = 4096;

/// A list in a mapping of its own, of fixed room.
struct List<T> {
    places: *mut T,
    room: usize,
    count: usize,
    most: usize,
}

/// Where a block is or was, and how long; `live` until it is freed.
#[derive(Clone, Copy)]
struct Place {
    at: *mut u8,
    size: u32,
    live: bool,
}

/// The blocks of one thread.
pub(crate) struct Blocks {
    list: List<Place>,
    live: usize,
    bytes: usize,
}

/// System pages that only freed blocks touched, in bytes: how much that is, and how much of it is resident no more.
pub(crate) struct Whole {
    pub(crate) bytes: usize,
    pub(crate) returned: usize,
}

// SAFETY: the blocks and the list belong to the value alone, and any thread may free a block.
unsafe impl Send for Blocks {}

impl<T: Copy> List<T> {
    fn with_room(room: usize) -> List<T> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel chooses a place where nothing is mapped.
        let at = unsafe { libc::mmap(ptr::null_mut(), room * size_of::<T>(), access, flags, -1, 0) };
        assert!(at != libc::MAP_FAILED, "no room for {room} entries");
        List { places: at.cast(), room, count: 0, most: 0 }
    }

    fn push(&mut self, value: T) {
        assert!(self.count < self.room, "room for {} entries was not enough", self.room);
        // SAFETY: the mapping has room for one more.
        unsafe { self.places.add(self.count).write(value) };
        self.count += 1;
        self.most = self.most.max(self.count);
    }

    fn entries(&mut self) -> &mut [T] {
        // SAFETY: the first `count` places were written, and the list is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.places, self.count) }
    }
}

impl<T> Drop for List<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is the list's, and nobody has a place of it.
        unsafe { libc::munmap(self.places.cast(), self.room * size_of::<T>()) };
    }
}

impl Blocks {
    /// No blocks, and room for so many.
    pub(crate) fn with_room(room: usize) -> Blocks {
        Blocks { list: List::with_room(room), live: 0, bytes: 0 }
    }

    /// Allocates a block and fills it.
    pub(crate) fn push(&mut self, size: usize) {
        assert!(self.try_push(size), "malloc({size}) failed");
    }

    /// As [`Blocks::push`]; `false` when there is no memory.
    pub(crate) fn try_push(&mut self, size: usize) -> bool {
        // SAFETY: malloc takes any size; what it returns has that many bytes.
        let at = unsafe { libc::malloc(size).cast::<u8>() };
        if at.is_null() {
            return false;
        }
        // SAFETY: as above.
        unsafe { at.write_bytes(size as u8, size) };
        self.list.push(Place { at, size: size.try_into().expect("blocks are small"), live: true });
        self.live += 1;
        self.bytes += size;
        true
    }

    /// Frees a block, and forgets it; the last one takes its place in the list.
    pub(crate) fn free(&mut self, index: usize) {
        let places = self.list.entries();
        let place = places[index];
        places[index] = places[places.len() - 1];
        self.list.count -= 1;
        self.let_go(place);
    }

    /// Frees the blocks that `keep` does not keep, in the order of their making. It sees those that are live.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut() -> bool) {
        for index in 0..self.list.count {
            let place = self.list.entries()[index];
            if place.live && !keep() {
                self.list.entries()[index].live = false;
                self.let_go(place);
            }
        }
    }

    fn let_go(&mut self, Place { at, size, .. }: Place) {
        let bytes = size as usize;
        // SAFETY: the block is live, and its bytes are those that `try_push` wrote.
        unsafe {
            let (first, last) = (at.read(), at.add(bytes - 1).read());
            assert!(first == size as u8 && last == size as u8, "{size} bytes at {at:?} were overwritten");
            libc::free(at.cast());
        }
        self.live -= 1;
        self.bytes -= bytes;
    }

    /// How many are live.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Bytes asked for by those that are live.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that the list itself has touched.
    pub(crate) fn own(&self) -> usize {
        self.list.most * size_of::<Place>()
    }
}

/// What has become of the system pages that were touched, and that no live block touches any more.
pub(crate) fn whole_pages(all: &mut [&mut Blocks]) -> Whole {
    // A block of at most two pages' length touches three.
    let mut pages: List<(usize, bool)> =
        List::with_room(all.iter().map(|blocks| blocks.list.count * 3).sum());
    for place in all.iter_mut().flat_map(|blocks| blocks.list.entries().iter()) {
        let (from, to) = (place.at.addr(), place.at.addr() + place.size as usize);
        (from / PAGE..to.div_ceil(PAGE)).for_each(|page| pages.push((page, place.live)));
    }
    // Of a page's entries the last says whether some block on it is live.
    pages.entries().sort_unstable();
    let of_page = pages.entries().chunk_by(|a, b| a.0 == b.0);
    let (mut bytes, mut returned) = (0, 0);
    for &(page, live) in of_page.filter_map(|entries| entries.last()) {
        if !live {
            bytes += PAGE;
            returned += if is_resident(page) { 0 } else { PAGE };
        }
    }
    Whole { bytes, returned }
}

/// Whether a page has memory behind it. One that is not mapped has none.
fn is_resident(page: usize) -> bool {
    let mut resident = 0u8;
    // SAFETY: any address may be asked about, and the answer for one page is one byte.
    let status = unsafe { libc::mincore(ptr::without_provenance_mut(page * PAGE), PAGE, &mut resident) };
    status == 0 && resident & 1 == 1
}
