//! The pacer against recorded cycles of a simulated program, and against its own promises.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A number for each cycle.
type Stream = Box<dyn FnMut() -> f64>;

fn constant(c: f64) -> Stream {
    Box::new(move || c)
}

/// From zero to `height` in `length` steps.
fn ramp(height: f64, length: u32) -> Stream {
    let mut step = 0;
    Box::new(move || {
        let at = height * step as f64 / length as f64;
        step = (step + 1).min(length);
        at
    })
}

/// `height` once, then zero.
fn peak(height: f64) -> Stream {
    let mut left = Some(height);
    Box::new(move || left.take().unwrap_or(0.0))
}

fn wave(height: f64, period: u32) -> Stream {
    let mut step = 0;
    Box::new(move || {
        let at = (step as f64 / period as f64 * 2.0 * std::f64::consts::PI).sin() * height;
        step = (step + 1) % period;
        at
    })
}

/// Recorded random numbers between `-height` and `height`.
fn random(height: f64, seed: u32) -> Stream {
    let records = include_str!("../../../tests/traces/pacer-random.txt");
    let opening = format!("{seed}: ");
    let line = records.lines().find_map(|line| line.strip_prefix(&opening)).unwrap();
    let mut numbers = line.split(' ').map(|number| number.parse::<f64>().unwrap());
    Box::new(move || (numbers.next().unwrap() - 0.5) * 2.0 * height)
}

/// Zero for so many cycles.
fn delayed(cycles: u32, mut stream: Stream) -> Stream {
    let mut left = cycles;
    Box::new(move || match left {
        0 => stream(),
        _ => {
            left -= 1;
            0.0
        }
    })
}

fn sum<const N: usize>(mut streams: [Stream; N]) -> Stream {
    Box::new(move || streams.iter_mut().fold(0.0, |sum, stream| sum + stream()))
}

/// A program: how it allocates and what survives, cycle by cycle.
struct Scenario {
    percent: Option<u32>,
    limit: Option<Bytes>,
    roots: u64,
    cycles: usize,
    /// KiB per millisecond of processor time.
    allocation: Stream,
    /// The same.
    scanning: Stream,
    /// What of the marked heap is there one cycle later.
    growth: Stream,
    scannable: Stream,
    stacks: Stream,
}

const PROCESSORS: usize = 8;

fn steady() -> Scenario {
    Scenario {
        percent: Some(100),
        limit: None,
        roots: Bytes::kib(32).0 as u64,
        cycles: 50,
        allocation: constant(33.0),
        scanning: constant(1024.0),
        growth: sum([constant(2.0), ramp(-1.0, 12)]),
        scannable: constant(1.0),
        stacks: constant(8192.0),
    }
}

/// A heap that is allocated slowly: the growth from `from` to 1 in `cycles` cycles.
fn slow(from: f64, cycles: u32) -> Scenario {
    Scenario {
        allocation: constant(1.0),
        scanning: constant(2048.0),
        growth: sum([constant(from), ramp(1.0 - from, cycles)]),
        scannable: constant(0.01),
        ..steady()
    }
}

/// A heap of up to 512 MiB that grows so fast, with or without a percent.
fn limited(growth: f64, percent: Option<u32>) -> Scenario {
    Scenario {
        percent,
        limit: Some(Bytes::mib(512)),
        growth: sum([constant(growth), ramp(1.0 - growth, 12)]),
        ..steady()
    }
}

fn scenario(name: &str) -> Scenario {
    let step = |from, to, delay, cycles| Scenario {
        allocation: sum([constant(from), delayed(delay, ramp(to, 1))]),
        cycles,
        ..steady()
    };
    let jitter = |base, height, seed, other| Scenario {
        allocation: sum([random(height, seed), constant(base)]),
        growth: sum([constant(2.0), ramp(-1.0, 12), random(0.01, other)]),
        ..steady()
    };
    match name {
        "Steady" => steady(),
        "SteadyBigStacks" => Scenario {
            allocation: constant(132.0),
            stacks: sum([constant(2048.0), ramp(Bytes::mib(128).0 as f64, 8)]),
            ..steady()
        },
        "SteadyBigGlobals" => {
            Scenario { allocation: constant(132.0), roots: Bytes::mib(128).0 as u64, ..steady() }
        }
        "StepAlloc" => step(33.0, 66.0, 50, 100),
        "HeavyStepAlloc" => step(33.0, 330.0, 50, 100),
        "StepScannableFrac" => Scenario {
            allocation: constant(128.0),
            scannable: sum([constant(0.2), delayed(50, peak(0.5))]),
            cycles: 100,
            ..steady()
        },
        "HighGOGC" => Scenario {
            percent: Some(1500),
            allocation: sum([random(7.0, 0x53), constant(165.0)]),
            growth: sum([constant(2.0), ramp(-1.0, 12), random(0.01, 1), delayed(25, peak(14.0))]),
            ..steady()
        },
        "OscAlloc" => Scenario { allocation: sum([wave(13.0, 8), constant(67.0)]), ..steady() },
        "JitterAlloc" => jitter(132.0, 13.0, 0xf, 0xe),
        "HeavyJitterAlloc" => jitter(330.0, 33.0, 0, 0x152),
        "SmallHeapSlowAlloc" => slow(2.0, 3),
        "MediumHeapSlowAlloc" => slow(2.0, 8),
        "LargeHeapSlowAlloc" => slow(4.0, 12),
        "SteadyMemoryLimit" => limited(2.0, Some(100)),
        "SteadyMemoryLimitNoGCPercent" => limited(2.0, None),
        "ExceedMemoryLimit" => limited(3.5, Some(100)),
        "ExceedMemoryLimitNoGCPercent" => limited(3.5, None),
        "MaintainMemoryLimit" => limited(3.0, Some(100)),
        "MaintainMemoryLimitNoGCPercent" => limited(3.0, None),
        _ => panic!("no scenario {name}"),
    }
}

/// What is left to scan: roots first, then stacks, then the heap.
fn scan(left: &mut Work, mut most: u64) -> Work {
    let mut take = |left: &mut u64| {
        let taken = most.min(*left);
        (*left, most) = (*left - taken, most - taken);
        taken
    };
    let roots = take(&mut left.roots);
    let stacks = take(&mut left.stacks);
    Work { roots, stacks, heap: take(&mut left.heap) }
}

/// One cycle's marking, in steps of half a millisecond in which the assist ratio is constant. Its share `u` of the
/// processors follows from that: `ratio · allocation · (1 − u) = scanning · u`.
struct Marking {
    allocation: f64,
    scanning: f64,
    scannable: f64,
    /// Bytes that were allocated.
    allocated: u64,
    cycle: Cycle,
}

impl Marking {
    fn step(&mut self, pacer: &Pacer, left: &mut Work) {
        const PERIOD: u64 = 500_000;
        const RATE: f64 = 1024.0 * PERIOD as f64 / 1e6;
        let ratio = pacer.assist(&self.cycle.progress, &Footprint::default()).work_per_byte;
        let wanted = ratio * self.allocation;
        let u = (wanted / (wanted + self.scanning)).max(BACKGROUND_UTILISATION);
        let n = PROCESSORS as f64;
        let capacity = (self.scanning * RATE * n * u) as u64;
        let (mut elapsed, mut allocated) = (PERIOD, (self.allocation * RATE * n * (1.0 - u)) as u64);
        let done = scan(left, capacity);
        if done.total() < capacity {
            // Marking ends within this step.
            elapsed = (done.total() as f64 * PERIOD as f64 / (self.scanning * RATE * n * u)) as u64;
            let time = elapsed as f64 / PERIOD as f64;
            allocated = (self.allocation * RATE * time * n * (1.0 - u)) as u64;
        }
        let Progress { live, scannable, done: total } = &mut self.cycle.progress;
        *live += allocated;
        *scannable += (allocated as f64 * self.scannable) as u64;
        total.heap += done.heap;
        total.stacks += done.stacks;
        total.roots += done.roots;
        self.allocated += allocated;
        self.cycle.duration += elapsed;
        self.cycle.assist_time += (elapsed as f64 * n * (u - BACKGROUND_UTILISATION)) as u64;
    }
}

/// The cycles of a scenario, as lines of the record.
fn simulate(mut scenario: Scenario) -> Vec<String> {
    let none = Footprint::default();
    let Scenario { percent, limit, roots, .. } = scenario;
    let mut pacer = Pacer::new(Settings { percent, limit, ..Settings::default() });
    let (mut black, mut scannable_before) = (0, 0);
    let mut lines = Vec::new();
    for cycle in 1..=scenario.cycles {
        let scannable = (scenario.scannable)();
        let stacks = (scenario.stacks)() as u64;
        let growth = (scenario.growth)();
        let live = pacer.trigger(&none).trigger.max(pacer.marked());
        let fresh = ((live - pacer.marked()) as f64 * scannable) as u64;
        pacer.start(live, stacks, roots);
        let next = match cycle {
            1 => Bytes::kib(256).0 as u64,
            _ => ((pacer.marked() as i64 - black as i64) as f64 * growth) as u64,
        };
        let mut left = Work { heap: (next as f64 * scannable) as u64, stacks, roots };
        let progress = Progress { live, scannable: scannable_before + fresh, ..Progress::default() };
        let cycle_so_far = Cycle { progress, processors: PROCESSORS, ..Cycle::default() };
        let (allocation, scanning) = ((scenario.allocation)(), (scenario.scanning)());
        let mut marking = Marking { allocation, scanning, scannable, allocated: 0, cycle: cycle_so_far };
        while left.total() > 0 {
            marking.step(&pacer, &mut left);
        }
        let (marked, goal) = (pacer.marked(), pacer.goal(&none));
        let Marking { allocated, cycle: Cycle { progress, .. }, .. } = marking;
        let utilisation = pacer.finish(&Cycle { marked: next + allocated, ..marking.cycle }, &none);
        let peak = progress.live;
        lines.push(format!("{cycle} {:.1} {marked}->{live}->{peak} {goal}", 100.0 * utilisation));
        pacer.commit(next + allocated, false);
        (black, scannable_before) = (allocated, progress.done.heap);
    }
    lines
}

#[test]
fn cycles_are_those_recorded() {
    let mut records: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in include_str!("../../../tests/traces/pacer-cycles.txt").lines() {
        match line.strip_prefix("scenario ") {
            Some(new) => name = new,
            None if !line.starts_with('#') => records.entry(name).or_default().push(line),
            None => {}
        }
    }
    assert_eq!(records.len(), 19);
    for (name, expected) in records {
        let found = simulate(scenario(name));
        assert_eq!(found.len(), expected.len(), "cycles of {name}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found, expected, "in {name}");
        }
    }
}

/// External bytes count like live ones: a heap that keeps as much alive outside collects half as often.
#[test]
fn external_bytes_move_the_goal() {
    let after = |marked| {
        let mut pacer = Pacer::new(Settings::default());
        pacer.start(Bytes::mib(4).0 as u64, 0, 0);
        pacer.finish(&Cycle { marked, ..Cycle::default() }, &Footprint::default());
        pacer.commit(marked, true);
        pacer.goal(&Footprint::default())
    };
    let (objects, external) = (Bytes::mib(10).0 as u64, Bytes::mib(30).0 as u64);
    assert_eq!(after(objects), 2 * objects);
    assert_eq!(after(objects + external), 2 * (objects + external));
}

#[test]
fn it_collects_when_idle_unless_that_is_off() {
    let pacer = Pacer::new(Settings::default());
    assert!(!pacer.is_idle(IDLE_PERIOD - 1) && pacer.is_idle(IDLE_PERIOD));
    let off = Pacer::new(Settings { percent: None, ..Settings::default() });
    assert!(!off.is_idle(u64::MAX));
    assert_eq!(off.trigger(&Footprint::default()).goal, u64::MAX);
}

/// What is in use besides objects leaves less room below the limit, and when it leaves none there is no room at all.
#[test]
fn the_limit_counts_everything() {
    let settings = Settings { percent: None, limit: Some(Bytes::mib(100)), ..Settings::default() };
    let pacer = Pacer::new(settings);
    let goal = |used, free, allocated| {
        let [used, free, allocated] = [used, free, allocated].map(Bytes::mib);
        pacer.goal(&Footprint { used, free, allocated }) >> 20
    };
    assert_eq!(goal(0, 0, 0), 97);
    assert_eq!(goal(60, 20, 40), 97);
    assert_eq!(goal(60, 10, 10), 58, "40 MiB are something else");
    assert_eq!(goal(110, 20, 80), 77, "10 MiB are something else, and 10 too many");
    assert_eq!(goal(200, 0, 0), 0);
}

#[test]
fn assists_pay_their_debt() {
    let assist = Assist { work_per_byte: 2.0, bytes_per_work: 0.5 };
    assert_eq!(assist.work_for(1 << 20), (2 << 20, 1 << 20));
    assert_eq!(assist.work_for(100), (LEAST_ASSIST, LEAST_ASSIST / 2));
    assert_eq!(assist.bytes_for(4096), 2048);
}

#[test]
fn sweeping_is_complete_when_the_next_cycle_starts() {
    let (live, trigger, pages) = (Bytes::mib(40).0 as u64, Bytes::mib(60).0 as u64, Pages(5000));
    let pace = SweepPace::new(trigger, live, pages, Pages(700));
    let (mut now, mut swept) = (live, Pages(700));
    while now < trigger - SWEEP_DISTANCE {
        let owed = pace.owed(now, 8192, swept);
        swept += owed;
        now += 8192;
    }
    assert!(swept >= Pages(5700), "{swept:?}");
    assert_eq!(pace.owed(now, 0, Pages(99_999)), Pages(0));
    assert_eq!(SweepPace::default().owed(now, 1 << 40, Pages(0)), Pages(0), "nothing to sweep");
    // With no room left everything is owed within a page.
    assert!(SweepPace::new(live, live, pages, Pages(0)).owed(live, 8192, Pages(0)) >= pages);
}

#[test]
fn background_workers_get_their_share_and_what_is_idle() {
    let window = |elapsed, background, process| Window { elapsed, background, process };
    assert!(window(1000, 900, 3900).grants(4), "less than a quarter of four");
    assert!(!window(1000, 1000, 4000).grants(4), "everything is in use");
    assert!(window(1000, 2500, 3900).grants(4), "a processor is idle");
    assert!(window(1000, 200, 1000).grants(1) && !window(1000, 250, 1000).grants(1));
    assert_eq!((window(1000, 2500, 3900).idle(4), window(1000, 900, 3900).idle(4)), (1500, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Any figures, torn and absurd ones too: goals and triggers stay in order, ratios are usable.
    #[test]
    fn figures_of_any_kind_are_survived(
        percent in proptest::option::of(prop_oneof![0u32..400, any::<u32>()]),
        limit in proptest::option::of(0usize..1 << 42),
        cycles in proptest::collection::vec(any::<[u64; 9]>(), 1..8),
        swept in any::<bool>(),
        wide in 12u32..50,
    ) {
        let settings = Settings { percent, limit: limit.map(Bytes), ..Settings::default() };
        let mut pacer = Pacer::new(settings);
        for figures in cycles {
            let [used, free, allocated, live, stacks, roots, heap, time, marked] =
                figures.map(|figure| figure >> wide);
            let [used, free, allocated] = [used, free, allocated].map(|bytes| Bytes(bytes as usize));
            let footprint = Footprint { used, free, allocated };
            let Trigger { trigger, goal } = pacer.trigger(&footprint);
            prop_assert!(trigger <= goal);
            prop_assert!(trigger >= pacer.marked() || goal <= pacer.marked());
            pacer.start(live, stacks, roots);
            let done = Work { heap, stacks, roots };
            let progress = Progress { live: live + time % 5000, scannable: heap / 2, done };
            let Assist { work_per_byte, bytes_per_work } = pacer.assist(&progress, &footprint);
            prop_assert!(work_per_byte > 0.0 && work_per_byte.is_finite());
            prop_assert!(bytes_per_work > 0.0 && bytes_per_work.is_finite());
            let cycle = Cycle { progress, duration: time, assist_time: time, idle_time: time / 2, processors: 3, marked };
            prop_assert!(pacer.finish(&cycle, &footprint) >= BACKGROUND_UTILISATION);
            pacer.commit(marked, swept);
            prop_assert!(pacer.cons_mark() >= 0.0 && pacer.cons_mark().is_finite());
        }
    }
}
