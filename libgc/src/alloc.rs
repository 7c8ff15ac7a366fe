//! Allocation, and what is asked about objects.
//!
//! Up to 64 KiB an object comes from the thread's cache: no lock, no call, no count. The slow path pays for all of it:
//! a collection if one is due, sweeping, another span. There is no extra byte in an object: that a pointer one past its
//! end keeps it alive is a rule of how stacks are scanned ([`mark`](crate::mark)).
//!
//! What is freed goes to a list of the thread's own, and is handed out again before anything else; what is left there
//! when the world is stopped goes back to its span.
//!
//! # Safety
//! A thread's caches are used while it is inside. Objects that are handed in are the program's.

use crate::cycle::{self, Why};
use crate::heap::{self, COMMON};
use crate::kinds::{self, KEPT, Kind, PLAIN, ROOTS, WORDS};
use crate::settings;
use crate::threads::Side;
use crate::tls::{self, Inside};
use crate::{finalize, mark, pace};
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use spanheap::base::class::MAX_SMALL;
use spanheap::base::purpose::OBJECTS;
use spanheap::base::{Address, Bytes, SizeClass};
use spanheap::object::{NoAttachments, Object, ShapeId, SpanClass, SpanKind, Take};

/// Chunks that are swept, at most, before a fresh span is taken.
const CHUNKS: usize = 8;

/// An object of a common kind.
#[inline(always)]
fn common(size: usize, kind: SpanKind) -> *mut c_void {
    if size <= MAX_SMALL {
        let code = SpanClass::new(kind, SizeClass::of_small(size));
        let inside = Inside::enter();
        // SAFETY: the thread's own cache, or the empty one, which is not written; the thread is inside.
        let object = unsafe { (*tls::words().cache.get()).allocate_fast(code) };
        drop(inside);
        if !object.is_null() {
            return object.cast();
        }
    }
    slow(size, if matches!(kind, SpanKind::Plain) { PLAIN } else { WORDS })
}

/// An object of any kind.
pub(crate) fn allocate(size: usize, kind: Kind) -> *mut c_void {
    slow(size, kind)
}

#[cold]
#[inline(never)]
fn slow(size: usize, kind: Kind) -> *mut c_void {
    heap::gc();
    if mark::is_driving() {
        let object = mark::allocate_driving(size, kind.kind);
        return object.unwrap_or_else(|| settings::out_of_memory(size)).cast();
    }
    if finalize::are_due() {
        finalize::after_collection();
    }
    if pace::is_due() {
        cycle::collect(Why::Due);
    } else if settings::is_stressed() {
        cycle::collect(Why::Stressed);
    }
    if let Some(object) = take(size, kind) {
        return object.cast();
    }
    // What finalizers held is free after the second.
    for _ in 0..2 {
        if cycle::collect(Why::Asked)
            && let Some(object) = take(size, kind)
        {
            return object.cast();
        }
    }
    settings::out_of_memory(size).cast()
}

/// Takes an object from wherever there is one.
fn take(size: usize, kind: Kind) -> Option<*mut u8> {
    let record = tls::words().known();
    let _inside = Inside::enter();
    if size > MAX_SMALL {
        return take_large(size, kind);
    }
    let code = SpanClass::new(kind.kind, SizeClass::of_small(size));
    let side = record.side(kind.pool);
    let object = side.cache.allocate_fast(code);
    if !object.is_null() {
        return Some(object);
    }
    if let Some(object) = take_freed(side, code) {
        return Some(object);
    }
    refill(side, code)
}

/// Takes a slot that the thread has freed.
fn take_freed(side: &mut Side, code: SpanClass) -> Option<*mut u8> {
    let list = &mut side.freed[code.0 as usize];
    let object = *list;
    if object.is_null() {
        return None;
    }
    // SAFETY: a slot in the list is nobody's, and its first word leads to the next.
    unsafe {
        *list = object.cast::<*mut u8>().read();
        object.write_bytes(0, code.row().size as usize);
    }
    Some(object)
}

fn refill(side: &mut Side, code: SpanClass) -> Option<*mut u8> {
    let parts = heap::gc().parts;
    let objects = parts.objects();
    let mut chunks = 0;
    let sweep = || parts.with_work(|work| objects.sweep_chunk(work, &mut NoAttachments)).is_some();
    loop {
        let taken = parts.with_work(|work| match chunks < CHUNKS {
            true => objects.refill(&mut side.cache, work, code),
            false => objects.refill_fresh(&mut side.cache, work, code),
        });
        match taken {
            Ok(Take::Ready) => return Some(side.cache.allocate_fast(code)),
            Ok(Take::Unswept) => chunks = if sweep() { chunks + 1 } else { CHUNKS },
            // What is dead and not swept yet may be all that it takes.
            Err(_) if sweep() => chunks = 0,
            Err(_) => return None,
        }
    }
}

fn take_large(size: usize, kind: Kind) -> Option<*mut u8> {
    let parts = heap::gc().parts;
    let objects = parts.objects();
    let wanted = Bytes(size);
    if size > objects_most() {
        return None;
    }
    let mut pages = wanted.pages_ceil().0;
    // Whole dead spans first, so that the heap need not grow for what is free already.
    while pages > 0 {
        let freed = parts.with_work(|work| objects.reclaim_chunk(work, &mut NoAttachments));
        let Some(freed) = freed else { break };
        pages = pages.saturating_sub(freed.pages.0);
    }
    let shape = if kind.kind == SpanKind::Plain { ShapeId::PLAIN } else { ShapeId::WORDS };
    let purpose = heap::gc().purpose(kind.pool);
    loop {
        let made = parts.with_work(|work| objects.allocate_large(work, purpose, wanted, (kind.kind, shape)));
        match made {
            Ok(large) => return Some(objects.finish_large(large)),
            Err(_) => {
                let swept = parts.with_work(|work| objects.sweep_chunk(work, &mut NoAttachments));
                swept?;
            }
        }
    }
}

/// Larger objects than this do not fit into any heap.
fn objects_most() -> usize {
    isize::MAX as usize / 2
}

/// An object that holds an address.
#[inline]
pub(crate) fn find(address: *const c_void) -> Option<Object> {
    heap::existing()?.parts.objects().find(Address(address.addr()))
}

/// The pool that an object is of.
pub(crate) fn pool_of(object: &Object) -> usize {
    let gc = heap::gc();
    let purpose = gc.parts.objects().purpose(object);
    (1..heap::POOLS).find(|&pool| gc.purpose(pool) == purpose && purpose != OBJECTS).unwrap_or(COMMON)
}

/// Frees an object.
fn free(address: *mut c_void) {
    let Some(object) = find(address) else { return };
    // While the collector marks, it alone decides what is free.
    if object.start.0 != address.addr() || mark::is_driving() {
        return;
    }
    let pool = pool_of(&object);
    let record = tls::words().known();
    let _inside = Inside::enter();
    if object.class.is_large() {
        let parts = heap::gc().parts;
        // Not to be freed while somebody marks: that takes the lock, which only the collector holds for long. What
        // cannot be freed now is found dead by the next collection.
        if heap::try_lock() {
            if !parts.objects().is_marking() {
                // SAFETY: the program gives the object up, and nobody begins to mark while the lock is held.
                parts.with_work(|work| unsafe { parts.objects().free_large(&object, work) });
            }
            heap::unlock();
        }
        return;
    }
    if object.kind == SpanKind::Mapped {
        // The bits beside it are written by whoever has its span in a cache, so it waits for the next collection.
        return;
    }
    let list = &mut record.side(pool).freed[object.class.0 as usize];
    // SAFETY: the program gives the object up.
    unsafe { address.cast::<*mut u8>().write(*list) };
    *list = address.cast();
}

/// An object all of whose words may be pointers, all zeros.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc(size: usize) -> *mut c_void {
    common(size, SpanKind::Words)
}

/// An object without pointers.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_atomic(size: usize) -> *mut c_void {
    common(size, SpanKind::Plain)
}

/// As [`GC_malloc`]; the program keeps a pointer to the beginning. Pointers elsewhere count all the same.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_ignore_off_page(size: usize) -> *mut c_void {
    common(size, SpanKind::Words)
}

/// As [`GC_malloc_atomic`]; the program keeps a pointer to the beginning. Pointers elsewhere count all the same.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_atomic_ignore_off_page(size: usize) -> *mut c_void {
    common(size, SpanKind::Plain)
}

/// An object that lives until it is freed, and is a root.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_uncollectable(size: usize) -> *mut c_void {
    slow(size, ROOTS)
}

/// An object without pointers that lives until it is freed.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_atomic_uncollectable(size: usize) -> *mut c_void {
    slow(size, KEPT)
}

/// An object of a kind.
#[unsafe(no_mangle)]
pub extern "C" fn GC_generic_malloc(size: usize, number: c_int) -> *mut c_void {
    match kinds::kind(number) {
        Some(kind) => allocate(size, kind),
        None => settings::fatal(c"GC_generic_malloc: there is no such kind\n"),
    }
}

/// As [`GC_generic_malloc`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_kind(size: usize, number: c_int) -> *mut c_void {
    GC_generic_malloc(size, number)
}

/// As [`GC_generic_malloc`].
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_kind_global(size: usize, number: c_int) -> *mut c_void {
    GC_generic_malloc(size, number)
}

/// Bytes of objects that are handed out in one chain.
const CHAIN: usize = 4096;

/// Objects of one size, each leading to the next by its first word.
#[unsafe(no_mangle)]
pub extern "C" fn GC_malloc_many(size: usize) -> *mut c_void {
    let mut chain = ptr::null_mut();
    // SAFETY: a place of our own.
    unsafe { GC_generic_malloc_many(size.max(1).next_multiple_of(16), 1, &mut chain) };
    chain
}

/// Objects of a kind and a size, each leading to the next by its first word, into `*result`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_generic_malloc_many(size: usize, number: c_int, result: *mut *mut c_void) {
    let Some(kind) = kinds::kind(number) else {
        settings::fatal(c"GC_generic_malloc_many: there is no such kind\n")
    };
    let first = allocate(size, kind);
    let mut last = first;
    // What is at hand already, as one stay inside: nothing is collected before the chain is whole.
    if !first.is_null() && size <= MAX_SMALL {
        let code = SpanClass::new(kind.kind, SizeClass::of_small(size));
        let record = tls::words().known();
        let _inside = Inside::enter();
        let cache = &mut record.side(kind.pool).cache;
        for _ in 1..CHAIN / size.max(16) {
            let object = cache.allocate_fast(code);
            if object.is_null() {
                break;
            }
            // SAFETY: both are objects of the chain, which is not handed out yet.
            unsafe { last.cast::<*mut u8>().write(object) };
            last = object.cast();
        }
        // The chain may be stopped in: its beginning is on this stack.
        core::hint::black_box(first);
    }
    // SAFETY: the header's promise.
    unsafe {
        if !last.is_null() {
            last.cast::<*mut u8>().write(ptr::null_mut());
        }
        *result = first;
    }
}

/// Frees an object. Null is fine.
#[unsafe(no_mangle)]
pub extern "C" fn GC_free(object: *mut c_void) {
    if !object.is_null() {
        free(object);
    }
}

/// Changes the size of an object, moving it if need be.
#[unsafe(no_mangle)]
pub extern "C" fn GC_realloc(object: *mut c_void, size: usize) -> *mut c_void {
    if object.is_null() {
        return GC_malloc(size);
    }
    if size == 0 {
        free(object);
        return ptr::null_mut();
    }
    let Some(found) = find(object) else {
        settings::fatal(c"GC_realloc: what is handed in is no object\n");
    };
    let room = found.size.0;
    if size <= room && size > room / 2 {
        if found.class.row().kind != SpanKind::Plain {
            // SAFETY: the program gives up what lies behind.
            unsafe { object.cast::<u8>().add(size).write_bytes(0, room - size) };
        }
        return object;
    }
    let pool = pool_of(&found);
    let kind = kinds::kind(kinds::number_of(pool, found.class.row().kind)).unwrap_or(WORDS);
    let moved = allocate(size, kind);
    if !moved.is_null() {
        // SAFETY: both have so many bytes; the old one is the program's, and given up.
        unsafe { object.cast::<u8>().copy_to_nonoverlapping(moved.cast(), room.min(size)) };
        free(object);
    }
    moved
}

/// A copy of a string, in an object without pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_strdup(text: *const c_char) -> *mut c_char {
    if text.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: a string, by the header's promise.
    unsafe { copy(text, libc::strlen(text)) }
}

/// A copy of a string's beginning.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_strndup(text: *const c_char, most: usize) -> *mut c_char {
    // SAFETY: a string, or so many bytes, by the header's promise.
    unsafe { copy(text, libc::strnlen(text, most)) }
}

unsafe fn copy(text: *const c_char, length: usize) -> *mut c_char {
    let copied = GC_malloc_atomic(length + 1).cast::<c_char>();
    // SAFETY: the text has so many bytes, and the copy one more.
    unsafe {
        if copied.is_null() {
            *libc::__errno_location() = libc::ENOMEM;
        } else {
            copied.copy_from_nonoverlapping(text, length);
            copied.add(length).write(0);
        }
    }
    copied
}

/// The beginning of the object that holds an address; null if none does.
#[unsafe(no_mangle)]
pub extern "C" fn GC_base(address: *mut c_void) -> *mut c_void {
    find(address).map_or(ptr::null_mut(), |object| ptr::with_exposed_provenance_mut(object.start.0))
}

/// Bytes of an object, which may be more than were asked for.
#[unsafe(no_mangle)]
pub extern "C" fn GC_size(object: *const c_void) -> usize {
    find(object).map_or(0, |object| object.size.0)
}

/// Whether an address lies in the heap.
#[unsafe(no_mangle)]
pub extern "C" fn GC_is_heap_ptr(address: *const c_void) -> c_int {
    find(address).is_some().into()
}

/// Says that pointers which lie so many bytes behind an object's beginning count. All do.
#[unsafe(no_mangle)]
pub extern "C" fn GC_register_displacement(_: usize) {}

/// A store that a collector may see. This one sees all memory, so there is nothing to do.
#[unsafe(no_mangle)]
pub extern "C" fn GC_end_stubborn_change(_: *const c_void) {}
