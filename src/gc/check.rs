//! The proof, by looking at everything, that the room's invariants hold.

use super::Collector;
use super::Phase;
use crate::base::sync::Ordering;
use crate::base::{Address, Broken, Bytes, Invariant, PAGE_SIZE, PageId, purpose};
use crate::object::{Objects, SpanKind};
use crate::span::PageHeap;

const OF_SCANS: Invariant = Invariant("gc", 1);
const OF_OWNERS: Invariant = Invariant("gc", 2);
const OF_REST: Invariant = Invariant("gc", 3);
const OF_BUFFERS: Invariant = Invariant("gc", 4);

impl Collector {
    /// Proves that marking left nothing half done. It has ended, the world stands still, and nothing is swept yet.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check_marks(&self, objects: &Objects) -> Result<(), Broken> {
        for page in (0..objects.covered().0 / PAGE_SIZE).map(PageId) {
            let code = objects.code(page);
            if !code.is_first() {
                continue;
            }
            let meta = objects.meta(page).expect("a span that begins here has metadata");
            let subject = ("page", page.0);
            OF_OWNERS.equal("owner = nobody", subject, meta.owned.load(Ordering::Relaxed) as usize, 0)?;
            // Of a large object, what the code says need not hold yet.
            let kind = match objects.find(Address(objects.base().0 + page.offset())) {
                Some(object) if code.is_large() => object.kind,
                _ => code.row().kind,
            };
            if kind == SpanKind::Plain {
                continue;
            }
            let (marks, scans) = (meta.marks.0.iter(), meta.scans.0.iter());
            for (marks, scans) in marks.zip(scans) {
                let grey = marks.load(Ordering::Relaxed) & !scans.load(Ordering::Relaxed);
                OF_SCANS.equal("grey objects = none", subject, grey as usize, 0)?;
            }
        }
        Ok(())
    }

    /// Proves that the collector rests. No cycle runs, nor begins meanwhile.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self, heap: &PageHeap) -> Result<(), Broken> {
        let all = ("heap", 0);
        OF_REST.equal("phase = off", all, self.phase() as usize, Phase::Off as usize)?;
        OF_REST.equal("markers inside = none", all, self.census.inside() as usize, 0)?;
        OF_REST.equal("markers that wait = none", all, self.idle.load(Ordering::Relaxed) as usize, 0)?;
        let work = !self.buffers.are_idle() || self.lost.load(Ordering::Relaxed);
        OF_REST.equal("work = none", all, usize::from(work), 0)?;
        OF_REST.equal("cut spans = none", all, self.buffers.cut_spans(heap), 0)?;
        let spans = || heap.spans().filter(|(_, span)| span.purpose() == purpose::WORK_BUFFERS);
        let Bytes(bytes) = spans().map(|(_, span)| span.pages().bytes()).sum();
        OF_BUFFERS.equal("bytes of work buffers = counted", all, self.buffers.bytes().0, bytes)?;
        OF_BUFFERS.equal("spans = blank ones", all, spans().count(), self.buffers.blank_spans(heap))
    }
}
