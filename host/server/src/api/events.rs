//! What happens, as it is committed: as server-sent events, or page by page.
//!
//! Each event has a cursor; a client that sends one gets the events after it, from any process, also after
//! all were restarted. Nothing is buffered for a client: who is slow reads later from the store.
//!
//! The cursor of a run is `P.E.T`: the entries of its journal that were told, the number behind the last
//! of what it gave out, the number of the last line of an agent. That of all runs is `PLACE` or
//! `PLACE.N`: the place of the last commit that was told as a whole, or as far as N entries.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::HostError;
use wfhost::store::{SharedStore, TranscriptFilter, TranscriptKind};
use wfhost_core::{Position, RunId};
use wfhost_view::{
    EntryView, LogView, MessageView, PublishedView, RunView, TranscriptView, Trouble, document, entries, raw,
};

use super::runs::Anything;
use super::{Asked, At, Refusals, View, find, limit, wait};
use crate::app::{App, Stream, ended};
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(of_run)).routes(routes!(of_all))
}

/// Rows of each kind that are read at once.
const PAGE: usize = 500;
/// How often a stream says that it lives.
const PING: Duration = Duration::from_secs(10);
/// What is told without a commit of an entry is looked for so often.
const LOOK: Duration = Duration::from_secs(1);

/// An event.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct EventView {
    /// What it tells, by the kind.
    #[schema(value_type = Anything)]
    data: Box<RawValue>,
    /// `entry` of a journal, `log`, `message`, `state`, `live` of an agent, `run` as it is now, `commit`;
    /// of streams also `ping`, `end`, `bye`.
    event: &'static str,
    /// The cursor behind it.
    id: String,
}

impl EventView {
    fn new(event: &'static str, id: &impl ToString, data: &impl Serialize) -> Self {
        Self { data: raw(data), event, id: id.to_string() }
    }

    /// As a server-sent event. Its JSON has no line ends.
    fn text(&self) -> String {
        format!("id: {}\nevent: {}\ndata: {}\n\n", self.id, self.event, self.data.get())
    }
}

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
    /// Only these kinds, separated by commas.
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

/// How far one run was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct RunCursor {
    entries: u64,
    emissions: u64,
    transcript: u64,
}

impl std::fmt::Display for RunCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.entries, self.emissions, self.transcript)
    }
}

fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let numbers: Vec<u64> = text.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    let all = numbers.iter().all(|number| *number < 1 << 62);
    numbers.try_into().ok().filter(|_| all)
}

impl RunCursor {
    fn parse(text: &str) -> Option<Self> {
        let [entries, emissions, transcript] = numbers(text)?;
        Some(Self { entries, emissions, transcript })
    }
}

/// How far all runs were told: the commits up to `place`, and so many entries of the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct AllCursor {
    place: u64,
    part: u64,
}

impl std::fmt::Display for AllCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.part {
            0 => write!(f, "{}", self.place),
            part => write!(f, "{}.{part}", self.place),
        }
    }
}

impl AllCursor {
    fn parse(text: &str) -> Option<Self> {
        match numbers::<1>(text) {
            Some([place]) => Some(Self { place, part: 0 }),
            None => numbers::<2>(text).map(|[place, part]| Self { place, part }),
        }
    }
}

/// The kinds of events that are wanted.
#[derive(Clone, Debug)]
struct Kinds(Option<Vec<String>>);

/// Those of a run, and whether they need the scope for payloads.
const RUN_KINDS: [(&str, bool); 6] =
    [("entry", false), ("run", false), ("log", true), ("message", true), ("state", true), ("live", true)];
const ALL_KINDS: [(&str, bool); 2] = [("entry", false), ("commit", false)];

impl Kinds {
    fn read(text: Option<&str>, known: &[(&str, bool)]) -> Result<Self, Problem> {
        let Some(text) = text else { return Ok(Self(None)) };
        let kinds: Vec<_> =
            text.split(',').map(str::trim).filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
        let strange = kinds.iter().find(|kind| !known.iter().any(|(known, _)| known == kind));
        match strange {
            Some(kind) => {
                let known: Vec<_> = known.iter().map(|(kind, _)| *kind).collect();
                Err(Problem::unfit(format!(
                    "unknown kind of event `{kind}`; known kinds: {}",
                    known.join(", ")
                )))
            }
            None => Ok(Self(Some(kinds))),
        }
    }

    fn has(&self, kind: &str) -> bool {
        self.0.as_ref().is_none_or(|kinds| kinds.iter().any(|known| known == kind))
    }
}

/// What is told of, and to whom.
#[derive(Clone, Debug)]
struct Source {
    /// All runs if none.
    run: Option<RunId>,
    kinds: Kinds,
    /// What runs work on is told, too.
    payloads: bool,
}

#[derive(Clone, Copy, Debug)]
enum Cursor {
    Run(RunCursor),
    All(AllCursor),
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run(cursor) => cursor.fmt(f),
            Self::All(cursor) => cursor.fmt(f),
        }
    }
}

/// What a look found.
struct News {
    events: Vec<EventView>,
    /// Behind all of them, and behind what is not wanted.
    cursor: Cursor,
    /// Nothing more will come.
    ended: bool,
    /// There may be more already.
    more: bool,
    /// How the run shows now.
    run: Option<RunView>,
}

impl Source {
    async fn read(&self, store: &SharedStore, cursor: Cursor) -> Result<News, Trouble> {
        match (cursor, &self.run) {
            (Cursor::Run(cursor), Some(run)) => self.read_run(store, run, cursor).await,
            (Cursor::All(cursor), _) => self.read_all(store, cursor).await,
            (Cursor::Run(_), None) => unreachable!("the cursor belongs to a single run"),
        }
    }

    async fn read_run(&self, store: &SharedStore, run: &RunId, from: RunCursor) -> Result<News, Trouble> {
        // Looked at before the rest is read, so that none is missed at the end.
        let info = store.run(run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
        let mut cursor = from;
        let mut events = Vec::new();
        let unreadable = |error: wfhost_core::EntryError| {
            Trouble::from(HostError::Journal { run: run.clone(), source: error.into() })
        };
        let rows = store.journal_part(run, Position(cursor.entries), PAGE).await?;
        for (position, entry) in entries(&rows, Position(cursor.entries)).map_err(unreadable)? {
            cursor.entries = position.0 + 1;
            if self.kinds.has("entry") {
                let view = EntryView::of(position, &entry).event(run, &position);
                let view = if self.payloads { view } else { view.hidden() };
                events.push(EventView::new("entry", &cursor, &view));
            }
        }
        let (mut more, mut behind) = (rows.len() == PAGE, false);
        if self.payloads {
            // What was given out before `info` was read is there as a whole.
            let after = cursor.emissions.checked_sub(1);
            let logs = store.logs(run, cursor.emissions, PAGE).await?;
            let messages = store.messages(run, after, PAGE).await?;
            let published = store.published(run, None, after, PAGE).await?;
            let mut end = info.emissions.max(cursor.emissions);
            for (count, last) in [
                (logs.len(), logs.last().map(|line| line.number)),
                (messages.len(), messages.last().map(|message| message.number)),
                (published.len(), published.last().map(|published| published.number)),
            ] {
                // Behind the end of a full page something may be missing.
                if let Some(last) = last.filter(|_| count == PAGE) {
                    end = end.min(last + 1);
                    more = true;
                }
            }
            let logs = logs.iter().filter(|_| self.kinds.has("log"));
            let logs = logs.map(|line| (line.number, "log", raw(&LogView::of(line))));
            let messages = messages.iter().filter(|_| self.kinds.has("message"));
            let messages = messages.map(|m| (m.number, "message", raw(&MessageView::of(m))));
            let published = published.iter().filter(|_| self.kinds.has("state"));
            let published = published.map(|p| (p.number, "state", raw(&PublishedView::of(run, p))));
            let mut given: Vec<_> =
                logs.chain(messages).chain(published).filter(|(n, ..)| *n < end).collect();
            given.sort_by_key(|(number, ..)| *number);
            for (number, event, data) in given {
                cursor.emissions = number + 1;
                events.push(EventView { data, event, id: cursor.to_string() });
            }
            cursor.emissions = end;
            if self.kinds.has("live") {
                let kinds = vec![TranscriptKind::Answer, TranscriptKind::Progress];
                let filter = TranscriptFilter { after: cursor.transcript, step: None, kinds };
                let lines = store.transcript(run, filter, PAGE).await?;
                behind = lines.len() == PAGE;
                for line in &lines {
                    cursor.transcript = line.number;
                    events.push(EventView::new("live", &cursor, &TranscriptView::of(line)));
                }
            }
        }
        let more = more || behind;
        let told = cursor.entries >= info.entries.0;
        let view = RunView::of(&info);
        let view = if self.payloads { view } else { view.hidden() };
        Ok(News {
            events,
            cursor: Cursor::Run(cursor),
            ended: info.state.is_final() && told && !more,
            more,
            run: Some(view),
        })
    }

    async fn read_all(&self, store: &SharedStore, from: AllCursor) -> Result<News, Trouble> {
        let mut cursor = from;
        let mut events = Vec::new();
        let changes = store.changes(cursor.place, PAGE).await?;
        for change in &changes {
            let known = std::mem::take(&mut cursor.part);
            let count = u64::from(change.row.count);
            if self.kinds.0.is_some() && self.kinds.has("commit") {
                cursor = AllCursor { place: change.place, part: 0 };
                let end = change.row.end();
                events.push(EventView::new(
                    "commit",
                    &cursor,
                    &document! { "run": change.run, "entries": end },
                ));
            }
            if self.kinds.has("entry") {
                for (number, entry) in (1..).zip(change.row.entries()) {
                    let unreadable = |error: wfhost_core::EntryError| {
                        Trouble::from(HostError::Journal { run: change.run.clone(), source: error.into() })
                    };
                    let (position, entry) = entry.map_err(unreadable)?;
                    if number <= known {
                        continue;
                    }
                    cursor = match number < count {
                        // The place of the commit before it, whichever that is.
                        true => AllCursor { place: change.place - 1, part: number },
                        false => AllCursor { place: change.place, part: 0 },
                    };
                    let view = EntryView::of(position, &entry).event(&change.run, &change.place);
                    let view = if self.payloads { view } else { view.hidden() };
                    events.push(EventView::new("entry", &cursor, &view));
                }
            }
            cursor = AllCursor { place: change.place, part: 0 };
        }
        let more = changes.len() == PAGE;
        Ok(News { events, cursor: Cursor::All(cursor), ended: false, more, run: None })
    }
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
    let source = Source { run: Some(info.id), kinds, payloads: caller.may(Scope::PayloadsRead) };
    answer(&app, &caller, &headers, asked, source, Cursor::Run(cursor)).await
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
    answer(&app, &caller, &headers, asked, source, Cursor::All(cursor)).await
}

async fn look(app: &App, source: &Source, cursor: Cursor) -> Result<News, Problem> {
    let source = source.clone();
    app.read(async move |store| source.read(&store, cursor).await).await
}

async fn answer(
    app: &App,
    caller: &Identity,
    headers: &HeaderMap,
    asked: EventsAsked,
    source: Source,
    cursor: Cursor,
) -> Result<Response, Problem> {
    let patience = wait(asked.wait.as_deref())?;
    let most = limit(asked.limit, 200, 1_000)?;
    if wants_stream(headers) {
        let place = app.stream(caller)?;
        return Ok(as_stream(app, source, cursor, asked.follow.unwrap_or(true), place));
    }
    let _place = patience.map(|_| app.stream(caller)).transpose()?;
    let until = tokio::time::Instant::now() + patience.unwrap_or_default();
    let (mut changes, mut draining) = (app.changes(), app.draining());
    let mut cursor = cursor;
    let mut news = loop {
        changes.borrow_and_update();
        let news = look(app, &source, cursor).await?;
        if !news.events.is_empty() || news.ended || tokio::time::Instant::now() >= until || *draining.borrow()
        {
            break news;
        }
        // What is not wanted is behind us.
        cursor = news.cursor;
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

/// What a stream knows.
struct Telling {
    app: App,
    source: Source,
    cursor: Cursor,
    follow: bool,
    changes: tokio::sync::watch::Receiver<u64>,
    draining: tokio::sync::watch::Receiver<bool>,
    ready: VecDeque<String>,
    /// How the run showed last.
    shown: Option<String>,
    over: bool,
    begun: bool,
    /// When something was said last.
    spoke: tokio::time::Instant,
    _place: Stream,
}

fn as_stream(app: &App, source: Source, cursor: Cursor, follow: bool, place: Stream) -> Response {
    let telling = Telling {
        app: app.clone(),
        source,
        cursor,
        follow,
        changes: app.changes(),
        draining: app.draining(),
        ready: VecDeque::new(),
        shown: None,
        over: false,
        begun: false,
        spoke: tokio::time::Instant::now(),
        _place: place,
    };
    let told = stream::unfold(telling, async |mut telling| {
        let text = telling.next().await?;
        Some((Ok::<_, std::convert::Infallible>(text), telling))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        // Proxies are not to gather them.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(told)).into_response()
}

impl Telling {
    /// The next text to send.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                self.spoke = tokio::time::Instant::now();
                return Some(text);
            }
            if self.over {
                return None;
            }
            if self.begun {
                self.wait().await;
            }
            self.begun = true;
            if !self.ready.is_empty() || self.over {
                continue;
            }
            self.look().await;
        }
    }

    /// Waits until there may be something to tell.
    async fn wait(&mut self) {
        let ping = tokio::time::sleep_until(self.spoke + PING);
        tokio::pin!(ping);
        let (bye, pinged) = ("retry: 500\n".to_owned() + &self.plain("bye"), self.plain("ping"));
        let beside = self.source.run.is_some() && self.source.payloads && self.source.kinds.has("live");
        tokio::select! {
            biased;
            () = ended(&mut self.draining) => {
                // Another server goes on behind the cursor.
                self.ready.push_back(bye);
                self.over = true;
            }
            _ = self.changes.changed() => self.app.breathe().await,
            () = tokio::time::sleep(LOOK), if beside => {}
            () = &mut ping => self.ready.push_back(pinged),
        }
    }

    /// An event that only tells where one is.
    fn plain(&self, event: &'static str) -> String {
        EventView::new(event, &self.cursor, &document! {}).text()
    }

    async fn look(&mut self) {
        self.changes.borrow_and_update();
        let news = match look(&self.app, &self.source, self.cursor).await {
            Ok(news) => news,
            Err(problem) => {
                // The client comes again, behind what it has.
                let view = document! { "code": problem.trouble().code, "title": problem.trouble().message };
                self.ready.push_back(
                    "retry: 2000\n".to_owned() + &EventView::new("bye", &self.cursor, &view).text(),
                );
                self.over = true;
                return;
            }
        };
        self.ready.extend(news.events.iter().map(EventView::text));
        self.cursor = news.cursor;
        if let Some(view) = news.run.filter(|_| !news.more && self.source.kinds.has("run")) {
            let text = raw(&view).get().to_owned();
            if self.shown.as_ref() != Some(&text) {
                self.ready.push_back(EventView::new("run", &self.cursor, &view).text());
                self.shown = Some(text);
            }
        }
        if news.more {
            // Told at once: nothing is waited for.
            self.begun = false;
        } else if news.ended || !self.follow {
            self.ready.push_back(self.plain("end"));
            self.over = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back() {
        let run = RunCursor { entries: 3, emissions: 0, transcript: 77 };
        assert_eq!(RunCursor::parse(&run.to_string()), Some(run));
        for cursor in [AllCursor { place: 5, part: 0 }, AllCursor { place: 5, part: 2 }] {
            assert_eq!(AllCursor::parse(&cursor.to_string()), Some(cursor));
        }
        for text in ["", "1", "1.2", "1.2.x", "1.2.3.4", "-1.2.3", "99999999999999999999.0.0"] {
            assert_eq!(RunCursor::parse(text), None, "{text}");
        }
        assert_eq!(AllCursor::parse("1.2.3"), None);
    }

    #[test]
    fn a_stream_is_what_asks_for_one() {
        let mut headers = HeaderMap::new();
        assert!(!wants_stream(&headers));
        headers.insert(header::ACCEPT, "application/json, text/event-stream;q=0.5".parse().unwrap());
        assert!(wants_stream(&headers));
    }
}
