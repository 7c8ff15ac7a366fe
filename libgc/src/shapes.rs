//! Allocation with an alignment, of the general kinds, and of objects that begin with a table of their class.
//!
//! An address with an alignment above that of all objects lies in an object that is larger; pointers to its inside count
//! as all do. It is no object's beginning, so it is not freed by `GC_free`.
//!
//! # Safety
//! The program's places for addresses.

use crate::alloc::{self, GC_generic_malloc, GC_malloc};
use crate::kinds::{self, KEPT, ROOTS};
use crate::{heap, settings};
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use spanheap::base::SizeClass;
use spanheap::base::class::MAX_SMALL;

/// What every object is aligned to, if its size is a multiple of that.
const ALIGNED: usize = 16;

/// An object of a general kind. `None`: the alignment is none.
fn aligned(align: usize, size: usize) -> Option<*mut c_void> {
    if !align.is_power_of_two() {
        return None;
    }
    if align <= ALIGNED {
        return Some(GC_malloc(size.checked_next_multiple_of(ALIGNED).unwrap_or(size)));
    }
    let object = GC_malloc(size.saturating_add(align - 1));
    let gap = object.addr().next_multiple_of(align) - object.addr();
    Some(if object.is_null() { object } else { object.wrapping_byte_add(gap) })
}

/// An object at a multiple of `align`, a power of two; null for others.
#[unsafe(no_mangle)]
pub extern "C" fn GC_memalign(align: usize, size: usize) -> *mut c_void {
    aligned(align, size).unwrap_or(ptr::null_mut())
}

/// The same into a place, with an error as POSIX has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    match aligned(align, size) {
        None => libc::EINVAL,
        Some(object) if object.is_null() => libc::ENOMEM,
        Some(object) => {
            // SAFETY: the header's promise.
            unsafe { *place = object };
            0
        }
    }
}

/// As [`GC_generic_malloc`]; the program keeps a pointer to the beginning.
#[unsafe(no_mangle)]
pub extern "C" fn GC_generic_malloc_ignore_off_page(size: usize, number: c_int) -> *mut c_void {
    GC_generic_malloc(size, number)
}

/// As [`GC_generic_malloc`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_generic_or_special_malloc(size: usize, number: c_int) -> *mut c_void {
    GC_generic_malloc(size, number)
}

/// An object that lives until it is freed, and whose pointers are as its kind says. Kinds with procedures have none.
#[unsafe(no_mangle)]
pub extern "C" fn GC_generic_malloc_uncollectable(size: usize, number: c_int) -> *mut c_void {
    match number {
        0 | 3 => alloc::allocate(size, KEPT),
        1 | 2 => alloc::allocate(size, ROOTS),
        _ => settings::fatal(c"GC_generic_malloc_uncollectable: objects of such a kind can be collected\n"),
    }
}

/// The kind of an object, and into `*size` its bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_get_kind_and_size(object: *const c_void, size: *mut usize) -> c_int {
    let Some(found) = alloc::find(object) else {
        settings::fatal(c"GC_get_kind_and_size: what is handed in is no object\n");
    };
    // SAFETY: the header's promise: null, or a place.
    if let Some(size) = unsafe { size.as_mut() } {
        *size = found.size.0;
    }
    kinds::number_of(alloc::pool_of(&found), found.kind)
}

/// Bytes of the object that a request for so many gets; all ones where requests are not rounded to a class.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_size_map_at(size: c_int) -> usize {
    match usize::try_from(size) {
        Ok(size) if size <= MAX_SMALL => SizeClass::of_small(size).row().size as usize,
        _ => usize::MAX,
    }
}

/// Objects that begin with a table of their class may be allocated. Every word of theirs counts, so the table's descriptor
/// is not read and the procedure not called.
#[unsafe(no_mangle)]
pub extern "C" fn GC_init_gcj_malloc(_index: c_int, _procedure: *mut c_void) {
    heap::gc();
}

/// An object that begins with a table.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_gcj_malloc(size: usize, table: *mut c_void) -> *mut c_void {
    let object = GC_malloc(size.max(size_of::<*mut c_void>()));
    if !object.is_null() {
        // SAFETY: a fresh object with room for a word.
        unsafe { object.cast::<*mut c_void>().write(table) };
    }
    object
}

/// As [`GC_gcj_malloc`]; the program keeps a pointer to the beginning.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_gcj_malloc_ignore_off_page(size: usize, table: *mut c_void) -> *mut c_void {
    // SAFETY: the caller's arguments.
    unsafe { GC_gcj_malloc(size, table) }
}

/// As [`GC_gcj_malloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_debug_gcj_malloc(
    size: usize,
    table: *mut c_void,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_void {
    // SAFETY: the caller's arguments.
    unsafe { GC_gcj_malloc(size, table) }
}
