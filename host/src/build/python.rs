//! Workflows in Python: made a component by componentize-py, which puts the
//! interpreter and the program's state after its imports into it. The SDK comes
//! with wfhost.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{BuildError, BuildOptions, Built, Out, Progress};

/// The SDK, the module with the export, and the world.
const SDK: [(&str, &str); 3] = [
    ("wfhost.py", include_str!("../../../guest-sdk/python/wfhost.py")),
    ("wfhost_app.py", include_str!("../../../guest-sdk/python/wfhost_app.py")),
    ("wit/workflow.wit", include_str!("../../../wit/workflow.wit")),
];

/// The directory of the module `workflow`, if the project has one.
pub(super) fn sources(dir: &Path) -> Option<PathBuf> {
    [dir.to_owned(), dir.join("src")].into_iter().find(|dir| dir.join("workflow.py").is_file())
}

/// Builds the workflow in `sources`.
pub(super) fn build(
    dir: &Path,
    sources: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, BuildError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    let dir = dir.canonicalize().map_err(file(dir))?;
    let sources = sources.canonicalize().map_err(file(sources))?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let target = options.target_dir.clone().unwrap_or_else(|| dir.join("target"));
    let sdk = target.join("wfhost/python-sdk");
    for (name, text) in SDK {
        let path = sdk.join(name);
        let parent = path.parent().unwrap_or(&sdk);
        std::fs::create_dir_all(parent).map_err(file(parent))?;
        std::fs::write(&path, text).map_err(file(&path))?;
    }
    let path = Out::new(options.out.as_deref(), &target, 1).path(&name);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(file(parent))?;
    }
    progress(Progress::Wrapping(&name));
    // Whole or not at all: somebody may be about to run the old one.
    let partial = path.with_extension(format!("partial.{}", std::process::id()));
    let mut componentize = tool(&dir)?;
    componentize.arg("--wit-path").arg(sdk.join("wit")).args(["--world", "workflow"]);
    componentize.args(["componentize", "wfhost_app", "--python-path"]).arg(&sdk);
    componentize.arg("--python-path").arg(&sources).arg("--output").arg(&partial);
    componentize.stdin(Stdio::null()).stdout(Stdio::null());
    let status = componentize
        .status()
        .map_err(|source| BuildError::NoTool { command: "componentize-py".to_owned(), source })?;
    if !status.success() {
        return Err(BuildError::Compiler { what: "componentize-py", dir });
    }
    std::fs::rename(&partial, &path).map_err(file(&path))?;
    let bytes = std::fs::metadata(&path).map_err(file(&path))?.len();
    Ok(Built { name, path, bytes })
}

/// The tool of the project's virtual environment, else the one on the path.
fn tool(dir: &Path) -> Result<Command, BuildError> {
    let own = dir.join(".venv/bin/componentize-py");
    if own.is_file() {
        return Ok(Command::new(own));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("componentize-py").is_file());
    match found {
        true => Ok(Command::new("componentize-py")),
        false => Err(BuildError::NoComponentizePy),
    }
}
