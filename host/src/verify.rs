//! Whether what is stored of a run is what was written.

use wfhost_core::{Digest, Journal, Machine, Position};

use crate::store::{Result, RunInfo, RunState, Store, Waiting};

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
        let open = machine.open_questions().len();
        if asked.len() > open {
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
    compare("id", info.id.to_string(), started.run.to_string());
    compare("workflow", info.workflow.clone(), started.workflow.clone());
    compare("module", info.module.to_string(), machine.module().to_string());
    compare("labels", format!("{:?}", info.labels), format!("{:?}", started.labels));
    compare("parent", format!("{:?}", info.parent), format!("{:?}", started.parent));
    compare("time of the beginning", info.created_at.to_string(), machine.started_at().to_string());
    let stored = info.outcome.as_ref().filter(|_| info.state.is_final());
    compare("outcome", format!("{stored:?}"), format!("{:?}", machine.outcome()));
    if let Some(waiting) = &info.waiting {
        let expected = Waiting {
            until: machine.next_deadline(),
            signals: machine.wanted_signals(),
            people: machine.asks_people(),
        };
        compare("wait", format!("{waiting:?}"), format!("{expected:?}"));
    }
    faults
}
