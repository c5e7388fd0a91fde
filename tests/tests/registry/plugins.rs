//! Plugins that travel: what they ask for is accepted by a person, what they are is locked, who signed them counts.

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

use super::fake::{Fake, Reply, refusal};
use super::{ok, run, with_stdin};

/// The puppet with a section that says what it wants.
pub(super) fn plugin(place: &Place, file: &str, wants: &Value) -> String {
    let bytes = std::fs::read(module("puppet")).unwrap();
    let (name, data) = ("wfhost:wants", wants.to_string());
    let body = [&[name.len() as u8], name.as_bytes(), data.as_bytes()].concat();
    let mut size = Vec::new();
    let mut left = body.len();
    loop {
        let (low, more) = ((left & 0x7f) as u8, left > 0x7f);
        size.push(if more { low | 0x80 } else { low });
        left >>= 7;
        if !more {
            break;
        }
    }
    place.file(file, [&bytes[..8], &[0], &size, &body, &bytes[8..]].concat())
}

fn reads() -> Value {
    json!({
        "http": [{ "url": "https://api.acme.com/v1/", "methods": ["GET"], "inject": ["authorization"], "reason": "asks" }],
        "env": [{ "name": "LANG", "reason": "speaks" }],
    })
}

fn key(place: &Place, name: &str) -> String {
    let made: Value = serde_json::from_str(&ok(place, &["key", "new", name, "-o", "json"]).stdout()).unwrap();
    format!("{name} = {}\n", made["key"])
}

/// The user's configuration: what is at `localhost` is signed by acme.
fn require(place: &Place, keys: &str) {
    std::fs::create_dir_all(place.path("config/wfhost")).unwrap();
    let text = format!(
        "[signatures.keys]\n{keys}[[signatures.rules]]\nmatch = \"localhost:*/me/*\"\nsigners = [\"acme\"]\n"
    );
    std::fs::write(place.path("config/wfhost/config.toml"), text).unwrap();
}

/// A registry with `me/puppet:1`, its publisher, the line of acme's key, and the reference.
fn published(sign: bool) -> (Fake, Place, String, String) {
    let (fake, publisher) = (Fake::new(), Place::new());
    let keys = key(&publisher, "acme");
    let reference = format!("{}/me/puppet:1", fake.host);
    let file = plugin(&publisher, "puppet.wasm", &reads());
    let mut args = vec!["push", &reference, &file];
    args.extend(if sign { &["--sign", "acme"][..] } else { &[] });
    ok(&publisher, &args);
    fake.log();
    (fake, publisher, keys, reference)
}

/// A place of somebody else, who requires acme's signature.
fn somebody(keys: &str) -> Place {
    let place = Place::new();
    require(&place, keys);
    place
}

/// Has the provider `puppet` answer once.
pub(super) fn call(place: &Place, id: &str, more: &[&str]) -> Ran {
    let request = json!({
        "prompt": "p", "providers": ["puppet"], "options": { "do": [{ "answer": "hi" }] },
        "retry": { "max_attempts": 1 },
    });
    let input = json!({ "do": [{ "agent_with": request }] }).to_string();
    let module = module("probe");
    let mut args = vec!["run", &module, "-i", &input, "--id", id];
    args.extend(more);
    run(place, &args)
}

#[track_caller]
pub(super) fn answers(ran: &Ran) {
    assert_eq!(ran.ok_json()[0]["output"], "hi", "{}", ran.stderr());
}

/// Why the call of the run failed.
#[track_caller]
fn failed(ran: &Ran) -> String {
    ran.ok_json()[0]["message"].as_str().unwrap_or_else(|| panic!("{}", ran.stdout())).to_owned()
}

fn read(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.path(name)).unwrap_or_default()
}

#[test]
fn a_plugin_is_added_with_what_it_asks_for_and_answers_for_somebody_else() {
    let (fake, _, keys, reference) = published(true);
    let place = somebody(&keys);
    // What it asks for is shown without fetching it.
    let inspected = ok(&place, &["inspect", &reference]).stdout();
    assert!(inspected.starts_with("plugin   puppet\n"), "{inspected}");
    assert!(
        inspected.contains("wants    GET https://api.acme.com/v1/ with authorization  asks"),
        "{inspected}"
    );
    // Where nobody can be asked nothing is done.
    let refused = run(&place, &["plugin", "add", &reference]).error(2, &place);
    assert!(refused.contains("error[WF0509]") && refused.contains("--yes"), "{refused}");
    assert!(refused.contains("GET https://api.acme.com/v1/ with authorization  asks"), "{refused}");
    assert!(refused.contains("inject = { authorization = { env = \"PUPPET_AUTHORIZATION\""), "{refused}");
    assert_eq!((read(&place, "wfhost.toml"), read(&place, "wfhost.lock")), (String::new(), String::new()));
    let added = ok(&place, &["plugin", "add", &reference, "--inject", "authorization=ACME_KEY", "--yes"]);
    assert!(added.stderr().contains("signed by acme"), "{}", added.stderr());
    let config = read(&place, "wfhost.toml");
    for line in [
        "[providers.puppet]",
        "env = [\"LANG\"]",
        "methods = [\"GET\"]",
        "inject = { authorization = { env = \"ACME_KEY\", prefix = \"Bearer \" } }",
    ] {
        assert!(config.contains(line), "{line}: {config}");
    }
    let lock = read(&place, "wfhost.lock");
    for line in ["kind = \"plugin\"", "signer = \"acme\"", "url = \"https://api.acme.com/v1/\""] {
        assert!(lock.contains(line), "{line}: {lock}");
    }
    // The section that was accepted is trusted; the secret has to be there.
    let secret = |mut command: std::process::Command| {
        command.env("ACME_KEY", "sk-0123456789");
        Ran(command.output().unwrap())
    };
    let with_key = |id: &str, more: &[&str]| {
        let request =
            json!({ "prompt": "p", "providers": ["puppet"], "options": { "do": [{ "answer": "hi" }] } });
        let input = json!({ "do": [{ "agent_with": request }] }).to_string();
        let module = module("probe");
        let mut args = vec!["run", &module, "-i", &input, "--id", id];
        args.extend(more);
        secret(super::command(&place, &args))
    };
    answers(&with_key("r", &[]));
    // What answered is known afterwards.
    let digest = wfhost_core::Digest::of(&std::fs::read(place_of_bytes(&lock, &place)).unwrap()).to_string();
    let step = &place.show("r")["steps"][0];
    assert_eq!(step["plugin"], json!({ "digest": digest, "signer": "acme" }), "{step}");
    let shown = place.run(["show", "r"]).stdout();
    assert!(shown.contains(&format!("plugin    {digest}, signed by acme")), "{shown}");
    let doctor = secret(super::command(&place, &["doctor"])).stdout();
    assert!(doctor.contains("provider puppet") && !doctor.contains("it requests"), "{doctor}");
    // Nobody is asked again, and nobody has to be there.
    let log = fake.log();
    answers(&with_key("s", &["--offline"]));
    answers(&with_key("t", &[]));
    assert_eq!(fake.log(), Vec::<String>::new(), "after {log:?}");
    fake.rule(|_| Some(refusal(500, "BROKEN")));
    answers(&with_key("u", &[]));
    // It goes as it came.
    let gone = run(&place, &["plugin", "rm", "puppet"]).error(2, &place);
    assert!(gone.contains("error[WF0509]"), "{gone}");
    ok(&place, &["plugin", "rm", "puppet", "--yes"]);
    assert_eq!(read(&place, "wfhost.toml"), "");
    assert!(!read(&place, "wfhost.lock").contains("puppet"), "{}", read(&place, "wfhost.lock"));
    assert!(run(&place, &["plugin", "rm", "puppet"]).error(2, &place).contains("error[WF1211]"));
}

/// The blob of the only layer that is locked.
fn place_of_bytes(lock: &str, place: &Place) -> std::path::PathBuf {
    let layer = lock.split("layer = \"sha256:").nth(1).unwrap().split('"').next().unwrap();
    place.path("data/wfhost/modules/blobs/sha256").join(layer)
}

#[test]
fn a_plugin_that_is_not_signed_or_not_locked_does_not_answer() {
    let (fake, _, keys, reference) = published(false);
    let place = somebody(&keys);
    let layer = fake.manifest("me/puppet", "1").unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let refused = run(&place, &["plugin", "add", &reference, "--yes"]).error(5, &place);
    assert!(refused.contains("error[WF0940]"), "{refused}");
    assert_eq!((read(&place, "wfhost.toml"), read(&place, "wfhost.lock")), (String::new(), String::new()));
    // Written by hand: it has to be locked.
    let section = format!("[providers.puppet]\nkind = \"plugin\"\nplugin = \"{reference}\"\n");
    place.file("wfhost.toml", &section);
    ok(&place, &["trust"]);
    let said = failed(&call(&place, "a", &[]));
    assert!(said.contains("WF0946") && said.contains("wfhost plugin add"), "{said}");
    // One that is locked where nobody asks for signatures...
    let careless = Place::new();
    ok(&careless, &["plugin", "add", &reference, "--grant-nothing", "--yes"]);
    answers(&call(&careless, "a", &[]));
    let step = &careless.show("a")["steps"][0];
    assert_eq!(step["plugin"]["signer"], Value::Null, "{step}");
    // ... is not fetched where they are asked for,
    std::fs::copy(careless.path("wfhost.lock"), place.path("wfhost.lock")).unwrap();
    fake.log();
    let said = failed(&call(&place, "b", &[]));
    assert!(said.contains("WF0940") && said.contains("is not signed by acme"), "{said}");
    let log = fake.log();
    assert!(!log.iter().any(|line| line.contains(&layer)), "the plugin was fetched: {log:#?}");
    // nor does it answer any more where it is here already.
    require(&careless, &keys);
    let said = failed(&call(&careless, "b", &["--offline"]));
    assert!(said.contains("WF0940"), "{said}");
    let said = failed(&call(&careless, "c", &[]));
    assert!(said.contains("WF0940"), "{said}");
}

/// Where no signature is required, that there is none is told by the call for which the plugin is fetched.
#[test]
fn that_a_plugin_is_not_signed_is_told_when_it_comes() {
    let (fake, _, _, reference) = published(false);
    let (careless, place) = (Place::new(), Place::new());
    ok(&careless, &["plugin", "add", &reference, "--grant-nothing", "--yes"]);
    for name in ["wfhost.toml", "wfhost.lock"] {
        std::fs::copy(careless.path(name), place.path(name)).unwrap();
    }
    ok(&place, &["trust"]);
    answers(&call(&place, "a", &[]));
    let told = place.run(["transcript", "a", "1"]).stdout();
    assert!(told.contains("signature: ") && told.contains("is not signed by a known key"), "{told}");
    answers(&call(&place, "b", &[]));
    let told = place.run(["transcript", "b", "1"]).stdout();
    assert!(!told.contains("signature: "), "{told}");
    drop(fake);
}

#[test]
fn what_is_locked_answers_wherever_the_tag_leads_and_what_is_not_here_is_fetched_or_said() {
    let (fake, publisher, keys, reference) = published(true);
    let place = somebody(&keys);
    ok(&place, &["plugin", "add", &reference, "--grant-nothing", "--yes"]);
    let other = plugin(&publisher, "other.wasm", &json!({}));
    ok(&publisher, &["push", &reference, &other, "--sign", "acme"]);
    answers(&call(&place, "a", &[]));
    let before = place.show("a")["steps"][0]["plugin"]["digest"].clone();
    // The store was emptied: without a network that is said, with one it is fetched as it was.
    std::fs::remove_dir_all(place.path("data/wfhost/modules")).unwrap();
    let said = failed(&call(&place, "b", &["--offline"]));
    assert!(said.contains("WF0932") && said.contains("not in the local store"), "{said}");
    let doctor = ok(&place, &["doctor"]).stdout();
    assert!(doctor.contains("the first call fetches it"), "{doctor}");
    answers(&call(&place, "c", &[]));
    assert_eq!(place.show("c")["steps"][0]["plugin"]["digest"], before);
    // A registry that does not answer may do so later; one that answers something else may not.
    std::fs::remove_dir_all(place.path("data/wfhost/modules")).unwrap();
    fake.rule(|request| request.path.contains("/blobs/").then(|| Reply::new(200, "\0asm")));
    let ran = call(&place, "d", &[]);
    let said = failed(&ran);
    // Its signatures are the first that is fetched, and are none then.
    assert!(said.contains("WF0940"), "{said}");
    assert_eq!(ran.ok_json()[0]["failure"], "rejected");
    drop(fake);
}

#[test]
fn a_plugin_that_asks_for_more_has_to_be_accepted() {
    let (fake, publisher, keys, reference) = published(true);
    let place = somebody(&keys);
    ok(&place, &["plugin", "add", &reference, "--grant-nothing", "--yes"]);
    let (config, lock) = (read(&place, "wfhost.toml"), read(&place, "wfhost.lock"));
    let publish = |wants: Value| {
        let file = plugin(&publisher, "next.wasm", &wants);
        ok(&publisher, &["push", &reference, &file, "--sign", "acme"]);
    };
    let mut wider = reads();
    wider["http"][0]["methods"] = json!(["GET", "DELETE"]);
    wider["directories"] = json!([{ "path": "/data", "write": true, "reason": "keeps notes" }]);
    publish(wider);
    let refused = run(&place, &["update"]).error(5, &place);
    assert!(refused.contains("error[WF1214]") && refused.contains("--accept"), "{refused}");
    for line in [
        "- wants GET https://api.acme.com/v1/ with authorization  asks",
        "+ wants GET,DELETE https://api.acme.com/v1/ with authorization  asks",
        "+ wants write /data  keeps notes",
    ] {
        assert!(refused.contains(line), "{line}: {refused}");
    }
    assert_eq!(read(&place, "wfhost.lock"), lock);
    answers(&call(&place, "a", &["--offline"]));
    let accepted = ok(&place, &["update", "puppet", "--accept"]);
    assert!(accepted.stderr().contains("accepting them grants nothing"), "{}", accepted.stderr());
    assert!(accepted.stderr().contains("methods = [\"GET\", \"DELETE\"]"), "{}", accepted.stderr());
    assert_eq!(read(&place, "wfhost.toml"), config);
    assert_ne!(read(&place, "wfhost.lock"), lock);
    answers(&call(&place, "b", &[]));
    assert_ne!(place.show("a")["steps"][0]["plugin"], place.show("b")["steps"][0]["plugin"]);
    // One that asks for less is nobody's business.
    publish(json!({}));
    let updated = ok(&place, &["update"]);
    assert!(updated.stderr().contains("- wants write /data"), "{}", updated.stderr());
    assert!(!read(&place, "wfhost.lock").contains("/data"));
    drop(fake);
}

#[test]
fn what_is_no_plugin_or_has_no_place_is_not_added() {
    let (fake, _, _, reference) = published(false);
    let place = Place::new();
    let workflow = format!("{}/me/hello:1", fake.host);
    ok(&place, &["push", &workflow, &module("hello")]);
    for (args, code, says) in [
        (&[&workflow, "--yes"][..], "WF1203", "this is a workflow"),
        (&[&module("hello"), "--yes"][..], "WF1203", "this is a workflow"),
        (&["nowhere.wasm", "--yes"][..], "WF1201", "cannot be read"),
        (&[&reference, "--yes", "--name", "a b"][..], "WF1213", "cannot be the name"),
        (&[&reference, "--yes", "--inject", "x-key=K"][..], "WF1215", "requests no secret"),
        (&[&reference, "--yes", "--directory", "/x=."][..], "WF1215", "does not request the directory"),
    ] {
        let ran = run(&place, &[&["plugin", "add"][..], args].concat());
        let error = ran.stderr();
        assert!(error.contains(&format!("error[{code}]")) && error.contains(says), "{args:?}: {error}");
        assert!(ran.code() == Some(2), "{error}");
    }
    assert_eq!(read(&place, "wfhost.toml"), "");
    // More than a person looks at.
    let reason = "x".repeat(64 << 10);
    let long = plugin(&place, "long.wasm", &json!({ "env": [{ "name": "A", "reason": reason }] }));
    let error = run(&place, &["plugin", "add", &long, "--yes"]).error(2, &place);
    assert!(error.contains("error[WF1207]"), "{error}");
    assert_eq!(read(&place, "wfhost.toml"), "");
    // Where a workflow is meant.
    for verb in ["add", "run"] {
        let error = run(&place, &[verb, &reference]).error(2, &place);
        assert!(error.contains("error[WF1203]") && error.contains("wfhost plugin add"), "{error}");
    }
    // A file that the user has not agreed to is not agreed to by the way.
    place.file("wfhost.toml", "# mine\n[providers.x]\nkind = \"command\"\nargv = [\"true\"]\n");
    let ran = ok(&place, &["plugin", "add", &reference, "--grant-nothing", "--yes"]);
    assert!(ran.stderr().contains("wfhost trust"), "{}", ran.stderr());
    assert!(call(&place, "a", &[]).error(2, &place).contains("error[WF0707]"));
    ok(&place, &["trust"]);
    answers(&call(&place, "a", &[]));
    let error = run(&place, &["plugin", "add", &reference, "--yes"]).error(2, &place);
    assert!(error.contains("error[WF1213]") && error.contains("exists already"), "{error}");
    // One that is agreed to stays so, and what stands in it stays as it is.
    ok(&place, &["plugin", "rm", "puppet", "--yes"]);
    assert_eq!(read(&place, "wfhost.toml"), "# mine\n[providers.x]\nkind = \"command\"\nargv = [\"true\"]\n");
    let file = plugin(&place, "notes.wasm", &json!({ "directories": [{ "path": "/d", "reason": "reads" }] }));
    std::fs::create_dir(place.path("notes")).unwrap();
    let ran = ok(&place, &["plugin", "add", &file, "--directory", "/d=notes", "--name", "puppet", "--yes"]);
    assert!(!ran.stderr().contains("wfhost trust"), "{}", ran.stderr());
    let config = read(&place, "wfhost.toml");
    assert!(config.contains("plugin = \"notes.wasm\"\ndigest = \"blake3:"), "{config}");
    assert!(config.contains("directories = { \"/d\" = { path = \"notes\" } }"), "{config}");
    answers(&call(&place, "b", &[]));
    assert_eq!(
        with_stdin(&place, &["plugin", "rm", "puppet"], "y\n").code(),
        Some(2),
        "a pipe is no terminal"
    );
    drop(fake);
}

#[test]
fn several_that_add_at_once_are_all_added_or_say_that_they_are_not() {
    let (fake, _, _, reference) = published(false);
    let place = Place::new();
    let names: Vec<String> = (0..6).map(|number| format!("p{number}")).collect();
    let children: Vec<_> = (names.iter())
        .map(|name| {
            let args = ["plugin", "add", &reference, "--grant-nothing", "--yes", "--name", name];
            let mut command = super::command(&place, &args);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut added = Vec::new();
    for (child, name) in children.into_iter().zip(&names) {
        let ran = Ran(child.wait_with_output().unwrap());
        match ran.code() {
            Some(0) => added.push(name),
            _ => assert!(ran.stderr().contains("error[WF1213]"), "{}", ran.stderr()),
        }
    }
    let config = read(&place, "wfhost.toml");
    assert!(!added.is_empty());
    for name in &names {
        assert_eq!(
            config.contains(&format!("[providers.{name}]")),
            added.contains(&name),
            "{name}: {config}"
        );
    }
    drop(fake);
}
