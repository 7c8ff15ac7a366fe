//! The statistics page, read as another process reads it: by address, through `/proc`. What is read agrees with the
//! heap's own snapshot, balances while threads are busy, and makes nobody panic whatever stands there.
#![cfg(not(loom))]

use proptest::prelude::*;
use spanheap::base::Bytes;
use spanheap::stats::outside::{self, Memory, Outside, ReadError, Way};
use spanheap::stats::window::{
    BEACON_ALIGN, BEACON_BYTES, Handed, LAYOUT, ProfileOrder, ROW_LAYOUT, VERSION, offset_of_word,
};
use spanheap::stats::{Account, ClassEvent, Whole};
use spanheap::{Config, Heap, Snapshot};
use std::alloc::Layout;
use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// This process, as another one would see it.
struct Process(File);

impl Process {
    fn own() -> Process {
        Process(File::options().read(true).write(true).open("/proc/self/mem").unwrap())
    }
}

impl Memory for Process {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), i32> {
        self.0.read_exact_at(into, at).map_err(|error| error.raw_os_error().unwrap_or(0))
    }

    fn write(&self, at: u64, word: u64) -> Result<(), i32> {
        self.0.write_all_at(&word.to_ne_bytes(), at).map_err(|error| error.raw_os_error().unwrap_or(0))
    }
}

fn open(heap: &Heap, memory: &impl Memory) -> Result<Box<Outside>, ReadError> {
    Outside::open(memory, heap.page_address().0 as u64).map(Box::new)
}

fn question() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

#[test]
fn what_is_seen_outside_is_what_the_heap_says() {
    let heap = Heap::new(Config { limit: Some(Bytes::gib(3)), ..Config::default() }).unwrap();
    let purpose = heap.declare("sessions").unwrap();
    purpose.set_limit(Some(Bytes::mib(100)));
    purpose.set_soft_limit(Some(Bytes::mib(1)), None);
    let block = heap.allocate(Layout::from_size_align(100, 8).unwrap()).unwrap();
    let large = heap.allocate(Layout::from_size_align(1 << 20, 8).unwrap()).unwrap();
    let span = purpose.allocate_span(Bytes::mib(2)).unwrap();
    assert!(purpose.allocate_span(Bytes::mib(200)).is_err());
    let (memory, mut own, mut seen) =
        (Process::own(), Box::new(Snapshot::zero()), Box::new(Snapshot::zero()));
    heap.snapshot_into(&mut own);
    let mut page = open(&heap, &memory).unwrap();
    assert_eq!(page.look(&memory, &mut seen), Ok(true));
    assert_eq!(seen.check(), Ok(()));
    let text = |snapshot: &Snapshot| {
        let mut text = String::new();
        snapshot.write_json(&mut text, "", 0).unwrap();
        text
    };
    assert_eq!(text(&seen), text(&own));
    assert_eq!((seen.whole(Whole::LargeBlock), seen.whole(Whole::ManualSpan)), (1 << 20, 2 << 20));
    assert_eq!(seen.heap_limit, Some(Bytes::gib(3)));
    assert_eq!(
        (seen.purpose(purpose.id()).book.refused, seen.purpose(purpose.id()).book.soft_events),
        (1, 1)
    );
    // The heap's own answer says the same.
    let asked = question();
    let after = page.ask(&memory, asked).unwrap();
    assert_eq!(page.answer(&memory, &mut seen, asked, after), Ok(false), "nobody has answered yet");
    drop(purpose.allocate_span(Bytes::kib(8)).unwrap());
    assert_eq!(page.answer(&memory, &mut seen, asked, after), Ok(true));
    assert_eq!(seen.check(), Ok(()));
    let inuse = |snapshot: &Snapshot| snapshot.balance(Account::Span(purpose.id()));
    assert_eq!(inuse(&seen), inuse(&own) + (8 << 10), "the answer was made while the span was there");
    let ranges = page.ranges();
    assert!(ranges[0].kind.is_none() && ranges[0].bytes >= 64 << 20);
    let known = |address: u64| ranges.iter().any(|range| address.wrapping_sub(range.from) < range.bytes);
    assert!(known(block.addr().get() as u64) && known(heap.page_address().0 as u64));
    drop(span);
    // SAFETY: both came from this heap, and are not used any more.
    unsafe {
        heap.free(block).unwrap();
        assert_eq!(heap.resize(large, 100_000), Ok(true));
        assert_eq!(heap.snapshot().whole(Whole::LargeBlock), 13 * 8192);
        heap.free(large).unwrap();
    }
    assert_eq!([Whole::LargeBlock, Whole::ManualSpan].map(|what| heap.snapshot().whole(what)), [0, 0]);
    heap.check().unwrap();
    assert_eq!(heap.snapshot().check(), Ok(()));
}

/// Says that something is done, when it goes.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A thousand readings by either way while three threads do nothing but allocate and free.
#[test]
fn readings_balance_while_others_work() {
    let heap = Heap::new(Config::default()).unwrap();
    let purposes = [heap.declare("a").unwrap(), heap.declare("b").unwrap()];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..3 {
            let (heap, purposes, done) = (&heap, &purposes, &done);
            scope.spawn(move || {
                let mut random = seed as usize;
                let mut held = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let layout = Layout::from_size_align(1 + (random >> 40) % 20_000, 8).unwrap();
                    held.push(purposes[random >> 62 & 1].scope(|| heap.allocate(layout)).unwrap());
                    if held.len() > 200 {
                        for block in held.drain(..) {
                            // SAFETY: from this heap, and not used any more.
                            unsafe { heap.free(block).unwrap() };
                        }
                    }
                }
                for block in held {
                    // SAFETY: from this heap, and not used any more.
                    unsafe { heap.free(block).unwrap() };
                }
            });
        }
        // Whatever happens here, the others come to an end.
        let _end = Ending(&done);
        let (memory, mut snapshot) = (Process::own(), Box::new(Snapshot::zero()));
        let mut page = open(&heap, &memory).unwrap();
        let mut ways = [0, 0];
        let mut last = 0;
        for _ in 0..1000 {
            let way = page.read(&memory, &mut snapshot, question(), || {
                thread::yield_now();
                true
            });
            ways[(way.unwrap() == Way::Asked) as usize] += 1;
            assert_eq!(snapshot.check(), Ok(()));
            let allocated: i64 = snapshot.purposes().map(|of| of.allocated).sum();
            assert!(allocated >= last, "a later reading is of an earlier time");
            last = allocated;
        }
        // The way depends on how busy the machine is; asked for, an answer always comes.
        let asked = question();
        let after = page.ask(&memory, asked).unwrap();
        while !page.answer(&memory, &mut snapshot, asked, after).unwrap() {
            thread::yield_now();
        }
        assert_eq!(snapshot.check(), Ok(()));
        assert_eq!(ways[0] + ways[1], 1000);
    });
    heap.check().unwrap();
    assert_eq!(heap.snapshot().check(), Ok(()));
}

#[test]
fn an_order_to_release_is_carried_out() {
    let heap = Heap::new(Config::default()).unwrap();
    let span = heap.declare("a").unwrap().allocate_span(Bytes::mib(8)).unwrap();
    // What was never touched would be released when it is freed.
    span.as_ptr();
    drop(span);
    let (memory, mut snapshot) = (Process::own(), Box::new(Snapshot::zero()));
    let mut page = open(&heap, &memory).unwrap();
    assert!(page.look(&memory, &mut snapshot).unwrap());
    assert!(snapshot.free() >= 8 << 20);
    let order = question();
    page.order_release(&memory, order).unwrap();
    assert_ne!(page.released(&memory).unwrap().done, order);
    // Any slow path does it.
    let layout = Layout::from_size_align(64, 8).unwrap();
    let block = heap.allocate(layout).unwrap();
    let released = page.released(&memory).unwrap();
    assert_eq!((released.wanted, released.done), (order, order));
    assert!(released.sum >= 7 << 20);
    assert!(page.look(&memory, &mut snapshot).unwrap());
    assert!(snapshot.free() < 1 << 20);
    // SAFETY: from this heap, and not used any more.
    unsafe { heap.deallocate(block, layout) };
    heap.check().unwrap();
}

#[test]
fn a_profile_is_started_handed_out_and_taken_back() {
    let heap = Heap::new(Config::default()).unwrap();
    let (purpose, memory) = (heap.declare("a").unwrap(), Process::own());
    let page = open(&heap, &memory).unwrap();
    let order = |what| {
        let order = question();
        page.order_profile(&memory, what, order).unwrap();
        assert_eq!(page.handed(&memory, order).unwrap(), None);
        // Any slow path does it.
        let block = purpose.allocate(Layout::from_size_align(100_000, 8).unwrap()).unwrap();
        (block, page.handed(&memory, order).unwrap().unwrap())
    };
    let (first, nothing) = order(ProfileOrder::HandOut);
    assert_eq!(nothing, Handed::default(), "nothing was ever sampled");
    let (second, started) = order(ProfileOrder::Start(Bytes(64)));
    assert_eq!(started, Handed { mean: 64, ..nothing });
    let (third, handed) = order(ProfileOrder::HandOut);
    let mut profile = vec![0; handed.bytes as usize];
    page.profile(&memory, handed, &mut profile).unwrap();
    // So it would be written into a file, but for the moment at which it is.
    let mut length = 0;
    heap.profile()
        .write(|bytes| {
            length += bytes.len();
            Ok(())
        })
        .unwrap();
    assert!(profile.starts_with(&[0x1f, 0x8b]) && profile.len().abs_diff(length) < 4096);
    let (fourth, back) = order(ProfileOrder::TakeBack);
    assert_eq!(back, started);
    let (fifth, stopped) = order(ProfileOrder::Stop);
    assert_eq!(stopped, nothing);
    // A number that means nothing is some mean, and so large a one that nothing is sampled.
    assert_eq!(ProfileOrder::of_word(u64::MAX).word(), u64::MAX);
    for block in [first, second, third, fourth, fifth] {
        // SAFETY: from this heap, with this layout, and not used any more.
        unsafe { heap.deallocate(block, Layout::from_size_align(100_000, 8).unwrap()) };
    }
    heap.check().unwrap();
    heap.snapshot().check().unwrap();
}

#[test]
fn a_closed_page_is_said_to_be_closed() {
    let heap = Heap::new(Config { page: false, ..Config::default() }).unwrap();
    let memory = Process::own();
    assert_eq!(open(&heap, &memory).err(), Some(ReadError::Closed));
    heap.set_page(true);
    let page = open(&heap, &memory).unwrap();
    heap.set_page(false);
    // Nobody answers any more, and nothing else happens either.
    page.order_release(&memory, question()).unwrap();
    drop(heap.declare("a").unwrap().allocate_span(Bytes::kib(8)).unwrap());
    assert_eq!(page.released(&memory).unwrap().done, 0);
    let none = ReadError::NoPage;
    assert_eq!(Outside::open(&memory, heap.page_address().0 as u64 + 64).err(), Some(none));
    assert!(matches!(Outside::open(&memory, 64).err(), Some(ReadError::Refused { at: 64, .. })));
}

/// A process whose memory was tampered with, from some read on.
struct Tampered<'a> {
    memory: &'a Process,
    /// Bytes that are read instead of what is there: the address, and the bytes.
    patches: Vec<(u64, Vec<u8>)>,
}

impl Memory for Tampered<'_> {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), i32> {
        self.memory.read(at, into)?;
        for (from, bytes) in &self.patches {
            for (i, byte) in bytes.iter().enumerate() {
                if let Some(place) = (from + i as u64).checked_sub(at).and_then(|n| into.get_mut(n as usize))
                {
                    *place = *byte;
                }
            }
        }
        Ok(())
    }

    fn write(&self, _: u64, _: u64) -> Result<(), i32> {
        Err(1)
    }
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    let (heap, memory) = (Heap::new(Config::default()).unwrap(), Process::own());
    let at = heap.page_address().0 as u64;
    let with = |word: &str, bytes: &[u8]| {
        let patches = vec![(at + offset_of_word(word) as u64, bytes.to_vec())];
        open(&heap, &Tampered { memory: &memory, patches }).err().unwrap().to_string()
    };
    for other in [VERSION - 1, VERSION + 1] {
        let text = with("version", &other.to_ne_bytes());
        assert_eq!(
            text,
            format!("its statistics page has version {other}, and this program reads version {VERSION}")
        );
    }
    let text = with("shape.purposes", &7u32.to_ne_bytes());
    assert!(text.ends_with("shape.purposes is 7 there and 205 here"), "{text}");
    assert_eq!(with("magic", b"spanheap-figures"), "there is no statistics page");
    assert_eq!(with("at", &[1; 8]), "there is no statistics page");
    assert!(with("shape.row", &[0; 4]).contains("makes no sense"));
    assert!(with("range.kind", &[9; 8]).contains("the kind of a range"));
}

/// Everything that is shown of a snapshot, so that no figure is left out.
fn show(snapshot: &Snapshot) {
    let mut text = String::new();
    snapshot.write_json(&mut text, "x", 1).unwrap();
    snapshot.write_table(&mut text).unwrap();
    let _ = (snapshot.blocks(ClassEvent::Allocated), snapshot.small_block_bytes(), snapshot.total());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a process's memory, reading it ends, and what comes of it can be shown.
    #[test]
    fn nonsense_is_told_and_never_a_panic(
        patches in proptest::collection::vec((0usize..8192, proptest::collection::vec(any::<u8>(), 1..16)), 1..4),
        words in proptest::collection::vec((0usize..LAYOUT.len(), prop_oneof![Just(0u64), Just(u64::MAX), any::<u64>()]), 0..3),
        rows in proptest::collection::vec((0usize..640, any::<u8>()), 0..4),
    ) {
        thread_local!(static HEAP: Heap = {
            let heap = Heap::new(Config::default()).unwrap();
            drop(heap.declare("a").unwrap().allocate_span(Bytes::kib(8)).unwrap());
            heap
        });
        HEAP.with(|heap| {
            let (memory, mut snapshot) = (Process::own(), Box::new(Snapshot::zero()));
            let at = heap.page_address().0 as u64;
            let mut all = Vec::new();
            // The first words lead to `NoPage`, which others test.
            all.extend(patches.iter().map(|(place, bytes)| (at + 40 + *place as u64, bytes.clone())));
            all.extend(words.iter().filter(|(word, _)| LAYOUT[*word].offset >= 32).map(|(word, value)| {
                let word = LAYOUT[*word];
                (at + word.offset as u64, value.to_ne_bytes()[..word.bytes.min(8)].to_vec())
            }));
            let mut place = [0; 8];
            memory.read(at + offset_of_word("rows") as u64, &mut place).unwrap();
            all.extend(rows.iter().map(|(n, byte)| (u64::from_ne_bytes(place) + *n as u64, vec![*byte])));
            let tampered = Tampered { memory: &memory, patches: all };
            if let Ok(mut page) = open(heap, &tampered) {
                let rounds = Cell::new(0);
                let read = page.read(&tampered, &mut snapshot, 1, || { rounds.set(rounds.get() + 1); rounds.get() < 3 });
                if read.is_ok() {
                    show(&snapshot);
                }
                if page.answer(&tampered, &mut snapshot, 1, 0) == Ok(true) {
                    show(&snapshot);
                }
                let _ = (page.released(&tampered), page.next(), page.ranges().len());
            }
        });
    }
}

/// The beacon is where a reader looks for it: in the data of this program's file.
#[test]
fn the_beacon_leads_to_every_heap() {
    let heaps: Vec<Heap> = (0..3).map(|_| Heap::new(Config::default()).unwrap()).collect();
    let memory = Process::own();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw-p ") && line.contains('/')) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (to - from) as usize];
        if memory.read(from, &mut bytes).is_err() {
            continue;
        }
        let marks = bytes.chunks(BEACON_ALIGN).filter(|chunk| chunk.len() >= BEACON_BYTES);
        found.extend(marks.filter_map(outside::beacon));
    }
    let [[process, first]] = found[..] else { panic!("{} beacons", found.len()) };
    assert_eq!(process, None, "nobody made the process heap here");
    let (mut at, mut seen) = (first.map(|at| at.0 as u64), Vec::new());
    while let Some(address) = at {
        seen.push(address);
        // Heaps of other tests may go while we look.
        at = Outside::open(&memory, address).map(Box::new).ok().and_then(|page| page.next());
    }
    for heap in &heaps {
        assert!(seen.contains(&(heap.page_address().0 as u64)), "{seen:x?}");
    }
}

const DOC: &str = include_str!("../docs/statistics-page.md");

/// The rows of the table under a heading: name, place, bytes.
fn documented(heading: &str) -> Vec<(String, usize, usize)> {
    let section = DOC.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`').to_string(), cells[1].parse().unwrap(), cells[2].parse().unwrap())
    })
    .collect()
}

#[test]
fn the_layout_is_the_documented_one() {
    for (heading, layout) in [("The page", LAYOUT), ("A purpose's row", ROW_LAYOUT)] {
        let wanted: Vec<_> =
            layout.iter().map(|word| (word.name.to_string(), word.offset, word.bytes)).collect();
        assert_eq!(documented(heading), wanted, "{heading}");
    }
    assert!(DOC.contains(&format!("version **{VERSION}**")));
}
