//! Runtimes that keep the rules, and what is alive then.

use super::*;
use crate::front::collect::CollectConfig;
use crate::object::encode::{self, Layout};
use crate::{Activity, Config, Guard, Stack};
use core::arch::asm;
use core::hint::black_box;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn heap() -> Heap {
    let heap = Heap::new(Config { reserve: Bytes::gib(4), ..Config::default() }).unwrap();
    let config = CollectConfig { percent: None, workers: 0, verify: true, ..CollectConfig::default() };
    heap.configure_collector(config).unwrap();
    heap
}

fn in_order(heap: &Heap) {
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

/// A new object, as words.
fn words(mutator: &RawMutator<'_>, size: usize, shape: ShapeId) -> NonNull<*mut u64> {
    // SAFETY: the tests keep what they use reachable.
    let object: NonNull<*mut u64> = unsafe { mutator.allocate(size, shape) }.unwrap().cast();
    for word in 0..size / 8 {
        // SAFETY: the object's words.
        unsafe { assert!(object.add(word).read().is_null(), "objects are zero") };
    }
    object
}

/// A new object without pointers: its address.
fn plain(mutator: &RawMutator<'_>) -> usize {
    words(mutator, 48, ShapeId::PLAIN).addr().get()
}

fn set(mutator: &RawMutator<'_>, object: NonNull<*mut u64>, word: usize, value: usize) {
    // SAFETY: the word is the object's.
    unsafe { mutator.write(object.add(word), core::ptr::with_exposed_provenance_mut(value)) };
}

/// Whether an object is still there. Asked just after a collection, when no cache holds slots.
fn is_alive(mutator: &RawMutator<'_>, object: usize) -> bool {
    mutator.find(object).is_some()
}

/// A range that holds one word, which keeps an object alive.
struct Kept<'a, 'h>(&'a RawMutator<'h>, crate::gc::RangeId, NonNull<usize>);

impl<'a, 'h> Kept<'a, 'h> {
    fn new(mutator: &'a RawMutator<'h>, object: usize) -> Kept<'a, 'h> {
        let word = NonNull::from(Box::leak(Box::new(object)));
        // SAFETY: the range goes before the word does.
        let range = unsafe { mutator.add_root_range(word.cast(), Bytes(8), None) }.unwrap();
        Kept(mutator, range, word)
    }
}

impl Drop for Kept<'_, '_> {
    fn drop(&mut self) {
        assert!(self.0.remove_root_range(self.1).is_some());
        // SAFETY: it was boxed, and nobody reads it any more.
        drop(unsafe { Box::from_raw(self.2.as_ptr()) });
    }
}

/// Every word of objects of every kind keeps what it leads to exactly if the shape says so.
#[test]
fn a_word_keeps_what_its_shape_says() {
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    let element = mutator.register_shape(&Shape::Mask { words: 3, mask: 0b101 }).unwrap();
    let long: Vec<u64> = vec![0x5555_5555_5555_5555; 40];
    let mut code = [0; 64];
    let element_of_program = Layout::Sequence(&[Layout::Scalars(1), Layout::Pointers(1), Layout::Scalars(1)]);
    let length = encode::encode(&Layout::Repeat(&element_of_program, 20_000), &mut code).unwrap();
    let shapes = [
        (24, Shape::Mask { words: 3, mask: 0b101 }),
        (512, Shape::Mask { words: 64, mask: 0x8000_0000_0000_0001 }),
        (2560, Shape::Bitmap { words: 320, bits: &long[..5] }),
        (24 * 50, Shape::Array { element, count: 50 }),
        (24 * 3000, Shape::Array { element, count: 3000 }),
        (480_000, Shape::Program { words: 60_000, code: &code[..length] }),
        (40, Shape::Words),
        (40_000, Shape::Words),
        (40, Shape::Plain),
        (40_000, Shape::Plain),
    ];
    let points = |at: usize, word: usize| match at {
        0 | 3 | 4 => word % 3 != 1,
        1 => word == 0 || word == 63,
        2 => word.is_multiple_of(2),
        5 => word % 3 == 1,
        6 | 7 => true,
        _ => false,
    };
    for (at, (size, shape)) in shapes.iter().enumerate() {
        let shape = mutator.register_shape(shape).unwrap();
        let object = words(&mutator, *size, shape);
        let kept = Kept::new(&mutator, object.addr().get() + size / 2);
        let count = size / 8;
        let few: Vec<usize> =
            if count < 400 { (0..count).collect() } else { (0..count).step_by(count / 97).collect() };
        let targets: Vec<usize> = few.iter().map(|_| plain(&mutator)).collect();
        few.iter().zip(&targets).for_each(|(&word, &target)| set(&mutator, object, word, target));
        for round in 0..2 {
            mutator.collect().unwrap();
            for (&word, &target) in few.iter().zip(&targets) {
                let alive = is_alive(&mutator, target);
                assert_eq!(alive, points(at, word), "shape {at}, word {word}, round {round}");
            }
        }
        let found = mutator.find(object.addr().get()).unwrap();
        assert!(found.start.0 == object.addr().get() && found.size.0 >= *size);
        drop(kept);
    }
    mutator.collect().unwrap();
    assert_eq!(heap.collector_statistics().live, Bytes::ZERO);
    for purpose in [crate::base::purpose::WORK_BUFFERS, crate::base::purpose::POINTER_MAPS] {
        assert_eq!(heap.core().meters.get(purpose).inuse(), Bytes::ZERO);
        let peak = heap.core().meters.get(purpose).peak();
        assert!(peak > Bytes::ZERO, "nothing was measured");
    }
    drop(mutator);
    in_order(&heap);
}

#[test]
fn crumbs_share_a_slot_and_stand_as_their_size_says() {
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    let sizes = [1_usize, 2, 3, 4, 6, 8, 12, 15, 0, 16];
    let mut seen = Vec::new();
    for round in 0..600 {
        let size = sizes[round % sizes.len()];
        // SAFETY: they are used before the next safepoint.
        let crumb = unsafe { mutator.allocate(size, ShapeId::PLAIN) }.unwrap();
        let align = if size == 0 { 1 } else { 1 << size.trailing_zeros().min(3) };
        assert!(crumb.addr().get().is_multiple_of(align));
        for at in 0..size {
            // SAFETY: the crumb's bytes.
            unsafe { assert_eq!(crumb.add(at).replace(0xFF), 0, "crumbs are zero, and nobody else's") };
        }
        seen.push(crumb.addr().get());
    }
    let kept = Kept::new(&mutator, seen[0]);
    mutator.collect().unwrap();
    assert!(is_alive(&mutator, seen[0]) && !is_alive(&mutator, seen[300]));
    // The slot that is kept, and the one that was being filled when marking began.
    assert_eq!(heap.collector_statistics().live, Bytes(32));
    drop(kept);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn ranges_and_providers_keep_what_they_tell_of() {
    static HIDDEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    fn provide(word: usize, shader: &mut Shader<'_, '_>) {
        shader.shade(HIDDEN.load(Ordering::Relaxed) ^ word);
    }
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    let objects: Vec<usize> = (0..4).map(|_| plain(&mutator)).collect();
    HIDDEN.store(objects[0] ^ 99, Ordering::Relaxed);
    let table: Box<[usize]> = objects[1..].into();
    let at = NonNull::from(&table[0]).cast();
    let bits = [0b101];
    // SAFETY: table and bits outlive the range, and are not changed; the provider reads what is always there.
    let (range, provider) = unsafe {
        let range = mutator.add_root_range(at, Bytes(24), Some(&bits)).unwrap();
        (range, mutator.add_root_provider(provide, 99).unwrap())
    };
    let alive = || objects.iter().map(|&object| is_alive(&mutator, object)).collect::<Vec<_>>();
    mutator.collect().unwrap();
    assert_eq!(alive(), [true, true, false, true]);
    assert_eq!(mutator.remove_root_range(range), Some((Address::of(at.as_ptr()), Bytes(24))));
    assert_eq!(mutator.remove_root_range(range), None);
    mutator.collect().unwrap();
    assert_eq!(alive(), [true, false, false, false]);
    assert!(mutator.remove_root_provider(provider) && !mutator.remove_root_provider(provider));
    mutator.collect().unwrap();
    assert_eq!(alive(), [false; 4]);
    // SAFETY: as above.
    let refused =
        (0..=roots::MOST_PROVIDERS).find_map(|_| unsafe { mutator.add_root_provider(provide, 99) }.err());
    assert_eq!(refused, Some(CollectError::Providers));
    drop(mutator);
    in_order(&heap);
}

/// Overwrites what calls have left on the stack below.
#[inline(never)]
fn scrub() {
    black_box([0_usize; 4096]);
}

/// The complement of a new object's address, which nobody takes for a pointer.
#[inline(never)]
fn hidden(mutator: &RawMutator<'_>) -> usize {
    let object = !plain(mutator);
    scrub();
    object
}

/// Whether a hidden object is alive. The address is computed here, so that no caller keeps it for the next question.
#[inline(never)]
fn is_hidden_alive(mutator: &RawMutator<'_>, hidden: usize) -> bool {
    is_alive(mutator, !black_box(hidden))
}

#[test]
fn what_a_stack_leads_to_stays() {
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    let [kept, lost] = mutator.with_stack(|mutator| {
        let [kept, lost] = [hidden(mutator), hidden(mutator)];
        let reference = Cell::new(!kept);
        black_box(&reference);
        scrub();
        mutator.collect().unwrap();
        assert!(is_hidden_alive(mutator, kept), "it is on the stack");
        assert!(!is_hidden_alive(mutator, lost), "it is not");
        reference.set(0);
        black_box(&reference);
        [kept, lost]
    });
    mutator.collect().unwrap();
    assert!(
        !is_hidden_alive(&mutator, kept) && !is_hidden_alive(&mutator, lost),
        "the stack is not looked at any more"
    );
    drop(mutator);
    in_order(&heap);
}

/// Collects, with the complement of a word in a register that called functions keep, and nowhere else.
#[inline(never)]
fn collect_with_register(mutator: &RawMutator<'_>, hidden: usize) {
    extern "C" fn collect(mutator: &RawMutator<'_>) {
        mutator.collect().unwrap();
    }
    // SAFETY: an ordinary call, with a register changed that is declared.
    unsafe {
        asm!(
            "mov r12, {hidden}",
            "not r12",
            "call {collect}",
            "xor r12, r12",
            hidden = in(reg) hidden,
            collect = sym collect,
            in("rdi") mutator,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

#[test]
fn what_a_register_leads_to_stays() {
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    mutator.with_stack(|mutator| {
        let [kept, lost] = [hidden(mutator), hidden(mutator)];
        scrub();
        collect_with_register(mutator, kept);
        assert!(is_hidden_alive(mutator, kept), "it is in a register");
        assert!(!is_hidden_alive(mutator, lost), "it is in none");
        scrub();
        collect_with_register(mutator, !0);
        assert!(!is_hidden_alive(mutator, kept), "it is in no register any more");
    });
    drop(mutator);
    in_order(&heap);
}

fn fiber(heap: &Heap) -> Stack<&Heap> {
    heap.stacks().allocate(Bytes::kib(16), Guard::Yes).unwrap()
}

#[test]
fn parked_fibers_keep_what_they_hold_and_finished_ones_do_not() {
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    let stacks = [fiber(&heap), fiber(&heap), fiber(&heap), fiber(&heap)];
    let objects: Vec<[usize; 2]> = stacks.iter().map(|_| [plain(&mutator), plain(&mutator)]).collect();
    for (stack, objects) in stacks.iter().zip(&objects) {
        // SAFETY: the stack's own memory: one word above the stack pointer, and one below.
        unsafe {
            stack.base().cast::<usize>().sub(100).write(objects[0]);
            stack.base().cast::<usize>().sub(200).write(objects[1]);
        }
    }
    let parked =
        |stack: &Stack<&Heap>| Activity::Parked(Address::of(stack.base().as_ptr().wrapping_sub(1200)));
    let say = |activity: [Activity; 4]| {
        // SAFETY: nothing runs on these stacks.
        stacks.iter().zip(activity).for_each(|(stack, activity)| unsafe { stack.set_activity(activity) });
    };
    let alive = |at: usize| objects.iter().map(|pair| is_alive(&mutator, pair[at])).collect::<Vec<_>>();
    say([0, 1, 2, 3].map(|at| parked(&stacks[at])));
    mutator.collect().unwrap();
    assert_eq!((alive(0), alive(1)), (vec![true; 4], vec![false; 4]), "from the stack pointer up");
    say([parked(&stacks[0]), Activity::Finished, Activity::Unregistered, Activity::Running]);
    mutator.collect().unwrap();
    assert_eq!(alive(0), [true, false, false, false]);
    drop(stacks);
    mutator.collect().unwrap();
    assert_eq!(heap.collector_statistics().live, Bytes::ZERO);
    drop(mutator);
    in_order(&heap);
}

/// What runs on a fiber, and what it came to.
struct Errand<'a, 'h> {
    mutator: &'a RawMutator<'h>,
    /// Of the thread's stack.
    below: usize,
    done: bool,
}

extern "C" fn run(errand: &mut Errand<'_, '_>) {
    let mutator = errand.mutator;
    let [kept, lost] = [hidden(mutator), hidden(mutator)];
    let reference = Cell::new(!kept);
    black_box(&reference);
    scrub();
    mutator.collect().unwrap();
    assert!(
        is_hidden_alive(mutator, kept)
            && is_hidden_alive(mutator, errand.below)
            && !is_hidden_alive(mutator, lost)
    );
    reference.set(0);
    black_box(&reference);
    errand.done = true;
}

/// Calls `run` on another stack.
#[inline(never)]
fn run_on(stack: &Stack<&Heap>, errand: &mut Errand<'_, '_>) {
    // SAFETY: the stack is large enough and its base aligned; the register is declared.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov rsp, {base}",
            "call {run}",
            "mov rsp, r12",
            base = in(reg) stack.base().as_ptr(),
            run = sym run,
            in("rdi") errand,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

#[test]
fn a_thread_on_a_fiber_keeps_what_is_there_and_what_it_left_behind() {
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    let stack = heap.stacks().allocate(Bytes::kib(512), Guard::Yes).unwrap();
    mutator.with_stack(|mutator| {
        let below = hidden(mutator);
        let reference = Cell::new(!below);
        black_box(&reference);
        scrub();
        let mut errand = Errand { mutator, below, done: false };
        // SAFETY: the errand runs on the stack and comes back.
        unsafe {
            stack.set_activity(Activity::Running);
            mutator.on_stack(|| run_on(&stack, &mut errand));
            stack.set_activity(Activity::Finished);
        }
        assert!(errand.done);
        black_box(&reference);
        mutator.collect().unwrap();
        assert!(is_hidden_alive(mutator, below), "back on the thread's stack");
    });
    drop(stack);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn a_thread_with_a_stack_needs_no_safepoints_and_collects_when_refused() {
    let heap = Heap::new(Config { reserve: Bytes::gib(1), ..Config::default() }).unwrap();
    let config = CollectConfig { percent: None, workers: 0, ..CollectConfig::default() };
    heap.configure_collector(config).unwrap();
    let mutator = heap.enter_raw().unwrap();
    heap.set_limit(Some(Bytes(heap.snapshot().committed() as usize) + Bytes::mib(2)));
    mutator.with_stack(|mutator| {
        let list = Cell::new(core::ptr::null_mut::<u64>());
        black_box(&list);
        for number in 0..100_000_usize {
            // Of 6 MiB, every hundredth object is kept.
            let object = words(mutator, 64, ShapeId::WORDS);
            if number.is_multiple_of(100) {
                set(mutator, object, 0, list.get().addr());
                list.set(object.as_ptr().cast());
            }
        }
        let mut length = 0;
        while let Some(object) = NonNull::new(list.get().cast::<*mut u64>()) {
            // SAFETY: the list is on the stack, by its first object.
            list.set(unsafe { object.read() });
            length += 1;
        }
        assert_eq!(length, 1000);
    });
    assert!(heap.collector_statistics().cycles > 1);
    drop(mutator);
    in_order(&heap);
}

#[test]
fn a_thread_that_is_outside_is_told_so() {
    let heap = heap();
    let mutator = heap.enter_raw().unwrap();
    let word = Box::new(0_usize);
    let at = NonNull::from(&*word).cast();
    // SAFETY: it outlives the range.
    let range = unsafe { mutator.add_root_range(at, Bytes(8), None) }.unwrap();
    let panics = |work: &dyn Fn()| catch_unwind(AssertUnwindSafe(|| mutator.outside(work))).is_err();
    assert!(panics(&|| mutator.outside(|| ())));
    assert!(panics(&|| mutator.collect().unwrap()));
    assert!(panics(&|| mutator.for_each_object(|_| ())));
    assert!(panics(&|| assert!(mutator.remove_root_range(range).is_none())));
    mutator.outside(|| mutator.safepoint());
    assert!(mutator.remove_root_range(range).is_some());
    plain(&mutator);
    assert!(catch_unwind(AssertUnwindSafe(|| mutator.for_each_object(|_| panic!("a visitor")))).is_err());
    mutator.collect().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| mutator.recipe(8, ShapeId(77)))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| mutator.recipe(1 << 20, ShapeId(77)))).is_err());
    drop(mutator);
    in_order(&heap);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Against a map: all objects that are kept, and no others, with their sizes and pointers.
    #[test]
    fn a_census_counts_what_is_there(program in prop::collection::vec((0..6_usize, 1..60_000_usize, any::<bool>()), 1..60)) {
        let heap = heap();
        let mutator = heap.enter_raw().unwrap();
        let shapes = [
            Shape::Plain,
            Shape::Words,
            Shape::Mask { words: 2, mask: 0b10 },
            Shape::Mask { words: 40, mask: 0xF0_0000_0001 },
            Shape::Bitmap { words: 600, bits: &[3; 9] },
            Shape::Bitmap { words: 1200, bits: &[5; 18] },
        ].map(|shape| mutator.register_shape(&shape).unwrap());
        let mut twin: BTreeMap<usize, Found> = BTreeMap::new();
        let mut kept = Vec::new();
        for (shape, size, keep) in program {
            let (shape, size) = (shapes[shape], size.max(16));
            let object = words(&mutator, size, shape).addr().get();
            let found = mutator.find(object + size / 2).unwrap();
            prop_assert_eq!((found.start.0, mutator.find(object)), (object, Some(found)));
            prop_assert!(found.size.0 >= size);
            let wanted = match mutator.collection.shapes.kind(shape, found.size) {
                SpanKind::Plain => Pointers::None,
                SpanKind::Words => Pointers::Words,
                SpanKind::Mapped => Pointers::Mask(mutator.collection.shapes.mask(shape, found.size)),
                SpanKind::Headed => Pointers::Shape(shape),
            };
            prop_assert!(found.pointers == wanted || (wanted, found.pointers) == (Pointers::Mask(0), Pointers::None));
            twin.insert(object, found);
            if keep { kept.push(Kept::new(&mutator, object)) }
        }
        for _ in 0..2 {
            let mut seen = BTreeMap::new();
            mutator.for_each_object(|found| assert!(seen.insert(found.start.0, found).is_none()));
            prop_assert_eq!(&seen, &twin);
            let mut rows = [CensusRow::EMPTY; 64];
            let census = mutator.census(&mut rows);
            let bytes: usize = twin.values().map(|found| found.size.0).sum();
            prop_assert_eq!((census.objects, census.bytes.0), (twin.len(), bytes));
            for row in &rows[..census.rows] {
                let same = twin.values().filter(|found| (found.pointers, found.size) == (row.pointers, row.size));
                prop_assert_eq!(row.objects, same.count());
            }
            prop_assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row.bytes())));
            let few = mutator.census(&mut rows[..1]);
            prop_assert_eq!((few.rows, few.objects), (1.min(twin.len()), twin.len()));
            mutator.collect().unwrap();
            // SAFETY: the words are the ranges', and boxed.
            let alive: Vec<usize> = kept.iter().map(|kept| unsafe { kept.2.read() }).collect();
            twin.retain(|object, _| alive.contains(object));
        }
        drop(kept);
        drop(mutator);
        in_order(&heap);
    }
}

/// Set in a process that keeps no rules.
const BROKEN: &str = "SPANHEAP_TEST_BROKEN";

/// A provider that said nothing when marking began, and then has something all the same: the second marking finds the
/// object that nobody marked, and stops the program.
#[test]
fn what_providers_keep_to_themselves_is_found() {
    fn provide(word: usize, shader: &mut Shader<'_, '_>) {
        // SAFETY: the test's own, which lives longer than the provider.
        let [asked, object] = unsafe { &*core::ptr::with_exposed_provenance::<[Cell<usize>; 2]>(word) };
        if asked.replace(1) == 1 {
            shader.shade(object.get());
        }
    }
    if std::env::var_os(BROKEN).is_some() {
        let heap = heap();
        let mutator = heap.enter_raw().unwrap();
        let words = [Cell::new(0), Cell::new(plain(&mutator))];
        // SAFETY: the words outlive the heap's use of them.
        unsafe { mutator.add_root_provider(provide, core::ptr::from_ref(&words).expose_provenance()) }
            .unwrap();
        mutator.collect().unwrap();
        return;
    }
    let name = "front::collect::raw::tests::what_providers_keep_to_themselves_is_found";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(BROKEN, "")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("spanheap: the collector missed Object"), "{text}");
}
