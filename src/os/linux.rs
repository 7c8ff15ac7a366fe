//! Linux, by system calls without a C library.
//!
//! Every call is repeated when a signal interrupted it. What the kernel refuses comes back as its number; what
//! is only a wish (hints and names) is not reported at all.
//!
//! # Safety
//! The functions take raw ranges and trust their caller, [`System`](super::System), whose contract they share:
//! a range is page-aligned and lies inside one reservation of ours. Nothing is read or written here.

use super::raw;
use super::system::{Guarding, SystemError};
use crate::base::Bytes;
use core::ffi::CStr;
use core::ptr;
use rustix::io::retry_on_intr;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::rand::GetRandomFlags;

/// The smallest and the largest size of a page that a machine may have.
const PAGE_SIZES: core::ops::RangeInclusive<u32> = 12..=20;

/// The size of the system's pages.
///
/// It is found by asking for a piece of advice about nothing at ever larger addresses: the kernel checks the
/// alignment of an address before it looks at the length. That needs no file, no start-up record of the process
/// and no library, so it works on the first call of a process, wherever it runs.
pub(super) fn page_size() -> Bytes {
    let accepts = |shift: u32| {
        // SAFETY: a range of length zero: the call cannot have an effect.
        unsafe { rustix::mm::madvise(ptr::without_provenance_mut(1 << shift), 0, Advice::Normal) }.is_ok()
    };
    let shift = PAGE_SIZES.clone().find(|&shift| accepts(shift));
    Bytes(1 << shift.unwrap_or(*PAGE_SIZES.start()))
}

/// The number in the file that says how large a transparent huge page is.
pub(super) fn huge_page_size() -> Option<Bytes> {
    let mut text = [0u8; 24];
    let text =
        super::proc::read_file(c"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", &mut text).ok()?;
    let digits = core::str::from_utf8(text).ok()?.trim_ascii();
    digits.parse().ok().map(Bytes)
}

/// None → Reserved.
pub(super) fn reserve(size: Bytes, align: Bytes) -> Result<*mut u8, SystemError> {
    // Room enough that an aligned range fits somewhere; what lies before and behind it goes back at once.
    let slack = align.0.saturating_sub(super::System::Linux.page_size().0);
    let room = size.0.checked_add(slack).ok_or(SystemError::NO_MEMORY)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: the kernel chooses a place where nothing is mapped.
    let mapped = retry_on_intr(|| unsafe {
        rustix::mm::mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), flags)
    })?;
    let before = mapped.addr().next_multiple_of(align.0) - mapped.addr();
    let at = mapped.cast::<u8>().wrapping_add(before);
    for (from, length) in [(mapped.cast(), before), (at.wrapping_add(size.0), slack - before)] {
        if length > 0 {
            // SAFETY: a part of the fresh mapping that nobody has seen.
            unsafe { unmap(from, Bytes(length)) };
        }
    }
    Ok(at)
}

/// Reserved → Released.
///
/// # Safety
/// The range lies inside one reservation, page-aligned.
pub(super) unsafe fn commit(at: *mut u8, size: Bytes) -> Result<(), SystemError> {
    let access = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the range is a reservation of the caller's, and gaining access to it breaks nobody's assumption.
    retry_on_intr(|| unsafe { rustix::mm::mprotect(at.cast(), size.0, access) })?;
    Ok(())
}

/// Ready → Released.
///
/// # Safety
/// The range is committed, page-aligned, and nobody needs its contents.
pub(super) unsafe fn release(at: *mut u8, size: Bytes) -> Result<(), SystemError> {
    // SAFETY: the caller gives the contents up; the range stays mapped and reads as zero from now on.
    retry_on_intr(|| unsafe { rustix::mm::madvise(at.cast(), size.0, Advice::LinuxDontNeed) })?;
    Ok(())
}

/// Advice that `rustix` has no names for (Linux 6.13): `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE`.
const GUARD_INSTALL: usize = 102;
const GUARD_REMOVE: usize = 103;

/// Whether the kernel knows guards that are marks in the page table. As with [`page_size`], advice about nothing tells.
pub(super) fn has_guard_marks() -> bool {
    // SAFETY: a range of length zero: the call cannot have an effect.
    unsafe { madvise(ptr::null_mut(), Bytes::ZERO, GUARD_INSTALL) }.is_ok()
}

/// Guards a range, by a mark in the page table or by taking the access away.
///
/// # Safety
/// The range is committed, page-aligned, and nobody uses it.
pub(super) unsafe fn guard(at: *mut u8, size: Bytes, how: Guarding) -> Result<(), SystemError> {
    match how {
        // SAFETY: nobody needs what the range holds.
        Guarding::Markers => unsafe { madvise(at, size, GUARD_INSTALL) },
        Guarding::Mappings => {
            // SAFETY: nobody uses the range.
            retry_on_intr(|| unsafe { rustix::mm::mprotect(at.cast(), size.0, MprotectFlags::empty()) })?;
            Ok(())
        }
    }
}

/// Takes the guards of a range away; what else lies there stays.
///
/// # Safety
/// The range is committed and page-aligned.
pub(super) unsafe fn unguard(at: *mut u8, size: Bytes, how: Guarding) -> Result<(), SystemError> {
    match how {
        // SAFETY: what becomes accessible is ours.
        Guarding::Markers => unsafe { madvise(at, size, GUARD_REMOVE) },
        // SAFETY: as above.
        Guarding::Mappings => unsafe { commit(at, size) },
    }
}

/// `madvise` with advice by number, since `rustix` takes only what it has a name for.
///
/// # Safety
/// As for the advice.
#[cfg(target_arch = "x86_64")]
unsafe fn madvise(at: *mut u8, size: Bytes, advice: usize) -> Result<(), SystemError> {
    const MADVISE: isize = 28;
    let call = || {
        let answer: isize;
        // SAFETY: the kernel changes no register but these, and no memory but what the advice is about.
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") MADVISE => answer,
                in("rdi") at,
                in("rsi") size.0,
                in("rdx") advice,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        if answer < 0 { Err(rustix::io::Errno::from_raw_os_error(-answer as i32)) } else { Ok(()) }
    };
    retry_on_intr(call)?;
    Ok(())
}

/// Elsewhere guards are mappings of their own.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn madvise(_: *mut u8, _: Bytes, _: usize) -> Result<(), SystemError> {
    Err(rustix::io::Errno::INVAL.into())
}

/// Any state → None.
///
/// # Safety
/// The range is mapped by us and nobody refers to it any more.
pub(super) unsafe fn unmap(at: *mut u8, size: Bytes) {
    // SAFETY: the caller's promise is the contract.
    let done = retry_on_intr(|| unsafe { rustix::mm::munmap(at.cast(), size.0) });
    // It can fail for want of a mapping when it splits one. Then address space stays reserved, and no more.
    debug_assert!(done.is_ok(), "unmapping {size:?} at {at:?}: {done:?}");
}

/// Passes a piece of advice on and does not ask what became of it.
///
/// # Safety
/// The range is committed and page-aligned.
pub(super) unsafe fn hint(at: *mut u8, size: Bytes, huge: bool) {
    let advice = if huge { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
    // SAFETY: neither advice changes what the memory holds.
    let _ = retry_on_intr(|| unsafe { rustix::mm::madvise(at.cast(), size.0, advice) });
}

/// Gives the range a name in `/proc/PID/maps`, where the kernel has names.
///
/// # Safety
/// The range is committed, and nobody writes to it during the call.
pub(super) unsafe fn name(at: *mut u8, size: Bytes, name: &CStr) {
    // SAFETY: committed memory is readable and initialised, and nobody changes it meanwhile. It is not read
    // either: only where it lies and how long it is goes to the kernel.
    let range = unsafe { core::slice::from_raw_parts(at, size.0) };
    let _ = rustix::process::set_virtual_memory_region_name(range, Some(name));
}

/// Nanoseconds of a clock that never goes back.
pub(super) fn now() -> u64 {
    const MONOTONIC: usize = 1;
    raw::clock(MONOTONIC)
}

/// Nanoseconds of processor time that the calling thread has had.
pub(super) fn thread_time() -> u64 {
    const THREAD_CPU_TIME: usize = 3;
    raw::clock(THREAD_CPU_TIME)
}

/// Processors that this process may run on.
pub(super) fn processors() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count().max(1) as usize)
}

/// 64 bits that nobody can foresee; on a machine that has none yet, bits that hardly anybody can.
pub(super) fn random() -> u64 {
    let mut bytes = [0u8; 8];
    let got = rustix::rand::getrandom(&mut bytes[..], GetRandomFlags::NONBLOCK);
    match got {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => crate::base::random::Random::new(now() ^ ptr::from_ref(&bytes).addr() as u64).bits(),
    }
}
