//! A system whose failures are a test's choice.
//!
//! The mappings are real, so that the code above runs as it ships. What differs:
//!
//! - any call that a system may refuse can be refused, by its number ([`Simulated::refuse`]), so a test can run
//!   a workload once for each call in it and refuse that one;
//! - there is as much memory and address space as the test says ([`Simulated::set_memory`],
//!   [`Simulated::set_address_space`]);
//! - released memory is filled with [`POISON`], and zeroed when it is made ready again: code that reads memory
//!   it has released, or believes that memory it never made ready is zero, fails at once;
//! - the state of every page is known, and a call that starts from a wrong one panics;
//! - time stands still until [`Simulated::advance`], and random numbers are the same in every run.
//!
//! One byte for each page holds its state, in a mapping of its own beside every reservation:
//!
//! ```text
//!   Reserved ──commit──▶ Fresh ──ready──▶ Ready ◀──ready── Poisoned
//!                                         │ ▲ └────release──────▲
//!                                   guard ▼ │ unguard
//!                                         Guarded
//! ```
//!
//! Fresh and poisoned pages are both *released*; they differ in what they hold.
//!
//! 1. The bytes that are ready are those of the pages in states Ready and Guarded, and never more than the memory there is.
//! 2. A refused call changes nothing.
//!
//! # Safety
//! Ranges are trusted to lie in this system's reservations, as everywhere in this room, but here that is checked:
//! a range outside them panics before anything is touched. The atomics are `core`'s, not the model checker's: the
//! simulation is a test's instrument and is not itself explored.

use super::linux;
use super::system::{Guarding, Nanoseconds, SystemError};
use crate::base::Bytes;
use crate::base::random::Random;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// What released memory is filled with.
pub const POISON: u8 = 0xdb;
/// Reservations that one simulated system can have at a time.
const MAPPINGS: usize = 256;

/// The calls that a system may refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Call {
    /// None → Reserved.
    Reserve,
    /// Reserved → Released.
    Commit,
    /// Released → Ready.
    Ready,
    /// Ready → Released.
    Release,
    /// Ready → Ready, without its memory.
    Renew,
    /// Ready → Guarded.
    Guard,
    /// Guarded → Ready.
    Unguard,
    /// To begin to watch which pages are written.
    Watch,
    /// To protect watched pages.
    Protect,
    /// To ask which were written.
    Written,
}

const CALLS: usize = 10;

const RESERVED: u8 = 0;
const FRESH: u8 = 1;
const POISONED: u8 = 2;
const READY: u8 = 3;
const GUARDED: u8 = 4;

/// A simulated system. Make it a `static`, or leak it.
#[derive(Debug)]
pub struct Simulated {
    /// Refusable calls made so far, by kind.
    calls: [AtomicUsize; CALLS],
    /// Refusable calls made so far.
    total: AtomicUsize,
    /// Calls numbered from here ...
    refuse_from: AtomicUsize,
    /// ... to before here are refused.
    refuse_to: AtomicUsize,
    refused: AtomicUsize,
    /// The most bytes that may be ready at a time.
    memory: AtomicUsize,
    ready: AtomicUsize,
    most_ready: AtomicUsize,
    /// The most bytes that may be reserved at a time.
    address_space: AtomicUsize,
    reserved: AtomicUsize,
    clock: AtomicU64,
    random: AtomicU64,
    by_mappings: AtomicBool,
    mappings: [Mapping; MAPPINGS],
}

/// One reservation. The base is zero in a free slot, and [`CLAIMED`] while the rest is being filled in.
#[derive(Debug)]
struct Mapping {
    base: AtomicUsize,
    size: AtomicUsize,
    /// Bytes of it that are ready.
    ready: AtomicUsize,
    states: AtomicPtr<AtomicU8>,
}

const CLAIMED: usize = 1;

impl Simulated {
    /// A system with all the memory of the real one, that refuses nothing.
    pub const fn new() -> Simulated {
        Simulated {
            calls: [const { AtomicUsize::new(0) }; CALLS],
            total: AtomicUsize::new(0),
            refuse_from: AtomicUsize::new(usize::MAX),
            refuse_to: AtomicUsize::new(usize::MAX),
            refused: AtomicUsize::new(0),
            memory: AtomicUsize::new(usize::MAX),
            ready: AtomicUsize::new(0),
            most_ready: AtomicUsize::new(0),
            address_space: AtomicUsize::new(usize::MAX),
            reserved: AtomicUsize::new(0),
            clock: AtomicU64::new(0),
            random: AtomicU64::new(0),
            by_mappings: AtomicBool::new(false),
            mappings: [const {
                Mapping {
                    base: AtomicUsize::new(0),
                    size: AtomicUsize::new(0),
                    ready: AtomicUsize::new(0),
                    states: AtomicPtr::new(ptr::null_mut()),
                }
            }; MAPPINGS],
        }
    }

    /// From now on, lets `after` refusable calls pass and refuses the `count` that follow. A new order replaces
    /// the one before.
    pub fn refuse(&self, after: usize, count: usize) {
        let from = self.total.load(SeqCst).saturating_add(after);
        // Closed while it moves, so that no call falls into a window made of old and new.
        self.refuse_to.store(0, SeqCst);
        self.refuse_from.store(from, SeqCst);
        self.refuse_to.store(from.saturating_add(count), SeqCst);
    }

    /// Refuses nothing more by number.
    pub fn refuse_nothing(&self) {
        self.refuse_to.store(0, SeqCst);
    }

    /// Sets how many bytes may be ready at a time. Less than are ready now is allowed: then none come in addition.
    pub fn set_memory(&self, bytes: Bytes) {
        self.memory.store(bytes.0, SeqCst);
    }

    /// Sets how many bytes may be reserved at a time.
    pub fn set_address_space(&self, bytes: Bytes) {
        self.address_space.store(bytes.0, SeqCst);
    }

    /// Bytes that are ready now.
    pub fn ready_bytes(&self) -> Bytes {
        Bytes(self.ready.load(SeqCst))
    }

    /// The most bytes that ever were ready at a time.
    pub fn most_ready_bytes(&self) -> Bytes {
        Bytes(self.most_ready.load(SeqCst))
    }

    /// Bytes that are reserved now, in whatever state.
    pub fn reserved_bytes(&self) -> Bytes {
        Bytes(self.reserved.load(SeqCst))
    }

    /// Refusable calls made so far, the refused ones included.
    pub fn calls(&self) -> usize {
        self.total.load(SeqCst)
    }

    /// Calls of one kind made so far, the refused ones included.
    pub fn calls_of(&self, call: Call) -> usize {
        self.calls[call as usize].load(SeqCst)
    }

    /// Calls that were refused, for whatever reason.
    pub fn refusals(&self) -> usize {
        self.refused.load(SeqCst)
    }

    /// Guards memory as kernels do that know no other way than a mapping for each guard.
    pub fn set_guards_by_mappings(&self, by_mappings: bool) {
        self.by_mappings.store(by_mappings, SeqCst);
    }

    pub(super) fn guards_by_mappings(&self) -> bool {
        self.by_mappings.load(SeqCst)
    }

    /// Lets time pass.
    pub fn advance(&self, by: Nanoseconds) {
        self.clock.fetch_add(by.0, SeqCst);
    }

    /// The simulated time.
    pub fn now(&self) -> Nanoseconds {
        Nanoseconds(self.clock.load(SeqCst))
    }

    pub(super) fn random(&self) -> u64 {
        Random::new(self.random.fetch_add(1, SeqCst)).bits()
    }

    pub(super) fn reserve(&self, size: Bytes, align: Bytes) -> Result<*mut u8, SystemError> {
        self.enter(Call::Reserve)?;
        self.take(&self.reserved, size.0, &self.address_space)?;
        self.map(size, align).inspect_err(|_| {
            self.reserved.fetch_sub(size.0, SeqCst);
        })
    }

    fn map(&self, size: Bytes, align: Bytes) -> Result<*mut u8, SystemError> {
        let page = super::System::Linux.page_size();
        let states_size = states_size(size);
        let states = linux::reserve(states_size, page)?;
        // SAFETY: just reserved, for this.
        if let Err(error) = unsafe { linux::commit(states, states_size) } {
            // SAFETY: nobody has seen it.
            unsafe { linux::unmap(states, states_size) };
            return Err(error);
        }
        let at = linux::reserve(size, align).inspect_err(|_| {
            // SAFETY: nobody has seen it.
            unsafe { linux::unmap(states, states_size) };
        })?;
        let free = |slot: &&Mapping| slot.base.compare_exchange(0, CLAIMED, SeqCst, SeqCst).is_ok();
        let slot = self.mappings.iter().find(free).expect("a simulated system has few reservations");
        slot.size.store(size.0, SeqCst);
        slot.states.store(states.cast(), SeqCst);
        slot.base.store(at.addr(), SeqCst);
        Ok(at)
    }

    pub(super) unsafe fn commit(&self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        self.enter(Call::Commit)?;
        // SAFETY: handed on.
        unsafe { linux::commit(at, size)? };
        for state in self.states(at, size) {
            let _ = state.compare_exchange(RESERVED, FRESH, SeqCst, SeqCst);
        }
        Ok(())
    }

    pub(super) unsafe fn ready(&self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        self.enter(Call::Ready)?;
        let page = super::System::Linux.page_size().0;
        let states = self.states(at, size);
        let wanted = states.iter().filter(|state| !is_ready(state)).count();
        self.take(&self.ready, wanted * page, &self.memory)?;
        self.mapping(at).ready.fetch_add(wanted * page, SeqCst);
        self.most_ready.fetch_max(self.ready.load(SeqCst), SeqCst);
        for (i, state) in states.iter().enumerate() {
            match state.load(SeqCst) {
                RESERVED => panic!("{size:?} at {at:?} made ready without a commit"),
                // SAFETY: the page is committed, and released pages are nobody's until this call returns.
                POISONED => unsafe { at.add(i * page).write_bytes(0, page) },
                GUARDED => continue,
                _ => {}
            }
            state.store(READY, SeqCst);
        }
        Ok(())
    }

    pub(super) unsafe fn renew(&self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        self.enter(Call::Renew)?;
        let page = super::System::Linux.page_size().0;
        for (i, state) in self.states(at, size).iter().enumerate() {
            match state.load(SeqCst) {
                // SAFETY: the caller gives the page's contents up.
                READY => unsafe { at.add(i * page).write_bytes(0, page) },
                GUARDED => {}
                _ => panic!("{size:?} at {at:?} renewed without being ready"),
            }
        }
        Ok(())
    }

    pub(super) unsafe fn guard(&self, at: *mut u8, size: Bytes, how: Guarding) -> Result<(), SystemError> {
        self.enter(Call::Guard)?;
        let states = self.states(at, size);
        assert!(
            states.iter().all(|state| state.load(SeqCst) == READY),
            "{size:?} at {at:?} guarded without being ready"
        );
        // SAFETY: handed on.
        unsafe { linux::guard(at, size, how)? };
        states.iter().for_each(|state| state.store(GUARDED, SeqCst));
        Ok(())
    }

    pub(super) unsafe fn unguard(&self, at: *mut u8, size: Bytes, how: Guarding) -> Result<(), SystemError> {
        self.enter(Call::Unguard)?;
        // SAFETY: handed on.
        unsafe { linux::unguard(at, size, how)? };
        for state in self.states(at, size) {
            let _ = state.compare_exchange(GUARDED, READY, SeqCst, SeqCst);
        }
        Ok(())
    }

    pub(super) unsafe fn release(&self, at: *mut u8, size: Bytes) -> Result<(), SystemError> {
        self.enter(Call::Release)?;
        let page = super::System::Linux.page_size().0;
        let slot = self.mapping(at);
        for (i, state) in self.states(at, size).iter().enumerate() {
            match state.load(SeqCst) {
                RESERVED => panic!("{size:?} at {at:?} released without a commit"),
                READY => {
                    // SAFETY: the caller gives the page's contents up.
                    unsafe { at.add(i * page).write_bytes(POISON, page) };
                    state.store(POISONED, SeqCst);
                    self.ready.fetch_sub(page, SeqCst);
                    slot.ready.fetch_sub(page, SeqCst);
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) unsafe fn unmap(&self, at: *mut u8, size: Bytes) {
        let slot = self.mapping(at);
        assert_eq!(
            (slot.base.load(SeqCst), slot.size.load(SeqCst)),
            (at.addr(), size.0),
            "a part was unmapped"
        );
        self.reserved.fetch_sub(size.0, SeqCst);
        self.ready.fetch_sub(slot.ready.swap(0, SeqCst), SeqCst);
        let states = slot.states.load(SeqCst).cast();
        slot.base.store(0, SeqCst);
        // SAFETY: the caller gives the range up, and nobody finds its states any more.
        unsafe {
            linux::unmap(at, size);
            linux::unmap(states, states_size(size));
        }
    }

    /// Counts a call, and refuses it if it is one of those to be refused.
    pub(super) fn enter(&self, call: Call) -> Result<(), SystemError> {
        self.calls[call as usize].fetch_add(1, SeqCst);
        let number = self.total.fetch_add(1, SeqCst);
        if (self.refuse_from.load(SeqCst)..self.refuse_to.load(SeqCst)).contains(&number) {
            return Err(self.refusal());
        }
        Ok(())
    }

    /// Adds to a sum that has a bound.
    fn take(&self, sum: &AtomicUsize, bytes: usize, bound: &AtomicUsize) -> Result<(), SystemError> {
        let bound = bound.load(SeqCst);
        let more =
            |sum: usize| if bytes == 0 { Some(sum) } else { sum.checked_add(bytes).filter(|&n| n <= bound) };
        sum.fetch_update(SeqCst, SeqCst, more).map_err(|_| self.refusal())?;
        Ok(())
    }

    fn refusal(&self) -> SystemError {
        self.refused.fetch_add(1, SeqCst);
        SystemError::NO_MEMORY
    }

    fn mapping(&self, at: *mut u8) -> &Mapping {
        let holds = |slot: &&Mapping| {
            let base = slot.base.load(SeqCst);
            base > CLAIMED && at.addr().wrapping_sub(base) < slot.size.load(SeqCst)
        };
        self.mappings.iter().find(holds).unwrap_or_else(|| panic!("{at:?} is not reserved"))
    }

    /// The states of the pages of a range.
    fn states(&self, at: *mut u8, size: Bytes) -> &[AtomicU8] {
        let slot = self.mapping(at);
        let (page, offset) = (super::System::Linux.page_size().0, at.addr() - slot.base.load(SeqCst));
        assert!(offset + size.0 <= slot.size.load(SeqCst), "{size:?} at {at:?} leave the reservation");
        // SAFETY: one byte stands there for each page of the reservation, and the range lies inside it.
        unsafe { core::slice::from_raw_parts(slot.states.load(SeqCst).add(offset / page), size.0 / page) }
    }
}

impl Default for Simulated {
    fn default() -> Simulated {
        Simulated::new()
    }
}

fn is_ready(state: &AtomicU8) -> bool {
    matches!(state.load(SeqCst), READY | GUARDED)
}

/// Bytes for the states of a reservation, in whole pages.
fn states_size(size: Bytes) -> Bytes {
    let page = super::System::Linux.page_size().0;
    Bytes((size.0 / page).next_multiple_of(page))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::System;
    use super::super::testing::simulated;
    use super::*;
    use proptest::prelude::*;

    const PAGES: usize = 24;

    fn page() -> Bytes {
        System::Linux.page_size()
    }

    #[test]
    fn a_static_will_do() {
        static SIMULATED: Simulated = Simulated::new();
        let system = System::Simulated(&SIMULATED);
        let at = system.reserve(Bytes::mib(4), Bytes::mib(4)).unwrap();
        assert_eq!(SIMULATED.reserved_bytes(), Bytes::mib(4));
        // SAFETY: just reserved.
        unsafe { system.unmap(at, Bytes::mib(4)) };
        assert_eq!(SIMULATED.reserved_bytes(), Bytes::ZERO);
    }

    #[test]
    fn time_and_chance_are_the_tests() {
        let ((one, system), (_, other)) = (simulated(), simulated());
        assert_eq!(system.now(), Nanoseconds(0));
        one.advance(Nanoseconds(5));
        assert_eq!(system.now(), Nanoseconds(5));
        let draw = |system: System| [system.random(), system.random(), system.random()];
        let drawn = draw(system);
        assert_eq!(drawn, draw(other));
        assert_ne!(drawn[0], drawn[1]);
    }

    #[test]
    fn the_calls_in_the_window_are_refused() {
        let (simulated, system) = simulated();
        system.reserve(page(), page()).unwrap();
        simulated.refuse(2, 3);
        let outcomes: Vec<_> = (0..7).map(|_| system.reserve(page(), page()).is_ok()).collect();
        assert_eq!(outcomes, [true, true, false, false, false, true, true]);
        assert_eq!((simulated.calls(), simulated.calls_of(Call::Reserve), simulated.refusals()), (8, 8, 3));
    }

    #[test]
    #[should_panic(expected = "made ready without a commit")]
    fn ready_needs_a_commit() {
        let (_, system) = simulated();
        let at = system.reserve(page(), page()).unwrap();
        // SAFETY: just reserved; the call is checked before anything is touched.
        let _ = unsafe { system.ready(at, page()) };
    }

    #[test]
    #[should_panic(expected = "is not reserved")]
    fn foreign_memory_is_noticed() {
        let (_, system) = simulated();
        let at = System::Linux.reserve(page(), page()).unwrap();
        // SAFETY: the call is checked before anything is touched.
        let _ = unsafe { system.release(at, page()) };
    }

    #[test]
    fn guarded_memory_stays_ready_and_renewed_memory_is_zero() {
        for how in [Guarding::Markers, Guarding::Mappings] {
            let (simulated, system) = simulated();
            simulated.set_guards_by_mappings(how == Guarding::Mappings);
            if system.guarding() != how {
                continue;
            }
            let (page, all) = (page(), Bytes(3 * page().0));
            let base = system.reserve(all, page).unwrap();
            // SAFETY: the test's own, and touched only where it is not guarded.
            unsafe {
                system.commit(base, all).unwrap();
                system.ready(base, all).unwrap();
                base.write_bytes(7, all.0);
                system.guard(base, page, how).unwrap();
                assert_eq!(simulated.ready_bytes(), all);
                simulated.refuse(0, 1);
                assert!(system.unguard(base, all, how).is_err());
                system.renew(base, Bytes(2 * page.0)).unwrap();
                assert_eq!((base.add(page.0).read(), base.add(2 * page.0).read()), (0, 7));
                system.unguard(base, all, how).unwrap();
                base.write(1);
                assert_eq!(base.add(2 * page.0).read(), 7);
                assert_eq!(simulated.ready_bytes(), all);
                system.unmap(base, all);
            }
        }
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Model {
        Reserved,
        Fresh,
        Poisoned,
        Ready(u8),
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Every page is in the state, and holds the bytes, that a list of states says; a refused call changes
        /// neither.
        #[test]
        fn pages_are_where_the_model_says(
            memory in 1..=PAGES,
            steps in proptest::collection::vec((0u8..4, 0..PAGES, 1usize..8, 0u8..8), 1..40),
        ) {
            let (simulated, system) = simulated();
            let page = page().0;
            simulated.set_memory(Bytes(memory * page));
            let base = system.reserve(Bytes(PAGES * page), Bytes(page)).unwrap();
            let mut model = [Model::Reserved; PAGES];
            for (step, (what, first, length, refuse)) in (1u8..).zip(steps) {
                let part = first..(first + length).min(PAGES);
                let (at, size) = (base.wrapping_add(first * page), Bytes(part.len() * page));
                if refuse == 0 {
                    simulated.refuse(0, 1);
                }
                let committed = !model[part.clone()].contains(&Model::Reserved);
                let ready = |model: &[Model]| model.iter().filter(|m| matches!(m, Model::Ready(_))).count();
                let after = ready(&model) + part.len() - ready(&model[part.clone()]);
                let (done, expected) = match what {
                    // SAFETY: inside the reservation.
                    0 => (unsafe { system.commit(at, size) }, true),
                    // SAFETY: inside the reservation, and committed.
                    1 if committed => (unsafe { system.ready(at, size) }, after <= memory || after == ready(&model)),
                    // SAFETY: as above.
                    2 if committed => (unsafe { system.release(at, size) }, true),
                    _ => {
                        for i in part {
                            if let Model::Ready(_) = model[i] {
                                // SAFETY: ready memory of this test's.
                                unsafe { base.add(i * page).write_bytes(step, page) };
                                model[i] = Model::Ready(step);
                            }
                        }
                        simulated.refuse_nothing();
                        continue;
                    }
                };
                simulated.refuse_nothing();
                prop_assert_eq!(done.is_ok(), expected && refuse != 0);
                if done.is_ok() {
                    for state in &mut model[part] {
                        *state = match (what, *state) {
                            (0, Model::Reserved) => Model::Fresh,
                            (1, Model::Fresh | Model::Poisoned) => Model::Ready(0),
                            (2, Model::Ready(_)) => Model::Poisoned,
                            (_, same) => same,
                        };
                    }
                }
                prop_assert_eq!(simulated.ready_bytes().0, ready(&model) * page);
                prop_assert!(simulated.most_ready_bytes().0 <= memory * page);
                for (i, state) in model.iter().enumerate() {
                    let byte = match state {
                        Model::Reserved => continue,
                        Model::Fresh => 0,
                        Model::Poisoned => POISON,
                        Model::Ready(byte) => *byte,
                    };
                    // SAFETY: committed memory of this test's.
                    let bytes = unsafe { core::slice::from_raw_parts(base.add(i * page), page) };
                    prop_assert!(bytes.iter().all(|&b| b == byte), "page {} is not {:?}", i, state);
                }
            }
            // SAFETY: the test's own, and done with.
            unsafe { system.unmap(base, Bytes(PAGES * page)) };
            prop_assert_eq!(simulated.ready_bytes(), Bytes::ZERO);
        }
    }
}
