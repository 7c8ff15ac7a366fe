//! Calls of the system that no library hands on in the form that is needed here.
//!
//! A *bare thread* is one that the C library does not know. The heap needs a thread in the background, and asks for it from
//! inside `malloc` or `free`, which the C library calls while it holds locks of its own; `pthread_create` would take
//! them again. A bare thread costs no lock and no allocation, does not count when a process ends with its last thread,
//! and leaves a program single-threaded as far as its libraries are concerned. In return it must keep away from
//! everything that is a thread's own in those libraries: it runs code of this crate only, on a stack of its own, with
//! all signals blocked, and with an empty thread block.
//!
//! # Safety
//! The instructions below change no memory but what the kernel is given addresses of, and keep the registers that they do
//! not name. What a bare thread runs is its starter's promise.

use super::system::SystemError;
use core::arch::asm;
use rustix::io::Errno;

const SIGNAL_MASK: usize = 14;
const IOCTL: usize = 16;
const CLONE: usize = 56;
const CLOCK_GETTIME: usize = 228;
const MEMBARRIER: usize = 324;

/// Set the mask of blocked signals.
const SETMASK: usize = 2;
/// Bytes of the kernel's set of signals.
const SIGNAL_SET: usize = 8;

/// Shares memory, file system, files and signal handlers, in the same process, with a thread pointer of its own:
/// `CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | SETTLS`.
const THREAD_FLAGS: usize = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000 | 0x8_0000;

/// Bytes at the end of a bare thread's memory for its thread block: the thread pointer leads to their middle.
const THREAD_BLOCK: usize = 8192;

/// `MEMBARRIER_CMD_PRIVATE_EXPEDITED`.
const BARRIER: usize = 1 << 3;
/// `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED`.
const REGISTER_BARRIER: usize = 1 << 4;

fn outcome(value: isize) -> Result<usize, SystemError> {
    // The kernel's errors are the numbers from -4095 to -1.
    if (-4095..0).contains(&value) {
        return Err(SystemError::from(Errno::from_raw_os_error(-value as i32)));
    }
    Ok(value as usize)
}

/// # Safety
/// The call with these arguments breaks nobody's assumptions.
unsafe fn call(number: usize, arguments: [usize; 4]) -> Result<usize, SystemError> {
    let value: isize;
    // SAFETY: the kernel changes the registers named here, and memory as the caller allows.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => value,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    outcome(value)
}

/// Has a file's driver do something: `argument` is an address of what `number` says.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// As for that driver's call.
pub(super) unsafe fn control(file: i32, number: usize, argument: usize) -> Result<usize, SystemError> {
    loop {
        // SAFETY: the caller's promise.
        match unsafe { call(IOCTL, [file as usize, number, argument, 0]) } {
            Err(error) if error == Errno::INTR.into() => {}
            other => return other,
        }
    }
}

/// A clock's time in nanoseconds; 0 where the kernel has no such clock.
///
/// The library's way leads through the kernel's shared page (vDSO), which it looks for when it is asked first. That is
/// faster, but a heap is made before anything else works, and under some instruments (Valgrind) the page is not where
/// the kernel says. Clocks are read in slow paths only.
pub(super) fn clock(number: usize) -> u64 {
    let mut time = [0_u64; 2];
    // SAFETY: the kernel writes seconds and nanoseconds to the two words.
    let read = unsafe { call(CLOCK_GETTIME, [number, (&raw mut time).expose_provenance(), 0, 0]) };
    let [seconds, nanoseconds] = time;
    read.map_or(0, |_| seconds * 1_000_000_000 + nanoseconds)
}

/// After this, every thread of the process has passed a full memory barrier: what it does from then on, it does having
/// seen what this thread did before.
pub(super) fn barrier() -> Result<(), SystemError> {
    // SAFETY: barriers change nothing but the order of what threads see.
    unsafe {
        call(MEMBARRIER, [BARRIER, 0, 0, 0])
            .or_else(|_| {
                // A process says once that it wants them.
                call(MEMBARRIER, [REGISTER_BARRIER, 0, 0, 0])?;
                call(MEMBARRIER, [BARRIER, 0, 0, 0])
            })
            .map(|_| ())
    }
}

/// Starts a bare thread that runs `entry`. `memory` is its stack, with the thread block at the end.
///
/// # Errors
/// The system has no room for another thread.
///
/// # Safety
/// The memory, `size` bytes, is zero, ready, aligned to a page, and the thread's for as long as it lives. `entry` never returns, and
/// neither it nor what it calls uses what a library keeps for each thread.
pub(super) unsafe fn spawn(
    memory: *mut u8,
    size: usize,
    entry: unsafe extern "C" fn() -> !,
) -> Result<(), SystemError> {
    let (all, mut before) = (u64::MAX, 0u64);
    // SAFETY: the thread pointer lies in the caller's memory, and the first word there is to be its own address. The
    // masks are locals. The child sees nothing of this stack: it goes on with its own, where it calls `entry`.
    unsafe {
        let stack = memory.add(size - THREAD_BLOCK);
        let block = memory.add(size - THREAD_BLOCK / 2);
        block.cast::<usize>().write(block.addr());
        // The child inherits the mask, so no signal of the program's ever comes to it.
        let masks = [SETMASK, (&raw const all).addr(), (&raw mut before).addr(), SIGNAL_SET];
        (&raw const all).expose_provenance();
        (&raw mut before).expose_provenance();
        call(SIGNAL_MASK, masks)?;
        let value: isize;
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "call {entry}",
            "ud2",
            "2:",
            entry = in(reg) entry,
            inlateout("rax") CLONE as isize => value,
            in("rdi") THREAD_FLAGS,
            in("rsi") stack,
            in("rdx") 0,
            in("r10") 0,
            in("r8") block,
            lateout("rcx") _,
            lateout("r11") _,
        );
        let _ = call(SIGNAL_MASK, [SETMASK, (&raw const before).addr(), 0, SIGNAL_SET]);
        outcome(value).map(|_| ())
    }
}
