//! Everything that people and other programs see of wfhost goes through here.
//!
//! Stdout carries what was asked for. As JSON it keeps its value to the last digit, with control
//! characters escaped; as text for people, and on stderr, whatever others wrote is neutralised (see
//! [`text`]), so that no program, agent or file can steer the terminal. Data that is no JSON
//! (a diff, WIT) is written byte for byte, unless a terminal shows it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;
use wfhost::clock::{self, rfc3339};
use wfhost::world::text;
use wfhost_core::Json;
use wfhost_view::raw;

use super::Common;
use super::diagnostic::UserError;

pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const PLAIN: Style = Style::new();

/// Where text of several lines goes on below a word like `Failed`.
const BELOW_WORD: usize = 10;

/// The first failure to write to stdout. Nothing is written after it.
static BROKEN: OnceLock<io::Error> = OnceLock::new();

/// Writes to stdout, at once.
fn out(bytes: &[u8]) {
    if BROKEN.get().is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // Another thread's failure would say the same.
        let _ = BROKEN.set(error);
    }
}

/// Whether nothing that is written to stdout arrives any more, so that those who follow can stop.
pub(super) fn is_broken() -> bool {
    BROKEN.get().is_some() || reader_is_gone()
}

/// Whether whoever read stdout from a pipe has closed it. A write would say so, but there may be nothing to write for
/// hours.
fn reader_is_gone() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&now)), Ok(1..)) && polled[0].revents().contains(PollFlags::ERR)
}

/// What went wrong with stdout. A reader that has seen enough is no error.
pub(super) fn failure() -> Option<UserError> {
    let error = BROKEN.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)?;
    Some(
        UserError::host("WF0006", format!("stdout cannot be written: {error}"))
            .hint("runs are not affected: print the data again, for example with `wfhost show`"),
    )
}

/// A line of a document for other programs.
pub(super) fn json(document: &impl Serialize) {
    value_text(raw(document).get());
}

/// A message of a protocol, which is JSON.
pub(super) fn message(json: &str) {
    value_text(json);
}

/// JSON of a program as it is.
pub(super) fn value(value: &Json) {
    value_text(value.as_str());
}

fn value_text(json: &str) {
    out(format!("{}\n", text::json(json)).as_bytes());
}

/// A line for people on stdout.
pub(super) fn line(line: impl AsRef<str>) {
    out(format!("{}\n", text::lines(line.as_ref(), 4).trim_end()).as_bytes());
}

/// Data of some other form: as it is, unless somebody looks at it on a terminal.
pub(super) fn data(data: &str) {
    if io::stdout().is_terminal() {
        return data.lines().for_each(|text| out(format!("{}\n", text::one_line(text)).as_bytes()));
    }
    let end = if data.ends_with('\n') { "" } else { "\n" };
    out(format!("{data}{end}").as_bytes());
}

/// A line on stderr, made of pieces. All text is neutralised when it is added.
#[derive(Default)]
pub(super) struct Line(String);

impl Line {
    pub fn new() -> Self {
        Self::default()
    }

    /// A word on the left, like `Started`.
    pub fn word(style: Style, word: &str) -> Self {
        Self::new().styled(style, format!("{word:>8}")).plain("  ")
    }

    /// A mark on the left, like `✓`.
    pub fn mark(style: Style, mark: &str) -> Self {
        Self::new().plain("      ").styled(style, mark).plain(" ")
    }

    #[must_use]
    pub fn plain(self, text: impl AsRef<str>) -> Self {
        self.styled(PLAIN, text)
    }

    #[must_use]
    pub fn styled(mut self, style: Style, text: impl AsRef<str>) -> Self {
        let text = text::lines(text.as_ref(), BELOW_WORD);
        self.0.push_str(&format!("{style}{text}{style:#}"));
        self
    }

    /// Writes the line. A failure is ignored: stderr is where it would be reported.
    pub fn show(self) {
        let _ = writeln!(anstream::stderr(), "{}", self.0.trim_end());
    }
}

/// How important a line of the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
}

/// Whether what is said to people is said as lines of a log.
static LOGS: OnceLock<()> = OnceLock::new();

/// From now on, what is said to people is said as lines of a log.
pub(super) fn say_as_log() {
    LOGS.get_or_init(|| ());
}

/// A line of the log on stderr, as JSON.
pub(super) fn log(level: Level, event: &str, fields: Value) {
    let level = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
    };
    let head = [("at", rfc3339(clock::now())), ("level", level.to_owned()), ("event", event.to_owned())];
    let mut line: serde_json::Map<_, _> =
        head.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    // In one piece: threads take turns.
    let line = format!("{}\n", text::json(&Value::Object(line).to_string()));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// A line for people on stderr: a word and what it is about.
pub(super) fn say(common: &Common, word: &str, text: &str) {
    if LOGS.get().is_some() {
        return log(Level::Info, &word.to_lowercase(), serde_json::json!({ "message": text }));
    }
    if !common.quiet {
        Line::word(GOOD, word).plain(text).show();
    }
}

/// A warning on stderr, also if no progress is wanted.
pub(super) fn warn(common: &Common, text: &str) {
    if common.output == super::Format::Text {
        Line::word(ERROR, "Warning").plain(text).show();
    }
}

/// A progress line on stderr, if that is a terminal.
pub(super) struct Progress {
    what: String,
    of: u64,
    shown: Option<Mutex<Instant>>,
}

impl Progress {
    pub fn new(common: &Common, what: &str, of: u64) -> Self {
        let is_shown = !common.quiet && io::stderr().is_terminal();
        let shown = is_shown.then(|| Mutex::new(Instant::now()));
        Self { what: text::one_line(what).into(), of, shown }
    }

    /// So many are done, and so many of them failed.
    pub fn at(&self, done: u64, failed: u64) {
        const EVERY: Duration = Duration::from_millis(100);
        let Some(Ok(mut shown)) = self.shown.as_ref().map(Mutex::try_lock) else { return };
        if shown.elapsed() >= EVERY {
            *shown = Instant::now();
            let _ = write!(
                anstream::stderr(),
                "\r\x1b[K{DIM}{:>8}{DIM:#}  {}  {done} of {}, {failed} failed",
                "Testing",
                self.what,
                self.of
            );
        }
    }

    /// Takes the line away.
    pub fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(anstream::stderr(), "\r\x1b[K");
        }
    }
}

/// An error for other programs, on stderr.
pub(super) fn error_json(value: &Value) {
    let _ = writeln!(io::stderr(), "{}", text::json(&value.to_string()));
}

/// What is wrong with a command line, on stderr, with the code that such errors have.
pub(super) fn misuse(error: &clap::Error) {
    let text = error.render().ansi().to_string();
    // The help that is shown instead of an error has no code.
    let text = match error.render().to_string().starts_with("error:") {
        true => text.replacen("error:", "error[WF0007]:", 1),
        false => text,
    };
    // Nothing can be done about a closed terminal.
    let _ = write!(anstream::stderr(), "{text}");
}

/// A plain sentence on stderr.
pub(super) fn note(text: &str) {
    Line::new().plain(text).show();
}

/// A question on stderr, without a line's end.
pub(super) fn prompt(question: &str) {
    let mut stderr = anstream::stderr();
    // A prompt that cannot be shown is still answered.
    let _ = write!(stderr, "{} ", text::one_line(question)).and_then(|()| stderr.flush());
}

/// Text in a column: on one line, filled up to so many cells of a terminal.
pub(super) fn cell(text: &str, width: usize) -> String {
    let text = text::one_line(text);
    let fill = width.saturating_sub(text.width());
    format!("{text}{}", " ".repeat(fill))
}

/// Text on one line that takes at most so many cells of a terminal.
pub(super) fn shortened(text: &str, width: usize) -> String {
    // The first characters will do: written out, none takes less than a cell, but for those of no width.
    let head = &text[..text.floor_char_boundary(width.saturating_mul(32))];
    let line = text::one_line(head);
    if head.len() == text.len() && line.width() <= width {
        return line.into_owned();
    }
    let mut cut = String::new();
    for c in line.chars() {
        cut.push(c);
        if cut.width() >= width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

/// A column of a table.
pub(super) struct Column {
    pub title: &'static str,
    /// Numbers are.
    pub right: bool,
}

/// A column of text.
pub(super) const fn left(title: &'static str) -> Column {
    Column { title, right: false }
}

/// A column of numbers.
pub(super) const fn right(title: &'static str) -> Column {
    Column { title, right: true }
}

/// A table on stdout, each column as wide as what is in it. Without titles there is no heading.
pub(super) fn table(columns: &[&Column], rows: impl IntoIterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| row.iter().map(|text| text::one_line(text).into_owned()).collect())
        .collect();
    let heading: Vec<_> = columns.iter().map(|column| column.title.to_owned()).collect();
    let heading = Some(heading).filter(|titles| titles.iter().any(|title| !title.is_empty()));
    let rows: Vec<_> = heading.into_iter().chain(rows).collect();
    let widths: Vec<_> = (0..columns.len())
        .map(|index| rows.iter().filter_map(|row| row.get(index)).map(|text| text.width()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let cells = row.iter().zip(columns).zip(&widths).map(|((text, column), width)| {
            let fill = " ".repeat(width.saturating_sub(text.width()));
            if column.right { format!("{fill}{text}") } else { format!("{text}{fill}") }
        });
        line(cells.collect::<Vec<_>>().join("  "));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn columns_are_measured_in_cells() {
        for name in ["abc", "日本語", "é", "👩‍🚀", "a\x1b[2Jb"] {
            assert_eq!(cell(name, 20).width(), 20, "{name}");
        }
    }

    #[test]
    fn long_text_is_cut_by_cells() {
        assert_eq!(shortened("abc\ndef", 7), "abc def");
        assert_eq!(shortened("日本語日本語", 7), "日本語…");
        for text in ["x".repeat(100_000), "\x1b".repeat(100_000), "é".repeat(121)] {
            let cut = shortened(&text, 120);
            assert!(cut.ends_with('…') && cut.width() <= 120, "{cut}");
        }
    }

    /// Calls `see` with every source file below a directory but this one.
    fn sources(directory: &Path, see: &mut impl FnMut(&Path, &str)) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, see);
            } else if !path.ends_with("cli/src/printer.rs")
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                see(&path, &text);
            }
        }
    }

    #[test]
    fn nothing_is_printed_but_through_the_printer() {
        let host = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let crates = std::fs::read_dir(host).unwrap().map(|entry| entry.unwrap().path().join("src"));
        let mut found = Vec::new();
        for src in crates.chain([host.join("src")]).filter(|src| src.is_dir()) {
            sources(&src, &mut |path, text| {
                // The stderr of a supervisor is its connection to the host.
                if path.ends_with("command/supervisor.rs") {
                    return;
                }
                for forbidden in ["println!", "eprint!", " print!(", "anstream::", "io::stderr()"] {
                    if text.contains(forbidden) {
                        found.push(format!("{}: {forbidden}", path.display()));
                    }
                }
            });
        }
        assert!(found.is_empty(), "{found:#?}");
    }
}
