//! A thread in the background, for work that the program's own threads should not wait for.
//!
//! It is started by the first who needs it, from wherever that is: inside `malloc`, under locks of the C library's, before
//! the process has any library at all. So it is a bare thread ([`System::spawn`]), which no library knows; what it
//! runs keeps to this crate's own locks and memory. (Debug builds start one of the standard library's, since
//! their locks count what a thread holds, and the sanitizers want to know of every thread.)
//!
//! ```text
//!            ask                 nothing to do now            nothing to do at all
//!   None ──────────▶ Awake ◀──────────────────▶ Napping    Awake ────────────▶ Asleep
//!    ▲                 ▲       time is up                                          │
//!    │ fork            └───────────────────────────────────────────────────────────┘ ask
//! ```
//!
//! 1. [`Background::is_wanted`] is one load; [`Background::ask`] is a system call only for a thread that is not there or
//!    asleep. Who changed something and then finds the thread neither, may rely on it: before it sleeps it says so and
//!    looks once more.
//! 2. After a `fork` the child has no such thread, and says so with [`Background::forget`] while it is alone.
//!
//! # Safety
//! What the thread runs uses nothing that a library keeps for each thread: see [`System::spawn`].

use crate::base::Bytes;
use crate::base::sync::{self, AtomicU32, AtomicU64, Ordering};
use crate::os::{Nanoseconds, System};

const NONE: u32 = 0;
const ASLEEP: u32 = 1;
const AWAKE: u32 = 2;
const NAPPING: u32 = 3;

/// Enough for what runs here, which keeps no tables on its stack.
const STACK: Bytes = Bytes::kib(128);
/// How long after a refusal it is tried again to start the thread.
const PATIENCE: Nanoseconds = Nanoseconds(10_000_000_000);

/// The thread, whether it is there or not.
pub(crate) struct Background {
    state: AtomicU32,
    /// Not to be started before this time, since the system has just refused.
    not_before: AtomicU64,
    entry: unsafe extern "C" fn() -> !,
}

impl Background {
    /// A thread that will run `entry`.
    ///
    /// # Safety
    /// See the head of this file.
    pub(crate) const unsafe fn new(entry: unsafe extern "C" fn() -> !) -> Background {
        Background { state: AtomicU32::new(NONE), not_before: AtomicU64::new(0), entry }
    }

    /// Whether the thread is not there, or asleep: then who has work for it must ask.
    #[inline(always)]
    pub(crate) fn is_wanted(&self) -> bool {
        self.state.load(Ordering::Relaxed) <= ASLEEP
    }

    /// Whether there is a thread.
    pub(crate) fn exists(&self) -> bool {
        self.state.load(Ordering::Relaxed) != NONE
    }

    /// Wakes the thread, or starts it. The caller holds no lock of the heap's.
    pub(crate) fn ask(&self) {
        let change = |from, to| self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        if change(ASLEEP, AWAKE).is_ok() {
            sync::wake(&self.state);
        } else if self.state.load(Ordering::Relaxed) == NONE
            && System::Linux.now().0 >= self.not_before.load(Ordering::Relaxed)
            && change(NONE, AWAKE).is_ok()
            && !self.start()
        {
            let later = System::Linux.now().0 + PATIENCE.0;
            self.not_before.store(later, Ordering::Relaxed);
            self.state.store(NONE, Ordering::Release);
        }
    }

    #[cfg(not(debug_assertions))]
    fn start(&self) -> bool {
        // SAFETY: the promise of `new`.
        unsafe { System::Linux.spawn(STACK, self.entry) }.is_ok()
    }

    #[cfg(debug_assertions)]
    fn start(&self) -> bool {
        let entry = self.entry;
        // SAFETY: the thread that `new` was given this for.
        let thread = std::thread::Builder::new().stack_size(STACK.0 * 4).spawn(move || unsafe { entry() });
        thread.is_ok()
    }

    /// The thread rests for a while. Nobody wakes it.
    pub(crate) fn nap(&self, time: Nanoseconds) {
        self.state.store(NAPPING, Ordering::Relaxed);
        sync::wait_for(&self.state, NAPPING, time.0);
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// The thread sleeps until it is asked. `is_idle` looks once more whether there is nothing to do, now that everybody
    /// who finds something asks.
    pub(crate) fn sleep(&self, is_idle: impl FnOnce() -> bool) {
        self.state.swap(ASLEEP, Ordering::SeqCst);
        if !is_idle() {
            self.state.store(AWAKE, Ordering::Relaxed);
            return;
        }
        while self.state.load(Ordering::Acquire) == ASLEEP {
            sync::wait(&self.state, ASLEEP);
        }
    }

    /// Says that the thread is not there: this is the child of a `fork`, and the caller its only thread.
    pub(crate) fn forget(&self) {
        self.not_before.store(0, Ordering::Relaxed);
        self.state.store(NONE, Ordering::Release);
    }
}
