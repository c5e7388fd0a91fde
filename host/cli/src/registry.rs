//! What the verbs about registries share: the client, the local store, and from a reference to a module.

use std::path::{Path, PathBuf};

use wfhost::world::environment;
use wfhost_config::Config;
use wfhost_registry::policy::{FirstSeen, Verdict};
use wfhost_registry::version::{self, VersionReq};
use wfhost_registry::{
    Client, How, Judged, LockFile, Login, Logins, PrivateKey, Pull, Reference, Source, Store,
};
pub(crate) use wfhost_registry::{Fetched, Origin, Others, Session};

use super::diagnostic::UserError;
use super::{Common, printer};

/// Whether registries are asked about a module.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Fetch {
    /// Contact no registry: use the local store
    #[arg(long)]
    pub offline: bool,
    /// When to resolve tags in the registry
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN", hide_short_help = true)]
    pub pull: PullArg,
    /// Use only modules in wfhost.lock
    #[arg(long, hide_short_help = true)]
    pub locked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum PullArg {
    /// Always
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

/// The local store of modules.
pub(crate) fn store() -> Result<Store, UserError> {
    let dir = environment::data_dir().ok_or_else(|| {
        UserError::host("WF0931", "there is no directory for the local store: HOME is not set")
            .hint("set HOME or XDG_DATA_HOME")
    })?;
    Ok(Store::new(dir.join("modules")))
}

/// The logins that are kept.
pub(crate) fn logins() -> Logins {
    Logins::new(environment::config_dir().map(|dir| dir.join("auth.json")))
}

/// A client of registries as the configuration wants it.
pub(crate) fn client(config: &Config, logins: Logins) -> Result<Client, UserError> {
    Ok(Client::new(config.registries(logins)?))
}

/// A client that is somebody else than the kept logins say.
pub(crate) fn client_as(config: &Config, host: &str, login: Login) -> Result<Client, UserError> {
    client(config, Logins::given(host, login))
}

/// The file of the first signers.
pub(crate) fn first_seen() -> Option<FirstSeen> {
    environment::state_dir().map(|dir| FirstSeen::new(dir.join("signers.json")))
}

/// All that fetching takes, as the configuration wants it.
pub(crate) fn open(common: &Common) -> Result<Session, UserError> {
    let config = common.config()?;
    Ok(Session {
        store: store()?,
        client: client(&config, logins())?,
        rules: config.signatures()?,
        lock: LockFile::read(&project_dir(&config))?,
        first_seen: first_seen(),
    })
}

/// Where the lock file is: beside the project's file; without one, here.
pub(crate) fn project_dir(config: &Config) -> PathBuf {
    let dir = config.project().and_then(|project| Some(project.path.parent()?.to_owned()));
    dir.unwrap_or_else(|| std::env::current_dir().unwrap_or_default())
}

/// `NAME@REQUIREMENT`.
pub(crate) fn with_requirement(text: &str) -> Option<(&str, VersionReq)> {
    let (name, requirement) = text.split_once('@')?;
    if name.is_empty() || name.contains(['/', ':']) {
        return None;
    }
    Some((name, version::requirement(requirement)?))
}

/// What a text means: a reference, or a name with what its version has to fit, `hello@^1.2`. The name is one of
/// `[modules]`, of the lock file or of the local store; no registry is meant that none of them names.
pub(crate) fn meant(common: &Common, text: &str) -> Result<Reference, UserError> {
    let Some((name, requirement)) = with_requirement(text) else { return Ok(text.parse()?) };
    let config = common.config()?;
    if let Some(module) = config.modules()?.get(name) {
        let reference = module.parse::<Reference>().map_err(|_| {
            UserError::usage("WF0920", format!("`{name}` in [modules] is a file, which has no versions"))
                .hint("name a module in a registry: REGISTRY/NAME:TAG")
        })?;
        return Ok(reference.fitting(&requirement));
    }
    let lock = LockFile::read(&project_dir(&config))?;
    let locked = lock.modules().iter().filter(|locked| locked.name == name);
    let mut found: Vec<Reference> = locked.filter_map(|locked| locked.reference.parse().ok()).collect();
    if found.is_empty() {
        let kept = store()?.modules()?.into_iter().map(|kept| kept.reference);
        found = kept.filter(|reference| reference.name() == name).collect();
    }
    found.sort();
    found.dedup_by_key(|reference| reference.place());
    match found.as_slice() {
        [reference] => Ok(reference.fitting(&requirement)),
        [] => Err(UserError::usage("WF0110", format!("no known registry has a module `{name}`")).hint(
            format!("use the full reference, REGISTRY/{text}, or add the name to [modules] in wfhost.toml"),
        )),
        several => {
            let details = several.iter().map(Reference::place).collect();
            let message = format!("{} repositories have a module `{name}`", several.len());
            Err(UserError { details, ..UserError::usage("WF0934", message) }
                .hint("use a full reference, or define the name in [modules] of wfhost.toml"))
        }
    }
}

/// Fetches a module, and says what its reference meant.
pub(crate) async fn fetch(
    common: &Common,
    reference: &Reference,
    fetch: Fetch,
) -> Result<Fetched, UserError> {
    fetch_with(common, &open(common)?, reference, fetch, false).await
}

/// The same, also if it is signed by others than before.
pub(crate) async fn fetch_with(
    common: &Common,
    session: &Session,
    reference: &Reference,
    fetch: Fetch,
    accept: bool,
) -> Result<Fetched, UserError> {
    let how = How { pull: fetch.pull(), locked: fetch.locked, accept };
    let judged = session.judge(reference, how).await?;
    let Judged { resolved, verdict, .. } = &judged;
    let by = verdict.signers.iter().map(|signer| signer.name.as_str()).collect::<Vec<_>>().join(", ");
    let by = if by.is_empty() { by } else { format!(", signed by {by}") };
    if reference.digest().is_none() {
        let how = match (resolved.source, judged.is_locked) {
            (_, true) => ", as locked",
            (Source::Store, false) => ", from the local store, without asking the registry",
            (Source::Registry, false) => "",
        };
        let tag = reference.requirement().and(resolved.reference.tag());
        let tag = tag.map(|tag| format!(" -> {tag}")).unwrap_or_default();
        printer::say(common, "Module", &format!("{reference}{tag} -> {}{by}{how}", resolved.digest));
    } else if !by.is_empty() {
        printer::say(common, "Module", &format!("{reference}{by}"));
    }
    warn(common, &judged.verdict, judged.is_new);
    Ok(session.fetch(reference, judged, how.pull).await?)
}

/// Tells what is wrong with the signatures of a module. That it has none is told when it comes here, not each time
/// that it is used.
pub(crate) fn warn(common: &Common, verdict: &Verdict, is_new: bool) {
    if let Some(warning) = &verdict.warning
        && (is_new || !verdict.is_unsigned || common.verbose)
    {
        printer::warn(common, warning);
    }
}

/// The key of a signer: a file, or one of those that `wfhost key new` made.
pub(crate) fn private_key(name: &str) -> Result<PrivateKey, UserError> {
    let made = keys_dir().map(|dir| dir.join(format!("{name}.key"))).filter(|path| path.is_file());
    let path = match Path::new(name) {
        path if path.is_file() => path.to_owned(),
        path => made.unwrap_or_else(|| path.to_owned()),
    };
    Ok(PrivateKey::read(&path, passphrase().as_deref())?)
}

/// The passphrase of keys that are encrypted.
pub(crate) fn passphrase() -> Option<String> {
    environment::text(environment::KEY_PASSPHRASE)
}

/// Where `wfhost key new` puts keys.
pub(crate) fn keys_dir() -> Option<PathBuf> {
    environment::config_dir().map(|dir| dir.join("keys"))
}
