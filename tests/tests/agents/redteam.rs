//! Guests, agents and servers that mean harm. Each case says what it tried, and
//! the test what stopped it.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, module};

use crate::server::Server;
use crate::{ask, calls, gave, program, quick, run, run_args, shell, wfhost};

const KEY: &str = "sk-0123456789-abcdefghij";

fn request(provider: &str, more: Value) -> Value {
    let mut request = json!({"prompt": "p", "providers": [provider], "retry": quick(1)});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask(request)
}

#[track_caller]
fn rejected(failure: &Value, why: &str) {
    assert_eq!(failure["failure"], "rejected", "{failure}");
    assert!(failure["message"].as_str().unwrap().contains(why), "{failure}");
}

/// Tried: a model or a session that the agent's program takes for an option, like
/// `--yolo`. Stopped by: words of guests may not begin with a dash or have control
/// characters; the program is not started.
#[test]
fn a_guest_sets_no_option_of_a_coding_agent() {
    for preset in ["claude", "codex", "gemini", "opencode", "cursor-agent", "amp"] {
        for (name, word) in [
            ("model", "--dangerously-skip-permissions"),
            ("session", "--dangerously-bypass-approvals-and-sandbox"),
            ("session", " --yolo"),
            ("model", "x\n--yolo"),
            ("model", ""),
        ] {
            let place = Place::new();
            let bin = place.path("bin");
            std::fs::create_dir_all(&bin).unwrap();
            let started = place.path("started");
            program(&place, &format!("bin/{preset}"), &format!("#!/bin/sh\ntouch {}\n", started.display()));
            let mut command = place.wfhost(run_args(&place, &request(preset, json!({name: word})), &[]));
            let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
            let output = command.env("PATH", path).output().unwrap();
            let failure = serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone();
            rejected(&failure, "is invalid");
            assert!(!started.exists(), "{preset} {name} {word:?}");
        }
    }
}

/// Tried: a prompt that is an option of the user's own program. Stopped by: an
/// argument of a guest's text that begins with a dash is refused unless `--` stands before it.
#[test]
fn a_prompt_is_no_option_of_a_program() {
    let place = Place::new();
    let path = program(&place, "args.sh", "#!/bin/sh\nfor a in \"$@\"; do echo \"[$a]\"; done\n");
    let provider = |name: &str, argv: &str, more: &str| {
        format!("[providers.{name}]\nkind = \"command\"\nargv = [{path:?}{argv}]\n{more}")
    };
    place.file(
        "wfhost.toml",
        [
            provider("last", "", "prompt = \"argument\"\n"),
            provider("inside", ", \"${prompt}\"", ""),
            provider("behind", ", \"--\", \"${prompt}\"", ""),
            provider("value", ", \"--text=${prompt}\"", ""),
        ]
        .concat(),
    );
    for (provider, expected) in [
        ("last", None),
        ("inside", None),
        ("behind", Some("[--]\n[--exec=evil]")),
        ("value", Some("[--text=--exec=evil]")),
    ] {
        let answer =
            gave(&run(&place, &request(provider, json!({"prompt": "--exec=evil"})), &["--id", provider]));
        match expected {
            Some(expected) => assert_eq!(answer["output"], expected),
            None => rejected(&answer, "starts with a dash"),
        }
    }
}

/// Tried: tools of the service (network out of the sandbox), another conversation
/// and a dearer model by the options of a call. Stopped by: an allow list; nothing
/// is sent.
#[test]
fn a_guest_hands_a_model_no_tools() {
    let server = Server::start(|_, answer| {
        answer.json(json!({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
                           "content": [{"type": "text", "text": "hi"}]}));
    });
    let place = Place::new();
    let url = &server.url;
    let provider = |name: &str, kind: &str, more: &str| {
        format!(
            "[providers.{name}]\nkind = {kind:?}\nbase_url = {url:?}\napi_key = false\nmodel = \"m\"\nstream = false\n{more}"
        )
    };
    place.file(
        "wfhost.toml",
        [
            provider("o", "openai", ""),
            provider("r", "openai", "api = \"responses\"\n"),
            provider("a", "anthropic", ""),
            provider("free", "openai", "call_options = [\"temperature\", \"tools\"]\n"),
        ]
        .concat(),
    );
    let tools = json!([{"type": "mcp", "server_url": "https://evil.example"}]);
    for (index, provider) in ["o", "r", "a"].iter().enumerate() {
        for (name, value) in [
            ("tools", tools.clone()),
            ("model", json!("dear")),
            ("messages", json!([])),
            ("input", json!("x")),
            ("max_tokens", json!(1_000_000)),
            ("previous_response_id", json!("resp_of_others")),
            ("stream_options", json!({})),
        ] {
            let id = format!("{provider}{index}{name}");
            let failure =
                gave(&run(&place, &request(provider, json!({"options": {name: value}})), &["--id", &id]));
            rejected(&failure, &format!("must not set the option `{name}`"));
        }
    }
    assert_eq!(server.requests().len(), 0);
    // What shapes the answer may be said, and more if the user wants it.
    for (provider, options) in [("o", json!({"temperature": 0.5})), ("free", json!({"tools": tools}))] {
        let id = format!("{provider}-fine");
        assert_eq!(
            gave(&run(&place, &request(provider, json!({"options": options})), &["--id", &id]))["output"],
            "hi"
        );
        let sent = server.requests().last().unwrap().body.clone();
        for (name, value) in options.as_object().unwrap() {
            assert_eq!(&sent[name], value);
        }
    }
}

/// Tried: another tool of a server than the one that is configured. Stopped by:
/// `tool` is the only one unless `tools` names more; the server is not started.
#[test]
fn a_guest_uses_no_other_tool_of_a_server() {
    let place = Place::new();
    let started = place.path("started");
    let server = program(&place, "server.sh", &format!("#!/bin/sh\ntouch {}\n", started.display()));
    place.file(
        "wfhost.toml",
        format!("[providers.files]\nkind = \"mcp\"\nargv = [{server:?}]\ntool = \"read\"\n"),
    );
    let failure = gave(&run(&place, &request("files", json!({"options": {"tool": "write"}})), &[]));
    rejected(&failure, "may not use the tool `write`");
    assert!(!started.exists());
}

/// Tried: an agent starts a process that leaves its group, session, parent and
/// environment, ignores SIGTERM and holds the pipes. Stopped by: the supervisor is
/// a subreaper, and kills what is left after the grace.
#[test]
fn an_agent_leaves_no_daemon_behind() {
    let place = Place::new();
    let pid = place.path("pid");
    let daemon = format!(
        "env -i PATH=\"$PATH\" setsid sh -c '(trap \"\" TERM HUP INT; echo $$ > {}; while :; do sleep 0.1; done) & exit' &",
        pid.display()
    );
    shell(
        &place,
        "text",
        &format!("{daemon}\nwait\nwhile [ ! -s {} ]; do sleep 0.05; done\necho done", pid.display()),
    );
    assert_eq!(gave(&run(&place, &request("agent", json!({})), &[]))["output"], "done");
    let token = pid.display().to_string();
    eventually("the end of the daemon", || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let command =
            |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let lives = all.map(command).any(|line| String::from_utf8_lossy(&line).contains(&token));
        (!lives).then_some(())
    });
}

/// Tried: an agent's words (`401`, `authentication`, `unauthorized`) put it out for
/// the whole run. Stopped by: only fields that mean it do.
#[test]
fn words_of_an_agent_do_not_put_it_out() {
    let place = Place::new();
    shell(&place, "text", "echo 'src/app.ts:401: authentication unauthorized, please log in' >&2\nexit 1");
    let calls_of = |_: ()| json!({"agent_with": {"prompt": "p", "providers": ["agent"], "retry": quick(1)}});
    let ran = run(&place, &json!({"do": [calls_of(()), calls_of(())]}), &[]);
    for failure in ran.ok_json().as_array().unwrap() {
        assert_eq!(failure["failure"], "failed");
    }
    assert_eq!(calls(&place).len(), 2);
}

/// Tried: an agent writes the key that it was given into files of its workspace,
/// their names, and stderr where a long line is cut. Stopped by: all that is
/// recorded is redacted, diffs and names of files included.
#[test]
fn a_key_in_a_workspace_reaches_no_record() {
    let place = Place::new();
    let path = program(
        &place,
        "agent.sh",
        "#!/bin/sh\necho \"KEY=$TOOL_KEY\" > .env\ntouch \"name-$TOOL_KEY\"\n\
         head -c 65530 /dev/zero | tr '\\0' x >&2\necho \" $TOOL_KEY\" >&2\necho done\n",
    );
    place.file(
        "wfhost.toml",
        format!(
            "[providers.agent]\nkind = \"command\"\nargv = [{path:?}]\nsecrets = {{ TOOL_KEY = {{ env = \"TEST_KEY\" }} }}\n\
             [workspaces.w]\nkind = \"scratch\"\n"
        ),
    );
    let mut command = place.wfhost(run_args(&place, &request("agent", json!({"workspace": "w"})), &[]));
    let output = command.env("TEST_KEY", KEY).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let changes = place.show("r")["steps"][0]["output"]["changes"].clone();
    assert_eq!(changes["files"], json!(["A .env", "A name-[redacted]"]), "{changes}");
    let diff = wfhost(&place, &["transcript", "r", "1", "--diff"]).stdout();
    assert!(diff.contains("+KEY=[redacted]"), "{diff}");
    for file in ["wfhost.db", "wfhost.db-wal"] {
        let bytes = std::fs::read(place.path(file)).unwrap_or_default();
        // Not its beginning either.
        assert!(!bytes.windows(13).any(|window| window == &KEY.as_bytes()[..13]), "{file}");
    }
}

/// Tried: escape sequences in what an agent says about its failure. Stopped by:
/// they are taken out of texts of programs.
#[test]
fn an_agent_s_failure_has_no_escape_sequences() {
    let place = Place::new();
    shell(&place, "text", "printf '\\033]0;pwned\\007\\033[31mno\\033[0m disk\\n' >&2\nexit 1");
    let failure = gave(&run(&place, &request("agent", json!({})), &[]));
    assert!(failure["message"].as_str().unwrap().ends_with("ended with exit code 1: no disk"), "{failure}");
    assert_eq!(place.run(["transcript", "r", "1"]).stdout(), "no disk\n");
}

/// Tried: a word that stands in for a key, as local servers want one, makes answers
/// unreadable. Stopped by: only what could be a key is taken for one.
#[test]
fn an_answer_that_holds_no_secret_stays_as_it_is() {
    let place = Place::new();
    shell(&place, "text", "echo '{\"status\": \"none\", \"note\": \"test ollama\"}'");
    let mut command = place.wfhost(run_args(&place, &request("agent", json!({})), &[]));
    let output = command.env("OPENAI_API_KEY", "none").env("ANTHROPIC_API_KEY", "test").output().unwrap();
    let reply = serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone();
    assert_eq!(reply["output"], "{\"status\": \"none\", \"note\": \"test ollama\"}");
    // A long one is another provider's: this one was not given it.
    place.file("calls", "");
    shell(&place, "text", &format!("echo {KEY}"));
    let mut command = place.wfhost(run_args(&place, &request("agent", json!({})), &["--id", "s"]));
    let output = command.env("OPENAI_API_KEY", KEY).output().unwrap();
    let reply = serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone();
    assert_eq!(reply["output"], KEY);
}

/// Tried: a server forgets its session whenever it is asked, for ever. Stopped by:
/// a bound of sessions for a call.
#[test]
fn a_server_that_forgets_every_session_is_given_up() {
    let server = Server::start(|request, answer| match request.body["method"].as_str() {
        Some("initialize") => {
            let result = json!({"jsonrpc": "2.0", "id": request.body["id"], "result": {"protocolVersion": "2025-06-18"}});
            answer.with("200 OK", "mcp-session-id: s\r\n", &result.to_string());
        }
        _ => answer.with("404 Not Found", "", "{}"),
    });
    let place = Place::new();
    place.file(
        "wfhost.toml",
        format!("[providers.m]\nkind = \"mcp\"\nurl = {:?}\ntool = \"t\"\n", server.url),
    );
    let failure = gave(&run(&place, &request("m", json!({})), &[]));
    assert_eq!(failure["failure"], "unavailable", "{failure}");
    assert_eq!(server.requests().len(), 6);
}

/// Tried: the recorded script of an imported run names a file of the victim as its
/// record of calls. Stopped by: an imported run has no script, nor has what begins from it.
#[test]
fn the_script_of_an_imported_run_is_not_opened() {
    let (theirs, mine) = (Place::new(), Place::new());
    let script = theirs.file("s.json", r#"{"rules": [{"match": ".*", "reply": "ok"}]}"#);
    let input = json!({ "do": [{ "sleep": 1 }, { "agent": "line\nfor the victim" }] }).to_string();
    let args = ["run", &module("probe"), "-i", &input, "--agents", &script, "--id", "gift", "-d"];
    assert_eq!(theirs.run(args).code(), Some(0));
    let gift = theirs.path("gift.wf").display().to_string();
    assert_eq!(theirs.run(["db", "export", "gift", &gift]).code(), Some(0));
    let profile = mine.file("profile", "");
    let rules = json!({ "calls": profile, "rules": [{ "match": ".*", "reply": "ok" }] });
    theirs.file("s.json", rules.to_string());
    assert_eq!(mine.run(["db", "import", &gift]).code(), Some(0));
    let forked = mine.run(["fork", "gift", "--at", "1", "--id", "forked"]);
    for (id, ran) in [("gift", mine.run(["resume", "gift"])), ("forked", forked)] {
        assert_eq!(ran.code(), Some(4), "{id}: {}", ran.stderr());
        assert!(
            ran.stderr().contains("WF0401") && ran.stderr().contains("--agents FILE"),
            "{}",
            ran.stderr()
        );
    }
    assert_eq!(std::fs::read_to_string(&profile).unwrap(), "");
    // With one that the user names it goes on.
    let own = mine.file("own.json", r#"{"rules": [{"match": ".*", "reply": "mine"}]}"#);
    assert_eq!(mine.run(["resume", "gift", "--agents", &own]).ok_json()[1], "mine");
}

/// Tried: a repository within the project has a filter for its files, a program, by its
/// configuration or by one that it includes. Stopped by: git runs no programs that a
/// repository names.
#[test]
fn a_repository_s_filters_do_not_run() {
    let place = Place::new();
    let repository = place.path("evil");
    std::fs::create_dir(&repository).unwrap();
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(args);
        assert!(git.current_dir(&repository).output().unwrap().status.success(), "{args:?}");
    };
    git(&["init", "-q"]);
    std::fs::write(repository.join("a.txt"), "one\n").unwrap();
    std::fs::write(repository.join(".gitattributes"), "*.txt filter=x=y\n*.toml filter=z\n").unwrap();
    std::fs::write(repository.join("b.toml"), "two\n").unwrap();
    git(&["add", "."]);
    git(&["commit", "-qm", "first"]);
    let mark = place.path("pwned").display().to_string();
    for kind in ["smudge", "clean"] {
        git(&["config", &format!("filter.x=y.{kind}"), &format!("touch {mark}; cat")]);
    }
    let included =
        format!("[filter \"z\"]\n\tsmudge = touch {mark}; cat\n\tprocess = touch {mark}\n\trequired\n");
    std::fs::write(repository.join(".git/more"), included).unwrap();
    // Only of the work tree, whose directory is below `worktrees`.
    git(&["config", "includeIf.gitdir:**/worktrees/**.path", "more"]);
    place.file("wfhost.toml", "[workspaces.w]\nkind = \"worktree\"\nrepository = \"evil\"\n");
    let ran = run(&place, &request("echo", json!({ "workspace": "w" })), &[]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!(!place.path("pwned").exists());
    // Below the identity of the database.
    let mut databases = std::fs::read_dir(place.path("data/wfhost/workspaces")).unwrap();
    let trees = databases.next().unwrap().unwrap().path().join("r/w");
    assert_eq!(std::fs::read_to_string(trees.join("a.txt")).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(trees.join("b.toml")).unwrap(), "two\n");
}
