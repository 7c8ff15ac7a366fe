//! The collected heap for runtimes that have an object model of their own: memory by size and shape, and everything
//! that the collector must be told.
//!
//! ```text
//!   heap.enter_raw()      allocate, write, …          safepoint           outside(|| …)
//!   ─────────────────▶ ● ────────────────────▶ ● ───────────────▶ ● ─────────────────────▶ ●
//!                                              ▲ what the collector finds from here is alive:
//!                                                roots, and the stack if the thread said so
//! ```
//!
//! A [`RawMutator`] is a thread's place, like the safe face's [`Mutator`](super::Mutator), and both can be had of one
//! heap. What the borrow checker proves there is the caller's to keep here:
//!
//! 1. *An object that is used after a safepoint was reachable at it*: from a [root range](RawMutator::add_root_range),
//!    a [provider](RawMutator::add_root_provider), a [stack], a [`Root`](super::Root), or another object that was.
//!    Any word that points into an object keeps it, also an interior one and one with a tag in its low bits.
//! 2. *A pointer is stored with [`RawMutator::write`]*, into objects and into ranges and whatever providers read.
//!    An object that was allocated since the last safepoint may be filled without: it holds nothing yet, and is black if
//!    the collector marks.
//! 3. *Pointers stand where the shape says*, in whole, aligned words.
//!
//! A safepoint is what is documented as one. [`RawMutator::allocate`] is one only on threads that have their stack
//! scanned; such a thread needs no other, and a request that is refused collects and asks again.
//!
//! ## A runtime
//!
//! Objects with a header of their own: here a word that tells how many references follow.
//!
//! ```
//! use spanheap::collect::raw::{RawMutator, Recipe};
//! use spanheap::object::Shape;
//! use spanheap::{Bytes, Config, Heap};
//! use core::ptr::NonNull;
//!
//! #[repr(C)]
//! struct Pair { header: u64, number: u64, next: *mut Pair, other: *mut Pair }
//!
//! /// Puts a new pair before a list.
//! fn cons(mutator: &RawMutator, recipe: Recipe, number: u64, next: *mut Pair) -> *mut Pair {
//!     // SAFETY: the recipe is this heap's, and fits the type; the fresh object needs no barrier.
//!     unsafe {
//!         let pair = mutator.allocate_as(recipe).expect("memory").cast::<Pair>().as_ptr();
//!         (*pair).header = 2;
//!         (*pair).number = number;
//!         (*pair).next = next;
//!         pair
//!     }
//! }
//!
//! let heap = Heap::new(Config::default())?;
//! let mutator = heap.enter_raw()?;
//! let shape = mutator.register_shape(&Shape::Mask { words: 4, mask: 0b1100 })?;
//! let pair = mutator.recipe(size_of::<Pair>(), shape);
//!
//! // The runtime's globals: one pointer, which the collector reads.
//! let global = Box::leak(Box::new(core::ptr::null_mut::<Pair>()));
//! let slot = NonNull::from(global);
//! // SAFETY: the range stays, and is written with the barrier.
//! let globals = unsafe { mutator.add_root_range(slot.cast(), Bytes(8), None) }?;
//! for number in 0..1000 {
//!     // SAFETY: the list is reachable from the range, and there is no safepoint before it is.
//!     unsafe { mutator.write(slot, cons(&mutator, pair, number, *slot.as_ptr())) };
//!     cons(&mutator, pair, number, core::ptr::null_mut()); // lost at once
//!     mutator.safepoint();
//! }
//! mutator.collect()?;
//! assert_eq!(heap.collector_statistics().live, Bytes(1000 * 32));
//! mutator.remove_root_range(globals);
//! mutator.collect()?;
//! assert_eq!(heap.collector_statistics().live, Bytes(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Safety
//! The member is this thread's as long as the [`RawMutator`] lives, which cannot leave its thread. Its cache and buffer
//! are touched between safepoints only, when the collector does not.

pub mod look;
pub mod roots;
pub mod stack;

pub use look::{Census, CensusRow, Found, Pointers};
pub use roots::{ProviderId, Shader};

#[cfg(test)]
mod tests;

use super::member::Member;
use super::mutator::Plan;
use super::{CollectError, Collection};
use crate::base::class::SizeClass;
use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, Exhausted};
use crate::front::heap::Heap;
use crate::object::tiny::{BLOCK, BLOCK_CLASS};
use crate::object::{Shape, ShapeError, ShapeId, SpanClass, SpanKind};
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::AtomicPtr;

/// A thread's place in a collected heap, for a runtime that knows what it does. See the [head of this module](self).
///
/// A thread enters a heap once, by one face or the other: the collector waits for each place that is not
/// [outside](RawMutator::outside), and a thread with two would wait for itself.
pub struct RawMutator<'h> {
    heap: &'h Heap,
    collection: &'h Collection,
    member: &'h Member,
    here: PhantomData<*mut ()>,
}

/// How objects of one size and shape are allocated on one heap: settled once, used often.
#[derive(Clone, Copy)]
pub struct Recipe {
    plan: Plan,
    how: How,
}

/// What is to be done for an object beside taking a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// It shares a slot with others, at a multiple of so many bytes.
    Crumb(u8),
    /// Nothing, or setting its bits.
    Slot,
    /// Its shape is noted beside it.
    Headed,
}

impl Heap {
    /// Joins the calling thread to the heap's collected objects, as [`Heap::enter`] does, by the face for runtimes.
    ///
    /// # Errors
    /// [`CollectError`], when the system refuses memory for the collector or for this thread's part, or the thread has
    /// entered already.
    pub fn enter_raw(&self) -> Result<RawMutator<'_>, CollectError> {
        let collection = self.collection()?;
        let member = collection.join(self)?;
        Ok(RawMutator { heap: self, collection, member, here: PhantomData })
    }
}

impl<'h> RawMutator<'h> {
    /// The heap.
    pub fn heap(&self) -> &'h Heap {
        self.heap
    }

    /// Registers a shape, or finds its number again. Numbers hold for this heap, and for good.
    ///
    /// # Errors
    /// [`ShapeError`] says what is wrong with the description, or that memory was refused.
    pub fn register_shape(&self, shape: &Shape<'_>) -> Result<ShapeId, ShapeError> {
        let shapes = &self.collection.shapes;
        let registered =
            self.heap.with_local(|core, mutator, _| shapes.register(shape, core.ledger(mutator)));
        self.heap.core().note_metadata();
        registered
    }

    /// How objects of `size` bytes and of a shape are allocated. Without pointers and below 16 bytes, several share a
    /// slot, and stand at multiples of the largest power of two that divides the size, up to 8; all others stand at
    /// multiples of 16. A size may be less than the shape's: then the shape's first words count.
    ///
    /// # Panics
    /// When the shape is not registered.
    pub fn recipe(&self, size: usize, shape: ShapeId) -> Recipe {
        let shapes = &self.collection.shapes;
        let size = size.max(1);
        let Some(class) = SizeClass::of(size) else {
            // The kind is looked up when the object is made; a number that was not given out is told here.
            shapes.kind(shape, Bytes(size));
            let plan = Plan { code: SpanClass::NONE, mask: 0, shape, size };
            return Recipe { plan, how: How::Slot };
        };
        let slot = Bytes(class.size());
        let mut kind = shapes.kind(shape, slot);
        let mask = if kind == SpanKind::Mapped { shapes.mask(shape, slot) } else { 0 };
        if kind == SpanKind::Mapped && mask == 0 {
            kind = SpanKind::Plain;
        }
        let how = match kind {
            SpanKind::Plain if size < BLOCK => How::Crumb(1 << size.trailing_zeros().min(3)),
            SpanKind::Headed => How::Headed,
            _ => How::Slot,
        };
        Recipe { plan: Plan { code: SpanClass::new(kind, class), mask, shape, size }, how }
    }

    /// Allocates `size` bytes, all zeros, of a shape. A safepoint on threads whose [stack] is scanned.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    ///
    /// # Panics
    /// When the shape is not registered.
    ///
    /// # Safety
    /// The thread is not [outside](RawMutator::outside), and keeps what the [head of this module](self) says of the object.
    pub unsafe fn allocate(&self, size: usize, shape: ShapeId) -> Result<NonNull<u8>, Exhausted> {
        // SAFETY: the caller's promise; the recipe was just made.
        unsafe { self.allocate_as(self.recipe(size, shape)) }
    }

    /// As [`RawMutator::allocate`], by a recipe.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    ///
    /// # Safety
    /// As for [`RawMutator::allocate`]; the recipe was made on this heap.
    #[inline]
    pub unsafe fn allocate_as(&self, recipe: Recipe) -> Result<NonNull<u8>, Exhausted> {
        let plan = recipe.plan;
        // SAFETY: the cache is this thread's, which is between safepoints.
        let cache = unsafe { &mut *self.member.cache() };
        let object = match recipe.how {
            How::Crumb(align) => cache.allocate_crumb(plan.size, align as usize),
            _ if plan.code == SpanClass::NONE => core::ptr::null_mut(),
            _ => cache.allocate_fast(plan.code),
        };
        match NonNull::new(object) {
            Some(object) if recipe.how == How::Slot && plan.mask == 0 => Ok(object),
            Some(object) => Ok(self.describe(object, recipe)),
            None => self.allocate_slow(recipe),
        }
    }

    /// Says where the pointers of a fresh object are.
    #[inline]
    fn describe(&self, object: NonNull<u8>, Recipe { plan, how }: Recipe) -> NonNull<u8> {
        if plan.mask != 0 {
            self.collection.set_map(object, plan);
        } else if how == How::Headed {
            let objects = &self.collection.objects;
            let place = objects.find(Address::of(object.as_ptr())).expect("a fresh slot is an object");
            objects.set_shape_at(place.first_page, place.index as usize, plan.shape);
        }
        object
    }

    #[cold]
    #[inline(never)]
    fn allocate_slow(&self, recipe: Recipe) -> Result<NonNull<u8>, Exhausted> {
        let mut plan = recipe.plan;
        if recipe.how != How::Slot && recipe.how != How::Headed {
            plan.code = BLOCK_CLASS;
        }
        if self.member.stack.is_scanned() {
            self.safepoint();
        }
        let mut made = self.collection.allocate_slow(self.heap, self.member, plan, plan.size);
        // Whoever holds references on a scanned stack only can be helped by a collection at any time.
        if made.is_err() && self.member.stack.is_scanned() && self.collect().is_ok() {
            made = self.collection.allocate_slow(self.heap, self.member, plan, plan.size);
        }
        made.map(|object| self.describe(object, recipe))
    }

    /// Stores a pointer into an object or a root: the write barrier, and the store itself, with release. The collector
    /// learns of what the place held and of what it will hold; any bit patterns are fine.
    ///
    /// # Safety
    /// The place can be written, and the thread is not [outside](RawMutator::outside).
    #[inline(always)]
    pub unsafe fn write<T>(&self, slot: NonNull<*mut T>, new: *mut T) {
        // SAFETY: the caller's promise; a place of a pointer is aligned for one.
        let slot = unsafe { AtomicPtr::from_ptr(slot.as_ptr()) };
        if self.member.is_marking() {
            self.note(slot.load(Ordering::Relaxed).addr(), new.addr());
        }
        slot.store(new, Ordering::Release);
    }

    /// The barrier without the store: tells the collector of the word that is about to be overwritten, and of the one
    /// that comes in its place. For stores of other kinds, and for pointers that are not words.
    #[inline]
    pub fn barrier(&self, old: usize, new: usize) {
        if self.member.is_marking() {
            self.note(old, new);
        }
    }

    #[cold]
    #[inline(never)]
    fn note(&self, old: usize, new: usize) {
        self.must_run();
        self.collection.note(self.heap, self.member, old, new);
    }

    /// A place where the collector may begin or end a cycle. One load and one branch, unless it is asking.
    ///
    /// # Panics
    /// When the thread is [outside](RawMutator::outside).
    #[inline(always)]
    pub fn safepoint(&self) {
        if self.member.station.asked() != 0 {
            self.answer();
        }
    }

    #[cold]
    #[inline(never)]
    fn answer(&self) {
        self.must_run();
        self.member.stack.noted(|| self.collection.answer(self.heap, self.member));
    }

    /// Does something that touches no objects and may take long: the collector does not wait for it. A safepoint.
    ///
    /// # Panics
    /// When the thread is outside already.
    pub fn outside<R>(&self, work: impl FnOnce() -> R) -> R {
        /// Comes back in, also when `work` panics.
        struct Back<'a, 'h>(&'a RawMutator<'h>);
        impl Drop for Back<'_, '_> {
            fn drop(&mut self) {
                self.0.collection.come_in(self.0.member);
            }
        }
        self.must_run();
        self.member.stack.noted(|| {
            self.collection.go_out(self.heap, self.member);
            let _back = Back(self);
            work()
        })
    }

    /// Collects now: returns when everything that was unreachable at the call is free. A safepoint.
    ///
    /// # Errors
    /// [`CollectError`], when there is no memory for the collector's own lists.
    ///
    /// # Panics
    /// When the thread is [outside](RawMutator::outside).
    pub fn collect(&self) -> Result<(), CollectError> {
        self.outside(|| self.collection.collect_now(self.heap))
    }

    /// What only a thread may do that is not outside.
    fn must_run(&self) {
        assert!(self.member.station.is_running(), "a thread that is outside touches no objects");
    }
}

impl Drop for RawMutator<'_> {
    fn drop(&mut self) {
        self.member.stack.forget();
        self.collection.part(self.heap, self.member);
    }
}
