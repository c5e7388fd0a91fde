//! Questions of runs, and their answers.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use wfhost::store::OpenQuestion;
use wfhost_core::{RunId, Step, Timestamp};
use wfhost_view::UserError;

use super::form::{self, Field};
use super::text::{Time, pretty};
use super::{Fault, Form, Shell, Visitor, need, page, shown, then};
use crate::api::{people, run_id};
use crate::app::App;
use crate::auth::Scope;
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/ui/inbox", get(list))
        .route("/ui/runs/{run}/steps/{step}/answer", post(answer))
        .route("/ui/runs/{run}/steps/{step}/deny", post(deny))
}

/// Questions on one page.
const MOST: usize = 100;

/// A question with its form.
pub(super) struct Asked {
    pub run: String,
    pub path: String,
    pub step: u64,
    pub workflow: String,
    pub prompt: String,
    pub details: Option<String>,
    pub schema: Option<String>,
    pub asked: Time,
    pub deadline: Option<Time>,
    pub fields: Vec<Field>,
    pub error: Option<String>,
    pub note: String,
}

impl Asked {
    fn of(open: &OpenQuestion, now: Timestamp) -> Self {
        let fields = form::fields(&open.question);
        let raw = fields.iter().any(Field::is_raw);
        Self {
            run: open.run.to_string(),
            path: super::run::path(open.run.as_str()),
            step: open.step.0,
            workflow: open.workflow.clone(),
            prompt: open.question.prompt.clone(),
            details: open.question.details.as_ref().map(|details| pretty(details.as_str())),
            schema: form::schema(&open.question).filter(|_| raw),
            asked: Time::of(open.asked_at, now),
            deadline: open.deadline.map(|at| Time::of(at, now)),
            fields,
            error: None,
            note: String::new(),
        }
    }

    /// What the fields of several forms on one page are told apart by.
    pub fn id(&self) -> String {
        format!("q-{}-{}", self.run, self.step)
    }
}

/// The open questions of a run, or of all, oldest first.
pub(super) async fn asked(app: &App, run: Option<RunId>) -> Result<Vec<Asked>, Fault> {
    let now = app.store().now();
    Ok(people::open(app, run, MOST).await?.iter().map(|open| Asked::of(open, now)).collect())
}

#[derive(Template)]
#[template(path = "inbox.html")]
struct InboxPage {
    shell: Shell,
    questions: Vec<Asked>,
    may_answer: bool,
    /// The page a form leads back to.
    back: &'static str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListAsked {
    said: String,
}

async fn list(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(asked): Query<ListAsked>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsRead, Scope::PayloadsRead])?;
    page(&InboxPage {
        shell: Shell::new(&app, &who, "Inbox", "inbox").await?.live("all").said(Some(&asked.said)),
        questions: self::asked(&app, None).await?,
        may_answer: who.may(Scope::PeopleAnswer) && !app.options().read_only,
        back: "inbox",
    })
}

type Filled = Vec<(String, String)>;

fn given<'a>(filled: &'a Filled, key: &str) -> &'a str {
    filled.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value)
}

/// Where a form leads to.
fn back(filled: &Filled, run: &str) -> String {
    if given(filled, "back") == "inbox" { "/ui/inbox".to_owned() } else { super::run::path(run) }
}

async fn question(app: &App, run: &RunId, step: Step) -> Result<OpenQuestion, Problem> {
    let id = run.clone();
    let found = app.read(async move |store| store.question(&id, step).await).await?;
    found.ok_or_else(|| wfhost::HostError::NoQuestion { run: run.clone(), step: Some(step) }.into())
}

async fn answer(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path((run, step)): Path<(String, u64)>,
    Form(filled): Form<Filled>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::PeopleAnswer])?;
    let (id, step) = (run_id(&run)?, Step(step));
    let open = question(&app, &id, step).await?;
    let (answer, fields) = form::answer(&open.question, &filled);
    let note = Some(given(&filled, "note").trim().to_owned()).filter(|note| !note.is_empty());
    let taken = match answer {
        Ok(answer) => people::end(&app, &who, &id, step, Ok(answer), note.clone()).await,
        Err(fault) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, UserError::usage("WF0506", fault))),
    };
    match taken {
        Ok(run) => Ok(then(&back(&filled, run.as_str()), "answered")),
        // The question stays open, with what was filled in.
        Err(problem) if problem.status() == StatusCode::UNPROCESSABLE_ENTITY => {
            let trouble = problem.error();
            let error = [std::slice::from_ref(&trouble.message), &trouble.details].concat().join("\n");
            let note = note.unwrap_or_default();
            let asked = Asked { fields, error: Some(error), note, ..Asked::of(&open, app.store().now()) };
            shown(
                StatusCode::UNPROCESSABLE_ENTITY,
                &InboxPage {
                    shell: Shell::new(&app, &who, "Answer", "inbox").await?,
                    questions: vec![asked],
                    may_answer: true,
                    back: if given(&filled, "back") == "inbox" { "inbox" } else { "run" },
                },
            )
        }
        Err(problem) => Err(problem.into()),
    }
}

async fn deny(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path((run, step)): Path<(String, u64)>,
    Form(filled): Form<Filled>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::PeopleAnswer])?;
    let (id, step) = (run_id(&run)?, Step(step));
    let note = Some(given(&filled, "note").trim().to_owned()).filter(|note| !note.is_empty());
    let outcome = people::denial(&who.name, note.as_deref());
    let run = people::end(&app, &who, &id, step, outcome, note).await?;
    Ok(then(&back(&filled, run.as_str()), "denied"))
}
