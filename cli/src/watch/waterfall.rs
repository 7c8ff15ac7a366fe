//! From what a program asked for to what its process has, and whose the rest is.
//!
//! ```text
//!   requested ─▶ in blocks ─▶ in spans ─▶ committed ─▶ resident ─▶ the process
//!       │ rounding  │ free blocks │ free pages, │ never      │ program, libraries,
//!       │ to sizes  │ in spans    │ tables      │ touched    │ stacks, own mappings …
//! ```
//!
//! The first steps are the books', the last two the kernel's. What of the heap is resident is known by address: the
//! statistics page lists what the heap has reserved. A mapping that is partly the heap's (the kernel joins neighbours)
//! is cut by the page map.
//!
//! How much was *requested* nobody counts: it lies between the sizes of the blocks in use and one byte more than the
//! next smaller size. Blocks are counted in batches; the program is asked to enter what the answering thread holds.

use super::maps::{self, Mapping};
use super::target::{Target, Unwatchable};
use serde_json::{Value, json};
use spanheap::Snapshot;
use spanheap::base::PAGE_SIZE;
use spanheap::stats::outside::Reserved;
use spanheap::stats::snapshot::Counted;
use spanheap::stats::{ClassEvent, Whole};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Whose a part of a process's memory is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Owner {
    /// Pages that the heap hands out.
    Pages,
    /// The heap's tables.
    Tables,
    /// The library that the heap's code is in, where it is preloaded.
    Door,
    /// The program's file: code and data.
    Program,
    /// A library.
    Library(String),
    /// Files that are mapped and are no code.
    Files,
    /// Memory shared with other processes.
    Shared,
    /// The stack of the first thread.
    Stack,
    /// Stacks of other threads.
    ThreadStacks,
    /// What grows by `brk`.
    Break,
    /// Anonymous memory that was given a name.
    Named(String),
    /// Anonymous memory that the program, or a library of it, mapped by itself.
    Mapped,
    /// Pages of the kernel's.
    Kernel,
}

/// The waterfall of one moment.
#[derive(Clone, Debug)]
pub(crate) struct Waterfall {
    /// What the program asked for: at least, and at most.
    pub(crate) requested: [i64; 2],
    /// What the blocks and whole spans have that it was given.
    pub(crate) in_blocks: i64,
    pub(crate) in_spans: i64,
    pub(crate) free: i64,
    pub(crate) metadata: i64,
    pub(crate) committed: i64,
    /// Resident bytes of the heap, tables included.
    pub(crate) resident: i64,
    /// Resident bytes of the process, by the kernel's running count.
    pub(crate) process: i64,
    /// Resident bytes by owner, the largest first.
    pub(crate) parts: Vec<(Owner, i64)>,
}

impl Owner {
    /// Whether it is Spanheap's.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Owner::Pages | Owner::Tables | Owner::Door)
    }

    /// What people call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Owner::Pages => "the heap's pages".into(),
            Owner::Tables => "the heap's tables".into(),
            Owner::Door => "Spanheap's library".into(),
            Owner::Program => "the program's file".into(),
            Owner::Library(name) => format!("library {name}"),
            Owner::Files => "mapped files".into(),
            Owner::Shared => "shared memory".into(),
            Owner::Stack => "stack of the first thread".into(),
            Owner::ThreadStacks => "stacks of other threads".into(),
            Owner::Break => "memory by brk".into(),
            Owner::Named(name) => format!("anonymous: {name}"),
            Owner::Mapped => "mapped by the program itself".into(),
            Owner::Kernel => "the kernel's pages".into(),
        }
    }
}

impl Waterfall {
    /// Takes the waterfall of a heap and its process.
    pub(crate) fn take(target: &mut Target) -> Result<Waterfall, Unwatchable> {
        let pid = target.pid();
        target.count();
        let ranges = target.ranges().to_vec();
        let snapshot = target.read()?;
        let (requested, in_blocks) = blocks(snapshot);
        let (in_spans, free, metadata) = (snapshot.in_spans(), snapshot.free(), snapshot.metadata());
        let committed = snapshot.committed();
        let parts = parts(pid, &ranges).map_err(|error| Unwatchable::from_io(pid, error))?;
        let heap = parts.iter().filter(|part| matches!(part.0, Owner::Pages | Owner::Tables));
        Ok(Waterfall {
            requested,
            in_blocks,
            in_spans,
            free,
            metadata,
            committed,
            resident: heap.map(|part| part.1).sum(),
            process: resident(pid).map_err(|error| Unwatchable::from_io(pid, error))?,
            parts,
        })
    }

    /// Resident bytes that are not the heap's.
    pub(crate) fn not_ours(&self) -> i64 {
        self.parts
            .iter()
            .filter(|part| !matches!(part.0, Owner::Pages | Owner::Tables))
            .map(|part| part.1)
            .sum()
    }

    /// What the kernel counts for the process and no mapping accounts for: it may be negative, since the two are read
    /// one after the other.
    pub(crate) fn unattributed(&self) -> i64 {
        self.process - self.parts.iter().map(|part| part.1).sum::<i64>()
    }

    /// The waterfall for machines. The keys are documented in docs/statistics.md.
    pub(crate) fn json(&self) -> Value {
        let part = |(owner, bytes): &(Owner, i64)| json!({"owner": owner.name(), "ours": owner.is_ours(), "resident": bytes});
        json!({
            "requested": {"least": self.requested[0], "most": self.requested[1]},
            "in_blocks": self.in_blocks,
            "in_spans": self.in_spans,
            "free": self.free,
            "metadata": self.metadata,
            "committed": self.committed,
            "resident": self.resident,
            "process": self.process,
            "unattributed": self.unattributed(),
            "parts": self.parts.iter().map(part).collect::<Vec<_>>(),
        })
    }
}

/// What was requested, at least and at most, and what was given for it.
fn blocks(snapshot: &Snapshot) -> ([i64; 2], i64) {
    let of_large = |event| snapshot.figures.large_object_bytes(event);
    let large_objects = of_large(ClassEvent::Allocated) - of_large(ClassEvent::Freed);
    let blocks = slots(snapshot, Counted::Blocks, snapshot.whole(Whole::LargeBlock));
    let objects = slots(snapshot, Counted::Objects, large_objects);
    // What is neither is taken whole: spans of the program's, and of purposes that have no slots.
    let others = snapshot.whole(Whole::ManualSpan)
        + snapshot.purposes().filter(|of| has_no_slots(of.id)).map(|of| of.inuse).sum::<i64>();
    let given = (blocks[1] + objects[1] + others).clamp(0, snapshot.in_spans().max(0));
    ([(blocks[0] + objects[0] + others).clamp(0, given), given], given)
}

/// Bytes that were asked for at least, and slots that were given for them.
fn slots(snapshot: &Snapshot, what: Counted, large: i64) -> [i64; 2] {
    let ([mut least, mut most], mut smaller) = ([0, 0], 0);
    for class in snapshot.classes_of(what) {
        // The counts come from several threads at several times.
        let inuse = (class.allocated - class.freed).max(0);
        match class.size.map(i64::from) {
            Some(size) => {
                (least, most) = (least + inuse * (smaller + 1), most + inuse * size);
                smaller = size;
            }
            // Less than a page is lost at the end of each.
            None => {
                least += large.saturating_sub(inuse.saturating_mul(PAGE_SIZE as i64 - 1)).max(0);
                most += large;
            }
        }
    }
    [least, most]
}

/// Built-in purposes other than blocks and objects have spans that are not cut into slots.
fn has_no_slots(id: spanheap::base::PurposeId) -> bool {
    use spanheap::base::purpose::{BLOCKS, OBJECTS};
    id.is_built_in() && id != BLOCKS && id != OBJECTS
}

/// Resident bytes of a process, by the kernel's running count.
pub(crate) fn resident(pid: u32) -> io::Result<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: Option<i64> = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    let page = rustix::param::page_size() as i64;
    pages.map(|pages| pages * page).ok_or(io::ErrorKind::InvalidData.into())
}

/// Resident bytes of a process by owner, the largest first.
fn parts(pid: u32, ranges: &[Reserved]) -> io::Result<Vec<(Owner, i64)>> {
    let maps = maps::read_resident(pid)?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let around = Around { program: program.to_string_lossy().into_owned(), stacks: stack_pointers(pid) };
    let mut sums: BTreeMap<Owner, i64> = BTreeMap::new();
    for (i, map) in maps.iter().enumerate() {
        let pieces = cut(map, ranges);
        let theirs = || around.owner(&maps, i);
        let owner = |heap: &Option<Owner>| heap.clone().unwrap_or_else(theirs);
        match &pieces[..] {
            [(_, heap)] => *sums.entry(owner(heap)).or_default() += map.resident as i64,
            _ => {
                for ((_, heap), bytes) in pieces.iter().zip(share(pid, map, &pieces)) {
                    *sums.entry(owner(heap)).or_default() += bytes as i64;
                }
            }
        }
    }
    let mut parts: Vec<_> = sums.into_iter().filter(|part| part.1 > 0).collect();
    parts.sort_by_key(|part| (!part.0.is_ours(), -part.1));
    Ok(parts)
}

/// The addresses of a mapping in pieces: each is one of the heap's, or not the heap's.
fn cut(map: &Mapping, ranges: &[Reserved]) -> Vec<([u64; 2], Option<Owner>)> {
    let mut inside: Vec<_> = ranges
        .iter()
        .map(|range| {
            (range.from.max(map.from), range.from.saturating_add(range.bytes).min(map.to), range.kind)
        })
        .filter(|(from, to, _)| from < to)
        .collect();
    inside.sort_by_key(|range| range.0);
    let (mut pieces, mut at) = (Vec::new(), map.from);
    for (from, to, kind) in inside {
        // A page that is not to be believed may list ranges that overlap.
        let from = from.max(at);
        if from >= to {
            continue;
        }
        if at < from {
            pieces.push(([at, from], None));
        }
        pieces.push(([from, to], Some(if kind.is_none() { Owner::Pages } else { Owner::Tables })));
        at = to;
    }
    if at < map.to {
        pieces.push(([at, map.to], None));
    }
    pieces
}

/// Shares a mapping's resident bytes out to its pieces, by the pages of each that are present.
fn share(pid: u32, map: &Mapping, pieces: &[([u64; 2], Option<Owner>)]) -> Vec<u64> {
    let present: Vec<u64> = pieces.iter().map(|(range, _)| present(pid, *range).unwrap_or(0)).collect();
    let all = present.iter().sum::<u64>();
    if all == 0 {
        // The page map is closed to us, or nothing is there: by size, which is right for nothing.
        let size = u128::from(map.to - map.from);
        let of = |[from, to]: [u64; 2]| (u128::from(map.resident) * u128::from(to - from) / size) as u64;
        return pieces.iter().map(|(range, _)| of(*range)).collect();
    }
    present
        .iter()
        .map(|pages| (u128::from(map.resident) * u128::from(*pages) / u128::from(all)) as u64)
        .collect()
}

/// Pages of a range that are present, by the kernel's page map.
fn present(pid: u32, [from, to]: [u64; 2]) -> io::Result<u64> {
    const PRESENT: u64 = 1 << 63;
    let page = rustix::param::page_size() as u64;
    let file = File::open(format!("/proc/{pid}/pagemap"))?;
    let (mut at, mut pages) = (from / page, 0);
    let mut buffer = vec![0; 64 << 10];
    while at < to / page {
        let wanted = buffer.len().min(((to / page - at) * 8) as usize);
        let got = file.read_at(&mut buffer[..wanted], at * 8)? / 8;
        if got == 0 {
            break;
        }
        let entries = buffer[..got * 8].chunks_exact(8).filter_map(|entry| entry.first_chunk());
        pages += entries.filter(|entry| u64::from_ne_bytes(**entry) & PRESENT != 0).count() as u64;
        at += got as u64;
    }
    Ok(pages)
}

/// The stack pointers of a process's threads that wait in a system call; the others' are not told.
fn stack_pointers(pid: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let pointer = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("syscall")).ok()?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let pointer = words.get(words.len().checked_sub(2)?)?;
        u64::from_str_radix(pointer.strip_prefix("0x")?, 16).ok()
    };
    tasks.filter_map(pointer).collect()
}

/// What is known about a process beside its mappings.
struct Around {
    program: String,
    stacks: Vec<u64>,
}

impl Around {
    /// Whose a mapping is that is not the heap's.
    fn owner(&self, maps: &[Mapping], which: usize) -> Owner {
        let map = &maps[which];
        let name = map.name.as_str();
        if name.starts_with('/') {
            return self.file(maps, name);
        }
        match name {
            "" => self.nameless(maps, which),
            "[heap]" => Owner::Break,
            "[stack]" => Owner::Stack,
            _ if name.starts_with("[anon:") || name.starts_with("[anon_shmem:") => Owner::Named(
                name.trim_matches(['[', ']']).split_once(':').map_or("", |(_, name)| name).into(),
            ),
            _ => Owner::Kernel,
        }
    }

    fn file(&self, maps: &[Mapping], name: &str) -> Owner {
        let short = name.trim_end_matches(" (deleted)");
        let base = short.rsplit('/').next().unwrap_or(short);
        let has_code = || maps.iter().any(|map| map.name == name && map.access[2]);
        match () {
            () if name == self.program || short == self.program => Owner::Program,
            () if base.starts_with("libspanheap") => Owner::Door,
            () if ["/memfd:", "/dev/shm/", "/SYSV", "/dev/zero"]
                .iter()
                .any(|start| name.starts_with(start)) =>
            {
                Owner::Shared
            }
            () if base.contains(".so") || has_code() => Owner::Library(base.into()),
            () => Owner::Files,
        }
    }

    /// Anonymous memory: the end of a file's data (what is zero at the start has no place in the file), a thread's
    /// stack, or something that the program mapped.
    fn nameless(&self, maps: &[Mapping], which: usize) -> Owner {
        /// More than anybody takes for a guard.
        const GUARD: u64 = 1 << 20;
        let map = &maps[which];
        if !map.private {
            return Owner::Shared;
        }
        let before = which.checked_sub(1).map(|n| &maps[n]).filter(|before| before.to == map.from);
        let holds_a_stack = self.stacks.iter().any(|pointer| (map.from..map.to).contains(pointer));
        match before {
            Some(file) if file.name.starts_with('/') && file.access[1] => self.file(maps, &file.name),
            Some(guard) if guard.access == [false; 3] && guard.to - guard.from <= GUARD && map.access[1] => {
                Owner::ThreadStacks
            }
            _ if holds_a_stack => Owner::ThreadStacks,
            _ => Owner::Mapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spanheap::stats::MetadataKind;

    fn mapping(line: &str) -> Mapping {
        maps::parse(line).remove(0)
    }

    #[test]
    fn mappings_are_cut_where_the_heap_begins_and_ends() {
        let map = mapping("10000-20000 rw-p 0 0 0");
        let range = |from, bytes, kind| Reserved { from, bytes, kind };
        assert_eq!(cut(&map, &[]), [([0x10000, 0x20000], None)]);
        let table = Some(MetadataKind::Mutators);
        let ranges = [range(0x18000, 1 << 30, None), range(0x12000, 0x1000, table), range(0, 0x5000, None)];
        let pieces = cut(&map, &ranges);
        let wanted = [
            ([0x10000, 0x12000], None),
            ([0x12000, 0x13000], Some(Owner::Tables)),
            ([0x13000, 0x18000], None),
            ([0x18000, 0x20000], Some(Owner::Pages)),
        ];
        assert_eq!(pieces, wanted);
        // Ranges that overlap, and ranges beyond all addresses, lose nothing and count nothing twice.
        let wild = [range(0x11000, u64::MAX, None), range(0x10000, 0x8000, table), range(0x12000, 2, None)];
        let covered: u64 = cut(&map, &wild).iter().map(|([from, to], _)| to - from).sum();
        assert_eq!(covered, 0x10000);
    }

    #[test]
    fn a_mapping_belongs_to_somebody() {
        let maps = maps::parse(
            "1000-2000 r-xp 0 0 1 /usr/bin/program
2000-3000 rw-p 0 0 1 /usr/bin/program
3000-4000 rw-p 0 0 0
5000-6000 ---p 0 0 0
6000-7000 rw-p 0 0 0
8000-9000 rw-p 0 0 0
a000-b000 rw-p 0 0 0
b000-c000 rw-p 0 0 2 /lib/libc.so.6
c000-d000 r--p 0 0 2 /usr/share/locale-archive
d000-e000 rw-s 0 0 2 /memfd:x (deleted)
e000-f000 rw-p 0 0 2 /opt/libspanheap_malloc.so
f000-10000 rw-p 0 0 0 [heap]
10000-11000 rw-p 0 0 0 [stack]
11000-12000 r-xp 0 0 0 [vdso]
12000-13000 rw-p 0 0 0 [anon:cpython:arena]
",
        );
        let around = Around { program: "/usr/bin/program".into(), stacks: vec![0x8800] };
        let owners: Vec<Owner> = (0..maps.len()).map(|i| around.owner(&maps, i)).collect();
        use Owner::*;
        let wanted = [
            Program,
            Program,
            Program,
            Mapped,
            ThreadStacks,
            ThreadStacks,
            Mapped,
            Library("libc.so.6".into()),
            Files,
            Shared,
            Door,
            Break,
            Stack,
            Kernel,
            Named("cpython:arena".into()),
        ];
        assert_eq!(owners, wanted);
    }
}
