//! N trivial steps one after the other, for measuring.

use serde::{Deserialize, Serialize};
use wfhost::{Result, agent};

#[derive(Deserialize, Serialize)]
struct Count {
    steps: u64,
}

#[wfhost::workflow]
async fn counter(input: Count) -> Result<Count> {
    for step in 1..=input.steps {
        agent(format!("tick {step}")).text().await?;
    }
    Ok(input)
}
