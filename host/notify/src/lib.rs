//! Tells others what was committed, by whichever process: webhooks, programs, collectors of traces.
//!
//! Nothing is done where runs are advanced. A teller is a reader of the commits, with a place of its own in
//! the store ([`wfhost::store::Cursor`]). What follows from the commits is kept as deliveries in the
//! transaction that moves the place, and each is tried until it is there or given up. So whoever dies, the
//! next host goes on where he was: nothing is left out, and what comes twice has the same id.

mod event;
mod export;
mod plan;
mod program;
mod reader;
mod send;
mod signature;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use wfhost::store::SharedStore;
use wfhost_config::Sink;

pub use self::export::{ExportOptions, OTLP_CURSOR, Otlp};
use self::send::Sender;
pub use self::send::{Tried, try_sink};
pub use self::signature::{sign, signing_key};

/// What a teller does, as it does it.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// A try of a delivery ended: `delivered`, `again`, `given-up`. `said`: why it failed.
    Delivery {
        /// The name of the sink.
        sink: &'a str,
        event: &'a str,
        run: &'a wfhost_core::RunId,
        message: &'a str,
        tries: u32,
        outcome: &'static str,
        said: Option<&'a str>,
    },
    /// So many spans were sent to a collector, and whether it took them.
    Spans { count: u64, refused: Option<&'a str> },
    /// What a collector did not take of what it was sent: it does not want it again.
    Rejected { count: u64, said: &'a str },
    /// The store did not do what it was asked for.
    Failed { what: &'static str, why: &'a str },
}

/// Is told what a teller does.
pub trait Report: Send + Sync + fmt::Debug {
    fn told(&self, told: Told<'_>);
}

/// What is told to whom.
#[derive(Clone, Debug)]
pub struct Options {
    pub store: SharedStore,
    pub sinks: Vec<Sink>,
    /// Where spans go, if they go anywhere.
    pub export: Option<ExportOptions>,
    pub report: Arc<dyn Report>,
    /// Where people see runs: `https://wf.example.org`.
    pub url: Option<String>,
}

/// Tells others until it is stopped.
#[derive(Debug)]
pub struct Teller {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Teller {
    /// Begins. Nothing is done, and nothing costs, if there is nobody to tell.
    pub fn start(options: Options) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let Options { store, sinks, export, report, url } = options;
        if !sinks.is_empty() {
            let sinks: Arc<[Sink]> = sinks.into();
            let planner = plan::Planner::new(&store, &sinks, &report, url);
            tasks.spawn(planner.run(stopped.clone()));
            for sink in sinks.iter() {
                tasks.spawn(Sender::new(&store, sink, &report).run(stopped.clone()));
            }
        }
        if let Some(export) = export {
            tasks.spawn(export::Exporter::new(&store, export, &report).run(stopped));
        }
        Self { stop, tasks }
    }

    /// Begins nothing any more, and waits so long for what is under way. Whatever is not done then is done
    /// by the next host.
    pub async fn stop(mut self, patience: Duration) {
        let _ = self.stop.send(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(patience, all).await;
    }
}

/// Reads the commits that nobody told of yet, and tries all that is due, once. Gives how many deliveries
/// were tried and how many of them are there.
pub async fn deliver_now(
    store: &SharedStore,
    sinks: &[Sink],
    report: &Arc<dyn Report>,
    url: Option<String>,
) -> Result<(u64, u64), wfhost::store::StoreError> {
    let sinks: Arc<[Sink]> = sinks.to_vec().into();
    let mut planner = plan::Planner::new(store, &sinks, report, url);
    while planner.look().await? {}
    planner.leave().await;
    let (mut tried, mut there) = (0, 0);
    for sink in sinks.iter() {
        let (all, good) = Sender::new(store, sink, report).once().await?;
        tried += all;
        there += good;
    }
    Ok((tried, there))
}

/// How often is looked for what was committed, and what is due.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
