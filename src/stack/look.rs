//! Looking at stacks: by address, for the collector, and how deep one was used.
//!
//! Nothing here takes a lock. An address leads through the map to a span, whose word names the slab; the collector walks
//! all slabs. Both may run beside changes: they see a stack before a change or after it, and its memory stays mapped.
//!
//! The *watermark* is found by looking for the first word that is not zero, from the far end up. Memory fresh from the
//! system is zero and stacks grow down, so everything below that word was never used, by this holder or one before,
//! since the memory came from the system. No system call is needed; the price is paid by who asks: reading an
//! untouched page costs about as much as a cache miss, and no memory. (`mincore` and the page map know pages only, and
//! cost a call each.) What a frame leaves at zero at its very end is not seen; a return address is never zero.
//!
//! # Safety
//! Stacks are read, and cleared, for their holder, who promises that nothing runs on them, or bears that what is read
//! changes meanwhile.

use super::class::Guard;
use super::pool::StackPool;
use super::slab::{Activity, Phase, StackId};
use crate::base::purpose::StackKind;
use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, PurposeId};
use crate::os::SystemError;
use crate::span::PageHeap;

/// Where a stack lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackPlace {
    /// The lowest address.
    pub limit: Address,
    /// Bytes up to the highest.
    pub size: Bytes,
    /// Bytes of the guard that ends at `limit`.
    pub guard: Bytes,
}

impl StackPlace {
    /// One past the highest address: where the first frame begins.
    pub fn base(&self) -> Address {
        Address(self.limit.0 + self.size.0)
    }

    /// Whether an address is in the guard.
    pub fn is_in_guard(&self, address: Address) -> bool {
        self.limit.0.wrapping_sub(address.0).wrapping_sub(1) < self.guard.0
    }
}

/// A stack as others may see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackView {
    /// Its number.
    pub id: StackId,
    /// Where it lies.
    pub place: StackPlace,
    /// What its purpose is among those of stacks.
    pub kind: StackKind,
    /// Whether somebody has it.
    pub phase: Phase,
    /// What runs on it.
    pub activity: Activity,
}

impl StackView {
    /// What a collector must scan: from here up to the base is alive. `None` if nothing is known to be, or a thread is
    /// running there, whose own stack pointer counts.
    pub fn live_from(&self) -> Option<Address> {
        match self.activity {
            Activity::Parked(from) => Some(from.max(self.place.limit).min(self.place.base())),
            Activity::Unregistered | Activity::Running | Activity::Finished => None,
        }
    }
}

impl StackPool {
    /// A stack by number.
    pub fn view(&self, heap: &PageHeap, id: StackId) -> StackView {
        let (slab, record) = (self.slab(id.slab()), self.record(id));
        let class = slab.class();
        let low = heap.region().address(slab.page()).0 + slab.offset_of(id.place());
        let guard = if class.guard() == Guard::Yes { class.guard_size() } else { Bytes::ZERO };
        StackView {
            id,
            place: StackPlace { limit: Address(low), size: class.size(), guard },
            kind: slab.kind(),
            phase: record.phase(),
            activity: record.activity(),
        }
    }

    /// The stack that an address belongs to, be it in the stack or in its guard; any bit pattern is fine.
    pub fn find(&self, heap: &PageHeap, address: Address) -> Option<(StackView, PurposeId)> {
        let (span_id, span) = heap.find(address)?;
        let number = u32::try_from(span.word().load(Ordering::Acquire)).ok().filter(|&number| number != 0)?;
        // Blocks use the word for something else: only a slab that names this span back is one.
        let slab = self.slabs.get(number as usize)?;
        if slab.span.load(Ordering::Relaxed) != span_id.0 || slab.page() != span.page() {
            return None;
        }
        let offset = address.0 - heap.region().address(slab.page()).0;
        let place = offset / slab.class().stride().0;
        (place < slab.count()).then(|| (self.view(heap, StackId::new(number, place)), span.purpose()))
    }

    /// Every stack whose holder says what runs on it: roots for a collector.
    pub fn registered<'a>(&'a self, heap: &'a PageHeap) -> impl Iterator<Item = StackView> + 'a {
        let places = self.live().flat_map(|(number, slab)| (0..slab.count()).map(move |at| (number, at)));
        places
            .map(|(number, place)| self.view(heap, StackId::new(number, place)))
            .filter(|view| view.phase == Phase::InUse && view.activity != Activity::Unregistered)
    }

    /// Says what runs on a stack.
    pub fn set_activity(&self, id: StackId, activity: Activity) {
        self.record(id).set_activity(activity);
    }

    /// The holder's own word beside the stack.
    pub fn word(&self, id: StackId) -> &crate::base::sync::AtomicUsize {
        &self.record(id).word
    }

    /// Bytes from the base down to the deepest that was used since the memory came from the system.
    ///
    /// # Safety
    /// The stack is somebody's, so it stays where it is.
    pub unsafe fn watermark(&self, heap: &PageHeap, id: StackId) -> Bytes {
        const WORD: usize = size_of::<usize>();
        let place = self.view(heap, id).place;
        let low = heap.region().pointer(place.limit).cast::<usize>();
        let used = |word: &usize| {
            // SAFETY: the stack is mapped, and aligned to a system page or at least to its size. What runs on it may
            // write meanwhile, and a word is read whole.
            unsafe { low.add(*word).read_volatile() != 0 }
        };
        let words = place.size.0 / WORD;
        let deepest = (0..words).find(used).unwrap_or(words);
        Bytes((words - deepest) * WORD)
    }

    /// Has the system take what lies more than `keep` bytes below the base. It reads as zero afterwards. Returns the bytes.
    ///
    /// # Errors
    /// What the system says; nothing has changed.
    ///
    /// # Safety
    /// The caller holds the stack, and nobody needs what is there.
    pub unsafe fn renew(&self, heap: &PageHeap, id: StackId, keep: Bytes) -> Result<Bytes, SystemError> {
        let (system, place) = (heap.system(), self.view(heap, id).place);
        let page = system.page_size().0;
        let from = place.limit.0.next_multiple_of(page);
        let to = place.base().0.saturating_sub(keep.0) / page * page;
        if from >= to {
            return Ok(Bytes::ZERO);
        }
        // SAFETY: whole pages of the stack, which nobody needs.
        unsafe { system.renew(heap.region().pointer(Address(from)), Bytes(to - from))? };
        Ok(Bytes(to - from))
    }
}
