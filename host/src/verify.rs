//! Whether what is stored of a run is what was written, and what it would have to be.

use wfhost_core::{Digest, Given, Journal, Machine, Position, Row, RunId, Timestamp, counted};
use wfhost_store::{
    Emission, Inbox, LogLine, MessageBody, OutMessage, Part, Published, Rebuilt, Result, RunInfo, RunState,
    Store, Waiting,
};

use crate::{Host, HostError};

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub entries: u64,
    /// Of the chain, after the last entry that can be read.
    pub head: Digest,
    /// What is wrong; empty if nothing is.
    pub faults: Vec<String>,
    /// Its last entries are missing: a host that continued the run would repeat their steps.
    pub is_cut: bool,
}

/// Reads a run's journal, checks its chain, and compares what else is known
/// of the run with what the journal says. A run that has gone on since `info` was read is judged as it is then, and
/// nothing is wrong with one that has been removed.
pub async fn verify(store: &dyn Store, info: &RunInfo) -> Result<Report> {
    let mut report = compare(store, info, store.journal(&info.id, Position(0)).await?).await?;
    let mut seen = info.clone();
    for _ in 0..TRIES {
        // Most have no faults, and all of a run at one moment may be much to read.
        if report.faults.is_empty() {
            break;
        }
        // What cannot be read as a whole has the faults that were found.
        let Ok(now) = store.snapshot(&info.id).await else { break };
        let Some(now) = now else { return Ok(Report { faults: Vec::new(), is_cut: false, ..report }) };
        if is_same(&now.info, &seen) {
            break;
        }
        seen = now.info;
        report = compare(store, &seen, now.rows).await?;
    }
    Ok(report)
}

/// How often a run that goes on while it is looked at is looked at again.
const TRIES: u32 = 5;

/// Whether nothing has happened to a run between two looks.
fn is_same(one: &RunInfo, other: &RunInfo) -> bool {
    // How long its host has it still changes by itself.
    RunInfo { lease: None, ..one.clone() } == RunInfo { lease: None, ..other.clone() }
        && one.lease.is_some() == other.lease.is_some()
}

async fn compare(store: &dyn Store, info: &RunInfo, rows: Vec<Row>) -> Result<Report> {
    let mut report = Report {
        entries: rows.iter().map(|row| u64::from(row.count)).sum(),
        head: Digest([0; 32]),
        faults: vec![],
        is_cut: false,
    };
    // While somebody advances it the head is on its way, and stands somewhere before.
    let at_rest = info.lease.is_none() && info.state != RunState::Running;
    let is_there = |head: Digest| match at_rest {
        true => rows.last().is_some_and(|row| row.head == head),
        false => rows.iter().any(|row| row.head == head),
    };
    let cut = info.head.filter(|head| !is_there(*head));
    let journal = match Journal::read(rows) {
        Ok(journal) => journal,
        Err(error) => {
            report.faults.push(error.to_string());
            return Ok(report);
        }
    };
    report.head = journal.head;
    let machine = match Machine::open(journal, Given::Everything) {
        Ok(machine) => machine,
        Err(error) => {
            report.faults.push(error.to_string());
            return Ok(report);
        }
    };
    if let Some(head) = cut {
        report.is_cut = true;
        report.faults.push(format!(
            "the journal ends with the head {}, but the run has {head}: its last entries are missing",
            report.head
        ));
    }
    report.faults.extend(differences(info, &machine));
    if waits_for_nothing(info, &machine) {
        report.faults.push("it waits for nothing, and no host will ever advance it".to_owned());
    }
    if store.module(machine.module()).await?.is_none() {
        report.faults.push(format!("its module {} is missing", machine.module()));
    }
    if info.state == RunState::Waiting {
        let asks = machine.open_questions();
        let asked = store.questions(Some(&info.id), None, asks.len() + 1).await?;
        let (mut answered, mut behind) = (0, None);
        loop {
            let Inbox { messages, more } = store.inbox(&info.id, Part::Behind(behind)).await?;
            answered += messages.iter().filter(|m| matches!(m.body, MessageBody::Answer { .. })).count();
            behind = messages.last().map(|message| message.id);
            if !more {
                break;
            }
        }
        let open = asks.len().saturating_sub(answered);
        if asked.len() != open {
            report.faults.push(format!("{} stored, but {open} open", counted(asked.len(), "question")));
        }
    }
    Ok(report)
}

/// Whether a run that should go on will not: nobody has it, and nothing will make it due.
fn waits_for_nothing(info: &RunInfo, machine: &Machine) -> bool {
    let goes_on = match info.state {
        RunState::Queued | RunState::Running => false,
        RunState::Waiting => {
            let waits = Waiting::of(machine);
            !waits.signals.is_empty() || waits.people || !machine.open_children().is_empty()
        }
        _ => true,
    };
    !goes_on && info.lease.is_none() && info.due_at.is_none()
}

/// Where the row of a run differs from its journal.
fn differences(info: &RunInfo, machine: &Machine) -> Vec<String> {
    let said = RunInfo::of(machine);
    let mut faults = Vec::new();
    let mut same = |what: &str, stored: String, journal: String| {
        if stored != journal {
            faults.push(format!("the {what} is stored as {stored}, but the journal says {journal}"));
        }
    };
    same("id", info.id.to_string(), said.id.to_string());
    same("workflow", info.workflow.clone(), said.workflow);
    same("module", info.module.to_string(), said.module.to_string());
    same("labels", format!("{:?}", info.labels), format!("{:?}", said.labels));
    same("parent", format!("{:?}", info.parent), format!("{:?}", said.parent));
    same("links to related runs", format!("{:?}", info.links), format!("{:?}", said.links));
    same("amount spent", format!("{:?}", info.spent), format!("{:?}", said.spent));
    same("budget", format!("{:?}", info.budget), format!("{:?}", said.budget));
    same("start time", info.created_at.to_string(), said.created_at.to_string());
    let stored = info.outcome.as_ref().filter(|_| info.state.is_final());
    same("outcome", format!("{stored:?}"), format!("{:?}", said.outcome));
    if let Some(waiting) = &info.waiting {
        let mut waits = Waiting::of(machine);
        if info.trouble.is_some() {
            // A call that no host could make yet is put off to no certain time.
            waits.until = waiting.until;
        }
        same("wait", format!("{waiting:?}"), format!("{waits:?}"));
        // Something that came in makes it due earlier.
        if info.trouble.is_none()
            && info.due_at.is_none() != waits.until.is_none()
            && info.due_at != Some(Timestamp(0))
        {
            faults.push(format!("it is due at {:?}, but waits until {:?}", info.due_at, waiting.until));
        }
    }
    faults
}

/// What has to be kept of a run besides its journal, according to that and to its module, which
/// repeats it without any effect.
async fn rebuild(host: &Host, info: &RunInfo) -> Result<Rebuilt, HostError> {
    let journal = host.journal(&info.id).await?;
    let unusable = |source| HostError::Journal { run: info.id.clone(), source };
    let machine = Machine::open(journal.clone(), Given::Everything).map_err(unusable)?;
    let outcome = machine.outcome().cloned();
    let state = match (&outcome, info.state) {
        _ if machine.continued_as().is_some() => RunState::Continued,
        (Some(_), _) => RunState::of(outcome.as_ref()),
        // Whoever takes it up finds out what it is about.
        (None, state) if state.is_final() => RunState::Running,
        (None, state) => state,
    };
    // The store knows whether it waits, and what has come in for it.
    let waiting = (!state.is_final()).then(|| Waiting::of(&machine));
    let questions = match outcome {
        Some(_) => Vec::new(),
        None => machine.open_questions(),
    };
    let rebuilt = RunInfo {
        key: info.key.clone(),
        state,
        phase: info.phase.clone(),
        outcome,
        waiting,
        epoch: info.epoch,
        lease: info.lease.clone(),
        trouble: info.trouble.clone(),
        emissions: info.emissions,
        ..RunInfo::of(&machine)
    };
    // What a program gave out before it was begun again in its middle cannot be had once more.
    let mut emissions = None;
    if !machine.was_retried() {
        let module = host.module_of(&rebuilt).await?;
        let replayed = host.replay(&info.id, journal, &module, Given::Nothing).await?;
        let all = replayed.emissions.len() as u64 >= info.emissions;
        emissions = (replayed.departs.is_none() && all).then_some(replayed.emissions);
    }
    Ok(Rebuilt { info: rebuilt, emissions, questions })
}

/// What a replay says of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Replayed {
    /// What would have to be kept of it; none if it cannot be replayed, or goes on all the while.
    pub rebuilt: Option<Rebuilt>,
    /// What differs; empty if nothing does.
    pub faults: Vec<String>,
}

/// Repeats a run as it is now without any effect, and compares what its program gives out with what is stored.
pub async fn replay(host: &Host, run: &RunId) -> Result<Replayed> {
    let store = host.store().as_ref();
    for _ in 0..TRIES {
        let Some(info) = store.run(run).await? else { break };
        let (rebuilt, faults) = match rebuild(host, &info).await {
            Ok(rebuilt) => {
                let faults = compare_given_out(store, &rebuilt).await?;
                (Some(rebuilt), faults)
            }
            Err(error) => (None, vec![format!("it cannot be replayed: {error}")]),
        };
        // Else it may differ because it has gone on.
        if faults.is_empty() || store.run(run).await?.is_some_and(|now| is_same(&now, &info)) {
            return Ok(Replayed { rebuilt, faults });
        }
    }
    Ok(Replayed { rebuilt: None, faults: Vec::new() })
}

/// Where the stored output of a program differs from the output of a replay.
async fn compare_given_out(store: &dyn Store, rebuilt: &Rebuilt) -> Result<Vec<String>> {
    let run = &rebuilt.info.id;
    let Some(emissions) = &rebuilt.emissions else { return Ok(Vec::new()) };
    let (mut logs, mut messages): (Vec<LogLine>, Vec<OutMessage>) = (Vec::new(), Vec::new());
    let mut published = Vec::new();
    let stored = usize::try_from(rebuilt.info.emissions).unwrap_or(usize::MAX);
    for (number, emission) in (0..).zip(emissions).take(stored) {
        match emission.clone() {
            Emission::Log(line) => logs.push(LogLine { number, ..line }),
            Emission::Phase { title, at } => logs.push(LogLine::phase(number, at, &title)),
            Emission::Message { name, payload, at } => {
                messages.push(OutMessage { number, at, name, payload });
            }
            Emission::State { key, value, at } => published.push(Published { number, at, key, value }),
        }
    }
    let all = usize::MAX >> 1;
    let mut faults = Vec::new();
    let mut compare = |same: bool, what: &str| {
        if !same {
            faults.push(format!("{what} differ from the program's output"));
        }
    };
    compare(store.logs(run, 0, all).await? == logs, "the log lines");
    compare(store.messages(run, None, all).await? == messages, "its messages");
    compare(store.published(run, None, None, all).await? == published, "the published values");
    Ok(faults)
}
