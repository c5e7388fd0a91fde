//! A sysroot for WebAssembly out of Debian's compiler.
//!
//! Debian packages a compiler (`rustc-web`) with the source of its standard
//! library and all that needs (`rust-web-src`), but no WebAssembly library.
//! That library is built once, by the ordinary cargo, into the user's cache:
//!
//! ```text
//! wfhost/sysroot-KEY/
//!   bin/rustc                        a script: Debian's compiler with this sysroot
//!   lib/rustlib/TARGET/lib/          the library
//!   lib/rustlib/HOST/lib             a link to Debian's, for procedural macros
//!   lib/rustlib/HOST/bin/            links to the linkers
//! ```

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use wfhost_world::environment;

use super::toolchain::{print, run};
use super::{BuildError, Progress, Target, cargo};

/// The place of Debian's compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The place of Debian's C library for WASI.
const WASI_LIBC: &str = "/usr/lib/wasm32-wasi";

/// What the target's own directory needs of it.
const OF_LIBC: [&str; 3] = ["crt1-command.o", "crt1-reactor.o", "libc.a"];

/// Rises when a sysroot made by this code differs from one made before.
const RECIPE: u32 = 2;

/// Whether Debian's compiler is there with all that it takes.
pub(super) fn can_be_made(target: Target) -> bool {
    let sources = print(OsStr::new(DEBIAN_RUSTC), "sysroot")
        .is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/std").is_dir());
    let libc = OF_LIBC.iter().all(|file| Path::new(WASI_LIBC).join(file).is_file());
    sources && (libc || !target.has_libc())
}

/// The compiler of a sysroot that has the library. It is made if it is not
/// there: by one process, while others wait for it; one that was interrupted
/// is made again.
pub(super) fn rustc(target: Target, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, BuildError> {
    let failed = |reason| BuildError::Sysroot { target, reason };
    let version = run(Command::new(DEBIAN_RUSTC).arg("-vV")).map_err(failed)?;
    let cache = environment::cache_dir();
    let cache = cache.ok_or_else(|| failed("HOME is not set".to_owned()))?;
    let name = name(target, &version);
    let finished = cache.join(&name);
    let rustc = finished.join("bin/rustc");
    if rustc.is_file() {
        return Ok(rustc);
    }
    let file = |source| BuildError::File { path: cache.clone(), source };
    std::fs::create_dir_all(&cache).map_err(file)?;
    let lock = std::fs::File::create(cache.join("sysroot.lock")).map_err(file)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| file(error.into()))?;
    if rustc.is_file() {
        return Ok(rustc);
    }
    progress(Progress::Preparing(target));
    let partial = cache.join(format!("{name}.partial"));
    let _ = std::fs::remove_dir_all(&partial);
    Recipe { target, version: &version, partial: &partial, finished: &finished }.make()?;
    std::fs::rename(&partial, &finished).map_err(file)?;
    Ok(rustc)
}

fn name(target: Target, version: &str) -> String {
    let key = blake3::hash(format!("{RECIPE} {target} {version}").as_bytes()).to_hex();
    format!("sysroot-{}", &key[..16])
}

struct Recipe<'a> {
    target: Target,
    /// What `rustc -vV` says.
    version: &'a str,
    partial: &'a Path,
    finished: &'a Path,
}

impl Recipe<'_> {
    fn make(&self) -> Result<(), BuildError> {
        let failed = |reason| BuildError::Sysroot { target: self.target, reason };
        let host = host(self.version).ok_or_else(|| failed("rustc reports no host".to_owned()))?;
        let linkers = self.linkers(host)?;
        let debian = print(OsStr::new(DEBIAN_RUSTC), "sysroot").map_err(failed)?;
        let built = self.build_library().map_err(failed)?;
        self.assemble(host, Path::new(&debian), &built, &linkers)
            .map_err(|source| BuildError::File { path: self.partial.to_owned(), source })
    }

    /// Building an empty crate builds the library. Gives where its parts are.
    fn build_library(&self) -> Result<PathBuf, String> {
        let crate_dir = self.partial.join("empty");
        let manifest =
            "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n";
        std::fs::create_dir_all(crate_dir.join("src"))
            .and_then(|()| std::fs::write(crate_dir.join("Cargo.toml"), manifest))
            .and_then(|()| std::fs::write(crate_dir.join("src/lib.rs"), "#![no_std]\n"))
            .map_err(|error| format!("{}: {error}", crate_dir.display()))?;
        let target_dir = crate_dir.join("target");
        run(cargo::cargo()
            .current_dir(&crate_dir)
            .args(["build", "--release", "-Zbuild-std=std,panic_abort", "-Zbuild-std-features="])
            .args(["--target", self.target.triple(), "--target-dir"])
            .arg(&target_dir)
            // A stable cargo takes no -Z otherwise.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", DEBIAN_RUSTC)
            // So that guests can be linked with optimisation across crates.
            .env("RUSTFLAGS", "-Cembed-bitcode=yes"))?;
        Ok(target_dir.join(self.target.triple()).join("release/deps"))
    }

    /// Name and file of each linker that the target takes.
    fn linkers(&self, host: &str) -> Result<Vec<(&'static str, PathBuf)>, BuildError> {
        let names: &[_] = match self.target {
            Target::Wasip2 => &["rust-lld", "wasm-component-ld"],
            Target::Unknown | Target::Wasip1 => &["rust-lld"],
        };
        let find = |name| find_linker(name, host).map(|file| (name, file)).ok_or(BuildError::NoLinker(name));
        names.iter().copied().map(find).collect()
    }

    fn assemble(
        &self,
        host: &str,
        debian: &Path,
        built: &Path,
        linkers: &[(&str, PathBuf)],
    ) -> std::io::Result<()> {
        let rustlib = self.partial.join("lib/rustlib");
        let library = rustlib.join(self.target.triple()).join("lib");
        std::fs::create_dir_all(&library)?;
        for entry in std::fs::read_dir(built)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_owned();
            let is_library = path.extension() == Some(OsStr::new("rlib"));
            if is_library && !name.to_string_lossy().starts_with("libempty") {
                std::fs::copy(&path, library.join(name))?;
            }
        }
        if self.target.has_libc() {
            let own = library.join("self-contained");
            std::fs::create_dir_all(&own)?;
            for file in OF_LIBC {
                std::fs::copy(Path::new(WASI_LIBC).join(file), own.join(file))?;
            }
        }
        let of_host = rustlib.join(host);
        std::fs::create_dir_all(of_host.join("bin"))?;
        symlink(debian.join("lib/rustlib").join(host).join("lib"), of_host.join("lib"))?;
        for (name, file) in linkers {
            symlink(file, of_host.join("bin").join(name))?;
        }
        let bin = self.partial.join("bin");
        std::fs::create_dir_all(&bin)?;
        // A link would not do: the sysroot would be that of the file it leads to.
        std::fs::write(bin.join("rustc"), script(self.finished))?;
        std::fs::set_permissions(bin.join("rustc"), PermissionsExt::from_mode(0o755))?;
        std::fs::remove_dir_all(self.partial.join("empty"))
    }
}

/// From what `rustc -vV` says.
fn host(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

fn script(sysroot: &Path) -> String {
    let quoted = sysroot.display().to_string().replace('\'', r"'\''");
    format!("#!/bin/sh\nexec {DEBIAN_RUSTC} --sysroot '{quoted}' \"$@\"\n")
}

/// The ordinary toolchain brings the linkers. LLVM's own is the same as
/// Rust's under another name.
fn find_linker(name: &str, host: &str) -> Option<PathBuf> {
    let ordinary = print(&cargo::rustc(), "sysroot").ok();
    let of_toolchain = ordinary.map(|root| Path::new(&root).join("lib/rustlib").join(host).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = of_toolchain.into_iter().chain(std::env::split_paths(&path));
    let names: &[&str] = if name == "rust-lld" { &["rust-lld", "lld"] } else { &[name] };
    let files = dirs.flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    files.into_iter().find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_compiler_or_target_has_another_sysroot() {
        let names = [
            name(Target::Unknown, "rustc 1.96.0"),
            name(Target::Unknown, "rustc 1.97.0"),
            name(Target::Wasip2, "rustc 1.96.0"),
        ];
        assert!(names[0] != names[1] && names[0] != names[2]);
        assert_eq!(names[0], name(Target::Unknown, "rustc 1.96.0"));
    }

    #[test]
    fn the_script_takes_any_path() {
        let script = script(Path::new("/home/o'brien/.cache"));
        assert!(script.contains(r"--sysroot '/home/o'\''brien/.cache'"), "{script}");
    }

    #[test]
    fn the_host_is_what_the_compiler_says() {
        assert_eq!(host("rustc 1.96.0\nbinary: rustc\nhost: a-b-c\n"), Some("a-b-c"));
        assert_eq!(host(""), None);
    }
}
