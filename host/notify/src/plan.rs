//! Finds what sinks are told of: reads the commits behind their cursors, and keeps what follows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wfhost::store::{
    Change, Family, NewDelivery, REFUSED_EVENT, Result, RunFilter, RunInfo, RunState, SharedStore, StoreError,
};
use wfhost_config::Sink;
use wfhost_core::{Position, RunId};

use crate::event::{Seen, What, concerns, message, seen, spent_part, taken_over};
use crate::reader::{Reader, holder};
use crate::{LOOK_EVERY, Report, Told};

/// Commits that are read at once.
const PAGE: usize = 500;
/// How often is looked for runs that are refused: no entry says that.
const REFUSED_EVERY: Duration = Duration::from_secs(5);
/// Refused runs that are read at once.
const REFUSED: usize = 500;
/// Where there are many of them, a look is followed by a rest so many times as long.
const REFUSED_REST: u32 = 10;
/// How long is remembered what was delivered or given up, in milliseconds: thirty days.
const REMEMBER_MS: u64 = 2_592_000_000;
/// How often that is looked after.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
/// How long is waited when the store does not answer.
const REST: Duration = Duration::from_secs(2);

pub(crate) struct Planner {
    store: SharedStore,
    sinks: Arc<[Sink]>,
    report: Arc<dyn Report>,
    url: Option<String>,
    readers: Vec<Reader>,
    /// Messages that are kept already, of runs that were refused at the last look.
    refused: BTreeSet<(String, String)>,
    /// When is looked for them again.
    look_at: Option<Instant>,
    forgot: Option<Instant>,
}

/// What was looked up about runs while a page of commits is read.
#[derive(Default)]
struct Known {
    runs: HashMap<RunId, Option<RunInfo>>,
    families: BTreeMap<RunId, Family>,
}

impl Planner {
    pub fn new(
        store: &SharedStore,
        sinks: &Arc<[Sink]>,
        report: &Arc<dyn Report>,
        url: Option<String>,
    ) -> Self {
        let holder = holder();
        Self {
            store: Arc::clone(store),
            sinks: Arc::clone(sinks),
            report: Arc::clone(report),
            url,
            readers: sinks.iter().map(|sink| Reader::new(sink.id.clone(), &holder)).collect(),
            refused: BTreeSet::new(),
            look_at: None,
            forgot: None,
        }
    }

    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut known: Option<String> = None;
        loop {
            let wait = match self.look().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => {
                    known = None;
                    LOOK_EVERY
                }
                Err(error) => {
                    let why = error.to_string();
                    if known.as_ref() != Some(&why) {
                        self.report.told(Told::Failed { what: "sinks", why: &why });
                    }
                    known = Some(why);
                    REST
                }
            };
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.leave().await;
    }

    /// Lets other hosts go on at once.
    pub async fn leave(&mut self) {
        for reader in &mut self.readers {
            reader.leave(&self.store).await;
        }
    }

    /// Reads a page of commits. True if there is more.
    pub async fn look(&mut self) -> Result<bool, StoreError> {
        let mut places: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (number, reader) in self.readers.iter_mut().enumerate() {
            reader.hold(&self.store).await?;
            if let Some(place) = reader.place {
                places.entry(place).or_default().push(number);
            }
        }
        let mut more = false;
        for (place, readers) in places {
            // Most read at the same place, and together.
            let store = Arc::clone(&self.store);
            let changes = aside(async move { store.changes(place, PAGE).await }).await?;
            more |= Change::may_go_on(&changes, PAGE);
            let end = changes.last().map_or(place, |change| change.place);
            let found = self.found(&changes, &readers).await?;
            let mut known = Known::default();
            for number in readers {
                let sink = &self.sinks[number];
                let mut deliveries = Vec::new();
                for seen in &found {
                    deliveries.extend(self.told(sink, seen, &mut known).await?);
                }
                let store = Arc::clone(&self.store);
                self.readers[number].read_to(&store, end, deliveries).await?;
            }
        }
        if self.look_at.is_none_or(|at| at <= Instant::now()) {
            let begun = Instant::now();
            self.look_at_refused().await?;
            self.look_at = Some(Instant::now() + REFUSED_EVERY.max(begun.elapsed() * REFUSED_REST));
        }
        if self.forgot.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
            let before = wfhost_core::Timestamp(self.store.now().0.saturating_sub(REMEMBER_MS));
            self.store.delete_old_deliveries(before).await?;
            self.forgot = Some(Instant::now());
        }
        Ok(more)
    }

    /// What commits have for others, to whom these readers belong.
    async fn found(&self, changes: &[Change], readers: &[usize]) -> Result<Vec<Seen>, StoreError> {
        let asks = readers.iter().any(|&number| self.sinks[number].wants("question.asked"));
        let mut found = Vec::new();
        for change in changes {
            let seen = seen(change);
            let forked = seen.iter().find(|seen| seen.is_fork()).filter(|_| asks).cloned();
            found.extend(seen);
            if let Some(forked) = forked {
                let (store, run) = (Arc::clone(&self.store), change.run.clone());
                let mut rows = aside(async move { store.journal(&run, Position(0)).await }).await?;
                rows.retain(|row| row.first <= change.row.first);
                found.extend(taken_over(&forked, rows));
            }
        }
        Ok(found)
    }

    /// The message for a sink, if it is told of that.
    async fn told(
        &self,
        sink: &Sink,
        seen: &Seen,
        known: &mut Known,
    ) -> Result<Option<NewDelivery>, StoreError> {
        let event = seen.what.event();
        if !sink.wants(event) {
            return Ok(None);
        }
        if !known.runs.contains_key(&seen.run) {
            let info = self.store.run(&seen.run).await?;
            known.runs.insert(seen.run.clone(), info);
        }
        // It was deleted meanwhile.
        let Some(Some(info)) = known.runs.get(&seen.run) else { return Ok(None) };
        if !seen.is_news(info, self.store.now()) || !concerns(sink, event, info) {
            return Ok(None);
        }
        let mut family = None;
        if seen.what == What::Spent {
            let root = &info.links.root;
            if !known.families.contains_key(root) {
                known.families.insert(root.clone(), self.store.family(root).await?);
            }
            family = known.families.get(root);
            if family.and_then(spent_part).is_none_or(|part| part < sink.budget) {
                return Ok(None);
            }
        }
        Ok(Some(message(sink, seen, info, family, self.url.as_deref())))
    }

    /// Keeps what is to be told of runs that are refused now.
    async fn look_at_refused(&mut self) -> Result<(), StoreError> {
        let wanting = |sink: &Sink| sink.wants(REFUSED_EVENT);
        if !self.sinks.iter().any(wanting) {
            return Ok(());
        }
        let mut told = BTreeSet::new();
        let mut before = None;
        loop {
            let states = vec![RunState::Refused];
            let filter = RunFilter { states, before, limit: REFUSED, ..RunFilter::default() };
            let store = Arc::clone(&self.store);
            let runs = aside(async move { store.runs(filter).await }).await?;
            let mut new = Vec::new();
            for info in &runs {
                let why = info.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
                let seen = Seen {
                    run: info.id.clone(),
                    position: info.entries,
                    at: info.updated_at,
                    what: What::Refused(why.map(|failure| failure.message.clone())),
                };
                for sink in self.sinks.iter().filter(|sink| concerns(sink, REFUSED_EVENT, info)) {
                    let message = message(sink, &seen, info, None, self.url.as_deref());
                    let key = (message.sink.clone(), message.message.clone());
                    let is_known = self.refused.contains(&key);
                    if told.insert(key) && !is_known {
                        new.push(message);
                    }
                }
            }
            if !new.is_empty() {
                self.store.put_deliveries(new).await?;
            }
            match runs.last().filter(|_| runs.len() == REFUSED) {
                Some(last) => before = Some(last.number),
                None => break,
            }
        }
        // Only now: whoever could not be told is told at the next look. Those that are refused no more are forgotten.
        self.refused = told;
        Ok(())
    }
}

/// Reads beside the workers that advance runs.
pub(crate) async fn aside<T: Send + 'static>(
    read: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let runtime = tokio::runtime::Handle::current();
    let read = tokio::task::spawn_blocking(move || runtime.block_on(read)).await;
    read.unwrap_or_else(|error| {
        Err(StoreError::Failed { place: "the host".to_owned(), reason: error.to_string() })
    })
}

#[cfg(test)]
mod tests {
    use wfhost::store::{Append, DeliveryFilter, MemStore, NewRun, Next, Owner};
    use wfhost_core::{Epoch, Timestamp};

    use super::*;
    use crate::event::tests::{machine, sink};

    #[derive(Debug)]
    struct Nobody;

    impl Report for Nobody {
        fn told(&self, _: Told<'_>) {}
    }

    #[tokio::test]
    async fn all_refused_runs_are_told_of_however_many_there_are() {
        let store: SharedStore = Arc::new(MemStore::default());
        let owner = Owner { host: "here".to_owned(), realm: "m".to_owned(), pid: 1, started: 1 };
        let session = store.begin_session(&owner, 60_000).await.unwrap();
        let count = 2 * REFUSED + 1;
        for number in 0..count {
            let run = format!("r{number}");
            let mut machine = machine(&run);
            if number == 0 {
                assert_eq!(store.put_module("w", b"w").await.unwrap(), machine.module());
            }
            let rows = vec![machine.take_unsaved().unwrap().into()];
            let new = NewRun { session: Some(session), ..NewRun::new(&machine, rows) };
            store.create(new).await.unwrap();
            let next = Next::Refuse { reason: "it departs".to_owned() };
            let id = machine.run().clone();
            store.append(Append::new(id, session, Epoch(1), Timestamp(1_000), next)).await.unwrap();
        }
        let sinks: Arc<[Sink]> = vec![sink(false)].into();
        let report: Arc<dyn Report> = Arc::new(Nobody);
        let mut planner = Planner::new(&store, &sinks, &report, None);
        let deliveries =
            async || store.deliveries(DeliveryFilter::default(), 10 * count).await.unwrap().len();
        for _ in 0..2 {
            planner.look_at_refused().await.unwrap();
            assert_eq!((deliveries().await, planner.refused.len()), (count, count), "each is told once");
        }
        // Of those that are refused no more nothing is kept in mind.
        for number in 1..count {
            assert!(store.unpause(&format!("r{number}").parse().unwrap()).await.unwrap());
        }
        planner.look_at_refused().await.unwrap();
        assert_eq!((deliveries().await, planner.refused.len()), (count, 1));
    }
}
