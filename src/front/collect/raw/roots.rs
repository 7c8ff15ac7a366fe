//! Roots of a runtime: ranges of memory, and callbacks that know more.
//!
//! Both may come and go while the collector marks. What comes is shaded by the thread that brings it. What goes is
//! shaded before: it may be the only place where a pointer stood when marking began.
//!
//! # Safety
//! Ranges are readable until they are removed: whoever adds one says so.

use super::RawMutator;
use crate::base::{Address, Bytes, Lock, Rank};
use crate::front::collect::{CollectError, Collection};
use crate::gc::{Marking, RangeId, RootRange, Source, Worker};
use core::ptr::NonNull;

/// The most providers of one heap.
pub const MOST_PROVIDERS: usize = 64;

/// What a provider is called with, and the word that it was added with.
pub type Provide = fn(word: usize, shader: &mut Shader<'_, '_>);

/// An added provider, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProviderId(usize);

/// Tells the collector what is alive.
pub struct Shader<'a, 'b>(Ear<'a, 'b>);

/// Who is told.
enum Ear<'a, 'b> {
    /// The marking.
    Marking(&'a mut Worker, &'a mut Marking<'b>),
    /// The second marking, which compares: it takes one address at a time.
    Second(&'a mut dyn FnMut(Address)),
}

/// The providers of a heap.
pub(in crate::front::collect) struct Providers(Lock<[Option<(Provide, usize)>; MOST_PROVIDERS]>);

impl Shader<'_, '_> {
    /// The object that an address leads to is alive; any bit pattern is fine.
    pub fn shade(&mut self, address: usize) {
        match &mut self.0 {
            Ear::Marking(worker, marking) => worker.shade(Address(address), marking),
            Ear::Second(visit) => visit(Address(address)),
        }
    }

    /// What the words of a range lead to is alive.
    ///
    /// # Safety
    /// The range is readable.
    pub unsafe fn words(&mut self, start: *const u8, size: Bytes) {
        start.expose_provenance();
        let start = Address::of(start);
        // SAFETY: the caller's promise.
        unsafe {
            match &mut self.0 {
                Ear::Marking(worker, marking) => worker.scan_words((start, size), Source::Roots, marking),
                Ear::Second(visit) => {
                    RootRange { start, size, bits: core::ptr::null() }.for_each_word(visit);
                }
            }
        }
    }

    /// What those words lead to is alive whose bits are set: word `i` has bit `i % 64` of `bits[i / 64]`.
    ///
    /// # Safety
    /// `words` is a multiple of eight, and words whose bits are set are readable.
    pub unsafe fn mapped(&mut self, words: *const u64, bits: &[u64]) {
        words.expose_provenance();
        // SAFETY: the caller's promise.
        unsafe {
            match &mut self.0 {
                Ear::Marking(worker, marking) => {
                    worker.scan_mapped(words, bits, Source::Roots, marking);
                }
                Ear::Second(visit) => {
                    let size = Bytes(bits.len() * 64 * 8);
                    let range = RootRange { start: Address::of(words), size, bits: bits.as_ptr() };
                    range.for_each_word(visit);
                }
            }
        }
    }
}

impl Providers {
    pub(in crate::front::collect) fn new() -> Providers {
        Providers(Lock::new(Rank::Leaf, [None; MOST_PROVIDERS]))
    }

    /// Their lock, for `fork`.
    pub(in crate::front::collect) fn lock(&self) -> &Lock<[Option<(Provide, usize)>; MOST_PROVIDERS]> {
        &self.0
    }
}

impl Collection {
    /// Calls all providers. The world stands still.
    pub(in crate::front::collect) fn ask_providers(&self, worker: &mut Worker, marking: &mut Marking<'_>) {
        let providers = *self.providers.0.lock();
        for (provide, word) in providers.into_iter().flatten() {
            provide(word, &mut Shader(Ear::Marking(worker, marking)));
        }
    }

    /// Has all providers tell the second marking. The world stands still.
    pub(in crate::front::collect) fn ask_providers_again(&self, visit: &mut dyn FnMut(Address)) {
        let providers = *self.providers.0.lock();
        for (provide, word) in providers.into_iter().flatten() {
            provide(word, &mut Shader(Ear::Second(visit)));
        }
    }
}

impl RawMutator<'_> {
    /// Has the collector read a range of memory from here on: every word of it, or those whose bits are set, word `i`
    /// by bit `i % 64` of word `i / 64`.
    ///
    /// # Errors
    /// [`CollectError`], when there is no memory to note it in; nothing has changed.
    ///
    /// # Panics
    /// When there are bits and the range does not begin at a multiple of eight, or they are too few.
    ///
    /// # Safety
    /// Range and bits are readable until [`RawMutator::remove_root_range`] has returned, or the heap goes. Pointers in the
    /// range are changed by [`RawMutator::write`] only. The thread is not [outside](RawMutator::outside).
    pub unsafe fn add_root_range(
        &self,
        start: NonNull<u8>,
        size: Bytes,
        bits: Option<&[u64]>,
    ) -> Result<RangeId, CollectError> {
        assert!(bits.is_none_or(|bits| bits.len() * 64 >= size.0 / 8), "too few bits for {size}");
        let bits = bits.map_or(core::ptr::null(), <[u64]>::as_ptr);
        start.as_ptr().expose_provenance();
        let range = RootRange { start: Address::of(start.as_ptr()), size, bits };
        let roots = &self.collection.collector.roots;
        // SAFETY: the caller's promise.
        let added =
            self.heap.with_local(|core, mutator, _| unsafe { roots.add(range, core.ledger(mutator)) });
        self.heap.core().note_metadata();
        // No cycle has begun since: this thread was at no safepoint.
        self.shade_with(|shader| shader.range(&range));
        Ok(added?)
    }

    /// Has the collector not read a range any more. Returns the range's start and size, or `None` if there is no such
    /// range. When this returns, nobody reads there.
    pub fn remove_root_range(&self, id: RangeId) -> Option<(Address, Bytes)> {
        self.must_run();
        let roots = &self.collection.collector.roots;
        if let Some(range) = roots.get(id) {
            self.shade_with(|shader| shader.range(&range));
        }
        roots.remove(id).map(|range| (range.start, range.size))
    }

    /// Has the collector call `provide` with `word` at the beginning of each cycle, to be told what is alive.
    ///
    /// It is called while the world stands still, on whatever thread drives the cycle, with locks of the heap held: it
    /// reads, shades and returns, and calls nothing of the heap. It must not panic.
    ///
    /// # Errors
    /// [`CollectError::Providers`], when there are [`MOST_PROVIDERS`] already.
    ///
    /// # Safety
    /// `provide` can be called with `word` from any thread until it was removed, or the heap goes. What it reads changes
    /// by [`RawMutator::write`] only, or after [`RawMutator::barrier`].
    pub unsafe fn add_root_provider(
        &self,
        provide: Provide,
        word: usize,
    ) -> Result<ProviderId, CollectError> {
        self.must_run();
        let number = {
            let mut providers = self.collection.providers.0.lock();
            let number = providers.iter().position(Option::is_none).ok_or(CollectError::Providers)?;
            providers[number] = Some((provide, word));
            number
        };
        self.shade_with(|shader| provide(word, shader));
        Ok(ProviderId(number))
    }

    /// Has the collector not call a provider any more. Returns whether there was one.
    pub fn remove_root_provider(&self, ProviderId(number): ProviderId) -> bool {
        self.must_run();
        let Some((provide, word)) = self.collection.providers.0.lock()[number] else { return false };
        self.shade_with(|shader| provide(word, shader));
        self.collection.providers.0.lock()[number] = None;
        true
    }

    /// Shades in the collector's place, if it marks.
    fn shade_with(&self, shade: impl FnOnce(&mut Shader<'_, '_>)) {
        if !self.member.is_marking() {
            return;
        }
        self.collection.with_marking(self.heap, self.member.mutator(), |marking| {
            // SAFETY: the member is this thread's, and running.
            let worker = unsafe { &mut *self.member.worker() };
            shade(&mut Shader(Ear::Marking(worker, marking)));
            worker.leave(marking);
        });
    }
}

impl Shader<'_, '_> {
    /// What a registered range leads to is alive.
    fn range(&mut self, range: &RootRange) {
        let words = core::ptr::with_exposed_provenance::<u64>(range.start.0);
        // SAFETY: whoever added the range said so, and it is not removed yet.
        unsafe {
            if range.bits.is_null() {
                self.words(words.cast(), range.size);
            } else {
                let count = (range.size.0 / 8).div_ceil(64);
                self.mapped(words, core::slice::from_raw_parts(range.bits, count));
            }
        }
    }
}
