//! Weak maps: values that are alive as long as their keys are.
//!
//! A map is a record with a list of its ephemerons; each of these is attached to its key, by which it is found. The map
//! itself is no object: it lives until it is dropped.

use super::{Access, AttachmentTable, Kind, UNKNOWN};
use crate::base::Address;
use crate::object::{Object, Objects};
use crate::os::SystemError;
use crate::stats::Ledger;
use core::sync::atomic::Ordering;

/// A weak map's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MapId(pub u32);

impl AttachmentTable {
    /// A weak map without entries.
    ///
    /// # Errors
    /// The system refused memory.
    pub fn new_map(&self, ledger: Ledger<'_>) -> Result<MapId, SystemError> {
        let number = self.records.take(ledger)?.number;
        let record = self.record(number);
        record.object.store(0, Ordering::Relaxed);
        record.map.store(0, Ordering::Relaxed);
        record.uses.store(0, Ordering::Relaxed);
        record.set_kind(Kind::Map);
        Ok(MapId(number))
    }

    /// Drops a map and its entries. Nobody uses it any more.
    pub fn drop_map(&self, map: MapId) {
        let record = self.record(map.0);
        loop {
            let locked = self.maps.lock();
            let Some(number) = record.map.load(Ordering::Relaxed).checked_sub(1) else { break };
            let list = self.list_of(self.record(number));
            drop(locked);
            // Its key may have died meanwhile, and the record be another one's.
            let _locked = list.lock();
            let entry = self.record(number);
            let is_there = self.on(list.head).any(|(other, _)| other == number);
            if is_there && entry.kind() == Kind::Ephemeron && entry.map.load(Ordering::Relaxed) == map.0 {
                self.remove_entry(list.head, number);
            }
        }
        self.give(map.0);
    }

    /// Entries of a map.
    pub fn entries(&self, map: MapId) -> usize {
        self.record(map.0).uses.load(Ordering::Relaxed) as usize
    }

    /// Makes `value` the value of a key. Returns the one that it had.
    ///
    /// # Errors
    /// The system refused memory; nothing has changed.
    pub fn insert(
        &self,
        map: MapId,
        key: &Object,
        value: Address,
        access: &mut Access<'_, '_, '_>,
    ) -> Result<Option<Address>, SystemError> {
        access.settle(self, key.first_page);
        access.keep(key.start.0);
        access.keep(value.0);
        let list = self.list(key, access.ledger())?;
        let locked = list.lock();
        if let Some(number) = self.entry(map, key) {
            let old = self.record(number).value.swap(value.0, Ordering::Release);
            drop(locked);
            access.keep(old);
            return Ok(Some(Address(old)));
        }
        let number = self.attach(&list, key, access)?;
        let record = self.record(number);
        record.value.store(value.0, Ordering::Relaxed);
        record.map.store(map.0, Ordering::Relaxed);
        record.set_kind(Kind::Ephemeron);
        self.link(number);
        Ok(None)
    }

    /// The value of a key.
    pub fn get(&self, map: MapId, key: &Object, access: &mut Access<'_, '_, '_>) -> Option<Address> {
        access.settle(self, key.first_page);
        let list = self.known_list(key)?;
        let locked = list.lock();
        let value = self.record(self.entry(map, key)?).value.load(Ordering::Acquire);
        drop(locked);
        access.keep(value);
        Some(Address(value))
    }

    /// Takes a key and its value out of a map.
    pub fn remove(&self, map: MapId, key: &Object, access: &mut Access<'_, '_, '_>) -> Option<Address> {
        access.settle(self, key.first_page);
        let list = self.known_list(key)?;
        let locked = list.lock();
        let number = self.entry(map, key)?;
        let value = self.record(number).value.load(Ordering::Acquire);
        self.remove_entry(list.head, number);
        drop(locked);
        access.keep(value);
        Some(Address(value))
    }

    /// The ephemeron of a key in a map; the caller holds the lock of the key's list.
    fn entry(&self, map: MapId, key: &Object) -> Option<u32> {
        let list = self.known_list(key)?;
        let mut entries = self.on(list.head).filter(|(_, record)| record.is(Kind::Ephemeron, key.start));
        entries.find(|(_, record)| record.map.load(Ordering::Relaxed) == map.0).map(|(number, _)| number)
    }

    /// Puts an ephemeron on its map's list.
    fn link(&self, number: u32) {
        let entry = self.record(number);
        let map = self.record(entry.map.load(Ordering::Relaxed));
        let _locked = self.maps.lock();
        let first = map.map.load(Ordering::Relaxed);
        entry.before.store(0, Ordering::Relaxed);
        entry.after.store(first, Ordering::Relaxed);
        if let Some(after) = first.checked_sub(1) {
            self.record(after).before.store(number + 1, Ordering::Relaxed);
        }
        map.map.store(number + 1, Ordering::Relaxed);
        map.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes an ephemeron off both its lists, and gives it back. The caller holds the lock of its key's list.
    pub(super) fn remove_entry(&self, head: &core::sync::atomic::AtomicU32, number: u32) {
        self.detach(head, number);
        let entry = self.record(number);
        let map = self.record(entry.map.load(Ordering::Relaxed));
        let locked = self.maps.lock();
        let (before, after) = (entry.before.load(Ordering::Relaxed), entry.after.load(Ordering::Relaxed));
        let link = before.checked_sub(1).map_or(&map.map, |before| &self.record(before).after);
        link.store(after, Ordering::Relaxed);
        if let Some(after) = after.checked_sub(1) {
            self.record(after).before.store(before, Ordering::Relaxed);
        }
        map.uses.fetch_sub(1, Ordering::Relaxed);
        drop(locked);
        self.give(number);
    }

    /// Marking begins: no ephemeron is resolved.
    pub fn begin_marking(&self) {
        self.open.store(UNKNOWN, Ordering::Relaxed);
    }

    /// Shades the values of those ephemerons whose keys are marked. Returns how many there were: then what follows from
    /// them is to be marked, and another pass is needed. The first pass of a cycle looks at all attachments, a later one at
    /// the ephemerons that are still open, in the opposite order. One thread at a time does this.
    pub fn resolve(&self, objects: &Objects, shade: &mut dyn FnMut(Address)) -> usize {
        let mut resolved = 0;
        let mut still_open = 0;
        let mut look = |number: u32| {
            let record = self.record(number);
            if record.kind() != Kind::Ephemeron {
                return;
            }
            let (key, value) = (record.object(), record.value.load(Ordering::Acquire));
            match objects.find(key) {
                Some(key) if objects.is_marked(&key) => {
                    shade(Address(value));
                    resolved += 1;
                }
                Some(_) => {
                    record.open.store(still_open, Ordering::Relaxed);
                    still_open = number + 1;
                }
                // Taken out meanwhile.
                None => {}
            }
        };
        match self.open.load(Ordering::Relaxed) {
            UNKNOWN => (0..self.numbers()).for_each(look),
            mut link => {
                while let Some(number) = link.checked_sub(1) {
                    // Read first, since a look may put it on the new list.
                    link = self.record(number).open.load(Ordering::Relaxed);
                    look(number);
                }
            }
        }
        self.open.store(still_open, Ordering::Relaxed);
        resolved
    }
}
