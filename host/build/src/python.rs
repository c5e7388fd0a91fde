//! Workflows in Python: made a component by componentize-py, which puts the
//! interpreter and the program's state after its imports into it. The SDK comes
//! with wfhost.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::layout::Layout;
use super::{BuildError, BuildOptions, Built, Progress, file};

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
    let layout = Layout::prepare(dir, "python-sdk", &SDK, options)?;
    let sources = sources.canonicalize().map_err(file(sources))?;
    progress(Progress::Wrapping(&layout.name));
    let mut componentize = tool(&layout.dir)?;
    componentize.arg("--wit-path").arg(layout.sdk.join("wit")).args(["--world", "workflow"]);
    componentize.args(["componentize", "wfhost_app", "--python-path"]).arg(&layout.sdk);
    componentize.arg("--python-path").arg(&sources);
    layout.write(|layout, partial| layout.run(componentize.arg("--output").arg(partial), "componentize-py"))
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
