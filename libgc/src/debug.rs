//! The calls that programs get when they are compiled with `GC_DEBUG`.
//!
//! They do what their counterparts do. Where an object was allocated is not kept, and nothing stands before or behind it:
//! a debugging header has no bytes here ([`GC_get_debug_header_size`]), so a pointer to an object's beginning is what
//! `GC_base` returns with and without `GC_DEBUG`.
//!
//! # Safety
//! That of the counterparts.

use crate::alloc::{self, GC_free, GC_malloc, GC_malloc_atomic, GC_realloc};
use crate::finalize;
use core::ffi::{c_char, c_int, c_void};

/// Bytes of a debugging header.
#[unsafe(no_mangle)]
pub static mut GC_debug_header_size: usize = 0;

/// Bytes of a debugging header.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_debug_header_size() -> usize {
    0
}

/// Allocation with the place in the source.
macro_rules! allocates {
    ($($name:ident = $plain:path;)*) => { $(
        #[doc = concat!("As [`", stringify!($plain), "`].")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(size: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
            $plain(size)
        }
    )* };
}

allocates! {
    GC_debug_malloc = GC_malloc;
    GC_debug_malloc_atomic = GC_malloc_atomic;
    GC_debug_malloc_stubborn = GC_malloc;
    GC_debug_malloc_ignore_off_page = alloc::GC_malloc_ignore_off_page;
    GC_debug_malloc_atomic_ignore_off_page = alloc::GC_malloc_atomic_ignore_off_page;
    GC_debug_malloc_uncollectable = alloc::GC_malloc_uncollectable;
    GC_debug_malloc_atomic_uncollectable = alloc::GC_malloc_atomic_uncollectable;
}

/// As [`GC_malloc`], for those who replace the C library's function.
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_malloc_replacement(size: usize) -> *mut c_void {
    GC_malloc(size)
}

/// As [`GC_realloc`], for those who replace the C library's function.
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_realloc_replacement(object: *mut c_void, size: usize) -> *mut c_void {
    GC_realloc(object, size)
}

/// As [`GC_realloc`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_realloc(
    object: *mut c_void,
    size: usize,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_void {
    GC_realloc(object, size)
}

/// As [`GC_free`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_free(object: *mut c_void) {
    GC_free(object);
}

/// As [`alloc::GC_generic_malloc`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_generic_or_special_malloc(
    size: usize,
    kind: c_int,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_void {
    alloc::GC_generic_malloc(size, kind)
}

/// As [`alloc::GC_strdup`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_debug_strdup(
    text: *const c_char,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_char {
    // SAFETY: the caller's string.
    unsafe { alloc::GC_strdup(text) }
}

/// As [`alloc::GC_strndup`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_debug_strndup(
    text: *const c_char,
    most: usize,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_char {
    // SAFETY: the caller's string.
    unsafe { alloc::GC_strndup(text, most) }
}

/// As [`alloc::GC_register_displacement`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_register_displacement(_: usize) {}

/// As [`alloc::GC_end_stubborn_change`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_end_stubborn_change(_: *const c_void) {}

/// Nothing is to be done before an object changes.
#[unsafe(no_mangle)]
pub extern "C" fn GC_debug_change_stubborn(_: *const c_void) {}

/// Nothing is to be done before an object changes.
#[unsafe(no_mangle)]
pub extern "C" fn GC_change_stubborn(_: *const c_void) {}

/// As [`GC_malloc`]: an object that the program seldom changes.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_stubborn(size: usize) -> *mut c_void {
    GC_malloc(size)
}

/// Stores a pointer. A collector that sees all memory need not be told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_ptr_store_and_dirty(place: *mut c_void, value: *const c_void) {
    // SAFETY: the header's promise: a place for a pointer.
    unsafe { place.cast::<*const c_void>().write(value) };
}

/// As [`GC_ptr_store_and_dirty`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_debug_ptr_store_and_dirty(place: *mut c_void, value: *const c_void) {
    // SAFETY: the caller's place.
    unsafe { GC_ptr_store_and_dirty(place, value) };
}

/// Finalizers by their names for `GC_DEBUG`.
macro_rules! registers {
    ($($name:ident = $plain:ident;)*) => { $(
        #[doc = concat!("As [`finalize::", stringify!($plain), "`].")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            object: *mut c_void,
            run: Option<finalize::Finalizer>,
            data: *mut c_void,
            old_run: *mut Option<finalize::Finalizer>,
            old_data: *mut *mut c_void,
        ) {
            // SAFETY: the caller's arguments.
            unsafe { finalize::$plain(object, run, data, old_run, old_data) }
        }
    )* };
}

registers! {
    GC_debug_register_finalizer = GC_register_finalizer;
    GC_debug_register_finalizer_ignore_self = GC_register_finalizer_ignore_self;
    GC_debug_register_finalizer_no_order = GC_register_finalizer_no_order;
    GC_debug_register_finalizer_unreachable = GC_register_finalizer_unreachable;
}

/// A function that is told of two addresses that fail a check.
type Fails = extern "C" fn(*mut c_void, *mut c_void);

extern "C" fn not_the_same(_: *mut c_void, _: *mut c_void) {
    crate::settings::fatal(c"GC_same_obj: two addresses that are not in the same object\n");
}

/// Told by [`GC_same_obj`] of what is not in one object. Programs put their own in its place.
#[unsafe(no_mangle)]
pub static mut GC_same_obj_print_proc: Fails = not_the_same;

/// Returns the first address; the program is told if the second one is in an object and the first one not in the same.
#[unsafe(no_mangle)]
pub extern "C" fn GC_same_obj(one: *mut c_void, other: *mut c_void) -> *mut c_void {
    if alloc::GC_base(one) != alloc::GC_base(other) {
        // SAFETY: a word of the program's.
        unsafe { GC_same_obj_print_proc(one, other) };
    }
    one
}

/// Returns its argument; an address of the heap at which a pointer would not count does not exist.
#[unsafe(no_mangle)]
pub extern "C" fn GC_is_valid_displacement(address: *mut c_void) -> *mut c_void {
    address
}

/// Adds to a pointer, which must stay in its object. Returns what it is then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_pre_incr(pointer: *mut *mut c_void, by: isize) -> *mut c_void {
    // SAFETY: the header's promise: a pointer of the program's.
    unsafe {
        let before = *pointer;
        *pointer = GC_same_obj(before.wrapping_byte_offset(by), before);
        *pointer
    }
}

/// Adds to a pointer, which must stay in its object. Returns what it was before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_post_incr(pointer: *mut *mut c_void, by: isize) -> *mut c_void {
    // SAFETY: the header's promise: a pointer of the program's.
    unsafe {
        let before = *pointer;
        *pointer = GC_same_obj(before.wrapping_byte_offset(by), before);
        before
    }
}

/// A use of a word that no compiler removes.
#[unsafe(no_mangle)]
pub extern "C" fn GC_noop1(word: usize) {
    core::hint::black_box(word);
}
