//! What is to happen when objects die: destructors of values, and finalizers that a program attaches.
//!
//! ```text
//!   allocate(value that needs dropping) ─▶ destructor ─┐                        safepoint, run_finalizers
//!   on_death(object, function) ─────────▶ finalizer ──┴─▶ found dead: due ─────▶ run, once ─▶ memory is free when the
//!                                                          (room gc, attach)                   object is dead again
//! ```
//!
//! 1. A value that needs dropping is dropped once: when its object has died, or with the heap. Never inside of a run.
//! 2. A destructor's object is nobody's any more: no reference and no weak reference leads there.
//! 3. A finalizer's object is alive again while it runs, with all that it holds; it may be stored anywhere. It is
//!    dropped when it has died again.
//!
//! Whoever comes to a safepoint runs what is due; a program that wants it on a thread of its own has that thread
//! call [`Heap::run_finalizers`] often. A panic comes out of the safepoint; what panicked counts as run. Finalizers of
//! objects that are alive when their heap is dropped do not run: they may ask for a context, and there is none any more.
//!
//! # Safety
//! Functions go through the table of attachments as numbers. Each is stored by the one place that knows its type, and
//! called with the object that it was stored for. Destructors look at no edge ([`Trace`](super::Trace)), so it does not
//! matter what became of other objects.

use super::member::Member;
use super::mutator::{Context, Mutator};
use super::refs::Gc;
use super::{CollectError, Collection};
use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, Exhausted};
use crate::front::heap::Heap;
use crate::gc::attach::{Due, Finalizer};
use crate::object::Object;
use core::ptr::{self, NonNull};

/// Ends a value in place.
pub(super) type End = unsafe fn(NonNull<u8>);
/// Runs a finalizer: the object, and the program's function.
type Run = unsafe fn(&Context<'_, '_>, NonNull<u8>, usize);
/// A finalizer as a program writes it.
pub type OnDeath<T> = for<'g, 'h> fn(&Context<'g, 'h>, Gc<'g, T>);

/// # Safety
/// A `T` is there, and nobody uses it afterwards.
pub(super) unsafe fn end<T>(at: NonNull<u8>) {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<T>().drop_in_place() }
}

/// # Safety
/// The object is an alive `T`, of the context's heap; the number is an `OnDeath<T>`.
unsafe fn run<T>(context: &Context<'_, '_>, at: NonNull<u8>, function: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let function: OnDeath<T> =
            core::mem::transmute::<*const (), OnDeath<T>>(ptr::with_exposed_provenance(function));
        function(context, Gc::new(at.cast()));
    }
}

/// One that runs; when it is dropped, it has run.
struct Running<'a> {
    collection: &'a Collection,
    heap: &'a Heap,
    member: &'a Member,
    due: Option<Due>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let due = self.due.take().expect("it ends once");
        self.collection.with_attachments(self.heap, self.member, |table, access| table.done(due, access));
        self.collection.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A member that is outside while this lives.
struct Outside<'a>(&'a Collection, &'a Member);

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.0.come_in(self.1);
    }
}

impl Collection {
    /// Runs what is due. Returns how many there were. The calling thread's member is at a safepoint.
    pub(super) fn run_due(&self, heap: &Heap, member: &Member) -> usize {
        let mut count = 0;
        while let Some(due) = self.attachments.next_due() {
            self.running.fetch_add(1, Ordering::Relaxed);
            let running = Running { collection: self, heap, member, due: Some(due) };
            self.run_one(running);
            count += 1;
        }
        count
    }

    fn run_one(&self, running: Running<'_>) {
        let Running { heap, member, due: Some(due), .. } = &running else { return };
        let (at, finalizer) = (self.pointer(heap, due.object), due.finalizer);
        let function = ptr::with_exposed_provenance::<()>(finalizer.function);
        if due.is_destructor {
            // It may take long, and touches no objects.
            self.go_out(heap, member);
            let _outside = Outside(self, member);
            self.pacing.add_external(-(finalizer.data as i64));
            // SAFETY: the number was an `End` for this object, which nobody leads to any more.
            unsafe { core::mem::transmute::<*const (), End>(function)(at) };
        } else {
            let context = Context::new(heap, self, member);
            // SAFETY: the number was a `Run` for this object, which is kept until it is done.
            unsafe { core::mem::transmute::<*const (), Run>(function)(&context, at, finalizer.data) };
        }
    }

    /// Drops all values that need it and were not dropped.
    ///
    /// The heap goes: no context is open, and no thread sweeps.
    pub(crate) fn drop_values(&self, heap: &Heap) {
        self.attachments.for_each_destructor(&mut |object, finalizer| {
            let function = ptr::with_exposed_provenance::<()>(finalizer.function);
            // SAFETY: as in `run_one`; nobody has a reference at all. The value was not dropped: a destructor that has
            // begun to run is not visited.
            unsafe { core::mem::transmute::<*const (), End>(function)(self.pointer(heap, object)) };
        });
    }

    /// The memory at an address of the heap.
    pub(super) fn pointer(&self, heap: &Heap, at: Address) -> NonNull<u8> {
        NonNull::new(heap.core().pages.region().pointer(at)).expect("objects do not lie at zero")
    }

    /// The object that a reference leads to.
    pub(super) fn object_of<T>(&self, object: Gc<'_, T>) -> Object {
        let at = Address(Gc::as_ptr(object).addr());
        self.objects.find(at).expect("a reference leads to an object")
    }
}

impl Heap {
    /// Runs the finalizers and destructors that are due, on this thread. Returns how many ran.
    ///
    /// ```
    /// use spanheap::{Config, Heap, collect::Plain};
    ///
    /// let heap = Heap::new(Config::default())?;
    /// let mut mutator = heap.enter()?;
    /// mutator.run(|cx| cx.allocate(Plain(String::from("garbage"))).map(drop))?;
    /// mutator.collect()?;
    /// drop(mutator);
    /// assert_eq!(heap.run_finalizers()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CollectError`], when the thread cannot enter the heap.
    pub fn run_finalizers(&self) -> Result<usize, CollectError> {
        Ok(self.enter()?.run_finalizers())
    }
}

impl Mutator<'_> {
    /// Runs the finalizers and destructors that are due, on this thread. Returns how many ran. A
    /// [safepoint](Mutator::safepoint) after a collection does so as well.
    pub fn run_finalizers(&mut self) -> usize {
        let (heap, collection, member) = self.parts();
        collection.run_due(heap, member)
    }
}

impl<'g> Context<'g, '_> {
    /// Has `function` called once when the object has died, instead of what was to be called so far. It gets the object,
    /// alive again, and may store it. What the object holds does not die before it; so an object that holds itself, over
    /// however many steps, is never found dead.
    ///
    /// The function knows what it is given and no more: a closure with values of its own does not fit.
    ///
    /// ```compile_fail,E0308
    /// use spanheap::{Config, Heap};
    ///
    /// let heap = Heap::new(Config::default()).unwrap();
    /// let count = std::cell::Cell::new(0);
    /// heap.enter().unwrap().run(|cx| {
    ///     let object = cx.allocate(7_u64).unwrap();
    ///     cx.on_death(object, |_, _| count.set(1)).unwrap();
    /// });
    /// ```
    ///
    /// # Errors
    /// [`Exhausted`], when there is no memory to note it. Nothing has changed.
    pub fn on_death<T>(&self, object: Gc<'g, T>, function: OnDeath<T>) -> Result<(), Exhausted> {
        let (heap, collection, member) = self.parts();
        let object = collection.object_of(object);
        let (run, data): (Run, usize) = (run::<T>, function as *const () as usize);
        let finalizer = Finalizer { function: run as *const () as usize, data, is_traced: false };
        let wanted = Bytes(size_of::<Finalizer>());
        collection
            .with_attachments(heap, member, |table, access| table.set_finalizer(&object, finalizer, access))
            .map_err(|error| collection.refused(heap, error, wanted))?;
        Ok(())
    }

    /// Has a fresh object's value ended when it has died; `external` bytes elsewhere are gone then.
    pub(super) fn end_with(&self, object: NonNull<u8>, end: End, external: usize) -> Result<(), Exhausted> {
        let (heap, collection, member) = self.parts();
        let at = Address(object.as_ptr().addr());
        let object = collection.objects.find(at).expect("it was just allocated");
        let destructor = Finalizer { function: end as *const () as usize, data: external, is_traced: false };
        let wanted = Bytes(size_of::<Finalizer>());
        collection
            .with_attachments(heap, member, |table, access| table.set_destructor(&object, destructor, access))
            .map_err(|error| collection.refused(heap, error, wanted))?;
        collection.pacing.add_external(external as i64);
        Ok(())
    }
}
