//! What a block span keeps in its record, and what a free block keeps in itself.
//!
//! # Safety
//! [`BlockSpan`] is plain data behind a raw pointer: whoever uses it is the owner, or holds the lock of an
//! owner that is parked (see the room's first invariant). Only `owner`, `end` and `magic`, which are atomic, and what is constant
//! while blocks are in use are read by others.

use crate::base::class::{SizeClass, TABLE};
use crate::base::sync::{AtomicU32, Ordering};
use crate::span::{NewSpan, SpanId, record};
// The machine's own, for the model checker as well: no model looks at these words, some of which
// their owner also reads as plain memory.
use core::sync::atomic::{AtomicU32 as PlainU32, AtomicU64, compiler_fence};

/// A block that nobody uses. The smallest block is as large.
#[repr(C)]
pub struct FreeBlock {
    /// The next free block of the same list.
    pub next: *mut FreeBlock,
    /// The block's [mark]; zero in a block in use, until its holder writes there.
    pub mark: usize,
}

/// What a free block carries: the heap's key, mixed with the block's own address. So what a program copies out of old
/// memory into another block does not make that one look free.
#[inline(always)]
pub fn mark(key: usize, block: *const FreeBlock) -> usize {
    key ^ block.addr()
}

/// Where a block span stands; the room's essay has the picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Not a span of blocks.
    None = 0,
    /// Its cache allocates from it.
    Current,
    /// It has blocks to give and waits in its cache's list.
    Listed,
    /// It had no block to give when last looked at.
    Full,
    /// The span of one large block.
    Large,
}

/// A block span's part of the span record: one cache line.
#[repr(C, align(64))]
pub struct BlockSpan {
    /// The mutator that allocates from the span; 0 for none, [`LARGE`] for a block with a span to itself.
    pub owner: AtomicU32,
    /// Frees until the span wants attention.
    pub trip: u32,
    /// The class's divisibility constant; 0 lets no pointer pass: the span is closed (see [`super::holes`]).
    pub magic: AtomicU64,
    /// The low half of the span's distance from the region's base.
    pub start: u32,
    /// Bytes of the blocks that were ever carved: behind them no pointer passes. The owner writes it.
    pub end: PlainU32,
    /// Blocks to give.
    pub free: *mut FreeBlock,
    /// Blocks that came back since they were last counted.
    pub frees: u64,
    /// Blocks that fit.
    pub blocks: u32,
    /// Blocks that were ever given or put into `free`; those behind were never touched.
    pub carved: u32,
    /// The size class.
    pub class: SizeClass,
    /// Where the span stands.
    pub phase: Phase,
    /// Everything behind the carved blocks reads as zero and is not resident.
    pub fresh: bool,
    /// Blocks in use when events were last counted; of a large block the number of its sample, or 0.
    pub posted: u32,
    /// The owner's cache that the span belongs to.
    pub cache: *mut super::BlockCache,
}

// SAFETY: one line, aligned to it, and all zeros are "no block span".
unsafe impl record::Body for BlockSpan {}

/// The owner of every large block: anyone may free it, at once.
pub const LARGE: u32 = u32::MAX;

/// A full span never waits for more frees than this, however long it is.
const MOST_WAITED_FOR: u32 = 16;

/// Bytes of blocks that are carved at once: one system page, so that memory is touched as it is needed.
const CARVE: usize = 4096;

impl BlockSpan {
    /// The span that has no block to give: every bin starts with it.
    pub const fn empty() -> BlockSpan {
        BlockSpan {
            #[cfg(not(loom))]
            owner: AtomicU32::new(0),
            #[cfg(loom)]
            // SAFETY: loom builds run models of single structures only and never look at this one.
            owner: unsafe { core::mem::zeroed() },
            trip: 0,
            magic: AtomicU64::new(0),
            start: 0,
            free: core::ptr::null_mut(),
            frees: 0,
            end: PlainU32::new(0),
            blocks: 0,
            carved: 0,
            class: SizeClass(0),
            phase: Phase::None,
            fresh: false,
            posted: 0,
            cache: core::ptr::null_mut(),
        }
    }

    /// Sets up a span that was just allocated.
    ///
    /// # Safety
    /// The caller holds the span, which is as long as [`SizeClass::pages`] says for some number.
    pub unsafe fn open(
        new: &NewSpan<'_>,
        class: SizeClass,
        owner: u32,
        cache: *mut super::BlockCache,
    ) -> *mut BlockSpan {
        let row = &TABLE[class.0 as usize];
        let body = new.span.body::<BlockSpan>();
        // SAFETY: the caller holds the span and so its body; readers of `owner` see either none or this one.
        unsafe {
            (*body).magic.store(row.magic, Ordering::Relaxed);
            (*body).start = new.page.offset() as u32;
            (*body).blocks = (new.span.pages().bytes().0 / row.size as usize) as u32;
            (*body).class = class;
            (*body).phase = Phase::Current;
            (*body).fresh = new.fresh;
            (*body).cache = cache;
            (*body).owner.store(owner, Ordering::Release);
        }
        body
    }

    /// Frees that bring a full span back into its cache's list.
    pub fn full_trip(&self) -> u32 {
        full_trip(self.blocks)
    }

    /// Bytes of a block.
    #[inline]
    pub fn size(&self) -> usize {
        self.class.size()
    }

    /// Blocks in use.
    pub fn used(&self) -> u32 {
        used(self.phase, self.blocks, self.trip)
    }

    /// Blocks in use, for one who holds the owner's lock while the owner's thread may be announcing a free.
    ///
    /// # Safety
    /// The span has a body, and its owner's lock is held.
    pub unsafe fn used_meanwhile(this: *const BlockSpan) -> u32 {
        // SAFETY: the caller's promise; all but the countdown stands still under the lock.
        unsafe {
            let trip = PlainU32::from_ptr((&raw const (*this).trip).cast_mut());
            used((*this).phase, (*this).blocks, trip.load(Ordering::Relaxed))
        }
    }

    /// Whether the byte at `offset` from the region's base begins a block.
    #[inline(always)]
    pub fn begins_block(&self, offset: usize) -> bool {
        self.divides(u64::from((offset as u32).wrapping_sub(self.start)))
    }

    /// Whether the byte so far from the span's start begins a block.
    #[inline(always)]
    pub fn divides(&self, distance: u64) -> bool {
        let magic = self.magic.load(Ordering::Relaxed);
        distance.wrapping_mul(magic) < magic
    }

    /// The same, whether the span is closed or not.
    pub fn would_begin_block(&self, offset: usize) -> bool {
        ((offset as u32).wrapping_sub(self.start) as usize).is_multiple_of(self.size())
    }

    /// Counts a free before anything that follows is done: one instruction. The processor may still look ahead; the
    /// barrier of whoever closes the span sees to that.
    ///
    /// # Safety
    /// The caller is the owner of the span; others may read the word as an atomic one.
    #[inline(always)]
    pub unsafe fn announce(this: *mut BlockSpan) {
        // SAFETY: the caller's promise.
        let trip = unsafe { PlainU32::from_ptr(&raw mut (*this).trip) };
        trip.store(trip.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Takes an announcement back: it was no free.
    ///
    /// # Safety
    /// As for [`BlockSpan::announce`], which the caller has called.
    #[inline(always)]
    pub unsafe fn take_back(this: *mut BlockSpan) {
        // SAFETY: the caller's promise.
        let trip = unsafe { PlainU32::from_ptr(&raw mut (*this).trip) };
        trip.store(trip.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Whether the free that was announced is the one that the span waits for. Where it was the span's last block, the span
    /// may be free and its record another's by now, who writes the word as he likes: the answer means nothing then, and
    /// [`BlockSpan::wants_attention`] asks again. So the word is read by instruction, and neither kept from the
    /// announcement nor loaded as an atomic one, since either costs the fast path two instructions.
    ///
    /// # Safety
    /// As for [`BlockSpan::announce`], which the caller has called.
    #[inline(always)]
    pub unsafe fn is_tripped(this: *mut BlockSpan) -> bool {
        // SAFETY: the caller's promise; records stay records, so the word can be read.
        unsafe {
            core::arch::asm!(
                "cmp dword ptr [{span} + {trip}], 0",
                "je {tripped}",
                span = in(reg) this,
                trip = const core::mem::offset_of!(BlockSpan, trip),
                tripped = label { return true },
                options(readonly, nostack),
            );
        }
        false
    }

    /// Whether a span that tripped is still this owner's, and still wants attention: while its thread went from the one to
    /// the other, somebody may have freed the span, whose blocks had all come back (see [`super::idle`]).
    ///
    /// # Safety
    /// The caller holds the owner's `local`.
    pub unsafe fn wants_attention(this: *const BlockSpan, owner: u32) -> bool {
        // SAFETY: records stay records; if this one names the owner, the rest is guarded by the lock.
        unsafe {
            (*this).owner.load(Ordering::Relaxed) == owner
                && matches!((*this).phase, Phase::Full | Phase::Listed)
                && (*this).trip == 0
        }
    }

    /// Whether the byte at `offset` from the region's base lies in a block that was ever carved.
    #[inline(always)]
    pub fn is_carved(&self, offset: usize) -> bool {
        (offset as u32).wrapping_sub(self.start) < self.end.load(Ordering::Relaxed)
    }

    /// How far the byte at `offset` from the region's base lies from the span's start, if that is in a block that was
    /// ever carved. For the owner: what nobody else writes can be read as plain memory, and that spares the fast path an
    /// instruction.
    ///
    /// # Safety
    /// The caller is the span's owner.
    #[inline(always)]
    pub unsafe fn own_distance(&self, offset: usize) -> Option<u64> {
        let mut distance = u64::from((offset as u32).wrapping_sub(self.start));
        // The compiler compares the lower half and, a branch later, clears an upper half that is clear; not if it does not
        // know where the number comes from.
        // SAFETY: no instruction at all.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) distance, options(pure, nomem, nostack, preserves_flags))
        };
        // SAFETY: only the owner writes `end`, and the caller is the owner, so nobody writes meanwhile.
        ((distance as u32) < unsafe { *self.end.as_ptr() }).then_some(distance)
    }

    /// Cuts more blocks off the untouched end: one where blocks are large, else a system page of them.
    /// Returns the first; the others are in `free`, which was empty.
    ///
    /// # Safety
    /// `memory` is the span's first byte, and the caller is its owner.
    pub unsafe fn carve(&mut self, memory: *mut u8, key: usize) -> *mut FreeBlock {
        let size = self.size();
        let count = (CARVE / size).clamp(1, (self.blocks - self.carved) as usize);
        // SAFETY: blocks from `carved` to `blocks` lie in the span, and nobody has them.
        unsafe {
            let first = memory.add(self.carved as usize * size);
            let mut next = core::ptr::null_mut();
            for i in (1..count).rev() {
                let block = first.add(i * size).cast::<FreeBlock>();
                block.write(FreeBlock { next, mark: mark(key, block) });
                next = block;
            }
            self.free = next;
            self.carved += count as u32;
            self.end.store(self.carved * size as u32, Ordering::Relaxed);
            if !self.fresh {
                // A free block that began here before may have left its mark behind.
                (*first.cast::<FreeBlock>()).mark = 0;
            }
            first.cast()
        }
    }
}

/// Frees that bring a full span of so many blocks back into its cache's list.
fn full_trip(blocks: u32) -> u32 {
    (blocks / 8).clamp(1, MOST_WAITED_FOR)
}

/// Blocks in use of a span whose countdown stands at `trip`.
fn used(phase: Phase, blocks: u32, trip: u32) -> u32 {
    match phase {
        Phase::Full => blocks - (full_trip(blocks) - trip),
        _ => trip,
    }
}

/// The record that a body is part of; its number follows from the address.
///
/// # Safety
/// `body` lies in the table of records that starts at `records`.
pub unsafe fn id_of(body: *const BlockSpan, records: *const crate::span::Span) -> SpanId {
    // SAFETY: the body is the first field of its record, by `repr(C)`, so both point into one table.
    SpanId(unsafe { body.cast::<crate::span::Span>().offset_from_unsigned(records) } as u32)
}
