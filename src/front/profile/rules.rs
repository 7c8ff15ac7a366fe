//! How a frame leads to the one that called it: rules from the tables that compilers leave behind for unwinding.
//!
//! Code without a frame pointer can be walked only with these tables (`.eh_frame`). The interpreter is
//! [`gimli`]'s. What it needs is copied out of the library's memory by the kernel first, since the library may be gone
//! by now; and what it finds is kept, packed in a word, so that a place in the code is looked up once.
//!
//! # Safety
//! What lies in the table is numbers, of which zeros are some.

use super::elf::Modules;
use super::growing::Growing;
use crate::os::Zeroed;
use crate::os::maps::OwnMemory;
use gimli::{
    BaseAddresses, CfaRule, EhFrame, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindContextStorage, UnwindSection, UnwindTableRow,
};

/// Rules that are kept: a power of two.
pub(super) const KEPT: usize = 1 << 13;

/// DWARF's numbers of registers.
const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RETURN_ADDRESS: Register = Register(16);

/// How to get from a frame to its caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// The caller's frame begins so many bytes above the stack pointer; its frame pointer is saved so many bytes
    /// from there, or still in its register.
    FromStack(i32, Option<i16>),
    /// The same, above the frame pointer.
    FromFrame(i32, Option<i16>),
    /// There is no rule: the frame pointer is all there is.
    Unknown,
    /// There is no caller.
    Outermost,
}

/// A rule that was found, with the place that it is for.
#[derive(Clone, Copy, Default)]
pub(super) struct Kept {
    place: usize,
    rule: u64,
}

// SAFETY: numbers; zero is the place of no code.
unsafe impl Zeroed for Kept {}

impl Rule {
    const NOT_SAVED: u16 = 0x8000;

    fn pack(self) -> u64 {
        let (kind, offset, saved) = match self {
            Rule::FromStack(offset, saved) => (0, offset, saved),
            Rule::FromFrame(offset, saved) => (1, offset, saved),
            Rule::Unknown => (2, 0, None),
            Rule::Outermost => (3, 0, None),
        };
        let saved = saved.map_or(Rule::NOT_SAVED, |saved| saved as u16);
        kind | u64::from(saved) << 16 | u64::from(offset as u32) << 32
    }

    fn unpack(word: u64) -> Rule {
        let (offset, saved) = ((word >> 32) as i32, (word >> 16) as u16);
        let saved = (saved != Rule::NOT_SAVED).then_some(saved as i16);
        match word & 3 {
            0 => Rule::FromStack(offset, saved),
            1 => Rule::FromFrame(offset, saved),
            2 => Rule::Unknown,
            _ => Rule::Outermost,
        }
    }
}

/// The rules that are kept.
pub(super) struct Rules(pub(super) Growing<Kept>);

impl Rules {
    /// None yet.
    pub(super) const fn new() -> Rules {
        Rules(Growing::new())
    }

    fn slot(place: usize) -> usize {
        place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - KEPT.ilog2())
    }

    /// The rule for a place in the code, if it is kept.
    pub(super) fn kept(&self, place: usize) -> Option<Rule> {
        let kept = self.0.get(Rules::slot(place))?;
        (kept.place == place).then(|| Rule::unpack(kept.rule))
    }

    /// Looks up the rule for a place in the code, and keeps it.
    pub(super) fn look_up(&mut self, place: usize, modules: &mut Modules) -> Rule {
        let rule = find(place, modules).unwrap_or(Rule::Unknown);
        if let Some(kept) = self.0.get_mut(Rules::slot(place)) {
            *kept = Kept { place, rule: rule.pack() };
        }
        rule
    }
}

fn find(place: usize, modules: &mut Modules) -> Option<Rule> {
    let module = modules.find_mut(place)?;
    let memory = OwnMemory::open().ok()?;
    let table = module.table(&memory)?;
    let entry = entry_of(place, table, &memory)?;
    rule_of(place, entry, &memory)
}

/// Finds the description of the function around a place, by the sorted table in front of them.
fn entry_of(place: usize, table: usize, memory: &OwnMemory) -> Option<usize> {
    const HEADER: usize = 12;
    const ENTRY: usize = 8;
    let header: [u8; HEADER] = memory.array(table)?;
    // Version 1; addresses relative and in four bytes, as every linker writes them.
    if header[..4] != [1, 0x1b, 0x03, 0x3b] {
        return None;
    }
    let count = u32::from_le_bytes(*header[8..].first_chunk()?) as usize;
    let entry = |number: usize| -> Option<(usize, usize)> {
        let entry: [u8; ENTRY] = memory.array(table + HEADER + number * ENTRY)?;
        let address = |at: usize| {
            let relative = i32::from_le_bytes(*entry[at..].first_chunk()?);
            Some(table.wrapping_add_signed(relative as isize))
        };
        Some((address(0)?, address(4)?))
    };
    let (mut low, mut high) = (0, count);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if entry(middle)?.0 <= place { low = middle } else { high = middle }
    }
    let (start, at) = entry(low).filter(|_| count > 0)?;
    (start <= place).then_some(at)
}

/// Room for what the interpreter works with; a function that needs more has no rule.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 20];
    type Stack = [UnwindTableRow<usize, Storage>; 4];
}

/// The rule for a place from the description of its function: copied, together with what all functions of its kind
/// have in common, to where the interpreter takes the two for a section of their own.
fn rule_of(place: usize, entry: usize, memory: &OwnMemory) -> Option<Rule> {
    const COMMON: usize = 256;
    const LONGEST: usize = 2048;
    let mut section = [0; COMMON + LONGEST];
    let length = |at: usize| memory.array(at).map(|bytes| u32::from_le_bytes(bytes) as usize + 4);
    let pointer: [u8; 4] = memory.array(entry + 4)?;
    let common = (entry + 4).checked_sub(u32::from_le_bytes(pointer) as usize)?;
    let (common_size, entry_size) = (length(common)?, length(entry)?);
    if common_size > COMMON || entry_size > LONGEST {
        return None;
    }
    let copied = memory.read(common, &mut section[..common_size])
        + memory.read(entry, &mut section[common_size..common_size + entry_size]);
    if copied != common_size + entry_size {
        return None;
    }
    // The pointer back to the common part counts from where it stands.
    section[common_size + 4..common_size + 8].copy_from_slice(&(common_size as u32 + 4).to_le_bytes());
    let frames = EhFrame::new(&section[..copied], LittleEndian);
    // Addresses are relative to where they stand in memory, and that the function's description does.
    let bases = BaseAddresses::default().set_eh_frame(entry.wrapping_sub(common_size) as u64);
    let function = frames.fde_from_offset(&bases, common_size.into(), EhFrame::cie_from_offset).ok()?;
    if !function.contains(place as u64) {
        return None;
    }
    let mut context = UnwindContext::<usize, Storage>::new_in();
    let row = function.unwind_info_for_address(&frames, &bases, &mut context, place as u64).ok()?;
    Some(packed(row))
}

/// A row of the interpreter's, if it is one that we follow.
fn packed(row: &UnwindTableRow<usize, Storage>) -> Rule {
    if row.register(RETURN_ADDRESS) == Some(RegisterRule::Undefined) {
        return Rule::Outermost;
    }
    let saved = match row.register(RBP) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => None,
        Some(RegisterRule::Offset(offset)) => match i16::try_from(offset) {
            Ok(offset) => Some(offset),
            Err(_) => return Rule::Unknown,
        },
        Some(_) => return Rule::Unknown,
    };
    match *row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => match (register, i32::try_from(offset)) {
            (RSP, Ok(offset)) => Rule::FromStack(offset, saved),
            (RBP, Ok(offset)) => Rule::FromFrame(offset, saved),
            _ => Rule::Unknown,
        },
        CfaRule::Expression(_) => Rule::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_fit_into_a_word() {
        for rule in [
            Rule::FromStack(8, None),
            Rule::FromStack(1 << 20, Some(-16)),
            Rule::FromFrame(16, Some(-16)),
            Rule::FromFrame(-8, Some(i16::MAX)),
            Rule::Unknown,
            Rule::Outermost,
        ] {
            assert_eq!(Rule::unpack(rule.pack()), rule);
        }
    }
}
