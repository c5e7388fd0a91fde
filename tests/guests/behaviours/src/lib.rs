//! Scenarios that exist in each language: `tests/behaviours` has the others, `tests/tests/languages/behaviours.rs` compares them.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use futures::future::join;
use serde::{Deserialize, Serialize};
use wfhost::{
    Error, FailureKind, Result, Retry, Value, agent, ask, child, json, patched, phase, post, publish, quorum,
    race, retry, rounds, saga, signal, sleep, sleep_until, timeout, try_parallel_map,
};

#[derive(Deserialize, Serialize)]
struct Input {
    scenario: String,
    #[serde(default)]
    n: u64,
}

#[derive(Deserialize, Serialize, schemars::JsonSchema)]
struct Review {
    accepted: bool,
    notes: Vec<String>,
}

fn millis(length: u64) -> Duration {
    Duration::from_millis(length)
}

fn kind<T>(result: Result<T>) -> Value {
    json!(result.map_or_else(|error| error.kind().to_string(), |_| "none".to_owned()))
}

#[wfhost::workflow]
async fn behaviours(input: Input) -> Result<Value> {
    Ok(match input.scenario.as_str() {
        "conversation" => {
            let first = agent("first").session("s1").reply().await?;
            let second = agent("second").session(first.session.clone().unwrap_or_default()).reply().await?;
            let usage = first.usage.unwrap_or_default();
            json!({
                "outputs": [first.text(), second.text()], "session": second.session,
                "usage": [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cost_micros],
                "provider": first.provider,
            })
        }
        "typed" => {
            let review: Review = agent("review").schema_of::<Review>().json().await?;
            let bad: Result<Review> = agent("words").schema_of::<Review>().once().json().await;
            json!({ "review": review, "bad": kind(bad) })
        }
        "once" => json!({ "kind": kind(agent("pay").once().text().await) }),
        "request" => json!(
            agent("p")
                .input(json!({ "a": 1 }))
                .label("l")
                .group("g")
                .retry(Retry::attempts(5).fatal(["unavailable"]))
                .limits(
                    wfhost::Limits::new()
                        .attempt(millis(60_000))
                        .total(millis(90_000))
                        .heartbeat(millis(30_000))
                )
                .options(json!({ "t": 0 }))
                .text()
                .await?
        ),
        "cache" => json!(agent("costly").cache("v1", millis(3_600_000)).text().await?),
        "together" => {
            let (a, b) = join(pipeline("a"), pipeline("b")).await;
            json!([a?, b?])
        }
        "race" => {
            let (index, value) =
                race([Contestant::Sleep.run(), Contestant::Agent.run(), Contestant::Signal.run()]).await;
            json!([index, value?])
        }
        "quorum" => {
            let votes = quorum(2, ["bad", "slow", "fast"].map(|name| agent(name).text())).await?;
            let lost = quorum(2, ["bad", "bad too", "fast"].map(|name| agent(name).text())).await;
            let failure = lost.expect_err("two of three fail").into_failure();
            json!({ "votes": votes, "message": failure.message, "details": failure.details })
        }
        "map" => json!(
            try_parallel_map(0..5, 2, async |item| {
                let draft = agent(format!("draft {item}")).text().await?;
                agent(format!("polish {draft}")).text().await
            })
            .await?
        ),
        "timeout" => {
            json!({ "kind": kind(timeout(millis(5), signal("never").json::<Value>()).await.and_then(|inner| inner)) })
        }
        "cancel" => {
            let step = sleep(millis(60_000)).start();
            let answer = agent("meanwhile").text().await?;
            drop(step);
            json!(answer)
        }
        "retry" => json!(
            retry(Retry::attempts(3).initial(millis(1)).jitter(0.0), async |attempt| {
                agent(format!("try {attempt}")).retry(Retry::never()).text().await
            })
            .await?
        ),
        "rounds" => {
            let first = Input { scenario: "rounds".to_owned(), n: input.n };
            rounds(2, first, async |state| {
                agent(format!("round {}", state.n)).text().await?;
                match state.n {
                    4 => Ok(Break(json!({ "rounds": state.n }))),
                    n => Ok(Continue(Input { scenario: state.scenario, n: n + 1 })),
                }
            })
            .await?
        }
        "saga" => {
            saga(async |trip| {
                trip.step("flight", agent("book flight").text(), undo).await?;
                trip.step("hotel", agent("book hotel").text(), undo).await?;
                trip.undo("car", async || -> Result<()> { Err(Error::failed("there is no car")) });
                Err::<Value, _>(Error::rejected("no").with_details(json!({ "own": 1 })))
            })
            .await?
        }
        "stopped" => {
            saga(async |trip| {
                trip.step("flight", agent("book flight").text(), undo).await?;
                signal("go").json::<Value>().await
            })
            .await?
        }
        "child" => {
            let kid = child("behaviours").input(json!({ "scenario": "echo", "n": 7 }));
            let value: Value = kid.id("kid").label("k", "v").json().await?;
            let missing = child("no-such").json::<Value>().await;
            json!({ "value": value, "missing": kind(missing) })
        }
        "echo" => json!({ "n": input.n }),
        "budget" => {
            let before = wfhost::budget();
            agent("first").text().await?;
            let after = wfhost::budget();
            json!({ "before": [before.spent, before.remaining()], "after": [after.spent, after.remaining()] })
        }
        "facts" => {
            let info = wfhost::info();
            phase("looking");
            publish("progress", json!({ "done": 3 }))?;
            post("chapter", json!({ "title": "one" }))?;
            wfhost::warn!(who = "Ada", step = 3; "careful");
            json!({
                "run": info.run, "workflow": info.workflow, "labels": info.labels, "attempt": info.attempt,
                "parent": info.parent, "patched": patched("x"), "cancelled": wfhost::cancelled(),
                "clock": wfhost::now() >= info.started,
                "gone": kind(wfhost::send("no-such-run", "go", json!(1))),
            })
        }
        "ask" => {
            let colour: String =
                ask("which colour?").choices(["red", "green"]).details(json!({ "why": 1 })).json().await?;
            let refused = ask("really?").json::<Value>().await;
            let late = ask("anybody?").timeout(millis(1)).json::<Value>().await;
            json!({ "colour": colour, "refused": kind(refused), "late": kind(late) })
        }
        "sleep" => {
            sleep(millis(2)).await?;
            sleep_until(wfhost::Timestamp::from_millis(1)).await?;
            json!({ "long": kind(sleep(Duration::from_secs(1 << 40)).await) })
        }
        "fail" => {
            return Err(
                Error::new(FailureKind::Unavailable, "nobody is there").with_details(json!({ "why": [1] }))
            );
        }
        other => return Err(Error::rejected(format!("there is no scenario {other}"))),
    })
}

async fn pipeline(name: &str) -> Result<String> {
    let draft = agent(format!("{name}1")).text().await?;
    agent(format!("{name}2 {draft}")).text().await
}

async fn undo(booking: &String) -> Result<String> {
    agent(format!("undo {booking}")).text().await
}

/// Futures of one type.
enum Contestant {
    Sleep,
    Agent,
    Signal,
}

impl Contestant {
    async fn run(self) -> Result<String> {
        match self {
            Self::Sleep => sleep(millis(60_000)).await.map(|()| String::new()),
            Self::Agent => agent("b").text().await,
            Self::Signal => signal("never").json().await,
        }
    }
}
