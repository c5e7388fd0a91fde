//! A program that runs workflows itself: `embed MODULE.wasm DATABASE INPUT`.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost::agents::{Call, CallFailure, CallOutput, Provider, Providers};
use wfhost::core::{FailureKind, Json, Reply};
use wfhost::store::{SqliteOptions, SqliteStore};
use wfhost::{Ending, Host, HostOptions, StartOptions};

/// An agent of the program's own: it answers calls of workflows.
#[derive(Debug)]
struct Shouting;

impl Provider for Shouting {
    fn name(&self) -> &str {
        "shouting"
    }

    /// Called once for each attempt. What it returns is in the journal before the workflow sees it.
    fn call(&self, call: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        async move {
            if call.request.prompt.is_empty() {
                // `Unavailable` would be tried again.
                return Err(CallFailure::new(FailureKind::Rejected, "there is nothing to shout"));
            }
            let text = call.request.prompt.to_uppercase();
            Ok(Reply::new(self.name(), Json::from(serde_json::Value::from(text))))
        }
        .boxed()
    }
}

/// Runs a workflow to its end, and gives its result.
pub async fn run(module: &Path, database: &Path, input: &str) -> Result<String, Box<dyn std::error::Error>> {
    let store = SqliteStore::open(database, &SqliteOptions::default())?;
    let mut providers = Providers::builtin();
    providers.set_default(Arc::new(Shouting));
    let host = Host::new(HostOptions { providers, ..HostOptions::new(Arc::new(store)) })?;

    let name = module.file_stem().unwrap_or_default().to_string_lossy();
    let module = host.add_module(&name, &std::fs::read(module)?).await?;
    // The same key gives the same run, however often this program is started.
    let key = Some("today".to_owned());
    let options = StartOptions { input: Json::parse(input.to_owned())?, key, ..StartOptions::default() };
    let mut handle = host.start(&module, options, None).await?;

    let ending = handle.ending().await?;
    // Leaves what else it advances to others; nothing is lost.
    host.close(None).await;
    match ending {
        Ending::Finished(Ok(result)) => Ok(result.as_str().to_owned()),
        Ending::Finished(Err(failure)) => Err(failure.to_string().into()),
        other => Err(format!("the run goes on elsewhere, or later: {other:?}").into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Components are compiled in a process of their own, with limits.
    wfhost::engine::compile_in_processes();
    let args: Vec<String> = std::env::args().collect();
    let [_, module, database, input] = args.as_slice() else {
        return Err("usage: embed MODULE.wasm DATABASE INPUT".into());
    };
    println!("{}", run(Path::new(module), Path::new(database), input).await?);
    Ok(())
}
