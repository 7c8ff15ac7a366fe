//! All attachments, one after the other: for dumps and censuses.

use super::{AttachmentTable, Finalizer, Kind, Length, MapId, Record};
use crate::base::Address;
use core::sync::atomic::Ordering;

/// What is attached to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// A finalizer, and whether its object has died, so that it is due or runs.
    Finalizer(Finalizer, bool),
    /// A destructor, and whether its object has died.
    Destructor(Finalizer, bool),
    /// A weak reference, and how many hold it.
    Weak(Length, u32),
    /// The object is a key of this map, with this value.
    Ephemeron(MapId, Address),
    /// Pins, so many.
    Pin(u32),
}

impl Record {
    fn attachment(&self) -> Option<Attachment> {
        let uses = self.uses.load(Ordering::Relaxed);
        let value = Address(self.value.load(Ordering::Relaxed));
        Some(match self.kind() {
            Kind::Free | Kind::Map => return None,
            Kind::Finalizer => Attachment::Finalizer(self.finalizer(), false),
            Kind::Due => Attachment::Finalizer(self.finalizer(), true),
            Kind::Destructor => Attachment::Destructor(self.finalizer(), false),
            Kind::Doomed => Attachment::Destructor(self.finalizer(), true),
            Kind::Short => Attachment::Weak(Length::Short, uses),
            Kind::Long => Attachment::Weak(Length::Long, uses),
            Kind::Ephemeron => Attachment::Ephemeron(MapId(self.map.load(Ordering::Relaxed)), value),
            Kind::Pin => Attachment::Pin(uses),
        })
    }
}

impl AttachmentTable {
    /// Visits everything that is attached, with its object's address. Weak references that were cleared are not. The world
    /// stands still, or the answer is about no single moment.
    pub fn for_each(&self, visit: &mut dyn FnMut(Address, Attachment)) {
        for record in (0..self.numbers()).map(|number| self.record(number)) {
            let object = record.object();
            if let Some(attachment) = record.attachment().filter(|_| object != Address(0)) {
                visit(object, attachment);
            }
        }
    }
}
