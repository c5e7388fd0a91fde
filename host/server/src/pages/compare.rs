//! Two runs concurrently.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use wfhost_core::Json;
use wfhost_view::RunView;

use super::run::path;
use super::text::{dollars, pretty};
use super::{Fault, Shell, Visitor, need, page};
use crate::api::find;
use crate::api::run::differences;
use crate::app::App;
use crate::auth::Scope;

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui/compare", get(show))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    a: String,
    b: String,
}

/// What one of them is.
struct Side {
    run: RunView,
    path: String,
    cost: String,
}

/// Where they differ.
struct Row {
    what: String,
    a: String,
    b: String,
}

#[derive(Template)]
#[template(path = "compare.html")]
struct ComparePage {
    shell: Shell,
    a: String,
    b: String,
    sides: Vec<Side>,
    same: u64,
    rows: Vec<Row>,
}

async fn show(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(Asked { a, b }): Query<Asked>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsRead, Scope::PayloadsRead])?;
    let shell = Shell::new(&app, &who, "Compare", "compare").await?;
    let (a, b) = (a.trim().to_owned(), b.trim().to_owned());
    if a.is_empty() || b.is_empty() {
        return page(&ComparePage { shell, a, b, sides: Vec::new(), same: 0, rows: Vec::new() });
    }
    let mut sides = Vec::new();
    for run in [&a, &b] {
        let view = RunView::of(&find(&app, run).await?);
        sides.push(Side { path: path(run), cost: dollars(view.spent.cost_micros), run: view });
    }
    let found = differences(&app, &a, &b).await?;
    let text = |value: &Option<Json>| match value {
        Some(value) => pretty(value.as_str()),
        None => "(nothing)".to_owned(),
    };
    let rows = found.differences.iter();
    let rows = rows.map(|d| Row { what: d.what.clone(), a: text(&d.a), b: text(&d.b) }).collect();
    page(&ComparePage { shell, a, b, sides, same: found.same_steps, rows })
}
