//! A table from addresses to values, in blocks of the process heap.
//!
//! Open addressing with linear probing; what is removed leaves a mark until the table grows. It is changed under the
//! allocation lock, and by the collector, which removes but never adds. The collector does not look for pointers in it.
//!
//! # Safety
//! `places` is a block with room for `room` entries, zeroed when it was made, and the table's own.

use crate::tls::Inside;
use core::ptr;
use spanheap::front::process;

/// No entry, and never one.
const EMPTY: usize = 0;
/// No entry any more.
const GONE: usize = 1;

#[derive(Clone, Copy)]
struct Place<V> {
    key: usize,
    value: V,
}

/// A table from addresses, which are neither 0 nor 1, to values.
pub(crate) struct Map<V> {
    places: *mut Place<V>,
    room: usize,
    /// Places that are not empty.
    used: usize,
    count: usize,
}

// SAFETY: the block is the table's own, wherever it goes.
unsafe impl<V: Send> Send for Map<V> {}

impl<V: Copy> Map<V> {
    pub(crate) const fn new() -> Map<V> {
        Map { places: ptr::null_mut(), room: 0, used: 0, count: 0 }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    #[allow(
        clippy::mut_from_ref,
        reason = "the table is changed by one thread at a time, one place at a time"
    )]
    fn place(&self, at: usize) -> &mut Place<V> {
        debug_assert!(at < self.room);
        // SAFETY: the head of this file. Callers use one place at a time.
        unsafe { &mut *self.places.add(at) }
    }

    fn find(&self, key: usize) -> Option<usize> {
        if self.room == 0 {
            return None;
        }
        let mut at = hash(key) & (self.room - 1);
        loop {
            match self.place(at).key {
                found if found == key => return Some(at),
                EMPTY => return None,
                _ => at = (at + 1) & (self.room - 1),
            }
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: usize) -> Option<V> {
        self.find(key).map(|at| self.place(at).value)
    }

    /// Sets the value of a key. Returns whether there was memory for it.
    pub(crate) fn set(&mut self, key: usize, value: V) -> bool {
        if let Some(at) = self.find(key) {
            self.place(at).value = value;
            return true;
        }
        if !self.reserve(1) {
            return false;
        }
        self.put(key, value);
        true
    }

    /// Makes room for so many more, which then need no memory. Returns whether there was memory for that.
    pub(crate) fn reserve(&mut self, more: usize) -> bool {
        (self.used + more) * 4 <= self.room * 3 || self.grow(more)
    }

    fn put(&mut self, key: usize, value: V) {
        let mut at = hash(key) & (self.room - 1);
        while self.place(at).key > GONE {
            at = (at + 1) & (self.room - 1);
        }
        self.used += usize::from(self.place(at).key == EMPTY);
        *self.place(at) = Place { key, value };
        self.count += 1;
    }

    fn grow(&mut self, more: usize) -> bool {
        let _inside = Inside::enter();
        let room = ((self.count + more) * 2).next_power_of_two().max(64);
        let places = process::allocate_zeroed(room * size_of::<Place<V>>(), 16).cast::<Place<V>>();
        if places.is_null() {
            return false;
        }
        let old = core::mem::replace(self, Map { places, room, used: 0, count: 0 });
        old.for_each(|key, value| self.put(key, value));
        // SAFETY: the old block is nobody's any more.
        unsafe { process::free(old.places.cast()) };
        true
    }

    /// Removes a key. Returns its value.
    pub(crate) fn remove(&mut self, key: usize) -> Option<V> {
        let at = self.find(key)?;
        self.place(at).key = GONE;
        self.count -= 1;
        Some(self.place(at).value)
    }

    /// Visits every entry.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(usize, V)) {
        for at in 0..self.room {
            let Place { key, value } = *self.place(at);
            if key > GONE {
                visit(key, value);
            }
        }
    }

    /// Keeps the entries for which `keep` says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, V) -> bool) {
        self.revise(|key, value| keep(key, value).then_some(value));
    }

    /// Gives every entry the value that `revised` says, or removes it.
    pub(crate) fn revise(&mut self, mut revised: impl FnMut(usize, V) -> Option<V>) {
        for at in 0..self.room {
            let Place { key, value } = *self.place(at);
            if key <= GONE {
                continue;
            }
            match revised(key, value) {
                Some(value) => self.place(at).value = value,
                None => {
                    self.place(at).key = GONE;
                    self.count -= 1;
                }
            }
        }
    }
}

fn hash(key: usize) -> usize {
    (key >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}
