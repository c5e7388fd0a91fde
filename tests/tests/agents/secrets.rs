//! A secret that is put into every place that a provider has shows nowhere.

use std::path::Path;

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::server::Server;
use crate::{config_args, program, quick, run_args};

/// In no text of ours, and with characters that are written in other ways in JSON and URLs.
const SECRET: &str = "sk-SECRET\"+/0815";

/// The secret in every form in which it could be written.
fn forms() -> [String; 3] {
    let json = Value::from(SECRET).to_string();
    [
        SECRET.to_owned(),
        json[1..json.len() - 1].to_owned(),
        SECRET.replace('"', "%22").replace('+', "%2B").replace('/', "%2F"),
    ]
}

#[track_caller]
fn check(what: &str, bytes: &[u8]) {
    for form in forms() {
        let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
        assert!(!found, "{what} has the secret: {}", String::from_utf8_lossy(bytes));
    }
}

fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn a_secret_shows_nowhere() {
    let place = Place::new();
    // A service that repeats its key in every way: in errors, streams, answers.
    let server = Server::start(|request, mut answer| {
        let key = request.headers.get("authorization").or(request.headers.get("x-api-key"));
        let key = key.cloned().unwrap_or_default();
        match (request.line.as_str(), request.number % 2) {
            (line, 0) if !line.contains("/http") => {
                let body = json!({"error": {"message": format!("bad luck with {key}"), "detail": key}});
                answer.with("500 Oops", "", &body.to_string());
            }
            (line, _) if line.contains("/v1/messages") => {
                answer.stream();
                answer.event(&json!({"type": "content_block_delta", "delta": {"text": format!("your key is {key}\n")}}));
                answer.event(&json!({"type": "message_stop"}));
            }
            (line, _) if line.contains("/chat/completions") => {
                answer.stream();
                answer.event(&json!({"choices": [{"delta": {"content": "your key is "}}]}));
                answer.event(&json!({"choices": [{"delta": {"content": key}, "finish_reason": "stop"}]}));
                answer.raw("data: [DONE]\n\n");
            }
            _ => answer.json(json!({"key": key, key.clone(): 1, "seen": [request.body, key]})),
        }
    });
    let argv = place.path("argv");
    let said = place.path("said");
    // The program gets it, and gives it away.
    let leaking = program(
        &place,
        "leaking.sh",
        &format!(
            "#!/bin/sh\ncat /proc/$$/cmdline >> {}\necho \"stdout $TOOL_KEY\"\necho \"stderr $TOOL_KEY\" >&2\n\
             echo \"$TOOL_KEY\" | wc -c > {}\nif [ \"$WFHOST_ATTEMPT\" = 1 ]; then echo \"failed with $TOOL_KEY\" >&2; exit 1; fi\n",
            argv.display(),
            said.display()
        ),
    );
    let lines = program(
        &place,
        "lines.py",
        "#!/usr/bin/env python3\nimport json, os\nkey = os.environ['TOOL_KEY']\n\
         print(json.dumps({'line': key, 'progress': key, 'heartbeat': {key: key}}))\n\
         print(json.dumps({'output': {'k': key}, 'session': key, 'model': key}))\n",
    );
    let server_program = program(
        &place,
        "mcp.py",
        "#!/usr/bin/env python3\nimport json, os, sys\nkey = os.environ['TOOL_KEY']\n\
         for line in sys.stdin:\n  m = json.loads(line)\n  if 'id' in m:\n    \
         print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': {'content': [{'type': 'text', 'text': key}]}}), flush=True)\n",
    );
    place.file("key", SECRET);
    let url = &server.url;
    let config = format!(
        "[providers.o]\nkind = \"openai\"\nbase_url = \"{url}\"\napi_key_env = \"TEST_KEY\"\nmodel = \"m\"\n\
         [providers.a]\nkind = \"anthropic\"\nbase_url = \"{url}\"\napi_key_file = \"key\"\nmodel = \"m\"\n\
         [providers.h]\nkind = \"http\"\nurl = \"{url}/http\"\napi_key_env = \"TEST_KEY\"\n\
         [providers.c]\nkind = \"command\"\nargv = [{leaking:?}]\nsecrets = {{ TOOL_KEY = {{ env = \"TEST_KEY\" }} }}\n\
         [providers.j]\nkind = \"command\"\nargv = [{lines:?}]\nformat = \"jsonl\"\nsecrets = {{ TOOL_KEY = {{ file = \"key\" }} }}\n\
         [providers.m]\nkind = \"mcp\"\nargv = [{server_program:?}]\ntool = \"t\"\nsecrets = {{ TOOL_KEY = {{ env = \"TEST_KEY\" }} }}\n",
    );
    place.file("wfhost.toml", config);
    let call =
        |provider: &str| json!({"agent_with": {"prompt": "p", "providers": [provider], "retry": quick(2)}});
    let calls: Vec<_> = ["o", "a", "h", "c", "j", "m"].into_iter().map(call).collect();
    let run = |args: Vec<String>| {
        let output = place.wfhost(&args).env("TEST_KEY", SECRET).output().unwrap();
        check(&format!("stdout of {args:?}"), &output.stdout);
        check(&format!("stderr of {args:?}"), &output.stderr);
        output
    };
    let output = run(run_args(&place, &json!({"do": calls}), &["-v"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Each of them did give it away.
    let outputs: Vec<_> =
        results.as_array().unwrap().iter().map(|reply| reply["output"].to_string()).collect();
    assert_eq!(outputs.len(), 6);
    for (output, provider) in outputs.iter().zip(["o", "a", "h", "c", "j", "m"]) {
        assert!(output.contains("[redacted]"), "{provider}: {output}");
    }
    assert_eq!(std::fs::read_to_string(said).unwrap().trim(), (SECRET.len() + 1).to_string());
    for args in [
        vec!["show", "r", "--io"],
        vec!["show", "r", "-o", "json"],
        vec!["journal", "r"],
        vec!["journal", "r", "-o", "jsonl"],
        vec!["logs", "r"],
        vec!["events", "r"],
        vec!["transcript", "r"],
        vec!["transcript", "r", "--raw"],
        vec!["transcript", "r", "-o", "jsonl"],
        vec!["config", "show"],
        vec!["doctor"],
        vec!["db", "export", "r"],
    ] {
        run(args.into_iter().map(str::to_owned).chain(config_args(&place)).collect());
    }
    // On disk it is in the file of the key only.
    let mut found = Vec::new();
    files(&place.path(""), &mut found);
    assert!(place.on_a_server() || found.iter().any(|path| path.ends_with("wfhost.db")));
    for path in found.iter().filter(|path| !path.ends_with("key")) {
        check(&path.display().to_string(), &std::fs::read(path).unwrap());
    }
}

#[test]
fn a_secret_that_is_split_over_two_lines_is_neither_shown_nor_stored() {
    const KEY: &str = "sk-0123456789abcdefgh";
    let place = Place::new();
    let lines = program(
        &place,
        "lines.sh",
        "#!/bin/sh\necho '{\"line\":\"begins\"}'\necho '{\"line\":\"the key sk-012345\"}'\nsleep 0.2\n\
         echo '{\"line\":\"6789abcdefgh is it\"}'\necho '{\"line\":\"goes on\",\"output\":1}'\n",
    );
    place.file(
        "wfhost.toml",
        format!(
            "[providers.j]\nkind = \"command\"\nargv = [{lines:?}]\nformat = \"jsonl\"\n\
             secrets = {{ TOOL_KEY = {{ env = \"TEST_KEY\" }} }}\n"
        ),
    );
    let input = json!({"do": [{"agent_with": {"prompt": "p", "providers": ["j"]}}]});
    let ran = place.wfhost(run_args(&place, &input, &["-v"])).env("TEST_KEY", KEY).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let mut seen = [ran.stdout, ran.stderr].concat();
    for more in [&["-o", "json"][..], &["--raw"]] {
        seen.extend(place.run(["transcript", "r"].iter().chain(more)).0.stdout);
    }
    for name in ["wfhost.db", "wfhost.db-wal"] {
        seen.extend(std::fs::read(place.path(name)).unwrap_or_default());
    }
    let seen = String::from_utf8_lossy(&seen);
    assert!(!seen.contains("sk-012345") && !seen.contains("6789abcdefgh"), "{seen}");
    assert!(seen.contains("begins") && seen.contains("goes on") && seen.contains("[redacted]"), "{seen}");
}
