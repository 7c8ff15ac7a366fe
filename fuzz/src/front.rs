//! A whole heap, as a program uses it, and as a wrong one does.
//!
//! Blocks of several purposes are allocated, resized and freed, on the system or on a simulated one that
//! refuses a call now and then. Between them stand pointers that are no blocks: each must be refused with the right
//! fault, and change nothing. At the end everything is freed, and every purpose is back at zero.
//!
//! # Safety
//! Blocks are freed only while the model says that they are in use, or to be refused.

use super::block_model::{Asked, Held, Model};
use super::input::Input;
use spanheap::base::class::MAX_SMALL;
use spanheap::base::{Address, PAGE_SIZE};
use spanheap::os::{Simulated, System};
use spanheap::stats::Account;
use spanheap::{Bytes, Config, Exhausted, Fault, Heap, ManualSpan, Purpose, Scarce};
use std::alloc::Layout;
use std::ptr::NonNull;

/// A simulated system that goes when its heap has gone.
struct Ground(Option<NonNull<Simulated>>);

impl Ground {
    fn new(simulated: bool) -> Ground {
        Ground(simulated.then(|| NonNull::from(Box::leak(Box::new(Simulated::new())))))
    }

    fn system(&self) -> System {
        // SAFETY: leaked until this is dropped, after the heap.
        self.0.map_or(System::Linux, |at| System::Simulated(unsafe { &*at.as_ptr() }))
    }

    fn simulated(&self) -> Option<&Simulated> {
        // SAFETY: as above.
        self.0.map(|at| unsafe { &*at.as_ptr() })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(at) = self.0 {
            // SAFETY: leaked by `new`; the heap that used it is gone.
            drop(unsafe { Box::from_raw(at.as_ptr()) });
        }
    }
}

/// A heap and its twin.
struct Pair<'h> {
    heap: &'h Heap,
    simulated: Option<&'h Simulated>,
    purposes: Vec<Purpose<'h>>,
    model: Model,
    spans: Vec<ManualSpan<'h>>,
    /// Something that is in no heap of ours.
    foreign: Box<[u8; 64]>,
}

impl<'h> Pair<'h> {
    /// A refusal is fine only where somebody refuses.
    fn granted<T>(&self, result: Result<T, Exhausted>) -> Option<T> {
        match result {
            Ok(granted) => Some(granted),
            Err(Exhausted { scarce: Scarce::System(_), .. }) if self.simulated.is_some() => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn allocate(&mut self, size: usize, align: usize, way: usize, which: usize) {
        let layout = Layout::from_size_align(size, align).unwrap();
        let (purpose, zeroed) = (self.purposes[which], way == 1);
        let block = match way {
            0 => purpose.allocate(layout),
            1 => purpose.allocate_zeroed(layout),
            // The inner scope counts, and the outer one again behind it.
            2 => self.purposes[0].scope(|| purpose.scope(|| self.heap.allocate(layout))),
            _ => purpose.scope(|| {
                self.purposes[0].scope(|| ());
                self.heap.allocate(layout)
            }),
        };
        let Some(block) = self.granted(block) else { return };
        let usable = self.heap.usable_size(block).unwrap();
        let account = self.heap.account_at(Address::of(block.as_ptr()));
        assert_eq!(account, Account::Span(purpose.id()), "booked elsewhere");
        self.model.allocated(block.as_ptr(), Asked { size, align, zeroed, tag: which as u64 }, usable);
    }

    fn free(&mut self, held: Held) {
        self.model.freed(held.pointer);
        let purpose = self.purposes[held.tag as usize].id();
        assert_eq!(
            self.heap.account_at(Address::of(held.pointer)),
            Account::Span(purpose),
            "booked elsewhere"
        );
        let block = NonNull::new(held.pointer).unwrap();
        // SAFETY: the block is in use, and given up.
        let freed = unsafe { self.heap.free(block) };
        assert_eq!(freed, Ok(()), "{held:?}");
        // Its span may have gone with it.
        let gone: &[Fault] =
            if held.asked > MAX_SMALL { &[Fault::NoSpan] } else { &[Fault::DoubleFree, Fault::NoSpan] };
        self.refused(held.pointer.addr(), gone);
    }

    fn resize(&mut self, held: Held, size: usize) {
        let block = NonNull::new(held.pointer).unwrap();
        // SAFETY: the block is in use; what is cut off is given up.
        let resized = unsafe { self.heap.resize(block, size) }.unwrap();
        let usable = self.heap.usable_size(block).unwrap();
        match resized {
            true => self.model.resized(held.pointer, size, usable),
            false => assert_eq!(usable, held.usable, "not resized, but of another size"),
        }
    }

    /// No door opens for a pointer that is no block, and each says why with one of the faults.
    fn refused(&self, address: usize, faults: &[Fault]) {
        let Some(pointer) = NonNull::new(std::ptr::without_provenance_mut::<u8>(address)) else { return };
        let pointer = NonNull::new(pointer.as_ptr()).unwrap();
        let before: Vec<Bytes> = self.purposes.iter().map(Purpose::inuse).collect();
        // SAFETY: the pointer is no block's, so nothing is given up.
        let (freed, resized) = unsafe { (self.heap.free(pointer), self.heap.resize(pointer, 100)) };
        let measured = self.heap.usable_size(pointer);
        let all = [freed.err(), resized.err(), measured.err()];
        for (door, misuse) in ["free", "resize", "usable_size"].into_iter().zip(all) {
            let misuse = misuse.unwrap_or_else(|| panic!("{door} let {address:#x} pass, not {faults:?}"));
            assert!(faults.contains(&misuse.fault), "{door}: {misuse}, not {faults:?}");
            assert_eq!(misuse.address, Address(address));
            assert!(misuse.span.is_none_or(|span| (span.from.0..span.to.0).contains(&address)));
        }
        assert!(self.purposes.iter().map(Purpose::inuse).eq(before), "misuse changed what is in use");
    }

    fn misuse(&mut self, input: &mut Input<'_>) {
        use Fault::*;
        let kind = input.byte() % 8;
        let Some(held) = self.model.pick(input.below(65_536)) else { return };
        let at = held.pointer.addr();
        match kind {
            0 | 1 => self.refused(at + 1 + input.below(65_536) % (held.usable - 1), &[Interior]),
            2 => self.refused(self.foreign.as_ptr().addr() + input.byte() % 64, &[Foreign]),
            3 => self.refused(1 + input.below(65_536), &[Foreign]),
            // Far beyond what has been used of the region: at most a part of it is there.
            4 => self.refused(at + (200 << 20), &[Foreign, NoSpan]),
            5 => {
                let Some(span) = self.spans.first() else { return };
                self.refused(span.address().0 + input.below(65_536) % span.len().0, &[NotABlock]);
            }
            // A place where a block of the same span could begin, but nobody has one.
            6 if held.usable <= MAX_SMALL => {
                let Some(span) = self.span_of(held.pointer) else { return };
                let address = span.from + input.below((span.to - span.from) / span.size) * span.size;
                if !self.model.begins(address) {
                    self.refused(address, &[DoubleFree, NeverAllocated]);
                }
            }
            // The same offset some spans further: whatever is there, it is not this block's.
            _ => {
                let address = (at & !(PAGE_SIZE - 1)) + PAGE_SIZE * input.below(512) + input.byte();
                let outside = self.spans.iter().all(|s| address.wrapping_sub(s.address().0) >= s.len().0);
                if !self.model.begins(address) && outside {
                    self.refused(address, &[Interior, NoSpan, NeverAllocated, DoubleFree, Foreign]);
                }
            }
        }
    }

    /// Where the span of a small block lies, as a refusal tells.
    fn span_of(&self, pointer: *mut u8) -> Option<Place> {
        let inside = NonNull::new(pointer.wrapping_add(1)).unwrap();
        let span = self.heap.usable_size(inside).unwrap_err().span?;
        Some(Place { from: span.from.0, to: span.to.0, size: span.block? })
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 32 {
            0..=9 => {
                let (way, which, size) = (input.byte() % 4, input.byte() % self.purposes.len(), input.size());
                let count = if size <= MAX_SMALL { 1 + input.byte() % 16 } else { 1 };
                (0..count).for_each(|_| self.allocate(size, 16, way, which));
            }
            10 | 11 => {
                let (which, size) = (input.byte() % self.purposes.len(), input.size());
                self.allocate(size, 1 << (input.byte() % 24), input.byte() % 2, which);
            }
            12..=20 => {
                let (first, count) = (input.below(65_536), 1 + input.byte() % 24);
                for _ in 0..count {
                    let Some(held) = self.model.pick(first) else { return };
                    self.free(held);
                }
            }
            21..=23 => {
                let Some(held) = self.model.pick(input.below(65_536)) else { return };
                let size = match input.byte() {
                    near @ 0..128 => held.asked * (near + 64) / 128,
                    _ => input.size(),
                };
                self.resize(held, size);
            }
            24..=27 => self.misuse(input),
            28 => {
                let pages = Bytes(input.size());
                let span = self.purposes[input.byte() % self.purposes.len()].allocate_span(pages);
                self.spans.extend(self.granted(span));
                if input.byte() < 100 && !self.spans.is_empty() {
                    self.spans.swap_remove(input.byte() % self.spans.len());
                }
            }
            29 => drop(self.heap.release_all()),
            30 => {
                if let Some(simulated) = self.simulated {
                    simulated.refuse(input.byte() % 8, 1);
                }
            }
            _ => assert_eq!(self.heap.check(), Ok(())),
        }
    }

    fn finish(&mut self) {
        if let Some(simulated) = self.simulated {
            simulated.refuse_nothing();
        }
        self.model.verify();
        self.spans.clear();
        while let Some(held) = self.model.pick(self.model.len() * 7 / 11) {
            self.free(held);
        }
        assert!(self.model.is_empty());
        self.heap.release_all();
        for purpose in &self.purposes {
            assert_eq!(purpose.inuse(), Bytes::ZERO, "{purpose:?} at the end");
        }
        assert_eq!(self.heap.check(), Ok(()));
        let snapshot = self.heap.snapshot();
        for class in snapshot.classes() {
            assert_eq!(class.allocated, class.freed, "blocks of {:?}", class.size);
        }
    }
}

/// A span of small blocks.
struct Place {
    from: usize,
    to: usize,
    size: usize,
}

/// Runs a program.
///
/// # Panics
/// When a block is not what it should be, misuse is not refused, or the books do not balance.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let ground = Ground::new(!input.byte().is_multiple_of(2));
    let config = Config { reserve: Bytes::gib(4), ..Config::default() };
    let heap = Heap::on(ground.system(), config).expect("there is address space");
    let declared = ["one", "two", "three"].map(|name| heap.declare(name).unwrap());
    let mut pair = Pair {
        heap: &heap,
        simulated: ground.simulated(),
        purposes: [heap.blocks()].into_iter().chain(declared).collect(),
        model: Model::default(),
        spans: Vec::new(),
        foreign: Box::new([0; 64]),
    };
    while let Some(operation) = input.operation() {
        pair.step(operation, &mut input);
    }
    pair.finish();
    drop(pair);
    drop(heap);
    if let Some(simulated) = ground.simulated() {
        assert_eq!((simulated.reserved_bytes(), simulated.ready_bytes()), (Bytes::ZERO, Bytes::ZERO));
    }
}

/// Whatever stands in the environment, reading it is no reason to panic, and every complaint names a part of it.
///
/// # Panics
/// When it is.
pub fn configuration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut config = Config::default();
    config.read_conf(&text, |error| assert!(text.contains(error.text) && !error.to_string().is_empty()));
    config.read_limit(&text, |error| assert!(text.contains(error.text)));
    assert!(config.reserve >= Bytes::mib(64));
}
