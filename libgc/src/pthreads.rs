//! The C library's thread functions under the collector's names, by which programs call them when they include its
//! headers.
//!
//! A thread is registered before its function runs. What the function is called with is kept where the collector finds it
//! until then: in an object that is a root.
//!
//! # Safety
//! Called as POSIX says of the functions of the same name.

use crate::alloc::{GC_free, GC_malloc_uncollectable};
use crate::threads;
use core::ffi::{c_int, c_void};
use libc::{pthread_attr_t, pthread_t, sigset_t};

type Begin = extern "C" fn(*mut c_void) -> *mut c_void;

unsafe extern "C" {
    fn pthread_exit(value: *mut c_void) -> !;
    fn pthread_cancel(thread: pthread_t) -> c_int;
}

/// What a thread begins with.
#[repr(C)]
struct Start {
    begin: Begin,
    argument: *mut c_void,
}

/// Makes a thread that is registered before it begins.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    begin: Begin,
    argument: *mut c_void,
) -> c_int {
    let start = GC_malloc_uncollectable(size_of::<Start>()).cast::<Start>();
    if start.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: a fresh object of that size; the other arguments are the caller's.
    unsafe {
        start.write(Start { begin, argument });
        let error = libc::pthread_create(thread, attributes, begin_thread, start.cast());
        if error != 0 {
            GC_free(start.cast());
        }
        error
    }
}

extern "C" fn begin_thread(start: *mut c_void) -> *mut c_void {
    threads::register_here();
    // SAFETY: the object was written before the thread was made, and is this thread's.
    let Start { begin, argument } = unsafe { start.cast::<Start>().read() };
    GC_free(start);
    begin(argument)
}

/// Waits for a thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { libc::pthread_join(thread, value) }
}

/// Lets a thread go.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_pthread_detach(thread: pthread_t) -> c_int {
    // SAFETY: the caller's argument.
    unsafe { libc::pthread_detach(thread) }
}

/// Cancels a thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_pthread_cancel(thread: pthread_t) -> c_int {
    // SAFETY: the caller's argument.
    unsafe { pthread_cancel(thread) }
}

/// Ends the calling thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_pthread_exit(value: *mut c_void) -> ! {
    // SAFETY: the caller's argument; nothing here waits to be dropped.
    unsafe { pthread_exit(value) }
}

/// Changes the mask of blocked signals; the one that stops threads is never blocked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_pthread_sigmask(how: c_int, set: *const sigset_t, old: *mut sigset_t) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        if set.is_null() || how == libc::SIG_UNBLOCK {
            return libc::pthread_sigmask(how, set, old);
        }
        let mut set = set.read();
        libc::sigdelset(&mut set, threads::GC_get_suspend_signal());
        libc::pthread_sigmask(how, &set, old)
    }
}
