//! Runs that take over what another one did, and runs that are moved to other code.

use wfhost_core::{
    CannotFork, Digest, Event, ForkPlan, Journal, Machine, Mismatch, Origin, Outcome, Row, RunId, Started,
    journal,
};
use wfhost_runtime::Module;
use wfhost_store::{
    Append, ClaimHow, Claimed, Created, NewRun, Next, RunInfo, RunState, StoreError, Waiting,
};
use wfhost_world::{fresh_id, fresh_seed};

use crate::host::{Host, HostError};

/// How a run is forked.
#[derive(Clone, Debug, Default)]
pub struct ForkOptions {
    /// What is taken over of the journal.
    pub plan: ForkPlan,
    /// Take over no entries, but the answers of all steps that ask for the same.
    pub reuse: bool,
    /// The module that the fork is executed with, if not that of the run.
    pub module: Option<Module>,
    /// A fresh id if none.
    pub id: Option<RunId>,
}

/// Why a run cannot be forked.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{run} cannot be forked so: {reason}")]
    Cannot { run: RunId, reason: CannotFork },
    /// The program departs from what it would take over.
    #[error("a fork of {run} does not fit the module {module}: {mismatch}")]
    Departs { run: RunId, module: Digest, mismatch: Box<Mismatch> },
}

impl From<StoreError> for ForkError {
    fn from(error: StoreError) -> Self {
        Self::Host(error.into())
    }
}

/// What became of a run that was to be moved to another module.
#[derive(Debug)]
pub enum Upgraded {
    Moved,
    /// It is executed with that module already.
    Same,
    /// It stays where it is.
    Departs(Box<Mismatch>),
    /// It has ended, or somebody advances it.
    Left(HostError),
}

impl Host {
    /// Makes a new run out of what another one did, which stays as it is.
    /// Whoever finds the new one first advances it.
    pub async fn fork(&self, id: &RunId, options: ForkOptions) -> Result<RunId, ForkError> {
        let info = self.store().run(id).await?.ok_or_else(|| HostError::NoSuchRun(id.clone()))?;
        let module = match options.module {
            Some(module) => module,
            None => self.module_of(&info).await?,
        };
        let journal = self.journal(id).await?;
        let fork = match options.id {
            Some(fork) => fork,
            None => fresh_id().map_err(HostError::from)?,
        };
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let now = self.now();
        let (mut rows, mut machine) = if options.reuse {
            let source = Machine::open(journal, u64::MAX).map_err(unusable)?;
            let started = Started {
                run: fork.clone(),
                module: module.digest,
                input: options.plan.input.unwrap_or_else(|| source.started().input.clone()),
                parent: None,
                child: None,
                origin: Some(Origin::Reused { from: id.clone() }),
                ..source.started().clone()
            };
            (Vec::new(), Machine::start(started, now))
        } else {
            let entries = options.plan.entries(&journal);
            let entries = entries.map_err(|reason| ForkError::Cannot { run: id.clone(), reason })?;
            let rows = journal::rows(&entries);
            let journal = Journal::read(rows.clone()).map_err(unusable)?;
            (rows, Machine::open(journal, 0).map_err(unusable)?)
        };
        machine.fork(fork.clone(), fresh_seed().map_err(HostError::from)?, now);
        machine.move_to(module.digest);
        machine.settle_move(now);
        let children = self.children_of(&mut machine).await?;
        rows.extend(machine.take_unsaved().map(Row::from));
        // Before anything is stored: the program has to agree with what it takes over.
        let journal = Journal::read(rows.clone()).map_err(unusable)?;
        if let Some(mismatch) = self.replay(&fork, journal, &module, u64::MAX).await?.departs {
            return Err(ForkError::Departs { run: id.clone(), module: module.digest, mismatch });
        }
        let questions = machine.open_questions();
        let run = NewRun { questions, children, ..NewRun::new(&machine, rows) };
        match self.store().create(run).await? {
            Created::New | Created::Known(_) => {
                self.look_for_work();
                Ok(fork)
            }
        }
    }

    /// Moves a run that nobody advances to another module, if that agrees with
    /// its journal, and leaves it as it was otherwise.
    pub async fn upgrade(&self, info: &RunInfo, module: &Module) -> Result<Upgraded, HostError> {
        let id = &info.id;
        if info.module == module.digest {
            return Ok(Upgraded::Same);
        }
        let (epoch, emissions) = match self.claim(id, ClaimHow::Asked).await? {
            Claimed::Yes { epoch, emissions, .. } => (epoch, emissions),
            Claimed::Held { owner, until } => {
                return Ok(Upgraded::Left(HostError::Held { run: id.clone(), owner, until }));
            }
            Claimed::NoSuchRun => return Err(HostError::NoSuchRun(id.clone())),
            Claimed::Ended | Claimed::NotDue => {
                return Ok(Upgraded::Left(HostError::Ended { run: id.clone() }));
            }
        };
        let tried = self.try_module(info, module, emissions).await;
        let (mut machine, departs) = match tried {
            Ok(tried) => tried,
            Err(error) => {
                self.store().release(id, epoch, info.trouble.as_deref()).await?;
                return Err(error);
            }
        };
        if departs.is_none() {
            machine.move_to(module.digest);
            machine.settle_move(self.now());
        }
        let row = machine.take_unsaved().map(Row::from);
        let append = Append {
            row,
            module: machine.take_moved(),
            ..Append::new(id.clone(), epoch, machine.last_at(), as_it_was(info, &machine))
        };
        let goes_on = append.next == Next::Go;
        let appended = self.store().append(append).await?;
        if goes_on || appended.due {
            self.store().release(id, epoch, info.trouble.as_deref()).await?;
        }
        Ok(departs.map_or(Upgraded::Moved, Upgraded::Departs))
    }

    /// The run's machine, and where the module departs from it.
    async fn try_module(
        &self,
        info: &RunInfo,
        module: &Module,
        emissions: u64,
    ) -> Result<(Machine, Option<Box<Mismatch>>), HostError> {
        let journal = self.journal(&info.id).await?;
        let unusable = |source| HostError::Journal { run: info.id.clone(), source };
        let machine = Machine::open(journal.clone(), emissions).map_err(unusable)?;
        let departs = self.replay(&info.id, journal, module, u64::MAX).await?.departs;
        Ok((machine, departs))
    }
}

/// The state of a run that was claimed for a moment only.
fn as_it_was(info: &RunInfo, machine: &Machine) -> Next {
    match (info.state, &info.outcome) {
        (RunState::Waiting, _) => Next::Park(Waiting::of(machine)),
        (RunState::Paused, _) => Next::Pause,
        // With other code it may go on.
        (RunState::Refused, Some(Err(failure))) if machine.module() == info.module => {
            Next::Refuse { reason: failure.message.clone() }
        }
        _ => Next::Go,
    }
}

/// What became of a journal under a module, and how the run ended then.
#[derive(Debug)]
pub struct Checked {
    pub entries: u64,
    pub departs: Option<Box<Mismatch>>,
    /// The end that was recorded and the one that the module comes to, if they differ.
    pub ends: Option<(Outcome, Outcome)>,
}

impl Host {
    /// Lets a module repeat the journal of a run, without any effect.
    pub async fn check_against(
        &self,
        run: &RunId,
        journal: Journal,
        module: &Module,
    ) -> Result<Checked, HostError> {
        let entries = journal.entries.len() as u64;
        let recorded = match journal.entries.last().map(|entry| &entry.event) {
            Some(Event::Finished { outcome, stopped: false }) => Some(Outcome::from(outcome.clone())),
            _ => None,
        };
        let replayed = self.replay(run, journal, module, u64::MAX).await?;
        let ends = match (recorded, replayed.outcome) {
            (Some(recorded), Some(found)) if recorded != found => Some((recorded, found)),
            _ => None,
        };
        Ok(Checked { entries, departs: replayed.departs, ends })
    }
}
