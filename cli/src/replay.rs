//! `spanheap replay`: page traces against a page allocator.
//!
//! The replay follows the allocator's own answers, not the recorded ones: pages are in use when *this* allocator handed
//! them out. Until the first difference the two are the same, so a request that makes no sense (freeing pages that are
//! free) is the trace's fault and makes it malformed. After a difference such a request is a consequence; it is left out
//! and counted.
//!
//! An open cache is known by its place in the list of caches that the *trace* has open. Where the allocator had no pages
//! for a cache that the trace says was filled, an empty place keeps the list in step; where it filled one that the trace
//! does not know, the pages go straight back.
//!
//! Exit status: 0 when all answers of all files agree, 1 when some differ, 2 when a file is missing or malformed.

use crate::run::say;
use crate::target::RealPages;
use crate::trace::{Filled, Malformed, Operation, Run, Step, Taken, Trace};
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A page allocator as a trace sees it. Caches are numbered by the order of filling, without gaps: giving one back moves
/// those after it down by one.
pub(crate) trait Target {
    /// Takes `pages` neighbouring pages.
    fn allocate(&mut self, pages: usize) -> Option<Taken>;
    /// Gives pages back, which are all in use.
    fn free(&mut self, run: Run);
    /// Fills a new page cache, which becomes the last.
    fn fill_cache(&mut self) -> Option<Filled>;
    /// Takes pages from a cache.
    fn take_cached(&mut self, cache: usize, pages: usize) -> Option<Taken>;
    /// Gives a cache back with the pages it still has.
    fn return_cache(&mut self, cache: usize);
    /// Proves the allocator's own invariants; the error names the first that does not hold.
    fn check(&self) -> Result<(), String>;
}

/// The first answer that was not as recorded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The line of the trace.
    pub(crate) line: usize,
    /// The request.
    pub(crate) request: String,
    /// The recorded answer, as the trace writes it.
    pub(crate) expected: String,
    /// The answer of the allocator under test.
    pub(crate) got: String,
}

/// What a replay found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Requests that have an answer, the ones left out included.
    pub(crate) answers: usize,
    /// Those answered as recorded.
    pub(crate) agreed: usize,
    /// Requests left out, because they made no sense any more after a difference.
    pub(crate) left_out: usize,
    /// The first difference.
    pub(crate) difference: Option<Difference>,
}

/// Replays the files one after the other, prints the result of each, and returns the exit status.
pub(crate) fn replay_files(files: &[PathBuf]) -> i32 {
    files.iter().map(|file| replay_file(file)).max().unwrap_or(0)
}

/// Replays one file; the exit status it deserves.
fn replay_file(file: &Path) -> i32 {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(e) => {
            say(format_args!("cannot read {}: {e}", file.display()));
            return 2;
        }
    };
    let result = Trace::parse(&text).and_then(|trace| {
        let mut target = match RealPages::new(&trace) {
            Ok(target) => target,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let outcome = replay(&trace, &mut target)?;
        Ok(target.check().map(|()| outcome))
    });
    // Whoever closed our output has seen enough; the exit status still tells.
    match result {
        Ok(Ok(outcome)) => {
            let _ = writeln!(io::stdout(), "{}: {outcome}", file.display());
            i32::from(outcome.difference.is_some())
        }
        Ok(Err(failure)) => {
            let _ = writeln!(io::stdout(), "{}: the allocator fails: {failure}", file.display());
            1
        }
        Err(Malformed { line, why }) => {
            say(format_args!("{}: line {line}: {why}", file.display()));
            2
        }
    }
}

/// Puts every request of the trace to the target, which has the trace's chunks and released pages.
pub(crate) fn replay(trace: &Trace, target: &mut impl Target) -> Result<Outcome, Malformed> {
    let mut replay =
        Replay { target, in_use: HashSet::new(), caches: Vec::new(), outcome: Outcome::default() };
    for step in &trace.steps {
        replay.step(step)?;
    }
    Ok(replay.outcome)
}

/// A replay under way.
struct Replay<'a, T> {
    target: &'a mut T,
    /// The pages that the target handed out and did not get back.
    in_use: HashSet<usize>,
    /// For each cache that the trace has open: whether the target has it open, too.
    caches: Vec<bool>,
    outcome: Outcome,
}

impl<T: Target> Replay<'_, T> {
    fn step(&mut self, step: &Step) -> Result<(), Malformed> {
        match step.operation {
            Operation::Allocate { pages, answer } => {
                let got = self.target.allocate(pages);
                self.hand_out(got, pages);
                self.compare(step, Answer(answer), Answer(got));
            }
            Operation::Free(run) => return self.free(step.line, run),
            Operation::Fill { answer } => {
                let got = self.target.fill_cache();
                match (answer, got) {
                    (Some(_), got) => self.caches.push(got.is_some()),
                    (None, Some(_)) => self.target.return_cache(self.filled_before(self.caches.len())),
                    (None, None) => {}
                }
                self.compare(step, Answer(answer), Answer(got));
            }
            Operation::Take { cache, pages, answer } => {
                let place = self.filled_before(cache);
                let got = if self.caches[cache] { self.target.take_cached(place, pages) } else { None };
                self.hand_out(got, pages);
                self.compare(step, Answer(answer), Answer(got));
            }
            Operation::Return { cache } => {
                let place = self.filled_before(cache);
                if self.caches.remove(cache) {
                    self.target.return_cache(place);
                }
            }
        }
        Ok(())
    }

    /// The target's number for the trace's cache `cache`: the places before it that are not empty.
    fn filled_before(&self, cache: usize) -> usize {
        self.caches[..cache].iter().filter(|&&filled| filled).count()
    }

    fn hand_out(&mut self, got: Option<Taken>, pages: usize) {
        if let Some(taken) = got {
            self.in_use.extend(taken.first..taken.first + pages);
        }
    }

    fn free(&mut self, line: usize, run: Run) -> Result<(), Malformed> {
        let mut pages = run.first..run.first + run.pages;
        match pages.clone().find(|page| !self.in_use.contains(page)) {
            None => {
                pages.all(|page| self.in_use.remove(&page));
                self.target.free(run);
            }
            Some(_) if self.outcome.difference.is_some() => self.outcome.left_out += 1,
            Some(page) => {
                let why = format!("`f {} {}` frees page {page}, which is not in use", run.first, run.pages);
                return Err(Malformed { line, why });
            }
        }
        Ok(())
    }

    fn compare<A: PartialEq>(&mut self, step: &Step, expected: Answer<A>, got: Answer<A>)
    where
        Answer<A>: fmt::Display,
    {
        self.outcome.answers += 1;
        if expected == got {
            self.outcome.agreed += 1;
        } else if self.outcome.difference.is_none() {
            self.outcome.difference = Some(Difference {
                line: step.line,
                request: step.operation.to_string(),
                expected: expected.to_string(),
                got: got.to_string(),
            });
        }
    }
}

/// An answer, printed as the trace writes it.
#[derive(PartialEq)]
struct Answer<A>(Option<A>);

impl fmt::Display for Answer<Taken> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(taken) => write!(out, "{} {}", taken.first, taken.released),
            None => write!(out, "-"),
        }
    }
}

impl fmt::Display for Answer<Filled> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(filled) => write!(out, "{} {:x} {:x}", filled.base, filled.free, filled.released),
            None => write!(out, "-"),
        }
    }
}

/// The result of one file: how many answers agree, and the first that does not.
impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of {} answers agree", self.agreed, self.answers)?;
        let Some(difference) = &self.difference else { return Ok(()) };
        let Difference { line, request, expected, got } = difference;
        write!(out, "\n  first difference at line {line}, `{request}`: expected {expected}, got {got}")?;
        if self.left_out > 0 {
            write!(out, "\n  {} later requests left out: they free pages not in use since", self.left_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    fn on_the_model(text: &str) -> Result<Outcome, Malformed> {
        let trace = Trace::parse(text.as_bytes())?;
        let mut model = Model::new(&trace);
        replay(&trace, &mut model)
    }

    #[test]
    fn agreement_is_counted() {
        let outcome = on_the_model(
            "chunks 0 1 5\nscavenged 510 4\na 511 = 0 1\na 513 = 511 3\na 1 = 2560 0\n\
             f 5 2\nc = 0 60 0\na 1 = 2561 0\np 0 2 = 5 0\np 0 1 = -\nu 0\nf 511 1\na 1 = 511 0\n",
        );
        let outcome = outcome.unwrap();
        assert_eq!(outcome.difference, None);
        assert_eq!((outcome.agreed, outcome.answers, outcome.left_out), (8, 8, 0));
    }

    #[test]
    fn the_first_difference_is_told_and_what_follows_from_it_is_left_out() {
        let outcome = on_the_model("chunks 0\na 1 = 0 0\na 4 = 6 0\nf 6 4\na 1 = 5 1\nc = 0 0 0\n").unwrap();
        assert_eq!((outcome.agreed, outcome.answers, outcome.left_out), (1, 4, 1));
        let text = outcome.to_string();
        assert!(text.starts_with("1 of 4 answers agree\n"), "{text}");
        assert!(text.contains("line 3, `a 4`: expected 6 0, got 1 0"), "{text}");
    }

    #[test]
    fn freeing_what_is_not_in_use_is_the_traces_fault() {
        let error = on_the_model("chunks 0\na 2 = 0 0\nf 0 1\nf 0 2\n").unwrap_err();
        assert_eq!(error.line, 4);
        assert!(error.why.contains("page 0"), "{}", error.why);
        // Pages of an open cache belong to the cache until it hands them out.
        assert_eq!(on_the_model("chunks 0\nc = 0 ffffffffffffffff 0\nf 0 1\n").unwrap_err().line, 3);
    }

    #[test]
    fn caches_stay_in_step_after_a_difference() {
        // The trace has a cache that the model cannot fill, and one that the model fills against the trace.
        let text =
            "chunks 0\na 512 = 0 0\nc = 0 1 0\np 0 1 = 0 0\nf 0 1\nc = -\nc = 0 1 0\np 1 1 = 0 0\nu 0\nu 0\n";
        let outcome = on_the_model(text).unwrap();
        assert_eq!(outcome.difference.as_ref().map(|difference| difference.line), Some(3));
        assert_eq!((outcome.agreed, outcome.answers), (3, 6));
    }
}
