//! What happens, as it is committed: as server-sent events, or page by page.
//!
//! Each event has a cursor; a client that sends one gets the events after it, from any process, also after
//! all were restarted. Nothing is buffered for a client: who is slow reads later from the store. Streams that
//! tell the same share what is read (`hub`).

mod cursor;
mod hub;
mod source;
mod stream;

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::store::RunInfo;

use self::cursor::{AllCursor, Cursor, RunCursor};
pub(crate) use self::hub::Hub;
use self::source::{Bound, EventView, Kinds, News, Source};
use super::{Asked, At, Refusals, View, find, limit, wait};
use crate::app::{App, ended};
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(of_run)).routes(routes!(of_all))
}

/// Bytes of the events of a page. A single event that is larger is a page of its own.
const PAGE_BYTES: usize = 4 << 20;
/// How long is read for a page that has nothing yet of what is wanted.
const SEARCH: Duration = Duration::from_secs(2);

/// Kinds of a run, and whether they need the scope for payloads.
const RUN_KINDS: [(&str, bool); 6] =
    [("entry", false), ("run", false), ("log", true), ("message", true), ("state", true), ("live", true)];
const ALL_KINDS: [(&str, bool); 2] = [("entry", false), ("commit", false)];

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
struct EventsView {
    /// Whether there is nothing more to come.
    ended: bool,
    events: Vec<EventView>,
    /// The cursor to go on behind.
    next: String,
    #[schema(example = "wfhost/events/1")]
    schema: &'static str,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct EventsAsked {
    /// Only what comes behind this cursor. The header `Last-Event-ID` is the same, and goes before.
    after: Option<String>,
    /// Only these kinds, separated by commas. `run` is one of streams only.
    kinds: Option<String>,
    /// Of a stream: whether it goes on when all is told [default: true].
    follow: Option<bool>,
    /// Of a page: wait so long for something to come.
    #[param(pattern = "^[0-9]{1,12}(ms|s|m|h|d)$")]
    wait: Option<String>,
    /// Of a page: at most so many.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// A cursor of the request: the header if it can be read, since browsers send what they were sent;
/// else the query, which has to be right.
fn asked_cursor<T>(
    headers: &HeaderMap,
    after: Option<&str>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(&parse);
    match (last, after) {
        (Some(cursor), _) => Ok(Some(cursor)),
        (None, Some(text)) => {
            parse(text).map(Some).ok_or_else(|| Problem::unfit("invalid cursor: use one from an event"))
        }
        (None, None) => Ok(None),
    }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"))
}

/// Follow a run
///
/// With `Accept: text/event-stream` as server-sent events until it ends; else a page of events, with
/// `next` to go on behind. Without the scope `payloads:read` only entries are told, without what they carry.
#[utoipa::path(get, path = "/runs/{run}/events", tag = "events", operation_id = "followRun",
    params(("run" = String, Path), EventsAsked,
        ("Last-Event-ID" = Option<String>, Header, description = "Continue after this cursor")),
    security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "What happened", content((EventsView = "application/json"),
        (EventView = "text/event-stream"))), Refusals))]
async fn of_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    headers: HeaderMap,
    Asked(asked): Asked<EventsAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let kinds = Kinds::read(asked.kinds.as_deref(), &RUN_KINDS)?;
    let info = find(&app, &run).await?;
    let cursor = asked_cursor(&headers, asked.after.as_deref(), RunCursor::parse)?.unwrap_or_default();
    let source = Source { run: Some(info.id.clone()), kinds, payloads: caller.may(Scope::PayloadsRead) };
    answer(&app, &caller, &headers, asked, source, Cursor::Run(cursor), Some(&info)).await
}

/// Follow all runs
///
/// From now on, or from behind a cursor. `kinds=commit` tells only which run has how many entries.
#[utoipa::path(get, path = "/events", tag = "events", operation_id = "followAll",
    params(EventsAsked, ("Last-Event-ID" = Option<String>, Header, description = "Continue after this cursor")),
    security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "What happened", content((EventsView = "application/json"),
        (EventView = "text/event-stream"))), Refusals))]
async fn of_all(
    State(app): State<App>,
    Caller(caller): Caller,
    headers: HeaderMap,
    Asked(asked): Asked<EventsAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let kinds = Kinds::read(asked.kinds.as_deref(), &ALL_KINDS)?;
    let cursor = match asked_cursor(&headers, asked.after.as_deref(), AllCursor::parse)? {
        Some(cursor) => cursor,
        None => {
            let place = app.read(async |store| store.last_place().await).await?;
            AllCursor { place, part: 0 }
        }
    };
    let source = Source { run: None, kinds, payloads: caller.may(Scope::PayloadsRead) };
    answer(&app, &caller, &headers, asked, source, Cursor::All(cursor), None).await
}

async fn look(app: &App, source: &Source, cursor: Cursor) -> Result<News, Problem> {
    let source = source.clone();
    let bound = Bound { until: None, bytes: PAGE_BYTES };
    app.read(async move |store| source.read(&store, cursor, bound).await).await
}

async fn answer(
    app: &App,
    caller: &Identity,
    headers: &HeaderMap,
    asked: EventsAsked,
    source: Source,
    cursor: Cursor,
    info: Option<&RunInfo>,
) -> Result<Response, Problem> {
    let patience = wait(asked.wait.as_deref())?;
    let most = limit(asked.limit, 200, 1_000)?;
    if wants_stream(headers) {
        let place = app.stream(caller)?;
        let seat = match asked.follow.unwrap_or(true) {
            true => Some(app.hub().join(app, &source, cursor, info).await?),
            false => None,
        };
        return Ok(stream::answer(app, caller, source, cursor, seat, place));
    }
    if source.kinds.names("run") {
        return Err(Problem::unfit(
            "`run` is a kind of streams only: ask for text/event-stream, or get the run",
        ));
    }
    let _place = patience.map(|_| app.stream(caller)).transpose()?;
    let begun = tokio::time::Instant::now();
    let until = begun + patience.unwrap_or_default();
    let (mut changes, mut draining) = (app.changes(), app.draining());
    let mut cursor = cursor;
    let mut news = loop {
        changes.borrow_and_update();
        let news = look(app, &source, cursor).await?;
        let now = tokio::time::Instant::now();
        // Behind what is not wanted there may be more that is there already.
        let is_over = if news.more { now >= until.max(begun + SEARCH) } else { now >= until };
        if !news.events.is_empty() || news.ended || is_over || *draining.borrow() {
            break news;
        }
        // What is not wanted is behind us.
        cursor = news.cursor;
        if news.more {
            continue;
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => {}
            () = ended(&mut draining) => {}
            _ = changes.changed() => app.breathe().await,
        }
    };
    let cut = news.events.len() > most;
    news.events.truncate(most);
    let next = match news.events.last() {
        Some(last) if cut => last.id.clone(),
        _ => news.cursor.to_string(),
    };
    let view = EventsView { ended: news.ended && !cut, events: news.events, next, schema: "wfhost/events/1" };
    Ok(View(view).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_what_asks_for_one() {
        let mut headers = HeaderMap::new();
        assert!(!wants_stream(&headers));
        headers.insert(header::ACCEPT, "application/json, text/event-stream;q=0.5".parse().unwrap());
        assert!(wants_stream(&headers));
    }
}
