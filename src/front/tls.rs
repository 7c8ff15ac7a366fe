//! What a thread knows of the process heap: four words, found with two instructions.
//!
//! In a shared library the compiler turns `thread_local!` into a call of `__tls_get_addr`, which costs more than
//! the allocation itself and may allocate. So the words are defined in assembly and read with the
//! *initial-exec* model: the offset from the thread pointer comes from the global offset table. That takes room
//! in the static part of the thread block, of which a library that is loaded late gets little; four words fit.
//!
//! A thread begins with the cache of nobody, so the fast paths need no test for a thread that is new.
//!
//! # Safety
//! The words belong to the running thread; nobody else has their address. A cache in `cache` is the thread's own
//! or the empty one.

use crate::base::PurposeId;
use crate::base::purpose::BLOCKS;
use crate::block::BlockCache;
use crate::front::mutator::Mutator;

/// A thread's words.
#[repr(C)]
pub(crate) struct ThreadWords {
    /// The cache that allocations come from.
    pub(crate) cache: *mut BlockCache,
    /// The thread's mutator of the process heap, once it has one.
    pub(crate) mutator: *const Mutator,
    /// How often the thread's end was announced.
    pub(crate) endings: usize,
    /// The purpose of the scope that the thread is in.
    purpose: usize,
}

impl ThreadWords {
    /// The purpose of the scope that the thread is in.
    pub(crate) fn purpose(&self) -> PurposeId {
        PurposeId(self.purpose as u8)
    }

    /// Enters or leaves a scope.
    pub(crate) fn set_purpose(&mut self, purpose: PurposeId) {
        self.purpose = purpose.index();
    }
}

struct Nobody(BlockCache);
// SAFETY: the empty cache is never written.
unsafe impl Sync for Nobody {}

/// The cache that every thread begins with.
#[unsafe(export_name = "spanheap_cache_of_nobody")]
static NOBODY: Nobody = Nobody(BlockCache::empty());

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    r#"
    .hidden spanheap_thread_words
    .globl  spanheap_thread_words
    .type   spanheap_thread_words, @object
    .size   spanheap_thread_words, 32
    .section .tdata,"awT",@progbits
    .p2align 3
spanheap_thread_words:
    .quad   {nobody}
    .quad   0
    .quad   0
    .quad   {blocks}
    .text
    "#,
    nobody = sym NOBODY,
    blocks = const BLOCKS.0,
);

/// The running thread's words.
#[inline(always)]
pub(crate) fn words() -> *mut ThreadWords {
    let words: *mut ThreadWords;
    // SAFETY: reads the thread pointer and the symbol's offset from it; no memory of Rust's is touched.
    unsafe {
        core::arch::asm!(
            "mov {0}, qword ptr [rip + spanheap_thread_words@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) words,
            options(pure, readonly, nostack),
        );
    }
    words
}

/// The cache that this thread's allocations come from.
#[inline(always)]
pub(crate) fn cache() -> *mut BlockCache {
    let cache: *mut BlockCache;
    // SAFETY: reads the first of the thread's words.
    unsafe {
        core::arch::asm!(
            "mov {0}, qword ptr [rip + spanheap_thread_words@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{0}]",
            out(reg) cache,
            options(readonly, nostack, preserves_flags),
        );
    }
    cache
}

/// The cache of nobody, for a thread whose mutator has gone.
pub(crate) fn nobody() -> *mut BlockCache {
    (&raw const NOBODY.0).cast_mut()
}
