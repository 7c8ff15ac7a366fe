//! What a span is for: THE table.
//!
//! Whoever takes a span declares its purpose, and everything else follows from that: who may free it and when,
//! whether the collector looks inside, and where its bytes stand in the books. A purpose is a declaration, not a
//! flag; one purpose is never borrowed for another use. Adding a built-in purpose is one row of `BUILT_IN`.
//!
//! Programs declare their own at run time, up to [`MAX_DECLARED`]; those follow the built-in ones in number.
//! (Go: `spanAllocType`, with three values.)

use core::fmt;

/// A purpose's number: its place in the books.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct PurposeId(pub u8);

/// Who decides when a span of the purpose is freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The collector, by sweeping. Such memory cannot be asked for by hand.
    Collector,
    /// Whoever took the span.
    Holder,
}

/// When a span of the purpose may go back to the page heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeWhen {
    /// When its holder says so.
    Anytime,
    /// Not while the collector marks: a stale pointer into it could otherwise mark what comes after it.
    NotMarking,
    /// When the sweeper finds nothing alive in it.
    Swept,
}

/// Where the purpose's bytes stand in the words of Go's `MemStats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoWord {
    /// `HeapInuse`.
    Heap,
    /// `StackInuse`.
    Stack,
    /// `GCSys`.
    Collector,
    /// `OtherSys`: manual memory, which Go has no word for and which does not count as heap.
    Other,
}

/// A purpose of stacks, by its place among those: stacks have figures that other purposes do not have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct StackKind(pub u8);

/// How many purposes of stacks a heap can have: the built-in one, and those that the program declares.
pub const STACK_KINDS: usize = 16;

impl StackKind {
    /// The built-in one: [`STACKS`].
    pub const BUILT_IN: StackKind = StackKind(0);

    /// Every kind that a heap can have.
    pub fn all() -> impl Iterator<Item = StackKind> {
        (0..STACK_KINDS as u8).map(StackKind)
    }

    /// The kind's place in tables of [`STACK_KINDS`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One row of the table: everything that follows from a purpose.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name in the books; also the metric's label.
    pub name: &'static str,
    /// Who frees.
    pub owner: Owner,
    /// Whether the collector looks for references inside.
    pub traced: bool,
    /// When a span may be freed.
    pub free_when: FreeWhen,
    /// Where it counts in Go's words.
    pub go: GoWord,
}

/// Objects under the collector.
pub const OBJECTS: PurposeId = PurposeId(0);
/// Execution stacks.
pub const STACKS: PurposeId = PurposeId(1);
/// Pointer maps of collected objects that are too large to carry them inside.
pub const POINTER_MAPS: PurposeId = PurposeId(2);
/// The collector's lists of objects still to be scanned.
pub const WORK_BUFFERS: PurposeId = PurposeId(3);
/// Explicitly freed blocks that nobody declared a purpose for.
pub const BLOCKS: PurposeId = PurposeId(4);

/// The built-in purposes, by number.
#[rustfmt::skip]
pub const BUILT_IN: [Row; 5] = [
    Row { name: "objects",      owner: Owner::Collector, traced: true,  free_when: FreeWhen::Swept,      go: GoWord::Heap },
    Row { name: "stacks",       owner: Owner::Holder,    traced: true,  free_when: FreeWhen::NotMarking, go: GoWord::Stack },
    Row { name: "pointer-maps", owner: Owner::Holder,    traced: false, free_when: FreeWhen::Anytime,    go: GoWord::Collector },
    Row { name: "work-buffers", owner: Owner::Holder,    traced: false, free_when: FreeWhen::NotMarking, go: GoWord::Collector },
    Row { name: "blocks",       owner: Owner::Holder,    traced: false, free_when: FreeWhen::Anytime,    go: GoWord::Other },
];

/// What holds for every purpose that a program declares.
pub const DECLARED: Row =
    Row { name: "", owner: Owner::Holder, traced: false, free_when: FreeWhen::Anytime, go: GoWord::Other };

/// How many purposes a program may declare in one heap.
pub const MAX_DECLARED: usize = 200;
/// How many purposes a heap can have.
pub const MAX_PURPOSES: usize = BUILT_IN.len() + MAX_DECLARED;
/// The longest name of a purpose, in bytes.
pub const MAX_NAME: usize = 47;

impl PurposeId {
    /// The row of this purpose.
    pub const fn row(self) -> Row {
        if (self.0 as usize) < BUILT_IN.len() { BUILT_IN[self.0 as usize] } else { DECLARED }
    }

    /// The purpose's place in tables of [`MAX_PURPOSES`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether the purpose is in the table, not declared by the program.
    pub const fn is_built_in(self) -> bool {
        (self.0 as usize) < BUILT_IN.len()
    }
}

/// A purpose's name, held without allocation: its length, and its text. Other processes read it where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PurposeName {
    length: u8,
    text: [u8; MAX_NAME],
}

/// Why a name is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadName {
    /// No characters.
    Empty,
    /// More than [`MAX_NAME`] bytes.
    Long,
    /// A character other than `a-z`, `A-Z`, `0-9`, `-`, `_`, `.` and `/`.
    Character(char),
}

impl PurposeName {
    /// Checks and copies a name. Names become metric labels and JSON keys, so their characters are few.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong with it.
    pub fn new(name: &str) -> Result<PurposeName, BadName> {
        if name.is_empty() {
            return Err(BadName::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(BadName::Long);
        }
        if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_./".contains(*c))) {
            return Err(BadName::Character(c));
        }
        Ok(PurposeName::copied(name))
    }

    /// The name of a built-in purpose; empty for a declared one, whose name the heap keeps.
    pub const fn built_in(id: PurposeId) -> PurposeName {
        PurposeName::copied(id.row().name)
    }

    const fn copied(name: &str) -> PurposeName {
        let mut text = [0; MAX_NAME];
        let (bytes, mut i) = (name.as_bytes(), 0);
        while i < bytes.len() {
            text[i] = bytes[i];
            i += 1;
        }
        PurposeName { length: bytes.len() as u8, text }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.text[..self.length as usize]).unwrap_or("")
    }
}

impl fmt::Display for PurposeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for PurposeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadName::Empty => write!(f, "a purpose needs a name"),
            BadName::Long => write!(f, "a purpose's name has at most {MAX_NAME} bytes"),
            BadName::Character(c) => {
                write!(f, "{c:?} cannot stand in a purpose's name (a-z A-Z 0-9 - _ . /)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_name_their_rows() {
        for (id, name) in [
            (OBJECTS, "objects"),
            (STACKS, "stacks"),
            (POINTER_MAPS, "pointer-maps"),
            (WORK_BUFFERS, "work-buffers"),
            (BLOCKS, "blocks"),
        ] {
            assert_eq!(id.row().name, name);
        }
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(PurposeName::new("query-results").unwrap().as_str(), "query-results");
        assert_eq!(PurposeName::new(""), Err(BadName::Empty));
        assert_eq!(PurposeName::new("a b"), Err(BadName::Character(' ')));
        assert_eq!(PurposeName::new(&"x".repeat(MAX_NAME + 1)), Err(BadName::Long));
        assert_eq!(PurposeName::new(&"x".repeat(MAX_NAME)).unwrap().as_str().len(), MAX_NAME);
    }
}
