//! Misuse: pointers that are not what they should be, named as exactly as the metadata allows.

use crate::base::{Address, PurposeName};
use core::fmt;

/// A pointer that cannot be freed, resized or measured, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misuse {
    /// The pointer.
    pub address: Address,
    /// What is wrong with it.
    pub fault: Fault,
    /// The span that it lies in, if it lies in one.
    pub span: Option<SpanPlace>,
}

/// What is wrong with a pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is not in this heap: from another allocator, a stack, or static memory.
    Foreign,
    /// It is in this heap, where no span is.
    NoSpan,
    /// It is in a span that does not hold blocks.
    NotABlock,
    /// It is inside a block or behind the last one, not at a block's beginning.
    Interior,
    /// The block is free already.
    DoubleFree,
    /// It is where a block could begin, but none was ever allocated there.
    NeverAllocated,
}

/// Where a span is and what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpanPlace {
    /// Its first byte.
    pub from: Address,
    /// The byte behind its last.
    pub to: Address,
    /// What it is for.
    pub purpose: PurposeName,
    /// Bytes of its blocks, if it holds blocks.
    pub block: Option<usize>,
}

impl Misuse {
    /// A pointer of which nothing is known.
    pub(crate) fn foreign(pointer: *const u8) -> Misuse {
        Misuse { address: Address::of(pointer), fault: Fault::Foreign, span: None }
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::Foreign => "is not in this heap (a stack, static memory, or another allocator's)",
            Fault::NoSpan => "is in this heap, but nothing is allocated there",
            Fault::NotABlock => "is in a span that holds no blocks",
            Fault::Interior => "is inside a block, not at its beginning",
            Fault::DoubleFree => "is a block that is free already (double free)",
            Fault::NeverAllocated => "is where no block was ever allocated",
        };
        write!(f, "{} {what}", self.address)?;
        if let Some(SpanPlace { from, to, purpose, block }) = self.span {
            write!(f, "; span {from}-{to}, purpose {purpose}")?;
            if let Some(size) = block {
                write!(f, ", blocks of {size} bytes")?;
            }
        }
        Ok(())
    }
}

impl core::error::Error for Misuse {}
