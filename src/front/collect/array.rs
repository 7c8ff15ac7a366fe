//! Arrays on the heap: a length, and as many items.
//!
//! # Safety
//! An array's memory holds `length` items behind the header; they were all written before the array was handed out.
//! The items are reached by the pointer to the whole object, which a [`Gc`] carries.

use super::mutator::Context;
use super::refs::Gc;
use super::trace::Trace;
use crate::base::Exhausted;
use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use core::slice;

/// An array of items in one object. Its length never changes; items that are edges or atomics can.
///
/// ```
/// use spanheap::{Config, Edge, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let mut mutator = heap.enter()?;
/// mutator.run(|cx| {
///     let squares = cx.allocate_array(5, |at| (at * at) as u64)?;
///     assert_eq!(squares.items(), [0, 1, 4, 9, 16]);
///     let text = cx.allocate_text("a string")?;
///     assert_eq!(text.text(), "a string");
///     Ok::<(), spanheap::Exhausted>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[repr(C)]
pub struct Array<T> {
    length: usize,
    items: [T; 0],
    holds: PhantomData<T>,
}

impl<T> Array<T> {
    /// Bytes before the first item.
    pub(super) const HEADER: usize = core::mem::offset_of!(Array<T>, items);

    /// How many items there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of an array; `None` where that is more than any object has.
    pub(super) fn size(length: usize) -> Option<usize> {
        const { assert!(align_of::<T>() <= 16, "items are aligned to at most 16 bytes") };
        let size = size_of::<T>().checked_mul(length)?.checked_add(Array::<T>::HEADER)?;
        (size <= isize::MAX as usize).then_some(size)
    }
}

/// Drops the items of an array.
///
/// # Safety
/// An array of `T` is there, and nobody uses it afterwards.
unsafe fn end_items<T>(at: NonNull<u8>) {
    // SAFETY: the caller's promise: so many items lie behind the header.
    unsafe {
        let items = at.byte_add(Array::<T>::HEADER).cast::<T>();
        NonNull::slice_from_raw_parts(items, (*at.cast::<Array<T>>().as_ptr()).length).drop_in_place();
    }
}

impl<'g, T> Gc<'g, Array<T>> {
    /// The items.
    #[inline]
    pub fn items(self) -> &'g [T] {
        let whole = Gc::as_ptr(self);
        // SAFETY: the object is alive as long as its brand's context is open; so many items lie behind the header.
        unsafe { slice::from_raw_parts(whole.byte_add(Array::<T>::HEADER).cast::<T>(), (*whole).length) }
    }
}

impl<'g> Gc<'g, Array<u8>> {
    /// The bytes as text, up to the first that is not UTF-8.
    pub fn text(self) -> &'g str {
        match core::str::from_utf8(self.items()) {
            Ok(text) => text,
            Err(error) => {
                let (good, _) = self.items().split_at(error.valid_up_to());
                core::str::from_utf8(good).unwrap_or_default()
            }
        }
    }
}

impl<'g> Context<'g, '_> {
    /// Allocates an array of `length` items.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way. No item is made then.
    pub fn allocate_array<T: Trace>(
        &self,
        length: usize,
        mut item: impl FnMut(usize) -> T,
    ) -> Result<Gc<'g, Array<T>>, Exhausted> {
        let size = Array::<T>::size(length).ok_or_else(|| self.too_large(usize::MAX))?;
        let array = self.allocate_items::<T>(size)?;
        if const { core::mem::needs_drop::<T>() } {
            self.end_with(array, end_items::<T>, 0)?;
        }
        let array = array.cast::<Array<T>>();
        // SAFETY: fresh memory of that size, which the collector sees as zeros so far, and nobody else. If making an
        // item panics, the rest stays zeros; the items that are there are dropped in their time.
        unsafe {
            let counted = &raw mut (*array.as_ptr()).length;
            let items = array.as_ptr().byte_add(Array::<T>::HEADER).cast::<T>();
            for at in 0..length {
                items.add(at).write(item(at));
                if const { core::mem::needs_drop::<T>() } {
                    counted.write(at + 1);
                }
            }
            counted.write(length);
            Ok(Gc::new(array))
        }
    }

    /// Allocates the bytes of a string.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    pub fn allocate_text(&self, text: &str) -> Result<Gc<'g, Array<u8>>, Exhausted> {
        let bytes = text.as_bytes();
        self.allocate_array(bytes.len(), |at| bytes[at])
    }

    fn allocate_items<T: Trace>(&self, size: usize) -> Result<NonNull<u8>, Exhausted> {
        self.allocate_raw(size, super::mutator::items_of::<T>(size))
    }
}

// SAFETY: an array's references are found by how it was allocated; it is never a field of something else, since it
// cannot be made elsewhere.
unsafe impl<T: Trace> Trace for Array<T> {
    const MAP: super::Map = super::Map::NONE;
}
