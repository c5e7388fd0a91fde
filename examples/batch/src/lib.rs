//! A parent over many children: each item is a durable run of its own, some at a time. The child is
//! this very module.

use serde::{Deserialize, Serialize};
use wfhost::{Result, agent, child, parallel_map, publish};

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Batch {
        items: Vec<String>,
        /// Children at the same time.
        #[serde(default = "some")]
        at_once: usize,
    },
    /// What a child is given.
    Item { item: String },
}

fn some() -> usize {
    8
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output {
    Batch { done: Vec<wfhost::Value>, failed: Vec<Failed> },
    Item(String),
}

#[derive(Serialize)]
struct Failed {
    item: String,
    why: String,
}

#[wfhost::workflow]
async fn batch(input: Input) -> Result<Output> {
    let (items, at_once) = match input {
        Input::Item { item } => return work(&item).await.map(Output::Item),
        Input::Batch { items, at_once } => (items, at_once),
    };
    let total = items.len();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let results = parallel_map(items.clone(), at_once, async |item| {
        child("batch").input(wfhost::json!({ "item": item })).label("item", &item).await
    });
    for (item, result) in items.into_iter().zip(results.await) {
        match result {
            Ok(value) => done.push(value),
            Err(error) => failed.push(Failed { item, why: error.to_string() }),
        }
    }
    publish("progress", wfhost::json!({ "done": done.len(), "failed": failed.len(), "of": total }))?;
    Ok(Output::Batch { done, failed })
}

/// The life of one item.
async fn work(item: &str) -> Result<String> {
    let draft = agent(format!("draft {item}")).text().await?;
    agent(format!("check {draft}")).text().await
}
