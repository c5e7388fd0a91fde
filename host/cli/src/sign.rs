//! `wfhost sign`, and `wfhost verify` of a module

use std::path::Path;

use serde_json::json;
use wfhost::clock;
use wfhost_registry::policy::{Level, Pattern, Rule, Rules, Signer};
use wfhost_registry::{Client, PrivateKey, Pull, Reference, RegistryError, Resolved, Store, keys, signature};

use super::diagnostic::{Exit, Trouble};
use super::registry::{self, Fetch, Others, Session};
use super::{Common, Format, printer};

/// Sign a module in a registry
///
/// The signature is a sigstore bundle made with a key, attached to the module's
/// manifest as cosign does it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost sign ghcr.io/acme/reviewer:1.4.2 --key acme")]
pub(crate) struct Sign {
    /// The module: REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST
    reference: String,
    /// The key: a file, or a name given to `wfhost key new`
    #[arg(long, value_name = "KEY")]
    key: String,
}

impl Sign {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let reference: Reference = self.reference.parse()?;
        let key = registry::private_key(&self.key)?;
        let (client, store) = (registry::client(&common.config()?, registry::logins())?, registry::store()?);
        let resolved = wfhost_registry::resolve(&client, &store, &reference, Pull::Always).await?;
        attach(common, &client, &store, &resolved, &key).await?;
        match common.output {
            Format::Text => printer::line(resolved.exact().to_string()),
            Format::Json | Format::Jsonl => printer::json(&json!({
                "schema": "wfhost/signed/1", "reference": resolved.exact().to_string(),
                "manifest": resolved.digest, "key": key.public().to_base64(),
            })),
        }
        Ok(Exit::Done)
    }
}

/// Signs what was resolved.
pub(crate) async fn attach(
    common: &Common,
    client: &Client,
    store: &Store,
    resolved: &Resolved,
    key: &PrivateKey,
) -> Result<(), Trouble> {
    let created = clock::rfc3339(clock::now());
    let word = match signature::attach(client, store, resolved, key, created).await? {
        true => "Signed",
        false => "Exists",
    };
    printer::say(common, word, &format!("{} by the key {}", resolved.exact(), key.public().id()));
    Ok(())
}

/// Looks at the signatures of a module. Fails without a good one, whatever the level of its place is.
pub(crate) async fn verify(
    common: &Common,
    reference: &Reference,
    key: Option<&Path>,
    fetch: Fetch,
) -> Result<Exit, Trouble> {
    let mut session = Session::open(common)?;
    if let Some(path) = key {
        let signer = Signer { name: path.display().to_string(), key: keys::read_public(path)? };
        let rule = Pattern::new("*/*").map(|places| Rule {
            places,
            level: Level::Require,
            signers: vec![signer.clone()],
        });
        session.rules =
            Rules { default: Level::Require, known: vec![signer], rules: rule.into_iter().collect() };
    }
    // What may go unsigned is to be told all the same.
    if session.rules.level(reference) != Level::Require {
        session.rules.default = Level::Require;
        session
            .rules
            .rules
            .retain(|rule| rule.level == Level::Require || !rule.places.has(&reference.place()));
    }
    let exact = session.pinned(reference).map_or_else(|| reference.clone(), |(_, exact)| exact);
    let (resolved, verdict) = session.resolve(&exact, fetch.pull(), Others::Locked).await?;
    let names: Vec<_> = verdict.signers.iter().map(|signer| signer.name.as_str()).collect();
    if names.is_empty() {
        let (reference, wanted) = (reference.to_string(), Vec::new());
        return Err(RegistryError::Unsigned { reference, wanted }.into());
    }
    match common.output {
        Format::Text => printer::line(format!("{}  signed by {}", resolved.exact(), names.join(", "))),
        Format::Json | Format::Jsonl => printer::json(&json!({
            "schema": "wfhost/signed/1", "reference": resolved.exact().to_string(),
            "manifest": resolved.digest, "signers": names,
        })),
    }
    Ok(Exit::Done)
}
