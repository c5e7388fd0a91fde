//! A form that begins a run.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;

use super::form::{self, Field};
use super::run::path;
use super::{Error, Fault, Form, Shell, Visitor, need, page, shown, then};
use crate::api::runs::{StartAsked, begin};
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui/start", get(show).post(start))
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Filled {
    workflow: String,
    /// As JSON. It goes before the fields.
    input: String,
    labels: String,
    key: String,
    /// The workflow whose fields were shown, if any were.
    of: String,
    /// What was filled into them.
    #[serde(skip)]
    fields: Vec<(String, String)>,
}

impl From<Vec<(String, String)>> for Filled {
    fn from(pairs: Vec<(String, String)>) -> Self {
        let given = |name: &str| {
            pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        Self {
            workflow: given("workflow"),
            input: given("input"),
            labels: given("labels"),
            key: given("key"),
            of: given("of"),
            fields: pairs,
        }
    }
}

/// Fields that are shown; more are put in as JSON.
const FIELDS: usize = 50;

#[derive(Template)]
#[template(path = "start.html")]
struct StartPage {
    shell: Shell,
    workflows: Vec<String>,
    filled: Filled,
    /// Of the input, if the workflow says what it takes.
    fields: Vec<Field>,
    about: Option<String>,
    error: Option<Error>,
}

/// What a workflow says that it takes: a line for people, and fields.
async fn described(app: &App, workflow: &str) -> Result<(Option<String>, Vec<Field>), Problem> {
    let named = workflow.to_owned();
    let info = app.read(async move |store| store.module_named(&named).await).await?;
    let Some(info) = info else { return Ok((None, Vec::new())) };
    let Ok(Some(said)) = app.host().described(info.digest).await? else { return Ok((None, Vec::new())) };
    let fields = said.description.input.as_ref().map(|schema| form::fields_of(schema, "Input"));
    // One that is JSON as a whole is put in as such.
    let fields = fields.filter(|fields| {
        fields.len() <= FIELDS && !matches!(&fields[..], [one] if one.is_raw() && one.name.is_empty())
    });
    Ok((said.description.description.clone(), fields.unwrap_or_default()))
}

async fn form(
    app: &App,
    who: &Identity,
    mut filled: Filled,
    error: Option<Error>,
) -> Result<StartPage, Fault> {
    let modules = app.read(async |store| store.modules().await).await?;
    let mut workflows: Vec<_> = modules.into_iter().map(|module| module.name).collect();
    workflows.sort();
    workflows.dedup();
    if let ([only], "") = (&workflows[..], filled.workflow.as_str()) {
        filled.workflow.clone_from(only);
    }
    let (about, mut fields) = described(app, &filled.workflow).await?;
    if filled.of == filled.workflow && !filled.of.is_empty() {
        fields = form::fill(fields, &filled.fields).1;
    }
    let shell = Shell::new(app, who, "Start a run", "start").await?;
    Ok(StartPage { shell, workflows, filled, fields, about, error })
}

async fn show(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(filled): Query<Filled>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsRead, Scope::RunsStart])?;
    page(&form(&app, &who, filled, None).await?)
}

/// What a form asks for, as the API has it.
async fn asked(app: &App, filled: &Filled) -> Result<StartAsked, Problem> {
    let input = match filled.input.trim() {
        "" if !filled.of.is_empty() && filled.of != filled.workflow => {
            return Err(Problem::unfit(format!(
                "the workflow was changed to `{}`: fill in its fields",
                filled.workflow
            )));
        }
        "" if !filled.of.is_empty() => {
            let (_, fields) = described(app, &filled.workflow).await?;
            form::fill(fields, &filled.fields).0.map_err(Problem::unfit)?
        }
        "" => wfhost_core::Json::null(),
        text => super::json_of("the input", text)?,
    };
    let mut labels = serde_json::Map::new();
    for line in filled.labels.split(['\n', ',']).map(str::trim).filter(|line| !line.is_empty()) {
        let pair = line.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) =
            pair.ok_or_else(|| Problem::unfit(format!("invalid label `{line}`: the form is key=value")))?;
        labels.insert(key.to_owned(), value.into());
    }
    let key = Some(filled.key.trim()).filter(|key| !key.is_empty());
    let asked = json!({ "workflow": filled.workflow, "labels": labels, "key": key });
    let asked = serde_json::from_value::<StartAsked>(asked);
    Ok(asked.map_err(|error| Problem::unfit(error.to_string()))?.with_input(input))
}

async fn start(
    State(app): State<App>,
    Visitor(who): Visitor,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsStart])?;
    let filled = Filled::from(pairs);
    let begun = match asked(&app, &filled).await {
        Ok(asked) => begin(&app, &who, asked, None).await,
        Err(problem) => Err(problem),
    };
    match begun {
        Ok(begun) => Ok(then(&path(begun.run.as_str()), if begun.is_new { "started" } else { "known" })),
        Err(problem) if problem.status().is_client_error() && problem.status() != StatusCode::FORBIDDEN => {
            let page = form(&app, &who, filled, Some(Error::of(&problem))).await?;
            shown(problem.status(), &page)
        }
        Err(problem) => Err(problem.into()),
    }
}
