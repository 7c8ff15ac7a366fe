//! `spanheap demo`: a churn of blocks under several purposes on several threads, ended by the books.
//!
//! The demonstration is a small server without clients. Each thread keeps a table of places; every operation picks one:
//! a free place gets a new block of some purpose, a full one loses its block. What a purpose is like decides sizes and
//! fates:
//!
//! | purpose       | like                  | sizes           | a block's end                                           |
//! |---------------|-----------------------|-----------------|---------------------------------------------------------|
//! | sessions      | small long-lived state| 32 B to 512 B   | freed where it was made                                 |
//! | messages      | queues between threads| 64 B to 4 KiB   | sent to the next thread and freed there                 |
//! | query-results | buffers that grow     | 1 KiB to 128 KiB| grown once, then freed                                  |
//! | cache         | a bounded cache       | 8 KiB to 64 KiB | freed when its limit refuses the next block             |
//!
//! Every block is filled with a mark of its own, which is looked at again before the block is freed: the demonstration
//! is a check as well. The books are read twice: with all blocks alive, which is what is shown, and after all are freed.
//! Both readings must balance, and both times the heap must prove its invariants ([`Heap::check`]).

use crate::books::Books;
use crate::run::{OUR_FAILURE, say};
use crate::size::human;
use allocator_api2::vec::Vec as PurposeVec;
use spanheap::base::random::Random;
use spanheap::{Bytes, Config, Heap, Purpose};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How the demonstration shall run.
#[derive(Debug)]
pub(crate) struct Options {
    /// How many threads, at least 1.
    pub(crate) threads: usize,
    /// When it ends.
    pub(crate) end: End,
    /// Print the books as JSON instead of tables.
    pub(crate) json: bool,
}

/// When the churn ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// After a time.
    After(Duration),
    /// After so many operations on all threads together.
    Operations(u64),
}

/// What the blocks of one purpose are like.
struct Kind {
    name: &'static str,
    smallest: usize,
    largest: usize,
    /// Of 16 new blocks, how many are of this kind.
    share: usize,
    fate: Fate,
}

/// How the blocks of a kind end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    FreedHere,
    FreedElsewhere,
    Grown,
    Evicted,
}

const KINDS: [Kind; 4] = [
    Kind { name: "sessions", smallest: 32, largest: 512, share: 8, fate: Fate::FreedHere },
    Kind { name: "messages", smallest: 64, largest: 4 << 10, share: 5, fate: Fate::FreedElsewhere },
    Kind { name: "query-results", smallest: 1 << 10, largest: 128 << 10, share: 1, fate: Fate::Grown },
    Kind { name: "cache", smallest: 8 << 10, largest: 64 << 10, share: 2, fate: Fate::Evicted },
];

/// The cache's limit a thread. Its blocks would take about twice as much.
const CACHE_LIMIT: usize = 4 << 20;

/// Places of one thread's table.
const PLACES: usize = 2048;

/// Operations between two looks at the messages from elsewhere and at the clock.
const BATCH: u64 = 64;

/// A block: bytes of one purpose, filled with a mark.
struct Block<'h> {
    bytes: PurposeVec<u8, Purpose<'h>>,
    /// Which of [`KINDS`].
    kind: usize,
    mark: u8,
}

impl<'h> Block<'h> {
    /// A filled block; `None` if the purpose has no memory for it.
    fn new(purpose: Purpose<'h>, kind: usize, size: usize, mark: u8) -> Option<Block<'h>> {
        let mut block = Block { bytes: PurposeVec::new_in(purpose), kind, mark };
        block.grow(size).then_some(block)
    }

    /// Fills the block up to `size` bytes; whether there was memory for it.
    fn grow(&mut self, size: usize) -> bool {
        let granted = self.bytes.try_reserve_exact(size - self.bytes.len()).is_ok();
        if granted {
            self.bytes.resize(size, self.mark);
        }
        granted
    }

    /// Whether everything in the block is as it was written.
    fn is_intact(&self) -> bool {
        self.bytes.iter().all(|&byte| byte == self.mark)
    }
}

/// What all threads see of each other.
struct Shared {
    stop: Arc<AtomicBool>,
    operations: AtomicU64,
    damaged: AtomicU64,
}

/// Runs the demonstration, prints its books, and returns the exit status.
pub(crate) fn demo(options: &Options) -> i32 {
    let heap = match Heap::new(Config::default()) {
        Ok(heap) => heap,
        Err(e) => {
            say(e);
            return OUR_FAILURE;
        }
    };
    let purposes = KINDS.map(|kind| heap.declare(kind.name).expect("the names differ and are valid"));
    for (kind, purpose) in KINDS.iter().zip(&purposes) {
        if kind.fate == Fate::Evicted {
            purpose.set_limit(Some(Bytes(CACHE_LIMIT * options.threads)));
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    // The first interrupt ends the churn and shows the books; the second one has its usual effect.
    let interrupt = signal_hook::consts::SIGINT;
    let _ = signal_hook::flag::register_conditional_default(interrupt, stop.clone());
    let _ = signal_hook::flag::register(interrupt, stop.clone());
    let shared = Shared { stop, operations: AtomicU64::new(0), damaged: AtomicU64::new(0) };
    let began = Instant::now();
    let alive = churn(options, &purposes, &shared);
    let took = began.elapsed();
    let shown = read_books(&heap);
    drop(alive);
    let after = read_books(&heap);
    let left: usize = purposes.iter().map(|purpose| purpose.inuse().0).sum();
    let report = Report { options, took, left, damaged: shared.damaged.into_inner(), shown, after };
    report.print(shared.operations.into_inner())
}

/// Lets the threads work until the end, and returns the blocks that are alive then.
fn churn<'h>(options: &Options, purposes: &[Purpose<'h>; 4], shared: &Shared) -> Vec<Block<'h>> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..options.threads).map(|_| channel()).unzip();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let next = senders[(number + 1) % options.threads].clone();
            let quota = quota(options, number);
            let worker = Worker {
                purposes: *purposes,
                shared,
                random: Random::new(number as u64),
                places: (0..PLACES).map(|_| None).collect(),
                next,
                inbox,
            };
            threads.push(scope.spawn(move || worker.work(quota)));
        }
        drop(senders);
        watch(options, purposes, shared, || threads.iter().all(thread::ScopedJoinHandle::is_finished));
        threads.into_iter().flat_map(|thread| thread.join().expect("a worker does not panic")).collect()
    })
}

/// How many operations the thread `number` makes; no end where the time decides.
fn quota(options: &Options, number: usize) -> u64 {
    match options.end {
        End::After(_) => u64::MAX,
        End::Operations(all) => {
            let threads = options.threads as u64;
            all / threads + u64::from((number as u64) < all % threads)
        }
    }
}

/// Shows the progress on a terminal, and tells the threads to stop when it is time.
fn watch(options: &Options, purposes: &[Purpose<'_>], shared: &Shared, finished: impl Fn() -> bool) {
    let began = Instant::now();
    let terminal = io::stderr().is_terminal();
    let pause = Duration::from_millis(if terminal { 100 } else { 5 });
    while !finished() {
        let left = match options.end {
            End::After(time) => time.saturating_sub(began.elapsed()),
            End::Operations(_) => pause,
        };
        if left.is_zero() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        thread::sleep(pause.min(left).max(Duration::from_millis(1)));
        if terminal {
            let operations = shared.operations.load(Ordering::Relaxed);
            let held: Vec<_> =
                purposes.iter().map(|p| format!("{} {}", p.name(), human(p.inuse().0 as i128))).collect();
            let _ = write!(io::stderr(), "\r\x1b[K{operations} operations · {}", held.join(" · "));
        }
    }
    if terminal {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

/// One thread of the churn.
struct Worker<'a, 'h> {
    purposes: [Purpose<'h>; 4],
    shared: &'a Shared,
    random: Random,
    places: Vec<Option<Block<'h>>>,
    /// Where messages go.
    next: Sender<Block<'h>>,
    /// Where they come in.
    inbox: Receiver<Block<'h>>,
}

impl<'h> Worker<'_, 'h> {
    /// Works off `quota` operations, or what there is time for, and returns the blocks that are alive then.
    fn work(mut self, quota: u64) -> Vec<Block<'h>> {
        let mut done = 0;
        while done < quota && !self.shared.stop.load(Ordering::Relaxed) {
            let batch = BATCH.min(quota - done);
            (0..batch).for_each(|_| self.operate());
            while let Ok(block) = self.inbox.try_recv() {
                self.release(block);
            }
            done += batch;
            self.shared.operations.fetch_add(batch, Ordering::Relaxed);
        }
        // The thread before may still be sending; its last blocks come with its end of the channel.
        drop(self.next);
        self.places.into_iter().flatten().chain(self.inbox).collect()
    }

    /// One operation: a block comes or goes.
    fn operate(&mut self) {
        let place = self.random.below(PLACES);
        match self.places[place].take() {
            None => self.places[place] = self.make(),
            Some(block) => match KINDS[block.kind].fate {
                Fate::FreedElsewhere => {
                    // A thread that has ended takes no messages; the block comes back and is freed here.
                    if let Err(refused) = self.next.send(block) {
                        self.release(refused.0);
                    }
                }
                Fate::Grown if block.bytes.len() <= KINDS[block.kind].largest => {
                    self.places[place] = self.regrow(block);
                }
                _ => self.release(block),
            },
        }
    }

    /// A new block of a random kind and size.
    fn make(&mut self) -> Option<Block<'h>> {
        let mut draw = self.random.below(KINDS.iter().map(|kind| kind.share).sum());
        let kind = KINDS.iter().position(|kind| {
            let hit = draw < kind.share;
            draw = draw.saturating_sub(kind.share);
            hit
        })?;
        let size = self.size(&KINDS[kind]);
        let mark = self.random.bits() as u8;
        let block = Block::new(self.purposes[kind], kind, size, mark);
        if block.is_none() && KINDS[kind].fate == Fate::Evicted {
            self.evict(kind);
        }
        block
    }

    /// A size of this kind; small ones are as likely as large ones, octave by octave.
    fn size(&mut self, kind: &Kind) -> usize {
        let octaves = (kind.largest / kind.smallest).ilog2() as usize;
        let least = kind.smallest << self.random.below(octaves);
        least + self.random.below(least + 1)
    }

    /// Grows a block beyond the largest size it could begin with.
    fn regrow(&mut self, mut block: Block<'h>) -> Option<Block<'h>> {
        block.grow(KINDS[block.kind].largest + block.bytes.len()).then_some(block)
    }

    /// Frees half of this thread's blocks of a kind whose limit is reached.
    fn evict(&mut self, kind: usize) {
        for place in 0..PLACES {
            if self.places[place].as_ref().is_some_and(|block| block.kind == kind && block.mark % 2 == 0)
                && let Some(block) = self.places[place].take()
            {
                self.release(block);
            }
        }
    }

    /// Frees a block, having looked whether it is still what was written.
    fn release(&mut self, block: Block<'h>) {
        if !block.is_intact() {
            self.shared.damaged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The books of the heap as the library writes them, read back; an error if the heap does not hold its invariants.
fn read_books(heap: &Heap) -> (String, Result<Books, String>) {
    let mut snapshot = heap.snapshot();
    snapshot.resident = Some(heap.resident());
    let mut text = String::new();
    let written = snapshot.write_json(&mut text, "spanheap demo", std::process::id());
    written.expect("a string takes everything");
    let proof = heap.check().map_err(|error| format!("an invariant does not hold: {error}"));
    let books = proof.and_then(|()| Books::parse(text.as_bytes()));
    (text, books)
}

/// What the demonstration found.
struct Report<'a> {
    options: &'a Options,
    took: Duration,
    /// Bytes that the purposes hold after everything was freed.
    left: usize,
    /// Blocks that were not as they were written.
    damaged: u64,
    /// The books with all blocks alive.
    shown: (String, Result<Books, String>),
    /// The books after all blocks were freed.
    after: (String, Result<Books, String>),
}

impl Report<'_> {
    /// Prints the result and returns the exit status: 0 if everything is as it should be.
    fn print(&self, operations: u64) -> i32 {
        let verdicts = [&self.shown.1, &self.after.1].map(|books| match books {
            Ok(books) => books.failure(),
            Err(e) => Some(e.clone()),
        });
        let failure = verdicts.into_iter().flatten().next();
        let mut out = io::stdout().lock();
        // Whoever closed our output has seen enough; the exit status still tells.
        let _ = match (&self.shown.1, self.options.json) {
            (_, true) => writeln!(out, "{}", self.shown.0),
            (Ok(books), false) => self.print_tables(&mut out, operations, books),
            (Err(_), false) => Ok(()),
        };
        if let Some(failure) = &failure {
            say(format_args!("the heap is not in order: {failure}"));
        }
        if self.damaged > 0 {
            say(format_args!("{} blocks were not as they had been written", self.damaged));
        }
        i32::from(failure.is_some() || self.damaged > 0)
    }

    fn print_tables(&self, out: &mut impl Write, operations: u64, books: &Books) -> io::Result<()> {
        let seconds = self.took.as_secs_f64();
        let rate = operations as f64 / seconds.max(1e-9) / 1e6;
        let threads = self.options.threads;
        writeln!(
            out,
            "{operations} operations on {threads} threads in {seconds:.2} s ({rate:.2} million a second)\n"
        )?;
        write!(out, "{}", books.tables())?;
        writeln!(
            out,
            "after all blocks were freed: {} in spans of the four purposes",
            human(self.left as i128)
        )
    }
}
