//! Plugins out of registries: as wfhost.lock says, once it is known that they are trusted.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use wfhost_plugins::{PluginError, Supplied, Supply};
use wfhost_registry::policy::{FirstSeen, Rules};
use wfhost_registry::{
    Client, ClientOptions, How, LOCK_FILE, LockFile, Logins, Pull, Reference, RegistryError, Session, Store,
    artifact,
};
use wfhost_world::environment;

use super::ConfigError;
use super::modules;
use super::providers::One;

/// A plugin in a registry. What a tag stands for says the lock file beside the configuration; nobody is asked for
/// it. What is not on this machine is fetched by the first call, unless that is not wanted.
#[derive(Debug)]
pub(super) struct FromRegistry {
    reference: Reference,
    /// Where the lock file is.
    dir: PathBuf,
    options: ClientOptions,
    rules: Rules,
    pull: Pull,
    /// What the lock file said, and which one that was.
    known: Mutex<Option<(Stamp, String)>>,
}

/// What tells one state of a file from another: inode, bytes, and when it was changed.
type Stamp = (u64, u64, (i64, i64));

impl FromRegistry {
    pub fn new(one: &One<'_>, reference: Reference) -> Result<Self, ConfigError> {
        let logins = Logins::new(environment::config_dir().map(|dir| dir.join("auth.json")));
        let dir = std::path::absolute(one.path.parent().unwrap_or(Path::new("")));
        Ok(Self {
            reference,
            dir: dir.map_err(|error| one.wrong("plugin", &error.to_string()))?,
            options: modules::registries(&one.all.registries, logins),
            rules: modules::rules(&one.all.signatures)?,
            pull: one.pull,
            known: Mutex::default(),
        })
    }

    fn unusable(&self, error: &RegistryError) -> PluginError {
        let hint = match error {
            RegistryError::NotLocked { reference, .. } => {
                format!("review and lock it: `wfhost plugin add {reference}`, and commit the file")
            }
            error => error.hint(),
        };
        PluginError::Supply {
            reference: self.reference.to_string(),
            reason: error.to_string(),
            code: error.code(),
            hint,
            passes: matches!(error, RegistryError::Unreachable { .. } | RegistryError::Busy { .. }),
        }
    }

    fn session(&self) -> Result<Session, RegistryError> {
        let store = environment::data_dir().ok_or_else(|| RegistryError::Store {
            path: PathBuf::from("modules"),
            source: std::io::Error::other("HOME is not set"),
        })?;
        Ok(Session {
            store: Store::new(store.join("modules")),
            client: Client::new(self.options.clone()),
            rules: self.rules.clone(),
            lock: LockFile::read(&self.dir)?,
            first_seen: environment::state_dir().map(|dir| FirstSeen::new(dir.join("signers.json"))),
        })
    }

    /// What a lock file has to say of it: a tag is never taken for what it happens to mean now.
    fn how(&self, pull: Pull) -> How {
        How { pull, locked: true, accept: false }
    }

    async fn fetch(&self) -> Result<Supplied, RegistryError> {
        let session = self.session()?;
        // What is here and may be used needs nobody.
        let here = session.judge(&self.reference, self.how(Pull::Never)).await;
        let judged = match here {
            Ok(judged) => judged,
            Err(error) if self.pull == Pull::Never || matches!(error, RegistryError::NotLocked { .. }) => {
                return Err(error);
            }
            Err(_) => session.judge(&self.reference, self.how(self.pull)).await?,
        };
        // That there is no signature does not change: it is enough to be told when the plugin comes here.
        let is_told = judged.is_new || !judged.verdict.is_unsigned;
        let warning = judged.verdict.warning.clone().filter(|_| is_told);
        let fetched = session.fetch(&self.reference, judged, self.pull).await?;
        let signers = fetched.origin.signers;
        let signer = Some(signers.join(", ")).filter(|names| !names.is_empty());
        Ok(Supplied { bytes: fetched.bytes, signer, warning })
    }
}

impl Supply for FromRegistry {
    fn reference(&self) -> String {
        self.reference.to_string()
    }

    fn pinned(&self) -> Result<String, PluginError> {
        if let Some(digest) = self.reference.digest() {
            return Ok(digest.to_string());
        }
        let stamp: Option<Stamp> = std::fs::metadata(self.dir.join(LOCK_FILE))
            .ok()
            .map(|metadata| (metadata.ino(), metadata.len(), (metadata.ctime(), metadata.ctime_nsec())));
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((before, pinned)) = known
            && Some(before) == stamp
        {
            return Ok(pinned);
        }
        let pinned = || -> Result<String, RegistryError> {
            let lock = LockFile::read(&self.dir)?;
            let not_locked = || RegistryError::NotLocked {
                reference: self.reference.to_string(),
                path: lock.path.clone(),
            };
            Ok(lock.find(&self.reference).ok_or_else(not_locked)?.manifest.to_string())
        };
        let pinned = pinned().map_err(|error| self.unusable(&error))?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = stamp.zip(Some(pinned.clone()));
        Ok(pinned)
    }

    fn kept(&self) -> Result<Option<Vec<u8>>, PluginError> {
        let kept = || -> Result<Option<Vec<u8>>, RegistryError> {
            let session = self.session()?;
            let exact = match self.reference.digest() {
                Some(_) => self.reference.clone(),
                None => {
                    let (reference, path) = (self.reference.to_string(), session.lock.path.clone());
                    let pinned = session.pinned(&self.reference);
                    pinned.ok_or(RegistryError::NotLocked { reference, path })?.1
                }
            };
            let Some(found) = session.store.find(&exact)? else { return Ok(None) };
            let Some(manifest) = session.store.blob(&found, wfhost_registry::manifest::MANIFEST_BYTES)?
            else {
                return Ok(None);
            };
            let what = exact.to_string();
            let manifest = wfhost_registry::Manifest::parse(&what, &manifest, Some(&found.media_type))?;
            let layer = artifact::layer(&what, &manifest)?;
            session.store.blob(layer, artifact::MODULE_BYTES)
        };
        kept().map_err(|error| self.unusable(&error))
    }

    fn supply(&self) -> BoxFuture<'_, Result<Supplied, PluginError>> {
        Box::pin(async move { self.fetch().await.map_err(|error| self.unusable(&error)) })
    }
}
