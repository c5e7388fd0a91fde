//! What comes of some executions, to be joined with what comes of others.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::execution::Execution;
use crate::explore::Coverage;
use crate::scenario::Scenario;
use crate::verdict::{Fault, FaultKind, note_used};

/// The sums over some seeds. In which order they are joined makes no difference.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    pub executions: u64,
    pub failed: u64,
    /// The smallest seed for each kind of fault.
    pub found: BTreeMap<FaultKind, (u64, Fault)>,
    ends: BTreeMap<String, u64>,
    steps: BTreeMap<String, u64>,
    failures: BTreeMap<String, u64>,
    deaths: u64,
    paths: BTreeMap<String, BTreeMap<String, u64>>,
    /// Rules, signals and expectations of the scenario that applied.
    used: BTreeSet<String>,
    /// Digests of the orders in which things happened.
    orders: BTreeSet<u64>,
}

impl Tally {
    pub fn add(&mut self, scenario: &Scenario, execution: &Execution) {
        self.executions += 1;
        *self.ends.entry(execution.main.state.as_str().to_owned()).or_default() += 1;
        self.deaths += u64::from(execution.deaths);
        self.used.extend(execution.used.iter().cloned());
        note_used(scenario, execution, &mut self.used);
        let mut order = blake3::Hasher::new();
        for run in &execution.runs {
            for step in wfhost::steps(&run.journal) {
                let name = step.op.label();
                *self.steps.entry(name.clone()).or_default() += 1;
                let end = match &step.ended {
                    None => "open".to_owned(),
                    Some((_, None)) => "cancelled".to_owned(),
                    Some((_, Some(Ok(_)))) => "completed".to_owned(),
                    Some((_, Some(Err(failure)))) => {
                        *self.failures.entry(failure.kind.to_string()).or_default() += 1;
                        failure.kind.to_string()
                    }
                };
                *self.paths.entry(name).or_default().entry(end).or_default() += 1;
            }
            for entry in &run.journal.entries {
                order.update(entry.event.kind().as_bytes());
                if let Some((step, _)) = entry.event.ended_step() {
                    order.update(&step.0.to_le_bytes());
                }
            }
        }
        let hash: [u8; 8] = order.finalize().as_bytes()[..8].try_into().unwrap_or_default();
        self.orders.insert(u64::from_le_bytes(hash));
    }

    /// The execution of a seed failed.
    pub fn fails(&mut self, seed: u64, fault: Fault) {
        self.failed += 1;
        self.note(seed, fault);
    }

    fn note(&mut self, seed: u64, fault: Fault) {
        let known = self.found.entry(fault.kind).or_insert_with(|| (seed, fault.clone()));
        if seed < known.0 {
            *known = (seed, fault);
        }
    }

    pub fn join(&mut self, other: Self) {
        let join = |into: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>| {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        };
        self.executions += other.executions;
        self.failed += other.failed;
        other.found.into_values().for_each(|(seed, fault)| self.note(seed, fault));
        join(&mut self.ends, other.ends);
        join(&mut self.steps, other.steps);
        join(&mut self.failures, other.failures);
        self.deaths += other.deaths;
        for (step, ends) in other.paths {
            join(self.paths.entry(step).or_default(), ends);
        }
        self.used.extend(other.used);
        self.orders.extend(other.orders);
    }

    /// What a report says of it.
    pub fn coverage(self, scenario: &Scenario) -> Coverage {
        let mut unused = scenario.rules();
        unused.retain(|rule| !self.used.contains(rule));
        Coverage {
            ends: self.ends,
            steps: self.steps,
            failures: self.failures,
            orders: self.orders.len(),
            deaths: self.deaths,
            paths: self.paths,
            unused,
        }
    }
}
