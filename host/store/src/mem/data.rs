//! What changes of the data are made of.

use super::*;
use crate::claims::{check_epoch, next_epoch};

impl Data {
    /// Refuses an id that is or was somebody's, and a module that is not there.
    pub(super) fn check_new(&self, id: &RunId, module: Digest) -> Result<()> {
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

    pub(super) fn insert(&mut self, run: NewRun, now: Timestamp) {
        let id = run.id.clone();
        self.commits.extend((0..run.rows.len()).map(|index| (run.id.clone(), index)));
        self.created += 1;
        self.runs.push(Run {
            info: RunInfo {
                number: self.created,
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
    pub(super) fn deliver(&mut self, run: &RunId, at: Timestamp, body: MessageBody) {
        self.inbox += 1;
        let id = MessageId(self.inbox);
        if let Some(run) = self.run_mut(run).filter(|run| !run.info.state.is_final()) {
            run.take(id, at, body);
        }
    }

    /// Cancels the children of a run that are to end with it: those of `steps`, or all. Gives them.
    pub(super) fn cancel_children(
        &mut self,
        parent: &RunId,
        steps: Option<&[Step]>,
        at: Timestamp,
    ) -> Vec<RunId> {
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
    pub(super) fn tell_parent(
        &mut self,
        run: &RunId,
        outcome: &Outcome,
        spent: Spent,
        at: Timestamp,
    ) -> Option<RunId> {
        let info = self.run(run).map(|run| run.info.clone())?;
        let (parent, step) = (info.parent?, info.links.step?);
        let body = MessageBody::Child { step, run: run.clone(), outcome: outcome.clone(), spent };
        self.deliver(&parent, at, body);
        Some(parent)
    }

    pub(super) fn start_child(&mut self, parent: &RunId, child: NewRun, now: Timestamp) -> bool {
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
    pub(super) fn races(&self, append: &Append) -> bool {
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
    pub(super) fn take(&mut self, run: &RunId, session: SessionId) -> Option<Result<Opened, Unreadable>> {
        let place = self.commits.iter().rposition(|(of, _)| of == run).map(|index| index as u64 + 1);
        let run = self.run_mut(run)?;
        let (was, waited) = (run.info.state, run.info.waiting.take());
        run.starts += u32::from(run.session.replace(session) != Some(session));
        run.stopping &= !was.is_final();
        run.info.epoch = next_epoch(run.info.epoch);
        run.info.state = RunState::Running;
        let outcome = run.info.outcome.take();
        let trouble = run.info.trouble.take();
        run.info.due_at = None;
        let damaged = |run: &Run, reason: String| {
            let error = StoreError::Damaged { place: "memory".to_owned(), reason };
            Some(Err(Unreadable { run: run.info.id.clone(), epoch: run.info.epoch, error }))
        };
        if let Err(reason) = check_epoch(run.info.epoch) {
            return damaged(run, format!("what is kept of {}: {reason}", run.info.id));
        }
        let last = run.rows.last().map(|row| row.head);
        let is_there = match was {
            RunState::Running => run.rows.iter().any(|row| Some(row.head) == run.info.head),
            _ => run.info.head == last,
        };
        if run.info.head.is_some() && !is_there {
            return damaged(run, format!("the journal of {}: its last entries are missing", run.info.id));
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
    pub(super) fn change_questions(&mut self, changes: Vec<QuestionChange>) {
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
                    // One whose answer waits to be taken is not asked again.
                    let is_for = |message: &Message| matches!(message.body, MessageBody::Answer { step: of, .. } if of == step);
                    let answered = self.inbox.iter().any(is_for);
                    self.questions.insert(step, (question, answered));
                }
                QuestionChange::Closed { step } => drop(self.questions.remove(&step)),
            }
        }
    }

    /// Stores what the program gave out behind what is stored.
    pub(super) fn emit(&mut self, emissions: Vec<Emission>) {
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
    pub(super) fn inbox(&self, part: Part) -> Inbox {
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

    /// How many bytes are read when it is claimed: of its journal and its inbox.
    pub(super) fn bytes_to_read(&self) -> u64 {
        let journal: usize = self.rows.iter().map(|row| row.bytes.len()).sum();
        let inbox: usize = self.inbox.iter().map(|message| message.body.bytes()).sum();
        (journal + inbox.min(INBOX_BYTES)) as u64
    }

    /// Takes in a message, and is due if nobody advances it and it waits for that.
    pub(super) fn take(&mut self, id: MessageId, at: Timestamp, body: MessageBody) {
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
    /// Whether there were any.
    pub(super) fn drop_pauses(&mut self) -> bool {
        let before = self.inbox.len();
        self.inbox.retain(|message| message.body != MessageBody::Pause);
        self.inbox.len() < before
    }

    /// Whether somebody asks for the run to be stopped.
    pub(super) fn is_to_stop(&self) -> bool {
        self.inbox.iter().any(|message| matches!(message.body, MessageBody::Cancel { .. }))
    }

    /// Whether something is in the inbox that wakes a run which waits for this.
    pub(super) fn wakes(&self, waiting: &Waiting) -> bool {
        self.inbox.iter().any(|message| waiting.is_for(&message.body))
    }

    /// True if it was to be parked but something for it has come in, or to be paused but nobody asks for that any more.
    /// `knows`: the caller that appends knows the journal.
    pub(super) fn settle(&mut self, next: &Next, knows: bool, now: Timestamp) -> bool {
        let stop_due = self.is_to_stop().then_some(Timestamp(0));
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
            Next::Pause { if_asked: true }
                if !self.inbox.iter().any(|message| message.body == MessageBody::Pause) =>
            {
                return true;
            }
            Next::Pause { .. } => {
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
        self.parked_at = (trouble.is_some() || matches!(next, Next::Park(_))).then_some(now);
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
