//! What a run may spend and has spent, as its journal tells.

use serde::Deserialize;

use crate::entry::{Event, Recorded};
use crate::policy::budget::{Budget, Spent};
use crate::{Position, Usage};

/// The sums after each entry that changed one of them, so that what a program
/// reads depends on the entries that it has observed and on no other.
#[derive(Debug, Default)]
pub(super) struct Spending {
    budgets: Vec<(Position, Budget)>,
    sums: Vec<(Position, Spent)>,
}

impl Spending {
    pub fn new(budget: Option<Budget>) -> Self {
        Self { budgets: vec![(Position(0), budget.unwrap_or_default())], sums: Vec::new() }
    }

    /// Takes in an entry. `is_call`: whether it belongs to an agent call.
    pub fn note(&mut self, position: Position, event: &Event, is_call: bool) {
        match event {
            Event::AttemptFailed(failed) => self.add(position, failed.usage),
            Event::Completed { outcome: Recorded::Ok(reply), .. } if is_call => {
                self.add(position, usage_of(reply.as_str()));
            }
            Event::BudgetChanged { budget } => self.budgets.push((position, *budget)),
            _ => {}
        }
    }

    fn add(&mut self, position: Position, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        let sum = self.spent(Position(u64::MAX)).plus(Spent::of(&usage));
        self.sums.push((position, sum));
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
    serde_json::from_str::<OnlyUsage>(reply).ok()?.usage
}
