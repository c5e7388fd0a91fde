//! What the SDK has for programs of several steps. A failure of a step is a
//! failure here, and not a value.

use std::ops::ControlFlow;

use serde::Deserialize;
use wfhost::{Error, FailureKind, Result, Retry, Semaphore, Value, agent, json};

use crate::operation::Operation;
use crate::{millis, perform};

#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pattern {
    /// Does steps which are undone if one of them fails. Gives their results.
    Saga(Vec<SagaStep>),
    /// Operations, at most `limit` at the same time. Gives all results.
    Map { limit: usize, operations: Vec<Operation> },
    /// The same; the first failure ends it.
    TryMap { limit: usize, operations: Vec<Operation> },
    /// Asks the default agent `STAGE ITEM` for each stage (its name and how many items may be in
    /// it) of each item. Gives the answers of the last stage.
    Pipeline { stages: Vec<(String, usize)>, items: Vec<String> },
    /// Gives `[index, result]` of the first to end.
    Race(Vec<Operation>),
    /// Gives the result of the first to succeed.
    FirstOk(Vec<Operation>),
    /// Gives `[index, result]` of the first ones to succeed.
    Quorum { count: usize, operations: Vec<Operation> },
    /// Does them one after the other, again and again until none fails. Gives their results.
    Retry { attempts: u32, initial: u64, operations: Vec<Operation> },
    /// Does it until it gives this value. Gives `[rounds, done]`.
    LoopUntil { max: u32, operation: Operation, value: Value },
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct SagaStep {
    name: String,
    r#do: Operation,
    /// Done one after the other, up to the first that fails.
    #[serde(default)]
    undo: Vec<Operation>,
    /// The undoing is registered before the step.
    #[serde(default)]
    before: bool,
}

pub async fn follow(pattern: Pattern) -> Result<Value> {
    Ok(match pattern {
        Pattern::Saga(steps) => saga(steps).await?,
        Pattern::Map { limit, operations } => json!(wfhost::parallel_map(operations, limit, perform).await),
        Pattern::TryMap { limit, operations } => {
            json!(wfhost::try_parallel_map(operations, limit, succeed).await?)
        }
        Pattern::Pipeline { stages, items } => pipeline(stages, items).await?,
        Pattern::Race(operations) => json!(wfhost::race(operations.into_iter().map(perform)).await),
        Pattern::FirstOk(operations) => wfhost::first_ok(operations.into_iter().map(succeed)).await?,
        Pattern::Quorum { count, operations } => {
            json!(wfhost::quorum(count, operations.into_iter().map(succeed)).await?)
        }
        Pattern::Retry { attempts, initial, operations } => {
            let policy = Retry::attempts(attempts).initial(millis(initial));
            wfhost::retry(policy, async |_| all(&operations).await).await?
        }
        Pattern::LoopUntil { max, operation, value } => {
            let rounds = wfhost::loop_until(max, 0, async |_, round| {
                let done = succeed(operation.clone()).await? == value;
                Ok(if done { ControlFlow::Break(round) } else { ControlFlow::Continue(round) })
            });
            match rounds.await? {
                ControlFlow::Break(rounds) => json!([rounds, true]),
                ControlFlow::Continue(rounds) => json!([rounds, false]),
            }
        }
    })
}

async fn saga(steps: Vec<SagaStep>) -> Result<Value> {
    wfhost::saga(async |saga| {
        let mut results = Vec::new();
        for SagaStep { name, r#do, undo, before } in steps {
            results.push(if before {
                saga.undo(name, async move || all(&undo).await);
                succeed(r#do).await?
            } else {
                saga.step(name, succeed(r#do), async move |_| all(&undo).await).await?
            });
        }
        Ok(json!(results))
    })
    .await
}

async fn pipeline(stages: Vec<(String, usize)>, items: Vec<String>) -> Result<Value> {
    let stages: Vec<_> = stages.into_iter().map(|(name, limit)| (name, Semaphore::new(limit))).collect();
    let answers = wfhost::try_parallel_map(items, usize::MAX, async |item| {
        let mut answer = Ok(item);
        for (name, semaphore) in &stages {
            answer = semaphore.run(agent(format!("{name} {}", answer?)).text()).await;
        }
        answer
    });
    Ok(json!(answers.await?))
}

async fn all(operations: &[Operation]) -> Result<Value> {
    let mut results = Vec::new();
    for operation in operations {
        results.push(succeed(operation.clone()).await?);
    }
    Ok(json!(results))
}

/// The result of an operation, or its failure.
async fn succeed(operation: Operation) -> Result<Value> {
    let result = perform(operation).await;
    match result.get("failure").map(|kind| wfhost::serde_json::from_value::<FailureKind>(kind.clone())) {
        Some(Ok(kind)) => {
            let message = result["message"].as_str().unwrap_or_default();
            let error = Error::new(kind, message);
            Err(match result.get("details") {
                Some(details) => error.with_details(details),
                None => error,
            })
        }
        _ => Ok(result),
    }
}
