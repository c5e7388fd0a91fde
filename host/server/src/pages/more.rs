//! Modules, schedules, workers, tokens.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use wfhost::store::{Act, StoreError, TokenKind};
use wfhost_view::{ModuleView, ScheduleView};

use super::text::{Time, address, part, pretty};
use super::{Error, Fault, Form, Shell, Visitor, is_of_form, need, need_to_read, page, shown, then};
use crate::api::{At, schedules, tokens};
use crate::app::App;
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/ui/modules", get(modules))
        .route("/ui/schedules", get(list_schedules))
        .route("/ui/schedules/{name}", post(act_on_schedule))
        .route("/ui/workers", get(workers))
        .route("/ui/tokens", get(list_tokens).post(make_token))
        .route("/ui/tokens/{id}/remove", post(remove_token))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    said: String,
}

struct ModuleRow {
    view: ModuleView,
    added: Time,
    runs: String,
    start: String,
}

#[derive(Template)]
#[template(path = "modules.html")]
struct ModulesPage {
    shell: Shell,
    rows: Vec<ModuleRow>,
}

async fn modules(State(app): State<App>, Visitor(who): Visitor) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsRead])?;
    let found = app.read(async |store| store.modules().await).await?;
    let now = app.store().now();
    let row = |module: &wfhost::store::ModuleInfo| ModuleRow {
        view: ModuleView::of(module),
        added: Time::of(module.added_at, now),
        runs: address("/ui", &[("workflow", &module.name)]),
        start: address("/ui/start", &[("workflow", &module.name)]),
    };
    page(&ModulesPage {
        shell: Shell::new(&app, &who, "Modules", "modules").await?,
        rows: found.iter().map(row).collect(),
    })
}

struct ScheduleRow {
    view: ScheduleView,
    path: String,
    next: Vec<Time>,
    input: String,
}

#[derive(Template)]
#[template(path = "schedules.html")]
struct SchedulesPage {
    shell: Shell,
    rows: Vec<ScheduleRow>,
    unreadable: Vec<(String, String)>,
    may_write: bool,
}

async fn list_schedules(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(Said { said }): Query<Said>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsRead])?;
    let found = app.read(async |store| store.schedules().await).await?;
    let (may, now) = (who.may(Scope::PayloadsRead), app.store().now());
    let row = |schedule| {
        let view = ScheduleView::of(schedule);
        ScheduleRow {
            path: format!("/ui/schedules/{}", part(&view.name)),
            next: view.next.iter().map(|at| Time::parse(at, now)).collect(),
            input: if may { pretty(view.input.as_str()) } else { String::new() },
            view,
        }
    };
    page(&SchedulesPage {
        shell: Shell::new(&app, &who, "Schedules", "schedules").await?.said(Some(&said)),
        rows: found.known.iter().map(row).collect(),
        unreadable: found.unreadable.iter().map(|(name, why)| (name.clone(), why.to_string())).collect(),
        may_write: who.may(Scope::SchedulesWrite) && !app.options().read_only,
    })
}

#[derive(Deserialize)]
struct ActAsked {
    act: String,
}

async fn act_on_schedule(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path(name): Path<String>,
    Form(ActAsked { act }): Form<ActAsked>,
) -> Result<Response, Fault> {
    let (state, caller, at) = (State(app), Caller(who), At(name));
    let said = match act.as_str() {
        "pause" => schedules::pause(state, caller, at).await.map(|_| "")?,
        "resume" => schedules::resume(state, caller, at).await.map(|_| "")?,
        "fire" => schedules::fire(state, caller, at).await.map(|_| "started")?,
        other => return Err(Problem::bad(format!("unknown action `{other}`")).into()),
    };
    Ok(then("/ui/schedules", said))
}

struct WorkerRow {
    host: String,
    pid: u32,
    lives: bool,
    left: String,
}

/// A limit that holds for all processes, and who uses it.
struct LimitRow {
    name: String,
    used: String,
    waiting: u32,
    holders: String,
}

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersPage {
    shell: Shell,
    rows: Vec<WorkerRow>,
    limits: Vec<LimitRow>,
    database: String,
    url: String,
    read_only: bool,
    live: usize,
    version: &'static str,
    agent: String,
}

async fn workers(State(app): State<App>, Visitor(who): Visitor) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsRead])?;
    let (found, shares) =
        app.read(async |store| Ok::<_, StoreError>((store.sessions().await?, store.slots().await?))).await?;
    let limits = wfhost::fleet::usage(&shares).into_iter().map(|(name, usage)| LimitRow {
        name: wfhost_core::policy::share::spell(name),
        used: format!("{} of {}", usage.used, usage.limit),
        waiting: usage.waiting,
        holders: usage.spell_holders(),
    });
    let limits = limits.collect();
    let row = |session: &wfhost::store::Session| WorkerRow {
        host: session.owner.host.clone(),
        pid: session.owner.pid,
        lives: session.left_ms > 0 && !wfhost::owner::is_dead(&session.owner),
        left: wfhost_core::spell_millis(session.left_ms),
    };
    page(&WorkersPage {
        shell: Shell::new(&app, &who, "Workers", "workers").await?.live("all"),
        rows: found.iter().map(row).collect(),
        limits,
        database: app.identity().to_owned(),
        url: app.url().to_owned(),
        read_only: app.options().read_only,
        live: app.host().live(),
        version: env!("CARGO_PKG_VERSION"),
        agent: app.options().defaults.agent.clone().unwrap_or_default(),
    })
}

struct TokenRow {
    id: String,
    name: String,
    kind: &'static str,
    scopes: String,
    created: Time,
    expires: Option<Time>,
    used: Option<Time>,
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    shell: Shell,
    rows: Vec<TokenRow>,
    scopes: Vec<(&'static str, &'static str)>,
    acts: Vec<(Time, Act)>,
    /// The new one, which is shown this once.
    made: Option<String>,
    may_write: bool,
    filled: NewToken,
    error: Option<Error>,
}

/// What was filled in for a new token.
#[derive(Default)]
struct NewToken {
    name: String,
    scopes: Vec<String>,
    expires: String,
}

impl NewToken {
    fn of(pairs: Vec<(String, String)>) -> Self {
        let mut filled = Self::default();
        for (key, value) in pairs {
            match key.as_str() {
                "name" => filled.name = value,
                "scope" => filled.scopes.push(value),
                "expires" => filled.expires = value,
                _ => {}
            }
        }
        filled
    }

    /// What it asks for, as the API has it.
    fn asked(&self) -> Result<tokens::TokenAsked, Problem> {
        let expires = Some(self.expires.trim()).filter(|text| !text.is_empty());
        let asked =
            serde_json::json!({ "name": self.name.trim(), "scopes": self.scopes, "expires": expires });
        serde_json::from_value(asked).map_err(|error| Problem::unfit(error.to_string()))
    }

    fn has(&self, scope: &str) -> bool {
        self.scopes.iter().any(|known| known == scope)
    }
}

async fn tokens_page(app: &App, who: &Identity) -> Result<TokensPage, Fault> {
    need_to_read(who, Scope::Admin)?;
    let found = app.read(async |store| store.tokens().await).await?;
    let acts = app.read(async |store| store.acts(None, 50).await).await?;
    let now = app.store().now();
    let row = |token: &wfhost::store::Token| TokenRow {
        id: token.id.clone(),
        name: token.name.clone(),
        kind: token.kind.as_str(),
        scopes: token.scopes.join(" "),
        created: Time::of(token.created_at, now),
        expires: token.expires_at.map(|at| Time::of(at, now)),
        used: token.used_at.map(|at| Time::of(at, now)),
    };
    Ok(TokensPage {
        shell: Shell::new(app, who, "Tokens", "tokens").await?,
        rows: found.iter().filter(|token| token.kind != TokenKind::Login).map(row).collect(),
        scopes: Scope::ALL.iter().map(|scope| (scope.as_str(), scope.meaning())).collect(),
        acts: acts.into_iter().map(|act| (Time::of(act.at, now), act)).collect(),
        made: None,
        may_write: !app.options().read_only,
        filled: NewToken::default(),
        error: None,
    })
}

async fn list_tokens(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(Said { said }): Query<Said>,
) -> Result<Response, Fault> {
    let whole = tokens_page(&app, &who).await?;
    page(&TokensPage { shell: whole.shell.said(Some(&said)), ..whole })
}

async fn make_token(
    State(app): State<App>,
    Visitor(who): Visitor,
    Form(filled): Form<Vec<(String, String)>>,
) -> Result<Response, Fault> {
    let filled = NewToken::of(filled);
    let minted = match filled.asked() {
        Ok(asked) => tokens::make(&app, &who, &asked).await,
        Err(problem) => Err(problem),
    };
    match minted {
        Ok(minted) => {
            let whole = tokens_page(&app, &who).await?;
            shown(StatusCode::CREATED, &TokensPage { made: Some(minted.text), ..whole })
        }
        Err(problem) if is_of_form(&problem) => {
            let (whole, error) = (tokens_page(&app, &who).await?, Some(Error::of(&problem)));
            shown(problem.status(), &TokensPage { filled, error, ..whole })
        }
        Err(problem) => Err(problem.into()),
    }
}

async fn remove_token(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path(id): Path<String>,
) -> Result<Response, Fault> {
    let is_own = who.id == id;
    tokens::remove(State(app), Caller(who), At(id)).await?;
    match is_own {
        true => Ok(Redirect::to("/ui/login").into_response()),
        false => Ok(then("/ui/tokens", "removed")),
    }
}
