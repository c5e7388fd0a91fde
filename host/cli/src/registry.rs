//! What the verbs about registries share: the client, the local store, and from a reference to a module.

use wfhost::world::environment;
use wfhost_config::Config;
use wfhost_registry::{Client, ClientOptions, Login, Logins, Pull, Reference, Sha256, Source, Store};

use super::diagnostic::Trouble;
use super::{Common, printer};

/// Whether registries are asked about a module.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Fetch {
    /// Ask no registry: what the local store has counts
    #[arg(long)]
    pub offline: bool,
    /// When a registry is asked what a tag means
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN", hide_short_help = true)]
    pub pull: PullArg,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum PullArg {
    /// Each time
    #[default]
    Always,
    /// If the local store does not know it
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
}

impl Origin {
    /// The reference with the digest that it stood for.
    pub fn exact(&self) -> String {
        match self.reference.digest() {
            Some(_) => self.reference.to_string(),
            None => format!("{}@{}", self.reference, self.digest),
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
        Trouble::host("WF0931", "there is no place for the local store: HOME is not set")
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

/// Fetches a module, and says what its reference meant.
pub(crate) async fn fetch(common: &Common, reference: &Reference, fetch: Fetch) -> Result<Fetched, Trouble> {
    let (store, client) = (store()?, client(&common.config()?, logins())?);
    let pull = fetch.pull();
    let resolved = wfhost_registry::resolve(&client, &store, reference, pull).await?;
    if reference.digest().is_none() {
        let last = match resolved.source {
            Source::Store => ", as last fetched: no registry was asked",
            Source::Registry => "",
        };
        printer::say(common, "Module", &format!("{reference} -> {}{last}", resolved.digest));
    }
    let bytes = wfhost_registry::fetch(&client, &store, &resolved, pull).await?;
    let origin = Origin { reference: reference.clone(), digest: resolved.digest };
    Ok(Fetched { name: reference.name().to_owned(), bytes, origin })
}
