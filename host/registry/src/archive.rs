//! Modules in one file, with their signatures: an OCI archive, which is a tar file of an image layout.
//! `skopeo copy oci-archive:FILE` and `oras` read it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Component, Path};

use crate::manifest::{Descriptor, Index, MANIFEST_BYTES, Manifest, REF_NAME};
use crate::signature;
use crate::{Reference, RegistryError, Sha256, Store, artifact, whole};

/// Bytes of `index.json` in an archive.
const INDEX_BYTES: u64 = 16 << 20;
/// What the archive says of itself.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What an archive may have, so that what is saved can be loaded.
#[derive(Clone, Copy, Debug)]
struct Limits {
    files: usize,
    /// Of all files.
    bytes: u64,
}

const LIMITS: Limits = Limits { files: 10_000, bytes: 16 * artifact::MODULE_BYTES };

/// Writes modules of the local store, with their signatures. Gives how many blobs it wrote.
///
/// # Errors
///
/// One of them is not in the store; they are more than an archive may have; the file cannot be written.
pub fn save(store: &Store, references: &[Reference], to: &Path) -> Result<usize, RegistryError> {
    save_within(store, references, to, LIMITS)
}

fn save_within(
    store: &Store,
    references: &[Reference],
    to: &Path,
    limits: Limits,
) -> Result<usize, RegistryError> {
    let mut index = Index::default();
    let mut blobs = BTreeSet::new();
    for reference in references {
        let offline = || RegistryError::Offline { reference: reference.to_string() };
        let found = store.find(reference)?.ok_or_else(offline)?;
        let bytes = store.blob(&found, MANIFEST_BYTES)?.ok_or_else(offline)?;
        let manifest = Manifest::parse(&reference.to_string(), &bytes, Some(&found.media_type))?;
        let layer = artifact::layer(&reference.to_string(), &manifest)?;
        blobs.extend([found.digest, manifest.config.digest, layer.digest]);
        for (attached, bundle) in signature::kept_manifests(store, found.digest)? {
            let bytes = store.blob(&attached, MANIFEST_BYTES)?.ok_or_else(offline)?;
            let manifest = Manifest::parse("a signature", &bytes, None)?;
            blobs.extend([attached.digest, bundle.digest, manifest.config.digest]);
            if !index.manifests.contains(&attached) {
                index.manifests.push(attached);
            }
        }
        index.manifests.push(found);
    }
    let index = index.to_bytes();
    let sizes = blobs.iter().map(|digest| store.path_of(*digest).metadata().map_or(0, |file| file.len()));
    let bytes = sizes.sum::<u64>() + (LAYOUT.len() + index.len()) as u64;
    let files = blobs.len() + 2;
    if files > limits.files || bytes > limits.bytes {
        let Limits { files: most_files, bytes: most_bytes } = limits;
        return Err(RegistryError::Unsaved { path: to.to_owned(), files, bytes, most_files, most_bytes });
    }
    let failed = |reason: String| RegistryError::Archive { path: to.to_owned(), reason };
    whole::write_named_by(to, Some(0o600), |file| write(store, &index, &blobs, file)).map_err(
        |unwritten| match unwritten {
            Unwritten::File(error) => failed(error.to_string()),
            Unwritten::Store(error) => error,
        },
    )?;
    Ok(blobs.len())
}

/// Why an archive could not be written.
#[derive(Debug)]
enum Unwritten {
    File(std::io::Error),
    Store(RegistryError),
}

impl From<std::io::Error> for Unwritten {
    fn from(error: std::io::Error) -> Self {
        Self::File(error)
    }
}

/// Writes an archive with this index and these blobs of a store.
fn write(
    store: &Store,
    index: &[u8],
    blobs: &BTreeSet<Sha256>,
    to: &mut std::fs::File,
) -> Result<(), Unwritten> {
    let mut tar = tar::Builder::new(std::io::BufWriter::new(to));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, name, bytes)
    };
    add("oci-layout", LAYOUT)?;
    add("index.json", index)?;
    for digest in blobs {
        let bytes = store.read(*digest, artifact::MODULE_BYTES).map_err(Unwritten::Store)?;
        let missing = || RegistryError::Damaged {
            path: store.root().to_owned(),
            reason: format!("{digest} is missing"),
        };
        let bytes = bytes.ok_or_else(missing).map_err(Unwritten::Store)?;
        add(&format!("blobs/sha256/{}", digest.hex()), &bytes)?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

/// Reads an archive into the local store: all of it, or nothing. Gives what the modules are called.
///
/// # Errors
///
/// It is no archive of modules, is damaged, or has more than one may have; the store cannot be written.
pub fn load(store: &Store, from: &Path) -> Result<Vec<Reference>, RegistryError> {
    load_within(store, from, LIMITS)
}

fn load_within(store: &Store, from: &Path, limits: Limits) -> Result<Vec<Reference>, RegistryError> {
    let failed = |reason: String| RegistryError::Archive { path: from.to_owned(), reason };
    let file = std::fs::File::open(from).map_err(|error| failed(error.to_string()))?;
    // What is read is put into a store of its own first.
    let dir = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
    let beside = Store::new(dir.path().join("modules"));
    let mut index = None;
    let mut tar = tar::Archive::new(std::io::BufReader::new(file));
    let entries = tar.entries().map_err(|error| failed(error.to_string()))?;
    let mut bytes_in_all = 0u64;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| failed(format!("it is not a module archive: {error}")))?;
        if count >= limits.files {
            return Err(failed(format!("it has more than {} files", limits.files)));
        }
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let path = entry.path().map_err(|error| failed(error.to_string()))?.into_owned();
        let plain = path.components().filter(|part| *part != Component::CurDir);
        let name: Vec<_> = plain.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        let name = name.join("/");
        if !entry.header().entry_type().is_file() {
            return Err(failed(format!("`{name}` is not a regular file")));
        }
        let most = if name == "index.json" { INDEX_BYTES } else { artifact::MODULE_BYTES };
        let size = entry.size();
        if size > most {
            let what = format!("`{name}` of {}", from.display());
            return Err(RegistryError::TooLarge { what, bytes: size, most });
        }
        bytes_in_all = bytes_in_all.saturating_add(size);
        if bytes_in_all > limits.bytes {
            return Err(failed(format!("its files have more than {} bytes in all", limits.bytes)));
        }
        let mut bytes = Vec::new();
        let read = entry.by_ref().take(most).read_to_end(&mut bytes);
        read.map_err(|error| failed(format!("`{name}` cannot be read: {error}")))?;
        if bytes.len() as u64 != size {
            return Err(failed(format!("`{name}` is truncated")));
        }
        match name.strip_prefix("blobs/sha256/") {
            Some(hex) => {
                let digest: Sha256 =
                    format!("sha256:{hex}").parse().map_err(|_| failed(format!("`{name}` is not a blob")))?;
                let found = Sha256::of(&bytes);
                if found != digest {
                    let what = format!("`{name}` of {}", from.display());
                    return Err(RegistryError::Digest {
                        what,
                        expected: digest.to_string(),
                        found: found.to_string(),
                    });
                }
                beside.put(&bytes)?;
            }
            None if name == "index.json" => {
                index = Some(Index::parse("index.json", &bytes).map_err(failed)?);
            }
            None if name == "oci-layout" => {}
            None => return Err(failed(format!("`{name}` does not belong in a module archive"))),
        }
    }
    let index = index.ok_or_else(|| failed("it has no index.json".to_owned()))?;
    let mut modules: Vec<(Reference, Descriptor)> = Vec::new();
    let mut attached: Vec<Descriptor> = Vec::new();
    let mut blobs = Vec::new();
    for descriptor in index.manifests {
        let missing = |digest: Sha256| failed(format!("{digest} is missing in it"));
        let bytes = beside.blob(&descriptor, MANIFEST_BYTES)?.ok_or_else(|| missing(descriptor.digest))?;
        let what =
            descriptor.annotations.get(REF_NAME).cloned().unwrap_or_else(|| descriptor.digest.to_string());
        let manifest = Manifest::parse(&what, &bytes, Some(&descriptor.media_type))?;
        let parts: Vec<Descriptor> = match descriptor.annotations.get(REF_NAME) {
            Some(name) => {
                let reference: Reference = name.parse()?;
                let layer = artifact::layer(&what, &manifest)?.clone();
                let config = beside.blob(&manifest.config, artifact::CONFIG_BYTES)?;
                artifact::config(&what, &manifest, &config.ok_or_else(|| missing(manifest.config.digest))?)?;
                let component = beside.blob(&layer, artifact::MODULE_BYTES)?;
                artifact::check_head(&what, &component.ok_or_else(|| missing(layer.digest))?)?;
                modules.push((reference, descriptor.clone()));
                vec![manifest.config.clone(), layer]
            }
            None if manifest.artifact_type.as_deref() == Some(signature::BUNDLE) => {
                let of = Descriptor { artifact_type: manifest.artifact_type.clone(), ..descriptor.clone() };
                attached.push(of);
                [vec![manifest.config.clone()], manifest.layers.clone()].concat()
            }
            None => continue,
        };
        blobs.push(descriptor.digest);
        for part in parts {
            beside.blob(&part, artifact::MODULE_BYTES)?.ok_or_else(|| missing(part.digest))?;
            blobs.push(part.digest);
        }
    }
    if modules.is_empty() {
        return Err(failed("it contains no named module".to_owned()));
    }
    // One after the other: all of them are more than memory has to hold.
    for digest in blobs {
        let missing = || failed(format!("{digest} is missing in it"));
        store.put(&beside.read(digest, artifact::MODULE_BYTES)?.ok_or_else(missing)?)?;
    }
    for descriptor in attached {
        store.keep_referrer(descriptor)?;
    }
    let mut names = Vec::new();
    for (reference, descriptor) in modules {
        store.keep(&reference, descriptor)?;
        names.push(reference);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Kept;
    use crate::manifest::MANIFEST;

    /// A store with modules of these names.
    fn store(dir: &Path, names: &[&str]) -> (Store, Vec<Reference>) {
        let store = Store::new(dir.join("modules"));
        let keep = |name: &&str| {
            // An empty component with a section that tells it from others.
            let section = [&[0, name.len() as u8 + 1, name.len() as u8][..], name.as_bytes()].concat();
            let component = [b"\0asm\x0d\0\x01\0".as_slice(), &section].concat();
            let created = "2026-01-01T00:00:00Z".to_owned();
            let packed = artifact::Artifact::pack(name, component, created, BTreeMap::new()).unwrap();
            for bytes in [&packed.manifest, &packed.config, &packed.layer] {
                store.put(bytes).unwrap();
            }
            let reference: Reference = format!("ghcr.io/a/{name}:1").parse().unwrap();
            store.keep(&reference, Descriptor::of(MANIFEST, &packed.manifest)).unwrap();
            reference
        };
        let references = names.iter().map(keep).collect();
        (store, references)
    }

    /// What an archive has.
    fn has(archive: &Path) -> Limits {
        let mut tar = tar::Archive::new(std::fs::File::open(archive).unwrap());
        let sizes: Vec<u64> = tar.entries().unwrap().map(|entry| entry.unwrap().size()).collect();
        Limits { files: sizes.len(), bytes: sizes.iter().sum() }
    }

    #[test]
    fn what_is_saved_can_be_loaded_and_what_cannot_is_not_saved() {
        let dir = tempfile::tempdir().unwrap();
        let (from, references) = store(dir.path(), &["one", "two"]);
        let file = dir.path().join("modules.tar");
        assert_eq!(save(&from, &references, &file).unwrap(), 6);
        let has = has(&file);
        std::fs::remove_file(&file).unwrap();
        for less in [Limits { files: has.files - 1, ..has }, Limits { bytes: has.bytes - 1, ..has }] {
            let error = save_within(&from, &references, &file, less).unwrap_err();
            assert!(matches!(error, RegistryError::Unsaved { .. }), "{error}");
            assert!(!file.exists());
            save_within(&from, &references, &file, has).unwrap();
            let to = Store::new(dir.path().join("refused"));
            let error = load_within(&to, &file, less).unwrap_err().to_string();
            assert!(error.contains("more than") && !to.root().exists(), "{error}");
            std::fs::remove_file(&file).unwrap();
        }
        save_within(&from, &references, &file, has).unwrap();
        let to = Store::new(dir.path().join("loaded"));
        assert_eq!(load_within(&to, &file, has).unwrap(), references);
        for Kept { descriptor, .. } in to.modules().unwrap() {
            assert!(to.blob(&descriptor, MANIFEST_BYTES).unwrap().is_some());
        }
    }

    #[test]
    fn what_is_no_file_is_written_to_and_a_link_leads_to_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let (from, references) = store(dir.path(), &["one"]);
        let file = dir.path().join("modules.tar");
        save(&from, &references, &file).unwrap();
        let archive = std::fs::read(&file).unwrap();
        std::fs::write(&file, "old").unwrap();
        let link = dir.path().join("link.tar");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        save(&from, &references, &link).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), archive);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read(pipe).unwrap()
        });
        save(&from, &references, &pipe).unwrap();
        // Whoever reads has the whole of it, and the next one finds the pipe where it was.
        use std::os::unix::fs::FileTypeExt;
        assert!(pipe.symlink_metadata().unwrap().file_type().is_fifo());
        assert_eq!(reader.join().unwrap(), archive);
    }
}
