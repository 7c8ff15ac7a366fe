//! Roots: references from outside of the heap.
//!
//! A root is a cell in a table that the collector scans whole. It is set once, when it is made, so there is nothing to
//! note when it changes. What a dropped root held may be all that was reachable from it:
//!
//! 1. While the collector marks, a dropped root keeps its cell and what that holds, tagged as dropped; such cells are
//!    given back after the cycle.
//! 2. Otherwise its cell is given back at once. If marking begins just then and misses the cell: nobody had a reference
//!    from this root, since references end at the safepoint where marking began, and nobody gets one any more.
//!
//! # Safety
//! A root's object is alive as long as the root is: the collector finds it in the cell.

use super::Collection;
use super::mutator::Context;
use super::refs::Gc;
use crate::base::sync::Ordering;
use crate::front::heap::Heap;
use crate::os::Zeroed;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;

/// The address of an object; the lowest bit says that the root was dropped. Zero while the cell is free.
pub(super) struct Cell(pub(super) AtomicUsize);

// SAFETY: zero is a free cell.
unsafe impl Zeroed for Cell {}

/// Said of a root that was dropped while the collector marked.
const DROPPED: usize = 1;

/// A reference that outlives safepoints: its object stays as long as the root does. It may be held anywhere and dropped
/// on any thread.
///
/// ```
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let mut mutator = heap.enter()?;
/// let root = mutator.run(|cx| cx.root(cx.allocate(42_u64)?))?;
/// mutator.collect()?;
/// assert_eq!(mutator.run(|cx| *root.get(cx)), 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A root cannot outlive its heap:
///
/// ```compile_fail,E0505
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// let mut mutator = heap.enter().unwrap();
/// let root = mutator.run(|cx| cx.root(cx.allocate(42_u64).unwrap())).unwrap();
/// drop(mutator);
/// drop(heap); // the root still borrows it
/// drop(root);
/// ```
pub struct Root<'h, T> {
    heap: &'h Heap,
    collection: &'h Collection,
    object: NonNull<T>,
    cell: u32,
    holds: PhantomData<fn() -> T>,
}

// SAFETY: objects are shared by all threads of a heap, and so is the table of cells.
unsafe impl<T: Send + Sync> Send for Root<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Root<'_, T> {}

impl<'h, T> Root<'h, T> {
    /// # Safety
    /// The cell was taken for this root and holds the object's address.
    pub(super) unsafe fn new(
        heap: &'h Heap,
        collection: &'h Collection,
        object: NonNull<T>,
        cell: u32,
    ) -> Self {
        Root { heap, collection, object, cell, holds: PhantomData }
    }

    /// The object, for as long as the context lasts.
    ///
    /// # Panics
    /// When the context is of another heap.
    #[inline]
    pub fn get<'g>(&self, context: &Context<'g, '_>) -> Gc<'g, T> {
        assert!(context.is_of(self.heap), "a root of another heap");
        // SAFETY: the root keeps the object alive up to here, and the open context from here on.
        unsafe { Gc::new(self.object) }
    }
}

impl<T> Drop for Root<'_, T> {
    fn drop(&mut self) {
        self.collection.drop_root(self.cell);
    }
}

impl<T> fmt::Debug for Root<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({:p})", self.object)
    }
}

impl Collection {
    pub(super) fn drop_root(&self, number: u32) {
        let cell = self.roots.get(number).expect("a root has a cell");
        if self.is_marking() {
            cell.0.fetch_or(DROPPED, Ordering::Relaxed);
        } else {
            cell.0.store(0, Ordering::Relaxed);
            self.roots.give(number);
        }
    }

    /// Gives back the cells of roots that were dropped while the collector marked.
    pub(super) fn give_dropped_roots(&self) {
        for number in 0..self.roots.fresh() {
            let Some(cell) = self.roots.get(number) else { continue };
            if cell.0.load(Ordering::Relaxed) & DROPPED != 0 {
                cell.0.store(0, Ordering::Relaxed);
                self.roots.give(number);
            }
        }
    }
}
