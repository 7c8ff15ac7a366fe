//! The system: Linux, or a simulated one, behind one set of calls.
//!
//! A heap carries a [`System`] by value. The branch between the two is taken once a system call, so it costs
//! nothing that can be measured, and every test drives the code that ships.
//!
//! # Safety
//! The calls that change memory are unsafe: whoever holds a range promises that it lies inside one reservation
//! of this system, is aligned to system pages, is in the state that the arrow starts from, and that nobody else
//! uses it in a way that the change would break.

use super::{linux, raw, simulated::Simulated};
use crate::base::Bytes;
use core::ffi::CStr;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Where memory comes from. A copyable handle.
#[derive(Clone, Copy, Debug, Default)]
pub enum System {
    /// The kernel that this process runs on.
    #[default]
    Linux,
    /// Real mappings, with failure, scarcity, poison and time under a test's control.
    Simulated(&'static Simulated),
}

/// The number by which a system says why it refused: an errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemError(pub i32);

/// A point in time, or a distance between two, on a clock that never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
pub struct Nanoseconds(pub u64);

/// A wish about a range of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint {
    /// Huge pages, where the system likes.
    HugePages,
    /// No huge pages.
    NoHugePages,
}

/// How memory is guarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Guarding {
    /// By marks in the page table, which cost nothing else (Linux 6.13).
    Markers,
    /// By mappings without access, of which the kernel allows a process 65,530 (`vm.max_map_count`). Each guard
    /// splits one mapping into two and adds its own.
    Mappings,
}

/// The largest huge page that a heap can make use of: a chunk.
const LARGEST_HUGE_PAGE: usize = crate::base::CHUNK_SIZE;

static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
/// 0: not read yet; 1: there is none.
static HUGE_PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
/// 0: not asked yet; 1: marks; 2: mappings.
static GUARDING: AtomicUsize = AtomicUsize::new(0);

impl System {
    /// The size of the system's pages: the unit of every call here.
    pub fn page_size(self) -> Bytes {
        match PAGE_SIZE.load(Ordering::Relaxed) {
            0 => {
                let size = linux::page_size();
                PAGE_SIZE.store(size.0, Ordering::Relaxed);
                size
            }
            size => Bytes(size),
        }
    }

    /// The size of a transparent huge page, if the system has them and they are not larger than a chunk.
    pub fn huge_page_size(self) -> Option<Bytes> {
        if let System::Simulated(_) = self {
            return Some(simulated_huge_page());
        }
        let size = match HUGE_PAGE_SIZE.load(Ordering::Relaxed) {
            0 => {
                let usable = |size: &Bytes| size.0.is_power_of_two() && size.0 <= LARGEST_HUGE_PAGE;
                let size = linux::huge_page_size().filter(usable).map_or(1, |size| size.0);
                HUGE_PAGE_SIZE.store(size, Ordering::Relaxed);
                size
            }
            size => size,
        };
        (size > 1).then_some(Bytes(size))
    }

    /// None → Reserved: a range of `size` bytes at a multiple of `align`, a power of two. `size` is a multiple of
    /// the page size.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    pub fn reserve(self, size: Bytes, align: Bytes) -> Result<*mut u8, SystemError> {
        debug_assert!(align.0.is_power_of_two(), "alignment {align:?}");
        debug_assert!(self.is_whole(size), "{size:?} are not whole pages");
        match self {
            System::Linux => linux::reserve(size, align),
            System::Simulated(simulated) => simulated.reserve(size, align),
        }
    }

    /// Reserved → Released: readable, writable, zero, and not resident. Committing what is committed already
    /// changes nothing.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    ///
    /// # Safety
    /// See the head of this file.
    pub unsafe fn commit(self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        debug_assert!(self.is_whole(Bytes(at.addr())) && self.is_whole(size), "{size:?} at {at:?}");
        match self {
            // SAFETY: handed on.
            System::Linux => unsafe { linux::commit(at, size) },
            // SAFETY: handed on.
            System::Simulated(simulated) => unsafe { simulated.commit(at, size) },
        }
    }

    /// Released → Ready. Parts of the range may be ready already; they stay as they are.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    ///
    /// # Safety
    /// See the head of this file.
    pub unsafe fn ready(self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        debug_assert!(self.is_whole(Bytes(at.addr())) && self.is_whole(size), "{size:?} at {at:?}");
        match self {
            System::Linux => Ok(()),
            // SAFETY: handed on.
            System::Simulated(simulated) => unsafe { simulated.ready(at, size) },
        }
    }

    /// Ready → Released: the contents are gone and the memory is the system's. Parts of the range may be released
    /// already; they stay as they are.
    ///
    /// # Errors
    /// The system refused, for instance because the program locked its memory; nothing has changed.
    ///
    /// # Safety
    /// See the head of this file. Nobody needs the contents.
    pub unsafe fn release(self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        debug_assert!(self.is_whole(Bytes(at.addr())) && self.is_whole(size), "{size:?} at {at:?}");
        match self {
            // SAFETY: handed on.
            System::Linux => unsafe { linux::release(at, size) },
            // SAFETY: handed on.
            System::Simulated(simulated) => unsafe { simulated.release(at, size) },
        }
    }

    /// Ready → Ready: the contents are gone and read as zero, and the memory is the system's until the next touch.
    ///
    /// # Errors
    /// The system refused, for instance because the program locked its memory; nothing has changed.
    ///
    /// # Safety
    /// See the head of this file. Nobody needs the contents.
    pub unsafe fn renew(self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        debug_assert!(self.is_whole(Bytes(at.addr())) && self.is_whole(size), "{size:?} at {at:?}");
        match self {
            // SAFETY: handed on.
            System::Linux => unsafe { linux::release(at, size) },
            // SAFETY: handed on.
            System::Simulated(simulated) => unsafe { simulated.renew(at, size) },
        }
    }

    /// Processors that the process may run on.
    pub fn processors(self) -> usize {
        match self {
            System::Linux => linux::processors(),
            System::Simulated(_) => 2,
        }
    }

    /// How this system guards memory.
    pub fn guarding(self) -> Guarding {
        if let System::Simulated(simulated) = self
            && simulated.guards_by_mappings()
        {
            return Guarding::Mappings;
        }
        let known = match GUARDING.load(Ordering::Relaxed) {
            0 => {
                let known = if linux::has_guard_marks() { 1 } else { 2 };
                GUARDING.store(known, Ordering::Relaxed);
                known
            }
            known => known,
        };
        if known == 1 { Guarding::Markers } else { Guarding::Mappings }
    }

    /// Guards ready memory: touching it is a fault from now on, and its contents are lost. It counts as ready.
    ///
    /// # Errors
    /// The system refused; nothing has changed.
    ///
    /// # Safety
    /// See the head of this file. Nobody uses the range.
    pub unsafe fn guard(self, at: *mut u8, size: Bytes, how: Guarding) -> Result<(), SystemError> {
        debug_assert!(self.is_whole(Bytes(at.addr())) && self.is_whole(size), "{size:?} at {at:?}");
        match self {
            // SAFETY: handed on.
            System::Linux => unsafe { linux::guard(at, size, how) },
            // SAFETY: handed on.
            System::Simulated(simulated) => unsafe { simulated.guard(at, size, how) },
        }
    }

    /// Takes away the guards of a range of ready memory. What is not guarded there stays as it is.
    ///
    /// # Errors
    /// The system refused. Some guards may be gone.
    ///
    /// # Safety
    /// See the head of this file. All guards of the range are of this sort.
    pub unsafe fn unguard(self, at: *mut u8, size: Bytes, how: Guarding) -> Result<(), SystemError> {
        debug_assert!(self.is_whole(Bytes(at.addr())) && self.is_whole(size), "{size:?} at {at:?}");
        match self {
            // SAFETY: handed on.
            System::Linux => unsafe { linux::unguard(at, size, how) },
            // SAFETY: handed on.
            System::Simulated(simulated) => unsafe { simulated.unguard(at, size, how) },
        }
    }

    /// Any state → None, for a whole reservation.
    ///
    /// # Safety
    /// `at` and `size` are those of one [`System::reserve`], and nobody refers to the range any more.
    pub unsafe fn unmap(self, at: *mut u8, size: Bytes) {
        match self {
            // SAFETY: handed on.
            System::Linux => unsafe { linux::unmap(at, size) },
            // SAFETY: handed on.
            System::Simulated(simulated) => unsafe { simulated.unmap(at, size) },
        }
    }

    /// States a wish about committed memory. Nobody says whether it is granted.
    ///
    /// # Safety
    /// See the head of this file.
    pub unsafe fn hint(self, at: *mut u8, size: Bytes, hint: Hint) {
        // SAFETY: handed on; the simulated system's mappings are real.
        unsafe { linux::hint(at, size, hint == Hint::HugePages) }
    }

    /// Names committed memory in `/proc/PID/maps`, where the kernel can. Neighbours of one name share a mapping.
    ///
    /// # Safety
    /// See the head of this file. Nobody writes to the range during the call: it is for memory fresh from
    /// [`System::commit`].
    pub unsafe fn name(self, at: *mut u8, size: Bytes, name: &CStr) {
        // SAFETY: handed on; the simulated system's mappings are real.
        unsafe { linux::name(at, size, name) }
    }

    /// The time now.
    pub fn now(self) -> Nanoseconds {
        match self {
            System::Linux => Nanoseconds(linux::now()),
            System::Simulated(simulated) => simulated.now(),
        }
    }

    /// The processor time that the calling thread has had.
    pub fn thread_time(self) -> Nanoseconds {
        match self {
            System::Linux => Nanoseconds(linux::thread_time()),
            System::Simulated(simulated) => simulated.now(),
        }
    }

    /// After this, every thread of the process has passed a full memory barrier: what it does from then on, it does
    /// having seen what this thread did before.
    ///
    /// # Errors
    /// The system has no such call, or it is forbidden.
    pub fn barrier(self) -> Result<(), SystemError> {
        raw::barrier()
    }

    /// Starts a thread that the C library does not know, with `stack` bytes of stack, and all signals blocked. It is for
    /// the life of the process.
    ///
    /// # Errors
    /// The system has no memory, or no room for another thread.
    ///
    /// # Safety
    /// Neither `entry` nor what it calls uses what a library keeps for each thread.
    pub unsafe fn spawn(self, stack: Bytes, entry: unsafe extern "C" fn() -> !) -> Result<(), SystemError> {
        let guard = self.page_size();
        let size = (guard + stack).round_up(guard).ok_or(SystemError::NO_MEMORY)?;
        let at = linux::reserve(size, guard)?;
        // SAFETY: memory of our own, which nobody knows; its lowest page stays out of reach.
        unsafe {
            let memory = at.add(guard.0);
            let started = linux::commit(memory, size - guard).and_then(|()| {
                linux::name(memory, size - guard, c"spanheap: background");
                raw::spawn(memory, (size - guard).0, entry)
            });
            if started.is_err() {
                linux::unmap(at, size);
            }
            started
        }
    }

    /// 64 random bits: from the kernel, or a simulated system's fixed sequence.
    pub fn random(self) -> u64 {
        match self {
            System::Linux => linux::random(),
            System::Simulated(simulated) => simulated.random(),
        }
    }

    fn is_whole(self, bytes: Bytes) -> bool {
        bytes.0.is_multiple_of(self.page_size().0)
    }
}

/// What a simulated system says, so that its answers do not depend on the machine.
const fn simulated_huge_page() -> Bytes {
    Bytes::mib(2)
}

impl SystemError {
    /// The error of a system that is out of memory (`ENOMEM`).
    pub const NO_MEMORY: SystemError = SystemError(rustix::io::Errno::NOMEM.raw_os_error());
}

impl From<rustix::io::Errno> for SystemError {
    fn from(errno: rustix::io::Errno) -> SystemError {
        SystemError(errno.raw_os_error())
    }
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system refused it (errno {})", self.0)
    }
}

impl core::error::Error for SystemError {}
