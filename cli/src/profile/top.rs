//! A table of a profile: who holds most.

use super::proto::{Profile, Sample};
use crate::size::human;
use std::collections::HashMap;
use std::fmt::Write;

/// Calls of the heap's own and of the doors, which say nothing about the program.
fn is_ours(name: &str) -> bool {
    const DOORS: [&str; 10] = [
        "malloc_rest",
        "malloc",
        "calloc",
        "realloc",
        "reallocarray",
        "aligned_alloc",
        "posix_memalign",
        "memalign",
        "valloc",
        "pvalloc",
    ];
    let beginnings = ["spanheap::", "<spanheap::", "__rust_", "__rustc::"];
    DOORS.contains(&name) || beginnings.iter().any(|beginning| name.starts_with(beginning))
}

/// The rows with the largest values, by purpose and by the innermost call that is the program's, with its callers.
///
/// # Errors
/// The profile has no such value.
pub(crate) fn table(profile: &Profile, value: &str, rows: usize) -> Result<String, String> {
    let kinds: Vec<&str> = profile.sample_type.iter().map(|of| profile.string(of.kind)).collect();
    let Some(at) = kinds.iter().position(|kind| *kind == value) else {
        return Err(format!("the profile has no {value:?}; it has {}", kinds.join(", ")));
    };
    let is_bytes = profile.string(profile.sample_type[at].unit) == "bytes";
    let names = names(profile);
    let mut sums: HashMap<(String, String), i64> = HashMap::new();
    let mut total = 0;
    for sample in &profile.sample {
        let amount = sample.value.get(at).copied().unwrap_or(0);
        total += amount;
        *sums.entry((purpose(profile, sample), stack(sample, &names))).or_default() += amount;
    }
    let mut sorted: Vec<_> = sums.into_iter().filter(|(_, amount)| *amount != 0).collect();
    sorted.sort_by(|(a, x), (b, y)| y.abs().cmp(&x.abs()).then_with(|| a.cmp(b)));
    let shown = |amount: i64| if is_bytes { human(amount.into()) } else { amount.to_string() };
    let mut table = String::new();
    let mut line = |amount: i64, purpose: &str, stack: &str| {
        let share = 100.0 * amount as f64 / (total as f64).max(1.0);
        let _ = writeln!(table, "{:>12} {share:>6.1}%  {purpose:<16} {stack}", shown(amount));
    };
    for ((purpose, stack), amount) in sorted.iter().take(rows) {
        line(*amount, purpose, stack);
    }
    line(total, "", value);
    Ok(table)
}

/// The names of each location, the innermost first.
fn names(profile: &Profile) -> HashMap<u64, Vec<&str>> {
    let functions: HashMap<u64, &str> =
        profile.function.iter().map(|function| (function.id, profile.string(function.name))).collect();
    let named = |location: &super::proto::Location| {
        let names = location.line.iter().filter_map(|line| functions.get(&line.function_id).copied());
        (location.id, names.collect())
    };
    profile.location.iter().map(named).collect()
}

fn purpose(profile: &Profile, sample: &Sample) -> String {
    let label = sample.label.iter().find(|label| profile.string(label.key) == "purpose");
    label.map_or("", |label| profile.string(label.str)).to_owned()
}

/// The first calls that are the program's, innermost first.
fn stack(sample: &Sample, names: &HashMap<u64, Vec<&str>>) -> String {
    const SHOWN: usize = 4;
    // A place is ours as a whole: the last of its names is the function that the others were inlined into.
    let all = sample.location_id.iter().map(|id| names.get(id).map_or(&[][..], Vec::as_slice));
    let theirs = all.skip_while(|names| names.last().is_some_and(|name| is_ours(name)));
    let calls = theirs.flat_map(|names| if names.is_empty() { &["?"][..] } else { names });
    let calls: Vec<&str> = calls.copied().take(SHOWN).collect();
    calls.join(" < ")
}
