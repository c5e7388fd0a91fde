//! A change goes to two reviewers at the same time. Their answers are data, a
//! judge weighs them, and a person has the last word.

use std::time::Duration;

use futures::future::try_join;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wfhost::{FailureKind, Limits, Result, Retry, agent, ask, json, phase};

#[derive(Deserialize)]
struct Input {
    diff: String,
    /// Who reviews: the names of providers. The run's default if none is named.
    #[serde(default)]
    reviewers: Vec<String>,
}

/// What a reviewer says.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Review {
    /// Whether the change can go in as it is.
    accepted: bool,
    /// What has to be changed, the most important first.
    notes: Vec<String>,
}

/// What the judge makes of the reviews.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Verdict {
    accepted: bool,
    reason: String,
}

#[derive(Serialize)]
struct Outcome {
    accepted: bool,
    reviews: [Review; 2],
    verdict: Verdict,
    /// None if no person was asked, because the judge refused.
    approved: Option<bool>,
}

#[wfhost::workflow]
async fn review(input: Input) -> Result<Outcome> {
    phase("review");
    let named = |index: usize| input.reviewers.get(index).or(input.reviewers.first());
    let (correctness, clarity) = try_join(
        ask_reviewer("correctness", named(0), &input.diff),
        ask_reviewer("clarity", named(1), &input.diff),
    )
    .await?;
    let reviews = [correctness, clarity];

    phase("judge");
    let verdict: Verdict = agent("Two reviewers looked at a change. Decide whether it goes in.")
        .input(json!({ "reviews": reviews }))
        .label("judge")
        .schema_of::<Verdict>()
        .json()
        .await?;
    if !verdict.accepted {
        return Ok(Outcome { accepted: false, reviews, verdict, approved: None });
    }

    phase("approval");
    let approval = ask(format!("Let the change in? The judge says: {}", verdict.reason))
        .details(json!({ "diff": input.diff, "reviews": reviews }))
        .timeout(Duration::from_secs(7 * 24 * 3600))
        .json::<bool>()
        .await;
    let approved = match approval {
        Ok(approved) => approved,
        // Nobody had the time, or somebody said no.
        Err(error) if matches!(error.kind(), FailureKind::TimedOut | FailureKind::Rejected) => false,
        Err(error) => return Err(error),
    };
    Ok(Outcome { accepted: approved, reviews, verdict, approved: Some(approved) })
}

async fn ask_reviewer(aspect: &str, provider: Option<&String>, diff: &str) -> Result<Review> {
    let mut call = agent(format!("Review this change for {aspect}."))
        .input(json!({ "diff": diff }))
        .label(format!("review of {aspect}"))
        .retry(Retry::attempts(3))
        .limits(Limits::new().attempt(Duration::from_secs(600)))
        .schema_of::<Review>();
    if let Some(provider) = provider {
        call = call.provider(provider);
    }
    call.json().await
}
