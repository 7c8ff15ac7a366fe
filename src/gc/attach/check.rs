//! Proves the numbered invariants of attachments.
//!
//! # Safety
//! The locks that are given back were taken in the same function.

use super::{AttachmentTable, Kind, MapId, Record};
use crate::base::{Address, Broken, Invariant, Lock};
use crate::object::Objects;
use core::sync::atomic::Ordering;

const LISTED: Invariant = Invariant("attachments", 1);
const ONE_OF_A_KIND: Invariant = Invariant("attachments", 2);
const IN_MAPS: Invariant = Invariant("attachments", 3);
const ACCOUNTED: Invariant = Invariant("attachments", 4);

impl AttachmentTable {
    /// Walks all lists and proves the invariants. Nothing runs meanwhile; `running` finalizers were taken to be
    /// run and are not done.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self, objects: &Objects, running: usize) -> Result<(), Broken> {
        self.stripes.iter().for_each(Lock::acquire_equal);
        let checked = self.check_records(objects, running);
        // SAFETY: this thread has just taken them.
        self.stripes.iter().for_each(|stripe| unsafe { stripe.release() });
        checked
    }

    fn check_records(&self, objects: &Objects, running: usize) -> Result<(), Broken> {
        let (mut listed, mut ephemerons, mut maps, mut entries, mut cleared) = (0, 0, 0, 0, 0);
        for number in 0..self.numbers() {
            let record = self.record(number);
            match record.kind() {
                Kind::Free | Kind::Due | Kind::Doomed => {}
                Kind::Map => {
                    maps += 1;
                    entries += self.check_map(MapId(number))?;
                }
                Kind::Short | Kind::Long if record.object() == Address(0) => cleared += 1,
                kind => {
                    listed += 1;
                    ephemerons += usize::from(kind == Kind::Ephemeron);
                    self.check_listed(number, record, objects)?;
                }
            }
        }
        IN_MAPS.equal("ephemerons on maps' lists = attached ones", ("table", 0), entries, ephemerons)?;
        let known = listed + maps + cleared + self.due() + running;
        ACCOUNTED.equal("records that are known = those taken", ("table", 0), known, self.records.taken())
    }

    fn check_listed(&self, number: u32, record: &Record, objects: &Objects) -> Result<(), Broken> {
        let subject = ("attachment", number as usize);
        let found = objects.find(record.object());
        let start = found.as_ref().map_or(0, |object| object.start.0);
        LISTED.equal("the object's address = that of an allocated one", subject, record.object().0, start)?;
        let place = |record: &Record| record.place.load(Ordering::Relaxed) as usize;
        let own = found.map_or(usize::MAX, |object| self.place(&object));
        LISTED.equal("the list = that of the object", subject, place(record), own)?;
        let (mut times, mut same) = (0, 0);
        for (at, (other, found)) in self.on(self.list_of(record).head).enumerate() {
            LISTED.at_most("records on a list = those taken", subject, at + 1, self.records.taken())?;
            LISTED.equal("the list of a record on it", ("attachment", other as usize), place(found), own)?;
            times += usize::from(other == number);
            let map = |record: &Record| record.map.load(Ordering::Relaxed);
            let of_a_kind = found.is(record.kind(), record.object());
            same += usize::from(of_a_kind && (record.kind() != Kind::Ephemeron || map(found) == map(record)));
        }
        LISTED.equal("times that it is on its list = 1", subject, times, 1)?;
        ONE_OF_A_KIND.equal("attachments of this kind to the object = 1", subject, same, 1)
    }

    /// Walks a map's list; returns its length.
    fn check_map(&self, map: MapId) -> Result<usize, Broken> {
        let record = self.record(map.0);
        let subject = ("map", map.0 as usize);
        let (mut link, mut before, mut count) = (record.map.load(Ordering::Relaxed), 0, 0);
        while let Some(number) = link.checked_sub(1) {
            let entry = self.record(number);
            IN_MAPS.equal(
                "an entry's map",
                subject,
                entry.map.load(Ordering::Relaxed) as usize,
                map.0 as usize,
            )?;
            let back = entry.before.load(Ordering::Relaxed);
            IN_MAPS.equal("an entry's link back", subject, back as usize, before as usize)?;
            count += 1;
            IN_MAPS.at_most("entries = those counted", subject, count, self.entries(map))?;
            (before, link) = (link, entry.after.load(Ordering::Relaxed));
        }
        IN_MAPS.equal("entries = those counted", subject, count, self.entries(map))?;
        Ok(count)
    }
}
