//! Workflows and plugins in Go: compiled by `go` for WASI preview 1 and wrapped. A workspace beside the SDK makes
//! its module known, so that neither the network nor a line in the project's go.mod is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::layout::{Layout, write_changed};
use super::{BuildError, BuildOptions, Built, Progress, componentize, file, read};

macro_rules! sdk {
    ($($file:literal),* $(,)?) => {
        /// The SDK, with its generated bindings.
        pub(super) const SDK: &[(&str, &str)] =
            &[$(($file, include_str!(concat!("../../../guest-sdk/go/", $file)))),*];
    };
}

sdk![
    "README.md",
    "agent.go",
    "go.mod",
    "host.go",
    "host_wasm.go",
    "internal/bindings/export_wit_world/workflow.go",
    "internal/bindings/wfhost_workflow_agent/empty.s",
    "internal/bindings/wfhost_workflow_agent/wit_bindings.go",
    "internal/bindings/wfhost_workflow_child/empty.s",
    "internal/bindings/wfhost_workflow_child/wit_bindings.go",
    "internal/bindings/wfhost_workflow_context/empty.s",
    "internal/bindings/wfhost_workflow_context/wit_bindings.go",
    "internal/bindings/wfhost_workflow_log/empty.s",
    "internal/bindings/wfhost_workflow_log/wit_bindings.go",
    "internal/bindings/wfhost_workflow_signal/empty.s",
    "internal/bindings/wfhost_workflow_signal/wit_bindings.go",
    "internal/bindings/wfhost_workflow_sleep/empty.s",
    "internal/bindings/wfhost_workflow_sleep/wit_bindings.go",
    "internal/bindings/wfhost_workflow_types/empty.s",
    "internal/bindings/wfhost_workflow_types/wit_bindings.go",
    "internal/bindings/wit_exports/wit_exports.go",
    "internal/bindings/wit_world/empty.s",
    "internal/bindings/wit_world/wit_bindings.go",
    "internal/plugin/export_wfhost_plugin_agent/agent.go",
    "internal/plugin/wfhost_plugin_agent/empty.s",
    "internal/plugin/wfhost_plugin_agent/wit_bindings.go",
    "internal/plugin/wfhost_plugin_http/empty.s",
    "internal/plugin/wfhost_plugin_http/wit_bindings.go",
    "internal/plugin/wfhost_plugin_progress/empty.s",
    "internal/plugin/wfhost_plugin_progress/wit_bindings.go",
    "internal/plugin/wfhost_plugin_types/empty.s",
    "internal/plugin/wfhost_plugin_types/wit_bindings.go",
    "internal/plugin/wit_exports/wit_exports.go",
    "internal/wit/LICENSE",
    "internal/wit/runtime/runtime.go",
    "internal/wit/types/option.go",
    "internal/wit/types/result.go",
    "internal/wit/types/tuple.go",
    "internal/wit/types/unit.go",
    "patterns.go",
    "plugin/host.go",
    "plugin/host_wasm.go",
    "plugin/http.go",
    "plugin/plugin.go",
    "pluginhttp/pluginhttp.go",
    "run.go",
    "saga.go",
    "schema.go",
    "step.go",
    "wfhost.go",
    "wfhosttest/wfhosttest.go",
];

/// The file that makes a directory a Go module.
pub(super) fn module(dir: &Path) -> Option<PathBuf> {
    Some(dir.join("go.mod")).filter(|path| path.is_file())
}

/// Builds the workflow or plugin in a directory: which of both it is say its exports.
pub(super) fn build(
    dir: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, BuildError> {
    let layout = Layout::prepare(dir, "go-sdk", SDK, options)?;
    let workspace = layout.sdk.with_file_name("go.work");
    let text = format!("go 1.25\n\nuse (\n\t{}\n\t{}\n)\n", quoted(&layout.dir), quoted(&layout.sdk));
    write_changed(&workspace, &text)?;
    let core = layout.intermediate("core.wasm");
    let mut go = find().ok_or(BuildError::NoGo)?;
    go.current_dir(&layout.dir).env("GOOS", "wasip1").env("GOARCH", "wasm");
    go.env("GOWORK", std::path::absolute(&workspace).map_err(file(&workspace))?);
    // The runtime of the bindings uses `runtime.sbrk`, which Go keeps to itself.
    go.args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-checklinkname=0"]);
    // Nothing of a repository that the directory lies in, which may be broken or somebody else's.
    go.args(["-buildvcs=false", "-o"]);
    // Flags that somebody has set for his own projects may not go together with a workspace.
    go.env("GOFLAGS", "-buildvcs=false").env("GO111MODULE", "on");
    go.arg(std::path::absolute(&core).map_err(file(&core))?).arg(".");
    layout.run(&mut go, "go")?;
    progress(Progress::Wrapping(&layout.name));
    let component = componentize(&read(&core)?)
        .map_err(|reason| BuildError::Componentize { path: core.clone(), reason })?;
    layout.write(|_, partial| std::fs::write(partial, &component).map_err(file(partial)))
}

/// A path as go.work has it.
fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    format!("{:?}", path.display().to_string())
}

fn find() -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("go")).find(|path| path.is_file())?;
    Some(Command::new(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_sdk_is_carried() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk/go");
        let mut dirs = vec![sdk.clone()];
        let mut files = Vec::new();
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    files.push(path.strip_prefix(&sdk).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        files.retain(|file| !file.ends_with("_test.go"));
        files.sort();
        let mut carried: Vec<_> = SDK.iter().map(|(name, _)| (*name).to_owned()).collect();
        carried.sort();
        assert_eq!(carried, files);
    }

    #[test]
    fn a_directory_is_a_go_module_by_its_go_mod() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(module(dir.path()), None);
        std::fs::write(dir.path().join("go.mod"), "module x\n").unwrap();
        assert_eq!(module(dir.path()), Some(dir.path().join("go.mod")));
    }
}
