//! Errors for people: what, where, why, and how to fix it.

use std::borrow::Cow;
use std::process::ExitCode;

use unicode_width::UnicodeWidthStr;
use wfhost::agents::ScriptError;
use wfhost::archive::ArchiveError;
use wfhost::engine::{DriveError, ModuleError};
use wfhost::schedule::BadTimes;
use wfhost::store::StoreError;
use wfhost::world::environment::BadVariable;
use wfhost::world::text::{command, excerpt, one_line, quoted, shortened};
use wfhost::{ForkError, GrantError, HostError};
use wfhost_config::ConfigError;
use wfhost_core::{CannotRetry, Digest, Mismatch, RunId};
use wfhost_registry::RegistryError;

use crate::hide::HIDDEN;

/// The exit codes of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Done,
    /// The run failed or was cancelled.
    RunFailed,
    /// Bad arguments or bad input.
    Usage,
    /// The run waits (only with `--no-wait`).
    Waits,
    /// Database, disk, provider.
    Host,
    /// The module diverges from the journal.
    Mismatch,
    /// Another live process holds the lease.
    Held,
    /// The run failed because it had spent its budget.
    Budget,
    /// Ended by a signal of the operating system.
    Signalled(u8),
}

impl Exit {
    /// The code that the process ends with.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::RunFailed => 1,
            Self::Usage => 2,
            Self::Waits => 3,
            Self::Host => 4,
            Self::Mismatch => 5,
            Self::Held => 6,
            Self::Budget => 7,
            Self::Signalled(number) => 128 + number,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Bytes of each text of an error that are shown.
const SHOWN_BYTES: usize = 4 << 10;
/// Lines below its message that are shown, and causes.
const MOST_DETAILS: usize = 200;
const MOST_CAUSES: usize = 30;

fn shorten(text: &mut String) {
    if let Cow::Owned(short) = shortened(text, SHOWN_BYTES) {
        *text = short;
    }
}

/// An error with all that a user needs.
#[derive(Clone, Debug)]
pub struct UserError {
    pub code: &'static str,
    pub message: String,
    /// Lines below the message, indented.
    pub details: Vec<String>,
    pub hints: Vec<String>,
    /// What it came of, the nearest first. The message may say the same in one sentence.
    pub causes: Vec<String>,
    pub exit: Exit,
}

impl UserError {
    pub fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            hints: Vec::new(),
            causes: Vec::new(),
            exit: Exit::Usage,
        }
    }

    pub fn host(code: &'static str, message: impl Into<String>) -> Self {
        Self { exit: Exit::Host, ..Self::usage(code, message) }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// As it is shown: whatever it quotes of files and answers, it stays short enough to be read.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for text in [&mut self.message].into_iter().chain(self.hints.iter_mut()).chain(&mut self.causes) {
            shorten(text);
        }
        self.details.iter_mut().for_each(shorten);
        for (lines, most) in [(&mut self.details, MOST_DETAILS), (&mut self.causes, MOST_CAUSES)] {
            if lines.len() > most {
                let more = lines.len() - most;
                lines.truncate(most);
                lines.push(format!("… and {more} more"));
            }
        }
        self
    }

    /// With the chain of errors that it came of, or that it says itself.
    pub fn because(mut self, error: &dyn std::error::Error) -> Self {
        for cause in std::iter::successors(Some(error), |error| error.source()) {
            let cause = cause.to_string();
            // Some errors only hand on the one that they are made of.
            if cause != *self.causes.last().unwrap_or(&self.message) {
                self.causes.push(cause);
            }
        }
        self
    }

    /// A program that diverges from its journal. `moved`: the modules, if the
    /// one now is another one than the recorded one.
    pub fn mismatch(run: &RunId, mismatch: &Mismatch, moved: Option<(Digest, Digest)>) -> Self {
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::Null if mismatch.field.is_none() => String::new(),
            serde_json::Value::String(text) if mismatch.field.is_none() => text.clone(),
            other => other.to_string(),
        };
        let (recorded, asked) = (word(&mismatch.recorded_value), word(&mismatch.asked_value));
        // How a program came to its end is not compared with anything.
        let ended = Some(&asked).filter(|_| mismatch.asked == "stop").cloned();
        let (recorded, asked, marked) = around_difference(&recorded, &asked);
        let asked = ended.unwrap_or(asked);
        let field = mismatch.field.as_deref().filter(|name| !name.is_empty());
        let shown = field.map(|field| format!("{field} ")).unwrap_or_default();
        let width = mismatch.recorded.len().max(mismatch.asked.len());
        let line = |who: &str, kind: &str, value: &str| {
            format!("{who}  {kind:width$}  {shown}{value}").trim_end().to_owned()
        };
        let mut details =
            vec![line("recorded", &mismatch.recorded, &recorded), line("now asks", &mismatch.asked, &asked)];
        if let Some(name) = field {
            let (from, length) = marked;
            let indent = 8 + 2 + width + 2 + shown.chars().count() + from;
            details.push(format!("{}{} field `{name}`", " ".repeat(indent), "^".repeat(length.max(1))));
        }
        let mut hints = vec!["nothing was executed, and the journal is unchanged".to_owned()];
        if let Some((old, new)) = moved {
            let short = |digest: Digest| digest.to_string()[..13].to_owned();
            details.push(format!(
                "cause: the module changed (recorded {}…, now {}…)",
                short(old),
                short(new)
            ));
            hints.push(format!("keep the old code: `{}`", command("resume", run)));
            let fork = command("fork", run).option("--at", mismatch.position).option("--module", "MODULE");
            hints.push(format!("or fork the run before the change: `{fork}`"));
        }
        Self {
            code: "WF0201",
            message: format!("{run} is non-deterministic at entry {}", mismatch.position),
            details,
            hints,
            causes: Vec::new(),
            exit: Exit::Mismatch,
        }
    }

    /// The same for those who may not see what runs work on: how a program differs from what is recorded is left out.
    #[must_use]
    pub fn without_payloads(self) -> Self {
        match self.code {
            "WF0201" | "WF0203" => Self { details: vec![HIDDEN.to_owned()], ..self },
            _ => self,
        }
    }

    /// Text that is no JSON, with the place underlined.
    pub fn bad_json(what: &str, text: &str, error: &serde_json::Error) -> Self {
        let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        let column = error.column().max(1);
        // A long line is shown around the place.
        let from = line.floor_char_boundary(column.saturating_sub(41));
        let to = line.ceil_char_boundary((column + 30).min(line.len()));
        let before = one_line(line.get(from..(column - 1).clamp(from, line.len())).unwrap_or_default());
        let details = vec![
            format!("{:>4} | {}", error.line(), &line[from..to.max(from)]),
            format!("     | {}^ {}", " ".repeat(before.width()), plain(error)),
        ];
        Self { details, ..Self::usage("WF0002", format!("{what} is not valid JSON")) }.because(error)
    }
}

/// Two texts cut to the place where they differ, and where the second one
/// differs: its first character there and how many.
fn around_difference(recorded: &str, asked: &str) -> (String, String, (usize, usize)) {
    /// Characters that are shown before and from the difference on.
    const BEFORE: usize = 30;
    const FROM: usize = 60;
    let (a, b): (Vec<char>, Vec<char>) = (recorded.chars().collect(), asked.chars().collect());
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let rest = a[same..].iter().rev().zip(b[same..].iter().rev()).take_while(|(a, b)| a == b).count();
    let start = same.saturating_sub(BEFORE);
    let cut = |text: &[char]| {
        let end = text.len().min(same + FROM);
        let (before, behind) = (if start > 0 { "…" } else { "" }, if end < text.len() { "…" } else { "" });
        format!("{before}{}{behind}", text[start.min(end)..end].iter().collect::<String>())
    };
    let length = (b.len() - rest).saturating_sub(same).min(FROM);
    (cut(&a), cut(&b), (same - start + usize::from(start > 0), length))
}

/// The section of a provider's configuration.
pub fn section(provider: &str) -> String {
    let bare = provider.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if bare { format!("[providers.{provider}]") } else { format!("[providers.{provider:?}]") }
}

/// serde's message without the place, which is shown.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    excerpt(text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text))
}

impl From<ModuleError> for UserError {
    fn from(error: ModuleError) -> Self {
        Self::usage(error.code(), error.to_string()).hint(error.hint()).because(&error)
    }
}

/// Whether a database is on a server, by how errors name it.
fn is_server(place: &str) -> bool {
    place.contains("://")
}

impl From<StoreError> for UserError {
    fn from(error: StoreError) -> Self {
        let hint = match &error {
            StoreError::Fenced { .. } | StoreError::SessionOver => {
                "`wfhost show` prints the owner of its lease".to_owned()
            }
            StoreError::IdTaken { id } => {
                format!("choose another --id, or resume that run: `{}`", command("resume", id))
            }
            StoreError::IdUsed { .. } => "choose another --id: ids are not reused".to_owned(),
            StoreError::Raced { .. } => "try again".to_owned(),
            StoreError::KeyUsed { run, .. } => {
                format!("choose another --key, or show that run: `{}`", command("show", run))
            }
            StoreError::NoSuchModule(_) => "add the module: `wfhost add FILE.wasm`".to_owned(),
            StoreError::CannotOpen { place, .. } if is_server(place) => {
                "create the database (`createdb NAME`), or name an existing one; then `wfhost db init`".to_owned()
            }
            StoreError::CannotOpen { .. } => "name another file with --db FILE or WFHOST_DB".to_owned(),
            StoreError::ReadOnly { place } if is_server(place) => {
                "turn off `default_transaction_read_only` for this user or this database, or name another server"
                    .to_owned()
            }
            StoreError::ReadOnly { place } => {
                format!("make it writable, `chmod u+w {}`, or name another file with --db", quoted(place))
            }
            StoreError::Full { .. } => {
                "free disk space, then `wfhost resume`; nothing that was committed is lost".to_owned()
            }
            StoreError::Locked { .. } => "stop the program that holds the lock, and try again".to_owned(),
            StoreError::NoTables { .. } => {
                "`wfhost db init` creates them; or name another database with --db".to_owned()
            }
            StoreError::NotEmpty { .. } => {
                "name an empty database: a file that does not exist, or ?schema=OTHER on a server".to_owned()
            }
            StoreError::Older { .. } => {
                "`wfhost db migrate` migrates them; hosts of the earlier version keep working".to_owned()
            }
            StoreError::Newer { .. } => "update wfhost, or name another database with --db".to_owned(),
            StoreError::Damaged { place, .. } if is_server(place) => {
                "check the log of the server; restore a backup beside it, and name that with --db".to_owned()
            }
            StoreError::Damaged { .. } => "keep a copy of the file, and restore it from a backup".to_owned(),
            StoreError::Foreign { place } if is_server(place) => {
                "its schema belongs to another program: name another schema, like ?schema=workflows".to_owned()
            }
            StoreError::Foreign { .. } => "name another file with --db".to_owned(),
            StoreError::Failed { place, .. } if is_server(place) => {
                "try again; if the error persists, check the log of the server".to_owned()
            }
            StoreError::Failed { .. } => "try again; if the error persists, check the disk".to_owned(),
            StoreError::Unreachable { .. } => {
                "check host and port of the URL, and whether the server is running; runs continue once it is reachable"
                    .to_owned()
            }
            StoreError::Unknown { .. } => "check whether it took effect before you try again".to_owned(),
            StoreError::TooLong { .. } => "narrow the search by state, workflow or label".to_owned(),
            StoreError::Refused { .. } => {
                "check user and password of the URL; write characters like @ and / in them as %40 and %2F"
                    .to_owned()
            }
            StoreError::Insecure { reason, .. } if reason.contains("does not support TLS") => {
                "turn on `ssl` at the server; or, on a network that cannot be intercepted, use ?sslmode=disable"
                    .to_owned()
            }
            StoreError::Insecure { reason, .. } if reason.contains("no encryption") => {
                "the server requires encryption: remove sslmode=disable, or use ?sslmode=verify-full".to_owned()
            }
            StoreError::Insecure { .. } => {
                "name the authority of its certificate with ?sslrootcert=FILE, and use the host name in the certificate"
                    .to_owned()
            }
            StoreError::Standby { .. } => {
                "name the primary, or all servers: postgres://USER@ONE,OTHER/NAME finds the primary"
                    .to_owned()
            }
            StoreError::Crowded { .. } => {
                "a host uses up to 10 connections: raise max_connections of the server, or run fewer hosts"
                    .to_owned()
            }
            StoreError::Unfit { .. } => {
                "`wfhost explain WF0335` lists the requirements for a server".to_owned()
            }
            StoreError::BadUrl { .. } => {
                "for example postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full".to_owned()
            }
            StoreError::Moved { place } if is_server(place) => {
                "restart this process if the new database is intended".to_owned()
            }
            StoreError::Moved { .. } => {
                "move the file back; what was done meanwhile is in the removed file"
                    .to_owned()
            }
        };
        let exit = match error {
            StoreError::IdTaken { .. }
            | StoreError::IdUsed { .. }
            | StoreError::KeyUsed { .. }
            | StoreError::BadUrl { .. }
            | StoreError::NotEmpty { .. }
            | StoreError::NoTables { .. } => Exit::Usage,
            _ => Exit::Host,
        };
        Self { exit, ..Self::usage(error.code(), error.to_string()) }.hint(hint).because(&error)
    }
}

impl From<ConfigError> for UserError {
    fn from(error: ConfigError) -> Self {
        let details = match &error {
            ConfigError::Syntax { line, text, .. } => vec![format!("{line:>4} | {text}")],
            ConfigError::Untrusted { keys, .. } => vec![format!("it sets {}", keys.join(", "))],
            _ => Vec::new(),
        };
        Self { details, ..Self::usage(error.code(), error.to_string()) }.hint(error.hint()).because(&error)
    }
}

impl From<RegistryError> for UserError {
    fn from(error: RegistryError) -> Self {
        let exit = match &error {
            RegistryError::Reference { .. }
            | RegistryError::Missing { .. }
            | RegistryError::Taken { .. }
            | RegistryError::Key { .. }
            | RegistryError::Lock { .. }
            | RegistryError::NotLocked { .. }
            | RegistryError::NoVersion { .. }
            | RegistryError::Certificates { .. }
            | RegistryError::Archive { .. }
            | RegistryError::Unsaved { .. } => Exit::Usage,
            // The content is refused, like a module that diverges.
            RegistryError::Digest { .. }
            | RegistryError::Length { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::NotAModule { .. }
            | RegistryError::Unsigned { .. }
            | RegistryError::BadSignature { .. }
            | RegistryError::SignerChanged { .. }
            | RegistryError::LockedSigner { .. }
            | RegistryError::NoProvenance { .. }
            | RegistryError::Departs { .. }
            | RegistryError::Redirect { .. } => Exit::Mismatch,
            _ => Exit::Host,
        };
        Self { exit, ..Self::usage(error.code(), error.to_string()) }.hint(error.hint()).because(&error)
    }
}

impl From<ScriptError> for UserError {
    fn from(error: ScriptError) -> Self {
        match &error {
            ScriptError::Syntax { path, text, source } => {
                let trouble = Self::bad_json(&format!("the script {}", path.display()), text, source);
                Self { code: "WF0402", ..trouble }
            }
            _ => Self::usage("WF0402", error.to_string()).because(&error),
        }
        .hint("`wfhost explain WF0402` shows the format of a script")
    }
}

impl From<DriveError> for UserError {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Store(error) => error.into(),
            DriveError::NoProvider { ref run, ref provider } => {
                let resume = command("resume", run);
                let hint = match provider.as_str() {
                    "scripted" => format!("name its rules: `{}`", resume.option("--agents", "FILE")),
                    _ => format!("configure {} in wfhost.toml, then `{resume}`", section(provider)),
                };
                Self::host("WF0401", error.to_string()).hint(hint)
            }
            DriveError::Script { ref run, .. } => Self::host("WF0418", error.to_string()).hint(format!(
                "name other rules: `{}`; or continue it where the files are that it names",
                command("resume", run).option("--agents", "FILE")
            )),
            DriveError::NoDefaultProvider { ref run } => Self::host("WF0403", error.to_string())
                .hint(format!(
                    "with a key: `ANTHROPIC_API_KEY=... {}`, or OPENAI_API_KEY",
                    command("resume", run)
                ))
                .hint("with a coding agent: put claude, codex, gemini, opencode, cursor-agent or amp on PATH")
                .hint(format!(
                    "to try it out: `{}`, or --agents FILE",
                    command("resume", run).option("--agent", "echo")
                )),
            DriveError::Modules { ref name, ref directory, .. } => Self::host("WF0415", error.to_string())
                .hint(format!(
                    "on the machine where the run was started: `{}` stores it in the database",
                    command("add", directory.join(format!("{name}.wasm")).display())
                )),
            DriveError::Grant { ref run, source: GrantError::Changed { ref path, .. } } => {
                Self::host("WF0405", error.to_string())
                    .because(&error)
                    .hint(format!("restore {path}, then `{}`", command("resume", run)))
                    .hint("or start a new run with the current content")
            }
            DriveError::Grant { ref run, .. } => Self::host("WF0405", error.to_string())
                .because(&error)
                .hint(format!("when the directory exists again: `{}`", command("resume", run))),
            DriveError::Stack { ref run, .. } => Self::host("WF0407", error.to_string())
                .hint(format!("start a new run with one of these stack sizes; `{}`", command("show", run))),
            DriveError::Instance(_) => Self::host("WF0404", error.to_string()).because(&error),
            DriveError::Host { ref run, .. } => Self::host("WF0410", error.to_string()).because(&error).hint(
                format!("when memory is available (`free -h`, `ulimit -v`): `{}`", command("resume", run)),
            ),
        }
    }
}

impl From<HostError> for UserError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Store(error) => error.into(),
            HostError::Module(error) => error.into(),
            HostError::Drive(error) => error.into(),
            HostError::Script(error) => error.into(),
            HostError::Grant(_) => Self::usage("WF0406", error.to_string())
                .because(&error)
                .hint("the form is `--dir HOST::GUEST`, for example `--dir ./data::/data`"),
            HostError::Journal { .. } => Self::host("WF0202", error.to_string())
                .because(&error)
                .hint("nothing was executed; use the newer wfhost that wrote it, or restore a backup"),
            HostError::NoSuchRun(_) => {
                Self::usage("WF0501", error.to_string()).hint("`wfhost ps` lists all runs")
            }
            HostError::Ended { ref run } => Self::usage("WF0502", error.to_string())
                .hint(format!("show how it ended: `{}`", command("show", run))),
            HostError::Held { .. } => Self { exit: Exit::Held, ..Self::usage("WF0503", error.to_string()) }
                .hint("it continues there; stop that process to take over the run"),
            HostError::Driven { ref run } => {
                Self { exit: Exit::Held, ..Self::usage("WF0503", error.to_string()) }
                    .hint(format!("pause it first: `{}`", command("pause", run)))
            }
            HostError::NoModule { .. } => {
                Self::host("WF0303", error.to_string()).hint("add the module: `wfhost add FILE.wasm`")
            }
            HostError::Departs { ref run, old, new, ref mismatch } => {
                Self::mismatch(run, mismatch, Some((old, new)))
            }
            HostError::CannotRetry { ref run, ref reason } => {
                let hint = match reason {
                    CannotRetry::OwnFault => format!(
                        "name a failed step: `{}`; or fix the program: `{}`",
                        command("retry", run).arg("STEP"),
                        command("resume", run).option("--module", "FILE")
                    ),
                    CannotRetry::Undone => format!("show its compensations: `{}`", command("show", run)),
                    CannotRetry::NotEnded => format!("show what it waits for: `{}`", command("why", run)),
                    _ => format!("show its steps: `{}`", command("show", run)),
                };
                Self::usage("WF0506", error.to_string()).hint(hint)
            }
            HostError::NoQuestion { .. } => {
                Self::usage("WF0507", error.to_string()).hint("`wfhost inbox` lists the open questions")
            }
            HostError::BadAnswer(_) => Self::usage("WF0508", error.to_string())
                .hint("the question stays open; `wfhost inbox -o json` shows its schema"),
            HostError::OtherCall { .. } => Self::usage("WF0519", error.to_string()).hint(
                "nothing was sent; give each call an id of its own, and only a repetition the same one",
            ),
            HostError::Stack(_) => Self::usage("WF0407", error.to_string()),
            HostError::TooLarge(_) => Self::usage("WF0003", error.to_string()),
            HostError::Unfit(unfit) => unfit.into(),
            HostError::Random(_) => Self::host("WF0001", error.to_string()),
        }
    }
}

impl From<ForkError> for UserError {
    fn from(error: ForkError) -> Self {
        match error {
            ForkError::Host(error) => error.into(),
            ForkError::Cannot { ref run, .. } => Self::usage("WF0205", error.to_string())
                .hint(format!("show its entries and their numbers: `{}`", command("journal", run))),
            ForkError::Departs { ref run, ref mismatch, .. } => Self {
                message: format!("a fork of {run} would be non-deterministic at entry {}", mismatch.position),
                hints: vec![
                    "no fork was created, and the run is unchanged".to_owned(),
                    format!(
                        "copy fewer entries: `{}`, or reuse only the answers: `--reuse`",
                        command("fork", run).option("--at", mismatch.position)
                    ),
                ],
                ..Self::mismatch(run, mismatch, None)
            },
        }
    }
}

impl From<ArchiveError> for UserError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Host(error) => error.into(),
            ArchiveError::Line { .. } | ArchiveError::Damaged(_) => Self::usage("WF0510", error.to_string())
                .because(&error)
                .hint("export the run again; nothing was imported"),
        }
    }
}

impl From<BadVariable> for UserError {
    fn from(error: BadVariable) -> Self {
        Self::usage("WF0008", error.to_string())
            .hint(format!("`unset {}`, or set it to {}", error.name, error.expected))
    }
}

impl From<BadTimes> for UserError {
    fn from(error: BadTimes) -> Self {
        let hint = match error {
            BadTimes::Cron { .. } => "for example '0 9 * * 1-5' for nine o'clock on working days",
            BadTimes::Zone(_) => "use a name like Europe/Berlin, or UTC",
            BadTimes::Never(_) => {
                "check day and month: `0 0 29 2 *` matches every four years, `0 0 31 2 *` never"
            }
            BadTimes::Long => "use a duration like 30s, 15m, 2h, 90d",
            BadTimes::Short => "use a longer --every, or a single run with a loop",
        };
        Self::usage("WF0515", error.to_string()).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_asks_differently_is_left_out_and_all_else_stays() {
        let trouble = |code| UserError {
            details: vec!["recorded  agent  the prompt".to_owned()],
            ..UserError::host(code, "x")
        };
        for code in ["WF0201", "WF0203"] {
            assert_eq!(trouble(code).without_payloads().details, [HIDDEN]);
        }
        assert_eq!(trouble("WF0002").without_payloads().details, trouble("WF0002").details);
    }
}
