//! What can be counted about the source is counted here.
//!
//! The house has rules that no compiler holds: rooms stand in an order, and a file names its own room and those to
//! the left; `unsafe` is in listed files that say why; the core takes nothing from the global allocator; only
//! `os` talks to the system; files stay short; links lead somewhere. Each rule is a function from text to
//! complaints, so that the tests at the end can show each one to fail on a bad snippet.
//!
//! The rules read *code*: the text with comments and the insides of strings blanked out, line for line. Where a rule
//! is about what ships, items under `#[cfg(test)]` are blanked out as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms, from left to right.
const ROOMS: [&str; 7] = ["base", "stats", "os", "page", "span", "block", "front"];

/// The files that may contain `unsafe`, tests' files included.
#[rustfmt::skip]
const UNSAFE: &[&str] = &[
    "cli/src/target.rs",
    "malloc/src/lib.rs", "malloc/src/lifecycle.rs", "malloc/src/statistics.rs",
    "src/base/rank.rs",
    "src/block/body.rs", "src/block/cache.rs", "src/block/central.rs", "src/block/check.rs", "src/block/large.rs",
    "src/block/remote.rs",
    "src/front/check.rs", "src/front/core.rs", "src/front/global.rs", "src/front/heap.rs", "src/front/manual.rs",
    "src/front/mutator.rs", "src/front/process.rs", "src/front/purpose.rs", "src/front/report.rs",
    "src/front/residency.rs", "src/front/slow.rs", "src/front/threads.rs", "src/front/tls.rs",
    "src/os/linux.rs", "src/os/permanent.rs", "src/os/pool.rs", "src/os/proc.rs", "src/os/region.rs",
    "src/os/simulated.rs", "src/os/system.rs", "src/os/table.rs",
    "src/page/allocator.rs", "src/page/chunk.rs", "src/page/chunks.rs", "src/page/tree.rs",
    "src/span/check.rs", "src/span/heap.rs", "src/span/map.rs", "src/span/meter.rs", "src/span/record.rs",
    "src/span/registry.rs",
    "src/stats/ledger.rs", "src/stats/shard.rs",
];

/// Calls of the system outside `os`: the file, and what it may call.
const SYSTEM_CALLS: &[(&str, &[&str])] = &[
    // A lock that sleeps must be at hand in every room.
    ("src/base/sync.rs", &["rustix::thread::sched_yield", "rustix::thread::futex"]),
    // The number that names this process in a file's name.
    ("src/front/environment.rs", &["rustix::process::getpid"]),
];

/// Paths into `std` in shipping code of the core: the file, and the path.
const STD: &[(&str, &str)] = &[
    // To stop somebody's program on misuse without unwinding.
    ("src/front/environment.rs", "std::process::abort"),
];

/// Hosts that the repository's text may name.
const HOSTS: &[&str] = &[
    "crates.io",
    "docs.rs",
    "doc.rust-lang.org",
    "github.com",
    "localhost",
    "rustup.rs",
    "www.apache.org",
    "127.0.0.1",
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

/// Whether a whole file is for tests or measurements, and ships nothing.
fn is_for_tests(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.split('/').rev().skip(1).any(|folder| ["tests", "fuzz", "rivals"].contains(&folder))
        || ["tests.rs", "testing.rs", "model.rs"].contains(&name)
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

// ---- reading code ----

/// The text with comments and the insides of strings and characters blanked out. Lines stay where they are.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !word_before(bytes, at) && raw_hashes(bytes, at).is_some() => raw_end(bytes, at),
            b'\'' => character_end(bytes, at),
            _ => at + 1,
        };
        if end > at + 1 {
            code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        at = end;
    }
    String::from_utf8(code).expect("blanked whole characters")
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |n| at + n)
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(bytes.len())
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn word_before(bytes: &[u8], at: usize) -> bool {
    // `br"…"` is a raw string as well; any other letter before the `r` makes it a part of a name.
    at > 0 && is_word(bytes[at - 1]) && !matches!(bytes[at - 1], b'b' | b'c')
}

/// How many hashes the raw string that begins at `at` has, if one begins there.
fn raw_hashes(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn raw_end(bytes: &[u8], at: usize) -> usize {
    let hashes = raw_hashes(bytes, at).unwrap_or(0);
    let end = format!("\"{}", "#".repeat(hashes));
    let from = at + 2 + hashes;
    let found = bytes[from..].windows(end.len()).position(|window| window == end.as_bytes());
    found.map_or(bytes.len(), |n| from + n + end.len())
}

/// The end of a character literal, or the next byte where the quote begins a lifetime.
fn character_end(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'\\') => bytes[at + 3..].iter().position(|b| *b == b'\'').map_or(bytes.len(), |n| at + 4 + n),
        Some(first) => {
            let length = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            if bytes.get(at + 1 + length) == Some(&b'\'') { at + length + 2 } else { at + 1 }
        }
        None => at + 1,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Code without the items that are compiled for tests only.
fn shipping(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(").map(|n| from + n) {
        let end = at + code[at..].find(']').map_or(code.len() - at, |n| n + 1);
        let condition = &code[at..end];
        from = end;
        if words(condition).any(|(_, word)| word == "test") && !condition.contains("not(test)") {
            from = item_end(code, end);
            out[at..from].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
    }
    String::from_utf8(out).expect("blanked whole items")
}

/// The end of the item that begins at `at`: a semicolon, or the brace that closes its first one.
fn item_end(code: &str, at: usize) -> usize {
    let mut depth = 0usize;
    for (n, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return n + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return n + 1,
            _ => {}
        }
    }
    code.len()
}

/// The words of some code, with the place of each.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = code.as_bytes();
        while at < bytes.len() && !is_word(bytes[at]) {
            at += 1;
        }
        let from = at;
        while at < bytes.len() && is_word(bytes[at]) {
            at += 1;
        }
        (from < at).then(|| (from, &code[from..at]))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The places where `path` stands as a whole path or the beginning of one.
fn uses<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(path).map(|(at, _)| at).filter(|&at| {
        let before = code[..at].bytes().next_back();
        !before.is_some_and(|byte| is_word(byte) || byte == b':' || byte == b'$')
    })
}

/// The first names of what follows `crate::` at `at`: one, or those of a list in braces.
fn first_names(code: &str, at: usize) -> Vec<&str> {
    let rest = &code[at..];
    if !rest.starts_with('{') {
        return words(rest).next().map(|(_, word)| word).into_iter().collect();
    }
    let (mut depth, mut names, mut expects) = (0, Vec::new(), true);
    let mut from = 0;
    for (n, byte) in rest.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => break,
            b'}' => depth -= 1,
            b',' if depth == 1 => expects = true,
            byte if is_word(byte) && depth == 1 && expects && n >= from => {
                let word = words(&rest[n..]).next().map_or("", |(_, word)| word);
                names.push(word);
                (expects, from) = (false, n + word.len());
            }
            _ => {}
        }
    }
    names
}

// ---- the rules ----

/// A file names its own room and those to the left.
fn upward_imports(room: usize, code: &str) -> Vec<String> {
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
fn double_supers(code: &str) -> Vec<String> {
    uses(code, "super::super").map(|at| format!("line {}: super::super", line_of(code, at))).collect()
}

/// A file with `unsafe` in it opens with the reasons.
fn lacks_safety_head(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    !head.into_iter().any(|line| line.trim_end() == "//! # Safety")
}

/// Every unsafe block and every unsafe implementation has its reason just before it.
fn unreasoned_unsafe(text: &str, code: &str) -> Vec<String> {
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
fn has_reason(lines: &[&str], at: usize) -> bool {
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
fn library_uses(path: &str, code: &str) -> Vec<String> {
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
fn system_calls(path: &str, code: &str) -> Vec<String> {
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
fn local_words(text: &str) -> Vec<String> {
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
fn numbered(text: &str) -> Result<BTreeSet<usize>, String> {
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
fn cited(text: &str) -> Vec<(usize, usize)> {
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

/// The targets of a Markdown text's links.
fn links(text: &str) -> Vec<(usize, &str)> {
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
fn dead_links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
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

// ---- the rules, on the repository ----

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
fn links_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_clean("a link leads nowhere", |file| match file.path.ends_with(".md") {
        true => dead_links(&file.path, &file.text, |path| root.join(path).exists()),
        false => Vec::new(),
    });
}

// ---- the rules can fail ----

#[test]
fn code_is_told_from_text() {
    let text = "let a = 'x'; // unsafe\nlet b: &'static str = \"unsafe \\\" {\"; /* a /* b */ unsafe */ let c = '\\'';\n\
                let r = r#\"unsafe \" { \"#; let br = b'\"'; unsafe";
    let code = code_of(text);
    assert_eq!(code.lines().count(), text.lines().count());
    assert_eq!(words(&code).filter(|(_, word)| *word == "unsafe").count(), 1);
    assert!(code.contains("&'static str") && code.contains("let br") && !code.contains('{'));
}

#[test]
fn tests_are_told_from_what_ships() {
    let code = "use a;\n#[cfg(all(test, not(loom)))]\nmod tests { fn a() { Vec } }\n#[cfg(test)]\nuse std::x;\nfn b() {}\n\
                #[cfg(not(test))]\nfn c() {}";
    let left = shipping(code);
    assert!(!left.contains("Vec") && !left.contains("std"));
    assert!(left.contains("fn b") && left.contains("fn c") && left.contains("use a"));
    assert!(is_for_tests("src/block/tests.rs") && is_for_tests("src/block/tests/heap.rs"));
    assert!(is_for_tests("src/page/model.rs") && !is_for_tests("src/page/tree.rs"));
}

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
    assert_eq!(cited("x\n(invariant 4), an invariant, invariants 2 and 3"), [(2, 4), (2, 2)]);
}

#[test]
fn dead_links_are_found() {
    let text = "[a](b.md) [c](https://docs.rs) [d](#e)\n```\n[f](g.md)\n```\n[h](../i.md#j)";
    assert_eq!(dead_links("docs/x.md", text, |_| true), [""; 0]);
    assert_eq!(dead_links("docs/x.md", text, |path| path == Path::new("docs/b.md")), ["line 5: ../i.md#j"]);
    assert_eq!(dead_links("docs/x.md", text, |_| false).len(), 2);
}
