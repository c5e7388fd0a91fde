//! The JSON documents of OCI: descriptors, manifests, indexes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wfhost_world::text::excerpt;

use crate::{RegistryError, Sha256};

/// A manifest of one thing.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// A list of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What Docker calls these two.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Bytes that a manifest may have; the specification lets registries refuse larger ones.
pub const MANIFEST_BYTES: u64 = 4 << 20;

/// What a descriptor's annotation is called that tells which tag it has.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What content is, by its digest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Sha256,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// That of some bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Sha256::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// A manifest of one thing: a configuration and layers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests: what several things are, what refers to something, or what a store holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(INDEX.to_owned()),
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// What tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Looks {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Reads a manifest of one thing. `said`: the media type that came with it. A document that could be
    /// taken for another kind is refused (compare CVE-2021-41190).
    pub fn parse(what: &str, bytes: &[u8], said: Option<&str>) -> Result<Self, RegistryError> {
        let not = |reason: String| RegistryError::NotAModule { what: what.to_owned(), reason };
        let looks: Looks = serde_json::from_slice(bytes)
            .map_err(|error| not(format!("its manifest is invalid: {}", excerpt(&error.to_string()))))?;
        let types = [said, looks.media_type.as_deref()];
        if looks.manifests.is_some() || types.iter().flatten().any(|is| [INDEX, DOCKER_LIST].contains(is)) {
            return Err(
                not("it is an index of several manifests; name one of them by its digest".to_owned()),
            );
        }
        for is in types.into_iter().flatten() {
            if ![MANIFEST, DOCKER_MANIFEST].contains(&is) {
                return Err(not(format!("its manifest is of the type `{is}`")));
            }
        }
        if let (Some(said), Some(is)) = (said, &looks.media_type)
            && said != is
        {
            return Err(not(format!(
                "its manifest was sent as `{}` but declares `{}`",
                excerpt(said),
                excerpt(is)
            )));
        }
        if looks.schema_version != Some(2) || looks.layers.is_none() {
            return Err(not("its manifest does not have schema version 2".to_owned()));
        }
        serde_json::from_slice(bytes)
            .map_err(|error| not(format!("its manifest is damaged: {}", excerpt(&error.to_string()))))
    }

    /// The bytes that are stored, whose digest names it.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Maps with text as keys and numbers: nothing of it can fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Index {
    /// Reads an index.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("{what} is not an index: {}", excerpt(&error.to_string())))?;
        match index.schema_version {
            2 => Ok(index),
            other => Err(format!("{what} has the schema version {other}")),
        }
    }

    /// The bytes that are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
