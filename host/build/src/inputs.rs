//! What a tool makes a component of. Tools that put an interpreter beside a program take long, and give other bytes
//! each time: for the same input the module would be another one, compiled again at each start. So they are called
//! only if their input has changed.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wfhost_core::Digest;

/// Directories that nothing is imported from.
const ASIDE: [&str; 2] = ["node_modules", "__pycache__"];
/// Of a file that is larger, a database for example, the stamp is taken.
const LARGE_BYTES: u64 = 16 << 20;
/// Files that are looked at. With more, nothing is known.
const FILES: usize = 50_000;

/// The input of a tool.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    parts: Vec<u8>,
    files: usize,
}

impl Inputs {
    /// Something by its name and its bytes.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.parts.extend(Digest::of(name.as_bytes()).0);
        self.parts.extend(Digest::of(bytes).0);
    }

    /// A file that changes only when something is installed: by its length and the time of its change.
    pub fn stamp(&mut self, path: &Path) -> io::Result<()> {
        self.stamp_of(path, &std::fs::metadata(path)?);
        Ok(())
    }

    fn stamp_of(&mut self, path: &Path, known: &Metadata) {
        let stamp = format!("{} {} {}", known.len(), known.mtime(), known.mtime_nsec());
        self.bytes(&path.to_string_lossy(), stamp.as_bytes());
    }

    /// All files of a project that its program may import or read, by their bytes. `aside`: directories that are not
    /// its own.
    pub fn project(&mut self, dir: &Path, aside: &[PathBuf]) -> io::Result<()> {
        self.tree(dir, false, aside)
    }

    /// All files of a directory that packages are installed in, by their stamps.
    pub fn packages(&mut self, dir: &Path) -> io::Result<()> {
        self.tree(dir, true, &[])
    }

    fn tree(&mut self, dir: &Path, installed: bool, aside: &[PathBuf]) -> io::Result<()> {
        let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // A link that leads nowhere is nothing that can be imported.
            let Ok(known) = std::fs::metadata(&path) else { continue };
            if known.is_dir() {
                if name.starts_with('.') || ASIDE.contains(&name.as_str()) || aside.contains(&path) {
                    continue;
                }
                // Links may lead round in circles.
                if entry.file_type()?.is_symlink() {
                    return Err(io::Error::other("a link to a directory"));
                }
                self.tree(&path, installed, aside)?;
                continue;
            }
            if !known.is_file() {
                continue;
            }
            self.files += 1;
            if self.files > FILES {
                return Err(io::Error::other("more files than are looked at"));
            }
            match installed || known.len() > LARGE_BYTES {
                true => self.stamp_of(&path, &known),
                false => self.bytes(&path.to_string_lossy(), &std::fs::read(&path)?),
            }
        }
        Ok(())
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dir: &Path) -> Digest {
        let mut inputs = Inputs::default();
        inputs.project(dir, &[dir.join("target")]).unwrap();
        inputs.digest()
    }

    #[test]
    fn what_can_be_imported_counts_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("workflow.py", "1");
        write("more/text.txt", "a");
        let first = of(dir.path());
        for aside in ["target/wfhost/x.wasm", ".venv/lib/x.py", "more/__pycache__/x.pyc"] {
            write(aside, "x");
        }
        assert_eq!(of(dir.path()), first);
        write("more/text.txt", "b");
        let second = of(dir.path());
        write("more/target/other.txt", "");
        assert!(first != second && second != of(dir.path()));
        // A package of that name, where nothing is built, is one like others.
        let within = |text: &str| {
            write("src/target/__init__.py", text);
            let mut inputs = Inputs::default();
            inputs.project(&dir.path().join("src"), &[dir.path().join("target")]).unwrap();
            inputs.digest()
        };
        assert_ne!(within("1"), within("2"));
    }
}
