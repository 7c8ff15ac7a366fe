//! `spanheap demo fibers`: many fibers at once, each on a guarded stack of the heap and with blocks of its own.
//!
//! Every fiber gets a block at each of its steps, fills it with its number, and is switched away from; when it is resumed
//! it looks whether the block is still what it was. The books are shown with all fibers alive, and read again when all
//! have ended and their stacks were given back.
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
use spanheap::{Bytes, Config, Guard, Heap, Purpose, Stack, Stacks};
use std::error::Error;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Bytes of a fiber's stack.
const STACK: Bytes = Bytes::kib(16);
/// Times that a fiber is switched away from.
const STEPS: usize = 3;
/// Bytes of a fiber's smallest block.
const BLOCK: usize = 48;

/// A stack of the heap's, for a coroutine.
struct FiberStack(Stack<&'static Heap>);

type Fiber = Coroutine<(), (), bool, FiberStack>;

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

/// Runs the demonstration with so many fibers. Returns the exit status.
pub(crate) fn fibers(count: usize) -> i32 {
    match run(count) {
        Ok(status) => status,
        Err(error) => {
            say(error);
            OUR_FAILURE
        }
    }
}

fn run(count: usize) -> Result<i32, Box<dyn Error>> {
    // What a coroutine runs may borrow nothing that ends before the process.
    let heap: &'static Heap = Box::leak(Box::new(Heap::new(Config::default())?));
    let (stacks, blocks) = (heap.declare_stacks("fibers")?, heap.declare("fiber-blocks")?);
    let began = Instant::now();
    let mut all = (0..count).map(|number| fiber(number, stacks, blocks)).collect::<Result<Vec<_>, _>>()?;
    let made = began.elapsed();
    let mut damaged = 0;
    let began = Instant::now();
    for _ in 0..STEPS {
        all.iter_mut()
            .for_each(|fiber| assert!(fiber.resume(()).as_yield().is_some(), "a fiber ended early"));
    }
    let switched = began.elapsed();
    let alive = books(heap)?;
    let began = Instant::now();
    for fiber in &mut all {
        damaged += usize::from(!matches!(fiber.resume(()), CoroutineResult::Return(true)));
    }
    drop(all);
    let dropped = began.elapsed();
    let released = stacks.release() + heap.release_all();
    let after = books(heap)?;
    let left = stacks.inuse() + blocks.inuse();
    print(count, &Times { made, switched, dropped }, &alive, released)?;
    let wrong = [alive.failure(), after.failure()].into_iter().flatten().collect::<Vec<_>>();
    wrong.iter().for_each(say);
    if damaged > 0 {
        say(format_args!("{damaged} fibers found blocks that are not as they were written"));
    }
    if stacks.inuse() > Bytes::ZERO {
        say(format_args!("{left} are left after all fibers ended"));
    }
    Ok(i32::from(!wrong.is_empty() || damaged > 0 || stacks.inuse() > Bytes::ZERO))
}

/// A fiber that holds blocks, and at its end says whether they stayed as they were.
fn fiber(
    number: usize,
    stacks: Stacks<'static>,
    blocks: Purpose<'static>,
) -> Result<Fiber, spanheap::StackError> {
    let stack = FiberStack(stacks.allocate(STACK, Guard::Yes)?);
    Ok(Coroutine::with_stack(stack, move |yielder, ()| {
        let mut held: Vec<PurposeVec<u8, Purpose<'static>>> = Vec::new();
        for step in 1..=STEPS {
            let mut block = PurposeVec::new_in(blocks);
            block.resize(step * BLOCK, number as u8);
            held.push(block);
            yielder.suspend(());
        }
        held.iter().flatten().all(|&byte| byte == number as u8)
    }))
}

/// The heap's books, after the heap has proved its invariants.
fn books(heap: &Heap) -> Result<Books, Box<dyn Error>> {
    heap.check()?;
    let mut text = String::new();
    heap.snapshot().write_json(&mut text, "spanheap demo fibers", std::process::id())?;
    Ok(Books::parse(text.as_bytes())?)
}

fn print(count: usize, times: &Times, alive: &Books, released: Bytes) -> io::Result<()> {
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
    writeln!(out, "given back at the end: {}", human(released.0 as i128))
}
