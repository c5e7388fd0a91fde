//! What is in a directory, to be compared with what is in it later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use similar::{ChangeTag, TextDiff};

use super::{Changes, Paths};

/// Files that are looked at; a directory with more is not recorded.
const FILES: usize = 20_000;
/// Bytes of a file that is compared line by line.
const FILE_BYTES: u64 = 1 << 20;
/// Bytes of all files together that are kept to be compared line by line.
const KEPT_BYTES: u64 = 64 << 20;
/// Bytes of a diff that are kept.
const DIFF_BYTES: usize = 8 << 20;

/// How long the smallest difference of all files together is looked for. What is left then is told as removed and
/// added as a whole: looking for it takes time by the square of the lines that differ.
const COMPARE_WITHIN: Duration = Duration::from_secs(2);

/// The files of a directory by their path within it.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    files: BTreeMap<String, Content>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Content {
    Text(String),
    /// Neither text nor small: how large, and when it was changed in nanoseconds.
    Other {
        bytes: u64,
        changed: u128,
    },
    Link(PathBuf),
}

/// Looks at all files of a directory but those of git.
pub(super) async fn take(directory: PathBuf) -> Result<Snapshot, String> {
    tokio::task::spawn_blocking(move || {
        let dir = Dir::open_ambient_dir(&directory, ambient_authority())
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut snapshot = Snapshot::default();
        let mut kept = 0;
        walk(&dir, Path::new(""), &mut snapshot, &mut kept)?;
        Ok(snapshot)
    })
    .await
    .map_err(|error| error.to_string())?
}

/// What is different in a directory since `before`.
pub(super) async fn changes(before: Arc<Snapshot>, directory: PathBuf) -> Result<Changes, String> {
    let after = take(directory).await?;
    let compare = move || before.compare(&after);
    tokio::task::spawn_blocking(compare).await.map_err(|error| error.to_string())
}

fn walk(dir: &Dir, prefix: &Path, snapshot: &mut Snapshot, kept: &mut u64) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    for entry in dir.entries().map_err(text)? {
        let entry = entry.map_err(text)?;
        let name = entry.file_name();
        if name == ".git" {
            continue;
        }
        let path = prefix.join(&name);
        let kind = entry.file_type().map_err(text)?;
        if kind.is_dir() {
            // One that may not be read is passed over.
            if let Ok(below) = entry.open_dir() {
                walk(&below, &path, snapshot, kept)?;
            }
            continue;
        }
        if snapshot.files.len() >= FILES {
            return Err(format!("it has more than {FILES} files"));
        }
        let content = if kind.is_symlink() {
            Content::Link(dir.read_link_contents(&name).unwrap_or_default())
        } else {
            let data = entry.metadata().map_err(text)?;
            let changed = data.modified().ok().and_then(|at| {
                at.into_std().duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_nanos())
            });
            let other = Content::Other { bytes: data.len(), changed: changed.unwrap_or_default() };
            let small = kind.is_file() && data.len() <= FILE_BYTES && *kept + data.len() <= KEPT_BYTES;
            match small.then(|| dir.read_to_string(&name)) {
                Some(Ok(content)) if !content.contains('\0') => {
                    *kept += data.len();
                    Content::Text(content)
                }
                _ => other,
            }
        };
        snapshot.files.insert(path.to_string_lossy().into_owned(), content);
    }
    Ok(())
}

impl Snapshot {
    /// What is different later.
    fn compare(&self, after: &Self) -> Changes {
        let deadline = Instant::now() + COMPARE_WITHIN;
        let mut left_out = false;
        let (mut paths, mut diff) = (Paths::default(), String::new());
        let all: std::collections::BTreeSet<_> = self.files.keys().chain(after.files.keys()).collect();
        for path in all {
            let (old, new) = (self.files.get(path), after.files.get(path));
            let kind = match (old, new) {
                (None, Some(_)) => 'A',
                (Some(_), None) => 'D',
                (old, new) if old != new => 'M',
                _ => continue,
            };
            paths.add(|| format!("{kind} {path}"));
            let lines = |content: Option<&Content>| match content {
                None => Some(String::new()),
                Some(Content::Text(text)) => Some(text.clone()),
                Some(_) => None,
            };
            let (Some(old), Some(new)) = (lines(old), lines(new)) else {
                diff.push_str(&format!("{kind} {path} (not text)\n"));
                continue;
            };
            let compared = TextDiff::configure().deadline(deadline).diff_lines(&old, &new);
            for change in compared.iter_all_changes() {
                match change.tag() {
                    ChangeTag::Insert => paths.added += 1,
                    ChangeTag::Delete => paths.removed += 1,
                    ChangeTag::Equal => {}
                }
            }
            left_out |= diff.len() >= DIFF_BYTES;
            if !left_out {
                let (from, to) = (format!("a/{path}"), format!("b/{path}"));
                diff.push_str(&compared.unified_diff().header(&from, &to).to_string());
            }
        }
        let is_cut = left_out || diff.len() > DIFF_BYTES;
        if diff.len() > DIFF_BYTES {
            // Whole lines, so that nothing is cut that would be known as a whole.
            let end = diff[..diff.floor_char_boundary(DIFF_BYTES)].rfind('\n').map_or(0, |end| end + 1);
            diff.truncate(end);
        }
        Changes { summary: paths.summary(is_cut), diff }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Comparing all of it would take minutes.
    #[test]
    fn files_that_have_nothing_in_common_are_compared_in_time() {
        let file = |first: u32| {
            let lines: String = (first..first + 120_000).map(|line| format!("{line:x}\n")).collect();
            Snapshot { files: BTreeMap::from([("data.csv".to_owned(), Content::Text(lines))]) }
        };
        let changes = file(0x10_0000).compare(&file(0x20_0000));
        let summary = changes.summary.value();
        assert_eq!(summary["files"], serde_json::json!(["M data.csv"]));
        assert_eq!((summary["added"].as_u64(), summary["removed"].as_u64()), (Some(120_000), Some(120_000)));
        assert!(changes.diff.contains("-100000\n") && changes.diff.contains("+200000\n"));
    }
}
