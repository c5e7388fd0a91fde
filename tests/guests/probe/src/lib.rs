//! An interpreter of small programs, so that the tests need one module only.
//!
//! The input is `{"do": [operation, ...]}`, see [`operation::Operation`]. The
//! result is the list of what each gave. The failure of a step is a value as
//! well, `{"failure": kind, "message", "details"?, "attempts"?}`, and the
//! program goes on; `fail`, `fail_with` and the other bad ends end it.

mod observe;
mod operation;
mod pattern;
mod request;
mod system;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::{LocalBoxFuture, join_all, select_all, try_join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use wfhost::{Error, Result, Timestamp, Value, agent, json, signal, sleep};

use operation::{Operation, Program};

/// The last byte says which version of a program this module is. The tests write another one there.
static VERSION: [u8; 25] = *b"the version of the probe0";

fn version() -> usize {
    // The optimiser must not know what it is.
    usize::from(std::hint::black_box(&VERSION)[24] - b'0')
}

#[wfhost::workflow]
async fn probe(program: Program) -> Result<Vec<Value>> {
    let mut results = Vec::new();
    let mut operations: std::collections::VecDeque<_> = program.r#do.into();
    while let Some(operation) = operations.pop_front() {
        match operation {
            Operation::ByVersion(mut versions) => {
                let chosen = version().min(versions.len().saturating_sub(1));
                for operation in versions.swap_remove(chosen).into_iter().rev() {
                    operations.push_front(operation);
                }
            }
            Operation::Return => break,
            Operation::MustAgent(prompt) => results.push(json!(agent(prompt).text().await?)),
            Operation::MustChild(asked) => results.push(child(asked).await?),
            Operation::Fail(message) => return Err(Error::failed(message)),
            Operation::FailWith { kind, message, details } => {
                return Err(Error::new(kind, message).with_details(details));
            }
            Operation::AgentOrFail(asked) => results.push(json!(request::ask(*asked).reply().await?)),
            Operation::PatternOrFail(pattern) => results.push(pattern::follow(*pattern).await?),
            operation => results.push(perform(operation).await),
        }
    }
    Ok(results)
}

fn child(asked: operation::Child) -> wfhost::Child {
    let mut child = wfhost::child(asked.module).input(asked.input);
    if let Some(id) = asked.id {
        child = child.id(id);
    }
    if asked.abandon {
        child = child.on_parent_close(wfhost::OnParentClose::Abandon);
    }
    for (name, value) in asked.labels {
        child = child.label(name, value);
    }
    child
}

async fn take_call(name: &str) -> Result<Value> {
    let call = wfhost::call(name).await?;
    let input = call.input.clone();
    match input == json!("no") {
        true => call.refuse("it said no")?,
        false => call.reply(json!({ "got": &input }))?,
    }
    Ok(input)
}

fn perform(operation: Operation) -> LocalBoxFuture<'static, Value> {
    async move {
        match operation {
            Operation::Agent(prompt) => value(agent(prompt).text().await),
            Operation::AgentOf { provider, prompt } => value(agent(prompt).provider(provider).text().await),
            Operation::AgentWith(request) => value(request::ask(*request).reply().await),
            Operation::AgentSeries { count, bytes } => value(agent_series(count, bytes).await),
            Operation::AgentMany { count, bytes } => value(agent_many(count, bytes).await),
            Operation::Sleep(length) => value(sleep(millis(length)).await),
            Operation::SleepUntil(at) => value(wfhost::sleep_until(Timestamp::from_millis(at)).await),
            Operation::Wait { name, timeout_ms } => value(wait(&name, timeout_ms).await),
            Operation::Call(name) => value(take_call(&name).await),
            Operation::WaitMany { name, count } => {
                let waits = (0..count).map(|_| wait(&name, None));
                json!(join_all(waits).await.into_iter().map(value).collect::<Vec<_>>())
            }
            Operation::Child(asked) => value(child(asked).await),
            Operation::Ask { prompt, choices, schema, details, timeout_ms } => {
                let mut ask = wfhost::ask(prompt).choices(choices);
                if let Some(schema) = schema {
                    ask = ask.schema(schema);
                }
                if let Some(details) = details {
                    ask = ask.details(details);
                }
                if let Some(length) = timeout_ms {
                    ask = ask.timeout(millis(length));
                }
                value(ask.await)
            }
            Operation::Send { run, name, payload } => value(wfhost::send(&run, &name, payload)),

            Operation::Parallel(operations) => json!(join_all(operations.into_iter().map(perform)).await),
            Operation::Unordered(operations) => {
                let numbered = operations.into_iter().enumerate();
                let running: FuturesUnordered<_> = numbered
                    .map(|(index, operation)| perform(operation).map(move |result| (index, result)))
                    .collect();
                json!(running.collect::<Vec<_>>().await)
            }
            Operation::Race(operations) => {
                let (result, index, _losers) = select_all(operations.into_iter().map(perform)).await;
                json!([index, result])
            }
            Operation::Timeout { millis: length, operation } => {
                wfhost::timeout(millis(length), perform(*operation)).await.unwrap_or_else(failed)
            }
            Operation::Hold(operation) => {
                let mut held = perform(*operation);
                let _ = (&mut held).now_or_never();
                std::mem::forget(held);
                Value::Null
            }
            Operation::StartThenDrop(operation) => {
                // One poll, which is what starts it.
                perform(*operation).now_or_never().unwrap_or_default()
            }
            Operation::Meanwhile { sleep: length, operation } => {
                let sleeping = sleep(millis(length)).start();
                let result = perform(*operation).await;
                match sleeping.await {
                    Ok(()) => result,
                    Err(error) => failed(error),
                }
            }
            Operation::Repeat { times, operation } => {
                let mut last = Value::Null;
                for _ in 0..times {
                    last = perform((*operation).clone()).await;
                }
                last
            }
            Operation::Each(operations) => {
                let mut results = Vec::new();
                for operation in operations {
                    results.push(perform(operation).await);
                }
                json!(results)
            }
            Operation::AgentAbout(operation) => {
                let prompt = match perform(*operation).await {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                value(agent(prompt).text().await)
            }
            Operation::Pattern(pattern) => value(pattern::follow(*pattern).await),

            Operation::Now => json!(wfhost::now()),
            Operation::Random => json!(format!("{:016x}", wfhost::random())),
            Operation::RandomMany(count) => {
                let last = (0..count).fold(0, |_, _| wfhost::random());
                json!(format!("{last:016x}"))
            }
            Operation::Info => json!(wfhost::info().run),
            Operation::InfoAll => info(),
            Operation::Budget => {
                let budget = wfhost::budget();
                json!({ "total": budget.total, "spent": budget.spent })
            }
            Operation::Patched(id) => json!(wfhost::patched(&id)),
            Operation::Cancelled => json!(wfhost::cancelled()),
            Operation::Phase(title) => {
                wfhost::phase(title);
                Value::Null
            }
            Operation::Publish { key, value: published } => value(wfhost::publish(&key, published)),
            Operation::Post { name, payload } => value(wfhost::post(&name, payload)),
            Operation::ContinueAsNew(input) => wfhost::continue_as_new(input),

            Operation::Log(line) => {
                wfhost::info!("{line}");
                Value::Null
            }
            Operation::LogWith { level, message, note } => {
                let level = level.parse().unwrap_or(wfhost::log::Level::Info);
                wfhost::log::log!(level, note = note.as_str(); "{message}");
                Value::Null
            }
            Operation::Print(line) => {
                println!("{line}");
                Value::Null
            }
            Operation::PrintError(line) => {
                eprintln!("{line}");
                Value::Null
            }

            Operation::Observe => value(agent(observe::all()).text().await),
            Operation::HashOrder => json!(observe::hash_order()),
            Operation::NanBits => json!(observe::nan_bits()),
            Operation::Addresses => json!(observe::addresses()),
            Operation::StdTime => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                json!(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Operation::StdSleep(length) => {
                std::thread::sleep(millis(length));
                Value::Null
            }

            Operation::File(operation) => system::file(operation),
            Operation::Environment => system::environment(),
            Operation::Input => system::input(),
            Operation::MeasuredSleep(length) => system::measured_sleep(millis(length)),
            Operation::PollTimers(lengths) => system::poll(&lengths),
            Operation::RandomBytes(bytes) => system::random(bytes),
            Operation::Exit(code) => std::process::exit(code),
            Operation::LogBytes(bytes) => {
                wfhost::info!("{}", "x".repeat(bytes));
                Value::Null
            }
            Operation::StartMany(count) => {
                let day = Duration::from_secs(24 * 3600);
                let sleeps: Vec<_> = (0..count).map(|_| sleep(day).start()).collect();
                json!(sleeps.len())
            }
            Operation::HashMap(entries) => json!(observe::hash_map(entries)),
            Operation::Floats(rounds) => json!(observe::floats(rounds)),

            // They end the program, not an operation within another one.
            Operation::ByVersion(_)
            | Operation::Return
            | Operation::MustAgent(_)
            | Operation::MustChild(_)
            | Operation::AgentOrFail(_)
            | Operation::PatternOrFail(_)
            | Operation::Fail(_)
            | Operation::FailWith { .. } => Value::Null,
            Operation::Panic(message) => panic!("{message}"),
            Operation::Trap => trap(),
            Operation::Spin => loop {
                std::hint::black_box(0);
            },
            Operation::Allocate(bytes) => json!(std::hint::black_box(vec![1u8; bytes]).len()),
            Operation::Recurse => json!(recurse(1)),
            Operation::Depth(depth) => json!(descend(depth)),
            Operation::Deadlock => std::future::pending().await,
        }
    }
    .boxed_local()
}

#[derive(Serialize)]
struct Failed {
    failure: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
}

fn value<T: Serialize>(result: Result<T>) -> Value {
    match result {
        Ok(value) => json!(value),
        Err(error) => failed(error),
    }
}

fn failed(error: Error) -> Value {
    let failure = error.into_failure();
    json!(Failed {
        failure: failure.kind.to_string(),
        message: failure.message,
        details: failure.details,
        attempts: Some(failure.attempts).filter(|&attempts| attempts > 0),
    })
}

fn info() -> Value {
    let info = wfhost::info();
    json!({
        "run": info.run, "workflow": info.workflow, "digest": info.digest, "parent": info.parent,
        "started": info.started, "attempt": info.attempt, "labels": info.labels,
    })
}

async fn agent_series(count: u64, bytes: usize) -> Result<u64> {
    let prompt = "x".repeat(bytes);
    for _ in 0..count {
        agent(prompt.as_str()).text().await?;
    }
    Ok(count)
}

async fn agent_many(count: u64, bytes: usize) -> Result<u64> {
    let prompt = "x".repeat(bytes);
    let calls = (0..count).map(|_| agent(prompt.as_str()).text());
    try_join_all(calls).await?;
    Ok(count)
}

async fn wait(name: &str, timeout_ms: Option<u64>) -> Result<Value> {
    match timeout_ms {
        Some(length) => signal(name).timeout(millis(length)).await,
        None => signal(name).await,
    }
}

fn millis(length: u64) -> Duration {
    Duration::from_millis(length)
}

fn trap() -> Value {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    unreachable!("only WebAssembly traps without a word");
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(depth + 1) + depth)
}

/// Not by a tail call, and without anything in memory.
#[inline(never)]
fn descend(depth: u64) -> u64 {
    if depth == 0 { 1 } else { descend(depth - 1).wrapping_mul(3) ^ depth }
}
