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

/// The second process of the demo obeys the configuration that the first one does.
#[test]
fn the_demo_is_of_the_configuration_that_was_named() {
    let place = Place::new();
    let dir = project(&place, "mine");
    let error = within(&place, &dir, &["demo"], &[]).error(2, &place);
    assert!(error.starts_with("error[WF0707]"), "{error}");
    let config = place.file("other.toml", "");
    for args in [&["demo", "--trust"][..], &["demo", "--config", &config]] {
        let ran = within(&place, &dir, args, &[]);
        assert_eq!(ran.ok_json(), "nothing was lost", "{args:?}");
    }
}

/// A file that another user wrote above the working directory is not obeyed.
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
    refused("can be written by other users (mode 777)");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(dir.join("wfhost.toml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    refused("can be written by other users (mode 666)");
    // Not even where all files are trusted; one below a directory that was named is.
    let (module, input) = (module("probe"), ask());
    let below_named = place.path("theirs").canonicalize().unwrap().display().to_string();
    for (id, flag, value, code) in
        [("flag", "--trust", "", 2), ("all", "-q", "1", 2), ("named-dir", "-q", below_named.as_str(), 0)]
    {
        let args = ["run", &module, "-i", &input, "--id", id, flag];
        let ran = within(&place, &below, &args, &[("WFHOST_TRUST", value)]);
        assert_eq!(ran.code(), Some(code), "{id}: {}", ran.stderr());
        assert_eq!(dir.join("was-here").exists(), code == 0);
    }
    std::fs::remove_file(dir.join("was-here")).unwrap();
    std::fs::set_permissions(dir.join("wfhost.toml"), std::fs::Permissions::from_mode(0o644)).unwrap();
    // Only root can make a file another user's.
    if rustix::process::geteuid().is_root() {
        chown(dir.join("wfhost.toml"), Some(65_534), None).unwrap();
        refused("belongs to the user with the id 65534");
        // Changing its mode would not help.
        let hint = start(&place, &below, "r", &[]).stderr();
        assert!(!hint.contains("chmod") && hint.contains("--config"), "{hint}");
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
        assert!(error.contains("then run `wfhost trust DIR/p`"), "{error}");
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

/// What another directory's process does with a run.
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
    assert!(error.starts_with("error[WF0710]: the project of moved was not found"), "{error}");
    let config = place.path("b/wfhost.toml").display().to_string();
    assert_eq!(place.run(["resume", "moved", "--config", &config]).ok_json(), json!([null, "b"]));
}

/// Also a server of all projects answers a run by the providers of its own.
#[test]
fn a_server_of_all_projects_uses_no_project_for_another() {
    let place = Place::new();
    let (a, b, c) = (trusted(&place, "a"), trusted(&place, "b"), trusted(&place, "c"));
    let (module, input) = (module("probe"), ask());
    for (dir, id) in [(&a, "of-a"), (&b, "of-b"), (&c, "of-c")] {
        let args = ["run", &module, "-i", &input, "--id", id, "-d"];
        assert_eq!(within(&place, dir, &args, &[]).code(), Some(0));
    }
    assert_eq!(within(&place, &c, &["untrust"], &[]).code(), Some(0));
    let ran = within(&place, &b, &["serve", "--all", "--idle", "1s"], &[]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let output = |id: &str| -> Value { place.show(id)["output"].clone() };
    assert_eq!((output("of-a"), output("of-b")), (json!(["a"]), json!(["b"])));
    // One that cannot be used now is said to be, once, and its run waits.
    assert_eq!(ran.stderr().matches("is not trusted").count(), 1, "{}", ran.stderr());
    assert!(output("of-c").is_null() && !c.join("was-here").exists(), "{}", place.show("of-c"));
    assert_eq!(within(&place, &c, &["trust"], &[]).code(), Some(0));
    assert_eq!(within(&place, &b, &["resume", "of-c"], &[]).ok_json(), json!(["c"]));
    // A configuration that is named holds for all.
    assert_eq!(within(&place, &a, &["run", &module, "-i", &input, "--id", "d", "-d"], &[]).code(), Some(0));
    let config = b.join("wfhost.toml").display().to_string();
    assert_eq!(place.run(["serve", "--all", "--idle", "1s", "--config", &config]).code(), Some(0));
    assert_eq!(output("d"), json!(["b"]));
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

/// What was agreed to is a file with what stands beside it, and not beside a link to it.
#[test]
fn a_link_to_a_trusted_file_is_that_file() {
    let place = Place::new();
    let dir = project(&place, "own");
    let config =
        "[agents]\ndefault = \"agent\"\n[providers.agent]\nkind = \"command\"\nargv = [\"./agent.sh\"]\n";
    std::fs::write(dir.join("wfhost.toml"), config).unwrap();
    assert_eq!(within(&place, &dir, &["trust"], &[]).code(), Some(0));
    let clone = project(&place, "clone");
    std::fs::remove_file(clone.join("wfhost.toml")).unwrap();
    std::os::unix::fs::symlink(dir.join("wfhost.toml"), clone.join("wfhost.toml")).unwrap();
    assert_eq!(start(&place, &clone, "r", &[]).ok_json(), json!(["own"]));
    assert!(!clone.join("was-here").exists());
    // A stranger's link chooses nothing.
    std::fs::set_permissions(&clone, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = start(&place, &clone, "strange", &[]).error(2, &place);
    assert!(error.contains("WF0706") && error.contains("can be written by other users"), "{error}");
}

/// A provider that the user configured is replaced by a project only if that was agreed to.
#[test]
fn a_project_does_not_replace_the_user_s_own_provider_unasked() {
    let place = Place::new();
    let careful = project(&place, "careful");
    std::fs::create_dir_all(place.path("config/wfhost")).unwrap();
    let own = format!("[providers.claude]\nkind = \"command\"\nargv = [{:?}]\n", careful.join("agent.sh"));
    std::fs::write(place.path("config/wfhost/config.toml"), own).unwrap();
    let dir = place.path("p");
    std::fs::create_dir(&dir).unwrap();
    let config = "[agents]\ndefault = \"claude\"\n";
    std::fs::write(dir.join("wfhost.toml"), config).unwrap();
    assert_eq!(start(&place, &dir, "own", &[]).ok_json(), json!(["careful"]));
    let replacing = format!("{config}[providers.claude]\nkind = \"command\"\npreset = \"claude\"\n");
    std::fs::write(dir.join("wfhost.toml"), replacing).unwrap();
    let error = start(&place, &dir, "replaced", &[]).error(2, &place);
    assert!(error.contains("WF0707") && error.contains("it sets providers.claude"), "{error}");
}

/// A file that was named for one command is not trusted by the next.
#[test]
fn naming_a_file_is_no_consent_for_later() {
    let place = Place::new();
    let dir = project(&place, "p");
    let config = dir.join("wfhost.toml").display().to_string();
    assert_eq!(start(&place, &dir, "named", &["--config", &config]).ok_json(), json!(["p"]));
    let error = start(&place, &dir, "plain", &[]).error(2, &place);
    assert!(error.starts_with("error[WF0707]"), "{error}");
    // One that `wfhost trust` would not find has to be named again.
    std::fs::rename(dir.join("wfhost.toml"), dir.join("ci.toml")).unwrap();
    let config = dir.join("ci.toml").display().to_string();
    let wait = json!({ "do": [{ "wait": { "name": "go", "timeout_ms": 1 } }, { "agent": "x" }] }).to_string();
    let module = module("probe");
    let args = ["run", &module, "-i", &wait, "--id", "other", "--config", &config, "-d"];
    assert_eq!(within(&place, &dir, &args, &[]).code(), Some(0));
    let error = within(&place, &dir, &["resume", "other"], &[]).error(2, &place);
    assert!(error.contains("WF0707") && error.contains("--config DIR/p/ci.toml"), "{error}");
    assert_eq!(place.run(["resume", "other", "--config", &config]).code(), Some(0));
}

#[test]
fn what_cannot_be_used_cannot_be_trusted() {
    let place = Place::new();
    let dir = project(&place, "p");
    for (config, code) in [
        ("[providers.g]\nkind = \"openai\"\napi_key = \"sk-123\"\n", "WF0703"),
        ("[sinks.ops]\nurl = \"https://x\"\nsecret = \"whsec_abc\"\n", "WF0703"),
        ("[sinks.otlp]\nargv = [\"./page\"]\n", "WF0704"),
        ("[webhooks.w]\nverify = \"github\"\nworkflow = \"w\"\n", "WF0704"),
        ("[[signatures.rules]]\nmatch = \"ghcr.io/acme/\"\n", "WF0704"),
        ("[signatures.keys]\nacme = \"no-such.pub\"\n", "WF0704"),
    ] {
        std::fs::write(dir.join("wfhost.toml"), config).unwrap();
        let error = within(&place, &dir, &["trust"], &[]).error(2, &place);
        assert!(error.starts_with(&format!("error[{code}]")), "{config}: {error}");
    }
}

/// Whoever agrees is shown all that he agrees to, however it is named and wherever it stands.
#[test]
fn all_that_is_agreed_to_is_shown() {
    let place = Place::new();
    let dir = project(&place, "p");
    let config = r#"
[agents]
default = "my agent"
[providers."my agent"]
kind = "command"
argv = ["./evil.sh"]
set."a.b" = "c"
secrets.TOKEN = { env = "MY_TOKEN" }
[providers."the plugin"]
kind = "plugin"
plugin = "plugin.wasm"
[[providers."the plugin".http]]
url = "https://evil.example/"
methods = ["GET"]
inject = { x-key = { env = "MY_KEY" } }
[sinks.ops]
url = "https://sink.example/post"
secret = false
[sinks.page]
argv = ["./page.sh"]
env = ["OF_SINK"]
[webhooks."git.hub"]
verify = "github"
secret_env = "OF_WEBHOOK"
workflow = "on-push"
[registries.localhost]
plain_http = true
[registries."registry.lan:5000"]
plain_http = true
[modules]
far = "ghcr.io/acme/far:1"
[signatures]
default = "off"
"#;
    std::fs::write(dir.join("wfhost.toml"), config).unwrap();
    let shown = within(&place, &dir, &["trust"], &[]);
    assert_eq!(shown.code(), Some(0), "{}", shown.stderr());
    let shown = shown.stderr();
    for expected in [
        "providers.\"my agent\".argv = [\"./evil.sh\"]",
        "providers.\"my agent\".set.\"a.b\" = \"c\"",
        "providers.\"my agent\".secrets.TOKEN.env = \"MY_TOKEN\"",
        "providers.\"the plugin\".plugin = \"plugin.wasm\"",
        "https://evil.example/",
        "MY_KEY",
        "sinks.ops.url = \"https://sink.example/[redacted]\"",
        "sinks.ops.secret = false",
        "sinks.page.argv = [\"./page.sh\"]",
        "sinks.page.env = [\"OF_SINK\"]",
        "webhooks.\"git.hub\".secret_env = \"OF_WEBHOOK\"",
        "webhooks.\"git.hub\".workflow = \"on-push\"",
        "registries.localhost.plain_http = true",
        "registries.\"registry.lan:5000\".plain_http = true",
        "modules.far = \"ghcr.io/acme/far:1\"",
        "signatures.default = \"off\"",
    ] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
}

/// A database that a project names may be a stranger's.
#[test]
fn a_database_of_a_stranger_has_to_be_named() {
    let place = Place::new();
    let dir = place.path("p");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("wfhost.toml"), "[store]\nurl = \"runs.db\"\n").unwrap();
    let unnamed = |args: &[&str]| {
        let mut command = place.wfhost(args);
        Ran(command.env_remove("WFHOST_DB").current_dir(&dir).output().unwrap())
    };
    let (module, input) = (module("probe"), ask());
    let ran = unnamed(&["run", &module, "-i", &input, "--id", "r", "--agent", "echo", "-d"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let db = dir.join("runs.db");
    std::fs::set_permissions(&db, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = unnamed(&["ps"]).error(2, &place);
    assert!(error.starts_with("error[WF0322]: the database DIR/p/runs.db is not used"), "{error}");
    assert!(
        error.contains("can be written by other users") && error.contains("--db DIR/p/runs.db"),
        "{error}"
    );
    let db = db.display().to_string();
    assert_eq!(unnamed(&["ps", "--db", &db]).code(), Some(0));
    // What it says of a run's project does not hold: the user might trust that project.
    let error = unnamed(&["resume", "r", "--db", &db]).error(2, &place);
    assert!(error.starts_with("error[WF0711]"), "{error}");
    let config = dir.join("wfhost.toml").display().to_string();
    assert_eq!(unnamed(&["resume", "r", "--db", &db, "--config", &config]).ok_json(), json!(["who?"]));
    assert_eq!(unnamed(&["explain", "WF0322"]).code(), Some(0));
    assert_eq!(unnamed(&["explain", "WF0711"]).code(), Some(0));
}
