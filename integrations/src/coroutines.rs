//! Coroutines of `corosensei` on stacks of a heap.
//!
//! A [`CollectedCoroutine`] may hold plain pointers to collected objects ([`spanheap::collect::raw`]): the collector knows
//! what runs on its stack. While it is suspended, the whole stack is read, since `corosensei` does not tell where it
//! stopped. What was never used of it reads as zeros and costs no memory; what is left of frames that have returned may keep
//! an object that nobody needs.
//!
//! # Safety
//! `corosensei` trusts a stack to be memory from limit to base that nobody else uses, with a guard below; that is what a
//! guarded [`spanheap::Stack`] is.

use core::num::NonZeroUsize;
use core::ops::Deref;
use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use spanheap::base::Address;
use spanheap::collect::raw::RawMutator;
use spanheap::{Activity, Bytes, Guard, Heap, RawStack, StackError, Stacks};

/// A guarded stack for a coroutine.
///
/// ```
/// use corosensei::{Coroutine, CoroutineResult};
/// use spanheap::{Bytes, Config, Heap};
/// use spanheap_integrations::coroutines::CoroutineStack;
/// use std::sync::Arc;
///
/// let heap = Arc::new(Heap::new(Config::default())?);
/// let stack = CoroutineStack::new(&heap, heap.declare_stacks("coroutines")?, Bytes::kib(16))?;
/// let mut coroutine = Coroutine::with_stack(stack, |yielder, input| yielder.suspend(input + 1));
/// assert_eq!(coroutine.resume(1), CoroutineResult::Yield(2));
/// assert_eq!(coroutine.resume(3), CoroutineResult::Return(3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CoroutineStack<H: Deref<Target = Heap>>(spanheap::Stack<H>);

impl<H: Deref<Target = Heap> + Clone> CoroutineStack<H> {
    /// A guarded stack of a purpose of this heap's, of at least `size` bytes, and of at least what a coroutine needs. A
    /// coroutine borrows nothing, so the handle to the heap is an `Arc<Heap>`, or leads to a heap that is never dropped.
    ///
    /// # Errors
    /// [`StackError`], when a limit or the system stands in the way.
    pub fn new(heap: &H, stacks: Stacks<'_>, size: Bytes) -> Result<CoroutineStack<H>, StackError> {
        let least = Bytes(corosensei::stack::MIN_STACK_SIZE);
        spanheap::Stack::allocate(heap.clone(), stacks.id(), size.max(least), Guard::Yes).map(CoroutineStack)
    }
}

impl<H: Deref<Target = Heap>> CoroutineStack<H> {
    /// The stack. What runs on it is known when the coroutine is.
    pub fn stack(&self) -> &spanheap::Stack<H> {
        &self.0
    }
}

// SAFETY: the memory between limit and base is the stack's alone until it is dropped, both are aligned to a system page,
// and touching the guard below is a fault.
unsafe impl<H: Deref<Target = Heap>> Stack for CoroutineStack<H> {
    fn base(&self) -> StackPointer {
        NonZeroUsize::from(self.0.base().addr())
    }

    fn limit(&self) -> StackPointer {
        NonZeroUsize::from(self.0.limit().addr())
    }
}

/// A coroutine whose stack a collector reads: objects that only it leads to live until the coroutine has ended.
pub struct CollectedCoroutine<Input, Yield, Return, H: Deref<Target = Heap>> {
    coroutine: Coroutine<Input, Yield, Return, CoroutineStack<H>>,
    stack: RawStack,
}

impl<Input, Yield, Return, H: Deref<Target = Heap>> CollectedCoroutine<Input, Yield, Return, H> {
    /// A coroutine that has not begun. What `main` brings along stands on its stack, and is alive from here on.
    ///
    /// # Safety
    /// What `main` borrows outlives the coroutine. The coroutine is resumed, and dropped, on a thread that has its stack
    /// scanned ([`RawMutator::with_stack`]) and is not outside; if what is dropped with it while it is suspended touches
    /// objects, inside of [`RawMutator::on_stack`]. It stays on the stack that it is given.
    pub unsafe fn new<F>(stack: CoroutineStack<H>, main: F) -> Self
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return,
    {
        let raw = stack.0.raw();
        // SAFETY: all of a stack can be read, and nothing runs there; what `main` borrows, the caller promises.
        unsafe {
            stack.0.set_activity(whole(raw));
            CollectedCoroutine { coroutine: Coroutine::with_stack_unchecked(stack, main), stack: raw }
        }
    }

    /// Goes on where the coroutine was suspended. `mutator` is the calling thread's.
    ///
    /// # Panics
    /// When the coroutine has ended, when it panics, and when its stack is not of the mutator's heap.
    pub fn resume(&mut self, mutator: &RawMutator<'_>, input: Input) -> CoroutineResult<Yield, Return> {
        let (heap, stack) = (mutator.heap(), self.stack);
        let found = heap.find_stack(Address::of(stack.limit().as_ptr()));
        assert!(found.is_some(), "the coroutine's stack is of another heap");
        let mut after = Said { heap, stack, activity: Activity::Finished };
        // SAFETY: the stack is this heap's and the coroutine's, which runs there until it comes back.
        let result = unsafe {
            heap.set_stack_activity(stack, Activity::Running);
            mutator.on_stack(|| self.coroutine.resume(input))
        };
        if matches!(result, CoroutineResult::Yield(_)) {
            after.activity = whole(stack);
        }
        result
    }

    /// Whether the coroutine has ended.
    pub fn is_done(&self) -> bool {
        self.coroutine.done()
    }
}

/// A stack that is read from end to end.
fn whole(stack: RawStack) -> Activity {
    Activity::Parked(Address::of(stack.limit().as_ptr()))
}

/// What is to be said of a stack when a coroutine comes back, also by a panic.
struct Said<'h> {
    heap: &'h Heap,
    stack: RawStack,
    activity: Activity,
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        // SAFETY: the coroutine has come back, and holds its stack; there was no safepoint since.
        unsafe { self.heap.set_stack_activity(self.stack, self.activity) };
    }
}
