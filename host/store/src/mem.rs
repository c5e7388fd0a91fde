//! The store's contract in memory, as plainly as can be: for tests and
//! experiments, and as what the other implementations are compared with.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_core::{
    Digest, Epoch, Failure, FailureKind, Json, Position, QuestionChange, Row, RunId, Step, Timestamp,
};
use wfhost_world::clock;

use super::*;

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
    inbox: i64,
    /// What was committed, in order: the run and the index of its row.
    commits: Vec<(RunId, usize)>,
    deleted: Vec<RunId>,
    schedules: BTreeMap<String, Schedule>,
    transcribed: u64,
    answers: HashMap<Digest, (Timestamp, Json)>,
}

#[derive(Debug)]
struct Run {
    info: RunInfo,
    rows: Vec<Row>,
    starts: u32,
    messages: Vec<OutMessage>,
    questions: BTreeMap<Step, (OpenQuestion, bool)>,
    logs: Vec<LogLine>,
    published: Vec<Published>,
    inbox: Vec<Message>,
    seen: Vec<String>,
    transcript: Vec<TranscriptLine>,
}

impl Data {
    fn run(&self, id: &RunId) -> Option<&Run> {
        self.runs.iter().find(|run| run.info.id == *id)
    }

    fn run_mut(&mut self, id: &RunId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.info.id == *id)
    }
}

impl Data {
    /// Refuses an id that is or was somebody's, and a module that is not there.
    fn check_new(&self, id: &RunId, module: Digest) -> Result<()> {
        if self.run(id).is_some() {
            return Err(StoreError::IdTaken { id: id.clone() });
        }
        if self.deleted.contains(id) {
            return Err(StoreError::IdUsed { id: id.clone() });
        }
        if !self.modules.contains_key(&module) {
            return Err(StoreError::NoSuchModule(module));
        }
        Ok(())
    }

    fn insert(&mut self, run: NewRun) {
        let id = run.id.clone();
        self.commits.extend((0..run.rows.len()).map(|index| (run.id.clone(), index)));
        self.runs.push(Run {
            info: RunInfo {
                id: run.id,
                key: run.key,
                workflow: run.workflow,
                module: run.module,
                state: if run.lease.is_some() { RunState::Running } else { RunState::Queued },
                labels: run.labels,
                parent: run.parent,
                links: run.links,
                spent: Spent::default(),
                budget: run.budget,
                created_at: run.created_at,
                updated_at: run.updated_at,
                entries: Position(run.rows.iter().map(|row| u64::from(row.count)).sum()),
                phase: None,
                outcome: None,
                waiting: None,
                epoch: Epoch(1),
                due_at: Some(run.lease.as_ref().map_or(run.created_at, |(_, until)| *until)),
                lease: run.lease,
                trouble: None,
                emissions: 0,
                head: None,
            },
            rows: run.rows,
            starts: 0,
            messages: Vec::new(),
            questions: BTreeMap::new(),
            logs: Vec::new(),
            published: Vec::new(),
            inbox: Vec::new(),
            seen: Vec::new(),
            transcript: Vec::new(),
        });
        for body in run.inbox {
            self.deliver(&id, run.created_at, body);
        }
        if let Some(created) = self.run_mut(&id) {
            created.change_questions(run.questions);
        }
        for child in run.children {
            self.start_child(&id, child);
        }
    }

    /// Puts a message into the inbox of a run that has not ended.
    fn deliver(&mut self, run: &RunId, at: Timestamp, body: MessageBody) {
        self.inbox += 1;
        let id = MessageId(self.inbox);
        if let Some(run) = self.run_mut(run).filter(|run| !run.info.state.is_final()) {
            run.take(id, at, body);
        }
    }

    /// Cancels the children of a run that are to end with it: those of `steps`, or all.
    fn cancel_children(&mut self, parent: &RunId, steps: Option<&[Step]>, at: Timestamp) {
        let lost = |info: &RunInfo| {
            info.parent.as_ref() == Some(parent)
                && info.links.on_close == Some(OnParentClose::Cancel)
                && steps.is_none_or(|steps| info.links.step.is_some_and(|step| steps.contains(&step)))
        };
        let lost: Vec<_> =
            self.runs.iter().filter(|run| lost(&run.info)).map(|run| run.info.id.clone()).collect();
        for run in lost {
            self.deliver(&run, at, MessageBody::Cancel { reason: Some(PARENT_GONE.to_owned()) });
        }
    }

    /// Tells the parent of a run that this one has ended.
    fn tell_parent(&mut self, run: &RunId, outcome: &Outcome, spent: Spent, at: Timestamp) {
        let Some(info) = self.run(run).map(|run| run.info.clone()) else { return };
        if let (Some(parent), Some(step)) = (info.parent, info.links.step) {
            let body = MessageBody::Child { step, run: run.clone(), outcome: outcome.clone(), spent };
            self.deliver(&parent, at, body);
        }
    }

    fn start_child(&mut self, parent: &RunId, child: NewRun) -> bool {
        let is_it =
            |run: &Run| run.info.parent.as_ref() == Some(parent) && run.info.links.step == child.links.step;
        if self.run(&child.id).is_some_and(is_it) {
            return true;
        }
        match self.check_new(&child.id, child.module) {
            Ok(()) => {
                self.insert(child);
                true
            }
            Err(error) => {
                let outcome = Err(Failure::new(FailureKind::Rejected, error.to_string()));
                let step = child.links.step.unwrap_or_default();
                let body = MessageBody::Child { step, run: child.id, outcome, spent: Spent::default() };
                self.deliver(parent, child.created_at, body);
                false
            }
        }
    }
}

impl Run {
    fn change_questions(&mut self, changes: Vec<QuestionChange>) {
        for change in changes {
            match change {
                QuestionChange::Asked { step, at, deadline, question } => {
                    let question = OpenQuestion {
                        run: self.info.id.clone(),
                        workflow: self.info.workflow.clone(),
                        step,
                        asked_at: at,
                        deadline,
                        question,
                    };
                    self.questions.insert(step, (question, false));
                }
                QuestionChange::Closed { step } => drop(self.questions.remove(&step)),
            }
        }
    }

    /// Stores what the program gave out, numbered from `first`, once.
    fn emit(&mut self, first: u64, emissions: Vec<Emission>) {
        for (number, emission) in (first..).zip(emissions) {
            if number < self.info.emissions {
                continue;
            }
            self.info.emissions = number + 1;
            match emission {
                Emission::Log(line) => self.logs.push(LogLine { number, ..line }),
                Emission::State { key, value, at } => {
                    self.published.push(Published { number, at, key, value });
                }
                Emission::Phase { title, at } => {
                    self.logs.push(LogLine::phase(number, at, &title));
                    self.info.phase = Some(title);
                }
                Emission::Message { name, payload, at } => {
                    self.messages.push(OutMessage { number, at, name, payload });
                }
            }
        }
    }

    /// Takes in a message, and is due if it waits for that.
    fn take(&mut self, id: MessageId, at: Timestamp, body: MessageBody) {
        let wakes = match self.info.state {
            RunState::Waiting => self.info.waiting.as_ref().is_some_and(|waiting| waiting.is_for(&body)),
            RunState::Paused | RunState::Refused => matches!(body, MessageBody::Cancel { .. }),
            _ => false,
        };
        if wakes {
            self.info.due_at = Some(Timestamp(0));
        }
        self.inbox.push(Message { id, at, body });
    }

    /// True if it was to be parked but something for it has come in.
    fn settle(&mut self, next: &Next) -> bool {
        let (state, outcome, waiting) = match next.clone() {
            Next::Go => return false,
            Next::Park(waiting) => {
                if self.inbox.iter().any(|message| waiting.is_for(&message.body)) {
                    return true;
                }
                (RunState::Waiting, None, Some(waiting))
            }
            Next::Pause => (RunState::Paused, None, None),
            Next::Refuse { reason } => {
                (RunState::Refused, Some(Err(Failure::new(FailureKind::Rejected, reason))), None)
            }
            Next::End { outcome, .. } => {
                self.questions.clear();
                let state = RunState::of(Some(&outcome));
                (state, Some(outcome), None)
            }
            Next::Continue { run } => {
                self.questions.clear();
                self.info.links.chain.get_or_insert_with(|| self.info.id.clone());
                self.info.links.next = Some(run.id);
                (RunState::Continued, None, None)
            }
        };
        self.starts = 0;
        self.info.state = state;
        self.info.outcome = outcome;
        self.info.due_at = waiting.as_ref().and_then(|waiting| waiting.until);
        self.info.waiting = waiting;
        self.info.lease = None;
        self.info.head = self.rows.last().map(|row| row.head);
        false
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
            data.check_new(&run.id, run.module)?;
            data.insert(run);
            Ok(Created::New)
        })
    }

    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed>> {
        self.change(|data| {
            let Some(run) = data.run_mut(claim.run) else { return Ok(Claimed::NoSuchRun) };
            let info = &mut run.info;
            let reopens =
                claim.how == ClaimHow::Reopen && matches!(info.state, RunState::Failed | RunState::Cancelled);
            if info.state.is_final() && !reopens {
                return Ok(Claimed::Ended);
            }
            match &info.lease {
                Some((owner, until)) if *until > claim.now && claim.dead != Some(owner) => {
                    return Ok(Claimed::Held { owner: owner.clone(), until: *until });
                }
                None if claim.how == ClaimHow::Due && info.due_at.is_none_or(|due| due > claim.now) => {
                    return Ok(Claimed::NotDue);
                }
                _ => {}
            }
            run.starts += 1;
            info.epoch.0 += 1;
            info.state = RunState::Running;
            info.waiting = None;
            info.outcome = None;
            info.trouble = None;
            info.due_at = Some(claim.until);
            info.lease = Some((claim.owner.clone(), claim.until));
            Ok(Claimed::Yes {
                epoch: info.epoch,
                emissions: info.emissions,
                starts: run.starts,
                module: info.module,
            })
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
                match run.and_then(|run| Some((run.info.lease.as_mut()?, &mut run.info.due_at))) {
                    Some((lease, due_at)) => {
                        lease.1 = until;
                        *due_at = Some(until);
                    }
                    None => lost.push(id.clone()),
                }
            }
            Ok(lost)
        })
    }

    fn release<'a>(
        &'a self,
        run: &'a RunId,
        epoch: Epoch,
        trouble: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            let run = data.run_mut(run).filter(|run| run.info.epoch == epoch && run.info.lease.is_some());
            if let Some(run) = run {
                run.starts = 0;
                run.info.lease = None;
                run.info.due_at = Some(Timestamp(0));
                run.info.trouble = trouble.map(str::to_owned);
            }
            Ok(())
        })
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| {
            let run = data.run_mut(run);
            let run = run.filter(|run| matches!(run.info.state, RunState::Paused | RunState::Refused));
            Ok(run.is_some_and(|run| {
                run.info.state = RunState::Running;
                run.info.outcome = None;
                run.info.due_at = Some(Timestamp(0));
                true
            }))
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
            if let Next::Continue { run } = &append.next {
                data.check_new(&run.id, run.module)?;
            }
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            run.starts = 0;
            let mut committed = None;
            if let Some(row) = append.row {
                run.info.entries.0 += u64::from(row.count);
                run.info.updated_at = append.at;
                committed = Some((append.run.clone(), run.rows.len()));
                run.rows.push(row);
            }
            run.info.module = append.module.unwrap_or(run.info.module);
            run.inbox.retain(|message| !append.consumed.contains(&message.id));
            run.change_questions(append.questions);
            run.emit(append.first_emission, append.emissions);
            if let Some((spent, budget)) = append.ledger {
                (run.info.spent, run.info.budget) = (spent, budget);
            }
            let place = match committed {
                Some(committed) => {
                    data.commits.push(committed);
                    Some(data.commits.len() as u64)
                }
                None => append.after,
            };
            let mut due = false;
            for child in append.children {
                due |= !data.start_child(&append.run, child);
            }
            data.cancel_children(&append.run, Some(&append.dropped), append.at);
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            due |= run.settle(&append.next);
            match append.next {
                Next::End { outcome, spent } => {
                    data.tell_parent(&append.run, &outcome, spent, append.at);
                    data.cancel_children(&append.run, None, append.at);
                }
                Next::Continue { run: next } => {
                    data.cancel_children(&append.run, None, append.at);
                    let left = data.run_mut(&append.run).map(|run| std::mem::take(&mut run.inbox));
                    let id = next.id.clone();
                    data.insert(*next);
                    let moved = left.into_iter().flatten().filter(|message| {
                        matches!(
                            message.body,
                            MessageBody::Signal { .. } | MessageBody::Cancel { .. } | MessageBody::Pause
                        )
                    });
                    if let Some(next) = data.run_mut(&id) {
                        next.inbox.extend(moved);
                    }
                }
                _ => {}
            }
            Ok(Appended { due, place })
        })
    }

    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>> {
        self.look(|data| {
            let rows = data.run(run).into_iter().flat_map(|run| &run.rows);
            rows.filter(|row| row.first >= from).cloned().collect()
        })
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            data.check_new(&run.info.id, run.info.module)?;
            let key = run.info.key.clone();
            let taken = data.runs.iter().any(|known| key.is_some() && known.info.key == key);
            let ended = run.info.state.is_final();
            data.commits.extend((0..run.rows.len()).map(|index| (run.info.id.clone(), index)));
            let mut imported = Run {
                info: RunInfo {
                    key: key.filter(|_| !taken),
                    state: if ended { run.info.state } else { RunState::Paused },
                    outcome: run.info.outcome.clone().filter(|_| ended),
                    waiting: None,
                    lease: None,
                    due_at: None,
                    trouble: None,
                    emissions: run.emissions,
                    head: run.rows.last().map(|row| row.head),
                    ..run.info
                },
                rows: run.rows,
                starts: 0,
                messages: run.messages,
                questions: BTreeMap::new(),
                logs: run.logs,
                published: run.state,
                seen: Vec::new(),
                transcript: Vec::new(),
                inbox: Vec::new(),
            };
            for message in run.inbox {
                data.inbox += 1;
                imported.inbox.push(Message { id: MessageId(data.inbox), ..message });
            }
            imported.change_questions(run.questions);
            data.runs.push(imported);
            Ok(())
        })
    }

    fn rebuild(&self, rebuilt: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            let known = data.run_mut(&rebuilt.info.id).filter(|run| run.info.lease.is_none());
            let Some(run) = known.filter(|run| run.info.entries == rebuilt.info.entries) else {
                return Ok(false);
            };
            let old = run.info.clone();
            run.info = RunInfo {
                key: old.key,
                epoch: old.epoch,
                trouble: old.trouble,
                emissions: old.emissions,
                phase: old.phase,
                ..rebuilt.info
            };
            run.questions.clear();
            run.change_questions(rebuilt.questions);
            if let Some(emissions) = rebuilt.emissions {
                run.logs.clear();
                run.messages.clear();
                run.published.clear();
                run.info.emissions = 0;
                run.info.phase = None;
                run.emit(0, emissions);
            }
            Ok(true)
        })
    }

    fn delete<'a>(&'a self, run: &'a RunId, now: Timestamp) -> BoxFuture<'a, Result<Deleted>> {
        self.change(|data| {
            let Some(index) = data.runs.iter().position(|known| known.info.id == *run) else {
                return Ok(Deleted::NoSuchRun);
            };
            if let Some((owner, until)) = &data.runs[index].info.lease
                && *until > now
            {
                return Ok(Deleted::Held { owner: owner.clone(), until: *until });
            }
            let gone = data.runs.remove(index).info;
            if !gone.state.is_final() {
                if let (Some(parent), Some(step)) = (gone.parent, gone.links.step) {
                    let failure = Failure::new(FailureKind::Cancelled, format!("{run} was deleted"));
                    let (run, spent) = (run.clone(), gone.spent);
                    data.deliver(
                        &parent,
                        now,
                        MessageBody::Child { step, run, outcome: Err(failure), spent },
                    );
                }
                data.cancel_children(run, None, now);
            }
            data.deleted.push(run.clone());
            Ok(Deleted::Yes)
        })
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.change(|data| {
            let scheduled = data.schedules.values().map(|schedule| schedule.module);
            let used: Vec<_> = data.runs.iter().map(|run| run.info.module).chain(scheduled).collect();
            let all = data.modules.len();
            data.modules.retain(|digest, (info, _)| info.added_at >= before || used.contains(digest));
            Ok(all - data.modules.len())
        })
    }

    fn due(&self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<RunId>>> {
        self.look(|data| {
            let mut due: Vec<_> =
                data.runs.iter().filter(|run| run.info.due_at.is_some_and(|due| due <= now)).collect();
            due.sort_by_key(|run| (run.info.state == RunState::Queued, run.info.due_at));
            due.into_iter().take(limit).map(|run| run.info.id.clone()).collect()
        })
    }

    fn next_due(&self, now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        self.look(|data| data.runs.iter().filter_map(|run| run.info.due_at).filter(|due| *due > now).min())
    }

    fn owners(&self) -> BoxFuture<'_, Result<Vec<Owner>>> {
        self.look(|data| {
            let mut owners: Vec<Owner> = Vec::new();
            for (owner, _) in data.runs.iter().filter_map(|run| run.info.lease.as_ref()) {
                if !owners.contains(owner) {
                    owners.push(owner.clone());
                }
            }
            owners
        })
    }

    fn owned<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<RunId>>> {
        self.look(|data| {
            let owned =
                data.runs.iter().filter(|run| run.info.lease.as_ref().is_some_and(|(own, _)| own == owner));
            owned.map(|run| run.info.id.clone()).collect()
        })
    }

    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        self.change(|data| {
            data.inbox += 1;
            let id = MessageId(data.inbox);
            let Some(info) = data.run(&message.run).map(|run| run.info.clone()) else {
                return Ok(Posted::NoSuchRun);
            };
            if info.state == RunState::Continued && !matches!(message.body, MessageBody::Answer { .. }) {
                let latest = data.runs.iter().rev().find(|run| run.info.links.chain == info.links.chain);
                return Ok(latest.map_or(Posted::Ended, |run| Posted::Continued(run.info.id.clone())));
            }
            let chain = info.links.chain;
            let in_chain =
                |run: &Run| run.info.id == message.run || chain.is_some() && run.info.links.chain == chain;
            let dedupe = match &message.body {
                MessageBody::Signal { id, .. } => id.clone(),
                _ => None,
            };
            let is_seen = |run: &Run| dedupe.as_ref().is_some_and(|dedupe| run.seen.contains(dedupe));
            if data.runs.iter().any(|run| in_chain(run) && is_seen(run)) {
                return Ok(Posted::Duplicate);
            }
            let Some(run) = data.run_mut(&message.run) else { return Ok(Posted::NoSuchRun) };
            if run.info.state.is_final() {
                return Ok(Posted::Ended);
            }
            match &message.body {
                MessageBody::Pause if run.info.lease.is_none() => {
                    run.info.state = RunState::Paused;
                    run.info.due_at = None;
                    return Ok(Posted::Added);
                }
                MessageBody::Answer { step, .. } => match run.questions.get_mut(step) {
                    Some((_, answered)) if !*answered => *answered = true,
                    _ => return Ok(Posted::NoQuestion),
                },
                _ => {}
            }
            run.seen.extend(dedupe);
            run.take(id, message.at, message.body);
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
                    && filter.since.is_none_or(|since| info.created_at >= since)
                    && filter.idle_since.is_none_or(|since| info.updated_at < since)
                    && (!filter.top || info.parent.is_none())
                    && filter.parent.as_ref().is_none_or(|parent| info.parent.as_ref() == Some(parent))
                    && filter.root.as_ref().is_none_or(|root| info.links.root == *root)
                    && filter.chain.as_ref().is_none_or(|chain| info.links.chain.as_ref() == Some(chain))
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

    fn messages<'a>(
        &'a self,
        run: &'a RunId,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OutMessage>>> {
        self.look(|data| {
            let messages = data.run(run).into_iter().flat_map(|run| &run.messages);
            let wanted = messages.filter(|message| after.is_none_or(|after| message.number > after));
            wanted.take(limit).cloned().collect()
        })
    }

    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            let first = data.transcribed + 1;
            data.transcribed += lines.len() as u64;
            if let Some(run) = data.run_mut(run) {
                let numbered = (first..).zip(lines);
                run.transcript.extend(numbered.map(|(number, line)| TranscriptLine { number, line }));
            }
            Ok(())
        })
    }

    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>> {
        self.look(|data| {
            let lines = data.run(run).into_iter().flat_map(|run| &run.transcript);
            let wanted = lines.filter(|line| {
                line.number > filter.after
                    && filter.step.is_none_or(|step| line.line.step == step)
                    && (filter.kinds.is_empty() || filter.kinds.contains(&line.line.kind))
            });
            wanted.take(limit).cloned().collect()
        })
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            data.answers.insert(key, (at, reply));
            Ok(())
        })
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        self.look(|data| data.answers.get(&key).cloned())
    }

    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>> {
        self.look(|data| {
            let runs = data.runs.iter().filter(|known| run.is_none_or(|run| known.info.id == *run));
            let open = runs.flat_map(|run| run.questions.values()).filter(|(_, answered)| !answered);
            let mut open: Vec<_> = open.map(|(question, _)| question.clone()).collect();
            open.sort_by_key(|question| question.asked_at);
            open.truncate(limit);
            open
        })
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        self.look(|data| {
            let places = data.commits.iter().zip(1..).filter(|(_, place)| *place > after);
            let changes = places.filter_map(|((run, index), place)| {
                let row = data.run(run)?.rows.get(*index)?.clone();
                Some(Change { place, run: run.clone(), row })
            });
            changes.take(limit).collect()
        })
    }

    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>> {
        self.look(|data| {
            let published = data.run(run).into_iter().flat_map(|run| &run.published);
            let latest: BTreeMap<_, _> =
                published.map(|published| (published.key.clone(), published.value.clone())).collect();
            latest.into_iter().collect()
        })
    }

    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        self.look(|data| {
            let published = data.run(run).into_iter().flat_map(|run| &run.published);
            published.filter(|published| key.is_none_or(|key| published.key == key)).cloned().collect()
        })
    }

    fn ended_children<'a>(&'a self, parent: &'a RunId, from: Step) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.look(|data| {
            let children = data.runs.iter().map(|run| &run.info).filter(|info| {
                info.parent.as_ref() == Some(parent)
                    && info.links.step.is_some_and(|step| step >= from)
                    && info.outcome.is_some()
                    && info.state.is_final()
            });
            children.cloned().collect()
        })
    }

    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>> {
        self.look(|data| {
            let members = data.runs.iter().map(|run| &run.info).filter(|info| info.links.root == *root);
            let spent = members.clone().fold(Spent::default(), |sum, info| sum.plus(info.spent));
            let head = members.rev().find(|info| info.parent.is_none());
            Family { budget: head.map(|info| info.budget).unwrap_or_default(), spent }
        })
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            if !data.modules.contains_key(&schedule.module) {
                return Err(StoreError::NoSuchModule(schedule.module));
            }
            let free = replace || !data.schedules.contains_key(&schedule.name);
            if free {
                data.schedules.insert(schedule.name.clone(), schedule);
            }
            Ok(free)
        })
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Vec<Schedule>>> {
        self.look(|data| data.schedules.values().cloned().collect())
    }

    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| {
            let schedule = data.schedules.get_mut(name);
            Ok(schedule.map(|schedule| schedule.next_at = next).is_some())
        })
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| Ok(data.schedules.remove(name).is_some()))
    }

    fn due_schedules(&self, now: Timestamp) -> BoxFuture<'_, Result<(Vec<Schedule>, Option<Timestamp>)>> {
        self.look(|data| {
            let due = |schedule: &&Schedule| schedule.next_at.is_some_and(|at| at <= now);
            let later =
                data.schedules.values().filter_map(|schedule| schedule.next_at).filter(|at| *at > now);
            (data.schedules.values().filter(due).cloned().collect(), later.min())
        })
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            let due = data.schedules.get(&fire.schedule).is_some_and(|known| known.next_at == Some(fire.due));
            if !due {
                return Ok(false);
            }
            if let Some(run) = &fire.run {
                data.check_new(&run.id, run.module)?;
            }
            if let Some((run, at)) = fire.cancel {
                data.deliver(&run, at, MessageBody::Cancel { reason: Some(OVERTAKEN.to_owned()) });
            }
            if let Some(known) = data.schedules.get_mut(&fire.schedule) {
                known.next_at = fire.next;
                known.fired += u64::from(fire.run.is_some());
                known.last = fire.run.as_ref().map(|run| run.id.clone()).or_else(|| known.last.take());
            }
            if let Some(run) = fire.run {
                data.insert(run);
            }
            Ok(true)
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
