//! A report by several agents: an outline, its sections written side by side,
//! a review of at most three rounds, and the approval of a person.

use std::time::Duration;

use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use wfhost::{Result, agent, info, phase, publish, signal};

#[derive(Deserialize)]
struct Input {
    topic: String,
    #[serde(default = "three")]
    sections: u32,
    #[serde(default = "a_week")]
    approval_timeout_s: u64,
}

fn three() -> u32 {
    3
}

fn a_week() -> u64 {
    7 * 24 * 3600
}

/// The signal `approve`.
#[derive(Deserialize, Serialize)]
struct Approval {
    ok: bool,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Serialize)]
struct Report {
    topic: String,
    outline: String,
    sections: Vec<String>,
    rounds: u32,
    /// None if nobody answered in time.
    approval: Option<Approval>,
}

const ROUNDS: u32 = 3;

#[wfhost::workflow]
async fn research(input: Input) -> Result<Report> {
    let topic = &input.topic;
    phase("outline");
    let outline =
        agent(format!("outline {topic} in {} sections", input.sections)).label("outline").text().await?;

    phase("sections");
    let mut sections = write(topic, &outline, input.sections).await?;

    let mut rounds = 0;
    while rounds < ROUNDS {
        rounds += 1;
        phase(format!("review {rounds}"));
        let draft = sections.join("\n\n");
        let review = agent(format!("review round {rounds} of {topic}:\n{draft}"))
            .label(format!("review {rounds}"))
            .text()
            .await?;
        let verdict = review.trim_start().to_lowercase();
        if verdict.starts_with("ok") || verdict.starts_with("approved") {
            info!("accepted in round {rounds}");
            break;
        }
        if rounds < ROUNDS {
            sections = write(topic, &review, input.sections).await?;
        }
    }
    publish("draft", &sections)?;

    phase("approval");
    let timeout = Duration::from_secs(input.approval_timeout_s);
    let approval = match signal("approve").timeout(timeout).json::<Approval>().await {
        Ok(approval) => Some(approval),
        Err(error) if error.kind() == wfhost::FailureKind::TimedOut => None,
        Err(error) => return Err(error),
    };
    Ok(Report { topic: input.topic, outline, sections, rounds, approval })
}

/// Has all sections written side by side, following an outline or a review.
async fn write(topic: &str, guidance: &str, sections: u32) -> Result<Vec<String>> {
    try_join_all((1..=sections).map(|number| {
        agent(format!("write section {number} of {topic}:\n{guidance}"))
            .label(format!("section {number}"))
            .text()
    }))
    .await
}
