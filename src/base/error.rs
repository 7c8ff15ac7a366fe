//! Scarcity: what is returned when memory is refused. Never a reason to abort.

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
