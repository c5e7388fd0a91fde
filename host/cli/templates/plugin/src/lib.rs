//! A plugin: an agent that answers calls from workflows.

use serde::{Deserialize, Serialize};
use wfhost::plugin::{Call, Result, http, line};

/// The options of a call.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    url: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { url: "https://example.com/".to_owned() }
    }
}

#[derive(Serialize)]
struct Answer {
    asked: String,
    bytes: usize,
}

#[wfhost::agent]
fn answer(call: Call) -> Result<Answer> {
    let Options { url } = call.options_as()?;
    line(format!("reads {url}"));
    let page = http::get(url).send()?.successful()?.text()?;
    Ok(Answer { asked: call.prompt, bytes: page.len() })
}
