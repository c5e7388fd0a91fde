//! What the verbs about registries share: the client, the local store, and from a reference to a module.

use std::path::{Path, PathBuf};

use wfhost::world::environment;
use wfhost_config::Config;
use wfhost_registry::policy::{FirstSeen, Rules, Signer, Verdict};
use wfhost_registry::{
    Client, ClientOptions, LockFile, Locked, Login, Logins, PrivateKey, Pull, Reference, RegistryError,
    Resolved, Sha256, Source, Store,
};

use super::diagnostic::Trouble;
use super::{Common, printer};

/// Whether registries are asked about a module.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Fetch {
    /// Contact no registry: use the local store
    #[arg(long)]
    pub offline: bool,
    /// When to ask a registry what a tag refers to
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN", hide_short_help = true)]
    pub pull: PullArg,
    /// Only modules in wfhost.lock
    #[arg(long, hide_short_help = true)]
    pub locked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum PullArg {
    /// Every time
    #[default]
    Always,
    /// If the local store does not have it
    Missing,
    /// Never, as with --offline
    Never,
}

impl Fetch {
    pub fn pull(self) -> Pull {
        match self.pull {
            _ if self.offline => Pull::Never,
            PullArg::Always => Pull::Always,
            PullArg::Missing => Pull::Missing,
            PullArg::Never => Pull::Never,
        }
    }
}

/// Where a module came from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// As it was asked for.
    pub reference: Reference,
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
        match self.reference.digest() {
            Some(_) => self.reference.to_string(),
            None => format!("{}@{}", self.reference, self.digest),
        }
    }

    /// As the lock file has it.
    pub fn locked(&self, name: &str, bytes: &[u8]) -> Locked {
        Locked {
            name: name.to_owned(),
            reference: self.reference.to_string(),
            release: self.release.clone(),
            manifest: self.digest,
            layer: self.layer,
            blake3: wfhost_core::Digest::of(bytes).hex(),
            signer: self.signers.first().cloned(),
        }
    }
}

/// A module out of a registry or the local store.
pub(crate) struct Fetched {
    pub name: String,
    pub bytes: Vec<u8>,
    pub origin: Origin,
}

/// The local store of modules.
pub(crate) fn store() -> Result<Store, Trouble> {
    let dir = environment::data_dir().ok_or_else(|| {
        Trouble::host("WF0931", "there is no directory for the local store: HOME is not set")
            .hint("set HOME or XDG_DATA_HOME")
    })?;
    Ok(Store::new(dir.join("modules")))
}

/// The logins that are kept.
pub(crate) fn logins() -> Logins {
    Logins::new(environment::config_dir().map(|dir| dir.join("auth.json")))
}

/// A client of registries as the configuration wants it.
pub(crate) fn client(config: &Config, logins: Logins) -> Result<Client, Trouble> {
    let (plain, tls) = config.registries()?.into_iter().partition::<Vec<_>, _>(|(_, plain)| *plain);
    let hosts = |of: Vec<(String, bool)>| of.into_iter().map(|(host, _)| host).collect();
    Ok(Client::new(ClientOptions { logins, plain: hosts(plain), tls: hosts(tls) }))
}

/// A client that is somebody else than the kept logins say.
pub(crate) fn client_as(config: &Config, host: &str, login: Login) -> Result<Client, Trouble> {
    client(config, Logins::given(host, login))
}

/// How to handle a module whose signer has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Others {
    Refuse,
    /// The new signer is accepted and recorded.
    Accept,
    /// The lock file says exactly what is meant.
    Locked,
}

/// All that fetching takes.
pub(crate) struct Session {
    pub store: Store,
    pub client: Client,
    pub rules: Rules,
    pub lock: LockFile,
    first_seen: Option<FirstSeen>,
}

impl Session {
    pub fn open(common: &Common) -> Result<Self, Trouble> {
        let config = common.config()?;
        // Beside the project's file; without one, here.
        let here = || std::env::current_dir().unwrap_or_default();
        let dir = config.project().and_then(|project| Some(project.path.parent()?.to_owned()));
        Ok(Self {
            store: store()?,
            client: client(&config, logins())?,
            rules: config.signatures()?,
            lock: LockFile::read(&dir.unwrap_or_else(here))?,
            first_seen: environment::state_dir().map(|dir| FirstSeen::new(dir.join("signers.json"))),
        })
    }

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
    ) -> Result<(Resolved, Verdict), Trouble> {
        let resolved = wfhost_registry::resolve(&self.client, &self.store, reference, pull).await?;
        let before = match &self.first_seen {
            Some(first_seen) if others == Others::Refuse => first_seen.of(reference)?,
            _ => None,
        };
        let verdict = self.rules.judge(&self.client, &self.store, &resolved, pull, before.as_ref()).await?;
        if let (Some(first_seen), Some(signer)) = (&self.first_seen, verdict.signers.first())
            && others != Others::Locked
        {
            let kept = first_seen.of(reference)?;
            let is_kept = |kept: Signer| verdict.signers.iter().any(|signer| signer.key == kept.key);
            if !kept.is_some_and(is_kept) {
                first_seen.keep(reference, signer, resolved.digest)?;
            }
        }
        Ok((resolved, verdict))
    }

    /// The bytes of what was resolved.
    pub async fn take(
        &self,
        reference: &Reference,
        (resolved, verdict): (Resolved, Verdict),
        pull: Pull,
    ) -> Result<Fetched, Trouble> {
        let bytes = wfhost_registry::fetch(&self.client, &self.store, &resolved, pull).await?;
        let origin = Origin {
            reference: reference.clone(),
            digest: resolved.digest,
            layer: resolved.layer.digest,
            release: resolved.version().map(str::to_owned),
            signers: verdict.signers.into_iter().map(|signer| signer.name).collect(),
        };
        Ok(Fetched { name: reference.name().to_owned(), bytes, origin })
    }
}

/// Fetches a module, and says what its reference meant.
pub(crate) async fn fetch(common: &Common, reference: &Reference, fetch: Fetch) -> Result<Fetched, Trouble> {
    fetch_with(common, &Session::open(common)?, reference, fetch, false).await
}

/// The same, also if it is signed by others than before.
pub(crate) async fn fetch_with(
    common: &Common,
    session: &Session,
    reference: &Reference,
    fetch: Fetch,
    accept: bool,
) -> Result<Fetched, Trouble> {
    let pull = fetch.pull();
    let pinned = session.pinned(reference);
    if fetch.locked && pinned.is_none() && reference.digest().is_none() {
        let (reference, path) = (reference.to_string(), session.lock.path.clone());
        return Err(RegistryError::NotLocked { reference, path }.into());
    }
    let exact = pinned.as_ref().map_or(reference, |(_, exact)| exact);
    let others = match pinned {
        Some(_) => Others::Locked,
        None if accept => Others::Accept,
        None => Others::Refuse,
    };
    let (resolved, verdict) = session.resolve(exact, pull, others).await?;
    let by = verdict.signers.iter().map(|signer| signer.name.as_str()).collect::<Vec<_>>().join(", ");
    let by = if by.is_empty() { by } else { format!(", signed by {by}") };
    if reference.digest().is_none() {
        let how = match (resolved.source, &pinned) {
            (_, Some(_)) => ", as locked",
            (Source::Store, None) => ", from the local store, without asking the registry",
            (Source::Registry, None) => "",
        };
        printer::say(common, "Module", &format!("{reference} -> {}{by}{how}", resolved.digest));
    } else if !by.is_empty() {
        printer::say(common, "Module", &format!("{reference}{by}"));
    }
    if let Some(warning) = &verdict.warning {
        printer::warn(common, warning);
    }
    let fetched = session.take(reference, (resolved, verdict), pull).await?;
    if let Some((locked, _)) = pinned {
        locked.check(fetched.origin.layer, &fetched.bytes)?;
    }
    Ok(fetched)
}

/// The key of a signer: a file, or one of those that `wfhost key new` made.
pub(crate) fn private_key(name: &str) -> Result<PrivateKey, Trouble> {
    let made = keys_dir().map(|dir| dir.join(format!("{name}.key"))).filter(|path| path.is_file());
    let path = match Path::new(name) {
        path if path.is_file() => path.to_owned(),
        path => made.unwrap_or_else(|| path.to_owned()),
    };
    Ok(PrivateKey::read(&path)?)
}

/// Where `wfhost key new` puts keys.
pub(crate) fn keys_dir() -> Option<PathBuf> {
    environment::config_dir().map(|dir| dir.join("keys"))
}
