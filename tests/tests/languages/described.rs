//! Modules that describe themselves: built in several languages, shown without being run, and what they say checked
//! before a run is created or a signal sent.

use std::path::Path;

use serde_json::{Value, json};
use wfhost_core::custom_sections;
use wfhost_tests::{Place, eventually, module};

/// The probe with sections `wfhost:describe` of these contents.
fn described(place: &Place, name: &str, contents: &[&[u8]]) -> String {
    let mut bytes = std::fs::read(module("probe")).expect("the probe");
    for content in contents {
        add_section(&mut bytes, "wfhost:describe", content);
    }
    place.file(&format!("{name}.wasm"), bytes)
}

fn add_section(module: &mut Vec<u8>, name: &str, content: &[u8]) {
    fn number(mut value: usize, out: &mut Vec<u8>) {
        while value > 0x7f {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    let mut body = Vec::new();
    number(name.len(), &mut body);
    body.extend(name.as_bytes());
    body.extend(content);
    module.push(0);
    number(body.len(), module);
    module.extend(body);
}

/// What the probe takes, and what its signal `go` carries.
fn says() -> Value {
    json!({
        "schema": "wfhost/describe/1",
        "description": "Does what it is told",
        "input": { "type": "object", "required": ["do"], "additionalProperties": false, "properties": {
            "do": { "type": "array", "description": "One after the other" }, "by": { "$ref": "#/$defs/who" } },
            "$defs": { "who": { "type": "string", "maxLength": 5 } } },
        "output": { "type": "array" },
        "signals": { "go": { "description": "Lets it go on", "schema": { "type": "object", "required": ["ok"],
            "properties": { "ok": { "type": "boolean" } } } } },
        "examples": [{ "input": { "do": [{ "agent": "hello" }] } }],
        "providers": ["echo"],
    })
}

fn runs(place: &Place) -> usize {
    place.run(["ps", "-o", "json"]).ok_json()["runs"].as_array().expect("runs").len()
}

#[test]
fn an_input_that_does_not_fit_creates_no_run() {
    let place = Place::new();
    let probe = described(&place, "told", &[says().to_string().as_bytes()]);
    let input = place.file("input.json", "{\n  \"do\": [],\n  \"by\": \"a stranger\", \"too\": 1\n}\n");
    let error = place.run(["run", &probe, "-i", &format!("@{input}")]).error(2, &place);
    let expected = "error[WF0521]: the input does not match the schema of `told`\n  \
        \u{20}  3 |   \"by\": \"a stranger\", \"too\": 1\n  \
        \u{20}    |         ^^^^^^^^^^^^ \"a stranger\" is longer than 5 characters\n";
    assert!(error.starts_with(expected), "{error}");
    assert!(error.contains("\n       |                       ^^^^^ Additional properties"), "{error}");
    assert!(error.contains(r#"hint: a valid input: -i '{"do":[{"agent":"hello"}]}'"#), "{error}");
    // A run that is given nothing lacks what is needed.
    for more in [&[][..], &["-d"]] {
        let error = place.run([&["run", probe.as_str()], more].concat()).error(2, &place);
        assert!(error.contains("     | ^ \"do\" is a required property"), "{error}");
    }
    let json = place.run(["run", &probe, "-i", "[]", "-o", "json"]);
    assert_eq!(json.code(), Some(2));
    assert_eq!(serde_json::from_str::<Value>(&json.stderr()).expect("JSON")["code"], "WF0521");
    assert_eq!(runs(&place), 0);
    let error = place.run(["schedule", "add", "each", &probe, "--every", "1h", "-i", "{}"]).error(2, &place);
    assert!(error.contains("error[WF0521]"), "{error}");
    assert!(!place.run(["schedule", "ls"]).stdout().contains("each"));
    // What fits is done; whoever insists is told by the program.
    assert_eq!(
        place.run(["run", &probe, "-i", r#"{"do":[{"agent":"a"}]}"#, "--agent", "echo"]).ok_json(),
        json!(["a"])
    );
    place.run(["run", &probe, "-i", r#"{"do":7}"#, "--no-check"]).error(1, &place);
    assert_eq!(runs(&place), 2);
    assert_eq!(place.run(["explain", "WF0521"]).code(), Some(0));
}

#[test]
fn a_signal_that_does_not_fit_is_not_sent() {
    let place = Place::new();
    let probe = described(&place, "told", &[says().to_string().as_bytes()]);
    let input = json!({ "do": [{ "wait": { "name": "go" } }] }).to_string();
    assert_eq!(place.run(["run", &probe, "-i", &input, "--id", "r", "--no-wait"]).code(), Some(3));
    let error = place.run(["signal", "r", "go", "-i", r#"{"ok": "yes"}"#]).error(2, &place);
    let expected = "error[WF0522]: the payload does not match the schema of the signal `go` of `told`\n  \
        \u{20}  1 | {\"ok\": \"yes\"}\n  \
        \u{20}    |        ^^^^^ \"yes\" is not of type \"boolean\"\n";
    assert!(error.starts_with(expected), "{error}");
    // Nothing of it is in the inbox of the run.
    assert_eq!(place.run(["resume", "r", "--no-wait"]).code(), Some(3));
    let other = place.run(["signal", "r", "goo", "-i", "1"]);
    assert_eq!(other.code(), Some(0));
    assert!(
        other.stderr().contains("the module does not declare the signal `goo`, but `go`"),
        "{}",
        other.stderr()
    );
    assert_eq!(place.run(["signal", "r", "go", "-i", r#"{"ok":true}"#]).code(), Some(0));
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([{ "ok": true }]));

    assert_eq!(place.run(["run", &probe, "-i", &input, "--id", "s", "--no-wait"]).code(), Some(3));
    assert_eq!(place.run(["signal", "s", "go", "-i", "7", "--no-check"]).code(), Some(0));
    assert_eq!(place.run(["resume", "s"]).ok_json(), json!([7]));
}

#[test]
fn what_a_module_says_is_shown_of_files_and_of_the_database() {
    let place = Place::new();
    let probe = described(&place, "told", &[says().to_string().as_bytes()]);
    let text = place.run(["inspect", &probe]).stdout();
    for line in [
        "about    Does what it is told",
        "takes    do                list                  One after the other",
        "takes    by                string, optional",
        "gives    list",
        "signal   go                {ok}                  Lets it go on",
        r#"example  {"do":[{"agent":"hello"}]}"#,
        "needs    provider echo",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let mut expected = says();
    expected.as_object_mut().unwrap().remove("schema");
    assert_eq!(place.run(["inspect", &probe, "-o", "json"]).ok_json()["describes"], expected);
    let added = place.run(["add", &probe]);
    assert_eq!(added.code(), Some(0));
    for known in ["told", added.stdout().trim()] {
        assert_eq!(place.run(["inspect", known, "-o", "json"]).ok_json()["describes"], expected, "{known}");
    }
}

#[test]
fn modules_without_a_description_are_as_before() {
    let place = Place::new();
    let view = place.run(["inspect", &module("probe"), "-o", "json"]).ok_json();
    assert_eq!((&view["describes"], &view["describes_error"]), (&Value::Null, &Value::Null));
    let input = json!({ "do": [{ "wait": { "name": "go" } }] }).to_string();
    assert_eq!(place.run(["run", &module("probe"), "-i", &input, "--id", "r", "--no-wait"]).code(), Some(3));
    let sent = place.run(["signal", "r", "go", "-i", "[1]"]);
    assert!(sent.code() == Some(0) && !sent.stderr().contains("does not name"), "{}", sent.stderr());
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([[1]]));
    // What the program does not take, it refuses itself: there is a run.
    place.run(["run", &module("probe"), "-i", "7"]).error(1, &place);
    assert_eq!(runs(&place), 2);
}

#[test]
fn a_hostile_description_keeps_nobody_from_anything() {
    let place = Place::new();
    let good = says().to_string();
    let deep =
        format!(r#"{{"schema":"wfhost/describe/1","input":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let huge = format!(r#"{{"schema":"wfhost/describe/1","description":"{}"}}"#, "x".repeat(2 << 20));
    let cases: [(&str, &[&[u8]], &str); 6] = [
        ("two", &[good.as_bytes(), good.as_bytes()], "it has two of them"),
        (
            "newer",
            &[br#"{"schema":"wfhost/describe/2","input":{"type":7}}"#],
            "`wfhost/describe/2`, which this wfhost does not know",
        ),
        ("garbage", &[b"\xff\0 no JSON"], "invalid utf-8"),
        ("other", &[br#"{"schema":"other/1"}"#], "it is of the form `other/1`"),
        ("deep", &[deep.as_bytes()], "recursion limit"),
        ("huge", &[huge.as_bytes()], "bytes, more than 1048576"),
    ];
    let input = json!({ "do": [{ "agent": "a" }] }).to_string();
    for (name, contents, why) in cases {
        let probe = described(&place, name, contents);
        let shown = place.run(["inspect", &probe]);
        assert_eq!(shown.code(), Some(0), "{name}: {}", shown.stderr());
        assert!(
            shown.stdout().contains("WF0112") && shown.stdout().contains(why),
            "{name}: {}",
            shown.stdout()
        );
        assert!(shown.stdout().len() < 8_000, "{name}");
        let view = place.run(["inspect", &probe, "-o", "json"]).ok_json();
        assert!(
            view["describes"].is_null() && view["describes_error"].as_str().unwrap().contains(why),
            "{name}"
        );
        let ran = place.run(["run", &probe, "-i", &input, "--agent", "echo"]);
        assert!(ran.stderr().contains("the input is not checked"), "{name}: {}", ran.stderr());
        assert_eq!(ran.ok_json(), json!(["a"]), "{name}");
    }
}

#[test]
fn a_schema_that_explodes_checks_nothing_and_takes_no_time() {
    let place = Place::new();
    let mut says = says();
    let next = |level: usize| json!({ "$ref": format!("#/$defs/a{}", level + 1) });
    let defs: serde_json::Map<_, _> = (0..40)
        .map(|level| (format!("a{level}"), json!({ "allOf": [next(level), next(level)] })))
        .chain([("a40".to_owned(), json!({ "type": "string" }))])
        .collect();
    says["input"] = json!({ "$ref": "#/$defs/a0", "$defs": defs });
    says["signals"]["go"]["schema"] = says["input"].clone();
    says["description"] = "\u{1b}[2J\u{202e}gpj\nsecond line".into();
    let probe = described(&place, "explodes", &[says.to_string().as_bytes()]);
    let text = place.run(["inspect", &probe]).stdout();
    assert!(text.contains("\\u{1b}[2J\\u{202e}gpj second line") && !text.contains('\u{1b}'), "{text}");
    let input = json!({ "do": [{ "wait": { "name": "go" } }] }).to_string();
    let ran = place.run(["run", &probe, "-i", &input, "--id", "r", "--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    assert!(ran.stderr().contains("its input schema cannot be used"), "{}", ran.stderr());
    assert_eq!(place.run(["signal", "r", "go", "-i", "1"]).code(), Some(0));
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([1]));
}

/// The content of a section of a module.
fn section(path: &Path, name: &str) -> Option<String> {
    let bytes = std::fs::read(path).expect("the module");
    let mut found = custom_sections(&bytes).filter(|(known, _)| *known == name.as_bytes());
    let text = found.next().map(|(_, data)| String::from_utf8(data.to_vec()).expect("text"));
    assert!(found.next().is_none(), "one `{name}` is enough");
    text
}

#[test]
fn a_workflow_in_rust_is_described_by_its_types() {
    let place = Place::new();
    let dir = place.path("flow").display().to_string();
    assert_eq!(place.run(["new", &dir]).code(), Some(0));
    let manifest = std::fs::read_to_string(place.path("flow/Cargo.toml")).unwrap();
    let manifest = manifest
        .replace("path = \"wfhost-sdk\"", "path = \"wfhost-sdk\", features = [\"schemars\"]")
        .replace("[dependencies]", "[dependencies]\nschemars = { version = \"1\", default-features = false, features = [\"derive\", \"std\"] }")
        .replace("version = \"0.1.0\"", "version = \"1.4.2\"\nlicense = \"MIT\"\ndescription = \"Says hello\"\nauthors = [\"Ada\"]");
    place.file("flow/Cargo.toml", manifest);
    let source = |attribute: &str, input: &str| {
        let text = r#"
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Deserialize, JsonSchema)]
struct Input {
    /// Who is greeted
    INPUT: String,
    #[serde(default)]
    style: Style,
}

#[derive(Default, Deserialize, JsonSchema)]
enum Style {
    #[default]
    Short,
    Long,
}

#[derive(Deserialize, JsonSchema)]
struct Approval {
    ok: bool,
}

/// Greets somebody,
/// politely.
#[wfhost::workflow(ATTRIBUTE)]
async fn workflow(input: Input) -> wfhost::Result<Vec<String>> {
    let approval: Approval = wfhost::signal("approve").json().await?;
    Ok(vec![input.INPUT, format!("{} {}", matches!(input.style, Style::Long | Style::Short), approval.ok)])
}
"#;
        place.file("flow/src/lib.rs", text.replace("INPUT", input).replace("ATTRIBUTE", attribute));
    };
    let attribute = r##"signal("approve": Approval, "Lets it go on"), example(r#"{"name":"Ada"}"#), provider("reviewer")"##;
    source("", "name");
    let out = place.path("out.wasm").display().to_string();
    let build = || place.run(["build", &dir, "--out", &out]);
    let built = build();
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let plain = std::fs::metadata(&out).unwrap().len();
    assert_eq!(section(Path::new(&out), "wfhost:describe"), None);
    assert_eq!(section(Path::new(&out), "version").as_deref(), Some("1.4.2"));

    source(attribute, "name");
    let built = build();
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    assert!(!built.stderr().contains("warning"), "{}", built.stderr());
    let with = std::fs::metadata(&out).unwrap().len();
    let said = section(Path::new(&out), "wfhost:describe").expect("a description");
    // The code that makes the schemas is not in it.
    let growth = with - plain - said.len() as u64;
    assert!(growth < 200, "{growth} bytes more than the description");
    eprintln!("{plain} bytes without, {with} with a description of {}", said.len());
    let view = place.run(["inspect", &out, "-o", "json"]).ok_json();
    let says = &view["describes"];
    assert_eq!(says["description"], "Greets somebody,\npolitely.");
    assert_eq!(says["input"]["required"], json!(["name"]));
    assert_eq!(says["input"]["properties"]["name"]["description"], "Who is greeted");
    assert_eq!(
        says["output"],
        json!({ "$schema": says["input"]["$schema"], "title": "Array_of_string", "type": "array",
        "items": { "type": "string" } })
    );
    assert_eq!(says["signals"]["approve"]["schema"]["properties"]["ok"], json!({ "type": "boolean" }));
    assert_eq!(
        (&says["examples"][0]["input"], &says["providers"]),
        (&json!({ "name": "Ada" }), &json!(["reviewer"]))
    );
    let facts =
        json!({ "version": "1.4.2", "licenses": "MIT", "description": "Says hello", "authors": "Ada" });
    assert_eq!(view["says"], facts);

    let error = place.run(["run", &out, "-i", r#"{"name":"Ada","style":"Medium"}"#]).error(2, &place);
    assert!(error.contains("WF0521") && error.contains("^^^^^^^^ \"Medium\" is not"), "{error}");
    assert_eq!(place.run(["run", &out, "-i", r#"{"name":"Ada"}"#, "--id", "r", "--no-wait"]).code(), Some(3));
    place.run(["signal", "r", "approve", "-i", "{}"]).error(2, &place);
    assert_eq!(place.run(["signal", "r", "approve", "-i", r#"{"ok":true}"#]).code(), Some(0));
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!(["Ada", "true true"]));

    // The types change, and so does what they say; what is declared goes before that, and has to hold.
    place.file("flow/describe.toml", "description = \"Declared\"\n[[examples]]\ninput = { who = \"Bob\" }\n");
    source(attribute, "who");
    let built = build();
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let view = place.run(["inspect", &out, "-o", "json"]).ok_json();
    assert_eq!(view["describes"]["description"], "Declared");
    assert_eq!(view["describes"]["input"]["required"], json!(["who"]));
    place.file("flow/describe.toml", "[[examples]]\ninput = { name = \"Bob\" }\n");
    let error = build().error(2, &place);
    assert!(error.contains("error[WF0621]") && error.contains("\"who\" is a required property"), "{error}");
    // A type without a schema is found by the compiler, at the type.
    let text = std::fs::read_to_string(place.path("flow/src/lib.rs")).unwrap();
    place.file("flow/src/lib.rs", text.replacen(", JsonSchema)]", ")]", 1));
    let failed = build();
    assert_eq!(failed.code(), Some(2));
    assert!(
        failed.stderr().contains("`Input: JsonSchema` is not satisfied")
            || failed.stderr().contains("JsonSchema"),
        "{}",
        failed.stderr()
    );
}

const DECLARED: &str = r#"
description = "Greets somebody"
providers = ["greeter"]

[input]
type = "object"
additionalProperties = false
properties.name = { type = "string", minLength = 1, description = "Who is greeted" }

[signals.approve]
description = "Lets it go on"
schema = { type = "boolean" }

[[examples]]
input = { name = "Ada" }
"#;

/// Builds a new project of a language with a declaration, and looks at the module.
fn declared(language: &str, facts: &Value) {
    let place = Place::new();
    let dir = place.path("hello").display().to_string();
    assert_eq!(place.run(["new", &dir, "-t", language]).code(), Some(0));
    place.file("hello/describe.toml", "[inpt]\ntype = \"object\"\n");
    let error = place.run(["build", &dir]).error(2, &place);
    assert!(
        error.contains(
            "error[WF0621]: the description of the workflow in DIR/hello/describe.toml cannot be used: it has no `inpt`"
        ),
        "{error}"
    );
    place.file("hello/describe.toml", DECLARED);
    let built = place.run(["build", &dir]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr());
    let module = built.stdout().trim().to_owned();
    let view = place.run(["inspect", &module, "-o", "json"]).ok_json();
    assert_eq!(view["describes"]["input"]["properties"]["name"]["minLength"], 1);
    assert_eq!(view["describes"]["signals"]["approve"]["schema"], json!({ "type": "boolean" }));
    assert_eq!(&view["says"], facts);
    let agents = place.path("hello/agents.json").display().to_string();
    let error = place.run(["run", &module, "-i", r#"{"nme":"Ada"}"#, "--agents", &agents]).error(2, &place);
    assert!(error.contains("     |  ^^^^^ Additional properties"), "{error}");
    assert_eq!(runs(&place), 0);
    let output = place.run(["run", &module, "-i", r#"{"name":"Ada"}"#, "--agents", &agents]).ok_json();
    assert_eq!(output, json!({ "greeting": "Hello, Ada!" }));
    if language != "c" {
        // The others take their time to be built.
        return;
    }
    // The directory is as good as the module that is built of it.
    let error = place.run(["run", &dir, "-i", r#"{"name":""}"#, "--agents", &agents]).error(2, &place);
    assert!(error.contains("WF0521"), "{error}");
}

#[test]
fn a_workflow_in_c_is_described_by_a_declaration() {
    declared("c", &json!({}));
}

#[test]
fn a_workflow_in_go_is_described_by_a_declaration() {
    declared("go", &json!({}));
}

#[test]
fn a_workflow_in_python_is_described_by_a_declaration() {
    declared("python", &json!({ "version": "0.1.0" }));
}

/// A host that is killed while it begins runs leaves none that was not checked.
#[test]
fn what_was_not_checked_is_in_no_database_whoever_dies() {
    let place = Place::new();
    let probe = described(&place, "told", &[says().to_string().as_bytes()]);
    let bad = json!({ "do": "x".repeat(100_000) }).to_string();
    for _ in 0..5 {
        let mut child = place.spawn(["run", &probe, "-i", &bad]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut children: Vec<_> = (0..4).map(|_| place.spawn(["run", &probe, "-i", &bad])).collect();
    for child in &mut children {
        let status = eventually("it is refused", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(2));
    }
    assert_eq!(runs(&place), 0);
}
