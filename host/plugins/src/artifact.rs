//! A plugin's component: what it is, found out by reading it, before anything is compiled.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use wasmparser::{Parser, Payload};
use wfhost_core::{Digest, WANTS_SECTION, Wants};
use wfhost_runtime::{ModuleError, summarize};
use wfhost_world::text::excerpt;

/// Bytes of a plugin.
const BYTES: u64 = 128 << 20;

/// What a plugin exports.
pub(crate) const AGENT: &str = "wfhost:plugin/agent@0.1.0";

/// Why a plugin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("the plugin {path} cannot be read: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the plugin {path} is larger than {} MiB", BYTES >> 20, path = path.display())]
    TooLarge { path: PathBuf },
    #[error("the plugin {path} is {found}, but the configuration requires {wanted}", path = path.display())]
    Digest { path: PathBuf, found: Digest, wanted: Digest },
    #[error("this is a workflow, not a plugin: it exports `run`, not `{AGENT}`")]
    Workflow,
    #[error("this is not a plugin: it does not export `{AGENT}`")]
    NoAgent,
    #[error("the plugin imports `{0}`, which is not available to plugins")]
    Import(String),
    #[error("the plugin cannot be used: {0}")]
    Module(#[from] ModuleError),
    #[error("the plugin does not match the world `wfhost:plugin/agent-plugin@0.1.0`: {0}")]
    Unfit(String),
    #[error("the permissions that the plugin requests cannot be read: {0}")]
    Wants(String),
    /// It comes from a registry and cannot be obtained. `code`, `hint`: those of the cause; `passes`: a later attempt
    /// may succeed.
    #[error("the plugin {reference} cannot be obtained: {reason}")]
    Supply { reference: String, reason: String, code: &'static str, hint: String, passes: bool },
    #[error("the certificates of the plugin's servers cannot be used: {path}: {reason}", path = path.display())]
    Certificates { path: PathBuf, reason: String },
    #[error("the directory {path} of the plugin cannot be used: {source}", path = path.display())]
    Directory { path: PathBuf, source: std::io::Error },
}

impl PluginError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::TooLarge { .. } => "WF1201",
            Self::Digest { .. } => "WF1202",
            Self::Workflow | Self::NoAgent => "WF1203",
            Self::Import(_) => "WF1204",
            Self::Unfit(_) => "WF1205",
            Self::Directory { .. } => "WF1206",
            Self::Wants(_) => "WF1207",
            Self::Certificates { .. } => "WF1208",
            Self::Module(error) => error.code(),
            Self::Supply { code, .. } => code,
        }
    }

    /// How to fix it.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } => "build it with `wfhost build`, or correct `plugin` in the configuration".to_owned(),
            Self::TooLarge { .. } => "build it without debug information".to_owned(),
            Self::Digest { .. } => "review the changes, then put the new `digest` into the configuration".to_owned(),
            Self::Workflow => "run it with `wfhost run`".to_owned(),
            Self::NoAgent | Self::Unfit(_) => {
                "build it against the WIT package of this wfhost: `wfhost inspect --wit=plugin` prints it".to_owned()
            }
            Self::Import(_) => {
                "plugins can import `wfhost:plugin/progress@0.1.0` and interfaces of `wasi:*@0.2`: `wasi:http` for the \
                 network, `wasi:filesystem` for files"
                    .to_owned()
            }
            Self::Certificates { .. } => "`ca` names a file with certificates in PEM; or remove it".to_owned(),
            Self::Wants(_) => "build it with this version of wfhost".to_owned(),
            Self::Directory { .. } => "create it, or remove it from `directories`".to_owned(),
            Self::Module(error) => error.hint(),
            Self::Supply { hint, .. } => hint.clone(),
        }
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// A plugin's file. It is read again when it has changed.
#[derive(Debug)]
pub(crate) struct Artifact {
    path: PathBuf,
    wanted: Option<Digest>,
    known: Mutex<Option<(Stamp, Digest)>>,
}

impl Artifact {
    pub fn new(path: PathBuf, wanted: Option<Digest>) -> Self {
        Self { path, wanted, known: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is now; with its bytes if they had to be read for that.
    pub fn digest(&self) -> Result<(Digest, Option<Vec<u8>>), PluginError> {
        let stamp = self.stamp()?;
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, digest)) = known
            && before == stamp
        {
            return Ok((digest, None));
        }
        let (digest, bytes) = self.read()?;
        // If it changed while it was read, it is read again the next time.
        if self.stamp()? == stamp {
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, digest));
        }
        Ok((digest, Some(bytes)))
    }

    /// Its bytes, and what they are.
    pub fn read(&self) -> Result<(Digest, Vec<u8>), PluginError> {
        self.stamp()?;
        let bytes = std::fs::read(&self.path).map_err(|source| self.unreadable(source))?;
        let found = Digest::of(&bytes);
        match self.wanted {
            Some(wanted) if wanted != found => {
                Err(PluginError::Digest { path: self.path.clone(), found, wanted })
            }
            _ => Ok((found, bytes)),
        }
    }

    fn stamp(&self) -> Result<Stamp, PluginError> {
        let metadata = std::fs::metadata(&self.path).map_err(|source| self.unreadable(source))?;
        if metadata.len() > BYTES {
            return Err(PluginError::TooLarge { path: self.path.clone() });
        }
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Ok(Stamp { inode: metadata.ino(), bytes: metadata.len(), changed })
    }

    fn unreadable(&self, source: std::io::Error) -> PluginError {
        PluginError::Read { path: self.path.clone(), source }
    }
}

/// What a plugin asks for. One that does not say it asks for nothing.
pub fn wants(bytes: &[u8]) -> Result<Wants, PluginError> {
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| ModuleError::Invalid(error.to_string()))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == WANTS_SECTION => {
                return serde_json::from_slice(section.data())
                    .map_err(|error| PluginError::Wants(excerpt(&error.to_string())));
            }
            _ => {}
        }
    }
    Ok(Wants::default())
}

/// The imports of a plugin, by name. An error if the component is not a plugin.
pub fn imports(bytes: &[u8]) -> Result<Vec<String>, PluginError> {
    let summary = summarize(bytes)?;
    if !summary.exports.iter().any(|name| name == AGENT) {
        let workflow = summary.exports.iter().any(|name| name == "run");
        return Err(if workflow { PluginError::Workflow } else { PluginError::NoAgent });
    }
    let names: Vec<String> = summary.imports.into_iter().map(|import| import.name).collect();
    match names.iter().find(|name| !is_known(name)) {
        Some(unknown) => Err(PluginError::Import(unknown.clone())),
        None => Ok(names),
    }
}

fn is_known(import: &str) -> bool {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    match interface.split_once('/') {
        Some(("wfhost:plugin", "http" | "progress" | "types")) => version == "0.1.0",
        Some(("wasi:http", name)) => matches!(name, "types" | "outgoing-handler") && is_wasi_02(version),
        Some((package, _)) => {
            let known =
                ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];
            known.contains(&package) && is_wasi_02(version)
        }
        None => false,
    }
}

/// A release of WASI 0.2.
fn is_wasi_02(version: &str) -> bool {
    let patch = version.strip_prefix("0.2.").unwrap_or_default();
    !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.wasm");
        std::fs::write(&path, "one").unwrap();
        let artifact = Artifact::new(path.clone(), None);
        let (one, bytes) = artifact.digest().unwrap();
        assert_eq!(bytes.unwrap(), b"one");
        assert_eq!(artifact.digest().unwrap(), (one, None));
        // As builds do it: another file takes its place.
        std::fs::write(dir.path().join("new"), "two").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        let (two, bytes) = artifact.digest().unwrap();
        assert!(one != two && bytes.unwrap() == b"two");
        let error = Artifact::new(path.clone(), Some(one)).digest().unwrap_err();
        assert_eq!(error.code(), "WF1202");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(artifact.digest().unwrap_err().code(), "WF1201");
    }

    #[test]
    fn what_is_no_plugin_is_told_so() {
        assert_eq!(imports(b"").unwrap_err().code(), "WF0101");
        assert_eq!(imports(b"\0asm\x0d\0\x01\0").unwrap_err().code(), "WF1203");
    }

    #[test]
    fn plugins_have_wasi_and_nothing_of_workflows() {
        for name in
            ["wfhost:plugin/progress@0.1.0", "wasi:http/outgoing-handler@0.2.0", "wasi:io/streams@0.2.12"]
        {
            assert!(is_known(name), "{name}");
        }
        for name in [
            "wfhost:workflow/agent@0.1.0",
            "wfhost:plugin/progress@0.2.0",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:keyvalue/store@0.2.0",
            "wasi:cli/environment@0.3.0",
            "wasi:cli/environment@0.2.0-rc1",
            "acme:db/sql",
            "random",
        ] {
            assert!(!is_known(name), "{name}");
        }
    }
}
