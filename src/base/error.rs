//! Two of the three families of errors. *Scarcity* ([`Exhausted`]) is returned when memory is refused, and is never
//! a reason to abort. *Our own bug* ([`Broken`]) is what the rooms' checks find. The third, misuse, belongs to the
//! doors.

use super::purpose::PurposeName;
use super::units::Bytes;
use core::fmt;

/// Memory was refused; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted {
    /// What ran out.
    pub scarce: Scarce,
    /// The purpose that the memory was wanted for.
    pub purpose: PurposeName,
    /// Bytes that were wanted.
    pub wanted: Bytes,
    /// The bound that stood in the way: the limit's bytes, or the bytes of the reservation.
    /// [`Bytes::ZERO`] where the system refused without naming one.
    pub limit: Bytes,
}

/// What can run out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scarce {
    /// The purpose's own hard limit.
    PurposeLimit,
    /// The heap's limit on committed memory.
    HeapLimit,
    /// The address space that the heap reserved.
    AddressSpace,
    /// The system refused memory, with this errno.
    System(i32),
    /// The request is larger than any heap can be.
    Size,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exhausted { scarce, purpose, wanted, limit } = self;
        write!(f, "no memory for {purpose}: wanted {wanted}, ")?;
        match scarce {
            Scarce::PurposeLimit => write!(f, "limit of this purpose {limit}"),
            Scarce::HeapLimit => write!(f, "limit of the heap {limit}"),
            Scarce::AddressSpace => write!(f, "reserved address space {limit}"),
            Scarce::System(errno) => write!(f, "the system refused it (errno {errno})"),
            Scarce::Size => write!(f, "more than any heap can hold"),
        }
    }
}

impl core::error::Error for Exhausted {}

/// An invariant of a room that does not hold: a bug of ours, or memory that somebody has overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The room, and the invariant's number in its list.
    pub invariant: (&'static str, u8),
    /// What should hold: the left value's relation to the right one.
    pub text: &'static str,
    /// What it does not hold for: a kind of thing and its number.
    pub subject: (&'static str, usize),
    /// What stands on the left.
    pub left: usize,
    /// What stands on the right.
    pub right: usize,
}

/// One invariant on its way to be proved.
#[derive(Clone, Copy)]
pub struct Invariant(pub &'static str, pub u8);

impl Invariant {
    /// Proves that two values are equal.
    ///
    /// # Errors
    /// [`Broken`], with both.
    pub fn equal(
        self,
        text: &'static str,
        subject: (&'static str, usize),
        left: usize,
        right: usize,
    ) -> Result<(), Broken> {
        self.holds(left == right, text, subject, left, right)
    }

    /// Proves that the left value is not above the right one.
    ///
    /// # Errors
    /// [`Broken`], with both.
    pub fn at_most(
        self,
        text: &'static str,
        subject: (&'static str, usize),
        left: usize,
        right: usize,
    ) -> Result<(), Broken> {
        self.holds(left <= right, text, subject, left, right)
    }

    fn holds(
        self,
        holds: bool,
        text: &'static str,
        subject: (&'static str, usize),
        left: usize,
        right: usize,
    ) -> Result<(), Broken> {
        if holds { Ok(()) } else { Err(Broken { invariant: (self.0, self.1), text, subject, left, right }) }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { invariant: (room, number), text, subject: (kind, which), left, right } = self;
        write!(f, "{room} {number}: {text}; fails for {kind} {which}: {left} against {right}")
    }
}

impl core::error::Error for Broken {}
