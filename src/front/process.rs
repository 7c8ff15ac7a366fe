//! The process heap: the one behind the global allocator and the C door.
//!
//! It is made by the first call, whoever makes it, and never goes. A thread's words (see `tls`) name the
//! cache that its allocations come from; the fast paths below use that and nothing else.
//!
//! ```text
//!   malloc ──▶ thread's cache ──▶ block                       (fast: no test for a new thread)
//!                    │ none
//!                    ▼
//!               heap made? thread attached? ──▶ slow path ──▶ block, or null
//! ```
//!
//! A thread's end is announced by the door's hook. A thread that has been told often enough that it ends, and
//! allocates still, works through the shared mutator, so that nothing is left behind.
//!
//! # Safety
//! The words belong to the running thread. A cache is the thread's own while `mutator` names its owner.

use crate::base::sync::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};
use crate::base::{Lock, PurposeId, Rank};
use crate::block::BlockCache;
use crate::block::cache::{Block, Freed, Remote};
use crate::front::config::{Config, OnMisuse};
use crate::front::core::HeapCore;
use crate::front::environment;
use crate::front::heap::Heap;
use crate::front::misuse::Misuse;
use crate::front::mutator::Mutator;
use crate::front::slow::NATURAL;
use crate::front::{scavenger, threads, tls};
use crate::stats::window::Beacon;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::ptr;

/// What leads other processes to the heaps of this one.
#[used]
pub(super) static BEACON: Beacon = Beacon::new();

struct Process {
    /// 0 not made, 1 made, 2 refused.
    state: AtomicU8,
    /// Whether the environment has been read.
    configured: AtomicBool,
    /// Whether misuse is only reported.
    reports_only: AtomicBool,
    /// Whether the C door gives threads stacks of the heap.
    thread_stacks: AtomicBool,
    making: Lock<()>,
    heap: UnsafeCell<MaybeUninit<Heap>>,
}

// SAFETY: `heap` is written once, under `making`, before `state` says that it is there.
unsafe impl Sync for Process {}

static PROCESS: Process = Process {
    state: AtomicU8::new(0),
    configured: AtomicBool::new(false),
    reports_only: AtomicBool::new(false),
    thread_stacks: AtomicBool::new(false),
    making: Lock::new(Rank::Heaps, ()),
    heap: UnsafeCell::new(MaybeUninit::uninit()),
};

/// Announces to the door that the calling thread has a mutator now; the door calls [`thread_ends`] when the
/// thread ends. Returns whether it will.
pub type ThreadHook = fn() -> bool;

static HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// How often a thread may come back after its end was announced, as destructors of other libraries make it.
static RETURNS: AtomicU32 = AtomicU32::new(0);

/// Sets the door's hook, and how many times a thread may announce its end and come back.
pub fn set_thread_hook(hook: ThreadHook, returns: u32) {
    HOOK.store(hook as *mut (), Ordering::Release);
    RETURNS.store(returns, Ordering::Relaxed);
}

/// The process heap, made if need be; `None` when the system refused it.
pub fn heap() -> Option<&'static Heap> {
    if PROCESS.state.load(Ordering::Acquire) != 1 {
        make();
    }
    existing()
}

/// The process heap, if it was made.
pub(crate) fn existing() -> Option<&'static Heap> {
    // SAFETY: the state says that the heap was written, and it is never written again.
    (PROCESS.state.load(Ordering::Acquire) == 1).then(|| unsafe { (*PROCESS.heap.get()).assume_init_ref() })
}

/// Whether the configuration wants threads on stacks of the heap.
pub fn wants_thread_stacks() -> bool {
    PROCESS.thread_stacks.load(Ordering::Relaxed)
}

#[cold]
fn make() {
    make_with(environment::read);
}

/// Gives the process heap its environment, `NAME=value` each, as a door has it from the loader. It counts unless
/// the heap has read the kernel's copy already; a heap that exists takes on what can be changed: its limit, the scavenger, what
/// to do about misuse, and where the statistics go.
pub fn provide_environment<'a>(entries: impl Iterator<Item = &'a CStr> + Clone) {
    make_with(|config| {
        environment::read_entries(config, entries.clone());
        true
    });
    if PROCESS.configured.swap(true, Ordering::AcqRel) {
        return;
    }
    let mut config = Config::new();
    environment::read_entries(&mut config, entries);
    PROCESS.reports_only.store(config.misuse == OnMisuse::Report, Ordering::Relaxed);
    PROCESS.thread_stacks.store(config.thread_stacks, Ordering::Relaxed);
    if let Some(heap) = existing() {
        heap.set_limit(config.limit);
        heap.set_scavenger(config.scavenger);
        if let Some(mean) = config.profile {
            let _ = heap.profile().start(mean);
        }
        heap.set_page(config.page);
    }
}

fn make_with(configure: impl FnOnce(&mut Config) -> bool) {
    let _making = PROCESS.making.lock();
    if PROCESS.state.load(Ordering::Relaxed) != 0 {
        return;
    }
    let mut config = Config::new();
    PROCESS.configured.store(configure(&mut config), Ordering::Relaxed);
    PROCESS.reports_only.store(config.misuse == OnMisuse::Report, Ordering::Relaxed);
    PROCESS.thread_stacks.store(config.thread_stacks, Ordering::Relaxed);
    match Heap::for_process(config) {
        Ok(heap) => {
            // SAFETY: the lock is held and nobody reads before the state says so.
            unsafe { (*PROCESS.heap.get()).write(heap) };
            PROCESS.state.store(1, Ordering::Release);
            if let Some(heap) = existing() {
                BEACON.set_process(&heap.core().window);
            }
        }
        Err(error) => {
            environment::say(format_args!("{error}"));
            PROCESS.state.store(2, Ordering::Release);
        }
    }
}

/// Whether a heap is the process heap.
#[inline]
pub(crate) fn is(heap: &Heap) -> bool {
    ptr::eq(heap, PROCESS.heap.get().cast())
}

/// The calling thread's mutator of the process heap, or the shared one.
pub(crate) fn mutator(heap: &Heap) -> &Mutator {
    let words = tls::words();
    // SAFETY: the words are this thread's, and mutators live as long as the process.
    unsafe {
        match (*words).mutator.as_ref() {
            Some(mutator) => mutator,
            None => attach(heap.core()),
        }
    }
}

#[cold]
fn attach(core: &HeapCore) -> &Mutator {
    let words = tls::words();
    // SAFETY: the words are this thread's.
    unsafe {
        if (*words).endings > RETURNS.load(Ordering::Relaxed) as usize {
            return core.shared_mutator();
        }
        let Ok(mutator) = core.attach() else { return core.shared_mutator() };
        // Set before the hook, which may allocate.
        (*words).mutator = mutator;
        use_purpose(mutator, (*words).purpose());
        if !announce() {
            detach(core);
            (*words).endings = usize::MAX;
            return core.shared_mutator();
        }
        mutator
    }
}

fn announce() -> bool {
    let hook = HOOK.load(Ordering::Acquire);
    if hook.is_null() {
        return std_hook();
    }
    // SAFETY: only `set_thread_hook` stores here, and what it stores is a `ThreadHook`.
    let hook: ThreadHook = unsafe { core::mem::transmute(hook) };
    hook()
}

/// The hook of Rust programs: a thread-local value whose destructor announces the end.
fn std_hook() -> bool {
    struct Ending;
    impl Drop for Ending {
        fn drop(&mut self) {
            thread_ends();
        }
    }
    thread_local!(static ENDING: Ending = const { Ending });
    ENDING.try_with(|_| ()).is_ok()
}

/// Parks the calling thread's mutator: the thread ends. It may allocate again all the same.
pub fn thread_ends() {
    let words = tls::words();
    // SAFETY: the words are this thread's.
    unsafe {
        (*words).endings = (*words).endings.saturating_add(1);
        if let Some(heap) = existing()
            && !(*words).mutator.is_null()
        {
            detach(heap.core());
        }
    }
}

unsafe fn detach(core: &HeapCore) {
    let words = tls::words();
    // SAFETY: the words are this thread's, and it does not use the mutator again.
    unsafe {
        let mutator = &*(*words).mutator;
        (*words).cache = tls::nobody();
        (*words).mutator = ptr::null();
        core.park(mutator);
    }
}

/// Makes a thread's allocations come from the cache of a purpose, or from the slow path until there is one.
unsafe fn use_purpose(mutator: &Mutator, purpose: PurposeId) {
    let words = tls::words();
    // SAFETY: the words are this thread's, and so is the mutator.
    unsafe { (*words).cache = mutator.cache(purpose).map_or(tls::nobody(), ptr::NonNull::as_ptr) }
}

/// The purpose of the scope that the calling thread is in, as far as this heap is concerned.
pub(crate) fn purpose_of(heap: &Heap) -> PurposeId {
    if is(heap) {
        // SAFETY: the words are this thread's.
        return unsafe { (*tls::words()).purpose() };
    }
    threads::purpose(heap.core())
}

/// A thread's stay in a purpose's scope.
pub(crate) struct Scope<'h> {
    heap: &'h Heap,
    before: PurposeId,
}

/// Enters a scope; dropping it leaves.
#[inline]
pub(crate) fn enter(heap: &Heap, purpose: PurposeId) -> Scope<'_> {
    Scope { heap, before: change(heap, purpose) }
}

impl Drop for Scope<'_> {
    #[inline]
    fn drop(&mut self) {
        change(self.heap, self.before);
    }
}

/// Makes `purpose` the thread's, and returns the one before. A thread that has no mutator yet needs none for that:
/// attaching looks at the words.
#[inline]
fn change(heap: &Heap, purpose: PurposeId) -> PurposeId {
    if !is(heap) {
        return threads::set_purpose(heap.core(), purpose);
    }
    let words = tls::words();
    // SAFETY: the words are this thread's, and so is the mutator they name.
    unsafe {
        let before = (*words).purpose();
        (*words).set_purpose(purpose);
        if let Some(mutator) = (*words).mutator.as_ref() {
            use_purpose(mutator, purpose);
        }
        before
    }
}

/// Takes a small block from the thread's cache, or returns null: then [`allocate_rest`] is asked. A door that calls the
/// two itself can leave its own frame before the second.
#[inline(always)]
pub fn allocate_fast(size: usize) -> *mut u8 {
    // SAFETY: the cache is the thread's own, or nobody's.
    unsafe { BlockCache::allocate(tls::cache(), size) }
}

/// Allocates a block for the thread's purpose, or returns null.
#[inline(always)]
pub fn allocate(size: usize) -> *mut u8 {
    let block = allocate_fast(size);
    if block.is_null() { allocate_rest(size) } else { block }
}

/// Allocates a block where [`allocate_fast`] found none, or returns null.
#[inline(never)]
pub fn allocate_rest(size: usize) -> *mut u8 {
    // SAFETY: the cache is the thread's own, or nobody's.
    let block = unsafe { BlockCache::allocate_medium(tls::cache(), size) };
    if block.is_null() { allocate_last(size) } else { block }
}

/// The last attempt: past the front of a counted cache, and then the slow path. By itself, so that blocks of medium
/// size, which come from [`allocate_rest`], need no frame.
#[inline(never)]
fn allocate_last(size: usize) -> *mut u8 {
    // SAFETY: the cache is the thread's own, or nobody's.
    let block = unsafe { BlockCache::allocate_counted(tls::cache(), size) };
    if block.is_null() { allocate_slow(size, NATURAL, false).pointer } else { block }
}

/// As [`allocate`], at a multiple of `align`, a power of two.
#[inline]
pub fn allocate_aligned(size: usize, align: usize) -> *mut u8 {
    if align <= NATURAL { allocate(size) } else { allocate_slow(size, align, false).pointer }
}

/// As [`allocate_aligned`], with the first `size` bytes zero.
#[inline]
pub fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    let block = if align <= NATURAL {
        // SAFETY: the cache is the thread's own, or nobody's.
        unsafe {
            let block = BlockCache::allocate(tls::cache(), size);
            if block.is_null() { BlockCache::allocate_counted(tls::cache(), size) } else { block }
        }
    } else {
        ptr::null_mut()
    };
    let block = if block.is_null() {
        allocate_slow(size, align, true)
    } else {
        Block { pointer: block, zero: false }
    };
    if !block.zero && !block.pointer.is_null() {
        // SAFETY: the block is fresh, has `size` bytes, and is this thread's alone.
        unsafe { block.pointer.write_bytes(0, size) };
    }
    block.pointer
}

/// Allocates a block where the thread's cache had none.
#[cold]
#[inline(never)]
fn allocate_slow(size: usize, align: usize, zero: bool) -> Block {
    const NONE: Block = Block { pointer: ptr::null_mut(), zero: false };
    let Some(heap) = heap() else { return NONE };
    let mutator = mutator(heap);
    // SAFETY: the words are this thread's.
    let purpose = unsafe { (*tls::words()).purpose() };
    let block = heap.core().allocate(mutator, purpose, size, align, zero);
    // SAFETY: as above; a callback may have entered and left scopes, so the purpose is read again.
    unsafe {
        if !(*tls::words()).mutator.is_null() {
            use_purpose(mutator, (*tls::words()).purpose());
        }
    }
    block.unwrap_or(NONE)
}

/// Frees a block; null is fine. Misuse is reported as the configuration says.
///
/// # Safety
/// If the pointer is a block's, it is not used any more.
#[inline(always)]
pub unsafe fn free(pointer: *mut u8) {
    // SAFETY: the cache is the thread's own, or nobody's; the caller gives the block up.
    match unsafe { BlockCache::free(tls::cache(), pointer) } {
        Freed::Done => {}
        // SAFETY: the span is of this thread's mutator.
        Freed::Tripped(span) => unsafe { attend(span) },
        // SAFETY: the caller's promise.
        Freed::Other => unsafe { free_elsewhere(pointer) },
    }
}

/// Frees what is not a block of this thread's.
#[inline(never)]
unsafe fn free_elsewhere(pointer: *mut u8) {
    // SAFETY: the cache is the thread's own, or nobody's; the caller gives the block up.
    match unsafe { BlockCache::free_remote(tls::cache(), pointer) } {
        Remote::Done => {}
        // SAFETY: the thread has a cache of its own, so it has a mutator.
        Remote::First(span, owner) => unsafe {
            let mutator = &*(*tls::words()).mutator;
            (*mutator.core).send(mutator, span, owner);
        },
        // SAFETY: the caller's promise.
        Remote::Other => unsafe { free_slow(pointer) },
    }
}

#[cold]
#[inline(never)]
unsafe fn attend(span: *mut crate::block::BlockSpan) {
    // SAFETY: a span tripped on this thread's fast path, so there is a heap and a mutator.
    unsafe {
        let mutator = &*(*tls::words()).mutator;
        (*mutator.core).attend(mutator, span);
    }
}

#[cold]
#[inline(never)]
unsafe fn free_slow(pointer: *mut u8) {
    if pointer.is_null() {
        return;
    }
    let freed = match existing() {
        // A thread that frees is worth a mutator, unless it is about to end.
        Some(heap) => {
            // SAFETY: the words are this thread's; the caller gives the block up.
            unsafe {
                let ends = (*tls::words()).mutator.is_null() && (*tls::words()).endings > 0;
                let mutator = if ends { heap.core().shared_mutator() } else { mutator(heap) };
                let freed = heap.core().free(mutator, pointer);
                if !heap.is_shared(mutator) {
                    use_purpose(mutator, (*tls::words()).purpose());
                }
                freed
            }
        }
        None => Err(Misuse::foreign(pointer)),
    };
    if let Err(misuse) = freed {
        report("free", misuse);
    }
}

/// Bytes that a block's holder may use; 0 for null, and after a report of misuse.
pub fn usable_size(pointer: *const u8) -> usize {
    let size = match existing() {
        _ if pointer.is_null() => return 0,
        Some(heap) => heap.core().usable_size(pointer),
        None => Err(Misuse::foreign(pointer)),
    };
    size.unwrap_or_else(|misuse| {
        report("malloc_usable_size", misuse);
        0
    })
}

/// Changes a block's size, moving it if it must; null when there is no memory, and then the block stays.
///
/// # Safety
/// The block is the caller's, and, unless null is returned, not used any more through `pointer`.
pub unsafe fn reallocate(pointer: *mut u8, size: usize, align: usize) -> *mut u8 {
    // SAFETY: the caller's block; the copy stays within both blocks, which do not overlap.
    unsafe {
        let Some(heap) = existing() else {
            report("realloc", Misuse::foreign(pointer));
            return ptr::null_mut();
        };
        let done = heap.core().resize(mutator(heap), pointer, size);
        let usable = match (done, heap.core().usable_size(pointer)) {
            (Ok(true), _) if pointer.addr().is_multiple_of(align) => return pointer,
            (Ok(_), Ok(usable)) => usable,
            (Err(misuse), _) | (_, Err(misuse)) => {
                report("realloc", misuse);
                return ptr::null_mut();
            }
        };
        let new = allocate_aligned(size, align);
        if !new.is_null() {
            ptr::copy_nonoverlapping(pointer, new, usable.min(size));
            free(pointer);
        }
        new
    }
}

/// Says what is wrong with a pointer, and stops the process unless it is configured to go on.
#[cold]
pub fn report(call: &str, misuse: Misuse) {
    environment::say(format_args!("{call}(): {misuse}"));
    if !PROCESS.reports_only.load(Ordering::Relaxed) {
        environment::abort();
    }
}

/// Takes the process heap's locks, before a `fork`.
pub fn before_fork() {
    if let Some(heap) = existing() {
        // SAFETY: the words are this thread's, and mutators live as long as the process.
        heap.core().begin_fork(unsafe { (*tls::words()).mutator.as_ref() });
    }
    PROCESS.making.acquire();
    if let Some(heap) = existing() {
        heap.core().before_fork();
    }
}

/// Gives the locks back, in the parent.
///
/// # Safety
/// This thread called [`before_fork`].
pub unsafe fn after_fork() {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(heap) = existing() {
            heap.core().after_fork();
        }
        PROCESS.making.release();
    }
}

/// Gives the locks back in the child, where this is the only thread.
///
/// # Safety
/// This thread called [`before_fork`] in the parent.
pub unsafe fn after_fork_in_child() {
    // SAFETY: the caller's promise; the thread's own mutator came along.
    unsafe {
        if let Some(heap) = existing() {
            heap.core().after_fork_in_child((*tls::words()).mutator);
        }
        scavenger::forget();
        PROCESS.making.release();
        if let Some(heap) = existing() {
            heap.bury_collected((*tls::words()).mutator.as_ref());
        }
    }
}
