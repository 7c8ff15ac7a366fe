//! Objects that are freed by hand, where a runtime's interface has that.
//!
//! A large object is gone at once, with its span. A slot is not: its span may be in somebody's cache, or full and in
//! nobody's hands, and to put it where its slots are found again would take a word of state for every span. So whoever
//! frees slots keeps them, hands them out again as it likes, and gives back what is left when the world stands still
//! before marking begins, or before it ends. The sweep that follows finds them free.
//!
//! # Safety
//! What is freed is the caller's alone: it was allocated, and nobody uses it any more.

use super::central::{ObjectWork, Objects};
use super::find::Object;
use super::meta::GROUP;
use crate::base::Bytes;
use crate::base::sync::Ordering;
use crate::stats::ClassEvent;

impl Objects {
    /// Takes back a slot. Its span need not be in its set afterwards: sweeping follows, which sees to that. Returns its
    /// bytes if it was marked: they are counted among those that are.
    ///
    /// # Safety
    /// The object is one in a slot, and nobody uses it any more. The world stands still, nothing waits to be swept, no
    /// cache has anything, and nothing is allocated before marking begins, or ends.
    pub unsafe fn take_back(&self, object: &Object, work: &ObjectWork<'_, '_>) -> Bytes {
        debug_assert!(object.class.is_small() && self.is_swept());
        let meta = self.meta(object.first_page).expect("objects have metadata");
        let (group, bit) = (object.index as usize / GROUP, 1 << (object.index as usize % GROUP));
        meta.dirty.fetch_or(1 << group, Ordering::Relaxed);
        meta.allocs.0[group].fetch_and(!bit, Ordering::Release);
        meta.scans.0[group].fetch_and(!bit, Ordering::Relaxed);
        let was_marked = meta.marks.0[group].fetch_and(!bit, Ordering::Relaxed) & bit != 0;
        self.subtract_live(object.size);
        let class = object.class.row().class.0 as usize;
        work.ground.ledger.post(|entry| entry.objects(class, ClassEvent::Freed, 1));
        if was_marked { object.size } else { Bytes::ZERO }
    }

    /// Frees a large object. Returns whether it could: one that somebody sweeps just now, or that nobody has reached in
    /// this cycle, is the sweeper's.
    ///
    /// # Safety
    /// The object is a large one, and nobody uses it any more. Nobody marks meanwhile.
    pub unsafe fn free_large(&self, object: &Object, work: &mut ObjectWork<'_, '_>) -> bool {
        debug_assert!(object.class.is_large() && !self.is_marking());
        let meta = self.meta(object.first_page).expect("objects have metadata");
        if self.is_unswept(meta) {
            return false;
        }
        let pages = meta.pages();
        self.subtract_live(object.size);
        work.ground.ledger.post(|entry| entry.large_objects(ClassEvent::Freed, 1, object.size));
        meta.allocs.0[0].store(0, Ordering::Relaxed);
        self.close(object.first_page, pages);
        // SAFETY: the caller's promise; the span holds nothing else, and nobody sweeps it.
        unsafe { work.ground.free(work.spans, meta.span(), pages) };
        true
    }

    /// What is alive has become less.
    fn subtract_live(&self, bytes: Bytes) {
        let less = |live: usize| Some(live.saturating_sub(bytes.0));
        let _ = self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}
