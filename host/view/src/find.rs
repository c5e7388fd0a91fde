//! Which run is meant.

use wfhost::HostError;
use wfhost::store::{RunFilter, RunInfo, Store};
use wfhost_core::{Event, Journal, Position, RunId, Started, counted};

use crate::UserError;

/// What somebody may have meant who typed `text`: close to it, or none.
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // At most a third of its letters are wrong; swapped ones count once.
    let far = text.chars().count().div_ceil(3).min(4);
    let distance = |known: &str| strsim::osa_distance(known, text);
    // What nobody types by hand is not mistyped.
    let typed = known.filter(|known| !known.starts_with("run_0") || text.starts_with("run_"));
    typed
        .map(|known| (distance(known), known))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, known)| known)
}

/// The run that `text` means: an id, the beginning of one, `@last`, `@last:2`.
pub async fn find_run(store: &dyn Store, text: &str) -> Result<RunInfo, UserError> {
    if let Some(rest) = text.strip_prefix("@last") {
        let back = match rest.strip_prefix(':') {
            None if rest.is_empty() => Some(1),
            None => None,
            Some(number) => number.parse::<usize>().ok().filter(|&n| n > 0 && n <= 10_000),
        };
        let Some(back) = back else {
            return Err(UserError::usage("WF0501", format!("`{text}` is not a run"))
                .hint("`@last` is the newest run, `@last:2` the one before"));
        };
        // Children are found through those that started them.
        let runs = store.runs(RunFilter { limit: back, top: true, ..RunFilter::default() }).await?;
        let count = runs.len();
        return runs.into_iter().nth(back - 1).ok_or_else(|| {
            let there = if count == 1 { "is" } else { "are" };
            let runs = counted(count, "run");
            UserError::usage("WF0501", format!("there {there} only {runs}, so `{text}` does not exist"))
                .hint("start one with `wfhost run FILE.wasm`")
        });
    }
    if let Ok(id) = text.parse::<RunId>()
        && let Some(info) = store.run(&id).await?
    {
        return Ok(info);
    }
    let filter = RunFilter { prefix: Some(text.to_owned()), limit: 3, ..RunFilter::default() };
    let mut found = if text.is_empty() { Vec::new() } else { store.runs(filter).await? };
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let known = store.runs(RunFilter { limit: 200, ..RunFilter::default() }).await?;
            let nearest = nearest(text, known.iter().map(|info| info.id.as_str()));
            let trouble = UserError::usage("WF0501", format!("unknown run `{text}`"));
            Err(match nearest {
                Some(nearest) => {
                    trouble.hint(format!("did you mean `{nearest}`? `wfhost ps` lists all runs"))
                }
                None if known.is_empty() => {
                    trouble.hint("there are no runs yet: start one with `wfhost run FILE.wasm`")
                }
                None => trouble.hint("`wfhost ps` lists all runs"),
            })
        }
        _ => {
            let names: Vec<_> = found.iter().map(|info| format!("`{}`", info.id)).collect();
            Err(UserError::usage("WF0504", format!("`{text}` matches several runs"))
                .hint(format!("for example {}", names.join(", "))))
        }
    }
}

/// The run that this one continues as, if it does, in the end.
pub async fn latest(store: &dyn Store, info: RunInfo) -> Result<RunInfo, UserError> {
    Ok(wfhost::latest_round(store, info).await?)
}

/// How a journal begins.
pub fn started(journal: &Journal) -> Option<&Started> {
    match journal.entries.first().map(|entry| &entry.event) {
        Some(Event::Started(started)) => Some(started),
        _ => None,
    }
}

/// A run's journal, read and checked.
pub async fn read_journal(store: &dyn Store, run: &RunId) -> Result<Journal, UserError> {
    let rows = store.journal(run, Position(0)).await?;
    Ok(Journal::read(rows).map_err(|source| HostError::Journal { run: run.clone(), source })?)
}
