//! The room as a whole: refusal of every single call, and what holds on the real system.
//!
//! # Safety
//! Everything is made, used and destroyed inside one test.

use super::testing::{balance, books, fixed_balances, shard, simulated};
use super::*;
use crate::base::{Bytes, CHUNK_SIZE, PageId, Pages};
use crate::stats::{Account, Books, Ledger, MetadataKind};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::process::Command;

const CHUNK: Bytes = Bytes(CHUNK_SIZE);

/// Something of everything, as a heap would have it.
struct Ground {
    region: Region,
    table: Table<u32>,
    pool: Pool<[u64; 100]>,
    permanent: Permanent,
}

impl Ground {
    /// Lays the ground, or leaves nothing behind.
    fn lay(system: System, ledger: Ledger<'_>) -> Result<Ground, SystemError> {
        let region = Region::reserve(system, Bytes::mib(64), Bytes::mib(64), ledger).map_err(|e| e.error)?;
        let table = Table::reserve(system, MetadataKind::SpanMap, 1 << 20, c"spanheap: map", ledger)
            // SAFETY: nobody else has seen the region.
            .inspect_err(|_| unsafe { region.destroy() })?;
        let pool = Pool::reserve(system, MetadataKind::Mutators, 1000, c"spanheap: pool", ledger)
            // SAFETY: nobody else has seen these.
            .inspect_err(|_| unsafe {
                region.destroy();
                table.destroy();
            })?;
        let kind = MetadataKind::Permanent;
        let permanent = Permanent::reserve(system, kind, Bytes::mib(1), c"spanheap: permanent", ledger)
            // SAFETY: nobody else has seen these.
            .inspect_err(|_| unsafe {
                region.destroy();
                table.destroy();
                pool.destroy();
            })?;
        Ok(Ground { region, table, pool, permanent })
    }

    /// Work with some forty calls in it. The steps that were refused are counted, and done again.
    fn work(&self, ledger: Ledger<'_>) -> usize {
        let mut refused = 0;
        for round in 0..4 {
            let mut again = |step: &mut dyn FnMut() -> bool| {
                if !step() {
                    refused += 1;
                    assert!(step(), "refused twice");
                }
            };
            again(&mut || self.region.grow(CHUNK, ledger).is_ok());
            let map = round << 18..(round << 18) + 20_000;
            again(&mut || self.table.ensure(map.clone(), ledger).is_ok());
            (0..30).for_each(|_| again(&mut || self.pool.take(ledger).is_ok()));
            again(&mut || self.permanent.allocate(Bytes::kib(40), 64, ledger).is_ok());
            let page = PageId(512 * round + 3);
            // SAFETY: nobody else has these pages.
            again(&mut || unsafe { self.region.ready(page, Pages(7)) }.is_ok());
            // SAFETY: as above.
            again(&mut || unsafe { self.region.release(page, Pages(5)) }.is_ok());
        }
        refused
    }

    fn destroy(&self) {
        // SAFETY: the test is done with it.
        unsafe {
            self.region.destroy();
            self.table.destroy();
            self.pool.destroy();
            self.permanent.destroy();
        }
    }
}

/// What the books must say about a ground.
fn assert_booked(books: &Books, ground: &Ground) {
    for (kind, committed) in [
        (MetadataKind::SpanMap, ground.table.committed_bytes()),
        (MetadataKind::Mutators, ground.pool.committed_bytes()),
        (MetadataKind::Permanent, ground.permanent.committed_bytes()),
    ] {
        assert_eq!(balance(books, Account::Metadata(kind)), committed.0 as i64, "{kind:?}");
    }
    assert_eq!(balance(books, Account::Released), ground.region.committed().0 as i64);
}

#[test]
fn every_single_call_can_be_refused() {
    let (system_calls, outcome) = {
        let ((simulated, system), books) = (simulated(), books());
        let ledger = books.ledger(shard(&books));
        let ground = Ground::lay(system, ledger).unwrap();
        assert_eq!(ground.work(ledger), 0);
        ground.destroy();
        (simulated.calls(), fixed_balances(&books))
    };
    assert!(system_calls > 40, "{system_calls} calls");
    for nth in 0..system_calls {
        let ((simulated, system), books) = (simulated(), books());
        let ledger = books.ledger(shard(&books));
        simulated.refuse(nth, 1);
        let (ground, refused) = match Ground::lay(system, ledger) {
            Ok(ground) => {
                let refused = ground.work(ledger);
                assert_booked(&books, &ground);
                assert_eq!(fixed_balances(&books), outcome, "call {nth} left a trace in the books");
                (Some(ground), refused)
            }
            Err(error) => {
                assert_eq!(error, SystemError::NO_MEMORY);
                (None, 1)
            }
        };
        assert_eq!((refused, simulated.refusals()), (1, 1), "call {nth}");
        if let Some(ground) = ground {
            assert_eq!(ground.pool.check(), Ok(()));
            ground.destroy();
        }
        assert_eq!((simulated.reserved_bytes(), simulated.ready_bytes()), (Bytes::ZERO, Bytes::ZERO));
    }
}

#[test]
fn sizes_are_what_the_kernel_says() {
    assert_eq!(System::Linux.page_size(), Bytes(rustix::param::page_size()));
    let told = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok();
    let told = told.and_then(|text| text.trim().parse().ok()).map(Bytes).filter(|&size| size <= CHUNK);
    assert_eq!(System::Linux.huge_page_size(), told);
}

#[test]
fn time_goes_on_and_chance_differs() {
    let (before, then) = (System::Linux.now(), std::time::Instant::now());
    std::thread::sleep(core::time::Duration::from_millis(2));
    let passed = System::Linux.now().0 - before.0;
    assert!((2_000_000..=then.elapsed().as_nanos() as u64 + 1_000_000).contains(&passed), "{passed} ns");
    assert_ne!(System::Linux.random(), System::Linux.random());
}

#[test]
fn reservations_are_aligned_and_fault_free_when_committed() {
    for shift in [12, 16, 22, 25] {
        let (size, align) = (Bytes::mib(1), Bytes(1 << shift));
        let at = System::Linux.reserve(size, align).unwrap();
        assert!(at.addr().is_multiple_of(align.0));
        // SAFETY: the test's own reservation.
        unsafe {
            System::Linux.commit(at, size).unwrap();
            at.write(1);
            at.add(size.0 - 1).write(1);
            System::Linux.unmap(at, size);
        }
    }
}

/// However often a heap grows, its pages are one mapping, and it has a name where the kernel has names.
#[test]
fn growth_is_one_named_mapping() {
    let books = books();
    let ledger = books.ledger(shard(&books));
    let region = Region::reserve(System::Linux, Bytes::gib(1), CHUNK, ledger).unwrap();
    (0..40).for_each(|_| assert!(region.grow(CHUNK, ledger).is_ok()));
    let (from, to) = (region.base().0, region.base().0 + region.committed().0);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let inside = |line: &&str| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = usize::from_str_radix(rest.split(' ').next().unwrap(), 16).unwrap();
        usize::from_str_radix(start, 16).unwrap() < to && end > from
    };
    let lines: Vec<_> = maps.lines().filter(inside).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let page = core::ptr::without_provenance(System::Linux.page_size().0);
    // SAFETY: a slice of length zero at an aligned address that is not null; the kernel refuses others.
    let nothing = unsafe { core::slice::from_raw_parts(page, 0) };
    let kernel_has_names = rustix::process::set_virtual_memory_region_name(nothing, Some(c"x")).is_ok();
    assert_eq!(lines[0].ends_with("[anon:spanheap: pages]"), kernel_has_names, "{lines:?}");
    // SAFETY: the test's own, and done with.
    unsafe { region.destroy() };
}

/// Set in a process that runs one test alone.
const ALONE: &str = "SPANHEAP_TEST_ALONE";

/// Runs one of the tests below in a process of its own, since limits hold for a whole process.
fn alone(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(ALONE, "")
        .args(["--exact", &format!("os::tests::{test}"), "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Does something under a limit. Judge what came of it afterwards: a panic needs memory, too.
fn under<R>(what: Resource, bytes: Bytes, act: impl FnOnce() -> R) -> R {
    assert!(std::env::var_os(ALONE).is_some(), "this would limit all the other tests, too");
    let limited = Rlimit { current: Some(bytes.0 as u64), maximum: None };
    setrlimit(what, limited).unwrap();
    let result = act();
    setrlimit(what, Rlimit { current: None, maximum: None }).unwrap();
    result
}

#[test]
fn address_space_can_be_limited() {
    alone("under_a_limit_of_address_space");
}

#[test]
#[ignore = "run in a process of its own by address_space_can_be_limited"]
fn under_a_limit_of_address_space() {
    let books = books();
    let ledger = books.ledger(shard(&books));
    let reserve = |least| Region::reserve(System::Linux, DEFAULT_REGION, least, ledger);
    let (region, grown, rest) = under(Resource::As, Bytes::gib(3), || {
        let region = reserve(LEAST_REGION);
        let grown = region.as_ref().is_ok_and(|region| region.grow(Bytes::mib(64), ledger).is_ok());
        (region, grown, reserve(Bytes::gib(4)))
    });
    let region = region.unwrap();
    assert!((Bytes::gib(1)..=Bytes::gib(2)).contains(&region.size()), "{:?}", region.size());
    assert!(grown);
    let error = rest.map(|_| ()).unwrap_err();
    assert_eq!(error.error, SystemError::NO_MEMORY);
    assert_eq!((error.wanted, error.least), (DEFAULT_REGION, Bytes::gib(4)));
    assert_eq!(balance(&books, Account::System), -(region.size().0 as i64));
}

#[test]
fn memory_can_be_limited() {
    alone("under_a_limit_of_memory");
}

#[test]
#[ignore = "run in a process of its own by memory_can_be_limited"]
fn under_a_limit_of_memory() {
    let books = books();
    let ledger = books.ledger(shard(&books));
    let region = Region::reserve(System::Linux, DEFAULT_REGION, LEAST_REGION, ledger).unwrap();
    let kind = MetadataKind::SpanMap;
    let table: Table<u64> = Table::reserve(System::Linux, kind, 1 << 30, c"spanheap: map", ledger).unwrap();
    let before = fixed_balances(&books);
    let (ensured, grown) = under(Resource::Data, Bytes::mib(40), || {
        (table.ensure(0..1 << 28, ledger), region.grow(Bytes::mib(64), ledger))
    });
    assert_eq!(ensured, Err(SystemError::NO_MEMORY));
    assert_eq!(grown, Err(GrowError::System(SystemError::NO_MEMORY)));
    assert_eq!(fixed_balances(&books), before);
    assert_eq!((table.get(1 << 20), region.committed()), (None, Bytes::ZERO));
    region.grow(Bytes::mib(64), ledger).unwrap();
    table.ensure(0..1 << 28, ledger).unwrap();
}
