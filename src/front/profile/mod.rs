//! The heap profile: which code allocated what is in use, by sampling.
//!
//! While a profile is taken, allocations are chosen by chance, one in 512 KiB on average ([`sampling`](crate::base::sampling)). Of a chosen one
//! the stack is walked ([`unwind`]) and counted ([`recorder`]); what all of them stand for is written as `pprof` reads it
//! ([`pprof`]), with addresses, which others look up.
//!
//! ```text
//!             start                              a cache comes by the slow path
//!   (nothing) ─────▶ on ───────────────────────────────────────▶ its cache is counted
//!                    │ ▲                                                  │ the choice falls
//!               stop ▼ │ start                                            ▼
//!                    off: caches are counted no more         a block in a span of its own,
//!                    as they come by; samples in use         with the sample's number
//!                    stay known until they are freed                      │ free, by anyone
//!                                                                         ▼
//!                                                             the number is free again
//! ```
//!
//! **Nothing of it is on a fast path.** Caches deal their fast paths no more blocks than there are allocations until the
//! sample ([`block::portion`](crate::block::portion)), so the slow path is entered just then. And a chosen block
//! gets a span to itself, as blocks of more than 32 KiB do: freeing it is a slow path on every thread, which
//! finds the sample's number in the span's record. That costs a page a sample, which is 1.6 % of the memory
//! that samples of 512 KiB stand for. A heap without a profile has none of its tables, and nothing to do for it but
//! to look at one word on slow paths.
//!
//! The choice and the walk use no memory but the profile's own, which is in the books as `metadata/profile`.
//!
//! Other processes start and stop it, and get what was seen, through the statistics page ([`handout`]).
//!
//! Spans that programs take whole (`ManualSpan`, stacks) are not sampled: the books know them exactly.
//!
//! # Safety
//! A cache is counted, and counted no more, by whoever may touch it; its portions are the element of their table that has
//! the cache's number. A sample's number is written into a span that nobody else knows, or whose holder asks for it.

mod elf;
mod growing;
mod gzip;
mod handout;
mod pprof;
mod recorder;
mod rules;
#[cfg(test)]
mod tests;
mod unwind;

use crate::base::random::Random;
use crate::base::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Lock, PurposeId, PurposeName, Rank};
use crate::block::cache::Block;
use crate::block::{BlockCache, Work, large};
use crate::front::core::HeapCore;
use crate::front::environment;
use crate::front::heap::Heap;
use crate::front::mutator::Mutator;
use crate::front::report;
use crate::os::SystemError;
use crate::os::proc::{self, AsFd};
use crate::stats::Ledger;
use core::ffi::CStr;
use handout::Handout;
pub(crate) use recorder::Chosen;
use recorder::Recorder;
use unwind::Registers;

/// Bytes between samples, on average, unless somebody says otherwise.
pub const DEFAULT_MEAN: Bytes = Bytes::kib(512);

/// A heap's profile.
pub(crate) struct Profile {
    /// Bytes between samples, as the bits of a floating-point number; 0 while none are taken.
    mean: AtomicU64,
    /// What the caches' generators begin with.
    seed: AtomicU64,
    /// Bytes of the recorder's tables that have memory, as they were when somebody last let go of it.
    committed: AtomicUsize,
    /// What another process is reading.
    handout: Handout,
    recorder: Lock<Recorder>,
}

/// A heap's profile, for who wants one: see [`Heap::profile`].
#[derive(Clone, Copy)]
pub struct HeapProfile<'h>(&'h Heap);

/// What the samples say of one purpose at one stack. Counts and bytes are estimates for all allocations there, not
/// those that were sampled.
#[derive(Clone, Copy, Debug)]
pub struct ProfileSite<'a> {
    /// The purpose.
    pub purpose: PurposeName,
    /// The addresses of the calls, innermost first.
    pub calls: &'a [usize],
    /// Blocks that were allocated.
    pub allocated_objects: u64,
    /// Bytes that were asked for.
    pub allocated_bytes: u64,
    /// Blocks in use.
    pub inuse_objects: u64,
    /// Bytes that were asked for, of the blocks in use.
    pub inuse_bytes: u64,
}

impl Profile {
    /// No profile.
    pub(crate) const fn new() -> Profile {
        Profile {
            mean: AtomicU64::new(0),
            seed: AtomicU64::new(0),
            committed: AtomicUsize::new(0),
            handout: Handout::new(),
            recorder: Lock::new(Rank::Profile, Recorder::new()),
        }
    }

    /// Bytes between samples, on average, while samples are taken.
    #[inline]
    pub(crate) fn mean(&self) -> Option<f64> {
        let mean = self.mean.load(Ordering::Relaxed);
        (mean != 0).then(|| f64::from_bits(mean))
    }

    /// Notes that a sample's block was freed; 0 is no sample.
    #[inline]
    pub(crate) fn freed(&self, sample: u32) {
        if sample != 0 {
            self.recorder.lock().freed(sample);
        }
    }

    /// Bytes of the tables that have memory.
    pub(crate) fn committed(&self) -> Bytes {
        Bytes(self.committed.load(Ordering::Relaxed))
    }

    /// Hands the recorder to `with`. Returns what that returns, and whether tables have grown.
    fn grow<T>(&self, with: impl FnOnce(&mut Recorder) -> T) -> (T, bool) {
        let mut recorder = self.recorder.lock();
        let done = with(&mut recorder);
        let now = recorder.committed();
        let grown = now != self.committed();
        self.committed.store(now.0, Ordering::Relaxed);
        (done, grown)
    }

    /// Takes the recorder's lock without a guard, for `fork`.
    pub(super) fn acquire(&self) {
        self.recorder.acquire();
    }

    /// Gives the lock back.
    ///
    /// # Safety
    /// This thread took it, or is the only one left of a process that had.
    pub(super) unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.recorder.release() }
    }

    /// Visits the memory of the tables.
    pub(crate) fn for_each_range(&self, visit: &mut dyn FnMut(Address, Bytes)) {
        self.recorder.lock().for_each_range(visit);
    }

    /// Gives the tables back to the system.
    ///
    /// # Safety
    /// Nobody uses the heap any more.
    pub(super) unsafe fn destroy(&self) {
        self.handout.clear();
        // SAFETY: the caller's promise.
        unsafe { self.recorder.lock().destroy() }
    }
}

impl HeapCore {
    /// Makes a cache counted as the profile wants it. To be called on every slow path that allocates.
    ///
    /// # Safety
    /// The lock of the cache's mutator is held, and its thread is this one or there is none.
    #[inline]
    pub(crate) unsafe fn arrange(&self, cache: *mut BlockCache, ledger: Ledger<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            if (*cache).counted() != self.profile.mean() {
                self.rearrange(cache, ledger);
            }
        }
    }

    #[cold]
    #[inline(never)]
    unsafe fn rearrange(&self, cache: *mut BlockCache, ledger: Ledger<'_>) {
        // SAFETY: as above. A cache's portions have the cache's number, so nobody else uses them.
        unsafe {
            BlockCache::count_no_more(cache);
            let Some(mean) = self.profile.mean() else { return };
            let number = self.number_of(cache);
            let seed = self.profile.seed.load(Ordering::Relaxed);
            let (portions, grown) = self.profile.grow(|recorder| recorder.portions(number, ledger));
            // Without memory for portions the cache is not counted, and asks again.
            if let Some(portions) = portions {
                let mut seeds = Random::new(seed ^ (number as u64) << 32);
                BlockCache::count_from(cache, portions, mean, Random::new(seeds.bits()));
            }
            if grown {
                self.note_metadata();
            }
        }
    }

    /// Makes a sample of a block that was just allocated, which has a span to itself and is known to nobody yet.
    #[cold]
    #[inline(never)]
    pub(crate) fn sample(&self, work: &Work<'_>, chosen: Chosen, block: Block) {
        let registers = Registers::here();
        let Some(mean) = self.profile.mean() else { return };
        let ledger = work.ground.ledger;
        let (number, grown) = self.profile.grow(|recorder| recorder.record(chosen, mean, registers, ledger));
        if grown {
            self.note_metadata();
        }
        // SAFETY: the block is this thread's alone.
        unsafe { large::set_sample(work.ground.heap, block.pointer, number) };
    }

    /// Makes a sample of a large block that was just allocated, or grown, if the choice falls on it.
    pub(crate) fn consider_large(
        &self,
        mutator: &Mutator,
        work: &Work<'_>,
        purpose: PurposeId,
        requested: usize,
        block: Block,
    ) {
        // Without memory for a cache nothing is counted.
        let Ok(cache) = self.cache_of(mutator, purpose, work.ground) else { return };
        let slot = Bytes(requested).pages_ceil().bytes().0;
        // SAFETY: the mutator's lock is held, since `work` is there.
        let due = unsafe {
            self.arrange(cache, work.ground.ledger);
            BlockCache::is_large_due(cache, slot)
        };
        if due {
            self.sample(work, Chosen { purpose, requested, slot }, block);
        }
    }
}

impl Heap {
    /// The heap's profile: which code allocated what is in use. None is taken until it is started.
    ///
    /// ```
    /// use spanheap::{Bytes, Config, Heap};
    ///
    /// let heap = Heap::new(Config::default())?;
    /// let cache = heap.declare("cache")?;
    /// heap.profile().start(Bytes::kib(16))?;
    /// let mut kept = allocator_api2::vec::Vec::new_in(&cache);
    /// kept.extend((0..1000).map(|n| allocator_api2::vec::Vec::<u8, _>::with_capacity_in(n % 512, &cache)));
    ///
    /// let mut inuse = 0;
    /// heap.profile().for_each_site(|site| inuse += site.inuse_bytes);
    /// assert!(inuse > 100_000, "about a quarter of a million bytes");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn profile(&self) -> HeapProfile<'_> {
        HeapProfile(self)
    }

    /// Begins the profile that the configuration asks for. If the system refuses it, the heap is one without.
    pub(crate) fn start_configured_profile(&self) {
        if let Some(mean) = self.core().config.profile {
            let _ = self.profile().start(mean);
        }
    }
}

impl HeapProfile<'_> {
    /// Begins to take samples, one in `mean` bytes on average ([`DEFAULT_MEAN`]); or goes on with another mean. Threads
    /// take part from their next slow path on.
    ///
    /// # Errors
    /// The system refused memory for the tables; then no samples are taken.
    pub fn start(&self, mean: Bytes) -> Result<(), SystemError> {
        self.start_seeded(mean, self.0.core().system.random())
    }

    /// As [`HeapProfile::start`], with what the random choices follow from: a program of one thread gets the same
    /// samples each time.
    ///
    /// # Errors
    /// As there.
    pub fn start_seeded(&self, mean: Bytes, seed: u64) -> Result<(), SystemError> {
        let core = self.0.core();
        let caches = core.most_caches();
        let (opened, _) =
            core.profile.grow(|recorder| recorder.open(core.system, caches, core.books.shared().ledger()));
        core.note_metadata();
        opened?;
        core.profile.seed.store(seed, Ordering::Relaxed);
        let mean = mean.0.max(1) as f64;
        core.profile.mean.store(mean.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes no more samples. What was sampled stays known.
    pub fn stop(&self) {
        self.0.core().profile.mean.store(0, Ordering::Relaxed);
    }

    /// Bytes between samples, on average; `None` while none are taken.
    pub fn mean(&self) -> Option<Bytes> {
        self.0.core().profile.mean().map(|mean| Bytes(mean as usize))
    }

    /// Allocations that were chosen and could not be recorded, for want of memory.
    pub fn lost(&self) -> u64 {
        self.0.core().profile.recorder.lock().lost
    }

    /// Visits everything that was seen, purpose by purpose and stack by stack.
    pub fn for_each_site(&self, mut visit: impl FnMut(&ProfileSite<'_>)) {
        let core = self.0.core();
        core.profile.recorder.lock().add_up();
        let mut number = 1;
        loop {
            let (mut calls, mut count) = ([0; unwind::DEEPEST], 0);
            let site = {
                let recorder = core.profile.recorder.lock();
                let Some(site) = recorder.site_of(number).copied() else { break };
                for (to, frame) in calls.iter_mut().zip(recorder.frames_of(&site)) {
                    *to = recorder.address_of(frame as usize).unwrap_or(0);
                    count += 1;
                }
                site
            };
            // Without the lock: it may allocate.
            visit(&ProfileSite {
                purpose: core.meters.name(PurposeId(site.purpose)),
                calls: &calls[..count],
                allocated_objects: site.allocated.objects as u64,
                allocated_bytes: site.allocated.bytes as u64,
                inuse_objects: site.inuse.objects as u64,
                inuse_bytes: site.inuse.bytes as u64,
            });
            number += 1;
        }
    }

    /// Writes the profile as `pprof` reads it: gzipped, with addresses. `spanheap profile FILE` puts names to
    /// them, and so does `go tool pprof`, both on the machine where it was taken.
    ///
    /// # Errors
    /// Those of `out`; or the system refused memory for a snapshot.
    pub fn write(&self, mut out: impl FnMut(&[u8]) -> Result<(), SystemError>) -> Result<(), SystemError> {
        let core = self.0.core();
        let mean = core.profile.mean().unwrap_or(0.0);
        report::with_snapshot(self.0, |snapshot| {
            // The numbers of files must not change while they are written.
            self.hold_modules(true);
            let written =
                self.write_held(&pprof::Contents { snapshot, mean, time: proc::wall_clock() }, &mut out);
            self.hold_modules(false);
            written
        })?
    }

    fn hold_modules(&self, held: bool) {
        let core = self.0.core();
        core.profile.grow(|recorder| {
            if held {
                // Without `/proc` a profile has addresses only.
                let _ = recorder.modules().refresh(core.books.shared().ledger());
            }
            recorder.modules().hold(held);
        });
    }

    fn write_held(
        &self,
        contents: &pprof::Contents<'_>,
        out: &mut dyn FnMut(&[u8]) -> Result<(), SystemError>,
    ) -> Result<(), SystemError> {
        let mut gzip = gzip::Gzip::begin(out)?;
        pprof::write(&mut gzip, contents, &self.0.core().profile.recorder)?;
        gzip.finish()
    }

    /// Writes the profile where the configuration says, if it does. Returns whether it did.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write_configured(&self) -> Result<bool, SystemError> {
        let Some(pattern) = self.0.core().config.profile_file.path() else { return Ok(false) };
        if self.mean().is_none() {
            return Ok(false);
        }
        environment::with_path(pattern, |path| self.write_file(path)).transpose().map(|done| done.is_some())
    }

    /// Writes the profile into a file that is made anew.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_file(&self, path: &CStr) -> Result<(), SystemError> {
        let file = proc::open_for_writing(path)?;
        self.write(|bytes| proc::write_all(file.as_fd(), bytes))
    }
}
