//! Which compiler builds for WebAssembly here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::project::Kind;
use super::{BuildError, Progress, Target, cargo, sysroot};

/// How cargo is to be called.
#[derive(Clone, Debug)]
pub(super) struct Toolchain {
    /// None: the compiler that cargo takes by itself.
    pub rustc: Option<PathBuf>,
    pub target: Target,
}

impl Toolchain {
    /// Where `rustup target add` has been done, that is all. Else Debian's
    /// compiler serves, with a library that is built once.
    pub fn find(
        dir: &Path,
        wanted: Option<Target>,
        kind: Kind,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, BuildError> {
        let candidates = match (wanted, kind) {
            (Some(target), _) => vec![target],
            (None, Kind::Workflow) => vec![Target::Unknown, Target::Wasip2],
            // Their files, clocks and environment are those of the standard library.
            (None, Kind::Plugin) => vec![Target::Wasip2, Target::Unknown],
        };
        let installed = candidates.into_iter().find(|&target| has_library(dir, target));
        if let Some(target) = installed {
            return Ok(Self { rustc: None, target });
        }
        let target = match (wanted, kind) {
            (Some(target), _) => target,
            (None, Kind::Plugin) if sysroot::can_be_made(Target::Wasip2) => Target::Wasip2,
            (None, _) => Target::default(),
        };
        if !sysroot::can_be_made(target) {
            return Err(BuildError::NoTarget(wanted));
        }
        let rustc = sysroot::rustc(target, progress)?;
        Ok(Self { rustc: Some(rustc), target })
    }
}

/// Whether the project's compiler has the target's standard library. Asked in
/// the project's directory, which may choose a toolchain of its own.
fn has_library(dir: &Path, target: Target) -> bool {
    let mut rustc = Command::new(cargo::rustc());
    rustc.current_dir(dir).args(["--print", "target-libdir", "--target", target.triple()]);
    run(&mut rustc).is_ok_and(|libdir| holds_library(Path::new(&libdir)))
}

/// Rustup leaves no empty directory, but half an installation is none.
fn holds_library(libdir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(libdir) else { return false };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// What a compiler answers to `--print WHAT`.
pub(super) fn print(rustc: &OsStr, what: &str) -> Result<String, String> {
    run(Command::new(rustc).args(["--print", what]))
}

/// Runs a command for its output. The error has the end of what it said.
pub(super) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = errors.lines().collect();
        let last = &lines[lines.len().saturating_sub(12)..];
        return Err(format!("{command:?} failed:\n{}", last.join("\n")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_with_a_library_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!holds_library(&dir.path().join("missing")));
        assert!(!holds_library(dir.path()));
        std::fs::write(dir.path().join("libstd-1234.rlib"), "").unwrap();
        assert!(holds_library(dir.path()));
    }

    #[test]
    fn a_command_that_fails_shows_the_end_of_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "seq 100 >&2; exit 1"])).unwrap_err();
        assert!(error.ends_with("99\n100") && !error.contains("\n88\n"), "{error}");
    }
}
