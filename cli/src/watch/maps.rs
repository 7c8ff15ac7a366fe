//! What the kernel says about a process's memory, mapping by mapping.
//!
//! `/proc/PID/maps` lists the mappings; `/proc/PID/smaps` adds what of each is resident. A line that is not understood
//! is left out: kernels add words over time.

use std::fs;
use std::io;

/// One mapping of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    /// The first address.
    pub(crate) from: u64,
    /// The first address behind it.
    pub(crate) to: u64,
    /// Whether it may be read, written, executed.
    pub(crate) access: [bool; 3],
    /// Whether writes stay in this process.
    pub(crate) private: bool,
    /// The file, or a name in brackets, or nothing.
    pub(crate) name: String,
    /// Resident bytes, where that was asked for.
    pub(crate) resident: u64,
    /// Resident bytes of the kernel's anonymous memory.
    pub(crate) anonymous: u64,
    /// Bytes that were swapped out.
    pub(crate) swapped: u64,
}

impl Mapping {
    /// Reads the head of a mapping, as both files have it.
    fn parse(line: &str) -> Option<Mapping> {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).ok());
        let access = rest.get(..4)?.as_bytes();
        // Access, offset, device and inode stand before the name, which may hold blanks.
        let mut name = rest;
        for _ in 0..4 {
            name = name.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
        }
        let (from, to) = (from?, to?);
        (from < to).then(|| Mapping {
            from,
            to,
            access: [access[0] == b'r', access[1] == b'w', access[2] == b'x'],
            private: access[3] == b'p',
            name: name.trim_start().to_string(),
            resident: 0,
            anonymous: 0,
            swapped: 0,
        })
    }

    /// Whether this is data of a program or library, which it may write and nobody else sees.
    pub(crate) fn is_private_data(&self) -> bool {
        self.private && self.access == [true, true, false] && self.name.starts_with('/')
    }
}

/// A process's mappings, without what of them is resident.
pub(crate) fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/maps"))?)))
}

/// A process's mappings, with what of them is resident. The kernel looks at every page for that.
pub(crate) fn read_resident(pid: u32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/smaps"))?)))
}

/// Reads the text of either file.
pub(crate) fn parse(text: &str) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        // Figures begin with a capital, addresses do not.
        if !line.starts_with(|c: char| c.is_ascii_uppercase()) {
            all.extend(Mapping::parse(line));
            continue;
        }
        let Some(map) = all.last_mut() else { continue };
        let Some((key, value)) = line.split_once(':') else { continue };
        let place = match key {
            "Rss" => &mut map.resident,
            "Anonymous" => &mut map.anonymous,
            "Swap" => &mut map.swapped,
            _ => continue,
        };
        *place = value.trim().trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib.saturating_mul(1024));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c8e00000-55d0c8f10000 r-xp 00001000 103:02 42   /usr/bin/a program (deleted)
Size:               1088 kB
Rss:                 512 kB
Anonymous:             4 kB
VmFlags: rd ex mr
7f0000000000-7f0000021000 rw-p 00000000 00:00 0 
Rss:                 132 kB
Anonymous:           132 kB
Swap:                  8 kB
7ffd1000-7ffd2000 rw-p 00000000 00:00 0                          [stack]
garbage
ffff-0000 r--p 0 0 0
";

    #[test]
    fn mappings_and_their_figures_are_read() {
        let maps = parse(SMAPS);
        assert_eq!(maps.len(), 3, "{maps:?}");
        assert_eq!(maps[0].name, "/usr/bin/a program (deleted)");
        assert_eq!((maps[0].resident, maps[0].anonymous), (512 << 10, 4 << 10));
        assert!(!maps[0].is_private_data() && maps[0].access == [true, false, true]);
        assert!(maps[1].name.is_empty() && maps[1].private);
        assert_eq!((maps[1].to - maps[1].from, maps[1].swapped), (0x21000, 8 << 10));
        assert_eq!((maps[2].name.as_str(), maps[2].resident), ("[stack]", 0));
    }

    #[test]
    fn our_own_are_found() {
        let maps = read_resident(std::process::id()).unwrap();
        let here = &raw const maps as u64;
        assert!(maps.iter().any(|map| map.name == "[stack]" || (map.from..map.to).contains(&here)));
        assert!(maps.iter().map(|map| map.resident).sum::<u64>() > 1 << 20);
        assert!(read(std::process::id()).unwrap().iter().any(Mapping::is_private_data));
    }
}
