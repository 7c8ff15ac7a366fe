//! Reading code: what is code and what is text, what ships and what is for tests, and which names stand where.

/// Whether a whole file is for tests or measurements, and ships nothing.
pub(crate) fn is_for_tests(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.split('/').rev().skip(1).any(|folder| ["tests", "fuzz", "rivals"].contains(&folder))
        || ["tests.rs", "testing.rs", "model.rs"].contains(&name)
}

/// The text with comments and the insides of strings and characters blanked out. Lines stay where they are.
pub(crate) fn code_of(text: &str) -> String {
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

pub(crate) fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |n| at + n)
}

pub(crate) fn comment_end(bytes: &[u8], mut at: usize) -> usize {
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

pub(crate) fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

pub(crate) fn word_before(bytes: &[u8], at: usize) -> bool {
    // `br"…"` is a raw string as well; any other letter before the `r` makes it a part of a name.
    at > 0 && is_word(bytes[at - 1]) && !matches!(bytes[at - 1], b'b' | b'c')
}

/// How many hashes the raw string that begins at `at` has, if one begins there.
pub(crate) fn raw_hashes(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

pub(crate) fn raw_end(bytes: &[u8], at: usize) -> usize {
    let hashes = raw_hashes(bytes, at).unwrap_or(0);
    let end = format!("\"{}", "#".repeat(hashes));
    let from = at + 2 + hashes;
    let found = bytes[from..].windows(end.len()).position(|window| window == end.as_bytes());
    found.map_or(bytes.len(), |n| from + n + end.len())
}

/// The end of a character literal, or the next byte where the quote begins a lifetime.
pub(crate) fn character_end(bytes: &[u8], at: usize) -> usize {
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

pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Code without the items that are compiled for tests only.
pub(crate) fn shipping(code: &str) -> String {
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
pub(crate) fn item_end(code: &str, at: usize) -> usize {
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
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
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

pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The places where `path` stands as a whole path or the beginning of one.
pub(crate) fn uses<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(path).map(|(at, _)| at).filter(|&at| {
        let before = code[..at].bytes().next_back();
        !before.is_some_and(|byte| is_word(byte) || byte == b':' || byte == b'$')
    })
}

/// The first names of what follows `crate::` at `at`: one, or those of a list in braces.
pub(crate) fn first_names(code: &str, at: usize) -> Vec<&str> {
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

mod tests {
    use super::*;

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
}
