//! Commits what happened, and begins what the program asked for.

use std::collections::VecDeque;

use wfhost_core::{End, Json, Machine, Op, Row, Step, Timestamp, Work};
use wfhost_store::{Append, Appended, MessageId, NewRun, Next, StoreError, Wake};
use wfhost_world::fresh_id;

use super::watching::Watching;
use super::{Drive, DriveError, Driven, Driver, Leave};
use crate::family::{self, Wanted};

impl Driver<'_> {
    /// Commits what was appended and begins what the program asked for. If
    /// that ends the run it tells how.
    pub(super) async fn commit(&mut self) -> Result<Option<Driven>, DriveError> {
        let mut work = self.shared.lock().machine.take_work(self.now());
        let continues = |work: &Work| matches!(work, Work::Execute { op: Op::ContinueAsNew { .. }, .. });
        if let Some(index) = work.iter().position(continues)
            && let Work::Execute { step, op: Op::ContinueAsNew { input }, .. } = work.swap_remove(index)
        {
            return self.continue_as_new(step, input).await.map(Some);
        }
        self.append(Next::Go, Vec::new()).await?;
        let mut dropped = Vec::new();
        for work in work {
            match work {
                Work::Execute { step, attempt, op } => {
                    // It may have the turn of one that is not wanted any more.
                    self.give_back_turns_of(std::mem::take(&mut dropped)).await;
                    self.execute(step, attempt, op);
                }
                Work::Fail { step, failure } => {
                    self.shared.lock().machine.complete(step, Err(failure), self.now());
                    self.happened();
                }
                Work::Abort { step } => {
                    self.calls.abort(step);
                    dropped.push(step);
                }
            }
        }
        self.give_back_turns_of(dropped).await;
        Ok(None)
    }

    /// The run ends here and continues as a fresh one.
    async fn continue_as_new(&mut self, step: Step, input: Json) -> Result<Driven, DriveError> {
        let [id, other] = self.shared.lock().machine.ids_of_next_round();
        let mut ids = VecDeque::from([id, other]);
        let (project, imported) = (self.drive.project.clone(), self.drive.imported);
        loop {
            let id = match ids.pop_front() {
                Some(id) => id,
                None => fresh_id().map_err(|error| DriveError::Instance(error.to_string()))?,
            };
            let ended = self.append_end(|machine, now| {
                let next = family::next_round(machine, step, input.clone(), id.clone(), now);
                let next = NewRun { project: project.clone(), imported, ..next };
                let (row, at) = machine.with_end(End::Continued(&id), now);
                (Next::Continue { run: Box::new(next) }, row.into(), at)
            });
            match ended.await {
                Ok(()) => return Ok(Driven::Continued(id)),
                // Of another run, or of one that was deleted.
                Err(DriveError::Store(StoreError::IdTaken { .. } | StoreError::IdUsed { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The children that the program asked for, to be created with the entries that ask for them.
    async fn new_children(&mut self) -> Result<Vec<NewRun>, DriveError> {
        let wanted = Wanted::take(&mut self.shared.lock().machine);
        let Some(wanted) = wanted else { return Ok(Vec::new()) };
        let found = self.drive.modules.find_all(self.drive.store.as_ref(), wanted).await;
        let found = found.map_err(|error| error.into_error(self.drive.run))?;
        let (project, imported) = (&self.drive.project, self.drive.imported);
        let children = family::start(&mut self.shared.lock().machine, found, self.now());
        let children = children.into_iter();
        Ok(children.map(|child| NewRun { project: project.clone(), imported, ..child }).collect())
    }

    /// Commits what was appended, if there is anything or the run does not just go on.
    pub(super) async fn append(
        &mut self,
        next: Next,
        consumed: Vec<MessageId>,
    ) -> Result<Appended, DriveError> {
        let nothing = {
            let inner = self.shared.lock();
            !inner.machine.has_unsaved() && inner.emissions.is_empty()
        };
        if nothing && consumed.is_empty() && next == Next::Go {
            self.commit_by = None;
            self.settled();
            return Ok(Appended::default());
        }
        self.append_always(next, consumed).await
    }

    pub(super) async fn append_always(
        &mut self,
        next: Next,
        consumed: Vec<MessageId>,
    ) -> Result<Appended, DriveError> {
        let children = self.new_children().await?;
        let goes_on = next == Next::Go;
        let (row, at) = {
            let mut inner = self.shared.lock();
            (inner.machine.take_unsaved(), inner.machine.last_at())
        };
        let append = self.filled(next, row.map(Row::from), at, consumed, children);
        let begets = !append.children.is_empty();
        let appended = self.store_append(append).await?;
        if begets {
            (self.drive.wake)(&[Wake::Due]);
        }
        if appended.due && goes_on {
            // A child could not be started.
            self.course.mail();
        }
        // This process may have been stopped meanwhile: then somebody else may have the run by now,
        // and nothing may be called that he calls too.
        if goes_on && !self.keeps_lease().await {
            return Err(StoreError::Fenced { run: self.drive.run.clone() }.into());
        }
        Ok(appended)
    }

    /// Appends nothing, whatever this execution did.
    pub(super) async fn append_bare(&mut self, next: Next) -> Result<(), DriveError> {
        let Drive { run, session, epoch, .. } = self.drive;
        let append = Append::new(run.clone(), session, epoch, Timestamp(0), next);
        self.store_append(Append { before: self.head, ..append }).await?;
        Ok(())
    }

    /// Commits the end of the run, and what came in before it: the machine knows of the end only then.
    pub(super) async fn append_end(
        &mut self,
        end: impl Fn(&mut Machine, Timestamp) -> (Next, Row, Timestamp),
    ) -> Result<(), DriveError> {
        self.course.end();
        // Nobody waits for them any more. What was answered is needed again if the end cannot be committed.
        self.calls.halt();
        self.count_dropped().await;
        while let Some((attempt, done)) = self.calls.take() {
            self.calls.hold(attempt, done.clone());
            self.count(attempt, done);
        }
        self.calls.gone().await;
        loop {
            let children = self.new_children().await?;
            let (next, row, at) = end(&mut self.shared.lock().machine, self.now());
            let append = self.filled(next, Some(row), at, Vec::new(), children);
            match self.store_append(append.clone()).await {
                Err(DriveError::Store(StoreError::Raced { .. })) => {
                    self.again = Some(Box::new(append));
                    self.read_inbox().await?;
                }
                Err(refused @ DriveError::Store(StoreError::IdTaken { .. } | StoreError::IdUsed { .. })) => {
                    self.again = Some(Box::new(append));
                    return Err(refused);
                }
                appended => {
                    appended?;
                    let unknown = self.course.untouched() && self.drive.providers.policy().shares_rates();
                    // Which steps had turns is known only of a program that has come through.
                    if self.drive.gate.release_run(self.drive.run) || unknown {
                        self.give_back_turns().await;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// What is appended with a row: all that happened since the last time.
    fn filled(
        &mut self,
        next: Next,
        row: Option<Row>,
        at: Timestamp,
        consumed: Vec<MessageId>,
        mut children: Vec<NewRun>,
    ) -> Append {
        let mut inner = self.shared.lock();
        let mut emissions = std::mem::take(&mut inner.emissions);
        let machine = &mut inner.machine;
        let given = machine.given();
        if let Some(given) = given {
            machine.gave_out(given);
        }
        let ledger = (machine.spent_itself(), machine.budget());
        let mut append = Append {
            before: self.head,
            row,
            after: self.place,
            consumed,
            given,
            questions: machine.take_questions(),
            module: machine.take_moved(),
            dropped: machine.take_dropped_children(),
            ledger: Some(ledger).filter(|ledger| Some(*ledger) != self.ledger),
            ..Append::new(self.drive.run.clone(), self.drive.session, self.drive.epoch, at, next)
        };
        drop(inner);
        // What was to be stored with an end that was not.
        if let Some(again) = self.again.take() {
            append.given = append.given.or(again.given);
            append.module = append.module.or(again.module);
            append.questions.splice(0..0, again.questions);
            append.dropped.splice(0..0, again.dropped);
            children.splice(0..0, again.children);
            emissions.splice(0..0, again.emissions);
        }
        Append { children, emissions, ..append }
    }

    async fn store_append(&mut self, append: Append) -> Result<Appended, DriveError> {
        self.commit_by = None;
        let (head, ledger) = (append.row.as_ref().map(|row| row.head), append.ledger);
        let pending = self.watching.is_some().then(|| Watching::read(&append));
        let appended = self.drive.store.append(append).await;
        if let (Some(watching), Some(pending)) = (&mut self.watching, pending) {
            let machine = &self.shared.lock().machine;
            match &appended {
                Ok(_) => watching.tell(pending, |step| machine.is_open(step)),
                Err(error) => watching.failed(error),
            }
        }
        let appended = appended?;
        self.settled();
        self.head = head.unwrap_or(self.head);
        self.ledger = ledger.or(self.ledger);
        self.place = appended.place.or(self.place);
        (self.drive.committed)();
        if !appended.wake.is_empty() {
            (self.drive.wake)(&appended.wake);
        }
        Ok(appended)
    }

    /// What calls ended with is committed.
    fn settled(&mut self) {
        self.settling.clear();
        self.calls.settled();
    }

    /// Whether the run is still this host's. One that was stopped past its lease asks first.
    async fn keeps_lease(&self) -> bool {
        let lease = self.drive.control.lease.held();
        let lost = async {
            while self.drive.control.leaving() < Leave::Now {
                self.drive.control.left().await;
            }
        };
        tokio::select! {
            biased;
            () = lease => true,
            () = lost => false,
        }
    }
}
