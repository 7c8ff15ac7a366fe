//! The slow twin: which stacks are whose, kept in sorted tables, with every rule looked up one by one.
//!
//! It does not know slabs, caches or lists. It sees what the pool hands out, and complains when that is not free to be
//! handed out; and it says what the books must say. The fuzz body uses it from outside the crate.

use spanheap::base::Bytes;
use spanheap::base::purpose::StackKind;
use spanheap::stack::{Phase, StackId, StackView};
use std::collections::BTreeMap;

/// A stack that somebody has, or that is parked.
pub(super) struct Known {
    pub(super) view: StackView,
    phase: Phase,
}

/// All stacks that are not free.
#[derive(Default)]
pub(super) struct Model {
    known: BTreeMap<StackId, Known>,
    events: BTreeMap<StackKind, (i64, i64)>,
}

impl Model {
    /// Takes in a stack that was handed out.
    pub(super) fn allocated(&mut self, view: StackView, asked: Bytes) -> Result<(), String> {
        if view.place.size < asked {
            return Err(format!("{view:?} for {asked:?}"));
        }
        if view.phase != Phase::InUse {
            return Err(format!("{view:?} was handed out"));
        }
        let (low, high) = (view.place.limit.0 - view.place.guard.0, view.place.base().0);
        for other in self.known.values() {
            let place = other.view.place;
            if low < place.base().0 && place.limit.0 - place.guard.0 < high {
                return Err(format!("{view:?} overlaps {:?}, which is {:?}", other.view, other.phase));
            }
        }
        self.events.entry(view.kind).or_default().0 += 1;
        self.known.insert(view.id, Known { view, phase: Phase::InUse });
        Ok(())
    }

    /// Notes that a holder gave a stack up.
    pub(super) fn freed(&mut self, id: StackId, marking: bool) {
        let kind = self.known[&id].view.kind;
        self.events.entry(kind).or_default().1 += 1;
        if marking {
            self.known.get_mut(&id).unwrap().phase = Phase::Parked;
        } else {
            self.known.remove(&id);
        }
    }

    /// Notes that a cycle has ended.
    pub(super) fn cycle_ended(&mut self) {
        self.known.retain(|_, known| known.phase != Phase::Parked);
    }

    /// The stacks in use.
    pub(super) fn live(&self) -> impl Iterator<Item = &Known> {
        self.known.values().filter(|known| known.phase == Phase::InUse)
    }

    /// Bytes of a kind's stacks in a phase.
    pub(super) fn bytes(&self, kind: StackKind, phase: Phase) -> i64 {
        let of = self.known.values().filter(|known| known.view.kind == kind && known.phase == phase);
        of.map(|known| known.view.place.size.0 as i64).sum()
    }

    /// Stacks of a kind that were handed out, and that came back.
    pub(super) fn events(&self, kind: StackKind) -> (i64, i64) {
        self.events.get(&kind).copied().unwrap_or_default()
    }
}
