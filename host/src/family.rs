//! Runs that other runs start: children, and the next rounds of runs
//! that continue as new.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use wfhost_core::policy::budget::Budget;
use wfhost_core::{
    ChildOf, Digest, Failure, FailureKind, Json, Machine, NewChild, OnParentClose, Origin, Row, RunConfig,
    RunId, Started, Step, Timestamp,
};
use wfhost_runtime::{self as engine, Denied};
use wfhost_store::{MessageBody, NewRun, RunFilter, RunInfo, Store, StoreError};
use wfhost_world::lock;

use crate::drive::{DriveError, UNSAVED_BYTES};

/// The run that this one continues as in the end, which may be itself.
///
/// # Errors
///
/// The store failed.
pub async fn latest_round(store: &dyn Store, info: RunInfo) -> Result<RunInfo, StoreError> {
    let Some(chain) = info.links.chain.clone() else { return Ok(info) };
    let newest = RunFilter { chain: Some(chain), limit: 1, ..RunFilter::default() };
    Ok(store.runs(newest).await?.pop().unwrap_or(info))
}

/// Finds the modules that programs name.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// Files that were read: when they were changed, and what was in them.
    files: Mutex<HashMap<PathBuf, (SystemTime, u64, Digest)>>,
}

/// Why a module cannot be had.
enum NoModule {
    /// The program is told.
    Failure(Failure),
    /// It may be in that directory, which is on another machine.
    Elsewhere(PathBuf),
    Store(StoreError),
}

/// Why the modules of children cannot be had here.
#[derive(Debug)]
pub(crate) enum NotHere {
    Store(StoreError),
    Elsewhere { name: String, directory: PathBuf },
}

impl NotHere {
    pub fn into_error(self, run: &RunId) -> DriveError {
        match self {
            Self::Store(error) => error.into(),
            Self::Elsewhere { name, directory } => DriveError::Modules { run: run.clone(), name, directory },
        }
    }
}

impl From<StoreError> for NoModule {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn rejected(message: String) -> NoModule {
    NoModule::Failure(Failure::new(FailureKind::Rejected, message))
}

impl Modules {
    /// Finds the modules of all children.
    pub async fn find_all(&self, store: &dyn Store, wanted: Wanted) -> Result<Vec<Found>, NotHere> {
        let mut found = Vec::new();
        for child in wanted.children {
            match self.find(store, &wanted.parent, &child.module).await {
                Ok(module) => found.push((child, Ok(module))),
                Err(NoModule::Failure(failure)) => found.push((child, Err(failure))),
                Err(NoModule::Elsewhere(directory)) => {
                    return Err(NotHere::Elsewhere { name: child.module, directory });
                }
                Err(NoModule::Store(error)) => return Err(NotHere::Store(error)),
            }
        }
        Ok(found)
    }

    /// The module that `parent` means by `name`: its own if it is called so,
    /// else the file of that name beside it, else the newest in the store; or
    /// any in the store by its digest. It is in the store then. What may lie
    /// beside it on another machine is no failure of the program.
    async fn find(
        &self,
        store: &dyn Store,
        parent: &ParentOf,
        name: &str,
    ) -> Result<(String, Digest), NoModule> {
        if let Some(digest) = Digest::parse(name) {
            let found = store.module_info(digest).await?;
            return found
                .map(|module| (module.name, digest))
                .ok_or_else(|| rejected(format!("the module {name} is not in the store")));
        }
        let legal = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(legal) {
            return Err(rejected(format!(
                "invalid module name `{name}`: a name consists of letters, digits, `_`, `-` and `.`"
            )));
        }
        if name == parent.workflow {
            return Ok((name.to_owned(), parent.module));
        }
        if let Some(directory) = &parent.directory
            && let Some(digest) = self.beside(store, directory, name).await?
        {
            return Ok((name.to_owned(), digest));
        }
        let known = store.module_named(name).await?;
        if known.is_none()
            && let Some(directory) = &parent.directory
            && std::fs::metadata(directory).is_err_and(|error| error.kind() == ErrorKind::NotFound)
        {
            // Whether there is one of that name is known where the run was begun.
            return Err(NoModule::Elsewhere(directory.clone()));
        }
        known.map(|module| (module.name, module.digest)).ok_or_else(|| {
            let beside =
                parent.directory.as_ref().map(|dir| format!(", and no {name}.wasm in {}", dir.display()));
            rejected(format!(
                "the module `{name}` is not in the store{}; add it with `wfhost add FILE`",
                beside.unwrap_or_default()
            ))
        })
    }

    async fn beside(
        &self,
        store: &dyn Store,
        directory: &Path,
        name: &str,
    ) -> Result<Option<Digest>, NoModule> {
        let path = directory.join(format!("{name}.wasm"));
        let Ok(metadata) = std::fs::metadata(&path) else { return Ok(None) };
        let Ok(changed) = metadata.modified() else { return Ok(None) };
        let known = lock(&self.files).get(&path).copied();
        if let Some((at, length, digest)) = known
            && (at, length) == (changed, metadata.len())
            // It may have been removed from the store since.
            && store.module_info(digest).await?.is_some()
        {
            return Ok(Some(digest));
        }
        let unreadable =
            |error: std::io::Error| rejected(format!("{} cannot be read: {error}", path.display()));
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        engine::inspect(&bytes, Denied::Refuse)
            .map_err(|error| rejected(format!("{} is not a workflow: {error}", path.display())))?;
        let digest = store.put_module(name, &bytes).await?;
        lock(&self.files).insert(path, (changed, metadata.len(), digest));
        Ok(Some(digest))
    }
}

/// Who asks for a module.
struct ParentOf {
    workflow: String,
    module: Digest,
    /// Where its own module lay.
    directory: Option<PathBuf>,
}

/// The children that a run wants to be started.
pub(crate) struct Wanted {
    parent: ParentOf,
    children: Vec<NewChild>,
}

impl Wanted {
    /// Takes them from the machine, if there are any.
    pub fn take(machine: &mut Machine) -> Option<Self> {
        let children = machine.take_children();
        if children.is_empty() {
            return None;
        }
        let started = machine.started();
        let parent = ParentOf {
            workflow: started.workflow.clone(),
            module: machine.module(),
            directory: started.config.modules.as_ref().map(PathBuf::from),
        };
        Some(Self { parent, children })
    }

    /// Leaves out the children of other steps.
    pub fn retain(&mut self, wanted: impl Fn(Step) -> bool) {
        self.children.retain(|child| wanted(child.step));
    }

    /// Leaves out the children that are there.
    pub async fn lacking(self, store: &dyn Store, parent: &RunId) -> Result<Self, StoreError> {
        let steps: Vec<_> = self.children.iter().map(|child| child.step).collect();
        // Of several rounds the last may be the only one left.
        let ended = store.ended_children(parent, &steps).await?;
        let ended: BTreeSet<_> = ended.iter().filter_map(|info| info.links.step).collect();
        let mut children = Vec::new();
        for child in self.children {
            if ended.contains(&child.step) {
                continue;
            }
            let known = store.run(&id_of(parent, &child)).await?;
            let is_it =
                |info: &RunInfo| info.parent.as_ref() == Some(parent) && info.links.step == Some(child.step);
            if !known.as_ref().is_some_and(is_it) {
                children.push(child);
            }
        }
        Ok(Self { children, ..self })
    }
}

/// A child with the name and the digest of its module, or why it has none.
pub(crate) type Found = (NewChild, Result<(String, Digest), Failure>);

/// The runs of children, to be created with the entries that ask for them. A
/// step whose module cannot be had fails.
pub(crate) fn start(parent: &mut Machine, found: Vec<Found>, now: Timestamp) -> Vec<NewRun> {
    let mut runs = Vec::new();
    for (new, module) in found {
        match module {
            Ok(module) => runs.push(child(parent, new, module, now)),
            Err(failure) => {
                parent.complete(new.step, Err(failure), now);
            }
        }
    }
    runs
}

/// The first entries of a run, as rows.
fn rows(machine: &mut Machine) -> Vec<Row> {
    machine.take_unsaved().map(Row::from).into_iter().collect()
}

/// The id of a child: the one that it is given, or one that tells whose it is.
fn id_of(parent: &RunId, child: &NewChild) -> RunId {
    let given = child.options.as_ref().and_then(|options| options.id.as_ref());
    given.and_then(|id| id.parse().ok()).unwrap_or_else(|| parent.child(child.step))
}

/// A child that the program of `parent` asked for.
fn child(parent: &Machine, new: NewChild, (workflow, module): (String, Digest), now: Timestamp) -> NewRun {
    let run = id_of(parent.run(), &new);
    let options = new.options;
    let on_close = options.as_ref().map_or(OnParentClose::Cancel, |options| options.on_close);
    let started = Started {
        run,
        workflow,
        module,
        input: new.input,
        seed: parent.seed_for(new.step),
        config: RunConfig { budget: left(parent, now), caller: None, ..parent.started().config.clone() },
        labels: options.map(|options| options.labels).unwrap_or_default(),
        parent: Some(parent.run().clone()),
        child: Some(ChildOf {
            step: new.step,
            root: parent.root().clone(),
            depth: parent.child().map_or(0, |child| child.depth) + 1,
            on_close,
        }),
        origin: None,
    };
    let mut machine = Machine::start(started, now);
    let rows = rows(&mut machine);
    NewRun::new(&machine, rows)
}

/// What is left of a run's budget, if it has one.
fn left(machine: &Machine, now: Timestamp) -> Option<Budget> {
    some(machine.budget()).map(|budget| budget.less(machine.spent(now)))
}

/// None if there is no budget.
fn some(budget: Budget) -> Option<Budget> {
    (budget != Budget::default()).then_some(budget)
}

/// The next round of a run whose program continues as new at `step`, under
/// that id: a run of the same module with its budget, what it has spent, and
/// the signals that its program did not read.
pub(crate) fn next_round(old: &Machine, step: Step, input: Json, id: RunId, now: Timestamp) -> NewRun {
    let (first, round) = old.round();
    let started = Started {
        run: id,
        module: old.module(),
        input,
        seed: old.seed_for(step),
        config: RunConfig { budget: some(old.budget()), caller: None, ..old.started().config.clone() },
        parent: old.parent().cloned(),
        child: old.child().cloned(),
        origin: Some(Origin::Continued {
            first: first.clone(),
            from: old.run().clone(),
            round: round + 1,
            spent: old.spent(now),
        }),
        ..old.started().clone()
    };
    let mut machine = Machine::start(started, now);
    let mut all = Vec::new();
    for (name, payload) in old.unread_signals() {
        machine.receive(name, payload, None, now);
        // However much that is, no row is larger than those of other commits.
        if machine.unsaved_bytes() >= UNSAVED_BYTES {
            all.append(&mut rows(&mut machine));
        }
    }
    all.append(&mut rows(&mut machine));
    // Once it has begun, so that what it waits for then ends.
    let reason = Some("that was before it continued as new".to_owned());
    let inbox = old.cancel_requested().then_some(MessageBody::Cancel { reason });
    NewRun { inbox: inbox.into_iter().collect(), ..NewRun::new(&machine, all) }
}

#[cfg(test)]
mod tests {
    use wfhost_core::{Digest, Op};

    use super::*;

    #[test]
    fn however_many_signals_a_round_takes_along_its_rows_are_small() {
        let now = Timestamp(1_000);
        let started = Started {
            run: "r".parse().unwrap(),
            workflow: "w".to_owned(),
            module: Digest::of(b"w"),
            input: Json::null(),
            seed: [7; 32],
            config: RunConfig::default(),
            labels: vec![],
            parent: None,
            child: None,
            origin: None,
        };
        let mut old = Machine::start(started, now);
        let step = old.schedule(&Op::ContinueAsNew { input: Json::null() }, now).unwrap();
        for _ in 0..7 {
            old.receive("s".to_owned(), Json::string(&"x".repeat(1 << 20)), None, now);
        }
        let next = next_round(&old, step, Json::null(), "r-2".parse().unwrap(), now);
        let sizes: Vec<_> = next.rows.iter().map(|row| row.bytes.len()).collect();
        assert!(sizes.iter().all(|size| *size < 3 << 20), "{sizes:?}");
        let journal = wfhost_core::Journal::read(next.rows).unwrap();
        assert_eq!(journal.entries.len(), 1 + 7);
    }
}
