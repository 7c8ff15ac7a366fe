//! What the control groups around this process let it have.
//!
//! The kernel says which groups a process is in (`/proc/self/cgroup`), and each group has its limits in files. Groups
//! are nested, and the tightest counts, so all of them are read from the process's own up to the root: `memory.max` and
//! `memory.high` in version 2, `memory.limit_in_bytes` in version 1. In a container the process may see its own group
//! as the root, or a path that does not exist where it is; what cannot be read limits nothing.
//!
//! The file allocates nothing, and what it reads with is an argument, so a test shows it any tree of groups.

use super::proc;
use crate::base::Bytes;
use core::ffi::CStr;
use core::fmt::Write;

/// Where version 2 is mounted, alone or beside version 1.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Where version 1 has its controller of memory.
const MEMORY: [&str; 1] = ["/sys/fs/cgroup/memory"];
/// Version 1 says "no limit" with a number of pages that no machine has.
const NO_LIMIT: usize = 1 << 60;
/// The longest path that is followed, and the longest line.
const LONGEST: usize = 1024;

/// Reads a file into the buffer; `None` where there is none.
pub fn read<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    proc::read_file(path, buffer).ok()
}

/// The tightest limit of the groups around this process. `read` reads a file into a buffer.
pub fn tightest(read: impl for<'a> Fn(&CStr, &'a mut [u8]) -> Option<&'a [u8]>) -> Option<Bytes> {
    let mut buffer = [0; 4 * LONGEST];
    let text = core::str::from_utf8(read(c"/proc/self/cgroup", &mut buffer)?).ok()?;
    let mut least: Option<usize> = None;
    for line in text.lines() {
        // The hierarchy's number, its controllers, the group's path; version 2 has no controllers here.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (roots, files): (&[&str], &[&str]) = if controllers.is_empty() {
            (&UNIFIED, &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (&MEMORY, &["memory.limit_in_bytes"])
        } else {
            continue;
        };
        for (root, group) in roots.iter().flat_map(|root| upwards(path).map(move |group| (root, group))) {
            let limits = files.iter().filter_map(|file| limit(&read, root, group, file));
            least = least.into_iter().chain(limits).min();
        }
    }
    least.map(Bytes)
}

/// A group's path and those of the groups around it, up to the root's, which is empty.
fn upwards(path: &str) -> impl Iterator<Item = &str> {
    let path = path.trim_end_matches('/');
    core::iter::successors(Some(path), |group| group.rfind('/').map(|end| &group[..end]))
}

/// What one file says.
fn limit(
    read: &impl for<'a> Fn(&CStr, &'a mut [u8]) -> Option<&'a [u8]>,
    root: &str,
    group: &str,
    file: &str,
) -> Option<usize> {
    let (mut path, mut buffer) = (Path { text: [0; LONGEST], length: 0 }, [0; 64]);
    write!(path, "{root}{group}/{file}").ok()?;
    let text = read(CStr::from_bytes_until_nul(&path.text).ok()?, &mut buffer)?;
    let limit = core::str::from_utf8(text).ok()?.trim().parse().ok()?;
    (limit < NO_LIMIT).then_some(limit)
}

struct Path {
    text: [u8; LONGEST],
    length: usize,
}

impl Write for Path {
    fn write_str(&mut self, more: &str) -> core::fmt::Result {
        let end = self.length + more.len();
        // One byte stays zero: the end of the path.
        let place = self.text[..LONGEST - 1].get_mut(self.length..end).ok_or(core::fmt::Error)?;
        place.copy_from_slice(more.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn tightest_of(files: &[(&str, &str)]) -> Option<usize> {
        let files: BTreeMap<&str, &str> = files.iter().copied().collect();
        let limit = tightest(|path, buffer| {
            let text = files.get(path.to_str().unwrap())?.as_bytes();
            buffer[..text.len()].copy_from_slice(text);
            Some(&buffer[..text.len()])
        });
        limit.map(|bytes| bytes.0)
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let groups = ("/proc/self/cgroup", "0::/a/b/c\n");
        assert_eq!(tightest_of(&[]), None);
        assert_eq!(tightest_of(&[groups]), None);
        let own = ("/sys/fs/cgroup/a/b/c/memory.max", "max\n");
        let parent = ("/sys/fs/cgroup/a/memory.max", "5000\n");
        assert_eq!(tightest_of(&[groups, own]), None);
        assert_eq!(tightest_of(&[groups, own, parent]), Some(5000));
        let high = ("/sys/fs/cgroup/a/b/memory.high", "4000");
        assert_eq!(tightest_of(&[groups, own, parent, high]), Some(4000));
        let root = ("/sys/fs/cgroup/memory.max", "3000");
        assert_eq!(tightest_of(&[groups, own, parent, high, root]), Some(3000), "a container's own root");
        assert_eq!(tightest_of(&[groups, ("/sys/fs/cgroup/a/bc/memory.max", "1")]), None, "a neighbour");
    }

    #[test]
    fn both_versions_are_read() {
        let groups = ("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/x\n3:memoryless:/y\n0::/z\n");
        let none = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let old = ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2000\n");
        let new = ("/sys/fs/cgroup/unified/z/memory.max", "1000\n");
        assert_eq!(tightest_of(&[groups, none]), None);
        assert_eq!(tightest_of(&[groups, none, old]), Some(2000));
        assert_eq!(tightest_of(&[groups, none, old, new]), Some(1000));
        assert_eq!(tightest_of(&[groups, ("/sys/fs/cgroup/y/memory.max", "1")]), None);
    }

    #[test]
    fn what_makes_no_sense_limits_nothing() {
        let long = format!("0::/{}\n", "x".repeat(2000));
        let max = ("/sys/fs/cgroup/memory.max", "77");
        assert_eq!(tightest_of(&[("/proc/self/cgroup", &long), max]), Some(77));
        assert_eq!(tightest_of(&[("/proc/self/cgroup", "nonsense\n::\n0:\n")]), None);
        assert_eq!(
            tightest_of(&[("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", "-1")]),
            None
        );
    }
}
