//! Something is checked again and again, for as long as anybody likes: a loop that continues as
//! new. The signal `interval` changes how often, `stop` ends it.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use futures::select;
use serde::{Deserialize, Serialize};
use wfhost::{Result, agent, info, publish, rounds, signal, sleep};

/// The input, and what one round hands to the next.
#[derive(Deserialize, Serialize)]
struct State {
    /// What to check.
    target: String,
    interval_ms: u64,
    /// The last round; none if only `stop` ends it.
    rounds: Option<u64>,
    #[serde(default)]
    done: u64,
    #[serde(default)]
    alarms: u64,
}

#[derive(Serialize)]
struct Summary {
    rounds: u64,
    alarms: u64,
}

/// Steps in the journal of one run, about.
const STEPS: u64 = 1_000;

#[wfhost::workflow]
async fn monitor(state: State) -> Result<Summary> {
    rounds(STEPS, state, async |mut state| {
        let status = agent(format!("check {}", state.target)).text().await?;
        state.done += 1;
        if status != "ok" {
            state.alarms += 1;
            info!("round {}: {} is {status}", state.done, state.target);
        }
        publish("monitor", &state)?;
        let summary = Summary { rounds: state.done, alarms: state.alarms };
        if state.rounds.is_some_and(|last| state.done >= last) {
            return Ok(Break(summary));
        }
        let mut pause = sleep(Duration::from_millis(state.interval_ms));
        let mut interval = signal("interval").json::<u64>();
        let mut stop = signal("stop").json::<wfhost::Value>();
        select! {
            _ = stop => return Ok(Break(summary)),
            millis = interval => state.interval_ms = millis?,
            slept = pause => slept?,
        }
        Ok(Continue(state))
    })
    .await
}
