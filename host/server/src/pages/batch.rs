//! Acts on many runs: what a filter of the list finds, first shown, then done.

use askama::Template;
use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use wfhost_core::Json;

use super::runs::{Filter, Row, rows_of};
use super::text::address;
use super::{Fault, Shell, Visitor, json_of, page, shown};
use crate::api::runs::{self, Act, BatchAsked, Done, FirstSignal};
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui/batch", get(preview).post(act))
}

/// Runs that the preview shows; it counts all.
const SHOWN: usize = 100;

/// What can be done with many runs: the word in forms, what its button says, and whether it cannot be
/// taken back.
const ACTS: [(Act, &str, &str, bool); 7] = [
    (Act::Pause, "pause", "Pause", false),
    (Act::Resume, "resume", "Resume", false),
    (Act::Retry, "retry", "Retry", false),
    (Act::Signal, "signal", "Signal", false),
    (Act::Cancel, "cancel", "Cancel", true),
    (Act::Terminate, "terminate", "Terminate", true),
    (Act::Delete, "delete", "Delete", true),
];

/// The acts for whoever looks at the list, as words and what they are called.
pub(super) fn choices(app: &App, who: &Identity) -> Vec<(&'static str, &'static str)> {
    if !who.may(Scope::RunsControl) || app.options().read_only {
        return Vec::new();
    }
    let may = |act: Act| act != Act::Signal || who.may(Scope::RunsSignal);
    ACTS.iter().filter(|(act, ..)| may(*act)).map(|(_, word, text, _)| (*word, *text)).collect()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Filled {
    act: String,
    #[serde(flatten)]
    filter: Filter,
    expected: String,
    reason: String,
    name: String,
    payload: String,
}

impl Filled {
    fn chosen(&self) -> Result<&'static (Act, &'static str, &'static str, bool), Problem> {
        let known = ACTS.iter().find(|(_, word, ..)| *word == self.act);
        known.ok_or_else(|| Problem::bad(format!("`{}` is no act", self.act)))
    }

    /// What it asks for; done only with the number of the preview.
    fn asked(&self, act: Act, dry_run: bool) -> Result<BatchAsked, Problem> {
        let reason = Some(self.reason.trim().to_owned()).filter(|reason| !reason.is_empty());
        let signal = match (act, dry_run) {
            (Act::Signal, false) => Some(FirstSignal {
                name: self.name.trim().to_owned(),
                payload: Some(match self.payload.trim() {
                    "" => Json::null(),
                    text => json_of("the payload", text)?,
                }),
                id: None,
            }),
            _ => None,
        };
        let expected = self.expected.parse().ok();
        Ok(BatchAsked { filter: self.filter.wanted(), act, dry_run: Some(dry_run), expected, reason, signal })
    }
}

#[derive(Template)]
#[template(path = "batch.html")]
struct BatchPage {
    shell: Shell,
    /// Of the act: its word, what its button says, whether it is for good.
    act: &'static str,
    called: &'static str,
    is_final: bool,
    /// The filter, as the fields of a form.
    fields: Vec<(&'static str, String)>,
    /// The list with this filter.
    back: String,
    count: u64,
    rows: Vec<Row>,
    /// Whether there are others than those of the rows.
    more: bool,
}

/// Shows on which runs it would be done. Nothing happens.
async fn preview(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(filled): Query<Filled>,
) -> Result<Response, Fault> {
    let (act, word, called, is_final) = filled.chosen()?;
    let found = runs::act_on(&app, &who, &filled.asked(*act, true)?).await?;
    let limit = u32::try_from(SHOWN).ok();
    let (infos, _) = runs::page(&app, &filled.filter.wanted(), &runs::Page { cursor: None, limit }).await?;
    page(&BatchPage {
        shell: Shell::new(&app, &who, format!("{called} {} runs", found.count), "runs").await?,
        act: word,
        called,
        is_final: *is_final,
        fields: filled.filter.fields(),
        back: filled.filter.address(&filled.filter.state, ""),
        count: found.count,
        more: found.count > SHOWN as u64,
        rows: rows_of(&app, &who, infos).await?,
    })
}

#[derive(Template)]
#[template(path = "batched.html")]
struct BatchedPage {
    shell: Shell,
    called: &'static str,
    done: usize,
    /// Runs with which it could not be done.
    failed: Vec<(Done, String)>,
    back: String,
    audit: bool,
}

async fn act(
    State(app): State<App>,
    Visitor(who): Visitor,
    Form(filled): Form<Filled>,
) -> Result<Response, Fault> {
    let (act, _, called, _) = filled.chosen()?;
    let found = runs::act_on(&app, &who, &filled.asked(*act, false)?).await?;
    let all = found.runs.len();
    let failed: Vec<_> = found.runs.into_iter().filter(|done| done.error.is_some()).collect();
    let link = |done: Done| {
        let href = super::run::path(&done.run);
        (done, href)
    };
    shown(
        StatusCode::OK,
        &BatchedPage {
            shell: Shell::new(&app, &who, "Bulk action", "runs").await?,
            called,
            done: all - failed.len(),
            failed: failed.into_iter().map(link).collect(),
            back: address("/ui", &[("state", ""), ("workflow", &filled.filter.workflow)]),
            audit: who.may(Scope::Admin),
        },
    )
}
