//! `wfhost.lock`: what the references of a project stood for when they were added or updated. It is
//! committed with the project, so that everybody has the same modules.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wfhost_core::{Digest, Wants};
use wfhost_world::private;

use crate::{Reference, RegistryError, Sha256, whole};

/// The file's name, beside `wfhost.toml`.
pub const LOCK_FILE: &str = "wfhost.lock";
/// The version of its form.
const VERSION: u32 = 1;
const HEAD: &str =
    "# The exact versions of the modules of this project. Written by wfhost: commit it, do not edit it.\n";

/// A module of a project.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    pub name: String,
    /// With a tag.
    pub reference: String,
    /// The version that it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    pub manifest: Sha256,
    pub layer: Sha256,
    /// The digest that runs name, in hexadecimal digits.
    pub blake3: String,
    /// Who signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// What it is, if it is no workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<LockedKind>,
    /// What a plugin asks for, as it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<Wants>,
}

/// What is locked, if it is no workflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockedKind {
    Plugin,
}

/// A lock file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockFile {
    pub path: PathBuf,
    modules: Vec<Locked>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    module: Vec<Locked>,
}

/// A reference as it is always written: somebody may have written it into the file in another way.
fn written(reference: &str) -> String {
    let parsed = reference.parse().map(|reference: Reference| reference.to_string());
    parsed.unwrap_or_else(|_| reference.to_owned())
}

impl LockFile {
    /// The lock file of a directory; one that is not there has nothing.
    pub fn read(dir: &Path) -> Result<Self, RegistryError> {
        #[derive(Deserialize)]
        struct Version {
            version: Option<toml::Value>,
        }
        let path = dir.join(LOCK_FILE);
        let failed = |reason: String| RegistryError::Lock { path: path.clone(), reason };
        if path.symlink_metadata().is_err() {
            return Ok(Self { path, modules: Vec::new() });
        }
        let text = private::read(&path).map_err(|error| failed(error.to_string()))?;
        let syntax = |error: toml::de::Error| failed(error.message().to_owned());
        // One of another version may have any form.
        let Version { version } = toml::from_str(&text).map_err(syntax)?;
        match version {
            Some(toml::Value::Integer(version)) if version == i64::from(VERSION) => {}
            Some(version) => {
                return Err(failed(format!("it has version {version}, but this wfhost supports {VERSION}")));
            }
            None => return Err(failed("it has no version".to_owned())),
        }
        let Form { module: modules, .. } = toml::from_str(&text).map_err(syntax)?;
        for (at, locked) in modules.iter().enumerate() {
            let reference: Result<Reference, _> = locked.reference.parse();
            if reference.is_err() || Digest::parse(&locked.blake3).is_none() {
                return Err(failed(format!("`{}` has an invalid reference or digest", locked.name)));
            }
            if reference.is_ok_and(|own| modules[..at].iter().any(|before| before.is_of(&own.to_string()))) {
                return Err(failed(format!("{} is listed twice", locked.reference)));
            }
        }
        Ok(Self { path, modules })
    }

    pub fn modules(&self) -> &[Locked] {
        &self.modules
    }

    /// What a reference stands for. One with a digest needs no lock.
    pub fn find(&self, reference: &Reference) -> Option<&Locked> {
        let text = reference.to_string();
        self.modules.iter().find(|locked| locked.is_of(&text))
    }

    /// Sets what a reference stands for, and writes the file. False if it was so.
    pub fn set(&mut self, locked: Locked) -> Result<bool, RegistryError> {
        self.change(|modules| {
            let reference = written(&locked.reference);
            modules.retain(|there| !there.is_of(&reference));
            modules.push(locked);
        })
    }

    /// Takes a reference out, and writes the file. False if it was not there.
    pub fn remove(&mut self, reference: &str) -> Result<bool, RegistryError> {
        let reference = written(reference);
        self.change(|modules| modules.retain(|there| !there.is_of(&reference)))
    }

    /// Changes what the file has now, so that nothing is lost that somebody else has put there since it was read.
    fn change(&mut self, change: impl FnOnce(&mut Vec<Locked>)) -> Result<bool, RegistryError> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |reason: String| RegistryError::Lock { path: self.path.clone(), reason };
        // The directory, as the file is another one after each change. The lock ends with it.
        let locked = std::fs::File::open(dir).and_then(|dir| dir.lock().map(|()| dir));
        let _locked = locked.map_err(|error| failed(error.to_string()))?;
        let before = Self::read(dir)?.modules;
        let mut modules = before.clone();
        change(&mut modules);
        modules.sort();
        let is_same = modules == before;
        if !is_same {
            let form = Form { version: VERSION, module: modules.clone() };
            let text = toml::to_string(&form).map_err(|error| failed(error.to_string()))?;
            // It is committed: everybody who may read the project may read it.
            let written = whole::replace(&self.path, format!("{HEAD}{text}").as_bytes(), 0o644);
            written.map_err(|error| failed(error.to_string()))?;
        }
        self.modules = modules;
        Ok(!is_same)
    }
}

impl Locked {
    /// Whether it is locked under this reference, as [`written`] writes it.
    fn is_of(&self, reference: &str) -> bool {
        written(&self.reference) == reference
    }

    /// Fails unless a module is the one that was locked.
    pub fn check(&self, layer: Sha256, bytes: &[u8]) -> Result<(), RegistryError> {
        let is = Digest::of(bytes);
        if layer != self.layer || Some(is) != Digest::parse(&self.blake3) {
            return Err(RegistryError::Departs {
                reference: self.reference.clone(),
                reason: format!(
                    "its manifest refers to {layer} ({is}), but {} ({}) is locked",
                    self.layer, self.blake3
                ),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(tag: &str) -> Locked {
        Locked {
            name: "hello".into(),
            reference: format!("ghcr.io/a/hello:{tag}"),
            release: None,
            manifest: Sha256::of(b"m"),
            layer: Sha256::of(b"l"),
            blake3: Digest::of(b"l").hex(),
            signer: Some("acme".into()),
            kind: None,
            wants: None,
        }
    }

    #[test]
    fn what_a_plugin_wants_is_kept_and_others_entries_stay() {
        let dir = tempfile::tempdir().unwrap();
        let wants: Wants = serde_json::from_value(serde_json::json!({
            "http": [{ "url": "https://a.org/v1/", "methods": ["GET"], "inject": ["x-key"], "reason": "reads" }],
            "env": [{ "name": "LANG", "reason": "speaks" }],
        }))
        .unwrap();
        let plugin = Locked { kind: Some(LockedKind::Plugin), wants: Some(wants), ..locked("1") };
        let mut one = LockFile::read(dir.path()).unwrap();
        let mut other = LockFile::read(dir.path()).unwrap();
        assert!(one.set(plugin.clone()).unwrap());
        // It was read before that.
        assert!(other.set(locked("2")).unwrap());
        let read = LockFile::read(dir.path()).unwrap();
        assert_eq!(read.modules(), [plugin.clone(), locked("2")]);
        assert!(one.remove(&plugin.reference).unwrap());
        assert!(!one.remove(&plugin.reference).unwrap());
        assert_eq!(LockFile::read(dir.path()).unwrap().modules(), [locked("2")]);
    }

    #[test]
    fn many_that_lock_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = dir.path();
                scope.spawn(move || {
                    let mut lock = LockFile::read(path).unwrap();
                    lock.set(locked(&number.to_string())).unwrap();
                });
            }
        });
        assert_eq!(LockFile::read(dir.path()).unwrap().modules().len(), 8);
    }

    #[test]
    fn a_lock_file_reads_what_it_writes_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = LockFile::read(dir.path()).unwrap();
        assert!(lock.set(locked("2")).unwrap());
        assert!(lock.set(locked("1")).unwrap());
        assert!(!lock.set(locked("1")).unwrap());
        let read = LockFile::read(dir.path()).unwrap();
        assert_eq!(read, lock);
        assert_eq!(read.modules()[0].reference, "ghcr.io/a/hello:1");
        assert_eq!(read.find(&"ghcr.io/a/hello:2".parse().unwrap()), Some(&locked("2")));
        assert!(locked("1").check(Sha256::of(b"l"), b"l").is_ok());
        assert!(locked("1").check(Sha256::of(b"l"), b"L").is_err());
    }

    #[test]
    fn a_reference_is_found_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = LockFile::read(dir.path()).unwrap();
        let other = Locked { reference: "oci://GHCR.io:443/a/hello:1".into(), ..locked("1") };
        assert!(lock.set(other.clone()).unwrap());
        assert_eq!(lock.find(&"ghcr.io/a/hello:1".parse().unwrap()), Some(&other));
        assert!(lock.set(locked("1")).unwrap());
        assert_eq!(LockFile::read(dir.path()).unwrap().modules(), [locked("1")]);
        assert!(lock.remove("ghcr.io:443/a/hello:1").unwrap());
        assert_eq!(LockFile::read(dir.path()).unwrap().modules(), []);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let twice = "version = 1\n[[module]]\nname = \"a\"\nreference = \"a.io/a:1\"\nmanifest = \"M\"\nlayer = \"M\"\nblake3 = \"B\"\n";
        let entry = twice.replace('M', &Sha256::of(b"").to_string()).replace('B', &Digest::of(b"").hex());
        let again = entry.trim_start_matches("version = 1\n");
        for (text, says) in [
            ("version = 2\nnews = true", "it has version 2, but this wfhost supports 1"),
            ("version = \"1\"", "it has version"),
            ("", "it has no version"),
            ("version = 1\nother = 2", "unknown field"),
            ("<<<<<<< HEAD\n", ""),
            ("version = 1\n[[module]]\nname = \"a\"", "missing field"),
            (&entry.replace("a.io/a:1", "a"), "an invalid reference or digest"),
            (&format!("{entry}{again}"), "is listed twice"),
        ] {
            std::fs::write(dir.path().join(LOCK_FILE), text).unwrap();
            let error = LockFile::read(dir.path()).unwrap_err();
            assert!(
                matches!(error, RegistryError::Lock { .. }) && error.to_string().contains(says),
                "{error}"
            );
        }
    }
}
