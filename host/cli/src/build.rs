//! `wfhost build`

use std::path::{Path, PathBuf};

use serde_json::json;
use wfhost::engine::{ModuleError, summarize};
use wfhost_build as build;

use super::diagnostic::{Exit, UserError};
use super::module_arg::read_component;
use super::{Common, Format, printer};

/// Build a workflow in Rust, TypeScript, JavaScript, Python, Go or C into a component
///
/// A Cargo workspace produces a component for each of its workflows. The file of a
/// core module is only wrapped into a component.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost build
  wfhost build my-workflow --out my-workflow.wasm
  wfhost build workspace -p one-of-it")]
pub(crate) struct Build {
    /// The project directory, or the file of a core module
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The output file, or the directory for several components
    /// [default: target/wfhost/NAME.wasm]
    #[arg(short = 'O', long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Build only this package of the workspace
    #[arg(short, long, value_name = "NAME")]
    package: Option<String>,
    /// The compilation target: wasm32-unknown-unknown, wasm32-wasip2 or
    /// wasm32-wasip1 [default: the first one that is installed]
    #[arg(long, value_name = "TARGET")]
    target: Option<build::Target>,
    /// Build without network access (cargo)
    #[arg(long)]
    offline: bool,
}

impl Build {
    pub fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let built = if self.dir.is_file() {
            let path = self.out.clone().unwrap_or_else(|| self.dir.with_extension("component.wasm"));
            let core = read_component(&self.dir).map_err(|error| {
                UserError::usage("WF0608", format!("{} cannot be read: {error}", self.dir.display()))
            })?;
            // What is no WebAssembly at all is said to be what it is.
            if let Err(error @ (ModuleError::Empty | ModuleError::NotWasm(_))) = summarize(&core) {
                return Err(error.into());
            }
            let bytes = build::wrap(&self.dir, &path).map_err(failed)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            vec![build::Built { name, path, bytes }]
        } else {
            let options = build::BuildOptions {
                out: self.out.clone(),
                package: self.package.clone(),
                target: self.target,
                offline: self.offline,
                ..build::BuildOptions::default()
            };
            build::build(&self.dir, &options, &mut tell).map_err(failed)?
        };
        for build::Built { name, path, bytes } in &built {
            printer::say(common, "Built", &format!("{name}  {} kB", bytes / 1_000));
            match common.output {
                Format::Text => printer::line(path.display().to_string()),
                Format::Json | Format::Jsonl => printer::json(
                    &json!({ "schema": "wfhost/built/1", "name": name, "path": path, "bytes": bytes }),
                ),
            }
        }
        Ok(Exit::Done)
    }
}

/// Announces what takes long.
fn tell(progress: build::Progress<'_>) {
    match progress {
        build::Progress::Preparing(target) => {
            printer::note(&format!("Preparing the standard library for {target}, once; this takes a minute"));
        }
        build::Progress::Packing(name) => printer::note(&format!(
            "Packing {name} with its interpreter; this and the first start take some seconds"
        )),
        build::Progress::Wrapping(_) => {}
    }
}

/// Builds the only workflow of a directory, for verbs that take a module.
pub(super) fn only(dir: &Path) -> Result<PathBuf, UserError> {
    let mut built = build::build(dir, &build::BuildOptions::default(), &mut tell).map_err(failed)?;
    if built.len() > 1 {
        let names: Vec<_> = built.iter().map(|built| built.path.display().to_string()).collect();
        return Err(UserError::usage("WF0609", format!("{} contains several workflows", dir.display()))
            .hint(format!("name one: {}", names.join(", "))));
    }
    Ok(built.remove(0).path)
}

/// What keeps a workflow from being built.
pub(super) fn failed(error: build::BuildError) -> UserError {
    UserError::usage(error.code(), error.to_string()).hint(error.hint())
}
