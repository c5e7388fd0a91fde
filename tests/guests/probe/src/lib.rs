//! An interpreter of small programs, so that the tests need one module only.
//!
//! The input is `{"do": [operation, ...]}`, each operation an object with one
//! member, see [`Operation`]. The result is the list of what each gave; a
//! failure of a step gives `{"failure": kind}` and the program goes on.

use std::collections::HashMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all, select_all};
use serde::{Deserialize, Serialize};
use wfhost::{Error, Result, Value, agent, json, signal, sleep};

#[derive(Deserialize)]
struct Program {
    r#do: Vec<Operation>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case")]
enum Operation {
    /// Asks the default agent.
    Agent(String),
    /// Asks a named provider.
    AgentOf {
        provider: String,
        prompt: String,
    },
    /// Sleeps for so many milliseconds.
    Sleep(u64),
    /// Waits for a signal, at most so long.
    Wait {
        name: String,
        timeout_ms: Option<u64>,
    },
    /// Waits for so many signals of one name side by side.
    WaitMany {
        name: String,
        count: usize,
    },
    /// Sends a signal to another run.
    Send {
        run: String,
        name: String,
        payload: Value,
    },
    /// Runs operations side by side; gives all results.
    Parallel(Vec<Operation>),
    /// Runs operations side by side; gives the index and the result of the
    /// first, the others are dropped.
    Race(Vec<Operation>),
    /// Does it so many times; gives the last result.
    Repeat {
        times: u64,
        operation: Box<Operation>,
    },
    /// Asks the agent about everything that could differ between executions:
    /// a replay that saw anything else would be a mismatch.
    Observe,
    Log(String),
    Print(String),
    Publish {
        key: String,
        value: Value,
    },
    Patched(String),
    Cancelled,
    Now,
    Info,
    /// Features that come later.
    Child,
    Ask,
    Fail(String),
    Panic(String),
    Spin,
    /// Allocates so many bytes and touches them.
    Allocate(usize),
    Recurse,
    /// Waits for nothing.
    Deadlock,
}

#[derive(Serialize)]
struct Failed {
    failure: String,
    message: String,
}

#[wfhost::workflow]
async fn probe(program: Program) -> Result<Vec<Value>> {
    let mut results = Vec::new();
    for operation in program.r#do {
        if let Operation::Fail(message) = operation {
            return Err(Error::failed(message));
        }
        results.push(perform(operation).await);
    }
    Ok(results)
}

fn value<T: Serialize>(result: Result<T>) -> Value {
    match result {
        Ok(value) => json!(value),
        Err(error) => json!(Failed { failure: error.kind().to_string(), message: error.to_string() }),
    }
}

fn perform(operation: Operation) -> LocalBoxFuture<'static, Value> {
    async move {
        match operation {
            Operation::Agent(prompt) => value(agent(prompt).text().await),
            Operation::AgentOf { provider, prompt } => value(agent(prompt).provider(provider).text().await),
            Operation::Sleep(millis) => value(sleep(Duration::from_millis(millis)).await),
            Operation::Wait { name, timeout_ms } => value(wait(&name, timeout_ms).await),
            Operation::WaitMany { name, count } => {
                let waits = (0..count).map(|_| wait(&name, None));
                json!(join_all(waits).await.into_iter().map(value).collect::<Vec<_>>())
            }
            Operation::Send { run, name, payload } => value(wfhost::send(&run, &name, payload)),
            Operation::Parallel(operations) => json!(join_all(operations.into_iter().map(perform)).await),
            Operation::Race(operations) => {
                let (result, index, _losers) = select_all(operations.into_iter().map(perform)).await;
                json!([index, result])
            }
            Operation::Repeat { times, operation } => {
                let mut last = Value::Null;
                for _ in 0..times {
                    last = perform((*operation).clone()).await;
                }
                last
            }
            Operation::Observe => value(agent(observe()).text().await),
            Operation::Log(line) => {
                wfhost::info!("{line}");
                Value::Null
            }
            Operation::Print(line) => {
                println!("{line}");
                Value::Null
            }
            Operation::Publish { key, value: published } => value(wfhost::publish(&key, published)),
            Operation::Patched(id) => json!(wfhost::patched(&id)),
            Operation::Cancelled => json!(wfhost::cancelled()),
            Operation::Now => json!(wfhost::now()),
            Operation::Info => json!(wfhost::info().run),
            Operation::Child => value(wfhost::child("hello").await),
            Operation::Ask => value(wfhost::ask("may I?").await),
            Operation::Fail(_) => Value::Null,
            Operation::Panic(message) => panic!("{message}"),
            Operation::Spin => loop {
                std::hint::black_box(0);
            },
            Operation::Allocate(bytes) => {
                let block = std::hint::black_box(vec![1u8; bytes]);
                json!(block.len())
            }
            Operation::Recurse => json!(recurse(1)),
            Operation::Deadlock => std::future::pending().await,
        }
    }
    .boxed_local()
}

async fn wait(name: &str, timeout_ms: Option<u64>) -> Result<Value> {
    match timeout_ms {
        Some(millis) => signal(name).timeout(Duration::from_millis(millis)).await,
        None => signal(name).await,
    }
}

fn observe() -> String {
    let map: HashMap<u32, u32> = (0..20).map(|n| (n, n)).collect();
    let order: Vec<_> = map.keys().collect();
    let nan = std::hint::black_box(f64::NAN) * std::hint::black_box(-1.0);
    let local = 0u8;
    format!(
        "{order:?} {:x} {} {:?} {:p} {:?}",
        nan.to_bits(),
        wfhost::random(),
        wfhost::now(),
        &local,
        std::thread::current().id()
    )
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(depth + 1) + depth)
}
