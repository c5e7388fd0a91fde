//! From a reference to bytes that may be used: what is locked, who signed, and where it is had.

use crate::policy::{FirstSeen, Rules, Verdict};
use crate::{Client, LockFile, Locked, LockedKind, Pull, Reference, RegistryError, Resolved, Sha256, Store};

/// What is done about what is signed by others than what came from there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    Refuse,
    /// They are kept as those who sign from now on.
    Accept,
    /// The lock file says exactly what is meant.
    Locked,
}

/// How something is fetched.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    pub pull: Pull,
    /// Only what the lock file has.
    pub locked: bool,
    /// Also if it is signed by others than before.
    pub accept: bool,
}

/// Where something came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// As it was asked for.
    pub reference: Reference,
    /// The same, with a tag if only a requirement was said.
    pub meant: Reference,
    /// Of its manifest.
    pub digest: Sha256,
    pub layer: Sha256,
    /// The version that it says it is.
    pub release: Option<String>,
    /// Whose signatures are good.
    pub signers: Vec<String>,
}

impl Origin {
    /// The reference with the digest that it stood for.
    pub fn exact(&self) -> String {
        match self.meant.digest() {
            Some(_) => self.meant.to_string(),
            None => format!("{}@{}", self.meant, self.digest),
        }
    }

    /// As the lock file has a workflow.
    pub fn locked(&self, name: &str, bytes: &[u8]) -> Locked {
        Locked {
            name: name.to_owned(),
            reference: self.reference.to_string(),
            release: self.release.clone(),
            manifest: self.digest,
            layer: self.layer,
            blake3: wfhost_core::Digest::of(bytes).hex(),
            signer: self.signers.first().cloned(),
            kind: None,
            wants: None,
        }
    }

    /// As the lock file has a plugin, with what it asks for.
    pub fn locked_plugin(&self, name: &str, bytes: &[u8], wants: wfhost_core::Wants) -> Locked {
        Locked { kind: Some(LockedKind::Plugin), wants: Some(wants), ..self.locked(name, bytes) }
    }
}

/// A module out of a registry or the local store.
#[derive(Debug)]
pub struct Fetched {
    pub name: String,
    pub bytes: Vec<u8>,
    pub origin: Origin,
}

/// A reference that is about to be fetched: which manifest it means, and whether that is trusted.
#[derive(Debug)]
pub struct Judged {
    pub resolved: Resolved,
    pub verdict: Verdict,
    /// The lock file said what it means.
    pub is_locked: bool,
    /// The local store did not have its manifest before.
    pub is_new: bool,
}

/// All that fetching takes.
#[derive(Debug)]
pub struct Session {
    pub store: Store,
    pub client: Client,
    pub rules: Rules,
    pub lock: LockFile,
    /// Where it is kept who signed first.
    pub first_seen: Option<FirstSeen>,
}

impl Session {
    /// What is asked for in the place of a reference: what the lock file says it stands for.
    pub fn pinned(&self, reference: &Reference) -> Option<(&Locked, Reference)> {
        let locked = self.lock.find(reference).filter(|_| reference.digest().is_none())?;
        Some((locked, reference.at(locked.manifest)))
    }

    /// Finds out what a reference means, and whether that is trusted.
    pub async fn resolve(
        &self,
        reference: &Reference,
        pull: Pull,
        others: Others,
    ) -> Result<(Resolved, Verdict), RegistryError> {
        let resolved = crate::resolve(&self.client, &self.store, reference, pull).await?;
        let before = match &self.first_seen {
            Some(first_seen) if others == Others::Refuse => first_seen.of(reference)?,
            _ => None,
        };
        let verdict = self.rules.judge(&self.client, &self.store, &resolved, pull, before.as_ref()).await?;
        if let Some(first_seen) = &self.first_seen
            && others != Others::Locked
        {
            let replace = others == Others::Accept;
            first_seen.keep(reference, &verdict.signers, resolved.digest, replace)?;
        }
        Ok((resolved, verdict))
    }

    /// The same by the lock file, if that has it.
    pub async fn judge(&self, reference: &Reference, how: How) -> Result<Judged, RegistryError> {
        let pinned = self.pinned(reference);
        if how.locked && pinned.is_none() && reference.digest().is_none() {
            let (reference, path) = (reference.to_string(), self.lock.path.clone());
            return Err(RegistryError::NotLocked { reference, path });
        }
        let is_locked = pinned.is_some();
        let exact = pinned.map_or_else(|| reference.clone(), |(_, exact)| exact);
        let others = match is_locked {
            true => Others::Locked,
            false if how.accept => Others::Accept,
            false => Others::Refuse,
        };
        let (resolved, verdict) = self.resolve(&exact, how.pull, others).await?;
        let is_new = !self.store.path_of(resolved.digest).exists();
        Ok(Judged { resolved, verdict, is_locked, is_new })
    }

    /// The bytes of what was judged. What is locked is what was locked.
    pub async fn take(
        &self,
        reference: &Reference,
        resolved: &Resolved,
        verdict: Verdict,
        pull: Pull,
    ) -> Result<Fetched, RegistryError> {
        let bytes = crate::fetch(&self.client, &self.store, resolved, pull).await?;
        let origin = Origin {
            reference: reference.clone(),
            meant: match reference.requirement() {
                Some(_) => resolved.reference.clone(),
                None => reference.clone(),
            },
            digest: resolved.digest,
            layer: resolved.layer.digest,
            release: resolved.version().map(str::to_owned),
            signers: verdict.signers.into_iter().map(|signer| signer.name).collect(),
        };
        Ok(Fetched { name: reference.name().to_owned(), bytes, origin })
    }

    /// The bytes of what was judged by the lock file.
    pub async fn fetch(
        &self,
        reference: &Reference,
        judged: Judged,
        pull: Pull,
    ) -> Result<Fetched, RegistryError> {
        let fetched = self.take(reference, &judged.resolved, judged.verdict, pull).await?;
        if let Some((locked, _)) = self.pinned(reference) {
            locked.check(fetched.origin.layer, &fetched.bytes)?;
        }
        Ok(fetched)
    }
}
