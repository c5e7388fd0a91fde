//! Compiled components, kept between processes.
//!
//! An artifact is native code that will be executed, so nothing in the cache
//! is trusted because of its name: the directory belongs to the user alone,
//! and each file carries the digest of its content keyed with a secret that is
//! kept beside it. What does not fit, a torn write, another wasmtime, other
//! settings, a file from elsewhere, is compiled anew.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, utimensat};
use wasmtime::Engine;
use wasmtime::component::Component;
use wfhost_core::Digest;

/// The length of the authenticator at the end of each file, in bytes.
const TAG_BYTES: usize = 32;
const SECRET_FILE: &str = "secret";
/// The directory of the compiled components.
const COMPONENTS: &str = "components";

/// One that is being written is left alone for so long; then its process is gone.
const PARTIAL: Duration = Duration::from_secs(3_600);

struct Artifact {
    name: String,
    bytes: u64,
    used: SystemTime,
}

/// A private directory of compiled components. Without one everything is
/// compiled each time.
#[derive(Debug)]
pub struct Cache {
    place: Option<Place>,
    /// Bytes of all compiled components together.
    most: u64,
}

#[derive(Debug)]
struct Place {
    dir: Dir,
    secret: [u8; 32],
    /// Stands for the version of wasmtime and its settings.
    settings: u64,
}

impl Cache {
    /// Bytes that compiled components take at most. One of Python takes 31 MB.
    pub const MOST_BYTES: u64 = 2 << 30;

    /// The cache below `root`. A place that cannot be used safely is not used.
    pub fn new(root: Option<PathBuf>, engine: &Engine) -> Self {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let settings = hasher.finish();
        let place = root.and_then(|root| Place::open(&root, settings).ok());
        Self { place, most: Self::MOST_BYTES }
    }

    /// The compiled component, if it is here and is what was put here.
    pub fn load(&self, engine: &Engine, module: Digest) -> Option<Component> {
        let place = self.place.as_ref()?;
        let name = place.name(module);
        let artifact = place.read(&name, module).ok()?;
        // SAFETY: the bytes were made by `Component::serialize` of a process that knew the
        // secret of this user's private cache directory; the authenticator was just checked.
        let component = unsafe { Component::deserialize(engine, artifact) };
        if component.is_err() {
            // Other settings after all: make room for the right one.
            let _ = place.dir.remove_file(&name);
        }
        component.ok()
    }

    /// Keeps a compiled component. A cache that cannot be written is no error.
    pub fn keep(&self, module: Digest, artifact: &[u8]) {
        if let Some(place) = &self.place {
            let _ = place.write(module, artifact);
            let _ = place.shrink(self.most);
        }
    }

    /// How many compiled components there are below `root`, and their bytes. None is made: a cache that is not
    /// there is empty.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn usage_of(root: Option<&Path>) -> io::Result<(usize, u64)> {
        let dir = root.map(|root| Dir::open_ambient_dir(root.join(COMPONENTS), ambient_authority()));
        let artifacts = match dir {
            None => Vec::new(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Some(dir) => artifacts(&dir?)?,
        };
        Ok((artifacts.len(), artifacts.iter().map(|artifact| artifact.bytes).sum()))
    }
}

impl Place {
    fn open(root: &Path, settings: u64) -> io::Result<Self> {
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true);
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private.create(root)?;
        let outer = Dir::open_ambient_dir(root, ambient_authority())?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        match outer.create_dir_with(COMPONENTS, &builder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let dir = outer.open_dir(COMPONENTS)?;
        let metadata = dir.dir_metadata()?;
        let mine = metadata.uid() == rustix::process::geteuid().as_raw();
        if !mine || metadata.mode() & 0o077 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the cache is not private"));
        }
        let secret = secret(&dir)?;
        Ok(Self { dir, secret, settings })
    }

    fn name(&self, module: Digest) -> String {
        format!("{}-{:016x}.bin", module.hex(), self.settings)
    }

    fn tag(&self, module: Digest, artifact: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&module.0).update(&self.settings.to_le_bytes()).update(artifact);
        *hasher.finalize().as_bytes()
    }

    fn read(&self, name: &str, module: Digest) -> io::Result<Vec<u8>> {
        let mut bytes = self.dir.read(name)?;
        let foreign = || io::Error::new(io::ErrorKind::InvalidData, "not what was written here");
        let length = bytes.len().checked_sub(TAG_BYTES).ok_or_else(foreign)?;
        let expected = blake3::Hash::from_bytes(self.tag(module, &bytes[..length]));
        // Compared in constant time by `Hash`.
        let found = blake3::Hash::from_slice(&bytes[length..]).map_err(|_| foreign())?;
        if found != expected {
            let _ = self.dir.remove_file(name);
            return Err(foreign());
        }
        bytes.truncate(length);
        // The time of the file is that of its last use.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let _ = utimensat(&self.dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        Ok(bytes)
    }

    /// Deletes those that were not used for the longest time until there are no more than so many
    /// bytes. Gives how many.
    fn shrink(&self, most: u64) -> io::Result<usize> {
        let mut artifacts = artifacts(&self.dir)?;
        artifacts.sort_by_key(|artifact| artifact.used);
        let mut bytes: u64 = artifacts.iter().map(|artifact| artifact.bytes).sum();
        let mut deleted = 0;
        for Artifact { name, bytes: of_this, .. } in artifacts {
            if bytes <= most {
                break;
            }
            // Whoever reads it has it open.
            self.dir.remove_file(name)?;
            bytes -= of_this;
            deleted += 1;
        }
        Ok(deleted)
    }

    fn write(&self, module: Digest, artifact: &[u8]) -> io::Result<()> {
        let name = self.name(module);
        let partial = format!("{name}.{}", std::process::id());
        let mut file = create_private(&self.dir, &partial)?;
        let written = file
            .write_all(artifact)
            .and_then(|()| file.write_all(&self.tag(module, artifact)))
            .and_then(|()| self.dir.rename(&partial, &self.dir, &name));
        if written.is_err() {
            let _ = self.dir.remove_file(&partial);
        }
        written
    }
}

/// The compiled components in a directory.
fn artifacts(dir: &Dir) -> io::Result<Vec<Artifact>> {
    let mut artifacts = Vec::new();
    for entry in dir.entries()? {
        let entry = entry?;
        let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else {
            continue;
        };
        let used = metadata.modified().map_or(SystemTime::UNIX_EPOCH, cap_std::time::SystemTime::into_std);
        let old = used.elapsed().is_ok_and(|age| age > PARTIAL);
        if name.ends_with(".bin") || name.contains(".bin.") && old {
            artifacts.push(Artifact { name, bytes: metadata.len(), used });
        }
    }
    Ok(artifacts)
}

fn create_private(dir: &Dir, name: &str) -> io::Result<cap_std::fs::File> {
    dir.open_with(name, OpenOptions::new().write(true).create(true).truncate(true).mode(0o600))
}

/// The secret of this cache, made the first time. Two processes that make it
/// at once agree on the one whose file got the name.
fn secret(dir: &Dir) -> io::Result<[u8; 32]> {
    let read = || -> io::Result<[u8; 32]> {
        let mut secret = [0; 32];
        dir.open(SECRET_FILE)?.read_exact(&mut secret)?;
        Ok(secret)
    };
    if let Ok(secret) = read() {
        return Ok(secret);
    }
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).map_err(|e| io::Error::other(e.to_string()))?;
    let partial = format!("{SECRET_FILE}.{}", std::process::id());
    create_private(dir, &partial)?.write_all(&fresh)?;
    let named = dir.hard_link(&partial, dir, SECRET_FILE);
    dir.remove_file(&partial)?;
    match named {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(number: u8) -> Digest {
        Digest::of(&[number])
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_when_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path(), 7).unwrap();
        let cache = Cache { place: Some(place), most: 3_200 };
        let place = cache.place.as_ref().unwrap();
        let read = |number| place.read(&place.name(module(number)), module(number));
        let age = |number, seconds| {
            let file = std::fs::File::open(dir.path().join(COMPONENTS).join(place.name(module(number))));
            file.unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        for number in 1..=3 {
            cache.keep(module(number), &[number; 1_000]);
            age(number, 100 - u64::from(number));
        }
        assert_eq!(Cache::usage_of(Some(dir.path())).unwrap(), (3, 3 * (1_000 + TAG_BYTES as u64)));
        // The first is used once more, so the second is the one that goes.
        assert_eq!(read(1).unwrap(), [1; 1_000]);
        cache.keep(module(4), &[4; 1_000]);
        assert!(read(2).is_err() && [1, 3, 4].into_iter().all(|number| read(number).is_ok()));
        assert_eq!(Cache::usage_of(Some(dir.path())).unwrap().0, 3);
        assert_eq!(Cache::usage_of(Some(&dir.path().join("nowhere"))).unwrap(), (0, 0));
        assert!(!dir.path().join("nowhere").exists());
    }
}
