//! The rules: functions from text to complaints. Each is shown to fail on a bad snippet.

use super::code::{first_names, line_of, uses, words};
use std::collections::BTreeSet;
use std::path::Path;

/// The rooms, from left to right.
pub(crate) const ROOMS: [&str; 10] =
    ["base", "stats", "os", "page", "span", "block", "object", "stack", "gc", "front"];

/// Calls of the system outside `os`: the file, and what it may call.
pub(crate) const SYSTEM_CALLS: &[(&str, &[&str])] = &[
    // A lock that sleeps must be at hand in every room.
    ("src/base/sync.rs", &["rustix::thread::sched_yield", "rustix::thread::futex"]),
    // The number that names this process in a file's name.
    ("src/front/environment.rs", &["rustix::process::getpid"]),
];

/// Paths into `std` in shipping code of the core: the file, and the path.
pub(crate) const STD: &[(&str, &str)] = &[
    // To ask the processor what it can do: no allocation, and no call of the system.
    ("src/gc/kernel.rs", "std::arch::is_x86_feature_detected"),
    // To stop somebody's program on misuse without unwinding.
    ("src/front/environment.rs", "std::process::abort"),
    // Debug builds' locks count what a thread holds, so there the background is an ordinary thread.
    ("src/front/background.rs", "std::thread::Builder"),
    // The collector's own threads.
    ("src/front/collect/background.rs", "std::thread"),
];

/// Hosts that the repository's text may name.
pub(crate) const HOSTS: &[&str] = &[
    "crates.io",
    "docs.rs",
    "doc.rust-lang.org",
    "github.com",
    "localhost",
    "rustup.rs",
    "www.apache.org",
    // The name of SVG's elements: nothing is fetched from there.
    "www.w3.org",
    "127.0.0.1",
];

/// A file names its own room and those to the left.
pub(crate) fn upward_imports(room: usize, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for at in uses(code, "crate::") {
        for name in first_names(code, at + "crate::".len()) {
            if ROOMS.iter().position(|known| *known == name).is_some_and(|named| named > room) {
                found.push(format!("line {}: {} names {name}", line_of(code, at), ROOMS[room]));
            }
        }
    }
    found
}

/// Nobody climbs two steps at once: such a path says neither where it starts nor where it ends.
pub(crate) fn double_supers(code: &str) -> Vec<String> {
    uses(code, "super::super").map(|at| format!("line {}: super::super", line_of(code, at))).collect()
}

/// A file with `unsafe` in it opens with the reasons.
pub(crate) fn lacks_safety_head(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    !head.into_iter().any(|line| line.trim_end() == "//! # Safety")
}

/// Every unsafe block and every unsafe implementation has its reason just before it.
pub(crate) fn unreasoned_unsafe(text: &str, code: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    words(code)
        .filter(|(at, word)| {
            let after = code[at + word.len()..].trim_start();
            *word == "unsafe" && (after.starts_with('{') || after.starts_with("impl"))
        })
        .map(|(at, _)| line_of(code, at))
        .filter(|&line| !has_reason(&lines, line - 1))
        .map(|line| format!("line {line}: unsafe without a SAFETY comment"))
        .collect()
}

/// Whether a `SAFETY:` stands on a line or before it, with nothing but the same statement in between.
pub(crate) fn has_reason(lines: &[&str], at: usize) -> bool {
    const NEAR: usize = 12;
    if lines[at].contains("SAFETY:") {
        return true;
    }
    for line in lines[..at].iter().rev().take(NEAR).map(|line| line.trim()) {
        if line.contains("SAFETY:") {
            return true;
        }
        if line.ends_with(';') || line == "}" || line.is_empty() {
            return false;
        }
    }
    false
}

/// The core takes nothing from the global allocator, nor anything else from `std`.
pub(crate) fn library_uses(path: &str, code: &str) -> Vec<String> {
    const TYPES: [&str; 8] = ["Vec", "String", "Box", "Rc", "Arc", "BTreeMap", "HashMap", "ToString"];
    const MACROS: [&str; 5] = ["format", "vec", "println", "eprintln", "print"];
    let mut found = Vec::new();
    for (at, word) in words(code) {
        let after = &code[at + word.len()..];
        let is_use = TYPES.contains(&word) || (MACROS.contains(&word) && after.starts_with('!'));
        if is_use {
            found.push(format!("line {}: {word}", line_of(code, at)));
        }
    }
    for root in ["std::", "alloc::"] {
        let allowed =
            |at: usize| STD.iter().any(|(file, what)| *file == path && code[at..].starts_with(what));
        found.extend(
            uses(code, root)
                .filter(|&at| !allowed(at))
                .map(|at| format!("line {}: a path into {root}", line_of(code, at))),
        );
    }
    found
}

/// Only the room `os` talks to the system.
pub(crate) fn system_calls(path: &str, code: &str) -> Vec<String> {
    let allowed = |at: usize| {
        SYSTEM_CALLS
            .iter()
            .any(|(file, calls)| *file == path && calls.iter().any(|call| code[at..].starts_with(call)))
    };
    let direct =
        ["rustix::", "libc::"].into_iter().flat_map(|root| uses(code, root)).filter(|&at| !allowed(at));
    direct.map(|at| format!("line {}: a system call", line_of(code, at))).collect()
}

/// The repository speaks of the project: no machine's paths, no hosts but those that everybody knows.
pub(crate) fn local_words(text: &str) -> Vec<String> {
    // Put together here, so that this file does not contain them.
    let paths = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["/tmp/te", "am"], ["/Us", "ers/"]]
        .map(|p| p.concat());
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        found.extend(
            paths.iter().filter(|path| line.contains(*path)).map(|path| format!("line {number}: {path}")),
        );
        for at in line.match_indices("://").map(|(at, found)| at + found.len()) {
            let host: &str =
                line[at..].split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c))).next().unwrap();
            let host = host.trim_end_matches('.');
            if !host.is_empty() && !HOSTS.contains(&host) {
                found.push(format!("line {number}: host {host}"));
            }
        }
    }
    found
}

/// The numbers of the invariants in a file's head: `//! 1. …`, counted from 1 without a gap.
pub(crate) fn numbered(text: &str) -> Result<BTreeSet<usize>, String> {
    let mut numbers = BTreeSet::new();
    for line in text.lines().take_while(|line| line.starts_with("//!")) {
        let item = line[3..].strip_prefix(' ').unwrap_or("");
        let Some((number, _)) = item.split_once(". ") else { continue };
        let Ok(number) = number.parse::<usize>() else { continue };
        if number == 1 {
            // A second list: the citations say which one they mean by where they stand.
            numbers.insert(1);
        } else if !numbers.contains(&(number - 1)) {
            return Err(format!("{number} follows no {}", number - 1));
        } else {
            numbers.insert(number);
        }
    }
    Ok(numbers)
}

/// The numbers that a text cites as invariants.
pub(crate) fn cited(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, word) in words(text).filter(|(_, word)| ["invariant", "invariants", "Invariant"].contains(word))
    {
        let rest = text[at + word.len()..].trim_start();
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(number) = number.parse() {
            found.push((line_of(text, at), number));
        }
    }
    found
}

/// The numbers under which a text proves invariants of a room: `Invariant("room", 4)`.
pub(crate) fn proved(text: &str, room: &str) -> BTreeSet<usize> {
    let opening = format!("Invariant(\"{room}\", ");
    let numbers = text.split(&opening).skip(1).map(|rest| rest.split(')').next().unwrap_or(""));
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The targets of a Markdown text's links.
pub(crate) fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            if let Some(end) = line[at + 2..].find(')') {
                found.push((number + 1, line[at + 2..at + 2 + end].split_whitespace().next().unwrap_or("")));
            }
        }
    }
    found
}

/// Links to files that do not exist. `exists` is asked about paths from the root.
pub(crate) fn dead_links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut dead = Vec::new();
    for (line, target) in links(text) {
        let file = target.split('#').next().unwrap_or("");
        if !file.is_empty() && !target.contains("://") && !exists(&folder.join(file)) {
            dead.push(format!("line {line}: {target}"));
        }
    }
    dead
}

mod tests {
    use super::super::code::code_of;
    use super::*;

    #[test]
    fn imports_to_the_right_are_found() {
        let os = 2;
        assert_eq!(upward_imports(os, "use crate::os::a;\nuse crate::stats::{Ledger, page};"), [""; 0]);
        assert_eq!(upward_imports(os, "\nuse crate::page::Tree;"), ["line 2: os names page"]);
        let nested = "use crate::{base::{Bytes, front}, span, block::{x}};";
        assert_eq!(upward_imports(os, nested), ["line 1: os names span", "line 1: os names block"]);
        assert_eq!(upward_imports(os, "fn f() { crate::front::tls::words() }").len(), 1);
        assert_eq!(upward_imports(os, "$crate::front::x"), [""; 0]);
    }

    #[test]
    fn double_supers_are_found() {
        assert_eq!(double_supers("use super::a;\nuse super::super::b;"), ["line 2: super::super"]);
    }

    #[test]
    fn silent_unsafe_is_found() {
        assert!(lacks_safety_head("//! A file.\nfn a() {}\n//! # Safety"));
        assert!(!lacks_safety_head("//! A file.\n//!\n//! # Safety\n//! Because.\n"));
        let check = |text: &str| unreasoned_unsafe(text, &code_of(text)).len();
        assert_eq!(check("// SAFETY: so.\nunsafe { a() }"), 0);
        assert_eq!(check("// SAFETY: so.\nlet a = match b {\n    C => unsafe { d() },\n};"), 0);
        assert_eq!(check("let a = 1;\nunsafe { a() }"), 1);
        assert_eq!(check("// SAFETY: so.\na();\nunsafe { b() }"), 1);
        assert_eq!(check("unsafe impl Send for A {}"), 1);
        assert_eq!(check("unsafe fn a() {}"), 0);
        assert_eq!(check("// unsafe {\nlet a = \"unsafe {\";"), 0);
    }

    #[test]
    fn the_standard_library_is_found() {
        let check = |code| library_uses("src/os/table.rs", code).len();
        assert_eq!(check("let a: Vec<u8> = vec![];"), 2);
        assert_eq!(check("use std::fmt; use core::fmt; String::new()"), 2);
        assert_eq!(check("format!(); format_args!(); let format = 1;"), 1);
        assert_eq!(check("use allocator_api2::alloc::Allocator; use core::alloc::Layout;"), 0);
        assert_eq!(library_uses("src/front/environment.rs", "std::process::abort()").len(), 0);
        assert_eq!(check("std::process::abort()"), 1);
    }

    #[test]
    fn system_calls_are_found() {
        assert_eq!(system_calls("src/page/tree.rs", "rustix::mm::mmap()").len(), 1);
        assert_eq!(system_calls("src/base/sync.rs", "rustix::thread::futex::wake(word)").len(), 0);
        assert_eq!(system_calls("src/base/sync.rs", "rustix::mm::mmap()").len(), 1);
    }

    #[test]
    fn local_words_are_found() {
        let path = ["see /wo", "rk/notes"].concat();
        assert_eq!(local_words(&path).len(), 1);
        let host = ["https:", "//mirror.local/simple"].concat();
        assert_eq!(local_words(&host), ["line 1: host mirror.local"]);
        assert_eq!(local_words("https://github.com/a, https://docs.rs. and a://"), [""; 0]);
    }

    #[test]
    fn gaps_and_empty_citations_are_found() {
        assert_eq!(numbered("//! 1. a\n//! 2. b\n").unwrap().len(), 2);
        assert!(numbered("//! 1. a\n//! 3. b\n").is_err());
        assert_eq!(
            proved("a Invariant(\"os\", 3) Invariant(\"os\", x), Invariant(\"page\", 4)", "os"),
            [3].into()
        );
        assert_eq!(cited("x\n(invariant 4), an invariant, invariants 2 and 3"), [(2, 4), (2, 2)]);
    }

    #[test]
    fn dead_links_are_found() {
        let text = "[a](b.md) [c](https://docs.rs) [d](#e)\n```\n[f](g.md)\n```\n[h](../i.md#j)";
        assert_eq!(dead_links("docs/x.md", text, |_| true), [""; 0]);
        assert_eq!(
            dead_links("docs/x.md", text, |path| path == Path::new("docs/b.md")),
            ["line 5: ../i.md#j"]
        );
        assert_eq!(dead_links("docs/x.md", text, |_| false).len(), 2);
    }
}
