//! What can be counted about the source is counted here.
//!
//! The house has rules that no compiler holds: rooms stand in an order, and a file names its own room and those to
//! the left; `unsafe` is in listed files that say why; the core takes nothing from the global allocator; only
//! `os` talks to the system; files stay short; links lead somewhere. Each rule is a function from text to
//! complaints, so that tests beside them can show each one to fail on a bad snippet.
//!
//! The rules read *code*: the text with comments and the insides of strings blanked out, line for line. Where a rule
//! is about what ships, items under `#[cfg(test)]` are blanked out as well.

#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/rules.rs"]
mod rules;

use code::{code_of, is_for_tests, shipping, words};
use rules::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files that may ship `unsafe`; what only tests do is not listed, but needs its reasons as well.
#[rustfmt::skip]
const UNSAFE: &[&str] = &[
    "cli/src/fibers.rs", "cli/src/target.rs",
    "derive/src/lib.rs",
    "examples/service/src/refused.rs",
    "libgc/src/alloc.rs", "libgc/src/concurrent.rs", "libgc/src/cycle.rs", "libgc/src/debug.rs", "libgc/src/events.rs", "libgc/src/finalize.rs",
    "libgc/src/hints.rs", "libgc/src/shapes.rs", "libgc/src/toggle.rs", "libgc/src/fork.rs", "libgc/src/heap.rs",
    "libgc/src/kinds.rs", "libgc/src/links.rs", "libgc/src/map.rs", "libgc/src/mark.rs", "libgc/src/pthreads.rs",
    "libgc/src/roots.rs", "libgc/src/settings.rs", "libgc/src/stats.rs", "libgc/src/stop.rs", "libgc/src/threads.rs",
    "libgc/src/tls.rs", "libgc/src/typed.rs", "libgc/src/verify.rs",
    "malloc/src/lib.rs", "malloc/src/lifecycle.rs", "malloc/src/statistics.rs", "malloc/src/threads.rs",
    "src/base/rank.rs",
    "src/block/body.rs", "src/block/cache.rs", "src/block/central.rs", "src/block/check.rs", "src/block/holes.rs",
    "src/block/idle.rs", "src/block/large.rs",
    "src/block/portion.rs",
    "src/block/remote.rs",
    "src/front/background.rs", "src/front/check.rs",
    "src/front/collect/array.rs", "src/front/collect/background.rs", "src/front/collect/cycle.rs",
    "src/front/collect/member.rs", "src/front/collect/mod.rs", "src/front/collect/mutator.rs",
    "src/front/collect/raw/mod.rs", "src/front/collect/raw/roots.rs", "src/front/collect/raw/stack.rs",
    "src/front/collect/refs.rs", "src/front/collect/weak.rs", "src/front/collect/dump.rs", "src/front/collect/finalize.rs",
    "src/front/collect/root.rs", "src/front/collect/slow.rs",
    "src/front/collect/trace.rs", "src/front/collect/verify.rs", "src/front/collect/fork.rs",
    "src/front/core.rs", "src/front/global.rs", "src/front/heap.rs", "src/front/manual.rs",
    "src/front/mutator.rs", "src/front/process.rs", "src/front/purpose.rs", "src/front/report.rs",
    "src/front/profile/elf.rs", "src/front/profile/growing.rs", "src/front/profile/handout.rs",
    "src/front/profile/mod.rs",
    "src/front/profile/recorder.rs", "src/front/profile/rules.rs", "src/front/profile/unwind.rs",
    "src/front/residency.rs", "src/front/scavenger.rs", "src/front/slow.rs", "src/front/stacks.rs",
    "src/front/threads.rs", "src/front/tls.rs",
    "src/object/cache.rs", "src/object/central.rs", "src/object/check.rs", "src/object/find.rs", "src/object/free.rs", "src/object/large.rs",
    "src/object/map.rs", "src/object/meta.rs", "src/object/sweep.rs", "src/object/tiny.rs",
    "src/object/record.rs", "src/object/shape.rs", "src/object/unrolled.rs",
    "src/gc/again.rs", "src/gc/attach.rs", "src/gc/attach/check.rs", "src/gc/barrier.rs", "src/gc/collector.rs", "src/gc/dump.rs", "src/gc/grey.rs", "src/gc/kernel.rs",
    "src/gc/mark.rs", "src/gc/queue.rs", "src/gc/roots.rs",
    "src/gc/verify.rs", "src/gc/work.rs",
    "src/os/linux.rs", "src/os/permanent.rs", "src/os/pool.rs", "src/os/proc.rs", "src/os/raw.rs", "src/os/region.rs",
    "src/os/simulated.rs", "src/os/system.rs", "src/os/table.rs", "src/os/watch.rs",
    "src/page/allocator.rs", "src/page/chunk.rs", "src/page/chunks.rs", "src/page/tree.rs",
    "src/span/check.rs", "src/span/heap.rs", "src/span/map.rs", "src/span/meter.rs", "src/span/record.rs",
    "src/span/registry.rs", "src/span/release.rs",
    "src/stack/cache.rs", "src/stack/check.rs", "src/stack/look.rs", "src/stack/pool.rs", "src/stack/slab.rs",
    "integrations/src/bin/stacks.rs", "integrations/src/coroutines.rs", "integrations/src/wasm.rs", "thread/src/builder.rs", "thread/src/overflow.rs",
    "src/stats/ledger.rs", "src/stats/shard.rs", "src/stats/window.rs",
];

/// The longest a file of code may be.
const LONGEST: usize = 700;

/// A file of the repository: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The room of the core that the file belongs to, unless it is a test's.
    fn room(&self) -> Option<usize> {
        let inside = self.path.strip_prefix("src/")?;
        let room = inside.split('/').next()?.trim_end_matches(".rs");
        if is_for_tests(&self.path) {
            return None;
        }
        ROOMS.iter().position(|name| *name == room)
    }
}

/// Every text file that is tracked, or would be.
fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tracked = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output();
    let mut paths: Vec<String> = match tracked {
        Ok(output) if output.status.success() => {
            output.stdout.split(|byte| *byte == 0).map(|path| String::from_utf8_lossy(path).into()).collect()
        }
        _ => walk(root),
    };
    paths.sort();
    let read = |path: String| fs::read_to_string(root.join(&path)).ok().map(|text| File { path, text });
    paths.into_iter().filter(|path| !path.is_empty()).filter_map(read).collect()
}

/// What stands below the root, for a copy of the source without its history.
fn walk(root: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap().flatten() {
            let path = folder.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !["target", ".git"].contains(&path.to_str().unwrap()) => {
                    folders.push(path);
                }
                Ok(kind) if kind.is_file() => found.push(path.to_str().unwrap().to_owned()),
                _ => {}
            }
        }
    }
    found
}

/// Fails with everything that a rule complains about, by file.
fn assert_clean(rule: &str, complain: impl Fn(&File) -> Vec<String>) {
    let mut all = Vec::new();
    for file in files() {
        all.extend(complain(&file).into_iter().map(|what| format!("{}: {what}", file.path)));
    }
    assert!(all.is_empty(), "{rule}:\n  {}", all.join("\n  "));
}

fn in_rooms(rule: &str, complain: impl Fn(&File, usize, &str) -> Vec<String>) {
    assert_clean(rule, |file| match file.room() {
        Some(room) if file.is_rust() => complain(file, room, &shipping(&code_of(&file.text))),
        _ => Vec::new(),
    });
}

#[test]
fn rooms_know_only_those_to_the_left() {
    in_rooms("a room names one to its right", |_, room, code| upward_imports(room, code));
}

#[test]
fn nobody_climbs_two_steps() {
    in_rooms("super::super", |_, _, code| double_supers(code));
}

#[test]
fn unsafe_is_where_it_is_listed_and_has_reasons() {
    let has_unsafe = |file: &File| words(&shipping(&code_of(&file.text))).any(|(_, word)| word == "unsafe");
    let ships = |file: &File| file.is_rust() && !is_for_tests(&file.path) && has_unsafe(file);
    let found: Vec<File> = files().into_iter().filter(ships).collect();
    let paths: BTreeSet<&str> = found.iter().map(|file| file.path.as_str()).collect();
    let listed: BTreeSet<&str> = UNSAFE.iter().copied().collect();
    let unlisted: Vec<_> = paths.difference(&listed).collect();
    let idle: Vec<_> = listed.difference(&paths).collect();
    assert!(unlisted.is_empty(), "unsafe, but not in the list: {unlisted:#?}");
    assert!(idle.is_empty(), "in the list, but without unsafe: {idle:#?}");
    let silent: Vec<_> = found.iter().filter(|file| lacks_safety_head(&file.text)).map(|f| &f.path).collect();
    assert!(silent.is_empty(), "no `# Safety` paragraph in the head: {silent:#?}");
    assert_clean("unsafe without a reason", |file| match file.is_rust() {
        true => unreasoned_unsafe(&file.text, &code_of(&file.text)),
        false => Vec::new(),
    });
}

#[test]
fn the_core_takes_nothing_from_the_global_allocator() {
    in_rooms("the core uses the standard library", |file, _, code| library_uses(&file.path, code));
}

#[test]
fn only_os_talks_to_the_system() {
    in_rooms("a system call outside os", |file, room, code| match ROOMS[room] {
        "os" => Vec::new(),
        _ => system_calls(&file.path, code),
    });
}

#[test]
fn files_are_short() {
    assert_clean("a file is too long", |file| {
        let lines = file.text.lines().count();
        let long = file.is_rust() && lines > LONGEST;
        long.then(|| format!("{lines} lines")).into_iter().collect()
    });
}

#[test]
fn the_text_speaks_of_the_project_only() {
    assert_clean("words of some machine", |file| match file.path.as_str() {
        "Cargo.lock" => Vec::new(),
        _ => local_words(&file.text),
    });
}

#[test]
fn invariants_are_numbered_and_citations_lead_to_them() {
    let files = files();
    let head = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| &file.text);
    let mut wrong = Vec::new();
    for room in ROOMS {
        let essay = format!("src/{room}/mod.rs");
        assert!(head(&essay).starts_with("//!"), "{essay} has no essay");
    }
    for file in files.iter().filter(|file| file.is_rust() && file.path.starts_with("src/")) {
        let essay = file.path.split('/').take(2).collect::<Vec<_>>().join("/") + "/mod.rs";
        let own = numbered(&file.text).unwrap_or_else(|gap| panic!("{}: {gap}", file.path));
        let room = numbered(head(&essay)).unwrap_or_default();
        for (line, number) in cited(&file.text) {
            if !own.contains(&number) && !room.contains(&number) {
                wrong.push(format!("{}: line {line}: there is no invariant {number}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_check_proves_is_what_the_essays_claim() {
    let files = files();
    let of = |path: String| files.iter().find(|file| file.path == path).map_or("", |file| &file.text);
    for room in ["span", "block", "stack", "front"] {
        // The mutators' part is numbered where it is proved, since the essay of `front` is about doors.
        let essay = if room == "front" { "check" } else { "mod" };
        let claimed = numbered(of(format!("src/{room}/{essay}.rs"))).unwrap();
        let proved = proved(of(format!("src/{room}/check.rs")), room);
        assert!(!claimed.is_empty());
        assert_eq!(claimed, proved, "invariants of {room}: in the essay, and in check.rs");
    }
}

#[test]
fn links_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_clean("a link leads nowhere", |file| match file.path.ends_with(".md") {
        true => dead_links(&file.path, &file.text, |path| root.join(path).exists()),
        false => Vec::new(),
    });
}
