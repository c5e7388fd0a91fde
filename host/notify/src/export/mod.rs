//! Sends spans to a collector, as they come to their ends.
//!
//! Spans are made of journals ([`wfhost_view::Trace`]), by whoever has the cursor: those that ended since it
//! was moved last. It is moved when the collector has taken them. So a collector that is away misses nothing,
//! a host that dies leaves the rest to the next one, and what comes twice has the same ids.

mod otlp;
mod protobuf;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wfhost::agents::Poster;
use wfhost::store::{RunFilter, RunState, SharedStore, StoreError};
use wfhost_core::{Journal, Position, RunId};
use wfhost_view::{Span, Trace};

pub use self::otlp::Otlp;
use self::otlp::Sent;
use crate::plan::aside;
use crate::reader::{Reader, holder};
use crate::{Report, Told};

/// The name of the cursor. There is one for each database: all hosts tell one collector.
pub const OTLP_CURSOR: &str = "otlp";

/// How spans are sent.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    pub to: Otlp,
    /// What runs work on is told, too.
    pub content: bool,
    /// How often what ended is sent.
    pub every: Duration,
}

/// Commits that are read at once.
const PAGE: usize = 2_000;
/// Spans of one request.
const SPANS: usize = 500;
/// Runs of which is remembered how far they were told.
const REMEMBERED: usize = 20_000;
/// Runs that go on when the first collector comes, and are told from their beginnings.
const UNDER_WAY: usize = 10_000;
/// How long is waited after the first request that failed, and at most.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Why it cannot go on now.
enum Halt {
    Store(StoreError),
    /// The collector did not take it.
    Away {
        why: String,
        after: Option<Duration>,
    },
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

pub(crate) struct Exporter {
    store: SharedStore,
    options: ExportOptions,
    report: Arc<dyn Report>,
    reader: Reader,
    poster: Poster,
    /// How many entries of a run were told by this process.
    told: HashMap<RunId, usize>,
    /// The cursor was made by this process, and what was under way then is not told yet.
    begins: bool,
    /// What it reads for the first time is told from its beginning.
    whole: bool,
}

impl Exporter {
    pub fn new(store: &SharedStore, options: ExportOptions, report: &Arc<dyn Report>) -> Self {
        Self {
            store: Arc::clone(store),
            options,
            report: Arc::clone(report),
            reader: Reader::new(OTLP_CURSOR.to_owned(), &holder()),
            poster: Poster::default(),
            told: HashMap::new(),
            begins: false,
            whole: false,
        }
    }

    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let (mut rest, mut known) = (REST, None);
        loop {
            let since = Instant::now();
            let wait = match self.look().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => {
                    (rest, known) = (REST, None);
                    self.options.every.saturating_sub(since.elapsed())
                }
                Err(halt) => {
                    let (what, why, after) = match halt {
                        Halt::Store(error) => ("traces", error.to_string(), None),
                        Halt::Away { why, after } => ("collector", why, after),
                    };
                    if known.as_ref() != Some(&why) {
                        match what {
                            "collector" => self.report.told(Told::Spans { count: 0, refused: Some(&why) }),
                            what => self.report.told(Told::Failed { what, why: &why }),
                        }
                    }
                    known = Some(why);
                    let wait = rest.max(after.unwrap_or_default());
                    rest = (rest * 2).min(LONGEST_REST);
                    wait
                }
            };
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        // What ended while the host did.
        let _ = self.look().await;
        self.reader.leave(&self.store).await;
    }

    /// Sends what follows from a page of commits. True if there is more.
    async fn look(&mut self) -> Result<bool, Halt> {
        if self.reader.place.is_none() {
            let is_known = self.store.cursors().await?.iter().any(|cursor| cursor.name == OTLP_CURSOR);
            self.reader.hold(&self.store).await?;
            self.begins |= !is_known && self.reader.place.is_some();
        }
        let Some(place) = self.reader.place else { return Ok(false) };
        if self.begins {
            self.tell_under_way().await?;
            (self.begins, self.whole) = (false, true);
        }
        let store = Arc::clone(&self.store);
        let changes = aside(async move { store.changes(place, PAGE).await }).await?;
        let Some(end) = changes.last().map(|change| change.place) else {
            self.whole = false;
            self.reader.read_to(&self.store, place, Vec::new()).await?;
            return Ok(false);
        };
        let mut runs: BTreeMap<RunId, (usize, usize)> = BTreeMap::new();
        for change in &changes {
            let (first, last) = (change.row.first.0 as usize, change.row.end().0 as usize);
            let seen = runs.entry(change.run.clone()).or_insert((first, last));
            *seen = (seen.0.min(first), seen.1.max(last));
        }
        let mut ready = Vec::new();
        let mut told = Vec::new();
        for (run, (first, last)) in runs {
            let from = self.told.get(&run).copied();
            if from.is_some_and(|told| told >= last) {
                continue;
            }
            let Some((trace, entries, ended)) =
                self.news(&run, from.unwrap_or(if self.whole { 0 } else { first })).await?
            else {
                continue;
            };
            told.push((run, entries, ended));
            ready.push(trace);
        }
        self.send(ready).await?;
        for (run, entries, ended) in told {
            self.remember(run, entries, ended);
        }
        if !self.reader.keep(&self.store, end).await? {
            // Somebody else goes on.
            return Ok(false);
        }
        Ok(changes.len() == PAGE)
    }

    /// Tells what was under way when the cursor was made from its beginning: else it would have no root. The
    /// cursor is there already, so what ends meanwhile is behind it.
    async fn tell_under_way(&mut self) -> Result<(), Halt> {
        let states = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = RunFilter { states, limit: UNDER_WAY, ..RunFilter::default() };
        let store = Arc::clone(&self.store);
        for info in aside(async move { store.runs(filter).await }).await? {
            if self.told.contains_key(&info.id) {
                continue;
            }
            if let Some((trace, entries, ended)) = self.news(&info.id, 0).await? {
                self.send(vec![trace]).await?;
                self.remember(info.id, entries, ended);
            }
        }
        Ok(())
    }

    fn remember(&mut self, run: RunId, entries: usize, ended: bool) {
        if ended {
            self.told.remove(&run);
        } else {
            if self.told.len() >= REMEMBERED {
                // They are told from the commits that come, which is more than has to be at worst.
                self.told.clear();
            }
            self.told.insert(run, entries);
        }
    }

    /// The spans of a run that ended since it had `from` entries, how many it has, and whether it has ended.
    async fn news(&self, run: &RunId, from: usize) -> Result<Option<(Trace, usize, bool)>, StoreError> {
        let (store, run, content) = (Arc::clone(&self.store), run.clone(), self.options.content);
        let report = Arc::clone(&self.report);
        aside(async move {
            // First the journal: what is known of the run is never behind it.
            let rows = store.journal(&run, Position(0)).await?;
            let Some(info) = store.run(&run).await? else { return Ok(None) };
            let journal = match Journal::read(rows) {
                Ok(journal) => journal,
                Err(error) => {
                    // `wfhost verify` says more. The others are told all the same.
                    report.told(Told::Failed { what: "traces", why: &format!("{run}: {error}") });
                    return Ok(None);
                }
            };
            let entries = journal.entries.len();
            let mut trace = Trace::of(&info, &journal, content);
            if from > 0 {
                let mut before = journal;
                before.entries.truncate(from);
                let mut open = info.clone();
                // Whatever it was then: what says so ended behind it.
                (open.state, open.outcome) = (RunState::Running, None);
                let before = Trace::of(&open, &before, content);
                let known: HashMap<&str, &Span> =
                    before.spans.iter().map(|span| (span.id.as_str(), span)).collect();
                trace.spans.retain(|span| known.get(span.id.as_str()).is_none_or(|known| *known != span));
            }
            trace.spans.retain(|span| !span.is_open);
            Ok(Some((trace, entries, info.state.is_final())))
        })
        .await
    }

    /// Sends spans, some at a time.
    async fn send(&self, traces: Vec<Trace>) -> Result<(), Halt> {
        let mut batch: Vec<Trace> = Vec::new();
        let mut count = 0;
        for trace in traces {
            for part in trace.spans.chunks(SPANS) {
                if count > 0 && count + part.len() > SPANS {
                    self.post(&std::mem::take(&mut batch), count).await?;
                    count = 0;
                }
                batch.push(Trace { id: trace.id.clone(), spans: part.to_vec() });
                count += part.len();
            }
        }
        if count > 0 {
            self.post(&batch, count).await?;
        }
        Ok(())
    }

    async fn post(&self, traces: &[Trace], count: usize) -> Result<(), Halt> {
        let count = count as u64;
        match self.options.to.send(&self.poster, traces).await {
            Sent::Taken => self.report.told(Told::Spans { count, refused: None }),
            Sent::Rejected { count: rejected, said } => {
                self.report.told(Told::Spans { count: count.saturating_sub(rejected), refused: None });
                self.report.told(Told::Rejected { count: rejected.min(count), said: &said });
            }
            Sent::Away { why, after_ms } => {
                let after = after_ms.map(Duration::from_millis);
                return Err(Halt::Away { why, after });
            }
        }
        Ok(())
    }
}
