//! Sorts tickets: a few at once, each answer kept for the next run, and no
//! more than the budget allows.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wfhost::{FailureKind, Result, agent, budget, info, json, publish};

#[derive(Deserialize)]
struct Input {
    tickets: Vec<Ticket>,
    /// How many are looked at at the same time.
    #[serde(default = "four")]
    at_once: usize,
}

fn four() -> usize {
    4
}

#[derive(Deserialize)]
struct Ticket {
    id: String,
    text: String,
}

/// What is to become of a ticket.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Sorted {
    kind: Kind,
    /// From 1, can wait, to 5, somebody is in trouble now.
    #[schemars(range(min = 1, max = 5))]
    urgency: u8,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Bug,
    Wish,
    Question,
    Noise,
}

#[derive(Serialize)]
struct Report {
    sorted: Vec<(String, Sorted)>,
    /// Tickets that nobody could be paid for any more.
    unpaid: Vec<String>,
    /// Tickets that could not be sorted, and why.
    failed: Vec<(String, String)>,
    tokens: u64,
}

#[wfhost::workflow]
async fn triage(input: Input) -> Result<Report> {
    let count = input.tickets.len();
    let mut report = Report { sorted: Vec::new(), unpaid: Vec::new(), failed: Vec::new(), tokens: 0 };
    let mut answers = stream::iter(input.tickets).map(sort).buffered(input.at_once.max(1));
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok(sorted) => report.sorted.push((id, sorted)),
            Err(error) if error.kind() == FailureKind::BudgetExceeded => report.unpaid.push(id),
            Err(error) if error.kind() == FailureKind::Cancelled => return Err(error),
            Err(error) => report.failed.push((id, error.to_string())),
        }
        publish("progress", json!({ "done": report.sorted.len(), "of": count }))?;
    }
    report.tokens = budget().spent;
    info!("{} of {count} tickets sorted for {} tokens", report.sorted.len(), report.tokens);
    Ok(report)
}

async fn sort(ticket: Ticket) -> (String, Result<Sorted>) {
    let answer = agent("Sort this ticket of a help desk.")
        .input(json!({ "ticket": ticket.text }))
        .label(format!("sort {}", ticket.id))
        .group("tickets")
        .cache("triage-1", Duration::from_secs(30 * 24 * 3600))
        .schema_of::<Sorted>()
        .json()
        .await;
    (ticket.id, answer)
}
