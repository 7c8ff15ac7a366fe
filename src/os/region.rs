//! The region: a heap's one contiguous range of addresses.
//!
//! ```text
//!   base                     base + committed                    base + size
//!    │  chunk 0 │ chunk 1 │ ... │                                    │
//!    ├──────────────────────────┼────────────────────────────────────┤
//!    │   Released and Ready     │             Reserved               │
//!    └──────────────────────────┴────────────────────────────────────┘
//!                               └─ grow ▶
//! ```
//!
//! The whole range is reserved at once, as much as the system allows, so that everything which is indexed by
//! address is one array and `is this address ours` is one subtraction and one comparison. It grows by chunks, at
//! the end only; it never shrinks. Inside it, pages go to and fro between Released and Ready.
//!
//! [`Region::pointer`] is the one door from a number back to a pointer: all pointers into the heap descend
//! from the one that the reservation returned.
//!
//! 1. `base` is a multiple of the chunk size; so are `size` and `committed`, and `committed` ≤ `size`.
//! 2. The first `committed` bytes are Released or Ready, the rest is Reserved.
//! 3. `committed` only grows, and only by the one who holds the lock that guards growth.
//!
//! The region does not know which of its pages are released, in use or free.
//!
//! # Safety
//! A region owns its reservation: it is the only one to commit it, and unmaps it only in [`Region::destroy`], whose
//! caller promises that nobody looks at the range any more. Ready and release are unsafe for the same reason: who
//! calls them owns the pages in question.

use super::system::{System, SystemError};
use crate::base::{Address, Bytes, CHUNK_SIZE, ChunkId, PAGE_SHIFT, PageId, Pages};
use crate::stats::{Account, Ledger};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The smallest reservation that a heap is content with.
pub const LEAST_REGION: Bytes = Bytes::mib(64);
/// The reservation that a heap asks for first.
pub const DEFAULT_REGION: Bytes = Bytes::gib(1024);

/// A heap's reservation. See the [file's head](self).
#[derive(Debug)]
pub struct Region {
    system: System,
    base: *mut u8,
    size: Bytes,
    committed: AtomicUsize,
}

// SAFETY: a region is a range of addresses and a number; what its pointers lead to is its users' business.
unsafe impl Send for Region {}
// SAFETY: as above; the number is atomic.
unsafe impl Sync for Region {}

/// No address space, not even the least amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReserveError {
    /// What was asked for first.
    pub wanted: Bytes,
    /// What would have been enough.
    pub least: Bytes,
    /// What the system said last.
    pub error: SystemError,
}

/// Why a region did not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrowError {
    /// The reservation has no room left for that.
    AddressSpace {
        /// The bytes of the whole reservation.
        size: Bytes,
    },
    /// The system refused.
    System(SystemError),
}

impl Region {
    /// Reserves `wanted` bytes, rounded up to whole chunks; where the system refuses, half as many, and so on
    /// down to `least`. Books them as reserved.
    ///
    /// # Errors
    /// The system refused even `least` bytes (or `wanted`, if that is less).
    pub fn reserve(
        system: System,
        wanted: Bytes,
        least: Bytes,
        ledger: Ledger<'_>,
    ) -> Result<Region, ReserveError> {
        let chunk = Bytes(CHUNK_SIZE);
        let whole = |bytes: Bytes| bytes.round_up(chunk).unwrap_or(Bytes(usize::MAX & !(CHUNK_SIZE - 1)));
        let mut size = whole(Bytes(wanted.0.max(1)));
        let floor = size.min(whole(Bytes(least.0.max(1))));
        loop {
            match system.reserve(size, chunk) {
                Ok(base) => {
                    ledger.transfer(Account::System, Account::Reserved, size);
                    return Ok(Region { system, base, size, committed: AtomicUsize::new(0) });
                }
                Err(error) if size == floor => return Err(ReserveError { wanted, least, error }),
                Err(_) => size = floor.max(Bytes((size.0 / 2) & !(CHUNK_SIZE - 1))),
            }
        }
    }

    /// The system that the region lies in.
    pub fn system(&self) -> System {
        self.system
    }

    /// The first address.
    #[inline]
    pub fn base(&self) -> Address {
        Address(self.base.addr())
    }

    /// Bytes of the whole reservation.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// Bytes from the base that are committed.
    #[inline]
    pub fn committed(&self) -> Bytes {
        Bytes(self.committed.load(Ordering::Acquire))
    }

    /// Whether an address lies in the committed part.
    #[inline]
    pub fn contains(&self, address: Address) -> bool {
        address.0.wrapping_sub(self.base.addr()) < self.committed.load(Ordering::Acquire)
    }

    /// The page that holds an address of the committed part.
    #[inline]
    pub fn page_of(&self, address: Address) -> Option<PageId> {
        let offset = address.0.wrapping_sub(self.base.addr());
        (offset < self.committed.load(Ordering::Acquire)).then_some(PageId(offset >> PAGE_SHIFT))
    }

    /// The address of a page's first byte.
    #[inline]
    pub fn address(&self, page: PageId) -> Address {
        Address(self.base.addr() + page.offset())
    }

    /// The door from a number to a pointer. Following the pointer is the caller's responsibility.
    #[inline]
    pub fn pointer(&self, address: Address) -> *mut u8 {
        let offset = address.0.wrapping_sub(self.base.addr());
        debug_assert!(offset <= self.size.0, "{address} is not in the region at {}", self.base());
        self.base.wrapping_add(offset)
    }

    /// A pointer to a page's first byte.
    #[inline]
    pub fn page_pointer(&self, page: PageId) -> *mut u8 {
        debug_assert!(page.offset() <= self.size.0, "{page:?} is not in the region");
        self.base.wrapping_add(page.offset())
    }

    /// The chunks that [`Region::grow`] would add now: metadata for them can be made ready first.
    ///
    /// # Errors
    /// [`GrowError::AddressSpace`] when the reservation has no room for them.
    pub fn next(&self, bytes: Bytes) -> Result<Range<ChunkId>, GrowError> {
        debug_assert!(bytes.0 > 0 && bytes.0.is_multiple_of(CHUNK_SIZE), "growth by {bytes:?}");
        let committed = self.committed.load(Ordering::Relaxed);
        if bytes.0 > self.size.0 - committed {
            return Err(GrowError::AddressSpace { size: self.size });
        }
        Ok(ChunkId(committed / CHUNK_SIZE)..ChunkId((committed + bytes.0) / CHUNK_SIZE))
    }

    /// Reserved → Released for the next `bytes`, a multiple of the chunk size, and books them so. The caller
    /// holds the lock that guards growth.
    ///
    /// # Errors
    /// [`GrowError`]; nothing has changed.
    pub fn grow(&self, bytes: Bytes, ledger: Ledger<'_>) -> Result<Range<ChunkId>, GrowError> {
        let chunks = self.next(bytes)?;
        let at = self.page_pointer(chunks.start.first_page());
        // SAFETY: the range is reserved, ours, and beyond what anybody uses; the lock keeps others from growing.
        unsafe {
            self.system.commit(at, bytes).map_err(GrowError::System)?;
            self.system.name(at, bytes, c"spanheap: pages");
        }
        ledger.transfer(Account::Reserved, Account::Released, bytes);
        self.committed.store(chunks.end.first_page().offset(), Ordering::Release);
        Ok(chunks)
    }

    /// Released → Ready, for committed pages of which some may be ready already. Posts nothing: the caller knows
    /// where the bytes stand in the books.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    ///
    /// # Safety
    /// The pages are the caller's, and nobody touches them before this returns.
    pub unsafe fn ready(&self, page: PageId, pages: Pages) -> Result<(), SystemError> {
        debug_assert!(page.plus(pages).offset() <= self.committed().0, "{pages:?} from {page:?}");
        // SAFETY: committed memory of ours; the pages are the caller's.
        unsafe { self.system.ready(self.page_pointer(page), pages.bytes()) }
    }

    /// Ready → Released, for committed pages of which some may be released already. Posts nothing, as above.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    ///
    /// # Safety
    /// The pages are the caller's, and nobody needs what they hold.
    pub unsafe fn release(&self, page: PageId, pages: Pages) -> Result<(), SystemError> {
        debug_assert!(page.plus(pages).offset() <= self.committed().0, "{pages:?} from {page:?}");
        // SAFETY: committed memory of ours; the pages are the caller's.
        unsafe { self.system.release(self.page_pointer(page), pages.bytes()) }
    }

    /// Gives the whole range back to the system. The books go with the heap; nothing is posted.
    ///
    /// # Safety
    /// Called once, and nobody looks at the range any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the reservation is ours, whole, and the caller promises that it is done with.
        unsafe { self.system.unmap(self.base, self.size) }
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReserveError { wanted, least, error } = self;
        write!(f, "no address space for a heap: wanted {wanted}, at least {least}; {error}")
    }
}

impl core::error::Error for ReserveError {}

impl fmt::Display for GrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrowError::AddressSpace { size } => write!(f, "the reserved {size} of address space are used up"),
            GrowError::System(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for GrowError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::testing::{balance, books, fixed_balances, simulated};
    use super::*;

    const CHUNK: Bytes = Bytes(CHUNK_SIZE);

    #[test]
    fn it_reserves_grows_and_leads_back_to_pointers() {
        let books = books();
        let shared = books.shared();
        let region = Region::reserve(System::Linux, Bytes::gib(64), CHUNK, shared.ledger()).unwrap();
        assert!(region.base().is_aligned(CHUNK_SIZE));
        assert!(!region.contains(region.base()));
        assert_eq!(region.next(Bytes::mib(8)), Ok(ChunkId(0)..ChunkId(2)));
        assert_eq!(region.grow(Bytes::mib(8), shared.ledger()), Ok(ChunkId(0)..ChunkId(2)));
        assert_eq!(region.grow(CHUNK, shared.ledger()), Ok(ChunkId(2)..ChunkId(3)));
        let last = Address(region.base().0 + 3 * CHUNK_SIZE - 1);
        assert_eq!(region.page_of(last), Some(PageId(3 * 512 - 1)));
        assert_eq!(region.page_of(Address(last.0 + 1)), None);
        assert_eq!(region.page_of(Address(region.base().0 - 1)), None);
        // SAFETY: committed and ours.
        unsafe {
            assert_eq!(region.pointer(last).read(), 0);
            region.pointer(last).write(7);
            region.release(PageId(3 * 512 - 1), Pages(1)).unwrap();
            region.ready(PageId(3 * 512 - 1), Pages(1)).unwrap();
            assert_eq!(region.pointer(last).read(), 0);
        }
        drop(shared);
        assert_eq!(balance(&books, Account::Released), 3 * CHUNK_SIZE as i64);
        assert_eq!(balance(&books, Account::Reserved), (region.size() - region.committed()).0 as i64);
        // SAFETY: the test's own, and done with.
        unsafe { region.destroy() };
    }

    #[test]
    fn it_halves_what_the_system_refuses() {
        for refusals in 0..=14 {
            let (simulated, system) = simulated();
            let books = books();
            simulated.refuse(0, refusals);
            let shared = books.shared();
            let region = Region::reserve(system, Bytes::gib(1024), LEAST_REGION, shared.ledger()).unwrap();
            drop(shared);
            assert_eq!(region.size(), Bytes(1 << (40 - refusals)));
            assert_eq!(balance(&books, Account::Reserved), region.size().0 as i64);
            // SAFETY: the test's own, and done with.
            unsafe { region.destroy() };
            assert_eq!(simulated.reserved_bytes(), Bytes::ZERO);
        }
    }

    #[test]
    fn below_the_least_it_says_what_it_wanted() {
        let (simulated, system) = simulated();
        let books = books();
        simulated.set_address_space(Bytes::mib(63));
        let before = fixed_balances(&books);
        let shared = books.shared();
        let error = Region::reserve(system, Bytes::gib(1024), LEAST_REGION, shared.ledger()).unwrap_err();
        drop(shared);
        assert_eq!(
            error.to_string(),
            "no address space for a heap: wanted 1 TiB, at least 64 MiB; the system refused it (errno 12)"
        );
        assert_eq!(simulated.refusals(), 15);
        assert_eq!(fixed_balances(&books), before);
    }

    #[test]
    fn halving_ends_exactly_at_the_least() {
        let (simulated, system) = simulated();
        let books = books();
        simulated.set_address_space(Bytes::mib(64));
        let region = Region::reserve(system, Bytes::mib(100), LEAST_REGION, books.shared().ledger()).unwrap();
        assert_eq!(region.size(), Bytes::mib(64));
        // SAFETY: the test's own, and done with.
        unsafe { region.destroy() };
    }

    #[test]
    fn a_refused_growth_changes_nothing() {
        let (simulated, system) = simulated();
        let books = books();
        let shared = books.shared();
        let region = Region::reserve(system, Bytes::mib(16), CHUNK, shared.ledger()).unwrap();
        simulated.refuse(0, 1);
        let refused = GrowError::System(SystemError::NO_MEMORY);
        assert_eq!(region.grow(CHUNK, shared.ledger()), Err(refused));
        assert_eq!(region.committed(), Bytes::ZERO);
        assert_eq!(region.grow(Bytes::mib(12), shared.ledger()), Ok(ChunkId(0)..ChunkId(3)));
        let full = GrowError::AddressSpace { size: Bytes::mib(16) };
        assert_eq!(region.grow(Bytes::mib(8), shared.ledger()), Err(full));
        assert_eq!(full.to_string(), "the reserved 16 MiB of address space are used up");
        drop(shared);
        assert_eq!(balance(&books, Account::Released), 12 << 20);
        // SAFETY: the test's own, and done with.
        unsafe { region.destroy() };
    }

    #[test]
    fn ready_and_release_can_be_refused() {
        let (simulated, system) = simulated();
        let books = books();
        let shared = books.shared();
        let region = Region::reserve(system, CHUNK, CHUNK, shared.ledger()).unwrap();
        region.grow(CHUNK, shared.ledger()).unwrap();
        simulated.set_memory(Pages(2).bytes());
        // SAFETY: committed, ours, and read only while ready or to see the poison.
        unsafe {
            assert!(region.ready(PageId(0), Pages(3)).is_err());
            region.ready(PageId(0), Pages(2)).unwrap();
            region.page_pointer(PageId(1)).write(1);
            simulated.refuse(0, 1);
            assert!(region.release(PageId(1), Pages(1)).is_err());
            assert_eq!(region.page_pointer(PageId(1)).read(), 1);
            region.release(PageId(1), Pages(1)).unwrap();
            assert_eq!(region.page_pointer(PageId(1)).read(), super::super::simulated::POISON);
            region.ready(PageId(0), Pages(2)).unwrap();
            assert_eq!(region.page_pointer(PageId(1)).read(), 0);
            assert_eq!(simulated.ready_bytes(), Pages(2).bytes());
            region.destroy();
        }
        assert_eq!(simulated.ready_bytes(), Bytes::ZERO);
    }
}
