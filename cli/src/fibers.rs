//! `spanheap demo fibers`: many fibers at once, each on a guarded stack of the heap and with blocks of its own.
//!
//! Every fiber gets a block and a collected object at each of its steps, fills them with its number, and is switched away
//! from; when it is resumed it looks whether they are still what they were. With all fibers alive there is a collection,
//! and the books are shown; they are read again when all have ended and their stacks were given back. With a time to
//! wait nobody gives them back: what the heap does by itself meanwhile is shown.
//!
//! # Safety
//! A fiber's stack is memory of its own from limit to base, with a guard below, until the fiber is dropped.

use crate::books::Books;
use crate::run::{OUR_FAILURE, say};
use crate::size::human;
use allocator_api2::vec::Vec as PurposeVec;
use core::num::NonZeroUsize;
use corosensei::stack::StackPointer;
use corosensei::{Coroutine, CoroutineResult};
use spanheap::collect::Mutator;
use spanheap::{Bytes, Config, Guard, Heap, Purpose, Root, Stack, Stacks};
use std::cell::RefCell;
use std::error::Error;
use std::hint::black_box;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a fiber's stack.
const STACK: Bytes = Bytes::kib(16);
/// Times that a fiber is switched away from.
const STEPS: usize = 3;
/// Bytes of a fiber's smallest block.
const BLOCK: usize = 48;
/// How deep every fiber uses its stack at least.
const DEPTH: usize = 4 << 10;

/// A stack of the heap's, for a coroutine.
struct FiberStack(Stack<&'static Heap>);

type Fiber = Coroutine<(), (), bool, FiberStack>;

/// The thread's part of the collected heap, which all fibers use in turn.
type Shared = &'static RefCell<Mutator<'static>>;

// SAFETY: the memory is the stack's alone until this value is dropped, aligned to a system page, and guarded below.
unsafe impl corosensei::stack::Stack for FiberStack {
    fn base(&self) -> StackPointer {
        NonZeroUsize::from(self.0.base().addr())
    }

    fn limit(&self) -> StackPointer {
        NonZeroUsize::from(self.0.limit().addr())
    }
}

/// What was done, and how long it took.
struct Times {
    made: Duration,
    switched: Duration,
    dropped: Duration,
}

/// Runs the demonstration with so many fibers; `wait` is how long the heap has to give memory back by itself. Returns the
/// exit status.
pub(crate) fn fibers(count: usize, wait: Option<Duration>) -> i32 {
    match run(count, wait) {
        Ok(status) => status,
        Err(error) => {
            say(error);
            OUR_FAILURE
        }
    }
}

fn run(count: usize, wait: Option<Duration>) -> Result<i32, Box<dyn Error>> {
    // What a coroutine runs may borrow nothing that ends before the process.
    let heap: &'static Heap = Box::leak(Box::new(Heap::new(Config::default())?));
    let (stacks, blocks) = (heap.declare_stacks("fibers")?, heap.declare("fiber-blocks")?);
    let mutator: Shared = Box::leak(Box::new(RefCell::new(heap.enter()?)));
    let began = Instant::now();
    let mut all =
        (0..count).map(|number| fiber(number, stacks, blocks, mutator)).collect::<Result<Vec<_>, _>>()?;
    let made = began.elapsed();
    let mut damaged = 0;
    let began = Instant::now();
    for _ in 0..STEPS {
        all.iter_mut()
            .for_each(|fiber| assert!(fiber.resume(()).as_yield().is_some(), "a fiber ended early"));
    }
    let switched = began.elapsed();
    mutator.borrow_mut().collect()?;
    let (alive, full) = (books(heap)?, heap.resident().heap);
    let began = Instant::now();
    for fiber in &mut all {
        damaged += usize::from(!matches!(fiber.resume(()), CoroutineResult::Return(true)));
    }
    drop(all);
    let dropped = began.elapsed();
    mutator.borrow_mut().collect()?;
    match wait {
        None => {
            stacks.release();
            heap.release_all();
        }
        Some(time) => mutator.borrow_mut().outside(|| thread::sleep(time)),
    }
    let released = Bytes(full.0.saturating_sub(heap.resident().heap.0));
    let after = books(heap)?;
    // What the heap keeps for the next fibers is nobody's.
    let held = heap.snapshot().purpose(stacks.id()).stacks.map_or(0, |stacks| stacks.inuse);
    print(count, &Times { made, switched, dropped }, &alive, full, released)?;
    let wrong = [alive.failure(), after.failure()].into_iter().flatten().collect::<Vec<_>>();
    wrong.iter().for_each(say);
    if damaged > 0 {
        say(format_args!("{damaged} fibers found blocks or objects that are not as they were written"));
    }
    if held > 0 {
        say(format_args!("{held} bytes of stacks are left after all fibers ended"));
    }
    Ok(i32::from(!wrong.is_empty() || damaged > 0 || held > 0))
}

/// A fiber that holds blocks and objects, and at its end says whether they stayed as they were.
fn fiber(
    number: usize,
    stacks: Stacks<'static>,
    blocks: Purpose<'static>,
    mutator: Shared,
) -> Result<Fiber, spanheap::StackError> {
    let stack = FiberStack(stacks.allocate(STACK, Guard::Yes)?);
    Ok(Coroutine::with_stack(stack, move |yielder, ()| {
        dive(number as u8);
        let mut held: Vec<PurposeVec<u8, Purpose<'static>>> = Vec::new();
        let mut objects: Vec<Root<'static, u64>> = Vec::new();
        for step in 1..=STEPS {
            let mut block = PurposeVec::new_in(blocks);
            block.resize(step * BLOCK, number as u8);
            held.push(block);
            let object = mutator.borrow_mut().run(|cx| cx.root(cx.allocate(number as u64)?));
            // Without memory for an object the fiber goes on with those it has; at the end it is one short.
            objects.extend(object.ok());
            yielder.suspend(());
        }
        let are_there = objects.len() == STEPS
            && mutator.borrow_mut().run(|cx| objects.iter().all(|object| *object.get(cx) == number as u64));
        are_there && held.iter().flatten().all(|&byte| byte == number as u8)
    }))
}

/// Uses the stack it is called on.
#[inline(never)]
fn dive(with: u8) {
    black_box([with; DEPTH]);
}

/// The heap's books, after the heap has proved its invariants.
fn books(heap: &Heap) -> Result<Books, Box<dyn Error>> {
    heap.check()?;
    let mut text = String::new();
    heap.snapshot().write_json(&mut text, "spanheap demo fibers", std::process::id())?;
    Ok(Books::parse(text.as_bytes())?)
}

fn print(count: usize, times: &Times, alive: &Books, full: Bytes, released: Bytes) -> io::Result<()> {
    let each = |time: Duration, times: usize| time.as_nanos() / (count * times).max(1) as u128;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{count} fibers, each on {} of guarded stack: made in {} ns each, switched to in {} ns, ended in {} ns",
        human(STACK.0 as i128),
        each(times.made, 1),
        each(times.switched, STEPS),
        each(times.dropped, 1),
    )?;
    writeln!(out, "\nwith all fibers alive:\n{}", alive.tables())?;
    let percent = 100.0 * released.0 as f64 / full.0.max(1) as f64;
    let [full, released] = [full, released].map(|bytes| human(bytes.0 as i128));
    writeln!(
        out,
        "given back at the end: {released}, {percent:.1} % of the {full} that were resident with all fibers alive"
    )
}
