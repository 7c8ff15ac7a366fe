//! Objects whose pointers are known by a descriptor.
//!
//! A descriptor is a word, as in the headers: a length in bytes, up to which every word may be a pointer; or, with its
//! lowest bit set, a bit for each of the first 62 words, the highest bit for the first one. A bitmap that does not fit
//! becomes the length up to its last pointer, which looks at more words and finds no less.
//!
//! Objects up to 512 bytes have their bits beside them, in the maps of the core's room `object`. In larger ones every
//! word may be a pointer.
//!
//! # Safety
//! A bitmap has as many words as its length says. An object that was just allocated is the caller's alone, and all zeros:
//! what its bits say before they are set does not matter.

use crate::alloc::allocate;
use crate::heap::{self, COMMON};
use crate::kinds::{Kind, PLAIN, WORDS};
use core::ffi::c_void;
use spanheap::base::{PAGE_SIZE, PageId};
use spanheap::object::class::MAX_ONE_PAGE;
use spanheap::object::{Object, SpanKind};

/// What a descriptor's lowest bits say: a length, or a bitmap.
const TAG: usize = 3;
const LENGTH: usize = 0;
const BITMAP: usize = 1;
/// Words that a descriptor has bits for.
const MOST_BITS: usize = 62;

/// Makes a descriptor from a bitmap of `count` bits, the lowest of each word first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_make_descriptor(bitmap: *const usize, count: usize) -> usize {
    // SAFETY: the header's promise.
    let has = |at: usize| unsafe { bitmap.add(at / 64).read() } >> (at % 64) & 1 == 1;
    let Some(last) = (0..count).rev().find(|&at| has(at)) else { return LENGTH };
    if last >= MOST_BITS || (0..=last).all(has) {
        return ((last + 1) * 8) | LENGTH;
    }
    (0..=last).filter(|&at| has(at)).fold(BITMAP, |bits, at| bits | 1 << (63 - at))
}

/// A bit for each word of an object that may be a pointer, the lowest for the first; `None` where a descriptor does not
/// say.
fn mask(descriptor: usize) -> Option<u64> {
    match descriptor & TAG {
        LENGTH => Some(1u64.checked_shl(descriptor as u32 / 8).map_or(u64::MAX, |bit| bit - 1)),
        BITMAP => Some((descriptor & !TAG).reverse_bits() as u64),
        _ => None,
    }
}

/// An object whose pointers a descriptor knows, all zeros.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_explicitly_typed(size: usize, descriptor: usize) -> *mut c_void {
    match mask(descriptor) {
        _ if descriptor == LENGTH => allocate(size, PLAIN),
        Some(mask) if size <= MAX_ONE_PAGE => mapped(size, mask),
        _ => allocate(size, WORDS),
    }
}

fn mapped(size: usize, mask: u64) -> *mut c_void {
    let made = allocate(size, Kind::plain(COMMON, SpanKind::Mapped));
    // An object that the program's function brought is none of ours.
    if let Some(object) = crate::alloc::find(made)
        && object.kind == SpanKind::Mapped
    {
        set_mask(&object, mask);
    }
    made
}

/// Notes which words of an object may be pointers.
fn set_mask(object: &Object, mask: u64) {
    let objects = heap::gc().parts.objects();
    let offset = object.start.0 - objects.base().0;
    let words = object.size.0 / 8;
    let _inside = crate::tls::Inside::enter();
    let map = objects.page_map(PageId(offset / PAGE_SIZE)).expect("mapped objects have maps");
    map.set(offset % PAGE_SIZE / 8, words, mask & (u64::MAX >> (64 - words)));
}

/// As [`GC_malloc_explicitly_typed`]; the program keeps a pointer to the beginning.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_explicitly_typed_ignore_off_page(size: usize, descriptor: usize) -> *mut c_void {
    GC_malloc_explicitly_typed(size, descriptor)
}

/// `count` elements, each described by a descriptor. In arrays every word may be a pointer.
#[unsafe(no_mangle)]
pub extern "C" fn GC_calloc_explicitly_typed(count: usize, size: usize, descriptor: usize) -> *mut c_void {
    let bytes = count.saturating_mul(size);
    match count {
        1 => GC_malloc_explicitly_typed(bytes, descriptor),
        _ if descriptor == LENGTH => allocate(bytes, PLAIN),
        _ => allocate(bytes, WORDS),
    }
}
