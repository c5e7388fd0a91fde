//! Workflows in JavaScript and TypeScript: bundled by esbuild, and made a
//! component by componentize-qjs. The project has both among its dependencies;
//! the SDK comes with wfhost.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use wfhost_world::{environment, private};

use super::inputs::Inputs;
use super::layout::Layout;
use super::{BuildError, BuildOptions, Built, Progress, file};

macro_rules! sdk {
    ($($file:literal),* $(,)?) => {
        /// The SDK, which is an npm package, and the world for componentize-qjs.
        pub(super) const SDK: &[(&str, &str)] = &[
            $(($file, include_str!(concat!("../../../guest-sdk/js/", $file))),)*
            ("wit/workflow.wit", include_str!("../../../wit/workflow.wit")),
            ("plugin-wit/plugin.wit", include_str!("../../../wit/plugin/plugin.wit")),
        ];
    };
}

sdk![
    "README.md",
    "failure.js",
    "globals.d.ts",
    "install.js",
    "loop.js",
    "package.json",
    "patterns.js",
    "plugin.d.ts",
    "plugin.js",
    "policy.js",
    "promise.js",
    "saga.js",
    "schema.js",
    "testing.d.ts",
    "testing.js",
    "timers.js",
    "wfhost.d.ts",
    "wfhost.js",
];

/// What esbuild rewrites. An export of a component has returned before the engine runs what promises
/// wait for, so `async` becomes generators over the promises of the SDK.
const LOWERED: [&str; 3] = ["async-await", "async-generator", "for-await"];

/// The file that exports `run`, or the `agent` of a plugin.
const ENTRIES: [&str; 4] = ["workflow.ts", "workflow.js", "src/workflow.ts", "src/workflow.js"];
const PLUGIN_ENTRIES: [&str; 4] = ["plugin.ts", "plugin.js", "src/plugin.ts", "src/plugin.js"];

/// The main file of a project in one of these languages.
pub(super) fn entry(dir: &Path) -> Option<PathBuf> {
    let names = ENTRIES.iter().chain(&PLUGIN_ENTRIES);
    names.map(|name| dir.join(name)).find(|path| path.is_file())
}

fn is_plugin(entry: &Path) -> bool {
    entry.file_stem().is_some_and(|name| name == "plugin")
}

/// Builds the workflow with this main file.
pub(super) fn build(
    dir: &Path,
    entry: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, BuildError> {
    let layout = Layout::prepare(dir, "js-sdk", SDK, options)?;
    let sdk = installed(&layout.dir).unwrap_or_else(|| layout.sdk.clone());
    let entry = entry.canonicalize().map_err(file(entry))?;
    let bundle = layout.intermediate("bundle.js");
    let mut esbuild = tool(&layout.dir, "esbuild")?;
    esbuild.arg(&entry).args(["--bundle", "--format=esm", "--platform=neutral", "--log-level=warning"]);
    esbuild.args(["--main-fields=module,main", "--external:wfhost:*", "--target=es2023"]);
    if !has_tsconfig(&layout.dir, &entry) {
        // Else it would take one of a directory above.
        esbuild.arg("--tsconfig-raw={}");
    }
    if is_plugin(&entry) {
        esbuild.arg(format!("--alias:wfhost/plugin={}", sdk.join("plugin.js").display()));
    } else {
        esbuild.args(LOWERED.map(|feature| format!("--supported:{feature}=false")));
        esbuild.arg(format!("--inject:{}", sdk.join("install.js").display()));
        esbuild.arg(format!("--alias:wfhost={}", sdk.join("wfhost.js").display()));
    }
    esbuild.arg(format!("--outfile={}", bundle.display()));
    layout.run(&mut esbuild, "esbuild")?;

    let mut componentize = tool(&layout.dir, "componentize-qjs")?;
    let (wit, world) = if is_plugin(&entry) { ("plugin-wit", "agent-plugin") } else { ("wit", "workflow") };
    componentize.arg("--wit").arg(layout.sdk.join(wit)).args(["--world", world, "--sync"]);
    componentize.arg("--js").arg(&bundle);
    let inputs = inputs(&layout, &bundle, &componentize, world);
    layout.write_once(inputs.ok().as_ref(), |layout, partial| {
        progress(Progress::Packing(&layout.name));
        layout.run(componentize.arg("--output").arg(partial), "componentize-qjs")
    })
}

/// What componentize-qjs makes the component of.
fn inputs(layout: &Layout, bundle: &Path, tool: &Command, world: &str) -> io::Result<Inputs> {
    let mut inputs = Inputs::default();
    inputs.bytes("bundle", &std::fs::read(bundle)?);
    inputs.bytes("world", world.as_bytes());
    for (name, text) in SDK.iter().filter(|(name, _)| name.ends_with(".wit")) {
        inputs.bytes(name, text.as_bytes());
    }
    // The tool is a file of its package, which says its version.
    let tool = Path::new(tool.get_program()).canonicalize()?;
    inputs.stamp(&tool)?;
    let package = tool.ancestors().map(|dir| dir.join("package.json")).find(|path| path.is_file());
    if let Some(package) = package {
        inputs.bytes("package", &std::fs::read(package)?);
    }
    inputs.bytes("project", layout.dir.as_os_str().as_encoded_bytes());
    Ok(inputs)
}

/// The SDK that the project has installed as a package of its own. It comes with wfhost otherwise.
fn installed(dir: &Path) -> Option<PathBuf> {
    let sdk = dir.join("node_modules/wfhost").canonicalize().ok()?;
    sdk.join("install.js").is_file().then_some(sdk)
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
    fn the_whole_sdk_is_carried() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk/js");
        let files = std::fs::read_dir(&sdk).unwrap().map(|entry| entry.unwrap());
        let files = files.filter(|entry| entry.file_type().unwrap().is_file());
        let mut files: Vec<_> = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        files.retain(|name| name != "package-lock.json");
        files.sort();
        let carried = SDK.iter().map(|(name, _)| *name).filter(|name| !name.contains("wit/"));
        let mut carried: Vec<_> = carried.collect();
        carried.sort_unstable();
        assert_eq!(carried, files);
    }

    #[test]
    fn a_package_of_the_sdk_goes_before_the_one_that_comes_along() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("node_modules/wfhost");
        std::fs::create_dir_all(&package).unwrap();
        assert_eq!(installed(dir.path()), None);
        std::fs::write(package.join("install.js"), "").unwrap();
        assert_eq!(installed(dir.path()), Some(package.canonicalize().unwrap()));
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
