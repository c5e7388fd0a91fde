//! What the configuration says of modules and where they come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wfhost_registry::policy::{Level, Pattern, Rule, Rules, Signer};
use wfhost_registry::{ClientOptions, Logins, PublicKey, Reference, keys};

use super::ConfigError;
use super::file::{RegistryFile, beside};

/// Whose signatures modules need.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignaturesFile {
    default: Option<Level>,
    #[serde(default)]
    keys: BTreeMap<String, String>,
    #[serde(default)]
    rules: Vec<RuleFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(rename = "match")]
    places: String,
    #[serde(default)]
    signers: Vec<String>,
    level: Option<Level>,
    #[serde(default)]
    provenance: bool,
}

/// How registries are spoken to.
pub(super) fn registries(files: &BTreeMap<String, RegistryFile>, logins: Logins) -> ClientOptions {
    let mut options = ClientOptions { logins, ..ClientOptions::default() };
    for (host, RegistryFile { plain_http, ca }) in files {
        let set = if *plain_http { &mut options.plain } else { &mut options.tls };
        set.insert(host.clone());
        options.certified.extend(ca.clone().map(|ca| (host.clone(), ca)));
    }
    options
}

/// What several files say together: no file takes back what another one requires.
pub(super) fn rules(files: &[(PathBuf, SignaturesFile)]) -> Result<Rules, ConfigError> {
    let mut rules = Rules { default: Level::Off, ..Rules::default() };
    let defaults = files.iter().filter_map(|(_, file)| file.default);
    rules.default = defaults.max().unwrap_or_default();
    for (path, file) in files {
        let wrong = |key: String, reason: String| ConfigError::Value { path: path.clone(), key, reason };
        let mut known = Vec::new();
        for (name, value) in &file.keys {
            let key = PublicKey::parse(value)
                .ok()
                .map_or_else(|| keys::read_public(&beside(path, Path::new(value))), Ok);
            let key = key.map_err(|error| wrong(format!("signatures.keys.{name}"), error.to_string()))?;
            known.push(Signer { name: name.clone(), key });
        }
        for RuleFile { places, signers, level, provenance } in &file.rules {
            let at = |reason: &str| wrong(format!("signatures.rules, {places:?}"), reason.to_owned());
            let pattern = Pattern::new(places).map_err(|reason| at(&format!("in `match`, {reason}")))?;
            let mut wanted = Vec::new();
            for name in signers {
                // A name means what its own file says, if it says it.
                let signer = known.iter().chain(&rules.known).find(|signer| signer.name == *name);
                let signer = signer.ok_or_else(|| at(&format!("`{name}` is not in [signatures.keys]")))?;
                wanted.push(signer.clone());
            }
            // Whoever names a place means it.
            rules.rules.push(Rule {
                places: pattern,
                level: level.unwrap_or(Level::Require),
                signers: wanted,
                provenance: *provenance,
            });
        }
        rules.known.append(&mut known);
    }
    Ok(rules)
}

/// What a name in `[modules]` stands for: a reference, or a path, which is relative to the file.
pub(super) fn module(file: &Path, name: &str, module: &str) -> Result<String, ConfigError> {
    let wrong =
        |reason: String| ConfigError::Value { path: file.to_owned(), key: format!("modules.{name}"), reason };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(wrong("a module's name consists of letters, digits, - and _".to_owned()));
    }
    if !Reference::is_meant(module) {
        return Ok(beside(file, Path::new(module)).to_string_lossy().into_owned());
    }
    let reference: Reference = module.parse().map_err(|error| wrong(format!("{error}")))?;
    Ok(reference.to_string())
}
