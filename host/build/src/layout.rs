//! Where the parts of a build are, in the languages whose SDK comes with wfhost.
//!
//! The SDK is written below the project's target directory and becomes part of the program, so its
//! interface is always the one that this wfhost has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::described::About;
use super::{BuildError, BuildOptions, Built, Out, file, read};

/// The places of one build.
pub(super) struct Layout {
    /// The project, as an absolute path.
    pub dir: PathBuf,
    /// Of the project, and so of the workflow.
    pub name: String,
    /// Where the SDK is.
    pub sdk: PathBuf,
    /// Where the component goes.
    out: PathBuf,
    target: PathBuf,
}

impl Layout {
    /// Finds the places, and writes the files of the SDK: their paths within it, and their texts.
    pub fn prepare(
        dir: &Path,
        sdk_name: &str,
        sdk_files: &[(&str, &str)],
        options: &BuildOptions,
    ) -> Result<Self, BuildError> {
        let dir = dir.canonicalize().map_err(file(dir))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = options.target_dir.clone().unwrap_or_else(|| dir.join("target"));
        let sdk = provide(&target, sdk_name, sdk_files)?;
        let out = Out::new(options.out.as_deref(), &target, 1).path(&name);
        Ok(Self { dir, name, sdk, out, target })
    }

    /// Something that is made on the way.
    pub fn intermediate(&self, extension: &str) -> PathBuf {
        self.target.join(format!("wfhost/{}.{extension}", self.name))
    }

    /// Has the component made at the path that `make` is given, and puts it where it belongs.
    pub fn write(
        self,
        make: impl FnOnce(&Self, &Path) -> Result<(), BuildError>,
    ) -> Result<Built, BuildError> {
        // What is declared is checked before the tool takes its time.
        let about = About::project(&self.dir)?;
        let bytes = write_whole(&self.out, |partial| {
            make(&self, partial)?;
            let mut component = read(partial)?;
            about.write_into(&mut component, &self.name)?;
            std::fs::write(partial, &component).map_err(file(partial))
        })?;
        Ok(Built { name: self.name, path: self.out, bytes })
    }

    /// Runs a tool to its end. What it reports of its progress is not shown, its errors are.
    pub fn run(&self, tool: &mut Command, name: &'static str) -> Result<(), BuildError> {
        tool.stdin(Stdio::null()).stdout(Stdio::null());
        let status =
            tool.status().map_err(|source| BuildError::NoTool { command: name.to_owned(), source })?;
        match status.success() {
            true => Ok(()),
            false => Err(BuildError::Compiler { what: name, dir: self.dir.clone() }),
        }
    }
}

/// Writes an SDK below a target directory. Gives its place.
pub(super) fn provide(
    target: &Path,
    sdk_name: &str,
    sdk_files: &[(&str, &str)],
) -> Result<PathBuf, BuildError> {
    let sdk = target.join("wfhost").join(sdk_name);
    for (name, text) in sdk_files {
        let path = sdk.join(name);
        create_parent(&path)?;
        std::fs::write(&path, text).map_err(file(&path))?;
    }
    Ok(sdk)
}

/// Has a file made under another name and gives it its own when it is there: whole or not at all, as
/// somebody may be about to run the old one. Gives its size in bytes.
pub(super) fn write_whole(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), BuildError>,
) -> Result<u64, BuildError> {
    create_parent(path)?;
    let partial = path.with_extension(format!("partial.{}", std::process::id()));
    // Some tools change their directory.
    let partial = std::path::absolute(&partial).map_err(file(&partial))?;
    let made = make(&partial);
    if made.is_err() {
        // The tool may have begun to write.
        let _ = std::fs::remove_file(&partial);
    }
    made?;
    std::fs::rename(&partial, path).map_err(file(path))?;
    Ok(std::fs::metadata(path).map_err(file(path))?.len())
}

fn create_parent(path: &Path) -> Result<(), BuildError> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => std::fs::create_dir_all(parent).map_err(file(parent)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_that_could_not_be_made_leaves_the_old_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.wasm");
        write_whole(&path, |partial| std::fs::write(partial, "old").map_err(file(partial))).unwrap();
        let failed = write_whole(&path, |partial| {
            std::fs::write(partial, "half").unwrap();
            Err(BuildError::NoClang)
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }
}
