//! What programs set to make a collection come sooner or later, or to be asked about it, as far as it is no data symbol
//! that [`settings`] has.
//!
//! What has an effect says which. The others are *hints* for mechanisms that this library has not: they are kept, so that
//! programs read what they wrote. What a program relies on and cannot be had ends the program with a reason.
//!
//! # Safety
//! As in [`settings`].

#![allow(static_mut_refs, reason = "words that programs write from C; they are copied, never borrowed")]

use crate::settings::{self, word};
use core::ffi::{c_char, c_int, c_ulong, c_void};
use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

word! {
    /// Hint: how often to try again where the system refuses memory.
    #[unsafe(no_mangle)]
    GC_max_retries: usize = 0, GC_set_max_retries, GC_get_max_retries
}

/// Hint: whether to use all of the heap before a collection.
#[unsafe(no_mangle)]
pub static mut GC_use_entire_heap: c_int = 0;

/// Hint: words of dead calls may be cleared here. Returns its argument.
#[unsafe(no_mangle)]
pub extern "C" fn GC_clear_stack(argument: *mut c_void) -> *mut c_void {
    argument
}

/// A setting that is no data symbol: its setter and its getter.
macro_rules! kept {
    ($(#[$doc:meta])* $name:ident: $type:ty as $atomic:ident = $value:expr, $set:ident, $get:ident) => {
        $(#[$doc])*
        static $name: $atomic = $atomic::new($value);

        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $set(value: $type) {
            $name.store(value, Ordering::Relaxed);
        }

        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $get() -> $type {
            $name.load(Ordering::Relaxed)
        }
    };
}

kept! {
    /// Hint: how many blocks' worth of work a step of an incremental collection does.
    RATE: c_int as AtomicI32 = 10, GC_set_rate, GC_get_rate
}
kept! {
    /// Hint: how often an incremental collection may fall behind before the world is stopped.
    ATTEMPTS: c_int as AtomicI32 = 1, GC_set_max_prior_attempts, GC_get_max_prior_attempts
}
kept! {
    /// Hint: for how many allocated bytes a finalizer stands.
    FINALIZER_BYTES: usize as AtomicUsize = 10_000, GC_set_allocd_bytes_per_finalizer, GC_get_allocd_bytes_per_finalizer
}
kept! {
    /// Hint: whether the program says itself what it writes.
    MANUAL: c_int as AtomicI32 = 0, GC_set_manual_vdb_allowed, GC_get_manual_vdb_allowed
}
kept! {
    /// At least so many bytes are allocated between two collections that nobody asks for.
    MINIMUM: usize as AtomicUsize = 1, GC_set_min_bytes_allocd, GC_get_min_bytes_allocd
}
kept! {
    /// Whether only those who ask for a collection get one.
    MANUAL_ONLY: c_int as AtomicI32 = 0, GC_set_disable_automatic_collection, GC_get_disable_automatic_collection
}
kept! {
    /// Whether collections that the program asks for give free memory back to the system.
    UNMAP: c_int as AtomicI32 = 0, GC_set_force_unmap_on_gcollect, GC_get_force_unmap_on_gcollect
}

/// Whether collections begin by themselves.
#[inline]
pub(crate) fn are_automatic() -> bool {
    GC_get_disable_automatic_collection() == 0
}

/// Whether a collection that was asked for gives free memory back.
pub(crate) fn unmap() -> bool {
    GC_get_force_unmap_on_gcollect() != 0
}

/// Leaks are not looked for: a program that wants that is stopped.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_find_leak(wanted: c_int) {
    if wanted != 0 {
        settings::fatal(c"GC_set_find_leak: this library does not look for leaks\n");
    }
}

/// Whether leaks are looked for: never.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_find_leak() -> c_int {
    0
}

/// Objects cannot be executed: a program that wants that is stopped.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_pages_executable(wanted: c_int) {
    if wanted != 0 {
        settings::fatal(c"GC_set_pages_executable: objects cannot be executed\n");
    }
}

/// Whether objects can be executed: never.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_pages_executable() -> c_int {
    0
}

/// A time as the headers have it.
#[repr(C)]
pub struct TimeLimit {
    milliseconds: c_ulong,
    nanoseconds: c_ulong,
}

static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// Hint: how long a step of an incremental collection may take; the milliseconds are those of `GC_time_limit`.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_time_limit_tv(limit: TimeLimit) {
    settings::GC_set_time_limit(limit.milliseconds);
    NANOSECONDS.store(limit.nanoseconds, Ordering::Relaxed);
}

/// See [`GC_set_time_limit_tv`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_time_limit_tv() -> TimeLimit {
    TimeLimit {
        milliseconds: settings::GC_get_time_limit(),
        nanoseconds: NANOSECONDS.load(Ordering::Relaxed),
    }
}

/// What protecting pages would cost the program: nothing, since none are protected.
#[unsafe(no_mangle)]
pub extern "C" fn GC_incremental_protection_needs() -> c_int {
    0
}

/// Begins an incremental collection if the mode is on, which it never is.
#[unsafe(no_mangle)]
pub extern "C" fn GC_start_incremental_collection() {}

/// Helpers start by themselves when there is enough to mark.
#[unsafe(no_mangle)]
pub extern "C" fn GC_start_mark_threads() {
    crate::heap::gc();
}

/// The program uses the heap no more. It stays for the process's end.
#[unsafe(no_mangle)]
pub extern "C" fn GC_deinit() {}

/// For [`GC_oom_fn`](crate::settings::GC_oom_fn): ends the program where there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn GC_abort_on_oom() {
    settings::fatal(c"no memory for an object\n");
}

/// Hint: how to name an object of a kind. Nothing names objects.
#[unsafe(no_mangle)]
pub extern "C" fn GC_register_describe_type_fn(_: c_int, _: extern "C" fn(*mut c_void, *mut c_char)) {}
