//! The books as the library writes them (JSON), and as people read them (tables).
//!
//! Everything here goes by the JSON value, so that one printer serves a program that ran under the preload and a heap in
//! this process. The contract is loose on purpose: missing keys leave out their part, unknown keys are ignored, so that
//! this command and a library of another version still understand each other.

use crate::size::human;
use comfy_table::{CellAlignment, LineStyle, Table, presets};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// The books of one process.
#[derive(Debug)]
pub(crate) struct Books {
    value: Value,
}

impl Books {
    /// Reads the books that the library wrote to `path`; the error is a message for the user.
    pub(crate) fn read(path: &Path) -> Result<Books, String> {
        let text = std::fs::read(path).map_err(|e| format!("cannot read the books: {e}"))?;
        Books::parse(&text)
    }

    /// Reads the books from the text of a JSON object.
    pub(crate) fn parse(text: &[u8]) -> Result<Books, String> {
        match serde_json::from_slice(text) {
            Ok(value @ Value::Object(_)) => Ok(Books { value }),
            Ok(_) => Err("the books are not a JSON object".into()),
            Err(e) => Err(format!("the books are not complete: {e}")),
        }
    }

    /// The first identity that fails, if one does. Books without a verdict count as failed: nothing vouches for them.
    pub(crate) fn failure(&self) -> Option<String> {
        match self.value.get("check").and_then(Value::as_str) {
            Some("ok") => None,
            Some(text) => Some(text.into()),
            None => Some("the books bear no verdict".into()),
        }
    }

    /// The tables, ready to be printed: purposes, accounts beside what is resident, and the verdict.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        if let Some(purposes) = self.object("purposes") {
            let _ = writeln!(text, "{}", purpose_table(purposes));
        }
        if let Some(accounts) = self.object("accounts") {
            let resident =
                self.value.get("resident").and_then(|r| r.get("by_account")).and_then(Value::as_object);
            let _ = writeln!(text, "\n{}\n", account_table(accounts, resident));
        }
        if let Some(line) = self.object("resident").and_then(resident_line) {
            let _ = writeln!(text, "{line}");
        }
        let _ = match self.failure() {
            None => writeln!(text, "check: ok"),
            Some(failure) => writeln!(text, "check: FAILED: {failure}"),
        };
        text
    }

    /// Who the books are of, for a heading: `pid 17 (redis-server)`.
    pub(crate) fn owner(&self) -> String {
        let pid = self.value.get("pid").and_then(Value::as_u64);
        let command = self.value.get("command").and_then(Value::as_str).filter(|command| !command.is_empty());
        match (pid, command) {
            (Some(pid), Some(command)) => format!("pid {pid} ({command})"),
            (Some(pid), None) => format!("pid {pid}"),
            (None, Some(command)) => command.into(),
            (None, None) => "this program".into(),
        }
    }

    fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        self.value.get(key).and_then(Value::as_object).filter(|map| !map.is_empty())
    }
}

/// A number of the books. JSON has one kind of number; ours are whole and may be negative.
fn number(value: Option<&Value>) -> Option<i128> {
    let value = value?;
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

/// A cell with a size; `-` where there is none.
fn size_cell(value: Option<&Value>) -> String {
    number(value).map_or_else(|| "-".into(), human)
}

/// A cell with a plain number.
fn count_cell(value: Option<&Value>) -> String {
    number(value).map_or_else(|| "-".into(), |n| n.to_string())
}

/// An empty table: names at the left, numbers at the right, and no lines but the one below the heading.
fn new_table(heading: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(heading.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// One row a purpose that was ever used or is limited, and their sum.
fn purpose_table(purposes: &Map<String, Value>) -> Table {
    let mut table = new_table(&[
        "purpose",
        "current",
        "spans",
        "peak",
        "allocated",
        "freed",
        "soft limit",
        "limit",
        "refused",
    ]);
    let mut sums = [0i128; 4];
    for (name, purpose) in purposes {
        let field = |key: &str| purpose.get(key);
        let quiet = |key: &str| number(field(key)).unwrap_or(0) == 0;
        if ["inuse", "peak", "allocated", "limit", "soft_limit", "refused"].iter().all(|key| quiet(key)) {
            continue;
        }
        for (sum, key) in sums.iter_mut().zip(["inuse", "spans", "allocated", "freed"]) {
            *sum += number(field(key)).unwrap_or(0);
        }
        table.add_row(vec![
            name.clone(),
            size_cell(field("inuse")),
            count_cell(field("spans")),
            size_cell(field("peak")),
            size_cell(field("allocated")),
            size_cell(field("freed")),
            size_cell(field("soft_limit")),
            size_cell(field("limit")),
            count_cell(field("refused")),
        ]);
    }
    let [inuse, spans, allocated, freed] = sums;
    let blank = String::new;
    table.add_row(vec![
        "sum".into(),
        human(inuse),
        spans.to_string(),
        blank(),
        human(allocated),
        human(freed),
        blank(),
        blank(),
        blank(),
    ]);
    table
}

/// Where an account stands in the table: the system's side first, then what is free, what runs the heap, what is in use.
fn place(account: &str) -> usize {
    let order = ["system", "reserved", "released", "free", "cached", "metadata/", "span/"];
    order.iter().position(|start| account.starts_with(start)).unwrap_or(order.len())
}

/// One row an account with anything on it, what of it is resident where that is known, and the sum, which is zero.
fn account_table(accounts: &Map<String, Value>, resident: Option<&Map<String, Value>>) -> Table {
    let mut table = new_table(&["account", "bytes", "", "resident"]);
    let mut sum = 0;
    let mut accounts: Vec<_> = accounts.iter().collect();
    accounts.sort_by_key(|(name, _)| (place(name), *name));
    for (name, value) in accounts {
        let bytes = number(Some(value)).unwrap_or(0);
        sum += bytes;
        let here = resident.and_then(|resident| resident.get(name));
        if bytes != 0 || number(here).unwrap_or(0) != 0 {
            table.add_row(vec![name.clone(), bytes.to_string(), human(bytes), size_cell(here)]);
        }
    }
    table.add_row(vec!["sum".into(), sum.to_string(), human(sum), String::new()]);
    table
}

/// What the kernel says is resident, in one line.
fn resident_line(resident: &Map<String, Value>) -> Option<String> {
    let parts: Vec<String> = [("heap", "heap"), ("metadata", "metadata"), ("process", "whole process")]
        .iter()
        .filter_map(|(key, name)| Some(format!("{name} {}", human(number(resident.get(*key))?))))
        .collect();
    (!parts.is_empty()).then(|| format!("resident: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"version":1,"pid":17,"command":"redis-server","check":"ok",
        "accounts":{"system":-8388608,"free":4194304,"span/blocks":4194304,"cached":0},
        "purposes":{"blocks":{"inuse":4194304,"spans":12,"peak":5242880,"allocated":6291456,"freed":2097152,
            "soft_limit":null,"limit":1073741824,"refused":3},"stacks":{"inuse":0,"peak":0}},
        "resident":{"heap":3145728,"metadata":65536,"process":9437184,"by_account":{"span/blocks":3145728}},
        "unheard of":[1,2]}"#;

    #[test]
    fn the_tables_show_what_there_is() {
        let books = Books::parse(FULL.as_bytes()).unwrap();
        assert_eq!(books.failure(), None);
        assert_eq!(books.owner(), "pid 17 (redis-server)");
        let text = books.tables();
        let row = |start: &str| {
            let found = text.lines().find(|line| line.trim_start().starts_with(start));
            found
                .unwrap_or_else(|| panic!("no row {start} in\n{text}"))
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(row("blocks"), "blocks 4.00 MiB 12 5.00 MiB 6.00 MiB 2.00 MiB - 1.00 GiB 3");
        assert_eq!(row("span/blocks"), "span/blocks 4194304 4.00 MiB 3.00 MiB");
        assert_eq!(row("resident:"), "resident: heap 3.00 MiB, metadata 64.0 KiB, whole process 9.00 MiB");
        assert_eq!(row("check:"), "check: ok");
        assert!(text.lines().any(|line| line.split_whitespace().eq(["sum", "0", "0"])), "{text}");
        let order: Vec<_> =
            ["system", "free", "span/blocks"].iter().map(|name| text.find(&format!("\n {name} "))).collect();
        assert!(order.is_sorted() && order[0].is_some(), "{text}");
        assert!(!text.contains("stacks") && !text.contains("cached"), "unused rows are left out:\n{text}");
    }

    #[test]
    fn missing_parts_are_left_out() {
        let books = Books::parse(br#"{"check":"accounts: sum is 5"}"#).unwrap();
        assert_eq!(books.tables(), "check: FAILED: accounts: sum is 5\n");
        assert!(Books::parse(b"{}").unwrap().failure().is_some());
        assert_eq!(Books::parse(b"{}").unwrap().owner(), "this program");
    }

    #[test]
    fn broken_books_are_an_error() {
        assert!(Books::parse(br#"{"check":"#).unwrap_err().contains("not complete"));
        assert!(Books::parse(b"[]").unwrap_err().contains("object"));
    }
}
