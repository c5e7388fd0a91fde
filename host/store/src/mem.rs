//! The store's contract in memory, as plainly as can be: for tests and
//! experiments, and as what the other implementations are compared with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use wfhost_core::{
    Digest, Epoch, Failure, FailureKind, Given, Json, Position, QuestionChange, Row, RunId, Step, Timestamp,
};

use super::append::rest_ms;
use super::*;

/// Runs in memory. Nothing survives the process.
#[derive(Debug)]
pub struct MemStore {
    data: Mutex<Data>,
    commits: AtomicU64,
    /// Tells those who wait for changes, in the order in which they came.
    changed: Notify,
    clock: Arc<dyn Clock>,
}

impl Default for MemStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

/// A session, and when it is over in ticks of the clock.
#[derive(Debug)]
struct Begun {
    owner: Owner,
    lease_ms: u64,
    over_at: u64,
}

#[derive(Debug, Default)]
struct Data {
    modules: HashMap<Digest, (ModuleInfo, Vec<u8>)>,
    sessions: BTreeMap<SessionId, Begun>,
    /// How many sessions were begun.
    begun: u64,
    /// In the order of their creation.
    runs: Vec<Run>,
    inbox: i64,
    /// What was committed, in order: the run and the index of its row.
    commits: Vec<(RunId, usize)>,
    deleted: Vec<RunId>,
    /// Ids of signals, by the first round of the run that they were sent to.
    seen: BTreeSet<(RunId, String)>,
    /// What families spent, by their roots.
    ledgers: BTreeMap<RunId, Spent>,
    schedules: BTreeMap<String, Schedule>,
    transcribed: u64,
    answers: HashMap<Digest, (Timestamp, Json)>,
    /// Counts claims of what is due.
    turns: usize,
}

#[derive(Debug)]
struct Run {
    info: RunInfo,
    session: Option<SessionId>,
    rows: Vec<Row>,
    given: Given,
    starts: u32,
    troubles: u32,
    /// What the clock showed when it was parked.
    parked_at: Option<Timestamp>,
    /// It was asked to stop.
    stopping: bool,
    messages: Vec<OutMessage>,
    questions: BTreeMap<Step, (OpenQuestion, bool)>,
    logs: Vec<LogLine>,
    published: Vec<Published>,
    inbox: Vec<Message>,
    transcript: Vec<TranscriptLine>,
}

impl Data {
    fn run(&self, id: &RunId) -> Option<&Run> {
        self.runs.iter().find(|run| run.info.id == *id)
    }

    fn run_mut(&mut self, id: &RunId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.info.id == *id)
    }

    fn session(&self, id: SessionId, clock: &dyn Clock) -> Option<Session> {
        let begun = self.sessions.get(&id)?;
        let left_ms = begun.over_at.saturating_sub(clock.ticks_ms());
        Some(Session { id, owner: begun.owner.clone(), left_ms })
    }

    /// What is known of a run, with who advances it.
    fn info(&self, run: &Run, clock: &dyn Clock) -> RunInfo {
        let lease = run.session.and_then(|session| self.session(session, clock));
        RunInfo { lease, ..run.info.clone() }
    }

    /// Ends a session. Gives how many runs it had.
    fn fence(&mut self, session: SessionId) -> u64 {
        self.sessions.remove(&session);
        let mut count = 0;
        for run in self.runs.iter_mut().filter(|run| run.session == Some(session)) {
            run.session = None;
            run.info.due_at = Some(Timestamp(0));
            count += 1;
        }
        count
    }

    fn check_session(&self, session: SessionId) -> Result<()> {
        if self.sessions.contains_key(&session) { Ok(()) } else { Err(StoreError::SessionOver) }
    }

    fn spend(&mut self, root: &RunId, before: Spent, after: Spent) {
        let sum = self.ledgers.entry(root.clone()).or_default();
        sum.tokens = sum.tokens + after.tokens - before.tokens;
        sum.micros = sum.micros + after.micros - before.micros;
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

    fn insert(&mut self, run: NewRun, now: Timestamp) {
        let id = run.id.clone();
        self.commits.extend((0..run.rows.len()).map(|index| (run.id.clone(), index)));
        self.runs.push(Run {
            info: RunInfo {
                id: run.id,
                key: run.key,
                project: run.project,
                imported: run.imported,
                workflow: run.workflow,
                module: run.module,
                state: if run.session.is_some() { RunState::Running } else { RunState::Queued },
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
                due_at: run.session.is_none().then_some(Timestamp(0)),
                lease: None,
                trouble: None,
                emissions: 0,
                head: run.rows.last().map(|row| row.head),
            },
            session: run.session,
            rows: run.rows,
            given: run.given.unwrap_or_default(),
            starts: 0,
            troubles: 0,
            parked_at: None,
            stopping: false,
            messages: Vec::new(),
            questions: BTreeMap::new(),
            logs: Vec::new(),
            published: Vec::new(),
            inbox: Vec::new(),
            transcript: Vec::new(),
        });
        for body in run.inbox {
            self.deliver(&id, run.created_at, body);
        }
        if let Some(created) = self.run_mut(&id) {
            created.change_questions(run.questions);
        }
        for child in run.children {
            self.start_child(&id, child, now);
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

    /// Cancels the children of a run that are to end with it: those of `steps`, or all. Gives them.
    fn cancel_children(&mut self, parent: &RunId, steps: Option<&[Step]>, at: Timestamp) -> Vec<RunId> {
        let lost = |info: &RunInfo| {
            info.parent.as_ref() == Some(parent)
                && info.links.on_close == Some(OnParentClose::Cancel)
                && !info.state.is_final()
                && steps.is_none_or(|steps| info.links.step.is_some_and(|step| steps.contains(&step)))
        };
        let lost: Vec<_> =
            self.runs.iter().filter(|run| lost(&run.info)).map(|run| run.info.id.clone()).collect();
        for run in &lost {
            self.deliver(run, at, MessageBody::Cancel { reason: Some(PARENT_GONE.to_owned()) });
        }
        lost
    }

    /// Tells the parent of a run that this one has ended. Gives it.
    fn tell_parent(&mut self, run: &RunId, outcome: &Outcome, spent: Spent, at: Timestamp) -> Option<RunId> {
        let info = self.run(run).map(|run| run.info.clone())?;
        let (parent, step) = (info.parent?, info.links.step?);
        let body = MessageBody::Child { step, run: run.clone(), outcome: outcome.clone(), spent };
        self.deliver(&parent, at, body);
        Some(parent)
    }

    fn start_child(&mut self, parent: &RunId, child: NewRun, now: Timestamp) -> bool {
        let is_it =
            |run: &Run| run.info.parent.as_ref() == Some(parent) && run.info.links.step == child.links.step;
        if self.run(&child.id).is_some_and(is_it) {
            return true;
        }
        match self.check_new(&child.id, child.module) {
            Ok(()) => {
                self.insert(child, now);
                true
            }
            Err(error) => {
                let outcome = Err(Failure::new(FailureKind::Rejected, error.to_string()));
                let step = child.links.step.unwrap_or_default();
                let body = MessageBody::Child { step, run: child.id, outcome, spent: Spent::default() };
                self.deliver(parent, now, body);
                false
            }
        }
    }

    /// Whether something that was sent to the run and not taken would become void.
    fn races(&self, append: &Append) -> bool {
        let Some(run) = self.run(&append.run) else { return false };
        let untaken = run.inbox.iter().filter(|message| !append.consumed.contains(&message.id));
        let closes = |asked: &Step| {
            append
                .questions
                .iter()
                .any(|change| matches!(change, QuestionChange::Closed { step } if step == asked))
        };
        untaken.into_iter().any(|message| match (&message.body, &append.next) {
            (MessageBody::Signal { .. } | MessageBody::Cancel { .. }, Next::End { .. }) => true,
            (MessageBody::Answer { .. }, Next::End { .. } | Next::Continue { .. }) => true,
            (MessageBody::Answer { step, .. }, _) => closes(step),
            _ => false,
        })
    }

    /// Gives a run to a session, and reads it.
    fn take(&mut self, run: &RunId, session: SessionId) -> Option<Result<Opened, Unreadable>> {
        let place = self.commits.iter().rposition(|(of, _)| of == run).map(|index| index as u64 + 1);
        let run = self.run_mut(run)?;
        let (was, waited) = (run.info.state, run.info.waiting.take());
        run.session = Some(session);
        run.starts += 1;
        run.stopping &= !was.is_final();
        run.info.epoch.0 += 1;
        run.info.state = RunState::Running;
        let outcome = run.info.outcome.take();
        let trouble = run.info.trouble.take();
        run.info.due_at = None;
        let last = run.rows.last().map(|row| row.head);
        let is_there = match was {
            RunState::Running => run.rows.iter().any(|row| Some(row.head) == run.info.head),
            _ => run.info.head == last,
        };
        if run.info.head.is_some() && !is_there {
            let reason = format!("the journal of {}: its last entries are missing", run.info.id);
            let error = StoreError::Damaged { place: "memory".to_owned(), reason };
            return Some(Err(Unreadable { run: run.info.id.clone(), epoch: run.info.epoch, error }));
        }
        Some(Ok(Opened {
            run: run.info.id.clone(),
            session,
            epoch: run.info.epoch,
            starts: run.starts,
            module: run.info.module,
            emissions: run.info.emissions,
            given: run.given,
            rows: run.rows.clone(),
            place,
            inbox: run.inbox(Part::Next),
            project: run.info.project.clone(),
            imported: run.info.imported,
            was,
            waited,
            trouble,
            outcome,
        }))
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

    /// Stores what the program gave out behind what is stored.
    fn emit(&mut self, emissions: Vec<Emission>) {
        for (number, emission) in (self.info.emissions..).zip(emissions) {
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

    /// A part of the inbox.
    fn inbox(&self, part: Part) -> Inbox {
        let urgent =
            |message: &&Message| matches!(message.body, MessageBody::Cancel { .. } | MessageBody::Pause);
        let mut wanted: Vec<&Message> = self.inbox.iter().collect();
        match part {
            Part::Next => wanted.sort_by_key(|message| (!urgent(message), message.id.0)),
            Part::Behind(after) => {
                let after = after.map_or(-1, |after| after.0);
                wanted.retain(|message| message.id.0 > after);
                wanted.sort_by_key(|message| message.id.0);
            }
        }
        let mut bytes = 0;
        let fits = |message: &&Message| {
            let first = bytes == 0;
            bytes += message.body.bytes().max(1);
            first || bytes <= INBOX_BYTES
        };
        let messages: Vec<_> =
            wanted.iter().copied().take(INBOX_MESSAGES).take_while(fits).cloned().collect();
        Inbox { more: messages.len() < wanted.len(), messages }
    }

    /// Takes in a message, and is due if nobody advances it and it waits for that.
    fn take(&mut self, id: MessageId, at: Timestamp, body: MessageBody) {
        let wakes = self.session.is_none()
            && match self.info.state {
                RunState::Waiting => self.info.waiting.as_ref().is_some_and(|waiting| waiting.is_for(&body)),
                RunState::Running => Waiting::default().is_for(&body),
                RunState::Paused | RunState::Refused => matches!(body, MessageBody::Cancel { .. }),
                _ => false,
            };
        if wakes {
            self.info.due_at = Some(Timestamp(0));
        }
        self.stopping |= matches!(body, MessageBody::Cancel { .. });
        self.inbox.push(Message { id, at, body });
    }

    /// Requests to pause are void, or carried out.
    fn drop_pauses(&mut self) {
        self.inbox.retain(|message| message.body != MessageBody::Pause);
    }

    /// Whether something is in the inbox that wakes a run which waits for this.
    fn wakes(&self, waiting: &Waiting) -> bool {
        self.inbox.iter().any(|message| waiting.is_for(&message.body))
    }

    /// True if it was to be parked but something for it has come in.
    /// `knows`: whoever appends knows the journal.
    fn settle(&mut self, next: &Next, knows: bool, now: Timestamp) -> bool {
        let stop_due = self.inbox.iter().any(|message| matches!(message.body, MessageBody::Cancel { .. }));
        let stop_due = stop_due.then_some(Timestamp(0));
        let mut trouble = None;
        let (state, outcome, waiting, due_at) = match next.clone() {
            Next::Go => return false,
            Next::Park(waiting) => {
                if self.wakes(&waiting) {
                    return true;
                }
                let until = waiting.until;
                (RunState::Waiting, None, Some(waiting), until)
            }
            Next::Release { waiting, trouble: why } => {
                trouble = why;
                let due_at = match &trouble {
                    None => Timestamp(0),
                    Some(_) => {
                        let rest = now.after(rest_ms(self.troubles + 1));
                        let until = waiting.as_ref().and_then(|waiting| waiting.until);
                        let due_at = until.map_or(rest, |until| until.min(rest));
                        match self.wakes(&waiting.clone().unwrap_or_default()) {
                            true => due_at.min(now.after(1_000)),
                            false => due_at,
                        }
                    }
                };
                let state = if waiting.is_some() { RunState::Waiting } else { RunState::Running };
                (state, None, waiting, Some(due_at))
            }
            Next::Pause => {
                self.drop_pauses();
                (RunState::Paused, None, None, stop_due)
            }
            Next::Refuse { reason } => {
                (RunState::Refused, Some(Err(Failure::new(FailureKind::Rejected, reason))), None, stop_due)
            }
            Next::End { outcome, .. } => {
                self.questions.clear();
                self.inbox.clear();
                let state = RunState::of(Some(&outcome));
                (state, Some(outcome), None, None)
            }
            Next::Continue { run } => {
                self.questions.clear();
                self.info.links.chain.get_or_insert_with(|| self.info.id.clone());
                self.info.links.next = Some(run.id);
                (RunState::Continued, None, None, None)
            }
        };
        self.starts = 0;
        self.parked_at = (state == RunState::Waiting).then_some(now);
        self.troubles = trouble.as_ref().map_or(0, |_| self.troubles + 1);
        self.session = None;
        self.info.state = state;
        self.info.outcome = outcome;
        self.info.due_at = due_at;
        self.info.waiting = waiting;
        self.info.trouble = trouble;
        if knows {
            self.info.head = self.rows.last().map(|row| row.head);
        }
        false
    }
}

impl MemStore {
    /// A store that judges by that time.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { data: Mutex::default(), commits: AtomicU64::new(0), changed: Notify::new(), clock }
    }

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
        drop(data);
        if result.is_ok() {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
        std::future::ready(result).boxed()
    }

    /// Loses the last rows of a journal, as a disk does that lies.
    #[cfg(test)]
    pub(super) fn lose_tail(&self, run: &RunId) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = data.run_mut(run)
            && let Some(row) = run.rows.pop()
        {
            run.info.entries.0 -= u64::from(row.count);
        }
    }
}

impl Sessions for MemStore {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn begin_session<'a>(&'a self, owner: &'a Owner, lease_ms: u64) -> BoxFuture<'a, Result<SessionId>> {
        self.change(|data| {
            // Nobody else gives out numbers here.
            data.begun += 1;
            let id = SessionId(data.begun);
            let over_at = self.clock.ticks_ms().saturating_add(lease_ms);
            data.sessions.insert(id, Begun { owner: owner.clone(), lease_ms, over_at });
            Ok(id)
        })
    }

    fn keep(&self, session: SessionId) -> BoxFuture<'_, Result<Kept>> {
        self.change(|data| {
            let Some(begun) = data.sessions.get_mut(&session) else { return Ok(Kept::Fenced) };
            begun.over_at = self.clock.ticks_ms().saturating_add(begun.lease_ms);
            let now = self.clock.now();
            Ok(Kept::Until { until: now.after(begun.lease_ms), now })
        })
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Session>>> {
        self.look(|data| {
            data.sessions.keys().filter_map(|id| data.session(*id, self.clock.as_ref())).collect()
        })
    }

    fn fence(&self, session: SessionId, fence: Fence) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            let lives = data.session(session, self.clock.as_ref()).is_some_and(|session| session.left_ms > 0);
            Ok(if fence == Fence::IfOver && lives { 0 } else { data.fence(session) })
        })
    }

    fn shed(&self, session: SessionId, keep: Vec<RunId>) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            let mut count = 0;
            let runs = data.runs.iter_mut().filter(|run| run.session == Some(session));
            for run in runs.filter(|run| !keep.contains(&run.info.id)) {
                run.starts = run.starts.saturating_sub(1);
                run.session = None;
                run.info.due_at = Some(Timestamp(0));
                count += 1;
            }
            Ok(count)
        })
    }

    fn end_session(&self, session: SessionId) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            for run in data.runs.iter_mut().filter(|run| run.session == Some(session)) {
                run.starts = run.starts.saturating_sub(1);
            }
            Ok(data.fence(session))
        })
    }
}

impl Work for MemStore {
    fn claim<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        how: ClaimHow,
    ) -> BoxFuture<'a, Result<Claimed>> {
        self.change(|data| {
            data.check_session(session)?;
            let Some(found) = data.run(run) else { return Ok(Claimed::NoSuchRun) };
            let info = &found.info;
            let reopens =
                how == ClaimHow::Reopen && matches!(info.state, RunState::Failed | RunState::Cancelled);
            if info.state.is_final() && !reopens {
                return Ok(Claimed::Ended);
            }
            match found.session {
                Some(holder) if holder == session => {}
                Some(holder) => match data.session(holder, self.clock.as_ref()) {
                    Some(Session { id: session, owner, left_ms }) if left_ms > 0 => {
                        return Ok(Claimed::Held { session, owner, left_ms });
                    }
                    _ => drop(data.fence(holder)),
                },
                None if how == ClaimHow::Due && info.due_at.is_none_or(|due| due > self.clock.now()) => {
                    return Ok(Claimed::NotDue);
                }
                None => {}
            }
            let id = MessageId(data.inbox + 1);
            if let Some(found) = data.run_mut(run) {
                match how {
                    ClaimHow::Asked | ClaimHow::Reopen => found.drop_pauses(),
                    ClaimHow::AsItIs if found.info.state == RunState::Paused => {
                        found.take(id, self.clock.now(), MessageBody::Pause);
                        data.inbox = id.0;
                    }
                    ClaimHow::AsItIs | ClaimHow::Due => {}
                }
            }
            Ok(match data.take(run, session) {
                Some(Ok(opened)) => Claimed::Yes(Box::new(opened)),
                Some(Err(unreadable)) => Claimed::Unreadable(Box::new(unreadable)),
                None => Claimed::NoSuchRun,
            })
        })
    }

    fn claim_due(&self, session: SessionId, limit: usize, wanted: Wanted) -> BoxFuture<'_, Result<Due>> {
        let now = self.clock.now();
        let is_wanted = |info: &RunInfo| {
            wanted.projects.contain(info.project.as_ref())
                && wanted.families.as_ref().is_none_or(|roots| roots.contains(&info.links.root))
                && !wanted.except.contains(&info.id)
        };
        let look = |data: &Data| {
            let infos = data.runs.iter().map(|run| &run.info).filter(|info| is_wanted(info));
            let dues = infos.filter_map(|info| Some((info.due_at?, info.state, info.id.clone())));
            let (mut due, later): (Vec<_>, Vec<_>) = dues.partition(|(at, ..)| *at <= now);
            due.sort_by_key(|(at, ..)| *at);
            (due, later.iter().map(|(at, ..)| at.since(now)).min())
        };
        // A look that finds nothing changes nothing.
        let (due, next_in_ms) = look(&self.data.lock().unwrap_or_else(PoisonError::into_inner));
        if due.is_empty() || limit == 0 {
            let due = Due { runs: Vec::new(), more: !due.is_empty(), next_in_ms };
            return std::future::ready(Ok(due)).boxed();
        }
        self.change(|data| {
            data.check_session(session)?;
            data.turns += 1;
            let (due, next_in_ms) = look(data);
            let (new, begun): (Vec<_>, Vec<_>) =
                due.into_iter().partition(|(_, state, _)| *state == RunState::Queued);
            let share = ((limit + (data.turns - 1) % 4) / 4).min(new.len());
            let begun: Vec<_> = begun.into_iter().take(limit - share).collect();
            let room = limit - begun.len();
            let runs: Vec<_> = begun
                .into_iter()
                .chain(new.into_iter().take(room))
                .filter_map(|(_, _, run)| data.take(&run, session))
                .collect();
            Ok(Due { more: runs.len() == limit, runs, next_in_ms })
        })
    }

    fn put_right(&self) -> BoxFuture<'_, Result<u64>> {
        let now = self.clock.now();
        self.change(|data| {
            let is_late = |at: Option<Timestamp>, by: u64| at.is_some_and(|at| at.since(now) > by);
            let mut count = 0;
            for run in data.runs.iter_mut().filter(|run| run.session.is_none()) {
                let info = &mut run.info;
                if info.state == RunState::Waiting && is_late(info.due_at, 0) && is_late(run.parked_at, 1_000)
                {
                    info.due_at = Some(Timestamp(0));
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    fn set_starts<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        epoch: Epoch,
        starts: u32,
    ) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            let run = data.run_mut(run);
            if let Some(run) = run.filter(|run| run.session == Some(session) && run.info.epoch == epoch) {
                run.starts = starts;
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
                run.drop_pauses();
                true
            }))
        })
    }

    fn wakes<'a>(&'a self, seen: &'a mut Seen) -> BoxFuture<'a, Result<Vec<Wake>>> {
        async move {
            let Some(version) = seen.version else {
                let last = self.data.lock().unwrap_or_else(PoisonError::into_inner).inbox;
                *seen = Seen { version: Some(self.commits()), message: last };
                return Ok(vec![Wake::Gap]);
            };
            let now = loop {
                let changed = self.changed.notified();
                let now = self.commits();
                if now != version {
                    break now;
                }
                changed.await;
            };
            let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
            let told =
                data.runs.iter().filter(|run| run.inbox.iter().any(|message| message.id.0 > seen.message));
            let wakes = told.map(|run| Wake::Run(run.info.id.clone())).chain([Wake::Due]).collect();
            *seen = Seen { version: Some(now), message: data.inbox };
            Ok(wakes)
        }
        .boxed()
    }
}

impl Journals for MemStore {
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        self.change(|data| {
            let known = data.runs.iter().find(|known| {
                run.key.is_some() && known.info.key == run.key && known.info.workflow == run.workflow
            });
            if let Some(known) = known {
                let id = known.info.id.clone();
                return match known.rows.first().and_then(|first| run.differs_from(first)) {
                    None => Ok(Created::Known(id)),
                    Some(differs) => {
                        let key = run.key.clone().unwrap_or_default();
                        Err(StoreError::KeyUsed { key, run: id, differs })
                    }
                };
            }
            data.check_new(&run.id, run.module)?;
            if let Some(session) = run.session {
                data.check_session(session)?;
            }
            data.insert(run, self.clock.now());
            Ok(Created::New)
        })
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        self.change(|data| {
            let now = self.clock.now();
            let fenced = || StoreError::Fenced { run: append.run.clone() };
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            if run.info.epoch != append.epoch || run.session != Some(append.session) {
                return Err(fenced());
            }
            let last = run.rows.last().map(|row| row.head);
            if let Some(row) = &append.row
                && (row.first != run.info.entries || last.is_some_and(|head| head != append.before))
            {
                return Err(fenced());
            }
            if let Next::Continue { run } = &append.next {
                data.check_new(&run.id, run.module)?;
            }
            if data.races(&append) {
                return Err(StoreError::Raced { run: append.run.clone() });
            }
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            run.starts = 0;
            let mut committed = None;
            if let Some(row) = append.row {
                run.troubles = 0;
                run.info.entries.0 += u64::from(row.count);
                run.info.updated_at = append.at;
                committed = Some((append.run.clone(), run.rows.len()));
                run.rows.push(row);
            }
            run.info.module = append.module.unwrap_or(run.info.module);
            run.inbox.retain(|message| !append.consumed.contains(&message.id));
            run.change_questions(append.questions);
            run.emit(append.emissions);
            run.given = append.given.unwrap_or(run.given);
            let (root, before) = (run.info.links.root.clone(), run.info.spent);
            if let Some((spent, budget)) = append.ledger {
                (run.info.spent, run.info.budget) = (spent, budget);
                data.spend(&root, before, spent);
            }
            let place = match committed {
                Some(committed) => {
                    data.commits.push(committed);
                    Some(data.commits.len() as u64)
                }
                None => append.after,
            };
            let mut appended = Appended { place, ..Appended::default() };
            for child in append.children {
                match data.start_child(&append.run, child, now) {
                    true => appended.wake.push(Wake::Due),
                    false => appended.due = true,
                }
            }
            let dropped = data.cancel_children(&append.run, Some(&append.dropped), now);
            appended.wake.extend(dropped.into_iter().map(Wake::Run));
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            appended.due |= run.settle(&append.next, append.before != Digest([0; 32]), now);
            match append.next {
                Next::End { outcome, spent } => {
                    let parent = data.tell_parent(&append.run, &outcome, spent, now);
                    let children = data.cancel_children(&append.run, None, now);
                    appended.wake.extend(parent.into_iter().chain(children).map(Wake::Run));
                }
                Next::Continue { run: next } => {
                    let children = data.cancel_children(&append.run, None, now);
                    appended.wake.extend(children.into_iter().map(Wake::Run).chain([Wake::Due]));
                    let left = data.run_mut(&append.run).map(|run| std::mem::take(&mut run.inbox));
                    let id = next.id.clone();
                    data.insert(*next, now);
                    let moved = left.into_iter().flatten().filter(|message| {
                        matches!(
                            message.body,
                            MessageBody::Signal { .. } | MessageBody::Cancel { .. } | MessageBody::Pause
                        )
                    });
                    if let Some(next) = data.run_mut(&id) {
                        moved.for_each(|message| next.take(message.id, message.at, message.body));
                    }
                }
                _ => {}
            }
            Ok(appended)
        })
    }

    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>> {
        self.look(|data| {
            let rows = data.run(run).into_iter().flat_map(|run| &run.rows);
            rows.filter(|row| row.first >= from).cloned().collect()
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

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            data.check_new(&run.info.id, run.info.module)?;
            let key = run.info.key.clone();
            let workflow = &run.info.workflow;
            let taken = data
                .runs
                .iter()
                .any(|known| key.is_some() && known.info.key == key && known.info.workflow == *workflow);
            let (root, spent) = (run.info.links.root.clone(), run.info.spent);
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
                session: None,
                rows: run.rows,
                given: run.given,
                starts: 0,
                troubles: 0,
                parked_at: None,
                stopping: false,
                messages: run.messages,
                questions: BTreeMap::new(),
                logs: run.logs,
                published: run.state,
                transcript: Vec::new(),
                inbox: Vec::new(),
            };
            for (at, body) in run.inbox {
                data.inbox += 1;
                imported.take(MessageId(data.inbox), at, body);
            }
            imported.info.due_at = None;
            imported.change_questions(run.questions);
            data.runs.push(imported);
            data.spend(&root, Spent::default(), spent);
            Ok(())
        })
    }

    fn rebuild(&self, rebuilt: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            let known = data.run_mut(&rebuilt.info.id).filter(|run| run.session.is_none());
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
                project: old.project,
                imported: old.imported,
                lease: None,
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
                run.emit(emissions);
            }
            let (root, spent) = (run.info.links.root.clone(), run.info.spent);
            data.spend(&root, old.spent, spent);
            Ok(true)
        })
    }

    fn delete<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Deleted>> {
        self.change(|data| {
            let now = self.clock.now();
            let Some(found) = data.run(run) else { return Ok(Deleted::NoSuchRun) };
            if let Some(holder) = found.session {
                match data.session(holder, self.clock.as_ref()) {
                    Some(Session { id: session, owner, left_ms }) if left_ms > 0 => {
                        return Ok(Deleted::Held { session, owner, left_ms });
                    }
                    _ => drop(data.fence(holder)),
                }
            }
            let Some(index) = data.runs.iter().position(|known| known.info.id == *run) else {
                return Ok(Deleted::NoSuchRun);
            };
            let info = &data.runs[index].info;
            if info.state == RunState::Continued && info.links.chain.is_some() {
                let latest = data.runs.iter().rfind(|known| known.info.links.chain == info.links.chain);
                if latest.is_some_and(|latest| !latest.info.state.is_final()) {
                    return Ok(Deleted::Needed);
                }
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
            let chain = gone.links.chain.clone().unwrap_or_else(|| run.clone());
            if !data.runs.iter().any(|known| known.info.links.chain.as_ref() == Some(&chain)) {
                data.seen.retain(|(of, _)| *of != chain);
            }
            if !data.runs.iter().any(|known| known.info.links.root == gone.links.root) {
                data.ledgers.remove(&gone.links.root);
            }
            Ok(Deleted::Yes)
        })
    }
}

impl Mail for MemStore {
    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        self.change(|data| {
            let now = self.clock.now();
            let Some(info) = data.run(&message.run).map(|run| run.info.clone()) else {
                return Ok(Posted::NoSuchRun);
            };
            if info.state == RunState::Continued && !matches!(message.body, MessageBody::Answer { .. }) {
                let latest = data.runs.iter().rev().find(|run| run.info.links.chain == info.links.chain);
                return Ok(latest.map_or(Posted::Ended, |run| Posted::Continued(run.info.id.clone())));
            }
            let chain = info.links.chain.unwrap_or(info.id);
            let dedupe = match &message.body {
                MessageBody::Signal { id: Some(id), .. } => Some((chain, id.clone())),
                _ => None,
            };
            if dedupe.as_ref().is_some_and(|dedupe| data.seen.contains(dedupe)) {
                return Ok(Posted::Duplicate);
            }
            let id = MessageId(data.inbox + 1);
            let Some(run) = data.run_mut(&message.run) else { return Ok(Posted::NoSuchRun) };
            if run.info.state.is_final() {
                return Ok(Posted::Ended);
            }
            match &message.body {
                MessageBody::Pause if run.stopping => return Ok(Posted::Stopping),
                MessageBody::Pause if run.session.is_none() => {
                    run.info.state = RunState::Paused;
                    run.info.due_at = None;
                    return Ok(Posted::Added);
                }
                // However often it was asked.
                MessageBody::Pause => run.drop_pauses(),
                MessageBody::Answer { step, .. } => match run.questions.get_mut(step) {
                    Some((question, answered))
                        if !*answered && question.deadline.is_none_or(|deadline| deadline > now) =>
                    {
                        *answered = true;
                    }
                    _ => return Ok(Posted::NoQuestion),
                },
                _ => {}
            }
            run.take(id, now, message.body);
            data.inbox = id.0;
            data.seen.extend(dedupe);
            Ok(Posted::Added)
        })
    }

    fn inbox<'a>(&'a self, run: &'a RunId, part: Part) -> BoxFuture<'a, Result<Inbox>> {
        self.look(|data| data.run(run).map(|run| run.inbox(part)).unwrap_or_default())
    }
}

impl Views for MemStore {
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.look(|data| data.run(run).map(|run| data.info(run, self.clock.as_ref())))
    }

    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Vec<RunInfo>>> {
        self.look(|data| {
            let end = match &filter.before {
                Some(before) => data.runs.iter().position(|run| run.info.id == *before).unwrap_or(0),
                None => data.runs.len(),
            };
            let wanted = |run: &&Run| {
                let info = &run.info;
                (filter.states.is_empty() || filter.states.contains(&info.state))
                    && filter.workflow.as_ref().is_none_or(|workflow| info.workflow == *workflow)
                    && filter.project.as_ref().is_none_or(|project| info.project.as_ref() == Some(project))
                    && filter.labels.iter().all(|label| info.labels.contains(label))
                    && filter.since.is_none_or(|since| info.created_at >= since)
                    && filter.idle_since.is_none_or(|since| info.updated_at < since)
                    && (!filter.top || info.parent.is_none())
                    && filter.parent.as_ref().is_none_or(|parent| info.parent.as_ref() == Some(parent))
                    && filter.root.as_ref().is_none_or(|root| info.links.root == *root)
                    && filter.chain.as_ref().is_none_or(|chain| info.links.chain.as_ref() == Some(chain))
                    && filter.prefix.as_ref().is_none_or(|prefix| info.id.as_str().starts_with(prefix))
            };
            let newest_first = data.runs[..end].iter().rev().filter(wanted).take(filter.limit);
            newest_first.map(|run| data.info(run, self.clock.as_ref())).collect()
        })
    }

    fn busy_relatives<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        let now = self.clock.now();
        self.look(|data| {
            let family = data.runs.iter().filter(|run| run.info.links.root == *root);
            family
                .into_iter()
                .any(|run| run.session.is_some() || run.info.due_at.is_some_and(|due| due <= now))
        })
    }

    fn ended_children<'a>(
        &'a self,
        parent: &'a RunId,
        steps: &'a [Step],
    ) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.look(|data| {
            let children = data.runs.iter().map(|run| &run.info).filter(|info| {
                info.parent.as_ref() == Some(parent)
                    && info.links.step.is_some_and(|step| steps.contains(&step))
                    && info.outcome.is_some()
                    && info.state.is_final()
            });
            children.cloned().collect()
        })
    }

    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>> {
        self.look(|data| {
            let chained = |info: &RunInfo| info.links.chain.as_ref() == Some(root);
            let infos = data.runs.iter().map(|run| &run.info);
            let head = infos.rev().find(|info| chained(info)).or(data.run(root).map(|run| &run.info));
            let spent = data.ledgers.get(root).copied().unwrap_or_default();
            Family { budget: head.map(|info| info.budget).unwrap_or_default(), spent }
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

    fn question<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<OpenQuestion>>> {
        self.look(|data| {
            let (question, answered) = data.run(run)?.questions.get(&step)?;
            (!answered).then(|| question.clone())
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

    fn snapshot<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        self.look(|data| {
            let run = data.run(run)?;
            Some(Snapshot {
                info: data.info(run, self.clock.as_ref()),
                rows: run.rows.clone(),
                logs: run.logs.clone(),
                messages: run.messages.clone(),
                published: run.published.clone(),
                inbox: run.inbox.clone(),
            })
        })
    }

    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        self.look(|data| {
            let published = data.run(run).into_iter().flat_map(|run| &run.published);
            let wanted = published.filter(|published| {
                key.is_none_or(|key| published.key == key)
                    && after.is_none_or(|after| published.number > after)
            });
            wanted.take(limit).cloned().collect()
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

    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<String>>> {
        self.look(|data| {
            let lines = data.run(run)?.transcript.iter().rev();
            let mut beats =
                lines.filter(|line| line.line.step == step && line.line.kind == TranscriptKind::Heartbeat);
            beats.next().map(|line| line.line.text.clone())
        })
    }
}

impl Extras for MemStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        self.change(|data| {
            let digest = Digest::of(bytes);
            let info = ModuleInfo {
                digest,
                name: name.to_owned(),
                bytes: bytes.len() as u64,
                added_at: self.clock.now(),
            };
            data.modules.entry(digest).or_insert_with(|| (info, bytes.to_owned()));
            Ok(digest)
        })
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.look(|data| data.modules.get(&digest).map(|(_, bytes)| bytes.clone()))
    }

    fn module_info(&self, digest: Digest) -> BoxFuture<'_, Result<Option<ModuleInfo>>> {
        self.look(|data| data.modules.get(&digest).map(|(info, _)| info.clone()))
    }

    fn module_named<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<ModuleInfo>>> {
        self.look(|data| {
            let named = data.modules.values().map(|(info, _)| info).filter(|info| info.name == name);
            named.max_by_key(|info| (info.added_at, std::cmp::Reverse(info.digest))).cloned()
        })
    }

    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>> {
        self.look(|data| {
            let mut modules: Vec<_> = data.modules.values().map(|(info, _)| info.clone()).collect();
            modules.sort_by(|a, b| (&a.name, b.added_at, a.digest).cmp(&(&b.name, a.added_at, b.digest)));
            modules
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

    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            let first = data.transcribed + 1;
            data.transcribed += lines.len() as u64;
            if let Some(run) = data.run_mut(run) {
                for (number, line) in (first..).zip(lines) {
                    if line.kind == TranscriptKind::Heartbeat {
                        let same = |kept: &TranscriptLine| {
                            kept.line.step == line.step && kept.line.kind == TranscriptKind::Heartbeat
                        };
                        run.transcript.retain(|kept| !same(kept));
                    }
                    run.transcript.push(TranscriptLine { number, line });
                }
            }
            Ok(())
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

    fn delete_old_answers(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.change(|data| {
            let all = data.answers.len();
            data.answers.retain(|_, (at, _)| *at >= before);
            Ok(all - data.answers.len())
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

    fn schedules(&self) -> BoxFuture<'_, Result<Schedules>> {
        self.look(|data| Schedules {
            known: data.schedules.values().cloned().collect(),
            ..Schedules::default()
        })
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

    fn due_schedules(&self, limit: usize) -> BoxFuture<'_, Result<DueSchedules>> {
        let now = self.clock.now();
        self.look(|data| {
            let is_due = |schedule: &&Schedule| schedule.next_at.is_some_and(|at| at <= now);
            let mut due: Vec<_> = data.schedules.values().filter(is_due).cloned().collect();
            due.sort_by_key(|schedule| schedule.next_at);
            due.truncate(limit);
            let later = data.schedules.values().filter_map(|schedule| schedule.next_at);
            let next = later.filter(|at| *at > now).min();
            let next_in_ms = next.map(|next| next.since(now));
            DueSchedules { due, unreadable: Vec::new(), next_in_ms }
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
            if let Some(run) = fire.cancel {
                data.deliver(
                    &run,
                    self.clock.now(),
                    MessageBody::Cancel { reason: Some(OVERTAKEN.to_owned()) },
                );
            }
            if let Some(known) = data.schedules.get_mut(&fire.schedule) {
                known.next_at = fire.next;
                known.fired += u64::from(fire.run.is_some());
                known.last = fire.run.as_ref().map(|run| run.id.clone()).or_else(|| known.last.take());
            }
            if let Some(run) = fire.run {
                data.insert(run, self.clock.now());
            }
            Ok(true)
        })
    }

    /// It is gone with its process, so the name of that will do.
    fn identity(&self) -> BoxFuture<'_, Result<String>> {
        let identity = format!("memory{}", std::process::id());
        async move { Ok(identity) }.boxed()
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn check_place(&self) -> Result<()> {
        Ok(())
    }
}
