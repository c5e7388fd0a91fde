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
    let dir = npm_project(&place);
    let package = dir.join("node_modules/wfhost");
    for file in
        ["wfhost.js", "wfhost.d.ts", "globals.d.ts", "install.js", "testing.js", "testing.d.ts", "README.md"]
    {
        assert!(package.join(file).is_file(), "{file} is not in the package");
    }
    assert!(!package.join("test").exists());
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
    assert!(package.with_file_name("wfhost_pytest.py").is_file());
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

/// Two scenarios of a workflow that greets once: one that holds, and one that wants it twice.
fn write_scenarios(place: &Place) {
    let agents = "[[agents]]\nreply = \"hello\"\n";
    place.file("project/wfhost-test.toml", agents);
    std::fs::create_dir(place.path("project/scenarios")).unwrap();
    let twice = "[[expect.calls]]\nmatch = \"^greet\"\nat_least = 2\nwhen = [\"completed\"]\n";
    place.file("project/scenarios/greets-twice.toml", format!("{agents}{twice}"));
}

/// Runs a test runner in the project. Gives whether all tests passed, and what it said.
fn runner(place: &Place, command: &mut Command) -> (bool, String) {
    let path = std::env::var("PATH").unwrap();
    let binary = wfhost_tests::target().join("debug/wfhost");
    // What the machine's user has set is not used, as in the other tests.
    let of_place = place.wfhost([""; 0]);
    command.envs(of_place.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(place.path("project")).env("WFHOST_BIN", &binary).env("PATH", path);
    command.env("WFHOST_EXECUTIONS", "30");
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Has a test runner make tests of them, in a project that is there: one has to pass, and the other to fail with
/// its story.
#[track_caller]
fn fails_with_a_story(place: &Place, command: &mut Command) -> String {
    let (passes, text) = runner(place, command);
    assert!(!passes, "{text}");
    assert!(text.contains("1 call matches `^greet`; expected: at least 2"), "{text}");
    assert!(text.contains("agent `greet` answers"), "{text}");
    text
}

#[test]
fn the_rust_crates_are_used_from_an_empty_directory_and_cargo_test_runs_scenarios() {
    let place = Place::new();
    let packages = place.path("packages").display().to_string();
    let mut package =
        vec!["package", "--offline", "--allow-dirty", "--no-verify", "--quiet", "--target-dir", &packages];
    package.extend(["-p", "wfhost-sdk-macros", "-p", "wfhost-sdk"]);
    tool(&root(), "cargo", &package);
    let dir = place.path("project");
    std::fs::create_dir_all(dir.join("src")).unwrap();
    std::fs::create_dir(dir.join("tests")).unwrap();
    for name in ["wfhost-sdk-macros", "wfhost-sdk"] {
        let package = format!("{packages}/package/{name}-0.1.0.crate");
        tool(&dir, "tar", &["xzf", &package]);
    }
    for stranger in ["js", "python", "go", "c", "tests"] {
        assert!(!dir.join("wfhost-sdk-0.1.0").join(stranger).exists(), "{stranger} is in the package");
    }
    place.file(
        "project/Cargo.toml",
        r#"[package]
name = "project"
version = "0.1.0"
edition = "2024"
[lib]
crate-type = ["cdylib"]
[dependencies]
wfhost = { package = "wfhost-sdk", path = "wfhost-sdk-0.1.0" }
[patch.crates-io]
wfhost-sdk-macros = { path = "wfhost-sdk-macros-0.1.0" }
[workspace]
exclude = ["wfhost-sdk-0.1.0", "wfhost-sdk-macros-0.1.0"]
"#,
    );
    place.file(
        "project/src/lib.rs",
        "#[wfhost::workflow]\nasync fn run() -> wfhost::Result<[String; 2]> {\n    let text = wfhost::agent(\"greet\").text().await?;\n    Ok([text, \"installed\".to_owned()])\n}\n",
    );
    greets(&place, &dir);
    place.file("project/tests/scenarios.rs", "wfhost::scenarios!();\n");
    write_scenarios(&place);
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--offline"]).env_remove("CARGO_TARGET_DIR");
    let text = fails_with_a_story(&place, &mut cargo);
    assert!(text.contains("test wfhost_test ... ok"), "{text}");
    assert!(text.contains("test greets_twice ... FAILED"), "{text}");
}

/// The package `wfhost` of npm in a project, with the tools of the repository.
fn npm_project(place: &Place) -> PathBuf {
    copy("js", &place.path("sdk"));
    let packed = tool(&place.path("sdk"), "npm", &["pack", "--silent", "--pack-destination", ".."]);
    let dir = place.path("project");
    std::fs::create_dir(&dir).unwrap();
    place.file("project/package.json", r#"{ "private": true, "type": "module" }"#);
    let install = ["install", "--offline", "--silent", "--no-audit", "--no-fund", "--omit=dev"];
    tool(&dir, "npm", &[&install[..], &[&format!("../{}", packed.trim())]].concat());
    let bin = dir.join("node_modules/.bin");
    std::fs::create_dir_all(&bin).unwrap();
    let tools = root().join("guest-sdk/js/node_modules");
    for name in ["esbuild", "componentize-qjs", "tsc", "vitest"] {
        let path = tools.join(".bin").join(name).canonicalize().unwrap();
        std::os::unix::fs::symlink(path, bin.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(tools.join("vitest"), dir.join("node_modules/vitest")).unwrap();
    dir
}

#[test]
fn the_runners_of_javascript_run_scenarios() {
    let place = Place::new();
    let dir = npm_project(&place);
    place.file(
        "project/workflow.ts",
        "import { agent, workflow } from \"wfhost\";\nexport const run = workflow(async () => await agent(\"greet\"));\n",
    );
    write_scenarios(&place);
    place.file(
        "project/node.test.js",
        "import test from \"node:test\";\nimport { scenarios } from \"wfhost/testing\";\nscenarios(test);\n",
    );
    place.file(
        "project/vitest.test.js",
        "import { test } from \"vitest\";\nimport { scenarios } from \"wfhost/testing\";\nscenarios(test);\n",
    );
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter", "tap", "node.test.js"]);
    // Under a runner of tests it would report to that one.
    node.env_remove("NODE_TEST_CONTEXT");
    let text = fails_with_a_story(&place, &mut node);
    assert!(text.contains("\nok 1 - wfhost-test") && text.contains("not ok 2 - greets-twice"), "{text}");
    let mut vitest = Command::new(dir.join("node_modules/.bin/vitest"));
    vitest.args(["run", "--reporter", "verbose", "vitest.test.js"]).env("CI", "true");
    let text = fails_with_a_story(&place, &mut vitest);
    assert!(text.contains("✓ vitest.test.js > wfhost-test"), "{text}");
}

#[test]
fn pytest_runs_scenarios() {
    let place = Place::new();
    copy("python", &place.path("sdk"));
    tool(
        &place.path("sdk"),
        "python3",
        &["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "..", "."],
    );
    let dir = place.path("project");
    std::fs::create_dir(&dir).unwrap();
    // The tests' pytest is that of the system.
    tool(&dir, "python3", &["-m", "venv", "--system-site-packages", ".venv"]);
    let wheel = "../wfhost-0.1.0-py3-none-any.whl";
    tool(&dir, ".venv/bin/python", &["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]);
    place.file(
        "project/workflow.py",
        "from wfhost import agent\n\nasync def run():\n    return await agent(\"greet\")\n",
    );
    write_scenarios(&place);
    let mut pytest = Command::new(dir.join(".venv/bin/python"));
    pytest.args(["-m", "pytest", "-v", "-p", "no:cacheprovider"]);
    let text = fails_with_a_story(&place, &mut pytest);
    assert!(text.contains("wfhost-test.toml::wfhost-test PASSED"), "{text}");
    assert!(text.contains("1 failed, 1 passed"), "{text}");
    // A TOML file that belongs to no workflow is nothing.
    place.file("project/scenarios/other.md", "");
    std::fs::create_dir_all(place.path("project/elsewhere/scenarios")).unwrap();
    place.file("project/elsewhere/scenarios/x.toml", "");
    let mut listed = Command::new(dir.join(".venv/bin/python"));
    listed.args(["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]).current_dir(&dir);
    let listed = String::from_utf8_lossy(&listed.output().unwrap().stdout).into_owned();
    assert!(listed.contains("2 tests collected"), "{listed}");
    // Without scenarios there is one test, of a workflow that is one.
    std::fs::remove_file(dir.join("wfhost-test.toml")).unwrap();
    std::fs::remove_dir_all(dir.join("scenarios")).unwrap();
    std::fs::create_dir(dir.join("other")).unwrap();
    place.file("project/other/workflow.py", "def run():\n    return 1\n");
    let mut pytest = Command::new(dir.join(".venv/bin/python"));
    pytest.args(["-m", "pytest", "-v", "-p", "no:cacheprovider"]);
    let (passes, text) = runner(&place, &mut pytest);
    assert!(passes && text.contains("workflow.py::usual PASSED") && text.contains("1 passed"), "{text}");
}

#[test]
fn go_test_runs_scenarios() {
    let place = Place::new();
    let dir = place.path("project");
    let made = place.run(["new", "-t", "go", &dir.display().to_string()]);
    assert_eq!(made.code(), Some(0), "{}", made.stderr());
    write_scenarios(&place);
    // `wfhost new` writes the SDK where `go.work` finds it.
    place.file(
        "project/workflow_test.go",
        "package main\n\nimport (\n\t\"testing\"\n\n\t\"github.com/wfhost/wfhost/guest-sdk/go/wfhosttest\"\n)\n\nfunc TestScenarios(t *testing.T) { wfhosttest.Scenarios(t) }\n",
    );
    let source = std::fs::read_to_string(dir.join("workflow.go")).unwrap();
    std::fs::write(dir.join("workflow.go"), source.replace("\"greet \" + name", "\"greet\"")).unwrap();
    let mut go = Command::new("go");
    go.args(["test", "-count=1", "-v", "."]).env("GOPROXY", "off");
    let text = fails_with_a_story(&place, &mut go);
    assert!(text.contains("--- PASS: TestScenarios/wfhost-test"), "{text}");
    assert!(text.contains("--- FAIL: TestScenarios/greets-twice"), "{text}");
    // Go does not see what wfhost reads, so it must not keep the result.
    std::fs::remove_file(dir.join("scenarios/greets-twice.toml")).unwrap();
    for time in 1..=2 {
        let mut go = Command::new("go");
        go.args(["test", "."]).env("GOPROXY", "off");
        let (passes, text) = runner(&place, &mut go);
        assert!(passes && !text.contains("(cached)"), "{time}: {text}");
    }
}

/// The binary of the tests as packages. It is not built for them.
fn packed(place: &Place, kind: &str) -> String {
    let binary = wfhost_tests::target().join("debug/wfhost").display().to_string();
    let out = place.path("packages").display().to_string();
    let script = root().join("host/packaging/package").display().to_string();
    let packed = tool(&root(), &script, &["--binary", &binary, "--out", &out, "--quick", kind]);
    packed.trim().to_owned()
}

/// A program that was installed runs.
#[track_caller]
fn works(place: &Place, program: &Path) {
    let version = tool(Path::new("/"), &program.display().to_string(), &["--version"]);
    assert_eq!(version, concat!("wfhost ", env!("CARGO_PKG_VERSION"), "\n"));
    let mut command = Command::new(program);
    command.env_clear().env("HOME", place.path("home")).args(["demo", "--quiet"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_debian_package_is_installed_into_an_empty_root() {
    let place = Place::new();
    let package = packed(&place, "deb");
    let dir = place.path("root");
    for part in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
    std::fs::write(dir.join("var/lib/dpkg/status"), "").unwrap();
    // What it depends on is not in the empty root.
    let installing = format!("--root={}", dir.display());
    let more = ["--force-depends", "--force-not-root", "--force-bad-path", "-i", &package];
    tool(&dir, "dpkg", &[&[installing.as_str()], &more[..]].concat());
    let listed = tool(&dir, "dpkg-deb", &["-f", &package, "Depends"]);
    assert!(listed.starts_with("libc6 (>= 2."), "{listed}");
    for file in ["usr/share/doc/wfhost/copyright", "usr/share/bash-completion/completions/wfhost"] {
        assert!(dir.join(file).is_file(), "{file}");
    }
    works(&place, &dir.join("usr/bin/wfhost"));
}

#[test]
fn the_wheel_with_the_binary_is_installed_into_an_empty_environment() {
    let place = Place::new();
    let wheel = packed(&place, "wheel");
    tool(&place.path("packages"), "python3", &["-m", "venv", "venv"]);
    let venv = place.path("packages/venv/bin");
    let install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", &wheel];
    tool(&venv, "./python", &install);
    works(&place, &venv.join("wfhost"));
    tool(&venv, "./python", &["-m", "pip", "uninstall", "--quiet", "--yes", "wfhost-cli"]);
    assert!(!venv.join("wfhost").exists());
}

#[test]
fn the_npm_package_with_the_binary_is_installed_into_an_empty_directory() {
    let place = Place::new();
    let package = packed(&place, "npm");
    let dir = place.path("project");
    std::fs::create_dir(&dir).unwrap();
    place.file("project/package.json", r#"{ "private": true }"#);
    tool(&dir, "npm", &["install", "--offline", "--silent", "--no-audit", "--no-fund", &package]);
    works(&place, &dir.join("node_modules/.bin/wfhost"));
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
        "host/cli/templates/plugin-python/plugin.py",
    ] {
        let file = root().join(program).display().to_string();
        tool(&sdk, "python3", &["-m", "mypy", "--config-file=", "--strict", "--cache-dir", &cache, &file]);
    }
}

#[test]
fn the_go_sdk_passes_its_own_tests() {
    let sdk = root().join("guest-sdk/go");
    tool(&sdk, "go", &["vet", ".", "./plugin", "./pluginhttp", "./wfhosttest"]);
    tool(&sdk, "go", &["test", "-count=1", ".", "./plugin", "./pluginhttp"]);
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
