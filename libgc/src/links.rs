//! Disappearing links: words that become null when the object that they are for is not reachable any more.
//!
//! *Short* links are cleared before finalizers are decided on, so they are gone before an object comes back to life for
//! its finalizer; *long* links after that. A link is known by its address. A link that lies in an object goes with it.
//!
//! # Safety
//! Tables are changed under the allocation lock. A link is a word of the program's, which lives as long as it is
//! registered, or lies in an object; an object's memory stays until it is swept.

use crate::heap;
use crate::map::Map;
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::ptr;
use spanheap::base::Address;

/// `GC_SUCCESS`, `GC_DUPLICATE`, `GC_NO_MEMORY`, `GC_NOT_FOUND`.
const SUCCESS: c_int = 0;
const DUPLICATE: c_int = 1;
const NO_MEMORY: c_int = 2;
const NOT_FOUND: c_int = 4;

/// Links, each with the object that it is for.
struct Table(UnsafeCell<Map<usize>>);
// SAFETY: the head of this file.
unsafe impl Sync for Table {}

static SHORT: Table = Table(UnsafeCell::new(Map::new()));
static LONG: Table = Table(UnsafeCell::new(Map::new()));

impl Table {
    /// The links; the lock is held.
    #[allow(clippy::mut_from_ref, reason = "the allocation lock is what makes it the only one")]
    fn links(&self) -> &mut Map<usize> {
        // SAFETY: the head of this file.
        unsafe { &mut *self.0.get() }
    }

    fn register(&self, link: *mut *mut c_void, object: *const c_void) -> c_int {
        heap::gc();
        heap::locked(|| {
            let links = self.links();
            let was = links.get(link.addr());
            match links.set(link.addr(), object.addr()) {
                _ if was.is_some() => DUPLICATE,
                true => SUCCESS,
                false => NO_MEMORY,
            }
        })
    }

    /// Returns whether the link was registered.
    fn unregister(&self, link: *mut *mut c_void) -> c_int {
        heap::gc();
        heap::locked(|| self.links().remove(link.addr()).is_some()).into()
    }

    fn move_to(&self, link: *mut *mut c_void, to: *mut *mut c_void) -> c_int {
        heap::gc();
        heap::locked(|| {
            let links = self.links();
            let Some(object) = links.get(link.addr()) else { return NOT_FOUND };
            if link == to {
                return SUCCESS;
            }
            if links.get(to.addr()).is_some() {
                return DUPLICATE;
            }
            if !links.set(to.addr(), object) {
                return NO_MEMORY;
            }
            links.remove(link.addr());
            SUCCESS
        })
    }

    /// Clears the links whose objects are not marked.
    fn clear(&self) {
        self.links().retain(|link, object| {
            let lives = is_marked(object);
            if !lives {
                // SAFETY: the head of this file; nothing was swept yet.
                unsafe { ptr::with_exposed_provenance_mut::<*mut c_void>(link).write(ptr::null_mut()) };
            }
            lives
        });
    }

    /// Forgets the links that lie in objects which are not marked.
    fn forget_dangling(&self) {
        self.links().retain(|link, _| !is_dead(link));
    }
}

/// Whether an object is marked. What is no object counts as marked.
pub(crate) fn is_marked(address: usize) -> bool {
    !is_dead(address)
}

fn is_dead(address: usize) -> bool {
    let objects = heap::gc().parts.objects();
    objects.find(Address(address)).is_some_and(|object| !objects.is_marked(&object))
}

/// Clears short links. The world stands still, and what is reachable is marked.
pub(crate) fn clear_short() {
    SHORT.clear();
}

/// Clears long links, and forgets those that are in dead objects. What finalizers keep is marked.
pub(crate) fn clear_long() {
    SHORT.forget_dangling();
    LONG.clear();
    LONG.forget_dangling();
}

/// Clears `*link` when `object` is not reachable any more.
#[unsafe(no_mangle)]
pub extern "C" fn GC_general_register_disappearing_link(
    link: *mut *mut c_void,
    object: *const c_void,
) -> c_int {
    SHORT.register(link, object)
}

/// The same, for the object in which the link lies.
#[unsafe(no_mangle)]
pub extern "C" fn GC_register_disappearing_link(link: *mut *mut c_void) -> c_int {
    let object = crate::alloc::GC_base(link.cast());
    if object.is_null() {
        crate::settings::fatal(c"GC_register_disappearing_link: the link lies in no object\n");
    }
    SHORT.register(link, object)
}

/// Takes a link back. Returns whether it was registered.
#[unsafe(no_mangle)]
pub extern "C" fn GC_unregister_disappearing_link(link: *mut *mut c_void) -> c_int {
    SHORT.unregister(link)
}

/// Has the link at another address.
#[unsafe(no_mangle)]
pub extern "C" fn GC_move_disappearing_link(link: *mut *mut c_void, to: *mut *mut c_void) -> c_int {
    SHORT.move_to(link, to)
}

/// Clears `*link` when `object` is gone, its finalizer included.
#[unsafe(no_mangle)]
pub extern "C" fn GC_register_long_link(link: *mut *mut c_void, object: *const c_void) -> c_int {
    LONG.register(link, object)
}

/// Takes a long link back. Returns whether it was registered.
#[unsafe(no_mangle)]
pub extern "C" fn GC_unregister_long_link(link: *mut *mut c_void) -> c_int {
    LONG.unregister(link)
}

/// Has the long link at another address.
#[unsafe(no_mangle)]
pub extern "C" fn GC_move_long_link(link: *mut *mut c_void, to: *mut *mut c_void) -> c_int {
    LONG.move_to(link, to)
}
