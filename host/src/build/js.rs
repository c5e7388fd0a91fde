//! Workflows in JavaScript and TypeScript: bundled by esbuild, and made a
//! component by componentize-qjs. The project has both among its dependencies;
//! the SDK comes with wfhost.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{BuildError, BuildOptions, Built, Out, Progress};

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
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::File { path, source }
    };
    let dir = dir.canonicalize().map_err(file(dir))?;
    let entry = entry.canonicalize().map_err(file(entry))?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let target = options.target_dir.clone().unwrap_or_else(|| dir.join("target"));
    let sdk = target.join("wfhost/js-sdk");
    for (name, text) in SDK {
        let path = sdk.join(name);
        let parent = path.parent().unwrap_or(&sdk);
        std::fs::create_dir_all(parent).map_err(file(parent))?;
        std::fs::write(&path, text).map_err(file(&path))?;
    }
    let bundle = target.join(format!("wfhost/{name}.bundle.js"));
    let mut esbuild = tool(&dir, "esbuild")?;
    esbuild.arg(&entry).args(["--bundle", "--format=esm", "--platform=neutral", "--log-level=warning"]);
    esbuild.args(["--main-fields=module,main", "--external:wfhost:*", "--target=es2023"]);
    esbuild.arg(format!("--alias:wfhost={}", sdk.join("wfhost.js").display()));
    esbuild.arg(format!("--outfile={}", bundle.display()));
    run(&mut esbuild, "esbuild", &dir)?;

    progress(Progress::Wrapping(&name));
    let path = Out::new(options.out.as_deref(), &target, 1).path(&name);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(file(parent))?;
    }
    // Whole or not at all: somebody may be about to run the old one.
    let partial = path.with_extension(format!("partial.{}", std::process::id()));
    let mut componentize = tool(&dir, "componentize-qjs")?;
    componentize.arg("--wit").arg(sdk.join("wit")).args(["--world", "workflow", "--sync"]);
    // What it reports of its progress; errors go to stderr.
    componentize
        .arg("--js")
        .arg(&bundle)
        .arg("--output")
        .arg(std::path::absolute(&partial).map_err(file(&partial))?);
    componentize.stdout(Stdio::null());
    run(&mut componentize, "componentize-qjs", &dir)?;
    std::fs::rename(&partial, &path).map_err(file(&path))?;
    let bytes = std::fs::metadata(&path).map_err(file(&path))?.len();
    Ok(Built { name, path, bytes })
}

/// A tool of the project: `node_modules/.bin` of its directory or of one above.
fn tool(dir: &Path, name: &'static str) -> Result<Command, BuildError> {
    let places = dir.ancestors().map(|dir| dir.join("node_modules/.bin").join(name));
    let found = places.into_iter().find(|path| path.is_file());
    let mut command =
        Command::new(found.ok_or_else(|| BuildError::NoNodeTool { name, dir: dir.to_owned() })?);
    command.current_dir(dir).stdin(Stdio::null());
    Ok(command)
}

fn run(command: &mut Command, what: &'static str, dir: &Path) -> Result<(), BuildError> {
    let status =
        command.status().map_err(|source| BuildError::NoTool { command: what.to_owned(), source })?;
    match status.success() {
        true => Ok(()),
        false => Err(BuildError::Compiler { what, dir: dir.to_owned() }),
    }
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
