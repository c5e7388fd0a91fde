//! A durable workflow: whatever happens to the machine, no completed step is executed twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wfhost::{Result, agent, sleep};

#[derive(Deserialize)]
struct Input {
    #[serde(default = "world")]
    name: String,
}

fn world() -> String {
    "world".to_owned()
}

#[derive(Serialize)]
struct Output {
    greeting: String,
}

#[wfhost::workflow]
async fn workflow(input: Input) -> Result<Output> {
    let greeting = agent(format!("greet {}", input.name)).text().await?;
    sleep(Duration::from_secs(1)).await?;
    Ok(Output { greeting })
}
