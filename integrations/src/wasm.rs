//! Fibers of `wasmtime` on stacks of a heap: what an async call of a Wasm function runs on.
//!
//! # Safety
//! `wasmtime` trusts a creator to hand out memory that is aligned to pages, guarded below, and nobody else's; that is what
//! a guarded [`spanheap::Stack`] is.

use core::ops::{Deref, Range};
use spanheap::base::PurposeId;
use spanheap::{Bytes, Guard, Heap, Stack, Stacks};
use wasmtime::{StackCreator, StackMemory};

/// Up to here clearing what was used is cheaper than a system call.
const CLEARED: Bytes = Bytes::kib(64);

/// Stacks for `Config::with_host_stack`. Its handle to the heap must live as long as the engine: an `Arc<Heap>`, or a
/// reference to a heap that is never dropped.
#[derive(Debug)]
pub struct FiberStacks<H> {
    heap: H,
    purpose: PurposeId,
}

struct FiberStack<H: Deref<Target = Heap>>(Stack<H>);

impl<H: Deref<Target = Heap> + Clone> FiberStacks<H> {
    /// Fiber stacks of one purpose of this heap's.
    pub fn new(heap: &H, purpose: Stacks<'_>) -> FiberStacks<H> {
        FiberStacks { heap: heap.clone(), purpose: purpose.id() }
    }
}

// SAFETY: each stack is whole system pages of its own, guarded, and all zero where that is asked for.
unsafe impl<H> StackCreator for FiberStacks<H>
where
    H: Deref<Target = Heap> + Clone + Send + Sync + 'static,
{
    fn new_stack(&self, size: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let mut stack = Stack::allocate(self.heap.clone(), self.purpose, Bytes(size), Guard::Yes)?;
        // A large stack goes back to the system instead, unless the system refuses.
        if zeroed && (stack.size() <= CLEARED || stack.release(Bytes::ZERO).is_err()) {
            stack.clear();
        }
        Ok(Box::new(FiberStack(stack)))
    }
}

// SAFETY: as above; the stack stays until this value is dropped.
unsafe impl<H: Deref<Target = Heap> + Send + Sync> StackMemory for FiberStack<H> {
    fn top(&self) -> *mut u8 {
        self.0.base().as_ptr()
    }

    fn range(&self) -> Range<usize> {
        self.0.limit().addr().get()..self.0.base().addr().get()
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let limit = self.0.limit().as_ptr();
        limit.wrapping_sub(self.0.guard().0)..limit
    }
}
