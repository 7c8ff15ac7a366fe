//! References that toggle: objects of which the program says at each collection whether it still holds them.
//!
//! ```text
//!   add ──▶ strong ◀──▶ weak ──object dies──▶ gone
//!             └──── the program drops it ──────▲
//! ```
//!
//! Before the world is stopped the program's function is asked for each object; strong ones are roots of that collection,
//! weak ones are forgotten when their object is not reachable. Without a function nothing changes.
//!
//! # Safety
//! The table is changed under the allocation lock.

use crate::alloc::GC_base;
use crate::map::Map;
use crate::mark::Driver;
use crate::{heap, links};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What the program answers; other numbers are a program's fault and change nothing.
const DROP: c_int = 0;
const STRONG: c_int = 1;
const WEAK: c_int = 2;

/// Asked what has become of the reference to an object.
type Ask = extern "C" fn(*mut c_void) -> c_int;

static ASK: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Objects, and whether their reference is strong.
struct Table(UnsafeCell<Map<bool>>);
// SAFETY: the head of this file.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new(Map::new()));

/// The table; the lock is held.
fn table() -> &'static mut Map<bool> {
    // SAFETY: the head of this file.
    unsafe { &mut *TABLE.0.get() }
}

/// Asks the program. The lock is held, and the world is not stopped.
pub(crate) fn ask() {
    let Some(ask) = GC_get_toggleref_func() else { return };
    table().revise(|object, is_strong| match ask(ptr::with_exposed_provenance_mut(object)) {
        DROP => None,
        STRONG => Some(true),
        WEAK => Some(false),
        _ => Some(is_strong),
    });
}

/// Shades what strong references lead to.
pub(crate) fn push(driver: &mut Driver<'_, '_>) {
    table().for_each(|object, is_strong| {
        if is_strong {
            driver.shade(object);
        }
    });
}

/// Forgets objects that are not reachable. The world stands still, and all is marked.
pub(crate) fn forget_dead() {
    table().revise(|object, is_strong| links::is_marked(object).then_some(is_strong));
}

/// Sets who is asked.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_toggleref_func(ask: Option<Ask>) {
    ASK.store(ask.map_or(ptr::null_mut(), |ask| ask as *mut c_void), Ordering::Release);
}

/// Who is asked.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_toggleref_func() -> Option<Ask> {
    // SAFETY: what is in the word is null, or was a function of this type: an option of one has the same form.
    unsafe { mem::transmute::<*mut c_void, Option<Ask>>(ASK.load(Ordering::Acquire)) }
}

/// Adds an object. Returns 0, or 2 where there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn GC_toggleref_add(object: *mut c_void, is_strong: c_int) -> c_int {
    const SUCCESS: c_int = 0;
    const NO_MEMORY: c_int = 2;
    heap::gc();
    if GC_get_toggleref_func().is_none() || GC_base(object) != object {
        return SUCCESS;
    }
    match heap::locked(|| table().set(object.addr(), is_strong != 0)) {
        true => SUCCESS,
        false => NO_MEMORY,
    }
}
