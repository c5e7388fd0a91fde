//! Following a run until it ends: progress on stderr, the result on stdout.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use anstream::eprintln;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use wfhost_core::{
    Entry, Event, FailureKind, Op, Outcome, Position, RunId, Step, Timestamp, decode_op, spell_millis,
};

use super::diagnostic::{DIM, ERROR, Exit, GOOD, Trouble};
use super::{Common, Format, print_line, view};
use crate::engine::RunEvent;
use crate::store::{Emission, LogLevel, RunInfo};
use crate::{Ending, Host, RunHandle};

/// How it began.
pub(super) enum Beginning {
    Started,
    Resumed(Position),
}

/// A line for people on stderr: a word and what it is about.
pub(super) fn say(common: &Common, word: &str, text: &str) {
    if !common.quiet {
        eprintln!("{GOOD}{word:>8}{GOOD:#}  {text}");
    }
}

/// Follows a run. The process's signals leave it where it is.
pub(super) async fn follow(
    common: &Common,
    host: &Host,
    mut handle: RunHandle,
    beginning: Beginning,
    no_wait: bool,
) -> Result<Exit, Trouble> {
    let id = handle.id.clone();
    if let Some(info) = host.store().run(&id).await? {
        let module = &info.module.to_string()[..13];
        match beginning {
            Beginning::Started => say(common, "Started", &format!("{id}  {}  {module}…", info.workflow)),
            Beginning::Resumed(entries) => {
                say(
                    common,
                    "Resumed",
                    &format!("{id}  {}  {module}…  {entries} entries replayed", info.workflow),
                );
            }
        }
    }
    let mut progress = Progress::new(common, &id, host).await?;
    let mut events = handle.events();
    let no_signals =
        |error: std::io::Error| Trouble::host("WF0001", format!("signals cannot be caught: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut signalled = None;
    let mut waits = false;
    let ending = loop {
        let next = async {
            match &mut events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = next => match event {
                Ok(event) => {
                    if no_wait && matches!(event, RunEvent::Waiting(_)) {
                        waits = true;
                        handle.stop();
                    }
                    progress.show(event);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => events = None,
            },
            ending = handle.ending() => break ending?,
            _ = interrupt.recv() => {
                signalled = Some(2);
                handle.stop();
            }
            _ = terminate.recv() => {
                signalled = Some(15);
                handle.stop();
            }
        }
    };
    if let Some(events) = &mut events {
        while let Ok(event) = events.try_recv() {
            progress.show(event);
        }
    }
    match ending {
        Ending::Finished(outcome) => {
            let info = host.store().run(&id).await?;
            let Some(info) = info else { return Err(crate::HostError::NoSuchRun(id).into()) };
            let took = spell_millis(info.updated_at.since(info.created_at));
            match &outcome {
                Ok(_) => say(common, "Done", &format!("{id}  after {took}")),
                Err(failure) if !common.quiet => {
                    let word = if failure.kind == FailureKind::Cancelled { "Stopped" } else { "Failed" };
                    eprintln!("{ERROR}{word:>8}{ERROR:#}  {id}  {failure}");
                }
                Err(_) => {}
            }
            Ok(result(common, &info, &outcome))
        }
        Ending::Refused(mismatch) => Err(Trouble::mismatch(&id, &mismatch)),
        Ending::Stopped => {
            let (word, exit) = match signalled {
                Some(number) => ("Stopped", Exit::Signalled(number)),
                None if waits => ("Waits", Exit::Waits),
                None => ("Stopped", Exit::Waits),
            };
            say(common, word, &format!("{id}; nothing is lost"));
            say(common, "next", &format!("wfhost resume {id}"));
            if common.output != Format::Text
                && let Some(info) = host.store().run(&id).await?
            {
                print_line(&view::run(&info, None).to_string());
            }
            Ok(exit)
        }
    }
}

/// Prints how a run ended, and gives the exit code for it.
pub(super) fn result(common: &Common, info: &RunInfo, outcome: &Outcome) -> Exit {
    match (common.output, outcome) {
        (Format::Text, Ok(json)) => print_line(json.as_str()),
        (Format::Text, Err(failure)) if common.quiet => eprintln!("{failure}"),
        (Format::Text, Err(_)) => {}
        (Format::Json | Format::Jsonl, _) => print_line(&view::run(info, None).to_string()),
    }
    match outcome {
        Ok(_) => Exit::Done,
        Err(_) => Exit::RunFailed,
    }
}

/// What is shown of a run while it goes on.
struct Progress {
    quiet: bool,
    verbose: bool,
    run: RunId,
    steps: BTreeMap<Step, (Op, Timestamp)>,
    waits: BTreeMap<String, Vec<Step>>,
    early: BTreeMap<String, usize>,
    announced: Option<Step>,
}

impl Progress {
    /// What is open at the beginning is known from the journal.
    async fn new(common: &Common, run: &RunId, host: &Host) -> Result<Self, Trouble> {
        let mut progress = Self {
            quiet: true,
            verbose: common.verbose,
            run: run.clone(),
            steps: BTreeMap::new(),
            waits: BTreeMap::new(),
            early: BTreeMap::new(),
            announced: None,
        };
        if !common.quiet
            && let Ok(journal) = host.journal(run).await
        {
            for (position, entry) in journal.entries.iter().enumerate() {
                progress.entry(Position(position as u64), entry);
            }
        }
        progress.quiet = common.quiet;
        Ok(progress)
    }

    fn show(&mut self, event: RunEvent) {
        match event {
            RunEvent::Entry { position, entry } => self.entry(position, &entry),
            RunEvent::Emission(Emission::Phase { title, .. }) if !self.quiet => {
                eprintln!("{GOOD}{:>8}{GOOD:#}  {title}", "Phase");
            }
            RunEvent::Emission(Emission::Log(line))
                if !self.quiet && (self.verbose || line.level >= LogLevel::Info) =>
            {
                eprintln!("      {DIM}·  {:<5}{DIM:#}  {}", line.level.as_str(), line.message);
            }
            RunEvent::Emission(_) => {}
            RunEvent::Waiting(_) => self.announce(),
        }
    }

    fn entry(&mut self, position: Position, entry: &Entry) {
        match &entry.event {
            Event::Scheduled { step, op } => {
                let Ok(op) = decode_op(op, position) else { return };
                let waits = matches!(op, Op::Signal { .. });
                if let Op::Signal { name, .. } = &op {
                    match self.early.get_mut(name).filter(|count| **count > 0) {
                        Some(count) => {
                            *count -= 1;
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
            Event::Attempted { step, attempt, .. } if !self.quiet => {
                let label = self.steps.get(step).map(|(op, _)| op.label()).unwrap_or_default();
                eprintln!("      {DIM}↻{DIM:#} {step:>2}  attempt {attempt}  {label}");
            }
            Event::Completed { step, outcome } => match Outcome::from(outcome.clone()) {
                Ok(_) => self.line(*step, "✓", entry.at, ""),
                Err(failure) => self.line(*step, "✗", entry.at, &failure.to_string()),
            },
            Event::Cancelled { step } => self.line(*step, "–", entry.at, "dropped"),
            Event::Received { name, .. } => {
                let waits = self.waits.entry(name.clone()).or_default();
                if waits.is_empty() {
                    *self.early.entry(name.clone()).or_default() += 1;
                } else {
                    let step = waits.remove(0);
                    self.line(step, "✓", entry.at, "");
                }
            }
            Event::CancelRequested { .. } if !self.quiet => {
                eprintln!("{ERROR}{:>8}{ERROR:#}  asked to stop; the program may clean up", "Cancel");
            }
            _ => {}
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
        eprintln!(
            "      {style}{mark}{style:#} {step:>2}  {:<7} {:<44} {took:>7}  {note}",
            op.kind(),
            op.label()
        );
    }

    /// Says once what the run waits for, and what one can do about it.
    fn announce(&mut self) {
        let waiting = self.steps.iter().find(|(_, (op, _))| matches!(op, Op::Signal { .. }));
        let waiting = waiting.or_else(|| self.steps.iter().next());
        let Some((&step, (op, _))) = waiting else { return };
        if self.quiet || self.announced == Some(step) {
            return;
        }
        self.announced = Some(step);
        let remedy = match op {
            Op::Signal { name, .. } => format!("do  wfhost signal {} {name} -i '{{\"ok\":true}}'", self.run),
            _ => String::new(),
        };
        let mark = if std::io::stderr().is_terminal() { "▸" } else { ">" };
        eprintln!("      {mark} {step:>2}  {:<7} {:<20} waiting  {remedy}", op.kind(), op.label());
    }
}
