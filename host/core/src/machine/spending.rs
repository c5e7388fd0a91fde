//! What a run may spend and has spent, as its journal tells.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::entry::{Event, Origin, Recorded, Started};
use crate::policy::budget::{Budget, Spent};
use crate::{Position, Step, Usage};

/// The sums after each entry that changed one of them, so that what a program
/// reads depends on the entries that it has observed and on no other.
#[derive(Debug, Default)]
pub(super) struct Spending {
    budgets: Vec<(Position, Budget)>,
    sums: Vec<(Position, Spent)>,
    /// Of the run's own calls.
    own: Spent,
    /// What attempts consumed that were dropped, as it was told last.
    dropped: BTreeMap<(Step, u32), Usage>,
}

impl Spending {
    /// The budget that a run begins with, and what was spent before it.
    pub fn new(started: &Started) -> Self {
        let before = match &started.origin {
            Some(Origin::Continued { spent, .. }) => vec![(Position(0), *spent)],
            _ => Vec::new(),
        };
        Self {
            budgets: vec![(Position(0), started.config.budget.unwrap_or_default())],
            sums: before,
            own: Spent::default(),
            dropped: BTreeMap::new(),
        }
    }

    /// Takes in an entry. `is_call`: whether it belongs to an agent call.
    pub fn note(&mut self, position: Position, event: &Event, is_call: bool) {
        match event {
            Event::AttemptFailed(failed) => {
                if let Some(usage) = failed.usage.filter(|_| failed.is_dropped()) {
                    self.dropped.insert((failed.step, failed.attempt), usage);
                }
                self.add_usage(position, failed.usage);
            }
            Event::Completed { outcome: Recorded::Ok(reply), .. } if is_call => {
                self.add_usage(position, usage_of(reply.as_str()));
            }
            Event::ChildEnded(child) => self.add(position, child.spent),
            // What the other run paid for is not paid again.
            Event::Forked { .. } => {
                self.own = Spent::default();
                self.sums.push((position, Spent::default()));
            }
            Event::BudgetChanged { budget } => self.budgets.push((position, *budget)),
            _ => {}
        }
    }

    fn add_usage(&mut self, position: Position, usage: Option<Usage>) {
        if let Some(usage) = usage {
            let spent = Spent::of(&usage);
            self.own = self.own.plus(spent);
            self.add(position, spent);
        }
    }

    fn add(&mut self, position: Position, spent: Spent) {
        // Time is not added up.
        let sum = self.spent(Position(u64::MAX)).plus(Spent { time_ms: 0, ..spent });
        self.sums.push((position, sum));
    }

    /// Whether it is recorded that this attempt consumed that and was dropped.
    pub fn has_dropped(&self, step: Step, attempt: u32, usage: &Usage) -> bool {
        self.dropped.get(&(step, attempt)) == Some(usage)
    }

    pub fn own(&self) -> Spent {
        self.own
    }

    /// What may be spent, after the entry at `position`.
    pub fn budget(&self, position: Position) -> Budget {
        let behind = self.budgets.partition_point(|(at, _)| *at <= position);
        behind.checked_sub(1).map_or_else(Budget::default, |last| self.budgets[last].1)
    }

    /// What was spent, after the entry at `position`.
    pub fn spent(&self, position: Position) -> Spent {
        let behind = self.sums.partition_point(|(at, _)| *at <= position);
        behind.checked_sub(1).map_or_else(Spent::default, |last| self.sums[last].1)
    }
}

/// The usage within the JSON of a reply, without reading the rest of it.
fn usage_of(reply: &str) -> Option<Usage> {
    #[derive(Deserialize)]
    struct OnlyUsage {
        #[serde(default)]
        usage: Option<Usage>,
    }
    // Most of the time there is none, which can be told without reading it as JSON.
    if !reply.contains("\"usage\"") {
        return None;
    }
    serde_json::from_str::<OnlyUsage>(reply).ok()?.usage
}
