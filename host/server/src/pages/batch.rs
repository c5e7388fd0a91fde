//! Acts on many runs: what a filter of the list finds, first shown, then done.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use wfhost::clock;
use wfhost_core::{Json, Timestamp, counted};

use super::runs::{Filter, Row, rows_of};
use super::text::address;
use super::{Error, Fault, Form, Shell, Visitor, is_of_form, json_of, page, shown};
use crate::api::runs::{self, Act, BatchAsked, Done, FirstSignal};
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui/batch", get(preview).post(act))
}

/// Runs that the preview shows; it counts all.
const SHOWN: u32 = 100;
/// Runs that are acted on between two looks at how far it is.
const SLICE: u32 = 250;
/// Failures that are told one by one.
const TOLD: usize = 100;

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
    fingerprint: String,
    reason: String,
    name: String,
    payload: String,
    /// Where it goes on, and what the parts before came to.
    at: String,
    done: u64,
    failed: u64,
}

impl Filled {
    fn chosen(&self) -> Result<&'static (Act, &'static str, &'static str, bool), Problem> {
        let known = ACTS.iter().find(|(_, word, ..)| *word == self.act);
        known.ok_or_else(|| Problem::bad(format!("unknown action `{}`", self.act)))
    }

    /// The same with a length of time before now as the time that it leads to: else the act would be of other runs
    /// than the preview, some moments earlier.
    fn fixed(mut self, now: Timestamp) -> Result<Self, Problem> {
        if !self.filter.since.trim().is_empty() {
            self.filter.since = clock::rfc3339(runs::time("since", self.filter.since.trim(), now)?);
        }
        Ok(self)
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
                no_check: false,
            }),
            _ => None,
        };
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(BatchAsked {
            filter: self.filter.wanted(),
            act,
            dry_run: Some(dry_run),
            expected: self.expected.parse().ok(),
            fingerprint: given(&self.fingerprint),
            reason,
            signal,
            cursor: given(&self.at).filter(|_| !dry_run),
            limit: Some(if dry_run { SHOWN } else { SLICE }),
        })
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
    /// What stands for the runs that match now.
    fingerprint: String,
    rows: Vec<Row>,
    /// Whether there are others than those of the rows.
    more: bool,
    /// What was filled in, if nothing was done with it, and why.
    name: String,
    payload: String,
    reason: String,
    error: Option<Error>,
}

/// The runs on which it would be done as they are now. Nothing happens.
async fn look(app: &App, who: &Identity, filled: Filled, error: Option<Error>) -> Result<BatchPage, Fault> {
    let (act, word, called, is_final) = filled.chosen()?;
    let back = filled.filter.address(&filled.filter.state, "");
    let filled = filled.fixed(app.store().now())?;
    let asked = BatchAsked { reason: None, ..filled.asked(*act, true)? };
    let mut found = runs::matching(app, who, &asked).await?;
    found.runs.truncate(SHOWN as usize);
    Ok(BatchPage {
        shell: Shell::new(app, who, format!("{called} {}", counted(found.count, "run")), "runs").await?,
        act: word,
        called,
        is_final: *is_final,
        fields: filled.filter.fields(),
        back,
        count: found.count,
        fingerprint: found.fingerprint.unwrap_or_default(),
        more: found.count > u64::from(SHOWN),
        rows: rows_of(app, who, found.runs).await?,
        name: filled.name,
        payload: filled.payload,
        reason: filled.reason,
        error,
    })
}

async fn preview(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(filled): Query<Filled>,
) -> Result<Response, Fault> {
    page(&look(&app, &who, filled, None).await?)
}

/// The preview once more, with what is wrong and what was filled in; the problem itself if there is none.
async fn again(app: &App, who: &Identity, filled: Filled, problem: Problem) -> Result<Response, Fault> {
    if !is_of_form(&problem) || !filled.at.is_empty() {
        return Err(problem.into());
    }
    match look(app, who, filled, Some(Error::of(&problem))).await {
        Ok(preview) => shown(problem.status(), &preview),
        Err(_) => Err(problem.into()),
    }
}

#[derive(Template)]
#[template(path = "batched.html")]
struct BatchedPage {
    shell: Shell,
    called: &'static str,
    done: u64,
    failed: u64,
    /// The failures of the last part, with the addresses of their runs.
    failures: Vec<(Done, String)>,
    left: u64,
    /// What the request for the next part says; nothing if none is left.
    fields: Vec<(&'static str, String)>,
    back: String,
    audit: bool,
}

impl BatchedPage {
    fn all(&self) -> u64 {
        self.done + self.failed + self.left
    }

    fn handled(&self) -> u64 {
        self.done + self.failed
    }
}

/// Acts on the next part of the runs, and shows how far it is. A script goes on with the part after that; without
/// scripts it is a button.
async fn act(
    State(app): State<App>,
    Visitor(who): Visitor,
    Form(filled): Form<Filled>,
) -> Result<Response, Fault> {
    let (act, word, called, _) = filled.chosen()?;
    let done = match filled.asked(*act, false) {
        Ok(asked) => runs::act_on(&app, &who, &asked).await,
        Err(problem) => Err(problem),
    };
    let found = match done {
        Ok(found) => found,
        Err(problem) => return again(&app, &who, filled, problem).await,
    };
    let all = found.runs.len() as u64;
    let failures: Vec<_> = found.runs.into_iter().filter(|done| done.error.is_some()).collect();
    let failed = filled.failed.saturating_add(failures.len() as u64);
    let done = filled.done.saturating_add(all.saturating_sub(failures.len() as u64));
    let link = |failure: Done| {
        let href = super::run::path(&failure.run);
        (failure, href)
    };
    let fields = found.next.map(|next| {
        let own = [
            ("act", (*word).to_owned()),
            ("at", next),
            ("done", done.to_string()),
            ("failed", failed.to_string()),
            ("reason", filled.reason.clone()),
            ("name", filled.name.clone()),
            ("payload", filled.payload.clone()),
        ];
        own.into_iter().filter(|(_, value)| !value.is_empty()).chain(filled.filter.fields()).collect()
    });
    shown(
        StatusCode::OK,
        &BatchedPage {
            shell: Shell::new(&app, &who, "Bulk action", "runs").await?,
            called,
            done,
            failed,
            failures: failures.into_iter().take(TOLD).map(link).collect(),
            left: found.left,
            fields: fields.unwrap_or_default(),
            back: address("/ui", &[("state", ""), ("workflow", &filled.filter.workflow)]),
            audit: who.may(Scope::Admin),
        },
    )
}
