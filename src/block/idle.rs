//! What is done about the spans of an owner whose thread is idle, or gone.
//!
//! *Holes* are punched into those that are partly free. *Returned* ones are freed: spans whose blocks are all free, the last
//! of them by others, and that wait in the inbox of an owner who does not look there.
//!
//! The owner's thread may wake at any moment and free blocks on its fast path. So all spans in question are closed
//! first, then there is one barrier for all of them, and then each is looked at: see [`super::holes`]. Spans that are current
//! are left alone. So are blocks that others gave back to a span in which others still are in use: how many are is the
//! owner's to count, since it may be announcing a free just then. Where none is in use, it has none to announce.
//!
//! What its thread may still be doing with a span that is freed here is the end of its own last free: it looks whether the
//! span wants attention, and if it seems so, asks again under the lock ([`BlockSpan::wants_attention`]).
//!
//! # Safety
//! Whoever calls holds the `local` of the owner; its thread, if there is one, is on its fast paths at most.

use super::body::{BlockSpan, Phase};
use super::cache::{BlockCache, Work};
use super::holes;
use super::remote;
use crate::base::class::SizeClass;
use crate::base::sync::Ordering;
use crate::span::{Ground, Span, SpanId};

/// Spans that are closed for one barrier.
const BATCH: usize = 64;

/// Frees the spans of an owner all of whose blocks have come back, the last of them by others. Those where blocks are
/// in use go on waiting in the inbox.
///
/// # Safety
/// See the head of this file; the owner is not parked.
pub unsafe fn free_returned(work: &mut Work<'_>, owner: u32) {
    let (heap, inbox) = (work.ground.heap, work.central.inbox(owner));
    let mut spans = inbox.take();
    loop {
        let (mut batch, mut count) = ([SpanId::NONE; BATCH], 0);
        while count < BATCH
            && let Some(id) = spans.next(heap.links())
        {
            let span = heap.span(id).expect("spans in inboxes have records");
            let body = span.body::<BlockSpan>();
            // SAFETY: a span in an inbox has blocks in use, so it is there; if it names this owner, its lock is held.
            unsafe {
                let now = (*body).owner.load(Ordering::Relaxed);
                if now == owner && seems_returned(span, body) {
                    holes::close(body);
                    batch[count] = id;
                    count += 1;
                } else {
                    work.central.inbox(now).push(id, heap.links());
                }
            }
        }
        if count == 0 {
            return;
        }
        let seen = heap.system().barrier().is_ok();
        for &id in &batch[..count] {
            let span = heap.span(id).expect("spans in inboxes have records");
            let body = span.body::<BlockSpan>();
            // SAFETY: the lock is held, the span is closed and ours from the inbox; if nobody has a block of it, nobody
            // changes it.
            unsafe {
                if seen && holes::is_returned(work.ground, span, body) {
                    BlockCache::absorb(work, span, body);
                } else {
                    holes::open(span, body);
                    inbox.push(id, heap.links());
                }
            }
        }
    }
}

/// Whether it is worth closing a span, since as many blocks wait as are in use.
///
/// # Safety
/// See the head of this file.
unsafe fn seems_returned(span: &Span, body: *const BlockSpan) -> bool {
    // SAFETY: the lock is held, so the phase stands still. The countdown is the owner's; what is seen of it here is looked at
    // again.
    unsafe {
        (*body).phase != Phase::Current
            && u32::from(remote::look(span.word()).count) == BlockSpan::used_meanwhile(body)
    }
}

/// Punches holes into the listed spans of an owner's caches.
///
/// # Safety
/// See the head of this file; the caches are all that the owner has.
pub unsafe fn tend(ground: Ground<'_>, caches: impl Iterator<Item = *mut BlockCache> + Clone) {
    // SAFETY: the owner's lock is held, so its lines do not change. What is closed here is punched after the barrier only,
    // and opened again unless it has holes.
    unsafe {
        caches.clone().for_each(|cache| each_listed(cache, ground, |_, body| holes::close(body)));
        let seen = ground.heap.system().barrier().is_ok();
        for cache in caches {
            each_listed(cache, ground, |span, body| {
                if seen {
                    holes::punch(ground, span, body);
                }
                holes::open(span, body);
            });
        }
    }
}

/// Shows the listed spans of a cache to `with`.
unsafe fn each_listed(cache: *mut BlockCache, ground: Ground<'_>, with: impl Fn(&Span, *mut BlockSpan)) {
    for class in SizeClass::all() {
        // SAFETY: lines change under the owner's lock alone, which is held.
        unsafe {
            let mut at = (*cache).bins[class.0 as usize].first;
            while let Some(id) = at.some() {
                let span = ground.heap.span(id).expect("listed spans have records");
                with(span, span.body());
                at = SpanId(span.links().after);
            }
        }
    }
}
