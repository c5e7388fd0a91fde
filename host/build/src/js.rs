//! Workflows in JavaScript and TypeScript: bundled by esbuild, and made a
//! component by componentize-qjs. The project has both among its dependencies;
//! the SDK comes with wfhost.

use std::path::{Path, PathBuf};
use std::process::Command;

use wfhost_world::{environment, private};

use super::layout::Layout;
use super::{BuildError, BuildOptions, Built, Progress, file};

/// The SDK, its types, and the world for componentize-qjs.
const SDK: [(&str, &str); 3] = [
    ("wfhost.js", include_str!("../../../guest-sdk/js/wfhost.js")),
    ("wfhost.d.ts", include_str!("../../../guest-sdk/js/wfhost.d.ts")),
    ("wit/workflow.wit", include_str!("../../../wit/workflow.wit")),
];

/// The file that exports `run`.
const ENTRIES: [&str; 4] = ["workflow.ts", "workflow.js", "src/workflow.ts", "src/workflow.js"];

/// The main file of a project in one of these languages.
pub(super) fn entry(dir: &Path) -> Option<PathBuf> {
    ENTRIES.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// Builds the workflow with this main file.
pub(super) fn build(
    dir: &Path,
    entry: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, BuildError> {
    let layout = Layout::prepare(dir, "js-sdk", &SDK, options)?;
    let entry = entry.canonicalize().map_err(file(entry))?;
    let bundle = layout.intermediate("bundle.js");
    let mut esbuild = tool(&layout.dir, "esbuild")?;
    esbuild.arg(&entry).args(["--bundle", "--format=esm", "--platform=neutral", "--log-level=warning"]);
    esbuild.args(["--main-fields=module,main", "--external:wfhost:*", "--target=es2023"]);
    if !has_tsconfig(&layout.dir, &entry) {
        // Else it would take one of a directory above.
        esbuild.arg("--tsconfig-raw={}");
    }
    esbuild.arg(format!("--alias:wfhost={}", layout.sdk.join("wfhost.js").display()));
    esbuild.arg(format!("--outfile={}", bundle.display()));
    layout.run(&mut esbuild, "esbuild")?;

    progress(Progress::Wrapping(&layout.name));
    let mut componentize = tool(&layout.dir, "componentize-qjs")?;
    componentize.arg("--wit").arg(layout.sdk.join("wit")).args(["--world", "workflow", "--sync"]);
    componentize.arg("--js").arg(&bundle);
    layout.write(|layout, partial| layout.run(componentize.arg("--output").arg(partial), "componentize-qjs"))
}

/// Whether the project has settings of TypeScript of its own, beside its main file or above that.
fn has_tsconfig(dir: &Path, entry: &Path) -> bool {
    let within = entry.ancestors().skip(1).take_while(|above| above.starts_with(dir));
    within.into_iter().any(|dir| dir.join("tsconfig.json").is_file())
}

/// A tool of the project: `node_modules/.bin` of its directory or of one above, within the repository.
/// It is executed, so it has to be the user's own.
fn tool(dir: &Path, name: &'static str) -> Result<Command, BuildError> {
    let dirs = private::upward(dir, environment::home().as_deref());
    let mut places = dirs.into_iter().map(|dir| dir.join("node_modules/.bin").join(name));
    let found = places.find(|path| path.is_file());
    let found = found.ok_or_else(|| BuildError::NoNodeTool { name, dir: dir.to_owned() })?;
    private::check(&found).map_err(|source| BuildError::StrangeTool { name, source })?;
    let mut command = Command::new(found);
    command.current_dir(dir);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_file_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(entry(dir.path()), None);
        std::fs::create_dir(dir.path().join("src")).unwrap();
        std::fs::write(dir.path().join("src/workflow.js"), "").unwrap();
        assert_eq!(entry(dir.path()), Some(dir.path().join("src/workflow.js")));
        std::fs::write(dir.path().join("workflow.ts"), "").unwrap();
        assert_eq!(entry(dir.path()), Some(dir.path().join("workflow.ts")));
    }

    #[test]
    fn a_project_without_its_tools_is_told_to_install_them() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("workflow.js");
        std::fs::write(&main, "").unwrap();
        let error = build(dir.path(), &main, &BuildOptions::default(), &mut |_| ()).unwrap_err();
        assert_eq!(error.code(), "WF0616");
        assert!(error.hint().contains("npm install"));
    }
}
