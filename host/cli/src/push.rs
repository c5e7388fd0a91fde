//! `wfhost push`

use std::collections::BTreeMap;

use serde_json::json;
use wfhost::clock;
use wfhost_registry::manifest::{Descriptor, MANIFEST, Manifest};
use wfhost_registry::metadata;
use wfhost_registry::{Artifact, Client, Provenance, Pull, Pushed, Reference, RegistryError, Sha256};

use super::diagnostic::{Exit, UserError};
use super::registry::Fetch;
use super::{Common, Format, module_arg, plugin_add, printer, registry};

/// Push a workflow or a plugin to a registry
///
/// The module becomes an OCI artifact that `wkg`, `oras` and `skopeo` can read. A tag
/// that is a full version, like 1.4.2, is not moved to other content.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost push ghcr.io/acme/reviewer:1.4.2
  wfhost push localhost:5000/me/hello:1.0.0 hello.wasm --also 1,1.0,latest
  wfhost push ghcr.io/acme/reviewer:1.4.2 . --sign acme --provenance")]
pub(crate) struct Push {
    /// The target: REGISTRY/NAME:TAG
    reference: String,
    /// A component file, a directory with a workflow, or a module by name or digest
    #[arg(default_value = ".")]
    module: String,
    /// Additional tags
    #[arg(long, value_name = "TAG,..", value_delimiter = ',')]
    also: Vec<String>,
    /// Sign the module with this key: a file, or a name given to `wfhost key new`
    #[arg(long, value_name = "KEY")]
    sign: Option<String>,
    /// Attach a signed statement of the source: repository, commit, tools. MODULE has to be a
    /// directory in which everything is committed
    #[arg(long, requires = "sign")]
    provenance: bool,
    /// Move a tag even if it is a full version
    #[arg(long)]
    force: bool,
}

/// What a tag meant before.
enum Before {
    Nothing,
    /// The same module with the same annotations, but for the time of the push.
    Same(Sha256),
    Other(Sha256),
}

impl Push {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let reference: Reference = self.reference.parse()?;
        let (Some(tag), None) = (reference.tag(), reference.digest()) else {
            return Err(UserError::usage("WF0920", format!("`{reference}` has no tag to push to"))
                .hint("for example ghcr.io/acme/reviewer:1.4.2"));
        };
        let mut tags = vec![reference.clone()];
        for also in &self.also {
            let tagged = reference.tagged(also);
            tags.push(tagged.ok_or_else(|| {
                UserError::usage("WF0920", format!("invalid tag `{also}`"))
                    .hint("a tag consists of letters, digits, and . _ -, at most 128 characters")
            })?);
        }
        if self.provenance && !std::path::Path::new(&self.module).is_dir() {
            return Err(UserError::usage(
                "WF0950",
                format!("`{}` is not a directory that can be built", self.module),
            )
            .hint("push the project itself: `wfhost push REFERENCE DIR --sign KEY --provenance`"));
        }
        let key = self.sign.as_deref().map(registry::private_key).transpose()?;
        // The database is looked into only for what is no path.
        let database =
            if std::path::Path::new(&self.module).exists() { None } else { Some(common.reader().await?) };
        let (name, bytes) =
            module_arg::load(common, database.as_deref(), &self.module, Fetch::default()).await?;
        wfhost::engine::summarize(&bytes)?;
        let wants = plugin_add::is_plugin(&bytes).then(|| plugin_add::wants_of(&bytes)).transpose()?;
        let mut described = metadata::of_component(&bytes);
        let project = std::path::Path::new(&self.module);
        let provenance = match self.provenance {
            true => Some(Provenance::of_project(project, &bytes, env!("CARGO_PKG_VERSION")).map_err(
                |reason| {
                    UserError::usage(
                        "WF0950",
                        format!("no provenance can be stated for {}: {reason}", project.display()),
                    )
                    .hint("commit all sources, and set `repository` or the remote `origin`")
                },
            )?),
            false => None,
        };
        if project.is_dir() {
            for (what, value) in metadata::of_project(project) {
                described.entry(what).or_insert(value);
            }
        }
        described.insert("title", name.clone());
        if is_version(tag) {
            // OCI's tags have no `+`.
            described.insert("version", tag.trim_start_matches('v').replace('_', "+"));
        }
        let mut annotations = metadata::annotations(described);
        let kind = if wants.is_some() { "plugin" } else { "workflow" };
        annotations.insert(metadata::KIND.to_owned(), kind.to_owned());
        // So that it can be looked at without being fetched.
        if let Some(wants) = wants.filter(|wants| !wants.is_empty())
            && let Ok(wants) = serde_json::to_string(&wants)
        {
            annotations.insert(metadata::WANTS.to_owned(), wants);
        }
        let created = clock::rfc3339(clock::now());
        let artifact = Artifact::pack(&name, bytes, created, annotations)?;
        let (client, store) = (registry::client(&common.config()?, registry::logins())?, registry::store()?);
        let mut digest = artifact.digest();
        let mut before = Vec::new();
        for tagged in &tags {
            let there = before_push(&client, tagged, &artifact).await?;
            if let Before::Other(there) = there
                && !self.force
                && tagged.tag().is_some_and(is_version)
            {
                let (reference, there) = (tagged.to_string(), there.to_string());
                return Err(RegistryError::Taken { reference, there }.into());
            }
            before.push(there);
        }
        let mut pushed = Pushed::default();
        // What is there as it is stays, so that a second push changes nothing.
        let same = before.iter().find_map(|before| match before {
            Before::Same(digest) => Some(*digest),
            _ => None,
        });
        let manifest = match same {
            Some(there) => {
                digest = there;
                client.manifest(&reference.at(there)).await?.bytes
            }
            None => {
                let layer = artifact.layer.clone().into();
                client
                    .push_blob(&reference, &format!("the module of {reference}"), &layer, &mut pushed)
                    .await?;
                let config = artifact.config.clone().into();
                client
                    .push_blob(&reference, &format!("the configuration of {reference}"), &config, &mut pushed)
                    .await?;
                artifact.manifest.clone().into()
            }
        };
        for (tagged, before) in tags.iter().zip(&before) {
            match before {
                Before::Same(there) if *there == digest => {
                    printer::say(common, "Exists", &format!("{tagged} is already {digest}"));
                }
                before => {
                    client.push_manifest(tagged, MANIFEST, &manifest).await?;
                    let moved = match before {
                        Before::Other(old) | Before::Same(old) => format!(", which was {old}"),
                        Before::Nothing => String::new(),
                    };
                    printer::say(common, "Pushed", &format!("{tagged} -> {digest}{moved}"));
                }
            }
        }
        // So that it is here without a network, and can be saved.
        store.put(&artifact.layer)?;
        if same.is_some() {
            let resolved =
                wfhost_registry::resolve(&client, &store, &reference.at(digest), Pull::Always).await?;
            wfhost_registry::fetch(&client, &store, &resolved, Pull::Always).await?;
        } else {
            store.put(&artifact.config)?;
            store.put(&manifest)?;
        }
        for tagged in &tags {
            store.keep(tagged, Descriptor::of(MANIFEST, &manifest))?;
        }
        let exact = reference.at(digest).to_string();
        if let Some(key) = &key {
            let resolved =
                wfhost_registry::resolve(&client, &store, &reference.at(digest), Pull::Always).await?;
            super::sign::attach(common, &client, &store, &resolved, key).await?;
            if let Some(provenance) = &provenance {
                super::sign::attach_provenance(common, &client, &store, &resolved, provenance, key).await?;
            }
        }
        match common.output {
            Format::Text => printer::line(&exact),
            Format::Json | Format::Jsonl => printer::json(&json!({
                "schema": "wfhost/pushed/1", "reference": exact, "manifest": digest,
                "layer": Sha256::of(&artifact.layer), "digest": wfhost_core::Digest::of(&artifact.layer),
                "tags": tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "bytes": { "sent": pushed.sent, "there": pushed.there },
            })),
        }
        Ok(Exit::Done)
    }
}

/// What a tag means now, compared with what is about to be pushed.
async fn before_push(client: &Client, tagged: &Reference, artifact: &Artifact) -> Result<Before, UserError> {
    let Some(there) = client.find_manifest(tagged).await? else { return Ok(Before::Nothing) };
    let said = there.media_type.as_deref();
    let what = tagged.to_string();
    let without_time = |bytes: &[u8], said| -> Option<(Sha256, BTreeMap<String, String>)> {
        let manifest = Manifest::parse(&what, bytes, said).ok()?;
        let layer = wfhost_registry::artifact::layer(&what, &manifest).ok()?.digest;
        let mut annotations = manifest.annotations;
        annotations.remove("org.opencontainers.image.created");
        Some((layer, annotations))
    };
    let ours = without_time(&artifact.manifest, None);
    Ok(match without_time(&there.bytes, said) {
        theirs if theirs.is_some() && theirs == ours => Before::Same(there.digest),
        _ => Before::Other(there.digest),
    })
}

/// Whether a tag is a full version, as semver has it.
pub(crate) fn is_version(tag: &str) -> bool {
    let core = tag.split(['-', '_']).next().unwrap_or(tag);
    let core = core.strip_prefix('v').unwrap_or(core);
    let parts: Vec<_> = core.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    parts.len() == 3 && parts.iter().all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_versions_are_told_from_other_tags() {
        for (tag, full) in [
            ("1.4.2", true),
            ("v1.4.2", true),
            ("1.4.2-rc.1_b7", true),
            ("1.4", false),
            ("1", false),
            ("latest", false),
            ("1..2", false),
            ("1.2.3.4", false),
            ("1.2.x", false),
        ] {
            assert_eq!(is_version(tag), full, "{tag}");
        }
    }
}
