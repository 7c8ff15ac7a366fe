//! The threads whose stacks are roots, and what each has for itself.
//!
//! A *record* stands for a thread from its registration to its end. Records are blocks of the process heap in a list that
//! only grows; those of threads that ended are used again. A thread is registered by `GC_pthread_create`, by
//! `GC_register_my_thread`, or by its first allocation: a thread that nobody announced is as safe as any other.
//!
//! ```text
//!           register               do_blocking              world stops
//!   Free ─────────────▶ Running ───────────────▶ Blocked ─────────────────▶ Held
//!    ▲                   │  ▲  ◀───────────────          ◀─────────────────
//!    │       unregister  │  │       returns               world goes on
//!    └───────────────────┤  │
//!            signal      ▼  │ world goes on
//!                       Stopped
//! ```
//!
//! A stack is scanned from the stack pointer at which its thread stopped up to its *bottom*. Where the program switches
//! stacks behind our back, the pointer may lie on another stack than the bottom: then the whole of the thread's own stack
//! is scanned, as far as it is mapped. Sections that a blocked thread left behind (`GC_call_with_gc_active`) are passed
//! over.
//!
//! # Safety
//! A record's cells are written by its thread, or, while that stands still, by whoever stopped it. Its caches are its
//! thread's alone in the same sense.

use crate::heap::{self, POOLS};
use crate::settings;
use crate::tls::{self, Inside};
use core::arch::naked_asm;
use core::cell::Cell;
use core::ffi::{c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use spanheap::base::sync;
use spanheap::front::process;
use spanheap::object::ObjectCache;

/// What a thread is doing, as far as stopping is concerned.
pub(crate) mod state {
    /// The record is nobody's.
    pub(crate) const FREE: u32 = 0;
    /// It must be stopped by a signal.
    pub(crate) const RUNNING: u32 = 1;
    /// It touches no objects; its stack is as it was when it said so.
    pub(crate) const BLOCKED: u32 = 2;
    /// It stands still.
    pub(crate) const STOPPED: u32 = 3;
    /// It is blocked, and must not come back while the world stands.
    pub(crate) const HELD: u32 = 4;
}

/// General registers in a signal's frame.
pub(crate) const REGISTERS: usize = 23;

/// What is known of a thread.
#[repr(C, align(64))]
pub struct Record {
    /// See [`state`].
    pub(crate) state: AtomicU32,
    /// The kernel's number for the thread.
    pub(crate) number: AtomicU32,
    next: AtomicPtr<Record>,
    /// Where the stack ends that it stopped on.
    pub(crate) pointer: Cell<usize>,
    /// Where its stack begins; of the main thread, `GC_stackbottom` says so.
    bottom: Cell<usize>,
    /// The stack that the system gave it.
    stack: Cell<(usize, usize)>,
    /// Its static thread-local variables, where they are not a part of the stack.
    locals: Cell<(usize, usize)>,
    is_main: Cell<bool>,
    /// What it left behind when it became active again inside of `GC_do_blocking`.
    section: Cell<*const Section>,
    /// The registers with which the signal found it.
    pub(crate) registers: [Cell<usize>; REGISTERS],
    /// How deep it is in finalizers.
    pub(crate) finalizing: Cell<u32>,
    /// What it allocates from, by pool.
    sides: [AtomicPtr<Side>; POOLS],
}

// SAFETY: the head of this file.
unsafe impl Sync for Record {}

/// What a thread has of a pool.
#[repr(C)]
pub(crate) struct Side {
    pub(crate) cache: ObjectCache,
    /// Slots that were freed, by code, each leading to the next.
    pub(crate) freed: [*mut u8; 256],
}

/// A part of a stack that is in use and not scanned, from here down to where it blocked.
#[repr(C)]
struct Section {
    saved: usize,
    above: *const Section,
}

static FIRST: AtomicPtr<Record> = AtomicPtr::new(ptr::null_mut());

/// Every record, in use or not.
pub(crate) fn all() -> impl Iterator<Item = &'static Record> {
    let mut at = FIRST.load(Ordering::Acquire);
    core::iter::from_fn(move || {
        // SAFETY: records stay, and are whole before they are in the list.
        let record = unsafe { at.as_ref() }?;
        at = record.next.load(Ordering::Relaxed);
        Some(record)
    })
}

/// Every record that stands for a thread.
pub(crate) fn alive() -> impl Iterator<Item = &'static Record> {
    all().filter(|record| record.state.load(Ordering::Acquire) != state::FREE)
}

/// The calling thread's record, if it has one.
pub(crate) fn mine() -> Option<&'static Record> {
    // SAFETY: records are never freed.
    unsafe { tls::words().record.get().as_ref() }
}

/// Registers the calling thread with the stack that the system gave it.
#[cold]
pub(crate) fn register_here() -> &'static Record {
    heap::gc();
    if let Some(record) = mine() {
        return record;
    }
    let stack = own_stack();
    let is_main = number() == process_number();
    let locals = if is_main { static_locals() } else { (0, 0) };
    // While the lock is held no world is stopped, so the thread comes in with its whole record or not at all.
    let record = heap::locked(|| {
        let _inside = Inside::enter();
        let free = |record: &&Record| record.state.load(Ordering::Relaxed) == state::FREE;
        let record = all().find(free).unwrap_or_else(add);
        record.stack.set(stack);
        record.bottom.set(stack.1);
        record.locals.set(locals);
        record.is_main.set(is_main);
        record.section.set(ptr::null());
        record.finalizing.set(0);
        record.number.store(number(), Ordering::Relaxed);
        record.state.store(state::RUNNING, Ordering::Release);
        let words = tls::words();
        words.record.set(record);
        if !settings::is_stressing() {
            words.cache.set(&raw mut record.side(heap::COMMON).cache);
        }
        record
    });
    if is_main {
        settings::set_main_bottom(stack.1);
    }
    // The heap learns of the thread through the hook, which sees to it that the end is announced.
    heap::gc().parts.with_work(|_| ());
    record
}

/// A new record, in the list and nobody's.
fn add() -> &'static Record {
    let memory = process::allocate_zeroed(size_of::<Record>(), align_of::<Record>()).cast::<Record>();
    // SAFETY: zeros are a record that is nobody's.
    let Some(record) = (unsafe { memory.as_ref() }) else {
        settings::fatal(c"no memory for another thread\n")
    };
    // Records are added under the lock.
    record.next.store(FIRST.load(Ordering::Relaxed), Ordering::Relaxed);
    FIRST.store(memory, Ordering::Release);
    record
}

impl Record {
    /// What the thread has of a pool.
    pub(crate) fn side(&self, pool: usize) -> &'static mut Side {
        let mut at = self.sides[pool].load(Ordering::Acquire);
        if at.is_null() {
            at = process::allocate_zeroed(size_of::<Side>(), align_of::<Side>()).cast();
            if at.is_null() {
                settings::fatal(c"no memory for a thread's cache\n")
            }
            // SAFETY: zeroed memory is an empty side.
            unsafe { (*at).cache.open(heap::gc().purpose(pool)) };
            self.sides[pool].store(at, Ordering::Release);
        }
        // SAFETY: the head of this file; it stays as long as the process.
        unsafe { &mut *at }
    }

    /// What the thread has, of all pools that it ever used.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &'static mut Side> {
        // SAFETY: the thread stands still, or is the calling one.
        self.sides.iter().filter_map(|side| unsafe { side.load(Ordering::Acquire).as_mut() })
    }

    /// Where its stack begins.
    pub(crate) fn bottom(&self) -> usize {
        if self.is_main.get() { settings::main_bottom() } else { self.bottom.get() }
    }

    pub(crate) fn set_bottom(&self, bottom: usize) {
        self.bottom.set(bottom);
        if self.is_main.get() {
            settings::set_main_bottom(bottom);
        }
    }

    /// The parts of its stack that are scanned, and what else of its own. The thread stands still, or has noted its
    /// stack pointer.
    pub(crate) fn for_each_range(&self, mut visit: impl FnMut(usize, usize)) {
        let mut from = self.pointer.get();
        let mut section = self.section.get();
        // SAFETY: sections stand on the stack of a thread that stands still.
        while let Some(&Section { saved, above }) = unsafe { section.as_ref() } {
            self.visit_stack(from, section.addr(), &mut visit);
            (from, section) = (saved, above);
        }
        self.visit_stack(from, self.bottom(), &mut visit);
        let registers = self.registers.as_ptr().addr();
        visit(registers, registers + REGISTERS * 8);
        let (start, end) = self.locals.get();
        visit(start, end);
    }

    fn visit_stack(&self, from: usize, to: usize, visit: &mut impl FnMut(usize, usize)) {
        let (low, high) = self.stack.get();
        let is_own = |at: usize| (low..=high).contains(&at);
        if is_own(from) == is_own(to) && from <= to {
            visit(from, to);
        } else if is_own(to) {
            // The thread is elsewhere; its own stack may hold frames at any depth.
            visit(lowest_mapped(low, to), to);
        }
    }
}

/// The lowest address from which on a stack is mapped up to `high`, as far as `low`.
fn lowest_mapped(low: usize, high: usize) -> usize {
    const STEP: usize = 64 << 10;
    let mut resident = [0_u8; STEP / 4096];
    let mut at = high & !(STEP - 1);
    while at > low {
        let below = (at - STEP).max(low.next_multiple_of(4096));
        // SAFETY: the kernel writes a byte for each page of the step.
        let mapped = unsafe {
            libc::mincore(ptr::without_provenance_mut(below), at - below, resident.as_mut_ptr()) == 0
        };
        if !mapped || below == at {
            break;
        }
        at = below;
    }
    at
}

pub(crate) fn number() -> u32 {
    // SAFETY: the call has no arguments.
    unsafe { libc::gettid() as u32 }
}

fn process_number() -> u32 {
    // SAFETY: the call has no arguments.
    unsafe { libc::getpid() as u32 }
}

/// The stack that the system gave the calling thread: where it ends, and where it begins.
fn own_stack() -> (usize, usize) {
    let mut attributes = MaybeUninit::uninit();
    let (mut start, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the C library fills the attributes of a thread that runs, and is told when they are done with.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            settings::fatal(c"the C library does not know this thread's stack\n");
        }
        libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    (start.addr(), start.addr() + size)
}

/// Bytes of the C library's own description of a thread, which holds values of `pthread_setspecific`.
const DESCRIPTION: usize = 2304;
/// Static thread-local variables lie so near to the thread pointer.
const NEAR: usize = 1 << 20;

/// The static thread-local variables of the main thread, and the C library's description of it. Those of other threads
/// lie on their stacks.
fn static_locals() -> (usize, usize) {
    struct Lowest {
        pointer: usize,
        lowest: usize,
    }
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, size: usize, lowest: *mut c_void) -> c_int {
        // SAFETY: the loader hands in what it documents, and what it was given.
        unsafe {
            let lowest = &mut *lowest.cast::<Lowest>();
            let reach = core::mem::offset_of!(libc::dl_phdr_info, dlpi_tls_data) + size_of::<usize>();
            let at = if size >= reach { (*info).dlpi_tls_data.addr() } else { 0 };
            if at != 0 && at < lowest.pointer && lowest.pointer - at < NEAR {
                lowest.lowest = lowest.lowest.min(at);
            }
        }
        0
    }
    let pointer = thread_pointer();
    let mut lowest = Lowest { pointer, lowest: pointer };
    // SAFETY: the function has the form that is asked for, and the value lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut lowest).cast()) };
    (lowest.lowest, pointer + DESCRIPTION)
}

fn thread_pointer() -> usize {
    let pointer;
    // SAFETY: the first word of a thread's block is its own address.
    unsafe {
        core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(pure, readonly, nostack))
    };
    pointer
}

/// The calling thread's record becomes nobody's; what its caches have waits for the next thread, or goes back when the
/// world is stopped next.
pub(crate) fn unregister_here() {
    let words = tls::words();
    let Some(record) = mine() else { return };
    heap::locked(|| {
        let _inside = Inside::enter();
        words.cache.set(tls::nobody());
        words.record.set(ptr::null());
        record.state.store(state::FREE, Ordering::Release);
    });
}

/// After a `fork`, in the child: the other threads are not there. The lock is held.
pub(crate) fn forget_others() {
    let me = mine().map_or(ptr::null(), ptr::from_ref);
    for record in alive().filter(|record| !ptr::eq(*record, me)) {
        record.state.store(state::FREE, Ordering::Release);
    }
    if let Some(record) = mine() {
        record.number.store(number(), Ordering::Relaxed);
        record.is_main.set(true);
        settings::set_main_bottom(record.bottom.get().max(record.stack.get().1));
    }
}

/// Calls `work(argument, data, stack pointer)` with the registers that a function keeps on the stack.
#[unsafe(naked)]
pub(crate) extern "C" fn with_registers(
    _work: extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    _argument: *mut c_void,
    _data: *mut c_void,
) -> *mut c_void {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbp, 0",
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbx, 0",
        "push r12",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r12, 0",
        "push r13",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r13, 0",
        "push r14",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r14, 0",
        "push r15",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r15, 0",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rsp",
        "call rax",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pop r15",
        ".cfi_adjust_cfa_offset -8",
        "pop r14",
        ".cfi_adjust_cfa_offset -8",
        "pop r13",
        ".cfi_adjust_cfa_offset -8",
        "pop r12",
        ".cfi_adjust_cfa_offset -8",
        "pop rbx",
        ".cfi_adjust_cfa_offset -8",
        "pop rbp",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
    )
}

/// A stack's beginning, as the headers have it.
#[repr(C)]
pub struct StackBase {
    mem_base: *mut c_void,
}

/// A function of the program's that blocks.
type Blocking = extern "C" fn(*mut c_void) -> *mut c_void;

/// Calls `work(data)`, during which the calling thread does not touch objects and is not stopped.
#[unsafe(no_mangle)]
pub extern "C" fn GC_do_blocking(work: Blocking, data: *mut c_void) -> *mut c_void {
    extern "C" fn blocking(work: *mut c_void, data: *mut c_void, pointer: usize) -> *mut c_void {
        // SAFETY: the pointer is that of the function below.
        let work: Blocking = unsafe { core::mem::transmute(work) };
        let record = tls::words().known();
        let before = record.pointer.replace(pointer);
        let was = record.state.load(Ordering::Relaxed);
        leave_heap(record);
        let done = work(data);
        if was == state::RUNNING {
            come_back(record);
        }
        record.pointer.set(before);
        done
    }
    heap::gc();
    with_registers(blocking, work as *mut c_void, data)
}

/// From here on the thread touches no objects.
fn leave_heap(record: &Record) {
    let change = (state::RUNNING, state::BLOCKED);
    let _ = record.state.compare_exchange(change.0, change.1, Ordering::AcqRel, Ordering::Relaxed);
    // Somebody who is stopping the world may wait for this.
    sync::wake_all(&record.state);
}

/// The thread touches objects again, as soon as the world goes on.
fn come_back(record: &Record) {
    loop {
        let change = (state::BLOCKED, state::RUNNING);
        match record.state.compare_exchange(change.0, change.1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) if now == state::HELD => sync::wait(&record.state, state::HELD),
            Err(_) => return,
        }
    }
}

/// Calls `work(data)`; if the thread was blocked, it is active meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn GC_call_with_gc_active(work: Blocking, data: *mut c_void) -> *mut c_void {
    heap::gc();
    let record = tls::words().known();
    let here = (&raw const data).addr();
    let own = record.stack.get();
    if record.section.get().is_null() && here > record.bottom() && (own.0..own.1).contains(&here) {
        record.set_bottom(here);
    }
    if record.state.load(Ordering::Relaxed) == state::RUNNING {
        return work(data);
    }
    let section = Section { saved: record.pointer.get(), above: record.section.get() };
    come_back(record);
    record.section.set(&raw const section);
    let done = work(data);
    record.section.set(section.above);
    record.pointer.set(section.saved);
    leave_heap(record);
    done
}

/// Calls `work(base, data)` with where the calling thread's stack begins.
#[unsafe(no_mangle)]
pub extern "C" fn GC_call_with_stack_base(
    work: extern "C" fn(*mut StackBase, *mut c_void) -> *mut c_void,
    data: *mut c_void,
) -> *mut c_void {
    let mut base = StackBase { mem_base: ptr::null_mut() };
    base.mem_base = (&raw mut base).cast();
    work(&mut base, data)
}

/// Where the calling thread's stack begins; returns 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_get_stack_base(base: *mut StackBase) -> c_int {
    // SAFETY: the header's promise.
    unsafe { (*base).mem_base = ptr::without_provenance_mut(own_stack().1) };
    0
}

/// Threads may be registered: they always may.
#[unsafe(no_mangle)]
pub extern "C" fn GC_allow_register_threads() {
    heap::gc();
}

/// `GC_SUCCESS`.
const SUCCESS: c_int = 0;
/// `GC_DUPLICATE`.
const DUPLICATE: c_int = 1;

/// Registers the calling thread, whose stack begins at `base`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_register_my_thread(base: *const StackBase) -> c_int {
    heap::gc();
    if mine().is_some() {
        return DUPLICATE;
    }
    let record = register_here();
    // SAFETY: the header's promise.
    let bottom = unsafe { base.as_ref() }.map_or(0, |base| base.mem_base.addr());
    let (low, high) = record.stack.get();
    // Of the stack that the system gave the thread all is scanned, which is more, and has its variables.
    if bottom != 0 && !(low..=high).contains(&bottom) {
        record.set_bottom(bottom);
    }
    SUCCESS
}

/// Whether the calling thread is registered.
#[unsafe(no_mangle)]
pub extern "C" fn GC_thread_is_registered() -> c_int {
    mine().is_some().into()
}

/// The calling thread's stack is no root any more.
#[unsafe(no_mangle)]
pub extern "C" fn GC_unregister_my_thread() -> c_int {
    unregister_here();
    SUCCESS
}

/// Where the calling thread's stack begins, as it is scanned, and its handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_get_my_stackbottom(base: *mut StackBase) -> *mut c_void {
    heap::gc();
    let record = tls::words().known();
    // SAFETY: the header's promise.
    unsafe { (*base).mem_base = ptr::without_provenance_mut(record.bottom()) };
    ptr::from_ref(record).cast_mut().cast()
}

/// Says where a thread's stack begins from here on; null is the calling thread. The world is stopped, or the thread the
/// calling one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn GC_set_stackbottom(handle: *mut c_void, base: *const StackBase) {
    // SAFETY: handles are records, which stay; the header's promise.
    unsafe {
        let bottom = (*base).mem_base.addr();
        match handle.cast::<Record>().as_ref() {
            Some(record) => record.set_bottom(bottom),
            None if heap::existing().is_none() => settings::set_main_bottom(bottom),
            None => tls::words().known().set_bottom(bottom),
        }
    }
}

/// Scans a stack that the program names as a part of the calling thread's: only `GC_push_all_eager` does that.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_thr_restart_signal() -> c_int {
    settings::restart_signal()
}

/// The signal that stops threads.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_suspend_signal() -> c_int {
    settings::suspend_signal()
}

/// Where the main thread's stack begins. Programs that run on stacks of their own write it as they switch.
#[unsafe(no_mangle)]
pub static mut GC_stackbottom: *mut c_char = ptr::null_mut();
