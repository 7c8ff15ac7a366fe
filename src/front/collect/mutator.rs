//! A thread's part of a collected heap, and what it may do between two safepoints.
//!
//! ```text
//!   heap.enter()        run(|cx| …)            run(|cx| …)            outside(|| …)
//!   ───────────▶ ● ───────────────────▶ ● ───────────────────▶ ● ─────────────────────▶ ●
//!                ▲ safepoint            ▲ safepoint            ▲ the collector need not wait for this thread
//! ```
//!
//! Inside of `run` the thread has references, and nothing is collected that they lead to: marking may go on at the same
//! time on other threads, and this thread helps when it allocates a lot, but no cycle begins or ends. So a program that
//! wants short pauses keeps its runs short, and one that computes for long without touching objects does that outside.
//!
//! Fibers of a thread share its place. No stack is read here, so none is registered: what a fiber needs after it was switched
//! away from it keeps in a [`Root`], as a thread does between two runs. A fiber is switched away from between runs, not in
//! the middle of one: the others could not begin theirs, since `run` borrows the [`Mutator`] exclusively. Fibers that keep
//! plain pointers on their stacks are for [`raw`](super::raw::stack).
//!
//! # Safety
//! The member is this thread's as long as the [`Mutator`] lives, which cannot leave its thread. The collector touches a
//! member's cache and buffer only while the thread stands at a safepoint or is outside.

use super::finalize::end;
use super::member::Member;
use super::refs::{Brand, Gc};
use super::root::Root;
use super::trace::Trace;
use super::{CollectError, Collection};
use crate::base::class::{MAX_SMALL, SizeClass};
use crate::base::{Address, Bytes, Exhausted, PAGE_SIZE};
use crate::front::heap::Heap;
use crate::object::class::MAX_ONE_PAGE;
use crate::object::{ShapeId, SpanClass, SpanKind};
use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;

/// A thread's place in a collected heap. It stays on its thread.
///
/// ```compile_fail,E0277
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// let mutator = heap.enter().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(|| drop(mutator)); // it cannot go to another thread
/// });
/// ```
pub struct Mutator<'h> {
    heap: &'h Heap,
    collection: &'h Collection,
    member: &'h Member,
    here: PhantomData<*mut ()>,
}

/// What a thread can do with objects between two safepoints. Its brand `'g` is unlike that of any other context, so
/// references cannot be mixed up.
pub struct Context<'g, 'h> {
    heap: &'h Heap,
    collection: &'h Collection,
    member: &'h Member,
    brand: Brand<'g>,
    here: PhantomData<*mut ()>,
}

/// How an object is to be allocated.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// The code of small objects.
    pub(super) code: SpanClass,
    /// Which words are references, for a mapped object.
    pub(super) mask: u64,
    /// Which shape, for a large one.
    pub(super) shape: ShapeId,
    pub(super) size: usize,
}

impl Heap {
    /// Joins the calling thread to the heap's collected objects. The first call makes the collector.
    ///
    /// A thread that has a mutator must pass safepoints or be [outside](Mutator::outside): everybody else waits for it
    /// when a collection begins and ends.
    ///
    /// # Errors
    /// [`CollectError`], when the system refuses memory for the collector or for this thread's part, or the thread has
    /// entered already.
    pub fn enter(&self) -> Result<Mutator<'_>, CollectError> {
        let collection = self.collection()?;
        let member = collection.join(self)?;
        Ok(Mutator { heap: self, collection, member, here: PhantomData })
    }
}

impl<'h> Mutator<'h> {
    /// The heap.
    pub fn heap(&self) -> &'h Heap {
        self.heap
    }

    /// Works with objects. No reference leaves `work`; what is to stay is put into an object, or into a
    /// [`Root`].
    #[inline]
    pub fn run<R>(&mut self, work: impl for<'g> FnOnce(&Context<'g, 'h>) -> R) -> R {
        self.safepoint();
        work(&Context::new(self.heap, self.collection, self.member))
    }

    /// A place where the collector may begin or end a cycle, and where destructors and finalizers that are due run.
    /// [`Mutator::run`] begins with one.
    #[inline(always)]
    pub fn safepoint(&mut self) {
        if self.member.station.asked() != 0 {
            self.collection.answer(self.heap, self.member);
        }
    }

    /// What the mutator is made of.
    pub(super) fn parts(&self) -> (&'h Heap, &'h Collection, &'h Member) {
        (self.heap, self.collection, self.member)
    }

    /// Does something that touches no objects and may take long: the collector does not wait for it.
    pub fn outside<R>(&mut self, work: impl FnOnce() -> R) -> R {
        /// Comes back in, also when `work` panics.
        struct Back<'a, 'h>(&'a Mutator<'h>);
        impl Drop for Back<'_, '_> {
            fn drop(&mut self) {
                self.0.collection.come_in(self.0.member);
            }
        }
        self.collection.go_out(self.heap, self.member);
        let _back = Back(self);
        work()
    }

    /// Collects now: returns when everything that was unreachable at the call is free.
    ///
    /// # Errors
    /// [`CollectError`], when there is no memory for the collector's own lists.
    pub fn collect(&mut self) -> Result<(), CollectError> {
        let (heap, collection) = (self.heap, self.collection);
        self.outside(|| collection.collect_now(heap))
    }
}

impl Drop for Mutator<'_> {
    fn drop(&mut self) {
        self.collection.part(self.heap, self.member);
    }
}

/// How objects of a type are allocated: settled when the program is compiled.
const fn plan_of<T: Trace>() -> Plan {
    let (size, words) = (size_of::<T>(), size_of::<T>() / 8);
    let class = if size <= MAX_SMALL { SizeClass::of_small(size) } else { SizeClass(0) };
    let whole = class.size() / 8;
    if !T::MAP.has_any() {
        let code = if size <= MAX_SMALL { SpanClass::new(SpanKind::Plain, class) } else { SpanClass::NONE };
        return Plan { code, mask: 0, shape: ShapeId::PLAIN, size };
    }
    assert!(size <= MAX_SMALL, "a type with references has at most 32 KiB; an array can have more");
    // Where every word is a reference, and in the long run of large types, looking at each word costs less than a map.
    if T::MAP.is_full(words) || size > MAX_ONE_PAGE {
        return Plan { code: SpanClass::new(SpanKind::Words, class), mask: 0, shape: ShapeId::WORDS, size };
    }
    debug_assert!(whole <= 64);
    let mask = T::MAP.bits()[0];
    Plan { code: SpanClass::new(SpanKind::Mapped, class), mask, shape: ShapeId::WORDS, size }
}

/// How an array of `size` bytes with items of a type is allocated.
pub(super) fn items_of<T: Trace>(size: usize) -> Plan {
    let kind = if T::MAP.has_any() { SpanKind::Words } else { SpanKind::Plain };
    let shape = if T::MAP.has_any() { ShapeId::WORDS } else { ShapeId::PLAIN };
    let code = SizeClass::of(size).map_or(SpanClass::NONE, |class| SpanClass::new(kind, class));
    Plan { code, mask: 0, shape, size }
}

impl<'g, 'h> Context<'g, 'h> {
    /// The heap.
    pub fn heap(&self) -> &'h Heap {
        self.heap
    }

    /// Allocates an object. If its type needs dropping, the value is dropped once the object has died, at a
    /// [safepoint](Mutator::safepoint) of some thread or by [`Heap::run_finalizers`], or with the heap.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way. The value is dropped then.
    #[inline(always)]
    pub fn allocate<T: Trace>(&self, value: T) -> Result<Gc<'g, T>, Exhausted> {
        const { assert!(align_of::<T>() <= 16, "objects are aligned to at most 16 bytes") };
        let plan = const { plan_of::<T>() };
        let object = self.allocate_raw(plan.size, plan)?;
        if const { core::mem::needs_drop::<T>() } {
            self.end_with(object, end::<T>, 0)?;
        }
        let object = object.cast::<T>();
        // SAFETY: fresh memory for a `T`, which nobody else knows.
        unsafe { object.write(value) };
        // SAFETY: the object was just allocated, on this context's heap.
        Ok(unsafe { Gc::new(object) })
    }

    /// As [`Context::allocate`], for a value that keeps so many more bytes elsewhere, until it is dropped: they count
    /// for the next collection as if they were objects.
    ///
    /// # Errors
    /// As [`Context::allocate`].
    pub fn allocate_with_external<T: Trace>(&self, value: T, bytes: Bytes) -> Result<Gc<'g, T>, Exhausted> {
        const { assert!(align_of::<T>() <= 16, "objects are aligned to at most 16 bytes") };
        let plan = const { plan_of::<T>() };
        let object = self.allocate_raw(plan.size, plan)?;
        self.end_with(object, end::<T>, bytes.0)?;
        let object = object.cast::<T>();
        // SAFETY: fresh memory for a `T`, which nobody else knows.
        unsafe { object.write(value) };
        // SAFETY: the object was just allocated, on this context's heap.
        Ok(unsafe { Gc::new(object) })
    }

    /// What the context is made of.
    #[inline]
    pub(super) fn parts(&self) -> (&'h Heap, &'h Collection, &'h Member) {
        (self.heap, self.collection, self.member)
    }

    /// A context of a thread that is between two safepoints.
    pub(super) fn new(heap: &'h Heap, collection: &'h Collection, member: &'h Member) -> Context<'g, 'h> {
        Context { heap, collection, member, brand: PhantomData, here: PhantomData }
    }

    /// Memory for an object, all zeros.
    #[inline(always)]
    pub(super) fn allocate_raw(&self, size: usize, plan: Plan) -> Result<NonNull<u8>, Exhausted> {
        if plan.code != SpanClass::NONE {
            // SAFETY: the cache is this thread's, which is between safepoints.
            let cache = unsafe { &mut *self.member.cache() };
            if let Some(object) = NonNull::new(cache.allocate_fast(plan.code)) {
                if plan.mask != 0 {
                    self.collection.set_map(object, plan);
                }
                return Ok(object);
            }
        }
        self.collection.allocate_slow(self.heap, self.member, plan, size)
    }

    /// Keeps an object beyond this context.
    ///
    /// # Errors
    /// [`Exhausted`], when there is no memory for another root.
    pub fn root<T: Trace>(&self, object: Gc<'g, T>) -> Result<Root<'h, T>, Exhausted> {
        let pointer = NonNull::new(Gc::as_ptr(object)).expect("a reference is not null");
        let number = self.collection.new_root(self.heap, pointer.as_ptr().addr())?;
        // SAFETY: the cell holds the object's address.
        Ok(unsafe { Root::new(self.heap, self.collection, pointer, number) })
    }

    /// Whether this is a context of that heap.
    #[inline]
    pub(super) fn is_of(&self, heap: &Heap) -> bool {
        core::ptr::eq(self.heap, heap)
    }

    /// Whether an address lies in the heap.
    #[inline(always)]
    pub(super) fn holds(&self, address: Address) -> bool {
        address.0.wrapping_sub(self.member.base()) < self.member.size()
    }

    /// Whether the collector looks at this word of this heap.
    #[inline(always)]
    pub(super) fn is_traced(&self, word: Address) -> bool {
        let offset = word.0.wrapping_sub(self.member.base());
        // SAFETY: what holds an edge that lies in the region is an object of this heap or a block; the table has a
        // code for every page below the covered ones, and that was looked at first.
        offset < self.collection.objects.covered().0
            && unsafe { self.collection.objects.code_unchecked(crate::base::PageId(offset / PAGE_SIZE)) }
                .row()
                .kind
                == SpanKind::Words
            || self.collection.is_traced(word)
    }

    /// Whether the collector marks at this time.
    #[inline(always)]
    pub(super) fn is_marking(&self) -> bool {
        self.member.is_marking()
    }

    /// Tells the collector of a reference that is overwritten, and of the one that comes in its place.
    #[cold]
    #[inline(never)]
    pub(super) fn note(&self, old: usize, new: usize) {
        self.collection.note(self.heap, self.member, old, new);
    }

    /// The answer to a request for more than any object has.
    pub(super) fn too_large(&self, size: usize) -> Exhausted {
        self.collection.too_large(self.heap, Bytes(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::collect::Edge;

    #[test]
    fn plans_follow_from_types() {
        let plain = plan_of::<[u64; 3]>();
        assert_eq!(plain.code.row().kind, SpanKind::Plain);
        assert_eq!(plan_of::<[Edge<u64>; 2]>().code.row().kind, SpanKind::Words);
        let mixed = plan_of::<(u64, Edge<u64>, u64)>();
        assert_eq!((mixed.code.row().kind, mixed.mask.count_ones()), (SpanKind::Mapped, 1));
        assert_eq!(plan_of::<[u8; 100_000]>().code, SpanClass::NONE);
        assert_eq!(plan_of::<[(u64, Edge<u64>); 100]>().code.row().kind, SpanKind::Words);
    }
}
