//! Why nothing was built.

use std::path::PathBuf;

use wfhost_world::private::NotPrivate;
use wfhost_world::text::quoted;

use super::{Target, python};

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(
        "{0} does not contain a project: no Cargo.toml, no workflow.ts, .js or .py, no go.mod, no C files"
    )]
    NoCrate(PathBuf),
    #[error("`{command}` cannot be run: {source}")]
    NoTool { command: String, source: std::io::Error },
    #[error("cargo failed to build {0}")]
    Cargo(PathBuf),
    #[error("{0} does not build a `cdylib`, so there is nothing to run")]
    NoWorkflow(PathBuf),
    #[error("no Rust toolchain for WebAssembly is installed")]
    NoTarget(Option<Target>),
    #[error("the standard library for {target} cannot be built: {reason}")]
    Sysroot { target: Target, reason: String },
    #[error("{path} cannot be wrapped into a component: {reason}")]
    Componentize { path: PathBuf, reason: String },
    /// A directory of the build is a link.
    #[error("{path} leads out of the target directory, to {leads}")]
    Outside { path: PathBuf, leads: PathBuf },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{dir} does not contain the package `{package}`, but {}", listed(.known))]
    NoPackage { dir: PathBuf, package: String, known: Vec<String> },
    #[error("{package} exports neither a workflow nor an agent")]
    NoExport { package: String },
    #[error("{manifest} requests permissions in a form that is not valid: {reason}", manifest = manifest.display())]
    Wants { manifest: PathBuf, reason: String },
    #[error("the description of the workflow in {place} cannot be used: {reason}")]
    Description { place: String, reason: String },
    #[error("the description of {package} cannot be generated from its types: {reason}")]
    Derive { package: String, reason: String },
    #[error("no C compiler for WebAssembly was found")]
    NoClang,
    #[error("`{name}` not found in the node_modules of {dir}")]
    NoNodeTool { name: &'static str, dir: PathBuf },
    #[error("`{name}` is not executed: {source}")]
    StrangeTool { name: &'static str, source: NotPrivate },
    #[error("`componentize-py` not found on PATH")]
    NoComponentizePy,
    #[error("`go` not found on PATH")]
    NoGo,
    #[error("{what} failed to build {dir}")]
    Compiler { what: &'static str, dir: PathBuf },
    #[error("the WebAssembly linker `{0}` not found on PATH")]
    NoLinker(&'static str),
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none that builds a workflow".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    }
}

impl BuildError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCrate(_) => "WF0601",
            Self::NoTool { .. } => "WF0602",
            Self::Cargo(_) => "WF0603",
            Self::NoWorkflow(_) => "WF0604",
            Self::NoTarget(_) => "WF0605",
            Self::Sysroot { .. } => "WF0606",
            Self::Componentize { .. } => "WF0607",
            Self::File { .. } => "WF0608",
            Self::Outside { .. } => "WF0623",
            Self::NoPackage { .. } => "WF0611",
            Self::NoExport { .. } => "WF0612",
            Self::NoLinker(_) => "WF0613",
            Self::Wants { .. } => "WF0620",
            Self::Description { .. } => "WF0621",
            Self::Derive { .. } => "WF0622",
            Self::NoClang => "WF0614",
            Self::Compiler { .. } => "WF0615",
            Self::NoNodeTool { .. } => "WF0616",
            Self::StrangeTool { .. } => "WF0619",
            Self::NoComponentizePy => "WF0617",
            Self::NoGo => "WF0618",
        }
    }

    /// How to fix it.
    pub fn hint(&self) -> String {
        match self {
            Self::NoCrate(_) => "`wfhost new NAME` creates one".to_owned(),
            Self::NoTool { .. } => "install Rust with cargo, see rustup.rs".to_owned(),
            Self::Cargo(_) => "its messages are above".to_owned(),
            Self::NoWorkflow(_) => "put `[lib] crate-type = [\"cdylib\"]` into Cargo.toml".to_owned(),
            Self::NoTarget(target) => {
                let target = target.unwrap_or_default();
                let libc = if target.has_libc() { " wasi-libc" } else { "" };
                format!(
                    "`rustup target add {target}`, or on Debian `apt-get install rustc-web rust-web-src{libc}`"
                )
            }
            Self::Sysroot { target, .. } => format!("`rustup target add {target}` installs it without building"),
            Self::Componentize { .. } => {
                "build against the WIT package of this wfhost: `wfhost inspect --wit`".to_owned()
            }
            Self::Outside { path, .. } => {
                format!("remove the link, {}: a build writes only into its own directories", quoted(&path.to_string_lossy()))
            }
            Self::File { .. } => "check the directory's permissions and free space".to_owned(),
            Self::NoPackage { .. } => "name one of its packages with `-p`, or omit it to build all".to_owned(),
            Self::NoExport { .. } => {
                "put `#[wfhost::workflow]` on the `async fn` that is the workflow, or `#[wfhost::agent]` on the `fn` of a plugin"
                    .to_owned()
            }
            Self::Wants { .. } => {
                "it lists the permissions that the plugin requests: http = [{ url = \"..\", methods = [\"GET\"], reason = \"..\" }], \
                 directories = [{ path = \"/data\", reason = \"..\" }], env = [{ name = \"LANG\", reason = \"..\" }]"
                    .to_owned()
            }
            Self::Description { .. } => {
                "`wfhost explain WF0621` shows what a describe.toml or describe.json has".to_owned()
            }
            Self::Derive { .. } => {
                "without `describe` in `#[wfhost::workflow(describe)]` it is built without; a describe.toml can say it instead"
                    .to_owned()
            }
            Self::NoClang => "install the WASI SDK and set WASI_SDK_PATH, or on Debian \
                 `apt-get install clang-22 lld-22 wasi-libc libclang-rt-22-dev-wasm32`"
                .to_owned(),
            Self::Compiler { .. } => "its messages are above".to_owned(),
            Self::NoComponentizePy => {
                "in the project: `python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1`".to_owned()
            }
            Self::StrangeTool { name: python::TOOL, .. } => {
                "reinstall the project's tools: remove its .venv, and create it again".to_owned()
            }
            Self::StrangeTool { .. } => {
                "reinstall the project's tools: remove its node_modules, then `npm install`".to_owned()
            }
            Self::NoGo => "install Go 1.25 or newer, see go.dev".to_owned(),
            Self::NoNodeTool { dir, .. } => format!(
                "`cd {} && npm install`; a project needs `npm install --save-dev componentize-qjs@0.4.5 esbuild`",
                quoted(&dir.to_string_lossy())
            ),
            Self::NoLinker(_) => "install Rust with rustup, see rustup.rs, or `apt-get install lld`".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_install_depends_on_the_target() {
        assert_eq!(
            BuildError::NoTarget(None).hint(),
            "`rustup target add wasm32-unknown-unknown`, or on Debian `apt-get install rustc-web rust-web-src`"
        );
        assert!(BuildError::NoTarget(Some(Target::Wasip2)).hint().contains("rust-web-src wasi-libc"));
    }

    #[test]
    fn an_unknown_package_names_the_known_ones() {
        let known = vec!["hello".to_owned(), "counter".to_owned()];
        let error = BuildError::NoPackage { dir: "x".into(), package: "helo".to_owned(), known };
        assert_eq!(error.to_string(), "x does not contain the package `helo`, but `hello`, `counter`");
    }
}
