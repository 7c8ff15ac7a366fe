//! Coroutines of `corosensei` on stacks of a heap.
//!
//! # Safety
//! `corosensei` trusts a stack to be memory from limit to base that nobody else uses, with a guard below; that is what a
//! guarded [`spanheap::Stack`] is.

use core::num::NonZeroUsize;
use core::ops::Deref;
use corosensei::stack::{Stack, StackPointer};
use spanheap::{Bytes, Guard, Heap, StackError, Stacks};

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
