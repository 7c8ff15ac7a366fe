//! What becomes of attachments when their objects are found dead.

use super::{AttachmentTable, HEADS, Kind, List, Record};
use crate::base::Address;
use crate::object::{Attachments, Condemned, Object, Objects};
use core::sync::atomic::Ordering;

/// Looks after the attachments of spans that are swept: what sweeping is given.
pub struct Sweeping<'a> {
    table: &'a AttachmentTable,
    objects: &'a Objects,
    /// Finalizers that became due.
    due: usize,
}

impl<'a> Sweeping<'a> {
    pub(super) fn new(table: &'a AttachmentTable, objects: &'a Objects) -> Sweeping<'a> {
        Sweeping { table, objects, due: 0 }
    }

    /// Finalizers that became due by this: somebody should run them.
    pub fn due(&self) -> usize {
        self.due
    }

    /// The object of a record, if it is dead.
    fn dead(&self, record: &Record, span: &Condemned<'_>) -> Option<Object> {
        let object = self.objects.find(record.object()).expect("what something is attached to is allocated");
        (!span.is_alive(&object)).then_some(object)
    }

    /// Sweeps one list, whose lock is held. Marks change last, since they say who is dead.
    fn sweep_list(&mut self, list: &List<'_>, span: &Condemned<'_>) {
        let table = self.table;
        for (_, record) in table.on(list.head) {
            if record.kind() == Kind::Finalizer && self.dead(record, span).is_some() {
                record.set_kind(Kind::Due);
            }
        }
        for (_, record) in table.on(list.head) {
            let is_last = || !self.has_due(list, record.object());
            if record.kind() == Kind::Destructor && self.dead(record, span).is_some() && is_last() {
                record.set_kind(Kind::Doomed);
            }
        }
        let mut next = list.head.load(Ordering::Relaxed);
        while let Some(number) = next.checked_sub(1) {
            let record = table.record(number);
            next = record.next.load(Ordering::Relaxed);
            if record.kind().is_due() || self.dead(record, span).is_none() {
                continue;
            }
            match record.kind() {
                Kind::Long | Kind::Destructor if self.has_due(list, record.object()) => {}
                Kind::Short | Kind::Long => {
                    table.detach(list.head, number);
                    // Last: who drops it now, or later, finds it off the list.
                    record.object.store(0, Ordering::Release);
                }
                Kind::Ephemeron => table.remove_entry(list.head, number),
                kind => debug_assert!(false, "attachment {number}, {kind:?}, of a dead object"),
            }
        }
        let mut next = list.head.load(Ordering::Relaxed);
        while let Some(number) = next.checked_sub(1) {
            let record = table.record(number);
            next = record.next.load(Ordering::Relaxed);
            if record.kind().is_due() {
                let object = self.objects.find(record.object()).expect("it is dead, but not yet free");
                span.revive(&object);
                table.detach(list.head, number);
                table.queue(number);
                self.due += 1;
            }
        }
    }

    /// Whether an object's finalizer has just become due.
    fn has_due(&self, list: &List<'_>, object: Address) -> bool {
        self.table.on(list.head).any(|(_, record)| record.is(Kind::Due, object))
    }
}

impl Attachments for Sweeping<'_> {
    fn sweep(&mut self, span: &Condemned<'_>) -> bool {
        let first = span.first_page().0 * HEADS;
        let mut is_attached = false;
        for place in first..first + HEADS {
            let Some(list) = self.table.list_at(place) else { continue };
            let _locked = list.lock();
            self.sweep_list(&list, span);
            is_attached |= list.head.load(Ordering::Relaxed) != 0;
        }
        is_attached
    }
}

impl AttachmentTable {
    /// Puts a finalizer that is on no list behind those that are due.
    fn queue(&self, number: u32) {
        let mut queue = self.due.lock();
        self.record(number).next.store(0, Ordering::Relaxed);
        match queue.last.checked_sub(1) {
            Some(last) => self.record(last).next.store(number + 1, Ordering::Relaxed),
            None => queue.first = number + 1,
        }
        queue.last = number + 1;
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }
}
