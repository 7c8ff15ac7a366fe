//! Stopping the world, and asking everyone for something while it runs.
//!
//! Each thread that touches collected objects has a *station*. Between two safepoints it holds references that
//! nobody else knows of; at a safepoint it holds none.
//!
//! ```text
//!              enter                         leave
//!   Outside ───────────▶ Running ──────────────────────▶ Outside
//!                         │   ▲
//!        safepoint, while │   │ the world goes on
//!        the world stops  ▼   │                  hold            let_go
//!                        Stopped        Outside ──────▶ Held ──────▶ Outside
//! ```
//!
//! The collector asks by setting a bit in the station's `poll`, which the thread reads at safepoints: one load and one
//! branch. Whoever is outside needs no asking: it cannot come in while `stop` stands, and the collector can hold it
//! there for a moment, to do in its place what it was asked for.
//!
//! 1. A thread touches objects only while its station is `Running`.
//! 2. Between `World::stop` and `World::go_on` no station is `Running` for longer than it takes to see that `stop`
//!    stands (a thread that enters announces itself first and looks then; the collector sets `stop` first and looks
//!    then, so one of the two sees the other).
//! 3. One thread at a time stops the world: the holder of the cycle. It is not running itself.
//!
//! The file does not know what is done while the world stands, nor how many stations there are.
//! (Go: `stopTheWorldWithSema`, `forEachP`.)

use crate::base::sync::{self, AtomicU32, Ordering};

/// The thread is to stop at its next safepoint.
pub const STOP: u32 = 1;
/// The thread is to hand over what it noted for the collector.
pub const HAND_OVER: u32 = 2;

/// The thread is to drive a cycle, since nobody else will.
pub const CYCLE: u32 = 4;

/// The thread is to run finalizers that are due.
pub const FINALIZE: u32 = 8;

/// How often one looks for what the other side is about to do, before sleeping: some tens of microseconds. Not at all
/// where both sides share one processor.
const SPINS: u32 = 2000;

/// Where a thread stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// It touches no objects, perhaps for long: it waits for something, or does not belong to the heap now.
    Outside = 0,
    /// It may touch objects.
    Running = 1,
    /// It waits for the world to go on.
    Stopped = 2,
    /// It is outside, and the collector uses what is the thread's.
    Held = 3,
}

/// Who does what a thread was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The thread has done it.
    Done,
    /// The thread is outside and held there: the caller does it, and [lets go](Station::let_go).
    Held,
}

/// What the collector and a thread know of each other. All zeros: outside, and nothing asked.
#[derive(Default)]
pub struct Station {
    poll: AtomicU32,
    state: AtomicU32,
}

/// Whether the world is to stand still.
pub struct World {
    stop: AtomicU32,
    /// How often one looks before sleeping.
    spins: u32,
}

/// Who has written and is about to look at what the other side writes (Dekker): in the language, accesses that are
/// sequentially consistent are enough; loom orders fences only.
#[inline(always)]
fn written() {
    #[cfg(loom)]
    sync::fence(Ordering::SeqCst);
}

impl Station {
    /// What the collector asks of this thread; 0 nearly always.
    #[inline(always)]
    pub fn asked(&self) -> u32 {
        self.poll.load(Ordering::Relaxed)
    }

    /// As [`Station::asked`], seeing what the asking thread did before.
    pub fn asked_now(&self) -> u32 {
        self.poll.load(Ordering::Acquire)
    }

    /// Asks for something.
    pub fn ask(&self, what: u32) {
        self.poll.fetch_or(what, Ordering::SeqCst);
        written();
    }

    /// Notes that what was asked for is done, and wakes who waits for it.
    pub fn done(&self, what: u32) {
        self.poll.fetch_and(!what, Ordering::SeqCst);
        sync::wake_all(&self.poll);
    }

    /// Whether the thread may touch objects just now.
    pub fn is_running(&self) -> bool {
        self.state.load(Ordering::SeqCst) == State::Running as u32
    }

    /// Waits until the thread has done what was asked, or can be held outside.
    pub fn wait_for(&self, what: u32) -> Answer {
        loop {
            let asked = self.poll.load(Ordering::SeqCst);
            if asked & what == 0 {
                return Answer::Done;
            }
            if self.hold() {
                // It may have been done just before the thread left.
                if self.poll.load(Ordering::SeqCst) & what == 0 {
                    self.let_go();
                    return Answer::Done;
                }
                return Answer::Held;
            }
            // Whoever does it wakes us, and whoever leaves while something is asked of it.
            sync::wait(&self.poll, asked);
        }
    }

    fn hold(&self) -> bool {
        let (from, to) = (State::Outside as u32, State::Held as u32);
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The thread may come in again.
    pub fn let_go(&self) {
        self.state.store(State::Outside as u32, Ordering::SeqCst);
        sync::wake_all(&self.state);
    }

    /// The thread begins to touch objects; waits while the world stands.
    pub fn enter(&self, world: &World) {
        let (from, to) = (State::Outside as u32, State::Running as u32);
        loop {
            let entered = self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
            written();
            match entered {
                Ok(_) if !world.is_stopping() => return,
                Ok(_) => {
                    self.rest(State::Outside);
                    world.wait();
                }
                Err(held) => sync::wait(&self.state, held),
            }
        }
    }

    /// The thread touches no objects from here on.
    pub fn leave(&self) {
        self.rest(State::Outside);
    }

    /// Nobody will use the station any more, wherever its thread has left it: the heap goes.
    pub fn abandon(&self) {
        self.state.store(State::Outside as u32, Ordering::SeqCst);
        sync::wake_all(&self.state);
        sync::wake_all(&self.poll);
    }

    /// The thread is at a safepoint and was asked to stop: waits until the world goes on.
    pub fn stop_here(&self, world: &World) {
        self.rest(State::Stopped);
        world.wait();
        self.state.store(State::Outside as u32, Ordering::SeqCst);
        self.enter(world);
    }

    fn rest(&self, state: State) {
        debug_assert!(self.is_running(), "a thread rests twice");
        self.state.store(state as u32, Ordering::SeqCst);
        written();
        // Whoever waits for us asked for something first, so it shows here: who stops the world looks at the state, others
        // at what is asked.
        let asked = self.poll.load(Ordering::SeqCst);
        if asked & STOP != 0 {
            sync::wake_all(&self.state);
        }
        if asked & !STOP != 0 {
            sync::wake_all(&self.poll);
        }
    }
}

impl World {
    /// A world that goes on, of threads that run on so many processors.
    pub fn new(processors: usize) -> World {
        World { stop: AtomicU32::new(0), spins: if processors > 1 { SPINS } else { 0 } }
    }

    /// Whether somebody stops the world.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst) != 0
    }

    /// Stops the world: returns when no station is running.
    ///
    /// The caller holds the cycle, and the list of stations: nobody joins or goes.
    pub fn stop<'a>(&self, stations: impl Iterator<Item = &'a Station> + Clone) {
        self.stop.store(1, Ordering::SeqCst);
        written();
        stations.clone().for_each(|station| station.ask(STOP));
        // For all together: where many threads wait for a processor, the first of them say so.
        let mut spins = 0;
        for station in stations {
            while station.is_running() {
                // A safepoint is often near; sleeping costs two system calls and a turn of the scheduler.
                if spins < self.spins {
                    spins += 1;
                    sync::pause();
                } else {
                    sync::wait(&station.state, State::Running as u32);
                }
            }
        }
    }

    /// Lets the world go on.
    pub fn go_on<'a>(&self, stations: impl Iterator<Item = &'a Station>) {
        // Nobody sleeps until it is not asked any more.
        for station in stations {
            station.poll.fetch_and(!STOP, Ordering::SeqCst);
        }
        self.stop.store(0, Ordering::SeqCst);
        sync::wake_all(&self.stop);
    }

    /// Waits while the world stands.
    fn wait(&self) {
        let mut spins = 0;
        while self.stop.load(Ordering::SeqCst) != 0 {
            // What is done in a pause takes less than to sleep and to wake.
            if spins < self.spins {
                spins += 1;
                sync::pause();
            } else {
                sync::wait(&self.stop, 1);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;

    struct Shared {
        world: World,
        station: Station,
        inside: AtomicUsize,
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared { world: World::new(2), station: Station::default(), inside: AtomicUsize::new(0) })
    }

    /// A thread that comes, passes a safepoint and goes, while the world is stopped once.
    #[test]
    fn loom_nobody_is_inside_while_the_world_stands() {
        loom::model(|| {
            let shared = shared();
            let mutator = {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let Shared { world, station, inside } = &*shared;
                    station.enter(world);
                    inside.store(1, Ordering::Relaxed);
                    inside.store(0, Ordering::Relaxed);
                    if station.asked() & STOP != 0 {
                        station.stop_here(world);
                    }
                    inside.store(1, Ordering::Relaxed);
                    inside.store(0, Ordering::Relaxed);
                    station.leave();
                })
            };
            let stations = || core::iter::once(&shared.station);
            shared.world.stop(stations());
            assert_eq!(shared.inside.load(Ordering::Relaxed), 0);
            shared.world.go_on(stations());
            mutator.join().unwrap();
        });
    }

    /// What a thread is asked for is done once, by itself or in its place.
    #[test]
    fn loom_what_is_asked_is_done_once() {
        loom::model(|| {
            let shared = shared();
            let mutator = {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let Shared { world, station, inside } = &*shared;
                    station.enter(world);
                    if station.asked_now() & HAND_OVER != 0 {
                        inside.fetch_add(1, Ordering::Relaxed);
                        station.done(HAND_OVER);
                    }
                    station.leave();
                })
            };
            shared.station.ask(HAND_OVER);
            if shared.station.wait_for(HAND_OVER) == Answer::Held {
                shared.inside.fetch_add(1, Ordering::Relaxed);
                shared.station.done(HAND_OVER);
                shared.station.let_go();
            }
            assert_eq!(shared.inside.load(Ordering::Relaxed), 1);
            mutator.join().unwrap();
        });
    }
}
