//! `wfhost db copy`

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wfhost::owner::is_dead;
use wfhost::store::copy::{Part, TABLES};
use wfhost::store::{RunFilter, RunInfo, Store, StoreError};
use wfhost::verify::verify;
use wfhost_core::{Position, Timestamp, counted};
use wfhost_postgres::{Migrate, PostgresStore};

use super::database::{Database, Opened};
use super::db::for_each_run;
use super::diagnostic::{Exit, UserError};
use super::{Common, printer};

/// Batches that are read ahead.
const AHEAD: usize = 4;
/// The interval between two reports of progress.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Copies a whole database into an empty one, and compares the two.
pub(super) async fn copy(common: &Common, from: &Database, to: &Database) -> Result<Exit, UserError> {
    if !from.is_there() {
        return Err(UserError::usage("WF0321", format!("the database {from} does not exist"))
            .hint("the first database is copied into the second one"));
    }
    let source = common.open(from).await?;
    let living = source.shared().sessions().await?;
    if let Some(session) = living.iter().find(|session| session.left_ms > 0 && !is_dead(&session.owner)) {
        let owner = &session.owner;
        let said = format!("{from} is in use by process {} on {}", owner.pid, owner.host);
        return Err(UserError::usage("WF0341", said).hint("stop that process first; nothing was copied"));
    }
    let made = matches!(to, Database::File(path) if !path.exists());
    if let Database::Server(url) = to {
        PostgresStore::open(url, &common.postgres_options(Migrate::Yes)).await?;
    }
    let target = common.open(to).await?;
    let copied = transfer(common, &source, &target).await;
    // What is remembered of the one that was empty does not hold any more.
    drop(target);
    let rows = match copied {
        Ok(rows) => rows,
        Err(error) => {
            // One that is not empty is that of another process, which made use of the file in the meantime.
            let is_ours = made && error.code != "WF0340";
            if let (true, Database::File(path)) = (is_ours, to) {
                for end in ["", "-wal", "-shm"] {
                    let mut name = path.clone().into_os_string();
                    name.push(end);
                    // It is empty; who looks at it finds no runs.
                    let _ = std::fs::remove_file(name);
                }
            }
            return Err(error);
        }
    };
    let target = common.open(to).await?;
    let runs = compare(common, source.shared().as_ref(), target.shared().as_ref()).await?;
    printer::say(
        common,
        "Copied",
        &format!("{}, {} to {to}: all journals match", counted(runs, "run"), counted(rows, "row")),
    );
    printer::say(
        common,
        "next",
        "use it with --db, WFHOST_DB or [store] url, and keep the first one until then",
    );
    Ok(Exit::Done)
}

/// Gives how many rows it were.
async fn transfer(common: &Common, source: &Opened, target: &Opened) -> Result<u64, UserError> {
    let (give, mut read) = mpsc::channel(AHEAD);
    let (pass, mut take) = mpsc::channel(AHEAD);
    let reading = match source.clone() {
        Opened::Server(store) => tokio::spawn(async move { store.copy_out(give).await }),
        Opened::File(store) => {
            tokio::task::spawn_blocking(move || store.copy_out(&mut |part| give.blocking_send(part).is_ok()))
        }
    };
    let writing = match target.clone() {
        Opened::Server(store) => tokio::spawn(async move { store.copy_in(&mut take).await }),
        Opened::File(store) => {
            tokio::task::spawn_blocking(move || store.copy_in(&mut || take.blocking_recv()))
        }
    };
    let (mut rows, mut said) = (0_u64, Instant::now());
    while let Some(part) = read.recv().await {
        if let Part::Rows(batch) = &part {
            rows += batch.rows.len() as u64;
            if said.elapsed() > SAY_EVERY {
                said = Instant::now();
                printer::say(
                    common,
                    "Copying",
                    &format!("{}, now {}", counted(rows, "row"), TABLES[batch.table].name),
                );
            }
        }
        if pass.send(part).await.is_err() {
            break;
        }
    }
    drop((read, pass));
    let broken = |_| StoreError::Failed { place: "the copy".to_owned(), reason: "a thread ended".to_owned() };
    let (read, written) = (reading.await.map_err(broken)?, writing.await.map_err(broken)?);
    // Whoever writes only knows that something is missing.
    read?;
    written?;
    Ok(rows)
}

/// Whether both have the same runs, with the same journals to their heads. Gives how many.
async fn compare(common: &Common, source: &dyn Store, target: &dyn Store) -> Result<u64, UserError> {
    let mut faults = Vec::new();
    let (mut runs, mut said) = (0_u64, Instant::now());
    let unreadable = for_each_run(source, RunFilter::default(), async |info| {
        runs += 1;
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            printer::say(common, "Checking", &counted(runs, "run"));
        }
        let id = info.id.clone();
        match target.run(&id).await? {
            None => faults.push(format!("{id} is missing")),
            Some(there) => {
                let heads = async |store: &dyn Store| {
                    let rows = store.journal(&id, Position(0)).await?;
                    Ok::<_, StoreError>(rows.into_iter().map(|row| (row.first, row.head)).collect::<Vec<_>>())
                };
                if heads(source).await? != heads(target).await? {
                    faults.push(format!("{id} has a different journal"));
                }
                // The chain says that the entries are those of the heads.
                faults
                    .extend(verify(target, &there).await?.faults.into_iter().map(|it| format!("{id}: {it}")));
                if at_rest(there) != at_rest(info) {
                    faults.push(format!("{id} has different metadata"));
                }
            }
        }
        Ok(())
    })
    .await?;
    faults.extend(unreadable);
    let modules = async |store: &dyn Store| -> Result<Vec<_>, UserError> { Ok(store.modules().await?) };
    if modules(source).await? != modules(target).await? {
        faults.push("the modules differ".to_owned());
    }
    // The last place of all need not be that of a commit that is there still.
    if !source.changes(target.last_place().await?, 1).await?.is_empty() {
        faults.push("the order of events differs".to_owned());
    }
    if faults.is_empty() {
        return Ok(runs);
    }
    let said = format!("the copy differs in {}", counted(faults.len(), "place"));
    Err(UserError { details: faults, ..UserError::host("WF0342", said) }
        .hint("the first database is unchanged: keep using it"))
}

/// A run without the session that owns it.
fn at_rest(info: RunInfo) -> RunInfo {
    let due_at = if info.lease.is_some() { Some(Timestamp(0)) } else { info.due_at };
    RunInfo { lease: None, due_at, ..info }
}
