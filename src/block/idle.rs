//! What is done about the spans of an owner whose thread is idle, or gone: holes are punched into them.
//!
//! The owner's thread may wake at any moment and free blocks on its fast path. So all spans in question are closed
//! first, then there is one barrier for all of them, and then each is looked at: see [`super::holes`]. Spans that are current
//! or full are left alone, and so are blocks that others gave back and that still wait for the owner: their number is
//! the owner's to lower.
//!
//! # Safety
//! Whoever calls holds the `local` of the owner; its thread, if there is one, is on its fast paths at most.

use super::body::BlockSpan;
use super::cache::BlockCache;
use super::holes;
use crate::base::class::SizeClass;
use crate::span::{Ground, Span, SpanId};

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
