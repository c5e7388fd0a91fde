//! Questions of runs as elicitations: forms that the client shows to its user.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wfhost_core::Json;
use wfhost_view::{Document, document, raw};

use super::rpc::{Client, RpcError};
use super::tools::{refused, said, said_with, text};
use super::{Answered, Arguments, Asked, Mcp, Params, outline, part};
use crate::auth::Scope::{PayloadsRead, PeopleAnswer, RunsRead};

/// Rounds of a run that are followed when the time to wait is over: one that continues again and again must not hold
/// its client for ever.
const ROUNDS_AFTER_TIME: usize = 10;
/// What is between a run and a step in the name of an elicitation.
const BETWEEN: char = '/';

/// An open question.
pub(super) struct Question {
    /// What is looked at.
    view: Value,
    /// What is shown.
    exact: Document,
}

impl Question {
    fn read(text: &RawValue) -> Self {
        Self { view: outline(text), exact: serde_json::from_str(text.get()).unwrap_or_default() }
    }
}

/// Questions as the API lists them.
#[derive(Default, Deserialize)]
struct Listed {
    questions: Vec<Box<RawValue>>,
}

/// What the user of a client said to a question.
#[derive(Deserialize)]
pub(super) struct Response {
    action: Option<String>,
    /// What was filled into the form.
    content: Option<Box<RawValue>>,
}

/// The same for each question by its name.
pub(super) type Responses = BTreeMap<String, Response>;

/// What a request has of them.
pub(super) fn responses(params: &Params) -> Result<Option<Responses>, RpcError> {
    let Some(given) = &params.responses else { return Ok(None) };
    let read = serde_json::from_str(given.get());
    read.map_err(|error| RpcError::params(format!("`inputResponses` has to contain the responses: {error}")))
}

/// A question, as the client may put it to its user.
pub(super) fn elicitation(Question { view: question, exact }: &Question) -> (String, Value) {
    let run = question["run"].as_str().unwrap_or_default();
    let step = &question["step"];
    let name = format!("{run}{BETWEEN}{step}");
    let prompt = question["prompt"].as_str().unwrap_or_default();
    let workflow = question["workflow"].as_str().unwrap_or_default();
    let mut message = format!("{prompt}\n\n({workflow}, {run}, step {step})");
    if let Some(details) =
        exact.get("details").map(|details| details.get()).filter(|details| *details != "null")
    {
        message.push_str(&format!("\n\n{details}"));
    }
    let request = json!({
        "method": "elicitation/create",
        "params": { "mode": "form", "message": message, "requestedSchema": form(question) },
    });
    (name, request)
}

/// Whether an object of this schema is a form: flat, of simple values.
fn is_flat(schema: &Value) -> bool {
    let simple = |property: &Value| {
        matches!(property["type"].as_str(), Some("string" | "number" | "integer" | "boolean"))
    };
    schema["type"] == "object"
        && schema["properties"]
            .as_object()
            .is_some_and(|properties| !properties.is_empty() && properties.values().all(simple))
}

/// The form of a question. What is not simple is asked for as JSON.
fn form(question: &Value) -> Value {
    let one = |answer: Value| json!({ "type": "object", "properties": { "answer": answer }, "required": ["answer"] });
    let choices = question["choices"].as_array().filter(|choices| !choices.is_empty());
    if let Some(choices) = choices {
        return one(json!({ "type": "string", "enum": choices }));
    }
    let schema = &question["schema"];
    match schema["type"].as_str() {
        _ if is_flat(schema) => {
            let mut form = json!({ "type": "object", "properties": schema["properties"] });
            if schema["required"].is_array() {
                form["required"] = schema["required"].clone();
            }
            form
        }
        Some(kind @ ("boolean" | "number" | "integer" | "string")) => one(json!({ "type": kind })),
        _ if schema.is_null() => one(json!({ "type": "string" })),
        _ => one(json!({ "type": "string", "description": format!("JSON that matches {schema}") })),
    }
}

/// The answer that a filled-in form stands for.
fn answer(question: &Value, content: Option<&RawValue>) -> Result<Json, String> {
    let content = content.map_or("null", RawValue::get);
    let unreadable = |error: serde_json::Error| format!("the answer is not valid JSON: {error}");
    let schema = &question["schema"];
    let has_choices = question["choices"].as_array().is_some_and(|choices| !choices.is_empty());
    if !has_choices && is_flat(schema) {
        return Json::parse(content.to_owned()).map_err(unreadable);
    }
    let mut filled = serde_json::from_str::<Document>(content).unwrap_or_default();
    let answer = filled.remove("answer").ok_or("the form has no `answer`")?;
    let answer = Json::parse(answer.get().to_owned()).map_err(unreadable)?;
    let simple = matches!(schema["type"].as_str(), Some("boolean" | "number" | "integer" | "string"));
    match serde_json::from_str::<String>(answer.as_str()) {
        Ok(text) if !has_choices && !simple && !schema.is_null() => Json::parse(text).map_err(unreadable),
        _ => Ok(answer),
    }
}

/// Whether a run has ended.
fn has_ended(run: &Value) -> bool {
    matches!(run["state"].as_str(), Some("completed" | "failed" | "cancelled"))
}

impl Mcp {
    /// The open questions of a run, if this client may see and answer them.
    pub(super) async fn questions(&self, run: &str) -> Vec<Question> {
        match self.may(&[PeopleAnswer]) {
            true => self.seen_questions(run).await,
            false => Vec::new(),
        }
    }

    /// The open questions of a run, if this client may see them.
    async fn seen_questions(&self, run: &str) -> Vec<Question> {
        if !self.may(&[PayloadsRead, RunsRead]) {
            return Vec::new();
        }
        let asked = Asked::get("/questions".to_owned()).with("run", Some(run.to_owned()));
        let Answered { text, .. } = self.ask(asked).await;
        let listed = serde_json::from_str::<Listed>(text.get()).unwrap_or_default();
        listed.questions.iter().map(|question| Question::read(question)).collect()
    }

    /// Takes what the user of the client said to questions of a run. Gives what the API refused.
    pub(super) async fn take_answers(&self, run: &str, responses: &Responses) -> Result<(), Value> {
        let bad = |why: String| json!({ "code": "WF0812", "title": why, "hints": [], "details": [], "status": 422 });
        let open = self.questions(run).await;
        for (name, response) in responses {
            let step = name.rsplit_once(BETWEEN).filter(|(known, _)| *known == run);
            let step = step.and_then(|(_, step)| step.parse::<u64>().ok());
            let step = step.ok_or_else(|| bad(format!("{run} has no question `{name}`")))?;
            // One that was answered in the meantime needs nothing more.
            let question = open.iter().find(|question| question.view["step"] == step);
            let Some(Question { view: question, .. }) = question else { continue };
            let path = format!("/runs/{}/steps/{step}", part(run));
            let asked = match response.action.as_deref() {
                Some("accept") => {
                    let answer = answer(question, response.content.as_deref()).map_err(bad)?;
                    Asked::post(format!("{path}/answer"), &document! { "answer": answer })
                }
                Some("decline") => Asked::post(format!("{path}/deny"), &json!({})),
                // The user dismissed it: the question stays open.
                Some("cancel") => continue,
                _ => return Err(bad(format!("`{name}` has no `action`: accept, decline or cancel"))),
            };
            let Answered { status, body, .. } = self.ask(asked).await;
            // Somebody else was quicker.
            if !status.is_success() && body["code"] != "WF0507" {
                return Err(body);
            }
        }
        Ok(())
    }

    /// How a question is answered by a client that cannot put it to its user: by whom, and where.
    fn ways_to_answer(&self, question: &Value) -> String {
        let (run, step) = (question["run"].as_str().unwrap_or_default(), &question["step"]);
        let mut ways = Vec::new();
        if self.options.answers && self.may(&[PeopleAnswer]) {
            ways.push(format!(
                "call the tool run_answer with {{\"run\": \"{run}\", \"step\": {step}, \"answer\": ...}}"
            ));
        }
        // Over standard input and output there are no pages.
        if !self.app.url().is_empty() {
            ways.push(format!("a person answers at {}/ui/runs/{}/steps/{step}", self.app.url(), part(run)));
        }
        ways.push(format!("a person runs `wfhost answer {run} {step} -i JSON`"));
        ways.join("; or ")
    }

    /// A run, and the questions that keep it, each with how it is answered.
    pub(super) async fn said_with_questions(&self, Answered { text, body: run, .. }: &Answered) -> Document {
        let questions = match (run["id"].as_str(), has_ended(run)) {
            (Some(id), false) => self.seen_questions(id).await,
            _ => Vec::new(),
        };
        if questions.is_empty() {
            return said(text);
        }
        let mut texts = Vec::new();
        let mut views = Vec::new();
        for Question { view: question, mut exact } in questions {
            let ways = self.ways_to_answer(&question);
            let prompt = question["prompt"].as_str().unwrap_or_default();
            let choices = question["choices"].as_array().filter(|choices| !choices.is_empty());
            let choices = choices.map(|choices| format!(" One of {}.", Value::Array(choices.clone())));
            texts.push(format!(
                "The run asks a person (step {}): {prompt}{} To answer: {ways}. Then call run_wait again.",
                question["step"],
                choices.unwrap_or_default()
            ));
            exact.insert("answer_by".to_owned(), raw(&ways));
            views.push(exact);
        }
        let mut run = serde_json::from_str::<Document>(text.get()).unwrap_or_default();
        run.insert("questions".to_owned(), raw(&views));
        said_with(&raw(&run), texts)
    }

    /// Waits for the end of a run. If it asks something, the client is to ask its user; one that cannot is told
    /// the question.
    pub(super) async fn wait_and_ask(
        &self,
        client: &Client,
        params: &Params,
        arguments: &Arguments,
    ) -> Result<Document, RpcError> {
        let mut run = self.latest(&text(arguments, "run").unwrap_or_default()).await;
        let seconds = arguments.get("seconds").and_then(|seconds| seconds.value().as_u64());
        let seconds = seconds.unwrap_or(30).min(60);
        let responses = responses(params)?;
        if let Some(responses) = &responses
            && let Err(problem) = self.take_answers(&run, responses).await
        {
            return Ok(refused(&problem));
        }
        // A question that the user dismissed is not repeated immediately.
        let put_aside = |name: &String| {
            let said = responses.as_ref().and_then(|responses| responses.get(name)?.action.as_deref());
            said == Some("cancel")
        };
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(seconds);
        let mut known: Option<u64> = None;
        let mut seen: Option<Vec<Value>> = None;
        let mut rounds = 0;
        loop {
            let questions = match client.elicits() {
                true => self.questions(&run).await,
                false => Vec::new(),
            };
            let asked: Map<_, _> =
                questions.iter().map(elicitation).filter(|(name, _)| !put_aside(name)).collect();
            if !asked.is_empty() {
                return Ok(
                    document! { "resultType": "input_required", "inputRequests": asked, "requestState": run },
                );
            }
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let asked = Asked::get(format!("/runs/{}", part(&run)));
            let asked = match known {
                Some(entries) => asked
                    .with("wait", Some(format!("{}ms", left.as_millis())))
                    .with("until", Some("change".to_owned()))
                    .with("after", Some(entries.to_string())),
                None => asked,
            };
            let answered = self.ask(asked).await;
            let Answered { status, text, body } = &answered;
            if !status.is_success() {
                return Ok(refused(body));
            }
            if has_ended(body) {
                return Ok(said(text));
            }
            // A server that ends waits for nothing: the client asks the next one.
            let drains = *self.app.draining().borrow();
            if body["state"] == "continued" {
                rounds += usize::from(left.is_zero());
                let latest = self.latest(&run).await;
                // The latest may have been deleted.
                if drains || rounds > ROUNDS_AFTER_TIME || latest == run {
                    // It says where to ask on.
                    return Ok(said(text));
                }
                (run, known) = (latest, None);
                continue;
            }
            // A question that comes up ends the wait; with one that was open before, somebody waits for the answer.
            let has_new = match client.elicits() {
                true => false,
                false => {
                    let open = self.seen_questions(&run).await;
                    let steps: Vec<_> = open.iter().map(|question| question.view["step"].clone()).collect();
                    let before = seen.get_or_insert_with(|| steps.clone());
                    steps.iter().any(|step| !before.contains(step))
                }
            };
            if has_new || left.is_zero() || drains {
                return Ok(self.said_with_questions(&answered).await);
            }
            known = body["entries"].as_u64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(schema: Value, choices: Value) -> Value {
        json!({ "run": "r", "step": 3, "workflow": "w", "prompt": "May I?", "schema": schema, "choices": choices })
    }

    #[test]
    fn forms_are_flat_and_give_the_answer_that_the_question_wants() {
        let filled = |question: &Value, content: Value| {
            answer(question, Some(&raw(&content))).map(|answer| answer.value())
        };
        let choice = question(Value::Null, json!(["yes", "no"]));
        assert_eq!(form(&choice)["properties"]["answer"]["enum"], json!(["yes", "no"]));
        assert_eq!(filled(&choice, json!({ "answer": "yes" })), Ok(json!("yes")));
        let number = question(json!({ "type": "integer" }), json!([]));
        assert_eq!(filled(&number, json!({ "answer": 7 })), Ok(json!(7)));
        let free = question(Value::Null, json!([]));
        assert_eq!(filled(&free, json!({ "answer": "7" })), Ok(json!("7")));
        let flat =
            json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
        let flat = question(flat, json!([]));
        assert_eq!(form(&flat)["required"], json!(["n"]));
        assert_eq!(filled(&flat, json!({ "n": 1 })), Ok(json!({ "n": 1 })));
        let nested = question(json!({ "type": "array" }), json!([]));
        assert_eq!(form(&nested)["properties"]["answer"]["type"], "string");
        assert_eq!(filled(&nested, json!({ "answer": "[1]" })), Ok(json!([1])));
        assert!(filled(&nested, json!({ "answer": "[" })).is_err());
        assert!(filled(&free, json!({})).is_err());
        assert_eq!(elicitation(&Question::read(&raw(&free))).0, "r/3");
    }
}
