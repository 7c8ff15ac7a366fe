//! A thread's words, and being *inside*.
//!
//! The words are found with two instructions, by the initial-exec model, as those of the process heap are. A thread
//! begins with a cache that has nothing, so the fast path needs no test for a thread that is new.
//!
//! A thread that is *inside* touches shared state: its cache, a lock of the heap's. The signal that stops threads may come
//! then. The handler only notes that it came, and the thread stops as it leaves:
//!
//! ```text
//!   outside ──enter──▶ inside ──signal──▶ inside, stop pending ──leave──▶ stopped ──▶ outside
//! ```
//!
//! Both ends are plain stores, since the handler runs on the thread itself.
//!
//! # Safety
//! The words belong to the running thread; nobody else has their address.

use crate::threads::Record;
use core::cell::Cell;
use core::sync::atomic::{Ordering, compiler_fence};
use spanheap::object::ObjectCache;

/// A thread's words.
#[repr(C)]
pub(crate) struct Words {
    /// Where small objects of the two common kinds come from.
    pub(crate) cache: Cell<*mut ObjectCache>,
    /// What is known of the thread; null while it is not registered.
    pub(crate) record: Cell<*const Record>,
    /// How often the thread is inside.
    inside: Cell<u32>,
    /// Whether it is to stop when it leaves.
    pub(crate) pending: Cell<u32>,
}

/// The cache of those who have none: it never has anything, and is never written.
#[repr(transparent)]
struct Nobody(ObjectCache);
// SAFETY: the empty cache is never written.
unsafe impl Sync for Nobody {}

#[unsafe(export_name = "spanheap_gc_cache_of_nobody")]
// SAFETY: zeros are an empty cache.
static NOBODY: Nobody = Nobody(unsafe { core::mem::zeroed() });

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    r#"
    .hidden spanheap_gc_words
    .globl  spanheap_gc_words
    .type   spanheap_gc_words, @object
    .size   spanheap_gc_words, 24
    .section .tdata,"awT",@progbits
    .p2align 3
spanheap_gc_words:
    .quad   {nobody}
    .quad   0
    .quad   0
    .text
    "#,
    nobody = sym NOBODY,
);

/// The running thread's words.
#[inline(always)]
pub(crate) fn words() -> &'static Words {
    let words: *const Words;
    // SAFETY: reads the thread pointer and the symbol's offset from it. The words live as long as their thread, and are
    // handed to nobody else.
    unsafe {
        core::arch::asm!(
            "mov {0}, qword ptr [rip + spanheap_gc_words@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) words,
            options(pure, readonly, nostack),
        );
        &*words
    }
}

/// The cache of those who have none.
pub(crate) fn nobody() -> *mut ObjectCache {
    (&raw const NOBODY.0).cast_mut()
}

/// A stay inside. Not to be held across a call of the program's.
pub(crate) struct Inside(&'static Words);

impl Inside {
    /// Goes inside.
    #[inline(always)]
    pub(crate) fn enter() -> Inside {
        let words = words();
        words.inside.set(words.inside.get() + 1);
        compiler_fence(Ordering::SeqCst);
        Inside(words)
    }
}

impl Drop for Inside {
    #[inline(always)]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        let left = self.0.inside.get() - 1;
        self.0.inside.set(left);
        compiler_fence(Ordering::SeqCst);
        if self.0.pending.get() != 0 && left == 0 {
            crate::stop::stop_late();
        }
    }
}

impl Words {
    /// Whether the thread is inside.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside.get() != 0
    }

    /// The thread's record; registers the thread if need be.
    pub(crate) fn known(&self) -> &'static Record {
        // SAFETY: records are never freed.
        match unsafe { self.record.get().as_ref() } {
            Some(record) => record,
            None => crate::threads::register_here(),
        }
    }
}
