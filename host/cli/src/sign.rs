//! `wfhost sign`, and `wfhost verify` of a module

use std::path::Path;

use serde_json::json;
use wfhost::clock;
use wfhost_registry::policy::{Level, Pattern, Rule, Rules, Signer};
use wfhost_registry::{
    Client, PrivateKey, Provenance, Pull, Reference, RegistryError, Resolved, Store, keys, provenance,
    signature,
};

use super::diagnostic::{Exit, UserError};
use super::registry::{self, Fetch, Others};
use super::{Common, Format, printer, rebuild};

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
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
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
) -> Result<(), UserError> {
    let created = clock::rfc3339(clock::now());
    let word = match signature::attach(client, store, resolved, key, created).await? {
        true => "Signed",
        false => "Exists",
    };
    printer::say(common, word, &format!("{} by the key {}", resolved.exact(), key.public().id()));
    Ok(())
}

/// Says where what was resolved comes from.
pub(crate) async fn attach_provenance(
    common: &Common,
    client: &Client,
    store: &Store,
    resolved: &Resolved,
    said: &Provenance,
    key: &PrivateKey,
) -> Result<(), UserError> {
    let now = clock::rfc3339(clock::now());
    let word = match provenance::attach(client, store, resolved, said, key, now).await? {
        true => "Provenance",
        false => "Exists",
    };
    printer::say(common, word, &built_from(said));
    Ok(())
}

/// Where something was built from, on one line.
pub(crate) fn built_from(said: &Provenance) -> String {
    let path = if said.path.is_empty() { String::new() } else { format!(", directory {}", said.path) };
    format!("built from {} at {}{path}", said.source, said.revision)
}

pub(crate) fn provenance_view(by: &str, said: &Provenance) -> serde_json::Value {
    json!({
        "by": by, "source": said.source, "revision": said.revision, "path": said.path, "layer": said.layer,
        "wfhost": said.wfhost, "tools": said.tools, "locks": said.locks,
    })
}

/// How a module is built again.
pub(crate) struct Rebuild<'a> {
    /// Where its source is, instead of where it is said to be.
    pub source: Option<&'a str>,
    pub yes: bool,
}

/// Looks at the signatures of a module. Fails without a good one, whatever the level of its place is.
pub(crate) async fn verify(
    common: &Common,
    reference: &Reference,
    key: Option<&Path>,
    fetch: Fetch,
    rebuild: Option<Rebuild<'_>>,
) -> Result<Exit, UserError> {
    let mut session = registry::open(common)?;
    if let Some(path) = key {
        let signer = Signer { name: path.display().to_string(), key: keys::read_public(path)? };
        let rule = Pattern::new("*/*").ok().map(|places| Rule {
            places,
            level: Level::Require,
            signers: vec![signer.clone()],
            provenance: false,
        });
        session.rules =
            Rules { default: Level::Require, known: vec![signer], rules: rule.into_iter().collect() };
    }
    // What may go unsigned is to be told all the same.
    if session.rules.level(reference) != Level::Require {
        session.rules.default = Level::Require;
        session.rules.rules.retain(|rule| rule.level == Level::Require || !rule.places.has(reference));
    }
    let exact = session.pinned(reference).map_or_else(|| reference.clone(), |(_, exact)| exact);
    let (resolved, verdict) = session.resolve(&exact, fetch.pull(), Others::Ignore).await?;
    let names: Vec<_> = verdict.signers.iter().map(|signer| signer.name.clone()).collect();
    if names.is_empty() {
        let (reference, wanted) = (reference.to_string(), Vec::new());
        return Err(RegistryError::Unsigned { reference, wanted }.into());
    }
    let said =
        provenance::find(&session.client, &session.store, &resolved, &verdict.signers, fetch.pull()).await?;
    if common.output == Format::Text {
        printer::line(format!("{}  signed by {}", resolved.exact(), names.join(", ")));
        for (by, said) in &said {
            printer::line(format!("  {}, according to {by}", built_from(said)));
        }
    }
    let rebuilt = match rebuild {
        None => None,
        Some(Rebuild { source, yes }) => {
            let Some((_, said)) = said.first() else {
                let message = format!("{reference} has no provenance by an accepted signer");
                return Err(UserError::usage("WF0950", message).hint(
                    "nothing was built; `wfhost push REFERENCE DIR --sign KEY --provenance` attaches it",
                ));
            };
            let question = format!("build {}, which runs its build scripts?", said.source);
            super::delete::ask(
                yes,
                &question,
                "building runs code of the source on this machine: confirm it with --yes",
            )?;
            let bytes =
                wfhost_registry::fetch(&session.client, &session.store, &resolved, fetch.pull()).await?;
            Some((rebuild::rebuild(common, said, source, &bytes)?, said))
        }
    };
    if common.output != Format::Text {
        let views: Vec<_> = said.iter().map(|(by, said)| provenance_view(by, said)).collect();
        printer::json(&json!({
            "schema": "wfhost/signed/1", "reference": resolved.exact().to_string(),
            "manifest": resolved.digest, "signers": names, "provenance": views,
            "rebuilt": rebuilt.as_ref().map(|(rebuilt, _)| rebuilt.view()),
        }));
    }
    if let Some((rebuilt, said)) = rebuilt {
        let digest = rebuilt.digest;
        if let Some(trouble) = rebuilt.error(said, &reference.to_string()) {
            return Err(trouble);
        }
        printer::say(common, "Same", &format!("the rebuilt module is identical: {digest}"));
    }
    Ok(Exit::Done)
}
