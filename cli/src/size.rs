//! Sizes as people read and write them.
//!
//! Reading follows the grammar of Go's `GOMEMLIMIT`, which the library uses too: a whole number and one of the suffixes
//! `B`, `KiB`, `MiB`, `GiB`, `TiB`; no suffix means bytes; `off` means no limit, and `auto` what the
//! control group allows. Writing uses binary units with three
//! significant places.

use std::fmt;

/// The binary units, smallest first. Both directions go by this table.
const UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A memory limit as the user gave it: bytes, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// No limit at all.
    Off,
    /// What the tightest control group leaves.
    Auto,
    /// This many bytes.
    Bytes(u64),
}

impl Limit {
    /// Reads a limit; the error says what would be right.
    pub(crate) fn parse(text: &str) -> Result<Limit, String> {
        if text == "off" {
            return Ok(Limit::Off);
        }
        if text == "auto" {
            return Ok(Limit::Auto);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let unit = if suffix.is_empty() { "B" } else { suffix };
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(
                "a size is a whole number with B, KiB, MiB, GiB or TiB (such as 512MiB), or `auto`, or `off`"
                    .into(),
            );
        };
        let number: u64 = match number.parse() {
            Ok(number) => number,
            Err(_) if number.is_empty() => {
                return Err("a size begins with a whole number, such as 512MiB".into());
            }
            Err(_) => return Err("the number is too large".into()),
        };
        match number.checked_mul(*factor).filter(|&n| n <= i64::MAX as u64) {
            Some(0) => Err("a limit of nothing lets no program start; `off` means no limit".into()),
            Some(bytes) => Ok(Limit::Bytes(bytes)),
            None => Err("the size is too large".into()),
        }
    }
}

/// The form that the library reads from `SPANHEAP_MEMORY_LIMIT`.
impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Off => out.write_str("off"),
            Limit::Auto => out.write_str("auto"),
            Limit::Bytes(n) => write!(out, "{n}B"),
        }
    }
}

/// `n` bytes for a reader: `0`, `17 B`, `4.00 KiB`, `-1.50 GiB`.
pub(crate) fn human(n: i128) -> String {
    let size = n.unsigned_abs();
    let sign = if n < 0 { "-" } else { "" };
    let (name, factor) =
        UNITS.iter().rev().find(|(_, factor)| size >= u128::from(*factor)).unwrap_or(&UNITS[0]);
    match (size, *factor) {
        (0, _) => "0".into(),
        (_, 1) => format!("{sign}{size} {name}"),
        _ => {
            let value = size as f64 / *factor as f64;
            let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
            format!("{sign}{value:.places$} {name}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_gos_grammar() {
        assert_eq!(Limit::parse("512MiB"), Ok(Limit::Bytes(512 << 20)));
        assert_eq!(Limit::parse("1TiB"), Ok(Limit::Bytes(1 << 40)));
        assert_eq!(Limit::parse("7"), Ok(Limit::Bytes(7)));
        assert_eq!(Limit::parse("7B"), Ok(Limit::Bytes(7)));
        assert_eq!(Limit::parse("off"), Ok(Limit::Off));
        assert_eq!(Limit::parse("auto"), Ok(Limit::Auto));
        for bad in [
            "",
            "MiB",
            "1.5GiB",
            "-1",
            "512 MiB",
            "512mb",
            "512M",
            "0",
            "0KiB",
            "Off",
            "99999999TiB",
            "99999999999999999999",
        ] {
            assert!(Limit::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn the_library_gets_bytes() {
        assert_eq!(Limit::Bytes(512 << 20).to_string(), "536870912B");
        assert_eq!(Limit::Off.to_string(), "off");
        assert_eq!(Limit::Auto.to_string(), "auto");
    }

    #[test]
    fn writes_three_places() {
        assert_eq!(human(0), "0");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(4096), "4.00 KiB");
        assert_eq!(human(-(3 << 29)), "-1.50 GiB");
        assert_eq!(human(123 << 20), "123 MiB");
        assert_eq!(human(12_800), "12.5 KiB");
        assert_eq!(human(5000 << 40), "5000 TiB");
    }
}
