//! References, and places that hold them.
//!
//! A value and a place holding a value are two types. [`Gc`] is a reference in a thread's hands: it lives between two
//! safepoints, where nothing is collected, and its brand ties it to the one [`Context`] it came from. [`Edge`] is a
//! place inside an object: it outlives safepoints because the collector looks there. [`Root`](super::Root) is a place
//! outside of the heap.
//!
//! # Safety
//! A [`Gc`] points to an object that is alive: it was just allocated, or read from a live object's edge or from a root,
//! and since then there was no safepoint, since a `Context` has none. While the collector marks, what was reachable
//! when it began stays (overwritten references are noted), and what was allocated since stays as well.
//!
//! An edge is only ever set where the collector looks at it: [`Edge::set`] refuses an edge that does not lie on such a
//! word of the context's heap.

use super::mutator::Context;
use super::trace::{Map, Trace};
use crate::base::Address;
use crate::base::sync::Ordering;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicPtr;

/// Ties a value to one context: neither longer nor shorter lifetimes fit.
pub(super) type Brand<'g> = PhantomData<fn(&'g ()) -> &'g ()>;

/// A reference to an object, good until the context that it came from ends.
///
/// It cannot leave its context:
///
/// ```compile_fail
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// let mut mutator = heap.enter().unwrap();
/// let outside = mutator.run(|cx| cx.allocate(7_u64).unwrap()); // the object might be gone by now
/// ```
///
/// nor go to another heap:
///
/// ```compile_fail
/// use spanheap::{Config, Edge, Heap};
///
/// let (one, two) = (Heap::new(Config::default()).unwrap(), Heap::new(Config::default()).unwrap());
/// let (mut one, mut two) = (one.enter().unwrap(), two.enter().unwrap());
/// one.run(|here| {
///     let mine = here.allocate(7_u64).unwrap();
///     two.run(|there| {
///         let holder = there.allocate(Edge::<u64>::null()).unwrap();
///         holder.set(there, Some(mine)); // `mine` is of another heap
///     })
/// });
/// ```
///
/// nor to another thread, which would not stop for it:
///
/// ```compile_fail,E0277
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// heap.enter().unwrap().run(|cx| {
///     let object = cx.allocate(7_u64).unwrap();
///     std::thread::scope(|scope| {
///         scope.spawn(|| *object);
///     });
/// });
/// ```
/// nor be kept in an object, which has [`Edge`]s for that:
///
/// ```compile_fail,E0106
/// use spanheap::{Gc, Trace};
///
/// #[derive(Trace)]
/// struct Pair {
///     first: Gc<Pair>, // for how long?
/// }
/// ```
///
/// And while there are references, nobody collects:
///
/// ```compile_fail,E0499
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// let mut mutator = heap.enter().unwrap();
/// mutator.run(|cx| {
///     let object = cx.allocate(7_u64).unwrap(); // kept by no root
///     mutator.collect().unwrap();
///     *object
/// });
/// ```
pub struct Gc<'g, T: ?Sized> {
    pointer: NonNull<T>,
    brand: Brand<'g>,
}

/// A place for a reference inside an object. It may be empty.
///
/// Any thread may set and get it at any time; who gets a reference sees the object as it was when the edge was set, or
/// later.
#[repr(transparent)]
pub struct Edge<T> {
    pointer: AtomicPtr<T>,
}

impl<'g, T: ?Sized> Gc<'g, T> {
    /// # Safety
    /// The object is alive, of the heap of the context with this brand.
    #[inline(always)]
    pub(super) unsafe fn new(pointer: NonNull<T>) -> Gc<'g, T> {
        Gc { pointer, brand: PhantomData }
    }

    /// The object's address. Objects do not move.
    #[inline]
    pub fn as_ptr(this: Gc<'g, T>) -> *mut T {
        this.pointer.as_ptr()
    }

    /// Whether both are the same object.
    #[inline]
    pub fn ptr_eq(one: Gc<'g, T>, other: Gc<'g, T>) -> bool {
        ptr::addr_eq(one.pointer.as_ptr(), other.pointer.as_ptr())
    }

    /// The object, for as long as the context lasts.
    #[inline]
    pub fn get(self) -> &'g T {
        // SAFETY: the object is alive as long as the brand's context is open, and it is only ever shared.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: ?Sized> Clone for Gc<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Gc<'_, T> {}

impl<T: ?Sized> Deref for Gc<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: as for `get`.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Gc<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for Gc<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Edge<T> {
    /// An empty place.
    #[inline(always)]
    #[must_use]
    pub const fn null() -> Edge<T> {
        Edge { pointer: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The object that the place holds, if any.
    ///
    /// # Panics
    /// When the object is of another heap than the context.
    #[inline(always)]
    pub fn get<'g>(&self, context: &Context<'g, '_>) -> Option<Gc<'g, T>> {
        let pointer = NonNull::new(self.pointer.load(Ordering::Acquire))?;
        if !context.holds(Address(pointer.as_ptr().addr())) {
            elsewhere();
        }
        // SAFETY: an edge that is not empty was set, so it lies where the collector looks. Its holder is alive, or
        // nobody could have come here; so is the object, and stays so while a context of its heap is open.
        Some(unsafe { Gc::new(pointer) })
    }

    /// Whether the place is empty.
    #[inline]
    pub fn is_null(&self) -> bool {
        self.pointer.load(Ordering::Relaxed).is_null()
    }

    /// Puts a reference into the place, or empties it.
    ///
    /// # Panics
    /// When the edge is not part of an object of the context's heap, at a place where its type's map says that there
    /// may be references.
    #[inline(always)]
    pub fn set<'g>(&self, context: &Context<'g, '_>, value: Option<Gc<'g, T>>) {
        let new = value.map_or(ptr::null_mut(), Gc::as_ptr);
        if !context.is_traced(Address(ptr::from_ref(self).addr())) {
            outside();
        }
        if context.is_marking() {
            context.note(self.pointer.load(Ordering::Relaxed).addr(), new.addr());
        }
        self.pointer.store(new, Ordering::Release);
    }

    /// Puts a reference into the place if it holds `current`, and says what it held.
    ///
    /// # Errors
    /// What the place holds, if that is not `current`.
    ///
    /// # Panics
    /// As [`Edge::set`].
    pub fn compare_exchange<'g>(
        &self,
        context: &Context<'g, '_>,
        current: Option<Gc<'g, T>>,
        value: Option<Gc<'g, T>>,
    ) -> Result<(), Option<Gc<'g, T>>> {
        let [current, new] = [current, value].map(|value| value.map_or(ptr::null_mut(), Gc::as_ptr));
        if !context.is_traced(Address(ptr::from_ref(self).addr())) {
            outside();
        }
        if context.is_marking() {
            // Noting too much keeps some garbage for one cycle; noting after the exchange would be too late.
            context.note(current.addr(), new.addr());
        }
        match self.pointer.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            // SAFETY: as in `get`.
            Err(held) => Err(NonNull::new(held).map(|held| unsafe { Gc::new(held) })),
        }
    }
}

#[cold]
#[inline(never)]
fn outside() -> ! {
    panic!(
        "an edge was set that is no part of an object on the context's heap, where the collector would see it"
    )
}

#[cold]
#[inline(never)]
fn elsewhere() -> ! {
    panic!("an edge was read in a context of another heap")
}

impl<T> Default for Edge<T> {
    fn default() -> Edge<T> {
        Edge::null()
    }
}

impl<T> fmt::Debug for Edge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Edge({:p})", self.pointer.load(Ordering::Relaxed))
    }
}

// SAFETY: the word itself is the reference.
unsafe impl<T: Send + Sync + 'static> Trace for Edge<T> {
    const MAP: Map = Map::every_word_of::<Self>();
}
