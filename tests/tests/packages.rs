//! The SDKs as packages: made as they would be published, put into an empty directory, and used from there.
//! And the tests that the SDKs have of their own, over hosts that are none.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use wfhost_tests::Place;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs a tool, which has to succeed, and gives what it wrote.
#[track_caller]
fn tool(dir: &Path, command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Copies an SDK without what tools have left there.
fn copy(sdk: &str, to: &Path) {
    let from = root().join("guest-sdk").join(sdk);
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        std::fs::create_dir_all(to.join(&dir)).unwrap();
        for entry in std::fs::read_dir(from.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            if ["node_modules", "build", "__pycache__", ".mypy_cache"].contains(&name.as_str())
                || name.ends_with(".egg-info")
            {
                continue;
            }
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(path),
                false => drop(std::fs::copy(entry.path(), to.join(path)).unwrap()),
            }
        }
    }
}

/// Builds the project and runs it: it greets and tells which SDK it has.
fn greets(place: &Place, dir: &Path) {
    let built = place.run(["build", &dir.display().to_string()]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let output = place.run(["run", built.stdout().trim(), "--agent", "echo"]).ok_json();
    assert_eq!(output, json!(["greet", "installed"]));
}

#[test]
fn the_npm_package_is_used_from_an_empty_directory() {
    let place = Place::new();
    copy("js", &place.path("sdk"));
    let packed = tool(&place.path("sdk"), "npm", &["pack", "--silent", "--pack-destination", ".."]);
    let dir = place.path("project");
    std::fs::create_dir(&dir).unwrap();
    place.file("project/package.json", r#"{ "private": true, "type": "module" }"#);
    let install = ["install", "--offline", "--silent", "--no-audit", "--no-fund", "--omit=dev"];
    tool(&dir, "npm", &[&install[..], &[&format!("../{}", packed.trim())]].concat());
    let package = dir.join("node_modules/wfhost");
    for file in ["wfhost.js", "wfhost.d.ts", "globals.d.ts", "install.js", "README.md"] {
        assert!(package.join(file).is_file(), "{file} is not in the package");
    }
    assert!(!package.join("test").exists());
    // The tools are those of the repository.
    let bin = dir.join("node_modules/.bin");
    std::fs::create_dir_all(&bin).unwrap();
    for name in ["esbuild", "componentize-qjs", "tsc"] {
        let path = root().join("guest-sdk/js/node_modules/.bin").join(name).canonicalize().unwrap();
        std::os::unix::fs::symlink(path, bin.join(name)).unwrap();
    }
    let sdk = std::fs::read_to_string(package.join("wfhost.js")).unwrap();
    std::fs::write(package.join("wfhost.js"), sdk + "\nexport const mark = \"installed\";\n").unwrap();
    place.file(
        "project/workflow.ts",
        r#"
        import * as sdk from "wfhost";
        import { agent, workflow } from "wfhost";
        export const run = workflow(async () => {
          const text: string = await agent("greet");
          setTimeout(() => console.log("in time"), 1);
          return [text, (sdk as unknown as { mark: string }).mark];
        });
        "#,
    );
    place.file(
        "project/tsconfig.json",
        r#"{ "compilerOptions": { "target": "es2023", "lib": ["es2023"], "module": "esnext", "moduleResolution": "bundler",
             "strict": true, "noEmit": true, "types": ["wfhost/globals"] }, "files": ["workflow.ts"] }"#,
    );
    tool(&dir, "node_modules/.bin/tsc", &[]);
    greets(&place, &dir);
}

#[test]
fn the_python_package_is_used_from_an_empty_directory() {
    let place = Place::new();
    copy("python", &place.path("sdk"));
    tool(
        &place.path("sdk"),
        "python3",
        &["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "..", "."],
    );
    let dir = place.path("project");
    std::fs::create_dir(&dir).unwrap();
    tool(&dir, "python3", &["-m", "venv", ".venv"]);
    let wheel = "../wfhost-0.1.0-py3-none-any.whl";
    tool(&dir, ".venv/bin/python", &["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]);
    let typed = "import wfhost, pathlib; print(pathlib.Path(wfhost.__file__).parent)";
    let package = PathBuf::from(tool(&dir, ".venv/bin/python", &["-c", typed]).trim());
    assert!(package.starts_with(dir.canonicalize().unwrap()), "{package:?}");
    assert!(package.join("py.typed").is_file());
    let sdk = std::fs::read_to_string(package.join("__init__.py")).unwrap();
    std::fs::write(package.join("__init__.py"), sdk + "\nMARK = \"installed\"\n").unwrap();
    place.file(
        "project/workflow.py",
        "import wfhost\n\nasync def run():\n    return [await wfhost.agent(\"greet\"), wfhost.MARK]\n",
    );
    greets(&place, &dir);
}

/// Go takes files only, no directories.
const ZIP: &str = "
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as made:
    for path in sorted(pathlib.Path('.').rglob('*')):
        if path.is_file():
            made.write(path)
";

#[test]
fn the_go_module_is_used_from_an_empty_directory() {
    let place = Place::new();
    // A proxy of modules with the one.
    let module = "github.com/wfhost/wfhost/guest-sdk/go";
    let tree = place.path("tree").join(format!("{module}@v0.1.0"));
    copy("go", &tree);
    let proxy = place.path("proxy").join(module).join("@v");
    std::fs::create_dir_all(&proxy).unwrap();
    std::fs::copy(tree.join("go.mod"), proxy.join("v0.1.0.mod")).unwrap();
    std::fs::write(proxy.join("list"), "v0.1.0\n").unwrap();
    std::fs::write(proxy.join("v0.1.0.info"), r#"{ "Version": "v0.1.0" }"#).unwrap();
    let zip = proxy.join("v0.1.0.zip").display().to_string();
    tool(&place.path("tree"), "python3", &["-c", ZIP, &zip]);
    let dir = place.path("project");
    std::fs::create_dir(&dir).unwrap();
    place.file("project/go.mod", format!("module project\n\ngo 1.25\n\nrequire {module} v0.1.0\n"));
    place.file(
        "project/workflow.go",
        r#"package main

import (
	"context"

	wfhost "github.com/wfhost/wfhost/guest-sdk/go"
)

func init() { wfhost.Workflow(run) }
func main() {}

func run(ctx context.Context, _ any) ([]string, error) {
	text, err := wfhost.Agent{Prompt: "greet"}.Text(ctx)
	return []string{text, "installed"}, err
}
"#,
    );
    let core = place.path("core.wasm").display().to_string();
    let mut go = Command::new("go");
    go.args(["build", "-mod=mod", "-buildmode=c-shared", "-ldflags=-checklinkname=0", "-o", &core, "."]);
    go.current_dir(&dir)
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-modcacherw");
    go.env("GOPROXY", format!("file://{}", place.path("proxy").display())).env("GONOSUMDB", "*");
    go.env("GOMODCACHE", place.path("modules"));
    let output = go.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = place.path("project.wasm").display().to_string();
    let built = place.run(["build", &core, "--out", &out]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let output = place.run(["run", &out, "--agent", "echo"]).ok_json();
    assert_eq!(output, json!(["greet", "installed"]));
}

#[test]
fn the_javascript_sdk_passes_its_own_tests() {
    let sdk = root().join("guest-sdk/js");
    tool(&sdk, "npm", &["test", "--silent"]);
    for project in
        ["test", "../../tests/behaviours/js", "../../examples/research-js", "../../examples/weather-js"]
    {
        tool(&sdk, "node_modules/.bin/tsc", &["-p", project]);
    }
}

#[test]
fn the_python_sdk_passes_its_own_tests() {
    let place = Place::new();
    let sdk = root().join("guest-sdk/python");
    tool(&sdk, "python3", &["-W", "error::RuntimeWarning", "-B", "-m", "unittest", "discover", "tests"]);
    // The settings are in pyproject.toml; the programs are found beside the package.
    let cache = place.path("mypy").display().to_string();
    tool(&sdk, "python3", &["-m", "mypy", "--cache-dir", &cache]);
    for program in [
        "examples/research-python/workflow.py",
        "tests/behaviours/python/workflow.py",
        "examples/feeds-python/plugin.py",
    ] {
        let file = root().join(program).display().to_string();
        tool(&sdk, "python3", &["-m", "mypy", "--config-file=", "--strict", "--cache-dir", &cache, &file]);
    }
}

#[test]
fn the_go_sdk_passes_its_own_tests() {
    let sdk = root().join("guest-sdk/go");
    tool(&sdk, "go", &["vet", "."]);
    tool(&sdk, "go", &["test", "-count=1", "."]);
}

#[test]
fn the_c_sdk_passes_its_own_tests() {
    let place = Place::new();
    let program = place.path("test").display().to_string();
    let sdk = root().join("guest-sdk/c");
    tool(
        &sdk,
        "cc",
        &[
            "-Wall",
            "-Wextra",
            "-Werror",
            "-I.",
            "test/sdk_test.c",
            "json.c",
            "patterns.c",
            "-lm",
            "-o",
            &program,
        ],
    );
    assert_eq!(tool(&sdk, &program, &[]), "ok\n");
}
