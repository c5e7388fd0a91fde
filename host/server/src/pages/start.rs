//! A form that begins a run.

use askama::Template;
use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use wfhost_view::Trouble;

use super::run::path;
use super::{Fault, Shell, Visitor, need, page, shown, then};
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
    input: String,
    labels: String,
    key: String,
}

#[derive(Template)]
#[template(path = "start.html")]
struct StartPage {
    shell: Shell,
    workflows: Vec<String>,
    filled: Filled,
    error: Option<(String, Vec<String>)>,
}

async fn form(
    app: &App,
    who: &Identity,
    filled: Filled,
    error: Option<(String, Vec<String>)>,
) -> Result<StartPage, Fault> {
    let modules = app.read(async |store| store.modules().await).await?;
    let mut workflows: Vec<_> = modules.into_iter().map(|module| module.name).collect();
    workflows.sort();
    workflows.dedup();
    Ok(StartPage { shell: Shell::new(app, who, "Start a run", "start").await?, workflows, filled, error })
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
fn asked(filled: &Filled) -> Result<StartAsked, Problem> {
    let input = match filled.input.trim() {
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
    Form(filled): Form<Filled>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsStart])?;
    let begun = match asked(&filled) {
        Ok(asked) => begin(&app, &who, asked, None).await,
        Err(problem) => Err(problem),
    };
    match begun {
        Ok(begun) => Ok(then(&path(begun.run.as_str()), if begun.is_new { "started" } else { "known" })),
        Err(problem) if problem.status().is_client_error() && problem.status() != StatusCode::FORBIDDEN => {
            let Trouble { message, details, hints, .. } = problem.trouble().clone();
            let page = form(&app, &who, filled, Some((message, [details, hints].concat()))).await?;
            shown(problem.status(), &page)
        }
        Err(problem) => Err(problem.into()),
    }
}
