//! Sinks: who is told of events, and how that goes.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::store::{DeliveryFilter, DeliveryState};
use wfhost_view::{DeliveriesView, SinksView, UserError, find_sink};

use super::{Asked, At, Refusals, Sent, View, limit, run_id};
use crate::app::App;
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(deliveries)).routes(routes!(redeliver))
}

/// All sinks, for pages, too.
pub(crate) async fn all(app: &App) -> Result<SinksView, Problem> {
    let configured = app.options().sinks.clone();
    app.read(async move |store| SinksView::of(store.as_ref(), &configured).await).await
}

/// List sinks
///
/// Those that are configured for this server, and those that the database still has messages for.
#[utoipa::path(get, path = "/sinks", tag = "sinks", operation_id = "listSinks", security(("bearer" = ["admin"])),
    responses((status = 200, description = "All sinks", body = SinksView), Refusals))]
async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<View<SinksView>, Problem> {
    caller.need_to_read(Scope::Admin)?;
    all(&app).await.map(View)
}

/// Which messages.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveriesAsked {
    /// The `next` of the previous page.
    pub cursor: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// Only messages about this run.
    pub run: Option<String>,
    /// Only messages in this state: `pending`, `delivered`, `given-up`.
    pub state: Option<String>,
}

/// The messages to a sink, for pages, too.
pub(crate) async fn messages(
    app: &App,
    name: String,
    asked: DeliveriesAsked,
) -> Result<DeliveriesView, Problem> {
    let state = |word: &String| {
        let unknown = || Problem::unfit("`state` has to be pending, delivered or given-up");
        DeliveryState::parse(word).ok_or_else(unknown)
    };
    let before = |cursor: &String| {
        cursor.parse::<u64>().map_err(|_| Problem::unfit("invalid cursor: use one from a page"))
    };
    let most = limit(asked.limit, 100, 1_000)?;
    let filter = DeliveryFilter {
        state: asked.state.as_ref().map(state).transpose()?,
        run: asked.run.as_deref().map(run_id).transpose()?,
        before: asked.cursor.as_ref().map(before).transpose()?,
        ..DeliveryFilter::default()
    };
    let configured = app.options().sinks.clone();
    app.read(async move |store| {
        let sink = find_sink(store.as_ref(), &configured, &name).await?;
        let filter = DeliveryFilter { sink: Some(sink), ..filter };
        Ok::<_, UserError>(DeliveriesView::of(store.as_ref(), filter, most).await?)
    })
    .await
}

/// List the messages to a sink
///
/// Messages that ended are kept for thirty days. `{name}` is the name of the sink, or its id in the database.
#[utoipa::path(get, path = "/sinks/{name}/deliveries", tag = "sinks", operation_id = "listDeliveries",
    params(("name" = String, Path), DeliveriesAsked), security(("bearer" = ["admin"])),
    responses((status = 200, description = "Latest first", body = DeliveriesView), Refusals))]
async fn deliveries(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
    Asked(asked): Asked<DeliveriesAsked>,
) -> Result<View<DeliveriesView>, Problem> {
    caller.need_to_read(Scope::Admin)?;
    messages(&app, name, asked).await.map(View)
}

/// Which messages are delivered again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedeliverAsked {
    /// The ids of messages, whatever became of them; all that were given up if none is named.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub messages: Vec<String>,
}

/// What was made due.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedeliveredView {
    /// Messages that are due again.
    pub count: u64,
    /// Always `due`.
    result: &'static str,
    #[schema(example = "wfhost/act/1")]
    schema: &'static str,
}

/// Makes messages of a sink due again, for pages, too.
pub(crate) async fn again(
    app: &App,
    caller: &Identity,
    name: &str,
    asked: RedeliverAsked,
) -> Result<RedeliveredView, Problem> {
    caller.need(app, Scope::Admin)?;
    if asked.messages.len() > 1_000 {
        return Err(Problem::unfit("at most 1000 `messages` can be named"));
    }
    let store = app.store().as_ref();
    let sink = find_sink(store, &app.options().sinks, name).await?;
    let count = wfhost_view::redeliver(store, Some(&sink), &asked.messages).await?;
    app.record(caller, "sinks.redeliver", &sink, &format!("{count} due")).await?;
    Ok(RedeliveredView { count, result: "due", schema: "wfhost/act/1" })
}

/// Deliver messages again
///
/// They are tried as if they were new, with the same ids, by a server that has the sink in its configuration.
#[utoipa::path(post, path = "/sinks/{name}/redeliver", tag = "sinks", operation_id = "redeliver",
    params(("name" = String, Path)), request_body = RedeliverAsked, security(("bearer" = ["admin"])),
    responses((status = 200, description = "What is due again", body = RedeliveredView), Refusals))]
async fn redeliver(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
    Sent(asked): Sent<RedeliverAsked>,
) -> Result<View<RedeliveredView>, Problem> {
    again(&app, &caller, &name, asked).await.map(View)
}
