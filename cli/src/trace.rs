//! Page traces: recorded requests to a page allocator with the answers it gave.
//!
//! Pages are 8 KiB and numbered from the base of the region; a chunk is 512 pages. One operation a line; what follows
//! `=` is the answer:
//!
//! ```text
//! chunks 0 1 2 5      the chunks that exist, all pages free (first line, ascending)
//! scavenged P N       N pages from page P are released to the system (0 or more lines, before any operation)
//! a N = P S           allocate N pages: first page P, S of them were released before; `= -`: no run is long enough
//! f P N               free N pages from page P
//! c = B F S           fill a new page cache: base page B, its free pages F, of which released S (hexadecimal, bit 0 =
//!                     page B); it becomes the last of the open caches; `= -`: nothing is free
//! p I N = P S         allocate N pages from open cache I (0 = oldest); `= -`: they do not fit in that cache
//! u I                 give open cache I back; the caches after it move down by one
//! ```
//!
//! Blank lines count as lines and mean nothing. The reader checks what can be known without an allocator: that every
//! line is well formed, every page a request names lies in an existing chunk, and every cache it names is open. Answers
//! are taken as they are: a wrong one is a difference for the replay to find. What only a replay can know is checked
//! there ([`crate::replay`]).

use spanheap::base::units::CHUNK_PAGES;
use std::collections::BTreeSet;
use std::fmt;

/// Pages of a page cache: one bit each in a 64-bit word.
pub(crate) const CACHE_PAGES: usize = 64;

/// Chunks that fit in the 48 bits of a user's address space; no allocator has a chunk beyond.
const MAX_CHUNKS: usize = (1 << 48) / (CHUNK_PAGES * 8192);

/// A trace that cannot be replayed, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The line at fault, counted from 1.
    pub(crate) line: usize,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// Neighbouring pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The number of the first page.
    pub(crate) first: usize,
    /// How many pages, at least 1.
    pub(crate) pages: usize,
}

/// The answer to a request for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The number of the first page.
    pub(crate) first: usize,
    /// How many of the pages were released to the system before.
    pub(crate) released: usize,
}

/// The answer to a request for a page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// The page of bit 0.
    pub(crate) base: usize,
    /// The pages that the cache now owns.
    pub(crate) free: u64,
    /// Those of them that were released to the system before.
    pub(crate) released: u64,
}

/// A request with the recorded answer, where it has one. The answer `None` is written `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `a`: pages from the allocator.
    Allocate { pages: usize, answer: Option<Taken> },
    /// `f`: pages given back to the allocator.
    Free(Run),
    /// `c`: a new page cache.
    Fill { answer: Option<Filled> },
    /// `p`: pages from an open cache.
    Take { cache: usize, pages: usize, answer: Option<Taken> },
    /// `u`: an open cache given back.
    Return { cache: usize },
}

/// The request as the trace writes it, without the answer.
impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Allocate { pages, .. } => write!(out, "a {pages}"),
            Operation::Free(run) => write!(out, "f {} {}", run.first, run.pages),
            Operation::Fill { .. } => write!(out, "c"),
            Operation::Take { cache, pages, .. } => write!(out, "p {cache} {pages}"),
            Operation::Return { cache } => write!(out, "u {cache}"),
        }
    }
}

/// An operation and the line it is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What the line asks for.
    pub(crate) operation: Operation,
}

/// A well-formed trace.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The chunks that exist, ascending; at least one.
    pub(crate) chunks: Vec<usize>,
    /// What is released at the start; no page twice.
    pub(crate) released: Vec<Run>,
    /// The operations in order.
    pub(crate) steps: Vec<Step>,
}

impl Trace {
    /// Reads a trace.
    pub(crate) fn parse(text: &[u8]) -> Result<Trace, Malformed> {
        let mut reader = Reader::default();
        let mut last = 0;
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            last = index + 1;
            reader.line(last, line).map_err(|why| Malformed { line: last, why })?;
        }
        match reader.trace {
            Some(trace) => Ok(trace),
            None => Err(Malformed { line: last, why: "the trace ends without a `chunks` line".into() }),
        }
    }
}

/// A trace while it is read.
#[derive(Default)]
struct Reader {
    /// There from the `chunks` line on.
    trace: Option<Trace>,
    /// The pages that `scavenged` lines named.
    released: BTreeSet<usize>,
    /// How many caches are open by the recorded answers.
    open: usize,
}

impl Reader {
    /// Takes in one line; the error is what is wrong with it.
    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), String> {
        let line = std::str::from_utf8(line).map_err(|_| "the line is not text")?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some((&word, operands)) = words.split_first() else { return Ok(()) };
        let Some(trace) = &mut self.trace else {
            if word != "chunks" {
                return Err(format!("the first line must be `chunks …`, not `{word} …`"));
            }
            self.trace = Some(Trace { chunks: chunks(operands)?, released: Vec::new(), steps: Vec::new() });
            return Ok(());
        };
        if word == "scavenged" {
            if !trace.steps.is_empty() {
                return Err("`scavenged` must come before the operations".into());
            }
            let run = run(operands, &trace.chunks)?;
            if !(run.first..run.first + run.pages).all(|page| self.released.insert(page)) {
                return Err("a page is named as scavenged twice".into());
            }
            trace.released.push(run);
            return Ok(());
        }
        let operation = operation(word, operands, &trace.chunks, self.open)?;
        match operation {
            Operation::Fill { answer: Some(_) } => self.open += 1,
            Operation::Return { .. } => self.open -= 1,
            _ => {}
        }
        trace.steps.push(Step { line: number, operation });
        Ok(())
    }
}

/// The operands of `chunks`.
fn chunks(operands: &[&str]) -> Result<Vec<usize>, String> {
    let chunks = operands.iter().map(|word| decimal("chunk", word)).collect::<Result<Vec<_>, _>>()?;
    if chunks.is_empty() {
        return Err("`chunks` names no chunk".into());
    }
    if !chunks.is_sorted_by(|a, b| a < b) {
        return Err("the chunks must ascend, each named once".into());
    }
    match chunks.last() {
        Some(&chunk) if chunk >= MAX_CHUNKS => {
            Err(format!("chunk {chunk} is out of range (0 to {})", MAX_CHUNKS - 1))
        }
        _ => Ok(chunks),
    }
}

/// An operation with its answer, checked against the chunks and the number of open caches.
fn operation(word: &str, words: &[&str], chunks: &[usize], open: usize) -> Result<Operation, String> {
    let equals = words.iter().position(|&word| word == "=");
    let (operands, answer) = match equals {
        Some(at) => (&words[..at], Some(&words[at + 1..])),
        None => (words, None),
    };
    let answer = |form: &str| answer.ok_or_else(|| format!("`{word}` needs an answer: `= {form}` or `= -`"));
    match word {
        "a" => {
            let [pages] = exactly(word, "N", operands)?;
            Ok(Operation::Allocate { pages: page_count(pages)?, answer: taken(answer("P S")?)? })
        }
        "c" => {
            let [] = exactly(word, "", operands)?;
            Ok(Operation::Fill { answer: filled(answer("B F S")?)? })
        }
        "p" => {
            let [cache, pages] = exactly(word, "I N", operands)?;
            let (cache, pages) = (open_cache(cache, open)?, page_count(pages)?);
            if pages > CACHE_PAGES {
                return Err(format!("a page cache has {CACHE_PAGES} pages, not {pages}"));
            }
            Ok(Operation::Take { cache, pages, answer: taken(answer("P S")?)? })
        }
        "f" | "u" if equals.is_some() => Err(format!("`{word}` has no answer")),
        "f" => Ok(Operation::Free(run(operands, chunks)?)),
        "u" => {
            let [cache] = exactly(word, "I", operands)?;
            Ok(Operation::Return { cache: open_cache(cache, open)? })
        }
        "chunks" => Err("there can be only one `chunks` line".into()),
        _ => Err(format!("unknown operation `{word}`; the operations are a, f, c, p and u")),
    }
}

/// The operands, if they are as many as the form says.
fn exactly<'a, const N: usize>(word: &str, form: &str, operands: &[&'a str]) -> Result<[&'a str; N], String> {
    operands
        .try_into()
        .map_err(|_| format!("`{word}` takes the operands `{form}`, not {} words", operands.len()))
}

/// `P N`: pages that all lie in existing chunks.
fn run(operands: &[&str], chunks: &[usize]) -> Result<Run, String> {
    let [first, pages] = exactly("pages", "P N", operands)?;
    let run = Run { first: decimal("page", first)?, pages: page_count(pages)? };
    let last = run.first.checked_add(run.pages - 1).ok_or("the pages are out of range")?;
    let missing =
        (run.first / CHUNK_PAGES..=last / CHUNK_PAGES).find(|chunk| chunks.binary_search(chunk).is_err());
    match missing {
        Some(chunk) => Err(format!(
            "the pages {} to {last} lie outside the chunks: there is no chunk {chunk}",
            run.first
        )),
        None => Ok(run),
    }
}

/// The answer to `a` and `p`.
fn taken(words: &[&str]) -> Result<Option<Taken>, String> {
    match words {
        ["-"] => Ok(None),
        [first, released] => Ok(Some(Taken {
            first: decimal("page", first)?,
            released: decimal("number of pages", released)?,
        })),
        _ => Err("the answer must be `P S` or `-`".into()),
    }
}

/// The answer to `c`.
fn filled(words: &[&str]) -> Result<Option<Filled>, String> {
    match words {
        ["-"] => Ok(None),
        [base, free, released] => Ok(Some(Filled {
            base: decimal("page", base)?,
            free: bitmap(free)?,
            released: bitmap(released)?,
        })),
        _ => Err("the answer must be `B F S` or `-`".into()),
    }
}

/// The number of an open cache.
fn open_cache(word: &str, open: usize) -> Result<usize, String> {
    match decimal("cache", word)? {
        cache if cache < open => Ok(cache),
        cache => Err(format!("there is no open cache {cache} (open: {open})")),
    }
}

/// A number of pages to ask for or to give back.
fn page_count(word: &str) -> Result<usize, String> {
    match decimal("number of pages", word)? {
        0 => Err("the number of pages must not be 0".into()),
        pages => Ok(pages),
    }
}

/// A decimal number of digits only.
fn decimal(what: &str, word: &str) -> Result<usize, String> {
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{word}` is no {what}: a decimal number is expected"));
    }
    word.parse().map_err(|_| format!("the {what} {word} is out of range"))
}

/// A bitmap of 64 bits in hexadecimal digits.
fn bitmap(word: &str) -> Result<u64, String> {
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("`{word}` is no bitmap: a hexadecimal number is expected"));
    }
    u64::from_str_radix(word, 16).map_err(|_| format!("the bitmap {word} has more than 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_line() {
        let text = b"chunks 0 1 5\nscavenged 3 2\n\na 2 = 0 1\r\na 9 = -\nf 0 2\nc = 64 ff f0\nc = -\np 0 3 = 64 0\nu 0\n";
        let trace = Trace::parse(text).unwrap();
        assert_eq!(trace.chunks, [0, 1, 5]);
        assert_eq!(trace.released, [Run { first: 3, pages: 2 }]);
        let steps: Vec<_> = trace.steps.iter().map(|step| (step.line, step.operation.to_string())).collect();
        let expected = [(4, "a 2"), (5, "a 9"), (6, "f 0 2"), (7, "c"), (8, "c"), (9, "p 0 3"), (10, "u 0")];
        assert_eq!(steps, expected.map(|(line, text)| (line, text.to_string())));
        let filled = Filled { base: 64, free: 0xff, released: 0xf0 };
        assert_eq!(trace.steps[3].operation, Operation::Fill { answer: Some(filled) });
    }

    #[test]
    fn malformed_lines_are_told_with_their_number() {
        let cases: [(&str, usize, &str); 33] = [
            ("", 1, "without a `chunks` line"),
            ("\n\n", 3, "without a `chunks` line"),
            ("a 1 = 0 0", 1, "first line"),
            ("chunks", 1, "no chunk"),
            ("chunks 1 0", 1, "ascend"),
            ("chunks 1 1", 1, "ascend"),
            ("chunks -1", 1, "decimal"),
            ("chunks 67108864", 1, "out of range"),
            ("chunks 99999999999999999999999", 1, "out of range"),
            ("chunks 0\nchunks 1", 2, "only one"),
            ("chunks 0\nscavenged 0", 2, "operands"),
            ("chunks 0\nscavenged 512 1", 2, "outside"),
            ("chunks 0\nscavenged 0 2\nscavenged 1 1", 3, "twice"),
            ("chunks 0\na 1 = 0 0\nscavenged 0 1", 3, "before"),
            ("chunks 0\nx 1", 2, "unknown operation"),
            ("chunks 0\na 1", 2, "needs an answer"),
            ("chunks 0\na = 0 0", 2, "operands"),
            ("chunks 0\na 0 = 0 0", 2, "must not be 0"),
            ("chunks 0\na 1 = 0", 2, "answer"),
            ("chunks 0\na 1 = 0 0 0", 2, "answer"),
            ("chunks 0\na one = 0 0", 2, "decimal"),
            ("chunks 0\na 1 = = 0", 2, "decimal"),
            ("chunks 0\nf 0", 2, "operands"),
            ("chunks 0\nf 0 1 = 0", 2, "no answer"),
            ("chunks 0\nf 510 3", 2, "no chunk 1"),
            ("chunks 0\nf 2 18446744073709551615", 2, "out of range"),
            ("chunks 0\nc 0 = -", 2, "operands"),
            ("chunks 0\nc = 0 xyz 0", 2, "hexadecimal"),
            ("chunks 0\nc = 0 1ffffffffffffffff 0", 2, "64 bits"),
            ("chunks 0\np 0 1 = -", 2, "no open cache 0"),
            ("chunks 0\nc = 0 ff 0\np 0 65 = -", 3, "64 pages"),
            ("chunks 0\nc = 0 ff 0\nu 0\nu 0", 4, "no open cache 0"),
            ("chunks 0\nc = -\nu 0", 3, "no open cache 0"),
        ];
        for (text, line, why) in cases {
            let error = Trace::parse(text.as_bytes()).expect_err(text);
            assert_eq!(error.line, line, "{text:?}: {}", error.why);
            assert!(error.why.contains(why), "{text:?}: {}", error.why);
        }
        assert_eq!(Trace::parse(b"chunks 0\n\xff\xfe").unwrap_err().line, 2);
    }
}
