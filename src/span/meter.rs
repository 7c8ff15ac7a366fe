//! The meters of the purposes: what each one may have, and what it has had at most.
//!
//! A meter is charged before a span is allocated and discharged after it is freed. That is a second count beside
//! the books, kept because a limit must be decided at once and by all threads together, while the books' shards
//! are added up only when somebody reads. [`check`](super::PageHeap::check) proves that both agree when no
//! allocation is under way.
//!
//! A charge is made before the entry in the books, and taken back after the entry of the freeing; charges follow
//! each other in one order (hence acquire and release), and the peak is raised in between. So no reading of the books
//! shows more in use than the peak that is read after it.
//!
//! A *reservation* is a promise: bytes that a purpose may charge later whatever others do. It counts for the limits from
//! the beginning. Both a charge and a promise first add what they want and then look at the sum of the two, so
//! of two that do not fit together at least one sees the other (both may: then both are refused). Drawing on a
//! promise makes a charge of a part of it, in an order in which the sum is never too small.
//!
//! A purpose exists from the moment the count of purposes covers it; its name is written before and never
//! changes. (House: a purpose is a capability; who holds it may charge its meter.)
//!
//! # Safety
//! Names and callbacks are cells: a name is written once, before the count covers it; a callback is touched under the
//! lock of declarations alone.

use crate::base::purpose::{BUILT_IN, MAX_DECLARED, MAX_PURPOSES, STACK_KINDS, STACKS, StackKind};
use crate::base::sync::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Exhausted, Lock, PurposeId, PurposeName, Rank, Scarce};
#[cfg(not(loom))]
use crate::stats::window::Row;
use core::cell::UnsafeCell;
use core::fmt;

const NO_LIMIT: usize = usize::MAX;

/// One purpose's meter. It begins as a [`Row`] of the statistics page, where other processes read it.
#[repr(C, align(64))]
pub struct Meter {
    charged: AtomicUsize,
    /// Promised to reservations, and not charged yet.
    reserved: AtomicUsize,
    peak: AtomicUsize,
    soft: AtomicUsize,
    hard: AtomicUsize,
    refused: AtomicU64,
    soft_events: AtomicU64,
    name: UnsafeCell<PurposeName>,
    /// For a purpose of stacks its kind, and one; else 0. Written like the name.
    stacks: AtomicU8,
    /// Whether it is a declared purpose of collected objects.
    objects: AtomicBool,
    /// The soft limit was passed and nobody has been told yet.
    pending: AtomicBool,
    /// Something was refused for the hard limit, and nobody has been told yet.
    refusal_pending: AtomicBool,
    callback: UnsafeCell<Option<SoftLimitCallback>>,
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Meter, charged) == offset_of!(Row, charged));
    assert!(offset_of!(Meter, peak) == offset_of!(Row, peak));
    assert!(offset_of!(Meter, soft) == offset_of!(Row, soft));
    assert!(offset_of!(Meter, hard) == offset_of!(Row, hard));
    assert!(offset_of!(Meter, refused) == offset_of!(Row, refused));
    assert!(offset_of!(Meter, soft_events) == offset_of!(Row, soft_events));
    assert!(offset_of!(Meter, reserved) == offset_of!(Row, reserved));
    assert!(offset_of!(Meter, stacks) == offset_of!(Row, stacks));
    assert!(offset_of!(Meter, objects) == offset_of!(Row, objects));
    assert!(offset_of!(Meter, name) == offset_of!(Row, name_length));
};

/// What to call when a purpose passes its soft limit, or is refused something for its hard one.
#[derive(Clone, Copy)]
pub struct SoftLimitCallback {
    /// Called with `data` and what happened, by the thread whose allocation passed the limit, after that
    /// allocation is complete. It may allocate.
    pub call: fn(data: usize, event: &SoftLimitEvent),
    /// Handed to `call`.
    pub data: usize,
}

/// A purpose has passed its soft limit, or was refused something for its hard one.
#[derive(Clone, Copy, Debug)]
pub struct SoftLimitEvent {
    /// The purpose.
    pub purpose: PurposeName,
    /// What it has now.
    pub inuse: Bytes,
    /// The limit that it passed, or met.
    pub limit: Bytes,
    /// Whether something was refused: then the limit is the hard one.
    pub refused: bool,
}

/// Why a purpose could not be declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeclareError {
    /// The name is not one.
    BadName(crate::base::purpose::BadName),
    /// A purpose of this name exists.
    Duplicate(PurposeName),
    /// There are [`MAX_DECLARED`] already.
    TooMany,
    /// There are [`STACK_KINDS`] purposes of stacks already, the built-in one included.
    TooManyOfStacks,
}

/// All meters of a heap.
pub struct Meters {
    count: AtomicUsize,
    /// Purposes of stacks.
    kinds: AtomicUsize,
    declaring: Lock<()>,
    /// Some meter has `pending` set: one word to look at on the way out of an allocation.
    pending: AtomicBool,
    meters: [Meter; MAX_PURPOSES],
}

// SAFETY: names are written under `declaring` before the count that makes them visible, and never again;
// callbacks are written and read under `declaring`.
unsafe impl Sync for Meters {}

impl Meters {
    /// Fills zeroed memory in place: meters are too large for a stack.
    ///
    /// # Safety
    /// `at` points to zeroed memory for a `Meters` that nobody else sees yet.
    pub unsafe fn init(at: *mut Meters) {
        // SAFETY: the memory is ours alone; zeros are valid for every field but the lock's rank, which is
        // written, and the options, for which `None` is written.
        unsafe {
            (&raw mut (*at).declaring).write(Lock::new(Rank::Purposes, ()));
            for i in 0..MAX_PURPOSES {
                let meter = &raw mut (*at).meters[i];
                (&raw mut (*meter).soft).write(AtomicUsize::new(NO_LIMIT));
                (&raw mut (*meter).hard).write(AtomicUsize::new(NO_LIMIT));
                (&raw mut (*meter).callback).write(UnsafeCell::new(None));
                if i < BUILT_IN.len() {
                    let name = PurposeName::built_in(PurposeId(i as u8));
                    (&raw mut (*meter).name).write(UnsafeCell::new(name));
                }
            }
            (&raw mut (*at).meters[STACKS.index()].stacks).write(AtomicU8::new(StackKind::BUILT_IN.0 + 1));
            (&raw mut (*at).kinds).write(AtomicUsize::new(1));
            (&raw mut (*at).count).write(AtomicUsize::new(BUILT_IN.len()));
        }
    }

    /// Where another process finds the first purpose's row, and the number of purposes.
    pub fn addresses(&self) -> (Address, Address) {
        (Address::of(&self.meters), Address::of(&self.count))
    }

    /// How many purposes there are; their numbers are below that.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The meter of a purpose that exists.
    #[inline]
    pub fn get(&self, purpose: PurposeId) -> &Meter {
        &self.meters[purpose.index()]
    }

    /// The name of a purpose that exists.
    pub fn name(&self, purpose: PurposeId) -> PurposeName {
        assert!(purpose.index() < self.count(), "{purpose:?} does not exist");
        // SAFETY: the count covers this name, so it was written before and stays.
        unsafe { *self.get(purpose).name.get() }
    }

    /// The purpose with this name.
    pub fn find(&self, name: &str) -> Option<PurposeId> {
        (0..self.count() as u8).map(PurposeId).find(|&id| self.name(id).as_str() == name)
    }

    /// Makes a new purpose.
    ///
    /// # Errors
    /// When the name is bad or taken, or there are [`MAX_DECLARED`] already.
    pub fn declare(&self, name: &str) -> Result<PurposeId, DeclareError> {
        self.declare_as(name, false)
    }

    /// Makes a new purpose of stacks.
    ///
    /// # Errors
    /// As [`Meters::declare`], and when there are [`STACK_KINDS`] such already.
    pub fn declare_stacks(&self, name: &str) -> Result<(PurposeId, StackKind), DeclareError> {
        let purpose = self.declare_as(name, true)?;
        Ok((purpose, self.stack_kind(purpose).expect("it was declared as one")))
    }

    /// The kind of a purpose of stacks.
    #[inline]
    pub fn stack_kind(&self, purpose: PurposeId) -> Option<StackKind> {
        self.get(purpose).stacks.load(Ordering::Relaxed).checked_sub(1).map(StackKind)
    }

    /// Notes that a declared purpose has collected objects.
    pub fn set_objects(&self, purpose: PurposeId) {
        self.get(purpose).objects.store(true, Ordering::Relaxed);
    }

    /// Whether a declared purpose has collected objects.
    pub fn has_objects(&self, purpose: PurposeId) -> bool {
        self.get(purpose).objects.load(Ordering::Relaxed)
    }

    fn declare_as(&self, name: &str, stacks: bool) -> Result<PurposeId, DeclareError> {
        let name = PurposeName::new(name).map_err(DeclareError::BadName)?;
        let _declaring = self.declaring.lock();
        if self.find(name.as_str()).is_some() {
            return Err(DeclareError::Duplicate(name));
        }
        let count = self.count.load(Ordering::Relaxed);
        if count == MAX_PURPOSES {
            return Err(DeclareError::TooMany);
        }
        if stacks {
            let kinds = self.kinds.load(Ordering::Relaxed);
            if kinds == STACK_KINDS {
                return Err(DeclareError::TooManyOfStacks);
            }
            self.kinds.store(kinds + 1, Ordering::Relaxed);
            self.meters[count].stacks.store(kinds as u8 + 1, Ordering::Relaxed);
        }
        // SAFETY: the count does not cover this name yet and this thread holds `declaring`, so nobody reads it.
        unsafe { *self.meters[count].name.get() = name };
        self.count.store(count + 1, Ordering::Release);
        Ok(PurposeId(count as u8))
    }

    /// Sets what is called when the purpose passes its soft limit.
    pub fn set_callback(&self, purpose: PurposeId, callback: Option<SoftLimitCallback>) {
        let _declaring = self.declaring.lock();
        // SAFETY: callbacks are touched under `declaring` only.
        unsafe { *self.get(purpose).callback.get() = callback };
    }

    /// Charges a purpose with bytes that are about to be allocated.
    ///
    /// # Errors
    /// [`Exhausted`] with the purpose's limit, when they would exceed it. Then nothing is charged.
    #[inline]
    pub fn charge(&self, purpose: PurposeId, bytes: Bytes) -> Result<(), Exhausted> {
        let meter = self.get(purpose);
        let (hard, soft) = (meter.hard.load(Ordering::Relaxed), meter.soft.load(Ordering::Relaxed));
        let now = if hard == NO_LIMIT {
            meter.charged.fetch_add(bytes.0, Ordering::AcqRel) + bytes.0
        } else {
            self.charge_below(purpose, bytes, hard)?
        };
        let now = now + meter.reserved.load(Ordering::Relaxed);
        if now > soft && now - bytes.0 <= soft {
            self.passed(meter);
        }
        Ok(())
    }

    #[cold]
    fn passed(&self, meter: &Meter) {
        meter.soft_events.fetch_add(1, Ordering::Relaxed);
        meter.pending.store(true, Ordering::Relaxed);
        self.pending.store(true, Ordering::Release);
    }

    /// Promises a purpose bytes that it may charge later with [`Meters::draw`].
    ///
    /// # Errors
    /// [`Exhausted`] with the purpose's limit, when they would exceed it. Then nothing is promised.
    pub fn reserve(&self, purpose: PurposeId, bytes: Bytes) -> Result<(), Exhausted> {
        let meter = self.get(purpose);
        let hard = meter.hard.load(Ordering::Relaxed);
        let promised =
            meter.reserved.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |now| now.checked_add(bytes.0));
        let sum = promised
            .ok()
            .and_then(|before| (before + bytes.0).checked_add(meter.charged.load(Ordering::SeqCst)));
        match sum {
            Some(sum) if sum <= hard => {
                let soft = meter.soft.load(Ordering::Relaxed);
                if sum > soft && sum - bytes.0 <= soft {
                    self.passed(meter);
                }
                Ok(())
            }
            _ => {
                if promised.is_ok() {
                    meter.reserved.fetch_sub(bytes.0, Ordering::SeqCst);
                }
                Err(self.over(purpose, bytes, hard))
            }
        }
    }

    /// Takes a promise back.
    pub fn unreserve(&self, purpose: PurposeId, bytes: Bytes) {
        let before = self.get(purpose).reserved.fetch_sub(bytes.0, Ordering::SeqCst);
        debug_assert!(before >= bytes.0, "{purpose:?}: more is taken back than was promised");
    }

    /// Charges bytes that were promised. `promise` is what is left of the promise; returns whether it was enough, and
    /// changes nothing if not.
    pub fn draw(&self, purpose: PurposeId, promise: &AtomicUsize, bytes: Bytes) -> bool {
        let enough =
            promise.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| left.checked_sub(bytes.0));
        if enough.is_ok() {
            self.get(purpose).charged.fetch_add(bytes.0, Ordering::SeqCst);
            self.unreserve(purpose, bytes);
        }
        enough.is_ok()
    }

    /// Undoes [`Meters::draw`].
    pub fn undraw(&self, purpose: PurposeId, promise: &AtomicUsize, bytes: Bytes) {
        self.get(purpose).reserved.fetch_add(bytes.0, Ordering::SeqCst);
        self.discharge(purpose, bytes);
        promise.fetch_add(bytes.0, Ordering::AcqRel);
    }

    /// Notes that what was charged last is about to be in use: only then does it count for the peak.
    #[inline]
    pub fn confirm(&self, purpose: PurposeId) {
        let meter = self.get(purpose);
        let now = meter.charged.load(Ordering::Acquire);
        if now > meter.peak.load(Ordering::Relaxed) {
            meter.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Takes back a charge for memory that was refused for another reason.
    #[cold]
    pub fn refuse(&self, purpose: PurposeId, bytes: Bytes) {
        self.get(purpose).refused.fetch_add(1, Ordering::Relaxed);
        self.discharge(purpose, bytes);
    }

    #[cold]
    fn charge_below(&self, purpose: PurposeId, bytes: Bytes, hard: usize) -> Result<usize, Exhausted> {
        let meter = self.get(purpose);
        let fits = |now: usize| now.checked_add(bytes.0).filter(|&then| then <= hard);
        let Ok(before) = meter.charged.fetch_update(Ordering::SeqCst, Ordering::Relaxed, fits) else {
            return Err(self.over(purpose, bytes, hard));
        };
        let now = before + bytes.0;
        if now.saturating_add(meter.reserved.load(Ordering::SeqCst)) > hard {
            self.discharge(purpose, bytes);
            return Err(self.over(purpose, bytes, hard));
        }
        Ok(now)
    }

    /// Counts a refusal, which is to be told, and says what stood in the way.
    fn over(&self, purpose: PurposeId, wanted: Bytes, hard: usize) -> Exhausted {
        let meter = self.get(purpose);
        meter.refused.fetch_add(1, Ordering::Relaxed);
        meter.refusal_pending.store(true, Ordering::Relaxed);
        self.pending.store(true, Ordering::Release);
        Exhausted { scarce: Scarce::PurposeLimit, purpose: self.name(purpose), wanted, limit: Bytes(hard) }
    }

    /// Takes a charge back.
    #[inline]
    pub fn discharge(&self, purpose: PurposeId, bytes: Bytes) {
        let before = self.get(purpose).charged.fetch_sub(bytes.0, Ordering::AcqRel);
        debug_assert!(before >= bytes.0, "{purpose:?} discharged below zero");
    }

    /// Whether [`Meters::tell`] has something to do.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Calls the callbacks of the purposes that passed their soft limits or were refused something for their hard ones,
    /// and shows the events to `log`. No lock is held meanwhile, so a callback may allocate, and even pass a limit again.
    #[cold]
    pub fn tell(&self, log: impl Fn(&SoftLimitEvent)) {
        self.pending.store(false, Ordering::Relaxed);
        for purpose in (0..self.count() as u8).map(PurposeId) {
            let meter = self.get(purpose);
            let passed = meter.pending.swap(false, Ordering::Acquire);
            let refused = meter.refusal_pending.swap(false, Ordering::Acquire);
            if !passed && !refused {
                continue;
            }
            let callback = {
                let _declaring = self.declaring.lock();
                // SAFETY: callbacks are touched under `declaring` only.
                unsafe { *meter.callback.get() }
            };
            let events = [(passed, meter.soft_limit(), false), (refused, meter.hard_limit(), true)];
            for (_, limit, refused) in events.into_iter().filter(|event| event.0) {
                let (inuse, limit) = (meter.inuse(), limit.unwrap_or_default());
                let event = SoftLimitEvent { purpose: self.name(purpose), inuse, limit, refused };
                log(&event);
                if let Some(SoftLimitCallback { call, data }) = callback {
                    call(data, &event);
                }
            }
        }
    }

    /// The lock under which purposes are declared, for `fork`.
    pub fn declaring_lock(&self) -> &Lock<()> {
        &self.declaring
    }
}

impl Meter {
    /// Bytes charged now.
    pub fn inuse(&self) -> Bytes {
        Bytes(self.charged.load(Ordering::Relaxed))
    }

    /// Bytes that are promised to reservations, and not charged yet.
    pub fn reserved(&self) -> Bytes {
        Bytes(self.reserved.load(Ordering::Relaxed))
    }

    /// The most bytes that were ever charged at once.
    pub fn peak(&self) -> Bytes {
        Bytes(self.peak.load(Ordering::Relaxed))
    }

    /// The limit above which charges are refused.
    pub fn hard_limit(&self) -> Option<Bytes> {
        limit_of(&self.hard)
    }

    /// The limit above which somebody is told.
    pub fn soft_limit(&self) -> Option<Bytes> {
        limit_of(&self.soft)
    }

    /// Sets or lifts the hard limit. What is above it already stays; nothing more comes in.
    pub fn set_hard_limit(&self, limit: Option<Bytes>) {
        self.hard.store(limit.map_or(NO_LIMIT, |bytes| bytes.0), Ordering::Relaxed);
    }

    /// Sets or lifts the soft limit.
    pub fn set_soft_limit(&self, limit: Option<Bytes>) {
        self.soft.store(limit.map_or(NO_LIMIT, |bytes| bytes.0), Ordering::Relaxed);
    }

    /// How often memory was refused, be it because of the limit or because there was none.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How often the soft limit was passed.
    pub fn soft_events(&self) -> u64 {
        self.soft_events.load(Ordering::Relaxed)
    }
}

fn limit_of(word: &AtomicUsize) -> Option<Bytes> {
    let limit = word.load(Ordering::Relaxed);
    (limit != NO_LIMIT).then_some(Bytes(limit))
}

impl fmt::Display for SoftLimitEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SoftLimitEvent { purpose, inuse, limit, refused } = self;
        match refused {
            false => write!(f, "{purpose} has passed its soft limit of {limit}: {inuse} in use"),
            true => write!(f, "{purpose} was refused memory at its limit of {limit}: {inuse} in use"),
        }
    }
}

impl fmt::Display for DeclareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeclareError::BadName(why) => write!(f, "{why}"),
            DeclareError::Duplicate(name) => write!(f, "a purpose named {name} exists already"),
            DeclareError::TooMany => write!(f, "a heap has at most {MAX_DECLARED} declared purposes"),
            DeclareError::TooManyOfStacks => {
                write!(f, "a heap has at most {} declared purposes of stacks", STACK_KINDS - 1)
            }
        }
    }
}

impl core::error::Error for DeclareError {}
