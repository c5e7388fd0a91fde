//! Scenarios of `wfhost test` as ordinary tests: see [`scenarios!`](crate::scenarios).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// The variable that names the binary; else it is the `wfhost` on the `PATH`.
const BINARY: &str = "WFHOST_BIN";

fn wfhost() -> Command {
    Command::new(std::env::var_os(BINARY).filter(|name| !name.is_empty()).unwrap_or_else(|| "wfhost".into()))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        panic!("{program} cannot be started: {error}\ninstall wfhost, or name the binary by {BINARY}")
    })
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).join("")
}

/// The component of the project, which is built once for all tests of a process.
fn built(project: &Path) -> Result<PathBuf, String> {
    static BUILT: Mutex<Option<HashMap<PathBuf, Result<PathBuf, String>>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    let build = || {
        let output = run(wfhost().arg("build").arg(project).current_dir(project));
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(PathBuf::from(path)) } else { Err(said(&output)) }
    };
    built.entry(project.to_owned()).or_insert_with(build).clone()
}

/// Passes if the workflow of a project keeps what a scenario expects; without one, what every workflow has
/// to keep. [`scenarios!`](crate::scenarios) calls it.
///
/// # Panics
///
/// With the story of what went wrong, if something did; if the workflow cannot be built; if there is no `wfhost`.
#[track_caller]
pub fn scenario(project: &str, scenario: Option<&str>) {
    let project = Path::new(project);
    let module = built(project).unwrap_or_else(|error| panic!("{error}"));
    let mut command = wfhost();
    command.arg("test").arg(module).current_dir(project);
    if let Some(scenario) = scenario {
        command.arg("--scenario").arg(scenario);
    }
    let output = run(&mut command);
    assert!(output.status.success(), "{}", said(&output));
}
