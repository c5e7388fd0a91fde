//! What a turn of codex used. `codex exec` reports what the whole conversation
//! has used (0.169: also after `resume` and `fork`), so what was used before has
//! to be known: from the last turn that this process saw, and from the record
//! that codex keeps of each conversation (`sessions/YYYY/MM/DD/rollout-*-ID.jsonl`
//! in its home), whose events `token_count` have the total. Totals only grow, so
//! the larger one counts: other processes may have gone on with the conversation.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use wfhost_core::Usage;

/// Conversations whose totals are remembered.
const REMEMBERED: usize = 1_000;
/// Files that are looked at.
const FILES: usize = 50_000;

/// The totals of conversations that this process saw.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<BTreeMap<String, Usage>>);

impl Totals {
    pub fn get(&self, session: &str) -> Option<Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(session).copied()
    }

    pub fn note(&self, session: &str, total: Usage) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids grow with time: the smallest is the oldest.
        if totals.len() >= REMEMBERED {
            totals.pop_first();
        }
        totals.insert(session.to_owned(), total);
    }
}

/// The later one of two totals of a conversation.
pub(super) fn larger(one: Usage, other: Usage) -> Usage {
    Usage {
        input_tokens: one.input_tokens.max(other.input_tokens),
        output_tokens: one.output_tokens.max(other.output_tokens),
        cached_tokens: one.cached_tokens.max(other.cached_tokens),
        ..one
    }
}

/// What is used now without what was used before.
pub(super) fn difference(total: Usage, before: Usage) -> Usage {
    Usage {
        input_tokens: total.input_tokens.saturating_sub(before.input_tokens),
        output_tokens: total.output_tokens.saturating_sub(before.output_tokens),
        cached_tokens: total.cached_tokens.saturating_sub(before.cached_tokens),
        ..total
    }
}

/// The home of a codex with this environment that works in `directory`, if not in that of this process. Of a variable
/// that stands there several times the program gets the last; one that is empty is not set for codex.
fn home(environment: &[(String, String)], directory: Option<&Path>) -> Option<PathBuf> {
    let variable = |name: &str| {
        let (_, value) = environment.iter().rfind(|(key, _)| key == name)?;
        (!value.is_empty()).then(|| Path::new(value))
    };
    let home = variable("CODEX_HOME").map(Path::to_owned);
    let home = home.or_else(|| Some(variable("HOME")?.join(".codex")))?;
    Some(directory.unwrap_or(Path::new("")).join(home))
}

/// What a conversation has used up to now by the record of codex.
pub(super) async fn total_by_record(
    session: &str,
    environment: &[(String, String)],
    directory: Option<&Path>,
) -> Option<Usage> {
    let home = home(environment, directory)?;
    let session = session.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut left = FILES;
        let file = find(&home.join("sessions"), &format!("-{session}.jsonl"), 3, &mut left)?;
        recorded(&file)
    })
    .await
    .ok()?
}

/// The file whose name ends so, in the newest directory first.
fn find(directory: &Path, end: &str, depth: usize, left: &mut usize) -> Option<PathBuf> {
    let mut entries: Vec<_> =
        std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries.into_iter().rev() {
        *left = left.checked_sub(1)?;
        if depth > 0 && path.is_dir() {
            if let Some(found) = find(&path, end, depth - 1, left) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(end)) {
            return Some(path);
        }
    }
    None
}

/// The last total in the record of a conversation.
fn recorded(file: &Path) -> Option<Usage> {
    let reader = BufReader::new(std::fs::File::open(file).ok()?);
    let mut last = None;
    for line in reader.lines().map_while(Result::ok).filter(|line| line.contains("\"token_count\"")) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let total = &event["payload"]["info"]["total_token_usage"];
        let count = |name: &str| total[name].as_u64();
        if let Some(input) = count("input_tokens") {
            last = Some(Usage {
                input_tokens: input,
                output_tokens: count("output_tokens").unwrap_or(0),
                cached_tokens: count("cached_input_tokens").unwrap_or(0),
                cost_micros: 0,
            });
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_that_of_the_program() {
        let of = |variables: &[(&str, &str)], directory: Option<&str>| {
            let variables: Vec<_> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            home(&variables, directory.map(Path::new))
        };
        for (variables, directory, expected) in [
            (&[("HOME", "/h")][..], None, Some("/h/.codex")),
            (&[("HOME", "/h"), ("CODEX_HOME", "/c")], None, Some("/c")),
            // What a section sets goes before what is passed.
            (&[("HOME", "/h"), ("HOME", "/other")], None, Some("/other/.codex")),
            (&[("CODEX_HOME", "/c"), ("HOME", "/h"), ("CODEX_HOME", "/other")], None, Some("/other")),
            (&[("CODEX_HOME", "/c"), ("HOME", "/h"), ("CODEX_HOME", "")], None, Some("/h/.codex")),
            (&[("CODEX_HOME", "c")], Some("/work"), Some("/work/c")),
            (&[("CODEX_HOME", "/c")], Some("/work"), Some("/c")),
            (&[], Some("/work"), None),
        ] {
            assert_eq!(of(variables, directory).as_deref(), expected.map(Path::new), "{variables:?}");
        }
    }

    #[test]
    fn the_last_total_of_a_record_counts() {
        let dir = tempfile::tempdir().unwrap();
        let day = dir.path().join("2026/11/24");
        std::fs::create_dir_all(&day).unwrap();
        let file = day.join("rollout-2026-11-24T19-14-33-th-1.jsonl");
        let line = |input: u64| {
            format!(
                "{{\"type\":\"event_msg\",\"payload\":{{\"type\":\"token_count\",\"info\":{{\"total_token_usage\":\
                 {{\"input_tokens\":{input},\"cached_input_tokens\":7,\"output_tokens\":20}}}}}}}}\n"
            )
        };
        std::fs::write(&file, format!("{}nonsense \"token_count\"\n{}", line(100), line(200))).unwrap();
        assert_eq!(find(dir.path(), "-th-1.jsonl", 3, &mut 100), Some(file.clone()));
        assert_eq!(find(dir.path(), "-th-2.jsonl", 3, &mut 100), None);
        let total = recorded(&file).unwrap();
        assert_eq!((total.input_tokens, total.output_tokens, total.cached_tokens), (200, 20, 7));
        let now = Usage { input_tokens: 300, output_tokens: 25, cached_tokens: 7, cost_micros: 0 };
        assert_eq!(difference(now, total), Usage { input_tokens: 100, output_tokens: 5, ..Usage::default() });
    }
}
