//! What a profile has seen: places, stacks, counters, and the samples that are in use.
//!
//! ```text
//!   sample ──▶ site ──▶ frames ──▶ place            a block that was chosen; purpose and stack; calls; an address
//!                ▲                   ▲
//!        heads of chains      heads of chains       found again by their hashes
//! ```
//!
//! All of it is tables that only grow, so numbers stay valid. What was allocated is counted at its site, at once; what
//! is in use is added up over the samples when somebody asks, so that sums do not drift. A site is one purpose at
//! one stack. When a table is full, or the system refuses memory, an allocation is not sampled, and that is counted.
//!
//! # Safety
//! What lies in the tables is numbers, of which zeros are some. The tables go when nobody uses the heap any more.

use super::elf::Modules;
use super::growing::Growing;
use super::unwind::{DEEPEST, Registers, Unwinder};
use crate::base::{Address, Bytes, PurposeId, sampling};
use crate::block::Portions;
use crate::os::{System, SystemError, Zeroed};
use crate::stats::Ledger;

const PLACES: usize = 1 << 22;
const FRAMES: usize = 1 << 26;
const SITES: usize = 1 << 22;
const SAMPLES: usize = 1 << 24;
/// Chains of places, and as many of sites: a power of two.
const CHAINS: usize = 1 << 13;

/// An address in the code.
#[derive(Clone, Copy, Default)]
struct Place {
    address: usize,
    /// The next of the chain, or 0.
    next: u32,
}

/// A purpose at a stack, and what was allocated there.
#[derive(Clone, Copy, Default)]
pub(super) struct Site {
    hash: u64,
    /// The next of the chain, or 0.
    next: u32,
    /// Where the stack's frames begin.
    first: u32,
    frames: u32,
    pub(super) purpose: u8,
    /// Estimates: how many blocks were allocated, and the bytes that were asked for.
    pub(super) allocated: Estimate,
    /// What of that is in use, when it was added up last.
    pub(super) inuse: Estimate,
}

/// What the samples say about all.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(super) struct Estimate {
    /// Blocks.
    pub(super) objects: f64,
    /// Bytes that were asked for.
    pub(super) bytes: f64,
    /// Bytes of the slots that the blocks are in.
    pub(super) slots: f64,
}

/// A block that was chosen and is in use; or a number that is free.
#[derive(Clone, Copy, Default)]
struct Sample {
    /// The block's site, or 0.
    site: u32,
    /// The next free number, or 0.
    next: u32,
    requested: usize,
    slot: usize,
    /// The chance with which it was chosen.
    chance: f64,
}

// SAFETY: numbers.
unsafe impl Zeroed for Place {}
// SAFETY: numbers.
unsafe impl Zeroed for Site {}
// SAFETY: numbers.
unsafe impl Zeroed for Sample {}

/// An allocation that was chosen.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    /// What it is for.
    pub(crate) purpose: PurposeId,
    /// Bytes that were asked for.
    pub(crate) requested: usize,
    /// Bytes by which it was chosen: those of its size class, or of its span.
    pub(crate) slot: usize,
}

/// The tables. Numbers begin at 1.
pub(super) struct Recorder {
    unwinder: Unwinder,
    places: Growing<Place>,
    place_chains: Growing<u32>,
    frames: Growing<u32>,
    sites: Growing<Site>,
    site_chains: Growing<u32>,
    samples: Growing<Sample>,
    portions: Growing<Portions>,
    used: Used,
    /// Allocations that were chosen and could not be recorded.
    pub(super) lost: u64,
}

/// How much of each table is in use.
#[derive(Clone, Copy)]
struct Used {
    places: usize,
    frames: usize,
    sites: usize,
    samples: usize,
    /// The free number of a sample that comes next, or 0.
    free: u32,
}

impl Estimate {
    /// What one sample stands for.
    fn of(sample: &Sample) -> Estimate {
        let objects = 1.0 / sample.chance;
        Estimate { objects, bytes: objects * sample.requested as f64, slots: objects * sample.slot as f64 }
    }

    /// Adds another estimate.
    pub(super) fn add(&mut self, other: Estimate) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.slots += other.slots;
    }
}

impl Recorder {
    /// A recorder without tables.
    pub(super) const fn new() -> Recorder {
        Recorder {
            unwinder: Unwinder::new(),
            places: Growing::new(),
            place_chains: Growing::new(),
            frames: Growing::new(),
            sites: Growing::new(),
            site_chains: Growing::new(),
            samples: Growing::new(),
            portions: Growing::new(),
            used: Used { places: 1, frames: 0, sites: 1, samples: 1, free: 0 },
            lost: 0,
        }
    }

    /// Makes the tables that are missing, with room for the portions of so many caches.
    ///
    /// # Errors
    /// The system refused; what is there already stays.
    pub(super) fn open(
        &mut self,
        system: System,
        caches: usize,
        ledger: Ledger<'_>,
    ) -> Result<(), SystemError> {
        self.unwinder.open(system, ledger)?;
        self.places.open(system, PLACES, ledger)?;
        self.frames.open(system, FRAMES, ledger)?;
        self.sites.open(system, SITES, ledger)?;
        self.samples.open(system, SAMPLES, ledger)?;
        self.portions.open(system, caches, ledger)?;
        for chains in [&mut self.place_chains, &mut self.site_chains] {
            chains.open(system, CHAINS, ledger)?;
            chains.ensure(0..CHAINS, ledger).ok_or(SystemError::NO_MEMORY)?;
        }
        Ok(())
    }

    /// Memory for the portions of a cache, by the cache's number.
    pub(super) fn portions(&mut self, cache: usize, ledger: Ledger<'_>) -> Option<*mut Portions> {
        self.portions.ensure(cache..cache + 1, ledger)?;
        self.portions.pointer(cache)
    }

    /// Records an allocation that was chosen with samples `mean` bytes apart. Returns the sample's number, or 0 where
    /// there is no room for it.
    pub(super) fn record(
        &mut self,
        chosen: Chosen,
        mean: f64,
        registers: Registers,
        ledger: Ledger<'_>,
    ) -> u32 {
        self.try_record(chosen, mean, registers, ledger).unwrap_or_else(|| {
            self.lost += 1;
            0
        })
    }

    fn try_record(
        &mut self,
        chosen: Chosen,
        mean: f64,
        registers: Registers,
        ledger: Ledger<'_>,
    ) -> Option<u32> {
        let mut calls = [0; DEEPEST];
        let count = self.unwinder.walk(registers, &mut calls, ledger);
        let calls = self.outside(registers, &calls[..count]);
        let mut frames = [0; DEEPEST];
        for (frame, &call) in frames.iter_mut().zip(calls) {
            *frame = self.place(call, ledger)?;
        }
        let site = self.site(chosen.purpose, &frames[..calls.len()], ledger)?;
        let number = match self.used.free {
            0 => {
                let next = self.used.samples;
                self.samples.ensure(next..next + 1, ledger)?;
                self.used.samples += 1;
                next as u32
            }
            free => {
                self.used.free = self.samples.get(free as usize)?.next;
                free
            }
        };
        let Chosen { requested, slot, .. } = chosen;
        let sample = Sample { site, next: 0, requested, slot, chance: sampling::chance(slot, mean) };
        *self.samples.get_mut(number as usize)? = sample;
        self.sites.get_mut(site as usize)?.allocated.add(Estimate::of(&sample));
        Some(number)
    }

    /// Notes that a sample's block was freed.
    pub(super) fn freed(&mut self, number: u32) {
        let next = self.used.free;
        if let Some(sample) = self.samples.get_mut(number as usize) {
            debug_assert_ne!(sample.site, 0, "sample {number} was freed twice");
            *sample = Sample { next, ..Sample::default() };
            self.used.free = number;
        }
    }

    /// The calls without those in a door of ours, where the door is a library of its own: they say nothing about the
    /// program.
    fn outside<'c>(&self, registers: Registers, calls: &'c [usize]) -> &'c [usize] {
        const DOORS: &[u8] = b"/libspanheap_";
        let modules = &self.unwinder.modules;
        let door = modules.find(registers.place()).and_then(|number| modules.get(number));
        let Some(door) = door.filter(|of| of.name().windows(DOORS.len()).any(|part| part == DOORS)) else {
            return calls;
        };
        let inside = calls.iter().take_while(|&&call| (door.start..door.end).contains(&call)).count();
        &calls[inside..]
    }

    /// The number of an address in the code.
    fn place(&mut self, address: usize, ledger: Ledger<'_>) -> Option<u32> {
        let chain = mix(address as u64, 0) as usize % CHAINS;
        let mut at = *self.place_chains.get(chain)?;
        while at != 0 {
            let place = self.places.get(at as usize)?;
            if place.address == address {
                return Some(at);
            }
            at = place.next;
        }
        let number = self.used.places;
        self.places.ensure(number..number + 1, ledger)?;
        let first = self.place_chains.get_mut(chain)?;
        *self.places.get_mut(number)? = Place { address, next: *first };
        *first = number as u32;
        self.used.places += 1;
        Some(number as u32)
    }

    /// The number of a purpose's site at a stack.
    fn site(&mut self, purpose: PurposeId, frames: &[u32], ledger: Ledger<'_>) -> Option<u32> {
        let hash = frames.iter().fold(u64::from(purpose.0), |hash, &frame| mix(hash, frame.into()));
        let chain = hash as usize % CHAINS;
        let mut at = *self.site_chains.get(chain)?;
        while at != 0 {
            let site = self.sites.get(at as usize)?;
            let same = site.hash == hash && site.purpose == purpose.0;
            if same && self.frames_of(site).eq(frames.iter().copied()) {
                return Some(at);
            }
            at = site.next;
        }
        let (number, first) = (self.used.sites, self.used.frames);
        self.sites.ensure(number..number + 1, ledger)?;
        self.frames.ensure(first..first + frames.len(), ledger)?;
        for (at, &frame) in frames.iter().enumerate() {
            *self.frames.get_mut(first + at)? = frame;
        }
        let head = self.site_chains.get_mut(chain)?;
        *self.sites.get_mut(number)? = Site {
            hash,
            next: *head,
            first: first as u32,
            frames: frames.len() as u32,
            purpose: purpose.0,
            ..Site::default()
        };
        *head = number as u32;
        (self.used.sites, self.used.frames) = (number + 1, first + frames.len());
        Some(number as u32)
    }

    /// Adds up at each site what is in use.
    pub(super) fn add_up(&mut self) {
        for number in 1..self.used.sites {
            if let Some(site) = self.sites.get_mut(number) {
                site.inuse = Estimate::default();
            }
        }
        for number in 1..self.used.samples {
            let Some(&sample) = self.samples.get(number) else { continue };
            if sample.site != 0
                && let Some(site) = self.sites.get_mut(sample.site as usize)
            {
                site.inuse.add(Estimate::of(&sample));
            }
        }
    }

    /// How many numbers of sites are given, 0 included.
    pub(super) fn sites(&self) -> usize {
        self.used.sites
    }

    /// A site by number.
    pub(super) fn site_of(&self, number: usize) -> Option<&Site> {
        self.sites.get(number).filter(|_| (1..self.used.sites).contains(&number))
    }

    /// The numbers of a site's places, innermost first.
    pub(super) fn frames_of(&self, site: &Site) -> impl Iterator<Item = u32> {
        let first = site.first as usize;
        (first..first + site.frames as usize).filter_map(|at| self.frames.get(at).copied())
    }

    /// How many numbers of places are given, 0 included.
    pub(super) fn places(&self) -> usize {
        self.used.places
    }

    /// The address of a place.
    pub(super) fn address_of(&self, place: usize) -> Option<usize> {
        self.places.get(place).map(|place| place.address)
    }

    /// The files whose code is mapped.
    pub(super) fn modules(&mut self) -> &mut Modules {
        &mut self.unwinder.modules
    }

    /// Bytes of the tables that have memory.
    pub(super) fn committed(&self) -> Bytes {
        let chains = self.place_chains.committed() + self.site_chains.committed();
        let unwinder = self.unwinder.modules.table.committed() + self.unwinder.rules.0.committed();
        let counted = self.samples.committed() + self.portions.committed();
        let stacks = self.places.committed() + self.frames.committed() + self.sites.committed();
        chains + unwinder + counted + stacks
    }

    /// Visits the memory of the tables.
    pub(super) fn for_each_range(&self, visit: &mut dyn FnMut(Address, Bytes)) {
        let chains = self.place_chains.ranges().chain(self.site_chains.ranges());
        let unwinder = self.unwinder.modules.table.ranges().chain(self.unwinder.rules.0.ranges());
        let counted = self.samples.ranges().chain(self.portions.ranges());
        let stacks = self.places.ranges().chain(self.frames.ranges()).chain(self.sites.ranges());
        chains.chain(unwinder).chain(counted).chain(stacks).for_each(|(at, size)| visit(at, size));
    }

    /// Gives the tables back to the system.
    ///
    /// # Safety
    /// Nobody uses the heap any more.
    pub(super) unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.unwinder.modules.table.destroy();
            self.unwinder.rules.0.destroy();
            self.places.destroy();
            self.place_chains.destroy();
            self.frames.destroy();
            self.sites.destroy();
            self.site_chains.destroy();
            self.samples.destroy();
            self.portions.destroy();
        }
    }
}

/// A hash of two numbers.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xbf58_476d_1ce4_e5b9);
    (product >> 64) as u64 ^ product as u64
}
