//! From a reference to bytes that may be used: what is locked, who signed, and where it is had.

use crate::policy::{FirstSeen, Level, Rules, Signer, Verdict};
use crate::{Client, LockFile, Locked, LockedKind, Pull, Reference, RegistryError, Resolved, Sha256, Store};

/// What is done about what is signed by others than what came from there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    Refuse,
    /// They are kept as those who sign from now on.
    Accept,
    /// It is only looked at: nobody is refused, and nobody is kept.
    Ignore,
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

impl How {
    fn others(self) -> Others {
        if self.accept { Others::Accept } else { Others::Refuse }
    }
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
        self.resolve_by(&self.rules, reference, pull, others).await
    }

    async fn resolve_by(
        &self,
        rules: &Rules,
        reference: &Reference,
        pull: Pull,
        others: Others,
    ) -> Result<(Resolved, Verdict), RegistryError> {
        let first = match others {
            Others::Refuse | Others::Accept => self.first_signer(reference)?,
            Others::Ignore => None,
        };
        let (first, nobody) = (first.as_slice(), [].as_slice());
        let (before, also) = if others == Others::Accept { (nobody, first) } else { (first, nobody) };
        let (resolved, verdict) = self.judge_by(rules, reference, pull, before, also).await?;
        match others {
            Others::Refuse => self.keep_signer(reference, &resolved, &verdict, false)?,
            Others::Accept => self.keep_signer(reference, &resolved, &verdict, true)?,
            Others::Ignore => {}
        }
        Ok((resolved, verdict))
    }

    /// The same for what is locked: whoever the lock file names has to have signed it. A name that no key is known
    /// for says nothing, and whoever changes the file can take any name out of it. Then it has to be signed by those
    /// whom the rules for its place name, and by who signed first, as without a lock file.
    async fn resolve_locked(
        &self,
        locked: &Locked,
        exact: &Reference,
        how: How,
    ) -> Result<(Resolved, Verdict), RegistryError> {
        let named = locked.signer.as_deref().map(|name| self.rules.named(name)).unwrap_or_default();
        if named.is_empty() {
            return self.resolve_by(&self.rules.required(), exact, how.pull, how.others()).await;
        }
        let judged = self.judge_by(&self.rules, exact, how.pull, &named, &[]).await;
        let (resolved, verdict) = judged.map_err(|error| match error {
            RegistryError::SignerChanged { before, now, .. } => RegistryError::LockedSigner {
                reference: locked.reference.clone(),
                path: self.lock.path.clone(),
                signer: before,
                now,
            },
            error => error,
        })?;
        // Whoever changed the lock file has accepted another signer than the first one: that one stays.
        if self.first_signer(exact)?.is_none() {
            self.keep_signer(exact, &resolved, &verdict, false)?;
        }
        Ok((resolved, verdict))
    }

    async fn judge_by(
        &self,
        rules: &Rules,
        reference: &Reference,
        pull: Pull,
        before: &[Signer],
        also: &[Signer],
    ) -> Result<(Resolved, Verdict), RegistryError> {
        let resolved = crate::resolve(&self.client, &self.store, reference, pull).await?;
        let verdict = rules.judge(&self.client, &self.store, &resolved, pull, before, also).await?;
        Ok((resolved, verdict))
    }

    /// Who signed first what came from the place of a reference.
    fn first_signer(&self, reference: &Reference) -> Result<Option<Signer>, RegistryError> {
        self.first_seen.as_ref().map_or(Ok(None), |first_seen| first_seen.of(reference))
    }

    fn keep_signer(
        &self,
        reference: &Reference,
        resolved: &Resolved,
        verdict: &Verdict,
        replace: bool,
    ) -> Result<(), RegistryError> {
        match &self.first_seen {
            // Where nobody looks for signatures, nothing is known of who signed.
            Some(first_seen) if self.rules.level(reference) != Level::Off => {
                // Of what nobody signed, nobody is kept any more. Where nobody has looked, it may be signed.
                if replace && verdict.signers.is_empty() && verdict.was_asked {
                    return first_seen.forget(reference);
                }
                first_seen.keep(reference, &verdict.signers, resolved.digest, replace)
            }
            _ => Ok(()),
        }
    }

    /// The same by the lock file, if that has it.
    pub async fn judge(&self, reference: &Reference, how: How) -> Result<Judged, RegistryError> {
        let pinned = self.pinned(reference);
        if how.locked && pinned.is_none() && reference.digest().is_none() {
            let (reference, path) = (reference.to_string(), self.lock.path.clone());
            return Err(RegistryError::NotLocked { reference, path });
        }
        let is_locked = pinned.is_some();
        let (resolved, verdict) = match &pinned {
            Some((locked, exact)) => self.resolve_locked(locked, exact, how).await?,
            None => self.resolve(reference, how.pull, how.others()).await?,
        };
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
