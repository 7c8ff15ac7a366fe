//! What programs and the environment set, and what the library says.
//!
//! Settings are words that are read where they matter. Some of Boehm's are data that programs write directly; those stand
//! here under their own names, and their setters write them.
//!
//! The environment is read when the heap is made: `GC_INITIAL_HEAP_SIZE`, `GC_MAXIMUM_HEAP_SIZE` (a number, with `k`,
//! `m`, `g` or `t` behind it), `GC_FREE_SPACE_DIVISOR`, `GC_DONT_GC`, `GC_MARKERS`, `GC_NPROCS`, `GC_PRINT_STATS`,
//! `GC_LOG_FILE`. To find faults, `SPANHEAP_GC_STRESS` collects at every so many allocations: then
//! no thread has a fast path, so each of them is counted (a chain of `GC_malloc_many` as one).
//!
//! # Safety
//! Data of programs' own is read and written as single words; setters are called by one thread at a time, as the headers
//! ask.

#![allow(static_mut_refs, reason = "words that programs write from C; they are copied, never borrowed")]

use crate::{heap, hints};
use core::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use core::fmt::{self, Write};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use spanheap::Bytes;

/// A function that is asked for memory when there is none. It may jump or throw past us.
pub type OutOfMemory = extern "C" fn(usize) -> *mut c_void;
/// A function that is told what looks wrong: a format for `printf`, and its one word.
pub type Warn = extern "C" fn(*const c_char, usize);
/// A function without arguments.
pub type Callback = extern "C" fn();

static SUSPEND: AtomicI32 = AtomicI32::new(libc::SIGPWR);
static RESTART: AtomicI32 = AtomicI32::new(libc::SIGXCPU);
static INITIAL: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
static MARKERS: AtomicUsize = AtomicUsize::new(0);
static STRESS: AtomicUsize = AtomicUsize::new(0);
/// Allocations, while they are counted.
static COUNTED: AtomicUsize = AtomicUsize::new(0);
static PRINT: AtomicI32 = AtomicI32::new(0);
static LOG: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

/// A setting that is a word of the program's: its data symbol, setter and getter.
macro_rules! word {
    ($(#[$doc:meta])* $name:ident: $type:ty = $value:expr, $set:ident, $get:ident) => {
        $(#[$doc])*
        pub static mut $name: $type = $value;

        /// Sets the word of the same name.
        #[unsafe(no_mangle)]
        pub extern "C" fn $set(value: $type) {
            // SAFETY: a word; see the head of this file.
            unsafe { $name = value }
        }

        /// The word of the same name.
        #[unsafe(no_mangle)]
        pub extern "C" fn $get() -> $type {
            // SAFETY: a word; see the head of this file.
            unsafe { $name }
        }
    };
}

pub(crate) use word;

word! {
    /// Whether pointers into the inside of objects count wherever they are. Here they always do.
    #[unsafe(no_mangle)]
    GC_all_interior_pointers: c_int = 1, GC_set_all_interior_pointers, GC_get_all_interior_pointers
}
word! {
    /// Whether libraries' data is no root.
    #[unsafe(no_mangle)]
    GC_no_dls: c_int = 0, GC_set_no_dls, GC_get_no_dls
}
word! {
    /// Whether finalizers run only when the program asks.
    #[unsafe(no_mangle)]
    GC_finalize_on_demand: c_int = 0, GC_set_finalize_on_demand, GC_get_finalize_on_demand
}
word! {
    /// Whether objects with finalizers stay whole until those have run.
    #[unsafe(no_mangle)]
    GC_java_finalization: c_int = 1, GC_set_java_finalization, GC_get_java_finalization
}
word! {
    /// Prefer collecting to growing. The pacer decides; the word is kept for those who ask.
    #[unsafe(no_mangle)]
    GC_dont_expand: c_int = 0, GC_set_dont_expand, GC_get_dont_expand
}
word! {
    /// Whether `GC_init` leaves out a collection. It always does.
    #[unsafe(no_mangle)]
    GC_dont_precollect: c_int = 0, GC_set_dont_precollect, GC_get_dont_precollect
}
word! {
    /// How large a part of the heap is allocated between collections.
    #[unsafe(no_mangle)]
    GC_free_space_divisor: c_ulong = 3, GC_set_free_space_divisor, GC_get_free_space_divisor
}
word! {
    /// How many collections a full one is apart, where collections are partial. Here all are full.
    #[unsafe(no_mangle)]
    GC_full_freq: c_int = 19, GC_set_full_freq, GC_get_full_freq
}
word! {
    /// Milliseconds that a step of an incremental collection may take. Kept for those who ask.
    #[unsafe(no_mangle)]
    GC_time_limit: c_ulong = 50, GC_set_time_limit, GC_get_time_limit
}
word! {
    /// How many bytes of live objects of the program's own the collector should reckon with.
    #[unsafe(no_mangle)]
    GC_non_gc_bytes: usize = 0, GC_set_non_gc_bytes, GC_get_non_gc_bytes
}
word! {
    /// Told once a collection that there are finalizers to run, where those run on demand.
    #[unsafe(no_mangle)]
    GC_finalizer_notifier: Option<Callback> = None, GC_set_finalizer_notifier, GC_get_finalizer_notifier
}
word! {
    /// Called as a collection begins, with the lock held, before threads are stopped.
    START_CALLBACK: Option<Callback> = None, GC_set_start_callback, GC_get_start_callback
}

/// How deep collections are disabled.
#[unsafe(no_mangle)]
pub static mut GC_dont_gc: c_int = 0;

/// Collections that have ended. Programs read it.
#[unsafe(no_mangle)]
pub static mut GC_gc_no: usize = 0;

/// Asked for memory when there is none.
#[unsafe(no_mangle)]
pub static mut GC_oom_fn: OutOfMemory = no_memory;

/// Told of what looks wrong.
static mut WARN: Warn = say_warning;

/// The answer of those who do not ask for another: null.
extern "C" fn no_memory(_: usize) -> *mut c_void {
    ptr::null_mut()
}

unsafe extern "C" {
    /// Which the crate `libc` leaves out.
    fn dprintf(file: c_int, format: *const c_char, ...) -> c_int;
}

extern "C" fn say_warning(format: *const c_char, word: usize) {
    // SAFETY: the format is one of this library's, or of a program that warns through it, and takes one word.
    unsafe { dprintf(LOG.load(Ordering::Relaxed), format, word) };
}

/// Sets who is asked for memory when there is none.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_oom_fn(ask: OutOfMemory) {
    // SAFETY: a word.
    unsafe { GC_oom_fn = ask }
}

/// Who is asked for memory when there is none.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_oom_fn() -> OutOfMemory {
    // SAFETY: a word.
    unsafe { GC_oom_fn }
}

/// Sets who is told of what looks wrong.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_warn_proc(warn: Warn) {
    // SAFETY: a word.
    unsafe { WARN = warn }
}

/// Who is told of what looks wrong.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_warn_proc() -> Warn {
    // SAFETY: a word.
    unsafe { WARN }
}

/// A warning that is said to nobody.
#[unsafe(no_mangle)]
pub extern "C" fn GC_ignore_warn_proc(_: *const c_char, _: usize) {}

/// Warns the program.
pub(crate) fn warn(format: &CStr, word: usize) {
    GC_get_warn_proc()(format.as_ptr(), word);
}

/// Asks the program for memory. It may never return.
#[cold]
#[inline(never)]
pub(crate) fn out_of_memory(size: usize) -> *mut u8 {
    GC_get_oom_fn()(size).cast()
}

/// Nothing may be collected until this is taken back as often.
#[unsafe(no_mangle)]
pub extern "C" fn GC_disable() {
    // SAFETY: a word, under the lock.
    heap::locked(|| unsafe { GC_dont_gc += 1 });
}

/// Takes a `GC_disable` back.
#[unsafe(no_mangle)]
pub extern "C" fn GC_enable() {
    // SAFETY: a word, under the lock.
    heap::locked(|| unsafe { GC_dont_gc = (GC_dont_gc - 1).max(0) });
}

/// Whether collections are disabled.
#[unsafe(no_mangle)]
pub extern "C" fn GC_is_disabled() -> c_int {
    (!may_collect()).into()
}

/// Whether something may be collected.
pub(crate) fn may_collect() -> bool {
    // SAFETY: a word.
    unsafe { (&raw const GC_dont_gc).read_volatile() == 0 }
}

/// Says whether to handle `fork`. It always is.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_handle_fork(_: c_int) {}

/// Collections are always full: incremental ones would cost a fault for every page that is written.
#[unsafe(no_mangle)]
pub extern "C" fn GC_enable_incremental() {
    heap::gc();
}

/// Whether collections are incremental: never.
#[unsafe(no_mangle)]
pub extern "C" fn GC_is_incremental_mode() -> c_int {
    0
}

/// Sets the signal that stops threads; before the heap is made.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_suspend_signal(signal: c_int) {
    if heap::existing().is_none() {
        SUSPEND.store(signal, Ordering::Relaxed);
    }
}

/// Sets the signal that is named to those who ask which one lets threads go on. None is sent for that.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_thr_restart_signal(signal: c_int) {
    if heap::existing().is_none() {
        RESTART.store(signal, Ordering::Relaxed);
    }
}

pub(crate) fn suspend_signal() -> c_int {
    SUSPEND.load(Ordering::Relaxed)
}

pub(crate) fn restart_signal() -> c_int {
    RESTART.load(Ordering::Relaxed)
}

/// Where the main thread's stack begins.
pub(crate) fn main_bottom() -> usize {
    // SAFETY: a word that the program writes as it switches stacks.
    unsafe { (&raw const crate::threads::GC_stackbottom).read_volatile().addr() }
}

pub(crate) fn set_main_bottom(bottom: usize) {
    // SAFETY: a word.
    unsafe { crate::threads::GC_stackbottom = ptr::without_provenance_mut(bottom) }
}

pub(crate) fn free_space_divisor() -> usize {
    GC_get_free_space_divisor() as usize
}

pub(crate) fn initial_heap_size() -> usize {
    INITIAL.load(Ordering::Relaxed)
}

pub(crate) fn is_java() -> bool {
    GC_get_java_finalization() != 0
}

/// The most that the heap may commit; 0: any amount.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_max_heap_size(bytes: usize) {
    MOST.store(bytes, Ordering::Relaxed);
    if let Some(gc) = heap::existing() {
        gc.parts.heap().set_limit((bytes != 0).then_some(Bytes(bytes)));
    }
}

/// How many threads mark.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_markers_count(count: c_uint) {
    MARKERS.store(count as usize, Ordering::Relaxed);
}

/// How many threads mark, the one that collects among them.
pub(crate) fn markers() -> usize {
    match MARKERS.load(Ordering::Relaxed) {
        0 => PROCESSORS.load(Ordering::Relaxed).max(1),
        some => some,
    }
}

/// Threads that mark beside the one that collects.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_parallel() -> c_int {
    markers() as c_int - 1
}

/// Takes in the environment.
pub(crate) fn read_environment() {
    // SAFETY: the call has no pointers.
    let processors = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    PROCESSORS.store(number(c"GC_NPROCS").unwrap_or(processors.max(1) as usize), Ordering::Relaxed);
    if let Some(count) = number(c"GC_MARKERS") {
        MARKERS.store(count.max(1), Ordering::Relaxed);
    }
    if let Some(size) = size(c"GC_INITIAL_HEAP_SIZE") {
        INITIAL.store(size, Ordering::Relaxed);
    }
    let most = size(c"GC_MAXIMUM_HEAP_SIZE").unwrap_or(MOST.load(Ordering::Relaxed));
    if most != 0 {
        GC_set_max_heap_size(most);
    }
    // SAFETY: words, while the heap is made.
    unsafe {
        if let Some(divisor) = number(c"GC_FREE_SPACE_DIVISOR") {
            GC_free_space_divisor = divisor.max(1) as c_ulong;
        }
        if variable(c"GC_DONT_GC").is_some() {
            GC_dont_gc = 1;
        }
    }
    STRESS.store(number(c"SPANHEAP_GC_STRESS").unwrap_or(0), Ordering::Relaxed);
    if let Some(value) = variable(c"GC_PRINT_STATS") {
        PRINT.store(i32::from(value.to_bytes() != b"0"), Ordering::Relaxed);
    }
    if let Some(path) = variable(c"GC_LOG_FILE") {
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: the environment's string.
        let file = unsafe { libc::open(path.as_ptr(), flags, 0o644 as c_uint) };
        if file >= 0 {
            LOG.store(file, Ordering::Relaxed);
        }
    }
}

/// Whether every allocation is counted, since somebody looks for faults.
pub(crate) fn is_stressing() -> bool {
    STRESS.load(Ordering::Relaxed) != 0
}

/// Whether it is time for a collection because somebody looks for faults.
pub(crate) fn is_stressed() -> bool {
    match STRESS.load(Ordering::Relaxed) {
        0 => false,
        _ if !hints::are_automatic() => false,
        every => COUNTED.fetch_add(1, Ordering::Relaxed).is_multiple_of(every),
    }
}

fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: a string; what comes back stands in the environment, which programs do not change while they start.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

fn number(name: &CStr) -> Option<usize> {
    variable(name)?.to_str().ok()?.trim().parse().ok()
}

/// A size as Boehm's collector reads it.
fn size(name: &CStr) -> Option<usize> {
    let text = variable(name)?.to_str().ok()?.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].chars().next().map(|c| c.to_ascii_lowercase()) {
        None => 0,
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        Some(_) => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// Whether a line is wanted for each collection.
pub(crate) fn prints() -> bool {
    PRINT.load(Ordering::Relaxed) != 0
}

/// A line that is put together without an allocation.
struct Line {
    text: [u8; 256],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let count = room.len().min(text.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

/// Writes a line to the log.
pub(crate) fn log(line: fmt::Arguments<'_>) {
    let mut out = Line { text: [0; 256], length: 0 };
    let _ = writeln!(out, "{line}");
    // SAFETY: the line's bytes. A log that cannot be written to is nobody's error.
    unsafe { libc::write(LOG.load(Ordering::Relaxed), out.text.as_ptr().cast(), out.length) };
}

/// Told why the program is stopped.
type Abort = extern "C" fn(*const c_char);

static ABORT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Sets who is told why the library stops the program, before it does.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_abort_func(tell: Abort) {
    ABORT.store(tell as *mut c_void, Ordering::Release);
}

/// Who is told why the library stops the program.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_abort_func() -> Abort {
    // SAFETY: what is in the word is null, or was a function of this type: an option of one has the same form.
    let told = unsafe { mem::transmute::<*mut c_void, Option<Abort>>(ABORT.load(Ordering::Acquire)) };
    told.unwrap_or(say_fatal)
}

extern "C" fn say_fatal(why: *const c_char) {
    // SAFETY: a string.
    unsafe { libc::write(libc::STDERR_FILENO, why.cast(), libc::strlen(why)) };
}

/// Says why the library cannot go on, and stops the program.
pub(crate) fn fatal(why: &CStr) -> ! {
    GC_get_abort_func()(why.as_ptr());
    // SAFETY: no arguments.
    unsafe { libc::abort() }
}

/// Sets where lines of the log go: a file that is open.
#[unsafe(no_mangle)]
pub extern "C" fn GC_set_log_fd(file: c_int) {
    LOG.store(file, Ordering::Relaxed);
}

/// The version that programs are told: that of the library whose place this one takes.
#[unsafe(no_mangle)]
pub extern "C" fn GC_get_version() -> c_uint {
    8 << 16 | 2 << 8 | 2
}
