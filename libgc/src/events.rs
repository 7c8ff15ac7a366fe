//! What programs are told while a collection goes on, and what they are asked.
//!
//! Events come on the thread that collects, with the allocation lock held, some of them while the world stands still:
//!
//! ```text
//!   START  PRE_STOP_WORLD  POST_STOP_WORLD  MARK_START  MARK_END  PRE_START_WORLD  POST_START_WORLD  END
//! ```
//!
//! Objects are reclaimed by those who allocate, so there are no events for that.
//!
//! # Safety
//! Functions are the program's.

use crate::{heap, stop};
use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What happens, by the numbers of the headers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) enum Event {
    Start = 0,
    MarkStart = 1,
    MarkEnd = 2,
    End = 5,
    BeforeStop = 6,
    AfterStop = 7,
    BeforeGoingOn = 8,
    AfterGoingOn = 9,
}

/// Told what happens.
type Tell = extern "C" fn(c_int);
/// Asked whether a collection should not be.
type Stop = extern "C" fn() -> c_int;

static TELL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static STOP: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Tells the program.
pub(crate) fn tell(event: Event) {
    if let Some(tell) = GC_get_on_collection_event() {
        tell(event as c_int);
    }
}

/// Whether the program wants no collection just now.
pub(crate) fn are_unwanted() -> bool {
    !STOP.load(Ordering::Relaxed).is_null() && GC_get_stop_func()() != 0
}

/// Sets who is told what happens in a collection.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_on_collection_event(tell: Option<Tell>) {
    TELL.store(tell.map_or(ptr::null_mut(), |tell| tell as *mut c_void), Ordering::Release);
}

/// Who is told what happens in a collection.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_on_collection_event() -> Option<Tell> {
    // SAFETY: what is in the word is null, or was a function of this type: an option of one has the same form.
    unsafe { mem::transmute::<*mut c_void, Option<Tell>>(TELL.load(Ordering::Acquire)) }
}

/// The answer of those who do not ask for another.
extern "C" fn never() -> c_int {
    0
}

/// Sets who is asked before a collection that begins by itself or by `GC_gcollect`: whether it should not be.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_stop_func(stop: Stop) {
    STOP.store(stop as *mut c_void, Ordering::Release);
}

/// Who is asked before such a collection.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_stop_func() -> Stop {
    // SAFETY: what is in the word is null, or was a function of this type: an option of one has the same form.
    unsafe { mem::transmute::<*mut c_void, Option<Stop>>(STOP.load(Ordering::Acquire)) }.unwrap_or(never)
}

/// Stops all other threads, and keeps collections off, until [`GC_start_world_external`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_stop_world_external() {
    heap::gc();
    crate::threads::register_here();
    heap::lock();
    stop::stop_world();
}

/// Lets them go on. Called by whoever stopped them.
#[unsafe(no_mangle)]
pub extern "C" fn GC_start_world_external() {
    stop::go_on();
    heap::unlock();
}
