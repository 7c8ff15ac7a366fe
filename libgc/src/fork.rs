//! Before and after a `fork`, when a thread ends, and at exit.
//!
//! A `fork` is made with the allocation lock and every lock of the heap held, so the child has a heap between two steps.
//! It has one thread: the records of all others become nobody's, and helpers are started again when they are needed. A
//! thread that stood in the middle of a fast path may lose a slot to the child, and nothing else.
//!
//! A program that forks with the allocation lock in its hands keeps it, in both.
//!
//! # Safety
//! The functions are called by the C library, at the times that it documents.

use crate::{concurrent, heap, mark, threads, verify};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use spanheap::front::{process, report};

/// Times that glibc runs the destructors of a thread's keys over (`PTHREAD_DESTRUCTOR_ITERATIONS`), less one.
const RETURNS: u32 = 3;
const NO_KEY: u64 = u64::MAX;

static KEY: AtomicU64 = AtomicU64::new(NO_KEY);

/// Called by the loader when it has relocated this library, before the program's own constructors.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = construct;

extern "C" fn construct(_: c_int, _: *const *const c_char, environment: *const *const c_char) {
    process::provide_environment(Environment(environment));
    make_key();
    // SAFETY: the handler is a function of this library.
    unsafe { libc::atexit(at_exit) };
}

/// The environment as the loader hands it to constructors: strings, and a null pointer behind the last.
#[derive(Clone)]
struct Environment(*const *const c_char);

impl Iterator for Environment {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        // SAFETY: the loader's array ends with a null pointer, and its strings stand while constructors run.
        unsafe {
            let entry = self.0.as_ref()?;
            if entry.is_null() {
                return None;
            }
            self.0 = self.0.add(1);
            Some(CStr::from_ptr(*entry))
        }
    }
}

/// Makes the key whose destructor announces a thread's end, once.
fn make_key() -> Option<libc::pthread_key_t> {
    let known = KEY.load(Ordering::Acquire);
    if known != NO_KEY {
        return Some(known as libc::pthread_key_t);
    }
    let mut key = 0;
    // SAFETY: the destructor is a function of this library.
    if unsafe { libc::pthread_key_create(&mut key, Some(thread_ends)) } != 0 {
        return None;
    }
    if KEY.compare_exchange(NO_KEY, key.into(), Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: the key was just made, and nobody knows it.
        unsafe { libc::pthread_key_delete(key) };
    }
    process::set_thread_hook(announce, RETURNS);
    Some(KEY.load(Ordering::Acquire) as libc::pthread_key_t)
}

/// Sees to it that [`thread_ends`] is called when this thread ends.
fn announce() -> bool {
    // SAFETY: any value but null makes the C library call the destructor.
    make_key().is_some_and(|key| unsafe { libc::pthread_setspecific(key, ptr::dangling()) } == 0)
}

extern "C" fn thread_ends(_: *mut c_void) {
    threads::unregister_here();
    process::thread_ends();
}

/// Has the C library call us at every `fork`.
pub(crate) fn install() {
    // SAFETY: the handlers are functions of this library.
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after_in_child)) };
}

extern "C" fn before() {
    heap::lock();
    concurrent::park();
    process::before_fork();
}

extern "C" fn after() {
    // SAFETY: the C library calls this after `before`, on the same thread.
    unsafe { process::after_fork() };
    concurrent::unpark();
    heap::unlock();
}

extern "C" fn after_in_child() {
    // SAFETY: the C library calls this in the child after `before` in the parent, on the same thread.
    unsafe { process::after_fork_in_child() };
    threads::forget_others();
    mark::forget_helpers();
    concurrent::forget();
    heap::unlock();
}

extern "C" fn at_exit() {
    report::write_at_exit();
    verify::at_exit();
}

/// A program that calls these around its own `fork` has had it done by the handlers.
#[unsafe(no_mangle)]
pub extern "C" fn GC_atfork_prepare() {}

/// See [`GC_atfork_prepare`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_atfork_parent() {}

/// See [`GC_atfork_prepare`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_atfork_child() {}
