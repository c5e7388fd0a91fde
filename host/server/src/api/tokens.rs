//! Who may ask, who did what, who is there.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::clock::rfc3339;
use wfhost::store::{Act, Session, StoreError, Token, TokenKind};
use wfhost_view::UserError;

use super::{Asked, At, Refusals, Sent, View, limit};
use crate::app::App;
use crate::auth::{Caller, Identity, Minted, NoScope, Scope, Scopes, made_with, mint};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(remove))
        .routes(routes!(audit))
        .routes(routes!(workers))
        .routes(routes!(whoami))
}

/// A token, without itself.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    pub created_at: String,
    pub expires_at: Option<String>,
    pub id: String,
    /// `bearer`, `session` of a browser, `login` to get one.
    pub kind: &'static str,
    pub name: String,
    pub scopes: Vec<String>,
    /// To the minute.
    pub used_at: Option<String>,
}

impl TokenView {
    pub fn of(token: &Token) -> Self {
        Self {
            created_at: rfc3339(token.created_at),
            expires_at: token.expires_at.map(rfc3339),
            id: token.id.clone(),
            kind: token.kind.as_str(),
            name: token.name.clone(),
            scopes: token.scopes.clone(),
            used_at: token.used_at.map(rfc3339),
        }
    }
}

/// All tokens.
#[derive(Debug, Serialize, ToSchema)]
struct TokensView {
    #[schema(example = "wfhost/tokens/1")]
    schema: &'static str,
    tokens: Vec<TokenView>,
}

/// List tokens
#[utoipa::path(get, path = "/tokens", tag = "access", operation_id = "listTokens", security(("bearer" = ["admin"])),
    responses((status = 200, description = "Oldest first", body = TokensView), Refusals))]
async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<View<TokensView>, Problem> {
    caller.need_to_read(Scope::Admin)?;
    let found = app.read(async |store| store.tokens().await).await?;
    Ok(View(TokensView { schema: "wfhost/tokens/1", tokens: found.iter().map(TokenView::of).collect() }))
}

/// A token that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenAsked {
    /// For people.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// What it allows.
    #[schema(min_items = 1)]
    scopes: Vec<String>,
    /// A length of time like `90d`; for ever if none.
    expires: Option<String>,
}

/// A new token, which is shown only once.
#[derive(Debug, Serialize, ToSchema)]
struct NewTokenView {
    #[schema(example = "wfhost/token/1")]
    schema: &'static str,
    /// The token itself.
    secret: String,
    token: TokenView,
}

/// Make a token
#[utoipa::path(post, path = "/tokens", tag = "access", operation_id = "createToken", request_body = TokenAsked,
    security(("bearer" = ["admin"])),
    responses((status = 201, description = "The token, shown only once", body = NewTokenView), Refusals))]
async fn create(
    State(app): State<App>,
    Caller(caller): Caller,
    Sent(asked): Sent<TokenAsked>,
) -> Result<Response, Problem> {
    let minted = make(&app, &caller, &asked).await?;
    let token = TokenView::of(&minted.token);
    let view = NewTokenView { schema: "wfhost/token/1", secret: minted.text, token };
    Ok((StatusCode::CREATED, View(view)).into_response())
}

/// Makes a token, and records who did.
pub(crate) async fn make(app: &App, caller: &Identity, asked: &TokenAsked) -> Result<Minted, Problem> {
    caller.need(app, Scope::Admin)?;
    let name = asked.name.trim();
    if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(Problem::unfit("the name of a token needs 1 to 100 bytes, without control characters"));
    }
    let scopes = asked.scopes.iter().map(|word| word.parse::<Scope>()).collect::<Result<Scopes, NoScope>>();
    let scopes = scopes.map_err(|error| Problem::unfit(error.to_string()))?;
    if scopes == Scopes::default() {
        return Err(Problem::unfit("a token needs at least one scope"));
    }
    let expires = asked.expires.as_deref().map(wfhost_config::units::millis).transpose();
    let expires =
        expires.map_err(|error| Problem::unfit(format!("`expires` has to be a duration: {error}")))?;
    let now = app.store().now();
    let expires_at = expires.map(|millis| now.after(millis));
    let minted = mint(name, TokenKind::Bearer, scopes, now, expires_at)?;
    app.store().put_token(minted.token.clone()).await?;
    app.record(
        caller,
        "tokens.create",
        &format!("{name} ({})", minted.token.id),
        &minted.token.scopes.join(" "),
    )
    .await?;
    Ok(minted)
}

/// What became of a token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenGoneView {
    id: String,
    /// Always `removed`.
    result: &'static str,
    #[schema(example = "wfhost/act/1")]
    schema: &'static str,
}

/// Remove a token: it lets nobody in any more, nor do the sessions of browsers that logged in with it
#[utoipa::path(delete, path = "/tokens/{id}", tag = "access", operation_id = "deleteToken", params(("id" = String, Path)),
    security(("bearer" = ["admin"])),
    responses((status = 200, description = "The token was removed", body = TokenGoneView), Refusals))]
pub(crate) async fn remove(
    State(app): State<App>,
    Caller(caller): Caller,
    At(id): At<String>,
) -> Result<View<TokenGoneView>, Problem> {
    caller.need(&app, Scope::Admin)?;
    if !app.store().delete_token(&id).await? {
        let trouble = UserError::usage("WF0907", format!("unknown token `{id}`"));
        return Err(Problem::new(StatusCode::NOT_FOUND, trouble.hint("`wfhost token ls` lists all tokens")));
    }
    app.record(&caller, "tokens.delete", &id, "removed").await?;
    // They let nobody in any more.
    let tokens = app.store().tokens().await?;
    for session in tokens.iter().filter(|token| made_with(token) == Some(id.as_str())) {
        app.store().delete_token(&session.id).await?;
    }
    Ok(View(TokenGoneView { id, result: "removed", schema: "wfhost/act/1" }))
}

/// Something that somebody did.
#[derive(Debug, Serialize, ToSchema)]
struct AuditView {
    act: String,
    at: String,
    number: u64,
    result: String,
    target: String,
    who: String,
}

/// What was done, the latest first.
#[derive(Debug, Serialize, ToSchema)]
struct AuditsView {
    acts: Vec<AuditView>,
    /// To go on behind; null if there is no more.
    before: Option<u64>,
    #[schema(example = "wfhost/audit/1")]
    schema: &'static str,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct AuditAsked {
    /// Only acts before this number.
    before: Option<u64>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// List what was done through servers, and by whom, the latest first
#[utoipa::path(get, path = "/audit", tag = "access", operation_id = "listAudit", params(AuditAsked),
    security(("bearer" = ["admin"])),
    responses((status = 200, description = "A page", body = AuditsView), Refusals))]
async fn audit(
    State(app): State<App>,
    Caller(caller): Caller,
    Asked(asked): Asked<AuditAsked>,
) -> Result<View<AuditsView>, Problem> {
    caller.need_to_read(Scope::Admin)?;
    let most = limit(asked.limit, 100, 1_000)?;
    let before = asked.before;
    if before.is_some_and(|before| i64::try_from(before).is_err()) {
        return Err(Problem::unfit("`before` has to be the number of an action"));
    }
    let mut found = app.read(async move |store| store.acts(before, most + 1).await).await?;
    let more = found.len() > most;
    found.truncate(most);
    let before = found.last().filter(|_| more).map(|act| act.number);
    let view = |act: Act| AuditView {
        act: act.act,
        at: rfc3339(act.at),
        number: act.number,
        result: act.result,
        target: act.target,
        who: act.who,
    };
    Ok(View(AuditsView { acts: found.into_iter().map(view).collect(), before, schema: "wfhost/audit/1" }))
}

/// A process that advances runs.
#[derive(Debug, Serialize, ToSchema)]
struct WorkerView {
    host: String,
    /// Milliseconds until others may take its runs over.
    left_ms: u64,
    /// Whether it is known to live, or may.
    lives: bool,
    pid: u32,
}

/// A limit of agent calls that holds for all these processes together.
#[derive(Debug, Serialize, ToSchema)]
struct LimitView {
    /// Who has slots of it.
    holders: Vec<LimitHolderView>,
    /// Calls that it lets through at a time.
    limit: u32,
    #[schema(example = "provider:claude")]
    name: String,
    used: u32,
    /// Calls that wait for a slot of it, as far as nothing else holds them up.
    waiting: u32,
}

/// A process that has slots of a limit.
#[derive(Debug, Serialize, ToSchema)]
struct LimitHolderView {
    host: String,
    pid: u32,
    slots: u32,
}

/// The processes that advance runs.
#[derive(Debug, Serialize, ToSchema)]
struct WorkersView {
    /// Limits that calls need now, by name.
    limits: Vec<LimitView>,
    #[schema(example = "wfhost/workers/1")]
    schema: &'static str,
    workers: Vec<WorkerView>,
}

/// List the processes that advance runs
#[utoipa::path(get, path = "/workers", tag = "access", operation_id = "listWorkers", security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "The hosts that have a session", body = WorkersView), Refusals))]
async fn workers(State(app): State<App>, Caller(caller): Caller) -> Result<View<WorkersView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let (found, shares) =
        app.read(async |store| Ok::<_, StoreError>((store.sessions().await?, store.slots().await?))).await?;
    let limits = wfhost::fleet::usage(&shares).into_iter().map(|(name, usage)| {
        let holders = usage.holders.into_iter();
        LimitView {
            holders: holders.map(|((host, pid), slots)| LimitHolderView { host, pid, slots }).collect(),
            limit: usage.limit,
            name: name.to_owned(),
            used: usage.used,
            waiting: usage.waiting,
        }
    });
    let limits = limits.collect();
    let view = |session: Session| WorkerView {
        host: session.owner.host.clone(),
        left_ms: session.left_ms,
        lives: session.left_ms > 0 && !wfhost::owner::is_dead(&session.owner),
        pid: session.owner.pid,
    };
    let workers = found.into_iter().map(view).collect();
    Ok(View(WorkersView { limits, schema: "wfhost/workers/1", workers }))
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
struct WhoView {
    /// The database.
    database: String,
    id: String,
    name: String,
    read_only: bool,
    #[schema(example = "wfhost/whoami/1")]
    schema: &'static str,
    scopes: Vec<String>,
    version: &'static str,
}

/// Tell whose token it is, and what it allows
#[utoipa::path(get, path = "/whoami", tag = "access", operation_id = "whoAmI", security(("bearer" = [])),
    responses((status = 200, description = "Who asks", body = WhoView), Refusals))]
async fn whoami(State(app): State<App>, Caller(caller): Caller) -> View<WhoView> {
    View(WhoView {
        database: app.identity().to_owned(),
        id: caller.id,
        name: caller.name,
        read_only: app.options().read_only,
        schema: "wfhost/whoami/1",
        scopes: caller.scopes.words(),
        version: env!("CARGO_PKG_VERSION"),
    })
}
