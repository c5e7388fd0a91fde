//! What people and other programs see: text of strangers cannot steer a terminal, suggested commands
//! are safe to type, stdout keeps data and its errors, errors are JSON where JSON was asked for.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

/// What a terminal obeys: OSC 8 and 52, a CSI, BEL, BS, DEL, C1, a lone CR, an override, an isolate.
const HOSTILE: &str = "<\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil\x1b\\x\x1b[2J\x08\x7f\u{9b}31m\u{85}\rx\u{202e}y\u{2066}z\u{200b}\u{ad}\u{e0041}>";

fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
        || matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[track_caller]
fn is_clean(what: &str, ran: &Ran) {
    for (name, bytes) in [("stdout", &ran.0.stdout), ("stderr", &ran.0.stderr)] {
        let text = String::from_utf8(bytes.clone()).unwrap_or_else(|error| panic!("{what} {name}: {error}"));
        let found: Vec<_> = text.char_indices().filter(|(_, c)| is_hostile(*c)).collect();
        assert!(found.is_empty(), "{what} {name}: {found:?} in {text:?}");
        assert!(!text.contains("panicked at host"), "{what} {name}: {text}");
    }
}

fn start(place: &Place, id: &str, program: &Value, more: &[&str]) -> Ran {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let mut args = vec!["run", &module, "-i", &input, "--id", id];
    args.extend(more);
    let ran = place.run(args);
    is_clean(&format!("run {id}"), &ran);
    ran
}

#[test]
fn nothing_that_programs_agents_and_names_say_steers_the_terminal() {
    let place = Place::new();
    let said = json!({ "text": HOSTILE }).to_string();
    let agent = place.file(
        "agent.sh",
        format!("#!/bin/sh\nprintf '%s\\n' {0}\nprintf '%s\\n' {0} >&2\nexit ${{1:-0}}\n", quoted(&said)),
    );
    let plain = place.file("plain.sh", format!("#!/bin/sh\nprintf '%s' {}\n", quoted(HOSTILE)));
    for file in [&agent, &plain] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let config = place.file(
        "wfhost.toml",
        format!(
            "[providers.agent]\nkind = \"command\"\nargv = [{agent:?}]\nformat = \"jsonl\"\n\
             [providers.plain]\nkind = \"command\"\nargv = [{plain:?}]\n\
             [providers.bad]\nkind = \"command\"\nargv = [{agent:?}, \"7\"]\n"
        ),
    );
    let label = format!("k={HOSTILE}");
    let once = json!({ "max_attempts": 1 });
    let program = json!([
        { "log": HOSTILE }, { "log_with": { "level": "warn", "message": HOSTILE, "note": HOSTILE } },
        { "phase": HOSTILE }, { "publish": { "key": HOSTILE, "value": HOSTILE } },
        { "post": { "name": HOSTILE, "payload": HOSTILE } },
        { "agent_with": { "prompt": HOSTILE, "label": HOSTILE, "providers": ["agent"], "retry": once } },
        { "agent_with": { "prompt": HOSTILE, "providers": ["plain"], "retry": once } },
        { "agent_with": { "prompt": HOSTILE, "providers": ["bad"], "retry": once } },
        { "wait": { "name": HOSTILE, "timeout_ms": 1 } },
    ]);
    start(&place, "ended", &program, &["--config", &config, "--label", &label, "-v"]);
    start(&place, "failed", &json!([{ "fail": HOSTILE }]), &[]);
    start(&place, "panicked", &json!([{ "panic": HOSTILE }]), &["-q"]);
    let question = json!([{ "ask": { "prompt": HOSTILE, "choices": [HOSTILE, "b"], "details": HOSTILE } }]);
    start(&place, "asking", &question, &["--no-wait"]);
    start(&place, "waiting", &json!([{ "wait": { "name": HOSTILE } }]), &["--no-wait"]);
    let strange = json!([{ "agent_with": { "prompt": "x", "providers": [HOSTILE] } }]);
    start(&place, "strange", &strange, &["--no-wait"]);
    // A module's file and a workflow that are called so.
    let odd = place.path("\x1b[31mred\u{202e}.wasm");
    std::fs::copy(module("counter"), &odd).unwrap();
    let odd = odd.display().to_string();

    let mut looked: Vec<Vec<&str>> = vec![
        vec!["ps"],
        vec!["inbox"],
        vec!["events"],
        vec!["modules"],
        vec!["schedule", "ls"],
        vec!["diff", "ended", "failed"],
        vec!["diff", "asking", "waiting"],
        vec!["run", &odd, "-i", r#"{"steps":0}"#],
        vec!["add", &odd],
        vec!["inspect", &odd],
        vec!["check", &odd],
        vec!["schedule", "add", "odd", "--every", "1h", &odd],
        vec!["schedule", "show", "odd"],
        vec!["show", HOSTILE],
        vec!["explain", HOSTILE],
        vec!["run", HOSTILE],
        vec!["run", &odd, "-i", HOSTILE],
        vec!["signal", "waiting", HOSTILE, "-i", HOSTILE],
        vec!["answer", "asking", "-i", "\"no such choice\""],
        vec!["state", "ended", HOSTILE],
        vec!["state", "ended", "nothing"],
        vec!["run", &odd, "--agent", HOSTILE],
        vec!["build", &odd],
        vec!["config", "show"],
        vec!["doctor"],
        vec!["db", "check"],
        vec!["transcript", "ended", "3"],
        vec!["ps", "--workflow", HOSTILE],
        vec!["resume", "strange"],
    ];
    for run in ["ended", "failed", "panicked", "asking", "waiting", "strange"] {
        for verb in [
            "show",
            "logs",
            "messages",
            "state",
            "events",
            "why",
            "transcript",
            "journal",
            "verify",
            "replay",
        ] {
            looked.push(vec![verb, run]);
        }
        looked.push(vec!["show", run, "--io"]);
        looked.push(vec!["replay", run, "--log", "trace"]);
    }
    for args in &looked {
        is_clean(&args.join(" "), &place.run(args));
        for format in ["json", "jsonl"] {
            let mut args = args.clone();
            args.extend(["-o", format]);
            is_clean(&args.join(" "), &place.run(&args));
        }
    }
    // JSON has the very text, all the same.
    let state = place.run(["state", "ended", "-o", "json"]).ok_json();
    assert_eq!((&state["key"], &state["value"]), (&json!(HOSTILE), &json!(HOSTILE)));
    for end in [vec!["cancel", "waiting", "--reason", HOSTILE], vec!["deny", "asking", "--note", HOSTILE]] {
        is_clean(&end.join(" "), &place.run(&end));
    }
    for args in
        [vec!["resume", "asking"], vec!["show", "waiting"], vec!["show", "asking"], vec!["journal", "asking"]]
    {
        is_clean(&args.join(" "), &place.run(&args));
    }
}

/// A word for `sh`, which hostile text has no `'` in.
fn quoted(word: &str) -> String {
    assert!(!word.contains('\''));
    format!("'{word}'")
}

/// What a shell makes of a command, without executing it.
fn words(command: &str) -> Vec<String> {
    let script = format!("wfhost() {{ printf '%s\\0' \"$@\"; }}; {command}");
    let ran = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(ran.stderr.is_empty(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn suggested_commands_do_what_they_say_and_nothing_else() {
    let place = Place::new();
    let names =
        ["go; touch /tmp/pwned #", "$(touch /tmp/pwned)", "two words", "it's", "`id`", "--db=x", HOSTILE];
    for (number, name) in names.iter().enumerate() {
        let id = format!("r{number}");
        let ran = start(&place, &id, &json!([{ "wait": { "name": name } }]), &["--no-wait"]);
        let shown = ran.stderr().lines().find_map(|line| line.split_once("do  ")).unwrap().1.to_owned();
        let shown = words(&shown);
        assert!(shown.contains(&(*name).to_owned()), "{shown:?}");
        let why = place.run(["why", &id, "-o", "json"]).ok_json();
        let next = place.show(&id)["next"].clone();
        let commands = why["blockers"].as_array().unwrap().iter().map(|blocker| &blocker["do"]);
        for command in commands.chain(next.as_array().unwrap()) {
            let Some(command) = command.as_str().filter(|command| command.contains("signal")) else {
                continue;
            };
            let words = words(&command.replace("JSON", "7"));
            assert!(words.contains(&(*name).to_owned()), "{command}");
            if command == next[0].as_str().unwrap() {
                assert_eq!(place.run(words).code(), Some(0), "{command}");
            }
        }
        assert_eq!(place.run(["resume", &id]).ok_json(), json!([7]), "{name:?}");
    }
    let choice = "a'b $(id)";
    start(&place, "ask", &json!([{ "ask": { "prompt": "?", "choices": [choice] } }]), &["--no-wait"]);
    let inbox = place.run(["inbox", "-o", "json"]).ok_json();
    let command = inbox["questions"][0]["next"][0].as_str().unwrap().to_owned();
    assert_eq!(place.run(words(&command)).code(), Some(0), "{command}");
    assert_eq!(place.run(["resume", "ask"]).ok_json(), json!([choice]));
}

#[test]
fn stdout_keeps_every_character_and_reports_what_it_could_not_write() {
    let place = Place::new();
    let text = "del \u{7f} c1 \u{85} bidi \u{202e} tab \t end";
    let ran = start(&place, "r", &json!([{ "agent": text }]), &["--agent", "echo"]);
    assert_eq!(ran.ok_json(), json!([text]));
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([text]));
    // The run is done; that nobody learns of it is an error.
    for args in [&["resume", "r"][..], &["ps"], &["show", "r", "-o", "json"], &["-h"][..0]] {
        if args.is_empty() {
            continue;
        }
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = place.wfhost(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(ran.status.code(), Some(4), "{args:?}");
        let errors = String::from_utf8(ran.stderr).unwrap();
        assert!(
            errors.contains("WF0006") && errors.contains("stdout cannot be written"),
            "{args:?}: {errors}"
        );
    }
    // Stderr that takes nothing changes nothing.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = place.wfhost(["resume", "r"]).stderr(full).stdout(Stdio::piped()).output().unwrap();
    assert_eq!(
        (ran.status.code(), serde_json::from_slice::<Value>(&ran.stdout).unwrap()),
        (Some(0), json!([text]))
    );
    // A reader that has seen enough is no error.
    let mut child =
        place.wfhost(["journal", "r"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn errors_are_json_where_json_was_asked_for() {
    let place = Place::new();
    let error = |args: &[&str], code: i32| -> Value {
        let ran = place.run(args);
        assert_eq!(ran.code(), Some(code), "{}", ran.stderr());
        assert_eq!(ran.stdout(), "");
        serde_json::from_str(&ran.stderr()).unwrap_or_else(|_| panic!("{args:?}: {}", ran.stderr()))
    };
    let missing = error(&["show", "nope", "-o", "json"], 2);
    assert_eq!((&missing["schema"], &missing["code"]), (&json!("wfhost/error/1"), &json!("WF0501")));
    assert!(missing["message"].is_string() && missing["hints"].is_array() && missing["causes"].is_array());
    assert_eq!(error(&["ps", "--no-such-flag", "-o", "json"], 2)["code"], "WF0007");
    assert_eq!(error(&["run", "/dev/null", "-o", "jsonl"], 2)["exit"], 2);
    // Each error in the chain is a cause, the nearest first.
    let unread = error(&["run", "x.wasm", "-i", "@/no/such/file", "-o", "json"], 2);
    assert_eq!(unread["causes"], json!(["No such file or directory (os error 2)"]));
    let missing = place.path("none.toml").display().to_string();
    let args = ["config", "show", "--config", &missing];
    let causes = error(&[&args[..], &["-o", "json"]].concat(), 2)["causes"].clone();
    let expected = json!([
        format!("{missing} cannot be read: No such file or directory (os error 2)"),
        "No such file or directory (os error 2)",
    ]);
    assert_eq!(causes, expected);
    let (short, long) = (place.run(args).stderr(), place.run(args.iter().chain(&["-v"])).stderr());
    assert!(!short.contains("cause:"), "{short}");
    assert!(long.contains("cause: No such file or directory (os error 2)"), "{long}");
    let config = place.file("broken.toml", "[agents\n");
    let broken = error(&["config", "show", "--config", &config, "-o", "json"], 2);
    assert_eq!(broken["code"], "WF0701");
    let text = place.run(["config", "show", "--config", &config, "-v"]).stderr();
    assert!(text.contains("more: wfhost explain WF0701"), "{text}");
}

/// What programs exchange is shown to the last digit.
#[test]
fn numbers_keep_their_digits_in_every_view() {
    const LONG: &str = "123456789012345678901234567890";
    const FINE: &str = "0.10000000000000000000000000001";
    let place = Place::new();
    let input = format!("{{ \"do\": [{{ \"wait\": {{ \"name\": \"go\" }} }}],\n \"n\": [{LONG}, {FINE}] }}");
    let ran = place.run(["run", &module("probe"), "-i", &input, "--id", "r", "--no-wait", "-o", "json"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    let payload = format!("{{\"big\":\n{LONG},\"fine\":{FINE}}}");
    assert_eq!(place.run(["signal", "r", "go", "-i", &payload]).code(), Some(0));
    assert_eq!(place.run(["resume", "r"]).code(), Some(0));
    for (verb, times) in [("show", 2), ("journal", 2), ("events", 2)] {
        for format in ["json", "jsonl", "text"] {
            let shown = place.run([verb, "r", "-o", format]).stdout();
            // In text, `show` has what steps were answered only if it is asked for.
            let times = if (verb, format) == ("show", "text") { 1 } else { times };
            for digits in [LONG, FINE] {
                assert_eq!(shown.matches(digits).count(), times, "{verb} {format}: {shown}");
            }
            // A document is one line.
            let whole = |line: &str| serde_json::from_str::<Value>(line).is_ok();
            assert!(format == "text" || shown.lines().all(whole), "{verb} {format}: {shown}");
        }
    }
    let error = place.run(["run", &module("probe"), "-i", "1e400"]).error(2, &place);
    assert!(error.contains("range of a double") && !error.contains("'\"1e400\"'"), "{error}");
}

#[test]
fn columns_are_cells_and_long_labels_are_cut() {
    let place = Place::new();
    let program = json!([
        { "agent_with": { "prompt": "p", "label": "日本語日本語", "providers": ["echo"] } },
        { "agent_with": { "prompt": "p", "label": "plain", "providers": ["echo"] } },
        { "agent_with": { "prompt": "p", "label": "x".repeat(100_000), "providers": ["echo"] } },
    ]);
    let label = format!("team={}", "y".repeat(250));
    start(&place, "r", &program, &["--label", &label]);
    let shown = place.run(["show", "r"]).stdout();
    assert!(shown.lines().filter(|line| !line.starts_with("input")).all(|line| line.len() < 400));
    let column = |name: &str| {
        let line = shown.lines().find(|line| line.contains(name)).unwrap();
        let end = line.rfind(' ').unwrap();
        // The others of the line are ideographs, of two cells.
        line[..end].chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum::<usize>()
    };
    assert_eq!(column("日本語"), column("plain"), "{shown}");
    assert!(shown.contains("label     team=yyy") && shown.contains("yyy…"));
    assert_eq!(place.show("r")["labels"]["team"].as_str().unwrap().len(), 250);
}

#[test]
fn variables_that_cannot_be_used_are_errors() {
    let place = Place::new();
    place.run(["run", &module("counter"), "-i", r#"{"steps":0}"#]).ok_json();
    for (name, value) in [("WFHOST_LEASE_MS", "30s"), ("WFHOST_MAX_PAGES", "many"), ("WFHOST_LEASE_MS", "1")]
    {
        let mut command = place.wfhost(["serve", "--idle", "1ms"]);
        let ran = Ran(command.env(name, value).output().unwrap());
        assert_eq!(ran.code(), Some(2), "{name}={value}: {}", ran.stderr());
        assert!(ran.stderr().contains("error[WF0008]") && ran.stderr().contains(name), "{}", ran.stderr());
    }
}

#[test]
fn looking_makes_no_database() {
    let place = Place::new();
    let db = place.path("typo/x.db").display().to_string();
    for verb in [&["ps"][..], &["show", "x"], &["inbox"], &["doctor"], &["db", "check"], &["schedule", "ls"]]
    {
        place.run(verb.iter().copied().chain(["--db", &db]));
        assert!(!place.path("typo").exists(), "{verb:?}");
    }
    let listed = place.run(["ps", "--db", &db]);
    assert_eq!(listed.code(), Some(0));
    assert!(listed.stderr().contains("does not exist yet"), "{}", listed.stderr());
}

#[test]
fn only_what_is_near_is_suggested() {
    let place = Place::new();
    place.run(["run", &module("counter"), "-i", r#"{"steps":0}"#]).ok_json();
    let error = place.run(["show", "nope"]).error(2, &place);
    assert!(!error.contains("nearest"), "{error}");
    let error = place.run(["run", &module("hello"), "--agent", "ecko"]).error(2, &place);
    assert!(error.contains("did you mean `echo`?"), "{error}");
    let text = place.file("x.wat", "(module)");
    let error = place.run(["build", &text]).error(2, &place);
    assert!(error.starts_with("error[WF0102]: this is WebAssembly text (WAT), not WebAssembly"), "{error}");
    let core = place.file("core.wasm", b"\0asm\x01\0\0\0");
    assert!(place.run(["run", &core]).error(2, &place).contains("-O OUT.wasm"));
}

#[test]
fn bad_ends_have_a_code_and_say_what_helps() {
    for (program, more, code, hint) in [
        (json!(["spin"]), &["--fuel", "50000000"][..], "WF0801", "--fuel N"),
        (json!([{ "allocate": 100_000_000 }]), &["--memory", "16"], "WF0803", "--memory MIB"),
        (json!(["recurse"]), &[], "WF0804", "--stack MIB"),
        (json!([{ "panic": "x" }]), &[], "WF0805", "--module FIXED.wasm"),
        (json!(["trap"]), &[], "WF0806", "wfhost logs r"),
    ] {
        let place = Place::new();
        let ran = start(&place, "r", &program, more);
        assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
        assert!(ran.stderr().contains(hint) && ran.stderr().contains(code), "{code}: {}", ran.stderr());
        assert_eq!(place.show("r")["code"], code);
        assert_eq!(place.run(["explain", code]).code(), Some(0));
    }
}

#[test]
fn a_program_that_traps_in_both_executions_does_not_pass_its_check() {
    let place = Place::new();
    let input = json!({ "do": ["trap"] }).to_string();
    let ran = place.run(["check", &module("probe"), "--twice", "-i", &input]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert!(ran.stderr().contains("Failed  failed: the program trapped"), "{}", ran.stderr());
    let fine = place.run(["check", &module("counter"), "--twice", "-i", r#"{"steps":1}"#, "--agent", "echo"]);
    assert_eq!(fine.code(), Some(0), "{}", fine.stderr());
}

/// A panic of Rust's standard library, or of Go, in a guest without SDK: its text is on standard error.
#[test]
fn a_panic_without_the_sdk_is_told_by_what_it_wrote() {
    let place = Place::new();
    let probe = module("probe-wasi");
    let input = json!({ "do": [
        { "print_error": "\nthread 'main' (1) panicked at src/lib.rs:3:5:\nout of luck\nnote: run with more" }, "trap",
    ] });
    let ran = place.run(["run", &probe, "-i", &input.to_string(), "--id", "r"]);
    assert_eq!(ran.code(), Some(1));
    assert!(ran.stderr().contains("the program panicked at src/lib.rs:3:5: out of luck"), "{}", ran.stderr());
}

#[test]
fn a_signal_to_an_earlier_round_names_the_round_that_has_it() {
    let place = Place::new();
    let last = json!({ "do": [{ "wait": { "name": "go" } }] });
    start(&place, "r", &json!([{ "continue_as_new": last }]), &["--no-wait"]);
    let ran = place.run(["signal", "r", "go"]);
    assert!(ran.stderr().contains("wfhost resume r-2"), "{}", ran.stderr());
}

#[test]
fn a_call_beyond_the_limit_says_that_it_waits_for_its_turn() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "x", "delay_ms": 60_000 } }));
    let input = json!({ "do": [{ "parallel": [{ "agent": "a" }, { "agent": "b" }] }] }).to_string();
    let args =
        ["run", &module("probe"), "-i", &input, "--id", "r", "--agents", &script, "--max-parallel", "1"];
    let mut child = place.spawn(args);
    let why = wfhost_tests::eventually("both calls", || {
        let ran = place.run(["why", "r"]);
        (ran.code() == Some(0) && ran.stdout().lines().count() >= 2).then(|| ran.stdout())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(why.contains("waits for its turn: 1 call of the run at a time"), "{why}");
}

#[test]
fn the_short_help_fits_on_a_screen() {
    let place = Place::new();
    let help = place.run(["-h"]).stdout();
    assert!(help.lines().count() <= 40, "{} lines: {help}", help.lines().count());
    for verb in ["serve", "approve", "Operate", "Examples:"] {
        assert!(help.contains(verb), "{verb}: {help}");
    }
    let long = place.run(["--help"]).stdout();
    assert!(long.contains("Explain what blocks a run"), "{long}");
}

#[test]
fn files_that_never_end_and_that_are_none_are_refused() {
    let place = Place::new();
    let (module, plugin) = (module("probe"), module("puppet"));
    let cases: [(&[&str], i32, &str); 9] = [
        (&["run", &module, "-i", "@/dev/zero"], 2, "WF0004"),
        (&["run", &module, "--agents", "/dev/zero"], 2, "WF0402"),
        (&["db", "import", "/dev/zero"], 2, "WF0004"),
        (&["inspect", "/dev/zero"], 2, "WF0110"),
        (&["run", "/dev/zero"], 2, "WF0110"),
        (&["plugin", "test", "/dev/zero"], 2, "WF1201"),
        (&["plugin", "test", &plugin, "--cases", "/dev/zero"], 2, "WF1212"),
        (&["ps", "--db", "/dev/zero"], 4, "WF0316"),
        (&["ps", "--db", &place.path("pipe").display().to_string()], 4, "WF0316"),
    ];
    assert!(Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    for (args, exit, code) in cases {
        let error = place.run(args).error(exit, &place);
        assert!(error.contains(code), "{args:?}: {error}");
    }
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let ran = place.wfhost(["run", &module, "-i", "-"]).stdin(zeros).output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8(ran.stderr).unwrap().contains("more than"));
}

#[test]
fn a_line_that_is_no_toml_is_shown_in_part() {
    let place = Place::new();
    let config = place.file("long.toml", format!("[agents\"{}\n", "x".repeat(100_000)));
    let error = place.run(["config", "show", "--config", &config]).error(2, &place);
    assert!(error.contains("WF0701") && error.len() < 2_000, "{}", error.len());
}
