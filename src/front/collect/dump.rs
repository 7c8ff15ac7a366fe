//! Writing a heap's objects down.
//!
//! # Safety
//! The world stands still while a dump is written, everything is swept, and the caches are flushed.

use super::Collection;
use super::mutator::Mutator;
use crate::base::Address;
use crate::base::sync::Ordering;
use crate::front::heap::Heap;
use crate::gc::dump::{Detail, HeapDump, RootKind};

impl Mutator<'_> {
    /// Writes all objects down, their roots and what hangs on them, in the format of `docs/heap-dump.md`: `out` takes the
    /// bytes, in pieces. With `contents` the objects' bytes are part of it. The world stands still meanwhile. Returns how
    /// many records there are.
    ///
    /// ```
    /// use spanheap::{Config, Heap};
    ///
    /// let heap = Heap::new(Config::default())?;
    /// let mut mutator = heap.enter()?;
    /// let root = mutator.run(|cx| cx.root(cx.allocate(42_u64)?))?;
    /// let mut dump = Vec::new();
    /// let records = mutator.dump(false, |bytes| Ok::<_, ()>(dump.extend_from_slice(bytes)));
    /// assert_eq!(records, Ok(4)); // the heap, an object, a root, the end
    /// # drop(root);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The first that `out` returns. What was written is a dump without its end.
    pub fn dump<E>(&mut self, contents: bool, mut out: impl FnMut(&[u8]) -> Result<(), E>) -> Result<u64, E> {
        let (heap, collection, _) = self.parts();
        let detail = if contents { Detail::Bytes } else { Detail::Edges };
        self.outside(|| collection.dump(heap, detail, &mut out))
    }
}

impl Collection {
    /// The calling thread is not running.
    fn dump<E>(
        &self,
        heap: &Heap,
        detail: Detail,
        out: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.while_swept(heap, || {
            let region = heap.core().pages.region();
            // SAFETY: that is what `while_swept` is for.
            let mut dump = unsafe { HeapDump::new((&self.objects, &self.shapes), region, out) };
            dump.objects(detail);
            for cell in (0..self.roots.fresh()).filter_map(|number| self.roots.get(number)) {
                dump.root(RootKind::Handle, Address(cell.0.load(Ordering::Relaxed)));
            }
            dump.attachments(&self.attachments);
            dump.finish()
        })
    }
}
