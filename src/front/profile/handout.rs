//! A profile handed to another process: it asks through the statistics page, and reads the answer in this one's memory.
//!
//! ```text
//!   reader: what it wants ──▶ page ──▶ a slow path: writes the profile into a mapping of its own ──▶ page: where
//!   reader: reads it, and asks to take it back ──▶ page ──▶ a slow path: unmaps it
//! ```
//!
//! Nothing is written into files, so the program needs no right to any, and the reader decides where the profile goes. There
//! is one hand-out at a time: the next order of any kind takes the last one back. The mapping stands beside the books, as
//! does the snapshot that is written from: it is there for a moment, and `explain` counts it as not ours.
//!
//! # Safety
//! The mapping is this file's alone: other processes read it, and nobody here does.

use super::DEFAULT_MEAN;
use crate::base::Bytes;
use crate::base::sync::{AtomicUsize, Ordering};
use crate::front::core::HeapCore;
use crate::front::heap::Heap;
use crate::os::{System, SystemError};
use crate::stats::window::{Handed, ProfileOrder};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

/// Address space of a hand-out. A larger profile is not handed out.
const ROOM: Bytes = Bytes::mib(256);
/// Memory that a hand-out grows by.
const STEP: Bytes = Bytes::mib(1);

/// What is handed out: the address of its mapping, or 0.
pub(super) struct Handout(AtomicUsize);

/// A mapping that is being written.
struct Page {
    at: *mut u8,
    committed: usize,
    used: usize,
}

impl Handout {
    /// Nothing.
    pub(super) const fn new() -> Handout {
        Handout(AtomicUsize::new(0))
    }

    /// Puts another mapping in the place of the last, which goes.
    fn replace(&self, with: usize) {
        let old = self.0.swap(with, Ordering::AcqRel);
        if old != 0 {
            // SAFETY: a mapping of `Page::new`, as long as that, and who has swapped it out is the only one to know it.
            unsafe { System::Linux.unmap(core::ptr::with_exposed_provenance_mut(old), ROOM) };
        }
    }

    /// Takes back what is handed out.
    pub(super) fn clear(&self) {
        self.replace(0);
    }
}

impl Page {
    fn new() -> Result<Page, SystemError> {
        let at = System::Linux.reserve(ROOM, System::Linux.page_size())?;
        Ok(Page { at, committed: 0, used: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SystemError> {
        let end = self.used + bytes.len();
        while self.committed < end {
            if self.committed == ROOM.0 {
                return Err(SystemError::NO_MEMORY);
            }
            // SAFETY: whole pages of our own mapping, which they do not exceed: the room is whole steps.
            unsafe { System::Linux.commit(self.at.add(self.committed), STEP)? };
            self.committed += STEP.0;
        }
        // SAFETY: committed above, and nobody else knows the mapping.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(self.used), bytes.len()) };
        self.used = end;
        Ok(())
    }
}

impl HeapCore {
    /// Does what another process wants of the profile, and says what is to be seen on the page then.
    pub(crate) fn hand_out(&self, order: ProfileOrder) -> Handed {
        // SAFETY: the caller works on the heap, so it is there, and this handle is not dropped.
        let heap = ManuallyDrop::new(unsafe { Heap::borrowed(NonNull::from(self)) });
        let profile = heap.profile();
        self.profile.handout.clear();
        let mut handed = Handed::default();
        match order {
            ProfileOrder::TakeBack => {}
            ProfileOrder::HandOut => {
                if let Some((from, bytes)) = self.written(&heap) {
                    (handed.from, handed.bytes) = (from as u64, bytes as u64);
                }
            }
            // Refused memory shows in the mean.
            ProfileOrder::Start(mean) => {
                let _ = profile.start(if mean == Bytes::ZERO { DEFAULT_MEAN } else { mean });
            }
            ProfileOrder::Stop => profile.stop(),
        }
        handed.mean = profile.mean().map_or(0, |mean| mean.0 as u64);
        handed
    }

    /// Writes the profile into a mapping. Returns where that is; nothing where nothing was ever sampled, or the system refused.
    fn written(&self, heap: &Heap) -> Option<(usize, usize)> {
        if self.profile.committed() == Bytes::ZERO {
            return None;
        }
        let mut page = Page::new().ok()?;
        let done = heap.profile().write(|bytes| page.write(bytes));
        let at = page.at.expose_provenance();
        self.profile.handout.replace(at);
        if done.is_err() {
            self.profile.handout.clear();
            return None;
        }
        Some((at, page.used))
    }
}
