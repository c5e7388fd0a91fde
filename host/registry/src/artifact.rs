//! A module as registries keep it: the CNCF's layout of OCI artifacts for WebAssembly, with one layer
//! that is the component (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};
use wfhost_core::{Description, Json};
use wfhost_world::text::excerpt;

use crate::manifest::{Descriptor, MANIFEST, Manifest};
use crate::{RegistryError, Sha256};

/// The type of the configuration, by which such artifacts are told.
pub const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The type of the only layer.
pub const LAYER: &str = "application/wasm";
/// Bytes of a configuration.
pub const CONFIG_BYTES: u64 = 1 << 20;
/// Bytes of a module: what the engine takes.
pub const MODULE_BYTES: u64 = 128 << 20;

/// What annotation a tool that extracts layers names the file after.
pub const TITLE: &str = "org.opencontainers.image.title";

/// The configuration of an artifact.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// RFC 3339.
    pub created: String,
    #[serde(default)]
    pub author: Option<String>,
    pub architecture: String,
    pub os: String,
    pub layer_digests: Vec<Sha256>,
    #[serde(default)]
    pub component: Option<Component>,
    /// What the workflow says of itself, as in its section `wfhost:describe`: so it is known without the layer.
    #[serde(default, rename = "wfhost:describe", skip_serializing_if = "Option::is_none")]
    pub describe: Option<Json>,
}

/// What a component needs and gives.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Component {
    #[serde(default)]
    pub exports: Vec<String>,
    #[serde(default)]
    pub imports: Vec<String>,
    #[serde(default)]
    pub target: Option<String>,
}

/// A module with the documents that it is pushed with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Artifact {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
}

impl Artifact {
    /// Packs a component. `created`: RFC 3339. The same arguments give the same bytes.
    pub fn pack(
        name: &str,
        component: Vec<u8>,
        created: String,
        mut annotations: BTreeMap<String, String>,
    ) -> Result<Self, RegistryError> {
        let what = format!("`{name}`");
        if component.len() as u64 > MODULE_BYTES {
            let bytes = component.len() as u64;
            return Err(RegistryError::TooLarge { what, bytes, most: MODULE_BYTES });
        }
        check_head(&what, &component)?;
        let (imports, exports) = interface(&component)
            .map_err(|error| RegistryError::NotAModule { what, reason: format!("it is damaged: {error}") })?;
        // One that is too large for a configuration is in the layer only, and one that is none is none here, too.
        let describe = Description::of(&component).ok().flatten().map(|said| said.to_bytes());
        let describe = describe.filter(|said| said.len() as u64 <= CONFIG_BYTES / 2);
        let describe =
            describe.and_then(|said| String::from_utf8(said).ok()).and_then(|said| Json::parse(said).ok());
        let author = annotations.get("org.opencontainers.image.authors").cloned();
        let mut layer = Descriptor::of(LAYER, &component);
        layer.annotations.insert(TITLE.to_owned(), format!("{name}.wasm"));
        let config = Config {
            created: created.clone(),
            author,
            architecture: "wasm".to_owned(),
            os: "wasip2".to_owned(),
            layer_digests: vec![layer.digest],
            component: Some(Component { exports, imports, target: None }),
            describe,
        };
        let config = serde_json::to_vec(&config).unwrap_or_default();
        annotations.insert("org.opencontainers.image.created".to_owned(), created);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(CONFIG, &config),
            layers: vec![layer],
            subject: None,
            annotations,
        };
        Ok(Self { manifest: manifest.to_bytes(), config, layer: component })
    }

    /// The digest that names it.
    pub fn digest(&self) -> Sha256 {
        Sha256::of(&self.manifest)
    }
}

/// The one layer of a manifest that is a module's.
pub fn layer<'a>(what: &str, manifest: &'a Manifest) -> Result<&'a Descriptor, RegistryError> {
    let not = |reason: String| RegistryError::NotAModule { what: what.to_owned(), reason };
    if manifest.config.media_type != CONFIG {
        return Err(not(format!("its configuration is of the type `{}`", manifest.config.media_type)));
    }
    let [layer] = manifest.layers.as_slice() else {
        return Err(not(format!("it has {} layers instead of one", manifest.layers.len())));
    };
    if layer.media_type != LAYER {
        return Err(not(format!("its layer is of the type `{}`", layer.media_type)));
    }
    let sizes = [("its configuration", &manifest.config, CONFIG_BYTES), ("it", layer, MODULE_BYTES)];
    for (part, Descriptor { size, .. }, most) in sizes {
        if *size > most {
            let what = if part == "it" { what.to_owned() } else { format!("the configuration of {what}") };
            return Err(RegistryError::TooLarge { what, bytes: *size, most });
        }
    }
    Ok(layer)
}

/// Reads the configuration and compares it with the manifest.
pub fn config(what: &str, manifest: &Manifest, bytes: &[u8]) -> Result<Config, RegistryError> {
    let not = |reason: String| RegistryError::NotAModule { what: what.to_owned(), reason };
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|error| not(format!("its configuration cannot be read: {}", excerpt(&error.to_string()))))?;
    if config.architecture != "wasm" {
        return Err(not(format!("it is for the architecture `{}`", excerpt(&config.architecture))));
    }
    if config.os == "wasip1" {
        return Err(not("it is a core module, not a component".to_owned()));
    }
    let layers: Vec<_> = manifest.layers.iter().map(|layer| layer.digest).collect();
    if config.layer_digests != layers {
        return Err(not("its configuration names different layers than its manifest".to_owned()));
    }
    Ok(config)
}

/// Whether bytes begin as a component does.
pub fn check_head(what: &str, bytes: &[u8]) -> Result<(), RegistryError> {
    let reason = match bytes {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', ..] => "it is a core module, not a component",
        [] => "it is empty",
        _ => "it is not WebAssembly",
    };
    Err(RegistryError::NotAModule { what: what.to_owned(), reason: reason.to_owned() })
}

/// The names that a component imports and exports.
fn interface(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), wasmparser::BinaryReaderError> {
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0usize);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn packed() -> Artifact {
        Artifact::pack("hello", COMPONENT.to_vec(), "2026-01-01T00:00:00Z".into(), BTreeMap::new()).unwrap()
    }

    #[test]
    fn what_is_packed_is_a_module() {
        let artifact = packed();
        let manifest = Manifest::parse("it", &artifact.manifest, Some(MANIFEST)).unwrap();
        let of = layer("it", &manifest).unwrap();
        assert_eq!((of.digest, of.size), (Sha256::of(COMPONENT), COMPONENT.len() as u64));
        assert_eq!(manifest.config.digest, Sha256::of(&artifact.config));
        config("it", &manifest, &artifact.config).unwrap();
        assert_eq!(artifact, packed(), "nothing of it depends on the time");
    }

    #[test]
    fn what_is_none_is_refused() {
        let good: serde_json::Value = serde_json::from_slice(&packed().manifest).unwrap();
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut manifest = good.clone();
            change(&mut manifest);
            let bytes = serde_json::to_vec(&manifest).unwrap();
            let said = manifest["mediaType"].as_str().map(str::to_owned);
            Manifest::parse("it", &bytes, said.as_deref())
                .and_then(|manifest| layer("it", &manifest).cloned())
                .unwrap_err()
                .to_string()
        };
        let layer = good["layers"][0].clone();
        type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
        let cases: &[(Change<'_>, &str)] = &[
            (&|m| m["layers"] = vec![layer.clone(), layer.clone()].into(), "it has 2 layers instead of one"),
            (&|m| m["layers"] = serde_json::json!([]), "it has 0 layers"),
            (&|m| m["manifests"] = serde_json::json!([]), "an index of several manifests"),
            (&|m| m["mediaType"] = super::super::manifest::INDEX.into(), "an index of several manifests"),
            (&|m| m["mediaType"] = "text/html".into(), "of the type `text/html`"),
            (
                &|m| m["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into(),
                "its configuration is of",
            ),
            (&|m| m["layers"][0]["mediaType"] = "application/x-tar".into(), "its layer is of the type"),
            (&|m| m["layers"][0]["size"] = (1u64 << 40).into(), "is too large"),
            (&|m| m["layers"][0]["size"] = (-1).into(), "damaged"),
            (&|m| m["layers"][0]["digest"] = "sha256:12".into(), "damaged"),
            (&|m| m["schemaVersion"] = 1.into(), "schema version 2"),
        ];
        for (change, expected) in cases {
            let error = changed(change);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn core_modules_and_other_files_are_not_packed() {
        for bytes in [&b"\0asm\x01\0\0\0"[..], b"", b"#!/bin/sh", b"\x7fELF"] {
            let packed = Artifact::pack("x", bytes.to_vec(), String::new(), BTreeMap::new());
            assert!(matches!(packed, Err(RegistryError::NotAModule { .. })), "{bytes:?}");
        }
    }
}
