//! `wfhost sinks`

use std::sync::Arc;

use serde_json::{Value, json};
use wfhost::agents::Poster;
use wfhost::clock::rfc3339;
use wfhost::store::{Delivery, DeliveryFilter, DeliveryState, SharedStore, SinkLoad};
use wfhost_config::{Sink, SinkTo};
use wfhost_core::RunId;
use wfhost_notify::{Tried, deliver_now, try_sink};
use wfhost_view::ago;

use super::delete::confirm;
use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, nearest};
use super::printer::{Column, left, right};
use super::tell::{Reports, sinks};
use super::{Common, Format, printer};

/// Tell others what happens to runs
///
/// Sinks are configured under [sinks.NAME]: an address that messages are posted to,
/// signed as Standard Webhooks has it, or a program that reads them. `wfhost serve` delivers them, each at
/// least once. https://github.com/wfhost/wfhost/blob/main/docs/sinks.md
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "Examples:
  wfhost sinks ls
  wfhost sinks test ops
  wfhost sinks log --state given-up
  wfhost sinks retry --sink ops")]
pub(crate) struct SinksVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List who is told, and how that goes
    Ls,
    /// Send a message that only tests the way
    Test(Test),
    /// List messages, the latest first
    Log(Log),
    /// Deliver messages again that were given up, or those that are named
    Retry(Retry),
    /// Deliver what is due now, once, without a server
    Deliver,
    /// Forget a sink that is not configured any more, with all its messages
    Forget(Forget),
}

#[derive(clap::Args)]
struct Test {
    /// A name in the configuration
    sink: String,
}

#[derive(clap::Args)]
struct Log {
    /// Only of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Only those that are pending, delivered or given-up
    #[arg(long, value_parser = state_arg)]
    state: Option<DeliveryState>,
    /// Only about this run
    #[arg(long)]
    run: Option<String>,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 50)]
    limit: usize,
}

#[derive(clap::Args)]
struct Retry {
    /// Messages by their ids, whatever became of them [default: all that were given up]
    messages: Vec<String>,
    /// Only of this sink
    #[arg(long)]
    sink: Option<String>,
}

#[derive(clap::Args)]
struct Forget {
    /// As `ls` lists it
    sink: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Messages that are looked at to be delivered again.
const MOST: usize = 10_000;

fn state_arg(text: &str) -> Result<DeliveryState, String> {
    DeliveryState::parse(text).ok_or_else(|| "one of pending, delivered, given-up".to_owned())
}

/// Where a sink is, without what could be used by others.
fn place(sink: &Sink) -> String {
    match &sink.to {
        SinkTo::Url { url, .. } => {
            let begin = url.find("://").map_or(0, |at| at + 3);
            let end = url[begin..].find(['/', '?', '#']).map_or(url.len(), |at| begin + at);
            wfhost::agents::hide_credentials(&url[..end])
        }
        SinkTo::Program { argv, .. } => argv.first().cloned().unwrap_or_default(),
    }
}

fn no_such_sink(name: &str, known: &[String]) -> Trouble {
    let trouble = Trouble::usage("WF0850", format!("unknown sink `{name}`"));
    match nearest(name, known.iter().map(String::as_str)) {
        Some(nearest) => trouble.hint(format!("did you mean `{nearest}`?")),
        None => trouble.hint("`wfhost sinks ls` lists all sinks; configure one under [sinks.NAME]"),
    }
}

/// The id of a sink by which the database knows it, of its name or its id.
fn id_of(name: &str, configured: &[Sink], loads: &[SinkLoad]) -> Result<String, Trouble> {
    if let Some(sink) = configured.iter().find(|sink| sink.name == name || sink.id == name) {
        return Ok(sink.id.clone());
    }
    if let Some(load) = loads.iter().find(|load| load.sink == name) {
        return Ok(load.sink.clone());
    }
    let known =
        configured.iter().map(|sink| sink.name.clone()).chain(loads.iter().map(|load| load.sink.clone()));
    Err(no_such_sink(name, &known.collect::<Vec<_>>()))
}

/// The id of the sink that was named, if one was.
async fn chosen(
    name: Option<&str>,
    configured: &[Sink],
    store: &SharedStore,
) -> Result<Option<String>, Trouble> {
    let Some(name) = name else { return Ok(None) };
    id_of(name, configured, &store.sink_loads().await?).map(Some)
}

impl SinksVerb {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let configured = sinks([&common.config()?])?;
        if let Verb::Test(test) = &self.verb {
            return test.execute(common, &configured).await;
        }
        let store = match &self.verb {
            Verb::Ls | Verb::Log(_) => common.reader().await?,
            _ => common.store().await?,
        };
        match &self.verb {
            Verb::Test(_) => Ok(Exit::Done),
            Verb::Ls => list(common, &store, &configured).await,
            Verb::Log(log) => log.execute(common, &store, &configured).await,
            Verb::Retry(retry) => retry.execute(common, &store, &configured).await,
            Verb::Deliver => deliver(common, &store, &configured).await,
            Verb::Forget(forget) => forget.execute(common, &store, &configured).await,
        }
    }
}

/// The last failure of a sink, if something waits or was given up.
async fn last_failure(store: &SharedStore, sink: &str) -> Result<Option<String>, Trouble> {
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

async fn list(common: &Common, store: &SharedStore, configured: &[Sink]) -> Result<Exit, Trouble> {
    let loads = store.sink_loads().await?;
    let mut ids: Vec<String> = configured.iter().map(|sink| sink.id.clone()).collect();
    ids.extend(loads.iter().map(|load| load.sink.clone()));
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    let mut views = Vec::new();
    for id in ids {
        let sink = configured.iter().find(|sink| sink.id == id);
        let load = loads.iter().find(|load| load.sink == id);
        views.push(json!({
            "sink": id,
            "name": sink.map_or(id.as_str(), |sink| sink.name.as_str()),
            "configured": sink.is_some(),
            "to": sink.map(place),
            "events": sink.map(|sink| sink.events.clone()),
            "pending": load.map_or(0, |load| load.pending),
            "delivered": load.map_or(0, |load| load.delivered),
            "given_up": load.map_or(0, |load| load.given_up),
            "oldest_seconds": load.and_then(|load| load.oldest_ms).map(|ms| ms / 1_000),
            "last_failure": last_failure(store, &id).await?,
        }));
    }
    if common.output != Format::Text {
        printer::json(&json!({ "schema": "wfhost/sinks/1", "sinks": views }));
        return Ok(Exit::Done);
    }
    if views.is_empty() {
        printer::note("no sink is configured; add one under [sinks.NAME] to the configuration");
        return Ok(Exit::Done);
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    const COLUMNS: [Column; 6] = [
        left("NAME"),
        left("TO"),
        right("PENDING"),
        right("DELIVERED"),
        right("GIVEN UP"),
        left("LAST FAILURE"),
    ];
    let rows = views.iter().map(|view| {
        let to = match view["configured"] == true {
            true => text(&view["to"]),
            false => "(not configured here)".to_owned(),
        };
        let name = text(&view["name"]);
        let counts = ["pending", "delivered", "given_up", "last_failure"].map(|key| text(&view[key]));
        [name, to].into_iter().chain(counts).collect::<Vec<_>>()
    });
    printer::table(&COLUMNS.each_ref(), rows);
    Ok(Exit::Done)
}

impl Test {
    async fn execute(&self, common: &Common, configured: &[Sink]) -> Result<Exit, Trouble> {
        let known: Vec<String> = configured.iter().map(|sink| sink.name.clone()).collect();
        let sink = configured.iter().find(|sink| sink.name == self.sink);
        let sink = sink.ok_or_else(|| no_such_sink(&self.sink, &known))?;
        let now = wfhost::clock::now();
        let message = format!("msg_test_{}", now.0);
        let body = json!({
            "type": "sink.test", "timestamp": rfc3339(now), "data": { "sink": sink.name },
        });
        let poster = Poster::default();
        match try_sink(&poster, sink, &message, "sink.test", "none", &body.to_string(), now).await {
            Tried::Delivered => {
                printer::say(common, "Delivered", &format!("{message} to {} at {}", sink.name, place(sink)));
                Ok(Exit::Done)
            }
            Tried::Failed { said, .. } | Tried::Gone { said } => {
                Err(Trouble::host("WF0851", format!("{} did not take it: {said}", sink.name))
                    .hint("receivers answer with 200 to 299, programs end with 0"))
            }
        }
    }
}

fn view(delivery: &Delivery) -> Value {
    let body: Value = serde_json::from_str(&delivery.what.body).unwrap_or_default();
    json!({
        "message": delivery.what.message,
        "sink": delivery.what.sink,
        "event": delivery.what.event,
        "run": delivery.what.run,
        "state": delivery.state.as_str(),
        "tries": delivery.tries,
        "created_at": rfc3339(delivery.created_at),
        "next_at": delivery.next_at.map(rfc3339),
        "ended_at": delivery.ended_at.map(rfc3339),
        "last_failure": delivery.said,
        "body": body,
    })
}

impl Log {
    async fn execute(
        &self,
        common: &Common,
        store: &SharedStore,
        configured: &[Sink],
    ) -> Result<Exit, Trouble> {
        let sink = chosen(self.sink.as_deref(), configured, store).await?;
        let run: Option<RunId> = match &self.run {
            Some(run) => Some(find_run(store.as_ref(), run).await?.id),
            None => None,
        };
        let filter = DeliveryFilter { sink, state: self.state, run, ..DeliveryFilter::default() };
        let found = store.deliveries(filter, self.limit).await?;
        if common.output != Format::Text {
            let views: Vec<_> = found.iter().map(view).collect();
            printer::json(&json!({ "schema": "wfhost/deliveries/1", "deliveries": views }));
            return Ok(Exit::Done);
        }
        const COLUMNS: [Column; 8] = [
            left("AGO"),
            left("MESSAGE"),
            left("SINK"),
            left("EVENT"),
            left("RUN"),
            left("STATE"),
            right("TRIES"),
            left("LAST FAILURE"),
        ];
        let now = store.now();
        let rows = found.iter().map(|delivery| {
            vec![
                ago(delivery.created_at, now),
                delivery.what.message.clone(),
                delivery.what.sink.split('@').next().unwrap_or_default().to_owned(),
                delivery.what.event.clone(),
                delivery.what.run.to_string(),
                delivery.state.as_str().to_owned(),
                delivery.tries.to_string(),
                delivery.said.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        });
        printer::table(&COLUMNS.each_ref(), rows);
        Ok(Exit::Done)
    }
}

impl Retry {
    async fn execute(
        &self,
        common: &Common,
        store: &SharedStore,
        configured: &[Sink],
    ) -> Result<Exit, Trouble> {
        let sink = chosen(self.sink.as_deref(), configured, store).await?;
        let mut numbers = Vec::new();
        if self.messages.is_empty() {
            let filter =
                DeliveryFilter { sink, state: Some(DeliveryState::GivenUp), ..DeliveryFilter::default() };
            let found = store.deliveries(filter, MOST).await?;
            numbers.extend(found.iter().map(|delivery| delivery.number));
        } else {
            for message in &self.messages {
                let filter = DeliveryFilter {
                    sink: sink.clone(),
                    message: Some(message.clone()),
                    ..DeliveryFilter::default()
                };
                let found = store.deliveries(filter, MOST).await?;
                if found.is_empty() {
                    return Err(Trouble::usage("WF0852", format!("unknown message `{message}`"))
                        .hint("`wfhost sinks log` lists the messages of the last thirty days"));
                }
                numbers.extend(found.iter().map(|delivery| delivery.number));
            }
        }
        let count = store.redeliver(numbers).await?;
        printer::say(
            common,
            "Due",
            &format!("{count} messages: `wfhost serve` delivers them, or `wfhost sinks deliver`"),
        );
        Ok(Exit::Done)
    }
}

async fn deliver(common: &Common, store: &SharedStore, configured: &[Sink]) -> Result<Exit, Trouble> {
    let report: Arc<dyn wfhost_notify::Report> =
        Arc::new(Reports { common: common.clone(), metrics: None, log: None });
    let (tried, there) = deliver_now(store, configured, &report, None).await?;
    if there < tried {
        return Err(Trouble::host("WF0851", format!("{} of {tried} messages were not taken", tried - there))
            .hint("they are tried again later; `wfhost sinks log --state pending` says why"));
    }
    printer::say(common, "Delivered", &format!("{there} messages"));
    Ok(Exit::Done)
}

impl Forget {
    async fn execute(
        &self,
        common: &Common,
        store: &SharedStore,
        configured: &[Sink],
    ) -> Result<Exit, Trouble> {
        let loads = store.sink_loads().await?;
        // One that never had anything to deliver has a cursor.
        let id = match store.cursors().await?.into_iter().find(|cursor| cursor.name == self.sink) {
            Some(cursor) => cursor.name,
            None => id_of(&self.sink, configured, &loads)?,
        };
        let load = loads.iter().find(|load| load.sink == id);
        let pending = load.map_or(0, |load| load.pending);
        confirm(self.yes, &format!("Forget {id}, and {pending} messages that it has not got?"))?;
        store.drop_cursor(&id).await?;
        printer::say(common, "Forgot", &id);
        Ok(Exit::Done)
    }
}
