//! What the mutators share: slabs, and which stacks in them are free.
//!
//! For each kind of stacks and each class there are two lists of slabs: *partial* ones, some of whose stacks somebody
//! has, and *empty* ones, which nobody has anything of. Partial slabs are used first, so that empty ones stay empty
//! and can go. Slabs that have nothing to give are in no list.
//!
//! ```text
//!            the last free stack goes            the last stack comes back
//!   (none) ◀──────────────────────── partial ──────────────────────────▶ empty ──▶ freed
//!      │                              ▲   ▲                                │
//!      └──────────────────────────────┘   └────────────────────────────────┘
//!             a stack comes back                     a stack goes
//! ```
//!
//! All of it changes under one lock, which is held for a few dozen instructions and never across a system call:
//! slabs are made before they come in, and taken apart after they went out.
//!
//! # Safety
//! All-zero memory is a kind without slabs. Tables are unmapped when nobody looks at a stack any more.

use super::class::{CLASSES, IN_SLAB, StackClass};
use super::slab::{Guards, Phase, Slab, StackId, StackRecord};
use crate::base::purpose::{STACK_KINDS, StackKind};
use crate::base::sync::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use crate::base::{Address, Bytes, Guard, Lock, PageId, Rank};
use crate::os::{System, SystemError, Table, Zeroed};
use crate::span::SpanId;
use crate::stats::{Ledger, MetadataKind};

/// Bytes of empty slabs that a kind keeps for the next ones who need stacks.
pub const MOST_IDLE: Bytes = Bytes::mib(32);

/// Every stack of a heap.
pub struct StackPool {
    pub(super) slabs: Table<Slab>,
    pub(super) kinds: Table<Kind>,
    pub(super) state: Lock<State>,
    /// Guards that are in place.
    pub(super) guards: AtomicUsize,
}

/// The lists of one kind of stacks; guarded by the pool's lock.
pub(super) struct Kind {
    pub(super) partial: [AtomicU32; CLASSES],
    pub(super) empty: [AtomicU32; CLASSES],
    /// The stack that was parked last.
    pub(super) parked: AtomicU32,
    /// Bytes of the empty slabs.
    pub(super) idle: AtomicUsize,
}

/// The pool's records.
pub(super) struct State {
    /// The lowest number that no slab ever had.
    pub(super) fresh: u32,
    /// The first of the records that nobody uses, linked by `after`.
    pub(super) unused: u32,
}

// SAFETY: zeros are a kind without slabs.
unsafe impl Zeroed for Kind {}

impl StackPool {
    /// A pool for at most `spans` slabs.
    ///
    /// # Errors
    /// When the system refuses the address space, or memory for the lists.
    pub fn reserve(system: System, spans: usize, ledger: Ledger<'_>) -> Result<StackPool, SystemError> {
        let kind = MetadataKind::Stacks;
        // A stack's number has 32 bits.
        let most = spans.min(u32::MAX as usize / IN_SLAB - 1);
        let kinds = Table::reserve(system, kind, STACK_KINDS, c"spanheap: kinds of stacks", ledger)?;
        let slabs = Table::reserve(system, kind, most + 1, c"spanheap: stacks", ledger);
        // SAFETY: the tables were made here, and nobody has seen them.
        let slabs = slabs.inspect_err(|_| unsafe { kinds.destroy() })?;
        Ok(StackPool {
            slabs,
            kinds,
            state: Lock::new(Rank::Stacks, State { fresh: 1, unused: 0 }),
            guards: AtomicUsize::new(0),
        })
    }

    /// Guards that are in place.
    pub fn guards(&self) -> usize {
        self.guards.load(Relaxed)
    }

    pub(super) fn slab(&self, number: u32) -> &Slab {
        self.slabs.get(number as usize).expect("slabs have numbers that were given out")
    }

    pub(super) fn record(&self, stack: StackId) -> &StackRecord {
        &self.slab(stack.slab()).stacks[stack.place()]
    }

    pub(super) fn kind(&self, kind: StackKind) -> Option<&Kind> {
        self.kinds.get(kind.index())
    }

    /// Slabs with a span, by number.
    pub(super) fn live(&self) -> impl Iterator<Item = (u32, &Slab)> {
        let known = |number| self.slabs.get(number as usize).map(|slab| (number, slab));
        (1..u32::MAX).map_while(known).filter(|(_, slab)| slab.span.load(Relaxed) != 0)
    }

    /// Takes a record for a slab that is about to be made, and sees to it that its kind has lists.
    pub(super) fn take_record(&self, kind: StackKind, ledger: Ledger<'_>) -> Result<u32, SystemError> {
        let mut state = self.state.lock();
        self.kinds.ensure(kind.index()..kind.index() + 1, ledger)?;
        if state.unused != 0 {
            let number = state.unused;
            state.unused = self.slab(number).after.load(Relaxed);
            return Ok(number);
        }
        let number = state.fresh;
        if number as usize >= self.slabs.capacity() {
            return Err(SystemError::NO_MEMORY);
        }
        self.slabs.ensure(number as usize..number as usize + 1, ledger)?;
        state.fresh += 1;
        Ok(number)
    }

    /// Gives a record back whose slab is gone, or never was.
    pub(super) fn give_record(&self, number: u32) {
        let mut state = self.state.lock();
        let slab = self.slab(number);
        slab.close();
        slab.after.store(state.unused, Relaxed);
        state.unused = number;
    }

    /// Opens a slab: from here on others may take its stacks.
    pub(super) fn open(
        &self,
        number: u32,
        span: SpanId,
        page: PageId,
        kind: StackKind,
        class: StackClass,
        guards: Guards,
    ) {
        let state = self.state.lock();
        self.slab(number).open(span, page, kind, class, guards);
        self.list(&state, number);
    }

    /// Takes up to `most` free stacks of a class, and hands each to `with`. Returns how many.
    pub(super) fn take(
        &self,
        kind: StackKind,
        class: StackClass,
        most: usize,
        mut with: impl FnMut(StackId),
    ) -> usize {
        let Some(lists) = self.kind(kind) else { return 0 };
        let state = self.state.lock();
        let mut taken = 0;
        while taken < most {
            let first = [&lists.partial, &lists.empty].map(|list| list[class.index()].load(Relaxed));
            let Some(&number) = first.iter().find(|&&number| number != 0) else { break };
            let slab = self.slab(number);
            self.unlist(&state, number);
            while slab.free.load(Relaxed) != 0 && taken < most {
                let place = slab.free.load(Relaxed).trailing_zeros() as usize;
                slab.take(place);
                with(StackId::new(number, place));
                taken += 1;
            }
            self.list(&state, number);
        }
        taken
    }

    /// Puts stacks back into their slabs, the first first.
    pub(super) fn put(&self, stacks: impl Iterator<Item = StackId>) {
        let state = self.state.lock();
        for stack in stacks {
            self.unlist(&state, stack.slab());
            self.slab(stack.slab()).put(stack.place());
            self.list(&state, stack.slab());
        }
    }

    /// Lays a stack aside until the cycle ends.
    pub(super) fn park(&self, kind: StackKind, stack: StackId) {
        let lists = self.kind(kind).expect("a stack's kind has lists");
        let _state = self.state.lock();
        let record = self.record(stack);
        record.set_phase(Phase::Parked);
        record.next.store(lists.parked.load(Relaxed), Relaxed);
        lists.parked.store(stack.0, Relaxed);
    }

    /// Takes all stacks of a kind that were laid aside: the first of a list linked by `next`.
    pub(super) fn take_parked(&self, kind: StackKind) -> StackId {
        let Some(lists) = self.kind(kind) else { return StackId::NONE };
        let _state = self.state.lock();
        StackId(lists.parked.swap(0, Relaxed))
    }

    /// Takes an empty slab out, if the kind has more bytes of them than `keep`: its stacks are nobody's, and the
    /// caller's to take apart. Passes over slabs up to number `after`.
    pub(super) fn take_idle(&self, kind: StackKind, keep: Bytes, after: u32) -> Option<u32> {
        let lists = self.kind(kind)?;
        let state = self.state.lock();
        if lists.idle.load(Relaxed) <= keep.0 {
            return None;
        }
        let mut firsts = lists.empty.iter().map(|list| list.load(Relaxed));
        let number = firsts.find_map(|first| {
            let mut chain = self.chain(first);
            chain.find(|&number| number > after)
        })?;
        self.unlist(&state, number);
        Some(number)
    }

    /// Takes the stacks out of a slab that are free and were used since their memory was last given back. Returns their
    /// bits.
    pub(super) fn take_dirty(&self, number: u32) -> u16 {
        let state = self.state.lock();
        let slab = self.slab(number);
        let dirty = slab.free.load(Relaxed) & slab.dirty.load(Relaxed);
        if slab.span.load(Relaxed) == 0 || dirty == 0 {
            return 0;
        }
        self.unlist(&state, number);
        slab.free.store(slab.free.load(Relaxed) & !dirty, Relaxed);
        self.list(&state, number);
        dirty
    }

    /// Puts them back; those among `clean` read as zero now.
    pub(super) fn put_cleaned(&self, number: u32, taken: u16, clean: u16) {
        let state = self.state.lock();
        let slab = self.slab(number);
        self.unlist(&state, number);
        slab.free.store(slab.free.load(Relaxed) | taken, Relaxed);
        // Stacks of the slab that somebody else takes at this moment set their bits without the lock.
        slab.dirty.fetch_and(!clean, Relaxed);
        self.list(&state, number);
    }

    /// Puts a slab back that was taken out and could not be taken apart.
    pub(super) fn relist(&self, number: u32) {
        let state = self.state.lock();
        self.list(&state, number);
    }

    /// Slabs of a list, from one on.
    pub(super) fn chain(&self, first: u32) -> impl Iterator<Item = u32> {
        let mut at = first;
        core::iter::from_fn(move || {
            let number = at;
            (number != 0).then(|| {
                at = self.slab(number).after.load(Relaxed);
                number
            })
        })
    }

    /// Stacks of a list linked by `next`, from one on. A stack may be moved once it was seen.
    pub(super) fn stacks_from(&self, first: StackId) -> impl Iterator<Item = StackId> {
        let mut at = first;
        core::iter::from_fn(move || {
            let stack = at;
            (stack != StackId::NONE).then(|| {
                at = StackId(self.record(stack).next.load(Relaxed));
                stack
            })
        })
    }

    /// The list that a slab belongs into now.
    fn list_of(&self, slab: &Slab) -> Option<&AtomicU32> {
        let lists = self.kind(slab.kind()).expect("a slab's kind has lists");
        let class = slab.class().index();
        match slab.free.load(Relaxed) {
            0 => None,
            free if free == slab.all() => Some(&lists.empty[class]),
            _ => Some(&lists.partial[class]),
        }
    }

    /// Puts a slab into the list that it belongs into.
    fn list(&self, _state: &Guard<'_, State>, number: u32) {
        let slab = self.slab(number);
        self.count_idle(slab, usize::wrapping_add);
        let Some(head) = self.list_of(slab) else { return };
        let after = head.load(Relaxed);
        slab.before.store(0, Relaxed);
        slab.after.store(after, Relaxed);
        if after != 0 {
            self.slab(after).before.store(number, Relaxed);
        }
        head.store(number, Relaxed);
    }

    /// Takes a slab out of the list that it is in.
    fn unlist(&self, _state: &Guard<'_, State>, number: u32) {
        let slab = self.slab(number);
        self.count_idle(slab, usize::wrapping_sub);
        let Some(head) = self.list_of(slab) else { return };
        let (before, after) = (slab.before.load(Relaxed), slab.after.load(Relaxed));
        if before == 0 {
            head.store(after, Relaxed);
        } else {
            self.slab(before).after.store(after, Relaxed);
        }
        if after != 0 {
            self.slab(after).before.store(before, Relaxed);
        }
    }

    /// Counts an empty slab.
    fn count_idle(&self, slab: &Slab, change: fn(usize, usize) -> usize) {
        if slab.free.load(Relaxed) == slab.all() {
            let idle = &self.kind(slab.kind()).expect("a slab's kind has lists").idle;
            idle.store(change(idle.load(Relaxed), slab.class().pages().bytes().0), Relaxed);
        }
    }

    /// Bytes committed for the records.
    pub fn committed(&self) -> Bytes {
        self.slabs.committed_bytes() + self.kinds.committed_bytes()
    }

    /// The addresses that are reserved for the records.
    pub fn reservations(&self) -> [(Address, Bytes); 2] {
        [self.slabs.reservation(), self.kinds.reservation()]
    }

    /// Where the memory behind the records lies.
    pub fn committed_ranges(&self) -> impl Iterator<Item = (Address, Bytes)> {
        self.slabs.committed_ranges().chain(self.kinds.committed_ranges())
    }

    /// Takes the lock, before a `fork`.
    pub fn acquire_for_fork(&self) {
        self.state.acquire();
    }

    /// Gives it back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`StackPool::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise is the lock's contract.
        unsafe { self.state.release() }
    }

    /// Unmaps the records.
    ///
    /// # Safety
    /// Nobody looks at a stack any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.slabs.destroy();
            self.kinds.destroy();
        }
    }
}
