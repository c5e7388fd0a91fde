//! Runs as tasks: the id of the task is that of the run, so every server of the database knows it.

use serde_json::{Map, Value, json};
use wfhost_view::{Document, raw};

use super::interact::{elicitation, responses};
use super::rpc::RpcError;
use super::tools::{refused, said};
use super::{Answered, Asked, Mcp, Params, members, part};

/// The extension of the protocol for tasks.
pub(super) const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// How often a client is to look.
const LOOK_MS: u64 = 1_000;

/// What is the same in all that is said of a task.
fn base(run: &Value, status: &str) -> Value {
    json!({
        "taskId": run["id"],
        "status": status,
        "statusMessage": format!("{}: {}", run["state"].as_str().unwrap_or_default(), run["waits"].as_str().unwrap_or_default()),
        "createdAt": run["created_at"],
        "lastUpdatedAt": run["updated_at"],
        "ttlMs": null,
        "pollIntervalMs": LOOK_MS,
    })
}

/// What a client is told that started a run.
pub(super) fn created(run: &Value) -> Value {
    let mut task = base(run, "working");
    task["resultType"] = "task".into();
    task
}

fn id(params: &Map<String, Value>) -> Result<&str, RpcError> {
    let id = params.get("taskId").and_then(Value::as_str);
    id.ok_or_else(|| RpcError::params("`taskId` has to name a task"))
}

impl Mcp {
    /// How a task is. One that continues as another run is that one.
    pub(super) async fn task(&self, params: &Map<String, Value>) -> Result<Document, RpcError> {
        let first = id(params)?;
        let Answered { text, body: run, .. } =
            self.fetch(format!("/runs/{}", part(&self.latest(first).await))).await?;
        let mut task = match run["state"].as_str() {
            Some("completed") => {
                let mut task = members(base(&run, "completed"));
                task.insert("result".to_owned(), raw(&said(&text)));
                task
            }
            Some("cancelled") => members(base(&run, "cancelled")),
            // A tool that failed has a result, too: what failed, and how to fix it.
            Some("failed") => {
                let mut task = members(base(&run, "completed"));
                let title = run["failure"]["message"].as_str().unwrap_or("it failed");
                let mut result =
                    refused(&json!({ "code": run["code"], "title": title, "hints": run["hints"] }));
                result.insert("structuredContent".to_owned(), text);
                task.insert("result".to_owned(), raw(&result));
                task
            }
            _ => {
                let questions = match run["id"].as_str() {
                    Some(run) => self.questions(run).await,
                    None => Vec::new(),
                };
                let status = if questions.is_empty() { "working" } else { "input_required" };
                let mut task = members(base(&run, status));
                if !questions.is_empty() {
                    let asked: Map<_, _> = questions.iter().map(elicitation).collect();
                    task.insert("inputRequests".to_owned(), raw(&asked));
                }
                task
            }
        };
        task.insert("taskId".to_owned(), raw(&first));
        Ok(task)
    }

    /// Takes what the user of the client said to the questions of a task.
    pub(super) async fn update_task(&self, params: &Params) -> Result<Document, RpcError> {
        let first = id(&params.plain)?;
        let Some(responses) = responses(params)? else {
            return Err(RpcError::params("`inputResponses` has to contain the responses"));
        };
        let run = self.fetch(format!("/runs/{}", part(&self.latest(first).await))).await?.body;
        let run = run["id"].as_str().unwrap_or(first);
        match self.take_answers(run, &responses).await {
            Ok(()) => Ok(Document::new()),
            Err(problem) => Err(RpcError::of_problem(axum::http::StatusCode::UNPROCESSABLE_ENTITY, &problem)),
        }
    }

    /// Asks the run to stop.
    pub(super) async fn cancel_task(&self, params: &Map<String, Value>) -> Result<Document, RpcError> {
        let run = id(params)?;
        let asked = Asked::post(
            format!("/runs/{}/cancel", part(run)),
            &json!({ "reason": "its task was cancelled" }),
        );
        let Answered { status, body, .. } = self.ask(asked).await;
        // One that has ended is not cancelled any more, which is no error.
        match status.is_success() || body["code"] == "WF0502" {
            true => Ok(Document::new()),
            false => Err(RpcError::of_problem(status, &body)),
        }
    }
}
