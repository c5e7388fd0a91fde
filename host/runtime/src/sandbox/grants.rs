//! Directories of the host that a run was granted, to read only.
//!
//! A directory is read as a whole before the program begins, and the digest of
//! all that is in it is part of the run. So what a program reads is the same in
//! every execution: a directory that has changed in between keeps the run from
//! going on, and one that changes meanwhile does not matter.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use wfhost_core::{Digest, Grant, limits};

/// How deep directories may lie within each other.
const DEPTH: usize = 100;

/// Why a directory cannot be granted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GrantError {
    #[error("the directory {path} cannot be read: {source}")]
    Unreadable { path: String, source: Arc<std::io::Error> },
    #[error("{path} is neither a file, a directory nor a symbolic link")]
    Special { path: String },
    #[error("the name {path} is not valid UTF-8")]
    Name { path: String },
    #[error("the directory {path} is too large: the limit is {limit}")]
    TooLarge { path: String, limit: String },
    #[error("the directory {path} has changed since the run started: {found}, recorded is {recorded}")]
    Changed { path: String, recorded: Digest, found: Digest },
    #[error("{guest} is an invalid path for a granted directory: {reason}")]
    Place { guest: String, reason: &'static str },
}

/// What is in a granted directory.
#[derive(Debug)]
pub(crate) enum Item {
    File(Arc<[u8]>),
    Directory(BTreeMap<String, Item>),
    /// A symbolic link, which leads nowhere outside.
    Link(String),
}

/// A granted directory as it was read.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub root: Item,
    pub digest: Digest,
}

/// A snapshot and the place where the program sees it.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub guest: String,
    pub snapshot: Arc<Snapshot>,
}

/// The snapshots that programs of this process use: many runs share one.
#[derive(Debug, Default)]
pub(crate) struct Snapshots(Mutex<HashMap<Digest, Weak<Snapshot>>>);

impl Snapshots {
    /// Reads a directory for a new run. `guest` is an absolute path.
    pub fn grant(&self, host: &Path, guest: &str) -> Result<Grant, GrantError> {
        check_place(guest)?;
        let path = host.canonicalize().map_err(|source| unreadable(&host.to_string_lossy(), source))?;
        let Some(path) = path.to_str() else {
            return Err(GrantError::Name { path: path.display().to_string() });
        };
        let digest = self.read(path)?.digest;
        Ok(Grant { host: path.to_owned(), guest: guest.to_owned(), digest })
    }

    /// What a run was granted, as it was when the run began.
    pub fn open(&self, grants: &[Grant]) -> Result<Vec<Granted>, GrantError> {
        let open = |grant: &Grant| {
            let known = self.lock().get(&grant.digest).and_then(Weak::upgrade);
            let snapshot = match known {
                Some(snapshot) => snapshot,
                None => self.read(&grant.host)?,
            };
            let (path, recorded, found) = (grant.host.clone(), grant.digest, snapshot.digest);
            if found != recorded {
                return Err(GrantError::Changed { path, recorded, found });
            }
            Ok(Granted { guest: grant.guest.clone(), snapshot })
        };
        grants.iter().map(open).collect()
    }

    fn read(&self, path: &str) -> Result<Arc<Snapshot>, GrantError> {
        let dir =
            Dir::open_ambient_dir(path, ambient_authority()).map_err(|source| unreadable(path, source))?;
        let mut reader = Reader { root: path, bytes: 0, items: 0 };
        let root = reader.directory(&dir, path, 0)?;
        let digest = digest(&root);
        let snapshot = Arc::new(Snapshot { root, digest });
        let mut known = self.lock();
        known.retain(|_, snapshot| snapshot.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&snapshot));
        Ok(snapshot)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Weak<Snapshot>>> {
        // A map of weak references is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a program can be shown a directory there.
fn check_place(guest: &str) -> Result<(), GrantError> {
    let reason = match guest.strip_prefix('/') {
        None => "it has to start with a slash",
        Some("" | "tmp") => "it contains the program's own files",
        Some(rest) if rest.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            "it must not contain empty parts, `.` or `..`"
        }
        Some(rest) if rest.len() > limits::NAME_BYTES || rest.contains('\0') => "it is too long",
        Some(_) => return Ok(()),
    };
    Err(GrantError::Place { guest: guest.to_owned(), reason })
}

fn unreadable(path: &str, source: std::io::Error) -> GrantError {
    GrantError::Unreadable { path: path.to_owned(), source: Arc::new(source) }
}

struct Reader<'a> {
    root: &'a str,
    bytes: u64,
    items: u64,
}

impl Reader<'_> {
    fn directory(&mut self, dir: &Dir, path: &str, depth: usize) -> Result<Item, GrantError> {
        if depth > DEPTH {
            return Err(self.too_large(format!("{DEPTH} nested directories")));
        }
        let mut items = BTreeMap::new();
        for entry in dir.entries().map_err(|source| unreadable(path, source))? {
            let entry = entry.map_err(|source| unreadable(path, source))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(GrantError::Name { path: format!("{path}/{}", name.to_string_lossy()) });
            };
            self.items += 1;
            if self.items > limits::GRANT_FILES {
                return Err(self.too_large(format!("{} files", limits::GRANT_FILES)));
            }
            let path = format!("{path}/{name}");
            let item = self.item(dir, &entry, name, &path, depth)?;
            items.insert(name.to_owned(), item);
        }
        Ok(Item::Directory(items))
    }

    fn item(
        &mut self,
        dir: &Dir,
        entry: &cap_std::fs::DirEntry,
        name: &str,
        path: &str,
        depth: usize,
    ) -> Result<Item, GrantError> {
        let failed = |source| unreadable(path, source);
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            // Not through a symbolic link that has taken its place meanwhile.
            let inner = entry.open_dir().map_err(failed)?;
            return self.directory(&inner, path, depth + 1);
        }
        if kind.is_symlink() {
            let target = dir.read_link_contents(name).map_err(failed)?;
            let target = target.to_str().ok_or_else(|| GrantError::Name { path: path.to_owned() })?;
            return Ok(Item::Link(target.to_owned()));
        }
        if !kind.is_file() {
            return Err(GrantError::Special { path: path.to_owned() });
        }
        let left = limits::GRANT_BYTES - self.bytes;
        let mut content = Vec::new();
        let file = entry.open().map_err(failed)?;
        // One byte more shows that there are too many, also of a file that grows.
        file.take(left + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > left {
            return Err(self.too_large(format!("{} bytes", limits::GRANT_BYTES)));
        }
        self.bytes += content.len() as u64;
        Ok(Item::File(content.into()))
    }

    fn too_large(&self, limit: String) -> GrantError {
        GrantError::TooLarge { path: self.root.to_owned(), limit }
    }
}

/// The digest of all names and contents: a directory is the list of its items
/// by name, each as its kind, its name and the digest of what it holds.
fn digest(item: &Item) -> Digest {
    match item {
        Item::File(content) => Digest::of(content),
        Item::Link(target) => Digest::of(target.as_bytes()),
        Item::Directory(items) => {
            let mut list = Vec::new();
            for (name, item) in items {
                list.push(match item {
                    Item::File(_) => b'f',
                    Item::Directory(_) => b'd',
                    Item::Link(_) => b'l',
                });
                list.extend((name.len() as u64).to_le_bytes());
                list.extend(name.as_bytes());
                list.extend(digest(item).0);
            }
            Digest::of(&list)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), "alpha").unwrap();
        std::fs::write(dir.path().join("b"), "beta").unwrap();
        std::os::unix::fs::symlink("sub/a", dir.path().join("link")).unwrap();
        dir
    }

    #[test]
    fn the_digest_tells_names_contents_and_kinds_apart() {
        let (one, other) = (example(), example());
        let snapshots = Snapshots::default();
        let read = |dir: &tempfile::TempDir| snapshots.grant(dir.path(), "/data").unwrap().digest;
        let before = read(&one);
        assert_eq!(before, read(&other));
        std::fs::write(other.path().join("b"), "Beta").unwrap();
        assert_ne!(before, read(&other));
        std::fs::write(other.path().join("b"), "beta").unwrap();
        assert_eq!(before, read(&other));
        std::fs::rename(other.path().join("b"), other.path().join("c")).unwrap();
        assert_ne!(before, read(&other));
        std::fs::remove_file(other.path().join("c")).unwrap();
        std::os::unix::fs::symlink("beta", other.path().join("b")).unwrap();
        assert_ne!(before, read(&other));
    }

    #[test]
    fn a_directory_that_changed_is_not_opened_unless_it_is_still_in_memory() {
        let dir = example();
        let grant = Snapshots::default().grant(dir.path(), "/data").unwrap();
        let snapshots = Snapshots::default();
        let grants = [grant];
        let opened = snapshots.open(&grants).unwrap();
        std::fs::write(dir.path().join("b"), "changed").unwrap();
        assert!(snapshots.open(&grants).is_ok());
        drop(opened);
        assert!(matches!(snapshots.open(&grants), Err(GrantError::Changed { .. })));
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(matches!(snapshots.open(&grants), Err(GrantError::Unreadable { .. })));
    }

    #[test]
    fn places_are_absolute_and_not_the_programs_own() {
        for guest in ["data", "/", "/tmp", "/a//b", "/a/../b", "/a/", ""] {
            assert!(check_place(guest).is_err(), "{guest}");
        }
        assert!(check_place("/data/in").is_ok());
    }
}
