//! `spanheap stats`, `spanheap explain` and `spanheap release`: another process, once.

use super::target::{self, Target, Unwatchable, command};
use super::waterfall::{self, Waterfall};
use crate::books::Books;
use crate::run::say;
use crate::size::human;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write as _;
use std::io::Write;

/// The exit status when a process cannot be watched.
const UNWATCHABLE: i32 = 1;

/// Which heap of which process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Which {
    /// The process's number.
    pub(crate) pid: u32,
    /// The heap's number, unless it is the process heap or the first.
    pub(crate) heap: Option<u64>,
}

impl Which {
    /// Takes the heap under watch.
    pub(crate) fn open(self) -> Result<Target, Unwatchable> {
        Target::open(self.pid, self.heap)
    }
}

/// Says why a process cannot be watched, and returns the exit status.
pub(crate) fn refuse(why: Unwatchable) -> i32 {
    say(why);
    UNWATCHABLE
}

/// The books as the library writes them at exit, so that one reader serves both.
pub(crate) fn json(target: &mut Target) -> Result<String, Unwatchable> {
    let (pid, mut text) = (target.pid(), String::new());
    let written = target.read()?.write_json(&mut text, &command(pid), pid);
    written.expect("a string takes any text");
    Ok(text)
}

/// `spanheap stats`. Returns the exit status.
pub(crate) fn stats(which: Which, as_json: bool) -> i32 {
    let text = match which.open().and_then(|mut target| json(&mut target)) {
        Ok(text) => text,
        Err(why) => return refuse(why),
    };
    let books = Books::parse(text.as_bytes()).expect("the books are written by this program");
    // A reader that closed the pipe has what it wanted.
    let _ = match as_json {
        true => writeln!(std::io::stdout(), "{text}"),
        false => write!(std::io::stdout(), "{}", books.tables()),
    };
    i32::from(books.failure().is_some())
}

/// `spanheap stats` without a process: those that have a page. Returns the exit status.
pub(crate) fn list() -> i32 {
    let pids = target::list();
    if pids.is_empty() {
        say("no process that this user may look at runs on Spanheap");
        return UNWATCHABLE;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["pid", "program", "in spans", "committed", "resident"]);
    for pid in pids {
        // One that ends meanwhile, or does not let itself be read, is not listed.
        let Ok(mut target) = Target::open(pid, None) else { continue };
        let Ok(snapshot) = target.read() else { continue };
        let [spans, committed] = [snapshot.in_spans(), snapshot.committed()].map(|bytes| human(bytes.into()));
        let resident = waterfall::resident(pid).unwrap_or(0);
        table.add_row([pid.to_string(), command(pid), spans, committed, human(resident.into())]);
    }
    let _ = writeln!(std::io::stdout(), "{table}");
    0
}

/// `spanheap release`. Returns the exit status.
pub(crate) fn release(which: Which) -> i32 {
    match which.open().and_then(|mut target| target.release_and_wait()) {
        Ok(Some(bytes)) => {
            let _ = writeln!(std::io::stdout(), "released {}", human(bytes.into()));
            0
        }
        Ok(None) => {
            say("the order is given; it is carried out when the program next needs memory from its heap");
            0
        }
        Err(why) => refuse(why),
    }
}

/// `spanheap explain`. Returns the exit status.
pub(crate) fn explain(which: Which, as_json: bool) -> i32 {
    let fall = match which.open().and_then(|mut target| Waterfall::take(&mut target)) {
        Ok(fall) => fall,
        Err(why) => return refuse(why),
    };
    let _ = match as_json {
        true => writeln!(std::io::stdout(), "{}", fall.json()),
        false => write!(std::io::stdout(), "{}", explanation(which.pid, &fall)),
    };
    0
}

/// Columns of a bar.
const BAR: usize = 32;

/// The waterfall for people.
fn explanation(pid: u32, fall: &Waterfall) -> String {
    let mut text = format!("process {pid} ({}): from what it asked for to what it has\n\n", command(pid));
    let largest = fall.process.max(fall.committed).max(1);
    let mut step = |name: &str, bytes: i64, why: String| {
        let _ = writeln!(text, "{name:<12}{:>11}  {:<BAR$}  {why}", human(bytes.into()), bar(bytes, largest));
    };
    let size = |bytes: i64| human(bytes.into());
    let Waterfall { requested: [least, most], in_blocks, in_spans, free, metadata, .. } = *fall;
    step("requested", least, format!("at least; at most {}", size(most)));
    step("in blocks", in_blocks, format!("+ up to {}: sizes are rounded up", size(in_blocks - least)));
    step("in spans", in_spans, format!("+ {}: free blocks in spans", size(in_spans - in_blocks)));
    step("committed", fall.committed, format!("+ {} free pages, {} tables", size(free), size(metadata)));
    step(
        "resident",
        fall.resident,
        match fall.committed - fall.resident {
            less if less >= 0 => format!("- {}: never touched", size(less)),
            more => format!("+ {}: released, and touched since", size(-more)),
        },
    );
    step("process", fall.process, format!("+ {}: not the heap's", size(fall.not_ours())));
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["whose", "resident", "of the process"]);
    let share = |bytes: i64| format!("{:.1} %", 100.0 * bytes as f64 / fall.process.max(1) as f64);
    // Many small libraries say less than their sum.
    let (shown, rest): (Vec<_>, Vec<_>) =
        fall.parts.iter().partition(|(owner, bytes)| owner.is_ours() || bytes * 200 >= fall.process);
    for (owner, bytes) in shown {
        table.add_row([owner.name(), size(*bytes), share(*bytes)]);
    }
    let rest = rest.iter().map(|part| part.1).sum::<i64>();
    if rest > 0 {
        table.add_row(["smaller parts".into(), size(rest), share(rest)]);
    }
    let unknown = fall.unattributed();
    table.add_row(["unattributed".into(), size(unknown), share(unknown)]);
    for column in 1..3 {
        table.column_mut(column).expect("there are three").set_cell_alignment(CellAlignment::Right);
    }
    let _ = writeln!(text, "\n{table}");
    text
}

/// A bar as long as its part of the largest.
fn bar(bytes: i64, largest: i64) -> String {
    let eighths = (bytes.clamp(0, largest) as i128 * (BAR * 8) as i128 / i128::from(largest)) as usize;
    let ends = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    "█".repeat(eighths / 8) + ends[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::waterfall::Owner;

    #[test]
    fn bars_are_as_long_as_their_part() {
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(10, 10), "█".repeat(BAR));
        assert_eq!(bar(5, 10).chars().count(), BAR / 2);
        assert_eq!(bar(-5, 10), "");
        assert_eq!(bar(i64::MAX, i64::MAX).chars().count(), BAR);
    }

    #[test]
    fn an_explanation_adds_up() {
        let fall = Waterfall {
            requested: [100 << 20, 110 << 20],
            in_blocks: 110 << 20,
            in_spans: 120 << 20,
            free: 8 << 20,
            metadata: 2 << 20,
            committed: 130 << 20,
            resident: 125 << 20,
            process: 150 << 20,
            parts: vec![
                (Owner::Pages, 123 << 20),
                (Owner::Tables, 2 << 20),
                (Owner::Program, 20 << 20),
                (Owner::Library("libc.so.6".into()), 4 << 20),
                (Owner::Library("libm.so.6".into()), 1 << 19),
            ],
        };
        assert_eq!(fall.unattributed(), 1 << 19);
        assert_eq!(fall.not_ours(), (24 << 20) + (1 << 19));
        let text = explanation(1, &fall);
        for line in ["requested", "in blocks", "in spans", "committed", "resident", "process"] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line} in\n{text}");
        }
        assert!(text.contains("- 5.00 MiB: never touched") && text.contains("smaller parts"), "{text}");
        let json = fall.json();
        let parts: i64 =
            json["parts"].as_array().unwrap().iter().map(|p| p["resident"].as_i64().unwrap()).sum();
        assert_eq!(parts + json["unattributed"].as_i64().unwrap(), json["process"].as_i64().unwrap());
    }
}
