//! Workflows in Python: made a component by componentize-py, which puts the
//! interpreter and the program's state after its imports into it. The SDK comes
//! with wfhost.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use wfhost_world::private;

use super::inputs::Inputs;
use super::layout::Layout;
use super::{BuildError, BuildOptions, Built, Progress, file};

macro_rules! sdk {
    ($($file:literal),* $(,)?) => {
        /// The package of the SDK, and the world.
        pub(super) const SDK: &[(&str, &str)] = &[
            $(($file, include_str!(concat!("../../../guest-sdk/python/", $file))),)*
            ("wit/workflow.wit", include_str!("../../../wit/workflow.wit")),
            ("plugin-wit/plugin.wit", include_str!("../../../wit/plugin/plugin.wit")),
        ];
    };
}

sdk![
    "README.md",
    "pyproject.toml",
    "wfhost/__init__.py",
    "wfhost/_app.py",
    "wfhost/_entry.py",
    "wfhost/_host.py",
    "wfhost/_loop.py",
    "wfhost/_patterns.py",
    "wfhost/_plugin_app.py",
    "wfhost/_schema.py",
    "wfhost/plugin.py",
    "wfhost/py.typed",
    "wfhost_pytest.py",
];

/// What makes components.
pub(super) const TOOL: &str = "componentize-py";

/// The directory of the module `workflow` or `plugin`, if the project has one.
pub(super) fn sources(dir: &Path) -> Option<PathBuf> {
    let has_one = |dir: &PathBuf| dir.join("workflow.py").is_file() || dir.join("plugin.py").is_file();
    [dir.to_owned(), dir.join("src")].into_iter().find(has_one)
}

/// Builds the workflow in `sources`.
pub(super) fn build(
    dir: &Path,
    sources: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, BuildError> {
    let layout = Layout::prepare(dir, "python-sdk", SDK, options)?;
    let sources = sources.canonicalize().map_err(file(sources))?;
    let mut componentize = tool(&layout.dir)?;
    let (wit, world, app) = match sources.join("workflow.py").is_file() {
        true => ("wit", "workflow", "wfhost._app"),
        false => ("plugin-wit", "agent-plugin", "wfhost._plugin_app"),
    };
    componentize.arg("--wit-path").arg(layout.sdk.join(wit)).args(["--world", world]);
    componentize.args(["componentize", app, "--python-path"]).arg(&sources);
    // What the project has installed in its environment goes before what comes along.
    let environment = environment_of(&layout.dir);
    for place in environment.iter().chain([&layout.sdk]) {
        componentize.arg("--python-path").arg(place);
    }
    let inputs = inputs(&layout, &sources, environment.as_deref(), &componentize, world);
    layout.write_once(inputs.ok().as_ref(), |layout, partial| {
        progress(Progress::Packing(&layout.name));
        layout.run(componentize.arg("--output").arg(partial), TOOL)
    })
}

/// What componentize-py makes the component of.
fn inputs(
    layout: &Layout,
    sources: &Path,
    environment: Option<&Path>,
    tool: &Command,
    world: &str,
) -> io::Result<Inputs> {
    let mut inputs = Inputs::default();
    inputs.bytes("world", world.as_bytes());
    for (name, text) in SDK {
        inputs.bytes(name, text.as_bytes());
    }
    // What is built, and what `wfhost test` writes.
    let aside = [std::path::absolute(&layout.target)?, layout.dir.join("wfhost-failures")];
    inputs.project(sources, &aside)?;
    if let Some(environment) = environment {
        inputs.packages(environment)?;
    }
    inputs.stamp(&on_path(tool)?)?;
    Ok(inputs)
}

/// The file of a tool.
fn on_path(tool: &Command) -> io::Result<PathBuf> {
    let program = Path::new(tool.get_program());
    if program.components().count() > 1 {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The packages of the project's virtual environment.
fn environment_of(dir: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(dir.join(".venv/lib")).ok()?.flatten();
    versions.map(|version| version.path().join("site-packages")).find(|packages| packages.is_dir())
}

/// The tool of the project's virtual environment, else the one on the path.
fn tool(dir: &Path) -> Result<Command, BuildError> {
    let own = dir.join(".venv/bin").join(TOOL);
    if own.is_file() {
        // It is executed, so it has to be the user's own.
        private::check(&own).map_err(|source| BuildError::StrangeTool { name: TOOL, source })?;
        return Ok(Command::new(own));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(TOOL).is_file());
    match found {
        true => Ok(Command::new(TOOL)),
        false => Err(BuildError::NoComponentizePy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_package_is_carried() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk/python");
        let entries = std::fs::read_dir(sdk.join("wfhost")).unwrap().map(|entry| entry.unwrap());
        let entries = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut files: Vec<_> =
            entries.map(|entry| format!("wfhost/{}", entry.file_name().to_string_lossy())).collect();
        files.sort();
        let carried = SDK.iter().map(|(name, _)| *name).filter(|name| name.starts_with("wfhost/"));
        let mut carried: Vec<_> = carried.collect();
        carried.sort_unstable();
        assert_eq!(carried, files);
    }

    #[test]
    fn a_tool_that_others_may_write_is_not_executed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join(".venv/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(dir.path().join("workflow.py"), "").unwrap();
        std::fs::write(bin.join(TOOL), "#!/bin/sh\ntouch executed\n").unwrap();
        std::fs::set_permissions(bin.join(TOOL), PermissionsExt::from_mode(0o777)).unwrap();
        let built = build(dir.path(), dir.path(), &BuildOptions::default(), &mut |_| ());
        let error = built.unwrap_err();
        assert_eq!(error.code(), "WF0619", "{error}");
        assert!(error.hint().contains(".venv"), "{}", error.hint());
    }

    #[test]
    fn packages_of_the_environment_are_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(environment_of(dir.path()), None);
        let packages = dir.path().join(".venv/lib/python3.14/site-packages");
        std::fs::create_dir_all(&packages).unwrap();
        assert_eq!(environment_of(dir.path()), Some(packages));
    }
}
