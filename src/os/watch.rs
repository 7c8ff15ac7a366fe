//! Which pages were written: what the kernel notes for a collector that has no barrier.
//!
//! A [`Watch`] is kept over one reservation. Pages that are *protected* are written without anybody's noticing, but for the
//! first time: then the kernel takes a fault, notes the page as written, and lets the program go on. No signal, no
//! second thread, and system calls that write to such a page work as ever.
//!
//! ```text
//!                 protect                     first write
//!   not watched ──────────▶ protected ──────────────────────▶ written
//!        ▲                      │  ▲                             │
//!        └────── lift ──────────┘  └── written(.., protect) ─────┘
//! ```
//!
//! A page that was never protected counts as written, so an answer may name too many pages and never too few. On Linux
//! this is `userfaultfd` with asynchronous write protection and the call `PAGEMAP_SCAN` (both from 6.7 on). Older
//! kernels and many sandboxes refuse the first or the second; callers do without then.
//!
//! 1. Between a `protect` of a page and an answer that does not name it, nobody has written to it.
//! 2. An answer with `protect` leaves every page that it names protected: what is written from then on is in the next.
//! 3. A child of a `fork` has no watch: its copy of one speaks about its parent's memory, and is dropped unused.
//!
//! What devices write into memory that was pinned for them before is not noticed. The file does not know what lies on a page.
//!
//! # Safety
//! Protection changes no byte and no access, so the calls are safe for whoever uses the memory; that the range is a
//! reservation of ours is the promise of [`Watch::open`].

use super::proc::{self, OwnedFd};
use super::raw;
use super::simulated::Call;
use super::system::{System, SystemError};
use crate::base::{Address, Bytes};
use rustix::fd::AsRawFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::UserfaultfdFlags;

/// Faults of system calls are not handed on: they are resolved by the kernel like all others here, and without this
/// flag programs without privileges are refused (`UFFD_USER_MODE_ONLY`).
const USER_MODE_ONLY: u32 = 1;
/// `UFFD_API`: the only version there is.
const VERSION: u64 = 0xaa;
/// `UFFD_FEATURE_WP_ASYNC`: the kernel resolves faults itself.
const ASYNCHRONOUS: u64 = 1 << 15;
/// `UFFDIO_REGISTER_MODE_WP`.
const REGISTER_WRITES: u64 = 1 << 1;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const PROTECT: u64 = 1;

/// `UFFDIO_API`, `UFFDIO_REGISTER`, `UFFDIO_WRITEPROTECT`, `PAGEMAP_SCAN`: direction, size of the argument, family, number.
const API: usize = 0xc018_aa3f;
const REGISTER: usize = 0xc020_aa00;
const WRITE_PROTECT: usize = 0xc018_aa06;
const SCAN: usize = 0xc060_6610;

/// `PM_SCAN_WP_MATCHING`, and `PM_SCAN_CHECK_WPASYNC`: an answer about memory that is not watched is an error.
const PROTECT_FOUND: u64 = 1;
const WATCHED_ONLY: u64 = 2;
/// `PAGE_IS_WRITTEN`.
const IS_WRITTEN: u64 = 1 << 1;

/// A reservation whose written pages the kernel notes.
#[derive(Debug)]
pub struct Watch {
    system: System,
    at: Address,
    size: Bytes,
    /// What protects pages. While it is open, they are watched.
    faults: OwnedFd,
    /// What says which were written.
    pages: OwnedFd,
}

/// Neighbouring pages that were written: `page_region` of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Written {
    start: u64,
    end: u64,
    categories: u64,
}

/// What an answer came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Runs of pages that were written to the caller's list.
    pub count: usize,
    /// The answer is about the pages before this one.
    pub until: Address,
}

/// `pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Question {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    list: u64,
    list_length: u64,
    most_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    wanted: u64,
}

impl Written {
    /// No pages.
    pub const NONE: Written = Written { start: 0, end: 0, categories: 0 };

    /// The first byte.
    pub fn start(&self) -> Address {
        Address(self.start as usize)
    }

    /// How long the run is.
    pub fn size(&self) -> Bytes {
        Bytes((self.end - self.start) as usize)
    }
}

impl Watch {
    /// Begins to watch a reservation. No page of it is protected.
    ///
    /// # Errors
    /// The kernel is too old, or does not let this process do it.
    ///
    /// # Safety
    /// The range is one reservation of `system`, which outlives the watch.
    pub unsafe fn open(system: System, at: Address, size: Bytes) -> Result<Watch, SystemError> {
        ask(system, Call::Watch)?;
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        let flags = flags | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
        // SAFETY: what the file can do to memory is said in the calls below, and nobody else has it.
        let faults = unsafe { rustix::mm::userfaultfd(flags) }?;
        // The features that are wanted come back as those that there are, or the call is refused.
        let mut version = [VERSION, ASYNCHRONOUS, 0];
        control(&faults, API, &mut version)?;
        let mut range = [at.0 as u64, size.0 as u64, REGISTER_WRITES, 0];
        control(&faults, REGISTER, &mut range)?;
        let pages = proc::open(c"/proc/self/pagemap", OFlags::RDONLY)?;
        let watch = Watch { system, at, size, faults, pages };
        // Whether the second call is there, asked about a page that does not matter.
        let page = system.page_size();
        watch.written(at, page, false, &mut [Written::NONE])?;
        Ok(watch)
    }

    /// Protects a range: from here on it is known which of its pages were written.
    ///
    /// # Errors
    /// The system refused; some pages may be protected.
    ///
    /// # Panics
    /// When the range is not one of whole pages in the reservation.
    pub fn protect(&self, at: Address, size: Bytes) -> Result<(), SystemError> {
        ask(self.system, Call::Protect)?;
        self.change(at, size, PROTECT)
    }

    /// Takes protection away.
    ///
    /// # Errors
    /// The system refused; some pages may be protected still.
    ///
    /// # Panics
    /// As [`Watch::protect`].
    pub fn lift(&self, at: Address, size: Bytes) -> Result<(), SystemError> {
        self.change(at, size, 0)
    }

    fn change(&self, at: Address, size: Bytes, mode: u64) -> Result<(), SystemError> {
        self.assert_ours(at, size);
        loop {
            let mut range = [at.0 as u64, size.0 as u64, mode];
            match control(&self.faults, WRITE_PROTECT, &mut range) {
                // The memory's mappings are being changed by somebody else.
                Err(error) if error == Errno::AGAIN.into() => crate::base::sync::yield_now(),
                other => return other.map(|_| ()),
            }
        }
    }

    /// Which pages of a range were written since they were protected, in order, as far as `list` has room; with `protect`
    /// those are protected again, before this returns. The answer says how far it goes: ask again from there.
    ///
    /// # Errors
    /// The system refused, or does not watch the range any more, as after somebody closed all files of the process.
    /// Nothing is known then.
    ///
    /// # Panics
    /// As [`Watch::protect`].
    pub fn written(
        &self,
        at: Address,
        size: Bytes,
        protect: bool,
        list: &mut [Written],
    ) -> Result<Answer, SystemError> {
        self.assert_ours(at, size);
        ask(self.system, Call::Written)?;
        let mut question = Question {
            size: size_of::<Question>() as u64,
            flags: if protect { PROTECT_FOUND | WATCHED_ONLY } else { WATCHED_ONLY },
            start: at.0 as u64,
            end: (at.0 + size.0) as u64,
            list: list.as_mut_ptr().expose_provenance() as u64,
            list_length: list.len() as u64,
            all_of: IS_WRITTEN,
            wanted: IS_WRITTEN,
            ..Question::default()
        };
        let argument = (&raw mut question).expose_provenance();
        // SAFETY: the kernel writes to the question, and as many runs to the list as there is room for.
        let count = unsafe { raw::control(self.pages.as_raw_fd(), SCAN, argument) }?;
        Ok(Answer { count, until: Address(question.walk_end as usize) })
    }

    fn assert_ours(&self, at: Address, size: Bytes) {
        let offset = at.0.wrapping_sub(self.at.0);
        let is_inside = offset <= self.size.0 && size.0 <= self.size.0 - offset;
        assert!(is_inside, "{size} at {at} are not watched");
    }
}

/// A control of a file whose argument is a few words, which the kernel reads and writes.
fn control<const N: usize>(
    file: &OwnedFd,
    number: usize,
    words: &mut [u64; N],
) -> Result<usize, SystemError> {
    // SAFETY: the number says how many words there are; the memory that they name is only protected.
    unsafe { raw::control(file.as_raw_fd(), number, words.as_mut_ptr().expose_provenance()) }
}

/// Lets a simulated system refuse.
fn ask(system: System, call: Call) -> Result<(), SystemError> {
    match system {
        System::Linux => Ok(()),
        System::Simulated(simulated) => simulated.enter(call),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::testing::simulated;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PAGES: usize = 64;

    fn page() -> usize {
        System::Linux.page_size().0
    }

    /// A committed reservation and its watch; `None`, and a word about it, where the kernel has none.
    fn watched(system: System) -> Option<(*mut u8, Watch)> {
        let size = Bytes(PAGES * page());
        let at = system.reserve(size, Bytes(page())).unwrap();
        // SAFETY: the test's own reservation.
        let watch = unsafe {
            system.commit(at, size).unwrap();
            system.ready(at, size).unwrap();
            Watch::open(system, Address(at.addr()), size)
        };
        match watch {
            Ok(watch) => Some((at, watch)),
            Err(error) => {
                eprintln!("skipped: no watch here: {error}");
                None
            }
        }
    }

    /// Numbers of the pages that are said to be written.
    fn written(watch: &Watch, protect: bool) -> BTreeSet<usize> {
        let (mut from, end) = (watch.at, watch.at.0 + watch.size.0);
        let mut found = BTreeSet::new();
        while from.0 < end {
            // A list that is soon full, so that answers are pieced together.
            let mut list = [Written::NONE; 3];
            let answer = watch.written(from, Bytes(end - from.0), protect, &mut list).unwrap();
            for run in &list[..answer.count] {
                let first = (run.start().0 - watch.at.0) / page();
                found.extend(first..first + run.size().0 / page());
            }
            assert!(answer.until.0 > from.0, "an answer about nothing");
            from = answer.until;
        }
        found
    }

    fn write(at: *mut u8, number: usize) {
        // SAFETY: a page of the test's own.
        unsafe { at.add(number * page() + 8).write_volatile(1) };
    }

    fn destroy(at: *mut u8, watch: Watch) {
        let (system, size) = (watch.system, watch.size);
        drop(watch);
        // SAFETY: the test's own reservation, and done with.
        unsafe { system.unmap(at, size) };
    }

    #[test]
    fn system_calls_write_to_protected_pages_and_are_noticed() {
        let Some((at, watch)) = watched(System::Linux) else { return };
        watch.protect(watch.at, watch.size).unwrap();
        assert_eq!(written(&watch, false), [].into());
        let mut zeros = std::fs::File::open("/dev/zero").unwrap();
        // SAFETY: bytes of the test's own.
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.add(5 * page()), 10) };
        std::io::Read::read_exact(&mut zeros, bytes).unwrap();
        assert_eq!(written(&watch, false), [5].into());
        destroy(at, watch);
    }

    #[test]
    fn what_was_never_protected_counts_as_written() {
        let Some((at, watch)) = watched(System::Linux) else { return };
        write(at, 3);
        watch.protect(Address(at.addr() + 10 * page()), Bytes(4 * page())).unwrap();
        let found = written(&watch, false);
        assert!(found.contains(&3), "a page that was written and not protected");
        assert!((10..14).all(|number| !found.contains(&number)), "protected pages that nobody wrote to");
        destroy(at, watch);
    }

    #[test]
    fn every_call_can_be_refused() {
        let (simulated, system) = simulated();
        let size = Bytes(PAGES * page());
        let at = system.reserve(size, Bytes(page())).unwrap();
        simulated.refuse(0, 1);
        // SAFETY: the test's own reservation.
        let refused = unsafe { Watch::open(system, Address(at.addr()), size) };
        assert_eq!(refused.map(|_| ()), Err(SystemError::NO_MEMORY));
        // SAFETY: as above, and done with.
        unsafe { system.unmap(at, size) };
        let Some((at, watch)) = watched(system) else { return };
        simulated.refuse(0, 2);
        assert!(watch.protect(watch.at, watch.size).is_err());
        assert!(watch.written(watch.at, watch.size, true, &mut [Written::NONE]).is_err());
        watch.protect(watch.at, watch.size).unwrap();
        write(at, 1);
        assert_eq!(written(&watch, true), [1].into());
        destroy(at, watch);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Against a set of page numbers.
        #[test]
        fn first_writes_are_noted(
            program in proptest::collection::vec((0..4, 0..PAGES, 1..9usize), 1..40)
        ) {
            let Some((at, watch)) = watched(System::Linux) else { return Ok(()) };
            // Every page has memory, so that what counts as written does not depend on that.
            (0..PAGES).for_each(|number| write(at, number));
            watch.protect(watch.at, watch.size).unwrap();
            let mut twin = BTreeSet::new();
            for (step, first, count) in program {
                let pages = first..(first + count).min(PAGES);
                let start = Address(at.addr() + first * page());
                let size = Bytes(pages.len() * page());
                match step {
                    0 => {
                        write(at, first);
                        twin.insert(first);
                    }
                    1 => {
                        watch.protect(start, size).unwrap();
                        twin.retain(|number| !pages.contains(number));
                    }
                    2 => {
                        watch.lift(start, size).unwrap();
                        twin.extend(pages);
                    }
                    _ => {
                        prop_assert_eq!(&written(&watch, true), &twin);
                        twin.clear();
                    }
                }
            }
            prop_assert_eq!(written(&watch, false), twin);
            destroy(at, watch);
        }
    }
}
