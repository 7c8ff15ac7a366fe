//! The parts of a collected heap, for doors that drive collections themselves.
//!
//! A door for programs that know nothing of safepoints cannot use the cycle of this room: it stops threads in its own
//! way, finds roots in its own way, and marks while the world stands. What it shares is everything below: objects,
//! shapes, the lists of work, and the heap with its books. The door owns the caches of its threads.
//!
//! 1. A heap is driven by one such door, or by the cycle of this room, never by both: threads of the door do not enter
//!    the heap as members, and the collection is configured never to begin by itself.

use super::{CollectConfig, CollectError, Collection};
use crate::base::PurposeId;
use crate::block::Work;
use crate::front::config::Concurrent;
use crate::front::heap::Heap;
use crate::gc::{Collector, Marking};
use crate::object::{ObjectWork, Objects, Shapes};
use crate::os::Nanoseconds;

/// What a heap has for its collected objects, in the hands of a door that drives the collections.
#[derive(Clone, Copy)]
pub struct Parts<'h> {
    heap: &'h Heap,
    collection: &'h Collection,
}

impl Heap {
    /// The parts of the collected heap. No collection begins by itself from here on. What the heap's configuration says
    /// for finding faults stands in [`Parts::config`], for the door to keep.
    ///
    /// # Errors
    /// [`CollectError`], when there is no memory for them, or threads may have entered the heap already.
    pub fn collected_parts(&self) -> Result<Parts<'_>, CollectError> {
        let config = CollectConfig { percent: None, workers: 0, ..self.core().config.collect };
        self.configure_collector(config)?;
        Ok(Parts { heap: self, collection: self.collection()? })
    }
}

impl<'h> Parts<'h> {
    /// What was configured.
    pub fn config(&self) -> &'h CollectConfig {
        &self.collection.config
    }

    /// The heap that they are of.
    pub fn heap(&self) -> &'h Heap {
        self.heap
    }

    /// The objects.
    pub fn objects(&self) -> &'h Objects {
        &self.collection.objects
    }

    /// The shapes that objects can have.
    pub fn shapes(&self) -> &'h Shapes {
        &self.collection.shapes
    }

    /// What markers share.
    pub fn collector(&self) -> &'h Collector {
        &self.collection.collector
    }

    /// Whether the program wants to run while it is marked, and the longest stop that is fine by it.
    pub fn concurrency(&self) -> (Concurrent, Nanoseconds) {
        let config = &self.heap.core().config;
        (config.concurrent, config.pause)
    }

    /// Has objects of a purpose that the program declared.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub fn add_purpose(&self, purpose: PurposeId) -> Result<(), CollectError> {
        self.heap.with_local(|core, mutator, _| self.objects().add_purpose(purpose, core.ledger(mutator)))?;
        self.heap.core().meters.set_objects(purpose);
        self.heap.core().note_metadata();
        Ok(())
    }

    /// Runs `work` with what allocation and sweeping need. The calling thread's slow path is locked meanwhile.
    pub fn with_work<T>(&self, work: impl FnOnce(&mut ObjectWork<'_, '_>) -> T) -> T {
        self.heap.with_local(|core, mutator, local| {
            let Work { ground, spans, .. } = core.work(mutator, local);
            work(&mut ObjectWork { ground, spans })
        })
    }

    /// Runs `work` with what a marker needs. The calling thread's slow path is locked meanwhile.
    pub fn with_marking<T>(&self, work: impl FnOnce(&mut Marking<'_>) -> T) -> T {
        self.heap.with_local(|core, mutator, local| {
            let Work { ground, spans, .. } = core.work(mutator, local);
            let supply = self.collector().supply(ground, spans);
            let (collector, objects, shapes) = (self.collector(), self.objects(), self.shapes());
            work(&mut Marking { collector, objects, shapes, supply })
        })
    }

    /// Tells those who keep the heap's limit that tables have grown.
    pub fn note_metadata(&self) {
        self.heap.core().note_metadata();
    }
}
