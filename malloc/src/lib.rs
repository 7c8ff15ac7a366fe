//! The C door: glibc's whole allocation interface on the process heap, for `LD_PRELOAD`.
//!
//! Every function here is a few lines over [`spanheap::front::process`]: the sizes and errors of C on one side, blocks on
//! the other. What C's contract says where it differs from Rust's:
//!
//! - no memory is a null pointer and `errno` = `ENOMEM`; otherwise `errno` is left alone, also by `free`;
//! - a request for no bytes gets a block of its own;
//! - `realloc(p, 0)` frees `p` and returns null, as glibc does.
//!
//! The door works from the first call of the process: the heap makes itself, and nothing here waits for a
//! constructor. The constructor only registers what must happen at `fork`, at the end of threads, and at exit.
//! (C23 7.24.3; POSIX `posix_memalign`; glibc's manual, 3.2.3.)
//!
//! # Safety
//! Functions are called by C code, which keeps C's contract: pointers that it hands in are null or blocks in use. What
//! is not is reported as far as the metadata shows it.

mod lifecycle;
pub mod statistics;
#[cfg(target_arch = "x86_64")]
pub mod threads;

use core::ffi::{c_int, c_void};
use core::ptr;
use spanheap::front::process;

/// The alignment that every block has.
const NATURAL: usize = 16;
/// The system's page, as far as `valloc` promises it.
const PAGE: usize = 4096;

/// Hands a block to C, or null with `errno` set.
#[inline(always)]
fn hand_out(block: *mut u8) -> *mut c_void {
    if block.is_null() {
        set_errno(libc::ENOMEM);
    }
    block.cast()
}

#[cold]
fn set_errno(value: c_int) {
    // SAFETY: the C library's own word for this thread.
    unsafe { *libc::__errno_location() = value }
}

/// A block of at least `size` bytes; null and `ENOMEM` when there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    let block = process::allocate_fast(size);
    if block.is_null() { malloc_rest(size) } else { block.cast() }
}

/// The rest of `malloc`, called last of all, so that the first part needs no frame.
#[inline(never)]
extern "C" fn malloc_rest(size: usize) -> *mut c_void {
    hand_out(process::allocate_rest(size))
}

/// Frees a block; null is fine.
///
/// # Safety
/// The pointer is null or a block in use, which is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller gives the block up.
    unsafe { process::free(block.cast()) }
}

/// The old name of [`free`].
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller gives the block up.
    unsafe { process::free(block.cast()) }
}

/// `count` times `size` bytes, all zero.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => hand_out(process::allocate_zeroed(bytes, NATURAL)),
        None => hand_out(ptr::null_mut()),
    }
}

/// Changes the size of a block, moving it if need be.
///
/// # Safety
/// The pointer is null or a block in use, which is not used any more through it unless null comes back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller's block.
    unsafe {
        if size == 0 {
            free(block);
            return ptr::null_mut();
        }
        hand_out(process::reallocate(block.cast(), size, NATURAL))
    }
}

/// As [`realloc`], for `count` times `size` bytes.
///
/// # Safety
/// As [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's block.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => hand_out(ptr::null_mut()),
    }
}

/// A block at a multiple of `align`, which is rounded up to a power of two as glibc does.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => hand_out(process::allocate_aligned(size, align)),
        None => invalid(),
    }
}

/// A block at a multiple of `align`, a power of two; null and `EINVAL` for any other.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if align.is_power_of_two() { hand_out(process::allocate_aligned(size, align)) } else { invalid() }
}

fn invalid() -> *mut c_void {
    set_errno(libc::EINVAL);
    ptr::null_mut()
}

/// Puts a block at a multiple of `align` into `*place`; returns `EINVAL` unless `align` is a power of two and a
/// multiple of a pointer's size, and `ENOMEM` when there is no memory. `errno` stays.
///
/// # Safety
/// `place` is a pointer's place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    let block = process::allocate_aligned(size, align);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's place.
    unsafe { *place = block.cast() };
    0
}

/// A block at a multiple of the system's page.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    hand_out(process::allocate_aligned(size, PAGE))
}

/// As [`valloc`], rounded up to whole pages of the system.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match size.checked_next_multiple_of(PAGE) {
        Some(bytes) => hand_out(process::allocate_aligned(bytes.max(PAGE), PAGE)),
        None => hand_out(ptr::null_mut()),
    }
}

/// Bytes that a block's holder may use; 0 for null.
///
/// # Safety
/// The pointer is null or a block in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    process::usable_size(block.cast())
}
