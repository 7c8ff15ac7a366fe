//! A snapshot as text: JSON for machines, a table for people, and XML where `malloc_info` is asked for.
//!
//! All three write to a [`fmt::Write`] and allocate nothing. An error is only ever the writer's own.
//! `docs/statistics.md` explains every line.

use super::account::Account;
use super::memstats::FIELDS;
use super::names::{self, Text};
use super::snapshot::{AccountName, ClassFigures, PurposeFigures, Resident, Snapshot};
use crate::base::Bytes;
use core::fmt::{self, Display, Write};

/// The version of the JSON's shape. It rises when a key changes its meaning or goes.
const JSON_VERSION: u32 = 1;

impl Snapshot {
    /// Writes everything as one JSON object, without a line break at the end.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut impl Write, command: &str, pid: u32) -> fmt::Result {
        write!(out, "{{\"version\":{JSON_VERSION},\"pid\":{pid},\"command\":{}", Quoted(command))?;
        match self.check() {
            Ok(()) => write!(out, ",\"check\":\"ok\"")?,
            Err(imbalance) => write!(out, ",\"check\":{}", Quoted(imbalance))?,
        }
        out.write_str(",\"accounts\":")?;
        Items::object(out, |items| {
            self.accounts()
                .try_for_each(|account| items.entry(self.account_name(account), self.balance(account)))
        })?;
        out.write_str(",\"purposes\":")?;
        Items::object(out, |items| {
            self.purposes().try_for_each(|of| items.entry(of.book.name, JsonPurpose(of)))
        })?;
        out.write_str(",\"classes\":")?;
        Items::array(out, |items| {
            self.classes().filter(ClassFigures::is_used).try_for_each(|of| items.item(JsonClass(of)))
        })?;
        out.write_str(",\"go\":")?;
        let words = self.mem_stats();
        Items::object(out, |items| {
            FIELDS.iter().try_for_each(|field| items.entry(field.name, field.of(&words)))
        })?;
        out.write_str(",\"metrics\":")?;
        Items::object(out, |items| names::visit(self, |sample| items.entry(sample.name, sample.value)))?;
        out.write_str(",\"resident\":")?;
        match &self.resident {
            None => out.write_str("null")?,
            Some(resident) => self.write_json_resident(out, resident)?,
        }
        out.write_char('}')
    }

    fn write_json_resident(&self, out: &mut impl Write, resident: &Resident) -> fmt::Result {
        let Resident { heap, metadata, process, .. } = *resident;
        let expected = self.expected_resident().unwrap_or(0);
        write!(out, "{{\"heap\":{},\"metadata\":{},\"process\":{}", heap.0, metadata.0, process.0)?;
        write!(out, ",\"expected\":{expected},\"by_account\":")?;
        Items::object(out, |items| {
            with_pages(self).try_for_each(|account| {
                items.entry(self.account_name(account), resident.by_account[account.index()].0)
            })
        })?;
        out.write_char('}')
    }

    /// Writes the books as a table for people, in binary units, each line ended.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut impl Write) -> fmt::Result {
        self.write_table_accounts(out)?;
        self.write_table_purposes(out)?;
        self.write_table_blocks(out)?;
        match self.check() {
            Ok(()) => writeln!(out, "books   balanced"),
            Err(imbalance) => writeln!(out, "books   NOT BALANCED: {imbalance}"),
        }
    }

    fn write_table_accounts(&self, out: &mut impl Write) -> fmt::Result {
        let resident = if self.resident.is_some() { "resident" } else { "" };
        writeln!(out, "{:<32}{:>12}{resident:>12}", "account", "bytes")?;
        for account in self.accounts() {
            let balance = self.balance(account);
            if balance != 0 || !matches!(account, Account::Span(_)) {
                self.write_table_account(out, self.account_name(account), account, balance)?;
            }
        }
        writeln!(out, "{:<32}{:>12}", "all but system and reserved", Human(self.total()))?;
        writeln!(out, "{:<32}{:>12}", "committed", Human(self.committed()))?;
        if let Some(limit) = self.heap_limit {
            writeln!(out, "{:<32}{:>12}", "limit of the heap", Column(limit))?;
        }
        let Some(resident) = self.resident else { return Ok(()) };
        let ours = resident.heap + resident.metadata;
        writeln!(out, "{:<32}{:>12}{:>12}", "heap and metadata", "", Column(ours))?;
        let expected = Human(self.expected_resident().unwrap_or(0));
        writeln!(out, "{:<32}{:>12}{:>12}", "  what the books say", "", expected)?;
        writeln!(out, "{:<32}{:>12}{:>12}", "process", "", Column(resident.process))
    }

    fn write_table_account(
        &self,
        out: &mut impl Write,
        name: AccountName,
        account: Account,
        balance: i64,
    ) -> fmt::Result {
        write!(out, "  {:<30}{:>12}", Column(name), Human(balance))?;
        match self.resident {
            Some(resident) if has_pages(account) => {
                writeln!(out, "{:>12}", Column(resident.by_account[account.index()]))
            }
            _ => writeln!(out),
        }
    }

    fn write_table_purposes(&self, out: &mut impl Write) -> fmt::Result {
        write!(out, "\n{:<24}{:>12}{:>8}{:>12}", "purpose", "in use", "spans", "peak")?;
        writeln!(out, "{:>12}{:>12}{:>12}{:>9}", "allocated", "freed", "limit", "refused")?;
        for of in self.purposes().filter(PurposeFigures::is_used) {
            write!(out, "  {:<22}{:>12}", of.book.name, Human(of.inuse))?;
            write!(out, "{:>8}{:>12}", of.spans, Column(of.book.peak))?;
            write!(out, "{:>12}{:>12}", Human(of.allocated), Human(of.freed))?;
            match of.book.limit {
                Some(limit) => write!(out, "{:>12}", Column(limit))?,
                None => write!(out, "{:>12}", "-")?,
            }
            writeln!(out, "{:>9}", of.book.refused)?;
        }
        Ok(())
    }

    fn write_table_blocks(&self, out: &mut impl Write) -> fmt::Result {
        writeln!(out, "\n{:<12}{:>14}{:>14}{:>14}", "blocks of", "allocated", "freed", "in use")?;
        for ClassFigures { size, allocated, freed } in self.classes().filter(ClassFigures::is_used) {
            match size {
                Some(size) => write!(out, "{size:>8} B  ")?,
                None => write!(out, "{:>10}  ", "large")?,
            }
            writeln!(out, "{allocated:>14}{freed:>14}{:>14}", allocated - freed)?;
        }
        writeln!(out)
    }

    /// Writes the books as XML, shaped like the answer of glibc's `malloc_info`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_xml(&self, out: &mut impl Write) -> fmt::Result {
        writeln!(out, "<malloc version=\"spanheap-1\">")?;
        // The number alone, which needs no escapes; the JSON has the whole sentence.
        match self.check() {
            Ok(()) => writeln!(out, "<check result=\"ok\"/>")?,
            Err(wrong) => {
                writeln!(out, "<check result=\"failed\" identity=\"{}\"/>", wrong.identity.number())?
            }
        }
        for account in self.accounts() {
            let (name, balance) = (self.account_name(account), self.balance(account));
            writeln!(out, "<account name=\"{name}\" size=\"{balance}\"/>")?;
        }
        for PurposeFigures { book, inuse, spans, allocated, freed, .. } in self.purposes() {
            write!(out, "<purpose name=\"{}\" inuse=\"{inuse}\" spans=\"{spans}\"", book.name)?;
            write!(out, " peak=\"{}\" allocated=\"{allocated}\" freed=\"{freed}\"", book.peak.0)?;
            writeln!(out, " refused=\"{}\"/>", book.refused)?;
        }
        writeln!(out, "<sizes>")?;
        for ClassFigures { size, allocated, freed } in self.classes().filter(ClassFigures::is_used) {
            match size {
                Some(size) => write!(out, "<size size=\"{size}\"")?,
                None => write!(out, "<large")?,
            }
            writeln!(out, " allocated=\"{allocated}\" freed=\"{freed}\"/>")?;
        }
        writeln!(out, "</sizes>")?;
        writeln!(out, "<system type=\"current\" size=\"{}\"/>", self.committed())?;
        writeln!(out, "</malloc>")
    }
}

/// Accounts that have pages, of which some may be resident.
fn with_pages(snapshot: &Snapshot) -> impl Iterator<Item = Account> + use<> {
    snapshot.accounts().filter(|&account| has_pages(account))
}

fn has_pages(account: Account) -> bool {
    !matches!(account, Account::System | Account::Reserved)
}

/// The items of a JSON object or array, with the commas between them.
struct Items<'a, W: Write> {
    out: &'a mut W,
    first: bool,
}

impl<W: Write> Items<'_, W> {
    fn object(out: &mut W, write: impl FnOnce(&mut Items<'_, W>) -> fmt::Result) -> fmt::Result {
        Items::between(out, '{', '}', write)
    }

    fn array(out: &mut W, write: impl FnOnce(&mut Items<'_, W>) -> fmt::Result) -> fmt::Result {
        Items::between(out, '[', ']', write)
    }

    fn between(
        out: &mut W,
        open: char,
        close: char,
        write: impl FnOnce(&mut Items<'_, W>) -> fmt::Result,
    ) -> fmt::Result {
        out.write_char(open)?;
        write(&mut Items { out: &mut *out, first: true })?;
        out.write_char(close)
    }

    fn item(&mut self, value: impl Display) -> fmt::Result {
        let comma = if core::mem::take(&mut self.first) { "" } else { "," };
        write!(self.out, "{comma}{value}")
    }

    fn entry(&mut self, key: impl Display, value: impl Display) -> fmt::Result {
        self.item(format_args!("{}:{value}", Quoted(key)))
    }
}

/// A JSON string.
struct Quoted<T>(T);

/// Passes text on with JSON's escapes.
struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl<T: Display> Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write!(Escape(f), "{}", self.0)?;
        f.write_char('"')
    }
}

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '"' | '\\' => write!(self.0, "\\{c}"),
            '\n' => self.0.write_str("\\n"),
            '\t' => self.0.write_str("\\t"),
            c if c < ' ' => write!(self.0, "\\u{:04x}", c as u32),
            c => self.0.write_char(c),
        })
    }
}

struct JsonPurpose(PurposeFigures);

impl Display for JsonPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PurposeFigures { book, inuse, spans, allocated, freed, .. } = self.0;
        write!(f, "{{\"inuse\":{inuse},\"spans\":{spans},\"peak\":{}", book.peak.0)?;
        write!(f, ",\"allocated\":{allocated},\"freed\":{freed}")?;
        write!(f, ",\"reserved\":{}", book.reserved.0)?;
        write!(f, ",\"soft_limit\":{},\"limit\":{}", OrNull(book.soft_limit), OrNull(book.limit))?;
        write!(f, ",\"refused\":{}}}", book.refused)
    }
}

struct JsonClass(ClassFigures);

impl Display for JsonClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClassFigures { size, allocated, freed } = self.0;
        let size = OrNull(size.map(|size| Bytes(size as usize)));
        write!(f, "{{\"size\":{size},\"allocated\":{allocated},\"freed\":{freed}}}")
    }
}

struct OrNull(Option<Bytes>);

impl Display for OrNull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{}", bytes.0),
            None => f.write_str("null"),
        }
    }
}

/// Anything printed into a column: honours width and alignment, which most of our types do not.
struct Column<T>(T);

impl<T: Display> Display for Column<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::<64>::new();
        write!(text, "{}", self.0)?;
        f.pad(text.as_str())
    }
}

/// A signed number of bytes, in binary units.
struct Human(i64);

impl Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        Column(format_args!("{sign}{}", Bytes(self.0.unsigned_abs() as usize))).fmt(f)
    }
}
