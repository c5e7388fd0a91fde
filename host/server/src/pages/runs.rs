//! All runs.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use wfhost::store::{RunInfo, RunState};
use wfhost_view::{RunView, ago};

use super::text::{address, dollars, part};
use super::{Fault, Shell, Visitor, need, page};
use crate::api::run::blockers;
use crate::api::runs::{self, Page, Wanted};
use crate::app::App;
use crate::auth::{Identity, Scope};

pub(super) fn router() -> Router<App> {
    Router::new().route("/ui", get(list))
}

/// Runs of a page.
const PAGE: u32 = 50;
/// Entries that are read for the reasons of one page. What is longer has the short reason.
const ENTRIES: u64 = 20_000;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    pub state: String,
    pub workflow: String,
    label: String,
    text: String,
    waits: String,
    pub since: String,
    parent: String,
    cursor: String,
    said: String,
}

impl Filter {
    pub fn wanted(&self) -> Wanted {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        Wanted {
            state: given(&self.state),
            workflow: given(&self.workflow),
            label: given(&self.label),
            since: given(&self.since),
            text: given(&self.text),
            waits: given(&self.waits),
            parent: given(&self.parent),
            ..Wanted::default()
        }
    }

    /// Its conditions, as the fields of a form.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let fields = [
            ("state", &self.state),
            ("workflow", &self.workflow),
            ("label", &self.label),
            ("text", &self.text),
            ("waits", &self.waits),
            ("since", &self.since),
            ("parent", &self.parent),
        ];
        let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| (name, value.clone())).collect()
    }

    /// The address of the list with another state or cursor.
    pub fn address(&self, state: &str, cursor: &str) -> String {
        let fields = self.fields();
        let others = fields.iter().filter(|(name, _)| *name != "state");
        let pairs = others.map(|(name, value)| (*name, value.as_str()));
        let pairs: Vec<_> =
            std::iter::once(("state", state)).chain(pairs).chain([("cursor", cursor)]).collect();
        address("/ui", &pairs)
    }

    fn is_set(&self) -> bool {
        self.address("", "") != "/ui"
    }
}

/// A run in the list.
pub(super) struct Row {
    pub run: RunView,
    pub href: String,
    /// What it waits for, and how it ended.
    pub why: String,
    pub age: String,
    pub cost: String,
    pub labels: Vec<(String, String, String)>,
}

impl Row {
    pub async fn of(app: &App, who: &Identity, info: RunInfo, left: &mut u64) -> Result<Self, Fault> {
        let view = runs::shown(RunView::of(&info), who);
        let is_short = info.entries.0 <= *left;
        let explains = !info.state.is_final() && who.may(Scope::PayloadsRead) && is_short;
        let mut why = view.waits.clone();
        if explains {
            *left -= info.entries.0;
            // What cannot be read is shown with its short reason; its page says more.
            if let Ok(told) = blockers(app, info.clone()).await
                && let Some(first) = told.blockers.first()
            {
                why.clone_from(&first.what);
            }
        }
        Ok(Self {
            href: format!("/ui/runs/{}", part(&view.id)),
            why,
            age: ago(info.created_at, app.store().now()),
            cost: dollars(view.spent.cost_micros),
            labels: labels(&view),
            run: view,
        })
    }
}

/// Rows for runs, with the reasons why they wait as far as few entries tell them.
pub(super) async fn rows_of(app: &App, who: &Identity, found: Vec<RunInfo>) -> Result<Vec<Row>, Fault> {
    let mut left = ENTRIES;
    let mut rows = Vec::new();
    for info in found {
        rows.push(Row::of(app, who, info, &mut left).await?);
    }
    Ok(rows)
}

/// Labels with the lists of runs that have them.
pub(super) fn labels(view: &RunView) -> Vec<(String, String, String)> {
    let href = |key: &str, value: &str| address("/ui", &[("label", &format!("{key}={value}"))]);
    view.labels.iter().map(|(key, value)| (key.clone(), value.clone(), href(key, value))).collect()
}

struct Chip {
    state: &'static str,
    count: u64,
    href: String,
    on: bool,
}

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsPage {
    shell: Shell,
    filter: Filter,
    chips: Vec<Chip>,
    all: u64,
    all_href: String,
    rows: Vec<Row>,
    next: Option<String>,
    first: Option<String>,
    workflows: Vec<String>,
    may_start: bool,
    /// What can be done with all that the filter finds.
    acts: Vec<(&'static str, &'static str)>,
    fields: Vec<(&'static str, String)>,
    modules: usize,
    waits: [&'static str; 3],
    since: [&'static str; 4],
}

async fn list(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(filter): Query<Filter>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsRead])?;
    let cursor = Some(filter.cursor.clone()).filter(|cursor| !cursor.is_empty());
    let (found, next) = runs::page(&app, &filter.wanted(), &Page { cursor, limit: Some(PAGE) }).await?;
    let counts = runs::count(&app).await?.counts;
    let rows = rows_of(&app, &who, found).await?;
    // Acts on many are for what was chosen.
    let acts = match filter.fields().is_empty() || rows.is_empty() {
        true => Vec::new(),
        false => super::batch::choices(&app, &who),
    };
    let chips = RunState::ALL.iter().map(|state| {
        let state = state.as_str();
        let on = filter.state == state;
        let href = filter.address(if on { "" } else { state }, "");
        Chip { state, count: counts.get(state).copied().unwrap_or(0), href, on }
    });
    let chips = chips.filter(|chip| chip.count > 0 || chip.on).collect();
    let modules = app.read(async |store| store.modules().await).await?;
    let mut workflows: Vec<_> = modules.into_iter().map(|module| module.name).collect();
    workflows.sort();
    workflows.dedup();
    page(&RunsPage {
        shell: Shell::new(&app, &who, "Runs", "runs").await?.live("all").said(Some(&filter.said)),
        chips,
        all: counts.values().sum(),
        all_href: filter.address("", ""),
        rows,
        next: next.map(|next| filter.address(&filter.state, &next)),
        first: (!filter.cursor.is_empty()).then(|| filter.address(&filter.state, "")),
        modules: workflows.len(),
        workflows,
        may_start: who.may(Scope::RunsStart),
        acts,
        fields: filter.fields(),
        waits: ["people", "time", "signal"],
        since: ["1h", "1d", "7d", "30d"],
        filter,
    })
}
