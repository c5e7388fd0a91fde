//! `wfhost sinks`

use std::sync::Arc;

use serde_json::json;
use wfhost::agents::Poster;
use wfhost::clock::rfc3339;
use wfhost::store::{Cursor, DeliveryFilter, DeliveryState, SharedStore};
use wfhost_config::{RESERVED, Sink};
use wfhost_core::{RunId, counted};
use wfhost_notify::{Tried, deliver_now, try_sink};
use wfhost_view::{DeliveriesView, SinksView, ago, find_sink, no_such_sink, redeliver, sink_place};

use super::delete::confirm;
use super::diagnostic::{Exit, UserError};
use super::place::{count_arg, find_run};
use super::printer::{Column, left, right};
use super::tell::{Reports, sinks};
use super::{Common, Format, printer};

/// Send run events to URLs and programs
///
/// Sinks are configured under [sinks.NAME]: a URL that messages are posted to, signed
/// according to Standard Webhooks, or a program that reads them. `wfhost serve` delivers each message at
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
    /// List the sinks and the state of their deliveries
    Ls,
    /// Send a test message
    Test(Test),
    /// List messages, the latest first
    Log(Log),
    /// Retry messages that were given up, or the given ones
    Retry(Retry),
    /// Deliver due messages once, without a server
    Deliver,
    /// Forget a sink that is no longer configured, with all its messages
    Forget(Forget),
}

#[derive(clap::Args)]
struct Test {
    /// The name of the sink in the configuration
    sink: String,
}

#[derive(clap::Args)]
struct Log {
    /// Only of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Only messages in this state: pending, delivered or given-up
    #[arg(long, value_parser = state_arg)]
    state: Option<DeliveryState>,
    /// Only messages about this run
    #[arg(long)]
    run: Option<String>,
    /// The maximum number of messages
    #[arg(short = 'n', long, default_value_t = 50, value_parser = count_arg)]
    limit: usize,
}

#[derive(clap::Args)]
struct Retry {
    /// Ids of messages in any state [default: all that were given up]
    messages: Vec<String>,
    /// Only of this sink
    #[arg(long)]
    sink: Option<String>,
}

#[derive(clap::Args)]
struct Forget {
    /// The name of the sink, as `ls` lists it
    sink: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

fn state_arg(text: &str) -> Result<DeliveryState, String> {
    DeliveryState::parse(text).ok_or_else(|| "one of pending, delivered, given-up".to_owned())
}

/// The id of the sink that was named, if one was.
async fn chosen(
    name: Option<&str>,
    configured: &[Sink],
    store: &SharedStore,
) -> Result<Option<String>, UserError> {
    let Some(name) = name else { return Ok(None) };
    find_sink(store.as_ref(), configured, name).await.map(Some)
}

impl SinksVerb {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
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

async fn list(common: &Common, store: &SharedStore, configured: &[Sink]) -> Result<Exit, UserError> {
    let view = SinksView::of(store.as_ref(), configured).await?;
    if common.output != Format::Text {
        printer::json(&view);
        return Ok(Exit::Done);
    }
    if view.sinks.is_empty() {
        printer::note("no sink is configured; add one under [sinks.NAME] to the configuration");
        return Ok(Exit::Done);
    }
    const COLUMNS: [Column; 6] = [
        left("NAME"),
        left("TO"),
        right("PENDING"),
        right("DELIVERED"),
        right("GIVEN UP"),
        left("LAST FAILURE"),
    ];
    let rows = view.sinks.into_iter().map(|sink| {
        let counts = [sink.pending, sink.delivered, sink.given_up].map(|count| count.to_string());
        let to = sink.to.unwrap_or_else(|| "(not configured here)".to_owned());
        let failure = sink.last_failure.unwrap_or_else(|| "-".to_owned());
        [sink.name, to].into_iter().chain(counts).chain([failure]).collect::<Vec<_>>()
    });
    printer::table(&COLUMNS.each_ref(), rows);
    Ok(Exit::Done)
}

impl Test {
    async fn execute(&self, common: &Common, configured: &[Sink]) -> Result<Exit, UserError> {
        let known = configured.iter().map(|sink| sink.name.as_str());
        let sink = configured.iter().find(|sink| sink.name == self.sink);
        let sink = sink.ok_or_else(|| no_such_sink(&self.sink, known))?;
        // The time of the store, as that of all other messages.
        let now = common.reader().await?.now();
        let message = format!("msg_test_{}", now.0);
        let body = json!({
            "type": "sink.test", "timestamp": rfc3339(now), "data": { "sink": sink.name },
        });
        let poster = Poster::default();
        match try_sink(&poster, sink, &message, "sink.test", "none", &body.to_string(), now).await {
            Tried::Delivered => {
                printer::say(
                    common,
                    "Delivered",
                    &format!("{message} to {} at {}", sink.name, sink_place(sink)),
                );
                Ok(Exit::Done)
            }
            Tried::Failed { said, .. } | Tried::Gone { said } => {
                Err(UserError::host("WF0851", format!("{} did not accept the message: {said}", sink.name))
                    .hint("a receiver has to answer with 200 to 299, a program to exit with 0"))
            }
        }
    }
}

impl Log {
    async fn execute(
        &self,
        common: &Common,
        store: &SharedStore,
        configured: &[Sink],
    ) -> Result<Exit, UserError> {
        let sink = chosen(self.sink.as_deref(), configured, store).await?;
        let run: Option<RunId> = match &self.run {
            Some(run) => Some(find_run(store.as_ref(), run).await?.id),
            None => None,
        };
        let filter = DeliveryFilter { sink, state: self.state, run, ..DeliveryFilter::default() };
        if common.output != Format::Text {
            printer::json(&DeliveriesView::of(store.as_ref(), filter, self.limit).await?);
            return Ok(Exit::Done);
        }
        let found = store.deliveries(filter, self.limit).await?;
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
    ) -> Result<Exit, UserError> {
        let sink = chosen(self.sink.as_deref(), configured, store).await?;
        let count = redeliver(store.as_ref(), sink.as_deref(), &self.messages).await?;
        printer::say(
            common,
            "Due",
            &format!("{}, delivered by `wfhost serve` or `wfhost sinks deliver`", counted(count, "message")),
        );
        Ok(Exit::Done)
    }
}

async fn deliver(common: &Common, store: &SharedStore, configured: &[Sink]) -> Result<Exit, UserError> {
    let report: Arc<dyn wfhost_notify::Report> =
        Arc::new(Reports { common: common.clone(), metrics: None, log: None });
    let (tried, there) = deliver_now(store, configured, &report, None).await?;
    if there < tried {
        return Err(UserError::host(
            "WF0851",
            format!("{} of {} could not be delivered", tried - there, counted(tried, "message")),
        )
        .hint("they will be retried; `wfhost sinks log --state pending` shows why"));
    }
    printer::say(common, "Delivered", &counted(there, "message"));
    Ok(Exit::Done)
}

impl Forget {
    async fn execute(
        &self,
        common: &Common,
        store: &SharedStore,
        configured: &[Sink],
    ) -> Result<Exit, UserError> {
        let loads = store.sink_loads().await?;
        // One that never had anything to deliver has a cursor.
        let is_sink = |cursor: &Cursor| cursor.name == self.sink && !RESERVED.contains(&self.sink.as_str());
        let id = match store.cursors().await?.into_iter().find(is_sink) {
            Some(cursor) => cursor.name,
            None => find_sink(store.as_ref(), configured, &self.sink).await?,
        };
        let load = loads.iter().find(|load| load.sink == id);
        let pending = load.map_or(0, |load| load.pending);
        confirm(self.yes, &format!("Forget {id} and its {}?", counted(pending, "undelivered message")))?;
        store.drop_cursor(&id).await?;
        printer::say(common, "Forgot", &id);
        Ok(Exit::Done)
    }
}
