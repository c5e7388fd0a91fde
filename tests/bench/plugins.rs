//! What a call of a plugin costs, against one of a provider that is built in.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use wfhost::StartOptions;
use wfhost::store::Synchronous;
use wfhost_plugins::{Plugin, PluginConfig};

use crate::place::{Bench, Place, program, steps};
use crate::report::{Reading, Target};

/// Calls one after the other, each in a sandbox of its own.
pub fn plugin_call(place: &Place) -> Vec<Reading> {
    place.runtime.block_on(async {
        let db = place.fresh("wfhost.db");
        let mut config = PluginConfig::new(wfhost_tests::module("puppet"));
        config.cache = Some(place.cache());
        let cache = place.cache();
        let bench = Bench::open(&db, &cache, Synchronous::Normal, |options| {
            options.providers.add(Arc::new(Plugin::new("puppet", config)));
        });
        let bench = bench.await;
        let cold = millis(&bench, "puppet", &steps(1, 8)).await;
        let count = place.many(2_000);
        let (plugin, builtin) = (
            millis(&bench, "puppet", &steps(count, 8)).await / count as f64,
            millis(&bench, "echo", &steps(count, 8)).await / count as f64,
        );
        bench.host.close(None).await;
        drop(bench);
        place.discard(&db);
        vec![
            Reading::new("a call of a plugin, warm", "ms", plugin)
                .beside("the same of `echo`", builtin)
                .target(Target::Under(2.0)),
            Reading::new("the first call of a plugin in a process", "ms", cold),
        ]
    })
}

/// How long a run takes whose calls go to an agent.
async fn millis(bench: &Bench, agent: &str, operations: &Value) -> f64 {
    let mut options: StartOptions = program(operations);
    options.config.agent = Some(agent.to_owned());
    let begin = Instant::now();
    let mut handle = bench.host.start(&bench.probe, options, None).await.expect("a run");
    let ending = handle.ending().await;
    assert!(matches!(ending, Ok(wfhost::Ending::Finished(Ok(_)))), "{ending:?}");
    begin.elapsed().as_secs_f64() * 1e3
}
