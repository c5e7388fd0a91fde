//! `wfhost verify REFERENCE --rebuild`: builds what a module says that it was built from, and compares.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wfhost_registry::{Provenance, Sha256, provenance};

use super::diagnostic::{Exit, UserError};
use super::{Common, build, printer};

/// What came of it.
pub(super) struct Rebuilt {
    /// Of the component that was built now.
    pub digest: Sha256,
    /// What differs; nothing if it is the same.
    pub differences: Vec<String>,
}

impl Rebuilt {
    pub fn view(&self) -> Value {
        json!({ "layer": self.digest, "same": self.differences.is_empty(), "differences": self.differences })
    }

    /// The error that says what differs.
    pub fn error(self, said: &Provenance, what: &str) -> Option<UserError> {
        if self.differences.is_empty() {
            return None;
        }
        let message =
            format!("{what} differs from its rebuilt source: built {}, expected {}", self.digest, said.layer);
        let tools = said.tools.iter().map(|(name, version)| format!("built with {name} {version}"));
        Some(
            UserError {
                details: self.differences.into_iter().chain(tools).collect(),
                exit: Exit::Mismatch,
                ..UserError::usage("WF0951", message)
            }
            .hint("other versions of compilers produce other bytes: compare those above with yours"),
        )
    }
}

/// Fetches the source and builds it, which has its build scripts run. `source`: where it is, instead of where it is
/// said to be.
pub(super) fn rebuild(
    common: &Common,
    said: &Provenance,
    source: Option<&str>,
    published: &[u8],
) -> Result<Rebuilt, UserError> {
    let dir = tempfile::tempdir().map_err(|error| {
        UserError::host("WF0950", format!("no temporary directory can be created: {error}"))
            .hint("set TMPDIR to a writable directory")
    })?;
    // Some languages name what they build after the directory.
    let name = said.source.rsplit(['/', ':']).next().unwrap_or_default().trim_end_matches(".git");
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let tree = dir.path().join(if !name.is_empty() && name.chars().all(is_name) { name } else { "source" });
    let from = source.unwrap_or(&said.source);
    // What is said to be the source is never something of this machine.
    let protocols = if source.is_some() { "https:ssh:file" } else { "https:ssh" };
    printer::say(common, "Fetching", &format!("{} of {from}", said.revision));
    let git = |args: &[&str]| -> Result<String, UserError> {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
            command.env_remove(name);
        }
        command
            .args(["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"])
            .args(args)
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null());
        let failed = |reason: &str| {
            UserError::host("WF0950", format!("the source cannot be fetched from {from}: {reason}"))
                .hint("`--source DIR` names a clone of it")
        };
        let ran = command.output().map_err(|error| failed(&format!("git: {error}")))?;
        match ran.status.success() {
            true => Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned()),
            false => Err(failed(String::from_utf8_lossy(&ran.stderr).trim())),
        }
    };
    let at = tree.to_string_lossy().into_owned();
    git(&["clone", "--quiet", "--no-checkout", "--", from, &at])?;
    git(&["-C", &at, "checkout", "--quiet", "--detach", &said.revision])?;
    if git(&["-C", &at, "rev-parse", "HEAD"])? != said.revision {
        return Err(UserError::host("WF0950", format!("{from} has no commit {}", said.revision))
            .hint("`--source DIR` names a clone that has it"));
    }
    // What is built says where it comes from.
    git(&["-C", &at, "remote", "set-url", "origin", &said.source])?;
    let project = project(&tree, &said.path)?;
    let built = build::only(&project)?;
    let bytes = std::fs::read(&built).map_err(|error| {
        UserError::host("WF0950", format!("{} cannot be read: {error}", built.display())).hint("try again")
    })?;
    Ok(Rebuilt { digest: Sha256::of(&bytes), differences: provenance::differences(published, &bytes) })
}

/// The directory of the project, which is in the source and nowhere else.
fn project(tree: &Path, path: &str) -> Result<PathBuf, UserError> {
    let outside = || {
        UserError::usage("WF0950", format!("the source has no directory `{path}`"))
            .hint("nothing was built; ask the publisher")
    };
    let real = tree.join(path).canonicalize().map_err(|_| outside())?;
    let root = tree.canonicalize().map_err(|_| outside())?;
    if real.is_dir() && real.starts_with(root) { Ok(real) } else { Err(outside()) }
}
