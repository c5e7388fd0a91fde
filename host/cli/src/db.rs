//! `wfhost db`

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{OsStringValueParser, TypedValueParser};
use serde_json::json;
use tempfile::NamedTempFile;
use wfhost::agents::{CleanedWorkspaces, Providers, clean_workspaces};
use wfhost::store::{BLOB_RENEWED_MS, DeleteIf, Deleted, RunFilter, RunState, Store, StoreError};
use wfhost::verify::{replay, verify};
use wfhost::world::private;
use wfhost::{Adopt, Evict, archive};
use wfhost_core::{Entry, Event, Position, Row, RunId, Timestamp, counted};
use wfhost_postgres::{Migrate, PostgresStore};
use wfhost_registry::whole;

use super::copy::copy;
use super::database::{Database, Opened};
use super::delete::confirm;
use super::diagnostic::{Exit, UserError};
use super::place::{find_run, length_arg};
use super::{Common, Format, printer};

/// Maintain the database
#[derive(clap::Args)]
pub(crate) struct Db {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Check the database and every run in it
    Check {
        /// Also replay each run, and compare its output
        #[arg(long)]
        deep: bool,
        /// Rebuild everything that differs from the journals
        #[arg(long)]
        repair: bool,
    },
    /// Create the database: a file, or the tables on a server
    Init,
    /// Migrate the tables of a server to the format of this wfhost
    ///
    /// A migration only adds to the tables: hosts of the previous version keep working. A database file is migrated when it is opened.
    Migrate,
    /// Back up a database file while it is in use
    Backup {
        /// The new file
        file: PathBuf,
    },
    /// Delete old runs, unused modules, and workspaces of deleted runs
    Gc {
        /// Delete runs that ended longer ago than this, like 30d
        #[arg(long, value_name = "LENGTH", value_parser = length_arg)]
        older_than: u64,
        /// Only print what would be deleted
        #[arg(long)]
        dry_run: bool,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
    /// Copy a whole database into an empty one
    ///
    /// Works between files and servers, in both directions. It copies runs with their journals, inboxes and
    /// transcripts, modules, schedules, tokens and cached answers, and preserves ids, keys and the order of events.
    /// No host may use the source in the meantime. At the end both are compared.
    Copy {
        /// The source: a file, or postgres://...
        #[arg(value_parser = OsStringValueParser::new().try_map(Database::named))]
        from: Database,
        /// The target: a new file, or postgres://..., where the tables are created
        #[arg(value_parser = OsStringValueParser::new().try_map(Database::named))]
        to: Database,
    },
    /// Export a run with its module to a file for `db import`
    Export {
        /// An id, the beginning of one, @last, @last:2
        run: String,
        /// The file, or - for stdout
        file: PathBuf,
    },
    /// Import an exported run
    ///
    /// A run that has not ended is paused: `wfhost resume` continues it here.
    Import {
        /// The file, or - for stdin
        file: PathBuf,
    },
}

/// The number of runs that are read at once.
const PAGE: usize = 500;

impl Db {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        match &self.verb {
            Verb::Check { deep, repair } => check(common, *deep, *repair).await,
            Verb::Backup { file } => {
                if file.exists() {
                    return Err(never_overwritten(file));
                }
                let Opened::File(store) = common.existing().await? else { return Err(no_file(common)) };
                // A file of that name is whole: what is written halfway looks like a database without runs.
                let part = begin_backup(file)?;
                let bytes = store.backup(part.path())?;
                publish(part, file)?;
                printer::say(common, "Copied", &format!("{} to {}", counted(bytes, "byte"), file.display()));
                Ok(Exit::Done)
            }
            Verb::Copy { from, to } => copy(common, from, to).await,
            Verb::Init => init(common).await,
            Verb::Migrate => migrate(common).await,
            Verb::Gc { older_than, dry_run, yes } => gc(common, *older_than, *dry_run, *yes).await,
            Verb::Export { run, file } => {
                let store = common.reader().await?;
                let info = find_run(store.as_ref(), run).await?;
                let text = archive::export(store.as_ref(), &info).await?;
                check_size(&info.id, text.len() as u64)?;
                write(file, &text)?;
                printer::say(common, "Wrote", &format!("{} to {}", info.id, file.display()));
                Ok(Exit::Done)
            }
            Verb::Import { file } => {
                let store = common.store().await?;
                let run = archive::import(store.as_ref(), &read(file)?).await?;
                printer::say(common, "Imported", run.as_str());
                Ok(Exit::Done)
            }
        }
    }
}

fn never_overwritten(file: &Path) -> UserError {
    UserError::usage("WF0004", format!("{} already exists", file.display()))
        .hint("name a new file: a backup never overwrites a file")
}

fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An empty file beside its place, until it has its name. One of a process that was killed is taken away.
fn begin_backup(file: &Path) -> Result<NamedTempFile, UserError> {
    let refused = |error: std::io::Error| {
        UserError::usage("WF0004", format!("{} cannot be written: {error}", file.display()))
            .hint("name a new file in a directory that exists and that you can write")
    };
    let name = file.file_name().ok_or_else(|| refused(std::io::ErrorKind::InvalidFilename.into()))?;
    let (directory, name) = (directory_of(file), name.to_string_lossy());
    let part = whole::begin(directory, &name).map_err(refused)?;
    sweep_journals(directory, &format!(".{name}."));
    Ok(part)
}

/// Takes away the journals with which SQLite wrote files that are gone: of backups that were killed.
fn sweep_journals(directory: &Path, prefix: &str) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let part = name.to_str().filter(|name| name.starts_with(prefix));
        let part = part.and_then(|name| name.strip_suffix("-journal")).filter(|part| part.ends_with(".new"));
        if part.is_some_and(|part| directory.join(part).symlink_metadata().is_err()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Gives a file its name, unless there is one of that name already.
fn publish(part: NamedTempFile, file: &Path) -> Result<(), UserError> {
    let named = match std::fs::hard_link(part.path(), file) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists || file.exists() => {
            return Err(never_overwritten(file));
        }
        Ok(()) => Ok(()),
        // Not all file systems have a second name for a file.
        Err(_) => std::fs::rename(part.path(), file),
    };
    if let Err(error) = named {
        let trouble = UserError::usage("WF0004", format!("{} cannot be written: {error}", file.display()));
        return Err(match part.keep() {
            Ok((_, part)) => trouble.hint(format!("the backup is complete in {}", part.display())),
            Err(_) => trouble,
        });
    }
    // The name is to survive the loss of power, too.
    let _ = std::fs::File::open(directory_of(file)).and_then(|dir| dir.sync_all());
    Ok(())
}

/// Why a database on a server cannot do what a file can.
fn no_file(common: &Common) -> UserError {
    let place = common.place().map(|place| place.to_string()).unwrap_or_default();
    UserError::usage("WF0339", format!("{place} is on a server: use the server's own backup tools"))
        .hint("for example `pg_dump --format=custom --schema=wfhost --file=FILE URL`, which pg_restore reads")
        .hint("to copy it into another wfhost database: `wfhost db copy`")
}

async fn init(common: &Common) -> Result<Exit, UserError> {
    let place = common.place()?;
    let made = match &place {
        Database::File(path) => {
            let made = !path.exists();
            common.open(&place).await?;
            made
        }
        Database::Server(url) => {
            let options = common.postgres_options(Migrate::Yes);
            let found = PostgresStore::look(url, &options).await?.formats;
            PostgresStore::open(url, &options).await?;
            found.is_some_and(|formats| formats.found.is_none())
        }
    };
    let verb = if made { "Created" } else { "Exists" };
    printer::say(common, verb, &format!("{place}; it is ready for hosts"));
    Ok(Exit::Done)
}

async fn migrate(common: &Common) -> Result<Exit, UserError> {
    let place = common.place()?;
    let Database::Server(url) = &place else {
        common.existing().await?;
        printer::say(common, "Migrated", &format!("{place} has the format of this wfhost"));
        return Ok(Exit::Done);
    };
    let options = common.postgres_options(Migrate::Yes);
    let found = PostgresStore::look(url, &options).await?.formats;
    let newest = found.map_or(0, |formats| formats.newest);
    let text = match found.map(|formats| formats.found) {
        Some(None) => return Err(StoreError::NoTables { place: place.to_string() }.into()),
        // Opening it tells what is missing.
        None => {
            PostgresStore::open(url, &options).await?;
            format!("{place}")
        }
        Some(Some(found)) if found >= newest => format!("{place} already has format {found}"),
        Some(Some(found)) => {
            PostgresStore::open(url, &options).await?;
            format!("{place} from format {found} to {newest}")
        }
    };
    printer::say(common, "Migrated", &text);
    Ok(Exit::Done)
}

/// Writes a file for its owner only, or stdout.
fn write(file: &Path, text: &str) -> Result<(), UserError> {
    let failed = |error| UserError::usage("WF0004", format!("{} cannot be written: {error}", file.display()));
    if file.as_os_str() == "-" {
        printer::data(text);
        return Ok(());
    }
    whole::write_named(file, text.as_bytes(), Some(0o600)).map_err(failed)
}

/// The maximum size of an exported run, in bytes.
const EXPORT_BYTES: u64 = 1 << 30;

/// What could not be imported again is no export.
fn check_size(run: &RunId, bytes: u64) -> Result<(), UserError> {
    if bytes <= EXPORT_BYTES {
        return Ok(());
    }
    let text = format!(
        "{run} is too large to be exported: {bytes} bytes, but `wfhost db import` reads {EXPORT_BYTES}"
    );
    Err(UserError::usage("WF0004", text)
        .hint("`wfhost db copy` moves a whole database, `wfhost db backup` keeps one: neither has a limit"))
}

fn read(file: &PathBuf) -> Result<String, UserError> {
    let text = match file.as_os_str() == "-" {
        true => private::read_at_most(EXPORT_BYTES, std::io::stdin()),
        false => std::fs::File::open(file).and_then(|file| match file.metadata()?.file_type() {
            // It may never end.
            kind if kind.is_char_device() => Err(std::io::Error::other("it is a device")),
            _ => private::read_at_most(EXPORT_BYTES, file),
        }),
    };
    text.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            UserError::usage("WF0510", format!("{} is not an exported run: it is not text", file.display()))
                .hint("`wfhost db export RUN FILE` writes one")
        }
        _ => UserError::usage("WF0004", format!("{} cannot be read: {error}", file.display())),
    })
}

/// Calls `each` with all runs, the newest first. Gives what is wrong with those that cannot be read.
pub(super) async fn for_each_run(
    store: &dyn Store,
    filter: RunFilter,
    mut each: impl AsyncFnMut(wfhost::store::RunInfo) -> Result<(), UserError>,
) -> Result<Vec<String>, UserError> {
    let (mut before, mut faults) = (None, Vec::new());
    loop {
        let page = store.list_runs(RunFilter { before, limit: PAGE, ..filter.clone() }).await?;
        // The last ones may be such that cannot be read.
        let known = page.known.iter().map(|info| info.number);
        before = known.chain(page.unreadable.iter().map(|(number, _)| *number)).min();
        let unreadable = page.unreadable.into_iter();
        faults.extend(unreadable.map(|(number, why)| format!("the row of run number {number}: {why}")));
        if before.is_none() {
            return Ok(faults);
        }
        for info in page.known {
            each(info).await?;
        }
    }
}

async fn check(common: &Common, deep: bool, repair: bool) -> Result<Exit, UserError> {
    let database = common.existing().await?;
    let mut faults = database.faults().await?;
    let store = database.shared();
    let host = common.host(Arc::clone(&store), Providers::builtin(), Evict::AfterGrace, Adopt::Own)?;
    for (name, why) in store.schedules().await?.unreadable {
        faults.push(format!("the schedule `{name}` cannot be read: {why}"));
    }
    let (mut runs, mut entries, mut repaired) = (0_u64, 0_u64, 0_u64);
    let unreadable = for_each_run(store.as_ref(), RunFilter::default(), async |info| {
        let report = verify(store.as_ref(), &info).await?;
        runs += 1;
        entries += report.entries;
        let mut found = report.faults;
        // To take what is left for all there was would be to do finished steps again.
        if (deep || repair) && !report.is_cut {
            let replayed = replay(&host, &info.id).await?;
            found.extend(replayed.faults);
            if repair
                && !found.is_empty()
                && let Some(rebuilt) = replayed.rebuilt
                && store.rebuild(rebuilt).await?
            {
                repaired += 1;
                found
                    .iter()
                    .for_each(|fault| printer::say(common, "Repaired", &format!("{}: {fault}", info.id)));
                found = match store.run(&info.id).await? {
                    Some(fixed) => verify(store.as_ref(), &fixed).await?.faults,
                    None => Vec::new(),
                };
            }
        }
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", info.id)));
        Ok(())
    })
    .await?;
    faults.extend(unreadable);
    if repaired > 0 {
        printer::say(common, "Repaired", &counted(repaired, "run"));
    }
    match common.output {
        Format::Text if faults.is_empty() => {
            printer::line(format!("{}, {}, no faults", counted(runs, "run"), counted(entries, "entry")))
        }
        Format::Text => {}
        _ => {
            let view =
                json!({ "schema": "wfhost/check/1", "runs": runs, "entries": entries, "faults": faults });
            printer::json(&view);
        }
    }
    if faults.is_empty() {
        return Ok(Exit::Done);
    }
    let trouble = UserError::host("WF0511", format!("the database has {}", counted(faults.len(), "fault")));
    Err(UserError { details: faults, ..trouble }.hint(
        "`wfhost db check --repair` rebuilds what follows from the journals; for the rest, restore a backup",
    ))
}

async fn gc(common: &Common, older_than: u64, dry_run: bool, yes: bool) -> Result<Exit, UserError> {
    let database = common.existing().await?;
    let shared = database.shared();
    let store = shared.as_ref();
    let now = store.now();
    let before = wfhost_core::Timestamp(now.0.saturating_sub(older_than));
    let states = vec![RunState::Completed, RunState::Failed, RunState::Cancelled, RunState::Continued];
    let filter = RunFilter { states: states.clone(), idle_since: Some(before), ..RunFilter::default() };
    let mut old = Vec::new();
    for_each_run(store, filter, async |info| {
        old.push(info.id);
        Ok(())
    })
    .await?;
    let root = common.places().workspaces();
    let identity = store.identity().await?;
    // One of which that cannot be told stays.
    let is_gone = async |run: &RunId| database.was_deleted(run).await.unwrap_or(false);
    let goes: HashSet<_> = old.iter().collect();
    let keep = async |run: &RunId| !goes.contains(run) && !is_gone(run).await;
    let would = clean(&root, &identity, true, keep).await?;
    if dry_run {
        printer::say(
            common,
            "Dry run",
            &format!("would delete {}{}", counted(old.len(), "run"), workspaces(would)),
        );
        match common.output {
            Format::Text => old.iter().for_each(|run| printer::line(run.as_str())),
            _ => print_gc(true, &old, None, would),
        }
        return Ok(Exit::Done);
    }
    if !old.is_empty() || would.runs > 0 {
        confirm(yes, &format!("delete {}{}?", counted(old.len(), "run"), workspaces(would)))?;
    }
    let mut deleted = Vec::new();
    // Whoever answers may have taken his time: one that somebody has retried since stays.
    let still = DeleteIf { states, idle_since: Some(before) };
    for run in old {
        if store.delete_if(&run, still.clone()).await? == Deleted::Yes {
            deleted.push(run);
        }
    }
    let modules = store.delete_unused_modules(before).await?;
    // One that was added lately may be about to be needed.
    let lately = now.0.saturating_sub(2 * BLOB_RENEWED_MS);
    delete_scripts(common, store, before.min(Timestamp(lately))).await?;
    store.delete_old_answers(before).await?;
    let cleaned = clean(&root, &identity, false, async |run: &RunId| !is_gone(run).await).await?;
    let counts =
        format!("{}, {}{}", counted(deleted.len(), "run"), counted(modules, "module"), workspaces(cleaned));
    printer::say(common, "Deleted", &counts);
    if common.output != Format::Text {
        print_gc(false, &deleted, Some(modules), cleaned);
    }
    Ok(Exit::Done)
}

/// Removes the scripts that were added before `before` and that neither a run nor a schedule needs.
async fn delete_scripts(common: &Common, store: &dyn Store, before: Timestamp) -> Result<(), UserError> {
    // Few databases have any, and all journals are looked at for them.
    if !store.has_blobs(before).await? {
        return Ok(());
    }
    let mut needed = BTreeSet::new();
    let schedules = store.schedules().await?;
    if let Some((name, why)) = schedules.unreadable.first() {
        let text = format!(
            "no rules are deleted, as the schedule {name} cannot be read, which may need some: {why}"
        );
        printer::warn(common, &text);
        return Ok(());
    }
    needed.extend(schedules.known.iter().filter_map(|schedule| schedule.config.script_digest));
    let mut filter = RunFilter { limit: 1_000, ..RunFilter::default() };
    loop {
        let runs = store.runs(filter.clone()).await?;
        for run in &runs {
            let first = store.journal_part(&run.id, Position(0), 1).await?;
            let mut entries = first.iter().flat_map(Row::entries);
            if let Some(Ok((_, Entry { event: Event::Started(started), .. }))) = entries.next() {
                needed.extend(started.config.script_digest);
            }
        }
        match runs.last().filter(|_| runs.len() == filter.limit) {
            Some(last) => filter.before = Some(last.number),
            None => break,
        }
    }
    store.delete_blobs(before, needed.into_iter().collect()).await?;
    Ok(())
}

async fn clean(
    root: &Path,
    database: &str,
    dry_run: bool,
    keep: impl AsyncFn(&RunId) -> bool,
) -> Result<CleanedWorkspaces, UserError> {
    clean_workspaces(root, database, dry_run, keep)
        .await
        .map_err(|error| UserError::usage("WF0004", format!("{} cannot be read: {error}", root.display())))
}

/// What is said of workspaces, if there are any.
fn workspaces(CleanedWorkspaces { runs, bytes }: CleanedWorkspaces) -> String {
    if runs == 0 {
        return String::new();
    }
    format!(", the workspaces of {} ({})", counted(runs, "run"), counted(bytes, "byte"))
}

fn print_gc(dry_run: bool, runs: &[RunId], modules: Option<usize>, workspaces: CleanedWorkspaces) {
    let CleanedWorkspaces { runs: of, bytes } = workspaces;
    let view = json!({
        "schema": "wfhost/gc/1", "dry_run": dry_run, "runs": runs, "modules": modules,
        "workspaces": { "runs": of, "bytes": bytes },
    });
    printer::json(&view);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_can_be_imported() {
        let run = "r".parse().unwrap();
        assert!(check_size(&run, EXPORT_BYTES).is_ok());
        assert!(check_size(&run, EXPORT_BYTES + 1).is_err());
        let text = "x".repeat(9);
        assert!(private::read_at_most(9, text.as_bytes()).is_ok());
        assert!(private::read_at_most(8, text.as_bytes()).is_err());
    }
}
