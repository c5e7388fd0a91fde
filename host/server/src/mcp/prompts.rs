//! Prompts: what a model is best told to begin with.

use serde_json::{Value, json};

use super::Params;
use super::rpc::RpcError;
use super::tools::{arguments, text};

pub(super) fn list() -> Value {
    let argument =
        |name: &str, about: &str| json!([{ "name": name, "description": about, "required": true }]);
    json!([
        {
            "name": "debug_run", "title": "Debug a run",
            "description": "Find out why a run is stuck or failed, and how to fix it",
            "arguments": argument("run", "The id of the run"),
        },
        {
            "name": "write_workflow", "title": "Write a workflow",
            "description": "Write a durable workflow for a task, build and test it",
            "arguments": argument("task", "What the workflow should do"),
        },
    ])
}

pub(super) fn get(params: &Params) -> Result<Value, RpcError> {
    let given = arguments(params)?;
    let argument = |name: &str| {
        let given = text(&given, name).filter(|text| !text.is_empty());
        given.ok_or_else(|| RpcError::params(format!("the prompt needs `{name}`")))
    };
    let (about, text) = match params.plain.get("name").and_then(Value::as_str) {
        Some("debug_run") => {
            let run = argument("run")?;
            let text = format!(
                "Find out what is wrong with the run {run} of wfhost.\n\
                 1. `run_why` says what blocks it, and how to unblock it.\n\
                 2. `run_show` with steps shows the step that failed; `run_step` and `run_transcript` its request and its messages.\n\
                 3. `run_replay_check` says whether the program is still compatible with the journal.\n\
                 4. If an answer was bad, `run_fork` as a dry run shows what another answer would lead to.\n\
                 Say the cause in one sentence, then what you propose. Change nothing before I agree."
            );
            ("Find out why a run is stuck or failed", text)
        }
        Some("write_workflow") => {
            let task = argument("task")?;
            let text = format!(
                "Write a workflow for wfhost that does this: {task}\n\
                 * `wfhost new NAME` creates a project with an example; `wfhost build` builds it, `wfhost test` tests it in \
                 simulated worlds, `wfhost check` checks it.\n\
                 * The program is ordinary code. Everything that it does to the world is an SDK call: agents, sleeps, signals, \
                 questions to people, children. These calls are recorded, and replayed from the record after a crash.\n\
                 * Ask a person before anything that cannot be undone.\n\
                 * Add it with `wfhost add`, and start it with `run_start` and a `key`."
            );
            ("Write a durable workflow", text)
        }
        _ => return Err(RpcError::params("there are the prompts debug_run and write_workflow")),
    };
    Ok(json!({
        "description": about, "messages": [{ "role": "user", "content": { "type": "text", "text": text } }],
    }))
}
