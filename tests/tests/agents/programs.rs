//! The provider `command`: coding agents as programs that print what the real
//! ones print, and programs that go wrong.

use std::path::PathBuf;

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::{ask, calls, gave, program, quick, run, run_args, shell};

/// A program of this name on PATH. It keeps its arguments and its stdin, and
/// prints these lines.
pub fn agent(place: &Place, name: &str, lines: &[Value]) -> PathBuf {
    std::fs::create_dir_all(place.path("bin")).unwrap();
    let printed: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let dir = place.path("");
    let dir = dir.display();
    place.file("printed", printed);
    program(
        place,
        &format!("bin/{name}"),
        &format!(
            "#!/bin/sh\nfor a in \"$@\"; do echo \"$a\"; done > {dir}/argv\ncat > {dir}/stdin\ncat {dir}/printed\n"
        ),
    );
    place.path("bin")
}

/// Asks the agent that is known by this name, without any configuration.
pub fn asked(place: &Place, bin: &std::path::Path, name: &str, more: Value) -> Value {
    let mut request = json!({"prompt": "fix it", "providers": [name], "retry": quick(1)});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut command = place.wfhost(run_args(place, &ask(request), &[]));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone()
}

fn argv(place: &Place) -> Vec<String> {
    std::fs::read_to_string(place.path("argv")).unwrap().lines().map(str::to_owned).collect()
}

fn stdin(place: &Place) -> String {
    std::fs::read_to_string(place.path("stdin")).unwrap()
}

#[test]
fn claude_is_understood() {
    let place = Place::new();
    let text =
        json!([{"type": "text", "text": "Looking."}, {"type": "tool_use", "name": "Edit", "input": {}}]);
    let usage = json!({
        "input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 7,
    });
    let bin = agent(
        &place,
        "claude",
        &[
            json!({"type": "system", "subtype": "init", "session_id": "s-1", "model": "claude-x", "tools": []}),
            json!({"type": "assistant", "message": {"content": text}, "session_id": "s-1"}),
            json!({"type": "result", "subtype": "success", "is_error": false, "result": "Fixed.",
                   "session_id": "s-1", "total_cost_usd": 0.0123, "usage": usage}),
        ],
    );
    let reply =
        asked(&place, &bin, "claude", json!({"model": "opus", "session": "s-0", "options": {"fork": true}}));
    assert_eq!((reply["output"].as_str(), reply["session"].as_str()), (Some("Fixed."), Some("s-1")));
    assert_eq!(reply["model"], "claude-x");
    let usage = json!({"input_tokens": 115, "output_tokens": 7, "cached_tokens": 100, "cost_micros": 12_300});
    assert_eq!(reply["usage"], usage);
    let wanted = [
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--model=opus",
        "--resume=s-0",
        "--fork-session",
    ];
    assert_eq!(argv(&place), wanted);
    assert_eq!(stdin(&place), "fix it");
    let shown = place.run(["transcript", "r", "1"]).stdout();
    assert_eq!(shown, "Looking.\nuses Edit\n");
}

#[test]
fn codex_is_understood() {
    let place = Place::new();
    let item = |kind: &str, more: Value| {
        let mut item = json!({"id": "item_0", "type": kind});
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "item.completed", "item": item})
    };
    let bin = agent(
        &place,
        "codex",
        &[
            json!({"type": "thread.started", "thread_id": "th-1"}),
            json!({"type": "turn.started"}),
            item("reasoning", json!({"text": "hm"})),
            item("command_execution", json!({"command": "cargo test", "exit_code": 0})),
            item("agent_message", json!({"text": "First."})),
            item("agent_message", json!({"text": "Fixed."})),
            json!({"type": "turn.completed",
                   "usage": {"input_tokens": 30, "cached_input_tokens": 20, "output_tokens": 4}}),
        ],
    );
    let reply = asked(&place, &bin, "codex", json!({"session": "th-0"}));
    assert_eq!((reply["output"].as_str(), reply["session"].as_str()), (Some("Fixed."), Some("th-1")));
    let usage = json!({"input_tokens": 30, "output_tokens": 4, "cached_tokens": 20, "cost_micros": 0});
    assert_eq!(reply["usage"], usage);
    assert_eq!(argv(&place), ["exec", "--json", "--skip-git-repo-check", "resume", "--", "th-0", "-"]);
    assert_eq!(stdin(&place), "fix it");
}

#[test]
fn gemini_is_understood() {
    let place = Place::new();
    let said =
        |content: &str| json!({"type": "message", "role": "assistant", "content": content, "delta": true});
    let bin = agent(
        &place,
        "gemini",
        &[
            json!({"type": "init", "session_id": "g-1", "model": "gemini-x"}),
            json!({"type": "message", "role": "user", "content": "fix it"}),
            said("I look."),
            json!({"type": "tool_use", "tool_name": "read_file", "tool_id": "t"}),
            json!({"type": "tool_result", "tool_id": "t", "status": "success"}),
            said("Fix"),
            said("ed."),
            json!({"type": "result", "status": "success",
                   "stats": {"total_tokens": 50, "input_tokens": 40, "output_tokens": 10, "cached": 8}}),
        ],
    );
    let reply = asked(&place, &bin, "gemini", json!({}));
    assert_eq!((reply["output"].as_str(), reply["model"].as_str()), (Some("Fixed."), Some("gemini-x")));
    assert_eq!(reply["usage"]["cached_tokens"], 8);
    assert_eq!(argv(&place), ["--skip-trust", "--output-format", "stream-json"]);
}

#[test]
fn opencode_is_understood() {
    let place = Place::new();
    let event = |kind: &str, part: Value| json!({"type": kind, "sessionID": "ses_1", "part": part});
    let tokens = json!({"input": 20, "output": 5, "reasoning": 1, "cache": {"read": 4, "write": 2}});
    let bin = agent(
        &place,
        "opencode",
        &[
            event("step_start", json!({})),
            event("text", json!({"type": "text", "text": "Looking."})),
            event("tool_use", json!({"tool": "bash"})),
            event("step_finish", json!({"reason": "tool-calls", "cost": 0.001, "tokens": tokens})),
            event("step_start", json!({})),
            event("text", json!({"type": "text", "text": "Fixed."})),
            event("step_finish", json!({"reason": "stop", "cost": 0.002, "tokens": tokens})),
        ],
    );
    let reply = asked(&place, &bin, "opencode", json!({}));
    assert_eq!((reply["output"].as_str(), reply["session"].as_str()), (Some("Fixed."), Some("ses_1")));
    let usage = json!({"input_tokens": 52, "output_tokens": 12, "cached_tokens": 8, "cost_micros": 3_000});
    assert_eq!(reply["usage"], usage);
    assert_eq!(argv(&place), ["run", "--format", "json"]);
    assert_eq!(stdin(&place), "fix it");
}

#[test]
fn cursor_and_amp_write_what_claude_writes() {
    for (name, arguments) in [
        ("cursor-agent", vec!["-p", "--output-format", "stream-json", "--resume=s-0", "--", "fix it"]),
        ("amp", vec!["threads", "continue", "s-0", "--execute", "--stream-json"]),
    ] {
        let place = Place::new();
        let result = json!({
            "type": "result", "subtype": "success", "is_error": false, "result": "Fixed.", "session_id": "s-1",
        });
        let bin = agent(&place, name, &[result]);
        let reply = asked(&place, &bin, name, json!({"session": "s-0"}));
        assert_eq!(
            (reply["output"].as_str(), reply["session"].as_str()),
            (Some("Fixed."), Some("s-1")),
            "{name}"
        );
        assert_eq!(argv(&place), arguments, "{name}");
    }
}

#[test]
fn an_agent_that_wants_a_login_is_out() {
    let place = Place::new();
    let bin = agent(
        &place,
        "claude",
        &[
            json!({"type": "assistant", "error": "authentication_failed", "message": {"content": []}}),
            json!({"type": "result", "subtype": "success", "is_error": true, "result": "Invalid API key · Please run /login"}),
        ],
    );
    let failure = asked(&place, &bin, "claude", json!({}));
    assert_eq!(failure["failure"], "rejected");
    assert!(failure["message"].as_str().unwrap().contains("Please run /login"), "{failure}");
    let journal: String = place.journal("r").iter().map(Value::to_string).collect();
    assert!(journal.contains("\"auth\":true"), "{journal}");
}

#[test]
fn the_first_agent_on_path_is_the_default_and_is_named() {
    let place = Place::new();
    let result =
        json!({"type": "result", "subtype": "success", "is_error": false, "result": "hi", "session_id": "s"});
    let bin = agent(&place, "claude", &[result]);
    // The fixture needs its shell and cat.
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut command = place.wfhost(run_args(&place, &ask(json!({"prompt": "p"})), &[]));
    let output = command.env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Agent  claude, because `claude` is on PATH"), "{said}");
}

#[test]
fn without_any_provider_the_three_quickest_ways_are_named() {
    let place = Place::new();
    let mut command = place.wfhost(run_args(&place, &ask(json!({"prompt": "p"})), &[]));
    let output = command.env("PATH", place.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    for way in ["error[WF0403]", "ANTHROPIC_API_KEY=", "claude, codex", "--agent echo"] {
        assert!(said.contains(way), "{way}: {said}");
    }
    // Nothing is lost: it goes on as soon as somebody is there.
    let reply = gave(&place.run(["resume", "r", "--agent", "echo"]));
    assert_eq!(reply["output"], "p");
}

#[test]
fn a_program_gets_the_variables_that_it_is_to_have_and_no_others() {
    let place = Place::new();
    let path = program(&place, "env.sh", "#!/bin/sh\nenv\n");
    place.file(
        "wfhost.toml",
        format!("[providers.agent]\nkind = \"command\"\nargv = [{path:?}]\nenv = [\"SHOWN\"]\nset = {{ FIXED = \"1\" }}\n"),
    );
    let mut command =
        place.wfhost(run_args(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})), &[]));
    let output = command.env("SHOWN", "yes").env("HIDDEN", "no").output().unwrap();
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let env = reply[0]["output"].as_str().unwrap().to_owned();
    for shown in
        ["SHOWN=yes", "FIXED=1", "WFHOST_RUN=r", "WFHOST_STEP=1", "WFHOST_ATTEMPT=1", "WFHOST_KEY=wf-"]
    {
        assert!(env.contains(shown), "{shown}: {env}");
    }
    assert!(!env.contains("HIDDEN") && !env.contains("WFHOST_DB"), "{env}");
}

#[test]
fn arguments_are_filled_in() {
    let place = Place::new();
    let path = program(&place, "args.sh", "#!/bin/sh\nfor a in \"$@\"; do echo \"[$a]\"; done\n");
    place.file(
        "wfhost.toml",
        format!(
            "[providers.agent]\nkind = \"command\"\nargv = [{path:?}, \"--model=${{model}}\", \"${{session}}\", \"${{step}}\"]\n\
             prompt = \"argument\"\n"
        ),
    );
    let request = json!({"prompt": "a; rm -rf $HOME", "providers": ["agent"], "model": "m"});
    // No shell sees it.
    assert_eq!(gave(&run(&place, &ask(request), &[]))["output"], "[--model=m]\n[1]\n[a; rm -rf $HOME]");
}

#[test]
fn garbage_of_a_program_is_a_clear_failure_of_that_attempt() {
    let cases = [
        ("jsonl", "echo hello", "invalid-output", "line 1 of its output is not a JSON object: hello"),
        ("jsonl", "printf '{\"output\": 1'", "invalid-output", "line 1 of its output ends in the middle"),
        ("jsonl", "echo '{}'", "invalid-output", "ended without an answer"),
        (
            "jsonl",
            "echo '{\"output\":1,\"usage\":{\"input_tokens\":-1}}'",
            "invalid-output",
            "usage cannot be read",
        ),
        (
            "text",
            "echo dying >&2; exit 137",
            "failed",
            "exit code 137: killed, perhaps for lack of memory: dying",
        ),
        ("text", "kill -9 $$", "failed", "was killed, perhaps for lack of memory (signal 9)"),
        ("text", "printf 'caf\\351\\n'", "invalid-output", "not UTF-8 at byte 3"),
        ("text", "head -c 100000000 /dev/zero | tr '\\0' x", "invalid-output", "longer than 16 MiB"),
        ("text", "yes | head -c 100000000", "invalid-output", "exceeds the limit of 16 MiB"),
        ("jsonl", "echo '{\"error\":\"busy\",\"kind\":\"unavailable\"}'", "unavailable", "busy"),
    ];
    for (format, script, kind, said) in cases {
        let place = Place::new();
        shell(&place, format, script);
        let request = json!({"prompt": "p", "providers": ["agent"], "retry": quick(2)});
        let failure = gave(&run(&place, &ask(request), &[]));
        assert_eq!(failure["failure"], kind, "{script}: {failure}");
        assert!(failure["message"].as_str().unwrap().contains(said), "{script}: {failure}");
        assert_eq!(calls(&place).len(), 2, "{script}");
    }
}

#[test]
fn a_program_that_is_not_there_is_not_tried_again() {
    let place = Place::new();
    let other = program(&place, "other.sh", "#!/bin/sh\necho fine\n");
    place.file(
        "wfhost.toml",
        format!(
            "[providers.gone]\nkind = \"command\"\nargv = [\"wfhost-no-such-program\"]\n\
             [providers.other]\nkind = \"command\"\nargv = [{other:?}]\n"
        ),
    );
    let failure =
        gave(&run(&place, &ask(json!({"prompt": "p", "providers": ["gone"], "retry": quick(5)})), &[]));
    assert_eq!((failure["failure"].as_str(), failure["attempts"].as_u64()), (Some("unavailable"), Some(1)));
    assert!(failure["message"].as_str().unwrap().contains("the program was not found on PATH"), "{failure}");
    let request = json!({"prompt": "p", "providers": ["gone", "other"], "retry": quick(2)});
    assert_eq!(gave(&run(&place, &ask(request), &["--id", "s"]))["output"], "fine");
}

#[test]
fn what_a_program_leaves_behind_is_ended_with_the_call() {
    let place = Place::new();
    let pid = place.path("pid");
    // The child keeps stdout open.
    shell(&place, "text", &format!("sleep 600 & echo $! > {}; echo done", pid.display()));
    let reply = gave(&run(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})), &[]));
    assert_eq!(reply["output"], "done");
    let pid = std::fs::read_to_string(pid).unwrap();
    wfhost_tests::eventually("the end of the child", || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_turn_of_codex_counts_what_it_used_itself() {
    let place = Place::new();
    let turn = |total: u64| {
        [
            json!({"type": "thread.started", "thread_id": "th-1"}),
            json!({"type": "item.completed", "item": {"type": "agent_message", "text": "ok"}}),
            json!({"type": "turn.completed", "usage": {"input_tokens": total, "output_tokens": 10}}),
        ]
    };
    // A turn that another process saw: codex has recorded what it used.
    let day = place.path("codex/sessions/2026/11/24");
    std::fs::create_dir_all(&day).unwrap();
    let total = json!({"type": "event_msg", "payload": {"type": "token_count", "info": {
        "total_token_usage": {"input_tokens": 300, "output_tokens": 4}}}});
    std::fs::write(day.join("rollout-2026-11-24T10-00-00-th-1.jsonl"), format!("{total}\n")).unwrap();
    agent(&place, "codex", &turn(400));
    let bin = place.path("bin/codex").display().to_string();
    let home = place.path("codex").display().to_string();
    place.file(
        "wfhost.toml",
        format!("[providers.c]\nkind = \"command\"\npreset = \"codex\"\nargv = [{bin:?}]\nset = {{ CODEX_HOME = {home:?} }}\n"),
    );
    let call = |session: Option<&str>| json!({"agent_with": {"prompt": "p", "providers": ["c"], "session": session}});
    let ran = run(&place, &json!({"do": [call(Some("th-1")), call(Some("th-1")), call(None)]}), &[]);
    let used: Vec<_> = ran
        .ok_json()
        .as_array()
        .unwrap()
        .iter()
        .map(|reply| reply["usage"]["input_tokens"].clone())
        .collect();
    // The second one reports the same total: nothing was used. A new conversation begins at nothing.
    assert_eq!(used, [json!(100), json!(0), json!(400)]);
}

/// Two processes take turns at a conversation: each counts its own.
#[test]
fn a_turn_of_codex_does_not_count_one_that_another_process_had_in_between() {
    let place = Place::new();
    let day = place.path("codex/sessions/2026/11/24");
    std::fs::create_dir_all(&day).unwrap();
    let record = day.join("rollout-2026-11-24T10-00-00-th-1.jsonl").display().to_string();
    let total = json!({"type": "event_msg", "payload": {"type": "token_count", "info": {
        "total_token_usage": {"input_tokens": 700, "output_tokens": 10}}}});
    let done = |total: u64| {
        let started = json!({"type": "thread.started", "thread_id": "th-1"});
        let said = json!({"type": "item.completed", "item": {"type": "agent_message", "text": "ok"}});
        let usage = json!({"input_tokens": total, "output_tokens": 10});
        format!(
            "echo '{started}'\necho '{said}'\necho '{}'",
            json!({"type": "turn.completed", "usage": usage})
        )
    };
    // The turn of the other process comes behind the first one of this.
    let (first, second) = (done(400), done(750));
    let script = format!(
        "cat > /dev/null\nif [ -e {record} ]; then\n{second}\nelse\n{first}\necho '{total}' > {record}\nfi"
    );
    let bin = program(&place, "codex.sh", &format!("#!/bin/sh\n{script}\n"));
    let home = place.path("codex").display().to_string();
    place.file(
        "wfhost.toml",
        format!("[providers.c]\nkind = \"command\"\npreset = \"codex\"\nargv = [{bin:?}]\nset = {{ CODEX_HOME = {home:?} }}\n"),
    );
    let call = |session: Option<&str>| json!({"agent_with": {"prompt": "p", "providers": ["c"], "session": session}});
    let ran = run(&place, &json!({"do": [call(None), call(Some("th-1"))]}), &[]);
    let replies = ran.ok_json();
    assert_eq!([0, 1].map(|n| replies[n]["usage"]["input_tokens"].clone()), [json!(400), json!(50)]);
}

#[test]
fn codex_forks_into_a_conversation_of_its_own() {
    let place = Place::new();
    let bin = agent(
        &place,
        "codex",
        &[json!({"type": "item.completed", "item": {"type": "agent_message", "text": "ok"}})],
    );
    asked(&place, &bin, "codex", json!({"session": "th-0", "options": {"fork": true}}));
    assert_eq!(argv(&place), ["exec", "--json", "--skip-git-repo-check", "fork", "--", "th-0", "-"]);
}

#[test]
fn an_option_without_a_value_is_left_out() {
    let place = Place::new();
    let path = program(&place, "args.sh", "#!/bin/sh\nfor a in \"$@\"; do echo \"[$a]\"; done\n");
    place.file(
        "wfhost.toml",
        format!(
            "[providers.agent]\nkind = \"command\"\nargv = [{path:?}, \"-v\", \"--model\", \"${{model}}\", \"--session=${{session}}\", \"x\"]\n"
        ),
    );
    let request = |more: Value| {
        let mut request = json!({"prompt": "p", "providers": ["agent"]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask(request)
    };
    assert_eq!(gave(&run(&place, &request(json!({})), &[]))["output"], "[-v]\n[x]");
    let all = gave(&run(&place, &request(json!({"model": "m", "session": "s"})), &["--id", "s"]));
    assert_eq!(all["output"], "[-v]\n[--model]\n[m]\n[--session=s]\n[x]");
}

#[test]
fn an_exit_code_of_gemini_says_that_nobody_is_logged_in() {
    let place = Place::new();
    let bin = place.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    program(
        &place,
        "bin/gemini",
        "#!/bin/sh\necho 'Please set an Auth method' >&2\necho 'or specify GEMINI_API_KEY' >&2\nexit 41\n",
    );
    let failure = asked(&place, &bin, "gemini", json!({}));
    // All that it said is there.
    assert!(
        failure["message"].as_str().unwrap().contains("Please set an Auth method; or specify GEMINI_API_KEY"),
        "{failure}"
    );
    let journal: String = place.journal("r").iter().map(Value::to_string).collect();
    assert!(journal.contains("\"auth\":true"), "{journal}");
}

#[test]
fn variables_of_the_network_reach_coding_agents_only() {
    let place = Place::new();
    let bin = place.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let print = "#!/bin/sh\nprintf '{\"type\":\"result\",\"result\":\"%s %s\"}\\n' \"$HTTPS_PROXY\" \"$DISABLE_TELEMETRY\"\n";
    program(&place, "bin/claude", print);
    let mut command =
        place.wfhost(run_args(&place, &ask(json!({"prompt": "p", "providers": ["claude"]})), &[]));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output =
        command.env("PATH", path).env("HTTPS_PROXY", "http://proxy:1").env("DISABLE_TELEMETRY", "1").output();
    let reply: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(reply[0]["output"], "http://proxy:1 1");
}

/// The system only says that something is missing.
#[test]
fn what_keeps_a_program_from_being_started_is_named() {
    let place = Place::new();
    let failure = |config: String, more: Value| {
        place.file("wfhost.toml", format!("[providers.agent]\nkind = \"command\"\n{config}"));
        let mut request = json!({"prompt": "p", "providers": ["agent"], "retry": quick(1)});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let failure = gave(&run(&place, &ask(request), &["--id", &format!("r{}", config.len())]));
        failure["message"].as_str().unwrap().to_owned()
    };
    let script = program(&place, "script.sh", "#!/no/such/interpreter -x\n");
    let cases = [
        (
            "argv = [\"true\"]\ndirectory = \"/nonexist\"\n".to_owned(),
            "its directory /nonexist does not exist",
        ),
        (format!("argv = [{script:?}]\n"), "its interpreter `/no/such/interpreter` does not exist"),
        ("argv = [\"no-such-program\"]\n".to_owned(), "the program was not found on PATH"),
        ("argv = [\"./no-such\"]\n".to_owned(), "cannot be started: the program does not exist"),
    ];
    for (config, expected) in cases {
        let message = failure(config, json!({}));
        assert!(message.contains(expected), "{message}");
    }
    let message = failure("argv = [\"true\", \"${input}\"]\n".to_owned(), json!({"input": -1}));
    assert!(message.starts_with("the argument ${input} starts with a dash"), "{message}");
    let long = json!({"prompt": "p".repeat(70_000)});
    let message = failure("argv = [\"true\", \"${prompt}${prompt}\"]\n".to_owned(), long);
    assert!(message.contains("its arguments are too long: the limit for each is 128 KiB"), "{message}");
}

#[test]
fn an_answer_that_does_not_fit_as_a_whole_is_named_without_a_place() {
    let place = Place::new();
    shell(&place, "text", "echo '[1]'");
    let schema = json!({"type": "object"});
    let request = json!({"prompt": "p", "providers": ["agent"], "schema": schema, "retry": quick(1)});
    let message = gave(&run(&place, &ask(request), &[]))["message"].as_str().unwrap().to_owned();
    assert!(message.contains("corrections: ") && !message.contains(": :"), "{message}");
}

/// Nothing is paid for in vain because of it; it only cannot be continued.
#[test]
fn an_id_of_a_conversation_that_is_too_long_is_left_out() {
    let place = Place::new();
    let long = "s".repeat(300);
    let line = json!({"output": 1, "session": long, "model": long}).to_string();
    shell(&place, "jsonl", &format!("echo '{line}'"));
    let reply = gave(&run(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})), &[]));
    assert_eq!((&reply["output"], &reply["session"]), (&json!(1), &Value::Null), "{reply}");
    assert!(reply["model"].as_str().unwrap().len() < 300, "{reply}");
    let said = place.run(["transcript", "r", "1"]).stdout();
    assert!(said.contains("the conversation cannot be continued"), "{said}");
}
