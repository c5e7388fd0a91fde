//! The local store of modules. It *is* an OCI image layout, so that other tools read and write it:
//! content by digest below `blobs/sha256/`, and `index.json`, which says what is called how. It is
//! changed under a lock, and files are written beside their place and renamed, so that each is there
//! whole or not at all. Content is checked against its digest whenever it is read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use wfhost_world::private;

use crate::manifest::{Descriptor, Index, REF_NAME};
use crate::{Reference, RegistryError, Sha256, whole};

/// The file that says what the directory is, and what stands in it.
const LAYOUT: &str = "oci-layout";
const LAYOUT_VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Bytes of `index.json`.
const INDEX_BYTES: u64 = 64 << 20;
/// What new blobs are called until they have their names.
pub(crate) const BLOB: &str = "blob";
const INDEX_FILE: &str = "index.json";
/// Who may read what is written.
const MODE: u32 = 0o600;
/// Where something comes from that has no tag any more.
const PLACE: &str = "dev.wfhost.place";

/// A store in a directory.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A module in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    pub reference: Reference,
    /// Of its manifest.
    pub descriptor: Descriptor,
}

impl Store {
    /// The store in a directory, which is made when something is kept.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn failed(&self) -> impl Fn(io::Error) -> RegistryError {
        |source| RegistryError::Store { path: self.root.clone(), source }
    }

    fn damaged(&self, reason: String) -> RegistryError {
        RegistryError::Damaged { path: self.root.clone(), reason }
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Where the content of a digest is, if it is there.
    pub fn path_of(&self, digest: Sha256) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Makes the directories, and says what they are. Gives where blobs are written.
    pub fn prepare(&self) -> Result<PathBuf, RegistryError> {
        let blobs = self.blobs();
        DirBuilder::new().recursive(true).mode(0o700).create(&blobs).map_err(self.failed())?;
        // What is fetched again may not have to be written again.
        whole::sweep(&blobs, BLOB);
        whole::sweep(&self.root, INDEX_FILE);
        let layout = self.root.join(LAYOUT);
        if !layout.exists() {
            whole::replace(&layout, LAYOUT_VERSION.as_bytes(), MODE).map_err(self.failed())?;
        }
        Ok(blobs)
    }

    /// The content of a descriptor; none if it is not there.
    pub fn blob(&self, of: &Descriptor, most: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        if of.size > most {
            let what = format!("{} in the local store", of.digest);
            return Err(RegistryError::TooLarge { what, bytes: of.size, most });
        }
        let Some(bytes) = self.read(of.digest, of.size)? else { return Ok(None) };
        if bytes.len() as u64 != of.size {
            return Err(self.damaged(format!("{} does not have the expected size", of.digest)));
        }
        Ok(Some(bytes))
    }

    /// The content of a digest with at most so many bytes, checked.
    pub fn read(&self, digest: Sha256, most: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        let file = match File::open(self.path_of(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed()(error)),
        };
        let bytes = private::read_to(most.saturating_add(1), file).map_err(self.failed())?;
        if bytes.len() as u64 > most || Sha256::of(&bytes) != digest {
            return Err(self.damaged(format!("the content of {digest} does not match its digest")));
        }
        Ok(Some(bytes))
    }

    /// Keeps content.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha256, RegistryError> {
        let digest = Sha256::of(bytes);
        // What is damaged is written anew.
        if !matches!(self.read(digest, bytes.len() as u64), Ok(Some(_))) {
            let mut file = whole::begin(&self.prepare()?, BLOB).map_err(self.failed())?;
            let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
            written.map_err(self.failed())?;
            self.adopt(file, digest)?;
        }
        Ok(digest)
    }

    /// Keeps a file of the directory that [`Store::prepare`] gave, whose content was found to have this
    /// digest.
    pub fn adopt(&self, file: NamedTempFile, digest: Sha256) -> Result<(), RegistryError> {
        file.persist(self.path_of(digest)).map_err(|error| self.failed()(error.error))?;
        // The name is to survive the loss of power, too.
        let _ = File::open(self.blobs()).and_then(|dir| dir.sync_all());
        Ok(())
    }

    /// Calls a manifest, whose content is there, by a reference. What was called so stays without a name.
    pub fn keep(&self, reference: &Reference, mut manifest: Descriptor) -> Result<(), RegistryError> {
        let name = name_of(reference, manifest.digest);
        manifest.annotations.insert(REF_NAME.to_owned(), name.clone());
        self.change(|index| {
            let has_name = |there: &Descriptor| {
                there.digest == manifest.digest && there.annotations.contains_key(REF_NAME)
            };
            if reference.digest().is_some() && index.manifests.iter().any(has_name) {
                return;
            }
            let is_named = |there: &Descriptor| there.annotations.get(REF_NAME) == Some(&name);
            if index.manifests.iter().any(|there| is_named(there) && there.digest == manifest.digest) {
                return;
            }
            for there in index.manifests.iter_mut().filter(|there| is_named(there)) {
                there.annotations.remove(REF_NAME);
                there.annotations.insert(PLACE.to_owned(), reference.place());
            }
            let unnamed = |there: &Descriptor| {
                there.digest == manifest.digest && !there.annotations.contains_key(REF_NAME)
            };
            index.manifests.retain(|there| !unnamed(there));
            index.manifests.push(manifest);
        })
    }

    /// Keeps a manifest that refers to another one.
    pub fn keep_referrer(&self, manifest: Descriptor) -> Result<(), RegistryError> {
        self.change(|index| {
            if index.manifests.iter().all(|there| there.digest != manifest.digest) {
                index.manifests.push(manifest);
            }
        })
    }

    /// The descriptor of what a reference means here.
    pub fn find(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        let manifests = self.index()?.manifests;
        let found = match reference.digest() {
            Some(digest) => manifests.into_iter().find(|there| there.digest == digest),
            None => {
                let name = reference.to_string();
                manifests.into_iter().find(|there| there.annotations.get(REF_NAME) == Some(&name))
            }
        };
        Ok(found)
    }

    /// The modules that have a name, sorted by it.
    pub fn modules(&self) -> Result<Vec<Kept>, RegistryError> {
        let manifests = self.index()?.manifests.into_iter();
        let mut kept: Vec<_> = manifests
            .filter_map(|descriptor| {
                let reference = descriptor.annotations.get(REF_NAME)?.parse().ok()?;
                Some(Kept { reference, descriptor })
            })
            .collect();
        kept.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(kept)
    }

    /// What is there.
    pub fn index(&self) -> Result<Index, RegistryError> {
        let path = self.root.join(INDEX_FILE);
        if !path.exists() {
            return Ok(Index::default());
        }
        // Who else writes it could have any name mean anything.
        private::check(&path).map_err(|error| self.damaged(error.to_string()))?;
        let file = File::open(&path).map_err(self.failed())?;
        let text = private::read_at_most(INDEX_BYTES, file).map_err(self.failed())?;
        Index::parse("index.json", text.as_bytes()).map_err(|error| self.damaged(error))
    }

    /// Changes the index, alone.
    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<(), RegistryError> {
        self.prepare()?;
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(self.root.join(".lock")).map_err(self.failed())?;
        lock.lock().map_err(self.failed())?;
        let before = self.index()?;
        let mut index = before.clone();
        change(&mut index);
        let path = self.root.join(INDEX_FILE);
        if index != before || !path.exists() {
            whole::replace(&path, &index.to_bytes(), MODE).map_err(self.failed())?;
        }
        // The lock ends with the file.
        Ok(())
    }
}

/// How the store calls what a reference means: by its tag if nothing else was said, else by its digest.
fn name_of(reference: &Reference, digest: Sha256) -> String {
    match reference.digest() {
        Some(_) => reference.at(digest).to_string(),
        None => reference.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::manifest::MANIFEST;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("modules"));
        (dir, store)
    }

    fn put(store: &Store, text: &str) -> Descriptor {
        store.put(text.as_bytes()).unwrap();
        Descriptor::of(MANIFEST, text.as_bytes())
    }

    #[test]
    fn a_moved_name_means_the_new_one_and_the_old_one_is_found_by_its_digest() {
        let (_dir, store) = store();
        let reference: Reference = "ghcr.io/acme/hello:1".parse().unwrap();
        assert_eq!(store.find(&reference).unwrap(), None);
        let (old, new) = (put(&store, "old"), put(&store, "new"));
        store.keep(&reference, old.clone()).unwrap();
        store.keep(&reference, old.clone()).unwrap();
        assert_eq!(store.index().unwrap().manifests.len(), 1);
        store.keep(&reference, new.clone()).unwrap();
        assert_eq!(store.find(&reference).unwrap().unwrap().digest, new.digest);
        assert_eq!(store.find(&reference.at(old.digest)).unwrap().unwrap().digest, old.digest);
        assert_eq!(store.modules().unwrap().len(), 1);
        // And back.
        store.keep(&reference, old.clone()).unwrap();
        assert_eq!(store.find(&reference).unwrap().unwrap().digest, old.digest);
        assert_eq!(store.index().unwrap().manifests.len(), 2);
    }

    #[test]
    fn content_that_was_changed_is_noticed_and_written_anew() {
        let (_dir, store) = store();
        let of = put(&store, "content");
        fs::write(store.path_of(of.digest), "CONTENT").unwrap();
        assert!(matches!(store.blob(&of, 100), Err(RegistryError::Damaged { .. })));
        put(&store, "content");
        assert_eq!(store.blob(&of, 100).unwrap().unwrap(), b"content");
        assert!(matches!(store.blob(&of, 3), Err(RegistryError::TooLarge { .. })));
        fs::write(store.root().join("index.json"), "{").unwrap();
        assert!(matches!(store.index(), Err(RegistryError::Damaged { .. })));
    }

    #[test]
    fn many_that_keep_at_once_lose_nothing() {
        let (_dir, store) = store();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    let of = put(store, &format!("{number}"));
                    store.keep(&format!("ghcr.io/a/b:{number}").parse().unwrap(), of).unwrap();
                });
            }
        });
        assert_eq!(store.modules().unwrap().len(), 8);
    }
}
