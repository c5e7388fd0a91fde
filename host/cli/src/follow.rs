//! Following a run until it ends: progress on stderr, the result on stdout.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use wfhost::advice::advice;
use wfhost::store::{LogLevel, LogLine, RunInfo, RunState, Store, TranscriptLine};
use wfhost::world::text::{Command, command};
use wfhost::{Ending, Host, HostError, RunHandle};
use wfhost_core::{
    Entry, EntryError, Event, Failure, FailureKind, Op, Outcome, Position, RunId, Step, Timestamp, counted,
    decode_op, spell_millis,
};
use wfhost_view::RunView;

use super::diagnostic::{Exit, UserError};
use super::printer::{DIM, ERROR, GOOD, Line, PLAIN, say};
use super::tail::LiveLines;
use super::{Common, Format, printer};

/// How it began.
pub(super) enum Beginning {
    Started,
    /// Its key was known.
    Known,
    Resumed(Before),
}

/// What there was of a run before it was resumed, which is not shown again. It has to be read before the run goes on:
/// that may do much before anybody looks.
pub(super) struct Before {
    entries: Position,
    /// The number of the next line of its log.
    line: u64,
    live: LiveLines,
}

impl Before {
    pub async fn of(store: &dyn Store, info: &RunInfo) -> Result<Self, UserError> {
        let live = LiveLines::from_now(store, &info.id).await?;
        Ok(Self { entries: info.entries, line: info.emissions, live })
    }
}

/// Follows a run. The process's signals leave it where it is; they have to be
/// caught before the run goes on.
pub(super) async fn follow(
    common: &Common,
    host: &Host,
    mut signals: Signals,
    mut handle: RunHandle,
    beginning: Beginning,
    no_wait: bool,
) -> Result<Exit, UserError> {
    let mut id = handle.id.clone();
    let mut progress = Progress::new(common, &id);
    if let Some(info) = host.store().run(&id).await? {
        let module = &info.module.to_string()[..13];
        match beginning {
            Beginning::Started => say(common, "Started", &format!("{id}  {}  {module}…", info.workflow)),
            Beginning::Known => {
                say(common, "Duplicate", &format!("{id} already has this key  {}  {module}…", info.workflow));
            }
            Beginning::Resumed(before) => {
                let entries = before.entries;
                progress.absorb(host, before).await?;
                say(
                    common,
                    "Resumed",
                    &format!("{id}  {}  {module}…  {} replayed", info.workflow, counted(entries, "entry")),
                );
            }
        }
    }
    let mut signalled = None;
    let mut waits = false;
    // One who is to say nothing needs to know of the end only.
    let looks = no_wait || !common.quiet;
    let ending = loop {
        let news = progress.catch_up(host).await?;
        if let Some(ending) = handle.ended().await? {
            progress.catch_up(host).await?;
            if let (Ending::Continued(next), None) = (&ending, signalled) {
                id = next.clone();
                say(common, "Continued", &format!("as {id}"));
                handle = handle.follow_on(id.clone());
                progress = Progress::new(common, &id);
                continue;
            }
            break ending;
        }
        if looks
            && (no_wait && !waits || !news)
            && let Some(info) = host.store().run(&id).await?
            && info.state == RunState::Waiting
            && !(no_wait && has_busy_relatives(host, &info).await?)
        {
            progress.announce();
            if no_wait && !waits {
                waits = true;
                handle.stop();
                continue;
            }
        }
        tokio::select! {
            () = async {
                match looks {
                    true => handle.changed().await,
                    false => handle.may_have_ended().await,
                }
            } => {}
            number = signals.next() => {
                signalled = Some(number);
                handle.stop();
            }
        }
    };
    leave_others(common, host, &mut signals, signalled).await;
    match ending {
        Ending::Finished(outcome) => {
            let info = host.store().run(&id).await?;
            let Some(info) = info else { return Err(HostError::NoSuchRun(id).into()) };
            let took = spell_millis(info.updated_at.since(info.created_at));
            match &outcome {
                Ok(_) => say(common, "Done", &format!("{id}  after {took}")),
                Err(failure) if !common.quiet => {
                    let word = if failure.kind == FailureKind::Cancelled { "Stopped" } else { "Failed" };
                    Line::word(ERROR, word).plain(format!("{id}  {failure}")).show();
                    advise(&info.id, failure);
                }
                Err(_) => {}
            }
            Ok(result(common, &info, &outcome))
        }
        Ending::Refused { mismatch: Some(mismatch), .. } => Err(UserError::mismatch(&id, &mismatch, None)),
        Ending::Refused { reason, mismatch: None } => Err(UserError {
            exit: Exit::Mismatch,
            ..UserError::usage("WF0201", format!("{id} is refused: {reason}"))
        }
        .hint("nothing was executed, and the journal is unchanged")),
        ending @ (Ending::Stopped | Ending::Paused | Ending::Continued(_)) => {
            let (word, exit) = match (signalled, ending) {
                (Some(number), _) => ("Stopped", Exit::Signalled(number)),
                (None, Ending::Paused) => ("Paused", Exit::Waits),
                (None, _) if waits => ("Waits", Exit::Waits),
                (None, _) => ("Stopped", Exit::Waits),
            };
            say(common, word, &format!("{id}; nothing is lost"));
            say(common, "next", &command("resume", &id).to_string());
            if common.output != Format::Text
                && let Some(info) = host.store().run(&id).await?
            {
                printer::json(&RunView::of(&info));
            }
            Ok(exit)
        }
    }
}

/// Suggests a fix for a run whose program failed.
fn advise(run: &RunId, failure: &Failure) {
    let Some(advice) = advice(run, failure) else { return };
    for hint in advice.hints {
        Line::new().plain("    ").styled(DIM, "hint:").plain(" ").plain(hint).show();
    }
    Line::new().plain("    ").styled(DIM, "more:").plain(format!(" wfhost explain {}", advice.code)).show();
}

/// Whether a run of the same family can be advanced now.
pub(super) async fn has_busy_relatives(host: &Host, info: &RunInfo) -> Result<bool, UserError> {
    Ok(host.store().busy_relatives(&info.links.root).await?)
}

/// What the system tells a process that is to end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn new() -> Result<Self, UserError> {
        let catch = |kind| {
            signal(kind).map_err(|error| {
                UserError::host("WF0001", format!("signals of the system cannot be caught: {error}"))
            })
        };
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// Waits for the next one and gives its number.
    pub async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        }
    }
}

/// How long the calls of other runs are waited for when this process is done.
const OTHERS: Duration = Duration::from_secs(3600);

/// Leaves the runs that this process took up besides its own.
async fn leave_others(common: &Common, host: &Host, signals: &mut Signals, signalled: Option<u8>) {
    if signalled.is_some() {
        host.close(None).await;
        return;
    }
    let patient = host.close(Some(OTHERS));
    tokio::pin!(patient);
    tokio::select! {
        _ = &mut patient => return,
        () = tokio::time::sleep(Duration::from_millis(300)) => {
            let others = counted(host.live(), "other run");
            let text = format!("calls of {others}; Ctrl-C stops them, and they will be made again");
            say(common, "Finish", &text);
        }
    }
    tokio::select! {
        _ = patient => {}
        _ = signals.next() => drop(host.close(None).await),
    }
}

/// Prints how a run ended, and gives the exit code for it.
pub(super) fn result(common: &Common, info: &RunInfo, outcome: &Outcome) -> Exit {
    match (common.output, outcome) {
        (Format::Text, Ok(json)) => printer::value(json),
        (Format::Text, Err(failure)) if common.quiet => printer::note(&failure.to_string()),
        (Format::Text, Err(_)) => {}
        (Format::Json | Format::Jsonl, _) => printer::json(&RunView::of(info)),
    }
    match outcome {
        Ok(_) => Exit::Done,
        Err(failure) if failure.kind == FailureKind::BudgetExceeded => Exit::Budget,
        Err(_) => Exit::RunFailed,
    }
}

/// An entry that cannot be read.
pub(super) fn unreadable(run: &RunId, error: EntryError) -> UserError {
    HostError::Journal { run: run.clone(), source: error.into() }.into()
}

/// What is shown of a run in progress: the commits of any process.
pub(super) struct Progress {
    quiet: bool,
    verbose: bool,
    run: RunId,
    /// The next entry and the next line of the log.
    position: Position,
    line: u64,
    /// When the run was forked: lines of before are not shown, which its program writes once more.
    forked_at: Timestamp,
    live: LiveLines,
    steps: BTreeMap<Step, (Op, Timestamp)>,
    waits: BTreeMap<String, Vec<Step>>,
    early: BTreeMap<String, usize>,
    /// Waits whose signal came in, in case they give it back.
    signalled: BTreeMap<Step, String>,
    /// Agent calls that people answer.
    asked: BTreeSet<Step>,
    announced: Option<Step>,
}

impl Progress {
    pub fn new(common: &Common, run: &RunId) -> Self {
        Self {
            quiet: common.quiet,
            verbose: common.verbose,
            run: run.clone(),
            position: Position(0),
            line: 0,
            forked_at: Timestamp(0),
            live: LiveLines::new(run),
            steps: BTreeMap::new(),
            waits: BTreeMap::new(),
            early: BTreeMap::new(),
            signalled: BTreeMap::new(),
            asked: BTreeSet::new(),
            announced: None,
        }
    }

    /// Takes in what was there before, without showing it.
    async fn absorb(&mut self, host: &Host, before: Before) -> Result<(), UserError> {
        if self.quiet {
            return Ok(());
        }
        self.quiet = true;
        let rows = host.store().journal(&self.run, Position(0)).await?;
        for row in rows.iter().take_while(|row| row.first < before.entries) {
            for entry in row.entries() {
                let (position, entry) = entry.map_err(|error| unreadable(&self.run, error))?;
                self.entry(position, &entry);
                if matches!(&entry.event, Event::Forked { run, .. } if *run == self.run) {
                    self.forked_at = entry.at;
                }
            }
            self.position = row.end();
        }
        (self.line, self.live) = (before.line, before.live);
        self.quiet = false;
        Ok(())
    }

    /// Shows what is new. False if nothing is.
    pub async fn catch_up(&mut self, host: &Host) -> Result<bool, UserError> {
        if self.quiet {
            return Ok(false);
        }
        let rows = host.store().journal(&self.run, self.position).await?;
        let lines = host.store().logs(&self.run, self.line, usize::MAX >> 1).await?;
        // Read after the entries, shown before what they say was done.
        let live = self.live.next(host.store().as_ref()).await?;
        for line in &live {
            self.agent(line);
        }
        let mut lines = lines.into_iter().peekable();
        for row in &rows {
            for entry in row.entries() {
                let (position, entry) = entry.map_err(|error| unreadable(&self.run, error))?;
                while let Some(line) = lines.next_if(|line| line.at < entry.at) {
                    self.log(&line);
                }
                self.entry(position, &entry);
            }
            self.position = row.end();
        }
        let news = !rows.is_empty() || !live.is_empty() || lines.peek().is_some();
        for line in lines {
            self.log(&line);
        }
        Ok(news)
    }

    /// What an agent says while it works.
    fn agent(&self, line: &TranscriptLine) {
        let step = format!("{:>2}  ", line.line.step);
        Line::mark(DIM, "|").plain(step).styled(DIM, &line.line.text).show();
    }

    fn log(&mut self, line: &LogLine) {
        self.line = line.number + 1;
        if line.at < self.forked_at {
            return;
        }
        if let Some((_, title)) = line.fields.iter().find(|(name, _)| name == "phase") {
            Line::word(GOOD, "Phase").plain(title).show();
        } else if self.verbose || line.level >= LogLevel::Info {
            let level = format!("·  {:<5}", line.level.as_str());
            Line::mark(DIM, &level).plain(" ").plain(&line.message).show();
        }
    }

    fn entry(&mut self, position: Position, entry: &Entry) {
        match &entry.event {
            Event::Scheduled { step, op } => {
                let Ok(op) = decode_op(op, position) else { return };
                let waits = matches!(op, Op::Signal { .. } | Op::Ask { .. });
                if let Op::Signal { name, .. } = &op {
                    match self.early.get_mut(name).filter(|count| **count > 0) {
                        Some(count) => {
                            *count -= 1;
                            self.signalled.insert(*step, name.clone());
                            self.steps.insert(*step, (op, entry.at));
                            self.line(*step, "✓", entry.at, "");
                            return;
                        }
                        None => self.waits.entry(name.clone()).or_default().push(*step),
                    }
                }
                self.steps.insert(*step, (op, entry.at));
                if waits {
                    self.announce();
                }
            }
            // That a call was dropped stands in its line.
            Event::AttemptFailed(failed) if failed.is_dropped() => {}
            Event::AttemptFailed(failed) if !self.quiet => {
                let again = failed
                    .again_at
                    .map(|at| format!("; next attempt in {}", spell_millis(at.since(entry.at))));
                let text = format!(
                    "{:>2}  attempt {} ({})  {}{}",
                    failed.step,
                    failed.attempt,
                    failed.provider,
                    failed.failure,
                    again.unwrap_or_default()
                );
                Line::mark(DIM, "!").plain(text).show();
            }
            Event::Postponed { step, until, reason } if !self.quiet => {
                // What waits for another host is put off to no certain time.
                let until = Some(until).filter(|until| **until > entry.at);
                let until = until.map(|at| format!(" until {}", wfhost::clock::rfc3339(*at)));
                let text = format!("{step:>2}  {reason}{}", until.unwrap_or_default());
                Line::mark(DIM, "…").plain(text).show();
            }
            Event::Delegated { step, .. } => {
                self.asked.insert(*step);
                self.announce();
            }
            Event::Attempted { step, attempt, .. } if !self.quiet => {
                let label = self.steps.get(step).map(|(op, _)| op.label()).unwrap_or_default();
                Line::mark(DIM, "↻").plain(format!("{step:>2}  attempt {attempt}  {label}")).show();
            }
            event if let Some((step, outcome)) = event.ended_step() => match Outcome::from(outcome.clone()) {
                Ok(_) => self.line(step, "✓", entry.at, ""),
                Err(failure) => self.line(step, "✗", entry.at, &failure.to_string()),
            },
            Event::Cancelled { step } => self.line(*step, "–", entry.at, "dropped"),
            Event::Received { name, .. } => self.signal(name.clone(), entry.at),
            Event::Returned { step } => {
                if let Some(name) = self.signalled.remove(step) {
                    self.signal(name, entry.at);
                }
            }
            Event::CancelRequested { .. } if !self.quiet => {
                Line::word(ERROR, "Cancel").plain("requested; the program may clean up").show();
            }
            _ => {}
        }
    }

    /// A signal completes the first wait for it.
    fn signal(&mut self, name: String, at: Timestamp) {
        let waits = self.waits.entry(name.clone()).or_default();
        if waits.is_empty() {
            *self.early.entry(name).or_default() += 1;
        } else {
            let step = waits.remove(0);
            self.signalled.insert(step, name);
            self.line(step, "✓", at, "");
        }
    }

    /// A step is done.
    fn line(&mut self, step: Step, mark: &str, at: Timestamp, note: &str) {
        let Some((op, started)) = self.steps.remove(&step) else { return };
        if let Op::Signal { name, .. } = &op
            && let Some(waits) = self.waits.get_mut(name)
        {
            waits.retain(|wait| *wait != step);
        }
        if self.quiet {
            return;
        }
        let took = spell_millis(at.since(started));
        let style = if mark == "✗" { ERROR } else { GOOD };
        let label = printer::cell(&op.label(), 44);
        let text = format!("{step:>2}  {:<7} {label} {took:>7}  {note}", op.kind());
        Line::mark(style, mark).plain(text).show();
    }

    /// Says once what the run waits for, and what one can do about it.
    fn announce(&mut self) {
        let waiting = self.steps.iter().find(|(step, (op, _))| {
            matches!(op, Op::Signal { .. } | Op::Ask { .. }) || self.asked.contains(step)
        });
        let waiting = waiting.or_else(|| self.steps.iter().next());
        let Some((&step, (op, _))) = waiting else { return };
        if self.quiet || self.announced == Some(step) {
            return;
        }
        self.announced = Some(step);
        let remedy = match op {
            Op::Signal { name, .. } => {
                Some(Command::new("signal").arg(&self.run).arg(name).option("-i", "{\"ok\":true}"))
            }
            Op::Ask { .. } => Some(Command::new("answer").arg(&self.run).arg(step).option("-i", "JSON")),
            Op::Agent(_) if self.asked.contains(&step) => {
                Some(Command::new("answer").arg(&self.run).arg(step).option("-i", "JSON"))
            }
            _ => None,
        };
        let remedy = remedy.map(|command| format!("  do  {command}")).unwrap_or_default();
        let label = printer::cell(&op.label(), 20);
        let text = format!("{step:>2}  {:<7} {label} waiting{remedy}", op.kind());
        Line::mark(PLAIN, "▸").plain(text).show();
    }
}
