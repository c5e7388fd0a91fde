//! The store's contract in memory, as plainly as can be: for tests and
//! experiments, and as what the other implementations are compared with.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_core::{Digest, Epoch, Failure, FailureKind, Json, Position, Row, RunId, Timestamp};

use super::*;
use crate::clock;

/// Runs in memory. Nothing survives the process.
#[derive(Debug, Default)]
pub struct MemStore {
    data: Mutex<Data>,
    commits: AtomicU64,
}

#[derive(Debug, Default)]
struct Data {
    modules: HashMap<Digest, (ModuleInfo, Vec<u8>)>,
    /// In the order of their creation.
    runs: Vec<Run>,
    messages: i64,
}

#[derive(Debug)]
struct Run {
    info: RunInfo,
    rows: Vec<Row>,
    emissions: u64,
    logs: Vec<LogLine>,
    state: BTreeMap<String, Json>,
    inbox: Vec<Message>,
    seen: Vec<String>,
}

impl Data {
    fn run(&self, id: &RunId) -> Option<&Run> {
        self.runs.iter().find(|run| run.info.id == *id)
    }

    fn run_mut(&mut self, id: &RunId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.info.id == *id)
    }
}

impl MemStore {
    fn look<T: Send + 'static>(&self, look: impl FnOnce(&Data) -> T) -> BoxFuture<'_, Result<T>> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        std::future::ready(Ok(look(&data))).boxed()
    }

    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Data) -> Result<T>,
    ) -> BoxFuture<'_, Result<T>> {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut data);
        if result.is_ok() {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        std::future::ready(result).boxed()
    }
}

impl Store for MemStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        self.change(|data| {
            let digest = Digest::of(bytes);
            let info = ModuleInfo {
                digest,
                name: name.to_owned(),
                bytes: bytes.len() as u64,
                added_at: clock::now(),
            };
            data.modules.entry(digest).or_insert_with(|| (info, bytes.to_owned()));
            Ok(digest)
        })
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.look(|data| data.modules.get(&digest).map(|(_, bytes)| bytes.clone()))
    }

    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>> {
        self.look(|data| {
            let mut modules: Vec<_> = data.modules.values().map(|(info, _)| info.clone()).collect();
            modules.sort_by(|a, b| (&a.name, b.added_at, a.digest).cmp(&(&b.name, a.added_at, b.digest)));
            modules
        })
    }

    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        self.change(|data| {
            let known = data.runs.iter().find(|known| run.key.is_some() && known.info.key == run.key);
            if let Some(known) = known {
                return Ok(Created::Known(known.info.id.clone()));
            }
            if data.run(&run.id).is_some() {
                return Err(StoreError::IdTaken { id: run.id });
            }
            if !data.modules.contains_key(&run.module) {
                return Err(StoreError::NoSuchModule(run.module));
            }
            data.runs.push(Run {
                info: RunInfo {
                    id: run.id,
                    key: run.key,
                    workflow: run.workflow,
                    module: run.module,
                    state: RunState::Running,
                    labels: run.labels,
                    parent: run.parent,
                    created_at: run.created_at,
                    updated_at: run.created_at,
                    entries: Position(run.row.count.into()),
                    phase: None,
                    outcome: None,
                    waiting: None,
                    epoch: Epoch(1),
                    lease: Some((run.owner, run.lease_until)),
                },
                rows: vec![run.row],
                emissions: 0,
                logs: Vec::new(),
                state: BTreeMap::new(),
                inbox: Vec::new(),
                seen: Vec::new(),
            });
            Ok(Created::New)
        })
    }

    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed>> {
        self.change(|data| {
            let Some(run) = data.run_mut(claim.run) else { return Ok(Claimed::NoSuchRun) };
            if run.info.state.is_final() {
                return Ok(Claimed::Ended);
            }
            if let Some((owner, until)) = &run.info.lease
                && *until > claim.now
                && claim.dead != Some(owner)
            {
                return Ok(Claimed::Held { owner: owner.clone(), until: *until });
            }
            run.info.epoch.0 += 1;
            run.info.state = RunState::Running;
            run.info.waiting = None;
            run.info.outcome = None;
            run.info.lease = Some((claim.owner.clone(), claim.until));
            Ok(Claimed::Yes { epoch: run.info.epoch, emissions: run.emissions })
        })
    }

    fn renew<'a>(
        &'a self,
        leases: &'a [(RunId, Epoch)],
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<RunId>>> {
        self.change(|data| {
            let mut lost = Vec::new();
            for (id, epoch) in leases {
                let run = data.run_mut(id).filter(|run| run.info.epoch == *epoch);
                match run.and_then(|run| run.info.lease.as_mut()) {
                    Some(lease) => lease.1 = until,
                    None => lost.push(id.clone()),
                }
            }
            Ok(lost)
        })
    }

    fn release<'a>(&'a self, run: &'a RunId, epoch: Epoch) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            if let Some(run) = data.run_mut(run).filter(|run| run.info.epoch == epoch) {
                run.info.lease = None;
            }
            Ok(())
        })
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        self.change(|data| {
            let fenced = || StoreError::Fenced { run: append.run.clone() };
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            if run.info.epoch != append.epoch || run.info.lease.is_none() {
                return Err(fenced());
            }
            if append.row.as_ref().is_some_and(|row| row.first != run.info.entries) {
                return Err(fenced());
            }
            if let Some(row) = append.row {
                run.info.entries.0 += u64::from(row.count);
                run.info.updated_at = append.at;
                run.rows.push(row);
            }
            run.inbox.retain(|message| !append.consumed.contains(&message.id));
            for (number, emission) in (append.first_emission..).zip(append.emissions) {
                if number < run.emissions {
                    continue;
                }
                run.emissions = number + 1;
                match emission {
                    Emission::Log(line) => run.logs.push(LogLine { number, ..line }),
                    Emission::State { key, value } => drop(run.state.insert(key, value)),
                    Emission::Phase { title, .. } => run.info.phase = Some(title),
                }
            }
            let (state, outcome, waiting) = match append.next {
                Next::Go => return Ok(Appended { due: false }),
                Next::Park(waiting) => {
                    let wakes = |message: &Message| match &message.body {
                        MessageBody::Signal { name, .. } => waiting.signals.contains(name),
                        MessageBody::Cancel { .. } => true,
                    };
                    if run.inbox.iter().any(wakes) {
                        return Ok(Appended { due: true });
                    }
                    (RunState::Waiting, None, Some(waiting))
                }
                Next::Refuse { reason } => {
                    (RunState::Refused, Some(Err(Failure::new(FailureKind::Rejected, reason))), None)
                }
                Next::End { outcome } => {
                    let state = match &outcome {
                        Ok(_) => RunState::Completed,
                        Err(failure) if failure.kind == FailureKind::Cancelled => RunState::Cancelled,
                        Err(_) => RunState::Failed,
                    };
                    (state, Some(outcome), None)
                }
            };
            run.info.state = state;
            run.info.outcome = outcome;
            run.info.waiting = waiting;
            run.info.lease = None;
            Ok(Appended { due: false })
        })
    }

    fn journal<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<Row>>> {
        self.look(|data| data.run(run).map(|run| run.rows.clone()).unwrap_or_default())
    }

    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        self.change(|data| {
            data.messages += 1;
            let id = MessageId(data.messages);
            let Some(run) = data.run_mut(&message.run) else { return Ok(Posted::NoSuchRun) };
            if let MessageBody::Signal { id: Some(dedupe), .. } = &message.body {
                if run.seen.contains(dedupe) {
                    return Ok(Posted::Duplicate);
                }
                if !run.info.state.is_final() {
                    run.seen.push(dedupe.clone());
                }
            }
            if run.info.state.is_final() {
                return Ok(Posted::Ended);
            }
            run.inbox.push(Message { id, at: message.at, body: message.body });
            Ok(Posted::Added)
        })
    }

    fn inbox<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<Message>>> {
        self.look(|data| data.run(run).map(|run| run.inbox.clone()).unwrap_or_default())
    }

    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.look(|data| data.run(run).map(|run| run.info.clone()))
    }

    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Vec<RunInfo>>> {
        self.look(|data| {
            let end = match &filter.before {
                Some(before) => data.runs.iter().position(|run| run.info.id == *before).unwrap_or(0),
                None => data.runs.len(),
            };
            let wanted = |info: &&RunInfo| {
                (filter.states.is_empty() || filter.states.contains(&info.state))
                    && filter.workflow.as_ref().is_none_or(|workflow| info.workflow == *workflow)
                    && filter.labels.iter().all(|label| info.labels.contains(label))
                    && filter.prefix.as_ref().is_none_or(|prefix| info.id.as_str().starts_with(prefix))
            };
            let newest_first = data.runs[..end].iter().rev().map(|run| &run.info);
            newest_first.filter(wanted).take(filter.limit).cloned().collect()
        })
    }

    fn logs<'a>(&'a self, run: &'a RunId, from: u64, limit: usize) -> BoxFuture<'a, Result<Vec<LogLine>>> {
        self.look(|data| {
            let lines = data.run(run).into_iter().flat_map(|run| &run.logs);
            lines.filter(|line| line.number >= from).take(limit).cloned().collect()
        })
    }

    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>> {
        self.look(|data| {
            let pairs = data.run(run).into_iter().flat_map(|run| &run.state);
            pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
        })
    }

    fn version(&self) -> Result<u64> {
        // No other process can write here.
        Ok(0)
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}
