//! Sinks: who is told of events, and how that goes.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::clock::rfc3339;
use wfhost::store::{Cursor, Delivery, DeliveryFilter, DeliveryState, SinkLoad, Store, StoreError};
use wfhost_config::{Sink, SinkTo};
use wfhost_core::Json;

use crate::{Anything, UserError, nearest};

/// How far the commits were read for a sink.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SinkReadView {
    /// When that was last written down.
    pub at: String,
    /// Whether a host reads for it now.
    pub held: bool,
    /// The number of the last commit that was read.
    pub place: u64,
}

/// A sink, and how its deliveries go.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SinkView {
    /// Whether the configuration here has it.
    pub configured: bool,
    /// Messages that it took within the last thirty days.
    pub delivered: u64,
    /// The events that it is told of; null if it is not configured here.
    pub events: Option<Vec<String>>,
    /// Messages that are not tried again by themselves.
    pub given_up: u64,
    /// Why the latest message that it has not taken was refused.
    pub last_failure: Option<String>,
    /// As the configuration names it.
    pub name: String,
    /// How long the oldest pending message has been waiting, in seconds.
    pub oldest_seconds: Option<u64>,
    /// Messages that are still to be delivered.
    pub pending: u64,
    /// Null before a host has served it for the first time.
    pub read: Option<SinkReadView>,
    /// The name in the database: for a sink of a project, with the path of its file.
    pub sink: String,
    /// `ok`, `failing` while refused messages are tried again, `given-up` if there are some that are not.
    pub state: &'static str,
    /// The origin of the URL, or the program.
    pub to: Option<String>,
}

/// All sinks.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SinksView {
    /// The number of the latest commit of the database.
    pub last_place: u64,
    #[schema(example = "wfhost/sinks/1")]
    pub schema: &'static str,
    pub sinks: Vec<SinkView>,
}

/// A message to a sink.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeliveryView {
    /// The message as it is sent.
    #[schema(value_type = Anything)]
    pub body: Json,
    pub created_at: String,
    /// When it was delivered or given up.
    pub ended_at: Option<String>,
    pub event: String,
    /// Why the last attempt failed.
    pub last_failure: Option<String>,
    /// The id by which receivers recognize a message that they have already got.
    pub message: String,
    /// When it is tried next.
    pub next_at: Option<String>,
    pub run: String,
    pub sink: String,
    /// `pending`, `delivered`, `given-up`.
    pub state: &'static str,
    /// Attempts, the current one included.
    pub tries: u32,
}

/// Messages to sinks.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeliveriesView {
    /// Latest first.
    pub deliveries: Vec<DeliveryView>,
    /// The cursor of the next page, if there are more.
    pub next: Option<String>,
    #[schema(example = "wfhost/deliveries/1")]
    pub schema: &'static str,
}

/// Where a sink sends to, without the parts of a URL that would let others send there.
pub fn sink_place(sink: &Sink) -> String {
    match &sink.to {
        SinkTo::Url { url, .. } => {
            let begin = url.find("://").map_or(0, |at| at + 3);
            let end = url[begin..].find(['/', '?', '#']).map_or(url.len(), |at| begin + at);
            wfhost::agents::hide_credentials(&url[..end])
        }
        SinkTo::Program { argv, .. } => argv.first().cloned().unwrap_or_default(),
    }
}

impl SinkView {
    fn of(
        id: &str,
        sink: Option<&Sink>,
        load: Option<&SinkLoad>,
        read: Option<&Cursor>,
        last_failure: Option<String>,
    ) -> Self {
        let (pending, given_up) = load.map_or((0, 0), |load| (load.pending, load.given_up));
        let state = match &last_failure {
            _ if given_up > 0 => "given-up",
            Some(_) if pending > 0 => "failing",
            _ => "ok",
        };
        Self {
            configured: sink.is_some(),
            delivered: load.map_or(0, |load| load.delivered),
            events: sink.map(|sink| sink.events.clone()),
            given_up,
            last_failure,
            name: sink.map_or(id, |sink| sink.name.as_str()).to_owned(),
            oldest_seconds: load.and_then(|load| load.oldest_ms).map(|ms| ms / 1_000),
            pending,
            read: read.map(|cursor| SinkReadView {
                at: rfc3339(cursor.at),
                held: cursor.is_held,
                place: cursor.place,
            }),
            sink: id.to_owned(),
            state,
            to: sink.map(sink_place),
        }
    }
}

impl SinksView {
    /// The configured sinks, in their order, and those that the database still has messages for.
    pub async fn of(store: &dyn Store, configured: &[Sink]) -> Result<Self, StoreError> {
        let (loads, cursors) = (store.sink_loads().await?, store.cursors().await?);
        let last_place = store.last_place().await?;
        let ids = configured.iter().map(|sink| sink.id.as_str());
        let ids = ids.chain(loads.iter().map(|load| load.sink.as_str()));
        let (mut seen, mut sinks) = (BTreeSet::new(), Vec::new());
        for id in ids.filter(|id| seen.insert(*id)) {
            sinks.push(SinkView::of(
                id,
                configured.iter().find(|sink| sink.id == id),
                loads.iter().find(|load| load.sink == id),
                cursors.iter().find(|cursor| cursor.name == id),
                last_failure(store, id).await?,
            ));
        }
        Ok(Self { last_place, schema: "wfhost/sinks/1", sinks })
    }
}

/// The last failure of a sink, if something is pending or was given up.
async fn last_failure(store: &dyn Store, sink: &str) -> Result<Option<String>, StoreError> {
    for state in [DeliveryState::Pending, DeliveryState::GivenUp] {
        let filter =
            DeliveryFilter { sink: Some(sink.to_owned()), state: Some(state), ..DeliveryFilter::default() };
        let found = store.deliveries(filter, 20).await?;
        if let Some(said) = found.into_iter().find_map(|delivery| delivery.said) {
            return Ok(Some(said));
        }
    }
    Ok(None)
}

impl DeliveryView {
    pub fn of(delivery: &Delivery) -> Self {
        Self {
            body: Json::parse(delivery.what.body.clone()).unwrap_or_else(|_| Json::null()),
            created_at: rfc3339(delivery.created_at),
            ended_at: delivery.ended_at.map(rfc3339),
            event: delivery.what.event.clone(),
            last_failure: delivery.said.clone(),
            message: delivery.what.message.clone(),
            next_at: delivery.next_at.map(rfc3339),
            run: delivery.what.run.to_string(),
            sink: delivery.what.sink.clone(),
            state: delivery.state.as_str(),
            tries: delivery.tries,
        }
    }
}

impl DeliveriesView {
    /// A page of at most `limit` messages, latest first.
    pub async fn of(store: &dyn Store, filter: DeliveryFilter, limit: usize) -> Result<Self, StoreError> {
        let mut found = store.deliveries(filter, limit.saturating_add(1)).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| last.number.to_string());
        let deliveries = found.iter().map(DeliveryView::of).collect();
        Ok(Self { deliveries, next, schema: "wfhost/deliveries/1" })
    }
}

/// The id of a sink in the database, by its name or its id.
pub async fn find_sink(store: &dyn Store, configured: &[Sink], name: &str) -> Result<String, UserError> {
    if let Some(sink) = configured.iter().find(|sink| sink.name == name || sink.id == name) {
        return Ok(sink.id.clone());
    }
    let loads = store.sink_loads().await?;
    if let Some(load) = loads.iter().find(|load| load.sink == name) {
        return Ok(load.sink.clone());
    }
    let known = configured.iter().map(|sink| sink.name.as_str());
    Err(no_such_sink(name, known.chain(loads.iter().map(|load| load.sink.as_str()))))
}

/// The error for a sink that is not there.
pub fn no_such_sink<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> UserError {
    let error = UserError::usage("WF0850", format!("unknown sink `{name}`"));
    match nearest(name, known) {
        Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
        None => error.hint("`wfhost sinks ls` lists all sinks; configure one under [sinks.NAME]"),
    }
}

/// Deliveries that are made due at once.
const SLICE: usize = 1_000;

/// Makes messages due again, as if they had never been tried: those with these ids, or all that were given
/// up if none is named. Returns how many.
pub async fn redeliver(store: &dyn Store, sink: Option<&str>, messages: &[String]) -> Result<u64, UserError> {
    let of_sink = || DeliveryFilter { sink: sink.map(str::to_owned), ..DeliveryFilter::default() };
    let mut count = 0;
    if messages.is_empty() {
        // From the latest to the oldest: one that fails again meanwhile is not made due twice.
        let mut before = None;
        loop {
            let filter = DeliveryFilter { state: Some(DeliveryState::GivenUp), before, ..of_sink() };
            let found = store.deliveries(filter, SLICE).await?;
            let numbers: Vec<_> = found.iter().map(|delivery| delivery.number).collect();
            before = numbers.last().copied();
            count += store.redeliver(numbers).await?;
            if found.len() < SLICE {
                return Ok(count);
            }
        }
    }
    // All of them are looked up first, so that a wrong id changes nothing.
    let mut numbers = Vec::new();
    for message in messages {
        let filter = DeliveryFilter { message: Some(message.clone()), ..of_sink() };
        let found = store.deliveries(filter, SLICE).await?;
        if found.is_empty() {
            return Err(UserError::usage("WF0852", format!("unknown message `{message}`"))
                .hint("`wfhost sinks log` lists the messages of the last thirty days"));
        }
        numbers.extend(found.iter().map(|delivery| delivery.number));
    }
    Ok(store.redeliver(numbers).await?)
}
