//! Runs that take over what another one did, and runs that are moved to other code.

use wfhost_core::{
    CannotFork, Digest, Event, ForkPlan, Given, Journal, Machine, Mismatch, Origin, Outcome, Row, RunId,
    Started, Timestamp, journal,
};
use wfhost_runtime::Module;
use wfhost_store::{
    Append, ClaimHow, Claimed, Created, NewRun, Next, Opened, RunInfo, RunState, StoreError, Waiting,
};
use wfhost_world::{fresh_id, fresh_seed};

use crate::host::{Host, HostError};
use crate::observer::Notice;
use crate::{StepInfo, steps};

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

/// What a fork would be.
#[derive(Clone, Debug)]
pub struct ForkPreview {
    pub module: Digest,
    /// How many it would begin with, its own first ones included.
    pub entries: u64,
    /// What it would wait for, or ask again.
    pub open: Vec<StepInfo>,
}

/// Why a run cannot be forked.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("invalid fork of {run}: {reason}")]
    Cannot { run: RunId, reason: CannotFork },
    /// The program diverges from the entries that would be copied.
    #[error("a fork of {run} is not compatible with the module {module}: {mismatch}")]
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
        let run = self.plan_fork(id, options).await?;
        let (fork, workflow) = (run.id.clone(), run.workflow.clone());
        match self.store().create(run).await? {
            Created::New | Created::Known(_) => {
                self.see(Notice::Created { run: &fork, workflow: &workflow });
                self.look_for_work();
                Ok(fork)
            }
        }
    }

    /// What [`Host::fork`] would make; nothing is made.
    pub async fn preview_fork(&self, id: &RunId, options: ForkOptions) -> Result<ForkPreview, ForkError> {
        let run = self.plan_fork(id, options).await?;
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let journal = Journal::read(run.rows).map_err(unusable)?;
        let open = steps(&journal).into_iter().filter(|step| step.ended.is_none());
        Ok(ForkPreview { module: run.module, entries: journal.entries.len() as u64, open: open.collect() })
    }

    /// A fork that agrees with what it takes over.
    async fn plan_fork(&self, id: &RunId, options: ForkOptions) -> Result<NewRun, ForkError> {
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
            let source = Machine::open(journal, Given::Everything).map_err(unusable)?;
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
            (rows, Machine::open(journal, Given::Nothing).map_err(unusable)?)
        };
        machine.fork(fork.clone(), fresh_seed().map_err(HostError::from)?, now);
        machine.move_to(module.digest);
        machine.settle_move(now);
        let children = self.children_of(&mut machine).await?.into_iter();
        let children = children
            .map(|child| NewRun { project: info.project.clone(), imported: info.imported, ..child })
            .collect();
        rows.extend(machine.take_unsaved().map(Row::from));
        // Before anything is stored: the program has to agree with what it takes over.
        let journal = Journal::read(rows.clone()).map_err(unusable)?;
        if let Some(mismatch) = self.replay(&fork, journal, &module, Given::Everything).await?.refusal() {
            return Err(ForkError::Departs { run: id.clone(), module: module.digest, mismatch });
        }
        let questions = machine.open_questions();
        // All that it gives out is its own, what it took over included.
        let given = Some(Given::Nothing);
        Ok(NewRun {
            questions,
            children,
            given,
            project: info.project,
            imported: info.imported,
            ..NewRun::new(&machine, rows)
        })
    }

    /// Moves a run that nobody advances to another module, if that agrees with
    /// its journal, and leaves it as it was otherwise.
    pub async fn upgrade(&self, info: &RunInfo, module: &Module) -> Result<Upgraded, HostError> {
        let id = &info.id;
        if info.module == module.digest {
            return Ok(Upgraded::Same);
        }
        let in_hand = self.take_in_hand(id).await;
        let upgraded = self.upgrade_in_hand(id, module).await;
        in_hand.let_go();
        upgraded
    }

    async fn upgrade_in_hand(&self, id: &RunId, module: &Module) -> Result<Upgraded, HostError> {
        let opened = match self.claim(id, ClaimHow::AsItIs).await? {
            Claimed::Yes(opened) => opened,
            Claimed::Held { owner, .. } => {
                return Ok(Upgraded::Left(HostError::Held { run: id.clone(), owner }));
            }
            Claimed::NoSuchRun => return Err(HostError::NoSuchRun(id.clone())),
            // It has been given up again.
            Claimed::Unreadable(unreadable) => return Err(unreadable.error.into()),
            Claimed::Ended | Claimed::NotDue => {
                return Ok(Upgraded::Left(HostError::Ended { run: id.clone() }));
            }
        };
        let give_up = |next| Append {
            after: opened.place,
            ..Append::new(id.clone(), opened.session, opened.epoch, Timestamp(0), next)
        };
        let (mut machine, only_waits, departs) = match self.try_module(&opened, module).await {
            Ok(tried) => tried,
            Err(error) => {
                self.leave_as(give_up(opened.as_it_was())).await?;
                return Err(error);
            }
        };
        if let Some(mismatch) = departs {
            self.leave_as(give_up(opened.as_it_was())).await?;
            return Ok(Upgraded::Departs(mismatch));
        }
        let before = machine.head();
        machine.move_to(module.digest);
        machine.settle_move(self.now());
        let row = machine.take_unsaved().map(Row::from);
        let next = match opened.was {
            RunState::Waiting if only_waits => Next::Park(Waiting::of(&machine)),
            // With other code it goes on, or may.
            RunState::Waiting | RunState::Refused => Next::Release { waiting: None, trouble: None },
            _ => opened.as_it_was(),
        };
        let moved =
            Append { before, row, module: machine.take_moved(), at: machine.last_at(), ..give_up(next) };
        self.leave_as(moved).await?;
        Ok(Upgraded::Moved)
    }

    /// Gives a run up that was claimed for a moment only.
    async fn leave_as(&self, append: Append) -> Result<(), HostError> {
        // Nobody here drives it: if this fails it must not stay with this host.
        self.give_back(append).await.inspect_err(|_| self.doubt())
    }

    async fn give_back(&self, append: Append) -> Result<(), HostError> {
        let next = Next::Release { waiting: None, trouble: None };
        let release = Append::new(append.run.clone(), append.session, append.epoch, append.at, next);
        if self.store().append(append).await?.due {
            // Something arrived for it: any host can continue it.
            self.store().append(release).await?;
        }
        self.look_for_work();
        Ok(())
    }

    /// The run's machine, whether it only waits with the module, and where the module diverges from it.
    async fn try_module(
        &self,
        opened: &Opened,
        module: &Module,
    ) -> Result<(Machine, bool, Option<Box<Mismatch>>), HostError> {
        let unusable = |source| HostError::Journal { run: opened.run.clone(), source };
        let journal = Journal::read(opened.rows.clone()).map_err(unusable)?;
        let machine = Machine::open(journal.clone(), opened.given).map_err(unusable)?;
        let replayed = self.replay(&opened.run, journal, module, Given::Everything).await?;
        Ok((machine, replayed.only_waits, replayed.refusal()))
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
        let replayed = self.replay(run, journal, module, Given::Everything).await?;
        let ends = match (recorded, replayed.outcome) {
            (Some(recorded), Some(found)) if recorded != found => Some((recorded, found)),
            _ => None,
        };
        Ok(Checked { entries, departs: replayed.departs, ends })
    }
}
