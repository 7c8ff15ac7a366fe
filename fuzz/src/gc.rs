//! Marking while two mutators change a graph, on a simulated system, against a plain search.
//!
//! The input says which mutator loads, stores, drops or makes an object, or comes to a safepoint; which marker drains, and
//! how far; when a cycle begins and ends, which limits hold and which calls the system refuses. The twin has the graph in
//! lists of its own: of each object its size, which of its words count, and what they hold. From them it knows what a
//! cycle must leave alive, which is what can be reached at its end, and what it may: what could be reached at its
//! beginning, and what was made since. The bytes of what was marked must be those that the collector has counted.
//!
//! # Safety
//! Everything is on one thread. Words are written only in objects that the twin has, and registers and root ranges stay
//! where they are as long as the collector may look there.

use super::collected::{Bench, Hand};
use super::input::Input;
use spanheap::base::class::{MAX_SMALL, SizeClass};
use spanheap::base::purpose::{POINTER_MAPS, WORK_BUFFERS};
use spanheap::base::{Address, PAGE_SIZE};
use spanheap::gc::kernel::Kernel;
use spanheap::gc::{BarrierBuffer, Collector, Marking, Phase, RootRange, Source, Verifier, Worker};
use spanheap::object::encode::encode_bitmap;
use spanheap::object::shape::SMALL_MAP;
use spanheap::object::{Shape, ShapeId, Shapes, SpanClass, SpanKind};
use spanheap::os::System;
use spanheap::{Bytes, Exhausted};
use std::collections::{BTreeMap, BTreeSet};

const MUTATORS: usize = 2;
const REGISTERS: usize = 8;
/// Words of the root range.
const GLOBALS: usize = 16;
/// Those of them that the range's bitmap names.
static NAMED: [u64; 1] = [0b1011_0110_1101_1011];
/// Words of the elements of the long shape.
const LONG: usize = 90;
/// Words of the shape that a program describes: more than are kept as a bitmap.
const PROGRAM: usize = 2 * SMALL_MAP;

/// Whether a word counts, of an object of so many words.
type Counts = fn(usize, usize) -> bool;

/// The shapes that objects have.
struct Kind {
    shape: ShapeId,
    /// Of the smallest object.
    least: usize,
    /// Whether the collector may look at more words than those that count, for want of memory for a bitmap.
    loose: bool,
    counts: Counts,
}

/// What the twin knows of an object.
struct Node {
    kind: usize,
    words: Vec<usize>,
    /// Made since this cycle began.
    new: bool,
}

/// What a mutator has beside its hand.
struct Mutator {
    worker: Box<Worker>,
    barrier: BarrierBuffer,
    registers: Box<[usize; REGISTERS]>,
    is_scanned: bool,
}

/// The room and its twin.
struct Pair {
    bench: Bench,
    collector: Collector,
    shapes: Shapes,
    kinds: Vec<Kind>,
    hands: Vec<Hand>,
    mutators: Vec<Mutator>,
    globals: Box<[usize; GLOBALS]>,
    nodes: BTreeMap<usize, Node>,
    /// What could be reached when this cycle began.
    snapshot: BTreeSet<usize>,
}

fn in_mask(word: usize, words: usize) -> bool {
    word / 5 < words / 5 && 0b10110 >> (word % 5) & 1 == 1
}

fn in_long(word: usize, words: usize) -> bool {
    word / LONG < words / LONG && [3, 4, 64, 77, 89].contains(&(word % LONG))
}

fn in_program(word: usize, _: usize) -> bool {
    word < PROGRAM && (word % 100 == 7 || word == PROGRAM - 1)
}

/// The words of the shape that a program describes.
fn bitmap() -> [u64; PROGRAM / 64] {
    std::array::from_fn(|at| {
        let counts = |bit: &usize| in_program(64 * at + bit, PROGRAM);
        (0..64).filter(counts).fold(0, |bits, bit| bits | 1 << bit)
    })
}

impl Pair {
    fn new(kernel: Kernel) -> Pair {
        let (bench, hands) = Bench::new(MUTATORS);
        let system = System::Simulated(bench.simulated);
        let mut collector = Collector::reserve(system, bench.ledger()).unwrap();
        let shapes = Shapes::reserve(system, bench.ledger()).unwrap();
        if kernel.runs_here() {
            collector.set_kernel(kernel);
        }
        let register = |shape: Shape<'_>| shapes.register(&shape, bench.ledger()).unwrap();
        let mask = register(Shape::Mask { words: 5, mask: 0b10110 });
        let bits = [1 << 3 | 1 << 4, 1 | 1 << 13 | 1 << 25];
        let long = register(Shape::Bitmap { words: LONG, bits: &bits });
        let mut code = [0; PROGRAM];
        let length = encode_bitmap(&bitmap(), PROGRAM, &mut code).unwrap();
        let program = register(Shape::Program { words: PROGRAM, code: &code[..length] });
        let kind = |shape, least, loose, counts| Kind { shape, least, loose, counts };
        let kinds = vec![
            kind(ShapeId::PLAIN, 16, false, |_, _| false),
            kind(ShapeId::WORDS, 16, false, |_, _| true),
            kind(mask.repeated(), 40, false, in_mask),
            kind(long.repeated(), 8 * LONG, false, in_long),
            kind(program, 8 * PROGRAM, true, in_program),
        ];
        let mutators = (0..MUTATORS).map(|_| Mutator {
            worker: Box::new(Worker::new()),
            barrier: BarrierBuffer::new(),
            registers: Box::new([0; REGISTERS]),
            is_scanned: false,
        });
        let (mutators, globals) = (mutators.collect(), Box::new([0; GLOBALS]));
        let range = RootRange {
            start: Address(globals.as_ptr().expose_provenance()),
            size: Bytes(8 * GLOBALS),
            bits: NAMED.as_ptr(),
        };
        // SAFETY: the pair has the globals, and outlives marking.
        unsafe { collector.roots.add(range, bench.ledger()) }.unwrap();
        let (nodes, snapshot) = (BTreeMap::new(), BTreeSet::new());
        Pair { bench, collector, shapes, kinds, hands, mutators, globals, nodes, snapshot }
    }

    fn is_marking(&self) -> bool {
        self.collector.phase() == Phase::Mark
    }

    /// Does something in a mutator's name that marks.
    fn mark<T>(&mut self, who: usize, work: impl FnOnce(&mut Mutator, &mut Marking<'_>) -> T) -> T {
        let Pair { bench, collector, shapes, hands, mutators, .. } = self;
        let Hand { spans, shard, .. } = &mut hands[who];
        let supply = collector.supply(bench.ground(shard), spans);
        work(&mut mutators[who], &mut Marking { collector, objects: &bench.objects, shapes, supply })
    }

    /// A word of an object, as mutators reach it.
    fn word(&self, object: usize, word: usize) -> *mut usize {
        self.bench.heap.region().pointer(Address(object + 8 * word)).cast()
    }

    /// The object that a word leads to, as the twin knows it.
    fn holder(&self, word: usize) -> Option<usize> {
        let (&start, node) = self.nodes.range(..=word).next_back()?;
        (word - start < 8 * node.words.len()).then_some(start)
    }

    /// Whether a word of an object is a pointer.
    fn counts(&self, node: &Node, word: usize) -> bool {
        (self.kinds[node.kind].counts)(word, node.words.len())
    }

    /// The plain search; `loose` also looks at words that the collector may take for pointers.
    fn reachable(&self, loose: bool) -> BTreeSet<usize> {
        let globals = (0..GLOBALS).filter(|at| NAMED[0] >> at & 1 == 1).map(|at| self.globals[at]);
        let registers = self.mutators.iter().flat_map(|mutator| *mutator.registers);
        let mut grey: Vec<usize> = globals.chain(registers).filter_map(|word| self.holder(word)).collect();
        let mut reached = BTreeSet::new();
        while let Some(start) = grey.pop() {
            if !reached.insert(start) {
                continue;
            }
            let node = &self.nodes[&start];
            let all = loose && self.kinds[node.kind].loose;
            let words = node.words.iter().enumerate().filter(|(at, _)| all || self.counts(node, *at));
            grey.extend(words.filter_map(|(_, &word)| self.holder(word)));
        }
        reached
    }

    fn allocate(&mut self, input: &mut Input<'_>) {
        let (who, register) = (input.byte() % MUTATORS, input.byte() % REGISTERS);
        let (kind, large) = (input.byte() % 5, input.byte());
        let more = if large < 240 { input.byte() * 8 } else { input.below(30_000) * 8 };
        let Kind { shape, least, .. } = self.kinds[kind];
        // As many as the long shape has; of the others as many as fit.
        let size = if self.kinds[kind].loose { least } else { least + more };
        let refusals = self.bench.simulated.refusals();
        match self.make(who, shape, size) {
            Ok(start) => {
                let object = self.bench.object(start);
                assert!(object.start.0 == start && object.size.0 >= size);
                let node = Node { kind, words: vec![0; object.size.0 / 8], new: self.is_marking() };
                assert_eq!(self.holder(start), None, "two objects in one place");
                self.nodes.insert(start, node);
                self.mutators[who].registers[register] = start;
            }
            Err(error) => self.bench.assert_refused(error, refusals),
        }
    }

    fn make(&mut self, who: usize, shape: ShapeId, size: usize) -> Result<usize, Exhausted> {
        let (bench, shapes, hand) = (&self.bench, &self.shapes, &mut self.hands[who]);
        if size > MAX_SMALL {
            let kind = shapes.kind(shape, Bytes(size));
            return Ok(bench.allocate_large(hand, 0, size, (kind, shape))?.addr());
        }
        let class = SizeClass::of_small(size);
        let slot = Bytes(class.size());
        let kind = shapes.kind(shape, slot);
        let start = bench.allocate(hand, 0, SpanClass::new(kind, class))?.addr();
        let object = bench.object(start);
        match kind {
            SpanKind::Mapped => {
                let word = (start - bench.objects.base().0) % PAGE_SIZE / 8;
                let map =
                    bench.objects.page_map(object.first_page).expect("pages of mapped objects have maps");
                map.set(word, slot.0 / 8, shapes.mask(shape, slot));
            }
            SpanKind::Headed => bench.objects.set_shape_at(object.first_page, object.index as usize, shape),
            SpanKind::Plain | SpanKind::Words => {}
        }
        Ok(start)
    }

    /// A word of the object in a register: the object, and which word.
    fn pick(&self, who: usize, input: &mut Input<'_>) -> Option<(usize, usize)> {
        let start = self.mutators[who].registers[input.byte() % REGISTERS];
        let object = (start != 0).then(|| self.bench.object(start))?;
        assert!(object.start.0 == start && !self.bench.objects.is_condemned(&object));
        let words = object.size.0 / 8;
        // The first words of all, and the last ones of long objects.
        let word = if input.byte() < 200 { input.byte() % words } else { words - 1 - input.byte() % words };
        Some((start, word))
    }

    fn load(&mut self, input: &mut Input<'_>) {
        let (who, register) = (input.byte() % MUTATORS, input.byte() % REGISTERS);
        let Some((start, word)) = self.pick(who, input) else { return };
        // SAFETY: a word of an object that is reachable.
        let value = unsafe { self.word(start, word).read() };
        assert_eq!(value, self.nodes[&start].words[word], "word {word} of {start:#x} has changed");
        // What counts can be loaded; other words are numbers, whatever they look like.
        if self.counts(&self.nodes[&start], word) {
            self.mutators[who].registers[register] = self.holder(value).unwrap_or(0);
        }
    }

    fn store(&mut self, input: &mut Input<'_>) {
        let (who, register) = (input.byte() % MUTATORS, input.byte() % REGISTERS);
        let Some((start, word)) = self.pick(who, input) else { return };
        let target = self.mutators[who].registers[register];
        let value = match input.byte() {
            0..160 => target,
            // Into the middle; nulls stay nulls.
            inside @ 160..220 if target != 0 => target + inside % (8 * self.nodes[&target].words.len()),
            _ => 0,
        };
        let node = &self.nodes[&start];
        if self.counts(node, word) {
            self.note(who, node.words[word], value);
        }
        // SAFETY: as above.
        unsafe { self.word(start, word).write(value) };
        self.nodes.get_mut(&start).expect("the twin has it").words[word] = value;
    }

    /// The barrier, before a store.
    fn note(&mut self, who: usize, old: usize, new: usize) {
        if self.is_marking() && self.mutators[who].barrier.push(old, new) {
            self.mark(who, |mutator, marking| mutator.barrier.flush(&mut mutator.worker, marking));
        }
    }

    fn store_global(&mut self, input: &mut Input<'_>) {
        let (who, at) = (input.byte() % MUTATORS, input.byte() % GLOBALS);
        let new = self.mutators[who].registers[input.byte() % REGISTERS];
        if NAMED[0] >> at & 1 == 1 {
            self.note(who, self.globals[at], new);
        }
        // SAFETY: the pair's own; the collector reads it too, through a pointer of its own.
        unsafe { self.globals.as_mut_ptr().add(at).write_volatile(new) };
    }

    fn begin(&mut self) {
        self.bench.sweep_all(&mut self.hands[0]);
        self.bench.begin_marking(&mut self.hands);
        self.nodes.values_mut().for_each(|node| node.new = false);
        self.mutators.iter_mut().for_each(|mutator| mutator.is_scanned = false);
        self.collector.begin();
        self.snapshot = self.reachable(true);
    }

    /// What the collector asks of a mutator at a safepoint.
    fn hand_over(&mut self, who: usize) {
        self.mark(who, |Mutator { worker, barrier, registers, is_scanned }, marking| {
            barrier.flush(worker, marking);
            if !*is_scanned {
                let range = (Address(registers.as_ptr().expose_provenance()), Bytes(8 * REGISTERS));
                // SAFETY: the mutator's own, which stands still.
                unsafe { worker.scan_words(range, Source::Stacks, marking) };
                *is_scanned = true;
            }
            worker.leave(marking);
        });
    }

    fn drain(&mut self, who: usize, budget: u64) {
        self.mark(who, |mutator, marking| {
            mutator.worker.drain(budget, marking);
        });
    }

    /// Marks what is left, compares, and sweeps.
    fn end(&mut self) {
        loop {
            let before = self.collector.brought();
            (0..MUTATORS).for_each(|who| self.hand_over(who));
            self.mark(0, |mutator, marking| mutator.worker.drain_with_others(marking, |_| false));
            if self.collector.is_quiet() && self.collector.brought() == before {
                break;
            }
        }
        let progress = self.collector.end(&self.bench.ground(&self.hands[0].shard));
        let marked = Bytes(progress.marked_bytes as usize);
        self.collector.check_marks(&self.bench.objects).unwrap();
        self.verify();
        self.compare(marked);
        let Hand { spans, shard, .. } = &mut self.hands[0];
        // SAFETY: nobody marks.
        unsafe { self.shapes.roll_up(self.bench.ground(shard), spans) };
        self.bench.end_marking(&mut self.hands, marked);
        let bytes: usize = self.nodes.values().map(|node| 8 * node.words.len()).sum();
        assert_eq!(self.bench.objects.live(), Bytes(bytes));
        self.give_back_buffers();
    }

    /// What must live on does, and nothing that may not.
    fn compare(&mut self, marked: Bytes) {
        let must = self.reachable(false);
        let (objects, snapshot) = (&self.bench.objects, &self.snapshot);
        let mut counted = 0;
        self.nodes.retain(|&start, node| {
            let object = objects.find(Address(start)).expect("dead or alive, it is not swept yet");
            let lives = objects.is_marked(&object);
            assert!(lives || !must.contains(&start), "{object:?} was lost");
            assert!(!lives || node.new || snapshot.contains(&start), "{object:?} is kept by nothing");
            counted += if lives && !node.new { object.size.0 } else { 0 };
            lives
        });
        assert_eq!(counted, marked.0, "bytes that were marked");
    }

    /// The second marking agrees, where there is memory for it.
    fn verify(&mut self) {
        let Pair { bench, collector, shapes, hands, mutators, .. } = self;
        let Hand { spans, shard, .. } = &mut hands[0];
        let all = (&bench.objects, &*shapes);
        // SAFETY: nobody else does anything meanwhile.
        let verifier = unsafe { Verifier::new(bench.ground(shard), spans, all) };
        let Ok(mut verifier) = verifier else { return };
        let mut walked = Ok(());
        for word in mutators.iter().flat_map(|mutator| *mutator.registers) {
            walked = walked.and_then(|()| verifier.root(Address(word)));
        }
        for range in collector.roots.all() {
            // SAFETY: the globals stay.
            walked = walked.and_then(|()| unsafe { verifier.range(&range) });
        }
        assert!(verifier.finish().is_ok(), "the second marking has found more");
    }

    fn give_back_buffers(&mut self) {
        let Hand { spans, shard, .. } = &mut self.hands[0];
        let ground = self.bench.ground(shard);
        // SAFETY: nobody marks.
        while unsafe { self.collector.give_back_buffers(&ground, spans, 1) } {}
        self.collector.check(&self.bench.heap).unwrap();
        for purpose in [WORK_BUFFERS, POINTER_MAPS] {
            assert_eq!(self.bench.meters.get(purpose).inuse(), Bytes::ZERO, "{purpose:?} between cycles");
        }
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let marking = self.is_marking();
        match operation % 32 {
            0..=5 => self.allocate(input),
            6..=12 => self.load(input),
            13..=20 => self.store(input),
            21 | 22 => self.store_global(input),
            23 => {
                let (who, register) = (input.byte() % MUTATORS, input.byte() % REGISTERS);
                self.mutators[who].registers[register] = 0;
            }
            24 | 25 if !marking => self.begin(),
            24 => self.hand_over(input.byte() % MUTATORS),
            25..=27 if marking => self.drain(input.byte() % MUTATORS, 1 + input.byte() as u64 * 64),
            28 if marking => self.end(),
            29 => self.bench.simulated.refuse(input.byte() % 16, 1 + input.byte() % 4),
            30 => {
                let meter = self.bench.meters.get(WORK_BUFFERS);
                let few = Bytes::kib(32 * (input.byte() % 3));
                meter.set_hard_limit(meter.hard_limit().is_none().then_some(few));
            }
            _ => drop(self.bench.sweep(&mut self.hands[1], false)),
        }
    }

    /// Forgets everything; then nothing may be left.
    fn finish(&mut self) {
        self.bench.simulated.refuse_nothing();
        if self.is_marking() {
            self.end();
        }
        for start in self.nodes.keys() {
            assert!(!self.bench.objects.is_condemned(&self.bench.object(*start)));
        }
        // SAFETY: as above.
        (0..GLOBALS).for_each(|at| unsafe { self.globals.as_mut_ptr().add(at).write_volatile(0) });
        self.mutators.iter_mut().for_each(|mutator| mutator.registers.fill(0));
        self.begin();
        self.end();
        assert!(self.nodes.is_empty());
        self.bench.sweep_all(&mut self.hands[0]);
        self.bench.check(&self.hands);
        assert_eq!(self.bench.meters.get(self.bench.purposes[0]).inuse(), Bytes::ZERO);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: nobody uses them any more.
        unsafe {
            self.collector.destroy();
            self.shapes.destroy();
        }
    }
}

/// Runs a program.
///
/// # Panics
/// When a cycle loses an object, keeps one that it should not, or counts wrongly; or an invariant does not hold.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new([Kernel::Plain, Kernel::Avx2, Kernel::Avx512][input.byte() % 3]);
    let mut steps = 0;
    while let Some(operation) = input.operation() {
        pair.step(operation, &mut input);
        steps += 1;
        if steps % 32 == 0 {
            let hands = &pair.hands;
            pair.bench.check(hands);
        }
    }
    pair.finish();
}
