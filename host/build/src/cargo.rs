//! Calling cargo, and what it says it has built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::project::{Package, Project};
use super::remap;
use super::toolchain::Toolchain;
use super::{BuildError, BuildOptions};

/// Flags of a surrounding build, which are meant for the host.
const OF_THE_HOST: [&str; 4] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"];

/// The cargo of a surrounding build, else the one on the path.
pub(super) fn cargo() -> Command {
    let mut cargo = Command::new(variable_or("CARGO", "cargo"));
    for name in OF_THE_HOST {
        cargo.env_remove(name);
    }
    cargo
}

/// The compiler that cargo takes by itself.
pub(super) fn rustc() -> OsString {
    variable_or("RUSTC", "rustc")
}

fn variable_or(name: &str, fallback: &str) -> OsString {
    std::env::var_os(name).filter(|value| !value.is_empty()).unwrap_or_else(|| fallback.into())
}

/// Compiles the packages; gives the file of each, in their order. Cargo's
/// messages go to stderr as they are.
pub(super) fn compile(
    dir: &Path,
    project: &Project,
    packages: &[&Package],
    toolchain: &Toolchain,
    options: &BuildOptions,
) -> Result<Vec<PathBuf>, BuildError> {
    if !options.offline && remap::is_new_here() {
        // If it fails, the build says why.
        let fetch = ["fetch", "--target", toolchain.target.triple()];
        let _ = cargo().current_dir(dir).args(fetch).stdout(Stdio::null()).stderr(Stdio::inherit()).status();
    }
    let mut cargo = cargo();
    cargo.current_dir(dir).args(["build", "--release", "--target", toolchain.target.triple()]);
    cargo.arg("--config").arg(remap::setting(dir, project, toolchain.target, options));
    cargo.args(["--message-format", "json-render-diagnostics"]);
    for package in packages {
        cargo.args(["-p", &package.name]);
    }
    if options.offline {
        cargo.arg("--offline");
    }
    if let Some(target_dir) = &options.target_dir {
        cargo.arg("--target-dir").arg(target_dir);
    }
    if let Some(rustc) = &toolchain.rustc {
        cargo.env("RUSTC", rustc);
    }
    let output = cargo
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| BuildError::NoTool { command: "cargo build".to_owned(), source })?;
    if !output.status.success() {
        return Err(BuildError::Cargo(dir.to_owned()));
    }
    let built = artifacts(&output.stdout);
    packages
        .iter()
        .map(|package| {
            let file = built.iter().find(|(manifest, _)| *manifest == package.manifest_path);
            file.map(|(_, file)| file.clone()).ok_or_else(|| BuildError::NoWorkflow(dir.join(&package.name)))
        })
        .collect()
}

/// The manifest and the file of each `cdylib` that cargo reports.
pub(super) fn artifacts(stdout: &[u8]) -> Vec<(PathBuf, PathBuf)> {
    stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| {
            let types = message["target"]["crate_types"].as_array();
            types.is_some_and(|types| types.iter().any(|ty| ty == "cdylib"))
        })
        .filter_map(|message| {
            let manifest = message["manifest_path"].as_str()?;
            let files = message["filenames"].as_array()?;
            let file = files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm"))?;
            Some((manifest.into(), file.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cdylibs_are_taken_from_what_cargo_says() {
        let stdout = br#"{"reason":"compiler-artifact","manifest_path":"/s/Cargo.toml","target":{"name":"serde","crate_types":["lib"]},"filenames":["/x/libserde.rlib"]}
not json
{"reason":"compiler-artifact","manifest_path":"/h/Cargo.toml","target":{"name":"hello","crate_types":["cdylib","rlib"]},"filenames":["/x/libhello.rlib","/x/hello.wasm"]}
{"reason":"build-finished","success":true}"#;
        assert_eq!(artifacts(stdout), [(PathBuf::from("/h/Cargo.toml"), PathBuf::from("/x/hello.wasm"))]);
    }
}
