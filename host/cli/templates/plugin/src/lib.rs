//! An agent as a component: it answers calls of workflows.

use serde::{Deserialize, Serialize};
use wfhost::plugin::{Call, Result, http, line};

/// What a call may set.
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
