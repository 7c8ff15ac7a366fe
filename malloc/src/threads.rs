//! Threads of an unmodified program on stacks of the heap: `SPANHEAP_CONF=thread_stacks:on`.
//!
//! `pthread_create` is answered here, and handed on with attributes that name a stack of ours. So the stacks of a
//! program's threads stand in the books, under `threads`, and are used again without a system call. Whatever stands in the
//! way (no memory, a stack that the program brings itself, a guard larger than ours), the call is handed on as it
//! was. Attributes that the program gave stay as they are but for the stack.
//!
//! ## When a stack is free again
//!
//! The C library keeps its record of a thread at the top of the thread's stack, and the kernel works on it to the
//! very end. So a stack is free
//!
//! - when a `pthread_join` of its thread has succeeded: by then the kernel and the C library have done with both;
//! - or, if nobody joins, when the thread is *detached*, has *ended* (the destructors of its keys have run), and the
//!   kernel does not know its number any more. The C library has then done with its record too, since a detached thread
//!   removes it before its last system call.
//!
//! ```text
//!   running ──▶ ended ─────────┐
//!      │                       ├──▶ in the graveyard ──▶ the kernel says ESRCH ──▶ free
//!      └──────▶ detached ─────┘
//!      └──────▶ joined ───────────────────────────────────────────────────────▶ free
//! ```
//!
//! The graveyard is looked through when a thread is created. It is a stack without a lock, so a `fork` finds it whole; in
//! the child the other threads are gone, and stacks of those that were alive stay in its books.
//!
//! `pthread_join` can be cancelled, and `pthread_exit` unwinds the caller's frames: the C library throws through whatever
//! stands between. Rust does not let that pass. So what stands there is a few instructions with the unwinder's notes
//! beside them: they save the arguments, ask this file what to do, and jump.
//!
//! # Safety
//! Called by C code, which keeps the contract of these functions. A thread's record is made before the thread and freed
//! with its stack, by whoever finds that the thread is gone; each of the ways above happens once.

use core::arch::naked_asm;
use core::ffi::{CStr, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use libc::{pthread_attr_t, pthread_t};
use spanheap::base::{Address, PurposeId};
use spanheap::front::process;
use spanheap::{Bytes, Guard, Heap, RawStack, Stack};

/// Runs on a thread's stack when it begins.
type Begin = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Begin, *mut c_void) -> c_int;

/// A thread on a stack of ours.
struct Thread {
    /// What the program wants to run.
    start: Begin,
    argument: *mut c_void,
    stack: RawStack,
    /// The kernel's number.
    number: AtomicI32,
    /// [`DETACHED`], [`ENDED`].
    state: AtomicU32,
    /// The next in the graveyard.
    next: *mut Thread,
}

unsafe extern "C" {
    /// Which the crate `libc` leaves out.
    fn pthread_attr_getdetachstate(attributes: *const pthread_attr_t, state: *mut c_int) -> c_int;
}

const DETACHED: u32 = 1;
const ENDED: u32 = 2;

/// Detached threads that have ended and may not be gone yet.
static GRAVEYARD: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());

/// The C library's own functions.
#[repr(u32)]
#[derive(Clone, Copy)]
enum Real {
    Create,
    Detach,
    Join,
    TryJoin,
    TimedJoin,
    ClockJoin,
}

static REAL: [AtomicPtr<c_void>; 6] = [const { AtomicPtr::new(ptr::null_mut()) }; 6];
const NAMES: [&CStr; 6] = [
    c"pthread_create",
    c"pthread_detach",
    c"pthread_join",
    c"pthread_tryjoin_np",
    c"pthread_timedjoin_np",
    c"pthread_clockjoin_np",
];

/// The function behind ours.
fn real(which: Real) -> *mut c_void {
    let known = REAL[which as usize].load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: a name, and the libraries behind this one.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, NAMES[which as usize].as_ptr()) };
    // Answers with "no such function", which is what a library without it comes to.
    let found = if found.is_null() { missing as *mut c_void } else { found };
    REAL[which as usize].store(found, Ordering::Relaxed);
    found
}

extern "C" fn missing() -> c_int {
    libc::ENOSYS
}

/// Creates a thread: on a stack of the heap, if the configuration wants that and nothing stands in the way.
///
/// # Safety
/// As POSIX says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: Begin,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the function has this form.
    let create = unsafe { core::mem::transmute::<*mut c_void, Create>(real(Real::Create)) };
    // SAFETY: the caller's arguments.
    unsafe {
        if process::wants_thread_stacks()
            && let Some(plan) = Plan::new(attributes)
            && let Some(made) = plan.prepare(start, argument)
        {
            let error = create(thread, plan.with_stack(made).as_ptr(), begin_thread, made.cast());
            if error != 0 {
                free(made);
            }
            return error;
        }
        create(thread, attributes, start, argument)
    }
}

/// What a thread's stack must be like.
struct Plan {
    size: Bytes,
    guard: Guard,
    detached: bool,
    attributes: pthread_attr_t,
}

impl Plan {
    /// What the attributes say; `None` where they want what we do not have.
    unsafe fn new(given: *const pthread_attr_t) -> Option<Plan> {
        let mut attributes = MaybeUninit::uninit();
        let (mut address, mut size, mut guard, mut state) = (ptr::null_mut(), 0, 0, 0);
        // SAFETY: the attributes are initialised, by the program or here. A copy is as good as the original as long as
        // that lives, and is not destroyed: it holds what the original holds.
        let attributes = unsafe {
            match given.is_null() {
                true if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 => return None,
                true => {}
                false => attributes.as_mut_ptr().copy_from_nonoverlapping(given, 1),
            }
            let attributes = attributes.assume_init();
            let known = libc::pthread_attr_getstack(&attributes, &mut address, &mut size) == 0
                && libc::pthread_attr_getguardsize(&attributes, &mut guard) == 0
                && pthread_attr_getdetachstate(&attributes, &mut state) == 0;
            // Where none was set, glibc says that the stack ends at address zero.
            if !known || address.addr().wrapping_add(size) != 0 {
                return None;
            }
            // The default size, which a limit on the process may have set.
            if size == 0 && libc::pthread_attr_getstacksize(&attributes, &mut size) != 0 {
                return None;
            }
            attributes
        };
        let detached = state == libc::PTHREAD_CREATE_DETACHED;
        let plan = |guard| Some(Plan { size: Bytes(size), guard, detached, attributes });
        match guard {
            0 => plan(Guard::No),
            guard if guard <= spanheap::stack::class::SMALL_GUARD.0 => plan(Guard::Yes),
            _ => None,
        }
    }

    /// Makes a thread's record, and its stack.
    fn prepare(&self, start: Begin, argument: *mut c_void) -> Option<*mut Thread> {
        reap();
        let heap = process::heap()?;
        key()?;
        let stack = Stack::allocate(heap, purpose(heap), self.size, self.guard).ok()?;
        let record = process::allocate(size_of::<Thread>()).cast::<Thread>();
        if record.is_null() {
            return None;
        }
        stack.set_word(record.expose_provenance());
        let state = AtomicU32::new(if self.detached { DETACHED } else { 0 });
        let stack = stack.into_raw();
        let thread =
            Thread { start, argument, stack, number: AtomicI32::new(0), state, next: ptr::null_mut() };
        // SAFETY: fresh memory of that size.
        unsafe { record.write(thread) };
        Some(record)
    }

    /// The attributes with a stack of ours in them.
    unsafe fn with_stack(&self, thread: *mut Thread) -> MaybeUninit<pthread_attr_t> {
        let mut attributes = MaybeUninit::new(self.attributes);
        // SAFETY: the record was just made, and its stack is nobody else's.
        unsafe {
            let stack = (*thread).stack;
            let done = libc::pthread_attr_setstack(
                attributes.as_mut_ptr(),
                stack.limit().as_ptr().cast(),
                stack.size().0,
            );
            debug_assert_eq!(done, 0, "a stack that the C library does not take");
        }
        attributes
    }
}

/// The purpose of the stacks of threads.
fn purpose(heap: &'static Heap) -> PurposeId {
    /// Not declared yet.
    const UNKNOWN: u8 = u8::MAX;
    static PURPOSE: AtomicU8 = AtomicU8::new(UNKNOWN);
    match PURPOSE.load(Ordering::Relaxed) {
        UNKNOWN => {
            // Another thread may have been faster; then it is there, and known a moment later.
            let Ok(declared) = heap.declare_stacks("threads") else { return heap.stacks().id() };
            PURPOSE.store(declared.id().0, Ordering::Relaxed);
            declared.id()
        }
        known => PurposeId(known),
    }
}

/// The key whose destructor says that a thread of ours has ended.
fn key() -> Option<libc::pthread_key_t> {
    const NO_KEY: u64 = u64::MAX;
    static KEY: AtomicU64 = AtomicU64::new(NO_KEY);
    let known = KEY.load(Ordering::Acquire);
    if known != NO_KEY {
        return Some(known as libc::pthread_key_t);
    }
    let mut key = 0;
    // SAFETY: the destructor is a function of this library, which is never unloaded.
    if unsafe { libc::pthread_key_create(&mut key, Some(thread_ends)) } != 0 {
        return None;
    }
    match KEY.compare_exchange(NO_KEY, key.into(), Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(key),
        Err(other) => {
            // SAFETY: the key was just made, and nobody knows it.
            unsafe { libc::pthread_key_delete(key) };
            Some(other as libc::pthread_key_t)
        }
    }
}

/// Two values that come back in registers.
#[repr(C)]
struct Pair(*mut c_void, *mut c_void);

/// The first instructions of a thread: what it runs is called by the C library's frame, as far as an unwinder sees.
#[unsafe(naked)]
extern "C" fn begin_thread(_thread: *mut c_void) -> *mut c_void {
    naked_asm!(
        "sub rsp, 8",
        "call {ready}",
        "add rsp, 8",
        "mov rdi, rdx",
        "jmp rax",
        ready = sym ready,
    )
}

/// Notes who runs here. Returns what the program wants to run, and its argument.
extern "C" fn ready(thread: *mut c_void) -> Pair {
    let thread = thread.cast::<Thread>();
    // SAFETY: the record lives as long as its thread.
    unsafe {
        (*thread).number.store(libc::gettid(), Ordering::Relaxed);
        if let Some(key) = key() {
            libc::pthread_setspecific(key, thread.cast());
        }
        Pair((*thread).start as *mut c_void, (*thread).argument)
    }
}

extern "C" fn thread_ends(thread: *mut c_void) {
    // SAFETY: the record that `ready` set; the thread is still here.
    unsafe { note(thread.cast(), ENDED) }
}

/// Notes one of the two things that make a thread's stack free, and buries the thread when it was the second.
unsafe fn note(thread: *mut Thread, what: u32) {
    // SAFETY: the record lives until both are noted, and then until it is found in the graveyard.
    unsafe {
        let before = (*thread).state.fetch_or(what, Ordering::AcqRel);
        if before | what == DETACHED | ENDED && before != DETACHED | ENDED {
            bury(thread);
        }
    }
}

unsafe fn bury(thread: *mut Thread) {
    let mut first = GRAVEYARD.load(Ordering::Relaxed);
    loop {
        // SAFETY: nobody else knows the record now.
        unsafe { (*thread).next = first };
        match GRAVEYARD.compare_exchange_weak(first, thread, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

/// Frees the stacks of those in the graveyard whom the kernel does not know any more.
fn reap() {
    let mut at = GRAVEYARD.swap(ptr::null_mut(), Ordering::Acquire);
    while !at.is_null() {
        let thread = at;
        // SAFETY: whoever took the list has its records alone.
        unsafe {
            at = (*thread).next;
            let number = (*thread).number.load(Ordering::Relaxed);
            let unknown = libc::syscall(libc::SYS_tgkill, libc::getpid(), number, 0) != 0
                && *libc::__errno_location() == libc::ESRCH;
            // The number may be another thread's by now: then this one waits until that is gone too.
            if unknown { free(thread) } else { bury(thread) }
        }
    }
}

/// Frees a thread's record and stack.
///
/// # Safety
/// The thread is gone, or never was.
unsafe fn free(thread: *mut Thread) {
    // SAFETY: the stack was let go of when the record was made, and nobody knows the record any more.
    unsafe {
        let stack = (*thread).stack;
        process::free(thread.cast());
        if let Some(heap) = process::heap() {
            drop(Stack::from_raw(heap, stack));
        }
    }
}

/// The record of a thread that is not joined yet, if it is one of ours: the C library names a thread by the address of
/// its own record, which lies in the thread's stack.
fn record_of(thread: pthread_t) -> *mut Thread {
    if !process::wants_thread_stacks() {
        return ptr::null_mut();
    }
    let word = process::heap().and_then(|heap| heap.holders_word(Address(thread as usize)));
    ptr::with_exposed_provenance_mut(word.unwrap_or(0))
}

/// Lets a thread go.
///
/// # Safety
/// As POSIX says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_detach(thread: pthread_t) -> c_int {
    let record = record_of(thread);
    // SAFETY: the function has this form, and the argument is the caller's. If the thread was not detached before, its
    // record lives until that is noted.
    unsafe {
        let detach =
            core::mem::transmute::<*mut c_void, unsafe extern "C" fn(pthread_t) -> c_int>(real(Real::Detach));
        let error = detach(thread);
        if error == 0 && !record.is_null() {
            note(record, DETACHED);
        }
        error
    }
}

/// Before a thread is joined: the function that does it, and the thread's record.
extern "C" fn before_join(thread: pthread_t, which: Real) -> Pair {
    Pair(real(which), record_of(thread).cast())
}

/// After it: the thread is gone, if there was no error.
extern "C" fn after_join(record: *mut c_void, error: c_int) -> c_int {
    if error == 0 && !record.is_null() {
        // SAFETY: it was joined, which happens once.
        unsafe { free(record.cast()) };
    }
    error
}

/// A function that waits for a thread, with up to four arguments: it hands them on, and has a look before and after.
/// A thread that waits can be cancelled, hence the notes for the unwinder.
macro_rules! join {
    ($name:ident, $which:ident) => {
        /// Waits for a thread.
        ///
        /// # Safety
        /// As POSIX or glibc's manual says.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                ".cfi_startproc",
                "push rbx",
                ".cfi_adjust_cfa_offset 8",
                ".cfi_rel_offset rbx, 0",
                "sub rsp, 32",
                ".cfi_adjust_cfa_offset 32",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov esi, {which}",
                "call {before}",
                "mov rbx, rdx",
                "mov rdi, [rsp]",
                "mov rsi, [rsp + 8]",
                "mov rdx, [rsp + 16]",
                "mov rcx, [rsp + 24]",
                "call rax",
                "mov rdi, rbx",
                "mov esi, eax",
                "add rsp, 32",
                ".cfi_adjust_cfa_offset -32",
                "pop rbx",
                ".cfi_adjust_cfa_offset -8",
                ".cfi_restore rbx",
                "jmp {after}",
                ".cfi_endproc",
                which = const Real::$which as u32,
                before = sym before_join,
                after = sym after_join,
            )
        }
    };
}

join!(pthread_join, Join);
join!(pthread_tryjoin_np, TryJoin);
join!(pthread_timedjoin_np, TimedJoin);
join!(pthread_clockjoin_np, ClockJoin);
