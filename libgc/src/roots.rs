//! The program's data: what it and its libraries have in writable segments, and what it adds by hand.
//!
//! The loader is asked before the world is stopped, since a stopped thread may hold its lock. It counts what was loaded
//! and unloaded; while the counts stand still, so do our ranges. Of a library's writable segments those parts count that
//! stay writable: what the loader protects after relocation (`PT_GNU_RELRO`) holds no objects.
//!
//! Ranges are registered with the core's [roots](spanheap::gc::roots), which cut them into jobs for all markers.
//!
//! - `GC_clear_roots` drops what was added by hand, and the program's own data. Libraries' data stays, unless
//!   `GC_no_dls` says otherwise, which is asked at each collection.
//! - What was excluded is cut out of the libraries' segments.
//!
//! # Safety
//! Segments are readable while their library is loaded; programs promise the same of what they add. Tables here are
//! changed under the allocation lock.

use crate::heap;
use crate::settings;
use crate::threads;
use crate::tls::Inside;
use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use spanheap::base::{Address, Bytes};
use spanheap::front::process;
use spanheap::gc::{RangeId, RootRange};

/// A range that is registered.
#[derive(Clone, Copy)]
struct Known {
    start: usize,
    end: usize,
    id: RangeId,
}

/// Ranges in a block of the process heap, which grows.
struct List<T> {
    block: *mut T,
    count: usize,
    room: usize,
}

impl<T: Copy> List<T> {
    const fn new() -> List<T> {
        List { block: ptr::null_mut(), count: 0, room: 0 }
    }

    fn push(&mut self, value: T) -> bool {
        if self.count == self.room {
            let room = (self.room * 2).max(64);
            let bytes = room * size_of::<T>();
            let _inside = Inside::enter();
            let block = match self.block.is_null() {
                true => process::allocate(bytes),
                // SAFETY: the block is the list's own.
                false => unsafe { process::reallocate(self.block.cast(), bytes, 16) },
            };
            if block.is_null() {
                return false;
            }
            (self.block, self.room) = (block.cast(), room);
        }
        // SAFETY: there is room behind the last.
        unsafe { self.block.add(self.count).write(value) };
        self.count += 1;
        true
    }

    fn as_slice(&self) -> &[T] {
        match self.block.is_null() {
            true => &[],
            // SAFETY: the block has so many.
            false => unsafe { core::slice::from_raw_parts(self.block, self.count) },
        }
    }

    fn swap_remove(&mut self, at: usize) -> T {
        debug_assert!(at < self.count);
        self.count -= 1;
        // SAFETY: both are in the block.
        unsafe {
            let removed = self.block.add(at).read();
            self.block.add(at).write(self.block.add(self.count).read());
            removed
        }
    }
}

struct State {
    /// Added by hand.
    added: List<Known>,
    /// Of the program and its libraries.
    loaded: List<Known>,
    excluded: List<(usize, usize)>,
    /// The loader's counts when the list was made, and what it was made for.
    counts: (u64, u64),
    is_known: bool,
    /// Whether the list is of libraries, and whether the program is in it.
    was_for: (bool, bool),
    /// Whether the program's own data counts.
    with_main: bool,
}

struct Guarded(UnsafeCell<State>);
// SAFETY: the head of this file.
unsafe impl Sync for Guarded {}

static STATE: Guarded = Guarded(UnsafeCell::new(State {
    added: List::new(),
    loaded: List::new(),
    excluded: List::new(),
    counts: (0, 0),
    is_known: false,
    was_for: (false, false),
    with_main: true,
}));

/// The tables; the lock is held.
fn state() -> &'static mut State {
    // SAFETY: the head of this file.
    unsafe { &mut *STATE.0.get() }
}

/// What is found out while the loader's list is walked.
struct Walk {
    counts: (u64, u64),
    /// No object was seen yet: the first one is the program.
    first: bool,
    with_libraries: bool,
    with_main: bool,
    own: usize,
}

/// Takes in where the program's own data is.
pub(crate) fn learn_main() {
    heap::locked(refresh);
}

/// Brings the list of segments up to date. The lock is held, and the world is not stopped.
pub(crate) fn refresh() {
    let state = state();
    let wanted = (settings::GC_get_no_dls() == 0, state.with_main);
    let mut walk = Walk {
        counts: (0, 0),
        first: true,
        with_libraries: wanted.0,
        with_main: wanted.1,
        own: (&raw const STATE).addr(),
    };
    let known = state.is_known && state.was_for == wanted;
    walk.counts = if known { state.counts } else { (u64::MAX, u64::MAX) };
    // SAFETY: the function has the form that is asked for, and the value lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut walk).cast()) };
    (state.counts, state.was_for, state.is_known) = (walk.counts, wanted, true);
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, size: usize, walk: *mut c_void) -> c_int {
    // SAFETY: the loader hands in what it documents, and what it was given.
    let (info, walk) = unsafe { (&*info, &mut *walk.cast::<Walk>()) };
    let is_program = core::mem::replace(&mut walk.first, false);
    if is_program {
        let reach = core::mem::offset_of!(libc::dl_phdr_info, dlpi_subs) + 8;
        let counts = if size >= reach { (info.dlpi_adds, info.dlpi_subs) } else { (0, 0) };
        if counts == walk.counts && size >= reach {
            return 1;
        }
        walk.counts = counts;
        drop_loaded();
    }
    if if is_program { walk.with_main } else { walk.with_libraries } {
        // SAFETY: the loader's table.
        let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
        add_segments(info.dlpi_addr as usize, headers, walk.own);
    }
    0
}

fn drop_loaded() {
    let state = state();
    let _inside = Inside::enter();
    while state.loaded.count > 0 {
        let known = state.loaded.swap_remove(state.loaded.count - 1);
        heap::gc().parts.collector().roots.remove(known.id);
    }
}

fn add_segments(base: usize, headers: &[libc::Elf64_Phdr], own: usize) {
    let range = |header: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        (start, start + header.p_memsz as usize)
    };
    let relro = headers.iter().find(|header| header.p_type == libc::PT_GNU_RELRO).map(range);
    let writable =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W != 0;
    for (start, end) in headers.iter().filter(writable).map(range) {
        // Our own data leads to nothing that the program has not got from us.
        if (start..end).contains(&own) {
            continue;
        }
        match relro {
            Some((from, to)) if from < end && to > start => {
                add_loaded(start, from);
                add_loaded(to, end);
            }
            _ => add_loaded(start, end),
        }
    }
}

/// Registers what is left of a segment when the excluded ranges are cut out.
fn add_loaded(mut start: usize, end: usize) {
    let state = state();
    while start < end {
        let cuts = state.excluded.as_slice().iter().filter(|cut| cut.0 < end && cut.1 > start);
        match cuts.min_by_key(|cut| cut.0).copied() {
            Some((from, to)) => {
                register(&mut state.loaded, start, from);
                start = to;
            }
            None => {
                register(&mut state.loaded, start, end);
                break;
            }
        }
    }
}

fn register(list: &mut List<Known>, start: usize, end: usize) {
    let (start, end) = (start.next_multiple_of(8), end & !7);
    if start >= end {
        return;
    }
    let _inside = Inside::enter();
    let range = RootRange { start: Address(start), size: Bytes(end - start), bits: ptr::null() };
    let parts = heap::gc().parts;
    // SAFETY: the head of this file.
    let added = parts.with_work(|work| unsafe { parts.collector().roots.add(range, work.ground.ledger) });
    match added {
        Ok(id) if list.push(Known { start, end, id }) => {}
        _ => settings::fatal(c"no memory for the list of roots\n"),
    }
}

/// Adds a range of memory that holds pointers.
#[unsafe(no_mangle)]
pub extern "C" fn GC_add_roots(start: *mut c_void, end: *mut c_void) {
    heap::gc();
    heap::locked(|| {
        let (start, end) = (start.addr().next_multiple_of(8), end.addr() & !7);
        let is_known = |known: &Known| known.start <= start && end <= known.end;
        if !state().added.as_slice().iter().any(is_known) {
            register(&mut state().added, start, end);
        }
    });
}

/// Removes what was added within a range.
#[unsafe(no_mangle)]
pub extern "C" fn GC_remove_roots(start: *mut c_void, end: *mut c_void) {
    heap::gc();
    heap::locked(|| remove_within(start.addr(), end.addr()));
}

fn remove_within(start: usize, end: usize) {
    let _inside = Inside::enter();
    let list = &mut state().added;
    let mut at = 0;
    while at < list.count {
        let known = list.as_slice()[at];
        if known.start >= start && known.end <= end {
            list.swap_remove(at);
            heap::gc().parts.collector().roots.remove(known.id);
        } else {
            at += 1;
        }
    }
}

/// Removes all that was added, and the program's own data.
#[unsafe(no_mangle)]
pub extern "C" fn GC_clear_roots() {
    heap::gc();
    heap::locked(|| {
        remove_within(0, usize::MAX);
        // With libraries the program's data is found again, as in the collector whose place this one takes.
        state().with_main = settings::GC_get_no_dls() == 0;
    });
}

/// Takes a range out of what the program and its libraries have.
#[unsafe(no_mangle)]
pub extern "C" fn GC_exclude_static_roots(start: *mut c_void, end: *mut c_void) {
    heap::gc();
    heap::locked(|| {
        let state = state();
        if start < end && !state.excluded.push((start.addr(), end.addr())) {
            settings::fatal(c"no memory for the list of roots\n");
        }
        state.is_known = false;
    });
}

/// Whether an address lies in a root that is known.
pub(crate) fn holds(address: usize) -> bool {
    heap::locked(|| {
        let state = state();
        let lists = [state.added.as_slice(), state.loaded.as_slice()];
        lists.into_iter().flatten().any(|known| (known.start..known.end).contains(&address))
    })
}

/// Opens a library. Nothing is collected meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_dlopen(path: *const c_char, mode: c_int) -> *mut c_void {
    settings::GC_disable();
    // SAFETY: the caller's arguments.
    let library = unsafe { libc::dlopen(path, mode) };
    settings::GC_enable();
    library
}

/// Returns its argument if the collector looks there; else the program is told, which ends it.
#[unsafe(no_mangle)]
pub extern "C" fn GC_is_visible(place: *mut c_void) -> *mut c_void {
    heap::gc();
    let at = place.addr();
    let on_stack = || {
        let mut found = false;
        let here = (&raw const place).addr();
        if let Some(record) = threads::mine() {
            found = (here..record.bottom()).contains(&at);
        }
        found
    };
    let in_object = || heap::gc().parts.objects().find(Address(at)).is_some();
    if !on_stack() && !in_object() && !holds(at) {
        heap::locked(refresh);
        if !holds(at) {
            settings::fatal(c"GC_is_visible: an address that the collector does not look at\n");
        }
    }
    place
}
