//! `wfhost build`: from a Rust crate to a component, with whatever toolchain
//! the machine has.

mod componentize;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

pub use self::componentize::componentize;
use self::toolchain::Toolchain;

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{0} has no Cargo.toml")]
    NoCrate(PathBuf),
    #[error("`{command}` cannot be run: {source}")]
    NoTool { command: String, source: std::io::Error },
    #[error("cargo did not build {0}")]
    Cargo(PathBuf),
    #[error("{0} builds no `cdylib`, so there is nothing to run")]
    NoWorkflow(PathBuf),
    #[error("this machine has no Rust toolchain for WebAssembly")]
    NoTarget,
    #[error("the standard library for WebAssembly cannot be prepared: {0}")]
    Sysroot(String),
    #[error("{path} cannot be wrapped into a component: {reason}")]
    Componentize { path: PathBuf, reason: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

impl BuildError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCrate(_) => "WF0601",
            Self::NoTool { .. } => "WF0602",
            Self::Cargo(_) => "WF0603",
            Self::NoWorkflow(_) => "WF0604",
            Self::NoTarget => "WF0605",
            Self::Sysroot(_) => "WF0606",
            Self::Componentize { .. } => "WF0607",
            Self::File { .. } => "WF0608",
        }
    }

    /// What mends it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoCrate(_) => "`wfhost new NAME` makes one",
            Self::NoTool { .. } => "install Rust with cargo, see rustup.rs",
            Self::Cargo(_) => "its messages are above",
            Self::NoWorkflow(_) => "put `[lib] crate-type = [\"cdylib\"]` into Cargo.toml",
            Self::NoTarget | Self::Sysroot(_) => {
                "`rustup target add wasm32-unknown-unknown`, or on Debian `apt-get install rustc-web rust-web-src`"
            }
            Self::Componentize { .. } => {
                "build against the WIT package of this wfhost: `wfhost inspect --wit`"
            }
            Self::File { .. } => "look at the directory's permissions and space",
        }
    }
}

/// A workflow that was built.
#[derive(Clone, Debug)]
pub struct Built {
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
}

/// The target that needs no WASI at all.
const TARGET: &str = "wasm32-unknown-unknown";

/// Builds the workflows of the crate or workspace in `dir`. `out` is the file
/// of the only one, or the directory of all; `target/wfhost` if none.
pub fn build(dir: &Path, out: Option<&Path>) -> Result<Vec<Built>, BuildError> {
    if !dir.join("Cargo.toml").is_file() {
        return Err(BuildError::NoCrate(dir.to_owned()));
    }
    let toolchain = Toolchain::find()?;
    let mut cargo = Command::new(env_or("CARGO", "cargo"));
    cargo.current_dir(dir).args(["build", "--release", "--target", TARGET]);
    cargo.args(["--message-format", "json-render-diagnostics"]).stdout(Stdio::piped());
    // The flags of a surrounding build are meant for the host.
    for name in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "RUSTC_WRAPPER"]
    {
        cargo.env_remove(name);
    }
    toolchain.apply(&mut cargo);
    let no_tool = |source| BuildError::NoTool { command: "cargo build".to_owned(), source };
    let output = cargo.stderr(Stdio::inherit()).output().map_err(no_tool)?;
    if !output.status.success() {
        return Err(BuildError::Cargo(dir.to_owned()));
    }
    let cores = artifacts(&output.stdout);
    if cores.is_empty() {
        return Err(BuildError::NoWorkflow(dir.to_owned()));
    }
    let many = cores.len() > 1 || out.is_some_and(Path::is_dir);
    let default = dir.join("target/wfhost");
    cores
        .into_iter()
        .map(|(name, core)| {
            let path = match out {
                Some(file) if !many => file.to_owned(),
                out => out.unwrap_or(&default).join(format!("{name}.wasm")),
            };
            wrap(&core, &path).map(|bytes| Built { name, path, bytes })
        })
        .collect()
}

/// Wraps the core module in a file into a component in another.
pub fn wrap(core: &Path, path: &Path) -> Result<u64, BuildError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    let bytes = std::fs::read(core).map_err(file(core))?;
    let component =
        componentize(&bytes).map_err(|reason| BuildError::Componentize { path: core.to_owned(), reason })?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(file(parent))?;
    }
    // Whole or not at all: somebody may be about to run the old one.
    let partial = path.with_extension(format!("partial.{}", std::process::id()));
    std::fs::write(&partial, &component).map_err(file(&partial))?;
    std::fs::rename(&partial, path).map_err(file(path))?;
    Ok(component.len() as u64)
}

/// The name and file of each `cdylib` that cargo reports.
fn artifacts(stdout: &[u8]) -> Vec<(String, PathBuf)> {
    let messages =
        stdout.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut found: Vec<_> = messages
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| {
            message["target"]["crate_types"]
                .as_array()
                .is_some_and(|types| types.iter().any(|ty| ty == "cdylib"))
        })
        .filter_map(|message| {
            let files = message["filenames"].as_array()?;
            let file = files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm"))?;
            Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(file)))
        })
        .collect();
    found.sort();
    found
}

fn env_or(name: &str, fallback: &str) -> std::ffi::OsString {
    std::env::var_os(name).unwrap_or_else(|| fallback.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cdylibs_are_taken_from_what_cargo_says() {
        let stdout = br#"{"reason":"compiler-artifact","target":{"name":"serde","crate_types":["lib"]},"filenames":["/x/libserde.rlib"]}
not json
{"reason":"compiler-artifact","target":{"name":"hello","crate_types":["cdylib"]},"filenames":["/x/hello.wasm"]}
{"reason":"build-finished","success":true}"#;
        assert_eq!(artifacts(stdout), [("hello".to_owned(), PathBuf::from("/x/hello.wasm"))]);
    }

    #[test]
    fn a_directory_without_a_crate_is_refused() {
        let error = build(Path::new("/"), None).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), ("WF0601", "/ has no Cargo.toml"));
    }
}
