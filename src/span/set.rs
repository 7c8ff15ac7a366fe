//! A lock-free set of spans: any thread puts one in, any thread takes one out.
//!
//! The set is a stack linked through the records themselves, so it needs no memory of its own and a span can be
//! in one set at a time. Its head is one word: the top span's number below, and above it a count that every
//! change raises, so that a thread which read a head long ago cannot mistake it for the present one (ABA). A
//! record stays a record for ever, hence reading the link of a span that somebody else just took is harmless:
//! the exchange then fails.
//!
//! (Treiber, "Systems programming: coping with parallelism", 1986. Go's `spanSet` serves the same use with a
//! growing array of blocks, whose old spines it leaks.)

use super::record::SpanId;
use crate::base::sync::{AtomicU32, AtomicU64, Ordering};

/// A set of spans.
#[repr(transparent)]
pub struct SpanSet {
    head: AtomicU64,
}

/// Where the links of spans are found.
pub trait LinkOf {
    /// The link of a span.
    fn link_of(&self, span: SpanId) -> &AtomicU32;
}

fn top(head: u64) -> SpanId {
    SpanId(head as u32)
}

fn changed(head: u64, top: SpanId) -> u64 {
    (((head >> 32) + 1) << 32) | u64::from(top.0)
}

impl SpanSet {
    /// The empty set, equal to zeroed memory.
    pub fn new() -> SpanSet {
        SpanSet { head: AtomicU64::new(0) }
    }

    /// Puts a span in. It is in no set.
    pub fn push(&self, span: SpanId, links: &impl LinkOf) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            links.link_of(span).store(top(head).0, Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                changed(head, span),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes out the span that was put in last, if there is one.
    pub fn pop(&self, links: &impl LinkOf) -> Option<SpanId> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let span = top(head).some()?;
            let below = SpanId(links.link_of(span).load(Ordering::Relaxed));
            match self.head.compare_exchange_weak(
                head,
                changed(head, below),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(span),
                Err(now) => head = now,
            }
        }
    }

    /// Forgets all spans, of a set that nobody changes meanwhile.
    pub fn clear(&self) {
        self.head.store(changed(self.head.load(Ordering::Relaxed), SpanId::NONE), Ordering::Release);
    }

    /// The spans of a set that nobody changes meanwhile, from the top.
    pub fn iter<'a>(&'a self, links: &'a impl LinkOf) -> impl Iterator<Item = SpanId> + 'a {
        let mut at = top(self.head.load(Ordering::Acquire));
        core::iter::from_fn(move || {
            let span = at.some()?;
            at = SpanId(links.link_of(span).load(Ordering::Relaxed));
            Some(span)
        })
    }

    /// Whether the set was empty a moment ago.
    pub fn is_empty(&self) -> bool {
        top(self.head.load(Ordering::Relaxed)) == SpanId::NONE
    }
}

impl Default for SpanSet {
    fn default() -> SpanSet {
        SpanSet::new()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    struct Links(Vec<AtomicU32>);
    impl LinkOf for Links {
        fn link_of(&self, span: SpanId) -> &AtomicU32 {
            &self.0[span.0 as usize]
        }
    }

    /// One thread takes a span out and puts it back while the other takes: the classic ABA.
    #[test]
    fn loom_nothing_is_lost_or_doubled() {
        loom::model(|| {
            let links = Arc::new(Links((0..3).map(|_| AtomicU32::new(0)).collect()));
            let set = Arc::new(SpanSet::new());
            set.push(SpanId(1), &*links);
            set.push(SpanId(2), &*links);
            let other = {
                let (links, set) = (links.clone(), set.clone());
                loom::thread::spawn(move || {
                    let one = set.pop(&*links);
                    let two = set.pop(&*links);
                    if let Some(one) = one {
                        set.push(one, &*links);
                    }
                    two
                })
            };
            let mine = set.pop(&*links);
            let theirs = other.join().unwrap();
            let mut all: Vec<_> = [mine, theirs].into_iter().flatten().collect();
            while let Some(span) = set.pop(&*links) {
                all.push(span);
            }
            all.sort();
            assert_eq!(all, [SpanId(1), SpanId(2)]);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    struct Links(Vec<AtomicU32>);
    impl LinkOf for Links {
        fn link_of(&self, span: SpanId) -> &AtomicU32 {
            &self.0[span.0 as usize]
        }
    }

    fn links(n: usize) -> Links {
        Links((0..n).map(|_| AtomicU32::new(0)).collect())
    }

    proptest! {
        #[test]
        fn is_a_stack(pushes in proptest::collection::vec(any::<bool>(), 0..200)) {
            let (set, links, mut twin, mut next) = (SpanSet::new(), links(201), Vec::new(), 1);
            for push in pushes {
                if push {
                    set.push(SpanId(next), &links);
                    twin.push(SpanId(next));
                    next += 1;
                } else {
                    prop_assert_eq!(set.pop(&links), twin.pop());
                }
                prop_assert_eq!(set.is_empty(), twin.is_empty());
                prop_assert!(set.iter(&links).eq(twin.iter().rev().copied()));
            }
            set.clear();
            prop_assert_eq!(set.pop(&links), None);
        }
    }

    #[test]
    fn threads_lose_nothing() {
        const EACH: u32 = 1000;
        let shared = Arc::new((SpanSet::new(), links(4 * EACH as usize + 1)));
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let (set, links) = &*shared;
                    (0..EACH).for_each(|i| set.push(SpanId(1 + t * EACH + i), links));
                    for _ in 0..20_000 {
                        if let Some(span) = set.pop(links) {
                            set.push(span, links);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        let mut all: Vec<_> = std::iter::from_fn(|| shared.0.pop(&shared.1)).map(|s| s.0).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=4 * EACH));
    }
}
