//! What a page holds, in one byte.
//!
//! The table of kinds has a byte for each page, and a marker that follows a pointer looks there first: most words of
//! memory are no pointers into the collected heap, and the byte says so. For those that are, [`ROWS`] has all that is
//! needed to find the object, in a table of constants:
//!
//! ```text
//!   0                      no objects here
//!   1 + 3 × class + kind   the first page of a span of one size class
//!   behind them            the first page of a span with one large object: one code a kind
//!   255                    a later page of a span: the first one knows more
//! ```
//!
//! A code of a size class is also the number of an allocation cache's bin and of the set of spans that feeds it:
//! [`SpanClass`].

use super::class::{self, MAX_ONE_PAGE};
use crate::base::class::{CLASSES, SizeClass};

/// Where the pointers of a span's objects are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SpanKind {
    /// There are none.
    Plain = 0,
    /// Any word may be one.
    Words = 1,
    /// Where the page's bitmap says: sizes up to [`MAX_ONE_PAGE`].
    Mapped = 2,
    /// Where the object's shape says, whose number stands beside the object: larger sizes.
    Headed = 3,
}

/// What a page holds. Of the codes of size classes this is the *span class*: kind and size of a span's objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SpanClass(pub u8);

/// Kinds that a size class comes in: plain, words, and one of the two that know shapes.
const KINDS: usize = 3;
/// Codes below this one are of size classes, or of no objects.
pub const SPAN_CLASSES: usize = 1 + KINDS * CLASSES;

/// What follows from a code.
#[derive(Clone, Copy, Debug)]
pub struct SpanRow {
    /// Bytes of a slot; 0 where the code does not say.
    pub size: u32,
    /// Finds a slot's index, see [`class::index`].
    pub magic: u32,
    /// Slots of the span; 0 where the code does not say, so that no index is below it.
    pub slots: u16,
    /// Pages of the span; 0 where the code does not say.
    pub pages: u16,
    /// Where pointers are.
    pub kind: SpanKind,
    /// The size class; [`CLASSES`] for large objects.
    pub class: SizeClass,
}

/// What follows from every code.
pub static ROWS: [SpanRow; 256] = {
    let nothing =
        SpanRow { size: 0, magic: 0, slots: 0, pages: 0, kind: SpanKind::Plain, class: SizeClass(0) };
    let mut rows = [nothing; 256];
    let mut code = 1;
    while code < SPAN_CLASSES {
        let class = SizeClass(((code - 1) / KINDS) as u8);
        let class::ObjectRow { size, magic, pages, slots } = *class::row(class);
        let kind = match (code - 1) % KINDS {
            0 => SpanKind::Plain,
            1 => SpanKind::Words,
            _ if size as usize <= MAX_ONE_PAGE => SpanKind::Mapped,
            _ => SpanKind::Headed,
        };
        rows[code] = SpanRow { size, magic, slots, pages, kind, class };
        code += 1;
    }
    let mut large = 0;
    while large < KINDS {
        let kind = [SpanKind::Plain, SpanKind::Words, SpanKind::Headed][large];
        rows[SPAN_CLASSES + large] = SpanRow { slots: 1, kind, class: SizeClass(CLASSES as u8), ..nothing };
        large += 1;
    }
    rows
};

const _: () = assert!(SPAN_CLASSES + KINDS <= SpanClass::LATER.0 as usize);

impl SpanClass {
    /// No objects.
    pub const NONE: SpanClass = SpanClass(0);
    /// A page of an object span that is not its first one.
    pub const LATER: SpanClass = SpanClass(255);

    /// The span class of objects of a size class. Of [`SpanKind::Mapped`] and [`SpanKind::Headed`] the one that the
    /// size has is meant.
    pub const fn new(kind: SpanKind, class: SizeClass) -> SpanClass {
        SpanClass((1 + class.0 as usize * KINDS + SpanClass::column(kind)) as u8)
    }

    /// The code of a large object.
    pub const fn large(kind: SpanKind) -> SpanClass {
        SpanClass((SPAN_CLASSES + SpanClass::column(kind)) as u8)
    }

    const fn column(kind: SpanKind) -> usize {
        match kind {
            SpanKind::Plain => 0,
            SpanKind::Words => 1,
            SpanKind::Mapped | SpanKind::Headed => 2,
        }
    }

    /// Whether a span of this code has slots of a size class.
    #[inline]
    pub const fn is_small(self) -> bool {
        self.0 != 0 && (self.0 as usize) < SPAN_CLASSES
    }

    /// Whether a span of this code is one large object.
    #[inline]
    pub const fn is_large(self) -> bool {
        self.0 as usize >= SPAN_CLASSES && self.0 != SpanClass::LATER.0
    }

    /// Whether a page of this code is the first of an object span.
    #[inline]
    pub const fn is_first(self) -> bool {
        self.0 != SpanClass::NONE.0 && self.0 != SpanClass::LATER.0
    }

    /// What follows from the code.
    #[inline(always)]
    pub fn row(self) -> &'static SpanRow {
        &ROWS[self.0 as usize]
    }

    /// The span classes of all size classes.
    pub fn all() -> impl Iterator<Item = SpanClass> {
        (1..SPAN_CLASSES as u8).map(SpanClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_and_what_they_stand_for_are_one_to_one() {
        let mut seen = BTreeSet::from([SpanClass::NONE, SpanClass::LATER]);
        for class in SizeClass::all() {
            let shaped = if class.size() <= MAX_ONE_PAGE { SpanKind::Mapped } else { SpanKind::Headed };
            for kind in [SpanKind::Plain, SpanKind::Words, shaped] {
                let code = SpanClass::new(kind, class);
                let row = code.row();
                assert!(seen.insert(code), "{code:?} stands for two things");
                assert_eq!((row.kind, row.class, row.size as usize), (kind, class, class.size()));
                assert!(code.is_small() && code.is_first() && !code.is_large());
            }
        }
        for kind in [SpanKind::Plain, SpanKind::Words, SpanKind::Headed] {
            let code = SpanClass::large(kind);
            assert!(seen.insert(code), "{code:?} stands for two things");
            assert_eq!((code.row().kind, code.row().slots), (kind, 1));
            assert!(code.is_large() && code.is_first() && !code.is_small());
        }
        assert_eq!(SpanClass::all().filter(|code| seen.contains(code)).count(), SPAN_CLASSES - 1);
    }

    #[test]
    fn pages_without_objects_have_no_slots() {
        for code in [SpanClass::NONE, SpanClass::LATER] {
            assert!(!code.is_first() && !code.is_small() && !code.is_large());
            assert_eq!(code.row().slots, 0);
        }
    }

    #[test]
    fn small_mapped_objects_and_no_others_lie_on_one_page() {
        for code in SpanClass::all().filter(|code| code.row().kind == SpanKind::Mapped) {
            assert_eq!(code.row().pages, 1);
        }
    }
}
