//! Whether what is stored of a run is what was written, and what it would have to be.

use wfhost_core::{Digest, Journal, Machine, Position, Timestamp};

use crate::store::{
    Emission, Links, LogLine, MessageBody, OutMessage, Published, Rebuilt, Result, RunInfo, RunState, Store,
    Waiting,
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
}

/// Reads a run's journal, checks its chain, and compares what else is known
/// of the run with what the journal says.
pub async fn verify(store: &dyn Store, info: &RunInfo) -> Result<Report> {
    let rows = store.journal(&info.id, Position(0)).await?;
    let mut report = Report {
        entries: rows.iter().map(|row| u64::from(row.count)).sum(),
        head: Digest([0; 32]),
        faults: vec![],
    };
    let journal = match Journal::read(rows) {
        Ok(journal) => journal,
        Err(error) => {
            report.faults.push(error.to_string());
            return Ok(report);
        }
    };
    report.head = journal.head;
    let machine = match Machine::open(journal, info.emissions) {
        Ok(machine) => machine,
        Err(error) => {
            report.faults.push(error.to_string());
            return Ok(report);
        }
    };
    // While somebody advances it the head is on its way.
    let at_rest = info.lease.is_none() && info.state != RunState::Running;
    if let Some(head) = info.head.filter(|_| at_rest)
        && head != report.head
    {
        report.faults.push(format!(
            "the journal ends with the head {}, the run was left with {head}: its last entries are missing",
            report.head
        ));
    }
    report.faults.extend(differences(info, &machine));
    if store.module(machine.module()).await?.is_none() {
        report.faults.push(format!("its module {} is missing", machine.module()));
    }
    if info.state == RunState::Waiting {
        let mut asked: Vec<_> = store.questions(Some(&info.id), usize::MAX >> 1).await?;
        asked.sort_by_key(|question| question.step);
        let pending = store.inbox(&info.id).await?;
        let answered = pending.iter().filter(|message| matches!(message.body, MessageBody::Answer { .. }));
        let open = machine.open_questions().len() - answered.count().min(machine.open_questions().len());
        if asked.len() != open {
            report.faults.push(format!("{} questions are listed, it asks {open}", asked.len()));
        }
    }
    Ok(report)
}

/// Where the row of a run departs from its journal.
fn differences(info: &RunInfo, machine: &Machine) -> Vec<String> {
    let started = machine.started();
    let mut faults = Vec::new();
    let mut compare = |what: &str, stored: String, journal: String| {
        if stored != journal {
            faults.push(format!("the {what} is stored as {stored}, the journal says {journal}"));
        }
    };
    compare("id", info.id.to_string(), machine.run().to_string());
    compare("workflow", info.workflow.clone(), started.workflow.clone());
    compare("module", info.module.to_string(), machine.module().to_string());
    compare("labels", format!("{:?}", info.labels), format!("{:?}", started.labels));
    compare("parent", format!("{:?}", info.parent), format!("{:?}", machine.parent()));
    compare("place among its relatives", format!("{:?}", info.links), format!("{:?}", Links::of(machine)));
    compare("amount spent", format!("{:?}", info.spent), format!("{:?}", machine.spent_itself()));
    compare("budget", format!("{:?}", info.budget), format!("{:?}", machine.budget()));
    compare("time of the beginning", info.created_at.to_string(), machine.started_at().to_string());
    let stored = info.outcome.as_ref().filter(|_| info.state.is_final());
    compare("outcome", format!("{stored:?}"), format!("{:?}", machine.outcome()));
    if let Some(waiting) = &info.waiting {
        compare("wait", format!("{waiting:?}"), format!("{:?}", waits_for(machine)));
        // Something that came in makes it due earlier.
        if info.due_at.is_none() != waits_for(machine).until.is_none() && info.due_at != Some(Timestamp(0)) {
            faults.push(format!("it is due at {:?}, and waits until {:?}", info.due_at, waiting.until));
        }
    }
    faults
}

/// What a run waits for that only waits.
pub(crate) fn waits_for(machine: &Machine) -> Waiting {
    Waiting {
        until: machine.next_deadline(),
        signals: machine.wanted_signals(),
        people: machine.asks_people(),
    }
}

/// What has to be kept of a run besides its journal, according to that and to its module, which
/// repeats it without any effect.
pub async fn rebuild(host: &Host, info: &RunInfo) -> Result<Rebuilt, HostError> {
    let journal = host.journal(&info.id).await?;
    let unusable = |source| HostError::Journal { run: info.id.clone(), source };
    let head = journal.head;
    let machine = Machine::open(journal.clone(), info.emissions).map_err(unusable)?;
    let started = machine.started();
    let outcome = machine.outcome().cloned();
    let waiting = (info.state == RunState::Waiting && outcome.is_none()).then(|| waits_for(&machine));
    let state = match (&outcome, info.state) {
        _ if machine.continued_as().is_some() => RunState::Continued,
        (Some(_), _) => RunState::of(outcome.as_ref()),
        // Whoever takes it up finds out what it is about.
        (None, state) if state.is_final() => RunState::Running,
        (None, state) => state,
    };
    let due_at = match state {
        RunState::Waiting if !host.store().inbox(&info.id).await?.is_empty() => Some(Timestamp(0)),
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
        workflow: started.workflow.clone(),
        module: machine.module(),
        labels: started.labels.clone(),
        parent: machine.parent().cloned(),
        links: Links::of(&machine),
        spent: machine.spent_itself(),
        budget: machine.budget(),
        created_at: machine.started_at(),
        updated_at: machine.last_at(),
        state,
        outcome: if again { outcome } else { info.outcome.clone() },
        waiting,
        due_at,
        head: Some(head),
        ..info.clone()
    };
    // What a program gave out before it was begun again in its middle cannot be had once more.
    let mut emissions = None;
    if !machine.was_retried() {
        let module = host.module_of(&rebuilt).await?;
        let replayed = host.replay(&info.id, journal, &module, 0).await?;
        let all = replayed.emissions.len() as u64 >= info.emissions;
        emissions = (replayed.departs.is_none() && all).then_some(replayed.emissions);
    }
    Ok(Rebuilt { info: rebuilt, emissions, questions })
}

/// Where what a program gave out departs from what is stored of it.
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
            faults.push(format!("{what} are not those that the program gave out"));
        }
    };
    compare(store.logs(run, 0, all).await? == logs, "the lines of its log");
    compare(store.messages(run, None, all).await? == messages, "its messages");
    compare(store.published(run, None).await? == published, "the values that it published");
    Ok(faults)
}
