//! What users see: results, exit codes, and the exact text of mistakes.

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually, finish, module};

fn probe(place: &Place, program: Value, more: &[&str]) -> wfhost_tests::Ran {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let mut args = vec!["run", &module, "-i", &input, "--agent", "echo", "--id", "r"];
    args.extend(more);
    place.run(args)
}

#[test]
fn hello_prints_its_result_and_nothing_else_on_stdout() {
    let place = Place::new();
    let ran = place.run(["run", &module("hello"), "-i", r#"{"name":"Ada"}"#, "--agent", "echo", "--id", "r"]);
    assert_eq!(ran.ok_json(), json!({ "greeting": "greet Ada" }));
    assert!(ran.stderr().contains("Started  r  hello"), "{}", ran.stderr());
    assert!(ran.stderr().contains("agent   greet Ada"), "{}", ran.stderr());
    let shown = place.show("r");
    assert_eq!((&shown["schema"], &shown["state"]), (&json!("wfhost/run/1"), &json!("completed")));
    assert_eq!(shown["steps"].as_array().unwrap().len(), 2);
    // Resuming changes nothing and says so.
    let before = place.journal("r");
    let again = place.run(["resume", "r"]);
    assert_eq!(again.ok_json(), json!({ "greeting": "greet Ada" }));
    assert!(again.stderr().contains("Ended  r  completed; nothing to do"), "{}", again.stderr());
    assert_eq!(place.journal("r"), before);
}

#[test]
fn files_that_are_no_workflow_are_named() {
    let place = Place::new();
    let cases: [(&[u8], &str); 5] = [
        (b"", "error[WF0101]: the file is empty"),
        (b"\x7fELF\x02", "error[WF0102]: this is an ELF program for this machine, not WebAssembly"),
        (b"fn main() {}", "error[WF0102]: this is a text file, not WebAssembly"),
        (b"\0asm\x01\0\0\0", "error[WF0103]: this is a core WebAssembly module, not a component"),
        (
            b"\0asm\x0d\0\x01\0",
            "error[WF0105]: the component does not export `run`, so it is not a workflow; it exports nothing",
        ),
    ];
    for (bytes, expected) in cases {
        let file = place.file("module.wasm", bytes);
        let error = place.run(["run", &file]).error(2, &place);
        assert_eq!(error.lines().next(), Some(expected));
        assert!(error.contains("hint: "), "{error}");
    }
    let error = place.run(["run", "no-such.wasm"]).error(2, &place);
    assert!(error.starts_with("error[WF0110]: no file and no module is named `no-such.wasm`"), "{error}");
}

#[test]
fn what_reaches_outside_is_denied_before_anything_runs() {
    let place = Place::new();
    let cases = [
        ("wasi:sockets/tcp@0.2.0", "data from the network differs each time"),
        ("wasi:http/outgoing-handler@0.2.3", "the answer of a server differs each time"),
        ("wasi:cli/environment@0.3.0", "wfhost provides WASI 0.2"),
    ];
    for (import, reason) in cases {
        let text = format!("(component (import \"{import}\" (instance)))");
        let file = place.file("module.wasm", wat::parse_str(text).unwrap());
        let error = place.run(["run", &file]).error(2, &place);
        let expected = format!(
            "error[WF0104]: the component imports `{import}`, which workflows must not use: {reason}"
        );
        assert_eq!(error.lines().next(), Some(expected.as_str()));
        assert!(error.contains("hint: "), "{error}");
    }
    let file =
        place.file("module.wasm", wat::parse_str("(component (import \"acme:db/sql\" (instance)))").unwrap());
    let error = place.run(["check", &file]).error(2, &place);
    assert!(
        error.starts_with("error[WF0106]: the component imports the unknown interface `acme:db/sql`"),
        "{error}"
    );
}

#[test]
fn the_demo_kills_its_worker_and_goes_on() {
    let place = Place::new();
    let ran = place.run(["demo"]);
    assert_eq!(ran.ok_json(), "nothing was lost");
    assert!(ran.stderr().contains("with SIGKILL, in the middle of run_"), "{}", ran.stderr());
    let steps = place.show("@last")["steps"].as_array().unwrap().len();
    assert_eq!(steps, 5);
}

#[test]
fn bad_json_is_underlined() {
    let place = Place::new();
    let error = place.run(["run", &module("hello"), "-i", r#"{"name":Ada}"#]).error(2, &place);
    assert_eq!(
        error,
        "error[WF0002]: the input is not valid JSON\n     1 | {\"name\":Ada}\n       |         ^ expected value\n   hint: pass JSON as '{\"key\":\"value\"}', as @FILE, or as - for stdin\n"
    );
    let error = place.run(["run", &module("hello"), "-i", "Ada"]).error(2, &place);
    assert!(error.contains(r#"hint: text has to be a JSON string: '"Ada"'"#), "{error}");
    let error = place.run(["run", &module("hello"), "-i", "@nowhere.json"]).error(2, &place);
    assert!(error.starts_with("error[WF0004]: the input cannot be read from `@nowhere.json`"), "{error}");
}

#[test]
fn input_that_does_not_fit_fails_the_run_with_the_reason() {
    let place = Place::new();
    let ran = place.run(["run", &module("counter"), "-i", r#"{"stops":1}"#, "--id", "r"]);
    assert_eq!(ran.code(), Some(1));
    assert!(
        ran.stderr().contains("Failed  r  rejected: the input does not fit: missing field `steps`"),
        "{}",
        ran.stderr()
    );
}

#[test]
fn runs_are_found_by_prefix_and_age_and_unknown_ones_name_the_nearest() {
    let place = Place::new();
    for id in ["alpha-1", "alpha-2", "beta"] {
        place.run(["run", &module("counter"), "-i", r#"{"steps":0}"#, "--id", id]).ok_json();
    }
    assert_eq!(place.show("@last")["id"], "beta");
    assert_eq!(place.show("@last:2")["id"], "alpha-2");
    assert_eq!(place.show("be")["id"], "beta");
    let error = place.run(["show", "alpha"]).error(2, &place);
    assert_eq!(
        error,
        "error[WF0504]: `alpha` matches several runs\n   hint: for example `alpha-2`, `alpha-1`\n"
    );
    let error = place.run(["show", "bets"]).error(2, &place);
    assert_eq!(
        error,
        "error[WF0501]: unknown run `bets`\n   hint: did you mean `beta`? `wfhost ps` lists all runs\n"
    );
    let taken =
        place.run(["run", &module("counter"), "-i", r#"{"steps":0}"#, "--id", "beta"]).error(2, &place);
    assert!(taken.starts_with("error[WF0302]: the run beta already exists"), "{taken}");
    let listed = place.run(["ps", "-o", "json"]).ok_json();
    let ids: Vec<_> =
        listed["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["beta", "alpha-2", "alpha-1"]);
}

#[test]
fn the_same_key_gives_the_same_run() {
    let place = Place::new();
    let run = || {
        place.run(["run", &module("counter"), "-i", r#"{"steps":2}"#, "--agent", "echo", "--key", "order-17"])
    };
    assert_eq!(run().ok_json(), run().ok_json());
    assert_eq!(place.run(["ps", "-o", "json"]).ok_json()["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn without_a_provider_the_run_stays_and_can_be_resumed_with_one() {
    let place = Place::new();
    let error = place.run(["run", &module("hello"), "--id", "r"]).error(4, &place);
    assert!(error.contains("error[WF0403]: r calls an agent, but there is no default provider"), "{error}");
    assert!(error.contains("hint: to try it out: `wfhost resume r --agent echo`"), "{error}");
    assert_eq!(place.show("r")["state"], "waiting");
    assert_eq!(place.run(["resume", "r", "--agent", "echo"]).ok_json(), json!({ "greeting": "greet world" }));
    let error = place.run(["run", &module("hello"), "--agent", "gpt"]).error(2, &place);
    assert!(error.starts_with("error[WF0401]: unknown provider `gpt`"), "{error}");
}

#[test]
fn a_panic_names_its_message_and_place() {
    let place = Place::new();
    let ran = probe(&place, json!([{ "panic": "out of luck" }]), &[]);
    assert_eq!(ran.code(), Some(1));
    let failure = place.show("r")["failure"]["message"].as_str().unwrap().to_owned();
    assert!(failure.starts_with("the program panicked at "), "{failure}");
    assert!(failure.contains("lib.rs:") && failure.ends_with(": out of luck"), "{failure}");
}

#[test]
fn a_program_without_end_or_measure_is_stopped_by_its_limits() {
    let message = |program: Value, more: &[&str]| {
        let place = Place::new();
        let ran = probe(&place, program, more);
        assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
        place.show("r")["failure"]["message"].as_str().unwrap().to_owned()
    };
    let spin = message(json!(["spin"]), &["--fuel", "50000000"]);
    assert!(spin.starts_with("the program used up its 50000000 units of fuel between two steps"), "{spin}");
    let memory = message(json!([{ "allocate": 100_000_000 }]), &["--memory", "16"]);
    assert_eq!(memory, "the program needs more than the 16777216 bytes of memory that it may use");
    let stack = message(json!(["recurse"]), &[]);
    assert!(stack.contains("trap") || stack.contains("stack"), "{stack}");
    let deadlock = message(json!(["deadlock"]), &[]);
    assert_eq!(deadlock, "the program waits for nothing that could ever happen");
}

#[test]
fn sizes_and_lengths_are_limited_and_the_limit_is_named() {
    let place = Place::new();
    let results = probe(&place, json!([{ "sleep": u64::MAX }]), &[]).ok_json();
    assert_eq!(results[0]["failure"], "rejected");
    assert!(results[0]["message"].as_str().unwrap().contains("100 years"), "{results}");
    let long = "x".repeat(300);
    let error = place.run(["signal", "r", &long]).error(2, &place);
    assert!(
        error.contains("the name of a signal has 300 bytes, more than the 256 that are allowed"),
        "{error}"
    );
    let error = place.run(["run", &module("hello"), "--id", "a/b"]).error(2, &place);
    assert!(error.contains("letters, digits"), "{error}");
}

#[test]
fn interrupting_leaves_the_run_to_be_resumed() {
    let place = Place::new();
    let input = json!({ "do": [{ "wait": { "name": "go" } }] }).to_string();
    let child = place.spawn(["run", &module("probe"), "-i", &input, "--id", "r"]);
    eventually("the wait", || {
        (place.run(["show", "r", "-o", "json"]).code() == Some(0) && place.show("r")["steps"][0].is_object())
            .then_some(())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = finish(child);
    assert_eq!(ran.code(), Some(130), "{}", ran.stderr());
    assert!(
        ran.stderr().contains("Stopped  r; nothing is lost\n    next  wfhost resume r"),
        "{}",
        ran.stderr()
    );
    assert_eq!(place.show("r")["waiting_for"], json!([{ "kind": "signal", "name": "go" }]));
    let waits = place.run(["resume", "r", "--no-wait"]);
    assert_eq!(waits.code(), Some(3), "{}", waits.stderr());
    place.run(["signal", "r", "go", "-i", "7"]);
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([7]));
    let error = place.run(["signal", "r", "go"]).error(2, &place);
    assert!(error.starts_with("error[WF0502]: r has ended"), "{error}");
}

#[test]
fn a_cancelled_program_sees_it_and_may_end_by_itself() {
    let place = Place::new();
    let input =
        json!({ "do": [{ "wait": { "name": "go" } }, "cancelled", { "log": "cleaning up" }] }).to_string();
    assert_eq!(place.run(["run", &module("probe"), "-i", &input, "--id", "r", "--no-wait"]).code(), Some(3));
    let ran = place.run(["cancel", "r", "--reason", "enough"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let shown = place.show("r");
    assert_eq!(shown["output"][0]["failure"], "cancelled");
    assert_eq!(shown["output"][1], true);
    assert!(place.run(["logs", "r"]).stdout().contains("cleaning up"));
}

#[test]
fn databases_that_cannot_be_used_are_explained() {
    let place = Place::in_file();
    place.file("wfhost.db", "this is not a database, but it is long enough to be taken for one. ".repeat(20));
    let error = place.run(["ps"]).error(4, &place);
    assert!(error.starts_with("error[WF0316]: DIR/wfhost.db is not a wfhost database"), "{error}");
    let place = Place::in_file();
    place.run(["add", &module("counter")]);
    rusqlite::Connection::open(place.db()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = place.run(["ps"]).error(4, &place);
    assert!(
        error.starts_with(
            "error[WF0314]: the database DIR/wfhost.db has format 99, but this wfhost supports formats up to 10"
        ),
        "{error}"
    );
}

#[test]
fn a_changed_byte_in_a_journal_is_noticed() {
    let place = Place::in_file();
    place.run(["run", &module("counter"), "-i", r#"{"steps":3}"#, "--agent", "echo", "--id", "r"]).ok_json();
    let database = rusqlite::Connection::open(place.db()).unwrap();
    database
        .execute("UPDATE commits SET body = CAST(replace(body, 'tick 2', 'tick 9') AS BLOB)", [])
        .unwrap();
    let error = place.run(["journal", "r"]).error(4, &place);
    assert!(error.contains("error[WF0202]: the journal of r cannot be read"), "{error}");
    assert!(error.contains("are damaged"), "{error}");
    // Bytes that are no entries at all are an error for those who only look on, too.
    database.execute("UPDATE commits SET body = x'ff'", []).unwrap();
    for events in [&["events", "r"][..], &["events"]] {
        let error = place.run(events).error(4, &place);
        assert!(error.starts_with("error[WF0202]: the journal of r cannot be read"), "{error}");
    }
}

#[test]
fn every_help_fits_on_a_screen_and_shows_examples() {
    let place = Place::new();
    let verbs = [
        "run",
        "resume",
        "ps",
        "show",
        "journal",
        "logs",
        "signal",
        "cancel",
        "inspect",
        "check",
        "build",
        "new",
        "explain",
        "completions",
    ];
    for verb in verbs {
        let help = place.run([verb, "-h"]);
        assert_eq!(help.code(), Some(0));
        let text = help.stdout();
        assert!(text.lines().count() <= 48, "{verb}: {} lines", text.lines().count());
        assert!(text.contains("Examples:"), "{verb}");
    }
    let explained = place.run(["explain"]).stdout();
    assert!(explained.contains("WF0201"));
    assert!(
        place.run(["explain", "wf0201"]).stdout().starts_with("WF0201: the program is non-deterministic")
    );
    assert!(place.run(["completions", "bash"]).stdout().contains("_wfhost"));
}

/// A variable of a shell that is not set: everybody would have the same key, and SQLite a database that nobody sees.
#[test]
fn what_is_empty_names_nothing() {
    let place = Place::new();
    let module = module("probe");
    for args in [
        &["run", &module, "--key", ""][..],
        &["run", &module, "--db", ""],
        &["ps", "--db", ""],
        &["signal", "r", "go", "--id", ""],
        &["run", &module, "--id", ""],
        // Nor do places in a path.
        &["run", &module, "--id", "."],
        &["run", &module, "--id", ".."],
    ] {
        let error = place.run(args).error(2, &place);
        assert!(error.starts_with("error[WF0007]"), "{args:?}: {error}");
    }
}

#[test]
fn a_project_that_cannot_be_written_is_not_left_in_part() {
    let place = Place::new();
    let made = place.path("greeter");
    let new = place.wfhost(["new", &made.display().to_string()]);
    // Files can have 8 KiB at most, as if the disk was full.
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""]);
    let limited = Ran(limited.arg(new.get_program()).args(new.get_args()).output().unwrap());
    let error = limited.error(4, &place);
    assert!(error.contains("error[WF0608]") && error.contains("File too large"), "{error}");
    assert!(!made.exists());
    assert_eq!(place.run(["new", &made.display().to_string()]).code(), Some(0));
}

#[test]
fn a_new_project_builds_and_runs() {
    let place = Place::new();
    let made = place.path("greeter").display().to_string();
    assert_eq!(place.run(["new", &made]).stdout().trim(), made);
    let again = place.run(["new", &made]).error(2, &place);
    assert!(again.starts_with("error[WF0610]: DIR/greeter already exists"), "{again}");
    let agents = format!("{made}/agents.json");
    let ran = place.run(["run", &made, "-i", r#"{"name":"Ada"}"#, "--agents", &agents]);
    assert_eq!(ran.ok_json(), json!({ "greeting": "Hello, Ada!" }));
    let error = place.run(["build", &place.path("").display().to_string()]).error(2, &place);
    assert!(error.starts_with("error[WF0601]: DIR/ does not contain a project"), "{error}");
}
