//! Questions to people.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use wfhost::clock::rfc3339;
use wfhost::store::OpenQuestion;
use wfhost::world::text::command;
use wfhost_core::Json;

use crate::Anything;

/// A question that waits for an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct QuestionView {
    pub asked_at: String,
    /// The answers to choose from; empty if any answer is allowed.
    pub choices: Vec<String>,
    pub deadline: Option<String>,
    #[schema(value_type = Anything)]
    pub details: Option<Json>,
    /// Commands that end it.
    pub next: Vec<String>,
    pub prompt: String,
    pub run: String,
    /// The JSON Schema of the answer.
    #[schema(value_type = Anything)]
    pub schema: Option<Json>,
    pub step: u64,
    pub workflow: String,
}

/// Open questions, oldest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InboxView {
    pub questions: Vec<QuestionView>,
    #[schema(example = "wfhost/inbox/1")]
    pub schema: &'static str,
}

impl InboxView {
    pub fn of(questions: &[OpenQuestion]) -> Self {
        Self { schema: "wfhost/inbox/1", questions: questions.iter().map(QuestionView::of).collect() }
    }
}

impl QuestionView {
    pub fn of(open: &OpenQuestion) -> Self {
        Self {
            asked_at: rfc3339(open.asked_at),
            choices: open.question.choices.clone(),
            deadline: open.deadline.map(rfc3339),
            details: open.question.details.clone(),
            next: answer_commands(open),
            prompt: open.question.prompt.clone(),
            run: open.run.to_string(),
            schema: open.question.schema.clone(),
            step: open.step.0,
            workflow: open.workflow.clone(),
        }
    }
}

/// The commands that end a question.
pub fn answer_commands(open: &OpenQuestion) -> Vec<String> {
    let (run, step) = (&open.run, open.step);
    let answer = match open.question.choices.first() {
        Some(choice) => Json::from(json!(choice)).into_string(),
        None => "JSON".to_owned(),
    };
    let answer = command("answer", run).arg(step).option("-i", answer);
    vec![answer.to_string(), command("deny", run).arg(step).option("--note", "WHY").to_string()]
}
