//! Stacks as a program holds them.
//!
//! [`Stacks`] is a capability like [`Purpose`](crate::Purpose), for a purpose whose spans hold stacks and nothing else.
//! A [`Stack`] is owned: it goes back when it is dropped, on whatever thread. It keeps its heap by any handle that leads
//! to one (`&Heap`, `Arc<Heap>`), so that it can be moved into a fiber that outlives the function which made it.
//!
//! # Safety
//! A stack's memory is its holder's until it is dropped. What runs on it is the holder's business, and must have ended, or
//! never go on, by then.

use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, PurposeId, PurposeName};
use crate::front::core::HeapCore;
use crate::front::heap::Heap;
use crate::front::{process, threads};
use crate::os::SystemError;
use crate::span::{Meter, Release};
use crate::stack::{Activity, Guard, Phase, StackError, StackId, StackView};
use core::fmt::{self, Write};
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;

/// The right to allocate stacks of one purpose from one heap.
///
/// ```
/// use spanheap::{Bytes, Config, Guard, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let fibers = heap.declare_stacks("fibers")?;
/// let stack = fibers.allocate(Bytes::kib(16), Guard::Yes)?;
/// assert_eq!(stack.base().as_ptr() as usize - stack.limit().as_ptr() as usize, 16 << 10);
/// assert_eq!(heap.snapshot().mem_stats().stack_inuse, fibers.inuse().0 as i64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Stacks<'h> {
    heap: &'h Heap,
    purpose: PurposeId,
}

/// A stack that belongs to its holder. It is freed when it is dropped, by whatever thread.
pub struct Stack<H: Deref<Target = Heap>> {
    heap: ManuallyDrop<H>,
    raw: RawStack,
}

/// A stack without its heap: what is left of a [`Stack`] that somebody else looks after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawStack {
    id: StackId,
    limit: NonNull<u8>,
    size: Bytes,
    guard: Bytes,
}

// SAFETY: a stack belongs to its holder alone, whatever thread that is on; the heap's handle may go there too.
unsafe impl<H: Deref<Target = Heap> + Send> Send for Stack<H> {}
// SAFETY: shared access only reads, or changes atomics.
unsafe impl<H: Deref<Target = Heap> + Sync> Sync for Stack<H> {}
// SAFETY: a number and a place; whoever makes a stack of it again promises to be the only one.
unsafe impl Send for RawStack {}
// SAFETY: as above.
unsafe impl Sync for RawStack {}

impl<'h> Stacks<'h> {
    pub(crate) fn new(heap: &'h Heap, purpose: PurposeId) -> Stacks<'h> {
        Stacks { heap, purpose }
    }

    /// The heap.
    pub fn heap(&self) -> &'h Heap {
        self.heap
    }

    /// The purpose's number in the books.
    pub fn id(&self) -> PurposeId {
        self.purpose
    }

    /// The purpose's name.
    pub fn name(&self) -> PurposeName {
        self.heap.core().meters.name(self.purpose)
    }

    fn meter(&self) -> &'h Meter {
        self.heap.core().meters.get(self.purpose)
    }

    /// Allocates a stack of at least `size` bytes, beside its guard. What it holds is undefined.
    ///
    /// # Errors
    /// [`StackError`], when a limit or the system stands in the way.
    pub fn allocate(&self, size: Bytes, guard: Guard) -> Result<Stack<&'h Heap>, StackError> {
        Stack::allocate(self.heap, self.purpose, size, guard)
    }

    /// Gives back what stacks hold that nobody uses: those of the calling thread, of parked threads, and those that are
    /// free for everyone. Returns the bytes that the system has back.
    pub fn release(&self) -> Bytes {
        self.heap.release_stacks()
    }

    /// Bytes of the purpose's spans now: stacks in use, those that wait, and guards.
    pub fn inuse(&self) -> Bytes {
        self.meter().inuse()
    }

    /// The most bytes that the purpose's spans ever had at once.
    pub fn peak(&self) -> Bytes {
        self.meter().peak()
    }

    /// The limit above which stacks are refused.
    pub fn limit(&self) -> Option<Bytes> {
        self.meter().hard_limit()
    }

    /// Sets or lifts the limit above which stacks are refused. What is above it already stays.
    pub fn set_limit(&self, limit: Option<Bytes>) {
        self.meter().set_hard_limit(limit);
    }
}

impl<H: Deref<Target = Heap>> Stack<H> {
    /// As [`Stacks::allocate`], for a holder with a handle of its own to the heap. `purpose` is one of stacks.
    ///
    /// # Errors
    /// [`StackError`], when a limit or the system stands in the way.
    ///
    /// # Panics
    /// When the purpose is not one of stacks.
    pub fn allocate(heap: H, purpose: PurposeId, size: Bytes, guard: Guard) -> Result<Stack<H>, StackError> {
        let kind = heap.core().meters.stack_kind(purpose);
        let kind = kind.unwrap_or_else(|| panic!("{purpose:?} is not a purpose of stacks"));
        let id = heap.with_local(|core, mutator, local| {
            mutator.visit();
            let mut work = core.stack_work(mutator, local);
            let id = work.allocate(purpose, kind, size, guard);
            if work.made {
                core.note_metadata();
            }
            id
        })?;
        let core = heap.core();
        core.tell();
        let place = core.stacks.view(&core.pages, id).place;
        let limit = NonNull::new(core.pages.region().pointer(place.limit)).expect("a region is not at zero");
        let raw = RawStack { id, limit, size: place.size, guard: place.guard };
        Ok(Stack { heap: ManuallyDrop::new(heap), raw })
    }

    /// Takes a stack up again.
    ///
    /// # Safety
    /// `raw` came from [`Stack::into_raw`] of a stack of this heap, and no other stack was made of it.
    pub unsafe fn from_raw(heap: H, raw: RawStack) -> Stack<H> {
        Stack { heap: ManuallyDrop::new(heap), raw }
    }

    /// Lets go of the heap's handle and keeps the stack in use, until somebody takes it up again.
    pub fn into_raw(self) -> RawStack {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: the stack is not dropped, and the handle not used again.
        unsafe { ManuallyDrop::drop(&mut this.heap) };
        this.raw
    }

    /// The stack without its heap.
    pub fn raw(&self) -> RawStack {
        self.raw
    }

    /// One past the highest address: the first frame begins there. A multiple of 2 KiB at least.
    pub fn base(&self) -> NonNull<u8> {
        self.raw.base()
    }

    /// The lowest address. Below it lies the guard, if there is one.
    pub fn limit(&self) -> NonNull<u8> {
        self.raw.limit
    }

    /// Bytes between limit and base: at least what was asked for.
    pub fn size(&self) -> Bytes {
        self.raw.size
    }

    /// Bytes of the guard below the limit; none if there is no guard.
    pub fn guard(&self) -> Bytes {
        self.raw.guard
    }

    /// The stack's number, which messages name.
    pub fn number(&self) -> u32 {
        self.raw.id.number()
    }

    /// Says what runs on the stack, so that a collector can scan it. A stack nobody says anything about is not scanned.
    ///
    /// # Safety
    /// It is true until the next call. In particular, what lies above the stack pointer of [`Activity::Parked`] can be
    /// read.
    pub unsafe fn set_activity(&self, activity: Activity) {
        self.heap.core().stacks.set_activity(self.raw.id, activity);
    }

    /// What the holder says that runs on the stack.
    pub fn activity(&self) -> Activity {
        let core = self.heap.core();
        core.stacks.view(&core.pages, self.raw.id).activity
    }

    /// A word of the holder's own, kept beside the stack: zero in a stack that was just allocated.
    pub fn word(&self) -> usize {
        self.heap.core().stacks.word(self.raw.id).load(Ordering::Acquire)
    }

    /// Sets the holder's word.
    pub fn set_word(&self, word: usize) {
        self.heap.core().stacks.word(self.raw.id).store(word, Ordering::Release);
    }

    /// How many bytes, from the base down, were used since the memory came from the system: by this holder, or by one
    /// before it, unless it was [cleared](Stack::clear). Takes time: untouched pages are looked at.
    pub fn watermark(&self) -> Bytes {
        let core = self.heap.core();
        // SAFETY: the stack is in use as long as this value lives.
        unsafe { core.stacks.watermark(&core.pages, self.raw.id) }
    }

    /// Fills what was used with zeros, so that the [watermark](Stack::watermark) tells of what comes. Nothing runs on the
    /// stack at this moment.
    pub fn clear(&mut self) {
        let used = self.watermark().0;
        // SAFETY: the stack is borrowed exclusively, so nothing runs on it.
        unsafe { self.base().as_ptr().sub(used).write_bytes(0, used) };
    }

    /// Has the system take all whole pages that lie more than `keep` bytes below the base. Returns their bytes. Nothing
    /// runs on the stack below that at this moment.
    ///
    /// # Errors
    /// What the system says, for instance because the program locked its memory; nothing has changed.
    pub fn release(&mut self, keep: Bytes) -> Result<Bytes, SystemError> {
        let core = self.heap.core();
        // SAFETY: the stack is borrowed exclusively, so nobody needs what it holds beyond `keep`.
        unsafe { core.stacks.renew(&core.pages, self.raw.id, keep) }
    }
}

impl RawStack {
    /// One past the highest address.
    pub fn base(&self) -> NonNull<u8> {
        // SAFETY: one past the end of the stack.
        unsafe { self.limit.add(self.size.0) }
    }

    /// The lowest address.
    pub fn limit(&self) -> NonNull<u8> {
        self.limit
    }

    /// Bytes between limit and base.
    pub fn size(&self) -> Bytes {
        self.size
    }
}

impl<H: Deref<Target = Heap>> Drop for Stack<H> {
    fn drop(&mut self) {
        self.heap.with_local(|core, mutator, local| {
            mutator.visit();
            // SAFETY: the holder gives the stack up.
            unsafe { core.stack_work(mutator, local).free(self.raw.id) };
        });
        // SAFETY: the handle is not used again.
        unsafe { ManuallyDrop::drop(&mut self.heap) };
    }
}

impl<H: Deref<Target = Heap>> fmt::Debug for Stack<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stack({}, {} at {:?})", self.number(), self.size(), self.limit())
    }
}

/// As [`Heap::describe_overflow`], for whichever heap of this process the stack is from.
pub fn describe_overflow(address: Address, out: &mut impl Write) -> bool {
    let of_process = process::existing().is_some_and(|heap| describe(heap.core(), address, out));
    of_process || threads::try_any_living(|core| describe(core, address, out))
}

fn describe(core: &HeapCore, address: Address, out: &mut impl Write) -> bool {
    let Some((view, purpose)) = core.stacks.find(&core.pages, address) else { return false };
    let place = view.place;
    if !place.is_in_guard(address) {
        return false;
    }
    let purpose = core.meters.name(purpose);
    let (number, size, limit, base) = (view.id.number(), place.size, place.limit, place.base());
    // Who cannot be told cannot be helped.
    let _ = write!(
        out,
        "stack overflow: stack {number} of {purpose}, {size} at {limit}..{base}; access to {address}, in its guard"
    );
    true
}

impl Heap {
    /// The stack that an address belongs to, be it in the stack or in its guard; any bit pattern is fine. Takes no lock.
    pub fn find_stack(&self, address: Address) -> Option<StackView> {
        let core = self.core();
        core.stacks.find(&core.pages, address).map(|(view, _)| view)
    }

    /// Writes what happened if an access to `address` was an overflow of one of this heap's stacks. Returns whether it
    /// was. For the handler of a signal: takes no lock and allocates nothing.
    pub fn describe_overflow(&self, address: Address, out: &mut impl Write) -> bool {
        describe(self.core(), address, out)
    }

    /// The [word](Stack::word) that the holder of the stack which an address belongs to has set; none if it is zero, and
    /// where no stack in use is.
    pub fn holders_word(&self, address: Address) -> Option<usize> {
        let core = self.core();
        let (view, _) = core.stacks.find(&core.pages, address)?;
        let word = core.stacks.word(view.id).load(Ordering::Acquire);
        (view.phase == Phase::InUse && word != 0).then_some(word)
    }

    /// Every stack whose holder says what runs on it. Takes no lock: stacks that come and go meanwhile may be missing,
    /// and memory of those that are seen stays.
    pub fn registered_stacks(&self) -> impl Iterator<Item = StackView> {
        let core = self.core();
        core.stacks.registered(&core.pages)
    }

    /// As [`Stack::set_activity`], for a stack that somebody else looks after, such as a coroutine.
    ///
    /// # Safety
    /// As there; and the stack is one of this heap's that is not dropped.
    pub unsafe fn set_stack_activity(&self, stack: RawStack, activity: Activity) {
        self.core().stacks.set_activity(stack.id, activity);
    }

    fn release_stacks(&self) -> Bytes {
        let core = self.core();
        core.flush_parked();
        self.with_local(|core, mutator, local| {
            let (slabs, renewed) = core.stack_work(mutator, local).release();
            let work = core.work(mutator, local);
            work.ground.flush(work.spans);
            renewed + work.ground.release(slabs, Release::OnRequest)
        })
    }
}
