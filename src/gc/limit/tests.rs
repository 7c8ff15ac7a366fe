//! The limiter against recorded calls and answers, and its promises.

use super::*;
use proptest::prelude::*;

#[test]
fn answers_are_those_recorded() {
    let mut limiter = Limiter::new(0, 1);
    let mut answers = 0;
    for line in
        include_str!("../../../tests/traces/limiter.txt").lines().filter(|line| !line.starts_with('#'))
    {
        let (call, answer) = line.split_once(" -> ").unwrap_or((line, ""));
        let words: Vec<&str> = call.split(' ').collect();
        let number = |i: usize| words[i].parse::<u64>().unwrap();
        match words[0] {
            "N" => limiter = Limiter::new(number(1), number(2) as usize),
            "U" => limiter.update(number(1)),
            "A" => limiter.add_assist(number(1)),
            "S" => limiter.stop(words[1] == "true", number(2)),
            "F" => limiter.go_on(number(1)),
            "R" => limiter.set_processors(number(2) as usize, number(1)),
            other => panic!("no call {other}"),
        }
        if !answer.is_empty() {
            let Limiter { capacity, fill, overflow, limiting, .. } = limiter;
            assert_eq!(format!("{capacity} {fill} {overflow} {limiting}"), answer, "after {line}");
            answers += 1;
        }
    }
    assert!(answers > 2900, "{answers} answers");
}

/// A program that collects all the time is limited after a second of it on every processor, and not any more once it
/// does something else.
#[test]
fn half_the_time_is_the_most_in_the_long_run() {
    let mut limiter = Limiter::new(0, 4);
    let mut now = 0;
    limiter.stop(true, now);
    limiter.go_on(now);
    while !limiter.is_limiting() {
        now += PERIOD;
        limiter.add_assist(3 * PERIOD);
        limiter.update(now);
    }
    assert_eq!(now, CAPACITY);
    now += PERIOD;
    limiter.update(now);
    assert!(!limiter.is_limiting() && limiter.fill() == limiter.capacity() - 2 * PERIOD);
    // Idle processors change nothing.
    let before = limiter.fill();
    limiter.stop(false, now);
    limiter.go_on(now);
    now += PERIOD;
    limiter.add_idle(4 * PERIOD);
    limiter.update(now);
    assert_eq!(limiter.fill(), before);
}

proptest! {
    /// The slow twin is a number that is clamped; it limits while it is full.
    #[test]
    fn it_is_a_leaky_bucket(steps in proptest::collection::vec((0u64..300_000_000, 0u64..900_000_000, 0u64..100), 1..100)) {
        let mut limiter = Limiter::new(0, 2);
        let (mut now, mut fill, mut limiting) = (0, 0i128, false);
        for (time, assists, back) in steps {
            now += time;
            limiter.add_assist(assists);
            limiter.update(now);
            limiter.update(now.saturating_sub(back));
            let change = 2 * assists as i128 - 2 * time as i128;
            let full = fill == 2 * CAPACITY as i128;
            fill = (fill + change).clamp(0, 2 * CAPACITY as i128);
            limiting = if change > 0 && fill == 2 * CAPACITY as i128 { true } else { limiting && (change == 0 || !full) };
            prop_assert_eq!((limiter.fill() as i128, limiter.is_limiting()), (fill, limiting));
            prop_assert!(limiter.fill() <= limiter.capacity());
        }
    }
}

/// A pause for the end of marking that found more to mark changes nothing but the clock: marking can end again later.
#[test]
fn marking_that_goes_on_after_all_counts_as_marking() {
    let mut resumed = Limiter::new(0, 4);
    resumed.stop(true, 0);
    resumed.go_on(10);
    let mut straight = resumed.clone();
    resumed.stop(false, 1000);
    resumed.resume_marking();
    resumed.go_on(1000);
    for limiter in [&mut resumed, &mut straight] {
        limiter.stop(false, 50_000);
        limiter.go_on(50_100);
    }
    let seen = |limiter: &Limiter| (limiter.fill(), limiter.overflow(), limiter.is_limiting());
    assert_eq!(seen(&resumed), seen(&straight));
}
