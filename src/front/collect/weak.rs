//! References that keep nothing alive: weak ones, and maps with weak keys.
//!
//! A [`Weak`] leads to its object until that is found dead. A [`WeakMap`] gives objects of one type a value each, for as
//! long as they live, without being part of them: a value is kept by its key, also where the value leads back to the key.
//! Both are outside of the heap; what they are is told in room gc, `attach`.
//!
//! An object that is to stay for as long as somebody outside needs it takes a [`Root`](super::Root): objects do not move,
//! so that is what a pin would be.
//!
//! # Safety
//! What the table of attachments says of an object is about the one of that type which it was told: its address comes from
//! a [`Gc`] of this type, and the table forgets it before the object is free.

use super::Collection;
use super::mutator::Context;
use super::refs::Gc;
use crate::base::{Address, Bytes, Exhausted};
use crate::front::heap::Heap;
use crate::gc::attach::{Length, MapId, WeakId};
use core::fmt;
use core::marker::PhantomData;

/// What a record of an attachment takes, about, for those who are refused one.
const RECORD: Bytes = Bytes(64);

/// A reference that does not keep its object alive.
///
/// ```
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let mut mutator = heap.enter()?;
/// let (root, weak) = mutator.run(|cx| {
///     let object = cx.allocate(42_u64)?;
///     Ok::<_, spanheap::Exhausted>((cx.root(object)?, cx.weak(object)?))
/// })?;
/// mutator.collect()?;
/// assert_eq!(mutator.run(|cx| weak.upgrade(cx).map(|object| *object)), Some(42));
/// drop(root);
/// mutator.collect()?;
/// assert!(mutator.run(|cx| weak.upgrade(cx).is_none()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What it is upgraded to ends with its context:
///
/// ```compile_fail
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// let mut mutator = heap.enter().unwrap();
/// let weak = mutator.run(|cx| cx.weak(cx.allocate(42_u64).unwrap()).unwrap());
/// let object = mutator.run(|cx| weak.upgrade(cx));
/// ```
pub struct Weak<'h, T> {
    heap: &'h Heap,
    collection: &'h Collection,
    id: WeakId,
    leads_to: PhantomData<fn() -> T>,
}

// SAFETY: objects are shared by all threads of a heap, and so is the table.
unsafe impl<T: Send + Sync> Send for Weak<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Weak<'_, T> {}

impl<T> Weak<'_, T> {
    /// The object, if it has not been found dead.
    ///
    /// # Panics
    /// When the context is of another heap.
    pub fn upgrade<'g>(&self, context: &Context<'g, '_>) -> Option<Gc<'g, T>> {
        assert!(context.is_of(self.heap), "a weak reference of another heap");
        let (heap, collection, member) = context.parts();
        let at = collection.with_attachments(heap, member, |table, access| table.upgrade(self.id, access))?;
        // SAFETY: the object is a `T`, and alive: it stays so until the context ends.
        Some(unsafe { Gc::new(collection.pointer(heap, at).cast()) })
    }
}

impl<T> Clone for Weak<'_, T> {
    fn clone(&self) -> Self {
        self.collection.attachments.share_weak(self.id);
        Weak { leads_to: PhantomData, ..*self }
    }
}

impl<T> Drop for Weak<'_, T> {
    fn drop(&mut self) {
        self.collection.attachments.drop_weak(self.id);
    }
}

impl<T> fmt::Debug for Weak<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(Weak)")
    }
}

/// Values for objects, kept as long as those live.
///
/// ```
/// use spanheap::{Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let mut mutator = heap.enter()?;
/// let (names, root) = mutator.run(|cx| {
///     let names = cx.weak_map()?;
///     let key = cx.allocate(1_u64)?;
///     names.insert(cx, key, cx.allocate_text("one")?)?;
///     names.insert(cx, cx.allocate(2_u64)?, cx.allocate_text("two")?)?;
///     Ok::<_, spanheap::Exhausted>((names, cx.root(key)?))
/// })?;
/// mutator.collect()?;
/// assert_eq!(names.len(), 1);
/// mutator.run(|cx| assert_eq!(names.get(cx, root.get(cx)).unwrap().text(), "one"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WeakMap<'h, K, V> {
    heap: &'h Heap,
    collection: &'h Collection,
    id: MapId,
    maps: PhantomData<fn(K) -> V>,
    takes: PhantomData<fn(V)>,
}

// SAFETY: objects are shared by all threads of a heap, and so is the table.
unsafe impl<K: Send + Sync, V: Send + Sync> Send for WeakMap<'_, K, V> {}
// SAFETY: as above.
unsafe impl<K: Send + Sync, V: Send + Sync> Sync for WeakMap<'_, K, V> {}

impl<K, V> WeakMap<'_, K, V> {
    /// Makes `value` the value of a key. Returns the one that it had.
    ///
    /// # Errors
    /// [`Exhausted`], when there is no memory for another entry. Nothing has changed.
    ///
    /// # Panics
    /// When the context is of another heap.
    pub fn insert<'g>(
        &self,
        context: &Context<'g, '_>,
        key: Gc<'g, K>,
        value: Gc<'g, V>,
    ) -> Result<Option<Gc<'g, V>>, Exhausted> {
        let (key, value) = (self.key(context, key), Address(Gc::as_ptr(value).addr()));
        let (heap, collection, member) = context.parts();
        let old = collection
            .with_attachments(heap, member, |table, access| table.insert(self.id, &key, value, access))
            .map_err(|error| collection.refused(heap, error, RECORD))?;
        Ok(old.map(|old| self.value(old)))
    }

    /// The value of a key.
    ///
    /// # Panics
    /// When the context is of another heap.
    pub fn get<'g>(&self, context: &Context<'g, '_>, key: Gc<'g, K>) -> Option<Gc<'g, V>> {
        let key = self.key(context, key);
        let (heap, collection, member) = context.parts();
        let at =
            collection.with_attachments(heap, member, |table, access| table.get(self.id, &key, access))?;
        Some(self.value(at))
    }

    /// Takes a key and its value out of the map.
    ///
    /// # Panics
    /// When the context is of another heap.
    pub fn remove<'g>(&self, context: &Context<'g, '_>, key: Gc<'g, K>) -> Option<Gc<'g, V>> {
        let key = self.key(context, key);
        let (heap, collection, member) = context.parts();
        let at =
            collection.with_attachments(heap, member, |table, access| table.remove(self.id, &key, access))?;
        Some(self.value(at))
    }

    /// Entries, those among them whose keys are dead and not found so yet.
    pub fn len(&self) -> usize {
        self.collection.attachments.entries(self.id)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key<'g>(&self, context: &Context<'g, '_>, key: Gc<'g, K>) -> crate::object::Object {
        assert!(context.is_of(self.heap), "a weak map of another heap");
        self.collection.object_of(key)
    }

    /// A value that the map said, in the hands of a context.
    fn value<'g>(&self, at: Address) -> Gc<'g, V> {
        // SAFETY: it was a `V` when it came in; its key is alive, so it is, and stays so until the context ends, since
        // it was noted on its way out.
        unsafe { Gc::new(self.collection.pointer(self.heap, at).cast()) }
    }
}

impl<K, V> Drop for WeakMap<'_, K, V> {
    fn drop(&mut self) {
        self.collection.attachments.drop_map(self.id);
    }
}

impl<K, V> fmt::Debug for WeakMap<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeakMap({} entries)", self.len())
    }
}

impl<'g, 'h> Context<'g, 'h> {
    /// A reference that leads to the object until it is found dead.
    ///
    /// # Errors
    /// [`Exhausted`], when there is no memory for it.
    pub fn weak<T>(&self, object: Gc<'g, T>) -> Result<Weak<'h, T>, Exhausted> {
        self.weak_until(object, Length::Short)
    }

    /// As [`Context::weak`], but good until the object is gone for good: it leads there also when a
    /// [finalizer](Context::on_death) has brought the object back.
    ///
    /// # Errors
    /// As [`Context::weak`].
    pub fn long_weak<T>(&self, object: Gc<'g, T>) -> Result<Weak<'h, T>, Exhausted> {
        self.weak_until(object, Length::Long)
    }

    fn weak_until<T>(&self, object: Gc<'g, T>, length: Length) -> Result<Weak<'h, T>, Exhausted> {
        let (heap, collection, member) = self.parts();
        let object = collection.object_of(object);
        let id = collection
            .with_attachments(heap, member, |table, access| table.weak(&object, length, access))
            .map_err(|error| collection.refused(heap, error, RECORD))?;
        Ok(Weak { heap, collection, id, leads_to: PhantomData })
    }

    /// A map without entries.
    ///
    /// # Errors
    /// [`Exhausted`], when there is no memory for it.
    pub fn weak_map<K, V>(&self) -> Result<WeakMap<'h, K, V>, Exhausted> {
        let (heap, collection, member) = self.parts();
        let id = collection
            .with_work(heap, member.mutator(), |work| collection.attachments.new_map(work.ground.ledger))
            .map_err(|error| collection.refused(heap, error, RECORD))?;
        Ok(WeakMap { heap, collection, id, maps: PhantomData, takes: PhantomData })
    }
}
