//! Sinks: who is told of events, and the messages to each.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use wfhost::store::DeliveryState;
use wfhost_core::Timestamp;
use wfhost_view::{DeliveryView, SinkView};

use super::text::{Time, address, part, pretty};
use super::{Fault, Form, Shell, Visitor, need_to_read, page, then};
use crate::api::sinks::{DeliveriesAsked, RedeliverAsked, again, all, messages};
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/ui/sinks", get(list))
        .route("/ui/sinks/{sink}", get(show))
        .route("/ui/sinks/{sink}/redeliver", post(redeliver))
}

/// Messages of a page.
const PAGE: u32 = 50;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    state: String,
    cursor: String,
    said: String,
}

/// A sink in the list, and above its messages.
struct SinkRow {
    path: String,
    given_up: String,
    read: Option<Time>,
    /// Whether nobody reads for it now.
    is_idle: bool,
    oldest: String,
    events: String,
    view: SinkView,
}

impl SinkRow {
    fn of(view: SinkView, now: Timestamp) -> Self {
        let path = path(&view.sink);
        Self {
            given_up: address(&path, &[("state", "given-up")]),
            read: view.read.as_ref().map(|read| Time::parse(&read.at, now)),
            is_idle: view.read.as_ref().is_none_or(|read| !read.held),
            oldest: view.oldest_seconds.map(|age| wfhost_core::spell_millis(age * 1_000)).unwrap_or_default(),
            events: view.events.as_ref().map(|events| events.join(" ")).unwrap_or_default(),
            path,
            view,
        }
    }
}

fn path(sink: &str) -> String {
    format!("/ui/sinks/{}", part(sink))
}

fn may_write(app: &App, who: &Identity) -> bool {
    who.may(Scope::Admin) && !app.options().read_only
}

#[derive(Template)]
#[template(path = "sinks.html")]
struct SinksPage {
    shell: Shell,
    rows: Vec<SinkRow>,
}

async fn list(
    State(app): State<App>,
    Visitor(who): Visitor,
    Query(asked): Query<Asked>,
) -> Result<Response, Fault> {
    need_to_read(&who, Scope::Admin)?;
    let now = app.store().now();
    page(&SinksPage {
        shell: Shell::new(&app, &who, "Sinks", "sinks").await?.live("all").said(Some(&asked.said)),
        rows: all(&app).await?.sinks.into_iter().map(|sink| SinkRow::of(sink, now)).collect(),
    })
}

/// A message.
struct Message {
    view: DeliveryView,
    created: Time,
    next: Option<Time>,
    run: String,
    body: String,
}

impl Message {
    fn of(view: DeliveryView, now: Timestamp) -> Self {
        Self {
            created: Time::parse(&view.created_at, now),
            next: view.next_at.as_deref().map(|at| Time::parse(at, now)),
            run: super::run::path(&view.run),
            body: pretty(&view.body.to_string()),
            view,
        }
    }
}

#[derive(Template)]
#[template(path = "sink.html")]
struct SinkPage {
    shell: Shell,
    row: SinkRow,
    rows: Vec<Message>,
    state: String,
    states: [&'static str; 3],
    next: Option<String>,
    may_write: bool,
}

async fn show(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Fault> {
    need_to_read(&who, Scope::Admin)?;
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let wanted = DeliveriesAsked {
        cursor: given(&asked.cursor),
        state: given(&asked.state),
        limit: Some(PAGE),
        run: None,
    };
    let found = messages(&app, name.clone(), wanted).await?;
    let sink = all(&app).await?.sinks.into_iter().find(|sink| sink.sink == name || sink.name == name);
    let sink = sink.ok_or_else(|| Problem::missing(format!("unknown sink `{name}`")))?;
    let now = app.store().now();
    let row = SinkRow::of(sink, now);
    let next = found.next.map(|next| address(&row.path, &[("state", &asked.state), ("cursor", &next)]));
    page(&SinkPage {
        shell: Shell::new(&app, &who, format!("Sink {}", row.view.name), "sinks")
            .await?
            .live("all")
            .said(Some(&asked.said)),
        row,
        rows: found.deliveries.into_iter().map(|message| Message::of(message, now)).collect(),
        state: asked.state,
        states: DeliveryState::ALL.map(DeliveryState::as_str),
        next,
        may_write: may_write(&app, &who),
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Again {
    /// One message; all that were given up if none.
    message: String,
}

async fn redeliver(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path(name): Path<String>,
    Form(asked): Form<Again>,
) -> Result<Response, Fault> {
    let messages = Some(asked.message).filter(|message| !message.is_empty()).into_iter().collect();
    again(&app, &who, &name, RedeliverAsked { messages }).await?;
    Ok(then(&path(&name), "due"))
}
