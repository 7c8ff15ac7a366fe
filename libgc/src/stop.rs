//! Stopping the world by a signal.
//!
//! ```text
//!   collector                              a running thread           a blocked one
//!   epoch := odd
//!   signal each running thread ──────────▶ inside? note it            Held: does not come back
//!   wait until none is running             else note registers and
//!                                          stack pointer, Stopped,
//!   … the world stands …                   sleep until the epoch
//!   Stopped, Held: as before               is another
//!   epoch := even, wake ─────────────────▶ go on
//! ```
//!
//! A thread that is inside stops as it leaves ([`stop_late`]); what it does there is short and waits for nobody who is
//! stopped. The handler takes no lock, allocates nothing, and touches nothing but the thread's words, its record and the
//! epoch. It sleeps on a futex, so no second signal is needed to go on; the signal that Boehm's collector uses for that is
//! named to programs that ask, and never sent.
//!
//! 1. The holder of the allocation lock stops the world and lets it go on; the epoch is odd in between.
//! 2. While it is odd, no record is Running but the collector's.
//!
//! # Safety
//! The handler runs on the thread whose words and record it touches.

use crate::settings;
use crate::threads::{self, REGISTERS, Record, state};
use crate::tls;
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use spanheap::base::sync;

/// Odd while the world is stopped.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// How long the collector waits for a thread before it sends the signal again.
const AGAIN: u64 = 100_000_000;

/// Installs the handlers.
pub(crate) fn install() {
    // SAFETY: the handlers are functions of this library, which is not unloaded while the program allocates.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
        libc::sigfillset(&mut action.sa_mask);
        // What ends a program still ends it.
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGABRT, libc::SIGTERM, libc::SIGSEGV, libc::SIGBUS]
        {
            libc::sigdelset(&mut action.sa_mask, signal);
        }
        action.sa_sigaction = on_suspend as *const () as usize;
        libc::sigaction(settings::suspend_signal(), &action, ptr::null_mut());
    }
}

extern "C" fn on_suspend(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let words = tls::words();
    // SAFETY: records are never freed.
    let Some(record) = (unsafe { words.record.get().as_ref() }) else { return };
    if EPOCH.load(Ordering::Acquire).is_multiple_of(2) {
        return;
    }
    if words.is_inside() {
        words.pending.set(1);
        return;
    }
    // SAFETY: the kernel hands in the frame of the thread that it interrupted.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    record.registers.iter().zip(registers).for_each(|(cell, &value)| cell.set(value as usize));
    let interrupted = registers[libc::REG_RSP as usize] as usize;
    let here = (&raw const words).addr();
    // The frame of the signal lies below what was interrupted, unless it has a stack of its own; the registers of the
    // vector unit lie in it.
    let below = here < interrupted && interrupted - here < 64 << 10;
    stand_still(record, if below { here } else { interrupted - RED_ZONE });
}

/// Bytes below the stack pointer that a function may use without moving it.
const RED_ZONE: usize = 128;

const _: () = assert!(REGISTERS == 23);

/// Stops a thread that was asked to while it was inside.
#[cold]
#[inline(never)]
pub(crate) fn stop_late() {
    extern "C" fn stop_here(_: *mut c_void, _: *mut c_void, pointer: usize) -> *mut c_void {
        if let Some(record) = threads::mine()
            && !EPOCH.load(Ordering::Acquire).is_multiple_of(2)
        {
            stand_still(record, pointer);
        }
        ptr::null_mut()
    }
    tls::words().pending.set(0);
    threads::with_registers(stop_here, ptr::null_mut(), ptr::null_mut());
}

/// Stands still until the world goes on.
fn stand_still(record: &Record, pointer: usize) {
    let epoch = EPOCH.load(Ordering::Acquire);
    if epoch.is_multiple_of(2) || record.state.load(Ordering::Acquire) != state::RUNNING {
        // Too late, or the thread is blocked: then it is held where it comes back.
        return;
    }
    let before = record.pointer.replace(pointer);
    record.state.store(state::STOPPED, Ordering::Release);
    sync::wake_all(&record.state);
    while EPOCH.load(Ordering::Acquire) == epoch {
        sync::wait(&EPOCH, epoch);
    }
    record.pointer.set(before);
}

/// Stops every thread but the calling one, which holds the allocation lock.
pub(crate) fn stop_world() {
    EPOCH.fetch_add(1, Ordering::AcqRel);
    let me = threads::mine().map_or(ptr::null(), ptr::from_ref);
    let others = || threads::alive().filter(|record| !ptr::eq(*record, me));
    others().filter(|record| !hold(record)).for_each(send);
    others().for_each(wait_for);
}

/// Keeps a blocked thread where it is. Returns whether it is still.
fn hold(record: &Record) -> bool {
    let change = (state::BLOCKED, state::HELD);
    let held = record.state.compare_exchange(change.0, change.1, Ordering::AcqRel, Ordering::Acquire);
    !matches!(held, Err(state::RUNNING))
}

fn send(record: &Record) {
    let number = record.number.load(Ordering::Relaxed);
    // SAFETY: a signal to a thread of this process, for which there is a handler.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), number, settings::suspend_signal()) };
    if sent != 0 {
        // The thread ended and did not say so: its stack is gone.
        record.state.store(state::FREE, Ordering::Release);
    }
}

fn wait_for(record: &Record) {
    while !hold(record) {
        sync::wait_for(&record.state, state::RUNNING, AGAIN);
        if record.state.load(Ordering::Acquire) == state::RUNNING && !is_there(record) {
            record.state.store(state::FREE, Ordering::Release);
        }
    }
}

/// Whether the kernel still knows a thread.
fn is_there(record: &Record) -> bool {
    let number = record.number.load(Ordering::Relaxed);
    // SAFETY: signal 0 is none: the call only asks.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), number, 0) == 0 }
}

/// Lets the world go on.
pub(crate) fn go_on() {
    let me = threads::mine().map_or(ptr::null(), ptr::from_ref);
    for record in threads::alive().filter(|record| !ptr::eq(*record, me)) {
        let back = match record.state.load(Ordering::Acquire) {
            state::STOPPED => state::RUNNING,
            state::HELD => state::BLOCKED,
            _ => continue,
        };
        record.state.store(back, Ordering::Release);
        if back == state::BLOCKED {
            sync::wake_all(&record.state);
        }
    }
    EPOCH.fetch_add(1, Ordering::AcqRel);
    sync::wake_all(&EPOCH);
}
