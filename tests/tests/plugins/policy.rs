//! What is granted to a plugin, and what is none. What holds for agent calls is in `calls`.

use serde_json::{Value, json};
use wfhost_tests::{Place, module};

use crate::{acts, args, gave, grant, run};

#[test]
fn directories_and_variables_are_those_that_are_granted() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("in")).unwrap();
    std::fs::create_dir_all(place.path("out")).unwrap();
    place.file("in/a.txt", "hello");
    place.file("secret.txt", "not for plugins");
    std::os::unix::fs::symlink(place.path("secret.txt"), place.path("in/link")).unwrap();
    grant(
        &place,
        "set = { LANG = \"en\" }\nenv = [\"GRANTED\"]\n\
         directories = { \"/in\" = { path = \"in\" }, \"/out\" = { path = \"out\", write = true } }",
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let acts = acts(
        json!([{ "read": "/in/a.txt" }, { "write": ["/out/b.txt", "made"] }, { "write": ["/in/c.txt", "no"] },
               { "list": "/in" }, { "read": "/in/../secret.txt" }, { "read": "/in/link" }, { "read": "/etc/passwd" },
               { "list": "/" }, "env", { "connect": port }]),
        json!({}),
    );
    let mut command = place.wfhost(args(&place, &acts));
    let output = command.env("GRANTED", "yes").env("HIDDEN", "no").output().unwrap();
    let answer = gave(&wfhost_tests::Ran(output));
    let output = &answer["output"];
    assert_eq!((&output[0], &output[1]), (&json!("hello"), &Value::Null), "{answer}");
    assert_eq!(std::fs::read_to_string(place.path("out/b.txt")).unwrap(), "made");
    for denied in [2, 4, 5, 6, 7, 9] {
        assert!(output[denied]["error"].is_string(), "{denied}: {output}");
    }
    assert!(!place.path("in/c.txt").exists());
    assert_eq!(output[3], json!(["a.txt", "link"]));
    assert_eq!(output[8], json!({ "GRANTED": "yes", "LANG": "en" }));
}

#[test]
fn what_is_no_plugin_is_explained() {
    let place = Place::new();
    let refusal = |plugin: &str, more: &str, id: &str| {
        place.file(
            "wfhost.toml",
            format!("[providers.puppet]\nkind = \"plugin\"\nplugin = {plugin:?}\n{more}\n"),
        );
        let config = place.path("wfhost.toml").display().to_string();
        let input = acts(json!([]), json!({ "retry": { "max_attempts": 3, "initial": 5 } }));
        let ran =
            place.run(["run", &module("probe"), "-i", &input.to_string(), "--id", id, "--config", &config]);
        let failure = gave(&ran);
        assert_eq!(
            (failure["failure"].as_str(), failure["attempts"].as_u64()),
            (Some("rejected"), Some(1)),
            "{failure}"
        );
        failure["message"].as_str().unwrap().to_owned()
    };
    assert!(refusal("nowhere.wasm", "", "a").contains("WF1201"));
    assert!(refusal(&module("hello"), "", "b").contains("this is a workflow, not a plugin"));
    let digest = format!("digest = \"blake3:{}\"", "0".repeat(64));
    assert!(refusal(&module("puppet"), &digest, "c").contains("WF1202"));
    let text = place.file("text.wasm", "text");
    assert!(refusal(&text, "", "d").contains("a text file, not WebAssembly"));
    let directory = "directories = { \"/d\" = { path = \"nowhere\" } }";
    assert!(refusal(&module("puppet"), directory, "e").contains("WF1206"));
    // And before anybody is called.
    let config = place.path("wfhost.toml").display().to_string();
    let doctor = place.run(["doctor", "--config", &config]).stdout();
    assert!(doctor.contains("provider puppet") && doctor.contains("nowhere is not a directory"), "{doctor}");
}

#[test]
fn configuration_that_grants_nonsense_is_refused() {
    let place = Place::new();
    for (more, code, expected) in [
        ("http = [{ url = \"https://x.org/\" }]", "WF0704", "list the allowed methods"),
        ("http = [{ url = \"x.org\", methods = [\"GET\"] }]", "WF0704", "not a URL"),
        ("http = [{ url = \"https://x.org/\", methods = [\"CONNECT\"] }]", "WF0704", "CONNECT"),
        ("http = [{ url = \"https://x.org/\", methods = [\"get\"] }]", "WF0704", "use GET"),
        (
            "http = [{ url = \"https://*.x.org/\", methods = [\"GET\"], inject = { authorization = { env = \"K\" } } }]",
            "WF0704",
            "one host",
        ),
        (
            "http = [{ url = \"https://x.org/\", methods = [\"GET\"], inject = { host = { env = \"K\" } } }]",
            "WF0704",
            "not the name of a header",
        ),
        (
            "http = [{ url = \"https://x.org/\", methods = [\"GET\"], metods = 1 }]",
            "WF0702",
            "did you mean `methods`",
        ),
        ("set = { API_KEY = \"x\" }", "WF0703", "inject"),
        ("env = [\"API_KEY\"]", "WF0704", "the name of a secret"),
        ("memory = \"64MB\"", "WF0704", "MiB"),
        ("fuel = 0", "WF0704", "greater than 0"),
        ("grace = \"2h\"", "WF0704", "a minute"),
        ("digest = \"x\"", "WF0704", "64 hexadecimal"),
    ] {
        grant(&place, more);
        let error = run(&place, &acts(json!([]), json!({}))).error(2, &place);
        assert!(error.contains(code) && error.contains(expected), "{more}: {error}");
    }
}

/// What stands in a project's file is obeyed once the user has agreed.
#[test]
fn a_plugin_of_a_project_has_to_be_trusted() {
    let place = Place::new();
    grant(&place, "");
    let mut command = place.wfhost(["run", &module("probe"), "-i", "{\"do\":[]}", "--id", "r"]);
    let ran = wfhost_tests::Ran(command.current_dir(place.path("")).output().unwrap());
    assert!(
        ran.stderr().contains("WF0707") && ran.stderr().contains("providers.puppet.plugin"),
        "{}",
        ran.stderr()
    );
}
