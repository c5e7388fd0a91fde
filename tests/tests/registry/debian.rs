//! Over Debian's registry: logins by name and password, and no list of what refers to what.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use wfhost_tests::{Place, eventually, module};

use super::certificates::certify;
use super::{command, greets, hello, kept, ok, push, run, with_stdin};

/// `ada` with the password `secret`, hashed by bcrypt.
const HTPASSWD: &str = "ada:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry that ends with the test.
struct Registry {
    host: String,
    child: Child,
    _place: Place,
}

impl Registry {
    /// With a login, or for everybody.
    fn start(login: bool) -> Self {
        Self::start_with(Place::new(), login, None)
    }

    /// With TLS: certificate and key are files of the place.
    fn start_with(place: Place, login: bool, tls: Option<(&str, &str)>) -> Self {
        let port = wfhost_tests::free_port();
        let auth = match login {
            true => format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                place.file("htpasswd", HTPASSWD)
            ),
            false => String::new(),
        };
        let tls = tls.map_or_else(String::new, |(certificate, key)| {
            let file = |name: &str| place.path(name).display().to_string();
            format!("  tls:\n    certificate: {}\n    key: {}\n", file(certificate), file(key))
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{tls}{auth}",
            place.path("data").display()
        );
        let config = place.file("config.yml", config);
        let mut command = Command::new("docker-registry");
        let child = command.args(["serve", &config]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("docker-registry is installed: tests/setup");
        eventually("the registry", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { host: format!("localhost:{port}"), child, _place: place }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_module_is_pushed_and_runs_for_somebody_else() {
    let registry = Registry::start(true);
    let reference = format!("{}/me/hello:1.0.0", registry.host);
    let (ada, bob) = (Place::new(), Place::new());
    // Nobody is let in without a login.
    let error = run(&ada, &["push", &reference, &module("hello")]).error(4, &ada);
    assert!(error.contains("error[WF0922]") && error.contains("requires a login"), "{error}");
    assert!(error.contains(&format!("hint: log in: `wfhost login {}`", registry.host)), "{error}");
    // A wrong password is not kept.
    let login = ["login", &registry.host, "-u", "ada", "--password-stdin"];
    let wrong = with_stdin(&ada, &login, "wrong\n").error(4, &ada);
    assert!(wrong.contains("error[WF0922]") && wrong.contains("rejected the login"), "{wrong}");
    assert!(!ada.path("config/wfhost/auth.json").exists());
    for place in [&ada, &bob] {
        let ran = with_stdin(place, &login, "secret\n");
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        assert!(!ran.stderr().contains("secret") && !ran.stderr().contains("not tried"), "{}", ran.stderr());
    }
    let exact = push(&ada, &reference);
    assert!(exact.starts_with(&format!("{}/me/hello@sha256:", registry.host)), "{exact}");
    // A second push sends nothing, and changes nothing.
    let again = ok(&ada, &["push", &reference, &module("hello"), "-o", "json", "--also", "1,latest"]);
    assert!(again.stderr().contains("Exists  "), "{}", again.stderr());
    let again: Value = serde_json::from_str(&again.stdout()).unwrap();
    assert_eq!(again["bytes"]["sent"], 0);
    assert_eq!(again["reference"], exact.as_str());
    greets(&hello(&bob, &reference, &["--id", "r"]));
    let shown = bob.show("r");
    let digest = exact.split_once('@').unwrap().1;
    assert_eq!(shown["labels"]["origin"], format!("{reference}@{digest}"));
    assert_eq!(shown["workflow"], "hello");
    greets(&hello(&bob, &exact, &[]));
    greets(&hello(&bob, &format!("{}/me/hello:latest", registry.host), &["--pull", "missing"]));
    // A version is not moved, unless somebody insists; other tags are.
    let other = ok(&ada, &["push", &format!("{}/me/hello:latest", registry.host), &module("counter")]);
    assert!(other.stderr().contains(", which was sha256:"), "{}", other.stderr());
    let refused = run(&ada, &["push", &reference, &module("counter")]).error(2, &ada);
    assert!(refused.contains("error[WF0933]") && refused.contains("--force"), "{refused}");
    ok(&ada, &["push", &reference, &module("counter"), "--force"]);
    // What a digest means stays.
    greets(&hello(&bob, &exact, &[]));
    assert_eq!(kept(&bob).len(), 2);
    // Without the registry.
    drop(registry);
    let error = hello(&bob, &reference, &[]).error(4, &bob);
    assert!(error.contains("error[WF0921]") && error.contains("--offline"), "{error}");
    let offline = hello(&bob, &reference, &["--offline", "--id", "o"]);
    greets(&offline);
    assert!(offline.stderr().contains("from the local store"), "{}", offline.stderr());
    // The name alone is looked for in the database, then here, and nowhere else.
    greets(&hello(&bob, "hello", &[]));
    assert_eq!(run(&bob, &["resume", "r"]).code(), Some(0));
    let error = hello(&bob, reference.replace("1.0.0", "2.0.0").as_str(), &["--offline"]).error(4, &bob);
    assert!(error.contains("error[WF0932]"), "{error}");
    // Logging out.
    ok(&bob, &["logout", reference.split('/').next().unwrap()]);
    assert!(!std::fs::read_to_string(bob.path("config/wfhost/auth.json")).unwrap().contains("localhost"));
}

#[test]
fn logins_of_docker_and_its_helpers_are_used() {
    let registry = Registry::start(true);
    let reference = format!("{}/me/hello:1", registry.host);
    let place = Place::new();
    std::fs::create_dir(place.path("docker")).unwrap();
    let config = serde_json::json!({ "auths": { &registry.host: { "auth": "YWRhOnNlY3JldA==" } } });
    std::fs::write(place.path("docker/config.json"), config.to_string()).unwrap();
    push(&place, &reference);
    let config = serde_json::json!({ "credHelpers": { &registry.host: "of-test" } });
    std::fs::write(place.path("docker/config.json"), config.to_string()).unwrap();
    let helper = place.file(
        "docker-credential-of-test",
        "#!/bin/sh\ncat >/dev/null\necho '{\"ServerURL\":\"x\",\"Username\":\"ada\",\"Secret\":\"secret\"}'\n",
    );
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", place.path("").display(), std::env::var("PATH").unwrap());
    let pulled = command(&place, &["pull", &reference]).env("PATH", path).output().unwrap();
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
}

#[test]
fn skopeo_reads_the_local_store_and_fills_it() {
    let (registry, other) = (Registry::start(false), Registry::start(false));
    let (ada, bob) = (Place::new(), Place::new());
    let reference = format!("{}/me/hello:1", registry.host);
    let exact = push(&ada, &reference);
    let skopeo = |args: &[&str]| {
        let ran = Command::new("skopeo").args(args).output().expect("skopeo is installed: tests/setup");
        assert!(ran.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    // From the local store to another registry, where the digest is the same.
    let local = format!("oci:{}:{reference}", ada.path("data/wfhost/modules").display());
    let there = format!("docker://{}/their/hello:2", other.host);
    skopeo(&["--insecure-policy", "copy", "--dest-tls-verify=false", &local, &there]);
    let moved = format!("{}/their/hello@{}", other.host, exact.split_once('@').unwrap().1);
    greets(&hello(&bob, &moved, &[]));
    // And from a registry into the local store, where wfhost finds it.
    let name = format!("{}/me/hello:7", registry.host);
    let from = format!("docker://{reference}");
    let local = format!("oci:{}:{name}", bob.path("data/wfhost/modules").display());
    skopeo(&["--insecure-policy", "copy", "--src-tls-verify=false", &from, &local]);
    drop((registry, other));
    greets(&hello(&bob, &name, &["--offline"]));
}

#[test]
fn names_in_the_configuration_stand_for_references() {
    let registry = Registry::start(false);
    let reference = format!("{}/me/hello:1", registry.host);
    let place = Place::new();
    push(&place, &reference);
    place.file("wfhost.toml", format!("[modules]\ngreeter = \"{reference}\"\n"));
    // An address in a project's file has to be agreed to.
    let error = hello(&place, "greeter", &[]).error(2, &place);
    assert!(error.contains("error[WF0707]") && error.contains("modules.greeter"), "{error}");
    ok(&place, &["trust"]);
    greets(&hello(&place, "greeter", &["--id", "r"]));
    assert_eq!(place.show("r")["workflow"], "greeter");
    let error = run(&place, &["run", "greetre"]).error(2, &place);
    assert!(error.contains("error[WF0110]"), "{error}");
    place.file("wfhost.toml", "[modules]\ngreeter = \"ghcr.io/me/hello\"\n");
    let error = hello(&place, "greeter", &[]).error(2, &place);
    assert!(error.contains("error[WF0704]") && error.contains("it has no version"), "{error}");
}

#[test]
fn nothing_leads_to_a_registry_that_is_not_named() {
    let place = Place::new();
    for (arg, code) in [
        ("hello", "WF0110"),
        ("acme/hello", "WF0110"),
        ("hello:1", "WF0110"),
        ("acme/hello:1", "WF0110"),
        ("dir/hello.wasm", "WF0110"),
        ("docker.io/hello.wasm", "WF0110"),
        ("localhost:1/hello", "WF0920"),
        ("oci://hello", "WF0920"),
    ] {
        let error = run(&place, &["run", arg]).error(2, &place);
        assert!(error.contains(&format!("error[{code}]")), "{arg}: {error}");
        assert!(error.contains("hint: "), "{error}");
    }
}

#[test]
fn from_a_new_project_to_the_result_on_another_machine() {
    let registry = Registry::start(true);
    let reference = format!("{}/me/hello:1.0.0", registry.host);
    let (ada, bob) = (Place::new(), Place::new());
    ok(&ada, &["new", "hello"]);
    ada.file(
        "hello/describe.toml",
        "description = \"Greets\"\n[input]\ntype = \"object\"\nproperties.name.type = \"string\"\n",
    );
    ok(&ada, &["build", "hello"]);
    let key: Value = serde_json::from_str(&ok(&ada, &["key", "new", "ada", "-o", "json"]).stdout()).unwrap();
    let login = ["login", &registry.host, "-u", "ada", "--password-stdin"];
    for place in [&ada, &bob] {
        assert_eq!(with_stdin(place, &login, "secret").code(), Some(0));
    }
    let pushed = ok(&ada, &["push", &reference, "hello", "--sign", "ada"]);
    assert!(pushed.stderr().contains("Signed  "), "{}", pushed.stderr());
    // What it is can be seen without fetching it.
    let seen: Value =
        serde_json::from_str(&ok(&bob, &["inspect", &reference, "-o", "json"]).stdout()).unwrap();
    assert_eq!(
        (&seen["described"]["version"], &seen["described"]["title"]),
        (&"1.0.0".into(), &"hello".into())
    );
    assert_eq!(
        seen["describes"],
        serde_json::json!({ "description": "Greets", "input": { "type": "object", "properties": { "name": { "type": "string" } } } })
    );
    let text = ok(&bob, &["inspect", &reference]).stdout();
    assert!(text.lines().any(|line| line == "takes    name              string, optional"), "{text}");
    assert!(seen["exports"].as_array().unwrap().contains(&"run".into()), "{seen}");
    assert_eq!(kept(&bob), Vec::<Value>::new());
    // Somebody else, who knows the key.
    let rule = format!(
        "[signatures.keys]\nada = {}\n[[signatures.rules]]\nmatch = \"{}/me/*\"\nsigners = [\"ada\"]\n",
        key["key"], registry.host
    );
    std::fs::write(bob.path("config/wfhost/config.toml"), rule).unwrap();
    let script = ada.path("hello/agents.json").display().to_string();
    let arguments = ["-i", r#"{"name":"Ada"}"#, "--agents", &script];
    let start = |more: &[&str]| {
        let args = [&["run", &reference][..], &arguments, more].concat();
        run(&bob, &args)
    };
    let ran = start(&["--id", "first"]);
    assert_eq!(ran.ok_json(), serde_json::json!({ "greeting": "Hello, Ada!" }));
    assert!(ran.stderr().contains("signed by ada"), "{}", ran.stderr());
    // What was fetched is in the local store, and is looked at there as well; nothing that does not fit begins.
    let stored: Value =
        serde_json::from_str(&ok(&bob, &["inspect", "hello", "-o", "json"]).stdout()).unwrap();
    assert_eq!(stored["describes"]["description"], "Greets");
    let error = run(&bob, &["run", &reference, "-i", r#"{"name":7}"#]).error(2, &bob);
    assert!(error.contains("error[WF0521]"), "{error}");
    // What is not signed is not run. Debian's registry keeps no list: the signature is at a tag.
    let other = format!("{}/me/other:1.0.0", registry.host);
    ok(&ada, &["push", &other, &module("counter")]);
    let error = run(&bob, &["run", &other]).error(5, &bob);
    assert!(error.contains("error[WF0940]"), "{error}");
    // A run that waits is resumed without a registry, and without the local store.
    let mut waits = command(
        &bob,
        &["run", &reference, "--no-wait", "--id", "second", "-i", r#"{"name":"Ada"}"#, "--agent", "human"],
    );
    assert_eq!(waits.output().unwrap().status.code(), Some(3));
    drop(registry);
    assert_eq!(start(&["--offline"]).ok_json(), serde_json::json!({ "greeting": "Hello, Ada!" }));
    std::fs::remove_dir_all(bob.path("data/wfhost/modules")).unwrap();
    assert_eq!(run(&bob, &["resume", "second", "--no-wait"]).code(), Some(3));
    let error = start(&["--offline"]).error(4, &bob);
    assert!(error.contains("error[WF0932]"), "{error}");
}

#[test]
fn a_registry_that_is_certified_by_ones_own_is_one_for_who_says_so() {
    let certified = Place::new();
    certify(&certified, "ours");
    certify(&certified, "theirs");
    let (ours, theirs) = (certified.path("ours.pem"), certified.path("theirs.pem"));
    let registry = Registry::start_with(certified, true, Some(("ours-server.pem", "ours-server.key")));
    let reference = format!("{}/me/hello:1.0.0", registry.host);
    let place = Place::new();
    let configure = |text: &str| {
        place.file("wfhost.toml", format!("[registries.\"{}\"]\n{text}\n", registry.host));
        ok(&place, &["trust"]);
    };
    let login = ["login", &registry.host, "-u", "ada", "--password-stdin"];
    // With TLS, and by nobody whom the machine knows; or by somebody else.
    configure("plain_http = false");
    let error = with_stdin(&place, &login, "secret\n").error(4, &place);
    assert!(error.contains("error[WF0921]") && error.contains("UnknownIssuer"), "{error}");
    assert!(error.contains("ca = \"FILE\""), "{error}");
    configure(&format!("ca = {:?}", theirs.display().to_string()));
    let error = with_stdin(&place, &login, "secret\n").error(4, &place);
    assert!(error.contains("error[WF0921]") && error.contains("UnknownIssuer"), "{error}");
    configure("ca = \"missing.pem\"");
    let error = with_stdin(&place, &login, "secret\n").error(2, &place);
    assert!(error.contains("error[WF0948]") && error.contains("missing.pem"), "{error}");
    place.file("wfhost.toml", format!("[registries.\"{}\"]\nplain_http = true\nca = \"x\"\n", registry.host));
    let error = with_stdin(&place, &login, "secret\n").error(2, &place);
    assert!(error.contains("error[WF0704]") && error.contains("exclude each other"), "{error}");
    configure(&format!("ca = {:?}", ours.display().to_string()));
    assert_eq!(with_stdin(&place, &login, "secret\n").code(), Some(0));
    push(&place, &reference);
    let other = Place::new();
    other.file("wfhost.toml", std::fs::read(place.path("wfhost.toml")).unwrap());
    ok(&other, &["trust"]);
    assert_eq!(with_stdin(&other, &login, "secret\n").code(), Some(0));
    greets(&hello(&other, &reference, &[]));
}
