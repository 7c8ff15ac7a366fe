//! `spanheap top`: a process's purposes, accounts and rates in the terminal, as time goes by.
//!
//! Two threads: one reads keys and sends them, the other waits for a key or the next look, and draws. What is drawn is
//! computed from two samples, one after the other; nothing else is remembered but the line of the last minutes.

use super::show::{self, Which};
use super::target::{Target, Unwatchable, command};
use super::waterfall;
use crate::run::say;
use crate::size::human;
use ratatui::backend::TermionBackend;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use ratatui::{Frame, Terminal};
use spanheap::Snapshot;
use spanheap::stats::{Account, PurposeFigures};
use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use termion::event::Key;
use termion::input::TermRead;
use termion::raw::IntoRawMode;
use termion::screen::IntoAlternateScreen;

/// Samples that the line shows at most.
const KEPT: usize = 600;

/// The column that rows are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    InUse,
    Allocated,
    Peak,
    Name,
}

/// One purpose at one moment.
#[derive(Clone, Debug)]
struct PurposeLine {
    name: String,
    inuse: i64,
    spans: i64,
    peak: i64,
    allocated: i64,
    freed: i64,
    limit: Option<i64>,
    refused: u64,
}

/// One moment.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    purposes: Vec<PurposeLine>,
    accounts: Vec<(String, i64)>,
    committed: i64,
    released: i64,
    process: i64,
    check: Option<String>,
}

/// What is shown.
struct View {
    title: String,
    sort: Sort,
    now: Sample,
    before: Option<Sample>,
    line: VecDeque<u64>,
    note: String,
}

impl Sort {
    fn next(self) -> Sort {
        match self {
            Sort::InUse => Sort::Allocated,
            Sort::Allocated => Sort::Peak,
            Sort::Peak => Sort::Name,
            Sort::Name => Sort::InUse,
        }
    }
}

impl Sample {
    fn of(snapshot: &Snapshot, process: i64) -> Sample {
        let line = |of: PurposeFigures| PurposeLine {
            name: of.book.name.to_string(),
            inuse: of.inuse,
            spans: of.spans,
            peak: of.book.peak.0 as i64,
            allocated: of.allocated,
            freed: of.freed,
            limit: of.book.limit.map(|limit| limit.0 as i64),
            refused: of.book.refused,
        };
        let fixed = snapshot.accounts().filter(|account| !matches!(account, Account::Span(_)));
        Sample {
            at: Instant::now(),
            purposes: snapshot.purposes().filter(PurposeFigures::is_used).map(line).collect(),
            accounts: fixed.map(|a| (snapshot.account_name(a).to_string(), snapshot.balance(a))).collect(),
            committed: snapshot.committed(),
            released: snapshot.balance(Account::Released),
            process,
            check: snapshot.check().err().map(|wrong| wrong.to_string()),
        }
    }

    fn take(target: &mut Target) -> Result<Sample, Unwatchable> {
        let process =
            waterfall::resident(target.pid()).map_err(|error| Unwatchable::from_io(target.pid(), error))?;
        Ok(Sample::of(target.read()?, process))
    }
}

impl View {
    fn new(title: String, now: Sample) -> View {
        let line = VecDeque::from([now.committed.max(0) as u64]);
        View { title, sort: Sort::InUse, now, before: None, line, note: String::new() }
    }

    fn push(&mut self, sample: Sample) {
        self.line.push_back(sample.committed.max(0) as u64);
        while self.line.len() > KEPT {
            self.line.pop_front();
        }
        self.before = Some(std::mem::replace(&mut self.now, sample));
    }

    /// Bytes a second that a purpose was given, and gave back, since the sample before.
    fn rates(&self, line: &PurposeLine) -> Option<[f64; 2]> {
        let before = self.before.as_ref()?;
        let seconds = (self.now.at - before.at).as_secs_f64().max(1e-3);
        let old = before.purposes.iter().find(|old| old.name == line.name);
        let since = |now: i64, old: Option<i64>| (now - old.unwrap_or(0)) as f64 / seconds;
        Some([
            since(line.allocated, old.map(|old| old.allocated)),
            since(line.freed, old.map(|old| old.freed)),
        ])
    }

    /// The purposes in the order that was asked for.
    fn sorted(&self) -> Vec<&PurposeLine> {
        let mut lines: Vec<&PurposeLine> = self.now.purposes.iter().collect();
        let rate = |line: &PurposeLine| self.rates(line).map_or(0.0, |[given, _]| given);
        lines.sort_by(|a, b| match self.sort {
            Sort::InUse => b.inuse.cmp(&a.inuse),
            Sort::Allocated => rate(b).total_cmp(&rate(a)),
            Sort::Peak => b.peak.cmp(&a.peak),
            Sort::Name => a.name.cmp(&b.name),
        });
        lines
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, line, purposes, accounts, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(5),
            Constraint::Min(4),
            Constraint::Length((self.now.accounts.len().div_ceil(2) + 2) as u16),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let Sample { committed, released, process, .. } = self.now;
        let books = self.now.check.clone().unwrap_or("balanced".into());
        let text = vec![
            Line::styled(self.title.as_str(), Style::new().add_modifier(Modifier::BOLD)),
            Line::from(format!(
                "process {}   committed {}   released {}   books {books}",
                size(process),
                size(committed),
                size(released)
            )),
        ];
        frame.render_widget(Paragraph::new(text), head);
        let width = usize::from(line.width);
        let data: Vec<u64> = self.line.iter().skip(self.line.len().saturating_sub(width)).copied().collect();
        let most = data.iter().max().copied().unwrap_or(0);
        let title = format!(" committed, at most {} ", human(most.into()));
        frame.render_widget(Sparkline::default().data(data).block(Block::bordered().title(title)), line);
        self.draw_purposes(frame, purposes);
        self.draw_accounts(frame, accounts);
        let keys = format!("q end   s sort   r release   {}", self.note);
        frame.render_widget(Paragraph::new(keys), foot);
    }

    fn draw_purposes(&self, frame: &mut Frame<'_>, area: Rect) {
        let mark =
            |name: &str, sort: Sort| if self.sort == sort { format!("{name}▾") } else { name.into() };
        let head = [
            mark("purpose", Sort::Name),
            mark("in use", Sort::InUse),
            "spans".into(),
            mark("peak", Sort::Peak),
            mark("given/s", Sort::Allocated),
            "back/s".into(),
            "limit".into(),
            "refused".into(),
        ];
        let rows = self.sorted().into_iter().map(|line| {
            let [given, back] =
                self.rates(line).map_or(["".into(), "".into()], |rates| rates.map(|r| size(r as i64)));
            let limit = line.limit.map_or("-".into(), size);
            let name = Cell::new(line.name.clone());
            let cells = [
                size(line.inuse),
                line.spans.to_string(),
                size(line.peak),
                given,
                back,
                limit,
                line.refused.to_string(),
            ];
            Row::new([name].into_iter().chain(cells.map(right)))
        });
        let mut head = head.into_iter();
        let first = head.next().map(Cell::new);
        let head = Row::new(first.into_iter().chain(head.map(right)))
            .style(Style::new().add_modifier(Modifier::BOLD));
        let widths = [18, 10, 7, 10, 10, 10, 10, 8].map(Constraint::Min);
        frame.render_widget(
            Table::new(rows, widths).header(head).block(Block::bordered().title(" purposes ")),
            area,
        );
    }

    fn draw_accounts(&self, frame: &mut Frame<'_>, area: Rect) {
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(area);
        let half = self.now.accounts.len().div_ceil(2);
        for (area, accounts) in [left, right].into_iter().zip(self.now.accounts.chunks(half.max(1))) {
            let rows = accounts
                .iter()
                .map(|(name, bytes)| Row::new([Cell::new(name.as_str()), self::right(size(*bytes))]));
            let widths = [Constraint::Min(24), Constraint::Length(11)];
            frame.render_widget(Table::new(rows, widths).block(Block::bordered().title(" accounts ")), area);
        }
    }
}

fn size(bytes: i64) -> String {
    human(bytes.into())
}

fn right(text: String) -> Cell<'static> {
    Cell::new(Line::from(text).alignment(Alignment::Right))
}

/// `spanheap top`. Returns the exit status.
pub(crate) fn top(which: Which, interval: Duration) -> i32 {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        say("`top` wants a terminal; `spanheap stats` prints once");
        return 2;
    }
    let mut target = match which.open() {
        Ok(target) => target,
        Err(why) => return show::refuse(why),
    };
    let ended = Sample::take(&mut target)
        .map_err(Failure::Process)
        .and_then(|first| watch(&mut target, first, interval));
    match ended {
        Ok(()) => 0,
        Err(Failure::Process(why)) => show::refuse(why),
        Err(Failure::Terminal(error)) => {
            say(format_args!("the terminal refuses: {error}"));
            1
        }
    }
}

/// Why watching ended.
enum Failure {
    Process(Unwatchable),
    Terminal(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Terminal(error)
    }
}

/// Draws until somebody ends it. The terminal is as before when this returns.
fn watch(target: &mut Target, first: Sample, interval: Duration) -> Result<(), Failure> {
    let screen = io::stdout().into_raw_mode()?.into_alternate_screen()?;
    let mut terminal = Terminal::new(TermionBackend::new(screen))?;
    terminal.hide_cursor()?;
    let (send, keys) = mpsc::channel();
    // The thread ends with the process: nothing else ends a read from a terminal.
    std::thread::spawn(move || io::stdin().keys().map_while(Result::ok).try_for_each(|key| send.send(key)));
    let mut view = View::new(format!("{} · pid {}", command(target.pid()), target.pid()), first);
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        match keys.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Key::Char('q') | Key::Ctrl('c') | Key::Esc) | Err(RecvTimeoutError::Disconnected) => {
                return Ok(());
            }
            Ok(Key::Char('s')) => view.sort = view.sort.next(),
            Ok(Key::Char('r')) => {
                view.note = match target.release() {
                    Ok(()) => "release ordered: done when the program next needs memory".into(),
                    Err(why) => why.to_string(),
                };
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                view.push(Sample::take(target).map_err(Failure::Process)?);
                next = Instant::now() + interval;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use spanheap::{Bytes, Config, Heap};

    fn view() -> View {
        let heap = Heap::new(Config::default()).unwrap();
        let [sessions, index] = ["sessions", "index"].map(|name| heap.declare(name).unwrap());
        index.set_limit(Some(Bytes::mib(64)));
        let mut snapshot = Box::new(Snapshot::zero());
        let one = index.allocate_span(Bytes::mib(2)).unwrap();
        heap.snapshot_into(&mut snapshot);
        let mut first = Sample::of(&snapshot, 10 << 20);
        let two = sessions.allocate_span(Bytes::mib(1)).unwrap();
        heap.snapshot_into(&mut snapshot);
        let second = Sample::of(&snapshot, 11 << 20);
        first.at = second.at - Duration::from_secs(2);
        let mut view = View::new("program · pid 7".into(), first);
        view.push(second);
        drop((one, two));
        heap.check().unwrap();
        view
    }

    fn text(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(usize::from(width)).map(|line| line.concat() + "\n").collect()
    }

    #[test]
    fn the_screen_says_what_the_books_say() {
        let view = view();
        let text = text(&view, 110, 30);
        let row = |name: &str| {
            let line =
                text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
            line.split_whitespace()
                .filter(|word| *word != "│")
                .map(str::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(row("sessions"), "│sessions 1.00 MiB 1 1.00 MiB 512 KiB 0 - 0│");
        assert_eq!(row("index"), "│index 2.00 MiB 1 2.00 MiB 0 0 64.0 MiB 0│");
        assert!(row("process").starts_with("process 11.0 MiB committed"), "{text}");
        assert!(text.contains("books balanced") && text.contains("metadata/mutators"), "{text}");
    }

    #[test]
    fn rows_are_sorted_by_what_is_asked_for() {
        let mut view = view();
        let first = |view: &View| view.sorted()[0].name.clone();
        assert_eq!(first(&view), "index");
        view.sort = view.sort.next();
        assert_eq!((view.sort, first(&view)), (Sort::Allocated, "sessions".into()));
        view.sort = view.sort.next();
        assert_eq!((view.sort, first(&view)), (Sort::Peak, "index".into()));
        view.sort = view.sort.next();
        assert_eq!(view.sort, Sort::Name);
        let names: Vec<_> = view.sorted().iter().map(|line| line.name.clone()).collect();
        assert!(names.is_sorted());
        assert_eq!(view.sort.next(), Sort::InUse);
    }

    #[test]
    fn a_small_terminal_is_no_reason_to_fail() {
        let view = view();
        for (width, height) in [(1, 1), (20, 5), (40, 12), (80, 24)] {
            text(&view, width, height);
        }
    }
}
