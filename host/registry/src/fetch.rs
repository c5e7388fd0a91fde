//! From a reference to a component: first which manifest it means, then what belongs to that one.
//! Between the two is the place where it is decided whether it is trusted.

use std::fmt;

use bytes::Bytes;
use semver::VersionReq;

use crate::manifest::{Descriptor, MANIFEST, MANIFEST_BYTES, Manifest};
use crate::{Client, Reference, RegistryError, Sha256, Store, artifact, version};

/// Versions that are named where none fits.
const SHOWN: usize = 5;

/// Whether a registry is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pull {
    /// What a tag means now. What a digest means never changes.
    #[default]
    Always,
    /// Only for what the local store does not know.
    Missing,
    Never,
}

/// Who said which manifest is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Registry,
    Store,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registry => "registry",
            Self::Store => "local store",
        })
    }
}

/// A module whose manifest is known. Nothing else of it was fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// As it was asked for; with the tag if only a requirement was.
    pub reference: Reference,
    /// Of the manifest.
    pub digest: Sha256,
    pub manifest: Manifest,
    pub layer: Descriptor,
    pub source: Source,
    bytes: Bytes,
}

impl Resolved {
    fn new(
        reference: &Reference,
        bytes: Bytes,
        said: Option<&str>,
        source: Source,
    ) -> Result<Self, RegistryError> {
        let what = reference.to_string();
        let manifest = Manifest::parse(&what, &bytes, said)?;
        let layer = artifact::layer(&what, &manifest)?.clone();
        Ok(Self { reference: reference.clone(), digest: Sha256::of(&bytes), manifest, layer, source, bytes })
    }

    /// The reference that means exactly this.
    pub fn exact(&self) -> Reference {
        self.reference.at(self.digest)
    }

    /// What names its manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(self.manifest.media_type.as_deref().unwrap_or(MANIFEST), &self.bytes)
    }

    /// The version that it says it is, if it does.
    pub fn version(&self) -> Option<&str> {
        self.manifest.annotations.get("org.opencontainers.image.version").map(String::as_str)
    }
}

/// The tags of a place, by whoever may be asked: the registry, or the local store.
pub async fn versions(
    client: &Client,
    store: &Store,
    reference: &Reference,
    pull: Pull,
) -> Result<Vec<String>, RegistryError> {
    if pull == Pull::Always {
        return client.tags(reference).await;
    }
    let place = reference.place();
    let kept = store.modules()?.into_iter().filter(|kept| kept.reference.place() == place);
    Ok(kept.filter_map(|kept| kept.reference.tag().map(str::to_owned)).collect())
}

/// The reference of the newest version that fits one that says what has to.
async fn fitting(
    client: &Client,
    store: &Store,
    reference: &Reference,
    requirement: &VersionReq,
    pull: Pull,
) -> Result<Reference, RegistryError> {
    let mut tags = versions(client, store, reference, pull).await?;
    let mut found =
        version::newest(requirement, tags.iter().map(String::as_str)).map(|(_, tag)| tag.to_owned());
    if found.is_none() && pull == Pull::Missing {
        tags = versions(client, store, reference, Pull::Always).await?;
        found = version::newest(requirement, tags.iter().map(String::as_str)).map(|(_, tag)| tag.to_owned());
    }
    if let Some(tagged) = found.and_then(|tag| reference.tagged(&tag)) {
        return Ok(tagged);
    }
    if pull == Pull::Never {
        return Err(RegistryError::Offline { reference: reference.to_string() });
    }
    let mut there: Vec<_> = tags.iter().filter_map(|tag| Some((version::of_tag(tag)?, tag))).collect();
    there.sort();
    let there = there.into_iter().rev().map(|(_, tag)| tag.clone()).take(SHOWN).collect();
    Err(RegistryError::NoVersion { reference: reference.to_string(), there })
}

/// Finds out which manifest a reference means.
pub async fn resolve(
    client: &Client,
    store: &Store,
    reference: &Reference,
    pull: Pull,
) -> Result<Resolved, RegistryError> {
    if let Some(requirement) = reference.requirement() {
        let tagged = fitting(client, store, reference, &requirement, pull).await?;
        return Box::pin(resolve(client, store, &tagged, pull)).await;
    }
    let asks_here = pull != Pull::Always || reference.digest().is_some();
    if asks_here && let Some(found) = store.find(reference)? {
        match stored(store, reference, &found) {
            Ok(Some(resolved)) => return Ok(resolved),
            // It can be had anew.
            Ok(None) | Err(RegistryError::Damaged { .. }) if pull != Pull::Never => {}
            Ok(None) => {}
            Err(error) => return Err(error),
        }
    }
    if pull == Pull::Never {
        return Err(RegistryError::Offline { reference: reference.to_string() });
    }
    let fetched = client.manifest(reference).await?;
    Resolved::new(reference, fetched.bytes, fetched.media_type.as_deref(), Source::Registry)
}

/// What the store has of a reference.
fn stored(
    store: &Store,
    reference: &Reference,
    found: &Descriptor,
) -> Result<Option<Resolved>, RegistryError> {
    let Some(bytes) = store.blob(found, MANIFEST_BYTES)? else { return Ok(None) };
    Resolved::new(reference, bytes.into(), Some(&found.media_type), Source::Store).map(Some)
}

/// The configuration of a module, from the store or the registry. It is not kept.
pub async fn configuration(
    client: &Client,
    store: &Store,
    resolved: &Resolved,
    pull: Pull,
) -> Result<(artifact::Config, Bytes), RegistryError> {
    let what = resolved.reference.to_string();
    let of = &resolved.manifest.config;
    let bytes = match local(store, of, artifact::CONFIG_BYTES, pull)? {
        Some(bytes) => bytes.into(),
        None if pull == Pull::Never => return Err(RegistryError::Offline { reference: what }),
        None => {
            let part = format!("the configuration of {what}");
            client.blob(&resolved.exact(), &part, of, artifact::CONFIG_BYTES).await?
        }
    };
    Ok((artifact::config(&what, &resolved.manifest, &bytes)?, bytes))
}

/// The bytes of a module, which is in the local store then. What does not fit is kept nowhere.
pub async fn fetch(
    client: &Client,
    store: &Store,
    resolved: &Resolved,
    pull: Pull,
) -> Result<Vec<u8>, RegistryError> {
    let what = resolved.reference.to_string();
    let (_, config) = configuration(client, store, resolved, pull).await?;
    let layer = &resolved.layer;
    let component = match local(store, layer, artifact::MODULE_BYTES, pull)? {
        Some(bytes) => {
            artifact::check_head(&what, &bytes)?;
            bytes
        }
        None if pull == Pull::Never => return Err(RegistryError::Offline { reference: what }),
        None => {
            let dir = store.prepare()?;
            let file = client.download(&resolved.exact(), &what, layer, &dir).await?;
            let failed = |source| RegistryError::Store { path: dir.clone(), source };
            let bytes = std::fs::read(file.path()).map_err(failed)?;
            artifact::check_head(&what, &bytes)?;
            store.adopt(file, layer.digest)?;
            bytes
        }
    };
    // What names the others comes last.
    store.put(&config)?;
    store.put(&resolved.bytes)?;
    store.keep(&resolved.reference, resolved.descriptor())?;
    Ok(component)
}

/// What the store has of a descriptor. What is damaged there is not there as long as it can be fetched.
fn local(store: &Store, of: &Descriptor, most: u64, pull: Pull) -> Result<Option<Vec<u8>>, RegistryError> {
    match store.blob(of, most) {
        Err(RegistryError::Damaged { .. }) if pull != Pull::Never => Ok(None),
        found => found,
    }
}
