//! The room as a whole: random work is booked and read, every identity is shown to hold then and to be able to
//! fail, and what is printed is read back.

use super::check::Subject;
use super::ledger::{OfPurpose, account_figure, class_figure, object_figure, purpose_figure};
use super::memstats::FIELDS;
use super::model::{COUNT, World, full};
use super::names::{self, METRICS};
use super::*;
use crate::base::class::CLASSES;
use crate::base::purpose::{BLOCKS, MAX_NAME, OBJECTS, STACKS, WORK_BUFFERS};
use crate::base::{Bytes, PAGE_SIZE, Pages, PurposeId, PurposeName};
use proptest::prelude::*;
use std::collections::BTreeMap;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_booked_balances(
        steps in proptest::collection::vec((0u8..12, 0usize..4, 0usize..1000, 1usize..20), 1..300)
    ) {
        let mut world = World::new();
        for (at, &step) in steps.iter().enumerate() {
            world.step(step);
            if at % 16 == 0 {
                prop_assert_eq!(world.snapshot().check(), Ok(()));
            }
        }
        let snapshot = world.snapshot();
        prop_assert_eq!(snapshot.check(), Ok(()));
        for account in snapshot.accounts() {
            prop_assert_eq!(snapshot.balance(account), world.balance(account), "{:?}", account);
        }
        for of in snapshot.purposes() {
            let spans = world.spans.iter().filter(|span| span.0 == of.id);
            prop_assert_eq!(of.spans, spans.count() as i64);
        }
        for (class, held) in snapshot.classes().zip(world.held) {
            prop_assert_eq!([class.allocated, class.freed], held);
        }
        for (class, held) in snapshot.classes_of(Counted::Objects).zip(world.objects) {
            prop_assert_eq!([class.allocated, class.freed], held);
        }
        let words = snapshot.mem_stats();
        prop_assert_eq!([words.total_alloc, words.total_alloc - words.heap_alloc], world.object_bytes);
    }
}

#[test]
fn the_full_snapshot_is_full() {
    let snapshot = full();
    assert_eq!(snapshot.check(), Ok(()));
    assert!(snapshot.accounts().all(|account| snapshot.balance(account) != 0));
    assert!(snapshot.classes().all(|class| class.allocated > 0 && class.freed > 0));
    assert!(snapshot.classes_of(Counted::Objects).all(|class| class.allocated > 0 && class.freed > 0));
    let words = snapshot.mem_stats();
    let zero: Vec<&str> = FIELDS.iter().filter(|f| f.of(&words) == 0).map(|f| f.name).collect();
    assert_eq!(zero, ["NextGC"], "this alone is always zero");
}

#[test]
fn derived_figures_add_up() {
    let s = full();
    assert_eq!(s.committed(), s.free() + s.in_spans() + s.metadata());
    assert_eq!(s.total(), s.committed() + s.balance(Account::Released));
    assert_eq!(s.idle(), s.mem_stats().heap_idle);
    assert_eq!(s.expected_resident(), Some(s.committed() - 3 * PAGE_SIZE as i64));
    let declared: i64 = s.purposes().filter(|p| !p.id.is_built_in() || p.id == BLOCKS).map(|p| p.inuse).sum();
    let own = [MetadataKind::Stacks, MetadataKind::Permanent].map(|kind| s.balance(Account::Metadata(kind)));
    assert_eq!(s.mem_stats().other_sys, declared + own.iter().sum::<i64>(), "manual memory is not heap");
    assert_eq!(s.mem_stats().heap_inuse, s.purpose(OBJECTS).inuse);
    assert_eq!(s.mem_stats().stack_inuse, s.purpose(STACKS).inuse);
}

/// Breaks the books in one way, and tells what the check says then.
fn broken(breaking: impl FnOnce(&mut Snapshot)) -> (Identity, Subject) {
    let mut snapshot = full();
    breaking(&mut snapshot);
    let imbalance = snapshot.check().expect_err("the check saw nothing");
    (imbalance.identity, imbalance.subject)
}

fn figure(snapshot: &mut Snapshot, id: PurposeId, of: OfPurpose) -> &mut i64 {
    &mut snapshot.figures.0[purpose_figure(id, of)]
}

#[test]
fn every_identity_of_what_is_booked_can_fail() {
    use Identity::*;
    let of_work_buffers = Subject::Purpose(PurposeName::built_in(WORK_BUFFERS));
    let free = account_figure(Account::Free);
    assert_eq!(broken(|s| s.figures.0[free] += 1), (ZeroSum, Subject::Books));

    let (identity, subject) = broken(|s| {
        let all = s.balance(Account::Free) + 1;
        s.figures.0[free] -= all;
        s.figures.0[account_figure(Account::Cached)] += all;
    });
    assert_eq!((identity, subject.to_string()), (NoDebt, "account free".into()));

    let more = |of| broken(move |s| *figure(s, WORK_BUFFERS, of) += PAGE_SIZE as i64);
    assert_eq!(more(OfPurpose::Allocated), (InUse, of_work_buffers));
    assert_eq!(more(OfPurpose::Freed), (InUse, of_work_buffers));
    assert_eq!(more(OfPurpose::SpansAllocated), (PagesForSpans, of_work_buffers));
    assert_eq!(more(OfPurpose::SpansFreed), (SpansHaveBytes, of_work_buffers));

    let never_freed = broken(|s| {
        let below = *figure(s, WORK_BUFFERS, OfPurpose::Freed) + 1;
        *figure(s, WORK_BUFFERS, OfPurpose::Freed) -= below;
        *figure(s, WORK_BUFFERS, OfPurpose::Allocated) -= below;
    });
    assert_eq!(never_freed, (PurposeEvents, of_work_buffers));

    let low_peak = broken(|s| {
        let inuse = s.purpose(WORK_BUFFERS).inuse as usize;
        s.purposes[WORK_BUFFERS.index()].peak = Bytes(inuse - 1);
    });
    assert_eq!(low_peak, (Peak, of_work_buffers));

    let stranger = PurposeId(COUNT as u8);
    let of_stranger = broken(|s| *figure(s, stranger, OfPurpose::Freed) += 1);
    assert_eq!(of_stranger, (NoStrangers, Subject::Stranger(stranger)));

    let freed = |row, times| broken(move |s| s.figures.0[class_figure(row, ClassEvent::Freed)] += times);
    assert_eq!(freed(2, 1 << 40), (ClassEvents, Subject::Class(Some(48))));
    assert_eq!(freed(CLASSES, -(1 << 40)), (ClassEvents, Subject::Class(None)));
    let swept = |row, times| broken(move |s| s.figures.0[object_figure(row, ClassEvent::Freed)] += times);
    assert_eq!(swept(2, 1 << 40), (ClassEvents, Subject::ObjectClass(Some(48))));
    assert_eq!(swept(CLASSES, -(1 << 40)), (ClassEvents, Subject::ObjectClass(None)));
}

#[test]
fn resident_sums_can_fail() {
    for (breaking, subject) in [
        ((|r| r.heap += Bytes(1)) as fn(&mut Resident), "heap"),
        (|r| r.metadata += Bytes(1), "metadata"),
        (|r| r.by_account[Account::Free.index()] += Bytes(1), "heap"),
    ] {
        let found = broken(|s| breaking(s.resident.as_mut().unwrap()));
        assert_eq!(found, (Identity::ResidentSums, Subject::Word(subject)));
    }
}

#[test]
fn every_identity_of_gos_words_can_fail() {
    use Identity::*;
    type Break = fn(&mut MemStats);
    let cases: [(Break, Identity); 14] = [
        (|w| w.sys += 1, SysByWords),
        (|w| w.buck_hash_sys += 1, SysByWords),
        (|w| (w.sys, w.gc_sys) = (w.sys + 1, w.gc_sys + 1), SysByAccounts),
        (|w| (w.sys, w.heap_sys) = (w.sys, w.heap_sys + 1), SysByWords),
        (|w| w.heap_inuse += 1, HeapSys),
        (|w| w.heap_idle += 1, HeapSys),
        (|w| w.heap_released = w.heap_idle + 1, HeapReleased),
        (|w| w.alloc += 1, HeapAlloc),
        (|w| (w.alloc, w.heap_alloc) = (w.heap_inuse + 1, w.heap_inuse + 1), HeapAlloc),
        (|w| w.total_alloc = w.heap_alloc - 1, HeapAlloc),
        (|w| w.mallocs += 1, HeapObjects),
        (|w| w.stack_inuse += 1, InuseOfSys),
        (|w| w.mspan_inuse += 1, InuseOfSys),
        (|w| w.mcache_inuse += 1, InuseOfSys),
    ];
    let snapshot = full();
    for (at, (breaking, identity)) in cases.into_iter().enumerate() {
        let mut words = snapshot.mem_stats();
        assert_eq!(words.check(snapshot.total()), Ok(()));
        breaking(&mut words);
        let found = words.check(snapshot.total()).expect_err("the check saw nothing");
        assert_eq!(found.identity, identity, "case {at}: {found}");
    }
}

#[test]
fn every_identity_of_the_classes_can_fail() {
    let snapshot = full();
    let words = snapshot.mem_stats();
    let each: [fn(&mut MemoryClasses) -> &mut i64; 10] = [
        |c| &mut c.heap_objects,
        |c| &mut c.heap_unused,
        |c| &mut c.heap_free,
        |c| &mut c.heap_released,
        |c| &mut c.heap_stacks,
        |c| &mut c.mspan_inuse,
        |c| &mut c.mcache_inuse,
        |c| &mut c.metadata_other,
        |c| &mut c.profiling,
        |c| &mut c.other,
    ];
    for (at, class) in each.into_iter().enumerate() {
        let mut classes = snapshot.memory_classes();
        assert_eq!(classes.check(&words), Ok(()));
        *class(&mut classes) += 1;
        assert_eq!(classes.check(&words).unwrap_err().identity, Identity::ClassesTotal);
        classes.total += 1;
        assert_eq!(classes.check(&words).unwrap_err().identity, Identity::SameWords, "total is not Sys");
        classes.total -= 1;
        *each[(at + 1) % each.len()](&mut classes) -= 1;
        assert_eq!(
            classes.check(&words).unwrap_err().identity,
            Identity::SameWords,
            "a byte in another class"
        );
    }
}

#[test]
fn an_imbalance_names_the_identity_and_both_sides() {
    let mut snapshot = full();
    *figure(&mut snapshot, BLOCKS, OfPurpose::Allocated) += PAGE_SIZE as i64;
    let inuse = snapshot.purpose(BLOCKS).inuse;
    assert_eq!(
        snapshot.check().unwrap_err().to_string(),
        format!(
            "identity 3 fails for purpose blocks: {inuse} against {} \
             (For every purpose: bytes in use = bytes allocated − bytes freed)",
            inuse + PAGE_SIZE as i64
        )
    );
}

/// All metrics of a snapshot.
fn metrics(snapshot: &Snapshot) -> BTreeMap<String, i64> {
    let mut all = BTreeMap::new();
    names::visit(snapshot, |sample| {
        let twice = all.insert(sample.name.to_owned(), sample.value);
        assert_eq!(twice, None, "{} is given twice", sample.name);
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn metrics_add_up() {
    let snapshot = full();
    let all = metrics(&snapshot);
    let sum =
        |prefix: &str| all.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, v)| v).sum::<i64>();
    let total = all["/memory/classes/total:bytes"];
    assert_eq!(sum("/memory/classes/"), 2 * total);
    assert_eq!(sum("/memory/accounts/"), 0);
    assert_eq!(sum("/memory/accounts/span/"), all["/memory/spans:bytes"]);
    assert_eq!(sum("/blocks/allocs-by-size/"), all["/blocks/allocs:blocks"]);
    assert_eq!(sum("/blocks/frees-by-size/"), all["/blocks/frees:blocks"]);
    assert_eq!(sum("/gc/heap/allocs-by-size/"), all["/gc/heap/allocs:objects"]);
    assert_eq!(sum("/gc/heap/frees-by-size/"), all["/gc/heap/frees:objects"]);
    let words = snapshot.mem_stats();
    assert_eq!(all["/gc/heap/allocs:bytes"], words.total_alloc);
    assert_eq!(all["/gc/heap/allocs:bytes"] - all["/gc/heap/frees:bytes"], words.heap_alloc);
    assert_eq!(all["/gc/heap/allocs:objects"] + all["/gc/heap/tiny/allocs:objects"], words.mallocs);
    assert_eq!(all["/gc/heap/objects:objects"], words.heap_objects);
    let resident = all["/memory/resident/heap:bytes"] + all["/memory/resident/metadata:bytes"];
    assert_eq!(sum("/memory/resident/accounts/"), resident);
    assert_eq!(all["/memory/purpose/net/buffers/inuse:bytes"], snapshot.purpose(PurposeId(6)).inuse);
    assert_eq!(all["/memory/purpose/blocks/soft-limit-events:events"], 3);
    assert_eq!(all["/memory/purpose/blocks/limit:bytes"], 5 << 20);
    assert!(!all.contains_key("/memory/purpose/objects/limit:bytes"), "objects have no limit");
    assert!(all.contains_key("/blocks/allocs-by-size/large:blocks"));
}

#[test]
fn names_have_go_shape_and_fit() {
    for metric in METRICS {
        assert!(metric.name.starts_with('/') && !metric.unit().is_empty(), "{}", metric.name);
        assert!(metric.name.len() - "NAME".len() + MAX_NAME + "span/".len() <= names::MAX_METRIC_NAME);
    }
    let mut snapshot = full();
    snapshot.purposes[COUNT - 1].name = PurposeName::new(&"n".repeat(MAX_NAME)).unwrap();
    let long = metrics(&snapshot).into_keys().filter(|name| name.contains("nnnn")).count();
    assert!(long >= 7, "{long}");
}

#[test]
fn labels_are_cut_out_of_names() {
    let mut labels = Vec::new();
    names::visit(&full(), |sample| {
        assert_eq!(
            sample.metric.name.replace("NAME", sample.label).replace("SIZE", sample.label),
            sample.name
        );
        labels.push(sample.label.to_owned());
        Ok(())
    })
    .unwrap();
    for label in ["", "net/buffers", "span/net/buffers", "metadata/span-map", "16", "large"] {
        assert!(labels.iter().any(|l| l == label), "{label:?}");
    }
}

#[test]
fn json_says_what_the_snapshot_says() {
    let snapshot = full();
    let command = "a \"b\" \\ c\n\t\u{1}é";
    let mut text = String::new();
    snapshot.write_json(&mut text, command, 42).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).expect(&text);
    let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    // The reader sorts them or not, by who else is built with it.
    keys.sort_unstable();
    let wanted = [
        "accounts", "check", "classes", "command", "go", "metrics", "pid", "purposes", "resident", "version",
    ];
    assert_eq!(keys, wanted);
    assert_eq!((&json["version"], &json["pid"], &json["check"]), (&1.into(), &42.into(), &"ok".into()));
    assert_eq!(json["command"], command);
    assert_eq!(json["accounts"]["system"], snapshot.balance(Account::System));
    assert_eq!(json["accounts"]["span/net/buffers"], snapshot.purpose(PurposeId(6)).inuse);
    assert_eq!(json["accounts"].as_object().unwrap().len(), snapshot.accounts().count());
    let of = snapshot.purpose(BLOCKS);
    assert_eq!(
        json["purposes"]["blocks"],
        serde_json::json!({
            "inuse": of.inuse, "spans": of.spans, "peak": of.book.peak.0, "allocated": of.allocated,
            "freed": of.freed, "reserved": 1 << 20, "soft_limit": 4 << 20, "limit": 5 << 20, "refused": 17
        })
    );
    assert!(json["purposes"]["stacks"]["limit"].is_null());
    let classes = json["classes"].as_array().unwrap();
    assert_eq!(classes.len(), CLASSES + 1);
    assert!(classes[CLASSES]["size"].is_null());
    assert_eq!(json["go"].as_object().unwrap().len(), FIELDS.len());
    assert_eq!(json["go"]["Sys"], snapshot.total());
    assert_eq!(json["metrics"], serde_json::to_value(metrics(&snapshot)).unwrap());
    assert_eq!(json["resident"]["expected"], snapshot.expected_resident().unwrap());
    assert_eq!(json["resident"]["process"], 1 << 30);
    assert_eq!(json["resident"]["by_account"]["free"], snapshot.balance(Account::Free));
    assert!(json["resident"]["by_account"].get("reserved").is_none());
}

#[test]
fn json_of_nothing_and_of_broken_books() {
    let mut text = String::new();
    Snapshot::zero().write_json(&mut text, "", 1).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).expect(&text);
    assert!(json["resident"].is_null() && json["classes"].as_array().unwrap().is_empty());

    let mut snapshot = full();
    snapshot.figures.0[0] += 5;
    text.clear();
    snapshot.write_json(&mut text, "", 1).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).expect(&text);
    assert!(json["check"].as_str().unwrap().starts_with("identity 1 fails for the books: 5 against 0"));
}

#[test]
fn the_table_has_straight_columns() {
    let mut table = String::new();
    full().write_table(&mut table).unwrap();
    assert!(table.ends_with("books   balanced\n"));
    let limit = table.lines().find(|line| line.starts_with("  blocks")).unwrap();
    assert!(limit.ends_with("5 MiB       17"), "{limit}");
    let width = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap().len();
    assert_eq!(width("  metadata/span-records"), width("account"));
    assert_eq!(width("  blocks"), width("purpose"));
    assert_eq!(width("      48 B"), width("blocks of"));
}

#[test]
fn the_xml_is_well_formed() {
    let mut xml = String::new();
    full().write_xml(&mut xml).unwrap();
    let mut open = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        assert_eq!(after.trim(), "", "text between tags");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty() && xml.contains("<malloc version=\"spanheap-1\">"));
}

/// Threads take and free spans of one purpose, the pages wandering between them; every snapshot balances and no
/// peak is behind, because the registry's count is raised before and lowered after what the books say.
#[test]
fn snapshots_balance_while_others_work() {
    use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    const TURNS: usize = 300;
    // Makes the gaps wide in which a snapshot could see too little.
    let gap = std::thread::yield_now;
    let (books, shards) = (Books::new(), [(); 3].map(|()| BookShard::new()));
    // SAFETY: neither moves, and the threads below end before they are dropped.
    unsafe {
        books.open();
        shards.iter().for_each(|shard| books.link(shard));
    }
    books.shared().ledger().transfer(Account::System, Account::Free, Bytes::gib(64));
    let (count, peak, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let span = Account::Span(BLOCKS);
    let work = |shard: &BookShard| {
        let ledger = books.ledger(shard);
        for turn in 1..=TURNS {
            // Ever larger ones, so that the peak has to rise all the time.
            let bytes = Pages(turn).bytes();
            peak.fetch_max(count.fetch_add(bytes.0, SeqCst) + bytes.0, SeqCst);
            gap();
            ledger.post(|entry| {
                entry.transfer(Account::Free, span, bytes);
                entry.span_allocated(BLOCKS, bytes);
                entry.class(0, ClassEvent::Allocated, 2);
            });
            gap();
            ledger.post(|entry| {
                entry.transfer(span, Account::Free, bytes);
                entry.span_freed(BLOCKS, bytes);
                entry.class(0, ClassEvent::Freed, 2);
            });
            gap();
            count.fetch_sub(bytes.0, SeqCst);
        }
    };
    let read = || {
        let mut snapshot = Box::new(Snapshot::zero());
        snapshot.read(&books, |id| {
            let peak = Bytes(if id == BLOCKS { peak.load(SeqCst) } else { 0 });
            id.is_built_in().then(|| PurposeBook { peak, ..PurposeBook::new(PurposeName::built_in(id)) })
        });
        assert_eq!(snapshot.check(), Ok(()));
        snapshot.purpose(BLOCKS)
    };
    let last = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(SeqCst) {
                read();
            }
            read()
        });
        let workers = shards.each_ref().map(|shard| scope.spawn(|| work(shard)));
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, SeqCst);
        reader.join().unwrap()
    });
    let pages = shards.len() * TURNS * (TURNS + 1) / 2;
    assert_eq!((last.inuse, last.spans, last.freed), (0, 0, (pages * PAGE_SIZE) as i64));
}
