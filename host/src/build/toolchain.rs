//! Which compiler builds for WebAssembly here.
//!
//! Where `rustup target add` has been done there is nothing to do. Else, with
//! Debian's compiler and the sources of its standard library installed, that
//! library is built once into a sysroot in the user's cache.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use super::{BuildError, TARGET, env_or};

/// The place of Debian's compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// How cargo is to be called.
#[derive(Debug)]
pub(super) struct Toolchain {
    /// None: the compiler that cargo takes by itself.
    rustc: Option<PathBuf>,
}

impl Toolchain {
    pub(super) fn find() -> Result<Self, BuildError> {
        if let Ok(sysroot) = print(env_or("RUSTC", "rustc").as_os_str(), "sysroot")
            && Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib").is_dir()
        {
            return Ok(Self { rustc: None });
        }
        if !has_debian_sources() {
            return Err(BuildError::NoTarget);
        }
        let rustc = sysroot().map_err(BuildError::Sysroot)?;
        Ok(Self { rustc: Some(rustc) })
    }

    pub(super) fn apply(&self, cargo: &mut Command) {
        if let Some(rustc) = &self.rustc {
            cargo.env("RUSTC", rustc);
        }
    }
}

/// What a compiler answers to `--print WHAT`.
fn print(rustc: &OsStr, what: &str) -> Result<String, String> {
    run(Command::new(rustc).args(["--print", what]))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<_> = errors.lines().rev().take(12).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        return Err(format!("{command:?} failed:\n{}", last.join("\n")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether Debian's compiler is there with the sources of its library.
fn has_debian_sources() -> bool {
    let sysroot = print(OsStr::new(DEBIAN_RUSTC), "sysroot");
    sysroot.is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/std").is_dir())
}

/// The compiler of a sysroot that has the library, made if it is not there.
fn sysroot() -> Result<PathBuf, String> {
    let version = run(Command::new(DEBIAN_RUSTC).arg("-vV"))?;
    let key = blake3::hash(format!("1 {TARGET} {version}").as_bytes()).to_hex();
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .ok_or("HOME is not set")?
        .join("wfhost");
    let finished = cache.join(format!("sysroot-{}", &key[..16]));
    let rustc = finished.join("bin/rustc");
    if rustc.is_file() {
        return Ok(rustc);
    }
    let io = |error: std::io::Error| format!("{}: {error}", cache.display());
    std::fs::create_dir_all(&cache).map_err(io)?;
    // One process makes it, the others wait.
    let lock = std::fs::File::create(cache.join("sysroot.lock")).map_err(io)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
    if rustc.is_file() {
        return Ok(rustc);
    }
    anstream::eprintln!("Preparing the standard library for {TARGET}, once; this takes a minute");
    let partial = cache.join(format!("sysroot-{}.partial", &key[..16]));
    let _ = std::fs::remove_dir_all(&partial);
    make(&partial, &finished)?;
    std::fs::rename(&partial, &finished).map_err(io)?;
    Ok(rustc)
}

fn make(partial: &Path, finished: &Path) -> Result<(), String> {
    let io = |error: std::io::Error| format!("{}: {error}", partial.display());
    let host = run(Command::new(DEBIAN_RUSTC).arg("-vV"))?;
    let host =
        host.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?.to_owned();
    let debian = PathBuf::from(print(OsStr::new(DEBIAN_RUSTC), "sysroot")?);
    // Building an empty crate builds the library.
    let empty = partial.join("empty");
    std::fs::create_dir_all(empty.join("src")).map_err(io)?;
    std::fs::write(
        empty.join("Cargo.toml"),
        "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n",
    )
    .map_err(io)?;
    std::fs::write(empty.join("src/lib.rs"), "#![no_std]\n").map_err(io)?;
    let target = partial.join("target");
    run(Command::new(env_or("CARGO", "cargo"))
        .current_dir(&empty)
        .args(["build", "--release", "-Zbuild-std=std,panic_abort", "-Zbuild-std-features="])
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", DEBIAN_RUSTC)
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET"))?;
    let library = partial.join("lib/rustlib").join(TARGET).join("lib");
    std::fs::create_dir_all(&library).map_err(io)?;
    for entry in std::fs::read_dir(target.join(TARGET).join("release/deps")).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        if path.extension() == Some(OsStr::new("rlib")) && !name.to_string_lossy().starts_with("libempty") {
            std::fs::copy(&path, library.join(name)).map_err(io)?;
        }
    }
    // Procedural macros are built for this machine, with Debian's own library.
    let of_host = partial.join("lib/rustlib").join(&host);
    std::fs::create_dir_all(of_host.join("bin")).map_err(io)?;
    symlink(debian.join("lib/rustlib").join(&host).join("lib"), of_host.join("lib")).map_err(io)?;
    // The linker for WebAssembly comes with the ordinary toolchain.
    let ordinary = PathBuf::from(print(env_or("RUSTC", "rustc").as_os_str(), "sysroot")?);
    let tools = ordinary.join("lib/rustlib").join(&host).join("bin");
    for tool in ["rust-lld", "wasm-component-ld"] {
        symlink(tools.join(tool), of_host.join("bin").join(tool)).map_err(io)?;
    }
    let bin = partial.join("bin");
    std::fs::create_dir_all(&bin).map_err(io)?;
    // A link would not do: the sysroot would be that of the file it leads to.
    let script = format!("#!/bin/sh\nexec {DEBIAN_RUSTC} --sysroot '{}' \"$@\"\n", finished.display());
    std::fs::write(bin.join("rustc"), script).map_err(io)?;
    std::fs::set_permissions(bin.join("rustc"), PermissionsExt::from_mode(0o755)).map_err(io)?;
    std::fs::remove_dir_all(&empty).map_err(io)?;
    std::fs::remove_dir_all(&target).map_err(io)
}
