//! One program in five languages: `tests/guests/behaviours` in Rust, `tests/behaviours` in the others. Each
//! scenario does the same in all of them, by the results and by the journals.

use std::path::Path;

use serde_json::{Value, json};
use wfhost_tests::{Place, module};

/// What a scenario comes to.
struct Scenario {
    name: &'static str,
    /// The output of the run, or its failure: kind, message and details.
    ends: Result<Value, Value>,
    /// What was asked of the world, in the order in which it was.
    steps: &'static [&'static str],
    /// Those of them that the program cancelled.
    cancelled: &'static [u64],
}

/// The scenarios that need nobody from outside.
fn scenarios() -> Vec<Scenario> {
    let scenario = |name, output, steps| Scenario { name, ends: Ok(output), steps, cancelled: &[] };
    vec![
        scenario(
            "conversation",
            json!({ "outputs": ["one", "ok second"], "session": "s1", "usage": [10, 5, 0, 0], "provider": "scripted" }),
            &["agent first", "agent second"],
        ),
        scenario(
            "typed",
            json!({ "review": { "accepted": true, "notes": ["a", "b"] }, "bad": "invalid-output" }),
            &["agent review", "agent words"],
        ),
        scenario("once", json!({ "kind": "unavailable" }), &["agent pay"]),
        scenario("request", json!("ok p"), &["agent l"]),
        scenario("cache", json!("ok costly"), &["agent costly"]),
        Scenario {
            name: "race",
            ends: Ok(json!([1, "ok b"])),
            steps: &["sleep", "agent b", "signal never"],
            cancelled: &[1, 3],
        },
        Scenario {
            name: "quorum",
            ends: Ok(json!({
                "votes": [[2, "ok fast"], [1, "slow"]],
                "message": "2 of 3 tries failed, 2 have to succeed: no",
                "details": { "failures": [
                    { "index": 0, "kind": "failed", "message": "no" },
                    { "index": 1, "kind": "failed", "message": "no" },
                ] },
            })),
            steps: &["agent bad", "agent slow", "agent fast", "agent bad", "agent bad too", "agent fast"],
            // It would have been tried again.
            cancelled: &[1],
        },
        scenario(
            "map",
            json!([
                "ok polish d0",
                "ok polish ok draft 1",
                "ok polish ok draft 2",
                "ok polish ok draft 3",
                "ok polish ok draft 4"
            ]),
            &[
                "agent draft 0",
                "agent draft 1",
                "agent polish ok draft 1",
                "agent draft 2",
                "agent polish ok draft 2",
                "agent draft 3",
                "agent polish ok draft 3",
                "agent draft 4",
                "agent polish ok draft 4",
                "agent polish d0",
            ],
        ),
        Scenario {
            name: "timeout",
            ends: Ok(json!({ "kind": "timed-out" })),
            steps: &["signal never", "sleep"],
            cancelled: &[1],
        },
        Scenario {
            name: "cancel",
            ends: Ok(json!("ok meanwhile")),
            steps: &["sleep", "agent meanwhile"],
            cancelled: &[1],
        },
        scenario(
            "retry",
            json!("ok try 3"),
            &["agent try 1", "sleep", "agent try 2", "sleep", "agent try 3"],
        ),
        Scenario {
            name: "saga",
            ends: Err(json!({ "kind": "rejected", "message": "no", "details": { "own": 1, "saga": {
                "undone": ["hotel", "flight"],
                "not_undone": [{ "step": "car", "kind": "failed", "message": "there is no car" }],
            } } })),
            steps: &[
                "agent book flight",
                "agent book hotel",
                "agent undo ok book hotel",
                "agent undo ok book flight",
            ],
            cancelled: &[],
        },
        scenario(
            "child",
            json!({ "value": { "n": 7 }, "missing": "rejected" }),
            &["child behaviours", "child no-such"],
        ),
        scenario("budget", json!({ "before": [0, 1000], "after": [15, 985] }), &["agent first"]),
        scenario(
            "facts",
            json!({
                "run": "facts", "workflow": "behaviours", "labels": { "a": "b" }, "attempt": 1, "parent": null,
                "patched": true, "cancelled": false, "clock": true, "gone": "rejected",
            }),
            &["send go to no-such-run"],
        ),
        scenario("sleep", json!({ "long": "rejected" }), &["sleep", "sleep", "sleep"]),
        Scenario {
            name: "fail",
            ends: Err(
                json!({ "kind": "unavailable", "message": "nobody is there", "details": { "why": [1] } }),
            ),
            steps: &[],
            cancelled: &[],
        },
        Scenario {
            name: "nonsense",
            ends: Err(
                json!({ "kind": "rejected", "message": "there is no scenario nonsense", "details": null }),
            ),
            steps: &[],
            cancelled: &[],
        },
    ]
}

fn agents(place: &Place) -> String {
    let failing = |times| json!({ "times": times, "kind": "failed", "message": "no" });
    place.script(json!({ "rules": [
        { "match": "^first$", "reply": "one", "usage": { "input_tokens": 10, "output_tokens": 5 } },
        { "match": "^review$", "reply": " {\"accepted\": true, \"notes\": [\"a\", \"b\"]}" },
        { "match": "^words$", "reply": "sorry" },
        { "match": "^pay$", "reply": "paid", "fail": { "times": 1, "kind": "unavailable", "message": "busy" } },
        { "match": "^a1$", "reply": "done a1", "delay_ms": 300 },
        { "match": "^slow$", "reply": "slow", "delay_ms": 300 },
        { "match": "^bad too$", "reply": "x", "fail": failing(99), "delay_ms": 200 },
        { "match": "^bad$", "reply": "x", "fail": failing(99) },
        { "match": "^try [12]$", "reply": "x", "fail": failing(99) },
        // The others are through before it.
        { "match": "^draft 0$", "reply": "d0", "delay_ms": 4_000 },
        { "match": "^b$", "reply": "ok b", "delay_ms": 50 },
    ], "default": { "reply": "ok ${prompt}" } }))
}

/// What a run asked of the world. Lengths of sleeps are left out: a time limit is a length in one language,
/// and a point in time in another.
fn steps(shown: &Value) -> Vec<String> {
    let steps = shown["steps"].as_array().unwrap();
    let name = |step: &Value| match step["kind"].as_str().unwrap() {
        kind if kind.starts_with("sleep") => "sleep".to_owned(),
        kind => format!("{kind} {}", step["label"].as_str().unwrap_or_default()),
    };
    steps.iter().map(name).collect()
}

struct Program {
    place: Place,
    module: String,
    script: String,
    language: &'static str,
}

impl Program {
    fn new(language: &'static str) -> Self {
        let place = Place::new();
        let script = agents(&place);
        // Children name it, so it has one name in all languages.
        let module_of = match language {
            "rust" => module("behaviours"),
            language => module(&format!("behaviours-{language}")),
        };
        let module = place.path("behaviours.wasm").display().to_string();
        std::fs::copy(module_of, &module).unwrap();
        Self { place, module, script, language }
    }

    fn run(&self, scenario: &str, more: &[&str]) -> wfhost_tests::Ran {
        let input = json!({ "scenario": scenario }).to_string();
        let args = ["run", &self.module, "-q", "-i", &input, "--agents", &self.script, "--id", scenario];
        // Under a budget the first call of a provider is made alone, which would order the others.
        let budget = if scenario == "budget" { &["--budget", "tokens=1000"][..] } else { &[] };
        let set = ["--label", "a=b"].iter().chain(budget).chain(more).copied();
        self.place.run(args.into_iter().chain(set))
    }

    fn calls(&self, prompt: &str) -> usize {
        self.place.calls().iter().filter(|call| call["prompt"] == prompt).count()
    }

    fn compare(&self, scenario: &Scenario) {
        let what = format!("{} in {}", scenario.name, self.language);
        let ran = self.run(scenario.name, &[]);
        let shown = self.place.show(scenario.name);
        match &scenario.ends {
            Ok(output) => assert_eq!(&ran.ok_json(), output, "{what}"),
            Err(failure) => {
                assert_eq!(ran.code(), Some(1), "{what}: {}", ran.stderr());
                for member in ["kind", "message", "details"] {
                    assert_eq!(shown["failure"][member], failure[member], "{what}: {member}");
                }
            }
        }
        assert_eq!(steps(&shown), scenario.steps, "{what}");
        let entries = self.place.journal(scenario.name);
        let cancelled = entries.iter().filter(|entry| entry["kind"] == "cancelled");
        let mut cancelled: Vec<_> = cancelled.map(|entry| entry["step"].as_u64().unwrap()).collect();
        cancelled.sort_unstable();
        assert_eq!(cancelled, scenario.cancelled, "{what}");
        let replayed = self.place.run(["replay", scenario.name]);
        assert_eq!(replayed.code(), Some(0), "{what}: {}", replayed.stderr());
    }

    /// What a call of an agent says to the host, where it said something.
    fn request(&self) {
        let shown = self.place.show("request");
        let asked = &shown["steps"][0]["input"];
        let retry = &asked["retry"];
        let said = json!([asked["input"], asked["label"], asked["group"], asked["options"]]);
        assert_eq!(said, json!([{ "a": 1 }, "l", "g", { "t": 0 }]), "{}", self.language);
        let policy = json!([retry["max_attempts"], retry["fatal"], retry["factor"]]);
        assert_eq!(policy, json!([5, ["unavailable"], 2.0]), "{retry}");
        let limits = &asked["limits"];
        let limits = ["attempt", "total", "heartbeat"].map(|limit| {
            let named = limits.as_object().unwrap().iter().find(|(name, _)| name.starts_with(limit));
            named.and_then(|(_, length)| length.as_u64()).unwrap_or_default()
        });
        assert_eq!(limits, [60_000, 90_000, 30_000], "{}", asked["limits"]);
    }

    /// What outsiders see.
    fn outside(&self) {
        let shown = self.place.show("facts");
        assert_eq!(
            (&shown["published"], &shown["phase"]),
            (&json!({ "progress": { "done": 3 } }), &json!("looking"))
        );
        let logs = self.place.run(["logs", "facts"]).stdout();
        assert!(logs.contains("careful step=3 who=Ada") || logs.contains("careful who=Ada step=3"), "{logs}");
        let messages = self.place.run(["messages", "facts"]).stdout();
        assert!(messages.contains("chapter") && messages.contains("one"), "{messages}");
        assert_eq!(self.place.show("kid")["labels"], json!({ "k": "v" }));
    }

    /// Pipelines beside each other. Which of the two is begun first is up to the language.
    fn together(&self) {
        assert_eq!(self.run("together", &[]).ok_json(), json!(["ok a2 done a1", "ok b2 ok b1"]));
        let mut steps = steps(&self.place.show("together"));
        steps[..2].sort();
        assert_eq!(
            steps,
            ["agent a1", "agent b1", "agent b2 ok b1", "agent a2 done a1"],
            "{}",
            self.language
        );
    }

    /// Each run of the chain has two rounds, for as many steps.
    fn rounds(&self) {
        let ran = self.run("rounds", &["-o", "json"]);
        assert_eq!(ran.code(), Some(0), "{}: {}", self.language, ran.stderr());
        for (run, prompts) in
            [("rounds", ["agent round 0", "agent round 1"]), ("rounds-2", ["agent round 2", "agent round 3"])]
        {
            let made = steps(&self.place.show(run));
            assert_eq!(made[..2], prompts, "{}", self.language);
            assert_eq!(made.len(), 3, "{made:?}");
        }
        let last = self.place.show("rounds-3");
        assert_eq!(
            (&last["output"], steps(&last)),
            (&json!({ "rounds": 4 }), vec!["agent round 4".to_owned()])
        );
    }

    /// A run that is asked to stop undoes what it did.
    fn stopped(&self) {
        // The scenario `saga` has undone one as well.
        let undone = self.calls("undo ok book flight");
        assert_eq!(self.run("stopped", &["--no-wait"]).code(), Some(3));
        assert_eq!(self.place.run(["cancel", "stopped"]).code(), Some(0));
        self.place.run(["resume", "stopped"]);
        let shown = self.place.show("stopped");
        assert_eq!(
            (&shown["state"], &shown["failure"]["kind"]),
            (&json!("cancelled"), &json!("cancelled")),
            "{shown}"
        );
        assert_eq!(shown["failure"]["details"]["saga"]["undone"], json!(["flight"]), "{}", self.language);
        assert_eq!(self.calls("undo ok book flight"), undone + 1);
    }

    /// People answer, refuse, and do not come.
    fn ask(&self) {
        assert_eq!(self.run("ask", &["--no-wait"]).code(), Some(3));
        let inbox = self.place.run(["inbox", "-o", "json"]).stdout();
        assert!(
            inbox.contains("which colour?") && inbox.contains("green") && inbox.contains("\"why\""),
            "{inbox}"
        );
        assert_eq!(self.place.run(["answer", "ask", "-i", "\"red\""]).code(), Some(0));
        assert_eq!(self.place.run(["resume", "ask", "--no-wait"]).code(), Some(3));
        assert_eq!(self.place.run(["deny", "ask"]).code(), Some(0));
        let output = self.place.run(["resume", "ask"]).ok_json();
        assert_eq!(
            output,
            json!({ "colour": "red", "refused": "rejected", "late": "timed-out" }),
            "{}",
            self.language
        );
    }

    /// What the language itself throws fails the run.
    fn broken(&self, says: &str) {
        assert_eq!(self.run("broken", &[]).code(), Some(1));
        let shown = self.place.show("broken");
        assert_eq!(
            (&shown["failure"]["kind"], &shown["failure"]["message"]),
            (&json!("failed"), &json!(says))
        );
        // Go's runtime sleeps for a moment before it ends a program that panicked.
        assert_eq!(steps(&shown)[0], "agent first");
    }

    fn behaves(&self) {
        for scenario in scenarios() {
            self.compare(&scenario);
        }
        assert_eq!(self.calls("pay"), 1, "a call that may be made once was made again");
        assert_eq!(self.calls("words"), 1, "an answer of a call that may be made once was corrected");
        self.request();
        self.outside();
        // Another run of the same takes the answer of the first.
        let input = json!({ "scenario": "cache" }).to_string();
        let again = self.place.run(["run", &self.module, "-i", &input, "--agents", &self.script]);
        assert_eq!((again.ok_json(), self.calls("costly")), (json!("ok costly"), 1), "{}", self.language);
        self.together();
        self.rounds();
        self.stopped();
        self.ask();
    }
}

#[test]
fn rust_behaves_as_all_languages_do() {
    Program::new("rust").behaves();
}

#[test]
fn javascript_behaves_as_all_languages_do() {
    let program = Program::new("js");
    program.behaves();
    program.broken("TypeError: not like this");
}

#[test]
fn python_behaves_as_all_languages_do() {
    let program = Program::new("python");
    program.behaves();
    program.broken("TypeError: not like this");
}

#[test]
fn go_behaves_as_all_languages_do() {
    let program = Program::new("go");
    program.behaves();
    program.broken("the program panicked: not like this");
}

#[test]
fn c_behaves_as_all_languages_do() {
    let program = Program::new("c");
    program.behaves();
    program.broken("the program panicked: not like this");
}

/// The text of all files of an SDK that have this ending.
fn sources(dir: &Path, endings: &[&str]) -> String {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)));
    files.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Whether a word stands in a text, not as a part of another one.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part)
    })
}

#[test]
fn the_table_of_what_each_sdk_has_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sdk = root.join("guest-sdk");
    let languages = [
        sources(&sdk.join("src"), &[".rs"]),
        sources(&sdk.join("js"), &[".d.ts", "package.json"]) + "wfhost.d.ts",
        sources(&sdk.join("python/wfhost"), &[".py"])
            + "py.typed"
            + &sources(&sdk.join("python"), &[".toml"])
            + "pyproject.toml",
        sources(&sdk.join("go"), &[".go"]) + &sources(&sdk.join("go/wfhosttest"), &[".go"]) + "go.mod",
        sources(&sdk.join("c"), &["wfhost.h"]),
    ];
    let text = std::fs::read_to_string(root.join("docs/languages.md")).unwrap();
    let (_, table) = text.split_once("## What each SDK has").unwrap();
    let rows: Vec<_> = table
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() > 30, "{} rows", rows.len());
    for row in &rows[2..] {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{row}");
        for (cell, source) in cells[1..].iter().zip(&languages) {
            let (answer, more) = cell.split_once(':').unwrap_or((cell, ""));
            match answer {
                // Each name in the SDK itself.
                "yes" => {
                    let names =
                        more.split('`').skip(1).step_by(2).filter(|name| !name.contains("package.json"));
                    for name in names.map(|name| name.split('.').next_back().unwrap().trim_end_matches("()"))
                    {
                        let known = has_word(source, name)
                            || ["ts", "typed", "toml", "mod", "TypedDict"].contains(&name);
                        assert!(known, "`{name}` of `{}` is not there", cells[0]);
                    }
                }
                "no" => assert!(more.len() > 10, "`{}` is missing without a reason: {cell}", cells[0]),
                other => panic!("neither yes nor no, but `{other}`: {row}"),
            }
        }
    }
}
