//! Whether what is stored of a run is what was written, and what it would have to be.

use wfhost_core::{Digest, Given, Journal, Machine, Position, Timestamp, counted};
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
/// of the run with what the journal says.
pub async fn verify(store: &dyn Store, info: &RunInfo) -> Result<Report> {
    let rows = store.journal(&info.id, Position(0)).await?;
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
    let mut compare = |what: &str, stored: String, journal: String| {
        if stored != journal {
            faults.push(format!("the {what} is stored as {stored}, but the journal says {journal}"));
        }
    };
    compare("id", info.id.to_string(), said.id.to_string());
    compare("workflow", info.workflow.clone(), said.workflow);
    compare("module", info.module.to_string(), said.module.to_string());
    compare("labels", format!("{:?}", info.labels), format!("{:?}", said.labels));
    compare("parent", format!("{:?}", info.parent), format!("{:?}", said.parent));
    compare("links to related runs", format!("{:?}", info.links), format!("{:?}", said.links));
    compare("amount spent", format!("{:?}", info.spent), format!("{:?}", said.spent));
    compare("budget", format!("{:?}", info.budget), format!("{:?}", said.budget));
    compare("start time", info.created_at.to_string(), said.created_at.to_string());
    let stored = info.outcome.as_ref().filter(|_| info.state.is_final());
    compare("outcome", format!("{stored:?}"), format!("{:?}", said.outcome));
    if let Some(waiting) = &info.waiting {
        let mut waits = Waiting::of(machine);
        if info.trouble.is_some() {
            // A call that no host could make yet is put off to no certain time.
            waits.until = waiting.until;
        }
        compare("wait", format!("{waiting:?}"), format!("{waits:?}"));
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
pub async fn rebuild(host: &Host, info: &RunInfo) -> Result<Rebuilt, HostError> {
    let journal = host.journal(&info.id).await?;
    let unusable = |source| HostError::Journal { run: info.id.clone(), source };
    let machine = Machine::open(journal.clone(), Given::Everything).map_err(unusable)?;
    let outcome = machine.outcome().cloned();
    let waiting = (info.state == RunState::Waiting && outcome.is_none()).then(|| Waiting::of(&machine));
    let state = match (&outcome, info.state) {
        _ if machine.continued_as().is_some() => RunState::Continued,
        (Some(_), _) => RunState::of(outcome.as_ref()),
        // Whoever takes it up finds out what it is about.
        (None, state) if state.is_final() => RunState::Running,
        (None, state) => state,
    };
    let due_at = match state {
        RunState::Waiting if !host.store().inbox(&info.id, Part::Next).await?.messages.is_empty() => {
            Some(Timestamp(0))
        }
        RunState::Waiting => machine.next_deadline(),
        RunState::Running | RunState::Queued => Some(Timestamp(0)),
        _ => None,
    };
    let questions = match outcome {
        Some(_) => Vec::new(),
        None => machine.open_questions(),
    };
    let again = outcome.is_some() || state != RunState::Refused;
    let rebuilt = RunInfo {
        key: info.key.clone(),
        state,
        phase: info.phase.clone(),
        outcome: if again { outcome } else { info.outcome.clone() },
        waiting,
        epoch: info.epoch,
        lease: info.lease.clone(),
        due_at,
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

/// Where the stored output of a program differs from the output of a replay.
pub async fn compare_given_out(store: &dyn Store, rebuilt: &Rebuilt) -> Result<Vec<String>> {
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
