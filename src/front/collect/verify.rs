//! The second marking of a cycle, for [`CollectConfig::verify`](super::CollectConfig::verify): whatever should be marked
//! is looked for in another way, and the first object that was missed stops the program.
//!
//! What is asked follows from the proof in the essay of `gc`:
//!
//! - *When marking begins*, what the stacks hold is marked, and noted. Later they cannot be asked: a word that has lain
//!   on a stack for long, and that no frame uses, may lead to an object that is rightly dead.
//! - *When marking has ended*, everything is marked that can be reached from roots, registered ranges, providers,
//!   attachments, and from what was noted.
//!
//! Nothing of the marking's code reads a word here. Where there is no memory for the search, it is not made.
//!
//! # Safety
//! The world stands still.

use super::Collection;
use super::cycle::Members;
use crate::base::Exhausted;
use crate::front::environment;
use crate::front::heap::Heap;
use crate::gc::attach::AttachedRoot;
use crate::gc::{Pile, RootRange, Unmarked, Verifier};
use crate::object::ObjectWork;
use core::{fmt, ptr};

impl Collection {
    /// Stops the program if the stacks lead to an object that is not marked, and notes those that are. The world stands
    /// still, stacks have just been scanned, and nobody marks yet.
    pub(super) fn verify_stacks(&self, heap: &Heap, members: Members<'_>, noted: &mut Pile) {
        self.for_each_stack(heap, members, |start, size| {
            let range = RootRange { start, size, bits: ptr::null() };
            let visit = &mut |word| match self.objects.find(word) {
                Some(object) if self.objects.is_marked(&object) => {
                    let note = |work: &mut ObjectWork<'_, '_>| noted.push(word, work.ground, work.spans);
                    // Without memory there is less to compare.
                    let _ = self.with_work(heap, heap.mutator(), note);
                }
                Some(object) => {
                    panic!("the collector missed {object:?}, which the stack at {start} leads to")
                }
                None => {}
            };
            // SAFETY: frames that somebody comes back to.
            unsafe { range.for_each_word(visit) };
        });
    }

    /// Stops the program if an object was missed. The world stands still, and marking has ended.
    pub(super) fn verify(&self, heap: &Heap, noted: &mut Pile) {
        let reached = self.with_work(heap, heap.mutator(), |work| {
            // SAFETY: the world stands still, marking has ended, and nothing is swept.
            let verifier = unsafe { Verifier::new(work.ground, work.spans, (&self.objects, &self.shapes)) };
            let reached = verifier.and_then(|mut verifier| {
                let walked = self.walk_roots(&mut verifier).and_then(|()| verifier.all(noted));
                let finished = verifier.finish();
                walked.map(|()| finished)
            });
            noted.clear(work.ground, work.spans);
            reached
        });
        if let Ok(Err(Unmarked { object, parent })) = reached {
            stop(format_args!("{object:?}, which {parent:?} leads to"));
        }
    }

    fn walk_roots(&self, verifier: &mut Verifier<'_, '_>) -> Result<(), Exhausted> {
        let cells = self.roots.committed_ranges();
        let cells = cells.map(|(start, size)| RootRange { start, size, bits: ptr::null() });
        for range in cells.chain(self.collector.roots.all()) {
            // SAFETY: the cells are committed; ranges are removed by threads that run.
            unsafe { verifier.range(&range) }?;
        }
        let mut walked = Ok(());
        let mut walk = |address| {
            if walked.is_ok() {
                walked = verifier.root(address);
            }
        };
        self.ask_providers_again(&mut walk);
        self.attachments.roots(0..self.attachments.numbers(), &mut |root| {
            if let AttachedRoot::Object(address) = root {
                walk(address);
            }
        });
        walked
    }
}

/// Says what was missed. The program's memory is not what it believes, and the world stands still: nobody could go on.
fn stop(what: fmt::Arguments<'_>) -> ! {
    environment::say(format_args!("the collector missed {what}"));
    environment::abort()
}
