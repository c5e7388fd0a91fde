//! Whose configuration is in force: project files of strangers, consent, and the project of a run.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually, finish, module};

/// A project directory with a provider `agent` that says its name and leaves a mark.
fn project(place: &Place, name: &str) -> std::path::PathBuf {
    let dir = place.path(name);
    std::fs::create_dir_all(&dir).unwrap();
    let program = dir.join("agent.sh");
    let text = format!("#!/bin/sh\ntouch {}\nprintf '%s' {name}\n", dir.join("was-here").display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(
        "[agents]\ndefault = \"agent\"\n[providers.agent]\nkind = \"command\"\nargv = [{program:?}]\n"
    );
    std::fs::write(dir.join("wfhost.toml"), config).unwrap();
    dir
}

/// `wfhost ARGS` in a directory.
fn within(place: &Place, dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = place.wfhost(args);
    command.current_dir(dir).envs(variables.iter().copied());
    let ran: Output = command.output().unwrap();
    Ran(ran)
}

fn ask() -> String {
    json!({ "do": [{ "agent": "who?" }] }).to_string()
}

fn start(place: &Place, dir: &Path, id: &str, more: &[&str]) -> Ran {
    let (module, input) = (module("probe"), ask());
    let mut args = vec!["run", &module, "-i", &input, "--id", id];
    args.extend(more);
    within(place, dir, &args, &[])
}

/// II-B2: a file that another user wrote above the working directory is not obeyed.
#[test]
fn a_project_file_of_a_stranger_is_refused() {
    let place = Place::new();
    let dir = project(&place, "theirs");
    let below = dir.join("mine");
    std::fs::create_dir(&below).unwrap();
    let refused = |why: &str| {
        let error = start(&place, &below, "r", &["--agent", "echo"]).error(2, &place);
        assert!(
            error.starts_with("error[WF0706]: the configuration DIR/theirs/wfhost.toml is not used"),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
        assert!(!dir.join("was-here").exists());
    };
    // Anybody may put another one in its place.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    refused("may be written by others (mode 777)");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(dir.join("wfhost.toml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    refused("may be written by others (mode 666)");
    std::fs::set_permissions(dir.join("wfhost.toml"), std::fs::Permissions::from_mode(0o644)).unwrap();
    // Only root can make a file another user's.
    if rustix::process::geteuid().is_root() {
        chown(dir.join("wfhost.toml"), Some(65_534), None).unwrap();
        refused("belongs to the user with the id 65534");
        // One that is named is used.
        let config = dir.join("wfhost.toml").display().to_string();
        assert_eq!(start(&place, &below, "named", &["--config", &config]).ok_json(), json!(["theirs"]));
    }
    // The root of a repository is where the search ends.
    std::fs::create_dir(below.join(".git")).unwrap();
    assert_eq!(start(&place, &below, "alone", &["--agent", "echo"]).ok_json(), json!(["who?"]));
}

#[test]
fn a_project_that_names_programs_is_asked_about_once() {
    let place = Place::new();
    let dir = project(&place, "p");
    let refused = |id: &str, said: &str| {
        let error = start(&place, &dir, id, &[]).error(2, &place);
        assert!(
            error.starts_with(&format!("error[WF0707]: the configuration DIR/p/wfhost.toml {said}")),
            "{error}"
        );
        assert!(error.contains("it sets providers.agent.argv"), "{error}");
        assert!(error.contains("then say `wfhost trust DIR/p`"), "{error}");
        assert!(!dir.join("was-here").exists());
    };
    refused("r", "is not trusted yet");
    // Looking needs no consent.
    assert_eq!(within(&place, &dir, &["ps"], &[]).code(), Some(0));
    let shown = within(&place, &dir, &["config", "show"], &[]);
    assert!(shown.stdout().contains("providers.agent.argv"), "{}", shown.stderr());
    assert_eq!(within(&place, &dir, &["trust"], &[]).code(), Some(0));
    assert_eq!(start(&place, &dir, "trusted", &[]).ok_json(), json!(["p"]));
    std::fs::remove_file(dir.join("was-here")).unwrap();
    // It was for that content.
    let config = std::fs::read_to_string(dir.join("wfhost.toml")).unwrap();
    std::fs::write(dir.join("wfhost.toml"), config + "# changed\n").unwrap();
    refused("changed", "changed since it was trusted");
    let trust = within(&place, place.path("").as_path(), &["trust", "p"], &[]);
    assert!(trust.stderr().contains("Trusted") && trust.stderr().contains("argv"), "{}", trust.stderr());
    assert_eq!(start(&place, &dir, "again", &[]).ok_json(), json!(["p"]));
    std::fs::remove_file(dir.join("was-here")).unwrap();
    assert_eq!(within(&place, &dir, &["untrust"], &[]).code(), Some(0));
    refused("withdrawn", "is not trusted yet");
    // Where nobody can be asked.
    assert_eq!(start(&place, &dir, "flag", &["--trust"]).ok_json(), json!(["p"]));
    let (module, input) = (module("probe"), ask());
    for (id, value) in
        [("all", "1".to_owned()), ("below", place.path("").canonicalize().unwrap().display().to_string())]
    {
        let ran =
            within(&place, &dir, &["run", &module, "-i", &input, "--id", id], &[("WFHOST_TRUST", &value)]);
        assert_eq!(ran.ok_json(), json!(["p"]), "{id}");
    }
    // A project that sets limits only is not asked about.
    std::fs::remove_file(dir.join("was-here")).unwrap();
    std::fs::write(dir.join("wfhost.toml"), "[agents]\ndefault = \"echo\"\n").unwrap();
    assert_eq!(start(&place, &dir, "harmless", &[]).ok_json(), json!(["who?"]));
}

fn trusted(place: &Place, name: &str) -> std::path::PathBuf {
    let dir = project(place, name);
    assert_eq!(within(place, &dir, &["trust"], &[]).code(), Some(0));
    dir
}

/// II-B1: what another directory's process does with a run.
#[test]
fn a_run_goes_on_with_the_configuration_of_its_own_project() {
    let place = Place::new();
    let (a, b) = (trusted(&place, "a"), trusted(&place, "b"));
    let (module, input) =
        (module("probe"), json!({ "do": [{ "sleep": 1 }, { "agent": "who?" }] }).to_string());
    let args = ["run", &module, "-i", &input, "--id", "of-a", "-d"];
    assert_eq!(within(&place, &a, &args, &[]).code(), Some(0));
    let shown = place.show("of-a");
    assert!(shown["project"].as_str().unwrap().ends_with("/a/wfhost.toml"), "{shown}");
    // `run` in another project advances its own run only.
    assert_eq!(start(&place, &b, "of-b", &[]).ok_json(), json!(["b"]));
    assert_eq!(place.show("of-a")["state"], "queued");
    assert!(!a.join("was-here").exists());
    // Whoever resumes it, from wherever: its agent is that of its project.
    let ran = within(&place, &b, &["resume", "of-a"], &[]);
    assert_eq!(ran.ok_json(), json!([null, "a"]));
    // A project that is gone is said to be.
    assert_eq!(
        within(&place, &a, &["run", &module, "-i", &input, "--id", "moved", "-d"], &[]).code(),
        Some(0)
    );
    std::fs::rename(&a, place.path("c")).unwrap();
    let error = within(&place, &b, &["resume", "moved"], &[]).error(2, &place);
    assert!(error.starts_with("error[WF0710]: the project of moved is not there"), "{error}");
    let config = place.path("b/wfhost.toml").display().to_string();
    assert_eq!(place.run(["resume", "moved", "--config", &config]).ok_json(), json!([null, "b"]));
}

#[test]
fn a_server_has_each_project_s_own_configuration() {
    let place = Place::new();
    let (a, b) = (trusted(&place, "a"), trusted(&place, "b"));
    let (module, input) = (module("probe"), ask());
    for (dir, id) in [(&a, "of-a"), (&b, "of-b")] {
        let args = ["run", &module, "-i", &input, "--id", id, "-d"];
        assert_eq!(within(&place, dir, &args, &[]).code(), Some(0));
    }
    let projects = [a.display().to_string(), b.display().to_string()];
    let mut serve =
        place.wfhost(["serve", "--project", &projects[0], "--project", &projects[1], "--idle", "500ms"]);
    let server = serve.spawn().unwrap();
    eventually("both", || {
        let done = |id: &str| place.show(id)["state"] == "completed";
        (done("of-a") && done("of-b")).then_some(())
    });
    assert_eq!(finish(server).code(), Some(0));
    let output = |id: &str| -> Value { place.show(id)["output"].clone() };
    assert_eq!((output("of-a"), output("of-b")), (json!(["a"]), json!(["b"])));
}
